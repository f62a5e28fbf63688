/*
 * Test client: does to one UDP socket what resolver libraries may do, step by step, and prints one line per
 * step.
 *
 *      datagram-client 4|6 STEP...
 *
 * Steps: connect ADDRESS PORT | disconnect | bind ADDRESS PORT | bind-device NAME | send TEXT |
 * sendto ADDRESS PORT TEXT | sendmmsg ADDRESS PORT TEXT ADDRESS PORT TEXT | send-by NAME ADDRESS PORT TEXT
 * (the interface in the packet information) | burst ADDRESS PORT COUNT BYTES (numbered, and filled up to that
 * many bytes) | recv | peek | recvmmsg (two) | names | wait (for a line on standard input) | hop (a new
 * socket)
 */
#include <net/if.h>
#include <sys/time.h>
#include <unistd.h>

#include "steps.h"

static void open_socket(void) {
  fd = socket(family, SOCK_DGRAM, 0);
  /* Only a failing test waits so long. */
  struct timeval patience = {5, 0};
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0) exit(3);
}

static void print_names(void) {
  struct sockaddr_storage end;
  socklen_t length = sizeof(end);
  printf("names");
  if (getsockname(fd, (struct sockaddr*)&end, &length) == 0) print_end("local", &end, ' ');
  length = sizeof(end);
  if (getpeername(fd, (struct sockaddr*)&end, &length) == 0) print_end("remote", &end, ' ');
  printf("\n");
  fflush(stdout);
}

static void receive(const char* step, int flags) {
  char bytes[2048];
  struct sockaddr_storage from;
  socklen_t length = sizeof(from);
  ssize_t got = recvfrom(fd, bytes, sizeof(bytes), flags, (struct sockaddr*)&from, &length);
  if (got < 0) {
    report(step, -1);
    return;
  }
  printf("%s", step);
  print_end("from", &from, ' ');
  printf(" %.*s\n", (int)got, bytes);
  fflush(stdout);
}

static void receive_two(void) {
  char bytes[2][2048];
  struct sockaddr_storage from[2];
  struct iovec parts[2];
  struct mmsghdr messages[2];
  memset(messages, 0, sizeof(messages));
  for (int i = 0; i < 2; i++) {
    parts[i] = (struct iovec){bytes[i], sizeof(bytes[i])};
    messages[i].msg_hdr.msg_name = &from[i];
    messages[i].msg_hdr.msg_namelen = sizeof(from[i]);
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  int count = recvmmsg(fd, messages, 2, 0, NULL);
  if (count < 0) report("recvmmsg", -1);
  for (int i = 0; i < count; i++) {
    printf("recvmmsg");
    print_end("from", &from[i], ' ');
    printf(" %.*s\n", (int)messages[i].msg_len, bytes[i]);
  }
  fflush(stdout);
}

static void send_two(char** arguments) {
  struct sockaddr_storage to[2];
  struct iovec parts[2];
  struct mmsghdr messages[2];
  memset(messages, 0, sizeof(messages));
  for (int i = 0; i < 2; i++) {
    messages[i].msg_hdr.msg_name = &to[i];
    messages[i].msg_hdr.msg_namelen = parse(arguments[3 * i], arguments[3 * i + 1], &to[i]);
    parts[i] = (struct iovec){arguments[3 * i + 2], strlen(arguments[3 * i + 2])};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  report("sendmmsg", sendmmsg(fd, messages, 2, 0) == 2 ? 0 : -1);
}

static void send_by(const char* name, const char* address, const char* port, char* text) {
  struct sockaddr_storage to;
  struct iovec part = {text, strlen(text)};
  char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
  struct msghdr message = {.msg_name = &to,
                           .msg_namelen = parse(address, port, &to),
                           .msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = IPPROTO_IP;
  header->cmsg_type = IP_PKTINFO;
  header->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
  struct in_pktinfo chosen = {.ipi_ifindex = (int)if_nametoindex(name)};
  memcpy(CMSG_DATA(header), &chosen, sizeof(chosen));
  report("send-by", sendmsg(fd, &message, 0));
}

static void burst(const char* address, const char* port, int count, size_t size) {
  static char bytes[65507];
  struct sockaddr_storage to;
  socklen_t length = parse(address, port, &to);
  if (size > sizeof(bytes)) exit(2);
  memset(bytes, '.', sizeof(bytes));
  int sent = 0;
  for (int i = 0; i < count; i++) {
    int digits = snprintf(bytes, sizeof(bytes), "%d", i);
    bytes[digits] = '.';
    if (sendto(fd, bytes, size, 0, (struct sockaddr*)&to, length) == (ssize_t)size) sent++;
  }
  printf("burst %d\n", sent);
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  family = strcmp(argv[1], "6") == 0 ? AF_INET6 : AF_INET;
  open_socket();
  struct sockaddr_storage address;
  for (int i = 2; i < argc; i++) {
    const char* step = argv[i];
    int left = argc - i - 1;
    if (strcmp(step, "connect") == 0 && left >= 2) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      report(step, connect(fd, (struct sockaddr*)&address, length));
      i += 2;
    } else if (strcmp(step, "disconnect") == 0) {
      struct sockaddr none = {.sa_family = AF_UNSPEC};
      report(step, connect(fd, &none, sizeof(none)));
    } else if (strcmp(step, "bind") == 0 && left >= 2) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      report(step, bind(fd, (struct sockaddr*)&address, length));
      i += 2;
    } else if (strcmp(step, "bind-device") == 0 && left >= 1) {
      report(step, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, argv[i + 1], (socklen_t)strlen(argv[i + 1])));
      i++;
    } else if (strcmp(step, "send") == 0 && left >= 1) {
      report(step, send(fd, argv[i + 1], strlen(argv[i + 1]), 0));
      i++;
    } else if (strcmp(step, "sendto") == 0 && left >= 3) {
      socklen_t length = parse(argv[i + 1], argv[i + 2], &address);
      report(step, sendto(fd, argv[i + 3], strlen(argv[i + 3]), 0, (struct sockaddr*)&address, length));
      i += 3;
    } else if (strcmp(step, "sendmmsg") == 0 && left >= 6) {
      send_two(&argv[i + 1]);
      i += 6;
    } else if (strcmp(step, "send-by") == 0 && left >= 4) {
      send_by(argv[i + 1], argv[i + 2], argv[i + 3], argv[i + 4]);
      i += 4;
    } else if (strcmp(step, "burst") == 0 && left >= 4) {
      burst(argv[i + 1], argv[i + 2], atoi(argv[i + 3]), (size_t)atoi(argv[i + 4]));
      i += 4;
    } else if (strcmp(step, "recv") == 0) {
      receive(step, 0);
    } else if (strcmp(step, "peek") == 0) {
      receive(step, MSG_PEEK);
    } else if (strcmp(step, "recvmmsg") == 0) {
      receive_two();
    } else if (strcmp(step, "names") == 0) {
      print_names();
    } else if (strcmp(step, "hop") == 0) {
      close(fd);
      open_socket();
    } else if (strcmp(step, "wait") == 0) {
      printf("wait\n");
      fflush(stdout);
      while (getchar() != '\n') {
      }
    } else {
      return 2;
    }
  }
  return 0;
}
