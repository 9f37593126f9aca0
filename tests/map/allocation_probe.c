// SPDX-License-Identifier: Apache-2.0
// What is in use on the disks of one guest, for the shell tests.
//
//     allocation_probe show IMAGE…      prints the allocation as JSON
//     allocation_probe scribble IMAGE…  the same, and fills what is free with 0xa5
//     allocation_probe memory IMAGE…    the same, and fails above 32 MiB of memory

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "map/map.h"

static uint8_t block[MIB];

static int fill(int fd, uint64_t from, uint64_t to)
{
    for (uint64_t off = from; off < to; off += sizeof(block))
        if (fd_pwrite(fd, block, (size_t)min_u64(sizeof(block), to - off), off))
            return -1;
    return 0;
}

static int scribble(const char *path, const struct extents *used, uint64_t size)
{
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CLOEXEC);
    uint64_t at = 0;
    memset(block, 0xa5, sizeof(block));
    for (size_t i = 0; i < used->n; i++) {
        if (fill(fd, at, used->v[i].off))
            return -1;
        at = used->v[i].off + used->v[i].len;
    }
    return fill(fd, at, size) || fsync(fd) ? -1 : 0;
}

static long peak_kib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static int run(const char *mode, char **paths, struct disk **disks, size_t n,
               struct err *e)
{
    AUTO(allocation_done) struct allocation a = {0};
    for (size_t i = 0; i < n; i++) {
        struct file_options options = {.path = paths[i], .buffered = true};
        if (file_open(&options, &disks[i], e))
            return -1;
    }
    long before = peak_kib();
    if (allocation_read(disks, n, NULL, &a, e))
        return -1;
    long more = peak_kib() - before;
    AUTO(json_free) json_t *j = allocation_json(&a);
    AUTO(str_free) char *text = json_text(j);
    printf("%s\n", text);
    if (strcmp(mode, "memory") == 0) {
        (void)fprintf(stderr, "%ld KiB\n", more);
        return more <= 32 * 1024 ? 0 : err_set(e, ERR_FAILED, "%ld KiB of memory", more);
    }
    for (size_t i = 0; i < n && strcmp(mode, "scribble") == 0; i++)
        if (scribble(paths[i], &a.used[i], disks[i]->size))
            return err_set(e, ERR_FAILED, "cannot write %s", paths[i]);
    return 0;
}

int main(int argc, char **argv)
{
    struct disk *disks[64] = {0};
    struct err e = {0};
    if (argc < 3 || argc > 64)
        return 2;
    int result = run(argv[1], argv + 2, disks, (size_t)argc - 2, &e);
    for (size_t i = 0; i < ARRAY_LEN(disks); i++)
        disk_close(disks[i]);
    if (result)
        (void)fprintf(stderr, "%s\n", e.text);
    return result ? (int)e.code : 0;
}
