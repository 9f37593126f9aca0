// SPDX-License-Identifier: Apache-2.0
// What the files image*.c share; nobody outside of this folder includes it.
#pragma once

#include "disk/disk.h"

#define IMAGE_SIZE_MAX (1024 * TIB)
#define IMAGE_CHAIN_MAX 32  // links of a backing chain
#define IMAGE_FILES_MAX 900 // extents of one VMDK, each an open file of QEMU's

// --- image_probe.c: what must be known before QEMU opens a file
// -------------------------------------

struct image_format {
    const char *name; // QEMU's
    bool backing;     // takes the option "backing"
    bool mapped;      // `qemu-img map` tells offsets in the one file that holds the data
    unsigned granule; // every whole file of it is a multiple of this
    bool checked;     // `qemu-img check` knows it
};
// NULL: not one that we read.
const struct image_format *image_format_find(const char *name);

// A file that a VMDK descriptor names.
struct vmdk_extent {
    char *path;
    uint64_t need; // bytes that it must have at least
};
struct image_probe {
    const struct image_format *format;
    uint64_t size;         // of the file or part
    bool data_file;        // qcow2 whose data lies in another file
    char *vmdk_descriptor; // the text, of a VMDK that is only that
};
// Reads the beginning (and end) of a file. `format` NULL: by its magic number; what has
// none is raw. Refuses what QEMU would read wrongly without a word: differencing VHDs.
int image_probe(int fd, const char *path, uint64_t part_off, uint64_t part_len,
                const char *format, struct image_probe *ret, struct err *e);
void image_probe_done(struct image_probe *p);
__attribute__((unused)) static inline void auto_image_probe_done(struct image_probe *p)
{
    image_probe_done(p);
}
// Calls `found` for every extent of a VMDK descriptor (VMware Virtual Disk Format 1.1,
// "the extent description"); name is NULL for one without file.
int vmdk_extents(const char *text, const char *what,
                 int (*found)(void *context, const char *name, uint64_t need,
                              struct err *e),
                 void *context, struct err *e);

// --- image_chain.c: an image and all files beneath it, checked
// --------------------------------------

struct image_link {
    char *path; // resolved
    const struct image_format *format;
    char *data_file;  // qcow2's external one, resolved; NULL: none
    char *data_path;  // the one file that map's offsets mean; NULL: not proven
    uint64_t cluster; // how far a file may end inside its last cluster
    uint64_t part_off, part_len;
};
struct image_chain {
    struct image_link *v; // v[0] is the image, v[depth] what `qemu-img map` calls depth
    size_t n, cap;
    struct image_info info;
    int *locks; // of every file, held until image_chain_done
    size_t n_locks, cap_locks;
};
int image_chain_open(const struct image_options *options, struct image_chain *ret,
                     struct err *e);
void image_chain_done(struct image_chain *c);
__attribute__((unused)) static inline void auto_image_chain_done(struct image_chain *c)
{
    image_chain_done(c);
}
// The whole chain as QEMU's "json:{…}" name: every node is spelled out, so that nothing
// is opened because an image says so. free() it.
char *image_chain_name(const struct image_chain *c);

// --- image_tool.c: runs of qemu-img, bounded in memory and time
// --------------------------------------

// Runs `qemu-img argv…` (NULL at the end); its output is JSON. An exit code other than 0
// is an error only when there is no JSON, else *ret_failed.
int image_tool_json(const char *const *argv, json_t **ret, bool *ret_failed,
                    struct err *e);
// argv with the limits in front, to be freed with strings_done.
void image_tool_argv(struct strings *out, const char *program);

// --- image_map.c: where the data of an image lies
// ---------------------------------------------------

struct map_entry {
    uint64_t off, len; // in the disk
    uint64_t at;       // in the file
    uint16_t depth;
    uint8_t kind; // enum extent_kind
    bool located; // `at` is known, and which file it is in is proven
};
// One line of `qemu-img map --output=json`. 0: a line without an entry.
int map_entry_parse(const char *line, struct map_entry *ret, struct err *e);

struct image_map;
// Starts the child. `chain` is borrowed for the map's life. All calls may come from
// several threads at once.
int image_map_open(const struct image_chain *chain, struct image_map **ret,
                   struct err *e);
void image_map_close(struct image_map *m);
DEFINE_AUTO(image_map_close, struct image_map *)
// The entry that holds `off`, reading on as far as memory allows. *ret_found false: not
// known without forgetting others (image_map_seek).
int image_map_find(struct image_map *m, uint64_t off, struct map_entry *ret,
                   bool *ret_found, struct err *e);
// The same, forgetting what lies before or starting the child anew where need be.
int image_map_seek(struct image_map *m, uint64_t off, struct map_entry *ret,
                   struct err *e);
// Reads on for at most `ms`, or until memory is used up; true when the end was reached
// and every data entry is located.
int image_map_complete(struct image_map *m, uint64_t ms, bool *ret_direct, struct err *e);
// The i-th entry known; false: there are no more.
bool image_map_known(struct image_map *m, size_t i, struct map_entry *ret);

// --- image_server.c: qemu-nbd children
// --------------------------------------------------------------

struct server_options {
    const char *name;     // QEMU's
    const char *path;     // for messages
    const char *snapshot; // qemu-nbd's --load-snapshot; NULL: none
    unsigned n_children;
    unsigned connections; // to each
    bool writable;        // one child only
};
// *ret_disk reads from the children in turn and ends them when it is closed.
// They end with the thread that calls.
int image_server_open(const struct server_options *options, struct disk **ret_disk,
                      struct err *e);
