// SPDX-License-Identifier: Apache-2.0
// Initramfs images: their segments, the cpio archives in them, and the patch that adds
// drivers. Internal to guest/.
//
//     +-----------------+------------------+------+---------------------+
//     | microcode cpio  | main cpio,       | zero | ours: a plain cpio  |
//     | (0 or more)     | compressed       | pad  | (after a 1st run)   |
//     +-----------------+------------------+------+---------------------+
//
// The kernel (init/initramfs.c) unpacks one after another into one tree, so that what
// comes later replaces what came earlier.
#pragma once

#include "base/base.h"

struct tree;

// Ceilings: an image with every driver and firmware has 500 MB in 30,000 entries.
#define INITRAMFS_FILE_LIMIT (1 * GIB)
#define INITRAMFS_CONTENT_LIMIT (2 * GIB)
#define INITRAMFS_ENTRIES_LIMIT 200000
#define INITRAMFS_SEGMENTS_LIMIT 64
#define MODULE_LIMIT (128 * MIB)
#define NEW_SEGMENT_LIMIT (256 * MIB)

// --- cpio.c: "newc" archives (cpio(5)), read in pieces as they come

struct cpio_entry {
    const char *name; // as stored, 1 to 4095 bytes
    uint32_t mode, ino, n_links;
    uint32_t size;
};
// What the reader calls: entry, then data as often as it takes (never for size 0). The
// target of a link is its data.
struct cpio_sink {
    int (*entry)(void *ctx, const struct cpio_entry *entry, struct err *e);
    int (*data)(void *ctx, const void *data, size_t len, struct err *e);
    void *ctx;
};
struct cpio_reader;
struct cpio_reader *cpio_new(const struct cpio_sink *sink); // copied
void cpio_free(struct cpio_reader *r);
DEFINE_AUTO(cpio_free, struct cpio_reader *)
// Takes up to `len` bytes; *ret_used is less only when the archive's end was reached.
int cpio_feed(struct cpio_reader *r, const void *data, size_t len, size_t *ret_used,
              struct err *e);
bool cpio_ended(const struct cpio_reader *r); // at the start, or after a trailer
void cpio_write(struct buf *b, const char *name, uint32_t mode, const void *data,
                size_t len);
void cpio_write_end(struct buf *b);

// --- unpack.c: the compressions that the kernel knows

// Bytes of an image, from a descriptor (buffered) or from memory (fd -1).
struct source {
    int fd;
    uint64_t size; // of the whole image
    uint64_t off;  // where data[at] lies in it
    uint8_t *data;
    size_t at, len, cap;
};
int source_open(int fd, struct source *ret, struct err *e); // fd stays the caller's
void source_memory(const void *data, size_t len, struct source *ret);
void source_done(struct source *s);
__attribute__((unused)) static inline void auto_source_done(struct source *s)
{
    source_done(s);
}
int source_seek(struct source *s, uint64_t off, struct err *e);
// Bytes at hand, more than none unless the image ends here.
int source_fill(struct source *s, struct err *e);
void source_take(struct source *s, size_t n);

struct byte_sink {
    int (*write)(void *ctx, const void *data, size_t len, struct err *e);
    void *ctx;
};
struct codec {
    const char *name;
    uint8_t magic[6];
    size_t magic_len;
    bool endless; // has no end mark: nothing may follow it
    int (*unpack)(struct source *s, const struct byte_sink *sink, struct err *e);
};
const struct codec *codec_find(const uint8_t *data, size_t len);
int codec_unpack(const struct codec *c, struct source *s, const struct byte_sink *sink,
                 struct err *e);

// --- segments.c

struct segment {
    uint64_t off, len;
    const struct codec *codec; // NULL: a plain cpio archive
};
struct segments {
    struct segment v[INITRAMFS_SEGMENTS_LIMIT];
    size_t n;
};
// Goes through all segments of an image; the sink sees every entry. ret may be NULL.
int initramfs_walk(struct source *s, const struct cpio_sink *sink, struct segments *ret,
                   struct err *e);

// --- contents.c: what a walk found

