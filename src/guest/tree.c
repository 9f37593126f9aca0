// SPDX-License-Identifier: Apache-2.0
// Files of a guest below one root. Every path goes through openat2(2) with
// RESOLVE_IN_ROOT, so that links, absolute ones too, end inside the guest. Nothing but
// regular files and folders is ever opened: a guest may have put a fifo or a device node
// where its configuration should be, so the type is asked through O_PATH first. A file is
// replaced by writing beside it and renaming, and a link in its place is followed first,
// because renaming over the link would part it from its target.
#include "guest/guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MAX_LINKS 16
#define PROTECTING (FS_IMMUTABLE_FL | FS_APPEND_FL)
#define MAX_NAMES 100000
#define TEMP_PREFIX ".godwit-new."

struct tree {
    int fd;
};

static int open_in(int root, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = mode,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    while (*path == '/')
        path++;
    return (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));
}

int tree_open(const char *root, struct tree **ret, struct err *e)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "cannot open the guest's root %s", root);
    *ret = xcalloc(1, sizeof(**ret));
    (*ret)->fd = fd;
    return 0;
}

void tree_close(struct tree *t)
{
    if (!t)
        return;
    fd_close(t->fd);
    free(t);
}

int tree_root_fd(const struct tree *t)
{
    return t->fd;
}

bool tree_exists(struct tree *t, const char *path)
{
    AUTO(fd_close) int fd = open_in(t->fd, path, O_PATH, 0);
    return fd >= 0;
}

int tree_fd(struct tree *t, const char *path, int flags, mode_t mode, int *ret_fd,
            struct err *e)
{
    struct stat st;
    if (!(flags & O_CREAT)) {
        AUTO(fd_close) int probe = open_in(t->fd, path, O_PATH, 0);
        if (probe < 0)
            return err_errno(e, errno, "cannot open %s in the guest", path);
        if (fstat(probe, &st))
            return err_errno(e, errno, "cannot examine %s in the guest", path);
        if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
            return err_set(e, ERR_REFUSED,
                           "%s in the guest is neither a file nor a folder", path);
    }
    AUTO(fd_close)
    int fd =
        open_in(t->fd, path, flags | O_NONBLOCK | O_NOCTTY, flags & O_CREAT ? mode : 0);
    if (fd < 0 || fstat(fd, &st))
        return err_errno(e, errno, "cannot open %s in the guest", path);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s in the guest is neither a file nor a folder",
                       path);
    *ret_fd = steal_fd(&fd);
    return 0;
}

int tree_read(struct tree *t, const char *path, struct buf *out, struct err *e)
{
    AUTO(fd_close) int fd = -1;
    if (tree_fd(t, path, O_RDONLY, 0, &fd, e))
        return -1;
    struct stat st;
    if (fstat(fd, &st))
        return err_errno(e, errno, "cannot examine %s in the guest", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s in the guest is not a file", path);
    if (st.st_size < 0 || (uint64_t)st.st_size > out->limit - out->len)
        return err_set(e, ERR_REFUSED,
                       "%s in the guest is too large: %lld bytes, at most %zu are read",
                       path, (long long)st.st_size, out->limit - out->len);
    char piece[16384];
    for (;;) {
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, errno, "cannot read %s in the guest", path);
        if (n == 0)
            break;
        buf_add(out, piece, (size_t)n);
    }
    if (out->overflow)
        return err_set(e, ERR_REFUSED, "%s in the guest is too large", path);
    if (!out->data)
        buf_add(out, "", 0);
    return 0;
}

// The folder in which the last component of `path` really lies, links in that component
// followed, and its name there. The file itself need not exist.
static int resolve(struct tree *t, const char *path, int *ret_dir, char **ret_name,
                   struct err *e)
{
    AUTO(str_free) char *at = xstrdup(path);
    for (int i = 0; i < MAX_LINKS; i++) {
        size_t n = strlen(at);
        while (n > 1 && at[n - 1] == '/')
            at[--n] = 0;
        AUTO(str_free) char *dir = path_dir(at);
        const char *name = path_base(at);
        if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            strcmp(name, "/") == 0)
            return err_set(e, ERR_REFUSED, "%s does not name a file in the guest", path);
        AUTO(fd_close) int dir_fd = open_in(t->fd, dir, O_RDONLY | O_DIRECTORY, 0);
        if (dir_fd < 0)
            return err_errno(e, errno, "cannot open folder %s in the guest", dir);
        char target[4096];
        ssize_t len = readlinkat(dir_fd, name, target, sizeof(target) - 1);
        if (len < 0) { // no link
            *ret_dir = steal_fd(&dir_fd);
            *ret_name = xstrdup(name);
            return 0;
        }
        target[len] = 0;
        char *next = target[0] == '/' ? xstrdup(target) : path_join(dir, target);
        free(at);
        at = next;
    }
    return err_errno(e, ELOOP, "cannot open %s in the guest", path);
}

