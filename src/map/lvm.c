// SPDX-License-Identifier: Apache-2.0
// LVM2 volume groups: which extents of the physical volumes belong to which logical
// volume. Of all copies of a group's metadata the one with the highest seqno counts, as
// for LVM2. Extents of no logical volume are free; linear and striped volumes are handed
// on to be looked into; a thin pool says itself what it maps. Everything else (RAID,
// mirrors, caches, VDO, parts of them, origins of old-style snapshots, whose snapshots
// read what the origin's file system calls free) is wholly in use, and so is a group with
// anything in it that is not understood.

#include "lvm.h"

#include "lvm_label.h"
#include "lvm_thin.h"

#define SECTOR 512
#define STRIPES_MAX 128
#define GROUP_NODES_MAX 300000 // of all groups together: a bound of memory
#define MEMBERS_MAX 4096       // logical or physical volumes of a group: a bound of time

struct group {
    char id[LVM_UUID_LEN + 8]; // with the dashes of the text
    const char *name;          // in text
    uint64_t seqno, extent;    // extent: bytes
    struct lvm_text text;
    const struct lvm_node *root, *pvs, *lvs; // in text
};

// A physical volume of a group, as the group sees it.
struct place {
    const char *name; // "pv0"
    size_t pv;        // index of the lvm_pv, SIZE_MAX: it is not there
    uint64_t start, n_extents;
};

struct reader {
    struct disk *const *disks;
    const struct lvm_pv *pvs;
    size_t n_pvs, n_nodes;
    struct lvm_label *labels; // one a PV
    VEC(struct group) groups;
    struct lvm *l;
    // Of the group at work:
    const struct group *g;
    VEC(struct place) places;
    struct strings referenced; // logical volumes that others are made of
};

static void reader_done(struct reader *r)
{
    for (size_t i = 0; i < r->groups.n; i++)
        lvm_text_done(&r->groups.v[i].text);
    vec_done(&r->groups);
    for (size_t i = 0; r->labels && i < r->n_pvs; i++)
        extents_done(&r->labels[i].own);
    free(r->labels);
    vec_done(&r->places);
    strings_done(&r->referenced);
}

static void auto_reader_done(struct reader *r)
{
    reader_done(r);
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

static void pv_whole(struct reader *r, size_t pv, const char *reason)
{
    if (!r->l->pv_whole_because[pv])
        r->l->pv_whole_because[pv] = xstrdup(reason);
}

// All of the group's physical volumes that are there.
static void group_whole(struct reader *r, const char *reason)
{
    for (size_t i = 0; i < r->places.n; i++)
        if (r->places.v[i].pv != SIZE_MAX)
            pv_whole(r, r->places.v[i].pv, reason);
}

// --- groups
// -----------------------------------------------------------------------------

// Keeps a group's metadata if it is the newest so far.
static int group_seen(void *context, struct lvm_text *text, struct err *e)
{
    (void)e;
    struct reader *r = context;
    struct group g = {0};
    const struct lvm_node *n = lvm_first(text, text->nodes.v);
    while (n && (n->kind != LVM_SECTION || !lvm_string(text, n, "id")))
        n = lvm_next(text, n);
    const char *id = n ? lvm_string(text, n, "id") : NULL;
    if (!id || strlen(id) >= sizeof(g.id) ||
        !lvm_number(text, n, "seqno", INT64_MAX, &g.seqno) ||
        !lvm_number(text, n, "extent_size", INT64_MAX / SECTOR, &g.extent) || !g.extent)
        return 0;
    memcpy(g.id, id, strlen(id));
    size_t i = 0;
    while (i < r->groups.n && strcmp(r->groups.v[i].id, g.id) != 0)
        i++;
    if (i < r->groups.n && r->groups.v[i].seqno >= g.seqno)
        return 0;
    r->n_nodes += text->nodes.n;
    if (r->n_nodes > GROUP_NODES_MAX)
        return 0; // its physical volumes will belong to no group, and count as used
    g.extent *= SECTOR;
    g.root = n;
    g.name = n->name;
    g.pvs = lvm_member(text, n, "physical_volumes");
    g.lvs = lvm_member(text, n, "logical_volumes");
    g.text = *text;
    *text = (struct lvm_text){0};
    if (i == r->groups.n) {
        vec_push(&r->groups, g);
        return 0;
    }
    r->n_nodes -= r->groups.v[i].text.nodes.n;
    lvm_text_done(&r->groups.v[i].text);
    r->groups.v[i] = g;
    return 0;
}

// "bXOT8O-wNrh-…" is "bXOT8OwNrh…" on the label.
static bool same_uuid(const char *with_dashes, const char *uuid)
{
    for (; *with_dashes; with_dashes++)
        if (*with_dashes != '-' && *with_dashes != *uuid++)
            return false;
    return *uuid == 0;
}

static size_t pv_by_uuid(struct reader *r, const char *uuid, bool *ret_twice)
{
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < r->n_pvs; i++) {
        if (!r->labels[i].uuid[0] || !same_uuid(uuid, r->labels[i].uuid))
            continue;
        *ret_twice = found != SIZE_MAX;
        found = i;
    }
    return found;
}

