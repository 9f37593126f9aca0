// SPDX-License-Identifier: Apache-2.0
// TLS 1.3 (RFC 8446) and nothing older, certificates from both ends, no resumption.
//
// In TLS 1.3 a client is done before the server has seen its certificate. So that a
// client learns of a refusal when it connects and not at some later read, the server
// sends a session ticket, which it can do only after that, and our client waits for it.
// Nobody can resume with it: the server keeps no sessions.
#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#define PEER_CERTS_MAX (16 * KIB)
#define READ_AHEAD (68 * KIB) // four records by one call of the kernel

// Channel binding, RFC 9266.
#define EXPORTER_LABEL "EXPORTER-Channel-Binding"

struct tls {
    SSL_CTX *ctx;
    bool any;
};

// --- during handshakes

// Called with the peer's chain. The pin belongs in here: what fails later would let the
// peer believe that it was accepted.
static int check_chain(X509_STORE_CTX *chain, void *context)
{
    (void)context; // may be gone
    struct err e;
    SSL *ssl = X509_STORE_CTX_get_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_check *check = SSL_get_app_data(ssl);
    if (!check->any && X509_verify_cert(chain) != 1)
        return 0;
    uint8_t pin[PIN_LEN];
    const X509 *leaf = X509_STORE_CTX_get0_cert(chain);
    check->wrong_pin = check->pin && (!leaf || pki_pin(leaf, pin, &e) < 0 ||
                                      CRYPTO_memcmp(pin, check->pin, PIN_LEN) != 0);
    X509_STORE_CTX_set_error(chain, check->wrong_pin ? X509_V_ERR_APPLICATION_VERIFICATION
                                                     : X509_V_OK);
    return !check->wrong_pin;
}

// The server's choice: the first of ours that the client offers.
static int choose_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_len,
                       const unsigned char *offered, unsigned offered_len, void *context)
{
    (void)context;
    const struct tls_check *check = SSL_get_app_data(ssl);
    if (check->alpn_len == 0)
        return SSL_TLSEXT_ERR_NOACK;
    for (unsigned i = 0; i < check->alpn_len; i += 1u + check->alpn[i]) {
        const uint8_t *ours = check->alpn + i;
        for (unsigned j = 0; j + 1 + offered[j] <= offered_len; j += 1u + offered[j]) {
            if (offered[j] == ours[0] &&
                memcmp(offered + j + 1, ours + 1, ours[0]) == 0) {
                *ret = offered + j + 1;
                *ret_len = ours[0];
                return SSL_TLSEXT_ERR_OK;
            }
            if (j + 1 + offered[j] == offered_len)
                break;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)session;
    ((struct tls_check *)SSL_get_app_data(ssl))->accepted = true;
    return 0; // not kept
}

// --- who we are and whom we trust

static int use_identity(struct tls *t, const struct tls_options *o, struct err *e)
{
    AUTO(EVP_PKEY_free) EVP_PKEY *key = NULL;
    AUTO(X509_free) X509 *cert = NULL;
    if (!o->key_path || !o->cert_path) {
        if (pki_moment(&key, &cert, e) < 0)
            return -1;
    } else if (pki_key_load(o->key_path, &key, e) < 0 ||
               pki_cert_load(o->cert_path, &cert, e) < 0) {
        return -1;
    }
    if (SSL_CTX_use_certificate(t->ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey(t->ctx, key) != 1)
        return pki_error(e, ERR_FAILED, "use the certificate %s with its key",
                         o->cert_path ? o->cert_path : "of the moment");
    return 0;
}

static int use_trust(struct tls *t, const struct tls_options *o, struct err *e)
{
    AUTO(X509_free) X509 *ca = NULL;
    t->any = o->ca_path == NULL;
    if (t->any)
        return 0;
    if (pki_cert_load(o->ca_path, &ca, e) < 0)
        return -1;
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(t->ctx), ca) != 1)
        return pki_error(e, ERR_FAILED, "trust the authority %s", o->ca_path);
    return 0;
}

// AES where the processor has it.
static const char *ciphers(void)
{
#ifdef __x86_64__
    if (!__builtin_cpu_supports("aes"))
        return "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
#endif
    return "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
}

