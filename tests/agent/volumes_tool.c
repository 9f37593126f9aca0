// SPDX-License-Identifier: Apache-2.0
// Runs agent/volumes.h for the shell tests. DISKS: names of loop devices, with commas.
//
//     volumes_tool disks DISKS               "name major:minor size"
//     volumes_tool below DISKS MAJOR MINOR   the names of the disks below
//     volumes_tool list DISKS                "where type uuid depth flags" in order
//     volumes_tool settle DISKS              the UUIDs that settled
//     volumes_tool freeze DISKS MS           freezes, then does what stdin says, a word a
//                                            line: holds, commit, end, now (milliseconds)
//     volumes_tool used NODE [UUID…]         "offset length" of what is in use; with
//     UUIDs
//                                            (or "none"): of a disk that is live
//     volumes_tool why NODE [UUID…]          why volumes are wholly used
//     volumes_tool isolate [PEER PORT OWNPORT [OWN]]   prints what passes all the same
//     volumes_tool connect                   volumes_tool isolated

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/isolate.h"
#include "agent/volumes.h"
#include "map/map.h"

static int fail(const struct err *e)
{
    printf("error %d: %s\n", (int)e->code, e->text);
    return 1;
}

static int open_all(char *names, struct block_disks *disks, struct volume_mounts *mounts,
                    struct err *e)
{
    AUTO(strings_done) struct strings only = {0};
    char *save = NULL;
    for (char *n = strtok_r(names, ",", &save); n; n = strtok_r(NULL, ",", &save))
        strings_add(&only, n);
    if (block_list(&only, disks, e))
        return -1;
    return mounts_list(disks, mounts, e);
}

static void print_mounts(const struct volume_mounts *m)
{
    for (size_t i = 0; i < m->n; i++) {
        const struct volume_mount *v = &m->v[i];
        printf("%s %s %s %u%s%s%s\n", v->where, v->type, v->uuid ? v->uuid : "-",
               v->depth, v->root ? " root" : "", v->read_only ? " ro" : "",
               v->can_freeze ? "" : " unfreezable");
    }
}

static int do_freeze(const struct volume_mounts *m, uint64_t ms, struct err *e)
{
    struct freeze *f = NULL;
    char line[64];
    uint64_t begun = clock_ms(), frozen = 0;
    // What tests do while all is frozen may not touch files.
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0 || freeze_begin(m, ms, &f, e))
        return -1;
    printf("frozen after %llu ms\n", (unsigned long long)(clock_ms() - begun));
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "holds") == 0)
            printf("%s\n", freeze_holds(f) ? "holds" : "thawed");
        if (strcmp(line, "commit") == 0)
            printf("%s\n", freeze_commit(f, e) ? e->text : "committed");
        if (strcmp(line, "end") == 0) {
            if (freeze_end(f, &frozen, e))
                return -1;
            printf("frozen for %llu ms\n", (unsigned long long)frozen);
            return 0;
        }
        fflush(stdout);
    }
    return 0; // and the watchdog thaws
}

static int on_mounts(const char *what, int n, char **args)
{
    struct block_disks disks = {0};
    struct volume_mounts mounts = {0};
    AUTO(strings_done) struct strings settled = {0};
    struct err e;
    uint64_t ms = 0, bits = 0;
    if (open_all(args[0], &disks, &mounts, &e))
        return fail(&e);
    int r = 0;
    if (strcmp(what, "list") == 0) {
        print_mounts(&mounts);
    } else if (strcmp(what, "disks") == 0) {
        for (size_t i = 0; i < disks.n; i++)
            printf("%s %u:%u %llu\n", disks.v[i].name, disks.v[i].major, disks.v[i].minor,
                   (unsigned long long)disks.v[i].size);
    } else if (strcmp(what, "below") == 0 && n == 3) {
        r = block_below(&disks, (unsigned)strtoul(args[1], &args[1], 10),
                        (unsigned)strtoul(args[2], &args[2], 10), &bits, &e);
        for (size_t i = 0; i < disks.n; i++)
            if (bits >> i & 1)
                printf("%s\n", disks.v[i].name);
    } else if (strcmp(what, "settle") == 0) {
        r = freeze_settle(&mounts, &settled, &e);
        for (size_t i = 0; i < settled.n; i++)
            printf("%s\n", settled.v[i]);
    } else if (n == 2 && str_to_u64(args[1], &ms) == 0) {
        r = do_freeze(&mounts, ms, &e);
    }
    mounts_done(&mounts);
    block_disks_done(&disks);
    return r ? fail(&e) : 0;
}

static int on_allocation(const char *what, int n, char **args)
{
    AUTO(strings_done) struct strings uuids = {0};
    AUTO(allocation_done) struct allocation a = {0};
    AUTO(disk_close) struct disk *d = NULL;
    struct err e;
    for (int i = 1; i < n; i++)
        strings_add(&uuids, args[i]);
    struct allocation_live live = {&uuids};
    if (file_open(&(struct file_options){.path = args[0]}, &d, &e) ||
        allocation_read(&d, 1, n > 1 ? &live : NULL, &a, &e))
        return fail(&e);
    if (strcmp(what, "why") == 0) {
        for (size_t i = 0; i < a.volumes.n; i++)
            if (a.volumes.v[i].whole_because)
                printf("%s\n", a.volumes.v[i].whole_because);
        return 0;
    }
    for (size_t i = 0; i < a.used[0].n; i++)
        printf("%llu %llu\n", (unsigned long long)a.used[0].v[i].off,
               (unsigned long long)a.used[0].v[i].len);
    return 0;
}

static int on_network(const char *what, int n, char **args)
{
    struct err e;
    uint64_t peer_port = 0, own_port = 0;
    AUTO(str_free) char *gap = NULL;
    if (strcmp(what, "isolated") == 0) {
        puts(isolate_holds() ? "yes" : "no");
        return 0;
    }
    if (strcmp(what, "connect") == 0)
        return isolate_end(&e) ? fail(&e) : 0;
    if (n >= 3 && (str_to_u64(args[1], &peer_port) || str_to_u64(args[2], &own_port)))
        return 2;
    struct isolation keep = {.peer = n >= 3 ? args[0] : NULL,
                             .own = n >= 4 ? args[3] : NULL,
                             .peer_port = (uint16_t)peer_port,
                             .own_port = (uint16_t)own_port};
    if (isolate_begin(&keep, &gap, &e))
        return fail(&e);
    if (gap)
        puts(gap);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int least;
        int (*run)(const char *what, int n, char **args);
    } verbs[] = {{"disks", 1, on_mounts},    {"list", 1, on_mounts},
                 {"below", 3, on_mounts},    {"settle", 1, on_mounts},
                 {"freeze", 2, on_mounts},   {"used", 1, on_allocation},
                 {"why", 1, on_allocation},  {"isolate", 0, on_network},
                 {"connect", 0, on_network}, {"isolated", 0, on_network}};
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(verbs); i++)
        if (strcmp(argv[1], verbs[i].name) == 0 && argc - 2 >= verbs[i].least)
            return verbs[i].run(argv[1], argc - 2, argv + 2);
    fprintf(stderr, "usage: see the top of volumes_tool.c\n");
    return 2;
}
