// SPDX-License-Identifier: Apache-2.0
// The compressions of an initramfs (lib/decompress.c of Linux), each by its own library
// because only those say where in the input a stream ended; what follows it is the next
// segment. LZ4 is the "legacy" form of lz4(1) -l: blocks of at most 8 MiB, each with its
// length in front, and no end mark.
#include "guest/initramfs.h"

#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#define PIECE (256 * KIB)
#define LZ4_BLOCK (8 * MIB)
#define MEMORY_LIMIT (256 * MIB) // of one decoder; xz -9 needs 65 MiB

int source_open(int fd, struct source *ret, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_errno(e, errno, "cannot examine an initramfs");
    if (st.st_size < 0 || (uint64_t)st.st_size > INITRAMFS_FILE_LIMIT)
        return err_set(e, ERR_REFUSED, "initramfs of %lld bytes is too large",
                       (long long)st.st_size);
    *ret = (struct source){.fd = fd, .size = (uint64_t)st.st_size, .cap = PIECE};
    ret->data = xmalloc(PIECE);
    return 0;
}

void source_memory(const void *data, size_t len, struct source *ret)
{
    *ret = (struct source){.fd = -1, .size = len, .len = len, .cap = len};
    ret->data = xmalloc(len + 1);
    if (len)
        memcpy(ret->data, data, len);
}

void source_done(struct source *s)
{
    free(steal(s->data));
}

int source_seek(struct source *s, uint64_t off, struct err *e)
{
    if (off > s->size)
        return err_set(e, ERR_FAILED, "initramfs ends early");
    s->off = off;
    s->at = s->fd < 0 ? off : 0;
    if (s->fd >= 0)
        s->len = 0;
    return 0;
}

int source_fill(struct source *s, struct err *e)
{
    if (s->at < s->len || s->off >= s->size)
        return 0;
    size_t n = min_u64(s->cap, s->size - s->off);
    if (fd_pread(s->fd, s->data, n, s->off))
        return err_errno(e, errno, "cannot read an initramfs");
    s->at = 0;
    s->len = n;
    return 0;
}

void source_take(struct source *s, size_t n)
{
    s->at += n;
    s->off += n;
}

static size_t available(const struct source *s)
{
    return s->len - s->at;
}

// Fills, and refuses the end of the image, for decoders in the middle of a stream. One
// whose last output filled the buffer (`full`) may have more of it without new input.
static int need_more(struct source *s, bool full, struct err *e)
{
    if (source_fill(s, e))
        return -1;
    if (!available(s) && !full)
        return err_set(e, ERR_FAILED, "compressed initramfs ends early");
    return 0;
}

static int broken(const char *name, struct err *e)
{
    return err_set(e, ERR_FAILED, "broken %s data in an initramfs", name);
}

static int unpack_gzip(struct source *s, const struct byte_sink *sink, struct err *e)
{
    AUTO(free) void *out = xmalloc(PIECE);
    z_stream z = {0};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return err_set(e, ERR_FAILED, "cannot start zlib");
    int rc = Z_OK, failed = 0;
    bool full = false;
    while (rc == Z_OK && !failed) {
        if ((failed = need_more(s, full, e)))
            break;
        z.next_in = s->data + s->at;
        z.avail_in = (uInt)available(s);
        z.next_out = out;
        z.avail_out = PIECE;
        rc = inflate(&z, Z_NO_FLUSH);
        source_take(s, available(s) - z.avail_in);
        full = z.avail_out == 0;
        failed = sink->write(sink->ctx, out, PIECE - z.avail_out, e);
    }
    inflateEnd(&z);
    if (failed)
        return -1;
    return rc == Z_STREAM_END ? 0 : broken("gzip", e);
}

static int unpack_bzip2(struct source *s, const struct byte_sink *sink, struct err *e)
{
    AUTO(free) void *out = xmalloc(PIECE);
    bz_stream z = {0};
    if (BZ2_bzDecompressInit(&z, 0, 0) != BZ_OK)
        return err_set(e, ERR_FAILED, "cannot start bzip2");
    int rc = BZ_OK, failed = 0;
    bool full = false;
    while (rc == BZ_OK && !failed) {
        if ((failed = need_more(s, full, e)))
            break;
        z.next_in = (char *)s->data + s->at;
        z.avail_in = (unsigned)available(s);
        z.next_out = out;
        z.avail_out = PIECE;
        rc = BZ2_bzDecompress(&z);
        source_take(s, available(s) - z.avail_in);
        full = z.avail_out == 0;
        failed = sink->write(sink->ctx, out, PIECE - z.avail_out, e);
    }
    BZ2_bzDecompressEnd(&z);
    if (failed)
        return -1;
    return rc == BZ_STREAM_END ? 0 : broken("bzip2", e);
}

