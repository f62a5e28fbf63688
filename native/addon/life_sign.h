/*
 * A thread's sign of life that the kernel takes away when the thread dies: see life_sign.cc.
 */
#pragma once

#include <linux/futex.h>

#include <cstddef>
#include <cstdint>

namespace weft {

/* Of one thread, which makes, uses and destroys it. */
class LifeSign {
 public:
  LifeSign() = default;
  LifeSign(const LifeSign&) = delete;
  LifeSign& operator=(const LifeSign&) = delete;
  /* The thread ends in order: says so. */
  ~LifeSign();

  /* The thread lives in that slot of the map from now on, and in no other. NULL, or the call that has set
   * errno. */
  const char* Give(int map_fd, uint32_t slot);
  /* The kernel does nothing any more when the thread dies; what it has in the slot stays there. */
  void Withdraw();

 private:
  void* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
  uint32_t* word_ = nullptr;
  uint32_t thread_ = 0;
  /* What the kernel walks through when the thread ends: one entry, which leads back to the head. */
  robust_list_head head_ = {};
  robust_list entry_ = {};
  /* The list of the C library, which has no entry in threads of Node.js. */
  robust_list_head* library_head_ = nullptr;
};

}  // namespace weft
