"""The prose: each notebook leads to the next, names notebooks that exist, and uses the terms of the field.

Code identifiers are not checked here. To allow a word in one place, add it to `EXCEPTIONS` with the reason.
"""
import ast
import io
import json
import re
import tokenize

import pytest
from common import root


def is_hidden(path):
    "Whether a file or one of its folders below `nbs` is hidden."
    return any(part[0] in '._' for part in path.relative_to(root / 'nbs').parts)


NOTEBOOKS = [p for p in sorted((root / 'nbs').rglob('*.ipynb')) if not is_hidden(p)]
NUMBERED = [p for p in NOTEBOOKS if p.parent.name == 'nbs' and re.match(r'\d{3}_', p.stem)]
PAGES = ['README.md', 'CONTRIBUTING.md', 'docs/architecture.md']


def cells_of(path):
    "Kind and source of each cell of a notebook."
    return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]


def markdown_of(path):
    "The Markdown cells of a notebook."
    return [source for kind, source in cells_of(path) if kind == 'markdown']


# ---------------------------------------------------------------- each notebook leads to the next

def next_stems(path):
    "What the last prose cell of a notebook names as the next notebook."
    return re.findall(r'\bNext:\s*`([^`]+)`', markdown_of(path)[-1])


@pytest.mark.parametrize('here, there', list(zip(NUMBERED, NUMBERED[1:])), ids=lambda p: p.stem)
def test_every_notebook_leads_to_the_next(here, there):
    "The last prose cell of each notebook names the next notebook."
    assert next_stems(here) == [there.stem], f'the last prose cell of {here.name} should say: Next: `{there.stem}` …'


def test_the_last_notebook_leads_to_the_runs():
    "The last notebook leads to `runs`."
    assert next_stems(NUMBERED[-1]) == ['runs']


# ---------------------------------------------------------------- headers of other formats

def is_header(kind, source):
    "Whether a cell is a header that jupytext or Quarto left behind."
    return kind == 'raw' or bool(re.match(r'\s*#?\s*---\s*\n', source)) or 'jupytext:' in source


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_no_notebook_begins_with_a_header_of_jupytext(path):
    "No notebook begins with a header of another format."
    assert not is_header(*cells_of(path)[0]), f'{path.name}: delete the first cell'


def test_a_header_is_seen():
    "Headers are found, and ordinary first cells are accepted."
    for cell in (('code', '# ---\n# jupyter:\n#   jupytext:\n'), ('raw', 'x'), ('markdown', '---\ntitle: x')):
        assert is_header(*cell)
    for cell in (('markdown', '# Title\n> lead'), ('code', '#| default_exp core')):
        assert not is_header(*cell)


# ---------------------------------------------------------------- names of notebooks

STEM = r'\d{2,3}[a-z]{0,2}_[a-z][\w.]*'  # also the form of old names: two digits, letters


def stems_in(text):
    "The stems of notebooks that a text names in backticks, perhaps with a folder and `.ipynb`."
    named = re.findall(rf'`(?:[\w./-]*/)?({STEM})`', text)
    return [name.removesuffix('.ipynb') for name in named]


@pytest.mark.parametrize('path', [*NOTEBOOKS, *(root / p for p in PAGES)], ids=lambda p: p.stem)
def test_named_notebooks_exist(path):
    "Every notebook that is named in backticks exists."
    known = {p.stem for p in NOTEBOOKS}
    text = path.read_text(encoding='utf-8') if path.suffix == '.md' else '\n'.join(s for _, s in cells_of(path))
    lost = sorted(set(stems_in(text)) - known)
    assert not lost, f'{path.name} names {lost}, which are no notebooks'


def test_stems_are_seen():
    "Names of notebooks are found in a text, also old ones."
    text = 'See `405_tokens.codec`, `nbs/420_tokens.grammar.ipynb`, `32ab_line` and `10_x`; not `id_3` and `v1_x`'
    assert stems_in(text) == ['405_tokens.codec', '420_tokens.grammar', '32ab_line', '10_x']


# ---------------------------------------------------------------- words

# pattern: what to say instead
BANNED = {
    r'(?<!model\s)(graphics )?cards?': 'GPU',      # a model card is the description of a model
    r'foresees?|foresaw|foreseen|foreseeing': 'predict',
    r'dream(s|ed|t|ing)?': 'sample from the prior',
    r'hears?|heard|hearing|listen(s|ed|ing|ers?)?': 'receive, attend to, condition on',
    r'(is|are|was|were|be|been|being) told(?! apart)': 'receives, is conditioned on, is reported',
    r'nobody|somebody': 'name who: no process, no caller, a user',
    r'surprises?': 'loss, cross-entropy, nats per token',
    r'prices?': 'loss, cost, KL term',
    r'judg(e|es|ed|ing)': 'evaluate, score; critic, metric',
    r'crews?|errands?': 'worker processes, job',
    r'wish(es|ed)?': 'option, request',
    r'rescue(s|d|r)?|rescuing': 'roll back, recover',
    r'shelf|shelves': 'buffer, folder',
    r'salvag(e|es|ed|ing)': 'repair',
    r'clouds?': 'Gaussian, posterior',
    r'unaided': 'without the mask, unmasked',
    r'glances?': 'attention, attend to',
    r'let(s|ting)? go': 'anneal, release',
    r'chances? (of|that)': 'probability',
}
PATTERNS = {re.compile(rf'\b({words})\b', re.I): instead for words, instead in BANNED.items()}

