"""Memory: a training that does not fit is refused with settings that fit, running out of memory is a specific error,
and a halved batch with accumulation gives the same training."""
import json, subprocess, sys
from types import SimpleNamespace

import pytest
import torch

import crash
from aurl.commands import checks, song
from aurl.commands.checks import check_request
from aurl.commands.command import COMMANDS, open_run
from aurl.commands.configs import TrainConfig
from aurl.commands.model_setup import build_model, build_model_config
from aurl.commands.run_data import open_store, train_valid_split
from aurl.commands import training
from aurl.commands.training import final_status, memory_lines, train_stages
from aurl.commands.execution import exit_status
from aurl.config import make_config
from aurl.core import ConfigError, read_json
from aurl.memory import AvailableMemory
from aurl.train import batch_fit as fit
from aurl.train.budget import Budget
from common import root


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('memory'))


@pytest.fixture(scope='module')
def long_store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('memory_long'), notes=200)


def config(store, out, **more):
    base = dict(
        data=str(store.path),
        model='tiny',
        model_overrides=dict(d_model=16, n_layers=1),
        length=48,
        batch_size=4,
        valid=0.3,
        workers=0,
        dtype='fp32',
        monitor=dict(enabled=False),
        out=str(out),
    )
    return make_config(TrainConfig, overrides={**base, **more})


def train(asked):
    run, cfg, last = open_run('train', asked)
    music = open_store(cfg.data, cfg.workers, run, cfg.loader)
    learn, best = train_stages(run, cfg, music, *train_valid_split(music, cfg.valid, cfg.seed, cfg.split), last)
    run.finish([], {}, final_status(learn, run))
    return run, learn, best


@pytest.mark.parametrize('megabytes', [700, 350])
def test_what_does_not_fit_is_refused_with_ways_that_do(store, tmp_path, megabytes):
    "The error names three settings with which the training fits."
    asked = make_config(TrainConfig, overrides=dict(data=str(store.path), dtype='fp32', out=str(tmp_path)))
    room = AvailableMemory(megabytes << 20, 8 << 30, 'memory of a test')
    with pytest.raises(ConfigError, match=f'{megabytes} MiB of 8.0 GiB are free') as said:
        fit.check_memory(asked, build_model_config, available=room)
    ways = fit.memory_options(asked, build_model_config, room)
    assert len(ways) == 3 and all(w.overrides in str(said.value) for w in ways)
    for way in ways:
        there = make_config(
            TrainConfig,
            overrides=[
                *(f'{k}={v}' for k, v in dict(data=store.path, dtype='fp32', out=tmp_path).items()),
                *way.overrides.split(),
            ],
        )
        if there.fit_batch: there = fit.halve_batch(there, fit.halvings_to_fit(there, build_model_config, room))
        fit.check_memory(there, build_model_config, available=room)                     # the training is not refused
    assert fit.check_memory(asked, build_model_config, available=AvailableMemory(64 << 30, 64 << 30, 'much'))[
        0
    ].startswith('2.94M parameters')


def test_a_smaller_batch_is_chosen_before_and_kept(store, tmp_path, monkeypatch):
    "`fit_batch` halves the batch before the training, and a resumed run keeps it."
    asked = config(store, tmp_path, steps=6, fit_batch=True, checkpoint_every=2)
    need = [fit.training_memory(fit.halve_batch(asked, k), build_model_config(asked)).total for k in (0, 1)]
    tight = AvailableMemory(int(need[1]*1.02), 1 << 30, 'memory of a test')
    for module in (training, fit): monkeypatch.setattr(module, 'available_memory', lambda device: tight)
    run, learn, _ = train(asked)
    assert run.config['halvings'] == 1 and learn.dls.train.bs == 2 and max(m['step'] or 0 for m in run.metrics()) == 12
    said = (run.path / 'training.log').read_text()
    assert '2 batches of 2 for a step instead of 4 at once' in said and memory_lines(run)[0] in said
    for module in (training, fit):
        monkeypatch.setattr(module, 'available_memory', lambda device: AvailableMemory(1 << 40, 1 << 40, 'much'))
    again, learn, _ = train(make_config(TrainConfig, overrides=dict(resume=str(run.path), steps=8)))
    assert again.path == run.path and learn.dls.train.bs == 2 and max(m['step'] or 0 for m in again.metrics()) == 16


