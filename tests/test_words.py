"Error messages contain no type name of Python and no term of the validation library."
import math, re

import pytest

import aurl.commands.latent_study
from aurl.commands import checks
from aurl.commands.checks import check_keys, check_request
from aurl.commands.command import COMMANDS
from aurl.commands.configs import TrainConfig
from aurl.commands.model_setup import build_model_config
from aurl.commands.option_checks import validate_options
from aurl.data.loader_config import check_loader
from aurl.train.stages import parse_stages
from aurl.config import Config, _all_keys, describe_keys, make_config, merge
from aurl.core import AurlError, ConfigError
from aurl.models.model_config import ModelConfig
from aurl.commands.command import COMMANDS
from aurl.score.augment import AugmentConfig
from aurl.data.tables import StoreConfig
from aurl.search.space import nest_keys
from aurl.train.stages import StageEnd

internal = re.compile(
    r"\b(tuple|dict|dictionary|instance|str|int|int_|float|bool|list\[|Literal|None|NoneType|class|attribute '|iterable|subscriptable|callable|pydantic|validator|Input|parse|True|False|"
    r"valid (string|integer|number|boolean|list|tuple))\b|_type\b|_parsing\b|<[a-z]|function-|\.str=|Error\b|lambda|(?<![\w/.])__"
)
bad = dict(
    empty=None,
    word='zzz',
    nothing='',
    true=True,
    negative=-1,
    huge=10**30,
    part=2.5,
    infinite=math.inf,
    no_list=[],
    mixed=['a', None],
    deep=[[1]],
    no_group={},
    group={'zz': 1},
    numbers=[1, 2, 3, 4, 5, 6, 7],
    odd=[True, {'a': None}],
)
classes = {
    **{n: x.config_cls for n, x in COMMANDS.items()},
    'model': ModelConfig,
    'stage': StageEnd,
    'store': StoreConfig,
    'augment': AugmentConfig,
}


def words_of(check):
    "The message of the `AurlError` that `check` raises, '' without one; any other error fails the test."
    try: check()
    except AurlError as e: return str(e)
    return ''


def check(words, key, value):
    found = internal.search(words)
    assert not found, f'{key}={value!r} is refused with {found[0]!r}: {words}'


def values_for(cls): return ((k, v) for k in describe_keys(cls) for v in bad.values())


@pytest.mark.parametrize('name', classes)
def test_refusals_use_plain_words(name):
    "Every key of every command, with values of each kind, is accepted or refused in plain words."
    cls, refused = classes[name], 0
    keys = [k for k in describe_keys(cls) if not k.startswith('train.')]
    for key in keys:
        for value in bad.values():
            words = words_of(lambda: make_config(cls, overrides=nest_keys({key: value})))
            check(words, key, value)
            refused += bool(words)
            if words: assert key.rpartition('.')[2] in words or key.partition('.')[0] in words, (key, value, words)
    assert refused > len(keys)                                              # most values are wrong for most keys


def test_training_refusals_use_plain_words(tmp_path):
    "Losses, optimizers, stages, teachers and models that only the training checks are refused in plain words."
    for key in (
        'losses',
        'distill',
        'model_overrides',
        'optimizer.options',
        'optimizer.name',
        'stages',
        'teacher',
        'model',
        'best_by',
        'loader.corpus_weights',
        'data',
        'split',
        'curriculum',
        'schedule',
        'ema',
        'clip',
        'valid_every',
        'resume',
        'monitor.metrics',
    ):
        for value in [
            *bad.values(),
            {'rhythm': 'loud'},
            {'rhythm': [1]},
            {'zz': None},
            {'output': 'x'},
            {'d_model': 'x'},
            {'latent': [1]},
            [{'name': 3}],
            [{'lr': 'x'}],
            ['a'],
            {'valid_loss': 'x'},
        ]:
            def go():
                cfg = make_config(TrainConfig, overrides=merge({'out': str(tmp_path)}, nest_keys({key: value})))
                parts = [s.cfg for s in parse_stages(cfg)] or [cfg]
                for c in parts:
                    validate_options(c, build_model_config(c).mode)
                    check_loader(c.loader, c.length)
                check_keys(cfg)
            check(words_of(go), key, value)


def test_empty_values_and_large_seeds():
    "An empty value, a word instead of a list and a seed beyond 64 bits are refused in plain words."
    says = lambda name, *items: words_of(lambda: make_config(COMMANDS[name].config_cls, overrides=items))
    assert says('train', 'data=').startswith('data is empty: it should be a word or a group of keys')
    assert says('train', 'monitor.metrics=note_density').startswith('monitor.metrics=note_density: it should be a list')
    for name in ('song', 'train', 'generate', 'evaluate', 'latent', 'sweep'):
        for seed in ('12345678901234567890', '9223372036854775808'):
            assert says(name, f'seed={seed}').startswith(f'seed={seed}: it should be'), name
        make_config(COMMANDS[name].config_cls, overrides=['seed=9223372036854775807'])
    for name,key in dict(ablation='seeds', scaling='seeds').items():
        assert f'{key}' in says(name, f'{key}=[12345678901234567890]')


def test_the_pattern_can_fail():
    "The pattern finds internal terms, and accepts plain words."
    for words in (
        'data.str=null: it should be a valid string',
        'it should be a valid tuple',
        "'int' object is not iterable",
        'a valid dictionary or instance of X',
        'None',
        'x: True',
    ):
        assert internal.search(words), words
    for words in ('data is empty: it should be a word', 'a list, such as [a, b]', 'integers', 'the type'[:3]):
        assert not internal.search(words), words


def test_a_damaged_checkpoint_is_said_where_the_command_is_given(tmp_path, monkeypatch):
    "`aurl train resume=RUN` reports on the terminal that an older checkpoint is used, also for a run with stages."
    from types import SimpleNamespace
    seen = []

    def newest(folder, say):
        seen.append(folder)
        say(f'passed over: {folder} is damaged')
    monkeypatch.setattr(checks, 'load_newest_checkpoint', newest)
    run = SimpleNamespace(path=tmp_path, checkpoints=tmp_path / 'checkpoints')
    for stage in ('1_a', '2_b'): (tmp_path / 'stages' / stage / 'checkpoints').mkdir(parents=True)
    lines = checks._damaged_checkpoint_lines(run)
    assert seen == [tmp_path / 'checkpoints', tmp_path / 'stages' / '2_b' / 'checkpoints']
    assert len(lines) == 2 and all(line.endswith('is damaged; an older one is taken') for line in lines)
    monkeypatch.setattr(checks, 'run_to_resume', lambda cfg: tmp_path)
    monkeypatch.setattr(checks, 'open_training_run', lambda there, kind: run)
    monkeypatch.setattr(checks, 'resumed_config', lambda run, cfg, defaults_count: cfg)
    monkeypatch.setattr(checks, '_store_still_exists', lambda there, data: True)
    said = check_request(make_config(TrainConfig, overrides=dict(out=str(tmp_path))))
    assert lines[0] in said
