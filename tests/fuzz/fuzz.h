// SPDX-License-Identifier: Apache-2.0
// A fuzz target is fuzz-NAME.c with this one function and a row in meson.build. `meson
// test` links it with replay.c, which runs every file of corpus/NAME; `tools/fuzz NAME
// SECONDS` links it with libFuzzer. The function returns 0, whatever the input is; what
// it finds it reports by assert() or by a sanitizer.
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The input as a descriptor, at its start; close it.
__attribute__((unused)) static int fuzz_fd(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size) ||
        lseek(fd, 0, SEEK_SET) != 0)
        abort();
    return fd;
}
