// SPDX-License-Identifier: Apache-2.0
// Frames of a compressed wire from a peer: taken in pieces of any size they give the
// same bytes or the same refusal, never more than their bounds. And what our sender makes
// of the input comes out as it was.
#include "fuzz.h"
#include "net/wire.h"

#define OUT_MAX (4 * MIB) // further frames of the same kind show nothing new

// All of it with room for `size` bytes a call and `piece` bytes given at once.
static bool take_all(const uint8_t *data, size_t len, size_t piece, size_t size,
                     struct buf *ret)
{
    struct err e = {0};
    AUTO(unzip_free) struct unzip *u = unzip_new();
    AUTO(str_free) char *out = xmalloc(size);
    for (size_t at = 0; at < len && !ret->overflow;) {
        size_t given = min_u64(piece, len - at), n = 1;
        const uint8_t *in = data + at;
        at += given;
        while ((given > 0 || n > 0) && !ret->overflow) {
            const uint8_t *before = in;
            size_t had = given;
            if (unzip(u, &in, &given, (uint8_t *)out, size, &n, &e) < 0) {
                assert(e.text[0]);
                return false;
            }
            assert(n <= size && in == before + (had - given));
            assert(n > 0 || given == 0);
            buf_add(ret, out, n);
        }
    }
    return true;
}

static void there_and_back(const uint8_t *data, size_t len)
{
    struct err e = {0};
    AUTO(zip_free) struct zip *z = zip_new();
    AUTO(buf_done) struct buf frames = BUF_INIT(16 * MIB);
    AUTO(buf_done) struct buf back = BUF_INIT(16 * MIB);
    AUTO(str_free) char *room = xmalloc(FRAME_HEAD + WIRE_PIECE);
    for (size_t at = 0, n; at < len; at += n) {
        const uint8_t *frame;
        size_t frame_len;
        n = min_u64(len - at, 1 + data[at] * UINT64_C(37));
        memcpy(room + FRAME_HEAD, data + at, n);
        int result = zip_frame(z, (uint8_t *)room, n, &frame, &frame_len, &e);
        assert(result == 0);
        buf_add(&frames, frame, frame_len);
    }
    bool good = take_all((uint8_t *)frames.data, frames.len, 1000, 777, &back);
    assert(good && back.len == len && (len == 0 || memcmp(back.data, data, len) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(buf_done) struct buf a = BUF_INIT(OUT_MAX);
    AUTO(buf_done) struct buf b = BUF_INIT(OUT_MAX);
    bool whole = take_all(data, size, size, WIRE_PIECE, &a);
    bool pieces = take_all(data, size, 3, 1000, &b);
    assert(a.overflow || b.overflow || whole == pieces);
    size_t both = min_u64(a.len, b.len);
    assert(!whole || a.overflow || b.overflow || a.len == b.len);
    assert(both == 0 || memcmp(a.data, b.data, both) == 0);
    there_and_back(data, size);
    return 0;
}
