// SPDX-License-Identifier: Apache-2.0
// A text of a peer or of a file: what is accepted is written and read again as the same
// value, and read into a struct by table.
#include "base/base.h"
#include "fuzz.h"

struct target {
    char *name;
    uint64_t size;
    bool flag;
    json_t *rest;
};

static const struct json_field fields[] = {
    {"name", JSON_FIELD_STRING, offsetof(struct target, name), true},
    {"size", JSON_FIELD_U64, offsetof(struct target, size), false},
    {"flag", JSON_FIELD_BOOL, offsetof(struct target, flag), false},
    {"rest", JSON_FIELD_VALUE, offsetof(struct target, rest), false},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    AUTO(json_free) json_t *j = NULL;
    AUTO(json_free) json_t *again = NULL;
    if (json_parse((const char *)data, size, "input", &j, &e) < 0) {
        assert(e.code == ERR_FAILED && e.text[0] && !j);
        return 0;
    }
    AUTO(str_free) char *text = json_text(j);
    int r = json_parse(text, strlen(text), "text", &again, &e);
    assert(r == 0 && json_equal(j, again));
    struct target t = {0};
    if (json_read(j, fields, ARRAY_LEN(fields), &t, "input", &e) < 0)
        assert(!t.name && !t.rest && e.text[0]);
    free(t.name);
    json_decref(t.rest);
    return 0;
}
