/*
 * What outlives the program that made it: pinned objects, links that are given another program, and what is
 * attached to a hook by whom.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "addon.h"
#include "errors.h"

namespace weft {

/* attachLink(programFd, targetFd, attachType): descriptor of the link. The target is a cgroup or a netns. */
static Napi::Value AttachLink(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int target_fd = IntArgument(info, 1);
  auto type = static_cast<bpf_attach_type>(IntArgument(info, 2));
  int link = bpf_link_create(IntArgument(info, 0), target_fd, type, nullptr);
  if (link < 0) {
    throw SyscallError(env, "bpf(BPF_LINK_CREATE)", errno, "target descriptor " + std::to_string(target_fd));
  }
  return Napi::Number::New(env, link);
}

/* updateLink(linkFd, programFd): the link runs that program from now on, with no moment in between. */
static void UpdateLink(const Napi::CallbackInfo& info) {
  int link_fd = IntArgument(info, 0);
  if (bpf_link_update(link_fd, IntArgument(info, 1), nullptr) != 0) {
    throw SyscallError(info.Env(), "bpf(BPF_LINK_UPDATE)", errno,
                       "link descriptor " + std::to_string(link_fd));
  }
}

/* detachLink(linkFd): the link runs no program any more, whoever else has it open. */
static void DetachLink(const Napi::CallbackInfo& info) {
  int link_fd = IntArgument(info, 0);
  if (bpf_link_detach(link_fd) != 0) {
    throw SyscallError(info.Env(), "bpf(BPF_LINK_DETACH)", errno,
                       "link descriptor " + std::to_string(link_fd));
  }
}

/* The name of a loaded program; empty when it is gone. */
static std::string ProgramName(uint32_t id) {
  Descriptor program(bpf_prog_get_fd_by_id(id));
  bpf_prog_info shape = {};
  uint32_t length = sizeof(shape);
  if (!program.is_open() || bpf_obj_get_info_by_fd(program.get(), &shape, &length) != 0) return "";
  return shape.name;
}

/*
 * describeLink(linkFd): {kind: 'cgroup' | 'netns' | 'other', target: bigint, id, program, programId}
 *
 * `target` is the cgroup's id or the netns's inode number; 0 when that is gone.
 */
static Napi::Value DescribeLink(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int link_fd = IntArgument(info, 0);
  bpf_link_info shape = {};
  uint32_t length = sizeof(shape);
  if (bpf_obj_get_info_by_fd(link_fd, &shape, &length) != 0) {
    throw SyscallError(env, "bpf(BPF_OBJ_GET_INFO_BY_FD)", errno,
                       "link descriptor " + std::to_string(link_fd));
  }
  const char* kind = "other";
  uint64_t target = 0;
  if (shape.type == BPF_LINK_TYPE_CGROUP) {
    kind = "cgroup";
    target = shape.cgroup.cgroup_id;
  } else if (shape.type == BPF_LINK_TYPE_NETNS) {
    kind = "netns";
    target = shape.netns.netns_ino;
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("kind", Napi::String::New(env, kind));
  result.Set("target", Napi::BigInt::New(env, target));
  result.Set("id", Napi::Number::New(env, shape.id));
  result.Set("programId", Napi::Number::New(env, shape.prog_id));
  result.Set("program", Napi::String::New(env, ProgramName(shape.prog_id)));
  return result;
}

/* attachedPrograms(targetFd, attachType): {name, id}[] of the cgroup or netns itself */
static Napi::Value AttachedPrograms(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int target_fd = IntArgument(info, 0);
  auto type = static_cast<bpf_attach_type>(IntArgument(info, 1));
  // 64: BPF_CGROUP_MAX_PROGS, the most that a cgroup takes for one hook.
  std::vector<uint32_t> ids(64);
  uint32_t count = static_cast<uint32_t>(ids.size());
  uint32_t flags = 0;
  if (bpf_prog_query(target_fd, type, 0, &flags, ids.data(), &count) != 0 && errno != ENOSPC) {
    throw SyscallError(env, "bpf(BPF_PROG_QUERY)", errno, "target descriptor " + std::to_string(target_fd));
  }
  Napi::Array result = Napi::Array::New(env);
  for (uint32_t i = 0; i < count && i < ids.size(); i++) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", Napi::String::New(env, ProgramName(ids[i])));
    row.Set("id", Napi::Number::New(env, ids[i]));
    result.Set(i, row);
  }
  return result;
}

/* pinObject(fd, path) */
static void PinObject(const Napi::CallbackInfo& info) {
  std::string path = TextArgument(info, 1);
  if (bpf_obj_pin(IntArgument(info, 0), path.c_str()) != 0) {
    throw SyscallError(info.Env(), "bpf(BPF_OBJ_PIN)", errno, path);
  }
}

/* openPinned(path): descriptor of the map, program or link that is pinned there */
static Napi::Value OpenPinned(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextArgument(info, 0);
  int fd = bpf_obj_get(path.c_str());
  if (fd < 0) throw SyscallError(env, "bpf(BPF_OBJ_GET)", errno, path);
  return Napi::Number::New(env, fd);
}

void RegisterBpfLinks(Napi::Env env, Napi::Object exports) {
  exports.Set("attachLink", Napi::Function::New(env, AttachLink));
  exports.Set("updateLink", Napi::Function::New(env, UpdateLink));
  exports.Set("detachLink", Napi::Function::New(env, DetachLink));
  exports.Set("describeLink", Napi::Function::New(env, DescribeLink));
  exports.Set("attachedPrograms", Napi::Function::New(env, AttachedPrograms));
  exports.Set("pinObject", Napi::Function::New(env, PinObject));
  exports.Set("openPinned", Napi::Function::New(env, OpenPinned));
}

}  // namespace weft
