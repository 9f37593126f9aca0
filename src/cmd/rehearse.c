// SPDX-License-Identifier: Apache-2.0
// godwit rehearse DISK…: boots throw-away overlays over the disks, without a way out to
// any network, and says how far it came. The console on ttyS0 is added in the overlay
// only, by the appliance.
#include "cmd/session.h"

#include <stdio.h>

#define DEFAULT_TIMEOUT_MS (UINT64_C(300) * 1000)

struct rehearse_options {
    const char *expect, *address, *picture, *firmware, *root;
    uint64_t port, timeout_ms, memory;
    struct strings luks_keys;
    bool as_is, allow_path;
};

static const struct opt options[] = {
    {.name = "expect",
     .type = OPT_STRING,
     .arg = "TEXT",
     .help = "text that must appear on the console; default: \"login:\"",
     .offset = offsetof(struct rehearse_options, expect)},
    {.name = "address",
     .type = OPT_STRING,
     .arg = "A/LEN",
     .help = "the guest's address (192.0.2.10/24), where --port must answer",
     .offset = offsetof(struct rehearse_options, address)},
    {.name = "port",
     .type = OPT_U64,
     .arg = "N",
     .help = "TCP port that must answer at --address",
     .offset = offsetof(struct rehearse_options, port)},
    {.name = "timeout",
     .type = OPT_MS,
     .arg = "TIME",
     .help = "for all of it; default: 300s",
     .offset = offsetof(struct rehearse_options, timeout_ms)},
    {.name = "picture",
     .type = OPT_STRING,
     .arg = "FILE",
     .help = "keep a picture of the screen as PNG",
     .offset = offsetof(struct rehearse_options, picture)},
    {.name = "firmware",
     .type = OPT_CHOICE,
     .arg = "KIND",
     .choices = "bios|uefi",
     .help = "bios or uefi; default: what the description or the guest says",
     .offset = offsetof(struct rehearse_options, firmware)},
    {.name = "memory",
     .type = OPT_BYTES,
     .arg = "BYTES",
     .help = "memory of the guest; default: the description's",
     .offset = offsetof(struct rehearse_options, memory)},
    {.name = "as-is",
     .type = OPT_FLAG,
     .help = "add no console: watch for what the guest writes to ttyS0 by itself",
     .offset = offsetof(struct rehearse_options, as_is)},
    {.name = "allow-path",
     .type = OPT_FLAG,
     .help = "files of the disks may lie outside their folder",
     .offset = offsetof(struct rehearse_options, allow_path)},
    {.name = "luks-key",
     .type = OPT_STRINGS,
     .arg = "[UUID=]FILE",
     .help = "file with the key of an encrypted volume; may be repeated",
     .offset = offsetof(struct rehearse_options, luks_keys)},
    {.name = "root",
     .type = OPT_STRING,
     .arg = "UUID",
     .help = "root file system of the system to boot where there are several",
     .offset = offsetof(struct rehearse_options, root)},
    {0},
};

// A folder that goes with everything in it.
static void scratch_remove(char *dir)
{
    struct err e;
    if (dir && dir_remove(dir, &e))
        log_line(LOG_WARN, "%s", e.text);
    free(dir);
}
DEFINE_AUTO(scratch_remove, char *)

static int make_overlays(const struct source *s, const char *dir, struct vm_disk *disks,
                         struct strings *paths, struct err *e)
{
    for (size_t i = 0; i < s->n_disks; i++) {
        const struct machine_disk *d = &s->machine->disks[i];
        AUTO(str_free) char *backing = NULL;
        if (d->part_len)
            return err_set(e, ERR_REFUSED, "%s: copy the disk out of the OVA first",
                           d->path);
        if (path_real(d->path, &backing, e))
            return -1;
        strings_take(paths, xasprintf("%s/gw%zu", dir, i));
        if (overlay_create(paths->v[i], backing, s->disks[i].info.format, 0, e))
            return -1;
        disks[i] = (struct vm_disk){
            .path = paths->v[i], .format = "qcow2", .serial = path_base(paths->v[i])};
    }
    return 0;
}

// The appliance adds the console and tells how the guest boots.
static int prepare(const struct globals *g, const struct rehearse_options *o,
                   struct source *s, const struct vm_disk *disks, struct err *e)
{
    AUTO(str_free) char *state = session_state_dir(g);
    AUTO(appliance_end) struct appliance *appliance = NULL;
    AUTO(json_free) json_t *reply = NULL;
    struct helper_options helper = {
        .accel = session_accel(g), .state_dir = state, .luks = o->luks_keys.n > 0};
    struct helper_request request = {.call = "serial-console",
                                     .disks = disks,
                                     .n_disks = s->n_disks,
                                     .machine = s->machine,
                                     .luks_key_files = &o->luks_keys,
                                     .root = o->root};
    if (helper_begin(&helper, &appliance, e) ||
        helper_call(appliance, &request, &reply, e))
        return -1;
    if (!s->machine->firmware_known)
        s->machine->firmware = firmware_of_guest(json_object_get(reply, "facts"));
    return 0;
}

