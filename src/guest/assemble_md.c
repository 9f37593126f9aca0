// SPDX-License-Identifier: Apache-2.0
// The guest's software RAID (md): each array whose members are among the guest's devices
// is started by mdadm from exactly those, under the first /dev/mdN that is free here;
// what the guest calls it is mdadm.c's matter. An array that lacks disks is started if it
// can be (a RAID 1 with one disk left is common).
//
// An array that was not shut down, as in a copy of a running server, has a resync due,
// and one with a spare a recovery. Neither is done here: it would write every block of
// the disks, take as long as that, and be cut off when the guest is closed. It stays due,
// and the guest does it. md begins it with the first write even to an array that was
// started "auto-read-only" (start_ro), so the array is started read-only, its syncs are
// frozen, then it is made writable. As long as one is due, RAID 1 and 10 read from the
// first disk, and RAID 5 and 6 compute a stripe's parity anew when they write to it.
#include "guest/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "guest/text.h"

#define MDADM_OUTPUT_MAX (64 * KIB)
#define NUMBERS_MAX 512

struct array {
    struct strings members; // nodes
    const char *uuid;       // of a device in g->devices
    char *node;             // "/dev/md0"
    char *line;             // ARRAY …, from a superblock
    char *name;             // "/dev/md/0", for messages
    char *level;            // "raid1"
    uint64_t n_disks;       // that it should have
};

static void array_done(struct array *r)
{
    strings_done(&r->members);
    free(r->node);
    free(r->line);
    free(r->name);
    free(r->level);
}

static void auto_array_done(struct array *r)
{
    array_done(r);
}

static bool same_array(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

// --- what a superblock says

static int examine(const char *node, char *how, struct buf *out, struct err *e)
{
    char *const argv[] = {"mdadm", "--examine", how, (char *)node, NULL};
    return assemble_run(argv, NULL, out, e);
}

static int read_superblock(struct array *r, struct err *e)
{
    AUTO(buf_done) struct buf line = BUF_INIT(MDADM_OUTPUT_MAX);
    AUTO(buf_done) struct buf facts = BUF_INIT(MDADM_OUTPUT_MAX);
    const char *node = r->members.v[0];
    if (examine(node, "--brief", &line, e) < 0 ||
        examine(node, "--export", &facts, e) < 0)
        return err_wrap(e, "read the superblock of a RAID member");
    struct span text = {facts.data, facts.len}, rest = {line.data, line.len}, word;
    AUTO(str_free) char *n_disks = text_assigned(text, "MD_DEVICES");
    r->level = text_assigned(text, "MD_LEVEL");
    if (!r->level || !n_disks || str_to_u64(n_disks, &r->n_disks) < 0 ||
        !text_word(&rest, &word) || !text_word(&rest, &word))
        return err_set(e, ERR_REFUSED, "%s says it belongs to a RAID, mdadm does not",
                       node);
    r->name = span_dup(word);
    r->line = buf_steal(&line);
    return 0;
}

// --- starting

static char *free_node(void)
{
    for (unsigned i = 0; i < NUMBERS_MAX; i++) {
        AUTO(str_free) char *path = xasprintf("/sys/block/md%u", i);
        if (access(path, F_OK) != 0)
            return xasprintf("/dev/md%u", i);
    }
    return NULL;
}

static int start(struct assembly *a, const struct array *r, struct err *e)
{
    static const char *const words[] = {"--config=none", "--run", "--readonly"};
    AUTO(strings_done) struct strings argv = {0};
    strings_add(&argv, "mdadm");
    strings_add(&argv, "--assemble");
    strings_add(&argv, r->node);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        strings_add(&argv, words[i]);
    for (size_t i = 0; i < r->members.n; i++) {
        AUTO(str_free) char *shadow = NULL;
        if (a->read_only && shadow_open(a, r->members.v[i], &shadow, e) < 0)
            return -1;
        strings_add(&argv, shadow ? shadow : r->members.v[i]);
    }
    // Also when it fails: mdadm may leave an array that is not started.
    assembly_undo_later(a, UNDO_MD, r->node);
    return assemble_run(argv.v, NULL, NULL, e);
}

static int make_writable(const struct array *r, struct err *e)
{
    static const char frozen[] = "frozen";
    AUTO(str_free)
    char *sync = xasprintf("/sys/block/%s/md/sync_action", path_base(r->node));
    // RAID 0 and its kin have nothing to sync.
    if (access(sync, W_OK) == 0) {
        AUTO(fd_close) int fd = open(sync, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || fd_write(fd, frozen, strlen(frozen)) < 0)
            return err_errno(e, errno, "freeze the syncs of %s", r->node);
    }
    char *const argv[] = {"mdadm", "--readwrite", r->node, NULL};
    return assemble_run(argv, NULL, NULL, e);
}

static int cannot_start(const struct array *r, const struct err *why, struct err *e)
{
    const char *uuid = r->uuid ? r->uuid : "?";
    if (r->members.n < r->n_disks)
        return err_set(e, ERR_REFUSED,
                       "the RAID array %s (%s, UUID=%s) cannot start with %zu of its "
                       "%llu disks: give all of them",
                       r->name, r->level, uuid, r->members.n,
                       (unsigned long long)r->n_disks);
    return err_set(e, ERR_REFUSED,
                   "the RAID array %s (%s, UUID=%s) cannot start: repair it in the guest "
                   "first (%s)",
                   r->name, r->level, uuid, why->text);
}

// A superblock at 4 KiB outlives a new partition table (an MBR) on its disk, and then
// belongs to nothing.
static bool may_be_left_over(const struct guest *g, const struct array *r)
{
    bool whole = strstr(r->line, "metadata=1.2") != NULL;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (strings_have(&r->members, d->node))
            whole &= !d->mapper && !d->partition;
    }
    return whole;
}

