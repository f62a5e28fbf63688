/**
 * The CNI configuration that puts weft-cni behind the plugins of this node: a copy of the one that the container runtime
 * would use, with our plugin at the end of its chain. Pure.
 *
 * It is a file of our own that sorts first, and never a change of somebody else's: what was there stays as it is, its owner
 * may rewrite it at any time without a moment in which pods start beside us, and taking our file away restores everything.
 */
import { WeftError } from '../base/errors.ts'

/** Type of our plugin, which is the name of its program. */
export const CNI_PLUGIN = 'weft-cni'

/** Before every name that begins with a digit from 1, and the usual 00- and 05-: runtimes take the first in byte order. */
export const CONFLIST_FILE = '00-00-weft.conflist'

/** First version whose plugins are handed the result so far. */
const VERSION_MIN = [0, 3, 0] as const

const EXTENSIONS = ['.conf', '.conflist', '.json'] as const

/** Paths that the plugin is told, in the file system of the node. */
export interface PluginPaths {
  readonly socket: string
  readonly namespaces: string
}

/** Names that a runtime would look at, in its order, ours left out. */
export function configurationNames(names: readonly string[]): readonly string[] {
  return names
    .filter((name) => name !== CONFLIST_FILE && EXTENSIONS.some((extension) => name.endsWith(extension)))
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
}

/** Our conflist, made of the node's (`text`, of a file called `name`). Throws WeftError WEFT_CONFIG. */
export function chain(name: string, text: string, paths: PluginPaths): string {
  if (Buffer.compare(Buffer.from(name), Buffer.from(CONFLIST_FILE)) < 0) {
    throw refused(name, `sorts before ${CONFLIST_FILE}; rename it`)
  }
  const written = parse(name, text)
  const plugins = pluginsOf(name, written)
  if (typeof written['name'] !== 'string' || written['name'] === '') throw refused(name, 'has no name')
  const version = written['cniVersion']
  if (typeof version !== 'string' || !isSupported(version)) {
    throw refused(name, `has cniVersion ${JSON.stringify(version)}; plugins can be chained from 0.3.0 on`)
  }
  const own = { type: CNI_PLUGIN, socket: paths.socket, namespaces: paths.namespaces }
  const others = plugins.filter((plugin) => plugin['type'] !== CNI_PLUGIN)
  if (others.length === 0) throw refused(name, 'has no plugin')
  const list = Array.isArray(written['plugins']) ? written : { cniVersion: version, name: written['name'] }
  return `${JSON.stringify({ ...list, plugins: [...others, own] }, null, 2)}\n`
}

type Tree = Readonly<Record<string, unknown>>

function parse(name: string, text: string): Tree {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `the CNI configuration ${name} is no JSON (yet)`, error)
  }
  if (!isTree(parsed)) throw refused(name, 'is no JSON object')
  return parsed
}

/** Of a list, or of a file with a single plugin. */
function pluginsOf(name: string, written: Tree): readonly Tree[] {
  const { plugins } = written as { readonly plugins?: unknown }
  const listed = plugins === undefined ? [written] : plugins
  if (!Array.isArray(listed) || listed.length === 0) throw refused(name, 'has no plugins')
  for (const plugin of listed as unknown[]) {
    if (!isTree(plugin) || typeof plugin['type'] !== 'string' || plugin['type'] === '') {
      throw refused(name, 'has a plugin without a type')
    }
  }
  return listed as Tree[]
}

function isSupported(version: string): boolean {
  const numbers = /^([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})$/.exec(version)?.slice(1).map(Number)
  if (numbers === undefined) return false
  for (const [i, least] of VERSION_MIN.entries()) if (numbers[i] !== least) return numbers[i]! > least
  return true
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function refused(name: string, problem: string): WeftError {
  return new WeftError('WEFT_CONFIG', `the CNI configuration ${name} ${problem}`)
}
