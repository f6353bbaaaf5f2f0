// The page of the aurl studio: one ES module without a build step. `render` is the entry of anywidget; local.js calls it
// in a browser. The page keeps no music: it sends actions ({do: 'generate', …}) through `model`, and draws the messages
// that the session of aurl.studio.session sends back. Text of files reaches the page as textContent only.

const SVG_NS = 'http://www.w3.org/2000/svg'

// ---------------------------------------------------------------- elements

/** Create an element: h('button', {class: 'x', onclick: f}, 'text', child, …). */
function h(tag, attributes = {}, ...children) {
  const e = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value)
    else if (name in e && typeof value === 'boolean') e[name] = value
    else e.setAttribute(name, value)
  }
  e.append(...children.filter(c => c !== null && c !== undefined))
  return e
}

const ICONS = {
  undo: 'M6.5 2 2 6l4.5 4V7.2c3.6 0 5.6 1 6.5 4.3 0-4.6-2.2-6.9-6.5-6.9z',
  redo: 'M9.5 2 14 6l-4.5 4V7.2c-3.6 0-5.6 1-6.5 4.3 0-4.6 2.2-6.9 6.5-6.9z',
  star: 'M8 1.5l2 4.3 4.6.5-3.4 3.2.9 4.7L8 11.9l-4.1 2.3.9-4.7L1.4 6.3 6 5.8z',
  cross: 'M3.5 2.3 8 6.8l4.5-4.5 1.2 1.2L9.2 8l4.5 4.5-1.2 1.2L8 9.2l-4.5 4.5-1.2-1.2L6.8 8 2.3 3.5z',
}

function icon(name) {
  const svg = document.createElementNS(SVG_NS, 'svg')
  svg.setAttribute('viewBox', '0 0 16 16')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS(SVG_NS, 'path')
  path.setAttribute('d', ICONS[name])
  svg.append(path)
  return svg
}

