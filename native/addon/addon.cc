/*
 * Entry point: context-aware, so each worker thread that loads the addon gets a State of its own.
 */
#include "addon.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "errors.h"

namespace weft {

Napi::Error SyscallError(Napi::Env env, const char* syscall, int error, const std::string& object,
                         const std::string& log) {
  const char* name = strerrorname_np(error);
  std::string code = name != nullptr ? name : std::to_string(error);
  Napi::Error failure =
      Napi::Error::New(env, std::string(syscall) + " " + object + ": " + code + " (" + strerror(error) + ")");
  Napi::Object fields = failure.Value();
  fields.Set("errno", Napi::Number::New(env, error));
  fields.Set("code", Napi::String::New(env, code));
  fields.Set("syscall", Napi::String::New(env, syscall));
  fields.Set("object", Napi::String::New(env, object));
  if (!log.empty()) fields.Set("log", Napi::String::New(env, log));
  return failure;
}

int IntArgument(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsNumber()) {
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a number");
  }
  return info[index].As<Napi::Number>().Int32Value();
}

std::string TextArgument(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsString()) {
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a string");
  }
  return info[index].As<Napi::String>().Utf8Value();
}

Napi::Uint8Array BytesArgument(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsTypedArray() ||
      info[index].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a Uint8Array");
  }
  return info[index].As<Napi::Uint8Array>();
}

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0) throw SyscallError(env, "open", errno, "/proc/thread-self/ns/net");
  env.SetInstanceData(new State{Descriptor(home)});
  RegisterBpfObjects(env, exports);
  RegisterBpfLinks(env, exports);
  RegisterInterfacePrograms(env, exports);
  RegisterNetns(env, exports);
  RegisterSockets(env, exports);
  RegisterDatagrams(env, exports);
  RegisterFiles(env, exports);
  RegisterRing(env, exports);
  RegisterMapEntries(env, exports);
  RegisterLifeSign(env, exports);
  return exports;
}

}  // namespace weft

static Napi::Object InitializeAddon(Napi::Env env, Napi::Object exports) {
  return weft::Initialize(env, exports);
}

NODE_API_MODULE(weft, InitializeAddon)
