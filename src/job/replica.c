// SPDX-License-Identifier: Apache-2.0
// A target and its map, opened for one more run. What may be overwritten: what is not
// there, what holds nothing (a run was killed between making the file and its map), and
// what its map proves to be a replica of ours. Everything else is somebody's file.
//
// A qcow2 file is never empty, so it is made under a hidden name and gets its own when
// its map exists: no kill leaves a file of which nothing proves that it is ours.
#include "job/job.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN_USE_MS 3000 // the qemu-nbd of a run that was killed ends a little later
#define IN_USE_STEP_US 20000

void replica_close(struct replica *r)
{
    map_close(r->map);
    disk_close(r->disk);
    *r = (struct replica){0};
}

static struct map_key key_of(const struct replica_options *o)
{
    return (struct map_key){
        .replica = o->path, .size = o->size, .source = o->identity, .hash = o->hash};
}

static char *part_name(const char *path)
{
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(str_free) char *name = xasprintf(".%s.godwit-part", path_base(path));
    return path_join(dir, name);
}

// The map knows a replica by its inode, which keeps when its name changes.
static int make_named(const struct replica_options *o, const char *part, struct map **ret,
                      struct err *e)
{
    struct map_key key = key_of(o);
    key.replica = part;
    if (qcow2_create(part, o->size, e) || map_create(o->map_path, &key, ret, e))
        return -1;
    if (link(part, o->path)) // never over a file that appeared meanwhile
        return err_errno(e, errno, "naming %s", o->path);
    return 0;
}

static int make_qcow2(const struct replica_options *o, struct replica *ret, struct err *e)
{
    AUTO(replica_close) struct replica r = {.is_zero = true};
    AUTO(str_free) char *part = part_name(o->path);
    if (file_remove(part, e))
        return -1;
    int status = make_named(o, part, &r.map, e);
    (void)unlink(part); // its other name is left, or nothing
    if (status) {
        (void)unlink(o->map_path); // of nothing now
        return -1;
    }
    if (qcow2_open(o->path, true, &r.disk, e))
        return -1;
    *ret = r;
    r = (struct replica){0};
    return 0;
}

// Everything from the start, on a file of our own.
static int make(const struct replica_options *o, struct replica *ret, struct err *e)
{
    AUTO(replica_close) struct replica r = {.is_zero = true};
    if (file_remove(o->map_path, e) || file_remove(o->path, e))
        return -1;
    if (o->qcow2)
        return make_qcow2(o, ret, e);
    struct file_options file = {
        .path = o->path, .writable = true, .create = true, .size = o->size};
    struct map_key key = key_of(o);
    if (file_open(&file, &r.disk, e))
        return -1;
    if (map_create(o->map_path, &key, &r.map, e)) {
        (void)unlink(o->map_path); // half made, as the replica: the error is there
        (void)unlink(o->path);
        return -1;
    }
    *ret = r;
    r = (struct replica){0};
    return 0;
}

// The file as it is, locked.
static int open_file(const struct replica_options *o, struct disk **ret, struct err *e)
{
    struct file_options file = {.path = o->path, .writable = true};
    uint64_t start = clock_ms();
    while (file_open(&file, ret, e)) {
        if (!o->qcow2 || e->code != ERR_REFUSED || clock_ms() - start >= IN_USE_MS ||
            cancel_requested())
            return -1;
        usleep(IN_USE_STEP_US);
    }
    return 0;
}

// r->disk is the file; becomes what lies in it.
static int open_inside(const struct replica_options *o, struct replica *r, struct err *e)
{
    AUTO(str_free) char *part = part_name(o->path);
    (void)unlink(part); // a kill may have left both names
    disk_close(steal(r->disk));
    if (!r->complete && qcow2_mend(o->path, e))
        return -1;
    return qcow2_open(o->path, !r->complete, &r->disk, e);
}

