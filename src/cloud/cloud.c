// SPDX-License-Identifier: Apache-2.0
// The table of platforms, and the choice among them by an address's first letters.
#include "cloud/cloud.h"
#include "cloud/agent/agent.h"
#include "cloud/files/files.h"
#include "cloud/libvirt/libvirt.h"

const struct cloud_ops *const cloud_platforms[] = {&files_cloud, &libvirt_cloud,
                                                   &agent_cloud, NULL};

const struct cloud_ops *cloud_find(const char *address)
{
    for (size_t i = 0; cloud_platforms[i]; i++)
        if (str_starts(address, cloud_platforms[i]->scheme))
            return cloud_platforms[i];
    return NULL;
}

int cloud_open(const char *address, const char *state_dir, struct cloud **ret,
               struct err *e)
{
    const struct cloud_ops *ops = cloud_find(address);
    if (ops)
        return ops->open(address, state_dir, ret, e);
    AUTO(buf_done) struct buf known = BUF_INIT(512);
    for (size_t i = 0; cloud_platforms[i]; i++)
        buf_printf(&known, "%s%s… (%s)", i ? ", " : "", cloud_platforms[i]->scheme,
                   cloud_platforms[i]->what);
    return err_set(e, ERR_USAGE, "'%s' is no platform's address; known are %s", address,
                   known.data);
}

void cloud_close(struct cloud *c)
{
    if (c)
        c->ops->close(c);
}
