import assert from 'node:assert/strict'
import test from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { ACTION_ALLOW, EMPTY_POLICY_MATCH, type Policy, policyKey } from '../../src/model/policy.ts'
import { DEFAULT_RETRY, type Route, type Traffic } from '../../src/model/route.ts'
import { DEFAULT_POOL_LIMITS, type Service } from '../../src/model/service.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN } from '../../src/model/workload.ts'
import { serviceToMessage, workloadToMessage } from '../../src/wire/address-codec.ts'
import { Checks } from '../../src/wire/checks.ts'
import {
  type ResourceType,
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
  TYPE_LOCAL_POD,
  TYPE_POLICY,
  TYPE_TRAFFIC,
} from '../../src/wire/discovery.ts'
import {
  decodeResource,
  type EncodedResource,
  encodeNamespace,
  encodePod,
  encodePolicy,
  encodeService,
  encodeTraffic,
  encodeWorkload,
  PROBE_PORTS_MAX,
  RESOURCE_BYTES_MAX,
} from '../../src/wire/mesh-codec.ts'
import {
  ADDRESS,
  type AddressMessage,
  AUTHORIZATION,
  type AuthorizationMessage,
  LOCAL_POD,
  POLICY,
  TRAFFIC,
  type TrafficMessage,
} from '../../src/wire/messages.ts'
import { trafficToMessage } from '../../src/wire/traffic-codec.ts'
import { RandomModel } from '../support/random-model.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const ROUNDS = 300

function model(seed: number): RandomModel {
  return new RandomModel(new SeededRandom(seed))
}

function decoded(encoded: EncodedResource): unknown {
  return decodeResource(encoded.typeUrl, encoded.name, encoded.bytes).value
}

function assertRefused(action: () => unknown, pattern: RegExp): void {
  assert.throws(action, (error: unknown) => {
    assert.ok(error instanceof WeftError, String(error))
    assert.equal(error.code, 'WEFT_RESOURCE')
    assert.match(error.message, pattern)
    return true
  })
}

// --- round trips ---

test('every workload comes back as it was', () => {
  const random = model(1)
  for (let i = 0; i < ROUNDS; i++) {
    const workload = random.workload()
    assert.deepEqual(decoded(encodeWorkload(workload)), workload)
  }
})

test('every service comes back as it was', () => {
  const random = model(2)
  for (let i = 0; i < ROUNDS; i++) {
    const service = random.service()
    assert.deepEqual(decoded(encodeService(service)), service)
  }
})

test('a policy with layer-4 attributes only travels as istio.security.Authorization and comes back as it was', () => {
  const random = model(3)
  for (let i = 0; i < ROUNDS; i++) {
    const policy = random.policy(true)
    const encoded = encodePolicy(policy)
    assert.equal(encoded.typeUrl, TYPE_AUTHORIZATION)
    assert.deepEqual(decoded(encoded), policy)
  }
})

test('any other policy travels as weft.v1.Policy and comes back as it was', () => {
  const random = model(4)
  let own = 0
  for (let i = 0; i < ROUNDS; i++) {
    const policy = random.policy(false)
    const encoded = encodePolicy(policy)
    if (encoded.typeUrl === TYPE_POLICY) own++
    assert.deepEqual(decoded(encoded), policy)
  }
  assert.ok(own > ROUNDS / 2)
})

test('all traffic comes back as it was', () => {
  const random = model(5)
  for (let i = 0; i < ROUNDS; i++) {
    const traffic = random.traffic()
    assert.deepEqual(decoded(encodeTraffic(traffic)), traffic)
  }
})

test('every local pod comes back as it was', () => {
  const random = model(6)
  for (let i = 0; i < ROUNDS; i++) {
    const pod = random.pod()
    assert.deepEqual(decoded(encodePod(pod)), pod)
  }
})

test('every namespace comes back as it was', () => {
  for (const failureMode of [FAILURE_BY_POLICY, FAILURE_OPEN, FAILURE_CLOSED] as const) {
    const namespace = { name: 'shop', failureMode }
    assert.deepEqual(decoded(encodeNamespace(namespace)), namespace)
  }
})

