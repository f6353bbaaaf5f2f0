"""Functions that several tests use."""
import shutil, subprocess
from pathlib import Path

root = Path(__file__).resolve().parents[1]


def modules():
    "The exported modules: path inside aurl, such as tokens/vocab.py, and its path."
    return {
        str(p.relative_to(root / 'aurl')): p
        for p in sorted((root / 'aurl').rglob('*.py'))
        if p.name not in ('__init__.py', '_modidx.py')
    }


def copy_tree(dest):
    "Copy what belongs to the repository (not what git ignores) to `dest`."
    try:
        out = subprocess.run(
            ['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        names = [n for n in out.split('\0') if n]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        names = [
            str(p.relative_to(root))
            for d in ('aurl', 'nbs', 'tests', 'docs', '.ci')
            for p in (root / d).rglob('*')
            if p.is_file()
        ]
        names += [p.name for p in root.iterdir() if p.is_file()]
    for name in names:
        if (root / name).is_file():
            (dest / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, dest / name)
    return dest
