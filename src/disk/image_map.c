// SPDX-License-Identifier: Apache-2.0
// Where the data of an image lies, as `qemu-img map` tells it, one line an extent. The
// child is read only as far as is asked for: a full pipe holds it, so an image of a
// million pieces costs no memory. The last entries are kept, which for nearly every image
// is all of them; behind a full window an extent query forgets the oldest half, and one
// that goes back starts the child anew at that offset. Reads never make it forget.
//
// The text is QEMU's, but its numbers come from the image, so everything is checked:
// entries must follow one another without gap up to the size of the disk.
#include "disk/image_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define WINDOW (64 * KIB) // entries kept: 40 bytes each
#define LINE_MAX_BYTES 1024

// --- one line: { "start": 0, "length": 65536, "depth": 0, "present": true, "zero":
// false,
//                 "data": true, "offset": 327680},

// The value of "key": in the line, NULL when it is not there.
static const char *value_of(const char *line, const char *key)
{
    size_t n = strlen(key);
    for (const char *at = line; (at = strchr(at, '"')) != NULL; at++)
        if (strncmp(at + 1, key, n) == 0 && at[n + 1] == '"') {
            at += n + 2;
            at += strspn(at, " ");
            return *at == ':' ? at + 1 + strspn(at + 1, " ") : NULL;
        }
    return NULL;
}

static bool number_of(const char *line, const char *key, uint64_t *ret)
{
    const char *at = value_of(line, key);
    if (at == NULL || *at < '0' || *at > '9')
        return false;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    *ret = value;
    return *at == ',' || *at == '}' || *at == ' ';
}

static bool bool_of(const char *line, const char *key, bool *ret)
{
    const char *at = value_of(line, key);
    if (at == NULL || (!str_starts(at, "true") && !str_starts(at, "false")))
        return false;
    *ret = *at == 't';
    return true;
}

int map_entry_parse(const char *line, struct map_entry *ret, struct err *e)
{
    struct map_entry x = {0};
    uint64_t depth, end;
    bool zero, data, present = true;
    if (strchr(line, '{') == NULL)
        return 0;
    if (!number_of(line, "start", &x.off) || !number_of(line, "length", &x.len) ||
        !number_of(line, "depth", &depth) || !bool_of(line, "zero", &zero) ||
        !bool_of(line, "data", &data) || !add_fits(x.off, x.len, &end) || x.len == 0 ||
        end > IMAGE_SIZE_MAX + MIB || depth > UINT16_MAX)
        return err_set(e, ERR_FAILED, "qemu-img map: a line not understood: %.200s",
                       line);
    (void)bool_of(line, "present", &present); // not before QEMU 6.1
    x.depth = (uint16_t)depth;
    // Neither data nor known to be zeros says nothing, so it is data whose place is
    // unknown.
    x.kind = !zero ? EXTENT_DATA : present ? EXTENT_ZERO : EXTENT_HOLE;
    x.located = !zero && data && number_of(line, "offset", &x.at) &&
                add_fits(x.at, x.len, &end) && end <= INT64_MAX;
    *ret = x;
    return 1;
}

// --- the child and the window

struct image_map {
    const struct image_chain *chain;
    char *name;
    // The mutex guards what follows.
    pthread_mutex_t mutex;
    struct proc *child;
    int fd;
    char text[64 * 1024]; // read and not yet parsed: [at, end)
    size_t at, end;
    VEC(struct map_entry) known; // without gaps
    uint64_t next;               // where the next line must start
    uint64_t started;            // where the child was started
};

static uint64_t entry_end(const struct map_entry *x)
{
    return x->off + x->len;
}

static void map_stop(struct image_map *m)
{
    if (m->child != NULL)
        proc_kill(m->child, SIGKILL); // it only reads
    proc_end(m->child);
    m->child = NULL;
    fd_close(m->fd);
    m->fd = -1;
    m->at = m->end = 0;
}