# (notebook or page, word): why it stays
EXCEPTIONS = {
    ('205_score.keys', 'listener'): 'Krumhansl asked listeners',
    ('280_score.transforms', 'listening'): 'people compare arrangements by ear',
    ('425_tokens.verdict', 'hear'): 'notes that are too soft for an ear',
    ('640_models.latent_metrics', 'listen'): 'the user plays the pieces',
    ('first_song', 'listen'): 'the user plays the samples',
}


CODE = re.compile(
    r"""```.*?```               # a block of code
    | `[^`]*`                   # code in a line
    | \$\$.*?\$\$               # a formula
    | \]\([^)]*\)              # where a link leads
    | https?://\S+
    | <[^>]*>                   # HTML
    | \b\w+(\.\w+)+\b          # `model.dream`
    | \b\w+=                    # `rescues=3`""", re.S | re.X)


def plain(text):
    "A text without code, names in code, formulas and addresses, in one line."
    return ' '.join(CODE.sub(' ', text).split())


def constants(node):
    "The text in a node, without what an f-string computes."
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ''
    if isinstance(node, ast.FormattedValue):
        return ' '
    return ' '.join(filter(None, (constants(child) for child in ast.iter_child_nodes(node))))


def parsed(source):
    "The tree of a cell; a cell with magics of IPython has none."
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def messages(tree):
    "Docstrings, error messages and help texts of a cell."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'key_rule':
            yield constants(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            yield ast.get_docstring(node) or ''
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield constants(node.exc)
        elif isinstance(node, ast.keyword) and node.arg in ('description', 'help', 'way_out'):
            yield constants(node.value)


def comments(source):
    "The comments of a cell that are not directives."
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for token in tokens:
        if token.type == tokenize.COMMENT and not re.match(r'#\s*\|', token.string):
            yield token.string.lstrip('# ')


def prose_of(path):
    "Every piece of prose of a notebook or page, in plain words."
    if path.suffix == '.md':
        yield plain(path.read_text(encoding='utf-8'))
        return
    for kind, source in cells_of(path):
        texts = [source] if kind == 'markdown' else [*messages(parsed(source)), *comments(source)]
        yield from (plain(t) for t in texts if t)


def banned_in(text):
    "Each banned word of a text, what is around it, and what to say instead."
    for pattern, instead in PATTERNS.items():
        for m in pattern.finditer(text):
            yield m[0].lower(), text[max(0, m.start() - 60):m.end() + 40], instead


@pytest.mark.parametrize('path', [*NOTEBOOKS, *(root / p for p in PAGES)], ids=lambda p: p.stem)
def test_prose_uses_the_terms_of_the_field(path):
    "The prose contains no word of the list `BANNED`."
    found = [hit for text in prose_of(path) for hit in banned_in(text) if (path.stem, hit[0]) not in EXCEPTIONS]
    lines = [f'  "…{around}…": instead of "{word}" say {instead}' for word, around, instead in found]
    assert not found, '\n'.join([f'{path.name}; reword these, or name an exception in tests/test_prose.py:', *lines])


def test_every_exception_is_needed():
    "Every exception still occurs in its notebook."
    paths = {p.stem: p for p in NOTEBOOKS}
    for (stem, word), why in EXCEPTIONS.items():
        words = [hit[0] for text in prose_of(paths[stem]) for hit in banned_in(text)]
        assert word in words and why, f'{stem} no longer says "{word}": delete its exception'


PLANTED = {
    'markdown': 'The model foresees the next note.',
    'docstring': 'def f():\n    "The critic is told the key."',
    'comment': 'x = 1  # nobody waits',
    'help': "c: int = Field(1, description='which card')",
    'way_out': "raise ConfigError('no', way_out=f'a shelf of {n}')",
    'rule': "key_rule('a', lambda c: c.b, 'without b nobody uses it')",
    'message': "raise ValueError(f'{n} rescues are left')",
}


@pytest.mark.parametrize('place', PLANTED)
def test_a_planted_word_is_found(place, tmp_path):
    "A word of the list is found in every kind of text."
    cell = dict(cell_type='markdown' if place == 'markdown' else 'code', source=PLANTED[place])
    path = tmp_path / '999_x.ipynb'
    path.write_text(json.dumps(dict(cells=[cell])), encoding='utf-8')
    with pytest.raises(AssertionError, match='reword'):
        test_prose_uses_the_terms_of_the_field(path)


WORDS = 'graphics card, foresaw, dreamt, listener, were told, Nobody, surprise, crew, judged, let go, shelves, unaided'


@pytest.mark.parametrize('word', WORDS.split(', '))
def test_words_of_the_list_are_found(word):
    "Forms of the words of the list are found."
    assert [hit[0] for hit in banned_in(f'A {word} here')] == [word.lower()]


@pytest.mark.parametrize('text', [
    'Discard it; a model card and all model cards; a scorecard, a surprising result, cardinal, told apart: critics are told apart from models',
    'The method `model.dream` and the key `watch.rescues`; rescues=3, or model.dream(n), see [here](card.ipynb)',
    '```\ncrew = hear(card)\n```',
])
def test_other_words_and_code_are_left_alone(text):
    "Similar words and code are accepted."
    assert not list(banned_in(plain(text)))
