// SPDX-License-Identifier: Apache-2.0
// Control calls: HTTP/1.1 with JSON bodies over any stream (a virtio-serial port, a Unix
// socket; later TLS). RFC 9112 framing with Content-Length only: no chunks, no
// pipelining, no upgrade. Everything is bounded.
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
