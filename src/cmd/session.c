// SPDX-License-Identifier: Apache-2.0
// The global options as the things they stand for.
#include "cmd/session.h"

char *session_state_dir(const struct globals *g)
{
    return g->state ? xstrdup(g->state) : store_default_dir();
}

int session_store(const struct globals *g, struct store **ret, struct err *e)
{
    AUTO(str_free) char *dir = session_state_dir(g);
    return store_open(dir, ret, e);
}

enum accel session_accel(const struct globals *g)
{
    if (g->accel && strcmp(g->accel, "kvm") == 0)
        return ACCEL_KVM;
    if (g->accel && strcmp(g->accel, "tcg") == 0)
        return ACCEL_TCG;
    return ACCEL_AUTO;
}

int session_job_id(const char *word, uint64_t *ret, struct err *e)
{
    if (str_to_u64(word, ret) || *ret == 0 || *ret > INT64_MAX)
        return err_set(e, ERR_USAGE, "\"%s\" is not a job's number (see `godwit jobs`)",
                       word);
    return 0;
}

enum firmware firmware_of_guest(const json_t *guest)
{
    bool uefi = json_is_true(json_object_get(guest, "uefi"));
    bool bios = json_is_true(json_object_get(guest, "bios"));
    return uefi && !bios ? FIRMWARE_UEFI : FIRMWARE_BIOS;
}
