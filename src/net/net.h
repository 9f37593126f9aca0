// SPDX-License-Identifier: Apache-2.0
// Control calls: HTTP/1.1 with JSON bodies over any stream (a virtio-serial port, a Unix
// socket, a wire). RFC 9112 framing with Content-Length only: no chunks, no pipelining,
// no upgrade. And wires: TLS between two machines that looks like a plain socket to who
// uses it. Everything is bounded.
#pragma once

#include "base/base.h"

#define HTTP_HEAD_MAX (8 * KIB)
#define HTTP_BODY_MAX (16 * MIB)

// http.c: one message, read or built; the same struct for requests and responses.
struct http_message {
    char method[8]; // requests
    char path[256]; // requests
    int status;     // responses
    struct buf body;
};
void http_message_done(struct http_message *m);
__attribute__((unused)) static inline void auto_http_message_done(struct http_message *m)
{
    http_message_done(m);
}
// A stream with what was read ahead. Does not own fd.
struct http_stream {
    int fd;
    struct buf in;
};
void http_stream_init(struct http_stream *s, int fd);
void http_stream_done(struct http_stream *s);
// Blocks until a whole message is there. timeout_ms from the call; UINT64_MAX: for ever.
// ERR_RETRY on timeout, *ret_eof when the peer closed between messages (then 0 is
// returned and m is empty). Cancellable.
int http_read(struct http_stream *s, uint64_t timeout_ms, struct http_message *m,
              bool *ret_eof, struct err *e);
// fd may block or not. ERR_RETRY when the peer is gone. body may be NULL.
int http_send_request(int fd, const char *method, const char *path, const json_t *body,
                      struct err *e);
int http_send_response(int fd, int status, const json_t *body, struct err *e);

// call.c: a request and its answer. A status other than 2xx becomes an error with the
// text of {"error": …} and the code of {"code": N} in the answer. body and ret may be
// NULL; *ret is NULL when the answer has no body. After an error of the stream (timeout,
// closed, not HTTP) the stream is out of step: close it.
int http_call(struct http_stream *s, const char *method, const char *path,
              const json_t *body, uint64_t timeout_ms, json_t **ret, struct err *e);

// serve.c: answers requests from a table, one stream, until the peer closes (0). A
// handler's error is sent as {"error", "code"} with status 422 (a check said no) or 500.
struct route {
    const char *method, *path;
    int (*handle)(void *context, const json_t *request /* may be NULL */,
                  json_t **ret_reply, struct err *e);
};
int http_serve(int fd, const struct route *routes, size_t n_routes, void *context,
               struct err *e);

// --- pki.c: a private certificate authority, and keys (EC P-256, X.509 v3)

#define PIN_LEN 32 // SHA-256 of a certificate's SubjectPublicKeyInfo

// DIR (0700) gets ca.key, ca.pem, own.key and own.pem, the latter for us; what is there
// stays. Two processes may begin at once.
int pki_make(const char *dir, struct err *e);
// A new key at key_path (0600) and the request for its certificate, PEM; free() it.
int pki_request(const char *key_path, const char *name, char **ret_csr, struct err *e);
// Signs a request from anywhere (bounded, its signature checked; of it only the key is
// taken) for `name`, as the authority in DIR. *ret_cert PEM; free() it. Our own name,
// "godwit", is refused: a server that accepts any of our CA asks for it in wire_peer.
// address: numeric, where stock clients will reach it; NULL: not known.
int pki_sign(const char *dir, const char *csr, const char *name, const char *address,
             char **ret_cert, uint8_t ret_pin[static PIN_LEN], struct err *e);

// --- tls.c: who we are and whom we trust; TLS 1.3 alone

struct tls;
struct tls_options {
    const char *key_path, *cert_path; // ours
    const char *ca_path;              // whose certificates we accept
};
// All NULL: a key of the moment and any peer; what the peer is must then be proven
// otherwise (wire_proof).
int tls_new(const struct tls_options *options, struct tls **ret, struct err *e);
void tls_free(struct tls *t);
DEFINE_AUTO(tls_free, struct tls *)

// --- wire.c: a TLS connection as a plain socket
//
//     caller ── socket pair ── [thread: zstd frames, TLS, rate] ── TCP socket ── network

