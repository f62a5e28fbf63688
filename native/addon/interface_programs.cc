/*
 * Programs that are attached to interfaces by tcx, without a link: they stay when the agent ends. Attaching
 * and detaching wait until no CPU runs the old list of programs any more, some 20 ms, with the kernel's lock
 * of all interfaces held; so they are done by threads of their own, as promises.
 *
 * The bpf() calls are made without libbpf, whose older versions do not know them.
 */
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "addon.h"
#include "errors.h"

namespace weft {

/* Of linux/bpf.h since Linux 6.6. */
constexpr uint32_t ATTACH_REPLACE = 1u << 2;
constexpr uint32_t ATTACH_BEFORE = 1u << 3;

/* The part of union bpf_attr for BPF_PROG_ATTACH and BPF_PROG_DETACH. */
struct AttachAttributes {
  uint32_t interface_index;
  uint32_t program_fd;
  uint32_t attach_type;
  uint32_t flags;
  uint32_t replaced_fd;
  uint32_t relative_fd;
  /* The call fails with ESTALE when somebody has changed the list since it was at this revision. */
  uint64_t expected_revision;
};

/* For BPF_PROG_QUERY. */
struct QueryAttributes {
  uint32_t interface_index;
  uint32_t attach_type;
  uint32_t query_flags;
  uint32_t attach_flags;
  uint64_t program_ids;
  uint32_t count;
  uint32_t padding;
  uint64_t program_attach_flags;
  uint64_t link_ids;
  uint64_t link_attach_flags;
  uint64_t revision;
};

/* BPF_MPROG_MAX of include/linux/bpf_mprog.h: the most that one interface takes in one direction. */
constexpr uint32_t PROGRAMS_MAX = 64;
/* Others that change the list meanwhile: so often in a row only by a mistake. */
constexpr int TRIES_MAX = 16;

/* Where programs are attached, as seen from inside its netns. */
struct Place {
  uint32_t interface_index;
  uint32_t attach_type;
};

struct Listed {
  std::vector<uint32_t> ids;
  uint64_t revision;
};

/* A failed call: 0 is none. */
struct Failure {
  int error = 0;
  const char* syscall = "";
};

template <typename Attributes>
static int Bpf(int command, Attributes* attributes) {
  return static_cast<int>(syscall(SYS_bpf, command, attributes, sizeof(*attributes)));
}

static Failure List(Place place, Listed* listed) {
  listed->ids.assign(PROGRAMS_MAX, 0);
  QueryAttributes query = {};
  query.interface_index = place.interface_index;
  query.attach_type = place.attach_type;
  query.program_ids = reinterpret_cast<uint64_t>(listed->ids.data());
  query.count = PROGRAMS_MAX;
  int status = Bpf(BPF_PROG_QUERY, &query);
  // ENOENT: nobody has ever attached anything.
  if (status != 0 && errno != ENOENT) return {errno, "bpf(BPF_PROG_QUERY)"};
  listed->ids.resize(status == 0 ? query.count : 0);
  listed->revision = query.revision;
  return {};
}

static std::string NameOf(const Descriptor& program) {
  bpf_prog_info shape = {};
  uint32_t length = sizeof(shape);
  if (!program.is_open() || bpf_obj_get_info_by_fd(program.get(), &shape, &length) != 0) return "";
  return shape.name;
}

/* A descriptor of the first program of that name; not open when there is none. */
static Descriptor FirstOf(const Listed& listed, const std::string& name) {
  for (uint32_t id : listed.ids) {
    Descriptor program(bpf_prog_get_fd_by_id(id));
    if (!name.empty() && NameOf(program) == name) return program;
  }
  return Descriptor();
}

/* In place of the one of the same name, or else in front of all others; with no packet in between. */
static Failure Attach(Place place, const Descriptor& program) {
  std::string name = NameOf(program);
  for (int i = 0; i < TRIES_MAX; i++) {
    Listed listed;
    Failure failure = List(place, &listed);
    if (failure.error != 0) return failure;
    Descriptor replaced = FirstOf(listed, name);
    AttachAttributes attach = {};
    attach.interface_index = place.interface_index;
    attach.attach_type = place.attach_type;
    attach.program_fd = static_cast<uint32_t>(program.get());
    attach.expected_revision = listed.revision;
    attach.flags = replaced.is_open() ? ATTACH_REPLACE : ATTACH_BEFORE;
    if (replaced.is_open()) attach.replaced_fd = static_cast<uint32_t>(replaced.get());
    if (Bpf(BPF_PROG_ATTACH, &attach) == 0) return {};
    if (errno != ESTALE) return {errno, "bpf(BPF_PROG_ATTACH)"};
  }
  return {ESTALE, "bpf(BPF_PROG_ATTACH)"};
}

/* Every program of that name. */
static Failure Detach(Place place, const std::string& name) {
  // One try for each program, besides.
  for (uint32_t i = 0; i < PROGRAMS_MAX + TRIES_MAX; i++) {
    Listed listed;
    Failure failure = List(place, &listed);
    if (failure.error != 0) return failure;
    Descriptor program = FirstOf(listed, name);
    if (!program.is_open()) return {};
    AttachAttributes detach = {};
    detach.interface_index = place.interface_index;
    detach.attach_type = place.attach_type;
    detach.program_fd = static_cast<uint32_t>(program.get());
    // ENOENT: somebody else was faster.
    if (Bpf(BPF_PROG_DETACH, &detach) != 0 && errno != ENOENT) return {errno, "bpf(BPF_PROG_DETACH)"};
  }
  return {EAGAIN, "bpf(BPF_PROG_DETACH)"};
}

/* Runs `work`, which returns a Failure, inside a netns. On a thread that ends with it, and need not come
 * back. */
template <typename Work>
static Failure InNetns(int netns_fd, Work work) {
  Failure failure;
  try {
    std::thread thread([&] {
      failure = setns(netns_fd, CLONE_NEWNET) == 0 ? work() : Failure{errno, "setns"};
    });
    thread.join();
  } catch (const std::system_error&) {
    return {EAGAIN, "pthread_create"};
  }
  return failure;
}

static Napi::Error ErrorOf(Napi::Env env, const Failure& failure, Place place) {
  return SyscallError(env, failure.syscall, failure.error,
                      "interface " + std::to_string(place.interface_index));
}

static Place PlaceArgument(const Napi::CallbackInfo& info) {
  return {static_cast<uint32_t>(IntArgument(info, 1)), static_cast<uint32_t>(IntArgument(info, 2))};
}

/* One change, off the main thread. Has descriptors of its own: the caller may close its own at once. */
class Change : public Napi::AsyncWorker {
 public:
  Change(Napi::Env env, int netns_fd, Place place, int program_fd, std::string name)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        place_(place),
        netns_(fcntl(netns_fd, F_DUPFD_CLOEXEC, 3)),
        program_(program_fd < 0 ? -1 : fcntl(program_fd, F_DUPFD_CLOEXEC, 3)),
        is_attaching_(program_fd >= 0),
        name_(std::move(name)) {}

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    failure_ = InNetns(netns_.get(),
                       [this] { return is_attaching_ ? Attach(place_, program_) : Detach(place_, name_); });
  }

