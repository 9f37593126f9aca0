// SPDX-License-Identifier: Apache-2.0
// Adds drivers to an initramfs without unpacking or running anything of the guest: one
// more cpio archive after what is there (DESIGN.md idea 6). What it has to get right:
//   - The path form of the main archive: an entry lib/… over its link lib → usr/lib would
//     make the kernel delete the link, and with it all of /lib.
//   - Folders before what is in them; the start at a multiple of 4 (512 here).
//   - The indexes of depmod replace those of the main archive, so they are made over the
//     modules of both.
//   - LZ4 has no end mark: what follows is taken for a block ("Decoding failed"), so an
//     LZ4 archive is packed anew with gzip.
// Modules are copied as the guest has them, compressed or not: its kmod reads what its
// kernel package ships.
#include "guest/initramfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zlib.h>

#include "guest/guest.h"
#include "guest/text.h"

#define ALIGN 512
#define COPY_PIECE (256 * KIB)

// One image at work.
struct work {
    const struct initramfs_job *job;
    int fd;
    struct source source;
    struct segments segments;
    struct contents contents;
    struct modules *modules;
    struct depmod *depmod;
    char *dir; // of the modules in the image: "usr/lib/modules/6.1.0-18-amd64"
    struct strings missing; // module files to add
    struct strings indexed; // those and the image's own
    struct strings folders; // written so far
    struct buf *out;
};

static void work_done(struct work *w)
{
    fd_close(w->fd);
    source_done(&w->source);
    contents_done(&w->contents);
    modules_close(w->modules);
    depmod_free(w->depmod);
    free(w->dir);
    strings_done(&w->missing);
    strings_done(&w->indexed);
    strings_done(&w->folders);
}

static void auto_work_done(struct work *w)
{
    work_done(w);
}

void initramfs_patch_done(struct initramfs_patch *p)
{
    free(steal(p->path));
    strings_done(&p->added);
    strings_done(&p->notes);
    buf_done(&p->segment);
}

// The module's file name below the kernel's folder in the image, if the image has it.
static bool has_module(const struct work *w, const char *name)
{
    size_t n = strlen(w->dir);
    for (size_t i = 0; i < w->contents.n; i++) {
        const struct content *c = &w->contents.v[i];
        if (!S_ISREG(c->mode) || strncmp(c->path, w->dir, n) != 0 || c->path[n] != '/' ||
            !strstr(c->path + n, ".ko"))
            continue;
        AUTO(str_free) char *other = module_name(c->path);
        if (strcmp(other, name) == 0)
            return true;
    }
    return false;
}

static int find_missing(struct work *w, struct err *e)
{
    AUTO(strings_done) struct strings paths = {0};
    for (size_t i = 0; i < w->job->drivers->n; i++)
        if (modules_closure(w->modules, w->job->drivers->v[i], &paths, e))
            return -1;
    for (size_t i = 0; i < paths.n; i++) {
        AUTO(str_free) char *name = module_name(paths.v[i]);
        if (!has_module(w, name))
            strings_add(&w->missing, paths.v[i]);
    }
    return 0;
}

// --- the new archive

// Every folder on the way to `path` that this archive has not had yet.
static void add_folders(struct work *w, const char *path)
{
    for (size_t n = strcspn(path, "/"); path[n]; n += 1 + strcspn(path + n + 1, "/")) {
        AUTO(str_free) char *dir = xstrndup(path, n);
        if (strings_have(&w->folders, dir))
            continue;
        cpio_write(w->out, dir, S_IFDIR | 0755, "", 0);
        strings_add(&w->folders, dir);
    }
}

static void add_file(struct work *w, const char *path, const void *data, size_t len)
{
    AUTO(str_free) char *resolved = contents_resolve(&w->contents, path);
    add_folders(w, resolved);
    cpio_write(w->out, resolved, S_IFREG | 0644, data, len);
}

// Extracts the image's own modules, and what depmod needs beside them.
struct extract {
    struct work *work;
    int fd;
};

