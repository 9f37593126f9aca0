// SPDX-License-Identifier: Apache-2.0
// Takes out of a copy what `godwit-agent install` put into its source (agent/install.c,
// which a test holds against this): the program, its services, its keys.
#include "guest/fixes.h"

static const char *const files[] = {
    "/etc/systemd/system/multi-user.target.wants/godwit-agent.service",
    "/etc/systemd/system/sysinit.target.wants/godwit-agent-fence.service",
    "/etc/systemd/system/godwit-agent.service",
    "/etc/systemd/system/godwit-agent-fence.service",
    "/etc/rc2.d/S09godwit-agent",
    "/etc/rc3.d/S09godwit-agent",
    "/etc/rc4.d/S09godwit-agent",
    "/etc/rc5.d/S09godwit-agent",
    "/etc/init.d/godwit-agent",
    "/usr/local/sbin/godwit-agent",
};
static const char *const folders[] = {"/etc/godwit-agent", "/var/lib/godwit-agent"};

int fix_agent(struct guest *g, struct strings *done, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        // A link into nowhere is there too, but tree_exists follows it.
        bool there = tree_exists(g->tree, files[i]);
        if (tree_remove(g->tree, files[i], e))
            return -1;
        if (there)
            strings_take(done, xasprintf("%s: removed", files[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        if (!tree_exists(g->tree, folders[i]))
            continue;
        if (tree_remove_folder(g->tree, folders[i], e))
            return -1;
        strings_take(done, xasprintf("%s: removed", folders[i]));
    }
    return 0;
}
