/** The ratings service of the book shop: stars by reviewer. */
import { pathPieces, sendJson, serve } from './pod.ts'

serve(9080, (request, response) => {
  const [resource, id] = pathPieces(request)
  if (resource === 'health') return sendJson(response, 200, { status: 'ratings is healthy' })
  if (resource !== 'ratings' || id === undefined || !/^[0-9]+$/.test(id)) {
    return sendJson(response, 404, { error: 'try /ratings/0' })
  }
  sendJson(response, 200, { id: Number(id), ratings: { Reviewer1: 5, Reviewer2: 4 } })
})
