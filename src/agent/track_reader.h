// SPDX-License-Identifier: Apache-2.0
// What trackers have in common that read events out of the kernel's buffers: marks of
// our own and a thread that empties the buffers in time. Inside agent/ only.
#pragma once

#include "agent/track.h"

#include <pthread.h>

struct track_reader_disk {
    uint32_t dev; // as in events
    struct marks live;
    struct track_seen seen;
};
struct track_reader {
    struct tracker tracker;
    // Reads all that is there now and calls track_reader_write(). -1: events are gone.
    int (*drain)(struct track_reader *r, struct err *e);
    pthread_mutex_t lock; // of all below, and of what `drain` uses
    pthread_cond_t wake;
    pthread_t thread;
    bool running, stop;
    struct track_reader_disk *disks;
    size_t n_disks;
    uint64_t lost; // by the buffers: whose it was nobody knows
};
void track_reader_init(struct track_reader *r, const struct tracker_ops *ops,
                       const struct track_disk *disks, size_t n_disks, unsigned shift,
                       int (*drain)(struct track_reader *r, struct err *e));
int track_reader_run(struct track_reader *r, struct err *e); // starts the thread
void track_reader_write(struct track_reader *r, uint32_t dev, uint64_t sector,
                        uint64_t n_sectors);
int track_reader_harvest(struct tracker *t, size_t i, struct marks *into, struct err *e);
int track_reader_seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e);
void track_reader_end(struct track_reader *r); // the thread
void track_reader_done(struct track_reader *r);
