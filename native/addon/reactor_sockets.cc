/*
 * Making sockets: listening, accepting, connecting, and the addresses of their ends. Descriptors may come
 * from elsewhere, opened in another netns.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "descriptor.h"
#include "reactor.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

namespace weft {

/*
 * Connections taken from one listener at once. Few enough that the workers sharing a port share a burst, and
 * that accepting does not starve what is accepted already.
 */
static constexpr int kAcceptsPerTurn = 64;

/* Unanswered probes, this many seconds apart, until a silent peer counts as gone. */
static constexpr int kProbeSeconds = 15;
static constexpr int kProbes = 6;

static constexpr uint32_t kConnectionEvents = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

static void SetOption(int fd, int level, int option, int value) {
  // Only options that every kernel has: none can fail on a TCP socket.
  setsockopt(fd, level, option, &value, sizeof(value));
}

/* What accepted sockets inherit from their listener, so that accepting needs no further call. */
static void SetTcpOptions(int fd, int keep_alive_seconds) {
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, keep_alive_seconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
}

/* 0 when the address is no IP address. */
static socklen_t ParseAddress(const std::string& text, int port, sockaddr_storage* address) {
  memset(address, 0, sizeof(*address));
  sockaddr_in* v4 = reinterpret_cast<sockaddr_in*>(address);
  if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    return sizeof(*v4);
  }
  sockaddr_in6* v6 = reinterpret_cast<sockaddr_in6*>(address);
  if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    return sizeof(*v6);
  }
  return 0;
}

static Endpoint FormatAddress(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  Endpoint endpoint;
  if (address.ss_family == AF_INET) {
    const sockaddr_in& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    endpoint.port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    const sockaddr_in6& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof(text));
    } else {
      inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    }
    endpoint.port = ntohs(v6.sin6_port);
  }
  endpoint.address = text;
  return endpoint;
}

int ConnectSocket(int fd, const std::string& text, int port) {
  sockaddr_storage address;
  socklen_t length = ParseAddress(text, port, &address);
  if (length == 0) return EINVAL;
  return connect(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 ? 0 : errno;
}

Endpoint LocalEndpoint(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return FormatAddress(address);
}

Endpoint RemoteEndpoint(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return FormatAddress(address);
}

/* False unless it is IPv4, also in its IPv6 form. The address is a number in the order of the host. */
static bool ReadIpv4(const sockaddr_storage& address, int32_t* ip, int32_t* port) {
  in_addr v4;
  if (address.ss_family == AF_INET) {
    const sockaddr_in& in = reinterpret_cast<const sockaddr_in&>(address);
    v4 = in.sin_addr;
    *port = ntohs(in.sin_port);
  } else {
    const sockaddr_in6& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    if (address.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) return false;
    memcpy(&v4, &in6.sin6_addr.s6_addr[12], sizeof(v4));
    *port = ntohs(in6.sin6_port);
  }
  *ip = static_cast<int32_t>(ntohl(v4.s_addr));
  return true;
}

bool ReadIpv4Ends(int fd, int32_t* ends) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  if (!ReadIpv4(address, &ends[0], &ends[1])) return false;
  length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  return ReadIpv4(address, &ends[2], &ends[3]);
}

/* A descriptor from outside becomes one of ours: a TCP socket that does not block. 0 or errno. */
static int Adopt(int fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return errno;
  if (type != SOCK_STREAM) return EPROTOTYPE;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return errno;
  return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? 0 : errno;
}

// --- listening ---

