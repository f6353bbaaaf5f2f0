"""Run one notebook with nbdev's runner: run_notebook.py NOTEBOOK [FLAGS]. conftest.py starts it with --serve.

The server has imported the libraries that most notebooks need, but no module of aurl. Each notebook runs in a fork of
the server, which saves four seconds of CPU time for each notebook, a tenth of the whole suite."""
import gc, importlib, io, json, os, re, sys
from contextlib import redirect_stderr
from pathlib import Path

from nbdev.config import get_config
from nbdev.test import test_nb


def main(path, flags=''):
    "Run a notebook; return 0 if it passes, and print the failed cell otherwise."
    path, said = Path(path).resolve(), io.StringIO()
    with redirect_stderr(said):
        passed, seconds = test_nb(
            path, skip_flags=get_config(path=path.parent).tst_flags.split(), force_flags=flags.split()
        )
    if passed:
        print('aurl-notebook: ' + (f'{seconds:.1f} s' if seconds else 'skipped'))
        return 0
    told = re.sub(r'\x1b\[[0-9;]*m', '', said.getvalue())
    sys.stderr.write(cell_of(path, told) + told)
    return 1


def cell_of(path, told):
    "The number and source of the cell named in the error message `told`."
    if not (found := re.search(r'Cell #(\d+)', told)): return ''
    number = int(found.group(1))
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    if not 0 < number <= len(cells): return ''
    source = ''.join(cells[number-1]['source']).splitlines()
    return '\n'.join([f'{path.name}, cell {number} of {len(cells)}:', '', *(f'    {line}' for line in source), '', ''])


LIBRARIES = (
    'torch',
    'fastai.learner',
    'fastai.callback.progress',
    'pyarrow.parquet',
    'scipy.stats',
    'matplotlib.pyplot',
    'music21',
    'symusic',
)


def become(job):
    "Make this fork the process of the notebook `job`: its folder, variables, input and output."
    os.environ.update(job['env'])
    os.chdir(job['cwd'])
    for descriptor, name, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, job['out'], os.O_WRONLY),
        (2, job['err'], os.O_WRONLY),
    ):
        os.dup2(os.open(name, how | os.O_CREAT), descriptor)
    return main(job['path'], job['flags'])


def serve():
    "Run the notebooks named on standard input, one line of JSON each; print the exit code and CPU time of each."
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # as aurl.device does before it imports torch
    gc.disable()
    for name in LIBRARIES: importlib.import_module(name)
    gc.freeze()   # what is imported stays: no fork searches it for garbage, and memory stays shared
    gc.enable()
    while line := sys.stdin.readline():
        if (pid := os.fork()) == 0: sys.exit(become(json.loads(line)))
        _, status, used = os.wait4(pid, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)


if __name__ == '__main__': sys.exit(serve() if sys.argv[1:] == ['--serve'] else main(*sys.argv[1:]))
