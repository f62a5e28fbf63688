import assert from 'node:assert/strict'
import test from 'node:test'
import { describeFlags, UsageError } from '../../src/base/flags.ts'
import { controllerFlags, parseControllerConfig } from '../../src/controller/config.ts'

const DIRECTORY = ['--source-directory', '/etc/mesh']

test('defaults are those of the documentation', () => {
  const config = parseControllerConfig(DIRECTORY, {})
  assert.deepEqual(config, {
    source: { kind: 'directory', directory: '/etc/mesh' },
    listen: { address: '0.0.0.0', port: 15012 },
    webhookListen: { address: '::', port: 15017 },
    stateDirectory: '/var/lib/weft/controller',
    givenRoot: null,
    trustDomain: 'cluster.local',
    clusterDomain: 'cluster.local',
    clusterId: 'Kubernetes',
    rootNamespace: 'istio-system',
    systemNamespace: 'weft-system',
    agentServiceAccount: 'weft-agent',
    revision: '',
    isReadingIstioLabels: false,
    virtualIpBlocks: { ipv4: '240.240.0.0/16', ipv6: '2001:2::/48' },
    certificateLifetimeMs: 86_400_000,
    nodeLifetimeMs: 2_592_000_000,
    admin: { address: '127.0.0.1', port: 15014 },
    logLevel: 'info',
  })
})

test('flags win over variables, variables over defaults', () => {
  const environment = { WEFT_SOURCE_DIRECTORY: '/env', WEFT_TRUST_DOMAIN: 'env.domain', HOME: '/root' }
  const config = parseControllerConfig(['--trust-domain', 'flag.domain', '--listen=[::]:0'], environment)
  assert.deepEqual(config.source, { kind: 'directory', directory: '/env' })
  assert.equal(config.trustDomain, 'flag.domain')
  assert.deepEqual(config.listen, { address: '::', port: 0 })
})

test('an API server needs no flag but its own', () => {
  const source = (args: readonly string[], environment = {}): unknown =>
    parseControllerConfig(['--source', 'kubernetes', ...args], environment).source
  assert.deepEqual(source([]), { kind: 'kubernetes', kubeconfig: null, context: null })
  assert.deepEqual(source(['--context', 'c'], { WEFT_KUBECONFIG: '/k' }), {
    kind: 'kubernetes',
    kubeconfig: '/k',
    context: 'c',
  })
})

test('in a pod the endpoint is for the cluster, certificates of nodes live a day, and the namespace is its own', () => {
  const args = ['--source', 'kubernetes', '--admin', '[::]:15014']
  const config = parseControllerConfig(args, { POD_NAMESPACE: 'mesh' })
  assert.deepEqual(config.admin, { address: '::', port: 15014 })
  assert.equal(config.nodeLifetimeMs, 86_400_000)
  assert.equal(config.systemNamespace, 'mesh')
  assert.equal(parseControllerConfig([...args, '--namespace', 'x'], { POD_NAMESPACE: 'mesh' }).systemNamespace, 'x')
})

test('lifetimes are read with their unit', () => {
  const config = parseControllerConfig([...DIRECTORY, '--certificate-lifetime', '60s'], {})
  assert.equal(config.certificateLifetimeMs, 60_000)
})

const BAD: readonly [string, readonly string[], NodeJS.ProcessEnv, RegExp][] = [
  ['no source directory', [], {}, /--source-directory .*is required/],
  ['a directory beside an API server', [...DIRECTORY, '--source', 'kubernetes'], {}, /--source-directory is of no use/],
  ['a kubeconfig for a directory', [...DIRECTORY, '--kubeconfig', 'k'], {}, /--kubeconfig needs --source kubernetes/],
  ['a context for a directory', [...DIRECTORY, '--context', 'c'], {}, /--context needs --source kubernetes/],
  ['an unknown flag', [...DIRECTORY, '--sauce', 'x'], {}, /unknown flag --sauce/],
  ['an unknown variable', DIRECTORY, { WEFT_SAUCE: 'x' }, /unknown variable WEFT_SAUCE/],
  ['a name to listen on', [...DIRECTORY, '--listen', 'localhost:1'], {}, /--listen: .*IP address/],
  ['a port that is none', [...DIRECTORY, '--listen', '0.0.0.0:70000'], {}, /--listen/],
  ['a block that is none', [...DIRECTORY, '--virtual-ips-ipv4', '240.240.0.0'], {}, /--virtual-ips-ipv4: .*prefix/],
  [
    'a block of the other family',
    [...DIRECTORY, '--virtual-ips-ipv6', '240.240.0.0/16'],
    {},
    /--virtual-ips-ipv6: .*IPv6 block/,
  ],
  ['an admin address for everyone', [...DIRECTORY, '--admin', '0.0.0.0:15014'], {}, /--admin: .*loopback/],
  ['a trust domain in capitals', [...DIRECTORY, '--trust-domain', 'Cluster.Local'], {}, /--trust-domain: .*SPIFFE/],
  ['a trust domain with a path', [...DIRECTORY, '--trust-domain', 'a/b'], {}, /--trust-domain/],
  ['a lifetime without unit', [...DIRECTORY, '--certificate-lifetime', '60'], {}, /--certificate-lifetime/],
  ['a lifetime too short', [...DIRECTORY, '--certificate-lifetime', '5s'], {}, /--certificate-lifetime: .*between/],
  ['a key without its root', [...DIRECTORY, '--ca-key', 'k'], {}, /--ca-key needs --ca-root/],
  ['a root without its key', [...DIRECTORY, '--ca-root', 'r'], {}, /--ca-root needs --ca-key/],
  ['a bad variable', DIRECTORY, { WEFT_LOG_LEVEL: 'loud' }, /--log-level: "loud"/],
]

for (const [what, args, environment, pattern] of BAD) {
  test(`${what} is an error that names it`, () => {
    assert.throws(
      () => parseControllerConfig(args, environment),
      (error) => error instanceof UsageError && pattern.test(error.message),
    )
  })
}

test('help shows every flag, and which must be given', () => {
  const text = describeFlags(controllerFlags)
  for (const flag of Object.values(controllerFlags)) assert.ok(text.includes(`--${flag.name}`), flag.name)
  assert.match(text, /--source-directory DIR .* Required with --source directory\./)
})
