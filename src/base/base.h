// SPDX-License-Identifier: Apache-2.0
// Everything without knowledge of disks or servers: errors, memory, text, JSON, options,
// children, descriptors, time, rate limits, hashes. One section a file; include this
// header alone.
//
// Rules that hold in the whole project:
//   functions return 0 or -1 and fill `struct err *e`, which the caller owns and which is
//   never NULL; outputs are called ret_x, are written only on success and belong to the
//   caller; destructors accept NULL and half-built objects; small allocations abort when
//   memory is gone; what input sizes has a ceiling.
#pragma once

#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

// --- cleanup: `AUTO(x_free) struct x *p = NULL;` frees p at the end of its scope

// Once per destructor, beside its declaration, makes AUTO(fn) usable for variables of
// `type`.
#define DEFINE_AUTO(fn, type)                                     \
    __attribute__((unused)) static inline void auto_##fn(type *p) \
    {                                                             \
        fn(*p);                                                   \
    }
// unused: a variable may be there for its cleanup alone.
#define AUTO(fn) __attribute__((unused, cleanup(auto_##fn)))

// Hands ownership on: yields p and leaves NULL behind.
#define steal(p)                     \
    ({                               \
        __typeof__(p) stolen_ = (p); \
        (p) = NULL;                  \
        stolen_;                     \
    })
// The same for a descriptor: leaves -1 behind.
int steal_fd(int *fd);

DEFINE_AUTO(free, void *) // AUTO(free) void *
__attribute__((unused)) static inline void str_free(char *s)
{
    free(s);
}
DEFINE_AUTO(str_free, char *) // AUTO(str_free) char *

// --- err.c: what went wrong, in one line

// The program's exit codes are these values (DESIGN.md section 5).
enum err_code {
    ERR_NONE = 0,
    ERR_FAILED = 1,
    ERR_USAGE = 2,
    ERR_REFUSED = 3,   // a check said no; nothing was changed
    ERR_CANCELLED = 4, // by a signal or by the operator; the same line resumes
    ERR_RETRY = 5,     // failed, but the same call may succeed later
};

struct err {
    enum err_code code;
    char text[768]; // lower case, no full stop: what was tried, on what, what to do
};

// All return -1, so that `return err_set(e, …)` reads well. Control characters and bytes
// that are not UTF-8 in the result are replaced by '?': names from images end up here.
int err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF(3, 4);
// Appends ": " and the text of `errnum`; ENOSPC, EACCES, EROFS… stay ERR_FAILED, EINTR
// and EAGAIN ERR_RETRY.
int err_errno(struct err *e, int errnum, const char *fmt, ...) PRINTF(3, 4);
// Puts "PREFIX: " in front of what is there; keeps the code. Only a layer that adds
// knowledge calls it.
int err_wrap(struct err *e, const char *fmt, ...) PRINTF(2, 3);

// --- log.c: talk on stderr; only cmd/, agent/ and job/ call it

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
void log_setup(enum log_level max, bool as_json); // default: LOG_INFO, text
void log_prefix(const char *fmt, ...)
    PRINTF(1, 2); // of this thread, "job 7 disk 1"; NULL: none
void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);
bool log_enabled(enum log_level level);

// --- str.c: memory that aborts when it is gone, strings, bounded buffers

void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) PRINTF(1, 2);
// NULL when memory is short: for what input sizes. Aligned for O_DIRECT (4096), in huge
// pages from 2 MiB on where the kernel has them; free() it.
void *alloc_aligned(size_t size);

bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
// In place: without white space at both ends; returns s moved forward.
char *str_trim(char *s);
// "10M", "1.5G", "64k", "4096" → bytes, powers of 1024 ("10MB" and "10MiB" mean the
// same). -1: not a size.
int str_to_bytes(const char *s, uint64_t *ret_bytes);
// "30s" "5m" "1h" "250ms" "30" (seconds) → milliseconds. -1: not a duration.
int str_to_ms(const char *s, uint64_t *ret_ms);
int str_to_u64(const char *s, uint64_t *ret_value); // decimal only, all of it
// "1.2 GiB", "64.0 KiB", "17 B" into `out`, which is returned.
const char *str_bytes(uint64_t bytes, char out[static 16]);
// "4 s", "3 m 20 s", "2 h 05 m" into `out`, which is returned.
const char *str_duration(uint64_t ms, char out[static 24]);

