/**
 * The application of pods in test clusters: servers of several kinds in one process, and clients of them. It is the
 * only program of its image, next to Node.js.
 *
 *      serve [--version V] [--http PORT]... [--tcp PORT]... [--server-first PORT]... [--grpc-health PORT]...
 *      get URL [--count N] [--header 'name: value']... [--timeout MS]      prints one JSON object for each response
 *      load URL --seconds S [--connections N]                               prints one JSON object at the end
 *      follow URL [--header 'name: value']...     asks until its input ends, prints a JSON object when the answer changes
 *      hold HOST PORT                             speaks to an echo on one connection until its input ends
 *      talk HOST PORT [TEXT]      sends TEXT if there is one, prints what comes back first
 *      resolve NAME               prints the addresses
 *      api PATH                   asks the API server, by the pod's ServiceAccount
 *      wait                       until it is told to end
 */

import { promises as resolver } from 'node:dns'
import { once } from 'node:events'
import { connect } from 'node:net'
import { parseArgs } from 'node:util'
import { askApiServer } from './api-client.ts'
import { get, load } from './client.ts'
import { serve } from './server.ts'
import { follow, hold } from './stream.ts'

/** Nobody waits longer for a server that says nothing. */
const TALK_TIMEOUT_MS = 5000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    version: { type: 'string', default: 'v1' },
    http: { type: 'string', multiple: true, default: [] },
    tcp: { type: 'string', multiple: true, default: [] },
    'server-first': { type: 'string', multiple: true, default: [] },
    'grpc-health': { type: 'string', multiple: true, default: [] },
    count: { type: 'string', default: '1' },
    header: { type: 'string', multiple: true, default: [] },
    timeout: { type: 'string', default: '5000' },
    seconds: { type: 'string', default: '1' },
    connections: { type: 'string', default: '4' },
  },
})

async function main(): Promise<void> {
  const [verb, first = '', second = '', third = ''] = positionals
  switch (verb) {
    case 'serve':
      serve({
        version: values.version,
        httpPorts: values.http.map(Number),
        tcpPorts: values.tcp.map(Number),
        serverFirstPorts: values['server-first'].map(Number),
        grpcHealthPorts: values['grpc-health'].map(Number),
      })
      return
    case 'get':
      return get(first, { count: Number(values.count), headers: values.header, timeoutMs: Number(values.timeout) })
    case 'load':
      return load(first, { seconds: Number(values.seconds), connectionCount: Number(values.connections) })
    case 'follow':
      return follow(first, Object.fromEntries(values.header.map((header) => header.split(/:\s*/, 2))))
    case 'hold':
      return hold(first, Number(second))
    case 'talk':
      return talk(first, Number(second), third)
    case 'resolve':
      console.log((await resolver.lookup(first, { all: true })).map(({ address }) => address).join('\n'))
      return
    case 'api':
      return askApiServer(first)
    case 'wait':
      setInterval(() => {}, 60_000)
      for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0))
      return
    default:
      console.error('which? serve, get, load, follow, hold, talk, resolve, api or wait')
      process.exitCode = 2
  }
}

async function talk(host: string, port: number, text: string): Promise<void> {
  const socket = connect({ host, port })
  socket.setTimeout(TALK_TIMEOUT_MS, () => socket.destroy(new Error(`nothing came within ${TALK_TIMEOUT_MS} ms`)))
  await once(socket, 'connect')
  if (text !== '') socket.write(text)
  const [answer] = (await once(socket, 'data')) as [Buffer]
  console.log(answer.toString())
  socket.destroy()
}

main().catch((error: NodeJS.ErrnoException) => {
  // Who tried several addresses has a code for all of them, and no message.
  console.error(error.message || error.code)
  process.exitCode = 1
})
