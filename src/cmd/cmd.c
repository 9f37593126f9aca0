// SPDX-License-Identifier: Apache-2.0
// The table of commands, in the order the overview lists them, and the global options.
#include "cmd/cmd.h"

const struct command *const commands[] = {
    &command_migrate,
    &command_info,
    &command_copy,
    &command_convert,
    &command_rehearse,
    &command_jobs,
    &command_status,
    &command_cutover,
    &command_pause,
    &command_resume,
    &command_rate,
    &command_rollback,
    &command_verify,
    &command_finish,
    &command_discard,
    &command_agent,
    &command_appliance,
    &command_help,
    NULL, // the end
};

const struct opt global_options[] = {
    {.name = "json",
     .type = OPT_FLAG,
     .help = "results as JSON on stdout, errors too",
     .offset = offsetof(struct globals, json)},
    {.name = "quiet",
     .letter = 'q',
     .type = OPT_FLAG,
     .help = "no progress, only problems",
     .offset = offsetof(struct globals, quiet)},
    {.name = "verbose",
     .letter = 'v',
     .type = OPT_FLAG,
     .help = "say more on stderr",
     .offset = offsetof(struct globals, verbose)},
    {.name = "state",
     .type = OPT_STRING,
     .arg = "DIR",
     .help =
         "where jobs are kept (default: $GODWIT_STATE, else /var/lib/godwit for root, "
         "else ~/.local/state/godwit)",
     .offset = offsetof(struct globals, state)},
    {.name = "accel",
     .type = OPT_CHOICE,
     .arg = "ACCEL",
     .choices = "auto|kvm|tcg",
     .help =
         "hardware virtualisation for godwit's own virtual machines: auto, kvm or tcg",
     .offset = offsetof(struct globals, accel)},
    {.name = "help",
     .letter = 'h',
     .type = OPT_FLAG,
     .help = "show this text",
     .offset = offsetof(struct globals, help)},
    {.name = "version",
     .letter = 'V',
     .type = OPT_FLAG,
     .help = "show the version",
     .offset = offsetof(struct globals, version)},
    {0},
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}
