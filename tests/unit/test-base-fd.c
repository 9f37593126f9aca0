// SPDX-License-Identifier: Apache-2.0
// fd.c and path.c: whole reads and writes, files that are replaced, folders, locks.
#include "base/base.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir; // of this test

static char *in_dir(const char *name)
{
    return path_join(dir, name);
}

static void test_bytes(void)
{
    AUTO(str_free) char *path = in_dir("bytes");
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char got[4] = "";
    ok(fd_pwrite(fd, "abcd", 4, 100) == 0 && fd_pread(fd, got, 4, 100) == 0 &&
           memcmp(got, "abcd", 4) == 0,
       "written and read at an offset");
    errno = 0;
    ok(fd_pread(fd, got, 4, 102) < 0 && errno == EIO, "a short read is EIO");
    errno = 0;
    ok(fd_pread(-1, got, 4, 0) < 0 && errno == EBADF, "other errors stay");
    AUTO(fd_close) int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    errno = 0;
    ok(fd_write(full, "x", 1) < 0 && errno == ENOSPC, "a full disk");
    errno = 0;
    ok(fd_pwrite(fd, "x", 1, UINT64_MAX) < 0 && errno == EINVAL,
       "an offset beyond files");
    errno = 7;
    fd_close(-1);
    fd_close(open("/dev/null", O_RDONLY | O_CLOEXEC));
    ok(errno == 7, "closing keeps errno");
}

static void test_file_read(void)
{
    struct err e = {0};
    AUTO(str_free) char *path = in_dir("text");
    AUTO(buf_done) struct buf b = BUF_INIT(10);
    ok(file_write(path, "0123456789", 10, 0640, &e) == 0 && file_read(path, &b, &e) == 0,
       "a file as long as the ceiling");
    is_str(b.data, "0123456789", "is read whole");
    ok(file_read(path, &b, &e) < 0 && b.len == 10, "one that passes it is not");
    AUTO(str_free)
    char *want = xasprintf("%s is larger than the 10 bytes expected", path);
    is_str(e.text, want, "and the error says so");
    AUTO(buf_done) struct buf c = BUF_INIT(10);
    ok(file_write(path, "", 0, 0640, &e) == 0 && file_read(path, &c, &e) == 0 && c.data,
       "an empty file is an empty string");
    AUTO(str_free) char *missing = in_dir("missing");
    AUTO(str_free)
    char *open_error = xasprintf("open %s: No such file or directory", missing);
    ok(file_read(missing, &c, &e) < 0, "a missing file");
    is_str(e.text, open_error, "is named");
    ok(file_read(dir, &c, &e) < 0 && strstr(e.text, "Is a directory"), "a folder");
    AUTO(buf_done) struct buf proc = BUF_INIT(64 * KIB);
    ok(file_read("/proc/self/status", &proc, &e) == 0 && proc.len > 100,
       "a file that says it is empty");
}

static void test_file_write(void)
{
    struct err e = {0};
    struct stat st;
    AUTO(str_free) char *path = in_dir("replaced");
    AUTO(str_free) char *link_path = in_dir("link");
    ok(file_write(path, "old", 3, 0600, &e) == 0 && symlink(path, link_path) == 0 &&
           file_write(path, "new", 3, 0644, &e) == 0,
       "a file is replaced");
    ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0644 && st.st_size == 3,
       "with mode and content");
    AUTO(str_free) char *nowhere = in_dir("no/such/folder");
    ok(file_write(nowhere, "x", 1, 0600, &e) < 0 && strstr(e.text, "make a file in"),
       "not into a missing folder");
    AUTO(str_free) char *folder = in_dir("folder");
    ok(dir_make(folder, 0755, &e) == 0 && file_write(folder, "x", 1, 0600, &e) < 0,
       "not over a folder");
    AUTO(str_free) char *script = xasprintf("ls -A %s | grep -c '^\\.'", dir);
    AUTO(buf_done) struct buf b = BUF_INIT(100);
    (void)proc_run((char *const[]){"sh", "-c", script, NULL}, &b,
                   &e); // grep's 1 is no error
    is_str(b.data, "0\n", "nothing temporary is left");
}

