/*
 * The arguments of a call from JavaScript, checked: ids by their generation, offsets and lengths against the
 * bytes that they are about.
 */
#pragma once

#include <node_api.h>

#include <string>

#include "reactor.h"

namespace weft {

constexpr size_t kArgumentsMax = 6;

/* Longest text argument: certificates with their chains and bundles are far below. */
constexpr size_t kTextMax = 4 << 20;

constexpr napi_type_tag kTlsContextTag = {0x77656674746c7363, 0x9d1f5c2ae0b34d68};

/* The arguments of one call. A missing or wrong one throws, and `is_valid` says so. */
class Call {
 public:
  Call(napi_env env, napi_callback_info info, size_t wanted) : env_(env) {
    size_t count = kArgumentsMax;
    void* data = nullptr;
    napi_get_cb_info(env, info, &count, arguments_, nullptr, &data);
    reactor = static_cast<Reactor*>(data);
    if (count < wanted) Refuse("too few arguments");
  }

  int32_t Int(size_t index) {
    int32_t value = 0;
    if (is_valid && napi_get_value_int32(env_, arguments_[index], &value) != napi_ok) Refuse("not a number");
    return value;
  }

  bool Bool(size_t index) {
    bool value = false;
    if (is_valid && napi_get_value_bool(env_, arguments_[index], &value) != napi_ok) Refuse("not a boolean");
    return value;
  }

  std::string Text(size_t index) {
    size_t length = 0;
    if (!is_valid) return "";
    if (napi_get_value_string_utf8(env_, arguments_[index], nullptr, 0, &length) != napi_ok ||
        length > kTextMax) {
      Refuse("not a text, or too long");
      return "";
    }
    std::string text(length, '\0');
    napi_get_value_string_utf8(env_, arguments_[index], text.data(), length + 1, &length);
    return text;
  }

  /* `length` bytes from `offset` of the Uint8Array at `index`. */
  const uint8_t* Bytes(size_t index, int32_t offset, int32_t length) {
    napi_typedarray_type type;
    size_t size = 0;
    void* bytes = nullptr;
    if (!is_valid) return nullptr;
    if (napi_get_typedarray_info(env_, arguments_[index], &type, &size, &bytes, nullptr, nullptr) !=
            napi_ok ||
        type != napi_uint8_array) {
      Refuse("not a Uint8Array");
      return nullptr;
    }
    return Within(static_cast<const uint8_t*>(bytes), size, offset, length);
  }

  /* A copy of all bytes of the Uint8Array at `index`. */
  std::string Binary(size_t index) {
    size_t size = 0;
    const uint8_t* bytes = Bytes(index, 0, 0);
    if (!is_valid) return "";
    napi_get_typedarray_info(env_, arguments_[index], nullptr, &size, nullptr, nullptr, nullptr);
    if (size == 0) return "";
    return std::string(reinterpret_cast<const char*>(bytes), size);
  }

  bool IsNull(size_t index) {
    napi_valuetype type = napi_undefined;
    return napi_typeof(env_, arguments_[index], &type) == napi_ok && type == napi_null;
  }

  /* The Int32Array at `index`, of at least `count` numbers. */
  int32_t* Ints(size_t index, size_t count) {
    napi_typedarray_type type;
    size_t size = 0;
    void* numbers = nullptr;
    if (!is_valid) return nullptr;
    if (napi_get_typedarray_info(env_, arguments_[index], &type, &size, &numbers, nullptr, nullptr) !=
            napi_ok ||
        type != napi_int32_array || size < count) {
      Refuse("not an Int32Array, or too short");
      return nullptr;
    }
    return static_cast<int32_t*>(numbers);
  }

  const uint8_t* Within(const uint8_t* bytes, size_t size, int32_t offset, int32_t length) {
    if (!is_valid) return nullptr;
    if (offset < 0 || length < 0 || static_cast<size_t>(offset) > size ||
        static_cast<size_t>(length) > size - static_cast<size_t>(offset)) {
      is_valid = false;
      napi_throw_range_error(env_, nullptr, "offset and length are outside of the bytes");
      return nullptr;
    }
    return bytes + offset;
  }

  /* Null, without an exception, when the argument is null. */
  TlsContext* Tls(size_t index) {
    napi_valuetype type = napi_undefined;
    if (!is_valid || napi_typeof(env_, arguments_[index], &type) != napi_ok || type == napi_null)
      return nullptr;
    bool is_context = false;
    void* context = nullptr;
    if (type != napi_object ||
        napi_check_object_type_tag(env_, arguments_[index], &kTlsContextTag, &is_context) != napi_ok ||
        !is_context || napi_unwrap(env_, arguments_[index], &context) != napi_ok) {
      Refuse("not a TLS context");
    }
    return static_cast<TlsContext*>(context);
  }

  /* The connection with the id at `index`; null when it is gone, which is no error. */
  Connection* Find(size_t index) {
    int32_t id = Int(index);
    return is_valid ? reactor->Find(id) : nullptr;
  }

  napi_value argument(size_t index) const { return arguments_[index]; }

  Reactor* reactor = nullptr;
  bool is_valid = true;

 private:
  void Refuse(const char* why) {
    if (is_valid) napi_throw_type_error(env_, nullptr, why);
    is_valid = false;
  }

  napi_env env_;
  napi_value arguments_[kArgumentsMax] = {};
};

}  // namespace weft
