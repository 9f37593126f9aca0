// SPDX-License-Identifier: Apache-2.0
// The global options as the things they stand for.
#include "cmd/session.h"

char *session_state_dir(const struct globals *g)
{
    return g->state ? xstrdup(g->state) : store_default_dir();
}

int session_store(const struct globals *g, struct store **ret, struct err *e)
{
    AUTO(str_free) char *dir = session_state_dir(g);
    return store_open(dir, ret, e);
}

enum accel session_accel(const struct globals *g)
{
    if (g->accel && strcmp(g->accel, "kvm") == 0)
        return ACCEL_KVM;
    if (g->accel && strcmp(g->accel, "tcg") == 0)
        return ACCEL_TCG;
    return ACCEL_AUTO;
}

int session_job(const struct globals *g, const struct strings *args, uint64_t *ret_id,
                struct store **ret, struct err *e)
{
    if (str_to_u64(args->v[0], ret_id) || *ret_id == 0 || *ret_id > INT64_MAX)
        return err_set(e, ERR_USAGE, "\"%s\" is not a job's number (see `godwit jobs`)",
                       args->v[0]);
    return session_store(g, ret, e);
}

int session_run_job(const struct globals *g, const struct strings *args,
                    int (*act)(struct store *s, uint64_t id, const struct job_ui *ui,
                               struct job_row *ret, struct err *e),
                    struct err *e)
{
    uint64_t id;
    AUTO(store_close) struct store *s = NULL;
    if (session_job(g, args, &id, &s, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    struct job_ui ui = progress_ui(&progress);
    struct job_row job = {0};
    int status = act(s, id, &ui, &job, e);
    progress_disk_done(&progress);
    if (!status)
        job_print(s, g, &job);
    job_row_done(&job);
    return status;
}

int session_ask(const struct globals *g, const struct strings *args, json_t *wish,
                const char *then, const char *else_, struct err *e)
{
    AUTO(json_free) json_t *owned = wish;
    uint64_t id;
    bool running;
    AUTO(store_close) struct store *s = NULL;
    if (session_job(g, args, &id, &s, e) || job_ask(s, id, wish, &running, e))
        return -1;
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    if (g->json)
        print_json(json_pack("{s:I, s:b}", "job", (json_int_t)id, "running", running));
    else
        buf_printf(&out, "job %llu: %s\n", (unsigned long long)id,
                   running ? then : else_);
    print_buf(&out);
    return 0;
}

enum firmware firmware_of_guest(const json_t *guest)
{
    bool uefi = json_is_true(json_object_get(guest, "uefi"));
    bool bios = json_is_true(json_object_get(guest, "bios"));
    return uefi && !bios ? FIRMWARE_UEFI : FIRMWARE_BIOS;
}
