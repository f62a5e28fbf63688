/** Weft on a real cluster of two nodes, as its users meet it: install, label, look. */
import assert from 'node:assert/strict'
import { after, before, describe, type TestContext, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { runWeft } from '../support/run-weft.ts'
import { type Answer, clientPod, getFrom, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { APP_IMAGE_NAME } from './support/images.ts'
import { Mesh, NAMESPACE } from './support/mesh.ts'
import { podMonitorCrd } from './support/pod-monitor-crd.ts'
import { type Line, PodStream } from './support/pod-stream.ts'
import {
  annotationsJob,
  needsPrometheus,
  type PodMonitor,
  Prometheus,
  podMonitorJob,
  SCRAPE_INTERVAL,
  type Target,
} from './support/prometheus.ts'
import { WireCapture } from './support/wire-capture.ts'

/** No header, path or body of a test has it by chance. */
const MARKER = 'seen-in-clear-text-4711'

const CLIENT_IDENTITY = 'spiffe://cluster.local/ns/shop/sa/default'

/** PodMonitors that look as often as the rest of Prometheus here. */
const MONITORING = ['monitoring.podMonitor=true', `monitoring.podMonitorInterval=${SCRAPE_INTERVAL}`].flatMap(
  (value) => ['--set', value],
)

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
  let prometheus: Prometheus | null = null
  const streams: PodStream[] = []

  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    await cluster.apply(...namespaces('shop', 'moved', 'strict', 'denied', 'measured', 'outside'))
    await cluster.apply(
      ...['shop', 'moved'].flatMap((namespace) => [
        clientPod('client', 'node1', namespace),
        ...server({ name: 'near', namespace, node: 'node1' }),
        ...server({ name: 'far', namespace, node: 'node2' }),
      ]),
      ...['shop', 'strict', 'denied'].flatMap((namespace) => versions(namespace)),
      clientPod('stranger', 'node1', 'outside'),
      ...measuredPods('measured'),
    )
    await podMonitorCrd(cluster)
    mesh = await Mesh.install(cluster, ...MONITORING)
    for (const namespace of ['shop', 'moved']) {
      await podsReady(cluster, '-n', namespace, 'pod/client')
      for (const name of ['near', 'far']) await rolledOut(cluster, name, namespace)
    }
    for (const namespace of ['shop', 'strict', 'denied']) {
      for (const name of ['web-v1', 'web-v2']) await rolledOut(cluster, name, namespace)
      await mesh.label(namespace, true)
    }
    await podsReady(cluster, '-n', 'outside', 'pod/stranger')
    await podsReady(cluster, '-n', 'measured', 'pod', '--all')
    await mesh.label('measured', true)
    for (const namespace of ['shop', 'strict', 'denied']) {
      await meshed('client.shop', `http://web.${namespace}/`)
    }
  })
  after(async () => {
    for (const stream of streams) stream.kill()
    await prometheus?.stop()
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

  describe('seen by Prometheus', needsPrometheus(), () => {
    let seen: Prometheus
    const monitors: PodMonitor[] = []

    before(async () => {
      const { items } = await cluster.get<{ items: readonly PodMonitor[] }>('podmonitors', '-n', NAMESPACE)
      monitors.push(...items)
      seen = await Prometheus.start(cluster, [annotationsJob('annotations'), ...monitors.map(podMonitorJob)])
      prometheus = seen
    })

    /** Of the mesh itself, by where they are. */
    const ofMesh = ({ labels }: Target): boolean => labels['namespace'] === NAMESPACE
    const places = (targets: readonly Target[]): readonly string[] => targets.map(({ scrapeUrl }) => scrapeUrl).sort()

    test('annotations make one target of each agent and controller, and no other; all are up', async () => {
      const wanted = await scrapedPods(cluster)
      const targets = await seen.targetsUntil(
        'a scrape of every pod of the mesh',
        (target) => target.scrapePool === 'annotations' && ofMesh(target),
        (found) => found.length === wanted.length && found.every(({ health }) => health === 'up'),
      )
      assert.deepEqual(places(targets), wanted)
      const agents = targets.filter(({ scrapeUrl }) => new URL(scrapeUrl).port === '15020')
      assert.deepEqual(agents.map(({ labels }) => labels['node']).sort(), ['node1', 'node2'])
      await seen.until('1 of each in the series "up"', async () => {
        const up = await seen.query(`up{job="annotations",namespace="${NAMESPACE}"} == 1`)
        return up.length === wanted.length ? up : null
      })
    })

    test('PodMonitors, taken by the CRD as they are, find the same targets', async () => {
      const { out } = await runWeft('render', '--only=objects', ...MONITORING, '-o', 'json')
      const given = (JSON.parse(out) as { items: (PodMonitor & { kind: string })[] }).items.filter(isPodMonitor)
      assert.equal(given.length, 2)
      const specOf = ({ metadata, spec }: PodMonitor): object => ({ name: metadata.name, spec })
      assert.deepEqual(monitors.map(specOf), given.map(specOf), 'no field was dropped')
      const wanted = await scrapedPods(cluster)
      const targets = await seen.targetsUntil(
        'a scrape of every pod of the PodMonitors',
        ({ scrapePool }) => scrapePool.startsWith(`podMonitor/${NAMESPACE}/`),
        (found) => found.length === wanted.length && found.every(({ health }) => health === 'up'),
      )
      assert.deepEqual(places(targets), wanted)
    })

    test('it has who spoke to whom, by both ends, and what the controller does', async () => {
      await getFrom(cluster, 'client.shop', 'http://far.shop/', '--count', '5')
      await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9000', 'hello')
      const edge = [
        ['source_workload', 'client'],
        ['source_workload_namespace', 'shop'],
        ['source_principal', CLIENT_IDENTITY],
        ['destination_workload', 'far'],
        ['destination_workload_namespace', 'shop'],
        ['destination_service_name', 'far'],
        ['connection_security_policy', 'mutual_tls'],
      ].map(([label, value]) => `${label}="${value}"`)
      const ends = { source: 'node1', destination: 'node2' }
      for (const [reporter, node] of Object.entries(ends)) {
        const labels = [...edge, 'job="annotations"', `reporter="${reporter}"`].join(',')
        for (const name of [
          'istio_requests_total',
          'istio_tcp_connections_opened_total',
          'istio_tcp_sent_bytes_total',
        ]) {
          const found = await seen.until(`${name} by ${reporter}`, async () => {
            const series = await seen.query(`sum by (node) (${name}{${labels}}) > 0`)
            return series.length > 0 ? series : null
          })
          assert.deepEqual(
            found.map(({ metric }) => metric['node']),
            [node],
          )
        }
      }
      await seen.until('both agents, as controllers count them', async () => {
        const [agents] = await seen.query('sum(pilot_xds{job="annotations"})')
        return agents?.value === 2 ? agents : null
      })
    })

    test('metrics ports of pods: open by default; of STRICT pods to the mesh, and to others where a policy says so', async () => {
      await cluster.apply(
        rule('PeerAuthentication', 'security.istio.io/v1', 'closed', 'measured', {
          selector: { matchLabels: { app: 'closed' } },
          mtls: { mode: 'STRICT' },
        }),
        rule('PeerAuthentication', 'security.istio.io/v1', 'excepted', 'measured', {
          selector: { matchLabels: { app: 'excepted' } },
          mtls: { mode: 'STRICT' },
          portLevelMtls: { 8080: { mode: 'PERMISSIVE' } },
        }),
      )
      const healthOf = (targets: readonly Target[], pod: string): string | undefined =>
        targets.find(({ labels }) => labels['pod'] === pod)?.health
      const targets = await seen.targetsUntil(
        'a refusal by the STRICT pod alone',
        ({ labels }) => labels['namespace'] === 'measured',
        (found) => ['permissive', 'excepted', 'closed'].map((pod) => healthOf(found, pod)).join() === 'up,up,down',
      )
      assert.equal(targets.length, 3)
      // One in the mesh reads them all, by their addresses, with mutual TLS: no exception is needed.
      for (const { scrapeUrl } of targets) {
        assert.match(await runInPod(cluster, 'client.shop', 'get', scrapeUrl), /app_info/)
      }
      // The exception is that port's alone.
      const excepted = new URL(targets.find(({ labels }) => labels['pod'] === 'excepted')!.scrapeUrl).hostname
      assert.match(await failureOf('stranger.outside', 'talk', excepted, '9000', 'hello'), /ECONNRE|nothing came/)
    })
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

/** Pods that ask to be scraped. */
function measuredPods(namespace: string): readonly object[] {
  const annotations = { 'prometheus.io/scrape': 'true', 'prometheus.io/port': '8080', 'prometheus.io/path': '/metrics' }
  return ['permissive', 'closed', 'excepted'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name }, annotations },
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [{ name: 'server', image: APP_IMAGE_NAME, args: ['serve', '--http', '8080', '--tcp', '9000'] }],
    },
  }))
}

/** Where the pods of the mesh are to be scraped. */
async function scrapedPods(cluster: Cluster): Promise<readonly string[]> {
  const { items } = await cluster.get<{
    items: readonly { metadata: { labels: Record<string, string> }; status: { podIP: string } }[]
  }>('pods', '-n', NAMESPACE)
  return items
    .map(({ metadata, status }) => {
      const port = metadata.labels['app.kubernetes.io/component'] === 'agent' ? 15020 : 15014
      return `http://${status.podIP}:${port}/metrics`
    })
    .sort()
}

function isPodMonitor({ kind }: { readonly kind: string }): boolean {
  return kind === 'PodMonitor'
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
