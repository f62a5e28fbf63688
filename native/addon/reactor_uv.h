/*
 * The few functions of libuv that the reactor needs, as Node exports them. Declared here, with handles of a
 * size that libuv itself tells, because Node's npm packages bring no uv.h and another libuv's would have
 * another layout. All of it is documented API, stable through libuv 1.
 */
#pragma once

#include <cstddef>

extern "C" {
struct uv_loop_s;
struct uv_handle_s;
struct uv_poll_s;
typedef void (*uv_poll_cb)(uv_poll_s* handle, int status, int events);
typedef void (*uv_close_cb)(uv_handle_s* handle);
size_t uv_handle_size(int type);
const char* uv_handle_type_name(int type);
void* uv_handle_get_data(const uv_handle_s* handle);
void uv_handle_set_data(uv_handle_s* handle, void* bytes);
int uv_poll_init(uv_loop_s* loop, uv_poll_s* handle, int fd);
int uv_poll_start(uv_poll_s* handle, int events, uv_poll_cb callback);
int uv_poll_stop(uv_poll_s* handle);
void uv_close(uv_handle_s* handle, uv_close_cb callback);
void uv_ref(uv_handle_s* handle);
void uv_unref(uv_handle_s* handle);
}

namespace weft {

/* UV_POLL and UV_READABLE of uv.h. */
constexpr int kUvPoll = 8;
constexpr int kUvReadable = 1;

}  // namespace weft
