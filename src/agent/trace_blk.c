// SPDX-License-Identifier: Apache-2.0
// What blktrace's relay files give (include/uapi/linux/blktrace_api.h of Linux, struct
// blk_io_trace, version 7): records of 48 bytes with `pdu_len` bytes behind each,
//
//     magic 4, sequence 4, time 8, sector 8, bytes 4, action 4, pid 4, device 4, cpu 4,
//     error 2, pdu_len 2
//
// in the machine's order, which is little-endian here. The action's upper half says of
// which kinds it is. Requests are numbered by each CPU; messages in between are not.
#include "agent/tracefs.h"

#include <linux/blktrace_api.h>

#define MAGIC (BLK_IO_TRACE_MAGIC | BLK_IO_TRACE_VERSION)

// Has something on the disk changed by it?
static bool changes(uint32_t action, uint32_t bytes)
{
    return (action & BLK_TC_ACT(BLK_TC_COMPLETE)) != 0 &&
           (action & BLK_TC_ACT(BLK_TC_NOTIFY)) == 0 && bytes > 0 &&
           ((action & BLK_TC_ACT(BLK_TC_READ)) == 0 ||
            (action & BLK_TC_ACT(BLK_TC_DISCARD)) != 0);
}

int trace_blk(const uint8_t *p, size_t len,
              void (*write)(void *context, const struct trace_write *w), void *context,
              uint32_t *sequence, size_t *ret_used, uint64_t *ret_lost, struct err *e)
{
    size_t at = 0;
    *ret_used = 0;
    *ret_lost = 0;
    while (len - at >= sizeof(struct blk_io_trace)) {
        const uint8_t *r = p + at;
        if (get_le32(r + offsetof(struct blk_io_trace, magic)) != MAGIC)
            return err_set(e, ERR_FAILED, "a record of blktrace has another beginning");
        size_t n = sizeof(struct blk_io_trace) +
                   get_le16(r + offsetof(struct blk_io_trace, pdu_len));
        if (n > len - at)
            break;
        uint32_t action = get_le32(r + offsetof(struct blk_io_trace, action));
        uint32_t bytes = get_le32(r + offsetof(struct blk_io_trace, bytes));
        struct trace_write w = {get_le32(r + offsetof(struct blk_io_trace, device)),
                                get_le64(r + offsetof(struct blk_io_trace, sector)),
                                ((uint64_t)bytes + 511) / 512};
        if ((action & BLK_TC_ACT(BLK_TC_NOTIFY)) == 0) {
            uint32_t number = get_le32(r + offsetof(struct blk_io_trace, sequence));
            *ret_lost += number - *sequence - 1;
            *sequence = number;
        }
        // A driver's own command (SG_IO): nobody knows which place it changed.
        if (changes(action, bytes) && (action & BLK_TC_ACT(BLK_TC_PC)) != 0)
            ++*ret_lost;
        else if (changes(action, bytes))
            write(context, &w);
        at += n;
        *ret_used = at;
    }
    return 0;
}
