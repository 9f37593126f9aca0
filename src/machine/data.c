// SPDX-License-Identifier: Apache-2.0
// struct machine as plain data: made, named and freed, whatever it was read from.
#include "machine/reader.h"

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '.' || c == '_' || c == '-';
}

char *machine_safe_name(const char *text)
{
    char out[65];
    size_t n = 0;
    for (; *text && n < sizeof(out) - 1; text++) {
        char c = is_name_char(*text) ? *text : '-';
        bool after_dash = n > 0 && out[n - 1] == '-' && c == '-';
        if (after_dash || (n == 0 && (c == '-' || c == '.' || c == '_')))
            continue;
        out[n++] = c;
    }
    while (n > 0 && (out[n - 1] == '-' || out[n - 1] == '.'))
        n--;
    out[n] = 0;
    return xstrdup(n ? out : "guest");
}

int machine_check_name(const char *name, struct err *e)
{
    AUTO(str_free) char *safe = machine_safe_name(name);
    if (strcmp(safe, name) == 0)
        return 0;
    return err_set(e, ERR_USAGE,
                   "'%s' cannot be the name of a guest; '%s' could (letters, digits, "
                   "'.', '_' and '-', at most 64)",
                   name, safe);
}

void machine_disk_done(struct machine_disk *d)
{
    free(d->path);
    free(d->format);
    free(d->bus);
    *d = (struct machine_disk){0};
}

void machine_nic_done(struct machine_nic *n)
{
    free(n->mac);
    free(n->model);
    free(n->network);
    free(n->bridge);
    free(n->place);
    *n = (struct machine_nic){0};
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_disks; i++)
        machine_disk_done(&m->disks[i]);
    for (size_t i = 0; i < m->n_nics; i++)
        machine_nic_done(&m->nics[i]);
    free(m->disks);
    free(m->nics);
    free(m->name);
    free(m->uuid);
    free(m->arch);
    free(m->running_as);
    json_decref(m->guest);
    free(m);
}

int machine_add_disk(struct machine *m, struct machine_disk *disk, struct err *e)
{
    struct machine_disk d = *disk;
    *disk = (struct machine_disk){0};
    if (m->n_disks == MACHINE_DISKS_MAX) {
        machine_disk_done(&d);
        return err_set(e, ERR_REFUSED, "more than %d disks", MACHINE_DISKS_MAX);
    }
    m->disks = xrealloc(m->disks, (m->n_disks + 1) * sizeof(*m->disks));
    m->disks[m->n_disks++] = d;
    return 0;
}

int machine_add_nic(struct machine *m, struct machine_nic *nic, struct err *e)
{
    struct machine_nic n = *nic;
    *nic = (struct machine_nic){0};
    if (m->n_nics == MACHINE_NICS_MAX) {
        machine_nic_done(&n);
        return err_set(e, ERR_REFUSED, "more than %d network interfaces",
                       MACHINE_NICS_MAX);
    }
    m->nics = xrealloc(m->nics, (m->n_nics + 1) * sizeof(*m->nics));
    m->nics[m->n_nics++] = n;
    return 0;
}
