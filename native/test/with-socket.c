/*
 * Runs a program that inherits a bound, unconnected socket as descriptor 3, as nobody else's: what the
 * capture makes in a pod's netns and hands to a worker.
 *
 *      with-socket PROGRAM [ARGUMENT...]
 */
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define INHERITED 3

int main(int count, char** arguments) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (count < 2) return 2;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0) {
    perror("with-socket");
    return 1;
  }
  if (fd != INHERITED) {
    if (dup2(fd, INHERITED) < 0) return 1;
    close(fd);
  }
  execv(arguments[1], arguments + 1);
  perror(arguments[1]);
  return 1;
}
