// SPDX-License-Identifier: Apache-2.0
// godwit appliance iso|pxe: the appliance as something that a machine boots from, which
// is then a source with all its disks (docs/metal.md). The ISO is hybrid: El Torito for
// CDs, an MBR and a GPT with an EFI system partition for sticks, as grub-mkrescue makes
// them. What surprises: grub-mkrescue leaves out a platform whose modules are not
// installed without a word, so they are looked for first.
#include "cmd/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define KERNEL "vmlinuz"
#define INITRD "metal.cpio.zst"
#define ISO_MAGIC_AT 0x8001 // ECMA-119 8.1.2: "CD001" in sector 16
#define ARGS_MAX 1024       // the kernel takes 2 KiB

struct appliance_command_options {
    const char *output, *dial, *token_file, *append;
};

static const struct opt options[] = {
    {.name = "output",
     .letter = 'o',
     .type = OPT_STRING,
     .arg = "PATH",
     .help = "iso: the file, default godwit.iso; pxe: the folder",
     .offset = offsetof(struct appliance_command_options, output)},
    {.name = "dial",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "numeric, where godwit waits: the machine does not ask for it",
     .offset = offsetof(struct appliance_command_options, dial)},
    {.name = "token-file",
     .type = OPT_STRING,
     .arg = "FILE",
     .help = "put the token in this file into the image: the machine does not ask for it",
     .offset = offsetof(struct appliance_command_options, token_file)},
    {.name = "append",
     .type = OPT_STRING,
     .arg = "WORDS",
     .help = "more words for the kernel's command line, as godwit.ip=192.0.2.21/24",
     .offset = offsetof(struct appliance_command_options, append)},
    {0},
};

// --- the kernel's command line

// Boot loaders' languages give meaning to everything else.
static int check_words(const char *what, const char *text, struct err *e)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789 _.,:=/@%+-[]";
    size_t n = strspn(text, allowed);
    if (text[n])
        return err_set(
            e, ERR_USAGE,
            "%s: \"%c\" cannot stand in a boot loader's menu: letters, digits, "
            "blanks and _ . , : = / @ %% + - [ ] can",
            what, text[n]);
    if (strlen(text) > ARGS_MAX)
        return err_set(e, ERR_USAGE, "%s is longer than %d characters", what, ARGS_MAX);
    return 0;
}

static int check_address(const char *address, struct err *e)
{
    const char *colon = strrchr(address, ':');
    uint64_t port = 0;
    struct in6_addr binary;
    size_t len = colon ? (size_t)(colon - address) : 0;
    bool six = len > 1 && address[0] == '[' && colon[-1] == ']';
    AUTO(str_free) char *host = xstrndup(address + six, len - 2 * (size_t)six);
    if (!colon || str_to_u64(colon + 1, &port) || port == 0 || port > 65535 ||
        inet_pton(six ? AF_INET6 : AF_INET, host, &binary) != 1)
        return err_set(e, ERR_USAGE,
                       "--dial %s is not a numeric address and a port, as 192.0.2.9:7443 "
                       "or [2001:db8::9]:7443 (the machine asks no name server)",
                       address);
    return 0;
}

static int read_token(const char *path, struct buf *args, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    if (file_read(path, &b, e))
        return -1;
    const char *token = str_trim(b.data);
    if (!*token || strpbrk(token, " \t\r\n") || check_words("it", token, e))
        return err_set(e, ERR_USAGE, "%s holds no token of `godwit agent enroll`", path);
    buf_printf(args, " godwit.token=%s", token);
    return 0;
}

// What follows the consoles.
static int make_args(const struct appliance_command_options *o, struct buf *args,
                     struct err *e)
{
    buf_str(args, "quiet godwit.role=metal");
    if (o->dial && check_address(o->dial, e))
        return -1;
    if (o->dial)
        buf_printf(args, " godwit.dial=%s", o->dial);
    if (o->token_file && read_token(o->token_file, args, e))
        return -1;
    if (o->append && check_words("--append", o->append, e))
        return -1;
    if (o->append)
        buf_printf(args, " %s", o->append);
    return 0;
}

