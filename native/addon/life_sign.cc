/*
 * A thread's sign of life that the kernel takes away the moment the thread dies: long before the sockets of a
 * killed process are closed, which waits until its memory is given back (tens of milliseconds).
 *
 * It is what robust futexes are made of (Documentation/locking/robust-futex-ABI.rst): a thread tells the
 * kernel of a word that holds its id, and when it ends, however it does, the kernel puts FUTEX_OWNER_DIED in
 * the place of the id. Here the word is in the memory of a BPF map, so that programs in the kernel see it.
 *
 * The list by which the kernel finds the word is in this process alone: threads of two agents that have the
 * same slot, one after the other, cannot disturb each other's.
 */
#include "life_sign.h"

#include <bpf/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "addon.h"
#include "errors.h"

namespace weft {

/* What the kernel gives each value of an array map: a multiple of eight bytes. */
static constexpr size_t kStrideBytes = 8;

const char* LifeSign::Give(int map_fd, uint32_t slot) {
  Withdraw();
  bpf_map_info shape = {};
  uint32_t shape_bytes = sizeof(shape);
  if (bpf_obj_get_info_by_fd(map_fd, &shape, &shape_bytes) != 0) return "bpf(BPF_OBJ_GET_INFO_BY_FD)";
  if (shape.value_size != sizeof(uint32_t) || slot >= shape.max_entries) {
    errno = EINVAL;
    return "mmap";
  }
  size_t head_bytes = 0;
  if (syscall(SYS_get_robust_list, 0, &library_head_, &head_bytes) != 0) return "get_robust_list";
  // Its entries would be forgotten.
  if (library_head_ != nullptr && library_head_->list.next != &library_head_->list) {
    errno = EBUSY;
    return "set_robust_list";
  }
  size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t bytes = (shape.max_entries * kStrideBytes + page_bytes - 1) / page_bytes * page_bytes;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
  if (mapped == MAP_FAILED) return "mmap";
  mapped_ = mapped;
  mapped_bytes_ = bytes;
  word_ = reinterpret_cast<uint32_t*>(static_cast<char*>(mapped) + slot * kStrideBytes);
  thread_ = static_cast<uint32_t>(syscall(SYS_gettid));
  __atomic_store_n(word_, thread_, __ATOMIC_RELEASE);
  entry_.next = &head_.list;
  head_.list.next = &entry_;
  head_.futex_offset = reinterpret_cast<char*>(word_) - reinterpret_cast<char*>(&entry_);
  head_.list_op_pending = nullptr;
  if (syscall(SYS_set_robust_list, &head_, sizeof(head_)) == 0) return nullptr;
  int error = errno;
  Withdraw();
  errno = error;
  return "set_robust_list";
}

void LifeSign::Withdraw() {
  if (mapped_ == nullptr) return;
  syscall(SYS_set_robust_list, library_head_, sizeof(*library_head_));
  munmap(mapped_, mapped_bytes_);
  mapped_ = nullptr;
  word_ = nullptr;
}

LifeSign::~LifeSign() {
  uint32_t expected = thread_;
  // The slot may be somebody else's by now.
  if (word_ != nullptr)
    __atomic_compare_exchange_n(word_, &expected, FUTEX_OWNER_DIED, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
  Withdraw();
}

/* giveLifeSign(mapFd, slot): of the calling thread, which has one at most */
static void GiveLifeSign(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  int slot = IntArgument(info, 1);
  if (slot < 0) throw Napi::RangeError::New(env, "argument 1 must not be below 0");
  const char* failed = env.GetInstanceData<State>()->life_sign.Give(map_fd, static_cast<uint32_t>(slot));
  if (failed != nullptr) throw SyscallError(env, failed, errno, "map descriptor " + std::to_string(map_fd));
}

/* withdrawLifeSign(): of the calling thread; when there is none, nothing happens */
static void WithdrawLifeSign(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<State>()->life_sign.Withdraw();
}

void RegisterLifeSign(Napi::Env env, Napi::Object exports) {
  exports.Set("giveLifeSign", Napi::Function::New(env, GiveLifeSign));
  exports.Set("withdrawLifeSign", Napi::Function::New(env, WithdrawLifeSign));
}

}  // namespace weft
