// SPDX-License-Identifier: Apache-2.0
// The agent as a service, and nothing left of it afterwards. What is made is the table
// below, so that taking it away is the same table from the end; the fix that removes the
// agent from a copy (guest/fix_agent.c) knows the same names. `root` is "" but in tests.
#include "agent/source.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM "/usr/local/sbin/godwit-agent"
#define UNITS "/etc/systemd/system"

static const char unit[] = "[Unit]\n"
                           "Description=godwit agent: this server is being migrated\n"
                           "After=network.target\n\n"
                           "[Service]\n"
                           "ExecStart=" PROGRAM " run\n"
                           "Restart=always\n"
                           "RestartSec=1\n"
                           "KillMode=process\n" // the watchdogs thaw by themselves
                           "LimitMEMLOCK=infinity\n"
                           "OOMScoreAdjust=-900\n\n"
                           "[Install]\n"
                           "WantedBy=multi-user.target\n";
static const char fence_unit[] =
    "[Unit]\n"
    "Description=godwit fence: a copy of this server runs elsewhere\n"
    "DefaultDependencies=no\n"
    "ConditionPathExists=" AGENT_STATE "/fenced\n"
    "After=local-fs.target\n"
    "Before=network-pre.target\n"
    "Wants=network-pre.target\n\n"
    "[Service]\n"
    "Type=oneshot\n"
    "ExecStart=" PROGRAM " fence\n\n"
    "[Install]\n"
    "WantedBy=sysinit.target\n";
static const char script[] =
    "#!/bin/sh\n"
    "### BEGIN INIT INFO\n"
    "# Provides:          godwit-agent\n"
    "# Required-Start:    $local_fs\n"
    "# Required-Stop:     $local_fs\n"
    "# Default-Start:     2 3 4 5\n"
    "# Default-Stop:      0 1 6\n"
    "# Short-Description: godwit agent: this server is being migrated\n"
    "### END INIT INFO\n"
    "# chkconfig: 2345 09 91\n"
    "case \"$1\" in\n"
    "start) " PROGRAM " fence; mkdir -p " AGENT_RUN "\n"
    "    " PROGRAM " run < /dev/null > /dev/null 2>&1 &\n"
    "    echo $! > " AGENT_RUN "/pid ;;\n"
    "stop) [ ! -f " AGENT_RUN "/pid ] || kill \"$(cat " AGENT_RUN "/pid)\" ;;\n"
    "restart|force-reload) \"$0\" stop; sleep 1; \"$0\" start ;;\n"
    "status) kill -0 \"$(cat " AGENT_RUN "/pid)\" ;;\n"
    "*) echo \"usage: $0 start|stop|restart|status\" >&2; exit 2 ;;\n"
    "esac\n";

struct made {
    const char *path;
    const char *content; // NULL: a link to `link`
    const char *link;
    mode_t mode;
};
static const struct made by_systemd[] = {
    {UNITS "/godwit-agent.service", unit, NULL, 0644},
    {UNITS "/godwit-agent-fence.service", fence_unit, NULL, 0644},
    {UNITS "/multi-user.target.wants/godwit-agent.service", NULL,
     "../godwit-agent.service", 0},
    {UNITS "/sysinit.target.wants/godwit-agent-fence.service", NULL,
     "../godwit-agent-fence.service", 0},
};
static const struct made by_init[] = {
    {"/etc/init.d/godwit-agent", script, NULL, 0755},
    {"/etc/rc2.d/S09godwit-agent", NULL, "../init.d/godwit-agent", 0},
    {"/etc/rc3.d/S09godwit-agent", NULL, "../init.d/godwit-agent", 0},
    {"/etc/rc4.d/S09godwit-agent", NULL, "../init.d/godwit-agent", 0},
    {"/etc/rc5.d/S09godwit-agent", NULL, "../init.d/godwit-agent", 0},
};

static bool has(const char *root, const char *path)
{
    AUTO(str_free) char *full = xasprintf("%s%s", root, path);
    return !access(full, F_OK);
}

