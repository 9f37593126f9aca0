// SPDX-License-Identifier: Apache-2.0
// What of a guest's disks is in use. Nothing is called free that was not proven to be:
//
//     disk ─► partition table ─► partition ─┬─► file system with a reader: what it says
//      │                                    ├─► LVM2 ─► logical volume ─► file system …
//      └─► no table: as one partition       └─► everything else: all of it, with a reason
//
// Space outside partitions is in use: boot loaders, the tables and their copies, firmware
// RAID and dynamic disks keep data there, and where it was never written the image has a
// hole, which costs nothing to skip. Results are added up, never taken away, so when two
// volumes claim one place the more careful one wins. Lists of extents are made coarser
// when they grow long (fs_add_max): that is what bounds the memory.

#include "content.h"
#include "fs.h"
#include "lvm.h"
#include "partition.h"
#include "span.h"

struct scan {
    struct disk *const *disks;
    size_t n_disks, max_extents; // the latter of one disk
    struct allocation *a;
    bool look;                     // only finds the volumes, reads none
    const struct strings *settled; // UUIDs; NULL: the machine is off
    VEC(struct lvm_pv) pvs;
};

static void scan_done(struct scan *s)
{
    vec_done(&s->pvs);
}

static void auto_scan_done(struct scan *s)
{
    scan_done(s);
}

static void add_used(void *context, unsigned disk, uint64_t off, uint64_t len)
{
    struct scan *s = context;
    fs_add_max(&s->a->used[disk], off, len, s->max_extents);
}

static int volume_add(struct scan *s, struct volume v)
{
    vec_push(&s->a->volumes, v);
    return (int)s->a->volumes.n - 1;
}

static struct volume *volume(struct scan *s, int i)
{
    return &s->a->volumes.v[i];
}

// All of the volume, for a reason.
static int whole(struct scan *s, int i, struct span *span, const char *reason)
{
    struct disk *d = span_disk(span);
    volume(s, i)->whole_because = xstrdup(reason);
    volume(s, i)->used = d->size;
    if (d->size)
        span_map(span, 0, d->size, add_used, s);
    return 0;
}

// What is in use by `used`, which may be in disorder with the volume's end.
static void part(struct scan *s, int i, struct span *span, struct extents *used)
{
    extents_align(used, 1, span_disk(span)->size);
    volume(s, i)->used = extents_bytes(used, EXTENT_DATA);
    for (size_t k = 0; k < used->n; k++)
        span_map(span, used->v[k].off, used->v[k].len, add_used, s);
}

// --- contents
// ---------------------------------------------------------------------------

static const struct {
    const char *content, *reason;
} opaque[] = {
    {"crypto_LUKS", "it is encrypted"},
    {"BitLocker", "it is encrypted"},
    {"linux_raid_member", "it belongs to a Linux RAID"},
    {"LVM2_member", "physical volumes inside other volumes are not looked into"},
    {"bcache", "it belongs to a bcache"},
    {"zfs_member", "it belongs to a ZFS pool"},
    {"swsuspend", "a hibernated system is in it"},
    {"jbd", "it is a journal"},
};

static const struct fs_reader *reader_of(const char *content)
{
    for (const struct fs_reader *r = fs_readers; r->content; r++)
        if (strcmp(r->content, content) == 0)
            return r;
    return NULL;
}

static int by_reader(struct scan *s, int i, struct span *span, const char *uuid,
                     const struct fs_reader *reader, struct err *e)
{
    AUTO(extents_done) struct extents used = {0};
    struct err why = {0};
    bool live = s->settled && reader->used_live && uuid && strings_have(s->settled, uuid);
    if (s->settled && !live && !reader->shows_mounted)
        return whole(s, i, span, "it may be mounted and was not settled");
    if ((live ? reader->used_live : reader->used)(span_disk(span), &used, &why) == 0) {
        part(s, i, span, &used);
        return 0;
    }
    if (why.code == ERR_REFUSED)
        return whole(s, i, span, why.text);
    *e = why;
    return -1;
}

static int by_content(struct scan *s, int i, struct span *span, const struct content *c,
                      struct err *e)
{
    if (s->look)
        return 0;
    if (c->ambiguous)
        return whole(s, i, span, "it has signatures of several kinds");
    if (c->table && c->type)
        return whole(s, i, span, "it has a partition table and a file system at once");
    if (c->table)
        return whole(s, i, span, "it holds a partition table of its own");
    if (!c->type)
        return whole(s, i, span, "its content is not known");
    const struct fs_reader *reader = reader_of(c->type);
    if (reader)
        return by_reader(s, i, span, c->uuid, reader, e);
    for (size_t k = 0; k < ARRAY_LEN(opaque); k++)
        if (strcmp(opaque[k].content, c->type) == 0)
            return whole(s, i, span, opaque[k].reason);
    return whole(s, i, span, "its content is of a kind that is not read");
}

