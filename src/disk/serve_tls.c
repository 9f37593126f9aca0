// SPDX-License-Identifier: Apache-2.0
// NBD_OPT_STARTTLS, for stock clients on a port of their own. Until TLS is ended nothing
// else is answered (the protocol's FORCEDTLS); afterwards the handshake begins anew: what
// was said in the clear counts for nothing, and bytes that came with the option but
// before TLS end the connection, because anybody may have put them there.
#include "disk/serve_parts.h"

#include <sys/socket.h>
#include <sys/time.h>

static void forget(struct server *s)
{
    s->structured = false;
    disk_close(steal(s->disk));
    str_free(steal(s->name));
    strings_done(&s->metas);
}

static int check_peer(struct server *s, const struct wire_peer *peer, struct err *e)
{
    const char *want = s->options->only_peer;
    if (want == NULL || strcmp(want, peer->name) == 0)
        return 0;
    return err_set(e, ERR_REFUSED, "the NBD client is \"%s\", not \"%s\"", peer->name,
                   want);
}

static int begin(struct server *s, struct err *e)
{
    struct timeval none = {0};
    uint64_t now = clock_ms();
    struct wire_options o = {
        .tls = s->options->tls,
        .server = true,
        .timeout_ms = s->deadline_ms - min_u64(now, s->deadline_ms),
    };
    struct wire_peer peer;
    // The wire waits in its own way.
    (void)setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
    (void)setsockopt(s->fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
    if (wire_open(steal_fd(&s->fd), &o, &peer, &s->fd, e) < 0 ||
        check_peer(s, &peer, e) < 0)
        return -1;
    s->private = true;
    forget(s);
    return serve_stream_init(s, e);
}

int serve_starttls(struct server *s, const struct serve_option *o, struct err *e)
{
    if (s->options->tls == NULL)
        return serve_option_refuse(s, o, NBD_REP_ERR_POLICY,
                                   "this connection is private already", e);
    if (s->private || o->len > 0)
        return serve_option_refuse(s, o, NBD_REP_ERR_INVALID,
                                   s->private ? "TLS is on" : "takes no data", e);
    if (s->in_at != s->in_end)
        return err_set(e, ERR_REFUSED, "the NBD client did not wait for TLS");
    if (serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, e) < 0)
        return -1;
    return begin(s, e);
}
