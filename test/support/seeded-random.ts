/** A seeded generator (mulberry32): the same numbers on every run, so that a failure can be repeated. */
export class SeededRandom {
  private state: number

  constructor(seed: number) {
    this.state = seed >>> 0
  }

  /** [0, 1). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }

  /** An integer from `min` to `max`, both included. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1))
  }

  boolean(): boolean {
    return this.next() < 0.5
  }

  pick<T>(values: readonly T[]): T {
    return values[this.integer(0, values.length - 1)]!
  }

  /** 0 to `max` values of `make`. */
  list<T>(max: number, make: () => T): T[] {
    return Array.from({ length: this.integer(0, max) }, make)
  }

  orNull<T>(make: () => T): T | null {
    return this.boolean() ? make() : null
  }
}