def test_two_halves_are_the_whole(long_store, tmp_path):
    "Halved batches with accumulation give the weights of whole batches, after as many optimizer steps."
    asked = config(
        long_store,
        tmp_path / 'whole',
        steps=5,
        checkpoint_every=0,
        optimizer=dict(name='sgd'),
        clip=dict(kind='none'),
        schedule=dict(kind='constant', warmup_pct=0.0),
        valid_every=100,
    )
    whole, halves = (
        train(asked)[1].model.state_dict(),
        train(fit.halve_batch(asked.changed(out=str(tmp_path / 'halves'))))[1].model.state_dict(),
    )
    first = build_model(asked).state_dict()
    moved = max(float((v - first[k]).abs().max()) for k, v in whole.items())
    assert moved > 1e-3
    for k, v in whole.items(): torch.testing.assert_close(halves[k], v, atol=moved*1e-3, rtol=1e-3)


starved = '''
import json, resource, sys
from aurl.commands.command import open_run
from aurl.commands.configs import TrainConfig
from aurl.commands.model_setup import build_model, build_model_config
from aurl.commands.run_data import open_store, train_valid_split
from aurl.commands import training
from aurl.commands.training import final_status, memory_lines, train_stages
from aurl.config import make_config
from aurl.core import OutOfMemory
from aurl.train import batch_fit as fit
from aurl.train.budget import Budget
from aurl.memory import AvailableMemory
told = json.loads(sys.argv[1])
for m in (training, fit): m.memory_room = lambda device: AvailableMemory(1 << 40, 1 << 40, 'much')  # enough
run, cfg, last = open_run('train', make_config(TrainConfig, overrides=told['config']))
store = open_store(cfg.data, 0, run, cfg.loader)
sides = train_valid_split(store, cfg.valid, cfg.seed, cfg.split)
real = Budget.before_batch
def before_batch(self):
    real(self)
    if self.training and self.done == told['at'] and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        used = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1])*1024
        resource.setrlimit(resource.RLIMIT_AS, (used + told['more'], resource.RLIM_INFINITY))
Budget.before_batch = before_batch
try:
    learn, best = train_stages(run, cfg, store, *sides, last)
    print(json.dumps(dict(best=best, halvings=run.config.get('halvings'), path=str(run.path))))
except OutOfMemory as e: print(json.dumps(dict(error=str(e), path=str(run.path))))
'''


