/*
 * Session tickets of servers whose clients may resume (TlsOptions.isResumable in src/transport/conn.ts).
 * Their keys are the process's, so that a client may come back to any worker; they never leave this file.
 */
#pragma once

#include <openssl/ssl.h>

#include <string>

namespace weft {

/* `scope`: 32 bytes, see TlsMaterial. False when OpenSSL refuses. */
bool UseTickets(SSL_CTX* context, const std::string& scope);

#ifdef WEFT_TESTING
/* Makes time pass for the keys. */
void AdvanceTicketClock(int64_t seconds);
#endif

}  // namespace weft
