/*
 * eBPF objects and maps through libbpf; bpf_links.cc has links and pins.
 *
 * A *spec* is what an object file says (describeObject: deterministic, needs no kernel); *loaded* is what
 * this kernel made of it (loadObject). Whatever depends on the running kernel happens only at the second
 * step.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "addon.h"
#include "errors.h"

namespace weft {

/* What libbpf had to say since the last call; includes the verifier's log. Per thread: libbpf's callback is
 * global. */
static thread_local std::string libbpf_log;

static int OnLibbpfPrint(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) return 0;
  va_list measured;
  va_copy(measured, arguments);
  int length = vsnprintf(nullptr, 0, format, measured);
  va_end(measured);
  if (length <= 0) return 0;
  std::vector<char> text(static_cast<size_t>(length) + 1);
  vsnprintf(text.data(), text.size(), format, arguments);
  libbpf_log.append(text.data(), static_cast<size_t>(length));
  return length;
}

struct ObjectCloser {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using ObjectHandle = std::unique_ptr<bpf_object, ObjectCloser>;

static ObjectHandle OpenObject(Napi::Env env, const std::string& path) {
  libbpf_log.clear();
  bpf_object* object = bpf_object__open_file(path.c_str(), nullptr);
  if (object == nullptr) throw SyscallError(env, "bpf_object__open", errno, path, libbpf_log);
  return ObjectHandle(object);
}

/* describeObject(path): {maps: {name, keyBytes, valueBytes, entriesMax}[], programs: {name, section}[]} */
static Napi::Value DescribeObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  ObjectHandle object = OpenObject(env, TextArgument(info, 0));
  Napi::Array maps = Napi::Array::New(env);
  bpf_map* map;
  bpf_object__for_each_map(map, object.get()) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", Napi::String::New(env, bpf_map__name(map)));
    row.Set("keyBytes", Napi::Number::New(env, bpf_map__key_size(map)));
    row.Set("valueBytes", Napi::Number::New(env, bpf_map__value_size(map)));
    row.Set("entriesMax", Napi::Number::New(env, bpf_map__max_entries(map)));
    maps.Set(maps.Length(), row);
  }
  Napi::Array programs = Napi::Array::New(env);
  bpf_program* program;
  bpf_object__for_each_program(program, object.get()) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", Napi::String::New(env, bpf_program__name(program)));
    row.Set("section", Napi::String::New(env, bpf_program__section_name(program)));
    programs.Set(programs.Length(), row);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("maps", maps);
  result.Set("programs", programs);
  return result;
}

/* A copy of a descriptor that libbpf closes together with its object. */
static Descriptor Duplicate(Napi::Env env, int fd, const char* name) {
  Descriptor copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.is_open()) throw SyscallError(env, "fcntl(F_DUPFD_CLOEXEC)", errno, name);
  return copy;
}

static void ReuseMaps(Napi::Env env, bpf_object* object, const Napi::Object& shared) {
  bpf_map* map;
  bpf_object__for_each_map(map, object) {
    const char* name = bpf_map__name(map);
    if (!shared.Has(name)) continue;
    int error = bpf_map__reuse_fd(map, shared.Get(name).ToNumber().Int32Value());
    if (error != 0) throw SyscallError(env, "bpf_map__reuse_fd", -error, name, libbpf_log);
  }
}

/* The constants of a program (`const volatile`), which the verifier then treats as known. */
static void SetConstants(Napi::Env env, bpf_object* object, const Napi::Uint8Array& constants) {
  bpf_map* map;
  bpf_object__for_each_map(map, object) {
    if (!bpf_map__is_internal(map)) continue;
    int error = bpf_map__set_initial_value(map, constants.Data(), constants.ByteLength());
    if (error != 0)
      throw SyscallError(env, "bpf_map__set_initial_value", -error, bpf_map__name(map), libbpf_log);
    return;
  }
  throw SyscallError(env, "bpf_map__set_initial_value", ENOENT, "the object has no constants");
}

