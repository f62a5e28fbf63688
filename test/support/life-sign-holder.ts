/**
 * A process that gives a sign of life in a slot (its argument) of the map that it has as descriptor 3, and says so. A line
 * at its standard input makes it withdraw the sign, which it says as well; when that ends it ends in order.
 */
import { createInterface } from 'node:readline'
import { loadAddon } from '../../src/kernel/addon.ts'
import { giveLifeSign } from '../../src/kernel/life-sign.ts'

const MAP_FD = 3

const addon = loadAddon()
giveLifeSign(addon, MAP_FD, Number(process.argv[2]))
console.log('given')
const input = createInterface({ input: process.stdin })
input.on('line', () => {
  addon.withdrawLifeSign()
  console.log('withdrawn')
})
input.on('close', () => process.exit(0))
