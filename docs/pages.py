"Convert the notebooks of `nbs/` to pages for Sphinx: nbdev's processors first, then the syntax of Sphinx and MyST."
import ast, functools, hashlib, html, importlib, inspect, io, json, os, re, shutil, textwrap, tokenize, typing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

import nbformat
from execnb.nbio import mk_cell, read_nb
from fastcore.docments import docments
from nbdev import processors as P
from nbdev.frontmatter import _fm2dict
from nbdev.process import NBProcessor, Processor
from nbdev.showdoc import showdoc_nm

# the sidebar: caption and description of each group, in the order of the numbers (key: package, folder, or the root)
GROUPS = dict(
    tutorials=('Tutorials', 'Start here: from the installation to your own music.'),
    core=('Core', 'Errors, files, configuration, devices, distributed processes.'),
    midi=('MIDI', 'Standard MIDI files: reading, repair, limits, writing.'),
    score=('Score', 'Scores: timing, keys, notation, cleaning, augmentation, piano rolls and audio.'),
    corpus=('Corpus', 'Collections of pieces: metadata, duplicates, splits, phrases.'),
    studies=('Studies', 'Features from music information retrieval.'),
    tokens=('Tokens', 'Vocabulary, codec and grammar: conversion of music to integers and back.'),
    data=('Data', 'The token store, and batches of windows from it.'),
    models=('Models', 'The networks, from attention to the VAE-GAN.'),
    losses=('Losses', 'Cross-entropy and musical losses.'),
    train=('Train', 'The learner, optimizers, schedules, adversarial training, checkpoints.'),
    generate=('Generate', 'Sampling, constraints, infilling and streaming, with the grammar mask.'),
    studio=('Studio', 'A page to generate, vary, edit and play music, in a notebook or a browser.'),
    monitor=('Monitor', 'Callbacks that monitor a training and act on the results.'),
    search=('Search', 'Hyperparameter search and scaling laws.'),
    evaluate=('Evaluate', 'Likelihood, distances of features, the latent space, reports.'),
    experiments=('Experiments', 'Run directories, their registry, and comparisons of runs.'),
    commands=('Commands', 'The commands of the command line, as functions.'),
    deploy=('Deploy', 'Export of models.'),
    runs=('Runs', 'The notebooks behind the commands.'),
    proofs=('Proofs', 'Notebooks that test properties of several modules together.'),
    benchmarks=('Benchmarks', 'Speed and quality, compared with other libraries.'))
ROOT_COMMANDS = ('all', 'cli')  # root modules that belong to the commands
EMPTY = inspect.Parameter.empty

@dataclass
class Api:
    "One exported object, shown below the cell that defines it."
    name:str            # `Vocab.note_on`
    module:str          # `aurl.tokens.vocab`
    node:ast.AST = None # its definition in the notebook
    obj:object = None   # the object itself, if the module could be imported
    @property
    def full(self): return f'{self.module}.{self.name}'

@dataclass
class Page:
    "A notebook and the page made from it."
    path:Path           # the notebook
    rel:Path            # its path in nbs/
    doc:str             # its name on the site: `tokens.vocab`, `tutorials/first_song`
    group:str           # its group in the sidebar
    title:str = ''
    lead:str = ''
    module:str = ''     # the module that it exports, `aurl.tokens.vocab`
    nb:object = None
    apis:list = field(default_factory=list)
    @property
    def up(self): return '../' * self.doc.count('/')
    def to(self, other): return self.up + other  # from this page to a file of the site

def clean_stem(stem):
    return re.sub(r'^\d+[a-zA-Z0-9]*_', '', stem)  # 400_tokens.vocab -> tokens.vocab, as nbdev names its pages

def find_pages(nbs, lib):
    "Return the notebooks of the folder `nbs`, in reading order."
    files = [f for f in nbs.rglob('*.ipynb') if not any(p[0] in '._' for p in f.relative_to(nbs).parts)]
    pages = []
    for f in sorted(files, key=lambda f: f.relative_to(nbs).as_posix()):
        rel = f.relative_to(nbs)
        stem = clean_stem(rel.stem)
        doc = (rel.parent/stem.lower()).as_posix()
        if rel.parent.parts: group = rel.parent.parts[0]
        elif '.' in stem: group = stem.split('.')[0]
        else: group = 'commands' if stem in ROOT_COMMANDS else 'core'
        pages.append(Page(f, rel, doc, group))
    order = list(GROUPS)
    return sorted(pages, key=lambda p: order.index(p.group) if p.group in order else len(order))

# ---------------------------------------------------------------- nbdev's part

def _mk_api(api, source=''):
    c = mk_cell(source, 'markdown')
    c.api_, c.has_sd, c.directives_ = api, True, {}
    return c

def _listed_names(c, page):
    "The public names in an exported cell `_all_ = [...]` of `aurl.all`."
    if c.cell_type != 'code' or not page.module.endswith('.all'): return []
    found = re.search(r'^_all_ = (\[.*?\])', c.source, re.M | re.S)
    return ast.literal_eval(found[1]) if found else []

