// SPDX-License-Identifier: Apache-2.0
// The helper system: our kernel and initramfs under QEMU, its agent behind a
// virtio-serial port that speaks HTTP (docs/control.md). The first request is sent before
// the kernel runs; it waits in the socket until the agent opens its end. Once an answer
// is overdue or the caller gave up, the stream is out of step and the appliance takes no
// more calls.
#include "vm/internal.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define BOOT_MS_KVM 30000
#define BOOT_MS_TCG 180000 // goal 8 s; two cores may be shared by many
#define MEMORY_DEFAULT (512 * MIB)

// Under emulation the time goes into these: 32 serial ports, self tests of ciphers,
// waiting for entropy, and speculation barriers.
#define CMDLINE                                                             \
    "console=ttyS0 quiet panic=-1 8250.nr_uarts=1 cryptomgr.notests "       \
    "random.trust_cpu=on mitigations=off rcupdate.rcu_expedited=1 nokaslr " \
    "godwit.role=appliance "
// An emulated TSC is calibrated wrongly when the machine is busy, and every timeout in
// the guest with it; the HPET's rate is a constant.
#define CMDLINE_TCG "no_timer_check tsc=unstable clocksource=hpet"

struct appliance {
    struct vm *vm;
    struct http_stream stream;
    char *dir, *run_dir;
    bool ready, lost; // lost: no more calls
    uint64_t started, boot_ms, limit_ms;
};

static char *usable(char *dir /* taken */)
{
    AUTO(str_free) char *kernel = path_join(dir, "vmlinux");
    AUTO(str_free) char *initrd = path_join(dir, "helper.cpio");
    if (access(kernel, R_OK) == 0 && access(initrd, R_OK) == 0)
        return dir;
    free(dir);
    return NULL;
}

char *vm_default_cache(void)
{
    const char *set = getenv("GODWIT_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (set && set[0])
        return xstrdup(set);
    if (geteuid() == 0)
        return xstrdup("/var/cache/godwit");
    if (xdg && xdg[0])
        return path_join(xdg, "godwit");
    return path_join(home && home[0] ? home : "/nonexistent", ".cache/godwit");
}

char *vm_appliance_dir(const char *dir, const char *cache_dir)
{
    const char *set = getenv("GODWIT_APPLIANCE");
    if (!dir && set && set[0])
        dir = set;
    if (dir)
        return usable(xstrdup(dir));
    AUTO(str_free) char *cache = vm_default_cache();
    char *found = cache_dir ? usable(path_join(cache_dir, "appliance")) : NULL;
    if (!found)
        found = usable(path_join(cache, "appliance"));
    if (!found)
        found = usable(xstrdup("/usr/local/lib/godwit/appliance"));
    if (!found)
        found = usable(xstrdup("/usr/lib/godwit/appliance"));
    return found;
}

int appliance_find(const char *dir, const char *cache_dir, char **ret, struct err *e)
{
    const char *set = getenv("GODWIT_APPLIANCE");
    const char *named = dir ? dir : set && set[0] ? set : NULL;
    *ret = vm_appliance_dir(dir, cache_dir);
    if (*ret)
        return 0;
    AUTO(str_free) char *cache = vm_default_cache();
    if (named)
        return err_set(e, ERR_FAILED,
                       "no appliance in %s (vmlinux and helper.cpio); make it with "
                       "appliance/build",
                       named);
    return err_set(e, ERR_FAILED,
                   "no appliance in %s/appliance; make it with appliance/build, or name "
                   "its folder in GODWIT_APPLIANCE",
                   cache);
}

int appliance_begin(const struct appliance_options *o, struct appliance **ret,
                    struct err *e)
{
    AUTO(appliance_end) struct appliance *a = xcalloc(1, sizeof(*a));
    enum accel accel;
    const char *why = NULL;
    if (cancel_check(e) < 0 || appliance_find(o->dir, o->cache_dir, &a->dir, e) < 0 ||
        accel_choose(o->accel, o->cache_dir, &accel, &why, e) < 0 ||
        dir_temp(&a->run_dir, e) < 0)
        return err_wrap(e, "start the appliance");
    AUTO(str_free) char *kernel = path_join(a->dir, "vmlinux");
    AUTO(str_free) char *initrd = path_join(a->dir, "helper.cpio");
    struct vm_options options = {.name = "appliance",
                                 .accel = accel,
                                 .cpus = 2,
                                 .memory = o->memory ? o->memory : MEMORY_DEFAULT,
                                 .kernel = kernel,
                                 .initrd = initrd,
                                 .cmdline =
                                     accel == ACCEL_KVM ? CMDLINE : CMDLINE CMDLINE_TCG,
                                 .run_dir = a->run_dir,
                                 .serial_port = true};
    a->started = clock_ms();
    a->limit_ms = accel == ACCEL_KVM ? BOOT_MS_KVM : BOOT_MS_TCG;
    if (vm_start(&options, &a->vm, e) < 0)
        return err_wrap(e, "start the appliance");
    http_stream_init(&a->stream, vm_port_fd(a->vm));
    *ret = steal(a);
    return 0;
}

int appliance_wait(struct appliance *a, struct err *e)
{
    if (a->ready)
        return 0;
    if (appliance_call(a, "/v1/hello", NULL, a->limit_ms, NULL, e) < 0)
        return err_wrap(e, "boot the appliance of %s", a->dir);
    a->ready = true;
    a->boot_ms = clock_ms() - a->started;
    return 0;
}

int appliance_start(const struct appliance_options *options, struct appliance **ret,
                    struct err *e)
{
    AUTO(appliance_end) struct appliance *a = NULL;
    if (appliance_begin(options, &a, e) < 0 || appliance_wait(a, e) < 0)
        return -1;
    *ret = steal(a);
    return 0;
}

int appliance_add_disk(struct appliance *a, const struct vm_disk *disk, struct err *e)
{
    return vm_add_disk(a->vm, disk, e);
}

int appliance_remove_disk(struct appliance *a, const char *serial, struct err *e)
{
    return vm_remove_disk(a->vm, serial, e);
}

int appliance_call(struct appliance *a, const char *path, const json_t *request,
                   uint64_t timeout_ms, json_t **ret, struct err *e)
{
    if (a->lost)
        return err_set(e, ERR_FAILED, "the appliance no longer answers");
    bool get = strcmp(path, "/v1/hello") == 0;
    uint64_t begin = clock_ms();
    if (http_call(&a->stream, get ? "GET" : "POST", path, request, timeout_ms, ret, e) ==
        0)
        return 0;
    if (e->code == ERR_CANCELLED || e->code == ERR_RETRY)
        a->lost = true;
    if (e->code == ERR_CANCELLED)
        return -1;
    // A stream that breaks before its time is QEMU's end, which takes a moment.
    bool early = e->code == ERR_RETRY && clock_ms() - begin < timeout_ms;
    for (unsigned i = 0; early && i < 100 && vm_running(a->vm); i++)
        usleep(10000);
    if (!vm_running(a->vm)) {
        a->lost = true;
        return vm_last_words(a->vm, e);
    }
    return -1;
}

uint64_t appliance_boot_ms(const struct appliance *a)
{
    return a->boot_ms;
}

void appliance_end(struct appliance *a)
{
    if (!a)
        return;
    vm_end(a->vm);
    http_stream_done(&a->stream);
    struct err ignored; // an orphaned folder in /tmp does no harm
    if (a->run_dir)
        (void)dir_remove(a->run_dir, &ignored);
    free(a->run_dir);
    free(a->dir);
    free(a);
}
