/** The baggage header: written for a workload. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { TUNNEL_HBONE, type Workload } from '../../src/model/workload.ts'
import { writeBaggage } from '../../src/proxy/baggage.ts'

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

  test('escapes what has a meaning in the header', () => {
    const odd: Workload = { ...WORKLOAD, canonicalName: 'a,b=c;d é', canonicalRevision: '100%' }
    assert.match(writeBaggage(odd), /service\.name=a%2Cb%3Dc%3Bd%20%C3%A9,service\.version=100%25/)
  })
})
