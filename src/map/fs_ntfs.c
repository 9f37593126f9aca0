// SPDX-License-Identifier: Apache-2.0
// NTFS: what is in use stands in the file $Bitmap, a bit a cluster. Most of this file
// decides whether that bitmap can be trusted: the volume must be marked clean, its
// journal closed, and no Windows may sleep on it (hibernation, and "fast startup", which
// is the hibernation of a system without users): a sleeping one keeps changes of the
// bitmap in memory.
//
// Layouts as documented by the Linux-NTFS project. The last sector of the volume is a
// copy of the boot sector that no cluster covers.

#include "fs.h"
#include "fs_ntfs.h"

#include <strings.h>

enum {
    RECORD_MFT = 0,
    RECORD_LOG = 2,
    RECORD_VOLUME = 3,
    RECORD_ROOT = 5,
    RECORD_BITMAP
};

#define PIECE (256 * KIB)      // of the bitmap at a time
#define ROOT_MAX (16 * MIB)    // of the root folder's index
#define INDEX_MAX (64 * KIB)   // one block of an index
#define RESTART_MAX (64 * KIB) // one restart page of the journal

// Sizes in the boot sector are a count of clusters or, negative, a power of two.
static uint64_t coded_size(uint8_t v, uint64_t cluster)
{
    if (v < 0x80)
        return v * cluster;
    return v >= 0xe1 ? UINT64_C(1) << (256 - v) : 0;
}

static int parse_boot(const uint8_t *b, struct ntfs *fs, struct err *e)
{
    uint64_t sector = get_le16(b + 11), sectors = get_le64(b + 40);
    // More than 128 sectors a cluster are written as a negative power of two.
    uint64_t per_cluster = b[13] <= 0x80   ? b[13]
                           : b[13] >= 0xf4 ? UINT64_C(1) << (256 - b[13])
                                           : 0;
    if (memcmp(b + 3, "NTFS    ", 8) != 0 || get_le16(b + 510) != 0xaa55 ||
        sector < 512 || sector > 4096 || sector & (sector - 1) || !per_cluster ||
        per_cluster & (per_cluster - 1) || sector * per_cluster > 2 * MIB)
        return err_set(e, ERR_REFUSED, "the NTFS boot sector makes no sense");
    if (sectors > fs->d->size / sector)
        return err_set(e, ERR_REFUSED, "the NTFS file system is larger than its volume");
    fs->cluster = sector * per_cluster;
    fs->n_clusters = sectors / per_cluster;
    fs->mft_lcn = get_le64(b + 48);
    fs->mirror_lcn = get_le64(b + 56);
    fs->record = coded_size(b[64], fs->cluster);
    if (fs->record < 1024 || fs->record > NTFS_RECORD_MAX ||
        fs->record & (fs->record - 1) || fs->mft_lcn >= fs->n_clusters ||
        fs->mirror_lcn >= fs->n_clusters)
        return err_set(e, ERR_REFUSED, "the NTFS boot sector makes no sense");
    return 0;
}

// Opens the unnamed data of system file `number`.
static int open_file(const struct ntfs *fs, uint64_t number, struct ntfs_stream *ret,
                     struct err *e)
{
    uint8_t record[NTFS_RECORD_MAX];
    struct ntfs_attr a;
    if (ntfs_read_record(fs, number, record, e) < 0)
        return -1;
    int found = ntfs_find_attr(fs, record, NTFS_DATA, "", &a, e);
    if (found < 0)
        return -1;
    if (!found)
        return err_set(e, ERR_REFUSED, "an NTFS system file has no data");
    return ntfs_stream(fs, &a, ret, e);
}

