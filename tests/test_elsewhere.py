"""Trainings on a second device, on machines without a GPU: all tensors are on the device of the model, without
synchronizations."""
import json, os, subprocess, sys

import pytest
from common import root


def both(case, steps, tmp_path, float64=True):
    "The output of `elsewhere.py` for a training on both devices; without float64 the second is like Apple's MPS."
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
def test_training_on_a_second_device(case, tmp_path):
    "The losses on the second device equal those of the CPU, and the generated pieces are valid."
    said = both(case, 6, tmp_path, float64=False)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=2e-4)
    assert said['there']['valid'] == said['here']['valid'] == [True]*len(said['here']['valid'])
    assert len(said['here']['valid']) == (7 if case == 'losses' else 2)   # without and with options of sampling


def test_float16_with_loss_scaling(tmp_path):
    """With float16, learned loss weights, accumulation, weight averaging and a second backward pass receive unscaled
    gradients."""
    said = both('fp16', 8, tmp_path)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=.02)
    assert (
        said['low']['torch.float16'] > 100
        and said['there']['scales']
        and not said['here']['scales']
        and max(said['there']['scales']) <= 2**16
    )
    assert all(said['there']['valid'])


def test_no_synchronization_between_log_lines(tmp_path):
    "A step of a plain training between two lines of the log does not synchronize with the device."
    said = both('plain', 26, tmp_path)
    assert said['there']['losses'] == pytest.approx(said['here']['losses'], abs=2e-4)
    # the first twenty steps count the targets for the unigram entropy; a validation may synchronize
    late = sorted(said['there']['waited'][20:])
    assert late[len(late)//2] == 0, said['where']
    assert sum(said['here']['waited']) == 0           # on the CPU there is nothing to synchronize with
