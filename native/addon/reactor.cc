/*
 * The loop: which connections can do something, and telling JavaScript what happened. Also the table of
 * connections, and the beginning and end of a reactor.
 */
#include "reactor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "faults.h"

namespace weft {

/* An id is 20 bits of slot and 11 bits of generation: always positive, and a million connections. */
static constexpr int kSlotBits = 20;
static constexpr int32_t kSlotMask = (1 << kSlotBits) - 1;
static constexpr size_t kSlotsMax = size_t{1} << kSlotBits;
static constexpr uint16_t kGenerationMask = (1 << 11) - 1;
/* Never the id of a connection. */
static constexpr int32_t kWakeId = -1;

/* Descriptors looked at per epoll_wait; who comes later is seen in the next one. */
static constexpr int kReadyMax = 512;

/*
 * Turns of the same batch, in which connections with more to read go on. Bounded, so that a few busy ones do
 * not keep Node's loop from its timers.
 */
static constexpr int kRoundsMax = 8;

/*
 * Bytes delivered by the rounds of one turn. 2 MiB: about a millisecond of relaying, for one busy connection
 * or for many.
 */
static constexpr size_t kTurnBytesMax = 2097152;

/* Events that one step can make after it looked for room. */
static constexpr size_t kEventsOfOneStep = 8;

/* The first size of the table. */
static constexpr size_t kSlotsMin = 64;

/* Events that a connection can have waiting when JavaScript made them: drained, finished, failed. */
static constexpr size_t kEventsOfOneConnection = 3;

/* Room that one step needs at least: a read, and a TLS record that was begun before. */
static constexpr size_t kArenaOfOneStep = kReceiveMin + kRecordRoom;

/* What a kept slice of the arena shows when poisoning is on. */
static constexpr int kPoison = 0xdd;

// --- beginning and end ---

int Reactor::New(napi_env env, napi_value arena, napi_value events, napi_value callback,
                 const Options& options, Reactor** made) {
  Reactor* reactor = new (std::nothrow) Reactor(env, options);
  if (reactor == nullptr) return ENOMEM;
  int error = reactor->Start(arena, events, callback);
  if (error != 0) {
    delete reactor;
    return error;
  }
  *made = reactor;
  return 0;
}

int Reactor::Start(napi_value arena, napi_value events, napi_value callback) {
  void* bytes = nullptr;
  napi_get_typedarray_info(env_, arena, nullptr, &arena_size_, &bytes, nullptr, nullptr);
  arena_ = static_cast<uint8_t*>(bytes);
  size_t length = 0;
  napi_get_typedarray_info(env_, events, nullptr, &length, &bytes, nullptr, nullptr);
  events_ = static_cast<int32_t*>(bytes);
  events_max_ = length / 4;
  if (arena_size_ < kArenaOfOneStep || events_max_ < 4 * kEventsOfOneStep) return EINVAL;
  ciphertext_.reset(new (std::nothrow) uint8_t[kReceiveMax]);
  if (ciphertext_ == nullptr) return ENOMEM;
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) return errno;
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) return errno;
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = kWakeId;
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) != 0) return errno;

  uv_loop_s* loop = nullptr;
  if (napi_get_uv_event_loop(env_, &loop) != napi_ok) return ENOTSUP;
  poll_ = static_cast<uv_poll_s*>(malloc(uv_handle_size(kUvPoll)));
  if (poll_ == nullptr) return ENOMEM;
  int error = uv_poll_init(loop, poll_, epoll_fd_);
  if (error == 0) error = uv_poll_start(poll_, kUvReadable, OnPoll);
  if (error != 0) {
    free(poll_);
    poll_ = nullptr;
    return -error;
  }
  uv_handle_s* handle = reinterpret_cast<uv_handle_s*>(poll_);
  uv_handle_set_data(handle, this);
  // Referenced while there are connections, as Node's own sockets are.
  uv_unref(handle);
  is_referenced_ = false;
  napi_value name;
  napi_create_string_utf8(env_, "weft reactor", NAPI_AUTO_LENGTH, &name);
  napi_create_reference(env_, arena, 1, &arena_ref_);
  napi_create_reference(env_, events, 1, &events_ref_);
  napi_create_reference(env_, callback, 1, &callback_ref_);
  napi_async_init(env_, nullptr, name, &async_context_);
  napi_add_async_cleanup_hook(env_, OnCleanup, this, &cleanup_);
  return 0;
}

Reactor::~Reactor() {
  for (Connection* connection : slots_) {
    if (connection == nullptr) continue;
    close(connection->fd);
    delete connection;
  }
  if (wake_fd_ >= 0) close(wake_fd_);
  if (epoll_fd_ >= 0) close(epoll_fd_);
  free(poll_);
}

/* The thread ends: a worker that exits or is terminated, or the program. Kernel and peers see closed sockets.
 */
