// SPDX-License-Identifier: Apache-2.0
// A disk: a sized thing that is read and written. Files, NBD exports, images parsed by
// QEMU, overlays and filters all look like this; nobody above knows which one it has.
//
//     throttle ─► fault ─► image ─┬─► file     where `qemu-img map` proves the place
//                                 └─► nbd      a qemu-nbd child for everything else
//
// Callers use disk_read() and its sisters, never ops: they check ranges, add the disk's
// name to errors and supply what a driver leaves out. All calls on one disk may come from
// several threads at once.
#pragma once

#include "base/base.h"

struct tls; // net/net.h

// --- extents.c: lists of byte ranges
// --------------------------------------------------------------

enum extent_kind {
    EXTENT_HOLE, // reads as zeros and nothing is stored there
    EXTENT_ZERO, // reads as zeros
    EXTENT_DATA, // anything else, including what is not known
};
struct extent {
    uint64_t off, len; // bytes; len > 0
    enum extent_kind kind;
};
// Sorted by offset, without overlaps; neighbours of one kind are joined.
struct extents {
    struct extent *v;
    size_t n, cap;
};
void extents_done(struct extents *x);
__attribute__((unused)) static inline void auto_extents_done(struct extents *x)
{
    extents_done(x);
}
// Appends behind the end of the list (asserted); joins with the last one when it touches
// and is of its kind.
void extents_append(struct extents *x, uint64_t off, uint64_t len, enum extent_kind kind);
// Adds EXTENT_DATA anywhere; overlaps melt together. For lists that hold data only.
void extents_add(struct extents *x, uint64_t off, uint64_t len);
void extents_remove(struct extents *x, uint64_t off, uint64_t len);
uint64_t extents_bytes(const struct extents *x, enum extent_kind kind);
// The data parts of a that are also in b's data.
void extents_and(const struct extents *a, const struct extents *b, struct extents *out);
// All of both, as data, in linear time.
void extents_or(const struct extents *a, const struct extents *b, struct extents *out);
// Data extents grown to multiples of `granule`, cut at `size`, joined.
void extents_align(struct extents *x, uint64_t granule, uint64_t size);

// --- disk.c: the interface and its checking wrappers
// ----------------------------------------------

struct disk;
struct disk_ops {
    const char *type; // "file", "nbd"…
    // Exactly len bytes. Range and length were checked against disk->size.
    int (*read)(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e);
    void (*close)(struct disk *d);
    // NULL: the disk is read-only.
    int (*write)(struct disk *d, const void *buf, size_t len, uint64_t off,
                 struct err *e);
    // Afterwards the range reads as zeros, whatever was there; room is given back when
    // `punch`. NULL: disk_zero writes zeros.
    int (*zero)(struct disk *d, uint64_t off, uint64_t len, bool punch, struct err *e);
    // Data that was written is on stable storage afterwards. NULL: nothing to do.
    int (*flush)(struct disk *d, struct err *e);
    // Appends extents that cover [off, off + done) with 0 < done <= len to `out` and sets
    // *ret_done: a driver answers as far as it likes. NULL: all data.
    int (*extents)(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                   uint64_t *ret_done, struct err *e);
};
struct disk {
    const struct disk_ops *ops;
    char *name;           // for messages: the path or address
    uint64_t size;        // bytes, any number
    uint32_t sector_size; // 512 or 4096: what the guest on it saw; 512 when not known
    uint32_t alignment;   // requests that are multiples of it are fastest, >= 1
    unsigned n_parallel;  // requests in flight that still help, >= 1
};

int disk_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e);
int disk_write(struct disk *d, const void *buf, size_t len, uint64_t off, struct err *e);
int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool punch, struct err *e);
// Zeros as ordinary writes, whatever the driver could do better.
int disk_write_zeros(struct disk *d, uint64_t off, uint64_t len, struct err *e);
int disk_flush(struct disk *d, struct err *e);
// Extents of a part of [off, off + len), at least one byte of it, from `off` on: call
// again from off + *ret_done until the range is covered ("an empty page in the middle is
// not the end").
int disk_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                 uint64_t *ret_done, struct err *e);
// The whole range at once; only where it is known to be small (tests, metadata).
int disk_extents_all(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                     struct err *e);
void disk_close(struct disk *d);
DEFINE_AUTO(disk_close, struct disk *)

