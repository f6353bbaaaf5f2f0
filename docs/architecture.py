"The page Architecture: docs/architecture.md, the picture docs/_static/architecture.svg, and a table of all modules."
from pathlib import Path

here = Path(__file__).resolve().parent


def one_line(text):
    "Text for one cell of a Markdown table."
    return ' '.join(text.split()).replace('|', '\\|')


def picture():
    "The data flow as inline SVG, so that it follows the colors of the page; a blank line would end the HTML block."
    svg = (here / '_static' / 'architecture.svg').read_text(encoding='utf-8')
    return f'<figure class="architecture">\n{svg.strip()}\n</figure>'


def package_tables(pages, groups, link=lambda text, page: text):
    "A section for each package: its purpose, and a table with the first line of each of its modules."
    out = []
    for group, (title, purpose) in groups.items():
        modules = [p for p in pages if p.group == group and p.module]
        if not modules:
            continue
        out += [f'### {title}', '', purpose, '', '| Module | Purpose |', '|---|---|']
        out += [f'| [`{p.module}`]({p.doc}.ipynb) | {one_line(link(p.lead, p))} |' for p in modules]
        out.append('')
    return '\n'.join(out)


def architecture_page(pages, groups, link=lambda text, page: text, page=None):
    "The page in Markdown; `link` turns the names in a text into links, as seen from `page`."
    text = link((here / 'architecture.md').read_text(encoding='utf-8'), page)
    text = text.replace('<!-- picture -->', picture())
    return text.replace('<!-- packages -->', package_tables(pages, groups, link))