static int check_volume_flags(const struct ntfs *fs, struct err *e)
{
    // Everything that makes Windows or Linux act before they write: dirty, journal to
    // be resized, upgrade, USN journal being deleted, object ids, chkdsk.
    enum { REFUSED = 0xc037, DIRTY = 1 };
    uint8_t record[NTFS_RECORD_MAX];
    struct ntfs_attr a;
    const uint8_t *info = NULL;
    size_t len = 0;
    if (ntfs_read_record(fs, RECORD_VOLUME, record, e) < 0)
        return -1;
    int found = ntfs_find_attr(fs, record, NTFS_VOLUME_INFORMATION, "", &a, e);
    if (found < 0 || (found && ntfs_resident(&a, &info, &len, e) < 0))
        return -1;
    if (!found || len < 12)
        return err_set(e, ERR_REFUSED, "the NTFS volume information is missing");
    if (info[8] != 3 && !(info[8] == 1 && info[9] == 2))
        return err_set(e, ERR_REFUSED, "unknown NTFS version %u.%u", info[8], info[9]);
    unsigned flags = get_le16(info + 10);
    if (flags & DIRTY)
        return err_set(e, ERR_REFUSED, "the NTFS file system is marked dirty: chkdsk");
    if (flags & REFUSED)
        return err_set(e, ERR_REFUSED, "the NTFS volume has flags 0x%x set: chkdsk",
                       flags);
    return 0;
}

// The restart page at `off` of the journal: 1 and its age and state, 0 when there is
// none, -1 on failure.
static int read_restart(const struct ntfs *fs, const struct ntfs_stream *log,
                        uint64_t off, uint64_t *ret_lsn, bool *ret_clean,
                        uint64_t *ret_page, struct err *e)
{
    AUTO(free) void *buf = xmalloc(RESTART_MAX);
    uint8_t *page = buf;
    if (off > log->size || log->size - off < 512)
        return 0;
    if (ntfs_stream_read(fs, log, page, 512, off, e) < 0)
        return -1;
    uint64_t len = get_le32(page + 16), area = get_le16(page + 24);
    if (memcmp(page, "RSTR", 4) != 0)
        return 0;
    if (len < 512 || len > RESTART_MAX || len & (len - 1) || len > log->size - off ||
        area < 48 || area % 8 || area + 16 > 510)
        return 0;
    struct err ignored;
    if (ntfs_stream_read(fs, log, page, (size_t)len, off, e) < 0)
        return -1;
    if (ntfs_fixup(page, (size_t)len, "a restart page", &ignored) < 0)
        return 0;
    // Closed when nobody uses it (before XP) or when the volume is said to be clean.
    *ret_lsn = get_le64(page + area);
    *ret_clean = get_le16(page + area + 12) == 0xffff || get_le16(page + area + 14) & 2;
    *ret_page = len;
    return 1;
}

// Linux drivers empty the journal by filling it with 0xff.
static int log_is_empty(const struct ntfs *fs, const struct ntfs_stream *log, bool *ret,
                        struct err *e)
{
    uint8_t piece[4096];
    size_t len = (size_t)min_u64(sizeof(piece), log->size);
    if (ntfs_stream_read(fs, log, piece, len, 0, e) < 0)
        return -1;
    *ret = len > 0;
    for (size_t i = 0; i < len; i++)
        *ret &= piece[i] == 0xff;
    return 0;
}

static int check_log(const struct ntfs *fs, struct err *e)
{
    AUTO(ntfs_stream_done) struct ntfs_stream log = {0};
    if (open_file(fs, RECORD_LOG, &log, e) < 0)
        return -1;
    bool empty, clean[2] = {false};
    uint64_t lsn[2] = {0}, page = 4096;
    if (log_is_empty(fs, &log, &empty, e) < 0)
        return -1;
    if (empty)
        return 0;
    int first = read_restart(fs, &log, 0, &lsn[0], &clean[0], &page, e);
    int second =
        first < 0 ? -1 : read_restart(fs, &log, page, &lsn[1], &clean[1], &page, e);
    if (second < 0)
        return -1;
    if (!first && !second)
        return err_set(e, ERR_REFUSED, "the NTFS journal has no valid restart page");
    // The younger page counts.
    if (!clean[second && (!first || lsn[1] > lsn[0])])
        return err_set(e, ERR_REFUSED,
                       "the NTFS journal was not closed: Windows was not "
                       "shut down fully (fast startup?)");
    return 0;
}

static bool is_hiberfil(const uint8_t *name, size_t n)
{
    static const char want[] = "hiberfil.sys";
    if (n != sizeof(want) - 1)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned c = get_le16(name + i * 2);
        if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != (unsigned char)want[i])
            return false;
    }
    return true;
}

