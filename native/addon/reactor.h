/*
 * The reactor: sockets and TLS of one thread, driven by one epoll descriptor inside Node's own loop.
 *
 *   epoll_wait -> receive, decrypt into the arena -> one callback with all events -> send what it wrote
 *
 * It moves bytes and reports what the kernel and OpenSSL say; it interprets nothing and decides nothing: a
 * connection is closed only when JavaScript says so (src/transport/reactor-conn.ts). JavaScript runs only in
 * Deliver, so a Connection found by its id stays valid until the next Deliver.
 */
#pragma once

#include <node_api.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "reactor_queue.h"
#include "reactor_uv.h"
#include "tls_context.h"
#include "tls_session.h"

namespace weft {

/* Kinds of events; mirrored in src/transport/reactor-addon.ts. An event is four int32: id, kind, a, b. */
enum EventKind : int32_t {
  kEventAccepted = 1,        /* on a listener; a: id of the connection */
  kEventConnected = 2,       /* TCP is there; with TLS the handshake begins */
  kEventSecured = 3,         /* the peer's chain is verified; a: protocol agreed on, by number, or -1 */
  kEventBytes = 4,           /* a: offset in the arena, b: length */
  kEventEnded = 5,           /* the peer's end: FIN, with TLS close_notify */
  kEventFinished = 6,        /* our end, and all before it, is with the kernel */
  kEventDrained = 7,         /* the backlog is gone after it was above the limit */
  kEventFailed = 8,          /* nothing more will come; a: Failure, b: errno or OpenSSL's error */
  kEventAcceptFailed = 9,    /* on a listener, which pauses; a: errno */
  kEventDatagram = 10,       /* a: offset in the arena of its DatagramEnds, b: length with them */
  kEventDatagramFailed = 11, /* a: errno; the socket goes on */
};

/* Lowest byte of a kEventFailed's a; the bits above are X509_V_* of a refused certificate. */
enum Failure : int32_t {
  kFailureErrno = 1,
  kFailureTls = 2,
  kFailureTruncated = 3, /* FIN without close_notify */
  kFailureFlooded = 4,   /* b: 0, the peer makes TLS answer and takes no answer; 1, it carries nothing */
};

enum class Phase : uint8_t {
  kListening,
  kDatagram,
  kConnecting,
  kAwaitingTls, /* accepted; JavaScript chooses the credentials */
  kHandshaking,
  kHeld, /* the client's last flight waits until JavaScript has approved the server */
  kOpen,
  kDiscarding, /* what arrives is dropped */
  kBroken,     /* failed; waits to be closed */
};

/* Bytes asked for by the first read of a connection: what libuv reads, and four TLS records. */
constexpr uint32_t kReceiveMin = 65536;

/*
 * The same while reads come back full. 256 KiB: a quarter of the arena, sixteen TLS records, and what one
 * send carries on; beyond it fewer calls gain nothing that can be measured.
 */
constexpr uint32_t kReceiveMax = 262144;

/* Room in the arena for the part of a TLS record that was received before. */
constexpr size_t kRecordRoom = 32768;

/*
 * Connections whose record buffers OpenSSL keeps, 33 KiB each: those that had records last. More busy ones
 * than this pay an allocation per batch; idle ones have none.
 */
constexpr size_t kWarmMax = 16;

/*
 * Both ends of a datagram: in the arena before its bytes, and given back with an answer. Mirrored in
 * src/transport/reactor-datagrams.ts.
 */
struct DatagramEnds {
  /* IPv4 in its IPv6-mapped form. */
  uint8_t peer[16];
  uint8_t local[16];
  /* In network order. */
  uint8_t peer_port[2];
  uint8_t unused[2];
  /* The interface of a link-local peer. */
  uint32_t peer_scope;
  /* Datagrams that the kernel had no room for, since the socket was made; in network order. */
  uint32_t drops;
};
static_assert(sizeof(DatagramEnds) == 44, "what the transport reads");

/* No connection has it. */
constexpr int32_t kNobody = -1;

/* Parts of the arena that one connection sends on as they are: written in this batch, to be sent by its end.
 */
struct ArenaPieces {
  /* Pieces of one send: what eight full reads of a tunnel consist of. */
  static constexpr int kMax = 64;
  int32_t owner = kNobody;
  int count = 0;
  size_t size = 0;
  /* The first is left free for what was staged before. */
  iovec parts[kMax + 1];