void Reactor::OnCleanup(napi_async_cleanup_hook_handle, void* data) {
  Reactor* reactor = static_cast<Reactor*>(data);
  uv_poll_stop(reactor->poll_);
  napi_async_destroy(reactor->env_, reactor->async_context_);
  napi_delete_reference(reactor->env_, reactor->callback_ref_);
  napi_delete_reference(reactor->env_, reactor->events_ref_);
  napi_delete_reference(reactor->env_, reactor->arena_ref_);
  uv_close(reinterpret_cast<uv_handle_s*>(reactor->poll_), OnPollClosed);
}

void Reactor::OnPollClosed(uv_handle_s* handle) {
  Reactor* reactor = static_cast<Reactor*>(uv_handle_get_data(handle));
  napi_async_cleanup_hook_handle cleanup = reactor->cleanup_;
  delete reactor;
  napi_remove_async_cleanup_hook(cleanup);
}

// --- the table ---

Connection* Reactor::Find(int32_t id) const {
  if (id < 0) return nullptr;
  size_t slot = static_cast<size_t>(id & kSlotMask);
  if (slot >= slots_.size()) return nullptr;
  Connection* connection = slots_[slot];
  return connection != nullptr && connection->id == id ? connection : nullptr;
}

/*
 * A free place in the table, and room for it in every list, so that nothing that happens to a connection
 * later has to allocate to be noted down. False when the table is full, or there is no memory.
 */
bool Reactor::HasFreeSlot() {
  if (!free_slots_.empty()) return true;
  size_t wanted = slots_.size() + 1;
  if (wanted > kSlotsMax || IsAllocationFailing()) return false;
  try {
    if (wanted > slots_.capacity()) {
      size_t capacity = std::max(kSlotsMin, 2 * slots_.size());
      ready_.reserve(capacity);
      reading_.reserve(capacity);
      unflushed_.reserve(capacity);
      free_slots_.reserve(capacity);
      generations_.reserve(capacity);
      queue_.reserve(4 * (events_max_ + kEventsOfOneConnection * capacity));
      slots_.reserve(capacity);
    }
  } catch (const std::bad_alloc&) {
    return false;
  }
  slots_.push_back(nullptr);
  generations_.push_back(0);
  free_slots_.push_back(static_cast<uint32_t>(slots_.size() - 1));
  return true;
}

/* Null when there is no place, or no memory. */
Connection* Reactor::Add(int fd, Phase phase) {
  if (!HasFreeSlot() || IsAllocationFailing()) return nullptr;
  Connection* connection = new (std::nothrow) Connection();
  if (connection == nullptr) return nullptr;
  uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  connection->id = static_cast<int32_t>((uint32_t{generations_[slot]} << kSlotBits) | slot);
  connection->fd = fd;
  connection->phase = phase;
  slots_[slot] = connection;
  if (!is_referenced_) {
    is_referenced_ = true;
    uv_ref(reinterpret_cast<uv_handle_s*>(poll_));
  }
  return connection;
}

/*
 * Notes a connection down in one of the lists, in each of which it is once. When it is full there are ids in
 * it whose connections are gone: without those there is room, as there are no more connections than places.
 */
void Reactor::Note(std::vector<int32_t>* list, int32_t id) {
  if (list->size() == list->capacity()) {
    list->erase(
        std::remove_if(list->begin(), list->end(), [this](int32_t old) { return Find(old) == nullptr; }),
        list->end());
  }
  list->push_back(id);
}

void Reactor::Remove(Connection* connection) {
  size_t slot = static_cast<size_t>(connection->id & kSlotMask);
  // Closing takes a socket out of the epoll set, unless another descriptor of it exists: workers share
  // listeners. (A child process between fork and exec has one too; what is then still reported belongs to no
  // id.)
  if (connection->phase <= Phase::kDatagram) epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, connection->fd, nullptr);
  close(connection->fd);
  DropUnsent(connection);
  delete connection;
  slots_[slot] = nullptr;
  generations_[slot] = (generations_[slot] + 1) & kGenerationMask;
  free_slots_.push_back(static_cast<uint32_t>(slot));
  if (connection_count() == 0 && is_referenced_) {
    is_referenced_ = false;
    uv_unref(reinterpret_cast<uv_handle_s*>(poll_));
  }
}

/* 0 or errno. */
int Reactor::Watch(Connection* connection, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.fd = connection->id;
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, connection->fd, &event) == 0 ? 0 : errno;
}

// --- a batch ---

void Reactor::OnPoll(uv_poll_s* handle, int, int) {
  static_cast<Reactor*>(uv_handle_get_data(reinterpret_cast<uv_handle_s*>(handle)))->Turn();
}

void Reactor::Turn() {
  turn_bytes_ = 0;
  epoll_event ready[kReadyMax];
  int count = epoll_wait(epoll_fd_, ready, kReadyMax, 0);
  for (int i = 0; i < count; i++) {
    if (!HasRoom()) Deliver();
    React(ready[i].data.fd, ready[i].events);
  }
  Deliver();
  for (int round = 0;
       round < kRoundsMax && turn_bytes_ < kTurnBytesMax && !(ready_.empty() && queue_.empty()); round++) {
    ReadReady();
    Deliver();
  }
  if (!ready_.empty() || !queue_.empty()) Wake();
}

