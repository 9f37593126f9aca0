// SPDX-License-Identifier: Apache-2.0
// While a round takes t seconds, dirty × t bytes become other ones: the next round takes
// dirty / rate of it. Below 1 rounds shrink, down to what a harvest costs; at 1 and above
// they never end. Measured figures are noisy, so a round counts as an improvement when it
// is a tenth shorter than the best, and three in vain are proof.
#include "job/forecast.h"

#define WEIGHT 0.5          // of the newest figure
#define MOVED_MIN (1 * MIB) // less says nothing about the rate
#define FREEZE_MS 100       // to freeze and to commit
#define HARVEST_MS 100      // until one was measured, see below
#define SMALL_MS 600        // a last round that is not worth another one
#define IN_VAIN_MAX 3
#define HELD_MAX 0.95
#define APART_MIN_MS 200 // between harvests
#define GAIN 0.9
#define DEADLINE_MIN_MS 5000

static double blend(double old, double now)
{
    return old > 0 ? WEIGHT * now + (1 - WEIGHT) * old : now;
}

// What a round costs that moves next to nothing, and so each of the two harvests in the
// freeze: sync, ask, look for what is known, flush.
static uint64_t harvests_ms(const struct forecast *f)
{
    return FREEZE_MS + 2 * (f->harvest_ms > 0 ? (uint64_t)f->harvest_ms : HARVEST_MS);
}

static double unheld(const struct forecast_round *r)
{
    return 1 - (r->held < HELD_MAX ? r->held : HELD_MAX);
}

// What was reached, or what could have been without giving way. Compressed, more than the
// limit arrives.
static double unheld_rate(const struct forecast_round *r)
{
    double reached = (double)r->moved * 1000 / (double)max_u64(r->took_ms, 1);
    double rate = reached / unheld(r), limit = (double)r->limit;
    return limit < 1 || rate < limit ? rate : reached > limit ? reached : limit;
}

void forecast_add(struct forecast *f, const struct forecast_round *r)
{
    // What the first round by hashes finds has changed over who knows how long, and two
    // harvests at once say nothing of a rate.
    bool telling = r->over_ms >= APART_MIN_MS && !(r->scanned && f->scan_ms == 0);
    if (telling || f->n_rounds == 0)
        f->dirty =
            blend(f->dirty, (double)r->changed * 1000 / (double)max_u64(r->over_ms, 1));
    if (r->moved >= MOVED_MIN || f->rate <= 0)
        f->rate = blend(f->rate, unheld_rate(r));
    if (r->moved < MOVED_MIN && !r->scanned)
        f->harvest_ms = blend(f->harvest_ms, (double)r->took_ms * unheld(r));
    f->round_ms = r->took_ms;
    f->scan_ms = r->scanned ? r->took_ms : 0;
    f->n_rounds++;
    uint64_t now = forecast_final_ms(f);
    if (f->n_rounds == 1 || (double)now < GAIN * (double)f->best_ms) {
        f->best_ms = now;
        f->n_in_vain = 0;
    } else {
        f->n_in_vain++;
    }
}

uint64_t forecast_final_bytes(const struct forecast *f)
{
    return (uint64_t)(f->dirty * (double)(f->round_ms + f->audit_ms + harvests_ms(f)) /
                      1000);
}

uint64_t forecast_final_ms(const struct forecast *f)
{
    uint64_t bytes = forecast_final_bytes(f);
    uint64_t fixed = harvests_ms(f) + f->audit_ms + f->scan_ms;
    if (bytes == 0)
        return fixed;
    if (f->rate < 1)
        return UINT64_MAX / 2; // nothing arrives
    return fixed + (uint64_t)((double)bytes * 1000 / f->rate);
}

uint64_t forecast_downtime_ms(const struct forecast *f)
{
    return forecast_final_ms(f) + f->fixed_ms;
}

enum forecast_verdict forecast_verdict(const struct forecast *f, uint64_t max_downtime_ms)
{
    uint64_t final = forecast_final_ms(f);
    if (f->n_rounds == 0)
        return FORECAST_AGAIN;
    bool fits = max_downtime_ms ? final + f->fixed_ms <= max_downtime_ms
                                : final < FORECAST_FREEZE_MS / 2;
    bool shrinks = final > SMALL_MS + f->audit_ms && f->n_in_vain < IN_VAIN_MAX;
    if (max_downtime_ms && fits)
        return FORECAST_READY;
    // Shorter is better as long as it gets shorter.
    if (shrinks || (max_downtime_ms && f->n_in_vain < IN_VAIN_MAX))
        return FORECAST_AGAIN;
    return fits ? FORECAST_READY : FORECAST_NEVER;
}

uint64_t forecast_deadline_ms(const struct forecast *f, uint64_t max_downtime_ms)
{
    uint64_t most = max_downtime_ms ? max_downtime_ms : FORECAST_FREEZE_MS;
    uint64_t wanted = min_u64(3 * min_u64(forecast_final_ms(f), most), most);
    return min_u64(max_u64(wanted, DEADLINE_MIN_MS), max_u64(most, 1000));
}