def _mk_public(listed):
    c = mk_cell('', 'markdown')
    c.public_, c.has_sd, c.directives_ = listed, True, {}
    return c

class ApiCells(Processor):
    "Add a documentation cell after the cell of each exported object, for the objects of nbdev's `add_show_docs`."
    def begin(self):
        nb, page = self.nb, self.nb.page_
        said, out = set(), []
        for c in nb.cells:
            if c.cell_type == 'code' and re.search(r'^show_doc\(', c.source, re.M):
                for t in P._show_docs(c.parsed_() or []): said.add(ast.unparse(t.value.args[0]))
        for c in nb.cells:
            trees = (c.parsed_() or []) if c.cell_type == 'code' else []
            if sd := P._show_docs(trees):
                out += [_mk_api(Api(ast.unparse(t.value.args[0]), page.module)) for t in sd]
                continue
            out.append(c)
            if listed := _listed_names(c, page): out.append(_mk_public(listed))
            if not P._want_doc(c) or not page.module: continue
            for t in trees:
                if not isinstance(t, P._def_types) or (t.name[0] == '_' and t.name[:2] != '__'): continue
                nm = showdoc_nm(t)
                for n in [nm] if isinstance(nm, str) else nm:
                    if t.name[:2] == '__' and not ast.get_docstring(t): continue  # such as `__repr__` or `__len__`
                    if n not in said: out.append(_mk_api(Api(n, page.module, t)))
        nb.cells = out
        for i,c in enumerate(nb.cells): c.idx_ = i

_magic = re.compile(r'^[ \t]*%(matplotlib|load_ext|autoreload|config|reload_ext)\b.*\n?', re.M)

def setup_magics(cell):
    "Remove set-up magics; `%timeit` and `%%time` stay, since their outputs make no sense without them."
    if cell.cell_type == 'code' and (s := _magic.sub('', cell.source)) != cell.source:
        cell.source = s.strip()
        if not cell.source: del cell['source']

PROCS = [
    P.populate_language,
    ApiCells,
    P.strip_ansi,
    P.hide_line,
    P.filter_stream_,
    P.rm_header_dash,
    P.rm_export,
    setup_magics,
    P.hide_,
    P.add_fold,
    P.mv_exports,
    P.strip_hidden_metadata,
]

def front_matter(page):
    "Extract title and lead from the first cell, `# Title` and `> lead`, or from a YAML header; the rest stays."
    for c in page.nb.cells:
        if c.cell_type == 'raw' and (d := _fm2dict(c.source)):
            page.title, page.lead = d.get('title', page.title), d.get('description', page.lead)
            c.source = ''
        elif c.cell_type == 'markdown' and (m := re.search(r'^#[ \t]+(\S.*?)[ \t]*$', c.source, re.M)):
            page.title = page.title or m[1]
            s = c.source[:m.start()] + c.source[m.end():]
            if m := re.match(r'\s*((?:^>.*\n?)+)', s, re.M):
                page.lead = page.lead or ' '.join(l.lstrip('> ').strip() for l in m[1].strip().splitlines())
                s = s[m.end():]
            c.source = s.strip()
            break
        elif c.cell_type == 'code' and not c.source.lstrip().startswith('#|'): break
    if not page.title: page.title = page.doc.split('/')[-1].replace('_', ' ').replace('.', ' ').capitalize()
    page.nb.cells = [c for c in page.nb.cells if c.cell_type == 'code' or c.source.strip()]

def process(page, lib):
    "Read a notebook and apply nbdev's processors. Nothing is executed."
    page.nb = read_nb(page.path)
    if exp := P._default_exp(page.nb): page.module = f'{lib}.{exp}'
    page.nb.page_ = page
    front_matter(page)
    proc = NBProcessor(nb=page.nb, procs=PROCS)
    for c in page.nb.cells:
        if not hasattr(c, 'directives_'): c.directives_ = {}
    proc.process()
    page.apis = [c.api_ for c in page.nb.cells if getattr(c, 'api_', None)]

def resolve(pages, say=print):
    "Look up the objects of the names in the exported package."
    mods = {}
    for page in pages:
        if not page.apis: continue
        try: mods[page.module] = importlib.import_module(page.module)
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt): raise
            say(
                f'docs: {page.module} does not import ({type(e).__name__}: {e}); signatures are taken from the notebook'
            )
            continue
        for a in page.apis:
            o = mods[page.module]
            try:
                for part in a.name.split('.'):
                    o = inspect.getattr_static(o, part) if inspect.isclass(o) else getattr(o, part)
                a.obj = o
            except AttributeError: say(f'docs: {a.full} is not in the exported module; run nbdev_export')

