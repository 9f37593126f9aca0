// SPDX-License-Identifier: Apache-2.0
// The reader of fat on a volume made of the input.
#include "memdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return memdisk_fuzz(data, size, fs_fat_used);
}
