/*
 * Reads the ring buffer by which the programs tell of connections. The records are the programs' own structs:
 * they are handed over as they are, one after the other.
 */
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "addon.h"
#include "errors.h"

namespace weft {

/* A reader of one ring, and where the records of the call under way go. */
struct Ring {
  ring_buffer* reader = nullptr;
  size_t record_bytes = 0;
  size_t records_max = 0;
  std::vector<uint8_t> records;
  ~Ring() { ring_buffer__free(reader); }
};

/* Stops the reader, for which the record is read, when the call has as many as were asked for. */
static int OnRecord(void* context, void* record, size_t length) {
  auto* ring = static_cast<Ring*>(context);
  if (length < ring->record_bytes) return 0;
  auto* bytes = static_cast<uint8_t*>(record);
  ring->records.insert(ring->records.end(), bytes, bytes + ring->record_bytes);
  return ring->records.size() >= ring->records_max * ring->record_bytes ? -ENOSPC : 0;
}

static Ring* RingArgument(const Napi::CallbackInfo& info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "argument 0 must be a ring");
  return info[0].As<Napi::External<Ring>>().Data();
}

/*
 * openRing(mapFd, recordBytes): a reader, which goes on where the last one of this map ended. The map's
 * descriptor may be closed; there must be one reader of a map at a time. To be closed with closeRing.
 */
static Napi::Value OpenRing(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int map_fd = IntArgument(info, 0);
  int record_bytes = IntArgument(info, 1);
  if (record_bytes <= 0) throw Napi::RangeError::New(env, "argument 1 must be above 0");
  auto* ring = new Ring();
  Napi::External<Ring> handle =
      Napi::External<Ring>::New(env, ring, [](Napi::Env, Ring* gone) { delete gone; });
  ring->record_bytes = static_cast<size_t>(record_bytes);
  ring->reader = ring_buffer__new(map_fd, OnRecord, ring, nullptr);
  if (ring->reader == nullptr) throw SyscallError(env, "ring_buffer__new", errno, "the ring of events");
  return handle;
}

/* readRing(ring, recordsMax): Uint8Array of whole records that have come since the last call */
static Napi::Value ReadRing(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Ring* ring = RingArgument(info);
  int records_max = IntArgument(info, 1);
  if (records_max <= 0) throw Napi::RangeError::New(env, "argument 1 must be above 0");
  if (ring->reader == nullptr) throw SyscallError(env, "ring_buffer__consume", EBADF, "the ring of events");
  ring->records_max = static_cast<size_t>(records_max);
  ring->records.clear();
  // Reserved here, because an allocation that fails must not unwind through libbpf.
  ring->records.reserve(ring->records_max * ring->record_bytes);
  int result = ring_buffer__consume(ring->reader);
  if (result < 0 && result != -ENOSPC)
    throw SyscallError(env, "ring_buffer__consume", -result, "the ring of events");
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, ring->records.size());
  if (!ring->records.empty()) memcpy(bytes.Data(), ring->records.data(), ring->records.size());
  return bytes;
}

/* closeRing(ring): lets the map go; doing it twice does nothing */
static void CloseRing(const Napi::CallbackInfo& info) {
  Ring* ring = RingArgument(info);
  ring_buffer__free(ring->reader);
  ring->reader = nullptr;
}

void RegisterRing(Napi::Env env, Napi::Object exports) {
  exports.Set("openRing", Napi::Function::New(env, OpenRing));
  exports.Set("readRing", Napi::Function::New(env, ReadRing));
  exports.Set("closeRing", Napi::Function::New(env, CloseRing));
}

}  // namespace weft