def source_tags(root, module):
    "Line ranges of the definitions of an exported module, for the source pages; patched methods under their class."
    path = root/Path(*module.split('.')).with_suffix('.py')
    if not path.exists(): return None
    code, tags = path.read_text(encoding='utf-8'), {}
    def add(name, n):
        tags[name] = [
            'class' if isinstance(n, ast.ClassDef) else 'def',
            min([n.lineno] + [d.lineno for d in n.decorator_list]),
            n.end_lineno,
        ]
    for n in ast.parse(code).body:
        if not isinstance(n, P._def_types): continue
        nm = showdoc_nm(n)
        for s in [nm] if isinstance(nm, str) else nm: add(s, n)
        if isinstance(n, ast.ClassDef):
            for m in n.body:
                if isinstance(m, P._def_types): add(f'{n.name}.{m.name}', m)
    return code, tags

# ---------------------------------------------------------------- names become links

_tick = re.compile(r'(?<![`\[\w}>])`([^`\s]+?)`(?![`\]])')
_linked = re.compile(r'(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|<a\b.*?</a>)')

class Names:
    "Targets of back-ticked names in the prose."
    def __init__(self, pages, lib):
        self.lib, self.pages, self.full, self.short, self.page = lib, pages, {}, {}, {}
        self.public = public_names(pages)
        self.by_file, self.by_doc = {p.path.resolve():p for p in pages}, {p.doc:p for p in pages}
        for p in sorted(pages, key=lambda p: p.rel.as_posix()):
            if p.module: self.page.update({p.module:p, p.module.removeprefix(lib+'.'):p})
            if p.rel.stem != 'index': self.page.update({p.rel.stem:p, p.rel.name:p, p.rel.as_posix():p})
            if not p.rel.parent.parts and '.' in clean_stem(p.rel.stem): self.page.setdefault(clean_stem(p.rel.stem), p)
            for a in p.apis:
                self.full.setdefault(a.full, a)
                self.short.setdefault(a.name, []).append(a)

    def find(self, name, page):
        "Return the documented object of this name: on the same page first, then the one defined earliest."
        name = name.removesuffix('()')
        if name in self.full: return self.full[name]
        if a := self.full.get(f'{self.lib}.{name}'): return a
        if found := self.short.get(name): return next((a for a in found if a.module == page.module), found[0])

    def _sub(self, m, page, skip=()):
        name = m[1]
        if name in skip: return m[0]
        if a := self.find(name, page): return f'{{py:obj}}`{a.name if name == a.full else name} <{a.full}>`'
        if (p := self.page.get(name)) and p is not page: return f'[`{name}`]({page.to(p.doc)}.ipynb)'
        return m[0]

    def link(self, text, page, skip=()):
        "Return Markdown with its names linked, except those in `skip`; fences, headings and indented code are unchanged."
        out, fence = [], None
        for l in text.split('\n'):
            if m := re.match(r'\s*(`{3,}|~{3,})', l):
                if fence is None: fence = m[1]
                elif m[1].startswith(fence): fence = None
            elif fence is None and not l.startswith(('    ', '#')):
                l = ''.join(
                    s if i % 2 else _tick.sub(lambda m: self._sub(m, page, skip), s)
                    for i, s in enumerate(_linked.split(l))
                )
            out.append(l)
        return '\n'.join(out)

# ---------------------------------------------------------------- the API boxes

def _anno(a):
    "A type in short notation."
    if a is EMPTY: return ''
    if typing.get_origin(a) is typing.Annotated: a = typing.get_args(a)[0]
    if isinstance(a, str): s = a
    elif isinstance(a, type) and not typing.get_args(a): s = a.__name__
    elif isinstance(a, (list, tuple)): s = ' | '.join(_anno(o) for o in a)
    else: s = getattr(a, '__name__', None) if inspect.isfunction(a) or inspect.isbuiltin(a) else str(a)
    s = re.sub(r'\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])', '', s or '')
    s = re.sub(r'(\w+)Factory\(\)', r'\1', s)  # symusic.Score is a factory object
    return 'None' if s == 'NoneType' else s if '<' not in s else ''

def _default(d):
    "A default value in short notation, or an ellipsis."
    if d is EMPTY: return ''
    if isinstance(d, Enum): return f'{type(d).__name__}.{d.name}'
    if callable(d) and hasattr(d, '__name__'): return d.__name__ if d.__name__ != '<lambda>' else '...'
    s = repr(d)
    return s if len(s) <= 50 and '<' not in s and '\n' not in s else '...'

def _kind(a):
    "The Sphinx directive of an object, and the function that has its signature."
    o, dotted = a.obj, '.' in a.name
    if o is None: return ('class' if isinstance(a.node, ast.ClassDef) else 'method' if dotted else 'function'), None
    if inspect.isclass(o): return ('exception' if issubclass(o, BaseException) else 'class'), o
    if isinstance(o, property): return 'property', o.fget
    if type(o).__name__ == '_clsmethod': a.obj = o = classmethod(o.f)  # fastcore's, from @patch(cls_method=True)
    if isinstance(o, (classmethod, staticmethod)): return 'method', o.__func__
    f = getattr(o, 'func', o)
    return ('method' if dotted else 'function'), (
        inspect.unwrap(f) if callable(f) and not hasattr(f, '__signature__') else f
    )

