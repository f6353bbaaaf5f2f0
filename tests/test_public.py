"""The public names of `aurl.all`: each has a summary, and a cell of its notebook that uses it."""
import inspect
import json
import re

import aurl.all as public
import pytest
from common import root

IMPORT = re.compile(r'^from aurl\.([\w.]+) import (.+)$', re.M)
DIRECTIVE = re.compile(r'#\|\s*(export|hide|default_exp)')


def code_cells(path):
    "The sources of the code cells of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def notebooks():
    "The code cells of each module that a notebook exports."
    found = {}
    for path in root.glob('nbs/*.ipynb'):
        sources = code_cells(path)
        module = next((m[1] for s in sources if (m := re.search(r'#\|\s*default_exp\s+([\w.]+)', s))), None)
        found[module] = sources
    return found


CELLS = notebooks()
EXPORTS = [s for s in CELLS['all'] if s.startswith('#| export')]
NAMES = {n.strip(): m for s in EXPORTS for m, names in IMPORT.findall(s) for n in names.split(',')}


def test_the_list_is_that_of_the_module():
    "The list of public names equals `aurl.all.__all__`."
    assert set(NAMES) == set(public.__all__)


@pytest.mark.parametrize('name', NAMES)
def test_a_cell_of_its_notebook_uses_it(name):
    "A cell of the notebook that defines the name uses it."
    uses = [s for s in CELLS[NAMES[name]] if not DIRECTIVE.match(s) and re.search(rf'(?<![\w.]){name}\b', s)]
    assert uses, f'{name}: no cell after its definition in the notebook of {NAMES[name]} shows it'


@pytest.mark.parametrize('name', NAMES)
def test_it_has_a_summary(name):
    "The public function or class has a docstring."
    thing = getattr(public, name)
    if callable(thing): assert (inspect.getdoc(thing) or '').strip(), f'{name} has no docstring'
