#!/usr/bin/env python
"""Build the documentation: `python docs/build.py --out _docs`, then open `_docs/index.html`.

nbdev's processors convert the notebooks (nothing is executed: a page shows the saved outputs), Sphinx, myst-nb and furo
render the pages, and the finished site is checked for broken links. The site works from `file://`, without a network.
"""
import argparse, configparser, importlib.metadata, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent
root = here.parent
sys.path[:0] = [str(root), str(here)]
needed = dict(
    nbdev='nbdev',
    sphinx='sphinx',
    myst_nb='myst-nb',
    furo='furo',
    sphinx_design='sphinx-design',
    sphinx_copybutton='sphinx-copybutton',
)

def say(*a): print(*a, flush=True)

def settings():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def mathjax():
    "Path of the MathJax file of sphinx-mathjax-offline: SVG output with all TeX extensions, which loads no other file."
    for f in importlib.metadata.files('sphinx-mathjax-offline') or []:
        if f.name == 'tex-svg-full.js': return Path(f.locate())
    raise FileNotFoundError('tex-svg-full.js')

def sidebar(pages):
    "The table of contents for the end of the index, with a caption for each group."
    from pages import GROUPS
    out = []
    for g in dict.fromkeys(p.group for p in pages):
        own = [p for p in pages if p.group == g and p.doc != 'index']
        if not own: continue
        out.append(
            f'```{{toctree}}\n:hidden:\n:caption: {GROUPS[g][0]}\n\n' + '\n'.join(f'/{p.doc}' for p in own) + '\n```'
        )
    return '\n\n'.join(out + ['```{toctree}\n:hidden:\n:caption: Reference\n\n/architecture\n/api\n```'])

def rooms(pages):
    "Cards for the landing page: each group with its notebooks."
    from pages import GROUPS
    out = [
        '## Notebooks',
        '',
        'Every module of aurl is a notebook that explains, demonstrates and tests it. The notebooks are in the order '
        'of the pipeline: each imports only from those before it.',
        '',
        '::::::{grid} 1 2 2 3',
        ':gutter: 3',
        ':class-container: rooms',
        '',
    ]
    for g in dict.fromkeys(p.group for p in pages):
        own = [p for p in pages if p.group == g and p.doc != 'index']
        if not own: continue
        out += [f':::::{{grid-item-card}} {GROUPS[g][0]}', GROUPS[g][1], '']
        out += [f'- [{p.title}]({p.doc}.ipynb)' for p in own] + [':::::', '']
    return '\n'.join(out + ['::::::'])

def api_page(pages, names):
    "The page with all exported names, in one table per module."
    from pages import GROUPS, api_markdown
    import inspect
    out = [
        '# API at a glance',
        '',
        '::::{div} lead\nEvery exported name, with the first line of its documentation. The notebooks have the details.\n::::',
        '',
        'See also the {ref}`index of all names <genindex>`.',
        '',
    ]
    for g in dict.fromkeys(p.group for p in pages):
        own = [p for p in pages if p.group == g and p.apis]
        if not own: continue
        out += [f'## {GROUPS[g][0]}', '', GROUPS[g][1], '']
        for p in own:
            out += [
                f'### `{p.module}`',
                '',
                f'[{p.title}]({p.doc}.ipynb)' + (f': {names.link(p.lead, p)}' if p.lead else ''),
                '',
                '::::{div} api-table',
                '| Name | Description |',
                '|---|---|',
            ]
            for a in p.apis:
                doc = (inspect.getdoc(a.obj) if a.obj is not None and getattr(a.obj, '__doc__', None) else '') or ''
                line = ' '.join(doc.split('\n\n')[0].split()).replace('|', '\\|')
                out.append(f'| {{py:obj}}`{a.name} <{a.full}>` | {names.link(line, p)} |')
            out += ['::::', '']
    return '\n'.join(out)

def write_architecture(src, pages, names):
    "Write the page Architecture to the folder `src`."
    import pages as pg
    from architecture import architecture_page
    own = pg.Page(here/'architecture.md', Path('architecture.md'), 'architecture', 'reference')
    text = architecture_page(pages, pg.GROUPS, names.link, own)
    (src/'architecture.md').write_text(text, encoding='utf-8')

def redirects(site):
    "Write redirects, which keep the fragment, from the old addresses in docs/moved.yaml; return their number."
    import yaml
    moved = yaml.safe_load((here/'moved.yaml').read_text(encoding='utf-8'))
    for old, new in moved.items():
        page = site/f'{old}.html'
        if page.exists(): raise SystemExit(f'docs: {old} is a page, but docs/moved.yaml redirects it to {new}')
        address = '../'*old.count('/') + f'{new}.html'
        page.write_text(f'''<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Moved to {new}</title>
<meta name="robots" content="noindex"><meta http-equiv="refresh" content="1; url={address}">
<script>location.replace("{address}" + location.hash)</script></head>
<body><p>This page has moved to <a href="{address}">{new}</a>.</p></body></html>
''', encoding='utf-8')
    return len(moved)

