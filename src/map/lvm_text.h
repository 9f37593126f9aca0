// SPDX-License-Identifier: Apache-2.0
// The text that LVM2 keeps its metadata in, as a tree. Private to this folder.
#pragma once

#include "map/map.h"

enum lvm_kind { LVM_SECTION, LVM_NUMBER, LVM_STRING, LVM_ARRAY };
struct lvm_node {
    const char *name;   // NULL inside an array
    const char *string; // STRING
    int64_t number;     // NUMBER; fractions are cut off
    enum lvm_kind kind;
    uint32_t first, next; // SECTION, ARRAY: its first member; the one after this; 0: none
};
struct lvm_text {
    char *text; // what the strings point into
    size_t len;
    VEC(struct lvm_node) nodes; // [0] is the root, a section
};

#define LVM_TEXT_MAX (4 * MIB)
// `text` is taken, also on failure. ERR_REFUSED: it is no such text, or is too large.
int lvm_text_parse(char *text /* taken */, size_t len, struct lvm_text *ret,
                   struct err *e);
void lvm_text_done(struct lvm_text *t);
__attribute__((unused)) static inline void auto_lvm_text_done(struct lvm_text *t)
{
    lvm_text_done(t);
}

// NULL arguments are fine and give NULL, so that calls can be nested.
const struct lvm_node *lvm_first(const struct lvm_text *t, const struct lvm_node *of);
const struct lvm_node *lvm_next(const struct lvm_text *t, const struct lvm_node *n);
const struct lvm_node *lvm_member(const struct lvm_text *t, const struct lvm_node *of,
                                  const char *name);
const char *lvm_string(const struct lvm_text *t, const struct lvm_node *of,
                       const char *name);
// false: it is not there, not a number, negative or above `max`.
bool lvm_number(const struct lvm_text *t, const struct lvm_node *of, const char *name,
                uint64_t max, uint64_t *ret);
// Is `word` in the array `name`?
bool lvm_has(const struct lvm_text *t, const struct lvm_node *of, const char *name,
             const char *word);
