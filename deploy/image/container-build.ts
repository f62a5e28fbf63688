/** Builds an image from a Containerfile with buildah, without a daemon, a registry or anything left but the archive. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'

export interface ContainerBuild {
  /** As `weft.dev/weft:0.1.0`. */
  readonly name: string
  readonly containerfile: string
  /** Everything that COPY can see. */
  readonly directory: string
  /** ARGs of the Containerfile. */
  readonly values: Readonly<Record<string, string>>
  /** Becomes a docker-archive, which `docker load`, `podman load`, `ctr images import` and `kind load` read. */
  readonly archivePath: string
}

export function buildContainer({ name, containerfile, directory, values, archivePath }: ContainerBuild): void {
  mkdirSync(dirname(archivePath), { recursive: true })
  const scratch = mkdtempSync(join(dirname(archivePath), '.build-'))
  const storage = ['--root', join(scratch, 'root'), '--runroot', join(scratch, 'run'), '--storage-driver', 'vfs']
  const buildah = (...args: readonly string[]): void => {
    try {
      execFileSync('buildah', [...storage, ...args], { stdio: 'pipe', env: { ...process.env, TMPDIR: scratch } })
    } catch (error) {
      const { code, stderr } = error as { code?: string; stderr?: Buffer }
      if (code === 'ENOENT')
        throw new Error('images are built by buildah, which is missing. Run: apt-get install buildah')
      throw new Error(`the image ${name} could not be built: ${String(stderr).trim()}`)
    }
  }
  try {
    const settings = Object.entries(values).flatMap(([key, value]) => ['--build-arg', `${key}=${value}`])
    buildah('bud', '--isolation', 'chroot', '--quiet', '--tag', name, ...settings, '--file', containerfile, directory)
    // Whole or not at all: somebody may be waiting for the file.
    const unfinished = join(scratch, 'image.tar')
    buildah('push', '--quiet', name, `docker-archive:${unfinished}:${name}`)
    renameSync(unfinished, archivePath)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
