// SPDX-License-Identifier: Apache-2.0
// What udev's configuration in a guest says about the names of NICs. Internal to guest/.
#pragma once

#include "guest/text.h"

struct tree;

// One statement: the NIC with that MAC (or at that place of the bus) is called so.
struct nic_name {
    char *file; // where it stands
    char *mac;  // lower case; NULL: the statement goes by bus path or driver
    char *name;
};
struct nic_names {
    struct nic_name *v;
    size_t n, cap;
};
// systemd.link(5) files and udev rules in /etc that name NICs.
int nic_names_read(struct tree *t, struct nic_names *ret, struct err *e);
void nic_names_done(struct nic_names *n);
__attribute__((unused)) static inline void auto_nic_names_done(struct nic_names *n)
{
    nic_names_done(n);
}
// The parsers; `file` is what the statements carry.
void parse_link(struct span text, const char *file, struct nic_names *ret);
void parse_rules(struct span text, const char *file, struct nic_names *ret);
// A rule's value: NAME="eth0", ATTR{address}=="…"; false: not in this line.
bool rule_value(struct span line, const char *key, struct span *ret);
