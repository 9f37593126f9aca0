// SPDX-License-Identifier: Apache-2.0
// A qcow2 file that is being filled, by one qemu-nbd of ours: QEMU knows its format, we
// know what is zeros. What is never written stays an unallocated cluster.
//
// A kill at any moment, of the machine too, leaves a file that can be gone on with: QEMU
// writes a cluster's reference count before what refers to it (qcow2's specification,
// "Reference counting": at worst a cluster is leaked), and what was written before a
// flush is there after it. qcow2_mend() gives leaked clusters back.
#include "disk/image_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define CONNECTIONS 4 // eight were no faster
#define SECTOR 512    // QEMU's sizes are multiples of it

int qcow2_create(const char *path, uint64_t size, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    if (path_real(path, &real, e) < 0 || proc_have("qemu-img", "qemu-utils", e) < 0)
        return -1;
    // As private as a raw one: qemu-img keeps the mode of a file that is there.
    AUTO(fd_close) int fd = open(real, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, errno, "create %s", path);
    AUTO(str_free) char *bytes = xasprintf("%" PRIu64, round_up(size, SECTOR));
    char *argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", "--", real, bytes, NULL};
    if (proc_run(argv, NULL, e) == 0)
        return 0;
    (void)unlink(real); // half made
    return err_wrap(e, "create %s", path);
}

// Runs `qemu-img check`, which mends leaks only when asked.
static int check(const char *path, bool mend, json_t **ret, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    bool failed; // says no more than the numbers do
    if (path_real(path, &real, e) < 0)
        return -1;
    const char *argv[] = {
        "check", "--output=json", "-f", "qcow2", mend ? "--repair=leaks" : "--", real,
        NULL};
    if (image_tool_json(argv, ret, &failed, e) < 0)
        return e->code == ERR_CANCELLED ? -1 : err_wrap(e, "%s", path);
    return 0;
}

static json_int_t number(const json_t *said, const char *name)
{
    return json_integer_value(json_object_get(said, name));
}

// Looked at before anything is changed: what is damaged stays as it was found.
int qcow2_mend(const char *path, struct err *e)
{
    AUTO(json_free) json_t *said = NULL;
    AUTO(json_free) json_t *mended = NULL;
    if (check(path, false, &said, e) < 0)
        return -1;
    json_int_t bad = number(said, "corruptions") + number(said, "check-errors");
    if (bad == 0 && number(said, "leaks") > 0)
        return check(path, true, &mended, e);
    if (bad == 0)
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s is damaged (qemu-img check finds %" PRId64
                   " errors): remove it to begin anew",
                   path, (int64_t)bad);
}

// Does O_DIRECT work there? It does not on every file system.
static bool takes_direct(const char *path)
{
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    return fd >= 0;
}

// Nothing is opened because the file says so: no backing file.
static char *node_name(const char *path)
{
    AUTO(json_free)
    json_t *node = json_pack("{ss sn ss s{ss ss s{sb}}}", "driver", "qcow2", "backing",
                             "discard", "unmap", "file", "driver", "file", "filename",
                             path, "cache", "direct", (int)takes_direct(path));
    AUTO(str_free) char *text = json_text(node);
    return xasprintf("json:%s", text);
}

int qcow2_open(const char *path, bool writable, struct disk **ret, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    if (path_real(path, &real, e) < 0)
        return -1;
    AUTO(str_free) char *name = node_name(real);
    struct server_options options = {.name = name,
                                     .path = path,
                                     .writable = writable,
                                     .n_children = 1,
                                     .connections = CONNECTIONS};
    return image_server_open(&options, ret, e);
}
