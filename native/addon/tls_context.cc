/*
 * TLS as the mesh uses it: version 1.3 only, AES-GCM, X25519 or P-256, ALPN, certificates on both sides, no
 * server name, no compressed certificates; tickets only where they are asked for. Chains are verified by
 * OpenSSL against the bundle and nothing else; what the certificate must name is checked in
 * src/transport/tls-identity.ts.
 */
#include "tls_context.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <set>

#include "tls_tickets.h"

namespace weft {

/*
 * Bytes of certificates that a peer may show. A leaf and three intermediates of the largest RSA keys in use
 * are half of it; OpenSSL's own limit is 100 KB, which an unproved peer could make us hold and parse.
 */
static constexpr long kCertificateBytesMax = 32768;

/* Intermediates between a leaf and its root. */
static constexpr int kChainDepthMax = 8;

/* Different lists of protocols that a process can use; programs have one or two. */
static constexpr size_t kProtocolListsMax = 64;

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

// --- application protocols ---

/*
 * The one copy of a list, which stays: contexts live on in sessions after nobody else knows them, and point
 * to it. Null when it is no list, or there are too many.
 */
static const std::string* KeepProtocols(const std::string& list) {
  size_t at = 0;
  while (at < list.size() && list[at] != 0) at += 1 + static_cast<unsigned char>(list[at]);
  if (list.empty() || at != list.size()) return nullptr;
  static std::mutex mutex;
  static std::set<std::string> lists;
  std::lock_guard<std::mutex> lock(mutex);
  auto known = lists.find(list);
  if (known != lists.end()) return &*known;
  return lists.size() < kProtocolListsMax ? &*lists.insert(list).first : nullptr;
}

/* Our order decides. Without a match the peer gets the alert no_application_protocol (RFC 7301). */
static int SelectProtocol(SSL*, const unsigned char** chosen, unsigned char* chosen_length,
                          const unsigned char* offered, unsigned int offered_length, void* kept) {
  const std::string* ours = static_cast<const std::string*>(kept);
  unsigned char* found = nullptr;
  int result =
      SSL_select_next_proto(&found, chosen_length, reinterpret_cast<const unsigned char*>(ours->data()),
                            static_cast<unsigned int>(ours->size()), offered, offered_length);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

int AgreedProtocol(const SSL* ssl) {
  const unsigned char* name = nullptr;
  unsigned int length = 0;
  SSL_get0_alpn_selected(ssl, &name, &length);
  const std::string* ours = static_cast<const std::string*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  int index = 0;
  for (size_t at = 0; at < ours->size(); at += 1 + static_cast<unsigned char>((*ours)[at]), index++) {
    if (static_cast<unsigned char>((*ours)[at]) == length && memcmp(&(*ours)[at + 1], name, length) == 0) {
      return index;
    }
  }
  return -1;
}

static bool UseProtocols(SSL_CTX* context, bool is_server, const std::string& list) {
  const std::string* kept = KeepProtocols(list);
  if (kept == nullptr || SSL_CTX_set_app_data(context, const_cast<std::string*>(kept)) != 1) return false;
  if (is_server) {
    SSL_CTX_set_alpn_select_cb(context, SelectProtocol, const_cast<std::string*>(kept));
    return true;
  }
  return SSL_CTX_set_alpn_protos(context, reinterpret_cast<const unsigned char*>(kept->data()),
                                 static_cast<unsigned int>(kept->size())) == 0;
}

// --- credentials ---

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

static SSL_CTX* NewContext(bool is_server, const TlsMaterial& material, std::string* failure) {
  Owned<SSL_CTX> context(SSL_CTX_new(TLS_method()));
  SSL_CTX* raw = context.get();
  if (raw == nullptr || SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(raw, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") != 1 ||
      SSL_CTX_set1_groups_list(raw, "X25519:P-256") != 1) {
    *failure = "OpenSSL refuses the protocol settings";
    return nullptr;
  }
  bool has_tickets = is_server && !material.resumption_scope.empty();
  SSL_CTX_set_options(raw, SSL_OP_CIPHER_SERVER_PREFERENCE | kNoCertificateCompression);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  if (!has_tickets) {
    SSL_CTX_set_options(raw, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(raw, 0);
  } else if (!UseTickets(raw, material.resumption_scope)) {
    *failure = "OpenSSL refuses session tickets";
    return nullptr;
  }
  // Not RELEASE_BUFFERS, which allocates them anew for every record: the reactor takes them from who is idle.
  SSL_CTX_set_mode(raw, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_verify_depth(raw, kChainDepthMax);
  SSL_CTX_set_max_cert_list(raw, kCertificateBytesMax);
  if (!UseProtocols(raw, is_server, material.protocols)) {
    *failure = "the list of application protocols cannot be used";
  } else if (!UseChain(raw, material.chain)) {
    *failure = "the certificate chain cannot be used";
  } else if (!UseKey(raw, material.key)) {
    *failure = "the key cannot be used, or is not the certificate's";
  } else if (!UseBundle(raw, material.bundle)) {
    *failure = "the trust bundle cannot be used";
  } else {
    return context.release();
  }
  return nullptr;
}

TlsContext* TlsContext::New(const TlsMaterial& material, std::string* failure) {
  ERR_clear_error();
  auto made = std::make_unique<TlsContext>();
  made->client = NewContext(false, material, failure);
  if (made->client != nullptr) made->server = NewContext(true, material, failure);
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
