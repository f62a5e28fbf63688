/** What operators put into the Secret `cacerts`: made with openssl, as Istio's instructions have it. */
import type { Openssl } from './openssl.ts'

/** The Secret's keys and their texts. */
export interface IstioRoot {
  readonly 'ca-cert.pem': string
  readonly 'ca-key.pem': string
  readonly 'root-cert.pem': string
  readonly 'cert-chain.pem': string
}

/** A root and an intermediate with an RSA key, whose chain holds the intermediate and the root, as users write it. */
export function makeIstioRoot(openssl: Openssl, name: string): IstioRoot {
  const authority =
    'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n'
  const extensions = openssl.file(`${name}-ca.cnf`, authority)
  const [rootKey, caKey] = [openssl.file(`${name}-root.key`, ''), openssl.file(`${name}-ca.key`, '')]
  const [rootCert, request] = [openssl.file(`${name}-root.pem`, ''), openssl.file(`${name}-ca.csr`, '')]
  openssl.run('genrsa', '-out', rootKey, '2048')
  openssl.run(
    ...['req', '-x509', '-new', '-key', rootKey, '-days', '3650', '-subj', `/O=Example/CN=${name} root`],
    ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ...['-out', rootCert],
  )
  openssl.run('genrsa', '-out', caKey, '2048')
  openssl.run('req', '-new', '-key', caKey, '-subj', `/O=Example/CN=${name} intermediate`, '-out', request)
  const caText = openssl.run(
    ...['x509', '-req', '-in', request, '-CA', rootCert, '-CAkey', rootKey, '-CAcreateserial', '-days', '730'],
    ...['-extfile', extensions],
  )
  const rootText = openssl.run('x509', '-in', rootCert)
  return {
    'ca-cert.pem': caText,
    'ca-key.pem': openssl.run('pkey', '-in', caKey),
    'root-cert.pem': rootText,
    'cert-chain.pem': caText + rootText,
  }
}
