// SPDX-License-Identifier: Apache-2.0
// A client's bytes, from the first option on: the server ends with them, what it sends is
// framed as the protocol says, and nothing is told or changed beyond the disk.
#include "disk/disk.h"
#include "fuzz.h"

#include <pthread.h>
#include <sys/socket.h>

#define SIZE 100003

static uint8_t contents[SIZE];

static int memory_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    (void)d, (void)e;
    assert(off + len <= SIZE);
    memcpy(buf, contents + off, len);
    return 0;
}

static int memory_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                        struct err *e)
{
    (void)d;
    assert(off + len <= SIZE);
    memcpy(contents + off, buf, len);
    return off % 4096 == 7 ? err_set(e, ERR_FAILED, "every so often") : 0;
}

static int memory_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                          uint64_t *ret_done, struct err *e)
{
    (void)d, (void)e;
    assert(off + len <= SIZE);
    *ret_done = min_u64(len, 1000 - off % 1000);
    extents_append(out, off, *ret_done, (enum extent_kind)(off / 1000 % 3));
    return 0;
}

static void memory_close(struct disk *d)
{
    free(d->name);
    free(d);
}

static int open_export(void *context, const char *name, struct disk **ret, struct err *e)
{
    static const struct disk_ops ops = {
        .type = "memory",
        .read = memory_read,
        .write = memory_write,
        .extents = memory_extents,
        .close = memory_close,
    };
    (void)context;
    if (name[0] == 'x')
        return err_set(e, ERR_REFUSED, "no export is called \"%s\"", name);
    *ret = xcalloc(1, sizeof(**ret));
    **ret = (struct disk){.ops = &ops,
                          .name = xstrdup(name),
                          .size = SIZE,
                          .sector_size = 512,
                          .alignment = 1,
                          .n_parallel = 1};
    return 0;
}

static void names(void *context, struct strings *ret)
{
    (void)context;
    strings_add(ret, "one");
}

static bool has_meta(void *context, const char *name, const char *meta)
{
    (void)context;
    return name[0] == 'd' && meta[0] == 't';
}

static int meta(void *context, const char *name, const char *meta_name, uint64_t off,
                uint64_t len, struct extents *out, uint64_t *ret_done, struct err *e)
{
    (void)context, (void)name, (void)meta_name;
    if (off == 13)
        return err_set(e, ERR_FAILED, "unlucky");
    return memory_extents(NULL, off, len, out, ret_done, e);
}

// --- what the server sends

struct output {
    int fd;
    size_t len; // kept of it
    uint8_t bytes[MIB];
};

static void *drain(void *context)
{
    static uint8_t rest[64 * KIB];
    struct output *o = context;
    for (;;) {
        size_t room = sizeof(o->bytes) - o->len;
        ssize_t n = room > 0 ? read(o->fd, o->bytes + o->len, room)
                             : read(o->fd, rest, sizeof(rest));
        if (n <= 0)
            return NULL;
        o->len += room > 0 ? (size_t)n : 0;
    }
}

// How long the message at `p` is; 0: cut, or one that cannot be framed alone.
static size_t message_len(const uint8_t *p, size_t left)
{
    size_t len = 0;
    if (left >= 20 && get_be64(p) == UINT64_C(0x3e889045565a9)) {
        len = 20 + get_be32(p + 16);
        assert(len < 20 + 2 * 4096 + 4);
    } else if (left >= 20 && get_be32(p) == UINT32_C(0x668e33ef)) {
        unsigned type = get_be16(p + 6);
        assert(type <= 2 || type == 5 || type == 32769);
        len = 20 + get_be32(p + 16);
        assert(len <= 20 + 8 + SIZE);
        if (len <= left && (type == 1 || type == 2)) {
            uint64_t n = type == 1 ? len - 28 : get_be32(p + 28);
            assert(n > 0 && get_be64(p + 20) + n <= SIZE);
        }
        assert(type != 5 || (len - 20) % 8 == 4);
    }
    return len <= left ? len : 0;
}

static void check_output(const struct output *o)
{
    assert(o->len >= 18 && memcmp(o->bytes, "NBDMAGICIHAVEOPT", 16) == 0);
    for (size_t at = 18, n; at < o->len; at += n) {
        n = message_len(o->bytes + at, o->len - at);
        if (n == 0)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct output out;
    struct serve_options o = {
        .open = open_export,
        .names = names,
        .has_meta = has_meta,
        .meta = meta,
        .writable = size % 2 == 0,
    };
    struct err e = {0};
    int fds[2];
    pthread_t thread;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    // What the socket does not hold is not needed either.
    (void)!send(fds[0], data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fds[0], SHUT_WR);
    for (size_t i = 0; i < SIZE; i++)
        contents[i] = (uint8_t)(i / 30000 % 2 * (i + 1));
    out.fd = fds[0];
    out.len = 0;
    if (pthread_create(&thread, NULL, drain, &out) != 0)
        abort();
    int result = serve_connection(fds[1], &o, &e);
    assert((result == 0) == (e.code == ERR_NONE));
    (void)pthread_join(thread, NULL);
    check_output(&out);
    close(fds[0]);
    return 0;
}
