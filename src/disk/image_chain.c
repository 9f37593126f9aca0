// SPDX-License-Identifier: Apache-2.0
// An image and every file beneath it: backing files, extents, data files. One link is
// looked at after the other, each opened by QEMU alone ("backing": null, the data file
// replaced by an empty node), and no file is opened by QEMU before its name was resolved
// and found to be a plain file in the folder allowed. From what was found one name is
// built that spells out every node, so that nothing is ever opened because an image says
// so. All files are locked as a reader does it (lock.c) before they are looked at.
#include "disk/image_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

// State of one walk along the chain.
struct walk {
    struct image_chain *chain;
    const struct image_options *options;
    char *allowed; // resolved; NULL: everything
    VEC(struct stat) seen;
};

static void walk_done(struct walk *w)
{
    free(w->allowed);
    vec_done(&w->seen);
}
__attribute__((unused)) static inline void auto_walk_done(struct walk *w)
{
    walk_done(w);
}

void image_chain_done(struct image_chain *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->v[i].path);
        free(c->v[i].data_file);
        free(c->v[i].data_path);
    }
    vec_done(c);
    for (size_t i = 0; i < c->n_locks; i++)
        fd_close(c->locks[i]);
    free(c->locks);
    c->locks = NULL;
    c->n_locks = c->cap_locks = 0;
    image_info_done(&c->info);
}

// --- names that an image gives

// A plain file name, relative to the folder of `from`, resolved and inside the folder
// allowed. `role` says what it is to the image.
static int walk_resolve(struct walk *w, const char *from, const char *name,
                        const char *role, char **ret, struct err *e)
{
    if (str_starts(name, "file:"))
        name += strlen("file:");
    // "nbd://…", "json:{…}", "fat:…": a protocol to QEMU, and no place for a disk.
    if (name[strcspn(name, ":/")] == ':')
        return err_set(e, ERR_REFUSED, "%s names \"%.200s\" as its %s, which is no file",
                       from, name, role);
    AUTO(str_free) char *dir = path_dir(from);
    AUTO(str_free) char *joined = name[0] == '/' ? xstrdup(name) : path_join(dir, name);
    AUTO(str_free) char *real = NULL;
    struct stat st = {0};
    if (path_real(joined, &real, e) < 0) {
        err_wrap(e, "the %s of %s", role, from);
        e->code = ERR_REFUSED;
        return -1;
    }
    if (w->allowed != NULL && !path_under(real, w->allowed))
        return err_set(
            e, ERR_REFUSED,
            "%s names %s as its %s, which lies outside of %s (--allow-path lets "
            "it pass)",
            from, real, role, w->allowed);
    if (stat(real, &st) < 0) {
        err_errno(e, errno, "the %s of %s: %s", role, from, real);
        e->code = ERR_REFUSED;
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !(S_ISBLK(st.st_mode) && w->allowed == NULL))
        return err_set(e, ERR_REFUSED, "%s names %s as its %s, which is no file", from,
                       real, role);
    *ret = steal(real);
    return 0;
}

// What is mounted changes while it is read. Only asked, not held: two may read.
static int device_check(const char *path, struct err *e)
{
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_EXCL);
    if (fd < 0 && errno == EBUSY)
        return err_set(e, ERR_REFUSED,
                       "%s is in use: mounted, or part of something that is; unmount it, "
                       "or copy from a snapshot",
                       path);
    return 0;
}

// Opens and locks a file of the image; *ret_fd stays the chain's.
static int walk_lock(struct walk *w, const char *path, int *ret_fd, struct stat *ret_st,
                     struct err *e)
{
    struct image_chain *c = w->chain;
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, ret_st) < 0)
        return err_errno(e, errno, "open %s", path);
    if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
        return err_set(e, ERR_REFUSED, "%s is neither a file nor a block device", path);
    if (S_ISBLK(ret_st->st_mode) && device_check(path, e) < 0)
        return -1;
    if (disk_lock(fd, path, false, e) < 0)
        return -1;
    if (c->n_locks == c->cap_locks)
        c->locks = vec_grow(c->locks, &c->cap_locks, sizeof(*c->locks));
    *ret_fd = c->locks[c->n_locks++] = steal_fd(&fd);
    strings_add(&c->info.files, path);
    c->info.file_bytes += (uint64_t)ret_st->st_blocks * 512;
    return 0;
}

// --- extents of a VMDK

struct extent_walk {
    struct walk *walk;
    struct image_link *link;
    unsigned n;
};

