/*
 * Credentials of one identity as OpenSSL contexts, one for each side. Which identity, and when another takes
 * its place, is decided in src/transport.
 */
#pragma once

#include <openssl/ssl.h>

#include <string>

namespace weft {

struct TlsContext {
  SSL_CTX* client = nullptr;
  SSL_CTX* server = nullptr;

  TlsContext() = default;
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  /* PEM texts: leaf first, then intermediates; key; trusted roots. Null, and `failure` set, if they do not
   * fit. */
  static TlsContext* New(const std::string& chain, const std::string& key, const std::string& bundle,
                         std::string* failure);
};

/* The reason in an OpenSSL error, in words; empty when it has none. */
std::string DescribeTlsError(uint32_t error);
/* Why a certificate was refused, in words. */
std::string DescribeVerifyResult(int result);

}  // namespace weft
