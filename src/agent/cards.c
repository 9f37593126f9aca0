// SPDX-License-Identifier: Apache-2.0
// Network cards of a real machine: up as they appear, an address by DHCP on each, or on
// one of them the address of godwit.ip=ADDRESS/PREFIX[,GATEWAY[,CARD]], and then nothing
// by DHCP. IPv6 addresses come by themselves where a router announces them.
#include "agent/metal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define CARDS_MAX 64

static char *attribute(const char *card, const char *name)
{
    AUTO(buf_done) struct buf b = BUF_INIT(256);
    struct err ignored; // a card without a link has no speed
    AUTO(str_free) char *path = xasprintf("/sys/class/net/%s/%s", card, name);
    return file_read(path, &b, &ignored) || !b.data ? NULL : xstrdup(str_trim(b.data));
}

static bool has_link(const char *card)
{
    AUTO(str_free) char *carrier = attribute(card, "carrier");
    return carrier && strcmp(carrier, "1") == 0;
}

void cards_open(struct cards *c)
{
    char text[256], *save = NULL;
    *c = (struct cards){0};
    c->fixed = boot_parameter("godwit.ip", text, sizeof(text));
    if (!c->fixed)
        return;
    const char *address = strtok_r(text, ",", &save);
    const char *gateway = strtok_r(NULL, ",", &save);
    const char *wanted = strtok_r(NULL, ",", &save);
    snprintf(c->address, sizeof(c->address), "%s", address ? address : "");
    snprintf(c->gateway, sizeof(c->gateway), "%s", gateway ? gateway : "");
    snprintf(c->wanted, sizeof(c->wanted), "%s", wanted ? wanted : "");
}

// --- up, and addresses

static void set_up(const char *name)
{
    struct ifreq r = {0};
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    r.ifr_flags = IFF_UP;
    (void)ioctl(fd, SIOCSIFFLAGS, &r); // whether it has a link is shown
}

// Asks until there is an answer, and keeps the lease.
static struct proc *start_dhcp(const char *name)
{
    char *const argv[] = {"busybox", "udhcpc", "-f", "-i", (char *)name,  "-t", "4", "-T",
                          "3",       "-A",     "5",  "-s", "/etc/udhcpc", NULL};
    AUTO(fd_close) int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct proc_options o = {.argv = argv, .in = -1, .out = -1, .err = null};
    struct proc *p = NULL;
    struct err e;
    if (proc_start(&o, &p, &e))
        log_line(LOG_ERROR, "%s", e.text);
    return p;
}

static bool is_wanted(const struct cards *c, const char *name)
{
    AUTO(str_free) char *mac = attribute(name, "address");
    if (!c->wanted[0])
        return has_link(name);
    return strcmp(c->wanted, name) == 0 || (mac && strcasecmp(c->wanted, mac) == 0);
}

static int give_address(const struct cards *c, const char *name, struct err *e)
{
    char *const add[] = {"ip",  "addr",       "add", (char *)c->address,
                         "dev", (char *)name, NULL};
    char *const route[] = {"ip",
                           strchr(c->gateway, ':') ? "-6" : "-4",
                           "route",
                           "add",
                           "default",
                           "via",
                           (char *)c->gateway,
                           "dev",
                           (char *)name,
                           NULL};
    if (!strchr(c->address, '/'))
        return err_set(e, ERR_USAGE, "\"%s\" is not ADDRESS/PREFIX", c->address);
    return proc_run(add, NULL, e) || (c->gateway[0] && proc_run(route, NULL, e)) ? -1 : 0;
}

static void fix_address(struct cards *c)
{
    struct err e;
    for (size_t i = 0; i < c->n && !c->applied; i++) {
        if (!is_wanted(c, c->v[i].name))
            continue;
        c->applied = true; // once
        if (give_address(c, c->v[i].name, &e))
            snprintf(c->problem, sizeof(c->problem), "godwit.ip on %s: %.200s",
                     c->v[i].name, e.text);
    }
}

