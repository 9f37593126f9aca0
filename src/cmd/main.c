// SPDX-License-Identifier: Apache-2.0
// godwit: finds the command, reads its options together with the global ones (which may
// stand anywhere), runs it, and turns its error into one line and an exit code
// (DESIGN.md section 5).
#include "cmd/cmd.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

// The options of a command and the global ones as one table; the globals lie behind the
// command's own struct in one block of memory.
struct merged {
    VEC(struct opt) rows;
    size_t globals_at;
    void *values;
};

static void merge(struct merged *m, const struct command *c)
{
    size_t own = c ? c->options_size : 0;
    m->globals_at = (size_t)round_up(own, 16);
    for (const struct opt *o = c ? c->options : NULL; o && o->name; o++)
        vec_push(&m->rows, *o);
    for (const struct opt *o = global_options; o->name; o++) {
        struct opt moved = *o;
        moved.offset += m->globals_at;
        vec_push(&m->rows, moved);
    }
    vec_push(&m->rows, (struct opt){0});
    m->values = xcalloc(1, m->globals_at + sizeof(struct globals));
}

static void merged_done(struct merged *m)
{
    for (size_t i = 0; i < m->rows.n && m->rows.v[i].name; i++) {
        if (m->rows.v[i].type == OPT_STRINGS)
            strings_done((struct strings *)((char *)m->values + m->rows.v[i].offset));
    }
    vec_done(&m->rows);
    free(m->values);
}

// Index in argv of the command's name: the first word that is neither an option nor the
// value of a global option. argc: there is none.
static int command_at(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (word[0] != '-')
            return i;
        for (const struct opt *o = global_options; o->name; o++) {
            if (o->arg && str_starts(word, "--") && strcmp(word + 2, o->name) == 0)
                i++;
        }
    }
    return argc;
}

static int check_args(const struct command *c, const struct strings *args, struct err *e)
{
    if ((int)args->n >= c->min_args && (c->max_args < 0 || (int)args->n <= c->max_args))
        return 0;
    if (c->max_args == 0)
        return err_set(e, ERR_USAGE, "%s takes no argument, got \"%s\"", c->name,
                       args->v[0]);
    return err_set(e, ERR_USAGE,
                   "%s takes %s, got %zu argument%s (see `godwit %s --help`)", c->name,
                   c->args, args->n, args->n == 1 ? "" : "s", c->name);
}

// Names become JSON: for QEMU, in the store, in reports.
static int check_words(int argc, char **argv, const struct strings *args, struct err *e)
{
    for (int i = 0; i < argc; i++) {
        if (!json_can_hold(argv[i]))
            return err_set(e, ERR_USAGE,
                           "\"%s\" is not UTF-8: rename the file, or name it by a link",
                           argv[i]);
    }
    for (size_t i = 0; i < args->n; i++) {
        if (!args->v[i][0])
            return err_set(e, ERR_USAGE, "argument %zu is empty", i + 1);
    }
    return 0;
}

static int run_command(const struct command *c, struct merged *m, int argc, char **argv,
                       struct err *e)
{
    AUTO(strings_done) struct strings args = {0};
    if (opt_parse(m->rows.v, argc, argv, m->values, &args, e) ||
        check_words(argc, argv, &args, e))
        return -1;
    const struct globals *g = (const struct globals *)((char *)m->values + m->globals_at);
    AUTO(buf_done) struct buf text = BUF_INIT(MIB);
    if (g->version) {
        buf_printf(&text, "godwit %s\n", GODWIT_VERSION);
        print_buf(&text);
        return 0;
    }
    if (g->help) {
        if (c)
            help_command(c, &text);
        else
            help_overview(&text);
        print_buf(&text);
        return 0;
    }
    if (!c)
        return err_set(e, ERR_USAGE, "no command given (see `godwit --help`)");
    if (check_args(c, &args, e))
        return -1;
    log_setup(g->verbose ? LOG_DEBUG : g->quiet ? LOG_WARN : LOG_INFO, false);
    return c->run(g, m->values, &args, e) || print_check(e) ? -1 : 0;
}

// Also when the options could not be read: whoever asked for JSON gets JSON.
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--json") == 0)
            return true;
    }
    return false;
}

static void report(const struct err *e, bool as_json)
{
    fprintf(stderr, "godwit: %s\n", e->text);
    if (e->code == ERR_CANCELLED)
        fprintf(stderr, "godwit: the same command line goes on from here\n");
    if (as_json)
        print_json(json_pack("{s:s, s:i}", "error", e->text, "code", (int)e->code));
}

// A descriptor 0, 1 or 2 that is closed would become the next file that is opened, a
// replica say, and what is printed would go there. A reader that goes away, or a limit on
// the size of files, must not end a migration as kill -9 does: the calls fail instead.
static void setup(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            _exit(ERR_FAILED);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    cancel_setup();
}

int main(int argc, char **argv)
{
    setup();
    struct err e = {0};
    struct merged m = {0};
    int at = command_at(argc, argv), status = -1;
    const struct command *c = at < argc ? command_find(argv[at]) : NULL;
    if (at < argc && !c) {
        err_set(&e, ERR_USAGE, "there is no command \"%s\" (see `godwit --help`)",
                argv[at]);
    } else {
        // The words of the options, without the program's and the command's name.
        AUTO(free) void *memory = xcalloc((size_t)argc + 1, sizeof(char *));
        char **words = memory;
        int n = 0;
        for (int i = 1; i < argc; i++) {
            if (i != at)
                words[n++] = argv[i];
        }
        merge(&m, c);
        status = run_command(c, &m, n, words, &e);
    }
    if (status)
        report(&e, wants_json(argc, argv));
    merged_done(&m);
    return status ? (int)e.code : 0;
}
