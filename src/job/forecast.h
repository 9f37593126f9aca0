// SPDX-License-Identifier: Apache-2.0
// How long a cutover would take, and whether another round makes it shorter. Arithmetic
// alone: no clock, no source. Inside job/ only.
#pragma once

#include "base/base.h"

struct forecast {
    double dirty;       // bytes a second that become other ones, as harvests say
    double rate;        // bytes a second that arrive
    uint64_t round_ms;  // the last round took so long: what a harvest now would say of
    double harvest_ms;  // a round that moves next to nothing; 0: there was none yet
    uint64_t scan_ms;   // reading all hashes, where no tracker is believed
    uint64_t audit_ms;  // in the freeze, and between the last round and it
    uint64_t fixed_ms;  // convert, import and boot, as measured
    uint64_t best_ms;   // the shortest last round that was ever forecast
    unsigned n_rounds;  // deltas so far
    unsigned n_in_vain; // rounds in a row that did not make it shorter
};
struct forecast_round {
    uint64_t changed; // bytes, of this round's harvest
    uint64_t over_ms; // between the harvest before and this one
    uint64_t moved;   // bytes that crossed the network for it
    uint64_t took_ms; // harvest, copy and flush
    double held;      // share of it for which reading gave way: in a freeze it does not
    uint64_t limit;   // bytes a second that are allowed, 0: no limit
    bool scanned;     // all hashes were read
};
void forecast_add(struct forecast *f, const struct forecast_round *r);
uint64_t forecast_final_bytes(const struct forecast *f);
uint64_t forecast_final_ms(const struct forecast *f); // of the freeze
uint64_t forecast_downtime_ms(const struct forecast *f);
enum forecast_verdict {
    FORECAST_AGAIN, // another round makes it shorter
    FORECAST_READY, // it fits, or does not get any shorter
    FORECAST_NEVER, // it does not get any shorter, and does not fit
};
// max_downtime_ms 0: none was asked for; the freeze has its limit then.
enum forecast_verdict forecast_verdict(const struct forecast *f,
                                       uint64_t max_downtime_ms);
// How long the source may stay frozen before it thaws by itself.
#define FORECAST_FREEZE_MS 30000
uint64_t forecast_deadline_ms(const struct forecast *f, uint64_t max_downtime_ms);
