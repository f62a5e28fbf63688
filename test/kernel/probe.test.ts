import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Addon, loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { FALLBACKS, probePieces } from '../../src/kernel/optional-pieces.ts'
import { findCgroup2Mount, type KernelCheck, probeKernel } from '../../src/kernel/probe.ts'
import { needsRoot } from '../support/netns.ts'

const ALL_CAPABILITIES = 'Name:\tnode\nCapEff:\t000001ffffffffff\n'

function check(checks: readonly KernelCheck[], name: string): KernelCheck {
  const found = checks.find((one) => one.name === name)
  assert.ok(found !== undefined, `there is a check named ${name}`)
  return found
}

test('cgroup2 is found at the root of the hierarchy, on hybrid hosts below it, and under a path with a space', () => {
  assert.equal(findCgroup2Mount('cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n'), '/sys/fs/cgroup')
  const hybrid = 'tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n'
  assert.equal(findCgroup2Mount(`${hybrid}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n`), '/sys/fs/cgroup/unified')
  assert.equal(findCgroup2Mount('none /run/my\\040groups cgroup2 rw 0 0'), '/run/my groups')
  assert.equal(findCgroup2Mount(hybrid), null)
  assert.equal(findCgroup2Mount(''), null)
})

describe('checks', () => {
  const releases: [string, boolean][] = [
    ['5.17.0', true],
    ['5.18-rc1', true],
    ['6.1.0-13-amd64', true],
    ['10.0', true],
    ['5.16.20', false],
    ['4.19.0', false],
    ['unknown', false],
  ]
  for (const [release, isOk] of releases) {
    test(`kernel ${release} is ${isOk ? 'new enough' : 'refused'}`, () => {
      const found = check(probeKernel({ kernelRelease: release, buildDirectory: '/nowhere' }), 'kernel >= 5.17')
      assert.equal(found.ok, isOk)
      assert.equal(found.remedy === '', isOk)
    })
  }

  test('name each capability that is missing; CAP_SYS_ADMIN stands for CAP_BPF', () => {
    const of = (effective: bigint) => {
      const procStatus = `CapEff:\t${effective.toString(16).padStart(16, '0')}\n`
      const checks = probeKernel({ procStatus, buildDirectory: '/nowhere' })
      return ['CAP_SYS_ADMIN', 'CAP_BPF', 'CAP_NET_ADMIN'].map((name) => check(checks, name).ok)
    }
    assert.deepEqual(of(0n), [false, false, false])
    assert.deepEqual(of(1n << 12n), [false, false, true])
    assert.deepEqual(of(1n << 39n), [false, true, false])
    assert.deepEqual(of(1n << 21n), [true, true, false])
    const [all] = [probeKernel({ procStatus: ALL_CAPABILITIES, buildDirectory: '/nowhere' })]
    assert.ok(check(all, 'CAP_NET_ADMIN').ok)
  })

  test('end with the addon when it is not built, and say how to build it', () => {
    const checks = probeKernel({ buildDirectory: '/nowhere' })
    const last = checks.at(-1)!
    assert.deepEqual([last.name, last.ok, last.isRequired], ['native addon', false, true])
    assert.match(last.remedy, /make -C native/)
  })

  test('say that no cgroup2 is mounted, and how to mount it', () => {
    const found = check(probeKernel({ mounts: 'proc /proc proc rw 0 0\n', buildDirectory: '/nowhere' }), 'cgroup2')
    assert.equal(found.ok, false)
    assert.match(found.remedy, /^mount -t cgroup2/)
  })
})

test('on this machine every required check holds, for the tests of the capture need the same', needsRoot, () => {
  const checks = probeKernel()
  assert.deepEqual(
    checks.filter(({ ok, isRequired }) => isRequired && !ok),
    [],
  )
  for (const name of ['SO_NETNS_COOKIE', 'connect programs', 'sk_lookup program']) assert.ok(check(checks, name).ok)
  for (const piece of Object.keys(FALLBACKS)) {
    assert.deepEqual([check(checks, piece).ok, check(checks, piece).isRequired], [true, false], piece)
  }
})

test('pieces of the kernel that are absent are named, each with its reason', needsRoot, () => {
  const refuse = (object: string) => () => {
    throw Object.assign(new Error(`${object}: EINVAL (Invalid argument)`), {
      errno: 22,
      code: 'EINVAL',
      syscall: 'bpf',
    })
  }
  const old: Addon = {
    ...loadAddon(),
    loadObject: refuse('object'),
    updateLink: refuse('link'),
    netlinkInNetns: refuse('netlink'),
  }
  const found = [...probePieces(old, NATIVE_BUILD_DIRECTORY)]
  assert.deepEqual(found.map(([piece]) => piece).sort(), Object.keys(FALLBACKS).sort())
  for (const [piece, failure] of found) assert.match(String(failure), /EINVAL/, piece)
})
