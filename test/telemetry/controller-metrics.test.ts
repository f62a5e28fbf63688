import assert from 'node:assert/strict'
import test from 'node:test'
import { ControllerMetrics, type ControllerState } from '../../src/telemetry/controller-metrics.ts'

const NOW = Date.parse('2030-01-01T00:00:00Z')

const STATE: ControllerState = {
  connectedAgents: 3,
  generation: 7,
  services: 11,
  virtualServices: 2,
  workloads: 40,
  rejectedObjects: 1,
  unpublishedResources: 0,
  isLeading: true,
  rootNotAfterMs: NOW + 60_000,
  signerNotAfterMs: NOW + 30_000,
}

function metricsOf(state: () => ControllerState): ControllerMetrics {
  return new ControllerMetrics({ version: '1.2.3', now: () => NOW, state })
}

async function sampleOf(metrics: ControllerMetrics, name: string): Promise<string | null> {
  const line = (await metrics.render()).split('\n').find((one) => one.startsWith(`${name} `))
  return line === undefined ? null : line.slice(name.length + 1)
}

test('the families by which dashboards know a control plane', async () => {
  const metrics = metricsOf(() => STATE)
  metrics.pushed('wds', 20_000)
  metrics.pushed('wds', 1)
  metrics.rejected('policy')
  metrics.converged(250)
  metrics.changed('Pod', 'update')
  metrics.changed('EndpointSlice', 'update')
  metrics.changed('VirtualService', 'add')
  metrics.compiled(3)
  metrics.compiled(3)
  metrics.changed('Service', 'add')
  metrics.compiled(3)
  metrics.queued(30)
  metrics.certificateIssued('node')
  metrics.certificateIssued('workload')
  metrics.certificateRefused('authentication')
  metrics.certificateRefused('request')
  metrics.certificateRefused('denied')
  metrics.certificateRefused('failed')
  metrics.validated('networking.istio.io', 'v1', 'virtualservices', null)
  metrics.validated('networking.istio.io', 'v1', 'virtualservices', 'invalid')
  const expected: Readonly<Record<string, string>> = {
    'pilot_xds{version="1.2.3"}': '3',
    'pilot_xds_pushes{type="wds"}': '2',
    'pilot_xds_config_size_bytes_sum{type="wds"}': '20001',
    'pilot_total_xds_rejects{type="policy"}': '1',
    'pilot_proxy_convergence_time_bucket{le="0.25"}': '1',
    'pilot_proxy_convergence_time_bucket{le="0.1"}': '0',
    'pilot_proxy_queue_time_bucket{le="0.05"}': '1',
    'pilot_proxy_queue_time_bucket{le="0.025"}': '0',
    'pilot_push_triggers{type="endpoint"}': '1',
    'pilot_push_triggers{type="config"}': '2',
    'pilot_push_triggers{type="service"}': '1',
    pilot_services: '11',
    pilot_virt_services: '2',
    'pilot_k8s_cfg_events{type="Pod",event="update"}': '1',
    'istio_build{component="pilot",tag="1.2.3"}': '1',
    citadel_server_csr_count: '6',
    citadel_server_success_cert_issuance_count: '2',
    citadel_server_authentication_failure_count: '1',
    citadel_server_csr_parsing_err_count: '1',
    citadel_server_id_extraction_err_count: '1',
    citadel_server_csr_sign_err_count: '1',
    citadel_server_root_cert_expiry_timestamp: String((NOW + 60_000) / 1000),
    citadel_server_root_cert_expiry_seconds: '60',
    'galley_validation_passed{group="networking.istio.io",version="v1",resource="virtualservices"}': '1',
    'galley_validation_failed{group="networking.istio.io",version="v1",resource="virtualservices",reason="invalid"}':
      '1',
  }
  for (const [name, value] of Object.entries(expected)) assert.equal(await sampleOf(metrics, name), value, name)
})

test('our own beside them', async () => {
  const metrics = metricsOf(() => STATE)
  metrics.compiled(20)
  metrics.certificateIssued('workload')
  const expected: Readonly<Record<string, string>> = {
    weft_controller_generation: '7',
    weft_controller_workloads: '40',
    weft_controller_rejected_objects: '1',
    weft_controller_unpublished_resources: '0',
    weft_controller_leader: '1',
    weft_controller_signer_expiry_timestamp: String((NOW + 30_000) / 1000),
    'weft_controller_certificates_issued_total{kind="workload"}': '1',
    weft_controller_compile_seconds_count: '1',
  }
  for (const [name, value] of Object.entries(expected)) assert.equal(await sampleOf(metrics, name), value, name)
})

test('what is not known is not shown: no leader outside of a cluster, no root before there is one', async () => {
  let state: ControllerState = STATE
  const metrics = metricsOf(() => state)
  await metrics.render()
  state = { ...STATE, isLeading: null, rootNotAfterMs: null, signerNotAfterMs: null }
  for (const name of [
    'weft_controller_leader',
    'citadel_server_root_cert_expiry_timestamp',
    'weft_controller_signer_expiry_timestamp',
  ]) {
    assert.equal(await sampleOf(metrics, name), null, name)
  }
})
