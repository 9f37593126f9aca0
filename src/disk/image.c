// SPDX-License-Identifier: Apache-2.0
// An image that QEMU reads, as a disk. Every piece is read where `qemu-img map` says that
// it lies when the file is proven (DESIGN.md, idea 1): one system call instead of a trip
// through a server. Everything else goes to qemu-nbd. A raw image is simply a file.
//
// What surprises: a file may end inside its last cluster, and what is missing reads as
// zeros; further out nothing can lie, so that is a truncated file, where QEMU itself
// would quietly read zeros.
#include "disk/image_parts.h"

#include <inttypes.h>
#include <unistd.h>

#define MAP_WAIT_MS 300 // for the map at open; what takes longer is read as it is needed
#define CONNECTIONS 4   // to each qemu-nbd: more did not help

struct image {
    struct disk disk;
    struct image_chain chain;
    struct image_map *map; // NULL: everything through the server
    struct disk **files;   // by depth; NULL where data_path is
    struct disk *server;   // NULL: never needed
};
_Static_assert(offsetof(struct image, disk) == 0, "cast from struct disk");

// The whole extent's end decides, not a request's.
static int check_end(const struct image *im, const struct map_entry *x, struct err *e)
{
    const struct disk *file = im->files[x->depth];
    uint64_t end = x->at + x->len;
    if (end <= file->size ||
        (x->at < file->size && end - file->size < im->chain.v[x->depth].cluster))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s ends at %" PRIu64 ", but data should lie up to %" PRIu64
                   ": it was truncated",
                   file->name, file->size, end);
}

static int read_located(struct image *im, const struct map_entry *x, uint8_t *buf,
                        size_t len, uint64_t off, struct err *e)
{
    struct disk *file = im->files[x->depth];
    uint64_t at = x->at + (off - x->off);
    uint64_t there = at < file->size ? min_u64(len, file->size - at) : 0;
    if (there == len)
        return disk_read(file, buf, len, at, e);
    if (check_end(im, x, e) < 0) {
        e->code = ERR_FAILED; // too late to refuse
        return -1;
    }
    if (there > 0 && disk_read(file, buf, (size_t)there, at, e) < 0)
        return -1;
    memset(buf + there, 0, len - (size_t)there);
    return 0;
}

static int read_served(struct image *im, void *buf, size_t len, uint64_t off,
                       struct err *e)
{
    if (im->server == NULL)
        return err_set(e, ERR_RETRY, "its map changed while it was read");
    return disk_read(im->server, buf, len, off, e);
}

static int image_read(struct disk *d, void *data, size_t len, uint64_t off, struct err *e)
{
    struct image *im = (struct image *)d;
    uint8_t *buf = data;
    while (len > 0) {
        struct map_entry x = {0};
        bool found = false;
        if (im->map != NULL && image_map_find(im->map, off, &x, &found, e) < 0)
            return -1;
        size_t part = found ? (size_t)min_u64(len, x.off + x.len - off) : len;
        if (found && x.kind != EXTENT_DATA)
            memset(buf, 0, part);
        else if (found && x.located) {
            if (read_located(im, &x, buf, part, off, e) < 0)
                return -1;
        } else if (read_served(im, buf, part, off, e) < 0)
            return -1;
        buf += part;
        off += part;
        len -= part;
    }
    return 0;
}

static int image_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                         uint64_t *ret_done, struct err *e)
{
    struct image *im = (struct image *)d;
    const unsigned most = 256;
    uint64_t done = 0;
    if (im->map == NULL)
        return disk_extents(im->server, off, len, out, ret_done, e);
    for (unsigned i = 0; i < most && done < len; i++) {
        struct map_entry x;
        if (image_map_seek(im->map, off + done, &x, e) < 0)
            return -1;
        uint64_t part = min_u64(len - done, x.off + x.len - off - done);
        extents_append(out, off + done, part, (enum extent_kind)x.kind);
        done += part;
    }
    *ret_done = done;
    return 0;
}

static void image_close(struct disk *d)
{
    struct image *im = (struct image *)d;
    image_map_close(im->map);
    disk_close(im->server);
    for (size_t i = 0; im->files != NULL && i < im->chain.n; i++)
        disk_close(im->files[i]);
    free(im->files);
    image_chain_done(&im->chain);
    free(im->disk.name);
    free(im);
}

static const struct disk_ops image_ops = {
    .type = "image",
    .read = image_read,
    .extents = image_extents,
    .close = image_close,
};

