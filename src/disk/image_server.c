// SPDX-License-Identifier: Apache-2.0
// qemu-nbd children for what cannot be read directly (compressed clusters, formats whose
// map tells no places, internal snapshots), and one for a qcow2 file to be written. One
// qemu-nbd decompresses in one thread (its answers were never faster than one core), so a
// compressed image gets one child a core and requests go to the child with the fewest in
// flight.
//
// All connections are made at once and the sockets removed then, so that nothing is left
// behind however we end. What surprises: a child ends with the thread that started it.
#include "disk/image_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define CHILDREN_MAX 8
#define START_MS 30000

struct child {
    struct proc *proc;
    struct disk *disk;
    unsigned in_flight; // atomic
    char *log;
    int log_fd; // what it complained about
};
struct server {
    struct disk disk;
    char *path, *dir;
    struct child children[CHILDREN_MAX];
    unsigned n_children;
    bool writable;
};
_Static_assert(offsetof(struct server, disk) == 0, "cast from struct disk");

// The last line that the child wrote, into `out`.
static const char *child_words(const struct child *c, char *out, size_t size)
{
    off_t end = lseek(c->log_fd, 0, SEEK_END);
    size_t n = end > 0 ? (size_t)min_u64((uint64_t)end, size - 1) : 0;
    if (n == 0 || fd_pread(c->log_fd, out, n, (uint64_t)end - n) < 0)
        return "no reason given";
    out[n] = '\0';
    char *text = str_trim(out), *line = strrchr(text, '\n');
    text = line != NULL ? line + 1 : text;
    char *name_end = strstr(text, "}': ");
    return name_end != NULL ? name_end + strlen("}': ") : text;
}

// The driver's ERR_RETRY says that the connection broke, and a child of ours breaks it
// only by ending, or when it cannot read what it has promised: a damaged image, which no
// second run mends. The process itself is not asked: reaping it is not for several
// threads.
static int child_failed(const struct server *s, struct child *c, struct err *e)
{
    static const char cannot_read[] = "reading from file failed: ";
    char words[2048];
    if (e->code != ERR_RETRY)
        return -1;
    const char *text = child_words(c, words, sizeof(words));
    const char *why = strstr(text, cannot_read);
    if (why != NULL)
        return err_set(e, ERR_FAILED, "it is corrupt or truncated: qemu-nbd: %s", why);
    return err_set(e, ERR_RETRY, "the qemu-nbd that %s %s ended: %s",
                   s->writable ? "writes" : "reads", s->path, text);
}

static struct child *child_pick(struct server *s)
{
    struct child *best = &s->children[0];
    for (unsigned i = 1; i < s->n_children; i++)
        if (__atomic_load_n(&s->children[i].in_flight, __ATOMIC_RELAXED) <
            __atomic_load_n(&best->in_flight, __ATOMIC_RELAXED))
            best = &s->children[i];
    __atomic_add_fetch(&best->in_flight, 1, __ATOMIC_RELAXED);
    return best;
}

static int server_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct server *s = (struct server *)d;
    struct child *c = child_pick(s);
    int result = c->disk->ops->read(c->disk, buf, len, off, e);
    __atomic_sub_fetch(&c->in_flight, 1, __ATOMIC_RELAXED);
    return result < 0 ? child_failed(s, c, e) : 0;
}

// To the only child.
static int server_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                        struct err *e)
{
    struct server *s = (struct server *)d;
    struct child *c = &s->children[0];
    int result = c->disk->ops->write(c->disk, buf, len, off, e);
    return result < 0 ? child_failed(s, c, e) : 0;
}

static int server_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                       struct err *e)
{
    struct server *s = (struct server *)d;
    struct child *c = &s->children[0];
    int result = c->disk->ops->zero(c->disk, off, len, punch, e);
    return result < 0 ? child_failed(s, c, e) : 0;
}

static int server_flush(struct disk *d, struct err *e)
{
    struct server *s = (struct server *)d;
    struct child *c = &s->children[0];
    return c->disk->ops->flush(c->disk, e) < 0 ? child_failed(s, c, e) : 0;
}

static int server_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                          uint64_t *ret_done, struct err *e)
{
    struct server *s = (struct server *)d;
    struct child *c = &s->children[0];
    if (c->disk->ops->extents(c->disk, off, len, out, ret_done, e) < 0)
        return child_failed(s, c, e);
    return 0;
}

