/*
 * Clients and servers of the kernel bench, bounded in time; each client prints one line of JSON.
 *
 *      echo PORT BYTES                       server: answers every message of that size with itself
 *      hang-up PORT                          server: closes each connection as soon as it has accepted it
 *      ping ADDRESS PORT BYTES SECONDS       round trips on one connection: {"count","p50Ns","p99Ns"}
 *      connect ADDRESS PORT SECONDS          connections of CONNECTORS clients: {"count","seconds"}
 *      cost CGROUP CGROUP SECONDS            connect() alone, by sockets of either cgroup: see run_cost
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Longest message. */
#define MESSAGE_BYTES_MAX 65536
/* Round trips of one run that are kept: a second of the fastest that a kernel can do, ten times over. */
#define SAMPLES_MAX 4000000
/* Clients of `connect`, and threads of its server: enough that no core ever waits. */
#define CONNECTORS 16
#define ACCEPTORS 4
/* Sockets of one batch of `cost` and cgroup: fewer than the listener's queue takes. */
#define BATCH 200

static void die(const char* what) {
  fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void* a, const void* b) {
  uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return x < y ? -1 : x > y;
}

/* An address of either family. */
struct endpoint {
  struct sockaddr_storage address;
  socklen_t bytes;
};

static struct endpoint endpoint_of(const char* text, int port) {
  struct endpoint end = {0};
  struct sockaddr_in* v4 = (struct sockaddr_in*)&end.address;
  struct sockaddr_in6* v6 = (struct sockaddr_in6*)&end.address;
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)port);
    end.bytes = sizeof(*v4);
  } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    end.bytes = sizeof(*v6);
  } else {
    errno = EINVAL;
    die(text);
  }
  return end;
}

static int connected_to(const struct endpoint* end) {
  int fd = socket(end->address.ss_family, SOCK_STREAM, 0);
  if (fd < 0) die("socket");
  if (connect(fd, (const struct sockaddr*)&end->address, end->bytes) != 0) die("connect");
  return fd;
}

static int listener_on(const char* address, int port) {
  struct endpoint end = endpoint_of(address, port);
  int fd = socket(end.address.ss_family, SOCK_STREAM, 0), one = 1;
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, (struct sockaddr*)&end.address, end.bytes) != 0) die("bind");
  if (listen(fd, 4096) != 0) die("listen");
  return fd;
}

/* False at the end of the stream, or when the peer has reset it. */
static int read_all(int fd, char* bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t got = read(fd, bytes + at, length - at);
    if (got <= 0) return 0;
    at += (size_t)got;
  }
  return 1;
}

static int write_all(int fd, const char* bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t put = send(fd, bytes + at, length - at, MSG_NOSIGNAL);
    if (put <= 0) return 0;
    at += (size_t)put;
  }
  return 1;
}

static void send_at_once(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Closing resets: no connection stays behind in TIME_WAIT, so that ports last for any number of them. */
static void reset_at_close(int fd) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

/* --- servers --- */

static size_t message_bytes;

static void* echo(void* argument) {
  int fd = (int)(intptr_t)argument;
  char bytes[MESSAGE_BYTES_MAX];
  send_at_once(fd);
  while (read_all(fd, bytes, message_bytes) && write_all(fd, bytes, message_bytes)) {
  }
  close(fd);
  return NULL;
}

static void run_echo(int port, size_t bytes) {
  message_bytes = bytes;
  int listener = listener_on("::", port);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo, (void*)(intptr_t)fd) != 0) die("pthread_create");
    pthread_detach(thread);
  }
}

/* Never returns. */
static void* hang_up(void* argument) {
  int listener = (int)(intptr_t)argument;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0) close(fd);
  }
  return NULL;
}

static void run_hang_up(int port) {
  int listener = listener_on("::", port);
  pthread_t thread;
  for (int i = 1; i < ACCEPTORS; i++) {
    if (pthread_create(&thread, NULL, hang_up, (void*)(intptr_t)listener) != 0) die("pthread_create");
  }
  hang_up((void*)(intptr_t)listener);
}

