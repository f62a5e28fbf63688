/**
 * What a service asks of its clients, executed by the proxies: session affinity, endpoints of the own node, and endpoints
 * that are being deleted. TCP and HTTP alike, within a node and between two.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer, get } from 'node:http'
import { connect, createServer, type Server } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { ENDPOINT_DRAINING, type Readiness } from '../../src/model/workload.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const TCP = 9000
const HTTP = 9001

/** Enough that six endpoints are all met but once in ten thousand runs, if they are drawn by lots. */
const ROUNDS = 60

describe('what a service asks of its clients', () => {
  let mesh: TestMesh
  let client: TestPod
  let service: Service
  const pods: TestPod[] = []
  const servers: Server[] = []

  before(async () => {
    mesh = new TestMesh(2)
    client = await mesh.pod('client', { node: 0 })
    for (const name of ['a0', 'b0', 'c0', 'a1', 'b1', 'c1']) {
      const pod = await mesh.pod(name, { node: Number(name[1]) })
      pods.push(pod)
      await listen(
        createServer((socket) => socket.on('error', () => {}).end(name)),
        pod,
        TCP,
      )
      await listen(
        createHttpServer((_, response) => response.end(name)),
        pod,
        HTTP,
      )
    }
    service = await mesh.service(
      'web',
      [
        { number: TCP, targetPort: TCP, protocol: PROTOCOL_TCP },
        { number: HTTP, targetPort: HTTP, protocol: PROTOCOL_HTTP1 },
      ],
      pods,
    )
  })

  beforeEach(() => {
    mesh.apply({ services: [service], workloads: pods.map(({ workload }) => workload) })
  })

  after(() => {
    mesh.close()
    for (const server of servers) server.close()
  })

  async function listen(server: Server, pod: TestPod, port: number): Promise<void> {
    servers.push(server)
    server.listen(port, pod.appAddress)
    await once(server, 'listening')
  }

  /** Who answers over TCP; empty when nobody does. */
  async function overTcp(): Promise<string> {
    const socket = connect({ host: mesh.vip(service, 0), port: TCP, localAddress: client.address })
    let text = ''
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      text += bytes.toString()
    })
    // A reset is an answer as well, and no error of the test.
    await new Promise((resolve) => socket.on('close', resolve))
    return text
  }

  /** Who answers over HTTP; the status when nobody does. */
  async function overHttp(): Promise<string> {
    const request = get({ host: mesh.vip(service, 0), port: HTTP, localAddress: client.address, agent: false })
    const [response] = (await once(request, 'response')) as [import('node:http').IncomingMessage]
    let text = ''
    for await (const chunk of response) text += String(chunk)
    return response.statusCode === 200 ? text : String(response.statusCode)
  }

  async function answerers(ask: () => Promise<string>): Promise<string[]> {
    const names = new Set<string>()
    for (let i = 0; i < ROUNDS; i++) names.add(await ask())
    return [...names].sort()
  }

  /** These pods drain, or are as they were. */
  function setReadiness(names: readonly string[], readiness: Readiness): void {
    const workloads = pods.map(({ name, workload }) => {
      if (!names.includes(name)) return workload
      return { ...workload, isHealthy: false, services: workload.services.map((one) => ({ ...one, readiness })) }
    })
    mesh.apply({ workloads })
  }

  for (const [protocol, ask, nobody] of [
    ['TCP', () => overTcp(), ''],
    ['HTTP', () => overHttp(), '503'],
  ] as const) {
    test(`nothing: ${protocol} goes to all endpoints`, async () => {
      assert.deepEqual(await answerers(ask), ['a0', 'a1', 'b0', 'b1', 'c0', 'c1'])
    })

    test(`session affinity: all ${protocol} of a pod goes to one endpoint, and to another when that is gone`, async () => {
      mesh.apply({ services: [{ ...service, affinityMs: 60_000 }] })
      const [first, ...others] = await answerers(ask)
      assert.deepEqual(others, [])
      setReadiness([first!], ENDPOINT_DRAINING)
      const [second, ...rest] = await answerers(ask)
      assert.deepEqual(rest, [])
      assert.notEqual(second, first)
    })

    test(`endpoints of the own node: ${protocol} goes to them alone, and nowhere when there is none`, async () => {
      mesh.apply({ services: [{ ...service, isNodeLocal: true }] })
      assert.deepEqual(await answerers(ask), ['a0', 'b0', 'c0'])
      mesh.apply({
        workloads: pods.filter(({ node }) => node === 0).map(({ workload }) => ({ ...workload, isHealthy: false })),
      })
      assert.equal(await ask(), nobody)
    })

    test(`endpoints that drain get ${protocol} only when no other is there`, async () => {
      setReadiness(['a0', 'b0', 'c0', 'a1', 'b1'], ENDPOINT_DRAINING)
      assert.deepEqual(await answerers(ask), ['c1'])
      setReadiness(['a0', 'b0', 'c0', 'a1', 'b1', 'c1'], ENDPOINT_DRAINING)
      assert.deepEqual(await answerers(ask), ['a0', 'a1', 'b0', 'b1', 'c0', 'c1'])
    })
  }
})
