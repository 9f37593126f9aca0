// SPDX-License-Identifier: Apache-2.0
// The label of an LVM2 physical volume and the metadata areas it names. Private to this
// folder.
#pragma once

#include "lvm_text.h"

#define LVM_UUID_LEN 32

struct lvm_label {
    char uuid[LVM_UUID_LEN + 1];
    struct extents own; // label and metadata areas, on the physical volume
};
// `d` is the physical volume. Every metadata text whose checksum is right is given to
// `visit`, which may keep it. ERR_REFUSED: there is no good label.
typedef int lvm_text_visitor(void *context, struct lvm_text *text /* may be emptied */,
                             struct err *e);
int lvm_label_read(struct disk *d, struct lvm_label *ret, lvm_text_visitor *visit,
                   void *context, struct err *e);