static bool wanted_file(const char *rest)
{
    return strstr(rest, ".ko") || strcmp(rest, "modules.order") == 0 ||
           strcmp(rest, "modules.builtin") == 0 ||
           strcmp(rest, "modules.builtin.modinfo") == 0;
}

static int extract_entry(void *ctx, const struct cpio_entry *entry, struct err *e)
{
    struct extract *x = ctx;
    fd_close(x->fd);
    x->fd = -1;
    const char *name = entry->name;
    while (*name == '/' || str_starts(name, "./"))
        name += *name == '/' ? 1 : 2;
    size_t n = strlen(x->work->dir);
    if (!S_ISREG(entry->mode) || strncmp(name, x->work->dir, n) != 0 || name[n] != '/' ||
        !wanted_file(name + n + 1))
        return 0;
    if (entry->size > MODULE_LIMIT)
        return err_set(e, ERR_REFUSED, "%s in the initramfs is too large", name);
    if (!entry->size) // a hard link, whose content is at another entry
        return err_set(e, ERR_REFUSED, "%s in the initramfs is empty", name);
    if (strstr(name + n + 1, ".ko"))
        strings_add(&x->work->indexed, name + n + 1);
    return depmod_file(x->work->depmod, name + n + 1, &x->fd, e);
}

static int extract_data(void *ctx, const void *data, size_t len, struct err *e)
{
    struct extract *x = ctx;
    if (x->fd >= 0 && fd_write(x->fd, data, len))
        return err_errno(e, errno, "cannot write a module to a temporary file");
    return 0;
}

static int extract_modules(struct work *w, struct err *e)
{
    struct extract x = {.work = w, .fd = -1};
    struct cpio_sink sink = {extract_entry, extract_data, &x};
    int rc = source_seek(&w->source, 0, e);
    rc = rc ? rc : initramfs_walk(&w->source, &sink, NULL, e);
    fd_close(x.fd);
    return rc;
}

// A file of the guest's kernel folder into depmod's.
static int take_from_guest(struct work *w, const char *path, struct buf *content,
                           struct err *e)
{
    AUTO(str_free) char *full = xasprintf("/lib/modules/%s/%s", w->job->version, path);
    if (tree_read(w->job->tree, full, content, e))
        return -1;
    AUTO(fd_close) int fd = -1;
    if (depmod_file(w->depmod, path, &fd, e))
        return -1;
    if (fd_write(fd, content->data, content->len))
        return err_errno(e, errno, "cannot write a module to a temporary file");
    return 0;
}

// What depmod reads besides modules; an image that has none gets the guest's.
static int take_lists(struct work *w, struct err *e)
{
    static const char *const lists[] = {"modules.order", "modules.builtin",
                                        "modules.builtin.modinfo"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        AUTO(buf_done) struct buf content = BUF_INIT(32 * MIB);
        AUTO(str_free)
        char *full = xasprintf("/lib/modules/%s/%s", w->job->version, lists[i]);
        if (depmod_has(w->depmod, lists[i]) || !tree_exists(w->job->tree, full))
            continue;
        if (take_from_guest(w, lists[i], &content, e))
            return -1;
    }
    return 0;
}

// Every module must be in the new indexes: one that depmod passed over (it says nothing
// of a compression that it was built without) would be lost to the image.
static int check_indexed(struct work *w, struct err *e)
{
    AUTO(buf_done) struct buf dep = BUF_INIT(64 * MIB);
    buf_str(&dep, "\n");
    if (depmod_read(w->depmod, "modules.dep", &dep, e))
        return -1;
    for (size_t i = 0; i < w->indexed.n; i++) {
        AUTO(str_free) char *row = xasprintf("\n%s:", w->indexed.v[i]);
        if (!strstr(dep.data, row))
            return err_set(e, ERR_FAILED, "depmod cannot read module %s of kernel %s",
                           w->indexed.v[i], w->job->version);
    }
    return 0;
}

