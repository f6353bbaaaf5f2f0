"Management of runs and stores: compressed checkpoints resume bit for bit, and no store that a run needs is pruned."
import json, os, shutil, subprocess, sys

import pytest

import crash
from aurl.commands.checks import check_request
from aurl.commands.learner_setup import data_usage_lines
from aurl.core import CheckpointError, ConfigError, aurl_home
from aurl.experiments.registry import list_runs, inspect_run
from aurl.data.cache import list_cache
from aurl.train.checkpoint import load_checkpoint
from common import root
from test_training import config, killed, train


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('upkeep'))


def aurl(*args, cwd):
    "The command in a process of its own: exit code, output and errors."
    words = [sys.executable, '-c', 'from aurl.cli import main; main()', *map(str, args)]
    p = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(root)}, timeout=240
    )
    return p.returncode, p.stdout, p.stderr


def losses(run): return [(m['step'], m['train_loss']) for m in run.metrics() if m.get('train_loss') is not None]


def test_a_killed_training_goes_on_from_compressed_checkpoints(store, tmp_path, monkeypatch):
    "A killed training resumes from compressed checkpoints with the same losses."
    more = dict(
        steps=14,
        checkpoint_every=4,
        log_every=1,
        checkpoints=dict(compress=True, history=['1h']),
        data=dict(a=str(store.path), b=str(store.path)),
        loader=dict(balance_by='corpus'),
    )
    whole, _, best = train(config(store, tmp_path / 'whole', **more))
    run = killed(config(store, tmp_path / 'cut', **more), 10, monkeypatch)
    assert all(list(p.glob('*.safetensors.z')) and not list(p.glob('*.safetensors')) for p in run.checkpoints.iterdir())
    on, _, again = train(config(store, tmp_path / 'cut', **more))
    assert on.path == run.path and losses(on) == losses(whole) and again == best
    assert any('balanced by corpus' in line for line in data_usage_lines(on))
    entry = inspect_run(on.path, deep=True)
    assert (
        (entry.state, entry.steps) == ('finished', 14)
        and entry.parameters
        and all(c.size < c.uncompressed_size and not c.damaged for c in entry.checkpoints)
    )
    last = max(on.checkpoints.glob('step_*'))
    data = bytearray((last / 'model.safetensors.z').read_bytes())
    data[len(data)//2] ^= 1
    (last / 'model.safetensors.z').write_bytes(data)
    with pytest.raises(CheckpointError, match='model.safetensors.z has changed'): load_checkpoint(last)
    assert [c.path.name for c in inspect_run(on.path, deep=True).checkpoints if c.damaged] == [last.name]


def test_options_that_would_have_no_effect_are_refused(store, tmp_path):
    "Options of checkpoints, balancing and remedies without effect are errors."
    for more, says in (
        (dict(checkpoints=dict(compress=True), checkpoint_every=0), 'checkpoint_every=0'),
        (dict(loader=dict(balance_power=0.5)), 'nothing is balanced'),
        (dict(monitor=dict(enabled=False, remedies=True)), 'needs monitoring'),
        (dict(monitor=dict(remedies='suggest', max_rollbacks=0)), 'max_rollbacks=3'),
        (dict(checkpoints=dict(max_age='3d')), 'without a history'),
    ):
        with pytest.raises(ConfigError, match=says): check_request(config(store, tmp_path, **more))


@pytest.fixture(scope='module')
def kept(tmp_path_factory, store):
    "A run on data that aurl has prepared, in a separate folder."
    home, here = tmp_path_factory.mktemp('home'), tmp_path_factory.mktemp('here')
    before = os.environ.get('AURL_HOME')
    os.environ['AURL_HOME'] = str(home)
    yield here, store
    os.environ.pop('AURL_HOME') if before is None else os.environ.update(AURL_HOME=before)


def test_a_store_that_a_run_needs_is_not_pruned(kept):
    "`aurl stores prune` keeps stores in use and lists what it would remove."
    here, store = kept
    source = here / 'music'
    source.mkdir()
    from aurl.midi.write import write_midi
    from aurl.tokens.codec import decode
    for i in range(4): write_midi(decode(store[i]), source / f'{i}.mid')
    run, _, _ = train(config(store, here / 'elsewhere', data=str(source), steps=2, checkpoint_every=0))
    (entry,) = [e for e in list_cache() if e.kind == 'store']
    assert entry.users == [run.path] and entry.state == 'intact'
    (aurl_home() / 'stores/.x.aurl-0123abcd.tmp').mkdir()
    code, out, err = aurl('stores', 'prune', '--all', cwd=here)
    assert (
        (code, err) == (0, '')
        and 'would remove' in out
        and f'{run.path.name} uses it' in out
        and (aurl_home() / 'stores/.x.aurl-0123abcd.tmp').exists()
    )
    code, out, err = aurl('stores', 'prune', '--all', '--max-size', '1kB', '--yes', cwd=here)
    assert (
        (code, err) == (0, '')
        and entry.path.exists()
        and not (aurl_home() / 'stores/.x.aurl-0123abcd.tmp').exists()
        and 'more than 1kB' in out
    )
    with open(entry.path / 'ids.bin', 'r+b') as f: f.write(b'\xff\xff\xff')
    assert aurl('stores', 'verify', cwd=here)[0] == 1
    code, out, err = aurl('stores', 'repair', entry.path.name, cwd=here)
    assert (code, err) == (0, '') and 'shard 0' in out
    code, out, err = aurl('stores', '--json', cwd=here)
    assert code == 0 and [e['state'] for e in json.loads(out) if e['kind'] == 'store'] == ['intact']
    shutil.rmtree(run.path)
    assert 'removed' in aurl('stores', 'prune', '--all', '--yes', cwd=here)[1] and not entry.path.exists()


def test_runs_are_listed_whatever_lies_beside_them(kept):
    "`aurl runs` lists damaged runs as such, and mistakes print one line."
    here, _ = kept
    bad = here / 'runs' / 'torn\x1b[2J'
    bad.mkdir(parents=True)
    (bad / 'config.yaml').write_bytes(b'\xff\xfe: [')
    (bad / 'status.json').write_text('{')
    code, out, err = aurl('runs', cwd=here)
    assert (code, err) == (0, '') and 'damaged' in out and '\x1b' not in out and r'torn\x1b[2J' in out
    code, out, err = aurl('runs', 'runs', '--json', cwd=here)
    assert code == 0 and json.loads(out)[0]['state'] == 'damaged' and json.loads(out)[0]['reason']
    assert len(list_runs(here / 'runs')) == 1
    for words in (
        ('runs', 'nowhere'),
        ('runs', 'runs', '--state', 'fine'),
        ('stores', 'repair', 'nothing'),
        ('stores', 'prune', '--max-size', 'small'),
        ('stores', 'clean'),
    ):
        code, out, err = aurl(*words, cwd=here)
        assert code in (1, 2) and err.startswith('aurl: ') and len(err.splitlines()) == 1, (words, code, err)