static void describe(struct volume *v, struct content *c)
{
    v->content = steal(c->type);
    v->uuid = steal(c->uuid);
    v->label = steal(c->label);
}

// --- partitions and disks
// ---------------------------------------------------------------

// Something that lies in one piece on a disk: a partition, or the disk itself.
static int read_piece(struct scan *s, int i, struct content *c, const char *because,
                      struct err *e)
{
    struct volume *v = volume(s, i);
    struct disk *d = s->disks[v->disk];
    AUTO(str_free)
    char *name = v->parent < 0 ? xstrdup(d->name)
                               : xasprintf("%s: partition %s", d->name, v->name);
    AUTO(span_close) struct span *span = span_new(s->disks, name);
    struct span_area area = {v->disk, v->off};
    if (v->len)
        span_add(span, v->len, 0, &area, 1);
    AUTO(content_done) struct content found = {0};
    if (!c && content_detect(span_disk(span), &found, e))
        return -1;
    c = c ? c : &found;
    struct lvm_pv pv = {v->disk, v->off, v->len, i};
    bool is_pv = c->type && !c->table && strcmp(c->type, "LVM2_member") == 0;
    if (because) {
        (void)whole(s, i, span, because);
    } else if (is_pv) {
        vec_push(&s->pvs, pv);
    } else if (by_content(s, i, span, c, e)) {
        return -1;
    }
    describe(volume(s, i), c);
    return 0;
}

static int read_partitions(struct scan *s, int parent, struct partition_table *t,
                           struct err *e)
{
    unsigned disk = volume(s, parent)->disk;
    uint64_t at = 0;
    for (size_t k = 0; k < t->own.n; k++)
        add_used(s, disk, t->own.v[k].off, t->own.v[k].len);
    for (size_t k = 0; k < t->v.n; k++) {
        const struct partition *p = &t->v.v[k];
        if (p->off > at)
            add_used(s, disk, at, p->off - at);
        at = max_u64(at, p->off + p->len);
        int i = volume_add(s, (struct volume){.parent = parent,
                                              .disk = disk,
                                              .kind = xstrdup("partition"),
                                              .name = xasprintf("%u", p->number),
                                              .off = p->off,
                                              .len = p->len,
                                              .esp = p->esp,
                                              .bios_boot = p->bios_boot,
                                              .active = p->active});
        if (p->uuid[0])
            volume(s, i)->part_uuid = xstrdup(p->uuid);
        if (read_piece(s, i, NULL, p->whole_because, e))
            return -1;
    }
    if (at < s->disks[disk]->size)
        add_used(s, disk, at, s->disks[disk]->size - at);
    return 0;
}

static int read_disk(struct scan *s, unsigned disk, struct err *e)
{
    struct disk *d = s->disks[disk];
    int i = volume_add(s, (struct volume){.parent = -1,
                                          .disk = disk,
                                          .kind = xstrdup("disk"),
                                          .name = xstrdup(path_base(d->name)),
                                          .len = d->size});
    AUTO(content_done) struct content c = {0};
    AUTO(partition_table_done) struct partition_table t = {0};
    if (content_detect(d, &c, e) || partition_read(d, &t, e))
        return -1;
    if (!t.kind)
        return read_piece(s, i, &c, NULL, e);
    volume(s, i)->table = xstrdup(t.kind);
    volume(s, i)->table_sector = t.sector;
    if (t.damaged)
        return read_piece(s, i, &c, t.damaged, e);
    if (c.type)
        return read_piece(s, i, &c, "it has a partition table and a file system at once",
                          e);
    return read_partitions(s, i, &t, e);
}

// --- logical volumes
// --------------------------------------------------------------------

static int read_logical(struct scan *s, struct lvm_lv *lv, struct err *e)
{
    int parent = s->pvs.v[lv->pv].volume;
    int i = volume_add(s, (struct volume){.parent = parent,
                                          .disk = s->pvs.v[lv->pv].disk,
                                          .kind = xstrdup("lv"),
                                          .name = xstrdup(lv->name),
                                          .len = lv->len});
    if (!lv->span) {
        volume(s, i)->used = lv->len;
        volume(s, i)->whole_because = steal(lv->whole_because);
        return 0;
    }
    AUTO(content_done) struct content c = {0};
    if (content_detect(span_disk(lv->span), &c, e))
        return -1;
    if (lv->whole_because)
        (void)whole(s, i, lv->span, lv->whole_because);
    else if (lv->part && s->settled)
        (void)whole(s, i, lv->span, "it is a thin pool that may be in use");
    else if (lv->part)
        part(s, i, lv->span, lv->part);
    else if (by_content(s, i, lv->span, &c, e))
        return -1;
    describe(volume(s, i), &c);
    return 0;
}

