/**
 * The field tables of what an HTTP rule of a VirtualService does: destinations, header operations, redirect, direct
 * response, rewrite, retries, fault. What they mean is in http-actions.ts.
 */
import { parseSubstitution } from '../base/regex.ts'
import { NOT_FORWARDED } from '../http/headers.ts'
import type { RetryCondition } from '../model/route.ts'
import { ruleHost } from './hosts.ts'
import { findings, quote } from './messages.ts'
import {
  type Cursor,
  checked,
  closest,
  decimal,
  duration,
  exclusive,
  flag,
  integer,
  list,
  map,
  object,
  oneOf,
  port,
  refused,
  required,
  type Shape,
  text,
  unsupported,
  type ValueOf,
} from './schema.ts'
import { dnsLabel, isHeaderName, pattern } from './strings.ts'

export const destination = object({
  host: required(
    checked(ruleHost, (host, cursor) => {
      if (host.startsWith('*'))
        cursor.reject('A destination is one host, not a wildcard.', 'Write the host of a service.')
    }),
  ),
  subset: dnsLabel,
  port: object({ number: required(port) }),
})

/** Percentages are written in percent; the finest step is 0.0001 %. */
const percent: Shape<number | null> = checked(decimal(0, 100), (value, cursor) => {
  if (value > 0 && value < 0.0001) cursor.reject(`${value} % is too fine.`, 'Write 0, or at least 0.0001.')
})

export const percentage = object({ value: percent })

/** Text that goes into a request line or a host: nothing that could end it early. */
const plainText: Shape<string | null> = checked(text, (value, cursor) => {
  if (/[^\x21-\x7e\x80-\xff]/.test(value))
    cursor.reject('The value has characters that HTTP does not allow here.', 'Remove them.')
})

/** Header names of operations: what may be a pseudo header is decided per place. */
function headerName(name: string, isRequestEdit: boolean, cursor: Cursor): void {
  const lower = name.toLowerCase()
  if (lower === ':authority' || lower === 'host') {
    if (!isRequestEdit) cursor.reject(`${name} can only be set or added on requests.`, 'Remove it here.')
  } else if (!isHeaderName(name)) cursor.reject(`${quote(name)} is not a header name.`, 'Correct the name.')
  else if (NOT_FORWARDED.has(lower) || lower === 'trailer') {
    cursor.report(findings.noEffect(`The header ${name} frames the message and cannot be edited.`, 'Remove it.'))
  }
}

function headerValue(value: string | null, cursor: Cursor): void {
  if (value === null) return
  if (/[^\t\x20-\x7e\x80-\xff]/.test(value))
    cursor.reject('The header value has characters that HTTP does not allow.', 'Remove them.')
  if (((value.match(/%/g)?.length ?? 0) & 1) === 1) {
    cursor.reject('The header value has a single "%".', 'Write "%%" for a literal percent sign.')
  } else if (hasVariable(value)) {
    cursor.report(findings.notSupported('A variable in a header value', 'this operation is left out'))
  }
}

/** True when a header value refers to a variable (`%REQ(x)%`); `%%` is a literal percent sign. */
export function hasVariable(value: string): boolean {
  return value.replaceAll('%%', '').includes('%')
}

function headerEdits(isRequest: boolean) {
  const values = checked(
    map(text, (name, cursor) => headerName(name, isRequest, cursor)),
    (entries, cursor) => {
      for (const [name, value] of entries) headerValue(value, cursor.at(name))
    },
  )
  const names = checked(list(text), (entries, cursor) => {
    for (const [i, name] of entries.entries()) headerName(name, false, cursor.at(i))
  })
  return object({ set: values, add: values, remove: names })
}

export const headers = object({ request: headerEdits(true), response: headerEdits(false) })
export const redirect = object(
  {
    uri: plainText,
    prefixRewrite: plainText,
    authority: plainText,
    scheme: oneOf(['http', 'https']),
    port,
    derivePort: oneOf(['FROM_PROTOCOL_DEFAULT', 'FROM_REQUEST_PORT']),
    redirectCode: checked(integer(300, 399), (code, cursor) => {
      if (![301, 302, 303, 307, 308].includes(code))
        cursor.reject(`${code} redirects nothing.`, 'Write 301, 302, 303, 307 or 308.')
    }),
  },
  (value, cursor) => {
    const { uri, prefixRewrite, authority, scheme, derivePort } = value
    if (uri !== null && prefixRewrite !== null) cursor.reject('uri and prefixRewrite are both given.', 'Write one.')
    if (value.port !== null && derivePort !== null) cursor.reject('port and derivePort are both given.', 'Write one.')
    const isEmpty = uri === null && prefixRewrite === null && authority === null && scheme === null
    if (isEmpty && value.port === null && derivePort === null) {
      cursor.reject('The redirect changes nothing.', 'Write uri, prefixRewrite, authority, scheme or port.')
    }
  },
)

/** Largest body of a direct response, and where a warning begins (as the Istio API states). */
const BODY_BYTES_MAX = 1_048_576
const BODY_BYTES_LARGE = 102_400

const bodyFields = object({ string: text, bytes: text }, (value, cursor) => {
  if (value.string !== null && value.bytes !== null) cursor.reject('string and bytes are both given.', 'Write one.')
  if (value.bytes !== null && decodeText(value.bytes) === null) {
    cursor.at('bytes').reject('The bytes are not base64 of UTF-8 text.', 'Write the body as string.')
  }
  const bytes = new TextEncoder().encode(
    value.string ?? (value.bytes === null ? '' : (decodeText(value.bytes) ?? '')),
  ).length
  if (bytes > BODY_BYTES_MAX) cursor.reject(`The body has ${bytes} bytes.`, `Write at most ${BODY_BYTES_MAX}.`)
  else if (bytes > BODY_BYTES_LARGE) cursor.report(findings.largeBody(bytes))
})

