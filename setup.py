"Everything comes from settings.ini; the run notebooks and presets travel inside the package."
from configparser import ConfigParser
from pathlib import Path
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(root / 'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

class BuildWithRuns(build_py):
    "Copy `nbs/runs/*.ipynb` to `aurl/notebooks` in the build, so that an installed aurl can run them."
    def run(self):
        super().run()
        dest = Path(self.build_lib) / 'aurl' / 'notebooks'
        if self.editable_mode: return
        dest.mkdir(parents=True, exist_ok=True)
        for nb in sorted((root / 'nbs' / 'runs').glob('*.ipynb')): shutil.copy2(nb, dest / nb.name)

extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}
extras['all'] = sorted({r for k, v in extras.items() if k not in ('dev', 'docs', 'bench') for r in v})

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    long_description=(root / 'README.md').read_text(encoding='utf-8') if (root / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    packages=find_packages(include=['aurl', 'aurl.*']),
    include_package_data=False,
    package_data={'aurl': ['aliases.yaml', 'corpora.yaml', 'pretrained/**/*', 'presets/**/*.yaml', 'assets/**/*', 'schemas/*.json']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split('\n')},
    cmdclass={'build_py': BuildWithRuns},
    zip_safe=False,
)
