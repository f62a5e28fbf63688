/** Tests of what `make -C native` built: skipped with the reason where it is not built, but not in CI. */
import { existsSync } from 'node:fs'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'

const isBuilt = existsSync(`${NATIVE_BUILD_DIRECTORY}weft.node`)

export const needsNativeBuild: { readonly skip: string | false } = {
  skip: isBuilt || process.env['CI'] === 'true' ? false : 'needs native/build: run `make -C native tests`',
}
