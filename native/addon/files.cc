/*
 * The few file system calls that Node does not have: mounting a bpf file system, and locking a directory.
 */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>

#include <cerrno>
#include <string>

#include "addon.h"
#include "errors.h"

namespace weft {

/* mountBpfFilesystem(path) */
static void MountBpfFilesystem(const Napi::CallbackInfo& info) {
  std::string path = TextArgument(info, 0);
  // Mode 0700: pins are handles to the capture of every pod. The source tells our mounts from the host's.
  if (mount("weft", path.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0) {
    throw SyscallError(info.Env(), "mount(bpf)", errno, path);
  }
}

/* unmount(path) */
static void Unmount(const Napi::CallbackInfo& info) {
  std::string path = TextArgument(info, 0);
  // Detached at once, also when somebody stands in it (a shell looking at the pins).
  if (umount2(path.c_str(), MNT_DETACH) != 0) throw SyscallError(info.Env(), "umount2", errno, path);
}

/* lockDirectory(path): descriptor. Fails with EWOULDBLOCK when another program holds the lock; closing it
 * unlocks. */
static Napi::Value LockDirectory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextArgument(info, 0);
  Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) throw SyscallError(env, "open", errno, path);
  if (flock(directory.get(), LOCK_EX | LOCK_NB) != 0) throw SyscallError(env, "flock", errno, path);
  return Napi::Number::New(env, directory.release());
}

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("mountBpfFilesystem", Napi::Function::New(env, MountBpfFilesystem));
  exports.Set("unmount", Napi::Function::New(env, Unmount));
  exports.Set("lockDirectory", Napi::Function::New(env, LockDirectory));
}

}  // namespace weft
