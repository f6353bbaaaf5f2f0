"""The dashboard in a real browser: the page of `aurl watch` while `aurl train` writes a run, the static page, and the widget
in JupyterLab while its own kernel trains.

Without chromium or playwright the tests are skipped. `AURL_WATCH_SHOTS=FOLDER` keeps screenshots."""
import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import root
from test_studio import browser, jupyter_lab, notebook, run_first_cell, until, wait_for_server  # noqa: F401

from aurl.experiments.dashboard_page import write_dashboard
from aurl.experiments.run import Experiment
from aurl.experiments.run_view import RunView
from aurl.experiments.watch_server import WatchServer
from aurl.midi.write import write_midi
from aurl.score.bridges import from_music21

HOSTILE = '<img src=x onerror="document.title=1">'
CHORALES = 'bwv66.6', 'bwv65.2', 'bwv104.6', 'bwv108.6'


def write_chorales(folder):
    "Four chorales as MIDI files."
    from music21 import corpus
    for name in CHORALES: write_midi(from_music21(corpus.parse(f'bach/{name}')), folder / f'{name}.mid')
    return folder


@pytest.fixture(scope='module')
def midi(tmp_path_factory): return write_chorales(tmp_path_factory.mktemp('midi'))


def long_run(folder, name, steps=20_000, offset=0.):
    "A run with a spike of a single step, an anomaly with a hostile text, and a sample with a hostile name."
    run = Experiment(name, root=folder)
    lines = (
        f'{{"step": {s}, "time": {s/10}, "train_loss": {2 + offset + 4*math.exp(-s/4000) + 6*(s == 7777)}, "lr": 0.001}}\n'
        for s in range(steps)
    )
    (run.path / 'metrics.jsonl').write_text(''.join(lines))
    run.log(step=7777, anomaly=HOSTILE, severity='critical')
    return run


@pytest.fixture
def runs(tmp_path, midi):
    "Two runs, the first with a sample."
    found = [long_run(tmp_path, 'first'), long_run(tmp_path, 'second', offset=1.)]
    (found[0].samples / f'{HOSTILE.replace("/", "")}.mid').write_bytes((midi / 'bwv66.6.mid').read_bytes())
    return found


class Page:
    "The dashboard in a tab of the browser; it records errors, and requests to other hosts."
    def __init__(self, browser, url, width=1200, height=1000):
        self.bad, self.here = [], re.match(r'https?://[^/]+/|file://', url)[0]
        self.tab = browser.new_page(viewport=dict(width=width, height=height))
        self.tab.on('console', lambda m: self.bad.append(m.text) if m.type in ('error', 'warning') else None)
        self.tab.on('pageerror', lambda e: self.bad.append(str(e)))
        self.tab.on('request', self._note_request)
        self.tab.goto(url)

    def _note_request(self, request):
        "Record a request that leaves this machine."
        if not request.url.startswith((self.here, 'blob:', 'data:', 'about:')): self.bad.append(f'network: {request.url[:100]}')

    def until(self, condition, seconds=240):
        "Wait for a condition; the policy of the page forbids evaluating code in it for that."
        until(condition, self.tab.wait_for_timeout, seconds)

    def chart(self, title): return self.tab.get_by_role('region', name=title, exact=True)
    def points(self, title='Loss'): return int(self.chart(title).locator('.chart').get_attribute('data-points') or 0)
    def cell(self, name, row=0): return self.tab.locator('tbody tr').nth(row).locator(f'td[data-label="{name}"]').inner_text()
    def step(self): return int(re.sub(r'\D', '', self.cell('step')) or -1)

    def shot(self, name, **kwargs):
        if folder := os.environ.get('AURL_WATCH_SHOTS'):
            self.tab.screenshot(path=str(Path(folder) / f'{name}.png'), **kwargs)

    def drawn(self):
        "Wait until the charts are there."
        self.tab.locator('.js-plotly-plot').first.wait_for(timeout=240_000)
        self.until(lambda: self.points() > 0)
        return self