const body = exclusive(bodyFields, 'string', 'bytes')

/** UTF-8 text of base64; null when it is neither. */
export function decodeText(base64: string): string | null {
  try {
    const binary = atob(base64)
    return new TextDecoder('utf-8', { fatal: true }).decode(
      Uint8Array.from(binary, (character) => character.charCodeAt(0)),
    )
  } catch {
    return null
  }
}

export const directResponse = object({ status: required(integer(200, 599)), body })

export const rewrite = object(
  {
    uri: plainText,
    authority: plainText,
    uriRegexRewrite: object({
      match: required(pattern),
      rewrite: required(
        checked(plainText, (value, cursor) => {
          try {
            parseSubstitution(value)
          } catch {
            cursor.reject('A backslash stands before something else than a digit.', 'Write \\1 for the first group.')
          }
        }),
      ),
    }),
  },
  (value, cursor) => {
    if (value.uri !== null && value.uriRegexRewrite !== null)
      cursor.reject('uri and uriRegexRewrite are both given.', 'Write one.')
    if (value.uri === null && value.uriRegexRewrite === null && value.authority === null) {
      cursor.reject('The rewrite changes nothing.', 'Write uri, uriRegexRewrite or authority.')
    }
  },
)

/** Conditions of retryOn that the mesh knows. */
export const RETRY_CONDITIONS: readonly RetryCondition[] = [
  '5xx',
  'gateway-error',
  'reset',
  'reset-before-request',
  'connect-failure',
  'retriable-4xx',
  'refused-stream',
  'cancelled',
  'deadline-exceeded',
  'internal',
  'resource-exhausted',
  'unavailable',
]

/** Conditions of the API that have no meaning here, or that the numeric codes express. */
const RETRY_CONDITIONS_WITHOUT_EFFECT = [
  'retriable-headers',
  'envoy-ratelimited',
  'http3-post-connect-failure',
] as const
const RETRY_CONDITION_STATUS_CODES = 'retriable-status-codes'

/** The words of retryOn. */
export function retryWords(retryOn: string): string[] {
  return retryOn
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '')
}

const retryOn = checked(text, (value, cursor) => {
  for (const word of retryWords(value)) {
    if (/^[1-5][0-9][0-9]$/.test(word) || word === RETRY_CONDITION_STATUS_CODES) continue
    if ((RETRY_CONDITIONS as readonly string[]).includes(word)) continue
    if ((RETRY_CONDITIONS_WITHOUT_EFFECT as readonly string[]).includes(word)) {
      cursor.report(findings.notSupported(`The condition ${word}`, 'nothing is retried because of it'))
    } else {
      const hint = closest(word, RETRY_CONDITIONS)
      cursor.report(findings.notOneOf(word, [...RETRY_CONDITIONS, 'a status code'], hint))
    }
  }
})

export const retries = object(
  {
    attempts: integer(0, 1000),
    perTryTimeout: duration('positive'),
    retryOn,
    retryRemoteLocalities: unsupported('retryRemoteLocalities', 'retries go to any endpoint'),
    retryIgnorePreviousHosts: flag,
    backoff: duration('positive'),
  },
  (value, cursor) => {
    if ((value.attempts ?? 0) === 0 && (value.perTryTimeout !== null || value.retryOn !== null)) {
      cursor.reject(
        'Retries are off (attempts is 0), but have settings.',
        'Write attempts: 1 or more, or remove the rest.',
      )
    }
  },
)

/** gRPC status codes by name. */
export const GRPC_STATUSES: readonly string[] = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
]

export const fault = object(
  {
    delay: object(
      {
        fixedDelay: duration('positive'),
        percentage,
        percent: integer(0, 100),
        exponentialDelay: refused('exponentialDelay', 'no request is delayed'),
      },
      (value, cursor) => {
        if (value.fixedDelay === null) cursor.report(findings.missing('fixedDelay'))
        if (value.percent !== null)
          cursor.at('percent').report(findings.deprecated('percent', 'Write percentage.value.'))
      },
    ),
    abort: object(
      {
        httpStatus: integer(200, 600),
        grpcStatus: checked(text, (name, cursor) => {
          if (!GRPC_STATUSES.includes(name))
            cursor.report(findings.notOneOf(name, GRPC_STATUSES, closest(name, GRPC_STATUSES)))
        }),
        http2Error: refused('http2Error', 'no request is aborted'),
        percentage,
      },
      (value, cursor) => {
        if (value.httpStatus !== null && value.grpcStatus !== null)
          cursor.reject('httpStatus and grpcStatus are both given.', 'Write one.')
        if (value.httpStatus === null && value.grpcStatus === null) {
          cursor.report(
            findings.noEffect('The abort has no status: no request is aborted.', 'Write httpStatus or grpcStatus.'),
          )
        }
      },
    ),
  },
  (value, cursor) => {
    if (value.delay === null && value.abort === null) cursor.reject('The fault is empty.', 'Write delay or abort.')
    for (const [name, part] of [
      ['delay', value.delay],
      ['abort', value.abort],
    ] as const) {
      const hasPercent = part !== null && ('percent' in part ? part.percent !== null : false)
      if (part !== null && part.percentage?.value == null && !hasPercent) {
        cursor.at(name).report(findings.noEffect('Without percentage no request is affected.', 'Add percentage.value.'))
      }
    }
  },
)

export type DestinationFields = NonNullable<ValueOf<typeof destination>>
export type HeadersFields = NonNullable<ValueOf<typeof headers>>
