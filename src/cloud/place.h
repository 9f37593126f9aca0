// SPDX-License-Identifier: Apache-2.0
// Disks of a guest in a folder that other guests may share: names, ownership, room. What
// dir: and libvirt+ targets have in common. Private to this folder.
#pragma once

#include "cloud/cloud.h"

// "JOB-CREATED"; free() it.
char *place_tag(const struct cloud_machine *m);
// Refuses: no room, not writable, NAME taken by what is not this job's. Changes nothing.
int place_check(const char *dir, const struct cloud_machine *m, struct err *e);
// Makes the folder and the marker, and fills the paths of every disk.
int place_take(const char *dir, struct cloud_machine *m, struct err *e);
// Is the marker of m's name in `dir` ours?
bool place_is_ours(const char *dir, const struct cloud_machine *m);
// Removes the marker if it is ours and no file of the guest is left.
void place_forget(const char *dir, const struct cloud_machine *m);
char *place_path(const char *dir, const struct cloud_machine *m, const char *suffix);

// What --network says, by MAC. The strings belong to `words`.
struct place_networks {
    VEC(struct domain_network) list;
    struct strings words;
    const char *others; // "*=NET"; NULL: not said
};
int place_networks(const struct cloud_machine *m, struct place_networks *ret,
                   struct err *e);
void place_networks_done(struct place_networks *n);
__attribute__((unused)) static inline void
auto_place_networks_done(struct place_networks *n)
{
    place_networks_done(n);
}

// The domain as it is to be defined. uuid as in struct domain_options.
void place_domain(const struct cloud_machine *m, const struct place_networks *networks,
                  const char *uuid, struct buf *out);
