// SPDX-License-Identifier: Apache-2.0
// What must be known of an image before QEMU opens it. QEMU reads the formats, but some
// of them name other files, which it would open without asking: a VMDK descriptor its
// extents. The names are therefore read here, from the text, and checked first. The magic
// numbers are read here as well, so that a format is always stated to QEMU and a guest
// that writes one into its own raw disk changes nothing for QEMU's own probing.
//
// What surprises: a fixed VHD is raw with a footer at the end, and QEMU probes only the
// beginning; a differencing VHD is read by QEMU as if its parent were zeros.
#include "disk/image_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define DESCRIPTOR_MAX MIB // QEMU's limit too
#define SECTOR 512

static const struct image_format formats[] = {
    {.name = "raw", .granule = 1, .mapped = true},
    {.name = "qcow2", .granule = 1, .backing = true, .mapped = true, .checked = true},
    {.name = "vmdk", .granule = 1, .backing = true, .mapped = true, .checked = true},
    {.name = "vpc", .granule = 1, .mapped = true},
    {.name = "vhdx", .granule = MIB, .checked = true},
    {.name = "vdi", .granule = 512, .mapped = true, .checked = true},
    {.name = "qcow", .granule = 1, .backing = true},
    {.name = "qed", .granule = 512, .backing = true, .checked = true},
    {.name = "parallels", .granule = 1, .checked = true},
};

static const struct {
    size_t off, len;
    const char *bytes, *format;
} magics[] = {
    {0, 8, "QFI\xfb\0\0\0\1", "qcow"},
    {0, 4, "QFI\xfb", "qcow2"},
    {0, 4, "KDMV", "vmdk"},
    {0, 4, "COWD", "vmdk"},
    {0, 21, "# Disk DescriptorFile", "vmdk"},
    {0, 8, "version=", "vmdk"},
    {0, 8, "conectix", "vpc"},
    {0, 8, "vhdxfile", "vhdx"},
    {64, 4, "\x7f\x10\xda\xbe", "vdi"},
    {0, 4, "QED\0", "qed"},
    {0, 16, "WithoutFreeSpace", "parallels"},
    {0, 16, "WithouFreSpacExt", "parallels"},
    {0, 6, "LUKS\xba\xbe", "luks"},
};

const struct image_format *image_format_find(const char *name)
{
    if (strcmp(name, "vhd") == 0)
        name = "vpc";
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

void image_probe_done(struct image_probe *p)
{
    str_free(p->vmdk_descriptor);
    p->vmdk_descriptor = NULL;
}

// The first and last sector, zeros where the file is shorter.
struct ends {
    uint64_t size;
    uint8_t first[SECTOR], last[SECTOR];
};

static int ends_read(int fd, const char *path, uint64_t part_off, uint64_t part_len,
                     struct ends *ret, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "read %s", path);
    uint64_t size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) < 0)
        return err_errno(e, errno, "size of %s", path);
    uint64_t end;
    if (part_off != 0 || part_len != 0) {
        if (!add_fits(part_off, part_len, &end) || end > size)
            return err_set(e, ERR_REFUSED,
                           "%s has %" PRIu64 " bytes; the part of %" PRIu64
                           " bytes at %" PRIu64 " does not lie in it: it was truncated",
                           path, size, part_len, part_off);
        size = part_len;
    }
    memset(ret, 0, sizeof(*ret));
    ret->size = size;
    size_t have = (size_t)min_u64(size, SECTOR);
    if (fd_pread(fd, ret->first, have, part_off) < 0 ||
        fd_pread(fd, ret->last, have, part_off + size - have) < 0)
        return err_errno(e, errno, "read %s", path);
    return 0;
}

// A file named like an image without its magic number has lost its beginning or end; to
// read that as raw would be to copy rubbish.
static int check_name(const char *path, struct err *e)
{
    static const char *const names[][2] = {
        {".qcow2", "qcow2"}, {".vmdk", "VMDK"}, {".vhd", "VHD"},
        {".vhdx", "VHDX"},   {".vdi", "VDI"},   {".qed", "QED"},
    };
    const char *dot = strrchr(path_base(path), '.');
    for (size_t i = 0; dot != NULL && i < ARRAY_LEN(names); i++)
        if (strcasecmp(dot, names[i][0]) == 0)
            return err_set(e, ERR_REFUSED,
                           "%s is named like a %s and is none: truncated or corrupt (the "
                           "format raw takes it as it is)",
                           path, names[i][1]);
    return 0;
}