  void Clear() {
    owner = kNobody;
    count = 0;
    size = 0;
  }
};

struct Connection {
  int32_t id;
  int fd;
  Phase phase;
  bool is_tls = false;
  bool is_paused = false;
  bool is_readable = false; /* more can be received without another event of epoll */
  bool is_ready_queued = false;
  bool is_flush_queued = false;
  bool has_hangup = false;   /* the kernel holds the peer's end or an error */
  bool has_peer_end = false; /* kEventEnded was reported */
  bool is_end_wanted = false;
  bool has_sent_notify = false;
  bool is_end_sent = false;
  bool is_drain_wanted = false;
  bool is_blocked = false; /* the kernel takes nothing until EPOLLOUT */
  bool is_warm = false;    /* OpenSSL keeps its record buffers */
  uint32_t discarded = 0;
  uint32_t receive_size = kReceiveMin; /* bytes asked for by the next read */
  uint32_t barren = 0;                 /* bytes of TLS since it last carried something */
  SSL_CTX* client_context = nullptr;   /* with a reference */
  std::unique_ptr<TlsSession> tls;
  ByteQueue staged; /* as written */
  ByteQueue sealed; /* TLS records */
  ByteQueue unread; /* TLS records received by a held client */

  size_t queued() const { return staged.size() + sealed.size(); }
  /* Pausing holds back bytes, never a handshake. */
  bool may_read() const { return is_readable && (!is_paused || phase != Phase::kOpen); }
  ~Connection() { SSL_CTX_free(client_context); }
};

/* An answer that waits for the end of the batch; its bytes are in a queue of their own. */
struct Reply {
  int32_t id;
  size_t length;
  DatagramEnds ends;
};

class Reactor {
 public:
  struct Options {
    uint32_t backlog_high;
    int keep_alive_seconds;
    bool is_poisoning;
  };

  /* `arena` and `events` belong to typed arrays that the reactor keeps alive. Errno on failure, 0 if it runs.
   */
  static int New(napi_env env, napi_value arena, napi_value events, napi_value callback,
                 const Options& options, Reactor** made);

  Connection* Find(int32_t id) const;
  /* Bytes of the arena, for writes out of it. */
  const uint8_t* arena() const { return arena_; }
  size_t arena_size() const { return arena_size_; }
  size_t connection_count() const { return slots_.size() - free_slots_.size(); }

  // --- sockets (reactor_sockets.cc); negative: errno ---
  int Listen(int fd, const std::string& address, int port, bool is_shared, bool is_tls, int backlog);
  int Connect(int fd, const std::string& address, int port, const std::string& local_address, SSL_CTX* tls);
  void ResumeAccept(Connection* listener);

  // --- datagrams (reactor_udp.cc) ---
  int OpenDatagram(int fd, const std::string& address, int port);
  int SendDatagram(Connection* connection, const uint8_t* bytes, size_t length);
  void ReplyDatagram(Connection* connection, const uint8_t* ends, const uint8_t* bytes, size_t length);
  /* Datagrams that the kernel did not take. */
  uint32_t dropped_replies() const { return dropped_replies_; }

  // --- input (reactor_input.cc) and output (reactor_output.cc) ---
  bool StartTls(Connection* connection, SSL_CTX* context);
  void Approve(Connection* connection);
  size_t Write(Connection* connection, const uint8_t* bytes, size_t length);
  /* Bytes written and not yet with the kernel. */
  size_t Backlog(const Connection* connection) const;
  void End(Connection* connection);
  void Pause(Connection* connection) { connection->is_paused = true; }
  void Resume(Connection* connection);
  void Discard(Connection* connection);
  void Close(Connection* connection, bool is_reset);
  /* What the batch wrote goes to the kernel. */
  void EndBatch();

 private:
  Reactor(napi_env env, const Options& options) : env_(env), options_(options) { warm_.fill(kNobody); }
  ~Reactor();

