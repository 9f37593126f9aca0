// SPDX-License-Identifier: Apache-2.0
// LVM2 physical volumes count as wholly used.

#include "lvm.h"

int lvm_read(struct disk *const *disks, const struct lvm_pv *pvs, size_t n_pvs,
             struct lvm *ret, struct err *e)
{
    (void)disks, (void)pvs, (void)e;
    *ret = (struct lvm){.n_pvs = n_pvs};
    ret->pv_whole_because = xcalloc(n_pvs, sizeof(char *));
    for (size_t i = 0; i < n_pvs; i++)
        ret->pv_whole_because[i] = xstrdup("it is a physical volume of LVM");
    return 0;
}

void lvm_done(struct lvm *l)
{
    for (size_t i = 0; i < l->lvs.n; i++) {
        struct lvm_lv *lv = &l->lvs.v[i];
        free(lv->name);
        free(lv->uuid);
        free(lv->whole_because);
        span_close(lv->span);
        if (lv->part)
            extents_done(lv->part);
        free(lv->part);
    }
    vec_done(&l->lvs);
    vec_done(&l->used);
    for (size_t i = 0; i < l->n_pvs; i++)
        free(l->pv_whole_because[i]);
    free(l->pv_whole_because);
}
