/*
 * The reactor as JavaScript sees it (src/transport/reactor-addon.ts). Arguments are checked here and nowhere
 * else: every id by its generation, every offset and length against the bytes it is about.
 */
#include <node_api.h>
#include <openssl/crypto.h>

#include <cerrno>
#include <string>

#include "faults.h"
#include "reactor_call.h"
#include "tls_tickets.h"

namespace weft {

static napi_value Number(napi_env env, int64_t value) {
  napi_value number = nullptr;
  napi_create_int64(env, value, &number);
  return number;
}

static napi_value TextOf(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &value);
  return value;
}

static napi_value BacklogNumber(napi_env env, size_t backlog) {
  return Number(env, static_cast<int64_t>(backlog));
}

/* False for what has no bytes in order: listeners and datagram sockets. */
static bool IsStream(const Connection* connection) { return connection->phase > Phase::kDatagram; }

// --- methods of a reactor ---

/* listen(fd, address, port, isShared, isTls, backlog): id or negative errno */
static napi_value Listen(napi_env env, napi_callback_info info) {
  Call call(env, info, 6);
  int fd = call.Int(0);
  std::string address = call.Text(1);
  int port = call.Int(2);
  bool is_shared = call.Bool(3);
  bool is_tls = call.Bool(4);
  int backlog = call.Int(5);
  if (!call.is_valid) return nullptr;
  return Number(env, call.reactor->Listen(fd, address, port, is_shared, is_tls, backlog));
}

/* resumeAccept(id) */
static napi_value ResumeAccept(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* listener = call.Find(0);
  if (listener != nullptr && listener->phase == Phase::kListening) call.reactor->ResumeAccept(listener);
  return nullptr;
}

/* connect(fd, address, port, localAddress, tlsContext): id or negative errno */
static napi_value Connect(napi_env env, napi_callback_info info) {
  Call call(env, info, 5);
  int fd = call.Int(0);
  std::string address = call.Text(1);
  int port = call.Int(2);
  std::string local_address = call.Text(3);
  TlsContext* tls = call.Tls(4);
  if (!call.is_valid) return nullptr;
  SSL_CTX* context = tls == nullptr ? nullptr : tls->client;
  return Number(env, call.reactor->Connect(fd, address, port, local_address, context));
}

/* startTls(id, tlsContext): with the credentials for an accepted connection */
static napi_value StartTls(napi_env env, napi_callback_info info) {
  Call call(env, info, 2);
  Connection* connection = call.Find(0);
  TlsContext* tls = call.Tls(1);
  if (connection == nullptr || tls == nullptr || connection->phase != Phase::kAwaitingTls) return nullptr;
  call.reactor->StartTls(connection, tls->server);
  return nullptr;
}

/* approve(id): the server is who it should be */
static napi_value Approve(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection != nullptr && IsStream(connection)) call.reactor->Approve(connection);
  return nullptr;
}

/* write(id, bytes, offset, length): backlog */
static napi_value Write(napi_env env, napi_callback_info info) {
  Call call(env, info, 4);
  Connection* connection = call.Find(0);
  int32_t length = call.Int(3);
  const uint8_t* bytes = call.Bytes(1, call.Int(2), length);
  if (!call.is_valid) return nullptr;
  if (connection == nullptr || !IsStream(connection)) return Number(env, 0);
  return BacklogNumber(env, call.reactor->Write(connection, bytes, static_cast<size_t>(length)));
}

/* writeArena(id, offset, length): backlog. The same, for bytes that lie in the arena. */
static napi_value WriteArena(napi_env env, napi_callback_info info) {
  Call call(env, info, 3);
  Connection* connection = call.Find(0);
  int32_t offset = call.Int(1);
  int32_t length = call.Int(2);
  const uint8_t* bytes = call.Within(call.reactor->arena(), call.reactor->arena_size(), offset, length);
  if (!call.is_valid) return nullptr;
  if (connection == nullptr || !IsStream(connection)) return Number(env, 0);
  return BacklogNumber(env, call.reactor->Write(connection, bytes, static_cast<size_t>(length)));
}

/* backlog(id) */
static napi_value Backlog(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  return BacklogNumber(env, connection == nullptr ? 0 : call.reactor->Backlog(connection));
}

/* end(id) */
static napi_value End(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection != nullptr && IsStream(connection)) call.reactor->End(connection);
  return nullptr;
}

/* pause(id) */
static napi_value Pause(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection != nullptr) call.reactor->Pause(connection);
  return nullptr;
}

/* resume(id) */
static napi_value Resume(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection != nullptr && IsStream(connection)) call.reactor->Resume(connection);
  return nullptr;
}

/* discard(id) */
static napi_value Discard(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection != nullptr && IsStream(connection)) call.reactor->Discard(connection);
  return nullptr;
}

/* openDatagram(fd, address, port): id or negative errno */
static napi_value OpenDatagram(napi_env env, napi_callback_info info) {
  Call call(env, info, 3);
  int fd = call.Int(0);
  std::string address = call.Text(1);
  int port = call.Int(2);
  if (!call.is_valid) return nullptr;
  return Number(env, call.reactor->OpenDatagram(fd, address, port));
}

