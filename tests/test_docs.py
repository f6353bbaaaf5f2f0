"The documentation site: every link and file of every page, and what a browser shows, without a network."
import base64, importlib.util, io, json, os, shutil, subprocess, sys, wave
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
_needed = dict(
    nbdev='nbdev',
    sphinx='sphinx',
    myst_nb='myst-nb',
    furo='furo',
    sphinx_design='sphinx-design',
    sphinx_copybutton='sphinx-copybutton',
    plotly='plotly',
)
_absent = [d for m,d in _needed.items() if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(
    bool(_absent), reason=f"{', '.join(_absent)} not installed: pip install -e '.[dev,docs]'"
)

def _wav(seconds=.25, rate=8000):
    "A short tone as WAV bytes."
    import math, struct
    f = io.BytesIO()
    with wave.open(f, 'wb') as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(
            b''.join(
                struct.pack('<h', int(9000 * math.sin(i / rate * 440 * 6.28318))) for i in range(int(seconds * rate))
            )
        )
    return base64.b64encode(f.getvalue()).decode()

def _fixture(path):
    "A notebook with every kind of content that a page can show."
    import nbformat.v4 as v
    fig = dict(
        data=[dict(type='bar', x=['C', 'E', 'G'], y=[1, 3, 2], name='notes')],
        layout=dict(title=dict(text='Three notes'), height=320),
    )
    audio = f'<audio controls><source src="data:audio/wav;base64,{_wav()}" type="audio/wav"></audio>'
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="60"><rect width="40" height="8" x="10" y="20" fill="#0a6375"/></svg>'
    show = lambda source, **data: v.new_code_cell(source, outputs=[v.new_output('display_data', data=data)])
    cells = [
        v.new_markdown_cell(
            '# One of everything\n> A page for the tests: a figure, a player, a formula, a callout.\n\nText beside the title stays.'
        ),
        v.new_code_cell('#| hide\nhidden_everywhere = 1'),
        v.new_markdown_cell(
            '## Words\n\n`atomic_path` and `aurl.core` and `000_core` are links; `no_such_name` is not. So are [the core](../000_core.ipynb), '
            '[its home](https://aurl.github.io/aurl/core.html#aurlerror), [this place](#words) and [the licence](../../LICENSE).\n\n'
            'Not from the network: ![a badge](https://img.shields.io/badge/x-y-green) <img src="https://example.org/x.png">\n\n'
            '$$\\mathcal{L} = -\\frac{1}{T}\\sum_{t=1}^{T} \\log p(x_t \\mid x_{<t})$$\n\nInline $\\sqrt{d_k}$ too.'
        ),
        v.new_markdown_cell(
            '::: {.callout-tip title="A tip"}\nwith `code` inside\n:::\n\n::: {.callout-note collapse="true"}\n## Folded\nuntil asked\n:::\n\n'
            '::: {.panel-tabset}\n## Left\nleft hand\n\n## Right\nright hand\n:::'
        ),
        show(
            'fig',
            **{
                'application/vnd.plotly.v1+json': fig,
                'text/html': '<script src="https://cdn.plot.ly/plotly-3.0.0.min.js"></script><div>cdn</div>',
            }
        ),
        show('player', **{'text/html': audio, 'text/plain': '<IPython.lib.display.Audio object>'}),
        show('roll', **{'image/svg+xml': svg, 'text/plain': 'roll'}),
        show('widget', **{'application/vnd.jupyter.widget-view+json': dict(model_id='x'), 'text/plain': 'VBox()'}),
        v.new_code_cell(
            '#| echo: false\nprint("the source of this is not shown")',
            outputs=[v.new_output('stream', name='stdout', text='only_the_output\n')],
        ),
        v.new_code_cell(
            '#| output: false\nprint(1)', outputs=[v.new_output('stream', name='stdout', text='never_shown\n')]
        ),
        v.new_code_cell('#| code-fold: true\nfolded = 1'),
        v.new_code_cell(
            '#| output: asis\nprint("| a | b |")',
            outputs=[v.new_output('stream', name='stdout', text='| left | right |\n|---|---|\n| as | is |\n')],
        ),
        v.new_code_cell('%timeit 1+1', outputs=[v.new_output('stream', name='stdout', text='5 ns per loop\n')]),
    ]
    nb = v.new_notebook(
        cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    )
    for i,c in enumerate(nb.cells): c['id'] = f'c{i}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb), encoding='utf-8')

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site of all notebooks and of the fixture."
    tmp = tmp_path_factory.mktemp('docs')
    shutil.copytree(root/'nbs', tmp/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_*'))
    _fixture(tmp/'nbs'/'tutorials'/'everything.ipynb')
    r = subprocess.run(
        [sys.executable, str(root / 'docs' / 'build.py'), '--nbs', str(tmp / 'nbs'), '--out', str(tmp / 'site')],
        cwd=tmp,
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    if 'not installed' in r.stderr: pytest.skip(r.stderr.strip())
    print(r.stdout, r.stderr)
    assert r.returncode == 0, r.stdout + r.stderr
    return tmp/'site'

def _page(site, name): return (site/name).read_text(encoding='utf-8')

def test_every_link_and_file_is_there(site):
    "Every link leads to a page and place of the site, and every file is in the site."
    sys.path.insert(0, str(root/'docs'))
    try: import check
    finally: sys.path.pop(0)
    assert check.problems(site) == []

def test_the_checker_sees_what_is_wrong(tmp_path):
    "The checker finds broken links, missing files and remote resources."
    sys.path.insert(0, str(root/'docs'))
    try: import check
    finally: sys.path.pop(0)
    (tmp_path / 'a.html').write_text(
        '<a href="b.html">b</a><a href="#no">x</a><img src="c.png"><script src="https://cdn.example.org/x.js"></script><p id="yes">',
        encoding='utf-8',
    )
    bad = '\n'.join(check.problems(tmp_path))
    for word in ('b.html', '#no', 'c.png', 'cdn.example.org'): assert word in bad

def test_exported_names_have_boxes(site):
    "Every exported name has an entry with anchor, table of parameters and local source link."
    core = _page(site, 'core.html')
    for name in ('aurl.core.AurlError', 'aurl.core.atomic_path', 'aurl.core.rng'): assert f'id="{name}"' in core
    # nbdev's own anchor, for links from elsewhere
    assert 'id="aurlerror"' in core
    assert 'the problem; it names the value' in core and '<th' in core        # the table of docments
    assert '_modules/aurl/core.html#' in core and 'LNone' not in core       # source links are local
    assert 'class <span' not in core.split('id="errors"')[0]
    vocab = _page(site, 'tokens.vocab.html')
    assert (
        'id="aurl.tokens.vocab.Vocab.note_on"' in vocab
        and 'href="_modules/aurl/tokens/vocab.html#Vocab.note_on"' in vocab
    )
    # in the order of the source
    assert vocab.index('aurl.tokens.vocab.Vocab.note_on"') < vocab.index('aurl.tokens.vocab.Vocab.note_off"')

def test_hidden_and_exported_cells_stay_away(site):
    "Hidden cells, directives and remote resources are not on the page; the other outputs are."
    assert 'nbdev_export' not in _page(site, 'core.html') and 'default_exp' not in _page(site, 'core.html')
    page = _page(site, 'tutorials/everything.html')
    for word in (
        'hidden_everywhere',
        'the source of this is not shown',
        'never_shown',
        'example.org',
        'img.shields.io',
        'plot.ly',
        'callout-',
        '#|',
    ):
        assert word not in page, word
    for word in (
        'only_the_output',
        'Text beside the title stays',
        'A tip',
        'right hand',
        '5 ns per loop',
        'timeit',
        'open it in JupyterLab',
        '<td',
    ):
        assert word in page, word

def test_names_become_links(site):
    "Names in backticks link to their definitions, and linked files are copied to the site."
    page = _page(site, 'tutorials/everything.html')
    for url in ('../core.html#aurl.core.atomic_path', '../core.html', '../core.html#aurlerror', '#words'):
        assert f'href="{url}"' in page, url
    assert 'assets/' in page and 'LICENSE' in page

def test_notebooks_are_in_the_sidebar(site):
    "The sidebar lists the notebooks in groups, with addresses without numbers."
    index = _page(site, 'index.html')
    for word in ('Core', 'Tokens', 'Tutorials', 'href="tokens.vocab.html"', 'href="tutorials/everything.html"'):
        assert word in index, word
    assert not list(site.rglob('000_*')) and (site/'.nojekyll').exists()

def test_architecture_is_in_the_sidebar(site):
    "The page Architecture is in the sidebar, with picture, tables and links."
    assert 'href="architecture.html"' in _page(site, 'index.html')
    page = _page(site, 'architecture.html')
    for word in (
        '<svg',
        'id="midi"',
        'href="midi.read.html"',
        'aurl.midi.read',
        'href="losses.base.html#aurl.losses.base.register_loss"',
    ):
        assert word in page, word

def test_old_addresses_lead_to_the_new_ones(site):
    "Every old address redirects to a page of the site."
    import yaml
    moved = yaml.safe_load((root/'docs'/'moved.yaml').read_text(encoding='utf-8'))
    assert len(moved) > 80
    for old, new in moved.items():
        assert (site/f'{new}.html').exists(), f'{old} leads to {new}, which is not a page'
        address = '../'*old.count('/') + f'{new}.html'                         # relative to the old page
        assert f'url={address}' in _page(site, f'{old}.html')

# ---------------------------------------------------------------- in a browser

_chromium = next(
    (
        p
        for p in (
            os.environ.get('CHROMIUM'),
            shutil.which('chromium'),
            shutil.which('chromium-browser'),
            shutil.which('google-chrome'),
        )
        if p
    ),
    None,
)

@pytest.fixture(scope='module')
def browser():
    if importlib.util.find_spec('playwright') is None: pytest.skip("playwright not installed: pip install -e '.[docs]'")
    if _chromium is None: pytest.skip('no chromium on this machine: apt-get install chromium, or set CHROMIUM')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=_chromium, args=['--no-sandbox', '--autoplay-policy=no-user-gesture-required']
        )
        yield b
        b.close()

class Watch:
    "A page of the browser that records errors and failed requests."
    def __init__(self, browser, site):
        self.site, self.bad = site, []
        self.page = browser.new_page(viewport=dict(width=1280, height=900))
        self.page.on('console', lambda m: self.bad.append(f'console: {m.text}') if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: self.bad.append(f'error: {e}'))
        self.page.on('requestfailed', self._failed)
        self.page.on(
            'request',
            lambda r: (
                self.bad.append(f'network: {r.url[:120]}')
                if not r.url.startswith(('file:', 'data:', 'blob:', 'about:'))
                else None
            ),
        )

    def _failed(self, request):
        "Record a request that failed, unless the next page was opened before it ended."
        if 'ERR_ABORTED' not in (request.failure or ''): self.bad.append(f'failed: {request.url[:120]}')

    def open(self, name):
        self.page.goto((self.site/name).as_uri(), wait_until='load')
        return self.page

@pytest.fixture
def watch(browser, site):
    w = Watch(browser, site)
    yield w
    if d := os.environ.get('AURL_DOCS_SHOTS'):
        Path(d).mkdir(parents=True, exist_ok=True)
        w.page.screenshot(path=str(Path(d)/(os.environ['PYTEST_CURRENT_TEST'].split('::')[-1].split(' ')[0]+'.png')))
    w.page.close()
    assert w.bad == []

def test_browser_opens_the_index(watch):
    "The index has one title and a sidebar whose links work."
    page = watch.open('index.html')
    assert page.locator('article h1').count() == 1 and page.locator('.sidebar-tree .caption').count() >= 3
    page.locator('.sidebar-tree a[href="tokens.vocab.html"]').click()
    page.wait_for_url('**/tokens.vocab.html')

def test_browser_follows_an_old_address(watch):
    "An old address redirects in the browser."
    page = watch.open('score.midi.html')
    page.wait_for_url('**/midi.read.html')

def test_browser_opens_a_module(watch):
    "The page of a module shows its entries and pictures, and its source links work."
    page = watch.open('tokens.vocab.html')
    assert page.locator('dt.sig').count() > 5
    assert page.locator('div.cell_output img').first.evaluate('e => e.complete && e.naturalWidth > 50')
    page.locator('dt[id="aurl.tokens.vocab.Vocab.note_on"] .viewcode-link').click()
    page.wait_for_url('**/_modules/aurl/tokens/vocab.html#Vocab.note_on')

def test_browser_searches(watch):
    "The search finds a name and shows an excerpt, from a folder without a server."
    page = watch.open('index.html')
    page.locator('.sidebar-search').fill('atomic')
    page.locator('.sidebar-search').press('Enter')
    page.wait_for_url('**/search.html?q=atomic*')
    page.wait_for_selector('#search-results ul.search li a')
    page.wait_for_selector('#search-results .excerpt mark')
    page.locator('#search-results ul.search a[href*="core.html"]').first.click()
    page.wait_for_url('**/core.html*')

def test_browser_draws_figure_player_formula(watch):
    "Plotly figures, audio players and formulas work without a network."
    page = watch.open('tutorials/everything.html')
    page.wait_for_selector('.plotly-figure .main-svg .bars path')
    assert page.locator('.plotly-figure svg.main-svg').first.bounding_box()['width'] > 300
    page.wait_for_function('document.querySelector("audio").readyState >= 1')
    assert page.locator('audio').first.evaluate('a => a.duration') > .2
    assert page.locator('audio').first.evaluate('a => a.play().then(() => true)')
    page.wait_for_selector('mjx-container svg')
    assert page.locator('mjx-container').count() >= 2

def test_browser_plays_our_own_player(watch, site):
    "The player of `score.player` works with the output saved in its notebook."
    if not (site/'score.player.html').exists(): pytest.skip('no notebook score.player')
    page = watch.open('score.player.html')
    page.wait_for_function('[...document.querySelectorAll("audio")].some(a => a.readyState >= 1 && a.duration > 0)')
    assert page.locator('div.cell_output img, div.cell_output svg').count() > 0

def test_browser_shows_every_page(watch, site):
    "No page has a JavaScript error or requests a file that does not exist."
    for f in sorted(site.rglob('*.html')):
        rel = f.relative_to(site)
        if rel.parts[0] in ('_static', '_modules') or 'http-equiv="refresh"' in f.read_text(encoding='utf-8')[:600]:
            continue
        page = watch.open(rel.as_posix())
        assert page.title() and not page.locator('.system-message').count(), rel
        if page.locator('.plotly-figure').count(): page.wait_for_selector('.plotly-figure svg.main-svg')