// *ret_anew: what is there is of no use for this source.
static int reopen(const struct replica_options *o, bool is_zero, struct replica *ret,
                  bool *ret_anew, struct err *e)
{
    AUTO(replica_close) struct replica r = {.is_zero = is_zero};
    struct map_key key = key_of(o);
    *ret_anew = false;
    // The file first: its lock says "in use by a running QEMU", which must not be taken
    // for a replica to be made anew.
    if (open_file(o, &r.disk, e))
        return -1;
    if (map_open(o->map_path, &key, &r.map, e)) {
        *ret_anew = e->code == ERR_REFUSED;
        return -1;
    }
    struct map_state state = map_state(r.map);
    r.complete = state.round > 0 && state.round_complete;
    if (o->qcow2 && open_inside(o, &r, e))
        return -1;
    if (r.disk->size < o->size) {
        *ret_anew = true;
        return err_set(e, ERR_REFUSED, "%s was cut off", o->path);
    }
    *ret = r;
    r = (struct replica){0};
    return 0;
}

static int open_device(const struct replica_options *o, struct replica *ret,
                       struct err *e)
{
    AUTO(replica_close) struct replica r = {0};
    struct map_key key = key_of(o);
    bool anew;
    if (!reopen(o, false, ret, &anew, e))
        return 0;
    struct file_options file = {.path = o->path, .writable = true};
    if (file_open(&file, &r.disk, e))
        return -1;
    if (r.disk->size < o->size)
        return err_set(e, ERR_REFUSED, "%s has %llu bytes, %llu are needed", o->path,
                       (unsigned long long)r.disk->size, (unsigned long long)o->size);
    if (map_create(o->map_path, &key, &r.map, e))
        return -1;
    *ret = r;
    r = (struct replica){0};
    return 0;
}

// The map is made anew whenever it does not fit, so nothing else may lie in its place:
// the source, say.
static int check_map_path(const struct replica_options *o, struct err *e)
{
    AUTO(str_free) char *map = NULL;
    AUTO(str_free) char *replica = NULL;
    if (path_real(o->map_path, &map, e) || path_real(o->path, &replica, e))
        return -1;
    if (strcmp(map, replica) == 0)
        return err_set(e, ERR_USAGE, "%s cannot be a replica and its map", map);
    return map_may_replace(o->map_path, e);
}

static int open_any(const struct replica_options *o, struct replica *ret, struct err *e)
{
    struct stat st, map_st;
    if (check_map_path(o, e))
        return -1;
    if (lstat(o->path, &st)) {
        if (errno != ENOENT)
            return err_errno(e, errno, "looking at %s", o->path);
        return make(o, ret, e);
    }
    if (S_ISLNK(st.st_mode) && stat(o->path, &st))
        return err_errno(e, errno, "following %s", o->path);
    if (S_ISBLK(st.st_mode) && o->qcow2)
        return err_set(e, ERR_REFUSED, "%s is a device: qcow2 goes to a file", o->path);
    if (S_ISBLK(st.st_mode))
        return open_device(o, ret, e);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s is neither a file nor a block device",
                       o->path);
    bool ours = false, anew = false;
    if (!lstat(o->map_path, &map_st) && map_is_of(o->map_path, o->path, &ours, e))
        return -1;
    if (ours && !reopen(o, true, ret, &anew, e))
        return 0;
    if (ours && !anew)
        return -1;
    if (!ours && st.st_blocks > 0)
        return err_set(e, ERR_REFUSED,
                       "%s is there already and %s does not say that godwit made it: "
                       "remove it, or choose another name",
                       o->path, o->map_path);
    // Another process may hold it open: opening says so, before anything is removed.
    AUTO(disk_close) struct disk *probe = NULL;
    struct file_options file = {.path = o->path, .writable = true};
    if (st.st_size > 0 && file_open(&file, &probe, e))
        return -1;
    return make(o, ret, e);
}

int replica_open(const struct replica_options *options, struct replica *ret,
                 struct err *e)
{
    // A map of a raw file must not be taken for one of what lies inside a qcow2 file.
    AUTO(str_free) char *identity = xasprintf("%s, as qcow2", options->identity);
    struct replica_options o = *options;
    if (o.qcow2)
        o.identity = identity;
    return open_any(&o, ret, e);
}
