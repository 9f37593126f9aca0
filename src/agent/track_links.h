// SPDX-License-Identifier: Apache-2.0
// What the trackers by BPF have in common. Inside agent/ only.
#pragma once

#include "agent/track_maps.h"

// --- track_links.c

// What is pinned in `dir` by one that is gone. ERR_REFUSED: there is nothing of these
// disks.
int track_links_again(const struct track_program *program, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, const char *dir,
                      struct tracker **ret, struct err *e);
int track_links_start(const struct track_program *program, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, const char *dir,
                      struct tracker **ret, struct err *e);
// As in tracker_ops.
int track_links_harvest(struct tracker *tracker, size_t i, struct marks *into,
                        struct err *e);
int track_links_seen(struct tracker *tracker, size_t i, struct track_seen *ret,
                     struct err *e);
void track_links_stop(struct tracker *tracker, bool keep);
