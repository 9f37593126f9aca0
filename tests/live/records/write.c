// SPDX-License-Identifier: Apache-2.0
// The load: one thread a mode. Every run writes files of its own (DIR/RUN/…), made and
// durable before the first acknowledgement; only a raw device's range is used again,
// after it was zeroed. A record is acknowledged after its sync call has returned, never
// before.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_NAMES 16 // of the mode that makes, renames and removes files

// What all writers share.
struct load {
    struct acks *acks;
    char run[32]; // the folder
    int dir;      // its descriptor
    uint64_t seed, rate, slots, block;
    const char *raw; // the device, with its range
    uint64_t raw_off;
    pthread_mutex_t lock; // for these:
    uint64_t seq, due_ms, bytes, records;
};
struct writer {
    struct load *load;
    const struct mode *mode;
    int (*step)(struct writer *w);
    unsigned index;
    pthread_t thread;
    uint64_t random;
    int fd;
    uint8_t *map;          // of the mode with it
    uint64_t n, end;       // of a log: its number and length
    bool exists[N_NAMES];  // of files
    char place[PLACE_MAX]; // of the file it writes now
    _Alignas(4096) uint8_t buf[RECORD_MAX];
};

static uint64_t below(struct writer *w, uint64_t n)
{
    return mix(&w->random) % n;
}

static noreturn void failed(struct writer *w, const char *what)
{
    die("%s: %s: %s", w->place, what, strerror(errno));
}

// A record for `off` of the writer's place, in w->buf; waits as the rate asks.
static struct record next_record(struct writer *w, uint64_t off, uint32_t unit)
{
    struct load *l = w->load;
    uint32_t len = RECORD_MIN + (uint32_t)below(w, RECORD_MAX - RECORD_MIN + 1);
    len = (len + unit - 1) / unit * unit;
    struct record r = {.place = place_id(w->place),
                       .off = off,
                       .writer = w->index,
                       .len = len,
                       .seed = mix(&w->random)};
    pthread_mutex_lock(&l->lock);
    uint64_t now = now_ms();
    if (l->due_ms < now)
        l->due_ms = now; // what was not used is not caught up with
    uint64_t wait = l->due_ms - now;
    l->due_ms += len * 1000 / l->rate;
    pthread_mutex_unlock(&l->lock);
    for (uint64_t end = now + wait; now < end && !stopped; now = now_ms())
        sleep_ms(end - now < 100 ? end - now : 100);
    pthread_mutex_lock(&l->lock);
    r.seq = ++l->seq;
    l->bytes += len;
    l->records++;
    pthread_mutex_unlock(&l->lock);
    record_write(&r, w->buf);
    return r;
}

static uint64_t next_seq(struct load *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t seq = ++l->seq;
    pthread_mutex_unlock(&l->lock);
    return seq;
}

static int acknowledge(struct writer *w, const char *op, uint64_t off, uint64_t len,
                       uint64_t seq, uint64_t sum)
{
    return acks_put(w->load->acks, w->index, w->mode->window,
                    "%s %s %llu %llu %llu %016llx", op, w->place, (unsigned long long)off,
                    (unsigned long long)len, (unsigned long long)seq,
                    (unsigned long long)sum);
}

static int acknowledge_record(struct writer *w, const struct record *r)
{
    return acknowledge(w, "record", r->off, r->len, r->seq, r->sum);
}

static void write_record(struct writer *w, int fd, const struct record *r)
{
    if (pwrite(fd, w->buf, r->len, (off_t)r->off) != (ssize_t)r->len)
        failed(w, "write");
}

// --- the modes, one operation each

static uint64_t some_slot(struct writer *w)
{
    return below(w, w->load->slots) * SLOT;
}

static int step_buffered(struct writer *w)
{
    struct record r = next_record(w, some_slot(w), 1);
    write_record(w, w->fd, &r);
    if (fdatasync(w->fd) < 0)
        failed(w, "fdatasync");
    return acknowledge_record(w, &r);
}

static int step_direct(struct writer *w) // O_DIRECT | O_DSYNC
{
    struct record r = next_record(w, some_slot(w), (uint32_t)w->load->block);
    write_record(w, w->fd, &r);
    return acknowledge_record(w, &r);
}

static int step_raw(struct writer *w)
{
    struct load *l = w->load;
    struct record r = next_record(w, l->raw_off + some_slot(w), (uint32_t)l->block);
    write_record(w, w->fd, &r);
    return acknowledge_record(w, &r);
}

static int step_mmap(struct writer *w)
{
    struct record r = next_record(w, some_slot(w), 1);
    memcpy(w->map + r.off, w->buf, r.len);
    if (msync(w->map + r.off, r.len, MS_SYNC) < 0)
        failed(w, "msync");
    return acknowledge_record(w, &r);
}

static int step_punch(struct writer *w)
{
    if (below(w, 3))
        return step_buffered(w);
    uint64_t off = some_slot(w), seq = next_seq(w->load);
    if (fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, SLOT) <
            0 ||
        fdatasync(w->fd) < 0)
        failed(w, "punch hole");
    return acknowledge(w, "zero", off, SLOT, seq, 0);
}

