/*
 * Bytes that leave on one connection, plain or through TLS, and its own end.
 */
#include <algorithm>
#include <cerrno>

#include "reactor.h"

namespace weft {

/*
 * Written output of at least this size is not copied to be staged: TLS seals it where it lies, plain bytes go
 * from there to the kernel.
 */
static constexpr size_t kAtOnce = 32768;

/* Bytes of the arena worth a piece of their own: below, copying costs less than what a piece adds to a send.
 */
static constexpr size_t kPieceMin = 4096;

/* Plaintext given to OpenSSL at a time: sixteen records. */
static constexpr size_t kSealMax = 262144;

/*
 * Sealed or gathered bytes that leave before the end of the batch. Each send ends in a packet that is not
 * full, and may wake the peer: with sends of 64 KiB they were half of all packets.
 */
static constexpr size_t kSendAt = 262144;

void Reactor::QueueFlush(Connection* connection) {
  if (connection->is_flush_queued) return;
  connection->is_flush_queued = true;
  Note(&unflushed_, connection->id);
}

size_t Reactor::Backlog(const Connection* connection) const {
  size_t backlog = connection->queued();
  if (window_owner_ == connection->id) backlog += window_.output.size();
  if (pieces_.owner == connection->id) backlog += pieces_.size;
  return backlog;
}

/* Takes all bytes; returns the backlog. */
size_t Reactor::Write(Connection* connection, const uint8_t* bytes, size_t length) {
  if (connection->phase == Phase::kBroken || connection->phase == Phase::kDiscarding ||
      connection->is_end_wanted || length == 0) {
    return Backlog(connection);
  }
  size_t taken = 0;
  if (connection->phase == Phase::kOpen && !connection->is_blocked) {
    taken = connection->is_tls ? SealThrough(connection, bytes, length) : Gather(connection, bytes, length);
    if (connection->phase != Phase::kOpen) return 0;
  }
  if (taken < length && !connection->staged.Append(bytes + taken, length - taken)) {
    Fail(connection, kFailureErrno, ENOMEM);
    return 0;
  }
  QueueFlush(connection);
  size_t backlog = Backlog(connection);
  if (backlog > options_.backlog_high) connection->is_drain_wanted = true;
  return backlog;
}

/* Bytes sent; 0 when the kernel takes none now; -1 when the connection failed. */
ssize_t Reactor::Send(Connection* connection, iovec* parts, size_t count) {
  if (connection->is_blocked) return 0;
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = count;
  // The last bytes before an end wait for the shutdown that follows them (FinishOutput), and leave with its
  // FIN in one segment. What a full buffer leaves behind is sent by the kernel all the same.
  bool is_last = connection->is_end_wanted && !connection->is_tls;
  int flags = is_last ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL;
  for (;;) {
    ssize_t sent = sendmsg(connection->fd, &message, flags);
    if (sent >= 0) return sent;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      connection->is_blocked = true;
      return 0;
    }
    Fail(connection, kFailureErrno, errno);
    return -1;
  }
}

/* Sends from `bytes` until all is sent or the kernel takes no more. How much; -1 when the connection failed.
 */
ssize_t Reactor::SendBytes(Connection* connection, const uint8_t* bytes, size_t length) {
  size_t sent = 0;
  while (sent < length) {
    iovec part = {const_cast<uint8_t*>(bytes) + sent, length - sent};
    ssize_t count = Send(connection, &part, 1);
    if (count < 0) return -1;
    if (count == 0) break;
    sent += static_cast<size_t>(count);
  }
  return static_cast<ssize_t>(sent);
}

/* False when the connection failed. */
bool Reactor::SendQueued(Connection* connection, ByteQueue* queue) {
  ssize_t sent = SendBytes(connection, queue->begin(), queue->size());
  if (sent < 0) return false;
  if (sent > 0) queue->Consume(static_cast<size_t>(sent));
  return true;
}

