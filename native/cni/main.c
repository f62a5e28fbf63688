/*
 * weft-cni: the last plugin of a chain of CNI plugins (specification 0.3.0 to 1.1.0). It changes nothing of
 * the pod's network: the agent of the node does, and ADD answers when the agent has captured the pod, or
 * knows that the pod is none of the mesh's. What the plugins before it have said goes on byte for byte.
 *
 *      ADD    pod of no meshed namespace            the agent is asked whose it is (ASK): a label of the
 * pod's own may be its first. None of ours, or nobody answers: passes else the agent answers as it says else,
 * by the namespace's choice       passes, or fails so that the kubelet tries again DEL    tells the agent,
 * never fails CHECK  as the agent says, if there is one GC, STATUS, VERSION   need no agent: a node without
 * it still runs pods
 *
 * Linked statically, because it runs in the node's file system, whatever that has. The agent decides
 * everything that needs more than a namespace's name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "namespaces.h"
#include "scan.h"

/* Configuration with the result so far. Runtimes send a few KiB. */
#define CONFIG_BYTES_MAX 1048576
/* Each variable; CNI_ARGS has five short pairs. */
#define VARIABLE_BYTES_MAX 4096
#define PATH_BYTES_MAX 256

/* An agent has five seconds to capture a pod before it answers that it could not; then something is wrong. */
#define ANSWER_MS_MAX 10000
/* Without an agent: one that is upgraded or restarted is back by then, or the kubelet tries again. */
#define PATIENCE_CLOSED_MS 5000
#define PATIENCE_OPEN_MS 3000
#define PATIENCE_DELETE_MS 2000
/* For a pod that is most probably none of the mesh's: as long as an agent takes to hand the socket to the
 * next. The answer: an agent gives up after three seconds, and one that hangs must not keep a stranger much
 * longer. */
#define PATIENCE_ASK_MS 500
#define ANSWER_ASK_MS_MAX 4000
#define RETRY_MS 50

/* Codes of the specification. */
enum error_code {
  ERROR_INCOMPATIBLE_VERSION = 1,
  ERROR_BAD_ENVIRONMENT = 4,
  ERROR_IO = 5,
  ERROR_DECODE = 6,
  ERROR_BAD_CONFIG = 7,
  ERROR_TRY_AGAIN = 11,
};

/* Answers to ASK: the pod is the agent's to capture. */
#define ANSWER_OURS_OPEN 101
#define ANSWER_OURS_CLOSED 102

static const char* const VERSIONS[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
#define VERSION_COUNT (sizeof(VERSIONS) / sizeof(VERSIONS[0]))

/* Of the request, once that is known: errors are written in it. */
static const char* answered_version = "1.0.0";

static void print_text(const char* text) {
  putchar('"');
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\')
      printf("\\%c", c);
    else if (c < 0x20 || c > 0x7e)
      putchar('?');
    else
      putchar(c);
  }
  putchar('"');
}

_Noreturn static void fail(unsigned code, const char* message) {
  printf("{\"cniVersion\":\"%s\",\"code\":%u,\"msg\":", answered_version, code);
  print_text(message);
  printf("}\n");
  exit(1);
}

static const char* variable(const char* name, int is_required) {
  const char* value = getenv(name);
  char message[128];
  if (!value) value = "";
  if (is_required && *value == '\0') {
    snprintf(message, sizeof(message), "weft-cni is run by the container runtime: %s is not set", name);
    fail(ERROR_BAD_ENVIRONMENT, message);
  }
  if (strlen(value) > VARIABLE_BYTES_MAX) {
    snprintf(message, sizeof(message), "%s is longer than %d bytes", name, VARIABLE_BYTES_MAX);
    fail(ERROR_BAD_ENVIRONMENT, message);
  }
  return value;
}

static char* read_config(size_t* length) {
  static char text[CONFIG_BYTES_MAX + 1];
  *length = 0;
  for (;;) {
    ssize_t got = read(STDIN_FILENO, text + *length, sizeof(text) - *length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ERROR_IO, "the configuration on standard input cannot be read");
    if (got == 0) return text;
    *length += (size_t)got;
    if (*length > CONFIG_BYTES_MAX) fail(ERROR_DECODE, "the configuration has more than 1 MiB");
  }
}

