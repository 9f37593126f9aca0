// SPDX-License-Identifier: Apache-2.0
// Configuration files that fixes change, one kind by the first letter. What is changed
// once must not be changed again, and a file without a note must stay as it was.
#include "fuzz.h"
#include "guest/fixes.h"
#include "guest/mdadm.h"

static size_t fstab_field = 0;
static bool within; // of debconf's question
static enum mdadm_line continued;
static const struct {
    char letter;
    text_edit_fn *fn;
    void *ctx;
} kinds[] = {
    {'f', fix_table_line, &fstab_field},
    {'c', fix_crypttab_line, NULL},
    {'l', fix_lvm_line, NULL},
    {'a', fix_mdadm_line, &continued},
    {'b', fix_debconf_line, &within},
    {'g', fix_cmdline_line, (void *)&cmdline_files[0]},
    {'m', fix_cmdline_line, (void *)&cmdline_files[5]},
    {'d', fix_default_line, NULL},
    {'r', fix_rules_line, NULL},
    {'s', console_line, (void *)&cmdline_files[0]},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > MIB)
        return 0;
    AUTO(guest_done) struct guest g = {0};
    for (unsigned i = 0; i < 6; i++) {
        struct guest_device d = {.disk = i / 3,
                                 .partition = i % 3,
                                 .uuid = xasprintf("1234-%u", i),
                                 .content = xstrdup("ext4")};
        vec_push(&g.devices, d);
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kinds[i].letter != (char)data[0])
            continue;
        struct span text = {(const char *)data + 1, size - 1};
        AUTO(buf_done) struct buf once = BUF_INIT(64 * MIB), twice = BUF_INIT(64 * MIB);
        AUTO(strings_done) struct strings notes = {0}, again = {0};
        within = false;
        continued = MDADM_OTHER;
        text_apply(&g, text, kinds[i].fn, kinds[i].ctx, &once, &notes);
        assert(!once.overflow);
        if (!notes.n)
            assert(once.len == text.n && (!text.n || !memcmp(once.data, text.p, text.n)));
        within = false;
        continued = MDADM_OTHER;
        text_apply(&g, (struct span){once.data, once.len}, kinds[i].fn, kinds[i].ctx,
                   &twice, &again);
        assert(!again.n && twice.len == once.len);
    }
    return 0;
}
