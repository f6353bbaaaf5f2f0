"""The exported code does not become denser: no figure of `docs/shape.py` exceeds its ceiling.

Lower a ceiling when you improve its figure."""
import json
import sys

import pytest
from common import root

sys.path.insert(0, str(root / 'docs'))
try:
    import shape
finally:
    sys.path.pop(0)

# name: (ceiling, goal); for `delegates` the ceiling is a floor
CEILINGS = {
    'width_p90': (98, 100),
    'width_p99': (118, 120),
    'joined': (0.5, 2),
    'lambdas': (1, 6),
    'function_p50': (260, 260),
    'function_p90': (690, 750),
    'cell_p50': (11, 12),
    'cell_p90': (20, 28),
    'delegates': (20, 10),
    'module_lines': (400, 400),
    'function_lines': (45, 45),
    'call_positions': (8, 8),
    'signature_positions': (8, 8),
}


@pytest.fixture(scope='module')
def now():
    "The figures of the repository."
    return shape.figures(shape.measure())


@pytest.mark.parametrize('key', CEILINGS)
def test_no_figure_gets_worse(now, key):
    "The figure is within its ceiling."
    ceiling, goal = CEILINGS[key]
    figure = shape.FIGURES[key]
    passed = now[key] >= ceiling if figure.at_least else now[key] <= ceiling
    hint = 'python docs/shape.py --worst 10 lists the places to shorten'
    assert passed, f'{figure.label}: {now[key]:.1f}, the ceiling is {ceiling} and the goal {goal}; {hint}'


def test_every_figure_has_a_ceiling_beside_its_goal():
    "Every figure has a ceiling, and the same goal as in `docs/shape.py`."
    assert {key: goal for key, (_, goal) in CEILINGS.items()} == {key: f.goal for key, f in shape.FIGURES.items()}


def _notebook(path, *sources):
    "A notebook with these code cells."
    cells = [dict(cell_type='code', source=source) for source in sources]
    path.write_text(json.dumps(dict(cells=cells)), encoding='utf-8')


def test_what_is_measured(tmp_path):
    "The figures of a small notebook are those counted by hand."
    cell = """#| export
class A:
    def method(self, a, b, /, c, *, d):
        def inner(x): return x
        e = 1; f = ';'

        return call(1, 2, 3, 4)

@delegates(A)
def g(a): return print(1, 2, 3, 4, 5, key=lambda x: x)
"""
    _notebook(tmp_path / '100_x.ipynb', '#| default_exp x', cell, '#| export\ny = 1', 'shown = 1; beside = 2')
    found = shape.measure(tmp_path)
    assert (found.joined, found.lambdas, found.delegates) == (1, 1, 1)
    assert found.cells == [7, 1] and found.modules == {'x': 8}
    assert [(f.name, f.parameters, f.lines) for f in found.functions] == [('A.method', 3, 4), ('g', 1, 1)]
    assert max(found.calls) == (4, 'x: call(...)')
    text = shape.table(shape.figures(found))
    assert '| **1** | ≥ 10 |' in text and '| 4 | ≤ 8 |' in text
    assert 'A.method' in shape.worst(found, 1)