static void use(struct reader *r, size_t pv, uint64_t off, uint64_t len)
{
    struct lvm_range range = {r->pvs[pv].disk, r->pvs[pv].off + off, len};
    vec_push(&r->l->used, range);
}

// Finds the group's physical volumes; false when one cannot be as the group says.
static bool place_pvs(struct reader *r, bool *claimed)
{
    bool good = true, twice = false;
    for (const struct lvm_node *n = lvm_first(&r->g->text, r->g->pvs); n;
         n = lvm_next(&r->g->text, n)) {
        const char *uuid = lvm_string(&r->g->text, n, "id");
        struct place p = {.name = n->name, .pv = SIZE_MAX};
        if (n->kind != LVM_SECTION || !uuid ||
            !lvm_number(&r->g->text, n, "pe_start", INT64_MAX / SECTOR, &p.start) ||
            !lvm_number(&r->g->text, n, "pe_count", UINT32_MAX, &p.n_extents)) {
            good = false;
            continue;
        }
        p.start *= SECTOR;
        p.pv = pv_by_uuid(r, uuid, &twice);
        vec_push(&r->places, p);
        if (p.pv == SIZE_MAX)
            continue;
        uint64_t len = r->pvs[p.pv].len;
        good = good && !twice && !claimed[p.pv] && p.start <= len &&
               p.n_extents <= (len - p.start) / r->g->extent;
        claimed[p.pv] = true;
    }
    return good;
}

static const struct place *place_named(struct reader *r, const char *name)
{
    for (size_t i = 0; i < r->places.n; i++)
        if (strcmp(r->places.v[i].name, name) == 0)
            return &r->places.v[i];
    return NULL;
}

// --- segments
// ---------------------------------------------------------------------------

// Types that are made of other logical volumes and lie on no physical volume themselves.
static const char *const stacked_types[] = {
    "snapshot",  "mirror",     "raid",     "thin", "thin-pool",
    "cache",     "cache-pool", "error",    "zero", "writecache",
    "integrity", "vdo",        "vdo-pool",
};

static bool is_stacked(const char *type)
{
    if (str_starts(type, "raid"))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(stacked_types); i++)
        if (strcmp(type, stacked_types[i]) == 0)
            return true;
    return false;
}

static bool is_striped(const char *type)
{
    return strcmp(type, "striped") == 0 || strcmp(type, "linear") == 0;
}

static bool is_segment(const struct lvm_node *n)
{
    return n->kind == LVM_SECTION && str_starts(n->name, "segment");
}

// Remembers which logical volumes a stacked segment names; false when it names a physical
// one: then it is not as we know it.
static bool note_names(struct reader *r, const struct lvm_node *of)
{
    const struct lvm_text *t = &r->g->text;
    for (const struct lvm_node *n = lvm_first(t, of); n; n = lvm_next(t, n)) {
        if (n->kind == LVM_STRING && place_named(r, n->string))
            return false;
        if (n->kind == LVM_STRING && lvm_member(t, r->g->lvs, n->string) &&
            !strings_have(&r->referenced, n->string))
            strings_add(&r->referenced, n->string);
        if ((n->kind == LVM_ARRAY || n->kind == LVM_SECTION) && !note_names(r, n))
            return false;
    }
    return true;
}

