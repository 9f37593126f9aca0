// SPDX-License-Identifier: Apache-2.0
// This server as a machine that could be made elsewhere, and facts that help to plan it:
// from /proc and /sys alone, so that it needs no program and works on old kernels.
#include "agent/source.h"
#include "machine/machine.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TEXT_MAX (64 * KIB)
#define PORTS_MAX 256
#define MEMORY_STEP (128 * MIB)

// The text of a file in /proc or /sys without white space at its ends; NULL: none.
static char *read_text(const char *path)
{
    AUTO(buf_done) struct buf b = BUF_INIT(TEXT_MAX);
    struct err ignored; // not every kernel or machine has it
    if (file_read(path, &b, &ignored) || !b.data || !json_can_hold(b.data))
        return NULL;
    char *text = str_trim(b.data);
    return *text ? xstrdup(text) : NULL;
}

static char *read_in(const char *dir, const char *name, const char *file)
{
    AUTO(str_free) char *path = xasprintf("%s/%s/%s", dir, name, file);
    return read_text(path);
}

static void set_text(json_t *j, const char *key, char *text /* taken */)
{
    if (text)
        json_object_set_new(j, key, json_string(text));
    free(text);
}

// --- the machine

// What the firmware gave, not what the kernel left of it.
static uint64_t memory_bytes(void)
{
    AUTO(str_free) char *block = read_text("/sys/devices/system/memory/block_size_bytes");
    unsigned long long size = 0;
    uint64_t bytes = 0;
    if (block && sscanf(block, "%llx", &size) != 1)
        size = 0;
    DIR *dir = size ? opendir("/sys/devices/system/memory") : NULL;
    for (const struct dirent *d; dir && (d = readdir(dir));) {
        unsigned n;
        bytes += sscanf(d->d_name, "memory%u", &n) == 1 ? size : 0;
    }
    if (dir)
        closedir(dir);
    uint64_t kernel = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return bytes ? bytes : round_up(kernel, MEMORY_STEP);
}

static void add_disks(const struct block_disks *disks, struct machine *m)
{
    m->disks = xcalloc(disks->n, sizeof(*m->disks));
    for (size_t i = 0; i < disks->n; i++) {
        const struct block_disk *d = &disks->v[i];
        m->disks[i] = (struct machine_disk){.path = xstrdup(d->node),
                                            .format = xstrdup("raw"),
                                            .bus = d->bus ? xstrdup(d->bus) : NULL,
                                            .sector_size = d->sector_size,
                                            .boot = i == 0};
    }
    m->n_disks = disks->n;
}

// The address that the card was made with: bonds and bridges change the one in use.
static char *permanent_mac(const char *name)
{
    union {
        struct ethtool_perm_addr head;
        uint8_t room[sizeof(struct ethtool_perm_addr) + 32];
    } a = {.head = {.cmd = ETHTOOL_GPERMADDR, .size = 32}};
    struct ifreq r = {.ifr_data = (void *)&a};
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const uint8_t *p = a.head.data;
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%.15s", name);
    if (fd < 0 || ioctl(fd, SIOCETHTOOL, &r) || a.head.size != 6 || is_zero(p, 6))
        return NULL;
    return xasprintf("%02x:%02x:%02x:%02x:%02x:%02x", p[0], p[1], p[2], p[3], p[4], p[5]);
}

static char *driver_of(const char *name)
{
    char target[PATH_MAX];
    AUTO(str_free) char *path = xasprintf("/sys/class/net/%s/device/driver", name);
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    if (n <= 0)
        return NULL;
    target[n] = '\0';
    const char *driver = path_base(target);
    return xstrdup(strcmp(driver, "virtio_net") == 0 ? "virtio" : driver);
}

static int is_device(const struct dirent *d)
{
    AUTO(str_free) char *path = xasprintf("/sys/class/net/%s/device", d->d_name);
    return d->d_name[0] != '.' && !access(path, F_OK);
}

static void add_nics(struct machine *m)
{
    struct dirent **names = NULL;
    int n = scandir("/sys/class/net", &names, is_device, alphasort);
    if (n > 0)
        m->nics = xcalloc((size_t)n, sizeof(*m->nics));
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        AUTO(str_free) char *mac = permanent_mac(name);
        AUTO(str_free)
        char *used = mac ? NULL : read_in("/sys/class/net", name, "address");
        const char *text = mac ? mac : used;
        if (m->n_nics < MACHINE_NICS_MAX)
            m->nics[m->n_nics++] = (struct machine_nic){
                .mac = text ? machine_mac(text) : NULL,
                .model = driver_of(name),
                .place = str_starts(name, "en") ? xstrdup(name) : NULL};
        free(names[i]);
    }
    free(names);
}

static int machine_of(const struct block_disks *disks, bool offline, json_t **ret,
                      struct err *e)
{
    struct utsname u;
    AUTO(machine_free) struct machine *m = xcalloc(1, sizeof(*m));
    uname(&u);
    m->name = machine_safe_name(u.nodename);
    m->uuid = read_text("/sys/class/dmi/id/product_uuid");
    for (char *p = m->uuid; p && *p; p++)
        *p = *p >= 'A' && *p <= 'F' ? (char)(*p + 'a' - 'A') : *p;
    m->arch = xstrdup(u.machine);
    m->firmware = access("/sys/firmware/efi", F_OK) ? FIRMWARE_BIOS : FIRMWARE_UEFI;
    m->firmware_known = !offline;
    m->cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    m->memory = memory_bytes();
    add_disks(disks, m);
    add_nics(m);
    return machine_json(m, ret, e);
}