static void server_close(struct disk *d)
{
    struct server *s = (struct server *)d;
    for (unsigned i = 0; i < s->n_children; i++) {
        disk_close(s->children[i].disk);
        // One that only reads has nothing to finish; the other closes its file.
        if (s->children[i].proc != NULL && !s->writable)
            proc_kill(s->children[i].proc, SIGKILL);
        proc_end(s->children[i].proc);
        fd_close(s->children[i].log_fd);
    }
    if (s->dir != NULL) {
        struct err ignored; // a folder left in /tmp is no reason to fail
        (void)dir_remove(s->dir, &ignored);
    }
    free(s->dir);
    free(s->path);
    free(s->disk.name);
    free(s);
}

static const struct disk_ops server_ops = {
    .type = "qemu-nbd",
    .read = server_read,
    .extents = server_extents,
    .close = server_close,
};

static const struct disk_ops server_ops_rw = {
    .type = "qemu-nbd",
    .read = server_read,
    .write = server_write,
    .zero = server_zero,
    .flush = server_flush,
    .extents = server_extents,
    .close = server_close,
};

static int child_launch(struct server *s, const struct server_options *o,
                        const char *socket, struct child *c, struct err *e)
{
    AUTO(strings_done) struct strings argv = {0};
    image_tool_argv(&argv, "qemu-nbd");
    if (!o->writable)
        strings_add(&argv, "--read-only");
    strings_add(&argv, "--persistent");
    strings_take(&argv, xasprintf("--shared=%u", o->connections));
    strings_take(&argv, xasprintf("--socket=%s", socket));
    if (o->snapshot != NULL)
        strings_take(&argv, xasprintf("--load-snapshot=%s", o->snapshot));
    strings_add(&argv, o->name);
    AUTO(str_free) char *log = path_join(s->dir, "log");
    c->log_fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (c->log_fd < 0)
        return err_errno(e, errno, "create %s", log);
    (void)unlink(log);
    static char *const env[] = {"MALLOC_ARENA_MAX=1", NULL};
    struct proc_options options = {.argv = argv.v,
                                   .in = -1,
                                   .out = -1,
                                   .err = c->log_fd,
                                   .env = env,
                                   .new_session = true};
    return proc_start(&options, &c->proc, e);
}

// Until the child listens and all connections stand.
static int child_connect(struct server *s, const struct server_options *o,
                         const char *socket, struct child *c, struct err *e)
{
    struct nbd_options options = {
        .socket = socket,
        .connections = o->connections,
        .connect_all = true,
        .writable = o->writable,
    };
    uint64_t start = clock_ms();
    for (;;) {
        if (cancel_check(e) < 0)
            return -1;
        if (access(socket, F_OK) == 0 && nbd_open(&options, &c->disk, e) == 0)
            return 0;
        if (!proc_running(c->proc)) {
            char words[2048];
            return err_set(e, ERR_REFUSED, "qemu-nbd cannot open %s: %s", s->path,
                           child_words(c, words, sizeof(words)));
        }
        if (clock_ms() - start > START_MS)
            return err_set(e, ERR_RETRY, "qemu-nbd does not answer for %s", s->path);
        usleep(1000);
    }
}

int image_server_open(const struct server_options *o, struct disk **ret_disk,
                      struct err *e)
{
    struct server *s = xcalloc(1, sizeof(*s));
    s->disk = (struct disk){.ops = o->writable ? &server_ops_rw : &server_ops,
                            .name = xstrdup(o->path)};
    s->writable = o->writable;
    s->path = xstrdup(o->path);
    AUTO(disk_close) struct disk *d = (struct disk *)s;
    AUTO(strings_done) struct strings sockets = {0};
    if (proc_have("qemu-nbd", "qemu-utils", e) < 0 ||
        proc_have("prlimit", "util-linux", e) < 0 || dir_temp(&s->dir, e) < 0)
        return -1;
    // All start before the first is waited for.
    for (unsigned i = 0; i < o->n_children && i < CHILDREN_MAX; i++) {
        strings_take(&sockets, xasprintf("%s/%u", s->dir, i));
        s->children[s->n_children++].log_fd = -1;
        if (child_launch(s, o, sockets.v[i], &s->children[i], e) < 0)
            return -1;
    }
    for (unsigned i = 0; i < s->n_children; i++)
        if (child_connect(s, o, sockets.v[i], &s->children[i], e) < 0)
            return -1;
    (void)dir_remove(s->dir, e);
    const struct disk *first = s->children[0].disk;
    s->disk.size = first->size;
    s->disk.sector_size = first->sector_size;
    s->disk.alignment = first->alignment;
    s->disk.n_parallel = first->n_parallel * s->n_children;
    *ret_disk = steal(d);
    return 0;
}
