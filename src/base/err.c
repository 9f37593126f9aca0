// SPDX-License-Identifier: Apache-2.0
// Errors as one line of text with a code. Texts quote names that come from images, files
// and peers, so what goes in is made harmless for a terminal and for JSON: control
// characters (C0, DEL, C1), bidirectional overrides and bytes that are not UTF-8
// (RFC 3629, section 4) become '?'.
#include "base/base.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

// The length of the UTF-8 sequence at s, 0 when it is none; the code point in *ret.
static size_t utf8_one(const uint8_t *s, size_t len, uint32_t *ret)
{
    static const struct {
        uint8_t mask, lead;
        uint32_t lowest; // below it the form is overlong
    } forms[] = {
        {0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t n = 0; n < ARRAY_LEN(forms) && n < len; n++) {
        if ((s[0] & forms[n].mask) != forms[n].lead)
            continue;
        uint32_t c = s[0] & (uint8_t)~forms[n].mask;
        for (size_t i = 1; i <= n; i++) {
            if ((s[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (s[i] & 0x3f);
        }
        if (c < forms[n].lowest || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
            return 0;
        *ret = c;
        return n + 1;
    }
    return 0;
}

static bool printable(uint32_t c)
{
    return c >= 0x20 && !(c >= 0x7f && c <= 0x9f) && c != 0x200e && c != 0x200f &&
           !(c >= 0x2028 && c <= 0x202e) && !(c >= 0x2066 && c <= 0x2069);
}

// In place: a character becomes one '?', a byte that starts none too.
static void sanitize(char *text)
{
    size_t len = strlen(text), to = 0;
    for (size_t from = 0; from < len;) {
        uint32_t c = 0;
        size_t n = utf8_one((const uint8_t *)text + from, len - from, &c);
        if (n > 0 && printable(c)) {
            memmove(text + to, text + from, n);
            to += n;
        } else {
            text[to++] = '?';
        }
        from += n > 0 ? n : 1;
    }
    text[to] = '\0';
}

// Into a buffer of its own first: arguments may point into e->text.
PRINTF(3, 0)
static void format(struct err *e, const char *before, const char *fmt, va_list ap,
                   const char *after)
{
    char text[2 * sizeof(e->text)], body[sizeof(text)];
    if (vsnprintf(body, sizeof(body), fmt, ap) < 0)
        body[0] = '\0';
    int n = snprintf(text, sizeof(text), "%s%s%s", before, body, after);
    sanitize(text);
    size_t len = strlen(text);
    if (n < 0 || len >= sizeof(e->text)) {
        len = sizeof(e->text) - 1;
        while (len > 0 && ((uint8_t)text[len] & 0xc0) == 0x80)
            len--; // not half a character
        text[len] = '\0';
    }
    memcpy(e->text, text, len + 1);
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    assert(code != ERR_NONE);
    va_list ap;
    va_start(ap, fmt);
    format(e, "", fmt, ap, "");
    va_end(ap);
    e->code = code;
    return -1;
}

int err_errno(struct err *e, int errnum, const char *fmt, ...)
{
    char why[160], after[sizeof(why) + 2];
    snprintf(after, sizeof(after), ": %s", strerror_r(errnum, why, sizeof(why)));
    va_list ap;
    va_start(ap, fmt);
    format(e, "", fmt, ap, after);
    va_end(ap);
    e->code = errnum == EINTR || errnum == EAGAIN ? ERR_RETRY : ERR_FAILED;
    return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    assert(e->code != ERR_NONE);
    char after[sizeof(e->text) + 2];
    snprintf(after, sizeof(after), ": %s", e->text);
    va_list ap;
    va_start(ap, fmt);
    format(e, "", fmt, ap, after);
    va_end(ap);
    return -1;
}
