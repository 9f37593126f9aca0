// SPDX-License-Identifier: Apache-2.0
// What is read: a machine and its disks, each opened as the image it is. Nothing here
// writes to a source.
#include "job/job.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

// qcow2, "backing_file_size": at most 1023 bytes.
#define BACKING_NAME_MAX 1023

// The disks of `from` are moved behind those of `to`.
static void take_disks(struct machine *to, struct machine *from)
{
    to->disks = xrealloc(to->disks, (to->n_disks + from->n_disks) * sizeof(*to->disks));
    for (size_t i = 0; i < from->n_disks; i++) {
        from->disks[i].boot = false; // the first image named is the one to boot
        to->disks[to->n_disks++] = from->disks[i];
    }
    from->n_disks = 0;
}

static int read_one(const char *word, const struct source_options *options,
                    struct machine **ret, bool *ret_runs, struct err *e)
{
    if (!cloud_find(word))
        return machine_read(
            &(struct machine_options){.path = word,
                                      .allow_any_path = options->allow_any_path,
                                      .name = options->name},
            ret, e);
    AUTO(cloud_close) struct cloud *c = NULL;
    if (cloud_open(word, options->state_dir, &c, e))
        return -1;
    if (!c->ops->describe)
        return err_set(e, ERR_USAGE, "%s cannot be a source", word);
    *ret_runs = c->ops->arm != NULL;
    return c->ops->describe(c, ret, e);
}

int source_describe(const struct source_options *options, struct source *ret,
                    struct err *e)
{
    AUTO(machine_free) struct machine *m = NULL;
    bool runs = false;
    if (options->name && machine_check_name(options->name, e))
        return -1;
    for (size_t i = 0; i < options->words->n; i++) {
        AUTO(machine_free) struct machine *next = NULL;
        if (read_one(options->words->v[i], options, &next, &runs, e))
            return -1;
        if (!m)
            m = steal(next);
        else
            take_disks(m, next);
    }
    if (!m || m->n_disks == 0)
        return err_set(e, ERR_REFUSED, "%s has no disk",
                       m ? options->words->v[0] : "the source");
    if (runs && options->words->n > 1)
        return err_set(e, ERR_USAGE, "a server that runs comes alone");
    if (m->running_as && !runs)
        return err_set(e, ERR_REFUSED,
                       "%s is running: shut it down first, its disks are in use",
                       options->words->v[0]);
    if (m->arch && strcmp(m->arch, "x86_64") != 0)
        return err_set(e, ERR_REFUSED, "%s is a machine for %s, only x86_64 is known",
                       options->words->v[0], m->arch);
    *ret = (struct source){.machine = steal(m), .runs = runs};
    return 0;
}

