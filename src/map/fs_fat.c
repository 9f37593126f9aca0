// SPDX-License-Identifier: Apache-2.0
// FAT12, FAT16 and FAT32 (Microsoft, "FAT: General Overview of On-Disk Format" 1.03). A
// cluster is free when its entry in the table is 0. The free count of FAT32's FSInfo
// sector is not looked at: drivers leave it wrong.
//
// Surprises: Linux, EDK2 and mtools tell FAT32 by the 16-bit table size being 0, the
// specification by the number of clusters alone; small EFI system partitions are FAT32
// with too few clusters for it, so the former decides here. "Dirty" is kept twice: in
// bits of the second table entry (Windows) and in a byte of the boot sector (Linux).

#include "fs.h"
#include "used_map.h"

#include <assert.h>

#define FAT12_MAX 4084
#define FAT16_MAX 65524
#define FAT32_MAX 0x0ffffff5
#define PIECE (96 * KIB) // of the table at a time; a multiple of 12, 16 and 32 bits

struct fat {
    unsigned bits; // 12, 16, 32
    uint64_t sector, n_sectors;
    uint64_t table_off, table_len; // of the first table
    unsigned n_tables;
    uint64_t data_off, cluster_len;
    uint64_t n_clusters;
    uint32_t root_cluster; // FAT32
};

static const struct {
    unsigned bits;
    uint32_t mask, clean, no_error; // of a table entry; bits of entry 1
    size_t state_at;                // of Linux's and mtools' dirty byte
} kinds[] = {
    {12, 0xfff, 0, 0, 37},
    {16, 0xffff, 0x8000, 0x4000, 37},
    {32, 0x0fffffff, 0x08000000, 0x04000000, 65},
};

static unsigned kind_of(const struct fat *f)
{
    return f->bits / 16; // 12 → 0, 16 → 1, 32 → 2
}

static bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static int parse_boot(const uint8_t *b, struct fat *f, struct err *e)
{
    uint64_t per_cluster = b[13], reserved = get_le16(b + 14), root = get_le16(b + 17);
    bool is_32 = get_le16(b + 22) == 0;
    uint64_t table = is_32 ? get_le32(b + 36) : get_le16(b + 22);
    f->sector = get_le16(b + 11);
    f->n_sectors = get_le16(b + 19) ? get_le16(b + 19) : get_le32(b + 32);
    f->n_tables = b[16];
    if (get_le16(b + 510) != 0xaa55 || !is_power_of_2(f->sector) || f->sector < 512 ||
        f->sector > 4096 || !is_power_of_2(per_cluster) || !reserved || !table ||
        f->n_tables < 1 || f->n_tables > 2)
        return err_set(e, ERR_REFUSED, "the FAT boot sector makes no sense");
    if (is_32 && (root || get_le16(b + 40) & 0x80 || get_le16(b + 42)))
        return err_set(e, ERR_REFUSED,
                       "the FAT32 boot sector has settings unknown here "
                       "(one active table, or a version)");
    uint64_t root_sectors = (root * 32 + f->sector - 1) / f->sector;
    uint64_t data = reserved + f->n_tables * table + root_sectors;
    if (data >= f->n_sectors)
        return err_set(e, ERR_REFUSED, "the FAT file system has no room for data");
    f->n_clusters = (f->n_sectors - data) / per_cluster;
    f->bits = is_32 ? 32 : f->n_clusters <= FAT12_MAX ? 12 : 16;
    if (!f->n_clusters || f->n_clusters > (is_32 ? FAT32_MAX : FAT16_MAX) ||
        table * f->sector < ((f->n_clusters + 2) * f->bits + 7) / 8)
        return err_set(e, ERR_REFUSED, "the FAT table does not fit the file system");
    f->table_off = reserved * f->sector;
    f->table_len = table * f->sector;
    f->data_off = data * f->sector;
    f->cluster_len = per_cluster * f->sector;
    f->root_cluster = is_32 ? get_le32(b + 44) : 0;
    if (is_32 && (f->root_cluster < 2 || f->root_cluster - 2 >= f->n_clusters))
        return err_set(e, ERR_REFUSED, "the FAT root folder lies outside");
    if (b[kinds[kind_of(f)].state_at] & 3)
        return err_set(e, ERR_REFUSED, "the FAT file system was not cleanly unmounted");
    return 0;
}

