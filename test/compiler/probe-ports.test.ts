import assert from 'node:assert/strict'
import { test } from 'node:test'
import { probePortsOf } from '../../src/compiler/probe-ports.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED } from '../../src/model/workload.ts'
import { compileTrees, namespace, parse, pod, tree } from './builders.ts'

const ports = (spec: unknown): readonly number[] => probePortsOf(parse(tree('v1', 'Pod', 'web', spec)))

test('every way in which a kubelet connects to a pod is known, of all containers', () => {
  const spec = {
    containers: [
      {
        ports: [
          { name: 'web', containerPort: 8080 },
          { name: 'other', containerPort: 9 },
        ],
        livenessProbe: { httpGet: { path: '/', port: 'web' } },
        readinessProbe: { tcpSocket: { port: 8081 } },
        startupProbe: { grpc: { port: 8082 } },
        lifecycle: { postStart: { httpGet: { port: 8083 } }, preStop: { httpGet: { port: '8084' } } },
      },
      { livenessProbe: { httpGet: { port: 8080 } } },
    ],
    initContainers: [{ readinessProbe: { httpGet: { port: 70 } } }],
  }
  assert.deepEqual(ports(spec), [70, 8080, 8081, 8082, 8083, 8084])
})

test('what does not connect to the pod gives no port', () => {
  const exec = { livenessProbe: { exec: { command: ['true'] } }, lifecycle: { preStop: { sleep: { seconds: 1 } } } }
  const elsewhere = {
    livenessProbe: { httpGet: { host: 'example.org', port: 80 }, tcpSocket: { host: '10.0.0.1', port: 81 } },
  }
  const unnamed = { ports: [{ containerPort: 80 }], livenessProbe: { httpGet: { port: 'web' } } }
  assert.deepEqual(ports({ containers: [exec, elsewhere, unnamed] }), [])
  assert.deepEqual(ports({ containers: 'none', initContainers: [7, null, { livenessProbe: [] }] }), [])
  const bad = [0, 65_536, 1.5, '', 'x', null, {}, -1].map((port) => ({ livenessProbe: { tcpSocket: { port } } }))
  assert.deepEqual(ports({ containers: bad }), [])
})

test('agents are told the ports that are probed, and the namespaces that have pods in the mesh', () => {
  const probed = { containers: [{ name: 'a', livenessProbe: { tcpSocket: { port: 7 } } }] }
  const closed = {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: {
      name: 'bank',
      annotations: { 'weft.dev/failure-mode': 'closed' },
      labels: { 'weft.dev/mesh': 'enabled' },
    },
  }
  const { state } = compileTrees([
    namespace('shop'),
    closed,
    namespace('plain', {}),
    namespace('mixed', {}),
    namespace('canary', { 'weft.dev/mesh': 'enabled', 'weft.dev/rev': 'next' }),
    pod('web', {}, {}, probed),
    pod('out', {}, { namespace: 'plain' }),
    pod('in', { 'weft.dev/mesh': 'enabled' }, { namespace: 'mixed' }),
    pod('theirs', {}, { namespace: 'canary' }),
  ])
  assert.deepEqual(
    state.pods.map(({ pod: { uid, probePorts } }) => [uid, probePorts]),
    [
      ['Kubernetes//Pod/mixed/in', undefined],
      ['Kubernetes//Pod/shop/web', [7]],
    ],
  )
  assert.deepEqual(state.namespaces, [
    { name: 'bank', failureMode: FAILURE_CLOSED },
    { name: 'mixed', failureMode: FAILURE_BY_POLICY },
    { name: 'shop', failureMode: FAILURE_BY_POLICY },
  ])
})
