// SPDX-License-Identifier: Apache-2.0
// Runs of qemu-img. It parses hostile files, so its memory and time are bounded: limits
// are set by util-linux's prlimit, which becomes the program, so nothing runs without
// them. Address space, not resident memory, is what the kernel can limit for one process:
// 4 GiB is far above what QEMU maps for itself and far below what a corrupt table can ask
// for.
#include "disk/image_parts.h"

#define OUTPUT_MAX (8 * MIB)

void image_tool_argv(struct strings *out, const char *program)
{
    static const char *const limits[] = {"prlimit", "--as=4294967296", "--core=0"};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++)
        strings_add(out, limits[i]);
    strings_add(out, program);
}

// QEMU's own words, without the names of programs before them and the long names of
// images in them.
static int tool_failed(const char *what, struct err *e)
{
    struct err inner = *e;
    if (inner.code == ERR_CANCELLED)
        return err_set(e, ERR_CANCELLED, "cancelled");
    const char *text = strstr(inner.text, "qemu-img: ");
    if (text == NULL) // nothing that it says of the image
        return err_set(e, inner.code, "qemu-img %s: %s", what, inner.text);
    text += strlen("qemu-img: ");
    const char *name_end =
        str_starts(text, "Could not open 'json:") ? strstr(text, "}': ") : NULL;
    if (name_end != NULL)
        text = name_end + strlen("}': ");
    enum err_code code = inner.code == ERR_FAILED ? ERR_REFUSED : inner.code;
    return err_set(e, code, "qemu-img %s: %s", what, text);
}

int image_tool_json(const char *const *argv, json_t **ret, bool *ret_failed,
                    struct err *e)
{
    AUTO(strings_done) struct strings all = {0};
    AUTO(buf_done) struct buf out = BUF_INIT(OUTPUT_MAX);
    if (proc_have("qemu-img", "qemu-utils", e) < 0 ||
        proc_have("prlimit", "util-linux", e) < 0)
        return -1;
    image_tool_argv(&all, "qemu-img");
    for (size_t i = 0; argv[i] != NULL; i++)
        strings_add(&all, argv[i]);
    *ret_failed = proc_run(all.v, &out, e) < 0;
    if (*ret_failed && (out.len == 0 || e->code == ERR_CANCELLED))
        return tool_failed(argv[0], e);
    struct err parse_error;
    if (json_parse(out.data != NULL ? out.data : "", out.len, "qemu-img's answer", ret,
                   &parse_error) == 0)
        return 0;
    if (*ret_failed)
        return tool_failed(argv[0], e);
    *e = parse_error;
    return -1;
}
