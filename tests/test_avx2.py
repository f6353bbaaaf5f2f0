"""The numerical notebooks pass with AVX2 and without bfloat16, also on processors with newer instructions.

Most laptops have such processors. On one of them the ordinary run tests this already, and these tests are skipped."""
import os, subprocess, sys

import pytest
import torch
from common import root

# instruction sets of torch's own kernels and of its library of matrix products
AVX2 = dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2')
# short notebooks that compare numbers
NOTEBOOKS = [
    '020_device',
    '600_models.attention',
    '610_models.local',
    '615_models.blocks',
    '620_models.transformer',
    '650_models.soft_features',
    '680_models.decoder',
    '700_losses.base',
    '702_losses.loss_checks',
    '705_losses.musical',
    '710_losses.texture',
    '715_losses.rules',
    '735_train.learner',
]
more = torch.backends.cpu.get_cpu_capability().startswith(('AVX512', 'AMX'))
ordinary = pytest.mark.skipif(
    not more,
    reason=f'this processor computes with {torch.backends.cpu.get_cpu_capability()}: the ordinary run has tested it',
)


def asked(code, **env):
    "The output of `code` in a separate process with the environment variables `env`."
    paths = [str(root), os.environ.get('PYTHONPATH')]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in paths if p), **env}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


x86 = pytest.mark.skipif(
    'AVX' not in torch.backends.cpu.get_cpu_capability() and not more, reason='not an x86 processor with AVX2'
)


@x86
def test_the_variables_switch():
    """The environment variables select AVX2 in torch's kernels and in its library of matrix products, and turn
    bfloat16 off."""
    code = 'import torch; torch.conv2d(torch.ones(16, 16, 64, 64), torch.ones(32, 16, 3, 3)); print(torch.backends.cpu.get_cpu_capability())'
    said = asked(code, **AVX2, ONEDNN_VERBOSE='1')
    assert said.splitlines()[-1] == 'AVX2'
    assert next(line for line in said.splitlines() if ',isa:' in line).endswith('AVX2')
    assert asked(code, ATEN_CPU_CAPABILITY='default').splitlines()[-1] not in ('AVX2', 'AVX512')
    assert asked('from aurl.device import amp_dtype; print(amp_dtype("cpu"))', **AVX2).strip() == 'None'


@ordinary
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook(name, tmp_path):
    "The notebook passes with AVX2: its comparisons have tolerances for other instruction sets."
    env = {
        **os.environ,
        **AVX2,
        'PYTHONPATH': os.pathsep.join(p for p in [str(root), os.environ.get('PYTHONPATH')] if p),
        'TMPDIR': str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, str(root / 'tests' / 'run_notebook.py'), str(root / 'nbs' / f'{name}.ipynb')],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        errors='replace',
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-20_000:]


def test_the_notebooks_are_there():
    "Every notebook of the list exists."
    assert not [n for n in NOTEBOOKS if not (root / 'nbs' / f'{n}.ipynb').exists()]