// Owner, mode and extended attributes of `old` for `fd`. What the file system cannot hold
// (vfat: no owners) is not missed.
static int keep_attributes(int old, int fd, const char *path, struct err *e)
{
    struct stat st;
    if (fstat(old, &st))
        return err_errno(e, errno, "cannot examine %s in the guest", path);
    if ((fchown(fd, st.st_uid, st.st_gid) && errno != EPERM && errno != EINVAL) ||
        (fchmod(fd, st.st_mode & 07777) && errno != EPERM))
        return err_errno(e, errno, "cannot set owner and mode of %s in the guest", path);
    char names[4096], value[4096];
    ssize_t len = flistxattr(old, names, sizeof(names));
    for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t n = fgetxattr(old, names + at, value, sizeof(value));
        if (n >= 0 && fsetxattr(fd, names + at, value, (size_t)n, 0) && errno != EPERM &&
            errno != EOPNOTSUPP)
            return err_errno(e, errno, "cannot set attribute %s of %s in the guest",
                             names + at, path);
    }
    return 0;
}

// chattr(1) +i and +a forbid even root to replace a file. Taken away, and what there was
// returned; file systems without flags have none.
static int unprotect(int fd, int *ret_flags)
{
    int flags = 0;
    *ret_flags = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) || !(flags & PROTECTING))
        return 0;
    int without = flags & ~PROTECTING;
    if (ioctl(fd, FS_IOC_SETFLAGS, &without))
        return -1;
    *ret_flags = flags;
    return 0;
}

struct tree_new {
    char *path, *name, *temp;
    int dir, fd;
    int flags; // of the old file, to be the new one's in the end
};

