/**
 * A data path as a program of its own, for tests of what an idle connection costs: one pod of a mesh, on loopback, that
 * answers requests itself and serves tunnels; or, told so, the dialling end of many tunnel connections.
 *
 * Speaks with who forked it by messages: its ports when it listens, its memory for every question.
 */

import { Logger } from '../../src/base/log.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { trafficKey } from '../../src/model/route.ts'
import { clusterKey } from '../../src/model/service.ts'
import { FAILURE_BY_POLICY } from '../../src/model/workload.ts'
import { TunnelClient } from '../../src/proxy/hbone-client.ts'
import { LISTEN_HBONE, LISTEN_OUTBOUND, MeshProxy } from '../../src/proxy/mesh-proxy.ts'
import { WorkerRecorder } from '../../src/telemetry/worker-recorder.ts'
import { ORIGIN_ANY, type TlsMaterial } from '../../src/transport/conn.ts'
import { clusterOf, routeOf, SERVICE, workloadOf } from './proxy-objects.ts'
import { reactorKind } from './transports.ts'

/** What the program is told at its start. */
export interface IdlePlan {
  readonly material: TlsMaterial
  /** Loopback addresses of its own: where requests and tunnels arrive. */
  readonly address: string
  readonly requestPort: number
  readonly tunnelPort: number
}

/** `dial` opens tunnel connections to `address`; every question is answered with an IdleReport once it is done. */
export interface IdleQuestion {
  readonly dial?: { readonly address: string; readonly port: number; readonly identity: string; readonly count: number }
}

export interface IdleReport {
  readonly heapBytes: number
  readonly residentBytes: number
}

const plan = JSON.parse(process.argv[2]!) as IdlePlan
const transport = reactorKind.create()
const log = new Logger('idle', 'error', console.error)
const nowMs = (): number => performance.now()
const service = {
  ...SERVICE,
  addresses: [plan.address],
  ports: [{ ...SERVICE.ports[0]!, number: plan.requestPort }],
}
const cluster = clusterOf({ key: clusterKey(SERVICE.key, '', plan.requestPort), port: plan.requestPort })
const pod = workloadOf('reviews', { addresses: [plan.address] })
const client = workloadOf('client', { addresses: ['127.0.0.1'], services: [] })

const proxy = new MeshProxy({
  node: 'node1',
  trustDomain: plan.material.trustDomain,
  transport,
  recorder: new WorkerRecorder(null),
  log,
  sockets: { originIn: () => ORIGIN_ANY, appAddress: () => plan.address },
  nowMs,
  random: () => 0,
})
proxy.applyDelta({
  ...EMPTY_DELTA,
  workloads: [pod, client],
  services: [service],
  traffic: [
    {
      key: trafficKey('all', SERVICE.key, plan.requestPort),
      scope: 'all',
      service: SERVICE.key,
      port: plan.requestPort,
      protocol: SERVICE.ports[0]!.protocol,
      defaultCluster: cluster.key,
      clusters: [cluster],
      routes: [routeOf({ clusters: [], directResponse: { status: 200, body: 'yes\n' } })],
      tcpClusters: [],
    },
  ],
  pods: [pod, client].map(({ uid }) => ({ uid, netns: '', scope: 'all', failureMode: FAILURE_BY_POLICY })),
})
const context = transport.tlsContext(plan.material)
proxy.setCredential(context)
const { identity } = plan.material
await proxy.addPod({ uid: client.uid, identity }, [
  { role: LISTEN_OUTBOUND, target: { address: plan.address, port: plan.requestPort, isShared: false } },
])
await proxy.addPod({ uid: pod.uid, identity }, [
  { role: LISTEN_HBONE, target: { address: plan.address, port: plan.tunnelPort, isShared: false } },
])

const timers = new TimerWheel()
/** Kept, or their memory would not be counted. */
const clients: TunnelClient[] = []

async function dial({ address, port, identity: expected, count }: NonNullable<IdleQuestion['dial']>): Promise<void> {
  const options = { address, port, origin: ORIGIN_ANY, timeoutMs: 10_000, tls: context, expectedIdentities: [expected] }
  const owner = { onConnected: () => {}, onUnusable: () => {}, onTunnelClosed: () => {} }
  for (let index = 0; index < count; index++) {
    const made = new TunnelClient({ transport, log, timers, nowMs }, options, owner)
    clients.push(made)
    // Few at a time: many handshakes at once leave holes in the allocator's memory that are not the connections'.
    if (index % 10 === 9) while (!clients.every(({ isOpen }) => isOpen)) await turn()
  }
  while (!clients.every(({ isOpen }) => isOpen)) await turn()
}

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1))
}

/** With flavor last-resort also what V8 keeps for a while, such as code that was replaced. */
const collect = globalThis.gc as unknown as (options: Readonly<Record<'type' | 'execution' | 'flavor', string>>) => void

process.on('message', async (question: IdleQuestion) => {
  if (question.dial !== undefined) await dial(question.dial)
  for (let round = 0; round < 3; round++) {
    await turn()
    collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  }
  const { heapUsed, rss } = process.memoryUsage()
  process.send!({ heapBytes: heapUsed, residentBytes: rss } satisfies IdleReport)
})
process.on('disconnect', () => process.exit(0))
process.send!({ heapBytes: 0, residentBytes: 0 } satisfies IdleReport)
