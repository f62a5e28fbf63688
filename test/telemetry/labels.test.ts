/** The label values of an edge, one by one, and that both of its reporters agree. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { EDGE_LABEL_COUNT, HTTP_LABELS, TCP_LABELS } from '../../src/telemetry/catalogue.ts'
import { edgeLabels } from '../../src/telemetry/labels.ts'
import type { EdgeKey } from '../../src/telemetry/recorder.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const CLIENT = workloadOf('productpage-1', {
  workloadName: 'productpage',
  canonicalName: 'productpage',
  canonicalRevision: 'v2',
  serviceAccount: 'bookinfo',
})
const SERVER = workloadOf('reviews-1')

export const EDGE: EdgeKey = {
  reporter: 'source',
  protocol: 'http',
  source: CLIENT,
  destination: SERVER,
  service: SERVICE,
  host: 'reviews.shop:80',
  isMutualTls: true,
  sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/bookinfo',
  destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/reviews',
}

function labelsOf(fields: Partial<EdgeKey> = {}): Record<string, string> {
  const values = edgeLabels({ ...EDGE, ...fields })
  return Object.fromEntries(values.map((value, index) => [TCP_LABELS[index]!, value]))
}

describe('the labels of an edge', () => {
  test('are all there, in the order of the catalogue', () => {
    assert.equal(edgeLabels(EDGE).length, EDGE_LABEL_COUNT)
    assert.equal(TCP_LABELS.length, 23)
    assert.equal(HTTP_LABELS.length, 25)
    assert.deepEqual(labelsOf(), {
      reporter: 'source',
      source_workload: 'productpage',
      source_workload_namespace: 'shop',
      source_app: 'productpage',
      source_version: 'v2',
      source_cluster: 'Kubernetes',
      source_principal: 'spiffe://cluster.local/ns/shop/sa/bookinfo',
      source_canonical_service: 'productpage',
      source_canonical_revision: 'v2',
      destination_workload: 'reviews',
      destination_workload_namespace: 'shop',
      destination_app: 'reviews',
      destination_version: 'v1',
      destination_cluster: 'Kubernetes',
      destination_principal: 'spiffe://cluster.local/ns/shop/sa/reviews',
      destination_canonical_service: 'reviews',
      destination_canonical_revision: 'v1',
      destination_service: SERVICE.hostname,
      destination_service_name: SERVICE.name,
      destination_service_namespace: SERVICE.namespace,
      request_protocol: 'http',
      connection_security_policy: 'mutual_tls',
    })
  })

  test('differ between the reporters of one edge in nothing but the reporter', () => {
    const { reporter: source, ...first } = labelsOf({ reporter: 'source' })
    // The destination may not know by which service it was meant.
    const { reporter: destination, ...second } = labelsOf({ reporter: 'destination', service: null, host: '' })
    assert.deepEqual([source, destination], ['source', 'destination'])
    assert.deepEqual(first, second)
  })

  test('of what is not known are unknown, never empty', () => {
    const labels = labelsOf({
      source: null,
      destination: null,
      service: null,
      host: '',
      isMutualTls: false,
      sourcePrincipal: null,
      destinationPrincipal: null,
    })
    for (const [name, value] of Object.entries(labels)) {
      const expected: Record<string, string> = {
        reporter: 'source',
        request_protocol: 'http',
        source_canonical_revision: 'latest',
        destination_canonical_revision: 'latest',
        destination_service_name: 'PassthroughCluster',
      }
      assert.equal(value, expected[name] ?? 'unknown', name)
    }
  })

  test('have defaults for a workload without version, cluster name or owner', () => {
    const bare = workloadOf('bare', { canonicalRevision: '', clusterId: '', workloadName: '', canonicalName: '' })
    const labels = labelsOf({ source: bare })
    assert.equal(labels['source_canonical_revision'], 'latest')
    assert.equal(labels['source_version'], 'latest')
    assert.equal(labels['source_cluster'], 'Kubernetes')
    assert.equal(labels['source_workload'], 'bare')
    assert.equal(labels['source_canonical_service'], 'unknown')
  })

  test('take the namespace from the proved identity before the address', () => {
    const labels = labelsOf({ sourcePrincipal: 'spiffe://cluster.local/ns/real/sa/x' })
    assert.equal(labels['source_workload_namespace'], 'real')
  })

  test('show a host that is no service by its name: lower case, no port, nothing strange', () => {
    const cases = [
      ['Example.ORG:443', 'example.org'],
      ['example.org', 'example.org'],
      ['[fd00::1]:80', 'fd00::1'],
      ['10.0.0.1:80', '10.0.0.1'],
      ['a b', 'unknown'],
      ['x"y', 'unknown'],
      ['x'.repeat(300), 'unknown'],
      ['', 'unknown'],
    ] as const
    for (const [host, expected] of cases) {
      const labels = labelsOf({ service: null, destination: null, host })
      assert.equal(labels['destination_service'], expected)
      assert.equal(labels['destination_service_name'], 'PassthroughCluster')
    }
  })

  test('name no service when the workload is dialled directly and serves several or none', () => {
    const labels = labelsOf({ service: null, host: '', destination: workloadOf('x', { services: [] }) })
    assert.equal(labels['destination_service'], 'unknown')
    assert.equal(labels['destination_service_name'], 'unknown')
    assert.equal(labels['destination_service_namespace'], 'shop')
  })
})
