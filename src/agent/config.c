// SPDX-License-Identifier: Apache-2.0
// DIR/config.json: what enrolment decided. Read at every start, written once.
#include "agent/source.h"

static const struct json_field fields[] = {
    {"name", JSON_FIELD_STRING, offsetof(struct agent_config, name), true},
    {"listen", JSON_FIELD_STRING, offsetof(struct agent_config, listen), false},
    {"dial", JSON_FIELD_STRING, offsetof(struct agent_config, dial), false},
    {"plain", JSON_FIELD_STRING, offsetof(struct agent_config, plain), false},
};

int config_read(const char *dir, struct agent_config *ret, struct err *e)
{
    AUTO(str_free) char *path = path_join(dir, "config.json");
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    AUTO(json_free) json_t *j = NULL;
    AUTO(config_done) struct agent_config c = {0};
    if (file_read(path, &b, e))
        return err_wrap(e, "this agent is not enrolled (godwit agent enroll says how)");
    if (json_parse(b.data ? b.data : "", b.len, path, &j, e) ||
        json_read(j, fields, ARRAY_LEN(fields), &c, path, e))
        return -1;
    if (!c.listen == !c.dial)
        return err_set(e, ERR_REFUSED, "%s must have either listen or dial", path);
    *ret = c;
    c = (struct agent_config){0};
    return 0;
}

int config_write(const char *dir, const struct agent_config *c, struct err *e)
{
    AUTO(str_free) char *path = path_join(dir, "config.json");
    AUTO(json_free)
    json_t *j = json_pack("{s:s, s:s*, s:s*, s:s*}", "name", c->name, "listen", c->listen,
                          "dial", c->dial, "plain", c->plain);
    if (!j)
        return err_set(e, ERR_REFUSED, "the agent's name or address is not text");
    return json_file_write(path, j, e);
}

void config_done(struct agent_config *c)
{
    free(c->name);
    free(c->listen);
    free(c->dial);
    free(c->plain);
    *c = (struct agent_config){0};
}
