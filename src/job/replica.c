// SPDX-License-Identifier: Apache-2.0
// A raw target and its map, opened for one more run. What may be overwritten: what is not
// there, what holds nothing (a run was killed between making the file and its map), and
// what its map proves to be a replica of ours. Everything else is somebody's file.
#include "job/job.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

void replica_close(struct replica *r)
{
    map_close(r->map);
    disk_close(r->disk);
    *r = (struct replica){0};
}

static int unlink_both(const struct replica_options *o, struct err *e)
{
    if (unlink(o->map_path) && errno != ENOENT)
        return err_errno(e, errno, "removing %s", o->map_path);
    if (unlink(o->path) && errno != ENOENT)
        return err_errno(e, errno, "removing %s", o->path);
    return 0;
}

static struct map_key key_of(const struct replica_options *o)
{
    return (struct map_key){.replica = o->path, .size = o->size, .source = o->identity};
}

// Everything from the start, on a file of our own.
static int make(const struct replica_options *o, struct replica *ret, struct err *e)
{
    AUTO(replica_close) struct replica r = {.is_zero = true};
    if (unlink_both(o, e))
        return -1;
    struct file_options file = {
        .path = o->path, .writable = true, .create = true, .size = o->size};
    struct map_key key = key_of(o);
    if (file_open(&file, &r.disk, e) || map_create(o->map_path, &key, &r.map, e))
        return -1;
    *ret = r;
    r = (struct replica){0};
    return 0;
}

static int reopen(const struct replica_options *o, bool is_zero, struct replica *ret,
                  struct err *e)
{
    AUTO(replica_close) struct replica r = {.is_zero = is_zero};
    struct map_key key = key_of(o);
    struct file_options file = {.path = o->path, .writable = true};
    // The file first: its lock says "in use by a running QEMU", which must not be taken
    // for a replica to be made anew.
    if (file_open(&file, &r.disk, e) || map_open(o->map_path, &key, &r.map, e))
        return -1;
    if (r.disk->size < o->size)
        return err_set(e, ERR_REFUSED, "%s was cut off", o->path);
    struct map_state state = map_state(r.map);
    r.complete = state.round > 0 && state.round_complete;
    *ret = r;
    r = (struct replica){0};
    return 0;
}

static int open_device(const struct replica_options *o, struct replica *ret,
                       struct err *e)
{
    AUTO(replica_close) struct replica r = {0};
    struct map_key key = key_of(o);
    if (!reopen(o, false, ret, e))
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

int replica_open(const struct replica_options *o, struct replica *ret, struct err *e)
{
    struct stat st, map_st;
    if (lstat(o->path, &st)) {
        if (errno != ENOENT)
            return err_errno(e, errno, "looking at %s", o->path);
        return make(o, ret, e);
    }
    if (S_ISLNK(st.st_mode) && stat(o->path, &st))
        return err_errno(e, errno, "following %s", o->path);
    if (S_ISBLK(st.st_mode))
        return open_device(o, ret, e);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s is neither a file nor a block device",
                       o->path);
    bool ours = false;
    if (!lstat(o->map_path, &map_st) && map_is_of(o->map_path, o->path, &ours, e))
        return -1;
    if (ours && !reopen(o, true, ret, e))
        return 0;
    if (ours && e->code != ERR_REFUSED)
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
