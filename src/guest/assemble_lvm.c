// SPDX-License-Identifier: Apache-2.0
// The guest's volume groups. Every call of lvm sees only the physical volumes of this
// guest (a filter in --config, nothing else configured), so that clones with the same
// names and UUIDs never meet. Nothing runs udev here: lvm makes its own nodes.
#include "guest/assemble.h"

#define LVM_OUTPUT_MAX MIB

// The characters that a node may have: it goes into a filter's pattern.
static bool plain_node(const char *node)
{
    return node[strspn(node, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                             "0123456789/_.-")] == '\0';
}

// --config for the physical volumes in g. `groups`: names that are activated read-only.
static char *make_config(const struct guest *g, const char *groups, bool read_only)
{
    struct buf b = BUF_INIT(64 * KIB);
    buf_str(&b, "devices{use_devicesfile=0 scan_lvs=1 obtain_device_list_from_udev=0 "
                "external_device_info_source=\"none\" hints=\"none\" global_filter=[");
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (guest_device_holds(d, "LVM2_member") && plain_node(d->node))
            buf_printf(&b, "\"a|^%s$|\",", d->node);
    }
    buf_str(&b, "\"r|.*|\"]} backup{backup=0 archive=0} "
                "activation{udev_sync=0 udev_rules=0 monitoring=0");
    if (groups)
        buf_printf(&b, " read_only_volume_list=[%s]", groups);
    buf_printf(&b,
               "} global{event_activation=0 use_lvmpolld=0 use_lvmlockd=0 locking_type=1 "
               "metadata_read_only=%d thin_check_executable=\"\" "
               "cache_check_executable=\"\"} log{level=0 file=\"\" syslog=0}",
               read_only);
    return buf_steal(&b);
}

static int lvm(const char *config, const char *command, const char *const *more,
               struct buf *out, struct err *e)
{
    char *argv[16] = {"lvm", (char *)command, "--config", (char *)config};
    size_t n = 4;
    for (; *more && n < ARRAY_LEN(argv) - 1; more++)
        argv[n++] = (char *)*more;
    return assemble_run(argv, NULL, out, e);
}

// One report's rows: {"report":[{"vg":[{…}]}]}.
static int lvm_report(const char *config, const char *command, const char *fields,
                      const char *rows, json_t **ret, struct err *e)
{
    const char *const more[] = {"--reportformat", "json", "-o", fields, NULL};
    AUTO(buf_done) struct buf out = BUF_INIT(LVM_OUTPUT_MAX);
    AUTO(json_free) json_t *j = NULL;
    if (lvm(config, command, more, &out, e) < 0 ||
        json_parse(out.data ? out.data : "", out.len, "lvm's report", &j, e) < 0)
        return -1;
    json_t *list = json_object_get(json_array_get(json_object_get(j, "report"), 0), rows);
    if (!json_is_array(list))
        return err_set(e, ERR_FAILED, "lvm %s gave no report", command);
    *ret = json_incref(list);
    return 0;
}

static const char *field(const json_t *row, const char *name)
{
    const char *s = json_string_value(json_object_get(row, name));
    return s ? s : "";
}

// Names of the groups as a list of strings in lvm's syntax. A group without all of its
// disks is refused: half a volume is no file system.
static int list_groups(const char *config, char **ret, struct err *e)
{
    AUTO(json_free) json_t *rows = NULL;
    AUTO(buf_done) struct buf names = BUF_INIT(16 * KIB);
    size_t i;
    const json_t *row;
    if (lvm_report(config, "vgs", "vg_name,vg_missing_pv_count", "vg", &rows, e) < 0)
        return -1;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(field(row, "vg_missing_pv_count"), "0") != 0)
            return err_set(e, ERR_REFUSED,
                           "volume group %s lacks %s of its disks: give all of them",
                           field(row, "vg_name"), field(row, "vg_missing_pv_count"));
        buf_printf(&names, "%s\"%s\"", names.len ? "," : "", field(row, "vg_name"));
    }
    *ret = names.len ? buf_steal(&names) : NULL;
    return 0;
}

static int add_volumes(const char *config, struct guest *g, struct err *e)
{
    AUTO(json_free) json_t *rows = NULL;
    size_t i;
    const json_t *row;
    if (lvm_report(config, "lvs", "lv_dm_path,lv_active", "lv", &rows, e) < 0)
        return -1;
    json_array_foreach(rows, i, row)
    {
        const char *node = field(row, "lv_dm_path");
        bool known = strcmp(field(row, "lv_active"), "active") != 0 || !node[0];
        for (size_t k = 0; k < g->devices.n && !known; k++)
            known = strcmp(g->devices.v[k].node, node) == 0;
        struct err not_readable; // a thin pool is active, yet no device to read
        if (!known)
            (void)probe_mapper(g, node, &not_readable);
    }
    return 0;
}

// Are there physical volumes that were not activated yet? Notes them.
static bool new_volumes(struct assembly *a, const struct guest *g)
{
    bool any = false;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!guest_device_holds(d, "LVM2_member") || strings_have(&a->probed, d->node))
            continue;
        strings_add(&a->probed, d->node);
        any = true;
    }
    return any;
}

int lvm_activate(struct assembly *a, struct guest *g, bool *ret_more, struct err *e)
{
    static const char *const activate[] = {"-ay", "-q", "-y", NULL};
    *ret_more = false;
    if (!new_volumes(a, g))
        return 0;
    assemble_load_module("dm-mod"); // for /dev/mapper/control
    AUTO(str_free) char *plain = make_config(g, NULL, a->read_only);
    AUTO(str_free) char *groups = NULL;
    if (dir_make("/run/lock/lvm", 0700, e) < 0 || list_groups(plain, &groups, e) < 0)
        return err_wrap(e, "look for volume groups");
    if (!groups)
        return 0;
    free(a->lvm_config);
    a->lvm_config = make_config(g, a->read_only ? groups : NULL, a->read_only);
    assembly_undo_later(a, UNDO_LVM, "");
    if (lvm(a->lvm_config, "vgchange", activate, NULL, e) < 0 ||
        add_volumes(a->lvm_config, g, e) < 0)
        return err_wrap(e, "activate volume groups %s", groups);
    *ret_more = true;
    return 0;
}

int lvm_deactivate(struct assembly *a, struct err *e)
{
    static const char *const deactivate[] = {"-an", "-q", "-y", NULL};
    return lvm(a->lvm_config, "vgchange", deactivate, NULL, e);
}
