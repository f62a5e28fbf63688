/**
 * One run of the demo: take the lock, set the stage, let the load run, make the checks, show or report, and take
 * everything down again, whatever happened in between.
 */
import { describeError, WeftError } from '../../base/errors.ts'
import { EXIT_FAILED, EXIT_OK, type Streams } from '../command.ts'
import { jsonText, type Paint, paint } from '../output.ts'
import { type CheckResult, checksLeftOut, judgeLoad, judgeWire, runChecks } from './checks.ts'
import { takeLock } from './lock.ts'
import { Meter } from './meter.ts'
import { type CaptureKind, DEMO_NAME, demoPlan } from './plan.ts'
import { checksText, edgesText, screenText } from './screen.ts'
import { Stage } from './stage.ts'

export interface DemoOptions {
  readonly kind: CaptureKind
  readonly runDirectory: string
  /** Null runs until it is told to stop. */
  readonly durationMs: number | null
  readonly isJson: boolean
}

/** How often the metrics are read and a terminal is redrawn. */
const REFRESH_MS = 1000
/** How often the table is printed where it cannot be redrawn. */
const PRINT_MS = 10_000
/** After the load has stopped: the agents' workers hand their last counts over within this time. */
const SETTLE_MS = 1500

// Terminal control (ECMA-48), understood by everything that calls itself a terminal.
const HOME = '\u001b[H'
const CLEAR_SCREEN = '\u001b[2J'
const CLEAR_LINE = '\u001b[K'
const CLEAR_BELOW = '\u001b[J'
const NO_WRAP = '\u001b[?7l'
const WRAP = '\u001b[?7h'

interface Verdict {
  readonly ok: boolean
  readonly edges: ReturnType<Meter['total']>
  readonly checks: readonly CheckResult[]
}

/**
 * Runs the demo to its end. `stop` ends it early, in order. Resolves with the exit code. Rejects when another demo is
 * running.
 */
export async function runDemo(options: DemoOptions, streams: Streams, stop: AbortSignal): Promise<number> {
  const lock = await takeLock(DEMO_NAME)
  try {
    return await new DemoRun(options, streams, stop).run()
  } finally {
    await lock.release()
  }
}

/** The JSON of a demo that could not even begin. */
export function failureJson(error: unknown): string {
  return jsonText({ ok: false, edges: [], checks: [demoFailure(error)] } satisfies Verdict)
}

function demoFailure(error: unknown): CheckResult {
  return { name: 'demo', ok: false, detail: describeError(error) }
}

class DemoRun {
  private readonly options: DemoOptions
  private readonly streams: Streams
  private readonly stop: AbortSignal
  /** Aborted when a part is lost, as well as by `stop`; its reason says which. */
  private readonly ending = new AbortController()
  private readonly stage: Stage
  private readonly meter: Meter
  private readonly paint: Paint
  private readonly checks: CheckResult[] = []
  private areChecksDone = false
  private isDrawn = false
  private startedAtMs = 0

  constructor(options: DemoOptions, streams: Streams, stop: AbortSignal) {
    this.options = options
    this.streams = streams
    this.stop = stop
    const onLost = (error: WeftError) => this.ending.abort(error)
    this.stage = new Stage(demoPlan(options.kind), options.runDirectory, (line) => this.tell(line), onLost)
    this.meter = new Meter(this.stage)
    this.paint = paint(streams.isTerminal && !options.isJson)
  }

  async run(): Promise<number> {
    const onStop = () => this.ending.abort(new Interruption())
    if (this.stop.aborted) onStop()
    this.stop.addEventListener('abort', onStop)
    let failure: unknown = null
    try {
      await this.stage.setUp(this.ending.signal)
      await this.play()
    } catch (error) {
      failure = this.ending.signal.aborted ? this.ending.signal.reason : error
    }
    this.stop.removeEventListener('abort', onStop)
    this.tell('taking everything down')
    // Before anything it talks to goes away, so that its last counts are as good as the others.
    await this.stage.endLoad()
    const left = await this.stage.takeDown()
    return this.conclude(failure, left)
  }

  // --- while it runs ---