static const char *format_by_magic(const struct ends *ends, const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(magics); i++)
        if (memcmp(ends->first + magics[i].off, magics[i].bytes, magics[i].len) == 0)
            return magics[i].format;
    // Only by both: a raw disk may end with anything.
    bool named = str_ends(path, ".vhd") || str_ends(path, ".VHD");
    return named && memcmp(ends->last, "conectix", 8) == 0 ? "vpc" : "raw";
}

// VHD (Microsoft, Virtual Hard Disk Image Format Specification 1.0): the footer's disk
// type is a big-endian number at offset 60: 2 fixed, 3 dynamic, 4 differencing.
static int check_vpc(const struct ends *ends, const char *path, struct err *e)
{
    bool at_end = memcmp(ends->last, "conectix", 8) == 0;
    bool at_start = memcmp(ends->first, "conectix", 8) == 0;
    const uint8_t *footer = at_end ? ends->last : ends->first;
    if (!at_end && !at_start)
        return err_set(e, ERR_REFUSED, "%s has no VHD footer: it was truncated", path);
    if (!at_end)
        return err_set(e, ERR_REFUSED,
                       "%s does not end with a VHD footer: it was truncated", path);
    uint32_t type = get_be32(footer + 60);
    if (type == 4)
        return err_set(e, ERR_REFUSED,
                       "%s is a differencing VHD; merge it into its parent first", path);
    if (type != 2 && type != 3)
        return err_set(e, ERR_REFUSED, "%s is a VHD of unknown type %u", path, type);
    if (type == 3 && !at_start)
        return err_set(e, ERR_REFUSED, "%s is corrupt: its VHD header is missing", path);
    return 0;
}

// QCOW2 (docs/interop/qcow2.txt): incompatible features at 72 from version 3 on, bit 2:
// external data file; the encryption method at 32.
static int check_qcow2(const struct ends *ends, const char *path, struct image_probe *p,
                       struct err *e)
{
    if (get_be32(ends->first + 32) != 0)
        return err_set(e, ERR_REFUSED, "%s is encrypted; decrypt it with qemu-img first",
                       path);
    if (get_be32(ends->first + 4) >= 3)
        p->data_file = (get_be64(ends->first + 72) & 4) != 0;
    return 0;
}

// A sparse VMDK of capacity 0 keeps a descriptor that names further files somewhere else
// in the file (nobody writes these); everything else with a magic number is one file.
// What has none is a descriptor to QEMU, up to its first NUL.
static int check_vmdk(int fd, const struct ends *ends, const char *path,
                      uint64_t part_off, struct image_probe *p, struct err *e)
{
    if (memcmp(ends->first, "KDMV", 4) == 0 && get_le64(ends->first + 12) == 0)
        return err_set(e, ERR_REFUSED, "%s is a VMDK without capacity", path);
    if (memcmp(ends->first, "KDMV", 4) == 0 || memcmp(ends->first, "COWD", 4) == 0)
        return 0;
    if (ends->size > DESCRIPTOR_MAX)
        return err_set(e, ERR_REFUSED, "%s is no VMDK, or a corrupt one", path);
    AUTO(str_free) char *text = xcalloc(1, (size_t)ends->size + 1);
    if (fd_pread(fd, text, (size_t)ends->size, part_off) < 0)
        return err_errno(e, errno, "read %s", path);
    p->vmdk_descriptor = steal(text);
    return 0;
}

int image_probe(int fd, const char *path, uint64_t part_off, uint64_t part_len,
                const char *format, struct image_probe *ret, struct err *e)
{
    AUTO(image_probe_done) struct image_probe p = {0};
    struct ends ends = {0};
    if (ends_read(fd, path, part_off, part_len, &ends, e) < 0)
        return -1;
    if (ends.size == 0)
        return err_set(e, ERR_REFUSED, "%s is empty", path);
    const char *name = format != NULL ? format : format_by_magic(&ends, path);
    if (strcmp(name, "luks") == 0)
        return err_set(
            e, ERR_REFUSED,
            "%s is LUKS-encrypted; for a guest's own LUKS disk state the format "
            "raw",
            path);
    p.format = image_format_find(name);
    p.size = ends.size;
    if (p.format == NULL)
        return err_set(e, ERR_REFUSED,
                       "%s: images of the format \"%s\" are not supported", path, name);
    name = p.format->name;
    if (format == NULL && strcmp(name, "raw") == 0 && check_name(path, e) < 0)
        return -1;
    if (ends.size % p.format->granule != 0)
        return err_set(e, ERR_REFUSED,
                       "%s has %" PRIu64 " bytes, no multiple of %u: it was truncated",
                       path, ends.size, p.format->granule);
    if (strcmp(name, "vpc") == 0 && check_vpc(&ends, path, e) < 0)
        return -1;
    if (strcmp(name, "qcow2") == 0 && check_qcow2(&ends, path, &p, e) < 0)
        return -1;
    if (strcmp(name, "vmdk") == 0 && check_vmdk(fd, &ends, path, part_off, &p, e) < 0)
        return -1;
    *ret = p;
    p.vmdk_descriptor = NULL;
    return 0;
}

