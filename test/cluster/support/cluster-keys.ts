/** Keys and certificates of a test cluster, made by the openssl program, and the kubeconfigs that hold them. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Longer than any cluster of a developer lives. */
const LIFETIME_DAYS = '365'

export interface CertificateOrder {
  /** Name of the files; the common name unless told. */
  readonly name: string
  readonly commonName?: string
  /** A group, in the eyes of Kubernetes. */
  readonly organization?: string
  /** As openssl has them: `DNS:a`, `IP:::1`. */
  readonly alternativeNames?: readonly string[]
  /** The authority that signs. */
  readonly authority?: string
}

export class ClusterKeys {
  readonly directory: string

  constructor(directory: string) {
    this.directory = directory
    mkdirSync(directory, { recursive: true, mode: 0o700 })
  }

  key(name: string): string {
    return join(this.directory, `${name}.key`)
  }

  certificate(name: string): string {
    return join(this.directory, `${name}.crt`)
  }

  makeAuthority(name: string): void {
    this.makeKey(name)
    const extensions = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=keyCertSign,cRLSign']
    const files = ['-key', this.key(name), '-out', this.certificate(name)]
    openssl(['req', '-x509', '-new', '-subj', `/CN=${name}`, '-days', LIFETIME_DAYS, ...extensions, ...files])
  }

  /** For servers and clients alike. */
  makeCertificate(order: CertificateOrder): void {
    const { name, authority = 'ca' } = order
    this.makeKey(name)
    const organization = order.organization === undefined ? '' : `/O=${order.organization}`
    const subject = `${organization}/CN=${order.commonName ?? name}`
    const request = openssl(['req', '-new', '-key', this.key(name), '-subj', subject])
    const extensions = ['keyUsage=digitalSignature', 'extendedKeyUsage=serverAuth,clientAuth']
    if (order.alternativeNames !== undefined) extensions.push(`subjectAltName=${order.alternativeNames.join(',')}`)
    const extensionFile = join(this.directory, `${name}.ext`)
    writeFileSync(extensionFile, `${extensions.join('\n')}\n`)
    const signer = ['-CA', this.certificate(authority), '-CAkey', this.key(authority), '-CAcreateserial']
    const files = ['-extfile', extensionFile, '-out', this.certificate(name)]
    openssl(['x509', '-req', '-days', LIFETIME_DAYS, ...signer, ...files], request)
  }

  /** Path of the public half, which is what the API server reads of ServiceAccounts' keys. */
  publicKey(name: string): string {
    const path = join(this.directory, `${name}.pub`)
    if (!existsSync(path)) openssl(['pkey', '-in', this.key(name), '-pubout', '-out', path])
    return path
  }

  makeKey(name: string): void {
    if (existsSync(this.key(name))) return
    openssl(['genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', this.key(name)])
  }

  /** Options of a TLS client that trusts the cluster's authority. */
  client(name: string): { ca: Buffer; cert: Buffer; key: Buffer } {
    const [ca, cert, key] = [this.certificate('ca'), this.certificate(name), this.key(name)].map((path) =>
      readFileSync(path),
    )
    return { ca: ca!, cert: cert!, key: key! }
  }

  /** Writes a kubeconfig, for the holder of a certificate. */
  writeKubeconfig(path: string, name: string, server: string): void {
    const base64 = (file: string): string => readFileSync(file).toString('base64')
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'cluster',
      clusters: [
        { name: 'cluster', cluster: { server, 'certificate-authority-data': base64(this.certificate('ca')) } },
      ],
      contexts: [{ name: 'cluster', context: { cluster: 'cluster', user: name } }],
      users: [
        {
          name,
          user: {
            'client-certificate-data': base64(this.certificate(name)),
            'client-key-data': base64(this.key(name)),
          },
        },
      ],
    }
    // JSON is YAML too.
    writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 })
  }
}

function openssl(args: readonly string[], input = ''): string {
  return execFileSync('openssl', args, { encoding: 'utf8', input, stdio: ['pipe', 'pipe', 'pipe'] })
}
