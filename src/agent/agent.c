// SPDX-License-Identifier: Apache-2.0
// `godwit-agent`: the commands of the program that runs on a server while it is migrated.
#include "agent/source.h"

#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

struct agent_options {
    const char *dir, *run_dir, *state_dir, *root, *tracker, *dial, *listen, *plain,
        *token_file;
    struct strings disks;
    bool force, help, calls, version;
};
static const struct opt options[] = {
    {.name = "dial",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "enroll: where godwit waits",
     .offset = offsetof(struct agent_options, dial)},
    {.name = "listen",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "enroll: godwit comes to us, now and later",
     .offset = offsetof(struct agent_options, listen)},
    {.name = "plain",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "enroll: a second port, for stock NBD clients with STARTTLS",
     .offset = offsetof(struct agent_options, plain)},
    {.name = "token-file",
     .type = OPT_STRING,
     .arg = "FILE",
     .help = "enroll: the one-time token; default: standard input",
     .offset = offsetof(struct agent_options, token_file)},
    {.name = "force",
     .type = OPT_FLAG,
     .help = "unfence, uninstall: although the copy of this server may run",
     .offset = offsetof(struct agent_options, force)},
    {.name = "tracker",
     .type = OPT_STRING,
     .arg = "NAME",
     .help = "run: bpf, ftrace, blktrace or bpf-classic; default: the best that works",
     .offset = offsetof(struct agent_options, tracker)},
    {.name = "disk",
     .type = OPT_STRINGS,
     .arg = "NAME",
     .help = "run: these disks alone; may be repeated",
     .offset = offsetof(struct agent_options, disks)},
    {.name = "config",
     .type = OPT_STRING,
     .arg = "DIR",
     .help = "keys and configuration; default: " AGENT_DIR,
     .offset = offsetof(struct agent_options, dir)},
    {.name = "run",
     .type = OPT_STRING,
     .arg = "DIR",
     .help = "what does not survive a reboot; default: " AGENT_RUN,
     .offset = offsetof(struct agent_options, run_dir)},
    {.name = "state",
     .type = OPT_STRING,
     .arg = "DIR",
     .help = "what does; default: " AGENT_STATE,
     .offset = offsetof(struct agent_options, state_dir)},
    {.name = "root",
     .type = OPT_STRING,
     .arg = "DIR",
     .help = "install, uninstall: in the system below DIR",
     .offset = offsetof(struct agent_options, root)},
    {.name = "calls",
     .type = OPT_FLAG,
     .help = "print the control calls as a table",
     .offset = offsetof(struct agent_options, calls)},
    {.name = "version",
     .type = OPT_FLAG,
     .help = "print the version",
     .offset = offsetof(struct agent_options, version)},
    {.name = "help",
     .letter = 'h',
     .type = OPT_FLAG,
     .help = "print this",
     .offset = offsetof(struct agent_options, help)},
    {0},
};

static int do_run(const struct agent_options *o, struct err *e)
{
    struct source_options so = {.dir = o->dir,
                                .run_dir = o->run_dir,
                                .state_dir = o->state_dir,
                                .tracker = o->tracker,
                                .disks = &o->disks};
    AUTO(source_free) struct source *s = NULL;
    return source_new(&so, &s, e) || source_run(s, e) ? -1 : 0;
}

static int do_enroll(const struct agent_options *o, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    if (!o->dial == !o->listen)
        return err_set(e, ERR_USAGE, "enroll takes either --dial or --listen");
    if (file_read(o->token_file ? o->token_file : "/dev/stdin", &b, e))
        return -1;
    const char *token = b.data ? str_trim(b.data) : "";
    if (strlen(token) < 20)
        return err_set(e, ERR_USAGE,
                       "that is no token: `godwit agent enroll` prints one");
    struct enroll_options options_of = {.dir = o->dir,
                                        .token = token,
                                        .dial = o->dial,
                                        .listen = o->listen,
                                        .plain = o->plain};
    if (enroll(&options_of, e))
        return -1;
    log_line(LOG_INFO, "enrolled; keys are in %s", o->dir);
    return 0;
}

static int do_install(const struct agent_options *o, struct err *e)
{
    return agent_install(o->root ? o->root : "", e);
}

static int do_uninstall(const struct agent_options *o, struct err *e)
{
    return agent_uninstall(o->root ? o->root : "", o->force, e);
}

static int do_fence(const struct agent_options *o, struct err *e)
{
    struct fence f;
    return fence_apply(o->state_dir, &f, e);
}

static int do_unfence(const struct agent_options *o, struct err *e)
{
    if (!o->force)
        return err_set(e, ERR_REFUSED,
                       "a copy of this server may be running: two of them would answer "
                       "at its address. `godwit rollback JOB` stops the copy first; "
                       "--force lifts the fence anyway");
    return fence_lift(o->state_dir, e);
}

static const struct {
    const char *name, *what;
    int (*run)(const struct agent_options *o, struct err *e);
} verbs[] = {
    {"run", "serve this server's disks to the godwit that it is enrolled with", do_run},
    {"enroll", "get a certificate for a one-time token", do_enroll},
    {"install", "become a service that starts at boot", do_install},
    {"uninstall", "stop, and leave nothing behind", do_uninstall},
    {"fence", "at boot: cut this server off, if its copy runs", do_fence},
    {"unfence", "on the console: let this server be reached again", do_unfence},
};

static void print_help(FILE *to)
{
    AUTO(buf_done) struct buf b = BUF_INIT(16 * KIB);
    buf_str(&b, "usage: godwit-agent COMMAND [options]\n\ncommands\n");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        buf_printf(&b, "  %-10s %s\n", verbs[i].name, verbs[i].what);
    buf_str(&b, "\noptions\n");
    opt_help(options, &b);
    fputs(b.data, to);
}

static int run(const struct agent_options *o, const struct strings *args, struct err *e)
{
    for (size_t i = 0; args->n == 1 && i < ARRAY_LEN(verbs); i++) {
        if (strcmp(args->v[0], verbs[i].name) == 0)
            return verbs[i].run(o, e);
    }
    return err_set(e, ERR_USAGE, "a command is wanted: see godwit-agent --help");
}

// A thread a connection, each with buffers of some MB while it lives: memory that is
// given back must not stay in an arena for every thread that there ever was.
static void limit_memory(void)
{
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 64 * 1024);
}

int main(int argc, char **argv)
{
    struct agent_options o = {
        .dir = AGENT_DIR, .run_dir = AGENT_RUN, .state_dir = AGENT_STATE};
    AUTO(strings_done) struct strings args = {0};
    struct err e = {0};
    limit_memory();
    cancel_setup();
    int status = opt_parse(options, argc - 1, argv + 1, &o, &args, &e);
    if (!status && o.help)
        print_help(stdout);
    else if (!status && o.version)
        printf("godwit-agent %s\n", GODWIT_VERSION);
    else if (!status && o.calls)
        calls_print(source_calls, n_source_calls);
    else if (!status)
        status = run(&o, &args, &e);
    strings_done(&o.disks);
    if (status)
        log_line(LOG_ERROR, "%s", e.text);
    return status ? (int)e.code : 0;
}
