// SPDX-License-Identifier: Apache-2.0
// The replica map: what was written to a replica, block by block. A sparse file, all
// numbers little-endian:
//
//     0            header, in two sectors of 4096 bytes written in turn; the valid one
//     4096         with the higher generation counts
//     8192         entries: 24 or 40 bytes a block at a fixed place (entries.c); no
//                  entry, no room
//     extents_at   the open round's extents {off 8, len 8 with the kind in its two top
//                  bits}; a new round's list goes where it leaves the last one's alone
//
//     header   0 magic 8          24 generation 8      64 hash of the source's name 16
//              8 version 4        32 size 8            80 round 4, 84 complete 4
//             12 algorithm 4      40 inode 8           88 watermark 8
//             16 block size 4     48 birth (ns) 8      96 extents: place 8, count 8, hash
//             16 20 entry size 4     56 salt 8           128 source's name, cut, NUL
//                                                    4080 hash of all before it 16
//
// What must be true after a crash at any moment:
//   begin       the extents are durable, then the header, before the first write reaches
//               the replica. Both header sectors are written: a damaged one never leads
//               back to "round complete" while the replica is being changed.
//   checkpoint  the entries are durable, then the watermark.
// The watermark only ever understates, so an older header of the same round is true too.
// The replica is known by inode and birth time: inode numbers are given out again at
// once.

#include "map/map.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "entries.h"

#define HEADER_LEN ((size_t)4096)
#define ENTRIES_AT (2 * HEADER_LEN)
#define HEADER_SUM_AT (HEADER_LEN - HASH_LEN)
#define MAGIC "GWTMAP\r\n"
#define MAGIC_LEN 8
#define VERSION 1
#define N_ALGORITHMS 2
#define SOURCE_AT 128
#define SOURCE_MAX ((size_t)1024) // of the name, for messages; the hash decides
#define EXTENT_LEN 16
#define EXTENTS_PER_IO ((size_t)4096)
#define KIND_SHIFT 62

// By enum map_hash.
static const struct {
    uint32_t id;
    size_t len;
    const char *name;
} algorithms[N_ALGORITHMS] = {
    [MAP_XXH3] = {1, HASH_LEN, "XXH3-128"},
    [MAP_BLAKE2B] = {2, STRONG_LEN, "BLAKE2b-256"},
};

struct header {
    enum map_hash hash;
    uint64_t generation, size, inode, birth, salt;
    uint8_t source_hash[HASH_LEN];
    char source[SOURCE_MAX];
    struct map_state state;
    uint64_t extents_at, n_extents;
    uint8_t extents_hash[HASH_LEN];
};

struct map {
    int fd;
    char *path;
    struct entries *entries;
    pthread_mutex_t mutex; // header: its file sectors and the struct
    struct header header;
    // The header's, for workers: they must not wait for a checkpoint's flush.
    enum map_hash hash; // never changes
    _Atomic uint32_t round;
};

// --- the header
// -------------------------------------------------------------------------

static void header_encode(const struct header *h, uint8_t out[static HEADER_LEN])
{
    memset(out, 0, HEADER_LEN);
    memcpy(out, MAGIC, MAGIC_LEN);
    put_le32(out + 8, VERSION);
    put_le32(out + 12, algorithms[h->hash].id);
    put_le32(out + 16, (uint32_t)MAP_BLOCK);
    put_le32(out + 20, (uint32_t)ENTRY_LEN(algorithms[h->hash].len));
    put_le64(out + 24, h->generation);
    put_le64(out + 32, h->size);
    put_le64(out + 40, h->inode);
    put_le64(out + 48, h->birth);
    put_le64(out + 56, h->salt);
    memcpy(out + 64, h->source_hash, HASH_LEN);
    put_le32(out + 80, h->state.round);
    put_le32(out + 84, h->state.round_complete);
    put_le64(out + 88, h->state.watermark);
    put_le64(out + 96, h->extents_at);
    put_le64(out + 104, h->n_extents);
    memcpy(out + 112, h->extents_hash, HASH_LEN);
    memcpy(out + SOURCE_AT, h->source, SOURCE_MAX);
    hash_block(out, HEADER_SUM_AT, out + HEADER_SUM_AT);
}

