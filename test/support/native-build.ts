/** Tests of what `make -C native` built: skipped with the reason where it is not built, but not in CI. */
import { existsSync } from 'node:fs'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'

const isBuilt = existsSync(`${NATIVE_BUILD_DIRECTORY}weft.node`)
const isNeeded = isBuilt || process.env['CI'] === 'true'

export const needsNativeBuild: { readonly skip: string | false } = {
  skip: isNeeded ? false : 'needs native/build: run `make -C native tests`',
}

/** Path of a program that only tests use. Throws when it is missing although the rest is built. */
export function nativeProgram(name: string): string {
  const path = `${NATIVE_BUILD_DIRECTORY}${name}`
  if (isNeeded && !existsSync(path)) throw new Error(`native/build/${name} is missing: run \`make -C native tests\``)
  return path
}
