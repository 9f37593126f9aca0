// SPDX-License-Identifier: Apache-2.0
// A fresh folder that goes away with the test, also when it is interrupted; disks filled
// with blocks that describe themselves; tools run by one line.
#pragma once
#include "base/base.h"
#include "tap.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static char *scratch;
static pid_t scratch_owner;

__attribute__((unused)) static void scratch_remove(void)
{
    struct err e;
    if (getpid() == scratch_owner && scratch != NULL)
        (void)dir_remove(scratch, &e);
}
__attribute__((unused)) static void scratch_signal(int number)
{
    exit(128 + number); // with all that atexit() was told
}
__attribute__((unused)) static void scratch_make(void)
{
    struct err e;
    if (dir_temp(&scratch, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    scratch_owner = getpid();
    (void)atexit(scratch_remove);
    (void)signal(SIGINT, scratch_signal);
    (void)signal(SIGTERM, scratch_signal);
}

// A path in the folder; the last eight stay valid.
__attribute__((unused, format(printf, 1, 2))) static const char *in(const char *fmt, ...)
{
    static char paths[8][4096];
    static unsigned next;
    char *path = paths[next++ % 8], name[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(name, sizeof(name), fmt, ap);
    va_end(ap);
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", scratch, name);
    return path;
}

// Runs a line of the shell (in the folder); the test ends when it fails.
__attribute__((unused, format(printf, 1, 2))) static void sh(const char *fmt, ...)
{
    char line[8192];
    struct err e;
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(line, sizeof(line), "set -e; cd '%s'; ", scratch);
    (void)vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    va_end(ap);
    char *argv[] = {"sh", "-c", line, NULL};
    if (proc_run(argv, NULL, &e) < 0) {
        printf("Bail out! %s: %s\n", line, e.text);
        exit(1);
    }
}

// Bytes of the disk with this seed at `off`: every 16 of them say where they belong.
__attribute__((unused)) static void pattern(uint8_t *buf, size_t len, uint64_t off,
                                            uint64_t seed)
{
    for (size_t i = 0; i < len; i++) {
        uint64_t word = (off + i) / 8;
        uint64_t v =
            word % 2 ? (word ^ seed) * UINT64_C(0x9e3779b97f4a7c15) : word << 20 | seed;
        buf[i] = (uint8_t)(v >> (off + i) % 8 * 8);
    }
}
// Which 64 KiB blocks of a sparse disk hold data: about one in `every`, seeded.
__attribute__((unused)) static bool pattern_block(uint64_t off, uint64_t seed,
                                                  unsigned every)
{
    uint64_t x = (off / (64 * KIB) + 1) * UINT64_C(0xbf58476d1ce4e5b9) + seed;
    x ^= x >> 29;
    return every <= 1 || x * UINT64_C(0x94d049bb133111eb) >> 40 == 0 ||
           (x * UINT64_C(0x94d049bb133111eb) >> 40) % every == 0;
}
// What a disk of this seed and sparseness holds.
__attribute__((unused)) static void pattern_sparse(uint8_t *buf, size_t len, uint64_t off,
                                                   uint64_t seed, unsigned every)
{
    for (size_t i = 0, part; i < len; i += part) {
        uint64_t at = off + i;
        part = min_u64(len - i, 64 * KIB - at % (64 * KIB));
        if (pattern_block(at, seed, every))
            pattern(buf + i, part, at, seed);
        else
            memset(buf + i, 0, part);
    }
}
__attribute__((unused)) static void pattern_file(const char *path, uint64_t size,
                                                 uint64_t seed, unsigned every)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    static uint8_t block[64 * 1024];
    bool written = fd >= 0 && ftruncate(fd, (off_t)size) == 0;
    for (uint64_t off = 0; off < size && written; off += sizeof(block)) {
        size_t len = min_u64(sizeof(block), size - off);
        pattern(block, len, off, seed);
        if (pattern_block(off, seed, every))
            written = fd_pwrite(fd, block, len, off) == 0;
    }
    if (!written) {
        perror(path);
        exit(1);
    }
    close(fd);
}
