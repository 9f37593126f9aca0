// SPDX-License-Identifier: Apache-2.0
// records: the load that live migrations are tested with, and the proof that nothing of
// it was lost. One static program for the guest and for the host, on libc alone. A record
// says itself which file and offset it belongs to; it is *acknowledged* once the call
// that makes it durable has returned, and the acknowledgement goes to a collector on
// another machine.
//
// An acknowledgement is one line, "OP PLACE OFF LEN SEQ SUM":
//   record   the record SEQ with that sum is at OFF of PLACE
//   zero     LEN bytes at OFF of PLACE are zero
//   gone     there is no file PLACE
// PLACE is RUN/MODE or RUN/MODE.N under the folder, or "raw" for a device. SEQ grows.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/types.h>

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

// --- record.c: a record as bytes, and what each way of writing promises

#define RECORD_MIN 512
#define RECORD_MAX 65536
#define SLOT RECORD_MAX // files of slots hold a record, or zeros, at every multiple of it
#define PLACE_MAX 96

#define LOGS_KEPT 3 // of mode append; when another one begins, the oldest is removed

struct record {
    uint64_t place; // place_id() of where it belongs
    uint64_t off, seq;
    uint32_t writer, len; // len: all of it
    uint64_t seed;        // of the body
    uint64_t sum;         // over all of it, with this as zero
};
enum content { CONTENT_ZERO, CONTENT_RECORD, CONTENT_GARBAGE };

uint64_t place_id(const char *place);
// Writes r as r->len bytes, and sets its sum.
void record_write(struct record *r, uint8_t *buf);
enum content record_read(const uint8_t *buf, size_t len, struct record *ret);

// Files of slots, a log, a folder of files: they are checked differently.
enum layout { LAYOUT_SLOTS, LAYOUT_LOG, LAYOUT_FILES };

// A mode has one writer, so one operation is under way when power is cut, and that one's
// place may be torn. `torn_cut` and `torn_frozen` say how many places, after a power cut
// and after a freeze of the file system, which lets write() end, but stops a store into
// mapped memory at any page. A whole newer record that nobody acknowledged is always
// allowed.
struct mode {
    const char *name;
    enum layout layout;
    unsigned torn_cut, torn_frozen;
    unsigned erases; // operations under way that leave no record: a hole, a removed file
    unsigned window; // records it may have on their way to the collector
};
extern const struct mode modes[];
extern const size_t n_modes;
const struct mode *mode_of(const char *place); // NULL: of none

// --- acks.c: acknowledgements on their way out

struct acks;
// where: ADDRESS:PORT of a collector, "-" or a file (a console's device). Windows hold
// only against a collector, which confirms.
struct acks *acks_open(const char *where);
// Sends one line for writer number `writer`, then waits until fewer than `window` of
// that writer's lines are unconfirmed. -1: acks_stop() was called while it waited.
int acks_put(struct acks *a, unsigned writer, unsigned window, const char *fmt, ...)
    PRINTF(4, 5);
void acks_stop(struct acks *a);
// Waits for all confirmations; false: some are missing after that time.
bool acks_drain(struct acks *a, int timeout_ms);

// --- util.c

noreturn void die(const char *fmt, ...) PRINTF(1, 2);
void usage_if(bool wrong, const char *text);
uint64_t now_ms(void); // monotonic
void sleep_ms(uint64_t ms);
uint64_t mix(uint64_t *state);                       // the next pseudo-random number
uint64_t number(const char *text, const char *what); // 1, 4K, 2M, 1G; dies of others
void write_all(int fd, const void *buf, size_t len); // dies of an error
bool send_all(int fd, const void *buf, size_t len);  // false: the peer has gone
int tcp_listen(const char *port);
// A connection to ADDRESS:PORT or a Unix socket (a name with a slash); -1 with errno.
int stream_connect(const char *where, int timeout_ms);
int tcp_start(const char *address, const char *port); // a connect() under way
void stop_on_signals(void);                           // SIGTERM and SIGINT set `stopped`
extern volatile bool stopped;

// --- one subcommand each; argv[0] is its name

int cmd_write(int argc, char **argv);
int cmd_collect(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_ping(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_push(int argc, char **argv);
