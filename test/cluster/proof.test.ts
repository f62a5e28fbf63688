/** Weft on a real cluster of two nodes, as its users meet it: install, label, look. */
import assert from 'node:assert/strict'
import { after, before, describe, type TestContext, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { type Answer, clientPod, getFrom, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { APP_IMAGE_NAME } from './support/images.ts'
import { Mesh } from './support/mesh.ts'
import { type Line, PodStream } from './support/pod-stream.ts'
import { WireCapture } from './support/wire-capture.ts'

/** No header, path or body of a test has it by chance. */
const MARKER = 'seen-in-clear-text-4711'

const CLIENT_IDENTITY = 'spiffe://cluster.local/ns/shop/sa/default'

/** Enough to tell a split of 80 to 20 from all others that tests set. */
const REQUESTS = 200

interface Pods {
  readonly items: readonly {
    readonly metadata: { readonly name: string; readonly uid: string }
    readonly status: {
      readonly podIPs: readonly { readonly ip: string }[]
      readonly containerStatuses: readonly { readonly restartCount: number }[]
    }
  }[]
}

describe('a mesh on two nodes', needsRoot, () => {
  let cluster: Cluster
  let mesh: Mesh
  const streams: PodStream[] = []

  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    await cluster.apply(...namespaces('shop', 'moved', 'strict', 'denied', 'outside'))
    await cluster.apply(
      ...['shop', 'moved'].flatMap((namespace) => [
        clientPod('client', 'node1', namespace),
        ...server({ name: 'near', namespace, node: 'node1' }),
        ...server({ name: 'far', namespace, node: 'node2' }),
      ]),
      ...['shop', 'strict', 'denied'].flatMap((namespace) => versions(namespace)),
      clientPod('stranger', 'node1', 'outside'),
    )
    mesh = await Mesh.install(cluster)
    for (const namespace of ['shop', 'moved']) {
      await podsReady(cluster, '-n', namespace, 'pod/client')
      for (const name of ['near', 'far']) await rolledOut(cluster, name, namespace)
    }
    for (const namespace of ['shop', 'strict', 'denied']) {
      for (const name of ['web-v1', 'web-v2']) await rolledOut(cluster, name, namespace)
      await mesh.label(namespace, true)
    }
    await podsReady(cluster, '-n', 'outside', 'pod/stranger')
    for (const namespace of ['shop', 'strict', 'denied']) {
      await meshed('client.shop', `http://web.${namespace}/`)
    }
  })
  after(async () => {
    for (const stream of streams) stream.kill()
    await cluster?.stop()
  })

  async function started(pod: string, ...args: readonly string[]): Promise<PodStream> {
    const stream = await PodStream.start(cluster, pod, args)
    streams.push(stream)
    return stream
  }

  /** Waits until what a pod asks goes through the mesh. */
  async function meshed(pod: string, url: string): Promise<void> {
    const stream = await started(pod, 'follow', url)
    await stream.until('an answer through the mesh', ({ isMeshed }) => isMeshed === true)
    await stream.end()
  }

  test('an installation by the command line is ready on both nodes, and says so', async () => {
    const { agents, controllers } = JSON.parse(await mesh.run('status', '-o', 'json')) as Record<string, object[]>
    assert.equal(agents!.length, 2)
    assert.equal(controllers!.length, 2)
  })

  test('a labelled namespace is meshed as it runs, and comes out of the mesh likewise, without a cut connection', async (t) => {
    const podsOf = async (): Promise<Pods> => cluster.get<Pods>('pods', '-n', 'moved')
    const earlier = await podsOf()
    const held = [
      await started('client.moved', 'hold', 'near.moved', '9000'),
      await started('client.moved', 'hold', 'far.moved', '9000'),
    ]
    const seen = [
      await started('client.moved', 'follow', 'http://near.moved/'),
      await started('client.moved', 'follow', 'http://far.moved/'),
    ]
    for (const stream of seen) assert.equal(stream.last['isMeshed'], false)

    for (const isMeshed of [true, false]) {
      const since = await mesh.label('moved', isMeshed)
      for (const stream of seen) {
        const line = await stream.until(`isMeshed ${isMeshed}`, (one) => one['isMeshed'] === isMeshed, since)
        t.diagnostic(`${isMeshed ? 'meshed' : 'left the mesh'} ${line.time - since} ms after kubectl label`)
      }
      // One that was opened in the mesh survives it, too.
      if (isMeshed)
        held.push(
          await started('client.moved', 'hold', 'near.moved', '9000'),
          await started('client.moved', 'hold', 'far.moved', '9000'),
        )
    }
    for (const stream of seen) {
      await stream.end()
      assert.deepEqual(
        stream.lines.filter(({ status }) => status !== 200),
        [],
        'every request was answered',
      )
    }
    for (const stream of held) assert.equal((await stream.end())['error'], null)
    const facts = ({ items }: Pods): object[] =>
      items.map(({ metadata, status }) => [metadata.uid, status.containerStatuses.map((one) => one.restartCount)])
    assert.deepEqual(facts(await podsOf()), facts(earlier))
  })

  test('between nodes there is TLS to the tunnels’ port and nothing else', async () => {
    const addresses = (await cluster.get<Pods>('pods', '-n', 'shop', '-l', 'app=far')).items[0]!.status.podIPs
    const capture = await WireCapture.start(cluster, 'node1')
    const urls = ['far.shop', ...addresses.map(({ ip }) => (ip.includes(':') ? `[${ip}]:8080` : `${ip}:8080`))]
    for (const host of urls) {
      const [answer] = await getFrom(
        cluster,
        'client.shop',
        `http://${host}/${MARKER}`,
        '--header',
        `x-mark: ${MARKER}`,
      )
      assert.equal(answer!.path, `/${MARKER}`)
      assert.match(answer!.headers['x-forwarded-client-cert']!, new RegExp(CLIENT_IDENTITY))
    }
    assert.equal(await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9000', MARKER), MARKER)
    assert.match(await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9001'), /^220 far-/)
    const report = await capture.stop()
    assert.deepEqual(report.examples, [])
    assert.equal(report.offences, 0)
    assert.ok(report.records > 10, `${report.records} TLS records`)
    assert.equal(capture.hasSeen(MARKER), false)
  })

  test('on one node HTTP, TCP and a server that speaks first work alike, with the client’s identity', async () => {
    const [answer] = await getFrom(cluster, 'client.shop', 'http://near.shop/')
    assert.match(answer!.headers['x-forwarded-client-cert']!, new RegExp(CLIENT_IDENTITY))
    assert.equal(await runInPod(cluster, 'client.shop', 'talk', 'near.shop', '9000', 'hello'), 'hello')
    assert.match(await runInPod(cluster, 'client.shop', 'talk', 'near.shop', '9001'), /^220 near-/)
  })

  test('both ends count requests and connections, with mutual TLS and who spoke to whom', async (t: TestContext) => {
    await getFrom(cluster, 'client.shop', 'http://far.shop/', '--count', '5')
    await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9000', 'hello')
    const labels = {
      source_workload: 'client',
      source_principal: CLIENT_IDENTITY,
      destination_workload: 'far',
      destination_service: 'far.shop.svc.cluster.local',
      connection_security_policy: 'mutual_tls',
    }
    const ends = { source: 'node1', destination: 'node2' }
    for (const [reporter, node] of Object.entries(ends)) {
      const requests = await mesh.counted(node, 'istio_requests_total', { ...labels, reporter, response_code: '200' })
      assert.ok(requests.value >= 5)
      t.diagnostic(`${node}: ${requests.value} requests by reporter ${reporter}`)
      await mesh.counted(node, 'istio_tcp_connections_opened_total', { ...labels, reporter })
    }
  })

  test('a split by weight and a route by header are in effect when kubectl has applied them', async (t) => {
    const seen = await started('client.shop', 'follow', 'http://web.shop/', '--header', 'x-version: two')
    await cluster.apply(
      rule('DestinationRule', 'networking.istio.io/v1', 'web', 'shop', {
        host: 'web',
        subsets: ['v1', 'v2'].map((version) => ({ name: version, labels: { version } })),
      }),
    )
    const to = (subset: string, weight?: number): object => ({ destination: { host: 'web', subset }, weight })
    const routes = (weights: readonly [number, number], chosen: string): object =>
      rule('VirtualService', 'networking.istio.io/v1', 'web', 'shop', {
        hosts: ['web'],
        http: [
          { match: [{ headers: { 'x-version': { exact: 'two' } } }], route: [to(chosen)] },
          { route: [to('v1', weights[0]), to('v2', weights[1])] },
        ],
      })
    await cluster.apply(routes([80, 20], 'v1'))
    await seen.steady('the first rule', ({ version }) => version === 'v1')
    for (const chosen of ['v2', 'v1']) {
      const change = (): Promise<void> => cluster.apply(routes([80, 20], chosen))
      await inForce(seen, t, `route to ${chosen}`, change, ({ version }) => version === chosen)
    }
    await seen.end()
    const split = await versionsOf('http://web.shop/')
    // 200 of 0.2 each: these bounds are seven standard deviations away.
    assert.ok(split['v2']! > 2 && split['v2']! < 80, JSON.stringify(split))
    const whole = await started('client.shop', 'follow', 'http://web.shop/')
    await cluster.apply(routes([0, 100], 'v1'))
    await whole.steady('the whole weight', ({ version }) => version === 'v2')
    await whole.end()
    assert.deepEqual(await versionsOf('http://web.shop/'), { v2: REQUESTS })
    await cluster.kubectl(['delete', '-n', 'shop', 'virtualservice,destinationrule', 'web'])
  })

  test('STRICT refuses a pod outside the mesh, at every port, and lets those inside and the kubelet’s probes by', async (t) => {
    const isRefused = ({ error }: Line): boolean => error === 'ECONNRESET' || error === 'ECONNREFUSED'
    const outside = await started('stranger.outside', 'follow', 'http://web.strict/')
    assert.equal(outside.last['status'], 200)
    assert.equal(outside.last['isMeshed'], false)
    const strict = rule('PeerAuthentication', 'security.istio.io/v1', 'default', 'strict', { mtls: { mode: 'STRICT' } })
    await inForce(outside, t, 'STRICT', () => cluster.apply(strict), isRefused)
    // By the pods of both nodes.
    await outside.steady('a refusal', isRefused)
    assert.match(await failureOf('stranger.outside', 'talk', 'web.strict', '9000', 'hello'), /ECONNRE|nothing came/)
    assert.match(await failureOf('stranger.outside', 'talk', 'web.strict', '9001'), /ECONNRE|nothing came/)
    assert.equal(await runInPod(cluster, 'client.shop', 'talk', 'web.strict', '9000', 'hello'), 'hello')
    // Every kind of probe, of pods that have never been anything but STRICT: they are ready because the probes pass.
    await cluster.apply(...probedPods('strict'))
    await podsReady(cluster, '-n', 'strict', 'pod', '--all')
    const pods = await cluster.get<Pods>('pods', '-n', 'strict')
    for (const { status } of pods.items) assert.equal(status.containerStatuses[0]!.restartCount, 0)
    const [http] = pods.items.filter(({ metadata }) => metadata.name === 'probed-http')
    for (const { ip } of http!.status.podIPs) {
      const host = ip.includes(':') ? `[${ip}]` : ip
      assert.match(await runInPod(cluster, 'stranger.outside', 'get', `http://${host}:8080/`), /ECONNRE/)
    }
    await outside.end()
  })

  test('a policy denies by path, and by identity where there is no HTTP', async (t) => {
    const seen = await started('client.shop', 'follow', 'http://web.denied/secret')
    assert.equal(seen.last['status'], 200)
    const policies = [
      rule('AuthorizationPolicy', 'security.istio.io/v1', 'deny', 'denied', {
        action: 'DENY',
        rules: [{ to: [{ operation: { ports: ['8080'], paths: ['/secret'] } }] }],
      }),
      rule('AuthorizationPolicy', 'security.istio.io/v1', 'deny-echo', 'denied', {
        action: 'DENY',
        rules: [{ from: [{ source: { namespaces: ['shop'] } }], to: [{ operation: { ports: ['9000'] } }] }],
      }),
    ]
    await inForce(
      seen,
      t,
      'DENY',
      () => cluster.apply(...policies),
      ({ status }) => status === 403,
    )
    await seen.steady('a denial', ({ status }) => status === 403)
    await getFrom(cluster, 'client.shop', 'http://web.denied/open')
    assert.match(await failureOf('client.shop', 'talk', 'web.denied', '9000', 'hello'), /ECONNRE|nothing came/)
    assert.match(await runInPod(cluster, 'client.shop', 'talk', 'web.denied', '9001'), /^220 /)
    await seen.end()
  })

  test('a new pod’s first connection is in the mesh: jobs end as before, init containers are served', async () => {
    const once = { image: APP_IMAGE_NAME, args: ['get', 'http://far.shop/'] }
    await cluster.apply(
      {
        apiVersion: 'batch/v1',
        kind: 'Job',
        metadata: { name: 'work', namespace: 'shop' },
        spec: {
          completions: 4,
          parallelism: 4,
          template: { spec: { restartPolicy: 'Never', containers: [{ name: 'work', ...once }] } },
        },
      },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'prepared', namespace: 'shop' },
        spec: {
          terminationGracePeriodSeconds: 1,
          initContainers: [{ name: 'prepare', ...once }],
          containers: [{ name: 'main', image: APP_IMAGE_NAME, args: ['wait'] }],
        },
      },
    )
    await cluster.kubectl(['wait', '-n', 'shop', '--for=condition=Complete', 'job/work', '--timeout=90s'])
    await podsReady(cluster, '-n', 'shop', 'pod/prepared')
    const logs = await cluster.kubectl(['logs', '-n', 'shop', '-l', 'job-name=work', '--tail=-1'])
    const prepared = await cluster.kubectl(['logs', '-n', 'shop', 'prepared', '-c', 'prepare'])
    const lines = `${logs}${prepared}`.trim().split('\n')
    assert.equal(lines.length, 5)
    for (const line of lines) {
      const response = JSON.parse(line) as { status: number; body: string }
      assert.equal(response.status, 200, line)
      assert.match(
        (JSON.parse(response.body) as Answer).headers['x-forwarded-client-cert']!,
        new RegExp(CLIENT_IDENTITY),
      )
    }
  })

  test('pods of a StatefulSet answer by their own names, through the mesh', async () => {
    await cluster.apply(...statefulSet('store', 'shop'))
    await cluster.kubectl(['rollout', 'status', '-n', 'shop', 'statefulset/store', '--timeout=90s'])
    for (const pod of ['store-0', 'store-1']) {
      const [answer] = await getFrom(cluster, 'client.shop', `http://${pod}.store.shop:8080/`)
      assert.equal(answer!.pod, pod)
      assert.match(answer!.headers['x-forwarded-client-cert']!, new RegExp(CLIENT_IDENTITY))
      assert.match(
        await runInPod(cluster, 'client.shop', 'talk', `${pod}.store.shop`, '9001'),
        new RegExp(`^220 ${pod} `),
      )
    }
  })

  /** Answers of each version to a number of requests. */
  async function versionsOf(url: string): Promise<Record<string, number>> {
    const counts: Record<string, number> = {}
    for (const { version } of await getFrom(cluster, 'client.shop', url, '--count', `${REQUESTS}`)) {
      counts[version] = (counts[version] ?? 0) + 1
    }
    return counts
  }

  /** What a client that must fail complains of. */
  async function failureOf(pod: string, ...args: readonly string[]): Promise<string> {
    return runInPod(cluster, pod, ...args).then(
      (output) => `succeeded: ${output}`,
      (error: Error) => error.message,
    )
  }
})

