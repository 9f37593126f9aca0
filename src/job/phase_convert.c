// SPDX-License-Identifier: Apache-2.0
// convert: an overlay over every replica, changed inside the appliance; the replicas stay
// as they were, and a failed conversion costs the overlays only. The overlay carries the
// digest of its replica: it is valid for nothing else. flatten: one file a disk, where
// --format asks for it.
#include "job/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int remove_overlays(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const char *path = j->place.disks[i].overlay;
        if (file_remove(path, e))
            return -1;
        json_object_del(job_disk(j, i), "converted");
    }
    return 0;
}

int phase_convert_undo(struct job *j, struct err *e)
{
    return remove_overlays(j, e);
}

int overlays_unused(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const char *path = j->place.disks[i].overlay;
        AUTO(fd_close) int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
            return err_errno(e, errno, "opening %s", path);
        if (fd >= 0 && disk_lock(fd, path, true, e))
            return err_wrap(e, "%s has to be off", j->row.name);
    }
    return 0;
}

static void set_final(struct job *j, size_t i, const char *path, const char *format)
{
    struct cloud_disk *d = &j->place.disks[i];
    char *final = xstrdup(path), *final_format = xstrdup(format); // may be d's own
    free(d->final);
    free(d->final_format);
    d->final = final;
    d->final_format = final_format;
    json_t *disk = job_disk(j, i);
    json_object_set_new(disk, "final", json_string(final));
    json_object_set_new(disk, "final_format", json_string(final_format));
}

// What the description left out. A guest that boots by UEFI alone cannot be started by a
// BIOS.
static void learn_machine(struct job *j, const json_t *guest)
{
    bool uefi = json_is_true(json_object_get(guest, "uefi"));
    bool bios = json_is_true(json_object_get(guest, "bios"));
    if (!j->machine->firmware_known)
        j->machine->firmware = uefi && !bios ? FIRMWARE_UEFI : FIRMWARE_BIOS;
    helper_learn_macs(j->machine, guest);
    json_t *machine = NULL;
    struct err e;
    // The machine was written by machine_json before; this does not change that.
    if (!machine_json(j->machine, &machine, &e))
        json_object_set_new(j->row.report, "machine", machine);
}

// What was written there is durable before the row says that it is there.
static int make_durable(const char *path, struct err *e)
{
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return err_errno(e, errno, "flushing %s", path);
    return 0;
}

static int make_overlays(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const struct cloud_disk *d = &j->place.disks[i];
        if (overlay_create(d->overlay, d->replica, "raw", 0, e))
            return -1;
    }
    return 0;
}

// On the overlays, or on the replicas with what is written thrown away.
static int call_convert(struct job *j, bool on_overlays, bool *asked, json_t **ret,
                        struct err *e)
{
    size_t n = j->place.n_disks;
    AUTO(free) void *disk_memory = xcalloc(n, sizeof(struct vm_disk));
    AUTO(free) void *serial_memory = xcalloc(n, 24);
    struct vm_disk *disks = disk_memory;
    char(*serials)[24] = serial_memory;
    for (size_t i = 0; i < n; i++) {
        const struct cloud_disk *d = &j->place.disks[i];
        snprintf(serials[i], sizeof(serials[i]), "gw%zu", i);
        disks[i] = (struct vm_disk){.path = on_overlays ? d->overlay : d->replica,
                                    .format = on_overlays ? "qcow2" : "raw",
                                    .serial = serials[i],
                                    .discard_writes = !on_overlays};
    }
    struct helper_request request = {.call = "convert",
                                     .disks = disks,
                                     .n_disks = n,
                                     .machine = j->machine,
                                     .luks_key_files = &j->request.luks_key_files,
                                     .root = j->request.root,
                                     .asked = asked};
    return helper_call(j->appliance, &request, ret, e);
}

int convert_rehearse(struct job *j, uint64_t *ret_ms, bool *ret_asked, struct err *e)
{
    AUTO(json_free) json_t *reply = NULL;
    *ret_asked = false;
    if (appliance_wait(j->appliance, e))
        return -1;
    uint64_t start = clock_ms();
    if (call_convert(j, false, ret_asked, &reply, e))
        return -1;
    *ret_ms = clock_ms() - start;
    return 0;
}

static int convert(struct job *j, struct err *e)
{
    struct helper_options helper = job_helper_options(j);
    AUTO(json_free) json_t *reply = NULL;
    if (remove_overlays(j, e) || make_overlays(j, e) ||
        (!j->appliance && helper_begin(&helper, &j->appliance, e)) ||
        call_convert(j, true, NULL, &reply, e))
        return -1;
    json_t *guest = json_object_get(reply, "facts");
    if (guest)
        json_object_set(j->row.report, "guest", guest);
    json_object_set(j->row.report, "fixes", json_object_get(reply, "fixes"));
    json_decref(j->machine->guest);
    j->machine->guest = json_incref(guest);
    learn_machine(j, guest);
    for (size_t i = 0; i < j->place.n_disks; i++) {
        if (make_durable(j->place.disks[i].overlay, e))
            return -1;
        json_object_set(job_disk(j, i), "converted",
                        json_object_get(job_disk(j, i), "digest"));
        set_final(j, i, j->place.disks[i].overlay, "qcow2");
    }
    return 0;
}

int phase_convert(struct job *j, struct err *e)
{
    if (j->request.no_convert) {
        for (size_t i = 0; i < j->place.n_disks; i++)
            set_final(j, i, j->place.disks[i].replica, "raw");
        return 0;
    }
    if (!convert(j, e))
        return 0;
    struct err ignored; // the conversion's error is the one to tell
    (void)remove_overlays(j, &ignored);
    return -1;
}

// --- flatten

// raw: the overlay goes into the replica. A run that was killed in between finds the
// overlay gone, which only the finished commit does.
static int flatten_raw(struct job *j, size_t i, struct err *e)
{
    const struct cloud_disk *d = &j->place.disks[i];
    if ((!access(d->overlay, F_OK) && overlay_commit(d->overlay, e)) ||
        file_remove(d->map, e))
        return -1;
    set_final(j, i, d->replica, "raw");
    return job_save(j, e);
}

// qcow2: one new file beside, which takes the overlay's name before the replica goes. As
// long as the replica is there the step can be repeated from either name.
static int flatten_qcow2(struct job *j, size_t i, struct err *e)
{
    const struct cloud_disk *d = &j->place.disks[i];
    AUTO(str_free) char *part = xasprintf("%s.part", d->overlay);
    json_t *disk = job_disk(j, i);
    if (!json_is_true(json_object_get(disk, "flattened"))) {
        if (file_remove(part, e) ||
            image_flatten(d->final, d->final_format, part, "qcow2", e) ||
            make_durable(part, e))
            return -1;
        json_object_set_new(disk, "flattened", json_true());
        if (job_save(j, e))
            return -1;
    }
    if (!access(part, F_OK) && rename(part, d->overlay))
        return err_errno(e, errno, "renaming %s", part);
    if (file_remove(d->replica, e) || file_remove(d->map, e))
        return -1;
    set_final(j, i, d->overlay, "qcow2");
    return job_save(j, e);
}

int phase_flatten(struct job *j, struct err *e)
{
    if (!j->request.format)
        return 0;
    bool raw = strcmp(j->request.format, "raw") == 0;
    for (size_t i = 0; i < j->place.n_disks; i++) {
        if (raw ? flatten_raw(j, i, e) : flatten_qcow2(j, i, e))
            return -1;
    }
    return 0;
}
