// SPDX-License-Identifier: Apache-2.0
// A bare image as a machine: one disk, named after the file, in a machine of modest size.
// What the image is, QEMU tells when it is opened; only a name that ends in .raw settles
// the format here.
#include "machine/reader.h"

#include <strings.h>

bool image_is(const char *path, const char *text, size_t len)
{
    static const char *const others[] = {".img", ".dd", ".bin", ".image"};
    (void)text, (void)len;
    if (reference_format(path))
        return true;
    const char *dot = strrchr(path_base(path), '.');
    for (size_t i = 0; dot && i < ARRAY_LEN(others); i++)
        if (strcasecmp(dot, others[i]) == 0)
            return true;
    return false;
}

int image_read(const char *text, size_t len, const struct machine_options *options,
               struct machine *m, struct err *e)
{
    (void)text, (void)len;
    const char *format = reference_format(options->path);
    AUTO(machine_disk_done) struct machine_disk disk = {.boot = true};
    if (path_real(options->path, &disk.path, e) < 0)
        return -1;
    // Other endings are probed: a .vhd may be a .vhdx, a .vmdk from the cloud a qcow2.
    if (format && strcmp(format, "raw") == 0)
        disk.format = xstrdup(format);
    struct machine_nic nic = {0};
    m->cpus = 2;
    m->memory = 2 * GIB;
    return machine_add_disk(m, &disk, e) < 0 || machine_add_nic(m, &nic, e) < 0 ? -1 : 0;
}
