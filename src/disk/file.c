// SPDX-License-Identifier: Apache-2.0
// A raw file or block device, or a part of one.
//
// Data goes past the page cache (O_DIRECT) in the aligned middle of every request; what
// is left over at both ends is read through a bounce buffer and written through the
// cache, which the kernel keeps coherent: only whole pages are ever written directly. A
// file's last page, when its size is no multiple of 4096, is therefore always written
// buffered. A read that the page cache can answer alone comes from there (cachestat(2),
// Linux 6.5), but for block devices: file systems that are mounted write past their
// cache.
#include "disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define BOUNCE (256 * KIB)

struct file {
    struct disk disk;
    int fd;                                     // buffered; holds the locks
    int direct_fd;                              // -1: not possible here
    bool block_device, buffered;                // buffered: as was asked for
    bool no_punch, no_zero_range, no_cachestat; // learned: set once, harmless races
    uint64_t base;                              // where the disk begins in the file
};
_Static_assert(offsetof(struct file, disk) == 0, "cast from struct disk");

static bool is_aligned(uint64_t v)
{
    return v % PAGE == 0;
}

// Does the page cache hold all of it? Then reading there is faster than the device.
static bool file_is_cached(struct file *f, uint64_t at, uint64_t len)
{
    struct {
        uint64_t off, len;
    } range = {at, len};
    struct {
        uint64_t n_cache, n_dirty, n_writeback, n_evicted, n_recently_evicted;
    } found = {0};
    const long cachestat_number = 451;
    if (f->no_cachestat)
        return false;
    if (syscall(cachestat_number, f->fd, &range, &found, 0) < 0) {
        f->no_cachestat = true;
        return false;
    }
    uint64_t pages = (round_up(at + len, PAGE) - round_down(at, PAGE)) / PAGE;
    return found.n_cache >= pages;
}

static int read_failed(struct file *f, uint64_t at, size_t len, struct err *e)
{
    if (errno == EIO) {
        struct stat st;
        if (!f->block_device && fstat(f->fd, &st) == 0 && (uint64_t)st.st_size < at + len)
            return err_set(e, ERR_FAILED,
                           "read %zu bytes at %" PRIu64 ": the file ends at %" PRIu64
                           ": it was truncated",
                           len, at, (uint64_t)st.st_size);
    }
    return err_errno(e, errno, "read %zu bytes at %" PRIu64, len, at);
}

// A block device's cache may be older than what a mounted file system wrote.
static int read_buffered(struct file *f, void *buf, size_t len, uint64_t at,
                         struct err *e)
{
    if (f->block_device && !f->buffered)
        return err_set(e, ERR_FAILED,
                       "read %zu bytes at %" PRIu64 ": not possible past the page cache",
                       len, at);
    return fd_pread(f->fd, buf, len, at) < 0 ? read_failed(f, at, len, e) : 0;
}

// Reads the aligned range around [at, at + len) into `bounce`; the end of the file may
// cut it short behind at + len. *ret: false when the file system refuses direct reads.
static int read_around(struct file *f, uint8_t *bounce, uint64_t at, size_t len,
                       bool *ret_done, struct err *e)
{
    uint64_t start = round_down(at, PAGE);
    size_t need = (size_t)(at - start) + len, have = 0;
    size_t whole = (size_t)round_up(need, PAGE);
    while (have < need) {
        ssize_t n =
            pread(f->direct_fd, bounce + have, whole - have, (off_t)(start + have));
        if (n < 0 && errno == EINTR)
            continue;
        *ret_done = !(n < 0 && errno == EINVAL) &&
                    (n <= 0 || is_aligned((uint64_t)n) || have + (size_t)n >= need);
        if (!*ret_done)
            return 0;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return read_failed(f, at, len, e);
        have += (size_t)n;
    }
    *ret_done = true;
    return 0;
}

