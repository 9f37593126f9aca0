// SPDX-License-Identifier: Apache-2.0
// Choosing the reader of a description, and what holds for all of them: limits, defaults,
// safe names, no disk twice.
#include "machine/machine.h"
#include "machine/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CPUS_MAX 4096
#define MEMORY_MAX (64 * TIB)

static bool is_any(const char *path, const char *text, size_t len)
{
    (void)path, (void)text, (void)len;
    return true;
}

// A name that says "image" goes first: what a guest wrote into its raw disk must not be
// taken for a description.
const struct machine_reader machine_readers[] = {
    {.name = "image", .is = image_is, .parse = image_read},
    {.name = "ova", .suffix = ".ova", .is = ova_is, .parse = ova_read},
    {.name = "ovf", .suffix = ".ovf", .text = true, .is = ovf_is, .parse = ovf_read},
    {.name = "libvirt",
     .suffix = ".xml",
     .text = true,
     .is = libvirt_is,
     .parse = libvirt_read},
    {.name = "vmx", .suffix = ".vmx", .text = true, .is = vmx_is, .parse = vmx_read},
    {.name = "json",
     .suffix = ".json",
     .text = true,
     .is = json_is,
     .parse = json_read_machine},
    {.name = "any image", .is = is_any, .parse = image_read},
    {0},
};

const struct machine_reader *machine_reader_find(const char *name)
{
    for (const struct machine_reader *r = machine_readers; r->name; r++)
        if (strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), s = strlen(suffix);
    return n > s && strcasecmp(path + n - s, suffix) == 0;
}

static const struct machine_reader *choose(const char *path, const char *head, size_t len)
{
    const struct machine_reader *by_name = NULL, *r = machine_readers;
    for (; r->is != is_any; r++) {
        if (r->is(path, head, len))
            return r;
        if (r->suffix && has_suffix(path, r->suffix))
            by_name = r;
    }
    return by_name ? by_name : r;
}

// --- names
// ----------------------------------------------------------------------------------------

static char *name_of_file(const char *path)
{
    AUTO(str_free) char *base = xstrdup(path_base(path));
    char *dot = strrchr(base, '.');
    if (dot && dot != base)
        *dot = 0;
    return machine_safe_name(base);
}

// --- filling
// --------------------------------------------------------------------------------------

static int check_disks(const struct machine *m, struct err *e)
{
    if (m->n_disks == 0)
        return err_set(e, ERR_REFUSED, "describes no disk");
    for (size_t i = 0; i < m->n_disks; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp(m->disks[i].path, m->disks[j].path) == 0 &&
                m->disks[i].part_off == m->disks[j].part_off)
                return err_set(e, ERR_REFUSED, "disks %zu and %zu are the same file %s",
                               j + 1, i + 1, m->disks[i].path);
    return 0;
}

// What is only shown, or handed on as text, without control characters and as UTF-8.
static void make_printable(char *s)
{
    AUTO(json_free) json_t *utf8 = s ? json_string(s) : NULL;
    for (; s && *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f || (!utf8 && (*s & 0x80)))
            *s = '?';
}

static void make_all_printable(struct machine *m)
{
    make_printable(m->arch);
    make_printable(m->running_as);
    for (size_t i = 0; i < m->n_disks; i++) {
        make_printable(m->disks[i].format);
        make_printable(m->disks[i].bus);
    }
    for (size_t i = 0; i < m->n_nics; i++) {
        make_printable(m->nics[i].model);
        make_printable(m->nics[i].network);
        make_printable(m->nics[i].bridge);
        make_printable(m->nics[i].place);
    }
}

// What a description left out, and what it exaggerates.
static int complete(struct machine *m, const struct machine_options *options,
                    struct err *e)
{
    if (check_disks(m, e) < 0)
        return -1;
    if (m->cpus > CPUS_MAX || m->memory > MEMORY_MAX)
        return err_set(e, ERR_REFUSED, "%u CPUs and %llu bytes of memory are too much",
                       m->cpus, (unsigned long long)m->memory);
    if (m->cpus == 0)
        m->cpus = 1;
    if (m->memory == 0)
        m->memory = 2 * GIB;
    if (!m->arch)
        m->arch = xstrdup("x86_64");
    char *name = options->name ? machine_safe_name(options->name)
                 : m->name     ? machine_safe_name(m->name)
                               : name_of_file(options->path);
    free(m->name);
    m->name = name;
    bool boots = false;
    for (size_t i = 0; i < m->n_disks; i++)
        boots = boots || m->disks[i].boot;
    if (!boots)
        m->disks[0].boot = true;
    make_all_printable(m);
    return 0;
}

// --- reading
// --------------------------------------------------------------------------------------

int machine_parse(const struct machine_reader *reader, const char *text, size_t len,
                  const struct machine_options *options, struct machine **ret,
                  struct err *e)
{
    AUTO(machine_free) struct machine *m = xcalloc(1, sizeof(*m));
    if (reader->parse(text, len, options, m, e) < 0 || complete(m, options, e) < 0)
        return err_wrap(e, "%s", options->path);
    *ret = steal(m);
    return 0;
}

static int read_head(int fd, struct buf *head, const char *path, struct err *e)
{
    char chunk[4096];
    while (head->len < MACHINE_HEAD) {
        ssize_t n = pread(fd, chunk, sizeof(chunk), (off_t)head->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, errno, "reading %s", path);
        if (n == 0)
            break;
        buf_add(head, chunk, (size_t)n);
    }
    return 0;
}

int machine_read(const struct machine_options *options, struct machine **ret,
                 struct err *e)
{
    const char *path = options->path;
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_errno(e, errno, "opening %s", path);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "looking at %s", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, ERR_REFUSED,
                       "%s: not a file or block device; name the disk image or the "
                       "description (.vmx .ovf .ova .xml)",
                       path);
    AUTO(buf_done) struct buf head = BUF_INIT(MACHINE_HEAD);
    if (read_head(fd, &head, path, e) < 0)
        return -1;
    const char *text = head.data ? head.data : "";
    const struct machine_reader *reader = choose(path, text, head.len);
    if (!reader->text)
        return machine_parse(reader, text, head.len, options, ret, e);
    AUTO(buf_done) struct buf all = BUF_INIT(MACHINE_TEXT_MAX);
    if ((uint64_t)st.st_size > MACHINE_TEXT_MAX)
        return err_set(e, ERR_REFUSED, "%s: larger than a description may be (16 MiB)",
                       path);
    if (file_read(path, &all, e) < 0)
        return -1;
    return machine_parse(reader, all.data ? all.data : "", all.len, options, ret, e);
}
