"""Memory: what does not fit is refused with ways that do fit, running out is an error of its own, and half of the batch, twice, learns the same."""
import json, subprocess, sys
from types import SimpleNamespace

import pytest
import torch

import crash
from aurl.commands.command import open_run
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
        fit.check_memory(there, build_model_config, available=room)                     # it is not refused
    assert fit.check_memory(asked, build_model_config, available=AvailableMemory(64 << 30, 64 << 30, 'much'))[
        0
    ].startswith('2.94M parameters')


def test_a_smaller_batch_is_chosen_before_and_kept(store, tmp_path, monkeypatch):
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
    "The weights after as many steps of the optimizer, in one batch or in two, within an epoch, where the same windows make a step."
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
for m in (training, fit): m.memory_room = lambda device: AvailableMemory(1 << 40, 1 << 40, 'much')      # the estimate suspects nothing
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
    "A training in a process whose address space may grow by so many megabytes from step `at` on."
    told = json.dumps(dict(config=asked.to_dict(), at=at, more=megabytes << 20))
    done = subprocess.run([sys.executable, '-c', starved, told], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


wide = dict(model_overrides=dict(d_model=256, n_layers=4, n_heads=4), length=256, batch_size=16, steps=4, valid_every=100)


@pytest.mark.skipif(sys.platform != 'linux', reason='limits of the address space')
def test_running_out_says_so_and_names_the_checkpoint(long_store, tmp_path):
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
    "A device that has room for two windows."
    real = Budget.before_batch

    def before_batch(self):
        real(self)
        if self.training and len(self.xb[0]) > 2: raise torch.OutOfMemoryError('out of memory, in a test')
    monkeypatch.setattr(Budget, 'before_batch', before_batch)
    run, learn, _ = train(config(store, tmp_path, steps=4, fit_batch=True, checkpoint_every=0))
    assert run.config['halvings'] == 1 and learn.dls.train.bs == 2
    assert 'memory ran out, the batch is halved' in (run.path / 'training.log').read_text()
