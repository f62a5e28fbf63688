// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Texts of IPv4 addresses, made once each: the pods and services that one node talks to are few, their connections many.
 * A text that is the same object is also found faster in the maps of the mesh, since its hash is known.
 */

/** Addresses remembered; beyond it all are forgotten. 4096: forty for each pod of a node of a hundred, 300 KB. */
const TEXTS_MAX = 4_096

const texts = new Map<number, string>()

/** `198.18.0.1` for 0xc6120001 (as an int32, so perhaps negative). */
export function ipv4Text(address: number): string {
  let text = texts.get(address)
  if (text === undefined) {
    text = `${address >>> 24}.${(address >>> 16) & 0xff}.${(address >>> 8) & 0xff}.${address & 0xff}`
    if (texts.size === TEXTS_MAX) texts.clear()
    texts.set(address, text)
  }
  return text
}