static void LeaveOut(Napi::Env env, bpf_object* object, const Napi::Array& names) {
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string name = names.Get(i).ToString().Utf8Value();
    bpf_program* program = bpf_object__find_program_by_name(object, name.c_str());
    if (program == nullptr) throw SyscallError(env, "bpf_object__find_program_by_name", ENOENT, name);
    bpf_program__set_autoload(program, false);
  }
}

/*
 * loadObject(path, sharedMaps: {[name]: fd}, constants: Uint8Array | null, leftOut?: string[]): {maps:
 * {[name]: fd}, programs: {[name]: fd}}
 *
 * Maps named in `sharedMaps` are used instead of new ones; programs named in `leftOut` are not loaded. All
 * descriptors of the result are the caller's.
 */
static Napi::Value LoadObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextArgument(info, 0);
  if (!info[1].IsObject()) throw Napi::TypeError::New(env, "argument 1 must be an object");
  ObjectHandle object = OpenObject(env, path);
  ReuseMaps(env, object.get(), info[1].As<Napi::Object>());
  if (!info[2].IsNull()) SetConstants(env, object.get(), BytesArgument(info, 2));
  if (info[3].IsArray()) LeaveOut(env, object.get(), info[3].As<Napi::Array>());
  int error = bpf_object__load(object.get());
  if (error != 0) throw SyscallError(env, "bpf(BPF_PROG_LOAD)", -error, path, libbpf_log);

  std::vector<std::pair<const char*, Descriptor>> map_fds;
  std::vector<std::pair<const char*, Descriptor>> program_fds;
  bpf_map* map;
  bpf_object__for_each_map(map, object.get()) {
    const char* name = bpf_map__name(map);
    map_fds.emplace_back(name, Duplicate(env, bpf_map__fd(map), name));
  }
  bpf_program* program;
  bpf_object__for_each_program(program, object.get()) {
    if (!bpf_program__autoload(program)) continue;
    const char* name = bpf_program__name(program);
    program_fds.emplace_back(name, Duplicate(env, bpf_program__fd(program), name));
  }
  Napi::Object maps = Napi::Object::New(env);
  for (auto& [name, fd] : map_fds) maps.Set(name, Napi::Number::New(env, fd.release()));
  Napi::Object programs = Napi::Object::New(env);
  for (auto& [name, fd] : program_fds) programs.Set(name, Napi::Number::New(env, fd.release()));
  Napi::Object result = Napi::Object::New(env);
  result.Set("maps", maps);
  result.Set("programs", programs);
  return result;
}

struct MapShape {
  size_t key_bytes;
  size_t value_bytes;
};

/* What the kernel will read and write for this map: lengths from JavaScript must not be trusted to fit. */
static MapShape ShapeOf(Napi::Env env, int map_fd) {
  bpf_map_info shape = {};
  uint32_t length = sizeof(shape);
  if (bpf_obj_get_info_by_fd(map_fd, &shape, &length) != 0) {
    throw SyscallError(env, "bpf(BPF_OBJ_GET_INFO_BY_FD)", errno, "map descriptor " + std::to_string(map_fd));
  }
  if (shape.type == BPF_MAP_TYPE_PERCPU_ARRAY || shape.type == BPF_MAP_TYPE_PERCPU_HASH) {
    size_t per_cpu = (shape.value_size + 7u) & ~size_t{7};
    return {shape.key_size, per_cpu * static_cast<size_t>(libbpf_num_possible_cpus())};
  }
  return {shape.key_size, shape.value_size};
}

static std::string DescribeMap(int map_fd) {
  bpf_map_info shape = {};
  uint32_t length = sizeof(shape);
  if (bpf_obj_get_info_by_fd(map_fd, &shape, &length) != 0) return "map descriptor " + std::to_string(map_fd);
  return std::string("map ") + shape.name;
}