test('a port that is none, and more ports than a pod can have, are no probe ports', () => {
  const pod = { ...model(6).pod(), uid: 'u' }
  const send = (probePorts: number[]): unknown => {
    return decodeResource(TYPE_LOCAL_POD, 'u', encodePod({ ...pod, probePorts }).bytes)
  }
  assertRefused(() => send([80, 0]), /probe_ports\[1\] is 0/)
  const many = Array.from({ length: PROBE_PORTS_MAX + 1 }, (_, i) => i + 1)
  assertRefused(() => send(many), /probe_ports has more than 256 ports/)
})

test('a failure mode that this version does not know is refused', () => {
  const bytes = LOCAL_POD.encode({
    uid: 'u',
    netns: '',
    scope: 's',
    failureMode: 3,
    isDnsExempt: false,
    mustEncrypt: false,
    podUid: '',
    probePorts: [],
  })
  assertRefused(() => decodeResource(TYPE_LOCAL_POD, 'u', bytes), /failure_mode is 3, which this version does not know/)
})

test('the same object is always encoded to the same bytes', () => {
  assert.deepEqual(encodeTraffic(model(7).traffic()), encodeTraffic(model(7).traffic()))
})

// --- wire facts ---

test('a workload is encoded with the field numbers of istio.workload', () => {
  const { bytes } = encodeWorkload({ ...model(8).workload(), uid: 'u', addresses: ['10.0.0.1'], tunnelProtocol: 1 })
  const hex = Buffer.from(bytes).toString('hex')
  // Address.workload (1), then Workload.addresses (3) with four bytes, tunnel_protocol (5) = HBONE, uid (20) = "u".
  assert.equal(hex.slice(0, 2), '0a')
  assert.ok(hex.includes('1a040a000001'))
  assert.ok(hex.includes('2801'))
  assert.ok(hex.includes('a2010175'))
})

test('a workload without trust domain and service account has the defaults of istio', () => {
  const address = ADDRESS.encode({ workload: { uid: 'u', name: 'n', namespace: 'ns' } } as AddressMessage)
  const { value } = decodeResource(TYPE_ADDRESS, 'u', address)
  assert.ok('trustDomain' in value)
  assert.equal(value.trustDomain, 'cluster.local')
  assert.equal(value.serviceAccount, 'default')
  assert.equal(value.capacity, 1)
})

test('address blocks are made canonical: spare bits cleared, mapped IPv6 as IPv4', () => {
  const match = { ...EMPTY_POLICY_MATCH, sourceIps: ['10.1.2.3/8', '::ffff:192.168.7.9/112', '10.0.0.1', 'fd00::1/16'] }
  for (const isDryRun of [false, true]) {
    const policy = policyWith(match, isDryRun)
    const back = decoded(encodePolicy(policy)) as Policy
    assert.deepEqual(back.rules[0]!.clauses[0]!.matches[0]!.sourceIps, [
      '10.0.0.0/8',
      '192.168.0.0/16',
      '10.0.0.1/32',
      'fd00::/16',
    ])
  }
})

test('an empty string to match is not the same as no match', () => {
  const match = { ...EMPTY_POLICY_MATCH, principals: [{ kind: 'exact', value: '' } as const] }
  assert.deepEqual(decoded(encodePolicy(policyWith(match, false))), policyWith(match, false))
})

// --- refusals: what comes over the wire ---

const WORKLOAD = { ...model(9).workload(), uid: 'u' }
const SERVICE = { ...model(10).service(), ports: [{ number: 80, targetPort: 80, name: '', protocol: 2 as const }] }

/** A message of a valid object with one field changed. */
function badWorkload(fields: object): Uint8Array {
  const { workload } = workloadToMessage(WORKLOAD, new Checks(''))
  return ADDRESS.encode({ workload: { ...workload!, ...fields } })
}

