// SPDX-License-Identifier: Apache-2.0
// JSON (RFC 8259) by jansson, for texts that others wrote. jansson bounds neither depth
// (its ceiling is 2048) nor the number of values, each of which costs up to a hundred
// times its text, so both are counted before it sees the text. Integers end at 2^63-1.
#include "base/base.h"

#define DEPTH_MAX 64
#define VALUES_MAX (2 * MIB)
#define TEXT_MAX (16 * MIB)

// Counts outside of strings; whether brackets match is jansson's matter.
static int check_bounds(const char *text, size_t len, const char *what, struct err *e)
{
    size_t depth = 0, values = 0;
    bool in_string = false;
    if (len > TEXT_MAX)
        return err_set(e, ERR_FAILED, "%s: more than %u MiB of JSON", what,
                       (unsigned)(TEXT_MAX / MIB));
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            i += c == '\\'; // what follows is not an end
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            depth++;
            values++;
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
        } else if (c == ',') {
            values++;
        }
        if (depth > DEPTH_MAX)
            return err_set(e, ERR_FAILED, "%s: JSON deeper than %d levels", what,
                           DEPTH_MAX);
        if (values > VALUES_MAX)
            return err_set(e, ERR_FAILED, "%s: JSON of more than %u values", what,
                           (unsigned)VALUES_MAX);
    }
    return 0;
}

int json_parse(const char *text, size_t len, const char *what, json_t **ret,
               struct err *e)
{
    if (check_bounds(text, len, what, e) < 0)
        return -1;
    json_error_t error;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!j)
        return err_set(e, ERR_FAILED, "%s: not valid JSON in line %d: %s", what,
                       error.line, error.text);
    *ret = j;
    return 0;
}

int json_file_read(const char *path, size_t ceiling, json_t **ret, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(ceiling);
    if (file_read(path, &b, e))
        return -1;
    return json_parse(b.data ? b.data : "", b.len, path, ret, e);
}

int json_file_write(const char *path, const json_t *j, struct err *e)
{
    AUTO(str_free) char *text = json_text(j);
    return file_write(path, text, strlen(text), 0600, e);
}

const char *json_text_at(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

uint64_t json_u64_at(const json_t *object, const char *name)
{
    json_int_t n = json_integer_value(json_object_get(object, name));
    return n > 0 ? (uint64_t)n : 0;
}

bool json_can_hold(const char *text)
{
    AUTO(json_free) json_t *j = json_string(text); // NULL: not UTF-8
    return j != NULL;
}

char *json_text(const json_t *j)
{
    char *s = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!s)
        abort(); // a value built by hand that is none, or no memory
    return s;
}

static const char *const type_names[] = {[JSON_FIELD_STRING] = "a string",
                                         [JSON_FIELD_U64] = "a number from 0 up",
                                         [JSON_FIELD_BOOL] = "true or false",
                                         [JSON_FIELD_VALUE] = "a value"};

static bool fits(const json_t *v, enum json_type_wanted type)
{
    switch (type) {
    case JSON_FIELD_STRING:
        return json_is_string(v);
    case JSON_FIELD_U64:
        return json_is_integer(v) && json_integer_value(v) >= 0;
    case JSON_FIELD_BOOL:
        return json_is_boolean(v);
    case JSON_FIELD_VALUE:
        return true;
    }
    return false;
}

static void store(json_t *v, enum json_type_wanted type, void *at)
{
    switch (type) {
    case JSON_FIELD_STRING:
        *(char **)at = xstrdup(json_string_value(v));
        break;
    case JSON_FIELD_U64:
        *(uint64_t *)at = (uint64_t)json_integer_value(v);
        break;
    case JSON_FIELD_BOOL:
        *(bool *)at = json_is_true(v);
        break;
    case JSON_FIELD_VALUE:
        *(json_t **)at = json_incref(v);
        break;
    }
}

int json_read(const json_t *object, const struct json_field *fields, size_t n_fields,
              void *out, const char *what, struct err *e)
{
    if (!json_is_object(object))
        return err_set(e, ERR_FAILED, "%s: not a JSON object", what);
    for (size_t i = 0; i < n_fields; i++) {
        const json_t *v = json_object_get(object, fields[i].name);
        bool absent = !v || json_is_null(v);
        if (absent && fields[i].required)
            return err_set(e, ERR_FAILED, "%s: \"%s\" is missing", what, fields[i].name);
        if (!absent && !fits(v, fields[i].type))
            return err_set(e, ERR_FAILED, "%s: \"%s\" is not %s", what, fields[i].name,
                           type_names[fields[i].type]);
    }
    for (size_t i = 0; i < n_fields; i++) {
        json_t *v = json_object_get(object, fields[i].name);
        if (v && !json_is_null(v))
            store(v, fields[i].type, (char *)out + fields[i].offset);
    }
    return 0;
}
