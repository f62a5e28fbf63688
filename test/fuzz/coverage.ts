/**
 * Which code an input reaches, by V8's precise block coverage, taken in this process through node:inspector.
 *
 * V8 reports, for what ran since the last take, the blocks of each function and their counts; a block that ran as often
 * as the one around it is not reported by itself. So reach is kept by character of source: 1 is code that can be
 * counted, 2 is code that ran. The top level of modules does not count, it always runs.
 */
import { Session } from 'node:inspector'
import { pathToFileURL } from 'node:url'

const COUNTED = 1
const REACHED = 2

interface Range {
  readonly startOffset: number
  readonly endOffset: number
  readonly count: number
}

interface ScriptCoverage {
  readonly url: string
  readonly functions: readonly { readonly functionName: string; readonly ranges: readonly Range[] }[]
}

/** Reach by script, each as long as its highest offset. */
export type Reach = ReadonlyMap<string, Uint8Array>

export class Coverage {
  private readonly session: Session
  private readonly root: string
  private readonly known = new Map<string, Uint8Array>()
  private sources: readonly string[]

  /** Switches counting on: create it before what it should see is loaded. `root` is the folder of the repository. */
  constructor(root: string) {
    this.session = new Session()
    this.root = pathToFileURL(root).href
    this.sources = []
    this.session.connect()
    this.session.post('Profiler.enable')
    this.session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  /** From now on only these count. */
  watch(sources: readonly string[]): void {
    this.sources = sources.map((source) => `${this.root}/${source}`)
  }

  /** What was reached since the last take. */
  take(): Reach {
    const reach = new Map<string, Uint8Array>()
    this.session.post('Profiler.takePreciseCoverage', (error: Error | null, taken: { result: ScriptCoverage[] }) => {
      if (error !== null) throw error
      for (const script of taken.result) {
        if (!this.sources.some((source) => script.url.startsWith(source))) continue
        reach.set(script.url, paint(script))
      }
    })
    return reach
  }

  /** Number of characters of `reach` that nothing reached before. */
  gainOf(reach: Reach): number {
    let gain = 0
    for (const [url, painted] of reach) {
      const known = this.known.get(url)
      for (let i = 0; i < painted.length; i++) if (painted[i] === REACHED && known?.[i] !== REACHED) gain++
    }
    return gain
  }

  add(reach: Reach): void {
    for (const [url, painted] of reach) {
      let known = this.known.get(url)
      if (known === undefined || known.length < painted.length) {
        const longer = new Uint8Array(painted.length)
        if (known !== undefined) longer.set(known)
        known = longer
        this.known.set(url, known)
      }
      for (let i = 0; i < painted.length; i++) if (painted[i]! > known[i]!) known[i] = painted[i]!
    }
  }

  /** Forgets what was reached, not what there is. */
  clear(): void {
    for (const known of this.known.values()) {
      for (let i = 0; i < known.length; i++) if (known[i] === REACHED) known[i] = COUNTED
    }
  }

  /** Share of the functions' text that was reached, per script in the order of names, and in all. */
  summary(): { readonly total: number; readonly byFile: readonly (readonly [string, number])[] } {
    let [reached, counted] = [0, 0]
    const byFile: [string, number][] = []
    for (const [url, known] of [...this.known].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const here = known.reduce((sum, mark) => sum + (mark === REACHED ? 1 : 0), 0)
      const all = known.reduce((sum, mark) => sum + (mark > 0 ? 1 : 0), 0)
      reached += here
      counted += all
      if (all > 0) byFile.push([url.slice(this.root.length + 1), here / all])
    }
    return { total: counted === 0 ? 0 : reached / counted, byFile }
  }
}

/** Functions come outer before inner, and so do the ranges of one: what is painted later is more exact. */
function paint(script: ScriptCoverage): Uint8Array {
  const functions = script.functions.filter(
    ({ functionName, ranges }) => functionName !== '' || ranges[0]!.startOffset > 0,
  )
  const painted = new Uint8Array(functions.reduce((end, { ranges }) => Math.max(end, ranges[0]!.endOffset), 0))
  for (const { ranges } of functions) {
    for (const { startOffset, endOffset, count } of ranges) {
      painted.fill(count > 0 ? REACHED : COUNTED, startOffset, endOffset)
    }
  }
  return painted
}
