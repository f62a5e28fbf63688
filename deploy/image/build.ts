/** `npm run image`: builds Weft's image and writes it to a file. */
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { buildContainer } from './container-build.ts'
import { layOutImage } from './layout.ts'

const HELP = `Usage: npm run image -- [flags]

Builds the container image of Weft (agent and controller) with buildah and writes it as a docker-archive, which
docker, podman, ctr, nerdctl and kind can load.

  --base IMAGE    what it is built on: glibc and certificates (default: that of deploy/image/Containerfile).
                  Also docker-archive:FILE, without a registry
  --tag NAME      the image's name (default weft.dev/weft:dev)
  --out FILE      where it is written (default weft-image.tar)
  -h, --help

Examples:
  npm run image -- --tag registry.example.com/weft:0.1.0
  npm run image -- --base docker-archive:base.tar --out weft.tar && ctr -n k8s.io images import weft.tar

Exit codes: 0 done; 1 failed; 2 wrong usage.
`

const EXIT_FAILED = 1
const EXIT_USAGE = 2

function main(): number {
  let values: { base?: string; tag: string; out: string; help: boolean }
  try {
    values = parseArgs({
      options: {
        base: { type: 'string' },
        tag: { type: 'string', default: 'weft.dev/weft:dev' },
        out: { type: 'string', default: 'weft-image.tar' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values
  } catch (error) {
    say((error as Error).message)
    return EXIT_USAGE
  }
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const directory = mkdtempSync(join(tmpdir(), 'weft-image-'))
  try {
    say('laying out the image')
    layOutImage(directory)
    say(`building ${values.tag}`)
    buildContainer({
      name: values.tag,
      containerfile: join(import.meta.dirname, 'Containerfile'),
      directory,
      values: values.base === undefined ? {} : { BASE: values.base },
      archivePath: resolve(values.out),
    })
    say(`${values.out}: ${(statSync(values.out).size / 1e6).toFixed(0)} MB`)
    return 0
  } catch (error) {
    say((error as Error).message)
    return EXIT_FAILED
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function say(line: string): void {
  process.stderr.write(`weft: ${line}\n`)
}

process.exitCode = main()
