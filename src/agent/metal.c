// SPDX-License-Identifier: Apache-2.0
// A real machine booted from our image (docs/metal.md): its disks and addresses on every
// console, shown again whenever they change; where godwit waits and the token, asked for
// there unless the kernel's command line has them; then the agent, as on a server that
// runs. Nothing uses the disks, and so that nothing ever does by mistake they are made
// read-only before anything else.
//
// What surprises: the agent is a child, forked before there is any thread. The end of
// process 1 is a panic, and its talk has to go to several consoles.
#include "agent/metal.h"
#include "agent/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TURN_MS 2000
#define EARLY_MS 500
#define EARLY_TURNS 60 // hardware that is slow to appear
#define LATE_TURNS 8
#define AGAIN_MS 3000 // until the agent is started again

struct metal {
    struct terminals terminals;
    struct cards cards;
    struct strings locked; // disks that are read-only by us
    char *shown;           // of the machine
    char *said;            // by the agent, last
    char dial[LINE_MAX_LEN], token[LINE_MAX_LEN];
    pid_t agent; // 0: none
    int talk;    // of the agent, -1: none
    uint64_t again_ms;
};

static const char ask_dial[] = "\ngodwit's address and port: ";
static const char ask_token[] = "\ntoken (is not shown): ";

static bool enrolled(void)
{
    return access(AGENT_DIR "/config.json", F_OK) == 0;
}

// --- what the machine is

static void lock_disk(struct metal *m, const struct block_disk *d)
{
    AUTO(fd_close) int fd = open(d->node, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int yes = 1;
    if (strings_have(&m->locked, d->name) || fd < 0)
        return;
    if (ioctl(fd, BLKROSET, &yes))
        log_line(LOG_ERROR, "%s cannot be made read-only: %s", d->node, strerror(errno));
    strings_add(&m->locked, d->name);
}

static void show_disks(struct metal *m, struct buf *out)
{
    struct block_disks disks = {0};
    struct err e;
    if (block_list(NULL, &disks, &e)) {
        buf_printf(out, "\ndisks: %s\n", e.text);
        return;
    }
    buf_str(out, disks.n ? "\ndisks\n" : "\ndisks: none with a driver\n");
    for (size_t i = 0; i < disks.n; i++) {
        const struct block_disk *d = &disks.v[i];
        char size[16];
        if (!d->removable)
            lock_disk(m, d);
        buf_printf(out, "  %-8s %10s  %-6s %s%s%s%s\n", d->name, str_bytes(d->size, size),
                   d->bus ? d->bus : "", d->model ? d->model : "",
                   d->serial ? ", serial " : "", d->serial ? d->serial : "",
                   d->removable ? " (removable: left out)" : "");
    }
    block_disks_done(&disks);
}

static void show_next(struct buf *out)
{
    AUTO(config_done) struct agent_config config = {0};
    struct err e;
    if (!enrolled()) {
        buf_str(out,
                "\nRun `godwit agent enroll NAME --listen ADDRESS:PORT` where godwit "
                "is, then answer here.\n");
        return;
    }
    if (config_read(AGENT_DIR, &config, &e))
        buf_printf(out, "\n%s\n", e.text);
    else
        buf_printf(
            out, "\nThis machine is agent://%s and dials %s until it is switched off.\n",
            config.name, config.dial);
}

// What images and firmware call themselves may hold anything.
static void clean(struct buf *b)
{
    for (size_t i = 0; i < b->len; i++) {
        if ((unsigned char)b->data[i] < ' ' && b->data[i] != '\n')
            b->data[i] = '?';
    }
}

static void show(struct metal *m)
{
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    buf_str(&b,
            "\ngodwit: this machine as a source; its disks are read, never written\n");
    show_disks(m, &b);
    cards_show(&m->cards, &b);
    show_next(&b);
    clean(&b);
    if (m->shown && strcmp(m->shown, b.data) == 0)
        return;
    free(m->shown);
    m->shown = buf_steal(&b);
    terminals_print(&m->terminals, m->shown);
}

// --- the agent

static int be_source(const struct metal *m, struct err *e)
{
    AUTO(config_done) struct agent_config config = {0};
    AUTO(source_free) struct source *s = NULL;
    struct source_options o = {.dir = AGENT_DIR,
                               .run_dir = AGENT_RUN,
                               .state_dir = AGENT_STATE,
                               .offline = true};
    struct enroll_options enrolment = {
        .dir = AGENT_DIR, .token = m->token, .dial = m->dial};
    if (!enrolled() && enroll(&enrolment, e))
        return -1;
    if (config_read(AGENT_DIR, &config, e))
        return -1;
    if (sethostname(config.name, strlen(config.name))) // as the copy will be called
        log_line(LOG_WARN, "sethostname %s: %s", config.name, strerror(errno));
    return source_new(&o, &s, e) || source_run(s, e) ? -1 : 0;
}

static void start_agent(struct metal *m)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return; // tried again
    pid_t pid = fork();
    if (pid == 0) {
        struct err e = {0};
        dup3(ends[1], STDERR_FILENO, 0);
        cancel_setup();
        if (be_source(m, &e))
            log_line(LOG_ERROR, "%s", e.text);
        _exit((int)e.code);
    }
    fd_close(ends[1]);
    if (pid < 0) {
        fd_close(ends[0]);
        return;
    }
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK); // cannot fail
    m->agent = pid;
    m->talk = ends[0];
}

