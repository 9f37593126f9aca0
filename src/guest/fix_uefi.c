// SPDX-License-Identifier: Apache-2.0
// The removable media path of UEFI (specification 2.10, section 3.5.1.1): firmware
// without a boot entry starts \EFI\BOOT\BOOTX64.EFI of any EFI system partition. The
// guest's shim goes there with the GRUB that shim looks for beside itself, or GRUB alone.
// GRUB as Debian signs it reads \EFI\DISTRIBUTION\grub.cfg wherever it lies; others read
// the grub.cfg beside them, so that is copied too. Names on FAT have no case.
#include "guest/fixes.h"

#include <fcntl.h>
#include <strings.h>
#include <unistd.h>

#define LOADER_LIMIT (16 * MIB)

// The entry of `dir` that is called `name` in any case, as a path; NULL: none.
static char *find(struct tree *t, const char *dir, const char *name)
{
    AUTO(strings_done) struct strings names = {0};
    struct err ignored; // a folder that cannot be read has no such file
    if (tree_list(t, dir, &names, &ignored))
        return NULL;
    for (size_t i = 0; i < names.n; i++)
        if (strcasecmp(names.v[i], name) == 0)
            return path_join(dir, names.v[i]);
    return NULL;
}

static char *find_efi_folder(struct tree *t)
{
    for (size_t i = 0; guest_esp_paths[i]; i++) {
        char *efi = find(t, guest_esp_paths[i], "EFI");
        if (efi)
            return efi;
    }
    return NULL;
}

static bool has_loader(struct tree *t, const char *dir)
{
    AUTO(str_free) char *shim = find(t, dir, "shimx64.efi");
    AUTO(str_free) char *grub = find(t, dir, "grubx64.efi");
    return shim || grub;
}

// The distribution's own folder, else the first one with a loader.
static char *find_vendor(struct guest *g, const char *efi)
{
    AUTO(str_free) char *own = g->distro ? find(g->tree, efi, g->distro) : NULL;
    if (own && has_loader(g->tree, own))
        return steal(own);
    AUTO(strings_done) struct strings names = {0};
    struct err ignored; // as in find
    if (tree_list(g->tree, efi, &names, &ignored))
        return NULL;
    for (size_t i = 0; i < names.n; i++) {
        AUTO(str_free) char *dir = path_join(efi, names.v[i]);
        if (strcasecmp(names.v[i], "BOOT") != 0 && has_loader(g->tree, dir))
            return steal(dir);
    }
    return NULL;
}

static int copy(struct guest *g, const char *from, const char *to, struct strings *done,
                struct err *e)
{
    AUTO(buf_done) struct buf content = BUF_INIT(LOADER_LIMIT);
    if (tree_read(g->tree, from, &content, e) ||
        tree_write(g->tree, to, content.data, content.len, e))
        return -1;
    strings_take(done, xasprintf("%s: copied from %s", to, from));
    return 0;
}

static bool same_content(struct tree *t, const char *a, const char *b)
{
    AUTO(buf_done) struct buf x = BUF_INIT(LOADER_LIMIT), y = BUF_INIT(LOADER_LIMIT);
    struct err ignored; // what cannot be read is not the same
    return tree_read(t, a, &x, &ignored) == 0 && tree_read(t, b, &y, &ignored) == 0 &&
           x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
}

// What shim and GRUB look for beside themselves, if it is not there.
static int copy_companions(struct guest *g, const char *vendor, const char *boot,
                           struct strings *done, struct err *e)
{
    static const char *const companions[] = {"grubx64.efi", "mmx64.efi", "grub.cfg"};
    for (size_t i = 0; i < ARRAY_LEN(companions); i++) {
        AUTO(str_free) char *from = find(g->tree, vendor, companions[i]);
        AUTO(str_free) char *there = find(g->tree, boot, companions[i]);
        AUTO(str_free) char *to = path_join(boot, companions[i]);
        if (from && !there && copy(g, from, to, done, e))
            return -1;
    }
    return 0;
}

int fix_uefi(struct guest *g, struct strings *done, struct err *e)
{
    AUTO(str_free) char *efi = find_efi_folder(g->tree);
    AUTO(str_free) char *vendor = efi ? find_vendor(g, efi) : NULL;
    if (!vendor)
        return 0;
    AUTO(str_free) char *shim = find(g->tree, vendor, "shimx64.efi");
    AUTO(str_free) char *grub = find(g->tree, vendor, "grubx64.efi");
    AUTO(str_free) char *boot = find(g->tree, efi, "BOOT");
    if (!boot) {
        boot = path_join(efi, "BOOT");
        if (tree_mkdir(g->tree, boot, e))
            return -1;
    }
    const char *loader = shim ? shim : grub;
    AUTO(str_free) char *fallback = find(g->tree, boot, "BOOTX64.EFI");
    if (!fallback) {
        fallback = path_join(boot, "BOOTX64.EFI");
        if (copy(g, loader, fallback, done, e))
            return -1;
    } else if (!same_content(g->tree, loader, fallback)) {
        return 0; // somebody's own loader: it is what the machine would have started
    }
    AUTO(str_free) char *creator = find(g->tree, boot, "fbx64.efi");
    if (creator) // makes boot entries of EFI/*/BOOTX64.CSV and starts them
        return 0;
    return copy_companions(g, vendor, boot, done, e);
}