/* --- clients --- */

static void run_ping(const struct endpoint* end, size_t bytes, double seconds) {
  static char out[MESSAGE_BYTES_MAX], in[MESSAGE_BYTES_MAX];
  uint32_t* samples = malloc(SAMPLES_MAX * sizeof(*samples));
  if (!samples) die("malloc");
  int fd = connected_to(end);
  send_at_once(fd);
  size_t count = 0;
  /* The first tenth warms caches up and does not count. */
  uint64_t begin = now_ns(), counted = begin + (uint64_t)(seconds * 1e8),
           finish = begin + (uint64_t)(seconds * 1e9);
  for (uint64_t before = begin; before < finish && count < SAMPLES_MAX;) {
    if (!write_all(fd, out, bytes) || !read_all(fd, in, bytes)) die("round trip");
    uint64_t after = now_ns();
    if (before >= counted) samples[count++] = (uint32_t)(after - before);
    before = after;
  }
  close(fd);
  if (count == 0) die("no round trip");
  qsort(samples, count, sizeof(*samples), compare);
  printf("{\"count\":%zu,\"p50Ns\":%u,\"p99Ns\":%u}\n", count, samples[count / 2], samples[count / 100 * 99]);
}

/* One of the clients of `connect`. */
struct connecting {
  const struct endpoint* end;
  uint64_t finish;
  unsigned long count;
};

/* Connects, waits for the server's FIN, which proves that the server had it, and closes. */
static void* connect_on(void* argument) {
  struct connecting* self = argument;
  while (now_ns() < self->finish) {
    int fd = connected_to(self->end);
    char byte;
    if (read(fd, &byte, 1) != 0) die("read");
    reset_at_close(fd);
    close(fd);
    self->count++;
  }
  return NULL;
}

/* Several clients, so that cores are busy: one alone waits most of its time for cores to wake up. */
static void run_connect(const struct endpoint* end, double seconds) {
  struct connecting clients[CONNECTORS];
  pthread_t threads[CONNECTORS];
  uint64_t begin = now_ns();
  for (int i = 0; i < CONNECTORS; i++) {
    clients[i] = (struct connecting){.end = end, .finish = begin + (uint64_t)(seconds * 1e9)};
    if (pthread_create(&threads[i], NULL, connect_on, &clients[i]) != 0) die("pthread_create");
  }
  unsigned long count = 0;
  for (int i = 0; i < CONNECTORS; i++) {
    pthread_join(threads[i], NULL);
    count += clients[i].count;
  }
  printf("{\"count\":%lu,\"seconds\":%.6f}\n", count, (double)(now_ns() - begin) / 1e9);
}

/* --- the cost of connect() to a process that is not enrolled --- */

static void enter(const char* cgroup) {
  char path[4096], id[32];
  snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  int length = snprintf(id, sizeof(id), "%d", getpid());
  if (fd < 0 || write(fd, id, (size_t)length) != length) die(path);
  close(fd);
}

/* The samples of one kind of socket, by cgroup. */
struct comparison {
  uint32_t* samples[2];
  size_t count[2];
};

static void print_comparison(const char* name, struct comparison* of) {
  uint32_t medians[2];
  for (int side = 0; side < 2; side++) {
    if (of->count[side] == 0) die("no connect()");
    qsort(of->samples[side], of->count[side], sizeof(uint32_t), compare);
    medians[side] = of->samples[side][of->count[side] / 2];
  }
  printf("\"%s\":{\"count\":%zu,\"firstNs\":%u,\"secondNs\":%u}", name, of->count[0], medians[0], medians[1]);
}

static void add_sample(struct comparison* to, int side, uint64_t ns) {
  if (to->count[side] < SAMPLES_MAX) to->samples[side][to->count[side]++] = (uint32_t)ns;
}

/*
 * A socket belongs to the cgroup in which it was made, so one process can compare two cgroups call by call:
 * whatever else the machine does meets both alike. TCP connects over loopback, where the whole handshake is
 * part of the call. A sample of UDP is 64 calls.
 */
