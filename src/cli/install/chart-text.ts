/**
 * Those files of the chart in deploy/helm/weft that are printed from tables of ours: values.yaml with a comment for each
 * value, values.schema.json, and the roles with the reason of each rule.
 */
import { commentLines, yamlStream, yamlText } from '../yaml-text.ts'
import { accessReasons, agentAccess, controllerAccess } from './rbac-objects.ts'
import { isGroup, schemaOf, type ValueTable } from './value-rows.ts'
import { INSTALL_VALUES, installValues } from './values.ts'

const PRINTED = 'UPDATE=1 node --test test/cli/install/chart.test.ts'

const VALUES_HEAD = `# Values of the chart, with their defaults. "weft install" takes the same ones (--values FILE, --set NAME=VALUE).
# Printed from src/cli/install/values.ts: change it there, then run ${PRINTED}
`

const ROLES_HEAD = `# What the controller may do, and why; and the one thing that agents may do.
# Printed from src/cli/install/rbac-objects.ts: change it there, then run ${PRINTED}
`

/** Texts without meaning to YAML, which become expressions of Helm. */
const NAMESPACE_MARK = 'RELEASE-NAMESPACE'
const VERSION_MARK = 'CHART-VERSION'

/** Text of each file, by its path in the chart. */
export function chartTexts(): ReadonlyMap<string, string> {
  return new Map([
    ['values.yaml', `${VALUES_HEAD}${tableText(INSTALL_VALUES, '', true)}`],
    ['values.schema.json', schemaJson()],
    ['templates/rbac.yaml', rolesText()],
  ])
}

/** Helm itself adds `global` to the values of every chart. */
function schemaJson(): string {
  const schema = schemaOf(INSTALL_VALUES)
  const properties = { ...(schema['properties'] as object), global: { type: 'object' } }
  const document = { $schema: 'http://json-schema.org/draft-07/schema#', title: 'Weft', ...schema, properties }
  return `${JSON.stringify(document, null, 2)}\n`
}

function rolesText(): string {
  const plan = { values: installValues(), namespace: NAMESPACE_MARK, version: VERSION_MARK }
  const text = yamlStream([...controllerAccess(plan), ...agentAccess(plan)], accessReasons)
  return `${ROLES_HEAD}${text
    .replaceAll(NAMESPACE_MARK, '{{ .Release.Namespace }}')
    .replaceAll(VERSION_MARK, '{{ .Chart.AppVersion | quote }}')}`
}

function tableText(table: ValueTable, indent: string, isTop: boolean): string {
  return Object.entries(table)
    .map(([name, row]) => {
      const gap = isTop ? '\n' : ''
      const doc = commentLines(row.doc).replaceAll(/^/gm, `${indent}# `)
      if (isGroup(row)) return `${gap}${doc}\n${indent}${name}:\n${tableText(row.rows, `${indent}  `, false)}`
      return `${gap}${doc}\n${yamlText({ [name]: row.fallback })
        .trimEnd()
        .replaceAll(/^/gm, indent)}\n`
    })
    .join('')
}
