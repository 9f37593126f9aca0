// SPDX-License-Identifier: Apache-2.0
// From bare disks to mounted trees, and back. Devices are opened in layers, as they lie
// on one another, until nothing new appears:
//
//     disks ─► partitions ─► LUKS ─► md ─► LVM ─► LUKS … ─► root ─► what its fstab names
//
// Every step that must be undone is put on a stack; assemble_close takes it from there in
// reverse, also after a failure half-way. Nothing is activated by itself: no udev runs in
// the appliance.
#include "guest/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/device.h"

#define LAYERS_MAX 8

void assembly_undo_later(struct assembly *a, enum undo_kind kind, const char *name)
{
    struct undo u = {kind, xstrdup(name)};
    vec_push(&a->undo, u);
}

// --- programs

static int memory_file(const char *content, struct err *e)
{
    int fd = fd_memory("godwit");
    if (fd < 0)
        return err_errno(e, errno, "make a memory file");
    if (content &&
        (fd_write(fd, content, strlen(content)) < 0 || lseek(fd, 0, SEEK_SET) < 0)) {
        fd_close(fd);
        return err_errno(e, errno, "write to a memory file");
    }
    return fd;
}

// All of a memory file, at most the buffer's ceiling.
static void read_back(int fd, struct buf *out)
{
    char piece[4096];
    uint64_t off = 0;
    for (ssize_t n; (n = pread(fd, piece, sizeof(piece), (off_t)off)) > 0;
         off += (uint64_t)n)
        buf_add(out, piece, (size_t)n);
}

int assemble_run(char *const *argv, const char *input, struct buf *out, struct err *e)
{
    static char *const no_udev[] = {"DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1",
                                    "MDADM_NO_UDEV=1", NULL};
    AUTO(fd_close) int in = input ? memory_file(input, e) : -1;
    if (input && in < 0)
        return -1;
    AUTO(fd_close) int printed = memory_file(NULL, e);
    if (printed < 0)
        return -1;
    AUTO(fd_close) int errors = memory_file(NULL, e);
    if (errors < 0)
        return -1;
    AUTO(proc_end) struct proc *p = NULL;
    struct proc_options options = {
        .argv = argv, .in = in, .out = printed, .err = errors, .env = no_udev};
    int status = 0;
    if (proc_start(&options, &p, e) < 0 ||
        proc_wait(p, UINT64_MAX, false, &status, e) < 0)
        return -1;
    if (out)
        read_back(printed, out);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    AUTO(buf_done) struct buf text = BUF_INIT(16 * KIB);
    read_back(errors, &text);
    char *said = text.data ? str_trim(text.data) : NULL;
    char *line = said ? strrchr(said, '\n') : NULL;
    return err_set(e, ERR_FAILED, "%s failed (%d): %s", argv[0],
                   WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                   line   ? line + 1
                   : said ? said
                          : "no reason given");
}

void assemble_load_module(const char *name)
{
    char *const argv[] = {"modprobe", "-q", (char *)name, NULL};
    struct err ignored; // see the header
    (void)assemble_run(argv, NULL, NULL, &ignored);
}

// --- opening

// A kind is opened once those before it have nothing new, so that an array or a group
// whose disks lie in different layers finds all of them.
static int open_layers(struct assembly *a, struct guest *g, struct err *e)
{
    bool more = true;
    for (unsigned layer = 0; more && layer < LAYERS_MAX; layer++) {
        more = false;
        if (luks_open_all(a, g, &more, e) < 0 ||
            (!more && md_assemble_all(a, g, &more, e) < 0) ||
            (!more && lvm_activate(a, g, &more, e) < 0))
            return -1;
    }
    return 0;
}

static int open_all(struct assembly *a, struct guest *g, struct err *e)
{
    for (size_t i = 0; i < a->options->n_nodes; i++) {
        strings_add(&a->nodes, a->options->nodes[i]);
        if (probe_disk(a, g, a->options->nodes[i], (unsigned)i, e) < 0)
            return -1;
    }
    if (open_layers(a, g, e) < 0)
        return -1;
    for (size_t i = 0; i < g->devices.n; i++) {
        if (probe_health(&g->devices.v[i], e) < 0)
            return -1;
    }
    mount_know_btrfs(g);
    struct root_choice root = {0};
    if (root_find(a, g, &root, e) < 0)
        return -1;
    int r = mount_device(a, root.device, ASSEMBLE_ROOT, root.options, a->read_only, e);
    if (r == 0)
        r = tree_open(ASSEMBLE_ROOT, &g->tree, e);
    if (r == 0 && !root.device->mapper)
        device_learn_order(g, root.device->disk, root.device->partition);
    root_choice_done(&root);
    return r == 0 ? fstab_mount_all(a, g, e) : -1;
}

int assemble_open(const struct assemble_options *options, struct guest *g,
                  struct assembly **ret, struct err *e)
{
    struct assembly *a = xcalloc(1, sizeof(*a));
    a->options = options;
    a->read_only = options->read_only;
    if (open_all(a, g, e) < 0) {
        struct err ignored; // what went wrong first is what matters
        (void)assemble_close(a, g, &ignored);
        guest_devices_done(g);
        return -1;
    }
    a->options = NULL;
    *ret = a;
    return 0;
}

// --- closing

static int undo_one(struct assembly *a, const struct undo *u, struct err *e)
{
    switch (u->kind) {
    case UNDO_MOUNT:
        return unmount(u->name, e);
    case UNDO_LVM:
        return lvm_deactivate(a, e);
    case UNDO_LUKS:
        return luks_close(u->name, e);
    case UNDO_MD:
        return md_stop(u->name, e);
    case UNDO_SHADOW:
        return shadow_close(u->name, e);
    }
    return 0;
}

int assembly_undo(struct assembly *a, size_t left, struct err *e)
{
    int r = 0;
    struct err later; // the first error is reported, the rest is still undone
    while (a->undo.n > left) {
        struct undo u = a->undo.v[--a->undo.n];
        if (undo_one(a, &u, r < 0 ? &later : e) < 0)
            r = -1;
        free(u.name);
    }
    return r;
}

// The disk's own cache: what was unmounted is then on stable storage.
static int flush_disk(const char *node, struct err *e)
{
    AUTO(fd_close) int fd = open(node, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "open %s to flush it", node);
    return fsync(fd) == 0 ? 0 : err_errno(e, errno, "flush %s", node);
}

int assemble_close(struct assembly *a, struct guest *g, struct err *e)
{
    if (!a)
        return 0;
    int r = 0;
    struct err later; // the first error is reported, the rest is still undone
    tree_close(steal(g->tree));
    if (assembly_undo(a, 0, e) < 0)
        r = -1;
    mount_forget_btrfs();
    for (size_t i = 0; i < a->nodes.n && !a->read_only; i++) {
        if (flush_disk(a->nodes.v[i], r < 0 ? &later : e) < 0)
            r = -1;
    }
    vec_done(&a->undo);
    strings_done(&a->nodes);
    strings_done(&a->part_esp);
    strings_done(&a->probed);
    free(a->lvm_config);
    free(a);
    return r;
}
