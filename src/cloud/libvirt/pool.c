// SPDX-License-Identifier: Apache-2.0
// Storage pools: where on this machine libvirt keeps disks. Only pools that are folders
// serve (dir, fs, netfs). A libvirt without a storage driver (a small installation) still
// starts domains whose disks lie in the customary folder.
#include "cloud/libvirt/handle.h"
#include "machine/xml.h"

#include <libvirt/virterror.h>

// Where libvirt's own tools put "default".
static char *customary_folder(const struct libvirt *l)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (!strstr(l->address.uri, "/session"))
        return xstrdup("/var/lib/libvirt/images");
    if (data && *data == '/')
        return path_join(data, "libvirt/images");
    return path_join(home ? home : "/", ".local/share/libvirt/images");
}

// NULL pool and success: there is no "default", or no storage driver.
static int find(struct libvirt *l, virStoragePoolPtr *ret, struct err *e)
{
    const char *name = l->address.pool ? l->address.pool : "default";
    *ret = lv.virStoragePoolLookupByName(l->conn, name);
    if (*ret)
        return 0;
    bool absent = libvirt_failed_with(VIR_ERR_NO_STORAGE_POOL) ||
                  libvirt_failed_with(VIR_ERR_NO_SUPPORT);
    if (absent && !l->address.pool)
        return 0;
    if (absent)
        return err_set(e, ERR_REFUSED, "%s has no storage pool '%s'", l->address.uri,
                       name);
    return libvirt_error(e, "looking for the storage pool %s", name);
}

static int path_of(virStoragePoolPtr pool, char **ret, struct err *e)
{
    static const char *const folders[] = {"dir", "fs", "netfs"};
    const char *name = lv.virStoragePoolGetName(pool);
    AUTO(str_free) char *text = lv.virStoragePoolGetXMLDesc(pool, 0);
    if (!text)
        return libvirt_error(e, "reading the storage pool %s", name);
    AUTO(xml_close) struct xml *xml = NULL;
    if (xml_open(text, strlen(text), name, &xml, e) < 0)
        return -1;
    AUTO(str_free) char *type = xml_attr(xml_root(xml), "type");
    bool is_folder = false;
    for (size_t i = 0; type && i < ARRAY_LEN(folders); i++)
        is_folder = is_folder || strcmp(type, folders[i]) == 0;
    AUTO(str_free)
    char *path = xml_child_text(xml_child(xml_root(xml), "target"), "path");
    if (!is_folder || !path || *path != '/')
        return err_set(e, ERR_REFUSED,
                       "the storage pool %s is of type %s: only folders (dir, fs, netfs) "
                       "can receive disks",
                       name, type ? type : "?");
    *ret = steal(path);
    return 0;
}

int pool_folder(struct libvirt *l, char **ret, struct err *e)
{
    AUTO(pool_free) virStoragePoolPtr pool = NULL;
    if (find(l, &pool, e) < 0)
        return -1;
    if (pool)
        return path_of(pool, ret, e);
    *ret = customary_folder(l);
    return 0;
}

static int make_default(struct libvirt *l, virStoragePoolPtr *ret, struct err *e)
{
    AUTO(str_free) char *folder = customary_folder(l);
    AUTO(str_free)
    char *xml =
        xasprintf("<pool type='dir'><name>default</name><target><path>%s</path></target>"
                  "</pool>",
                  folder);
    *ret = lv.virStoragePoolDefineXML(l->conn, xml, 0);
    if (!*ret && libvirt_failed_with(VIR_ERR_NO_SUPPORT))
        return 0;
    if (!*ret)
        return libvirt_error(e, "defining the storage pool default at %s", folder);
    if (lv.virStoragePoolBuild(*ret, VIR_STORAGE_POOL_BUILD_NEW) < 0)
        return libvirt_error(e, "building the storage pool default at %s", folder);
    (void)lv.virStoragePoolSetAutostart(*ret, 1); // a convenience after the next boot
    return 0;
}

int pool_make(struct libvirt *l, struct err *e)
{
    AUTO(pool_free) virStoragePoolPtr pool = NULL;
    if (find(l, &pool, e) < 0 || (!pool && make_default(l, &pool, e) < 0))
        return -1;
    if (pool && lv.virStoragePoolIsActive(pool) == 0 &&
        lv.virStoragePoolCreate(pool, 0) < 0)
        return libvirt_error(e, "starting the storage pool %s",
                             lv.virStoragePoolGetName(pool));
    return 0;
}

void pool_refresh(struct libvirt *l)
{
    struct err ignored; // a pool that does not look again still holds the disks
    AUTO(pool_free) virStoragePoolPtr pool = NULL;
    if (find(l, &pool, &ignored) == 0 && pool)
        (void)lv.virStoragePoolRefresh(pool, 0);
}
