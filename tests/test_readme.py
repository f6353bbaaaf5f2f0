"The README equals `nbs/index.ipynb`, and its links lead to files."
import importlib.util, re, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (root/'nbs'/'index.ipynb').exists(), reason='nbs/index.ipynb is not there')

def test_readme_is_up_to_date():
    "`docs/readme.py` would not change the README."
    if importlib.util.find_spec('execnb') is None: pytest.skip("nbdev not installed: pip install -e '.[dev]'")
    r = subprocess.run([sys.executable, str(root/'docs'/'readme.py'), '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr

def test_links_lead_somewhere():
    "Every relative link of the README leads to a file of the repository."
    text = re.sub(r'```.*?```', '', (root/'README.md').read_text(encoding='utf-8'), flags=re.S)
    urls = re.findall(r'\]\(<?([^)\s>]+)', text) + re.findall(r'(?:src|href)=["\']([^"\']+)', text)
    lost = [
        u
        for u in urls
        if not re.match(r'^([a-z]+:|#)', u) and not (root / u.split('#')[0]).exists() and not u.startswith('_docs/')
    ]
    assert lost == []
