// SPDX-License-Identifier: Apache-2.0
// The fixes, each in its own file, for the table in fix.c. Internal to guest/.
#pragma once

#include "guest/guest.h"
#include "guest/text.h"

int fix_initramfs_check(struct guest *g, struct err *e);
int fix_initramfs(struct guest *g, struct strings *done, struct err *e);
int fix_fstab(struct guest *g, struct strings *done, struct err *e);
int fix_lvm(struct guest *g, struct strings *done, struct err *e);
int fix_mdadm(struct guest *g, struct strings *done, struct err *e);
int fix_resume(struct guest *g, struct strings *done, struct err *e);
int fix_grub(struct guest *g, struct strings *done, struct err *e);
int fix_network(struct guest *g, struct strings *done, struct err *e);
int fix_agent(struct guest *g, struct strings *done, struct err *e);
int fix_uefi(struct guest *g, struct strings *done, struct err *e);

// The files that hold kernel command lines, and the words that begin such a line.
struct cmdline_file {
    const char *path;
    const char *keywords[4]; // ends with NULL
};
extern const struct cmdline_file cmdline_files[]; // ends with a row without path
// Does the line begin with one of the file's keywords?
bool is_cmdline(const struct cmdline_file *file, struct span line);

// What is done to one line of which file; ctx is said in each file. Once done there is
// nothing to do.
text_edit_fn fix_table_line; // fstab, crypttab; ctx: size_t, the device's field
text_edit_fn fix_crypttab_line;
text_edit_fn fix_lvm_line;     // lvm.conf
text_edit_fn fix_mdadm_line;   // mdadm.conf; ctx: enum mdadm_line
text_edit_fn fix_cmdline_line; // grub.cfg and its kin; ctx: struct cmdline_file
text_edit_fn fix_default_line; // /etc/default/grub
text_edit_fn fix_debconf_line; // debconf's answers; ctx: bool
text_edit_fn fix_rules_line;   // udev rules
text_edit_fn console_line;     // grub.cfg and its kin; ctx: struct cmdline_file

// What keeps the NICs' names: files that are not there yet.
struct name_file {
    char *path, *text;
    char *note;
};
struct name_plan {
    struct name_file *v;
    size_t n, cap;
};
int name_plan_make(const struct guest *g, struct name_plan *ret, struct err *e);
void name_plan_done(struct name_plan *p);
// Fills MACs of g->nics that are not known with those that the configuration names.
int nic_macs_learn(struct guest *g, struct err *e);
__attribute__((unused)) static inline void auto_name_plan_done(struct name_plan *p)
{
    name_plan_done(p);
}

// The ESP's mount point in the guest; NULL: none is mounted.
extern const char *const guest_esp_paths[];
