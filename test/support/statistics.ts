/** True when `count` of `trials` is within three standard deviations of probability `share`. */
export function isWithinThreeSigma(count: number, trials: number, share: number): boolean {
  return Math.abs(count - trials * share) <= 3 * Math.sqrt(trials * share * (1 - share))
}