static void print_result(const struct globals *g, const struct rehearsal *r)
{
    if (g->json) {
        print_json(rehearsal_json(r));
        return;
    }
    const struct {
        const char *what;
        bool seen;
        uint64_t ms;
    } steps[] = {{"kernel up", r->kernel, r->kernel_ms},
                 {"root mounted", r->root, r->root_ms},
                 {"expected text", r->expected, r->expected_ms},
                 {"port answers", r->port, r->port_ms}};
    AUTO(buf_done) struct buf out = BUF_INIT(4 * MIB);
    AUTO(table_done) struct table t = {.n_columns = 2};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        table_cell(&t, steps[i].what);
        if (steps[i].seen)
            table_cellf(&t, "after %.1f s", (double)steps[i].ms / 1000.0);
        else
            table_cell(&t, "not seen");
    }
    if (r->login_line) {
        table_cell(&t, "line");
        table_cell(&t, r->login_line);
    }
    table_print(&t, &out);
    print_buf(&out);
}

// The last line of the console that says something, for the error.
static void last_line(const char *console, char out[static 160])
{
    const char *end = console + strlen(console);
    while (end > console && strchr(" \r\n\t", end[-1]))
        end--;
    const char *start = end;
    while (start > console && start[-1] != '\n')
        start--;
    snprintf(out, 160, "%.*s", (int)(end - start), start);
}

static int boot(const struct globals *g, const struct rehearse_options *o,
                const struct source *s, const struct vm_disk *disks, const char *dir,
                struct err *e)
{
    AUTO(str_free) char *state = session_state_dir(g);
    enum accel accel;
    const char *why = NULL;
    if (accel_choose(session_accel(g), state, &accel, &why, e))
        return -1;
    struct rehearsal_options options_of_boot = {
        .machine = s->machine,
        .disks = disks,
        .n_disks = s->n_disks,
        .accel = accel,
        .timeout_ms = o->timeout_ms ? o->timeout_ms : DEFAULT_TIMEOUT_MS,
        .expect = o->expect,
        .address = o->address,
        .port = (unsigned)o->port,
        .run_dir = dir,
        .picture = o->picture,
    };
    struct rehearsal r = {0};
    if (rehearse(&options_of_boot, &r, e))
        return -1;
    print_result(g, &r);
    bool passed = r.passed;
    char line[160] = "";
    if (r.console)
        last_line(r.console, line);
    rehearsal_done(&r);
    if (passed)
        return 0;
    return err_set(e, ERR_FAILED,
                   "the guest did not come up; its console ends with \"%s\"", line);
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct rehearse_options *o = values;
    if ((o->port != 0) != (o->address != NULL) || o->port > 65535)
        return err_set(e, ERR_USAGE,
                       "--port and --address belong together, a port is at "
                       "most 65535");
    AUTO(source_done) struct source s = {0};
    AUTO(str_free) char *state_dir = session_state_dir(g);
    struct source_options source = {
        .words = args, .state_dir = state_dir, .allow_any_path = o->allow_path};
    if (source_describe(&source, &s, e) || source_open(&s, &source, e))
        return -1;
    if (o->firmware) {
        s.machine->firmware = strcmp(o->firmware, "uefi") ? FIRMWARE_BIOS : FIRMWARE_UEFI;
        s.machine->firmware_known = true;
    }
    if (o->memory)
        s.machine->memory = o->memory;
    AUTO(scratch_remove) char *dir = NULL;
    AUTO(strings_done) struct strings paths = {0};
    AUTO(free) void *memory = xcalloc(s.n_disks, sizeof(struct vm_disk));
    struct vm_disk *disks = memory;
    if (dir_temp(&dir, e) || make_overlays(&s, dir, disks, &paths, e))
        return -1;
    if (!o->as_is && prepare(g, o, &s, disks, e))
        return -1;
    return boot(g, o, &s, disks, dir, e);
}

const struct command command_rehearse = {
    .name = "rehearse",
    .args = "DISK…",
    .summary = "boot throw-away overlays of the disks and say how far it comes",
    .help = "Boots the guest on virtio under QEMU, without a screen and without a way to "
            "any network, from overlays that are thrown away: DISKs (or the machine "
            "whose description is given) stay as they are. It passes when the kernel "
            "comes up, the root file system is mounted, the console shows \"login:\" or "
            "--expect's text, and --port answers if that was asked for; else the exit "
            "code is 1.",
    .examples = "godwit rehearse out/vm.xml\n"
                "godwit rehearse out/vm-vda.qcow2 --address 192.0.2.10/24 --port 22\n",
    .options = options,
    .options_size = sizeof(struct rehearse_options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
