/*
 * Running a few system calls inside another network namespace, on the calling thread.
 */
#pragma once

#include <napi.h>

namespace weft {

/*
 * The thread is in the netns of `netns_fd` while an object of this class lives. Nothing else can run on the
 * thread meanwhile: no JavaScript is called and no callback is waited for.
 */
class NetnsScope {
 public:
  NetnsScope(Napi::Env env, int netns_fd);
  NetnsScope(const NetnsScope&) = delete;
  NetnsScope& operator=(const NetnsScope&) = delete;
  /* Aborts the program when the thread cannot go back: see netns.cc. */
  ~NetnsScope();

 private:
  int home_fd_;
};

}  // namespace weft
