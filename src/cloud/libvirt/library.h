// SPDX-License-Identifier: Apache-2.0
// libvirt, loaded when an address asks for it: with the fifty libraries behind it, it
// would take half of the time and of the reading that a cold start of any other command
// needs. Private to this folder.
#pragma once

#include "base/base.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

// What is called of it; `lv.` in front of its name calls it.
#define LIBVIRT_FUNCTIONS(X)        \
    X(virConnectClose)              \
    X(virConnectOpen)               \
    X(virDomainCreate)              \
    X(virDomainDefineXMLFlags)      \
    X(virDomainDestroy)             \
    X(virDomainFree)                \
    X(virDomainGetMetadata)         \
    X(virDomainGetUUIDString)       \
    X(virDomainGetXMLDesc)          \
    X(virDomainHasManagedSaveImage) \
    X(virDomainIsActive)            \
    X(virDomainLookupByName)        \
    X(virDomainLookupByUUIDString)  \
    X(virDomainUndefineFlags)       \
    X(virGetLastError)              \
    X(virGetLastErrorMessage)       \
    X(virNetworkFree)               \
    X(virNetworkIsActive)           \
    X(virNetworkLookupByName)       \
    X(virSetErrorFunc)              \
    X(virStoragePoolBuild)          \
    X(virStoragePoolCreate)         \
    X(virStoragePoolDefineXML)      \
    X(virStoragePoolFree)           \
    X(virStoragePoolGetName)        \
    X(virStoragePoolGetXMLDesc)     \
    X(virStoragePoolIsActive)       \
    X(virStoragePoolLookupByName)   \
    X(virStoragePoolRefresh)        \
    X(virStoragePoolSetAutostart)   \
    X(virStorageVolFree)            \
    X(virStorageVolGetPath)         \
    X(virStorageVolLookupByName)

struct libvirt_functions {
#define LIBVIRT_MEMBER(name) __typeof__(name) *name;
    LIBVIRT_FUNCTIONS(LIBVIRT_MEMBER)
#undef LIBVIRT_MEMBER
};
extern struct libvirt_functions lv; // filled by libvirt_load

// Once a process; not thread safe. ERR_FAILED: not installed, or too old.
int libvirt_load(struct err *e);
