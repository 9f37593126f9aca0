// SPDX-License-Identifier: Apache-2.0
// godwit migrate SOURCE TARGET: the options as a request, and the table at the end. The
// work is job/'s.
#include "cmd/session.h"

struct migrate_options {
    const char *method, *name, *verify, *format, *root;
    uint64_t rate;
    struct strings networks, luks_keys;
    bool all_blocks, allow_path, start, no_convert;
    uint64_t max_downtime, delta_every, probe_timeout;
    const char *until;
};

static const struct opt options[] = {
    {.name = "method",
     .type = OPT_CHOICE,
     .arg = "METHOD",
     .choices = "auto|offline|block",
     .help = "offline: the machine is off; block: it runs, its agent tells what changes; "
             "auto (default): by what the source is",
     .offset = offsetof(struct migrate_options, method)},
    {.name = "name",
     .type = OPT_STRING,
     .arg = "NAME",
     .help = "name at the target; default: the source's",
     .offset = offsetof(struct migrate_options, name)},
    {.name = "network",
     .type = OPT_STRINGS,
     .arg = "MAC=NET",
     .help = "connect the interface MAC to NET, \"*\" for all others; may be repeated",
     .offset = offsetof(struct migrate_options, networks)},
    {.name = "rate",
     .type = OPT_BYTES,
     .arg = "BYTES",
     .help = "read at most so many bytes a second (10M)",
     .offset = offsetof(struct migrate_options, rate)},
    {.name = "max-downtime",
     .type = OPT_MS,
     .arg = "TIME",
     .help = "of a server that runs: not off for longer (30s); refused when it cannot be",
     .offset = offsetof(struct migrate_options, max_downtime)},
    {.name = "until",
     .type = OPT_CHOICE,
     .arg = "STATE",
     .choices = "ready",
     .help = "ready: of a server that runs, wait for `godwit cutover`",
     .offset = offsetof(struct migrate_options, until)},
    {.name = "delta-every",
     .type = OPT_MS,
     .arg = "TIME",
     .help = "bring what changed so often while it waits (default: 60s)",
     .offset = offsetof(struct migrate_options, delta_every)},
    {.name = "probe-timeout",
     .type = OPT_MS,
     .arg = "TIME",
     .help = "of a server that runs, with --start: how long the started machine may take "
             "to answer where the source did (default: 3m)",
     .offset = offsetof(struct migrate_options, probe_timeout)},
    {.name = "verify",
     .type = OPT_CHOICE,
     .arg = "HOW",
     .choices = "sample|full|none",
     .help = "compare the copy with its source: sample (default), full or none",
     .offset = offsetof(struct migrate_options, verify)},
    {.name = "all-blocks",
     .type = OPT_FLAG,
     .help = "copy free space too",
     .offset = offsetof(struct migrate_options, all_blocks)},
    {.name = "allow-path",
     .type = OPT_FLAG,
     .help = "files of the source may lie outside its folder",
     .offset = offsetof(struct migrate_options, allow_path)},
    {.name = "format",
     .type = OPT_CHOICE,
     .arg = "FORMAT",
     .choices = "raw|qcow2",
     .help = "one file a disk, raw or qcow2, instead of replica and overlay",
     .offset = offsetof(struct migrate_options, format)},
    {.name = "start",
     .type = OPT_FLAG,
     .help = "start the machine at the target",
     .offset = offsetof(struct migrate_options, start)},
    {.name = "no-convert",
     .type = OPT_FLAG,
     .help = "move the disks as they are: what is on them is not made bootable",
     .offset = offsetof(struct migrate_options, no_convert)},
    {.name = "luks-key",
     .type = OPT_STRINGS,
     .arg = "[UUID=]FILE",
     .help = "file with the key of an encrypted volume; may be repeated",
     .offset = offsetof(struct migrate_options, luks_keys)},
    {.name = "root",
     .type = OPT_STRING,
     .arg = "UUID",
     .help = "root file system of the system to convert where there are several",
     .offset = offsetof(struct migrate_options, root)},
    {0},
};

static int absolute_keys(const struct strings *words, struct strings *out, struct err *e)
{
    for (size_t i = 0; i < words->n; i++) {
        const char *word = words->v[i], *equals = strchr(word, '=');
        AUTO(str_free) char *path = NULL;
        if (path_real(equals ? equals + 1 : word, &path, e))
            return err_wrap(e, "--luks-key");
        int prefix = equals ? (int)(equals + 1 - word) : 0;
        strings_take(out, xasprintf("%.*s%s", prefix, word, path));
    }
    return 0;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    struct migrate_options *o = values;
    AUTO(strings_done) struct strings keys = {0};
    struct job_request request = {
        .source = args->v[0],
        .target = args->v[1],
        .name = o->name,
        .rate = o->rate,
        .verify = VERIFY_SAMPLE,
        .all_blocks = o->all_blocks,
        .allow_any_path = o->allow_path,
        .start = o->start,
        .no_convert = o->no_convert,
        .format = o->format,
        .accel = session_accel(g),
        .networks = o->networks, // lent
        .root = o->root,
        .method = o->method,
        .max_downtime_ms = o->max_downtime,
        .delta_every_ms = o->delta_every,
        .probe_timeout_ms = o->probe_timeout,
        .until_ready = o->until != NULL,
    };
    if (o->verify && verify_from_name(o->verify, &request.verify))
        return err_set(e, ERR_USAGE, "--verify %s is not known", o->verify);
    if (absolute_keys(&o->luks_keys, &keys, e))
        return -1;
    request.luks_key_files = keys;
    AUTO(store_close) struct store *s = NULL;
    if (session_store(g, &s, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    struct job_ui ui = progress_ui(&progress);
    struct job_row job = {0};
    int status = job_migrate(s, &request, &ui, &job, e);
    progress_disk_done(&progress);
    if (!status)
        job_print(s, g, &job);
    job_row_done(&job);
    return status;
}

const struct command command_migrate = {
    .name = "migrate",
    .args = "SOURCE TARGET",
    .summary = "bring a machine to a target, checked and bootable",
    .help =
        "Reads what SOURCE is, copies the blocks of its disks that are in use to "
        "replicas, verifies them, makes the guest boot on virtio in an overlay over "
        "the replicas, and defines the machine at TARGET. The source is only read. "
        "What cannot be migrated is refused before anything is copied.\n\n"
        "Every migration is a job. Run the same line again after anything that "
        "interrupted it, and it goes on. `godwit finish JOB` makes one file a disk "
        "of replica and overlay, `godwit discard JOB` removes all of it.\n\n"
        "A server that runs (agent://NAME) goes on running: its blocks are copied, then "
        "what changed meanwhile, in rounds, until little is left. Then it is frozen, the "
        "rest is copied, it is fenced, and only then the copy is made bootable and "
        "started. Until the fence everything undoes itself; afterwards `godwit rollback "
        "JOB` goes back.\n\n"
        "NET of --network is a network of the target's libvirt, bridge:NAME, or user "
        "(QEMU's own, from which nothing reaches the guest). An interface that is not "
        "named goes to libvirt's network default if that is active, else to user.",
    .examples =
        "godwit migrate vm.vmdk dir:out\n"
        "godwit migrate vm.ova 'libvirt+qemu:///system?pool=default' --start\n"
        "godwit migrate 'libvirt+qemu:///system?domain=crm01' dir:out --name crm\n"
        "godwit migrate agent://crm01 libvirt+qemu:///system --until ready --start\n",
    .options = options,
    .options_size = sizeof(struct migrate_options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