def _params(f, method):
    "Parameters and return type of `f`."
    try: sig = inspect.signature(f)
    except (TypeError, ValueError): return [], EMPTY
    ps = list(sig.parameters.values())
    if method and ps and ps[0].kind in (ps[0].POSITIONAL_ONLY, ps[0].POSITIONAL_OR_KEYWORD): ps = ps[1:]
    return ps, sig.return_annotation

def _signature(ps, ret):
    parts, star = [], False
    for i,p in enumerate(ps):
        if p.kind == p.KEYWORD_ONLY and not star:
            parts.append('*')
            star = True
        if p.kind == p.VAR_POSITIONAL: star = True
        s = {p.VAR_POSITIONAL:'*', p.VAR_KEYWORD:'**'}.get(p.kind, '') + p.name
        if t := _anno(p.annotation): s += f': {t}'
        if d := _default(p.default): s += f' = {d}' if t else f'={d}'
        parts.append(s)
        if p.kind == p.POSITIONAL_ONLY and (i+1 == len(ps) or ps[i+1].kind != p.POSITIONAL_ONLY): parts.append('/')
    r = (
        _anno(ret)
        if ret is not EMPTY and not inspect.isclass(ret) or ret is not EMPTY and ret is not type(None)
        else ''
    )
    return f"({', '.join(parts)})" + (f' -> {r}' if r and r != 'None' else '')

def _cell(s): return re.sub(r'(?<!\\)\|', r'\\|', ' '.join(str(s).split()))

@functools.cache
def _classes_in(file):
    "The lines of a module, and the line range of each class; parsed once, unlike by `inspect.getsource`."
    code = Path(file).read_text(encoding='utf-8')
    found = {n.name:(n.lineno, n.end_lineno) for n in ast.parse(code).body if isinstance(n, ast.ClassDef)}
    return code.splitlines(keepends=True), found

@functools.cache
def _field_comments_of(cls):
    "The comments beside the fields in the source of `cls` itself."
    try: src = _class_source(cls)
    except (OSError, TypeError, KeyError): return {}
    try: tree = ast.parse(src).body[0]
    except (SyntaxError, IndexError): return {}
    said = {
        t.start[0]: t.string.lstrip('# ')
        for t in tokenize.generate_tokens(io.StringIO(src).readline)
        if t.type == tokenize.COMMENT
    }
    return {
        n.target.id: said[n.end_lineno]
        for n in tree.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.end_lineno in said
    }

def _class_source(cls):
    "The source of a class defined at the top level of its module."
    if cls.__qualname__ != cls.__name__: return textwrap.dedent(inspect.getsource(cls))
    lines, found = _classes_in(inspect.getsourcefile(cls))
    first, last = found[cls.__name__]
    return ''.join(lines[first-1:last])

def _field_comments(cls):
    "The comments beside the fields of a class, and of its parents."
    out = {}
    for c in reversed(cls.__mro__):
        if c.__module__.startswith('aurl'): out |= _field_comments_of(c)
    return out

def _table(f, ps, ret):
    "nbdev's table of docments: one row a parameter."
    try: dm = docments(f, full=True, args_kwargs=True)
    except Exception: dm = {}
    fields = _field_comments(f) if inspect.isclass(f) else {}
    doc = lambda k: (dm.get(k) or {}).get('docment') or fields.get(k) or ''
    rows = [(p.name, _anno(p.annotation), _default(p.default), doc(p.name)) for p in ps]
    r = ('return', _anno(ret), '', doc('return')) if ret is not EMPTY else None
    if not any(x[3] for x in rows) and not (r and r[3]): return ''
    cols = [i for i in (1, 2, 3) if any(x[i] for x in rows + ([r] if r else []))]
    head = ['', 'Type', 'Default', 'Details']
    lines = ['| ' + ' | '.join([' '] + [head[i] for i in cols]) + ' |', '|' + '---|' * (len(cols)+1)]
    code = lambda s: f'`{_cell(s)}`' if s else ''      # a type may become a link,
    plain = lambda s: f'`` {_cell(s)} ``' if s else ''  # a parameter or a default never does
    for x in rows:
        lines.append('| ' + ' | '.join([plain(x[0])] + [(plain, code, plain, _cell)[i](x[i]) for i in cols]) + ' |')
    if r and (r[1] or r[3]):
        lines.append(
            '| '
            + ' | '.join(['**Returns**'] + [_cell(x) if i == 3 else code(x) for i, x in enumerate(r) if i in cols])
            + ' |'
        )
    return '\n'.join(lines)

def _same_as_base(cls, names):
    "The documented parent with the same parameters as `cls`, if there is one."
    for b in cls.__mro__[1:]:
        if (a := names.full.get(f'{b.__module__}.{b.__qualname__}')) and cls.__init__ is b.__init__:
            try: return a if str(inspect.signature(cls)) == str(inspect.signature(b)) else None
            except (TypeError, ValueError): return None

