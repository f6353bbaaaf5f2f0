"Named presets of commands: each is accepted, has a description, and changes the configuration."
import pytest

import crash
from aurl.cli import _all_commands, run_command
from aurl.config import load_preset, make_config, preset_descriptions, presets
from aurl.core import ConfigError
from aurl.experiments.run import Experiment
from aurl.commands.model_setup import build_loader_config, build_model_config
from aurl.commands.option_checks import validate_options
from aurl.data.loader_config import check_loader
from aurl.train.options import learner_kwargs
from aurl.monitor.callbacks import monitor_callbacks

every = [(command, name) for command in _all_commands() for name in presets(command)]


@pytest.fixture(scope='module')
def store(tmp_path_factory): return crash.music(tmp_path_factory.mktemp('presets'))


@pytest.mark.parametrize('command,name', every)
def test_accepted(command, name):
    "The preset is valid, described, and sets no key to its default."
    cfg = make_config(_all_commands()[command].config_cls, preset=name, group=command)
    assert preset_descriptions(command)[name]
    plain = make_config(_all_commands()[command].config_cls)
    assert cfg != plain                                         # it changes something
    for key, value in load_preset(command, name).items():
        if not isinstance(value, dict):
            assert getattr(cfg, key) != getattr(plain, key) or key == 'checkpoint_every', f'{key} is the default'
    if command == 'train':
        mode = build_model_config(cfg).mode
        validate_options(cfg, mode)
        check_loader(build_loader_config(cfg, mode), cfg.length, (-cfg.transpose, cfg.transpose))
        assert learner_kwargs(cfg) and monitor_callbacks(cfg.monitor)


def test_dev_logs_everything(store, tmp_path):
    "The preset `dev` logs losses, validations, samples and windows, and saves checkpoints."
    assert run_command('train', [f'data={store.path}', 'workers=0', 'device=cpu', f'out={tmp_path}'], preset='dev') == 0
    run = Experiment.open(next(tmp_path.glob('train_*')))
    lines = run.metrics()
    assert len([m for m in lines if 'train_loss' in m]) == 30
    assert len([m for m in lines if m.get('valid_loss') is not None]) >= 3
    assert any('grammar' in m for m in lines) and (run.path / 'windows.jsonl').exists()
    assert any(run.checkpoints.iterdir()) and (run.path / 'model' / 'model.safetensors').exists()


def test_unknown():
    "A misspelled preset is an error with a suggestion."
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        make_config(_all_commands()['train'].config_cls, preset='quik', group='train')