// Its lines on every console; what it says again and again once.
static void pass_talk(struct metal *m)
{
    char piece[4096];
    ssize_t n;
    while (m->talk >= 0 && (n = read(m->talk, piece, sizeof(piece) - 1)) > 0) {
        piece[n] = '\0';
        if (m->said && strcmp(m->said, piece) == 0)
            continue;
        free(m->said);
        m->said = xstrdup(piece);
        terminals_print(&m->terminals, piece);
    }
}

static void watch_agent(struct metal *m)
{
    int status;
    pass_talk(m);
    if (!m->agent || waitpid(m->agent, &status, WNOHANG) != m->agent)
        return;
    pass_talk(m);
    fd_close(steal_fd(&m->talk));
    m->agent = 0;
    m->again_ms = clock_ms() + AGAIN_MS;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : ERR_FAILED;
    if (!enrolled() && (code == ERR_REFUSED || code == ERR_USAGE))
        m->token[0] = '\0'; // not the token that godwit waits for
    if (!enrolled() && code == ERR_USAGE)
        m->dial[0] = '\0';
}

static void stop_agent(struct metal *m)
{
    if (!m->agent)
        return;
    kill(m->agent, SIGKILL);
    waitpid(m->agent, NULL, 0);
    m->agent = 0;
    fd_close(steal_fd(&m->talk));
}

// --- what is asked

static void ask(struct metal *m)
{
    bool secret = m->dial[0] != '\0';
    if (enrolled() || (m->dial[0] && m->token[0]))
        terminals_ask(&m->terminals, NULL, false);
    else
        terminals_ask(&m->terminals, secret ? ask_token : ask_dial, secret);
}

static void answer(struct metal *m, char *line)
{
    const char *text = str_trim(line);
    if (enrolled()) {
        free(m->shown);
        m->shown = NULL; // to be shown again
        return;
    }
    if (!m->dial[0]) {
        snprintf(m->dial, sizeof(m->dial), "%s", text);
    } else if (!m->token[0] && *text) {
        snprintf(m->token, sizeof(m->token), "%s", text);
        terminals_print(&m->terminals,
                        "\nasking godwit (Enter: another address or token)\n");
    } else {
        stop_agent(m);
        m->dial[0] = m->token[0] = '\0';
    }
    m->again_ms = 0;
}

void metal_run(void)
{
    struct metal m = {.talk = -1};
    char line[LINE_MAX_LEN];
    terminals_open(&m.terminals);
    cards_open(&m.cards);
    (void)boot_parameter("godwit.dial", m.dial, sizeof(m.dial)); // else asked for
    (void)boot_parameter("godwit.token", m.token, sizeof(m.token));
    for (unsigned turn = 0;; turn++) {
        if (turn < EARLY_TURNS || turn % LATE_TURNS == 0)
            boot_find_hardware();
        cards_update(&m.cards);
        watch_agent(&m);
        show(&m);
        if (!m.agent && (enrolled() || (m.dial[0] && m.token[0])) &&
            clock_ms() >= m.again_ms && cards_ready())
            start_agent(&m);
        ask(&m);
        if (terminals_wait(&m.terminals, m.talk, turn < EARLY_TURNS ? EARLY_MS : TURN_MS,
                           line))
            answer(&m, line);
    }
}
