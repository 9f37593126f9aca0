// SPDX-License-Identifier: Apache-2.0
// Frames of a compressed wire: {kind 1, length 3 (big-endian), payload}. Kind 0: as it
// is; kind 1: a piece of one zstd stream (RFC 8878) that goes on from frame to frame of
// this kind and is flushed at the end of each, so that later blocks are found in earlier
// ones (2 to 8 % smaller than frames of their own at 128 KiB, 5 to 10 % at 16 KiB). The
// stream may end in a frame, then another begins: so the level changes.
//
// How hard to compress is found by trying. The sender looks at spans of a tenth of a
// second: does the link keep it waiting, a level more is tried, does it never, a level
// less (the last one is none at all); what is not faster is taken back and not tried
// again for a while. So a slow link gets the best level that the processor keeps up
// with, and a link faster than the processor none. Data that does not shrink is noticed
// at the first frame, which costs little, and the next ones go as they are.
#include "net/wire.h"

#include <zstd.h>

#define WINDOW_LOG 20 // both ends need so much memory: 1 MiB
#define SMALL 512     // not worth a try
#define SKIP_MAX 32   // frames that go as they are after one that did not shrink
#define SPAN_NS UINT64_C(100000000)
#define SPAN_MAX_NS (10 * SPAN_NS) // longer with less data: nothing to learn from it
#define SPAN_BYTES (256 * KIB)     // what the kernel queues must not be what is measured
#define HOLD_NS (10 * SPAN_NS)     // after a trial that failed; doubles…
#define HOLD_MAX_NS (160 * SPAN_NS)

enum { KIND_PLAIN, KIND_ZSTD };

// Measured on program files: 0.70 of the size at 1000 MB/s, 0.44 at 450, 0.39 at 330,
// 0.35 at 210.
static const int levels[] = {0 /* as it is */, -20, -1, 1, 3};
#define LEVEL_FIRST 2

struct direction { // of trials: down, up
    uint64_t hold_ns, until_ns;
};
struct zip {
    ZSTD_CCtx *c; // NULL: not used so far
    uint8_t *out;
    size_t out_size;
    size_t level, open_level; // indices; open_level 0: no stream is open
    unsigned skip, skip_next;
    uint64_t start_ns, waited_ns, bytes; // of this span
    size_t before;                       // the level to go back to, while one is tried
    bool settled;                        // the trial's first span is over
    uint64_t before_speed;
    struct direction down, up;
};

struct zip *zip_new(void)
{
    struct zip *z = xcalloc(1, sizeof(*z));
    z->level = z->before = LEVEL_FIRST;
    z->skip_next = 1;
    z->start_ns = clock_ns();
    z->down.hold_ns = z->up.hold_ns = HOLD_NS;
    return z;
}

void zip_free(struct zip *z)
{
    if (!z)
        return;
    ZSTD_freeCCtx(z->c);
    free(z->out);
    free(z);
}

// --- how hard

void zip_waited(struct zip *z, uint64_t ns)
{
    z->waited_ns += ns;
}

static void try_level(struct zip *z, size_t level, uint64_t speed)
{
    z->before = z->level;
    z->before_speed = speed;
    z->level = level;
    z->settled = false;
}

static void end_trial(struct zip *z, uint64_t now, uint64_t speed, bool never_waits)
{
    bool up = z->level > z->before;
    bool better = up ? speed > z->before_speed / 100 * 103
                     : never_waits || speed > z->before_speed / 100 * 97;
    struct direction *d = up ? &z->up : &z->down;
    if (!better) {
        z->level = z->before;
        d->until_ns = now + d->hold_ns;
        d->hold_ns = min_u64(d->hold_ns * 2, HOLD_MAX_NS);
    } else {
        d->hold_ns = HOLD_NS;
        if (up) // else the way back would be tried at once
            z->down.until_ns = now + z->down.hold_ns;
    }
    z->before = z->level;
}

static void end_span(struct zip *z, uint64_t now)
{
    uint64_t ns = now - z->start_ns;
    uint64_t speed = (uint64_t)((unsigned __int128)z->bytes * SPAN_NS / ns);
    bool waits = z->waited_ns > ns / 10, never_waits = z->waited_ns < ns / 20;
    if (z->before != z->level) {
        if (z->settled)
            end_trial(z, now, speed, never_waits);
        z->settled = true;
    } else if (waits && z->level + 1 < ARRAY_LEN(levels) && now >= z->up.until_ns) {
        try_level(z, z->level + 1, speed);
    } else if (never_waits && z->level > 0 && now >= z->down.until_ns) {
        try_level(z, z->level - 1, speed);
    }
}

static void look(struct zip *z, size_t len)
{
    uint64_t now = clock_ns(), ns = now - z->start_ns;
    z->bytes += len;
    bool enough = ns >= SPAN_NS && z->bytes >= SPAN_BYTES;
    if (!enough && (ns < SPAN_MAX_NS || z->waited_ns > ns / 20))
        return;
    if (enough)
        end_span(z, now);
    z->start_ns = now;
    z->waited_ns = z->bytes = 0;
}

// --- frames out

static void put_head(uint8_t *p, uint8_t kind, size_t len)
{
    p[0] = kind;
    p[1] = (uint8_t)(len >> 16);
    p[2] = (uint8_t)(len >> 8);
    p[3] = (uint8_t)len;
}

static bool prepare(struct zip *z)
{
    if (z->c)
        return true;
    z->out_size = FRAME_HEAD + ZSTD_compressBound(WIRE_PIECE) + KIB;
    z->out = xmalloc(z->out_size);
    z->c = ZSTD_createCCtx();
    return z->c &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(z->c, ZSTD_c_windowLog, WINDOW_LOG));
}