static int add_modules(struct work *w, struct initramfs_patch *p, struct err *e)
{
    if (depmod_new(w->job->version, &w->depmod, e) || extract_modules(w, e) ||
        take_lists(w, e))
        return -1;
    for (size_t i = 0; i < w->missing.n; i++) {
        AUTO(buf_done) struct buf content = BUF_INIT(MODULE_LIMIT);
        if (take_from_guest(w, w->missing.v[i], &content, e))
            return -1;
        AUTO(str_free) char *path = path_join(w->dir, w->missing.v[i]);
        add_file(w, path, content.data, content.len);
        strings_add(&w->indexed, w->missing.v[i]);
        strings_take(&p->added, module_name(w->missing.v[i]));
    }
    AUTO(strings_done) struct strings indexes = {0};
    if (depmod_run(w->depmod, e) || check_indexed(w, e) ||
        depmod_indexes(w->depmod, &indexes, e))
        return -1;
    for (size_t i = 0; i < indexes.n; i++) {
        AUTO(buf_done) struct buf content = BUF_INIT(64 * MIB);
        if (depmod_read(w->depmod, indexes.v[i], &content, e))
            return -1;
        AUTO(str_free) char *path = path_join(w->dir, indexes.v[i]);
        add_file(w, path, content.data, content.len);
    }
    return 0;
}

// The list of modules that the image loads whatever udev finds: conf/modules of
// initramfs-tools, a file of systemd-modules-load for dracut.
static void add_load_list(struct work *w)
{
    bool tools = contents_find(&w->contents, "conf/initramfs.conf") ||
                 contents_find(&w->contents, "conf/modules");
    const char *path = tools ? "conf/modules" : "etc/modules-load.d/godwit.conf";
    const struct content *old = contents_find(&w->contents, path);
    AUTO(buf_done) struct buf list = BUF_INIT(MIB);
    if (old && old->text)
        buf_str(&list, old->text);
    if (list.len && list.data[list.len - 1] != '\n')
        buf_str(&list, "\n");
    for (size_t i = 0; i < w->job->drivers->n; i++) {
        const char *name = w->job->drivers->v[i];
        if (modules_builtin(w->modules, name))
            continue;
        struct span rest = {list.data, list.len}, line;
        bool listed = false;
        while (text_line(&rest, &line))
            listed |= span_is(span_trim(line), name);
        if (!listed)
            buf_printf(&list, "%s\n", name);
    }
    add_file(w, path, list.data, list.len);
}

static void add_edits(struct work *w, struct initramfs_patch *p)
{
    for (size_t i = 0; w->job->edit && i < w->contents.n; i++) {
        const struct content *c = &w->contents.v[i];
        AUTO(buf_done) struct buf text = BUF_INIT(MIB);
        if (!S_ISREG(c->mode) || !c->text ||
            !w->job->edit(w->job->ctx, c->path, c->text, &text) ||
            contents_find(&w->contents, c->path) != c) // a later one replaces it
            continue;
        add_file(w, c->path, text.data, text.len);
        strings_take(&p->notes, xasprintf("%s: %s changed", w->job->path, c->path));
    }
    bool files = !w->job->files_if;
    for (size_t i = 0; w->job->files_if && i < w->job->files_if->n; i++)
        files |= has_module(w, w->job->files_if->v[i]) ||
                 modules_builtin(w->modules, w->job->files_if->v[i]);
    for (size_t i = 0; files && i < w->job->n_files; i++) {
        const struct initramfs_file *f = &w->job->files[i];
        const struct content *old = contents_find(&w->contents, f->path);
        if (old && old->text && strcmp(old->text, f->text) == 0)
            continue;
        add_file(w, f->path, f->text, strlen(f->text));
        strings_take(&p->notes, xasprintf("%s: %s added", w->job->path, f->path));
    }
}

