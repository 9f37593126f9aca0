// SPDX-License-Identifier: Apache-2.0
// CRC-32 of polynomial 0xedb88320 as GPT and LVM2 have it. Private to this folder.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Neither start value nor result are inverted here: GPT wants ~crc32_run(~0, …), LVM2
// crc32_run(0xf597a6cf, …).
// Not called crc32: that is zlib's, which is linked into the agent statically.
uint32_t crc32_run(uint32_t start, const void *data, size_t len);
