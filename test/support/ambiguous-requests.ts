/**
 * The smuggling table: requests that two servers would read differently. Shared by the engines' own tests and by those
 * that send each of them through whole proxies.
 */

/** Head lines after `POST / HTTP/1.1` and Host, what follows the head, and the reason of the refusal. */
export const REFUSED_HEADS: readonly (readonly [head: string, body: string, reason: string])[] = [
  // --- two statements about the body ---
  ['Content-Length: 4\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'length_and_encoding'],
  ['Transfer-Encoding: chunked\r\nContent-Length: 4\r\n', '0\r\n\r\n', 'length_and_encoding'],
  ['Transfer-Encoding: identity\r\nContent-Length: 4\r\n', 'abcd', 'length_and_encoding'],
  ['Content-Length: 4\r\nContent-Length: 5\r\n', 'abcd', 'duplicate_content_length'],
  ['Content-Length: 4\r\nContent-Length: 4\r\n', 'abcd', 'duplicate_content_length'],
  ['Content-Length: 4\r\ncontent-length: 0\r\n', 'abcd', 'duplicate_content_length'],
  // --- lengths that are read differently ---
  ['Content-Length: 4, 5\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4, 4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: +4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: -4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 0x4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4.0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4e0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4 4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 04\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: "4"\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length:\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 1_0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 9007199254740993\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 18446744073709551620\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: \xb2\r\n', 'abcd', 'bad_content_length'],
  // --- codings that are read differently ---
  ['Transfer-Encoding: xchunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked, chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked, identity\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: identity, chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: identity\r\n', '', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: "chunked"\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked;q=1\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked,\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: ,chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding:\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n', 'unsupported_transfer_encoding'],
  ['Transfer-Encoding: gzip\r\n', '', 'unsupported_transfer_encoding'],
  // --- names that are read differently ---
  ['Transfer-Encoding : chunked\r\n', '0\r\n\r\n', 'space_before_colon'],
  ['Transfer-Encoding\t: chunked\r\n', '0\r\n\r\n', 'space_before_colon'],
  [' Transfer-Encoding: chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['X: y\r\n\tTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['Transfer-Encoding:\r\n chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['Transfer\x00-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_header_name'],
  ['\xefTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_header_name'],
  ['Content-Length\r\n', 'abcd', 'bad_header_name'],
  ['(Content-Length): 4\r\n', 'abcd', 'bad_header_name'],
  // --- values that are read differently ---
  ['Transfer-Encoding: \x0bchunked\r\n', '0\r\n\r\n', 'bad_header_value'],
  ['Transfer-Encoding: chunked\x00\r\n', '0\r\n\r\n', 'bad_header_value'],
  ['X: y\x00\r\n', '', 'bad_header_value'],
  // --- lines that are read differently ---
  ['X: y\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bare_lf'],
  ['X: y\rTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bare_cr'],
  ['X: y\r\r\n', '', 'bare_cr'],
  ['\nContent-Length: 4\r\n', 'abcd', 'bare_lf'],
  ['X: y\n\r\n', '', 'bare_lf'],
  // --- who is asked for ---
  ['Host: other\r\n', '', 'duplicate_host'],
  ['host : other\r\n', '', 'space_before_colon'],
  ['Connection: content-length\r\nContent-Length: 4\r\n', 'abcd', 'bad_connection'],
  ['Connection: close, Host\r\n', '', 'bad_connection'],
  // --- who asks: no client decides what of it the next hop sees ---
  ['Connection: authorization\r\nAuthorization: a\r\n', '', 'bad_connection'],
  ['Connection: Cookie\r\nCookie: a=b\r\n', '', 'bad_connection'],
  ['Connection: close, forwarded\r\n', '', 'bad_connection'],
  ['Connection: x-forwarded-for\r\nX-Forwarded-For: 192.0.2.1\r\n', '', 'bad_connection'],
  ['Connection: X-Forwarded-Client-Cert\r\n', '', 'bad_connection'],
  ['Connection: x-envoy-internal\r\n', '', 'bad_connection'],
  ['Connection: x-request-id\r\n', '', 'bad_connection'],
  ['Connection: X-Real-IP\r\n', '', 'bad_connection'],
]

/** Bodies after `Transfer-Encoding: chunked`. */
export const REFUSED_CHUNKS: readonly (readonly [body: string, reason: string])[] = [
  ['\r\n', 'bad_chunk_size'],
  ['x\r\n', 'bad_chunk_size'],
  [' 4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['4 \r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['4\t;a\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['0x4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['+4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['-4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  [';a\r\n', 'bad_chunk_size'],
  ['4_\r\n', 'bad_chunk_size'],
  ['123456789\r\n', 'chunk_too_large'],
  ['000000004\r\nabcd\r\n', 'chunk_too_large'],
  ['ffffffffffffffff4\r\n', 'chunk_too_large'],
  ['4\nabcd\r\n0\r\n\r\n', 'bare_lf'],
  ['4\rXabcd\r\n0\r\n\r\n', 'bare_cr'],
  ['4;a\nabcd\r\n0\r\n\r\n', 'bare_lf'],
  ['4;a\rabcd\r\n0\r\n\r\n', 'bare_cr'],
  ['4;a\0\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_extension'],
  ['4;\xff\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_extension'],
  ['4\r\nabcdX\r\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\n\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\r0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabc\r\n0\r\n\r\n', 'bad_chunk_end'],
  ['0\r\n\n', 'bare_lf'],
  ['0\n\n', 'bare_lf'],
  ['0\r\n\rX', 'bare_cr'],
  ['0\r\nContent-Length: 3\r\n\r\n', 'bad_trailer'],
  ['0\r\nTransfer-Encoding: chunked\r\n\r\n', 'bad_trailer'],
  ['0\r\nHost: other\r\n\r\n', 'bad_trailer'],
  ['0\r\nConnection: close\r\n\r\n', 'bad_trailer'],
  ['0\r\nX : y\r\n\r\n', 'space_before_colon'],
  ['0\r\nX: y\n\r\n', 'bare_lf'],
  ['0\r\n X: y\r\n\r\n', 'obs_fold'],
]

/** Request lines, each with Host and an empty line behind it. */
export const REFUSED_LINES: readonly string[] = [
  'GET / HTTP/1.1 HTTP/1.1',
  'GET /a b HTTP/1.1',
  'GET  / HTTP/1.1',
  'GET /\tHTTP/1.1',
  'GET / HTTP/1.1\rX: y',
  'GET / HTTP/1.1\nX: y',
  'GET /\x00 HTTP/1.1',
  'GET /\xff HTTP/1.1',
  'GET /#fragment HTTP/1.1',
  'GET /a\\..\\b HTTP/1.1',
  'GET a HTTP/1.1',
  'GET * HTTP/1.1',
  'GET http://h@other/ HTTP/1.1',
  'GET http:///x HTTP/1.1',
  'GET ftp://h/ HTTP/1.1',
  'GET //h:99999/ HTTP/0.9',
  'GET / HTTP/2.0',
  'GET / HTTP/1.2',
  'GET / http/1.1',
  'GET /',
  'G(T / HTTP/1.1',
  ' GET / HTTP/1.1',
  'CONNECT h HTTP/1.1',
]

const GET: readonly string[] = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'h']

function without(name: string, ...more: string[]): string[] {
  const at = GET.indexOf(name)
  return [...GET.slice(0, at), ...GET.slice(at + 2), ...more]
}

function having(name: string, value: string): string[] {
  const at = GET.indexOf(name)
  return [...GET.slice(0, at + 1), value, ...GET.slice(at + 2)]
}

/** Header lists of HTTP/2, names and values alternating, that a hop of HTTP/1 would read as something else. */
export const REFUSED_LISTS: readonly (readonly [what: string, fields: readonly string[]])[] = [
  // --- characters that would end a line, or make a field of another ---
  ['LF in a value', [...GET, 'x-a', 'b\nhost: other']],
  ['CR in a value', [...GET, 'x-a', 'b\rc']],
  ['CRLF and a request in a value', [...GET, 'x-a', 'b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h']],
  ['NUL in a value', [...GET, 'x-a', 'b\x00']],
  ['a value that begins with a space', [...GET, 'x-a', ' b']],
  ['a value that ends with a tab', [...GET, 'x-a', 'b\t']],
  ['CRLF in a name', [...GET, 'x-a\r\nhost', 'b']],
  ['LF in a name', [...GET, 'x\n', 'b']],
  ['NUL in a name', [...GET, 'x\x00', 'b']],
  ['a colon in a name', [...GET, 'content-length:', '5']],
  ['a space in a name', [...GET, 'transfer-encoding ', 'chunked']],
  ['an upper-case name', [...GET, 'Content-Length', '5']],
  ['an empty name', [...GET, '', 'b']],
  ['a name beyond ASCII', [...GET, 'x\xe9', 'b']],
  // --- what concerns one connection of HTTP/1 ---
  ['Transfer-Encoding', [...GET, 'transfer-encoding', 'chunked']],
  ['Transfer-Encoding identity', [...GET, 'transfer-encoding', 'identity']],
  ['Connection', [...GET, 'connection', 'x-forwarded-client-cert']],
  ['Keep-Alive', [...GET, 'keep-alive', 'timeout=5']],
  ['Proxy-Connection', [...GET, 'proxy-connection', 'keep-alive']],
  ['Upgrade', [...GET, 'upgrade', 'h2c']],
  ['TE of codings', [...GET, 'te', 'gzip, trailers']],
  // --- lengths ---
  ['a length without a body', [...GET, 'content-length', '5']],
  ['a list of lengths', [...GET, 'content-length', '0, 0']],
  ['two lengths', [...GET, 'content-length', '0', 'content-length', '1']],
  ['a length with a sign', [...GET, 'content-length', '+0']],
  ['a length that is no number', [...GET, 'content-length', 'x']],
  ['an empty length', [...GET, 'content-length', '']],
  ['a length beyond all numbers', [...GET, 'content-length', '18446744073709551616']],
  // --- what the request line of HTTP/1 is made of ---
  ['a space in the path', having(':path', '/a b')],
  ['a whole request in the path', having(':path', '/ HTTP/1.1\r\nhost: h\r\n\r\nGET /smuggled')],
  ['NUL in the path', having(':path', '/\x00')],
  ['a byte beyond ASCII in the path', having(':path', '/\xff')],
  ['a fragment in the path', having(':path', '/#a')],
  ['a backslash in the path', having(':path', '/a\\b')],
  ['a path without a slash', having(':path', 'a')],
  ['an absolute path', having(':path', 'http://other/')],
  ['a star that is not for OPTIONS', having(':path', '*')],
  ['an empty path', having(':path', '')],
  ['no path', without(':path')],
  ['a space in the method', having(':method', 'GET /smuggled HTTP/1.1')],
  ['CRLF in the method', having(':method', 'GET\r\n')],
  ['an empty method', having(':method', '')],
  ['no method', without(':method')],
  ['a scheme that is none', having(':scheme', 'http://other/?')],
  ['another scheme', having(':scheme', 'ftp')],
  ['no scheme', without(':scheme')],
  // --- who is asked for ---
  ['a path in the authority', having(':authority', 'h/x')],
  ['user information in the authority', having(':authority', 'a@h')],
  ['a space in the authority', having(':authority', 'h other')],
  ['CRLF in the authority', having(':authority', 'h\r\nx-a: b')],
  ['a comma in the authority', having(':authority', 'h,other')],
  ['a port that is none', having(':authority', 'h:99999')],
  ['an authority and another host', [...GET, 'host', 'other']],
  ['two hosts', without(':authority', 'host', 'h', 'host', 'other')],
  ['nobody', without(':authority')],
  ['an empty authority', having(':authority', '')],
  // --- pseudo-headers ---
  ['two paths', [...GET, ':path', '/smuggled']],
  ['two methods', [...GET, ':method', 'POST']],
  ['two authorities', [...GET, ':authority', 'h']],
  ['two schemes', [...GET, ':scheme', 'http']],
  ['a pseudo-header after a header', [...without(':authority'), 'x-a', 'b', ':authority', 'h']],
  ['an unknown pseudo-header', [...GET, ':x', 'b']],
  ['a status in a request', [...GET, ':status', '200']],
  ['a protocol without CONNECT', [...GET, ':protocol', 'websocket']],
  // --- tunnels ---
  ['CONNECT', [':method', 'CONNECT', ':authority', 'h:80']],
  ['CONNECT to a protocol that leaves HTTP', [...having(':method', 'CONNECT'), ':protocol', 'connect-ip']],
]
