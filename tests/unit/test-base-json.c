// SPDX-License-Identifier: Apache-2.0
// json.c: what is refused and why; objects read by table.
#include "base/base.h"
#include "tap.h"

static json_t *parse(const char *text, struct err *e)
{
    json_t *j = NULL;
    *e = (struct err){0};
    return json_parse(text, strlen(text), "input", &j, e) == 0 ? j : NULL;
}

static void test_refused(void)
{
    static const struct {
        const char *text, *name, *error;
    } rows[] = {
        {"", "nothing", "input: not valid JSON in line 1"},
        {"{", "half an object", "input: not valid JSON in line 1"},
        {"{}\n x", "something behind", "input: not valid JSON in line 2"},
        {"{\"a\":1,\"a\":2}", "a duplicate key", "duplicate"},
        {"[\"\xff\"]", "bytes that are not UTF-8", "not valid JSON"},
        {"[\"\\u0000\"]", "a zero byte in a string", "not valid JSON"},
        {"[9223372036854775808]", "a number that does not fit", "not valid JSON"},
        {"[1e999]", "a real that does not fit", "not valid JSON"},
        {"[NaN]", "NaN", "not valid JSON"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e;
        AUTO(json_free) json_t *j = parse(rows[i].text, &e);
        if (!ok(!j && e.code == ERR_FAILED && strstr(e.text, rows[i].error),
                "%s is refused", rows[i].name))
            printf("# %s\n", e.text);
    }
}

static void test_bounds(void)
{
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(17 * MIB);
    for (int i = 0; i < 64; i++)
        buf_str(&b, "[");
    for (int i = 0; i < 64; i++)
        buf_str(&b, "]");
    AUTO(json_free) json_t *deep = parse(b.data, &e);
    ok(deep, "64 levels are allowed");
    AUTO(str_free) char *deeper = xasprintf("[%s]", b.data);
    ok(!parse(deeper, &e), "65 are not");
    is_str(e.text, "input: JSON deeper than 64 levels", "and the error says so");
    AUTO(str_free) char *quoted = xasprintf("[\"\\\"%s%s\"]", b.data, b.data);
    AUTO(json_free) json_t *brackets = parse(quoted, &e);
    ok(brackets, "brackets in strings do not count");
    buf_reset(&b);
    buf_str(&b, "[0");
    for (size_t i = 0; i < 2 * MIB; i++)
        buf_add(&b, ",0", 2);
    buf_str(&b, "]");
    ok(!parse(b.data, &e) && strstr(e.text, "more than 2097152 values"),
       "too many values are refused");
    buf_reset(&b);
    AUTO(str_free) char *long_text = xmalloc(16 * MIB + 1);
    memset(long_text, ' ', 16 * MIB + 1);
    json_t *j = NULL;
    ok(json_parse(long_text, 16 * MIB + 1, "input", &j, &e) < 0 &&
           strstr(e.text, "more than 16 MiB"),
       "a text of more than 16 MiB is refused");
}

struct thing {
    char *name;
    uint64_t size;
    bool flag;
    json_t *rest;
};

static const struct json_field fields[] = {
    {"name", JSON_FIELD_STRING, offsetof(struct thing, name), true},
    {"size", JSON_FIELD_U64, offsetof(struct thing, size), false},
    {"flag", JSON_FIELD_BOOL, offsetof(struct thing, flag), false},
    {"rest", JSON_FIELD_VALUE, offsetof(struct thing, rest), false},
};

static void test_read(void)
{
    struct err e;
    AUTO(json_free)
    json_t *j = parse("{\"name\":\"sda\",\"size\":9223372036854775807,\"flag\":true,"
                      "\"rest\":[1],\"other\":{}}",
                      &e);
    struct thing t = {0};
    ok(json_read(j, fields, ARRAY_LEN(fields), &t, "disk", &e) == 0, "an object is read");
    is_str(t.name, "sda", "its string");
    is_u64(t.size, INT64_MAX, "its number");
    ok(t.flag, "its flag");
    is_u64(json_array_size(t.rest), 1, "its value");
    free(t.name);
    json_decref(t.rest);

    AUTO(json_free) json_t *few = parse("{\"name\":\"x\",\"size\":null}", &e);
    struct thing u = {.size = 17};
    ok(json_read(few, fields, ARRAY_LEN(fields), &u, "disk", &e) == 0,
       "optional fields may be absent or null");
    is_u64(u.size, 17, "and leave the struct as it was");
    free(u.name);
}

static void test_read_errors(void)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"[]", "disk: not a JSON object"},
        {"{}", "disk: \"name\" is missing"},
        {"{\"name\":null}", "disk: \"name\" is missing"},
        {"{\"name\":1}", "disk: \"name\" is not a string"},
        {"{\"name\":\"x\",\"size\":-1}", "disk: \"size\" is not a number from 0 up"},
        {"{\"name\":\"x\",\"size\":1.5}", "disk: \"size\" is not a number from 0 up"},
        {"{\"name\":\"x\",\"size\":\"1\"}", "disk: \"size\" is not a number from 0 up"},
        {"{\"name\":\"x\",\"flag\":0}", "disk: \"flag\" is not true or false"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e;
        struct thing t = {0};
        AUTO(json_free) json_t *j = parse(rows[i].text, &e);
        int r = json_read(j, fields, ARRAY_LEN(fields), &t, "disk", &e);
        is_str(r < 0 ? e.text : "accepted", rows[i].error, rows[i].text);
        ok(!t.name && !t.size && !t.flag && !t.rest, "nothing was written");
    }
    struct err e;
    struct thing t = {0};
    ok(json_read(NULL, fields, ARRAY_LEN(fields), &t, "disk", &e) < 0,
       "NULL is no object");
}

static void test_text(void)
{
    AUTO(json_free) json_t *j = json_pack("{s:s,s:[i,b,n]}", "a", "x\ny", "b", 1, 1);
    AUTO(str_free) char *s = json_text(j);
    is_str(s, "{\"a\":\"x\\ny\",\"b\":[1,true,null]}", "one line");
    AUTO(json_free) json_t *scalar = json_string("x");
    AUTO(str_free) char *t = json_text(scalar);
    is_str(t, "\"x\"", "a scalar too");
}

int main(void)
{
    test_refused();
    test_bounds();
    test_read();
    test_read_errors();
    test_text();
    return done_testing();
}
