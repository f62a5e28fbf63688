/**
 * Resources of the control protocol. Byte 0 is the type, byte 1 the length of the name, then name and content. Decoding
 * either gives a resource that is encoded and decoded again to the same, or throws WeftError, never anything else.
 */
import assert from 'node:assert/strict'
import { WeftError } from '../../../src/base/errors.ts'
import { RESOURCE_TYPES } from '../../../src/wire/discovery.ts'
import {
  decodeResource,
  type EncodedResource,
  encodeNamespace,
  encodePod,
  encodePolicy,
  encodeService,
  encodeTraffic,
  encodeWorkload,
  type Resource,
} from '../../../src/wire/mesh-codec.ts'
import { RandomModel } from '../../support/random-model.ts'
import { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, concat, type Target } from '../target.ts'

/** Random objects of each kind to begin with. */
const SEEDS_PER_KIND = 12

function encode(resource: Resource): EncodedResource {
  switch (resource.kind) {
    case 'workload':
      return encodeWorkload(resource.value)
    case 'service':
      return encodeService(resource.value)
    case 'policy':
      return encodePolicy(resource.value)
    case 'traffic':
      return encodeTraffic(resource.value)
    case 'pod':
      return encodePod(resource.value)
    case 'namespace':
      return encodeNamespace(resource.value)
  }
}

function inputOf({ typeUrl, name, bytes }: EncodedResource): Uint8Array {
  const text = bytesOf(name)
  return concat(new Uint8Array([0x40 + RESOURCE_TYPES.indexOf(typeUrl), text.length]), text, bytes)
}

function run(input: Uint8Array): string {
  const typeUrl = RESOURCE_TYPES[((input[0] ?? 0) & 0x3f) % RESOURCE_TYPES.length]!
  const nameEnd = Math.min(input.length, 2 + (input[1] ?? 0))
  const sentName = Buffer.from(input.subarray(2, nameEnd)).toString('latin1')
  // A Buffer, as gRPC hands it over: protobufjs reads text in it by Node's decoder.
  const bytes = Buffer.from(input.subarray(nameEnd))
  let resource: Resource
  try {
    resource = decodeByItsName(typeUrl, sentName, bytes)
  } catch (error) {
    if (!(error instanceof WeftError)) throw error
    assert.equal(error.code, 'WEFT_RESOURCE')
    assert.ok(error.message.length < 1_000, 'a message of any length')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
    assert.doesNotMatch(error.message, /[\x00-\x08\x0a-\x1f]/, 'control characters in a message')
    return error.message.replace(/"(?:[^"\\]|\\.)*"|[0-9-]+/g, '#').slice(0, 80)
  }
  const encoded = encode(resource)
  assert.deepEqual(decodeResource(encoded.typeUrl, encoded.name, encoded.bytes), resource)
  return `${resource.kind} ${encoded.typeUrl === typeUrl}`
}

/** Names of damaged resources rarely fit: those that only have another name are decoded under it. */
function decodeByItsName(typeUrl: (typeof RESOURCE_TYPES)[number], name: string, bytes: Uint8Array): Resource {
  try {
    return decodeResource(typeUrl, name, bytes)
  } catch (error) {
    const other = error instanceof Error ? / holds another: [a-z]+ ("(?:[^"\\]|\\.)*")$/.exec(error.message) : null
    if (other === null || other[1]!.endsWith('..."')) throw error
    return decodeResource(typeUrl, JSON.parse(other[1]!) as string, bytes)
  }
}

function modelSeeds(): Uint8Array[] {
  const model = new RandomModel(new SeededRandom(5))
  const makers: (() => EncodedResource)[] = [
    () => encodeWorkload(model.workload()),
    () => encodeService(model.service()),
    () => encodePolicy(model.policy(true)),
    () => encodePolicy(model.policy(false)),
    () => encodeTraffic(model.traffic()),
    () => encodePod(model.pod()),
    () => encodeNamespace({ name: model.pod().scope, failureMode: model.pod().failureMode }),
  ]
  return makers.flatMap((make) => Array.from({ length: SEEDS_PER_KIND }, () => inputOf(make())))
}

export const target: Target = {
  sources: [
    'src/wire/address-codec.ts',
    'src/wire/checks.ts',
    'src/wire/mesh-codec.ts',
    'src/wire/policy-codec.ts',
    'src/wire/traffic-codec.ts',
  ],
  bytesMax: 20_000,
  testIterations: 4_000,
  // biome-ignore format: a dense table
  tokens: [
    '\x0a\x00', '\x08\x01', '\x12\x02ab', '\x1a\x04\x0a\x02\x08\x01', '\xff\xff\xff\xff\x0f', '\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01', '\x80\x80\x80\x80\x08',
    '\x0a\x04\x7f\x00\x00\x01', '\x0a\x10\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01', '\x10\x20', '\x10\x81\x01', '10.0.0.0/8', '::1', '*', '\xe2\x98\xba', '\xff',
    'shop/web.shop.svc.cluster.local', '(a+)+', '(', '\r\n', '\0', '\x0b', '\x0c',
  ].map(bytesOf),
  seeds: modelSeeds,
  run,
  mutate: null,
}
