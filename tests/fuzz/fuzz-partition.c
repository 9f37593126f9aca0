// SPDX-License-Identifier: Apache-2.0
// A partition table on a disk made of the input: partitions lie on the disk, in order,
// and the table's own sectors too.
#include "map/partition.h"
#include "memdisk.h"

static int tables(struct disk *d, struct extents *used, struct err *e)
{
    AUTO(partition_table_done) struct partition_table t = {0};
    int r = partition_read(d, &t, e);
    assert(r == 0);
    for (size_t i = 0; i < t.v.n; i++) {
        const struct partition *p = &t.v.v[i];
        assert(p->len > 0 && p->off < d->size && p->len <= d->size - p->off);
        assert(i == 0 || p->off >= p[-1].off);
        assert(i == 0 || p->off >= p[-1].off + p[-1].len || p->whole_because);
    }
    assert(t.kind || t.v.n == 0);
    extents_add(used, 0, d->size ? 1 : 0);
    for (size_t i = 0; i < t.own.n; i++)
        extents_add(used, t.own.v[i].off, t.own.v[i].len);
    return d->size ? 0 : err_set(e, ERR_REFUSED, "nothing there");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return memdisk_fuzz(data, size, tables);
}
