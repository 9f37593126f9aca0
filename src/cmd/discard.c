// SPDX-License-Identifier: Apache-2.0
// godwit discard JOB: the one command that deletes a replica.
#include "cmd/session.h"

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    uint64_t id;
    AUTO(store_close) struct store *s = NULL;
    if (session_job(g, args, &id, &s, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    struct job_ui ui = progress_ui(&progress);
    struct job_row job = {0};
    if (job_discard(s, id, &ui, &job, e))
        return -1;
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    if (g->json)
        print_json(job_row_json(s, &job));
    else
        buf_printf(&out, "job %llu is discarded: its machine and its disks are removed\n",
                   (unsigned long long)id);
    print_buf(&out);
    job_row_done(&job);
    return 0;
}

const struct command command_discard = {
    .name = "discard",
    .args = "JOB",
    .summary = "remove everything a job has made, its replicas included",
    .help =
        "Stops and forgets the job's machine at the target and removes the job's "
        "disks, maps and overlays there, whatever state it is in. The source's disks are "
        "not touched; of a server that runs the agent is told, and the same line "
        "again tells one that did not answer. Nothing else in godwit ever deletes a "
        "replica.",
    .examples = "godwit discard 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
