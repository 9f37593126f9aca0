// SPDX-License-Identifier: Apache-2.0
// What holds for every description that was accepted. Seeds name the disks `passwd` and
// `group`: the descriptions pretend to lie in /etc, where those are on every machine, and
// nothing of a disk is read.
#pragma once

#include "fuzz.h"
#include "machine/machine.h"

// It is written as a domain, and read back as the same machine.
__attribute__((unused)) static void fuzz_round_trip(const struct machine *m)
{
    struct domain_disk disks[MACHINE_DISKS_MAX];
    for (size_t i = 0; i < m->n_disks; i++)
        disks[i] = (struct domain_disk){m->disks[i].path, "raw", NULL, NULL};
    AUTO(buf_done) struct buf xml = BUF_INIT(4 * MIB);
    machine_domain_xml(
        &(struct domain_options){
            .machine = m, .disks = disks, .n_disks = m->n_disks, .tag = "1"},
        &xml);
    assert(!xml.overflow);
    AUTO(machine_free) struct machine *back = NULL;
    struct err e = {0};
    int r = machine_parse(
        machine_reader_find("libvirt"), xml.data, xml.len,
        &(struct machine_options){.path = "/etc/x.xml", .allow_any_path = true}, &back,
        &e);
    assert(r == 0);
    assert(back->n_disks == m->n_disks && back->n_nics == m->n_nics);
    assert(strcmp(back->name, m->name) == 0 && back->cpus == m->cpus);
    for (size_t i = 0; i < m->n_disks; i++)
        assert(strcmp(back->disks[i].path, m->disks[i].path) == 0);
}

__attribute__((unused)) static void fuzz_machine(int r, const struct machine *m,
                                                 const struct err *e)
{
    if (r < 0) {
        assert(e->code != ERR_NONE && e->text[0]);
        return;
    }
    assert(m->n_disks >= 1 && m->n_disks <= MACHINE_DISKS_MAX);
    assert(m->n_nics <= MACHINE_NICS_MAX && m->cpus >= 1 && m->memory > 0 && m->arch);
    AUTO(str_free) char *safe = machine_safe_name(m->name);
    assert(strcmp(safe, m->name) == 0);
    for (size_t i = 0; i < m->n_nics; i++) {
        AUTO(str_free) char *mac = m->nics[i].mac ? machine_mac(m->nics[i].mac) : NULL;
        assert(!m->nics[i].mac || (mac && strcmp(mac, m->nics[i].mac) == 0));
    }
    struct err ignored;
    AUTO(json_free) json_t *j = NULL;
    AUTO(machine_free) struct machine *back = NULL;
    if (machine_json(m, &j, &ignored) == 0)
        assert(machine_from_json(j, &back, &ignored) == 0);
    fuzz_round_trip(m);
}

// A description in one piece of text, by the reader of that name. Names stay in /etc.
__attribute__((unused)) static void fuzz_text(const char *reader, const uint8_t *data,
                                              size_t size)
{
    struct machine_options options = {.path = "/etc/x"};
    AUTO(machine_free) struct machine *m = NULL;
    struct err e = {0};
    const struct machine_reader *r = machine_reader_find(reader);
    (void)r->is(options.path, (const char *)data, size);
    int done = machine_parse(r, (const char *)data, size, &options, &m, &e);
    fuzz_machine(done, m, &e);
    for (size_t i = 0; done == 0 && i < m->n_disks; i++)
        assert(path_under(m->disks[i].path, "/etc"));
}
