// The dashboard of one or several runs: one ES module, used by the page of `aurl watch` and as an anywidget in a notebook.
// Charts are drawn by plotly, which the page or the notebook has loaded. Text of a file becomes text of the page: `h`
// appends strings as text nodes, and no code here parses HTML.

const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8a6d00', '#7f7f7f']   // Okabe and Ito
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot']
const STROKES = ['', '6 3', '2 2', '6 2 2 2', '10 3', '10 2 2 2']
const SYMBOLS = ['circle', 'square', 'diamond', 'triangle-up', 'x', 'cross', 'star', 'triangle-down']
const MARKS = ['●', '■', '◆', '▲', '✕', '✚', '★', '▼']
const ENDED = new Set(['finished', 'stopped', 'failed', 'interrupted', 'lost', 'unknown', 'damaged'])

/** An element with properties and children; strings become text. */
function h(tag, props = {}, ...children) {
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v)
    else if (v !== null && v !== undefined && v !== false) e.setAttribute(k, v === true ? '' : v)
  }
  e.append(...children.filter(c => c !== null && c !== undefined))
  return e
}

// ---------------------------------------------------------------- numbers as text

const plain = v => v === null || v === undefined ? '–' : Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2)
  : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString('en') : String(Number(v.toPrecision(4)))
const whole = v => v === null || v === undefined ? '–' : Math.round(v).toLocaleString('en')
const gigabytes = v => v === null || v === undefined ? '–' : (v/1e9).toFixed(2) + ' GB'

function clock(seconds) {
  if (seconds === null || seconds === undefined) return '–'
  const s = Math.round(seconds), two = v => String(v).padStart(2, '0')
  return s < 3600 ? `${Math.floor(s/60)}:${two(s % 60)}` : `${Math.floor(s/3600)}:${two(Math.floor(s/60) % 60)}:${two(s % 60)}`
}

const COLUMNS = [
  ['state', r => r.state], ['progress', null], ['left', r => clock(r.left)], ['step', r => whole(r.step)],
  ['loss', r => plain(r.train_loss)], ['best held out', r => r.best === null ? '–' : `${plain(r.best)} (${whole(r.best_step)})`],
  ['lr', r => plain(r.lr)], ['gradient', r => plain(r.grad_norm)], ['ids/s', r => whole(r.tokens_per_second)],
  ['memory', r => gigabytes(r.memory)], ['grammar', r => plain(r.grammar)],
]

/** A sample of the line of a run or a metric. */
function key(color, stroke, mark) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  const make = (tag, props, text) => {
    const e = document.createElementNS('http://www.w3.org/2000/svg', tag)
    for (const [k, v] of Object.entries(props)) e.setAttribute(k, v)
    if (text) e.textContent = text
    svg.append(e)
  }
  svg.setAttribute('class', 'key')
  svg.setAttribute('viewBox', '0 0 44 14')
  svg.setAttribute('aria-hidden', 'true')
  make('line', {x1: 0, x2: 44, y1: 7, y2: 7, stroke: color, 'stroke-width': 2.5, 'stroke-dasharray': stroke})
  if (mark) make('text', {x: 22, y: 11.5, 'text-anchor': 'middle', 'font-size': 12, fill: color}, mark)
  return svg
}

/** Keep the children of an element, and the focus, unless `signature` has changed. */
function fill(element, signature, make) {
  if (element.dataset.signature === signature) return
  element.dataset.signature = signature
  element.replaceChildren(...make())
}

// ---------------------------------------------------------------- a chart

class Chart {
  constructor(dashboard, panel) {
    Object.assign(this, {dashboard, panel, log: panel.log, range: null, cursor: null, details: new Map()})
    this.legend = h('div', {class: 'legend'})
    this.read = h('p', {class: 'read', role: 'status'})
    this.logButton = h('button', {class: 'small', 'aria-pressed': String(this.log), onclick: () => this.toggleLog()}, 'log')
    this.logButton.setAttribute('aria-label', `${panel.title}: logarithmic axis`)
    this.plot = h('div', {class: 'chart', tabindex: 0, role: 'application', onkeydown: e => this.press(e)})
    const title = h('h2', {}, panel.title, ' ', h('span', {class: 'unit'}, panel.unit))
    this.element = h('section', {class: 'panel', 'aria-label': panel.title},
      h('div', {class: 'head'}, title, this.logButton), this.legend, this.plot, this.read)
  }

