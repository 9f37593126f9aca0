// SPDX-License-Identifier: Apache-2.0
// Memory that aborts when it is gone, strings, sizes and durations as people write them,
// and buffers with a ceiling. Sizes are exact: "1.1G" is computed in 128 bits and rounded
// down to a byte; what does not fit 64 bits is no size.
#include "base/base.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/mman.h>

#define HUGE_PAGE (2 * MIB)

static void *or_abort(void *p, size_t size)
{
    if (p || size == 0)
        return p;
    fprintf(stderr, "out of memory: %zu bytes\n", size);
    abort();
}

void *xmalloc(size_t size)
{
    size_t n = size ? size : 1;
    return or_abort(malloc(n), n);
}

void *xcalloc(size_t n, size_t size)
{
    if (n == 0 || size == 0)
        n = size = 1;
    return or_abort(calloc(n, size), n > SIZE_MAX / size ? SIZE_MAX : n * size);
}

void *xrealloc(void *p, size_t size)
{
    size_t n = size ? size : 1;
    return or_abort(realloc(p, n), n);
}

char *xstrdup(const char *s)
{
    return or_abort(strdup(s), 1);
}

char *xstrndup(const char *s, size_t n)
{
    return or_abort(strndup(s, n), n + 1);
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = NULL;
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return or_abort(n < 0 ? NULL : s, 1);
}

void *alloc_aligned(size_t size)
{
    void *p = NULL;
    // A direct request of many scattered pages is cut by the device's limit of segments:
    // a third more requests, and a fifth more time for a copy from disk to disk.
    bool huge = size >= HUGE_PAGE;
    if (posix_memalign(&p, huge ? HUGE_PAGE : 4096, size ? size : 1))
        return NULL;
    if (huge)
        (void)madvise(p, size, MADV_HUGEPAGE);
    return p;
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

char *str_trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        n--;
    s[n] = '\0';
    return s;
}

// --- numbers

// A decimal number without sign as whole + fraction / 10^9; returns what follows it, NULL
// when there is no number or too large a one.
static const char *read_decimal(const char *s, uint64_t *whole, uint64_t *nano)
{
    *whole = *nano = 0;
    if (!isdigit((unsigned char)*s))
        return NULL;
    for (; isdigit((unsigned char)*s); s++) {
        if (__builtin_mul_overflow(*whole, 10U, whole) ||
            __builtin_add_overflow(*whole, (uint64_t)(*s - '0'), whole))
            return NULL;
    }
    if (*s != '.')
        return s;
    if (!isdigit((unsigned char)*++s))
        return NULL;
    for (uint64_t unit = 100 * 1000 * 1000; isdigit((unsigned char)*s); s++, unit /= 10)
        *nano += (uint64_t)(*s - '0') * unit;
    return s;
}

// (whole + nano / 10^9) * unit, false when it does not fit.
static bool scale(uint64_t whole, uint64_t nano, uint64_t unit, uint64_t *ret)
{
    unsigned __int128 v = (unsigned __int128)whole * unit +
                          (unsigned __int128)nano * unit / (1000 * 1000 * 1000);
    if (v > UINT64_MAX)
        return false;
    *ret = (uint64_t)v;
    return true;
}

int str_to_bytes(const char *s, uint64_t *ret_bytes)
{
    static const char letters[] = "KMGTPE";
    uint64_t whole, nano, unit = 1;
    bool fraction = strchr(s, '.') != NULL;
    s = read_decimal(s, &whole, &nano);
    if (!s)
        return -1;
    const char *letter = *s ? strchr(letters, toupper((unsigned char)*s)) : NULL;
    if (letter) {
        unit = KIB << 10 * (letter - letters);
        s++;
        if (strcasecmp(s, "iB") == 0)
            s += 2;
    } else if (fraction) {
        return -1; // half a byte
    }
    if (*s == 'B' || *s == 'b')
        s++;
    return *s == '\0' && scale(whole, nano, unit, ret_bytes) ? 0 : -1;
}

int str_to_ms(const char *s, uint64_t *ret_ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"", 1000},       {"s", 1000},        {"ms", 1},
                 {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000}};
    uint64_t whole, nano;
    s = read_decimal(s, &whole, &nano);
    if (!s)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (strcmp(s, units[i].name) == 0)
            return scale(whole, nano, units[i].ms, ret_ms) ? 0 : -1;
    }
    return -1;
}

int str_to_u64(const char *s, uint64_t *ret_value)
{
    uint64_t whole, nano;
    const char *end = strchr(s, '.') ? NULL : read_decimal(s, &whole, &nano);
    if (!end || *end)
        return -1;
    *ret_value = whole;
    return 0;
}

const char *str_bytes(uint64_t bytes, char out[static 16])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < KIB) {
        snprintf(out, 16, "%u B", (unsigned)bytes);
        return out;
    }
    double v = (double)bytes / 1024;
    size_t i = 0;
    for (; v >= 1023.95 && i + 1 < ARRAY_LEN(units); i++) // it would print as 1024.0
        v /= 1024;
    snprintf(out, 16, "%.1f %s", v, units[i]);
    return out;
}

const char *str_duration(uint64_t ms, char out[static 24])
{
    uint64_t s = ms / 1000;
    if (s < 60)
        snprintf(out, 24, "%u s", (unsigned)s);
    else if (s < 3600)
        snprintf(out, 24, "%u m %02u s", (unsigned)(s / 60), (unsigned)(s % 60));
    else
        snprintf(out, 24, "%llu h %02u m", (unsigned long long)(s / 3600),
                 (unsigned)(s / 60 % 60));
    return out;
}

void put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

void put_le64(uint8_t *p, uint64_t v)
{
    put_le32(p, (uint32_t)v);
    put_le32(p + 4, (uint32_t)(v >> 32));
}

// --- struct buf

// Room for `more` bytes and the NUL; false, with overflow set, when the ceiling forbids.
static bool buf_room(struct buf *b, size_t more)
{
    if (more > b->limit || b->len > b->limit - more) {
        b->overflow = true;
        return false;
    }
    size_t need = b->len + more + 1;
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap;
        while (cap < need)
            cap += cap / 2;
        if (b->limit < SIZE_MAX && cap > b->limit + 1)
            cap = b->limit + 1;
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    return true;
}

void buf_add(struct buf *b, const void *data, size_t len)
{
    if (!buf_room(b, len))
        return;
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = NULL;
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    AUTO(str_free) char *text = or_abort(n < 0 ? NULL : s, 1);
    buf_add(b, text, (size_t)n);
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
    if (b->data)
        b->data[0] = '\0';
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT(b->limit);
}

char *buf_steal(struct buf *b)
{
    char *data = b->data ? b->data : xstrdup("");
    *b = BUF_INIT(b->limit);
    return data;
}