// --- menus

static const struct {
    const char *title, *label, *consoles;
} entries[] = {
    {"godwit: the disks of this machine become a source", "godwit",
     "console=tty0 console=ttyS0,115200"},
    {"godwit, serial console on the second port (ttyS1)", "ttyS1",
     "console=tty0 console=ttyS1,115200"},
    {"godwit, plain text screen (when it stays black)", "text",
     "nomodeset vga=normal console=tty0 console=ttyS0,115200"},
};

// `prefix` is where GRUB finds the files; over the network there is nothing else to boot.
static void grub_menu(const char *prefix, const char *args, bool network, struct buf *out)
{
    buf_str(out, "if serial --unit=0 --speed=115200; then\n"
                 "    terminal_input console serial\n"
                 "    terminal_output console serial\n"
                 "fi\n"
                 "if [ \"$grub_platform\" = efi ]; then\n"
                 "    insmod all_video\n" // else the kernel gets no screen
                 "    set gfxpayload=keep\n"
                 "else\n"
                 "    set gfxpayload=text\n"
                 "fi\n"
                 "set default=0\n"
                 "set timeout=5\n");
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        buf_printf(out,
                   "menuentry \"%s\" {\n"
                   "    echo \"loading godwit ...\"\n"
                   "    linux %s/" KERNEL " %s %s\n"
                   "    initrd %s/" INITRD "\n"
                   "}\n",
                   entries[i].title, prefix, entries[i].consoles, args, prefix);
    if (!network)
        buf_str(out, "menuentry \"the next device of the firmware's boot order\" {\n"
                     "    exit\n"
                     "}\n");
}

static void pxelinux_menu(const char *args, struct buf *out)
{
    buf_printf(out, "SERIAL 0 115200\nDEFAULT %s\nPROMPT 1\nTIMEOUT 50\n",
               entries[0].label);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        buf_printf(out,
                   "LABEL %s\n"
                   "    KERNEL " KERNEL "\n"
                   "    APPEND initrd=" INITRD " %s %s\n",
                   entries[i].label, entries[i].consoles, args);
}

static void ipxe_script(const char *args, struct buf *out)
{
    buf_printf(out,
               "#!ipxe\n"
               "kernel " KERNEL " initrd=" INITRD " %s %s\n"
               "initrd " INITRD "\n"
               "boot\n",
               entries[0].consoles, args);
}

// --- files

static int find_files(char **ret_dir, struct err *e)
{
    static const char *const names[] = {KERNEL, INITRD};
    AUTO(str_free) char *dir = NULL;
    if (appliance_find(NULL, NULL, &dir, e))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        AUTO(str_free) char *path = path_join(dir, names[i]);
        if (access(path, R_OK))
            return err_set(e, ERR_FAILED,
                           "the appliance in %s has no %s; make it anew with "
                           "appliance/build",
                           dir, names[i]);
    }
    *ret_dir = steal(dir);
    return 0;
}

static int check_grub(const char *program, struct err *e)
{
    static const struct {
        const char *path, *what, *package;
    } parts[] = {
        {"/usr/lib/grub/i386-pc/boot.img", "GRUB for BIOS", "grub-pc-bin"},
        {"/usr/lib/grub/x86_64-efi/linux.mod", "GRUB for UEFI", "grub-efi-amd64-bin"},
    };
    if (proc_have(program, "grub-common", e))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (access(parts[i].path, R_OK))
            return err_set(e, ERR_FAILED,
                           "%s is not installed; on Debian: apt install %s",
                           parts[i].what, parts[i].package);
    }
    return 0;
}

static int put_text(const char *dir, const char *name, struct buf *text, struct err *e)
{
    AUTO(str_free) char *path = path_join(dir, name);
    AUTO(str_free) char *folder = path_dir(path);
    return dir_make(folder, 0755, e) || file_write(path, text->data, text->len, 0644, e);
}

// --- iso

