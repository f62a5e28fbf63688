/**
 * nginx: the origin behind every proxy, and a peer. One process, no access log, kept connections upstream.
 *
 * Its HTTP pair is HTTP/1.1 over pooled mutual TLS (it has no tunnels), its TCP pair the stream module.
 */
import {
  ADDED_HEADERS,
  type Address,
  BENCH_HOST,
  formatAddress,
  ROUTE_COUNT,
  ROUTE_TIMEOUT_MS,
  routePrefix,
  SERVER_NAME,
  type Site,
} from './work.ts'

/** Bytes of a usual answer. */
export const ANSWER_BYTES = 1024

/** Bytes of the file of the tunnel case, so large that requests do not count. */
export const BULK_BYTES = 64 * 1024 * 1024

/** The server behind the proxies: 1 KB for everything, and one large file. */
export function originConfig(http1: Address, http2: Address, directory: string): string {
  const answer = 'x'.repeat(ANSWER_BYTES)
  return `${head(directory)}
http {
  ${temporary(directory)}
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_body_buffer_size 128k;
  sendfile on;
  default_type text/plain;
  server {
    listen ${formatAddress(http1)} backlog=8192 deferred;
    location / { return 200 "${answer}"; }
    location = /bulk { root ${directory}; }
  }
  server {
    listen ${formatAddress(http2)} http2 backlog=8192;
    http2_max_concurrent_streams 1024;
    location / { return 200 "${answer}"; }
    location /service-08/grpc { default_type application/grpc; add_trailer grpc-status 0 always; return 200 "${answer}"; }
  }
}
`
}

/** Configurations of the processes to start, the client's side first; null where nginx cannot do the work. */
export function nginxConfigs(site: Site, hasStream: boolean): readonly string[] | null {
  const { certificates } = site
  switch (site.topology) {
    case 'http':
      return [proxy(site, 0, formatAddress(site.listen), site.upstream, 'http://', '', '')]
    case 'http2':
      return [proxy(site, 0, `${formatAddress(site.listen)} http2`, site.upstream, 'http://', '', '')]
    case 'grpc':
      return [proxy(site, 0, `${formatAddress(site.listen)} http2`, site.upstream, 'grpc://', '', '')]
    case 'http-pair': {
      const client = `proxy_ssl_certificate ${certificates.client.certificate};
  proxy_ssl_certificate_key ${certificates.client.key};
  proxy_ssl_trusted_certificate ${certificates.root};
  proxy_ssl_verify on;
  proxy_ssl_name ${SERVER_NAME};
  proxy_ssl_protocols TLSv1.3;`
      const server = `ssl_certificate ${certificates.server.certificate};
  ssl_certificate_key ${certificates.server.key};
  ssl_client_certificate ${certificates.root};
  ssl_verify_client on;
  ssl_protocols TLSv1.3;`
      return [
        proxy(site, 0, formatAddress(site.listen), site.middle, 'https://', client, ''),
        proxy(site, 1, `${formatAddress(site.middle)} ssl`, site.upstream, 'http://', '', server),
      ]
    }
    case 'tcp-pair':
      return hasStream ? [streamClient(site), streamServer(site)] : null
  }
}

function proxy(
  site: Site,
  index: number,
  listen: string,
  upstream: Address,
  scheme: string,
  clientTls: string,
  serverTls: string,
): string {
  const directive = scheme === 'grpc://' ? 'grpc' : 'proxy'
  // All in one place: a location with headers of its own inherits none.
  const hop = directive === 'proxy' ? 'proxy_set_header Connection ""; proxy_set_header Host $host;' : ''
  const headers = ADDED_HEADERS.map(([name, value]) => `${directive}_set_header ${name} ${value};`).join(' ') + hop
  const locations = Array.from(
    { length: ROUTE_COUNT },
    (_, route) => `    location ${routePrefix(route)} { ${headers} ${directive}_pass ${scheme}upstream; }`,
  )
  // The second proxy of a pair routes no more: the first has chosen.
  const body = index === 0 ? locations.join('\n') : `    location / { ${hop} ${directive}_pass ${scheme}upstream; }`
  const forward =
    scheme === 'grpc://'
      ? 'client_max_body_size 0;'
      : `proxy_http_version 1.1;
  proxy_request_buffering off;
  proxy_read_timeout ${ROUTE_TIMEOUT_MS / 1000}s;
  proxy_next_upstream error;
  proxy_next_upstream_tries 3;`
  return `${head(`${site.directory}/${index}`)}
http {
  ${temporary(`${site.directory}/${index}`)}
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  ${forward}
  ${clientTls}
  upstream upstream { server ${formatAddress(upstream)}; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen ${listen} backlog=8192;
    server_name ${index === 0 ? BENCH_HOST : '_'};
    ${listen.includes('http2') ? 'http2_max_concurrent_streams 1024;' : ''}
    ${serverTls}
${body}
  }
}
`
}

function streamClient(site: Site): string {
  const { certificates } = site
  return `${streamModule()}${head(`${site.directory}/0`)}
stream {
  server {
    listen ${formatAddress(site.listen)};
    proxy_pass ${formatAddress(site.middle)};
    proxy_ssl on;
    proxy_ssl_certificate ${certificates.client.certificate};
    proxy_ssl_certificate_key ${certificates.client.key};
    proxy_ssl_trusted_certificate ${certificates.root};
    proxy_ssl_verify on;
    proxy_ssl_name ${SERVER_NAME};
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_ciphers DEFAULT;
  }
}
`
}

function streamServer(site: Site): string {
  const { certificates } = site
  return `${streamModule()}${head(`${site.directory}/1`)}
stream {
  server {
    listen ${formatAddress(site.middle)} ssl;
    proxy_pass ${formatAddress(site.upstream)};
    ssl_certificate ${certificates.server.certificate};
    ssl_certificate_key ${certificates.server.key};
    ssl_client_certificate ${certificates.root};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
  }
}
`
}

/** Debian has the stream module in a package of its own (libnginx-mod-stream). */
export const STREAM_MODULE = '/usr/lib/nginx/modules/ngx_stream_module.so'

function streamModule(): string {
  return `load_module ${STREAM_MODULE};\n`
}

function head(directory: string): string {
  return `daemon off;
master_process off;
worker_rlimit_nofile 20000;
error_log ${directory}/error.log error;
pid ${directory}/nginx.pid;
events { worker_connections 16384; }`
}

function temporary(directory: string): string {
  return ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${directory}/${kind};`)
    .join(' ')
}
