/*
 * OpenSSL as Node exports it: SSL_* and BIO_* stay undefined in the addon and resolve from the program that
 * loads it. Only documented functions are used, no structure is looked into, so headers of any OpenSSL 3 do.
 */
#include "tls_session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>

namespace weft {

// --- the BIO: OpenSSL's idea of a socket ---

static int ReadWindow(BIO* bio, char* bytes, int length) {
  TlsWindow* window = static_cast<TlsWindow*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (length <= 0 || window->input_length == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  size_t taken = std::min(window->input_length, static_cast<size_t>(length));
  memcpy(bytes, window->input, taken);
  window->input += taken;
  window->input_length -= taken;
  return static_cast<int>(taken);
}

static int WriteWindow(BIO* bio, const char* bytes, int length) {
  TlsWindow* window = static_cast<TlsWindow*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (length <= 0) return -1;
  if (window->output.Append(reinterpret_cast<const uint8_t*>(bytes), length)) return length;
  // Without a reason in OpenSSL's queue it would look as if the peer had gone.
  ERR_raise(ERR_LIB_BIO, ERR_R_MALLOC_FAILURE);
  return -1;
}

static long ControlWindow(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

static int CreateWindow(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

/* One for the whole process: worker threads share it. */
static BIO_METHOD* WindowMethod() {
  static BIO_METHOD* method = nullptr;
  static std::once_flag once;
  std::call_once(once, [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weft window");
    if (made == nullptr) return;
    BIO_meth_set_read(made, ReadWindow);
    BIO_meth_set_write(made, WriteWindow);
    BIO_meth_set_ctrl(made, ControlWindow);
    BIO_meth_set_create(made, CreateWindow);
    method = made;
  });
  return method;
}

// --- the session ---

TlsSession* TlsSession::New(SSL_CTX* context, bool is_server, TlsWindow* window) {
  BIO_METHOD* method = WindowMethod();
  if (method == nullptr) return nullptr;
  ERR_clear_error();
  SSL* ssl = IsAllocationFailing() ? nullptr : SSL_new(context);
  BIO* bio = ssl == nullptr || IsAllocationFailing() ? nullptr : BIO_new(method);
  if (bio == nullptr) {
    SSL_free(ssl);
    ERR_clear_error();
    return nullptr;
  }
  BIO_set_data(bio, window);
  SSL_set_bio(ssl, bio, bio);
  if (is_server) {
    SSL_set_accept_state(ssl);
  } else {
    SSL_set_connect_state(ssl);
  }
  TlsSession* session = IsAllocationFailing() ? nullptr : new (std::nothrow) TlsSession(ssl);
  if (session == nullptr) SSL_free(ssl);
  return session;
}

TlsSession::~TlsSession() { SSL_free(ssl_); }

TlsResult TlsSession::Result(int returned) {
  int reason = SSL_get_error(ssl_, returned);
  switch (reason) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return TlsResult::kWaiting;
    case SSL_ERROR_ZERO_RETURN:
      return TlsResult::kEnded;
    default:
      error_ = static_cast<uint32_t>(ERR_peek_error());
      // What is left in the queue would be taken for the failure of whatever Node calls next.
      ERR_clear_error();
      return TlsResult::kFailed;
  }
}

TlsResult TlsSession::Handshake() {
  ERR_clear_error();
  int returned = SSL_do_handshake(ssl_);
  return returned == 1 ? TlsResult::kDone : Result(returned);
}

TlsResult TlsSession::Read(uint8_t* bytes, size_t capacity, size_t* length) {
  ERR_clear_error();
  int returned = SSL_read_ex(ssl_, bytes, capacity, length);
  return returned == 1 ? TlsResult::kDone : Result(returned);
}

TlsResult TlsSession::Write(const uint8_t* bytes, size_t length) {
  ERR_clear_error();
  size_t written = 0;
  int returned = SSL_write_ex(ssl_, bytes, length, &written);
  return returned == 1 ? TlsResult::kDone : Result(returned);
}

void TlsSession::End() {
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
}

void TlsSession::FreeBuffers() { SSL_free_buffers(ssl_); }

int TlsSession::verify_result() const { return static_cast<int>(SSL_get_verify_result(ssl_)); }

/* As node:crypto decides whether a name needs quotes. */
static bool IsPlain(const unsigned char* text, int length) {
  return std::all_of(text, text + length, [](unsigned char c) {
    return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != ',' && c != '\'';
  });
}

/*
 * Half of what a verified peer's certificates cost, and nobody looks at them again. The peer's own stays: a
 * session ticket has it, and OpenSSL gives no way to drop it.
 */
static void FreeAll(STACK_OF(X509) * certificates) {
  while (sk_X509_num(certificates) > 0) X509_free(sk_X509_pop(certificates));
}

std::string TlsSession::TakePeerNames() {
  std::string text;
  X509* certificate = SSL_get1_peer_certificate(ssl_);
  if (certificate == nullptr) return text;
  void* found = X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr);
  GENERAL_NAMES* names = static_cast<GENERAL_NAMES*>(found);
  for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
    if (type != GEN_URI) continue;
    const ASN1_STRING* uri = static_cast<const ASN1_STRING*>(value);
    const unsigned char* bytes = ASN1_STRING_get0_data(uri);
    int length = ASN1_STRING_length(uri);
    if (!IsPlain(bytes, length)) continue;
    text.append(text.empty() ? "URI:" : ", URI:").append(reinterpret_cast<const char*>(bytes), length);
  }
  GENERAL_NAMES_free(names);
  X509_free(certificate);
  FreeAll(SSL_get_peer_cert_chain(ssl_));
  FreeAll(SSL_get0_verified_chain(ssl_));
  ERR_clear_error();
  return text;
}

}  // namespace weft
