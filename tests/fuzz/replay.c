// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over the files of the given folders, and over cuts of each: a parser
// that believes a length reads past the end of the shortened input, which a sanitizer or
// valgrind sees. Fails without any file: a corpus that was lost proves nothing.
#include "../unit/tap.h"
#include "base/base.h"
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#define INPUT_MAX (64 * MIB)
#define CUTS 16

// A block of exactly `size` bytes, so that one byte too far is seen.
static void run(const void *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_file(const char *path)
{
    struct err e = {0};
    AUTO(buf_done) struct buf b = BUF_INIT(INPUT_MAX);
    if (file_read(path, &b, &e) < 0) {
        ok(false, "%s: %s", path, e.text);
        return;
    }
    for (size_t i = 0; i <= CUTS; i++)
        run(b.data, b.len / CUTS * i);
    run(b.data, b.len);
    ok(true, "%s", path_base(path));
}

static size_t run_dir(const char *path)
{
    struct dirent **names = NULL;
    size_t n_files = 0;
    int n = scandir(path, &names, NULL, alphasort);
    if (n < 0)
        ok(false, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        AUTO(str_free) char *file = path_join(path, names[i]->d_name);
        struct stat st;
        if (stat(file, &st) == 0 && S_ISREG(st.st_mode)) {
            run_file(file);
            n_files++;
        }
        free(names[i]);
    }
    free(names);
    return n_files;
}

int main(int argc, char **argv)
{
    size_t n = 0;
    run("", 0);
    for (int i = 1; i < argc; i++)
        n += run_dir(argv[i]);
    ok(n > 0, "there is a corpus (%zu files)", n);
    return done_testing();
}
