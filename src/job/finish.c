// SPDX-License-Identifier: Apache-2.0
// finish: every overlay goes into its replica, the maps are forgotten, and the machine is
// defined with what is left. Killed on the way it is done again; nothing else goes on
// with a job that has begun to be finished, because its replicas are not what their maps
// say any more.
#include "job/internal.h"

#include <unistd.h>

static int finish_disk(struct job *j, size_t i, struct err *e)
{
    struct cloud_disk *d = &j->place.disks[i];
    if (strcmp(d->final_format, "qcow2") == 0 && strcmp(d->final, d->overlay) == 0 &&
        !access(d->replica, F_OK)) {
        // Killed after the commit and before the row was saved: the overlay is gone.
        if (!access(d->overlay, F_OK) && overlay_commit(d->overlay, e))
            return -1;
        job_set_text(&d->final, d->replica);
        job_set_text(&d->final_format, "raw");
    }
    if (file_remove(d->map, e))
        return -1;
    json_t *disk = job_disk(j, i);
    json_object_set_new(disk, "final", json_string(d->final));
    json_object_set_new(disk, "final_format", json_string(d->final_format));
    return job_save(j, e);
}

static int finish(struct job *j, struct err *e)
{
    // Of a machine that was started, but was not seen to serve, the operator knows
    // better.
    bool started = job_is_live(j) && live_state(j) >= LIVE_LAUNCHED;
    if (strcmp(j->row.state, "done") != 0 && !started)
        return err_set(e, ERR_REFUSED, "job %llu is not done: resume it first",
                       (unsigned long long)j->row.id);
    if (job_place(j, e) || overlays_unused(j, e))
        return -1;
    job_set_text(&j->row.phase, "finish");
    job_set_text(&j->row.state, "done");
    job_set_text(&j->row.error, NULL);
    j->row.phase_done = false;
    // Before the first overlay goes into its replica: no round may ever go on top of it.
    if (job_is_live(j) ? live_finish(j, e) : job_save(j, e))
        return -1;
    uint64_t start = clock_ms();
    for (size_t i = 0; i < j->place.n_disks; i++) {
        if (finish_disk(j, i, e))
            return -1;
    }
    if (j->target->ops->import(j->target, &j->place, e))
        return -1;
    job_add_ms(j, "finish", clock_ms() - start);
    if (job_write_report(j, e))
        return -1;
    j->row.phase_done = true;
    return job_save(j, e);
}

int job_finish(struct store *s, uint64_t id, const struct job_ui *ui, struct job_row *ret,
               struct err *e)
{
    AUTO(job_done) struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    if (job_take(&j, id, e) || finish(&j, e))
        return -1;
    job_hand_over(&j, ret);
    return 0;
}
