/**
 * What containerd keeps on disk once it holds the images of test clusters: made once for each set of images, and given
 * to every node as hard links. A node then starts without unpacking anything, takes no room of its own and ends fast:
 * removing a gigabyte takes ten seconds of a disk with online discard.
 *
 * That is safe because containerd never writes into a file of an image: blobs and unpacked layers are replaced or
 * removed as a whole, which leaves the other links alone. Only its databases change, so they are copied.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { CACHE_DIRECTORY, type ClusterFiles } from './cluster-files.ts'
import { Component } from './component.ts'
import { type Image, PAUSE_IMAGE_NAME } from './images.ts'
import { Machine } from './machine.ts'
import { markUsed, removeUnused } from './unused-files.ts'

/** All stores of this machine. */
export const STORES = join(CACHE_DIRECTORY, 'image-stores')

/** Of containerd, everywhere. */
const STORE_INSIDE = 'var/lib/containerd'

/** containerd alone; a busy machine takes a while to unpack 200 MB. */
const IMPORT_TIMEOUT_MS = 180_000

/** What stays when a store is made: Weft's image changes with every edit, and each of its stores takes 300 MB. */
const STORES_KEPT = { keptCount: 6, keptMs: 3_600_000 }

/** Makes the store of these images if there is none; its path. */
export async function imageStore(files: ClusterFiles, images: readonly Image[]): Promise<string> {
  const names = images.map(({ archivePath }) => basename(archivePath))
  const path = join(STORES, createHash('sha256').update(JSON.stringify(names)).digest('hex').slice(0, 16))
  if (markUsed(path)) return path
  // The images that seldom change come first, so that only the last is unpacked anew.
  const base = images.length > 1 ? await imageStore(files, images.slice(0, -1)) : null
  mkdirSync(STORES, { recursive: true })
  removeUnused(STORES, STORES_KEPT)
  const directory = files.machine('image-store')
  const inside = join(directory, STORE_INSIDE)
  if (base !== null) linkStore(base, inside)
  await importImage(files, directory, images.at(-1)!)
  const scratch = mkdtempSync(join(STORES, '.store-'))
  try {
    // The cluster's directory may be on another disk.
    linkStore(inside, join(scratch, 'store'))
    renameOnce(join(scratch, 'store'), path)
    // Its time is that of the store below it.
    markUsed(path)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
    rmSync(directory, { recursive: true, force: true })
  }
  return path
}

/** Gives a machine that does not run containerd yet the images of a store. */
export function linkStore(store: string, target: string): void {
  mkdirSync(target, { recursive: true })
  try {
    execFileSync('cp', ['-al', `${store}/.`, target], { stdio: 'pipe' })
  } catch {
    // Another disk.
    execFileSync('cp', ['-a', `${store}/.`, target], { stdio: 'pipe' })
  }
  for (const path of readdirSync(store, { recursive: true, encoding: 'utf8' })) {
    if (!/^io\.containerd\.[a-z.0-9]+\/[a-z]+\.db$/.test(path)) continue
    execFileSync('cp', ['-a', '--remove-destination', join(store, path), join(target, path)])
  }
}

/** In a machine of its own, because unpacking mounts. */
async function importImage(files: ClusterFiles, directory: string, image: Image): Promise<void> {
  const machine = await Machine.start({
    clusterName: files.name,
    name: 'image-store',
    directory,
    readOnlyPaths: [CACHE_DIRECTORY],
    nameServer: '127.0.0.1',
  })
  const settings = join(directory, 'containerd.toml')
  writeFileSync(settings, containerdSettings())
  const containerd = new Component(machine, 'containerd', ['containerd', '--config', settings])
  containerd.start()
  const isServing = async (): Promise<boolean> => (await machine.run(['ctr', 'version'])).status === 0
  await containerd.ready(IMPORT_TIMEOUT_MS, isServing)
  const { status, stderr } = await machine.run(['ctr', '-n', 'k8s.io', 'images', 'import', image.archivePath])
  if (status !== 0) throw new Error(`containerd does not take the image ${image.archivePath}: ${stderr.trim()}`)
  await containerd.stop()
  await machine.stop()
}

/** Two clusters that start at once may make the same store: the first one's stands. */
function renameOnce(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch (error) {
    if (!existsSync(to)) throw error
  }
}

/** The same for the store and for nodes: what one wrote the others read. */
export function containerdSettings(): string {
  return `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE_IMAGE_NAME}"
  # Root of the host need not have CAP_SYS_RESOURCE, which protecting processes from the OOM killer takes.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`
}