static void test_paths(void)
{
    static const struct {
        const char *a, *b, *joined;
    } joins[] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "a/b"},
                 {"", "b", "b"},    {"a", "", "a"},     {"/", "b", "/b"}};
    for (size_t i = 0; i < ARRAY_LEN(joins); i++) {
        AUTO(str_free) char *s = path_join(joins[i].a, joins[i].b);
        is_str(s, joins[i].joined, "path_join");
    }
    static const struct {
        const char *path, *dir, *base;
    } parts[] = {{"a", ".", "a"},     {"/a", "/", "a"},   {"a/b", "a", "b"},
                 {"/a/b", "/a", "b"}, {"a//b", "a", "b"}, {"//a", "/", "a"},
                 {"a/", "a", ""},     {"/", "/", ""}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        AUTO(str_free) char *s = path_dir(parts[i].path);
        is_str(s, parts[i].dir, "path_dir");
        is_str(path_base(parts[i].path), parts[i].base, "path_base");
    }
    ok(path_under("/a/b", "/a") && path_under("/a", "/a") && path_under("/a", "/") &&
           path_under("/a/b", "/a/") && !path_under("/ab", "/a") &&
           !path_under("/", "/a"),
       "path_under goes by components");
}

static void test_real(void)
{
    struct err e = {0};
    AUTO(str_free) char *target = in_dir("real-target");
    AUTO(str_free) char *link_path = in_dir("real-link");
    AUTO(str_free) char *through = path_join(link_path, "new");
    AUTO(str_free) char *want = path_join(target, "new");
    char *got = NULL;
    ok(dir_make(target, 0755, &e) == 0 && symlink("real-target", link_path) == 0,
       "a link");
    ok(path_real(through, &got, &e) == 0, "a file that is not there yet");
    is_str(got, want, "behind a link is resolved");
    free(got);
    AUTO(str_free) char *dangling = in_dir("dangling");
    ok(symlink("nowhere", dangling) == 0 && path_real(dangling, &got, &e) < 0 &&
           strstr(e.text, "it is a link to nothing"),
       "a link to nothing is refused");
    AUTO(str_free) char *deep = in_dir("no/such");
    ok(path_real(deep, &got, &e) < 0 && str_starts(e.text, "resolve folder "),
       "a missing folder is refused");
    AUTO(str_free) char *loop = in_dir("loop");
    ok(symlink("loop", loop) == 0 && path_real(loop, &got, &e) < 0 &&
           strstr(e.text, strerror(ELOOP)),
       "a loop of links is refused");
    AUTO(str_free) char *no_name = in_dir("none/");
    ok(path_real(no_name, &got, &e) < 0, "a missing folder with a slash is refused");
    ok(path_real("", &got, &e) < 0, "no name is refused");
}

static void test_dirs(void)
{
    struct err e = {0};
    struct stat st;
    AUTO(str_free) char *deep = in_dir("tree/a/b/c");
    AUTO(str_free) char *tree = in_dir("tree");
    AUTO(str_free) char *file = in_dir("tree/a/file");
    AUTO(str_free) char *outside = in_dir("outside");
    AUTO(str_free) char *link_path = in_dir("tree/a/link");
    AUTO(str_free) char *below = path_join(file, "x");
    ok(dir_make(deep, 0755, &e) == 0 && dir_make(deep, 0755, &e) == 0,
       "with parents, twice");
    ok(file_write(file, "x", 1, 0600, &e) == 0 && dir_make(outside, 0755, &e) == 0 &&
           symlink(outside, link_path) == 0,
       "a file and a link in it");
    ok(dir_make(file, 0755, &e) < 0 && strstr(e.text, strerror(EEXIST)),
       "over a file: no");
    ok(dir_make(below, 0755, &e) < 0 && strstr(e.text, strerror(ENOTDIR)),
       "below a file: no");
    ok(dir_remove(file, &e) < 0 && strstr(e.text, strerror(ENOTDIR)),
       "a file is not removed as a folder");
    ok(dir_remove(link_path, &e) < 0 && stat(outside, &st) == 0, "nor a link");
    ok(dir_remove(tree, &e) == 0 && stat(tree, &st) < 0, "the tree is removed");
    ok(stat(outside, &st) == 0, "what a link pointed to is not");
    ok(dir_remove(tree, &e) == 0, "missing is fine");
}

