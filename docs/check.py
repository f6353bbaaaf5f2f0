"Check every link and file of a finished site, and write the excerpts that its search shows."
import json, re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = dict(
    script='src',
    img='src',
    audio='src',
    video='src',
    source='src',
    iframe='src',
    embed='src',
    object='data',
    track='src',
)

class Page(HTMLParser):
    "Ids, links and loaded files of a page, and the text of its article."
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.loads, self.text, self.skip, self.depth = set(), [], [], [], 0, 0
        self.title, self.in_title, self.objects, self.box = '', False, {}, None
    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        if d.get('id'): self.ids.add(d['id'])
        if tag == 'a' and d.get('name'): self.ids.add(d['name'])
        if tag == 'a' and d.get('href') is not None: self.links.append(d['href'])
        if tag in LOADS and d.get(LOADS[tag]): self.loads.append(d[LOADS[tag]])
        if tag == 'link' and d.get('href') and d.get('rel', '') not in ('canonical',):
            (self.loads if d.get('rel') in ('stylesheet', 'icon', 'preload', 'shortcut icon') else self.links).append(
                d['href']
            )
        if tag == 'article': self.depth += 1
        if tag in ('script', 'style', 'svg'): self.skip += 1
        if tag in ('p', 'li', 'h1', 'h2', 'h3', 'h4', 'td', 'dt', 'pre', 'div'): self.text.append(' ')
        if tag == 'title': self.in_title = True
        if tag == 'dt' and 'sig' in d.get('class', '').split() and d.get('id'):
            self.box, self.objects[d['id']] = [d['id'], False], []
        if tag == 'dd' and self.box: self.box[1] = True
    def handle_endtag(self, tag):
        if tag == 'article': self.depth -= 1
        if tag in ('script', 'style', 'svg'): self.skip -= 1
        if tag == 'title': self.in_title = False
        if tag == 'dd' and self.box and self.box[1]: self.box = None
    def handle_data(self, data):
        if self.in_title: self.title += data
        if self.depth > 0 and self.skip <= 0: self.text.append(data)
        if self.box and self.box[1]: self.objects[self.box[0]].append(data)

def read(path):
    "Parse a page."
    p = Page()
    p.feed(path.read_text(encoding='utf-8'))
    return p

_remote = re.compile(r'^(https?:)?//', re.I)

def problems(site):
    "The problems of the site in the folder `site`, one line each; an empty list if there are none."
    site = Path(site).resolve()
    pages = {f:read(f) for f in sorted(site.rglob('*.html')) if '_static' not in f.relative_to(site).parts}
    bad = []
    for f,p in pages.items():
        name = f.relative_to(site).as_posix()
        for url in p.loads:
            if url.startswith('data:'): continue
            if _remote.match(url): bad.append(f'{name}: loads {url[:100]} from the network')
            elif not (f.parent/unquote(urlsplit(url).path)).resolve().is_file():
                bad.append(f'{name}: loads {url}, which is not there')
        for url in dict.fromkeys(p.links):
            u = urlsplit(url)
            if u.scheme or url.startswith('//'):
                if u.scheme == 'file': bad.append(f'{name}: links to {url}')
                continue
            to = (f.parent/unquote(u.path)).resolve() if u.path else f
            if not to.is_file():
                bad.append(f'{name}: links to {url}, which is not there')
                continue
            if site not in to.parents: bad.append(f'{name}: links to {url}, outside the site')
            if u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids:
                bad.append(f'{name}: links to {url}, but there is no such place on that page')
    for f in site.rglob('*.css'):
        for url in re.findall(r'url\(\s*["\']?([^"\')]+)', f.read_text(encoding='utf-8', errors='replace')):
            if _remote.match(url): bad.append(f'{f.relative_to(site).as_posix()}: loads {url[:100]} from the network')
            elif not url.startswith(('data:', '#')) and not (f.parent/unquote(urlsplit(url).path)).is_file():
                bad.append(f'{f.relative_to(site).as_posix()}: loads {url}, which is not there')
    return bad

def write_excerpts(site, limit=20_000):
    "The text of every page for the search, which cannot read other pages when the site is opened from a folder."
    site, out = Path(site), {}
    for f in sorted(site.rglob('*.html')):
        rel = f.relative_to(site)
        if rel.parts[0] in ('_static', '_modules') or rel.name in ('search.html', 'genindex.html', 'py-modindex.html'):
            continue
        p, doc = read(f), rel.with_suffix('').as_posix()
        line = lambda s: ' '.join(s.replace('¶', ' ').split())
        out[doc] = line(''.join(p.text))[:limit]
        for k,v in p.objects.items(): out[f'{doc}#{k}'] = line(' '.join(v))[:240]
    (site / '_static' / 'excerpts.js').write_text(
        'window.aurlExcerpts = ' + json.dumps(out, ensure_ascii=False).replace('</', '<\\/') + ';\n', encoding='utf-8'
    )