static int open_work(struct work *w, struct err *e)
{
    if (tree_fd(w->job->tree, w->job->path, O_RDONLY, 0, &w->fd, e) ||
        source_open(w->fd, &w->source, e) ||
        contents_read(&w->source, &w->contents, &w->segments, e) ||
        modules_open(w->job->tree, w->job->version, &w->modules, e))
        return -1;
    if (!w->segments.n)
        return err_set(e, ERR_FAILED, "the image is empty");
    AUTO(str_free) char *dir = xasprintf("lib/modules/%s", w->job->version);
    w->dir = contents_resolve(&w->contents, dir);
    return 0;
}

static void note_added(const struct initramfs_job *job, struct initramfs_patch *p)
{
    AUTO(buf_done) struct buf names = BUF_INIT(64 * KIB);
    for (size_t i = 0; i < p->added.n; i++)
        buf_printf(&names, "%s%s", i ? " " : "", p->added.v[i]);
    if (p->added.n)
        strings_take(&p->notes,
                     xasprintf("%s: added %s", job->path, names.data ? names.data : ""));
}

int initramfs_prepare(const struct initramfs_job *job, struct initramfs_patch *ret,
                      bool *ret_needed, struct err *e)
{
    struct work w __attribute__((cleanup(auto_work_done))) = {.job = job, .fd = -1};
    AUTO(initramfs_patch_done) struct initramfs_patch p = {.path = xstrdup(job->path)};
    p.segment = BUF_INIT(NEW_SEGMENT_LIMIT);
    w.out = &p.segment;
    if (open_work(&w, e) || find_missing(&w, e))
        return err_wrap(e, "%s in the guest", job->path);
    if (w.missing.n) {
        if (add_modules(&w, &p, e))
            return err_wrap(e, "%s in the guest", job->path);
        add_load_list(&w);
    }
    note_added(job, &p);
    add_edits(&w, &p);
    *ret_needed = p.segment.len > 0;
    if (!*ret_needed)
        return 0;
    cpio_write_end(&p.segment);
    if (p.segment.overflow)
        return err_set(e, ERR_REFUSED, "the drivers for %s are too large", job->path);
    struct segment last = w.segments.v[w.segments.n - 1];
    if (last.codec && last.codec->endless)
        p.rewrite = last;
    p.old_size = w.source.size;
    p.new_size = round_up(w.source.size, ALIGN) + p.segment.len;
    *ret = p;
    p = (struct initramfs_patch){0};
    return 0;
}

// --- carrying it out

struct pack {
    z_stream z;
    uint8_t out[64 * 1024];
    int fd;
};

static int pack_some(struct pack *p, int flush, struct err *e)
{
    int rc;
    do {
        p->z.next_out = p->out;
        p->z.avail_out = sizeof(p->out);
        rc = deflate(&p->z, flush);
        if (fd_write(p->fd, p->out, sizeof(p->out) - p->z.avail_out))
            return err_errno(e, errno, "cannot write the image");
    } while (p->z.avail_out == 0 || (flush == Z_FINISH && rc != Z_STREAM_END));
    return 0;
}

static int pack_write(void *ctx, const void *data, size_t len, struct err *e)
{
    struct pack *p = ctx;
    p->z.next_in = (uint8_t *)data;
    p->z.avail_in = (uInt)len; // pieces are of a few MiB
    return pack_some(p, Z_NO_FLUSH, e);
}

