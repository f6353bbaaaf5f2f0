"""A training that is cut, killed or damaged goes on as if nothing had happened. Small numbers here; nbs/benchmarks/resume.ipynb has the large ones."""
import os

import pytest

if os.name == 'nt': pytest.skip('needs fork and signals of POSIX', allow_module_level=True)
import crash


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('resume'))


@pytest.mark.parametrize('way', [w for w in crash.WAYS if 'two workers' not in w])
def test_cut_anywhere(store, tmp_path, way): assert crash.cut_anywhere(store, tmp_path / 'ck', way, cuts=4, steps=20) == (4, 4)


def test_killed_at_random(store, tmp_path):
    wrong, figures = crash.kill_at_random(store, tmp_path / 'kills', kills=6, steps=24)
    assert not wrong and figures['kills'] == 6


def test_killed_at_file_events(store, tmp_path, monkeypatch):
    real = range
    monkeypatch.setattr(crash, 'range', lambda n: real(0, n, 9), raising=False)    # every ninth of them
    wrong, figures = crash.crash_at_every_event(store, tmp_path / 'events')
    assert not wrong and figures['crashes'] > 10


def test_damage_is_seen_and_said(store, tmp_path):
    wrong, figures = crash.damage_at_random(store, tmp_path / 'damage', each=20)
    assert not wrong


def test_full_disk(store, tmp_path):
    wrong, said = crash.full_disk(store, tmp_path / 'full')
    assert not wrong and len(said) == 2
