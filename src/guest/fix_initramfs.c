// SPDX-License-Identifier: Apache-2.0
// Boot drivers for every kernel of the guest. Network drivers need only be there, on the
// root file system: put into the initramfs they would bring the NICs up, and name them,
// before the guest's own rules are at hand. An initramfs that has a driver of the new
// NICs all the same gets the name files too, since old versions of udev do not rename a
// NIC twice. Device names in the image's own copies of configuration become UUIDs.
#include "guest/device.h"
#include "guest/fixes.h"
#include "guest/initramfs.h"
#include "guest/mdadm.h"

static const char *const image_names[] = {"/boot/initrd.img-%s", "/boot/initramfs-%s.img",
                                          "/boot/initrd-%s"};

static char *image_path(const struct guest *g, const char *version)
{
    for (size_t i = 0; i < ARRAY_LEN(image_names); i++) {
        AUTO(buf_done) struct buf path = BUF_INIT(4096);
        struct span name = span_of(image_names[i]);
        const char *at = strstr(image_names[i], "%s");
        buf_add(&path, name.p, (size_t)(at - name.p));
        buf_str(&path, version);
        buf_str(&path, at + 2);
        if (tree_exists(g->tree, path.data))
            return buf_steal(&path);
    }
    return NULL;
}

// Does the boot loader start this kernel, as far as its configuration tells? "vmlinuz"
// alone is a link that may lead to any.
static bool is_started(const struct guest *g, const char *version)
{
    bool known = false;
    for (const struct cmdline_file *f = cmdline_files; f->path; f++) {
        AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
        struct err ignored; // what cannot be read names no kernel
        if (!tree_exists(g->tree, f->path) ||
            tree_read(g->tree, f->path, &text, &ignored) || !text.data)
            continue;
        known = true;
        for (const char *at = text.data; (at = strstr(at, "vmlinuz"));) {
            at += strlen("vmlinuz");
            size_t n = *at == '-' ? strcspn(at + 1, " \t\r\n\"'") : 0;
            if (*at != '-' || (n == strlen(version) && !memcmp(at + 1, version, n)))
                return true;
        }
    }
    return !known;
}

static bool is_whole(const struct guest *g, const char *version)
{
    AUTO(str_free) char *image = image_path(g, version);
    AUTO(str_free) char *dep = xasprintf("/lib/modules/%s/modules.dep", version);
    return image && tree_exists(g->tree, dep);
}

// What an installation that broke off left, or a removal: a kernel that lacks its
// initramfs or modules and that no boot entry names, beside one that has both.
static bool is_left_over(const struct guest *g, const char *version)
{
    bool another = false;
    for (size_t i = 0; i < g->kernels.n; i++)
        another |= is_whole(g, g->kernels.v[i]);
    return another && !is_whole(g, version) && !is_started(g, version);
}

static bool for_network(const char *path)
{
    return strstr(path, "/drivers/net/");
}

static bool has_driver(const struct modules *m, const char *name)
{
    return modules_path(m, name) || modules_builtin(m, name);
}

// Kernels before 3.4 have no virtio_scsi; with virtio_blk they boot.
static bool is_spare(const struct guest *g, const struct modules *m, const char *driver)
{
    return strstr(driver, "scsi") && !has_driver(m, driver) &&
           strings_have(&g->drivers, "virtio_blk") && has_driver(m, "virtio_blk");
}

// The drivers that the initramfs needs. Each is checked, whether it goes there or not.
static int wanted_drivers(const struct guest *g, const struct modules *m,
                          struct strings *ret, struct strings *ret_network, struct err *e)
{
    for (size_t i = 0; i < g->drivers.n; i++) {
        AUTO(strings_done) struct strings files = {0};
        const char *path = modules_path(m, g->drivers.v[i]);
        if (is_spare(g, m, g->drivers.v[i]))
            continue;
        if (modules_closure(m, g->drivers.v[i], &files, e))
            return -1;
        // A built-in driver's path is not asked for; by its name it is for a network.
        if (!path && strstr(g->drivers.v[i], "net"))
            strings_add(ret_network, g->drivers.v[i]);
        if (path)
            strings_add(for_network(path) ? ret_network : ret, g->drivers.v[i]);
    }
    // Disks on a SCSI controller are sd_mod's, which no dependency names.
    for (size_t i = 0; i < g->drivers.n; i++)
        if (strstr(g->drivers.v[i], "scsi") && modules_path(m, "sd_mod") &&
            !strings_have(ret, "sd_mod"))
            strings_add(ret, "sd_mod");
    return 0;
}

static const char *const edited[] = {"conf/conf.d/", "conf/param.conf",
                                     "cryptroot/crypttab", "etc/crypttab",
                                     "etc/cmdline.d/"};

static bool edit(void *ctx, const char *path, const char *text, struct buf *out)
{
    bool ours = false;
    if (strcmp(path, "etc/lvm/lvm.conf") == 0) {
        AUTO(strings_done) struct strings off = {0};
        text_apply(ctx, span_of(text), fix_lvm_line, NULL, out, &off);
        return off.n > 0;
    }
    for (size_t i = 0; mdadm_confs[i]; i++) {
        AUTO(strings_done) struct strings off = {0};
        enum mdadm_line kind = MDADM_OTHER;
        if (strcmp(path, mdadm_confs[i] + 1) != 0)
            continue;
        text_apply(ctx, span_of(text), fix_mdadm_line, &kind, out, &off);
        return off.n > 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(edited); i++)
        ours |= str_starts(path, edited[i]);
    if (!ours)
        return false;
    AUTO(strings_done) struct strings notes = {0};
    device_replace(ctx, span_of(text), out, &notes);
    return notes.n > 0;
}

