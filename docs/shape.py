#!/usr/bin/env python
"""How dense the exported code is: `python docs/shape.py` prints a Markdown table with the goals beside the figures.

Only the export cells of the notebooks in `nbs` are measured, without blank lines and `#|` directives. `--worst 10` also
lists the modules and functions that are furthest from the goals. `tests/test_shape.py` keeps the figures from rising.
"""
import argparse
import ast
import io
import json
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

root = Path(__file__).resolve().parents[1]

DIRECTIVE = re.compile(r'^\s*#\s*\|')
EXPORT = re.compile(r'^\s*#\s*\|\s*exports?i?\b', re.M)
MODULE = re.compile(r'^\s*#\s*\|\s*default_exp\s+(\S+)', re.M)
# these take any number of values, so that many positional arguments are no burden to the reader
VARIADIC = {'print', 'max', 'min', 'zip', 'chain', 'gcd', 'union', 'intersection', 'joinpath', 'Sequential'}


@dataclass(frozen=True)
class Figure:
    "One measured property of the code, and what it should be."
    label: str              # the row of the table
    goal: float             # the value to reach
    at_least: bool = False  # whether the goal is a lower bound
    digits: int = 0         # decimals in the table

    def met(self, value):
        "Whether `value` reaches the goal."
        return value >= self.goal if self.at_least else value <= self.goal


FIGURES = {
    'width_p90': Figure('line width, p90', 100),
    'width_p99': Figure('line width, p99', 120),
    'joined': Figure('lines that join statements with `;`, per 1,000 lines', 2, digits=1),
    'lambdas': Figure('lambdas per 1,000 lines', 6, digits=1),
    'function_p50': Figure('characters in a function, median', 260),
    'function_p90': Figure('characters in a function, p90', 750),
    'cell_p50': Figure('lines in an export cell, median', 12),
    'cell_p90': Figure('lines in an export cell, p90', 28),
    'delegates': Figure('uses of `@delegates`', 10, at_least=True),
    'module_lines': Figure('lines in the longest module', 400),
    'function_lines': Figure('lines in the longest function', 45),
    'call_positions': Figure('positional arguments in a call, most', 8),
    'signature_positions': Figure('positional parameters in a signature, most', 8),
}


@dataclass(frozen=True)
class Function:
    "One function or method of an export cell."
    module: str
    name: str
    text: str
    parameters: int

    @property
    def lines(self): return len(code_lines(self.text))


def code_lines(text):
    "The lines of a cell that count: neither blank nor a directive."
    return [line for line in text.splitlines() if line.strip() and not DIRECTIVE.match(line)]


def export_cells(nbs):
    "Module and source of every export cell of the numbered notebooks."
    for path in sorted(Path(nbs).glob('*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        sources = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
        module = next((m[1] for s in sources if (m := MODULE.search(s))), None)
        for source in sources:
            if module and EXPORT.search(source):
                yield module, source


def joined_lines(source):
    "How many lines of `source` join statements with a semicolon."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';'})


def positions(node):
    "How many positional parameters a function has, without `self` and `cls`."
    names = [a.arg for a in [*node.args.posonlyargs, *node.args.args]]
    return len(names) - (bool(names) and names[0] in ('self', 'cls'))


def functions_of(module, source, body, prefix=''):
    "The functions of a cell and the methods of its classes; a function inside another belongs to that one."
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions_of(module, source, node.body, f'{node.name}.')
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_source_segment(source, node)
            yield Function(module, prefix + node.name, text, positions(node))


def called_name(call):
    "The last part of the name of the called function: `joinpath` in `path.joinpath(a, b)`."
    return getattr(call.func, 'attr', getattr(call.func, 'id', ''))


def calls_of(module, tree):
    "Positional arguments and place of every call that does not take any number of them."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called_name(node) not in VARIADIC:
            yield len(node.args), f'{module}: {called_name(node)}(...)'