// Looks for hiberfil.sys among the entries of one index node (`node` is its header).
// Returns its MFT reference, 0 when it is not there; *ret_ok is false when the node is
// damaged.
static uint64_t search_node(const uint8_t *node, size_t len, bool *ret_ok)
{
    *ret_ok = false;
    size_t at = len < 16 ? len : get_le32(node), end = len < 16 ? 0 : get_le32(node + 4);
    if (at < 16 || end > len)
        return 0;
    while (at <= end && end - at >= 16) {
        const uint8_t *entry = node + at;
        size_t entry_len = get_le16(entry + 8), key_len = get_le16(entry + 10);
        *ret_ok = get_le16(entry + 12) & 2;
        if (*ret_ok || entry_len < 16 || entry_len > end - at || key_len > entry_len - 16)
            return 0;
        if (key_len >= 66 && 66 + 2u * entry[16 + 64] <= key_len &&
            is_hiberfil(entry + 16 + 66, entry[16 + 64])) {
            *ret_ok = true;
            return get_le64(entry);
        }
        at += entry_len;
    }
    return 0;
}

// Every block of the root folder's index is looked at, also those that are no longer
// part of the tree: finding an old entry costs a look at a file.
static int search_blocks(const struct ntfs *fs, const struct ntfs_stream *s,
                         uint64_t block_len, uint64_t *ret_ref, struct err *e)
{
    AUTO(free) void *buf = xmalloc(INDEX_MAX);
    uint8_t *block = buf;
    if (block_len < 512 || block_len > INDEX_MAX || block_len & (block_len - 1) ||
        s->partial || s->size > ROOT_MAX)
        return err_set(e, ERR_REFUSED, "the NTFS root folder cannot be searched");
    for (uint64_t off = 0; off + block_len <= s->size; off += block_len) {
        bool ok;
        if (ntfs_stream_read(fs, s, block, (size_t)block_len, off, e) < 0)
            return -1;
        if (memcmp(block, "INDX", 4) != 0)
            continue; // never used
        if (ntfs_fixup(block, (size_t)block_len, "the NTFS root folder", e) < 0)
            return -1;
        *ret_ref = search_node(block + 24, (size_t)block_len - 24, &ok);
        if (!ok)
            return err_set(e, ERR_REFUSED, "the NTFS root folder is damaged");
        if (*ret_ref)
            return 0;
    }
    return 0;
}

static int find_hiberfil(const struct ntfs *fs, uint64_t *ret_ref, struct err *e)
{
    uint8_t record[NTFS_RECORD_MAX];
    struct ntfs_attr a;
    const uint8_t *root = NULL;
    size_t len = 0;
    bool ok;
    if (ntfs_read_record(fs, RECORD_ROOT, record, e) < 0)
        return -1;
    int found = ntfs_find_attr(fs, record, NTFS_INDEX_ROOT, "$I30", &a, e);
    if (found < 0 || (found && ntfs_resident(&a, &root, &len, e) < 0))
        return -1;
    if (!found || len < 32)
        return err_set(e, ERR_REFUSED, "the NTFS root folder is missing");
    uint64_t block_len = get_le32(root + 8);
    *ret_ref = search_node(root + 16, len - 16, &ok);
    if (!ok)
        return err_set(e, ERR_REFUSED, "the NTFS root folder is damaged");
    if (*ret_ref)
        return 0;
    found = ntfs_find_attr(fs, record, NTFS_INDEX_ALLOCATION, "$I30", &a, e);
    if (found <= 0)
        return found;
    AUTO(ntfs_stream_done) struct ntfs_stream s = {0};
    if (ntfs_stream(fs, &a, &s, e) < 0)
        return -1;
    return search_blocks(fs, &s, block_len, ret_ref, e);
}

