/*
 * UDP for tests of the meter.
 *
 *      receive PORT DATAGRAMS                    prints "listening", then "datagrams N bytes N damaged N"
 *      send ADDRESS PORT BYTES COUNT SEGMENT     COUNT calls of BYTES each; with SEGMENT above 0 the kernel
 * cuts each into datagrams of that size (UDP_SEGMENT)
 *
 * Byte i of every datagram is i modulo 251.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/* No datagram is longer. */
#define BYTES_MAX 65535

static int fail(const char* what) {
  perror(what);
  return 1;
}

static int receive_all(int port, long count) {
  int fd = socket(AF_INET6, SOCK_DGRAM, 0), buffer = 8 * 1024 * 1024;
  struct timeval patience = {.tv_sec = 5};
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
  if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0) return fail("bind");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
  printf("listening\n");
  fflush(stdout);
  static unsigned char bytes[BYTES_MAX];
  long datagrams = 0, total = 0, damaged = 0;
  for (; datagrams < count; datagrams++) {
    ssize_t length = recv(fd, bytes, sizeof(bytes), 0);
    if (length < 0) break;
    total += length;
    int is_damaged = 0;
    for (ssize_t i = 0; i < length; i++) is_damaged |= bytes[i] != i % 251;
    damaged += is_damaged;
  }
  printf("datagrams %ld bytes %ld damaged %ld\n", datagrams, total, damaged);
  return 0;
}

static int send_all(const char* to, int port, size_t length, long count, int segment) {
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int is_v4 = inet_pton(AF_INET, to, &v4.sin_addr) == 1;
  if (length > BYTES_MAX || (!is_v4 && inet_pton(AF_INET6, to, &v6.sin6_addr) != 1)) return fail("address");
  int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
  if (fd < 0) return fail("socket");
  if (segment > 0 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)) != 0)
    return fail("UDP_SEGMENT");
  static unsigned char bytes[BYTES_MAX];
  for (size_t i = 0; i < length; i++)
    bytes[i] = (unsigned char)((segment > 0 ? i % (size_t)segment : i) % 251);
  for (long i = 0; i < count; i++) {
    const struct sockaddr* address = is_v4 ? (struct sockaddr*)&v4 : (struct sockaddr*)&v6;
    if (sendto(fd, bytes, length, 0, address, is_v4 ? sizeof(v4) : sizeof(v6)) < 0) return fail("sendto");
    /* The receiver's buffer is finite. */
    if (i % 64 == 63) usleep(1000);
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 4 && !strcmp(argv[1], "receive")) return receive_all(atoi(argv[2]), atol(argv[3]));
  if (argc == 7 && !strcmp(argv[1], "send"))
    return send_all(argv[2], atoi(argv[3]), (size_t)atol(argv[4]), atol(argv[5]), atoi(argv[6]));
  fprintf(stderr, "usage: udp-talk receive PORT DATAGRAMS | send ADDRESS PORT BYTES COUNT SEGMENT\n");
  return 2;
}
