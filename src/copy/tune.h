// SPDX-License-Identifier: Apache-2.0
// Finds request size and number of workers by trying. Inside copy/ only.
#pragma once

#include "base/base.h"

struct tune {
    uint64_t request; // bytes, a power of two times 64 KiB
    unsigned workers;
    unsigned max_workers;
    uint64_t max_request;
    bool starting;           // doubling, before any trial
    unsigned trying;         // which move is next, or on trial
    bool on_trial;           // the window that runs now measures it
    uint64_t before_request; // to go back to
    unsigned before_workers;
    unsigned in_vain;       // moves in a row that were not worth it
    unsigned resting, rest; // windows: to go, and of the next rest
    double best;            // bytes per second without the move on trial
    uint64_t since_ns, since_bytes;
};
// `limited`: by a rate, so that it begins with small requests.
void tune_init(struct tune *t, unsigned max_workers, uint64_t max_request, bool limited);
// Called now and then with the bytes done so far; changes request and workers. True when
// it did.
bool tune_step(struct tune *t, uint64_t bytes, uint64_t now_ns);