// Packs a segment anew with gzip, which every kernel with an initramfs of any other
// compression reads too (the configuration's default has all of them).
static int repack(struct source *s, const struct segment *seg, int fd, struct err *e)
{
    AUTO(free) void *memory = xcalloc(1, sizeof(struct pack));
    struct pack *p = memory;
    p->fd = fd;
    if (deflateInit2(&p->z, 4, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(e, ERR_FAILED, "cannot start zlib");
    struct byte_sink sink = {pack_write, p};
    int rc = source_seek(s, seg->off, e);
    rc = rc ? rc : source_fill(s, e);
    rc = rc ? rc : codec_unpack(seg->codec, s, &sink, e);
    rc = rc ? rc : pack_some(p, Z_FINISH, e);
    deflateEnd(&p->z);
    return rc;
}

static int copy_bytes(struct source *s, uint64_t len, int fd, struct err *e)
{
    if (source_seek(s, 0, e))
        return -1;
    while (s->off < len) {
        if (source_fill(s, e))
            return -1;
        size_t n = min_u64(s->len - s->at, len - s->off);
        if (!n)
            return err_set(e, ERR_FAILED, "the image ends early");
        if (fd_write(fd, s->data + s->at, n))
            return err_errno(e, errno, "cannot write the image");
        source_take(s, n);
    }
    return 0;
}

static int write_image(struct source *s, const struct initramfs_patch *p, int fd,
                       struct err *e)
{
    static const uint8_t zeros[ALIGN];
    uint64_t keep = p->rewrite.len ? p->rewrite.off : s->size;
    if (copy_bytes(s, keep, fd, e) || (p->rewrite.len && repack(s, &p->rewrite, fd, e)))
        return -1;
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at < 0)
        return err_errno(e, errno, "cannot write the image");
    size_t pad = (size_t)(round_up((uint64_t)at, ALIGN) - (uint64_t)at);
    if (fd_write(fd, zeros, pad) || fd_write(fd, p->segment.data, p->segment.len))
        return err_errno(e, errno, "cannot write the image");
    return 0;
}

int initramfs_commit(struct tree *t, const struct initramfs_patch *p, struct err *e)
{
    AUTO(fd_close) int old = -1;
    AUTO(source_done) struct source s = {0};
    AUTO(tree_replace_end) struct tree_new *new = NULL;
    int fd = -1;
    if (tree_fd(t, p->path, O_RDONLY, 0, &old, e) ||
        tree_replace(t, p->path, &new, &fd, e))
        return -1;
    if (source_open(old, &s, e) || write_image(&s, p, fd, e))
        return err_wrap(e, "%s in the guest", p->path);
    return tree_replace_commit(new, e);
}

int initramfs_room(struct tree *t, const struct initramfs_patch *patches, size_t n,
                   struct err *e)
{
    uint64_t grown = 0;
    for (size_t i = 0; i < n; i++) {
        const struct initramfs_patch *p = &patches[i];
        AUTO(str_free) char *dir = path_dir(p->path);
        AUTO(fd_close) int fd = -1;
        struct statvfs fs;
        if (tree_fd(t, dir, O_RDONLY | O_DIRECTORY, 0, &fd, e))
            return -1;
        if (fstatvfs(fd, &fs))
            return err_errno(e, errno, "cannot examine %s in the guest", dir);
        uint64_t free_bytes = (uint64_t)fs.f_bfree * fs.f_frsize;
        uint64_t needed = grown + p->new_size + 64 * KIB;
        char has[16], wants[16];
        if (needed > free_bytes)
            return err_set(e, ERR_REFUSED,
                           "no room in the guest's %s to write %s anew: %s are free, %s "
                           "are needed; remove an old kernel there",
                           dir, path_base(p->path), str_bytes(free_bytes, has),
                           str_bytes(needed, wants));
        grown += p->new_size - p->old_size;
    }
    return 0;
}

int initramfs_add_modules(struct tree *t, const char *path, const char *kernel_version,
                          const struct strings *drivers, struct strings *ret_added,
                          struct err *e)
{
    struct initramfs_job job = {
        .tree = t, .path = path, .version = kernel_version, .drivers = drivers};
    AUTO(initramfs_patch_done) struct initramfs_patch p = {0};
    bool needed = false;
    if (initramfs_prepare(&job, &p, &needed, e))
        return -1;
    if (needed && (initramfs_room(t, &p, 1, e) || initramfs_commit(t, &p, e)))
        return -1;
    for (size_t i = 0; i < p.added.n; i++)
        strings_add(ret_added, p.added.v[i]);
    return 0;
}
