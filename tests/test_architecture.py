"""The page Architecture names what exists, its picture has every package, and its tables come from the notebooks."""
import ast
import importlib.util
import json
import re
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from common import modules, root

sys.path.insert(0, str(root / 'docs'))
try:
    import architecture
finally:
    sys.path.pop(0)

TEXT = (root / 'docs' / 'architecture.md').read_text(encoding='utf-8')
PICTURE = root / 'docs' / '_static' / 'architecture.svg'
# code that is neither a file nor a name of the package
OTHER = {'#\\| slow', '#\\| cuda', 'parameters', 'base:', 'nbs/NNN_package.module.ipynb', 'Score', 'model'}


def exported():
    "Every name in `__all__` of a module."
    names = set()
    for path in modules().values():
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
                names |= set(ast.literal_eval(node.value))
    return names


def named():
    "The texts in backticks on the page, apart from commands."
    return [name for name in re.findall(r'`([^`]+)`', TEXT) if name not in OTHER and not name.startswith('aurl train ')]


def test_the_page_names_what_exists():
    "Every name in backticks on the page is a notebook, a file, or an exported name."
    known = exported() | {p.stem for p in (root / 'nbs').glob('*.ipynb')}
    lost = sorted({name for name in named() if name not in known and not (root / name).exists()})
    assert not lost, f'docs/architecture.md names {lost}: say what they are called now'
    assert len(named()) > 30


def packages():
    "The packages of aurl that have modules; modules of the top folder belong to `core`."
    return {name.split('/')[0] for name in modules() if '/' in name} | {'core'}


def test_the_picture_has_every_package():
    "The picture links to the section of every package."
    svg = ET.parse(PICTURE)
    links = [e.get('href') for e in svg.iter('{http://www.w3.org/2000/svg}a')]
    missing = packages() - {link.removeprefix('#') for link in links}
    assert not missing, f'docs/_static/architecture.svg lacks {missing}'


def test_the_picture_needs_no_network():
    "The picture loads nothing, and has no blank line, which would end HTML in Markdown."
    text = PICTURE.read_text(encoding='utf-8').replace('http://www.w3.org/2000/svg', '')
    assert 'http' not in text and '@import' not in text
    assert '\n\n' not in architecture.picture(), 'a blank line ends HTML in Markdown'


def test_the_table_comes_from_the_notebooks():
    "The tables list the modules with the lead of their notebooks, and omit empty groups."
    pages = [
        SimpleNamespace(group='midi', module='aurl.midi.read', doc='midi.read', lead='Reads | repairs\nfiles.'),
        SimpleNamespace(group='midi', module='', doc='midi.none', lead='exports nothing'),
    ]
    groups = dict(midi=('MIDI', 'Files.'), empty=('Empty', 'Nothing.'))
    text = architecture.architecture_page(pages, groups)
    assert '### MIDI\n\nFiles.' in text and '| [`aurl.midi.read`](midi.read.ipynb) | Reads \\| repairs files. |' in text
    assert 'Empty' not in text and 'midi.none' not in text and '<svg' in text and '<!--' not in text


def first_cell(path):
    "The source of the first cell of a notebook."
    return ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])


@pytest.mark.parametrize('path', sorted((root / 'nbs').glob('*.ipynb')), ids=lambda p: p.stem)
def test_every_notebook_begins_with_its_title_and_purpose(path):
    "The first cell of every notebook is `# Title` and `> purpose`."
    assert re.match(
        r'# \S.*\n+> \S', first_cell(path)
    ), f'{path.name}: begin with "# Title" and "> purpose in one line"'


@pytest.mark.skipif(importlib.util.find_spec('nbdev') is None, reason="nbdev not installed: pip install -e '.[dev]'")
def test_every_package_has_a_purpose_and_a_heading_for_its_link():
    "The heading of every package equals the target of its link in the picture."
    sys.path.insert(0, str(root / 'docs'))
    try:
        from pages import GROUPS
    finally:
        sys.path.pop(0)
    assert packages() <= set(GROUPS)
    for group in packages():
        title, purpose = GROUPS[group]
        assert purpose and title.lower() == group, f'the picture links to #{group}, the heading is {title}'


def test_the_sidebar_has_the_page():
    "The sidebar of the site links to the page Architecture."
    assert '/architecture\\n/api' in (root / 'docs' / 'build.py').read_text(encoding='utf-8')