// One kernel's patch. *ret_needed false: nothing to do.
static int prepare(struct guest *g, const char *version, const struct name_plan *names,
                   struct initramfs_patch *ret, bool *ret_needed, struct err *e)
{
    AUTO(modules_close) struct modules *m = NULL;
    AUTO(strings_done) struct strings drivers = {0}, network = {0};
    AUTO(str_free) char *path = image_path(g, version);
    *ret_needed = false;
    if (modules_open(g->tree, version, &m, e) ||
        wanted_drivers(g, m, &drivers, &network, e))
        return -1;
    if (!path && drivers.n)
        return err_set(
            e, ERR_REFUSED,
            "kernel %s in the guest has no initramfs in /boot that %s could be "
            "put into",
            version, drivers.v[0]);
    if (!path)
        return 0;
    VEC(struct initramfs_file) files = {0};
    for (size_t i = 0; i < names->n; i++) {
        struct initramfs_file f = {names->v[i].path + 1, names->v[i].text};
        vec_push(&files, f);
    }
    struct initramfs_job job = {
        .tree = g->tree,
        .path = path,
        .version = version,
        .drivers = &drivers,
        .files_if = &network,
        .files = files.v,
        .n_files = files.n,
        .edit = edit,
        .ctx = g,
    };
    int rc = initramfs_prepare(&job, ret, ret_needed, e);
    vec_done(&files);
    return rc;
}

// All patches, and whether they fit; nothing is written.
struct patches {
    struct initramfs_patch *v;
    size_t n, cap;
};

static void patches_done(struct patches *p)
{
    for (size_t i = 0; i < p->n; i++)
        initramfs_patch_done(&p->v[i]);
    vec_done(p);
}

static void auto_patches_done(struct patches *p)
{
    patches_done(p);
}

static int prepare_all(struct guest *g, struct patches *ret, struct err *e)
{
    AUTO(name_plan_done) struct name_plan names = {0};
    if (name_plan_make(g, &names, e))
        return -1;
    for (size_t i = 0; i < g->kernels.n; i++) {
        struct initramfs_patch patch;
        bool needed;
        if (is_left_over(g, g->kernels.v[i]))
            continue;
        if (prepare(g, g->kernels.v[i], &names, &patch, &needed, e))
            return -1;
        if (needed)
            vec_push(ret, patch);
    }
    return initramfs_room(g->tree, ret->v, ret->n, e);
}

int fix_initramfs_check(struct guest *g, struct err *e)
{
    for (size_t i = 0; i < g->kernels.n; i++) {
        AUTO(modules_close) struct modules *m = NULL;
        AUTO(strings_done) struct strings drivers = {0}, network = {0};
        if (is_left_over(g, g->kernels.v[i]))
            continue;
        if (modules_open(g->tree, g->kernels.v[i], &m, e) ||
            wanted_drivers(g, m, &drivers, &network, e))
            return -1;
    }
    return 0;
}

// What initramfs-tools was told to put into an image: the last MODULES= counts.
static int modules_policy(struct guest *g, char **ret, struct err *e)
{
    static const char dir[] = "/etc/initramfs-tools/conf.d";
    AUTO(strings_done) struct strings files = {0};
    strings_add(&files, "/etc/initramfs-tools/initramfs.conf");
    AUTO(strings_done) struct strings names = {0};
    if (tree_list(g->tree, dir, &names, e))
        return -1;
    for (size_t i = 0; i < names.n; i++)
        strings_take(&files, path_join(dir, names.v[i]));
    AUTO(str_free) char *policy = NULL;
    for (size_t i = 0; i < files.n; i++) {
        AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
        if (!tree_exists(g->tree, files.v[i]))
            continue;
        if (tree_read(g->tree, files.v[i], &text, e))
            return -1;
        char *found = text_assigned((struct span){text.data, text.len}, "MODULES");
        if (found) {
            free(policy);
            policy = found;
        }
    }
    *ret = steal(policy);
    return 0;
}

// With MODULES=list the next update-initramfs would leave the drivers out again. (With
// "dep" it sees the new hardware, "most" has them.)
static int keep_listed(struct guest *g, struct strings *done, struct err *e)
{
    static const char path[] = "/etc/initramfs-tools/modules";
    AUTO(str_free) char *policy = NULL;
    if (modules_policy(g, &policy, e))
        return -1;
    if (!policy || strcmp(policy, "list") != 0)
        return 0;
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT), added = BUF_INIT(64 * KIB);
    if (tree_exists(g->tree, path) && tree_read(g->tree, path, &text, e))
        return -1;
    if (text.len && text.data[text.len - 1] != '\n')
        buf_str(&text, "\n");
    for (size_t i = 0; i < g->drivers.n; i++) {
        struct span rest = {text.data, text.len}, line;
        bool listed = strstr(g->drivers.v[i], "net"); // not for the disks
        while (text_line(&rest, &line))
            listed |= span_is(span_trim(line), g->drivers.v[i]);
        if (listed)
            continue;
        buf_printf(&text, "%s\n", g->drivers.v[i]);
        buf_printf(&added, " %s", g->drivers.v[i]);
    }
    if (!added.len)
        return 0;
    strings_take(done, xasprintf("%s: added%s", path, added.data));
    return tree_write(g->tree, path, text.data, text.len, e);
}

int fix_initramfs(struct guest *g, struct strings *done, struct err *e)
{
    AUTO(patches_done) struct patches all = {0};
    if (prepare_all(g, &all, e))
        return -1;
    for (size_t i = 0; i < all.n; i++) {
        if (initramfs_commit(g->tree, &all.v[i], e))
            return -1;
        for (size_t j = 0; j < all.v[i].notes.n; j++)
            strings_add(done, all.v[i].notes.v[j]);
    }
    return keep_listed(g, done, e);
}
