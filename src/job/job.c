// SPDX-License-Identifier: Apache-2.0
// A job from its row: found or made, locked, its phases run from where it stands. Every
// transition is committed before it is acted upon:
//
//     commit {phase, not done} ─► run ─► commit {phase, done, report} ─► next
//
// A phase that was begun and not finished is run again, whoever was killed. Until the
// replica is verified every process inspects the source anew, because it may have
// changed; afterwards the source is not needed any more.
#include "job/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

bool job_is_live(const struct job *j)
{
    return j->request.method && strcmp(j->request.method, "block") == 0;
}

static const struct phase *phases_of(const struct job *j)
{
    return job_is_live(j) ? live_phases : job_phases;
}

static size_t phase_index(const struct phase *phases, const char *name)
{
    for (size_t i = 0; name && phases[i].name; i++) {
        if (strcmp(phases[i].name, name) == 0)
            return i;
    }
    return 0;
}

int job_save(struct job *j, struct err *e)
{
    return store_job_save(j->store, &j->row, e);
}

void job_done(struct job *j)
{
    live_close(j);
    appliance_end(j->appliance);
    for (size_t i = 0; i < j->place.n_disks; i++) {
        struct cloud_disk *d = &j->place.disks[i];
        free(d->replica);
        free(d->map);
        free(d->overlay);
        free(d->final);
        free(d->final_format);
    }
    free(j->place.disks);
    cloud_close(j->target);
    machine_free(j->machine);
    allocation_done(&j->allocation);
    source_done(&j->source);
    job_request_done(&j->request);
    job_row_done(&j->row);
    fd_close(j->lock_fd);
}
void job_note(struct job *j, const char *fmt, ...)
{
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    struct err e;
    // The note is also in the report and on the screen: a busy store must not end the
    // job.
    (void)store_event(j->store, j->row.id, "info", j->row.phase, text, &e);
    if (j->ui && j->ui->note)
        j->ui->note(j->ui->context, text);
    json_t *notes = json_object_get(j->row.report, "notes");
    if (!notes) {
        notes = json_array();
        json_object_set_new(j->row.report, "notes", notes);
    }
    for (size_t i = 0; i < json_array_size(notes); i++) {
        if (strcmp(json_string_value(json_array_get(notes, i)), text) == 0)
            return;
    }
    json_array_append_new(notes, json_string(text));
}

json_t *job_disk(struct job *j, size_t i)
{
    json_t *disks = json_object_get(j->row.report, "disks");
    if (!disks) {
        disks = json_array();
        json_object_set_new(j->row.report, "disks", disks);
    }
    while (json_array_size(disks) <= i)
        json_array_append_new(disks, json_object());
    return json_array_get(disks, i);
}

struct helper_options job_helper_options(const struct job *j)
{
    return (struct helper_options){.accel = j->request.accel,
                                   .state_dir = store_dir(j->store),
                                   .luks = j->request.luks_key_files.n > 0};
}

// Seconds add up over processes.
void job_add_ms(struct job *j, const char *name, uint64_t ms)
{
    json_t *phases = json_object_get(j->row.report, "phases");
    if (!phases) {
        phases = json_array();
        json_object_set_new(j->row.report, "phases", phases);
    }
    size_t i;
    json_t *p;
    json_array_foreach(phases, i, p)
    {
        if (strcmp(json_string_value(json_object_get(p, "name")), name) == 0) {
            ms += (uint64_t)json_integer_value(json_object_get(p, "ms"));
            json_object_set_new(p, "ms", json_integer((json_int_t)ms));
            return;
        }
    }
    json_array_append_new(phases,
                          json_pack("{s:s, s:I}", "name", name, "ms", (json_int_t)ms));
}

void job_set_text(char **at, const char *text)
{
    char *copy = text ? xstrdup(text) : NULL;
    free(*at);
    *at = copy;
}

