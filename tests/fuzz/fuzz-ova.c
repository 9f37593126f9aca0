// SPDX-License-Identifier: Apache-2.0
// A tar file that says it is an OVA: refused with a reason, or its disks lie within it.
#include "fuzz_machine.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(fd_close) int fd = fuzz_fd(data, size);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    AUTO(machine_free) struct machine *m = NULL;
    struct err e = {0};
    const struct machine_reader *r = machine_reader_find("ova");
    size_t head = size < 65536 ? size : 65536;
    (void)r->is(path, (const char *)data, head);
    int done = machine_parse(r, (const char *)data, head,
                             &(struct machine_options){.path = path}, &m, &e);
    if (done < 0) {
        assert(e.code != ERR_NONE && e.text[0]);
        return 0;
    }
    for (size_t i = 0; i < m->n_disks; i++)
        assert(m->disks[i].part_len > 0 && m->disks[i].part_off <= size &&
               m->disks[i].part_len <= size - m->disks[i].part_off);
    return 0;
}