static int open_files(struct image *im, struct err *e)
{
    im->files = xcalloc(im->chain.n, sizeof(struct disk *));
    for (size_t i = 0; i < im->chain.n; i++) {
        const struct image_link *link = &im->chain.v[i];
        struct file_options options = {.path = link->data_path};
        // An extent in a file of its own is whole; only the image itself can be a part.
        if (link->data_path != NULL && strcmp(link->data_path, link->path) == 0) {
            options.part_off = link->part_off;
            options.part_len = link->part_len;
        }
        if (link->data_path != NULL && file_open(&options, &im->files[i], e) < 0)
            return -1;
    }
    return 0;
}

// qemu-nbd's way to name one: both forms split at commas, which are doubled.
static int snapshot_option(const struct image *im, const char *snapshot, char **ret,
                           struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(8 * KIB);
    if (!strings_have(&im->chain.info.snapshots, snapshot))
        return err_set(e, ERR_REFUSED, "%s has no snapshot named \"%s\"", im->disk.name,
                       snapshot);
    buf_str(&b, "snapshot.name=");
    for (const char *s = snapshot; *s != '\0'; s++)
        buf_str(&b, (char[]){*s, *s == ',' ? ',' : '\0', '\0'});
    *ret = buf_steal(&b);
    return 0;
}

static int open_server(struct image *im, const struct image_options *o, struct err *e)
{
    AUTO(str_free) char *name = image_chain_name(&im->chain);
    AUTO(str_free) char *snapshot = NULL;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (o->snapshot != NULL && snapshot_option(im, o->snapshot, &snapshot, e) < 0)
        return -1;
    struct server_options options = {
        .name = name,
        .path = im->disk.name,
        .snapshot = snapshot,
        .n_children = im->chain.info.compressed && cpus > 1 ? 2 : 1,
        .connections = o->connections > 0 ? o->connections : CONNECTIONS,
    };
    if (image_server_open(&options, &im->server, e) < 0)
        return -1;
    if (im->server->size < im->disk.size && o->snapshot == NULL)
        return err_set(e, ERR_FAILED,
                       "qemu-nbd says that the disk of %s has %" PRIu64
                       " bytes, qemu-img said %" PRIu64,
                       im->disk.name, im->server->size, im->disk.size);
    im->disk.size = o->snapshot != NULL ? im->server->size : im->disk.size;
    im->disk.n_parallel = max_u64(im->disk.n_parallel, im->server->n_parallel) & 0xff;
    return 0;
}

// What the map has told so far, which is all of it but for the largest images: a
// truncated file is refused before anything is made of it.
static int check_known(struct image *im, struct err *e)
{
    struct map_entry x;
    for (size_t i = 0; image_map_known(im->map, i, &x); i++)
        if (x.located && check_end(im, &x, e) < 0)
            return -1;
    return 0;
}

static int image_setup(struct image *im, const struct image_options *o, struct err *e)
{
    const struct image_link *top = &im->chain.v[0];
    bool direct = false;
    im->disk.size = im->chain.info.size;
    if (o->snapshot == NULL && top->format->mapped) {
        if (open_files(im, e) < 0 || image_map_open(&im->chain, &im->map, e) < 0 ||
            image_map_complete(im->map, MAP_WAIT_MS, &direct, e) < 0 ||
            check_known(im, e) < 0)
            return -1;
    }
    return direct ? 0 : open_server(im, o, e);
}

int image_open(const struct image_options *options, struct disk **ret, struct err *e)
{
    struct image *im = xcalloc(1, sizeof(*im));
    im->disk = (struct disk){
        .ops = &image_ops,
        .name = xstrdup(options->path),
        .sector_size = 512,
        .alignment = 4096,
        .n_parallel = 8,
    };
    AUTO(disk_close) struct disk *d = (struct disk *)im;
    if (image_chain_open(options, &im->chain, e) < 0)
        return -1;
    if (strcmp(im->chain.info.format, "raw") == 0) {
        struct file_options file = {.path = options->path,
                                    .part_off = options->part_off,
                                    .part_len = options->part_len};
        if (options->snapshot != NULL)
            return err_set(e, ERR_REFUSED, "%s is raw and has no snapshots",
                           options->path);
        return file_open(&file, ret, e);
    }
    if (image_setup(im, options, e) < 0)
        return -1;
    *ret = steal(d);
    return 0;
}
