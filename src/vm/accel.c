// SPDX-License-Identifier: Apache-2.0
// Is KVM usable? /dev/kvm may exist, open, and then hang every guest (nested machines
// whose host does not really offer it), so it is tried: the appliance's kernel, without a
// root, has to come up and panic within five seconds. The answer is kept until the
// kernel, QEMU or the boot changes.
#include "vm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PROBE_MS 5000

static char why[256];

static int parse_wish(const char *text, enum accel *ret, struct err *e)
{
    if (strcmp(text, "auto") == 0)
        *ret = ACCEL_AUTO;
    else if (strcmp(text, "kvm") == 0)
        *ret = ACCEL_KVM;
    else if (strcmp(text, "tcg") == 0)
        *ret = ACCEL_TCG;
    else
        return err_set(e, ERR_USAGE, "GODWIT_ACCEL is \"%s\"; it can be auto, kvm or tcg",
                       text);
    return 0;
}

// What the kept answer depends on, in one line.
static int make_key(struct buf *key, struct err *e)
{
    struct utsname u;
    AUTO(buf_done) struct buf version = BUF_INIT(4 * KIB);
    AUTO(buf_done) struct buf boot = BUF_INIT(256);
    char *const argv[] = {VM_QEMU, "--version", NULL};
    if (proc_run(argv, &version, e) < 0 ||
        file_read("/proc/sys/kernel/random/boot_id", &boot, e) < 0)
        return -1;
    version.data[strcspn(version.data, "\n")] = '\0';
    uname(&u);
    buf_printf(key, "%s %s %s", u.release, version.data, str_trim(boot.data));
    return 0;
}

// The kept answer: 1 usable, 0 not, -1 none.
static int kept_answer(const char *path, const char *key)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    struct err ignored; // no file: no answer
    if (access(path, R_OK) != 0 || file_read(path, &b, &ignored) < 0 || b.len < 3)
        return -1;
    char *text = str_trim(b.data);
    if (strcmp(text + 2, key) != 0 || text[1] != ' ')
        return -1;
    return text[0] == '1' ? 1 : text[0] == '0' ? 0 : -1;
}

// Boots the kernel to its panic for want of a root. *ret_good is only written when there
// was something to learn.
static int try_kernel(const char *kernel, bool *ret_good, struct err *e)
{
    AUTO(str_free) char *dir = NULL;
    if (dir_temp(&dir, e) < 0)
        return -1;
    struct vm_options options = {
        .name = "kvm-probe",
        .accel = ACCEL_KVM,
        .cpus = 1,
        .memory = 256 * MIB,
        .kernel = kernel,
        .cmdline = "console=ttyS0 quiet panic=-1 8250.nr_uarts=1 no_timer_check",
        .run_dir = dir};
    bool good = false;
    struct err failed;
    {
        AUTO(vm_end) struct vm *v = NULL;
        uint64_t end = clock_ms() + PROBE_MS;
        bool started = vm_start(&options, &v, &failed) == 0;
        while (started && clock_ms() < end && vm_running(v) && !cancel_requested())
            usleep(20000);
        AUTO(buf_done) struct buf console = BUF_INIT(MIB);
        good = started && !vm_running(v) &&
               file_read(vm_console_path(v), &console, &failed) == 0 && console.len &&
               memmem(console.data, console.len, "Kernel panic", 12);
    }
    struct err ignored; // an orphaned folder in /tmp does no harm
    (void)dir_remove(dir, &ignored);
    if (cancel_check(e) < 0)
        return -1;
    *ret_good = good;
    return 0;
}

static int probe(const char *cache_dir, enum accel *ret, struct err *e)
{
    *ret = ACCEL_TCG;
    AUTO(fd_close) int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        snprintf(why, sizeof(why), "no hardware virtualisation: /dev/kvm: %s",
                 strerror(errno));
        return 0;
    }
    if (proc_have(VM_QEMU, VM_QEMU_PACKAGE, e) < 0)
        return -1;
    AUTO(buf_done) struct buf key = BUF_INIT(4 * KIB);
    AUTO(str_free) char *dir = vm_appliance_dir(NULL, cache_dir);
    AUTO(str_free) char *kernel = dir ? path_join(dir, "vmlinux") : NULL;
    AUTO(str_free) char *answer = xasprintf("%s/kvm", cache_dir);
    if (make_key(&key, e) < 0)
        return -1;
    int kept = kept_answer(answer, key.data);
    bool good = kept > 0;
    if (kept < 0) {
        if (!kernel) {
            snprintf(why, sizeof(why), "KVM not tried: there is no appliance yet");
            return 0;
        }
        if (try_kernel(kernel, &good, e) < 0)
            return -1;
        struct err ignored; // a cache that cannot be written costs five seconds next time
        AUTO(str_free) char *text = xasprintf("%d %s\n", good, key.data);
        (void)file_write(answer, text, strlen(text), 0644, &ignored);
    }
    if (good)
        *ret = ACCEL_KVM;
    snprintf(why, sizeof(why), "%s",
             good ? "KVM works here"
                  : "KVM is there but starts no kernel within 5 s: emulating");
    return 0;
}

int accel_choose(enum accel wish, const char *cache_dir, enum accel *ret,
                 const char **ret_why, struct err *e)
{
    const char *text = getenv("GODWIT_ACCEL");
    const char *by = "asked for";
    if (wish == ACCEL_AUTO && text && text[0]) {
        if (parse_wish(text, &wish, e) < 0)
            return -1;
        by = "GODWIT_ACCEL says so";
    }
    *ret_why = why;
    AUTO(str_free) char *cache = cache_dir ? xstrdup(cache_dir) : vm_default_cache();
    if (wish == ACCEL_AUTO)
        return probe(cache, ret, e);
    snprintf(why, sizeof(why), "%s: %s", wish == ACCEL_KVM ? "KVM" : "emulation", by);
    *ret = wish;
    return 0;
}
