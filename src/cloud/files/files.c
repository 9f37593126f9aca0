// SPDX-License-Identifier: Apache-2.0
// dir:PATH, a folder that receives the guest (DESIGN.md section 5): its disks, and
// NAME.xml, a libvirt domain that starts as it is (`virsh create NAME.xml`). Nothing runs
// there, so there is no launch.
#include "cloud/files/files.h"
#include "cloud/place.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

#define XML_MAX (4 * MIB)

struct files {
    struct cloud cloud;
    char *dir; // absolute, links of its parents resolved
};
static_assert(offsetof(struct files, cloud) == 0, "handed out as struct cloud");

static void files_close(struct cloud *c)
{
    struct files *f = (struct files *)c;
    free(f->dir);
    free(f);
}

// Absolute, also when several folders of the path are still to be made.
static int absolute(const char *path, char **ret, struct err *e)
{
    if (*path == '/') {
        *ret = xstrdup(path);
        return 0;
    }
    AUTO(str_free) char *here = NULL;
    if (path_real(".", &here, e) < 0)
        return -1;
    *ret = path_join(here, path);
    return 0;
}

static int files_open(const char *address, const char *state_dir, struct cloud **ret,
                      struct err *e)
{
    (void)state_dir; // of agents alone
    const char *path = address + strlen("dir:");
    if (!*path)
        return err_set(e, ERR_USAGE, "'%s' names no folder: dir:PATH", address);
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < 0x20)
            return err_set(e, ERR_USAGE, "%s: control characters in a path", address);
    AUTO(str_free) char *dir = NULL;
    struct err none;
    if (path_real(path, &dir, &none) < 0 && absolute(path, &dir, e) < 0)
        return -1;
    struct files *f = xcalloc(1, sizeof(*f));
    f->cloud.ops = &files_cloud;
    f->dir = steal(dir);
    *ret = &f->cloud;
    return 0;
}

static int files_check(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    return place_check(((struct files *)c)->dir, m, e);
}

static int files_place(struct cloud *c, struct cloud_machine *m, struct err *e)
{
    return place_take(((struct files *)c)->dir, m, e);
}

static int files_import(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct files *f = (struct files *)c;
    AUTO(place_networks_done) struct place_networks networks = {0};
    AUTO(buf_done) struct buf xml = BUF_INIT(XML_MAX);
    AUTO(str_free) char *path = place_path(f->dir, m, ".xml");
    if (!place_is_ours(f->dir, m))
        return err_set(e, ERR_REFUSED, "%s: the name '%s' is not this job's any more",
                       f->dir, m->name);
    if (place_networks(m, &networks, e) < 0)
        return -1;
    place_domain(m, &networks, NULL, &xml);
    return file_write(path, xml.data, xml.len, 0644, e);
}

static int files_remove(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct files *f = (struct files *)c;
    AUTO(str_free) char *path = place_path(f->dir, m, ".xml");
    if (!place_is_ours(f->dir, m))
        return 0; // nothing of ours is there, or it is gone already
    if (file_remove(path, e))
        return -1;
    file_write_sweep(path);
    place_forget(f->dir, m);
    return 0;
}

const struct cloud_ops files_cloud = {
    .scheme = "dir:",
    .what = "a folder",
    .open = files_open,
    .close = files_close,
    .check = files_check,
    .place = files_place,
    .import = files_import,
    .remove = files_remove,
};
