/**
 * The reviews service of the book shop, in three versions: v1 shows no stars, v2 shows black ones, v3 red ones. The
 * last two ask the ratings service.
 */
import { call, headersToHandOn, pathPieces, podName, sendJson, serve } from './pod.ts'

const version = process.env['VERSION'] ?? 'v1'
const starColor = version === 'v1' ? null : version === 'v2' ? 'black' : 'red'

interface Review {
  readonly reviewer: string
  readonly text: string
  readonly rating?: { readonly stars: number; readonly color: string } | { readonly error: string }
}

serve(9080, async (request, response) => {
  const [resource, id] = pathPieces(request)
  if (resource === 'health') return sendJson(response, 200, { status: 'reviews is healthy' })
  if (resource !== 'reviews' || id === undefined || !/^[0-9]+$/.test(id)) {
    return sendJson(response, 404, { error: 'try /reviews/0' })
  }
  const stars = starColor === null ? null : await ratingsOf(id, headersToHandOn(request))
  const reviews: Review[] = [
    review('Reviewer1', 'Mistaken identities and quarrels at the court of the fairies: great fun.', stars),
    review('Reviewer2', 'Funny enough, though the plot has too many lovers for one wood.', stars),
  ]
  sendJson(response, 200, { id, podname: podName, version, reviews })
})

function review(reviewer: string, text: string, stars: ReadonlyMap<string, number> | null): Review {
  if (starColor === null) return { reviewer, text }
  const count = stars?.get(reviewer)
  const rating =
    count === undefined ? { error: 'Ratings service is currently unavailable' } : { stars: count, color: starColor }
  return { reviewer, text, rating }
}

/** Stars by reviewer; null when the ratings service does not answer as it should. */
async function ratingsOf(id: string, headers: Record<string, string>): Promise<ReadonlyMap<string, number> | null> {
  try {
    const answer = await call({ host: 'ratings', port: 9080, path: `/ratings/${id}`, headers })
    if (answer.status !== 200) return null
    return new Map(Object.entries((JSON.parse(answer.body) as { ratings: Record<string, number> }).ratings))
  } catch {
    return null
  }
}
