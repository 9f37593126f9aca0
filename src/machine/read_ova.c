// SPDX-License-Identifier: Apache-2.0
// OVA: an OVF package in one tar file (DSP0243 1.1 and 2.1, section 5.3; ustar, in
// practice pax and GNU names too). Only headers are read: a member's data lies in one
// piece behind its header, so a disk is read in place as part_off, part_len of the OVA.
//
// Surprises: the OVF must come first but some writers put it last, so all members are
// listed before the OVF is parsed. A member that is no plain file could not be read in
// place and is refused, and so is a name that leaves the folder, though nothing is ever
// unpacked: such a package is not what it claims to be.
#include "machine/reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMBERS_MAX 1024

struct member {
    char *name;
    uint64_t off, len;
};
struct ova {
    const char *path;
    int fd;
    uint64_t size;
    VEC(struct member) members;
};

static void auto_ova_done(struct ova *o)
{
    for (size_t i = 0; i < o->members.n; i++)
        free(o->members.v[i].name);
    vec_done(&o->members);
    fd_close(o->fd);
}

static void archive_end(struct archive *a)
{
    if (a)
        archive_read_free(a);
}
DEFINE_AUTO(archive_end, struct archive *)

bool ova_is(const char *path, const char *text, size_t len)
{
    // A tar whose first member is a description. Its name is the first field; pax headers
    // hide it, then the suffix of the OVA decides.
    (void)path;
    if (len < 512 || memcmp(text + 257, "ustar", 5) != 0)
        return false;
    char name[101] = {0};
    memcpy(name, text, 100);
    return str_ends(name, ".ovf") || str_ends(name, ".mf");
}

static const struct member *find(const struct ova *o, const char *name)
{
    if (str_starts(name, "./"))
        name += 2;
    for (size_t i = 0; i < o->members.n; i++)
        if (strcmp(o->members.v[i].name, name) == 0)
            return &o->members.v[i];
    return NULL;
}

static bool leaves_folder(const char *name)
{
    if (*name == '/' || strchr(name, '\\'))
        return true;
    for (const char *p = name; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == 0))
            return true;
    return false;
}

// One member into the list, or why not.
static int add_member(struct ova *o, struct archive_entry *entry, int64_t data_off,
                      struct err *e)
{
    const char *name = archive_entry_pathname(entry);
    if (!name)
        name = archive_entry_pathname_utf8(entry);
    if (!name || !*name)
        return err_set(e, ERR_REFUSED, "has a member whose name cannot be read");
    if (str_starts(name, "./"))
        name += 2;
    if (leaves_folder(name))
        return err_set(e, ERR_REFUSED, "has a member '%s', whose name leaves the folder",
                       name);
    if (archive_entry_filetype(entry) == AE_IFDIR)
        return 0;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) ||
        archive_entry_symlink(entry))
        return err_set(e, ERR_REFUSED, "its member '%s' is a link or no plain file",
                       name);
    if (archive_entry_sparse_count(entry) > 0)
        return err_set(e, ERR_REFUSED,
                       "its member '%s' is stored sparse; pack it plainly", name);
    if (find(o, name))
        return err_set(e, ERR_REFUSED, "has two members called '%s'", name);
    if (o->members.n == MEMBERS_MAX)
        return err_set(e, ERR_REFUSED, "has more than %d members", MEMBERS_MAX);
    int64_t len = archive_entry_size(entry);
    uint64_t end;
    if (!archive_entry_size_is_set(entry) || len < 0 || data_off < 0 ||
        !add_fits((uint64_t)data_off, (uint64_t)len, &end) || end > o->size)
        return err_set(e, ERR_REFUSED,
                       "is truncated: its member '%s' ends behind the end of the file",
                       name);
    struct member m = {xstrdup(name), (uint64_t)data_off, (uint64_t)len};
    vec_push(&o->members, m);
    return 0;
}

static int list_members(struct ova *o, struct err *e)
{
    AUTO(archive_end) struct archive *a = archive_read_new();
    if (!a || archive_read_support_format_tar(a) != ARCHIVE_OK ||
        archive_read_open_fd(a, o->fd, 10240) != ARCHIVE_OK)
        return err_set(e, ERR_REFUSED, "is no tar file: %s",
                       a && archive_error_string(a) ? archive_error_string(a)
                                                    : "no memory");
    for (;;) {
        struct archive_entry *entry;
        if (cancel_check(e) < 0)
            return -1;
        int r = archive_read_next_header(a, &entry);
        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return err_set(e, ERR_REFUSED, "is no plain tar file, or damaged: %s",
                           archive_error_string(a) ? archive_error_string(a)
                                                   : "unreadable header");
        if (add_member(o, entry, archive_filter_bytes(a, 0), e) < 0)
            return -1;
    }
}