// Whatever else is there was not made by us.
static int check_output(const char *path, struct err *e)
{
    struct stat st;
    char magic[5] = "";
    AUTO(fd_close) int fd = -1;
    if (stat(path, &st))
        return 0;
    if (S_ISBLK(st.st_mode))
        return err_set(e, ERR_REFUSED,
                       "%s is a device: make a file, then `dd if=godwit.iso of=%s bs=4M "
                       "conv=fsync`",
                       path, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (!S_ISREG(st.st_mode) || fd < 0 ||
        fd_pread(fd, magic, sizeof(magic), ISO_MAGIC_AT) ||
        memcmp(magic, "CD001", sizeof(magic)) != 0)
        return err_set(e, ERR_REFUSED, "%s exists and is no ISO image", path);
    return 0;
}

// A folder that goes with everything in it.
static void scratch_remove(char *dir)
{
    struct err e;
    if (dir && dir_remove(dir, &e))
        log_line(LOG_WARN, "%s", e.text);
    free(dir);
}
DEFINE_AUTO(scratch_remove, char *)

static int make_iso(const char *files, const char *menu_dir, const char *output,
                    struct err *e)
{
    AUTO(str_free) char *kernel = xasprintf("/boot/" KERNEL "=%s/" KERNEL, files);
    AUTO(str_free) char *initrd = xasprintf("/boot/" INITRD "=%s/" INITRD, files);
    AUTO(str_free) char *menu = xasprintf("/boot/grub/grub.cfg=%s/grub.cfg", menu_dir);
    char *argv[] = {"grub-mkrescue",
                    "--output",
                    (char *)output,
                    "--locales=",
                    "--fonts=",
                    "--themes=",
                    "--compress=no",
                    "--product-name=godwit",
                    kernel,
                    initrd,
                    menu,
                    "--",
                    "-volid",
                    "GODWIT",
                    NULL};
    return proc_run(argv, NULL, e);
}

static int publish(const char *temp, const char *output, mode_t mode, struct err *e)
{
    if (chmod(temp, mode) || rename(temp, output))
        return err_errno(e, errno, "write %s", output);
    return 0;
}

static int iso(const struct appliance_command_options *o, struct buf *args,
               const char **ret_path, struct err *e)
{
    const char *output = o->output ? o->output : "godwit.iso";
    AUTO(str_free) char *files = NULL;
    AUTO(scratch_remove) char *dir = NULL;
    AUTO(buf_done) struct buf menu = BUF_INIT(64 * KIB);
    if (check_output(output, e) || check_grub("grub-mkrescue", e) ||
        proc_have("xorriso", "xorriso", e) || proc_have("mformat", "mtools", e) ||
        find_files(&files, e) || dir_temp(&dir, e))
        return -1;
    grub_menu("/boot", args->data, false, &menu);
    // Beside its name, so that half an image is never taken for one; for us alone, as a
    // token may be in it.
    AUTO(str_free) char *folder = path_dir(output);
    AUTO(str_free)
    char *temp = xasprintf("%s/.%s.XXXXXX", folder, path_base(output));
    AUTO(fd_close) int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "make a file in %s", folder);
    struct err ignored; // of the removal
    if (put_text(dir, "grub.cfg", &menu, e) || make_iso(files, dir, temp, e) ||
        publish(temp, output, o->token_file ? 0600 : 0644, e)) {
        (void)file_remove(temp, &ignored);
        return -1;
    }
    *ret_path = output;
    return 0;
}

// --- pxe

static int copy_file(const char *from_dir, const char *to_dir, const char *name,
                     struct err *e)
{
    AUTO(str_free) char *from = path_join(from_dir, name);
    AUTO(str_free) char *to = path_join(to_dir, name);
    AUTO(buf_done) struct buf b = BUF_INIT(256 * MIB);
    return file_read(from, &b, e) || file_write(to, b.data, b.len, 0644, e) ? -1 : 0;
}

