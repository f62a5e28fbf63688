/*
 * A strict look at a JSON object (RFC 8259): checks all of it, keeps nothing, and says where the values of a
 * few members of the outermost object stand. Anything on which two parsers could disagree is refused.
 */
#ifndef WEFT_CNI_SCAN_H
#define WEFT_CNI_SCAN_H

#include <stddef.h>

/* Of arrays and objects in each other. Results of plugins have five; a limit keeps the stack bounded. */
#define SCAN_DEPTH_MAX 64

/* Bytes in the text that was scanned; `length` is 0 when the member is not there. */
struct span {
  const char* start;
  size_t length;
};

struct member {
  const char* name;
  struct span value;
};

/*
 * True when `text` is one object and nothing else. Sets the values of `members`, each from its first to its
 * last byte. A member that is wanted and comes twice makes the whole object refused.
 */
int scan_object(const char* text, size_t length, struct member* members, size_t count);

/*
 * Copies a value that is a string of printable ASCII without escapes, and ends it with a 0. False when it is
 * anything else, or does not fit.
 */
int copy_text(struct span value, char* target, size_t size);

#endif
