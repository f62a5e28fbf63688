import assert from 'node:assert/strict'
import { endianness } from 'node:os'
import { describe, test } from 'node:test'
import { FAMILY_IPV4, FAMILY_IPV6, parseAddress } from '../../src/base/address.ts'
import type { Addon, NetnsInterface } from '../../src/kernel/addon.ts'
import { POD_INTERFACES_MAX } from '../../src/kernel/layout.generated.ts'
import {
  addRule,
  askRoute,
  deleteRoute,
  deleteRule,
  dumpMarkedSockets,
  replaceRoute,
} from '../../src/kernel/netlink.ts'
import {
  hasSteeredSockets,
  installSteering,
  planSteering,
  removeSteering,
  steeringFaults,
} from '../../src/kernel/steering.ts'

function row(name: string, index: number, address: string | null): NetnsInterface {
  return { name, index, isUp: true, address: address === null ? null : parseAddress(address)! }
}

const LO = [row('lo', 1, null), row('lo', 1, '127.0.0.1'), row('lo', 1, '::1')]

describe('planning', () => {
  test('steers both families from the pod’s addresses, over lo first, then over each interface', () => {
    const found = [
      ...LO,
      row('eth0', 2, null),
      row('eth0', 2, '10.0.0.5'),
      row('eth0', 2, 'fd77::5'),
      row('eth0', 2, 'fe80::1'),
    ]
    const plan = planSteering(found, ['10.0.0.5', 'fd77::5'])
    assert.deepEqual(plan.ownAddresses, ['10.0.0.5', 'fd77::5', 'fe80::1'])
    assert.deepEqual(plan.interfaces, [2])
    assert.deepEqual([plan.isSteeringIpv4, plan.isSteeringIpv6], [true, true])
    const summary = plan.routes.map((route) => [
      route.family,
      route.interfaceIndex,
      route.metric,
      route.source[15] ?? route.source[3],
    ])
    assert.deepEqual(summary, [
      [FAMILY_IPV4, 1, 1, 5],
      [FAMILY_IPV4, 2, 2, 5],
      [FAMILY_IPV6, 1, 1, 5],
      [FAMILY_IPV6, 2, 2, 5],
    ])
    assert.deepEqual(
      plan.rules.map(({ family }) => family),
      [FAMILY_IPV4, FAMILY_IPV6],
    )
  })

  test('does not steer a family that has no address, or a link-local one only', () => {
    const plan = planSteering([...LO, row('eth0', 2, '10.0.0.5'), row('eth0', 2, 'fe80::1')], ['10.0.0.5'])
    assert.deepEqual([plan.isSteeringIpv4, plan.isSteeringIpv6], [true, false])
    assert.ok(plan.routes.every(({ family }) => family === FAMILY_IPV4))
    assert.ok(plan.ownAddresses.includes('fe80::1'))
  })

  test('takes an address as source only if the netns has it', () => {
    const plan = planSteering([...LO, row('eth0', 2, '10.0.0.6')], ['10.0.0.5'])
    assert.equal(plan.routes[0]!.source[3], 6)
    // The one that the pod should have is local all the same: it may come a moment later.
    assert.deepEqual(plan.ownAddresses, ['10.0.0.5', '10.0.0.6'])
  })

  test('knows addresses that lie on lo as the pod’s own', () => {
    const plan = planSteering([...LO, row('lo', 1, '10.9.9.9'), row('eth0', 2, '10.0.0.5')], ['10.0.0.5'])
    assert.ok(plan.ownAddresses.includes('10.9.9.9'))
    assert.deepEqual(plan.interfaces, [2])
  })

  test('takes at most as many interfaces as the programs know', () => {
    const found = [2, 3, 4, 5, 6, 7].map((index) => row(`eth${index}`, index, `10.0.0.${index}`))
    assert.equal(planSteering(found, []).interfaces.length, POD_INTERFACES_MAX)
  })
})

/** Answers netlink requests by a table, and records them. */
class NetlinkRecorder {
  readonly sent: string[] = []
  private readonly answer: (request: Uint8Array) => Uint8Array

  constructor(answer: (request: Uint8Array) => Uint8Array) {
    this.answer = answer
  }

  netlinkInNetns(_netnsFd: number, _protocol: number, message: Uint8Array): Uint8Array {
    this.sent.push(Buffer.from(message).toString('hex'))
    return this.answer(message)
  }

  get addon(): Addon {
    return this as unknown as Addon
  }
}

function failing(code: string): () => never {
  return () => {
    throw Object.assign(new Error(code), { code, errno: 1, syscall: 'netlink', object: 'netns' })
  }
}

