// SPDX-License-Identifier: Apache-2.0
// godwit info: what a disk or a machine is, without changing it: format, sizes,
// partitions and file systems with what is in use, and the guest. The guest's files are
// read by the appliance, from disks whose writes are thrown away.
#include "cmd/session.h"

struct info_options {
    bool no_guest, allow_path;
    const char *snapshot, *format, *root;
    struct strings luks_keys;
};

static const struct opt options[] = {
    {.name = "no-guest",
     .type = OPT_FLAG,
     .help = "do not start the appliance to look at the guest's files",
     .offset = offsetof(struct info_options, no_guest)},
    {.name = "format",
     .type = OPT_STRING,
     .arg = "FORMAT",
     .help = "QEMU's name of the image's format; default: found out",
     .offset = offsetof(struct info_options, format)},
    {.name = "snapshot",
     .type = OPT_STRING,
     .arg = "NAME",
     .help = "an internal snapshot of the image instead of its current state",
     .offset = offsetof(struct info_options, snapshot)},
    {.name = "allow-path",
     .type = OPT_FLAG,
     .help = "files of the source may lie outside its folder",
     .offset = offsetof(struct info_options, allow_path)},
    {.name = "luks-key",
     .type = OPT_STRINGS,
     .arg = "[UUID=]FILE",
     .help = "file with the key of an encrypted volume; may be repeated",
     .offset = offsetof(struct info_options, luks_keys)},
    {.name = "root",
     .type = OPT_STRING,
     .arg = "UUID",
     .help = "root file system to look at where there are several",
     .offset = offsetof(struct info_options, root)},
    {0},
};

struct info {
    struct source source;
    struct allocation allocation;
    json_t *guest;
    char *no_guest_because;
};

static void info_done(struct info *i)
{
    allocation_done(&i->allocation);
    source_done(&i->source);
    json_decref(i->guest);
    free(i->no_guest_because);
}
__attribute__((unused)) static inline void auto_info_done(struct info *i)
{
    info_done(i);
}

static int look_at_guest(const struct globals *g, const struct info_options *o,
                         struct info *i, struct err *e)
{
    AUTO(str_free) char *state = session_state_dir(g);
    struct helper_options helper = {
        .accel = session_accel(g), .state_dir = state, .luks = o->luks_keys.n > 0};
    AUTO(free) void *memory = NULL;
    struct vm_disk *disks = NULL;
    if (source_check(&i->source, &i->allocation, o->luks_keys.n > 0, e) ||
        source_vm_disks(&i->source, &disks, e))
        return -1;
    memory = disks;
    AUTO(appliance_end) struct appliance *appliance = NULL;
    struct helper_request request = {.call = "inspect",
                                     .disks = disks,
                                     .n_disks = i->source.n_disks,
                                     .machine = i->source.machine,
                                     .luks_key_files = &o->luks_keys,
                                     .root = o->root};
    if (o->snapshot)
        return err_set(e, ERR_REFUSED, "the files of a snapshot are not looked at");
    return helper_begin(&helper, &appliance, e) ||
                   helper_call(appliance, &request, &i->guest, e)
               ? -1
               : 0;
}

// --- output

static json_t *disk_json(const struct info *i, size_t n)
{
    const struct source_disk *d = &i->source.disks[n];
    uint64_t used = extents_bytes(&i->allocation.used[n], EXTENT_DATA);
    json_t *files = json_array(), *snapshots = json_array();
    for (size_t k = 0; k < d->info.files.n; k++)
        json_array_append_new(files, json_string(d->info.files.v[k]));
    for (size_t k = 0; k < d->info.snapshots.n; k++)
        json_array_append_new(snapshots, json_string(d->info.snapshots.v[k]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:b, s:o, s:o}", "path",
                     i->source.machine->disks[n].path, "format", d->info.format, "size",
                     (json_int_t)d->disk->size, "used", (json_int_t)used, "file_bytes",
                     (json_int_t)d->info.file_bytes, "sector_size",
                     (int)d->disk->sector_size, "compressed", (int)d->info.compressed,
                     "files", files, "snapshots", snapshots);
}

static int print_as_json(const struct info *i, struct err *e)
{
    json_t *machine = NULL;
    if (machine_json(i->source.machine, &machine, e))
        return -1;
    json_t *disks = json_array();
    for (size_t n = 0; n < i->source.n_disks; n++)
        json_array_append_new(disks, disk_json(i, n));
    json_t *all = json_pack("{s:o, s:o, s:o, s:O?, s:s?}", "machine", machine, "disks",
                            disks, "allocation", allocation_json(&i->allocation), "guest",
                            i->guest, "guest_error", i->no_guest_because);
    print_json(all);
    return 0;
}

static unsigned depth_of(const struct allocation *a, size_t i)
{
    unsigned depth = 0;
    int parent = a->volumes.v[i].parent;
    // A parent always comes before its child: this ends.
    while (parent >= 0 && (size_t)parent < i && depth < 8) {
        i = (size_t)parent;
        parent = a->volumes.v[i].parent;
        depth++;
    }
    return depth;
}

static void add_volumes(const struct allocation *a, struct buf *out)
{
    AUTO(table_done) struct table t = {.n_columns = 7, .right = "  rr   "};
    static const char *const head[] = {"volume", "holds", "size",   "used",
                                       "label",  "uuid",  "remarks"};
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        table_cell(&t, head[i]);
    for (size_t i = 0; i < a->volumes.n; i++) {
        const struct volume *v = &a->volumes.v[i];
        char size[16], used[16];
        table_cellf(&t, "%*s%s %s", (int)(2 * depth_of(a, i)), "", v->kind,
                    v->name ? v->name : "");
        table_cell(&t, v->content ? v->content : v->table);
        table_cell(&t, str_bytes(v->len, size));
        table_cell(&t, str_bytes(v->used, used));
        table_cell(&t, v->label);
        table_cell(&t, v->uuid ? v->uuid : v->part_uuid);
        table_cellf(&t, "%s%s%s%s%s", v->esp ? "EFI " : "",
                    v->bios_boot ? "BIOS boot " : "", v->active ? "active " : "",
                    v->whole_because ? "counted whole: " : "",
                    v->whole_because ? v->whole_because : "");
    }
    buf_str(out, "\n");
    table_print(&t, out);
}

