/** Metrics, access log and live table of connections that the kernel carries, in a live mesh. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { LiveMesh } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'
import { PrometheusText, type Sample } from '../support/prometheus-text.ts'

const OPENED = 'istio_tcp_connections_opened_total'
const CLOSED = 'istio_tcp_connections_closed_total'
/** What the client says, with its newline, and what it hears. */
const SAID = 'hi\n'.length
const HEARD = 'hello hi\n'.length

const DENIAL = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-client, namespace: default }
spec:
  action: DENY
  selector: { matchLabels: { app: near } }
  rules: [{ from: [{ source: { principals: ["cluster.local/ns/default/sa/client"] } }] }]
`

describe('what is told of carried connections in a live mesh', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['talk'] },
        { name: 'far', node: 'node2' },
      ],
      services: ['near'],
      agentFlags: ['--access-log'],
    })
  })

  after(async () => {
    await mesh?.close()
  })

  const near = (): readonly string[] => mesh.plan.services.find(({ name }) => name === 'near')!.addresses

  async function scrape(node: NodeName): Promise<PrometheusText> {
    return new PrometheusText(await mesh.metrics(node))
  }

  /** The access log of a node's agent. */
  function logLines(node: NodeName): Record<string, unknown>[] {
    return mesh
      .log(`agent-${node}`)
      .split('\n')
      .filter((line) => line.includes('"protocol":"TCP"'))
      .map((line) => JSON.parse(line))
  }

  /** The series of one client and reporter. */
  function of(text: PrometheusText, family: string, client: string, reporter: string): Sample[] {
    return text.find(family, { source_workload: client, destination_workload: 'near', reporter })
  }

  function sum(samples: readonly Sample[]): number {
    return samples.reduce((total, { value }) => total + value, 0)
  }

  async function visit(client: string): Promise<void> {
    for (const address of near()) {
      const talker = new Talker(mesh, client, address)
      assert.equal(await talker.say('hi'), 'hello hi')
      await talker.close()
    }
  }

  it('has the same series and labels as what the proxies carry, for both reporters', async () => {
    await visit('client')
    await visit('far')
    assert.equal(await mesh.metric('node1', 'weft_carried_connections_total'), 2)
    assert.equal(await mesh.metric('node2', 'weft_carried_connections_total'), 0)
    await mesh.eventually('all connections have ended', async () => {
      const [carrying, proxying] = [await scrape('node1'), await scrape('node2')]
      return sum(of(carrying, CLOSED, 'client', 'source')) === 2 && sum(of(proxying, CLOSED, 'far', 'source')) === 2
    })
    const carrying = await scrape('node1')
    const proxying = await scrape('node2')
    for (const family of [OPENED, CLOSED, 'istio_tcp_received_bytes_total', 'istio_tcp_sent_bytes_total']) {
      for (const [reporter, proxies] of [
        ['source', proxying],
        ['destination', carrying],
      ] as const) {
        const carried = of(carrying, family, 'client', reporter)
        const proxied = of(proxies, family, 'far', reporter)
        // The one is called far and its principal too; all else is the same, values included.
        const renamed = proxied.map(({ name, labels, value }) => {
          const entries = Object.entries(labels).map(([label, text]) => [label, text.replace(/\bfar$/, 'client')])
          return { name, labels: Object.fromEntries(entries), value }
        })
        assert.deepEqual(carried, renamed, `${family} of the ${reporter}`)
      }
    }
    assert.equal(sum(of(carrying, 'istio_tcp_received_bytes_total', 'client', 'source')), 2 * SAID)
    assert.equal(sum(of(carrying, 'istio_tcp_sent_bytes_total', 'client', 'source')), 2 * HEARD)
    const [trips] = carrying.find('weft_carried_round_trip_seconds_count', { source_workload: 'client' })
    assert.ok(trips!.value >= 2)
  })

  it('has a line of the access log with the same fields, and some of its own', async () => {
    await mesh.eventually('lines are written', () =>
      Promise.resolve(
        logLines('node1').filter((line) => line['carried_by']).length >= 2 && logLines('node2').length >= 2,
      ),
    )
    const carried = logLines('node1').find((line) => line['carried_by'] === 'kernel')!
    const proxied = logLines('node2')[0]!
    assert.deepEqual(
      Object.keys(carried).filter((field) => field !== 'carried_by' && field !== 'round_trip_us'),
      Object.keys(proxied),
    )
    for (const field of ['reporter', 'bytes_received', 'bytes_sent', 'response_flags', 'details', 'mutual_tls']) {
      assert.equal(carried[field], proxied[field], field)
    }
    assert.equal(carried['destination_service'], proxied['destination_service'])
    assert.equal(carried['source_workload'], 'client')
    assert.match(String(carried['downstream_remote_address']), new RegExp(`^${mesh.plan.pod('client').addresses[0]}:`))
    assert.equal(carried['upstream_host'], `${mesh.plan.pod('near').addresses[0]}:9000`)
  })

  it('shows open connections, with their bytes', async () => {
    const before = await scrape('node1')
    const talker = new Talker(mesh, 'client', near()[0]!)
    assert.equal(await talker.say('hi'), 'hello hi')
    const during = await scrape('node1')
    for (const reporter of ['source', 'destination']) {
      const grown = (family: string): number =>
        sum(of(during, family, 'client', reporter)) - sum(of(before, family, 'client', reporter))
      assert.deepEqual([OPENED, CLOSED].map(grown), [1, 0])
      assert.equal(grown('istio_tcp_received_bytes_total'), SAID)
      assert.equal(grown('istio_tcp_sent_bytes_total'), HEARD)
    }
    assert.equal(during.value('weft_carried_open_connections', { pod: 'default/client' }), 1)
    const shown = JSON.parse(await mesh.get('node1', 15_000, '/connections')) as Record<string, unknown>[]
    const [connection] = shown.filter((one) => one['carriedBy'] === 'kernel')
    assert.equal(connection!['originalDestination'], `${near()[0]}:9000`)
    assert.deepEqual([connection!['receivedBytes'], connection!['sentBytes']], [SAID, HEARD])
    await talker.close()
  })

  it('counts and logs denials with their policy, and connections that it ends', async () => {
    const expelled = new Talker(mesh, 'client', near()[0]!)
    assert.equal(await expelled.say('hi'), 'hello hi')
    mesh.writeRules('policy.yaml', DENIAL)
    assert.notEqual(await expelled.ended, 'end')
    await mesh.eventually('the policy is in force', async () => {
      const talker = new Talker(mesh, 'client', near()[0]!)
      const ended = await Promise.race([talker.ended, talker.say('hi')])
      if (ended === 'hello hi') await talker.close()
      return ended === 'EPERM' || ended === 'ECONNREFUSED'
    })
    const text = await scrape('node1')
    for (const reporter of ['source', 'destination']) {
      const denied = of(text, CLOSED, 'client', reporter).filter(({ labels }) => labels['response_flags'] === 'UAEX')
      assert.ok(sum(denied) >= 1)
    }
    assert.ok(text.value('weft_carried_denied_total') >= 1)
    await mesh.eventually('both lines are written', () => {
      const lines = logLines('node1').filter((line) => line['response_flags'] === 'UAEX')
      for (const line of lines) assert.equal(line['details'], 'denied by policy default/no-client')
      const ended = lines.filter((line) => line['upstream_host'] !== '')
      const denied = lines.filter((line) => line['upstream_host'] === '')
      for (const line of ended) assert.deepEqual([line['bytes_received'], line['bytes_sent']], [SAID, HEARD])
      return Promise.resolve(ended.length === 1 && denied.length >= 1)
    })
    mesh.removeRules('policy.yaml')
    await mesh.eventually('it is allowed again', async () => {
      const talker = new Talker(mesh, 'client', near()[0]!)
      const answer = await talker.say('hi')
      if (answer === 'hello hi') await talker.close()
      return answer === 'hello hi'
    })
  })

  it('counts and logs what happened while there was no agent, once', async () => {
    const talker = new Talker(mesh, 'client', near()[0]!)
    assert.equal(await talker.say('hi'), 'hello hi')
    const logged = (): number => mesh.log('agent-node1').split('"carried_by"').length - 1
    let before = await scrape('node1')
    await mesh.eventually('what has ended is logged', async () => {
      before = await scrape('node1')
      return logged() === sum(before.find(CLOSED, { source_workload: 'client', reporter: 'source' }))
    })
    const loggedBefore = logged()
    await mesh.kill('agent-node1')
    await visit('client')
    assert.equal(await talker.say('hi'), 'hello hi')
    await talker.close()
    await mesh.startAgent('node1')
    await mesh.eventually('all have ended', async () => {
      return sum(of(await scrape('node1'), CLOSED, 'client', 'source')) === 3
    })
    const text = await scrape('node1')
    for (const reporter of ['source', 'destination']) {
      assert.equal(sum(of(text, OPENED, 'client', reporter)), 2)
      assert.equal(sum(of(text, 'istio_tcp_received_bytes_total', 'client', reporter)), 3 * SAID)
      assert.equal(sum(of(text, 'istio_tcp_sent_bytes_total', 'client', reporter)), 3 * HEARD)
    }
    assert.deepEqual(
      of(text, OPENED, 'client', 'source')[0]!.labels,
      of(before, OPENED, 'client', 'source').find(({ labels }) => labels['response_flags'] === '-')!.labels,
    )
    await mesh.eventually('three lines are written', () => Promise.resolve(logged() - loggedBefore === 3))
  })

  it('counts every connection once while one agent gives way to another', async () => {
    const talker = new Talker(mesh, 'client', near()[0]!)
    assert.equal(await talker.say('hi'), 'hello hi')
    const opened = async (): Promise<number> => sum(of(await scrape('node1'), OPENED, 'client', 'source'))
    const received = async (): Promise<number> =>
      sum(of(await scrape('node1'), 'istio_tcp_received_bytes_total', 'client', 'source'))
    const before = [await opened(), await received()] as const
    let visits = 0
    let isOver = false
    const visiting = (async () => {
      do {
        await visit('client')
        visits++
      } while (!isOver)
    })()
    await mesh.upgradeAgent('node1')
    isOver = true
    await visiting
    assert.equal(await talker.say('hi'), 'hello hi')
    await talker.close()
    const expected = [before[0] + 2 * visits, before[1] + (2 * visits + 1) * SAID] as const
    await mesh.eventually('everything is counted', async () => (await received()) >= expected[1])
    assert.deepEqual([await opened(), await received()], expected)
  })
})
