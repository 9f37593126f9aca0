// SPDX-License-Identifier: Apache-2.0
// MBR (four entries at 446, the signature 55AA; logical partitions in a chain of extended
// boot records) and GPT (UEFI specification 2.10, section 5.3). A GPT counts when the MBR
// says so by an entry of type 0xEE, as for Linux: what an older GPT left behind does not.
// If both headers are bad the disk counts as wholly used.
//
// Images do not say how large the guest's sectors were. A GPT shows it by the place of
// its header; an MBR of a disk with 4096-byte sectors, read as one with 512, gives
// partitions at wrong places, where no file system is found: nothing is called free.

#include "partition.h"

#include <stdio.h>

#include "crc32.h"
#include "used_map.h"

#define SECTOR_MAX ((size_t)4096)
#define EBR_MAX 128       // logical partitions followed
#define GPT_TABLE_MAX MIB // of entries; the usual table has 16 KiB
#define GUID_LEN 16

static const uint8_t guid_esp[GUID_LEN] = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8,
                                           0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0,
                                           0xc9, 0x3e, 0xc9, 0x3b};
static const uint8_t guid_bios_boot[GUID_LEN] = {0x48, 0x61, 0x68, 0x21, 0x49, 0x64,
                                                 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65,
                                                 0x64, 0x45, 0x46, 0x49};
static const uint8_t guid_ldm[GUID_LEN] = {0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14,
                                           0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11,
                                           0x71, 0x4a, 0x69, 0xad};

void partition_table_done(struct partition_table *t)
{
    vec_done(&t->v);
    extents_done(&t->own);
}

static void own(struct disk *d, struct partition_table *t, uint64_t off, uint64_t len)
{
    if (off < d->size)
        extents_add(&t->own, off, min_u64(len, d->size - off));
}

// Adds a partition of `n` sectors from `lba` on, cut at the disk's end; NULL when nothing
// of it is on the disk.
static struct partition *add(struct disk *d, struct partition_table *t, unsigned number,
                             uint64_t lba, uint64_t n, uint64_t sector)
{
    uint64_t off, len;
    if (n == 0 || t->v.n >= PARTITIONS_MAX || __builtin_mul_overflow(lba, sector, &off) ||
        off >= d->size)
        return NULL;
    bool cut = __builtin_mul_overflow(n, sector, &len) || len > d->size - off;
    struct partition p = {.number = number, .off = off, .len = cut ? d->size - off : len};
    if (cut)
        p.whole_because = "the partition reaches past the end of the disk";
    vec_push(&t->v, p);
    return &t->v.v[t->v.n - 1];
}

// --- MBR
// --------------------------------------------------------------------------------

struct mbr_entry {
    uint8_t flag, type;
    uint32_t lba, n;
};

static bool mbr_entry(const uint8_t *sector, size_t i, struct mbr_entry *ret)
{
    const uint8_t *p = sector + 446 + i * 16;
    *ret = (struct mbr_entry){p[0], p[4], get_le32(p + 8), get_le32(p + 12)};
    return (p[0] & 0x7f) == 0;
}

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

static void mbr_add(struct disk *d, struct partition_table *t, unsigned number,
                    uint64_t lba, const struct mbr_entry *entry, uint32_t disk_id,
                    uint64_t sector)
{
    struct partition *p = add(d, t, number, lba, entry->n, sector);
    if (!p)
        return;
    p->active = entry->flag == 0x80;
    p->esp = entry->type == 0xef;
    if (entry->type == 0x42 && !p->whole_because)
        p->whole_because = "a dynamic disk of Windows";
    if (disk_id)
        (void)snprintf(p->uuid, sizeof(p->uuid), "%08x-%02x", disk_id, number & 0xff);
}

// Each record names one logical partition (relative to itself) and the next record
// (relative to the first). What a broken chain leaves out belongs to no partition and is
// in use for that reason.
static int read_logical(struct disk *d, struct partition_table *t, uint64_t first,
                        uint32_t disk_id, uint64_t sector, struct err *e)
{
    uint64_t seen[EBR_MAX], at = first;
    for (size_t n = 0; n < EBR_MAX; n++) {
        uint8_t ebr[512];
        struct mbr_entry logical, next;
        if (at * sector > d->size - min_u64(d->size, sizeof(ebr)))
            return 0;
        for (size_t i = 0; i < n; i++)
            if (seen[i] == at)
                return 0;
        seen[n] = at;
        if (disk_read(d, ebr, sizeof(ebr), at * sector, e))
            return -1;
        if (get_le16(ebr + 510) != 0xaa55 || !mbr_entry(ebr, 0, &logical) ||
            !mbr_entry(ebr, 1, &next))
            return 0;
        own(d, t, at * sector, sector);
        if (logical.n && !is_extended(logical.type))
            mbr_add(d, t, 5 + (unsigned)n, at + logical.lba, &logical, disk_id, sector);
        if (!next.n || !is_extended(next.type))
            return 0;
        at = first + next.lba;
    }
    return 0;
}

