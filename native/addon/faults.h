/*
 * Allocations that fail when a test says so. Each place of the reactor that allocates asks first; outside of
 * the sanitizers' build the answer is a constant.
 */
#pragma once

#include <cstdint>

namespace weft {

#ifdef WEFT_TESTING
/* Allocations until one fails; negative: none does. Each thread has its own. */
inline thread_local int32_t allocations_until_fault = -1;
inline bool IsAllocationFailing() { return allocations_until_fault >= 0 && allocations_until_fault-- == 0; }
#else
constexpr bool IsAllocationFailing() { return false; }
#endif

}  // namespace weft
