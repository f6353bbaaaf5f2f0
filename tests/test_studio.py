"""The studio in a real browser, driven from end to end: with the server of `aurl studio`, and as a widget in JupyterLab.

Without chromium or playwright the tests are skipped. `AURL_STUDIO_SHOTS=FOLDER` keeps screenshots."""
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import root

from aurl.midi.read import read_midi
from aurl.midi.write import write_midi
from aurl.studio.server import StudioServer
from aurl.studio.session import Session
from aurl.studio.takes import decoded, note_rows, roll_of
from aurl.tokens.verdict import verdict

NAMES = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)
HOSTILE = '<img src=x onerror="document.title=1">.mid'


@pytest.fixture(scope='module')
def browser():
    if importlib.util.find_spec('playwright') is None: pytest.skip("playwright not installed: pip install -e '.[docs]'")
    if CHROMIUM is None: pytest.skip('no chromium on this machine: apt-get install chromium, or set CHROMIUM')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=CHROMIUM, args=['--no-sandbox', '--autoplay-policy=no-user-gesture-required']
        )
        yield b
        b.close()


@pytest.fixture(scope='module')
def model():
    "The shipped piano model, loaded once."
    from aurl.models.vae_gan import MusicTransformerVAEGAN
    return MusicTransformerVAEGAN.from_pretrained('piano').eval()


@pytest.fixture
def studio(model):
    session = Session('piano')
    session.models['piano'] = model
    server = StudioServer(session).start()
    yield server
    server.close()


def until(condition, wait, seconds=240):
    "Wait until a condition is met; `wait` waits for some milliseconds."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'the condition was not met in time'
        wait(30)


class Page:
    "The studio in a tab of the browser; it records errors, and requests to other hosts."
    def __init__(self, browser, studio, width=1180, height=960):
        self.studio, self.session, self.bad = studio, studio.session, []
        self.tab = browser.new_page(viewport=dict(width=width, height=height))
        self.tab.on('console', lambda m: self.bad.append(m.text) if m.type in ('error', 'warning') else None)
        self.tab.on('pageerror', lambda e: self.bad.append(str(e)))
        self.tab.on('request', self._note_request)
        self.tab.goto(studio.url)
        self.tab.locator('.field').first.wait_for(state='attached', timeout=240_000)

    def _note_request(self, request):
        "Record a request that leaves this machine."
        here = f'http://127.0.0.1:{self.studio.server.server_port}/'
        if not request.url.startswith((here, 'blob:', 'data:')): self.bad.append(f'network: {request.url[:100]}')

    def button(self, name): return self.tab.get_by_role('button', name=name, exact=True)
    def takes(self): return self.tab.locator('.takes li')
    def notes(self): return int(self.tab.locator('canvas').get_attribute('data-notes') or 0)

    def until(self, condition, seconds=240):
        "Wait for a condition; the policy of the page forbids evaluating code in it for that."
        until(condition, self.tab.wait_for_timeout, seconds)

    def settings(self, **values):
        "Fill in settings by their labels; on a narrow page they are folded."
        if not self.tab.get_by_label('Seed', exact=True).is_visible(): self.tab.get_by_text('Settings').click()
        self.tab.get_by_label('New seed each time').uncheck()
        for label, value in values.items(): self.tab.get_by_label(label, exact=True).fill(str(value))

    def make(self, name, n):
        "Press a button that makes a piece, and wait until there are `n`."
        self.button(name).click()
        self.until(lambda: self.takes().count() == n and not self.session.busy)

    def shot(self, name, **kwargs):
        if folder := os.environ.get('AURL_STUDIO_SHOTS'):
            self.tab.screenshot(path=str(Path(folder) / f'{name}.png'), **kwargs)

    def select(self, first, last):
        "Select bars by typing."
        self.tab.get_by_label('First selected bar').fill(str(first))
        self.tab.get_by_label('Last selected bar').fill(str(last))
        self.tab.keyboard.press('Enter')


@pytest.fixture
def page(browser, studio):
    p = Page(browser, studio)
    yield p
    p.tab.close()
    assert p.bad == []


