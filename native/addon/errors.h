/*
 * Failing system calls as JavaScript errors: `errno`, `code` (its name), `syscall`, `object` (what it was
 * done to) and, from libbpf and the verifier, `log`. src/kernel turns them into WeftErrors that name the pod
 * or the program.
 */
#pragma once

#include <napi.h>

#include <string>

namespace weft {

/* Makes the error; throw it. `error` is an errno value, positive. */
Napi::Error SyscallError(Napi::Env env, const char* syscall, int error, const std::string& object,
                         const std::string& log = "");

/* Arguments. Each throws TypeError when the argument is of another type. */
int IntArgument(const Napi::CallbackInfo& info, size_t index);
std::string TextArgument(const Napi::CallbackInfo& info, size_t index);
Napi::Uint8Array BytesArgument(const Napi::CallbackInfo& info, size_t index);

}  // namespace weft
