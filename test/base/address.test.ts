import assert from 'node:assert/strict'
import { isIP, SocketAddress } from 'node:net'
import test from 'node:test'
import {
  canonicalAddress,
  cidrContains,
  familyOf,
  formatAddress,
  formatHostPort,
  isLoopback,
  parseAddress,
  parseCidr,
  parseHostPort,
} from '../../src/base/address.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const CANONICAL: readonly (readonly [string, string])[] = [
  ['0.0.0.0', '0.0.0.0'],
  ['255.255.255.255', '255.255.255.255'],
  ['::', '::'],
  ['::1', '::1'],
  ['0:0:0:0:0:0:0:1', '::1'],
  ['FD00::00A1', 'fd00::a1'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
  ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
  ['fe80::', 'fe80::'],
  ['::ffff:192.0.2.1', '192.0.2.1'],
  ['::ffff:c000:201', '192.0.2.1'],
  ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
  ['1:2:3:4:5:6:1.2.3.4', '1:2:3:4:5:6:102:304'],
]

test('every spelling of an address has one canonical text', () => {
  for (const [text, canonical] of CANONICAL) assert.equal(canonicalAddress(text), canonical, text)
})

const NO_ADDRESS = [
  '',
  '1.2.3',
  '1.2.3.4.5',
  '1.2.3.256',
  '01.2.3.4',
  '1.2.3.-4',
  ' 1.2.3.4',
  '0x1.2.3.4',
  ':',
  ':::',
  '1::2::3',
  '1:2:3:4:5:6:7',
  '1:2:3:4:5:6:7:8:9',
  '1:2:3:4:5:6:7:8::',
  '12345::',
  'g::',
  '::1.2.3',
  '1.2.3.4::',
  '1:2:3:4:5:6:7:1.2.3.4',
  '::1%lo',
  '[::1]',
  ':1:2:3:4:5:6:7',
  '1:2:3:4:5:6:7:',
]

test('what is no address is none', () => {
  for (const text of NO_ADDRESS) assert.equal(parseAddress(text), null, JSON.stringify(text))
})

test('random texts are taken exactly when Node.js takes them, and mean the same', () => {
  const random = new SeededRandom(7)
  const pieces = ['0', '1', 'ff', 'ffff', ':', '::', '.', '255', '256', 'a', '1.2.3.4', '0:0']
  let taken = 0
  for (let round = 0; round < 20_000; round++) {
    let text = ''
    for (let i = 0; i < 12 && random.next() > 0.1; i++) text += pieces[Math.floor(random.next() * pieces.length)]
    const bytes = parseAddress(text)
    assert.equal(bytes !== null, isIP(text) !== 0, text)
    if (bytes === null) continue
    taken++
    const family = isIP(text) === 4 ? 'ipv4' : 'ipv6'
    const canonical = formatAddress(bytes)
    assert.equal(canonicalAddress(canonical), canonical, text)
    assert.equal(canonicalAddress(new SocketAddress({ address: text, family }).address), canonical, text)
  }
  assert.ok(taken > 500)
})

test('only 4 and 16 bytes can be written', () => {
  assert.throws(() => formatAddress(new Uint8Array(5)), RangeError)
})

test('a host and a port are told apart, and no port is out of range', () => {
  assert.deepEqual(parseHostPort('weft:15012'), { host: 'weft', port: 15012 })
  assert.deepEqual(parseHostPort('[FD00::1]:80'), { host: 'fd00::1', port: 80 })
  for (const text of ['weft', ':80', 'weft:', 'weft:0', 'weft:65536', 'weft:-1', 'weft:1e3', '::1:80', '[::1:80']) {
    assert.equal(parseHostPort(text), null, text)
  }
  assert.equal(parseHostPort('[weft]:80'), null)
  assert.equal(parseHostPort('[1.2.3.4]:80'), null)
  assert.equal(formatHostPort('fd00::1', 80), '[fd00::1]:80')
  assert.equal(formatHostPort('1.2.3.4', 80), '1.2.3.4:80')
})

test('families and loopback', () => {
  assert.deepEqual([familyOf('1.2.3.4'), familyOf('::1')], [2, 10])
  assert.deepEqual(
    ['127.0.0.1', '127.9.9.9', '::1', '128.0.0.1', '::2'].map((address) => isLoopback(address)),
    [true, true, true, false, false],
  )
})

const BLOCKS: readonly (readonly [string, readonly string[], readonly string[]])[] = [
  ['10.0.0.0/8', ['10.0.0.0', '10.255.255.255'], ['11.0.0.0', '9.255.255.255', '::a00:0']],
  ['198.18.1.128/25', ['198.18.1.128', '198.18.1.255'], ['198.18.1.127', '198.18.2.128']],
  ['0.0.0.0/0', ['1.2.3.4'], ['::1']],
  ['192.0.2.7', ['192.0.2.7'], ['192.0.2.6']],
  ['fd00::/9', ['fd00::', 'fd7f::1'], ['fd80::', '1.2.3.4']],
  ['::1/128', ['::1'], ['::']],
]

test('a block contains its own addresses, to the bit', () => {
  for (const [block, inside, outside] of BLOCKS) {
    for (const address of inside)
      assert.ok(cidrContains(parseCidr(block)!, parseAddress(address)!), `${block} ${address}`)
    for (const address of outside)
      assert.ok(!cidrContains(parseCidr(block)!, parseAddress(address)!), `${block} ${address}`)
  }
})

test('what is no block is none', () => {
  for (const text of ['', '10.0.0.0/', '10.0.0.0/33', '10.0.0/8', '::/129', '10.0.0.0/-1', '10.0.0.0/8/8', '/8']) {
    assert.equal(parseCidr(text), null, text)
  }
})
