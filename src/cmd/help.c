// SPDX-License-Identifier: Apache-2.0
// Everything that is written from the command and option tables: --help, the scdoc source
// of the man pages (scdoc(5)) and the completion for bash. Nothing is said twice by hand.
#include "cmd/cmd.h"

#include <stdio.h>

#define WIDTH 79

static const struct {
    int code;
    const char *meaning;
} exit_codes[] = {
    {0, "done"},
    {1, "failed"},
    {2, "the command line is wrong"},
    {3, "refused by a check: nothing was changed"},
    {4, "cancelled: the same command line goes on from there"},
    {5, "failed, but the same command may succeed later"},
};

static const struct {
    const char *name, *meaning;
} variables[] = {
    {"GODWIT_STATE", "folder of the jobs, as --state"},
    {"GODWIT_ACCEL", "auto, kvm or tcg, as --accel"},
    {"GODWIT_APPLIANCE", "folder of the appliance's kernel and initramfs"},
    {"TMPDIR", "where a rehearsal's overlays and sockets are made"},
};

static const char overview[] =
    "godwit moves servers into KVM: any image in, a guest that boots out, checked block "
    "by block. Every migration is a job; run the same line again after anything that "
    "interrupted it, and it goes on.\n\n"
    "SOURCE is a disk image in any format that QEMU reads, a machine description (.vmx, "
    ".ovf, .ova, libvirt's .xml), or a machine on a platform "
    "(libvirt+qemu:///system?domain=NAME). TARGET is dir:PATH, a folder that receives "
    "disks and a libvirt domain, or libvirt+qemu:///system[?pool=POOL].";

// One paragraph, indented and wrapped; stops at an empty line and returns what follows.
static const char *wrap_paragraph(const char *text, int indent, struct buf *out)
{
    int column = 0;
    while (*text && !str_starts(text, "\n\n")) {
        size_t n = strcspn(text, " \n");
        if (column && column + 1 + (int)n > WIDTH) {
            buf_str(out, "\n");
            column = 0;
        }
        buf_printf(out, "%*s%.*s", column ? 1 : indent, "", (int)n, text);
        column += (column ? 1 : indent) + (int)n;
        text += n;
        if (*text == ' ' || (*text == '\n' && text[1] != '\n'))
            text++;
    }
    buf_str(out, "\n");
    return text + strspn(text, "\n");
}

static void wrap(const char *text, int indent, struct buf *out)
{
    while (*text) {
        text = wrap_paragraph(text, indent, out);
        if (*text)
            buf_str(out, "\n");
    }
}

static void usage(const struct command *c, struct buf *out)
{
    buf_printf(out, "usage: godwit %s%s%s [OPTION…]\n", c->name, *c->args ? " " : "",
               c->args);
}

void help_overview(struct buf *out)
{
    buf_str(out, "usage: godwit COMMAND [ARGUMENT…] [OPTION…]\n\n");
    wrap(overview, 0, out);
    buf_str(out, "\ncommands (`godwit COMMAND --help` tells more):\n");
    for (size_t i = 0; commands[i]; i++)
        buf_printf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    buf_str(out, "\noptions of every command:\n");
    opt_help(global_options, out);
    buf_str(out, "\nexit codes:\n");
    for (size_t i = 0; i < ARRAY_LEN(exit_codes); i++)
        buf_printf(out, "  %d  %s\n", exit_codes[i].code, exit_codes[i].meaning);
}

static void indent_lines(const char *text, const char *with, struct buf *out)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        buf_printf(out, "%s%.*s\n", with, (int)n, text);
        text += n + (text[n] == '\n');
    }
}

void help_command(const struct command *c, struct buf *out)
{
    usage(c, out);
    buf_str(out, "\n");
    wrap(c->help, 0, out);
    if (c->options) {
        buf_str(out, "\noptions:\n");
        opt_help(c->options, out);
    }
    buf_str(out, "\noptions of every command:\n");
    opt_help(global_options, out);
    if (c->examples) {
        buf_str(out, "\nexamples:\n");
        indent_lines(c->examples, "  ", out);
    }
}

