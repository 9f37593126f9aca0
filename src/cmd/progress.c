// SPDX-License-Identifier: Apache-2.0
// Progress on stderr: on a terminal one line a disk that is written over, elsewhere a
// plain line every five seconds, with --quiet nothing.
//
//     vda    1.2 GiB of 2.0 GiB   60 %   410.3 MiB/s   2 s left
#include "cmd/session.h"

#include <stdio.h>
#include <unistd.h>

#define PLAIN_EVERY_MS 5000
#define TERMINAL_EVERY_MS 150

void progress_init(struct progress *p, const struct globals *g)
{
    *p = (struct progress){.silent = g->quiet};
    p->terminal = isatty(STDERR_FILENO) == 1;
}

void progress_disk(struct progress *p, const char *name, uint64_t size)
{
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->size = size;
    p->started_ms = clock_ms();
    p->printed_ms = p->terminal ? 0 : p->started_ms;
}

static void line(struct progress *p, const struct copy_progress *c)
{
    char done[16], total[16], rate[16], left[24] = "";
    uint64_t speed = c->bytes_per_second;
    unsigned percent =
        c->total ? (unsigned)((double)c->done * 100.0 / (double)c->total) : 100;
    if (c->left_ms != UINT64_MAX)
        str_duration(c->left_ms, left);
    fprintf(stderr, "%s%-12s %s%9s of %-9s %3u %%  %10s/s%s%s%s%s",
            p->terminal ? "\r" : "", p->name, c->verifying ? "verify " : "",
            str_bytes(c->done, done), str_bytes(c->total, total),
            percent > 100 ? 100 : percent, str_bytes(speed, rate), *left ? "  " : "",
            left, *left ? " left" : "", p->terminal ? "\033[K" : "\n");
    p->open = p->terminal;
    fflush(stderr);
}

void progress_update(void *progress, const struct copy_progress *c)
{
    struct progress *p = progress;
    uint64_t now = clock_ms();
    if (p->silent || now - p->printed_ms <
                         (uint64_t)(p->terminal ? TERMINAL_EVERY_MS : PLAIN_EVERY_MS))
        return;
    p->printed_ms = now;
    line(p, c);
}

void progress_disk_done(struct progress *p)
{
    if (p->open)
        fputs("\n", stderr);
    p->open = false;
}

void progress_note(struct progress *p, const char *text)
{
    progress_disk_done(p);
    if (!p->silent)
        fprintf(stderr, "godwit: %s\n", text);
}

static void ui_phase(void *context, const struct job_row *job, const char *name,
                     const char *why)
{
    AUTO(str_free)
    char *text = xasprintf("job %llu: %s: %s", (unsigned long long)job->id, name, why);
    progress_note(context, text);
}

static void ui_disk(void *context, const char *name, uint64_t size)
{
    progress_disk(context, name, size);
}

static void ui_disk_done(void *context)
{
    progress_disk_done(context);
}

static void ui_note(void *context, const char *text)
{
    progress_note(context, text);
}

struct job_ui progress_ui(struct progress *p)
{
    return (struct job_ui){.phase = ui_phase,
                           .disk = ui_disk,
                           .progress = progress_update,
                           .disk_done = ui_disk_done,
                           .note = ui_note,
                           .context = p};
}