static int read_member(const struct ova *o, const struct member *m, struct buf *out,
                       struct err *e)
{
    char chunk[16384];
    for (uint64_t done = 0; done < m->len;) {
        size_t n = (size_t)min_u64(sizeof(chunk), m->len - done);
        if (fd_pread(o->fd, chunk, n, m->off + done) < 0)
            return err_errno(e, errno, "reading its member '%s'", m->name);
        buf_add(out, chunk, n);
        done += n;
        if (out->overflow)
            return err_set(e, ERR_REFUSED, "its member '%s' is larger than 16 MiB",
                           m->name);
    }
    return 0;
}

static int find_member(void *context, const char *href, struct machine_disk *disk,
                       struct err *e)
{
    const struct ova *o = context;
    const struct member *m = find(o, href);
    if (!m)
        return err_set(e, ERR_REFUSED, "names the disk %s, which is not in it", href);
    if (m->len == 0)
        return err_set(e, ERR_REFUSED, "its disk %s is empty", href);
    if (path_real(o->path, &disk->path, e) < 0)
        return -1;
    disk->part_off = m->off;
    disk->part_len = m->len;
    // Its own name is lost with it: one that is no VMDK must not be taken for a raw disk.
    if (str_ends(m->name, ".vmdk"))
        disk->format = xstrdup("vmdk");
    return 0;
}

// The description: the only member called .ovf.
static int find_ovf(const struct ova *o, const struct member **ret, struct err *e)
{
    const struct member *found = NULL;
    for (size_t i = 0; i < o->members.n; i++) {
        const struct member *m = &o->members.v[i];
        if (!str_ends(m->name, ".ovf"))
            continue;
        if (found)
            return err_set(e, ERR_REFUSED, "has two descriptions, %s and %s", found->name,
                           m->name);
        found = m;
    }
    if (!found)
        return err_set(e, ERR_REFUSED, "has no .ovf in it");
    *ret = found;
    return 0;
}

static int check_manifest(const struct ova *o, const struct member *ovf,
                          const struct buf *text, struct err *e)
{
    AUTO(str_free)
    char *name = xasprintf("%.*s.mf", (int)strlen(ovf->name) - 4, ovf->name);
    const struct member *m = find(o, name);
    if (!m)
        return 0;
    AUTO(buf_done) struct buf manifest = BUF_INIT(MACHINE_TEXT_MAX);
    if (read_member(o, m, &manifest, e) < 0)
        return -1;
    return manifest_check(manifest.data ? manifest.data : "", manifest.len, ovf->name,
                          text->data, text->len, e);
}

int ova_read(const char *text, size_t len, const struct machine_options *options,
             struct machine *m, struct err *e)
{
    if (len >= 2 && (memcmp(text, "\x1f\x8b", 2) == 0 || memcmp(text, "BZ", 2) == 0 ||
                     memcmp(text, "\xfd\x37", 2) == 0))
        return err_set(e, ERR_REFUSED, "is compressed as a whole; decompress it first");
    struct ova o __attribute__((cleanup(auto_ova_done))) = {.path = options->path};
    o.fd = open(options->path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (o.fd < 0 || fstat(o.fd, &st) < 0)
        return err_errno(e, errno, "opening it");
    o.size = (uint64_t)st.st_size;
    const struct member *ovf = NULL;
    if (list_members(&o, e) < 0 || find_ovf(&o, &ovf, e) < 0)
        return -1;
    assert(ovf);
    AUTO(buf_done) struct buf xml = BUF_INIT(MACHINE_TEXT_MAX);
    if (read_member(&o, ovf, &xml, e) < 0)
        return -1;
    if (!xml.data)
        return err_set(e, ERR_REFUSED, "its %s is empty", ovf->name);
    if (check_manifest(&o, ovf, &xml, e) < 0)
        return -1;
    struct ovf_files files = {find_member, &o};
    return ovf_parse(xml.data, xml.len, ovf->name, &files, m, e);
}