// Is it a table at all? A boot sector of a file system ends with 55AA as well.
static bool mbr_valid(const uint8_t *sector, bool *ret_protective)
{
    size_t n = 0;
    *ret_protective = false;
    for (size_t i = 0; i < 4; i++) {
        struct mbr_entry entry;
        if (!mbr_entry(sector, i, &entry))
            return false;
        n += entry.type != 0 && entry.n != 0;
        *ret_protective = *ret_protective || entry.type == 0xee;
    }
    return n > 0 && get_le16(sector + 510) == 0xaa55;
}

static int read_mbr(struct disk *d, struct partition_table *t, const uint8_t *mbr,
                    uint64_t sector, struct err *e)
{
    uint32_t disk_id = get_le32(mbr + 440);
    t->kind = "dos";
    own(d, t, 0, sector);
    for (size_t i = 0; i < 4; i++) {
        struct mbr_entry entry;
        (void)mbr_entry(mbr, i, &entry); // mbr_valid has looked
        if (entry.type == 0 || entry.n == 0)
            continue;
        if (!is_extended(entry.type))
            mbr_add(d, t, (unsigned)i + 1, entry.lba, &entry, disk_id, sector);
        else if (read_logical(d, t, entry.lba, disk_id, sector, e))
            return -1;
    }
    return 0;
}

// --- GPT
// --------------------------------------------------------------------------------

struct gpt {
    uint64_t entries_lba, alternate_lba;
    uint32_t n, entry_len, entries_crc;
};

// Reads and checks the header at `lba`; *ret_ok says whether it is one.
static int gpt_header(struct disk *d, uint64_t lba, uint64_t sector, struct gpt *ret,
                      bool *ret_ok, struct err *e)
{
    uint8_t h[SECTOR_MAX];
    *ret_ok = false;
    if (lba > d->size / sector || d->size - lba * sector < sector)
        return 0;
    if (disk_read(d, h, (size_t)sector, lba * sector, e))
        return -1;
    uint32_t len = get_le32(h + 12), sum = get_le32(h + 16);
    if (memcmp(h, "EFI PART", 8) != 0 || len < 92 || len > sector ||
        get_le64(h + 24) != lba)
        return 0;
    put_le32(h + 16, 0);
    if (~crc32_run(UINT32_MAX, h, len) != sum && !fs_checksums_ignored())
        return 0;
    struct gpt g = {.alternate_lba = get_le64(h + 32),
                    .entries_lba = get_le64(h + 72),
                    .n = get_le32(h + 80),
                    .entry_len = get_le32(h + 84),
                    .entries_crc = get_le32(h + 88)};
    uint64_t table = (uint64_t)g.n * g.entry_len;
    if (g.entry_len < 128 || g.entry_len > 4096 || table == 0 || table > GPT_TABLE_MAX ||
        g.entries_lba > d->size / sector || d->size - g.entries_lba * sector < table)
        return 0;
    *ret = g;
    *ret_ok = true;
    return 0;
}

// The entries of a header, checked; NULL in *ret when they are bad.
static int gpt_entries(struct disk *d, uint64_t lba, uint64_t sector, struct gpt *g,
                       uint8_t **ret, struct err *e)
{
    bool found = false;
    *ret = NULL;
    if (gpt_header(d, lba, sector, g, &found, e))
        return -1;
    if (!found)
        return 0;
    size_t len = (size_t)g->n * g->entry_len;
    AUTO(free) void *entries = xmalloc(len);
    if (disk_read(d, entries, len, g->entries_lba * sector, e))
        return -1;
    if (~crc32_run(UINT32_MAX, entries, len) != g->entries_crc && !fs_checksums_ignored())
        return 0;
    *ret = steal(entries);
    return 0;
}

static void guid_text(const uint8_t *g, char out[static 40])
{
    (void)snprintf(out, 40, "%08x-%04x-%04x-%04x-%04x%08x", get_le32(g), get_le16(g + 4),
                   get_le16(g + 6), get_be16(g + 8), get_be16(g + 10), get_be32(g + 12));
}

