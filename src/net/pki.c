// SPDX-License-Identifier: Apache-2.0
// A private certificate authority: EC P-256 keys, X.509 v3 (RFC 5280) signed with
// ECDSA and SHA-256. Requests (PKCS #10, RFC 2986) may come from anybody: of one only
// the key is taken, after its signature has shown that the sender holds it.
//
// Certificates are valid from 1970 to 9999: a server that is migrated may have any idea
// of what time it is, and what ends trust here is a removed pin, not a date.
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_LEN 63
#define OWN_NAME "godwit"
#define CA_NAME "godwit authority"

// --- OpenSSL

static void init_once(void)
{
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
}

void pki_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_once);
    ERR_clear_error();
}

int pki_error(struct err *e, enum err_code code, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return err_set(e, code, "%s: %s", text, reason ? reason : "OpenSSL does not say why");
}

// Nobody is asked for the password of an encrypted key, least of all on a terminal.
static int no_password(char *out, int size, int writing, void *context)
{
    (void)out, (void)size, (void)writing, (void)context;
    return -1;
}

// --- PEM

static int read_pem(const char *path, BIO **ret, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(PEM_LIMIT);
    if (file_read(path, &b, e) < 0)
        return -1;
    BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || BIO_write(bio, b.data, (int)b.len) != (int)b.len) {
        BIO_free(bio);
        return pki_error(e, ERR_FAILED, "%s is no PEM file", path);
    }
    OPENSSL_cleanse(b.data, b.len);
    *ret = bio;
    return 0;
}

int pki_key_load(const char *path, EVP_PKEY **ret, struct err *e)
{
    pki_init();
    AUTO(BIO_free) BIO *bio = NULL;
    if (read_pem(path, &bio, e) < 0)
        return -1;
    *ret = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    return *ret ? 0 : pki_error(e, ERR_FAILED, "read the key %s", path);
}

int pki_cert_load(const char *path, X509 **ret, struct err *e)
{
    pki_init();
    AUTO(BIO_free) BIO *bio = NULL;
    if (read_pem(path, &bio, e) < 0)
        return -1;
    *ret = PEM_read_bio_X509(bio, NULL, no_password, NULL);
    return *ret ? 0 : pki_error(e, ERR_FAILED, "read the certificate %s", path);
}

static char *bio_text(BIO *bio)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    return xstrndup(len > 0 ? data : "", len > 0 ? (size_t)len : 0);
}

static int key_save(const char *path, EVP_PKEY *key, struct err *e)
{
    AUTO(BIO_free) BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
        return pki_error(e, ERR_FAILED, "write the key %s", path);
    AUTO(str_free) char *pem = bio_text(bio);
    int result = file_write(path, pem, strlen(pem), 0600, e);
    OPENSSL_cleanse(pem, strlen(pem));
    return result;
}

static int cert_text(X509 *cert, char **ret, struct err *e)
{
    AUTO(BIO_free) BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_X509(bio, cert) != 1)
        return pki_error(e, ERR_FAILED, "write a certificate");
    *ret = bio_text(bio);
    return 0;
}

static int cert_save(const char *path, X509 *cert, struct err *e)
{
    AUTO(str_free) char *pem = NULL;
    return cert_text(cert, &pem, e) < 0 ? -1
                                        : file_write(path, pem, strlen(pem), 0644, e);
}

// --- certificates

static int make_key(EVP_PKEY **ret, struct err *e)
{
    pki_init();
    *ret = EVP_EC_gen("P-256");
    return *ret ? 0 : pki_error(e, ERR_FAILED, "make a key");
}

static bool is_p256(const EVP_PKEY *key)
{
    char group[32] = "";
    return key && EVP_PKEY_is_a(key, "EC") &&
           EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group,
                                          sizeof(group), NULL) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

static bool set_name(X509_NAME *name, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                      (const unsigned char *)common, -1, -1, 0) == 1;
}

struct subject {
    const char *name;
    const char *address; // numeric, NULL: none
    bool is_ca;
};

// "DNS:crm01,IP:192.0.2.21": what stock clients compare with whom they meant to reach.
// Only of what cannot be taken for more than one name. NULL: none.
static char *alternative_names(const struct subject *who)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789.-";
    uint8_t bytes[16];
    const char *name = who->name[strspn(who->name, plain)] ? NULL : who->name;
    const char *address = who->address && (inet_pton(AF_INET, who->address, bytes) == 1 ||
                                           inet_pton(AF_INET6, who->address, bytes) == 1)
                              ? who->address
                              : NULL;
    if (who->is_ca || (!name && !address))
        return NULL;
    return xasprintf("%s%s%s%s%s", name ? "DNS:" : "", name ? name : "",
                     name && address ? "," : "", address ? "IP:" : "",
                     address ? address : "");
}

