/**
 * The pod that a process belongs to, as its control groups tell (/proc/PID/cgroup): the kubelet names the group of a pod
 * after the pod's uid, whatever the hierarchy (v1 or v2), the driver and the container runtime.
 *
 *      cgroupfs    /kubepods/burstable/pod<uid>/<container>
 *      systemd     /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, with _ for ->.slice/<runtime>-<container>.scope
 */

/** Uids of the API server, and those of static pods, which are a hash without dashes. */
const POD =
  /(?:^|[/-])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?:[/:]|$)/

/**
 * Uid of the pod in which a process runs; null when it runs in none. Of a kubelet that runs in a pod itself the outer pod
 * counts: that one has the network.
 */
export function podUidOfCgroup(text: string): string | null {
  for (const line of text.split('\n')) {
    // hierarchy-ID:controller-list:path, of which the path may have colons.
    const second = line.indexOf(':', line.indexOf(':') + 1)
    if (second < 0) continue
    const uid = POD.exec(line.slice(second + 1))?.[1]
    if (uid !== undefined) return uid.replaceAll('_', '-')
  }
  return null
}
