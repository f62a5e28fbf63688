/**
 * Who gets which certificate in a cluster, on a real API server: replicas of the controller with no more rights than the
 * chart gives them, agents with real tokens, and those who would like to be agents.
 */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { parseAllDocuments } from 'yaml'
import { requestByToken } from '../../src/agent/controller-link.ts'
import { NodeToken } from '../../src/agent/node-token.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import {
  CallError,
  STATUS_PERMISSION_DENIED,
  STATUS_UNAUTHENTICATED,
  STATUS_UNAVAILABLE,
} from '../../src/wire/channel.ts'
import { linkTo, TestController, TRUST_DOMAIN, temporaryDirectory } from '../support/control-plane.ts'
import { makeIstioRoot } from '../support/istio-root.ts'
import { needsRoot } from '../support/netns.ts'
import { Openssl } from '../support/openssl.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'

const NAMESPACE = 'weft-system'
const MANIFESTS = join(import.meta.dirname, '../../deploy/manifests/weft.yaml')
/** Who is who, and who may what: the rest of the installation needs nodes. */
const ACCESS = new Set(['Namespace', 'ServiceAccount', 'Role', 'RoleBinding', 'ClusterRole', 'ClusterRoleBinding'])

describe('certificates in a cluster', needsRoot, () => {
  let cluster: Cluster
  let kubeconfig: string
  let names = 0

  before(async () => {
    cluster = await startControlPlane()
    const documents = parseAllDocuments(await readFile(MANIFESTS, 'utf8')).map((one) => one.toJS() as Kinded | null)
    await cluster.apply(...documents.filter((one) => one !== null && ACCESS.has(one.kind)).map((one) => one!))
    await cluster.apply(
      ...['node-a', 'node-b'].map((name) => ({ apiVersion: 'v1', kind: 'Node', metadata: { name } })),
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'web', namespace: 'default' } },
    )
  })

  after(() => cluster?.stop())

  interface Kinded {
    readonly kind: string
  }

  /** A replica of the controller as its pod would be: with the token of its ServiceAccount. */
  async function startController(t: TestContext): Promise<TestController> {
    if (kubeconfig === undefined) {
      const token = (await cluster.kubectl(['create', 'token', 'weft-controller', '-n', NAMESPACE])).trim()
      const config = JSON.parse(await cluster.kubectl(['config', 'view', '--raw', '--flatten', '-o', 'json']))
      for (const entry of config.users) entry.user = { token }
      kubeconfig = `${cluster.kubeconfig}.weft-controller`
      await writeFile(kubeconfig, JSON.stringify(config), { mode: 0o600 })
    }
    const config = { source: { kind: 'kubernetes', kubeconfig, context: null }, nodeLifetimeMs: 86_400_000 } as const
    return await TestController.start(t, {}, { config })
  }

  /** A pod on a node; returns its uid. */
  async function makePod(namespace: string, name: string, node: string, serviceAccountName: string): Promise<string> {
    await cluster.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace },
      spec: { nodeName: node, serviceAccountName, containers: [{ name: 'app', image: 'none' }] },
    })
    const pod = await cluster.get<{ metadata: { uid: string } }>('pod', name, '-n', namespace)
    return pod.metadata.uid
  }

  async function removePod(namespace: string, name: string): Promise<void> {
    await cluster.kubectl(['delete', 'pod', name, '-n', namespace, '--grace-period=0', '--force'])
  }

  interface TokenOrder {
    readonly audience?: string
    readonly namespace?: string
    readonly account?: string
    readonly pod?: { readonly name: string; readonly uid: string }
  }

  async function tokenOf(order: TokenOrder): Promise<string> {
    const { audience = 'weft-ca', namespace = NAMESPACE, account = 'weft-agent', pod } = order
    const bound =
      pod === undefined
        ? []
        : ['--bound-object-kind', 'Pod', '--bound-object-name', pod.name, '--bound-object-uid', pod.uid]
    const args = ['create', 'token', account, '-n', namespace, '--audience', audience, ...bound]
    return (await cluster.kubectl(args)).trim()
  }

  /** An agent's pod on a node, and a token of it. */
  async function makeAgent(node: string): Promise<{ name: string; uid: string; token: string }> {
    const name = `weft-agent-${++names}`
    const uid = await makePod(NAMESPACE, name, node, 'weft-agent')
    return { name, uid, token: await tokenOf({ pod: { name, uid } }) }
  }

  async function roots(namespace = NAMESPACE): Promise<string> {
    for (;;) {
      const args = ['get', 'configmap', 'weft-ca-root-cert', '-n', namespace, '--ignore-not-found', '-o', 'json']
      const text = await cluster.kubectl(args)
      if (text !== '') return (JSON.parse(text) as { data: Record<string, string> }).data['root-cert.pem']!
      await delay(20)
    }
  }

  async function ask(mesh: TestController, token: string, node: string): Promise<readonly string[]> {
    const identity = formatNodeIdentity(TRUST_DOMAIN, node)
    const csr = createSigningRequest(createKey(), identity)
    return await requestByToken({
      ...{ address: mesh.address, trustDomain: TRUST_DOMAIN, csr, identity, token, roots: await roots() },
    })
  }

  async function assertRefused(attempt: Promise<unknown>, status: number, pattern: RegExp): Promise<void> {
    await assert.rejects(attempt, (error: Error) => {
      const cause = error.cause
      assert.ok(cause instanceof CallError, String(error))
      assert.match(cause.message, pattern)
      assert.equal(cause.status, status, cause.message)
      return true
    })
  }

  interface Status {
    readonly kubernetes: { readonly leader: { readonly isLeading: boolean } }
  }

  function isLeading(mesh: TestController): boolean {
    return (mesh.running.status() as Status).kubernetes.leader.isLeading
  }

  test('an agent gets the credential of its node with its token, and identities of pods of that node', async (t) => {
    const mesh = await startController(t)
    const { token } = await makeAgent('node-a')
    const directory = await temporaryDirectory(t)
    await mkdir(join(directory, 'mounts'))
    const [tokenFile, rootsFile] = [join(directory, 'mounts/token'), join(directory, 'mounts/root-cert.pem')]
    await writeFile(tokenFile, token)
    await writeFile(rootsFile, await roots())
    const credential = await new NodeToken({
      node: 'node-a',
      trustDomain: TRUST_DOMAIN,
      controller: mesh.address,
      tokenFile,
      rootsFile,
      followRoots: null,
      directory: join(directory, 'credential'),
      clock: systemClock,
      log: silentLog,
    }).open()
    const leaf = new X509Certificate(credential.certificateChain)
    assert.equal(leaf.subjectAltName, `URI:${formatNodeIdentity(TRUST_DOMAIN, 'node-a')}`)
    assert.ok(Date.parse(leaf.validTo) - Date.now() <= 86_400_000)

    await cluster.kubectl(['label', 'namespace', 'default', 'weft.dev/mesh=enabled', '--overwrite'])
    await makePod('default', 'web-a', 'node-a', 'web')
    const link = linkTo(t, mesh.address, credential)
    const web = formatIdentity(TRUST_DOMAIN, 'default', 'web')
    const request = (): Promise<readonly string[]> =>
      link.requestCertificate(createSigningRequest(createKey(), web), web, 0)
    const isGiven = (): Promise<boolean> =>
      request().then(
        () => true,
        () => false,
      )
    while (!(await isGiven())) await delay(50)
    // The pod moves: its identity goes with it.
    await removePod('default', 'web-a')
    await makePod('default', 'web-a', 'node-b', 'web')
    while (await isGiven()) await delay(50)
    await assertRefused(request(), STATUS_PERMISSION_DENIED, /no workload of node node-a has the identity .*sa\/web/)
    await removePod('default', 'web-a')
  })

  test('nobody gets it with a token for somebody else, of somebody else, or of no pod', async (t) => {
    const mesh = await startController(t)
    const agent = await makeAgent('node-a')
    const stranger = await makePod('default', `stranger-${++names}`, 'node-a', 'web')
    const strangersPod = { name: `stranger-${names}`, uid: stranger }
    const cases: readonly [string, TokenOrder, number, RegExp][] = [
      ['another audience', { audience: 'vault', pod: agent }, STATUS_UNAUTHENTICATED, /not for the audience weft-ca/],
      [
        "the API server's audience",
        { audience: 'https://kubernetes.default.svc', pod: agent },
        STATUS_UNAUTHENTICATED,
        /not for the audience weft-ca/,
      ],
      [
        'another ServiceAccount',
        { namespace: 'default', account: 'web', pod: strangersPod },
        STATUS_PERMISSION_DENIED,
        /is of system:serviceaccount:default:web/,
      ],
      [
        'the controller',
        { account: 'weft-controller' },
        STATUS_PERMISSION_DENIED,
        /weft-controller, not of .*weft-agent/,
      ],
      ['no pod', {}, STATUS_PERMISSION_DENIED, /not bound to a pod/],
    ]
    for (const [what, order, status, pattern] of cases) {
      await t.test(what, async () => await assertRefused(ask(mesh, await tokenOf(order), 'node-a'), status, pattern))
    }
    const [head, body, signature] = agent.token.split('.') as [string, string, string]
    const claims = JSON.parse(Buffer.from(body, 'base64url').toString())
    claims['kubernetes.io'].pod.uid = stranger
    const forged = Buffer.from(JSON.stringify(claims)).toString('base64url')
    await assertRefused(
      ask(mesh, `${head}.${forged}.${signature}`, 'node-a'),
      STATUS_UNAUTHENTICATED,
      /API server does not accept/,
    )
    await ask(mesh, agent.token, 'node-a')
    await removePod('default', strangersPod.name)
  })

  test('the token of another node’s agent gets that node, and only that', async (t) => {
    const mesh = await startController(t)
    const { token } = await makeAgent('node-b')
    await assertRefused(ask(mesh, token, 'node-a'), STATUS_PERMISSION_DENIED, /token of node node-b is good for/)
    const texts = await ask(mesh, token, 'node-b')
    assert.match(new X509Certificate(texts[0]!).subjectAltName ?? '', /node-b$/)
  })

  test('the token of a pod that is gone is worth nothing at once, though the API server may still remember it', async (t) => {
    const mesh = await startController(t)
    const { name, token } = await makeAgent('node-a')
    await ask(mesh, token, 'node-a')
    await removePod(NAMESPACE, name)
    await assertRefused(ask(mesh, token, 'node-a'), STATUS_PERMISSION_DENIED, /is gone/)
    await makePod(NAMESPACE, name, 'node-a', 'weft-agent')
    await assertRefused(ask(mesh, token, 'node-a'), STATUS_PERMISSION_DENIED, /is gone/)
  })

  test('two replicas have one root and one leader; the next leader keeps the root', async (t) => {
    const [a, b] = await Promise.all([startController(t), startController(t)])
    assert.ok(!(isLeading(a) && isLeading(b)))
    while (!isLeading(a) && !isLeading(b)) await delay(50)
    const root = await roots()
    const [leader, follower] = isLeading(a) ? [a, b] : [b, a]
    const { token } = await makeAgent('node-a')
    for (const mesh of [leader, follower]) assert.equal((await ask(mesh, token, 'node-a')).at(-1), root)
    await leader.stop()
    while (!isLeading(follower)) await delay(50)
    assert.equal((await ask(follower, token, 'node-a')).at(-1), root)
    const secret = await cluster.get<{ data: Record<string, string> }>('secret', 'weft-ca', '-n', NAMESPACE)
    assert.equal(Buffer.from(secret.data['ca.crt']!, 'base64').toString(), root)
  })

  test('a namespace has the roots while it is in the mesh, also after somebody edits or removes them', async (t) => {
    const mesh = await startController(t)
    while (!isLeading(mesh)) await delay(50)
    const name = `mesh-${++names}`
    await cluster.kubectl(['create', 'namespace', name])
    // Also where another control plane enrols the pods: there is one authority.
    await cluster.kubectl(['label', 'namespace', name, 'weft.dev/mesh=enabled', 'weft.dev/rev=next'])
    const right = await roots(name)
    assert.equal(right, await roots())
    await cluster.kubectl(['delete', 'configmap', 'weft-ca-root-cert', '-n', name])
    assert.equal(await roots(name), right)
    const patch = JSON.stringify({ data: { 'root-cert.pem': 'spoiled' } })
    await cluster.kubectl(['patch', 'configmap', 'weft-ca-root-cert', '-n', name, '--type=merge', '-p', patch])
    while ((await roots(name)) !== right) await delay(50)
    await cluster.kubectl(['label', 'namespace', name, 'weft.dev/mesh-'])
    const find = ['get', 'configmap', 'weft-ca-root-cert', '-n', name, '--ignore-not-found']
    while ((await cluster.kubectl(find)) !== '') await delay(50)
    await cluster.kubectl(['delete', 'namespace', name, '--wait=false'])
  })

  test('a root that is plugged in is announced to everyone; taken away again, it is trusted a while', async (t) => {
    const mesh = await startController(t)
    while (!isLeading(mesh)) await delay(50)
    const own = await roots()
    const openssl = new Openssl()
    t.after(() => openssl.remove())
    const root = makeIstioRoot(openssl, 'corporate')
    const data = Object.fromEntries(
      Object.entries(root).map(([key, text]) => [key, Buffer.from(text).toString('base64')]),
    )
    t.after(() => cluster.kubectl(['delete', 'secret', 'cacerts', '-n', NAMESPACE, '--ignore-not-found']))
    await cluster.apply({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cacerts', namespace: NAMESPACE }, data })
    const both = `${own}${root['root-cert.pem'].trim()}\n`
    while ((await roots()) !== both) await delay(50)
    const { token } = await makeAgent('node-a')
    assert.equal((await ask(mesh, token, 'node-a')).at(-1), both)
    const recorded = await cluster.get<{ data: Record<string, string> }>('secret', 'weft-ca-roots', '-n', NAMESPACE)
    assert.equal(JSON.parse(Buffer.from(recorded.data['roots.json']!, 'base64').toString()).roots.length, 2)
  })

  test('with the API server away certificates go on, tokens are told to come again, and a leader comes back', async (t) => {
    const mesh = await startController(t)
    while (!isLeading(mesh)) await delay(50)
    const root = await roots()
    const { token } = await makeAgent('node-a')
    const texts = await (async () => {
      const identity = formatNodeIdentity(TRUST_DOMAIN, 'node-a')
      const key = createKey()
      const csr = createSigningRequest(key, identity)
      const order = { address: mesh.address, trustDomain: TRUST_DOMAIN, csr, identity, token, roots: root }
      const [certificateChain, bundle] = (await requestByToken(order)) as [string, string]
      return { certificateChain, bundle, key: key.export({ format: 'pem', type: 'pkcs8' }).toString() }
    })()
    const link = linkTo(t, mesh.address, texts)
    const identity = formatNodeIdentity(TRUST_DOMAIN, 'node-a')
    const renew = (): Promise<readonly string[]> =>
      link.requestCertificate(createSigningRequest(createKey(), identity), identity, 0)
    await cluster.stopComponent('control-plane/kube-apiserver')
    try {
      await renew()
      // A token that was reviewed before is no help either: its pod cannot be looked at.
      const csr = createSigningRequest(createKey(), identity)
      const order = { address: mesh.address, trustDomain: TRUST_DOMAIN, csr, identity, token, roots: root }
      await assertRefused(requestByToken(order), STATUS_UNAVAILABLE, /cannot be asked about the token now/)
      while (isLeading(mesh)) await delay(100)
      await renew()
    } finally {
      await cluster.startComponent('control-plane/kube-apiserver')
      await cluster.serves()
    }
    while (!isLeading(mesh)) await delay(100)
    assert.equal((await ask(mesh, token, 'node-a')).at(-1), await roots())
  })

  test('metrics tell of all of it', async (t) => {
    const mesh = await startController(t)
    const { token } = await makeAgent('node-a')
    await ask(mesh, token, 'node-a')
    await ask(mesh, 'no-token', 'node-a').catch(() => {})
    const answer = await fetch(`http://127.0.0.1:${mesh.running.adminPort}/metrics`)
    const text = await answer.text()
    for (const line of [
      /^citadel_server_csr_count 2$/m,
      /^citadel_server_success_cert_issuance_count 1$/m,
      /^citadel_server_authentication_failure_count 1$/m,
      /^citadel_server_root_cert_expiry_timestamp \d{10}/m,
      /^weft_controller_leader [01]$/m,
      /^pilot_xds\{version="[^"]*"\} 0$/m,
      /^pilot_services [1-9]/m,
      /^istio_build\{component="pilot",tag="[^"]*"\} 1$/m,
    ]) {
      assert.match(text, line)
    }
  })
})
