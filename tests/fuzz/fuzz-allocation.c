// SPDX-License-Identifier: Apache-2.0
// A whole disk made of the input, from its partition table to the files: what is in use
// lies on the disk, in order, and holds what each volume says that it uses.
#include "memdisk.h"

static int whole_disk(struct disk *d, struct extents *used, struct err *e)
{
    AUTO(allocation_done) struct allocation a = {0};
    if (d->size == 0)
        return err_set(e, ERR_REFUSED, "nothing there");
    int r = allocation_read(&d, 1, NULL, &a, e);
    assert(r == 0 && a.n_disks == 1 && a.volumes.n > 0);
    for (size_t i = 0; i < a.volumes.n; i++) {
        const struct volume *v = &a.volumes.v[i];
        assert(v->parent < (int)i && v->kind && v->name);
        if (strcmp(v->kind, "lv") == 0)
            continue;
        assert(v->off <= d->size && v->len <= d->size - v->off && v->used <= v->len);
        assert(!v->whole_because || v->used == v->len);
    }
    AUTO(json_free) json_t *j = allocation_json(&a);
    assert(j && json_array_size(json_object_get(j, "volumes")) == a.volumes.n);
    extents_add(used, 0, 1); // a disk of which nothing is in use is fine
    for (size_t i = 0; i < a.used[0].n; i++)
        extents_add(used, a.used[0].v[i].off, a.used[0].v[i].len);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return memdisk_fuzz(data, size, whole_disk);
}
