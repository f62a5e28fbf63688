/**
 * A throw-away authority and two leaves on the openssl program: each leaf has the SPIFFE identity that Weft demands and
 * the DNS name that nginx and haproxy check, so that all of them prove themselves with the same certificates.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Certificates, type Leaf, SERVER_NAME } from '../peers/work.ts'

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

export function writeCertificates(directory: string): Certificates {
  const root = join(directory, 'root.pem')
  const rootKey = join(directory, 'root.key')
  openssl('req', '-x509', ...KEY, '-days', '1', '-subj', '/O=cluster.local', '-keyout', rootKey, '-out', root)
  return {
    root,
    client: writeLeaf(directory, 'client', 'client.bench.internal', root, rootKey),
    server: writeLeaf(directory, 'server', SERVER_NAME, root, rootKey),
  }
}

function writeLeaf(directory: string, name: string, dnsName: string, root: string, rootKey: string): Leaf {
  const certificate = join(directory, `${name}.pem`)
  const key = join(directory, `${name}.key`)
  const request = join(directory, `${name}.csr`)
  const identity = `spiffe://cluster.local/ns/bench/sa/${name}`
  const names = `subjectAltName=URI:${identity},DNS:${dnsName}`
  openssl('req', '-new', ...KEY, '-subj', `/CN=${name}`, '-addext', names, '-keyout', key, '-out', request)
  const signing = ['-CA', root, '-CAkey', rootKey, '-CAcreateserial', '-copy_extensions', 'copy', '-days', '1']
  openssl('x509', '-req', '-in', request, ...signing, '-out', certificate)
  // haproxy wants both in one file.
  writeFileSync(`${certificate}.both`, readFileSync(certificate, 'utf8') + readFileSync(key, 'utf8'), { mode: 0o600 })
  return { certificate, key, identity }
}

function openssl(...args: readonly string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
}
