// SPDX-License-Identifier: Apache-2.0
// libblkid reads files and devices, not struct disk. Its signatures lie near a volume's
// two ends, so the head and the tail are copied into a sparse file in memory, which is
// probed instead: HEAD reaches past the second ZFS label and VMFS (2 MiB), TAIL holds
// everything that md, ZFS and the firmware RAIDs keep at the end. NTFS is known only by
// its first MFT records, which lie elsewhere: they are copied as well.

#include "content.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <unistd.h>

#define HEAD (4 * MIB)
#define TAIL MIB
#define PIECE (256 * KIB)
#define MFT_RECORDS (16 * KIB) // the first four, of the largest size

static void probe_free(blkid_probe pr)
{
    if (pr)
        blkid_free_probe(pr);
}
DEFINE_AUTO(probe_free, blkid_probe)

static int copy_range(struct disk *d, int fd, uint64_t off, uint64_t len, struct err *e)
{
    AUTO(free) void *piece = xmalloc(PIECE);
    while (len > 0) {
        size_t n = (size_t)min_u64(len, PIECE);
        if (disk_read(d, piece, n, off, e))
            return -1;
        if (!is_zero(piece, n) && fd_pwrite(fd, piece, n, off))
            return err_errno(e, errno, "cannot copy the ends of %s to memory", d->name);
        off += n;
        len -= n;
    }
    return 0;
}

static int copy_mft(struct disk *d, int fd, struct err *e)
{
    uint8_t boot[512];
    if (d->size < sizeof(boot))
        return 0;
    if (disk_read(d, boot, sizeof(boot), 0, e))
        return -1;
    if (memcmp(boot + 3, "NTFS    ", 8) != 0)
        return 0;
    // Values above 128 mean 2^(256 - value) sectors.
    uint64_t cluster =
        boot[13] <= 128 ? boot[13] : UINT64_C(1) << min_u64(256 - boot[13], 12);
    uint64_t at;
    cluster *= get_le16(boot + 11);
    if (__builtin_mul_overflow(get_le64(boot + 48), cluster, &at) || at >= d->size)
        return 0;
    return copy_range(d, fd, at, min_u64(MFT_RECORDS, d->size - at), e);
}

static char *value_of(blkid_probe pr, const char *name)
{
    const char *value = NULL;
    return blkid_probe_lookup_value(pr, name, &value, NULL) == 0 && value[0]
               ? xstrdup(value)
               : NULL;
}

static int probe(int fd, uint64_t size, uint32_t sector_size, struct content *ret,
                 struct err *e)
{
    AUTO(probe_free) blkid_probe pr = blkid_new_probe();
    if (!pr || blkid_probe_set_device(pr, fd, 0, (blkid_loff_t)size))
        return err_set(e, ERR_FAILED, "cannot start libblkid");
    (void)blkid_probe_set_sectorsize(pr, sector_size); // 512 is what it has anyway
    blkid_probe_enable_superblocks(pr, 1);
    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                              BLKID_SUBLKS_LABEL);
    blkid_probe_enable_partitions(pr, 1);
    int result = blkid_do_safeprobe(pr);
    ret->ambiguous = result == -2;
    if (result != 0)
        return 0;
    ret->type = value_of(pr, "TYPE");
    ret->uuid = value_of(pr, "UUID");
    ret->label = value_of(pr, "LABEL");
    ret->table = value_of(pr, "PTTYPE");
    return 0;
}

int content_detect(struct disk *d, struct content *ret, struct err *e)
{
    AUTO(content_done) struct content found = {0};
    if (d->size < 512) {
        *ret = (struct content){0};
        return 0;
    }
    AUTO(fd_close) int fd = fd_memory("godwit-content");
    if (fd < 0 || ftruncate(fd, (off_t)d->size))
        return err_errno(e, errno, "cannot make a file of %llu bytes in memory",
                         (unsigned long long)d->size);
    uint64_t head = min_u64(HEAD, d->size), tail = min_u64(TAIL, d->size - head);
    if (copy_range(d, fd, 0, head, e) || copy_range(d, fd, d->size - tail, tail, e) ||
        copy_mft(d, fd, e) || probe(fd, d->size, d->sector_size, &found, e))
        return -1;
    *ret = found;
    found = (struct content){0};
    return 0;
}

void content_done(struct content *c)
{
    free(c->type);
    free(c->uuid);
    free(c->label);
    free(c->table);
}
