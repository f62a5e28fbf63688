/*
 * UDP sockets inside a pod's netns, for DNS: those on which the agent is asked, and those with which it asks.
 */
#include <bpf/bpf.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "addon.h"
#include "errors.h"
#include "netns.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace weft {

/* One setting of a socket that is being made. */
struct Setting {
  int level;
  int option;
  const char* syscall;
};

/* What lets answers leave from the address that was asked, and tells which one that was. */
static constexpr Setting kBoundIpv6[] = {
    {SOL_SOCKET, SO_REUSEPORT, "setsockopt(SO_REUSEPORT)"},
    {IPPROTO_IPV6, IPV6_TRANSPARENT, "setsockopt(IPV6_TRANSPARENT)"},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, "setsockopt(IPV6_RECVPKTINFO)"},
};
static constexpr Setting kBoundIpv4[] = {
    {SOL_SOCKET, SO_REUSEPORT, "setsockopt(SO_REUSEPORT)"},
    {IPPROTO_IP, IP_TRANSPARENT, "setsockopt(IP_TRANSPARENT)"},
    {IPPROTO_IP, IP_PKTINFO, "setsockopt(IP_PKTINFO)"},
};

static int Bind(int fd, int family, int port) {
  if (family == AF_INET6) {
    sockaddr_in6 address = {};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<uint16_t>(port));
    return bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  return bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
}

/*
 * datagramInNetns(netnsFd, netnsCookie, family, port, exemptMapFd): descriptor
 *
 * A UDP socket that the capture lets by. With a port it is bound to the wildcard address, with AF_INET6 to
 * that of both families, beside others that are (SO_REUSEPORT: each data worker has one); with port 0 it is
 * not bound. The cookie proves that the descriptor is still that pod's netns.
 */
static Napi::Value DatagramInNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  if (!info[1].IsBigInt()) throw Napi::TypeError::New(env, "argument 1 must be a bigint");
  bool is_exact = false;
  uint64_t expected_cookie = info[1].As<Napi::BigInt>().Uint64Value(&is_exact);
  int family = IntArgument(info, 2);
  int port = IntArgument(info, 3);
  int exempt_map_fd = IntArgument(info, 4);
  std::string object = std::string(family == AF_INET6 ? "IPv6" : "IPv4") +
                       " UDP socket in netns descriptor " + std::to_string(netns_fd) + ", port " +
                       std::to_string(port);
  Descriptor opened;
  int error = 0;
  {
    NetnsScope scope(env, netns_fd);
    opened.reset(socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    error = errno;
  }
  if (!opened.is_open()) throw SyscallError(env, "socket", error, object);
  int fd = opened.get();
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) {
    throw SyscallError(env, "getsockopt(SO_NETNS_COOKIE)", errno, object);
  }
  if (cookie != expected_cookie) throw SyscallError(env, "setns", ESTALE, object);
  uint32_t present = 1;
  if (bpf_map_update_elem(exempt_map_fd, &fd, &present, BPF_ANY) != 0) {
    throw SyscallError(env, "bpf(BPF_MAP_UPDATE_ELEM)", errno, "exempt_sockets");
  }
  if (port != 0) {
    int on = 1;
    for (const Setting& setting : family == AF_INET6 ? kBoundIpv6 : kBoundIpv4) {
      if (setsockopt(fd, setting.level, setting.option, &on, sizeof(on)) != 0) {
        throw SyscallError(env, setting.syscall, errno, object);
      }
    }
    int off = 0;
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0) {
      throw SyscallError(env, "setsockopt(IPV6_V6ONLY)", errno, object);
    }
    if (Bind(fd, family, port) != 0) throw SyscallError(env, "bind", errno, object);
  }
  return Napi::Number::New(env, opened.release());
}

void RegisterDatagrams(Napi::Env env, Napi::Object exports) {
  exports.Set("datagramInNetns", Napi::Function::New(env, DatagramInNetns));
}

}  // namespace weft
