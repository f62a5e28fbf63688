/**
 * Those who wait for a connection of a pool: first come, first served, and leaving early costs the same whoever leaves.
 *
 * A doubly linked list with an index by waiter. Places are made only when somebody has to wait, so that an exchange that
 * gets its connection at once pays nothing for the queue, not even a field.
 */
import type { PoolWaiter } from './http-pool.ts'

/** One who waits. */
class Place {
  readonly waiter: PoolWaiter
  readonly sinceMs: number
  previous: Place | null = null
  next: Place | null = null

  constructor(waiter: PoolWaiter, sinceMs: number) {
    this.waiter = waiter
    this.sinceMs = sinceMs
  }
}

/** See the head of the file. A waiter has at most one place in it. */
export class PoolQueue {
  private readonly places = new Map<PoolWaiter, Place>()
  private first: Place | null = null
  private last: Place | null = null

  get length(): number {
    return this.places.size
  }

  /** Since when the first one waits; only while there is one. */
  get oldestMs(): number {
    return this.first!.sinceMs
  }

  push(waiter: PoolWaiter, nowMs: number): void {
    const place = new Place(waiter, nowMs)
    this.places.set(waiter, place)
    place.previous = this.last
    if (this.last === null) this.first = place
    else this.last.next = place
    this.last = place
  }

  /** The one who has waited longest, who leaves the queue; null when there is none. */
  shift(): PoolWaiter | null {
    const place = this.first
    if (place === null) return null
    this.unlink(place)
    return place.waiter
  }

  /** False when `waiter` does not wait. */
  remove(waiter: PoolWaiter): boolean {
    const place = this.places.get(waiter)
    if (place === undefined) return false
    this.unlink(place)
    return true
  }

  private unlink(place: Place): void {
    this.places.delete(place.waiter)
    if (place.previous === null) this.first = place.next
    else place.previous.next = place.next
    if (place.next === null) this.last = place.previous
    else place.next.previous = place.previous
  }
}