static int sync_folder(struct writer *w)
{
    if (fsync(w->load->dir) < 0)
        failed(w, "fsync of the folder");
    return 0;
}

static int open_in_run(struct writer *w, const char *name, int flags)
{
    int fd = openat(w->load->dir, name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
    if (fd < 0)
        failed(w, "open");
    return fd;
}

static const char *base_name(const char *place)
{
    return strrchr(place, '/') + 1;
}

static void set_place(struct writer *w, uint64_t n)
{
    (void)snprintf(w->place, sizeof(w->place), "%s/%s.%llu", w->load->run, w->mode->name,
                   (unsigned long long)n);
}

// The log after this one; the oldest goes.
static int next_log(struct writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    if (w->n >= LOGS_KEPT) {
        set_place(w, w->n - LOGS_KEPT);
        uint64_t seq = next_seq(w->load);
        if (unlinkat(w->load->dir, base_name(w->place), 0) < 0)
            failed(w, "unlink");
        sync_folder(w);
        if (acknowledge(w, "gone", 0, 0, seq, 0) < 0)
            return -1;
    }
    set_place(w, w->n++);
    w->end = 0;
    w->fd = open_in_run(w, base_name(w->place), O_APPEND);
    return sync_folder(w);
}

static int step_append(struct writer *w)
{
    if ((w->fd < 0 || w->end > w->load->slots * SLOT) && next_log(w) < 0)
        return -1;
    struct record r = next_record(w, w->end, 1);
    if (write(w->fd, w->buf, r.len) != (ssize_t)r.len)
        failed(w, "append");
    if (fsync(w->fd) < 0)
        failed(w, "fsync");
    w->end += r.len;
    return acknowledge_record(w, &r);
}

static int step_files(struct writer *w)
{
    int dir = w->load->dir;
    uint64_t i = below(w, N_NAMES);
    set_place(w, i);
    if (w->exists[i] && below(w, 3) == 0) {
        uint64_t seq = next_seq(w->load);
        if (unlinkat(dir, base_name(w->place), 0) < 0)
            failed(w, "unlink");
        sync_folder(w);
        w->exists[i] = false;
        return acknowledge(w, "gone", 0, 0, seq, 0);
    }
    struct record r = next_record(w, 0, 1);
    int fd = open_in_run(w, "new", O_TRUNC);
    write_record(w, fd, &r);
    if (fsync(fd) < 0 || renameat(dir, "new", dir, base_name(w->place)) < 0)
        failed(w, "fsync, rename");
    close(fd);
    sync_folder(w);
    w->exists[i] = true;
    return acknowledge_record(w, &r);
}

// --- making a run

// A file of slots, all zeros.
static void open_slots(struct writer *w, int flags)
{
    (void)snprintf(w->place, sizeof(w->place), "%s/%s", w->load->run, w->mode->name);
    w->fd = open_in_run(w, w->mode->name, flags);
    off_t size = (off_t)(w->load->slots * SLOT);
    if (ftruncate(w->fd, size) < 0 || fsync(w->fd) < 0)
        failed(w, "size");
    if (strcmp(w->mode->name, "mmap") != 0)
        return;
    w->map = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
    if (w->map == MAP_FAILED)
        failed(w, "mmap");
}

// The range is zeroed, and that acknowledged. Its records' sequence goes on: a range
// keeps the records of earlier runs, whose numbers are higher than a new run's.
static void open_raw(struct writer *w)
{
    struct load *l = w->load;
    (void)snprintf(w->place, sizeof(w->place), "raw");
    w->fd = open(l->raw, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (w->fd < 0)
        failed(w, l->raw);
    for (uint64_t i = 0; i < l->slots; i++) {
        struct record r;
        ssize_t n = pread(w->fd, w->buf, SLOT, (off_t)(l->raw_off + i * SLOT));
        if (n != SLOT)
            failed(w, "the range is not within the device");
        if (record_read(w->buf, SLOT, &r) == CONTENT_RECORD && r.seq > l->seq)
            l->seq = r.seq;
    }
    memset(w->buf, 0, SLOT);
    for (uint64_t i = 0; i < l->slots; i++)
        if (pwrite(w->fd, w->buf, SLOT, (off_t)(l->raw_off + i * SLOT)) != SLOT)
            failed(w, "zero");
    for (uint64_t i = 0; i < l->slots; i++)
        acknowledge(w, "zero", l->raw_off + i * SLOT, SLOT, ++l->seq, 0);
}

static void open_run(struct load *l, const char *folder)
{
    uint32_t name;
    if (getrandom(&name, sizeof(name), 0) != sizeof(name))
        die("no random numbers");
    (void)snprintf(l->run, sizeof(l->run), "run-%08x", name);
    int parent = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0 || mkdirat(parent, l->run, 0700) < 0 || fsync(parent) < 0)
        die("%s: %s", folder, strerror(errno));
    l->dir = openat(parent, l->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->dir < 0)
        die("%s/%s: %s", folder, l->run, strerror(errno));
    close(parent);
}

static const struct {
    const char *mode;
    int (*step)(struct writer *w);
    int flags;
} steps[] = {
    {"buffered", step_buffered, 0}, {"direct", step_direct, O_DIRECT | O_DSYNC},
    {"mmap", step_mmap, 0},         {"append", step_append, 0},
    {"files", step_files, 0},       {"punch", step_punch, 0},
    {"raw", step_raw, 0},
};

static struct writer *writer_new(struct load *l, unsigned index)
{
    struct writer *w = aligned_alloc(4096, sizeof(*w));
    if (!w)
        die("no memory");
    memset(w, 0, sizeof(*w));
    w->load = l;
    w->mode = mode_of(steps[index].mode);
    w->step = steps[index].step;
    w->index = index;
    w->random = l->seed * 1000 + index;
    w->fd = -1;
    if (strcmp(steps[index].mode, "raw") == 0)
        open_raw(w);
    else if (w->mode->layout == LAYOUT_SLOTS)
        open_slots(w, steps[index].flags);
    return w;
}

static void *run(void *arg)
{
    struct writer *w = arg;
    while (!stopped)
        if (w->step(w) < 0)
            break;
    return NULL;
}

// --- the command line

static const char usage[] =
    "write DIR|- --acks ADDRESS:PORT|FILE|- [--rate 1M] [--seed N] [--seconds N]\n"
    "      [--size 4M] [--modes buffered,direct,…] [--block 512] [--raw DEV@OFFSET]\n"
    "--size is of every file and of the device's range; DIR - is the device alone";

struct options {
    const char *folder, *acks, *modes;
    uint64_t seconds;
};

static void parse(struct load *l, struct options *o, int argc, char **argv)
{
    usage_if(argc < 2 || argc % 2, usage);
    o->folder = argv[1];
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        char *value = argv[i + 1], *at = strrchr(value, '@');
        if (strcmp(name, "--acks") == 0)
            o->acks = value;
        else if (strcmp(name, "--modes") == 0)
            o->modes = value;
        else if (strcmp(name, "--rate") == 0)
            l->rate = number(value, name);
        else if (strcmp(name, "--seed") == 0)
            l->seed = number(value, name);
        else if (strcmp(name, "--seconds") == 0)
            o->seconds = number(value, name);
        else if (strcmp(name, "--size") == 0)
            l->slots = number(value, name) / SLOT;
        else if (strcmp(name, "--block") == 0)
            l->block = number(value, name);
        else if (strcmp(name, "--raw") == 0 && at) {
            *at = 0;
            l->raw = value;
            l->raw_off = number(at + 1, name);
        } else
            usage_if(true, usage);
    }
    usage_if(!o->acks || !l->rate || !l->slots || !l->block || l->block > 4096 ||
                 l->raw_off % 4096,
             usage);
}

