// SPDX-License-Identifier: Apache-2.0
// A boot that is watched: the first serial console as a file, the screen as a picture,
// and one TCP port through QEMU's user network. That network accepts a connection before
// the guest has answered, so a port counts as answering only when QEMU's own table says
// that the guest completed the handshake ("info usernet": TCP[ESTABLISHED]).
#include "vm/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TICK_MS 100
#define CONSOLE_KEPT (64 * KIB)
#define CONSOLE_READ (4 * MIB) // more than this of a boot is not looked at
#define KNOCK_MS 1000

// Whatever shows that init runs from the guest's own root.
static const char *const root_signs[] = {
    "systemd[1]: ",
    "Welcome to ",
    "Mounted root",
    "INIT: version",
    "Begin: Running /scripts/local-bottom",
    "OpenRC",
    "Switching root",
};
static const char *const mount_signs[] = {"EXT4-fs (", "XFS (", "BTRFS"};

struct watch {
    const struct rehearsal_options *o;
    struct rehearsal *r;
    struct vm *vm;
    struct buf text; // the console so far
    uint64_t read;   // bytes of the file taken
    uint64_t begin;
    unsigned host_port;
    int knock; // the connection that is waited for, -1: none
    uint64_t knocked;
};

// --- the console

static void take_console(struct watch *w)
{
    char piece[16 * 1024];
    AUTO(fd_close) int fd = open(vm_console_path(w->vm), O_RDONLY | O_CLOEXEC);
    for (ssize_t n = 1; fd >= 0 && n > 0;) {
        n = pread(fd, piece, sizeof(piece), (off_t)w->read);
        if (n <= 0)
            return;
        w->read += (uint64_t)n;
        for (ssize_t i = 0; i < n; i++) {
            if (piece[i] == '\0')
                piece[i] = '?'; // the text is searched as a string
        }
        buf_add(&w->text, piece, (size_t)n);
    }
}

static void mark(const struct watch *w, bool *flag, uint64_t *ms)
{
    if (!*flag)
        *ms = clock_ms() - w->begin;
    *flag = true;
}

// The line around `at`, without control characters.
static char *line_at(const char *text, const char *at)
{
    const char *begin = at;
    while (begin > text && begin[-1] != '\n' && begin[-1] != '\r')
        begin--;
    char *line = xstrndup(begin, strcspn(begin, "\r\n"));
    for (char *c = line; *c; c++) {
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
    }
    return line;
}

static bool sees_root(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(root_signs); i++) {
        if (strstr(text, root_signs[i]))
            return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(mount_signs); i++) {
        const char *at = strstr(text, mount_signs[i]);
        const char *end = at ? at + strcspn(at, "\n") : NULL;
        if (at && (memmem(at, (size_t)(end - at), "mounted filesystem", 18) ||
                   memmem(at, (size_t)(end - at), "Ending clean mount", 18) ||
                   memmem(at, (size_t)(end - at), "Mounting", 8)))
            return true;
    }
    return false;
}

static void look_at_console(struct watch *w)
{
    struct rehearsal *r = w->r;
    take_console(w);
    const char *text = w->text.data ? w->text.data : "";
    const char *expect = w->o->expect ? w->o->expect : "login:";
    if (!r->kernel && strstr(text, "Linux version"))
        mark(w, &r->kernel, &r->kernel_ms);
    if (!r->root && sees_root(text))
        mark(w, &r->root, &r->root_ms);
    const char *at = r->expected ? NULL : strstr(text, expect);
    if (at) {
        mark(w, &r->expected, &r->expected_ms);
        r->login_line = line_at(text, at);
    }
    if (at && !w->o->expect) { // a login comes from a kernel with a root
        mark(w, &r->kernel, &r->kernel_ms);
        mark(w, &r->root, &r->root_ms);
    }
}

// --- the port

struct net {
    char net[32], host[16], dns[16], dhcp[16], guest[16];
};

static void put_address(char out[static 16], uint32_t address)
{
    struct in_addr in = {.s_addr = htonl(address)};
    inet_ntop(AF_INET, &in, out, 16);
}

