/** Names that a trusted authority certified and that are made to look like more than one stay what they are. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { ORIGIN_ANY } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { AcceptRecorder, ConnRecorder } from '../support/conn-recorder.ts'
import { Openssl } from '../support/openssl.ts'
import { reactorKind } from '../support/transports.ts'

const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
const authority = new TestAuthority()
const openssl = new Openssl()
after(() => openssl.remove())

/** A server's certificate with these URI names, each as it is. */
function certify(names: readonly string[]) {
  const material = authority.leaf('shop', 'server')
  const key = openssl.file('key.pem', material.key)
  const { certificate } = authority.authority
  const root = openssl.file('root.pem', certificate.pem)
  const rootKey = openssl.file(
    'root-key.pem',
    authority.authority.key.export({ format: 'pem', type: 'pkcs8' }).toString(),
  )
  const lines = names.map((name, index) => `URI.${index} = ${name}`)
  const extensions = openssl.file('names.cnf', ['subjectAltName = @names', '[names]', ...lines, ''].join('\n'))
  const request = openssl.file('request.pem', openssl.run('req', '-new', '-key', key, '-subj', '/CN=any'))
  const signed = ['-CA', root, '-CAkey', rootKey, '-days', '1', '-extfile', extensions]
  return { ...material, certificateChain: openssl.run('x509', '-req', '-in', request, ...signed) }
}

async function dial(names: readonly string[]): Promise<ConnRecorder> {
  const transport = reactorKind.create()
  const forged = certify(names)
  // What is proved is judged by who dials; that the holder's own check would refuse it is not the question here.
  const server = transport.tlsContext({ ...forged, identity: names[0]! })
  const target = { address: '127.0.0.1', port: 0, isShared: false }
  const listener = await transport.listen(
    target,
    { current: () => server },
    new AcceptRecorder(() => new ConnRecorder()),
  )
  const tls = transport.tlsContext(authority.leaf('shop', 'client'))
  const recorder = new ConnRecorder()
  const options = { address: '127.0.0.1', port: listener.port, origin: ORIGIN_ANY, timeoutMs: 5_000, tls }
  const conn = transport.connect({ ...options, expectedIdentities: [SERVER] }, recorder)
  await recorder.until(() => recorder.events.includes('open') || recorder.events.includes('close'))
  conn.abort()
  listener.close()
  return recorder
}

describe('the names in a certificate', { timeout: 20_000, skip: reactorKind.skip }, () => {
  test('are all looked at', async () => {
    const { events } = await dial(['https://reviews.shop/', SERVER])
    assert.equal(events[0], 'open')
  })

  for (const disguise of [
    `https://x.org/, URI:${SERVER}`,
    `https://x.org/\\", URI:${SERVER}`,
    `https://x.org/', URI:${SERVER}`,
  ]) {
    test(`do not become two: ${disguise}`, async () => {
      const { events, error } = await dial(['https://reviews.shop/', disguise])
      assert.deepEqual(events, ['close'])
      assert.equal(error?.code, 'WEFT_PEER_IDENTITY')
      assert.match(error.message, /proved to be nobody/)
    })
  }
})
