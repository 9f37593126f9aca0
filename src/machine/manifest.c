// SPDX-License-Identifier: Apache-2.0
// The manifest of an OVF package (DSP0243 version 2.1 section 9.2): a line a file,
//
//     SHA256(vm.ovf)= 0123…
//
// Only the description itself is compared here. The disks are not: that would read each
// of them once more, and the copy has hashes of its own.
#include "machine/reader.h"

#include <openssl/evp.h>

// The line's parts, all borrowed; false: not a line of a manifest.
struct line {
    const char *algorithm, *name, *digest;
    size_t n_algorithm, n_name, n_digest;
};

static bool split(const char *p, const char *end, struct line *ret)
{
    while (end > p && (end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t'))
        end--;
    const char *open = memchr(p, '(', (size_t)(end - p));
    const char *close = open ? memrchr(p, ')', (size_t)(end - p)) : NULL;
    if (!close || close < open)
        return false;
    const char *digest = close + 1;
    while (digest < end && (*digest == ' ' || *digest == '\t' || *digest == '='))
        digest++;
    *ret = (struct line){p,
                         open + 1,
                         digest,
                         (size_t)(open - p),
                         (size_t)(close - open - 1),
                         (size_t)(end - digest)};
    return true;
}

static const EVP_MD *algorithm_of(const struct line *l)
{
    static const struct {
        const char *name;
        const EVP_MD *(*md)(void);
    } known[] = {
        {"SHA1", EVP_sha1},
        {"SHA256", EVP_sha256},
        {"SHA384", EVP_sha384},
        {"SHA512", EVP_sha512},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strlen(known[i].name) == l->n_algorithm &&
            strncasecmp(l->algorithm, known[i].name, l->n_algorithm) == 0)
            return known[i].md();
    return NULL;
}

static int compare(const struct line *l, const char *name, const char *text, size_t len,
                   struct err *e)
{
    const EVP_MD *md = algorithm_of(l);
    if (!md)
        return err_set(e, ERR_REFUSED,
                       "the manifest has a %.*s for %s, which is not known",
                       (int)min_u64(l->n_algorithm, 20), l->algorithm, name);
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!EVP_Digest(text, len, digest, &n, md, NULL))
        return err_set(e, ERR_FAILED, "hashing %s with %s failed", name,
                       EVP_MD_get0_name(md));
    AUTO(buf_done) struct buf hex = BUF_INIT(2 * EVP_MAX_MD_SIZE);
    for (unsigned i = 0; i < n; i++)
        buf_printf(&hex, "%02x", digest[i]);
    if (hex.len != l->n_digest || strncasecmp(hex.data, l->digest, hex.len) != 0)
        return err_set(e, ERR_REFUSED,
                       "%s is not what its manifest says (%s differs): it was changed or "
                       "damaged; remove the manifest if the change is meant",
                       name, EVP_MD_get0_name(md));
    return 0;
}

int manifest_check(const char *manifest, size_t manifest_len, const char *name,
                   const char *text, size_t len, struct err *e)
{
    const char *p = manifest, *end = manifest + manifest_len;
    while (p < end) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *line_end = eol ? eol : end;
        struct line l;
        if (split(p, line_end, &l) && l.n_name == strlen(name) &&
            memcmp(l.name, name, l.n_name) == 0 && compare(&l, name, text, len, e) < 0)
            return -1;
        p = eol ? eol + 1 : end;
    }
    return 0;
}
