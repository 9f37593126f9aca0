// SPDX-License-Identifier: Apache-2.0
// On the disk (LVM2's lib/format_text/layout.h describes it; all little-endian):
//
//     sector 0-3   0 "LABELONE"  8 sector number  16 CRC of the rest  20 offset of the
//                  header in the sector  24 "LVM2 001"
//     header       0 UUID 32  32 size  40 data areas {offset, size} … {0, 0}, then the
//                  metadata areas alike
//     area         0 CRC of 4 … 511  4 " LVM2 x[5A%r0N*>"  20 version  24 its own offset
//                  32 its size  40 places {offset, size, CRC, flags}: the first is the
//                  text that counts
//
// The text lies in the area as in a ring: past the end it goes on behind the area's
// header. A metadata area that is damaged is left out, as LVM2 does: another has a copy.

#include "lvm_label.h"

#include "crc32.h"
#include "used_map.h"

#define SECTOR 512
#define CRC_START UINT32_C(0xf597a6cf)
#define AREAS_MAX 16
#define AREA_HEADER 512
#define PLACE_IGNORED 1

static bool sum_is(uint32_t want, const void *data, size_t len)
{
    return crc32_run(CRC_START, data, len) == want || fs_checksums_ignored();
}

static bool label_at(const uint8_t *sector, uint64_t number)
{
    return memcmp(sector, "LABELONE", 8) == 0 &&
           memcmp(sector + 24, "LVM2 001", 8) == 0 && get_le64(sector + 8) == number &&
           sum_is(get_le32(sector + 16), sector + 20, SECTOR - 20);
}

// Reads the text that an area's first place names; *ret stays NULL when it is not good.
static int read_place(struct disk *d, uint64_t area, uint64_t size, const uint8_t *place,
                      char **ret, struct err *e)
{
    uint64_t off = get_le64(place), len = get_le64(place + 8);
    if (off < AREA_HEADER || off >= size || len == 0 || len > LVM_TEXT_MAX ||
        len > size - AREA_HEADER || get_le32(place + 20) & PLACE_IGNORED)
        return 0;
    AUTO(str_free) char *text = xmalloc(len);
    size_t first = (size_t)min_u64(len, size - off);
    if (disk_read(d, text, first, area + off, e) ||
        disk_read(d, text + first, len - first, area + AREA_HEADER, e))
        return -1;
    if (sum_is(get_le32(place + 16), text, len))
        *ret = steal(text);
    return 0;
}

static int read_area(struct disk *d, uint64_t area, uint64_t size,
                     lvm_text_visitor *visit, void *context, struct err *e)
{
    uint8_t h[AREA_HEADER];
    if (size < 2 * AREA_HEADER || area > d->size || size > d->size - area)
        return 0;
    if (disk_read(d, h, sizeof(h), area, e))
        return -1;
    if (!sum_is(get_le32(h), h + 4, sizeof(h) - 4) ||
        memcmp(h + 4, " LVM2 x[5A%r0N*>", 16) != 0 || get_le32(h + 20) != 1 ||
        get_le64(h + 24) != area || get_le64(h + 32) != size)
        return 0;
    char *bytes = NULL;
    if (read_place(d, area, size, h + 40, &bytes, e))
        return -1;
    if (!bytes)
        return 0;
    AUTO(lvm_text_done) struct lvm_text text = {0};
    struct err bad = {0};
    if (lvm_text_parse(bytes, (size_t)get_le64(h + 48), &text, &bad))
        return 0; // as damaged as a wrong checksum
    return visit(context, &text, e);
}

// The list of areas behind the header, ended by an empty one.
static size_t area_list(const uint8_t *sector, size_t *at, uint64_t (*ret)[2])
{
    for (size_t n = 0; n < AREAS_MAX && *at + 16 <= SECTOR; n++) {
        ret[n][0] = get_le64(sector + *at);
        ret[n][1] = get_le64(sector + *at + 8);
        *at += 16;
        if (ret[n][0] == 0)
            return n;
    }
    return SIZE_MAX; // no end
}

int lvm_label_read(struct disk *d, struct lvm_label *ret, lvm_text_visitor *visit,
                   void *context, struct err *e)
{
    uint8_t sectors[4 * SECTOR];
    uint64_t areas[AREAS_MAX][2];
    const uint8_t *label = NULL;
    if (d->size < sizeof(sectors))
        return err_set(e, ERR_REFUSED, "it has no LVM label");
    if (disk_read(d, sectors, sizeof(sectors), 0, e))
        return -1;
    for (size_t i = 0; i < 4 && !label; i++)
        if (label_at(sectors + i * SECTOR, i))
            label = sectors + i * SECTOR;
    size_t at = label ? get_le32(label + 20) : SECTOR;
    if (at > SECTOR - 40)
        return err_set(e, ERR_REFUSED, "its LVM label is damaged");
    struct lvm_label found = {0};
    memcpy(found.uuid, label + at, LVM_UUID_LEN);
    at += 40;
    if (area_list(label, &at, areas) == SIZE_MAX)
        return err_set(e, ERR_REFUSED, "its LVM label is damaged");
    size_t n = area_list(label, &at, areas);
    if (n == SIZE_MAX)
        return err_set(e, ERR_REFUSED, "its LVM label is damaged");
    extents_add(&found.own, 0, sizeof(sectors));
    for (size_t i = 0; i < n; i++) {
        if (read_area(d, areas[i][0], areas[i][1], visit, context, e)) {
            extents_done(&found.own);
            return -1;
        }
        if (areas[i][0] < d->size)
            extents_add(&found.own, areas[i][0],
                        min_u64(areas[i][1], d->size - areas[i][0]));
    }
    *ret = found;
    return 0;
}
