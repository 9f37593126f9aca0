// SPDX-License-Identifier: Apache-2.0
// Two physical volumes of LVM2, the halves of a disk made of the input: label, metadata
// text, logical volumes and thin pools. What is found lies on the disk, whatever the
// metadata says.
#include "map/lvm.h"
#include "memdisk.h"

static void on_disk(void *context, unsigned disk, uint64_t off, uint64_t len)
{
    const struct disk *d = context;
    assert(disk == 0 && len > 0 && off < d->size && len <= d->size - off);
}

static int group(struct disk *d, struct extents *used, struct err *e)
{
    AUTO(lvm_done) struct lvm l = {0};
    struct disk *disks[] = {d};
    uint64_t half = d->size / 1024 * 512;
    struct lvm_pv pvs[] = {{0, 0, half, 0}, {0, half, d->size - half, 0}};
    int r = lvm_read(disks, pvs, 2, &l, e);
    assert(r == 0);
    for (size_t i = 0; i < l.used.n; i++)
        if (l.used.v[i].len)
            on_disk(d, l.used.v[i].disk, l.used.v[i].off, l.used.v[i].len);
    for (size_t i = 0; i < l.lvs.n; i++) {
        const struct lvm_lv *lv = &l.lvs.v[i];
        assert(lv->name && lv->pv < 2 && (lv->span || lv->whole_because));
        if (!lv->span)
            continue;
        struct disk *s = span_disk(lv->span);
        uint8_t byte[1];
        assert(s->size == lv->len);
        span_map(lv->span, 0, s->size, on_disk, d);
        r = disk_read(s, byte, 1, s->size - 1, e);
        assert(r == 0);
        for (size_t k = 0; lv->part && k < lv->part->n; k++)
            assert(lv->part->v[k].off < s->size);
    }
    extents_add(used, 0, d->size ? 1 : 0);
    return d->size ? 0 : err_set(e, ERR_REFUSED, "nothing there");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return memdisk_fuzz(data, size, group);
}
