// SPDX-License-Identifier: Apache-2.0
// Lines of `qemu-img map --output=json`: whatever is taken for an entry is inside a disk.
#include "disk/image_parts.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(str_free) char *text = xstrndup((const char *)data, size);
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        struct map_entry x;
        struct err e;
        if (map_entry_parse(line, &x, &e) <= 0)
            continue;
        if (x.len == 0 || x.off + x.len < x.off || x.off + x.len > 2 * IMAGE_SIZE_MAX ||
            (x.located && x.at + x.len > INT64_MAX))
            abort();
    }
    return 0;
}