void job_stop_after(const char *what)
{
    const char *wanted = getenv("GODWIT_STOP_AFTER");
    if (wanted && strcmp(wanted, what) == 0)
        kill(getpid(), SIGKILL);
}

static void leave(struct job *j)
{
    struct err e;
    cancel_hold(true);
    (void)live_forget(j, &e); // not made: not fenced, and then it notes what failed
    (void)job_save(j, &e);    // as above
    cancel_hold(false);
}

// What the row says of a failure. A refusal before anything was made leaves no job to go
// on with: its name is free again.
static void record_failure(struct job *j, const struct err *cause)
{
    bool made = json_is_true(json_object_get(j->row.report, "made"));
    job_set_text(&j->row.error, cause->text);
    job_set_text(&j->row.state, cause->code == ERR_CANCELLED          ? "stopped"
                                : cause->code == ERR_REFUSED && !made ? "discarded"
                                                                      : "failed");
    struct err e;
    // The cause is what counts; a row that says "running" is shown as stopped.
    (void)job_save(j, &e);
    const char *level = cause->code == ERR_CANCELLED ? "info" : "error"; // as was asked
    (void)store_event(j->store, j->row.id, level, j->row.phase, cause->text, &e);
    if (!made && job_is_live(j) && j->live.source)
        leave(j); // nothing is recorded for nobody
    bool fenced = job_is_live(j) && live_state(j) >= LIVE_COMMITTING;
    if (!made || (cause->code == ERR_CANCELLED && !fenced) || !j->ui || !j->ui->note)
        return;
    if (job_is_live(j)) {
        live_say_stopped(j);
        return;
    }
    AUTO(str_free)
    char *text = xasprintf("job %llu keeps what it has: the same line goes on from "
                           "there, `godwit discard %llu` removes it",
                           (unsigned long long)j->row.id, (unsigned long long)j->row.id);
    j->ui->note(j->ui->context, text);
}

static int run_phase(struct job *j, const struct phase *p, struct err *e)
{
    job_set_text(&j->row.phase, p->name);
    j->row.phase_done = false;
    if (cancel_check(e) || job_save(j, e))
        return -1;
    if (j->ui && j->ui->phase && (!p->wanted || p->wanted(&j->request)))
        j->ui->phase(j->ui->context, &j->row, p->name, p->why);
    uint64_t start = clock_ms();
    if (p->run(j, e))
        return -1;
    uint64_t ms = clock_ms() - start;
    job_add_ms(j, p->name, ms);
    j->row.phase_done = true;
    if (job_save(j, e))
        return -1;
    job_stop_after(p->name);
    AUTO(str_free) char *text = xasprintf("done in %.2f s", (double)ms / 1000.0);
    return store_event(j->store, j->row.id, "info", p->name, text, e);
}

// Behind the last phase that needs the source it is not asked any more; before, a new
// process begins with it. A fence is that end, whether its phase was written down or not.
static size_t first_phase(const struct job *j, const struct phase *phases)
{
    bool live = job_is_live(j);
    size_t behind = phase_index(phases, live ? "cutover" : "verify") + 1;
    size_t next = phase_index(phases, j->row.phase) + (j->row.phase_done ? 1 : 0);
    if (next < behind)
        return live && live_state(j) >= LIVE_FENCED ? behind : 0;
    return next;
}

static int run_phases(struct job *j, struct err *e)
{
    const struct phase *phases = phases_of(j);
    size_t first = first_phase(j, phases);
    if (first && job_place(j, e))
        return -1;
    for (const struct phase *p = phases + first; p->name; p++) {
        if (run_phase(j, p, e))
            return -1;
    }
    if (job_write_report(j, e))
        return -1;
    job_set_text(&j->row.state, "done");
    return job_save(j, e);
}