static int read_bounced(struct file *f, uint8_t *buf, size_t len, uint64_t at,
                        struct err *e)
{
    AUTO(free) void *bounce = alloc_aligned(BOUNCE);
    if (bounce == NULL)
        return read_buffered(f, buf, len, at, e);
    while (len > 0) {
        size_t part = (size_t)min_u64(len, BOUNCE - at % PAGE);
        bool done;
        if (read_around(f, bounce, at, part, &done, e) < 0)
            return -1;
        if (!done)
            return read_buffered(f, buf, len, at, e);
        memcpy(buf, (uint8_t *)bounce + at % PAGE, part);
        buf += part;
        at += part;
        len -= part;
    }
    return 0;
}

static int file_pread(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct file *f = (struct file *)d;
    uint64_t at = f->base + off;
    if (f->direct_fd < 0 || file_is_cached(f, at, len))
        return read_buffered(f, buf, len, at, e);
    if (!is_aligned(at) || !is_aligned(len) || !is_aligned((uintptr_t)buf))
        return read_bounced(f, buf, len, at, e);
    if (fd_pread(f->direct_fd, buf, len, at) == 0)
        return 0;
    return errno == EINVAL ? read_buffered(f, buf, len, at, e)
                           : read_failed(f, at, len, e);
}

static int write_buffered(struct file *f, const void *buf, size_t len, uint64_t at,
                          struct err *e)
{
    if (len == 0 || fd_pwrite(f->fd, buf, len, at) == 0)
        return 0;
    return err_errno(e, errno, "write %zu bytes at %" PRIu64, len, at);
}

// `at` and `len` are aligned, `buf` need not be.
static int write_direct(struct file *f, const uint8_t *buf, size_t len, uint64_t at,
                        struct err *e)
{
    AUTO(free) void *bounce = NULL;
    size_t step = len;
    if (!is_aligned((uintptr_t)buf)) {
        step = BOUNCE;
        bounce = alloc_aligned(BOUNCE);
        if (bounce == NULL)
            return write_buffered(f, buf, len, at, e);
    }
    while (len > 0) {
        size_t part = (size_t)min_u64(len, step);
        if (bounce != NULL)
            memcpy(bounce, buf, part);
        if (fd_pwrite(f->direct_fd, bounce != NULL ? bounce : buf, part, at) < 0) {
            if (errno == EINVAL)
                return write_buffered(f, buf, len, at, e);
            return err_errno(e, errno, "write %zu bytes at %" PRIu64, part, at);
        }
        buf += part;
        at += part;
        len -= part;
    }
    return 0;
}

static int file_pwrite(struct disk *d, const void *data, size_t len, uint64_t off,
                       struct err *e)
{
    struct file *f = (struct file *)d;
    const uint8_t *buf = data;
    uint64_t at = f->base + off;
    uint64_t from = round_up(at, PAGE), to = round_down(at + len, PAGE);
    if (f->direct_fd < 0 || from >= to)
        return write_buffered(f, buf, len, at, e);
    size_t head = (size_t)(from - at), middle = (size_t)(to - from);
    if (write_buffered(f, buf, head, at, e) < 0 ||
        write_direct(f, buf + head, middle, from, e) < 0)
        return -1;
    return write_buffered(f, buf + head + middle, len - head - middle, to, e);
}

static bool not_supported(int errnum)
{
    return errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == EINVAL ||
           errnum == ENODEV || errnum == ENOTTY;
}

// On files both ways are exact to the byte. 1: not possible here.
static int zero_in_file(struct file *f, uint64_t at, uint64_t len, bool punch)
{
    int mode = punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    bool *refused = punch ? &f->no_punch : &f->no_zero_range;
    if (*refused)
        return 1;
    if (fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len) == 0)
        return 0;
    *refused = not_supported(errno);
    return *refused ? 1 : -1;
}

// The kernel promises zeros for both calls, and never for discards, so those are not
// used.
static int zero_on_device(struct file *f, uint64_t at, uint64_t len, bool punch)
{
    if (punch && !f->no_punch) {
        if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                      (off_t)len) == 0)
            return 0;
        f->no_punch = true;
    }
    uint64_t range[2] = {at, len};
    if (ioctl(f->fd, BLKZEROOUT, range) == 0)
        return 0;
    return not_supported(errno) ? 1 : -1;
}

