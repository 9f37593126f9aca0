// SPDX-License-Identifier: Apache-2.0
// What descriptions name outside of themselves: files, addresses, identifiers. Names come
// from strangers, so a file counts only if it lies below the description's own folder
// once links are resolved, or the operator said --allow-path.
#include "machine/reader.h"

#include <ctype.h>
#include <sys/stat.h>

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static bool is_there(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

// The candidate with links resolved if it is there; otherwise its namesake beside the
// description where the name was absolute; otherwise the candidate.
static int locate(const struct machine_options *options, const char *dir, const char *ref,
                  char **ret, struct err *e)
{
    // A platform that answers itself (volume_path) knows where its disks are.
    bool moved = ref[0] == '/' && !options->volume_path;
    AUTO(str_free) char *path = ref[0] == '/' ? xstrdup(ref) : path_join(dir, ref);
    if (moved && !is_there(path)) {
        AUTO(str_free) char *beside = path_join(dir, path_base(ref));
        if (is_there(beside)) {
            free(path);
            path = steal(beside);
        }
    }
    return path_real(path, ret, e);
}

int reference_resolve(const struct machine_options *options, const char *ref, char **ret,
                      struct err *e)
{
    if (!*ref || has_control(ref) || strlen(ref) > 4000)
        return err_set(e, ERR_REFUSED, "names a disk '%.100s', which is no file name",
                       ref);
    AUTO(str_free) char *folder = path_dir(options->path);
    AUTO(str_free) char *dir = NULL;
    if (path_real(folder, &dir, e) < 0)
        return -1;
    AUTO(str_free) char *path = NULL;
    struct err why;
    if (locate(options, dir, ref, &path, &why) < 0)
        return err_set(e, ERR_REFUSED, "names the disk %s, which is not there", ref);
    if (!options->allow_any_path && !path_under(path, dir))
        return err_set(
            e, ERR_REFUSED,
            "names the disk %s, which lies outside of %s; --allow-path if that "
            "is meant",
            ref, dir);
    if (!is_there(path))
        return err_set(e, ERR_REFUSED, "names the disk %s, which is not there", ref);
    *ret = steal(path);
    return 0;
}

char *machine_mac(const char *text)
{
    char hex[13] = "";
    size_t n = 0;
    for (; *text; text++) {
        if (*text == ':' || *text == '-' || *text == '.')
            continue;
        if (!isxdigit((unsigned char)*text) || n == 12)
            return NULL;
        hex[n++] = (char)tolower((unsigned char)*text);
    }
    if (n != 12)
        return NULL;
    return xasprintf("%.2s:%.2s:%.2s:%.2s:%.2s:%.2s", hex, hex + 2, hex + 4, hex + 6,
                     hex + 8, hex + 10);
}

char *reference_uuid(const char *text)
{
    char hex[33];
    size_t n = 0;
    for (; *text; text++) {
        if (strchr("- {}", *text))
            continue;
        if (!isxdigit((unsigned char)*text) || n == 32)
            return NULL;
        hex[n++] = (char)tolower((unsigned char)*text);
    }
    if (n != 32)
        return NULL;
    hex[32] = 0;
    return xasprintf("%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                     hex + 20);
}

const char *reference_format(const char *path)
{
    static const struct {
        const char *suffix, *format;
    } formats[] = {
        {".vmdk", "vmdk"}, {".qcow2", "qcow2"}, {".qcow", "qcow"}, {".vdi", "vdi"},
        {".vhdx", "vhdx"}, {".avhdx", "vhdx"},  {".vhd", "vpc"},   {".vpc", "vpc"},
        {".avhd", "vpc"},  {".raw", "raw"},
    };
    const char *dot = strrchr(path_base(path), '.');
    for (size_t i = 0; dot && i < ARRAY_LEN(formats); i++)
        if (strcasecmp(dot, formats[i].suffix) == 0)
            return formats[i].format;
    return NULL;
}
