// SPDX-License-Identifier: Apache-2.0
// NTFS file records, attributes and data runs. Layouts as documented by the Linux-NTFS
// project (https://flatcap.github.io/linux-ntfs/ntfs/).
//
//     record: "FILE", update sequence, attributes…, 0xffffffff
//     attribute: type, length, resident or not, name, then a value or packed data runs
//     run: one byte (sizes of the two numbers), length, signed step of the cluster number
//
// Surprises: the last two bytes of every 512 are replaced by a sequence number and kept
// in the header; a run without a step is a hole; steps may be negative.

#include "fs_ntfs.h"

#include <stdio.h>

#define STRIDE 512

void ntfs_stream_done(struct ntfs_stream *s)
{
    vec_done(&s->runs);
}

int ntfs_fixup(uint8_t *data, size_t len, const char *what, struct err *e)
{
    size_t at = get_le16(data + 4), count = get_le16(data + 6);
    if (count != len / STRIDE + 1 || at < 8 || at % 2 || at + count * 2 > STRIDE - 2)
        return err_set(e, ERR_REFUSED, "%s has no valid update sequence", what);
    for (size_t i = 1; i < count; i++) {
        uint8_t *end = data + i * STRIDE - 2;
        if (memcmp(end, data + at, 2) != 0 && !fs_checksums_ignored())
            return err_set(e, ERR_REFUSED, "%s was only half written", what);
        memcpy(end, data + at + i * 2, 2);
    }
    return 0;
}

int ntfs_read_record(const struct ntfs *fs, uint64_t number, uint8_t *buf, struct err *e)
{
    char what[48];
    (void)snprintf(what, sizeof(what), "MFT record %llu", (unsigned long long)number);
    if (number > UINT32_MAX)
        return err_set(e, ERR_REFUSED, "%s does not exist", what);
    uint64_t off = number * fs->record;
    if (fs->mft.runs.n) {
        if (off + fs->record > fs->mft.valid)
            return err_set(e, ERR_REFUSED, "%s lies outside the MFT", what);
        if (ntfs_stream_read(fs, &fs->mft, buf, fs->record, off, e) < 0)
            return -1;
    } else if (fs_read(fs->d, buf, fs->record, fs->mft_lcn * fs->cluster + off, what, e) <
               0) {
        return -1;
    }
    if (memcmp(buf, "FILE", 4) != 0)
        return err_set(e, ERR_REFUSED, "%s is damaged", what);
    if (ntfs_fixup(buf, fs->record, what, e) < 0)
        return -1;
    if (!(get_le16(buf + 22) & 1) || get_le64(buf + 32) & 0xffffffffffff)
        return err_set(e, ERR_REFUSED, "%s is not the one of a file", what);
    return 0;
}

static bool attr_named(const struct ntfs_attr *a, const char *name)
{
    size_t n = a->at[9], at = get_le16(a->at + 10);
    if (n != strlen(name) || at + n * 2 > a->len)
        return false;
    for (size_t i = 0; i < n; i++)
        if (get_le16(a->at + at + i * 2) != (uint8_t)name[i])
            return false;
    return true;
}

int ntfs_find_attr(const struct ntfs *fs, const uint8_t *record, uint32_t type,
                   const char *name, struct ntfs_attr *ret, struct err *e)
{
    size_t at = get_le16(record + 20);
    bool listed = false;
    for (;;) {
        if (at % 8 || at < 42 || at + 4 > fs->record)
            break;
        uint32_t t = get_le32(record + at);
        if (t == UINT32_MAX)
            return listed ? err_set(e, ERR_REFUSED,
                                    "an MFT record is spread over several, which is not "
                                    "followed")
                          : 0;
        if (at + 24 > fs->record)
            break;
        struct ntfs_attr a = {record + at, get_le32(record + at + 4)};
        if (a.len < 24 || a.len > fs->record - at)
            break;
        if (t == type && attr_named(&a, name)) {
            *ret = a;
            return 1;
        }
        listed |= t == NTFS_ATTRIBUTE_LIST;
        at += a.len;
    }
    return err_set(e, ERR_REFUSED, "the attributes of an MFT record are damaged");
}

bool ntfs_is_resident(const struct ntfs_attr *a)
{
    return a->at[8] == 0;
}

int ntfs_resident(const struct ntfs_attr *a, const uint8_t **ret, size_t *ret_len,
                  struct err *e)
{
    size_t len = get_le32(a->at + 16), at = get_le16(a->at + 20);
    if (!ntfs_is_resident(a) || at > a->len || len > a->len - at)
        return err_set(e, ERR_REFUSED, "an attribute of an MFT record is damaged");
    *ret = a->at + at;
    *ret_len = len;
    return 0;
}

