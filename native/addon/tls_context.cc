/*
 * TLS as the mesh uses it: version 1.3 only, AES-GCM, X25519 or P-256, ALPN h2, certificates on both sides,
 * no server name, no tickets, no compressed certificates. Chains are verified by OpenSSL against the bundle
 * and nothing else; what the certificate must name is checked in src/transport/tls-identity.ts.
 */
#include "tls_context.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

namespace weft {

static const unsigned char kAlpn[] = {2, 'h', '2'};

/*
 * SSL_OP_NO_TX_CERTIFICATE_COMPRESSION and SSL_OP_NO_RX_CERTIFICATE_COMPRESSION of OpenSSL 3.2, by number:
 * older headers lack the names, older libraries the feature. Compression cost 2 ms per handshake.
 */
static constexpr uint64_t kNoCertificateCompression = (uint64_t{1} << 32) | (uint64_t{1} << 33);

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

static Owned<BIO> ReaderOf(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/* A key with a passphrase must fail, not ask at the terminal. */
static int NoPassphrase(char*, int, int, void*) { return -1; }

static int SelectAlpn(SSL*, const unsigned char** chosen, unsigned char* chosen_length,
                      const unsigned char* offered, unsigned int offered_length, void*) {
  unsigned char* found = nullptr;
  int result = SSL_select_next_proto(&found, chosen_length, kAlpn, sizeof(kAlpn), offered, offered_length);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool UseChain(SSL_CTX* context, const std::string& chain) {
  Owned<BIO> reader = ReaderOf(chain);
  Owned<X509> leaf(PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr));
  if (leaf == nullptr || SSL_CTX_use_certificate(context, leaf.get()) != 1) return false;
  for (;;) {
    Owned<X509> issuer(PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr));
    if (issuer == nullptr) return true;
    if (SSL_CTX_add1_chain_cert(context, issuer.get()) != 1) return false;
  }
}

static bool UseKey(SSL_CTX* context, const std::string& text) {
  Owned<BIO> reader = ReaderOf(text);
  Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(reader.get(), nullptr, NoPassphrase, nullptr));
  return key != nullptr && SSL_CTX_use_PrivateKey(context, key.get()) == 1 &&
         SSL_CTX_check_private_key(context) == 1;
}

/* At least one root: without any, nothing would verify, and nobody would know why. */
static bool UseBundle(SSL_CTX* context, const std::string& bundle) {
  Owned<BIO> reader = ReaderOf(bundle);
  for (int count = 0;; count++) {
    Owned<X509> root(PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr));
    if (root == nullptr) return count > 0;
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root.get()) != 1) return false;
  }
}

static SSL_CTX* NewContext(bool is_server, const std::string& chain, const std::string& key,
                           const std::string& bundle, std::string* failure) {
  Owned<SSL_CTX> context(SSL_CTX_new(TLS_method()));
  SSL_CTX* raw = context.get();
  if (raw == nullptr || SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(raw, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") != 1 ||
      SSL_CTX_set1_groups_list(raw, "X25519:P-256") != 1) {
    *failure = "OpenSSL refuses the protocol settings";
    return nullptr;
  }
  SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE | kNoCertificateCompression);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(raw, 0);
  // RELEASE_BUFFERS: an idle connection keeps no record buffers, which is half of its memory.
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  if (is_server) {
    SSL_CTX_set_alpn_select_cb(raw, SelectAlpn, nullptr);
  } else if (SSL_CTX_set_alpn_protos(raw, kAlpn, sizeof(kAlpn)) != 0) {
    *failure = "OpenSSL refuses ALPN";
    return nullptr;
  }
  if (!UseChain(raw, chain)) {
    *failure = "the certificate chain cannot be used";
  } else if (!UseKey(raw, key)) {
    *failure = "the key cannot be used, or is not the certificate's";
  } else if (!UseBundle(raw, bundle)) {
    *failure = "the trust bundle cannot be used";
  } else {
    return context.release();
  }
  return nullptr;
}

TlsContext* TlsContext::New(const std::string& chain, const std::string& key, const std::string& bundle,
                            std::string* failure) {
  ERR_clear_error();
  auto made = std::make_unique<TlsContext>();
  made->client = NewContext(false, chain, key, bundle, failure);
  if (made->client != nullptr) made->server = NewContext(true, chain, key, bundle, failure);
  ERR_clear_error();
  return made->server == nullptr ? nullptr : made.release();
}

TlsContext::~TlsContext() {
  SSL_CTX_free(client);
  SSL_CTX_free(server);
}

std::string DescribeTlsError(uint32_t error) {
  const char* reason = error == 0 ? nullptr : ERR_reason_error_string(error);
  return reason == nullptr ? "" : reason;
}

std::string DescribeVerifyResult(int result) { return X509_verify_cert_error_string(result); }

}  // namespace weft
