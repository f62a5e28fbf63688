/** How commands print: JSON, aligned tables, and colours only where a terminal shows them. */

/** One JSON document with a closing newline. */
export function jsonText(value: unknown): string {
  return `${JSON.stringify(value)}\n`
}

/** Rows in aligned columns, two spaces apart; columns whose index is in `right` are aligned to the right. */
export function tableText(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = []
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length)
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      return `${cells.join('  ').trimEnd()}\n`
    })
    .join('')
}

/** Terminal colours as functions; the identity when colours are off. */
export interface Paint {
  readonly good: (text: string) => string
  readonly bad: (text: string) => string
  readonly dim: (text: string) => string
  readonly bold: (text: string) => string
}

export function paint(isColoured: boolean): Paint {
  const code = (start: number, end: number) => (text: string) =>
    isColoured ? `\u001b[${start}m${text}\u001b[${end}m` : text
  return { good: code(32, 39), bad: code(31, 39), dim: code(2, 22), bold: code(1, 22) }
}
