// SPDX-License-Identifier: Apache-2.0
// godwit verify JOB: the replicas again, against their maps and the source.
#include "cmd/session.h"

struct verify_options {
    const char *verify;
};

static const struct opt options[] = {
    {.name = "verify",
     .type = OPT_CHOICE,
     .arg = "HOW",
     .choices = "full|sample",
     .help = "full (default): every block; sample: one of 64",
     .offset = offsetof(struct verify_options, verify)},
    {0},
};

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct verify_options *o = values;
    enum verify_mode mode = VERIFY_FULL;
    uint64_t id;
    AUTO(store_close) struct store *s = NULL;
    if (o->verify && verify_from_name(o->verify, &mode))
        return err_set(e, ERR_USAGE, "--verify %s is not known", o->verify);
    if (session_job(g, args, &id, &s, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    struct job_ui ui = progress_ui(&progress);
    struct copy_result result = {0};
    int status = job_verify(s, id, mode, &ui, &result, e);
    progress_disk_done(&progress);
    if (status)
        return -1;
    char bytes[16], time[24];
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    if (g->json)
        print_json(json_pack("{s:I, s:s, s:I, s:I, s:i}", "job", (json_int_t)id, "verify",
                             verify_names[mode], "verified", (json_int_t)result.verified,
                             "ms", (json_int_t)result.verify_ms, "mismatched", 0));
    else
        buf_printf(&out, "job %llu: %s compared in %s, no difference\n",
                   (unsigned long long)id, str_bytes(result.verified, bytes),
                   str_duration(result.verify_ms, time));
    print_buf(&out);
    return 0;
}

const struct command command_verify = {
    .name = "verify",
    .args = "JOB",
    .summary = "compare a job's replicas with their maps and the source",
    .help = "Reads the replicas again and compares every block with the hash that the "
            "copy left in the map, and with the source while that is unchanged. "
            "Conversion works on an overlay, so a replica can be verified at any time "
            "until the job is finished.",
    .examples = "godwit verify 7\ngodwit verify 7 --verify sample --json\n",
    .options = options,
    .options_size = sizeof(struct verify_options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
