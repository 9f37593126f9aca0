// SPDX-License-Identifier: Apache-2.0
// The entries of a replica map. Each has a fixed place: {hash, round 4, check 4} at its
// length * block, all zeros when the block has none. The check covers the block
// number, the hash, the round and the map's salt, so a flipped bit, a torn write or an
// entry at the wrong place is found when it is read.
//
// Workers set entries in roughly ascending order, each at a place of its own. Pages of
// 512 entries (32 MiB of disk, three or five blocks of a file system) are kept in a
// direct-mapped cache and written when their slot is needed or a checkpoint asks: 2.5 MiB
// of memory at most whatever the disk's size, and setting a zero block to zero writes
// nothing.

#include "entries.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

#define PAGE_ENTRIES 512
#define ENTRY_MAX ENTRY_LEN(MAP_HASH_MAX)
#define N_PAGES 128
#define NO_PAGE UINT64_MAX

struct page {
    uint64_t no; // NO_PAGE: nothing in it
    bool dirty;
    uint8_t *bytes;
};

struct entries {
    int fd;
    const char *path;
    uint64_t at, n_blocks, salt;
    size_t hash_len, entry_len, page_len; // bytes
    bool peek;
    pthread_mutex_t mutex; // pages
    struct page pages[N_PAGES];
};

struct entries *entries_new(const struct entries_options *o)
{
    struct entries *s = xcalloc(1, sizeof(*s));
    s->fd = o->fd;
    s->path = o->path;
    s->at = o->at;
    s->n_blocks = o->n_blocks;
    s->salt = o->salt;
    s->peek = o->peek;
    s->hash_len = o->hash_len;
    s->entry_len = ENTRY_LEN(o->hash_len);
    s->page_len = PAGE_ENTRIES * s->entry_len;
    pthread_mutex_init(&s->mutex, NULL);
    for (size_t i = 0; i < N_PAGES; i++)
        s->pages[i].no = NO_PAGE;
    return s;
}

void entries_free(struct entries *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < N_PAGES; i++)
        free(s->pages[i].bytes);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static uint32_t entry_check(const struct entries *s, uint64_t block, const uint8_t *entry)
{
    uint8_t text[16 + ENTRY_MAX], sum[HASH_LEN];
    size_t len = s->hash_len + 4; // hash and round
    put_le64(text, block);
    put_le64(text + 8, s->salt);
    memcpy(text + 16, entry, len);
    hash_block(text, 16 + len, sum);
    return get_le32(sum);
}

static int entry_decode(const struct entries *s, uint64_t block, const uint8_t *p,
                        uint32_t max_round, struct map_entry *ret, struct err *e)
{
    struct map_entry entry = {.round = get_le32(p + s->hash_len)};
    memcpy(entry.hash, p, s->hash_len);
    if (!is_zero(p, s->entry_len) &&
        (entry.round == 0 || entry.round > max_round ||
         get_le32(p + s->hash_len + 4) != entry_check(s, block, p)))
        return err_set(e, ERR_REFUSED,
                       "the map %s is damaged at block %llu; copy again from the start",
                       s->path, (unsigned long long)block);
    *ret = entry;
    return 0;
}

// Pages lie in the file as in memory; the last one may reach past the last block.
static size_t page_len(const struct entries *s, uint64_t no)
{
    return (size_t)min_u64(PAGE_ENTRIES, s->n_blocks - no * PAGE_ENTRIES) * s->entry_len;
}

static int page_write(struct entries *s, struct page *p, struct err *e)
{
    if (!p->dirty)
        return 0;
    if (fd_pwrite(s->fd, p->bytes, page_len(s, p->no), s->at + p->no * s->page_len))
        return err_errno(e, errno, "cannot write the map %s", s->path);
    p->dirty = false;
    return 0;
}

static int page_get(struct entries *s, uint64_t no, struct page **ret, struct err *e)
{
    // One slot is enough where nothing is kept.
    struct page *p = &s->pages[s->peek ? 0 : no % N_PAGES];
    if (p->no != no || s->peek) {
        if (page_write(s, p, e))
            return -1;
        if (!p->bytes)
            p->bytes = xmalloc(s->page_len);
        p->no = NO_PAGE;
        if (fd_pread(s->fd, p->bytes, page_len(s, no), s->at + no * s->page_len))
            return err_errno(e, errno, "cannot read the map %s", s->path);
        p->no = no;
    }
    *ret = p;
    return 0;
}

