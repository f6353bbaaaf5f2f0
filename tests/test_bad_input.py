"""Bad input, signals and a full disk end a command with one line of error or cleanly, and lose nothing; all tests use
the real command line."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest
from common import root

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
tiny = ['model=tiny', 'length=64', 'batch_size=4', 'valid=0.3', 'workers=0']
short = [*tiny, 'pieces=2', 'max_tokens=128', 'prompt_seconds=2']

driver = '''
import contextlib, io, json, sys
from aurl.cli import app
for args in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: app(args, prog_name='aurl'); code = 0
        except SystemExit as e: code = e.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
'''


@pytest.fixture(scope='module')
def here(midi, tmp_path_factory):
    "A folder with correct and damaged music, models and stores."
    from aurl.models.vae_gan import MusicTransformerVAEGAN
    from aurl.data.store import prepare
    here = tmp_path_factory.mktemp('bad')
    files = sorted(midi.iterdir())
    shutil.copytree(midi, here / 'music')
    for name, n in dict(one=1, mixed=4, empty=0, words=0, lies=0).items():
        (here / name).mkdir()
        for f in files[:n]: shutil.copy(f, here / name)
    (here / 'words' / 'song.txt').write_text('la la la')
    for name in ('mixed/bad.mid', 'lies/a.mid', 'lies/b.mid'): (here / name).write_text('la la la')
    (here / 'mixed' / 'cut.mid').write_bytes(files[0].read_bytes()[:40])
    MusicTransformerVAEGAN.from_preset('tiny').save_pretrained(here / 'model')
    for name in ('codec', 'shape', 'damaged', 'hollow'): shutil.copytree(here / 'model', here / f'model-{name}')
    change(here / 'model-codec' / 'config.json', fingerprint='0' * 16)
    config = json.loads((here / 'model' / 'config.json').read_text())
    change(here / 'model-shape' / 'config.json', model={**config['model'], 'd_model': 64})
    flip(here / 'model-damaged' / 'model.safetensors')
    (here / 'model-hollow' / 'model.safetensors').unlink()
    prepare(here / 'music', here / 'store', workers=0)
    for name in ('codec', 'cut', 'torn'): shutil.copytree(here / 'store', here / f'store-{name}')
    manifest = json.loads((here / 'store' / 'manifest.json').read_text())
    change(here / 'store-codec' / 'manifest.json', codec={**manifest['codec'], 'fingerprint': '0' * 16})
    (here / 'store-cut' / 'ids.bin').write_bytes((here / 'store' / 'ids.bin').read_bytes()[:-10])
    (here / 'store-torn' / 'manifest.json').write_text('{')
    return here


def change(path, **values): path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def environment(here, **more):
    return {**os.environ, 'PYTHONPATH': str(root), 'AURL_HOME': str(here / 'home'), 'OMP_NUM_THREADS': '1', **more}


def start(here, *args):
    "Start `aurl args` in a process group of its own, so that a signal to the group acts like Ctrl-C."
    return subprocess.Popen(
        [sys.executable, '-c', 'from aurl.cli import main; main()', *args],
        cwd=here,
        env=environment(here),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=180)
    assert 'Traceback' not in out + err
    return process.returncode, out.splitlines(), err.splitlines()


def progress(out):
    "The progress file of the only run in `out`."
    for p in Path(out).glob('*/progress.json'):
        try: return json.loads(p.read_text())
        except (OSError, ValueError): pass
    return {}


def until(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < end, 'the condition was not met in time'
        time.sleep(.02)


slips = [  # arguments of the command, exit code, text that the line must contain
    (['song', 'data=empty'], 1, 'empty: no music in this folder; it is empty →'),
    (['song', 'data=words'], 1, 'words: no music in this folder; it holds 1 .txt →'),
    (['song', 'data=nowhere'], 1, 'nowhere: no such folder or file →'),
    (['song', 'data=mixed/bad.mid'], 1, 'mixed/bad.mid: not a MIDI file →'),
    (['song', 'data=one'], 1, 'one: 1 piece'),
    (['prepare', 'data=empty'], 1, 'empty: no music'),
    (['song', 'data=music', 'stepps=3'], 2, "unknown key 'stepps'; did you mean 'steps'?"),
    (['song', 'data=music', 'steps=many'], 2, 'steps=many: '),
    (['song', 'data=music', 'valid=2'], 2, 'valid=2: '),
    (['song', 'data=music', 'steps'], 2, "'steps' is not key=value"),
    (['song', 'data=music', 'model=nosuch'], 2, "no preset 'nosuch' for model → there are: "),
    (['song', '--preset', 'nosuch'], 2, "no preset 'nosuch' for song →"),
    (['song', '--preset', 'nosuch.yaml'], 2, "no preset 'nosuch.yaml'"),
    (['song', 'data=music', 'device=abacus'], 2, 'device=abacus'),
    (['train', 'data=music', 'steps=0'], 2, 'a budget needs steps or minutes →'),
    (['train', 'resume=nowhere'], 1, 'nowhere: no run is there →'),
    (['train', 'resume=music'], 1, 'music: no run is there →'),
    (['train', 'data=store-codec'], 1, 'store-codec: prepared with codec'),
    (['train', 'data=store-cut'], 1, 'store-cut/ids.bin: '),
    (['train', 'data=store-torn'], 1, 'store-torn/manifest.json: not JSON'),
    (['generate', 'model=nowhere'], 1, 'nowhere: no saved model in this folder →'),
    (['generate', 'model=model-codec'], 1, 'model-codec: codec'),
    (['generate', 'model=model', 'profile=of'], 2, "'of' is neither on nor off"),
    (['generate', 'model=model', 'profile.voice=3'], 2, "unknown key 'profile.voice'; did you mean 'profile.voices'?"),
    (['generate', 'model=model', 'profile.voices=0'], 2, 'profile.voices=0'),
    (['generate', 'model=model', 'profile.families=[Pianoo]'], 2, "'Pianoo' is not an instrument family"),
    (['generate', 'model=model', 'profile.voices=3'], 1, 'no corpus profile'),
    (['generate', 'model=model-shape'], 1, 'model-shape/model.safetensors: '),
    (['generate', 'model=model-damaged'], 1, 'model-damaged/model.safetensors: the weights are damaged'),
    (['generate', 'model=model-hollow'], 1, 'the weights are missing'),
    (['generate', 'model=model', 'prompt=nowhere.mid'], 1, 'nowhere.mid: no such file →'),
    (['generate', 'model=model', 'prompt=mixed/bad.mid'], 1, 'mixed/bad.mid: not a MIDI file →'),
    (['generate', 'model=model', 'prompt=music'], 1, 'music: a folder, not a music file →'),
    (['evaluate', 'model=model'], 2, 'no data to evaluate on'),
    (['evaluate', 'model=model', 'data=empty'], 1, 'empty: no music'),
    (['song', 'data=music', 'out=words/song.txt'], 1, 'words/song.txt: no run can be kept there'),
    (['song', 'data=music', 'out=words/song.txt/runs'], 1, 'no run can be kept there')]


def test_slips_are_one_line_and_leave_nothing(here):
    "Each mistake prints one line on standard error and creates no file; all of them run in one process."
    before = sorted(here.iterdir())
    told = subprocess.run(
        [sys.executable, '-c', driver],
        cwd=here,
        env=environment(here, AURL_HOME=str(here / 'home')),
        capture_output=True,
        text=True,
        input=json.dumps([a if any(x.startswith('out=') for x in a) else [*a, 'out=runs'] for a, _, _ in slips]),
        timeout=180,
    )
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(answers) == len(slips), told.stderr
    for (args, code, says), (got, out, err) in zip(slips, answers):
        out = ''.join(line for line in out.splitlines() if 'parameters; to train on' not in line)   # the estimated memory
        assert (got, out) == (code, ''), (args, got, out, err)
        assert says in err and err.startswith('aurl: ') and len(err.splitlines()) == 1, (args, err)
    assert [p for p in sorted(here.iterdir()) if p.name != 'home'] == before


def test_music_that_is_none(here):
    "Files that turn out not to be music when they are read raise an error, and no run directory remains."
    code, out, err = finish(start(here, 'prepare', 'data=lies', 'dest=lies-store', 'workers=0', 'out=lies-runs'))
    assert code == 1 and len(err) == 1 and 'none of 2 pieces can be used: 2 × not a MIDI file' in err[0]
    assert not (here / 'lies-runs').exists() and not (here / 'lies-store').exists()


def test_ctrl_c_before_anything(here):
    "Ctrl-C while the kernel starts ends the command with exit code 130 and removes the run directory."
    p = start(here, 'song', 'data=music', *short, 'out=early')
    until(p, (here / 'early').exists)
    os.killpg(p.pid, signal.SIGINT)
    code, out, err = finish(p)
    assert code == 130 and err == ['aurl: stopped before the end'] and not (here / 'early').exists()


def test_ctrl_c_in_the_first_steps(here):
    """After Ctrl-C before the first validation, the model is validated, samples and report are written, and bad files
    are named."""
    p = start(here, 'song', 'data=mixed', *short, 'out=song')
    until(p, lambda: progress(here / 'song').get('stage') == 'train')
    os.killpg(p.pid, signal.SIGINT)
    code, out, err = finish(p)
    assert code == 0, err
    run = next((here / 'song').iterdir())
    assert (
        any('the best model so far is kept, and the remaining cells are executed' in line for line in out)
        and f'the report, to open in a browser: {run / "report.html"}' in out
    )
    assert out[-1].startswith('to resume, give the same command again')
    assert any(line.startswith('interrupted after ') for line in out)
    assert any(line.startswith('2 files left out: bad.mid (not a MIDI file), cut.mid') for line in out)
    assert (
        len(list(run.glob('samples/*.mid'))) == 2
        and (run / 'report.html').exists()
        and (run / 'model' / 'model.safetensors').exists()
    )
    assert not (run / 'kernel.log').exists() and not list(run.rglob('*.tmp'))


def test_killed_and_resumed(here):
    "A training killed with SIGKILL resumes from its checkpoints, although the newest one is damaged."
    p = start(here, 'train', 'data=music', *tiny, 'steps=40', 'checkpoint_every=10', 'out=train')
    until(p, lambda: any((here / 'train').glob('*/checkpoints/step_00000020')))
    run = next((here / 'train').iterdir())
    os.kill(json.loads((run / 'status.json').read_text())['pid'], signal.SIGKILL)
    code, out, err = finish(p)
    assert code == 1 and len(err) == 1 and 'killed from outside' in err[0]
    assert out[-1] == f'to resume, give the same command again, or aurl train resume={run}'
    assert (run / 'model' / 'model.safetensors').exists()
    flip(max(run.glob('checkpoints/step_*')) / 'model.safetensors')  # the newest checkpoint is damaged as well
    code, out, err = finish(start(here, 'train', f'resume={run}'))
    assert code == 0 and err == [], err
    log = (run / 'training.log').read_text()
    assert 'resuming from step' in log and 'passed over' in log
    assert any(line.startswith('40 steps') for line in out) and (run / 'checkpoints' / 'step_00000040').exists()


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 48 MB; the test is skipped if it cannot be mounted."
    disk = tmp_path / 'disk'
    disk.mkdir()
    try: done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', str(disk)], capture_output=True)
    except OSError: pytest.skip('no mount')
    if done.returncode: pytest.skip('only root can mount a disk')
    yield disk
    subprocess.run(['umount', '-l', str(disk)], check=True)


def fill(disk, leave=0):
    "Write to the disk until `leave` bytes are free."
    with open(disk / 'filler', 'wb', 0) as f:
        try:
            while (free := shutil.disk_usage(disk).free - leave) > 0: f.write(b'0' * min(free, 2**20))
        except OSError: pass


def test_a_full_disk(here, small_disk):
    "On a full disk the command ends with one line of error and a loadable model, and the next one refuses to start."
    p = start(here, 'song', 'data=music', *short, f'out={small_disk}/runs')
    until(p, lambda: list(small_disk.glob('runs/*/model/model.safetensors')))
    fill(small_disk)
    os.killpg(p.pid, signal.SIGINT)
    code, out, err = finish(p)
    assert code == 1 and len(err) == 1 and 'the disk is full' in err[0] and 'out=FOLDER' in err[0]
    run = next((small_disk / 'runs').iterdir())
    assert f'partial results: {run}' in out and not list(run.rglob('*.tmp'))   # and how to resume, after a checkpoint
    from aurl.models.vae_gan import MusicTransformerVAEGAN
    assert MusicTransformerVAEGAN.from_pretrained(run)  # the best model that fitted on the disk
    code, out, err = finish(start(here, 'song', 'data=music', *short, f'out={small_disk}/runs'))
    assert code == 1 and len(err) == 1 and 'the disk is full: 0 MB free' in err[0]