// A byte buffer with a ceiling. After an append that would have passed it, `overflow` is
// set and the contents stay as they were; check once at the end. data is NUL
// terminated past len, and NULL before the first append.
struct buf {
    char *data;
    size_t len, cap, limit;
    bool overflow;
};
#define BUF_INIT(ceiling) ((struct buf){.limit = (ceiling)})
void buf_add(struct buf *b, const void *data, size_t len);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_reset(struct buf *b);  // empty, memory kept
void buf_done(struct buf *b);   // frees the memory, not b
char *buf_steal(struct buf *b); // never NULL; b is empty afterwards
__attribute__((unused)) static inline void auto_buf_done(struct buf *b)
{
    buf_done(b);
} // AUTO(buf_done) struct buf b = BUF_INIT(…)

// Reads of fixed-width numbers from untrusted bytes; the caller has checked the range.
static inline uint16_t get_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get_le32(const uint8_t *p)
{
    return get_le16(p) | (uint32_t)get_le16(p + 2) << 16;
}
static inline uint64_t get_le64(const uint8_t *p)
{
    return get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}
static inline uint16_t get_be16(const uint8_t *p)
{
    return (uint16_t)(p[1] | p[0] << 8);
}
static inline uint32_t get_be32(const uint8_t *p)
{
    return get_be16(p + 2) | (uint32_t)get_be16(p) << 16;
}
static inline uint64_t get_be64(const uint8_t *p)
{
    return get_be32(p + 4) | (uint64_t)get_be32(p) << 32;
}
void put_le32(uint8_t *p, uint32_t v);
void put_le64(uint8_t *p, uint64_t v);

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
static inline uint64_t round_down(uint64_t v, uint64_t to)
{
    return v - v % to;
}
static inline uint64_t round_up(uint64_t v, uint64_t to)
{
    return v % to ? v - v % to + to : v;
}
// a + b without wrapping: false when the sum does not fit.
static inline bool add_fits(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

// --- vec: a growing array of anything

//     VEC(struct extent) list = {0};  vec_push(&list, e);  for (size_t i = 0; i < list.n;
//     i++) list.v[i]… vec_done(&list);
#define VEC(type)      \
    struct {           \
        type *v;       \
        size_t n, cap; \
    }
#define vec_push(vec, item)                                                \
    do {                                                                   \
        if ((vec)->n == (vec)->cap)                                        \
            (vec)->v = vec_grow((vec)->v, &(vec)->cap, sizeof(*(vec)->v)); \
        (vec)->v[(vec)->n++] = (item);                                     \
    } while (0)
#define vec_done(vec)              \
    do {                           \
        free((vec)->v);            \
        (vec)->v = NULL;           \
        (vec)->n = (vec)->cap = 0; \
    } while (0)
void *vec_grow(void *v, size_t *cap, size_t item_size);

// A list of strings, each owned by the list.
struct strings {
    char **v; // v[n] is always NULL once something was added
    size_t n, cap;
};
void strings_add(struct strings *s, const char *item);
void strings_take(struct strings *s, char *item /* taken */);
void strings_done(struct strings *s);
bool strings_have(const struct strings *s, const char *item);
__attribute__((unused)) static inline void auto_strings_done(struct strings *s)
{
    strings_done(s);
}

// --- json.c: jansson, bounded, and by table

__attribute__((unused)) static inline void json_free(json_t *j)
{
    json_decref(j);
}
DEFINE_AUTO(json_free, json_t *) // AUTO(json_free) json_t *

// `what` names the text in the error. At most 16 MiB, 64 levels and 2 Mi values;
// duplicate keys are refused. Any value is a text, not only objects and arrays.
int json_parse(const char *text, size_t len, const char *what, json_t **ret,
               struct err *e);
// The whole value on one line, no trailing newline; free() it.
char *json_text(const json_t *j);
// A file with one value, of at most `ceiling` bytes; written as file_write does, 0600.
int json_file_read(const char *path, size_t ceiling, json_t **ret, struct err *e);
int json_file_write(const char *path, const json_t *j, struct err *e);
bool json_can_hold(const char *text); // it is UTF-8
// A member of an object. No such: NULL; 0, as below zero.
const char *json_text_at(const json_t *object, const char *name);
uint64_t json_u64_at(const json_t *object, const char *name);

enum json_type_wanted {
    JSON_FIELD_STRING,
    JSON_FIELD_U64,
    JSON_FIELD_BOOL,
    JSON_FIELD_VALUE
};
// One row of a table that maps an object to a struct: STRING → char * (owned copy), U64 →
// uint64_t, BOOL → bool, VALUE → json_t * (own reference). Absent optional fields leave
// the struct as it was; null counts as absent, unknown fields are left alone.
struct json_field {
    const char *name;
    enum json_type_wanted type;
    size_t offset;
    bool required;
};
int json_read(const json_t *object, const struct json_field *fields, size_t n_fields,
              void *out, const char *what, struct err *e);

// --- opt.c: options as data: parsing, --help, man pages and completion read the same
// table --------

enum opt_type {
    OPT_FLAG,
    OPT_STRING,
    OPT_STRINGS,
    OPT_U64,
    OPT_BYTES,
    OPT_MS,
    OPT_CHOICE
};
// FLAG → bool, STRING → const char * (into argv), STRINGS → struct strings, U64, BYTES
// and MS → uint64_t, CHOICE → const char *, one of the words of `choices`.
struct opt {
    const char *name; // long name, without "--"
    char letter;      // 0: none
    enum opt_type type;
    const char *arg;     // name of the argument in help, NULL for FLAG
    const char *help;    // one line, lower case, no full stop
    const char *choices; // CHOICE: words separated by '|'
    size_t offset;       // into the struct that opt_parse fills
};
// Permutes nothing: options may stand before and after positional arguments, "--" ends
// them. Fills `out` and the positionals. ERR_USAGE names the offending word. The table
// ends with a row without name.
int opt_parse(const struct opt *table, int argc, char **argv, void *out,
              struct strings *ret_args, struct err *e);
// The option part of --help, at most 80 columns.
void opt_help(const struct opt *table, struct buf *out);

// --- cancel.c: Ctrl-C

// Installs handlers for SIGINT, SIGTERM and SIGHUP: the first sets a flag, the third ends
// the process.
void cancel_setup(void);
bool cancel_requested(void);
// For what has to be put back although all else ends: nothing is cancelled meanwhile, in
// no thread. The third signal still is the way out.
void cancel_hold(bool hold);
// Becomes readable when cancelled; for poll loops. -1 before cancel_setup.
int cancel_fd(void);
// -1 with ERR_CANCELLED once cancelled, else 0. Long loops call it every step.
int cancel_check(struct err *e);

// --- proc.c, run.c: children, always by argv, never by a shell

// A running child. It dies with us (PR_SET_PDEATHSIG), has its own process group, no
// descriptor but the three standard ones and those of `keep`, and C.UTF-8 as locale. The
// kernel ends it when the *thread* that started it ends: start what outlives a thread
// from the main thread. Children of the child (a shell's) are not ended by the kernel.
struct proc;
struct proc_options {
    char *const *argv; // argv[0] is looked up in PATH
    int in, out,
        err; // descriptors for 0, 1, 2; -1: /dev/null (2: as ours). 0 is not special
    const int *keep; // inherited under the same number; may be NULL
    size_t n_keep;
    char *const *env; // "NAME=value" added to ours; may be NULL
    bool new_session; // not reached by the terminal's Ctrl-C (helpers that we end
                      // ourselves)
    int nice;         // added niceness
};
int proc_start(const struct proc_options *options, struct proc **ret, struct err *e);
pid_t proc_pid(const struct proc *p);
// Waits at most timeout_ms (UINT64_MAX: for ever), woken by cancellation only if
// `cancellable`. *ret_status as of waitpid. -1 with ERR_RETRY on timeout, ERR_CANCELLED
// when cancelled.
int proc_wait(struct proc *p, uint64_t timeout_ms, bool cancellable, int *ret_status,
              struct err *e);
bool proc_running(struct proc *p);
void proc_kill(struct proc *p, int signal);
// SIGTERM, five seconds, SIGKILL, reaped.
void proc_end(struct proc *p);
DEFINE_AUTO(proc_end, struct proc *)
// Runs argv to its end: stdout into *out (ceiling is the buffer's), the last line of
// stderr into the error when it fails (exit code other than 0, signal, missing program).
// out may be NULL. Cancellable.
int proc_run(char *const *argv, struct buf *out, struct err *e);
// Is `program` in PATH? ERR_FAILED names it and says which package of Debian brings it.
int proc_have(const char *program, const char *package, struct err *e);

// --- fd.c, path.c: descriptors, files, folders

void fd_close(int fd);           // negative: nothing; keeps errno
DEFINE_AUTO(fd_close, int)       // AUTO(fd_close) int fd = -1;
int fd_memory(const char *name); // an empty file in memory alone, or -1 + errno
int fd_pread(int fd, void *buf, size_t len,
             uint64_t off); // all of it, or -1 + errno (EOF: EIO)
int fd_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int fd_write(int fd, const void *buf, size_t len);
// A file of at most b->limit bytes; `what` names it in the error.
int file_read(const char *path, struct buf *b, struct err *e);
// Written beside, fsynced, renamed, folder fsynced: either the old or the new content,
// never half.
int file_write(const char *path, const void *data, size_t len, mode_t mode,
               struct err *e);
// Removes what writers of `path` left that were killed before the rename. Only where no
// other may be writing it now.
void file_write_sweep(const char *path);
int dir_make(const char *path, mode_t mode, struct err *e); // with parents; exists: fine
// And what is in it; missing: fine. Follows no link, refuses a file system mounted
// inside.
int dir_remove(const char *path, struct err *e);
int file_remove(const char *path, struct err *e); // missing, or path NULL: fine
// $TMPDIR/godwit-XXXXXX, mode 0700; free() the name.
int dir_temp(char **ret_path, struct err *e);
char *path_join(const char *a, const char *b); // free() it
char *path_dir(const char *path);              // "." when there is none
const char *path_base(const char *path);
// Absolute, links resolved; the last component need not exist. What is not UTF-8 is
// refused: neither QEMU's JSON nor ours can say it. free() it.
int path_real(const char *path, char **ret, struct err *e);
// Does `path` (resolved) lie in folder `dir` (resolved) or below?
bool path_under(const char *path, const char *dir);
// An exclusive flock on `path` (made if need be), held while the descriptor lives.
// ERR_REFUSED: who says.
int lock_take(const char *path, const char *what, int *ret_fd, struct err *e);

// --- clock.c

uint64_t clock_ns(void); // monotonic
uint64_t clock_ms(void);
uint64_t clock_wall(void);                          // seconds since 1970
void clock_iso(uint64_t wall, char out[static 24]); // 2024-05-01T12:00:00Z

// --- rate.c: a token bucket, thread safe

struct rate;
struct rate *rate_new(uint64_t bytes_per_second); // 0: no limit
// A child: what passes it passes `parent` (borrowed) too.
struct rate *rate_child(struct rate *parent, uint64_t bytes_per_second);
// One for all processes that name the same file, which holds its limit and its tokens;
// made without a limit when it is not there.
int rate_shared(const char *path, struct rate **ret, struct err *e);
uint64_t rate_get(struct rate *r);    // its own limit, 0: none
uint64_t rate_lowest(struct rate *r); // of it and its parents; 0, or NULL r: none
void rate_free(struct rate *r);
DEFINE_AUTO(rate_free, struct rate *)
void rate_set(struct rate *r, uint64_t bytes_per_second);
bool rate_limited(struct rate *r); // by itself or a parent; NULL: no
// Sleeps until `bytes` may pass (NULL r: at once). Returns early when cancelled.
void rate_wait(struct rate *r, uint64_t bytes);
// Its parts, for who has to look around while it waits. Pays and returns 0, or the
// nanoseconds until it is worth asking again, a tenth of a second at most, for
// rate_sleep, which returns early when cancelled.
uint64_t rate_take(struct rate *r, uint64_t bytes);
void rate_sleep(uint64_t ns);
// For what has passed unasked, and back for what was paid and did not pass.
void rate_pay(struct rate *r, uint64_t bytes);
void rate_refund(struct rate *r, uint64_t bytes);

// --- hash.c: XXH3-128 (xxhash.h, the canonical big-endian form)

#define HASH_LEN 16
void hash_block(const void *data, size_t len, uint8_t ret_hash[static HASH_LEN]);
bool is_zero(const void *data, size_t len); // at memory speed
// A running hash over pieces.
struct hash;
struct hash *hash_new(void);
void hash_add(struct hash *h, const void *data, size_t len);
void hash_end(struct hash *h, uint8_t ret_hash[static HASH_LEN]);
void hash_free(struct hash *h);
DEFINE_AUTO(hash_free, struct hash *)
void hash_hex(const uint8_t hash[static HASH_LEN], char out[static 2 * HASH_LEN + 1]);
