// SPDX-License-Identifier: Apache-2.0
// The appliance's calls: work on the files of one guest at a time. Each call opens the
// guest, does its work and closes it again, also when it fails: between two calls nothing
// of a guest is mounted, and its disks may be taken away. The table below is the source
// of docs/control.md.
#include "agent/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "guest/guest.h"

#define DISKS_MAX 64
#define DISK_WAIT_MS 60000
#define PORT_WAIT_MS 60000
#define PORT_NAME "godwit"

static int handle_hello(void *context, const json_t *request, json_t **ret, struct err *e)
{
    struct utsname u;
    (void)context;
    (void)request;
    (void)e;
    uname(&u);
    *ret =
        json_pack("{s:s, s:i, s:s, s:s, s:I}", "agent", "godwit", "protocol", 1, "role",
                  "appliance", "kernel", u.release, "up_ms", (json_int_t)clock_ms());
    return 0;
}

// --- disks of a request

struct disks {
    struct disk_found v[DISKS_MAX];
    size_t n;
};
static void disks_done(struct disks *d)
{
    for (size_t i = 0; i < d->n; i++)
        disk_found_done(&d->v[i]);
}
__attribute__((unused)) static inline void auto_disks_done(struct disks *d)
{
    disks_done(d);
}

static int find_disks(const json_t *request, struct disks *ret, struct err *e)
{
    const json_t *list = json_object_get(request, "disks");
    size_t n = json_array_size(list), i;
    const json_t *item;
    if (n == 0 || n > DISKS_MAX)
        return err_set(e, ERR_USAGE, "\"disks\" must list 1 to %d serial numbers",
                       DISKS_MAX);
    json_array_foreach(list, i, item)
    {
        const char *serial = json_string_value(item);
        if (!serial)
            return err_set(e, ERR_USAGE, "\"disks\" must list serial numbers as text");
        if (disk_find(serial, DISK_WAIT_MS, &ret->v[ret->n], e) < 0)
            return -1;
        ret->n++;
    }
    return 0;
}

static int handle_disks(void *context, const json_t *request, json_t **ret, struct err *e)
{
    (void)context;
    AUTO(disks_done) struct disks disks = {0};
    if (find_disks(request, &disks, e) < 0)
        return -1;
    json_t *list = json_array();
    for (size_t i = 0; i < disks.n; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:I, s:b}", "serial", disks.v[i].serial,
                            "node", disks.v[i].node, "size", (json_int_t)disks.v[i].size,
                            "sector_size", (json_int_t)disks.v[i].sector_size,
                            "read_only", disks.v[i].read_only));
    *ret = json_pack("{s:o}", "disks", list);
    return 0;
}

// --- work on one guest

typedef int work_fn(struct guest *g, const json_t *request, json_t **ret, struct err *e);

// Assembles the guest, inspects it, runs `work`, and takes all apart again. What the
// closing says counts too: a write that failed shows only there.
static int with_guest(const json_t *request, bool read_only, work_fn *work, json_t **ret,
                      struct err *e)
{
    AUTO(disks_done) struct disks disks = {0};
    const char *nodes[DISKS_MAX];
    if (find_disks(request, &disks, e) < 0)
        return -1;
    for (size_t i = 0; i < disks.n; i++)
        nodes[i] = disks.v[i].node;
    struct assemble_options options = {
        .nodes = nodes,
        .n_nodes = disks.n,
        .read_only = read_only,
        .luks_keys = json_object_get(request, "luks_keys"),
        .root = json_string_value(json_object_get(request, "root"))};
    struct guest g = {0};
    struct assembly *assembly = NULL;
    AUTO(json_free) json_t *reply = NULL;
    int r = assemble_open(&options, &g, &assembly, e);
    if (r == 0)
        r = guest_inspect(&g, e);
    if (r == 0)
        r = work(&g, request, &reply, e);
    struct err closing; // reported unless something failed before
    if (assemble_close(assembly, &g, r < 0 ? &closing : e) < 0)
        r = -1;
    guest_done(&g);
    if (r == 0)
        *ret = steal(reply);
    return r;
}

static int work_inspect(struct guest *g, const json_t *request, json_t **ret,
                        struct err *e)
{
    (void)request;
    (void)e;
    *ret = guest_json(g);
    return 0;
}

static int handle_inspect(void *context, const json_t *request, json_t **ret,
                          struct err *e)
{
    (void)context;
    return with_guest(request, true, work_inspect, ret, e);
}

static int read_target(struct guest *g, const json_t *request, struct err *e)
{
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(request, "nics"), i, item)
    {
        const char *mac = json_string_value(json_object_get(item, "mac"));
        const char *place = json_string_value(json_object_get(item, "place"));
        struct guest_nic nic = {.mac = mac ? xstrdup(mac) : NULL,
                                .place = place ? xstrdup(place) : NULL};
        vec_push(&g->nics, nic);
    }
    json_array_foreach(json_object_get(request, "drivers"), i, item)
    {
        if (!json_is_string(item))
            return err_set(e, ERR_USAGE, "\"drivers\" must list names of modules");
        strings_add(&g->drivers, json_string_value(item));
    }
    if (g->drivers.n == 0)
        return err_set(e, ERR_USAGE, "\"drivers\" must list the modules of the target");
    return 0;
}

