// SPDX-License-Identifier: Apache-2.0
// libvirt+URI: the URI as libvirt spells it (https://libvirt.org/uri.html), with two
// parameters of ours among its own, which libvirt would refuse:
//
//     libvirt+qemu:///system?pool=fast           where disks go
//     libvirt+qemu:///system?domain=crm01        the machine to take
//     libvirt+qemu+unix:///system?socket=/run/x  "socket" is libvirt's: left in place
#include "cloud/libvirt/address.h"

#include <ctype.h>

static int hex(char c)
{
    const char *digits = "0123456789abcdef";
    const char *found = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
    return found ? (int)(found - digits) : -1;
}

// RFC 3986 section 2.1. NULL: not an escape, or a zero byte.
static char *decode(const char *s)
{
    AUTO(buf_done) struct buf out = BUF_INIT(4 * KIB);
    for (; *s; s++) {
        char c = *s;
        if (c == '%') {
            int high = hex(s[1]), low = high >= 0 ? hex(s[2]) : -1;
            if (low < 0 || (high == 0 && low == 0))
                return NULL;
            c = (char)(high * 16 + low);
            s += 2;
        }
        buf_add(&out, &c, 1);
    }
    return out.overflow ? NULL : buf_steal(&out);
}

void address_done(struct address *a)
{
    free(a->uri);
    free(a->pool);
    free(a->domain);
    *a = (struct address){0};
}

static int take_parameter(struct address *a, const char *word, struct buf *uri,
                          bool *first, struct err *e)
{
    static const struct {
        const char *key;
        size_t offset;
    } ours[] = {{"pool=", offsetof(struct address, pool)},
                {"domain=", offsetof(struct address, domain)}};
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (!str_starts(word, ours[i].key))
            continue;
        char **field = (char **)((char *)a + ours[i].offset);
        char *value = decode(word + strlen(ours[i].key));
        if (!value || !*value || *field) {
            free(value);
            return err_set(e, ERR_USAGE, "'%s': not a value, or given twice", word);
        }
        *field = value;
        return 0;
    }
    buf_str(uri, *first ? "?" : "&");
    buf_str(uri, word);
    *first = false;
    return 0;
}

int address_parse(const char *text, struct address *ret, struct err *e)
{
    const char *rest = text + strlen("libvirt+");
    if (!strstr(rest, ":/"))
        return err_set(e, ERR_USAGE, "'%s' is no libvirt URI: libvirt+qemu:///system",
                       text);
    AUTO(address_done) struct address a = {0};
    AUTO(buf_done) struct buf uri = BUF_INIT(4 * KIB);
    AUTO(str_free) char *copy = xstrdup(rest);
    char *query = copy, *before = strsep(&query, "?");
    buf_str(&uri, before);
    bool first = true;
    for (char *word; (word = strsep(&query, "&"));)
        if (*word && take_parameter(&a, word, &uri, &first, e) < 0)
            return -1;
    if (uri.overflow)
        return err_set(e, ERR_USAGE, "the address is longer than 4 KiB");
    a.uri = buf_steal(&uri);
    *ret = a;
    a = (struct address){0};
    return 0;
}

bool address_is_local(const char *uri)
{
    const char *colon = strstr(uri, "://");
    if (!colon)
        return true;
    size_t scheme = (size_t)(colon - uri);
    const char *plus = memchr(uri, '+', scheme);
    if (plus && strncmp(plus, "+unix:", 6) != 0)
        return false; // +ssh, +tls, +tcp, +libssh, +libssh2, +ext
    return colon[3] == '/' || colon[3] == 0;
}
