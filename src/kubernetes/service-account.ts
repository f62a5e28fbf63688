/**
 * The way to the API server from within a pod: the address that every pod is told, and the files of its ServiceAccount,
 * which the kubelet renews and which are read for every request.
 *
 * Without the official client, which costs a process 90 MB: for agents, of which there is one on each node.
 */
import { readFile } from 'node:fs/promises'
import { Agent as HttpsAgent, type RequestOptions } from 'node:https'
import { join } from 'node:path'
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { type ApiConnection, KEEP_ALIVE_MS } from './connection.ts'

/** Where the API server is, and where the files are. */
export interface ServiceAccountSettings {
  readonly host: string
  readonly port: number
  /** With token, ca.crt and namespace. */
  readonly directory: string
}

/** See the head of the file. */
export class ServiceAccountConnection implements ApiConnection {
  readonly server: string
  private readonly directory: string
  private readonly agent = new HttpsAgent({ keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS })

  constructor({ host, port, directory }: ServiceAccountSettings) {
    this.server = `https://${formatHostPort(host, port)}`
    this.directory = directory
  }

  /** The namespace of the pod. Rejects with WeftError WEFT_CONFIG. */
  async namespace(): Promise<string> {
    return (await this.read('namespace')).trim()
  }

  async requestOptions(): Promise<RequestOptions> {
    const [token, ca] = await Promise.all([this.read('token'), this.read('ca.crt')])
    return { agent: this.agent, ca, headers: { Authorization: `Bearer ${token.trim()}` } }
  }

  /** Every request has read the newest there are. */
  async renewCredentials(): Promise<boolean> {
    return false
  }

  closeIdle(): void {
    for (const sockets of Object.values(this.agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy()
  }

  close(): void {
    this.agent.destroy()
  }

  private async read(name: string): Promise<string> {
    const path = join(this.directory, name)
    try {
      return await readFile(path, 'utf8')
    } catch (error) {
      throw new WeftError('WEFT_CONFIG', `${path} cannot be read; mount the pod's ServiceAccount there`, error)
    }
  }
}
