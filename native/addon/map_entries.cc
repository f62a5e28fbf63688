/*
 * Reads whole maps: all keys and values, in a few system calls.
 */
#include <bpf/bpf.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "addon.h"
#include "errors.h"

namespace weft {

/* Entries asked for at once. A bucket of the kernel's table is never split: one that has more makes us ask
 * for more. */
static constexpr uint32_t kBatchEntries = 1024;

/*
 * mapEntries(mapFd): {keys, values}, each one after the other, in the same order. Of a hash map that is not
 * per CPU. Of one that changes meanwhile: an entry may be missing or come twice, none is invented.
 */
static Napi::Value MapEntries(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  std::string object = "map descriptor " + std::to_string(map_fd);
  bpf_map_info shape = {};
  uint32_t shape_bytes = sizeof(shape);
  if (bpf_obj_get_info_by_fd(map_fd, &shape, &shape_bytes) != 0)
    throw SyscallError(env, "bpf(BPF_OBJ_GET_INFO_BY_FD)", errno, object);
  std::vector<uint8_t> keys;
  std::vector<uint8_t> values;
  size_t found = 0;
  uint32_t batch = kBatchEntries;
  // The kernel's place in the map: of a hash map the number of a bucket, four bytes, but no less than a key.
  std::vector<uint8_t> place(shape.key_size < 4 ? 4 : shape.key_size);
  bool is_first = true;
  for (;;) {
    keys.resize((found + batch) * shape.key_size);
    values.resize((found + batch) * shape.value_size);
    uint32_t count = batch;
    int result = bpf_map_lookup_batch(map_fd, is_first ? nullptr : place.data(), place.data(),
                                      keys.data() + found * shape.key_size,
                                      values.data() + found * shape.value_size, &count, nullptr);
    int error = result == 0 ? 0 : errno;
    if (error == ENOSPC && batch < shape.max_entries) {
      batch *= 2;
      continue;
    }
    if (error != 0 && error != ENOENT) throw SyscallError(env, "bpf(BPF_MAP_LOOKUP_BATCH)", error, object);
    found += count;
    if (error == ENOENT) break;
    is_first = false;
  }
  Napi::Uint8Array key_bytes = Napi::Uint8Array::New(env, found * shape.key_size);
  Napi::Uint8Array value_bytes = Napi::Uint8Array::New(env, found * shape.value_size);
  if (found > 0) {
    memcpy(key_bytes.Data(), keys.data(), key_bytes.ByteLength());
    memcpy(value_bytes.Data(), values.data(), value_bytes.ByteLength());
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("keys", key_bytes);
  result.Set("values", value_bytes);
  return result;
}

void RegisterMapEntries(Napi::Env env, Napi::Object exports) {
  exports.Set("mapEntries", Napi::Function::New(env, MapEntries));
}

}  // namespace weft
