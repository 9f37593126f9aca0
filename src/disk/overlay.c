// SPDX-License-Identifier: Apache-2.0
// qcow2 overlays over a replica, and flat copies of both, by qemu-img. The backing file
// is named relative to the overlay's folder when it lies there, so that the pair can be
// moved, and its format is always stated: QEMU must never guess the format of a disk that
// a guest has written.
#include "disk/image_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

// Nothing half-made stays behind when the tool failed.
static int run(char *const *argv, const char *made, const char *what, struct err *e)
{
    if (proc_have("qemu-img", "qemu-utils", e) < 0)
        return -1;
    if (proc_run(argv, NULL, e) == 0)
        return 0;
    if (made != NULL)
        (void)unlink(made);
    return err_wrap(e, "%s", what);
}

int overlay_create(const char *path, const char *backing, const char *backing_format,
                   uint64_t size, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    AUTO(str_free) char *real_backing = NULL;
    if (path_real(path, &real, e) < 0 || path_real(backing, &real_backing, e) < 0)
        return -1;
    if (access(real, F_OK) == 0)
        return err_set(e, ERR_REFUSED, "%s exists already", path);
    AUTO(str_free) char *dir = path_dir(real);
    AUTO(str_free) char *backing_dir = path_dir(real_backing);
    bool together = strcmp(dir, backing_dir) == 0;
    // "./" keeps a name with a colon from being taken for a protocol.
    AUTO(str_free)
    char *name =
        together ? xasprintf("./%s", path_base(real_backing)) : xstrdup(real_backing);
    AUTO(str_free) char *bytes = size > 0 ? xasprintf("%" PRIu64, size) : NULL;
    char *argv[] = {"qemu-img", "create", "-q",
                    "-f",       "qcow2",  "-b",
                    name,       "-F",     (char *)backing_format,
                    "--",       real,     bytes,
                    NULL};
    return run(argv, real, "create an overlay", e);
}

int overlay_commit(const char *path, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    if (path_real(path, &real, e) < 0)
        return -1;
    // -d: the overlay is not emptied, because it goes away.
    char *argv[] = {"qemu-img", "commit", "-q", "-d", "-f", "qcow2", "--", real, NULL};
    if (run(argv, NULL, "write an overlay back", e) < 0)
        return -1;
    return unlink(real) == 0 ? 0 : err_errno(e, errno, "remove %s", path);
}

int image_flatten(const char *src, const char *src_format, const char *dst,
                  const char *format, struct err *e)
{
    AUTO(str_free) char *real = NULL;
    AUTO(str_free) char *real_dst = NULL;
    if (path_real(src, &real, e) < 0 || path_real(dst, &real_dst, e) < 0)
        return -1;
    if (access(real_dst, F_OK) == 0)
        return err_set(e, ERR_REFUSED, "%s exists already", dst);
    char *argv[] = {"qemu-img",     "convert", "-q", "-f", (char *)src_format, "-O",
                    (char *)format, "-W",      "--", real, real_dst,           NULL};
    return run(argv, real_dst, "flatten an image", e);
}