function badService(fields: object): Uint8Array {
  const { service } = serviceToMessage(SERVICE, new Checks(''))
  return ADDRESS.encode({ service: { ...service!, ...fields } })
}

for (const [routingPreference, mode, isNodeLocal] of [
  [[4], 1, true],
  // By zone, and by node with others to fall back to: what Istio may write and we have no use for.
  [[2], 1, undefined],
  [[4], 2, undefined],
  [[], 0, undefined],
] as const) {
  test(`load balancing by ${JSON.stringify(routingPreference)} in mode ${mode} is ${isNodeLocal ? '' : 'not '}local to the node`, () => {
    const loadBalancing = { routingPreference, mode, healthPolicy: 0 }
    const { value } = decodeResource(TYPE_ADDRESS, SERVICE.key, badService({ loadBalancing })) as { value: Service }
    assert.equal(value.isNodeLocal, isNodeLocal)
    assert.equal(value.isPublishingUnready, undefined)
  })
}

const BAD_ADDRESSES: readonly [string, Uint8Array, RegExp][] = [
  ['no uid', badWorkload({ uid: '' }), /workload "u": uid is missing/],
  ['an address of three bytes', badWorkload({ addresses: [new Uint8Array(3)] }), /addresses\[0\] has 3 bytes/],
  ['an unknown tunnel protocol', badWorkload({ tunnelProtocol: 7 }), /tunnel_protocol is 7/],
  ['an unknown workload type', badWorkload({ workloadType: 9 }), /workload_type is 9/],
  ['an unknown health', badWorkload({ status: 2 }), /status is 2/],
  ['port 0', badWorkload({ services: { 'a/b': { ports: [{ servicePort: 0, targetPort: 1 }] } } }), /service_port is 0/],
  [
    'port 65536',
    badWorkload({ services: { 'a/b': { ports: [{ servicePort: 1, targetPort: 65_536 }] } } }),
    /target_port is 65536/,
  ],
  ['a control character', badWorkload({ name: 'a\nb' }), /name "a\\nb" has control characters/],
  ['an endless name', badWorkload({ node: 'n'.repeat(9_000) }), /node is longer than 8192/],
  ['a service without host name', badService({ hostname: '' }), /hostname is missing/],
  [
    'a service with an unknown protocol',
    badService({ ports: [{ servicePort: 80, targetPort: 80, protocol: 9 }] }),
    /protocol is 9/,
  ],
  ['nothing in it', ADDRESS.encode({}), /neither a workload nor a service/],
  ['another name than it was sent under', badWorkload({ uid: 'v' }), /"u" holds another: workload "v"/],
]

for (const [what, bytes, pattern] of BAD_ADDRESSES) {
  test(`refuses an address with ${what}`, () => {
    const name = pattern.source.startsWith('hostname') || pattern.source.startsWith('protocol') ? SERVICE.key : 'u'
    assertRefused(() => decodeResource(TYPE_ADDRESS, name, bytes), pattern)
  })
}

function policyWith(match: typeof EMPTY_POLICY_MATCH, isDryRun: boolean): Policy {
  return {
    key: policyKey('ns', 'p'),
    name: 'p',
    namespace: 'ns',
    scope: 0,
    action: ACTION_ALLOW,
    isDryRun,
    rules: [{ clauses: [{ matches: [match] }] }],
  }
}

function authorization(fields: object): Uint8Array {
  const base = { name: 'p', namespace: 'ns', scope: 0, action: 0, rules: [] }
  return AUTHORIZATION.encode({ ...base, ...fields } as AuthorizationMessage)
}

function authorizationMatching(match: object): Uint8Array {
  return authorization({ rules: [{ clauses: [{ matches: [match] }] }] })
}

