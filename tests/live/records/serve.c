// SPDX-License-Identifier: Apache-2.0
// A server that answers every connection with one line, "COUNTER MS BOOT-ID", and a
// client that asks 20 times a second and says how long nothing answered. Every question
// is a connection of its own with its own end, so an address that disappears and comes
// back, on another machine too, is seen within one interval; the kernel's retries do not
// matter.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INTERVAL_MS 50
#define PATIENCE_MS 1000 // of one question
#define QUESTIONS (PATIENCE_MS / INTERVAL_MS + 4)

static void boot_id(char ret[static 40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, ret, 36);
    ret[n < 0 ? 0 : n] = 0;
    if (fd >= 0)
        close(fd);
}

int cmd_serve(int argc, char **argv)
{
    usage_if(argc > 2, "serve [PORT]            7777");
    char id[40], line[96];
    boot_id(id);
    stop_on_signals();
    int listener = tcp_listen(argc > 1 ? argv[1] : "7777");
    for (uint64_t counter = 1; !stopped;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        int n = snprintf(line, sizeof(line), "%llu %llu %s\n",
                         (unsigned long long)counter++, (unsigned long long)now_ms(), id);
        (void)send_all(fd, line, (size_t)n);
        close(fd);
    }
    return 0;
}

struct question {
    int fd; // -1: free
    uint64_t asked_ms;
};
struct answers {
    uint64_t n, first_ms, last_ms;        // of all
    uint64_t gap_ms, gap_from_ms;         // the longest without any
    char boot[40], before[40], after[40]; // of the last answer; around the longest gap
};

// The answer that has come, if it is one.
static bool read_answer(int fd, char ret_boot[static 40])
{
    char line[96];
    unsigned long long counter, ms;
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
    if (n <= 0)
        return false;
    line[n] = 0;
    return sscanf(line, "%llu %llu %39s", &counter, &ms, ret_boot) == 3;
}

static void take(struct answers *a, uint64_t now, const char *boot, uint64_t least_ms)
{
    uint64_t gap = a->n ? now - a->last_ms : 0;
    if (gap >= least_ms) {
        printf("down_ms=%llu last_ms=%llu first_ms=%llu boot=%s\n",
               (unsigned long long)gap, (unsigned long long)a->last_ms,
               (unsigned long long)now, strcmp(boot, a->boot) == 0 ? "same" : "other");
        fflush(stdout);
    }
    if (gap > a->gap_ms) {
        a->gap_ms = gap;
        a->gap_from_ms = a->last_ms;
        memcpy(a->before, a->boot, sizeof(a->before));
        (void)snprintf(a->after, sizeof(a->after), "%s", boot);
    }
    if (!a->n++)
        a->first_ms = now;
    a->last_ms = now;
    (void)snprintf(a->boot, sizeof(a->boot), "%s", boot);
}

static void poll_answers(struct question *q, struct answers *a, int ms, uint64_t least_ms)
{
    struct pollfd p[QUESTIONS];
    for (size_t i = 0; i < QUESTIONS; i++)
        p[i] = (struct pollfd){.fd = q[i].fd, .events = POLLIN};
    (void)poll(p, QUESTIONS, ms);
    uint64_t now = now_ms();
    for (size_t i = 0; i < QUESTIONS; i++) {
        if (q[i].fd < 0 || (!p[i].revents && now - q[i].asked_ms < PATIENCE_MS))
            continue;
        char boot[40];
        if (p[i].revents && read_answer(q[i].fd, boot))
            take(a, now, boot, least_ms);
        close(q[i].fd);
        q[i].fd = -1;
    }
}

int cmd_ping(int argc, char **argv)
{
    static const char usage[] =
        "ping ADDRESS PORT [--seconds N] [--least-ms 500]\n"
        "a line for every gap of that length; a summary after SIGTERM or N seconds";
    usage_if(argc < 3 || argc % 2 == 0, usage);
    uint64_t seconds = 0, least_ms = 500;
    for (int i = 3; i + 1 < argc; i += 2) {
        uint64_t v = number(argv[i + 1], argv[i]);
        if (strcmp(argv[i], "--seconds") == 0)
            seconds = v;
        else if (strcmp(argv[i], "--least-ms") == 0)
            least_ms = v;
        else
            usage_if(true, usage);
    }
    struct question q[QUESTIONS];
    struct answers a = {0};
    stop_on_signals();
    for (size_t i = 0; i < QUESTIONS; i++)
        q[i].fd = -1;
    uint64_t begin = now_ms(), next = begin;
    while (!stopped && (!seconds || now_ms() - begin < seconds * 1000)) {
        uint64_t now = now_ms();
        for (size_t i = 0; now >= next && i < QUESTIONS; i++)
            if (q[i].fd < 0) {
                q[i] =
                    (struct question){.fd = tcp_start(argv[1], argv[2]), .asked_ms = now};
                next = now + INTERVAL_MS;
            }
        poll_answers(q, &a, next > now ? (int)(next - now) : 1, least_ms);
    }
    printf("answers=%llu longest_ms=%llu last_ms=%llu first_ms=%llu boot=%s\n",
           (unsigned long long)a.n, (unsigned long long)a.gap_ms,
           (unsigned long long)a.gap_from_ms,
           (unsigned long long)(a.gap_from_ms + a.gap_ms),
           strcmp(a.before, a.after) == 0 ? "same" : "other");
    return a.n == 0;
}