static void gpt_add(struct disk *d, struct partition_table *t, const struct gpt *g,
                    const uint8_t *entries, uint64_t sector)
{
    for (uint32_t i = 0; i < g->n; i++) {
        const uint8_t *p = entries + (size_t)i * g->entry_len;
        uint64_t first = get_le64(p + 32), last = get_le64(p + 40);
        if (is_zero(p, GUID_LEN) || last < first || last - first == UINT64_MAX)
            continue;
        struct partition *part = add(d, t, i + 1, first, last - first + 1, sector);
        if (!part)
            continue;
        part->esp = memcmp(p, guid_esp, GUID_LEN) == 0;
        part->bios_boot = memcmp(p, guid_bios_boot, GUID_LEN) == 0;
        part->active = get_le64(p + 48) >> 2 & 1; // legacy BIOS bootable
        if (memcmp(p, guid_ldm, GUID_LEN) == 0 && !part->whole_because)
            part->whole_because = "a dynamic disk of Windows";
        guid_text(p + GUID_LEN, part->uuid);
    }
}

// What the MBR of a hybrid says and the GPT does not.
static void add_hybrid(struct disk *d, struct partition_table *t, const uint8_t *mbr,
                       uint64_t sector)
{
    for (size_t i = 0; i < 4; i++) {
        struct mbr_entry entry;
        bool same = false;
        if (!mbr_entry(mbr, i, &entry) || entry.type == 0 || entry.type == 0xee)
            continue;
        for (size_t k = 0; k < t->v.n; k++)
            same = same || (t->v.v[k].off == entry.lba * sector &&
                            t->v.v[k].len == entry.n * sector);
        if (!same)
            own(d, t, entry.lba * sector, entry.n * sector);
    }
}

// The primary header if it is good, else the backup: where the primary says that it is,
// or in the last sector.
static int find_gpt(struct disk *d, uint64_t sector, struct gpt *g, uint8_t **ret,
                    struct err *e)
{
    struct gpt primary = {0};
    bool has_primary = false;
    *ret = NULL;
    if (d->size < 3 * sector)
        return 0;
    if (gpt_header(d, 1, sector, &primary, &has_primary, e) ||
        gpt_entries(d, 1, sector, g, ret, e))
        return -1;
    if (!*ret && has_primary && gpt_entries(d, primary.alternate_lba, sector, g, ret, e))
        return -1;
    return *ret ? 0 : gpt_entries(d, d->size / sector - 1, sector, g, ret, e);
}

static int read_gpt(struct disk *d, struct partition_table *t, const uint8_t *mbr,
                    struct err *e)
{
    AUTO(free) void *entries = NULL;
    struct gpt g = {0};
    uint64_t sizes[] = {d->sector_size, 512, 4096}, sector = 0;
    for (size_t i = 0; i < ARRAY_LEN(sizes) && !entries; i++) {
        uint8_t *found = NULL;
        sector = sizes[i] == 4096 ? 4096 : 512;
        if (find_gpt(d, sector, &g, &found, e))
            return -1;
        entries = found;
    }
    t->kind = "gpt";
    if (!entries) {
        t->damaged = "its GPT is damaged";
        return 0;
    }
    uint64_t table = round_up((uint64_t)g.n * g.entry_len, sector);
    t->sector = (uint32_t)sector;
    own(d, t, 0, 2 * sector);
    own(d, t, g.entries_lba * sector, table);
    own(d, t, d->size - sector - min_u64(table, d->size - sector), d->size);
    gpt_add(d, t, &g, entries, sector);
    add_hybrid(d, t, mbr, sector);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct partition *p = a, *q = b;
    return p->off < q->off ? -1 : p->off > q->off;
}

// Two partitions on one place: nobody knows which is right.
static void mark_overlaps(struct partition_table *t)
{
    if (t->v.n > 1)
        qsort(t->v.v, t->v.n, sizeof(*t->v.v), by_place);
    for (size_t i = 0; i < t->v.n; i++)
        for (size_t k = i + 1; k < t->v.n; k++) {
            struct partition *p = &t->v.v[i], *q = &t->v.v[k];
            if (q->off >= p->off + p->len)
                break;
            p->whole_because = q->whole_because = "it overlaps another partition";
        }
}

int partition_read(struct disk *d, struct partition_table *ret, struct err *e)
{
    AUTO(partition_table_done) struct partition_table t = {0};
    uint8_t mbr[512];
    bool protective = false;
    if (d->size < sizeof(mbr)) {
        *ret = t;
        return 0;
    }
    if (disk_read(d, mbr, sizeof(mbr), 0, e))
        return -1;
    if (mbr_valid(mbr, &protective)) {
        if (protective ? read_gpt(d, &t, mbr, e)
                       : read_mbr(d, &t, mbr, d->sector_size == 4096 ? 4096 : 512, e))
            return -1;
    }
    mark_overlaps(&t);
    *ret = t;
    t = (struct partition_table){0};
    return 0;
}
