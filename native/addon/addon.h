/*
 * The parts of the addon. It makes system calls and holds no policy: which pod, which port, which program is
 * decided in src/kernel. All state is in descriptors that JavaScript owns, except the thread's own netns, so
 * the addon can be loaded by any number of worker threads.
 */
#pragma once

#include <napi.h>

#include "descriptor.h"
#include "life_sign.h"

namespace weft {

/* Per environment, that is per thread. */
struct State {
  /* The netns that the thread is in whenever JavaScript runs. */
  Descriptor home_netns;
  LifeSign life_sign = {};
};

void RegisterBpfObjects(Napi::Env env, Napi::Object exports);
void RegisterBpfLinks(Napi::Env env, Napi::Object exports);
void RegisterInterfacePrograms(Napi::Env env, Napi::Object exports);
void RegisterNetns(Napi::Env env, Napi::Object exports);
void RegisterSockets(Napi::Env env, Napi::Object exports);
void RegisterDatagrams(Napi::Env env, Napi::Object exports);
void RegisterFiles(Napi::Env env, Napi::Object exports);
void RegisterRing(Napi::Env env, Napi::Object exports);
void RegisterMapEntries(Napi::Env env, Napi::Object exports);
void RegisterLifeSign(Napi::Env env, Napi::Object exports);

}  // namespace weft