// --- man pages

// scdoc gives meaning to these anywhere, and to more at a line's start, where no text of
// ours ever stands unescaped.
static void scdoc_text(const char *text, struct buf *out)
{
    for (bool start = true; *text; text++) {
        if (strchr("*_\\", *text) || (start && strchr("#-|[]<>.", *text)))
            buf_str(out, "\\");
        buf_add(out, text, 1);
        start = *text == '\n';
    }
}

static void scdoc_options(const struct opt *table, struct buf *out)
{
    for (const struct opt *o = table; o && o->name; o++) {
        if (o->letter)
            buf_printf(out, "*-%c*, ", o->letter);
        buf_printf(out, "*--%s*", o->name);
        if (o->arg) {
            buf_str(out, "=");
            scdoc_text(o->arg, out);
        }
        buf_str(out, "\n\t");
        scdoc_text(o->help, out);
        if (o->choices) {
            buf_str(out, " (");
            for (const char *p = o->choices; *p; p++)
                buf_printf(out, "%s%c", *p == '|' ? "\\" : "", *p);
            buf_str(out, ")");
        }
        buf_str(out, "\n\n");
    }
}

static void scdoc_tail(const struct command *c, struct buf *out)
{
    buf_str(out, "# EXIT STATUS\n\n");
    for (size_t i = 0; i < ARRAY_LEN(exit_codes); i++)
        buf_printf(out, "*%d*\n\t%s\n\n", exit_codes[i].code, exit_codes[i].meaning);
    if (c && c->examples) {
        buf_str(out, "# EXAMPLES\n\n```\n");
        indent_lines(c->examples, "", out);
        buf_str(out, "```\n\n");
    }
    buf_str(out, "# SEE ALSO\n\n");
    if (c)
        buf_str(out, "*godwit*(1)\n");
    for (size_t i = 0; !c && commands[i]; i++)
        buf_printf(out, "%s*godwit-%s*(1)", i ? ", " : "", commands[i]->name);
    buf_str(out, "\n");
}

void help_scdoc(const struct command *c, struct buf *out)
{
    if (c) {
        buf_printf(out, "godwit-%s(1)\n\n# NAME\n\ngodwit-%s - %s\n\n", c->name, c->name,
                   c->summary);
        buf_printf(out, "# SYNOPSIS\n\n*godwit %s* ", c->name);
        scdoc_text(c->args, out);
    } else {
        buf_str(out, "godwit(1)\n\n# NAME\n\ngodwit - moves servers into KVM\n\n");
        buf_str(out, "# SYNOPSIS\n\n*godwit* COMMAND [ARGUMENT…]");
    }
    buf_str(out, " [OPTION…]\n\n# DESCRIPTION\n\n");
    scdoc_text(c ? c->help : overview, out);
    buf_str(out, "\n\n");
    if (!c) {
        buf_str(out, "# COMMANDS\n\n");
        for (size_t i = 0; commands[i]; i++)
            buf_printf(out, "*%s*\n\t%s\n\n", commands[i]->name, commands[i]->summary);
    }
    buf_str(out, "# OPTIONS\n\n");
    if (c)
        scdoc_options(c->options, out);
    scdoc_options(global_options, out);
    if (!c)
        buf_str(out, "# ENVIRONMENT\n\n");
    for (size_t i = 0; !c && i < ARRAY_LEN(variables); i++)
        buf_printf(out, "*%s*\n\t%s\n\n", variables[i].name, variables[i].meaning);
    scdoc_tail(c, out);
}

// --- completion

static void bash_options(const struct opt *table, struct buf *out)
{
    for (const struct opt *o = table; o && o->name; o++)
        buf_printf(out, " --%s%s", o->name, o->arg ? "=" : "");
}