static int file_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                     struct err *e)
{
    struct file *f = (struct file *)d;
    if (!f->block_device) {
        int result = zero_in_file(f, f->base + off, len, punch);
        if (result < 0)
            return err_errno(e, errno, "zero %" PRIu64 " bytes at %" PRIu64, len, off);
        return result == 0 ? 0 : disk_write_zeros(d, off, len, e);
    }
    uint64_t from = round_up(off, PAGE), to = round_down(off + len, PAGE);
    if (from >= to || !is_aligned(f->base))
        return disk_write_zeros(d, off, len, e);
    int result = zero_on_device(f, f->base + from, to - from, punch);
    if (result < 0)
        return err_errno(e, errno, "zero %" PRIu64 " bytes at %" PRIu64, len, off);
    if (result > 0)
        return disk_write_zeros(d, off, len, e);
    if (disk_write_zeros(d, off, from - off, e) < 0)
        return -1;
    return disk_write_zeros(d, to, off + len - to, e);
}

static int file_flush(struct disk *d, struct err *e)
{
    struct file *f = (struct file *)d;
    return fdatasync(f->fd) == 0 ? 0 : err_errno(e, errno, "flush");
}

// A few extents a call: a fragmented file costs two system calls each.
static int file_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                        uint64_t *ret_done, struct err *e)
{
    struct file *f = (struct file *)d;
    uint64_t at = f->base + off, end = at + len;
    const unsigned most = 256;
    for (unsigned i = 0; i < most && at < end; i++) {
        off_t data = lseek(f->fd, (off_t)at, SEEK_DATA);
        uint64_t data_at = data < 0 ? end : min_u64((uint64_t)data, end);
        if (data < 0 && errno != ENXIO) {
            if (!not_supported(errno))
                return err_errno(e, errno, "find data at %" PRIu64, at);
            data_at = at; // says nothing, so all of it may be data
        }
        extents_append(out, at - f->base, data_at - at, EXTENT_HOLE);
        if (data_at == end) {
            at = end;
            break;
        }
        off_t hole = data < 0 ? -1 : lseek(f->fd, (off_t)data_at, SEEK_HOLE);
        uint64_t hole_at = hole < 0 ? end : min_u64((uint64_t)hole, end);
        // The file may change between the two calls; never answer with nothing.
        hole_at = hole_at <= data_at ? end : hole_at;
        extents_append(out, data_at - f->base, hole_at - data_at, EXTENT_DATA);
        at = hole_at;
    }
    *ret_done = at - f->base - off;
    return 0;
}

static void file_close(struct disk *d)
{
    struct file *f = (struct file *)d;
    fd_close(f->direct_fd);
    fd_close(f->fd);
    free(f->disk.name);
    free(f);
}

static const struct disk_ops file_ops_ro = {
    .type = "file",
    .read = file_pread,
    .extents = file_extents,
    .close = file_close,
};
static const struct disk_ops file_ops_rw = {
    .type = "file",
    .read = file_pread,
    .write = file_pwrite,
    .zero = file_zero,
    .flush = file_flush,
    .extents = file_extents,
    .close = file_close,
};

// Regular files and block devices only: opening a FIFO or a tape would already do harm.
static int file_check_kind(const char *path, const struct stat *st, struct err *e)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return err_set(e, ERR_REFUSED, "%s is a %s, neither a file nor a block device", path,
                   S_ISDIR(st->st_mode)    ? "folder"
                   : S_ISCHR(st->st_mode)  ? "character device"
                   : S_ISFIFO(st->st_mode) ? "pipe"
                                           : "socket");
}

static int open_existing(const char *path, bool writable, int *ret_fd, struct err *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_errno(e, errno, "open %s", path);
    if (file_check_kind(path, &st, e) < 0)
        return -1;
    // O_EXCL on a block device: refused while it is mounted.
    int exclusive = writable && S_ISBLK(st.st_mode) ? O_EXCL : 0;
    AUTO(fd_close)
    int fd =
        open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | exclusive);
    if (fd < 0 && errno == EBUSY)
        return err_set(e, ERR_REFUSED,
                       "%s is in use: mounted, or part of something that is", path);
    if (fd < 0)
        return err_errno(e, errno, "open %s%s", path, writable ? " for writing" : "");
    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "open %s", path);
    if (file_check_kind(path, &st, e) < 0)
        return -1;
    *ret_fd = steal_fd(&fd);
    return 0;
}