// --- plain ---

/*
 * Bytes of the arena stay where they are until the end of the batch; others only during this call. Behind
 * bytes that wait as pieces nothing may be staged, so what is too small to be one sends them. Returns how
 * much was taken.
 */
size_t Reactor::Gather(Connection* connection, const uint8_t* bytes, size_t length) {
  bool is_kept = bytes >= arena_ && bytes < arena_ + arena_size_;
  bool is_owner = pieces_.owner == connection->id;
  if (length < (is_kept ? kPieceMin : kAtOnce)) {
    if (is_owner) SendPieces(connection);
    if (connection->staged.size() + length >= kAtOnce && connection->phase == Phase::kOpen) {
      SendQueued(connection, &connection->staged);
    }
    return 0;
  }
  if (!is_owner) {
    Connection* other = Find(pieces_.owner);
    if (other != nullptr) SendPieces(other);
    pieces_.owner = connection->id;
  }
  pieces_.parts[++pieces_.count] = {const_cast<uint8_t*>(bytes), length};
  pieces_.size += length;
  if (!is_kept || pieces_.count == ArenaPieces::kMax || pieces_.size >= kSendAt) SendPieces(connection);
  return length;
}

/* Sends what was staged and the pieces behind it; stages what the kernel does not take. */
bool Reactor::SendPieces(Connection* connection) {
  ByteQueue& staged = connection->staged;
  iovec* part = pieces_.parts;
  iovec* end = part + 1 + pieces_.count;
  *part = {const_cast<uint8_t*>(staged.begin()), staged.size()};
  size_t staged_left = staged.size();
  while (part < end) {
    if (part->iov_len == 0) {
      part++;
      continue;
    }
    ssize_t sent = Send(connection, part, static_cast<size_t>(end - part));
    if (sent < 0) return false;
    if (sent == 0) break;
    size_t left = static_cast<size_t>(sent);
    staged_left -= std::min(staged_left, left);
    for (; left > 0 && left >= part->iov_len; part++) left -= part->iov_len;
    if (left > 0) *part = {static_cast<uint8_t*>(part->iov_base) + left, part->iov_len - left};
  }
  staged.Consume(staged.size() - staged_left);
  bool has_memory = true;
  for (part = std::max(part, pieces_.parts + 1); part < end && has_memory; part++) {
    has_memory = staged.Append(static_cast<uint8_t*>(part->iov_base), part->iov_len);
  }
  pieces_.Clear();
  if (!has_memory) Fail(connection, kFailureErrno, ENOMEM);
  return has_memory;
}

// --- TLS ---

/* The window is for one connection at a time: what another has in it goes to the kernel. */
void Reactor::ClaimWindow(Connection* connection) {
  if (window_owner_ == connection->id) return;
  Connection* other = Find(window_owner_);
  if (other != nullptr) SendWindow(other);
  window_owner_ = connection->id;
  if (!connection->is_warm) KeepWarm(connection);
}

/* OpenSSL is about to need buffers for a connection: who has had his the longest gives them back. */
void Reactor::KeepWarm(Connection* connection) {
  int32_t& place = warm_[warm_next_];
  warm_next_ = (warm_next_ + 1) % kWarmMax;
  Connection* oldest = Find(place);
  if (oldest != nullptr && oldest->is_warm && oldest->tls != nullptr) {
    oldest->is_warm = false;
    oldest->tls->FreeBuffers();
  }
  place = connection->id;
  connection->is_warm = true;
}

/* Sends what OpenSSL made, or queues it behind what it made before. False when the connection failed. */
bool Reactor::SendWindow(Connection* connection) {
  if (window_owner_ != connection->id) return true;
  ByteQueue& output = window_.output;
  ssize_t sent = 0;
  if (connection->sealed.is_empty()) sent = SendBytes(connection, output.begin(), output.size());
  if (sent < 0) return false;
  size_t left = output.size() - static_cast<size_t>(sent);
  bool has_memory = connection->sealed.Append(output.begin() + sent, left);
  output.Rewind();
  window_owner_ = kNobody;
  if (!has_memory) Fail(connection, kFailureErrno, ENOMEM);
  return has_memory;
}

