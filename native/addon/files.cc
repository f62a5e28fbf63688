/*
 * The few calls on files that Node does not have: mounting a bpf file system, locking a directory, and
 * writing only what need not wait.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

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

/*
 * writeNow(fd, bytes): boolean. False when writing would wait, or fails: a pipe whose reader hangs must not
 * hold the caller as well. For at most PIPE_BUF (4096) bytes, for which poll() tells the truth.
 */
static Napi::Value WriteNow(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Uint8Array bytes = BytesArgument(info, 1);
  pollfd writable = {IntArgument(info, 0), POLLOUT, 0};
  if (poll(&writable, 1, 0) != 1 || (writable.revents & POLLOUT) == 0) return Napi::Boolean::New(env, false);
  ssize_t written = write(writable.fd, bytes.Data(), bytes.ByteLength());
  return Napi::Boolean::New(env, written == static_cast<ssize_t>(bytes.ByteLength()));
}

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("mountBpfFilesystem", Napi::Function::New(env, MountBpfFilesystem));
  exports.Set("unmount", Napi::Function::New(env, Unmount));
  exports.Set("lockDirectory", Napi::Function::New(env, LockDirectory));
  exports.Set("writeNow", Napi::Function::New(env, WriteNow));
}

}  // namespace weft