static bool header_decode(const uint8_t in[static HEADER_LEN], struct header *ret)
{
    uint8_t sum[HASH_LEN];
    hash_block(in, HEADER_SUM_AT, sum);
    if (memcmp(in, MAGIC, MAGIC_LEN) != 0 ||
        memcmp(sum, in + HEADER_SUM_AT, HASH_LEN) != 0 || get_le32(in + 8) != VERSION ||
        get_le32(in + 16) != MAP_BLOCK || in[SOURCE_AT + SOURCE_MAX - 1] != 0)
        return false;
    size_t hash = 0;
    while (hash < N_ALGORITHMS && algorithms[hash].id != get_le32(in + 12))
        hash++;
    if (hash == N_ALGORITHMS || get_le32(in + 20) != ENTRY_LEN(algorithms[hash].len))
        return false;
    *ret = (struct header){
        .hash = (enum map_hash)hash,
        .generation = get_le64(in + 24),
        .size = get_le64(in + 32),
        .inode = get_le64(in + 40),
        .birth = get_le64(in + 48),
        .salt = get_le64(in + 56),
        .state = {.round = get_le32(in + 80),
                  .round_complete = get_le32(in + 84) != 0,
                  .watermark = get_le64(in + 88)},
        .extents_at = get_le64(in + 96),
        .n_extents = get_le64(in + 104),
    };
    memcpy(ret->source_hash, in + 64, HASH_LEN);
    memcpy(ret->extents_hash, in + 112, HASH_LEN);
    memcpy(ret->source, in + SOURCE_AT, SOURCE_MAX);
    // No map of ours comes this far; one more of either would begin at 0 again.
    return ret->state.round < UINT32_MAX / 2 && ret->generation < UINT64_MAX / 2 &&
           ret->state.watermark <= ret->size;
}

static uint64_t blocks_of(uint64_t size)
{
    return size / MAP_BLOCK + (size % MAP_BLOCK != 0);
}

static uint64_t entries_end(const struct header *h)
{
    return ENTRIES_AT +
           round_up(blocks_of(h->size) * ENTRY_LEN(algorithms[h->hash].len), HEADER_LEN);
}

// What the header says of the entries.
static void attach_entries(struct map *m, bool peek)
{
    const struct header *h = &m->header;
    m->hash = h->hash;
    m->entries =
        entries_new(&(struct entries_options){.fd = m->fd,
                                              .path = m->path,
                                              .at = ENTRIES_AT,
                                              .n_blocks = blocks_of(h->size),
                                              .salt = h->salt,
                                              .hash_len = algorithms[h->hash].len,
                                              .peek = peek});
}

static int map_sync(struct map *m, struct err *e)
{
    if (fdatasync(m->fd))
        return err_errno(e, errno, "cannot flush the map %s", m->path);
    return 0;
}

// Writes the next generation and makes it durable; m->header becomes it.
static int header_write(struct map *m, struct header next, struct err *e)
{
    uint8_t bytes[HEADER_LEN];
    next.generation = m->header.generation + 1;
    header_encode(&next, bytes);
    if (fd_pwrite(m->fd, bytes, HEADER_LEN, next.generation % 2 * HEADER_LEN))
        return err_errno(e, errno, "cannot write the map %s", m->path);
    if (map_sync(m, e))
        return -1;
    m->header = next;
    m->round = next.state.round;
    return 0;
}

// --- what a map belongs to
// --------------------------------------------------------------