def api_markdown(a, page, names, seen):
    "The entry of one object: Sphinx directive, signature, docstring and table, and an anchor as in nbdev."
    kind, f = _kind(a)
    opts, table, o, own = [], '', a.obj, set()
    if f is None and a.node is not None:
        doc = ast.get_docstring(a.node) or ''
        args = getattr(a.node, 'args', None)
        if args is None: args = next((m.args for m in a.node.body if getattr(m, 'name', '') == '__init__'), None)
        sig = re.sub(r'^\(self(:[^,)]*)?(, )?', '(', f'({ast.unparse(args)})') if args else '()'
    elif f is None: doc, sig = '', ''
    else:
        doc = inspect.getdoc(f) or ''
        cls = inspect.isclass(o)
        ps, ret = _params(f, kind in ('method', 'property') and not isinstance(o, staticmethod))
        if cls: ret = EMPTY
        own = {p.name for p in ps}  # in its own docstring, a parameter is not the function of the same name
        if cls and (
            issubclass(o, Enum)
            or [p.kind for p in ps] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
            and getattr(o, '_is_protocol', False)
        ):
            ps = []
        if cls and doc == (inspect.getdoc(object) or ''): doc = ''
        sig, table = _signature(ps, ret), _table(f, ps, ret)
        if cls and (b := _same_as_base(o, names)): sig, table = '', f'It has the parameters of its parent `{b.full}`.'
        if kind == 'property':
            sig = ''
            if t := _anno(ret): opts.append(f':type: {t}')
        if isinstance(o, classmethod): opts.append(':classmethod:')
        if isinstance(o, staticmethod): opts.append(':staticmethod:')
        if inspect.iscoroutinefunction(f): opts.append(':async:')
    if a.full in seen: opts.append(':no-index:')
    seen.add(a.full)
    anchor = (
        f'<span id="{html.escape(a.name.lower())}" class="nb-anchor"></span>\n\n' if ':no-index:' not in opts else ''
    )
    body = names.link('\n\n'.join(s for s in (doc, table) if s), page, own)
    return f'{anchor}``````{{py:{kind}}} {a.name}{sig}\n' + ''.join(o + '\n' for o in opts) + '\n' + body + '\n``````'

# ---------------------------------------------------------------- prose

_callout = re.compile(r'^(:{3,})\s*\{\s*\.callout-(\w+)([^}]*)\}\s*$')
_kinds = dict(note='note', tip='tip', warning='warning', caution='caution', important='important')

def callouts(text):
    "Convert Quarto's callouts, tab sets and other fenced divs to the syntax of Sphinx."
    lines, out, stack, fence = text.split('\n'), [], [], None
    for i,l in enumerate(lines):
        if m := re.match(r'\s*(`{3,}|~{3,})', l):
            fence = m[1] if fence is None else None if m[1].startswith(fence) else fence
        if fence is not None:
            out.append(l)
            continue
        if m := re.match(r'^(:{3,})\s*(\{.*\})?\s*(\S+)?\s*$', l):
            attrs = m[2] or (f'{{.{m[3]}}}' if m[3] else '')
            if attrs and not attrs.startswith('{.') and re.match(r'\{[\w:-]+\}$', attrs) :
                stack.append((m[1], 'raw'))
                out.append(l)
                continue
            if attrs:
                title = re.search(r'title\s*=\s*["“](.*?)["”]', attrs)
                if c := re.search(r'\.callout-(\w+)', attrs):
                    kind = _kinds.get(c[1], 'note')
                    title = title and title[1]
                    if (
                        not title
                        and (n := next((j for j in range(i + 1, len(lines)) if lines[j].strip()), None)) is not None
                        and (h := re.match(r'#+\s+(.*)', lines[n]))
                    ):
                        title, lines[n] = h[1], ''
                    mark = ':' * (12 - len(stack))
                    if re.search(r'collapse\s*=\s*"?true', attrs):
                        out += [f'{mark}{{dropdown}} {title or kind.capitalize()}', '']
                    elif title: out += [f'{mark}{{admonition}} {title}', f':class: {kind}', '']
                    else: out += [f'{mark}{{{kind}}}', '']
                    stack.append((mark, 'call'))
                elif 'panel-tabset' in attrs:
                    mark = ':' * (12 - len(stack))
                    out += [f'{mark}{{tab-set}}', '']
                    stack.append((mark, 'tabs'))
                else: stack.append(('', 'plain'))
                continue
            if stack:
                mark, kind = stack.pop()
                if kind == 'tab':
                    out.append(mark)
                    mark, kind = stack.pop()
                if kind == 'raw': out.append(l)
                elif mark: out += ['', mark]
                continue
        if stack and stack[-1][1] in ('tabs', 'tab') and (h := re.match(r'#+\s+(.*)', l)):
            if stack[-1][1] == 'tab': out.append(stack.pop()[0])
            mark = ':' * (12 - len(stack))
            out += [f'{mark}{{tab-item}} {h[1]}', '']
            stack.append((mark, 'tab'))
            continue
        out.append(l)
    while stack:
        mark, kind = stack.pop()
        if mark and kind != 'raw': out.append(mark)
    return '\n'.join(out)

