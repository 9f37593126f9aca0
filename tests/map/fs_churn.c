// SPDX-License-Identifier: Apache-2.0
// Works on a mounted file system at random, from a seed: creates, appends, overwrites,
// truncates, punches, preallocates, clones, links, renames and deletes files. What a file
// system cannot do is left out.
//
//     fs_churn FOLDER SEED STEPS LARGEST-FILE

#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_NAMES 400

static uint64_t seed, largest;
static uint8_t data[64 * KIB];

static uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

// Small sizes are likelier.
static uint64_t rnd_size(void)
{
    return rnd(1 + rnd(1 + rnd(largest)));
}

static void name_of(char out[static 32], uint64_t i)
{
    (void)snprintf(out, 32, "d%llu/f%llu", (unsigned long long)(i % 13),
                   (unsigned long long)i);
}

static void fill(int fd, uint64_t off, uint64_t len)
{
    while (len) {
        size_t n = (size_t)min_u64(len, sizeof(data));
        for (size_t i = 0; i < n; i += 8)
            put_le64(data + i, rnd(UINT64_MAX));
        if (fd_pwrite(fd, data, n, off) < 0)
            return; // full: part of the game
        off += n;
        len -= n;
    }
}

static void clone_range(int fd, const char *from)
{
    AUTO(fd_close) int src = open(from, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (src < 0 || fstat(src, &st) < 0)
        return;
    struct file_clone_range r = {.src_fd = src};
    r.src_offset = round_down(rnd((uint64_t)st.st_size + 1), 4096);
    r.dest_offset = round_down(rnd_size(), 4096);
    r.src_length = 0;                  // to the end
    (void)ioctl(fd, FICLONERANGE, &r); // not every file system can
}

static void change(const char *name)
{
    char other[32];
    name_of(other, rnd(N_NAMES));
    AUTO(fd_close) int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    switch (rnd(8)) {
    case 0:
        (void)!ftruncate(fd, (off_t)rnd_size());
        break;
    case 1:
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)rnd_size(),
                        (off_t)rnd_size() + 1);
        break;
    case 2:
        (void)fallocate(fd, (int)rnd(2) * FALLOC_FL_KEEP_SIZE, (off_t)rnd_size(),
                        (off_t)rnd_size() + 1);
        break;
    case 3:
        clone_range(fd, other);
        break;
    case 4:
        fill(fd, rnd_size(), rnd_size());
        (void)fsync(fd);
        break;
    default:
        fill(fd, rnd_size(), rnd_size());
    }
}

int main(int argc, char **argv)
{
    uint64_t steps;
    if (argc != 5 || chdir(argv[1]) < 0 || str_to_u64(argv[2], &seed) < 0 ||
        str_to_u64(argv[3], &steps) < 0 || str_to_bytes(argv[4], &largest) < 0) {
        (void)fprintf(stderr, "fs_churn: FOLDER SEED STEPS LARGEST-FILE\n");
        return 2;
    }
    seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int i = 0; i < 13; i++) {
        char dir[16];
        (void)snprintf(dir, sizeof(dir), "d%d", i);
        if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
            perror(dir);
            return 1;
        }
    }
    while (steps--) {
        char name[32], other[32];
        name_of(name, rnd(N_NAMES));
        name_of(other, rnd(N_NAMES));
        uint64_t op = rnd(20);
        if (op < 5)
            (void)unlink(name);
        else if (op == 5)
            (void)rename(name, other);
        else if (op == 6)
            (void)!link(name, other);
        else
            change(name);
    }
    return 0;
}
