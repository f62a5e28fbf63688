/**
 * The key of the WebSocket handshake (RFC 6455 section 4.2.2), for handshakes that change between HTTP/1, which has it,
 * and HTTP/2, which has not. It proves that a server understood the request; it is no secret and protects none.
 *
 * SHA-1 is written out here because this layer has no dependency; it runs once per WebSocket.
 */
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** Sixteen random bytes in base 64. */
export function newWebSocketKey(): string {
  const bytes = Buffer.alloc(16)
  for (let i = 0; i < 16; i++) bytes[i] = Math.random() * 256
  return bytes.toString('base64')
}

/** The `sec-websocket-accept` of a key. */
export function acceptOf(key: string): string {
  return sha1(Buffer.from(key + GUID, 'latin1')).toString('base64')
}

function sha1(message: Buffer): Buffer {
  const padded = Buffer.alloc((((message.length + 8) >>> 6) + 1) << 6)
  message.copy(padded)
  padded[message.length] = 0x80
  padded.writeUInt32BE(message.length * 8, padded.length - 4)
  const state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0]
  const words = new Int32Array(80)
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) words[i] = padded.readInt32BE(block + i * 4)
    for (let i = 16; i < 80; i++) {
      words[i] = rotate(words[i - 3]! ^ words[i - 8]! ^ words[i - 14]! ^ words[i - 16]!, 1)
    }
    addBlock(state, words)
  }
  const digest = Buffer.alloc(20)
  for (let i = 0; i < 5; i++) digest.writeUInt32BE(state[i]! >>> 0, i * 4)
  return digest
}

function addBlock(state: number[], words: Int32Array): void {
  let [a, b, c, d, e] = state as [number, number, number, number, number]
  for (let i = 0; i < 80; i++) {
    const next = (rotate(a, 5) + mix(i, b, c, d) + e + words[i]!) | 0
    e = d
    d = c
    c = rotate(b, 30)
    b = a
    a = next
  }
  const added = [a, b, c, d, e]
  for (let i = 0; i < 5; i++) state[i] = (state[i]! + added[i]!) | 0
}

function mix(round: number, b: number, c: number, d: number): number {
  if (round < 20) return ((b & c) | (~b & d)) + 0x5a827999
  if (round < 40) return (b ^ c ^ d) + 0x6ed9eba1
  if (round < 60) return ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
  return (b ^ c ^ d) + 0xca62c1d6
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits))
}
