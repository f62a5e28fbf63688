/** Pieces of the Prometheus text format (version 0.0.4) that every writer of it needs. */

/** `name="value",...`, escaped. */
export function renderLabels(names: readonly string[], values: readonly string[]): string {
  return names.map((name, index) => `${name}="${escapeLabel(values[index]!)}"`).join(',')
}

/** Escapes as the format asks: backslash, quote, newline. */
function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')
}