/* sendDatagram(id, bytes, offset, length): 0 or negative errno */
static napi_value SendDatagram(napi_env env, napi_callback_info info) {
  Call call(env, info, 4);
  Connection* connection = call.Find(0);
  int32_t length = call.Int(3);
  const uint8_t* bytes = call.Bytes(1, call.Int(2), length);
  if (!call.is_valid) return nullptr;
  if (connection == nullptr || connection->phase != Phase::kDatagram) return Number(env, 0);
  return Number(env, -call.reactor->SendDatagram(connection, bytes, static_cast<size_t>(length)));
}

/* replyDatagram(id, ends, bytes, offset, length) */
static napi_value ReplyDatagram(napi_env env, napi_callback_info info) {
  Call call(env, info, 5);
  Connection* connection = call.Find(0);
  const uint8_t* ends = call.Bytes(1, 0, sizeof(DatagramEnds));
  int32_t length = call.Int(4);
  const uint8_t* bytes = call.Bytes(2, call.Int(3), length);
  if (!call.is_valid || connection == nullptr || connection->phase != Phase::kDatagram) return nullptr;
  call.reactor->ReplyDatagram(connection, ends, bytes, static_cast<size_t>(length));
  return nullptr;
}

/* droppedDatagrams(): those that the kernel did not take */
static napi_value DroppedDatagrams(napi_env env, napi_callback_info info) {
  Call call(env, info, 0);
  return Number(env, call.reactor->dropped_replies());
}

/* close(id, isReset): of listeners and datagram sockets too */
static napi_value Close(napi_env env, napi_callback_info info) {
  Call call(env, info, 2);
  Connection* connection = call.Find(0);
  bool is_reset = call.Bool(1);
  if (connection != nullptr && call.is_valid) call.reactor->Close(connection, is_reset);
  return nullptr;
}

/* endBatch(): when JavaScript wrote without being called by the reactor */
static napi_value EndBatch(napi_env env, napi_callback_info info) {
  Call call(env, info, 0);
  call.reactor->EndBatch();
  return nullptr;
}

/* ipv4Ends(id, ends): into an Int32Array of four; false when it is not IPv4, or gone */
static napi_value Ipv4Ends(napi_env env, napi_callback_info info) {
  Call call(env, info, 2);
  Connection* connection = call.Find(0);
  int32_t* ends = call.Ints(1, 4);
  if (!call.is_valid) return nullptr;
  napi_value is_known = nullptr;
  napi_get_boolean(env, connection != nullptr && ReadIpv4Ends(connection->fd, ends), &is_known);
  return is_known;
}

/* endpoints(id): [local address, local port, remote address, remote port] */
static napi_value Endpoints(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (!call.is_valid) return nullptr;
  Endpoint local = connection == nullptr ? Endpoint{} : LocalEndpoint(connection->fd);
  Endpoint remote = connection == nullptr ? Endpoint{} : RemoteEndpoint(connection->fd);
  napi_value list = nullptr;
  napi_create_array_with_length(env, 4, &list);
  napi_set_element(env, list, 0, TextOf(env, local.address));
  napi_set_element(env, list, 1, Number(env, local.port));
  napi_set_element(env, list, 2, TextOf(env, remote.address));
  napi_set_element(env, list, 3, Number(env, remote.port));
  return list;
}

/* takePeerNames(id): text, empty without a certificate */
static napi_value TakePeerNames(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  Connection* connection = call.Find(0);
  if (connection == nullptr || connection->tls == nullptr) return TextOf(env, "");
  return TextOf(env, connection->tls->TakePeerNames());
}

/* connectionCount(): open descriptors, listeners among them */
static napi_value ConnectionCount(napi_env env, napi_callback_info info) {
  Call call(env, info, 0);
  return Number(env, static_cast<int64_t>(call.reactor->connection_count()));
}

// --- functions of the addon ---

struct Method {
  const char* name;
  napi_callback function;
};

static const Method kReactorMethods[] = {
    {"listen", Listen},
    {"resumeAccept", ResumeAccept},
    {"connect", Connect},
    {"startTls", StartTls},
    {"approve", Approve},
    {"write", Write},
    {"writeArena", WriteArena},
    {"backlog", Backlog},
    {"end", End},
    {"pause", Pause},
    {"resume", Resume},
    {"discard", Discard},
    {"openDatagram", OpenDatagram},
    {"sendDatagram", SendDatagram},
    {"replyDatagram", ReplyDatagram},
    {"droppedDatagrams", DroppedDatagrams},
    {"close", Close},
    {"endBatch", EndBatch},
    {"endpoints", Endpoints},
    {"ipv4Ends", Ipv4Ends},
    {"takePeerNames", TakePeerNames},
    {"connectionCount", ConnectionCount},
};