void Reactor::React(int32_t id, uint32_t ready) {
  if (id == kWakeId) {
    uint64_t count;
    // Its value says nothing: that the descriptor was readable did.
    [[maybe_unused]] ssize_t length = read(wake_fd_, &count, sizeof(count));
    is_woken_ = false;
    return;
  }
  Connection* connection = Find(id);
  if (connection == nullptr || connection->phase == Phase::kBroken) return;
  if (connection->phase == Phase::kListening) {
    Accept(id);
    return;
  }
  if (connection->phase == Phase::kDatagram) {
    ReceiveDatagrams(id);
    return;
  }
  if (connection->phase == Phase::kConnecting) {
    if ((ready & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    FinishConnect(connection);
    if (connection->phase == Phase::kBroken) return;
  }
  if ((ready & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) connection->has_hangup = true;
  if ((ready & EPOLLOUT) != 0) {
    connection->is_blocked = false;
    if (connection->queued() > 0) FlushConnection(connection);
  }
  if ((ready & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0) return;
  if (connection->has_peer_end && (ready & EPOLLERR) != 0) {
    // Past its end a peer can only be noticed by the error of its reset.
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) Fail(connection, kFailureErrno, error);
    return;
  }
  connection->is_readable = true;
  if (connection->may_read()) ReadOnce(connection);
}

void Reactor::ReadReady() {
  // Swapped, because delivering runs JavaScript, which may queue others.
  reading_.swap(ready_);
  for (int32_t id : reading_) {
    if (!HasRoom()) Deliver();
    Connection* connection = Find(id);
    if (connection == nullptr) continue;
    connection->is_ready_queued = false;
    if (connection->may_read() || !connection->unread.is_empty()) ReadOnce(connection);
  }
  reading_.clear();
}

bool Reactor::HasRoom() const {
  return arena_size_ - arena_used_ >= kArenaOfOneStep && queue_.size() / 4 + kEventsOfOneStep <= events_max_;
}

void Reactor::Push(int32_t id, EventKind kind, int32_t a, int32_t b) {
  queue_.insert(queue_.end(), {id, kind, a, b});
}

/* Hands all events to JavaScript, then sends what it wrote; the arena is free again. */
void Reactor::Deliver() {
  // More than the array holds only when flushing made them: events without bytes, which may come later.
  size_t count = std::min(queue_.size() / 4, events_max_);
  if (count > 0) {
    memcpy(events_, queue_.data(), count * 4 * sizeof(int32_t));
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(count * 4));
    CallBack(count);
  }
  // Some of what was written still lies in the arena.
  Flush();
  if (options_.is_poisoning) memset(arena_, kPoison, arena_used_);
  turn_bytes_ += arena_used_;
  arena_used_ = 0;
}

/* False when JavaScript can run no more. */
bool Reactor::CallBack(size_t count) {
  napi_handle_scope scope;
  if (napi_open_handle_scope(env_, &scope) != napi_ok) return false;
  napi_value callback, receiver, argument, result;
  napi_get_reference_value(env_, callback_ref_, &callback);
  napi_get_global(env_, &receiver);
  napi_create_uint32(env_, static_cast<uint32_t>(count), &argument);
  bool is_alive = true;
  // The callback knows how far it came: after an exception that the program survives, it goes on from there.
  for (size_t attempt = 0; attempt <= count; attempt++) {
    napi_status status = napi_make_callback(env_, async_context_, receiver, callback, 1, &argument, &result);
    if (status == napi_ok) break;
    napi_value exception;
    bool is_pending = false;
    napi_is_exception_pending(env_, &is_pending);
    if (!is_pending || napi_get_and_clear_last_exception(env_, &exception) != napi_ok ||
        napi_fatal_exception(env_, exception) != napi_ok) {
      is_alive = false;
      break;
    }
  }
  napi_close_handle_scope(env_, scope);
  return is_alive;
}

void Reactor::Flush() {
  if (!replies_.empty()) SendReplies();
  if (unflushed_.empty()) return;
  // Flushing makes events and queues reads, and never output: the list does not grow meanwhile.
  for (int32_t id : unflushed_) {
    Connection* connection = Find(id);
    if (connection == nullptr) continue;
    connection->is_flush_queued = false;
    FlushConnection(connection);
  }
  unflushed_.clear();
}

void Reactor::EndBatch() {
  Flush();
  if (!ready_.empty() || !queue_.empty()) Wake();
}

/* Another turn, although no socket has anything new. */
void Reactor::Wake() {
  if (is_woken_) return;
  is_woken_ = true;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t length = write(wake_fd_, &one, sizeof(one));
}

}  // namespace weft
