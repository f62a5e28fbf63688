/** The baggage header: written for a workload, read from any peer. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { TUNNEL_HBONE, type Workload } from '../../src/model/workload.ts'
import { parseBaggage, writeBaggage } from '../../src/proxy/baggage.ts'

const WORKLOAD: Workload = {
  uid: 'Kubernetes//Pod/shop/reviews-1',
  name: 'reviews-1',
  namespace: 'shop',
  addresses: ['198.18.1.2'],
  node: 'node1',
  trustDomain: 'cluster.local',
  serviceAccount: 'reviews',
  tunnelProtocol: TUNNEL_HBONE,
  isHealthy: true,
  services: [],
  policies: [],
  clusterId: 'Kubernetes',
  locality: { region: 'eu', zone: 'eu-1', subzone: 'a' },
  workloadName: 'reviews-v1',
  workloadType: 'deployment',
  canonicalName: 'reviews',
  canonicalRevision: 'v1',
  capacity: 1,
}

const EMPTY = {
  cluster: '',
  namespace: '',
  workloadName: '',
  workloadType: 'deployment',
  service: '',
  revision: '',
  region: '',
  zone: '',
}

describe('baggage', () => {
  test('names the workload with the keys that ztunnel uses', () => {
    assert.equal(
      writeBaggage(WORKLOAD),
      'k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=reviews-v1,' +
        'service.name=reviews,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1',
    )
  })

  test('leaves out what is empty', () => {
    const locality = { region: '', zone: '', subzone: '' }
    const bare: Workload = { ...WORKLOAD, clusterId: '', locality, canonicalRevision: '', workloadType: 'job' }
    assert.equal(writeBaggage(bare), 'k8s.namespace.name=shop,k8s.job.name=reviews-v1,service.name=reviews')
  })

  test('is read back, whatever characters are in it', () => {
    const odd: Workload = { ...WORKLOAD, canonicalName: 'a,b=c;d é', canonicalRevision: '100%' }
    assert.deepEqual(parseBaggage(writeBaggage(odd)), {
      cluster: 'Kubernetes',
      namespace: 'shop',
      workloadName: 'reviews-v1',
      workloadType: 'deployment',
      service: 'a,b=c;d é',
      revision: '100%',
      region: 'eu',
      zone: 'eu-1',
    })
  })

  const READ: readonly (readonly [string, object | null])[] = [
    ['', null],
    [',,,', null],
    ['=x', null],
    ['novalue', null],
    ['service.name=a', { ...EMPTY, service: 'a' }],
    [' service.name = a ;p=1, k8s.pod.name=b ', { ...EMPTY, service: 'a', workloadName: 'b', workloadType: 'pod' }],
    ['service.name=%zz', { ...EMPTY, service: '%zz' }],
    ['unknown=1,k8s.cronjob.name=c', { ...EMPTY, workloadName: 'c', workloadType: 'cronjob' }],
    [`service.name=${'x'.repeat(5000)}`, null],
  ]
  for (const [text, expected] of READ) {
    test(`reads ${JSON.stringify(text.slice(0, 60))}`, () => assert.deepEqual(parseBaggage(text), expected))
  }
})
