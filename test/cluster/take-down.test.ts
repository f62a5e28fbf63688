/** However a cluster ends, nothing of it is left on the machine. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { askSupervisor, type Cluster, startControlPlane, takeDown } from './support/cluster.ts'
import { needsControlPlane } from './support/requirements.ts'
import { Traces } from './support/traces.ts'

const MAIN = join(import.meta.dirname, 'main.ts')
const SUPPORT = join(import.meta.dirname, 'support/cluster.ts')

describe('a cluster that ends', needsControlPlane(), () => {
  const clusters: Cluster[] = []
  const start = async (): Promise<Cluster> => {
    const cluster = await startControlPlane()
    clusters.push(cluster)
    return cluster
  }
  after(async () => {
    for (const { name } of clusters) await takeDown(name)
  })

  test('leaves nothing when it is stopped, and another by another name goes on', async () => {
    const [cluster, other] = await Promise.all([start(), start()])
    const traces = Traces.of(cluster)
    assert.notDeepEqual(traces.left(), [])
    await cluster.stop()
    assert.deepEqual(await traces.leftForGood(), [])
    assert.match(await other.kubectl(['get', '--raw', '/readyz']), /ok/)
    await other.stop()
  })

  test('leaves nothing when its supervisor is killed and `down` comes', async () => {
    const cluster = await start()
    const traces = Traces.of(cluster)
    process.kill(cluster.state.supervisorPid, 'SIGKILL')
    while (existsSync(`/proc/${cluster.state.machines[0]!.pid}`)) await delay(20)
    assert.equal(await takeDown(cluster.name), true)
    assert.deepEqual(await traces.leftForGood(), [])
    assert.equal(await takeDown(cluster.name), false)
  })

  test('leaves nothing when the test that started it is killed', async () => {
    const code = `import { startControlPlane } from '${SUPPORT}'
      const cluster = await startControlPlane()
      console.log(cluster.name)
      setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
    after(() => child.kill('SIGKILL'))
    const [name] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
    const state = await askSupervisor(name, { verb: 'status' })
    assert.ok(state)
    const traces = Traces.of({ state } as Cluster)
    child.kill('SIGKILL')
    assert.deepEqual(await traces.leftForGood(), [])
  })

  test('leaves nothing when the command is interrupted while it starts', async () => {
    const name = `cut-${process.pid}`
    const child = spawn(process.execPath, [MAIN, 'up', '--level', 'control-plane', '--name', name], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    for await (const line of createInterface({ input: child.stderr })) if (line.includes('starting')) break
    child.kill('SIGINT')
    while (existsSync(`/tmp/weft-cluster/${name}`)) await delay(50)
    assert.equal(await takeDown(name), false)
  })

  test('lives on after `up`, is told of by `status`, and ends by `down`', async () => {
    const name = `up-${process.pid}`
    after(() => takeDown(name))
    const up = await runMain('up', '--level', 'control-plane', '--name', name)
    assert.match(up.stdout, new RegExp(`^export KUBECONFIG=/tmp/weft-cluster/${name}/admin.kubeconfig\n$`))
    const { stdout } = await runMain('status', '--name', name, '-o', 'json')
    const state = JSON.parse(stdout) as Cluster['state']
    assert.ok(state.components.every(({ pid }) => pid !== null))
    const traces = Traces.of({ state } as Cluster)
    assert.equal((await runMain('up', '--level', 'control-plane', '--name', name)).status, 1)
    assert.equal((await runMain('down', '--name', name)).status, 0)
    assert.deepEqual(await traces.leftForGood(), [])
    assert.equal((await runMain('status', '--name', name)).status, 1)
  })
})

async function runMain(...args: readonly string[]): Promise<{ status: number | null; stdout: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, stdout }
}
