/** The controller's own certificate: names by which it may be dialled, and the authority that it follows. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import test, { type TestContext } from 'node:test'
import { connect } from 'node:tls'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { type AuthorityMaterial, bundleOf, readMaterial } from '../../src/controller/authority-material.ts'
import { parseControllerConfig } from '../../src/controller/config.ts'
import { ControlService } from '../../src/controller/control-service.ts'
import { serviceNames } from '../../src/controller/kubernetes-control.ts'
import type { PodMemberships } from '../../src/controller/pod-memberships.ts'
import { Publisher } from '../../src/controller/publisher.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { POD_MESHED } from '../../src/model/pod-membership.ts'
import { FAILURE_CLOSED } from '../../src/model/workload.ts'
import type { CredentialTexts } from '../../src/security/credential-files.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import { createRoot } from '../../src/security/issue.ts'
import { linkTo, TRUST_DOMAIN } from '../support/control-plane.ts'

const NODE = formatNodeIdentity(TRUST_DOMAIN, 'node1')
const HOUR_MS = 3_600_000

function material(name: string): AuthorityMaterial {
  const { certificate, key } = createRoot(name, 365 * 86_400_000, Date.now())
  return readMaterial(
    { chain: certificate.pem, key: key.export({ format: 'pem', type: 'pkcs8' }).toString(), roots: null },
    Date.now(),
  )
}

async function serve(
  t: TestContext,
  authority: CertificateAuthority,
  memberships: Pick<PodMemberships, 'of'> = { of: () => Promise.reject(new Error('nobody asks')) },
): Promise<number> {
  const service = serviceOf(authority, memberships, '127.0.0.1:0')
  t.after(() => service.stop())
  return await service.listen()
}

function serviceOf(
  authority: CertificateAuthority,
  memberships: Pick<PodMemberships, 'of'>,
  address: string,
): ControlService {
  return new ControlService({
    config: parseControllerConfig(['--source', 'kubernetes', '--listen', address], {}),
    authority,
    tokens: null,
    dnsNames: serviceNames({ clusterDomain: 'cluster.local', systemNamespace: 'weft-system' }),
    publisher: new Publisher(silentLog),
    memberships,
    observer: { certificateIssued: () => {}, certificateRefused: () => {} },
    log: silentLog,
    clock: systemClock,
  })
}

function authorityOf(own: AuthorityMaterial): CertificateAuthority {
  return new CertificateAuthority(own, bundleOf(own.roots))
}

/** The node's credential by `authority`, which trusts `bundle`. */
function credentialBy(authority: CertificateAuthority, bundle: string): CredentialTexts {
  const credential = authority.issue(NODE, HOUR_MS)
  return { certificateChain: credential.chain, key: credential.keyPem(), bundle }
}

/** The certificate that a node with this credential gets on a new connection. */
async function renew(t: TestContext, port: number, credential: CredentialTexts): Promise<X509Certificate> {
  const link = linkTo(t, `127.0.0.1:${port}`, credential)
  const texts = await link.requestCertificate(createSigningRequest(createKey(), NODE), NODE, 0)
  return new X509Certificate(texts[0]!)
}

test('it proves itself by the names of its Service, too, to clients that know no SPIFFE', async (t) => {
  const authority = new CertificateAuthority(material('a'), '', Date.now)
  const roots = material('b')
  authority.replace(roots, bundleOf(roots.roots))
  const port = await serve(t, authority)
  const credential = credentialBy(authority, authority.bundle)
  for (const servername of ['weft-controller.weft-system.svc', 'weft-controller.weft-system.svc.cluster.local']) {
    const socket = connect({
      ...{ host: '127.0.0.1', port, servername, ca: authority.bundle, ALPNProtocols: ['h2'] },
      ...{ cert: credential.certificateChain, key: credential.key },
    })
    t.after(() => socket.destroy())
    await new Promise<void>((resolve, reject) => socket.on('secureConnect', resolve).on('error', reject))
    assert.equal(socket.authorized, true)
  }
})

test('a rotation: both roots are believed while it lasts, and only the new one afterwards', async (t) => {
  const [old, young] = [material('old'), material('young')]
  const both = bundleOf([...young.roots, ...old.roots])
  const authority = new CertificateAuthority(old, bundleOf(old.roots))
  const port = await serve(t, authority)
  const before = credentialBy(authority, bundleOf(old.roots))
  await renew(t, port, before)
  // Announced: the old one signs. A node that has not heard of it yet gets on.
  authority.replace(old, both)
  assert.ok((await renew(t, port, before)).verify(old.roots[0]!.publicKey))
  // The new one signs; nodes with certificates of the old one, that trust both, get on.
  authority.replace(young, both)
  const leaf = await renew(t, port, { ...before, bundle: both })
  assert.ok(leaf.verify(young.roots[0]!.publicKey))
  await renew(t, port, credentialBy(authority, both))
  // The old one is gone.
  authority.replace(young, bundleOf(young.roots))
  await renew(t, port, credentialBy(authority, both))
  await assert.rejects(renew(t, port, { ...before, bundle: both }), /UNAVAILABLE|UNAUTHENTICATED/)
})

test('agents ask about pods of the node in their certificate; workloads may not, and nobody asks about monsters', async (t) => {
  const authority = authorityOf(material('a'))
  const asked: unknown[] = []
  const port = await serve(t, authority, {
    of: async (pod, node) => {
      asked.push([pod, node])
      return { state: POD_MESHED, failureMode: FAILURE_CLOSED }
    },
  })
  const pod = { namespace: 'shop', name: 'web', uid: 'u1' }
  const link = linkTo(t, `127.0.0.1:${port}`, credentialBy(authority, authority.bundle))
  assert.deepEqual(await link.podMembership(pod, 10_000), { state: POD_MESHED, failureMode: FAILURE_CLOSED })
  assert.equal(await link.podMembership({ ...pod, name: 'x'.repeat(254) }, 10_000), null)
  const workload = authority.issue(formatIdentity(TRUST_DOMAIN, 'shop', 'web'), HOUR_MS)
  const texts = { certificateChain: workload.chain, key: workload.keyPem(), bundle: authority.bundle }
  assert.equal(await linkTo(t, `127.0.0.1:${port}`, texts).podMembership(pod, 10_000), null)
  assert.deepEqual(asked, [[pod, 'node1']])
})

test('a controller that is away is no answer about a pod, and one that is back answers the same link', async (t) => {
  const authority = authorityOf(material('a'))
  const memberships: Pick<PodMemberships, 'of'> = {
    of: async () => ({ state: POD_MESHED, failureMode: FAILURE_CLOSED }),
  }
  const service = serviceOf(authority, memberships, '127.0.0.1:0')
  const port = await service.listen()
  const link = linkTo(t, `127.0.0.1:${port}`, credentialBy(authority, authority.bundle))
  const pod = { namespace: 'shop', name: 'web', uid: 'u1' }
  assert.notEqual(await link.podMembership(pod, 10_000), null)
  service.stop()
  assert.equal(await link.podMembership(pod, 10_000), null)
  const next = serviceOf(authority, memberships, `127.0.0.1:${port}`)
  t.after(() => next.stop())
  await next.listen()
  assert.notEqual(await link.podMembership(pod, 10_000), null)
})