  // --- the loop (reactor.cc) ---
  int Start(napi_value arena, napi_value events, napi_value callback);
  static void OnPoll(uv_poll_s* handle, int status, int events);
  static void OnCleanup(napi_async_cleanup_hook_handle handle, void* reactor);
  static void OnPollClosed(uv_handle_s* handle);
  void Turn();
  void React(int32_t id, uint32_t ready);
  void ReadReady();
  void Deliver();
  bool CallBack(size_t count);
  void Flush();
  void Wake();
  void Push(int32_t id, EventKind kind, int32_t a, int32_t b);
  bool HasRoom() const;
  bool HasFreeSlot();
  Connection* Add(int fd, Phase phase);
  void Note(std::vector<int32_t>* list, int32_t id);
  int Watch(Connection* connection, uint32_t events);
  void Remove(Connection* connection);

  // --- reactor_sockets.cc ---
  void Accept(int32_t id);
  void FinishConnect(Connection* connection);

  // --- reactor_udp.cc ---
  void ReceiveDatagrams(int32_t id);
  void SendReplies();
  void SendSome(int fd, const Reply* replies, int count, const uint8_t* bytes);

  // --- reactor_input.cc ---
  void QueueRead(Connection* connection);
  size_t ReceiveSize(const Connection* connection) const;
  void NoteReceived(Connection* connection, size_t length, size_t asked);
  void ReadOnce(Connection* connection);
  void ReadPlain(Connection* connection);
  void ReadTls(Connection* connection);
  void DecryptWindow(Connection* connection);
  void ReadNothing(Connection* connection);
  void Drop(Connection* connection);
  void StepHandshake(Connection* connection);
  void Fail(Connection* connection, Failure failure, int32_t code);
  void FailTls(Connection* connection);

  // --- reactor_output.cc ---
  void QueueFlush(Connection* connection);
  void FlushConnection(Connection* connection);
  ssize_t Send(Connection* connection, iovec* parts, size_t count);
  ssize_t SendBytes(Connection* connection, const uint8_t* bytes, size_t length);
  bool SendQueued(Connection* connection, ByteQueue* queue);
  size_t Gather(Connection* connection, const uint8_t* bytes, size_t length);
  bool SendPieces(Connection* connection);
  void ClaimWindow(Connection* connection);
  void KeepWarm(Connection* connection);
  bool SendWindow(Connection* connection);
  bool Seal(Connection* connection, const uint8_t* bytes, size_t length);
  void SealStaged(Connection* connection);
  size_t SealThrough(Connection* connection, const uint8_t* bytes, size_t length);
  void DropUnsent(Connection* connection);
  void FinishOutput(Connection* connection);

  napi_env env_;
  Options options_;
  napi_ref arena_ref_ = nullptr;
  napi_ref events_ref_ = nullptr;
  napi_ref callback_ref_ = nullptr;
  napi_async_context async_context_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  uv_poll_s* poll_ = nullptr;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  bool is_woken_ = false;
  bool is_referenced_ = true;

  uint8_t* arena_ = nullptr;
  size_t arena_size_ = 0;
  size_t arena_used_ = 0;
  size_t turn_bytes_ = 0;
  int32_t* events_ = nullptr;
  size_t events_max_ = 0;
  std::vector<int32_t> queue_;

  std::vector<Connection*> slots_;
  std::vector<uint16_t> generations_;
  std::vector<uint32_t> free_slots_;
  std::vector<int32_t> ready_;
  std::vector<int32_t> unflushed_;
  std::vector<int32_t> reading_;
  TlsWindow window_;
  /* Whose records window_.output holds. */
  int32_t window_owner_ = kNobody;
  /* In the order in which they became warm, from warm_next_. */
  std::array<int32_t, kWarmMax> warm_;
  size_t warm_next_ = 0;
  ArenaPieces pieces_;
  std::unique_ptr<uint8_t[]> ciphertext_;
  /* For one call that receives datagrams; null until there is a datagram socket. */
  std::unique_ptr<uint8_t[]> datagram_room_;
  std::vector<Reply> replies_;
  ByteQueue reply_bytes_;
  uint32_t dropped_replies_ = 0;
};

/* Connects a UDP socket, of any family that reaches the address. 0 or errno. */
int ConnectSocket(int fd, const std::string& address, int port);

/* Empty when not known; an IPv4-mapped address in its IPv4 form. */
struct Endpoint {
  std::string address;
  int port = 0;
};
/* Local address and port, remote address and port, as numbers; false when they are not IPv4 or not known. */
bool ReadIpv4Ends(int fd, int32_t* ends);
Endpoint LocalEndpoint(int fd);
Endpoint RemoteEndpoint(int fd);

}  // namespace weft
