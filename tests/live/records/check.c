// SPDX-License-Identifier: Apache-2.0
// Is everything there that was acknowledged? Of each place the newest acknowledgement
// counts.
//
//   lost       what was acknowledged is not there: an older record, nothing, another sum
//   torn       half a record where its mode rules that out (records.h says where it does
//   not) misplaced  a whole record that says it belongs elsewhere
//
// A whole newer record is what was under way or not yet confirmed: counted, and right.
// Places that were never acknowledged hold zeros or such a record.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum op { OP_RECORD, OP_ZERO, OP_GONE };
static const char *const op_names[] = {"record", "zero", "gone"};

struct ack {
    enum op op;
    char place[PLACE_MAX];
    uint64_t off, len, seq, sum;
};
struct check {
    const char *dir, *raw;
    bool frozen;
    uint64_t records, zeros, gone, newer, under_way, lost, torn, misplaced, told;
    unsigned torn_left, erases_left; // of this writer's
    uint64_t removable;              // number of its log that it may just have removed
};

// --- the acknowledgements: read, sorted, the newest of each place and offset kept

static int by_place(const void *a, const void *b)
{
    const struct ack *x = a, *y = b;
    int c = strcmp(x->place, y->place);
    if (c == 0)
        c = (x->off > y->off) - (x->off < y->off);
    return c ? c : (x->seq > y->seq) - (x->seq < y->seq);
}

static bool parse(const char *line, struct ack *ret)
{
    char op[16];
    unsigned long long off, len, seq, sum;
    const char *at = line + strspn(line, "0123456789"); // the collector's time
    if (sscanf(at, " %15s %95s %llu %llu %llu %llx", op, ret->place, &off, &len, &seq,
               &sum) != 6)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(op_names); i++) {
        if (strcmp(op, op_names[i]) != 0)
            continue;
        ret->op = (enum op)i;
        ret->off = off;
        ret->len = len;
        ret->seq = seq;
        ret->sum = sum;
        return mode_of(ret->place) && len <= SLOT;
    }
    return false;
}

static struct ack *read_acks(const char *file, size_t *ret_n)
{
    FILE *f = fopen(file, "re");
    struct ack *acks = NULL;
    size_t n = 0, room = 0;
    char line[512];
    if (!f)
        die("%s: %s", file, strerror(errno));
    while (fgets(line, sizeof(line), f)) {
        if (n == room)
            acks = realloc(acks, (room = room * 2 + 1024) * sizeof(*acks));
        if (!acks || !parse(line, &acks[n++]))
            die("%s: no acknowledgement: %s", file, line);
    }
    fclose(f);
    if (!n)
        die("%s: nothing was acknowledged", file);
    qsort(acks, n, sizeof(*acks), by_place);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || strcmp(acks[i].place, acks[i + 1].place) != 0 ||
            acks[i].off != acks[i + 1].off)
            acks[kept++] = acks[i];
    *ret_n = kept;
    return acks;
}

// --- verdicts

static void tell(struct check *c, const char *verdict, const char *place, uint64_t off,
                 const char *why)
{
    if (c->told++ < 20)
        printf("%s: %s at %llu: %s\n", verdict, place, (unsigned long long)off, why);
}

static void lost(struct check *c, const char *place, uint64_t off, const char *why)
{
    c->lost++;
    tell(c, "lost", place, off, why);
}

static void garbage(struct check *c, const char *place, uint64_t off)
{
    if (c->torn_left) {
        c->torn_left--;
        c->under_way++;
        return;
    }
    c->torn++;
    tell(c, "torn", place, off, "no whole record and not zeros");
}

// Something acknowledged is not there; an erasure that was under way explains it.
static void erased(struct check *c, const struct ack *a, const char *why)
{
    if (!c->erases_left) {
        lost(c, a->place, a->off, why);
        return;
    }
    c->erases_left--;
    c->under_way++;
}

// A whole record r lies at `off` of `place`, whose newest acknowledgement is a, if any.
static void judge_record(struct check *c, const struct ack *a, const char *place,
                         uint64_t off, const struct record *r)
{
    if (r->place != place_id(place) || r->off != off) {
        c->misplaced++;
        tell(c, "misplaced", place, off, "the record belongs elsewhere");
        return;
    }
    if (a && r->seq < a->seq)
        lost(c, place, off, "an older record");
    else if (a && r->seq == a->seq && (a->op != OP_RECORD || r->sum != a->sum))
        lost(c, place, off, "not what was acknowledged with that number");
    else if (a && r->seq == a->seq)
        c->records++;
    else
        c->newer++;
}