def test_generate_vary_continue_undo(page):
    "A piece is generated, varied from the selected bars on, continued, kept, and undone."
    page.settings(Seed=5, Length=400)
    page.make('Generate', 1)
    first = page.session.now.takes[0].ids
    page.until(lambda: page.notes() == decoded(first).note_num())
    page.select(3, 4)
    assert page.tab.locator('.shade').is_visible()
    page.make('Vary', 2)
    second = page.session.now.takes[1].ids
    same = int((first[:min(len(first), len(second))] != second[:min(len(first), len(second))]).argmax())
    assert 20 < same < len(first) - 1, 'the variation keeps the bars before the selection, and nothing more'
    page.make('Continue', 3)
    page.button('Keep').click()
    page.until(lambda: page.session.now.takes[2].kept)
    page.until(lambda: page.tab.locator('audio').evaluate('a => a.readyState') >= 1)
    page.select(3, 4)
    page.shot('studio')
    page.button('Remove the others').click()
    page.until(lambda: page.takes().count() == 1)
    page.button('Undo').click()
    page.until(lambda: page.takes().count() == 3)
    page.button('Redo').click()
    page.until(lambda: page.takes().count() == 1)
    assert all(verdict(t.ids).valid for t in page.session.now.takes)


def test_the_roll_fills_while_it_is_sampled_and_stop(page):
    "Notes appear before the piece has ended, and Stop keeps them as a valid piece."
    page.settings(Seed=3, Length=8000)
    page.button('Generate').click()
    page.until(lambda: page.notes() > 5)
    assert page.session.busy and not page.session.now.takes
    page.button('Stop').click()
    page.until(lambda: page.takes().count() == 1)
    assert verdict(page.session.now.takes[0].ids).valid and len(page.session.now.takes[0].ids) < 8000


def test_it_plays_with_the_keyboard(page):
    "The sound of our own sampler plays; Space pauses, arrows select bars, Escape clears the selection."
    page.settings(Seed=3, Length=600)
    page.tab.get_by_label('Play when ready').check()
    page.tab.keyboard.press('Tab')
    page.button('Generate').focus()
    page.tab.keyboard.press('Enter')
    audio = page.tab.locator('audio')
    page.until(lambda: audio.evaluate('a => !a.paused && a.currentTime > .2'))
    page.tab.locator('.sheet').focus()
    page.tab.keyboard.press('Space')
    page.until(lambda: audio.evaluate('a => a.paused'))
    page.tab.keyboard.press('ArrowRight')
    page.tab.keyboard.press('Shift+ArrowRight')
    page.tab.keyboard.press('Shift+ArrowRight')
    first, last = (int(page.tab.get_by_label(f'{w} selected bar').input_value()) for w in ('First', 'Last'))
    assert (first, last) == (1, 3)
    page.tab.keyboard.press('Escape')
    assert page.tab.get_by_label('First selected bar').input_value() == ''


def test_bars_are_selected_with_the_mouse(page):
    "A drag over the roll selects the bars below it."
    page.settings(Seed=3, Length=600)
    page.make('Generate', 1)
    box = page.tab.locator('.sheet').bounding_box()
    page.tab.mouse.move(box['x'] + box['width']*.3, box['y'] + 100)
    page.tab.mouse.down()
    page.tab.mouse.move(box['x'] + box['width']*.6, box['y'] + 120, steps=4)
    page.tab.mouse.up()
    first, last = (int(page.tab.get_by_label(f'{w} selected bar').input_value()) for w in ('First', 'Last'))
    assert 1 < first < last


def test_files(page, tmp_path):
    "MIDI, WAV and MusicXML are saved; a file with a hostile name is opened as a piece, and its name is shown as text."
    page.settings(Seed=3, Length=150)
    page.make('Generate', 1)
    saved = {}
    for label in ('MIDI', 'WAV', 'MusicXML'):
        with page.tab.expect_download(timeout=240_000) as download: page.button(f'Export {label}').click()
        saved[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[label])
    notes = decoded(page.session.now.takes[0].ids).note_num()
    assert read_midi(saved['MIDI']).note_num() == notes and saved['MIDI'].name == 'piece-1.mid'
    assert saved['WAV'].read_bytes()[:4] == b'RIFF' and '<score-partwise' in saved['MusicXML'].read_text()
    payload = dict(name=HOSTILE, mimeType='audio/midi', buffer=saved['MIDI'].read_bytes())
    page.tab.get_by_label('Open a file').set_input_files(payload)
    page.until(lambda: page.takes().count() == 2)
    assert page.tab.locator('.takes img').count() == 0 and page.tab.title() == 'aurl studio'
    assert page.tab.locator('.takes strong').first.inner_text() == HOSTILE.removesuffix('.mid')
    payload = dict(name='noise.mid', mimeType='audio/midi', buffer=b'no music')
    page.tab.get_by_label('Open a file').set_input_files(payload)
    page.until(lambda: page.tab.get_by_role('alert').is_visible())
    assert 'not a MIDI file' in page.tab.get_by_role('alert').inner_text()