def headings(text):
    "Move other first-level headings one level down: a page has one title."
    out, fence = [], None
    for l in text.split('\n'):
        if m := re.match(r'\s*(`{3,}|~{3,})', l):
            fence = m[1] if fence is None else None if m[1].startswith(fence) else fence
        elif fence is None: l = re.sub(r'^#(?=\s)', '##', l)
        out.append(l)
    return '\n'.join(out)

class Assets:
    "Local files that pages show or link to, copied to the site."
    def __init__(self, root, nbs, work):
        self.root, self.nbs, self.src, self.extra, self.n = root, nbs, work/'src', work/'extra', 0
    def where(self, ref, page):
        "Resolve a relative reference of a page: beside the notebook, in the notebooks' folder, or in the repository."
        ref = unquote(ref.split('#')[0].split('?')[0])
        if not ref: return None
        for base in (page.path.parent, self.nbs/page.rel.parent, self.root/'nbs'/page.rel.parent, self.nbs, self.root):
            f = (base/ref.lstrip('/')).resolve()
            if f.is_file(): return f
    def take(self, f, to):
        "Copy `f` to the files of the site and return its address relative to the root of the site."
        name = f'assets/{hashlib.sha1(str(f).encode()).hexdigest()[:6]}-{f.name}'
        for base in to:
            (base/'assets').mkdir(parents=True, exist_ok=True)
            shutil.copy2(f, base/name)
        return name

_remote = re.compile(r'^(https?:)?//', re.I)

def references(text, page, names, assets, cfg):
    "Links to notebooks become links to pages, linked files are copied, remote pictures become their description."
    host = cfg['doc_host'].rstrip('/') + '/' + cfg.get('doc_baseurl', '').strip('/')
    host = host.rstrip('/') + '/'
    by_file, by_doc = names.by_file, names.by_doc
    def target(url):
        if url.startswith(host): url = '/' + url[len(host):]
        elif re.match(r'^([a-z][a-z0-9+.-]*:|//|#)', url, re.I): return url
        path, _, frag = url.partition('#')
        frag = '#' + frag if frag else ''
        if path.endswith(('.html', '/')) or path in ('', '/'):
            doc = path.strip('/').removesuffix('.html') or 'index'
            doc = os.path.normpath(
                doc if path.startswith('/') else os.path.join(os.path.dirname(page.doc), doc)
            ).replace(os.sep, '/')
            if doc in by_doc or doc == 'index': return page.to(doc) + '.html' + frag
        f = assets.where(path, page)
        if f in by_file: return page.to(by_file[f].doc) + '.ipynb' + frag
        if f is None and (m := re.search(r'([^/]+)\.ipynb$', path)) and (p := names.page.get(m[1])):
            return page.to(p.doc) + '.ipynb' + frag
        if f is None: return None
        return page.to(assets.take(f, [assets.extra]))
    def image(m):
        alt, url, rest = m[1], m[2], m[3] or ''
        if url.startswith(('data:', 'attachment:')): return m[0]
        if _remote.match(url): return alt
        f = assets.where(url, page)
        return f'![{alt}]({page.to(assets.take(f, [assets.src]))}{rest})' if f else alt
    def link(m):
        text, url, rest = m[1], m[2], m[3] or ''
        t = target(url)
        if t is None: return text
        if t.endswith('.html') or '.html#' in t or '/assets/' in '/'+t and not re.match(r'^[a-z]+:', t):
            return f'<a class="reference internal" href="{html.escape(t)}">{text}</a>'
        return f'[{text}]({t}{rest})'
    def tag(m):
        pre, q, url, post = m[1], m[2], m[3], m[4]
        if url.startswith('data:') or url.startswith('#'): return m[0]
        if _remote.match(url) and not url.startswith(host):
            return '' if re.match(r'<(img|script|link|iframe|source|video|audio|embed)\b', pre, re.I) else m[0]
        if re.match(r'^[a-z][a-z0-9+.-]*:', url, re.I) and not url.startswith(host): return m[0]
        t = target(url)
        if t is None: return '<a>' if pre[:2].lower() == '<a' else ''
        return f'{pre}{q}{html.escape(t).replace(".ipynb", ".html")}{q}{post}'
    out, fence = [], None
    for l in text.split('\n'):
        if m := re.match(r'\s*(`{3,}|~{3,})', l):
            fence = m[1] if fence is None else None if m[1].startswith(fence) else fence
        elif fence is None:
            parts = re.split(r'(`+[^`]*`+)', l) if '`' in l and not re.search(r'\[[^\]]*`[^\]]*\]\(', l) else [l]
            for i in range(0, len(parts), 2):
                s = re.sub(
                    r'(<(?:a|img|audio|video|source|iframe|script|link|embed)\b[^>]*?\b(?:src|href)=)(["\'])(.*?)\2([^>]*>)',
                    tag,
                    parts[i],
                    flags=re.I,
                )
                s = re.sub(r'!\[([^\]]*)\]\(<?([^)\s>]+)>?((?:\s+"[^"]*")?)\)', image, s)
                parts[i] = re.sub(
                    r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^)\s>]+)>?((?:\s+"[^"]*")?)\)(?:\{[^}]*\})?', link, s
                )
            l = ''.join(parts)
        out.append(l)
    return '\n'.join(out)

