// SPDX-License-Identifier: Apache-2.0
// What the phases of a migration of a running server share. Inside job/ only.
//
// The report has, beside what internal.h lists:
//     {"cutover": {"state", "token"}, "steps": [{"name", "ms"}], "downtime_ms",
//      "quiesce": [{"name", "ms"}] on the source, "forecast": before the cutover
//      {"freeze_ms", "downtime_ms", "dirty_rate", "throughput"},
//      "probes": ["ADDRESS:PORT"], "launched_with": bytes, "distrusted": {tracker: why},
//      "untold": true, "disks": [{"epoch", "hash_round", "hash_epoch", "round",
//      "ran": true}]}
#pragma once

#include "job/forecast.h"
#include "job/job.h"

// DESIGN.md section 7. COMMITTING: whether the source is fenced is known to it alone.
enum live_state {
    LIVE_COPYING,
    LIVE_READY,
    LIVE_QUIESCED,
    LIVE_COMMITTING,
    LIVE_FENCED,
    LIVE_CONVERTED,
    LIVE_LAUNCHED,
    LIVE_SERVING,
    LIVE_FINISHED,
};
extern const char *const live_state_names[];

struct live_disk {
    struct replica replica;
    struct disk *exact, *hash; // views of the source, opened when they are needed
    struct extents round;      // what the last round was about
    struct hot hot;            // what harvests named
    struct extents suspect[2]; // differ, and the last one or two harvests did not say so
    struct extents fresh;      // to be copied though no harvest named it
    uint64_t aged_ms;          // when the suspects were judged last
};
struct live {
    struct cloud *source; // armed
    struct cloud_harvest harvest;
    struct live_disk *disks;
    size_t n_disks;
    struct forecast forecast;
    struct rate *shared, *rate; // of all jobs, of this one
    struct strings others;      // replica, map, replica, map… of other machines
    uint64_t round, harvested_ms, polled_ms, told_ms;
    uint64_t moved, changed; // bytes of the last round
    uint64_t took_ms;        // the last round
    double held; // share of it for which reading gave way, by the next harvest
    uint64_t freeze_until_ms; // 0: not frozen
    size_t disk;              // that is being copied
    bool cutover;             // asked for by `godwit cutover`
    bool verified;
    bool lost;             // the tracker was found out in the freeze
    uint64_t rehearsed_ms; // the conversion took so long, 0: it was not tried
    unsigned n_failed;     // rehearsals in a row
    bool leaving; // the job ends: a source that does not answer is not waited for
};

// --- live.c: the source, and where the cutover stands

int live_open(struct job *j, struct err *e); // connects and arms; again: nothing
// Of what live_open opened, which may have been started anew since.
int live_arm(struct job *j, struct err *e);
// A source that was started anew knows nothing of this job, and refuses. Armed again,
// once, it goes on: what it did not record is found by hashes, because its epochs are
// others.
bool live_armed_again(struct job *j, bool *armed, const struct err *why);
// *h (taken) is the newest harvest, if it is of the same disks.
int live_take(struct job *j, struct cloud_harvest *h, struct err *e);
void live_close(struct job *j);
enum live_state live_state(const struct job *j);
// Saved before it is acted upon.
int live_set_state(struct job *j, enum live_state state, struct err *e);
const char *live_token(const struct job *j); // NULL: none was ever made
int live_new_token(struct job *j, struct err *e);
// Releases what the token holds; forget: the job is over.
int live_release(struct job *j, bool forget, struct err *e);
int live_commit(struct job *j, struct err *e);
// What a tracker marks is not believed any more. Kept in the row, and the agent is told,
// also the next one that may not know.
void live_distrust(struct job *j, const char *why);
bool live_is_distrusted(const struct job *j); // that which marks now
// Sleeps a second between two askings of a source that did not answer. False: enough.
bool live_patience(const struct job *j, uint64_t since_ms, const struct err *e);
void live_step(struct job *j, const char *name, uint64_t ms); // of the downtime

// --- rollback.c

// After a failure: what holds, and how to go on or back.
void live_say_stopped(struct job *j);
// Stops and forgets the target's machine, and proves that nothing runs from its disks.
int live_stop_target(struct job *j, struct err *e);
// The job is over and nothing is left at the target: the source serves, unrecorded. The
// report has "untold" where the agent could not be told.
int live_forget(struct job *j, struct err *e);
// The replica is the machine now.
int live_finish(struct job *j, struct err *e);

// --- live_talk.c: what other terminals ask, and what they see

// At most a few times a second. ERR_CANCELLED: the job is to stop.
int live_poll(struct job *j, struct err *e);
void live_tell(struct job *j, bool now, const struct copy_progress *p);

// --- live_round.c

int live_replicas(struct job *j, struct err *e); // opens them; again: nothing
void live_replicas_close(struct job *j);
// One round of every disk: what an earlier run left open, else the next harvest.
int live_round(struct job *j, struct err *e);
// The first one is complete on every disk.
bool live_has_first(const struct job *j);
// By hashes, whatever the tracker says; before every round from now on.
bool live_unknown(const struct job *j, size_t i);

// A view of the source, opened if need be.
int live_view(struct job *j, size_t i, enum cloud_view view, struct disk **at,
              struct err *e);

// --- live_audit.c: is the tracker right?

// A harvest named what is in d->round: no longer suspect, and looked at from now on.
void live_audit_named(struct live_disk *d, uint32_t round);
// By hashes all is right: nothing is suspect.
void live_audit_forget(struct live_disk *d);
// Adds to d->round what may be a lost mark's.
void live_audit_widen(struct live_disk *d);
// After a round; over_ms: between its harvest and the one before.
void live_audit_round(struct job *j, uint64_t over_ms);
// After the last round; what differs the next harvest has to name. A step.
int live_audit_frozen(struct job *j, struct err *e);
// After that harvest. ERR_RETRY: it did not, and the source has to thaw.
int live_audit_verdict(struct job *j, struct err *e);
// It has: then nobody believes the tracker that was found out.
void live_audit_thawed(struct job *j, const struct err *why);

// --- probe.c: is the target seen to serve?

// What of the running source is reached from here: "probes" of the report.
void live_find_probes(struct job *j);
// Until one of them answers. Not seen and success: there is none. ERR_RETRY: in vain.
int live_probe(struct job *j, bool *ret_seen, struct err *e);

// --- phases

int phase_live_inspect(struct job *j, struct err *e);
int phase_live_copy(struct job *j, struct err *e);
int phase_live_rounds(struct job *j, struct err *e);
int phase_live_cutover(struct job *j, struct err *e);
int phase_live_convert(struct job *j, struct err *e);
int phase_live_launch(struct job *j, struct err *e);
int phase_live_serve(struct job *j, struct err *e);
extern const struct phase live_phases[];
