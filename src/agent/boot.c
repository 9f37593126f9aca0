// SPDX-License-Identifier: Apache-2.0
// Process 1 of the appliance. There is no other init, no udev and nothing that starts by
// itself: what is mounted and loaded is what is done here. Modules are loaded by their
// files in the order that the image's build worked out, which costs no process each.
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#define ALIASES_MAX 2048

static void mount_or_tell(const char *type, const char *where, unsigned long flags)
{
    mkdir(where, 0755);
    if (mount(type, where, type, flags, NULL) < 0 && errno != EBUSY)
        log_line(LOG_ERROR, "mount %s on %s: %s", type, where, strerror(errno));
}

static void load_module(const char *folder, const char *file)
{
    AUTO(str_free) char *path = path_join(folder, file);
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        log_line(LOG_ERROR, "open %s: %s", path, strerror(errno));
        return;
    }
    // ENODEV: for a CPU that is not there (accelerated checksums).
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV)
        log_line(LOG_ERROR, "load %s: %s", path, strerror(errno));
}

static void load_listed(void)
{
    struct utsname u;
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    struct err e;
    uname(&u);
    if (file_read("/etc/modules", &b, &e) < 0) {
        log_line(LOG_ERROR, "%s", e.text);
        return;
    }
    AUTO(str_free) char *folder = xasprintf("/usr/lib/modules/%s", u.release);
    char *save = NULL;
    for (char *line = strtok_r(b.data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save))
        load_module(folder, line);
}

void boot_system(void)
{
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/", 1);
    umask(022);
    mount_or_tell("devtmpfs", "/dev", MS_NOSUID);
    mount_or_tell("proc", "/proc", MS_NOSUID | MS_NOEXEC | MS_NODEV);
    mount_or_tell("sysfs", "/sys", MS_NOSUID | MS_NOEXEC | MS_NODEV);
    mount_or_tell("tmpfs", "/run", MS_NOSUID | MS_NODEV);
    mount_or_tell("tmpfs", "/tmp", MS_NOSUID | MS_NODEV);
    load_listed();
}

bool boot_parameter(const char *name, char *out, size_t size)
{
    AUTO(buf_done) struct buf b = BUF_INIT(16 * KIB);
    struct err ignored; // no command line: no parameters
    size_t n = strlen(name);
    if (file_read("/proc/cmdline", &b, &ignored) < 0 || !b.data)
        return false;
    for (const char *word = str_trim(b.data); *word;) {
        size_t len = strcspn(word, " ");
        if (len > n && strncmp(word, name, n) == 0 && word[n] == '=') {
            snprintf(out, size, "%.*s", (int)(len - n - 1), word + n + 1);
            return true;
        }
        word += len + (word[len] == ' ');
    }
    return false;
}

// --- real machines

static struct strings aliases; // seen so far; nftw passes no context
static size_t n_loaded;        // of them were given to modprobe

static int note_alias(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    if (type != FTW_F || strcmp(path + at->base, "modalias") != 0 ||
        aliases.n >= ALIASES_MAX)
        return 0;
    AUTO(buf_done) struct buf b = BUF_INIT(8 * KIB);
    struct err ignored; // a device that just went
    if (file_read(path, &b, &ignored) == 0 && b.data && str_trim(b.data)[0] &&
        !strings_have(&aliases, str_trim(b.data)))
        strings_add(&aliases, str_trim(b.data));
    return 0;
}

void boot_find_hardware(void)
{
    static const char *const always[] = {"sd_mod", "sr_mod", "nvme", "ahci", "xhci_pci"};
    AUTO(strings_done) struct strings argv = {0};
    struct err ignored; // most aliases have no module; that is its exit code
    nftw("/sys/devices", note_alias, 32, FTW_PHYS);
    strings_add(&argv, "modprobe");
    strings_add(&argv, "-abq");
    for (size_t i = 0; n_loaded == 0 && i < ARRAY_LEN(always); i++)
        strings_add(&argv, always[i]);
    for (; n_loaded < aliases.n; n_loaded++)
        strings_add(&argv, aliases.v[n_loaded]);
    if (argv.n > 2)
        (void)proc_run(argv.v, NULL, &ignored);
}

void boot_power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}
