// SPDX-License-Identifier: Apache-2.0
// For tests/agent/settle:
//
//     settle_tool load DIR                   writes, directly and through the cache,
//     creates
//                                            and deletes until it is killed; syncs
//                                            nothing
//     settle_tool rebuild USED ARMED FINAL OUT
//                                            FINAL as a replica would have it: blocks in
//                                            use (lines "offset length") and blocks that
//                                            are not as they were when the tracker was
//                                            armed

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"

#define BLOCK 4096
#define PIECE (64 * KIB)
#define FILES 48 // that live at once beside those which stay

static void fill(uint64_t *p, size_t len)
{
    static uint64_t state = 88172645463325252;
    for (size_t i = 0; i < len / sizeof(*p); i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        p[i] = state;
    }
}

static int write_file(const char *path, unsigned pieces, bool direct, uint64_t *data)
{
    AUTO(fd_close)
    int fd = open(
        path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600);
    if (fd < 0)
        return -1;
    for (unsigned i = 0; i < pieces; i++) {
        fill(data, PIECE);
        if (fd_pwrite(fd, data, PIECE, i * PIECE) < 0)
            return -1;
    }
    return 0;
}

static int load(const char *dir)
{
    AUTO(free) void *data = alloc_aligned(PIECE);
    for (unsigned n = 0;; n++) {
        // Every fourth stays, until the room is half gone.
        bool stays = n % 4 == 0 && n < 1600;
        AUTO(str_free)
        char *path = stays ? xasprintf("%s/stays-%u", dir, n)
                           : xasprintf("%s/comes-%u", dir, n % FILES);
        if (!stays)
            unlink(path);
        if (write_file(path, 1 + n % 5, n % 3 != 0, data) < 0 && errno != ENOSPC) {
            perror(path);
            return 1;
        }
        usleep(5000);
    }
}

static int rebuild(char **args)
{
    uint8_t armed[BLOCK], final[BLOCK];
    unsigned long long off = 0, len = 0;
    FILE *used = fopen(args[0], "re"), *a = fopen(args[1], "re");
    FILE *f = fopen(args[2], "re"), *out = fopen(args[3], "we");
    if (!used || !a || !f || !out)
        return 1;
    for (uint64_t at = 0; fread(final, BLOCK, 1, f) == 1; at += BLOCK) {
        bool more = true;
        if (fread(armed, BLOCK, 1, a) != 1)
            return 1;
        while (more && off + len <= at)
            more = fscanf(used, "%llu %llu", &off, &len) == 2;
        bool copied = (off < at + BLOCK && off + len > at) || memcmp(armed, final, BLOCK);
        if (!copied)
            memset(final, 0, BLOCK);
        if (fwrite(final, BLOCK, 1, out) != 1)
            return 1;
    }
    return fclose(out) ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "load") == 0)
        return load(argv[2]);
    if (argc == 6 && strcmp(argv[1], "rebuild") == 0)
        return rebuild(argv + 2);
    fprintf(stderr, "usage: see the top of settle_tool.c\n");
    return 2;
}
