// SPDX-License-Identifier: Apache-2.0
// godwit rollback JOB: the source serves again. A process that runs the job is asked to
// end first.
#include "cmd/session.h"

#include <unistd.h>

#define STOP_MS 120000 // a conversion is not interrupted
#define STEP_US 100000

static int stop_runner(const struct globals *g, const struct strings *args, struct err *e)
{
    uint64_t id, start = clock_ms();
    AUTO(store_close) struct store *s = NULL;
    AUTO(json_free) json_t *wish = json_pack("{s:b}", "rollback", 1);
    bool running;
    if (session_job(g, args, &id, &s, e))
        return -1;
    if (!store_job_running(s, id))
        return 0;
    if (job_ask(s, id, wish, &running, e))
        return -1;
    while (store_job_running(s, id)) {
        if (cancel_check(e))
            return -1;
        if (clock_ms() - start > STOP_MS)
            return err_set(e, ERR_RETRY, "the process of job %llu does not end",
                           (unsigned long long)id);
        usleep(STEP_US);
    }
    return 0;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options
    return stop_runner(g, args, e) || session_run_job(g, args, job_rollback, e) ? -1 : 0;
}

const struct command command_rollback = {
    .name = "rollback",
    .args = "JOB",
    .summary = "let the source of a live migration serve again",
    .help =
        "Before the fence the source is thawed, if it is frozen at all. Afterwards the "
        "target's machine is stopped and forgotten, what it wrote is dropped (it is "
        "said how much), and then the source's fence is lifted: at no moment both "
        "run. The replicas stay: `godwit resume JOB` brings what changed since and "
        "cuts over again.",
    .examples = "godwit rollback 7\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
