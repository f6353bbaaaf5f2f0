// Connects dashboard.js to the server of `aurl watch`. The token of the address goes into a header; the player of a sample
// is a page of its own in a sandboxed frame, whose address has the token.

import {Dashboard} from './dashboard.js'

const token = new URLSearchParams(location.search).get('token')
const get = async (path, values) => {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`, {headers: {'X-Aurl-Token': token}})
  if (!answer.ok) throw new Error(answer.statusText)
  return answer.json()
}
const dashboard = new Dashboard(document.querySelector('#dashboard'), {
  detail: values => get('curve', values),
  showSample(frame, run, name) { frame.src = `sample?${new URLSearchParams({run, name, token})}` },
})

let every = 2000
async function poll() {
  try {
    dashboard.update(await get('data', {known: dashboard.known()}))
    every = document.hidden ? 10000 : dashboard.isReading() ? 100 : 2000
  } catch (error) {
    dashboard.lost()
    every = Math.min(30000, 2*every)
  }
  setTimeout(poll, every)
}
poll()