const BAD_POLICIES: readonly [string, Uint8Array, RegExp][] = [
  ['an unknown scope', authorization({ scope: 5 }), /policy "ns\/p": scope is 5/],
  ['an unknown action', authorization({ action: 2 }), /action is 2/],
  ['no name', authorization({ name: '' }), /name is missing/],
  [
    'a match of an unknown kind',
    authorizationMatching({ principals: [{}] }),
    /rules\[0\]\.clauses\[0\]\.matches\[0\]\.principals\[0\] is a match of a kind/,
  ],
  [
    'a block that is too long',
    authorizationMatching({ sourceIps: [{ address: new Uint8Array(4), length: 33 }] }),
    /length is 33/,
  ],
  ['a block without address', authorizationMatching({ notSourceIps: [{ length: 8 }] }), /has 0 bytes/],
  ['port 70000', authorizationMatching({ destinationPorts: [70_000] }), /destination_ports is 70000/],
]

for (const [what, bytes, pattern] of BAD_POLICIES) {
  test(`refuses a policy with ${what}`, () => {
    assertRefused(() => decodeResource(TYPE_AUTHORIZATION, 'ns/p', bytes), pattern)
  })
}

test('refuses a header name that is none in a policy', () => {
  const bytes = POLICY.encode({
    name: 'p',
    namespace: 'ns',
    scope: 0,
    action: 0,
    isDryRun: false,
    rules: [{ clauses: [{ matches: [{ headers: [{ name: 'x y', values: [], notValues: [] }] } as never] }] }],
  })
  assertRefused(() => decodeResource(TYPE_POLICY, 'ns/p', bytes), /headers\.name "x y" is no header name/)
})

const TRAFFIC_KEY = 's|ns/web|80'

function trafficMessage(): TrafficMessage {
  const route: Route = {
    source: 'ns/vs',
    name: '',
    matches: [],
    clusters: [{ cluster: 'ns/web||80', weight: 1, requestEdits: null, responseEdits: null, authority: null }],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: DEFAULT_RETRY,
    fault: null,
    mirrors: [],
  }
  const traffic: Traffic = {
    key: TRAFFIC_KEY,
    scope: 's',
    service: 'ns/web',
    port: 80,
    protocol: 2,
    defaultCluster: 'ns/web||80',
    clusters: [
      {
        key: 'ns/web||80',
        service: 'ns/web',
        subset: '',
        port: 80,
        members: null,
        balance: 0,
        limits: DEFAULT_POOL_LIMITS,
        outlier: null,
        isMutualTls: true,
      },
    ],
    routes: [route],
    tcpClusters: [],
  }
  return trafficToMessage(traffic, new Checks(''))
}

function trafficWith(fields: object): Uint8Array {
  return TRAFFIC.encode({ ...trafficMessage(), ...fields })
}

function routeWith(fields: object): Uint8Array {
  const message = trafficMessage()
  return TRAFFIC.encode({ ...message, routes: [{ ...message.routes[0]!, ...fields }] })
}

function clusterWith(fields: object): Uint8Array {
  const message = trafficMessage()
  return TRAFFIC.encode({ ...message, clusters: [{ ...message.clusters[0]!, ...fields }] })
}

const BAD_TRAFFIC: readonly [string, Uint8Array, RegExp][] = [
  ['an unknown protocol', trafficWith({ protocol: 8 }), /protocol is 8/],
  ['no default cluster', trafficWith({ defaultCluster: '' }), /default_cluster is missing/],
  ['an unknown balance', clusterWith({ balance: 3 }), /clusters\[0\]\.balance is 3/],
  ['101 per cent', clusterWith({ outlier: { ejectionPercentMax: 101 } }), /ejection_percent_max is 101/],
  ['no retry', routeWith({ retry: null }), /routes\[0\]\.retry is missing/],
  ['an unknown retry condition', routeWith({ retry: { on: ['sometimes'] } }), /retry\.on\[0\] is "sometimes"/],
  ['a redirect that is none', routeWith({ redirect: { status: 200 } }), /redirect\.status is 200/],
  ['a redirect to an unknown scheme', routeWith({ redirect: { status: 301, scheme: 'ftp' } }), /scheme is "ftp"/],
  ['a status 99', routeWith({ directResponse: { status: 99, body: '' } }), /direct_response\.status is 99/],
  ['a fault above all requests', routeWith({ fault: { delayPpm: 1_000_001 } }), /delay_ppm is 1000001/],
  [
    'a header value that would split a message',
    routeWith({ requestEdits: { set: [{ name: 'x', value: 'a\r\nb: c' }] } }),
    /request_edits\.set\[0\]\.value .* has control characters/,
  ],
  [
    'a header name that is none',
    routeWith({ responseEdits: { remove: ['a b'] } }),
    /remove\[0\] "a b" is no header name/,
  ],
  [
    'a path match of an unknown kind',
    routeWith({ matches: [{ path: { ignoreCase: true } }] }),
    /matches\[0\]\.path is a match/,
  ],
  [
    'a header match without match',
    routeWith({ matches: [{ headers: [{ name: 'x' }] }] }),
    /headers\[0\]\.match is missing/,
  ],
  ['a mirror without cluster', routeWith({ mirrors: [{ ppm: 1 }] }), /mirrors\[0\]\.cluster is missing/],
]

