// SPDX-License-Identifier: Apache-2.0
// LVM2's metadata text: what is accepted is a tree, and every name and string of it ends
// within the text.
#include "fuzz.h"
#include "map/lvm_text.h"

static void check(const struct lvm_text *t, const struct lvm_node *of, unsigned depth)
{
    assert(depth < 100);
    for (const struct lvm_node *n = lvm_first(t, of); n; n = lvm_next(t, n)) {
        assert(n > of);
        assert(!n->name || n->name + strlen(n->name) < t->text + t->len);
        assert((n->kind == LVM_STRING) == (n->string != NULL));
        assert(!n->string || n->string + strlen(n->string) < t->text + t->len);
        check(t, n, depth + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xmalloc(size ? size : 1);
    struct err e = {0};
    AUTO(lvm_text_done) struct lvm_text t = {0};
    if (size)
        memcpy(text, data, size);
    if (lvm_text_parse(text, size, &t, &e))
        assert(e.code == ERR_REFUSED && e.text[0]);
    else
        check(&t, t.nodes.v, 0);
    return 0;
}
