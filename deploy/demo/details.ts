/** The details service of the book shop: facts about one book. */
import { pathPieces, sendJson, serve } from './pod.ts'

serve(9080, (request, response) => {
  const [resource, id] = pathPieces(request)
  if (resource === 'health') return sendJson(response, 200, { status: 'details is healthy' })
  if (resource !== 'details' || id === undefined || !/^[0-9]+$/.test(id)) {
    return sendJson(response, 404, { error: 'try /details/0' })
  }
  sendJson(response, 200, {
    id: Number(id),
    author: 'William Shakespeare',
    year: 1595,
    type: 'paperback',
    pages: 200,
    publisher: 'PublisherA',
    language: 'English',
    'ISBN-10': '1234567890',
    'ISBN-13': '123-1234567890',
  })
})
