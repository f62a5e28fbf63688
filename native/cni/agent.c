/*
 * See agent.h. Over a stream socket, integers little-endian:
 *
 *      request   "WEFTCNI1"  bytes of the rest (4)  then command, container id, netns, args, pid, descriptor
 * and configuration, each as its length (4) and its bytes answer    "WEFTCNI1"  code (4)  length (4)  message
 */
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char MAGIC[8] = {'W', 'E', 'F', 'T', 'C', 'N', 'I', '1'};

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* False when the time is over first. */
static int wait_for(int fd, short events, int64_t deadline_ms) {
  for (;;) {
    int64_t left = deadline_ms - now_ms();
    if (left <= 0) return 0;
    struct pollfd waiting = {.fd = fd, .events = events};
    int ready = poll(&waiting, 1, (int)left);
    if (ready > 0) return 1;
    if (ready < 0 && errno != EINTR) return 0;
  }
}

static enum answer_kind send_all(int fd, const void* bytes, size_t length, int64_t deadline_ms) {
  const char* at = bytes;
  while (length > 0) {
    ssize_t sent = send(fd, at, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      at += sent;
      length -= (size_t)sent;
      continue;
    }
    if (errno != EAGAIN && errno != EINTR) return ANSWER_NOBODY;
    if (!wait_for(fd, POLLOUT, deadline_ms)) return ANSWER_SILENCE;
  }
  return ANSWER_GIVEN;
}

static enum answer_kind receive_all(int fd, void* bytes, size_t length, int64_t deadline_ms) {
  char* at = bytes;
  while (length > 0) {
    ssize_t received = recv(fd, at, length, MSG_DONTWAIT);
    if (received == 0) return ANSWER_NOBODY;
    if (received > 0) {
      at += received;
      length -= (size_t)received;
      continue;
    }
    if (errno != EAGAIN && errno != EINTR) return ANSWER_NOBODY;
    if (!wait_for(fd, POLLIN, deadline_ms)) return ANSWER_SILENCE;
  }
  return ANSWER_GIVEN;
}

static void put_number(unsigned char* target, uint32_t value) {
  for (int i = 0; i < 4; i++) target[i] = (unsigned char)(value >> (8 * i));
}

static uint32_t take_number(const unsigned char* source) {
  return (uint32_t)source[0] | (uint32_t)source[1] << 8 | (uint32_t)source[2] << 16 |
         (uint32_t)source[3] << 24;
}

static enum answer_kind send_request(int fd, const struct call* call, int64_t deadline_ms) {
  char pid[16], netns_fd[16];
  snprintf(pid, sizeof(pid), "%d", (int)getpid());
  snprintf(netns_fd, sizeof(netns_fd), "%d", call->netns_fd);
  const struct {
    const char* bytes;
    size_t length;
  } fields[] = {
      {call->command, strlen(call->command)},
      {call->container_id, strlen(call->container_id)},
      {call->netns, strlen(call->netns)},
      {call->args, strlen(call->args)},
      {pid, strlen(pid)},
      {netns_fd, strlen(netns_fd)},
      {call->config, call->config_length},
  };
  const size_t count = sizeof(fields) / sizeof(fields[0]);
  uint32_t total = 0;
  for (size_t i = 0; i < count; i++) total += 4 + (uint32_t)fields[i].length;
  unsigned char head[sizeof(MAGIC) + 4];
  memcpy(head, MAGIC, sizeof(MAGIC));
  put_number(head + sizeof(MAGIC), total);
  enum answer_kind kind = send_all(fd, head, sizeof(head), deadline_ms);
  for (size_t i = 0; i < count && kind == ANSWER_GIVEN; i++) {
    unsigned char length[4];
    put_number(length, (uint32_t)fields[i].length);
    kind = send_all(fd, length, sizeof(length), deadline_ms);
    if (kind == ANSWER_GIVEN) kind = send_all(fd, fields[i].bytes, fields[i].length, deadline_ms);
  }
  return kind;
}

static enum answer_kind receive_answer(int fd, int64_t deadline_ms, struct answer* answer) {
  unsigned char head[sizeof(MAGIC) + 8];
  enum answer_kind kind = receive_all(fd, head, sizeof(head), deadline_ms);
  if (kind != ANSWER_GIVEN) return kind;
  uint32_t length = take_number(head + sizeof(MAGIC) + 4);
  if (memcmp(head, MAGIC, sizeof(MAGIC)) != 0 || length > ANSWER_BYTES_MAX) return ANSWER_NOBODY;
  kind = receive_all(fd, answer->message, length, deadline_ms);
  if (kind != ANSWER_GIVEN) return kind;
  answer->message[length] = '\0';
  answer->code = take_number(head + sizeof(MAGIC));
  return ANSWER_GIVEN;
}

void ask_agent(const char* socket_path, const struct call* call, int64_t deadline_ms, struct answer* answer) {
  answer->kind = ANSWER_NOBODY;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(socket_path) >= sizeof(address.sun_path)) return;
  memcpy(address.sun_path, socket_path, strlen(socket_path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  /* EAGAIN: the agent's queue of connections is full, because it stands still. */
  if (connect(fd, (struct sockaddr*)&address, sizeof(address)) == 0) {
    answer->kind = send_request(fd, call, deadline_ms);
    if (answer->kind == ANSWER_GIVEN) answer->kind = receive_answer(fd, deadline_ms, answer);
  } else if (errno == EAGAIN) {
    answer->kind = ANSWER_SILENCE;
  }
  close(fd);
}
