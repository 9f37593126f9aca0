// SPDX-License-Identifier: Apache-2.0
// godwit resume JOB: what running its line again does.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    return session_run_job(g, args, job_resume, e);
}

const struct command command_resume = {
    .name = "resume",
    .args = "JOB",
    .summary = "go on with a job that was interrupted or failed",
    .help = "Does what running the job's line again does, with the options it was given. "
            "A job that is done is shown.",
    .examples = "godwit resume 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
