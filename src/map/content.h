// SPDX-License-Identifier: Apache-2.0
// What a volume holds, by libblkid. Private to this folder.
#pragma once

#include "map/map.h"

struct content {
    char *type, *uuid, *label; // NULL when none
    char *table;               // type of a partition table in it, NULL when none
    bool ambiguous;            // signatures of several kinds
};
// Never fails because of what is on the disk, only when it cannot be read.
int content_detect(struct disk *d, struct content *ret, struct err *e);
void content_done(struct content *c);
__attribute__((unused)) static inline void auto_content_done(struct content *c)
{
    content_done(c);
}
