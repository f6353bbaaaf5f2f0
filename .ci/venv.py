#!/usr/bin/env python3
"""Make or refresh the environment of this checkout: .ci/venv.py FOLDER STAGE, where STAGE is python, run or dev.

Standard library alone, because it runs before anything is installed. The Makefile calls it once for each stage and leaves a stamp
behind, so a second `make` does not come here at all.
"""
import json, os, platform, re, shutil, stat, subprocess, sys, tempfile, threading
from pathlib import Path

root = Path(__file__).resolve().parents[1]
cpu_index = 'https://download.pytorch.org/whl/cpu'


def say(*words): print('aurl:', *words, flush=True)
def stop(*words): sys.exit('aurl: ' + ' '.join(words))


class Env:
    "A virtual environment and its pip."
    def __init__(self, folder):
        self.folder = root / folder
        self.bin = self.folder / ('Scripts' if os.name == 'nt' else 'bin')
        self.python = self.bin / 'python'

    def run(self, *args, quiet=False, **kwargs):
        hush = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) if quiet else {}
        return subprocess.run([str(self.python), *map(str, args)], cwd=root, text=True, **hush, **kwargs)

    def pip(self, *args, **kwargs): return self.run('-m', 'pip', '--disable-pip-version-check', '--no-input', *args, **kwargs)
    def install(self, *args):
        calm = {**os.environ, 'PYTHONWARNINGS': 'ignore'}  # setuptools has opinions on editable installs
        return self.pip('install', '--quiet', '--constraint', root / 'constraints.txt', *args, env=calm).returncode == 0

    def version(self, package):
        "The installed version of `package`, or ''."
        return (self.run('-c', f'from importlib.metadata import version; print(version({package!r}))', quiet=True).stdout or '').strip()


def pinned(package):
    "The line of constraints.txt for `package`."
    return next(l.strip() for l in (root / 'constraints.txt').read_text().splitlines() if l.startswith(package + '=='))


def make_python(env):
    "The bare environment."
    if sys.version_info < (3, 11): stop(f'Python 3.11 or newer is needed; this is {platform.python_version()}')
    if env.python.exists() and env.run('-c', 'import pip', quiet=True).returncode == 0: return
    say(f'making {env.folder.name} with Python {platform.python_version()}')
    if subprocess.run([sys.executable, '-m', 'venv', '--clear', str(env.folder)]).returncode:
        stop('this Python cannot make a virtual environment; on Debian or Ubuntu: sudo apt install python3-venv')
    env.pip('install', '--quiet', '--upgrade', 'pip>=24.2')  # a newer one asks the index less; the old one would do


def reachable(url, seconds=8):
    "Does `url` answer within `seconds`? A host that hangs counts as absent."
    import urllib.request
    found = []
    def ask():
        try: found.append(urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=seconds).status < 400)
        except Exception: pass
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(seconds)
    return any(found)


def own_index(env):
    "Has the user told pip to ask another index, or none? Then that stays so."
    told = env.pip('config', 'list', quiet=True).stdout or ''
    return bool(re.search(r'\.(index-url|no-index)=', told) or os.environ.get('PIP_INDEX_URL') or os.environ.get('PIP_NO_INDEX'))


def has_gpu():
    try: return subprocess.run(['nvidia-smi', '-L'], capture_output=True, timeout=20).stdout.strip() != b''
    except (OSError, subprocess.TimeoutExpired): return False


def offered(env, package):
    "The version of `package` that pip would take as it is configured."
    out = env.pip('install', '--dry-run', '--no-deps', '--ignore-installed', '--quiet', '--report', '-', package, quiet=True).stdout
    try: return json.loads(out[out.index('{'):])['install'][0]['metadata']['version']
    except (ValueError, LookupError): return ''


def install_torch(env):
    "Torch before everything else: a CPU build where there is no GPU and pip finds one, otherwise whatever the index gives."
    torch, vision = pinned('torch'), pinned('torchvision')
    if env.version('torch').split('+')[0] == torch.split('==')[1]: return
    say(f'installing {torch}')
    if sys.platform == 'linux' and not has_gpu() and '+' not in offered(env, torch) and not own_index(env):
        if reachable(f'{cpu_index}/torch/'):
            if env.install('--no-deps', '--index-url', cpu_index, '--timeout', '30', '--retries', '1', torch, vision): return
        say(f'{cpu_index} does not answer; the build of your index follows, which may be large and works on a CPU too')
    if not env.install('--no-deps', torch): stop(f'{torch} could not be installed; the lines above say why')


def install_aurl(env, extras=''):
    say('installing aurl' + (f' and what [{extras}] needs' if extras else '') + '; minutes the first time, seconds later')
    if not env.install('--use-pep517', '--editable', f'.[{extras}]' if extras else '.'):
        stop('pip stopped; the lines above say why, and the same command goes on from there')


def install_hooks(env):
    "nbdev's git hooks for this clone alone; your own Jupyter settings are not touched."
    if not (root / '.git').is_dir() or not shutil.which('git'): return
    with tempfile.TemporaryDirectory() as home:
        env.run('-c', 'from nbdev.clean import nbdev_install_hooks as f; f.__wrapped__()', quiet=True, env={**os.environ, 'HOME': home})
    here = env.bin.resolve()
    subprocess.run(['git', 'config', '--local', 'merge.nbdev-merge.driver', f"'{here / 'nbdev_merge'}' %O %A %B %P"], cwd=root)
    hook = root / '.git/hooks/post-merge'
    hook.write_text(f'#!/bin/sh\n[ ! -x "{here}/nbdev_trust" ] || "{here}/nbdev_trust" >/dev/null\n')
    hook.chmod(hook.stat().st_mode | stat.S_IEXEC)


def main(folder, stage):
    env = Env(folder)
    if stage == 'python': make_python(env)
    if stage == 'run':
        install_torch(env)
        install_aurl(env)
    if stage == 'dev':
        install_torch(env)
        install_aurl(env, 'dev,docs')
        install_hooks(env)


if __name__ == '__main__': main(*sys.argv[1:])
