/** Identities only for pods that are really there. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import type { CertificateAuthority } from '../../src/controller/authority.ts'
import { CertificateServer } from '../../src/controller/ca-server.ts'
import { type ScheduledPod, scheduledPods } from '../../src/controller/scheduled-pods.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import type { Workload } from '../../src/model/workload.ts'
import { CallError, STATUS_PERMISSION_DENIED } from '../../src/wire/channel.ts'
import { TestAuthority } from '../support/certificates.ts'
import { TRUST_DOMAIN } from '../support/control-plane.ts'

function pod(name: string, spec: unknown, status: unknown = { phase: 'Running' }, kind = 'Pod', group = '') {
  return { kind, group, namespace: 'shop', name, spec, status } as never
}

test('a pod counts while it is on a node and has not ended, with the ServiceAccount that it has', () => {
  const pods = scheduledPods([
    pod('web', { nodeName: 'node1', serviceAccountName: 'web' }),
    pod('plain', { nodeName: 'node1' }),
    pod('starting', { nodeName: 'node2', serviceAccountName: 'x' }, { phase: 'Pending' }),
    pod('new', { nodeName: 'node2', serviceAccountName: 'x' }, null),
    pod('waiting', { serviceAccountName: 'web' }),
    pod('nowhere', { nodeName: '', serviceAccountName: 'web' }),
    pod('done', { nodeName: 'node1', serviceAccountName: 'web' }, { phase: 'Succeeded' }),
    pod('dead', { nodeName: 'node1', serviceAccountName: 'web' }, { phase: 'Failed' }),
    pod('odd', 'nothing'),
    pod('other', { nodeName: 'node1' }, null, 'Pod', 'example.com'),
    pod('service', { nodeName: 'node1' }, null, 'Service'),
  ])
  assert.deepEqual(Object.fromEntries(pods), {
    'shop/web': { node: 'node1', serviceAccount: 'web' },
    'shop/plain': { node: 'node1', serviceAccount: 'default' },
    'shop/starting': { node: 'node2', serviceAccount: 'x' },
    'shop/new': { node: 'node2', serviceAccount: 'x' },
  })
})

const WEB = formatIdentity(TRUST_DOMAIN, 'shop', 'web')
const WORKLOAD = { name: 'web', node: 'node1', trustDomain: TRUST_DOMAIN, namespace: 'shop', serviceAccount: 'web' }

async function statusFor(pods: ReadonlyMap<string, ScheduledPod> | null): Promise<number | null> {
  const leaf = new TestAuthority().leafFor(formatNodeIdentity(TRUST_DOMAIN, 'node1'))
  const { X509Certificate } = await import('node:crypto')
  const authority: Pick<CertificateAuthority, 'bundle' | 'sign' | 'identitiesIn'> = {
    bundle: 'roots',
    sign: () => leaf.certificateChain,
    identitiesIn: () => [WEB],
  }
  const server = new CertificateServer({
    authority,
    tokens: null,
    trustDomain: TRUST_DOMAIN,
    workloadLifetimeMs: 60_000,
    nodeLifetimeMs: 60_000,
    log: silentLog,
    now: Date.now,
  })
  server.setWorkloads([WORKLOAD as Workload], pods)
  const certificate = new X509Certificate(leaf.certificateChain).raw
  const request = { csr: 'any', validitySeconds: 0, impersonatedIdentity: WEB }
  try {
    await server.sign(request, { certificate, tokenNode: null, address: 'x' })
    return null
  } catch (error) {
    assert.ok(error instanceof CallError)
    return error.status
  }
}

const PODS: readonly [string, ReadonlyMap<string, ScheduledPod> | null, number | null][] = [
  ['there as the workload says', new Map([['shop/web', { node: 'node1', serviceAccount: 'web' }]]), null],
  ['of a source that does not know better', null, null],
  ['gone, though its workload is still in force', new Map(), STATUS_PERMISSION_DENIED],
  [
    'on another node by now',
    new Map([['shop/web', { node: 'node2', serviceAccount: 'web' }]]),
    STATUS_PERMISSION_DENIED,
  ],
  [
    'of another ServiceAccount by now',
    new Map([['shop/web', { node: 'node1', serviceAccount: 'api' }]]),
    STATUS_PERMISSION_DENIED,
  ],
  [
    'in another namespace',
    new Map([['store/web', { node: 'node1', serviceAccount: 'web' }]]),
    STATUS_PERMISSION_DENIED,
  ],
]

for (const [what, pods, status] of PODS) {
  test(`the identity of a pod that is ${what} is ${status === null ? 'given' : 'denied'}`, async () => {
    assert.equal(await statusFor(pods), status)
  })
}
