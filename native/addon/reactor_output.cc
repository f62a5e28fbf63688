/*
 * Bytes that leave on one connection, plain or through TLS, and its own end.
 */
#include <algorithm>
#include <cerrno>

#include "reactor.h"

namespace weft {

/* Written output of at least this size goes to the kernel at once: the kernel works while JavaScript goes on.
 */
static constexpr size_t kAtOnce = 32768;

/* Plaintext sealed between two calls of send: four TLS records. */
static constexpr size_t kSealMax = 65536;

void Reactor::QueueFlush(Connection* connection) {
  if (connection->is_flush_queued) return;
  connection->is_flush_queued = true;
  unflushed_.push_back(connection->id);
}

/* Takes all bytes; returns the backlog. */
size_t Reactor::Write(Connection* connection, const uint8_t* bytes, size_t length) {
  if (connection->phase == Phase::kBroken || connection->phase == Phase::kDiscarding ||
      connection->is_end_wanted || length == 0) {
    return connection->backlog();
  }
  size_t taken = 0;
  if (length >= kAtOnce && connection->phase == Phase::kOpen) {
    // What was staged before goes first.
    if (connection->backlog() > 0) FlushConnection(connection);
    if (connection->phase != Phase::kOpen) return 0;
    while (taken < length && connection->phase == Phase::kOpen && connection->backlog() == 0) {
      if (connection->is_tls) {
        size_t part = std::min(length - taken, kSealMax);
        if (!Seal(connection, bytes + taken, part)) break;
        taken += part;
      } else {
        ssize_t sent = Send(connection, bytes + taken, length - taken);
        if (sent <= 0) break;
        taken += static_cast<size_t>(sent);
      }
    }
    if (connection->phase != Phase::kOpen) return 0;
  }
  if (taken < length) {
    if (!connection->staged.Append(bytes + taken, length - taken)) {
      Fail(connection, kFailureErrno, ENOMEM);
      return 0;
    }
    if (connection->staged.size() >= kAtOnce && connection->phase == Phase::kOpen && taken == 0) {
      FlushConnection(connection);
    } else {
      QueueFlush(connection);
    }
  }
  size_t backlog = connection->backlog();
  if (backlog > options_.backlog_high) connection->is_drain_wanted = true;
  return backlog;
}

/* Bytes sent; 0 when the kernel takes none now; -1 when the connection failed. */
ssize_t Reactor::Send(Connection* connection, const uint8_t* bytes, size_t length) {
  if (connection->is_blocked) return 0;
  for (;;) {
    ssize_t sent = send(connection->fd, bytes, length, MSG_NOSIGNAL);
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

/* Sends until the queue is empty or the kernel takes no more. False when the connection failed. */
bool Reactor::SendQueued(Connection* connection, ByteQueue* queue) {
  while (!queue->is_empty()) {
    ssize_t sent = Send(connection, queue->begin(), queue->size());
    if (sent < 0) return false;
    if (sent == 0) return true;
    queue->Consume(static_cast<size_t>(sent));
  }
  return true;
}

/* Sends what OpenSSL just made, or queues it behind what it made before. False when the connection failed. */
bool Reactor::SendWindow(Connection* connection) {
  ByteQueue& output = window_.output;
  if (connection->sealed.is_empty() && !SendQueued(connection, &output)) {
    output.Clear();
    return false;
  }
  bool has_memory = connection->sealed.Append(output.begin(), output.size());
  output.Clear();
  if (!has_memory) Fail(connection, kFailureErrno, ENOMEM);
  return has_memory;
}

/* False when OpenSSL did not take the bytes: it failed, or waits for the rest of a message of the peer's. */
bool Reactor::Seal(Connection* connection, const uint8_t* bytes, size_t length) {
  TlsResult result = connection->tls->Write(bytes, length);
  if (result == TlsResult::kDone) {
    SendWindow(connection);
    return true;
  }
  if (result == TlsResult::kWaiting) {
    SendWindow(connection);
  } else {
    FailTls(connection);
  }
  return false;
}

void Reactor::FlushConnection(Connection* connection) {
  if (connection->phase == Phase::kHandshaking) {
    SendQueued(connection, &connection->sealed);
    return;
  }
  if (connection->phase != Phase::kOpen) return;
  if (!connection->is_tls) {
    if (!SendQueued(connection, &connection->staged)) return;
  } else {
    if (!SendQueued(connection, &connection->sealed)) return;
    while (connection->sealed.is_empty() && !connection->staged.is_empty()) {
      size_t part = std::min(connection->staged.size(), kSealMax);
      if (!Seal(connection, connection->staged.begin(), part)) break;
      if (connection->phase != Phase::kOpen) return;
      connection->staged.Consume(part);
    }
    if (connection->phase != Phase::kOpen) return;
  }
  if (connection->backlog() == 0) FinishOutput(connection);
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
