// SPDX-License-Identifier: Apache-2.0
// vm/ by hand, for the tests here. Steps in order; each prints one line of JSON:
//   vm-tool [start | file SERIAL PATH FORMAT rw|ro | nbd SERIAL SOCKET rw|ro |
//            remove SERIAL | get PATH | call PATH JSON | wait SECONDS]…
// After "try" a step's error is printed like an answer, and the next one follows.
//   vm-tool rehearse DISK FORMAT bios|uefi RUN-DIR SECONDS EXPECT ADDRESS PORT PICTURE
// ("-" for an option that is not given). An error goes to stderr, its code is the exit
// code.
#include <stdio.h>
#include <unistd.h>

#include "vm/vm.h"

static int print(json_t *j /* taken */)
{
    AUTO(json_free) json_t *owned = j;
    AUTO(str_free) char *text = json_text(owned);
    printf("%s\n", text);
    fflush(stdout);
    return 0;
}

static int start(struct appliance **a, struct err *e)
{
    struct appliance_options options = {.memory = getenv("VM_MEMORY") ? 2 * GIB : 0};
    if (appliance_start(&options, a, e) < 0)
        return -1;
    return print(json_pack("{s:I}", "boot_ms", (json_int_t)appliance_boot_ms(*a)));
}

static int call(struct appliance *a, const char *path, const char *text, struct err *e)
{
    AUTO(json_free) json_t *request = NULL;
    AUTO(json_free) json_t *reply = NULL;
    if (text && json_parse(text, strlen(text), "the request", &request, e) < 0)
        return -1;
    uint64_t begin = clock_ms();
    if (appliance_call(a, path, request, 300000, &reply, e) < 0)
        return -1;
    fprintf(stderr, "# %s: %llu ms\n", path, (unsigned long long)(clock_ms() - begin));
    return reply ? print(json_incref(reply)) : 0;
}

// One step; *i moves behind it.
static int step(struct appliance **a, char **argv, int *i, int argc, struct err *e)
{
    const char *what = argv[(*i)++];
    int left = argc - *i;
    char **arg = argv + *i;
    struct vm_disk d = {.format = "raw", .bus = "scsi"};
    uint64_t seconds = 0;
    if (strcmp(what, "start") == 0)
        return start(a, e);
    if (strcmp(what, "file") == 0 && left >= 4) {
        *i += 4;
        d.serial = arg[0];
        d.path = arg[1];
        d.format = arg[2];
        d.read_only = strcmp(arg[3], "ro") == 0;
        return appliance_add_disk(*a, &d, e);
    }
    if (strcmp(what, "nbd") == 0 && left >= 3) {
        *i += 3;
        d.serial = arg[0];
        d.socket = arg[1];
        d.read_only = strcmp(arg[2], "ro") == 0;
        return appliance_add_disk(*a, &d, e);
    }
    if (strcmp(what, "remove") == 0 && left >= 1) {
        *i += 1;
        return appliance_remove_disk(*a, arg[0], e);
    }
    if (strcmp(what, "get") == 0 && left >= 1) {
        *i += 1;
        return call(*a, arg[0], NULL, e);
    }
    if (strcmp(what, "call") == 0 && left >= 2) {
        *i += 2;
        return call(*a, arg[0], arg[1], e);
    }
    if (strcmp(what, "wait") == 0 && left >= 1 && str_to_u64(arg[0], &seconds) == 0) {
        *i += 1;
        sleep((unsigned)seconds);
        return 0;
    }
    return err_set(e, ERR_USAGE, "no step %s with these arguments", what);
}

static const char *given(const char *s)
{
    return strcmp(s, "-") == 0 ? NULL : s;
}

static int run_rehearsal(char **arg, struct err *e)
{
    uint64_t seconds = 0, port = 0;
    struct machine_nic nic = {0};
    struct machine m = {.name = "test",
                        .cpus = 2,
                        .memory = GIB,
                        .nics = &nic,
                        .n_nics = 1,
                        .firmware =
                            strcmp(arg[2], "uefi") == 0 ? FIRMWARE_UEFI : FIRMWARE_BIOS};
    struct vm_disk d = {
        .path = arg[0], .format = arg[1], .serial = "vda", .discard_writes = true};
    if (str_to_u64(arg[4], &seconds) < 0 ||
        (given(arg[7]) && str_to_u64(arg[7], &port) < 0))
        return err_set(e, ERR_USAGE, "not a number: %s or %s", arg[4], arg[7]);
    struct rehearsal_options options = {.machine = &m,
                                        .disks = &d,
                                        .n_disks = 1,
                                        .accel = ACCEL_AUTO,
                                        .timeout_ms = seconds * 1000,
                                        .expect = given(arg[5]),
                                        .address = given(arg[6]),
                                        .port = (unsigned)port,
                                        .run_dir = arg[3],
                                        .picture = given(arg[8])};
    struct rehearsal r = {0};
    if (rehearse(&options, &r, e) < 0)
        return -1;
    print(rehearsal_json(&r));
    rehearsal_done(&r);
    return 0;
}

static int run(int argc, char **argv, struct err *e)
{
    AUTO(appliance_end) struct appliance *a = NULL;
    if (argc == 11 && strcmp(argv[1], "rehearse") == 0)
        return run_rehearsal(argv + 2, e);
    for (int i = 1; i < argc;) {
        if (!a && strcmp(argv[i], "start") != 0)
            return err_set(e, ERR_USAGE, "start comes first");
        bool try = strcmp(argv[i], "try") == 0 && i + 1 < argc;
        i += try;
        if (step(&a, argv, &i, argc, e) == 0)
            continue;
        if (!try)
            return -1;
        print(json_pack("{s:s, s:i}", "error", e->text, "code", (int)e->code));
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    cancel_setup();
    if (run(argc, argv, &e) == 0)
        return 0;
    fprintf(stderr, "vm-tool: %s\n", e.text);
    return (int)e.code;
}
