// SPDX-License-Identifier: Apache-2.0
// A running QEMU. Its control connection and its serial port are socket pairs made before
// it starts: no names in the file system that others could open, and their end tells us
// of its end. It is killed by the kernel when we die (base/proc.c). What it prints goes
// to files in run_dir, whose last lines explain its death.
#include "vm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS_MAX (64 * KIB)

struct hot_disk {
    char *id;
    char *scratch; // the file that takes its writes, NULL: none
};
struct vm {
    struct proc *proc;
    struct qmp qmp;
    int port; // our end of the serial port, -1: none
    char *name, *run_dir, *console, *errors, *vars;
    struct strings scratch; // files of cold-plugged disks that throw writes away
    VEC(struct hot_disk) disks;
};

static void hot_disk_done(struct hot_disk *d)
{
    if (d->scratch)
        unlink(d->scratch);
    free(d->scratch);
    free(d->id);
}

void vm_end(struct vm *v)
{
    if (!v)
        return;
    struct err ignored; // it is ended by signal next
    if (v->proc && proc_running(v->proc)) {
        int status;
        if (!cancel_requested() &&
            qmp_call(&v->qmp, "quit", NULL, 2000, NULL, &ignored) == 0)
            (void)proc_wait(v->proc, 2000, false, &status, &ignored); // same
        proc_kill(v->proc, SIGKILL); // nothing of it is worth a wait
    }
    proc_end(v->proc);
    qmp_done(&v->qmp);
    fd_close(v->port);
    for (size_t i = 0; i < v->disks.n; i++)
        hot_disk_done(&v->disks.v[i]);
    vec_done(&v->disks);
    for (size_t i = 0; i < v->scratch.n; i++)
        unlink(v->scratch.v[i]);
    strings_done(&v->scratch);
    if (v->vars)
        unlink(v->vars);
    free(v->vars);
    free(v->errors);
    free(v->console);
    free(v->run_dir);
    free(v->name);
    free(v);
}

// --- starting

