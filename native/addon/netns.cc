/*
 * Network namespaces: opening one, its cookie (the key of the pod in every map), its interfaces, and
 * rtnetlink requests inside it. The messages are made and read in src/kernel/netlink.ts.
 */
#include "netns.h"

#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "addon.h"
#include "errors.h"

/* Since Linux 5.14; the C library of older build machines does not have it. */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace weft {

static std::string DescribeNetns(int netns_fd) { return "netns descriptor " + std::to_string(netns_fd); }

NetnsScope::NetnsScope(Napi::Env env, int netns_fd)
    : home_fd_(env.GetInstanceData<State>()->home_netns.get()) {
  if (setns(netns_fd, CLONE_NEWNET) != 0) throw SyscallError(env, "setns", errno, DescribeNetns(netns_fd));
}

NetnsScope::~NetnsScope() {
  if (setns(home_fd_, CLONE_NEWNET) == 0) return;
  // Going on would open every later socket of this thread in a pod's netns: connections of the agent, and of
  // other pods, would carry that pod's identity. There is no safe way on.
  fprintf(stderr, "weft: cannot return to the agent's network namespace: %s\n", strerror(errno));
  abort();
}

/* openNetns(path): descriptor */
static Napi::Value OpenNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextArgument(info, 0);
  // The path may be anybody's word. Found without being opened: opening a device may do something, and
  // opening a pipe waits for its other end.
  Descriptor found(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!found.is_open()) throw SyscallError(env, "open", errno, path);
  struct statfs filesystem = {};
  if (fstatfs(found.get(), &filesystem) != 0) throw SyscallError(env, "fstatfs", errno, path);
  // A file that was left where a netns was mounted is found as well; setns would fail later with a less clear
  // error.
  if (filesystem.f_type != NSFS_MAGIC) throw SyscallError(env, "ioctl(NS_GET_NSTYPE)", ENOTTY, path);
  std::string own = "/proc/self/fd/" + std::to_string(found.get());
  Descriptor netns(open(own.c_str(), O_RDONLY | O_CLOEXEC));
  if (!netns.is_open()) throw SyscallError(env, "open", errno, path);
  int type = ioctl(netns.get(), NS_GET_NSTYPE);
  if (type != CLONE_NEWNET) throw SyscallError(env, "ioctl(NS_GET_NSTYPE)", type < 0 ? errno : EINVAL, path);
  return Napi::Number::New(env, netns.release());
}

/* netnsCookie(netnsFd): bigint */
static Napi::Value NetnsCookie(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  NetnsScope scope(env, netns_fd);
  Descriptor socket_fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.is_open()) throw SyscallError(env, "socket", errno, DescribeNetns(netns_fd));
  if (getsockopt(socket_fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) {
    throw SyscallError(env, "getsockopt(SO_NETNS_COOKIE)", errno, DescribeNetns(netns_fd));
  }
  return Napi::BigInt::New(env, cookie);
}

static Napi::Value AddressBytes(Napi::Env env, const sockaddr* address) {
  if (address == nullptr) return env.Null();
  const void* bytes = nullptr;
  size_t length = 0;
  if (address->sa_family == AF_INET) {
    bytes = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
    length = 4;
  } else if (address->sa_family == AF_INET6) {
    bytes = &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    length = 16;
  } else {
    return env.Null();
  }
  Napi::Uint8Array copy = Napi::Uint8Array::New(env, length);
  memcpy(copy.Data(), bytes, length);
  return copy;
}

/* netnsInterfaces(netnsFd): {name, index, isUp, address}[], one entry per address; address is null for the
 * link itself */
static Napi::Value NetnsInterfaces(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  struct Row {
    const ifaddrs* entry;
    unsigned index;
  };
  std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> list(nullptr, freeifaddrs);
  std::vector<Row> rows;
  {
    NetnsScope scope(env, netns_fd);
    ifaddrs* first = nullptr;
    if (getifaddrs(&first) != 0) throw SyscallError(env, "getifaddrs", errno, DescribeNetns(netns_fd));
    list.reset(first);
    for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
      rows.push_back({entry, if_nametoindex(entry->ifa_name)});
    }
  }
  Napi::Array result = Napi::Array::New(env, rows.size());
  for (uint32_t i = 0; i < rows.size(); i++) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", Napi::String::New(env, rows[i].entry->ifa_name));
    row.Set("index", Napi::Number::New(env, rows[i].index));
    row.Set("isUp", Napi::Boolean::New(env, (rows[i].entry->ifa_flags & IFF_UP) != 0));
    row.Set("address", AddressBytes(env, rows[i].entry->ifa_addr));
    result.Set(i, row);
  }
  return result;
}

/*
 * netlinkInNetns(netnsFd, protocol, message): Uint8Array
 *
 * Sends one message on a netlink socket of `protocol` opened in the netns; returns everything the kernel
 * answers up to and without its acknowledgement (or end of dump). An error in the acknowledgement is thrown.
 */
static Napi::Value NetlinkInNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int netns_fd = IntArgument(info, 0);
  int protocol = IntArgument(info, 1);
  Napi::Uint8Array message = BytesArgument(info, 2);

  Descriptor netlink;
  int socket_error = 0;
  {
    NetnsScope scope(env, netns_fd);
    netlink.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    socket_error = errno;
  }
  if (!netlink.is_open())
    throw SyscallError(env, "socket(AF_NETLINK)", socket_error, DescribeNetns(netns_fd));
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  if (sendto(netlink.get(), message.Data(), message.ByteLength(), 0, reinterpret_cast<sockaddr*>(&kernel),
             sizeof(kernel)) < 0) {
    throw SyscallError(env, "sendto(AF_NETLINK)", errno, DescribeNetns(netns_fd));
  }
  std::vector<uint8_t> answer;
  // 32 KiB: the size the kernel itself prefers for dumps.
  std::vector<uint8_t> datagram(32768);
  for (;;) {
    ssize_t received = recv(netlink.get(), datagram.data(), datagram.size(), 0);
    if (received < 0) throw SyscallError(env, "recv(AF_NETLINK)", errno, DescribeNetns(netns_fd));
    size_t left = static_cast<size_t>(received);
    for (auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_ERROR) {
        const auto* acknowledgement = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
        if (acknowledgement->error != 0) {
          throw SyscallError(env, "netlink", -acknowledgement->error, DescribeNetns(netns_fd));
        }
      }
      if (header->nlmsg_type == NLMSG_ERROR || header->nlmsg_type == NLMSG_DONE) {
        Napi::Uint8Array result = Napi::Uint8Array::New(env, answer.size());
        if (!answer.empty()) memcpy(result.Data(), answer.data(), answer.size());
        return result;
      }
      const auto* start = reinterpret_cast<const uint8_t*>(header);
      answer.insert(answer.end(), start, start + header->nlmsg_len);
    }
  }
}

void RegisterNetns(Napi::Env env, Napi::Object exports) {
  exports.Set("openNetns", Napi::Function::New(env, OpenNetns));
  exports.Set("netnsCookie", Napi::Function::New(env, NetnsCookie));
  exports.Set("netnsInterfaces", Napi::Function::New(env, NetnsInterfaces));
  exports.Set("netlinkInNetns", Napi::Function::New(env, NetlinkInNetns));
}

}  // namespace weft
