// SPDX-License-Identifier: Apache-2.0
// godwit copy SRC DST: one disk, exactly: every byte of the image. The target has a map
// beside it, so that the same line resumes, and says so when there is nothing to do.
#include "cmd/session.h"

#include <stdio.h>
#include <sys/stat.h>

struct copy_command_options {
    uint64_t rate;
    const char *verify, *map, *format, *source_format, *snapshot;
    bool allow_path;
};

static const struct opt options[] = {
    {.name = "rate",
     .type = OPT_BYTES,
     .arg = "BYTES",
     .help = "read at most so many bytes a second (10M)",
     .offset = offsetof(struct copy_command_options, rate)},
    {.name = "verify",
     .type = OPT_CHOICE,
     .arg = "HOW",
     .choices = "sample|full|none",
     .help = "read the target again and compare: sample (default), full or none",
     .offset = offsetof(struct copy_command_options, verify)},
    {.name = "map",
     .type = OPT_STRING,
     .arg = "FILE",
     .help = "where the map is kept; default: DST.map, for a device in the state folder",
     .offset = offsetof(struct copy_command_options, map)},
    {.name = "format",
     .type = OPT_CHOICE,
     .arg = "FORMAT",
     .choices = "raw|qcow2",
     .help = "format of DST, raw or qcow2; default: by DST's name",
     .offset = offsetof(struct copy_command_options, format)},
    {.name = "source-format",
     .type = OPT_STRING,
     .arg = "FORMAT",
     .help = "QEMU's name of SRC's format; default: found out",
     .offset = offsetof(struct copy_command_options, source_format)},
    {.name = "snapshot",
     .type = OPT_STRING,
     .arg = "NAME",
     .help = "an internal snapshot of SRC instead of its current state",
     .offset = offsetof(struct copy_command_options, snapshot)},
    {.name = "allow-path",
     .type = OPT_FLAG,
     .help = "files of the source may lie outside its folder",
     .offset = offsetof(struct copy_command_options, allow_path)},
    {0},
};

struct outcome {
    const char *source, *target, *format, *map;
    uint64_t size;
    struct copy_result result;
    bool complete; // an earlier run had finished it
};

static void print_outcome(const struct globals *g, const struct outcome *o)
{
    const struct copy_result *r = &o->result;
    char hex[2 * HASH_LEN + 1], size[16], read[16], written[16];
    hash_hex(r->digest, hex);
    if (g->json) {
        print_json(json_pack(
            "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:b}",
            "source", o->source, "target", o->target, "format", o->format, "map", o->map,
            "size", (json_int_t)o->size, "read", (json_int_t)r->final.read, "written",
            (json_int_t)r->final.written, "zeros", (json_int_t)r->final.zeros, "resumed",
            (json_int_t)r->final.resumed, "verified", (json_int_t)r->verified, "copy_ms",
            (json_int_t)r->copy_ms, "verify_ms", (json_int_t)r->verify_ms, "digest", hex,
            "complete_before", (int)o->complete));
        return;
    }
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    if (o->complete)
        buf_printf(&out, "%s: complete already, made from this source", o->target);
    else
        buf_printf(&out, "%s: %s, read %s, wrote %s in %.2f s", o->target,
                   str_bytes(o->size, size), str_bytes(r->final.read, read),
                   str_bytes(r->final.written, written), (double)r->copy_ms / 1000.0);
    if (r->final.resumed && !o->complete)
        buf_printf(&out, ", %s were there", str_bytes(r->final.resumed, size));
    if (r->verified)
        buf_printf(&out, "; %s compared, no difference", str_bytes(r->verified, size));
    buf_str(&out, "\n");
    print_buf(&out);
}

// A device's node lies in /dev, where nothing survives.
static int default_map(const struct globals *g, const char *target, char **ret,
                       struct err *e)
{
    struct stat st;
    if (stat(target, &st) || !S_ISBLK(st.st_mode)) {
        *ret = xasprintf("%s.map", target);
        return 0;
    }
    AUTO(str_free) char *state = session_state_dir(g);
    AUTO(str_free) char *dir = path_join(state, "maps");
    AUTO(str_free) char *name = xstrdup(target);
    for (char *p = name; *p; p++) {
        if (*p == '/')
            *p = '-';
    }
    AUTO(str_free) char *file = xasprintf("device%s.map", name);
    if (dir_make(dir, 0700, e))
        return -1;
    *ret = path_join(dir, file);
    return 0;
}

