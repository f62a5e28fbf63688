/** haproxy's configuration: one thread, no log, connections upstream shared and kept. */
import {
  ADDED_HEADERS,
  BENCH_HOST,
  formatAddress,
  RETRIES,
  ROUTE_COUNT,
  ROUTE_TIMEOUT_MS,
  routePrefix,
  SERVER_NAME,
  type Site,
} from './work.ts'

/** Configurations of the processes to start; null where haproxy cannot do the work as the others do. */
export function haproxyConfigs(site: Site): readonly string[] | null {
  const { certificates } = site
  switch (site.topology) {
    case 'http':
      return [proxy(formatAddress(site.listen), formatAddress(site.upstream), true)]
    case 'http2':
    case 'grpc':
      return [proxy(`${formatAddress(site.listen)} proto h2`, `${formatAddress(site.upstream)} proto h2`, true)]
    case 'http-pair': {
      // Certificate and key in one file, as haproxy wants them.
      const files = `ca-file ${certificates.root} verify required`
      const middle = formatAddress(site.middle)
      return [
        proxy(
          formatAddress(site.listen),
          `${middle} ssl crt ${certificates.client.certificate}.both ${files} verifyhost ${SERVER_NAME} alpn h2`,
          true,
        ),
        proxy(
          `${middle} ssl crt ${certificates.server.certificate}.both ${files} alpn h2`,
          formatAddress(site.upstream),
          false,
        ),
      ]
    }
    case 'tcp-pair':
      return null
  }
}

function proxy(bind: string, server: string, isRouting: boolean): string {
  const rules = Array.from(
    { length: ROUTE_COUNT },
    (_, index) => `  use_backend route${index} if { path_beg ${routePrefix(index)} } { hdr(host) -i ${BENCH_HOST} }`,
  )
  const headers = ADDED_HEADERS.map(([name, value]) => `  http-request set-header ${name} ${value}\n`).join('')
  const backends = Array.from({ length: ROUTE_COUNT }, (_, index) => backend(`route${index}`, headers, server))
  return `global
  nbthread 1
  maxconn 9900
  tune.h2.max-concurrent-streams 1024
defaults
  mode http
  timeout client 600s
  timeout connect 10s
  timeout server ${ROUTE_TIMEOUT_MS}ms
  retries ${RETRIES}
  option http-keep-alive
  http-reuse always
frontend bench
  bind ${bind} backlog 8192
${isRouting ? rules.join('\n') : '  default_backend all'}
${isRouting ? backends.join('') : backend('all', '', server)}`
}

function backend(name: string, headers: string, server: string): string {
  return `backend ${name}
${headers}  server origin ${server} pool-max-conn -1
`
}