static int work_convert(struct guest *g, const json_t *request, json_t **ret,
                        struct err *e)
{
    AUTO(json_free) json_t *made = NULL;
    if (read_target(g, request, e) < 0 || guest_convert(g, &made, e) < 0)
        return -1;
    *ret = json_pack("{s:o, s:O}", "facts", guest_json(g), "fixes", made);
    return 0;
}

static int handle_convert(void *context, const json_t *request, json_t **ret,
                          struct err *e)
{
    (void)context;
    return with_guest(request, false, work_convert, ret, e);
}

static int work_console(struct guest *g, const json_t *request, json_t **ret,
                        struct err *e)
{
    AUTO(strings_done) struct strings done = {0};
    (void)request;
    if (guest_add_serial_console(g, &done, e) < 0)
        return -1;
    json_t *changes = json_array();
    for (size_t i = 0; i < done.n; i++)
        json_array_append_new(changes, json_string(done.v[i]));
    *ret = json_pack("{s:o, s:o}", "facts", guest_json(g), "changes", changes);
    return 0;
}

static int handle_console(void *context, const json_t *request, json_t **ret,
                          struct err *e)
{
    (void)context;
    return with_guest(request, false, work_console, ret, e);
}

static int handle_poweroff(void *context, const json_t *request, json_t **ret,
                           struct err *e)
{
    (void)context;
    (void)request;
    pid_t pid = fork();
    if (pid < 0)
        return err_errno(e, errno, "fork");
    if (pid == 0) {
        usleep(200000); // the answer goes out first
        boot_power_off();
    }
    *ret = json_object();
    return 0;
}

#define GUEST_REQUEST                                                                    \
    "disks: serial numbers in the machine's order; luks_keys: {UUID or *: passphrase}; " \
    "root: UUID of the root when there are several"

const struct call helper_calls[] = {
    {{"GET", "/v1/hello", handle_hello},
     "Says that the agent is up",
     "none",
     "agent, protocol, role, kernel, up_ms"},
    {{"POST", "/v1/disks", handle_disks},
     "Waits until the disks are there",
     "disks: serial numbers",
     "disks: serial, node, size, sector_size, read_only of each"},
    {{"POST", "/v1/guest/inspect", handle_inspect},
     "Says what is installed; writes nothing",
     GUEST_REQUEST,
     "facts of the guest"},
    {{"POST", "/v1/guest/convert", handle_convert},
     "Makes the guest boot on the target",
     GUEST_REQUEST "; nics: [{mac, place}]; drivers: kernel modules of the target",
     "facts; fixes: [{fix, why, changes}]"},
    {{"POST", "/v1/guest/serial-console", handle_console},
     "Adds a console and a login on ttyS0 (rehearsals)",
     GUEST_REQUEST,
     "facts; changes: a line each"},
    {{"POST", "/v1/poweroff", handle_poweroff}, "Ends the appliance", "none", "empty"},
};
const size_t n_helper_calls = ARRAY_LEN(helper_calls);

// --- the port

// The device of the virtio-serial port with our name: /sys/class/virtio-ports/*/name.
static int open_port(struct err *e)
{
    uint64_t end = clock_ms() + PORT_WAIT_MS;
    for (; clock_ms() < end; usleep(2000)) {
        DIR *dir = opendir("/sys/class/virtio-ports");
        int fd = -1;
        for (const struct dirent *d; dir && fd < 0 && (d = readdir(dir));) {
            AUTO(buf_done) struct buf b = BUF_INIT(256);
            struct err ignored; // . and ..
            AUTO(str_free)
            char *name = xasprintf("/sys/class/virtio-ports/%s/name", d->d_name);
            if (d->d_name[0] == '.' || file_read(name, &b, &ignored) < 0 || !b.data ||
                strcmp(str_trim(b.data), PORT_NAME) != 0)
                continue;
            AUTO(str_free) char *node = path_join("/dev", d->d_name);
            fd = open(node, O_RDWR | O_CLOEXEC);
        }
        if (dir)
            closedir(dir);
        if (fd >= 0)
            return fd;
    }
    return err_set(e, ERR_FAILED, "no virtio-serial port named " PORT_NAME);
}

int helper_serve(struct err *e)
{
    AUTO(fd_close) int fd = open_port(e);
    if (fd < 0)
        return -1;
    for (;;) {
        if (calls_serve(fd, helper_calls, n_helper_calls, NULL, e) < 0)
            log_line(LOG_WARN, "%s", e->text);
        usleep(100000); // nobody at the other end
    }
}
