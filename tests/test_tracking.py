"""Training runs with mirrors: TensorBoard's own reader finds what was recorded, also after a kill, in a sweep, and
from several processes; mirrors that raise or hang change neither the losses nor the end of a run."""
import threading

import pytest
import torch

import crash
from aurl.commands.checks import check_request
from aurl.commands.sweep import SweepConfig, run_sweep
from aurl.commands.run_folder import create_run
from aurl.config import make_config
from aurl.core import ConfigError, MissingExtra, read_json
from aurl.experiments.mirrors import Mirror, mirror_kinds
from aurl.experiments.tracking import recorded_events
from test_training import config, killed, train


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('tracking'))


def in_tensorboard(folder):
    "What TensorBoard's reader finds in the event files of a run."
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator', reason='no tensorboard')
    sizes = dict(scalars=0, images=0, audio=0, tensors=0)
    seen = reader.EventAccumulator(str(folder / 'tensorboard'), size_guidance=sizes)
    return seen.Reload()


def steps(seen, tag='train_loss'): return [e.step for e in seen.Scalars(tag)]


def test_a_training_is_mirrored(store, tmp_path):
    "Losses, pieces, tables, figures and the modules of the model are in TensorBoard, and in the run directory."
    pytest.importorskip('tensorboard', reason='no tensorboard')
    asked = config(store, tmp_path, steps=12, log_every=1, track=['tensorboard'], samples_every=5)
    check_request(asked)
    run, learn, best = train(asked)
    seen = in_tensorboard(run.path)
    assert steps(seen) == list(range(1, 13))
    logged = [m['train_loss'] for m in run.metrics() if m.get('train_loss') is not None]
    assert [e.value for e in seen.Scalars('train_loss')] == pytest.approx(logged, rel=1e-6)   # float32 in the events
    assert {'sample', 'losses'} <= set(seen.Tags()['images']) and seen.Tags()['audio'] == ['sample sound']
    assert any(n.name.startswith('MusicTransformerVAEGAN/') for n in seen.Graph().node)
    kinds = [e['kind'] for e in recorded_events(run.path)]
    assert {'metrics', 'roll', 'audio', 'table', 'figure', 'graph', 'artifact', 'model'} == set(kinds)
    state = read_json(run.path / 'mirrors.json')['tensorboard']
    assert (state['state'], state['sent'], state['lost']) == ('finished', len(kinds), 0)


def test_mirrors_do_not_change_the_training(store, tmp_path, monkeypatch):
    "With samples, a mirror that raises and one that hangs, the weights are those of an untracked run."
    from aurl.experiments import tracker
    defaults = list(tracker.Tracker.__init__.__defaults__)
    monkeypatch.setattr(tracker.Tracker.__init__, '__defaults__', tuple([*defaults[:-1], 3.]))   # finish_seconds
    class Raise(Mirror):
        name, package = 'raise', 'json'
        def metrics(self, lines): raise ConnectionError('no network')

    class Hang(Mirror):
        name, package = 'hang', 'json'
        def start(self): threading.Event().wait()
    _, plain, best = train(config(store, tmp_path / 'plain', steps=12, log_every=1))
    mirror_kinds.update({'raise': Raise, 'hang': Hang})
    try:
        asked = config(store, tmp_path / 'tracked', steps=12, log_every=1, track=['raise', 'hang'], samples_every=4)
        with pytest.warns(UserWarning, match='no network'): run, learn, again = train(asked)
    finally:
        del mirror_kinds['raise'], mirror_kinds['hang']
    assert again == best
    assert all(torch.equal(v, plain.model.state_dict()[k]) for k, v in learn.model.state_dict().items())
    states = {k: v['state'] for k, v in read_json(run.path / 'mirrors.json').items()}
    assert states['hang'] == 'abandoned' and run.status == 'finished'


def test_a_killed_run_continues_in_its_mirror(store, tmp_path, monkeypatch):
    "After a kill and a resumption the curve in TensorBoard has every step."
    pytest.importorskip('tensorboard', reason='no tensorboard')
    more = dict(steps=14, checkpoint_every=4, log_every=1, track=['tensorboard'])
    run = killed(config(store, tmp_path, **more), 10, monkeypatch)
    for tracker in list(run.trackers): tracker.finish('failed')     # the process of this test goes on
    on, _, _ = train(config(store, tmp_path, **more))
    assert on.path == run.path and len(list((run.path / 'tensorboard').iterdir())) == 2
    assert set(steps(in_tensorboard(run.path))) == set(range(1, 15))
    assert [m['step'] for m in on.metrics() if m.get('train_loss') is not None] == list(range(1, 15))


def test_each_trial_is_mirrored(store, tmp_path):
    "The trials of a sweep are runs with mirrors of their own."
    pytest.importorskip('tensorboard', reason='no tensorboard')
    shared = config(store, tmp_path, steps=3, log_every=1, checkpoint_every=0, track=['tensorboard']).to_dict()
    cfg = make_config(SweepConfig, overrides=dict(train=shared, space=dict(lr=[.01, .001]), sampler='grid', trials=0,
                                                  out=str(tmp_path)))
    sweep = run_sweep(cfg, create_run('sweep', cfg))
    folders = [p.parent for p in sweep.path.rglob('tensorboard')]
    assert len(folders) == 2 and all(steps(in_tensorboard(f)) == [1, 2, 3] for f in folders)


def test_trackers_that_cannot_be_used_are_refused(store, tmp_path, monkeypatch):
    "An unknown tracker, and one whose package is not installed, are errors before the run."
    with pytest.raises(ConfigError, match='tensorboard, '): config(store, tmp_path, track=['tensorbord'])
    with pytest.raises(ConfigError, match='given twice'):
        check_request(config(store, tmp_path, track=['tensorboard'] * 2))
    monkeypatch.setattr(mirror_kinds['tensorboard'], 'package', 'no_such_package')
    with pytest.raises(MissingExtra, match=r'aurl\[tracking\]'): check_request(config(store, tmp_path, track='tensorboard'))
    assert not list(tmp_path.iterdir())


def test_the_end_waits_for_a_stated_time(store, tmp_path):
    "A run with a mirror that never returns ends after `finish_seconds`."
    from aurl.experiments.run import Experiment
    from aurl.experiments.tracker import Tracker

    class Hang(Mirror):
        name = 'hang'
        def metrics(self, lines): threading.Event().wait()
    run = Experiment('late', path=tmp_path / 'late')
    tracker, waits = Tracker(run, [Hang(run)], finish_seconds=.5, interval=.01), []
    join = tracker.threads[0].thread.join
    tracker.threads[0].thread.join = lambda seconds: (waits.append(seconds), join(seconds))
    run.log(step=1, train_loss=1.)
    run.finish()
    assert len(waits) == 1 and 0 < waits[0] <= .5
    assert read_json(run.path / 'mirrors.json')['hang']['state'] == 'abandoned' and run.status == 'finished'
