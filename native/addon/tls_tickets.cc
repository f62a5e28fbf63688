#include "tls_tickets.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <time.h>

#include <atomic>
#include <cstring>
#include <mutex>

namespace weft {

/*
 * A key makes tickets for this long, and is accepted for as long again: who learns it reads the client
 * certificates of two hours, and no traffic, as TLS 1.3 mixes fresh secrets in.
 */
static constexpr int64_t kKeySeconds = 3600;

/* Tickets last no longer than the key before the current one is kept. */
static constexpr long kTicketSeconds = kKeySeconds;

/* Per handshake. Two, as a client should use each only once, and may open two connections at a time. */
static constexpr size_t kTicketsMade = 2;

static constexpr size_t kScopeSize = 32;

struct TicketKey {
  unsigned char name[16];
  unsigned char cipher[32];
  unsigned char mac[32];
};

#ifdef WEFT_TESTING
static std::atomic<int64_t> advanced{0};
void AdvanceTicketClock(int64_t seconds) { advanced += seconds; }
#else
static constexpr int64_t advanced = 0;
#endif

/* Seconds since the machine started, those that it slept among them. */
static int64_t Now() {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec + advanced;
}

/* The current key and the one before it. */
class TicketKeys {
 public:
  ~TicketKeys() { OPENSSL_cleanse(keys_, sizeof(keys_)); }

  bool Current(TicketKey* key) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!Rotate()) return false;
    *key = keys_[0];
    return true;
  }

  /* -1: not ours, or too old. 0: the current one. 1: the one before it. */
  int Find(const unsigned char* name, TicketKey* key) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!Rotate()) return -1;
    for (int age = 0; age < count_; age++) {
      if (memcmp(keys_[age].name, name, sizeof(key->name)) != 0) continue;
      *key = keys_[age];
      return age;
    }
    return -1;
  }

 private:
  bool Rotate() {
    int64_t age = Now() - made_;
    if (count_ > 0 && age < kKeySeconds) return true;
    TicketKey made;
    if (RAND_bytes(made.name, sizeof(made.name)) != 1 ||
        RAND_priv_bytes(made.cipher, sizeof(made.cipher)) != 1 ||
        RAND_priv_bytes(made.mac, sizeof(made.mac)) != 1) {
      return false;
    }
    // One that was not replaced in time is past its second hour, or will soon be.
    bool is_last_kept = count_ > 0 && age < 2 * kKeySeconds;
    keys_[1] = keys_[0];
    if (!is_last_kept) OPENSSL_cleanse(&keys_[1], sizeof(TicketKey));
    keys_[0] = made;
    OPENSSL_cleanse(&made, sizeof(made));
    count_ = is_last_kept ? 2 : 1;
    made_ = Now();
    return true;
  }

  std::mutex mutex_;
  TicketKey keys_[2] = {};
  int count_ = 0;
  int64_t made_ = 0;
};

static TicketKeys process_keys;

static bool UseKey(const TicketKey& key, const unsigned char* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac,
                   bool is_encrypting) {
  char digest[] = "SHA256";
  unsigned char mac_key[sizeof(key.mac)];
  memcpy(mac_key, key.mac, sizeof(mac_key));
  OSSL_PARAM params[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, mac_key, sizeof(mac_key)),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end(),
  };
  bool is_done = EVP_MAC_CTX_set_params(mac, params) == 1;
  OPENSSL_cleanse(mac_key, sizeof(mac_key));
  if (!is_done) return false;
  return is_encrypting ? EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), nullptr, key.cipher, iv) == 1
                       : EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), nullptr, key.cipher, iv) == 1;
}

/* OpenSSL's answers: negative, an error; 0, no ticket; 1, go on; 2, go on, and a newer ticket is due. */
static int ChooseKey(SSL*, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac,
                     int is_making) {
  TicketKey key;
  int answer = 0;
  if (is_making != 0) {
    // Without a key there is no ticket, and the handshake goes on.
    if (process_keys.Current(&key) && RAND_bytes(iv, EVP_MAX_IV_LENGTH) == 1) {
      memcpy(name, key.name, sizeof(key.name));
      answer = UseKey(key, iv, cipher, mac, true) ? 1 : -1;
    }
  } else {
    int age = process_keys.Find(name, &key);
    if (age >= 0) answer = UseKey(key, iv, cipher, mac, false) ? 1 + age : 0;
  }
  OPENSSL_cleanse(&key, sizeof(key));
  return answer;
}

static int MakeTicket(SSL*, void*) { return 1; }

/* A client whose certificate ended since must prove itself anew, and cannot. */
static SSL_TICKET_RETURN JudgeTicket(SSL*, SSL_SESSION* session, const unsigned char*, size_t,
                                     SSL_TICKET_STATUS status, void*) {
  if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) {
    return status == SSL_TICKET_EMPTY || status == SSL_TICKET_NO_DECRYPT ? SSL_TICKET_RETURN_IGNORE_RENEW
                                                                         : SSL_TICKET_RETURN_ABORT;
  }
  const X509* peer = SSL_SESSION_get0_peer(session);
  bool is_valid = peer != nullptr && X509_cmp_current_time(X509_get0_notAfter(peer)) > 0;
  if (!is_valid) return SSL_TICKET_RETURN_IGNORE_RENEW;
  return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

bool UseTickets(SSL_CTX* context, const std::string& scope) {
  if (scope.size() != kScopeSize) return false;
  SSL_CTX_set_timeout(context, kTicketSeconds);
  return SSL_CTX_set_session_id_context(context, reinterpret_cast<const unsigned char*>(scope.data()),
                                        kScopeSize) == 1 &&
         SSL_CTX_set_tlsext_ticket_key_evp_cb(context, ChooseKey) == 1 &&
         SSL_CTX_set_session_ticket_cb(context, MakeTicket, JudgeTicket, nullptr) == 1 &&
         SSL_CTX_set_num_tickets(context, kTicketsMade) == 1;
}

}  // namespace weft
