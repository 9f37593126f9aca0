// SPDX-License-Identifier: Apache-2.0
// usage: refuse CALL[,CALL…]|3.10|none COMMAND [ARGUMENT…]
// Runs a command for which the kernel has not these system calls (ENOSYS), by a seccomp
// filter. 3.10: nor any that came after this version of Linux, nor what came later as a
// flag of an older one (O_TMPFILE; it then is O_DIRECTORY, which cannot be written).
//
// What surprises: libcrypto reads /dev/urandom in place of getrandom() only where the
// kernel calls itself older than 4.8. So it does (2.6.x, as it can for old programs).
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_OF_3_10 313 // finit_module
#define MAX_FILTER 64
#define TMPFILE_ALONE (O_TMPFILE & ~O_DIRECTORY)

static const struct {
    const char *name;
    unsigned number;
} calls[] = {
    {"bpf", SYS_bpf},
    {"clone3", SYS_clone3},
    {"close_range", SYS_close_range},
    {"copy_file_range", SYS_copy_file_range},
    {"execveat", SYS_execveat},
    {"faccessat2", SYS_faccessat2},
    {"fsopen", SYS_fsopen},
    {"getrandom", SYS_getrandom},
    {"io_uring_setup", SYS_io_uring_setup},
    {"membarrier", SYS_membarrier},
    {"memfd_create", SYS_memfd_create},
    {"mlock2", SYS_mlock2},
    {"openat2", SYS_openat2},
    {"perf_event_open", SYS_perf_event_open},
    {"pidfd_open", SYS_pidfd_open},
    {"preadv2", SYS_preadv2},
    {"renameat2", SYS_renameat2},
    {"rseq", SYS_rseq},
    {"statx", SYS_statx},
};

static struct sock_filter filter[MAX_FILTER];
static unsigned short n_filter;

static void add(struct sock_filter f)
{
    filter[n_filter++] = f;
}

static void load(size_t field)
{
    add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)field));
}

static void fail(int error)
{
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
                                     SECCOMP_RET_ERRNO | (unsigned)error));
}

static void refuse_version(void)
{
    add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST_OF_3_10, 0, 1));
    fail(ENOSYS);
    add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 4));
    load(offsetof(struct seccomp_data, args[2]));
    add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TMPFILE_ALONE, 0, 1));
    fail(EISDIR);
    load(offsetof(struct seccomp_data, nr));
}

static int refuse_one(const char *name)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (strcmp(calls[i].name, name) != 0)
            continue;
        add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0,
                                         1));
        fail(ENOSYS);
        return 0;
    }
    return -1;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        (void)fprintf(stderr, "usage: refuse CALL[,CALL…]|3.10|none COMMAND…\n");
        return 2;
    }
    load(offsetof(struct seccomp_data, nr));
    for (char *list = argv[1], *name; (name = strsep(&list, ",")) != NULL;) {
        if (strcmp(name, "3.10") == 0) {
            refuse_version();
        } else if (strcmp(name, "none") != 0 &&
                   (n_filter > MAX_FILTER - 10 || refuse_one(name) < 0)) {
            (void)fprintf(stderr, "refuse: %s is not known\n", name);
            return 2;
        }
    }
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {n_filter, filter};
    if (personality(PER_LINUX | UNAME26) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        perror("refuse: seccomp");
        return 1;
    }
    (void)execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