// A user network around the guest's address: the host must lie in what the guest takes
// for its own network, or the answers would go to a router.
static int plan_net(const char *text, struct net *ret, struct err *e)
{
    char address[32];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    uint64_t prefix = 24;
    struct in_addr in;
    snprintf(address, sizeof(address), "%.*s", (int)min_u64(len, 31), text);
    if (inet_pton(AF_INET, address, &in) != 1 ||
        (slash && (str_to_u64(slash + 1, &prefix) < 0 || prefix < 8 || prefix > 30)))
        return err_set(e, ERR_USAGE,
                       "\"%s\" is not an IPv4 address with a prefix of 8 to 30", text);
    uint32_t guest = ntohl(in.s_addr), own = UINT32_MAX << (32 - prefix);
    uint32_t wide = prefix > 24 ? UINT32_MAX << 8 : own;
    uint32_t host = (guest & own) + 1 == guest ? guest + 1 : (guest & own) + 1;
    uint32_t dns = (guest & wide) + 250 == guest ? guest + 1 : (guest & wide) + 250;
    uint32_t dhcp = (guest & wide) + 200;
    if (dns == host)
        dns = (guest & wide) + 251;
    char net[16];
    put_address(net, guest & wide);
    snprintf(ret->net, sizeof(ret->net), "%s/%u", net,
             (unsigned)(prefix > 24 ? 24 : prefix));
    put_address(ret->host, host);
    put_address(ret->dns, dns);
    put_address(ret->dhcp, dhcp);
    put_address(ret->guest, guest);
    return 0;
}

// QEMU's table of the user network as text.
static int usernet(struct watch *w, char **ret, struct err *e)
{
    AUTO(json_free) json_t *reply = NULL;
    AUTO(json_free)
    json_t *arguments = json_pack("{s:s}", "command-line", "info usernet");
    if (vm_qmp(w->vm, "human-monitor-command", arguments, &reply, e) < 0)
        return -1;
    const char *text = json_string_value(reply);
    *ret = xstrdup(text ? text : "");
    return 0;
}

// The port that QEMU chose for us: "TCP[HOST_FORWARD]  FD  127.0.0.1 PORT  GUEST PORT".
static int find_host_port(struct watch *w, struct err *e)
{
    AUTO(str_free) char *text = NULL;
    if (usernet(w, &text, e) < 0)
        return -1;
    const char *at = strstr(text, "TCP[HOST_FORWARD]");
    unsigned port = 0;
    if (!at || sscanf(at, "TCP[HOST_FORWARD] %*d %*s %u", &port) != 1 || port == 0)
        return err_set(e, ERR_FAILED, "QEMU shows no forwarded port");
    w->host_port = port;
    return 0;
}

static int knock(struct watch *w)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)w->host_port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    w->knock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    w->knocked = clock_ms();
    if (w->knock < 0)
        return -1;
    return connect(w->knock, (struct sockaddr *)&to, sizeof(to)) == 0 ||
                   errno == EINPROGRESS
               ? 0
               : -1;
}

// Opens a connection and looks whether the guest took it; a new one every second, because
// the guest's address may not be there yet.
static int look_at_port(struct watch *w, struct err *e)
{
    if (!w->o->port || w->r->port)
        return 0;
    if (w->knock < 0) {
        if (knock(w) < 0)
            fd_close(steal_fd(&w->knock));
        return 0;
    }
    AUTO(str_free) char *text = NULL;
    if (usernet(w, &text, e) < 0)
        return -1;
    if (strstr(text, "TCP[ESTABLISHED]")) {
        mark(w, &w->r->port, &w->r->port_ms);
        fd_close(steal_fd(&w->knock));
    } else if (clock_ms() - w->knocked > KNOCK_MS) {
        fd_close(steal_fd(&w->knock));
    }
    return 0;
}

// --- all of it

static bool complete(const struct watch *w)
{
    const struct rehearsal *r = w->r;
    return r->kernel && r->root && r->expected && (r->port || !w->o->port);
}

static int watch_boot(struct watch *w, struct err *e)
{
    if (w->o->port && find_host_port(w, e) < 0)
        return -1;
    while (!complete(w) && clock_ms() - w->begin < w->o->timeout_ms) {
        struct pollfd cancel = {.fd = cancel_fd(), .events = POLLIN};
        poll(&cancel, 1, TICK_MS);
        if (cancel_check(e) < 0)
            return -1;
        look_at_console(w);
        if (!vm_running(w->vm)) // a panic: what was seen is the result
            return 0;
        if (look_at_port(w, e) < 0 && vm_running(w->vm))
            return -1;
    }
    return 0;
}

