"""A training that is interrupted, killed or damaged resumes with the same losses; nbs/benchmarks/resume.ipynb runs
more cases."""
import os

import pytest

if os.name == 'nt': pytest.skip('needs fork and signals of POSIX', allow_module_level=True)
import crash


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('resume'))


@pytest.mark.parametrize('way', [w for w in [*crash.WAYS, *crash.MORE] if 'two workers' not in w])
def test_cut_anywhere(store, tmp_path, way):
    "A training resumed from a random step has the losses of an uninterrupted one."
    assert crash.cut_anywhere(store, tmp_path / 'ck', way, cuts=4, steps=20) == (4, 4)


def test_killed_at_random(store, tmp_path):
    "A training killed at random times loses at most one interval and has the same losses."
    wrong, figures = crash.kill_at_random(store, tmp_path / 'kills', kills=6, steps=24)
    assert not wrong and figures['kills'] == 6


def test_killed_at_file_events(store, tmp_path, monkeypatch):
    "A save killed at a file operation leaves a complete checkpoint, old or new."
    real = range
    monkeypatch.setattr(crash, 'range', lambda n: real(0, n, 9), raising=False)    # every ninth of them
    wrong, figures = crash.crash_at_every_event(store, tmp_path / 'events')
    assert not wrong and figures['crashes'] > 10


def test_damage_is_seen_and_said(store, tmp_path):
    "A damaged checkpoint is detected and named, and the one before it is loaded."
    wrong, figures = crash.damage_at_random(store, tmp_path / 'damage', each=20)
    assert not wrong


def test_full_disk(store, tmp_path):
    "On a full disk the training continues with one warning."
    wrong, said = crash.full_disk(store, tmp_path / 'full')
    assert not wrong and len(said) == 2


def test_stages_go_on(store, tmp_path, monkeypatch):
    "The same command resumes in the middle of the second of three stages, with the result of an uninterrupted run."
    import signal

    from aurl.commands.command import open_run
    from aurl.commands.configs import TrainConfig
    from aurl.commands.run_data import open_store, train_valid_split
    from aurl.commands.training import final_status, train_stages
    from aurl.config import make_config
    from aurl.train.budget import Budget

    def sitting(out, stop=0):
        asked = make_config(
            TrainConfig,
            overrides=dict(
                data=str(store.path),
                model='tiny',
                steps=16,
                length=256,
                batch_size=2,
                checkpoint_every=3,
                workers=0,
                monitor=dict(enabled=False),
                out=str(tmp_path / out),
                stages=[
                    dict(name='pretrain', share=0.5),
                    dict(name='listen', mode='vae', share=0.25),
                    dict(name='polish', mode='vae', share=0.25, lr=0.001),
                ],
            ),
        )
        run, cfg, last = open_run('train', asked)
        music = open_store(cfg.data, cfg.workers, run, cfg.loader)
        train, held = train_valid_split(music, cfg.valid, cfg.seed, cfg.split)
        seen, real = [], Budget.after_batch

        def heard(self):
            real(self)
            if self.training:
                seen.append(1)
                if len(seen) == stop: self.stop_signal = signal.SIGTERM
        with monkeypatch.context() as m:
            m.setattr(Budget, 'after_batch', heard)
            learn, best = train_stages(run, cfg, music, train, held, last)
        run.finish([], {}, final_status(learn, run))
        return run.path, run.status, best, {k: v.sum().item() for k, v in learn.model.state_dict().items()}

    whole = sitting('whole')
    first, second = sitting('cut', stop=10), sitting('cut')
    assert first[:2] == (second[0], 'stopped')
    assert second[1:] == ('finished', *whole[2:])
