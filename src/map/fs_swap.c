// SPDX-License-Identifier: Apache-2.0
// Linux swap space (mkswap(8), the kernel's union swap_header): the header is in the
// first page, the magic at the page's end, and nothing else means anything after a
// reboot. A hibernated system keeps its memory in swap and says so with another magic at
// the same place: then all of it is needed.

#include "fs.h"

#define HEADER_MAX (64 * KIB) // the largest page of any architecture
#define MAGIC_LEN 10

static const char *const swap_magics[] = {"SWAPSPACE2", "SWAP-SPACE", NULL};
// swsusp, uswsusp, and TuxOnIce.
static const char *const suspend_magics[] = {"S1SUSPEND",
                                             "S2SUSPEND",
                                             "ULSUSPEND",
                                             "LINHIB0001",
                                             "\xed\xc3\x02\xe9\x98\x56\xe5\x0c",
                                             NULL};

// The page size at whose end one of `magics` stands, 0: none.
static size_t find_magic(const uint8_t *head, size_t len, const char *const *magics)
{
    for (size_t page = 4096; page <= len; page *= 2) {
        const uint8_t *at = head + page - MAGIC_LEN;
        for (const char *const *m = magics; *m; m++)
            if (memcmp(at, *m, strlen(*m)) == 0)
                return page;
    }
    return 0;
}

int fs_swap_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    AUTO(free) void *head = xmalloc(HEADER_MAX);
    size_t len = (size_t)min_u64(d->size, HEADER_MAX);
    if (disk_read(d, head, len, 0, e))
        return -1;
    if (find_magic(head, len, suspend_magics))
        return err_set(e, ERR_REFUSED, "a hibernated system is in the swap space");
    size_t page = find_magic(head, len, swap_magics);
    if (!page)
        return err_set(e, ERR_REFUSED, "swap header has no magic");
    extents_add(ret_used, 0, page);
    return 0;
}
