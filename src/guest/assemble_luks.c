// SPDX-License-Identifier: Apache-2.0
// LUKS volumes, opened with cryptsetup. The passphrase goes through its standard input
// (a memory file), never through an argument. A volume is called luks-UUID, not what the
// guest's crypttab calls it, because that lies inside.
//
// LUKS2's usual key derivation takes up to 1 GiB of memory: the appliance needs more.
#include "guest/assemble.h"

static const char *find_key(const json_t *keys, const char *uuid)
{
    const char *key = uuid ? json_string_value(json_object_get(keys, uuid)) : NULL;
    return key ? key : json_string_value(json_object_get(keys, "*"));
}

static int open_one(struct assembly *a, const char *node, const char *uuid, char **ret,
                    struct err *e)
{
    const char *key = find_key(a->options->luks_keys, uuid);
    if (!key)
        return err_set(e, ERR_REFUSED,
                       "the volume LUKS UUID=%s is encrypted: give its key",
                       uuid ? uuid : "?");
    AUTO(str_free) char *name = xasprintf("luks-%s", uuid ? uuid : path_base(node));
    char *argv[] = {
        "cryptsetup",        "open",       "--type", "luks", "--key-file", "-",
        "--disable-keyring", (char *)node, name,     NULL,   NULL};
    if (a->read_only)
        argv[9] = "--readonly";
    struct err why;
    assemble_load_module("dm-crypt"); // and with it dm-mod, for /dev/mapper/control
    if (assemble_run(argv, key, NULL, &why) < 0) {
        bool wrong = strstr(why.text, "(2)") != NULL;
        return err_set(e, wrong ? ERR_REFUSED : ERR_FAILED, "open LUKS UUID=%s: %s",
                       uuid ? uuid : "?", wrong ? "the key does not fit" : why.text);
    }
    assembly_undo_later(a, UNDO_LUKS, name);
    *ret = xasprintf("/dev/mapper/%s", name);
    return 0;
}

int luks_open_all(struct assembly *a, struct guest *g, bool *ret_more, struct err *e)
{
    size_t n = g->devices.n; // those that this round adds are the next round's
    *ret_more = false;
    for (size_t i = 0; i < n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!guest_device_holds(d, "crypto_LUKS") || strings_have(&a->probed, d->node))
            continue;
        strings_add(&a->probed, d->node);
        AUTO(str_free) char *mapped = NULL;
        if (open_one(a, d->node, d->uuid, &mapped, e) < 0 ||
            probe_mapper(g, mapped, e) < 0)
            return -1;
        *ret_more = true;
    }
    return 0;
}

int luks_close(const char *name, struct err *e)
{
    char *const argv[] = {"cryptsetup", "close", (char *)name, NULL};
    return assemble_run(argv, NULL, NULL, e);
}