  /** The curves of visible runs, with the detail of the zoomed range if it is there. */
  curves() {
    const all = [...this.dashboard.curves.get(this.panel.title)?.values() ?? []]
    return all.filter(c => !this.dashboard.hidden.has(this.dashboard.runs[c.run]?.name))
      .map(c => ({...c, ...this.details.get(`${c.run} ${c.name}`)}))
  }

  color(c) { return COLORS[(this.dashboard.runs.length > 1 ? c.run : this.panel.names.indexOf(c.name)) % COLORS.length] }
  dash(c) { return this.panel.names.indexOf(c.name) % DASHES.length }
  x(c) { return this.dashboard.by === 'step' ? c.step : c.time.map(t => t === null ? null : t/this.dashboard.timeUnit()[0]) }

  trace(c) {
    const run = this.dashboard.runs[c.run], many = this.dashboard.runs.length > 1, color = this.color(c)
    const few = c.y.length <= 3
    return {
      x: this.x(c), y: c.y, type: 'scatter', mode: many || few ? 'lines+markers' : 'lines', connectgaps: false,
      name: many ? `${run.name}: ${c.name}` : c.name, line: {color, width: 1.6, dash: DASHES[this.dash(c)]},
      marker: {color, symbol: SYMBOLS[c.run % SYMBOLS.length], size: 7, maxdisplayed: few ? 0 : 10},
      hovertemplate: '%{y:.5g} at %{x}<extra>%{fullData.name}</extra>',
    }
  }

  /** Vertical lines at the alerts of visible runs, and at the cursor. */
  shapes() {
    const line = (x, color, dash) => ({type: 'line', x0: x, x1: x, yref: 'paper', y0: 0, y1: 1, layer: 'below', line: {color, dash, width: 1.2}})
    const [unit] = this.dashboard.timeUnit(), by = this.dashboard.by
    const alerts = this.dashboard.runs.filter(r => !this.dashboard.hidden.has(r.name))
      .flatMap(r => r.alerts.filter(a => a.severity !== 'info').slice(-20)).map(a => by === 'step' ? a.step : a.time/unit)
    return [...alerts.map(x => line(x, '#a33c00', 'dot')), ...this.cursor === null ? [] : [line(this.cursor, '#7f7f7f', 'solid')]]
  }