// A little-endian number of `n` bytes, sign extended.
static int64_t get_packed(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    if (n && n < 8 && p[n - 1] & 0x80)
        v |= ~UINT64_C(0) << (8 * n);
    return (int64_t)v;
}

// Appends one run; false when it cannot be.
static bool add_run(const struct ntfs *fs, struct ntfs_stream *s, uint64_t vcn,
                    int64_t lcn, bool hole, int64_t n)
{
    if (n <= 0 || s->runs.n == NTFS_ATTR_MAX_RUNS || (uint64_t)n > INT64_MAX - vcn)
        return false;
    if (!hole && (lcn < 0 || (uint64_t)lcn >= fs->n_clusters ||
                  (uint64_t)n > fs->n_clusters - (uint64_t)lcn))
        return false;
    struct ntfs_run run = {vcn, hole ? NTFS_HOLE : (uint64_t)lcn, (uint64_t)n};
    vec_push(&s->runs, run);
    return true;
}

static bool parse_runs(const struct ntfs *fs, const uint8_t *p, size_t len,
                       struct ntfs_stream *s)
{
    uint64_t vcn = 0;
    int64_t lcn = 0;
    while (len && p[0]) {
        size_t n_len = p[0] & 15, n_step = p[0] >> 4;
        if (!n_len || n_len > 8 || n_step > 8 || 1 + n_len + n_step > len)
            return false;
        int64_t n = get_packed(p + 1, n_len), step = get_packed(p + 1 + n_len, n_step);
        if (__builtin_add_overflow(lcn, step, &lcn) ||
            !add_run(fs, s, vcn, lcn, n_step == 0, n))
            return false;
        vcn += (uint64_t)n;
        p += 1 + n_len + n_step;
        len -= 1 + n_len + n_step;
    }
    if (!len || vcn > INT64_MAX / fs->cluster || s->valid > s->size)
        return false;
    s->partial = s->size > vcn * fs->cluster;
    s->size = min_u64(s->size, vcn * fs->cluster);
    s->valid = min_u64(s->valid, s->size);
    return true;
}

int ntfs_stream(const struct ntfs *fs, const struct ntfs_attr *a, struct ntfs_stream *ret,
                struct err *e)
{
    if (ntfs_is_resident(a) || a->len < 64 || get_le16(a->at + 32) >= a->len)
        return err_set(e, ERR_REFUSED, "an attribute of an MFT record is damaged");
    // Compressed or encrypted; sparse ones are plain.
    if (get_le16(a->at + 12) & 0x40ff || get_le64(a->at + 16) != 0)
        return err_set(e, ERR_REFUSED,
                       "an attribute is compressed, encrypted or spread over records");
    size_t runs_at = get_le16(a->at + 32);
    AUTO(ntfs_stream_done) struct ntfs_stream s = {0};
    s.size = get_le64(a->at + 48);
    s.valid = get_le64(a->at + 56);
    if (!parse_runs(fs, a->at + runs_at, a->len - runs_at, &s))
        return err_set(e, ERR_REFUSED, "the data runs of an MFT record are damaged");
    *ret = s;
    s = (struct ntfs_stream){0};
    return 0;
}

// The run that holds cluster `vcn`; there is one for every byte below size.
static const struct ntfs_run *find_run(const struct ntfs_stream *s, uint64_t vcn)
{
    size_t low = 0, high = s->runs.n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (s->runs.v[middle].vcn <= vcn)
            low = middle;
        else
            high = middle;
    }
    return &s->runs.v[low];
}

int ntfs_stream_read(const struct ntfs *fs, const struct ntfs_stream *s, void *buf,
                     size_t len, uint64_t off, struct err *e)
{
    uint8_t *p = buf;
    if (off > s->size || len > s->size - off)
        return err_set(e, ERR_REFUSED, "a read beyond the end of an NTFS file");
    while (len) {
        const struct ntfs_run *run = find_run(s, off / fs->cluster);
        uint64_t in_run = off - run->vcn * fs->cluster;
        size_t n = (size_t)min_u64(len, run->n * fs->cluster - in_run);
        if (run->lcn == NTFS_HOLE || off >= s->valid)
            memset(p, 0, n);
        else if (fs_read(fs->d, p, n, run->lcn * fs->cluster + in_run, "an NTFS file",
                         e) < 0)
            return -1;
        if (off < s->valid && n > s->valid - off)
            memset(p + (s->valid - off), 0, (size_t)(n - (s->valid - off)));
        p += n;
        off += n;
        len -= n;
    }
    return 0;
}
