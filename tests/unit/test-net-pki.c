// SPDX-License-Identifier: Apache-2.0
// pki.c: an authority, keys and requests; what openssl says of them.
#include "net/net.h"
#include "scratch.h"

#include <pthread.h>
#include <sys/stat.h>

static bool says(const char *wanted, const char *line)
{
    struct err e;
    AUTO(buf_done) struct buf out = BUF_INIT(MIB);
    AUTO(str_free) char *all = xasprintf("cd '%s' && %s 2>&1", scratch, line);
    char *argv[] = {"sh", "-c", all, NULL};
    (void)proc_run(argv, &out, &e);
    bool found = out.data && strstr(out.data, wanted);
    if (!found)
        printf("# %s\n# said: %s\n", line, out.data ? out.data : e.text);
    return found;
}

static char *file_text(const char *path)
{
    struct err e;
    struct buf b = BUF_INIT(MIB);
    (void)file_read(path, &b, &e);
    return buf_steal(&b);
}

static void *make(void *arg)
{
    struct err e;
    if (pki_make(in("pki"), &e) < 0)
        printf("# %s\n", e.text);
    return arg;
}

static void test_make(void)
{
    struct err e;
    struct stat st;
    ok(pki_make(in("pki"), &e) == 0, "an authority is made");
    ok(stat(in("pki"), &st) == 0 && (st.st_mode & 07777) == 0700,
       "in a folder of its own");
    ok(stat(in("pki/ca.key"), &st) == 0 && (st.st_mode & 07777) == 0600 &&
           stat(in("pki/own.key"), &st) == 0 && (st.st_mode & 07777) == 0600,
       "keys are for us alone");
    AUTO(str_free) char *before = file_text(in("pki/own.pem"));
    ok(pki_make(in("pki"), &e) == 0, "and again");
    AUTO(str_free) char *after = file_text(in("pki/own.pem"));
    ok(strcmp(before, after) == 0 && before[0], "what is there stays");
    ok(says("pki/own.pem: OK", "openssl verify -x509_strict -purpose sslserver -CAfile "
                               "pki/ca.pem pki/own.pem"),
       "openssl verifies ours as a server");
    ok(says("pki/own.pem: OK", "openssl verify -x509_strict -purpose sslclient -CAfile "
                               "pki/ca.pem pki/own.pem"),
       "and as a client");
    ok(says("OK", "openssl verify -attime 1 -CAfile pki/ca.pem "
                  "pki/own.pem"),
       "also where the clock stands at 1970");
    sh("rm pki/own.pem pki/ca.pem"); // as after a kill between key and certificate
    ok(pki_make(in("pki"), &e) == 0 &&
           says("pki/own.pem: OK", "openssl verify -CAfile pki/ca.pem pki/own.pem"),
       "half of it is made whole");
    sh("mv pki/ca.key kept");
    ok(pki_make(in("pki"), &e) < 0 && strstr(e.text, "ca.key"),
       "an authority that lost its key is not replaced");
    sh("rm -r pki");
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, make, NULL);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    ok(says("pki/own.pem: OK", "openssl verify -CAfile pki/ca.pem pki/own.pem"),
       "four that begin at once make one");
}

static void test_sign(void)
{
    struct err e;
    AUTO(str_free) char *csr = NULL;
    AUTO(str_free) char *cert = NULL;
    uint8_t pin[PIN_LEN];
    ok(pki_request(in("a.key"), "crm01", &csr, &e) == 0, "a request");
    ok(pki_sign(in("pki"), csr, "crm 01", NULL, &cert, pin, &e) == 0 &&
           file_write(in("a.pem"), cert, strlen(cert), 0644, &e) == 0,
       "is signed");
    ok(says("a.pem: OK", "openssl verify -x509_strict -CAfile pki/ca.pem a.pem"),
       "and verified");
    ok(says("CN = crm 01", "openssl x509 -in a.pem -noout -subject"),
       "under the name we gave it");
    ok(says("CA:FALSE", "openssl x509 -in a.pem -noout -ext basicConstraints"),
       "as no authority");
    char hex[2 * PIN_LEN + 1];
    for (size_t i = 0; i < PIN_LEN; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", pin[i]);
    ok(says(hex,
            "openssl x509 -in a.pem -noout -pubkey | openssl pkey -pubin -outform DER "
            "| sha256sum"),
       "its pin is the hash of its key");
    ok(pki_sign(in("pki"), csr, "godwit", NULL, &cert, pin, &e) < 0 &&
           e.code == ERR_REFUSED,
       "nobody else gets our name");
    ok(pki_sign(in("pki"), csr, "", NULL, &cert, pin, &e) < 0 &&
           pki_sign(in("pki"), csr, "a\nb", NULL, &cert, pin, &e) < 0,
       "nor one that is no name");
    ok(pki_request(in("no/folder"), "x", &csr, &e) < 0, "a key that cannot be kept");
}

static void refused(const char *name)
{
    struct err e = {0};
    uint8_t pin[PIN_LEN];
    AUTO(str_free) char *csr = file_text(in("bad"));
    AUTO(str_free) char *cert = NULL;
    bool right =
        pki_sign(in("pki"), csr, "x", NULL, &cert, pin, &e) < 0 && !cert && e.text[0];
    ok(right, "%s", name);
    printf("# %s\n", e.text);
}

static void test_bad_requests(void)
{
    sh("openssl req -new -nodes -newkey rsa:2048 -keyout k -subj /CN=x -out bad "
       "2>/dev/null");
    refused("an RSA key");
    sh("openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-384 -keyout k "
       "-subj /CN=x -out bad 2>/dev/null");
    refused("another curve");
    sh("openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout k "
       "-subj /CN=x -outform DER -out der 2>/dev/null; "
       "v=$(tail -c 3 der | od -An -N1 -tu1); "
       "printf \"\\\\$(printf %%o $((v ^ 1)))\" | dd of=der bs=1 "
       "seek=$(($(stat -c %%s der) - 3)) conv=notrunc 2>/dev/null; openssl req -inform "
       "DER -in der -out bad 2>/dev/null || "
       "{ echo -----BEGIN CERTIFICATE REQUEST-----; base64 der; "
       "echo -----END CERTIFICATE REQUEST-----; } >bad");
    refused("a signature that is not of the key");
    sh("head -c 100000 /dev/zero | tr '\\0' A >bad");
    refused("too much");
    sh("printf 'GET / HTTP/1.1\\r\\n\\r\\n' >bad");
    refused("something else");
    sh(": >bad");
    refused("nothing");
    sh("cp a.pem bad");
    refused("a certificate");
    sh("printf -- '-----BEGIN CERTIFICATE REQUEST-----\\nProc-Type: "
       "4,ENCRYPTED\\nDEK-Info: "
       "AES-256-CBC,00112233445566778899AABBCCDDEEFF\\n\\nAAAA\\n-----END CERTIFICATE "
       "REQUEST-----\\n' >bad");
    refused("one that asks for a password");
}

int main(void)
{
    scratch_make();
    test_make();
    test_sign();
    test_bad_requests();
    return done_testing();
}