  layout() {
    const style = getComputedStyle(this.plot), ink = style.color, grid = 'rgba(128,136,144,.25)'
    const axis = {gridcolor: grid, zeroline: false, automargin: true}
    return {
      margin: {l: 44, r: 8, t: 6, b: 34}, showlegend: false, hovermode: 'closest', dragmode: 'zoom', shapes: this.shapes(),
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: ink, size: 11, family: style.fontFamily},
      xaxis: {...axis, title: {text: this.dashboard.by === 'step' ? 'step' : this.dashboard.timeUnit()[1], standoff: 4},
        ...this.range ? {range: this.range, autorange: false} : {autorange: true}},
      yaxis: {...axis, ...this.yAxis()},
    }
  }

  /** Kind and ticks of the y axis; a constant is drawn in the middle of a small range. */
  yAxis() {
    const ys = this.curves().flatMap(c => c.y).filter(y => y !== null && (!this.log || y > 0))
    const low = ys.reduce((a, b) => Math.min(a, b), Infinity), high = ys.reduce((a, b) => Math.max(a, b), -Infinity)
    const flat = low === high ? {range: [low - (Math.abs(low) || 1)/10, low + (Math.abs(low) || 1)/10], autorange: false} : {autorange: true}
    if (!this.log) return {type: 'linear', exponentformat: 'SI', nticks: 6, ...flat}
    return {type: 'log', autorange: true, exponentformat: 'SI', ...high/low > 10 ? {dtick: 'D2'} : {}}
  }

  draw() {
    const Plotly = globalThis.Plotly
    if (!Plotly || !this.element.isConnected) return
    const curves = this.curves(), new_ = !this.plot.data
    Plotly.react(this.plot, curves.map(c => this.trace(c)), this.layout(), {displayModeBar: false, responsive: true, doubleClick: 'reset'})
    if (new_) this.plot.on('plotly_relayout', e => this.zoomed(e))
    this.plot.dataset.points = curves.reduce((n, c) => n + c.y.length, 0)
    this.plot.setAttribute('aria-label', `Chart of ${this.panel.title}. ${this.words(curves)} Arrow keys move through the points.`)
    const names = this.panel.names
    fill(this.legend, JSON.stringify([names, this.dashboard.runs.length]), () => names.length < 2 ? [] : names.map(name =>
      h('span', {}, key(this.dashboard.runs.length > 1 ? '#7f7f7f' : this.color({run: 0, name}), STROKES[this.dash({name})]), name.replaceAll('_', ' '))))
  }

  words(curves) {
    return curves.map(c => `${this.dashboard.runs[c.run].name}, ${c.name}: ${plain(c.y.at(-1))}`).join('; ') + '.'
  }

  toggleLog() {
    this.log = !this.log
    this.logButton.setAttribute('aria-pressed', String(this.log))
    this.draw()
  }

  zoomed(e) {
    if (e['xaxis.autorange']) return this.zoom(null)
    if (e['xaxis.range[0]'] !== undefined) this.zoom([Number(e['xaxis.range[0]']), Number(e['xaxis.range[1]'])])
  }

  /** Show a range of the x axis; points that decimation has left out are fetched. */
  async zoom(range) {
    this.range = range
    this.details.clear()
    this.draw()
    await this.fetchDetails()
  }

  async fetchDetails() {
    const {detail} = this.dashboard.options, range = this.range
    if (!detail || !range) return
    const unit = this.dashboard.by === 'step' ? 1 : this.dashboard.timeUnit()[0]
    await Promise.all(this.curves().filter(c => c.of > c.y.length).map(async c => {
      const values = {run: c.run, name: c.name, low: range[0]*unit, high: range[1]*unit, by: this.dashboard.by, factor: this.panel.factor}
      const got = await detail(values).catch(() => null)
      if (got && this.range === range) this.details.set(`${c.run} ${c.name}`, got)
    }))
    if (this.range === range) this.draw()
  }

  // ---- keyboard

  press(e) {
    const moves = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity}
    const zooms = {'+': .5, '=': .5, '-': 2}
    if (e.ctrlKey || e.metaKey || e.altKey) return
    if (e.key in moves) this.moveCursor(e.shiftKey ? 10*moves[e.key] : moves[e.key])
    else if (e.key in zooms) this.zoomBy(zooms[e.key])
    else if (e.key === '0' || e.key === 'Escape') this.zoom(null)
    else if (e.key === 'l') this.toggleLog()
    else return
    e.preventDefault()
  }

  moveCursor(by) {
    const xs = [...new Set(this.curves().flatMap(c => this.x(c)).filter(x => x !== null))].sort((a, b) => a - b)
    if (!xs.length) return
    const inRange = this.range ? xs.filter(x => x >= this.range[0] && x <= this.range[1]) : xs
    const steps = inRange.length ? inRange : xs
    const found = steps.findIndex(x => x >= this.cursor), last = steps.length - 1
    const at = this.cursor === null ? (by < 0 ? last + 1 : -1) : found < 0 ? last : found
    this.cursor = steps[Math.max(0, Math.min(last, at + by))]
    globalThis.Plotly?.relayout(this.plot, {shapes: this.shapes()})
    this.read.textContent = this.values(this.cursor)
  }

  /** The values of all curves at a position, as text. */
  values(at) {
    const many = this.dashboard.runs.length > 1, unit = this.dashboard.by === 'step' ? 'step' : this.dashboard.timeUnit()[1]
    const near = c => {
      const xs = this.x(c)
      let best = 0
      for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - at) < Math.abs(xs[best] - at)) best = i
      return c.y[best]
    }
    return `${unit} ${plain(at)}: ` + this.curves().map(c =>
      `${many ? this.dashboard.runs[c.run].name + ' ' : ''}${c.name.replaceAll('_', ' ')} ${plain(near(c))}`).join(', ')
  }

  zoomBy(factor) {
    const axis = this.plot._fullLayout?.xaxis
    if (!axis) return
    const [low, high] = axis.range, middle = this.cursor ?? (low + high)/2, half = (high - low)*factor/2
    this.zoom([middle - half, middle + half])
  }
}

// ---------------------------------------------------------------- the page