static bool note_references(struct reader *r)
{
    const struct lvm_text *t = &r->g->text;
    size_t n_lvs = 0;
    for (const struct lvm_node *n = lvm_first(t, r->g->lvs); n; n = lvm_next(t, n))
        n_lvs++;
    if (n_lvs > MEMBERS_MAX || r->places.n > MEMBERS_MAX)
        return false;
    for (const struct lvm_node *lv = lvm_first(t, r->g->lvs); lv; lv = lvm_next(t, lv)) {
        if (lv->kind != LVM_SECTION)
            return false;
        for (const struct lvm_node *n = lvm_first(t, lv); n; n = lvm_next(t, n)) {
            const char *type = is_segment(n) ? lvm_string(t, n, "type") : "striped";
            if (!type || (!is_striped(type) && (!is_stacked(type) || !note_names(r, n))))
                return false;
        }
    }
    return true;
}

enum found { FOUND_ALL, FOUND_PART, FOUND_NONSENSE };

// Where a striped segment lies. What is there of one whose physical volumes are not all
// there goes to r->l->used when `keep`. FOUND_PART also for a segment on other logical
// volumes.
static enum found segment_areas(struct reader *r, const struct lvm_node *segment,
                                struct span_area *areas, size_t *ret_n, uint64_t *ret_len,
                                bool keep)
{
    const struct lvm_text *t = &r->g->text;
    uint64_t n_extents, n = 1;
    enum found found = FOUND_ALL;
    const struct lvm_node *name = lvm_first(t, lvm_member(t, segment, "stripes"));
    if (!lvm_number(t, segment, "extent_count", UINT32_MAX, &n_extents) || !n_extents ||
        !lvm_number(t, segment, "stripe_count", STRIPES_MAX, &n) || n == 0 ||
        n_extents % n)
        return FOUND_NONSENSE;
    for (size_t i = 0; i < n; i++) {
        const struct lvm_node *at = lvm_next(t, name);
        if (!at || name->kind != LVM_STRING || at->kind != LVM_NUMBER || at->number < 0)
            return FOUND_NONSENSE;
        const struct place *p = place_named(r, name->string);
        uint64_t first = (uint64_t)at->number, count = n_extents / n;
        if (p && (first > p->n_extents || count > p->n_extents - first))
            return FOUND_NONSENSE;
        if (!p && !lvm_member(t, r->g->lvs, name->string))
            return FOUND_NONSENSE;
        if (!p || p->pv == SIZE_MAX) {
            found = FOUND_PART;
        } else {
            uint64_t off = p->start + first * r->g->extent;
            areas[i] = (struct span_area){r->pvs[p->pv].disk, r->pvs[p->pv].off + off};
            if (keep)
                use(r, p->pv, off, count * r->g->extent);
        }
        name = lvm_next(t, at);
    }
    *ret_n = n;
    return __builtin_mul_overflow(n_extents, r->g->extent, ret_len) ? FOUND_NONSENSE
                                                                    : found;
}

// The stripe size in bytes; 0 when it is nonsense.
static uint64_t stripe_of(struct reader *r, const struct lvm_node *segment)
{
    uint64_t sectors = 0;
    if (!lvm_number(&r->g->text, segment, "stripe_size", UINT32_MAX, &sectors))
        return 0;
    uint64_t stripe = sectors * SECTOR;
    return stripe && r->g->extent % stripe == 0 ? stripe : 0;
}

// --- logical volumes
// --------------------------------------------------------------------

struct shape {
    uint64_t len;
    bool direct;      // all of it lies on physical volumes that are there
    const char *type; // of its first segment
};

