// SPDX-License-Identifier: Apache-2.0
// Mounted file systems, each superblock once, from mountinfo (proc(5)) of a process of
// every mount namespace:
//
//     36 35 98:0 /root /where options [optional…] - type source superblock's-options
//
// What is mounted only elsewhere is reached through /proc/PID/root. A place may be hidden
// by another mount on top, so what is found there is compared. btrfs has device numbers
// that name no device: it is asked for its own.

#include "agent/block.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MOUNTINFO_MAX (8 * MIB)
#define MOUNTS_MAX 4096
#define SUPERBLOCKS MIB // a volume's head, which holds its UUID

static const char *const unfreezable[] = {
    "vfat", "msdos",    "exfat", "fuseblk", "ntfs",    "ntfs3", "iso9660", "udf",
    "hfs",  "squashfs", "erofs", "cramfs",  "hfsplus", "romfs", "minix",   "ufs"};

// One line, cut in place.
struct line {
    int id;
    dev_t dev;
    char *where, *type, *source;
    bool read_only; // the superblock
};

// "\040" and its sisters, in place.
static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        unsigned c;
        if (*s == '\\' && sscanf(s + 1, "%3o", &c) == 1 && c < 256) {
            *out++ = (char)c;
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

static bool parse_line(char *text, struct line *ret)
{
    unsigned major, minor;
    char *words[16] = {0}, *save = NULL, *options;
    char *rest = strstr(text, " - ");
    size_t n = 0;
    if (!rest)
        return false;
    *rest = '\0';
    for (char *w = strtok_r(text, " ", &save); w && n < 6; w = strtok_r(NULL, " ", &save))
        words[n++] = w;
    ret->type = strtok_r(rest + 3, " ", &save);
    ret->source = strtok_r(NULL, " ", &save);
    options = strtok_r(NULL, " ", &save);
    if (n < 5 || !options || sscanf(words[0], "%d", &ret->id) != 1 ||
        sscanf(words[2], "%u:%u", &major, &minor) != 2)
        return false;
    ret->dev = makedev(major, minor);
    ret->where = words[4];
    ret->read_only = strncmp(options, "ro", strcspn(options, ",")) == 0;
    unescape(ret->where);
    unescape(ret->source);
    return true;
}

// --- one file system

static void mount_done(struct volume_mount *m)
{
    char *texts[] = {m->type, m->source, m->where, m->uuid};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
}

void mounts_done(struct volume_mounts *m)
{
    for (size_t i = 0; i < m->n; i++)
        mount_done(&m->v[i]);
    vec_done(m);
}

// Opens `path` if it is a folder or file on the mount that the line tells of.
static int open_there(const char *path, const struct line *l)
{
    struct stat st;
    union {
        struct file_handle head;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } handle;
    int mount_id = -1;
    // No devices or fifos: opening those does something.
    if (lstat(path, &st) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
        return -1;
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -1;
    if (st.st_dev == l->dev)
        return steal_fd(&fd);
    // A subvolume of btrfs has a number of its own.
    handle.head.handle_bytes = MAX_HANDLE_SZ;
    if (name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) < 0 ||
        mount_id != l->id)
        return -1;
    return steal_fd(&fd);
}

static void probe_free(blkid_probe pr)
{
    if (pr)
        blkid_free_probe(pr);
}
DEFINE_AUTO(probe_free, blkid_probe)

// By libblkid from the device; what its page cache holds may be older than what the file
// system has written past it, so that is let go first.
static char *uuid_of(dev_t dev)
{
    AUTO(str_free)
    char *sys = xasprintf("/sys/dev/block/%u:%u", major(dev), minor(dev));
    AUTO(str_free) char *real = realpath(sys, NULL);
    AUTO(str_free) char *node = real ? path_join("/dev", path_base(real)) : NULL;
    AUTO(fd_close) int fd = node ? open(node, O_RDONLY | O_CLOEXEC) : -1;
    AUTO(probe_free) blkid_probe pr = fd < 0 ? NULL : blkid_new_probe();
    const char *uuid = NULL;
    if (!pr)
        return NULL;
    (void)posix_fadvise(fd, 0, SUPERBLOCKS, POSIX_FADV_DONTNEED); // a hint
    if (blkid_probe_set_device(pr, fd, 0, 0))
        return NULL;
    blkid_probe_enable_superblocks(pr, 1);
    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID);
    if (blkid_do_safeprobe(pr) || blkid_probe_lookup_value(pr, "UUID", &uuid, NULL))
        return NULL;
    return xstrdup(uuid);
}