export class Dashboard {
  constructor(root, options = {}) {
    Object.assign(this, {root, options, runs: [], curves: new Map(), charts: new Map(), hidden: new Set(), by: 'step', sample: null})
    root.classList.add('aurl-dash')
    this.status = h('p', {class: 'status', role: 'status'}, 'reading …')
    this.axis = h('select', {'aria-label': 'Horizontal axis', onchange: () => this.setAxis(this.axis.value)},
      h('option', {value: 'step'}, 'by step'), h('option', {value: 'time'}, 'by time'))
    this.head = h('thead', {}, h('tr', {}, h('th', {scope: 'col'}, 'run'), ...COLUMNS.map(([name]) => h('th', {scope: 'col'}, name))))
    this.body = h('tbody')
    this.grid = h('div', {class: 'charts'})
    this.alertTitle = h('summary')
    this.alertList = h('ul')
    this.alertBox = h('details', {hidden: true}, this.alertTitle, this.alertList)
    this.sampleList = h('div', {class: 'list'})
    this.frame = h('iframe', {hidden: true, sandbox: 'allow-scripts', title: 'Player of the sample'})
    this.sampleBox = h('details', {hidden: true, open: true}, h('summary', {}, 'Samples'), this.sampleList, this.frame)
    this.extraGrid = h('div', {class: 'charts'})
    this.extraBox = h('details', {hidden: true, ontoggle: () => this.draw()}, h('summary', {}, 'More metrics'), this.extraGrid)
    root.replaceChildren(
      h('header', {}, h('h1', {}, h('b', {}, 'aurl'), ' watch'), this.status, this.axis),
      h('table', {'aria-label': 'Runs'}, this.head, this.body), this.alertBox, this.grid, this.sampleBox, this.extraBox)
  }

  /** Number of lines of each run that this page has. */
  known() { return this.runs.map(r => r.lines).join() }
  isReading() { return this.runs.some(r => r.read < 1) }

  timeUnit() {
    const longest = Math.max(0, ...this.runs.map(r => r.seconds ?? 0))
    return longest > 7200 ? [3600, 'hours'] : longest > 300 ? [60, 'minutes'] : [1, 'seconds']
  }

  update(data) {
    this.runs = data.runs
    for (const p of data.panels) this.updatePanel(p)
    this.showRuns()
    this.showAlerts()
    this.showSamples()
    this.draw()
    const reading = this.runs.filter(r => r.read < 1).map(r => `reading ${r.name}: ${Math.floor(100*r.read)} %`)
    this.status.classList.remove('lost')
    this.status.textContent = reading.join(', ') || `updated ${new Date().toLocaleTimeString()}`
    this.root.dataset.updates = Number(this.root.dataset.updates ?? 0) + 1
  }

  updatePanel(p) {
    if (!this.curves.has(p.title)) this.curves.set(p.title, new Map())
    const curves = this.curves.get(p.title), changed = new Set(this.runs.flatMap((r, i) => r.changed ? [i] : []))
    for (const [k, c] of curves) if (changed.has(c.run)) curves.delete(k)
    for (const c of p.curves) curves.set(`${c.run} ${c.name}`, c)
    const {curves: _, ...panel} = p
    if (!this.charts.has(p.title)) {
      const chart = new Chart(this, panel)
      this.charts.set(p.title, chart);
      (p.extra ? this.extraGrid : this.grid).append(chart.element)
      this.extraBox.hidden = !this.extraGrid.childElementCount
    }
    const chart = this.charts.get(p.title)
    chart.panel = panel
    if (changed.size && chart.range) chart.fetchDetails()
  }

  draw() { for (const c of this.charts.values()) if (!c.panel.extra || this.extraBox.open) c.draw() }

  setAxis(by) {
    this.by = by
    for (const c of this.charts.values()) Object.assign(c, {range: null, cursor: null}).details.clear()
    this.draw()
  }

  toggleRun(name, shown) {
    if (shown) this.hidden.delete(name)
    else this.hidden.add(name)
    this.draw()
  }

  lost() {
    this.status.textContent = 'The connection to aurl is lost; trying again. The charts show what was received.'
    this.status.classList.add('lost')
  }

  // ---- the table

  showRuns() {
    fill(this.body, JSON.stringify(this.runs.map(r => r.name)), () => this.runs.map((r, i) => this.runRow(r, i)))
    this.runs.forEach((r, i) => this.fillRow(this.body.children[i], r))
  }