/** Makes a change, waits until what a stream sees shows it, and tells how long that took. */
async function inForce(
  stream: PodStream,
  t: TestContext,
  what: string,
  change: () => Promise<void>,
  isIt: (line: Line) => boolean,
): Promise<void> {
  const begin = Date.now()
  await change()
  const applied = Date.now()
  const { time } = await stream.until(what, isIt, begin)
  t.diagnostic(`${what}: seen ${time - begin} ms after kubectl apply began, which took ${applied - begin} ms`)
}

function rule(kind: string, apiVersion: string, name: string, namespace: string, spec: object): object {
  return { apiVersion, kind, metadata: { name, namespace }, spec }
}

/** One service with a Deployment of each version, one on each node. */
function versions(namespace: string): readonly object[] {
  const [, service] = server({ name: 'web', namespace })
  const deployments = ['v1', 'v2'].map((version, i) => {
    const [deployment] = server({ name: `web-${version}`, namespace, version, node: `node${i + 1}` })
    return JSON.parse(JSON.stringify(deployment).replaceAll(`"app":"web-${version}"`, '"app":"web"')) as object
  })
  return [service!, ...deployments]
}

/** A pod for each kind of probe. A failed one of the second kind restarts the container at once. */
function probedPods(namespace: string): readonly object[] {
  const probes: Record<string, object> = {
    http: { httpGet: { path: '/', port: 8080 } },
    tcp: { tcpSocket: { port: 9000 } },
    grpc: { grpc: { port: 9002 } },
    exec: { exec: { command: ['/usr/bin/node', '/app/main.ts', 'talk', '127.0.0.1', '9001'] }, timeoutSeconds: 10 },
  }
  return Object.entries(probes).map(([kind, probe]) => {
    const args = ['serve', '--http', '8080', '--tcp', '9000', '--server-first', '9001', '--grpc-health', '9002']
    const readinessProbe = { ...probe, periodSeconds: 1, successThreshold: 3 }
    const livenessProbe = { ...probe, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 2 }
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: `probed-${kind}`, namespace },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'server', image: APP_IMAGE_NAME, args, readinessProbe, livenessProbe }],
      },
    }
  })
}

function statefulSet(name: string, namespace: string): readonly object[] {
  const [deployment, service] = server({ name, namespace, replicas: 2 }) as [{ spec: object }, { spec: object }]
  const ports = [8080, 9000, 9001].map((port) => ({ name: port === 8080 ? 'http' : `tcp-${port}`, port }))
  return [
    { ...service, spec: { clusterIP: 'None', selector: { app: name }, ports } },
    {
      ...deployment,
      kind: 'StatefulSet',
      spec: { ...deployment.spec, serviceName: name, podManagementPolicy: 'Parallel' },
    },
  ]
}

function namespaces(...names: readonly string[]): readonly object[] {
  return names.map((name) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } }))
}
