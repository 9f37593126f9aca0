// SPDX-License-Identifier: Apache-2.0
// The server's disks as NBD exports: sda as it is, sda.used without free space, sda.hash
// as hashes, and what changed as a metadata context of each.
#include "agent/source.h"

#include <stdio.h>

#define CHANGED "godwit:changed:"

// A used view keeps the allocation that it began with until it is closed.
struct used_disk {
    struct disk disk;
    struct disk *next; // used_new over the real one
    struct source *source;
    struct used_set *used;
};

static int used_disk_read(struct disk *d, void *buf, size_t len, uint64_t off,
                          struct err *e)
{
    return disk_read(((struct used_disk *)d)->next, buf, len, off, e);
}

static int used_disk_extents(struct disk *d, uint64_t off, uint64_t len,
                             struct extents *out, uint64_t *ret_done, struct err *e)
{
    return disk_extents(((struct used_disk *)d)->next, off, len, out, ret_done, e);
}

static void used_disk_close(struct disk *d)
{
    struct used_disk *u = (struct used_disk *)d;
    disk_close(u->next);
    used_put(u->source, u->used);
    free(u->disk.name);
    free(u);
}

static const struct disk_ops used_disk_ops = {
    .type = "used",
    .read = used_disk_read,
    .extents = used_disk_extents,
    .close = used_disk_close,
};

static int open_used(struct source *s, size_t i, struct disk *file /* taken */,
                     struct disk **ret, struct err *e)
{
    struct used_set *set = used_take(s);
    if (!set) {
        disk_close(file);
        return err_set(e, ERR_REFUSED, "what of %s is in use is not known: arm first",
                       s->disks.v[i].name);
    }
    struct used_disk *u = xcalloc(1, sizeof(*u));
    *u = (struct used_disk){.source = s, .used = set};
    u->disk = (struct disk){.ops = &used_disk_ops,
                            .name = xstrdup(file->name),
                            .size = file->size,
                            .sector_size = file->sector_size,
                            .alignment = file->alignment,
                            .n_parallel = file->n_parallel};
    u->next = used_new(file, &set->allocation.used[i]);
    *ret = (struct disk *)u;
    return 0;
}

// The disk that an export's name begins with, and what follows it.
static bool find_export(struct source *s, const char *name, size_t *ret_disk,
                        const char **ret_view)
{
    for (size_t i = 0; i < s->disks.n; i++) {
        const char *disk = s->disks.v[i].name;
        size_t len = strlen(disk);
        if (strncmp(name, disk, len) == 0 && (name[len] == '\0' || name[len] == '.')) {
            *ret_disk = i;
            *ret_view = name + len;
            return true;
        }
    }
    return false;
}

static int export_open(void *context, const char *name, struct disk **ret, struct err *e)
{
    struct source *s = context;
    size_t i;
    const char *view;
    pthread_mutex_lock(&s->lock);
    bool found = find_export(s, name, &i, &view);
    AUTO(str_free) char *node = found ? xstrdup(s->disks.v[i].node) : NULL;
    struct pace *pace = found ? source_pace(s, s->disks.v[i].name) : NULL;
    int status = found && strcmp(view, ".used") == 0 ? source_settle_again(s, e) : 0;
    pthread_mutex_unlock(&s->lock);
    if (status)
        return -1;
    if (!found || (*view && strcmp(view, ".used") != 0 && strcmp(view, ".hash") != 0))
        return err_set(e, ERR_REFUSED, "there is no export %s", name);
    struct disk *file = NULL;
    if (file_open(&(struct file_options){.path = node}, &file, e))
        return -1;
    file = paced_new(file, pace);
    if (strcmp(view, ".used") == 0)
        return open_used(s, i, file, ret, e);
    *ret = *view ? hashed_new(file, MAP_BLOCK) : file;
    return 0;
}

static void export_names(void *context, struct strings *ret)
{
    static const char *const views[] = {"", ".used", ".hash"};
    struct source *s = context;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->disks.n; i++) {
        for (size_t k = 0; k < ARRAY_LEN(views); k++)
            strings_take(ret, xasprintf("%s%s", s->disks.v[i].name, views[k]));
    }
    pthread_mutex_unlock(&s->lock);
}

static bool export_has_meta(void *context, const char *name, const char *meta)
{
    struct source *s = context;
    uint64_t id;
    size_t i;
    const char *view;
    if (!str_starts(meta, CHANGED) || str_to_u64(meta + strlen(CHANGED), &id))
        return false;
    pthread_mutex_lock(&s->lock);
    bool found = s->tracking && tracking_last(s->tracking) == id &&
                 find_export(s, name, &i, &view) && strcmp(view, ".hash") != 0;
    pthread_mutex_unlock(&s->lock);
    return found;
}

static int export_meta(void *context, const char *name, const char *meta, uint64_t off,
                       uint64_t len, struct extents *out, uint64_t *ret_done,
                       struct err *e)
{
    struct source *s = context;
    uint64_t id;
    size_t i;
    const char *view;
    if (str_to_u64(meta + strlen(CHANGED), &id))
        return err_set(e, ERR_REFUSED, "%s names no harvest", meta);
    pthread_mutex_lock(&s->lock);
    int status = s->tracking && find_export(s, name, &i, &view)
                     ? tracking_extents(s->tracking, i, id, off, len, out, ret_done, e)
                     : err_set(e, ERR_REFUSED, "nothing is tracked any more");
    pthread_mutex_unlock(&s->lock);
    return status;
}

struct serve_options source_exports(struct source *s)
{
    return (struct serve_options){.open = export_open,
                                  .names = export_names,
                                  .has_meta = export_has_meta,
                                  .meta = export_meta,
                                  .context = s};
}
