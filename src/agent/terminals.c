// SPDX-License-Identifier: Apache-2.0
// Screen and serial consoles: whatever the kernel was given as console=, and the screen.
// What is printed stands on all of them; a line may be typed on any. They are never
// waited for long: nobody may be reading the serial one.
#include "agent/metal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#define WRITE_MS 2000 // a screenful at 9600 baud

static void set_echo(int fd, bool echo)
{
    struct termios io;
    if (tcgetattr(fd, &io) < 0)
        return;
    io.c_iflag |= ICRNL;
    io.c_oflag |= OPOST | ONLCR;
    io.c_lflag |= ICANON | ECHOE | ECHOK | ECHONL;
    io.c_lflag &= ~(tcflag_t)ISIG; // Ctrl-C is for nobody
    io.c_lflag = echo ? io.c_lflag | ECHO : io.c_lflag & ~(tcflag_t)ECHO;
    (void)tcsetattr(fd, TCSANOW, &io); // it worked for tcgetattr
}

static void add(struct terminals *t, const char *name)
{
    struct termios io;
    for (size_t i = 0; i < t->n; i++) {
        if (strcmp(t->v[i].name, name) == 0)
            return;
    }
    AUTO(str_free) char *path = path_join("/dev", name);
    AUTO(fd_close) int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    // A serial port without hardware can be opened, but has no settings.
    if (t->n == TERMINALS_MAX || fd < 0 || tcgetattr(fd, &io) < 0)
        return;
    set_echo(fd, true);
    struct terminal *new = &t->v[t->n++];
    *new = (struct terminal){.fd = steal_fd(&fd)};
    snprintf(new->name, sizeof(new->name), "%s", name);
}

void terminals_open(struct terminals *t)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    struct err ignored; // the screen remains
    char *save = NULL;
    *t = (struct terminals){0};
    add(t, "tty1");
    if (file_read("/sys/class/tty/console/active", &b, &ignored) || !b.data)
        return;
    for (char *name = strtok_r(b.data, " \n", &save); name;
         name = strtok_r(NULL, " \n", &save)) {
        if (strcmp(name, "tty0") != 0) // whichever is shown, which is tty1
            add(t, name);
    }
}

static void write_all(int fd, const char *text)
{
    uint64_t end = clock_ms() + WRITE_MS;
    for (size_t left = strlen(text); left > 0;) {
        ssize_t n = write(fd, text, left);
        if (n > 0) {
            text += n;
            left -= (size_t)n;
            continue;
        }
        uint64_t now = clock_ms();
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if ((n < 0 && errno != EAGAIN && errno != EINTR) || now >= end ||
            poll(&p, 1, (int)(end - now)) < 0)
            return;
    }
}

void terminals_print(struct terminals *t, const char *text)
{
    for (size_t i = 0; i < t->n; i++) {
        write_all(t->v[i].fd, t->question ? "\n" : "");
        write_all(t->v[i].fd, text);
        write_all(t->v[i].fd, t->question ? t->question : "");
    }
}

void terminals_ask(struct terminals *t, const char *question, bool secret)
{
    if (question == t->question)
        return;
    t->question = question;
    for (size_t i = 0; i < t->n; i++) {
        set_echo(t->v[i].fd, !secret);
        write_all(t->v[i].fd, question ? question : "");
    }
}

// Some terminals send Ctrl-H for backspace, which the kernel takes for a character.
static void erase(char *line)
{
    char *to = line;
    for (const char *from = line; *from; from++) {
        if (*from == '\b')
            to -= to > line;
        else
            *to++ = *from;
    }
    *to = '\0';
}

// What is there of a line; true when it is complete.
static bool read_line(struct terminal *t, char out[static LINE_MAX_LEN])
{
    char c;
    ssize_t n;
    while ((n = read(t->fd, &c, 1)) == 1 && c != '\n') {
        if (t->n + 1 < sizeof(t->line))
            t->line[t->n++] = c;
    }
    if (n != 1)
        return false;
    t->line[t->n] = '\0';
    t->n = 0;
    memcpy(out, t->line, LINE_MAX_LEN);
    erase(out);
    return true;
}

bool terminals_wait(struct terminals *t, int also, int timeout_ms,
                    char out[static LINE_MAX_LEN])
{
    struct pollfd p[TERMINALS_MAX + 1];
    for (size_t i = 0; i < t->n; i++)
        p[i] = (struct pollfd){.fd = t->v[i].fd, .events = POLLIN};
    p[t->n] = (struct pollfd){.fd = also, .events = POLLIN};
    if (poll(p, t->n + 1, timeout_ms) <= 0)
        return false;
    for (size_t i = 0; i < t->n; i++) {
        if ((p[i].revents & POLLIN) && read_line(&t->v[i], out)) {
            t->question = NULL; // answered
            return true;
        }
        if (p[i].revents & (POLLHUP | POLLERR | POLLNVAL)) {
            fd_close(t->v[i].fd);
            t->v[i] = t->v[--t->n];
            return false;
        }
    }
    return false;
}
