/**
 * The ports of a pod to which the kubelet of its node connects by itself: those of its probes (HTTP, TCP, gRPC) and of the
 * HTTP hooks of its life cycle. Read leniently: the API server has checked them, and what cannot be read is no port.
 */
import type { MeshObject } from './object.ts'
import { isTree, own } from './object.ts'

const CONTAINER_LISTS = ['containers', 'initContainers'] as const
const PROBES = ['livenessProbe', 'readinessProbe', 'startupProbe'] as const
const HOOKS = ['postStart', 'preStop'] as const
const ACTIONS = ['httpGet', 'tcpSocket', 'grpc'] as const

/** Sorted. An action that names a host of its own does not go to the pod. */
export function probePortsOf({ spec }: MeshObject): readonly number[] {
  const ports = new Set<number>()
  for (const list of CONTAINER_LISTS) {
    for (const container of listOf(spec, list)) {
      const names = namedPorts(container)
      const lifecycle = child(container, 'lifecycle')
      const handlers = [...PROBES.map((name) => child(container, name)), ...HOOKS.map((name) => child(lifecycle, name))]
      for (const handler of handlers) {
        for (const action of ACTIONS) {
          const port = portOf(child(handler, action), names)
          if (port !== null) ports.add(port)
        }
      }
    }
  }
  return [...ports].sort((a, b) => a - b)
}

function portOf(action: unknown, names: ReadonlyMap<string, number>): number | null {
  const host = child(action, 'host')
  if (typeof host === 'string' && host !== '') return null
  const written = child(action, 'port')
  // Kubernetes takes a number that is written as text for a number as well.
  const port = typeof written === 'string' ? (names.get(written) ?? Number(written)) : written
  return typeof port === 'number' && Number.isInteger(port) && port >= 1 && port <= 65_535 ? port : null
}

function namedPorts(container: unknown): ReadonlyMap<string, number> {
  const names = new Map<string, number>()
  for (const port of listOf(container, 'ports')) {
    const [name, number] = [child(port, 'name'), child(port, 'containerPort')]
    if (typeof name === 'string' && name !== '' && typeof number === 'number') names.set(name, number)
  }
  return names
}

function child(value: unknown, name: string): unknown {
  return isTree(value) ? own(value, name) : undefined
}

function listOf(value: unknown, name: string): readonly unknown[] {
  const list = child(value, name)
  return Array.isArray(list) ? list : []
}
