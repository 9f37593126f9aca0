// SPDX-License-Identifier: Apache-2.0
// The reader of ext2, ext3 and ext4 on a volume made of the input.
#include "memdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return memdisk_fuzz(data, size, fs_ext_used);
}
