// SPDX-License-Identifier: Apache-2.0
// A guest's files in a folder:
//
//     NAME-vda.raw    the replica        NAME-vda.map    its map
//     NAME-vda.qcow2  the overlay        .NAME.godwit    whose they are: "JOB-CREATED\n"
//
// The marker is written before the first file is made and goes after the last, so at any
// moment, also after kill -9, a file of this name is either the job's or a stranger's,
// and a stranger's is never touched. A marker without any file keeps nobody out: its job
// was discarded, or has not begun (two that begin at once meet at QEMU's image lock).
#include "cloud/place.h"

#include <assert.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NETWORKS_MAX 64

char *place_tag(const struct cloud_machine *m)
{
    return xasprintf("%llu-%llu", (unsigned long long)m->job,
                     (unsigned long long)m->job_created);
}

char *place_path(const char *dir, const struct cloud_machine *m, const char *suffix)
{
    AUTO(str_free) char *name = xasprintf("%s%s", m->name, suffix);
    return path_join(dir, name);
}

static char *disk_path(const char *dir, const struct cloud_machine *m, size_t i,
                       const char *ending)
{
    char target[8];
    machine_disk_target(i, target);
    AUTO(str_free) char *suffix = xasprintf("-%s%s", target, ending);
    return place_path(dir, m, suffix);
}

// --- the files
// ---

static bool is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

// The first file of the guest that exists; NULL: none.
static char *find_file(const char *dir, const struct cloud_machine *m)
{
    static const char *const endings[] = {".raw", ".qcow2", ".map"};
    AUTO(str_free) char *xml = place_path(dir, m, ".xml");
    if (is_there(xml))
        return steal(xml);
    for (size_t i = 0; i < m->n_disks; i++)
        for (size_t k = 0; k < ARRAY_LEN(endings); k++) {
            AUTO(str_free) char *path = disk_path(dir, m, i, endings[k]);
            if (is_there(path))
                return steal(path);
        }
    return NULL;
}

// --- the marker
// -----------------------------------------------------------------------------------

static char *marker_path(const char *dir, const struct cloud_machine *m)
{
    AUTO(str_free) char *name = xasprintf(".%s.godwit", m->name);
    return path_join(dir, name);
}

// Its content without the newline; NULL: there is none.
static char *read_marker(const char *path)
{
    struct err ignored;
    AUTO(buf_done) struct buf b = BUF_INIT(256);
    struct stat st;
    if (lstat(path, &st) < 0)
        return NULL;
    if (!S_ISREG(st.st_mode) || file_read(path, &b, &ignored) < 0)
        return xstrdup("?"); // somebody's, but nobody's we know
    return xstrdup(b.data ? str_trim(b.data) : "");
}

bool place_is_ours(const char *dir, const struct cloud_machine *m)
{
    AUTO(str_free) char *path = marker_path(dir, m);
    AUTO(str_free) char *owner = read_marker(path);
    AUTO(str_free) char *tag = place_tag(m);
    return owner && strcmp(owner, tag) == 0;
}

void place_forget(const char *dir, const struct cloud_machine *m)
{
    AUTO(str_free) char *path = marker_path(dir, m);
    AUTO(str_free) char *file = find_file(dir, m);
    if (file || !place_is_ours(dir, m))
        return;
    file_write_sweep(path);
    (void)unlink(path); // left behind it keeps nobody out
}

static int check_owner(const char *dir, const struct cloud_machine *m, struct err *e)
{
    AUTO(str_free) char *file = find_file(dir, m);
    if (!file || place_is_ours(dir, m))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s already holds a guest '%s' that is not this job's (%s is there); "
                   "choose another name with --name, or another place",
                   dir, m->name, path_base(file));
}

static int take_marker(const char *dir, const struct cloud_machine *m, struct err *e)
{
    AUTO(str_free) char *path = marker_path(dir, m);
    AUTO(str_free) char *tag = place_tag(m);
    AUTO(str_free) char *line = xasprintf("%s\n", tag);
    return file_write(path, line, strlen(line), 0644, e);
}

// --- check
// ----------------------------------------------------------------------------------------

static int check_name(const struct cloud_machine *m, struct err *e)
{
    if (machine_check_name(m->name, e))
        return -1;
    const char *arch = m->machine->arch;
    if (strcmp(arch, "x86_64") != 0 && strcmp(arch, "i686") != 0)
        return err_set(e, ERR_REFUSED,
                       "%s: a machine of architecture %s; only x86_64 and "
                       "i686 can be moved",
                       m->name, arch);
    if (m->n_disks > MACHINE_DISKS_MAX)
        return err_set(e, ERR_REFUSED, "%s: more than %d disks", m->name,
                       MACHINE_DISKS_MAX);
    return 0;
}

// The folder, or the nearest one above it that exists: it must be writable.
static int check_folder(const char *dir, char **ret_existing, struct err *e)
{
    AUTO(str_free) char *path = xstrdup(dir);
    struct stat st;
    while (stat(path, &st) < 0) {
        if (errno != ENOENT)
            return err_errno(e, errno, "looking at %s", path);
        char *above = path_dir(path);
        free(path);
        path = above;
    }
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s is not a folder: choose another target", path);
    if (access(path, W_OK | X_OK) < 0) {
        err_errno(e, errno, "%s cannot be written to", path);
        e->code = ERR_REFUSED;
        return -1;
    }
    *ret_existing = steal(path);
    return 0;
}