static int find_firmware(const char **ret_code, const char **ret_vars, struct err *e)
{
    static const char *const pairs[][2] = {
        {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
        {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
        {"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        if (access(pairs[i][0], R_OK) == 0 && access(pairs[i][1], R_OK) == 0) {
            *ret_code = pairs[i][0];
            *ret_vars = pairs[i][1];
            return 0;
        }
    }
    return err_set(
        e, ERR_FAILED,
        "UEFI firmware for QEMU is not installed; on Debian: apt install ovmf");
}

// The machine's own copy of the firmware's variables.
static int copy_vars(struct vm *v, const char *from, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(16 * MIB);
    if (file_read(from, &b, e) < 0)
        return -1;
    v->vars = xasprintf("%s/%s.vars", v->run_dir, v->name);
    return file_write(v->vars, b.data, b.len, 0600, e);
}

// A fresh qcow2 over the disk, so that nothing reaches it.
static int make_scratch(const struct vm *v, const struct vm_disk *d, char **ret,
                        struct err *e)
{
    AUTO(str_free)
    char *path = xasprintf("%s/%s-%s.scratch", v->run_dir, v->name, d->serial);
    AUTO(str_free) char *backing = d->image ? xstrdup(d->image) : NULL;
    if (d->path && !backing && path_real(d->path, &backing, e) < 0)
        return -1;
    if (!d->path)
        backing = xasprintf("nbd+unix:///?socket=%s", d->socket);
    char *const argv[] = {"qemu-img",        "create", "-q",    "-f", "qcow2", "-F",
                          (char *)d->format, "-b",     backing, path, NULL};
    if (proc_have("qemu-img", "qemu-utils", e) < 0 || proc_run(argv, NULL, e) < 0)
        return err_wrap(e, "make a throw-away overlay on %s",
                        d->path ? d->path : d->socket);
    *ret = steal(path);
    return 0;
}

static int spawn(struct vm *v, const struct vm_argv *a, int errors, struct err *e)
{
    AUTO(strings_done) struct strings argv = {0};
    vm_make_argv(a, &argv);
    int keep[2] = {a->qmp_fd, a->port_fd};
    struct proc_options options = {.argv = argv.v,
                                   .in = -1,
                                   .out = errors,
                                   .err = errors,
                                   .keep = keep,
                                   .n_keep = a->port_fd >= 0 ? 2 : 1,
                                   .new_session = true};
    return proc_start(&options, &v->proc, e);
}

static int pair(int *ret_ours, int *ret_its, struct err *e)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_errno(e, errno, "make a socket pair for QEMU");
    *ret_ours = ends[0];
    *ret_its = ends[1];
    return 0;
}

static int open_files(struct vm *v, int *ret_errors, struct err *e)
{
    int console = open(v->console, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (console < 0)
        return err_errno(e, errno, "create %s", v->console);
    fd_close(console);
    *ret_errors = open(v->errors, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (*ret_errors < 0)
        return err_errno(e, errno, "create %s", v->errors);
    return 0;
}

static int launch(struct vm *v, const struct vm_options *o, struct err *e)
{
    AUTO(fd_close) int errors = -1;
    AUTO(fd_close) int its_qmp = -1;
    AUTO(fd_close) int its_port = -1;
    struct vm_argv a = {.options = o, .console = v->console, .port_fd = -1};
    if (proc_have(VM_QEMU, VM_QEMU_PACKAGE, e) < 0 || open_files(v, &errors, e) < 0)
        return -1;
    if (!o->kernel && o->firmware == FIRMWARE_UEFI) {
        const char *vars = NULL;
        if (find_firmware(&a.code, &vars, e) < 0 || copy_vars(v, vars, e) < 0)
            return -1;
        a.vars = v->vars;
    }
    int ours = -1;
    if (pair(&ours, &its_qmp, e) < 0)
        return -1;
    qmp_init(&v->qmp, ours);
    if (o->serial_port && pair(&v->port, &its_port, e) < 0)
        return -1;
    a.qmp_fd = its_qmp;
    a.port_fd = its_port;
    return spawn(v, &a, errors, e);
}

int vm_start(const struct vm_options *o, struct vm **ret, struct err *e)
{
    AUTO(vm_end) struct vm *v = xcalloc(1, sizeof(*v));
    v->port = v->qmp.fd = -1;
    v->name = xstrdup(o->name);
    v->run_dir = xstrdup(o->run_dir);
    v->console = xasprintf("%s/%s.console", o->run_dir, o->name);
    v->errors = xasprintf("%s/%s.errors", o->run_dir, o->name);
    struct vm_options options = *o;
    const char *why = NULL;
    if (o->accel == ACCEL_AUTO &&
        accel_choose(ACCEL_AUTO, NULL, &options.accel, &why, e) < 0)
        return -1;
    AUTO(free) void *disks = xcalloc(o->n_disks + 1, sizeof(*o->disks));
    struct vm_disk *d = disks;
    for (size_t i = 0; i < o->n_disks; i++) {
        d[i] = o->disks[i];
        if (vm_check_disk(&d[i], e) < 0)
            return -1;
        if (!d[i].discard_writes)
            continue;
        char *scratch = NULL;
        if (make_scratch(v, &d[i], &scratch, e) < 0)
            return -1;
        strings_take(&v->scratch, scratch);
        d[i] = (struct vm_disk){.path = scratch,
                                .format = "qcow2",
                                .serial = d[i].serial,
                                .bus = d[i].bus,
                                .sector_size = d[i].sector_size};
    }
    options.disks = d;
    if (launch(v, &options, e) < 0)
        return err_wrap(e, "start QEMU");
    if (qmp_hello(&v->qmp, VM_QMP_TIMEOUT_MS, e) < 0)
        return e->code == ERR_FAILED ? vm_last_words(v, e) : err_wrap(e, "start QEMU");
    *ret = steal(v);
    return 0;
}

// --- using it

int vm_qmp(struct vm *v, const char *command, const json_t *arguments, json_t **ret,
           struct err *e)
{
    if (qmp_call(&v->qmp, command, arguments, VM_QMP_TIMEOUT_MS, ret, e) == 0)
        return 0;
    return vm_running(v) || e->code == ERR_CANCELLED ? -1 : vm_last_words(v, e);
}

static int plug(struct vm *v, const struct vm_disk *d, const char *id, struct err *e)
{
    AUTO(json_free) json_t *node = vm_blockdev(d, id);
    AUTO(json_free) json_t *device = vm_scsi_device(d, id);
    if (vm_qmp(v, "blockdev-add", node, NULL, e) < 0)
        return -1;
    if (vm_qmp(v, "device_add", device, NULL, e) == 0)
        return 0;
    struct err ignored; // the first error is the one to report
    AUTO(json_free)
    json_t *name = json_pack("{s:o}", "node-name", json_sprintf("n-%s", id));
    (void)vm_qmp(v, "blockdev-del", name, NULL, &ignored);
    return -1;
}

int vm_add_disk(struct vm *v, const struct vm_disk *disk, struct err *e)
{
    if (vm_check_disk(disk, e) < 0)
        return -1;
    struct vm_disk d = *disk;
    struct hot_disk hot = {.id = xasprintf("d-%s", disk->serial)};
    if (d.discard_writes) {
        if (make_scratch(v, disk, &hot.scratch, e) < 0) {
            hot_disk_done(&hot);
            return -1;
        }
        d.path = hot.scratch;
        d.socket = NULL;
        d.format = "qcow2";
        d.read_only = false;
    }
    if (plug(v, &d, hot.id, e) < 0) {
        hot_disk_done(&hot);
        return err_wrap(e, "give %s to the virtual machine",
                        disk->path ? disk->path : disk->socket);
    }
    vec_push(&v->disks, hot);
    return 0;
}

int vm_remove_disk(struct vm *v, const char *serial, struct err *e)
{
    AUTO(str_free) char *id = xasprintf("d-%s", serial);
    size_t i = 0;
    while (i < v->disks.n && strcmp(v->disks.v[i].id, id) != 0)
        i++;
    if (i == v->disks.n)
        return err_set(e, ERR_FAILED, "remove disk %s: it was not added", serial);
    AUTO(json_free) json_t *device = json_pack("{s:s}", "id", id);
    AUTO(json_free)
    json_t *node = json_pack("{s:o}", "node-name", json_sprintf("n-%s", id));
    if (vm_qmp(v, "device_del", device, NULL, e) < 0 ||
        qmp_wait_deleted(&v->qmp, id, VM_QMP_TIMEOUT_MS, e) < 0 ||
        vm_qmp(v, "blockdev-del", node, NULL, e) < 0)
        return err_wrap(e, "take disk %s from the virtual machine", serial);
    hot_disk_done(&v->disks.v[i]);
    v->disks.v[i] = v->disks.v[--v->disks.n];
    return 0;
}

int vm_port_fd(const struct vm *v)
{
    return v->port;
}

const char *vm_console_path(const struct vm *v)
{
    return v->console;
}

int vm_screenshot(struct vm *v, const char *png_path, struct err *e)
{
    AUTO(str_free) char *path = NULL;
    if (path_real(png_path, &path, e) < 0)
        return -1;
    AUTO(json_free)
    json_t *arguments = json_pack("{s:s, s:s}", "filename", path, "format", "png");
    if (vm_qmp(v, "screendump", arguments, NULL, e) < 0)
        return err_wrap(e, "keep a picture of the screen in %s", path);
    return 0;
}

bool vm_running(struct vm *v)
{
    return v->proc && proc_running(v->proc);
}

// --- when it has died

// The last line of a file that says something, at most `size` - 1 bytes.
static void last_line(const char *path, char *out, size_t size)
{
    out[0] = '\0';
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    uint64_t len = min_u64((uint64_t)max_u64((uint64_t)end, 0), WORDS_MAX);
    if (fd < 0 || end <= 0)
        return;
    AUTO(str_free) char *text = xcalloc(1, len + 1);
    if (fd_pread(fd, text, len, (uint64_t)end - len) < 0)
        return;
    char *s = str_trim(text), *line = strrchr(s, '\n');
    snprintf(out, size, "%s", str_trim(line ? line + 1 : s));
}

int vm_last_words(struct vm *v, struct err *e)
{
    char line[400];
    int status;
    struct err ignored; // a QEMU that lingers is described by what it printed
    if (v->proc)
        (void)proc_wait(v->proc, 1000, false, &status, &ignored);
    last_line(v->errors, line, sizeof(line));
    const char *text = strncmp(line, VM_QEMU ": ", strlen(VM_QEMU) + 2) == 0
                           ? line + strlen(VM_QEMU) + 2
                           : line;
    if (strstr(text, "lock") && strstr(text, "Failed to get"))
        return err_set(e, ERR_REFUSED, "QEMU: a disk is in use: %s", text);
    if (text[0])
        return err_set(e, ERR_FAILED, "QEMU ended: %s", text);
    last_line(v->console, line, sizeof(line));
    return err_set(e, ERR_FAILED, "QEMU ended%s%s",
                   line[0] ? "; last on its console: " : "", line);
}
