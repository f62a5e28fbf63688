/*
 * Bytes waiting to be sent. A connection's queue holds memory only while something waits: an idle connection
 * has none. The reactor's own, which all its connections share, is rewound and keeps it. How much may wait is
 * decided by who writes (BACKLOG_HIGH in src/transport/conn.ts).
 */
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "faults.h"

namespace weft {

class ByteQueue {
 public:
  ByteQueue() = default;
  ByteQueue(const ByteQueue&) = delete;
  ByteQueue& operator=(const ByteQueue&) = delete;
  ~ByteQueue() { free(bytes_); }

  size_t size() const { return end_ - start_; }
  bool is_empty() const { return end_ == start_; }
  const uint8_t* begin() const { return bytes_ + start_; }

  /* False when there is no memory; the queue is then as before. */
  bool Append(const uint8_t* bytes, size_t length) {
    if (length == 0) return true;
    if (end_ + length > capacity_ && !MakeRoom(length)) return false;
    memcpy(bytes_ + end_, bytes, length);
    end_ += length;
    return true;
  }

  void Consume(size_t length) {
    start_ += length;
    if (start_ == end_) Clear();
  }

  /* Empties it and keeps its memory for what comes next. */
  void Rewind() { start_ = end_ = 0; }

  void Clear() {
    free(bytes_);
    bytes_ = nullptr;
    start_ = end_ = capacity_ = 0;
  }

 private:
  /* The first allocation: a batch of small answers. */
  static constexpr size_t kFirstCapacity = 4096;

  bool MakeRoom(size_t length) {
    size_t used = size();
    // Moved only when half of the memory was consumed, so that each byte is moved once on average.
    if (start_ >= capacity_ / 2 && used + length <= capacity_) {
      memmove(bytes_, bytes_ + start_, used);
    } else {
      size_t capacity = capacity_ == 0 ? kFirstCapacity : capacity_ * 2;
      while (capacity < used + length) capacity *= 2;
      uint8_t* bytes = IsAllocationFailing() ? nullptr : static_cast<uint8_t*>(malloc(capacity));
      if (bytes == nullptr) return false;
      if (used > 0) memcpy(bytes, bytes_ + start_, used);
      free(bytes_);
      bytes_ = bytes;
      capacity_ = capacity;
    }
    start_ = 0;
    end_ = used;
    return true;
  }

  uint8_t* bytes_ = nullptr;
  size_t start_ = 0;
  size_t end_ = 0;
  size_t capacity_ = 0;
};

}  // namespace weft
