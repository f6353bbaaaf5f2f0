"""The command line in a separate process, with real signals and a real terminal: mistakes print one line, and Ctrl-C
loses nothing."""
import json, os, re, signal, subprocess, sys, textwrap, time
from pathlib import Path

import pytest
from common import root

if not (root / 'aurl' / 'cli.py').exists():
    pytest.skip('the command line has not been written yet', allow_module_level=True)
pytestmark = pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')

driver = '''
import sys
from pathlib import Path
from types import SimpleNamespace
from aurl import cli
from aurl.config import Config
class Toy(Config):
    x:int = 1
    out:Path = Path('.')
here = Path(sys.argv.pop(1))
def toy(name):
    return SimpleNamespace(
        config_cls=Toy,
        notebook=str(here/f'{name}.ipynb'),
        make_run_dir=lambda cfg: here/'runs'/name,
        check=lambda cfg: [],
        check_keys=lambda cfg, given: None,
        resolve=lambda cfg: cfg,
        resumable_folder=None,
    )
import functools, os
if every := os.environ.get('TOY_EVERY'): cli.run_with_progress = functools.partial(cli.run_with_progress, every=float(every))
cli._all_commands = lambda: dict(song=toy('patient'), train=toy('sour'), generate=toy('dies'), evaluate=toy('broken'), prepare=toy('slow'))
cli.main()
'''
cells = dict(
    patient=['''
        import os, time
        from pathlib import Path
        from aurl.core import write_json
        run = Path(run_dir)
        write_json(run/'progress.json', dict(stage='train', fraction=.25, message='loss [1.5]'))
        (run/'pid').write_text(str(os.getpid()))
        try:
            (run/'busy').touch()
            time.sleep(60)
            kept = 'nothing'
        except KeyboardInterrupt: kept = 'the best model'
        ''', "write_json(run/'summary.json', dict(lines=[f'kept {kept}', f'look into {run.name}']))"],
    sour=['from aurl.core import CorpusError', "raise CorpusError('no MIDI file in it', path='songs', way_out='give another folder')"],
    slow=['''
        import time
        from pathlib import Path
        from aurl.core import write_json
        end = Path(run_dir)/'progress.json'
        for i in range(20): write_json(end, dict(stage='read', fraction=i/20, message=f'{i} of 20 pieces')); time.sleep(.2)
        write_json(end, dict(stage='count', fraction=None, message='')); time.sleep(3)
        '''],
    dies=['import os; os._exit(1)'],
    broken=['1/0'])


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    folder = tmp_path_factory.mktemp('cli')
    for name, sources in cells.items():
        nb = new_notebook(
            cells=[
                new_code_cell('x = 1\nout = "."\nrun_dir = None', metadata=dict(tags=['parameters'])),
                *(new_code_cell(textwrap.dedent(s).strip()) for s in sources),
            ]
        )
        nbformat.write(nb, folder / f'{name}.ipynb')
    (folder / 'driver.py').write_text(driver)
    return folder


def start(here, *args, **kwargs):
    "Start `aurl args` in a process group of its own, so that a signal to the group acts like Ctrl-C."
    env = {**os.environ, 'PYTHONPATH': str(root), 'TMPDIR': str(here / 'tmp')}
    (here / 'tmp').mkdir(exist_ok=True)
    kwargs = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | kwargs
    return subprocess.Popen(
        [sys.executable, str(here / 'driver.py'), str(here), *args], cwd=here, env=env, start_new_session=True, **kwargs
    )