def is_delegates(node):
    "Whether a decorator is fastcore's `@delegates`."
    node = getattr(node, 'func', node)
    return getattr(node, 'id', getattr(node, 'attr', '')) == 'delegates'


@dataclass
class Shape:
    "What was counted in all export cells."
    widths: list
    cells: list
    functions: list
    calls: list
    modules: dict
    joined: int
    lambdas: int
    delegates: int


def measure(nbs=root / 'nbs'):
    "Count everything in the export cells of `nbs`."
    shape = Shape([], [], [], [], {}, 0, 0, 0)
    for module, source in export_cells(nbs):
        lines = code_lines(source)
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        shape.widths += [len(line) for line in lines]
        shape.cells.append(len(lines))
        shape.functions += functions_of(module, source, tree.body)
        shape.calls += calls_of(module, tree)
        shape.modules[module] = shape.modules.get(module, 0) + len(lines)
        shape.joined += joined_lines(source)
        shape.lambdas += sum(isinstance(n, ast.Lambda) for n in nodes)
        shape.delegates += sum(is_delegates(d) for n in nodes for d in getattr(n, 'decorator_list', []))
    return shape


def quantile(values, percent):
    "The value that `percent` of the values do not exceed."
    return quantiles(values, n=100, method='inclusive')[percent - 1]


def figures(shape):
    "The value of every row of the table."
    thousands = len(shape.widths) / 1000
    characters = [len(f.text) for f in shape.functions]
    return dict(
        width_p90=quantile(shape.widths, 90),
        width_p99=quantile(shape.widths, 99),
        joined=shape.joined / thousands,
        lambdas=shape.lambdas / thousands,
        function_p50=quantile(characters, 50),
        function_p90=quantile(characters, 90),
        cell_p50=quantile(shape.cells, 50),
        cell_p90=quantile(shape.cells, 90),
        delegates=shape.delegates,
        module_lines=max(shape.modules.values()),
        function_lines=max(f.lines for f in shape.functions),
        call_positions=max(n for n, _ in shape.calls),
        signature_positions=max(f.parameters for f in shape.functions),
    )


def table(values):
    "The figures in Markdown; those that miss their goal are bold."
    rows = ['| | now | goal |', '|---|---|---|']
    for key, value in values.items():
        figure = FIGURES[key]
        text = f'{value:,.{figure.digits}f}'
        sign = '≥' if figure.at_least else '≤'
        rows.append(f'| {figure.label} | {text if figure.met(value) else f"**{text}**"} | {sign} {figure.goal} |')
    return '\n'.join(rows)


def worst(shape, n):
    "The `n` longest modules and functions, the longest signatures and the calls with most positional arguments."
    longest = sorted(shape.functions, key=lambda f: -len(f.text))[:n]
    most = sorted(shape.functions, key=lambda f: -f.parameters)[:n]
    modules = sorted(shape.modules.items(), key=lambda item: -item[1])[:n]
    calls = sorted(shape.calls, key=lambda call: -call[0])[:n]
    groups = {
        'Longest modules (lines)': [f'{lines}  {module}' for module, lines in modules],
        'Longest functions (characters, lines)': [f'{len(f.text)}, {f.lines}  {f.module}: {f.name}' for f in longest],
        'Positional parameters in a signature': [f'{f.parameters}  {f.module}: {f.name}' for f in most],
        'Positional arguments in a call': [f'{count}  {place}' for count, place in calls],
    }
    return '\n\n'.join(f'{title}\n' + '\n'.join(f'  {line}' for line in lines) for title, lines in groups.items())


def main():
    "Print the table, and the worst places on request."
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--worst', type=int, default=0, metavar='N', help='also list the N worst modules and functions')
    args = parser.parse_args()
    shape = measure()
    print(table(figures(shape)))
    if args.worst:
        print('\n' + worst(shape, args.worst))


if __name__ == '__main__':
    main()