@contextlib.contextmanager
def watching(browser, *paths, **kwargs):
    "The page of a server that shows runs; at its end, there was no error."
    server = WatchServer([RunView(p) for p in paths]).start()
    page = Page(browser, server.url, **kwargs)
    yield page.drawn()
    page.tab.close()
    server.close()
    assert page.bad == []


@pytest.fixture
def training(tmp_path, midi):
    "A process of `aurl train`, and the folder of its run."
    env = {**os.environ, 'PYTHONPATH': str(root), 'AURL_HOME': str(tmp_path / 'home')}
    items = f'data={midi} out={tmp_path}/runs steps=200000 model=tiny length=64 batch_size=4 valid=.3 workers=0 checkpoint_every=0 valid_every=50'
    command = [sys.executable, '-c', 'from aurl.cli import main; main()', 'train', *items.split()]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    yield process, tmp_path / 'runs'
    if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def metrics_file(folder):
    "The log of the only run in a folder, if it has lines."
    return next((f for f in folder.glob('*/metrics.jsonl') if f.stat().st_size > 500), None)


def test_a_training_is_watched_while_it_writes(browser, training):
    "Losses, steps and remaining time follow the run of another process until it has ended."
    process, folder = training
    until(lambda: metrics_file(folder), lambda ms: time.sleep(.2))
    with watching(browser, metrics_file(folder).parent) as page:
        page.until(lambda: page.step() > 20 and page.cell('state') == 'running')
        first, points = page.step(), page.points('Gradient norm')
        page.until(lambda: page.step() > first + 100 and page.points('Gradient norm') > points)
        page.until(lambda: re.match(r'\d+:\d\d', page.cell('left')) and 'train' in page.cell('progress'))
        for title in ('Loss', 'Learning rate', 'Throughput', 'Memory', 'Validity of samples'): page.until(lambda: page.points(title) > 0)
        page.shot('watch_training')
        os.killpg(process.pid, signal.SIGINT)
        page.until(lambda: page.cell('state') in ('stopped', 'finished'), 400)
        page.until(lambda: page.tab.get_by_role('button', name=re.compile('sample')).count() > 0)
        copy = metrics_file(folder).parent / 'dashboard.html'
        until(copy.exists, page.tab.wait_for_timeout)
        assert copy.stat().st_size < 1_000_000


def test_runs_are_overlaid_and_hidden(browser, runs):
    "Two runs share each chart, in other colors and marks; a run is hidden by its check box."
    with watching(browser, *(r.path for r in runs)) as page:
        page.until(lambda: page.tab.locator('.panel[aria-label="Loss"] .scatterlayer .trace').count() == 2)
        both = page.points()
        page.shot('watch_runs')
        page.tab.get_by_role('checkbox').first.uncheck()
        page.until(lambda: page.points() == both/2)
        page.tab.get_by_label('Horizontal axis').select_option('time')
        page.until(lambda: page.chart('Loss').locator('.chart').evaluate('e => e.layout.xaxis.title.text') == 'minutes', 60)


def test_a_zoom_shows_points_that_were_left_out(browser, runs):
    "20,000 points arrive as 400, with the spike; a zoomed range has all of its points."
    with watching(browser, runs[0].path) as page:
        assert 300 < page.points() <= 400
        chart = page.chart('Loss').locator('.chart')
        spike = chart.evaluate('e => Math.max(...e.data[0].y)')
        assert spike > 6
        chart.focus()
        for _ in range(6): page.tab.keyboard.press('+')
        page.until(lambda: chart.evaluate('e => e.data[0].x.length > 250 && e.data[0].x[1] - e.data[0].x[0] === 1'))
        page.tab.keyboard.press('0')
        page.until(lambda: 300 < page.points() <= 400 and chart.evaluate('e => e.data[0].x[0] === 0'))


