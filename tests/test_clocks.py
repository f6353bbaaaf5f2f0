"No test and no notebook asserts a time, since times depend on the machine; benchmarks assert ratios within one run."
import ast, json, re

import pytest
from common import root

CLOCK = re.compile(r'\b(perf_counter|process_time|thread_time|monotonic|getrusage|timeit|time\.time)(_ns)?\b')
CLOCK_IN_TEXT = re.compile(CLOCK.pattern + r'\(')  # of a script
CLAIMS = re.compile(r'(test_|assert_|is_close|isclose|allclose)')
# (file, function): why its assertions may read a clock, or why its return value is not a time
ALLOWED = {
    ('tests/test_bad_input.py', 'until'): 'a limit of minutes against hanging',
    ('tests/test_cli.py', 'until'): 'a limit of a minute against hanging',
    ('tests/test_studio.py', 'until'): 'a limit of minutes against hanging',
    ('tests/test_cli.py', 'song'): 'the clock determines which checkpoint to wait for; the exit status is asserted',
    (
        'nbs/520_data.store.ipynb',
        'run',
    ): 'the last of three values is a time: it decides when the next process is killed',
    ('nbs/223_score.kern.ipynb', 'compare'): 'counts of notes are asserted, the seconds are printed',
    ('nbs/223_score.kern.ipynb', 'by_verovio'): 'numbers of files are asserted; its seconds are printed',
    ('nbs/520_data.store.ipynb', 'said'): 'the first two words are asserted, a time is the last',
}


def source(path):
    "The code of a test or a notebook, without what is exported and without magics."
    if path.suffix == '.py': return path.read_text(encoding='utf-8')
    cells = [
        ''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code'
    ]
    return '\n'.join(re.sub(r'(?m)^\s*[%!].*$', 'pass', c) for c in cells if not re.match(r'#\|\s*export', c))


def targets(node):
    "The names that an assignment to `node` binds."
    return [
        n.id if isinstance(n, ast.Name) else '.' + n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Name | ast.Attribute)
    ]


class Timed(ast.NodeVisitor):
    "Traces values read from a clock through assignments, loops, functions and attributes to assertions."
    def __init__(self, allowed=()):
        self.timed, self.found, self.inside, self.parts, self.allowed = set(), [], [], {}, allowed

    def is_timed(self, node):
        own = {
            name
            for n in ast.walk(node)
            if isinstance(n, ast.comprehension) and not self.is_timed(n.iter)
            for name in targets(n.target)
        }
        for n in ast.walk(node):
            if isinstance(n, ast.Name) and n.id in self.timed - own: return True
            if isinstance(n, ast.Attribute) and '.' + n.attr in self.timed: return True
            if isinstance(n, ast.Attribute | ast.Name) and CLOCK.search(ast.unparse(n)): return True
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and CLOCK_IN_TEXT.search(n.value): return True
        return False

    def bind(self, names, timed):
        names = [n for n in names if n not in self.allowed]
        (self.timed.update if timed else self.timed.difference_update)(names)

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets: self.assign(target, node.value)

    def assign(self, target, value):
        parts = self.parts.get(ast.unparse(value.func), ()) if isinstance(value, ast.Call) else ()
        if not isinstance(target, ast.Tuple):
            if isinstance(target, ast.Name | ast.List): self.bind(targets(target), self.is_timed(value))
            elif self.is_timed(value): self.bind(targets(target)[:1], True)
        elif isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for to, what in zip(target.elts, value.elts): self.assign(to, what)
        elif len(parts) == len(target.elts):
            for to, timed in zip(target.elts, parts): self.bind(targets(to), timed)
        else: self.bind(targets(target), self.is_timed(value))

    def visit_AugAssign(self, node):
        if self.is_timed(node.value): self.bind(targets(node.target)[:1], True)

    def visit_NamedExpr(self, node):
        self.generic_visit(node)
        self.bind(targets(node.target), self.is_timed(node.value))

    def visit_For(self, node):
        self.bind(targets(node.target), self.is_timed(node.iter))
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        own = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
        outer, self.timed = self.timed, self.timed - own
        self.inside.append(node.name)
        for n in node.body: self.visit(n)
        self.inside.pop()
        returns = [n.value for n in ast.walk(node) if isinstance(n, ast.Return | ast.Yield) and n.value is not None]
        gives = any(map(self.is_timed, returns))
        if len(returns) == 1 and isinstance(returns[0], ast.Tuple):
            self.parts[node.name] = [self.is_timed(x) for x in returns[0].elts]
        self.timed = outer | {n for n in self.timed if n[0] == '.'}
        self.bind([node.name], gives)

    def claim(self, node, what):
        if self.is_timed(what): self.found.append((self.inside[-1] if self.inside else '', ast.unparse(node)))

    def visit_Assert(self, node): self.claim(node, node.test)

    def visit_Call(self, node):
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in ('append', 'add', 'extend')
            and any(map(self.is_timed, node.args))
        ):
            self.bind(targets(node.func.value)[:1], True)
        if CLAIMS.match(name.split('.')[-1]) and name != 'test_fail':
            for a in [*node.args, *(k.value for k in node.keywords)]: self.claim(node, a)


def claims(code, allowed=()):
    "The assertions of `code` that depend on a clock, with their functions; names in `allowed` are not times."
    timed = Timed(allowed)
    timed.visit(ast.parse(code))
    return list(dict.fromkeys(timed.found))


files = [
    p
    for p in [*(root / 'tests').glob('*.py'), *(root / 'nbs').rglob('*.ipynb')]
    if 'benchmarks' not in p.parts and not p.name.startswith('.')
]


@pytest.mark.parametrize('path', sorted(files), ids=lambda p: p.name)
def test_no_time_is_asserted(path):
    "No assertion of the file depends on a value read from a clock."
    name = str(path.relative_to(root))
    allowed = [function for file, function in ALLOWED if file == name]
    found = [what for inside, what in claims(source(path), allowed) if inside not in allowed]
    assert (
        not found
    ), f'{found}: print it, count work instead of seconds, or assert it in nbs/benchmarks as a ratio within one run'


@pytest.mark.parametrize('code', [
    't0 = time.process_time(); f(); assert time.process_time() - t0 < 1', 't = perf_counter(); t = perf_counter() - t; test_eq(t < 1, True)',
    'def took(f):\n    t = time.time(); f()\n    return time.time() - t\nassert took(f) < 1', 'took = []\nfor f in fs: took.append(clock() if x else perf_counter())\nassert max(took) < 1',
    'best = lambda f: min(timeit.repeat(f))\nassert best(f) < best(g)', "out = run('resource.getrusage(0)').split()\nassert float(out[0]) < 1",
    'class A:\n    def go(self): self.t = perf_counter()\nassert A().t < 1', 'slowest = 0\nfor f in fs:\n    t = perf_counter()\n    slowest = max(slowest, perf_counter() - t)\nassert slowest < 1'])
def test_a_timed_claim_is_found(code):
    "An assertion that depends on a clock is found."
    assert claims(code)


@pytest.mark.parametrize('code', ['t = perf_counter(); print(perf_counter() - t); t = 3; assert t == 3', 'assert seconds(score) == 4', 'def f(t): assert t < 1\nt = perf_counter()\nf(2)'])
def test_what_is_no_time_passes(code):
    "An assertion that does not depend on a clock is accepted."
    assert not claims(code)