def attachments(cell, text):
    "Replace pictures pasted into a Markdown cell by data URLs."
    for name, mimes in (cell.get('attachments') or {}).items():
        mime, data = next(iter(mimes.items()))
        text = re.sub(
            r'!\[([^\]]*)\]\(attachment:%s\)' % re.escape(name),
            lambda m: f'<img alt="{html.escape(m[1])}" src="data:{mime};base64,{data}">',
            text,
        )
    return text

# ---------------------------------------------------------------- code and its outputs

_opt = re.compile(r'^\s*#\|\s*([\w-]+)\s*:\s*(.*?)\s*$')

def cell_options(cell):
    "Remove Quarto's `#| key: value` lines from the source and return them."
    opts, keep = {}, []
    for l in cell.source.split('\n'):
        if m := _opt.match(l): opts[m[1]] = m[2].strip('"\'')
        elif not re.match(r'^\s*#\|', l): keep.append(l)
    cell.source = '\n'.join(keep).strip('\n')
    return opts

def _text(x): return ''.join(x) if isinstance(x, (list, tuple)) else x or ''

def plotly_div(fig, uid):
    "A figure that is drawn by the plotly.min.js of the site."
    data = json.dumps(
        dict(data=fig.get('data', []), layout=fig.get('layout', {}), config=fig.get('config', {}))
    ).replace('</', '<\\/')
    h = fig.get('layout', {}).get('height') or 450
    return f'<div class="plotly-figure" id="{uid}" style="min-height:{int(h)}px"><script type="application/json">{data}</script></div>'

_plotly_src = re.compile(r'<script[^>]*\bsrc=["\'][^"\']*plotly[^"\']*["\'][^>]*>\s*</script>', re.I)
_remote_tag = re.compile(
    r'<(script|iframe)\b[^>]*\bsrc=["\'](?:https?:)?//[^"\']*["\'][^>]*>.*?</\1>|<(?:link|img|source|embed)\b[^>]*\b(?:src|href)=["\'](?:https?:)?//[^"\']*["\'][^>]*>',
    re.I | re.S,
)
_import_css = re.compile(r'@import\s+url\([^)]*//[^)]*\)\s*;?', re.I)

def html_output(s):
    "HTML of a cell without remote resources; output that needs plotly is marked."
    big = len(s) > 1_000_000 and 'plotly.js v' in s
    if big: s = re.sub(r'<script[^>]*>(?:(?!</script>).)*?plotly\.js v.*?</script>', '', s, flags=re.S)
    needs = big or bool(_plotly_src.search(s)) or 'Plotly.newPlot' in s
    s = _import_css.sub('', _remote_tag.sub('', _plotly_src.sub('', s)))
    return ('<div class="needs-plotly" hidden></div>' if needs else '') + s

def outputs(cell, opts, page, i):
    "The outputs of a cell in formats that a page can show offline; HTML (players, tables) before pictures before text."
    if opts.get('output') == 'false': return []
    out = []
    for j,o in enumerate(cell.get('outputs') or []):
        t = o.get('output_type')
        if t == 'stream':
            if o.get('name') == 'stderr': continue
            text = _text(o.get('text'))
            if opts.get('output') == 'asis':
                out.append(nbformat.v4.new_output('display_data', data={'text/markdown':text}))
            elif text.strip(): out.append(nbformat.v4.new_output('stream', name='stdout', text=text))
        elif t == 'error':
            out.append(
                nbformat.v4.new_output(
                    'error',
                    ename=o.get('ename', ''),
                    evalue=o.get('evalue', ''),
                    traceback=list(o.get('traceback', [])),
                )
            )
        elif t in ('display_data', 'execute_result'):
            data = {
                k: (v if isinstance(v, (dict, list)) and 'json' in k else _text(v))
                for k, v in dict(o.get('data', {})).items()
            }
            fig = data.get('application/vnd.plotly.v1+json')
            if fig: data = {'text/html':plotly_div(fig, f'fig-{i}-{j}')}
            elif 'text/html' in data: data = {'text/html':html_output(data['text/html'])}
            elif 'application/vnd.jupyter.widget-view+json' in data:
                data = {
                    'text/html': '<p class="widget-note">The notebook has an interactive widget here; open it in JupyterLab to use it.</p>'
                }
            else: data = {k:v for k,v in data.items() if k.startswith(('image/', 'text/'))}
            if data: out.append(nbformat.v4.new_output('display_data', data=data, metadata={}))
    return out

