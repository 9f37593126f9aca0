// SPDX-License-Identifier: Apache-2.0
// A command line, a word a line; and each word as a size, a duration and a number.
#include "base/base.h"
#include "fuzz.h"

struct target {
    bool flag;
    const char *text, *choice;
    struct strings list;
    uint64_t number, bytes, ms;
};

static const struct opt table[] = {
    {"flag", 'f', OPT_FLAG, NULL, "a flag", NULL, offsetof(struct target, flag)},
    {"text", 't', OPT_STRING, "TEXT", "a text", NULL, offsetof(struct target, text)},
    {"list", 'l', OPT_STRINGS, "ITEM", "an item", NULL, offsetof(struct target, list)},
    {"number", 0, OPT_U64, "N", "a number", NULL, offsetof(struct target, number)},
    {"bytes", 'b', OPT_BYTES, "SIZE", "a size", NULL, offsetof(struct target, bytes)},
    {"ms", 0, OPT_MS, "TIME", "a time", NULL, offsetof(struct target, ms)},
    {"choice", 0, OPT_CHOICE, "WORD", "a word", "one|two|three",
     offsetof(struct target, choice)},
    {0}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(strings_done) struct strings words = {0};
    for (size_t from = 0; from < size && words.n < 1000;) {
        const uint8_t *end = memchr(data + from, '\n', size - from);
        size_t len = end ? (size_t)(end - data) - from : size - from;
        strings_take(&words, xstrndup((const char *)data + from, len));
        from += len + 1;
    }
    for (size_t i = 0; i < words.n; i++) {
        uint64_t v;
        char text[24];
        if (str_to_bytes(words.v[i], &v) == 0)
            assert(strlen(str_bytes(v, text)) < 16);
        if (str_to_ms(words.v[i], &v) == 0)
            assert(strlen(str_duration(v, text)) < sizeof(text));
        (void)str_to_u64(words.v[i], &v); // only that it reads no byte too many
    }
    struct err e = {0};
    struct target t = {0};
    AUTO(strings_done) struct strings args = {0};
    if (opt_parse(table, (int)words.n, words.v, &t, &args, &e) < 0)
        assert(e.code == ERR_USAGE && e.text[0] && args.n == 0);
    else
        assert(args.n <= words.n);
    strings_done(&t.list);
    return 0;
}
