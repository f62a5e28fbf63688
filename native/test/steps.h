/* What the test clients for TCP and UDP have in common: they do steps on one socket, and tell how each went.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Of the socket, and of the addresses in steps. */
static int family;
static int fd;

/* A line: the step, and `ok` or the name of the error. */
static void report(const char* step, long result) {
  if (result < 0)
    printf("%s %s\n", step, strerrorname_np(errno));
  else
    printf("%s ok\n", step);
  fflush(stdout);
}

static socklen_t parse(const char* address, const char* port, struct sockaddr_storage* out) {
  memset(out, 0, sizeof(*out));
  out->ss_family = (sa_family_t)family;
  if (family == AF_INET6) {
    struct sockaddr_in6* in6 = (struct sockaddr_in6*)out;
    in6->sin6_port = htons((uint16_t)atoi(port));
    if (inet_pton(AF_INET6, address, &in6->sin6_addr) != 1) exit(2);
    return sizeof(*in6);
  }
  struct sockaddr_in* in = (struct sockaddr_in*)out;
  in->sin_port = htons((uint16_t)atoi(port));
  if (inet_pton(AF_INET, address, &in->sin_addr) != 1) exit(2);
  return sizeof(*in);
}

/* ` LABEL ADDRESS`, what is between, and the port. */
static void print_end(const char* label, const struct sockaddr_storage* end, char between) {
  char text[INET6_ADDRSTRLEN] = "?";
  const void* address = end->ss_family == AF_INET6
                            ? (const void*)&((const struct sockaddr_in6*)end)->sin6_addr
                            : (const void*)&((const struct sockaddr_in*)end)->sin_addr;
  inet_ntop(end->ss_family, address, text, sizeof(text));
  printf(" %s %s%c%d", label, text, between, ntohs(((const struct sockaddr_in*)end)->sin_port));
}
