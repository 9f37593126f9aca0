// SPDX-License-Identifier: Apache-2.0
// guest/ on a folder instead of a mounted guest, for the tests here:
//   tool inspect ROOT
//   tool convert ROOT [disk N PART CONTENT UUID [part PARTUUID]]… [nic MAC [at NAME]]…
//   [root N PART] [driver NAME]…
//   tool console ROOT
//   tool modules ROOT IMAGE VERSION DRIVER…
//   tool fix ROOT NAME
// Prints JSON or a line a change; an error goes to stderr and its code is the exit code.
#include <stdio.h>

#include "guest/device.h"
#include "guest/guest.h"

static int add_device(struct guest *g, char **args)
{
    uint64_t disk, part;
    if (str_to_u64(args[0], &disk) || str_to_u64(args[1], &part))
        return -1;
    struct guest_device d = {.node = xasprintf("/dev/vd%c%s", 'a' + (int)disk, args[1]),
                             .disk = (unsigned)disk,
                             .partition = (unsigned)part,
                             .content = xstrdup(args[2]),
                             .uuid = xstrdup(args[3])};
    vec_push(&g->devices, d);
    return 0;
}

static int read_facts(struct guest *g, int argc, char **argv, struct err *e)
{
    for (int i = 0; i < argc;) {
        if (strcmp(argv[i], "disk") == 0 && i + 4 < argc &&
            !add_device(g, argv + i + 1)) {
            i += 5;
            if (i + 1 < argc && strcmp(argv[i], "part") == 0) {
                g->devices.v[g->devices.n - 1].part_uuid = xstrdup(argv[i + 1]);
                i += 2;
            }
        } else if (strcmp(argv[i], "root") == 0 && i + 2 < argc) {
            uint64_t disk, part;
            if (str_to_u64(argv[i + 1], &disk) || str_to_u64(argv[i + 2], &part))
                return err_set(e, ERR_USAGE, "root wants two numbers");
            device_learn_order(g, (unsigned)disk, (unsigned)part);
            i += 3;
        } else if (strcmp(argv[i], "nic") == 0 && i + 1 < argc) {
            bool known = strcmp(argv[i + 1], "unknown") != 0;
            struct guest_nic nic = {.mac = known ? xstrdup(argv[i + 1]) : NULL};
            if (i + 3 < argc && strcmp(argv[i + 2], "at") == 0) {
                nic.place = xstrdup(argv[i + 3]);
                i += 2;
            }
            vec_push(&g->nics, nic);
            i += 2;
        } else if (strcmp(argv[i], "driver") == 0 && i + 1 < argc) {
            strings_add(&g->drivers, argv[i + 1]);
            i += 2;
        } else {
            return err_set(e, ERR_USAGE, "unknown argument %s", argv[i]);
        }
    }
    return 0;
}

static int print_json(json_t *j /* taken */)
{
    AUTO(json_free) json_t *owned = j;
    json_dumpf(owned, stdout, JSON_INDENT(1) | JSON_SORT_KEYS);
    printf("\n");
    return 0;
}

static void print_lines(const struct strings *lines)
{
    for (size_t i = 0; i < lines->n; i++)
        printf("%s\n", lines->v[i]);
}

static int run(int argc, char **argv, struct err *e)
{
    AUTO(guest_done) struct guest g = {0};
    AUTO(strings_done) struct strings done = {0};
    json_t *report;
    if (argc < 3)
        return err_set(e, ERR_USAGE, "tool inspect|convert|console|modules|fix ROOT …");
    if (tree_open(argv[2], &g.tree, e))
        return -1;
    if (strcmp(argv[1], "inspect") == 0)
        return guest_inspect(&g, e) ? -1 : print_json(guest_json(&g));
    if (strcmp(argv[1], "convert") == 0)
        return read_facts(&g, argc - 3, argv + 3, e) || guest_inspect(&g, e) ||
                       guest_convert(&g, &report, e)
                   ? -1
                   : print_json(report);
    if (strcmp(argv[1], "console") == 0) {
        int rc = guest_add_serial_console(&g, &done, e);
        print_lines(&done);
        return rc;
    }
    if (strcmp(argv[1], "modules") == 0 && argc > 5) {
        AUTO(strings_done) struct strings drivers = {0};
        for (int i = 5; i < argc; i++)
            strings_add(&drivers, argv[i]);
        int rc = initramfs_add_modules(g.tree, argv[3], argv[4], &drivers, &done, e);
        print_lines(&done);
        return rc;
    }
    for (const struct fix *f = fixes; strcmp(argv[1], "fix") == 0 && argc > 3 && f->name;
         f++) {
        if (strcmp(f->name, argv[3]) != 0)
            continue;
        int rc = f->apply(&g, &done, e);
        print_lines(&done);
        return rc;
    }
    return err_set(e, ERR_USAGE, "unknown command %s", argv[1]);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    if (run(argc, argv, &e) == 0)
        return 0;
    fprintf(stderr, "%s\n", e.text);
    return (int)e.code;
}
