// SPDX-License-Identifier: Apache-2.0
// A temporary folder with a kernel's modules, and depmod(8) run over it: the helper
// system's own program, never the guest's. Both /lib and /usr/lib lead to the modules,
// because where depmod looks below its base depends on the distribution.
#include "guest/initramfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

struct depmod {
    char *base, *version, *dir;
};

static bool safe_component(const char *s)
{
    return *s && !strchr(s, '/') && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

int depmod_new(const char *version, struct depmod **ret, struct err *e)
{
    if (!safe_component(version))
        return err_set(e, ERR_REFUSED, "'%s' is no kernel version", version);
    AUTO(depmod_free) struct depmod *d = xcalloc(1, sizeof(*d));
    if (dir_temp(&d->base, e))
        return -1;
    d->version = xstrdup(version);
    d->dir = xasprintf("%s/usr/lib/modules/%s", d->base, version);
    AUTO(str_free) char *link = path_join(d->base, "lib");
    if (dir_make(d->dir, 0755, e))
        return -1;
    if (symlink("usr/lib", link))
        return err_errno(e, errno, "cannot make %s", link);
    *ret = steal(d);
    return 0;
}

void depmod_free(struct depmod *d)
{
    if (!d)
        return;
    struct err ignored; // nothing depends on it, and there is nobody to tell
    if (d->base)
        (void)dir_remove(d->base, &ignored);
    free(d->base);
    free(d->version);
    free(d->dir);
    free(d);
}

// Names come from images: nothing but plain components may lead into the folder.
static int safe_path(const struct depmod *d, const char *path, char **ret, struct err *e)
{
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        AUTO(str_free) char *part = xstrndup(p, n);
        if (!safe_component(part))
            return err_set(e, ERR_REFUSED, "initramfs with a module called %s", path);
        p += n;
        p += *p == '/';
    }
    *ret = path_join(d->dir, path);
    return 0;
}

int depmod_file(struct depmod *d, const char *path, int *ret_fd, struct err *e)
{
    AUTO(str_free) char *full = NULL;
    if (safe_path(d, path, &full, e))
        return -1;
    AUTO(str_free) char *dir = path_dir(full);
    if (dir_make(dir, 0755, e))
        return -1;
    *ret_fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (*ret_fd < 0)
        return err_errno(e, errno, "cannot write %s", full);
    return 0;
}

bool depmod_has(struct depmod *d, const char *path)
{
    struct err ignored; // an unsafe name is not there
    AUTO(str_free) char *full = NULL;
    return safe_path(d, path, &full, &ignored) == 0 && access(full, F_OK) == 0;
}

int depmod_run(struct depmod *d, struct err *e)
{
    char *argv[] = {"depmod", "-b", d->base, d->version, NULL};
    if (proc_have("depmod", "kmod", e) || proc_run(argv, NULL, e))
        return err_wrap(e, "cannot index the modules of kernel %s", d->version);
    return 0;
}

static void dir_close(DIR *dir)
{
    if (dir)
        closedir(dir);
}
DEFINE_AUTO(dir_close, DIR *)

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int depmod_indexes(struct depmod *d, struct strings *ret, struct err *e)
{
    AUTO(dir_close) DIR *dir = opendir(d->dir);
    if (!dir)
        return err_errno(e, errno, "cannot read %s", d->dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (str_starts(entry->d_name, "modules."))
            strings_add(ret, entry->d_name);
    if (ret->n)
        qsort(ret->v, ret->n, sizeof(*ret->v), by_name);
    return 0;
}

int depmod_read(struct depmod *d, const char *path, struct buf *out, struct err *e)
{
    AUTO(str_free) char *full = NULL;
    if (safe_path(d, path, &full, e))
        return -1;
    return file_read(full, out, e);
}
