import assert from 'node:assert/strict'
import test from 'node:test'
import { Logger, type LogLevel } from '../../src/base/log.ts'

const NOW = Date.parse('2030-01-02T03:04:05.678Z')

function linesAt(level: LogLevel): { log: Logger; lines: string[] } {
  const lines: string[] = []
  return {
    log: new Logger(
      'agent',
      level,
      (line) => lines.push(line),
      () => NOW,
    ),
    lines,
  }
}

test('a line is one JSON object with time, level, component, message and fields', () => {
  const { log, lines } = linesAt('info')
  log.warn('pod not enrolled', { pod: 'default/a', error: 'two\nlines' })
  assert.equal(lines.length, 1)
  assert.doesNotMatch(lines[0]!, /\n/)
  assert.deepEqual(JSON.parse(lines[0]!), {
    time: '2030-01-02T03:04:05.678Z',
    level: 'warn',
    component: 'agent',
    message: 'pod not enrolled',
    pod: 'default/a',
    error: 'two\nlines',
  })
})

test('what is below the level is not written', () => {
  const written: Record<string, number> = {}
  for (const level of ['error', 'warn', 'info', 'debug'] as const) {
    const { log, lines } = linesAt(level)
    log.error('e')
    log.warn('w')
    log.info('i')
    log.debug('d')
    written[level] = lines.length
    assert.equal(log.isDebug, level === 'debug')
  }
  assert.deepEqual(written, { error: 1, warn: 2, info: 3, debug: 4 })
})

test('a child has its own name and the level of its parent', () => {
  const { log, lines } = linesAt('warn')
  const child = log.child('pods')
  child.info('unheard')
  child.error('heard')
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as { component: string }).component),
    ['pods'],
  )
})
