// SPDX-License-Identifier: Apache-2.0
// What the files of this folder share: the connection, its errors, its pool. Private to
// this folder.
#pragma once

#include "cloud/cloud.h"
#include "cloud/libvirt/address.h"
#include "cloud/libvirt/library.h"

struct libvirt {
    struct cloud cloud;
    virConnectPtr conn;
    struct address address;
};

__attribute__((unused)) static inline void domain_free(virDomainPtr d)
{
    if (d)
        (void)lv.virDomainFree(d);
}
DEFINE_AUTO(domain_free, virDomainPtr)
__attribute__((unused)) static inline void pool_free(virStoragePoolPtr p)
{
    if (p)
        (void)lv.virStoragePoolFree(p);
}
DEFINE_AUTO(pool_free, virStoragePoolPtr)
__attribute__((unused)) static inline void volume_free(virStorageVolPtr v)
{
    if (v)
        (void)lv.virStorageVolFree(v);
}
DEFINE_AUTO(volume_free, virStorageVolPtr)
__attribute__((unused)) static inline void network_free(virNetworkPtr n)
{
    if (n)
        (void)lv.virNetworkFree(n);
}
DEFINE_AUTO(network_free, virNetworkPtr)

// Puts libvirt's last error into *e behind what was tried; returns -1.
int libvirt_error(struct err *e, const char *fmt, ...) PRINTF(2, 3);
// Was the last failure of this kind (VIR_ERR_NO_DOMAIN …)?
bool libvirt_failed_with(int code);

// --- pool.c: the folder that disks go to
// --------------------------------------------------------------------

// Its path. The pool of the address, else "default", else the place where libvirt would
// make that.
int pool_folder(struct libvirt *l, char **ret, struct err *e);
// The pool exists and is active afterwards; "default" is made if there is none.
int pool_make(struct libvirt *l, struct err *e);
// libvirt looks again what is in it.
void pool_refresh(struct libvirt *l);
