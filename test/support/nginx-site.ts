/** A directory with which an unmodified nginx serves: who it is, a large file, and a file that takes its time. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Bytes of /large: more than every buffer on the way. */
export const LARGE_BYTES = 16 * 1024 * 1024

/** Bytes of /slow and how many of them are sent a second: the answer takes about two seconds. */
export const SLOW_BYTES = 512 * 1024
const SLOW_BYTES_PER_SECOND = 256 * 1024

/** Writes the directory; returns it. `/` answers the pod's name and the address of the caller. */
export function writeNginxSite(directory: string, podName: string): string {
  mkdirSync(join(directory, 'files'), { recursive: true })
  writeFileSync(join(directory, 'files', 'large'), largeFile())
  writeFileSync(join(directory, 'files', 'slow'), Buffer.alloc(SLOW_BYTES, 's'))
  writeFileSync(
    join(directory, 'nginx.conf'),
    `daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
events { worker_connections 8192; }
http {
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  default_type text/plain;
  server {
    listen 8080 backlog=4096;
    listen [::]:8080 backlog=4096;
    location = / { return 200 "${podName} $remote_addr\\n"; }
    location / { root files; }
    location = /slow { root files; limit_rate ${SLOW_BYTES_PER_SECOND}; }
    location = /headers { return 200 "$http_x_forwarded_client_cert|$http_host|$http_x_test\\n"; }
  }
}
`,
  )
  return directory
}

/** Bytes with no period that a lost or repeated buffer could hide in. */
export function largeFile(): Buffer {
  const bytes = Buffer.allocUnsafe(LARGE_BYTES)
  for (let at = 0, value = 1; at < LARGE_BYTES; at += 4) {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0
    bytes.writeUInt32LE(value, at)
  }
  return bytes
}
