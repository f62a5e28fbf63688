/** Authorisation of an exchange, by what the policies ask about. */
import { parseAddress } from '../../src/base/address.ts'
import { ACTION_ALLOW, ACTION_DENY, EMPTY_POLICY_MATCH, type Policy, type PolicyMatch } from '../../src/model/policy.ts'
import { Authorizer, type ConnectionFacts } from '../../src/proxy/authorize.ts'
import { requestHead } from '../../test/support/proxy-objects.ts'
import { measure } from './measure.ts'

const CALLS = 300_000

const facts: ConnectionFacts = {
  principal: 'cluster.local/ns/shop/sa/productpage',
  namespace: 'shop',
  sourceIp: parseAddress('198.18.1.7')!,
  destinationIp: parseAddress('198.18.2.9')!,
  destinationPort: 9080,
}

function policyOf(action: 0 | 1, match: Partial<PolicyMatch>): Policy {
  const clauses = [{ matches: [{ ...EMPTY_POLICY_MATCH, ...match }] }]
  return { key: 'shop/p', name: 'p', namespace: 'shop', scope: 2, action, isDryRun: false, rules: [{ clauses }] }
}

const principals = [{ kind: 'exact', value: 'cluster.local/ns/shop/sa/productpage' }] as const
const paths = [{ kind: 'prefix', value: '/reviews/' }] as const
const methods = [{ kind: 'exact', value: 'GET' }] as const
const admin = [{ kind: 'prefix', value: '/admin' }] as const
const plain = requestHead({ target: '/reviews/17?full=true' })
const encoded = requestHead({ target: '/reviews/a%20b/../17' })

const cases: readonly [string, readonly Policy[], typeof plain][] = [
  ['no policies', [], plain],
  ['ALLOW principal', [policyOf(ACTION_ALLOW, { principals })], plain],
  ['ALLOW principal, method, path', [policyOf(ACTION_ALLOW, { principals, methods, paths })], plain],
  ['the same, encoded path', [policyOf(ACTION_ALLOW, { principals, methods, paths })], encoded],
  [
    'ALLOW path beside 10 DENY paths',
    [policyOf(ACTION_ALLOW, { paths }), ...Array.from({ length: 10 }, () => policyOf(ACTION_DENY, { paths: admin }))],
    plain,
  ],
  ['ALLOW host', [policyOf(ACTION_ALLOW, { hosts: [{ kind: 'exact', value: 'reviews.shop:9080' }] })], plain],
]

for (const [name, policies, head] of cases) {
  const authorizer = Authorizer.compile(policies)
  measure(`authorize: ${name}`, CALLS, () => authorizer.authorizeExchange(facts, head).isAllowed)
}
