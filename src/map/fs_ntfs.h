// SPDX-License-Identifier: Apache-2.0
// NTFS records and attributes, for fs_ntfs.c alone.
#pragma once

#include "used_map.h"

#define NTFS_RECORD_MAX 4096
#define NTFS_ATTR_MAX_RUNS 16384

enum ntfs_attr_type {
    NTFS_ATTRIBUTE_LIST = 0x20,
    NTFS_VOLUME_INFORMATION = 0x70,
    NTFS_DATA = 0x80,
    NTFS_INDEX_ROOT = 0x90,
    NTFS_INDEX_ALLOCATION = 0xa0,
};

// A run of clusters of an attribute; lcn is NTFS_HOLE where nothing is stored.
#define NTFS_HOLE UINT64_MAX
struct ntfs_run {
    uint64_t vcn, lcn, n;
};
// Where an attribute's bytes are: `size` of them, those from `valid` on read as zeros.
// Fewer than the file has when `partial`: its other runs stand in other records.
struct ntfs_stream {
    VEC(struct ntfs_run) runs;
    uint64_t size, valid;
    bool partial;
};
void ntfs_stream_done(struct ntfs_stream *s);
__attribute__((unused)) static inline void auto_ntfs_stream_done(struct ntfs_stream *s)
{
    ntfs_stream_done(s);
}

struct ntfs {
    struct disk *d;
    uint64_t cluster, n_clusters; // bytes; how many
    uint64_t record;              // bytes of an MFT record
    uint64_t mft_lcn, mirror_lcn;
    struct ntfs_stream mft;
};

// An attribute inside a record that was read.
struct ntfs_attr {
    const uint8_t *at;
    size_t len;
};

// Checks a protected structure's update sequence (a torn write shows here) and puts the
// bytes it hides back. `len` is a multiple of 512.
int ntfs_fixup(uint8_t *data, size_t len, const char *what, struct err *e);
// Record `number` of the MFT into `buf` (fs->record bytes), checked and in use.
int ntfs_read_record(const struct ntfs *fs, uint64_t number, uint8_t *buf, struct err *e);
// The attribute of `type` whose name is `name` (ASCII; "" for the unnamed one). Returns
// 1, or 0 when the record has none. -1: the record is damaged, or keeps the attribute in
// other records (an attribute list), which is not followed.
int ntfs_find_attr(const struct ntfs *fs, const uint8_t *record, uint32_t type,
                   const char *name, struct ntfs_attr *ret, struct err *e);
// The bytes of a resident attribute. ERR_REFUSED when it is not.
int ntfs_resident(const struct ntfs_attr *a, const uint8_t **ret, size_t *ret_len,
                  struct err *e);
// The runs of a non-resident attribute that begins at its first byte.
int ntfs_stream(const struct ntfs *fs, const struct ntfs_attr *a, struct ntfs_stream *ret,
                struct err *e);
bool ntfs_is_resident(const struct ntfs_attr *a);
// Bytes [off, off + len) of an attribute; holes and what is not valid are zeros.
int ntfs_stream_read(const struct ntfs *fs, const struct ntfs_stream *s, void *buf,
                     size_t len, uint64_t off, struct err *e);
