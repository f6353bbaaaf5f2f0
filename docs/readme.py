#!/usr/bin/env python
"""Write README.md from `nbs/index.ipynb`: `python docs/readme.py`; with `--check`, only test whether it is up to date.

Markdown cells are copied, code becomes code blocks, printed output follows it, and pictures are stored in `docs/images`.
Links are changed from the folder of the notebook to that of the repository.
"""
import base64, re, sys
from pathlib import Path

from execnb.nbio import read_nb

root = Path(__file__).resolve().parents[1]
images = root/'docs'/'images'

def text(x): return ''.join(x) if isinstance(x, (list, tuple)) else x or ''

def link(m):
    "Change a link relative to the notebook to one relative to the root of the repository."
    pre, url, post = m.groups()
    if re.match(r'^([a-z][a-z0-9+.-]*:|#|//)', url, re.I): return m[0]
    path, _, frag = url.partition('#')
    f = (root/'nbs'/path).resolve()
    if not f.exists(): f = (root/path).resolve()
    return f"{pre}{f.relative_to(root).as_posix()}{'#'+frag if frag else ''}{post}" if f.is_relative_to(root) else m[0]

def outputs(cell, i, files):
    "The outputs of a cell in Markdown."
    for j,o in enumerate(cell.get('outputs') or []):
        if o.get('output_type') == 'stream' and o.get('name') == 'stdout': yield f"```\n{text(o['text']).rstrip()}\n```"
        data = o.get('data', {})
        for mime,ext in (('image/svg+xml', 'svg'), ('image/png', 'png')):
            if mime in data:
                f = images/f'readme-{i}-{j}.{ext}'
                files[f] = text(data[mime]).encode() if ext == 'svg' else base64.b64decode(text(data[mime]))
                yield f'![{text(data.get("text/plain", "picture")).strip()}]({f.relative_to(root).as_posix()})'
                break
        else:
            if 'text/markdown' in data: yield text(data['text/markdown'])
            elif 'text/plain' in data and 'text/html' not in data:
                yield f"```\n{text(data['text/plain']).rstrip()}\n```"

def readme():
    "The text of the README, and the files that it shows."
    parts, files = [], {}
    for i,c in enumerate(read_nb(root/'nbs'/'index.ipynb').cells):
        src = c.source.strip()
        if c.cell_type == 'markdown':
            lines, fence = [], False
            for l in src.split('\n'):
                if l.lstrip().startswith('```'): fence = not fence
                lines.append(
                    l
                    if fence
                    else re.sub(
                        r'((?:src|href)=["\'])([^"\']+)(["\'])',
                        link,
                        re.sub(r'(\]\(<?)([^)\s>]+)(>?(?:\s+"[^"]*")?\))', link, l),
                    )
                )
            parts.append('\n'.join(lines))
        elif c.cell_type == 'code':
            opts = dict(re.findall(r'^#\|\s*([\w-]+)(?::\s*(\S+))?', src, re.M))
            if 'hide' in opts or opts.get('include') == 'false': continue
            code = re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip()
            if code and opts.get('echo') != 'false': parts.append(f'```python\n{code}\n```')
            if opts.get('output') != 'false': parts += outputs(c, i, files)
    note = '<!-- made from nbs/index.ipynb by docs/readme.py: change the notebook, then `make prepare` -->'
    return '\n\n'.join([note] + [p for p in parts if p.strip()]) + '\n', files

def main():
    if not (root/'nbs'/'index.ipynb').exists(): return print('readme: there is no nbs/index.ipynb yet')
    new, files = readme()
    files = {root/'README.md':new.encode(), **files}
    stale = [f for f, b in files.items() if not f.exists() or f.read_bytes() != b] + [
        f for f in images.glob('readme-*') if f not in files
    ]
    if '--check' in sys.argv:
        sys.exit(
            f"readme: {', '.join(str(f.relative_to(root)) for f in stale)} not up to date; python docs/readme.py"
            if stale
            else 0
        )
    for f in stale: f.unlink(missing_ok=True)
    for f,b in files.items():
        if f in stale:
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_bytes(b)
    if stale: print('readme:', ', '.join(str(f.relative_to(root)) for f in stale))

if __name__ == '__main__': main()