static int key_header(const struct map_key *key, struct header *ret, struct err *e)
{
    struct statx st;
    if (statx(AT_FDCWD, key->replica, 0, STATX_BASIC_STATS | STATX_BTIME, &st))
        return err_errno(e, errno, "cannot look at the replica %s", key->replica);
    *ret = (struct header){.size = key->size, .inode = st.stx_ino, .hash = key->hash};
    if (S_ISBLK(st.stx_mode)) {
        ret->inode = makedev(st.stx_rdev_major, st.stx_rdev_minor);
    } else if (st.stx_mask & STATX_BTIME) {
        ret->birth =
            (uint64_t)st.stx_btime.tv_sec * UINT64_C(1000000000) + st.stx_btime.tv_nsec;
    }
    hash_block(key->source, strlen(key->source), ret->source_hash);
    memcpy(ret->source, key->source, min_u64(strlen(key->source), SOURCE_MAX - 1));
    return 0;
}

static bool same_replica(const struct header *a, const struct header *b)
{
    return a->inode == b->inode && a->birth == b->birth;
}

static int key_matches(const char *path, const struct map_key *key,
                       const struct header *have, const struct header *want,
                       struct err *e)
{
    if (memcmp(have->source_hash, want->source_hash, HASH_LEN) != 0)
        return err_set(e, ERR_REFUSED,
                       "the map %s belongs to another source or an older state of it: %s",
                       path, have->source);
    if (have->size != want->size)
        return err_set(e, ERR_REFUSED,
                       "the map %s belongs to a disk of %llu bytes, this one has %llu",
                       path, (unsigned long long)have->size,
                       (unsigned long long)want->size);
    if (have->hash != want->hash)
        return err_set(e, ERR_REFUSED, "the map %s has hashes of %s, wanted are %s", path,
                       algorithms[have->hash].name, algorithms[want->hash].name);
    if (!same_replica(have, want))
        return err_set(e, ERR_REFUSED,
                       "the map %s belongs to another replica: %s was replaced", path,
                       key->replica);
    return 0;
}

// --- the round's extents
// ----------------------------------------------------------------

// Reads and checks the list of the open round; out may be NULL.
static int extents_load(struct map *m, struct extents *out, struct err *e)
{
    const struct header *h = &m->header;
    AUTO(free) void *bytes = xmalloc(EXTENTS_PER_IO * EXTENT_LEN);
    AUTO(hash_free) struct hash *hash = hash_new();
    AUTO(extents_done) struct extents list = {0};
    bool ordered = true;
    for (uint64_t i = 0, end = 0; i < h->n_extents && ordered;) {
        size_t n = (size_t)min_u64(EXTENTS_PER_IO, h->n_extents - i);
        if (fd_pread(m->fd, bytes, n * EXTENT_LEN, h->extents_at + i * EXTENT_LEN))
            return err_errno(e, errno, "cannot read the map %s", m->path);
        hash_add(hash, bytes, n * EXTENT_LEN);
        i += n;
        const uint8_t *p = bytes;
        for (; n && ordered; n--, p += EXTENT_LEN) {
            uint64_t off = get_le64(p), len = get_le64(p + 8) << 2 >> 2;
            uint64_t kind = get_le64(p + 8) >> KIND_SHIFT;
            ordered = off >= end && len > 0 && len <= h->size && off <= h->size - len &&
                      kind <= EXTENT_DATA;
            end = off + len;
            if (ordered && out)
                extents_append(&list, off, len, (enum extent_kind)kind);
        }
    }
    uint8_t sum[HASH_LEN];
    hash_end(hash, sum);
    if (!ordered || memcmp(sum, h->extents_hash, HASH_LEN) != 0)
        return err_set(e, ERR_REFUSED,
                       "the map %s is damaged (extents of round %u); copy again from the "
                       "start",
                       m->path, h->state.round);
    if (out) {
        *out = list;
        list = (struct extents){0};
    }
    return 0;
}