static void bash_choices(const struct opt *table, struct buf *out)
{
    for (const struct opt *o = table; o && o->name; o++) {
        if (!o->choices)
            continue;
        buf_printf(out, "        --%s)\n            words=\"", o->name);
        for (const char *p = o->choices; *p; p++)
            buf_printf(out, "%c", *p == '|' ? ' ' : *p);
        buf_str(out, "\" ;;\n");
    }
}

void help_bash(struct buf *out)
{
    buf_str(
        out,
        "# bash completion for godwit; written by `godwit help --completion`\n"
        "_godwit()\n{\n"
        "    local cur prev words='' command='' i\n"
        "    _get_comp_words_by_ref -n = cur prev 2>/dev/null ||\n"
        "        { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; }\n"
        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "        case ${COMP_WORDS[i]} in\n"
        "        -*) ;;\n"
        "        *) command=${COMP_WORDS[i]}; break ;;\n"
        "        esac\n"
        "    done\n"
        "    compopt +o nospace 2>/dev/null\n"
        "    if [[ $cur == --*=* ]]; then prev=${cur%%=*} cur=${cur#*=}; fi\n"
        "    case $command:$prev in\n");
    for (size_t i = 0; commands[i]; i++) {
        AUTO(buf_done) struct buf choices = BUF_INIT(64 * KIB);
        bash_choices(commands[i]->options, &choices);
        if (choices.len)
            buf_printf(out, "    %s:*)\n        case $prev in\n%s        esac ;;\n",
                       commands[i]->name, choices.data);
    }
    buf_str(out, "    esac\n    case $prev in\n    --accel) words='auto kvm tcg' ;;\n"
                 "    esac\n"
                 "    if [[ -z $words && $cur == -* ]]; then\n"
                 "        compopt -o nospace 2>/dev/null\n"
                 "        case $command in\n");
    for (size_t i = 0; commands[i]; i++) {
        buf_printf(out, "        %s) words=\"", commands[i]->name);
        bash_options(commands[i]->options, out);
        buf_str(out, "\" ;;\n");
    }
    buf_str(out, "        esac\n        words=\"$words");
    bash_options(global_options, out);
    buf_str(out, "\"\n    elif [[ -z $words && -z $command ]]; then\n        words=\"");
    for (size_t i = 0; commands[i]; i++)
        buf_printf(out, "%s%s", i ? " " : "", commands[i]->name);
    buf_str(out, "\"\n    fi\n"
                 "    if [[ -n $words ]]; then\n"
                 "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
                 "    else\n"
                 "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
                 "        compopt -o filenames 2>/dev/null\n"
                 "    fi\n}\n"
                 "complete -F _godwit godwit\n");
}

// --- godwit help

struct help_options {
    bool scdoc, completion;
};

static const struct opt options[] = {
    {.name = "scdoc",
     .type = OPT_FLAG,
     .help = "write the source of the man page",
     .offset = offsetof(struct help_options, scdoc)},
    {.name = "completion",
     .type = OPT_FLAG,
     .help = "write the completion for bash",
     .offset = offsetof(struct help_options, completion)},
    {0},
};

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct help_options *o = values;
    const struct command *c = args->n ? command_find(args->v[0]) : NULL;
    if (args->n && !c)
        return err_set(e, ERR_USAGE, "there is no command \"%s\" (see `godwit --help`)",
                       args->v[0]);
    AUTO(buf_done) struct buf out = BUF_INIT(4 * MIB);
    if (o->completion)
        help_bash(&out);
    else if (o->scdoc)
        help_scdoc(c, &out);
    else if (c)
        help_command(c, &out);
    else
        help_overview(&out);
    (void)g; // help is text for people and tools: there is no JSON form
    print_buf(&out);
    return 0;
}

const struct command command_help = {
    .name = "help",
    .args = "[COMMAND]",
    .summary = "what godwit does, or one of its commands",
    .help = "Shows what godwit does, or what COMMAND does. The man pages and the "
            "completion are written by it too.",
    .options = options,
    .options_size = sizeof(struct help_options),
    .min_args = 0,
    .max_args = 1,
    .run = run,
};