static int extent_found(void *context, const char *name, uint64_t need, struct err *e)
{
    struct extent_walk *x = context;
    struct image_link *link = x->link;
    AUTO(str_free) char *path = NULL;
    struct stat st = {0};
    int fd;
    free(link->data_path);
    link->data_path = NULL;
    x->n++;
    if (name == NULL)
        return 0;
    if (walk_resolve(x->walk, link->path, name, "extent", &path, e) < 0 ||
        walk_lock(x->walk, path, &fd, &st, e) < 0)
        return -1;
    if ((uint64_t)st.st_size < need || st.st_size % 512 != 0)
        return err_set(e, ERR_REFUSED,
                       "%s has %" PRIu64 " bytes where %s says at least %" PRIu64
                       " in whole sectors: it was truncated",
                       path, (uint64_t)st.st_size, link->path, need);
    // The data lies in one file only when there is no second one.
    if (x->n == 1)
        link->data_path = steal(path);
    return 0;
}

static int link_extents(struct walk *w, struct image_link *link, const char *descriptor,
                        struct err *e)
{
    struct extent_walk x = {.walk = w, .link = link};
    if (link->part_off != 0 || link->part_len != 0)
        return err_set(e, ERR_REFUSED, "%s: a VMDK inside that names further files",
                       link->path);
    return vmdk_extents(descriptor, link->path, extent_found, &x, e);
}

// --- what qemu-img says of one link

static json_t *node_file(const char *path)
{
    struct stat st = {0};
    bool device = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
    return json_pack("{ss ss}", "driver", device ? "host_device" : "file", "filename",
                     path);
}

static json_t *node_of(const struct image_link *link, json_t *backing /* taken */)
{
    json_t *node = json_object(), *file = node_file(link->path);
    // QEMU takes whole sectors only; tar fills the last one of a member up.
    if (link->part_len != 0)
        file = json_pack("{ss so sI sI}", "driver", "raw", "file", file, "offset",
                         (json_int_t)link->part_off, "size",
                         (json_int_t)round_up(link->part_len, 512));
    json_object_set_new(node, "driver", json_string(link->format->name));
    json_object_set_new(node, "file", file);
    if (link->data_file != NULL)
        json_object_set_new(node, "data-file", node_file(link->data_file));
    if (link->format->backing)
        json_object_set_new(node, "backing", backing);
    else
        json_decref(backing);
    return node;
}

static char *node_name(json_t *node /* taken */)
{
    AUTO(json_free) json_t *held = node;
    AUTO(str_free) char *text = json_text(held);
    return xasprintf("json:%s", text);
}

char *image_chain_name(const struct image_chain *c)
{
    json_t *node = json_null();
    for (size_t i = c->n; i-- > 0;)
        node = node_of(&c->v[i], node);
    return node_name(node);
}

struct said {
    uint64_t size, cluster;
    bool encrypted;
    char *backing, *backing_format, *data_file;
    bool corrupt, compressed;
    json_t *snapshots;
};

static void said_done(struct said *s)
{
    free(s->backing);
    free(s->backing_format);
    free(s->data_file);
    json_decref(s->snapshots);
}
__attribute__((unused)) static inline void auto_said_done(struct said *s)
{
    said_done(s);
}

static int said_read(const json_t *answer, const char *path, struct said *s,
                     struct err *e)
{
    static const struct json_field fields[] = {
        {"virtual-size", JSON_FIELD_U64, offsetof(struct said, size), true},
        {"cluster-size", JSON_FIELD_U64, offsetof(struct said, cluster), false},
        {"encrypted", JSON_FIELD_BOOL, offsetof(struct said, encrypted), false},
        {"backing-filename", JSON_FIELD_STRING, offsetof(struct said, backing), false},
        {"backing-filename-format", JSON_FIELD_STRING,
         offsetof(struct said, backing_format), false},
        {"snapshots", JSON_FIELD_VALUE, offsetof(struct said, snapshots), false},
    };
    static const struct json_field specific_fields[] = {
        {"data-file", JSON_FIELD_STRING, offsetof(struct said, data_file), false},
        {"corrupt", JSON_FIELD_BOOL, offsetof(struct said, corrupt), false},
    };
    if (json_read(answer, fields, ARRAY_LEN(fields), s, path, e) < 0)
        return -1;
    const json_t *specific =
        json_object_get(json_object_get(answer, "format-specific"), "data");
    if (json_is_object(specific) &&
        json_read(specific, specific_fields, ARRAY_LEN(specific_fields), s, path, e) < 0)
        return -1;
    const json_t *extents = json_object_get(specific, "extents");
    for (size_t i = 0; i < json_array_size(extents); i++)
        if (json_is_true(json_object_get(json_array_get(extents, i), "compressed")))
            s->compressed = true;
    return 0;
}

static int said_check(const struct said *s, const char *path, struct err *e)
{
    if (s->encrypted)
        return err_set(e, ERR_REFUSED, "%s is encrypted; decrypt it with qemu-img first",
                       path);
    if (s->corrupt)
        return err_set(e, ERR_REFUSED, "%s is marked corrupt; try qemu-img check -r all",
                       path);
    if (s->size == 0 || s->size > IMAGE_SIZE_MAX)
        return err_set(e, ERR_REFUSED, "%s says that its disk has %" PRIu64 " bytes",
                       path, s->size);
    return 0;
}

