/*
 * Bytes that arrive on one connection, plain or through TLS; handshakes; failures.
 */
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "reactor.h"

namespace weft {

/*
 * Sealed bytes of TLS's own (answers to key updates) that a peer may leave lying before it counts as hostile.
 * Output of ours is sealed only when nothing is queued, so anything beyond one piece of it and what is sent
 * at a time (kSealMax and kSendAt, reactor_output.cc) is TLS's.
 */
static constexpr size_t kSealedMax = 786432;

/*
 * Bytes of TLS in a row that carry nothing: key updates, which cost us more than the peer, or tickets. More
 * than any record, and than the tickets of any server; a peer that says something in between may go on.
 */
static constexpr uint32_t kBarrenMax = 65536;

/* Bytes that a closed connection reads and drops while it waits for the peer's end. */
static constexpr uint32_t kDiscardMax = 1048576;

/* Bytes begin at multiples of this in the arena: a cache line. */
static constexpr size_t kAlignment = 64;

static size_t AlignedUp(size_t position) { return (position + kAlignment - 1) & ~(kAlignment - 1); }

void Reactor::QueueRead(Connection* connection) {
  if (connection->is_ready_queued) return;
  connection->is_ready_queued = true;
  Note(&ready_, connection->id);
}

// --- failing ---

void Reactor::Fail(Connection* connection, Failure failure, int32_t code) {
  if (connection->phase == Phase::kBroken) return;
  connection->phase = Phase::kBroken;
  connection->is_readable = false;
  DropUnsent(connection);
  connection->unread.Clear();
  int32_t verify = 0;
  if (failure == kFailureTls && connection->tls != nullptr) verify = connection->tls->verify_result();
  Push(connection->id, kEventFailed, failure | (verify << 8), code);
}

/* OpenSSL's alert leaves first, if the kernel takes it. */
void Reactor::FailTls(Connection* connection) {
  if (!SendWindow(connection)) return;
  Fail(connection, kFailureTls, static_cast<int32_t>(connection->tls->error()));
}

// --- reading ---

void Reactor::ReadOnce(Connection* connection) {
  switch (connection->phase) {
    case Phase::kOpen:
      if (connection->has_peer_end) return;
      if (connection->is_tls) {
        ReadTls(connection);
      } else {
        ReadPlain(connection);
      }
      break;
    case Phase::kHandshaking:
      ReadTls(connection);
      break;
    case Phase::kDiscarding:
      Drop(connection);
      break;
    default:
      // Listening, connecting, awaiting a decision, broken: what is there stays with the kernel.
      break;
  }
}

/* Bytes to ask for: more of a connection that always has more, as far as there is room for them. */
size_t Reactor::ReceiveSize(const Connection* connection) const {
  return std::min<size_t>(connection->receive_size, arena_size_ - arena_used_ - kRecordRoom);
}

void Reactor::NoteReceived(Connection* connection, size_t length, size_t asked) {
  if (length == asked && connection->phase == Phase::kOpen) {
    connection->receive_size = std::min(connection->receive_size * 2, kReceiveMax);
  } else if (length <= kReceiveMin) {
    connection->receive_size = kReceiveMin;
  }
  // Fewer bytes than asked for: there were no more, and epoll tells when there are.
  if (length == asked || connection->has_hangup) {
    QueueRead(connection);
  } else {
    connection->is_readable = false;
  }
}

void Reactor::ReadPlain(Connection* connection) {
  size_t size = ReceiveSize(connection);
  ssize_t length = recv(connection->fd, arena_ + arena_used_, size, 0);
  if (length <= 0) {
    if (length < 0 && errno == EINTR) {
      QueueRead(connection);
    } else if (length < 0) {
      ReadNothing(connection);
    } else {
      connection->is_readable = false;
      connection->has_peer_end = true;
      Push(connection->id, kEventEnded, 0, 0);
    }
    return;
  }
  Push(connection->id, kEventBytes, static_cast<int32_t>(arena_used_), static_cast<int32_t>(length));
  arena_used_ = AlignedUp(arena_used_ + static_cast<size_t>(length));
  NoteReceived(connection, static_cast<size_t>(length), size);
}

/* recv failed. */
void Reactor::ReadNothing(Connection* connection) {
  int error = errno;
  connection->is_readable = false;
  if (error != EAGAIN) Fail(connection, kFailureErrno, error);
}

void Reactor::ReadTls(Connection* connection) {
  if (!connection->unread.is_empty()) {
    window_.input = connection->unread.begin();
    window_.input_length = connection->unread.size();
    DecryptWindow(connection);
    window_.input_length = 0;
    connection->unread.Clear();
    if (connection->is_readable) QueueRead(connection);
    return;
  }
  size_t size = ReceiveSize(connection);
  ssize_t length = recv(connection->fd, ciphertext_.get(), size, 0);
  if (length < 0) {
    if (errno == EINTR) {
      QueueRead(connection);
    } else {
      ReadNothing(connection);
    }
    return;
  }
  if (length == 0) {
    connection->is_readable = false;
    Fail(connection, kFailureTruncated, 0);
    return;
  }
  NoteReceived(connection, static_cast<size_t>(length), size);
  window_.input = ciphertext_.get();
  window_.input_length = static_cast<size_t>(length);
  if (connection->phase == Phase::kHandshaking) StepHandshake(connection);
  if (connection->phase == Phase::kOpen) DecryptWindow(connection);
  // A server may speak right after its own part of the handshake, before we have approved of it.
  bool has_memory =
      connection->phase != Phase::kHeld || connection->unread.Append(window_.input, window_.input_length);
  window_.input_length = 0;
  if (!has_memory) Fail(connection, kFailureErrno, ENOMEM);
}

void Reactor::DecryptWindow(Connection* connection) {
  ClaimWindow(connection);
  size_t start = arena_used_;
  size_t given = window_.input_length;
  TlsResult result;
  do {
    size_t length = 0;
    result = connection->tls->Read(arena_ + arena_used_, arena_size_ - arena_used_, &length);
    if (result == TlsResult::kDone) arena_used_ += length;
  } while (result == TlsResult::kDone && arena_used_ < arena_size_);
  if (arena_used_ > start) {
    Push(connection->id, kEventBytes, static_cast<int32_t>(start), static_cast<int32_t>(arena_used_ - start));
    arena_used_ = std::min(AlignedUp(arena_used_), arena_size_);
    connection->barren = 0;
  } else {
    connection->barren += static_cast<uint32_t>(given);
  }
  if (result == TlsResult::kFailed) {
    FailTls(connection);
    return;
  }
  if (!SendWindow(connection)) return;
  if (connection->sealed.size() > kSealedMax || connection->barren > kBarrenMax) {
    Fail(connection, kFailureFlooded, connection->barren > kBarrenMax ? 1 : 0);
    return;
  }
  // Output may have waited for the rest of a message of the peer's.
  if (!connection->staged.is_empty()) QueueFlush(connection);
  if (result == TlsResult::kEnded) {
    connection->is_readable = false;
    connection->has_peer_end = true;
    Push(connection->id, kEventEnded, 0, 0);
  }
}

void Reactor::Resume(Connection* connection) {
  connection->is_paused = false;
  if (connection->is_readable) QueueRead(connection);
}

/* Reads and drops until the peer's end, an error, or more than a connection that is over may cost. */
void Reactor::Discard(Connection* connection) {
  connection->phase = Phase::kDiscarding;
  connection->is_paused = false;
  connection->is_readable = true;
  connection->tls.reset();
  DropUnsent(connection);
  connection->unread.Clear();
  if (!connection->is_end_sent) shutdown(connection->fd, SHUT_WR);
  QueueRead(connection);
}

void Reactor::Drop(Connection* connection) {
  ssize_t length = recv(connection->fd, ciphertext_.get(), kReceiveMax, 0);
  if (length < 0 && errno == EAGAIN) {
    connection->is_readable = false;
    return;
  }
  if (length > 0) connection->discarded += static_cast<uint32_t>(length);
  if ((length < 0 && errno == EINTR) || (length > 0 && connection->discarded <= kDiscardMax)) {
    QueueRead(connection);
    return;
  }
  connection->phase = Phase::kBroken;
  Push(connection->id, kEventEnded, 0, 0);
}

// --- the handshake ---

/* `context` for a server; a client has its own since Connect. False when there is no memory. */
bool Reactor::StartTls(Connection* connection, SSL_CTX* context) {
  bool is_server = context != nullptr;
  connection->tls.reset(
      TlsSession::New(is_server ? context : connection->client_context, is_server, &window_));
  if (connection->tls == nullptr) {
    Fail(connection, kFailureErrno, ENOMEM);
    return false;
  }
  connection->phase = Phase::kHandshaking;
  window_.input_length = 0;
  // A client speaks first; a server may have been spoken to already.
  if (!is_server) StepHandshake(connection);
  if (is_server && connection->is_readable) QueueRead(connection);
  return true;
}

void Reactor::StepHandshake(Connection* connection) {
  ClaimWindow(connection);
  TlsResult result = connection->tls->Handshake();
  if (result == TlsResult::kDone) {
    bool is_client = connection->client_context != nullptr;
    connection->phase = is_client ? Phase::kHeld : Phase::kOpen;
    if (is_client) {
      // Who we are is not told, and nothing is promised, before JavaScript has approved of the server.
      bool has_memory = connection->sealed.Append(window_.output.begin(), window_.output.size());
      window_.output.Rewind();
      window_owner_ = kNobody;
      if (!has_memory) {
        Fail(connection, kFailureErrno, ENOMEM);
        return;
      }
    } else if (!SendWindow(connection)) {
      return;
    }
    Push(connection->id, kEventSecured, connection->tls->agreed_protocol(), 0);
  } else if (result == TlsResult::kWaiting) {
    SendWindow(connection);
  } else {
    FailTls(connection);
  }
}

void Reactor::Approve(Connection* connection) {
  if (connection->phase != Phase::kHeld) return;
  connection->phase = Phase::kOpen;
  QueueFlush(connection);
  QueueRead(connection);
}

}  // namespace weft
