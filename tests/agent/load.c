// SPDX-License-Identifier: Apache-2.0
// usage: load FOLDER SEED
// Writes to files in a folder in every way there is, until it is ended: directly,
// through the page cache, through a mapping, and away (punched holes, FITRIM, unlink).
// A process each; they end with their parent.
#include "base/base.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define FILE_SIZE (48 * MIB)
#define BLOCK 4096
#define PAUSE_NS 300000 // now and then, so that most of the disk is at rest

static uint64_t state;
static uint64_t next(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void pause_now(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

static int make_file(const char *name, int flags)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, FILE_SIZE) != 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

static void fill(uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i += 8)
        put_le64(buf + i, next(UINT64_MAX));
}

static void direct(uint8_t *buf)
{
    int fd = make_file("direct", O_DIRECT);
    for (unsigned n = 0;; n++) {
        size_t len = (1 + next(16)) * BLOCK;
        fill(buf, len);
        (void)fd_pwrite(fd, buf, len, next(FILE_SIZE / BLOCK - 16) * BLOCK);
        if (n % 4 == 0)
            pause_now();
    }
}

static void buffered(uint8_t *buf)
{
    int fd = make_file("buffered", 0);
    for (unsigned n = 0;; n++) {
        size_t len = 1 + next(30000);
        fill(buf, round_up(len, 8));
        (void)fd_pwrite(fd, buf, len, next(FILE_SIZE - len));
        if (n % 16 == 0)
            (void)fdatasync(fd);
        char name[32], other[32];
        (void)snprintf(name, sizeof(name), "small-%llu", (unsigned long long)next(200));
        (void)snprintf(other, sizeof(other), "small-%llu", (unsigned long long)next(200));
        int small = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (small >= 0)
            (void)fd_pwrite(small, buf, next(9000), 0);
        fd_close(small);
        if (n % 3 == 0)
            (void)rename(name, other);
        if (n % 8 == 0)
            (void)unlink(other);
        pause_now();
    }
}

static void mapped(uint8_t *buf)
{
    int fd = make_file("mapped", 0);
    uint8_t *p = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)buf;
    if (p == MAP_FAILED)
        exit(1);
    for (unsigned n = 0;; n++) {
        put_le64(p + next(FILE_SIZE / 8) * 8, next(UINT64_MAX));
        if (n % 64 == 0)
            (void)msync(p, FILE_SIZE, MS_SYNC);
        if (n % 4 == 0)
            pause_now();
    }
}

static void discarded(uint8_t *buf)
{
    int fd = make_file("discarded", O_DIRECT);
    int dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned n = 0;; n++) {
        uint64_t off = next(FILE_SIZE / MIB) * MIB;
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, MIB);
        fill(buf, BLOCK);
        (void)fd_pwrite(fd, buf, BLOCK, off + next(MIB / BLOCK) * BLOCK);
        struct fstrim_range all = {.len = UINT64_MAX};
        if (n % 16 == 0)
            (void)ioctl(dir, FITRIM, &all);
        for (int i = 0; i < 20; i++)
            pause_now();
    }
}

int main(int argc, char **argv)
{
    static void (*const kinds[])(uint8_t * buf) = {direct, buffered, mapped, discarded};
    uint64_t seed;
    if (argc != 3 || str_to_u64(argv[2], &seed) < 0 || chdir(argv[1]) < 0) {
        (void)fprintf(stderr, "usage: load FOLDER SEED\n");
        return 2;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    pid_t parent = getpid();
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (fork() == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                return 1;
            state = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
            kinds[i](alloc_aligned(MIB));
            return 1;
        }
    for (;;)
        (void)pause();
}
