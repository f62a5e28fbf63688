import assert from 'node:assert/strict'
import test from 'node:test'
import { agentFlags, parseAgentConfig } from '../../src/agent/config.ts'
import { describeFlags, UsageError } from '../../src/base/flags.ts'

const NEEDED = ['--controller', 'weft:15012', '--credentials', '/etc/weft/node1']

test('defaults are those of the documentation', () => {
  const { workers, ...config } = parseAgentConfig(NEEDED, {})
  assert.ok(workers >= 1 && workers <= 4)
  assert.deepEqual(config, {
    kubernetes: false,
    node: '',
    controller: { host: 'weft', port: 15012 },
    credentials: '/etc/weft/node1',
    tokenFile: '/var/run/secrets/weft/token',
    rootsFile: '/var/run/secrets/weft/root-cert.pem',
    apiServer: null,
    serviceAccount: '/var/run/secrets/kubernetes.io/serviceaccount',
    trustDomain: 'cluster.local',
    state: '/var/lib/weft/agent',
    capture: 'ebpf',
    transport: 'auto',
    loopbackBlock: null,
    cgroup: '',
    pinDirectory: '/sys/fs/bpf/weft',
    nodeNetns: '/proc/thread-self/ns/net',
    cniConfDirectory: '',
    cniBinDirectory: '/opt/cni/bin',
    cniSocket: '/run/weft/cni.sock',
    dnsCapture: 'on',
    endpointResolvers: null,
    metrics: { address: '0.0.0.0', port: 15020 },
    readiness: { address: '0.0.0.0', port: 15021 },
    admin: { address: '127.0.0.1', port: 15000 },
    certificateLifetime: 86_400_000,
    drain: 30_000,
    handoverDrain: 600_000,
    whenRetired: 'exit',
    accessLog: false,
    logLevel: 'info',
  })
})

test('flags win over variables, variables over defaults', () => {
  const environment = {
    WEFT_CONTROLLER: '[fd00::1]:15012',
    WEFT_CREDENTIALS: '/env',
    WEFT_ACCESS_LOG: 'true',
    WEFT_LOG_LEVEL: 'debug',
    HOME: '/root',
  }
  const config = parseAgentConfig(['--credentials=/flag', '--log-level', 'warn'], environment)
  assert.deepEqual(config.controller, { host: 'fd00::1', port: 15012 })
  assert.equal(config.credentials, '/flag')
  assert.equal(config.accessLog, true)
  assert.equal(config.logLevel, 'warn')
  assert.equal(parseAgentConfig(NEEDED, { WEFT_ACCESS_LOG: 'false' }).accessLog, false)
})

test('on Kubernetes the API server is the one that pods are told of, unless a flag names another', () => {
  const environment = { NODE_NAME: 'n1', KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '6443' }
  assert.deepEqual(parseAgentConfig(['--kubernetes'], environment).apiServer, { host: 'fd00::1', port: 6443 })
  const { apiServer } = parseAgentConfig(['--kubernetes', '--api-server=api:443'], environment)
  assert.deepEqual(apiServer, { host: 'api', port: 443 })
  assert.equal(parseAgentConfig(['--kubernetes'], { NODE_NAME: 'n1' }).apiServer, null)
})

test('on Kubernetes nothing needs to be said but the name of the node, which comes from the pod', () => {
  const { node, controller, credentials } = parseAgentConfig(['--kubernetes'], { NODE_NAME: 'worker-1' })
  assert.equal(node, 'worker-1')
  assert.deepEqual(controller, { host: 'weft-controller.weft-system.svc', port: 15012 })
  assert.equal(credentials, '/var/lib/weft/agent/credential')
  const environment = { WEFT_KUBERNETES: 'true', WEFT_STATE: '/s', WEFT_NODE: 'given', NODE_NAME: 'worker-1' }
  const other = parseAgentConfig(['--controller', 'weft:1'], environment)
  assert.deepEqual([other.node, other.controller.host, other.credentials], ['given', 'weft', '/s/credential'])
  assert.equal(parseAgentConfig(['--kubernetes', '--credentials', '/kept'], environment).credentials, '/kept')
})

test('port 0 asks the kernel for a free one', () => {
  assert.deepEqual(parseAgentConfig([...NEEDED, '--admin', '[::1]:0'], {}).admin, { address: '::1', port: 0 })
})

const BAD: readonly [string, readonly string[], Record<string, string>, RegExp][] = [
  ['no controller', NEEDED.slice(2), {}, /^flag --controller \(or WEFT_CONTROLLER\) is required/],
  ['no credentials', NEEDED.slice(0, 2), {}, /^flag --credentials \(or WEFT_CREDENTIALS\) is required/],
  ['no name of the node', ['--kubernetes'], {}, /--kubernetes needs the name of the node: .*NODE_NAME/],
  ['a controller without a port', ['--controller', 'weft'], {}, /--controller: "weft" .*HOST:PORT/],
  ['a controller with an open address', ['--controller', 'fd00::1:15012'], {}, /--controller/],
  ['an unknown variable', NEEDED, { WEFT_CONTROLER: 'x' }, /unknown variable WEFT_CONTROLER; see weft agent --help/],
  ['a switch that is neither', NEEDED, { WEFT_ACCESS_LOG: 'yes' }, /WEFT_ACCESS_LOG must be true or false/],
  ['a variable out of range', NEEDED, { WEFT_WORKERS: '65' }, /--workers: "65" .*from 1 to 64/],
  ['no workers', [...NEEDED, '--workers', '0'], {}, /--workers/],
  ['half a worker', [...NEEDED, '--workers', '1.5'], {}, /--workers/],
  ['an admin endpoint for everyone', [...NEEDED, '--admin', '0.0.0.0:15000'], {}, /--admin: .*loopback/],
  ['a name to listen on', [...NEEDED, '--metrics', 'localhost:1'], {}, /--metrics: .*IP address/],
  ['a certificate that cannot be renewed', [...NEEDED, '--certificate-lifetime', '1s'], {}, /between 10s and 8760h/],
  ['a time without unit', [...NEEDED, '--drain', '30'], {}, /--drain: "30" .*such as 20s/],
  [
    'a resolver by name',
    [...NEEDED, '--endpoint-resolvers', '198.18.0.1,dns'],
    {},
    /--endpoint-resolvers: .*IP addresses/,
  ],
  ['a block that is none', [...NEEDED, '--loopback-block', '127.0.0.0/33'], {}, /--loopback-block/],
  ['a capture that is none', [...NEEDED, '--capture', 'iptables'], {}, /--capture: .*ebpf, loopback/],
  ['an empty path', [...NEEDED, '--state='], {}, /--state: "" .*must not be empty/],
]

for (const [what, args, environment, pattern] of BAD) {
  test(`${what} is an error that names it`, () => {
    assert.throws(
      () => parseAgentConfig(args, environment),
      (error) => error instanceof UsageError && pattern.test(error.message),
    )
  })
}

test('help shows every flag, its default, and which must be given', () => {
  const text = describeFlags(agentFlags)
  for (const flag of Object.values(agentFlags)) assert.ok(text.includes(`--${flag.name}`), flag.name)
  assert.match(text, /--controller HOST:PORT .* Required\./)
  assert.match(text, /--certificate-lifetime TIME .* Default: 24h\./)
})
