/**
 * The field table of DestinationRule (networking.istio.io v1, v1beta1, v1alpha3: one schema) with its admission rules.
 * What the fields mean is in destination-rule.ts.
 */
import { exportToField, ruleHost } from './hosts.ts'
import { findings } from './messages.ts'
import {
  anything,
  checked,
  duration,
  INT32_MAX,
  integer,
  list,
  object,
  oneOf,
  outdated,
  port,
  required,
  unsupported,
  type ValueOf,
} from './schema.ts'
import { dnsLabel, labelMap } from './strings.ts'

const count = integer(0, INT32_MAX)

const loadBalancer = object({
  simple: checked(
    oneOf(['UNSPECIFIED', 'LEAST_REQUEST', 'LEAST_CONN', 'ROUND_ROBIN', 'RANDOM', 'PASSTHROUGH']),
    (value, cursor) => {
      if (value === 'LEAST_CONN') cursor.report(findings.deprecated('LEAST_CONN', 'Write LEAST_REQUEST.'))
      if (value === 'PASSTHROUGH')
        cursor.report(findings.notSupported('PASSTHROUGH', 'endpoints are chosen by least request'))
    },
  ),
  consistentHash: unsupported('consistentHash', 'endpoints are chosen by least request'),
  localityLbSetting: unsupported('localityLbSetting', 'all endpoints are equal, wherever they are'),
  zoneAwareLbSetting: unsupported('zoneAwareLbSetting', 'all endpoints are equal, wherever they are'),
  warmup: unsupported('warmup', 'new endpoints get their full share at once'),
  warmupDurationSecs: unsupported('warmupDurationSecs', 'new endpoints get their full share at once'),
})

const connectionPool = object(
  {
    tcp: object({
      maxConnections: count,
      connectTimeout: duration('positive'),
      idleTimeout: duration('zero'),
      tcpKeepalive: unsupported('tcpKeepalive', 'the system decides'),
      maxConnectionDuration: duration('positive'),
    }),
    http: object({
      http1MaxPendingRequests: count,
      http2MaxRequests: count,
      maxRequestsPerConnection: count,
      maxRetries: count,
      idleTimeout: duration('zero'),
      h2UpgradePolicy: unsupported('h2UpgradePolicy', 'the app is spoken to as its port says'),
      useClientProtocol: unsupported('useClientProtocol', 'the app is spoken to as its port says'),
      maxConcurrentStreams: unsupported('maxConcurrentStreams', 'the server decides'),
      http2KeepAlive: unsupported('http2KeepAlive', 'a silent server is probed while it owes answers'),
    }),
  },
  (value, cursor) => {
    if (value.tcp === null && value.http === null) cursor.reject('The connectionPool is empty.', 'Write tcp or http.')
  },
)

const percent = integer(0, 100)

const outlierDetection = object({
  consecutive5xxErrors: count,
  consecutiveGatewayErrors: count,
  interval: duration('positive'),
  baseEjectionTime: duration('positive'),
  maxEjectionPercent: percent,
  minHealthPercent: percent,
  consecutiveErrors: outdated('consecutiveErrors', 'Write consecutive5xxErrors.'),
  splitExternalLocalOriginErrors: unsupported('splitExternalLocalOriginErrors', 'connect failures count as 5xx'),
  consecutiveLocalOriginFailures: unsupported('consecutiveLocalOriginFailures', 'connect failures count as 5xx'),
  outlierDetectionHttpErrorCodes: unsupported('outlierDetectionHttpErrorCodes', '5xx are errors'),
})

const tls = object({
  mode: checked(oneOf(['DISABLE', 'SIMPLE', 'MUTUAL', 'ISTIO_MUTUAL']), (mode, cursor) => {
    if (mode === 'SIMPLE' || mode === 'MUTUAL') {
      cursor.report(findings.notSupported(`TLS origination (${mode})`, "the mesh's own mutual TLS is used"))
    }
  }),
  clientCertificate: anything,
  privateKey: anything,
  caCertificates: anything,
  caCrl: anything,
  credentialName: anything,
  subjectAltNames: anything,
  sni: anything,
  insecureSkipVerify: anything,
})

const blocks = { loadBalancer, connectionPool, outlierDetection, tls }

const portLevelSettings = checked(
  list(object({ port: required(object({ number: required(port) })), ...blocks })),
  (entries, cursor) => {
    entries.forEach((entry, i) => {
      if (entries.findIndex((other) => other.port.number === entry.port.number) < i) {
        cursor.at(i, 'port').report(findings.noEffect(`Port ${entry.port.number} is listed before.`, 'Keep one entry.'))
      }
    })
  },
)

const policyFields = {
  ...blocks,
  portLevelSettings,
  tunnel: unsupported('tunnel', 'connections are made directly'),
  proxyProtocol: unsupported('proxyProtocol', 'no PROXY header is sent'),
  retryBudget: unsupported('retryBudget', 'retries are limited by maxRetries alone'),
}

const trafficPolicy = checked(object(policyFields), (_policy, cursor) => {
  // Fields that are not supported read as null: look at what was written.
  if (Object.keys(cursor.written() ?? {}).length === 0) cursor.reject('The trafficPolicy is empty.', 'Remove it.')
})

/** The spec of a DestinationRule. */
export const destinationRuleSpec = object(
  {
    host: required(ruleHost),
    trafficPolicy,
    subsets: list(object({ name: required(dnsLabel), labels: labelMap, trafficPolicy })),
    exportTo: exportToField,
    workloadSelector: object({ matchLabels: labelMap }),
  },
  (spec, cursor) => {
    spec.subsets.forEach((subset, i) => {
      if (spec.subsets.findIndex((other) => other.name === subset.name) < i) {
        cursor.at('subsets', i, 'name').reject(`Subset ${subset.name} is declared twice.`, 'Rename one.')
      }
    })
    const isBeyond = spec.exportTo.some((entry) => entry !== '.' && entry !== cursor.object.namespace)
    if (spec.workloadSelector !== null && isBeyond) {
      cursor
        .at('exportTo')
        .reject('A rule with workloadSelector is for its own namespace only.', 'Write exportTo: ["."].')
    }
  },
)

export type DestinationRuleSpec = NonNullable<ValueOf<typeof destinationRuleSpec>>
export type TrafficPolicyFields = NonNullable<DestinationRuleSpec['trafficPolicy']>
