"""The built wheel, in an environment where only its requirements can be imported: no nbdev, no extras, no checkout.

The fresh environment uses the packages installed in this one, because installing torch again takes minutes, but an
import hook admits only the requirements of the wheel and their dependencies."""
import json, os, re, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from common import copy_tree, modules, root

packaging = pytest.importorskip('packaging.requirements')

door = '''
"Only the packages that aurl requires can be imported from the environment that runs the tests."
import importlib.abc, sys
class Door(importlib.abc.MetaPathFinder):
    closed = set({closed!r})
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.closed: raise ModuleNotFoundError(f'No module named {{name!r}} (not among the requirements of aurl)', name=name)
sys.meta_path.insert(0, Door())
'''


def plain(name): return re.sub(r'[-_.]+', '-', name).lower()


def closure(requirements):
    "The distributions that `requirements` need in this environment, directly or indirectly."
    todo, seen = [packaging.Requirement(r) for r in requirements], set()
    while todo:
        r = todo.pop()
        if (plain(r.name), frozenset(r.extras)) in seen: continue
        seen.add((plain(r.name), frozenset(r.extras)))
        try: needs = distribution(r.name).requires or []
        except PackageNotFoundError: continue
        for q in map(packaging.Requirement, needs):
            if q.marker is None or any(q.marker.evaluate(dict(extra=e)) for e in ['', *r.extras]): todo.append(q)
    return {name for name, _ in seen}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from a copy of the tree."
    tmp = tmp_path_factory.mktemp('wheel')
    tree = copy_tree(tmp / 'tree')
    try: modern = int(distribution('setuptools').version.split('.')[0]) >= 64 and distribution('wheel')
    except PackageNotFoundError: modern = False
    args = ['--no-build-isolation'] if modern else []
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', *args, '--wheel-dir', str(tmp), str(tree)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return next(tmp.glob('aurl-*.whl'))


@pytest.fixture(scope='module')
def fresh(wheel, tmp_path_factory):
    "A function that runs a command in a fresh environment with the wheel."
    folder = tmp_path_factory.mktemp('fresh')
    # with the checkout on its path pip would find aurl installed already
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'AURL'))}
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(folder / 'venv')], check=True)
    bin = folder / 'venv' / ('Scripts' if os.name == 'nt' else 'bin')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            '--python',
            str(bin / 'python'),
            'install',
            '--quiet',
            '--no-deps',
            '--no-index',
            str(wheel),
        ],
        capture_output=True,
        text=True,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    site = Path(
        subprocess.run(
            [str(bin / 'python'), '-c', 'import site; print(site.getsitepackages()[0])'], capture_output=True, text=True
        ).stdout.strip()
    )
    allowed = closure(requirements(wheel)) | {'pip', 'setuptools'}
    closed = {
        top for top, owners in packages_distributions().items() if not {plain(o) for o in owners} & (allowed | {'aurl'})
    }
    assert 'nbdev' in closed and 'execnb' in closed and 'torch' not in closed
    (site / 'sitecustomize.py').write_text(door.format(closed=sorted(closed)))
    (site / 'requirements.pth').write_text('\n'.join(p for p in sys.path if Path(p).name == 'site-packages') + '\n')
    env = clean | dict(HOME=str(folder), AURL_HOME=str(folder / 'home'), OMP_NUM_THREADS='1')

    def run(*command, **kwargs):
        return subprocess.run(
            [str(bin / command[0]), *command[1:]],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            **kwargs
        )
    return run


def requirements(wheel, extra=''):
    "The requirements of the wheel without extras."
    with zipfile.ZipFile(wheel) as z: text = z.read(next(n for n in z.namelist() if n.endswith('METADATA'))).decode()
    asked = [
        packaging.Requirement(l.removeprefix('Requires-Dist: '))
        for l in text.splitlines()
        if l.startswith('Requires-Dist: ')
    ]
    return [str(r).split(';')[0] for r in asked if r.marker is None or r.marker.evaluate(dict(extra=extra))]


def test_what_is_inside(wheel):
    "The wheel has all modules, run notebooks and presets, and no music or other packages."
    with zipfile.ZipFile(wheel) as z: names = set(z.namelist())
    want = {f'aurl/{n}' for n in modules()}
    want |= {f'aurl/notebooks/{p.name}' for p in (root / 'nbs' / 'runs').glob('*.ipynb')}
    want |= {f'aurl/{p.relative_to(root / "aurl")}' for p in (root / 'aurl' / 'presets').rglob('*.yaml')}
    assert not want - names
    assert any(n.endswith('LICENSE') for n in names)
    assert not [n for n in names if not n.startswith(('aurl/', 'aurl-'))], 'something besides aurl would be installed'
    assert not [n for n in names if n.endswith(('.mid', '.midi'))], 'the wheel contains MIDI files'


def test_what_it_asks_for(wheel):
    "The requirements of the wheel are those of settings.ini, without development tools."
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root / 'settings.ini', encoding='utf-8')
    want = {plain(packaging.Requirement(r).name) for r in cfg['DEFAULT']['requirements'].split()}
    got = {plain(packaging.Requirement(r).name) for r in requirements(wheel)}
    assert got == want and not got & {'nbdev', 'execnb', 'pytest'}
    assert 'nbdev' in {plain(packaging.Requirement(r).name) for r in requirements(wheel, 'dev')}


def test_every_module_imports(fresh):
    "Every module of the wheel can be imported."
    names = ['aurl.' + n.removesuffix('.py').replace('/', '.') for n in modules()]
    done = fresh(
        'python',
        '-c',
        'import importlib, sys, aurl; [importlib.import_module(n) for n in sys.argv[1:]]; print(aurl.__file__)',
        *names
    )
    assert done.returncode == 0, done.stderr
    assert 'fresh' in done.stdout and str(root) not in done.stdout, 'the checkout was imported, not the wheel'


def test_nbdev_is_absent(fresh):
    "nbdev cannot be imported in the fresh environment."
    assert 'not among the requirements' in fresh('python', '-c', 'import nbdev').stderr


@pytest.mark.skipif(not (root / 'aurl' / 'cli.py').exists(), reason='the command line has not been written yet')
def test_doctor(fresh):
    "`aurl doctor` succeeds without a traceback."
    done = fresh('aurl', 'doctor')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr


@pytest.mark.skipif(not (root / 'aurl' / 'cli.py').exists(), reason='the command line has not been written yet')
def test_help_starts_at_once(fresh):
    "`aurl --help` imports neither torch nor fastai, and few modules in all."
    code = 'import atexit, sys; atexit.register(lambda: print("MODULES", *sys.modules)); from aurl.cli import main; sys.argv = ["aurl", "--help"]; main()'
    done = fresh('python', '-c', code)
    assert done.returncode == 0 and 'Usage' in done.stdout, done.stderr
    modules = done.stdout.split('MODULES')[1].split()
    heavy = {'torch', 'fastai', 'numpy', 'matplotlib', 'music21', 'pandas', 'IPython', 'plotly'} & set(modules)
    assert not heavy and len(modules) < 900, (heavy, len(modules))
