// SPDX-License-Identifier: Apache-2.0
// Does the target serve? What of the source's services is reached from here is looked for
// while it runs, and one of them has to answer once its copy has been started. The fenced
// source does not answer there: it is isolated, and its agent's own ports are not listed.
//
// Surprises: an address of the source can be one of ours too (172.17.0.1 of a bridge for
// containers): a connection that ends at this machine says nothing about another.
#include "job/internal.h"
#include "net/net.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROBES_MAX 8
#define LOOK_MS 5000    // for all that is listed
#define CONNECT_MS 1000 // one; nobody there is noticed by that
#define PATIENCE_MS (UINT64_C(3) * 60 * 1000)
#define AGAIN_US 200000

static bool is_here(int fd)
{
    struct sockaddr_storage us = {0}, them = {0};
    socklen_t us_len = sizeof(us), them_len = sizeof(them);
    if (getsockname(fd, (struct sockaddr *)&us, &us_len) ||
        getpeername(fd, (struct sockaddr *)&them, &them_len))
        return true;
    const struct sockaddr_in6 *a6 = (const void *)&us, *b6 = (const void *)&them;
    const struct sockaddr_in *a4 = (const void *)&us, *b4 = (const void *)&them;
    return us.ss_family == AF_INET6
               ? memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr)) == 0
               : a4->sin_addr.s_addr == b4->sin_addr.s_addr;
}

static bool answers(const char *where)
{
    AUTO(fd_close) int fd = -1;
    struct err ignored; // every reason is the same here
    return !tcp_connect(where, 0, CONNECT_MS, &fd, &ignored) && !is_here(fd);
}

// Adds what answers at one address.
static void look_at(const char *address, const json_t *ports, uint64_t end, json_t *out)
{
    size_t i;
    json_t *port;
    json_array_foreach(ports, i, port)
    {
        uint64_t start = clock_ms();
        AUTO(str_free)
        char *where = xasprintf(strchr(address, ':') ? "[%s]:%lld" : "%s:%lld", address,
                                (long long)json_integer_value(port));
        if (start >= end || json_array_size(out) >= PROBES_MAX || cancel_requested())
            return;
        if (answers(where))
            json_array_append_new(out, json_string(where));
        else if (clock_ms() - start >= CONNECT_MS)
            return; // not to be reached from here
    }
}

void live_find_probes(struct job *j)
{
    const json_t *guest = j->source.machine->guest;
    json_t *probes = json_array(), *item;
    uint64_t end = clock_ms() + LOOK_MS;
    size_t i;
    json_array_foreach(json_object_get(guest, "addresses"), i, item)
    {
        const char *address = json_string_value(json_object_get(item, "address"));
        if (address)
            look_at(address, json_object_get(guest, "listening"), end, probes);
    }
    json_object_set_new(j->row.report, "probes", probes);
}

static int no_answer(struct job *j, const json_t *probes, uint64_t patience_ms,
                     struct err *e)
{
    AUTO(buf_done) struct buf list = BUF_INIT(4 * KIB);
    char time[24];
    size_t i;
    json_t *probe;
    json_array_foreach(probes, i, probe)
    {
        buf_printf(&list, "%s%s", i ? ", " : "", json_string_value(probe));
    }
    return err_set(e, ERR_RETRY,
                   "%s was started, but did not answer for %s where the source did (%s); "
                   "if it serves all the same, `godwit finish %llu`",
                   j->row.name, str_duration(patience_ms, time), list.data,
                   (unsigned long long)j->row.id);
}

int live_probe(struct job *j, bool *ret_seen, struct err *e)
{
    const json_t *probes = json_object_get(j->row.report, "probes");
    uint64_t patience =
        j->request.probe_timeout_ms ? j->request.probe_timeout_ms : PATIENCE_MS;
    uint64_t start = clock_ms();
    *ret_seen = false;
    if (json_array_size(probes) == 0) {
        job_note(j,
                 "nothing of the source could be reached from here, so nobody has seen "
                 "whether %s serves",
                 j->row.name);
        return 0;
    }
    for (;;) {
        size_t i;
        json_t *probe;
        json_array_foreach(probes, i, probe)
        {
            if (!answers(json_string_value(probe)))
                continue;
            live_step(j, "answer", clock_ms() - start);
            job_note(j, "%s answers at %s", j->row.name, json_string_value(probe));
            *ret_seen = true;
            return 0;
        }
        if (cancel_check(e) || live_poll(j, e))
            return -1;
        if (clock_ms() - start >= patience)
            return no_answer(j, probes, patience, e);
        live_tell(j, false, NULL);
        usleep(AGAIN_US);
    }
}
