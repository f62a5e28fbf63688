/*
 * One TLS session on one connection: OpenSSL between a window of received bytes and a buffer of bytes to
 * send, both of which belong to the reactor and are shared by all its sessions. No session keeps a pointer
 * into them between calls.
 */
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "reactor_queue.h"
#include "tls_context.h"

namespace weft {

/* What OpenSSL reads from and writes to during one call. */
struct TlsWindow {
  /* Received and not yet taken by OpenSSL. */
  const uint8_t* input = nullptr;
  size_t input_length = 0;
  /* Records made during the call, in order. */
  ByteQueue output;
};

enum class TlsResult {
  kDone,    /* handshake complete; bytes read or written */
  kWaiting, /* more bytes of the peer are needed */
  kEnded,   /* the peer sent close_notify */
  kFailed,  /* see error() and verify_result() */
};

class TlsSession {
 public:
  /* Null when there is no memory. `window` outlives the session. */
  static TlsSession* New(SSL_CTX* context, bool is_server, TlsWindow* window);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  TlsResult Handshake();
  TlsResult Read(uint8_t* bytes, size_t capacity, size_t* length);
  TlsResult Write(const uint8_t* bytes, size_t length);
  /* Sends close_notify. */
  void End();
  /* Gives the memory for records back, until the next of them; what holds part of a record stays. */
  void FreeBuffers();

  /* OpenSSL's packed error of the call that failed; 0 when it gave none. */
  uint32_t error() const { return error_; }
  /* X509_V_OK, or why the peer's certificate was refused. */
  int verify_result() const;
  /* Which of its context's protocols was agreed on; -1 for none of them. */
  int agreed_protocol() const { return AgreedProtocol(ssl_); }
  /*
   * The URI names in the peer's certificate, in the text form of node:crypto: `URI:one, URI:two`. Names that
   * it would put in quotes are left out: nobody takes them for an identity. To be asked once, after the
   * handshake; the certificates that were sent along with the peer's own are then given back.
   */
  std::string TakePeerNames();

 private:
  explicit TlsSession(SSL* ssl) : ssl_(ssl) {}
  TlsResult Result(int returned);

  SSL* ssl_;
  uint32_t error_ = 0;
};

}  // namespace weft
