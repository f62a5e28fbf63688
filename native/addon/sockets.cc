/*
 * Sockets made inside a pod's netns. A socket belongs for life to the netns in which it was made, so the
 * thread goes there for the call and comes back.
 */
#include <bpf/bpf.h>
#include <fcntl.h>
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

static std::string DescribeSocket(int family, int netns_fd) {
  return std::string(family == AF_INET6 ? "IPv6" : "IPv4") + " socket in netns descriptor " +
         std::to_string(netns_fd);
}

static Descriptor OpenSocket(Napi::Env env, int family, int netns_fd) {
  int fd = -1;
  int error = 0;
  {
    NetnsScope scope(env, netns_fd);
    fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    error = errno;
  }
  if (fd < 0) throw SyscallError(env, "socket", error, DescribeSocket(family, netns_fd));
  return Descriptor(fd);
}

static void SetOption(Napi::Env env, int fd, int level, int option, int value, const char* syscall,
                      const std::string& object) {
  if (setsockopt(fd, level, option, &value, sizeof(value)) != 0) {
    throw SyscallError(env, syscall, errno, object);
  }
}

/*
 * listenInNetns(netnsFd, family, port, backlog): descriptor
 *
 * Listens on the wildcard address; with AF_INET6 on both families. Transparent, because accepted sockets have
 * the original destination as their local address; SO_REUSEPORT, because each data worker has a listener of
 * its own.
 */
static Napi::Value ListenInNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  int family = IntArgument(info, 1);
  int port = IntArgument(info, 2);
  int backlog = IntArgument(info, 3);
  Descriptor listener = OpenSocket(env, family, netns_fd);
  std::string object = DescribeSocket(family, netns_fd) + ", port " + std::to_string(port);
  int fd = listener.get();
  SetOption(env, fd, SOL_SOCKET, SO_REUSEADDR, 1, "setsockopt(SO_REUSEADDR)", object);
  SetOption(env, fd, SOL_SOCKET, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", object);
  int bound;
  if (family == AF_INET6) {
    // The option sets the socket's one flag for both families.
    SetOption(env, fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1, "setsockopt(IPV6_TRANSPARENT)", object);
    SetOption(env, fd, IPPROTO_IPV6, IPV6_V6ONLY, 0, "setsockopt(IPV6_V6ONLY)", object);
    sockaddr_in6 address = {};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<uint16_t>(port));
    bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  } else {
    SetOption(env, fd, IPPROTO_IP, IP_TRANSPARENT, 1, "setsockopt(IP_TRANSPARENT)", object);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  if (bound != 0) throw SyscallError(env, "bind", errno, object);
  if (listen(fd, backlog) != 0) throw SyscallError(env, "listen", errno, object);
  return Napi::Number::New(env, listener.release());
}

/*
 * socketInNetns(netnsFd, netnsCookie, family, exemptMapFd): descriptor
 *
 * An unconnected socket that the capture lets by. Called per connection by data workers, with a descriptor
 * that the main thread owns: the cookie proves that its number was not closed and taken by another pod's
 * netns in the meantime.
 */
static Napi::Value SocketInNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  if (!info[1].IsBigInt()) throw Napi::TypeError::New(env, "argument 1 must be a bigint");
  bool is_exact = false;
  uint64_t expected_cookie = info[1].As<Napi::BigInt>().Uint64Value(&is_exact);
  int family = IntArgument(info, 2);
  int exempt_map_fd = IntArgument(info, 3);
  Descriptor opened = OpenSocket(env, family, netns_fd);
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  int fd = opened.get();
  if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) {
    throw SyscallError(env, "getsockopt(SO_NETNS_COOKIE)", errno, DescribeSocket(family, netns_fd));
  }
  if (cookie != expected_cookie) {
    throw SyscallError(env, "setns", ESTALE, DescribeSocket(family, netns_fd));
  }
  uint32_t present = 1;
  if (bpf_map_update_elem(exempt_map_fd, &fd, &present, BPF_ANY) != 0) {
    throw SyscallError(env, "bpf(BPF_MAP_UPDATE_ELEM)", errno, "exempt_sockets");
  }
  return Napi::Number::New(env, opened.release());
}

/* duplicateFd(fd): another descriptor of the same socket, for a thread that closes its own. */
static Napi::Value DuplicateFd(const Napi::CallbackInfo& info) {
  int fd = IntArgument(info, 0);
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0)
    throw SyscallError(info.Env(), "fcntl(F_DUPFD_CLOEXEC)", errno, "descriptor " + std::to_string(fd));
  return Napi::Number::New(info.Env(), copy);
}

void RegisterSockets(Napi::Env env, Napi::Object exports) {
  exports.Set("listenInNetns", Napi::Function::New(env, ListenInNetns));
  exports.Set("socketInNetns", Napi::Function::New(env, SocketInNetns));
  exports.Set("duplicateFd", Napi::Function::New(env, DuplicateFd));
}

}  // namespace weft
