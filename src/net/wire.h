// SPDX-License-Identifier: Apache-2.0
// What the parts of a wire share: wire.c makes the connection, relay.c moves the bytes,
// wire_zstd.c frames them. Inside net/ only.
#pragma once

#include "net/tls.h"

#define WIRE_PIECE (128 * KIB) // moved at once

// --- wire_zstd.c: frames of {kind 1, length 3 (big-endian), payload}

#define FRAME_HEAD 4
#define FRAME_MAX MIB // of a payload, and of what it holds

// The sending end. It finds out by itself whether compressing makes the link faster.
struct zip;
struct zip *zip_new(void);
void zip_free(struct zip *z);
DEFINE_AUTO(zip_free, struct zip *)
// One frame of the `len` bytes (1 to WIRE_PIECE) that stand at data + FRAME_HEAD; the
// room before them is ours. *ret lives until the next call: data, or memory of z.
int zip_frame(struct zip *z, uint8_t *data, size_t len, const uint8_t **ret,
              size_t *ret_len, struct err *e);
// The link kept us waiting while there was something to send.
void zip_waited(struct zip *z, uint64_t ns);

// The receiving end.
struct unzip;
struct unzip *unzip_new(void);
void unzip_free(struct unzip *u);
DEFINE_AUTO(unzip_free, struct unzip *)
// Takes some of *in (moves it on) and gives some bytes in out, *ret_len of them. Call it
// until it has taken everything and gives nothing.
int unzip(struct unzip *u, const uint8_t **in, size_t *in_len, uint8_t *out, size_t size,
          size_t *ret_len, struct err *e);
bool unzip_between(const struct unzip *u); // frames: here a stream may end

// --- relay.c

struct queue { // bytes that wait: v[at] to v[end - 1]
    uint8_t *v;
    size_t at, end, size;
};
struct wire {
    int tcp, plain;
    SSL *ssl;
    struct tls_check check;
    struct rate *rate;
    struct wire_count *count;
    struct wire_count own_count; // when nobody else counts
    struct zip *zip;             // NULL: no frames
    struct unzip *unzip;
    struct queue up;        // from the plain end
    const uint8_t *up_data; // what of it, or its frame, goes into TLS now
    size_t up_len;
    struct queue out;   // to the TCP socket
    struct queue in;    // from TLS, framed
    struct queue down;  // to the plain end
    uint64_t limit;     // of the rate, as far as the socket was told
    uint64_t moved;     // bytes sent and received, ever
    uint64_t paid;      // of them, and of those that wait in the socket or will soon
    uint64_t used;      // bytes moved since the rate was last asked
    uint64_t linger_ms; // since when only the peer's end is waited for; 0: not yet
    bool plain_ended;   // the caller will write no more
    bool plain_gone;    // nor read
    bool said_bye;      // close_notify is in `out`
    bool peer_ended;    // its close_notify has come
    bool peer_ended_told;
    bool read_wants_out; // TLS cannot read before it has written
    bool tcp_over;       // nothing more will come but what is already here
    bool broken;         // TCP or TLS is no more; what has come is still delivered
};
// BIO for SSL: over w->out and w->tcp, never a signal.
int relay_attach(struct wire *w, struct err *e);
// Sends what is in `out`, as far as the socket takes it and one piece of the rate.
// false: nothing moved.
bool relay_flush(struct wire *w);
void relay_pay(struct wire *w);
// Until both ends are done.
void relay_run(struct wire *w);

// --- wire.c

extern _Atomic bool wires_must_end; // wire_drain has waited long enough

// --- tcp.c

bool tcp_alive(int fd); // what we sent is being acknowledged
// Numeric, "" when it has gone.
void tcp_peer(int fd, char out[static TCP_PEER_LEN]);
