// SPDX-License-Identifier: Apache-2.0
// Goes through an initramfs as the kernel does (unpack_to_rootfs in init/initramfs.c):
// zeros are skipped, '0' at a multiple of 4 begins a plain cpio archive, anything else
// must be the magic number of a compression whose content is cpio archives, parted by
// zeros.
#include "guest/initramfs.h"

struct inner {
    struct cpio_reader *reader;
    const struct cpio_sink *sink;
};

// Content of a compressed segment: archive after archive.
static int inner_write(void *ctx, const void *data, size_t len, struct err *e)
{
    struct inner *in = ctx;
    const uint8_t *p = data;
    if (cpio_ended(in->reader) && is_zero(data, len)) // padding, which may be long
        return 0;
    while (len) {
        if (cpio_ended(in->reader) && *p == 0) {
            p++;
            len--;
            continue;
        }
        if (cpio_ended(in->reader)) {
            cpio_free(in->reader);
            in->reader = cpio_new(in->sink);
        }
        size_t used;
        if (cpio_feed(in->reader, p, len, &used, e))
            return -1;
        p += used;
        len -= used;
    }
    return 0;
}

static int walk_packed(struct source *s, const struct codec *codec,
                       const struct cpio_sink *sink, struct err *e)
{
    struct inner in = {.reader = cpio_new(sink), .sink = sink};
    struct byte_sink to = {inner_write, &in};
    int rc = codec_unpack(codec, s, &to, e);
    bool ended = cpio_ended(in.reader);
    cpio_free(in.reader);
    if (rc == 0 && !ended)
        return err_set(e, ERR_FAILED, "cpio archive in %s data ends early", codec->name);
    return rc;
}

static int walk_plain(struct source *s, const struct cpio_sink *sink, struct err *e)
{
    AUTO(cpio_free) struct cpio_reader *r = cpio_new(sink);
    do {
        if (source_fill(s, e))
            return -1;
        if (s->at == s->len)
            return err_set(e, ERR_FAILED, "cpio archive ends early");
        size_t used;
        if (cpio_feed(r, s->data + s->at, s->len - s->at, &used, e))
            return -1;
        source_take(s, used);
    } while (!cpio_ended(r));
    return 0;
}

static int skip_zeros(struct source *s, struct err *e)
{
    do {
        if (source_fill(s, e))
            return -1;
        while (s->at < s->len && s->data[s->at] == 0)
            source_take(s, 1);
    } while (s->at == s->len && s->off < s->size);
    return 0;
}

// The first bytes of the next segment. They may straddle the end of the buffer, so that
// it is filled anew from here.
static int peek(struct source *s, struct err *e)
{
    if (s->fd >= 0 && s->len - s->at < 8 && s->off < s->size && source_seek(s, s->off, e))
        return -1;
    return source_fill(s, e);
}

int initramfs_walk(struct source *s, const struct cpio_sink *sink, struct segments *ret,
                   struct err *e)
{
    struct segments found = {0};
    for (;;) {
        if (skip_zeros(s, e) || peek(s, e))
            return -1;
        if (s->off >= s->size)
            break;
        if (found.n == INITRAMFS_SEGMENTS_LIMIT)
            return err_set(e, ERR_REFUSED, "initramfs of more than %u segments",
                           INITRAMFS_SEGMENTS_LIMIT);
        struct segment seg = {.off = s->off};
        if (s->data[s->at] == '0' && s->off % 4 == 0) {
            if (walk_plain(s, sink, e))
                return -1;
        } else {
            seg.codec = codec_find(s->data + s->at, s->len - s->at);
            if (!seg.codec)
                return err_set(e, ERR_REFUSED,
                               "unknown compression of the initramfs at byte %llu",
                               (unsigned long long)s->off);
            if (walk_packed(s, seg.codec, sink, e))
                return -1;
        }
        seg.len = s->off - seg.off;
        found.v[found.n++] = seg;
    }
    if (ret)
        *ret = found;
    return 0;
}
