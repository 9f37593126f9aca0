// SPDX-License-Identifier: Apache-2.0
// The input as the file of a replica map. What binds it to this machine (replica and
// source) and the checksums are put right first, else nothing would get past them. What
// opens gives extents on the disk, and nothing that follows fails in another way than by
// an error.
#include <stdio.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "map/map.h"

#define HEADER 4096
#define SIZE_MAX_TRIED (64 * MIB)

static void put_right(int fd, size_t size)
{
    for (uint64_t at = 0; at + HEADER <= size && at <= HEADER; at += HEADER) {
        uint8_t h[HEADER];
        struct statx st;
        if (fd_pread(fd, h, HEADER, at) || is_zero(h, HEADER) ||
            statx(-1, "/proc/self/exe", 0, STATX_BASIC_STATS | STATX_BTIME, &st))
            continue;
        put_le64(h + 32, get_le64(h + 32) % SIZE_MAX_TRIED);
        put_le64(h + 40, st.stx_ino);
        put_le64(h + 48, st.stx_mask & STATX_BTIME
                             ? (uint64_t)st.stx_btime.tv_sec * UINT64_C(1000000000) +
                                   st.stx_btime.tv_nsec
                             : 0);
        hash_block("fuzz", 4, h + 64);
        uint64_t from = get_le64(h + 96), n = get_le64(h + 104);
        if (from <= size && n <= (size - from) / 16) {
            AUTO(free) void *list = xmalloc(n * 16 + 1);
            if (fd_pread(fd, list, n * 16, from))
                abort();
            hash_block(list, n * 16, h + 112);
        }
        hash_block(h, HEADER - HASH_LEN, h + HEADER - HASH_LEN);
        if (fd_pwrite(fd, h, HEADER, at))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(fd_close) int fd = fuzz_fd(data, size);
    uint8_t size_bytes[8] = {0};
    char path[64];
    put_right(fd, size);
    if (size >= 40 && fd_pread(fd, size_bytes, 8, 32))
        abort();
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct map_key key = {
        .replica = "/proc/self/exe", .size = get_le64(size_bytes), .source = "fuzz"};
    if (size > 12 && data[12] == 2)
        key.hash = MAP_BLAKE2B;
    struct err e = {0};
    AUTO(map_close) struct map *m = NULL;
    if (key.size > SIZE_MAX_TRIED || map_open(path, &key, &m, &e))
        return 0;
    AUTO(extents_done) struct extents todo = {0};
    uint8_t hash[MAP_HASH_MAX] = {1};
    if (map_todo(m, &todo, &e) == 0)
        for (size_t i = 0; i < todo.n; i++)
            assert(todo.v[i].off < key.size && todo.v[i].len <= key.size - todo.v[i].off);
    struct map_entry entry;
    for (uint64_t b = 0; b < key.size / MAP_BLOCK; b += 7)
        if (map_get(m, b, 1, &entry, &e))
            assert(e.code == ERR_REFUSED);
    (void)map_digest(m, hash, &e); // an error is fine
    int r = map_begin(m, &todo, &e);
    assert(r == 0 && map_state(m).round != 0);
    r = key.size ? map_set(m, 0, hash, &e) : 0;
    assert(r == 0 && map_complete(m, &e) == 0 && map_state(m).round_complete);
    return 0;
}
