/** A strict reader of the Prometheus text format 0.0.4, so that tests see metrics as a scraper does. */
import assert from 'node:assert/strict'

export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export class PrometheusText {
  readonly samples: Sample[] = []
  readonly types = new Map<string, string>()

  /** Fails the test on anything that a scraper would refuse or that says a thing twice. */
  constructor(text: string) {
    assert.ok(text.endsWith('\n'), 'the last line ends')
    const seen = new Set<string>()
    for (const line of text.split('\n')) {
      if (line === '' || line.startsWith('# HELP ')) continue
      if (line.startsWith('# TYPE ')) {
        const [, , name, type] = line.split(' ')
        assert.ok(!this.types.has(name!), `the type of ${name} is given once`)
        this.types.set(name!, type!)
        continue
      }
      const sample = parseLine(line)
      const key = `${sample.name} ${JSON.stringify(sample.labels)}`
      assert.ok(!seen.has(key), `one line for ${key}`)
      seen.add(key)
      assert.ok(this.typeOf(sample.name) !== undefined, `${sample.name} has a type`)
      this.samples.push(sample)
    }
  }

  /** Samples of a name whose labels include all of `labels`. */
  find(name: string, labels: Readonly<Record<string, string>> = {}): Sample[] {
    return this.samples.filter(
      (sample) =>
        sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
    )
  }

  /** The one sample that matches. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number {
    const found = this.find(name, labels)
    assert.equal(found.length, 1, `${found.length} samples of ${name} ${JSON.stringify(labels)}`)
    return found[0]!.value
  }

  private typeOf(name: string): string | undefined {
    return this.types.get(name) ?? this.types.get(name.replace(/_(bucket|sum|count)$/, ''))
  }
}

/** prom-client writes `Nan`; scrapers read it in any case. */
function parseLine(line: string): Sample {
  const match = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.e+-]+|\+Inf|-Inf|Nan)$/.exec(line)
  assert.ok(match !== null, `a line in the text format: ${line}`)
  const labels: Record<string, string> = {}
  let rest = match[2] ?? ''
  while (rest !== '') {
    const label = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/.exec(rest)
    assert.ok(label !== null, `labels in the text format: ${rest}`)
    assert.ok(!(label[1]! in labels), `label ${label[1]} is given once`)
    labels[label[1]!] = label[2]!.replace(/\\(["\\n])/g, (_, escaped) => (escaped === 'n' ? '\n' : escaped))
    rest = rest.slice(label[0].length)
  }
  return { name: match[1]!, labels, value: match[3] === '+Inf' ? Number.POSITIVE_INFINITY : Number(match[3]) }
}