static void keep_console(struct watch *w)
{
    look_at_console(w);
    size_t len = w->text.len, from = len > CONSOLE_KEPT ? len - CONSOLE_KEPT : 0;
    w->r->console = len ? xstrndup(w->text.data + from, len - from) : xstrdup("");
}

static int run(struct watch *w, const struct vm_options *options, struct err *e)
{
    w->begin = clock_ms();
    if (vm_start(options, &w->vm, e) < 0)
        return -1;
    int r = watch_boot(w, e);
    struct err no_picture; // the boot is the result, the picture a help
    if (r == 0 && w->o->picture && vm_running(w->vm))
        (void)vm_screenshot(w->vm, w->o->picture, &no_picture);
    keep_console(w);
    w->r->passed = complete(w);
    return r;
}

// The machine's interfaces with their MACs; the first leads to the port.
static struct vm_nic *make_nics(const struct machine *m, const struct net *net,
                                const char *forward, size_t *ret_n)
{
    size_t n = m->n_nics ? m->n_nics : 1;
    struct vm_nic *nics = xcalloc(n, sizeof(*nics));
    for (size_t i = 0; i < m->n_nics; i++)
        nics[i].mac = m->nics[i].mac;
    if (forward) {
        nics[0].net = net->net;
        nics[0].host = net->host;
        nics[0].dns = net->dns;
        nics[0].dhcp = net->dhcp;
        nics[0].forward = forward;
    }
    *ret_n = n;
    return nics;
}

int rehearse(const struct rehearsal_options *o, struct rehearsal *ret, struct err *e)
{
    struct rehearsal result = {0};
    struct net net = {0};
    AUTO(str_free) char *forward = NULL;
    if (o->port && !o->address)
        return err_set(e, ERR_USAGE, "port %u is to answer, but at which address?",
                       o->port);
    if (o->port && plan_net(o->address, &net, e) < 0)
        return -1;
    if (o->port)
        forward = xasprintf("tcp:127.0.0.1:0-%s:%u", net.guest, o->port);
    struct vm_options options = {.name = "rehearsal",
                                 .accel = o->accel,
                                 .cpus = o->machine->cpus,
                                 .memory = o->machine->memory,
                                 .firmware = o->machine->firmware,
                                 .disks = o->disks,
                                 .n_disks = o->n_disks,
                                 .run_dir = o->run_dir,
                                 .display = true};
    struct vm_nic *nics = make_nics(o->machine, &net, forward, &options.n_nics);
    options.nics = nics;
    struct watch w = {.o = o, .r = &result, .text = BUF_INIT(CONSOLE_READ), .knock = -1};
    int r = run(&w, &options, e);
    vm_end(w.vm);
    fd_close(w.knock);
    buf_done(&w.text);
    free(nics);
    if (r < 0) {
        rehearsal_done(&result);
        return err_wrap(e, "rehearse %s", o->machine->name ? o->machine->name : "guest");
    }
    *ret = result;
    return 0;
}

void rehearsal_done(struct rehearsal *r)
{
    free(r->login_line);
    free(r->console);
    *r = (struct rehearsal){0};
}

static void put_sign(json_t *j, const char *name, bool seen, uint64_t ms)
{
    json_object_set_new(j, name,
                        seen ? json_pack("{s:b, s:I}", "seen", 1, "ms", (json_int_t)ms)
                             : json_pack("{s:b}", "seen", 0));
}

json_t *rehearsal_json(const struct rehearsal *r)
{
    json_t *j = json_pack("{s:b}", "passed", r->passed);
    put_sign(j, "kernel", r->kernel, r->kernel_ms);
    put_sign(j, "root", r->root, r->root_ms);
    put_sign(j, "expected", r->expected, r->expected_ms);
    put_sign(j, "port", r->port, r->port_ms);
    json_object_set_new(j, "line",
                        r->login_line ? json_string(r->login_line) : json_null());
    return j;
}
