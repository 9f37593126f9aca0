// SPDX-License-Identifier: Apache-2.0
// The subcommands by name.
#include "records.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"write", cmd_write, "a load of records on a folder, a device or both"},
    {"collect", cmd_collect, "stores acknowledgements with their time"},
    {"check", cmd_check, "is everything there that was acknowledged?"},
    {"serve", cmd_serve, "answers with a counter and the time"},
    {"ping", cmd_ping, "how long did a server not answer?"},
    {"exec", cmd_exec, "runs what `run` and `push` ask for"},
    {"run", cmd_run, "a command in a guest"},
    {"push", cmd_push, "a file into a guest"},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(stderr, "records %-8s %s\n", commands[i].name, commands[i].what);
    return 2;
}