  private async play(): Promise<void> {
    const { signal } = this.ending
    this.startedAtMs = performance.now()
    await this.meter.read()
    this.stage.startLoad(this.meter.onLoad)
    const leftOut = checksLeftOut(this.options.kind)
    if (leftOut.length > 0) this.tell(`left out with ${this.options.kind} capture: ${leftOut.join(', ')}`)
    // Interactive runs make the checks as well, so that the screen tells whether all is as it should be.
    const checking = this.makeChecks(signal)
    const endMs =
      this.options.durationMs === null ? Number.POSITIVE_INFINITY : this.startedAtMs + this.options.durationMs
    let printedAtMs: number | null = null
    while (performance.now() < endMs || !this.areChecksDone) {
      await sleep(REFRESH_MS, signal)
      await this.meter.read()
      if (this.streams.isTerminal && !this.options.isJson) this.redraw()
      else if (!this.options.isJson && (printedAtMs === null || performance.now() - printedAtMs >= PRINT_MS)) {
        this.print(printedAtMs === null)
        printedAtMs = performance.now()
      }
    }
    await checking
    await this.stage.endLoad()
    await sleep(SETTLE_MS, signal)
    await this.meter.read()
  }

  private async makeChecks(signal: AbortSignal): Promise<void> {
    try {
      await runChecks(this.stage, signal, (result) => {
        // What is asked while everything is being taken down fails for that reason.
        if (signal.aborted) return
        this.checks.push(result)
        const isShown = this.streams.isTerminal && !this.options.isJson
        if (!isShown) this.tell(`check ${result.name}: ${result.ok ? 'ok' : 'FAILED'}`)
      })
    } catch {
      // Only the signal ends the checks early, and whoever waits for it learns the reason there.
    }
    this.areChecksDone = true
  }

  private redraw(): void {
    // What does not fit is cut: the suggestions stand last, and long lines must not wrap.
    const lines = this.screen(true)
      .split('\n')
      .slice(0, this.streams.rows() - 1)
    const text = lines.map((line) => `${line}${CLEAR_LINE}\n`).join('')
    this.streams.out(`${this.isDrawn ? '' : CLEAR_SCREEN}${HOME}${NO_WRAP}${text}${WRAP}${CLEAR_BELOW}`)
    this.isDrawn = true
  }

  private screen(hasSuggestions: boolean): string {
    const { edges, spanMs } = this.meter.recent()
    const picture = {
      plan: this.stage.plan,
      runDirectory: this.options.runDirectory,
      enterScript: this.stage.enterScript,
      uptimeMs: performance.now() - this.startedAtMs,
      edges,
      spanMs,
      checks: this.checks,
      areChecksDone: this.areChecksDone,
      wire: this.stage.wire?.report() ?? null,
    }
    return `\n${screenText(picture, hasSuggestions, this.paint)}`
  }

  private print(hasSuggestions: boolean): void {
    this.streams.out(this.screen(hasSuggestions))
  }

  /** Progress goes to standard error, so that standard output holds results alone. */
  private tell(line: string): void {
    this.streams.err(`weft: ${line}\n`)
  }

  // --- at its end ---

  private conclude(failure: unknown, left: readonly string[]): number {
    const isInterrupted = failure instanceof Interruption
    const checks = [...this.checks]
    if (failure === null || isInterrupted) {
      const { requests, errors, lastError } = this.meter
      if (requests > 0) checks.push(judgeLoad(requests, errors, lastError))
      const wire = judgeWire(this.stage)
      if (wire !== null && requests > 0) checks.push(wire)
    } else {
      checks.push(demoFailure(failure))
    }
    if (left.length > 0) checks.push({ name: 'nothing left behind', ok: false, detail: left.join('; ') })
    const isCut = isInterrupted && this.options.durationMs !== null
    if (isCut) checks.push({ name: 'demo', ok: false, detail: 'it was stopped before its time was over' })
    const ok = checks.every((check) => check.ok)
    if (this.options.isJson) this.streams.out(jsonText({ ok, edges: this.meter.total(), checks } satisfies Verdict))
    else this.printVerdict(checks, failure)
    return ok ? EXIT_OK : EXIT_FAILED
  }

  private printVerdict(checks: readonly CheckResult[], failure: unknown): void {
    const edges = this.meter.total()
    if (this.options.durationMs !== null && failure === null) {
      const { plan } = this.stage
      this.streams.out(`\n${edgesText(edges, performance.now() - this.startedAtMs, plan, this.paint)}\n`)
    }
    if (this.options.durationMs !== null || checks.some(({ ok }) => !ok)) {
      this.streams.out(checksText(checks, this.paint))
    }
  }
}

/** The user's wish to end. */
class Interruption extends WeftError {
  constructor() {
    super('WEFT_CLOSED', 'the demo was stopped')
  }
}

/** Rejects when `signal` is aborted. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}
