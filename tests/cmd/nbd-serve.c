// SPDX-License-Identifier: Apache-2.0
// Serves files to stock NBD clients, a thread a connection, until it is ended by a
// signal; prints the address once it listens.
//
//     nbd-serve [--writable] [--fault N] [--hash] [TLS] ADDRESS NAME=FILE…
//     TLS: --key FILE --cert FILE --ca FILE [--only NAME]
//
// ADDRESS: unix:PATH or tcp:PORT (loopback; 0: any). --fault N: the Nth operation of
// a connection fails. --hash: NAME.hash, the hashes of 64 KiB blocks, is there too. The
// metadata context "test:odd" calls every second 64 KiB block changed.
#include "disk/disk.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BLOCK (64 * KIB)

struct options {
    bool writable, hash;
    uint64_t fault;
    const char *key, *cert, *ca, *only;
};
static const struct opt table[] = {
    {"writable", 0, OPT_FLAG, NULL, "take writes", NULL,
     offsetof(struct options, writable)},
    {"hash", 0, OPT_FLAG, NULL, "hashes too", NULL, offsetof(struct options, hash)},
    {"fault", 0, OPT_U64, "N", "the Nth fails", NULL, offsetof(struct options, fault)},
    {"key", 0, OPT_STRING, "FILE", "our key", NULL, offsetof(struct options, key)},
    {"cert", 0, OPT_STRING, "FILE", "ours", NULL, offsetof(struct options, cert)},
    {"ca", 0, OPT_STRING, "FILE", "theirs", NULL, offsetof(struct options, ca)},
    {"only", 0, OPT_STRING, "NAME", "this peer", NULL, offsetof(struct options, only)},
    {0},
};
static struct options options;
static struct tls *tls;

static struct export
{
    const char *name, *path;
    struct disk *disk; // shared by the connections of a writable one, as its lock demands
}
exports[16];
static size_t n_exports;

// --- a disk that closes nothing

struct borrowed {
    struct disk disk;
    struct disk *next;
};

static int borrowed_read(struct disk *d, void *buf, size_t len, uint64_t off,
                         struct err *e)
{
    return disk_read(((struct borrowed *)d)->next, buf, len, off, e);
}

static int borrowed_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                          struct err *e)
{
    return disk_write(((struct borrowed *)d)->next, buf, len, off, e);
}

static int borrowed_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                         struct err *e)
{
    return disk_zero(((struct borrowed *)d)->next, off, len, punch, e);
}

static int borrowed_flush(struct disk *d, struct err *e)
{
    return disk_flush(((struct borrowed *)d)->next, e);
}

static int borrowed_extents(struct disk *d, uint64_t off, uint64_t len,
                            struct extents *out, uint64_t *ret_done, struct err *e)
{
    return disk_extents(((struct borrowed *)d)->next, off, len, out, ret_done, e);
}

static void borrowed_close(struct disk *d)
{
    free(d->name);
    free(d);
}

static struct disk *borrow(struct disk *next)
{
    static const struct disk_ops ops = {
        .type = "borrowed",
        .read = borrowed_read,
        .write = borrowed_write,
        .zero = borrowed_zero,
        .flush = borrowed_flush,
        .extents = borrowed_extents,
        .close = borrowed_close,
    };
    struct borrowed *b = xcalloc(1, sizeof(*b));
    b->disk = *next;
    b->disk.ops = &ops;
    b->disk.name = xstrdup(next->name);
    b->next = next;
    return (struct disk *)b;
}

// --- what serve_connection() asks for

static int open_file(const struct export *x, struct disk **ret, struct err *e)
{
    struct file_options o = {.path = x->path};
    if (x->disk == NULL)
        return file_open(&o, ret, e);
    *ret = borrow(x->disk);
    return 0;
}

// A fault disk counts from 1 in every connection; what it counts with stays: the program
// is about to end when the last connection does.
static struct disk *with_faults(struct disk *d)
{
    static struct fault faults[1024];
    static size_t n;
    if (options.fault == 0)
        return d;
    struct fault *f = &faults[__atomic_fetch_add(&n, 1, __ATOMIC_RELAXED) % 1024];
    *f = (struct fault){.fail_at = options.fault, .code = ERR_FAILED};
    return fault_new(d, f);
}

