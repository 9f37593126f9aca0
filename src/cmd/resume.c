// SPDX-License-Identifier: Apache-2.0
// godwit resume JOB: what running its line again does.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    uint64_t id;
    AUTO(store_close) struct store *s = NULL;
    if (session_job_id(args->v[0], &id, e) || session_store(g, &s, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    struct job_ui ui = progress_ui(&progress);
    struct job_row job = {0};
    int status = job_resume(s, id, &ui, &job, e);
    progress_disk_done(&progress);
    if (!status)
        job_print(s, g, &job);
    job_row_done(&job);
    return status;
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
