/** What the objects of an installation are made from. */
import type { InstallValues } from './values.ts'

/** One installation. */
export interface InstallPlan {
  readonly values: InstallValues
  readonly namespace: string
  /** Of this program: the tag of the image where none is given, and a label of every object. */
  readonly version: string
}

/** The image of both programs. */
export function imageOf({ values, version }: InstallPlan): string {
  const { repository, tag, digest } = values.image
  if (digest !== '') return `${repository}@${digest}`
  return `${repository}:${tag === '' ? version : tag}`
}

/** `imagePullSecrets` of a pod, left out when there are none. */
export function pullSecretsOf({ values }: InstallPlan): Readonly<Record<string, unknown>> {
  const names = values.image.pullSecrets
  return names.length === 0 ? {} : { imagePullSecrets: names.map((name) => ({ name })) }
}

/** Annotations by which Prometheus finds a pod. */
export function scrapeAnnotations({ values }: InstallPlan, port: number): Readonly<Record<string, string>> {
  if (!values.monitoring.annotations) return {}
  return { 'prometheus.io/scrape': 'true', 'prometheus.io/port': `${port}`, 'prometheus.io/path': '/metrics' }
}

/** A field that is left out when it has nothing in it, as Helm's `with` does. */
export function filled(name: string, value: object): Readonly<Record<string, unknown>> {
  return Object.keys(value).length === 0 ? {} : { [name]: value }
}
