/*
 * What the agent has written down for the time when it does not answer: the namespaces of the mesh, and what
 * is to become of their pods. It outlives the agent and a restart of the machine.
 */
#ifndef WEFT_CNI_NAMESPACES_H
#define WEFT_CNI_NAMESPACES_H

/* Bytes of the file: 50,000 namespaces with the longest names. */
#define NAMESPACES_BYTES_MAX 4194304

enum membership {
  MEMBERSHIP_NONE,
  /* Its pods may start unmeshed. */
  MEMBERSHIP_OPEN,
  MEMBERSHIP_CLOSED,
  /* The file is there, and is not what an agent writes: nobody can say who is in the mesh. */
  MEMBERSHIP_UNKNOWN,
};

/* Of a file that is not there: nobody has ever been in the mesh. */
enum membership membership_of(const char* path, const char* name);

#endif
