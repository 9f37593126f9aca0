// SPDX-License-Identifier: Apache-2.0
// godwit info of a server that runs: what its agent says of it. All of it is hostile
// text; table cells are cleaned of what a terminal would obey.
#include "cmd/session.h"

static void add_server(const struct machine *m, struct buf *out)
{
    const json_t *system = json_object_get(m->guest, "system");
    const json_t *agent = json_object_get(m->guest, "agent");
    AUTO(table_done) struct table t = {.n_columns = 2};
    char memory[16];
    table_cell(&t, "server");
    table_cellf(&t, "%s: %u CPU%s, %s, %s, %zu NIC%s", m->name, m->cpus,
                m->cpus == 1 ? "" : "s", str_bytes(m->memory, memory),
                m->firmware == FIRMWARE_UEFI ? "UEFI" : "BIOS", m->n_nics,
                m->n_nics == 1 ? "" : "s");
    table_cell(&t, "system");
    table_cell(&t, json_text_at(system, "os"));
    table_cell(&t, "kernel");
    table_cell(&t, json_text_at(system, "kernel"));
    table_cell(&t, "hardware");
    table_cellf(&t, "%s %s",
                json_text_at(system, "vendor") ? json_text_at(system, "vendor") : "",
                json_text_at(system, "product") ? json_text_at(system, "product") : "");
    table_cell(&t, "agent");
    table_cellf(&t, "%s, %s",
                json_text_at(agent, "agent") ? json_text_at(agent, "agent") : "?",
                json_text_at(agent, "fenced") ? "fenced: its copy may run"
                : json_u64_at(agent, "job")   ? "tracks changes"
                                              : "idle");
    if (json_u64_at(agent, "job")) {
        table_cell(&t, "migrated by");
        table_cellf(&t, "job %llu of %s, tracker %s",
                    (unsigned long long)json_u64_at(agent, "job"),
                    json_text_at(agent, "owner") ? json_text_at(agent, "owner") : "?",
                    json_text_at(agent, "tracker") ? json_text_at(agent, "tracker")
                                                   : "none");
    }
    table_print(&t, out);
}

static void head(struct table *t, const char *const *names)
{
    for (size_t i = 0; i < t->n_columns; i++)
        table_cell(t, names[i]);
}

static void add_disks(const struct machine *m, struct buf *out)
{
    static const char *const names[] = {"disk", "size", "bus", "model", "serial"};
    AUTO(table_done) struct table t = {.n_columns = ARRAY_LEN(names), .right = " r   "};
    size_t i;
    json_t *disk;
    head(&t, names);
    json_array_foreach(json_object_get(m->guest, "disks"), i, disk)
    {
        char size[16];
        table_cell(&t, json_text_at(disk, "name"));
        table_cell(&t, str_bytes(json_u64_at(disk, "size"), size));
        table_cell(&t, json_text_at(disk, "bus"));
        table_cell(&t, json_text_at(disk, "model"));
        table_cell(&t, json_text_at(disk, "serial"));
    }
    buf_str(out, "\n");
    table_print(&t, out);
}

static void add_volumes(const struct machine *m, struct buf *out)
{
    static const char *const names[] = {"mounted", "type", "size",
                                        "used",    "from", "at the cutover"};
    AUTO(table_done) struct table t = {.n_columns = ARRAY_LEN(names), .right = "  rr  "};
    size_t i;
    json_t *volume;
    head(&t, names);
    json_array_foreach(json_object_get(m->guest, "volumes"), i, volume)
    {
        char size[16], used[16];
        table_cell(&t, json_text_at(volume, "where"));
        table_cell(&t, json_text_at(volume, "type"));
        table_cell(&t, str_bytes(json_u64_at(volume, "size"), size));
        table_cell(&t, str_bytes(json_u64_at(volume, "used"), used));
        table_cell(&t, json_text_at(volume, "source"));
        table_cell(&t, json_is_true(json_object_get(volume, "read_only")) ? "read-only"
                       : json_is_true(json_object_get(volume, "can_freeze"))
                           ? "frozen"
                           : "synced: this type cannot be frozen");
    }
    buf_str(out, "\n");
    table_print(&t, out);
}

static void add_network(const struct machine *m, struct buf *out)
{
    AUTO(table_done) struct table t = {.n_columns = 2};
    AUTO(buf_done) struct buf ports = BUF_INIT(MIB);
    size_t i;
    json_t *j;
    json_array_foreach(json_object_get(m->guest, "addresses"), i, j)
    {
        table_cell(&t, "address");
        table_cellf(&t, "%s %s",
                    json_text_at(j, "interface") ? json_text_at(j, "interface") : "?",
                    json_text_at(j, "address") ? json_text_at(j, "address") : "?");
    }
    json_array_foreach(json_object_get(m->guest, "listening"), i, j)
        buf_printf(&ports, "%s%lld", i ? ", " : "", (long long)json_integer_value(j));
    table_cell(&t, "listening on");
    table_cell(&t, ports.len ? ports.data : "no port");
    buf_str(out, "\n");
    table_print(&t, out);
}

int info_running(const struct globals *g, const struct machine *m, struct err *e)
{
    if (g->json) {
        json_t *machine = NULL;
        if (machine_json(m, &machine, e))
            return -1;
        print_json(json_pack("{s:o}", "machine", machine));
        return 0;
    }
    AUTO(buf_done) struct buf out = BUF_INIT(16 * MIB);
    add_server(m, &out);
    add_disks(m, &out);
    add_volumes(m, &out);
    add_network(m, &out);
    print_buf(&out);
    return 0;
}