const clock = s => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, '0')}`

// ---------------------------------------------------------------- settings

let uid = 0

/** Inputs by the kind of a control: each returns its element, and calls `set` with the value for the session. */
const INPUTS = {
  number(c, value, set, id) {
    const bounded = c.low !== undefined && c.high !== undefined && c.step < 1 && c.step > 0
    const common = {id, min: c.low, max: c.high, step: c.step || 'any', value: value ?? '', 'aria-describedby': `${id}-help`}
    if (!bounded) return h('input', {...common, type: 'number', oninput: e => set(e.target.value)})
    const shown = h('output', {for: id}, String(value))
    const change = e => { shown.textContent = e.target.value; set(e.target.value) }
    return h('span', {class: 'slider'}, h('input', {...common, type: 'range', oninput: change}), shown)
  },
  range(c, value, set, id) {
    const pair = [...(value ?? ['', ''])]
    const one = (i, label) => h('input', {
      id: i ? null : id, type: 'number', min: c.low, max: c.high, value: pair[i], placeholder: i ? c.high : c.low,
      'aria-label': `${c.label}, ${label}`, 'aria-describedby': `${id}-help`,
      oninput: e => { pair[i] = e.target.value; set([...pair]) },
    })
    return h('span', {class: 'pair'}, one(0, 'from'), h('span', {'aria-hidden': 'true'}, '–'), one(1, 'to'))
  },
  choice(c, value, set, id) {
    const options = ['', ...c.choices].map(v => h('option', {value: v, selected: v === (value ?? '')}, v || 'any'))
    return h('select', {id, 'aria-describedby': `${id}-help`, onchange: e => set(e.target.value)}, ...options)
  },
  choices(c, value, set, id) {
    const chosen = new Set(value ?? [])
    const box = name => h('label', {class: 'chip'}, h('input', {
      type: 'checkbox', checked: chosen.has(name),
      onchange: e => { e.target.checked ? chosen.add(name) : chosen.delete(name); set([...chosen]) },
    }), h('span', {}, name))
    return h('span', {id, class: 'chips', role: 'group', 'aria-label': c.label}, ...c.choices.map(box))
  },
  switch(c, value, set, id) {
    return h('input', {id, type: 'checkbox', checked: !!value, onchange: e => set(e.target.checked)})
  },
  text(c, value, set, id) {
    return h('input', {id, type: 'text', value: value ?? '', 'aria-describedby': `${id}-help`, oninput: e => set(e.target.value)})
  },
}

function field(c, values) {
  const id = `aurl-${uid++}`
  const input = INPUTS[c.kind](c, values[c.key] ?? c.default, v => { values[c.key] = v }, id)
  input.dataset.key = c.key
  return h('div', {class: 'field', title: c.help}, h('label', {for: id}, c.label), input,
    h('span', {id: `${id}-help`, class: 'hidden'}, c.help))
}

/** The panel: a fieldset for each group of controls. Values that the model does not have are forgotten. */
function drawPanel(panel, controls, values) {
  const keys = new Set(controls.map(c => c.key))
  for (const key of Object.keys(values)) if (!keys.has(key)) delete values[key]
  const groups = new Map()
  for (const c of controls) groups.set(c.group, [...(groups.get(c.group) ?? []), c])
  panel.replaceChildren(...[...groups].map(([name, members]) =>
    h('fieldset', {}, h('legend', {}, name), ...members.map(c => field(c, values)))))
}

// ---------------------------------------------------------------- piano roll

const BLACK_KEYS = new Set([1, 3, 6, 8, 10])
const LEFT = 34, TOP = 18, HEIGHT = 340      // pixels: keyboard, bar numbers, canvas

/** A piano roll on a canvas that scrolls, with a selection of bars and a cursor that are elements above it. */
class Roll {
  constructor(onselect, onseek) {
    Object.assign(this, {notes: [], bars: [0, 2], end: 0, open: new Map(), zoom: 1, selection: null, colors: []})
    this.onselect = onselect
    this.canvas = h('canvas', {height: HEIGHT})
    this.shade = h('div', {class: 'shade'})
    this.cursor = h('div', {class: 'cursor'})
    this.sheet = h('div', {class: 'sheet', tabindex: '0', role: 'img'}, this.canvas, this.shade, this.cursor)
    this.element = h('div', {class: 'roll'}, this.sheet)
    this.sheet.addEventListener('pointerdown', e => this.press(e))
    this.sheet.addEventListener('dblclick', e => onseek(this.seconds(e)))
    this.sheet.addEventListener('keydown', e => this.key(e, onseek))
    this.observer = new ResizeObserver(() => this.redraw())
    this.observer.observe(this.element)
  }

  show({notes, bars, end, meter, key}) {
    Object.assign(this, {notes, bars, end, open: new Map()})
    this.select(null)
    const what = notes.length ? `${notes.length} notes, ${bars.length - 1} bars, ${end.toFixed(0)} seconds` : 'empty'
    this.sheet.setAttribute('aria-label', `Piano roll: ${[what, meter, key].filter(Boolean).join(', ')}. ` +
      'Arrow keys move by a bar, with Shift they select bars, Escape clears the selection.')
    this.redraw()
  }

  begin() {
    this.show({notes: [], bars: [0, 2], end: 0})
    this.growing = true
  }

  /** Add events of a piece that is being sampled: [1 on or 0 off, seconds, pitch, velocity, family]. */
  add(events) {
    for (const [on, seconds, pitch, velocity, family] of events) {
      const key = family * 128 + pitch
      if (on) {
        const note = [seconds, null, pitch, velocity, family]
        this.notes.push(note)
        this.open.set(key, note)
      } else if (this.open.has(key)) {
        this.open.get(key)[1] = seconds
        this.open.delete(key)
      }
      this.end = Math.max(this.end, seconds)
    }
    this.redraw()
    this.element.scrollLeft = this.element.scrollWidth
  }

  redraw() {
    if (this.pending) return
    this.pending = requestAnimationFrame(() => { this.pending = null; this.draw() })
  }

  get span() { return Math.max(this.end, this.bars.at(-1), 4) }
  x(seconds) { return LEFT + seconds * this.scale }
  seconds(e) { return Math.max(0, (e.clientX - this.sheet.getBoundingClientRect().left - LEFT) / this.scale) }
  bar(seconds) { return Math.max(1, Math.min(this.bars.length - 1, this.bars.findLastIndex(b => b <= seconds + 1e-6) + 1)) }

  draw() {
    const ratio = window.devicePixelRatio || 1
    const width = Math.min(16000, Math.max(200, this.element.clientWidth) * this.zoom)
    this.scale = (width - LEFT - 6) / this.span
    this.sheet.style.width = this.canvas.style.width = `${width}px`
    this.canvas.style.height = `${HEIGHT}px`
    this.canvas.width = width * Math.min(ratio, 16000 / width)
    this.canvas.height = HEIGHT * ratio
    const g = this.canvas.getContext('2d')
    g.setTransform(this.canvas.width / width, 0, 0, ratio, 0, 0)
    const style = getComputedStyle(this.element)
    const ink = name => style.getPropertyValue(name).trim()
    const pitches = this.notes.map(n => n[2])
    const low = Math.min(53, ...pitches) - 2, high = Math.max(79, ...pitches) + 2
    const row = (HEIGHT - TOP - 4) / (high - low + 1)
    const y = pitch => TOP + (high - pitch) * row
    g.font = '11px system-ui, sans-serif'
    for (let p = low; p <= high; p++) {
      const pitch = (p % 12 + 12) % 12
      g.fillStyle = ink('--row')
      if (BLACK_KEYS.has(pitch)) g.fillRect(LEFT, y(p), width, row)
      g.fillStyle = ink(BLACK_KEYS.has(pitch) ? '--black-key' : '--white-key')
      g.fillRect(LEFT - 10, y(p) + .5, 9, Math.max(1, row - .5))
      if (pitch) continue
      g.fillStyle = ink('--line')
      g.fillRect(LEFT, y(p) + row, width, 1)
      g.fillStyle = ink('--faint')
      g.fillText(`C${p / 12 - 1}`, 2, y(p) + row)
    }
    const step = 2 ** Math.max(0, Math.ceil(Math.log2(28 * (this.bars.length - 1) / width)))
    this.bars.forEach((b, i) => {
      const strong = i % step === 0
      g.fillStyle = ink(strong ? '--bar' : '--line')
      if (strong || step < 8) g.fillRect(this.x(b), TOP - (strong ? 6 : 0), 1, HEIGHT)
      g.fillStyle = ink('--faint')
      if (strong && i < this.bars.length - 1) g.fillText(String(i + 1), this.x(b) + 4, 12)
    })
    for (const [start, end, pitch, velocity, family] of this.notes) {
      const x = this.x(start), w = Math.max(2, ((end ?? this.end) - start) * this.scale - 1)
      g.globalAlpha = .35 + .65 * velocity / 127
      g.fillStyle = this.colors[family] ?? '#4a8cf0'
      g.beginPath()
      g.roundRect(x, y(pitch) + .5, w, Math.max(2, row - 1), Math.min(2, row / 3))
      g.fill()
    }
    g.globalAlpha = 1
    this.place()
    this.canvas.dataset.notes = this.notes.length
  }

  /** Put the shade of the selection where it belongs. */
  place() {
    const s = this.selection
    this.shade.hidden = !s
    if (!s) return
    const [a, b] = [this.x(this.bars[s[0] - 1]), this.x(this.bars[s[1]])]
    Object.assign(this.shade.style, {left: `${a}px`, width: `${b - a}px`})
  }

  select(bars) {
    this.selection = bars
    this.place()
    this.onselect(bars)
  }

  press(e) {
    if (e.button || !this.notes.length || this.growing) return
    const first = this.bar(this.seconds(e)), start = e.clientX
    let moved = false
    const move = e => {
      moved ||= Math.abs(e.clientX - start) > 5
      const last = this.bar(this.seconds(e))
      if (moved) this.select([Math.min(first, last), Math.max(first, last)])
    }
    const up = e => {
      this.sheet.removeEventListener('pointermove', move)
      if (!moved) this.select(this.selection && this.selection[0] === first && this.selection[1] === first ? null : [first, first])
    }
    this.sheet.addEventListener('pointermove', move)
    this.sheet.addEventListener('pointerup', up, {once: true})
    this.sheet.addEventListener('pointercancel', up, {once: true})
  }

  key(e, onseek) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[e.key]
    if (e.key === 'Escape') this.select(null)
    else if (!step || !this.notes.length) return
    else if (e.shiftKey) {
      const [a, b] = this.selection ?? [1, 0]
      const last = Math.max(a, Math.min(this.bars.length - 1, b + step))
      this.select([a, last])
    } else {
      const bar = Math.max(1, Math.min(this.bars.length - 1, (this.selection?.[0] ?? 1 - step) + step))
      this.select([bar, bar])
      onseek(this.bars[bar - 1])
    }
    e.preventDefault()
  }

  /** Move the cursor to a time, and scroll it into view while the piece plays. */
  follow(seconds, playing) {
    const x = this.x(seconds ?? 0)
    this.cursor.style.transform = `translateX(${x}px)`
    this.cursor.classList.toggle('on', playing || seconds > 0)
    const {scrollLeft, clientWidth} = this.element
    if (playing && (x < scrollLeft || x > scrollLeft + clientWidth - 30)) this.element.scrollLeft = x - 60
  }
}

// ---------------------------------------------------------------- the studio

// ---------------------------------------------------------------- the player of a stream

/** Draw a player for a stream: notes and blocks of samples arrive while the piece is being sampled. */
function renderPlayer({model, el}) {
  let context = null, zero = 0, last = 0, gone = false
  const roll = new Roll(() => {}, () => {})
  const status = h('p', {class: 'status', role: 'status'}, 'Press Play.')
  const play = h('button', {type: 'button', class: 'main', onclick: start}, 'Play')
  const stop = h('button', {type: 'button', class: 'main stop', hidden: true, onclick: halt}, 'Stop')
  el.replaceChildren(h('div', {class: 'aurl-studio'}, h('main', {}, roll.element, h('div', {class: 'bar'}, play, stop, status))))

  function start() {
    context?.close()
    context = new AudioContext()
    zero = 0
    roll.begin()
    setPlaying(true)
    model.send({do: 'play'})
  }

  function halt() {
    context?.close()           // what is scheduled is silent at once
    context = null
    model.send({do: 'stop'})
    setPlaying(false)
  }

  function setPlaying(on) {
    play.hidden = on
    stop.hidden = !on
  }

  const handlers = {
    events: m => { roll.colors = m.colors; roll.add(m.events) },
    block(m, buffers) {
      if (!context) return
      const samples = new Float32Array(buffers[0].buffer.slice(buffers[0].byteOffset, buffers[0].byteOffset + buffers[0].byteLength))
      const buffer = context.createBuffer(1, samples.length, m.rate)
      buffer.copyToChannel(samples, 0)
      if (!zero || context.currentTime > zero + m.start) zero = context.currentTime + .1 - m.start   // late: wait, do not skip
      const source = context.createBufferSource()
      source.buffer = buffer
      source.connect(context.destination)
      source.start(zero + m.start)
      last = zero + m.start + samples.length / m.rate
      status.textContent = `${roll.notes.length} notes`
    },
    end: m => { status.textContent = m.text; roll.growing = false },
  }
  const receive = (message, buffers) => handlers[message.type]?.(message, buffers ?? [])
  model.on('msg:custom', receive)
  const frame = () => {
    if (gone) return
    const now = context && zero ? Math.max(0, context.currentTime - zero) : 0
    roll.follow(now, now > 0)
    el.dataset.seconds = now.toFixed(2)
    if (context && !roll.growing && context.currentTime > last) halt()
    requestAnimationFrame(frame)
  }
  requestAnimationFrame(frame)
  return () => {
    gone = true
    context?.close()
    model.off?.('msg:custom', receive)
  }
}

// ---------------------------------------------------------------- entry

/** Draw the studio in `el`, connected to a session by `model` (send, on, off). Returns the function that removes it. */
export function render({model, el}) {
  if (model.get?.('view') === 'player') return renderPlayer({model, el})
  const values = {}
  let state = null, controlsOf = null, sounding = null, autoplay = false, greeted = false, gone = false
  const send = (message, file) => model.send(message, undefined, file ? [file] : [])

  const status = h('p', {class: 'status', role: 'status'}, 'Loading the model …')
  const problem = h('p', {class: 'problem', role: 'alert', hidden: true})
  const say = text => { status.textContent = text; problem.hidden = true }
  const complain = text => { problem.textContent = text; problem.hidden = false }

  const button = (label, onclick, options = {}) => h('button', {type: 'button', onclick, ...options}, label)
  const iconButton = (name, label, onclick) => h('button', {type: 'button', class: 'icon', 'aria-label': label, title: label, onclick}, icon(name))

  const audio = h('audio', {controls: true, preload: 'auto', 'aria-label': 'Sound of the piece'})
  const roll = new Roll(showSelection, seconds => { if (audio.src) audio.currentTime = seconds })
  const models = h('select', {'aria-label': 'Model', onchange: e => send({do: 'choose', model: e.target.value})})
  const panel = h('div', {class: 'panel'})
  const fresh = h('input', {type: 'checkbox', checked: true})
  const listen = h('input', {type: 'checkbox', checked: true})
  const zoom = h('input', {type: 'range', min: 1, max: 8, step: .5, value: 1, 'aria-label': 'Zoom of the piano roll',
    oninput: e => { roll.zoom = Number(e.target.value); roll.redraw() }})
  const from = h('input', {type: 'number', min: 1, 'aria-label': 'First selected bar', placeholder: 'bar', onchange: typeSelection, onfocus: e => e.target.select()})
  const to = h('input', {type: 'number', min: 1, 'aria-label': 'Last selected bar', placeholder: 'bar', onchange: typeSelection, onfocus: e => e.target.select()})
  const takes = h('ul', {class: 'takes', 'aria-label': 'Pieces'})
  const about = h('span', {class: 'about'})

  const make = (name, extra) => () => {
    if (fresh.checked) newSeed()
    autoplay = listen.checked
    send({do: name, values, bars: roll.selection, ...extra})
  }
  const generate = button('Generate', make('generate'), {class: 'main'})
  const stop = button('Stop', () => send({do: 'stop'}), {class: 'main stop', hidden: true})
  const proceed = button('Continue', make('continue'), {title: 'Sample more music after the end'})
  const vary = button('Vary', make('vary'), {title: 'Keep what comes before the selected bars (or two bars), sample the rest again'})
  const infill = button('Infill', make('infill'), {title: 'Replace the selected bars, keep the rest', hidden: true})
  const undo = iconButton('undo', 'Undo', () => send({do: 'undo'}))
  const redo = iconButton('redo', 'Redo', () => send({do: 'redo'}))
  const keep = button('Keep', () => send({do: 'keep', take: state.current}), {'aria-pressed': 'false'})
  const exports = [['mid', 'MIDI'], ['wav', 'WAV'], ['musicxml', 'MusicXML']].map(([format, label]) =>
    button(label, () => { say(`Writing ${label} …`); send({do: 'export', format}) }, {'aria-label': `Export ${label}`}))
  const clear = button('Remove the others', () => send({do: 'clear'}), {class: 'quiet', title: 'Remove all pieces that are not kept'})
  const file = h('input', {type: 'file', class: 'hidden', accept: '.mid,.midi,.xml,.musicxml,.mxl,.abc,.krn', 'aria-label': 'Open a file',
    onchange: e => { open(e.target.files[0]); e.target.value = '' }})
  const openFile = h('label', {class: 'button'}, 'Open a file', file)

  const root = h('div', {class: 'aurl-studio'},
    h('header', {}, h('h1', {}, 'aurl ', h('b', {}, 'studio')), h('label', {class: 'model'}, h('span', {}, 'Model'), models), about),
    h('div', {class: 'body'},
      h('main', {},
        h('div', {class: 'bar', role: 'toolbar', 'aria-label': 'Compose'}, generate, stop, proceed, vary, infill,
          h('span', {class: 'gap'}), undo, redo),
        roll.element,
        h('div', {class: 'bar under'}, h('label', {class: 'bars'}, 'Bars ', from, ' – ', to), h('label', {class: 'zoom'}, 'Zoom', zoom),
          h('span', {class: 'gap'}), h('label', {class: 'check'}, listen, 'Play when ready')),
        audio,
        h('div', {class: 'bar', role: 'toolbar', 'aria-label': 'Files'}, keep, ...exports, openFile),
        status, problem,
        h('section', {'aria-label': 'Pieces'}, h('div', {class: 'bar'}, h('h2', {}, 'Pieces'), h('span', {class: 'gap'}), clear), takes)),
      h('details', {class: 'side', open: el.clientWidth > 640 || !el.clientWidth}, h('summary', {}, 'Settings'), panel,
        h('label', {class: 'check'}, fresh, 'New seed each time'))))
  el.replaceChildren(root)

  function newSeed() {
    values.seed = Math.floor(Math.random() * 2 ** 31)
    const input = panel.querySelector('[data-key="seed"]')
    if (input) input.value = values.seed
  }

  function showSelection(bars) {
    from.value = bars ? bars[0] : ''
    to.value = bars ? bars[1] : ''
    infill.disabled = !bars
  }

  function typeSelection() {
    const last = roll.bars.length - 1
    const [a, b] = [from.value || to.value, to.value || from.value].map(v => Math.max(1, Math.min(last, Number(v) || 1)))
    roll.select(from.value || to.value ? [Math.min(a, b), Math.max(a, b)] : null)
  }

  async function open(f) {
    if (!f) return
    say(`Reading ${f.name} …`)
    send({do: 'open', name: f.name}, await f.arrayBuffer())
  }

  function row(take) {
    const current = take.id === state.current
    const facts = [take.how, take.model, `${clock(take.seconds)}`, take.how === 'opened' ? null : `seed ${take.seed}`]
    return h('li', {class: current ? 'current' : ''},
      h('button', {type: 'button', class: 'name', 'aria-current': current ? 'true' : null, onclick: () => send({do: 'select', take: take.id})},
        h('strong', {}, take.name), h('small', {}, facts.filter(Boolean).join(' · '))),
      h('button', {type: 'button', class: `icon keep ${take.kept ? 'on' : ''}`, 'aria-pressed': String(take.kept), 'aria-label': `Keep ${take.name}`,
        title: 'Keep', onclick: () => send({do: 'keep', take: take.id})}, icon('star')),
      h('button', {type: 'button', class: 'icon', 'aria-label': `Remove ${take.name}`, title: 'Remove', onclick: () => send({do: 'delete', take: take.id})}, icon('cross')))
  }

  function setBusy(busy) {
    generate.hidden = busy
    stop.hidden = !busy
    root.classList.toggle('busy', busy)
    const none = !state?.takes.length
    for (const b of [proceed, vary, keep, ...exports, clear]) b.disabled = busy || none
    undo.disabled = busy || !state?.can_undo
    redo.disabled = busy || !state?.can_redo
    infill.disabled = busy || !roll.selection
    models.disabled = busy
  }

  // what the page does with each message of the session
  const handlers = {
    state(m) {
      state = m
      roll.colors = m.colors
      models.replaceChildren(...m.models.map(o => h('option', {value: o.name, selected: o.name === m.model}, o.name)))
      about.textContent = m.models.find(o => o.name === m.model)?.title ?? ''
      const controls = JSON.stringify(m.controls)
      if (controls !== controlsOf) drawPanel(panel, m.controls, values)
      controlsOf = controls
      takes.replaceChildren(...[...m.takes].reverse().map(row))
      infill.hidden = !m.can_infill
      const current = m.takes.find(t => t.id === m.current)
      keep.setAttribute('aria-pressed', String(!!current?.kept))
      keep.textContent = current?.kept ? 'Kept' : 'Keep'
      if (!m.takes.length) say('Press Generate, or open a file.')
      else if (!greeted) say('')
      greeted = true
      setBusy(m.busy)
    },
    roll(m) {
      roll.growing = false
      roll.show(m)
      if (m.take === sounding) return
      audio.removeAttribute('src')
      audio.load()
      sounding = null
      if (m.take) send({do: 'render', take: m.take})
    },
    begin(m) {
      say(`${m.name} …`)
      audio.pause()
      roll.begin()
      setBusy(true)
    },
    events(m) {
      roll.add(m.events)
      status.textContent = `${roll.notes.length} notes, ${clock(roll.end)}`
    },
    done(m) {
      if (m.text) return say(m.text)
      const speed = m.id_ms ? `, ${m.id_ms} ms per id` : ''
      say(`${clock(roll.end)} of music; first note after ${m.first_note_ms} ms${speed}`)
    },
    sound(m, buffers) {
      if (m.take !== state?.current) return
      if (audio.src.startsWith('blob:')) URL.revokeObjectURL(audio.src)
      audio.src = URL.createObjectURL(new Blob([buffers[0]], {type: m.media_type}))
      sounding = m.take
      if (autoplay) audio.play().catch(() => {})   // a browser may refuse to play before the first click
      autoplay = false
    },
    file(m, buffers) {
      const url = URL.createObjectURL(new Blob([buffers[0]], {type: m.media_type}))
      const link = h('a', {href: url, download: m.name})
      root.append(link)
      link.click()
      link.remove()
      setTimeout(() => URL.revokeObjectURL(url), 10_000)
      say(`Saved ${m.name}`)
    },
    error(m) {
      autoplay = false
      complain(m.text)
    },
  }
  const receive = (message, buffers) => handlers[message.type]?.(message, buffers ?? [])
  model.on('msg:custom', receive)

  // Space plays and pauses, unless an input has the focus
  root.addEventListener('keydown', e => {
    if (e.key !== ' ' || e.target.closest('button, input, select, audio, summary, label')) return
    e.preventDefault()
    audio.paused ? audio.play() : audio.pause()
  })
  root.addEventListener('dragover', e => e.preventDefault())
  root.addEventListener('drop', e => { e.preventDefault(); open(e.dataTransfer.files[0]) })

  const frame = () => {
    if (gone) return
    roll.follow(audio.currentTime, !audio.paused)
    requestAnimationFrame(frame)
  }
  setBusy(false)
  requestAnimationFrame(frame)
  send({do: 'hello'})
  return () => {
    gone = true
    model.off?.('msg:custom', receive)
    roll.observer.disconnect()
    audio.pause()
  }
}

export default {render}