static int link_info(const struct image_link *link, bool data_file, struct said *s,
                     struct err *e)
{
    json_t *node = node_of(link, json_null());
    // Stands for a file whose name is not known yet, so that QEMU opens none.
    if (data_file)
        json_object_set_new(
            node, "data-file",
            json_pack("{ss si sb}", "driver", "null-co", "size", 0, "read-zeroes", 1));
    AUTO(str_free) char *name = node_name(node);
    AUTO(json_free) json_t *answer = NULL;
    bool failed;
    const char *const argv[] = {"info", "--output=json", name, NULL};
    if (image_tool_json(argv, &answer, &failed, e) < 0)
        return err_wrap(e, "%s", link->path);
    if (said_read(answer, link->path, s, e) < 0)
        return -1;
    return said_check(s, link->path, e);
}

// What `qemu-img check` finds; its time grows with the tables, not with the data.
static int link_check(const struct image_link *link, struct image_info *info,
                      struct err *e)
{
    const uint64_t worth = TIB; // above it the tables are too large to be held in memory
    struct stat st = {0};
    if (!link->format->checked ||
        (stat(link->path, &st) == 0 && (uint64_t)st.st_blocks * 512 > worth))
        return 0;
    AUTO(str_free) char *name = node_name(node_of(link, json_null()));
    AUTO(json_free) json_t *answer = NULL;
    bool failed;
    const char *const argv[] = {"check", "--output=json", name, NULL};
    if (image_tool_json(argv, &answer, &failed, e) < 0)
        return e->code == ERR_REFUSED
                   ? err_wrap(e, "%s is corrupt or truncated", link->path)
                   : err_wrap(e, "%s", link->path);
    uint64_t corruptions = 0, errors = 0, compressed = 0;
    const json_t *j = json_object_get(answer, "corruptions");
    corruptions = json_is_integer(j) ? (uint64_t)json_integer_value(j) : 0;
    j = json_object_get(answer, "check-errors");
    errors = json_is_integer(j) ? (uint64_t)json_integer_value(j) : 0;
    j = json_object_get(answer, "compressed-clusters");
    compressed = json_is_integer(j) ? (uint64_t)json_integer_value(j) : 0;
    // Leaked clusters make the exit code fail too, and harm nothing.
    if (corruptions > 0 || errors > 0)
        return err_set(e, ERR_REFUSED,
                       "%s is corrupt or truncated: qemu-img check found %" PRIu64
                       " corruptions and %" PRIu64 " errors",
                       link->path, corruptions, errors);
    info->compressed = info->compressed || compressed > 0;
    // Compressed clusters end anywhere, and half of one unpacks to something; but who
    // writes them fills up the last sector.
    if (compressed > 0 && link->part_len == 0 && stat(link->path, &st) == 0 &&
        st.st_size % 512 != 0)
        return err_set(e, ERR_REFUSED,
                       "%s has %" PRIu64 " bytes, no whole sectors: it was truncated (if "
                       "not: truncate -s %%512 pads it)",
                       link->path, (uint64_t)st.st_size);
    return 0;
}

static int add_snapshots(const json_t *list, struct strings *out, const char *path,
                         struct err *e)
{
    const size_t most = 4096;
    if (json_array_size(list) > most)
        return err_set(e, ERR_REFUSED, "%s has %zu snapshots", path,
                       json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *name = json_object_get(json_array_get(list, i), "name");
        if (json_is_string(name))
            strings_add(out, json_string_value(name));
    }
    return 0;
}

// --- the walk

static int link_data_file(struct walk *w, struct image_link *link, const struct said *s,
                          struct err *e)
{
    struct stat st = {0};
    int fd;
    if (s->data_file == NULL)
        return err_set(e, ERR_REFUSED, "%s does not name its external data file",
                       link->path);
    if (walk_resolve(w, link->path, s->data_file, "data file", &link->data_file, e) < 0)
        return -1;
    return walk_lock(w, link->data_file, &fd, &st, e);
}

static int walk_seen(struct walk *w, const char *path, const struct stat *st,
                     struct err *e)
{
    for (size_t i = 0; i < w->seen.n; i++)
        if (w->seen.v[i].st_dev == st->st_dev && w->seen.v[i].st_ino == st->st_ino)
            return err_set(e, ERR_REFUSED, "%s is its own backing file", path);
    if (w->seen.n >= IMAGE_CHAIN_MAX)
        return err_set(e, ERR_REFUSED, "%s: a backing chain of more than %d files", path,
                       IMAGE_CHAIN_MAX);
    vec_push(&w->seen, *st);
    return 0;
}

