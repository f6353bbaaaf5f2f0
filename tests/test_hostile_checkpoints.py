"Fifty malicious files: no code in them is executed, and each raises an `AurlError` after a limited amount of work."
import json, os, pickle, shutil, struct, sys, zipfile
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from aurl.core import AurlError, sha256_of

if os.name == 'nt': pytest.skip('pipes of POSIX', allow_module_level=True)
canary = Path(os.environ.get('TMPDIR', '/tmp')) / f'aurl-canary-{os.getpid()}'
command = f'touch {canary}'


class Bomb:
    "An object whose unpickling executes a command."
    def __reduce__(self): return os.system, (command,)


def seal(d):
    "Write a manifest that matches the files."
    from aurl.train.checkpoint import _seal_manifest
    m = json.loads((d / 'manifest.json').read_text())
    m.pop('seal', None)
    m['files'] = {
        f.name: dict(size=f.stat().st_size, sha256=sha256_of(f))
        for f in sorted(d.iterdir())
        if f.is_file() and f.name != 'manifest.json'
    }
    (d / 'manifest.json').write_text(_seal_manifest(m))


def edit(d, **values):
    from aurl.train.checkpoint import _seal_manifest
    m = json.loads((d / 'manifest.json').read_text())
    m.pop('seal')
    (d / 'manifest.json').write_text(_seal_manifest({**m, **values}))


def header(n, text=b''): return struct.pack('<Q', n) + text


pickled = pickle.dumps(Bomb())
def torched(path): torch.save(Bomb(), path)
deep = '[' * 200_000 + ']' * 200_000
wide = '{"a":' * 100_000 + '1' + '}' * 100_000
tensors = lambda **named: (lambda t: header(len(t), t))(json.dumps(named).encode())

CHECKPOINT = {}  # name: what is done to a good checkpoint
for name in (
    'model.safetensors',
    'optimizer.safetensors',
    'training.safetensors',
    'state.json',
    'optimizer.json',
    'training.json',
):
    CHECKPOINT[f'a pickle as {name}'] = lambda d, n=name: ((d / n).write_bytes(pickled), seal(d))
    CHECKPOINT[f'what torch.save wrote as {name}'] = lambda d, n=name: (torched(d / n), seal(d))
CHECKPOINT['a pickle as manifest.json'] = lambda d: (d / 'manifest.json').write_bytes(pickled)
for what, data in {
    'a header of 2^63 bytes': header(2**63),
    'a header of 99 MB': header(99_000_000) + bytes(99_000_000),
    'a header without an end': header(50, b'{"a": '),
    'no header': b'',
    'three bytes': b'abc',
    'a deep header': header(400_000, deep.encode()),
    'a header of lists': tensors(a=[1, 2]),
    'a tensor larger than the file': tensors(weight=dict(dtype='F32', shape=[1 << 40], data_offsets=[0, 1 << 42])),
    'offsets that go back': tensors(weight=dict(dtype='F32', shape=[4], data_offsets=[16, 0])),
    'a shape below nothing': tensors(weight=dict(dtype='F32', shape=[-4], data_offsets=[0, 16])) + bytes(16),
    'a shape that overflows': tensors(weight=dict(dtype='F32', shape=[2**40, 2**40, 2**40], data_offsets=[0, 16]))
    + bytes(16),
    'a kind that is none': tensors(weight=dict(dtype='PICKLE', shape=[4], data_offsets=[0, 16])) + bytes(16),
    'ten thousand names': tensors(
        **{f'w{i}': dict(dtype='F32', shape=[0], data_offsets=[0, 0]) for i in range(10_000)}
    ),
}.items():
    CHECKPOINT[f'model: {what}'] = lambda d, b=data: ((d / 'model.safetensors').write_bytes(b), seal(d))
for what, text in {
    'deep lists': deep,
    'deep dicts': wide,
    'a number without end': '1' * 5_000_000,
    'half a word': '{"format": "aurl',
    'an array of objects': '{"$array": [1], "dtype": "O", "shape": [1]}',
    'an array of a gigabyte': '{"$array": [1], "dtype": "V1000000000", "shape": [1]}',
    'a shape of a terabyte': '{"$array": [1], "dtype": "u1", "shape": [1000000000000]}',
    'a key that is a list': '{"$dict": [[[1], 2]]}',
    'a tensor that is not there': '{"$tensor": "../../etc/passwd"}',
    'words': '"state"',
}.items():
    CHECKPOINT[f'state.json: {what}'] = lambda d, t=text: ((d / 'state.json').write_text(t), seal(d))
