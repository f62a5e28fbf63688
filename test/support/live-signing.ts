/**
 * Asks the controller for a certificate as an agent does, with a node's credential; run on a node:
 *
 *      node live-signing.ts CREDENTIALS CONTROLLER IDENTITY OUT
 *
 * Writes cert.pem, key.pem and root.pem into OUT and prints `signed`, or prints why the controller refused.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ControllerLink } from '../../src/agent/controller-link.ts'
import { describeError } from '../../src/base/errors.ts'
import { readCredentialFiles } from '../../src/security/credential-files.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'

const [directory, address, identity, out] = process.argv.slice(2) as [string, string, string, string]
const credential = await readCredentialFiles(directory)
const link = new ControllerLink({ address, trustDomain: 'cluster.local', credential: () => credential })
try {
  const key = createKey()
  const chain = await link.requestCertificate(createSigningRequest(key, identity), identity, 3600)
  mkdirSync(out, { recursive: true })
  writeFileSync(join(out, 'cert.pem'), chain.slice(0, -1).join(''))
  writeFileSync(join(out, 'key.pem'), key.export({ type: 'pkcs8', format: 'pem' }))
  writeFileSync(join(out, 'root.pem'), chain.at(-1)!)
  console.log('signed')
} catch (error) {
  console.log(describeError(error))
} finally {
  link.close()
}
