// SPDX-License-Identifier: Apache-2.0
// godwit pause JOB: from another terminal what Ctrl-C is in its own.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    return session_ask(g, args, json_pack("{s:b}", "pause", 1),
                       "stops; `godwit resume` goes on", "does not run", e);
}

const struct command command_pause = {
    .name = "pause",
    .args = "JOB",
    .summary = "stop a live migration for a while",
    .help = "The process that runs the job ends after a checkpoint. The server goes on "
            "running, its agent goes on recording what changes, so `godwit resume JOB` "
            "copies nothing twice. A cutover that has begun is not paused.",
    .examples = "godwit pause 7\ngodwit resume 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
