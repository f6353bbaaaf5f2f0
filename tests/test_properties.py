"Each property of the guide to tracking is a hypothesis test with at least 100 examples, in the notebook that is named."
import json
import re

import pytest
from common import root

GUIDE = root / 'nbs' / 'tutorials' / 'tracking.ipynb'
ROW = re.compile(r'\| (\d+) \| .+? \| (.+) \|$', re.MULTILINE)
PLACE = re.compile(r'`(\d{3}_[\w.]+)`: (\w+)')


def cells(path):
    "The sources of the cells of a notebook."
    return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]


TABLE = [(int(n), PLACE.findall(places)) for n, places in ROW.findall('\n'.join(cells(GUIDE)))]


def test_all_properties_are_there():
    assert [n for n, _ in TABLE] == list(range(1, 19))
    assert all(places for _, places in TABLE)


@pytest.mark.parametrize('notebook, name', sorted({place for _, places in TABLE for place in places}))
def test_it_is_a_hypothesis_test_that_runs(notebook, name):
    found = [s for s in cells(root / 'nbs' / f'{notebook}.ipynb') if f'\ndef {name}(' in s]
    assert len(found) == 1, f'{notebook} has {len(found)} cells with {name}'
    before, _, after = found[0].partition(f'\ndef {name}(')
    head = before[before.rfind('\n\n') + 1:]
    examples = re.search(r'@settings\(max_examples=(\d+)', head)
    assert '@given(' in head and examples and int(examples[1]) >= 100
    assert re.search(rf'^(?:try: )?{name}\(\)', after, re.MULTILINE), 'it is not called'