// The row is complete and locked: runs it.
static int job_run(struct job *j, struct err *e)
{
    job_set_text(&j->row.state, "running");
    job_set_text(&j->row.error, NULL);
    if (!j->row.report)
        j->row.report = json_object();
    // What stopped it is over once somebody runs it again.
    AUTO(json_free)
    json_t *over = json_pack("{s:n, s:n, s:n}", "pause", "cancel", "rollback");
    if (job_save(j, e) || store_wish_change(j->store, j->row.id, over, e))
        return -1;
    if (!run_phases(j, e))
        return 0;
    record_failure(j, e);
    return -1;
}

// Locks the job and reads its row again, which another process may have moved on.
static int job_lock(struct job *j, uint64_t id, struct err *e)
{
    if (store_job_lock(j->store, id, &j->lock_fd, e))
        return -1;
    struct job_row fresh = {0};
    if (store_job_get(j->store, id, &fresh, e))
        return -1;
    job_row_done(&j->row);
    j->row = fresh;
    if (!j->row.report)
        j->row.report = json_object();
    return 0;
}

static int load_request(struct job *j, struct err *e)
{
    job_request_done(&j->request);
    return job_request_read(j->row.request, &j->request, e);
}

void job_hand_over(struct job *j, struct job_row *ret)
{
    *ret = j->row;
    j->row = (struct job_row){0};
}

// --- migrate

// Words that name files become absolute, so that the same job is found from any folder.
static int absolute(const char *word, char **ret, struct err *e)
{
    const char *path = str_starts(word, "dir:") ? word + 4 : word;
    if (path == word && cloud_find(word)) {
        *ret = xstrdup(word);
        return 0;
    }
    AUTO(str_free) char *real = NULL;
    if (!*path)
        return err_set(e, ERR_USAGE, "\"%s\" names no folder", word);
    if (path_real(path, &real, e)) {
        if (e->code == ERR_REFUSED)
            return -1;
        // A target's parents are made later: only made absolute as it is written.
        AUTO(str_free) char *here = getcwd(NULL, 0);
        if (path == word || !here)
            return -1;
        real = *path == '/' ? xstrdup(path) : path_join(here, path);
    }
    *ret = path == word ? steal(real) : xasprintf("dir:%s", real);
    return 0;
}

// A finish that was interrupted: some disks are one file already, others not yet.
static int check_finished(const struct job *j, struct err *e)
{
    bool open = j->row.phase && strcmp(j->row.phase, "finish") == 0 && !j->row.phase_done;
    return open ? err_set(e, ERR_REFUSED,
                          "job %llu is being finished: `godwit finish %llu` goes on",
                          (unsigned long long)j->row.id, (unsigned long long)j->row.id)
                : 0;
}

static bool finals_are_there(struct job *j)
{
    size_t n = json_array_size(json_object_get(j->row.report, "disks"));
    for (size_t i = 0; i < n; i++) {
        const char *path = json_string_value(json_object_get(job_disk(j, i), "final"));
        if (!path || access(path, F_OK))
            return false;
    }
    return n > 0;
}

// A job that is done: the same line is answered with it, unless its disks were taken
// away, when it is forgotten. *ret_again: to be made anew.
static int answer_done(struct job *j, bool *ret_again, struct err *e)
{
    *ret_again = false;
    if (check_finished(j, e))
        return -1;
    if (finals_are_there(j)) {
        job_note(j, "job %llu is done already", (unsigned long long)j->row.id);
        return 0;
    }
    job_set_text(&j->row.state, "discarded");
    *ret_again = true;
    return job_save(j, e);
}

// By what the source is.
static int choose_method(struct job_request *r, bool runs, struct err *e)
{
    const char *asked = r->method ? r->method : "auto";
    if (runs && strcmp(asked, "offline") == 0)
        return err_set(e, ERR_REFUSED,
                       "%s runs: --method block copies it while it does, or shut it down",
                       r->source);
    if (!runs && strcmp(asked, "block") == 0)
        return err_set(e, ERR_USAGE, "--method block is for servers that run (agent://)");
    if (!runs && (r->max_downtime_ms || r->until_ready || r->delta_every_ms))
        return err_set(e, ERR_USAGE, "%s is off: it has no downtime to be kept short",
                       r->source);
    if (runs && r->format)
        return err_set(e, ERR_USAGE,
                       "--format: of a server that runs `godwit finish` makes one file a "
                       "disk");
    r->method = runs ? "block" : "offline";
    return 0;
}

