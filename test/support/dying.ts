/**
 * A process that kills itself in the middle of what it does to the kernel and to the file system, at a step that the test
 * names: what it leaves behind is what an agent leaves that is killed there.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { basename, dirname } from 'node:path'
import type { Addon } from '../../src/kernel/addon.ts'

/** Functions that change what outlives the process. */
const FILE_STEPS = ['mkdirSync', 'renameSync', 'rmdirSync', 'unlinkSync', 'writeFileSync'] as const
const ADDON_STEPS = ['attachLink', 'detachLink', 'pinObject', 'updateLink'] as const

/** Of steps that do the same in one directory these are told apart: the first, the next, and one when most are done. */
const SAME_STEPS = [1, 2, 16]

/**
 * The addon, with steps counted from 1: before the one numbered `deathStep`, or the first of that name, the process kills
 * itself (SIGKILL). Most steps of the same kind do not count, so that there are few. Never with 0.
 */
export function dieAtStep(addon: Addon, deathStep: number | string): Addon {
  if (deathStep === 0) return addon
  const seen = new Map<string, number>()
  let step = 0
  const at = (what: string): void => {
    const times = (seen.get(what) ?? 0) + 1
    seen.set(what, times)
    if (SAME_STEPS.includes(times) && (++step === deathStep || what === deathStep)) {
      fs.writeSync(2, `dies before: ${what}\n`)
      process.kill(process.pid, 'SIGKILL')
    }
  }
  const files = fs as unknown as Record<string, (path: string, ...rest: unknown[]) => unknown>
  for (const name of FILE_STEPS) {
    const original = files[name]!
    files[name] = (path, ...rest) => {
      at(`${name} in ${basename(dirname(path))}`)
      return original(path, ...rest)
    }
  }
  syncBuiltinESMExports()
  const dying = Object.create(addon) as Record<string, unknown>
  for (const name of ADDON_STEPS) {
    dying[name] = (...values: unknown[]) => {
      at(name === 'pinObject' ? `${name} in ${basename(dirname(values[1] as string))}` : name)
      return (addon as unknown as Record<string, (...values: unknown[]) => unknown>)[name]!(...values)
    }
  }
  return dying as unknown as Addon
}
