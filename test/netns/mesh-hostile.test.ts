/**
 * Who tries to get round the mesh, into it, or to bring it down: pods with all privileges in their own namespace, and
 * outsiders. The mesh must refuse, and must serve everybody else meanwhile and afterwards.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { STEER_MARK } from '../../src/kernel/layout.generated.ts'
import { CLIENT_PROGRAM } from '../support/answering-pod.ts'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { needsRoot } from '../support/netns.ts'

const SIGNING = fileURLToPath(new URL('../support/live-signing.ts', import.meta.url))
const CONNECT = fileURLToPath(new URL('../support/live-connect.ts', import.meta.url))

/** Marks that a pod may try: none of ours, the one that steers, and what other meshes use. */
const MARKS = ['1', '0x539', String(STEER_MARK), '0xffffffff']

describe('hostile pods and outsiders', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'near-vault', node: 'node1', namespace: 'vault', programs: ['web', 'talk'] },
        { name: 'far-vault', node: 'node2', namespace: 'vault', programs: ['web', 'talk'] },
        { name: 'outsider', node: 'node2', namespace: 'outside' },
      ],
      services: ['near', 'far', 'near-vault', 'far-vault'],
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: friends, namespace: vault }
spec:
  action: ALLOW
  rules: [{ from: [{ source: { principals: ["cluster.local/ns/default/sa/client"] } }] }]