for (const [what, bytes, pattern] of BAD_TRAFFIC) {
  test(`refuses traffic with ${what}`, () => {
    assertRefused(() => decodeResource(TYPE_TRAFFIC, TRAFFIC_KEY, bytes), pattern)
  })
}

test('refuses a resource that is too large before decoding it', () => {
  assertRefused(() => decodeResource(TYPE_LOCAL_POD, 'u', new Uint8Array(RESOURCE_BYTES_MAX + 1)), /more than 1048576/)
})

test('bytes cut short or changed at random are refused or decoded, never anything else', () => {
  const random = new SeededRandom(11)
  const source = new RandomModel(random)
  const samples: EncodedResource[] = [
    encodeWorkload(source.workload()),
    encodeService(source.service()),
    encodePolicy(source.policy(true)),
    encodePolicy(source.policy(false)),
    encodeTraffic(source.traffic()),
    encodePod(source.pod()),
  ]
  const attempt = (typeUrl: ResourceType, name: string, bytes: Uint8Array): boolean => {
    try {
      return decodeResource(typeUrl, name, bytes).name === name
    } catch (error) {
      assert.ok(error instanceof WeftError && error.code === 'WEFT_RESOURCE', String(error))
      return false
    }
  }
  let refused = 0
  for (const { typeUrl, name, bytes } of samples) {
    assert.ok(attempt(typeUrl, name, bytes))
    for (let cut = 0; cut < bytes.length; cut++) if (!attempt(typeUrl, name, bytes.subarray(0, cut))) refused++
    for (let round = 0; round < 500; round++) {
      const changed = Uint8Array.from(bytes)
      changed[random.integer(0, changed.length - 1)] = random.integer(0, 255)
      if (!attempt(typeUrl, name, changed)) refused++
    }
  }
  assert.ok(refused > 1000, `only ${refused} refused`)
})

// --- refusals: what the model cannot have said ---

test('a model object with a bad address is not encoded', () => {
  assertRefused(
    () => encodeWorkload({ ...WORKLOAD, addresses: ['10.0.0.256'] }),
    /workload "u": addresses "10.0.0.256"/,
  )
})

test('a model object with a number that the wire would cut is not encoded', () => {
  const traffic = model(12).traffic()
  const cluster = { ...trafficModelCluster(), limits: { ...DEFAULT_POOL_LIMITS, connectTimeoutMs: 2 ** 32 } }
  assertRefused(() => encodeTraffic({ ...traffic, clusters: [cluster] }), /connectTimeoutMs is 4294967296/)
  const fraction = { ...trafficModelCluster(), limits: { ...DEFAULT_POOL_LIMITS, connectTimeoutMs: 0.5 } }
  assertRefused(() => encodeTraffic({ ...traffic, clusters: [fraction] }), /connectTimeoutMs is 0.5/)
})

function trafficModelCluster() {
  return {
    key: 'ns/web||80',
    service: 'ns/web',
    subset: '',
    port: 80,
    members: null,
    balance: 0 as const,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
  }
}