static int extents_store(struct map *m, const struct extents *todo, struct header *h,
                         struct err *e)
{
    AUTO(free) void *bytes = xmalloc(EXTENTS_PER_IO * EXTENT_LEN);
    AUTO(hash_free) struct hash *hash = hash_new();
    uint64_t start = entries_end(h), need = (uint64_t)todo->n * EXTENT_LEN;
    uint64_t old_end = h->extents_at + h->n_extents * EXTENT_LEN;
    h->extents_at = need <= h->extents_at - start ? start : old_end;
    h->n_extents = todo->n;
    for (size_t i = 0; i < todo->n;) {
        size_t n = min_u64(EXTENTS_PER_IO, todo->n - i);
        uint8_t *p = bytes;
        for (size_t k = 0; k < n; k++, p += EXTENT_LEN) {
            const struct extent *x = &todo->v[i + k];
            put_le64(p, x->off);
            put_le64(p + 8, x->len | (uint64_t)x->kind << KIND_SHIFT);
        }
        if (fd_pwrite(m->fd, bytes, n * EXTENT_LEN, h->extents_at + i * EXTENT_LEN))
            return err_errno(e, errno, "cannot write the map %s", m->path);
        hash_add(hash, bytes, n * EXTENT_LEN);
        i += n;
    }
    hash_end(hash, h->extents_hash);
    return map_sync(m, e);
}

// --- opening
// ----------------------------------------------------------------------------

