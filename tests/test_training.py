"""Reports of a training are correct: failures, killed runs, stages with more steps, growing folders, and the log
after a kill."""
import json, math, shutil, subprocess, sys
from pathlib import Path

import pytest
import torch

import crash
from aurl.commands.checks import check_request
from aurl.commands.command import open_run
from aurl.commands.configs import GenerateConfig, TrainConfig
from aurl.commands.learner_setup import data_usage_lines
from aurl.commands.model_setup import find_model
from aurl.commands.resume import saved_config
from aurl.commands.run_data import new_piece_lines, open_store, train_valid_split
from aurl.commands.training import final_status, train_stages
from aurl.experiments.run import Experiment
from aurl.experiments.run_files import find_runs
from aurl.monitor.checkpoints import load_newest_checkpoint
from aurl.train.saved_models import load_model
from aurl.config import make_config
from aurl.core import ConfigError, TrainingError, read_json
from aurl.train.budget import Budget
from common import root


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('training'))


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
    "Train as the run notebook does: run, learner, and nats per token."
    run, cfg, last = open_run('train', asked)
    music = open_store(cfg.data, cfg.workers, run, cfg.loader)
    sides = train_valid_split(music, cfg.valid, cfg.seed, cfg.split)
    learn, best = train_stages(run, cfg, music, *sides, last)
    learn.model.save_pretrained(run.path / 'model', valid_loss=best)
    run.finish([], {}, final_status(learn, run))
    return run, learn, best


def killed(asked, step, monkeypatch):
    "A run whose process ends after `step` without saving anything more."
    real = Budget.after_batch

    class Gone(BaseException): pass

    def after_batch(self):
        real(self)
        if self.training and self.done == step: raise Gone
    run, cfg, last = open_run('train', asked)
    music = open_store(cfg.data, cfg.workers, run, cfg.loader)
    with monkeypatch.context() as m, pytest.raises(Gone):
        m.setattr(Budget, 'after_batch', after_batch)
        train_stages(run, cfg, music, *train_valid_split(music, cfg.valid, cfg.seed, cfg.split), last)
    run._set_status('interrupted')
    return run


class Poison:
    "A NaN in the weights after step `at`."
    def __init__(self, at): self.at = at
    def __call__(self, monkeypatch):
        real = Budget.before_batch

        def before_batch(budget):
            real(budget)
            if budget.training and budget.done == self.at:
                with torch.no_grad(): next(budget.learn.model.trunk.blocks.parameters()).view(-1)[0] = math.nan
        monkeypatch.setattr(Budget, 'before_batch', before_batch)


@pytest.mark.parametrize('valid_every', [10, 0])
def test_nan_ends_with_an_error_and_a_finite_model(store, tmp_path, monkeypatch, valid_every):
    "A NaN ends the training with an error; model and checkpoints are finite, and the same command resumes before it."
    Poison(25)(monkeypatch)
    asked = config(store, tmp_path, steps=60, checkpoint_every=2, keep_checkpoints=2, valid_every=valid_every)
    with pytest.raises(TrainingError, match='no longer finite'): train(asked)
    run = find_runs(tmp_path)[0]
    assert read_json(run / 'status.json')['status'] == 'failed'
    model, _ = find_model(run)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    steps = [int(p.name[5:]) for p in (run / 'checkpoints').glob('step_*')]
    assert steps and max(steps) <= 25                                    # none was written with a NaN in it
    last = load_newest_checkpoint(run / 'checkpoints')
    assert last.step == 24 and all(t.isfinite().all() for t in last.weights.values())
    monkeypatch.undo()
    again, _, best = train(asked)                                        # the same command resumes before it
    assert again.path == run and math.isfinite(best) and 'resuming from step' in (run / 'training.log').read_text()


def test_divergence_is_a_failure(store, tmp_path):
    "A learning rate that is too high ends the training with an error and a finite model."
    asked = config(
        store,
        tmp_path,
        steps=120,
        checkpoint_every=5,
        keep_checkpoints=2,
        lr=3.0,
        clip=dict(kind='none'),
        optimizer='adamw',
        schedule=dict(kind='constant', warmup_pct=0.3),
        valid_every=20,
    )
    with pytest.raises(TrainingError, match='diverged|finite'): train(asked)
    run = find_runs(tmp_path)[0]
    status = read_json(run / 'status.json')
    assert status['status'] == 'failed' and 'lower learning rate' in status['error']
    model, _ = find_model(run)
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_good_checkpoints_are_kept(store, tmp_path, monkeypatch):
    "If the loss rises from step 25 on, the last good checkpoint is kept until the failure is detected."
    real = Budget.before_batch

    def before_batch(budget):
        real(budget)
        if budget.training and budget.done >= 25: budget.opt.set_hyper('lr', -.3)
    monkeypatch.setattr(Budget, 'before_batch', before_batch)
    asked = config(store, tmp_path, steps=300, checkpoint_every=1, keep_checkpoints=2, valid_every=100, optimizer='adamw')
    with pytest.raises(TrainingError, match='diverged'): train(asked)
    run = find_runs(tmp_path)[0]
    marked = [p.name for p in (run / 'checkpoints').iterdir() if read_json(p / 'manifest.json').get('suspect')]
    good = load_newest_checkpoint(run / 'checkpoints')
    assert 20 <= good.step <= 30 and marked, (good.step, marked)
    assert all(t.isfinite().all() for t in find_model(run)[0].state_dict().values())