// *ret_made: the file was not there before, so a failure takes it away again.
static int open_or_create(const char *path, int *ret_fd, bool *ret_made, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return err_errno(e, errno, "create %s", path);
    *ret_made = fd >= 0;
    if (fd < 0)
        return open_existing(path, true, ret_fd, e);
    *ret_fd = fd;
    return 0;
}

static int file_create(struct file *f, const struct file_options *o, struct err *e)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return err_errno(e, errno, "create %s", o->path);
    if (S_ISBLK(st.st_mode) || st.st_size != 0)
        return err_set(e, ERR_REFUSED, "%s exists already and is not empty", o->path);
    if (o->size > INT64_MAX || ftruncate(f->fd, (off_t)o->size) < 0)
        return err_errno(e, o->size > INT64_MAX ? EFBIG : errno,
                         "make %s %" PRIu64 " bytes long", o->path, o->size);
    return 0;
}

static int file_measure(struct file *f, const struct file_options *o, struct err *e)
{
    struct stat st;
    uint64_t size;
    int sector = 512;
    if (fstat(f->fd, &st) < 0)
        return err_errno(e, errno, "size of %s", o->path);
    f->block_device = S_ISBLK(st.st_mode);
    f->no_cachestat = f->block_device;
    size = (uint64_t)st.st_size;
    if (f->block_device &&
        (ioctl(f->fd, BLKGETSIZE64, &size) < 0 || ioctl(f->fd, BLKSSZGET, &sector) < 0))
        return err_errno(e, errno, "size of %s", o->path);
    f->disk.sector_size = sector == PAGE ? PAGE : 512;
    uint64_t end;
    if (o->part_off != 0 || o->part_len != 0) {
        if (!add_fits(o->part_off, o->part_len, &end) || end > size || o->part_len == 0)
            return err_set(e, ERR_FAILED,
                           "%s has %" PRIu64 " bytes; the part of %" PRIu64
                           " bytes at %" PRIu64 " does not lie in it: it was truncated",
                           o->path, size, o->part_len, o->part_off);
        f->base = o->part_off;
        size = o->part_len;
    }
    f->disk.size = size;
    return 0;
}

// The same file once more, whatever its name means by now. Fails silently: buffered then.
static void file_open_direct(struct file *f, bool writable)
{
    AUTO(str_free) char *self = xasprintf("/proc/self/fd/%d", f->fd);
    f->direct_fd = open(self, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_DIRECT);
    // What is left for the page cache are small pieces at the ends of requests.
    if (f->direct_fd >= 0)
        (void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_RANDOM);
}

static int file_setup(struct file *f, const struct file_options *o, struct err *e)
{
    if (disk_lock(f->fd, o->path, o->writable || o->create, e) < 0 ||
        (o->create && file_create(f, o, e) < 0) || file_measure(f, o, e) < 0)
        return -1;
    f->buffered = o->buffered;
    if (!o->buffered)
        file_open_direct(f, o->writable || o->create);
    return 0;
}

int file_open(const struct file_options *o, struct disk **ret, struct err *e)
{
    bool writable = o->writable || o->create, made = false;
    struct file *f = xcalloc(1, sizeof(*f));
    f->fd = f->direct_fd = -1;
    f->disk = (struct disk){
        .ops = writable ? &file_ops_rw : &file_ops_ro,
        .name = xstrdup(o->path),
        .alignment = PAGE,
        .n_parallel = 8,
    };
    AUTO(disk_close) struct disk *d = (struct disk *)f;
    if ((o->create ? open_or_create(o->path, &f->fd, &made, e)
                   : open_existing(o->path, writable, &f->fd, e)) < 0)
        return -1;
    if (file_setup(f, o, e) < 0) {
        if (made)
            (void)unlink(o->path); // the error at hand matters more
        return -1;
    }
    *ret = steal(d);
    return 0;
}
