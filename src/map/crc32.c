// SPDX-License-Identifier: Apache-2.0
// A bit-reversed CRC, four bits a step: what is summed here has a few KB, seldom a MB.

#include "crc32.h"

#define POLYNOMIAL UINT32_C(0xedb88320)

// The remainder of four bits: four steps of the division of `v`.
static uint32_t nibble(uint32_t v)
{
    for (int i = 0; i < 4; i++)
        v = v & 1 ? v >> 1 ^ POLYNOMIAL : v >> 1;
    return v;
}

uint32_t crc32_run(uint32_t start, const void *data, size_t len)
{
    uint32_t table[16], crc = start;
    for (uint32_t i = 0; i < 16; i++)
        table[i] = nibble(i);
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return crc;
}