static void test_deep(void)
{
    struct err e = {0};
    AUTO(buf_done) struct buf path = BUF_INIT(4000);
    buf_printf(&path, "%s/deep", dir);
    size_t root = path.len;
    for (int i = 0; i < 210; i++)
        buf_str(&path, "/d");
    ok(dir_make(path.data, 0755, &e) == 0, "210 folders");
    AUTO(str_free) char *top = xstrndup(path.data, root);
    ok(dir_remove(top, &e) < 0 && strstr(e.text, "deeper than 200 folders"),
       "are too deep to remove");
    AUTO(str_free) char *lower = xstrndup(path.data, root + 2 * 20);
    ok(dir_remove(lower, &e) == 0 && dir_remove(top, &e) == 0, "in two steps they go");
}

static void test_mounted(void)
{
    struct err e = {0};
    AUTO(str_free) char *top = in_dir("mounts");
    AUTO(str_free) char *mount_point = in_dir("mounts/inside");
    if (dir_make(mount_point, 0755, &e) < 0)
        abort();
    if (mount("none", mount_point, "tmpfs", 0, "size=64k") < 0) {
        skip("a mounted file system is left alone", "mounting needs root");
        return;
    }
    ok(dir_remove(top, &e) < 0 && e.code == ERR_REFUSED &&
           strstr(e.text, "is a mounted file system; unmount it first"),
       "a mounted file system is left alone");
    umount(mount_point);
    ok(dir_remove(top, &e) == 0, "unmounted it goes");
}

static void test_temp(void)
{
    struct err e = {0};
    struct stat st;
    char *made = NULL;
    setenv("TMPDIR", dir, 1);
    ok(dir_temp(&made, &e) == 0 && path_under(made, dir), "in TMPDIR");
    AUTO(str_free) char *owned = made;
    ok(stat(made, &st) == 0 && (st.st_mode & 07777) == 0700, "for us alone");
    setenv("TMPDIR", "/no/such", 1);
    ok(dir_temp(&made, &e) < 0 && strstr(e.text, "make a temporary folder /no/such/"),
       "a bad TMPDIR is named");
}

static void test_lock(void)
{
    struct err e = {0};
    AUTO(str_free) char *path = in_dir("lock");
    int first = -1, second = -1;
    ok(lock_take(path, "job 7", &first, &e) == 0, "a lock is taken");
    ok(lock_take(path, "job 7", &second, &e) < 0 && e.code == ERR_REFUSED, "once");
    AUTO(str_free)
    char *want =
        xasprintf("job 7 is in use by process %d (lock %s)", (int)getpid(), path);
    is_str(e.text, want, "and the error says who has it");
    ok(second == -1 && (fcntl(first, F_GETFD) & FD_CLOEXEC),
       "children do not inherit it");
    fd_close(first);
    ok(lock_take(path, "job 7", &second, &e) == 0, "closed it is free");
    fd_close(second);
    AUTO(str_free) char *nowhere = in_dir("no/such/lock");
    ok(lock_take(nowhere, "job 7", &second, &e) < 0 && str_starts(e.text, "open lock "),
       "a lock in a missing folder");
}

int main(void)
{
    struct err e = {0};
    char *made = NULL;
    if (dir_temp(&made, &e) < 0)
        abort();
    char *real = realpath(made, NULL); // TMPDIR may be a link
    free(made);
    dir = real;
    test_bytes();
    test_file_read();
    test_file_write();
    test_paths();
    test_real();
    test_dirs();
    test_deep();
    test_mounted();
    test_lock();
    test_temp();
    ok(dir_remove(dir, &e) == 0, "cleaned up");
    free(real);
    return done_testing();
}
