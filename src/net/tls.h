// SPDX-License-Identifier: Apache-2.0
// What pki.c, tls.c and wire.c share of OpenSSL. Inside net/ only.
#pragma once

#include "net/net.h"

#include <openssl/ssl.h>

DEFINE_AUTO(EVP_PKEY_free, EVP_PKEY *)
DEFINE_AUTO(X509_free, X509 *)
DEFINE_AUTO(X509_REQ_free, X509_REQ *)
DEFINE_AUTO(BIO_free, BIO *)
DEFINE_AUTO(SSL_free, SSL *)

#define PEM_LIMIT (16 * KIB) // of a key, a certificate or a request for one

// --- pki.c

// Before anything else of OpenSSL: without its configuration file, and it stays until
// the process has ended (threads may use it until then).
void pki_init(void);
// Fills e with the text and OpenSSL's last reason; returns -1.
int pki_error(struct err *e, enum err_code code, const char *fmt, ...) PRINTF(3, 4);
int pki_key_load(const char *path, EVP_PKEY **ret, struct err *e);
int pki_cert_load(const char *path, X509 **ret, struct err *e);
// A key and a certificate signed by itself, which nobody trusts.
int pki_moment(EVP_PKEY **ret_key, X509 **ret_cert, struct err *e);
int pki_pin(const X509 *cert, uint8_t ret_pin[static PIN_LEN], struct err *e);

// --- tls.c

// What a handshake checks and learns; SSL's application data, lives as long as the SSL.
struct tls_check {
    const uint8_t *pin; // NULL: any key
    uint8_t alpn[256];  // as TLS lists them: length, name, …
    unsigned alpn_len;
    bool any;       // whom we trust is not for TLS to say
    bool wrong_pin; // set by the handshake
    bool accepted;  // client: the server has taken our certificate
};
int tls_session(struct tls *t, bool server, struct tls_check *check, SSL **ret,
                struct err *e);
// Why a handshake failed, from OpenSSL's queue.
int tls_handshake_error(const struct tls_check *check, struct err *e);
int tls_peer(SSL *ssl, struct wire_peer *ret, struct err *e);
