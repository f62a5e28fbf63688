/*
 * Datagram sockets: received in batches, each datagram with its two ends; sent in batches at the end of a
 * batch of events, or one by one from connected sockets. What the kernel does not take at once is dropped and
 * counted, as UDP's senders expect.
 *
 * Before the bytes of a datagram, in the arena and in what is given to be sent, stand its ends
 * (DatagramEnds).
 */
#include <fcntl.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "descriptor.h"
#include "reactor.h"

namespace weft {

/* Datagrams of one system call, in both directions. */
static constexpr int kDatagramsPerCall = 16;

/* The longest that UDP can carry over IPv4 and IPv6 without jumbograms. */
static constexpr size_t kDatagramMax = 65535;

/* Answers that wait for the end of a batch; beyond it they are sent at once. */
static constexpr size_t kRepliesMax = 64;

/*
 * Receive buffer of a socket that is asked by pods, 1 MiB: some 1300 questions as the kernel counts them
 * (with their overhead), which is what arrives in the longest pause of a worker that is still given any.
 */
static constexpr int kReceiveBuffer = 1048576;

/* Room for the packet information of either family and a count of drops. */
static constexpr size_t kControlMax = 128;

static const uint8_t kMappedPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static void WriteAddress(const void* ipv4, uint8_t* to) {
  memcpy(to, kMappedPrefix, sizeof(kMappedPrefix));
  memcpy(to + sizeof(kMappedPrefix), ipv4, 4);
}

/* The peer's name as the kernel gave it. */
static void WritePeer(const sockaddr_storage& name, DatagramEnds* ends) {
  if (name.ss_family == AF_INET6) {
    const sockaddr_in6& in6 = reinterpret_cast<const sockaddr_in6&>(name);
    memcpy(ends->peer, &in6.sin6_addr, sizeof(ends->peer));
    memcpy(ends->peer_port, &in6.sin6_port, sizeof(ends->peer_port));
    ends->peer_scope = in6.sin6_scope_id;
  } else if (name.ss_family == AF_INET) {
    const sockaddr_in& in = reinterpret_cast<const sockaddr_in&>(name);
    WriteAddress(&in.sin_addr, ends->peer);
    memcpy(ends->peer_port, &in.sin_port, sizeof(ends->peer_port));
  }
}

static void WriteControl(msghdr* message, DatagramEnds* ends) {
  for (cmsghdr* control = CMSG_FIRSTHDR(message); control != nullptr;
       control = CMSG_NXTHDR(message, control)) {
    if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof(info));
      memcpy(ends->local, &info.ipi6_addr, sizeof(ends->local));
    } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof(info));
      WriteAddress(&info.ipi_addr, ends->local);
    } else if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SO_RXQ_OVFL) {
      uint32_t drops;
      memcpy(&drops, CMSG_DATA(control), sizeof(drops));
      ends->drops = htonl(drops);
    }
  }
}

// --- opening ---

/*
 * `address` empty: the socket is bound already, and is asked by many. Else it is connected and hears from
 * nobody else. Owns `fd` in every case; negative errno.
 */
int Reactor::OpenDatagram(int fd, const std::string& address, int port) {
  Descriptor opened(fd);
  int type = 0;
  socklen_t length = sizeof(type);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return -errno;
  if (type != SOCK_DGRAM) return -EPROTOTYPE;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -errno;
  int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on)) != 0) return -errno;
  if (address.empty()) {
    // Beyond net.core.rmem_max only for the privileged, which the agent is; otherwise the kernel's own limit
    // holds.
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof(kReceiveBuffer)) != 0) {
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kReceiveBuffer, sizeof(kReceiveBuffer));
    }
  } else {
    int error = ConnectSocket(fd, address, port);
    if (error != 0) return -error;
  }
  if (datagram_room_ == nullptr) {
    if (IsAllocationFailing()) return -ENOMEM;
    datagram_room_.reset(new (std::nothrow) uint8_t[kDatagramsPerCall * kDatagramMax]);
    if (datagram_room_ == nullptr) return -ENOMEM;
    try {
      replies_.reserve(kRepliesMax);
    } catch (const std::bad_alloc&) {
      datagram_room_.reset();
      return -ENOMEM;
    }
  }
  Connection* connection = Add(fd, Phase::kDatagram);
  if (connection == nullptr) return -ENOMEM;
  opened.release();
  // Level-triggered: what one call leaves is reported again, after others had their turn.
  int error = Watch(connection, EPOLLIN);
  if (error == 0) return connection->id;
  Remove(connection);
  return -error;
}