def test_exit_code_and_words(store, tmp_path):
    "A failed `aurl train` has a non-zero exit code, and the reason in its last line."
    words = [
        f'data={store.path}',
        'model=tiny',
        'length=48',
        'batch_size=4',
        'valid=.3',
        'workers=0',
        'monitor.enabled=false',
        f'out={tmp_path}',
        'steps=40',
        'lr=1000',
        'clip=0',
        'schedule=constant',
        'checkpoint_every=5',
    ]
    done = subprocess.run(
        [sys.executable, '-c', 'from aurl.cli import main; main()', 'train', *words],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 1 and 'the training has failed' in done.stderr.splitlines()[-1], done.stderr[-2000:]
    assert 'the same command again' not in done.stdout


def test_a_killed_run_generates_and_resumes(store, tmp_path, monkeypatch):
    "A run killed at step 15 generates from its checkpoint of step 12; resumed, its log has each step once."
    asked = config(
        store, tmp_path / 'cut', steps=24, checkpoint_every=4, log_every=1, valid_every=6, record_windows=True
    )
    run = killed(asked, 15, monkeypatch)
    shutil.rmtree(run.path / 'model', ignore_errors=True)                # as if the copy had not been due yet
    model, where = find_model(run.path)
    assert where == run.path and 'step_00000012' in model.origin and 'no model yet' in model.origin
    assert (
        'step_00000012'
        in check_request(make_config(GenerateConfig, overrides=dict(model=str(run.path), out=str(tmp_path))))[0]
    )
    for choice in ('newest', 'best', 'step=8', 'average', 'average=2'):
        assert find_model(f'{run.path}@{choice}')[0].origin
    teacher = config(store, tmp_path / 'taught', steps=2, teacher=f'{run.path}@step=8', distill=dict(output=1.))
    assert train(teacher)[0].config['teacher'] == f'{run.path}@step=8'

    again, learn, best = train(asked)
    assert again.path == run.path
    whole, other, best2 = train(
        config(store, tmp_path / 'whole', steps=24, checkpoint_every=4, log_every=1, valid_every=6, record_windows=True)
    )
    story = lambda path, keys: [
        {k: m[k] for k in keys if k in m}
        for m in map(json.loads, (path / 'metrics.jsonl').read_text().splitlines())
        if any(k in m for k in keys[1:])
    ]
    for keys in (('step', 'train_loss', 'objective', 'grad_norm', 'epoch'), ('step', 'valid_loss')):
        assert story(run.path, keys) == story(whole.path, keys)
    assert [m['step'] for m in story(run.path, ('step', 'train_loss'))] == list(range(1, 25))
    assert (run.path / 'metrics_cut.jsonl').exists()
    assert (run.path / 'windows.jsonl').read_text() == (whole.path / 'windows.jsonl').read_text()
    assert best == best2 and all(
        torch.equal(v, other.model.state_dict()[k]) for k, v in learn.model.state_dict().items()
    )
    assert (
        read_json(run.path / 'git.json')['aurl']['version']
        and read_json(run.path / 'environment.json')['data']['stores'][0]['fingerprint']
    )


def test_best_by_decides_what_is_kept(store, tmp_path):
    "The saved model is that of the step with the best value of `best_by`."
    asked = config(
        store,
        tmp_path,
        steps=12,
        valid_every=2,
        checkpoint_every=2,
        keep_checkpoints=9,
        best_by={'-note_density': 1.0},
        monitor=dict(every=2, metrics=['note_density'], max_rollbacks=0),
    )
    run, learn, _ = train(asked)
    told = [(m['step'], m['note_density']) for m in run.metrics() if 'note_density' in m]
    at = min(told, key=lambda t: t[1])[0]
    kept, best = find_model(run.path)[0].state_dict(), load_model(f'{run.path}@step={at}')[0].state_dict()
    assert all(torch.equal(v, best[k]) for k, v in kept.items())


def test_more_steps_for_a_finished_staged_run(store, tmp_path):
    "A finished run with stages can be resumed with more steps, which the last stage receives."
    asked = config(
        store, tmp_path, steps=12, checkpoint_every=3, stages=[dict(name='a', share=0.5), dict(name='b', lr=0.001)]
    )
    run, _, _ = train(asked)
    again, learn, _ = train(make_config(TrainConfig, overrides=dict(resume=str(run.path), steps=18)))
    assert again.path == run.path and max(m['step'] or 0 for m in again.metrics()) == 18
    assert (
        read_json(run.path / 'stages/2_b/done.json')['steps'] == 12
        and 'it receives all added steps' in (run.path / 'training.log').read_text()
    )
    bare, _, _ = train(
        config(
            store, tmp_path / 'bare', steps=12, checkpoint_every=0, stages=[dict(name='a', share=0.5), dict(name='b')]
        )
    )
    with pytest.raises(ConfigError, match='no checkpoint to resume from'):
        train(make_config(TrainConfig, overrides=dict(resume=str(bare.path), steps=18)))


def test_a_folder_that_grows_moves_or_changes(store, tmp_path, monkeypatch):
    "A run resumes with the pieces of its start if its folder has grown or moved, and names missing pieces."
    monkeypatch.setenv('AURL_HOME', str(tmp_path / 'home'))
    folder = tmp_path / 'songs'
    shutil.copytree(store.path.parent / 'midi', folder)
    asked = config(store, tmp_path / 'runs', data=str(folder), steps=12, checkpoint_every=3, log_every=1)
    run = killed(asked, 7, monkeypatch)
    n = len(list(folder.iterdir()))
    shutil.copy(folder / '3.mid', folder / 'later.mid')
    open_store(str(folder), 0)                                           # another command has read the new piece
    again, learn, best = train(asked)
    assert again.path == run.path and len(learn.dls.train.pieces) + len(learn.dls.valid.pieces) == n
    assert 'later.mid' in new_piece_lines(learn.dls.train.store)[0]
    folder.rename(tmp_path / 'moved')
    longer = make_config(TrainConfig, overrides=dict(resume=str(run.path), steps=14))
    check_request(longer)
    assert train(longer)[0].path == run.path
    (tmp_path / 'moved').rename(folder)
    (folder / '0.mid').unlink()
    for s in (tmp_path / 'home/stores').iterdir(): shutil.rmtree(s)
    with pytest.raises(ConfigError, match='1 missing: 0.mid.*data=STORE|1 new: later.mid; 1 missing: 0.mid'):
        train(make_config(TrainConfig, overrides=dict(resume=str(run.path), steps=16)))
    open_store(str(store.path), 0)
    # a store with the music that the run began with
    assert (
        train(make_config(TrainConfig, overrides=dict(resume=str(run.path), steps=16, data=str(store.path))))[0].path
        == run.path
    )


def test_a_latent_model_learns_from_all_of_it(store, tmp_path):
    "A latent model is trained on all pieces; a run of an earlier version keeps its setting."
    asked = config(
        store,
        tmp_path,
        steps=4,
        mode='vae',
        model_overrides=dict(d_model=16, n_layers=1, encoder_layers=1, latent=[4, 2, 0], regions=[1, 2, 1]),
        checkpoint_every=2,
    )
    run, learn, _ = train(asked)
    train_side, held = train_valid_split(store, .3)
    assert len(learn.dls.train.pieces) == len(train_side) and len(learn.dls.valid.pieces) == len(held)
    assert f'trained on: {len(train_side)} pieces in' in data_usage_lines(run)[0]
    old = make_config(TrainConfig, overrides=dict(resume=str(run.path)))
    told = (run.path / 'config.yaml').read_text()
    (run.path / 'config.yaml').write_text('\n'.join(l for l in told.splitlines() if not l.startswith('latent_windows')))
    # a run of a version without this option
    assert saved_config(Experiment.open(run.path)).latent_windows == 'whole'


def test_no_setting_changes_valid_loss(store, tmp_path):
    "`valid_loss` does not depend on `latent.beta`, on other losses or on label smoothing."
    net = dict(d_model=16, n_layers=1, encoder_layers=1, latent=[4, 2, 0], regions=[1, 2, 1])
    def figure(out, **more):
        return train(config(store, tmp_path / out, steps=1, lr=1e-20, checkpoint_every=0, **more))[2]
    assert len({figure(f'beta{b}', mode='vae', model_overrides=net, latent=dict(beta=b)) for b in (0, .2, 1, 4)}) == 1
    assert (
        len(
            {
                figure(f'l{i}', **m)
                for i, m in enumerate(
                    (
                        dict(),
                        dict(losses=dict(rhythm=0.5)),
                        dict(losses=dict(rhythm=5.0, grammar=1.0)),
                        dict(label_smoothing=0.3),
                        dict(grammar_weight=2.0),
                    )
                )
            }
        )
        == 1
    )


def test_a_preset_that_has_changed_since(store, tmp_path, monkeypatch):
    "A resumed run keeps its model although the preset file has changed."
    preset = tmp_path / 'mine.yaml'
    preset.write_text('d_model: 16\nn_layers: 1\nn_heads: 2\nkeyboard: 0\n')
    asked = config(store, tmp_path / 'runs', model=str(preset), model_overrides={}, steps=6, checkpoint_every=2)
    run = killed(asked, 4, monkeypatch)
    preset.write_text('d_model: 32\nn_layers: 2\nn_heads: 2\nkeyboard: 0\nlayer_embeddings: true\n')
    again, learn, _ = train(asked.changed(resume=str(run.path)))
    assert again.path == run.path and learn.model.config.d_model == 16 and not learn.model.config.layer_embeddings
    assert max(m['step'] for m in again.metrics()) == 6