static char *identity_of(const struct image_info *info, const char *snapshot,
                         const struct machine_disk *d, struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(4 * MIB);
    for (size_t i = 0; i < info->files.n; i++) {
        struct stat st;
        if (stat(info->files.v[i], &st)) {
            err_errno(e, errno, "looking at %s", info->files.v[i]);
            return NULL;
        }
        buf_printf(&text, "%s size %lld inode %llu changed %lld.%09ld; ",
                   info->files.v[i], (long long)st.st_size, (unsigned long long)st.st_ino,
                   (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    }
    buf_printf(&text, "as %s", info->format);
    if (snapshot)
        buf_printf(&text, " snapshot %s", snapshot);
    if (d->part_len)
        buf_printf(&text, " part %llu+%llu", (unsigned long long)d->part_off,
                   (unsigned long long)d->part_len);
    return buf_steal(&text);
}

static int open_disk(const struct machine_disk *d, const struct source_options *options,
                     struct source_disk *ret, struct err *e)
{
    struct image_options image = {
        .path = d->path,
        .format = options->format ? options->format : d->format,
        .snapshot = options->snapshot,
        .allow_any_path = options->allow_any_path,
        .part_off = d->part_off,
        .part_len = d->part_len,
    };
    if (image_info(&image, &ret->info, e))
        return -1;
    // Stated before reading: a change while we read makes the next run begin anew.
    ret->identity = identity_of(&ret->info, options->snapshot, d, e);
    if (!ret->identity)
        return -1;
    return image_open(&image, &ret->disk, e);
}

int source_open(struct source *s, const struct source_options *options, struct err *e)
{
    const struct machine *m = s->machine;
    if (s->runs)
        return err_set(e, ERR_REFUSED,
                       "%s is a server that runs: `godwit migrate` copies its disks",
                       options->words->v[0]);
    s->disks = xcalloc(m->n_disks, sizeof(*s->disks));
    s->n_disks = m->n_disks;
    for (size_t i = 0; i < m->n_disks; i++) {
        if (open_disk(&m->disks[i], options, &s->disks[i], e))
            return -1;
    }
    return 0;
}

void source_done(struct source *s)
{
    for (size_t i = 0; i < s->n_disks; i++) {
        disk_close(s->disks[i].disk);
        image_info_done(&s->disks[i].info);
        free(s->disks[i].identity);
    }
    free(s->disks);
    machine_free(s->machine);
    *s = (struct source){0};
}

int source_allocation(const struct source *s, struct allocation *ret, struct err *e)
{
    AUTO(free) void *memory = xcalloc(s->n_disks, sizeof(struct disk *));
    struct disk **disks = memory;
    for (size_t i = 0; i < s->n_disks; i++)
        disks[i] = s->disks[i].disk;
    return allocation_read(disks, s->n_disks, NULL, ret, e);
}

int source_vm_disks(const struct source *s, struct vm_disk **ret, struct err *e)
{
    static const char *const serials[] = {"gw0",  "gw1",  "gw2",  "gw3", "gw4",  "gw5",
                                          "gw6",  "gw7",  "gw8",  "gw9", "gw10", "gw11",
                                          "gw12", "gw13", "gw14", "gw15"};
    if (s->n_disks > ARRAY_LEN(serials))
        return err_set(e, ERR_REFUSED, "more than %zu disks", ARRAY_LEN(serials));
    AUTO(free) void *memory = xcalloc(s->n_disks, sizeof(struct vm_disk));
    struct vm_disk *list = memory;
    for (size_t i = 0; i < s->n_disks; i++) {
        const struct machine_disk *d = &s->machine->disks[i];
        const char *image = s->disks[i].info.qemu_name;
        if (d->part_len && strlen(image) > BACKING_NAME_MAX)
            return err_set(e, ERR_REFUSED,
                           "disk %zu lies inside %s, whose path is too long for QEMU: "
                           "move the file, or unpack it",
                           i, d->path);
        list[i] = (struct vm_disk){.path = d->path,
                                   .image = d->part_len ? image : NULL,
                                   .format = s->disks[i].info.format,
                                   .serial = serials[i],
                                   .discard_writes = true};
    }
    *ret = list;
    memory = NULL;
    return 0;
}

// --- what cannot be migrated, seen without looking into a file system

static bool is_one_of(const char *content, const char *const *list)
{
    for (; content && *list; list++) {
        if (strcmp(content, *list) == 0)
            return true;
    }
    return false;
}

static int check_volume(const struct volume *v, bool have_luks_key, struct err *e)
{
    if (v->whole_because && strstr(v->whole_because, "hibernat"))
        return err_set(e, ERR_REFUSED,
                       "disk %u, %s %s: %s; start the machine, shut it down fully and "
                       "try again",
                       v->disk, v->kind, v->name, v->whole_because);
    if (!v->content)
        return 0;
    if (strcmp(v->content, "swsuspend") == 0)
        return err_set(e, ERR_REFUSED,
                       "disk %u, %s %s holds a hibernated system; start the machine, "
                       "shut it down fully and try again",
                       v->disk, v->kind, v->name);
    if (strcmp(v->content, "BitLocker") == 0)
        return err_set(e, ERR_REFUSED,
                       "disk %u, %s %s is encrypted with BitLocker; switch it off in the "
                       "guest first",
                       v->disk, v->kind, v->name);
    if (strcmp(v->content, "crypto_LUKS") == 0 && !have_luks_key)
        return err_set(e, ERR_REFUSED,
                       "disk %u, %s %s is encrypted (LUKS %s); give --luks-key FILE",
                       v->disk, v->kind, v->name, v->uuid ? v->uuid : "without UUID");
    return 0;
}

int source_check(const struct source *s, const struct allocation *a, bool have_luks_key,
                 struct err *e)
{
    static const char *const can_hold_root[] = {"ext2",
                                                "ext3",
                                                "ext4",
                                                "xfs",
                                                "btrfs",
                                                "LVM2_member",
                                                "crypto_LUKS",
                                                "jfs",
                                                "f2fs",
                                                "reiserfs",
                                                "linux_raid_member",
                                                NULL};
    for (size_t i = 0; i < s->n_disks; i++) {
        if (s->disks[i].disk->sector_size == 4096 ||
            s->machine->disks[i].sector_size == 4096)
            return err_set(e, ERR_REFUSED,
                           "disk %zu (%s) has sectors of 4096 bytes: the target's have "
                           "512, its partition table would not be found",
                           i, s->disks[i].disk->name);
    }
    bool root = false, windows = false;
    for (size_t i = 0; i < a->volumes.n; i++) {
        const struct volume *v = &a->volumes.v[i];
        if (v->table_sector == 4096)
            return err_set(e, ERR_REFUSED,
                           "disk %u (%s) was partitioned with sectors of 4096 bytes: the "
                           "target's have 512, its partition table would not be found",
                           v->disk, v->name);
        if (check_volume(v, have_luks_key, e))
            return -1;
        root |= is_one_of(v->content, can_hold_root);
        windows |= v->content && strcmp(v->content, "ntfs") == 0;
    }
    if (!root && windows)
        return err_set(e, ERR_REFUSED,
                       "%s holds Windows file systems only: this godwit converts Linux",
                       s->disks[0].disk->name);
    if (!root)
        return err_set(e, ERR_REFUSED,
                       "there is no operating system on %s: no file system that could "
                       "hold one (--no-convert moves the disks as they are)",
                       s->disks[0].disk->name);
    return 0;
}
