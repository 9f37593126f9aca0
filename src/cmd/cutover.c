// SPDX-License-Identifier: Apache-2.0
// godwit cutover JOB: now, says the operator.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    return session_ask(g, args, json_pack("{s:b}", "cutover", 1),
                       "cuts over as soon as the current round is done",
                       "does not run now: `godwit resume` goes on, and cuts over", e);
}

const struct command command_cutover = {
    .name = "cutover",
    .args = "JOB",
    .summary = "let a migration that waits in READY cut over",
    .help =
        "Of a server that runs, migrated with --until ready: one more round, then the "
        "server is frozen, the rest is copied, and the copy takes its place. The "
        "process that runs the job sees it within a second.",
    .examples = "godwit cutover 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