static int open_export(void *context, const char *name, struct disk **ret, struct err *e)
{
    (void)context;
    for (size_t i = 0; i < n_exports; i++) {
        size_t len = strlen(exports[i].name);
        bool hash = options.hash && str_starts(name, exports[i].name) &&
                    strcmp(name + len, ".hash") == 0;
        if (!hash && strcmp(name, exports[i].name) != 0)
            continue;
        struct disk *d = NULL;
        if (open_file(&exports[i], &d, e) < 0)
            return -1;
        d = with_faults(d);
        *ret = hash ? hashed_new(d, BLOCK) : d;
        return 0;
    }
    return err_set(e, ERR_REFUSED, "no export is called \"%s\"", name);
}

static void names(void *context, struct strings *ret)
{
    (void)context;
    for (size_t i = 0; i < n_exports; i++)
        strings_add(ret, exports[i].name);
}

static bool has_meta(void *context, const char *name, const char *meta)
{
    (void)context, (void)name;
    return strcmp(meta, "test:odd") == 0;
}

// A block a call, so that answers have to be gathered.
static int meta(void *context, const char *name, const char *context_name, uint64_t off,
                uint64_t len, struct extents *out, uint64_t *ret_done, struct err *e)
{
    (void)context, (void)name, (void)context_name, (void)e;
    *ret_done = min_u64(len, BLOCK - off % BLOCK);
    extents_append(out, off, *ret_done, off / BLOCK % 2 ? EXTENT_DATA : EXTENT_HOLE);
    return 0;
}

// --- connections

static void *serve(void *context)
{
    int fd = (int)(intptr_t)context;
    struct err e = {0};
    struct serve_options o = {
        .open = open_export,
        .names = names,
        .has_meta = has_meta,
        .meta = meta,
        .writable = options.writable,
        .tls = tls,
        .only_peer = options.only,
    };
    if (serve_connection(fd, &o, &e) < 0)
        fprintf(stderr, "%s\n", e.text);
    else
        fprintf(stderr, "a connection has ended\n");
    return NULL;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        return -1;
    memcpy(a.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 64) < 0)
        return -1;
    printf("unix:%s\n", path);
    return fd;
}

static int listen_tcp(uint64_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 64) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        return -1;
    printf("tcp:%u\n", ntohs(a.sin_port));
    return fd;
}

static int listen_on(const char *address)
{
    uint64_t port;
    if (str_starts(address, "unix:"))
        return listen_unix(address + 5);
    if (str_starts(address, "tcp:") && str_to_u64(address + 4, &port) == 0)
        return listen_tcp(port);
    errno = EINVAL;
    return -1;
}

// Until a signal: then every connection ends by itself, which is waited for.
static void accept_all(int listener)
{
    static pthread_t threads[4096];
    size_t n = 0;
    while (!cancel_requested() && n < ARRAY_LEN(threads)) {
        struct pollfd fds[2] = {{.fd = listener, .events = POLLIN},
                                {.fd = cancel_fd(), .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 || fds[0].revents == 0)
            continue;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 &&
            pthread_create(&threads[n], NULL, serve, (void *)(intptr_t)fd) == 0)
            n++;
    }
    for (size_t i = 0; i < n; i++)
        (void)pthread_join(threads[i], NULL);
}

static int add_export(char *word, struct err *e)
{
    char *equals = strchr(word, '=');
    if (equals == NULL || n_exports == ARRAY_LEN(exports))
        return err_set(e, ERR_USAGE, "not NAME=FILE: %s", word);
    *equals = '\0';
    struct export *x = &exports[n_exports++];
    *x = (struct export){.name = word, .path = equals + 1};
    struct file_options o = {.path = x->path, .writable = true};
    return options.writable ? file_open(&o, &x->disk, e) : 0;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    AUTO(strings_done) struct strings args = {0};
    if (opt_parse(table, argc - 1, argv + 1, &options, &args, &e) < 0 || args.n < 2) {
        fprintf(stderr, "nbd-serve: %s\n", e.text);
        return 2;
    }
    for (size_t i = 1; i < args.n; i++) {
        if (add_export(args.v[i], &e) < 0) {
            fprintf(stderr, "nbd-serve: %s\n", e.text);
            return 1;
        }
    }
    struct tls_options t = {options.key, options.cert, options.ca};
    if (options.key != NULL && tls_new(&t, &tls, &e) < 0) {
        fprintf(stderr, "nbd-serve: %s\n", e.text);
        return 1;
    }
    cancel_setup();
    AUTO(fd_close) int fd = listen_on(args.v[0]);
    if (fd < 0) {
        perror(args.v[0]);
        return 1;
    }
    fflush(stdout);
    accept_all(fd);
    for (size_t i = 0; i < n_exports; i++)
        disk_close(exports[i].disk);
    wire_drain(5000);
    tls_free(tls);
    return 0;
}