static uint32_t entry_at(const struct fat *f, const uint8_t *table, uint64_t i)
{
    if (f->bits == 32)
        return get_le32(table + i * 4) & 0x0fffffff;
    if (f->bits == 16)
        return get_le16(table + i * 2);
    uint16_t two = get_le16(table + i + i / 2);
    return i % 2 ? two >> 4 : two & 0xfff;
}

static int check_first_entries(const struct fat *f, const uint8_t *table, uint8_t media,
                               struct err *e)
{
    uint32_t mask = kinds[kind_of(f)].mask, want = (mask & ~UINT32_C(0xff)) | media;
    if (entry_at(f, table, 0) != want)
        return err_set(e, ERR_REFUSED, "the FAT table does not begin as it must");
    uint32_t clean = kinds[kind_of(f)].clean, no_error = kinds[kind_of(f)].no_error;
    if ((entry_at(f, table, 1) & clean) != clean)
        return err_set(e, ERR_REFUSED, "the FAT file system was not cleanly unmounted");
    if ((entry_at(f, table, 1) & no_error) != no_error)
        return err_set(e, ERR_REFUSED, "the FAT file system has recorded disk errors");
    return 0;
}

// Clusters [first, first + n) of the piece of the table in `table`, which begins with
// the entry of the first one.
static void add_clusters(const struct fat *f, const uint8_t *table, uint64_t first,
                         uint64_t n, struct used_map *m)
{
    uint64_t run = 0;
    for (uint64_t i = 0; i <= n; i++) {
        if (i < n && entry_at(f, table, i) != 0) {
            run++;
        } else if (run) {
            // Entries 0 and 1 are no clusters; they only stand at the very beginning.
            uint64_t c = first + i - run, skip = c < 2 ? min_u64(2 - c, run) : 0;
            if (run > skip)
                used_map_add(m, f->data_off + (c + skip - 2) * f->cluster_len,
                             (run - skip) * f->cluster_len);
            run = 0;
        }
    }
}

static int read_tables(struct disk *d, const struct fat *f, uint8_t media,
                       struct used_map *m, struct err *e)
{
    AUTO(free) void *both = xmalloc(2 * PIECE);
    uint8_t *a = both, *b = a + PIECE;
    assert(f->bits); // parse_boot saw to it
    uint64_t per_piece = PIECE * 8 / f->bits, total = f->n_clusters + 2;
    for (uint64_t first = 0; first < total; first += per_piece) {
        uint64_t n = min_u64(per_piece, total - first);
        uint64_t off = first * f->bits / 8;
        size_t len = (size_t)min_u64(PIECE, f->table_len - off);
        if (cancel_check(e) < 0 ||
            fs_read(d, a, len, f->table_off + off, "the FAT table", e) < 0)
            return -1;
        if (f->n_tables == 2) {
            if (fs_read(d, b, len, f->table_off + f->table_len + off,
                        "the second FAT table", e) < 0)
                return -1;
            if (memcmp(a, b, len) != 0)
                return err_set(e, ERR_REFUSED, "the two FAT tables differ");
        }
        if (first == 0) {
            if (check_first_entries(f, a, media, e) < 0)
                return -1;
            if (f->root_cluster && f->root_cluster < n &&
                entry_at(f, a, f->root_cluster) == 0)
                return err_set(e, ERR_REFUSED, "the FAT root folder counts as free");
        }
        add_clusters(f, a, first, n, m);
    }
    return 0;
}

int fs_fat_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    uint8_t boot[512];
    struct fat f = {0};
    if (fs_read(d, boot, sizeof(boot), 0, "the FAT boot sector", e) < 0 ||
        parse_boot(boot, &f, e) < 0)
        return -1;
    if (f.n_sectors > d->size / f.sector)
        return err_set(e, ERR_REFUSED, "the FAT file system is larger than its volume");
    AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
    if (read_tables(d, &f, boot[21], m, e) < 0)
        return -1;
    used_map_add(m, 0, f.data_off);
    uint64_t end = f.data_off + f.n_clusters * f.cluster_len;
    used_map_add(m, end, d->size - end);
    used_map_emit(m, ret_used);
    return 0;
}