def test_everything_by_keyboard(browser, runs):
    "Arrow keys read out the values of all runs at a step; l switches the axis; Tab reaches every control."
    with watching(browser, *(r.path for r in runs)) as page:
        chart, readout = page.chart('Loss').locator('.chart'), page.chart('Loss').get_by_role('status')
        chart.focus()
        page.tab.keyboard.press('ArrowRight')
        page.until(lambda: readout.inner_text().startswith('step 0:'))
        assert readout.inner_text().count('train loss') == 2
        page.tab.keyboard.press('End')
        page.until(lambda: 'step 19,999' in readout.inner_text() or 'step 2.00e+4' in readout.inner_text() or 'step 19999' in readout.inner_text())
        log = page.chart('Loss').get_by_role('button')
        assert log.get_attribute('aria-pressed') == 'true'
        page.tab.keyboard.press('l')
        page.until(lambda: log.get_attribute('aria-pressed') == 'false' and chart.evaluate('e => e.layout.yaxis.type === "linear"'))
        seen = set()
        page.tab.locator('select').focus()
        for _ in range(20):
            page.tab.keyboard.press('Tab')
            if not page.tab.locator(':focus').count(): break                       # after the last control
            seen.add(page.tab.locator(':focus').evaluate('e => e.tagName + (e.className && "." + e.className.split(" ")[0])'))
        assert {'INPUT', 'BUTTON.small', 'DIV.chart', 'SUMMARY', 'BUTTON'} <= seen, seen


def test_alerts_and_samples_are_text(browser, runs):
    "A hostile message and a hostile name are shown as text; the sample plays in a sandboxed frame."
    with watching(browser, runs[0].path) as page:
        page.tab.get_by_text('Alerts: 1').click()
        assert HOSTILE in page.tab.locator('.aurl-dash li').first.inner_text()
        assert page.tab.title() == 'aurl watch' and page.tab.locator('.aurl-dash img').count() == 0
        page.tab.locator('.list button').first.click()
        audio = page.tab.frame_locator('iframe').locator('audio')
        page.until(lambda: audio.count() == 1 and audio.evaluate('a => a.readyState') >= 1)
        assert page.tab.frame_locator('iframe').locator('body').evaluate('() => { try { return parent.document.title } catch { return "" } }') == ''


@pytest.mark.parametrize('width', [400, 1200])
def test_nothing_is_cut_off(browser, runs, width):
    "At 400 pixels and on a desk, nothing is wider than the page, and every control has a name."
    with watching(browser, *(r.path for r in runs), width=width, height=900) as page:
        page.tab.wait_for_timeout(500)
        page.shot(f'watch_{width}', full_page=True)
        assert page.tab.locator('html').evaluate('e => e.scrollWidth') <= width
        outside = page.tab.locator('.aurl-dash').evaluate(
            'root => [...root.querySelectorAll("button, input, select, td, .panel, .chart, li")].filter(e => e.offsetParent'
            ' && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)).length')
        assert outside == 0
        tree = page.tab.locator('.aurl-dash').aria_snapshot()
        nameless = [line for line in tree.splitlines() if re.fullmatch(r'\s*- (button|combobox|checkbox|application|table)', line)]
        assert not nameless, nameless


def test_a_server_that_ends_leaves_the_charts(browser, runs):
    "When the server has ended, the page says so and keeps what it has; with the server back, it continues."
    server = WatchServer([RunView(runs[0].path)]).start()
    page = Page(browser, server.url).drawn()
    server.close()
    page.until(lambda: 'connection' in page.tab.locator('.status').inner_text())
    assert page.points() > 300
    again = WatchServer([RunView(runs[0].path)], port=server.server.server_port)
    again.token = server.token
    again.start()
    page.until(lambda: 'updated' in page.tab.locator('.status').inner_text())
    page.tab.close()
    again.close()