int tree_replace(struct tree *t, const char *path, struct tree_new **ret, int *ret_fd,
                 struct err *e)
{
    AUTO(tree_replace_end) struct tree_new *new = xcalloc(1, sizeof(*new));
    new->dir = new->fd = -1;
    new->path = xstrdup(path);
    if (resolve(t, path, &new->dir, &new->name, e))
        return -1;
    AUTO(str_free) char *temp = xasprintf(TEMP_PREFIX "%.200s", new->name);
    struct stat st;
    bool exists = fstatat(new->dir, new->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (exists && !S_ISREG(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s in the guest is not a file", path);
    (void)unlinkat(new->dir, temp, 0); // of an earlier run that was killed
    new->fd =
        openat(new->dir, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (new->fd < 0)
        return err_errno(e, errno, "cannot write %s in the guest", path);
    new->temp = steal(temp);
    if (exists) {
        AUTO(fd_close)
        int old =
            openat(new->dir, new->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (old < 0)
            return err_errno(e, errno, "cannot open %s in the guest", path);
        if (keep_attributes(old, new->fd, path, e))
            return -1;
        if (unprotect(old, &new->flags))
            return err_errno(e, errno, "cannot make %s in the guest writable", path);
    }
    *ret_fd = new->fd;
    *ret = steal(new);
    return 0;
}

int tree_replace_commit(struct tree_new *new, struct err *e)
{
    if (fsync(new->fd) || renameat(new->dir, new->temp, new->dir, new->name))
        return err_errno(e, errno, "cannot write %s in the guest", new->path);
    str_free(steal(new->temp));
    if (new->flags && ioctl(new->fd, FS_IOC_SETFLAGS, &new->flags))
        return err_errno(e, errno, "cannot protect %s in the guest again", new->path);
    if (fsync(new->dir))
        return err_errno(e, errno, "cannot write the folder of %s in the guest",
                         new->path);
    return 0;
}

void tree_replace_end(struct tree_new *new)
{
    if (!new)
        return;
    if (new->temp)
        (void)unlinkat(new->dir, new->temp, 0); // best effort: the old file stands
    fd_close(new->fd);
    fd_close(new->dir);
    free(new->path);
    free(new->name);
    free(new->temp);
    free(new);
}

int tree_write(struct tree *t, const char *path, const void *data, size_t len,
               struct err *e)
{
    AUTO(tree_replace_end) struct tree_new *new = NULL;
    int fd = -1;
    if (tree_replace(t, path, &new, &fd, e))
        return -1;
    if (fd_write(fd, data, len))
        return err_errno(e, errno, "cannot write %s in the guest", path);
    return tree_replace_commit(new, e);
}

int tree_mkdir(struct tree *t, const char *path, struct err *e)
{
    AUTO(str_free) char *at = xstrdup(path);
    for (char *slash = at + strspn(at, "/"); *slash;) {
        slash += strcspn(slash, "/");
        char kept = *slash;
        *slash = 0;
        AUTO(fd_close) int fd = open_in(t->fd, at, O_PATH | O_DIRECTORY, 0);
        if (fd < 0 && errno != ENOENT)
            return err_errno(e, errno, "cannot open folder %s in the guest", at);
        if (fd < 0) {
            AUTO(fd_close) int dir = -1;
            AUTO(str_free) char *name = NULL;
            if (resolve(t, at, &dir, &name, e))
                return -1;
            if (mkdirat(dir, name, 0755))
                return err_errno(e, errno, "cannot make folder %s in the guest", at);
        }
        *slash = kept;
        slash += strspn(slash, "/");
    }
    return 0;
}

// The folder that holds `path`, links in the last component not followed.
static int parent(struct tree *t, const char *path, int *ret_dir)
{
    AUTO(str_free) char *dir = path_dir(path);
    *ret_dir = open_in(t->fd, dir, O_RDONLY | O_DIRECTORY, 0);
    return *ret_dir < 0 ? -1 : 0;
}

int tree_remove(struct tree *t, const char *path, struct err *e)
{
    AUTO(fd_close) int dir = -1;
    if ((parent(t, path, &dir) || unlinkat(dir, path_base(path), 0)) && errno != ENOENT)
        return err_errno(e, errno, "cannot remove %s in the guest", path);
    return 0;
}

int tree_remove_folder(struct tree *t, const char *path, struct err *e)
{
    AUTO(strings_done) struct strings names = {0};
    AUTO(fd_close) int dir = -1;
    if (tree_list(t, path, &names, e))
        return -1;
    for (size_t i = 0; i < names.n; i++) {
        AUTO(str_free) char *inside = path_join(path, names.v[i]);
        AUTO(fd_close) int at = -1;
        struct stat st;
        if (parent(t, inside, &at) || fstatat(at, names.v[i], &st, AT_SYMLINK_NOFOLLOW))
            return err_errno(e, errno, "cannot look at %s in the guest", inside);
        if (S_ISDIR(st.st_mode) ? tree_remove_folder(t, inside, e)
                                : tree_remove(t, inside, e))
            return -1;
    }
    if ((parent(t, path, &dir) || unlinkat(dir, path_base(path), AT_REMOVEDIR)) &&
        errno != ENOENT)
        return err_errno(e, errno, "cannot remove folder %s in the guest", path);
    return 0;
}

int tree_link(struct tree *t, const char *target, const char *path, struct err *e)
{
    AUTO(fd_close) int dir = -1;
    if (parent(t, path, &dir))
        return err_errno(e, errno, "cannot open the folder of %s in the guest", path);
    const char *name = path_base(path);
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISLNK(st.st_mode))
            return err_set(e, ERR_REFUSED, "%s in the guest exists and is not a link",
                           path);
        if (unlinkat(dir, name, 0))
            return err_errno(e, errno, "cannot replace %s in the guest", path);
    }
    if (symlinkat(target, dir, name))
        return err_errno(e, errno, "cannot make link %s in the guest", path);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void dir_close(DIR *d)
{
    if (d)
        closedir(d);
}
DEFINE_AUTO(dir_close, DIR *)

int tree_list(struct tree *t, const char *path, struct strings *ret, struct err *e)
{
    AUTO(fd_close) int fd = open_in(t->fd, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return err_errno(e, errno, "cannot open folder %s in the guest", path);
    AUTO(dir_close) DIR *d = fdopendir(fd);
    if (!d)
        return err_errno(e, errno, "cannot read folder %s in the guest", path);
    (void)steal_fd(&fd); // now the stream's
    AUTO(strings_done) struct strings names = {0};
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(d);
        if (!entry && errno)
            return err_errno(e, errno, "cannot read folder %s in the guest", path);
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (names.n == MAX_NAMES)
            return err_set(e, ERR_REFUSED, "folder %s in the guest has too many entries",
                           path);
        strings_add(&names, entry->d_name);
    }
    if (names.n)
        qsort(names.v, names.n, sizeof(*names.v), by_name);
    for (size_t i = 0; i < names.n; i++)
        strings_add(ret, names.v[i]);
    return 0;
}
