// SPDX-License-Identifier: Apache-2.0
// The maps of the BPF programs: how they are laid out, loaded, pinned and read. The
// program is part of ours: built by clang, embedded as bytes, loaded by libbpf, which
// also puts the running kernel's field offsets into it. What surprises: an array map that
// can be mmapped (kernel 5.5) makes a harvest a walk over memory, without a system call a
// mark.
#include "agent/track_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_CPUS 4096

int track_maps_layout(struct track_maps *m, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, struct err *e)
{
    *m = TRACK_MAPS_NONE;
    int n_cpus = libbpf_num_possible_cpus();
    if (n_cpus <= 0 || n_cpus > MAX_CPUS)
        return err_set(e, ERR_REFUSED, "the number of CPUs is not known");
    m->n_cpus = (uint32_t)n_cpus;
    m->shift = shift;
    m->n_disks = n_disks;
    m->disk = xcalloc(n_disks + 1, sizeof(*m->disk));
    m->names = disks;
    m->found = xcalloc(TRACK_FLIGHT, sizeof(*m->found) + sizeof(uint64_t));
    for (size_t i = 0; i < n_disks; i++) {
        struct track_bpf_disk *d = &m->disk[i];
        d->dev = track_dev(disks[i].major, disks[i].minor);
        d->index = (uint32_t)i;
        d->n_disks = (uint32_t)n_disks;
        d->sector_shift = shift - 9;
        d->n_granules = round_up(disks[i].size, UINT64_C(1) << shift) >> shift;
        uint64_t n = d->n_granules;
        for (unsigned level = 0; level < TRACK_LEVELS; level++) {
            d->base[level] = m->n_entries;
            m->n_entries += (uint32_t)(n / TRACK_PAGE) + 1;
            n = n / TRACK_FAN + 1;
        }
    }
    m->live_len = (size_t)m->n_entries * TRACK_PAGE;
    m->count_len = (m->n_cpus + 1) * n_disks * sizeof(*m->count);
    return 0;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args; // our errors say it
    return 0;
}

int track_maps_open(const struct track_maps *m, const struct track_program *program,
                    struct bpf_object **ret, struct err *e)
{
    (void)libbpf_set_print(quiet);
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "godwit");
    struct bpf_object *o =
        bpf_object__open_mem(program->object, program->object_len, &options);
    if (o == NULL)
        return err_errno(e, errno, "opening the tracker's BPF object");
    struct {
        const char *name;
        size_t n;
    } sizes[] = {{"disks", m->n_disks},
                 {"marks", m->n_entries},
                 {"counts", (m->n_cpus + 1) * m->n_disks}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        (void)bpf_map__set_max_entries(bpf_object__find_map_by_name(o, sizes[i].name),
                                       (uint32_t)sizes[i].n); // fails only when loaded
    struct bpf_program *p;
    bpf_object__for_each_program(p, o)
    {
        bool wanted = false;
        for (size_t i = 0; i < program->n_names; i++)
            wanted |= strcmp(bpf_program__name(p), program->names[i]) == 0;
        (void)bpf_program__set_autoload(p, wanted);
    }
    *ret = o;
    return 0;
}

