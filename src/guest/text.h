// SPDX-License-Identifier: Apache-2.0
// Configuration text of a guest: lines and words without copying, and the one way in
// which every fix changes a text file. Internal to guest/.
#pragma once

#include "base/base.h"

struct guest;

// Ceiling of one configuration file. A larger one is refused: grub.cfg of a machine with
// fifty kernels has 100 KiB.
#define TEXT_LIMIT (4 * MIB)

// A piece of text that somebody else owns; not NUL terminated.
struct span {
    const char *p;
    size_t n;
};

// The next line without its newline; false at the end.
bool text_line(struct span *rest, struct span *ret_line);
// The next word (white space parts them); false when there is none. *rest starts right
// after it.
bool text_word(struct span *rest, struct span *ret_word);
struct span span_of(const char *s);
struct span span_trim(struct span s);
bool span_is(struct span s, const char *text);
bool span_starts(struct span s, const char *prefix);
// Without a pair of quotes around it, if there is one.
struct span span_unquote(struct span s);
char *span_dup(struct span s);
void buf_span(struct buf *b, struct span s);

// The value of NAME=value in shell-like text (os-release, initramfs.conf), unquoted; the
// last one counts. NULL: none. free() it.
char *text_assigned(struct span text, const char *name);

// One INI-like line after another (systemd's and NetworkManager's files). A value's
// pieces are not interpreted.
struct ini {
    struct span rest, section, key, value;
};
bool ini_next(struct ini *ini); // false at the end; headers, comments are passed over
bool ini_at(const struct ini *ini, const char *section, const char *key);

// Appends the replacement of one line (without newline) to `out`; what changed goes to
// `notes` (none: nothing did).
typedef void text_edit_fn(const struct guest *g, void *ctx, struct span line,
                          struct buf *out, struct strings *notes);
// Runs `fn` over each line of `text`.
void text_apply(const struct guest *g, struct span text, text_edit_fn *fn, void *ctx,
                struct buf *out, struct strings *notes);
// Runs `fn` over each line of `path` (missing: fine) and replaces the file if a note came
// up; "PATH: NOTE" is appended to `done`.
int text_edit(struct guest *g, const char *path, text_edit_fn *fn, void *ctx,
              struct strings *done, struct err *e);