// Forgets everything and goes on at `off`.
static int map_start(struct image_map *m, uint64_t off, struct err *e)
{
    AUTO(strings_done) struct strings argv = {0};
    int ends[2];
    map_stop(m);
    image_tool_argv(&argv, "qemu-img");
    strings_add(&argv, "map");
    strings_add(&argv, "--output=json");
    strings_take(&argv, xasprintf("--start-offset=%" PRIu64, off));
    strings_add(&argv, m->name);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(e, errno, "make a pipe");
    m->fd = ends[0];
    AUTO(fd_close) int to = ends[1];
    // Its complaints come through the same pipe, as lines that are no JSON.
    struct proc_options options = {
        .argv = argv.v, .in = -1, .out = to, .err = to, .new_session = true};
    if (proc_start(&options, &m->child, e) < 0)
        return -1;
    m->next = m->started = off;
    m->known.n = 0;
    return 0;
}

// 1: more text is there, 0: the end.
static int map_fill(struct image_map *m, struct err *e)
{
    if (m->at > 0) {
        memmove(m->text, m->text + m->at, m->end - m->at);
        m->end -= m->at;
        m->at = 0;
    }
    for (;;) {
        struct pollfd fds[2] = {{.fd = m->fd, .events = POLLIN},
                                {.fd = cancel_fd(), .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return err_errno(e, errno, "wait for qemu-img map");
        if (cancel_check(e) < 0)
            return -1;
        if (fds[0].revents == 0)
            continue;
        ssize_t n = read(m->fd, m->text + m->end, sizeof(m->text) - 1 - m->end);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, errno, "read from qemu-img map");
        m->end += (size_t)n;
        return n > 0;
    }
}

// A line, NUL terminated, in m->text; NULL at the end of the output.
static int map_line(struct image_map *m, char **ret, struct err *e)
{
    for (;;) {
        char *newline = memchr(m->text + m->at, '\n', m->end - m->at);
        if (newline != NULL) {
            *newline = '\0';
            *ret = m->text + m->at;
            m->at = (size_t)(newline + 1 - m->text);
            return 0;
        }
        if (m->end - m->at > LINE_MAX_BYTES && m->text[m->at] == '{')
            return err_set(e, ERR_FAILED, "qemu-img map: an endless line");
        int more = m->end - m->at < sizeof(m->text) - 1 ? map_fill(m, e) : 0;
        if (more < 0)
            return -1;
        if (more == 0) {
            m->text[m->end] = '\0';
            *ret = m->end > m->at ? m->text + m->at : NULL;
            m->at = m->end;
            return 0;
        }
    }
}

// The output ended before the disk did. A child ends with the thread that started it;
// then another one goes on where it was.
static int map_ended_early(struct image_map *m, struct err *e)
{
    int status = 0;
    if (proc_wait(m->child, 10000, true, &status, e) < 0)
        return -1;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL || m->next == m->started)
        return err_set(e, ERR_FAILED,
                       "qemu-img map ended at %" PRIu64 " of %" PRIu64 " bytes", m->next,
                       m->chain->info.size);
    VEC(struct map_entry) kept = {m->known.v, m->known.n, m->known.cap};
    uint64_t next = m->next;
    memset(&m->known, 0, sizeof(m->known));
    int result = map_start(m, next, e);
    m->known.v = kept.v;
    m->known.n = kept.n;
    m->known.cap = kept.cap;
    return result;
}

// Appends one entry; m->next < size.
static int map_advance(struct image_map *m, struct err *e)
{
    for (;;) {
        struct map_entry x = {0};
        char *line = NULL;
        if (map_line(m, &line, e) < 0)
            return -1;
        if (line == NULL) {
            if (map_ended_early(m, e) < 0)
                return -1;
            continue;
        }
        if (str_starts(line, "qemu-img: "))
            return err_set(e, ERR_FAILED, "qemu-img map: %s",
                           line + strlen("qemu-img: "));
        int found = map_entry_parse(line, &x, e);
        if (found < 0)
            return -1;
        if (found == 0)
            continue;
        if (x.off != m->next || x.depth >= m->chain->n)
            return err_set(e, ERR_FAILED,
                           "qemu-img map: %" PRIu64 " at depth %u where %" PRIu64
                           " should follow",
                           x.off, x.depth, m->next);
        x.len = min_u64(x.len, m->chain->info.size - x.off);
        x.located = x.located && m->chain->v[x.depth].data_path != NULL;
        vec_push(&m->known, x);
        m->next = entry_end(&x);
        return 0;
    }
}

