// SPDX-License-Identifier: Apache-2.0
// Two ends of a wire in one process: an authority, its own certificate and an agent's,
// connections over loopback.
#pragma once
#include "net/net.h"
#include "scratch.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/socket.h>

struct end {
    struct wire_options o;
    int tcp, fd; // fd: -1 when refused
    struct wire_peer peer;
    struct err e;
    bool good;
};

// pki/ with what pki_make makes, agent.key, agent.pem; agent_pin is the latter's.
static uint8_t agent_pin[PIN_LEN];
__attribute__((unused)) static void sign_agent(const char *dir, const char *name)
{
    struct err e = {0};
    AUTO(str_free) char *csr = NULL;
    AUTO(str_free) char *cert = NULL;
    char key[256], pem[256];
    (void)snprintf(key, sizeof(key), "%s/%s/%s.key", scratch, dir, name);
    (void)snprintf(pem, sizeof(pem), "%s/%s/%s.pem", scratch, dir, name);
    if (pki_make(in("%s", dir), &e) < 0 || pki_request(key, name, &csr, &e) < 0 ||
        pki_sign(in("%s", dir), csr, name, NULL, &cert, agent_pin, &e) < 0 ||
        file_write(pem, cert, strlen(cert), 0644, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
}
__attribute__((unused)) static struct tls *tls_of(const char *dir, const char *name,
                                                  const char *ca_dir)
{
    char key[256], pem[256], ca[256];
    struct err e = {0};
    struct tls *t = NULL;
    (void)snprintf(key, sizeof(key), "%s/%s/%s.key", scratch, dir, name);
    (void)snprintf(pem, sizeof(pem), "%s/%s/%s.pem", scratch, dir, name);
    (void)snprintf(ca, sizeof(ca), "%s/%s/ca.pem", scratch, ca_dir);
    if (tls_new(&(struct tls_options){key, pem, ca}, &t, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    return t;
}

__attribute__((unused)) static void listen_any(int *ret_fd, char **ret_address)
{
    struct err e = {0};
    if (tcp_listen("127.0.0.1:0", ret_fd, ret_address, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
}

static void *open_end(void *arg)
{
    struct end *x = arg;
    x->fd = -1;
    x->good = wire_open(x->tcp, &x->o, &x->peer, &x->fd, &x->e) == 0;
    return NULL;
}

// Both TCP ends of a new connection, the first under a limit that it expects; 0: none.
__attribute__((unused)) static void tcp_pair_under(uint64_t limit, int fds[2])
{
    struct err e = {0};
    AUTO(str_free) char *address = NULL;
    AUTO(fd_close) int listener = -1;
    listen_any(&listener, &address);
    if (tcp_connect(address, limit, 5000, &fds[0], &e) < 0 ||
        (fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
}
__attribute__((unused)) static void tcp_pair(int fds[2])
{
    tcp_pair_under(0, fds);
}
__attribute__((unused)) static bool open_pair(struct end *client, struct end *server)
{
    int fds[2];
    pthread_t thread;
    tcp_pair_under(rate_lowest(client->o.rate), fds);
    client->tcp = fds[0];
    server->tcp = fds[1];
    server->o.server = true;
    if (pthread_create(&thread, NULL, open_end, server) != 0)
        return false;
    open_end(client);
    pthread_join(thread, NULL);
    return client->good && server->good;
}

// Of /proc/self/fd or /proc/self/task.
__attribute__((unused)) static size_t entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    for (; d && readdir(d); n++) {
    }
    if (d)
        closedir(d);
    return n;
}