static int make(const char *root, const struct made *m, struct err *e)
{
    AUTO(str_free) char *path = xasprintf("%s%s", root, m->path);
    AUTO(str_free) char *dir = path_dir(path);
    if (dir_make(dir, 0755, e))
        return -1;
    if (m->content)
        return file_write(path, m->content, strlen(m->content), m->mode, e);
    if (symlink(m->link, path) && errno != EEXIST)
        return err_errno(e, errno, "linking %s", path);
    return 0;
}

static int copy_program(const char *root, struct err *e)
{
    AUTO(str_free) char *path = xasprintf("%s%s", root, PROGRAM);
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(buf_done) struct buf b = BUF_INIT(256 * MIB);
    struct stat own, there;
    if (!stat("/proc/self/exe", &own) && !stat(path, &there) &&
        own.st_ino == there.st_ino && own.st_dev == there.st_dev)
        return 0;
    if (dir_make(dir, 0755, e) || file_read("/proc/self/exe", &b, e))
        return -1;
    return file_write(path, b.data, b.len, 0755, e);
}

static int run(char *const *argv, struct err *e)
{
    return proc_run(argv, NULL, e);
}

static bool systemd_runs(const char *root)
{
    return !*root && !access("/run/systemd/system", F_OK);
}

int agent_install(const char *root, struct err *e)
{
    static char *const reload[] = {"systemctl", "daemon-reload", NULL};
    static char *const start[] = {"systemctl", "restart", "godwit-agent.service", NULL};
    static char *const start_script[] = {"/etc/init.d/godwit-agent", "restart", NULL};
    bool systemd =
        has(root, "/usr/lib/systemd/systemd") || has(root, "/lib/systemd/systemd");
    const struct made *list = systemd ? by_systemd : by_init;
    size_t n = systemd ? ARRAY_LEN(by_systemd) : ARRAY_LEN(by_init);
    if (!systemd && !has(root, "/etc/init.d"))
        return err_set(
            e, ERR_REFUSED,
            "neither systemd nor /etc/init.d is here: start `godwit-agent run` "
            "yourself");
    if (copy_program(root, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (make(root, &list[i], e))
            return -1;
    }
    if (systemd_runs(root))
        return run(reload, e) || run(start, e) ? -1 : 0;
    return *root || systemd ? 0 : run(start_script, e);
}

static int remove_all(const char *root, const struct made *list, size_t n, struct err *e)
{
    for (size_t i = n; i-- > 0;) {
        AUTO(str_free) char *path = xasprintf("%s%s", root, list[i].path);
        if (file_remove(path, e))
            return -1;
    }
    return 0;
}

static void stop_service(const char *root)
{
    static char *const stop[] = {"systemctl", "stop", "godwit-agent.service", NULL};
    static char *const stop_script[] = {"/etc/init.d/godwit-agent", "stop", NULL};
    struct err ignored; // it may not run
    if (systemd_runs(root))
        (void)run(stop, &ignored);
    else if (!*root && has(root, by_init[0].path))
        (void)run(stop_script, &ignored);
}

int agent_uninstall(const char *root, bool force, struct err *e)
{
    static char *const reload[] = {"systemctl", "daemon-reload", NULL};
    static const char *const folders[] = {AGENT_DIR, AGENT_STATE, AGENT_RUN,
                                          "/sys/fs/bpf/run_godwit-agent"};
    AUTO(str_free) char *program = xasprintf("%s%s", root, PROGRAM);
    if (!force && has(root, AGENT_STATE "/fenced"))
        return err_set(e, ERR_REFUSED,
                       "this server is fenced: its copy runs elsewhere "
                       "(--force lifts the fence)");
    if (!force && has(root, AGENT_RUN "/job.json"))
        return err_set(e, ERR_REFUSED,
                       "a job is migrating this server: discard or "
                       "finish it first (--force gives up on it)");
    stop_service(root);
    if (!*root && isolate_end(e))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        AUTO(str_free) char *path = xasprintf("%s%s", root, folders[i]);
        if (dir_remove(path, e))
            return -1;
    }
    if (remove_all(root, by_systemd, ARRAY_LEN(by_systemd), e) ||
        remove_all(root, by_init, ARRAY_LEN(by_init), e) || file_remove(program, e))
        return -1;
    return systemd_runs(root) ? run(reload, e) : 0;
}
