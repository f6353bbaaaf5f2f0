"Sphinx for aurl. `docs/build.py` writes the pages and calls this; see there."
import functools, json, os, re
from pathlib import Path

meta = json.loads(Path(os.environ['AURL_DOCS']).read_text(encoding='utf-8'))

project, author, release, version = meta['title'], meta['author'], meta['version'], meta['version']
project_copyright = meta['copyright']
extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx.ext.viewcode', 'sphinx_design', 'sphinx_copybutton']
root_doc = 'index'
templates_path = ['_templates']
html_static_path = ['_static', meta['static']]
html_extra_path = [meta['extra']]
suppress_warnings = ['myst.header', 'ref.python', 'misc.highlighting_failure', 'mystnb.unknown_mime_type']
show_warning_types = True

# --- notebooks: outputs are those that were saved
nb_execution_mode = 'off'
nb_merge_streams = True
nb_output_stderr = 'remove'
nb_render_markdown_format = 'myst'
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [
    ('html', 'text/html', 0),
    ('html', 'image/svg+xml', 10),
    ('html', 'image/png', 20),
    ('html', 'image/jpeg', 30),
    ('html', 'image/gif', 35),
    ('html', 'text/markdown', 40),
    ('html', 'text/latex', 50),
    ('html', 'text/plain', 60),
]
nb_code_prompt_show, nb_code_prompt_hide = 'Show the code', 'Hide the code'
myst_enable_extensions = [
    'amsmath',
    'attrs_inline',
    'attrs_block',
    'colon_fence',
    'deflist',
    'dollarmath',
    'strikethrough',
    'tasklist',
]
myst_heading_anchors = 4
myst_links_external_new_tab = True
myst_dmath_double_inline = True

# --- names
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = 'hide'
modindex_common_prefix = ['aurl.']
html_domain_indices = False

# --- mathematics: one file, no network
mathjax_path = 'tex-svg-full.js'

# --- the look
html_theme = 'furo'
html_title, html_short_title = meta['title'], meta['title']
html_favicon = '_static/favicon.svg'
html_css_files, html_js_files = ['aurl.css'], ['aurl.js']
html_copy_source, html_show_sourcelink, html_show_sphinx = False, False, False
# the built-in one fetches pages, which no browser allows from a folder; aurl.js shows excerpts instead
html_show_search_summary = False
html_last_updated_fmt = None
pygments_style, pygments_dark_style = 'friendly', 'github-dark'
copybutton_selector = 'div.cell_input div.highlight pre, div.highlight:not(.no-copy) > pre'
copybutton_exclude = '.linenos, .gp, .go'
_light = {
    'font-stack': '-apple-system, BlinkMacSystemFont, "Segoe UI", "Noto Sans", "Liberation Sans", Helvetica, Arial, sans-serif',
    'font-stack--monospace': '"JetBrains Mono", "Cascadia Code", "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace',
    'color-brand-primary': '#0a6375',
    'color-brand-content': '#0a6375',
    'color-brand-visited': '#4d5b8c',
    'color-highlight-on-target': '#fff4d6',
    'color-api-name': '#0a6375',
    'color-api-pre-name': '#6b7780',
    'color-sidebar-background': '#f7f8f7',
    'color-sidebar-item-background--hover': '#e9eeec',
    'color-background-hover': '#eef2f1',
    'color-announcement-background': '#0a6375',
    'color-problematic': '#b3401f',
}
_dark = {
    'color-brand-primary': '#6cc7d6',
    'color-brand-content': '#6cc7d6',
    'color-brand-visited': '#a9b4e6',
    'color-highlight-on-target': '#3b3420',
    'color-api-name': '#6cc7d6',
    'color-api-pre-name': '#94a1a8',
    'color-background-primary': '#14181b',
    'color-background-secondary': '#1a1f23',
    'color-sidebar-background': '#171b1f',
    'color-sidebar-item-background--hover': '#22292e',
    'color-background-hover': '#20262b',
    'color-background-border': '#2b3238',
    'color-problematic': '#ff9d7d',
}
html_theme_options = dict(
    light_css_variables=_light, dark_css_variables=_dark, navigation_with_keys=True, top_of_page_buttons=[]
)

def _source(app, modname):
    "The text of a module and where its definitions stand, patched methods included, for the source pages."
    code, tags = meta['tags'].get(modname, (None, None))
    return (code, {k:tuple(v) for k,v in tags.items()}) if code else None

@functools.cache
def _navigation(builder):
    "The tree of all pages in the sidebar, as the page index shows it; Sphinx takes a second to compute it."
    options = dict(collapse=False, titles_only=True, maxdepth=-1, includehidden=True)
    return builder._get_local_toctree('index', **options)

def _navigation_of(builder, page):
    "The tree in the sidebar of `page`: with addresses relative to it, and with a mark where it stands."
    entry = '<li class="toctree-l1{}"><a class="{}reference internal" href="{}">'
    before, link, after = _navigation(builder).partition(entry.format('', '', f'{page}.html'))
    if link:
        head, _, tail = before.rpartition('<ul>')
        before, link = f'{head}<ul class="current">{tail}', entry.format(' current', 'current ', '#')
    up = '../'*page.count('/')
    return re.sub(r'href="(?![a-z]+:|#)', f'href="{up}', before + link + after)

def _faster_navigation(app, pagename, templatename, context, doctree):
    "Compute the tree of the sidebar once, not again for each of the hundreds of pages."
    context['toctree'] = lambda **options: _navigation_of(app.builder, pagename)

def _scripts(app, pagename, templatename, context, doctree):
    "plotly on the pages that draw with it, excerpts on the search page."
    body = context.get('body') or ''
    if 'plotly-figure' in body or 'needs-plotly' in body: app.add_js_file('plotly.min.js', priority=100)
    if pagename == 'search': app.add_js_file('excerpts.js', priority=100)

def setup(app):
    app.connect('viewcode-find-source', _source)
    app.connect('html-page-context', _faster_navigation, priority=400)    # before the theme renders the tree
    app.connect('html-page-context', _scripts)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
