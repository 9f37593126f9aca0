// SPDX-License-Identifier: Apache-2.0
// Names of block devices in a guest's configuration. Internal to guest/.
#pragma once

#include "guest/text.h"

// Which disk of the machine and which partition (0: the whole disk) a name means that may
// change with the hardware. False for any other name.
bool device_parse(const struct guest *g, const char *name, unsigned *ret_disk,
                  unsigned *ret_part);
// The root is known by what it holds. Where /etc/fstab calls it by a name of another
// disk, the guest counted the two the other way round than the machine's description
// does.
void device_learn_order(struct guest *g, unsigned root_disk, unsigned root_partition);
// Does a pattern of names hold one of disks whose names change ("|^/dev/sda3$|")?
bool device_is_changing(const char *pattern);
// Appends `text` to `out`, every such name in it replaced by UUID=…; a note for each.
void device_replace(const struct guest *g, struct span text, struct buf *out,
                    struct strings *notes);
