// SPDX-License-Identifier: Apache-2.0
// What the files serve*.c share; nobody outside of this folder includes it. Numbers are
// those of doc/proto.md of NetworkBlockDevice.
#pragma once

#include "disk/disk.h"
#include "net/net.h"

#include <sys/uio.h>

#define SERVE_DATA_MAX MIB           // of one message; larger requests take several
#define SERVE_REQUEST_MAX (32 * MIB) // advertised; what every client may assume
#define SERVE_METAS_MAX 16           // metadata contexts of a connection

// Errors on the wire.
enum nbd_error {
    NBD_OK = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ESHUTDOWN = 108,
};

struct server {
    int fd;
    const struct serve_options *options;
    // What the handshake agreed on.
    bool private; // from the beginning, or by TLS
    bool no_zeroes, structured;
    char *name; // the export that was opened last, NULL: none
    struct disk *disk;
    bool writable;
    struct strings metas; // metadata contexts of `name`; the id is the index + 1
    uint64_t deadline_ms; // of the handshake, UINT64_MAX: none
    // Read ahead, so that requests sent together are received together.
    size_t in_at, in_end;
    uint8_t in[4096];
    uint8_t *data; // SERVE_DATA_MAX and a page, aligned
};

static inline void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
    put_be16(p, (uint16_t)(v >> 16));
    put_be16(p + 2, (uint16_t)v);
}
static inline void put_be64(uint8_t *p, uint64_t v)
{
    put_be32(p, (uint32_t)(v >> 32));
    put_be32(p + 4, (uint32_t)v);
}

// --- serve_stream.c: bytes in and out, cancellable

int serve_stream_init(struct server *s, struct err *e);
// Exactly len bytes. *ret_end: the peer closed before the first; NULL: then that is an
// error, as is an end in the middle (ERR_RETRY).
int serve_recv(struct server *s, void *buf, size_t len, bool *ret_end, struct err *e);
int serve_skip(struct server *s, uint64_t len, struct err *e);
// All of it; `v` is changed.
int serve_send(struct server *s, struct iovec *v, size_t n, struct err *e);

// --- serve_handshake.c: until the first request

struct serve_option { // one of the client's, received
    uint32_t number, len;
    const uint8_t *data;
};
// A reply to it, with text or other data.
int serve_option_reply(struct server *s, const struct serve_option *o, uint32_t type,
                       const void *data, size_t len, struct err *e);
// One that is a number and a name.
int serve_option_name(struct server *s, const struct serve_option *o, uint32_t type,
                      uint32_t number, const char *name, struct err *e);
int serve_option_refuse(struct server *s, const struct serve_option *o, uint32_t type,
                        const char *why, struct err *e);
#define NBD_REP_ACK UINT32_C(1)
#define NBD_REP_SERVER UINT32_C(2)
#define NBD_REP_INFO UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)
#define NBD_REP_ERR(n) (UINT32_C(1) << 31 | (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)
// Opens the export unless it is open already.
int serve_export(struct server *s, const char *name, struct err *e);
// *ret_go: requests follow; else the peer has ended it.
int serve_handshake(struct server *s, bool *ret_go, struct err *e);

// --- serve_tls.c: NBD_OPT_STARTTLS

int serve_starttls(struct server *s, const struct serve_option *o, struct err *e);

// --- serve_meta.c: metadata contexts

int serve_meta_option(struct server *s, const struct serve_option *o, bool set,
                      struct err *e);
// What context `id` says of a range, as (length, flags) pairs in network order at `out`,
// at most `most` of them, at least one.
int serve_meta_status(struct server *s, size_t id, uint64_t off, uint64_t len,
                      size_t most, uint8_t *out, size_t *ret_n, struct err *e);

// --- serve_transmit.c: requests and their replies

int serve_transmit(struct server *s, struct err *e);