CHECKPOINT |= {
    'manifest.json: deep lists': lambda d: (d / 'manifest.json').write_text(deep),
    'manifest.json of 50 MB': lambda d: (d / 'manifest.json').write_text(' ' * 50_000_000),
    'manifest.json is a pipe': lambda d: ((d / 'manifest.json').unlink(), os.mkfifo(d / 'manifest.json')),
    'state.json is a pipe': lambda d: (
        edit(
            d,
            files={
                **json.loads((d / 'manifest.json').read_text())['files'],
                'state.json': dict(size=0, sha256=sha256_of(b'')),
            },
        ),
        (d / 'state.json').unlink(),
        os.mkfifo(d / 'state.json'),
    ),
    'model.safetensors is /dev/zero': lambda d: (
        (d / 'model.safetensors').unlink(),
        (d / 'model.safetensors').symlink_to('/dev/zero'),
    ),
    'a file outside': lambda d: edit(
        d, files={**json.loads((d / 'manifest.json').read_text())['files'], '../../passwd': dict(size=1, sha256='0')}
    ),
    'a file at the root': lambda d: edit(
        d, files={**json.loads((d / 'manifest.json').read_text())['files'], '/etc/passwd': dict(size=1, sha256='0')}
    ),
    'a size in words': lambda d: edit(d, files={'model.safetensors': dict(size='big', sha256=[]), 'state.json': 1}),
    'files without a list': lambda d: edit(d, files=['model.safetensors']),
}

YAML = {  # configurations of a run to be resumed
    'python/object/apply': f"!!python/object/apply:os.system ['{command}']", 'python/object/new': f"a: !!python/object/new:os.system ['{command}']",
    'python/module': '!!python/module:this', 'python/name': 'seed: !!python/name:os.system', 'a tag of somebody': 'data: !Bomb {a: 1}', 'deep lists': '[' * 5_000, '300 kB': 'a: ' + 'x' * 300_000, 'a pickle': pickled,
    'a thousand million laughs': 'a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n' + '\n'.join(f'a{i}: &a{i} [{",".join([f"*a{i-1}"] * 9)}]' for i in range(1, 10)) + '\ndata: *a9',
}


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    from aurl.train.checkpoint import save_checkpoint
    model = nn.Linear(3, 3)
    opt = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    d = save_checkpoint(tmp_path_factory.mktemp('good') / 'step_00000001', model, optimizer=opt, state=dict(step=1))
    (d / 'training.json').write_text('{}')
    (d / 'training.safetensors').write_bytes(tensors())
    seal(d)
    return d


CALLS = 300_000  # function calls that a refusal may make; the longest one makes a quarter of them, on every processor


def refused(f):
    "Assert that `f` raises an `AurlError`, executes no command, and makes a limited number of calls."
    canary.unlink(missing_ok=True)
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event in ('call', 'c_call')
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with pytest.raises(AurlError) as e: f()
    finally: sys.setprofile(before)
    assert not canary.exists(), 'it ran'
    assert calls < CALLS and len(str(e.value)) < 2000, (calls, str(e.value)[:300])


@pytest.mark.parametrize('name', CHECKPOINT)
def test_checkpoint(good, tmp_path, name):
    "A malicious checkpoint is refused."
    from aurl.train.checkpoint import load_checkpoint
    d = tmp_path / 'step_00000001'
    shutil.copytree(good, d)
    CHECKPOINT[name](d)
    model = nn.Linear(3, 3)
    def load():
        ck = load_checkpoint(d, model, torch.optim.AdamW(model.parameters()))
        ck.snapshot()
    refused(load)


@pytest.mark.parametrize('name', YAML)
def test_run(tmp_path, name):
    "A run with a malicious configuration is refused."
    from aurl.commands.configs import TrainConfig
    from aurl.commands.resume import resume_run
    run = tmp_path / 'run'
    (run / 'checkpoints').mkdir(parents=True)
    (run / 'config.yaml').write_bytes(YAML[name] if isinstance(YAML[name], bytes) else YAML[name].encode())
    (run / 'status.json').write_text('{"status": "failed", "name": "train"}')
    refused(lambda: resume_run(str(run), TrainConfig()))


@pytest.mark.parametrize('name', ['../out.mid', '/tmp/out.mid', '..\\out.mid'])
def test_zip_slip(tmp_path, name):
    "A zip with paths outside of its folder writes no file, and its member is refused."
    from aurl.corpus.corpus import corpus_from
    with zipfile.ZipFile(tmp_path / 'evil.zip', 'w') as z: z.writestr(name, pickled)
    before = sorted(tmp_path.rglob('*'))
    refused(lambda: [corpus_from(tmp_path / 'evil.zip').read(0)])
    assert (
        sorted(tmp_path.rglob('*')) == before
        and not (tmp_path.parent / 'out.mid').exists()
        and not Path('/tmp/out.mid').exists()
    )


def test_there_are_fifty():
    "The tests cover at least fifty files."
    assert len(CHECKPOINT) + len(YAML) + 3 >= 50
