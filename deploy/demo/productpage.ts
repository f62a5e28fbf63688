/** The front page of the book shop: one HTML page from the details and the reviews of a book. */
import type { IncomingMessage } from 'node:http'
import { type Answer, call, headersToHandOn, pathPieces, sendJson, serve } from './pod.ts'

const PRODUCT = { id: 0, title: 'The Comedy of Errors', descriptionHtml: 'A play about two pairs of twins.' }

interface Reviews {
  readonly podname: string
  readonly reviews: readonly {
    readonly reviewer: string
    readonly text: string
    readonly rating?: { readonly stars?: number; readonly color?: string; readonly error?: string }
  }[]
}

serve(9080, async (request, response) => {
  const pieces = pathPieces(request)
  const path = pieces.join('/')
  if (path === 'health') return sendJson(response, 200, { status: 'productpage is healthy' })
  if (path === 'api/v1/products') return sendJson(response, 200, [PRODUCT])
  if (path === 'api/v1/products/0') return handOn(await ask('details', request))
  if (path === 'api/v1/products/0/reviews') return handOn(await ask('reviews', request))
  if (path === 'api/v1/products/0/ratings') return handOn(await ask('ratings', request))
  if (path !== '' && path !== 'productpage' && path !== 'index.html') {
    return sendJson(response, 404, { error: 'try /productpage' })
  }
  const [details, reviews] = await Promise.all([ask('details', request), ask('reviews', request)])
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
  response.end(page(details, reviews))

  function handOn(answer: Answer | null): void {
    if (answer === null) sendJson(response, 503, { error: 'the service does not answer' })
    else sendJson(response, answer.status, safeParse(answer.body))
  }
})

/** One question to another service; null when there is no answer. */
async function ask(service: 'details' | 'reviews' | 'ratings', request: IncomingMessage): Promise<Answer | null> {
  try {
    return await call({ host: service, port: 9080, path: `/${service}/0`, headers: headersToHandOn(request) })
  } catch {
    return null
  }
}

function page(details: Answer | null, reviews: Answer | null): string {
  return `<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Simple Bookstore App</title></head>
<body>
<h1>${PRODUCT.title}</h1>
<p>${PRODUCT.descriptionHtml}</p>
<h2>Book Details</h2>
${detailsHtml(details)}
<h2>Book Reviews</h2>
${reviewsHtml(reviews)}
</body>
</html>
`
}

function detailsHtml(answer: Answer | null): string {
  if (answer?.status !== 200) return '<p>Error fetching product details!</p>'
  const rows = Object.entries(safeParse(answer.body) as Record<string, unknown>)
  return `<dl>${rows.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(String(value))}</dd>`).join('')}</dl>`
}

function reviewsHtml(answer: Answer | null): string {
  if (answer?.status !== 200) return '<p>Error fetching product reviews!</p>'
  const { reviews, podname } = safeParse(answer.body) as Reviews
  const items = reviews.map(({ reviewer, text, rating }) => {
    const stars =
      rating?.stars === undefined ? escapeHtml(rating?.error ?? '') : starsHtml(rating.stars, rating.color ?? 'black')
    return `<blockquote>${escapeHtml(text)} <small>${escapeHtml(reviewer)}</small> ${stars}</blockquote>`
  })
  return `${items.join('\n')}\n<p>Reviews served by: ${escapeHtml(podname)}</p>`
}

function starsHtml(count: number, color: string): string {
  return `<span style="color:${escapeHtml(color)}">${'★'.repeat(count)}${'☆'.repeat(Math.max(0, 5 - count))}</span>`
}

function safeParse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return { error: 'the service did not answer with JSON' }
  }
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`)
}