static int link_look(struct walk *w, struct image_link *link,
                     const struct image_probe *probe, struct said *said, struct err *e)
{
    if (strcmp(link->format->name, "raw") == 0) {
        said->size = probe->size;
        return said_check(said, link->path, e);
    }
    if (link_info(link, probe->data_file, said, e) < 0)
        return -1;
    if (probe->data_file && link_data_file(w, link, said, e) < 0)
        return -1;
    return link_check(link, &w->chain->info, e);
}

// Looks at `path` and appends it; *ret_next and its format are its backing file, if any.
static int walk_link(struct walk *w, const char *path, const char *format,
                     char **ret_next, char **ret_next_format, struct err *e)
{
    struct image_chain *c = w->chain;
    bool top = c->n == 0;
    struct stat st = {0};
    int fd;
    AUTO(image_probe_done) struct image_probe probe = {0};
    AUTO(said_done) struct said said = {0};
    if (walk_lock(w, path, &fd, &st, e) < 0 || walk_seen(w, path, &st, e) < 0)
        return -1;
    vec_push(c, ((struct image_link){.path = xstrdup(path)}));
    struct image_link *link = &c->v[c->n - 1];
    link->part_off = top ? w->options->part_off : 0;
    link->part_len = top ? w->options->part_len : 0;
    if (image_probe(fd, path, link->part_off, link->part_len, format, &probe, e) < 0)
        return -1;
    link->format = probe.format;
    if (link->format->mapped && !probe.data_file && probe.vmdk_descriptor == NULL)
        link->data_path = xstrdup(path);
    if (probe.vmdk_descriptor != NULL &&
        link_extents(w, link, probe.vmdk_descriptor, e) < 0)
        return -1;
    if (link_look(w, link, &probe, &said, e) < 0)
        return -1;
    // Only VMDK's last grain is left unfinished by those who write them, in whole
    // sectors.
    bool unfinished = strcmp(link->format->name, "vmdk") == 0 && st.st_size % 512 == 0;
    link->cluster = unfinished ? min_u64(max_u64(said.cluster, 64 * KIB), MIB) : 1;
    c->info.compressed = c->info.compressed || said.compressed;
    if (top) {
        c->info.format = xstrdup(link->format->name);
        c->info.size = said.size;
        if (add_snapshots(said.snapshots, &c->info.snapshots, path, e) < 0)
            return -1;
    }
    if (said.backing != NULL && link->format->backing) {
        *ret_next_format = steal(said.backing_format);
        return walk_resolve(w, path, said.backing, "backing file", ret_next, e);
    }
    return 0;
}

static int walk_start(struct walk *w, const char *path, char **ret_real, struct err *e)
{
    struct stat st = {0};
    AUTO(str_free) char *real = NULL;
    if (path_real(path, &real, e) < 0)
        return -1;
    // Before anything is opened: opening a pipe or a tape does harm.
    if (stat(real, &st) < 0)
        return err_errno(e, errno, "open %s", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s is neither a file nor a block device", path);
    if (!w->options->allow_any_path) {
        AUTO(str_free)
        char *dir = w->options->allowed_dir != NULL ? xstrdup(w->options->allowed_dir)
                                                    : path_dir(real);
        if (path_real(dir, &w->allowed, e) < 0)
            return -1;
    }
    *ret_real = steal(real);
    return 0;
}

int image_chain_open(const struct image_options *options, struct image_chain *ret,
                     struct err *e)
{
    AUTO(image_chain_done) struct image_chain chain = {0};
    AUTO(walk_done) struct walk w = {.chain = &chain, .options = options};
    AUTO(str_free) char *path = NULL;
    AUTO(str_free) char *format = NULL;
    if (options->format != NULL)
        format = xstrdup(options->format);
    if (walk_start(&w, options->path, &path, e) < 0)
        return -1;
    while (path != NULL) {
        AUTO(str_free) char *next = NULL;
        AUTO(str_free) char *next_format = NULL;
        if (walk_link(&w, path, format, &next, &next_format, e) < 0)
            return -1;
        str_free(path);
        str_free(format);
        path = steal(next);
        format = steal(next_format);
    }
    *ret = chain;
    chain = (struct image_chain){0};
    return 0;
}

// --- image_info

void image_info_done(struct image_info *info)
{
    free(info->format);
    free(info->qemu_name);
    info->format = info->qemu_name = NULL;
    strings_done(&info->files);
    strings_done(&info->snapshots);
}

int image_info(const struct image_options *options, struct image_info *ret, struct err *e)
{
    AUTO(image_chain_done) struct image_chain chain = {0};
    if (image_chain_open(options, &chain, e) < 0)
        return -1;
    chain.info.qemu_name = image_chain_name(&chain);
    *ret = chain.info;
    chain.info = (struct image_info){0};
    return 0;
}
