// SPDX-License-Identifier: Apache-2.0
// Control calls as a table: what answers them and what the documents say are one.
#include "agent/agent.h"

#include <stdio.h>

#define CALLS_MAX 32

void calls_print(const struct call *calls, size_t n)
{
    printf("| call | what it does | request | reply |\n|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        const struct call *c = &calls[i];
        printf("| `%s %s` | %s | %s | %s |\n", c->route.method, c->route.path, c->what,
               c->request, c->reply);
    }
}

int calls_serve(int fd, const struct call *calls, size_t n, void *context, struct err *e)
{
    struct route routes[CALLS_MAX];
    for (size_t i = 0; i < n && i < CALLS_MAX; i++)
        routes[i] = calls[i].route;
    return http_serve(fd, routes, n < CALLS_MAX ? n : CALLS_MAX, context, e);
}