/* --- the members of the configuration that are looked at --- */

enum { MEMBER_VERSION, MEMBER_PREVIOUS, MEMBER_SOCKET, MEMBER_NAMESPACES, MEMBERS };

static const char* version_of(struct span value) {
  char written[16];
  if (!copy_text(value, written, sizeof(written)))
    fail(ERROR_DECODE, "cniVersion is missing, or is no version");
  for (size_t i = 0; i < VERSION_COUNT; i++)
    if (strcmp(VERSIONS[i], written) == 0) return VERSIONS[i];
  fail(ERROR_INCOMPATIBLE_VERSION,
       "weft-cni speaks the versions 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 of CNI");
}

static void path_of(struct span value, const char* name, char* path) {
  if (copy_text(value, path, PATH_BYTES_MAX) && path[0] == '/') return;
  char message[128];
  snprintf(message, sizeof(message), "\"%s\" of weft-cni's configuration must be an absolute path", name);
  fail(ERROR_BAD_CONFIG, message);
}

/* Copies a value of CNI_ARGS (A=1;B=2); false when it is not there, or longer than any name of Kubernetes. */
static int argument(const char* args, const char* name, char* value, size_t size) {
  size_t name_length = strlen(name);
  while (*args) {
    size_t length = strcspn(args, ";");
    if (length > name_length && args[name_length] == '=' && memcmp(args, name, name_length) == 0) {
      size_t value_length = length - name_length - 1;
      if (value_length == 0 || value_length >= size) return 0;
      memcpy(value, args + name_length + 1, value_length);
      value[value_length] = '\0';
      return 1;
    }
    args += length;
    if (*args == ';') args++;
  }
  return 0;
}

/* --- the commands --- */

struct plugin {
  struct member members[MEMBERS];
  char socket[PATH_BYTES_MAX];
  char namespaces[PATH_BYTES_MAX];
  struct call call;
};

/* Asks as long as nobody listens, or the one who did has gone, for `patience_ms`. */
static void ask(const struct plugin* plugin, int64_t patience_ms, int64_t answer_ms, struct answer* answer) {
  int64_t began = now_ms();
  for (;;) {
    int64_t left = began + patience_ms - now_ms();
    ask_agent(plugin->socket, &plugin->call, now_ms() + (answer_ms > left ? answer_ms : left), answer);
    if (answer->kind != ANSWER_NOBODY || now_ms() + RETRY_MS >= began + patience_ms) return;
    struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
    nanosleep(&pause, NULL);
  }
}

/* Of a namespace that is not written down. An agent that knows no ASK says that it is nobody's. */
static enum membership ask_whose(const struct plugin* plugin) {
  struct plugin asking = *plugin;
  asking.call.command = "ASK";
  struct answer answer;
  /* No agent has ever been here. */
  if (access(plugin->socket, F_OK) != 0) return MEMBERSHIP_NONE;
  ask(&asking, PATIENCE_ASK_MS, ANSWER_ASK_MS_MAX, &answer);
  if (answer.kind != ANSWER_GIVEN || answer.code == 0) return MEMBERSHIP_NONE;
  if (answer.code == ANSWER_OURS_OPEN) return MEMBERSHIP_OPEN;
  if (answer.code == ANSWER_OURS_CLOSED) return MEMBERSHIP_CLOSED;
  fail(answer.code, answer.message);
}

static void pass_on(const struct plugin* plugin) {
  struct span previous = plugin->members[MEMBER_PREVIOUS].value;
  if (fwrite(previous.start, 1, previous.length, stdout) != previous.length || fflush(stdout) != 0) exit(1);
}

