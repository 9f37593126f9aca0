// SPDX-License-Identifier: Apache-2.0
#include "cloud/libvirt/library.h"

#include <dlfcn.h>

struct libvirt_functions lv;

static int find(void *library, const char *name, void **ret, struct err *e)
{
    *ret = dlsym(library, name);
    return *ret ? 0 : err_set(e, ERR_FAILED, "libvirt.so.0 is too old: no %s", name);
}

int libvirt_load(struct err *e)
{
    if (lv.virConnectOpen)
        return 0;
    // Stays loaded: libvirt has threads and thread-local data of its own.
    void *library = dlopen("libvirt.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return err_set(e, ERR_FAILED,
                       "libvirt+ needs libvirt.so.0 (package libvirt0): %s", dlerror());
    struct libvirt_functions found = {0};
#define LIBVIRT_FIND(name)                                 \
    if (find(library, #name, (void **)&found.name, e) < 0) \
        return -1;
    LIBVIRT_FUNCTIONS(LIBVIRT_FIND)
#undef LIBVIRT_FIND
    lv = found;
    return 0;
}
