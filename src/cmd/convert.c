// SPDX-License-Identifier: Apache-2.0
// godwit convert DISK… -o DIR: what the conversion of a migration does, for disks that
// were copied by other means. The disks stay as they are: DIR receives an overlay over
// each and a domain. Overlays are made under a name of their own and renamed at the end,
// so that a run that was killed leaves nothing that looks finished.
#include "cmd/session.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct convert_options {
    const char *output, *name, *root;
    struct strings luks_keys;
    bool allow_path;
};

static const struct opt options[] = {
    {.name = "output",
     .letter = 'o',
     .type = OPT_STRING,
     .arg = "DIR",
     .help = "folder that receives the overlays and the domain",
     .offset = offsetof(struct convert_options, output)},
    {.name = "name",
     .type = OPT_STRING,
     .arg = "NAME",
     .help = "name of the machine; default: the first disk's",
     .offset = offsetof(struct convert_options, name)},
    {.name = "allow-path",
     .type = OPT_FLAG,
     .help = "files of the disks may lie outside their folder",
     .offset = offsetof(struct convert_options, allow_path)},
    {.name = "luks-key",
     .type = OPT_STRINGS,
     .arg = "[UUID=]FILE",
     .help = "file with the key of an encrypted volume; may be repeated",
     .offset = offsetof(struct convert_options, luks_keys)},
    {.name = "root",
     .type = OPT_STRING,
     .arg = "UUID",
     .help = "root file system of the system to convert where there are several",
     .offset = offsetof(struct convert_options, root)},
    {0},
};

// The files of one run.
struct outputs {
    struct strings parts, overlays; // while it works, and in the end
    char *made_dir;                 // made by us: goes again when nothing comes into it
    struct vm_disk *disks;
    char (*serials)[24];
    char *xml;
};

static void outputs_done(struct outputs *o)
{
    for (size_t i = 0; i < o->parts.n; i++)
        (void)unlink(o->parts.v[i]); // renamed by now, or half made
    if (o->made_dir)
        (void)rmdir(o->made_dir);
    free(o->made_dir);
    strings_done(&o->parts);
    strings_done(&o->overlays);
    free(o->disks);
    free(o->serials);
    free(o->xml);
}
__attribute__((unused)) static inline void auto_outputs_done(struct outputs *o)
{
    outputs_done(o);
}

static int make_dir(const char *path, struct outputs *o, char **ret, struct err *e)
{
    bool there = access(path, F_OK) == 0;
    if (dir_make(path, 0755, e) || path_real(path, ret, e))
        return -1;
    if (!there)
        o->made_dir = xstrdup(*ret);
    return 0;
}

static int must_be_free(const char *path, struct err *e)
{
    if (access(path, F_OK) == 0)
        return err_set(e, ERR_REFUSED,
                       "%s is there already: choose another folder or --name", path);
    return 0;
}

static int make_outputs(const struct source *s, const char *dir, const char *name,
                        struct outputs *ret, struct err *e)
{
    ret->disks = xcalloc(s->n_disks, sizeof(*ret->disks));
    ret->serials = xcalloc(s->n_disks, sizeof(*ret->serials));
    ret->xml = xasprintf("%s/%s.xml", dir, name);
    if (must_be_free(ret->xml, e))
        return -1;
    for (size_t i = 0; i < s->n_disks; i++) {
        char target[8];
        machine_disk_target(i, target);
        char *overlay = xasprintf("%s/%s-%s.qcow2", dir, name, target);
        char *part = xasprintf("%s/.%s-%s.qcow2.part", dir, name, target);
        strings_take(&ret->overlays, overlay);
        if (must_be_free(overlay, e)) {
            free(part);
            return -1;
        }
        strings_take(&ret->parts, part);
        if (file_remove(part, e))
            return -1;
        if (s->machine->disks[i].part_len)
            return err_set(e, ERR_REFUSED, "%s: copy the disk out of the OVA first",
                           s->machine->disks[i].path);
        if (overlay_create(part, s->machine->disks[i].path, s->disks[i].info.format, 0,
                           e))
            return -1;
        snprintf(ret->serials[i], sizeof(ret->serials[i]), "gw%zu", i);
        ret->disks[i] =
            (struct vm_disk){.path = part, .format = "qcow2", .serial = ret->serials[i]};
    }
    return 0;
}

