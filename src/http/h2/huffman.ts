// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Huffman decoding of HPACK strings (RFC 7541 section 5.2 and appendix B).
 *
 * The code is canonical: the lengths alone determine it. At start they are turned into a state machine that reads four
 * bits at a time; no code is shorter than five bits, so a step yields at most one byte. We never encode with Huffman:
 * inside a data centre the saved bytes are worth less than the time.
 */

/** Code lengths in bits of the bytes 0..255 and, last, of the end-of-string symbol. Runs are [length, count]. */
// biome-ignore format: a table
const LENGTH_RUNS: readonly number[] = [
  13, 1, 23, 1, 28, 7, 24, 1, 30, 1, 28, 2, 30, 1, 28, 8, 30, 1, 28, 9, // 0..31
  6, 1, 10, 2, 12, 1, 13, 1, 6, 1, 8, 1, 11, 1, 10, 2, 8, 1, 11, 1, 8, 1, 6, 3, // 32..47 space to slash
  5, 3, 6, 7, 7, 1, 8, 1, 15, 1, 6, 1, 12, 1, 10, 1, // 48..63 digits : ; < = > ?
  13, 1, 6, 1, 7, 22, 8, 1, 7, 1, 8, 1, 13, 1, 19, 1, 13, 1, 14, 1, 6, 1, // 64..95 @ A-Z [ \ ] ^ _
  15, 1, 5, 1, 6, 1, 5, 1, 6, 1, 5, 1, 6, 3, 5, 1, 7, 2, 6, 3, 5, 1, 6, 1, 7, 1, 6, 1, 5, 2, 6, 1, 7, 5, // 96..122
  15, 1, 11, 1, 14, 1, 13, 1, 28, 1, // 123..127
  20, 1, 22, 1, 20, 2, 22, 3, 23, 1, 22, 1, 23, 5, 24, 1, 23, 1, // 128..143
  24, 2, 22, 1, 23, 1, 24, 1, 23, 4, 21, 1, 22, 1, 23, 1, 22, 1, 23, 2, 24, 1, // 144..159
  22, 1, 21, 1, 20, 1, 22, 2, 23, 2, 21, 1, 23, 1, 22, 2, 24, 1, 21, 1, 22, 1, 23, 2, // 160..175
  21, 2, 22, 1, 21, 1, 23, 1, 22, 1, 23, 2, 20, 1, 22, 3, 23, 1, 22, 2, 23, 1, // 176..191
  26, 2, 20, 1, 19, 1, 22, 1, 23, 1, 22, 1, 25, 1, 26, 3, 27, 2, 26, 1, 24, 1, 25, 1, // 192..207
  19, 1, 21, 1, 26, 1, 27, 2, 26, 1, 27, 1, 24, 1, 21, 2, 26, 2, 28, 1, 27, 3, // 208..223
  20, 1, 24, 1, 20, 1, 21, 1, 22, 1, 21, 2, 23, 1, 22, 2, 25, 2, 24, 2, 26, 1, 23, 1, // 224..239
  26, 1, 27, 1, 26, 2, 27, 5, 28, 1, 27, 5, 26, 1, 30, 1, // 240..256
]

const SYMBOL_END_OF_STRING = 256
/** States are the inner nodes of the code tree; a complete tree of 257 leaves has 256. */
const STATES = 256
/** Values of `emits` beside a byte. */
const EMIT_NONE = -1
const EMIT_FAIL = -2

/** For state * 16 + nibble: where it leads, and the byte it completes. */
const nextStates = new Uint8Array(STATES * 16)
const emits = new Int16Array(STATES * 16)
/** 1 where a string may end: at most seven bits of padding, all ones (the beginning of the end-of-string code). */
const mayEnd = new Uint8Array(STATES)

buildStates()

/**
 * Decodes `bytes[offset..end)` into `target` from `targetOffset`. Returns the number of bytes written, or -1 when the
 * code is not valid. `target` must have room for 8/5 of the input.
 */
export function decodeHuffman(
  bytes: Uint8Array,
  offset: number,
  end: number,
  target: Uint8Array,
  targetOffset: number,
): number {
  let state = 0
  let at = targetOffset
  for (let i = offset; i < end; i++) {
    const byte = bytes[i]!
    let step = (state << 4) | (byte >>> 4)
    let emit = emits[step]!
    if (emit !== EMIT_NONE) {
      if (emit === EMIT_FAIL) return -1
      target[at++] = emit
    }
    step = (nextStates[step]! << 4) | (byte & 15)
    emit = emits[step]!
    if (emit !== EMIT_NONE) {
      if (emit === EMIT_FAIL) return -1
      target[at++] = emit
    }
    state = nextStates[step]!
  }
  return mayEnd[state] === 1 ? at - targetOffset : -1
}

function codeLengths(): number[] {
  const lengths: number[] = []
  for (let i = 0; i < LENGTH_RUNS.length; i += 2) {
    for (let count = LENGTH_RUNS[i + 1]!; count > 0; count--) lengths.push(LENGTH_RUNS[i]!)
  }
  return lengths
}

function canonicalCodes(): (readonly [number, number])[] {
  const lengths = codeLengths()
  const codes: (readonly [number, number])[] = []
  let code = 0
  for (let length = 1; length <= 30; length++) {
    code *= 2
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] === length) codes[symbol] = [code++, length]
    }
  }
  return codes
}

function buildStates(): void {
  // Two children per node; a negative child is the leaf of symbol -(child + 1), 0 is not yet there (the root is nobody's child).
  const children: [number, number][] = [[0, 0]]
  canonicalCodes().forEach(([code, length], symbol) => {
    let node = 0
    for (let bit = length - 1; bit > 0; bit--) {
      const side = (code >>> bit) & 1
      if (children[node]![side] === 0) children[node]![side] = children.push([0, 0]) - 1
      node = children[node]![side]!
    }
    children[node]![code & 1] = -(symbol + 1)
  })
  for (let state = 0; state < STATES; state++) {
    for (let nibble = 0; nibble < 16; nibble++) fillStep(children, state, nibble)
  }
  let node = 0
  for (let depth = 0; depth < 8; depth++) {
    mayEnd[node] = 1
    node = children[node]![1]!
  }
}

function fillStep(children: readonly [number, number][], state: number, nibble: number): void {
  let node = state
  let emit = EMIT_NONE
  for (let bit = 3; bit >= 0; bit--) {
    const child = children[node]![(nibble >>> bit) & 1]!
    if (child >= 0) {
      node = child
      continue
    }
    const symbol = -child - 1
    emit = symbol === SYMBOL_END_OF_STRING ? EMIT_FAIL : symbol
    if (emit === EMIT_FAIL) break
    node = 0
  }
  nextStates[(state << 4) | nibble] = node
  emits[(state << 4) | nibble] = emit
}