def make_source(nbs, work):
    "Write the pages and their files to `work`."
    import pages as pg
    cfg = settings()
    lib = cfg['lib_name']
    src, static, extra = work/'src', work/'static', work/'extra'
    for d in (src, static, extra): d.mkdir(parents=True)
    pages = pg.find_pages(nbs, lib)
    for p in pages: pg.process(p, lib)
    pg.resolve(pages, say)
    names, assets = pg.Names(pages, lib), pg.Assets(root, nbs, work)
    tags = {m:t for m in {p.module for p in pages if p.apis} if (t := pg.source_tags(root, m))}
    tags = {m:t for m,t in tags.items() if any(a.name in t[1] for p in pages if p.module == m for a in p.apis)}
    seen, formulas = set(), False
    for p in pages: pg.write_page(p, src, names, assets, cfg, seen, tags)
    end = rooms(pages) + '\n\n' + sidebar(pages) + '\n'
    if (f := src/'index.ipynb').exists():
        import nbformat
        nb = nbformat.read(f, 4)
        nb.cells.append(nbformat.v4.new_markdown_cell(end))
        nb.cells[-1]['id'] = 'rooms'
        nbformat.write(nb, f)
    else:
        (src / 'index.md').write_text(
            f'# {cfg["title"]}\n\n::::{{div}} lead\n{cfg["description"]}\n::::\n\n{end}', encoding='utf-8'
        )
    (src/'api.md').write_text(api_page(pages, names), encoding='utf-8')
    write_architecture(src, pages, names)
    everything = ''.join(f.read_text(encoding='utf-8') for f in src.rglob('*.ipynb'))
    if 'plotly-figure' in everything or 'needs-plotly' in everything:
        import plotly
        shutil.copy2(Path(plotly.__file__).parent/'package_data'/'plotly.min.js', static)
    shutil.copy2(mathjax(), static)
    meta = dict(
        title=cfg['title'],
        version=cfg['version'],
        copyright=cfg['copyright'],
        author=cfg['author'],
        static=str(static),
        extra=str(extra),
        tags=tags,
    )
    (work/'meta.json').write_text(json.dumps(meta), encoding='utf-8')
    return pages

def build(out=root/'_docs', nbs=root/'nbs', verbose=False):
    "Build the site into `out` and return the number of broken links."
    import check
    t0, out, nbs = time.time(), Path(out).resolve(), Path(nbs).resolve()
    with tempfile.TemporaryDirectory(prefix='aurl-docs-') as tmp:
        work = Path(tmp)
        pages = make_source(nbs, work)
        say(
            f'docs: {len(pages)} notebooks, {sum(len(p.apis) for p in pages)} exported names read in {time.time()-t0:.0f} s; running Sphinx'
        )
        env = dict(
            os.environ,
            AURL_DOCS=str(work / 'meta.json'),
            PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
            PYDEVD_DISABLE_FILE_VALIDATION='1',
        )
        cmd = [
            sys.executable,
            '-m',
            'sphinx',
            '-b',
            'html',
            '-c',
            str(here),
            '-d',
            str(work / 'doctrees'),
            '-j',
            str(min(4, os.cpu_count() or 1)),
            '--keep-going',
        ]
        r = subprocess.run(cmd + ([] if verbose else ['-q']) + [str(work/'src'), str(work/'html')], env=env)
        if r.returncode or not (work/'html'/'index.html').exists():
            raise SystemExit('docs: Sphinx failed to build the site')
        check.write_excerpts(work/'html')
        redirects(work/'html')
        (work/'html'/'.nojekyll').touch()  # GitHub Pages serves the files unchanged
        broken = check.problems(work/'html')
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.with_name(f'.{out.name}.new')
        for d in (new, out): shutil.rmtree(d, ignore_errors=True) if d is new or (d/'.buildinfo').exists() else None
        if out.exists() and any(out.iterdir()): raise SystemExit(f'docs: {out} exists and is not a site; move it away')
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(work/'html', new, ignore=shutil.ignore_patterns('.doctrees'))
        new.rename(out)
    for b in broken: say(f'docs: {b}')
    say(
        f'docs: {out/"index.html"} is ready, {time.time()-t0:.0f} s'
        + (f'; {len(broken)} broken links' if broken else '')
    )
    return len(broken)

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--out', default=root/'_docs', help='folder of the site (default: _docs)')
    ap.add_argument('--nbs', default=root/'nbs', help='folder of the notebooks (default: nbs)')
    ap.add_argument('--verbose', action='store_true', help='print the log of Sphinx')
    a = ap.parse_args()
    missing = [d for m,d in needed.items() if importlib.util.find_spec(m) is None]
    try: mathjax()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError): missing.append('sphinx-mathjax-offline')
    if missing: raise SystemExit(f"docs: {', '.join(missing)} not installed; pip install -e '.[dev,docs]'")
    raise SystemExit(1 if build(a.out, a.nbs, a.verbose) else 0)

if __name__ == '__main__': main()
