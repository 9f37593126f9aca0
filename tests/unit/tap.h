// SPDX-License-Identifier: Apache-2.0
// The Test Anything Protocol in a screen: ok(), then done_testing().
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_n, tap_failed;
__attribute__((format(printf, 2, 3), unused)) static bool ok(bool passed,
                                                             const char *name, ...)
{
    va_list ap;
    va_start(ap, name);
    printf("%sok %d - ", passed ? "" : "not ", ++tap_n);
    vprintf(name, ap);
    printf("\n");
    va_end(ap);
    fflush(stdout);
    tap_failed += !passed;
    return passed;
}
__attribute__((unused)) static bool is_str(const char *got, const char *want,
                                           const char *name)
{
    bool same = got && want ? strcmp(got, want) == 0 : got == want;
    if (!same)
        printf("#   got:  %s\n#   want: %s\n", got ? got : "(null)",
               want ? want : "(null)");
    return ok(same, "%s", name);
}
__attribute__((unused)) static bool is_u64(unsigned long long got,
                                           unsigned long long want, const char *name)
{
    if (got != want)
        printf("#   got:  %llu\n#   want: %llu\n", got, want);
    return ok(got == want, "%s", name);
}
__attribute__((unused)) static void skip(const char *name, const char *why)
{
    printf("ok %d - %s # SKIP %s\n", ++tap_n, name, why);
}
__attribute__((unused)) static int done_testing(void)
{
    printf("1..%d\n", tap_n);
    return tap_failed ? 1 : 0;
}