static int write_domain(const struct globals *g, const struct source *s, const char *name,
                        const struct outputs *o, struct err *e)
{
    AUTO(free) void *memory = xcalloc(s->n_disks, sizeof(struct domain_disk));
    struct domain_disk *disks = memory;
    AUTO(buf_done) struct buf xml = BUF_INIT(4 * MIB);
    AUTO(str_free) char *state = session_state_dir(g);
    enum accel accel;
    const char *why = NULL;
    if (accel_choose(session_accel(g), state, &accel, &why, e))
        return -1;
    for (size_t i = 0; i < s->n_disks; i++)
        disks[i] = (struct domain_disk){.path = o->overlays.v[i],
                                        .format = "qcow2",
                                        .backing_path = s->machine->disks[i].path,
                                        .backing_format = s->disks[i].info.format};
    machine_domain_xml(&(struct domain_options){.machine = s->machine,
                                                .name = name,
                                                .disks = disks,
                                                .n_disks = s->n_disks,
                                                .emulated = accel == ACCEL_TCG},
                       &xml);
    return file_write(o->xml, xml.data, xml.len, 0644, e);
}

static void print_result(const struct globals *g, const struct outputs *o, json_t *reply)
{
    if (g->json) {
        json_t *overlays = json_array();
        for (size_t i = 0; i < o->overlays.n; i++)
            json_array_append_new(overlays, json_string(o->overlays.v[i]));
        json_object_set_new(reply, "overlays", overlays);
        json_object_set_new(reply, "domain", json_string(o->xml));
        print_json(json_incref(reply));
        return;
    }
    AUTO(buf_done) struct buf out = BUF_INIT(4 * MIB);
    AUTO(table_done) struct table t = {.n_columns = 2};
    size_t i, k;
    json_t *fix, *change;
    json_array_foreach(json_object_get(reply, "fixes"), i, fix)
    {
        json_array_foreach(json_object_get(fix, "changes"), k, change)
        {
            table_cell(&t, json_string_value(json_object_get(fix, "fix")));
            table_cell(&t, json_string_value(change));
        }
    }
    table_print(&t, &out);
    buf_printf(&out, "%s\n", o->xml);
    print_buf(&out);
}

static int convert(const struct globals *g, const struct convert_options *o,
                   struct source *s, struct outputs *out, json_t **ret, struct err *e)
{
    AUTO(allocation_done) struct allocation allocation = {0};
    AUTO(appliance_end) struct appliance *appliance = NULL;
    AUTO(str_free) char *state = session_state_dir(g);
    AUTO(str_free) char *dir = NULL;
    struct helper_options helper = {
        .accel = session_accel(g), .state_dir = state, .luks = o->luks_keys.n > 0};
    const char *name = o->name ? o->name : s->machine->name;
    if (source_allocation(s, &allocation, e) ||
        source_check(s, &allocation, o->luks_keys.n > 0, e) ||
        make_dir(o->output, out, &dir, e) || helper_begin(&helper, &appliance, e) ||
        make_outputs(s, dir, name, out, e))
        return -1;
    struct helper_request request = {.call = "convert",
                                     .disks = out->disks,
                                     .n_disks = s->n_disks,
                                     .machine = s->machine,
                                     .luks_key_files = &o->luks_keys,
                                     .root = o->root};
    if (helper_call(appliance, &request, ret, e))
        return -1;
    const json_t *guest = json_object_get(*ret, "facts");
    if (!s->machine->firmware_known)
        s->machine->firmware = firmware_of_guest(guest);
    helper_learn_macs(s->machine, guest);
    for (size_t i = 0; i < s->n_disks; i++) {
        if (rename(out->parts.v[i], out->overlays.v[i]))
            return err_errno(e, errno, "naming %s", out->overlays.v[i]);
    }
    return write_domain(g, s, name, out, e);
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct convert_options *o = values;
    if (!o->output)
        return err_set(e, ERR_USAGE, "convert needs -o DIR");
    AUTO(source_done) struct source s = {0};
    AUTO(outputs_done) struct outputs out = {0};
    AUTO(json_free) json_t *reply = NULL;
    AUTO(str_free) char *state_dir = session_state_dir(g);
    struct source_options source = {.words = args,
                                    .state_dir = state_dir,
                                    .allow_any_path = o->allow_path,
                                    .name = o->name};
    if (source_describe(&source, &s, e) || source_open(&s, &source, e) ||
        convert(g, o, &s, &out, &reply, e))
        return -1;
    print_result(g, &out, reply);
    return 0;
}

const struct command command_convert = {
    .name = "convert",
    .args = "DISK… -o DIR",
    .summary = "make a copied guest bootable, on overlays",
    .help = "Makes the guest on the disks boot on virtio: drivers into its initramfs, "
            "names of disks that hold everywhere, network interfaces that keep their "
            "names. The DISKs (or one machine description that names them) are not "
            "changed: DIR receives an overlay over each and a libvirt domain.",
    .examples = "godwit convert vm.raw -o out\n",
    .options = options,
    .options_size = sizeof(struct convert_options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