def code_cell(cell, page, i):
    "A code cell with the tags of myst-nb."
    opts = cell_options(cell)
    if opts.get('include') == 'false': return None
    tags, meta = list(cell.get('metadata', {}).get('tags', [])), {}
    if opts.get('echo') == 'false': tags.append('remove-input')
    if opts.get('code-fold') in ('true', 'show') or 'hide-input' in tags:
        tags = [t for t in tags if t != 'hide-input'] + ['hide-input']
    if s := opts.get('code-summary'): meta = {'code_prompt_show':s, 'code_prompt_hide':s}
    outs = outputs(cell, opts, page, i)
    if not cell.source.strip() and not outs: return None
    md = {'tags':sorted(set(tags))}
    if meta: md['mystnb'] = meta
    return nbformat.from_dict(
        dict(cell_type='code', id='', source=cell.source, outputs=outs, metadata=md, execution_count=None)
    )

# ---------------------------------------------------------------- the public names

_import_line = re.compile(r'^from \S*?\.([\w.]+) import (.+)$', re.M)

def public_names(pages):
    "The names that `aurl.all` exports, with the page of the module that defines each."
    by_module = {p.module.partition('.')[2]: p for p in pages if p.module}
    face = by_module.get('all')
    if face is None: return {}
    sources = [_text(c.source) for c in read_nb(face.path).cells if c.cell_type == 'code']
    imports = [line for s in sources if s.startswith('#| export') for line in _import_line.findall(s)]
    return {name.strip(): by_module[m] for m, names in imports if m in by_module for name in names.split(',')}

def example_names(source, page, public, shown):
    "The public names of `page` that a cell demonstrates and no earlier cell did; they are added to `shown`."
    new = [n for n, p in public.items() if p is page and n not in shown and re.search(rf'(?<![\w.]){n}\b', source)]
    shown.update(new)
    return new

def public_table(listed, page, public, names):
    "A table of public names: the name, its summary and a link to its first example."
    rows = ['| name | what it is | first use |', '|---|---|---|']
    for name in listed:
        a = names.full.get(f'{public[name].module}.{name}')
        summary = (inspect.getdoc(a.obj) or '').partition('\n')[0] if a is not None and a.obj is not None else ''
        link = f'{{py:obj}}`{name} <{public[name].module}.{name}>`' if a is not None else f'`{name}`'
        example = f'<a href="{page.to(public[name].doc)}.html#example-{name.lower()}">example</a>'
        rows.append(f'| {link} | {_cell(names.link(summary, page))} | {example} |')
    return '\n'.join(rows)

def _markdown(source):
    "A cell of Markdown. The notebook is validated once, when it is written."
    return nbformat.from_dict(dict(cell_type='markdown', id='', source=source, metadata={}))

def write_page(page, dest, names, assets, cfg, seen, links):
    "Write the finished page as a notebook that myst-nb renders."
    esc = html.escape
    head = [f'# {page.title}']
    if page.module:
        syn = re.sub(r'[`*_\[\]]', '', page.lead)
        head.append(
            f'```{{py:module}} {page.module}\n:synopsis: {syn}\n```' if syn else f'```{{py:module}} {page.module}\n```'
        )
    if page.lead: head.append('::::{div} lead\n' + names.link(page.lead, page) + '\n::::')
    where = f'nbs/{page.rel.as_posix()}'
    bits = []
    if page.module: bits.append(f'<code>{esc(page.module)}</code>')
    if page.module in links:
        bits.append(f'<a href="{page.to("_modules/" + page.module.replace(".", "/"))}.html">source</a>')
    bits.append(f'notebook <code>{esc(where)}</code>')
    if page.doc != 'index': head.append('<p class="nb-meta">' + '<span class="dot"> · </span>'.join(bits) + '</p>')
    cells, shown, public = [_markdown('\n\n'.join(head))], set(), names.public
    for i,c in enumerate(page.nb.cells):
        source = _text(c.get('source', ''))
        if getattr(c, 'public_', None):
            cells.append(_markdown(public_table(c.public_, page, public, names)))
            continue
        if c.cell_type == 'code' and page.module and (new := example_names(source, page, public, shown)):
            anchors = ''.join(f'<span id="example-{n.lower()}" class="nb-anchor"></span>' for n in new)
            cells.append(_markdown(anchors))
        if getattr(c, 'api_', None): cells.append(_markdown(api_markdown(c.api_, page, names, seen)))
        elif c.cell_type == 'markdown':
            s = names.link(
                references(headings(callouts(attachments(c, _text(c.source)))), page, names, assets, cfg), page
            )
            if s.strip(): cells.append(_markdown(s))
        elif c.cell_type == 'code' and (n := code_cell(c, page, i)): cells.append(n)
    for i,c in enumerate(cells): c['id'] = f'c{i}'
    meta = dict(
        kernelspec=dict(name='python3', display_name='Python 3', language='python'),
        language_info=dict(name='python', pygments_lexer='ipython3'),
    )
    nb = nbformat.from_dict(dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5))
    f = dest/f'{page.doc}.ipynb'
    f.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, f)
    return nb
