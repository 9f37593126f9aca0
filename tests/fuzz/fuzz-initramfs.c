// SPDX-License-Identifier: Apache-2.0
// An initramfs image: segments, compressions, cpio archives.
#include "fuzz.h"
#include "guest/initramfs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct segments segments;
    AUTO(source_done) struct source s = {0};
    AUTO(contents_done) struct contents c = {0};
    source_memory(data, size, &s);
    if (contents_read(&s, &c, &segments, &e)) {
        assert(e.text[0]);
        return 0;
    }
    uint64_t at = 0;
    for (size_t i = 0; i < segments.n; i++) {
        assert(segments.v[i].off >= at && segments.v[i].len > 0);
        at = segments.v[i].off + segments.v[i].len;
    }
    assert(at <= size);
    for (size_t i = 0; i < c.n && i < 100; i++) {
        const struct content *found = contents_find(&c, c.v[i].path);
        assert(found && strcmp(found->path, c.v[i].path) == 0 && found >= &c.v[i]);
        AUTO(str_free) char *path = contents_resolve(&c, c.v[i].path);
        assert(path);
    }
    return 0;
}
