// Connects studio.js to the server of `aurl studio`. Actions are POST requests; messages come as one long response, in
// which each message is a line of JSON, followed by `bytes` bytes of a file. The token of the address goes into a header.

import {render} from './studio.js'

const token = new URLSearchParams(location.search).get('token')
const headers = {'X-Aurl-Token': token}
const listeners = new Set()

const model = {
  send(message, callbacks, buffers = []) {
    const body = new Blob([JSON.stringify(message), '\n', ...buffers])
    return fetch('do', {method: 'POST', headers, body}).catch(() => lost())
  },
  on(event, f) { listeners.add(f) },
  off(event, f) { listeners.delete(f) },
}

function lost() {
  const text = 'The connection to aurl is lost. Start aurl studio again, and open the address that it prints.'
  for (const f of listeners) f({type: 'error', text}, [])
}

/** Bytes of a response: `line()` and `bytes(n)`, each a promise. */
class Reader {
  constructor(body) { Object.assign(this, {stream: body.getReader(), rest: new Uint8Array(0)}) }
  async more() {
    const {done, value} = await this.stream.read()
    if (done) throw new Error('closed')
    const joined = new Uint8Array(this.rest.length + value.length)
    joined.set(this.rest)
    joined.set(value, this.rest.length)
    this.rest = joined
  }
  async bytes(n) {
    while (this.rest.length < n) await this.more()
    const part = this.rest.slice(0, n)
    this.rest = this.rest.slice(n)
    return part
  }
  async line() {
    let end
    while ((end = this.rest.indexOf(10)) < 0) await this.more()
    return new TextDecoder().decode(await this.bytes(end + 1))
  }
}

async function receive() {
  const response = await fetch('messages', {headers})
  if (!response.ok) throw new Error(response.statusText)
  const reader = new Reader(response.body)
  await reader.line()                                    // the first line is empty: the server has added this page
  render({model, el: document.querySelector('#studio')})
  while (true) {
    const {bytes, ...message} = JSON.parse(await reader.line())
    const buffers = bytes ? [await reader.bytes(bytes)] : []
    for (const f of listeners) f(message, buffers)
  }
}

receive().catch(lost)
