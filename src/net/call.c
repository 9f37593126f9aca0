// SPDX-License-Identifier: Apache-2.0
// One control call: request out, answer in, errors of the other side turned into ours
// with text and code. After a failure other than an error in the answer the stream is out
// of step (an answer may still come), so the caller closes it.
#include "net/http.h"

struct answer {
    char *text;
    uint64_t code;
};

static const struct json_field answer_fields[] = {
    {"error", JSON_FIELD_STRING, offsetof(struct answer, text), true},
    {"code", JSON_FIELD_U64, offsetof(struct answer, code), false},
};

// {"error": "text", "code": N} of an answer that is not 2xx.
static int remote_error(const char *method, const char *path,
                        const struct http_message *m, struct err *e)
{
    struct answer a = {.code = ERR_FAILED};
    struct err no_json; // then the status is all there is to say
    AUTO(json_free) json_t *j = NULL;
    if (m->body.len == 0 ||
        json_parse(m->body.data, m->body.len, path, &j, &no_json) < 0 ||
        json_read(j, answer_fields, ARRAY_LEN(answer_fields), &a, path, &no_json) < 0)
        return err_set(e, ERR_FAILED, "%s %s: the peer answered status %d", method, path,
                       m->status);
    AUTO(str_free) char *text = a.text;
    if (a.code < ERR_FAILED || a.code > ERR_RETRY)
        a.code = ERR_FAILED;
    return err_set(e, (enum err_code)a.code, "%s", text);
}

int http_call(struct http_stream *s, const char *method, const char *path,
              const json_t *body, uint64_t timeout_ms, json_t **ret, struct err *e)
{
    uint64_t deadline = http_deadline(timeout_ms);
    AUTO(buf_done) struct buf b = BUF_INIT(HTTP_HEAD_MAX + HTTP_BODY_MAX);
    if (http_build_request(&b, method, path, body, e) < 0)
        return -1;
    if (http_send(s->fd, &b, deadline, e) < 0)
        return err_wrap(e, "%s %s", method, path);

    AUTO(http_message_done) struct http_message m = {0};
    bool eof = false;
    uint64_t now = clock_ms();
    uint64_t left = deadline == UINT64_MAX ? UINT64_MAX
                    : deadline > now       ? deadline - now
                                           : 0;
    if (http_read(s, left, &m, &eof, e) < 0)
        return err_wrap(e, "%s %s", method, path);
    if (eof)
        return err_set(e, ERR_RETRY, "%s %s: the peer closed without an answer", method,
                       path);
    if (m.status == 0)
        return err_set(e, ERR_FAILED, "%s %s: the peer sent a request, not an answer",
                       method, path);
    if (m.status > 299)
        return remote_error(method, path, &m, e);
    AUTO(json_free) json_t *j = NULL;
    if (m.body.len > 0 && json_parse(m.body.data, m.body.len, "its answer", &j, e) < 0)
        return err_wrap(e, "%s %s", method, path);
    if (ret)
        *ret = steal(j);
    return 0;
}
