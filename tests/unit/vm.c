// SPDX-License-Identifier: Apache-2.0
// vm/ without QEMU: its command line, and QMP against scripted answers.
#include "vm/internal.h"

#include <sys/socket.h>
#include <unistd.h>

#include "tap.h"

// A connection on which `script` was already said; qmp reads from it.
static void scripted(struct qmp *q, int *ret_other, const char *script)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ||
        fd_write(ends[1], script, strlen(script)) < 0)
        abort();
    qmp_init(q, ends[0]);
    *ret_other = ends[1];
}

static void test_qmp(void)
{
    struct qmp q;
    struct err e = {0};
    int other;
    scripted(&q, &other, "{\"QMP\": {}}\r\n{\"return\": {}}\r\n");
    ok(qmp_hello(&q, 1000, &e) == 0, "the greeting is taken");
    static const char answer[] =
        "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"d-one\"}}\r\n"
        "{\"event\": \"RESUME\"}\r\n{\"return\": {\"n\": 7}}\r\n";
    AUTO(json_free) json_t *reply = NULL;
    (void)fd_write(other, answer, strlen(answer)); // a full socket would show below
    ok(qmp_call(&q, "query", NULL, 1000, &reply, &e) == 0 &&
           json_integer_value(json_object_get(reply, "n")) == 7,
       "an answer is found behind events");
    ok(qmp_wait_deleted(&q, "d-one", 1000, &e) == 0, "an event that came early counts");
    ok(qmp_wait_deleted(&q, "d-two", 50, &e) < 0 && e.code == ERR_RETRY,
       "one that does not come ends with the timeout");
    close(other);
    ok(qmp_call(&q, "query", NULL, 1000, NULL, &e) < 0 && e.code == ERR_FAILED,
       "QEMU's end is an error");
    qmp_done(&q);
}

static void one_answer(const char *script, enum err_code code, const char *name)
{
    struct qmp q;
    struct err e = {0};
    int other;
    scripted(&q, &other, script);
    ok(qmp_call(&q, "blockdev-add", NULL, 200, NULL, &e) < 0 && e.code == code, "%s: %s",
       name, e.text);
    close(other);
    qmp_done(&q);
}

static void test_qmp_errors(void)
{
    one_answer("{\"error\": {\"class\": \"GenericError\", \"desc\": \"Failed to get "
               "\\\"write\\\" lock\"}}\n",
               ERR_REFUSED, "a disk in use is refused");
    one_answer("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
               ERR_FAILED, "an error is one");
    one_answer("nonsense\n", ERR_FAILED, "what is not JSON");
    one_answer("", ERR_RETRY, "silence");
    struct qmp q;
    struct err e = {0};
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        static char junk[64 * 1024];
        signal(SIGPIPE, SIG_IGN);
        close(ends[0]);
        memset(junk, 'x', sizeof(junk));
        for (int i = 0; i < 40 && fd_write(ends[1], junk, sizeof(junk)) == 0; i++)
            ;
        _exit(0);
    }
    close(ends[1]);
    qmp_init(&q, ends[0]);
    ok(qmp_call(&q, "query", NULL, 5000, NULL, &e) < 0 && strstr(e.text, "more than"),
       "a line without end has a ceiling");
    qmp_done(&q);
}

static bool refuses(struct vm_disk d)
{
    struct err e = {0};
    return vm_check_disk(&d, &e) < 0;
}

static void test_disks(void)
{
    struct vm_disk good = {.path = "/a", .format = "raw", .serial = "one"}, d = good;
    ok(!refuses(good), "a disk is fine");
    d.format = "vmdk";
    ok(refuses(d), "no format that QEMU would parse for us");
    d = good;
    d.serial = "a,b";
    ok(refuses(d), "no separator in a serial number");
    d.serial = "123456789012345678901";
    ok(refuses(d), "no serial number of 21 characters");
    d = good;
    d.socket = "/s";
    ok(refuses(d), "not both a file and an export");
    d = good;
    d.sector_size = 520;
    ok(refuses(d), "no sectors of 520 bytes");
    d = good;
    d.bus = "floppy";
    ok(refuses(d), "no unknown bus");
    good.path = "/a,b \"c\".raw";
    good.read_only = true;
    AUTO(json_free) json_t *node = vm_blockdev(&good, "d-one");
    is_str(json_string_value(json_object_get(json_object_get(node, "file"), "filename")),
           good.path, "a path is data, whatever is in it");
    ok(json_is_true(json_object_get(node, "read-only")) &&
           json_is_true(json_object_get(json_object_get(node, "file"), "read-only")),
       "read-only at both layers");
}

static const char *after(const struct strings *s, const char *option)
{
    for (size_t i = 0; i + 1 < s->n; i++) {
        if (strcmp(s->v[i], option) == 0)
            return s->v[i + 1];
    }
    return NULL;
}

static void test_argv(void)
{
    struct vm_disk d = {.path = "/a", .format = "qcow2", .serial = "one", .bus = "sata"};
    struct vm_nic n = {.mac = "52:54:00:00:00:01", .net = "192.0.2.0/24"};
    struct vm_options o = {.name = "t",
                           .accel = ACCEL_TCG,
                           .cpus = 2,
                           .memory = GIB,
                           .disks = &d,
                           .n_disks = 1,
                           .nics = &n,
                           .n_nics = 1};
    struct vm_argv a = {.options = &o, .console = "/c,d", .qmp_fd = 5, .port_fd = -1};
    AUTO(strings_done) struct strings argv = {0};
    vm_make_argv(&a, &argv);
    ok(strings_have(&argv, "-nodefaults") && strings_have(&argv, "-no-user-config"),
       "nothing comes from elsewhere");
    ok(str_starts(after(&argv, "-sandbox"), "on,"), "the sandbox is on");
    is_str(after(&argv, "-accel"), "tcg", "the accelerator is the one chosen");
    ok(strstr(after(&argv, "-netdev"), "restrict=on") != NULL, "no way to a network");
    is_str(after(&argv, "-m"), "1024M", "memory");
    ok(strings_have(&argv, "file,id=console,path=/c,,d"), "a comma in a path is doubled");
    ok(strings_have(&argv, "ich9-ahci,id=ahci"), "a SATA disk has its controller");
}

int main(void)
{
    test_qmp();
    test_qmp_errors();
    test_disks();
    test_argv();
    return done_testing();
}
