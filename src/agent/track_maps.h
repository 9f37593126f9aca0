// SPDX-License-Identifier: Apache-2.0
// The maps that the BPF programs fill, seen from user space. Inside agent/ only.
#pragma once

#include "agent/track.h"
#include "agent/track_bpf.h"

struct bpf_link;
struct bpf_object;
struct bpf_program;

#define TRACK_LINKS 3
struct track_program {
    const struct tracker_ops *ops;
    const unsigned char *object; // ELF, as clang made it
    size_t object_len;
    const char *names[TRACK_LINKS]; // of the programs in it that are wanted
    unsigned n_names;
    // Between opening and loading; NULL: nothing has to be done.
    int (*prepare)(const struct track_program *program, struct bpf_object *o,
                   struct err *e);
    // NULL + errno: the kernel refuses.
    struct bpf_link *(*attach)(const struct track_program *program, unsigned i,
                               struct bpf_program *p);
};

struct track_maps {
    int disks, marks, counts, flight; // descriptors, -1: none
    // Shared with the kernel. Both, because a system call on a map keeps programs from
    // running on its CPU meanwhile: reading counts would lose marks.
    uint8_t *live;
    struct track_bpf_count *count;
    size_t live_len, count_len;
    unsigned shift;
    struct track_bpf_disk *disk;
    const struct track_disk *names; // borrowed
    struct track_bpf_flight *found; // requests under way, room for all
    size_t n_disks;
    uint32_t n_entries; // of the map of marks
    uint32_t n_cpus;
};
#define TRACK_MAPS_NONE \
    ((struct track_maps){.disks = -1, .marks = -1, .counts = -1, .flight = -1})

// Where the marks of each disk lie.
int track_maps_layout(struct track_maps *m, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, struct err *e);
// The program's object, not loaded yet, with maps as large as laid out and only those
// programs that are named.
int track_maps_open(const struct track_maps *m, const struct track_program *program,
                    struct bpf_object **ret, struct err *e);
// Loads it, tells it the disks and maps their marks.
int track_maps_load(struct track_maps *m, struct bpf_object *o, struct err *e);
// Those pinned in `dir`, if they are of the same disks; ERR_REFUSED: they are not, or
// there are none.
int track_maps_again(struct track_maps *m, const char *dir, struct err *e);
int track_maps_pin(const struct track_maps *m, const char *dir, struct err *e);
void track_maps_unpin(const char *dir); // and whatever else lies there
void track_maps_harvest(struct track_maps *m, size_t i, struct marks *into);
// Requests whose end was not seen, or that are still under way: marked now, and by the
// next harvest again unless the kernel says that none is under way.
int track_maps_flight(struct track_maps *m, size_t i, struct marks *into, struct err *e);
struct track_seen track_maps_seen(const struct track_maps *m, size_t i);
void track_maps_done(struct track_maps *m);
