// SPDX-License-Identifier: Apache-2.0
// A real machine booted from our image: its disks and addresses on the console, shown
// again whenever they change.
#include "agent/agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_real_disk(const char *name)
{
    static const char *const others[] = {"loop", "ram", "dm-", "zram", "sr", "fd"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (str_starts(name, others[i]))
            return false;
    }
    return name[0] != '.';
}

static void read_line(struct buf *b, const char *fmt, const char *name)
{
    AUTO(buf_done) struct buf text = BUF_INIT(256);
    char path[512];
    struct err ignored; // not every disk has a model
    snprintf(path, sizeof(path), "%s/%s/%s", "/sys/block", name, fmt);
    if (file_read(path, &text, &ignored) == 0 && text.data)
        buf_str(b, str_trim(text.data));
}

static void show_disks(struct buf *out)
{
    DIR *dir = opendir("/sys/block");
    buf_str(out, "\ndisks:\n");
    for (const struct dirent *d; dir && (d = readdir(dir));) {
        AUTO(buf_done) struct buf sectors = BUF_INIT(64);
        AUTO(buf_done) struct buf model = BUF_INIT(256);
        char size[16];
        uint64_t n = 0;
        if (!is_real_disk(d->d_name))
            continue;
        read_line(&sectors, "size", d->d_name);
        read_line(&model, "device/model", d->d_name);
        if (sectors.data && str_to_u64(sectors.data, &n) == 0 && n > 0)
            buf_printf(out, "  %-10s %10s  %s\n", d->d_name, str_bytes(n * 512, size),
                       model.data ? model.data : "");
    }
    if (dir)
        closedir(dir);
}

static void show_addresses(struct buf *out)
{
    struct ifaddrs *list = NULL;
    buf_str(out, "addresses:\n");
    if (getifaddrs(&list) < 0)
        return;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        char text[INET6_ADDRSTRLEN] = "";
        if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK))
            continue;
        if (i->ifa_addr->sa_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr,
                      text, sizeof(text));
        else if (i->ifa_addr->sa_family == AF_INET6)
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr,
                      text, sizeof(text));
        if (text[0])
            buf_printf(out, "  %-10s %s\n", i->ifa_name, text);
    }
    freeifaddrs(list);
}

// Up, and an address by DHCP where somebody gives one.
static void start_network(void)
{
    struct if_nameindex *list = if_nameindex();
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (struct if_nameindex *i = list; i && i->if_name; i++) {
        struct ifreq r = {0};
        snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", i->if_name);
        r.ifr_flags = IFF_UP;
        (void)ioctl(fd, SIOCSIFFLAGS, &r); // its link shows in the list below
        if (strcmp(i->if_name, "lo") == 0)
            continue;
        char *const argv[] = {"busybox", "udhcpc", "-i", i->if_name,    "-n", "-q",
                              "-t",      "4",      "-s", "/etc/udhcpc", NULL};
        struct err ignored; // no server: no address
        (void)proc_run(argv, NULL, &ignored);
    }
    if_freenameindex(list);
}

void metal_show(void)
{
    AUTO(str_free) char *shown = NULL;
    start_network();
    for (;; sleep(2)) {
        struct buf b = BUF_INIT(64 * KIB);
        show_disks(&b);
        show_addresses(&b);
        if (shown && strcmp(shown, b.data) == 0) {
            buf_done(&b);
            continue;
        }
        free(shown);
        shown = buf_steal(&b);
        printf("%s", shown);
        fflush(stdout);
    }
}
