// SPDX-License-Identifier: Apache-2.0
// Paths and folders. Removing a folder goes by descriptors and follows no link, so that
// nobody who can write in it can turn the removal elsewhere; and it stops at a file
// system mounted inside, whose content is not ours.
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define REMOVE_DEPTH_MAX 200 // a descriptor is open for each level

char *path_join(const char *a, const char *b)
{
    if (a[0] == '\0' || b[0] == '\0')
        return xstrdup(a[0] ? a : b);
    while (b[0] == '/')
        b++;
    return xasprintf("%s%s%s", a, str_ends(a, "/") ? "" : "/", b);
}

char *path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return xstrdup(".");
    while (slash > path && slash[-1] == '/')
        slash--;
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int take_real(char *real /* taken */, char **ret, struct err *e)
{
    if (!json_can_hold(real)) {
        err_set(e, ERR_REFUSED,
                "%s: its name is not UTF-8 and can be given to no QEMU; rename it, or "
                "the folder above",
                real);
        free(real);
        return -1;
    }
    *ret = real;
    return 0;
}

int path_real(const char *path, char **ret, struct err *e)
{
    char *real = realpath(path, NULL);
    if (real)
        return take_real(real, ret, e);
    struct stat st;
    const char *base = path_base(path);
    if (errno != ENOENT || base[0] == '\0' || strcmp(base, "..") == 0)
        return err_errno(e, errno, "resolve %s", path);
    if (lstat(path, &st) == 0)
        return err_set(e, ERR_FAILED, "resolve %s: it is a link to nothing", path);
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(str_free) char *real_dir = realpath(dir, NULL);
    if (!real_dir)
        return err_errno(e, errno, "resolve folder %s", dir);
    return take_real(path_join(real_dir, base), ret, e);
}

bool path_under(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/')
        n--;
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

int dir_make(const char *path, mode_t mode, struct err *e)
{
    struct stat st;
    if (mkdir(path, mode) == 0 ||
        (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return 0;
    if (errno != ENOENT)
        return err_errno(e, errno, "make folder %s", path);
    AUTO(str_free) char *parent = path_dir(path);
    if (strcmp(parent, path) == 0)
        return err_errno(e, ENOENT, "make folder %s", path);
    if (dir_make(parent, mode, e) < 0)
        return -1;
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return err_errno(e, errno, "make folder %s", path);
    return 0;
}

__attribute__((unused)) static void close_dir(DIR *d)
{
    if (d)
        closedir(d);
}
DEFINE_AUTO(close_dir, DIR *)

static int empty_dir(int parent, const char *name, dev_t device, int depth,
                     const char *path, struct err *e);

static int remove_entry(int dir, const char *name, dev_t device, int depth,
                        const char *path, struct err *e)
{
    int flags = 0;
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return err_errno(e, errno, "remove %s in %s", name, path);
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
        if (empty_dir(dir, name, device, depth + 1, path, e) < 0)
            return -1;
        flags = AT_REMOVEDIR;
    }
    if (unlinkat(dir, name, flags) < 0 && errno != ENOENT)
        return err_errno(e, errno, "remove %s in %s", name, path);
    return 0;
}

// `path` is the folder that the caller asked for; device 0: whatever this one is on.
static int empty_dir(int parent, const char *name, dev_t device, int depth,
                     const char *path, struct err *e)
{
    if (depth > REMOVE_DEPTH_MAX)
        return err_set(e, ERR_FAILED, "remove %s: deeper than %d folders", path,
                       REMOVE_DEPTH_MAX);
    AUTO(fd_close)
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, errno, "remove %s: open folder %s", path, name);
    if (depth > 0 && st.st_dev != device)
        return err_set(e, ERR_REFUSED,
                       "remove %s: %s in it is a mounted file system; unmount it first",
                       path, name);
    AUTO(close_dir) DIR *d = fdopendir(fd);
    if (!d)
        return err_errno(e, errno, "remove %s: list folder %s", path, name);
    (void)steal_fd(&fd); // d has it
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(d);
        if (!entry)
            return errno ? err_errno(e, errno, "remove %s: list folder %s", path, name)
                         : 0;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (remove_entry(dirfd(d), entry->d_name, st.st_dev, depth, path, e) < 0)
            return -1;
    }
}

int dir_remove(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_errno(e, errno, "remove %s", path);
    if (!S_ISDIR(st.st_mode))
        return err_errno(e, ENOTDIR, "remove folder %s", path);
    if (empty_dir(AT_FDCWD, path, 0, 0, path, e) < 0)
        return -1;
    if (rmdir(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "remove %s", path);
    return 0;
}

int file_remove(const char *path, struct err *e)
{
    struct stat st;
    if (!path || unlink(path) == 0 || errno == ENOENT)
        return 0;
    // A file system that is read-only says so of what is missing too.
    int why = errno;
    if (lstat(path, &st) && errno == ENOENT)
        return 0;
    return err_errno(e, why, "removing %s", path);
}

int dir_temp(char **ret_path, struct err *e)
{
    const char *root = getenv("TMPDIR");
    AUTO(str_free)
    char *path = path_join(root && root[0] ? root : "/tmp", "godwit-XXXXXX");
    if (!mkdtemp(path))
        return err_errno(e, errno, "make a temporary folder %s", path);
    *ret_path = steal(path);
    return 0;
}