static void add(const struct plugin* plugin) {
  struct span previous = plugin->members[MEMBER_PREVIOUS].value;
  if (previous.length == 0 || previous.start[0] != '{')
    fail(ERROR_BAD_CONFIG,
         "weft-cni must come after the plugin that makes the pod's network: there is no prevResult");
  char namespace[256];
  /* Not of Kubernetes: nobody can have put it into the mesh. */
  if (!argument(plugin->call.args, "K8S_POD_NAMESPACE", namespace, sizeof(namespace))) {
    pass_on(plugin);
    return;
  }
  enum membership membership = membership_of(plugin->namespaces, namespace);
  if (membership == MEMBERSHIP_NONE) membership = ask_whose(plugin);
  if (membership != MEMBERSHIP_NONE) {
    int is_open = membership == MEMBERSHIP_OPEN;
    struct answer answer;
    ask(plugin, is_open ? PATIENCE_OPEN_MS : PATIENCE_CLOSED_MS, ANSWER_MS_MAX, &answer);
    if (answer.kind == ANSWER_GIVEN && answer.code != 0) fail(answer.code, answer.message);
    if (answer.kind != ANSWER_GIVEN) {
      const char* why = answer.kind == ANSWER_SILENCE ? "does not answer" : "does not run";
      char message[512];
      if (!is_open) {
        snprintf(message, sizeof(message),
                 "the weft agent of this node %s, and pods of namespace %s must not start without it "
                 "(weft.dev/failure-mode); the kubelet tries again",
                 why, namespace);
        fail(ERROR_TRY_AGAIN, message);
      }
      fprintf(stderr, "weft-cni: the agent %s; the pod starts unmeshed, as namespace %s allows\n", why,
              namespace);
    }
  }
  pass_on(plugin);
}

static void remove_pod(const struct plugin* plugin) {
  struct answer answer;
  ask(plugin, 0, PATIENCE_DELETE_MS, &answer);
}

static void check(const struct plugin* plugin) {
  struct answer answer;
  ask(plugin, 0, PATIENCE_DELETE_MS, &answer);
  if (answer.kind == ANSWER_GIVEN && answer.code != 0) fail(answer.code, answer.message);
}

static void print_versions(void) {
  printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[", answered_version);
  for (size_t i = 0; i < VERSION_COUNT; i++) printf("%s\"%s\"", i == 0 ? "" : ",", VERSIONS[i]);
  printf("]}\n");
}

int main(void) {
  const char* command = variable("CNI_COMMAND", 1);
  size_t length = 0;
  char* config = read_config(&length);
  struct plugin plugin = {
      .members = {[MEMBER_VERSION] = {.name = "cniVersion"},
                  [MEMBER_PREVIOUS] = {.name = "prevResult"},
                  [MEMBER_SOCKET] = {.name = "socket"},
                  [MEMBER_NAMESPACES] = {.name = "namespaces"}},
  };
  if (!scan_object(config, length, plugin.members, MEMBERS))
    fail(ERROR_DECODE, "the configuration on standard input is not one well-formed JSON object");
  answered_version = version_of(plugin.members[MEMBER_VERSION].value);
  if (strcmp(command, "VERSION") == 0) {
    print_versions();
    return 0;
  }
  if (strcmp(command, "GC") == 0 || strcmp(command, "STATUS") == 0) return 0;
  int is_delete = strcmp(command, "DEL") == 0;
  if (!is_delete && strcmp(command, "ADD") != 0 && strcmp(command, "CHECK") != 0)
    fail(ERROR_BAD_ENVIRONMENT, "CNI_COMMAND is none of ADD, DEL, CHECK, GC, STATUS and VERSION");
  path_of(plugin.members[MEMBER_SOCKET].value, "socket", plugin.socket);
  path_of(plugin.members[MEMBER_NAMESPACES].value, "namespaces", plugin.namespaces);
  plugin.call = (struct call){
      .command = command,
      .container_id = variable("CNI_CONTAINERID", 1),
      .netns = variable("CNI_NETNS", !is_delete),
      .args = variable("CNI_ARGS", 0),
      .netns_fd = -1,
      .config = config,
      .config_length = length,
  };
  if (plugin.call.netns[0] != '\0') plugin.call.netns_fd = open(plugin.call.netns, O_RDONLY | O_CLOEXEC);
  if (is_delete)
    remove_pod(&plugin);
  else if (strcmp(command, "ADD") == 0)
    add(&plugin);
  else
    check(&plugin);
  return 0;
}