static int OpenListener(const std::string& text, int port, bool is_shared, Descriptor* opened) {
  sockaddr_storage address;
  socklen_t length = ParseAddress(text, port, &address);
  if (length == 0) return EINVAL;
  opened->reset(socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  int fd = opened->get();
  if (fd < 0) return errno;
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (is_shared) SetOption(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (address.ss_family == AF_INET6) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  return bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 ? 0 : errno;
}

/* `fd` -1: binds the address. Owns `fd` only when it succeeds. */
int Reactor::Listen(int fd, const std::string& address, int port, bool is_shared, bool is_tls, int backlog) {
  Descriptor opened;
  int error = fd < 0 ? OpenListener(address, port, is_shared, &opened) : Adopt(fd);
  if (error != 0) return -error;
  int listening = fd < 0 ? opened.get() : fd;
  SetTcpOptions(listening, options_.keep_alive_seconds);
  if (listen(listening, backlog) != 0) return -errno;
  Connection* listener = Add(listening, Phase::kListening);
  if (listener == nullptr) return -ENOMEM;
  opened.release();
  listener->is_tls = is_tls;
  error = Watch(listener, EPOLLIN);
  if (error == 0) return listener->id;
  // Closed with it, except the descriptor that stays the caller's.
  if (fd >= 0) listener->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  Remove(listener);
  return -error;
}

void Reactor::Accept(int32_t id) {
  for (int i = 0; i < kAcceptsPerTurn; i++) {
    if (!HasRoom()) Deliver();
    Connection* listener = Find(id);
    if (listener == nullptr) return;
    int fd = accept4(listener->fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = errno;
    Connection* accepted = nullptr;
    if (fd >= 0) {
      accepted = Add(fd, listener->is_tls ? Phase::kAwaitingTls : Phase::kOpen);
      error = ENOMEM;
      if (accepted != nullptr) {
        accepted->is_tls = listener->is_tls;
        error = Watch(accepted, kConnectionEvents);
      }
      if (error == 0) {
        Push(id, kEventAccepted, accepted->id, 0);
        continue;
      }
      if (accepted != nullptr) {
        Remove(accepted);
      } else {
        close(fd);
      }
    }
    if (error == EAGAIN) return;
    if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM || error == ENOSPC) {
      // The kernel would report the waiting connection for ever; JavaScript says when to try again.
      epoll_event event = {};
      event.data.fd = id;
      epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, listener->fd, &event);
      Push(id, kEventAcceptFailed, error, 0);
      return;
    }
    // Anything else concerns one connection that was gone before it was accepted.
  }
}

void Reactor::ResumeAccept(Connection* listener) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = listener->id;
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, listener->fd, &event);
}

// --- connecting ---

/* Owns `fd` in every case. The outcome is an event; a negative errno when there is no connection at all. */
int Reactor::Connect(int fd, const std::string& text, int port, const std::string& local_text, SSL_CTX* tls) {
  Descriptor socket_fd(fd);
  sockaddr_storage address;
  socklen_t length = ParseAddress(text, port, &address);
  if (length == 0) return -EINVAL;
  if (fd < 0) {
    socket_fd.reset(socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket_fd.is_open()) return -errno;
  } else {
    int error = Adopt(fd);
    if (error != 0) return -error;
  }
  SetTcpOptions(socket_fd.get(), options_.keep_alive_seconds);
  if (fd < 0 && !local_text.empty()) {
    sockaddr_storage local;
    socklen_t local_length = ParseAddress(local_text, 0, &local);
    if (local_length == 0) return -EINVAL;
    // The port is chosen at connect, where only the pair of both ends must be unique.
    SetOption(socket_fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    if (bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&local), local_length) != 0) return -errno;
  }
  if (connect(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 && errno != EINPROGRESS) {
    return -errno;
  }
  Connection* connection = Add(socket_fd.get(), Phase::kConnecting);
  if (connection == nullptr) return -ENOMEM;
  socket_fd.release();
  if (tls != nullptr) {
    SSL_CTX_up_ref(tls);
    connection->client_context = tls;
    connection->is_tls = true;
  }
  int error = Watch(connection, kConnectionEvents);
  if (error == 0) return connection->id;
  Remove(connection);
  return -error;
}

void Reactor::FinishConnect(Connection* connection) {
  int error = 0;
  socklen_t length = sizeof(error);
  getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) {
    Fail(connection, kFailureErrno, error);
    return;
  }
  Push(connection->id, kEventConnected, 0, 0);
  if (connection->client_context != nullptr) {
    StartTls(connection, nullptr);
  } else {
    connection->phase = Phase::kOpen;
    QueueFlush(connection);
  }
}

}  // namespace weft
