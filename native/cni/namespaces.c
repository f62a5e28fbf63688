/* See namespaces.h. The file is "weft-cni 1", a line for each namespace ("NAME open" or "NAME closed"), and
 * "end". */
#include "namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char FIRST_LINE[] = "weft-cni 1";
static const char LAST_LINE[] = "end";

/* The text of the file, which the caller frees, or NULL. */
static char* read_file(int fd, size_t* length) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return NULL;
  if (status.st_size < 0 || status.st_size > NAMESPACES_BYTES_MAX) return NULL;
  char* text = malloc((size_t)status.st_size + 1);
  if (!text) return NULL;
  *length = 0;
  while (*length < (size_t)status.st_size) {
    ssize_t got = read(fd, text + *length, (size_t)status.st_size - *length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    *length += (size_t)got;
  }
  return text;
}

static int is_line(const char* line, size_t length, const char* expected) {
  return length == strlen(expected) && memcmp(line, expected, length) == 0;
}

static enum membership mode_of(const char* line, size_t length, size_t name_length) {
  const char* mode = line + name_length + 1;
  size_t mode_length = length - name_length - 1;
  if (is_line(mode, mode_length, "open")) return MEMBERSHIP_OPEN;
  return is_line(mode, mode_length, "closed") ? MEMBERSHIP_CLOSED : MEMBERSHIP_UNKNOWN;
}

static enum membership look_up(const char* text, size_t length, const char* name) {
  enum membership found = MEMBERSHIP_NONE;
  size_t name_length = strlen(name);
  int is_first = 1;
  for (size_t start = 0; start < length;) {
    const char* line = text + start;
    const char* end = memchr(line, '\n', length - start);
    if (!end) return MEMBERSHIP_UNKNOWN;
    size_t line_length = (size_t)(end - line);
    start += line_length + 1;
    if (is_first) {
      if (!is_line(line, line_length, FIRST_LINE)) return MEMBERSHIP_UNKNOWN;
      is_first = 0;
    } else if (is_line(line, line_length, LAST_LINE)) {
      return start == length ? found : MEMBERSHIP_UNKNOWN;
    } else if (line_length > name_length && line[name_length] == ' ' &&
               memcmp(line, name, name_length) == 0) {
      found = mode_of(line, line_length, name_length);
    }
  }
  return MEMBERSHIP_UNKNOWN;
}

enum membership membership_of(const char* path, const char* name) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno == ENOENT ? MEMBERSHIP_NONE : MEMBERSHIP_UNKNOWN;
  size_t length = 0;
  char* text = read_file(fd, &length);
  close(fd);
  enum membership membership = text ? look_up(text, length, name) : MEMBERSHIP_UNKNOWN;
  free(text);
  return membership;
}