// --- file.c: a raw file or block device
// -----------------------------------------------------------

struct file_options {
    const char *path;
    bool writable;
    bool create;   // makes a sparse file of `size`; ERR_REFUSED if it exists and is not
                   // empty
    uint64_t size; // with create
    // A part of a file as a disk (a disk image inside an OVA): both 0 for the whole.
    uint64_t part_off, part_len;
    bool buffered; // not O_DIRECT (which is tried first and given up silently where
                   // refused)
};
// Takes QEMU's image locks (byte-range OFD locks, docs of QEMU's file-posix: permissions
// from byte 100, shared from 200): a file that a running QEMU has open for writing is
// ERR_REFUSED. Unaligned requests are bounced. Holes by SEEK_DATA/SEEK_HOLE.
int file_open(const struct file_options *options, struct disk **ret, struct err *e);

// --- lock.c: QEMU's image locks
// -------------------------------------------------------------------

// Held while the descriptor (opened for reading at least) lives: as a reader, several of
// whom share, or as the only writer. ERR_REFUSED: QEMU or one of us has the file open in
// a way that does not go with it. file_open() takes them itself.
int disk_lock(int fd, const char *path, bool writable, struct err *e);

// --- nbd.c: an NBD export
// -------------------------------------------------------------------------

struct nbd_options {
    const char *socket; // Unix socket
    const char *export_name;
    unsigned connections; // opened when needed, at most the server's multi-conn limit
    bool connect_all;     // all connections now: the socket may be unlinked afterwards
    bool writable;
    // Instead of `socket`: gives a connected stream for each connection. `peer` is what
    // messages call the server.
    int (*connect)(void *context, int *ret_fd, struct err *e);
    // With `connect`: how many connections are worth having in use now, asked before each
    // request and at least 1; NULL: all.
    unsigned (*worth)(void *context);
    void *context; // borrowed while the disk lives
    const char *peer;
    // Metadata context that extents come from, NULL: base:allocation. Of another one
    // every extent whose flags are not 0 is EXTENT_DATA, the rest EXTENT_HOLE; a server
    // that does not know it: ERR_REFUSED.
    const char *meta_context;
};
int nbd_open(const struct nbd_options *options, struct disk **ret, struct err *e);

// --- serve.c: an NBD server
// -----------------------------------------------------------------------
//
// Fixed newstyle, structured replies, NBD_OPT_GO and LIST, block sizes, several
// connections (one call a connection), metadata contexts (doc/proto.md of
// NetworkBlockDevice). Requests out of range, unknown commands and options are answered
// with errors and hurt nobody else.

struct serve_options {
    // The export NAME for this connection, closed with it. No such: ERR_REFUSED.
    int (*open)(void *context, const char *name, struct disk **ret, struct err *e);
    void (*names)(void *context, struct strings *ret); // for NBD_OPT_LIST
    // Metadata contexts beside base:allocation, NULL: none. Is META one of export NAME?
    bool (*has_meta)(void *context, const char *name, const char *meta);
    // As disk_ops.extents; EXTENT_DATA is told as flags 1, the rest as 0.
    int (*meta)(void *context, const char *name, const char *meta, uint64_t off,
                uint64_t len, struct extents *out, uint64_t *ret_done, struct err *e);
    void *context;
    bool writable; // exports whose disk can be written take writes, zeroes and trims
    // Stock clients: STARTTLS comes before everything else and is ended with this; NULL:
    // `fd` is private already.
    struct tls *tls;
    const char *only_peer; // with tls: common name the client's certificate must have
};
// Serves one connection until the peer ends it (0). fd is taken.
int serve_connection(int fd, const struct serve_options *options, struct err *e);

// --- hashed.c: the hashes of a disk as a disk
// ----------------------------------------------

