/** The CRDs of the mesh kinds, as they lie in deploy/crds: one file each. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { WeftError } from '../../base/errors.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { readYamlMapping } from '../yaml-text.ts'

/** The same number of levels up in src/cli/install and in dist/cli/install. */
const DIRECTORY = fileURLToPath(new URL('../../../deploy/crds/', import.meta.url))

/** In the order of their names. Throws WEFT_CONFIG when the files are missing or no CRDs. */
export function readCrds(directory: string = DIRECTORY): readonly KubernetesObject[] {
  let names: string[]
  try {
    names = readdirSync(directory).filter((name) => name.endsWith('.yaml'))
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `the CRDs that belong to this program are not in ${directory}`, error)
  }
  return names.sort().map((name) => {
    const object = readYamlMapping(readFileSync(`${directory}/${name}`, 'utf8'), name)
    if (object['kind'] !== 'CustomResourceDefinition') throw new WeftError('WEFT_CONFIG', `${name} is not a CRD`)
    return object as KubernetesObject
  })
}