static int map_file(const char *path, int flags, struct map **ret, struct err *e)
{
    AUTO(map_close) struct map *m = xcalloc(1, sizeof(*m));
    pthread_mutex_init(&m->mutex, NULL);
    m->path = xstrdup(path);
    m->fd = open(path, O_CLOEXEC | flags, 0600);
    if (m->fd < 0)
        return err_errno(e, errno, "cannot open the map %s", path);
    struct stat st;
    if (fstat(m->fd, &st) || !S_ISREG(st.st_mode))
        return err_set(e, ERR_REFUSED, "the map %s is no regular file", path);
    if (flags != O_RDONLY && flock(m->fd, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK
                   ? err_set(e, ERR_REFUSED,
                             "the map %s is in use by another godwit; wait for it", path)
                   : err_errno(e, errno, "cannot lock the map %s", path);
    *ret = steal(m);
    return 0;
}

static int dir_sync(const char *path, struct err *e)
{
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(fd_close) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return err_errno(e, errno, "cannot flush the folder %s", dir);
    return 0;
}

int map_create(const char *path, const struct map_key *key, struct map **ret,
               struct err *e)
{
    AUTO(map_close) struct map *m = NULL;
    struct header h;
    uint64_t salt = 0;
    if (key_header(key, &h, e) || map_file(path, O_RDWR | O_CREAT, &m, e))
        return -1;
    if (getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
        return err_errno(e, errno, "cannot get random bytes");
    // Emptied first and durably: a crash on the way leaves a map that says nothing.
    if (ftruncate(m->fd, 0) || fsync(m->fd) || ftruncate(m->fd, (off_t)entries_end(&h)))
        return err_errno(e, errno, "cannot make the map %s", path);
    h.salt = salt;
    h.extents_at = entries_end(&h);
    AUTO(hash_free) struct hash *nothing = hash_new();
    hash_end(nothing, h.extents_hash);
    if (header_write(m, h, e) || header_write(m, h, e) || map_sync(m, e) ||
        dir_sync(path, e))
        return -1;
    attach_entries(m, false);
    *ret = steal(m);
    return 0;
}

// *ret_none: the file holds nothing yet (a map_create that was killed, or no file).
static int header_read(struct map *m, bool *ret_none, bool *ret_mend, struct err *e)
{
    uint8_t bytes[2 * HEADER_LEN] = {0};
    struct stat st;
    if (fstat(m->fd, &st))
        return err_errno(e, errno, "cannot look at the map %s", m->path);
    uint64_t size = (uint64_t)st.st_size;
    if (fd_pread(m->fd, bytes, min_u64(sizeof(bytes), size), 0))
        return err_errno(e, errno, "cannot read the map %s", m->path);
    *ret_none = is_zero(bytes, sizeof(bytes));
    if (*ret_none)
        return 0;
    struct header h[2];
    bool ok[2];
    for (size_t i = 0; i < 2; i++)
        ok[i] = header_decode(bytes + i * HEADER_LEN, &h[i]);
    if (!ok[0] && !ok[1])
        return err_set(e, ERR_REFUSED,
                       "%s is not a map of this version, or is damaged; copy again from "
                       "the start",
                       m->path);
    // The other sector is brought in step before anything may rely on this one alone.
    *ret_mend = !ok[0] || !ok[1] || h[0].state.round != h[1].state.round;
    m->header = ok[1] && (!ok[0] || h[1].generation > h[0].generation) ? h[1] : h[0];
    const struct header *now = &m->header;
    if (now->size > INT64_MAX / 2 || size < entries_end(now) ||
        now->extents_at < entries_end(now) || now->extents_at > size ||
        now->n_extents > (size - now->extents_at) / EXTENT_LEN)
        return err_set(e, ERR_REFUSED, "the map %s is cut off; copy again from the start",
                       m->path);
    return 0;
}

int map_is_of(const char *path, const char *replica, bool *ret, struct err *e)
{
    AUTO(map_close) struct map *m = NULL;
    struct header want;
    bool none = false, mend;
    struct map_key key = {.replica = replica, .source = ""};
    if (key_header(&key, &want, e) || map_file(path, O_RDWR, &m, e))
        return -1;
    struct err unreadable;
    *ret = header_read(m, &none, &mend, &unreadable) == 0 && !none &&
           same_replica(&m->header, &want);
    return 0;
}

int map_may_replace(const char *path, struct err *e)
{
    uint8_t bytes[2 * HEADER_LEN] = {0};
    struct stat st;
    if (stat(path, &st))
        return errno == ENOENT ? 0 : err_errno(e, errno, "cannot look at %s", path);
    AUTO(fd_close) int fd = -1;
    if (S_ISREG(st.st_mode))
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fd_pread(fd, bytes, min_u64(sizeof(bytes), (uint64_t)st.st_size), 0))
        return err_set(e, ERR_REFUSED, "%s cannot be the map: it is no file to be read",
                       path);
    // A file that holds nothing: map_create was killed between its two steps.
    bool begun = st.st_blocks == 0 && is_zero(bytes, sizeof(bytes));
    if (begun || memcmp(bytes, MAGIC, MAGIC_LEN) == 0 ||
        memcmp(bytes + HEADER_LEN, MAGIC, MAGIC_LEN) == 0)
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s is there already and is no map: remove it, or keep the map "
                   "elsewhere",
                   path);
}

int map_open(const char *path, const struct map_key *key, struct map **ret, struct err *e)
{
    AUTO(map_close) struct map *m = NULL;
    struct header want;
    bool none = false, mend = false;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return map_create(path, key, ret, e);
    if (key_header(key, &want, e) || map_file(path, O_RDWR, &m, e) ||
        header_read(m, &none, &mend, e))
        return -1;
    if (none) {
        map_close(steal(m));
        return map_create(path, key, ret, e);
    }
    if (key_matches(path, key, &m->header, &want, e) || extents_load(m, NULL, e) ||
        (mend && header_write(m, m->header, e)))
        return -1;
    m->round = m->header.state.round;
    attach_entries(m, false);
    *ret = steal(m);
    return 0;
}

int map_peek(const char *path, struct map **ret, struct err *e)
{
    AUTO(map_close) struct map *m = NULL;
    bool none = false, mend = false;
    if (map_file(path, O_RDONLY, &m, e) || header_read(m, &none, &mend, e))
        return -1;
    if (none)
        return err_set(e, ERR_REFUSED, "the map %s says nothing yet", path);
    m->round = UINT32_MAX / 2; // the owner opens new ones
    attach_entries(m, true);
    *ret = steal(m);
    return 0;
}

void map_close(struct map *m)
{
    if (!m)
        return;
    // What was set since the last checkpoint is handed to the kernel: it may be of use
    // to nobody, but it is never wrong.
    struct err ignored;
    if (m->entries)
        (void)entries_write(m->entries, &ignored);
    entries_free(m->entries);
    fd_close(m->fd);
    pthread_mutex_destroy(&m->mutex);
    free(m->path);
    free(m);
}

// --- rounds
// -----------------------------------------------------------------------------

uint64_t map_size(const struct map *m)
{
    return m->header.size; // never changes
}

struct map_state map_state(const struct map *m)
{
    struct map *locked = (struct map *)m; // the mutex is not part of what m says
    pthread_mutex_lock(&locked->mutex);
    struct map_state state = m->header.state;
    pthread_mutex_unlock(&locked->mutex);
    return state;
}

int map_begin(struct map *m, const struct extents *todo, struct err *e)
{
    pthread_mutex_lock(&m->mutex);
    struct header next = m->header;
    next.state = (struct map_state){.round = m->header.state.round + 1};
    int result = entries_write(m->entries, e);
    if (result == 0)
        result = extents_store(m, todo, &next, e);
    // Twice, so that both sectors say so: see the top of this file.
    if (result == 0)
        result = header_write(m, next, e);
    if (result == 0)
        result = header_write(m, next, e);
    pthread_mutex_unlock(&m->mutex);
    return result;
}

int map_todo(struct map *m, struct extents *ret, struct err *e)
{
    pthread_mutex_lock(&m->mutex);
    int result = extents_load(m, ret, e);
    pthread_mutex_unlock(&m->mutex);
    return result;
}

enum map_hash map_algorithm(const struct map *m)
{
    return m->hash;
}

void map_hash(const struct map *m, const void *data, size_t len,
              uint8_t ret_hash[static MAP_HASH_MAX])
{
    memset(ret_hash, 0, MAP_HASH_MAX);
    if (m->hash == MAP_BLAKE2B)
        strong_hash(data, len, ret_hash);
    else
        hash_block(data, len, ret_hash);
}

int map_set(struct map *m, uint64_t block, const uint8_t *hash, struct err *e)
{
    return entries_set(m->entries, block, hash, m->round, e);
}

static int state_write(struct map *m, bool complete, uint64_t watermark, struct err *e)
{
    pthread_mutex_lock(&m->mutex);
    struct header next = m->header;
    next.state.round_complete = complete;
    next.state.watermark = watermark;
    int result = entries_write(m->entries, e);
    if (result == 0)
        result = map_sync(m, e);
    if (result == 0)
        result = header_write(m, next, e);
    pthread_mutex_unlock(&m->mutex);
    return result;
}

int map_checkpoint(struct map *m, uint64_t watermark, struct err *e)
{
    return state_write(m, false, watermark, e);
}

int map_complete(struct map *m, struct err *e)
{
    return state_write(m, true, m->header.size, e);
}

int map_get(struct map *m, uint64_t block, size_t n, struct map_entry *ret, struct err *e)
{
    return entries_get(m->entries, block, n, m->round, ret, e);
}

int map_next(struct map *m, uint64_t block, uint64_t *ret, struct err *e)
{
    return entries_next(m->entries, block, ret, e);
}

int map_digest(struct map *m, uint8_t ret_hash[static HASH_LEN], struct err *e)
{
    AUTO(hash_free) struct hash *h = hash_new();
    uint8_t size[8];
    put_le64(size, m->header.size);
    hash_add(h, size, sizeof(size));
    if (entries_hash(m->entries, m->round, h, e))
        return -1;
    hash_end(h, ret_hash);
    return 0;
}
