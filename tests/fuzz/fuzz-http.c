// SPDX-License-Identifier: Apache-2.0
// A peer's bytes: every message is read until the stream ends or is refused, and what was
// accepted keeps the bounds of net.h.
#include "fuzz.h"
#include "net/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(fd_close) int fd = fuzz_fd(data, size);
    struct http_stream s;
    http_stream_init(&s, fd);
    for (bool eof = false; !eof;) {
        struct err e = {0};
        AUTO(http_message_done) struct http_message m = {0};
        if (http_read(&s, 0, &m, &eof, &e) < 0) {
            assert(e.code != ERR_NONE && e.text[0]);
            break;
        }
        assert(eof || (m.status != 0) != (m.method[0] != 0));
        assert(!m.method[0] || m.path[0] == '/');
        assert(m.body.len <= HTTP_BODY_MAX);
    }
    http_stream_done(&s);
    return 0;
}