// A descriptor that stays when the object goes.
static int map_fd(const struct bpf_object *o, const char *name)
{
    int fd = bpf_object__find_map_fd_by_name(o, name);
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int map_live(struct track_maps *m, struct err *e)
{
    void *live = mmap(NULL, m->live_len, PROT_READ | PROT_WRITE, MAP_SHARED, m->marks, 0);
    if (live == MAP_FAILED)
        return err_errno(e, errno, "mapping the marks of a BPF tracker");
    m->live = live;
    void *count =
        mmap(NULL, m->count_len, PROT_READ | PROT_WRITE, MAP_SHARED, m->counts, 0);
    if (count == MAP_FAILED)
        return err_errno(e, errno, "mapping the counts of a BPF tracker");
    m->count = count;
    return 0;
}

int track_maps_load(struct track_maps *m, struct bpf_object *o, struct err *e)
{
    int r = bpf_object__load(o);
    if (r < 0)
        return err_set(e, ERR_REFUSED, "the kernel refuses the BPF tracker: %s",
                       strerror(-r));
    m->disks = map_fd(o, "disks");
    m->marks = map_fd(o, "marks");
    m->counts = map_fd(o, "counts");
    m->flight = map_fd(o, "flight");
    if (m->disks < 0 || m->marks < 0 || m->counts < 0 || m->flight < 0)
        return err_errno(e, errno, "the maps of a BPF tracker");
    for (size_t i = 0; i < m->n_disks; i++)
        if (bpf_map_update_elem(m->disks, &m->disk[i].dev, &m->disk[i], BPF_ANY) < 0)
            return err_errno(e, errno, "telling the BPF tracker about disk %zu", i);
    return map_live(m, e);
}

static int pin_get(const char *dir, const char *name)
{
    AUTO(str_free) char *path = path_join(dir, name);
    int fd = bpf_obj_get(path);
    return fd;
}

int track_maps_again(struct track_maps *m, const char *dir, struct err *e)
{
    m->disks = pin_get(dir, "disks");
    m->marks = pin_get(dir, "marks");
    m->counts = pin_get(dir, "counts");
    m->flight = pin_get(dir, "flight");
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    if (m->disks < 0 || m->marks < 0 || m->counts < 0 || m->flight < 0 ||
        bpf_obj_get_info_by_fd(m->marks, &info, &len) < 0 ||
        info.max_entries != m->n_entries || info.value_size != TRACK_PAGE)
        return err_set(e, ERR_REFUSED, "no marks in %s go with these disks", dir);
    for (size_t i = 0; i < m->n_disks; i++) {
        struct track_bpf_disk d = {0};
        if (bpf_map_lookup_elem(m->disks, &m->disk[i].dev, &d) < 0 ||
            memcmp(&d, &m->disk[i], sizeof(d)) != 0)
            return err_set(e, ERR_REFUSED, "the marks in %s are of other disks", dir);
    }
    return map_live(m, e);
}

int track_maps_pin(const struct track_maps *m, const char *dir, struct err *e)
{
    struct {
        const char *name;
        int fd;
    } pins[] = {{"disks", m->disks},
                {"marks", m->marks},
                {"counts", m->counts},
                {"flight", m->flight}};
    if (dir_make(dir, 0700, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(pins); i++) {
        AUTO(str_free) char *path = path_join(dir, pins[i].name);
        if (bpf_obj_pin(pins[i].fd, path) < 0)
            return err_errno(e, errno, "pinning %s", path);
    }
    return 0;
}

void track_maps_unpin(const char *dir)
{
    struct err e;
    (void)dir_remove(dir, &e); // what stays there is found and refused the next time
}

void track_maps_harvest(struct track_maps *m, size_t i, struct marks *into)
{
    const struct track_bpf_disk *d = &m->disk[i];
    uint64_t n = d->n_granules;
    for (unsigned level = 0; level < TRACK_LEVELS; level++) {
        uint8_t *live = m->live + (size_t)d->base[level] * TRACK_PAGE;
        marks_take(into, live, n, 6 * level);
        n = n / TRACK_FAN + 1;
    }
}

// Writes that the kernel has under way; UINT64_MAX: it does not say.
static uint64_t under_way(const char *disk)
{
    struct err e;
    unsigned long long reads, writes;
    AUTO(str_free) char *path = xasprintf("/sys/block/%s/inflight", disk);
    AUTO(buf_done) struct buf b = BUF_INIT(128);
    if (file_read(path, &b, &e) < 0 || b.len == 0 ||
        sscanf(b.data, "%llu %llu", &reads, &writes) != 2)
        return UINT64_MAX;
    return writes;
}

// It has ended, unseen. If it is another one by now that has the same place, that one has
// lost a witness, no more.
static void give_up(struct track_maps *m, size_t i, uint64_t key,
                    const struct track_bpf_flight *f)
{
    struct track_bpf_flight now;
    int r = bpf_map_lookup_and_delete_elem(m->flight, &key, &now);
    if (r < 0 && r != -ENOENT) { // before 5.14
        r = bpf_map_lookup_elem(m->flight, &key, &now);
        (void)bpf_map_delete_elem(m->flight, &key);
    }
    if (r < 0 || now.when != f->when)
        return;
    struct track_bpf_count *ours = &m->count[m->n_cpus * m->n_disks + i];
    ours->sectors += f->n_bytes / 512;
    ours->lost += f->op >= TRACK_NO_PLACE;
}

int track_maps_flight(struct track_maps *m, size_t i, struct marks *into, struct err *e)
{
    uint64_t *keys = (uint64_t *)(void *)(m->found + TRACK_FLIGHT);
    uint32_t n = 0, from = 0, next;
    bool more = true;
    while (more && n < TRACK_FLIGHT) {
        uint32_t got = TRACK_FLIGHT - n;
        int r = bpf_map_lookup_batch(m->flight, n ? &from : NULL, &next, keys + n,
                                     m->found + n, &got, NULL);
        more = r == 0;
        if (r < 0 && r != -ENOENT)
            return err_errno(e, -r, "reading the requests under way");
        n += got;
        from = next;
    }
    bool ended = n > 0 && under_way(m->names[i].name) == 0;
    for (uint32_t at = 0; at < n; at++) {
        const struct track_bpf_flight *f = &m->found[at];
        if (f->dev != m->disk[i].dev)
            continue;
        marks_set(into, f->sector * 512, f->n_bytes);
        if (ended)
            give_up(m, i, keys[at], f);
    }
    return 0;
}

struct track_seen track_maps_seen(const struct track_maps *m, size_t i)
{
    struct track_seen sum = {0};
    for (size_t at = i; at < (m->n_cpus + 1) * m->n_disks; at += m->n_disks) {
        sum.sectors += __atomic_load_n(&m->count[at].sectors, __ATOMIC_ACQUIRE);
        sum.lost += __atomic_load_n(&m->count[at].lost, __ATOMIC_ACQUIRE);
    }
    return sum;
}

void track_maps_done(struct track_maps *m)
{
    if (m->live)
        munmap(m->live, m->live_len);
    if (m->count)
        munmap(m->count, m->count_len);
    fd_close(m->disks);
    fd_close(m->marks);
    fd_close(m->counts);
    fd_close(m->flight);
    free(m->disk);
    free(m->found);
    *m = TRACK_MAPS_NONE;
}