// Adds the segments to `span`, or (NULL) what is there of them to what is in use. false:
// nonsense.
static bool lv_segments(struct reader *r, const struct lvm_node *lv, struct span *span,
                        bool keep, struct shape *ret)
{
    const struct lvm_text *t = &r->g->text;
    struct shape s = {.direct = true};
    uint64_t n_extents = 0;
    for (const struct lvm_node *n = lvm_first(t, lv); n; n = lvm_next(t, n)) {
        struct span_area areas[STRIPES_MAX];
        uint64_t start, count, len = 0;
        size_t n_areas = 0;
        if (!is_segment(n))
            continue;
        const char *type = lvm_string(t, n, "type");
        if (!type || !lvm_number(t, n, "start_extent", UINT32_MAX, &start) ||
            !lvm_number(t, n, "extent_count", UINT32_MAX, &count) || start != n_extents)
            return false;
        s.type = s.type ? s.type : type;
        n_extents += count;
        if (!is_striped(type)) {
            s.direct = false;
            continue;
        }
        enum found found = segment_areas(r, n, areas, &n_areas, &len, keep);
        uint64_t stripe = n_areas > 1 ? stripe_of(r, n) : r->g->extent;
        if (found == FOUND_NONSENSE || !stripe)
            return false;
        s.direct = s.direct && found == FOUND_ALL;
        if (span)
            span_add(span, len, stripe, areas, n_areas);
    }
    if (!s.type || __builtin_mul_overflow(n_extents, r->g->extent, &s.len) ||
        s.len > INT64_MAX)
        return false;
    *ret = s;
    return true;
}

static struct span *lv_span(struct reader *r, const struct lvm_node *lv)
{
    AUTO(str_free) char *name = xasprintf("%s/%s", r->g->name, lv->name);
    struct span *span = span_new(r->disks, name);
    struct shape shape;
    (void)lv_segments(r, lv, span, false, &shape); // read before, and found to be good
    return span;
}

static bool lv_direct(struct reader *r, const struct lvm_node *lv)
{
    struct shape shape;
    return lv && lv_segments(r, lv, NULL, false, &shape) && shape.direct;
}

// If `lv` is the data of a thin pool: what the pool maps of it. *ret_part stays NULL when
// it is not; *ret_why says why nothing could be learnt.
static int thin_part(struct reader *r, const struct lvm_node *lv, uint64_t len,
                     struct extents **ret_part, char **ret_why, struct err *e)
{
    const struct lvm_text *t = &r->g->text;
    const struct lvm_node *pool = lvm_first(t, r->g->lvs), *segment = NULL;
    for (; pool; pool = lvm_next(t, pool)) {
        segment = lvm_member(t, pool, "segment1");
        const char *type = lvm_string(t, segment, "type");
        const char *data = lvm_string(t, segment, "pool");
        if (type && data && strcmp(type, "thin-pool") == 0 && strcmp(data, lv->name) == 0)
            break;
    }
    const char *name = pool ? lvm_string(t, segment, "metadata") : NULL;
    const struct lvm_node *meta = name ? lvm_member(t, r->g->lvs, name) : NULL;
    uint64_t chunk = 0;
    if (!lv_direct(r, meta) || !lvm_number(t, segment, "chunk_size", UINT32_MAX, &chunk))
        return 0;
    AUTO(span_close) struct span *span = lv_span(r, meta);
    AUTO(extents_done) struct extents used = {0};
    struct err why = {0};
    if (lvm_thin_used(span_disk(span), chunk * SECTOR, len, &used, &why)) {
        *e = why;
        *ret_why = xstrdup(why.text);
        return why.code == ERR_REFUSED ? 0 : -1;
    }
    *ret_part = xcalloc(1, sizeof(**ret_part));
    **ret_part = used;
    used = (struct extents){0};
    return 0;
}

static const char *why_whole(struct reader *r, const struct lvm_node *lv,
                             const struct shape *shape)
{
    if (!is_striped(shape->type))
        return strcmp(shape->type, "thin") == 0
                   ? "a thin volume: what it maps is counted in its pool"
                   : "it is made of other logical volumes";
    if (!shape->direct)
        return "some of its physical volumes are not there, or are being moved";
    if (strings_have(&r->referenced, lv->name))
        return "it is a part of another logical volume, or has a snapshot";
    return lvm_has(&r->g->text, lv, "status", "VISIBLE") ? NULL : "it is hidden";
}