void cards_update(struct cards *c)
{
    struct if_nameindex *list = if_nameindex();
    for (struct if_nameindex *i = list; i && i->if_name; i++) {
        AUTO(str_free) char *device = xasprintf("/sys/class/net/%s/device", i->if_name);
        bool known = c->n >= CARDS_MAX;
        for (size_t k = 0; k < c->n; k++)
            known = known || strcmp(c->v[k].name, i->if_name) == 0;
        if (strcmp(i->if_name, "lo") == 0)
            set_up("lo");
        else if (!known && access(device, F_OK) == 0) {
            struct card new = {0};
            snprintf(new.name, sizeof(new.name), "%s", i->if_name);
            set_up(new.name);
            new.dhcp = c->fixed ? NULL : start_dhcp(new.name);
            vec_push(c, new);
        }
    }
    if_freenameindex(list);
    if (c->fixed && !c->applied)
        fix_address(c);
}

// --- the list

static unsigned prefix_of(const struct sockaddr *mask)
{
    const uint8_t *bytes = NULL;
    size_t n = 0;
    unsigned bits = 0;
    if (mask && mask->sa_family == AF_INET) {
        bytes = (const void *)&((const struct sockaddr_in *)(const void *)mask)->sin_addr;
        n = 4;
    } else if (mask && mask->sa_family == AF_INET6) {
        bytes =
            (const void *)&((const struct sockaddr_in6 *)(const void *)mask)->sin6_addr;
        n = 16;
    }
    for (size_t i = 0; i < n; i++)
        bits += (unsigned)__builtin_popcount(bytes[i]);
    return bits;
}

// As text if others can reach it: not the link's own, not the machine's own.
static bool address_of(const struct ifaddrs *i, char text[static INET6_ADDRSTRLEN])
{
    const struct sockaddr_in *v4 = (const void *)i->ifa_addr;
    const struct sockaddr_in6 *v6 = (const void *)i->ifa_addr;
    if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK))
        return false;
    if (i->ifa_addr->sa_family == AF_INET)
        return inet_ntop(AF_INET, &v4->sin_addr, text, INET6_ADDRSTRLEN);
    return i->ifa_addr->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) &&
           inet_ntop(AF_INET6, &v6->sin6_addr, text, INET6_ADDRSTRLEN);
}

bool cards_ready(void)
{
    char text[INET6_ADDRSTRLEN];
    struct ifaddrs *list = NULL;
    bool any = false;
    if (getifaddrs(&list))
        return false;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next)
        any = any || address_of(i, text);
    freeifaddrs(list);
    return any;
}

void cards_show(const struct cards *c, struct buf *out)
{
    struct ifaddrs *list = NULL;
    (void)getifaddrs(&list); // none: no addresses are shown
    buf_str(out, c->n ? "\nnetwork\n" : "\nnetwork: no card with a driver\n");
    for (size_t i = 0; i < c->n; i++) {
        const char *name = c->v[i].name;
        char text[INET6_ADDRSTRLEN];
        AUTO(str_free) char *mac = attribute(name, "address");
        AUTO(str_free) char *speed = attribute(name, "speed");
        bool link = has_link(name), known = speed && speed[0] != '-';
        AUTO(str_free) char *rate = xasprintf("%s Mb/s", known ? speed : "?");
        buf_printf(out, "  %-8s %s  %-11s", name, mac ? mac : "",
                   link ? rate : "no link");
        for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
            if (strcmp(a->ifa_name, name) == 0 && address_of(a, text))
                buf_printf(out, "  %s/%u", text, prefix_of(a->ifa_netmask));
        }
        buf_str(out, "\n");
    }
    if (c->problem[0])
        buf_printf(out, "  %s\n", c->problem);
    if (list)
        freeifaddrs(list);
}
