// SPDX-License-Identifier: Apache-2.0
// Runs the table of fixes over a guest, after refusing what cannot be made to boot, and
// says what each changed.
#include "guest/fixes.h"

static const char *const default_drivers[] = {"virtio_pci", "virtio_blk", "virtio_scsi",
                                              "virtio_net"};

static int refuse(const struct guest *g, struct err *e)
{
    if (!g->family)
        return err_set(e, ERR_REFUSED,
                       "the guest's distribution is unknown: no /etc/os-release that "
                       "names one");
    if (strcmp(g->family, "debian") != 0)
        return err_set(e, ERR_REFUSED,
                       "cannot convert %s guests, only Debian, Ubuntu and their kin",
                       g->distro ? g->distro : g->family);
    if (g->bootloader && strcmp(g->bootloader, "unified-kernel-image") == 0)
        return err_set(e, ERR_REFUSED,
                       "the guest boots a unified kernel image, into which drivers "
                       "cannot be put; install a kernel with a separate initramfs");
    if (!g->kernels.n)
        return err_set(e, ERR_REFUSED,
                       "no kernel in the guest: none with a folder in /lib/modules and "
                       "an image in /boot");
    return 0;
}

static json_t *lines_json(const struct strings *lines)
{
    json_t *array = json_array();
    for (size_t i = 0; i < lines->n; i++) {
        json_t *line = json_string(lines->v[i]);
        json_array_append_new(array, line ? line : json_string("?")); // not UTF-8
    }
    return array;
}

int guest_convert(struct guest *g, json_t **ret, struct err *e)
{
    if (refuse(g, e) || nic_macs_learn(g, e))
        return -1;
    bool given = g->drivers.n > 0;
    for (size_t i = 0; !given && i < ARRAY_LEN(default_drivers); i++)
        strings_add(&g->drivers, default_drivers[i]);
    for (const struct fix *f = fixes; f->name; f++)
        if (f->applies(g) && f->check && f->check(g, e))
            return -1;
    AUTO(json_free) json_t *report = json_array();
    for (const struct fix *f = fixes; f->name; f++) {
        AUTO(strings_done) struct strings done = {0};
        if (!f->applies(g))
            continue;
        if (f->apply(g, &done, e))
            return err_wrap(e, "%s", f->name);
        json_array_append_new(report, json_pack("{ss ss so}", "fix", f->name, "why",
                                                f->why, "changes", lines_json(&done)));
    }
    *ret = steal(report);
    return 0;
}