// --- the extent lines of a VMDK descriptor:  ACCESS SECTORS TYPE ["NAME" [FIRST…]]
//
// QEMU scans them with sscanf, for which a line's end is white space like any other. So
// whatever begins like such a line but is not whole is refused, lest QEMU read a name
// from the next line that was not checked.

#define WHITE " \t\r\v\f"

// The next word, NULL at the end of the line; moves *at behind it.
static char *next_word(char **at)
{
    char *word = *at + strspn(*at, WHITE);
    if (*word == '\0')
        return NULL;
    bool quoted = *word == '"';
    word += quoted;
    size_t n = strcspn(word, quoted ? "\"" : WHITE);
    *at = word + n + (word[n] != '\0');
    word[n] = '\0';
    return word;
}

static bool is_extent_line(const char *line)
{
    static const char *const words[] = {"RW", "RDONLY", "NOACCESS"};
    line += strspn(line, WHITE);
    size_t n = strcspn(line, WHITE);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (n == strlen(words[i]) && memcmp(line, words[i], n) == 0)
            return true;
    return false;
}

static bool is_plain_name(const char *name)
{
    size_t n = 0;
    while (name[n] != '\0' && (unsigned char)name[n] >= ' ')
        n++;
    return n > 0 && n <= 500 && name[n] == '\0'; // QEMU cuts names at 511
}

static int extent_line(char *line, const char *what, char **ret_name, uint64_t *ret_need,
                       struct err *e)
{
    char *at = line;
    (void)next_word(&at);
    char *sectors = next_word(&at), *type = next_word(&at), *name = next_word(&at);
    char *first = next_word(&at);
    uint64_t n_sectors, n_first = 0;
    const uint64_t most = IMAGE_SIZE_MAX / SECTOR;
    if (sectors == NULL || type == NULL || str_to_u64(sectors, &n_sectors) < 0 ||
        n_sectors > most ||
        (first != NULL && (str_to_u64(first, &n_first) < 0 || n_first > most)))
        return err_set(e, ERR_REFUSED, "%s: its extent description is corrupt", what);
    bool flat = strcmp(type, "FLAT") == 0 || strcmp(type, "VMFS") == 0;
    bool empty = strcmp(type, "ZERO") == 0;
    if (!flat && !empty && strcmp(type, "SPARSE") != 0 &&
        strcmp(type, "VMFSSPARSE") != 0 && strcmp(type, "SESPARSE") != 0)
        return err_set(e, ERR_REFUSED, "%s: extents of the type \"%s\" are not supported",
                       what, type);
    if (!empty && (name == NULL || !is_plain_name(name)))
        return err_set(e, ERR_REFUSED, "%s: an extent without a proper file name", what);
    *ret_name = empty ? NULL : name;
    *ret_need = flat ? (n_sectors + n_first) * SECTOR : SECTOR;
    return 0;
}

int vmdk_extents(const char *text, const char *what,
                 int (*found)(void *context, const char *name, uint64_t need,
                              struct err *e),
                 void *context, struct err *e)
{
    unsigned n = 0;
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        AUTO(str_free) char *line = xstrndup(text, len);
        text += len + (text[len] != '\0');
        if (!is_extent_line(line))
            continue;
        char *name = NULL;
        uint64_t need = 0;
        if (extent_line(line, what, &name, &need, e) < 0)
            return -1;
        if (++n > IMAGE_FILES_MAX)
            return err_set(e, ERR_REFUSED, "%s: more than %u extents", what,
                           IMAGE_FILES_MAX);
        if (found(context, name, need, e) < 0)
            return -1;
    }
    if (n == 0)
        return err_set(e, ERR_REFUSED, "%s: a VMDK descriptor without extents", what);
    return 0;
}
