"The notebooks are the source: exporting and cleaning them changes no file."
import os, subprocess, sys
from pathlib import Path

import pytest
from common import copy_tree


def snapshot(tree):
    return {
        str(p.relative_to(tree)): p.read_bytes()
        for p in tree.rglob('*')
        if p.is_file() and '__pycache__' not in p.parts
    }


@pytest.mark.parametrize('command', ['nbdev_export', 'nbdev_clean'])
def test_changes_nothing(command, tmp_path):
    "After the command every file of the repository has the same bytes."
    tree = copy_tree(tmp_path / 'tree')
    before = snapshot(tree)
    assert before, 'nothing was copied'
    (tmp_path / 'home').mkdir()
    env = {**os.environ, 'PYTHONPATH': str(tree), 'HOME': str(tmp_path / 'home')}
    script = Path(sys.executable).parent / command
    done = subprocess.run([str(script)], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = snapshot(tree)
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    assert not changed, f'{command} changed {changed}: run `make prepare` and commit what it writes'