def test_infill_replaces_the_selected_bars(browser):
    "With a model that was trained with gaps, the selected bars are replaced, and no other note changes."
    pytest.importorskip('aurl.generate.infilling', reason='this version of aurl has no infilling')
    from aurl.models.vae_gan import MusicTransformerVAEGAN
    from aurl.score.bridges import from_music21
    from music21 import corpus
    studio = StudioServer(Session(MusicTransformerVAEGAN.from_preset('tiny', infilling=True).eval())).start()
    page = Page(browser, studio)
    chorale = write_midi(from_music21(corpus.parse('bach/bwv66.6')))
    page.tab.get_by_label('Open a file').set_input_files(dict(name='a.mid', mimeType='audio/midi', buffer=chorale))
    page.until(lambda: page.takes().count() == 1)
    assert page.button('Infill').is_disabled()
    page.select(3, 4)
    page.make('Infill', 2)
    bars = roll_of(page.session.now.takes[0], page.session.model)['bars']
    before, after = (
        [n for n in note_rows(decoded(t.ids)) if not bars[2] <= n[0] < bars[4]] for t in page.session.now.takes
    )
    assert before == after and page.bad == []
    page.tab.close()
    studio.close()


def test_settings_reach_the_sampler(page):
    "The pitch range of the panel limits the notes, a wrong value is explained, and another model brings its controls."
    page.settings(Seed=3, Length=200)
    page.tab.get_by_label('Pitch, from').fill('60')
    page.tab.get_by_label('Pitch, to').fill('72')
    page.make('Generate', 1)
    pitches = {n.pitch for t in decoded(page.session.now.takes[0].ids).tracks for n in t.notes}
    assert pitches and 60 <= min(pitches) and max(pitches) <= 72
    page.tab.get_by_label('Pitch, from').fill('90')
    page.button('Generate').click()
    page.until(lambda: page.tab.get_by_role('alert').is_visible())
    assert 'Pitch: 90 is above 72' in page.tab.get_by_role('alert').inner_text()
    page.tab.get_by_label('Model', exact=True).select_option('base')
    page.until(lambda: page.tab.get_by_text('Strings', exact=True).count() == 1)


@pytest.mark.parametrize('width', [400, 1180])
def test_nothing_is_cut_off(browser, studio, width):
    "At 400 pixels and on a desk, no element is wider than the page, and every control has a name."
    page = Page(browser, studio, width, 900)
    page.settings(Seed=5, Length=400)
    page.make('Generate', 1)
    page.until(lambda: page.tab.locator('audio').evaluate('a => a.readyState') >= 1)
    page.shot(f'studio_{width}', full_page=width < 600)
    assert page.tab.locator('html').evaluate('e => e.scrollWidth') <= width
    outside = page.tab.locator('.aurl-studio').evaluate(
        'root => [...root.querySelectorAll("button, input:not(.hidden), select, audio, li")].filter(e => e.offsetParent'
        ' && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)).length')
    assert outside == 0
    tree = page.tab.locator('.aurl-studio').aria_snapshot()
    nameless = [line for line in tree.splitlines() if re.fullmatch(r'\s*- (button|textbox|spinbutton|slider|combobox|checkbox)', line)]
    assert not nameless and tree.count('spinbutton "') >= 8, tree
    page.tab.close()
    assert page.bad == []


def test_a_second_page_shows_the_same_session(page, browser):
    "Another tab shows the pieces; without the token there is nothing to see."
    page.settings(Seed=3, Length=100)
    page.make('Generate', 1)
    other = Page(browser, page.studio)
    other.until(lambda: other.takes().count() == 1 and other.notes() > 0)
    other.tab.close()
    answer = page.tab.context.request.get(page.studio.url.partition('?')[0])
    assert answer.status == 403


def test_the_command_ends_with_ctrl_c(tmp_path):
    "`aurl studio` prints its address, and Ctrl-C ends it with exit code 0 and no traceback."
    env = {**os.environ, 'PYTHONPATH': str(root), 'PYTHONUNBUFFERED': '1'}
    command = [sys.executable, '-c', 'from aurl.cli import main; main()', 'studio', 'browser=false']
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    line = process.stdout.readline()
    assert re.match(r'aurl studio: http://127\.0\.0\.1:\d+/\?token=\S{20,}', line), line
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and err == '' and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- as a widget

STUDIO = 'from aurl.studio.widget import Studio\nstudio = Studio("piano")\nstudio'


