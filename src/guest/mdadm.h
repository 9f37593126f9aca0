// SPDX-License-Identifier: Apache-2.0
// mdadm.conf(5) of a guest and the names of its arrays. Internal to guest/.
#pragma once

#include "guest/guest.h"

extern const char *const mdadm_confs[]; // where the file may lie; ends with NULL

// The array, or the partition of one, that "/dev/md0", "/dev/md/home",
// "/dev/disk/by-id/md-uuid-…" means in the guest; NULL: no array's name, or of none that
// is here.
const struct guest_device *mdadm_device(const struct guest *g, const char *source);

// What the line before was, of which fix_mdadm_line may see the rest.
enum mdadm_line { MDADM_OTHER, MDADM_ARRAY, MDADM_DEVICES, MDADM_OFF };