static void add_guest(const json_t *guest, struct buf *out)
{
    static const char *const facts[] = {"pretty", "hostname", "family", "bootloader"};
    AUTO(table_done) struct table t = {.n_columns = 2};
    for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
        table_cellf(&t, "guest %s", strcmp(facts[i], "pretty") ? facts[i] : "system");
        table_cell(&t, json_string_value(json_object_get(guest, facts[i])));
    }
    bool uefi = json_is_true(json_object_get(guest, "uefi"));
    bool bios = json_is_true(json_object_get(guest, "bios"));
    table_cell(&t, "guest boots by");
    table_cellf(&t, "%s%s%s", uefi ? "UEFI" : "", uefi && bios ? ", " : "",
                bios ? "BIOS" : "");
    size_t n;
    json_t *kernel;
    json_array_foreach(json_object_get(guest, "kernels"), n, kernel)
    {
        table_cell(&t, "guest kernel");
        table_cell(&t, json_string_value(kernel));
    }
    json_t *address;
    json_array_foreach(json_object_get(guest, "addresses"), n, address)
    {
        const char *name = json_string_value(json_object_get(address, "interface"));
        const char *text = json_string_value(json_object_get(address, "address"));
        table_cell(&t, "guest address");
        table_cellf(&t, "%s %s", name ? name : "?", text ? text : "?");
    }
    buf_str(out, "\n");
    table_print(&t, out);
}

static void print_text(const struct info *i)
{
    const struct machine *m = i->source.machine;
    AUTO(buf_done) struct buf out = BUF_INIT(16 * MIB);
    AUTO(table_done) struct table t = {.n_columns = 2};
    char a[16], b[16];
    table_cell(&t, "machine");
    table_cellf(&t, "%s: %u CPU%s, %s, %s, %zu NIC%s", m->name, m->cpus,
                m->cpus == 1 ? "" : "s", str_bytes(m->memory, a),
                m->firmware == FIRMWARE_UEFI ? "UEFI"
                : m->firmware_known          ? "BIOS"
                                             : "firmware not stated",
                m->n_nics, m->n_nics == 1 ? "" : "s");
    for (size_t n = 0; n < i->source.n_disks; n++) {
        const struct source_disk *d = &i->source.disks[n];
        table_cellf(&t, "disk %zu", n);
        table_cellf(&t, "%s", m->disks[n].path);
        table_cell(&t, "");
        table_cellf(&t, "%s%s, %s (%llu bytes), %s in %zu file%s", d->info.format,
                    d->info.compressed ? " (compressed)" : "",
                    str_bytes(d->disk->size, a), (unsigned long long)d->disk->size,
                    str_bytes(d->info.file_bytes, b), d->info.files.n,
                    d->info.files.n == 1 ? "" : "s");
        for (size_t k = 0; k < d->info.snapshots.n; k++) {
            table_cell(&t, "  snapshot");
            table_cell(&t, d->info.snapshots.v[k]);
        }
    }
    // An empty first cell would print as "-".
    for (size_t n = 0; n < t.cells.n; n += 2) {
        if (strcmp(t.cells.v[n], "-") == 0)
            t.cells.v[n][0] = ' ';
    }
    table_print(&t, &out);
    add_volumes(&i->allocation, &out);
    if (i->guest)
        add_guest(i->guest, &out);
    print_buf(&out);
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct info_options *o = values;
    AUTO(info_done) struct info i = {0};
    AUTO(str_free) char *state_dir = session_state_dir(g);
    struct source_options source = {.words = args,
                                    .state_dir = state_dir,
                                    .allow_any_path = o->allow_path,
                                    .snapshot = o->snapshot,
                                    .format = o->format};
    if (source_describe(&source, &i.source, e))
        return -1;
    if (i.source.runs)
        return info_running(g, i.source.machine, e);
    if (source_open(&i.source, &source, e) ||
        source_allocation(&i.source, &i.allocation, e))
        return -1;
    struct err why = {0};
    if (!o->no_guest && look_at_guest(g, o, &i, &why)) {
        if (why.code == ERR_CANCELLED) {
            *e = why;
            return -1;
        }
        i.no_guest_because = xstrdup(why.text);
        log_line(LOG_WARN, "the guest was not looked at: %s", why.text);
    }
    if (g->json)
        return print_as_json(&i, e);
    print_text(&i);
    return 0;
}

const struct command command_info = {
    .name = "info",
    .args = "DISK|SOURCE",
    .summary = "what a disk or a machine is: format, partitions, use, guest",
    .help = "Tells format and size of every disk, its partitions, volumes and file "
            "systems with the bytes they use, why something is counted as wholly used, "
            "and, from inside the appliance, what system is installed. Nothing is "
            "changed.\n\n"
            "Several DISKs are taken as those of one machine. A running server "
            "(agent://NAME) is asked itself: its system, disks, file systems and whether "
            "they can be frozen, addresses, ports that are listened on, and whose it "
            "is.",
    .examples = "godwit info vm.vmdk\n"
                "godwit info agent://crm01\n"
                "godwit info vm.ova --no-guest --json | jq .allocation\n",
    .options = options,
    .options_size = sizeof(struct info_options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