// --- receiving ---

void Reactor::ReceiveDatagrams(int32_t id) {
  Connection* connection = Find(id);
  mmsghdr messages[kDatagramsPerCall];
  iovec parts[kDatagramsPerCall];
  sockaddr_storage names[kDatagramsPerCall];
  alignas(cmsghdr) uint8_t controls[kDatagramsPerCall][kControlMax];
  for (int i = 0; i < kDatagramsPerCall; i++) {
    parts[i] = {datagram_room_.get() + static_cast<size_t>(i) * kDatagramMax, kDatagramMax};
    messages[i].msg_len = 0;
    messages[i].msg_hdr = {};
    messages[i].msg_hdr.msg_name = &names[i];
    messages[i].msg_hdr.msg_namelen = sizeof(names[i]);
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    messages[i].msg_hdr.msg_control = controls[i];
    messages[i].msg_hdr.msg_controllen = sizeof(controls[i]);
    names[i].ss_family = AF_UNSPEC;
  }
  int count = recvmmsg(connection->fd, messages, kDatagramsPerCall, MSG_DONTWAIT, nullptr);
  if (count < 0) {
    if (errno != EAGAIN && errno != EINTR) Push(id, kEventDatagramFailed, errno, 0);
    return;
  }
  for (int i = 0; i < count; i++) {
    if (!HasRoom()) {
      Deliver();
      // JavaScript may have closed it; what is left of its batch has nobody to go to.
      if (Find(id) == nullptr) return;
    }
    DatagramEnds ends = {};
    WritePeer(names[i], &ends);
    WriteControl(&messages[i].msg_hdr, &ends);
    uint8_t* to = arena_ + arena_used_;
    memcpy(to, &ends, sizeof(ends));
    memcpy(to + sizeof(ends), parts[i].iov_base, messages[i].msg_len);
    size_t length = sizeof(ends) + messages[i].msg_len;
    Push(id, kEventDatagram, static_cast<int32_t>(arena_used_), static_cast<int32_t>(length));
    arena_used_ += length;
  }
}

// --- sending ---

