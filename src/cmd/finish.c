// SPDX-License-Identifier: Apache-2.0
// godwit finish JOB: the overlay goes into the replica, the maps are forgotten.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    return session_run_job(g, args, job_finish, e);
}

const struct command command_finish = {
    .name = "finish",
    .args = "JOB",
    .summary = "make one file a disk of replica and overlay",
    .help =
        "Commits the converted overlay into the replica, removes the map, and defines "
        "the machine anew so that it names the one file that is left. The machine "
        "must be off. Afterwards the job can neither verify nor receive changes.",
    .examples = "godwit finish 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