describe('installing and removing', () => {
  const plan = planSteering([row('eth0', 2, '10.0.0.5')], ['10.0.0.5'])

  test('sets routes before the rule that leads to them, and removes the rule before its routes', () => {
    const installed = new NetlinkRecorder(() => new Uint8Array(0))
    installSteering(installed.addon, 9, plan)
    const removed = new NetlinkRecorder(() => new Uint8Array(0))
    removeSteering(removed.addon, 9, plan)
    const type = (message: string) => Buffer.from(message, 'hex').readUInt8(endianness() === 'LE' ? 4 : 5)
    assert.deepEqual(installed.sent.map(type), [24, 24, 32])
    assert.deepEqual(removed.sent.map(type), [33, 25, 25])
  })

  test('takes a rule that is there, and routes that are gone, as done', () => {
    const exists = new NetlinkRecorder((message) => (message[4] === 32 ? failing('EEXIST')() : new Uint8Array(0)))
    installSteering(exists.addon, 9, plan)
    for (const code of ['ENOENT', 'ESRCH']) removeSteering(new NetlinkRecorder(failing(code)).addon, 9, plan)
  })

  test('lets every other failure through', () => {
    assert.throws(() => installSteering(new NetlinkRecorder(failing('ENETDOWN')).addon, 9, plan), { code: 'ENETDOWN' })
    assert.throws(() => removeSteering(new NetlinkRecorder(failing('EPERM')).addon, 9, plan), { code: 'EPERM' })
  })

  test('asks for steered sockets of both families', () => {
    const none = new NetlinkRecorder(() => new Uint8Array(0))
    assert.equal(hasSteeredSockets(none.addon, 9), false)
    assert.equal(none.sent.length, 2)
    const some = new NetlinkRecorder((message) => new Uint8Array(message[16] === FAMILY_IPV6 ? 72 : 0))
    assert.equal(hasSteeredSockets(some.addon, 9), true)
  })
})

describe('looking at what is set', () => {
  const plan = planSteering([row('eth0', 2, '10.0.0.5')], ['10.0.0.5'])
  const WRONG = [
    'IPv4 packets are not steered to the agent',
    'IPv4 packets of sockets bound to interface 2 are not steered to the agent',
  ]

  /** An answer of rtnetlink: header, rtmsg, and the interface of the route. */
  function answer(table: number, type: number, interfaceIndex: number): Uint8Array {
    const bytes = new Uint8Array(16 + 12 + 8 + 8)
    const view = new DataView(bytes.buffer)
    const isLittle = endianness() === 'LE'
    bytes[20] = table
    bytes[23] = type
    view.setUint16(28, 8, isLittle)
    view.setUint16(30, 15, isLittle)
    view.setUint16(36, 8, isLittle)
    view.setUint16(38, 4, isLittle)
    view.setUint32(40, interfaceIndex, isLittle)
    return bytes
  }

  test('takes a local route of our table over the right interface for right, and nothing else', () => {
    const expected = [answer(151, 2, 1), answer(151, 2, 2)]
    assert.deepEqual(steeringFaults(new NetlinkRecorder(() => expected.shift()!).addon, 9, plan), [])
    for (const wrong of [
      answer(254, 2, 1),
      answer(151, 1, 1),
      answer(151, 2, 3),
      answer(151, 2, 1).subarray(0, 36),
      new Uint8Array(0),
    ]) {
      assert.deepEqual(steeringFaults(new NetlinkRecorder(() => wrong).addon, 9, plan), WRONG)
    }
  })

  test('takes a route that is not there for a fault, and lets every other failure through', () => {
    assert.deepEqual(steeringFaults(new NetlinkRecorder(failing('ENETUNREACH')).addon, 9, plan), WRONG)
    assert.throws(() => steeringFaults(new NetlinkRecorder(failing('EPERM')).addon, 9, plan), { code: 'EPERM' })
  })
})

test('messages have the bytes of rtnetlink and sock_diag', { skip: endianness() !== 'LE' }, () => {
  const rule = { family: FAMILY_IPV4, mark: 0x57450001, table: 151, priority: 151 } as const
  const route = {
    family: FAMILY_IPV4,
    table: 151,
    interfaceIndex: 2,
    metric: 3,
    source: parseAddress('10.0.0.5')!,
  } as const
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
  // Length, type, flags (request, acknowledge, create, exclusive), sequence, port; fib_rule_hdr; priority, mark, table.
  assert.equal(
    hex(addRule(rule)),
    '34000000200005060000000000000000' +
      '020000000000000100000000' +
      '0800060097000000' +
      '08000a0001004557' +
      '08000f0097000000',
  )
  assert.equal(hex(deleteRule(rule)).slice(8, 16), '21000500')
  // rtmsg: family, table 151, static, scope host, local; interface, metric, source.
  assert.equal(
    hex(replaceRoute(route)),
    '34000000180005050000000000000000' +
      '020000009704fe0200000000' +
      '0800040002000000' +
      '0800060003000000' +
      '080007000a000005',
  )
  assert.equal(hex(deleteRoute(route)).slice(8, 16), '19000500')
  // rtmsg: family, all bits of the destination, the route itself with its table; destination, mark, interface.
  const destination = parseAddress('198.51.100.1')!
  const question = { family: FAMILY_IPV4, destination, mark: 0x57450001, interfaceIndex: 2 } as const
  assert.equal(
    hex(askRoute(question)),
    '340000001a0005000000000000000000' +
      '022000000000000000300000' +
      '08000100c6336401' +
      '0800100001004557' +
      '0800040002000000',
  )
  const dump = hex(dumpMarkedSockets(FAMILY_IPV6, 0x57450001))
  assert.equal(dump.length, 2 * 88)
  assert.equal(dump.slice(0, 16), '5800000014000103')
  assert.equal(dump.slice(32, 48), '0a060000' + '3f0b0000')
  assert.equal(dump.slice(-32), '10000100' + '0a0c1000' + '01004557' + 'ffffffff')
})
