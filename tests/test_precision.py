"float16 with loss scaling in whole trainings: a killed run resumes bit for bit, and a skipped step is not a failure."
import json
from types import SimpleNamespace

import pytest
import torch

import crash
from aurl.commands.checks import check_request
from aurl.commands.configs import EvaluateConfig, GenerateConfig, SongConfig, TrainConfig
from aurl.commands.option_checks import check_distributed
from aurl.config import make_config
from aurl.core import ConfigError, read_json
from aurl.device import mock_devices
from aurl.train import precision
from test_training import config, killed, train


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('precision'))


@pytest.fixture
def float16(monkeypatch):
    "float16 on a CPU, with a loss scale that is too large at first."
    monkeypatch.setenv('AURL_FP16_ON_CPU', '1')
    real = precision.LossScaling.__init__
    monkeypatch.setattr(
        precision.LossScaling,
        '__init__',
        lambda self, dtype='auto', first=2.0**30, every=6: real(self, dtype, first, every),
    )


@pytest.mark.parametrize('accumulate', [1, 2])
def test_killed_and_resumed_bit_for_bit(store, tmp_path, monkeypatch, float16, accumulate):
    "A killed and resumed run has the losses, loss scales and weights of an uninterrupted one."
    asked = dict(
        dtype='fp16',
        steps=48,
        checkpoint_every=4,
        log_every=1,
        valid_every=16,
        ema=0.9,
        accumulate=accumulate,
        monitor=dict(every=1000),
    )
    run = killed(config(store, tmp_path / 'cut', **asked), 23, monkeypatch)
    again, learn, best = train(config(store, tmp_path / 'cut', **asked))
    whole, other, best2 = train(config(store, tmp_path / 'whole', **asked))
    assert again.path == run.path and best == best2
    assert all(torch.equal(v, other.model.state_dict()[k]) for k, v in learn.model.state_dict().items())
    story = lambda run: [
        (m['step'], m['train_loss'], m['loss_scale'], m['skipped_steps']) for m in run.metrics() if 'loss_scale' in m
    ]
    assert story(again) == story(whole) and len(story(whole)) == 48
    scales, skipped = [s[2] for s in story(whole)], story(whole)[-1][3]
    assert skipped > 0 and any(b > a for a, b in zip(scales, scales[1:])), scales  # lowered, then raised again
    assert (
        read_json(whole.path / 'status.json')['status'] == 'finished'
        and 'failed' not in (whole.path / 'training.log').read_text()
    )


def test_what_is_refused(store, tmp_path):
    "float16 on a CPU and two processes on MPS are refused; the description of `device` names mps."
    with pytest.raises(ConfigError, match='dtype=fp16 on a CPU'):
        check_request(config(store, tmp_path, dtype='fp16', device='cpu', steps=2))
    with mock_devices('mps'), pytest.raises(ConfigError, match='a Mac has one GPU'):
        check_distributed(config(store, tmp_path, gpus=2, device='mps'), 'transformer')
    assert all(
        'mps' in f.description
        for c in (SongConfig, TrainConfig, GenerateConfig, EvaluateConfig)
        for n, f in c.model_fields.items()
        if n == 'device'
    )
    assert 'fp16' in str(make_config(TrainConfig, overrides=dict(dtype='fp16')).dtype)