def test_the_static_page_opens_from_the_disk(browser, runs):
    "`dashboard.html` needs no server, no script and no network; its sample plays."
    path = write_dashboard(runs[0].path)
    page = Page(browser, f'file://{path}', width=400)
    assert page.tab.locator('svg polyline').count() >= 2 and page.tab.locator('html').evaluate('e => e.scrollWidth') <= 400
    assert page.tab.title() == runs[0].path.name and HOSTILE in page.tab.locator('li').first.inner_text()
    audio = page.tab.locator('audio')
    page.until(lambda: audio.count() == 1 and audio.evaluate('a => a.readyState') >= 1)
    page.shot('watch_static', full_page=True)
    page.tab.close()
    assert page.bad == []


def test_the_command_ends_with_ctrl_c(tmp_path):
    "`aurl watch` prints its address, and Ctrl-C ends it with exit code 0 and no traceback."
    Experiment('quiet', root=tmp_path / 'runs').log(step=1, train_loss=2.)
    env = {**os.environ, 'PYTHONPATH': str(root), 'PYTHONUNBUFFERED': '1'}
    command = [sys.executable, '-c', 'from aurl.cli import main; main()', 'watch', 'browser=false']
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    line = process.stdout.readline()
    assert re.match(r'aurl watch: http://127\.0\.0\.1:\d+/\?token=\S{20,}', line), line
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and err == ''


# ---------------------------------------------------------------- as a widget

LIVE = '''
from aurl.all import *
from aurl.core import seed_everything
from pathlib import Path
store = prepare({midi!r}, {store!r}, workers=0)
run = Experiment('live', root={runs!r})
seed_everything(0)
net = MusicTransformerVAEGAN.from_preset('tiny')
learn = music_learner(store, net, valid=.25, length=64, batch_size=4, dtype='fp32')
done = Path({done!r})
class UntilSeen(Callback):
    order = 90
    def after_batch(self):
        if done.exists(): raise CancelFitException
learn.fit_budget(steps=100_000, run=run, log_every=5, cbs=[LiveDashboard(run, every=.5, share=.2), UntilSeen()])
'''


@pytest.fixture
def jupyter(tmp_path, midi):
    "The address of a JupyterLab with a notebook that trains until a file appears, or a skip."
    places = {k: str(tmp_path / k) for k in ('store', 'runs', 'done')}
    source = 'from fastai.callback.core import Callback, CancelFitException' + LIVE.format(midi=str(midi), **places)
    notebook(tmp_path / 'live.ipynb', source)
    yield from jupyter_lab(tmp_path)


def test_widget_while_its_kernel_trains(browser, jupyter, tmp_path):
    "In JupyterLab the charts appear while the cell trains, and follow it; the kernel answers nothing meanwhile."
    wait_for_server(jupyter)
    tab = browser.new_page(viewport=dict(width=1300, height=1000))
    tab.goto(f'{jupyter}/lab/tree/live.ipynb?token=t')
    tab.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=240_000)
    run_first_cell(tab, '.aurl-dash .js-plotly-plot')
    def step(): return int(re.sub(r'\D', '', tab.locator('.aurl-dash td[data-label=step]').inner_text()) or 0)
    until(lambda: step() > 10, tab.wait_for_timeout)
    first = step()
    until(lambda: step() > first + 20, tab.wait_for_timeout)
    assert '[*]' in tab.locator('.jp-InputPrompt').first.inner_text(), 'the cell is still training'
    assert int(tab.locator('.aurl-dash .chart').first.get_attribute('data-points')) > 5
    if folder := os.environ.get('AURL_WATCH_SHOTS'): tab.screenshot(path=str(Path(folder) / 'watch_jupyter.png'))
    (tmp_path / 'done').touch()
    until(lambda: '[*]' not in tab.locator('.jp-InputPrompt').first.inner_text(), tab.wait_for_timeout)
    tab.close()