static int check_hibernation(const struct ntfs *fs, struct err *e)
{
    static const char *const asleep[] = {"hibr", "wake"};
    uint64_t ref = 0;
    if (find_hiberfil(fs, &ref, e) < 0)
        return -1;
    if (!ref)
        return 0;
    uint8_t record[NTFS_RECORD_MAX], head[4];
    struct ntfs_attr a;
    if (ntfs_read_record(fs, ref & 0xffffffffffff, record, e) < 0)
        return err_wrap(e, "hiberfil.sys");
    if (get_le16(record + 16) != ref >> 48)
        return err_set(e, ERR_REFUSED, "the NTFS entry of hiberfil.sys is out of date");
    int found = ntfs_find_attr(fs, record, NTFS_DATA, "", &a, e);
    if (found < 0)
        return err_wrap(e, "hiberfil.sys");
    AUTO(ntfs_stream_done) struct ntfs_stream s = {0};
    if (!found || ntfs_is_resident(&a)) // too small to hold a memory image
        return 0;
    if (ntfs_stream(fs, &a, &s, e) < 0)
        return err_wrap(e, "hiberfil.sys");
    if (s.size < sizeof(head))
        return 0;
    if (ntfs_stream_read(fs, &s, head, sizeof(head), 0, e) < 0)
        return err_wrap(e, "hiberfil.sys");
    for (size_t i = 0; i < ARRAY_LEN(asleep); i++)
        if (strncasecmp((const char *)head, asleep[i], sizeof(head)) == 0)
            return err_set(e, ERR_REFUSED,
                           "Windows is hibernated (fast startup counts): shut it down "
                           "with `shutdown /s /t 0`");
    return 0;
}

// Adds the clusters whose bits are set in `len` bytes of the bitmap, which begin with
// cluster `first`.
static void add_clusters(const struct ntfs *fs, const uint8_t *bits, size_t len,
                         uint64_t first, struct used_map *m)
{
    uint64_t run = 0, n = min_u64((uint64_t)len * 8, fs->n_clusters - first);
    for (uint64_t i = 0; i < n;) {
        uint64_t step = 1;
        bool set;
        if (i % 64 == 0 && n - i >= 64 &&
            (get_le64(bits + i / 8) == 0 || ~get_le64(bits + i / 8) == 0)) {
            step = 64;
            set = bits[i / 8];
        } else {
            set = bits[i / 8] >> i % 8 & 1;
        }
        if (!set && run)
            used_map_add(m, (first + i - run) * fs->cluster, run * fs->cluster);
        run = set ? run + step : 0;
        i += step;
    }
    if (run)
        used_map_add(m, (first + n - run) * fs->cluster, run * fs->cluster);
}

static int read_bitmap(const struct ntfs *fs, struct used_map *m, struct err *e)
{
    AUTO(ntfs_stream_done) struct ntfs_stream s = {0};
    if (open_file(fs, RECORD_BITMAP, &s, e) < 0)
        return err_wrap(e, "NTFS $Bitmap");
    uint64_t len = (fs->n_clusters + 7) / 8;
    if (s.valid < len)
        return err_set(e, ERR_REFUSED, "the NTFS bitmap is too small for the volume");
    for (size_t i = 0; i < s.runs.n; i++)
        if (s.runs.v[i].lcn == NTFS_HOLE && s.runs.v[i].vcn * fs->cluster < len)
            return err_set(e, ERR_REFUSED, "the NTFS bitmap has a hole");
    AUTO(free) void *buf = xmalloc(PIECE);
    for (uint64_t off = 0; off < len; off += PIECE) {
        size_t n = (size_t)min_u64(PIECE, len - off);
        if (cancel_check(e) < 0 || ntfs_stream_read(fs, &s, buf, n, off, e) < 0)
            return -1;
        add_clusters(fs, buf, n, off * 8, m);
    }
    return 0;
}

int fs_ntfs_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    uint8_t boot[512];
    struct ntfs fs = {.d = d};
    AUTO(ntfs_stream_done) struct ntfs_stream mft = {0};
    if (fs_read(d, boot, sizeof(boot), 0, "the NTFS boot sector", e) < 0 ||
        parse_boot(boot, &fs, e) < 0)
        return -1;
    if (open_file(&fs, RECORD_MFT, &mft, e) < 0)
        return err_wrap(e, "NTFS $MFT");
    fs.mft = mft; // borrowed
    AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
    if (check_volume_flags(&fs, e) < 0 || check_log(&fs, e) < 0 ||
        check_hibernation(&fs, e) < 0 || read_bitmap(&fs, m, e) < 0)
        return -1;
    // What every NTFS has in use: a bitmap that says otherwise is not to be believed.
    const uint64_t known[] = {0, fs.mft_lcn, fs.mirror_lcn};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (!used_map_has(m, known[i] * fs.cluster))
            return err_set(e, ERR_REFUSED, "the NTFS bitmap calls the MFT free");
    uint64_t end = fs.n_clusters * fs.cluster;
    used_map_add(m, end, d->size - end);
    used_map_emit(m, ret_used);
    return 0;
}