static int read_lv(struct reader *r, const struct lvm_node *lv, size_t first_pv,
                   struct err *e)
{
    struct shape shape;
    if (!lv_segments(r, lv, NULL, false, &shape)) {
        group_whole(r, "its volume group's metadata makes no sense");
        return 0;
    }
    const char *uuid = lvm_string(&r->g->text, lv, "id"), *why = why_whole(r, lv, &shape);
    struct lvm_lv found = {.name = xasprintf("%s/%s", r->g->name, lv->name),
                           .uuid = uuid ? xstrdup(uuid) : NULL,
                           .pv = first_pv,
                           .len = shape.len};
    int result = 0;
    if (shape.direct) {
        found.span = lv_span(r, lv);
        result = thin_part(r, lv, shape.len, &found.part, &found.whole_because, e);
        if (why && !found.part && !found.whole_because)
            found.whole_because = xstrdup(why);
    } else {
        (void)lv_segments(r, lv, NULL, true, &shape);
        found.whole_because = xstrdup(why);
    }
    vec_push(&r->l->lvs, found);
    return result;
}

static int read_group(struct reader *r, bool *claimed, struct err *e)
{
    const struct lvm_text *t = &r->g->text;
    bool good = place_pvs(r, claimed);
    size_t first_pv = SIZE_MAX;
    for (size_t i = 0; i < r->places.n; i++)
        if (first_pv == SIZE_MAX)
            first_pv = r->places.v[i].pv;
    if (first_pv == SIZE_MAX)
        return 0;
    if (!good || !note_references(r)) {
        group_whole(r, "its volume group has parts that are not understood");
        return 0;
    }
    for (size_t i = 0; i < r->places.n; i++) {
        const struct place *p = &r->places.v[i];
        uint64_t end = p->start + p->n_extents * r->g->extent;
        if (p->pv == SIZE_MAX)
            continue;
        use(r, p->pv, 0, p->start);
        use(r, p->pv, end, r->pvs[p->pv].len - end);
    }
    for (const struct lvm_node *lv = lvm_first(t, r->g->lvs); lv; lv = lvm_next(t, lv))
        if (read_lv(r, lv, first_pv, e))
            return -1;
    return 0;
}

static int read_labels(struct reader *r, struct err *e)
{
    r->labels = xcalloc(r->n_pvs, sizeof(*r->labels));
    for (size_t i = 0; i < r->n_pvs; i++) {
        const struct lvm_pv *pv = &r->pvs[i];
        AUTO(span_close) struct span *span = span_new(r->disks, r->disks[pv->disk]->name);
        struct span_area area = {pv->disk, pv->off};
        struct err why = {0};
        if (pv->len)
            span_add(span, pv->len, 0, &area, 1);
        if (lvm_label_read(span_disk(span), &r->labels[i], group_seen, r, &why) == 0) {
            for (size_t k = 0; k < r->labels[i].own.n; k++)
                use(r, i, r->labels[i].own.v[k].off, r->labels[i].own.v[k].len);
        } else if (why.code == ERR_REFUSED) {
            pv_whole(r, i, why.text);
        } else {
            *e = why;
            return -1;
        }
    }
    return 0;
}

int lvm_read(struct disk *const *disks, const struct lvm_pv *pvs, size_t n_pvs,
             struct lvm *ret, struct err *e)
{
    AUTO(lvm_done) struct lvm l = {.n_pvs = n_pvs};
    AUTO(reader_done)
    struct reader r = {.disks = disks, .pvs = pvs, .n_pvs = n_pvs, .l = &l};
    AUTO(free) void *memory = xcalloc(n_pvs, sizeof(bool));
    bool *claimed = memory;
    l.pv_whole_because = xcalloc(n_pvs, sizeof(char *));
    if (read_labels(&r, e))
        return -1;
    for (size_t i = 0; i < r.groups.n; i++) {
        r.g = &r.groups.v[i];
        r.places.n = 0;
        strings_done(&r.referenced);
        r.referenced = (struct strings){0};
        if (read_group(&r, claimed, e))
            return -1;
    }
    for (size_t i = 0; i < n_pvs; i++)
        if (!claimed[i])
            pv_whole(&r, i, "it belongs to no volume group that was found");
    *ret = l;
    l = (struct lvm){0};
    return 0;
}
