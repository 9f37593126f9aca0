// SPDX-License-Identifier: Apache-2.0
// What the appliance does for a job: disks are plugged in, one call works on the guest
// they hold, and they are unplugged whatever came of it. One guest's disks at a time.
#include "job/internal.h"

#define CALL_TIMEOUT_MS (UINT64_C(30) * 60 * 1000)
#define KEY_MAX (8 * KIB)
// cryptsetup makes LUKS2 volumes whose key takes up to 1 GiB to derive (argon2id).
#define LUKS_MEMORY (2 * GIB)

// What a guest of QEMU needs to find its disks and its network: modules by name, as the
// target's machine (machine_domain_xml) has them.
static const char *const target_drivers[] = {"virtio_pci", "virtio_blk", "virtio_scsi",
                                             "virtio_net"};

int helper_begin(const struct helper_options *options, struct appliance **ret,
                 struct err *e)
{
    AUTO(str_free) char *cache = path_join(options->state_dir, "cache");
    if (dir_make(cache, 0700, e))
        return -1;
    return appliance_begin(
        &(struct appliance_options){.accel = options->accel,
                                    .memory = options->luks ? LUKS_MEMORY : 0,
                                    .cache_dir = cache},
        ret, e);
}

// "UUID=FILE" or "FILE" → {"UUID" or "*": the file's first line}. The text of a key is
// never in a message.
static int read_keys(const struct strings *files, json_t **ret, struct err *e)
{
    AUTO(json_free) json_t *keys = json_object();
    for (size_t i = 0; i < files->n; i++) {
        const char *equals = strchr(files->v[i], '=');
        const char *path = equals ? equals + 1 : files->v[i];
        AUTO(str_free)
        char *uuid =
            equals ? xstrndup(files->v[i], (size_t)(equals - files->v[i])) : xstrdup("*");
        AUTO(buf_done) struct buf text = BUF_INIT(KEY_MAX);
        if (file_read(path, &text, e))
            return err_wrap(e, "--luks-key");
        size_t len = strcspn(text.data ? text.data : "", "\n");
        json_t *key = json_stringn(text.data ? text.data : "", len);
        if (text.data)
            explicit_bzero(text.data, text.len);
        if (!key)
            return err_set(e, ERR_USAGE, "--luks-key: %s is not UTF-8 text", path);
        json_object_set_new(keys, uuid, key);
    }
    *ret = steal(keys);
    return 0;
}

static int make_request(const struct helper_request *r, json_t **ret, struct err *e)
{
    AUTO(json_free) json_t *request = json_object();
    json_t *disks = json_array(), *nics = json_array();
    json_object_set_new(request, "disks", disks);
    json_object_set_new(request, "nics", nics);
    for (size_t i = 0; i < r->n_disks; i++)
        json_array_append_new(disks, json_string(r->disks[i].serial));
    for (size_t i = 0; r->machine && i < r->machine->n_nics; i++)
        json_array_append_new(nics,
                              json_pack("{s:s?, s:s?}", "mac", r->machine->nics[i].mac,
                                        "place", r->machine->nics[i].place));
    json_t *drivers = json_array();
    for (size_t i = 0; i < ARRAY_LEN(target_drivers); i++)
        json_array_append_new(drivers, json_string(target_drivers[i]));
    if (strcmp(r->call, "convert") == 0)
        json_object_set(request, "drivers", drivers);
    json_decref(drivers);
    if (r->root)
        json_object_set_new(request, "root", json_string(r->root));
    json_t *keys = NULL;
    if (r->luks_key_files && r->luks_key_files->n) {
        if (read_keys(r->luks_key_files, &keys, e))
            return -1;
        json_object_set_new(request, "luks_keys", keys);
    }
    *ret = steal(request);
    return 0;
}

int helper_call(struct appliance *a, const struct helper_request *r, json_t **ret,
                struct err *e)
{
    AUTO(json_free) json_t *request = NULL;
    AUTO(str_free) char *path = xasprintf("/v1/guest/%s", r->call);
    if (make_request(r, &request, e) || appliance_wait(a, e))
        return -1;
    size_t plugged = 0;
    int status = 0;
    while (!status && plugged < r->n_disks) {
        status = appliance_add_disk(a, &r->disks[plugged], e);
        plugged += !status;
    }
    if (!status && r->asked)
        *r->asked = true;
    if (!status)
        status = appliance_call(a, path, request, CALL_TIMEOUT_MS, ret, e);
    while (plugged-- > 0) {
        // After a failure the first error is the one to tell; the appliance ends soon.
        struct err ignored;
        if (appliance_remove_disk(a, r->disks[plugged].serial, status ? &ignored : e))
            status = -1;
    }
    return status;
}

void helper_learn_macs(struct machine *m, const json_t *facts)
{
    const json_t *nics = json_object_get(facts, "nics");
    for (size_t i = 0; i < m->n_nics; i++) {
        const char *mac =
            json_string_value(json_object_get(json_array_get(nics, i), "mac"));
        if (!m->nics[i].mac && mac)
            m->nics[i].mac = machine_mac(mac);
    }
}