static bool add_extensions(X509 *cert, X509 *issuer, const struct subject *who)
{
    AUTO(str_free) char *names = alternative_names(who);
    const struct {
        int nid;
        const char *ca, *leaf;
    } rows[] = {
        {NID_basic_constraints, "critical,CA:TRUE,pathlen:0", "critical,CA:FALSE"},
        {NID_key_usage, "critical,keyCertSign", "critical,digitalSignature"},
        {NID_ext_key_usage, NULL, "serverAuth,clientAuth"},
        {NID_subject_key_identifier, "hash", "hash"},
        {NID_authority_key_identifier, NULL, "keyid"},
        {NID_subject_alt_name, NULL, names},
    };
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *value = who->is_ca ? rows[i].ca : rows[i].leaf;
        X509_EXTENSION *x =
            value ? X509V3_EXT_conf_nid(NULL, &context, rows[i].nid, value) : NULL;
        bool added = !value || (x && X509_add_ext(cert, x, -1) == 1);
        X509_EXTENSION_free(x);
        if (!added)
            return false;
    }
    return true;
}

static bool set_serial(X509 *cert)
{
    uint8_t random[16];
    if (RAND_bytes(random, sizeof(random)) != 1)
        return false;
    random[0] = (random[0] & 0x7f) | 0x40; // positive, of full length
    BIGNUM *n = BN_bin2bn(random, sizeof(random), NULL);
    bool set = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    return set;
}

// issuer NULL: signed by itself.
static int make_cert(const struct subject *who, EVP_PKEY *key, X509 *issuer,
                     EVP_PKEY *signer, X509 **ret, struct err *e)
{
    AUTO(X509_free) X509 *cert = X509_new();
    X509 *by = issuer ? issuer : cert;
    if (!cert || X509_set_version(cert, X509_VERSION_3) != 1 || !set_serial(cert) ||
        ASN1_TIME_set_string_X509(X509_getm_notBefore(cert), "19700101000000Z") != 1 ||
        ASN1_TIME_set_string_X509(X509_getm_notAfter(cert), "99991231235959Z") != 1 ||
        !set_name(X509_get_subject_name(cert), who->name) ||
        X509_set_issuer_name(cert, X509_get_subject_name(by)) != 1 ||
        X509_set_pubkey(cert, key) != 1 || !add_extensions(cert, by, who) ||
        X509_sign(cert, signer, EVP_sha256()) == 0)
        return pki_error(e, ERR_FAILED, "make a certificate for %s", who->name);
    *ret = steal(cert);
    return 0;
}

int pki_moment(EVP_PKEY **ret_key, X509 **ret_cert, struct err *e)
{
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    if (make_key(&key, e) < 0 ||
        make_cert(&(struct subject){.name = "moment"}, key, NULL, key, ret_cert, e) < 0)
        return -1;
    *ret_key = steal(key);
    return 0;
}

int pki_pin(const X509 *cert, uint8_t ret_pin[static PIN_LEN], struct err *e)
{
    unsigned char *der = NULL;
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
    bool done =
        len > 0 && EVP_Digest(der, (size_t)len, ret_pin, NULL, EVP_sha256(), NULL);
    OPENSSL_free(der);
    return done ? 0 : pki_error(e, ERR_FAILED, "hash a certificate's key");
}

// --- the authority

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

// The key first: a key without certificate is what a killed process leaves, and goes on.
static int make_pair(const char *dir, const char *what, const char *name, X509 *issuer,
                     EVP_PKEY *signer, struct err *e)
{
    AUTO(str_free) char *key_path = xasprintf("%s/%s.key", dir, what);
    AUTO(str_free) char *cert_path = xasprintf("%s/%s.pem", dir, what);
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    AUTO(X509_free) X509 *cert = NULL;
    bool have_key = is_there(key_path);
    if (is_there(cert_path))
        return have_key ? 0
                        : err_set(e, ERR_FAILED, "%s is there, but its key %s is not",
                                  cert_path, key_path);
    if ((have_key ? pki_key_load(key_path, &key, e) : make_key(&key, e)) < 0 ||
        (!have_key && key_save(key_path, key, e) < 0))
        return -1;
    struct subject who = {.name = name, .is_ca = issuer == NULL};
    if (make_cert(&who, key, issuer, signer ? signer : key, &cert, e) < 0)
        return -1;
    return cert_save(cert_path, cert, e);
}

