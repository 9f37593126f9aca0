// SPDX-License-Identifier: Apache-2.0
// godwit rate JOB BYTES, godwit rate --all BYTES: limits while jobs run.
#include "cmd/session.h"

struct rate_options {
    bool all;
};

static const struct opt options[] = {
    {.name = "all",
     .type = OPT_FLAG,
     .help = "for all live migrations of this state directory together",
     .offset = offsetof(struct rate_options, all)},
    {0},
};

static int rate_all(const struct globals *g, uint64_t bytes, struct err *e)
{
    AUTO(store_close) struct store *s = NULL;
    AUTO(rate_free) struct rate *r = NULL;
    if (session_store(g, &s, e))
        return -1;
    AUTO(str_free) char *path = path_join(store_dir(s), "rate");
    if (rate_shared(path, &r, e))
        return -1;
    rate_set(r, bytes);
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    char text[16];
    if (g->json)
        print_json(json_pack("{s:I}", "rate", (json_int_t)bytes));
    else if (bytes)
        buf_printf(&out, "all jobs together: at most %s a second\n",
                   str_bytes(bytes, text));
    else
        buf_str(&out, "all jobs together: no limit\n");
    print_buf(&out);
    return 0;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct rate_options *o = values;
    uint64_t bytes;
    if (args->n != (o->all ? 1 : 2))
        return err_set(e, ERR_USAGE, "give JOB and BYTES, or --all and BYTES");
    const char *word = args->v[args->n - 1];
    if (str_to_bytes(word, &bytes) || bytes > INT64_MAX)
        return err_set(e, ERR_USAGE, "\"%s\" is no number of bytes (50M; 0: no limit)",
                       word);
    if (o->all)
        return rate_all(g, bytes, e);
    return session_ask(g, args, json_pack("{s:I}", "rate", (json_int_t)bytes),
                       "takes the new rate", "takes the new rate when it is resumed", e);
}

const struct command command_rate = {
    .name = "rate",
    .args = "[JOB] BYTES",
    .summary = "change how many bytes a second live migrations may take",
    .help = "The limit is on what crosses the network between godwit and the agent, both "
            "ways. 0 takes it away. A job has its own limit and that of --all; the lower "
            "one counts. Seen within a second.",
    .examples = "godwit rate 7 20M\ngodwit rate --all 50M\ngodwit rate --all 0\n",
    .options = options,
    .options_size = sizeof(struct rate_options),
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
