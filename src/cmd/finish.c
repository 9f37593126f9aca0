// SPDX-License-Identifier: Apache-2.0
// godwit finish JOB: the overlay goes into the replica, the maps are forgotten.
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
    int status = job_finish(s, id, &ui, &job, e);
    if (!status)
        job_print(s, g, &job);
    job_row_done(&job);
    return status;
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
