/** What must be refused: each line one bad VirtualService, the field that is named, and words of what is said. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CART, compileTrees, shop, trafficOf, virtualService } from './builders.ts'

const TO_CART = [{ destination: { host: 'cart' } }]

function http(rule: object): object {
  return { hosts: ['cart'], http: [{ route: TO_CART, ...rule }] }
}

function only(rule: object): object {
  return { hosts: ['cart'], http: [rule] }
}

const BAD: readonly (readonly [object, string, RegExp])[] = [
  // The object.
  [{ hosts: ['cart'] }, 'spec', /no rules/],
  [{ host: ['cart'], http: [{ route: TO_CART }] }, 'spec.host', /no field "host".*hosts/],
  [{ hosts: 'cart', http: [] }, 'spec.hosts', /Write a list/],
  [{ hosts: ['*'], http: [{ route: TO_CART }] }, 'spec.hosts[0]', /"\*" is no host/],
  [{ hosts: ['a.*.b'], http: [{ route: TO_CART }] }, 'spec.hosts[0]', /not a host name/],
  [{ hosts: ['*cart'], http: [{ route: TO_CART }] }, 'spec.hosts[0]', /not a host name/],
  [{ hosts: ['cart', 'cart'], http: [{ route: TO_CART }] }, 'spec.hosts[1]', /listed twice/],
  [{ hosts: ['cart'], http: [null] }, 'spec.http[0]', /empty/],
  [{ hosts: ['cart'], http: [{ route: TO_CART }], exportTo: ['~'] }, 'spec.exportTo[0]', /not a namespace/],
  [{ hosts: ['cart'], http: [{ route: TO_CART }], exportTo: ['*', '.'] }, 'spec.exportTo', /beside/],
  [{ hosts: ['cart'], http: [{ route: TO_CART }], exportTo: ['a', 'a'] }, 'spec.exportTo', /twice/],
  // Rules.
  [only({}), 'spec.http[0]', /does nothing/],
  [only({ match: [{}] }), 'spec.http[0]', /does nothing/],
  [http({ redirect: { uri: '/a' } }), 'spec.http[0]', /route and redirect are both/],
  [http({ directResponse: { status: 200 } }), 'spec.http[0]', /both given/],
  [http({ rout: [] }), 'spec.http[0].rout', /Did you mean route/],
  [http({ delegate: { name: 'a' } }), 'spec.http[0].delegate', /not supported yet/],
  [http({ timeout: '5' }), 'spec.http[0].timeout', /duration/],
  [http({ timeout: 5 }), 'spec.http[0].timeout', /duration/],
  [http({ timeout: '500us' }), 'spec.http[0].timeout', /too fine/],
  // Matches.
  [http({ match: { uri: { exact: '/' } } }), 'spec.http[0].match', /Write a list/],
  [http({ match: [{ uri: '/a' }] }), 'spec.http[0].match[0].uri', /Write an object/],
  [http({ match: [{ uri: { exact: '/a', prefix: '/b' } }] }), 'spec.http[0].match[0].uri', /both given/],
  [http({ match: [{ uri: { regex: '(' } }] }), 'spec.http[0].match[0].uri.regex', /cannot be used/],
  [http({ match: [{ uri: { regex: '(?=a)' } }] }), 'spec.http[0].match[0].uri.regex', /cannot be used/],
  [http({ match: [{ uri: { regex: 'a'.repeat(1025) } }] }), 'spec.http[0].match[0].uri.regex', /1024/],
  [http({ match: [{ uri: { regex: '' } }] }), 'spec.http[0].match[0].uri.regex', /empty/],
  [http({ match: [{ headers: { a: { prefix: '' } } }] }), 'spec.http[0].match[0].headers.a.prefix', /empty/],
  [http({ match: [{ headers: { a: null } }] }), 'spec.http[0].match[0].headers.a', /empty/],
  [http({ match: [{ headers: { 'a b': {} } }] }), 'spec.http[0].match[0].headers["a b"]', /not a header name/],
  [http({ match: [{ headers: { ':status': {} } }] }), 'spec.http[0].match[0].headers[":status"]', /not a header name/],
  [
    http({ match: [{ headers: { '@request.auth.claims.a': {} } }] }),
    'spec.http[0].match[0].headers["@request.auth.claims.a"]',
    /claims/,
  ],
  [http({ match: [{ port: 0 }] }), 'spec.http[0].match[0].port', /65535/],
  [http({ match: [{ sourceNamespace: 'A' }] }), 'spec.http[0].match[0].sourceNamespace', /not a valid name/],
  [http({ match: [{ sourceLabels: { app: '*' } }] }), 'spec.http[0].match[0].sourceLabels.app', /Wildcards/],
  [http({ match: [{ sourceLabels: { app: 1 } }] }), 'spec.http[0].match[0].sourceLabels.app', /is not text/],
  [
    http({ match: [{ sourceLabels: { app: 'a'.repeat(64) } }] }),
    'spec.http[0].match[0].sourceLabels.app',
    /label value/,
  ],
  // Destinations.
  [only({ route: [{ destination: {} }] }), 'spec.http[0].route[0].destination', /host is missing/],
  [only({ route: [{ destination: { host: 'cart' }, host: 'cart' }] }), 'spec.http[0].route[0].host', /no field "host"/],
  [only({ route: [{ destination: { host: '*' } }] }), 'spec.http[0].route[0].destination.host', /wildcard/],
  [only({ route: [{ destination: { host: '' } }] }), 'spec.http[0].route[0].destination.host', /not a host name/],
  [
    only({ route: [{ destination: { host: 'cart', subset: 'V 1' } }] }),
    'spec.http[0].route[0].destination.subset',
    /not a valid name/,
  ],
  [
    only({ route: [{ destination: { host: 'cart', port: 80 } }] }),
    'spec.http[0].route[0].destination.port',
    /Write an object/,
  ],
  [
    only({ route: [{ destination: { host: 'cart', port: { number: '80' } } }] }),
    'spec.http[0].route[0].destination.port.number',
    /whole number/,
  ],
  [only({ route: [{ destination: { host: 'cart' }, weight: -1 }] }), 'spec.http[0].route[0].weight', /whole number/],
  [
    only({ route: [{ destination: { host: 'cart' } }, { destination: { host: 'web' } }] }),
    'spec.http[0].route',
    /add up to 0/,
  ],
  [
    only({
      route: [
        { destination: { host: 'cart' }, weight: 0 },
        { destination: { host: 'web' }, weight: 0 },
      ],
    }),
    'spec.http[0].route',
    /add up to 0/,
  ],
  // Redirect, direct response, rewrite.
  [only({ redirect: {} }), 'spec.http[0].redirect', /changes nothing/],
  [only({ redirect: { uri: '/a', prefixRewrite: '/b' } }), 'spec.http[0].redirect', /both given/],
  [only({ redirect: { port: 80, derivePort: 'FROM_REQUEST_PORT' } }), 'spec.http[0].redirect', /both given/],
  [only({ redirect: { uri: '/a', redirectCode: 304 } }), 'spec.http[0].redirect.redirectCode', /304 redirects nothing/],
  [only({ redirect: { uri: '/a', redirectCode: 200 } }), 'spec.http[0].redirect.redirectCode', /whole number/],
  [only({ redirect: { scheme: 'ftp' } }), 'spec.http[0].redirect.scheme', /not one of http, https/],
  [only({ redirect: { uri: '/a\r\nx: y' } }), 'spec.http[0].redirect.uri', /does not allow/],
  [only({ redirect: { prefixRewrite: '/b' } }), 'spec.http[0].redirect.prefixRewrite', /needs prefix matches/],
  [
    only({ match: [{ uri: { exact: '/a' } }], redirect: { prefixRewrite: '/b' } }),
    'spec.http[0].redirect.prefixRewrite',
    /needs prefix matches/,
  ],
  [
    only({ redirect: { uri: '/a' }, fault: { abort: { httpStatus: 500 } } }),
    'spec.http[0].fault',
    /redirect cannot have a fault/,
  ],
  [
    only({ directResponse: { status: 200 }, rewrite: { uri: '/a' } }),
    'spec.http[0].rewrite',
    /directResponse cannot have a rewrite/,
  ],
  [only({ directResponse: {} }), 'spec.http[0].directResponse', /status is missing/],
  [only({ directResponse: { status: 100 } }), 'spec.http[0].directResponse.status', /whole number from 200/],
  [
    only({ directResponse: { status: 200, body: { string: 'a', bytes: 'YQ==' } } }),
    'spec.http[0].directResponse.body',
    /both given/,
  ],
  [only({ directResponse: { status: 200, body: { bytes: '?' } } }), 'spec.http[0].directResponse.body.bytes', /base64/],
  [
    only({ directResponse: { status: 200, body: { string: 'x'.repeat(1_048_577) } } }),
    'spec.http[0].directResponse.body',
    /1048577 bytes/,
  ],
  [http({ rewrite: {} }), 'spec.http[0].rewrite', /changes nothing/],
  [
    http({ rewrite: { uri: '/a', uriRegexRewrite: { match: 'a', rewrite: 'b' } } }),
    'spec.http[0].rewrite',
    /both given/,
  ],
  [
    http({ rewrite: { uriRegexRewrite: { match: 'a' } } }),
    'spec.http[0].rewrite.uriRegexRewrite',
    /rewrite is missing/,
  ],
  [
    http({ rewrite: { uriRegexRewrite: { match: '(', rewrite: 'b' } } }),
    'spec.http[0].rewrite.uriRegexRewrite.match',
    /cannot be used/,
  ],
  [
    http({ rewrite: { uriRegexRewrite: { match: 'a', rewrite: '\\x' } } }),
    'spec.http[0].rewrite.uriRegexRewrite.rewrite',
    /backslash/,
  ],
  [http({ rewrite: { authority: 'a b' } }), 'spec.http[0].rewrite.authority', /does not allow/],
  [
    http({ rewrite: { authority: 'a' }, headers: { request: { set: { host: 'b' } } } }),
    'spec.http[0]',
    /rewritten twice/,
  ],
  // Retries and faults.
  [http({ retries: { attempts: -1 } }), 'spec.http[0].retries.attempts', /whole number/],
  [http({ retries: { attempts: 0, retryOn: '5xx' } }), 'spec.http[0].retries', /off/],
  [http({ retries: { perTryTimeout: '1s' } }), 'spec.http[0].retries', /off/],
  [http({ retries: { attempts: 1, retryOn: '5xxx' } }), 'spec.http[0].retries.retryOn', /Did you mean 5xx/],
  [http({ retries: { attempts: 1, retryOn: '600' } }), 'spec.http[0].retries.retryOn', /not one of/],
  [http({ retries: { attempts: 1, perTryTimeout: '0s' } }), 'spec.http[0].retries.perTryTimeout', /too short/],
  [http({ fault: {} }), 'spec.http[0].fault', /empty/],
  [http({ fault: { delay: { percentage: { value: 1 } } } }), 'spec.http[0].fault.delay', /fixedDelay is missing/],
  [
    http({ fault: { delay: { exponentialDelay: '1s' } } }),
    'spec.http[0].fault.delay.exponentialDelay',
    /not supported/,
  ],
  [http({ fault: { abort: { http2Error: 'x' } } }), 'spec.http[0].fault.abort.http2Error', /not supported/],
  [http({ fault: { abort: { httpStatus: 500, grpcStatus: 'OK' } } }), 'spec.http[0].fault.abort', /both given/],
  [
    http({ fault: { abort: { grpcStatus: 'UNAVAILABEL' } } }),
    'spec.http[0].fault.abort.grpcStatus',
    /Did you mean UNAVAILABLE/,
  ],
  [http({ fault: { abort: { httpStatus: 700 } } }), 'spec.http[0].fault.abort.httpStatus', /whole number/],
  [
    http({ fault: { abort: { httpStatus: 500, percentage: { value: 101 } } } }),
    'spec.http[0].fault.abort.percentage.value',
    /0 to 100/,
  ],
  [
    http({ fault: { abort: { httpStatus: 500, percentage: { value: 0.00001 } } } }),
    'spec.http[0].fault.abort.percentage.value',
    /too fine/,
  ],
  [
    http({ fault: { abort: { httpStatus: 500, percentage: 50 } } }),
    'spec.http[0].fault.abort.percentage',
    /Write an object/,
  ],
  // Mirrors and headers.
  [http({ mirror: { host: 'web' }, mirrors: [{ destination: { host: 'web' } }] }), 'spec.http[0]', /both given/],
  [http({ mirror: {} }), 'spec.http[0].mirror', /host is missing/],
  [http({ mirrorPercentage: { value: -1 } }), 'spec.http[0].mirrorPercentage.value', /0 to 100/],
  [
    http({ headers: { request: { set: { ':path': '/a' } } } }),
    'spec.http[0].headers.request.set[":path"]',
    /not a header name/,
  ],
  [
    http({ headers: { request: { remove: ['host'] } } }),
    'spec.http[0].headers.request.remove[0]',
    /only be set or added on requests/,
  ],
  [
    http({ headers: { response: { set: { ':authority': 'a' } } } }),
    'spec.http[0].headers.response.set[":authority"]',
    /only be set/,
  ],
  [http({ headers: { request: { set: { a: 'b\r\nc: d' } } } }), 'spec.http[0].headers.request.set.a', /does not allow/],
  [http({ headers: { request: { set: { a: '50%' } } } }), 'spec.http[0].headers.request.set.a', /single "%"/],
  [http({ headers: { requests: {} } }), 'spec.http[0].headers.requests', /Did you mean request/],
  // TCP.
  [{ hosts: ['cart'], tcp: [{}] }, 'spec.tcp[0]', /route is missing/],
  [{ hosts: ['cart'], tcp: [{ match: [{ uri: {} }], route: TO_CART }] }, 'spec.tcp[0].match[0].uri', /no field/],
  [
    { hosts: ['cart'], tcp: [{ match: [{ destinationSubnets: ['10.0.0.0/33'] }], route: TO_CART }] },
    'spec.tcp[0].match[0].destinationSubnets[0]',
    /address block/,
  ],
  [
    { hosts: ['cart'], tcp: [{ route: [{ destination: { host: 'a' } }, { destination: { host: 'b' } }] }] },
    'spec.tcp[0].route',
    /add up to 0/,
  ],
]

for (const [spec, field, words] of BAD) {
  test(`refused: ${field} of ${JSON.stringify(spec).slice(0, 150)}`, () => {
    const result = compileTrees([...shop(), virtualService('bad', spec)])
    const errors = result.messages.filter(({ severity }) => severity === 'error')
    assert.deepEqual(
      errors.map((message) => message.field),
      [field],
    )
    const [error] = errors
    assert.match(`${error!.text} ${error!.fix}`, words)
    assert.equal(error!.object, 'VirtualService.networking.istio.io/shop/bad')
    assert.equal(trafficOf(result, 'web-1', CART, 80), null)
  })
}

test('the longest label value is 63 characters', () => {
  const labels = { sourceLabels: { app: 'a'.repeat(63) } }
  const result = compileTrees([...shop(), virtualService('good', http({ match: [labels] }))])
  assert.deepEqual(result.messages, [])
})

test('all errors of one object are reported, and the other objects are in force', () => {
  const result = compileTrees([
    ...shop(),
    virtualService('bad', {
      hosts: ['web'],
      http: [{ route: TO_CART, timeout: 'x', retry: {} }, { redirect: { scheme: 'ftp' } }],
    }),
    virtualService('good', { hosts: ['cart'], http: [{ route: TO_CART, timeout: '1s' }] }),
  ])
  assert.deepEqual(
    result.messages.map(({ object, field }) => [object, field]),
    [
      ['VirtualService.networking.istio.io/shop/bad', 'spec.http[0].retry'],
      ['VirtualService.networking.istio.io/shop/bad', 'spec.http[0].timeout'],
      ['VirtualService.networking.istio.io/shop/bad', 'spec.http[1].redirect.scheme'],
    ],
  )
  assert.equal(trafficOf(result, 'web-1', CART, 80)!.routes[0]!.timeoutMs, 1000)
})