static bool configure(SSL_CTX *ctx)
{
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ctx,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, on_ticket);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(ctx, 0); // authorities between ours and a peer
    SSL_CTX_set_cert_verify_callback(ctx, check_chain, NULL);
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
    SSL_CTX_set_max_cert_list(ctx, (long)PEER_CERTS_MAX);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_ciphersuites(ctx, ciphers()) == 1 &&
           SSL_CTX_set1_groups_list(ctx, "X25519:P-256") == 1 &&
           SSL_CTX_set1_sigalgs_list(ctx, "ECDSA+SHA256") == 1 &&
           SSL_CTX_set_num_tickets(ctx, 1) == 1;
}

int tls_new(const struct tls_options *options, struct tls **ret, struct err *e)
{
    pki_init();
    AUTO(tls_free) struct tls *t = xcalloc(1, sizeof(*t));
    t->ctx = SSL_CTX_new(TLS_method());
    if (!t->ctx || !configure(t->ctx))
        return pki_error(e, ERR_FAILED, "set up TLS");
    if (use_identity(t, options, e) < 0 || use_trust(t, options, e) < 0)
        return -1;
    *ret = steal(t);
    return 0;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->ctx);
    free(t);
}

// --- one connection

int tls_session(struct tls *t, bool server, struct tls_check *check, SSL **ret,
                struct err *e)
{
    AUTO(SSL_free) SSL *ssl = SSL_new(t->ctx);
    check->any = t->any;
    if (!ssl || SSL_set_app_data(ssl, check) != 1 ||
        (!server && SSL_set_alpn_protos(ssl, check->alpn, check->alpn_len) != 0))
        return pki_error(e, ERR_FAILED, "begin TLS");
    if (server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    *ret = steal(ssl);
    return 0;
}

int tls_handshake_error(const struct tls_check *check, struct err *e)
{
    unsigned long code = ERR_peek_last_error();
    int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
    if (check->wrong_pin)
        return err_set(e, ERR_REFUSED,
                       "the peer's certificate is not the one that is expected here");
    switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return err_set(e, ERR_REFUSED, "the peer's certificate is not of our authority");
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return err_set(e, ERR_REFUSED, "the peer has no certificate");
    case SSL_R_NO_APPLICATION_PROTOCOL:
        return err_set(e, ERR_REFUSED, "the peer and we have no protocol in common");
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return err_set(e, ERR_RETRY, "the peer closed while TLS was agreed on");
    default:
        break;
    }
    // What the peer told us before it closed.
    bool refused = reason > SSL_AD_REASON_OFFSET &&
                   reason != SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION &&
                   reason != SSL_AD_REASON_OFFSET + SSL_AD_INTERNAL_ERROR;
    return refused ? pki_error(e, ERR_REFUSED, "the peer refuses us")
                   : pki_error(e, ERR_FAILED, "the peer speaks no TLS 1.3 with us");
}

int tls_peer(SSL *ssl, struct wire_peer *ret, struct err *e)
{
    const struct tls_check *check = SSL_get_app_data(ssl);
    const unsigned char *alpn = NULL;
    unsigned alpn_len = 0;
    SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
    if ((alpn_len == 0) != (check->alpn_len == 0) || alpn_len >= sizeof(ret->alpn))
        return err_set(e, ERR_REFUSED, "the peer and we have no protocol in common");
    const X509 *cert = SSL_get0_peer_certificate(ssl);
    if (!cert)
        return err_set(e, ERR_REFUSED, "the peer has no certificate");
    *ret = (struct wire_peer){0};
    if (alpn_len > 0)
        memcpy(ret->alpn, alpn, alpn_len);
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, ret->name,
                              sizeof(ret->name));
    for (char *c = ret->name; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    if (SSL_export_keying_material(ssl, ret->exporter, sizeof(ret->exporter),
                                   EXPORTER_LABEL, strlen(EXPORTER_LABEL), NULL, 0,
                                   0) != 1)
        return pki_error(e, ERR_FAILED, "take the connection's exporter");
    return pki_pin(cert, ret->pin, e);
}
