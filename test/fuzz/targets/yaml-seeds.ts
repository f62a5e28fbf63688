/** Rules for the shop of the compiler's tests that between them use nearly every field: what the target `yaml` damages. */
export const YAML_SEEDS: readonly string[] = [
  `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: cart, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z }
spec:
  hosts: [cart, cart.shop.svc.cluster.local]
  gateways: [mesh]
  exportTo: ["."]
  http:
    - name: first
      match:
        - name: m
          uri: { regex: "/api/v[0-9]+/.*" }
          scheme: { exact: http }
          method: { exact: GET }
          authority: { prefix: cart }
          headers: { x-user: { exact: jason }, ":method": { prefix: P }, x-any: {} }
          withoutHeaders: { x-no: { regex: "a+" } }
          queryParams: { q: { exact: "1" } }
          port: 80
          sourceLabels: { app: web }
          sourceNamespace: shop
          ignoreUriCase: true
        - uri: { prefix: /x }
      route:
        - destination: { host: cart, subset: v1, port: { number: 80 } }
          weight: 80
          headers: { request: { set: { a: b }, add: { c: d }, remove: [e] }, response: { add: { f: g } } }
        - { destination: { host: cart, subset: v2 }, weight: 20 }
      rewrite: { uri: /y, authority: other }
      timeout: 1.5s
      retries: { attempts: 3, perTryTimeout: 200ms, retryOn: "5xx,reset,connect-failure,503", backoff: 25ms, retryIgnorePreviousHosts: true }
      fault:
        delay: { fixedDelay: 1s, percentage: { value: 12.5 } }
        abort: { httpStatus: 503, percentage: { value: 0.1 } }
      mirror: { host: cart, subset: v2 }
      mirrorPercentage: { value: 10 }
      headers: { request: { set: { x-a: b } } }
    - match: [{ uri: { exact: /old } }]
      redirect: { uri: /new, authority: else.where, scheme: https, redirectCode: 308, port: 8443 }
    - match: [{ uri: { prefix: /pre } }]
      redirect: { prefixRewrite: /new, derivePort: FROM_REQUEST_PORT }
    - match: [{ uri: { prefix: /direct } }]
      directResponse: { status: 418, body: { string: teapot } }
    - rewrite: { uriRegexRewrite: { match: "^/(.*?)one(.*)", rewrite: '/\\1two\\2' } }
      mirrors: [{ destination: { host: web }, percentage: { value: 5 } }]
      route: [{ destination: { host: cart } }]
  tcp:
    - match: [{ destinationSubnets: [10.0.0.0/8], port: 9000, sourceLabels: { app: web }, sourceNamespace: shop }]
      route:
        - { destination: { host: cart, port: { number: 9000 } }, weight: 1 }
        - { destination: { host: web }, weight: 3 }
  tls: [{ match: [{ sniHosts: [a.b] }] }]
`,
  `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: cart, namespace: shop }
spec:
  host: cart
  exportTo: ["*"]
  trafficPolicy:
    loadBalancer: { simple: ROUND_ROBIN, consistentHash: { httpHeaderName: x }, warmup: {} }
    connectionPool:
      tcp: { maxConnections: 10, connectTimeout: 1s, idleTimeout: 0s, tcpKeepalive: {} }
      http: { http1MaxPendingRequests: 5, http2MaxRequests: 6, maxRequestsPerConnection: 7, maxRetries: 8, idleTimeout: 1h, h2UpgradePolicy: UPGRADE }
    outlierDetection: { consecutive5xxErrors: 3, consecutiveGatewayErrors: 2, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: 50, minHealthPercent: 10 }
    tls: { mode: ISTIO_MUTUAL }
    portLevelSettings:
      - { port: { number: 80 }, loadBalancer: { simple: RANDOM }, tls: { mode: DISABLE } }
      - { port: { number: 9000 }, connectionPool: { tcp: { maxConnections: 1 } } }
    tunnel: {}
  subsets:
    - { name: v1, labels: { version: v1 } }
    - { name: v2, labels: { version: v2 }, trafficPolicy: { loadBalancer: { simple: LEAST_CONN }, tls: { mode: SIMPLE, sni: a } } }
    - { name: none, labels: { version: v9 } }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: wild, namespace: shop }
spec: { host: "*.shop.svc.cluster.local", workloadSelector: { matchLabels: { app: web } }, trafficPolicy: { loadBalancer: { simple: PASSTHROUGH } } }
`,
  `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: allow, namespace: shop, annotations: { istio.io/dry-run: "true" } }
spec:
  selector: { matchLabels: { app: cart } }
  action: ALLOW
  rules:
    - from:
        - source: { principals: [cluster.local/ns/shop/sa/web, "*/sa/web"], notPrincipals: ["*"], namespaces: [shop, "sh*"], ipBlocks: [10.0.0.0/8], remoteIpBlocks: [::/0] }
        - source: { notNamespaces: [other] }
        - source: { serviceAccounts: [web, shop/web], trustDomains: [cluster.local], notIpBlocks: [10.1.1.1] }
        - source: { requestPrincipals: ["*"] }
      to:
        - operation: { hosts: [cart, "*.shop"], notHosts: [x], ports: ["80", "9000"], notPorts: ["81"], methods: [GET, "P*"], notMethods: [PUT], paths: [/a, "/b*", "*/c", "/users/{*}/x/{**}"], notPaths: [/d] }
      when:
        - { key: source.namespace, values: [shop], notValues: [x] }
        - { key: "request.headers[x-a]", values: ["*"] }
        - { key: destination.port, values: ["80"] }
        - { key: source.ip, notValues: [10.0.0.0/8] }
        - { key: remote.ip, values: [1.2.3.4] }
        - { key: source.principal, values: ["*"] }
        - { key: connection.sni, values: [a] }
        - { key: "request.auth.claims[iss]", values: [b] }
        - { key: source.serviceAccount, values: [shop/web] }
        - { key: destination.ip, values: [10.0.0.1] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny, namespace: istio-system }
spec: { action: DENY, rules: [{ to: [{ operation: { methods: [DELETE] } }] }, { from: [{ source: { notServiceAccounts: [web] } }] }] }
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: { name: audit, namespace: shop }
spec: { action: AUDIT, targetRefs: [{ kind: Service, name: cart }], rules: [{}] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: nothing, namespace: shop }
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: custom, namespace: shop }
spec: { action: CUSTOM, provider: { name: ext }, rules: [{}] }
`,
  `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: UNSET } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: cart, namespace: shop }
spec: { selector: { matchLabels: { app: cart } }, mtls: { mode: PERMISSIVE }, portLevelMtls: { 8080: { mode: STRICT }, 9000: { mode: DISABLE } } }
`,
  `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: api, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z" }
spec:
  hosts: [api.example.com, api2.example.com]
  exportTo: [., other]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{ number: 443, name: https, protocol: TLS }, { number: 80, name: web, protocol: HTTP, targetPort: 8080 }]
  endpoints:
    - { address: 198.18.200.1, ports: { web: 9090 }, labels: { version: v1 }, locality: eu/a, weight: 3 }
    - { address: "fd00::200:1" }
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: { name: db, namespace: other }
spec:
  hosts: [db.example.com, api.example.com, web.shop.svc.cluster.local, "*.db.example.com"]
  addresses: [198.19.200.1, "fd00::c8:1"]
  resolution: STATIC
  ports: [{ number: 5432, name: tcp, protocol: TCP }]
  endpoints: [{ address: 198.18.200.1 }]
`,
  `apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Namespace
    metadata: { name: extra, labels: { weft.dev/mesh: enabled } }
  - apiVersion: v1
    kind: Node
    metadata: { name: node7, labels: { topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z } }
  - apiVersion: v1
    kind: Pod
    metadata:
      name: extra-1
      namespace: extra
      labels: { app: extra, service.istio.io/canonical-name: e, pod-template-hash: abc }
      annotations: { weft.dev/netns: /var/run/netns/x }
      ownerReferences: [{ kind: ReplicaSet, name: extra-abc, controller: true }]
    spec: { nodeName: node7, serviceAccountName: extra, containers: [{ name: c, ports: [{ name: web, containerPort: 8080 }] }] }
    status: { podIP: 10.9.0.1, podIPs: [{ ip: 10.9.0.1 }, { ip: "fd00::9" }], phase: Running, conditions: [{ type: Ready, status: "True" }] }
  - apiVersion: v1
    kind: Pod
    metadata: { name: host-1, namespace: extra, labels: { weft.dev/mesh: disabled } }
    spec: { nodeName: node7, hostNetwork: true }
    status: { podIP: 10.9.0.2, phase: Succeeded }
  - apiVersion: v1
    kind: Service
    metadata: { name: extra, namespace: extra }
    spec:
      clusterIP: 10.10.0.1
      clusterIPs: [10.10.0.1, "fd00::10"]
      selector: { app: extra }
      publishNotReadyAddresses: true
      ports: [{ name: http-web, port: 80, targetPort: web }, { port: 443, appProtocol: https }, { name: grpc, port: 50051, protocol: TCP }, { name: dns, port: 53, protocol: UDP }]
  - apiVersion: v1
    kind: Service
    metadata: { name: headless, namespace: extra }
    spec: { clusterIP: None, ports: [{ name: tcp-db, port: 5432 }] }
  - apiVersion: v1
    kind: Service
    metadata: { name: outside, namespace: extra }
    spec: { type: ExternalName, externalName: example.com }
  - apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: { name: headless-1, namespace: extra, labels: { kubernetes.io/service-name: headless } }
    addressType: IPv4
    ports: [{ name: tcp-db, port: 5433 }]
    endpoints:
      - { addresses: [10.9.0.1], conditions: { ready: true }, nodeName: node7, targetRef: { kind: Pod, name: extra-1, namespace: extra } }
      - { addresses: [10.9.0.7], conditions: { ready: false, serving: true, terminating: true } }
---
apiVersion: v1
kind: ServiceList
items: [{ metadata: { name: typed, namespace: extra }, spec: { clusterIP: 10.10.0.9, ports: [{ port: 1 }] } }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
---
base: &base { apiVersion: v1, kind: ConfigMap }
<<: *base
metadata: { name: c }
`,
  `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: twice, namespace: shop }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: twice, namespace: shop }
spec: { mtls: { mode: PERMISSIVE } }
`,
]