// --- facts

static json_t *system_facts(void)
{
    struct utsname u;
    json_t *j = json_object();
    uname(&u);
    set_text(j, "hostname", xstrdup(u.nodename));
    set_text(j, "kernel", xstrdup(u.release));
    set_text(j, "vendor", read_text("/sys/class/dmi/id/sys_vendor"));
    set_text(j, "product", read_text("/sys/class/dmi/id/product_name"));
    AUTO(str_free) char *text = read_text("/etc/os-release");
    char *save = NULL;
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        if (!str_starts(line, "PRETTY_NAME="))
            continue;
        char *value = str_trim(line + strlen("PRETTY_NAME="));
        size_t len = strlen(value);
        bool quoted = len > 1 && *value == '"' && value[len - 1] == '"';
        set_text(j, "os", xstrndup(value + quoted, len - 2 * quoted));
    }
    return j;
}

static json_t *addresses(void)
{
    struct ifaddrs *list = NULL;
    json_t *array = json_array();
    (void)getifaddrs(&list); // none: an empty list
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        char text[INET6_ADDRSTRLEN] = "";
        const void *address = NULL;
        if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK))
            continue;
        if (i->ifa_addr->sa_family == AF_INET)
            address = &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr;
        else if (i->ifa_addr->sa_family == AF_INET6)
            address = &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
        if (address && inet_ntop(i->ifa_addr->sa_family, address, text, sizeof(text)))
            json_array_append_new(array, json_pack("{s:s, s:s}", "interface", i->ifa_name,
                                                   "address", text));
    }
    freeifaddrs(list);
    return array;
}

// 127.0.0.0/8, also as IPv6, and ::1, as the kernel prints them on little-endian
// machines.
static bool is_loopback(const char *hex)
{
    static const char mapped[] = "0000000000000000FFFF0000";
    if (str_starts(hex, mapped))
        hex += strlen(mapped);
    return (strlen(hex) == 8 && strcmp(hex + 6, "7F") == 0) ||
           strcmp(hex, "00000000000000000000000001000000") == 0;
}

// Ports that others can reach, from /proc/net/tcp and tcp6: "sl local:PORT remote ST …".
static void add_listening(const char *path, json_t *array)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * MIB);
    struct err ignored; // no IPv6
    if (file_read(path, &b, &ignored) || !b.data)
        return;
    char *save = NULL;
    for (char *line = strtok_r(b.data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        char local[33];
        unsigned port, state;
        if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x", local, &port,
                   &state) != 3 ||
            state != 0x0a || is_loopback(local) || json_array_size(array) >= PORTS_MAX)
            continue;
        bool known = false;
        for (size_t i = 0; i < json_array_size(array); i++)
            known |= json_integer_value(json_array_get(array, i)) == port;
        if (!known)
            json_array_append_new(array, json_integer(port));
    }
}

// What is mounted from the disks. A file system that does not answer (statvfs) is listed
// without its sizes.
static int add_volumes(const struct block_disks *disks, json_t *array, struct err *e)
{
    struct volume_mounts mounts = {0};
    if (mounts_list(disks, &mounts, e))
        return -1;
    for (size_t i = 0; i < mounts.n; i++) {
        const struct volume_mount *m = &mounts.v[i];
        struct statvfs st;
        json_t *j =
            json_pack("{s:s*, s:s*, s:s*, s:s*, s:b, s:b}", "where", m->where, "type",
                      m->type, "source", m->source, "uuid", m->uuid, "read_only",
                      (int)m->read_only, "can_freeze", (int)m->can_freeze);
        if (j && !statvfs(m->where, &st)) {
            uint64_t free_bytes = (uint64_t)st.f_bfree * st.f_frsize;
            uint64_t size = (uint64_t)st.f_blocks * st.f_frsize;
            json_object_set_new(j, "size", json_integer((json_int_t)size));
            json_object_set_new(j, "used", json_integer((json_int_t)(size - free_bytes)));
        }
        json_array_append_new(array, j);
    }
    mounts_done(&mounts);
    return 0;
}

int inventory(const struct block_disks *disks, bool offline, json_t **ret, struct err *e)
{
    json_t *machine = NULL, *list = json_array(), *ports = json_array();
    json_t *volumes = json_array();
    if (machine_of(disks, offline, &machine, e) ||
        (!offline && add_volumes(disks, volumes, e))) {
        json_decref(machine);
        json_decref(list);
        json_decref(ports);
        json_decref(volumes);
        return -1;
    }
    for (size_t i = 0; i < disks->n; i++) {
        const struct block_disk *d = &disks->v[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:s*, s:s*, s:s*}", "name", d->name,
                                        "size", (json_int_t)d->size, "serial", d->serial,
                                        "model", d->model, "bus", d->bus));
    }
    add_listening("/proc/net/tcp", ports);
    add_listening("/proc/net/tcp6", ports);
    *ret = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "machine", machine, "disks", list,
                     "volumes", volumes, "system", system_facts(), "addresses",
                     addresses(), "listening", ports);
    return *ret ? 0 : err_set(e, ERR_FAILED, "putting the inventory together");
}