static int load_authority(const char *dir, EVP_PKEY **ret_key, X509 **ret_cert,
                          struct err *e)
{
    AUTO(str_free) char *key_path = xasprintf("%s/ca.key", dir);
    AUTO(str_free) char *cert_path = xasprintf("%s/ca.pem", dir);
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    AUTO(X509_free) X509 *cert = NULL;
    if (pki_key_load(key_path, &key, e) < 0 || pki_cert_load(cert_path, &cert, e) < 0)
        return -1;
    if (X509_check_private_key(cert, key) != 1)
        return pki_error(e, ERR_FAILED, "%s and %s do not belong together", key_path,
                         cert_path);
    *ret_key = steal(key);
    *ret_cert = steal(cert);
    return 0;
}

int pki_make(const char *dir, struct err *e)
{
    if (dir_make(dir, 0700, e) < 0)
        return -1;
    // The folder itself is the lock: nothing of it stays behind.
    AUTO(fd_close) int lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) < 0 || fchmod(lock, 0700) < 0)
        return err_errno(e, errno, "lock the folder %s", dir);
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    AUTO(X509_free) X509 *cert = NULL;
    if (make_pair(dir, "ca", CA_NAME, NULL, NULL, e) < 0 ||
        load_authority(dir, &key, &cert, e) < 0)
        return -1;
    return make_pair(dir, "own", OWN_NAME, cert, key, e);
}

// --- requests

static int check_name(const char *name, struct err *e)
{
    size_t len = strlen(name);
    for (const char *c = name; *c; c++)
        if (*c < ' ' || *c > '~')
            len = 0;
    return len > 0 && len <= NAME_MAX_LEN
               ? 0
               : err_set(e, ERR_FAILED,
                         "\"%s\" cannot be the name in a certificate: 1 to %d printable "
                         "ASCII characters",
                         name, NAME_MAX_LEN);
}

int pki_request(const char *key_path, const char *name, char **ret_csr, struct err *e)
{
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    if (check_name(name, e) < 0 || make_key(&key, e) < 0 ||
        key_save(key_path, key, e) < 0)
        return -1;
    AUTO(X509_REQ_free) X509_REQ *request = X509_REQ_new();
    AUTO(BIO_free) BIO *bio = BIO_new(BIO_s_mem());
    if (!request || !bio || !set_name(X509_REQ_get_subject_name(request), name) ||
        X509_REQ_set_pubkey(request, key) != 1 ||
        X509_REQ_sign(request, key, EVP_sha256()) == 0 ||
        PEM_write_bio_X509_REQ(bio, request) != 1)
        return pki_error(e, ERR_FAILED, "make a request for a certificate for %s", name);
    *ret_csr = bio_text(bio);
    return 0;
}

// The key of a request, whose sender holds it. Other kinds of keys are refused before
// their signature is looked at: only P-256 costs what we know it to cost.
static int request_key(const char *csr, EVP_PKEY **ret, struct err *e)
{
    size_t len = strnlen(csr, PEM_LIMIT + 1);
    if (len > PEM_LIMIT)
        return err_set(e, ERR_FAILED, "the request for a certificate is too large");
    AUTO(BIO_free) BIO *bio = BIO_new_mem_buf(csr, (int)len);
    AUTO(X509_REQ_free)
    X509_REQ *request = bio ? PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL) : NULL;
    if (!request)
        return pki_error(e, ERR_FAILED, "read the request for a certificate");
    AUTO(EVP_PKEY_free) EVP_PKEY *key = X509_REQ_get_pubkey(request);
    if (!is_p256(key))
        return err_set(e, ERR_REFUSED,
                       "the request for a certificate is for another key than EC P-256");
    if (X509_REQ_verify(request, key) != 1)
        return pki_error(e, ERR_REFUSED,
                         "the request for a certificate is not signed with its key");
    *ret = steal(key);
    return 0;
}

int pki_sign(const char *dir, const char *csr, const char *name, const char *address,
             char **ret_cert, uint8_t ret_pin[static PIN_LEN], struct err *e)
{
    struct subject who = {.name = name, .address = address};
    pki_init();
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    AUTO(EVP_PKEY_free) EVP_PKEY *signer = NULL;
    AUTO(X509_free) X509 *authority = NULL;
    AUTO(X509_free) X509 *cert = NULL;
    uint8_t pin[PIN_LEN];
    if (check_name(name, e) < 0)
        return -1;
    if (strcmp(name, OWN_NAME) == 0)
        return err_set(e, ERR_REFUSED, "the name %s in certificates is our own", name);
    if (request_key(csr, &key, e) < 0 ||
        load_authority(dir, &signer, &authority, e) < 0 ||
        make_cert(&who, key, authority, signer, &cert, e) < 0 ||
        pki_pin(cert, pin, e) < 0 || cert_text(cert, ret_cert, e) < 0)
        return -1;
    memcpy(ret_pin, pin, PIN_LEN);
    return 0;
}