static void run_cost(const char* const cgroups[2], double seconds) {
  struct comparison tcp = {0}, udp = {0};
  for (int side = 0; side < 2; side++) {
    tcp.samples[side] = malloc(SAMPLES_MAX * sizeof(uint32_t));
    udp.samples[side] = malloc(SAMPLES_MAX * sizeof(uint32_t));
    if (!tcp.samples[side] || !udp.samples[side]) die("malloc");
  }
  struct rlimit files = {.rlim_cur = 4096, .rlim_max = 4096};
  setrlimit(RLIMIT_NOFILE, &files);
  enter(cgroups[1]);
  int listener = listener_on("127.0.0.1", 0);
  struct endpoint end = {.bytes = sizeof(end.address)};
  if (getsockname(listener, (struct sockaddr*)&end.address, &end.bytes) != 0) die("getsockname");
  const struct sockaddr* address = (const struct sockaddr*)&end.address;
  uint64_t finish = now_ns() + (uint64_t)(seconds * 1e9);
  while (now_ns() < finish) {
    int streams[2][BATCH], datagrams[2];
    for (int side = 0; side < 2; side++) {
      enter(cgroups[side]);
      datagrams[side] = socket(AF_INET, SOCK_DGRAM, 0);
      for (int i = 0; i < BATCH; i++) {
        streams[side][i] = socket(AF_INET, SOCK_STREAM, 0);
        if (streams[side][i] < 0) die("socket");
        reset_at_close(streams[side][i]);
      }
    }
    for (int i = 0; i < 2 * BATCH; i++) {
      /* Who comes first alternates as well. */
      int side = (i ^ (i >> 1)) & 1;
      uint64_t before = now_ns();
      if (connect(streams[side][i / 2], address, end.bytes) != 0) die("connect");
      add_sample(&tcp, side, now_ns() - before);
    }
    for (int i = 0; i < 2 * BATCH; i++) {
      int side = (i ^ (i >> 1)) & 1;
      uint64_t before = now_ns();
      for (int call = 0; call < 64; call++) {
        if (connect(datagrams[side], address, end.bytes) != 0) die("connect");
      }
      add_sample(&udp, side, (now_ns() - before) / 64);
    }
    for (int side = 0; side < 2; side++) {
      close(datagrams[side]);
      for (int i = 0; i < BATCH; i++) close(streams[side][i]);
    }
    for (int i = 0; i < 2 * BATCH; i++) close(accept(listener, NULL, NULL));
  }
  printf("{");
  print_comparison("udp", &udp);
  printf(",");
  print_comparison("tcp", &tcp);
  printf("}\n");
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  if (!strcmp(mode, "echo") && argc == 4) {
    size_t bytes = (size_t)atoi(argv[3]);
    if (bytes > 0 && bytes <= MESSAGE_BYTES_MAX) run_echo(atoi(argv[2]), bytes);
  } else if (!strcmp(mode, "hang-up") && argc == 3) {
    run_hang_up(atoi(argv[2]));
  } else if (!strcmp(mode, "ping") && argc == 6) {
    struct endpoint end = endpoint_of(argv[2], atoi(argv[3]));
    size_t bytes = (size_t)atoi(argv[4]);
    if (bytes > 0 && bytes <= MESSAGE_BYTES_MAX) run_ping(&end, bytes, atof(argv[5]));
    return 0;
  } else if (!strcmp(mode, "connect") && argc == 5) {
    struct endpoint end = endpoint_of(argv[2], atoi(argv[3]));
    run_connect(&end, atof(argv[4]));
    return 0;
  } else if (!strcmp(mode, "cost") && argc == 5) {
    run_cost((const char* const[2]){argv[2], argv[3]}, atof(argv[4]));
    return 0;
  }
  fprintf(stderr, "usage: traffic echo|hang-up|ping|connect|cost ... (see the head of traffic.c)\n");
  return 2;
}
