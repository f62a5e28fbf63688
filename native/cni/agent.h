/* Asks the agent of this node what is to be done about a call of the container runtime. */
#ifndef WEFT_CNI_AGENT_H
#define WEFT_CNI_AGENT_H

#include <stddef.h>
#include <stdint.h>

/* Longest message of the agent: a sentence for the operator. */
#define ANSWER_BYTES_MAX 2048

/* What the runtime's call says, as it came. */
struct call {
  const char* command;
  const char* container_id;
  const char* netns;
  const char* args;
  /* Descriptor of the open netns, or -1: the agent opens it through /proc, whatever its own mounts are. */
  int netns_fd;
  const char* config;
  size_t config_length;
};

enum answer_kind {
  /* Nobody listens, or whoever did has gone without an answer. */
  ANSWER_NOBODY,
  /* Somebody listens and says nothing. */
  ANSWER_SILENCE,
  ANSWER_GIVEN,
};

struct answer {
  enum answer_kind kind;
  /* 0 when all is well, else a code of the CNI specification. */
  uint32_t code;
  char message[ANSWER_BYTES_MAX + 1];
};

/* Milliseconds of the monotonic clock. */
int64_t now_ms(void);

/* One attempt, which ends at `deadline_ms` at the latest. */
void ask_agent(const char* socket_path, const struct call* call, int64_t deadline_ms, struct answer* answer);

#endif
