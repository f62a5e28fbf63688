/**
 * Hosts of ServiceEntries in a whole mesh: the name leads to a virtual IP that only the mesh knows, the connection to it
 * to the host's endpoints, given by address or by a name that the agent looks up.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { after, before, describe, it } from 'node:test'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'
import { lacks } from '../support/programs.ts'

/** Of pod `names`, the third of the plan: on node2, outside the mesh. The agents must know it before there is a plan. */
const RESOLVER = '198.18.2.12'

function entry(name: string, spec: string): string {
  return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: ${name}, namespace: default }
spec: { hosts: [${name}.example], ports: [{ number: 80, name: http, protocol: HTTP, targetPort: 8080 }], ${spec} }
`
}

describe('hosts of ServiceEntries', { skip: needsRoot.skip || lacks('dig', 'dnsmasq', 'nginx', 'curl') }, () => {
  let mesh: LiveMesh
  let site: readonly string[]

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'site', node: 'node2', namespace: 'outside', programs: ['web'] },
        { name: 'names', node: 'node2', namespace: 'outside' },
      ],
      controllerFlags: ['--virtual-ips-ipv4', '198.19.240.0/20', '--virtual-ips-ipv6', 'fd00:240::/48'],
      agentFlags: ['--endpoint-resolvers', RESOLVER],
    })
    assert.ok(mesh.plan.pod('names').addresses.includes(RESOLVER), mesh.plan.pod('names').addresses.join())
    site = mesh.plan.pod('site').addresses
    mesh.startIn('names', 'dnsmasq', [
      ...(['dnsmasq', '--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null'] as const),
      ...['--user=root', '--pid-file=', '--bind-interfaces', '--listen-address', RESOLVER],
      ...['--local=/example/', `--host-record=backend.example,${site[0]}`, '--mx-host=fixed.example,mail.example,10'],
    ])
    const { netns } = mesh.plan.pod('client')
    writeFileSync(`/etc/netns/${netns}/hosts`, '127.0.0.1 localhost\n')
    writeFileSync(
      `/etc/netns/${netns}/resolv.conf`,
      `nameserver ${RESOLVER}\nsearch default.svc.cluster.local\noptions ndots:5\n`,
    )
    mesh.writeRules('fixed.yaml', entry('fixed', `resolution: STATIC, endpoints: [{ address: ${site[0]} }]`))
    mesh.writeRules(
      'hidden.yaml',
      entry('hidden', `exportTo: [outside], resolution: STATIC, endpoints: [{ address: ${site[0]} }]`),
    )
    mesh.writeRules('named.yaml', entry('named', 'resolution: DNS, endpoints: [{ address: backend.example }]'))
    await mesh.eventually('the entries are known', async () => (await dig('named.example')) !== '')
  })

  after(async () => {
    await mesh?.close()
  })

  async function dig(...args: string[]): Promise<string> {
    const { stdout } = await mesh.run('client', ['dig', '+short', '+tries=1', '+timeout=3', `@${RESOLVER}`, ...args])
    return stdout.trim()
  }

  it('have virtual IPs of both families, and keep their other records', async () => {
    assert.match(await dig('fixed.example'), /^198\.19\.2(4[0-9]|5[0-5])\.[0-9]+$/)
    assert.match(await dig('AAAA', 'fixed.example'), /^fd00:240:/)
    assert.equal(await dig('MX', 'fixed.example'), '10 mail.example.')
    assert.equal(await dig('hidden.example'), '', 'another namespace has it')
  })

  for (const [host, how] of [
    ['fixed', 'by its address'],
    ['named', 'by a name that the agent looks up'],
  ] as const) {
    for (const family of ['-4', '-6'] as const) {
      it(`lead over ${family === '-4' ? 'IPv4' : 'IPv6'} to the endpoint that is given ${how}`, async () => {
        await mesh.eventually('the endpoint is known', async () => {
          return (await mesh.code('client', `http://${host}.example/`, family)) === '200'
        })
      })
    }
  }
})
