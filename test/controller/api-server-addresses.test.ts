import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { apiServerAddresses } from '../../src/controller/api-server-addresses.ts'
import { parse } from '../compiler/builders.ts'

const SERVICE = parse({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: 'kubernetes', namespace: 'default' },
  spec: { clusterIP: '10.96.0.1', clusterIPs: ['10.96.0.1', 'fd00::1'], ports: [{ name: 'https', port: 443 }] },
})

function slice(fields: object): ReturnType<typeof parse> {
  return parse({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name: 'kubernetes', namespace: 'default' },
    addressType: 'IPv4',
    ...fields,
  })
}

const SLICE = slice({
  endpoints: [{ addresses: ['192.0.2.1'] }, { addresses: ['192.0.2.2'] }],
  ports: [{ name: 'https', port: 6443, protocol: 'TCP' }],
})

const ADDRESSES = [
  { address: '192.0.2.1', port: 6443 },
  { address: '192.0.2.2', port: 6443 },
]

describe('where the API server is by its own word', () => {
  for (const server of ['https://10.96.0.1:443', 'https://[fd00::1]', 'https://10.96.0.1']) {
    test(`counts where it is reached by its Service: ${server}`, () => {
      assert.deepEqual(apiServerAddresses(server, SERVICE, SLICE), ADDRESSES)
    })
  }

  for (const [what, server, service, endpoints] of [
    ['by another address', 'https://192.0.2.1:6443', SERVICE, SLICE],
    ['by a name', 'https://api.example.com', SERVICE, SLICE],
    ['and there is no Service', 'https://10.96.0.1', undefined, SLICE],
    ['and there is no EndpointSlice', 'https://10.96.0.1', SERVICE, undefined],
    ['and it has taken itself off', 'https://10.96.0.1', SERVICE, slice({ endpoints: null, ports: null })],
    [
      'and what it says makes no sense',
      'https://10.96.0.1',
      SERVICE,
      slice({ endpoints: [1, { addresses: 2 }], ports: 'x' }),
    ],
  ] as const) {
    test(`is nothing where it is reached ${what}`, () => {
      assert.deepEqual(apiServerAddresses(server, service, endpoints), [])
    })
  }
})