`,
      },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  const addressOf = (pod: string, family: 0 | 1 = 0): string => mesh.plan.pod(pod).addresses[family]!

  /** Lines of the test client, run in a pod with these steps. */
  async function attempt(pod: string, ...steps: string[]): Promise<string[]> {
    const { stdout } = await mesh.run(pod, [CLIENT_PROGRAM, ...steps])
    return stdout.trimEnd().split('\n')
  }

  /** A certificate for `identity`, asked for with the credential of `node`. */
  async function sign(node: NodeName, identity: string, out: string): Promise<string> {
    const command = [process.execPath, SIGNING, mesh.credentials(node), mesh.plan.controller, identity, out] as const
    return (await mesh.onNode(node, [...command])).trim()
  }

  /** Everybody else is served. */
  async function assertServing(): Promise<void> {
    for (const host of ['near', 'far', 'near-vault', 'far-vault']) {
      assert.equal(await mesh.code('client', `http://${host}:8080/`), '200', host)
    }
  }

  describe('who want past the capture', () => {
    for (const vault of ['near-vault', 'far-vault']) {
      it(`gain nothing by marking their sockets: ${vault} hears them only through the mesh`, async () => {
        for (const mark of MARKS) {
          for (const [family, address] of [
            ['4', addressOf(vault)],
            ['6', addressOf(vault, 1)],
          ] as const) {
            const steps = [family, 'set-mark', mark, 'connect', address, '9000', 'write', 'hi', 'read']
            // STRICT: an answer is the proof that it came with an identity.
            assert.equal((await attempt('client', ...steps)).at(-1), 'read hello hi', `${mark} to ${address}`)
            // The other pod has an identity as well, but not the right one.
            assert.notEqual((await attempt('near', ...steps)).at(-1), 'read hello hi')
          }
        }
      })

      it(`gain nothing by binding to an interface or an address: ${vault}`, async () => {
        for (const bind of [
          ['bind-device', 'eth0'],
          ['unprivileged', 'bind-device', 'eth0'],
          ['bind', addressOf('client')],
        ]) {
          const lines = await attempt(
            'client',
            '4',
            ...bind,
            'connect',
            addressOf(vault),
            '9000',
            'write',
            'hi',
            'read',
          )
          assert.equal(lines.at(-1), 'read hello hi', bind.join(' '))
        }
        const lines = await attempt('near', '4', 'bind-device', 'eth0', 'connect', addressOf(vault), '9000', 'read')
        assert.doesNotMatch(lines.at(-1)!, /hello/)
      })
    }

    it('find the proxy’s own ports closed, their own and those of others', async () => {
      for (const [from, to] of [
        ['client', 'client'],
        ['client', 'near'],
        ['client', 'far'],
        ['outsider', 'near'],
        ['outsider', 'far'],
      ] as const) {
        for (const port of [15_001, 15_006, 15_008]) {
          const answer = await mesh.curl(from, `http://${addressOf(to)}:${port}/`)
          assert.match(answer, /^curl: \((7|52|56)\)|^upstream connect error/, `${from} to ${to}:${port}: ${answer}`)
        }
      }
      await assertServing()
    })

    it('do not reach admin, nor the metrics of a loopback address, from their namespaces', async () => {
      for (const pod of ['client', 'far', 'outsider']) {
        for (const host of ['198.18.0.1', '198.18.0.2', '198.18.1.1', '198.18.2.1']) {
          for (const port of [15_000, 15_014]) {
            const answer = await mesh.curl(pod, '--max-time', '3', `http://${host}:${port}/config_dump`)
            assert.doesNotMatch(answer, /workloads|generation/, `${pod} reads ${host}:${port}`)
          }
        }
      }
    })
  })

  describe('who want another’s identity', () => {
    const own = 'spiffe://cluster.local/ns/default/sa/client'

    async function connect(pod: string, to: string, credentials: string, ...authorities: string[]): Promise<string[]> {
      const { stdout } = await mesh.run(pod, [process.execPath, CONNECT, `::ffff:${to}`, credentials, ...authorities])
      return stdout.trimEnd().split('\n')
    }

    it('are refused by the authority: a node gets certificates of its own pods, and of itself', async () => {
      const out = join(mesh.runDirectory, 'stolen')
      for (const identity of [
        own,
        'spiffe://cluster.local/ns/vault/sa/near-vault',
        'spiffe://cluster.local/node/node1',
        'spiffe://cluster.local/controller',
        'spiffe://other.domain/ns/default/sa/far',
        'spiffe://cluster.local/ns/default/sa/nobody',
      ]) {
        assert.match(await sign('node2', identity, out), /PERMISSION_DENIED|permission|may not|not allowed/i, identity)
      }
      assert.equal(await sign('node2', 'spiffe://cluster.local/ns/default/sa/far', out), 'signed')
      assert.match(mesh.log('controller'), /denied|refused/i)
    })

    it('get no tunnel without a certificate, with one of other roots, or with one of the wrong identity', async () => {
      const far = addressOf('far-vault')
      const target = `${far}:9000`
      // Refused by a reset or by TLS's own alert, as the transport has it.
      const refused = /no session|ERR_SSL_\w*ALERT_\w+$/
      assert.match((await connect('outsider', far, 'none', target)).join(), refused)

      const foreign = join(mesh.runDirectory, 'foreign')
      await mesh.onNode('node1', ['mkdir', '-p', foreign])
      await mesh.onNode('node1', [
        ...(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'] as const),
        ...['-subj', '/CN=x', '-addext', `subjectAltName=URI:${own}`, '-days', '1'],
        ...['-keyout', join(foreign, 'key.pem'), '-out', join(foreign, 'cert.pem')],
      ])
      assert.match((await connect('outsider', far, foreign, target)).join(), refused)

      const other = join(mesh.runDirectory, 'other')
      assert.equal(await sign('node1', 'spiffe://cluster.local/ns/default/sa/near', other), 'signed')
      assert.deepEqual(await connect('outsider', far, other, target), [`${target} 401`])
    })

    it('reach with a valid certificate only the pod they dialled, and none of the proxy’s ports', async () => {
      const credentials = join(mesh.runDirectory, 'valid')
      assert.equal(await sign('node1', own, credentials), 'signed')
      const far = addressOf('far')
      const lines = await connect(
        'outsider',
        far,
        credentials,
        `${far}:9000`,
        `${addressOf('far-vault')}:9000`,
        `${addressOf('near')}:9000`,
        '127.0.0.1:9000',
        '198.18.0.2:15000',
        `${far}:15001`,
        `${far}:15006`,
        `${far}:15008`,
        `${far}:0`,
        'far.default.svc.cluster.local:9000',
      )
      assert.equal(lines[0], `${far}:9000 200 hello hi`)
      for (const line of lines.slice(1)) assert.match(line, / (400|404|503|ERR_HTTP2\w+)$/, line)
      await assertServing()
    })
  })

  describe('who want it to fall over', () => {
    it('achieve nothing with garbage on any port', async () => {
      const program = `
        const net = require('node:net'), crypto = require('node:crypto')
        const samples = [
          crypto.randomBytes(4096), Buffer.alloc(65536), Buffer.from('GET / HTTP/1.1\\r\\n' + 'a: b\\r\\n'.repeat(20000) + '\\r\\n'),
          Buffer.from('GET / HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 5\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n'),
          Buffer.from('PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + 'x'.repeat(1000)),
          Buffer.from([22, 3, 1, 255, 255, ...crypto.randomBytes(500)]), Buffer.from('\\r\\n'.repeat(10000)),
          Buffer.from('GET /' + 'x'.repeat(200000) + ' HTTP/1.1\\r\\n\\r\\n'), Buffer.from('POST / HTTP/1.1\\r\\nhost: x\\r\\ntransfer-encoding: chunked\\r\\n\\r\\nffffffffffffffff\\r\\n'),
        ]
        const [host, ...ports] = process.argv.slice(1)
        let left = 0
        for (const port of ports) for (const sample of samples) {
          left++
          const socket = net.connect({ host, port: Number(port) })
          socket.on('error', () => {})
          socket.on('connect', () => { socket.write(sample); setTimeout(() => socket.resetAndDestroy(), 300) })
          socket.on('close', () => { if (--left === 0) console.log('done') })
          socket.resume()
        }`
      for (const from of ['client', 'outsider']) {
        for (const to of ['near', 'far', 'near-vault']) {
          const ports = ['8080', '9000', '7000', '15001', '15006', '15008']
          const { stdout } = await mesh.run(from, [process.execPath, '-e', program, addressOf(to), ...ports])
          assert.equal(stdout, 'done\n')
        }
      }
      await assertServing()
    })

    it('lose their own connection when they flood it, with a valid certificate', async () => {
      const credentials = join(mesh.runDirectory, 'flooding')
      assert.equal(await sign('node1', 'spiffe://cluster.local/ns/default/sa/client', credentials), 'signed')
      // Frames are written by hand: node:http2 drops requests that are reset before they have been sent.
      const program = `
        const fs = require('node:fs')
        const [host, directory, kind] = process.argv.slice(1)
        const read = (name) => fs.readFileSync(directory + '/' + name)
        const frame = (type, flags, stream, payload) => {
          const head = Buffer.alloc(9)
          head.writeUIntBE(payload.length, 0, 3)
          head.writeUInt8(type, 3)
          head.writeUInt8(flags, 4)
          head.writeUInt32BE(stream, 5)
          return Buffer.concat([head, payload])
        }
        const literal = (index, value) => Buffer.concat([Buffer.from([index, value.length]), Buffer.from(value)])
        const request = Buffer.concat([literal(2, 'CONNECT'), literal(1, host + ':9000')])
        const frames = [Buffer.from('PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'), frame(4, 0, 0, Buffer.alloc(0))]
        for (let stream = 1; stream < 40000; stream += 2) {
          if (kind === 'ping') frames.push(frame(6, 0, 0, Buffer.alloc(8)))
          else frames.push(frame(1, 4, stream, request), frame(3, 0, stream, Buffer.from([0, 0, 0, 8])))
        }
        const socket = require('node:tls').connect({
          host, port: 15008, ALPNProtocols: ['h2'], rejectUnauthorized: false,
          cert: read('cert.pem'), key: read('key.pem') })
        let received = Buffer.alloc(0), code = 'no GOAWAY'
        socket.on('error', () => {})
        socket.on('secureConnect', () => socket.write(Buffer.concat(frames)))
        socket.on('data', (bytes) => {
          received = Buffer.concat([received, bytes])
          while (received.length >= 9 && received.length >= 9 + received.readUIntBE(0, 3)) {
            const length = received.readUIntBE(0, 3)
            if (received[3] === 7) code = received.readUInt32BE(13)
            received = received.subarray(9 + length)
          }
        })
        socket.on('close', () => { console.log('closed', code); process.exit() })
        setTimeout(() => { console.log('let by'); process.exit() }, 60_000)`
      for (const kind of ['reset', 'ping']) {
        const command = [process.execPath, '-e', program, addressOf('far'), credentials, kind]
        // 11: ENHANCE_YOUR_CALM.
        assert.equal((await mesh.run('outsider', command)).stdout, 'closed 11\n', kind)
        await assertServing()
      }
    })

    it('keep nobody else waiting with slow and half-open requests, and get large heads refused', async () => {
      const program = `
        const net = require('node:net')
        const [host] = process.argv.slice(1)
        for (let i = 0; i < 200; i++) {
          const socket = net.connect({ host, port: 8080 })
          socket.on('error', () => {})
          socket.write(i % 2 === 0 ? 'GET / HTTP/1.1\\r\\nhost: slow\\r\\n' : '')
          const timer = setInterval(() => socket.write('x'), 200)
          socket.on('close', () => clearInterval(timer))
        }
        setTimeout(() => process.exit(), 2000)`
      const slow = ['near', 'far'].map((to) => mesh.run('client', [process.execPath, '-e', program, to]))
      for (let i = 0; i < 5; i++) await assertServing()
      await Promise.all(slow)
      for (const to of ['near', 'far']) {
        const header = `x-large: ${'v'.repeat(100_000)}`
        assert.match(await mesh.code('client', `http://${to}:8080/`, '-H', header), /^(431|400)$/)
      }
    })
  })

  it('leave nothing behind: descriptors, sockets and the table of connections return to what they were', async () => {
    await assertServing()
    const idle = async (): Promise<void> => {
      for (const node of NODES) {
        await mesh.eventually(
          `no connection is left on ${node}`,
          async () => {
            const all = JSON.parse(await mesh.get(node, 15_000, '/connections')) as { protocol: string }[]
            return all.length <= 4
          },
          () => mesh.log(`agent-${node}`).slice(-500),
        )
      }
    }
    const program = `
      const net = require('node:net')
      const [count, end, ...hosts] = process.argv.slice(1)
      const sockets = []
      let open = 0, answered = 0
      const dial = (i) => {
        const socket = net.connect({ host: hosts[i % hosts.length], port: 9000 })
        sockets.push(socket)
        socket.on('connect', () => { open++; socket.write('x') })
        socket.once('data', () => {
          if (++answered < Number(count)) { if (sockets.length < Number(count)) dial(sockets.length); return }
          console.log(answered)
          if (end === 'vanish') process.kill(process.pid, 'SIGKILL')
          for (const one of sockets) end === 'reset' ? one.resetAndDestroy() : one.end()
        })
        socket.on('error', (error) => { console.log(error.code); process.exit(1) })
      }
      for (let i = 0; i < 200; i++) dial(i)`
    const round = async (end: string, count: number): Promise<void> => {
      const { stdout } = await mesh.run('client', [process.execPath, '-e', program, String(count), end, 'near', 'far'])
      assert.equal(stdout, `${count}\n`, end)
      await idle()
    }
    // The first round fills pools: tunnels stay for five minutes.
    await round('vanish', 5000)
    const before = NODES.map((node) => usageOf(mesh.pid(`agent-${node}`)))
    await round('end', 1000)
    await round('reset', 1000)
    await round('vanish', 5000)
    await assertServing()
    for (const [index, node] of NODES.entries()) {
      const { descriptors, sockets } = before[index]!
      const pid = mesh.pid(`agent-${node}`)
      await mesh.eventually(
        `descriptors of ${node} return to ${descriptors}`,
        () => usageOf(pid).descriptors <= descriptors + 8 && usageOf(pid).sockets <= sockets + 8,
        () => JSON.stringify([before[index], usageOf(pid)]),
      )
    }
  })
})

interface Usage {
  readonly descriptors: number
  readonly sockets: number
  readonly residentMiB: number
}

function usageOf(pid: number): Usage {
  const descriptors = readdirSync(`/proc/${pid}/fd`)
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const files = readFileSync(`/proc/${pid}/net/sockstat`, 'utf8')
  return {
    descriptors: descriptors.length,
    sockets: Number(/^TCP: inuse ([0-9]+)/m.exec(files)?.[1] ?? 0),
    residentMiB: Math.round(Number(/VmRSS:\s+([0-9]+)/.exec(status)![1]) / 1024),
  }
}
