// SPDX-License-Identifier: Apache-2.0
// The "newc" cpio format as Documentation/driver-api/early-userspace/buffer-format.rst of
// Linux and cpio(5) describe it: a header of 110 bytes of ASCII hexadecimal, the name,
// NUL padding to 4, the content, padding to 4; an entry called TRAILER!!! ends an
// archive. The reader is a state machine fed with pieces, since images are unpacked as
// they are read.
#include "guest/initramfs.h"

#include <stdio.h>
#include <sys/stat.h>

#define HEADER 110
#define NAME_MAX_LEN 4096
#define TRAILER "TRAILER!!!"

enum state { AT_START, IN_HEADER, IN_NAME, NAME_PAD, IN_DATA, DATA_PAD, ENDED };

struct cpio_reader {
    struct cpio_sink sink;
    enum state state;
    uint8_t header[HEADER];
    char name[NAME_MAX_LEN + 1];
    size_t have; // of what the state collects
    size_t name_len;
    uint64_t pos;  // in the archive
    uint64_t left; // of data
    uint64_t n_entries;
    struct cpio_entry entry;
};

struct cpio_reader *cpio_new(const struct cpio_sink *sink)
{
    struct cpio_reader *r = xcalloc(1, sizeof(*r));
    r->sink = *sink;
    return r;
}

void cpio_free(struct cpio_reader *r)
{
    free(r);
}

bool cpio_ended(const struct cpio_reader *r)
{
    return r->state == ENDED || r->state == AT_START;
}

static bool hex_field(const uint8_t *header, size_t index, uint32_t *ret)
{
    const uint8_t *p = header + 6 + index * 8;
    uint32_t v = 0;
    for (size_t i = 0; i < 8; i++) {
        uint8_t c = p[i];
        uint32_t digit = c >= '0' && c <= '9'   ? c - (uint32_t)'0'
                         : c >= 'a' && c <= 'f' ? c - (uint32_t)'a' + 10
                         : c >= 'A' && c <= 'F' ? c - (uint32_t)'A' + 10
                                                : 16;
        if (digit > 15)
            return false;
        v = v << 4 | digit;
    }
    *ret = v;
    return true;
}

static int read_header(struct cpio_reader *r, struct err *e)
{
    static const char magics[2][7] = {"070701", "070702"};
    uint32_t name_len;
    if ((memcmp(r->header, magics[0], 6) != 0 && memcmp(r->header, magics[1], 6) != 0) ||
        !hex_field(r->header, 0, &r->entry.ino) ||
        !hex_field(r->header, 1, &r->entry.mode) ||
        !hex_field(r->header, 4, &r->entry.n_links) ||
        !hex_field(r->header, 6, &r->entry.size) || !hex_field(r->header, 11, &name_len))
        return err_set(e, ERR_FAILED, "broken cpio header");
    if (name_len < 1 || name_len > NAME_MAX_LEN)
        return err_set(e, ERR_FAILED, "cpio entry with a name of %u bytes", name_len);
    if (++r->n_entries > INITRAMFS_ENTRIES_LIMIT)
        return err_set(e, ERR_REFUSED, "cpio archive of more than %u entries",
                       INITRAMFS_ENTRIES_LIMIT);
    r->name_len = name_len;
    r->state = IN_NAME;
    r->have = 0;
    return 0;
}

static int read_name(struct cpio_reader *r, struct err *e)
{
    r->name[r->name_len] = 0;
    r->state = NAME_PAD;
    r->left = r->entry.size;
    if (strcmp(r->name, TRAILER) == 0) {
        if (r->entry.size)
            return err_set(e, ERR_FAILED, "cpio trailer with content");
        return 0;
    }
    if (!r->name[0])
        return err_set(e, ERR_FAILED, "cpio entry without a name");
    r->entry.name = r->name;
    return r->sink.entry(r->sink.ctx, &r->entry, e);
}

// Takes what it can into `to`; true once `want` bytes are there.
static bool collect(struct cpio_reader *r, uint8_t *to, size_t want, const uint8_t **p,
                    size_t *len)
{
    size_t n = min_u64(want - r->have, *len);
    memcpy(to + r->have, *p, n);
    r->have += n;
    r->pos += n;
    *p += n;
    *len -= n;
    return r->have == want;
}

// Padding is skipped up to the next multiple of 4; true once there.
static bool pad(struct cpio_reader *r, const uint8_t **p, size_t *len)
{
    while (r->pos % 4 && *len) {
        r->pos++;
        ++*p;
        --*len;
    }
    return r->pos % 4 == 0;
}

static int data(struct cpio_reader *r, const uint8_t **p, size_t *len, struct err *e)
{
    size_t n = min_u64(r->left, *len);
    if (n && r->sink.data(r->sink.ctx, *p, n, e))
        return -1;
    r->left -= n;
    r->pos += n;
    *p += n;
    *len -= n;
    if (!r->left)
        r->state = DATA_PAD;
    return 0;
}

// One step of the machine; *ret_more false: more input is needed, or the end is reached.
static int step(struct cpio_reader *r, const uint8_t **p, size_t *len, bool *ret_more,
                struct err *e)
{
    *ret_more = true;
    switch (r->state) {
    case AT_START:
        r->state = IN_HEADER;
        r->have = 0;
        return 0;
    case IN_HEADER:
        if (collect(r, r->header, HEADER, p, len))
            return read_header(r, e);
        break;
    case IN_NAME:
        if (collect(r, (uint8_t *)r->name, r->name_len, p, len))
            return read_name(r, e);
        break;
    case NAME_PAD:
        if (pad(r, p, len)) {
            r->state = strcmp(r->name, TRAILER) == 0 ? ENDED : IN_DATA;
            return 0;
        }
        break;
    case IN_DATA:
        if (r->left && !*len)
            break;
        return data(r, p, len, e);
    case DATA_PAD:
        if (pad(r, p, len)) {
            r->state = IN_HEADER;
            r->have = 0;
            return 0;
        }
        break;
    case ENDED:
        break;
    }
    *ret_more = false;
    return 0;
}

int cpio_feed(struct cpio_reader *r, const void *data, size_t len, size_t *ret_used,
              struct err *e)
{
    const uint8_t *p = data;
    size_t left = len;
    bool more = len > 0;
    while (more)
        if (step(r, &p, &left, &more, e))
            return -1;
    *ret_used = len - left;
    return 0;
}

static void write_padding(struct buf *b)
{
    static const char zeros[4];
    buf_add(b, zeros, round_up(b->len, 4) - b->len);
}

void cpio_write(struct buf *b, const char *name, uint32_t mode, const void *data,
                size_t len)
{
    // Inode numbers matter only for hard links, of which there are none here.
    buf_printf(b, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", 0U,
               mode, 0U, 0U, S_ISDIR(mode) ? 2U : 1U, 0U, len, 0U, 0U, 0U, 0U,
               strlen(name) + 1, 0U);
    buf_add(b, name, strlen(name) + 1);
    write_padding(b);
    buf_add(b, data, len);
    write_padding(b);
}

void cpio_write_end(struct buf *b)
{
    cpio_write(b, TRAILER, 0, "", 0);
}