static bool wanted(const struct load *l, const struct options *o, const char *mode)
{
    if (strcmp(mode, "raw") == 0)
        return l->raw;
    if (strcmp(o->folder, "-") == 0)
        return false;
    const char *at = o->modes ? strstr(o->modes, mode) : mode;
    return at && (!o->modes || at == o->modes || at[-1] == ',');
}

int cmd_write(int argc, char **argv)
{
    struct load l = {
        .seed = 1, .rate = 1 << 20, .slots = 64, .block = RECORD_MIN, .dir = -1};
    struct options o = {0};
    struct writer *writers[ARRAY_LEN(steps)];
    size_t n = 0;
    parse(&l, &o, argc, argv);
    stop_on_signals();
    pthread_mutex_init(&l.lock, NULL);
    l.acks = acks_open(o.acks);
    if (strcmp(o.folder, "-") != 0)
        open_run(&l, o.folder);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        if (wanted(&l, &o, steps[i].mode))
            writers[n++] = writer_new(&l, i);
    usage_if(!n, usage);
    if (l.dir >= 0 && fsync(l.dir) < 0)
        die("%s: %s", l.run, strerror(errno));
    for (size_t i = 0; i < n; i++)
        if (pthread_create(&writers[i]->thread, NULL, run, writers[i]) != 0)
            die("no thread");
    uint64_t begin = now_ms();
    while (!stopped && (!o.seconds || now_ms() - begin < o.seconds * 1000))
        sleep_ms(50);
    stopped = true;
    bool all = acks_drain(l.acks, 5000); // before the stop, for those that wait
    acks_stop(l.acks);
    for (size_t i = 0; i < n; i++)
        pthread_join(writers[i]->thread, NULL);
    for (size_t i = 0; i < n; i++)
        free(writers[i]);
    all = acks_drain(l.acks, 5000) && all;
    fprintf(stderr, "records=%llu bytes=%llu ms=%llu acknowledged=%s\n",
            (unsigned long long)l.records, (unsigned long long)l.bytes,
            (unsigned long long)(now_ms() - begin), all ? "all" : "some");
    return 0;
}