int entries_set(struct entries *s, uint64_t block, const uint8_t *hash, uint32_t round,
                struct err *e)
{
    assert(block < s->n_blocks);
    uint8_t entry[ENTRY_MAX] = {0};
    if (hash) {
        memcpy(entry, hash, s->hash_len);
        put_le32(entry + s->hash_len, round);
        put_le32(entry + s->hash_len + 4, entry_check(s, block, entry));
    }
    struct page *p = NULL;
    pthread_mutex_lock(&s->mutex);
    int result = page_get(s, block / PAGE_ENTRIES, &p, e);
    if (result == 0) {
        uint8_t *at = p->bytes + block % PAGE_ENTRIES * s->entry_len;
        if (memcmp(at, entry, s->entry_len) != 0) {
            memcpy(at, entry, s->entry_len);
            p->dirty = true;
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return result;
}

static int get_locked(struct entries *s, uint64_t block, size_t n, uint32_t max_round,
                      struct map_entry *ret, struct err *e)
{
    struct page *p = NULL;
    for (size_t i = 0; i < n; i++) {
        uint64_t b = block + i;
        if ((i == 0 || b % PAGE_ENTRIES == 0) && page_get(s, b / PAGE_ENTRIES, &p, e))
            return -1;
        if (entry_decode(s, b, p->bytes + b % PAGE_ENTRIES * s->entry_len, max_round,
                         &ret[i], e))
            return -1;
    }
    return 0;
}

int entries_get(struct entries *s, uint64_t block, size_t n, uint32_t max_round,
                struct map_entry *ret, struct err *e)
{
    assert(block <= s->n_blocks && n <= s->n_blocks - block);
    pthread_mutex_lock(&s->mutex);
    int result = get_locked(s, block, n, max_round, ret, e);
    pthread_mutex_unlock(&s->mutex);
    return result;
}

int entries_write(struct entries *s, struct err *e)
{
    int result = 0;
    pthread_mutex_lock(&s->mutex);
    for (size_t i = 0; i < N_PAGES && result == 0; i++)
        result = page_write(s, &s->pages[i], e);
    pthread_mutex_unlock(&s->mutex);
    return result;
}

static int hash_range(struct entries *s, uint64_t first, uint64_t end, uint32_t max_round,
                      struct hash *h, struct err *e)
{
    struct map_entry entry;
    for (uint64_t b = first; b < end; b++) {
        uint8_t text[8 + MAP_HASH_MAX];
        if (get_locked(s, b, 1, max_round, &entry, e))
            return -1;
        if (entry.round == 0)
            continue;
        put_le64(text, b);
        memcpy(text + 8, entry.hash, s->hash_len);
        hash_add(h, text, 8 + s->hash_len);
    }
    return 0;
}

// Blocks [*first, *end) from `block` on that the file holds entries for, by its holes: a
// sparse 16 TiB disk is quick. *first is n_blocks when there are none.
static int find_data(struct entries *s, uint64_t block, uint64_t *first, uint64_t *end,
                     struct err *e)
{
    *first = *end = s->n_blocks;
    if (block >= s->n_blocks)
        return 0;
    off_t data = lseek(s->fd, (off_t)(s->at + block * s->entry_len), SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    off_t hole = data < 0 ? -1 : lseek(s->fd, data, SEEK_HOLE);
    if (hole < 0)
        return err_errno(e, errno, "cannot find the data of the map %s", s->path);
    uint64_t from = ((uint64_t)data - s->at) / s->entry_len;
    uint64_t to = ((uint64_t)hole - s->at + s->entry_len - 1) / s->entry_len;
    *first = min_u64(max_u64(from, block), s->n_blocks);
    *end = min_u64(max_u64(to, *first + 1), s->n_blocks);
    return 0;
}

int entries_next(struct entries *s, uint64_t block, uint64_t *ret, struct err *e)
{
    uint64_t end;
    if (entries_write(s, e))
        return -1;
    return find_data(s, block, ret, &end, e);
}

static int hash_locked(struct entries *s, uint32_t max_round, struct hash *h,
                       struct err *e)
{
    uint64_t first, end;
    for (uint64_t b = 0; b < s->n_blocks; b = end)
        if (find_data(s, b, &first, &end, e) ||
            hash_range(s, first, end, max_round, h, e))
            return -1;
    return 0;
}

int entries_hash(struct entries *s, uint32_t max_round, struct hash *h, struct err *e)
{
    if (entries_write(s, e))
        return -1;
    pthread_mutex_lock(&s->mutex);
    int result = hash_locked(s, max_round, h, e);
    pthread_mutex_unlock(&s->mutex);
    return result;
}