/* From a connected socket. 0 or errno. */
int Reactor::SendDatagram(Connection* connection, const uint8_t* bytes, size_t length) {
  if (send(connection->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return 0;
  if (errno == EAGAIN || errno == ENOBUFS) dropped_replies_++;
  return errno;
}

/* To the peer in `ends`, from the local address in it, at the end of the batch. */
void Reactor::ReplyDatagram(Connection* connection, const uint8_t* ends, const uint8_t* bytes,
                            size_t length) {
  if (replies_.size() == kRepliesMax) SendReplies();
  if (length > kDatagramMax || IsAllocationFailing() || !reply_bytes_.Append(bytes, length)) {
    dropped_replies_++;
    return;
  }
  Reply reply;
  reply.id = connection->id;
  reply.length = length;
  memcpy(&reply.ends, ends, sizeof(reply.ends));
  replies_.push_back(reply);
}

/* Says from which of our addresses a reply goes. `control` must outlive the call that sends it. */
template <typename Info>
static void SendFrom(const Info& info, int level, int type, uint8_t* control, msghdr* message) {
  message->msg_control = control;
  message->msg_controllen = CMSG_SPACE(sizeof(info));
  cmsghdr* header = CMSG_FIRSTHDR(message);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(sizeof(info));
  memcpy(CMSG_DATA(header), &info, sizeof(info));
}

/* One reply as the kernel wants it. */
static void Address(const DatagramEnds& ends, sockaddr_in6* name, uint8_t* control, msghdr* message) {
  *name = {};
  name->sin6_family = AF_INET6;
  memcpy(&name->sin6_port, ends.peer_port, sizeof(ends.peer_port));
  memcpy(&name->sin6_addr, ends.peer, sizeof(ends.peer));
  name->sin6_scope_id = ends.peer_scope;
  message->msg_name = name;
  message->msg_namelen = sizeof(*name);
  in6_pktinfo info = {};
  memcpy(&info.ipi6_addr, ends.local, sizeof(ends.local));
  SendFrom(info, IPPROTO_IPV6, IPV6_PKTINFO, control, message);
}

/* The same on a socket of a kernel without IPv6. */
static void AddressIpv4(const DatagramEnds& ends, sockaddr_in* name, uint8_t* control, msghdr* message) {
  *name = {};
  name->sin_family = AF_INET;
  memcpy(&name->sin_port, ends.peer_port, sizeof(ends.peer_port));
  memcpy(&name->sin_addr, ends.peer + sizeof(kMappedPrefix), sizeof(name->sin_addr));
  message->msg_name = name;
  message->msg_namelen = sizeof(*name);
  in_pktinfo info = {};
  memcpy(&info.ipi_spec_dst, ends.local + sizeof(kMappedPrefix), sizeof(info.ipi_spec_dst));
  SendFrom(info, IPPROTO_IP, IP_PKTINFO, control, message);
}

/* `count` replies of one socket, whose bytes begin at `bytes`. */
void Reactor::SendSome(int fd, const Reply* replies, int count, const uint8_t* bytes) {
  int family = AF_INET6;
  socklen_t length = sizeof(family);
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
  mmsghdr messages[kDatagramsPerCall] = {};
  iovec parts[kDatagramsPerCall];
  sockaddr_storage names[kDatagramsPerCall];
  alignas(cmsghdr) uint8_t controls[kDatagramsPerCall][kControlMax] = {};
  for (int i = 0; i < count; i++) {
    parts[i] = {const_cast<uint8_t*>(bytes), replies[i].length};
    bytes += replies[i].length;
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    if (family == AF_INET6) {
      sockaddr_in6* name = reinterpret_cast<sockaddr_in6*>(&names[i]);
      Address(replies[i].ends, name, controls[i], &messages[i].msg_hdr);
    } else {
      AddressIpv4(replies[i].ends, reinterpret_cast<sockaddr_in*>(&names[i]), controls[i],
                  &messages[i].msg_hdr);
    }
  }
  for (int sent = 0; sent < count;) {
    int taken =
        sendmmsg(fd, messages + sent, static_cast<unsigned>(count - sent), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (taken > 0) {
      sent += taken;
      continue;
    }
    // A full buffer takes none of the others either; any other failure is that one datagram's.
    bool is_full = errno == EAGAIN || errno == ENOBUFS;
    dropped_replies_ += is_full ? static_cast<uint32_t>(count - sent) : 1;
    sent = is_full ? count : sent + 1;
  }
}

void Reactor::SendReplies() {
  const uint8_t* bytes = reply_bytes_.begin();
  for (size_t at = 0; at < replies_.size();) {
    int count = 0;
    size_t length = 0;
    while (at + static_cast<size_t>(count) < replies_.size() && count < kDatagramsPerCall &&
           replies_[at + static_cast<size_t>(count)].id == replies_[at].id) {
      length += replies_[at + static_cast<size_t>(count)].length;
      count++;
    }
    // Whoever closed the socket in this batch wants none of it sent.
    Connection* connection = Find(replies_[at].id);
    if (connection != nullptr) SendSome(connection->fd, &replies_[at], count, bytes);
    bytes += length;
    at += static_cast<size_t>(count);
  }
  replies_.clear();
  reply_bytes_.Clear();
}

}  // namespace weft