def starve(asked, at, megabytes):
    "A training in a process whose address space may grow by `megabytes` from step `at` on."
    told = json.dumps(dict(config=asked.to_dict(), at=at, more=megabytes << 20))
    done = subprocess.run([sys.executable, '-c', starved, told], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


wide = dict(model_overrides=dict(d_model=256, n_layers=4, n_heads=4), length=256, batch_size=16, steps=4, valid_every=100)


@pytest.mark.skipif(sys.platform != 'linux', reason='limits of the address space')
def test_running_out_says_so_and_names_the_checkpoint(long_store, tmp_path):
    "The error of a training that runs out of memory names the checkpoint and how to resume."
    said = starve(config(long_store, tmp_path, **wide, checkpoint_every=1), 2, 60)
    assert (
        'memory ran out while training on 16 × 256 ids' in said['error']
        and 'step_00000002' in said['error']
        and 'resume=' in said['error']
    ), said
    assert read_json(said['path'] + '/status.json')['status'] == 'failed'
    assert exit_status(SimpleNamespace(error=SimpleNamespace(ename='OutOfMemory', evalue=said['error']), n_stop_requests=0)) == (
        1,
        said['error'],
    )


def test_running_out_at_first_halves_the_batch(store, tmp_path, monkeypatch):
    "With `fit_batch`, a batch that runs out of memory in the first step is halved."
    real = Budget.before_batch

    def before_batch(self):
        real(self)
        if self.training and len(self.xb[0]) > 2: raise torch.OutOfMemoryError('out of memory, in a test')
    monkeypatch.setattr(Budget, 'before_batch', before_batch)
    run, learn, _ = train(config(store, tmp_path, steps=4, fit_batch=True, checkpoint_every=0))
    assert run.config['halvings'] == 1 and learn.dls.train.bs == 2
    assert 'memory ran out, the batch is halved' in (run.path / 'training.log').read_text()


# ---- before the first training of each command
def told_room(monkeypatch, n_bytes):
    "Simulate that this many bytes are free."
    room = AvailableMemory(int(n_bytes), 8 << 30, 'memory of a test')
    for module in (checks, song, training, fit): monkeypatch.setattr(module, 'available_memory', lambda device: room)


def need(cfg):
    "The bytes that a training needs."
    return fit.training_memory(cfg, build_model_config(cfg)).total + fit.process_bytes


def check(name, store, tmp_path, **more):
    "The lines that the command prints before it starts."
    shared = dict(data=str(store.path), model='tiny', workers=0, device='cpu')
    if name in ('song', 'train'): more = shared | more
    else: more = dict(more, train=shared | dict(dtype='fp32', monitor=dict(enabled=False)) | more.get('train', {}))
    return COMMANDS[name].check(make_config(COMMANDS[name].config_cls, overrides=dict(more, out=str(tmp_path))))


def variants(*sizes): return {f'v{n}': dict(model_overrides=dict(d_model=n, n_layers=2, n_heads=1)) for n in sizes}


LARGE = dict(  # for each command, a request whose largest training needs more than a GiB
    song=dict(start='none', batch_size=512),
    train=dict(stages=[dict(name='a', batch_size=4), dict(name='b', batch_size=512)]),
    sweep=dict(train=dict(batch_size=64), space=dict(batch_size=[4, 512])),
    ablation=dict(train=dict(batch_size=512), variants=variants(16, 32), phrase_bars=0),
    scaling=dict(train=dict(batch_size=512), tokens=[2_000_000, 3_000_000, 4_000_000], larger={}),
)


@pytest.mark.parametrize('name', LARGE)
def test_the_largest_training_is_checked_before_the_first(store, tmp_path, monkeypatch, name):
    "The command checks the memory of its largest training before the first one."
    told_room(monkeypatch, 1 << 30)
    with pytest.raises(ConfigError, match='but 1.0 GiB of 8.0 GiB are free') as said: check(name, store, tmp_path, **LARGE[name])
    assert 'batch_size=' in str(said.value) and 'fit_batch' not in str(said.value)        # these cannot halve their batches
    told_room(monkeypatch, 64 << 30)
    assert any('64.0 GiB of 8.0 GiB are free' in line for line in check(name, store, tmp_path, **LARGE[name]))


def test_a_sweep_is_as_large_as_its_largest_combination(store, tmp_path, monkeypatch):
    "The memory of a sweep is that of its largest combination, times the workers."
    small = config(store, tmp_path, model_overrides={}, length=384)
    larger = small.changed(batch_size=64), small.changed(model_overrides=dict(d_model=192)), small.changed(
        batch_size=64, model_overrides=dict(d_model=192)
    )
    wide, deep, both = map(need, larger)
    space = dict(batch_size=[4, 64], model_overrides=dict(d_model=[32, 192]))
    told_room(monkeypatch, (max(wide, deep) + both)/2/fit.memory_margin)
    asked = dict(train=dict(model='tiny', length=384), space=space)
    with pytest.raises(ConfigError, match='this training needs'): check('sweep', store, tmp_path, **asked)
    told_room(monkeypatch, both)
    assert check('sweep', store, tmp_path, **asked)
    with pytest.raises(ConfigError, match='workers=3: so many training runs at once') as said:
        check('sweep', store, tmp_path, **asked, workers=3)
    assert 'say workers=1' in str(said.value)
    told_room(monkeypatch, 3*both)
    assert check('sweep', store, tmp_path, **asked, workers=3)


def test_a_song_takes_the_batch_that_fits(store, tmp_path, monkeypatch):
    "A song takes the largest batch that fits into memory."
    told_room(monkeypatch, 8 << 30)
    first, = check('song', store, tmp_path, model='song', start='none')
    assert 'to train on 16 × 384 ids' in first
    told_room(monkeypatch, fit.process_bytes + (400 << 20))
    first, advice = check('song', store, tmp_path, model='song', start='none')
    fits = int(first.split('to train on ')[1].split()[0])   # fewer windows in float32 than in bfloat16
    assert 4 <= fits < 16 and f'a batch has at most {fits} windows' in advice
    assert len(check('song', store, tmp_path, model='song', start='none', batch_size=fits)) == 1


def test_stages_are_checked_from_python_too(store, tmp_path, monkeypatch):
    "The memory of all stages is checked before the first one, also from Python."
    stages = [dict(name='a'), dict(name='b', length=384, batch_size=256)]
    asked = config(store, tmp_path, steps=4, stages=stages)
    told_room(monkeypatch, 256 << 20)
    with pytest.raises(ConfigError, match='this training needs'): train(asked)
    assert not list(tmp_path.glob('*/stages/*/checkpoints/*'))
    with pytest.raises(ConfigError, match='fit_batch=true with stages'): check_request(asked.changed(fit_batch=True))


@pytest.mark.parametrize('name', ['sweep', 'ablation', 'scaling'])
def test_compared_trainings_keep_their_batches(store, name):
    "Sweeps, ablations and scaling studies refuse `fit_batch`."
    more = dict(space=dict(lr=[0.1, 0.2])) if name == 'sweep' else {}
    asked = make_config(COMMANDS[name].config_cls, overrides=dict(more, train=dict(data=str(store.path), fit_batch=True)))
    with pytest.raises(ConfigError, match='train.fit_batch=true has no effect'):
        COMMANDS[name].check_keys(asked, {'train.fit_batch'})