struct wire_count { // bytes on the TCP socket, TLS included; of plain bytes the same
    _Atomic uint64_t sent, received, plain_sent, plain_received;
};
struct wire_options {
    struct tls *tls; // borrowed until wire_open returns
    bool server;     // of TLS, not of what is spoken inside: who was dialled
    // Protocols in the order we like them, ended by NULL. The server's choice counts; one
    // that ends in "+zstd" is framed and compressed (wire_zstd.c). None in common:
    // ERR_REFUSED. NULL: none is spoken of, whatever the peer offers (STARTTLS).
    const char *const *alpn;
    const uint8_t *pin; // PIN_LEN bytes: this key and no other; NULL: any of our CA
    struct rate *rate;  // both directions together; borrowed by the thread; NULL: none
    struct wire_count *count; // borrowed by the thread; NULL: not counted
    uint64_t timeout_ms;      // of the handshake
};
#define TCP_PEER_LEN 64
struct wire_peer {
    char alpn[16], name[64];    // what was agreed on; the certificate's common name
    char address[TCP_PEER_LEN]; // numeric, of the other end; "": gone
    uint8_t pin[PIN_LEN];
    uint8_t exporter[32]; // RFC 8446 7.5: the same at both ends and nowhere else
};
// Ends TLS on `fd` (taken, a connected TCP socket) and gives a stream socket for what is
// inside. Closing it closes the wire, after what was written before has been sent. When
// the peer has said that it ends, there is an end of file and writing goes on; when it
// vanished, the end of file comes with POLLHUP, and writing fails with EPIPE. A peer
// that is not who it should be: ERR_REFUSED; one that speaks no TLS: ERR_FAILED.
int wire_open(int fd, const struct wire_options *options, struct wire_peer *ret_peer,
              int *ret_fd, struct err *e);
// Until every wire of this process has ended; those that have not after timeout_ms are
// ended. Afterwards nobody uses what they borrowed.
void wire_drain(uint64_t timeout_ms);
// HMAC-SHA-256 over the exporter and the name of who proves ("agent", "godwit"), keyed
// with a shared one-time token: proves that who holds the token is at the other end of
// this very connection.
#define PROOF_HEX 65
void wire_proof(const struct wire_peer *peer, const char *token, const char *who,
                char out[static PROOF_HEX]);

// --- accept.c: waits for the one that is to come; others keep it from nothing

struct acceptor;
struct greeting {
    struct wire_options wire; // what is borrowed lives as long as the acceptor
    // Unless NULL: decides behind TLS, in one of several threads; fd stays open. What it
    // has to be kept of is its own business.
    int (*talk)(void *context, int fd, const struct wire_peer *peer, struct err *e);
    void *context; // lives as long as the acceptor
};
// The same of who is dialled; the wire's time is also that of the connection.
int greeting_dial(const char *address, const struct greeting *g, int *ret_fd,
                  struct err *e);
// Borrows the listener.
int acceptor_new(int listener, struct acceptor **ret, struct err *e);
// Whoever comes while this waits is greeted so, up to 32 side by side. *ret_fd: the first
// who came through, as of wire_open. ERR_RETRY: nobody did, and what others were turned
// away for.
int acceptor_next(struct acceptor *a, const struct greeting *g, uint64_t timeout_ms,
                  int *ret_fd, struct err *e);
// Ends those that are being greeted.
void acceptor_free(struct acceptor *a);
DEFINE_AUTO(acceptor_free, struct acceptor *)

// --- tcp.c: numeric addresses only ("192.0.2.1:7443", "[2001:db8::1]:7443")

// bytes_per_second: the limit that there will be, see tcp_expect.
int tcp_connect(const char *address, uint64_t bytes_per_second, uint64_t timeout_ms,
                int *ret_fd, struct err *e);
// Port 0: any; free() *ret_address, which says which.
int tcp_listen(const char *address, int *ret_fd, char **ret_address, struct err *e);
// Keep-alive that notices a dead peer within about 15 s; no delay; bounded buffers when
// the wire has a rate.
void tcp_tune(int fd, uint64_t bytes_per_second);
// Of a socket before it is connected, or that listens: its connections begin with as
// little on the way as tcp_tune will allow them.
void tcp_expect(int fd, uint64_t bytes_per_second);
// How many connections a limit is worth: with more of them each would be a trickle, and
// what they hold in their buffers much of a second's bytes. 0, no limit: many.
unsigned tcp_together(uint64_t bytes_per_second);