static int show_partitions(struct assembly *a, struct guest *g, const struct array *r,
                           bool *ret_any, struct err *e)
{
    size_t before = g->devices.n;
    for (size_t i = 0; i < before; i++) {
        unsigned disk = g->devices.v[i].disk;
        if (!strings_have(&r->members, g->devices.v[i].node))
            continue;
        AUTO(str_free) char *node = xstrdup(g->devices.v[i].node);
        if (probe_partitions(a, g, node, disk, NULL, e) < 0)
            return -1;
    }
    *ret_any = g->devices.n > before;
    return 0;
}

static int open_array(struct assembly *a, struct guest *g, struct array *r, struct err *e)
{
    struct err why = {0};
    bool other = false;
    size_t depth = a->undo.n;
    if (read_superblock(r, e) < 0)
        return -1;
    if (!(r->node = free_node()))
        return err_set(e, ERR_REFUSED, "more than %d RAID arrays", NUMBERS_MAX);
    if (start(a, r, &why) < 0) {
        struct err ignored; // there may be nothing to stop
        (void)assembly_undo(a, depth, &ignored);
        if (may_be_left_over(g, r) && show_partitions(a, g, r, &other, e) < 0)
            return -1;
        return other ? 0 : cannot_start(r, &why, e);
    }
    if (!a->read_only && make_writable(r, e) < 0)
        return err_wrap(e, "make the RAID array %s writable", r->name);
    return probe_array(a, g, r->node, r->line, e);
}

// --- all of them

// Arrays that firmware keeps, with its own metadata.
static int refuse_firmware(const struct guest_device *d, struct err *e)
{
    const char *what =
        guest_device_holds(d, "isw_raid_member")   ? "Intel's firmware RAID (IMSM)"
        : guest_device_holds(d, "ddf_raid_member") ? "a firmware RAID (DDF)"
                                                   : NULL;
    if (!what)
        return 0;
    return err_set(e, ERR_REFUSED,
                   "disk %u belongs to %s, which cannot be assembled here: move it to "
                   "mdadm's own metadata, or erase what is left of it with wipefs",
                   d->disk, what);
}

int md_assemble_all(struct assembly *a, struct guest *g, bool *ret_more, struct err *e)
{
    size_t n = g->devices.n; // those that this round adds are the next round's
    *ret_more = false;
    for (size_t i = 0; i < n; i++) {
        AUTO(array_done) struct array r = {.uuid = g->devices.v[i].uuid};
        if (refuse_firmware(&g->devices.v[i], e) < 0)
            return -1;
        for (size_t k = i; k < n; k++) {
            const struct guest_device *d = &g->devices.v[k];
            if (!guest_device_holds(d, "linux_raid_member") ||
                !same_array(d->uuid, r.uuid) || strings_have(&a->probed, d->node))
                continue;
            strings_add(&a->probed, d->node);
            strings_add(&r.members, d->node);
        }
        if (!r.members.n)
            continue;
        if (!*ret_more)
            assemble_load_module("md-mod"); // the kernel asks for the levels' itself
        if (open_array(a, g, &r, e) < 0)
            return -1;
        *ret_more = true;
    }
    return 0;
}

int md_stop(const char *node, struct err *e)
{
    char *const argv[] = {"mdadm", "--stop", (char *)node, NULL};
    return assemble_run(argv, NULL, NULL, e);
}