// What was asked, with absolute names, as the row that stands for it.
static int new_row(const struct store *s, const struct job_request *asked,
                   struct job_row *ret, struct err *e)
{
    AUTO(str_free) char *source = NULL;
    AUTO(str_free) char *target = NULL;
    if (absolute(asked->source, &source, e) || absolute(asked->target, &target, e))
        return -1;
    if (!cloud_find(target))
        return err_set(e, ERR_USAGE, "\"%s\" is no target: dir:PATH or libvirt+URI",
                       asked->target);
    struct job_request request = *asked; // the lists stay the caller's
    request.source = source;
    request.target = target;
    AUTO(strings_done) struct strings words = {0};
    strings_add(&words, source);
    AUTO(source_done) struct source described = {0};
    struct source_options options = {.words = &words,
                                     .state_dir = store_dir(s),
                                     .allow_any_path = asked->allow_any_path,
                                     .name = asked->name};
    if (source_describe(&options, &described, e) ||
        choose_method(&request, described.runs, e))
        return -1;
    *ret = (struct job_row){
        .name = xstrdup(asked->name ? asked->name : described.machine->name),
        .kind = xstrdup("migrate"),
        .source = xstrdup(source),
        .target = xstrdup(target),
        .state = xstrdup("running"),
        .request = job_request_json(&request),
        .report = json_object(),
    };
    return 0;
}

// Finds or adds the job of `wanted` and locks it.
static int find_or_add(struct job *j, struct job_row *wanted, bool *ret_done,
                       struct err *e)
{
    bool found = false, again = true;
    *ret_done = false;
    if (store_job_find(j->store, wanted->kind, wanted->source, wanted->target,
                       wanted->name, &j->row, &found, e))
        return -1;
    if (found) {
        if (job_lock(j, j->row.id, e))
            return -1;
        again = false;
        *ret_done = strcmp(j->row.state, "done") == 0;
        if (*ret_done && answer_done(j, &again, e))
            return -1;
        *ret_done = *ret_done && !again;
    }
    if (*ret_done)
        return 0;
    if (again) {
        fd_close(steal_fd(&j->lock_fd));
        return store_job_add(j->store, wanted, e) || job_lock(j, wanted->id, e) ? -1 : 0;
    }
    json_decref(j->row.request); // options may be others now: a rate, a key
    j->row.request = json_incref(wanted->request);
    return 0;
}

struct fenced {
    const struct job_request *asked;
    const char *source, *target;
    uint64_t id; // 0: none
};

// The newest counts.
static int is_fenced(void *context, const struct job_row *row, struct err *e)
{
    struct fenced *f = context;
    struct job j = {.row = *row}; // to be looked at
    const char *name = f->asked->name;
    (void)e; // a visitor that cannot fail
    if (strcmp(row->kind, "migrate") == 0 && strcmp(row->source, f->source) == 0 &&
        strcmp(row->target, f->target) == 0 && (!name || strcmp(row->name, name) == 0) &&
        strcmp(row->state, "discarded") != 0 && row->report &&
        live_state(&j) >= LIVE_FENCED)
        f->id = max_u64(f->id, row->id);
    return 0;
}

// A source that is fenced is not asked what it is: its copy may have its address and its
// MAC by now, and a frame of the source's would take them away from it. *ret_id 0: none.
static int find_fenced(struct store *s, const struct job_request *asked, uint64_t *ret_id,
                       struct err *e)
{
    AUTO(str_free) char *source = NULL;
    AUTO(str_free) char *target = NULL;
    if (absolute(asked->source, &source, e) || absolute(asked->target, &target, e))
        return -1;
    struct fenced f = {.asked = asked, .source = source, .target = target};
    if (store_jobs(s, is_fenced, &f, e))
        return -1;
    *ret_id = f.id;
    return 0;
}

