/** Random objects of every model type, for round-trip tests. Addresses and blocks are canonical, as the model has them. */
import { formatAddress } from '../../src/base/address.ts'
import {
  ACTION_ALLOW,
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  type Policy,
  type PolicyMatch,
  type PolicyScope,
  policyKey,
} from '../../src/model/policy.ts'
import {
  type Fault,
  type HeaderEdits,
  type HeaderPair,
  type NamedMatch,
  type Redirect,
  type RetryCondition,
  type Rewrite,
  type Route,
  type RouteMatch,
  type StringMatch,
  type Traffic,
  trafficKey,
  type WeightedCluster,
} from '../../src/model/route.ts'
import {
  type Balance,
  type Cluster,
  clusterKey,
  type OutlierDetection,
  type Protocol,
  type Service,
  serviceKey,
} from '../../src/model/service.ts'
import {
  ENDPOINT_DRAINING,
  ENDPOINT_UNREADY,
  FAILURE_BY_POLICY,
  FAILURE_CLOSED,
  FAILURE_OPEN,
  type LocalPod,
  type PortMapping,
  type Workload,
  type WorkloadService,
} from '../../src/model/workload.ts'
import type { SeededRandom } from './seeded-random.ts'

const RETRY_CONDITIONS: readonly RetryCondition[] = [
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

export class RandomModel {
  private readonly random: SeededRandom

  constructor(random: SeededRandom) {
    this.random = random
  }

  workload(): Workload {
    const { random } = this
    const namespace = this.name()
    const name = this.name()
    const services = new Map(random.list(3, () => [serviceKey(this.name(), this.hostname()), this.mappings()] as const))
    return {
      uid: `Kubernetes//Pod/${namespace}/${name}`,
      name,
      namespace,
      addresses: random.list(3, () => this.address()),
      node: this.text(),
      trustDomain: this.name(),
      serviceAccount: this.name(),
      tunnelProtocol: random.pick([0, 1]),
      isHealthy: random.boolean(),
      services: [...services].map(([service, ports]) => this.membership(service, ports)),
      policies: random.list(3, () => policyKey(this.name(), this.name())),
      clusterId: this.text(),
      locality: { region: this.text(), zone: this.text(), subzone: this.text() },
      workloadName: this.text(),
      workloadType: random.pick(['deployment', 'cronjob', 'pod', 'job']),
      canonicalName: this.text(),
      canonicalRevision: this.text(),
      capacity: random.pick([0, 1, 7, 100, 4_294_967_295]),
      ...(random.boolean() ? { hostname: this.hostname() } : {}),
    }
  }

  private membership(service: string, ports: readonly PortMapping[]): WorkloadService {
    const { random } = this
    return {
      service,
      ports,
      ...(random.boolean() ? { readiness: random.pick([ENDPOINT_DRAINING, ENDPOINT_UNREADY]) } : {}),
      ...(random.boolean() ? { hostname: this.name() } : {}),
      ...(random.boolean() ? { zones: [this.name()] } : {}),
      ...(random.boolean() ? { nodes: [this.name()] } : {}),
    }
  }

  service(): Service {
    const { random } = this
    const namespace = this.name()
    const hostname = this.hostname()
    return {
      key: serviceKey(namespace, hostname),
      name: this.name(),
      namespace,
      hostname,
      addresses: random.list(3, () => this.address()),
      ports: random.list(4, () => ({
        number: this.port(),
        targetPort: random.boolean() ? this.port() : 0,
        name: this.text(),
        protocol: this.protocol(),
      })),
      ...(random.boolean() ? { exportTo: random.list(3, () => this.name()) } : {}),
      ...(random.boolean() ? { isHeadless: true } : {}),
      ...(random.boolean() ? { alias: this.hostname() } : {}),
      ...(random.boolean() ? { affinityMs: random.integer(1, 86_400_000) } : {}),
      ...(random.boolean() ? { isNodeLocal: true } : {}),
      ...(random.boolean() ? { isPublishingUnready: true } : {}),
    }
  }

  /** With `isPlain` only what istio.security.Authorization can say. */
  policy(isPlain: boolean): Policy {
    const { random } = this
    const name = this.name()
    const namespace = this.name()
    return {
      key: policyKey(namespace, name),
      name,
      namespace,
      scope: random.pick<PolicyScope>([0, 1, 2]),
      action: random.pick([ACTION_ALLOW, ACTION_DENY]),
      isDryRun: !isPlain && random.boolean(),
      rules: random.list(3, () => ({
        clauses: random.list(3, () => ({ matches: random.list(3, () => this.policyMatch(isPlain)) })),
      })),
    }
  }

  traffic(): Traffic {
    const { random } = this
    const scope = this.name()
    const service = serviceKey(this.name(), this.hostname())
    const port = this.port()
    return {
      key: trafficKey(scope, service, port),
      scope,
      service,
      port,
      protocol: this.protocol(),
      defaultCluster: clusterKey(service, '', port),
      clusters: random.list(3, () => this.cluster()),
      routes: random.list(4, () => this.route()),
      tcpClusters: random.list(2, () => this.weightedCluster()),
    }
  }

  pod(): LocalPod {
    return {
      uid: `Kubernetes//Pod/${this.name()}/${this.name()}`,
      netns: `/var/run/netns/${this.name()}`,
      scope: this.name(),
      failureMode: this.random.pick([FAILURE_BY_POLICY, FAILURE_OPEN, FAILURE_CLOSED]),
      ...(this.random.boolean() ? { isDnsExempt: true } : {}),
      ...(this.random.boolean() ? { podUid: this.name() } : {}),
      ...(this.random.boolean() ? { probePorts: [this.port(), this.port()] } : {}),
    }
  }

  private policyMatch(isPlain: boolean): PolicyMatch {
    const { random } = this
    const strings = () => random.list(2, () => this.stringMatch(!isPlain))
    const blocks = () => random.list(2, () => this.cidr())
    const ports = () => random.list(2, () => this.port())
    const plain: PolicyMatch = {
      ...EMPTY_POLICY_MATCH,
      principals: strings(),
      notPrincipals: strings(),
      namespaces: strings(),
      notNamespaces: strings(),
      sourceIps: blocks(),
      notSourceIps: blocks(),
      destinationIps: blocks(),
      notDestinationIps: blocks(),
      destinationPorts: ports(),
      notDestinationPorts: ports(),
    }
    if (isPlain) return plain
    return {
      ...plain,
      hosts: strings(),
      notHosts: strings(),
      methods: strings(),
      notMethods: strings(),
      paths: strings(),
      notPaths: strings(),
      headers: random.list(2, () => ({ name: this.headerName(), values: strings(), notValues: strings() })),
    }
  }

  private cluster(): Cluster {
    const { random } = this
    const service = serviceKey(this.name(), this.hostname())
    const subset = random.pick(['', 'v1'])
    const port = this.port()
    const limit = () => random.orNull(() => this.number())
    return {
      key: clusterKey(service, subset, port),
      service,
      subset,
      port,
      members: random.orNull(() => random.list(3, () => `Kubernetes//Pod/a/${this.name()}`)),
      balance: random.pick<Balance>([0, 1, 2]),
      limits: {
        connectionsMax: limit(),
        connectTimeoutMs: this.number(),
        pendingRequestsMax: limit(),
        requestsMax: limit(),
        requestsPerConnectionMax: limit(),
        retriesMax: limit(),
        idleTimeoutMs: this.number(),
        connectionAgeMsMax: limit(),
      },
      outlier: random.orNull(
        (): OutlierDetection => ({
          consecutive5xx: this.number(),
          consecutiveGatewayErrors: this.number(),
          intervalMs: this.number(),
          baseEjectionMs: this.number(),
          ejectionPercentMax: random.integer(0, 100),
          healthPercentMin: random.integer(0, 100),
        }),
      ),
      isMutualTls: random.boolean(),
    }
  }

  private route(): Route {
    const { random } = this
    return {
      source: this.text(),
      name: this.text(),
      matches: random.list(2, () => this.routeMatch()),
      clusters: random.list(3, () => this.weightedCluster()),
      redirect: random.orNull(
        (): Redirect => ({
          status: random.pick([301, 302, 307, 308]),
          path: this.optionalText(),
          prefixRewrite: this.optionalText(),
          authority: this.optionalText(),
          scheme: random.pick(['http', 'https', null]),
          port: random.orNull(() => this.port()),
          derivePort: random.pick(['protocol', 'request', null]),
        }),
      ),
      directResponse: random.orNull(() => ({ status: random.pick([200, 404, 599]), body: 'line one\nline two' })),
      rewrite: random.orNull(
        (): Rewrite => ({
          authority: this.optionalText(),
          path: this.optionalText(),
          regex: random.orNull(() => ({ pattern: '^/a/(.*)$', substitution: this.text() })),
        }),
      ),
      requestEdits: random.orNull(() => this.edits()),
      responseEdits: random.orNull(() => this.edits()),
      timeoutMs: this.number(),
      retry: {
        attempts: random.integer(0, 10),
        perTryTimeoutMs: random.orNull(() => this.number()),
        on: random.list(4, () => random.pick(RETRY_CONDITIONS)),
        statuses: random.list(3, () => random.integer(200, 599)),
        backoffBaseMs: this.number(),
        avoidsPreviousHosts: random.boolean(),
      },
      fault: random.orNull(
        (): Fault => ({
          delayMs: this.number(),
          delayPpm: random.integer(0, 1_000_000),
          abortStatus: random.pick([0, 200, 503]),
          abortGrpcStatus: random.pick([null, 0, 14]),
          abortPpm: random.pick([0, 1, 1_000_000]),
        }),
      ),
      mirrors: random.list(2, () => ({ cluster: this.text() || 'c', ppm: random.integer(0, 1_000_000) })),
    }
  }

  private routeMatch(): RouteMatch {
    const { random } = this
    const match = () => random.orNull(() => this.stringMatch(true))
    return {
      path: random.orNull(() => ({
        kind: random.pick(['exact', 'prefix', 'regex', 'pathSegments']),
        value: this.text(),
        ignoreCase: random.boolean(),
      })),
      method: match(),
      scheme: match(),
      authority: match(),
      headers: random.list(2, () => this.namedMatch(this.headerName())),
      query: random.list(2, () => this.namedMatch(this.name())),
    }
  }

  private namedMatch(name: string): NamedMatch {
    return { name, match: this.stringMatch(true), isNegated: this.random.boolean() }
  }

  private weightedCluster(): WeightedCluster {
    const { random } = this
    return {
      cluster: clusterKey(serviceKey(this.name(), this.hostname()), '', this.port()),
      weight: random.integer(0, 100),
      requestEdits: random.orNull(() => this.edits()),
      responseEdits: random.orNull(() => this.edits()),
      authority: this.optionalText(),
    }
  }

  private edits(): HeaderEdits {
    const { random } = this
    const pair = (): HeaderPair => ({ name: this.headerName(), value: this.text() })
    return { set: random.list(2, pair), add: random.list(2, pair), remove: random.list(2, () => this.headerName()) }
  }

  private stringMatch(hasRegex: boolean): StringMatch {
    const { random } = this
    const kinds: StringMatch['kind'][] = ['exact', 'prefix', 'suffix', 'present']
    if (hasRegex) kinds.push('regex')
    const kind = random.pick(kinds)
    return kind === 'present' ? { kind } : { kind, value: this.text() }
  }

  private mappings() {
    return this.random.list(3, () => ({ servicePort: this.port(), targetPort: this.port() }))
  }

  private protocol(): Protocol {
    return this.random.integer(0, 6) as Protocol
  }

  private port(): number {
    return this.random.pick([1, 80, 8080, 65_535])
  }

  private number(): number {
    return this.random.pick([0, 1, 1000, 4_294_967_295])
  }

  private address(): string {
    return formatAddress(this.addressBytes())
  }

  private addressBytes(): Uint8Array {
    const { random } = this
    const bytes = Uint8Array.from({ length: random.pick([4, 16]) }, () => random.pick([0, 1, 10, 255]))
    // Not an IPv4-mapped address: the model never has one.
    if (bytes.length === 16) bytes[0] = 0xfd
    return bytes
  }

  /** Canonical: no bits beyond the length. */
  private cidr(): string {
    const bytes = this.addressBytes()
    const length = this.random.integer(0, bytes.length)
    return `${formatAddress(bytes.map((byte, i) => (i < length ? byte : 0)))}/${length * 8}`
  }

  private hostname(): string {
    return `${this.name()}.shop.svc.cluster.local`
  }

  private headerName(): string {
    return this.random.pick(['x-user', ':authority', 'cookie', 'X-Mixed-Case'])
  }

  private name(): string {
    return `${this.random.pick(['web', 'reviews', 'ratings', 'a-b'])}-${this.random.integer(0, 999)}`
  }

  /** Free text, sometimes empty, sometimes beyond ASCII. */
  private text(): string {
    return this.random.pick(['', 'plain', 'with space', 'ünïcödé ☂', '/path?query=1', '"quoted"', '__proto__'])
  }

  private optionalText(): string | null {
    return this.random.orNull(() => this.text())
  }
}