static bool can_freeze(const char *type)
{
    for (size_t i = 0; i < ARRAY_LEN(unfreezable); i++)
        if (strcmp(unfreezable[i], type) == 0)
            return false;
    return true;
}

// --- all of them

struct scan {
    const struct block_disks *disks;
    struct volume_mounts list;
    VEC(dev_t) done; // superblocks that need no other look
};

static bool scan_knows(const struct scan *s, dev_t dev)
{
    for (size_t i = 0; i < s->done.n; i++)
        if (s->done.v[i] == dev)
            return true;
    return false;
}

static int add_line(struct scan *s, const char *pid, const struct line *l, struct err *e)
{
    bool btrfs = strcmp(l->type, "btrfs") == 0, own = strcmp(pid, "self") == 0;
    struct block_place place = {0};
    dev_t dev = l->dev;
    if ((!major(l->dev) && !btrfs) || scan_knows(s, l->dev))
        return 0;
    AUTO(str_free)
    char *where = own ? xstrdup(l->where) : xasprintf("/proc/%s/root%s", pid, l->where);
    AUTO(fd_close) int fd = open_there(where, l);
    if (fd < 0)
        return 0; // hidden here; another place may show it
    if (btrfs ? block_place_btrfs(s->disks, fd, &place, &dev, e)
              : block_place(s->disks, major(dev), minor(dev), &place, e))
        return -1;
    vec_push(&s->done, l->dev);
    if (!place.disks)
        return 0;
    if (s->list.n == MOUNTS_MAX)
        return err_set(e, ERR_REFUSED, "more than %d file systems are mounted",
                       MOUNTS_MAX);
    struct volume_mount m = {.major = major(dev),
                             .minor = minor(dev),
                             .type = xstrdup(l->type),
                             .source = xstrdup(l->source),
                             .where = steal(where),
                             .uuid = uuid_of(dev),
                             .disks = place.disks,
                             .depth = place.depth,
                             .read_only = l->read_only,
                             .can_freeze = can_freeze(l->type)};
    vec_push(&s->list, m);
    return 0;
}

static int add_namespace(struct scan *s, const char *pid, struct err *e)
{
    AUTO(str_free) char *path = xasprintf("/proc/%s/mountinfo", pid);
    AUTO(buf_done) struct buf b = BUF_INIT(MOUNTINFO_MAX);
    char *save = NULL;
    if (file_read(path, &b, e))
        return strcmp(pid, "self") == 0 ? -1 : 0; // that process has gone
    for (char *text = b.data ? strtok_r(b.data, "\n", &save) : NULL; text;
         text = strtok_r(NULL, "\n", &save)) {
        struct line l;
        if (parse_line(text, &l) && add_line(s, pid, &l, e))
            return -1;
    }
    return 0;
}

// Whatever "/" is: the programs that we could still need are on it.
static void find_root(struct volume_mounts *m)
{
    struct stat st;
    for (size_t i = 0; stat("/", &st) == 0 && i < m->n; i++)
        m->v[i].root = strcmp(m->v[i].where, "/") == 0 ||
                       st.st_dev == makedev(m->v[i].major, m->v[i].minor);
}

static int compare(const void *a, const void *b)
{
    const struct volume_mount *x = a, *y = b;
    if (x->depth != y->depth)
        return x->depth > y->depth ? -1 : 1;
    if (x->root != y->root)
        return x->root ? 1 : -1;
    return strcmp(x->where, y->where);
}

int mounts_list(const struct block_disks *d, struct volume_mounts *ret, struct err *e)
{
    AUTO(strings_done) struct strings pids = {0};
    struct scan s = {.disks = d};
    int r = namespaces_list(&pids, e);
    for (size_t i = 0; r == 0 && i < pids.n; i++)
        r = add_namespace(&s, pids.v[i], e);
    vec_done(&s.done);
    if (r < 0) {
        mounts_done(&s.list);
        return -1;
    }
    find_root(&s.list);
    if (s.list.n)
        qsort(s.list.v, s.list.n, sizeof(*s.list.v), compare);
    *ret = s.list;
    return 0;
}
