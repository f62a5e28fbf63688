/**
 * Somebody's own HBONE client, made from node:http2 and not from our code; run in a pod:
 *
 *      node live-connect.ts ADDRESS CREDENTIALS AUTHORITY...
 *
 * Prints for each authority the status of the CONNECT, and what the tunnel answers to a line; or why there is none.
 * CREDENTIALS `none` shows no certificate.
 */
import { readFileSync } from 'node:fs'
import http2 from 'node:http2'
import { join } from 'node:path'

const [address, credentials, ...authorities] = process.argv.slice(2) as [string, string, ...string[]]
const material =
  credentials === 'none'
    ? {}
    : {
        cert: readFileSync(join(credentials, 'cert.pem')),
        key: readFileSync(join(credentials, 'key.pem')),
      }
const session = http2.connect(`https://[${address}]:15008`, {
  ...material,
  rejectUnauthorized: false,
  checkServerIdentity: () => undefined,
})
session.on('error', (error: NodeJS.ErrnoException) => {
  console.log(`no session: ${error.code}`)
  process.exit(0)
})
session.setTimeout(5000, () => {
  console.log('no session: silence')
  process.exit(0)
})
// With TLS 1.3 the client is done before the server has judged its certificate.
session.on('close', () => {
  console.log('no session: closed')
  process.exit(0)
})
session.on('connect', async () => {
  for (const authority of authorities) console.log(`${authority} ${await connect(authority)}`)
  process.exit(0)
})

function connect(authority: string): Promise<string> {
  return new Promise((resolve) => {
    const stream = session.request({ ':method': 'CONNECT', ':authority': authority }, { endStream: false })
    stream.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'))
    stream.on('response', (headers) => {
      if (headers[':status'] !== 200) {
        resolve(String(headers[':status']))
        return
      }
      stream.setEncoding('utf8')
      stream.once('data', (text: string) => {
        resolve(`200 ${text.trim()}`)
        stream.close()
      })
      stream.write('hi\n')
    })
  })
}
