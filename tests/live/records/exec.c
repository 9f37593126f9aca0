// SPDX-License-Identifier: Apache-2.0
// A root shell for tests: `exec` in the guest, on a TCP port and on a serial line, `run`
// and `push` outside. The serial line works while the guest's network does not.
//
//   request   run TOKEN LEN                 LEN bytes of a shell's command
//             put TOKEN LEN MODE PATH       LEN bytes of a file; MODE octal
//   reply     out TOKEN LEN                 LEN bytes of output, any number of times
//             exit TOKEN CODE               the end
//
// Headers are lines, with an empty line before: a serial line may still carry bytes of a
// conversation whose client has gone, and the token tells them apart.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define TOKEN 24
#define COMMAND_MAX 65536
#define STALL_MS 10000 // in the middle of a request
#define SIGNALLED 128  // as shells say it

// --- both ends

static bool read_some(int fd, void *buf, size_t *len, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, timeout_ms) <= 0)
        return false;
    ssize_t n = read(fd, buf, *len);
    if (n <= 0)
        return false;
    *len = (size_t)n;
    return true;
}

static bool read_whole(int fd, void *buf, size_t len)
{
    for (size_t have = 0, n; have < len; have += n) {
        n = len - have;
        if (!read_some(fd, (uint8_t *)buf + have, &n, STALL_MS))
            return false;
    }
    return true;
}

// A line without its end, cut to fit; false: the peer has gone.
static bool read_line(int fd, char *line, size_t room)
{
    size_t len = 0;
    for (;;) {
        char c;
        size_t one = 1;
        if (!read_some(fd, &c, &one, -1))
            return false;
        if (c == '\n')
            break;
        if (len + 1 < room)
            line[len++] = c;
    }
    line[len] = 0;
    return true;
}

static bool send_header(int fd, const char *what, const char *token, unsigned n)
{
    char line[96];
    int len = snprintf(line, sizeof(line), "\n%s %s %u\n", what, token, n);
    return send_all(fd, line, (size_t)len);
}

// --- in the guest

static pid_t start(const char *command, int out)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    setsid();
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    signal(SIGPIPE, SIG_DFL);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

// Until the command itself has ended: what it left in the background may keep the pipe.
static bool relay(int fd, const char *token, pid_t pid, int pipe, int *ret_status)
{
    for (bool ended = false;;) {
        char buf[16384];
        size_t n = sizeof(buf);
        if (read_some(pipe, buf, &n, ended ? 0 : 50)) {
            if (!send_header(fd, "out", token, (unsigned)n) || !send_all(fd, buf, n))
                return false;
            continue;
        }
        if (ended)
            return true;
        ended = waitpid(pid, ret_status, WNOHANG) == pid;
    }
}

