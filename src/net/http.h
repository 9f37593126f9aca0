// SPDX-License-Identifier: Apache-2.0
// What http.c shares with call.c and serve.c: building and sending with a deadline (of
// clock_ms; UINT64_MAX: none).
#pragma once

#include "net/net.h"

uint64_t http_deadline(uint64_t timeout_ms);
int http_build_request(struct buf *b, const char *method, const char *path,
                       const json_t *body, struct err *e);
int http_build_response(struct buf *b, int status, const json_t *body, struct err *e);
int http_send(int fd, const struct buf *b, uint64_t deadline, struct err *e);