struct content {
    char *path; // without leading "/" or "./"
    uint32_t mode;
    uint32_t size;
    char *text; // of a link: its target; of a small configuration file: its content
};
struct contents {
    struct content *v; // as they came
    size_t n, cap;
    struct content **sorted; // by path, then as they came
    uint64_t kept;           // bytes in texts
    uint64_t filled;         // of the last entry, while it is read
};
int contents_read(struct source *s, struct contents *ret, struct segments *ret_segments,
                  struct err *e);
void contents_done(struct contents *c);
__attribute__((unused)) static inline void auto_contents_done(struct contents *c)
{
    contents_done(c);
}
// The last entry of that very path; NULL: none.
const struct content *contents_find(const struct contents *c, const char *path);
// `path` with the archive's own links followed ("lib/x" → "usr/lib/x"); free() it.
char *contents_resolve(const struct contents *c, const char *path);

// --- modules.c: a kernel's modules in the guest

struct modules;
int modules_open(struct tree *t, const char *version, struct modules **ret,
                 struct err *e);
void modules_close(struct modules *m);
DEFINE_AUTO(modules_close, struct modules *)
bool modules_builtin(const struct modules *m, const char *name);
// Path below /lib/modules/VERSION, borrowed; NULL: there is none.
const char *modules_path(const struct modules *m, const char *name);
// Appends the files that `name` needs, itself too, none twice. ERR_REFUSED: the kernel
// has no such driver. One that is built in needs nothing.
int modules_closure(const struct modules *m, const char *name, struct strings *paths,
                    struct err *e);
// "kernel/drivers/block/virtio-blk.ko.xz" → "virtio_blk"; free() it.
char *module_name(const char *path);

// --- initramfs.c

struct initramfs_file { // to be in the image, at this path and with this content
    char *path, *text;
};
struct initramfs_job {
    struct tree *tree;
    const char *path, *version;
    const struct strings *drivers;
    // Put in only if the image, or the kernel, has one of these drivers; NULL: always.
    const struct strings *files_if;
    const struct initramfs_file *files;
    size_t n_files;
    // Rewrites a small text file of the image (conf/…, etc/…, cryptroot/…): true if *out
    // is its new content. NULL: nothing to rewrite.
    bool (*edit)(void *ctx, const char *path, const char *text, struct buf *out);
    void *ctx;
};
// What is to be done to one image. Nothing has been changed yet.
struct initramfs_patch {
    char *path;
    struct strings added;        // modules
    struct strings notes;        // one line a change
    struct buf segment;          // the new archive
    struct segment rewrite;      // the endless segment to be packed anew; len 0: none
    uint64_t old_size, new_size; // new_size: at most
};
// *ret_needed false: the image is as it should be, ret is empty.
int initramfs_prepare(const struct initramfs_job *job, struct initramfs_patch *ret,
                      bool *ret_needed, struct err *e);
int initramfs_commit(struct tree *t, const struct initramfs_patch *p, struct err *e);
// ERR_REFUSED when the patches, carried out one after another, need more room than their
// folder's file system has.
int initramfs_room(struct tree *t, const struct initramfs_patch *patches, size_t n,
                   struct err *e);
void initramfs_patch_done(struct initramfs_patch *p);
__attribute__((unused)) static inline void
auto_initramfs_patch_done(struct initramfs_patch *p)
{
    initramfs_patch_done(p);
}

// --- depmod.c

// Collects module files in a temporary folder and makes their indexes.
struct depmod;
int depmod_new(const char *version, struct depmod **ret, struct err *e);
void depmod_free(struct depmod *d); // removes the folder
DEFINE_AUTO(depmod_free, struct depmod *)
// A file below the kernel's folder: opened for writing, an earlier one emptied.
int depmod_file(struct depmod *d, const char *path, int *ret_fd, struct err *e);
bool depmod_has(struct depmod *d, const char *path);
int depmod_run(struct depmod *d, struct err *e);
// The index files' names, and the content of one file.
int depmod_indexes(struct depmod *d, struct strings *ret, struct err *e);
int depmod_read(struct depmod *d, const char *path, struct buf *out, struct err *e);