static int pxe(const struct appliance_command_options *o, struct buf *args,
               const char **ret_path, struct err *e)
{
    AUTO(str_free) char *files = NULL;
    AUTO(buf_done) struct buf grub = BUF_INIT(64 * KIB);
    AUTO(buf_done) struct buf pxelinux = BUF_INIT(64 * KIB);
    AUTO(buf_done) struct buf ipxe = BUF_INIT(64 * KIB);
    if (!o->output)
        return err_set(e, ERR_USAGE, "appliance pxe takes -o DIR");
    AUTO(str_free) char *net = xasprintf("--net-directory=%s", o->output);
    char *argv[] = {"grub-mknetdir", net, "--subdir=grub", "--locales=", "--fonts=",
                    "--themes=",     NULL};
    grub_menu("", args->data, true, &grub);
    pxelinux_menu(args->data, &pxelinux);
    ipxe_script(args->data, &ipxe);
    if (check_grub(argv[0], e) || find_files(&files, e) || dir_make(o->output, 0755, e) ||
        proc_run(argv, NULL, e) || copy_file(files, o->output, KERNEL, e) ||
        copy_file(files, o->output, INITRD, e) ||
        put_text(o->output, "grub/grub.cfg", &grub, e) ||
        put_text(o->output, "pxelinux.cfg/default", &pxelinux, e) ||
        put_text(o->output, "godwit.ipxe", &ipxe, e))
        return -1;
    *ret_path = o->output;
    return 0;
}

// --- the command

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct appliance_command_options *o = values;
    AUTO(buf_done) struct buf words = BUF_INIT(8 * KIB);
    const char *what = args->v[0], *path = NULL;
    bool is_iso = strcmp(what, "iso") == 0;
    if (!is_iso && strcmp(what, "pxe") != 0)
        return err_set(e, ERR_USAGE, "appliance makes an iso or pxe files, no %s", what);
    if (make_args(o, &words, e) ||
        (is_iso ? iso(o, &words, &path, e) : pxe(o, &words, &path, e)))
        return -1;
    if (o->token_file)
        log_line(LOG_WARN,
                 "whoever has %s has the token: it works once, then it is worth "
                 "nothing",
                 path);
    if (g->json) {
        print_json(json_pack("{s:s, s:s}", "made", what, "path", path));
        return 0;
    }
    AUTO(buf_done) struct buf out = BUF_INIT(8 * KIB);
    buf_printf(&out, "%s\n", path);
    print_buf(&out);
    return 0;
}

const struct command command_appliance = {
    .name = "appliance",
    .args = "iso|pxe",
    .summary = "an image or files for PXE: a machine booted from it is a source",
    .help =
        "iso makes one image for BIOS and UEFI, CDs and sticks (dd if=godwit.iso "
        "of=STICK "
        "bs=4M). pxe makes a folder to be the root of a TFTP server: boot programs "
        "(grub/i386-pc/core.0 for BIOS, grub/x86_64-efi/core.efi for UEFI), a menu for "
        "pxelinux, and godwit.ipxe for iPXE.\n\n"
        "A machine booted from it writes to no disk. It shows its disks and addresses on "
        "screen and serial console, asks there for godwit's address and the token of "
        "`godwit agent enroll NAME --listen ADDRESS:PORT`, dials godwit, and is then "
        "agent://NAME like any server with an agent. It forgets all of it when it is "
        "switched off.\n\n"
        "Words of the kernel's command line, given by --append or edited in the menu: "
        "godwit.dial=ADDRESS:PORT and godwit.token=TOKEN are then not asked for; "
        "godwit.ip=ADDRESS/PREFIX[,GATEWAY[,CARD]] instead of DHCP, CARD by name or MAC, "
        "else the first with a link.\n\n"
        "With --token-file whoever has the image, or can read what the TFTP server "
        "gives, has the token; it works once.\n\n"
        "UEFI Secure Boot has to be off: the image is not signed.",
    .examples = "godwit appliance iso -o godwit.iso\n"
                "godwit appliance iso --dial 192.0.2.9:7443 --token-file token\n"
                "godwit appliance pxe -o /srv/tftp\n",
    .options = options,
    .options_size = sizeof(struct appliance_command_options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
