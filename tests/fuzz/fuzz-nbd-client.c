// SPDX-License-Identifier: Apache-2.0
// A hostile server's bytes, the same on every connection: the driver opens the export or
// says why not, and what it then tells of it stays within the disk. The first byte
// chooses the metadata context.
#include "disk/disk.h"
#include "fuzz.h"

#include <signal.h>
#include <sys/socket.h>

struct input {
    const uint8_t *data;
    size_t len;
    int peers[8]; // the server's ends
    unsigned n;
};

static int connect_input(void *context, int *ret_fd, struct err *e)
{
    struct input *in = context;
    int fds[2];
    if (in->n == sizeof(in->peers) / sizeof(in->peers[0]))
        return err_set(e, ERR_RETRY, "enough");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    (void)!send(fds[1], in->data, in->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fds[1], SHUT_WR);
    in->peers[in->n++] = fds[1];
    *ret_fd = fds[0];
    return 0;
}

static void ask_extents(struct disk *d)
{
    struct err e = {0};
    uint64_t off = 0;
    for (int i = 0; i < 4 && off < d->size; i++) {
        AUTO(extents_done) struct extents x = {0};
        uint64_t done = 0, at = off;
        if (disk_extents(d, off, d->size - off, &x, &done, &e) < 0) {
            assert(e.code != ERR_NONE && e.text[0]);
            return;
        }
        assert(done > 0 && done <= d->size - off);
        for (size_t k = 0; k < x.n; k++) {
            assert(x.v[k].off == at && x.v[k].len > 0);
            at += x.v[k].len;
        }
        assert(at == off + done);
        off = at;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[70000];
    if (size == 0)
        return 0;
    (void)signal(SIGPIPE, SIG_IGN);
    struct input in = {.data = data + 1, .len = size - 1};
    struct nbd_options o = {
        .connect = connect_input,
        .context = &in,
        .peer = "fuzz",
        .export_name = "disk",
        .connections = 2,
        .writable = (data[0] & 2) != 0,
        .meta_context = (data[0] & 1) != 0 ? "test:odd" : NULL,
    };
    struct err e = {0};
    AUTO(disk_close) struct disk *d = NULL;
    if (nbd_open(&o, &d, &e) < 0) {
        assert(d == NULL && e.code != ERR_NONE && e.text[0]);
    } else {
        assert(d->size <= INT64_MAX && d->alignment >= 1 && d->n_parallel >= 1);
        (void)disk_read(d, buf, (size_t)min_u64(d->size, sizeof(buf)), 0, &e);
        ask_extents(d);
        (void)disk_read(d, buf, (size_t)min_u64(d->size, 5), d->size / 2 % 3, &e);
        if (o.writable) {
            (void)disk_write(d, buf, (size_t)min_u64(d->size, 512), 0, &e);
            (void)disk_zero(d, 0, d->size, true, &e);
            (void)disk_flush(d, &e);
        }
    }
    for (unsigned i = 0; i < in.n; i++)
        close(in.peers[i]);
    return 0;
}