// What our own replicas take already needs no room a second time.
static uint64_t already_there(const char *dir, const struct cloud_machine *m, size_t i)
{
    AUTO(str_free) char *path = disk_path(dir, m, i, ".raw");
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static int check_room(const char *existing, const char *dir,
                      const struct cloud_machine *m, struct err *e)
{
    assert(existing);
    uint64_t need = 0;
    for (size_t i = 0; i < m->n_disks; i++) {
        uint64_t have = already_there(dir, m, i), all = m->disks[i].needed;
        if (!add_fits(need, all > have ? all - have : 0, &need))
            need = UINT64_MAX;
    }
    struct statvfs vfs;
    if (statvfs(existing, &vfs) < 0)
        return err_errno(e, errno, "asking for the room in %s", existing);
    uint64_t free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (add_fits(need, need / 50, &need) && need <= free_bytes)
        return 0;
    char want[16], got[16];
    return err_set(e, ERR_REFUSED, "%s: %s are needed (2 %% to spare), %s are free", dir,
                   str_bytes(need, want), str_bytes(free_bytes, got));
}

int place_check(const char *dir, const struct cloud_machine *m, struct err *e)
{
    AUTO(str_free) char *existing = NULL;
    AUTO(place_networks_done) struct place_networks networks = {0};
    return check_name(m, e) < 0 || place_networks(m, &networks, e) < 0 ||
                   check_folder(dir, &existing, e) < 0 || check_owner(dir, m, e) < 0 ||
                   check_room(existing, dir, m, e) < 0
               ? -1
               : 0;
}

// --- place
// ----------------------------------------------------------------------------------------

static void replace(char **field, char *value /* taken */)
{
    free(*field);
    *field = value;
}

int place_take(const char *dir, struct cloud_machine *m, struct err *e)
{
    if (check_name(m, e) < 0 || dir_make(dir, 0755, e) < 0 ||
        check_owner(dir, m, e) < 0 || take_marker(dir, m, e) < 0)
        return -1;
    for (size_t i = 0; i < m->n_disks; i++) {
        struct cloud_disk *d = &m->disks[i];
        replace(&d->replica, disk_path(dir, m, i, ".raw"));
        replace(&d->map, disk_path(dir, m, i, ".map"));
        replace(&d->overlay, disk_path(dir, m, i, ".qcow2"));
        replace(&d->final, xstrdup(d->overlay));
        replace(&d->final_format, xstrdup("qcow2"));
    }
    return 0;
}

// --- the domain
// -----------------------------------------------------------------------------------

static bool has_nic(const struct machine *machine, const char *mac)
{
    for (size_t i = 0; i < machine->n_nics; i++)
        if (machine->nics[i].mac && strcmp(machine->nics[i].mac, mac) == 0)
            return true;
    return false;
}

static int add_network(const struct cloud_machine *m, const char *word,
                       struct place_networks *n, struct err *e)
{
    const char *equal = strchr(word, '=');
    AUTO(str_free) char *left = equal ? xstrndup(word, (size_t)(equal - word)) : NULL;
    if (!equal || !equal[1] || strlen(equal + 1) > 200)
        return err_set(e, ERR_USAGE, "--network %s: not of the form MAC=NET", word);
    strings_add(&n->words, equal + 1);
    const char *net = n->words.v[n->words.n - 1];
    if (strcmp(left, "*") == 0) {
        n->others = net;
        return 0;
    }
    AUTO(str_free) char *mac = machine_mac(left);
    if (!mac)
        return err_set(e, ERR_USAGE, "--network %s: '%s' is no MAC", word, left);
    if (!has_nic(m->machine, mac))
        return err_set(e, ERR_REFUSED,
                       "--network %s: the machine has no network interface %s", word,
                       mac);
    strings_take(&n->words, steal(mac));
    struct domain_network item = {n->words.v[n->words.n - 1], net};
    vec_push(&n->list, item);
    return 0;
}

int place_networks(const struct cloud_machine *m, struct place_networks *ret,
                   struct err *e)
{
    AUTO(place_networks_done) struct place_networks n = {0};
    if (m->n_networks > NETWORKS_MAX)
        return err_set(e, ERR_USAGE, "more than %d --network", NETWORKS_MAX);
    for (size_t i = 0; i < m->n_networks; i++)
        if (add_network(m, m->networks[i], &n, e) < 0)
            return -1;
    *ret = n;
    n = (struct place_networks){0};
    return 0;
}

void place_networks_done(struct place_networks *n)
{
    vec_done(&n->list);
    strings_done(&n->words);
    n->others = NULL;
}

void place_domain(const struct cloud_machine *m, const struct place_networks *networks,
                  const char *uuid, struct buf *out)
{
    AUTO(str_free) char *tag = place_tag(m);
    VEC(struct domain_disk) disks = {0};
    for (size_t i = 0; i < m->n_disks; i++) {
        const struct cloud_disk *d = &m->disks[i];
        bool overlay = strcmp(d->final, d->overlay) == 0;
        struct domain_disk disk = {d->final, d->final_format, overlay ? d->replica : NULL,
                                   overlay ? "raw" : NULL};
        vec_push(&disks, disk);
    }
    machine_domain_xml(&(struct domain_options){.machine = m->machine,
                                                .name = m->name,
                                                .uuid = uuid,
                                                .tag = tag,
                                                .disks = disks.v,
                                                .n_disks = disks.n,
                                                .emulated = m->emulated,
                                                .networks = networks->list.v,
                                                .n_networks = networks->list.n,
                                                .network = networks->others},
                       out);
    vec_done(&disks);
}