#define STRONG_LEN 32 // BLAKE2b-256: equal hashes mean equal blocks, whoever made them
void strong_hash(const void *data, size_t len, uint8_t ret[static STRONG_LEN]);
// STRONG_LEN bytes for every `block` bytes of `next`, computed when they are read; all
// zeros for a block that reads as zeros.
struct disk *hashed_new(struct disk *next /* taken */, uint64_t block);

// --- image.c: any image that QEMU reads
// -----------------------------------------------------------

struct image_options {
    const char *path;
    const char
        *format; // NULL: probed by qemu-img; "raw" is never probed into something else
    const char *snapshot;    // internal snapshot by name or id, NULL: the current state
    const char *allowed_dir; // backing and extent files must resolve below it; NULL: the
                             // image's own folder
    bool allow_any_path;     // --allow-path
    uint64_t part_off, part_len; // the image is a part of `path` (OVA); 0, 0: all of it
    unsigned connections;        // to the qemu-nbd children, 0: chosen
};
// What qemu-img says about it, checked: ERR_REFUSED for an image in use, a backing file
// that is missing or outside, an encrypted image, an absurd size (above 1 PiB, or 0), a
// truncated or corrupt file.
struct image_info {
    char *format;        // QEMU's name: raw qcow2 vmdk vpc vhdx vdi …
    uint64_t size;       // what the guest saw
    uint64_t file_bytes; // what the files take on disk
    struct strings
        files; // every file of the image: itself, extents, data file, backing chain
    struct strings snapshots; // names of internal snapshots
    char *qemu_name; // "json:{…}": the whole chain, every node spelled out, so that QEMU
                     // opens nothing because an image says so
    bool compressed; // has compressed clusters (streamOptimized, qcow2 -c): reading costs
                     // CPU
};
int image_info(const struct image_options *options, struct image_info *ret,
               struct err *e);
void image_info_done(struct image_info *info);
__attribute__((unused)) static inline void auto_image_info_done(struct image_info *info)
{
    image_info_done(info);
}
// Read-only. Where the owning file of an extent is proven (DESIGN.md idea 1) it is read
// directly, everything else through qemu-nbd children that are started at the first such
// read and end with the disk.
int image_open(const struct image_options *options, struct disk **ret, struct err *e);

// --- qcow2.c: a qcow2 file as a target
// ------------------------------------------------------------

// A new one, all holes; the size is rounded up to 512.
int qcow2_create(const char *path, uint64_t size, struct err *e);
// Before one is written to again that a kill may have left: gives back what it lost.
// ERR_REFUSED: it is damaged.
int qcow2_mend(const char *path, struct err *e);
// Through a qemu-nbd that ends with the disk, or with us. Its backing file, if somebody
// gave it one, is not looked at.
int qcow2_open(const char *path, bool writable, struct disk **ret, struct err *e);

// --- overlay.c: qcow2 overlays
// --------------------------------------------------------------------

// A qcow2 overlay at `path` over `backing` (format always stated; size in bytes, 0: the
// backing's), in the same folder's relative terms, so that the pair can be moved.
int overlay_create(const char *path, const char *backing, const char *backing_format,
                   uint64_t size, struct err *e);
// Writes the overlay back into its backing file and removes it.
int overlay_commit(const char *path, struct err *e);
// One file of `format` ("raw", "qcow2") from an image and all beneath it.
int image_flatten(const char *src, const char *src_format, const char *dst,
                  const char *format, struct err *e);

// --- null.c, fault.c, throttle.c: the smallest driver, and filters
// --------------------------------

struct disk *null_new(uint64_t size); // reads zeros, swallows writes

struct fault {
    uint64_t fail_at; // the Nth call (from 1) of all counted operations fails; 0: none
    enum err_code code;
    bool every;       // every call from fail_at on
    uint64_t n_calls; // counted so far, over all disks that share it
};
struct disk *fault_new(struct disk *next /* taken */, struct fault *fault /* borrowed */);
struct disk *throttle_new(struct disk *next /* taken */,
                          struct rate *rate /* borrowed */);
