// SPDX-License-Identifier: Apache-2.0
// Small files of the kernel: attributes in /sys, and who has which mount namespace.

#include "agent/block.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NAMESPACES_MAX 1024
#define FIELDS_MIN 11 // of a disk's stat, on every kernel
#define LINK_MAX_LEN 64

char *sys_text(const char *fmt, ...)
{
    char path[512];
    AUTO(buf_done) struct buf b = BUF_INIT(4096);
    struct err ignored; // not every device has every attribute
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(path, sizeof(path), fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof(path) || file_read(path, &b, &ignored) || !b.data)
        return NULL;
    b.data[strcspn(b.data, "\n")] = '\0';
    const char *text = str_trim(b.data);
    return *text ? xstrdup(text) : NULL;
}

uint64_t sys_number(const char *disk, const char *attribute)
{
    AUTO(str_free) char *text = sys_text("/sys/block/%s/%s", disk, attribute);
    uint64_t value = 0;
    if (text)
        (void)str_to_u64(text, &value); // not a number: 0
    return value;
}

int sys_stat(const char *disk, struct sys_stat *ret, struct err *e)
{
    enum { READS, READ_MS = 3, WRITES, WRITTEN = 6, WRITE_MS, DISCARDED = 13, N_FIELDS };
    char path[256];
    AUTO(buf_done) struct buf b = BUF_INIT(KIB);
    unsigned long long v[N_FIELDS] = {0};
    size_t n = 0;
    (void)snprintf(path, sizeof(path), "/sys/block/%s/stat", disk);
    if (file_read(path, &b, e))
        return -1;
    char *end = b.data;
    for (char *at = b.data; at && n < N_FIELDS; at = end, n++) {
        v[n] = strtoull(at, &end, 10);
        if (end == at)
            break;
    }
    if (n < FIELDS_MIN)
        return err_set(e, ERR_FAILED, "%s has %zu fields", path, n);
    *ret = (struct sys_stat){.requests = v[READS] + v[WRITES],
                             .busy_ms = v[READ_MS] + v[WRITE_MS],
                             .sectors_written = v[WRITTEN],
                             .sectors_discarded = v[DISCARDED]};
    return 0;
}

bool sys_dev(const char *path, dev_t *ret)
{
    AUTO(str_free) char *text = sys_text("%s", path);
    unsigned major, minor;
    if (!text || sscanf(text, "%u:%u", &major, &minor) != 2)
        return false;
    *ret = makedev(major, minor);
    return true;
}

// "mnt:[4026531840]" of a process; false: it has gone.
static bool namespace_of(const char *pid, char *out, size_t size)
{
    AUTO(str_free) char *path = xasprintf("/proc/%s/ns/mnt", pid);
    ssize_t n = readlink(path, out, size - 1);
    out[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

int namespaces_list(struct strings *ret_pids, struct err *e)
{
    AUTO(strings_done) struct strings seen = {0}, pids = {0};
    char ns[LINK_MAX_LEN];
    DIR *dir = opendir("/proc");
    if (!dir)
        return err_errno(e, errno, "cannot list processes in /proc");
    // Without namespaces in this kernel there is one.
    if (namespace_of("self", ns, sizeof(ns)))
        strings_add(&seen, ns);
    strings_add(&pids, "self");
    // Rising: the first of a namespace is likely to live as long as that.
    for (const struct dirent *d; pids.n < NAMESPACES_MAX && (d = readdir(dir));) {
        if (d->d_name[0] < '1' || d->d_name[0] > '9' ||
            !namespace_of(d->d_name, ns, sizeof(ns)) || strings_have(&seen, ns))
            continue;
        strings_add(&seen, ns);
        strings_add(&pids, d->d_name);
    }
    closedir(dir);
    *ret_pids = pids;
    pids = (struct strings){0};
    return 0;
}
