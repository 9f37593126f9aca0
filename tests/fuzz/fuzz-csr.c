// SPDX-License-Identifier: Apache-2.0
// A request for a certificate from anybody: refused with a reason, or signed for the name
// that we gave and nothing else of it.
#include "fuzz.h"
#include "net/net.h"

static char *dir;
static void remove_dir(void)
{
    struct err e;
    (void)dir_remove(dir, &e);
    free(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    if (!dir) {
        if (dir_temp(&dir, &e) < 0 || pki_make(dir, &e) < 0)
            abort();
        (void)atexit(remove_dir);
    }
    AUTO(str_free) char *csr = xstrndup((const char *)data, size);
    AUTO(str_free) char *cert = NULL;
    uint8_t pin[PIN_LEN];
    if (pki_sign(dir, csr, "name", NULL, &cert, pin, &e) < 0)
        assert(e.text[0] && !cert);
    else
        assert(str_starts(cert, "-----BEGIN CERTIFICATE-----\n"));
    return 0;
}
