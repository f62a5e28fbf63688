// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Header fields that a proxy adds to many messages as they are: made once, checked once, and written as one run of
 * bytes. A header list refers to them and copies nothing, so that they cost a message no memory (see headers.ts).
 */
import { FIELD_VALUE, latin1Bytes, TOKEN_LOWER } from '../base/bytes.ts'
import { WeftError } from '../base/errors.ts'

/** Joined lists that are remembered. 4: apps say the protocol or do not, and are told a time or are not. */
const JOINED_MAX = 4

/** Fields in their order; a name may come twice. */
export class ConstantFields {
  /** Name (lower case), value, name, value. Never changed. */
  readonly texts: readonly string[]
  /** The same as lines of HTTP/1. */
  readonly bytes: Uint8Array
  /** What `after` joined, and with what: connections join the same few again and again. */
  private readonly befores: ConstantFields[]
  private readonly joined: ConstantFields[]

  /** Throws WeftError WEFT_PROTOCOL when a field could not stand on the wire as it is. */
  constructor(texts: readonly string[]) {
    let lines = ''
    for (let i = 0; i < texts.length; i += 2) {
      checkField(texts[i]!, texts[i + 1]!)
      lines += `${texts[i]}: ${texts[i + 1]}\r\n`
    }
    this.texts = texts
    this.bytes = latin1Bytes(lines)
    this.befores = []
    this.joined = []
  }

  /** Where `name` stands in `texts`, at or behind the even index `from`; -1 when it does not. */
  indexOf(name: string, from = 0): number {
    const texts = this.texts
    for (let i = from; i < texts.length; i += 2) if (texts[i] === name) return i
    return -1
  }

  /** Those of `before`, and then these. */
  after(before: ConstantFields): ConstantFields {
    const { befores } = this
    for (let i = 0; i < befores.length; i++) if (befores[i] === before) return this.joined[i]!
    if (befores.length === JOINED_MAX) {
      befores.length = 0
      this.joined.length = 0
    }
    const joined = new ConstantFields(before.texts.concat(this.texts))
    befores.push(before)
    this.joined.push(joined)
    return joined
  }
}

function checkField(name: string, value: string): void {
  let isGood = name !== '' && value.trim() === value
  for (let i = 0; i < name.length; i++) if (TOKEN_LOWER[name.charCodeAt(i)] !== name.charCodeAt(i)) isGood = false
  for (let i = 0; i < value.length; i++) if (!FIELD_VALUE[value.charCodeAt(i)]) isGood = false
  if (isGood) return
  throw new WeftError('WEFT_PROTOCOL', `header ${JSON.stringify(name)} cannot be sent: its name or value is malformed`)
}