  runRow(r, i) {
    const box = h('input', {type: 'checkbox', checked: !this.hidden.has(r.name), 'aria-label': `Show ${r.name}`,
      onchange: e => this.toggleRun(r.name, e.target.checked)})
    const first = h('td', {}, h('label', {class: 'run'}, box, this.runs.length > 1 ? key(COLORS[i % 8], '', MARKS[i % 8]) : null, r.name))
    return h('tr', {}, first, ...COLUMNS.map(([name]) => h('td', {'data-label': name})))
  }

  fillRow(row, r) {
    COLUMNS.forEach(([name, text], i) => {
      const cell = row.children[i + 1]
      if (text) cell.textContent = text(r)
      else this.fillProgress(cell, r)
    })
    row.children[1].className = `state-${r.state}`
    row.title = r.error || r.message || ''
  }

  fillProgress(cell, r) {
    if (ENDED.has(r.state) || r.stage === null) return cell.replaceChildren(clock(r.seconds))
    const known = typeof r.fraction === 'number'
    cell.replaceChildren(h('progress', {max: 1, value: known ? r.fraction : null, 'aria-label': `${r.name}: ${r.stage}`}),
      ` ${r.stage}${known ? ' ' + Math.floor(100*r.fraction) + ' %' : ''}`)
  }

  // ---- alerts and samples

  showAlerts() {
    const alerts = this.runs.flatMap((r, i) => r.alerts.map(a => ({...a, run: r.name})))
    this.alertBox.hidden = !alerts.length
    fill(this.alertList, JSON.stringify(alerts), () => {
      const n = alerts.filter(a => a.severity !== 'info').length
      this.alertTitle.textContent = `Alerts: ${n}` + (alerts.length > n ? `, and ${alerts.length - n} notes` : '')
      return alerts.slice(-60).reverse().map(a => h('li', {class: a.severity},
        `${a.severity}: step ${whole(a.step)}${this.runs.length > 1 ? ', ' + a.run : ''}: ${a.text}`))
    })
  }

  showSamples() {
    const {canPlay = () => true} = this.options
    const samples = this.runs.flatMap((r, run) => r.samples.slice(0, this.runs.length > 1 ? 6 : 18).map(name => ({run, name, of: r.name})))
      .filter(s => canPlay(s.run, s.name))
    this.sampleBox.hidden = !samples.length
    fill(this.sampleList, JSON.stringify([samples, this.sample]), () => samples.map(s => h('button',
      {'aria-pressed': String(this.sample === `${s.run} ${s.name}`), onclick: () => this.play(s.run, s.name)},
      `▶ ${this.runs.length > 1 ? s.of + ': ' : ''}${s.name.replace(/^samples\//, '').replace(/\.mid$/, '').replaceAll('_', ' ')}`)))
  }

  play(run, name) {
    this.sample = `${run} ${name}`
    this.frame.hidden = false
    this.options.showSample(this.frame, run, name)
    const at = [...this.sampleList.children].indexOf(document.activeElement)
    this.showSamples()
    this.sampleList.children[at]?.focus()
  }
}

// ---------------------------------------------------------------- the widget of a notebook

/** Load plotly from the text that the kernel has sent, once for a page. */
function loadPlotly(text) {
  if (globalThis.Plotly || !text) return Promise.resolve(globalThis.Plotly)
  return new Promise(done => {
    const script = h('script', {src: URL.createObjectURL(new Blob([text], {type: 'text/javascript'})), onload: () => done(globalThis.Plotly)})
    document.head.append(script)
  })
}

export default {
  render({model, el}) {
    const root = h('div')
    el.append(root)
    const players = () => model.get('players')
    const dashboard = new Dashboard(root, {
      canPlay: (run, name) => `${run} ${name}` in players(),
      showSample(frame, run, name) { frame.srcdoc = players()[`${run} ${name}`] },
    })
    const show = () => { if (model.get('data').runs) dashboard.update(model.get('data')) }
    const begin = async () => {
      if (await loadPlotly(model.get('plotly'))) show()
      else model.send({do: 'plotly'})                     // sent again, as a page that was reloaded has lost it
    }
    model.on('change:data', show)
    model.on('change:players', show)
    model.on('change:plotly', begin)
    show()
    begin()
  },
}
