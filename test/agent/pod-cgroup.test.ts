import assert from 'node:assert/strict'
import { test } from 'node:test'
import { podUidOfCgroup } from '../../src/agent/pod-cgroup.ts'

const UID = '0f0e1d2c-3b4a-5968-7786-95a4b3c2d1e0'
const SLICE = '0f0e1d2c_3b4a_5968_7786_95a4b3c2d1e0'
const CONTAINER = 'a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90'
const HASH = '9f8e7d6c5b4a39281706f5e4d3c2b1a0'

// biome-ignore format: a table
const GROUPS: readonly [string, string, string | null][] = [
  ['containerd, v2, systemd', `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${SLICE}.slice/cri-containerd-${CONTAINER}.scope`, UID],
  ['CRI-O, v2, systemd, guaranteed', `0::/kubepods.slice/kubepods-pod${SLICE}.slice/crio-${CONTAINER}.scope/container`, UID],
  ['Docker, v2, systemd', `0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${SLICE}.slice/docker-${CONTAINER}.scope`, UID],
  ['containerd, v2, cgroupfs', `0::/kubepods/besteffort/pod${UID}/${CONTAINER}`, UID],
  ['guaranteed, cgroupfs', `0::/kubepods/pod${UID}/${CONTAINER}`, UID],
  ['v1, cgroupfs', `12:memory:/kubepods/burstable/pod${UID}/${CONTAINER}\n1:name=systemd:/kubepods/burstable/pod${UID}/${CONTAINER}\n0::/`, UID],
  ['v1, a systemd path that the runtime takes for a name', `4:cpu,cpuacct:/system.slice/containerd.service/kubepods-burstable-pod${SLICE}.slice:cri-containerd:${CONTAINER}`, UID],
  ['v1, the pod in the second line only', `1:name=elsewhere:/\n2:pids:/kubepods/pod${UID}/x`, UID],
  ['a kubelet with a root of its own', `0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${SLICE}.slice/cri-containerd-${CONTAINER}.scope`, UID],
  ['seen from a cgroup namespace', `0::/../../kubepods-besteffort-pod${SLICE}.slice/cri-containerd-${CONTAINER}.scope`, UID],
  ['a static pod', `0::/kubepods/burstable/pod${HASH}/${CONTAINER}`, HASH],
  ['the group of the pod itself', `0::/kubepods/pod${UID}`, UID],
  ['a container engine in a pod', `0::/kubepods/pod${UID}/${CONTAINER}/docker/${CONTAINER}`, UID],
  ['a cluster in a pod: the outer one', `0::/kubepods/pod${UID}/x/kubepods/pod11111111-2222-3333-4444-555555555555/y`, UID],
  ['a service of the node', '0::/system.slice/kubelet.service', null],
  ['the root', '0::/', null],
  ['a name that only looks like one', `0::/user.slice/mypod${UID}x/a`, null],
  ['a uid that is too short', '0::/kubepods/pod0f0e1d2c-3b4a/x', null],
  ['nothing', '', null],
  ['no cgroup line', 'pod', null],
]

for (const [what, text, uid] of GROUPS) {
  test(`the pod of a process: ${what}`, () => {
    assert.equal(podUidOfCgroup(text), uid)
    assert.equal(podUidOfCgroup(`${text}\n`), uid)
  })
}
