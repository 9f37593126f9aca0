// SPDX-License-Identifier: Apache-2.0
// opt.c: every form of every type, every refusal with the word it names, the help text.
#include "base/base.h"
#include "tap.h"

struct target {
    bool verbose, force;
    const char *output, *mode;
    struct strings disks;
    uint64_t jobs, limit, timeout;
};

#define AT(member) offsetof(struct target, member)
static const struct opt table[] = {
    {"verbose", 'v', OPT_FLAG, NULL, "say more", NULL, AT(verbose)},
    {"force", 'f', OPT_FLAG, NULL, "do it all the same", NULL, AT(force)},
    {"output", 'o', OPT_STRING, "FILE", "where the result goes", NULL, AT(output)},
    {"disk", 0, OPT_STRINGS, "NAME", "a disk, may be repeated", NULL, AT(disks)},
    {"jobs", 'j', OPT_U64, "N", "how many at once", NULL, AT(jobs)},
    {"limit", 0, OPT_BYTES, "RATE", "bytes a second", NULL, AT(limit)},
    {"timeout", 0, OPT_MS, "TIME", "give up after it", NULL, AT(timeout)},
    {"mode", 0, OPT_CHOICE, "MODE",
     "how the copy is made, in words that are long enough to need a second line of text",
     "full|fast|none", AT(mode)},
    {0}};

static int parse(const char *line, struct target *t, struct strings *args, struct err *e)
{
    static struct strings words; // STRING options point into it until the next call
    strings_done(&words);
    AUTO(str_free) char *copy = xstrdup(line);
    char *save = NULL;
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        strings_add(&words, strcmp(w, "''") == 0 ? "" : w);
    int r = opt_parse(table, (int)words.n, words.v, t, args, e);
    if (line[0] == '\0')
        strings_done(&words);
    return r;
}

static void test_forms(void)
{
    struct err e = {0};
    struct target t = {0};
    AUTO(strings_done) struct strings args = {0};
    ok(parse("in -vf -o out --disk a --disk=b -j4 --limit 1.5M mid --timeout=5m "
             "--mode=fast - -- --force",
             &t, &args, &e) == 0,
       "all forms in one line");
    ok(t.verbose && t.force, "letters of flags in one word");
    is_str(t.output, "out", "the value in the next word");
    ok(t.disks.n == 2 && strings_have(&t.disks, "a") && strings_have(&t.disks, "b"),
       "a repeated option");
    is_u64(t.jobs, 4, "the value behind the letter");
    is_u64(t.limit, 1536 * KIB, "a size");
    is_u64(t.timeout, 300000, "a duration");
    is_str(t.mode, "fast", "a choice");
    ok(args.n == 4 && strcmp(args.v[0], "in") == 0 && strcmp(args.v[1], "mid") == 0 &&
           strcmp(args.v[2], "-") == 0 && strcmp(args.v[3], "--force") == 0,
       "positional words between, a lone dash, and all behind --");
    strings_done(&t.disks);

    struct target u = {0};
    AUTO(strings_done) struct strings none = {0};
    ok(parse("-vo= --output=--x --output=a=b", &u, &none, &e) == 0, "values with signs");
    is_str(u.output, "a=b", "the last one counts, = belongs to the value");
    ok(parse("--output= -o --verbose", &u, &none, &e) == 0,
       "a value that looks like an option");
    is_str(u.output, "--verbose", "is a value");
}

static void test_errors(void)
{
    static const struct {
        const char *line, *error;
    } rows[] = {
        {"--nonesuch", "unknown option --nonesuch"},
        {"--nonesuch=1", "unknown option --nonesuch"},
        {"--verb", "unknown option --verb"},
        {"--=x", "unknown option --"},
        {"-vx", "unknown option -x"},
        {"--verbose=1", "--verbose takes no value"},
        {"--output", "--output needs FILE"},
        {"-vo", "--output needs FILE"},
        {"--jobs=four", "--jobs: \"four\" is not a number"},
        {"-j ''", "--jobs: \"\" is not a number"},
        {"--limit=fast", "--limit: \"fast\" is not a size (4096, 64k, 1.5G)"},
        {"--timeout=1w", "--timeout: \"1w\" is not a duration (250ms, 30s, 5m, 1h)"},
        {"--mode=fas", "--mode: \"fas\" is not full|fast|none"},
        {"--mode=fast|none", "--mode: \"fast|none\" is not full|fast|none"},
        {"--mode ''", "--mode: \"\" is not full|fast|none"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = {0};
        struct target t = {0};
        AUTO(strings_done) struct strings args = {0};
        int r = parse(rows[i].line, &t, &args, &e);
        is_str(r < 0 ? e.text : "accepted", rows[i].error, rows[i].line);
        ok(e.code == ERR_USAGE && args.n == 0, "is a usage error");
        strings_done(&t.disks);
    }
}

static void test_help(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    opt_help(table, &b);
    ok(strstr(b.data, "  -o, --output=FILE   where the result goes\n"), "a row");
    ok(strstr(b.data, "      --disk=NAME     a disk, may be repeated\n"),
       "without letter");
    ok(strstr(b.data, "\n                      "), "a long text is wrapped under itself");
    bool narrow = true;
    for (const char *line = b.data; *line;) {
        size_t n = strcspn(line, "\n");
        narrow = narrow && n <= 80;
        line += n + 1;
    }
    if (!ok(narrow, "at most 80 columns"))
        printf("%s", b.data);
    static const struct opt wide[] = {{"a-name-that-is-longer-than-the-column", 0,
                                       OPT_STRING, "SOMETHING", "text", NULL, 0},
                                      {0}};
    buf_reset(&b);
    opt_help(wide, &b);
    ok(strstr(b.data, "=SOMETHING\n") && str_ends(b.data, "text\n"),
       "a long name gets a line of its own");
}

int main(void)
{
    test_forms();
    test_errors();
    test_help();
    struct target t = {0};
    struct err e = {0};
    AUTO(strings_done) struct strings args = {0};
    ok(parse("", &t, &args, &e) == 0 && args.n == 0, "no words at all");
    return done_testing();
}