static int go_on_fenced(struct job *j, uint64_t id, struct err *e)
{
    if (job_take(j, id, e))
        return -1;
    if (check_finished(j, e))
        return -1;
    if (strcmp(j->row.state, "done") != 0)
        return job_run(j, e);
    if (!finals_are_there(j))
        return err_set(e, ERR_REFUSED,
                       "the disks of job %llu were taken away, and its source is fenced: "
                       "`godwit discard %llu` lets it serve again",
                       (unsigned long long)id, (unsigned long long)id);
    job_note(j, "job %llu is done already", (unsigned long long)id);
    return 0;
}

int job_migrate(struct store *s, const struct job_request *request,
                const struct job_ui *ui, struct job_row *ret, struct err *e)
{
    AUTO(job_done) struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    struct job_row wanted = {0};
    bool done = false;
    uint64_t fenced = 0;
    if (find_fenced(s, request, &fenced, e))
        return -1;
    if (fenced) {
        if (go_on_fenced(&j, fenced, e))
            return -1;
        job_hand_over(&j, ret);
        return 0;
    }
    if (new_row(s, request, &wanted, e))
        return -1;
    int status = find_or_add(&j, &wanted, &done, e);
    job_row_done(&wanted);
    if (!status && !done)
        status = load_request(&j, e) || job_run(&j, e) ? -1 : 0;
    if (!status)
        job_hand_over(&j, ret);
    return status;
}

// --- the other verbs

static int take_any(struct job *j, uint64_t id, struct err *e)
{
    return store_job_get(j->store, id, &j->row, e) || job_lock(j, id, e) ||
                   load_request(j, e)
               ? -1
               : 0;
}

static int check_discarded(const struct job *j, struct err *e)
{
    if (strcmp(j->row.state, "discarded") != 0)
        return 0;
    return err_set(e, ERR_REFUSED, "job %llu was discarded%s%s",
                   (unsigned long long)j->row.id, j->row.error ? ": " : "",
                   j->row.error ? j->row.error : "");
}

int job_take(struct job *j, uint64_t id, struct err *e)
{
    return take_any(j, id, e) || check_discarded(j, e) ? -1 : 0;
}

int job_resume(struct store *s, uint64_t id, const struct job_ui *ui, struct job_row *ret,
               struct err *e)
{
    AUTO(job_done) struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    if (job_take(&j, id, e))
        return -1;
    if (check_finished(&j, e) || (strcmp(j.row.state, "done") != 0 && job_run(&j, e)))
        return -1;
    job_hand_over(&j, ret);
    return 0;
}

static int undo_all(struct job *j, struct err *e)
{
    if (!json_is_true(json_object_get(j->row.report, "made")))
        return 0;
    if (job_place(j, e) ||
        (job_is_live(j) && live_state(j) >= LIVE_FENCED && live_stop_target(j, e)))
        return -1;
    const struct phase *phases = phases_of(j);
    for (size_t i = phase_index(phases, "launch") + 1; i-- > 0;) {
        if (phases[i].undo && phases[i].undo(j, e))
            return -1;
    }
    return 0;
}

int job_discard(struct store *s, uint64_t id, const struct job_ui *ui,
                struct job_row *ret, struct err *e)
{
    AUTO(job_done) struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    if (take_any(&j, id, e))
        return -1;
    bool over = strcmp(j.row.state, "discarded") == 0;
    bool untold = over && json_is_true(json_object_get(j.row.report, "untold"));
    if (!untold && (check_discarded(&j, e) || undo_all(&j, e)))
        return -1;
    // With the target gone the source may serve again.
    if (job_is_live(&j) && live_forget(&j, e))
        return -1;
    job_set_text(&j.row.state, "discarded");
    if (job_save(&j, e) || store_event(s, id, "info", NULL, "discarded", e))
        return -1;
    job_hand_over(&j, ret);
    return 0;
}
