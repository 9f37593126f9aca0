// SPDX-License-Identifier: Apache-2.0
// The way back from a cutover, and what is said to running jobs. Back is: the target is
// off and forgotten, what it wrote is gone with its overlays, and only then the source is
// let go: at no moment both run. The replicas stay, so that the job can go on.
#include "job/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN_USE_MS 3000
#define IN_USE_STEP_US 20000

void live_say_stopped(struct job *j)
{
    unsigned long long id = j->row.id;
    enum live_state state = live_state(j);
    AUTO(str_free) char *text = NULL;
    if (state >= LIVE_COMMITTING)
        text = xasprintf("job %llu: the source is fenced (%s): `godwit resume %llu` goes "
                         "on, `godwit rollback %llu` lets it serve again",
                         id, live_state_names[state], id, id);
    else
        text = xasprintf("job %llu: the source serves, its changes are recorded: `godwit "
                         "resume %llu` goes on, `godwit discard %llu` ends it",
                         id, id, id);
    j->ui->note(j->ui->context, text);
}

// What the target wrote since it was started.
static uint64_t written_there(const struct job *j)
{
    uint64_t now = 0, then = (uint64_t)json_integer_value(
                          json_object_get(j->row.report, "launched_with"));
    for (size_t i = 0; i < j->place.n_disks; i++) {
        struct stat st;
        if (!stat(j->place.disks[i].overlay, &st))
            now += (uint64_t)st.st_blocks * 512;
    }
    return now > then ? now - then : 0;
}

static int replicas_unused(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const char *path = j->place.disks[i].replica;
        AUTO(fd_close) int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
            return err_errno(e, errno, "opening %s", path);
        if (fd >= 0 && disk_lock(fd, path, true, e))
            return err_wrap(e, "%s has to be off", j->row.name);
    }
    return 0;
}

int live_stop_target(struct job *j, struct err *e)
{
    uint64_t start = clock_ms();
    if (job_place(j, e) || phase_import_undo(j, e))
        return -1;
    // What a killed process of ours had started ends a little later.
    while (overlays_unused(j, e) || replicas_unused(j, e)) {
        if (e->code != ERR_REFUSED || clock_ms() - start >= IN_USE_MS ||
            cancel_requested())
            return -1;
        usleep(IN_USE_STEP_US);
    }
    return 0;
}

// It is off: what it wrote is dropped. Of one that was not converted that lies in the
// replicas, which the next round looks through.
static int drop_target(struct job *j, struct err *e)
{
    char bytes[16];
    for (size_t i = 0; i < j->place.n_disks && j->request.no_convert; i++)
        json_object_set_new(job_disk(j, i), "ran", json_true());
    if (j->request.no_convert && live_state(j) >= LIVE_LAUNCHED)
        job_note(j, "the target is off; what was written there is undone by the next "
                    "round");
    else if (live_state(j) >= LIVE_LAUNCHED)
        job_note(j,
                 "the target is off; about %s that was written there since it was "
                 "started is lost",
                 str_bytes(written_there(j), bytes));
    return phase_convert_undo(j, e);
}

static int rollback(struct job *j, struct err *e)
{
    enum live_state state = live_state(j);
    if (!job_is_live(j))
        return err_set(e, ERR_REFUSED,
                       "job %llu copied a machine that was off: there is nothing to roll "
                       "back, start the machine again",
                       (unsigned long long)j->row.id);
    if (state == LIVE_FINISHED)
        return err_set(e, ERR_REFUSED,
                       "job %llu is finished, its replica is the machine now; on the "
                       "source's console `godwit-agent unfence --force` lets it serve",
                       (unsigned long long)j->row.id);
    if (state >= LIVE_FENCED && (live_stop_target(j, e) || drop_target(j, e)))
        return -1;
    AUTO(json_free)
    json_t *done = json_pack("{s:n, s:n, s:n}", "rollback", "cutover", "pause");
    json_object_del(j->row.report, "launched_with");
    job_set_text(&j->row.phase, state >= LIVE_FENCED ? "rounds" : j->row.phase);
    j->row.phase_done = false;
    job_set_text(&j->row.state, "stopped");
    job_set_text(&j->row.error, NULL);
    // Said before it is let go: whoever comes after a kill lets it go too, and must not
    // start its copy again.
    if (state >= LIVE_QUIESCED && live_set_state(j, LIVE_QUIESCED, e))
        return -1;
    if (live_open(j, e) || live_release(j, false, e) ||
        live_set_state(j, state >= LIVE_QUIESCED ? LIVE_READY : state, e))
        return -1;
    job_note(j, "the source serves, its changes are recorded again");
    return store_wish_change(j->store, j->row.id, done, e) || job_save(j, e) ? -1 : 0;
}

int job_rollback(struct store *s, uint64_t id, const struct job_ui *ui,
                 struct job_row *ret, struct err *e)
{
    struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    int status = job_take(&j, id, e) || rollback(&j, e) ? -1 : 0;
    if (!status)
        job_hand_over(&j, ret);
    job_done(&j);
    return status;
}

int live_forget(struct job *j, struct err *e)
{
    bool fenced = live_state(j) >= LIVE_COMMITTING;
    j->live.leaving = !fenced;
    bool told = !live_open(j, e) && (!live_release(j, true, e) ||
                                     e->code == ERR_REFUSED); // not ours any more
    json_object_set_new(j->row.report, "untold", json_boolean(!told));
    if (told)
        return 0;
    if (fenced)
        return err_wrap(e, "the target's machine is removed, but the source is still "
                           "fenced");
    job_note(j,
             "the agent was not told that the job is over, and takes no other one: "
             "`godwit discard %llu` tells it when it is back: %s",
             (unsigned long long)j->row.id, e->text);
    return 0;
}

int live_finish(struct job *j, struct err *e)
{
    job_note(j, "the source stays fenced for good: its copy has taken its place. On its "
                "console `godwit-agent unfence --force` lets it serve again");
    return live_set_state(j, LIVE_FINISHED, e);
}

int job_ask(struct store *s, uint64_t id, const json_t *wish, bool *ret_running,
            struct err *e)
{
    struct job_row row = {0};
    if (store_job_get(s, id, &row, e))
        return -1;
    const char *method = json_string_value(json_object_get(row.request, "method"));
    bool live = method && strcmp(method, "block") == 0;
    bool over = strcmp(row.state, "discarded") == 0 || strcmp(row.state, "done") == 0;
    job_row_done(&row);
    if (!live)
        return err_set(e, ERR_REFUSED,
                       "job %llu copies a machine that is off: it takes no orders while "
                       "it runs",
                       (unsigned long long)id);
    if (over)
        return err_set(e, ERR_REFUSED, "job %llu is over", (unsigned long long)id);
    *ret_running = store_job_running(s, id);
    return store_wish_change(s, id, wish, e);
}