def notebook(path, source=STUDIO):
    "A notebook with one cell."
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    cell = new_code_cell(source)
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    nbformat.write(new_notebook(cells=[cell], metadata=kernel), path)


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def jupyter_lab(folder):
    "Run a JupyterLab in `folder`: yield its address, and end it afterwards; or skip."
    if importlib.util.find_spec('jupyterlab') is None: pytest.skip("jupyterlab not installed: pip install -e '.[dev]'")
    port = free_port()
    env = {**os.environ, 'PYTHONPATH': str(root), 'JUPYTER_CONFIG_DIR': str(folder / 'config'), 'HOME': str(folder)}
    command = [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', f'--port={port}', '--ip=127.0.0.1',
               '--IdentityProvider.token=t', f'--ServerApp.root_dir={folder}', '--LabApp.news_url=None']
    process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    yield f'http://127.0.0.1:{port}'
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)


@pytest.fixture
def jupyter(tmp_path):
    "The address of a JupyterLab with the notebook, or a skip."
    notebook(tmp_path / 'studio.ipynb')
    yield from jupyter_lab(tmp_path)


def answers(url):
    "Whether a server answers."
    from urllib.error import URLError
    from urllib.request import urlopen
    try: return urlopen(f'{url}/api', timeout=5).status == 200
    except (URLError, OSError): return False


def wait_for_server(url): until(lambda: answers(url), lambda ms: time.sleep(.3))


def accept_dialog(tab):
    "Accept what JupyterLab asks: on a busy machine a dialog (kernel, connection) covers the notebook."
    button = tab.locator('.jp-Dialog .jp-mod-accept')
    if button.count(): button.last.click(timeout=5_000)


def run_first_cell(tab, shown='.aurl-studio'):
    "Run the first cell until it shows something; JupyterLab ignores the keys until its kernel is there."
    tries = 0
    while not tab.locator(shown).count():
        tries += 1
        assert tries < 9, 'the cell has not run'
        with contextlib.suppress(Exception):
            accept_dialog(tab)
            tab.locator('.jp-Notebook .cm-content').first.click(timeout=10_000)
            tab.keyboard.press('Shift+Enter')
            tab.locator(shown).first.wait_for(timeout=40_000)


def test_widget_in_jupyterlab(browser, jupyter, tmp_path):
    "In JupyterLab the widget appears below its cell, generates a piece, and receives its sound as a buffer."
    wait_for_server(jupyter)
    tab = browser.new_page(viewport=dict(width=1300, height=1000))
    tab.goto(f'{jupyter}/lab/tree/studio.ipynb?token=t')
    tab.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=240_000)
    run_first_cell(tab)
    tab.locator('.aurl-studio .field').first.wait_for(timeout=240_000)
    tab.locator('.aurl-studio').get_by_role('button', name='Generate').click()
    tab.locator('.aurl-studio .takes li').first.wait_for(timeout=240_000)
    until(lambda: tab.locator('.aurl-studio audio').evaluate('a => a.readyState >= 1'), tab.wait_for_timeout)
    assert int(tab.locator('.aurl-studio canvas').get_attribute('data-notes')) > 5
    if folder := os.environ.get('AURL_STUDIO_SHOTS'): tab.screenshot(path=str(Path(folder) / 'studio_jupyter.png'))
    tab.close()


def test_player_in_jupyterlab(browser, jupyter, tmp_path):
    "The player of a stream plays while the piece is sampled, and Stop silences it at once."
    wait_for_server(jupyter)
    notebook(tmp_path / 'studio.ipynb', 'from aurl.studio.widget import StreamPlayer\nStreamPlayer("piano", seed=5, ahead=3)')
    tab = browser.new_page(viewport=dict(width=1300, height=900))
    tab.goto(f'{jupyter}/lab/tree/studio.ipynb?token=t')
    tab.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=240_000)
    run_first_cell(tab)
    play = tab.locator('.aurl-studio').get_by_role('button', name='Play')
    play.wait_for(timeout=240_000)
    play.click()
    place = tab.locator('[data-seconds]')
    until(lambda: place.evaluate('e => Number(e.dataset.seconds) > 1.5'), tab.wait_for_timeout)
    tab.locator('.aurl-studio').get_by_role('button', name='Stop').click()
    play.wait_for(timeout=20_000)
    assert int(tab.locator('.aurl-studio canvas').get_attribute('data-notes')) > 3
    assert not place.evaluate('e => Number(e.dataset.seconds)')
    tab.close()
