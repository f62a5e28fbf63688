/** What connect() of an app says when policy denies it: ECONNREFUSED where the kernel lets programs choose, else EPERM. */
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import type { Addon } from './addon.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'

/** Null when connect programs can choose the error: since Linux 5.18. A small program is loaded to learn it. */
export function whyErrorsCannotBeChosen(addon: Addon, buildDirectory: string): unknown {
  try {
    const { maps, programs } = addon.loadObject(join(buildDirectory, 'set_retval.bpf.o'), {}, null)
    for (const fd of [...Object.values(maps), ...Object.values(programs)]) closeSync(fd)
    return null
  } catch (error) {
    return error
  }
}

/** The constants of the connect programs: `has_set_retval`, and `node_netns_cookie` after four bytes of padding. */
export function connectConstants(canChooseError: boolean, nodeNetnsCookie: bigint): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, canChooseError ? 1 : 0, IS_LITTLE_ENDIAN)
  view.setBigUint64(8, nodeNetnsCookie, IS_LITTLE_ENDIAN)
  return bytes
}
