// SPDX-License-Identifier: Apache-2.0
// LVM2: which parts of the physical volumes the logical volumes of one guest lie on.
// Private to this folder.
#pragma once

#include "map/map.h"
#include "span.h"

struct lvm_pv {
    unsigned disk; // of the guest
    uint64_t off, len;
    int volume; // its index in allocation.volumes
};
struct lvm_lv {
    char *name, *uuid; // "vg/lv"
    size_t pv;         // that its first segment lies on
    uint64_t len;
    struct span *span;    // NULL: not to be looked at
    char *whole_because;  // with a span: it counts as wholly used. Without: so does what
                          // is there of it, see `used`
    struct extents *part; // with a span: what is in use of it; NULL: look at its content
};
struct lvm_range {
    unsigned disk;
    uint64_t off, len;
};
struct lvm {
    VEC(struct lvm_lv) lvs;
    VEC(struct lvm_range) used; // metadata, and what lies on logical volumes without span
    char **pv_whole_because;    // one a physical volume: NULL, or all of it is in use
    size_t n_pvs;
};
// Never fails because of what is on the disks. The spans borrow `disks`.
int lvm_read(struct disk *const *disks, const struct lvm_pv *pvs, size_t n_pvs,
             struct lvm *ret, struct err *e);
void lvm_done(struct lvm *l);
__attribute__((unused)) static inline void auto_lvm_done(struct lvm *l)
{
    lvm_done(l);
}