static int read_lvm(struct scan *s, struct err *e)
{
    AUTO(lvm_done) struct lvm l = {0};
    if (s->pvs.n == 0)
        return 0;
    if (lvm_read(s->disks, s->pvs.v, s->pvs.n, &l, e))
        return -1;
    for (size_t k = 0; k < s->pvs.n; k++) {
        const struct lvm_pv *pv = &s->pvs.v[k];
        if (!l.pv_whole_because[k])
            continue;
        add_used(s, pv->disk, pv->off, pv->len);
        volume(s, pv->volume)->whole_because = steal(l.pv_whole_because[k]);
    }
    for (size_t k = 0; k < l.used.n; k++)
        add_used(s, l.used.v[k].disk, l.used.v[k].off, l.used.v[k].len);
    for (size_t k = 0; k < l.lvs.n; k++)
        if (read_logical(s, &l.lvs.v[k], e))
            return -1;
    return 0;
}

static uint64_t used_within(const struct extents *x, uint64_t off, uint64_t len)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < x->n; i++) {
        uint64_t from = max_u64(x->v[i].off, off);
        uint64_t to = min_u64(x->v[i].off + x->v[i].len, off + len);
        sum += from < to ? to - from : 0;
    }
    return sum;
}

static int scan(struct scan *s, struct err *e)
{
    s->a->n_disks = s->n_disks;
    s->a->used = xcalloc(s->n_disks + 1, sizeof(*s->a->used));
    s->max_extents = FS_EXTENTS_MAX / (s->n_disks + 1) + 16;
    for (unsigned i = 0; i < s->n_disks; i++)
        if (read_disk(s, i, e))
            return -1;
    return read_lvm(s, e);
}

// Those of the settled UUIDs that one volume has, and no other.
static int settled_once(struct disk *const *disks, size_t n_disks,
                        const struct allocation_live *live, struct strings *ret,
                        struct err *e)
{
    AUTO(allocation_done) struct allocation a = {0};
    AUTO(scan_done)
    struct scan s = {.disks = disks, .n_disks = n_disks, .a = &a, .look = true};
    if (scan(&s, e))
        return -1;
    for (size_t i = 0; i < live->uuids->n; i++) {
        unsigned n = 0;
        for (size_t k = 0; k < a.volumes.n; k++)
            n += a.volumes.v[k].uuid &&
                 strcmp(a.volumes.v[k].uuid, live->uuids->v[i]) == 0;
        if (n == 1)
            strings_add(ret, live->uuids->v[i]);
    }
    return 0;
}

int allocation_read(struct disk *const *disks, size_t n_disks,
                    const struct allocation_live *live, struct allocation *ret,
                    struct err *e)
{
    AUTO(allocation_done) struct allocation a = {0};
    AUTO(strings_done) struct strings settled = {0};
    AUTO(scan_done) struct scan s = {.disks = disks, .n_disks = n_disks, .a = &a};
    if (live && settled_once(disks, n_disks, live, &settled, e))
        return -1;
    s.settled = live ? &settled : NULL;
    if (scan(&s, e))
        return -1;
    for (size_t i = 0; i < n_disks; i++)
        extents_align(&a.used[i], 1, disks[i]->size);
    for (size_t i = 0; i < a.volumes.n; i++) {
        struct volume *v = &a.volumes.v[i];
        if (strcmp(v->kind, "lv") != 0)
            v->used = used_within(&a.used[v->disk], v->off, v->len);
    }
    *ret = a;
    a = (struct allocation){0};
    return 0;
}

void allocation_done(struct allocation *a)
{
    for (size_t i = 0; i < a->n_disks; i++)
        extents_done(&a->used[i]);
    free(a->used);
    for (size_t i = 0; i < a->volumes.n; i++) {
        struct volume *v = &a->volumes.v[i];
        char *texts[] = {v->kind, v->name,  v->table,     v->content,
                         v->uuid, v->label, v->part_uuid, v->whole_because};
        for (size_t k = 0; k < ARRAY_LEN(texts); k++)
            free(texts[k]);
    }
    vec_done(&a->volumes);
}
