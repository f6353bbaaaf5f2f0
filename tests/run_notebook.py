"""Run one notebook with nbdev's runner: run_notebook.py NOTEBOOK [FLAGS]. conftest.py starts this for every notebook."""
import io, json, re, sys
from contextlib import redirect_stderr
from pathlib import Path

from nbdev.config import get_config
from nbdev.test import test_nb


def main(path, flags=''):
    path, said = Path(path).resolve(), io.StringIO()
    with redirect_stderr(said):
        passed, seconds = test_nb(path, skip_flags=get_config(path=path.parent).tst_flags.split(), force_flags=flags.split())
    if passed:
        print('aurl-notebook: ' + (f'{seconds:.1f} s' if seconds else 'skipped'))
        return 0
    told = re.sub(r'\x1b\[[0-9;]*m', '', said.getvalue())
    sys.stderr.write(cell_of(path, told) + told)
    return 1


def cell_of(path, told):
    "The source of the cell that `told` names, with its number."
    if not (found := re.search(r'Cell #(\d+)', told)): return ''
    number = int(found.group(1))
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    if not 0 < number <= len(cells): return ''
    source = ''.join(cells[number-1]['source']).splitlines()
    return '\n'.join([f'{path.name}, cell {number} of {len(cells)}:', '', *(f'    {line}' for line in source), '', ''])


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
