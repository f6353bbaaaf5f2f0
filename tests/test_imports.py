"""The listing is the data flow: a notebook imports from lower numbers alone, and a user's import needs nothing but the requirements."""
import ast, json, os, re, subprocess, sys

import pytest
from common import modules, root

development = ['nbdev', 'execnb', 'ghapi', 'fastgit', 'pytest', 'hypothesis', 'jupytext', 'jupyterlab', 'mido']
extras = ['optuna', 'wandb', 'mlflow', 'tensorboard', 'accelerate', 'dask', 'distributed', 'pytorch_optimizer', 'zuko', 'onnx', 'onnxscript', 'onnxruntime',
          'torchao', 'fastapi', 'verovio', 'pypandoc', 'typst', 'miditok', 'sphinx', 'playwright']


def numbers(folder):
    "The number of each module, from the name of its notebook."
    found = {}
    for path in sorted(folder.glob('*.ipynb')):
        source = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code')
        name, module = re.match(r'(\d+)([a-z]?)_', path.name), re.search(r'^#\s*\|\s*default_exp\s+(\S+)', source, re.M)
        if name and module: found[module.group(1)] = int(name[1]) + (ord(name[2]) - 96 if name[2] else 0)/100  # 32b lies between 32 and 33
    return found


def imported(source, module):
    "Names of aurl's modules that `source`, the text of `module`, may import; inside functions too."
    here = ['aurl', *module.split('.')[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): stems = [(a.name, []) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else []
            stems = [('.'.join(base + ([node.module] if node.module else [])), [a.name for a in node.names])]
        else: continue
        for stem, names in stems:
            if stem.split('.')[0] == 'aurl': yield from (s.removeprefix('aurl.') for s in [stem, *(f'{stem}.{n}' for n in names)])


def climbs(module, source, number): return sorted({t for t in imported(source, module) if number.get(t, -1) > number[module]})


number = numbers(root / 'nbs')


@pytest.mark.parametrize('module', sorted(number, key=number.get))
def test_imports_never_climb(module):
    path = root / 'aurl' / (module.replace('.', '/') + '.py')
    assert path.exists(), f'the notebook of {module} exports nothing; run nbdev_export'
    up = climbs(module, path.read_text(encoding='utf-8'), number)
    assert not up, f'{module} ({number[module]}) imports {", ".join(f"{t} ({number[t]})" for t in up)}'


def test_numbers_are_unique():
    twice = [m for m, n in number.items() if list(number.values()).count(n) > 1]
    assert not twice, f'share a number: {twice}'


def test_a_climb_is_seen():
    known = {'core': 0, 'tokens.vocab': 30, 'train.losses': 80}
    for line in ['from aurl.train.losses import x', 'from aurl.train import losses', 'import aurl.train.losses', 'from ..train import losses',
                 'from ..train.losses import x', 'def f():\n    from aurl.train.losses import x']:
        assert climbs('tokens.vocab', line, known) == ['train.losses'], line
    for line in ['from aurl.core import x', 'import torch', 'from .other import x']: assert not climbs('tokens.vocab', line, known), line


def test_no_module_names_development_tools():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else []
            bad = [n for n in names if n.split('.')[0] in development or n.startswith('fastai.vision')]
            assert not bad, f'aurl/{name}, line {node.lineno}: {bad[0]}'


def test_everything_imports_without_extras():
    code = '''
import importlib, importlib.abc, sys
absent = set(sys.argv[1].split())
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in absent: raise ModuleNotFoundError(f'{name} is for development or an extra', name=name)
sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]: importlib.import_module(name)
'''
    names = ['aurl.' + n.removesuffix('.py').replace('/', '.') for n in modules()]
    absent = ' '.join([*development, *extras])
    done = subprocess.run([sys.executable, '-c', code, absent, *names], cwd=root, env={**os.environ, 'PYTHONPATH': str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
