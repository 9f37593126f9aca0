// SPDX-License-Identifier: Apache-2.0
// The extent lines of a VMDK descriptor.
#include "disk/image_parts.h"
#include "fuzz.h"

static int found(void *context, const char *name, uint64_t need, struct err *e)
{
    size_t *n = context;
    (void)e;
    if ((name != NULL && (name[0] == '\0' || strchr(name, '\n') != NULL)) ||
        need > 2 * IMAGE_SIZE_MAX)
        abort();
    return ++*n > IMAGE_FILES_MAX ? -1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(str_free) char *text = xstrndup((const char *)data, size);
    struct err e;
    size_t n = 0;
    (void)vmdk_extents(text, "fuzz", found, &n, &e);
    return 0;
}