static void SetMethod(napi_env env, napi_value object, const Method& method, void* data) {
  napi_value function = nullptr;
  napi_create_function(env, method.name, NAPI_AUTO_LENGTH, method.function, data, &function);
  napi_set_named_property(env, object, method.name, function);
}

/* createReactor(arena, events, onBatch, backlogHigh, keepAliveSeconds, isPoisoning): reactor or negative
 * errno */
static napi_value CreateReactor(napi_env env, napi_callback_info info) {
  Call call(env, info, 6);
  Reactor::Options options;
  call.Bytes(0, 0, 0);
  options.backlog_high = static_cast<uint32_t>(call.Int(3));
  options.keep_alive_seconds = call.Int(4);
  options.is_poisoning = call.Bool(5);
  napi_typedarray_type type = napi_uint8_array;
  napi_valuetype callback_type = napi_undefined;
  napi_get_typedarray_info(env, call.argument(1), &type, nullptr, nullptr, nullptr, nullptr);
  napi_typeof(env, call.argument(2), &callback_type);
  if (!call.is_valid) return nullptr;
  if (type != napi_int32_array || callback_type != napi_function) {
    napi_throw_type_error(env, nullptr, "not an Int32Array and a function");
    return nullptr;
  }
  Reactor* reactor = nullptr;
  int error = Reactor::New(env, call.argument(0), call.argument(1), call.argument(2), options, &reactor);
  if (error != 0) return Number(env, -error);
  napi_value object = nullptr;
  napi_create_object(env, &object);
  for (const Method& method : kReactorMethods) SetMethod(env, object, method, reactor);
  return object;
}

/*
 * createTlsContext(chain, key, bundle, protocols, resumptionScope): an opaque object. Throws Error when they
 * cannot be used.
 */
static napi_value CreateTlsContext(napi_env env, napi_callback_info info) {
  Call call(env, info, 5);
  TlsMaterial material;
  material.chain = call.Text(0);
  material.key = call.Text(1);
  material.bundle = call.Text(2);
  material.protocols = call.Binary(3);
  if (call.is_valid && !call.IsNull(4)) material.resumption_scope = call.Binary(4);
  if (!call.is_valid) return nullptr;
  std::string failure = "OpenSSL refuses";
  TlsContext* context = TlsContext::New(material, &failure);
  OPENSSL_cleanse(material.key.data(), material.key.size());
  if (context == nullptr) {
    napi_throw_error(env, nullptr, failure.c_str());
    return nullptr;
  }
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_type_tag_object(env, object, &kTlsContextTag);
  // Sessions hold references of their own to what is freed here.
  auto finalize = [](napi_env, void* made, void*) { delete static_cast<TlsContext*>(made); };
  napi_wrap(env, object, context, finalize, nullptr, nullptr);
  return object;
}

/* describeTlsError(code): OpenSSL's words; empty when it has none */
static napi_value DescribeTls(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  return TextOf(env, DescribeTlsError(static_cast<uint32_t>(call.Int(0))));
}

/* describeVerifyResult(code) */
static napi_value DescribeVerify(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  return TextOf(env, DescribeVerifyResult(call.Int(0)));
}

#ifdef WEFT_TESTING
/* advanceTicketClock(seconds) */
static napi_value AdvanceTickets(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  AdvanceTicketClock(call.Int(0));
  return nullptr;
}

/* failAllocation(count): the one behind so many; -1: none. Returns what was left of the last count. */
static napi_value FailAllocation(napi_env env, napi_callback_info info) {
  Call call(env, info, 1);
  int32_t left = allocations_until_fault;
  allocations_until_fault = call.Int(0);
  return Number(env, left);
}
#endif

static const Method kAddonFunctions[] = {
#ifdef WEFT_TESTING
    {"advanceTicketClock", AdvanceTickets}, {"failAllocation", FailAllocation},
#endif
    {"createReactor", CreateReactor},       {"createTlsContext", CreateTlsContext},
    {"describeTlsError", DescribeTls},      {"describeVerifyResult", DescribeVerify},
};

/* OpenSSL 3.0: nothing of a later version is used, and an earlier one lacks what is. */
static constexpr unsigned long kOpensslMin = 0x30000000UL;

/* As REACTOR_REVISION in src/transport/reactor-addon.ts: both count up when functions or events change. */
static constexpr uint32_t kRevision = 2;

static napi_value Initialize(napi_env env, napi_value exports) {
  if (OpenSSL_version_num() < kOpensslMin || std::string(uv_handle_type_name(kUvPoll)) != "poll") {
    napi_throw_error(env, nullptr, "this Node.js has another OpenSSL or libuv than the reactor is made for");
    return nullptr;
  }
  for (const Method& function : kAddonFunctions) SetMethod(env, exports, function, nullptr);
  napi_set_named_property(env, exports, "opensslVersion", TextOf(env, OpenSSL_version(OPENSSL_VERSION)));
  napi_value revision;
  napi_create_uint32(env, kRevision, &revision);
  napi_set_named_property(env, exports, "revision", revision);
  return exports;
}

}  // namespace weft

NAPI_MODULE_INIT() { return weft::Initialize(env, exports); }
