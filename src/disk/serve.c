// SPDX-License-Identifier: Apache-2.0
// One connection of our NBD server (NetworkBlockDevice, doc/proto.md: fixed newstyle,
// structured replies, metadata contexts). The caller's thread serves it from beginning to
// end; who wants several connections calls this several times. Memory is a message of 1
// MiB a connection, whatever the client asks for.
#include "disk/serve_parts.h"

#define STRANGER_MS 30000 // for the handshake of who has not proven to be anybody

static int serve(struct server *s, struct err *e)
{
    bool go = false;
    s->data = alloc_aligned(SERVE_DATA_MAX + 4096);
    if (s->data == NULL)
        return err_set(e, ERR_RETRY, "serve a connection: out of memory");
    if (serve_stream_init(s, e) < 0 || serve_handshake(s, &go, e) < 0)
        return -1;
    s->deadline_ms = UINT64_MAX;
    return go ? serve_transmit(s, e) : 0;
}

int serve_connection(int fd, const struct serve_options *options, struct err *e)
{
    struct server *s = xcalloc(1, sizeof(*s));
    s->fd = fd;
    s->options = options;
    s->private = options->tls == NULL;
    s->deadline_ms = s->private ? UINT64_MAX : clock_ms() + STRANGER_MS;
    int result = serve(s, e);
    disk_close(s->disk);
    fd_close(s->fd);
    strings_done(&s->metas);
    free(s->name);
    free(s->data);
    free(s);
    return result;
}
