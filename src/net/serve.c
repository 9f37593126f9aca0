// SPDX-License-Identifier: Apache-2.0
// The answering side of control calls: one stream, one request after the other, a table
// of routes. A handler's error goes to the peer with its code; errors of the stream end
// the loop, after a 400 when the peer sent what is no request.
//
//     400 not HTTP, not JSON   404 no such path   405 path with another method
//     422 refused by a check, or a bad request's contents   500 everything else
#include "net/http.h"

static json_t *error_body(const struct err *e)
{
    json_t *j = json_pack("{s:s, s:i}", "error", e->text, "code", (int)e->code);
    if (!j)
        abort();
    return j;
}

static int send_error(int fd, int status, const struct err *why, struct err *e)
{
    AUTO(json_free) json_t *body = error_body(why);
    return http_send_response(fd, status, body, e);
}

// The route of a request, or the status that says why there is none.
static const struct route *find_route(const struct route *routes, size_t n_routes,
                                      const struct http_message *m, int *ret_status)
{
    *ret_status = 404;
    for (size_t i = 0; i < n_routes; i++) {
        if (strcmp(routes[i].path, m->path) != 0)
            continue;
        if (strcmp(routes[i].method, m->method) == 0)
            return &routes[i];
        *ret_status = 405;
    }
    return NULL;
}

static int answer(int fd, const struct route *routes, size_t n_routes, void *context,
                  const struct http_message *m, struct err *e)
{
    int status;
    struct err why = {0};
    const struct route *route = find_route(routes, n_routes, m, &status);
    if (!route) {
        (void)err_set(&why, ERR_FAILED, "%s %s is no call of this peer", m->method,
                      m->path); // always -1
        return send_error(fd, status, &why, e);
    }
    AUTO(json_free) json_t *request = NULL;
    if (m->body.len > 0 &&
        json_parse(m->body.data, m->body.len, m->path, &request, &why) < 0)
        return send_error(fd, 400, &why, e);
    json_t *reply = NULL;
    int r = route->handle(context, request, &reply, &why);
    AUTO(json_free) json_t *owned = reply;
    if (r < 0) {
        bool refused = why.code == ERR_REFUSED || why.code == ERR_USAGE;
        return send_error(fd, refused ? 422 : 500, &why, e);
    }
    AUTO(buf_done) struct buf b = BUF_INIT(HTTP_HEAD_MAX + HTTP_BODY_MAX);
    if (http_build_response(&b, 200, owned, &why) < 0)
        return send_error(fd, 500, &why, e);
    return http_send(fd, &b, UINT64_MAX, e);
}

int http_serve(int fd, const struct route *routes, size_t n_routes, void *context,
               struct err *e)
{
    struct http_stream s;
    http_stream_init(&s, fd);
    int r = 0;
    for (bool eof = false; r == 0 && !eof;) {
        AUTO(http_message_done) struct http_message m = {0};
        struct err ignored;
        r = http_read(&s, UINT64_MAX, &m, &eof, e);
        if (r < 0 && e->code == ERR_FAILED)
            (void)send_error(fd, 400, e,
                             &ignored); // the reading error is the one to tell
        else if (r == 0 && !eof && m.status != 0)
            r = err_set(e, ERR_FAILED, "the peer sent an answer, not a request");
        else if (r == 0 && !eof)
            r = answer(fd, routes, n_routes, context, &m, e);
    }
    http_stream_done(&s);
    return r;
}
