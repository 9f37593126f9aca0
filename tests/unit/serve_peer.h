// SPDX-License-Identifier: Apache-2.0
// A connection that serve_connection() serves in a thread, over a socket pair, with a
// few exports: "disk" (a file), "fault" (the same, failing as `fault` says), "words"
// (every write fails with what `words` says), "holes" (all one).
#pragma once
#include "disk/disk.h"
#include "net/net.h"
#include "scratch.h"

#include <pthread.h>
#include <sys/socket.h>

#define BLOCK (64 * KIB)

struct peer {
    const char *path;
    bool writable;
    struct tls *tls;
    struct fault fault;
    const char *words;
    enum err_code words_code;
    unsigned n_connected;
    // Of the connection that was made last:
    pthread_t thread;
    int fd, result;
    struct err e;
};

static int words_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                       struct err *e)
{
    const struct peer *p = *(struct peer **)(d + 1);
    (void)buf, (void)len, (void)off;
    return err_set(e, p->words_code, "write: %s", p->words);
}
static int words_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    return words_write(d, buf, len, off, e);
}
static void words_close(struct disk *d)
{
    free(d->name);
    free(d);
}
static struct disk *words_new(struct peer *p)
{
    static const struct disk_ops ops = {
        .type = "words", .read = words_read, .write = words_write, .close = words_close};
    struct disk *d = xcalloc(1, sizeof(*d) + sizeof(p));
    *d = (struct disk){.ops = &ops,
                       .name = xstrdup("words"),
                       .size = MIB,
                       .sector_size = 512,
                       .alignment = 1,
                       .n_parallel = 1};
    *(struct peer **)(d + 1) = p;
    return d;
}

static int peer_open(void *context, const char *name, struct disk **ret, struct err *e)
{
    struct peer *p = context;
    struct file_options o = {.path = p->path, .writable = p->writable};
    if (strcmp(name, "words") == 0)
        *ret = words_new(p);
    else if (strcmp(name, "holes") == 0)
        *ret = null_new(UINT64_C(5) << 40);
    else if (strcmp(name, "broken") == 0)
        return err_set(e, ERR_FAILED, "broken");
    else if (strcmp(name, "disk") != 0 && strcmp(name, "fault") != 0)
        return err_set(e, ERR_REFUSED, "no export is called \"%s\"", name);
    else if (file_open(&o, ret, e) < 0)
        return -1;
    if (strcmp(name, "fault") == 0)
        *ret = fault_new(*ret, &p->fault);
    return 0;
}

static void peer_names(void *context, struct strings *ret)
{
    (void)context;
    strings_add(ret, "disk");
    strings_add(ret, "fault");
}

static bool peer_has_meta(void *context, const char *name, const char *meta)
{
    (void)context;
    return strcmp(name, "disk") == 0 && strcmp(meta, "test:odd") == 0;
}

// Blocks with an odd number; a few blocks a call.
static int peer_meta(void *context, const char *name, const char *meta, uint64_t off,
                     uint64_t len, struct extents *out, uint64_t *ret_done, struct err *e)
{
    (void)context, (void)name, (void)meta, (void)e;
    uint64_t at = off, end = off + len;
    for (int i = 0; i < 3 && at < end; i++) {
        uint64_t part = min_u64(end - at, BLOCK - at % BLOCK);
        extents_append(out, at, part, at / BLOCK % 2 ? EXTENT_DATA : EXTENT_HOLE);
        at += part;
    }
    *ret_done = at - off;
    return 0;
}

static void *peer_run(void *context)
{
    struct peer *p = context;
    struct serve_options o = {
        .open = peer_open,
        .names = peer_names,
        .has_meta = peer_has_meta,
        .meta = peer_meta,
        .context = p,
        .writable = p->writable,
        .tls = p->tls,
    };
    p->e = (struct err){0};
    p->result = serve_connection(p->fd, &o, &p->e);
    return NULL;
}

// The client's end.
static int peer_begin(struct peer *p)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    p->fd = fds[1];
    p->n_connected++;
    if (pthread_create(&p->thread, NULL, peer_run, p) != 0)
        abort();
    return fds[0];
}

// After the client's end was closed.
static int peer_end(struct peer *p)
{
    (void)pthread_join(p->thread, NULL);
    return p->result;
}
