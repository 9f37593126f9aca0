// SPDX-License-Identifier: Apache-2.0
// Growing arrays. They double from eight; memory that is gone aborts, so what an input
// sizes has its own ceiling before it pushes.
#include "base/base.h"

void *vec_grow(void *v, size_t *cap, size_t item_size)
{
    size_t n = *cap ? *cap : 4, bytes;
    if (__builtin_mul_overflow(n, 2U, &n) || __builtin_mul_overflow(n, item_size, &bytes))
        abort();
    v = xrealloc(v, bytes);
    *cap = n;
    return v;
}

void strings_take(struct strings *s, char *item)
{
    if (s->n + 1 >= s->cap) // one more for the NULL
        s->v = vec_grow(s->v, &s->cap, sizeof(*s->v));
    s->v[s->n++] = item;
    s->v[s->n] = NULL;
}

void strings_add(struct strings *s, const char *item)
{
    strings_take(s, xstrdup(item));
}

void strings_done(struct strings *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->v[i]);
    free(s->v);
    *s = (struct strings){0};
}

bool strings_have(const struct strings *s, const char *item)
{
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->v[i], item) == 0)
            return true;
    }
    return false;
}
