// SPDX-License-Identifier: Apache-2.0
// An allocation as JSON: {"disks": [{"size", "used"}], "volumes": […]}, volumes as in
// struct volume, without what is not known. Names and labels come from the disks: what
// is not UTF-8 in them is replaced.

#include "map/map.h"

// A string that JSON can carry; NULL stays NULL.
static json_t *text(const char *s)
{
    if (!s)
        return NULL;
    json_t *j = json_string(s);
    if (j)
        return j;
    AUTO(str_free) char *clean = xstrdup(s);
    for (char *p = clean; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    return json_string(clean);
}

static void set(json_t *o, const char *name, json_t *value)
{
    if (value)
        json_object_set_new(o, name, value);
}

static void set_flag(json_t *o, const char *name, bool value)
{
    if (value)
        json_object_set_new(o, name, json_true());
}

static json_t *number(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *volume_json(const struct volume *v)
{
    json_t *o = json_object();
    set(o, "kind", text(v->kind));
    set(o, "name", text(v->name));
    if (v->parent >= 0)
        set(o, "parent", json_integer(v->parent));
    set(o, "disk", number(v->disk));
    set(o, "table", text(v->table));
    set(o, "content", text(v->content));
    set(o, "uuid", text(v->uuid));
    set(o, "label", text(v->label));
    set(o, "part_uuid", text(v->part_uuid));
    set(o, "offset", number(v->off));
    set(o, "size", number(v->len));
    set(o, "used", number(v->used));
    set(o, "whole_because", text(v->whole_because));
    set_flag(o, "esp", v->esp);
    set_flag(o, "bios_boot", v->bios_boot);
    set_flag(o, "active", v->active);
    return o;
}

json_t *allocation_json(const struct allocation *a)
{
    json_t *disks = json_array(), *volumes = json_array(), *o = json_object();
    for (size_t i = 0; i < a->n_disks; i++) {
        json_t *d = json_object();
        for (size_t k = 0; k < a->volumes.n; k++)
            if (a->volumes.v[k].parent < 0 && a->volumes.v[k].disk == i)
                set(d, "size", number(a->volumes.v[k].len));
        set(d, "used", number(extents_bytes(&a->used[i], EXTENT_DATA)));
        json_array_append_new(disks, d);
    }
    for (size_t i = 0; i < a->volumes.n; i++)
        json_array_append_new(volumes, volume_json(&a->volumes.v[i]));
    set(o, "disks", disks);
    set(o, "volumes", volumes);
    return o;
}
