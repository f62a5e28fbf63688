/** The static table of HPACK (RFC 7541 appendix A) and the facts shared by encoder and decoder. */

/** Bytes that an entry of a dynamic table, or of a header list, counts beyond its name and value (RFC 7541 section 4.1). */
export const ENTRY_OVERHEAD_BYTES = 32

/** Size of a dynamic table unless a SETTINGS frame says otherwise; also the most that we keep in either direction. */
export const TABLE_BYTES_DEFAULT = 4096

/** Index of the first entry of the dynamic table. */
export const STATIC_TABLE_LENGTH = 61

/** Name and value of the entries 1..61, alternating. */
// biome-ignore format: a table
export const STATIC_TABLE: readonly string[] = [
  ':authority', '', ':method', 'GET', ':method', 'POST', ':path', '/', ':path', '/index.html',
  ':scheme', 'http', ':scheme', 'https', ':status', '200', ':status', '204', ':status', '206',
  ':status', '304', ':status', '400', ':status', '404', ':status', '500', 'accept-charset', '',
  'accept-encoding', 'gzip, deflate', 'accept-language', '', 'accept-ranges', '', 'accept', '',
  'access-control-allow-origin', '', 'age', '', 'allow', '', 'authorization', '', 'cache-control', '',
  'content-disposition', '', 'content-encoding', '', 'content-language', '', 'content-length', '',
  'content-location', '', 'content-range', '', 'content-type', '', 'cookie', '', 'date', '', 'etag', '',
  'expect', '', 'expires', '', 'from', '', 'host', '', 'if-match', '', 'if-modified-since', '',
  'if-none-match', '', 'if-range', '', 'if-unmodified-since', '', 'last-modified', '', 'link', '',
  'location', '', 'max-forwards', '', 'proxy-authenticate', '', 'proxy-authorization', '', 'range', '',
  'referer', '', 'refresh', '', 'retry-after', '', 'server', '', 'set-cookie', '', 'strict-transport-security', '',
  'transfer-encoding', '', 'user-agent', '', 'vary', '', 'via', '', 'www-authenticate', '',
]
