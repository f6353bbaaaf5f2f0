"""Every notebook is a test: `pytest nbs/400_tokens.vocab.ipynb` runs its cells in a separate process, with nbdev's
runner.

nbdev selects the cells: those with `#| eval: false` or with a flag of `tst_flags` in settings.ini are not run, nor
are notebooks with `skip_exec: true` and folders with a file `.notest`. `pytest --flags "slow cuda"` also runs the
cells with these flags."""
import getpass, json, os, select, signal, subprocess, sys, tempfile
from pathlib import Path

import pytest

try:
    import resource
except ImportError:  # Windows
    resource = None

root = Path(__file__).parent
os.environ.setdefault('OMP_NUM_THREADS', '1')  # two workers on two cores: one thread each, here and in what they start
os.environ.setdefault('MPLBACKEND', 'agg')


def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='flags of settings.ini whose cells run too, such as "slow"')
    parser.addoption('--notebook-timeout', type=float, default=900, help='seconds that one notebook may take')
    parser.addoption(
        '--cpu-report',
        type=int,
        default=20,
        help='how many of the items that take most CPU are listed at the end; 0 for none',
    )


def cpu_seconds():
    "CPU seconds of this process and of the child processes that it waited for."
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if resource: item.cpu_began = cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    "Record the CPU time of an item and its fixtures in its last report, which xdist passes on."
    report = yield
    if resource and call.when == 'teardown':
        report.user_properties.append(
            ('cpu_seconds', cpu_seconds() - item.cpu_began + getattr(item, 'cpu_of_forks', 0.0))
        )
    return report


def pytest_terminal_summary(terminalreporter, config):
    "List the items that took most CPU time, which depends little on other load on the machine."
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, 'when', '') == 'teardown']
    took = {
        r.nodeid: dict(r.user_properties)['cpu_seconds'] for r in reports if 'cpu_seconds' in dict(r.user_properties)
    }
    n = config.getoption('--cpu-report')
    if not took or not n: return
    slowest = [i for i in sorted(took, key=took.get, reverse=True) if took[i] >= .1][:n]
    terminalreporter.section(
        f'{sum(took.values())/60:.1f} minutes of CPU; the {len(slowest)} slowest of {len(took)} items, in CPU seconds'
    )
    for name in slowest: terminalreporter.line(f'{took[name]:8.1f} {name}')


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and not hidden(file_path): return Notebook.from_parent(parent, path=file_path)


def hidden(path):
    "Whether `path` is in a folder with `.notest`, or in a hidden one."
    folders = [d for d in path.parents if d.is_relative_to(root) and d != root]
    return any((d / '.notest').exists() or d.name[0] in '._' for d in folders) or path.name[0] in '._'


class Notebook(pytest.File):
    "A notebook, which is one test."
    def collect(self): yield NotebookItem.from_parent(self, name='cells')


class NotebookFailed(Exception):
    "A failed cell; the message is what the report shows."


class Server:
    "Runs notebooks in forks of a process that has imported common libraries; see tests/run_notebook.py."
    process = None

    def start(self, env):
        command = [sys.executable, str(runner), '--serve']
        self.process = subprocess.Popen(
            command,
            cwd=root,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, job, env, limit):
        "The exit code of `job` and its CPU seconds; `TimeoutExpired` after `limit` seconds."
        if self.process is None or self.process.poll() is not None: self.start(env)
        self.process.stdin.write(json.dumps(job) + '\n')
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.end(kill=True)
            raise subprocess.TimeoutExpired(str(runner), limit)
        return json.loads(self.process.stdout.readline())

    def end(self, kill=False):
        if self.process is None: return
        if kill: os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()
        self.process = None


runner, server = root / 'tests' / 'run_notebook.py', Server()


def pytest_sessionfinish(): server.end()


class NotebookItem(pytest.Item):
    "The test of a notebook: all of its cells run without an error."
    cpu_of_forks = 0.

    def runtest(self):
        limit = self.config.getoption('--notebook-timeout')
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in [str(root), os.environ.get('PYTHONPATH')] if p)}
        # all notebooks share compiled code
        env.setdefault(
            'TORCHINDUCTOR_CACHE_DIR', os.path.join(tempfile.gettempdir(), f'torchinductor_{getpass.getuser()}')
        )
        # temporary files of a notebook are deleted, whether it passes or fails
        with tempfile.TemporaryDirectory(prefix='nb-', ignore_cleanup_errors=True) as room:
            try: code, out, err = self.run_in(room, env, limit)
            except subprocess.TimeoutExpired as e:
                raise NotebookFailed(f'{self.path.name} took more than {limit:g} s') from e
        if 'aurl-notebook: skipped' in out: pytest.skip('skip_exec')
        self.add_report_section('call', 'stdout', out)
        if code: raise NotebookFailed(err[-20_000:] or f'the notebook ended with code {code}')

    def run_in(self, room, env, limit):
        "The exit code of this notebook and what it printed, with `room` for its temporary files."
        flags = self.config.getoption('--flags')
        if not hasattr(os, 'fork'):
            done = subprocess.run(
                [sys.executable, str(runner), str(self.path), flags],
                cwd=root,
                env={**env, 'TMPDIR': room},
                capture_output=True,
                text=True,
                errors='replace',
                timeout=limit,
            )
            return done.returncode, done.stdout, done.stderr
        out, err = Path(room) / '.out', Path(room) / '.err'
        job = dict(path=str(self.path), flags=flags, cwd=str(root), env=dict(TMPDIR=room), out=str(out), err=str(err))
        code, self.cpu_of_forks = server.run(job, env, limit)
        return code, *(p.read_text(encoding='utf-8', errors='replace') for p in (out, err))

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, NotebookFailed): return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self): return self.path, None, str(self.path.relative_to(root))
