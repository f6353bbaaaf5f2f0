"""What is computed on a graphics card, on machines that have none: everything a training needs is where the model is, and nobody waits for it."""
import json, os, subprocess, sys

import pytest
from common import root


def both(case, steps, tmp_path, float64=True):
    "What `elsewhere.py` says of a training here and there; without float64 the device is like Apple's MPS."
    done = subprocess.run(
        [sys.executable, root / 'tests/elsewhere.py', case, str(steps)],
        env=dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1', ELSEWHERE_FLOAT64=str(int(float64))),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said['refuses'] and len(said['here']['losses']) == len(said['there']['losses']) >= steps - 2
    return said


@pytest.mark.parametrize('case', ['losses', 'vae', 'vae_gan'])
def test_a_training_elsewhere_is_the_same_training(case, tmp_path):
    said = both(case, 6, tmp_path, float64=False)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=2e-4)
    assert said['there']['valid'] == said['here']['valid'] == [True, True]


def test_float16_with_loss_scaling(tmp_path):
    "Several losses with weights that are learned, accumulation, a mean of the weights and a second backward pass: all of them meet unscaled gradients."
    said = both('fp16', 8, tmp_path)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=.02)
    assert (
        said['low']['torch.float16'] > 100
        and said['there']['scales']
        and not said['here']['scales']
        and max(said['there']['scales']) <= 2**16
    )
    assert said['there']['valid'] == [True, True]


def test_nobody_waits_between_two_lines_of_the_log(tmp_path):
    said = both('plain', 26, tmp_path)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=2e-4)
    # the first twenty steps count what there is to learn; a validation at the end of an epoch may wait
    late = sorted(said['there']['waited'][20:])
    assert late[len(late)//2] == 0, said['where']
    assert sum(said['here']['waited']) == 0           # and here there is nobody to wait for
