/** The installation that a command line describes: values from files and flags over the defaults. */
import { readFileSync } from 'node:fs'
import { WeftError } from '../../base/errors.ts'
import { type FlagValues, repeatedFlag, UsageError } from '../../base/flags.ts'
import { textFlag } from '../../base/settings.ts'
import { readYamlMapping } from '../yaml-text.ts'
import { SYSTEM_NAMESPACE } from './names.ts'
import type { InstallPlan } from './plan.ts'
import { type GivenValues, overlayValues, setValue } from './value-rows.ts'
import { INSTALL_VALUES, installValues } from './values.ts'

/** A namespace's name (RFC 1123 label). */
const NAMESPACE_NAME = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/

/** Flags of every command that makes objects. */
export const givenFlags = {
  namespace: textFlag(
    { name: 'namespace', short: 'n', doc: 'Where Weft is, or is to be.' },
    'NAME',
    SYSTEM_NAMESPACE,
    parseNamespace,
  ),
  values: repeatedFlag(
    { name: 'values', short: 'f', doc: 'File of values, YAML; later ones overrule earlier ones.' },
    'FILE',
  ),
  set: repeatedFlag({ name: 'set', doc: 'One value, over those of files: agent.logLevel=debug.' }, 'NAME=VALUE'),
}

type GivenFlags = FlagValues<typeof givenFlags>

/** The values that files and flags give, over `base`. Throws UsageError, WEFT_CONFIG for a file that cannot be read. */
export function givenValues(base: GivenValues, flags: Pick<GivenFlags, 'values' | 'set'>): GivenValues {
  let given = base
  for (const file of flags.values) given = overlayValues(given, readYamlMapping(readText(file), file))
  for (const assignment of flags.set) given = setValue(INSTALL_VALUES, given, assignment)
  return given
}

/** Throws UsageError with everything that is wrong with the values. */
export function planOf({ namespace }: Pick<GivenFlags, 'namespace'>, given: GivenValues, version: string): InstallPlan {
  return { values: installValues(given), namespace, version }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `the file of values ${file} cannot be read`, error)
  }
}

/** Throws UsageError. */
export function parseNamespace(text: string): string {
  if (!NAMESPACE_NAME.test(text)) throw new UsageError('must be the name of a namespace')
  return text
}
