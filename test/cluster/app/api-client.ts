/** A client of the API server inside a pod, as every in-cluster program is one: environment, token, bundle. */
import { readFileSync } from 'node:fs'
import { request } from 'node:https'

const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'

/** Prints what the API server answers at a path, to the pod's ServiceAccount. */
export function askApiServer(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const call = request(
      {
        host: process.env['KUBERNETES_SERVICE_HOST'],
        port: process.env['KUBERNETES_SERVICE_PORT'],
        path,
        ca: readFileSync(`${ACCOUNT}/ca.crt`),
        headers: { authorization: `Bearer ${readFileSync(`${ACCOUNT}/token`, 'utf8')}` },
      },
      (response) => {
        response.pipe(process.stdout)
        response.on('end', resolve)
      },
    )
    call.on('error', reject)
    call.end()
  })
}
