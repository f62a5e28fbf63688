/** Envoy as a peer of HBONE: CONNECT over HTTP/2 with mutual TLS, in either role, with certificates of a test's mesh. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TlsMaterial } from '../../src/transport/conn.ts'
import type { Listening } from './programs.ts'
import { envoyAddress, envoyCluster } from './web-site.ts'

const TYPE = 'type.googleapis.com'

/** Files of a key, a chain and roots, as programs want them. */
export interface CredentialPaths {
  readonly certificate: string
  readonly key: string
  /** Certificate and key in one, for haproxy. */
  readonly both: string
  readonly bundle: string
}

export function writeCredential(directory: string, name: string, material: TlsMaterial): CredentialPaths {
  const write = (suffix: string, text: string): string => {
    const path = join(directory, `${name}.${suffix}`)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }
  return {
    certificate: write('crt', material.certificateChain),
    key: write('key', material.key),
    both: write('pem', `${material.certificateChain}\n${material.key}`),
    bundle: write('ca', material.bundle),
  }
}

/** Where CONNECT to `authority` goes. */
export interface TunnelTarget {
  readonly authority: string
  readonly origin: Listening
}

/** Serves tunnels: listeners and clusters of its configuration. */
export function envoyTunnelServer(
  address: Listening,
  credential: CredentialPaths,
  targets: readonly TunnelTarget[],
): { listeners: object[]; clusters: object[] } {
  const virtualHosts = targets.map(({ authority }, index) => ({
    name: `target-${index}`,
    domains: [authority],
    routes: [
      {
        match: { connect_matcher: {} },
        route: {
          cluster: `target-${index}`,
          timeout: '0s',
          upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }],
        },
      },
    ],
  }))
  const manager = {
    '@type': `${TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'tunnels',
    codec_type: 'HTTP2',
    upgrade_configs: [{ upgrade_type: 'CONNECT' }],
    http2_protocol_options: { allow_connect: true },
    route_config: { virtual_hosts: virtualHosts },
    http_filters: [
      { name: 'router', typed_config: { '@type': `${TYPE}/envoy.extensions.filters.http.router.v3.Router` } },
    ],
  }
  const tls = {
    '@type': `${TYPE}/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`,
    require_client_certificate: true,
    common_tls_context: tlsContext(credential),
  }
  const listener = {
    name: 'tunnels',
    address: envoyAddress(address),
    filter_chains: [
      { transport_socket: { name: 'tls', typed_config: tls }, filters: [{ name: 'http', typed_config: manager }] },
    ],
  }
  const clusters = targets.map(({ origin }, index) => envoyCluster(`target-${index}`, origin, 1))
  return { listeners: [listener], clusters }
}

/** Opens tunnels: what it accepts at `entry` goes to `authority` through the HBONE port of `peer`. */
export function envoyTunnelClient(
  entries: readonly { readonly entry: Listening; readonly authority: string }[],
  peer: Listening,
  credential: CredentialPaths,
): { listeners: object[]; clusters: object[] } {
  const listeners = entries.map(({ entry, authority }, index) => ({
    name: `entry-${index}`,
    address: envoyAddress(entry),
    filter_chains: [
      {
        filters: [
          {
            name: 'tcp',
            typed_config: {
              '@type': `${TYPE}/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`,
              stat_prefix: `entry-${index}`,
              cluster: 'peer',
              tunneling_config: { hostname: authority },
            },
          },
        ],
      },
    ],
  }))
  const tls = {
    '@type': `${TYPE}/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`,
    common_tls_context: tlsContext(credential),
  }
  const cluster = { ...envoyCluster('peer', peer, 2), transport_socket: { name: 'tls', typed_config: tls } }
  return { listeners, clusters: [cluster] }
}

function tlsContext({ certificate, key, bundle }: CredentialPaths): object {
  return {
    alpn_protocols: ['h2'],
    // A client's maximum is 1.2 unless told otherwise.
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: certificate }, private_key: { filename: key } }],
    validation_context: { trusted_ca: { filename: bundle } },
  }
}