def aurl(here, *args):
    process = start(here, *args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'the condition was not met in time'
        time.sleep(.05)


@pytest.fixture
def patient(here):
    "A run whose long cell has started: its process, and a function that returns whether its kernel is alive."
    import shutil
    shutil.rmtree(here / 'runs', ignore_errors=True)
    run = here / 'runs' / 'patient'
    process = start(here, 'song')
    until(lambda: (run / 'busy').exists() or process.poll() is not None)
    pid = int((run / 'pid').read_text())

    def alive():
        try: os.kill(pid, 0)
        except ProcessLookupError: return False
        # a zombie process counts as ended
        return not Path(f'/proc/{pid}/stat').exists() or Path(f'/proc/{pid}/stat').read_text().split(') ')[1][0] != 'Z'
    alive.pid = pid
    yield process, alive
    if process.poll() is None: process.kill()


def test_ctrl_c_once(patient, here):
    "The first Ctrl-C interrupts the cell; the remaining cells run, and the command ends with exit code 0."
    process, alive = patient
    time.sleep(.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.splitlines()[-2:] == ['kept the best model', 'look into patient']
    assert 'Ctrl-C again ends at once' in out and 'Traceback' not in out + err
    until(lambda: not alive(), 10)
    done = json.loads((here / 'runs' / 'patient' / 'patient.ipynb').read_text())
    assert all(c['metadata']['papermill']['status'] == 'completed' for c in done['cells'])


def test_ctrl_c_twice(patient):
    "The second Ctrl-C kills a kernel that does not react, and the command ends with exit code 130."
    process, alive = patient
    os.kill(alive.pid, signal.SIGSTOP)  # a kernel that does not react
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == 'aurl: stopped before the end' and 'Traceback' not in out + err
    until(lambda: not alive(), 10)


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_no_kernel_is_left(patient, how):
    "No kernel remains after the command is terminated by a signal; after SIGTERM the results are saved as well."
    process, alive = patient
    time.sleep(.5)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    until(lambda: not alive(), 20)
    if how == signal.SIGTERM:
        # as after Ctrl-C, but with the exit code of SIGTERM
        assert out.splitlines()[-2:] == ['kept the best model', 'look into patient'], out + err


def test_sigterm_twice(patient):
    "The second SIGTERM kills a kernel that does not react."
    process, alive = patient
    os.kill(alive.pid, signal.SIGSTOP)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(.5)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    until(lambda: not alive(), 20)


def test_progress_without_a_terminal(here, monkeypatch):
    """Without a terminal, lines report each stage, and the progress at an interval, also while the notebook prints
    nothing."""
    monkeypatch.setenv('TOY_EVERY', '.5')
    code, out, err = aurl(here, 'prepare')
    lines = out.splitlines()
    assert code == 0, err
    stages = [line.partition(' …')[0] for line in lines if ' …' in line]
    assert stages == ['read', 'count']
    assert any(line.startswith('0:0') and ' starting, for ' in line for line in lines)   # the kernel needs a while, too
    assert any(line.startswith('read took ') for line in lines)
    between = [line for line in lines if re.match(r'\d+:\d\d read \d+%, \d+ of 20 pieces, (about|for) \d+:\d\d', line)]
    silent = [line for line in lines if re.match(r'\d+:\d\d count, for \d+:\d\d', line)]
    assert len(between) >= 3 and len(silent) >= 3, out
    assert any('about' in line for line in between)


def test_an_error_of_ours_is_one_line(here):
    "An `AurlError` is printed as one line, and as a traceback with `--debug`."
    code, out, err = aurl(here, 'train')
    assert (code, err) == (1, 'aurl: songs: no MIDI file in it → give another folder\n')
    # a slow machine prints a line every 20 seconds
    assert all(line.split()[1].startswith('starting') for line in out.splitlines())
    assert not (here / 'runs' / 'sour').exists()
    code, out, err = aurl(here, 'train', '--debug')
    assert code == 1 and 'Traceback' in err and err.splitlines()[-1].startswith('aurl: songs')


def test_other_errors(here):
    "The death of the kernel and an error of Python are printed as one line."
    code, out, err = aurl(here, 'generate')
    assert code == 1 and len(err.splitlines()) == 1 and 'memory' in err
    code, out, err = aurl(here, 'evaluate')
    assert code == 1 and err.startswith('aurl: ZeroDivisionError: division by zero') and len(err.splitlines()) == 1


@pytest.mark.parametrize('args, says', [(['y=3'], "unknown key 'y'; known are x, out"), (['x=many'], 'x=many'), (['x'], "'x' is not key=value"),
                                        (['--preset', 'no-such'], "no preset 'no-such' for song"), (['x=[1'], 'YAML')])
def test_a_slip_is_one_line(here, args, says):
    "A mistake in the arguments is printed as one line, with exit code 2."
    code, out, err = aurl(here, 'song', *args)
    assert code == 2 and out == '' and len(err.splitlines()) == 1 and says in err


def test_keys(here):
    "`--keys` lists the keys with their defaults, and the presets of the command."
    code, out, err = aurl(here, 'song', '--keys')
    keys, _, presets = out.partition('\n\n')
    assert (code, [l.split() for l in keys.splitlines()]) == (0, [['x=1'], ['out=.']])
    assert 'aurl song --preset' in presets and any(l.startswith('quick ') for l in presets.splitlines())


def test_a_progress_bar_in_a_terminal(here):
    "A terminal shows a progress bar with stage and message."
    import pty, shutil
    shutil.rmtree(here / 'runs', ignore_errors=True)
    ours, theirs = pty.openpty()
    process = start(here, 'song', stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b''
    try:
        while b'25%' not in seen: seen += os.read(ours, 4096)
        os.killpg(process.pid, signal.SIGINT)
        while True: seen += os.read(ours, 4096)
    except OSError: pass  # the terminal is closed: the program has ended
    assert process.wait(30) == 0
    text = seen.decode(errors='replace')
    assert 'train' in text and 'loss [1.5]' in text and 'kept the best model' in text and 'Traceback' not in text


def test_ctrl_c_in_a_real_training(midi, tmp_path):
    "After Ctrl-C the best model so far is kept, and a checkpoint and the samples are written."
    command = [
        sys.executable,
        '-c',
        'from aurl.cli import main; main()',
        'train',
        f'data={midi}',
        f'out={tmp_path}',
        'steps=100000',
        'model=tiny',
        'length=64',
        'batch_size=4',
        'checkpoint_every=100000',
        'valid=0.3',
        'workers=0',
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(root)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def learning():
        return process.poll() is not None or any(
            'valid_loss' in p.read_text() for p in tmp_path.glob('*/metrics.jsonl')
        )
    until(learning, 120)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ''), out + err
    run = next(p for p in tmp_path.iterdir() if p.is_dir())
    assert (
        list(run.glob('checkpoints/step_*'))
        and list(run.glob('samples/*.mid'))
        and list(run.glob('model/*.safetensors'))
    )
    assert 'interrupted' in (run / 'training.log').read_text()
    assert 'to resume, give the same command again' in out


def step_of(run):
    return (
        max((json.loads(l).get('step') or 0 for l in (run / 'metrics.jsonl').read_text().splitlines()), default=0)
        if (run / 'metrics.jsonl').exists()
        else 0
    )


@pytest.fixture
def song(midi, tmp_path):
    """A function `song(out)` that runs the command, and sends it the signal `how` after checkpoint `wait_for`: exit
    code and output."""
    def song(out, wait_for=None, how=None, budget=('steps=200', 'minutes=9', 'batch_size=4')):
        command = [
            sys.executable,
            '-c',
            'from aurl.cli import main; main()',
            'song',
            f'data={midi}',
            f'out={tmp_path / out}',
            *budget,
            'model=tiny',
            'length=64',
            'checkpoint_every=5',
            'valid=0.3',
            'workers=0',
            'pieces=1',
            'max_tokens=64',
            'prompt_seconds=2',
        ]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(root), 'AURL_HOME': str(tmp_path / 'home')},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # only for a checkpoint of its own: the kernel of a killed command continues to train for a second
        if wait_for:
            begun = time.time()
            def its_own(p):
                try: return int(p.name[5:]) >= wait_for and p.stat().st_mtime > begun + 1
                except FileNotFoundError: return False                     # pruned a moment ago
            until(
                lambda: process.poll() is not None or any(map(its_own, (tmp_path / out).glob('*/checkpoints/step_*'))),
                400,
            )
            process.send_signal(how)
        out, err = process.communicate(timeout=600)
        return process.returncode, out + err
    return song


def test_a_killed_song_resumes(song, tmp_path):
    """A song that is killed, terminated and started again is one run, with the losses of an uninterrupted one and a
    report."""
    assert song('one', 10, signal.SIGKILL)[0] == -9
    code, said = song('one', 25, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and 'which was stopped' in said and 'report.html' in said, said
    code, said = song('one')
    assert code == 0 and 'which was stopped' in said, said
    assert song('two')[0] == 0
    one, two = (next((tmp_path / d).iterdir()) for d in ('one', 'two'))
    assert (
        len(list((tmp_path / 'one').iterdir())) == 1
        and (one / 'report.html').exists()
        and json.loads((one / 'status.json').read_text())['status'] == 'finished'
    )
    losses = lambda run: {
        m['step']: m['train_loss']
        for m in map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
        if 'train_loss' in m
    }
    a, b = losses(one), losses(two)
    assert max(a) == max(b) == 200 and all(a[s] == b[s] for s in a.keys() & b.keys()) and len(a.keys() & b.keys()) >= 6


def test_a_resumed_song_keeps_its_plan(song, tmp_path):
    "A song with a time budget measures the machine; when it is killed and resumed, it keeps the first plan."
    import yaml
    budget = ['minutes=0.4']
    assert song('timed', 5, signal.SIGKILL, budget)[0] == -9
    run, = (tmp_path / 'timed').iterdir()
    first = yaml.safe_load((run / 'config.yaml').read_text())
    assert first['batch_size'] == 0 and first['plan']['batch_size'] in (4, 8, 16) and first['plan']['speed'] > 0
    code, said = song('timed', budget=budget)
    assert code == 0 and 'which was stopped' in said and 'measure …' not in said, said
    assert [run] == list((tmp_path / 'timed').iterdir()) and yaml.safe_load((run / 'config.yaml').read_text()) == first
    assert all(words in said for words in first['plan']['reasons']), said


def test_nothing_stays_behind(here):
    "Kernels leave no connection files, except that of the one command that was killed with SIGKILL."
    assert len(list((here / 'tmp').glob('*.json'))) <= 1
