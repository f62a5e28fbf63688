/**
 * Programs that nobody wrote for a mesh talk through it: on one node and between nodes, over IPv4 and IPv6, with TLS
 * only on the wire between the nodes.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'
import { LARGE_BYTES, largeFile } from '../support/nginx-site.ts'

/** The same scenario on one node and between nodes. */
const PATHS = [
  { server: 'near', path: 'on one node' },
  { server: 'far', path: 'between nodes' },
] as const

describe('unmodified programs in a live mesh', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'outsider', node: 'node2', namespace: 'outside', programs: ['web'] },
      ],
      services: ['near', 'far'],
      workers: 2,
    })
    const outsider = mesh.plan.pod('outsider').addresses
    await mesh.watchWire(outsider)
  })

  after(async () => {
    await mesh?.close()
  })

  for (const { server, path } of PATHS) {
    it(`curl gets pages from nginx by name, by service address and by pod address, ${path}`, async () => {
      const service = mesh.plan.services.find(({ name }) => name === server)!.addresses
      const pod = mesh.plan.pod(server).addresses
      for (const host of [server, service[0], `[${service[1]}]`, pod[0], `[${pod[1]}]`]) {
        const answer = await mesh.curl('client', `http://${host}:8080/`)
        assert.match(answer, new RegExp(`^${server} `), `by ${host}: ${answer}`)
      }
    })

    it(`curl loads 16 MiB unchanged and uploads them, ${path}`, async () => {
      const file = join(mesh.runDirectory, `large-${server}`)
      assert.equal(await mesh.curl('client', '-f', '-o', file, `http://${server}:8080/large`), '')
      assert.equal(sha256(readFileSync(file)), sha256(largeFile()))
      // nginx refuses to take more than 1 MiB by default: its answer must come, and the connection must not hang.
      assert.equal(await mesh.code('client', `http://${server}:8080/`, '--data-binary', `@${file}`), '413')
    })

    it(`openssl brings its own TLS through the mesh untouched, ${path}`, async () => {
      const key = join(mesh.runDirectory, `key-${server}.pem`)
      const certificate = join(mesh.runDirectory, `certificate-${server}.pem`)
      const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=own', '-days', '1']
      await mesh.onNode('node1', ['openssl', ...request, '-keyout', key, '-out', certificate])
      const serve = ['openssl', 's_server', '-accept', '8081', '-key', key, '-cert', certificate, '-www'] as const
      mesh.startIn(server, 's_server', [...serve])
      const get = ['--cacert', certificate, '--connect-to', `own:8081:${server}:8081`, 'https://own:8081/']
      await mesh.eventually('s_server answers', async () => (await mesh.curl('client', ...get)).includes('TLSv1.3'))
      const { stdout } = await mesh.run('client', [
        ...['openssl', 's_client', '-connect', `${server}:8081`, '-CAfile', certificate, '-verify_return_error'],
      ])
      assert.match(stdout, /Verify return code: 0 \(ok\)/)
      await mesh.end(`${server}/s_server`)
    })

    it(`wrk drives nginx over 64 keep-alive connections without one error, ${path}`, async () => {
      const { stdout } = await mesh.run('client', ['wrk', '-t1', '-c64', '-d2s', `http://${server}:8080/`])
      assert.match(stdout, /([0-9]+) requests in/)
      assert.ok(Number(/([0-9]+) requests in/.exec(stdout)![1]) > 100, stdout)
      assert.doesNotMatch(stdout, /Socket errors|Non-2xx/)
    })

    it(`iperf3 sends and receives bulk over parallel connections, ${path}`, async () => {
      mesh.startIn(server, 'iperf3', ['iperf3', '-s', '-p', '5201'])
      const address = mesh.plan.pod(server).addresses[0]!
      await mesh.eventually('iperf3 listens', async () => {
        const { status } = await mesh.run('client', ['iperf3', '-c', address, '-p', '5201', '-n', '1K', '-J'])
        return status === 0
      })
      for (const direction of [[], ['-R']]) {
        const command = ['iperf3', '-c', address, '-p', '5201', '-n', '64M', '-P', '2', '-J', ...direction]
        const { stdout, status } = await mesh.run('client', command)
        assert.equal(status, 0, stdout)
        // What is received is counted until the control connection says the end, which overtakes what is under way.
        const { sum_sent: sent, sum_received: received } = JSON.parse(stdout).end
        assert.ok(sent.bytes >= 64 * 1024 * 1024 && received.bytes > 0, stdout)
      }
      await mesh.end(`${server}/iperf3`)
    })

    it(`nghttp speaks HTTP/2 without TLS to nghttpd, ${path}`, async () => {
      const files = join(mesh.runDirectory, 'h2')
      mkdirSync(files, { recursive: true })
      writeFileSync(join(files, 'page'), 'over h2c\n')
      mesh.startIn(server, 'nghttpd', ['nghttpd', '--no-tls', '-d', files, '8082'])
      const url = `http://${mesh.plan.pod(server).addresses[0]}:8082/page`
      await mesh.eventually('nghttpd answers', async () => {
        const { stdout } = await mesh.run('client', ['nghttp', '--timeout=5s', url])
        return stdout === 'over h2c\n'
      })
      const { stdout } = await mesh.run('client', ['h2load', '-n200', '-c4', '-m10', url])
      assert.match(stdout, /200 succeeded, 0 failed, 0 errored/)
      await mesh.end(`${server}/nghttpd`)
    })

    it(`a server that speaks first is heard, and a half-closed conversation ends in order, ${path}`, async () => {
      const greeted = await mesh.run(
        'client',
        ['curl', '-s', '--max-time', '30', `telnet://${server}:7000`],
        'QUIT\r\n',
      )
      assert.equal(greeted.stdout, `220 ${server} ready\r\n221 bye\r\n`)
      const script = `
        const socket = require('node:net').connect({ host: '${server}', port: 9000, allowHalfOpen: true })
        let text = ''
        socket.end('last words')
        socket.on('data', (bytes) => { text += bytes })
        socket.on('end', () => console.log(JSON.stringify(text)))
        socket.on('error', (error) => console.log(error.code))`
      const { stdout } = await mesh.run('client', [process.execPath, '-e', script])
      assert.equal(stdout, '"hello last words"\n')
    })

    it(`an app that resets is seen as a reset, never as an end, ${path}`, async () => {
      const resetting = `
        require('node:net').createServer((socket) => {
          socket.on('error', () => {})
          socket.on('data', () => { socket.write('half an answer'); setTimeout(() => socket.resetAndDestroy(), 50) })
        }).listen(7100, '::')`
      mesh.startIn(server, 'resetting', [process.execPath, '-e', resetting])
      const address = mesh.plan.pod(server).addresses[0]!
      const script = `
        const socket = require('node:net').connect({ host: '${address}', port: 7100 })
        socket.write('question')
        socket.on('data', () => {})
        socket.on('end', () => console.log('end'))
        socket.on('error', (error) => console.log(error.code))`
      await mesh.eventually('the reset is seen', async () => {
        const { stdout } = await mesh.run('client', [process.execPath, '-e', script])
        return stdout === 'ECONNRESET\n'
      })
      await mesh.end(`${server}/resetting`)
    })
  }

  it('a client outside of the mesh is served in plaintext, and a pod reaches servers outside', async () => {
    for (const server of ['near', 'far']) {
      const [ipv4, ipv6] = mesh.plan.pod(server).addresses
      for (const host of [ipv4, `[${ipv6}]`]) {
        assert.match(await mesh.curl('outsider', `http://${host}:8080/`), new RegExp(`^${server} `))
      }
    }
    const [ipv4, ipv6] = mesh.plan.pod('outsider').addresses
    for (const host of [ipv4, `[${ipv6}]`]) {
      assert.match(await mesh.curl('client', `http://${host}:8080/`), /^outsider /)
    }
  })

  it('a port that nobody listens on fails at once and is told from a timeout', async () => {
    for (const { server } of PATHS) {
      const answer = await mesh.curl('client', `http://${mesh.plan.pod(server).addresses[0]}:9999/`)
      assert.equal(answer, 'upstream connect error: connection failure')
    }
  })

  it('only TLS went between the nodes, except for the outsider', async () => {
    const report = await mesh.wireReport()
    assert.deepEqual(report.examples, [])
    assert.equal(report.offences, 0)
    assert.ok(report.records > 1000, JSON.stringify(report))
    assert.ok(report.bytes > LARGE_BYTES, JSON.stringify(report))
    assert.ok(report.exempt > 0, 'the outsider was seen in plaintext, so the watch does see')
  })
})

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