static int move(struct replica *r, struct disk *source, enum verify_mode verify,
                struct rate *rate, struct progress *progress, struct outcome *ret,
                struct err *e)
{
    struct copy_options copy = {.source = source,
                                .target = r->disk,
                                .map = r->map,
                                .target_is_zero = r->is_zero,
                                .rate = rate,
                                .verify = verify,
                                .progress = progress_update,
                                .progress_context = progress};
    ret->complete = r->complete;
    if (!r->complete)
        return copy_run(&copy, &ret->result, e);
    ret->result.final.resumed = source->size;
    if (verify != VERIFY_NONE &&
        copy_verify(NULL, r->disk, r->map, verify, &copy, &ret->result, e))
        return -1;
    return map_digest(r->map, ret->result.digest, e);
}

static int copy(const struct globals *g, const struct copy_command_options *o,
                const struct source *s, bool qcow2, enum verify_mode verify,
                struct outcome *ret, struct err *e)
{
    const struct source_disk *d = &s->disks[0];
    AUTO(str_free) char *map = o->map ? xstrdup(o->map) : NULL;
    if (!map && default_map(g, ret->target, &map, e))
        return -1;
    struct replica_options wanted = {.path = ret->target,
                                     .map_path = map,
                                     .size = d->disk->size,
                                     .identity = d->identity,
                                     .qcow2 = qcow2};
    AUTO(replica_close) struct replica r = {0};
    if (replica_open(&wanted, &r, e))
        return -1;
    struct progress progress;
    progress_init(&progress, g);
    progress_disk(&progress, path_base(ret->target), d->disk->size);
    struct rate *rate = rate_new(o->rate);
    int status = move(&r, d->disk, verify, rate, &progress, ret, e);
    rate_free(rate);
    progress_disk_done(&progress);
    if (status && e->code != ERR_CANCELLED)
        log_line(LOG_INFO, "%s keeps what was copied: the same line goes on from there",
                 ret->target);
    if (status)
        return -1;
    ret->map = map;
    print_outcome(g, ret);
    return 0;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct copy_command_options *o = values;
    AUTO(strings_done) struct strings words = {0};
    strings_add(&words, args->v[0]);
    AUTO(source_done) struct source s = {0};
    AUTO(str_free) char *state_dir = session_state_dir(g);
    struct source_options source = {.words = &words,
                                    .state_dir = state_dir,
                                    .allow_any_path = o->allow_path,
                                    .snapshot = o->snapshot,
                                    .format = o->source_format};
    bool qcow2 =
        o->format ? strcmp(o->format, "qcow2") == 0 : str_ends(args->v[1], ".qcow2");
    enum verify_mode verify = VERIFY_SAMPLE;
    if (o->verify && verify_from_name(o->verify, &verify))
        return err_set(e, ERR_USAGE, "--verify %s is not known", o->verify);
    if (source_describe(&source, &s, e) || source_open(&s, &source, e))
        return -1;
    if (s.n_disks != 1)
        return err_set(e, ERR_REFUSED,
                       "%s has %zu disks: copy takes one, `godwit migrate` all",
                       args->v[0], s.n_disks);
    AUTO(str_free) char *real_source = NULL;
    AUTO(str_free) char *real_target = NULL;
    if (path_real(s.machine->disks[0].path, &real_source, e) ||
        path_real(args->v[1], &real_target, e))
        return -1;
    if (strings_have(&s.disks[0].info.files, real_target) ||
        strcmp(real_source, real_target) == 0)
        return err_set(e, ERR_USAGE, "%s is the source itself", args->v[1]);
    struct outcome outcome = {.source = args->v[0],
                              .target = args->v[1],
                              .format = qcow2 ? "qcow2" : "raw",
                              .size = s.disks[0].disk->size};
    return copy(g, o, &s, qcow2, verify, &outcome, e);
}

const struct command command_copy = {
    .name = "copy",
    .args = "SRC DST",
    .summary = "copy one disk exactly, resumable and verified",
    .help = "Copies every byte of the disk image SRC, in any format that QEMU reads, to "
            "DST: a raw file, a block device, or a qcow2 file. Zeros take no room.\n\n"
            "Beside DST a map with the hash of every block is kept. Run the same "
            "line again after an interruption: what is there is not sent again as long "
            "as SRC is the same file, unchanged. A DST that godwit did not make is "
            "refused.",
    .examples = "godwit copy vm.vmdk vm.raw\n"
                "godwit copy vm.vhdx /dev/vg0/vm --rate 50M --verify full\n",
    .options = options,
    .options_size = sizeof(struct copy_command_options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
