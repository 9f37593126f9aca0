// SPDX-License-Identifier: Apache-2.0
// When to cut over: rounds that shrink, that never will, that are small enough, against
// what was asked for.
#include "job/forecast.h"

#include "tap.h"

// A server that writes `dirty` bytes a second over a link of `rate`, its first delta
// being of `first` bytes: how it ends.
struct row {
    const char *name;
    uint64_t dirty, rate, first, fixed_ms, max_downtime_ms;
    enum forecast_verdict end;
    unsigned most_rounds;
};

static const struct row rows[] = {
    {"an idle server is ready after one delta", 0, 100 * MIB, 0, 10000, 0, FORECAST_READY,
     1},
    {"a tenth of the link: a few rounds", 10 * MIB, 100 * MIB, 10 * GIB, 10000, 0,
     FORECAST_READY, 6},
    {"nine tenths: many, but it ends", 90 * MIB, 100 * MIB, GIB, 10000, 0, FORECAST_READY,
     40},
    {"twice the link: never", 200 * MIB, 100 * MIB, 10 * GIB, 10000, 0, FORECAST_NEVER,
     10},
    {"fits at once: not one round more", 10 * MIB, 100 * MIB, 500 * MIB, 10000, 30000,
     FORECAST_READY, 1},
    {"fits when rounds have shrunk", 10 * MIB, 100 * MIB, 20 * GIB, 10000, 12000,
     FORECAST_READY, 5},
    {"converting alone takes longer: never", MIB, 100 * MIB, GIB, 20000, 15000,
     FORECAST_NEVER, 10},
    {"the link is too slow for what was asked", 99 * MIB, 100 * MIB, 60 * GIB, 1000, 2000,
     FORECAST_NEVER, 30},
    {"nothing arrives: never", MIB, 0, GIB, 0, 60000, FORECAST_NEVER, 10},
};

static void test_rows(void)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        struct forecast f = {.fixed_ms = r->fixed_ms};
        enum forecast_verdict v = forecast_verdict(&f, r->max_downtime_ms);
        bool first = v == FORECAST_AGAIN;
        uint64_t changed = r->first, over = r->dirty ? changed * 1000 / r->dirty : 60000;
        unsigned n = 0;
        while (v == FORECAST_AGAIN && n < 100) {
            uint64_t took = 200 + (r->rate ? changed * 1000 / r->rate : 60000);
            forecast_add(&f, &(struct forecast_round){.changed = changed,
                                                      .over_ms = over,
                                                      .moved = r->rate ? changed : 0,
                                                      .took_ms = took});
            over = took;
            changed = r->dirty * took / 1000;
            v = forecast_verdict(&f, r->max_downtime_ms);
            n++;
        }
        if (!ok(first && v == r->end && n <= r->most_rounds, "%s (%u rounds)", r->name,
                n))
            printf("# verdict %d, final %llu ms\n", v,
                   (unsigned long long)forecast_final_ms(&f));
    }
}

static void test_figures(void)
{
    struct forecast f = {.fixed_ms = 5000};
    forecast_add(&f, &(struct forecast_round){.changed = 100 * MIB,
                                              .over_ms = 10000,
                                              .moved = 100 * MIB,
                                              .took_ms = 2000});
    ok(f.dirty > 9.9 * MIB && f.dirty < 10.1 * MIB,
       "the dirty rate is what changed a second");
    ok(forecast_final_bytes(&f) > 22 * MIB && forecast_final_bytes(&f) < 24 * MIB,
       "a last round holds what changes while one is copied");
    uint64_t ms = forecast_final_ms(&f);
    ok(ms > 600 && ms < 900, "... and takes as long as the link needs (%llu ms)",
       (unsigned long long)ms);
    is_u64(forecast_downtime_ms(&f), ms + 5000,
           "the downtime is that, and what is fixed");
    struct forecast audited = f;
    audited.audit_ms = 300; // meanwhile 3 MiB change: 60 ms
    ms = forecast_final_ms(&audited) - ms;
    ok(ms >= 350 && ms <= 370, "an audit counts, and what changes until the freeze");
    forecast_add(&f,
                 &(struct forecast_round){
                     .changed = 4096, .over_ms = 2000, .moved = 4096, .took_ms = 100});
    ok(f.rate > 49 * MIB, "a round of a few blocks says nothing about the link");
    struct forecast quick = {0}, slow = {0};
    for (uint64_t i = 0; i < 3; i++) {
        struct forecast_round r = {.over_ms = 1000, .took_ms = 10};
        forecast_add(&quick, &r);
        r.took_ms = 1000, r.held = 0.75;
        forecast_add(&slow, &r);
    }
    is_u64(forecast_final_ms(&quick), 120, "... but what a harvest costs, two of them");
    is_u64(forecast_final_ms(&slow), 600, "... without the time that reading gave way");
}

// 10 MiB in 10 s, 9 of which reading gave way.
static double rate_of(uint64_t limit, double held)
{
    struct forecast f = {0};
    forecast_add(&f, &(struct forecast_round){.changed = MIB,
                                              .over_ms = 10000,
                                              .moved = 10 * MIB,
                                              .took_ms = 10000,
                                              .held = held,
                                              .limit = limit});
    return f.rate / MIB;
}

static void test_held(void)
{
    ok(rate_of(0, 0) < 1.1, "what arrived is the rate");
    ok(rate_of(0, 0.9) > 9.9, "... but for the time that reading gave way");
    ok(rate_of(4 * MIB, 0.9) < 4.1, "... and not above the limit");
    ok(rate_of(MIB / 2, 0.9) > 0.9, "... unless it was, compressed");
    ok(rate_of(0, 7) < 21, "more time than there was is not believed");
}

static void test_deadline(void)
{
    struct forecast f = {0};
    is_u64(forecast_deadline_ms(&f, 0), 5000, "a deadline has room for a slow disk");
    f = (struct forecast){.dirty = 100 * MIB, .rate = 10 * MIB, .round_ms = 60000};
    is_u64(forecast_deadline_ms(&f, 0), 30000, "it is 30 s at most");
    is_u64(forecast_deadline_ms(&f, 90000), 90000, "... or what was asked for");
    is_u64(forecast_deadline_ms(&f, 2000), 2000, "... also where that is less");
    f.rate = 0;
    is_u64(forecast_deadline_ms(&f, 0), 30000, "nothing arrives: no overflow");
}

int main(void)
{
    test_rows();
    test_figures();
    test_held();
    test_deadline();
    return done_testing();
}