// len bytes at `off` of `place`; fewer than that were read if its file ends before.
static void judge(struct check *c, const struct ack *a, const char *place, uint64_t off,
                  const uint8_t *buf, size_t len)
{
    struct record r;
    switch (record_read(buf, len, &r)) {
    case CONTENT_RECORD:
        judge_record(c, a, place, off, &r);
        break;
    case CONTENT_GARBAGE:
        garbage(c, place, off);
        break;
    case CONTENT_ZERO:
        if (a && a->op == OP_RECORD)
            erased(c, a, len ? "zeros" : "the file ends before");
        else if (a)
            c->zeros++;
        break;
    }
}

// --- the three layouts; acks are the n of this place

static size_t read_at(int fd, const char *place, uint8_t *buf, size_t len, uint64_t off)
{
    size_t have = 0;
    while (have < len) {
        ssize_t n = pread(fd, buf + have, len - have, (off_t)(off + have));
        if (n < 0)
            die("%s: %s", place, strerror(errno));
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return have;
}

static void check_slots(struct check *c, const struct ack *acks, size_t n, int fd)
{
    static uint8_t buf[SLOT];
    const char *place = acks->place;
    bool raw = strcmp(place, "raw") == 0;
    struct stat st;
    if (fstat(fd, &st) < 0)
        die("%s: %s", place, strerror(errno));
    uint64_t end = raw ? acks[n - 1].off + SLOT : (uint64_t)st.st_size;
    if (end < acks[n - 1].off + SLOT)
        end = acks[n - 1].off + SLOT;
    for (uint64_t off = raw ? acks->off : 0; off < end; off += SLOT) {
        const struct ack *a = n && acks->off == off ? acks++ : NULL;
        n -= a != NULL;
        size_t have = read_at(fd, place, buf, SLOT, off);
        if (a && a->op == OP_ZERO && have < SLOT)
            lost(c, place, off, "the file ends within the zeros");
        else
            judge(c, a, place, off, buf, have);
    }
}

// Behind the last acknowledged record of a log: whole records, then at most one torn one.
static void check_tail(struct check *c, const char *place, int fd, uint64_t off)
{
    static uint8_t buf[RECORD_MAX];
    for (size_t have; (have = read_at(fd, place, buf, sizeof(buf), off)) > 0;) {
        struct record r;
        if (record_read(buf, have, &r) != CONTENT_RECORD) {
            garbage(c, place, off);
            return;
        }
        judge_record(c, NULL, place, off, &r);
        off += r.len;
    }
}

static void check_log(struct check *c, const struct ack *acks, size_t n, int fd)
{
    static uint8_t buf[RECORD_MAX];
    for (size_t i = 0; i < n; i++) {
        size_t have = read_at(fd, acks->place, buf, acks[i].len, acks[i].off);
        unsigned torn_left = c->torn_left; // not for what was acknowledged
        c->torn_left = 0;
        judge(c, &acks[i], acks->place, acks[i].off, buf, have);
        c->torn_left = torn_left;
    }
    check_tail(c, acks->place, fd, acks[n - 1].off + acks[n - 1].len);
}

static void check_whole_file(struct check *c, const struct ack *a, int fd)
{
    static uint8_t buf[RECORD_MAX + 1];
    size_t have = read_at(fd, a->place, buf, sizeof(buf), 0);
    struct record r;
    if (have > RECORD_MAX || record_read(buf, have, &r) != CONTENT_RECORD ||
        r.len != have) {
        c->torn++;
        tell(c, "torn", a->place, 0, "not exactly one record");
        return;
    }
    judge_record(c, a, a->place, 0, &r);
}

// --- all of it

static const struct ack *gone_of(const struct ack *acks, size_t n)
{
    const struct ack *newest = acks;
    for (size_t i = 1; i < n; i++)
        if (acks[i].seq > newest->seq)
            newest = &acks[i];
    return newest->op == OP_GONE ? newest : NULL;
}

static uint64_t log_number(const char *place)
{
    const char *dot = strrchr(place, '.');
    return dot ? number(dot + 1, place) : UINT64_MAX;
}

static void check_place(struct check *c, const struct ack *acks, size_t n)
{
    const struct mode *mode = mode_of(acks->place);
    const struct ack *gone = gone_of(acks, n);
    char path[4096];
    bool raw = strcmp(acks->place, "raw") == 0;
    if (raw && !c->raw)
        die("records on a device were acknowledged: --raw DEV is needed");
    if (!raw && strcmp(c->dir, "-") == 0)
        die("records in a folder were acknowledged: it is needed");
    (void)snprintf(path, sizeof(path), "%s/%s", c->dir, acks->place);
    int fd = open(raw ? c->raw : path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        die("%s: %s", path, strerror(errno));
    if (fd < 0 && gone)
        c->gone++;
    else if (fd < 0 && mode->layout == LAYOUT_FILES)
        erased(c, acks, "there is no such file");
    else if (fd < 0 && mode->layout == LAYOUT_LOG &&
             log_number(acks->place) == c->removable)
        c->under_way++; // removed, and the freeze or the cut came before anybody was told
    else if (fd < 0)
        for (size_t i = 0; i < n; i++)
            lost(c, acks->place, acks[i].off, "there is no such file");
    else if (mode->layout == LAYOUT_FILES)
        check_whole_file(c, acks, fd);
    else if (gone)
        lost(c, acks->place, 0, "a file that was removed is there");
    else if (mode->layout == LAYOUT_LOG)
        check_log(c, acks, n, fd);
    else
        check_slots(c, acks, n, fd);
    if (fd >= 0)
        close(fd);
}

// Do both belong to one writer: the same run, the same mode?
static bool same_writer(const char *a, const char *b)
{
    size_t len = strcspn(a, ".");
    return strcspn(b, ".") == len && memcmp(a, b, len) == 0;
}

// The oldest log that is not acknowledged as removed, once there are as many as are kept:
// no more than that one can have been removed since, for between two removals a writer
// waits for acknowledgements.
static uint64_t removable_log(const struct ack *acks, size_t n)
{
    uint64_t oldest = UINT64_MAX, newest = 0;
    for (size_t i = 0, next; i < n && same_writer(acks->place, acks[i].place); i = next) {
        for (next = i + 1; next < n && strcmp(acks[next].place, acks[i].place) == 0;)
            next++;
        uint64_t number = log_number(acks[i].place);
        newest = number > newest ? number : newest;
        if (!gone_of(acks + i, next - i) && number < oldest)
            oldest = number;
    }
    return newest - oldest + 1 == LOGS_KEPT ? oldest : UINT64_MAX;
}

static void check_all(struct check *c, const struct ack *acks, size_t n)
{
    for (size_t i = 0, next; i < n; i = next) {
        if (i == 0 || !same_writer(acks[i - 1].place, acks[i].place)) {
            const struct mode *mode = mode_of(acks[i].place);
            c->removable = removable_log(acks + i, n - i);
            c->torn_left = c->frozen ? mode->torn_frozen : mode->torn_cut;
            c->erases_left = mode->erases;
        }
        for (next = i + 1; next < n && strcmp(acks[next].place, acks[i].place) == 0;)
            next++;
        check_place(c, acks + i, next - i);
    }
}

int cmd_check(int argc, char **argv)
{
    static const char usage[] = "check DIR|- --acks FILE [--raw DEV] [--frozen]\n"
                                "--frozen: the copy is of a frozen file system";
    struct check c = {.dir = argc > 1 ? argv[1] : NULL};
    const char *file = NULL;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--frozen") == 0)
            c.frozen = true;
        else if (strcmp(argv[i], "--acks") == 0 && i + 1 < argc)
            file = argv[++i];
        else if (strcmp(argv[i], "--raw") == 0 && i + 1 < argc)
            c.raw = argv[++i];
        else
            usage_if(true, usage);
    }
    usage_if(!c.dir || !file, usage);
    size_t n = 0;
    struct ack *acks = read_acks(file, &n);
    check_all(&c, acks, n);
    free(acks);
    printf(
        "records=%llu zeros=%llu gone=%llu newer=%llu under_way=%llu lost=%llu torn=%llu "
        "misplaced=%llu\n",
        (unsigned long long)c.records, (unsigned long long)c.zeros,
        (unsigned long long)c.gone, (unsigned long long)c.newer,
        (unsigned long long)c.under_way, (unsigned long long)c.lost,
        (unsigned long long)c.torn, (unsigned long long)c.misplaced);
    return c.lost || c.torn || c.misplaced;
}
