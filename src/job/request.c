// SPDX-License-Identifier: Apache-2.0
// What was asked, to JSON and back: the row of a job holds all that `resume` needs. Names
// of key files are kept, keys never.
#include "job/job.h"

const char *const verify_names[] = {
    [VERIFY_NONE] = "none", [VERIFY_SAMPLE] = "sample", [VERIFY_FULL] = "full", NULL};

int verify_from_name(const char *name, enum verify_mode *ret)
{
    for (size_t i = 0; verify_names[i]; i++) {
        if (strcmp(verify_names[i], name) == 0) {
            *ret = (enum verify_mode)i;
            return 0;
        }
    }
    return -1;
}

static json_t *list_json(const struct strings *s)
{
    json_t *array = json_array();
    for (size_t i = 0; i < s->n; i++)
        json_array_append_new(array, json_string(s->v[i]));
    return array;
}

json_t *job_request_json(const struct job_request *r)
{
    return json_pack(
        "{s:s, s:s, s:s?, s:I, s:s, s:b, s:b, s:b, s:b, s:s?, s:i, s:o, s:o, s:s?, s:s?, "
        "s:I, s:I, s:I, s:b}",
        "source", r->source, "target", r->target, "name", r->name, "rate",
        (json_int_t)r->rate, "verify", verify_names[r->verify], "all_blocks",
        (int)r->all_blocks, "allow_path", (int)r->allow_any_path, "start", (int)r->start,
        "no_convert", (int)r->no_convert, "format", r->format, "accel", (int)r->accel,
        "networks", list_json(&r->networks), "luks_key_files",
        list_json(&r->luks_key_files), "root", r->root, "method", r->method,
        "max_downtime_ms", (json_int_t)r->max_downtime_ms, "delta_every_ms",
        (json_int_t)r->delta_every_ms, "probe_timeout_ms",
        (json_int_t)r->probe_timeout_ms, "until_ready", (int)r->until_ready);
}

static void read_list(const json_t *j, const char *name, struct strings *out)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(j, name), i, item)
    {
        if (json_is_string(item))
            strings_add(out, json_string_value(item));
    }
}

static bool flag(const json_t *j, const char *name)
{
    return json_is_true(json_object_get(j, name));
}

int job_request_read(const json_t *j, struct job_request *ret, struct err *e)
{
    struct job_request r = {
        .source = json_text_at(j, "source"),
        .target = json_text_at(j, "target"),
        .name = json_text_at(j, "name"),
        .rate = json_u64_at(j, "rate"),
        .all_blocks = flag(j, "all_blocks"),
        .allow_any_path = flag(j, "allow_path"),
        .start = flag(j, "start"),
        .no_convert = flag(j, "no_convert"),
        .format = json_text_at(j, "format"),
        .accel = (enum accel)json_integer_value(json_object_get(j, "accel")),
        .root = json_text_at(j, "root"),
        .method = json_text_at(j, "method"),
        .max_downtime_ms = json_u64_at(j, "max_downtime_ms"),
        .delta_every_ms = json_u64_at(j, "delta_every_ms"),
        .probe_timeout_ms = json_u64_at(j, "probe_timeout_ms"),
        .until_ready = flag(j, "until_ready"),
    };
    const char *verify = json_text_at(j, "verify");
    if (!r.source || !r.target || !verify || verify_from_name(verify, &r.verify))
        return err_set(e, ERR_FAILED, "the job's request in the store is not readable");
    read_list(j, "networks", &r.networks);
    read_list(j, "luks_key_files", &r.luks_key_files);
    *ret = r;
    return 0;
}

void job_request_done(struct job_request *r)
{
    strings_done(&r->networks);
    strings_done(&r->luks_key_files);
}