// Inside the window.
static const struct map_entry *map_lookup(const struct image_map *m, uint64_t off)
{
    if (m->known.n == 0 || off < m->known.v[0].off || off >= m->next)
        return NULL;
    size_t low = 0, high = m->known.n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (m->known.v[middle].off <= off)
            low = middle;
        else
            high = middle;
    }
    return &m->known.v[low];
}

static void map_forget_half(struct image_map *m)
{
    size_t gone = m->known.n / 2;
    memmove(m->known.v, m->known.v + gone, (m->known.n - gone) * sizeof(*m->known.v));
    m->known.n -= gone;
}

// Up to the entry that holds `off`. `forget`: the window moves, else it only grows.
static int map_reach(struct image_map *m, uint64_t off, bool forget,
                     const struct map_entry **ret, struct err *e)
{
    bool before = m->known.n > 0 ? off < m->known.v[0].off : off < m->next;
    if (before && forget && map_start(m, off, e) < 0)
        return -1;
    while ((!before || forget) && m->next <= off) {
        if (m->known.n >= WINDOW && !forget)
            break;
        if (m->known.n >= WINDOW)
            map_forget_half(m);
        if (map_advance(m, e) < 0)
            return -1;
    }
    *ret = map_lookup(m, off);
    return 0;
}

int image_map_find(struct image_map *m, uint64_t off, struct map_entry *ret,
                   bool *ret_found, struct err *e)
{
    const struct map_entry *x = NULL;
    pthread_mutex_lock(&m->mutex);
    int result = map_reach(m, off, false, &x, e);
    if (x != NULL)
        *ret = *x;
    *ret_found = x != NULL;
    pthread_mutex_unlock(&m->mutex);
    return result;
}

int image_map_seek(struct image_map *m, uint64_t off, struct map_entry *ret,
                   struct err *e)
{
    const struct map_entry *x = NULL;
    pthread_mutex_lock(&m->mutex);
    int result = map_reach(m, off, true, &x, e);
    if (x != NULL)
        *ret = *x;
    else if (result == 0)
        result = err_set(e, ERR_FAILED, "qemu-img map says nothing of %" PRIu64, off);
    pthread_mutex_unlock(&m->mutex);
    return result;
}

int image_map_complete(struct image_map *m, uint64_t ms, bool *ret_direct, struct err *e)
{
    uint64_t start = clock_ms();
    int result = 0;
    bool direct = true;
    pthread_mutex_lock(&m->mutex);
    while (result == 0 && m->next < m->chain->info.size && m->known.n < WINDOW &&
           clock_ms() - start < ms) {
        result = map_advance(m, e);
        if (result == 0) {
            const struct map_entry *x = &m->known.v[m->known.n - 1];
            direct = direct && (x->kind != EXTENT_DATA || x->located);
        }
    }
    *ret_direct = direct && m->next >= m->chain->info.size;
    pthread_mutex_unlock(&m->mutex);
    return result;
}

bool image_map_known(struct image_map *m, size_t i, struct map_entry *ret)
{
    pthread_mutex_lock(&m->mutex);
    bool found = i < m->known.n;
    if (found)
        *ret = m->known.v[i];
    pthread_mutex_unlock(&m->mutex);
    return found;
}

int image_map_open(const struct image_chain *chain, struct image_map **ret, struct err *e)
{
    AUTO(image_map_close) struct image_map *m = xcalloc(1, sizeof(*m));
    m->chain = chain;
    m->fd = -1;
    m->name = image_chain_name(chain);
    pthread_mutex_init(&m->mutex, NULL);
    if (map_start(m, 0, e) < 0)
        return -1;
    *ret = steal(m);
    return 0;
}

void image_map_close(struct image_map *m)
{
    if (m == NULL)
        return;
    map_stop(m);
    pthread_mutex_destroy(&m->mutex);
    vec_done(&m->known);
    free(m->name);
    free(m);
}
