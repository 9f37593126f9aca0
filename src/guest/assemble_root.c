// SPDX-License-Identifier: Apache-2.0
// Which device holds the operating system: every file system is looked into, read-only
// and without replaying its journal, for the files that only a root has. On btrfs the
// root is the default subvolume or one of the names that installers use.
#include "guest/assemble.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/text.h"

#define OS_RELEASE_MAX (64 * KIB)
#define CANDIDATES_MAX 32

static const char *const subvolumes[] = {NULL, "@", "@rootfs", "root",
                                         "@/.snapshots/1/snapshot"};

void root_choice_done(struct root_choice *c)
{
    free(c->options);
    free(c->title);
    *c = (struct root_choice){0};
}

// The title of what is installed in the tree at `where`, NULL: no operating system.
static char *os_title(const char *where)
{
    static const char *const releases[] = {"/etc/os-release", "/usr/lib/os-release",
                                           "/etc/redhat-release", "/etc/debian_version"};
    static const char *const windows = "/Windows/System32/config";
    AUTO(tree_close) struct tree *t = NULL;
    struct err none; // a file system that cannot be read has no operating system for us
    if (tree_open(where, &t, &none) < 0)
        return NULL;
    if (tree_exists(t, windows))
        return xstrdup("Windows");
    // A root that only lacks its separate /usr has fstab and init's folder.
    bool root = tree_exists(t, "/etc/fstab") || tree_exists(t, "/sbin") ||
                tree_exists(t, "/usr/sbin");
    for (size_t i = 0; root && i < ARRAY_LEN(releases); i++) {
        AUTO(buf_done) struct buf b = BUF_INIT(OS_RELEASE_MAX);
        if (!tree_exists(t, releases[i]))
            continue;
        char *title = NULL;
        if (tree_read(t, releases[i], &b, &none) == 0 && b.data && i < 2)
            title = text_assigned((struct span){b.data, b.len}, "PRETTY_NAME");
        return title ? title : xstrdup("Linux");
    }
    // os-release may be a link into a /usr of its own.
    bool linux_root = tree_exists(t, "/etc/fstab") && tree_exists(t, "/etc/passwd");
    return linux_root ? xstrdup("Linux") : NULL;
}

// One mount, looked into and undone.
static char *look_into(struct assembly *a, const struct guest_device *d,
                       const char *options)
{
    struct err none; // what cannot be mounted is no candidate
    if (mount_device(a, d, ASSEMBLE_ROOT, options, true, &none) < 0)
        return NULL;
    char *title = os_title(ASSEMBLE_ROOT);
    struct undo u = a->undo.v[--a->undo.n];
    (void)unmount(u.name, &none); // the next mount would say so
    free(u.name);
    return title;
}

static bool look_at(struct assembly *a, const struct guest_device *d,
                    struct root_choice *ret)
{
    bool btrfs = strcmp(d->content, "btrfs") == 0;
    for (size_t i = 0; i < (btrfs ? ARRAY_LEN(subvolumes) : 1); i++) {
        char *options = subvolumes[i] ? xasprintf("subvol=%s", subvolumes[i]) : NULL;
        char *title = look_into(a, d, options);
        if (title) {
            *ret = (struct root_choice){d, options, title};
            return true;
        }
        free(options);
    }
    return false;
}

// Another device of a btrfs that was looked at already.
static bool seen(const struct guest *g, size_t index)
{
    const struct guest_device *d = &g->devices.v[index];
    if (strcmp(d->content, "btrfs") != 0 || !d->uuid)
        return false;
    for (size_t i = 0; i < index; i++) {
        const struct guest_device *o = &g->devices.v[i];
        if (o->uuid && guest_device_holds(o, "btrfs") && strcmp(o->uuid, d->uuid) == 0)
            return true;
    }
    return false;
}

static int choose(const char *wish, struct root_choice *list, size_t n,
                  struct root_choice *ret, struct err *e)
{
    AUTO(buf_done) struct buf names = BUF_INIT(512);
    size_t chosen = n == 1 && !wish ? 0 : n;
    for (size_t i = 0; i < n; i++) {
        const char *uuid = list[i].device->uuid ? list[i].device->uuid : "?";
        buf_printf(&names, "%s%s (UUID=%s)", i ? ", " : "", list[i].title, uuid);
        if (wish && strcasecmp(wish, uuid) == 0)
            chosen = i;
    }
    if (chosen < n) {
        *ret = list[chosen];
        list[chosen] = (struct root_choice){0};
        return 0;
    }
    if (n == 0)
        return err_set(e, ERR_REFUSED, "no operating system on these disks");
    if (wish)
        return err_set(e, ERR_REFUSED, "no operating system with UUID=%s; there is: %s",
                       wish, names.data);
    return err_set(e, ERR_REFUSED,
                   "%zu operating systems; name the root of one with --root: %s", n,
                   names.data);
}

int root_find(struct assembly *a, const struct guest *g, struct root_choice *ret,
              struct err *e)
{
    struct root_choice list[CANDIDATES_MAX] = {0};
    size_t n = 0;
    for (size_t i = 0; i < g->devices.n && n < CANDIDATES_MAX; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!mount_possible(d) || strcmp(d->content, "vfat") == 0 || seen(g, i))
            continue;
        if (look_at(a, d, &list[n]))
            n++;
    }
    int r = choose(a->options->root, list, n, ret, e);
    for (size_t i = 0; i < n; i++)
        root_choice_done(&list[i]);
    return r;
}
