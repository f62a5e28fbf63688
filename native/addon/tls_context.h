/*
 * Credentials of one identity as OpenSSL contexts, one for each side. Which identity, and when another takes
 * its place, is decided in src/transport.
 */
#pragma once

#include <openssl/ssl.h>

#include <string>

namespace weft {

struct TlsMaterial {
  /* PEM: leaf first, then intermediates. */
  std::string chain;
  std::string key;
  /* PEM: trusted roots. */
  std::string bundle;
  /* As in RFC 7301: each behind its length, best first. */
  std::string protocols;
  /* 32 bytes; a session is resumed only by a server with the same. Empty: none is. */
  std::string resumption_scope;
};

struct TlsContext {
  SSL_CTX* client = nullptr;
  SSL_CTX* server = nullptr;

  TlsContext() = default;
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  /* Null, and `failure` set, if the parts do not fit. */
  static TlsContext* New(const TlsMaterial& material, std::string* failure);
};

/* Which of the context's protocols a finished handshake agreed on; -1 for none of them. */
int AgreedProtocol(const SSL* ssl);
/* The reason in an OpenSSL error, in words; empty when it has none. */
std::string DescribeTlsError(uint32_t error);
/* Why a certificate was refused, in words. */
std::string DescribeVerifyResult(int result);

}  // namespace weft
