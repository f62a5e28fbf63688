/*
 * Test client: does to one TCP socket what applications may do, step by step, and prints one line per step.
 *
 *      test-client 4|6|mptcp STEP...
 *
 * Steps: connect ADDRESS PORT | fastopen ADDRESS PORT | disconnect | bind ADDRESS | bind-device NAME |
 * transparent | attempts ADDRESS PORT COUNT (each with a socket of its own; prints how many failed) |
 * set-mark NUMBER | mark | read | write TEXT | wait (for a line on standard input) | unprivileged
 */
#include <grp.h>
#include <unistd.h>

#include "steps.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static void print_name(const char* label, int (*name)(int, struct sockaddr*, socklen_t*)) {
  struct sockaddr_storage found;
  socklen_t length = sizeof(found);
  if (name(fd, (struct sockaddr*)&found, &length) == 0) print_end(label, &found, ':');
}

static void on_connected(const char* step, long result) {
  if (result < 0) {
    report(step, -1);
    return;
  }
  printf("%s ok", step);
  print_name("local", getsockname);
  print_name("remote", getpeername);
  printf("\n");
  fflush(stdout);
}

static void read_line(void) {
  char line[512];
  size_t length = 0;
  while (length < sizeof(line) - 1) {
    ssize_t got = read(fd, line + length, 1);
    if (got < 0) {
      report("read", -1);
      return;
    }
    if (got == 0 || line[length] == '\n') break;
    length++;
  }
  line[length] = 0;
  printf("read %s\n", length == 0 ? "END" : line);
  fflush(stdout);
}

static int attempts(const struct sockaddr* address, socklen_t length, int count) {
  int failed = 0;
  for (int i = 0; i < count; i++) {
    int other = socket(family, SOCK_STREAM, 0);
    if (connect(other, address, length) != 0) failed++;
    close(other);
  }
  return failed;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  family = strcmp(argv[1], "6") == 0 ? AF_INET6 : AF_INET;
  fd = socket(family, SOCK_STREAM, strcmp(argv[1], "mptcp") == 0 ? IPPROTO_MPTCP : 0);
  if (fd < 0) return 2;
  for (int i = 2; i < argc; i++) {
    const char* step = argv[i];
    struct sockaddr_storage address;
    if (strcmp(step, "connect") == 0) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      on_connected(step, connect(fd, (struct sockaddr*)&address, length));
      i += 2;
    } else if (strcmp(step, "fastopen") == 0) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      on_connected(step, sendto(fd, "x\n", 2, MSG_FASTOPEN, (struct sockaddr*)&address, length));
      i += 2;
    } else if (strcmp(step, "attempts") == 0) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      printf("attempts failed %d\n", attempts((struct sockaddr*)&address, length, atoi(argv[i + 3])));
      fflush(stdout);
      i += 3;
    } else if (strcmp(step, "disconnect") == 0) {
      struct sockaddr nothing = {.sa_family = AF_UNSPEC};
      report(step, connect(fd, &nothing, sizeof(nothing)));
    } else if (strcmp(step, "bind") == 0) {
      socklen_t length = parse(argv[++i], "0", &address);
      report(step, bind(fd, (struct sockaddr*)&address, length));
    } else if (strcmp(step, "transparent") == 0) {
      /* bind() takes any address from now on. */
      int on = 1;
      report(step, family == AF_INET6 ? setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof(on))
                                      : setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof(on)));
    } else if (strcmp(step, "bind-device") == 0) {
      const char* name = argv[++i];
      report(step, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)));
    } else if (strcmp(step, "set-mark") == 0) {
      unsigned mark = (unsigned)strtoul(argv[++i], NULL, 0);
      report(step, setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)));
    } else if (strcmp(step, "mark") == 0) {
      unsigned mark = 0;
      socklen_t length = sizeof(mark);
      getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &length);
      printf("mark %u\n", mark);
      fflush(stdout);
    } else if (strcmp(step, "read") == 0) {
      read_line();
    } else if (strcmp(step, "write") == 0) {
      dprintf(fd, "%s\n", argv[++i]);
      report(step, 0);
    } else if (strcmp(step, "wait") == 0) {
      while (getchar() != '\n') {
        if (feof(stdin)) return 3;
      }
    } else if (strcmp(step, "unprivileged") == 0) {
      if (setgroups(0, NULL) != 0 || setgid(65534) != 0) return 2;
      report(step, setuid(65534));
    } else {
      fprintf(stderr, "test-client: unknown step %s\n", step);
      return 2;
    }
  }
  return 0;
}
