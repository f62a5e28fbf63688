/* See scan.h. One pass, no allocation, every byte behind a bounds check. */
#include "scan.h"

#include <string.h>

struct scan {
  const char* at;
  const char* end;
  struct member* members;
  size_t count;
};

static int scan_value(struct scan* scan, int depth);

static void skip_space(struct scan* scan) {
  while (scan->at < scan->end &&
         (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r'))
    scan->at++;
}

static int take(struct scan* scan, char expected) {
  if (scan->at == scan->end || *scan->at != expected) return 0;
  scan->at++;
  return 1;
}

static int is_digit(const struct scan* scan) {
  return scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9';
}

static int is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The bytes after 128, of which a sequence of UTF-8 must have as many as its first byte says (RFC 3629). */
static int scan_utf8(struct scan* scan) {
  unsigned char first = (unsigned char)*scan->at++;
  int more = first >= 0xc2 && first <= 0xdf   ? 1
             : (first & 0xf0) == 0xe0         ? 2
             : first >= 0xf0 && first <= 0xf4 ? 3
                                              : 0;
  if (more == 0 || scan->end - scan->at < more) return 0;
  unsigned char second = (unsigned char)*scan->at;
  /* Longer than needed, surrogates, above U+10FFFF. */
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)) return 0;
  if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
  for (; more > 0; more--)
    if (((unsigned char)*scan->at++ & 0xc0) != 0x80) return 0;
  return 1;
}

static int scan_escape(struct scan* scan) {
  if (scan->at == scan->end) return 0;
  char c = *scan->at++;
  if (c != 'u') return c != '\0' && strchr("\"\\/bfnrt", c) != NULL;
  if (scan->end - scan->at < 4) return 0;
  for (int i = 0; i < 4; i++)
    if (!is_hex(*scan->at++)) return 0;
  return 1;
}

static int scan_string(struct scan* scan) {
  if (!take(scan, '"')) return 0;
  while (scan->at < scan->end) {
    unsigned char c = (unsigned char)*scan->at;
    if (c < 0x20) return 0;
    if (c >= 0x80) {
      if (!scan_utf8(scan)) return 0;
      continue;
    }
    scan->at++;
    if (c == '"') return 1;
    if (c == '\\' && !scan_escape(scan)) return 0;
  }
  return 0;
}

static int scan_digits(struct scan* scan) {
  if (!is_digit(scan)) return 0;
  while (is_digit(scan)) scan->at++;
  return 1;
}

static int scan_number(struct scan* scan) {
  take(scan, '-');
  /* A zero in front of other digits is none. */
  if (!take(scan, '0') && !scan_digits(scan)) return 0;
  if (take(scan, '.') && !scan_digits(scan)) return 0;
  if (take(scan, 'e') || take(scan, 'E')) {
    if (!take(scan, '+')) take(scan, '-');
    return scan_digits(scan);
  }
  return 1;
}

static int scan_word(struct scan* scan, const char* word) {
  size_t length = strlen(word);
  if ((size_t)(scan->end - scan->at) < length || memcmp(scan->at, word, length) != 0) return 0;
  scan->at += length;
  return 1;
}

static int scan_array(struct scan* scan, int depth) {
  if (!take(scan, '[')) return 0;
  skip_space(scan);
  if (take(scan, ']')) return 1;
  for (;;) {
    if (!scan_value(scan, depth)) return 0;
    if (take(scan, ']')) return 1;
    if (!take(scan, ',')) return 0;
  }
}

/* The member of that name (quotes included) that is wanted, or NULL. */
static struct member* find_member(const struct scan* scan, const char* name, size_t length) {
  for (size_t i = 0; i < scan->count; i++) {
    struct member* member = &scan->members[i];
    if (strlen(member->name) + 2 == length && memcmp(member->name, name + 1, length - 2) == 0) return member;
  }
  return NULL;
}

static int scan_members(struct scan* scan, int depth) {
  if (!take(scan, '{')) return 0;
  skip_space(scan);
  if (take(scan, '}')) return 1;
  for (;;) {
    skip_space(scan);
    const char* name = scan->at;
    if (!scan_string(scan)) return 0;
    size_t name_length = (size_t)(scan->at - name);
    /* An escape could spell a wanted name in a way that is not compared here. */
    if (depth == 1 && memchr(name, '\\', name_length)) return 0;
    skip_space(scan);
    if (!take(scan, ':')) return 0;
    skip_space(scan);
    const char* value = scan->at;
    if (!scan_value(scan, depth)) return 0;
    struct member* member = depth == 1 ? find_member(scan, name, name_length) : NULL;
    if (member) {
      if (member->value.length != 0) return 0;
      const char* end = scan->at;
      while (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\n' || end[-1] == '\r') end--;
      member->value = (struct span){.start = value, .length = (size_t)(end - value)};
    }
    if (take(scan, '}')) return 1;
    if (!take(scan, ',')) return 0;
  }
}

/* With the space on both sides of it. */
static int scan_value(struct scan* scan, int depth) {
  if (depth >= SCAN_DEPTH_MAX) return 0;
  skip_space(scan);
  if (scan->at == scan->end) return 0;
  int is_good;
  switch (*scan->at) {
    case '{':
      is_good = scan_members(scan, depth + 1);
      break;
    case '[':
      is_good = scan_array(scan, depth + 1);
      break;
    case '"':
      is_good = scan_string(scan);
      break;
    case 't':
      is_good = scan_word(scan, "true");
      break;
    case 'f':
      is_good = scan_word(scan, "false");
      break;
    case 'n':
      is_good = scan_word(scan, "null");
      break;
    default:
      is_good = scan_number(scan);
  }
  skip_space(scan);
  return is_good;
}

int scan_object(const char* text, size_t length, struct member* members, size_t count) {
  struct scan scan = {.at = text, .end = text + length, .members = members, .count = count};
  for (size_t i = 0; i < count; i++) members[i].value = (struct span){.start = text, .length = 0};
  skip_space(&scan);
  if (scan.at == scan.end || *scan.at != '{') return 0;
  return scan_value(&scan, 0) && scan.at == scan.end;
}

int copy_text(struct span value, char* target, size_t size) {
  if (value.length < 2 || value.start[0] != '"' || value.length - 2 >= size) return 0;
  for (size_t i = 1; i < value.length - 1; i++) {
    char c = value.start[i];
    if (c < 0x20 || c > 0x7e || c == '\\') return 0;
  }
  memcpy(target, value.start + 1, value.length - 2);
  target[value.length - 2] = '\0';
  return 1;
}
