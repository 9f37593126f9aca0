// SPDX-License-Identifier: Apache-2.0
// Addresses of libvirt, taken apart. Private to this folder.
#pragma once

#include "base/base.h"

struct address {
    char *uri;           // for libvirt, without what is ours
    char *pool, *domain; // NULL: not given
};
int address_parse(const char *text, struct address *ret, struct err *e);
void address_done(struct address *a);
__attribute__((unused)) static inline void auto_address_done(struct address *a)
{
    address_done(a);
}
// Does the daemon run on this machine, so that its files are ours?
bool address_is_local(const char *uri);