// 0: all of it is in `out`.
static size_t squeeze(struct zip *z, const uint8_t *data, size_t len, ZSTD_outBuffer *out)
{
    ZSTD_inBuffer nothing = {NULL, 0, 0}, in = {data, len, 0};
    if (z->open_level != z->level) {
        size_t left =
            z->open_level ? ZSTD_compressStream2(z->c, out, &nothing, ZSTD_e_end) : 0;
        if (left == 0)
            left = ZSTD_CCtx_reset(z->c, ZSTD_reset_session_only);
        if (!ZSTD_isError(left))
            left =
                ZSTD_CCtx_setParameter(z->c, ZSTD_c_compressionLevel, levels[z->level]);
        if (ZSTD_isError(left))
            return left;
        z->open_level = z->level;
    }
    size_t left = ZSTD_compressStream2(z->c, out, &in, ZSTD_e_flush);
    return left == 0 ? len - in.pos : left;
}

int zip_frame(struct zip *z, uint8_t *data, size_t len, const uint8_t **ret,
              size_t *ret_len, struct err *e)
{
    look(z, len);
    if (z->level == 0 || z->skip > 0 || len < SMALL) {
        z->skip -= z->skip > 0;
        put_head(data, KIND_PLAIN, len);
        *ret = data;
        *ret_len = FRAME_HEAD + len;
        return 0;
    }
    if (!prepare(z))
        return err_set(e, ERR_FAILED, "compress: no memory");
    ZSTD_outBuffer out = {z->out, z->out_size, FRAME_HEAD};
    size_t left = squeeze(z, data + FRAME_HEAD, len, &out);
    if (left != 0)
        return err_set(e, ERR_FAILED, "compress: %s", ZSTD_getErrorName(left));
    bool shrank = out.pos < len / 100 * 97;
    z->skip = shrank ? 0 : z->skip_next;
    z->skip_next = shrank ? 1 : (unsigned)min_u64(z->skip_next * 2, SKIP_MAX);
    put_head(z->out, KIND_ZSTD, out.pos - FRAME_HEAD);
    *ret = z->out;
    *ret_len = out.pos;
    return 0;
}

// --- frames in

struct unzip {
    ZSTD_DCtx *d; // NULL: not used so far
    uint8_t head[FRAME_HEAD];
    size_t have;  // bytes of the head
    size_t left;  // bytes of the payload
    size_t given; // bytes that came of it
    bool more;    // zstd may hold back some for which there was no room
};

struct unzip *unzip_new(void)
{
    return xcalloc(1, sizeof(struct unzip));
}

void unzip_free(struct unzip *u)
{
    if (!u)
        return;
    ZSTD_freeDCtx(u->d);
    free(u);
}

bool unzip_between(const struct unzip *u)
{
    return u->have == 0;
}

static int take_head(struct unzip *u, const uint8_t **in, size_t *in_len, struct err *e)
{
    while (u->have<FRAME_HEAD && * in_len> 0) {
        u->head[u->have++] = *(*in)++;
        --*in_len;
    }
    if (u->have < FRAME_HEAD)
        return 0;
    u->left = (size_t)u->head[1] << 16 | get_be16(u->head + 2);
    u->given = 0;
    u->more = false;
    if (u->head[0] > KIND_ZSTD || u->left == 0 || u->left > FRAME_MAX)
        return err_set(e, ERR_FAILED, "the peer sent a frame of kind %u and %zu bytes",
                       u->head[0], u->left);
    return 0;
}

static int expand(struct unzip *u, const uint8_t *in, size_t len, ZSTD_outBuffer *out,
                  size_t *ret_taken, struct err *e)
{
    if (!u->d) {
        u->d = ZSTD_createDCtx();
        if (!u->d ||
            ZSTD_isError(ZSTD_DCtx_setParameter(u->d, ZSTD_d_windowLogMax, WINDOW_LOG)))
            return err_set(e, ERR_FAILED, "decompress: no memory");
    }
    ZSTD_inBuffer from = {in, len, 0};
    size_t before = out->pos, result = ZSTD_decompressStream(u->d, out, &from);
    if (ZSTD_isError(result))
        return err_set(e, ERR_FAILED, "the peer sent a damaged frame: %s",
                       ZSTD_getErrorName(result));
    u->given += out->pos - before;
    if (u->given > FRAME_MAX)
        return err_set(e, ERR_FAILED, "the peer sent a frame that holds too much");
    u->more = out->pos == out->size;
    *ret_taken = from.pos;
    return 0;
}

int unzip(struct unzip *u, const uint8_t **in, size_t *in_len, uint8_t *out, size_t size,
          size_t *ret_len, struct err *e)
{
    ZSTD_outBuffer to = {out, size, 0};
    while (to.pos < size && (*in_len > 0 || u->more)) {
        if (u->have < FRAME_HEAD) {
            if (take_head(u, in, in_len, e) < 0)
                return -1;
            continue;
        }
        size_t taken = min_u64(u->left, *in_len);
        if (u->head[0] == KIND_ZSTD) {
            if (expand(u, *in, taken, &to, &taken, e) < 0)
                return -1;
        } else {
            taken = min_u64(taken, size - to.pos);
            memcpy(out + to.pos, *in, taken);
            to.pos += taken;
        }
        *in += taken;
        *in_len -= taken;
        u->left -= taken;
        if (u->left == 0 && !u->more)
            u->have = 0;
    }
    *ret_len = to.pos;
    return 0;
}
