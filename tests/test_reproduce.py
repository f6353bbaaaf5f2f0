"`reproduce.sh` of a training repeats it with the same losses, to the last digit."
import os, subprocess, sys
from pathlib import Path

import pytest

from aurl.experiments.reproduce import compare_losses, newest_repetition
from aurl.experiments.run_files import find_runs
from common import root

TINY = (
    'steps=8', 'model=tiny', 'length=64', 'batch_size=4', 'valid=0.3', 'workers=0', 'checkpoint_every=4', 'log_every=1',
    'device=cpu', 'seed=11', 'losses={rhythm: 0.1}', 'tags=[proof]',
)


@pytest.fixture(scope='module')
def trained(midi, tmp_path_factory):
    "A finished run of `aurl train`, and the environment that it ran in."
    where = tmp_path_factory.mktemp('reproduce')
    env = os.environ | dict(PYTHONPATH=str(root), AURL_HOME=str(where / 'home'), OMP_NUM_THREADS='1', PYTHON=sys.executable)
    words = [sys.executable, '-c', 'from aurl.cli import main; main()', 'train', f'data={midi}', *TINY, f'out={where / "runs"}']
    subprocess.run(words, cwd=where, env=env, check=True, capture_output=True)
    run, = find_runs(where / 'runs')
    return run, env


@pytest.mark.skipif(os.name == 'nt', reason='a shell script')
@pytest.mark.parametrize('how', [['--here'], []])
def test_same_losses(trained, how, tmp_path):
    "The repetition with the present code, and that in a clone with the uncommitted changes, have equal losses."
    run, env = trained
    if not how and not (root / '.git').exists(): pytest.skip('not a checkout')
    r = subprocess.run(['bash', run / 'reproduce.sh', *how], env=env | dict(OUT=str(tmp_path / 'again')), cwd=tmp_path,
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    found = compare_losses(run, newest_repetition(run, tmp_path / 'again'))
    assert found['n'] >= 8 * 4 and found['differ'] == [] and found['samples'] == found['n_samples'] > 0
    assert '0 differ' in r.stdout
    assert (tmp_path / 'again/code/aurl/core.py').exists() == (not how)


@pytest.mark.skipif(os.name == 'nt', reason='a shell script')
def test_another_seed_is_noticed(trained, tmp_path):
    "With another seed the losses differ, and the script fails."
    run, env = trained
    script = run.parent / 'other' / 'reproduce.sh'
    script.parent.mkdir()
    for name in ('environment.json', 'metrics.jsonl'): (script.parent / name).write_bytes((run / name).read_bytes())
    script.write_text((run / 'reproduce.sh').read_text().replace('seed: 11', 'seed: 12'))
    r = subprocess.run(['bash', script, '--here'], env=env | dict(OUT=str(tmp_path / 'again')), capture_output=True, text=True)
    assert r.returncode == 1 and 'differ' in r.stdout and 'step 1: ' in r.stdout, r.stdout + r.stderr