  void OnOK() override {
    if (failure_.error == 0)
      deferred_.Resolve(Env().Undefined());
    else
      deferred_.Reject(ErrorOf(Env(), failure_, place_).Value());
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Place place_;
  Descriptor netns_;
  Descriptor program_;
  bool is_attaching_;
  std::string name_;
  Failure failure_;
};

static Napi::Value Start(Change* change) {
  Napi::Promise promise = change->Promise();
  change->Queue();
  return promise;
}

/* attachToInterface(netnsFd, interfaceIndex, attachType, programFd): Promise<void> */
static Napi::Value AttachToInterface(const Napi::CallbackInfo& info) {
  Place place = PlaceArgument(info);
  return Start(new Change(info.Env(), IntArgument(info, 0), place, IntArgument(info, 3), ""));
}

/* detachFromInterface(netnsFd, interfaceIndex, attachType, name): Promise<void> */
static Napi::Value DetachFromInterface(const Napi::CallbackInfo& info) {
  Place place = PlaceArgument(info);
  // As the kernel cuts it.
  std::string name = TextArgument(info, 3).substr(0, BPF_OBJ_NAME_LEN - 1);
  return Start(new Change(info.Env(), IntArgument(info, 0), place, -1, name));
}

/* interfacePrograms(netnsFd, interfaceIndex, attachType): names, in the order in which they run */
static Napi::Value InterfacePrograms(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Place place = PlaceArgument(info);
  Listed listed;
  Failure failure = InNetns(IntArgument(info, 0), [&] { return List(place, &listed); });
  if (failure.error != 0) throw ErrorOf(env, failure, place);
  Napi::Array names = Napi::Array::New(env, listed.ids.size());
  for (uint32_t i = 0; i < listed.ids.size(); i++) {
    names.Set(i, Napi::String::New(env, NameOf(Descriptor(bpf_prog_get_fd_by_id(listed.ids[i])))));
  }
  return names;
}

void RegisterInterfacePrograms(Napi::Env env, Napi::Object exports) {
  exports.Set("attachToInterface", Napi::Function::New(env, AttachToInterface));
  exports.Set("detachFromInterface", Napi::Function::New(env, DetachFromInterface));
  exports.Set("interfacePrograms", Napi::Function::New(env, InterfacePrograms));
}

}  // namespace weft