static int run_lzma(lzma_stream *z, struct source *s, const struct byte_sink *sink,
                    struct err *e)
{
    AUTO(free) void *out = xmalloc(PIECE);
    lzma_ret rc = LZMA_OK;
    bool full = false;
    while (rc == LZMA_OK) {
        if (need_more(s, full, e))
            return -1;
        z->next_in = s->data + s->at;
        z->avail_in = available(s);
        z->next_out = out;
        z->avail_out = PIECE;
        rc = lzma_code(z, LZMA_RUN);
        source_take(s, available(s) - z->avail_in);
        full = z->avail_out == 0;
        if (sink->write(sink->ctx, out, PIECE - z->avail_out, e))
            return -1;
    }
    return rc == LZMA_STREAM_END ? 0 : broken("xz", e);
}

static int unpack_xz(struct source *s, const struct byte_sink *sink, struct err *e)
{
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&z, MEMORY_LIMIT, 0) != LZMA_OK)
        return err_set(e, ERR_FAILED, "cannot start liblzma");
    int rc = run_lzma(&z, s, sink, e);
    lzma_end(&z);
    return rc;
}

static int unpack_lzma(struct source *s, const struct byte_sink *sink, struct err *e)
{
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_alone_decoder(&z, MEMORY_LIMIT) != LZMA_OK)
        return err_set(e, ERR_FAILED, "cannot start liblzma");
    int rc = run_lzma(&z, s, sink, e);
    lzma_end(&z);
    return rc;
}

static void dctx_free(ZSTD_DCtx *z)
{
    ZSTD_freeDCtx(z);
}
DEFINE_AUTO(dctx_free, ZSTD_DCtx *)

static int unpack_zstd(struct source *s, const struct byte_sink *sink, struct err *e)
{
    AUTO(free) void *out = xmalloc(PIECE);
    AUTO(dctx_free) ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z)
        return err_set(e, ERR_FAILED, "cannot start zstd");
    bool full = false;
    for (;;) {
        if (need_more(s, full, e))
            return -1;
        ZSTD_inBuffer in = {s->data + s->at, available(s), 0};
        ZSTD_outBuffer to = {out, PIECE, 0};
        size_t rc = ZSTD_decompressStream(z, &to, &in);
        if (ZSTD_isError(rc))
            return broken("zstd", e);
        source_take(s, in.pos);
        full = to.pos == to.size;
        if (sink->write(sink->ctx, out, to.pos, e))
            return -1;
        if (rc == 0)
            return 0;
    }
}

// Exactly `len` bytes.
static int read_exactly(struct source *s, uint8_t *to, size_t len, struct err *e)
{
    for (size_t have = 0; have < len;) {
        if (need_more(s, false, e))
            return -1;
        size_t n = min_u64(len - have, available(s));
        memcpy(to + have, s->data + s->at, n);
        source_take(s, n);
        have += n;
    }
    return 0;
}

static int unpack_lz4(struct source *s, const struct byte_sink *sink, struct err *e)
{
    size_t packed_max = (size_t)LZ4_COMPRESSBOUND(LZ4_BLOCK);
    AUTO(free) void *packed = xmalloc(packed_max);
    AUTO(free) void *out = xmalloc(LZ4_BLOCK);
    uint8_t word[4];
    if (read_exactly(s, word, 4, e)) // the magic number
        return -1;
    while (s->size - s->off >= 4) {
        if (read_exactly(s, word, 4, e))
            return -1;
        uint32_t len = get_le32(word);
        if (len == 0x184c2102) // another stream of the same kind
            continue;
        if (len == 0)
            return 0;
        if (len > packed_max || len > s->size - s->off)
            return broken("lz4", e);
        if (read_exactly(s, packed, len, e))
            return -1;
        int n = LZ4_decompress_safe(packed, out, (int)len, LZ4_BLOCK);
        if (n < 0)
            return broken("lz4", e);
        if (sink->write(sink->ctx, out, (size_t)n, e))
            return -1;
    }
    return 0;
}

static const struct codec codecs[] = {
    {"gzip", {0x1f, 0x8b}, 2, false, unpack_gzip},
    {"bzip2", {'B', 'Z', 'h'}, 3, false, unpack_bzip2},
    {"lzma", {0x5d, 0, 0}, 3, false, unpack_lzma},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, false, unpack_xz},
    {"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, true, unpack_lz4},
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, false, unpack_zstd},
};

const struct codec *codec_find(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(codecs); i++)
        if (len >= codecs[i].magic_len &&
            memcmp(data, codecs[i].magic, codecs[i].magic_len) == 0)
            return &codecs[i];
    return NULL;
}

// Counts what comes out, so that a small image cannot grow without end.
struct limited {
    const struct byte_sink *sink;
    uint64_t total;
};

static int limited_write(void *ctx, const void *data, size_t len, struct err *e)
{
    struct limited *l = ctx;
    l->total += len;
    if (l->total > INITRAMFS_CONTENT_LIMIT)
        return err_set(e, ERR_REFUSED, "initramfs unpacks to more than %u GiB",
                       (unsigned)(INITRAMFS_CONTENT_LIMIT / GIB));
    return len ? l->sink->write(l->sink->ctx, data, len, e) : 0;
}

int codec_unpack(const struct codec *c, struct source *s, const struct byte_sink *sink,
                 struct err *e)
{
    struct limited l = {.sink = sink};
    struct byte_sink limited = {limited_write, &l};
    return c->unpack(s, &limited, e);
}
