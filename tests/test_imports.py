"A notebook imports only from lower numbers, and importing aurl needs only the requirements of users."
import ast, json, os, re, subprocess, sys

import pytest
from common import modules, root

development = ['nbdev', 'execnb', 'ghapi', 'fastgit', 'pytest', 'hypothesis', 'jupytext', 'jupyterlab', 'mido']
extras = [
    'optuna',
    'wandb',
    'mlflow',
    'tensorboard',
    'trackio',
    'accelerate',
    'dask',
    'distributed',
    'pytorch_optimizer',
    'zuko',
    'curvlinops',
    'onnx',
    'onnxscript',
    'onnxruntime',
    'torchao',
    'fastapi',
    'verovio',
    'pypandoc',
    'typst',
    'miditok',
    'sphinx',
    'playwright',
    'rtmidi',
]


def numbers(folder):
    "The number of each module, from the name of its notebook."
    found = {}
    for path in sorted(folder.glob('*.ipynb')):
        source = '\n'.join(
            ''.join(c['source'])
            for c in json.loads(path.read_text(encoding='utf-8'))['cells']
            if c['cell_type'] == 'code'
        )
        module = re.search(r'^#\s*\|\s*default_exp\s+(\S+)', source, re.M)
        if module is None: continue
        name = re.fullmatch(r'(\d{3})_(.+)', path.stem)
        assert (
            name and name[2] == module[1]
        ), f'{path.name} exports {module[1]}: call it NNN_{module[1]}.ipynb, with three digits'
        found[module[1]] = int(name[1])
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
            if stem.split('.')[0] == 'aurl':
                yield from (s.removeprefix('aurl.') for s in [stem, *(f'{stem}.{n}' for n in names)])


def climbs(module, source, number):
    "The modules with higher numbers that `source` imports."
    return sorted({t for t in imported(source, module) if number.get(t, -1) > number[module]})


number = numbers(root / 'nbs')


@pytest.mark.parametrize('module', sorted(number, key=number.get))
def test_imports_never_climb(module):
    "The module imports only modules with lower numbers."
    path = root / 'aurl' / (module.replace('.', '/') + '.py')
    assert path.exists(), f'the notebook of {module} exports nothing; run nbdev_export'
    up = climbs(module, path.read_text(encoding='utf-8'), number)
    assert not up, f'{module} ({number[module]}) imports {", ".join(f"{t} ({number[t]})" for t in up)}'


def test_numbers_are_unique():
    "No two notebooks have the same number."
    twice = [m for m, n in number.items() if list(number.values()).count(n) > 1]
    assert not twice, f'share a number: {twice}'


def test_every_notebook_of_the_top_folder_has_a_module():
    "Every notebook at the top of nbs exports a module."
    others = [
        p.name for p in sorted((root / 'nbs').glob('*.ipynb')) if p.name != 'index.ipynb' and p.stem[4:] not in number
    ]
    assert not others, f'{others} export nothing: proofs go to nbs/proofs'


def test_file_names_of_modules_are_unique():
    "No two modules have the same file name."
    stems = [m.split('.')[-1] for m in number]
    twice = sorted({s for s in stems if stems.count(s) > 1})
    assert (
        not twice
    ), f'several modules are called {twice}: `aurl.a.x` beside `aurl.b.x` is looked for in the wrong place'


def test_a_climb_is_seen():
    "Every form of an import from a higher number is found."
    known = {'core': 0, 'tokens.vocab': 400, 'losses.base': 700}
    for line in [
        'from aurl.losses.base import x',
        'from aurl.losses import base',
        'import aurl.losses.base',
        'from ..losses import base',
        'from ..losses.base import x',
        'def f():\n    from aurl.losses.base import x',
    ]:
        assert climbs('tokens.vocab', line, known) == ['losses.base'], line
    for line in ['from aurl.core import x', 'import torch', 'from .other import x']:
        assert not climbs('tokens.vocab', line, known), line


def test_no_module_names_development_tools():
    "No module imports a development tool."
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else []
            )
            bad = [n for n in names if n.split('.')[0] in development or n.startswith('fastai.vision')]
            assert not bad, f'aurl/{name}, line {node.lineno}: {bad[0]}'


def test_everything_imports_without_extras():
    "Every module can be imported without development tools and extras."
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
    done = subprocess.run(
        [sys.executable, '-c', code, absent, *names],
        cwd=root,
        env={**os.environ, 'PYTHONPATH': str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