static Napi::Uint8Array SizedArgument(const Napi::CallbackInfo& info, size_t index, size_t length) {
  Napi::Uint8Array bytes = BytesArgument(info, index);
  if (bytes.ByteLength() != length) {
    throw Napi::RangeError::New(info.Env(), "argument " + std::to_string(index) + " must have " +
                                                std::to_string(length) + " bytes, not " +
                                                std::to_string(bytes.ByteLength()));
  }
  return bytes;
}

/* mapUpdate(mapFd, key, value) */
static void MapUpdate(const Napi::CallbackInfo& info) {
  int map_fd = IntArgument(info, 0);
  MapShape shape = ShapeOf(info.Env(), map_fd);
  Napi::Uint8Array key = SizedArgument(info, 1, shape.key_bytes);
  Napi::Uint8Array value = SizedArgument(info, 2, shape.value_bytes);
  if (bpf_map_update_elem(map_fd, key.Data(), value.Data(), BPF_ANY) != 0) {
    throw SyscallError(info.Env(), "bpf(BPF_MAP_UPDATE_ELEM)", errno, DescribeMap(map_fd));
  }
}

/* mapDelete(mapFd, key): false when the key was not there */
static Napi::Value MapDelete(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  Napi::Uint8Array key = SizedArgument(info, 1, ShapeOf(env, map_fd).key_bytes);
  if (bpf_map_delete_elem(map_fd, key.Data()) == 0) return Napi::Boolean::New(env, true);
  if (errno == ENOENT) return Napi::Boolean::New(env, false);
  throw SyscallError(env, "bpf(BPF_MAP_DELETE_ELEM)", errno, DescribeMap(map_fd));
}

/* mapLookup(mapFd, key): Uint8Array | null; of a per-CPU map, the values of all CPUs one after the other */
static Napi::Value MapLookup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  MapShape shape = ShapeOf(env, map_fd);
  Napi::Uint8Array key = SizedArgument(info, 1, shape.key_bytes);
  Napi::Uint8Array value = Napi::Uint8Array::New(env, shape.value_bytes);
  if (bpf_map_lookup_elem(map_fd, key.Data(), value.Data()) == 0) return value;
  if (errno == ENOENT) return env.Null();
  throw SyscallError(env, "bpf(BPF_MAP_LOOKUP_ELEM)", errno, DescribeMap(map_fd));
}

/* describeMap(mapFd): {name, keyBytes, valueBytes, entriesMax} of a map in the kernel; its name is cut to 15
 */
static Napi::Value DescribeKernelMap(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  bpf_map_info shape = {};
  uint32_t length = sizeof(shape);
  if (bpf_obj_get_info_by_fd(map_fd, &shape, &length) != 0) {
    throw SyscallError(env, "bpf(BPF_OBJ_GET_INFO_BY_FD)", errno, "map descriptor " + std::to_string(map_fd));
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("name", Napi::String::New(env, shape.name));
  result.Set("keyBytes", Napi::Number::New(env, shape.key_size));
  result.Set("valueBytes", Napi::Number::New(env, shape.value_size));
  result.Set("entriesMax", Napi::Number::New(env, shape.max_entries));
  return result;
}

void RegisterBpfObjects(Napi::Env env, Napi::Object exports) {
  libbpf_set_print(OnLibbpfPrint);
  exports.Set("describeObject", Napi::Function::New(env, DescribeObject));
  exports.Set("loadObject", Napi::Function::New(env, LoadObject));
  exports.Set("mapUpdate", Napi::Function::New(env, MapUpdate));
  exports.Set("mapDelete", Napi::Function::New(env, MapDelete));
  exports.Set("mapLookup", Napi::Function::New(env, MapLookup));
  exports.Set("describeMap", Napi::Function::New(env, DescribeKernelMap));
}

}  // namespace weft
