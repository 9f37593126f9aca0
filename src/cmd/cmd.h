// SPDX-License-Identifier: Apache-2.0
// `godwit`: one file a subcommand, each a const struct command, listed in cmd.c. Help,
// man page and completion come from these tables.
#pragma once

#include "base/base.h"

struct globals { // options that every command takes
    bool json, quiet, verbose, help, version;
    const char *state, *accel;
};
struct command {
    const char *name;
    const char *args;          // "SOURCE TARGET"
    const char *summary;       // one line
    const char *help;          // paragraphs separated by an empty line, wrapped by help.c
    const char *examples;      // lines "godwit migrate …", NULL: none
    const struct opt *options; // may be NULL
    size_t options_size;       // of the struct they fill
    int min_args, max_args;    // max -1: any number
    // 0, or -1 with *e filled. Results go to stdout, talk to stderr.
    int (*run)(const struct globals *g, void *options, const struct strings *args,
               struct err *e);
};
extern const struct command *const commands[]; // ends with NULL
extern const struct opt global_options[];      // fill struct globals
const struct command *command_find(const char *name);

// --- one file a command
extern const struct command command_agent, command_appliance, command_info, command_copy,
    command_convert, command_rehearse, command_migrate, command_verify, command_jobs,
    command_status, command_resume, command_finish, command_discard, command_help,
    command_cutover, command_pause, command_rate, command_rollback;

// --- help.c: everything that is written from the tables

void help_overview(struct buf *out);                         // godwit --help
void help_command(const struct command *c, struct buf *out); // godwit CMD --help
void help_scdoc(const struct command *c, struct buf *out);   // NULL: godwit(1)
void help_bash(struct buf *out);                             // completion

// --- print.c: results on stdout

// Writes the buffer, which is reset. A reader that went away is not an error of ours,
// everything else that goes wrong print_check says in the end.
void print_buf(struct buf *b);
int print_check(struct err *e);
bool print_gone(void); // the reader went away: who writes for ever may stop
void print_json(json_t *value /* taken */); // one value, indented, and a newline

// Columns as wide as their widest cell. Cells come from images and peers: control
// characters are printed as '?'.
struct table {
    size_t n_columns;
    const char *right; // a character a column: 'r' aligns it to the right
    struct strings cells;
};
void table_cell(struct table *t, const char *text); // NULL: "-"
void table_cellf(struct table *t, const char *fmt, ...) PRINTF(2, 3);
void table_print(struct table *t, struct buf *out); // and empties it
void table_done(struct table *t);
__attribute__((unused)) static inline void auto_table_done(struct table *t)
{
    table_done(t);
}