/* False when OpenSSL did not take the bytes: it failed, or waits for the rest of a message of the peer's. */
bool Reactor::Seal(Connection* connection, const uint8_t* bytes, size_t length) {
  ClaimWindow(connection);
  TlsResult result = connection->tls->Write(bytes, length);
  if (result == TlsResult::kFailed || result == TlsResult::kEnded) {
    FailTls(connection);
    return false;
  }
  if (result == TlsResult::kWaiting || window_.output.size() >= kSendAt) SendWindow(connection);
  return result == TlsResult::kDone;
}

/* Seals what is staged, as long as the kernel takes it. */
void Reactor::SealStaged(Connection* connection) {
  while (connection->sealed.is_empty() && !connection->staged.is_empty()) {
    size_t part = std::min(connection->staged.size(), kSealMax);
    if (!Seal(connection, connection->staged.begin(), part) || connection->phase != Phase::kOpen) return;
    connection->staged.Consume(part);
  }
}

/* Seals bytes where they lie, when they are many; returns how much was taken. */
size_t Reactor::SealThrough(Connection* connection, const uint8_t* bytes, size_t length) {
  // Small ones share a record; but many of them do not wait.
  if (connection->staged.size() + length < kAtOnce) return 0;
  SealStaged(connection);
  size_t taken = 0;
  while (taken < length && connection->phase == Phase::kOpen && connection->queued() == 0) {
    size_t part = std::min(length - taken, kSealMax);
    if (!Seal(connection, bytes + taken, part)) break;
    taken += part;
  }
  return taken;
}

void Reactor::FlushConnection(Connection* connection) {
  if (connection->phase == Phase::kHandshaking) {
    SendQueued(connection, &connection->sealed);
    return;
  }
  if (connection->phase != Phase::kOpen) return;
  if (!connection->is_tls) {
    if (pieces_.owner == connection->id ? !SendPieces(connection)
                                        : !SendQueued(connection, &connection->staged)) {
      return;
    }
  } else {
    if (!SendQueued(connection, &connection->sealed)) return;
    SealStaged(connection);
    if (connection->phase != Phase::kOpen || !SendWindow(connection)) return;
  }
  if (connection->queued() == 0) FinishOutput(connection);
}

/* What was not sent never will be. */
void Reactor::DropUnsent(Connection* connection) {
  connection->staged.Clear();
  connection->sealed.Clear();
  if (window_owner_ == connection->id) {
    window_.output.Rewind();
    window_owner_ = kNobody;
  }
  if (pieces_.owner == connection->id) pieces_.Clear();
}

/* Nothing waits to be sent. */
void Reactor::FinishOutput(Connection* connection) {
  if (connection->is_drain_wanted) {
    connection->is_drain_wanted = false;
    Push(connection->id, kEventDrained, 0, 0);
  }
  if (!connection->is_end_wanted || connection->is_end_sent) return;
  if (connection->is_tls && !connection->has_sent_notify) {
    connection->has_sent_notify = true;
    ClaimWindow(connection);
    connection->tls->End();
    if (!SendWindow(connection)) return;
    if (!connection->sealed.is_empty()) return;
  }
  connection->is_end_sent = true;
  shutdown(connection->fd, SHUT_WR);
  Push(connection->id, kEventFinished, 0, 0);
}

/* Ends our side once everything written is sent. */
void Reactor::End(Connection* connection) {
  connection->is_end_wanted = true;
  FlushConnection(connection);
}

void Reactor::Close(Connection* connection, bool is_reset) {
  if (is_reset) {
    struct linger now = {1, 0};
    setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }
  Remove(connection);
}

}  // namespace weft