static bool run_command(int fd, const char *token, const char *command)
{
    int ends[2], status = 0;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return false;
    (void)fcntl(ends[1], F_SETFL, 0);
    pid_t pid = start(command, ends[1]);
    close(ends[1]);
    bool there = pid > 0 && relay(fd, token, pid, ends[0], &status);
    close(ends[0]);
    if (pid > 0 && !there) {
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : SIGNALLED + WTERMSIG(status);
    return there && send_header(fd, "exit", token, (unsigned)code);
}

static bool put_file(int fd, const char *token, size_t len, unsigned mode,
                     const char *path)
{
    char new[512], buf[16384];
    (void)snprintf(new, sizeof(new), "%s.new", path);
    int file = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = file >= 0 && fchmod(file, mode) == 0;
    while (len) { // all of it, whatever becomes of the file
        size_t n = len < sizeof(buf) ? len : sizeof(buf);
        if (!read_some(fd, buf, &n, STALL_MS))
            break;
        good = good && write(file, buf, n) == (ssize_t)n;
        len -= n;
    }
    if (file >= 0)
        good = close(file) == 0 && good;
    good = good && !len && rename(new, path) == 0;
    return !len && send_header(fd, "exit", token, good ? 0 : 1);
}

// One request; false: the peer has gone, or talks nonsense.
static bool answer(int fd)
{
    static char command[COMMAND_MAX + 1];
    char line[512], token[TOKEN], path[400];
    unsigned len, mode;
    if (!read_line(fd, line, sizeof(line)))
        return false;
    if (sscanf(line, "run %23s %u", token, &len) == 2 && len <= COMMAND_MAX) {
        command[len] = 0;
        return read_whole(fd, command, len) && run_command(fd, token, command);
    }
    if (sscanf(line, "put %23s %u %o %399s", token, &len, &mode, path) == 4)
        return put_file(fd, token, len, mode, path);
    return true;
}

static noreturn void serve_serial(const char *device)
{
    for (;; sleep(1)) {
        struct termios t;
        int fd = open(device, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (tcgetattr(fd, &t) == 0) {
            cfmakeraw(&t);
            t.c_cflag |= CLOCAL;
            cfsetspeed(&t, B115200);
            (void)tcsetattr(fd, TCSANOW, &t);
        }
        while (answer(fd))
            ;
        close(fd);
    }
}

int cmd_exec(int argc, char **argv)
{
    usage_if(argc > 3, "exec [PORT [SERIAL-DEVICE]]   7778");
    signal(SIGPIPE, SIG_IGN);
    if (argc > 2 && fork() == 0)
        serve_serial(argv[2]);
    int listener = tcp_listen(argc > 1 ? argv[1] : "7778");
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (fd >= 0 && fork() == 0) {
            close(listener);
            while (answer(fd))
                ;
            _exit(0);
        }
        if (fd >= 0)
            close(fd);
    }
}

// --- outside

static int ask(const char *where, char token[static TOKEN])
{
    uint64_t r;
    if (getrandom(&r, sizeof(r), 0) != sizeof(r))
        die("no random numbers");
    (void)snprintf(token, TOKEN, "%016llx", (unsigned long long)r);
    int fd = stream_connect(where, 3000);
    if (fd < 0)
        die("%s: %s", where, strerror(errno));
    (void)fcntl(fd, F_SETFL, 0);
    return fd;
}

// Prints the output and returns the exit code.
static int hear(int fd, const char *where, const char *token)
{
    char line[512], what[8], said[TOKEN], buf[16384];
    unsigned n;
    while (read_line(fd, line, sizeof(line))) {
        if (sscanf(line, "%7s %23s %u", what, said, &n) != 3 || strcmp(said, token) != 0)
            continue;
        if (strcmp(what, "exit") == 0)
            return (int)n;
        if (n > sizeof(buf) || !read_whole(fd, buf, n))
            break;
        write_all(STDOUT_FILENO, buf, n);
    }
    die("%s: no answer", where);
}

int cmd_run(int argc, char **argv)
{
    usage_if(argc != 3, "run ADDRESS:PORT|SOCKET COMMAND");
    char token[TOKEN], line[96];
    int fd = ask(argv[1], token);
    size_t len = strlen(argv[2]);
    (void)snprintf(line, sizeof(line), "\nrun %s %zu\n", token, len);
    if (len > COMMAND_MAX || !send_all(fd, line, strlen(line)) ||
        !send_all(fd, argv[2], len))
        die("%s: the command was not sent", argv[1]);
    return hear(fd, argv[1], token);
}

int cmd_push(int argc, char **argv)
{
    usage_if(argc != 4, "push ADDRESS:PORT|SOCKET FILE PATH-IN-THE-GUEST");
    char token[TOKEN], line[512], buf[16384];
    struct stat st;
    int file = open(argv[2], O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &st) < 0)
        die("%s: %s", argv[2], strerror(errno));
    int fd = ask(argv[1], token);
    (void)snprintf(line, sizeof(line), "\nput %s %llu %o %s\n", token,
                   (unsigned long long)st.st_size, st.st_mode & 07777, argv[3]);
    bool sent = send_all(fd, line, strlen(line));
    for (uint64_t left = (uint64_t)st.st_size; sent && left;) {
        ssize_t n = read(file, buf, left < sizeof(buf) ? (size_t)left : sizeof(buf));
        if (n <= 0)
            die("%s: it became shorter", argv[2]);
        sent = send_all(fd, buf, (size_t)n);
        left -= (uint64_t)n;
    }
    if (!sent)
        die("%s: the file was not sent", argv[1]);
    close(file);
    return hear(fd, argv[1], token);
}
