// SPDX-License-Identifier: Apache-2.0
// `godwit`: one file a subcommand, each a const struct command, listed in cmd.c. Help,
// man page and completion come from these tables.
#pragma once

#include "base/base.h"

struct globals { // options that every command takes
    bool json, quiet, verbose, help;
    const char *state, *accel;
};
struct command {
    const char *name;
    const char *args;          // "SOURCE TARGET"
    const char *summary;       // one line
    const char *help;          // a paragraph or two, wrapped by the printer
    const char *examples;      // lines "godwit migrate …", NULL: none
    const struct opt *options; // may be NULL
    size_t options_size;       // of the struct they fill
    int min_args, max_args;    // max -1: any number
    // 0, or -1 with *e filled. Results go to stdout, talk to stderr.
    int (*run)(const struct globals *g, void *options, const struct strings *args,
               struct err *e);
};
extern const struct command *const commands[]; // ends with NULL
