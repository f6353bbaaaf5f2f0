"""Every key of every command, in every mode, changes what a run is built from, or is refused with the reason.

A new key makes `test_every_key_has_its_place` fail. Add it to the table of its command, with a value other than its
default and the other keys that it needs to have an effect. If it has no effect without them, it also needs a rule in
`nbs/970_commands.key_rules.ipynb`."""
import hashlib, json, re
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from aurl.commands.checks import check_keys
from aurl.commands.command import COMMANDS
from aurl.commands.configs import EvaluateConfig, GenerateConfig, PrepareConfig, SongConfig, TrainConfig
from aurl.commands.learner_setup import build_learner
from aurl.commands.model_setup import build_loader_config, build_model_config, find_model
from aurl.commands.option_checks import check_distributed, validate_options
from aurl.commands.preparation import prepare_kwargs
from aurl.commands.run_data import train_valid_split
from aurl.commands.samples import check_sampling, file_options, fill_prompt, prompt_ids, repair_pieces
from aurl.commands.samples import requested_latents, requested_length, requested_processors, sampling_options, with_reference
from aurl.commands.training import train_run
from aurl.data.loader_config import check_loader
from aurl.train.stages import parse_stages
from aurl.commands.ablation import check_ablation_keys
from aurl.commands.sweep import check_sweep_keys
from aurl.config import Config, describe_keys, make_config, merge
from aurl.core import AurlError, ConfigError, seed_everything
from aurl.dependencies import given_keys, value_of
from aurl.models.model_config import ModelConfig
from aurl.models.vae_gan import MusicTransformerVAEGAN
from aurl.commands.command import COMMANDS
from aurl.commands.scaling import check_scaling_keys
from aurl.tokens.vocab import vocab
from aurl.train.averaging import WeightAveraging
from aurl.train.latent_loss import KLLoss
from aurl.train.objectives import MusicLosses
from aurl.train.optimizers import model_parts
from aurl.train.schedules import LRScheduler
from aurl.search.space import nest_keys
from aurl.train.stages import StageEnd, _run_keys
from aurl.train.clip import GradientClipping
from aurl.commands.workers import SilentRun
from common import root

modes = 'transformer', 'vae', 'vae_gan'


# ---- the keys of a training: an example, and what it needs beside it
vae, gan = dict(mode='vae'), dict(mode='vae_gan')
augmented = {'loader.augment.probability': 1., 'transpose': 0}
TRAIN = {
    'split': ('HELD', {}), 'start': ('TEACHER', {}), 'valid_pieces': (1, {}), 'steps': (7, {}), 'minutes': (1., {}), 'mode': ('vae', {}), 'model': ('OTHER', {}), 'length': (48, {}), 'transpose': (2, {}),
    'latent_windows': ('whole', dict(vae, length=290)), 'recompute': (True, {}), 'stages': ([dict(name='a'), dict(name='b')], {}), 'valid': (.5, {}), 'seed': (3, {}),
    'batch_size': (2, {}), 'grammar_weight': (.5, {}), 'losses': (dict(rhythm=.1), {}), 'balance': ('uncertainty', {'losses.rhythm': .1}),
    'teacher': ('TEACHER', {}), 'distill': (dict(output=.3, hard=.7), dict(teacher='TEACHER')), 'dropout': (.1, {}), 'dtype': ('bf16', {}),
    'log_every': (3, {}), 'record_windows': (True, {}), 'figures_every': (3, {}), 'figures_formats': (['svg'], dict(figures_every=3)), 'figures_themes': (['dark'], dict(figures_every=3)), 'valid_every': (5, {}), 'checkpoint_every': (7, {}), 'keep_checkpoints': (5, {}), 'best_by': (dict(valid_loss=1., grammar=.5), {}),
    'reproducible': ('verified', {}), 'lr': (.02, {}),
    'latent.beta_schedule': ('cosine', vae), 'latent.beta': (.7, vae), 'latent.warmup_pct': (.2, vae), 'latent.cycles': (2, vae | {'latent.beta_schedule': 'cyclical'}),
    'latent.target_kl': (9., vae | {'latent.beta_schedule': 'adaptive'}), 'latent.attributes': (['register'], vae), 'latent.attribute_weight': (.3, vae | {'latent.attributes': ['register']}),
    **{f'adversarial.{k}': (v, gan) for k,v in dict(weight=.3, losses=dict(adversarial=2.), warmup_pct=.4, lr=.01, rollout_windows=2, rollout_length=9, context=5, sample_every=0, every=2, r1_weight=.5, gradient_penalty_weight=1., backprop_through_time=False).items()},
    'loader.windows': ('first', {}), 'loader.overlap': (8, {'loader.windows': 'sliding'}), 'loader.max_windows': (1, {}), 'loader.adaptive_max_windows': (9, {'loader.windows': 'adaptive'}),
    'loader.min_length': (250, {}), 'loader.full_pieces_only': (True, dict(length=290)), 'loader.align': ('beat', {}), 'loader.default_bar_quarters': (3., {'loader.align': 'bar'}),
    'loader.infill': (.5, {}), 'loader.batch_tokens': (300, {}), 'loader.bucket_multiple': (16, {}), 'loader.pack': (True, {}), 'loader.start_length': (16, dict(steps=900)),
    'loader.grow_epochs': (3, {'loader.start_length': 16, 'steps': 900}), 'loader.growth_mode': ('step', {'loader.start_length': 16, 'steps': 900}),
    'loader.augment.probability': (.7, dict(transpose=0)), 'loader.augment.at_most': (1, augmented),
    'loader.augment.transpose.probability': (.2, augmented), 'loader.augment.transpose.low': (-2, augmented), 'loader.augment.transpose.high': (2, augmented),
    **{f'loader.augment.{t}.probability': (.9, augmented) for t in ('stretch', 'velocity', 'programs', 'swing', 'humanize')},
    **{f'loader.augment.{t}.{k}': (v, augmented | {f'loader.augment.{t}.probability': 1., 'loader.augment.at_most': 6})
       for t,k,v in [('stretch', 'low', .95), ('stretch', 'high', 1.3), ('velocity', 'low', .5), ('velocity', 'high', 1.5), ('swing', 'low', .66), ('swing', 'high', .7),
                     ('humanize', 'seconds', .09), ('humanize', 'touch', 15.)]},
    **{f'loader.augment.schedule.{k}': (v, augmented | more) for k,v,more in [
        ('kind', 'warmup', {}), ('high', .2, {}), ('low', .9, {'loader.augment.schedule.kind': 'warmup'}), ('warmup', 30., {'loader.augment.schedule.kind': 'warmup'}),
        ('decay', .1, {'loader.augment.schedule.kind': 'decay'}), ('unit', 'share', {'loader.augment.schedule.kind': 'warmup', 'loader.epochs': 2}),
        ('steps', [[0., .1], [2., 1.]], {'loader.augment.schedule.kind': 'steps'})]},
    'loader.epochs': (9, augmented | {'loader.augment.schedule.kind': 'warmup', 'loader.augment.schedule.unit': 'share', 'loader.augment.schedule.warmup': .5}),
    **{f'monitor.{k}': (v, {}) for k,v in dict(enabled=False, every=5, time_share=.1, samples=2, tokens=32, metrics=['note_density'], max_rollbacks=1, snapshot_memory=.5, anomalies=False, recover=True,
                                            patience=3, profiler=False).items()},
    'checkpoints.compress': (True, {}), 'checkpoints.history': (['1h'], {}), 'checkpoints.max_age': ('30d', {'checkpoints.history': ['1h']}), 'monitor.remedies': ('suggest', {}),
    **{f'monitor.quality{k}': (v, {}) for k,v in {'': False, '_every': 7, '_share': .1, '_samples': 2, '_tokens': 64}.items()},
    'monitor.anneal_grammar': (True, dict(grammar_weight=1.)), 'monitor.stop_metrics': (dict(valid_loss=1.), {'monitor.patience': 2}),
    'optimizer.name': ('adamw', {}), 'optimizer.layer_decay': (.5, {}), 'optimizer.lr_scales': (dict(output=.5), {}), 'optimizer.wd': (.4, {}), 'optimizer.options': (dict(betas=[.5, .6]), {'optimizer.name': 'adamw'}),
    'schedule.kind': ('linear', {}), 'schedule.warmup_pct': (.2, {}), 'schedule.warmup_shape': ('cosine', {}), 'schedule.decay_start': (.6, {}), 'schedule.final': (.3, {}),
    'schedule.power': (1., {'schedule.kind': 'polynomial'}), 'schedule.milestones': ([.2, .4], {'schedule.kind': 'step'}), 'schedule.cycles': (2, {'schedule.kind': 'cyclical'}),
    'schedule.patience': (1, {'schedule.kind': 'plateau'}), 'schedule.factor': (.1, {'schedule.kind': 'plateau'}),
    'ema.kind': ('ema', {}), 'ema.decay': (.5, {'ema.kind': 'ema'}), 'ema.use_warmup': (False, {'ema.kind': 'ema'}), 'ema.start': (.2, {'ema.kind': 'swa'}), 'ema.every': (3, {'ema.kind': 'ema'}),
    'clip.kind': ('value', {}), 'clip.threshold': (.2, {}), 'clip.window': (10, {'clip.kind': 'percentile'}),
    'accumulate': (2, {}), 'label_smoothing': (.1, {}), 'token_dropout': (.1, {}), 'perturb': (.05, {}), 'perturb_steps': (2, dict(perturb=.05)),
    'curriculum.by': (['length'], dict(steps=900)), 'curriculum.pacing': ('step', {'curriculum.by': ['complexity'], 'steps': 900}), 'curriculum.start': (.6, {'curriculum.by': ['complexity'], 'steps': 900}),
    'curriculum.epochs': (3, {'curriculum.by': ['complexity'], 'steps': 900}), 'curriculum.min_improvement': (.3, {'curriculum.by': ['complexity'], 'curriculum.pacing': 'adaptive', 'steps': 900}),
    'curriculum.limits': (dict(complexity=[.1, .9]), {'curriculum.by': ['complexity'], 'steps': 900}),
    # fields of the model; there the baseline is a model with three layers
    **{f'model_overrides.{k}': (v, {}) for k,v in dict(d_model=16, n_layers=2, n_heads=2, d_ff=24, attention='hierarchical', checkpoint=True, features=['roll', 'age', 'echo', 'beat'], keyboard=0, layer_embeddings=True, embedding='wave', feed_forward='wave').items()},
    'model_overrides.waves': (6, {'model_overrides.embedding': 'wave'}), 'model_overrides.harmonics': (2, {'model_overrides.embedding': 'wave'}),
    'model_overrides.window': (8, {'model_overrides.attention': 'sliding_window'}), 'model_overrides.block': (16, {'model_overrides.attention': 'hierarchical', 'model_overrides.summary': 4}),
    'model_overrides.summary': (2, {'model_overrides.attention': 'hierarchical', 'model_overrides.block': 8}),
    **{f'model_overrides.{k}': (v, vae) for k,v in dict(latent=[8, 4, 2], regions=[1, 4, 8], prior='flow', encoder_layers=2, free_bits=30., word_dropout=.5, skip=False).items()},
    **{f'model_overrides.{k}': (v, gan) for k,v in dict(critic_width=16, critic_layers=1, critic_weights=[1., 0., 0.], critic_dropout=.5).items()},
    **{f'optimizer.lr_scales.{p}': (.5, {}) for p in model_parts if p != 'latent'}, 'optimizer.lr_scales.latent': (.5, vae),
    'losses.decorrelation': (1., dict(vae, batch_size=4)), 'losses.orthogonality': (1., dict(vae, batch_size=4))}

# keys that change where or how a run is made, not what is built: each is shown elsewhere
OUTSIDE = dict(
    data='test_training',
    resume='test_resume',
    workers='520_data.store',
    device='020_device',
    out='test_cli',
    compile='670_models.compiled',
    gpus='980_commands.workers',
    nodes='980_commands.workers',
    node_rank='980_commands.workers',
    master_addr='980_commands.workers',
    shard='788_train.parallel',
    track='066_experiments.tracking',
    samples_every='868_monitor.tracked_samples',
)
EVERY_COMMAND = dict.fromkeys(('tags', 'group', 'notes', 'log_level', 'dry_run'), '965_commands.run_keys')
OUTSIDE |= EVERY_COMMAND
OUTSIDE |= {
    'loader.workers': '500_data.readers',
    'loader.conditions': 'test_conditions',
    'model_overrides.conditions': 'test_conditions',
    'model_overrides.condition_dropout': '971_commands.model_setup',
    'loader.corpus_weights': '535_data.mixture',
    'loader.balance_by': '575_data.loaders',
    'loader.balance_power': '575_data.loaders',
    'curriculum.order': '764_train.curriculum',
    'fit_batch': 'test_memory',
    'model_overrides.codec': '405_tokens.codec',
    'model_overrides.infilling': '627_models.infill_roles',
}


def leaves(cls, at=''):
    "The dotted keys that can be set, without those of groups."
    names = list(describe_keys(cls))
    return [at + n for n in names if not any(m.startswith(f'{n}.') for m in names)]


def keys_of_training():
    "All keys of a training, including those of the model and of the learning rates of its parts."
    keys = set(leaves(TrainConfig)) - {'model_overrides'}
    return (
        keys
        | {f'model_overrides.{k}' for k in ModelConfig.model_fields if k not in ('mode', 'dropout')}
        | {f'optimizer.lr_scales.{p}' for p in model_parts}
    )


def test_every_key_has_its_place():
    "Every key of a training is in one of the two tables."
    placed = set(TRAIN) | set(OUTSIDE)
    assert not (
        new := keys_of_training() - placed
    ), f'{sorted(new)}: what do these change? Give them a line in tests/test_keys.py'
    extra = {'losses.decorrelation', 'losses.orthogonality'}
    assert not (gone := placed - keys_of_training() - extra), f'{sorted(gone)} are no longer keys'
    assert not set(TRAIN) & set(OUTSIDE)
    for key,where in OUTSIDE.items():
        files = [*root.glob(f'nbs/{where}.ipynb'), *root.glob(f'tests/{where}.py')]
        assert files and key.rpartition('.')[2] in files[0].read_text(), f'{where} does not show {key}'


# ---- what a training is built from
@pytest.fixture(scope='module')
def world(midi, tmp_path_factory):
    "A store, presets, a teacher, and the base of all configurations."
    from symusic import Score
    from aurl.data.store import prepare
    work = tmp_path_factory.mktemp('keys')
    (work / 'music').mkdir()
    for i,path in enumerate(sorted(midi.glob('*.mid'))):                     # every other piece without a meter
        score = Score(path)
        if i % 2: score.time_signatures.clear()
        for t in score.tracks: t.notes = t.notes.filter(lambda n: n.start < 480*(14 + 2*i))   # of several lengths
        score.dump_midi(work / 'music' / path.name)
    store = prepare(work / 'music', work / 'store', workers=0, measures='aurl.data.windows:bar_lines')
    small = 'd_model: 8\nn_layers: 3\nn_heads: 1\nlatent: [4, 2, 0]\nregions: [1, 2, 4]\ncritic_width: 8\nencoder_layers: 1\n'
    (work / 'small.yaml').write_text(small)
    (work / 'other.yaml').write_text(small.replace('n_layers: 3', 'n_layers: 1'))
    (work / 'held.txt').write_text(store.names[3])
    words = dict(HELD=work / 'held.txt', OTHER=work / 'other.yaml', TEACHER=work / 'teacher')
    MusicTransformerVAEGAN.from_preset(str(work / 'small.yaml')).save_pretrained(work / 'teacher')
    base = {
        'data': str(store.path),
        'model': str(work / 'small.yaml'),
        'length': 32,
        'batch_size': 4,
        'valid': 0.34,
        'workers': 0,
        'steps': 100,
        'out': str(work / 'runs'),
        'dtype': 'fp32',
        'device': 'cpu',
        'resume': 'no',
    }
    return SimpleNamespace(store=store, base=base, words={k:str(v) for k,v in words.items()}, work=work)


def asked(world, values, cls=None):
    "A configuration, and the keys that were given."
    put = lambda v: world.words.get(v, v) if isinstance(v, str) else v
    values = {k:put(v) for k,v in values.items()}
    together = {}
    for k,v in values.items(): together = merge(together, nest_keys({k: v}))
    return make_config(cls or TrainConfig, overrides=merge(world.base, together)), given_keys(together)


def digest(x):
    "A short hash of tensors, arrays and plain values."
    h = hashlib.sha256()

    def add(v):
        if isinstance(v, torch.Tensor): v = v.detach().numpy()
        if isinstance(v, np.ndarray): h.update(str(v.shape).encode() + np.ascontiguousarray(v).tobytes())
        elif isinstance(v, dict): [add([k, w]) for k,w in sorted(v.items(), key=str)]
        elif isinstance(v, (list, tuple, set)):
            h.update(b'(')
            [add(w) for w in v]
            h.update(b')')
        else: h.update(repr(v).encode())
    add(x)
    return h.hexdigest()[:12]


@lru_cache(None)
def model_print(text):
    "A hash of the output, gradients and stored activations of a model."
    seed_everything(0)
    model = MusicTransformerVAEGAN(make_config(ModelConfig, overrides=json.loads(text)))
    torch.manual_seed(1)
    ids = torch.randint(5, 700, (3, 64))
    ids[:,0], kept = vocab.START, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        out = model.train()(ids)
        loss = out.logits.square().mean() + (out.kl.loss if out.kl is not None else 0)
        if model.critic is not None: loss = loss + model.critic(ids).score().sum()
    return digest(
        [
            loss,
            sum(kept),
            [tuple(p.shape) for p in model.parameters()],
            [n for n, _ in model.named_parameters()],
            out.logits,
        ]
    )


def plain(cb):
    "The plain values of a callback; schedules and windows are compared by their effect."
    simple = (
        lambda v: isinstance(v, (int, float, str, bool))
        or v is None
        or isinstance(v, (list, tuple, dict))
        and all(map(simple, v.values() if isinstance(v, dict) else v))
    )
    # `config` of a checkpoint is that of the model
    out = {
        k: v
        for k, v in vars(cb).items()
        if simple(v) and k not in ('since', 'began', 'mark', 'last_check', 'last_time', 'learn', 'path', 'config', 'state')
    }
    for name in ('how', 'options'):
        if isinstance(getattr(cb, name, None), Config): out[name] = getattr(cb, name).flat()
    if hasattr(cb, 'schedule') and hasattr(cb.schedule, 'every'):
            out['schedule'] = cb.schedule.every or cb.schedule.share
    if hasattr(cb, 'tracker') and hasattr(cb.tracker, 'weights'): out['weights'] = cb.tracker.weights
    return type(cb).__name__, out


def stepping(cb, n=14):
    "The effect of a callback on the gradient of two weights in `n` steps, and the average that it keeps."
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad(): model.weight.fill_(1.)
    learn = SimpleNamespace(
        model=model, opt=SimpleNamespace(param_lists=[list(model.parameters())]), cbs=[], pct_train=0.0, train_iter=0
    )
    cb, seen = type(cb)(cb.config), []
    cb.learn = learn
    if isinstance(cb, WeightAveraging): cb.before_fit()
    for i in range(n):
        learn.pct_train = i/n
        if isinstance(cb, WeightAveraging):
            with torch.no_grad(): model.weight.add_(1.)
            cb.after_step()
            seen.append(next(cb.averaged.module.parameters()).clone())
        else:
            model.weight.grad = torch.tensor([[1., 2., 3.]])*(i + 1)
            cb.before_step()
            seen.append(model.weight.grad.clone())
    return torch.stack(seen)


def curve(rate):
    "The learning rate over a training, and the effect of a plateau on it."
    cb = LRScheduler(rate.schedule)
    cb.learn, out = SimpleNamespace(), [rate.schedule.at(i/300) for i in range(301)]
    for nats in (3., 2., 2., 2., 2., 2., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.):
        cb.learn.valid_nats = nats
        cb.after_validate()
        out.append(cb.lr_multiplier(.5))
    return out


def windows(loader):
    "The batches of a loader in a few epochs, and the growth of its windows."
    epochs, curriculum = range(0, 24), getattr(loader, 'curriculum', None)
    out = [loader._length(e) for e in epochs] + (
        [loader.open_pieces(e) for e in epochs] + [curriculum.min_improvement if curriculum.pacing == 'adaptive' else 0]
        if curriculum is not None
        else []
    )
    for e in (0, 4):
        plan = loader.plan(e)
        ids = [loader.batch(i, e) for i in range(min(3, len(loader)))]
        out += [plan, [[b[0], b[-1]] for b in ids]]
    return out


def beta(cb): return [[cb.beta.at(i/100, 40.) for i in range(101)]]
def ramps(cb): return {n:[w.at(i/50) for i in range(51)] for n,w in cb.weights.items()}


def optimized(learn):
    "The weights after two steps along a known gradient."
    learn.create_opt()
    torch.manual_seed(2)
    for _ in range(2):
        for p in learn.model.parameters(): p.grad = torch.randn(p.shape)
        learn.opt.set_hypers(lr=learn.lr)
        learn.opt.step()
    return [p.detach() for p in learn.model.parameters()]


def built(cfg, world):
    "What a training of `cfg` is built from: the learner and the options of `train_run`."
    if cfg.stages: return dict(stages=digest([(s.name, s.cfg.steps) for s in parse_stages(cfg)]))
    net = build_model_config(cfg)
    sides = train_valid_split(world.store, cfg.valid, cfg.seed, cfg.split)
    learn, told = build_learner(cfg, world.store, *sides), {}

    def fit(**kwargs):
        told.update(kwargs, deterministic=torch.are_deterministic_algorithms_enabled())
        return 1.
    learn.fit_budget, run = fit, SilentRun()
    try: train_run(learn, run, cfg)
    finally: run.close()
    learn.valid_nats, learn.measures = 2., dict(grammar=.5)
    cbs = [
        c
        for c in [*learn.cbs, *told['cbs']]
        if type(c).__name__ not in ('TrainEvalCallback', 'Recorder', 'CastToTensor', 'ProgressCallback')
    ]
    out = dict(
        model=model_print(json.dumps(net.to_dict())),
        windows=digest(windows(learn.dls.train)),
        held=digest(windows(learn.dls.valid)),
        smoothing=learn.loss_func.label_smoothing,
        budget=[told['steps'], told['minutes'], told['log_every'], told['deterministic']],
        score=told['score_fn'](learn) if told['score_fn'] else 2.0,
        sides=digest(sides),
    )
    for c in cbs:
        name, values = plain(c)
        out[name] = digest(values)
        if isinstance(c, (GradientClipping, WeightAveraging)): out[name + ' acts'] = digest(stepping(c))
        if isinstance(c, LRScheduler): out['curve'] = digest(curve(c))
        if isinstance(c, KLLoss): out['beta'] = digest(beta(c))
        if isinstance(c, MusicLosses): out['losses'] = digest(ramps(c))
        if type(c).__name__ == 'Distill': out['distill'] = repr(c.weights if hasattr(c, 'weights') else vars(c))
    return out | dict(optimizer=digest(optimized(learn)))


_seen = {}


def what_is_built(cfg, world):
    "`built`, cached by configuration."
    key = json.dumps(cfg.to_dict(), sort_keys=True)
    if key not in _seen: _seen[key] = built(cfg, world)
    return _seen[key]


def refusal(check):
    "The error message of a check; '' if it accepts."
    try: check()
    except ConfigError as e: return str(e)
    return ''


def checked(cfg, said):
    "The checks of `aurl train`, without those of the data and the disk."
    for c in [s.cfg for s in parse_stages(cfg)] or [cfg]:
        mode = build_model_config(c).mode
        validate_options(c, mode)
        check_distributed(c, mode)
        check_loader(build_loader_config(c, mode), c.length, (-c.transpose, c.transpose))
    check_keys(cfg, said)


def tried(world, values):
    "The configuration, and the message with which it is refused."
    try: cfg, said = asked(world, values)
    except ConfigError as e: return None, str(e)
    return cfg, refusal(lambda: checked(cfg, said))


def named(words, key): return any(p in words for p in key.split('.'))


@pytest.mark.parametrize('mode', modes)
def test_alone_it_acts_or_is_refused(world, mode):
    """Each key alone, in each mode, changes what is built or is refused; keys that a mode does not affect are built
    once."""
    idle, silent = [], []
    plain_mode = what_is_built(asked(world, dict(mode=mode))[0], world)
    for key,(value,_) in TRAIN.items():
        if key in ('mode', 'stages'): continue
        cfg, words = tried(world, {'mode': mode, key: value})
        if words:
            if not named(words, key) or '→' not in words: silent.append(f'{key}: {words}')
        elif (
            mode == 'transformer'
            or key.partition('.')[0] in ('latent', 'latent_windows', 'adversarial', 'model_overrides')
            or key in ('loader.default_bar_quarters', 'batch_size', 'losses.decorrelation')
        ):
            try: now = what_is_built(cfg, world)
            except AurlError as e:
                now = None if '→' in str(e) else silent.append(f'{key}: {e}')  # the music does not allow it
            if now == plain_mode: idle.append(key)
    assert not idle, f'accepted in mode={mode}, and nothing that is built is different: {idle}'
    assert not silent, f'refused in mode={mode} but the message does not name the key: {silent}'


def test_with_what_it_needs_it_acts(world):
    "Each key, with the keys that it needs, is accepted and changes what is built."
    idle, refused = [], []
    for key,(value,more) in TRAIN.items():
        cfg, words = tried(world, {**more, key: value})
        if words:
            refused.append(f'{key}: {words}')
            continue
        try: before = what_is_built(asked(world, more)[0], world)
        except ConfigError: before = what_is_built(asked(world, {})[0], world)   # kind=steps, for one, needs its steps
        try:
            if what_is_built(cfg, world) == before: idle.append(key)
        except AurlError as e: refused.append(f'{key}: {e}')
    assert not refused, refused
    assert not idle, f'nothing that is built is different with {idle}'


def test_the_proof_can_fail(world):
    "Keys without effect do not change what is built, so the tests above would find them."
    for key, value in {
        'ema.decay': 0.5,
        'schedule.power': 5.0,
        'clip.window': 20,
        'latent.cycles': 9,
        'curriculum.min_improvement': 0.5,
        'perturb_steps': 4,
        'model_overrides.window': 7,
        'loader.grow_epochs': 2,
    }.items():
        assert what_is_built(asked(world, {key: value})[0], world) == what_is_built(asked(world, {})[0], world), key


def test_losses_over_pieces_need_three_of_them():
    "The losses over pieces have a gradient from three pieces on, as the rule about `losses.decorrelation` states."
    from aurl.losses.base import losses
    for rows in (2, 4):
        z = torch.randn(rows, 1, 6, requires_grad=True)
        levels = dict(a=slice(0, 3), b=slice(3, 6)).items()
        posteriors = {k: SimpleNamespace(mean=z[..., s]) for k, s in levels}
        h = SimpleNamespace(output=SimpleNamespace(z=z, posteriors=posteriors))
        for name in ('decorrelation', 'orthogonality'):
            f = {'decorrelation': losses[name].f if hasattr(losses[name], 'f') else None}.get(name) or getattr(
                __import__('aurl.losses.latent_penalties', fromlist=['x']), f'{name}_loss'
            )
            g, = torch.autograd.grad(f(h), z)
            assert bool(g.any()) == (rows >= 3), (name, rows)


# ---- keys that were given, and keys that were only present
def test_defaults_and_saved_keys_are_accepted(world):
    "Keys of a saved configuration, a preset or a resumed run are not refused, nor is a default that is given."
    for mode in modes:
        for key,(value,_) in TRAIN.items():
            if key == 'loader.infill' and mode != 'transformer': continue                 # refused in modes with a latent
            if key == 'model_overrides.embedding' and mode == 'vae_gan': continue         # refused with a critic
            try: cfg, said = asked(world, {key: value, 'mode': mode} if key != 'mode' else {key: value})
            except ConfigError: continue
            check_keys(cfg, {'mode'})
    plain = make_config(TrainConfig, overrides=world.base)
    check_keys(plain, {k for k in plain.flat()})


def test_the_command_refuses_before_a_run_begins(world):
    "A key without effect is refused before a run directory is created."
    from aurl.cli import run_command
    out = world.work / 'never'
    items = [f'{k}={v}' for k,v in {**world.base, 'out': out}.items()]
    with pytest.raises(ConfigError, match='ema.decay=0.5 has no effect: ema.kind=none'):
        run_command('train', [*items, 'ema.decay=0.5'])
    assert not out.exists()


STAGE = dict(
    name=('b', {}),
    share=(0.5, {}),
    steps=(5, {}),
    minutes=(2.0, {}),
    target_loss=(1.0, {}),
    patience=(3, {}),
    min_improvement=(0.1, dict(patience=3)),
)


def test_keys_of_a_stage(world):
    "Each key of the end of a stage has an effect, or is refused without the key that it needs."
    assert set(STAGE) == set(StageEnd.model_fields), 'a new key of a stage needs its place in tests/test_keys.py'
    for key,(value,more) in STAGE.items():
        alone = refusal(lambda: check_keys(*asked(world, dict(stages=[dict(name='a') | {key: value}]))))
        assert bool(alone) == bool(more) and (not alone or f'{key}={value} has no effect' in alone), (key, alone)
        assert not refusal(
            lambda: check_keys(*asked(world, dict(stages=[dict(name='a') | more | {key: value}])))
        ), key
    assert 'share=0.5 has no effect' in refusal(
        lambda: check_keys(*asked(world, dict(stages=[dict(name='a', share=0.5, steps=9)])))
    )

def test_keys_of_the_run_in_a_stage(world):
    "Keys of the whole run, under present and former names, are refused in a stage."
    assert set(_run_keys) <= set(TrainConfig.model_fields), 'the list in 770_train.stages has a key that does not exist'
    for key in (*_run_keys, 'keep', 'node', 'meet'):
        cfg = make_config(TrainConfig, overrides=world.base | dict(stages=[{'name': 'a', key: 1}]))
        assert f'{key} belongs to the whole run' in refusal(lambda: parse_stages(cfg)), key


# ---- many trainings
def in_sweep(world, key, value):
    "The message with which a sweep refuses a key of its trainings."
    cfg, said = asked(world, {key: value})
    base = merge(world.base, {k: v for k,v in cfg.to_dict().items() if k in {s.partition('.')[0] for s in said}})
    base = dict(checkpoint_every=200) | base                                # the default of a sweep is 0
    sweep = make_config(COMMANDS['sweep'].config_cls, overrides=dict(train=base, space=dict(valid=[.3, .4])))
    return refusal(lambda: check_sweep_keys(sweep, {f'train.{k}' for k in said}))


def test_a_sweep_refuses_what_its_training_refuses(world):
    "A sweep refuses exactly the keys that a training refuses."
    for key,(value,_) in TRAIN.items():
        if key in ('stages', 'valid'): continue
        try: cfg, said = asked(world, {key: value})
        except ConfigError:
            continue  # the value is valid only together with another key
        alone = refusal(lambda: check_keys(cfg, said))
        words = in_sweep(world, key, value)
        assert bool(words) == bool(alone) and (not words or words.startswith(f'train.{key}')), (key, alone, words)
    for key in ('out', 'resume'):
        assert f'train.{key}' in refusal(
            lambda: check_sweep_keys(
                make_config(
                    COMMANDS['sweep'].config_cls,
                    overrides=dict(train=merge(world.base, {key: 'here'}), space=dict(lr=[0.1])),
                ),
                {f'train.{key}'},
            )
        )


def reads(name):
    "The keys that the commands read from their configuration: `cfg.KEY`."
    text = (
        (root / 'nbs' / 'runs' / f'{name}.ipynb').read_text()
        + ''.join(p.read_text() for p in (root / 'aurl').glob('*.py'))
        + ''.join(p.read_text() for p in (root / 'aurl' / 'commands').glob('*.py'))
    )
    return set(re.findall(r'\b(?:cfg|\w+_cfg|asked)\.(\w+)', text)) | set(re.findall(r"'(\w+)'", text))


@pytest.mark.parametrize('name', ['song', 'evaluate', 'latent', 'sweep', 'ablation', 'scaling', 'compare', 'study'])
def test_every_key_is_read(name):
    "Each key of these commands is read; those that depend on other keys have a rule in `970_commands.key_rules`."
    read, keys = reads(name), {k.partition('.')[0] for k in leaves(COMMANDS[name].config_cls)}
    assert not (unread := keys - read), f'nobody reads {sorted(unread)}'
    assert 'no_such_key' not in read


# ---- preparing music
strict, styled, cleaned = (
    {'cleaning.quantize.mode': 'strict'},
    {'cleaning.velocity.mode': 'style_preserving'},
    {'cleaning.velocity.mode': 'global'},
)
PREPARE = {
    'phrase_bars': (2, {}),
    'min_notes': (9, {}),
    'min_quality': (0.2, {}),
    'min_seconds': (1.0, {}),
    'max_seconds': (90.0, {}),
    'max_density': (9.0, {}),
    'max_silence': (0.5, {}),
    'keep': (['notes > 3'], {}),
    'voices': ('apart', {}),
    **{
        f'phrase.{k}': (v, dict(phrase_bars=2))
        for k, v in dict(
            stride_bars=1,
            quarters_per_bar=3.0,
            tempo=90.0,
            track='two',
            grid='16th',
            equal_velocity=True,
            extend_last=True,
            min_notes=45,
        ).items()
    },
    'cleaning.quantize.mode': ('strict', {}),
    **{
        f'cleaning.quantize.{k}': (v, strict)
        for k, v in dict(grid='8th', strength=0.5, microtiming=1.0, swing=0.66, phase=0.1, note_ends='keep').items()
    },
    'cleaning.quantize.align': (True, strict | {'cleaning.quantize.phase': 0.1}),
    'cleaning.polyphony.mode': ('velocity', {}),
    'cleaning.polyphony.voices': (3, {'cleaning.polyphony.mode': 'velocity'}),
    'cleaning.velocity.mode': ('global', {}),
    **{
        f'cleaning.velocity.{k}': (v, cleaned)
        for k, v in dict(low=30, high=100, mean=50.0, std=9.0, curve='exponential').items()
    },
    **{
        f'cleaning.velocity.{k}': (v, styled)
        for k, v in dict(phrase_level_std=1.0, pause=0.2, min_phrase_notes=20, smoothing=1.0).items()
    },
}
PREPARE_OUTSIDE = dict(
    data='310_corpus.corpus',
    dest='520_data.store',
    table='310_corpus.corpus',
    table_extra='310_corpus.corpus',
    folder_pattern='310_corpus.corpus',
    duplicates='969_commands.preparation',
    workers='520_data.store',
    dask='proofs/cluster',
    overwrite='520_data.store',
    out='967_commands.run_folder',
    **EVERY_COMMAND,
)


def performance():
    "Two tracks of uneven timing with chords, phrases and changes of dynamics."
    from symusic import Note, Score, TimeSignature, Track
    rng, score = np.random.default_rng(0), Score(480)
    score.time_signatures.append(TimeSignature(0, 4, 4))
    for name in ('one', 'two'):
        track = Track(name=name)
        for bar in range(12):
            for k in range(6 if bar % 3 else 2):
                at = 1920*bar + 240*k + int(rng.normal(0, 22)) + 30
                for p in range(8 if k == 0 else 1):
                    track.notes.append(
                        Note(
                            max(0, at), int(rng.integers(60, 230)), 50 + 3 * p + k, int(rng.integers(30, 60)) + 3 * bar
                        )
                    )
        score.tracks.append(track)
    return score


def prepared(cfg):
    "The score after cleaning, and the arguments of the store."
    from aurl.score.clean import clean
    from aurl.corpus.phrases import cut_phrases
    notes = lambda s: [(t.name, sorted((n.time, n.duration, n.pitch, n.velocity) for n in t.notes)) for t in s.tracks]
    told = {k:v for k,v in prepare_kwargs(cfg).items() if k != 'clean'}
    cut = cut_phrases(performance(), cfg.phrase_bars, **cfg.phrase.to_dict()) if cfg.phrase_bars else []
    return digest(
        [notes(clean(performance(), cfg.cleaning)), [(i, notes(s), [t.qpm for t in s.tempos]) for i, s in cut], told]
    )


def test_keys_of_prepare(tmp_path):
    "Each key of `aurl prepare` changes the result, or is refused with the reason."
    cls = PrepareConfig
    assert set(leaves(cls)) == set(PREPARE) | set(
        PREPARE_OUTSIDE
    ), 'a new key of aurl prepare needs its place in tests/test_keys.py'
    world = SimpleNamespace(base={}, words={})
    alone_idle, idle = [], []
    for key,(value,more) in PREPARE.items():
        cfg, said = asked(world, {key: value}, cls)
        words = refusal(lambda: check_keys(cfg, said))
        if words: assert f'{key}=' in words and '→' in words
        elif prepared(cfg) == prepared(cls()): alone_idle.append(key)
        cfg, said = asked(world, {**more, key: value}, cls)
        check_keys(cfg, said)
        if prepared(cfg) == prepared(asked(world, more, cls)[0]): idle.append(key)
    assert not alone_idle, f'accepted, and nothing is different: {alone_idle}'
    assert not idle, f'nothing is different with {idle}'
    for mode,keys in dict(adaptive=['grid', 'phase'], strict=['align']).items():
        for k in keys:
            assert refusal(
                lambda: check_keys(
                    *asked(
                        world,
                        {
                            'cleaning.quantize.mode': mode,
                            f'cleaning.quantize.{k}': PREPARE[f'cleaning.quantize.{k}'][0],
                        },
                        cls,
                    )
                )
            ), k
    (tmp_path / 'x').mkdir()
    extra = lambda: refusal(lambda: check_keys(*asked(world, dict(table_extra=True, data=str(tmp_path / 'x')), cls)))
    assert 'there is no table' in extra()
    (tmp_path / 'x' / 'metadata.csv').write_text('file,composer\n')
    assert not extra()
    assert 'workers=5 has no effect' in refusal(
        lambda: check_keys(*asked(world, dict(workers=5, dask='tcp://there:8786'), cls))
    )


# ---- generating
piece, two = dict(prompt='PIECE'), dict(like='PIECE')
# a beam search in which pieces end early: among few ids, END is probable
few_ids = {vocab.END, vocab.note_on(60), vocab.note_off(60), vocab.time_shift(8), vocab.velocity(64)}
searched = {'num_beams': 4, 'bad_words_ids': [[i] for i in range(4, len(vocab)) if i not in few_ids], 'profile.on': False}
GENERATE = {
    'pieces': (1, {}),
    'prompt': ('PIECE', {}),
    'prompt_seconds': (1.0, piece),
    'infill.bars': ([1, 1], piece),
    'infill.seconds': ([0.5, 1.0], piece),
    'infill.voices': ('upper', piece),
    'like': ('PIECE', {}),
    'spread': (0.9, two),
    'between': ('PAIR', {}),
    'min_tokens': (90, {'profile.notes': [1, 3]}),
    'max_tokens': (64, {}),
    'mask': (False, {}),
    'profile.on': (False, {}),
    **{
        f'profile.{k}': (v, {})
        for k, v in dict(
            families=['Bass'],
            pitch=[60, 64],
            note_seconds=0.1,
            rest_seconds=0.05,
            pedal_seconds=5.0,
            voices=1,
            tempo=[60.0, 62.0],
            seconds=[0.1, 0.5],
            notes=[1, 4],
            margin=30.0,
        ).items()
    },
    'profile.start_seconds': (0.0, {'profile.rest_seconds': 3.0, 'temperature': 5.0, 'top_p': 1.0}),
    'temperature': (0.3, {}),
    'top_k': (2, {}),
    'top_p': (0.3, {}),
    'min_p': (0.97, {}),
    'temperatures': (dict(note=0.0, time=0.0), {}),
    'typical_p': (0.05, {}),
    'epsilon_cutoff': (0.9, {}),
    'eta_cutoff': (0.9, {}),
    'mirostat_tau': (0.5, {}),
    'mirostat_eta': (0.9, dict(mirostat_tau=3.0)),
    'repetition_penalty': (50.0, {}),
    'repetition_window': (3, dict(repetition_penalty=50.0)),
    'no_repeat_ngram_size': (1, {}),
    'bad_words_ids': ([[int(vocab.time_shift(i))] for i in range(1, 500)], {}),
    'num_beams': (4, {}),
    'length_penalty': (-8.0, searched),
    'early_stopping': (True, searched | dict(length_penalty=3.0)),
    'force_words_ids': ([[int(vocab.note_on(72))]], dict(num_beams=4)),
    'precision': ('int8', {}),
    'repair': (True, dict(mask=False)),
    'programs': ('first', piece),
    'meter': ('3/4', {}),
    'key': ('G major', {}),
    'title': ('a tune', {}),
    **{f'write.{k}': (v, {}) for k, v in dict(resolution=96, quantize='quarter', swing=0.66, humanize=0.05).items()},
    'write.merge_rests': ('quarter', piece),
    'write.legato': (True, piece),
    'seed': (3, {}),
    'constraints': (dict(key='C# blues'), {}),
    'reference': ('PIECE', {}),
    'length.bars': (0.5, {}),
    'length.seconds': (1.5, {}),
    'length.meter': ('3/4', {'length.bars': 0.5}),
    'length.hold': (0.25, {'length.seconds': 1.5}),
    'length.tonic': (1.0, {'length.seconds': 3.0, 'temperature': 5.0, 'top_p': 1.0}),
}
GENERATE_OUTSIDE = dict(
    novelty='976_commands.samples', check_originality='981_commands.sample_originality',
    novelty_data='976_commands.samples',
    conditions='test_conditions', guidance='test_conditions', model='782_train.saved_models', device='020_device',
    out='967_commands.run_folder',
    **EVERY_COMMAND,
)


@pytest.fixture(scope='module')
def players(world):
    "A model of each kind, and music for prompts."
    for mode in ('transformer', 'vae'):
        # the transformer has learned to fill gaps
        cfg = asked(world, dict(mode=mode) | ({'loader.infill': 0.5} if mode == 'transformer' else {}))[0]
        learn = build_learner(cfg, world.store, *train_valid_split(world.store, cfg.valid, cfg.seed, cfg.split))
        learn.model.save_pretrained(world.work / mode)
    files = [str(world.work / 'music' / f'piece{i}.mid') for i in (0, 3)]
    return SimpleNamespace(
        base=dict(max_tokens=96, pieces=2, device='cpu', top_p=1.0),
        words=dict(PIECE=files[0], PAIR=','.join(files)),
        work=world.work,
    )


def played(cfg, work):
    "The files that the notebook of `aurl generate` would write."
    from aurl.generate.sampling import generate_ids
    net, where = find_model(cfg.model, cfg.out)
    check_sampling(cfg, net, where)
    cfg, opening, _ = with_reference(cfg, net)
    files = file_options(cfg, net)
    processors = requested_processors(cfg, where)
    ids = fill_prompt(net, cfg, files, processors) if cfg.infill.on else generate_ids(
        net,
        n=cfg.pieces,
        min_tokens=cfg.min_tokens,
        max_tokens=cfg.max_tokens,
        prompt=prompt_ids(files) if files.prompt else opening,
        seed=cfg.seed,
        mask=cfg.mask,
        profile=cfg.profile,
        precision=cfg.precision,
        z=requested_latents(net, cfg),
        constraints=cfg.constraints,
        length=requested_length(cfg),
        processors=processors,
        **sampling_options(cfg),
    )
    if cfg.repair: ids = repair_pieces(ids, lambda line: None)
    out = []
    for i,x in enumerate(ids):
        if not cfg.mask and not cfg.repair:
            out.append(x)
            continue
        score, told = files.score(x, f'{i}')
        out += [x, files.write_file(score, work / 'x.mid', told['title']).read_bytes()]
    return digest(out)


@pytest.mark.parametrize('kind', ['transformer', 'vae'])
def test_keys_of_generate(players, kind):
    "Each key of `aurl generate` changes the files, or is refused with the reason."
    cls, model = GenerateConfig, dict(model=str(players.work / kind))
    assert set(leaves(cls)) == set(GENERATE) | set(
        GENERATE_OUTSIDE
    ), 'a new key of aurl generate needs its place in tests/test_keys.py'
    idle, silent, seen = [], [], {}
    of_the_music = 'min_tokens', 'profile.start_seconds', 'write.merge_rests', 'write.legato'
    def sound(values):
        cfg, said = asked(players, {**model, **values}, cls)
        check_keys(cfg, said)
        return (
            seen.setdefault(json.dumps(cfg.to_dict()), None)
            or seen.update({json.dumps(cfg.to_dict()): played(cfg, players.work)})
            or seen[json.dumps(cfg.to_dict())]
        )
    for key,(value,more) in GENERATE.items():
        # the effect of these keys depends on the music
        for beside in (more,) if key in of_the_music else ({}, more) if more else ({},):
            try:
                if sound({**beside, key: value}) == sound(beside): idle.append((key, beside))
            except AurlError as e:
                if (
                    not (named(str(e), key) or 'latent' in str(e))
                    or not re.search('→|say |leave ', str(e))
                    or (beside and kind == 'vae' and not key.startswith('infill'))    # a latent excludes infilling
                ):
                    silent.append(f'{key} with {beside}: {e}')
    assert not idle, f'accepted, and the files are the same: {idle}'
    assert not silent, silent


def test_greedy_generation_refuses_sampling_keys(players):
    "With temperature=0, keys of sampling are refused, and `seed` unless something else is sampled."
    for kind, more, drawn in [
        ('transformer', {}, False),
        ('vae', {}, True),
        ('vae', dict(like='PIECE', spread=0), False),
        ('transformer', {'write.humanize': 0.1}, True),
    ]:
        for key,value in dict(seed=3, top_k=2, top_p=.5, min_p=.5).items():
            words = refusal(
                lambda: check_keys(
                    *asked(
                        players,
                        {'model': str(players.work / kind), 'temperature': 0, **more, key: value},
                        GenerateConfig,
                    )
                )
            )
            assert bool(words) != (drawn and key == 'seed'), (kind, key, words)


def test_window_of_evaluate(players):
    "`window` is refused for a model with a latent, and accepted otherwise."
    for kind,idle in dict(transformer=False, vae=True).items():
        words = refusal(
            lambda: check_keys(
                make_config(EvaluateConfig, overrides=dict(model=str(players.work / kind), window=99)),
                {'model', 'window'},
            )
        )
        assert bool(words) == idle and ('window=99 has no effect' in words or not idle)


# ---- the run notebooks, whose parameters papermill sets
NOTEBOOK_DEFAULTS = {  # parameters of a notebook that differ from the default of the command, and why
    ('sweep', 'train'): 'a short search that can be read as an example',
    ('sweep', 'space'): 'without a space there is no sweep',
    ('sweep', 'pruner'): 'the example prunes',
    ('sweep', 'trials'): 'the example is short',
    ('ablation', 'variants'): 'the same variants, with the mode of each written out',
    ('study', 'data'): 'the chorales, which every installation has',
    ('study', 'pieces'): 'sixty chorales are studied in a few seconds',
    ('scaling', 'train'): 'the study in the documentation has more music than the chorales',
}


def code_of(name):
    "The code cells of a run notebook; the first one has the parameters."
    cells = json.loads((root / 'nbs' / 'runs' / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert 'parameters' in code[0]['metadata']['tags']
    return [''.join(c['source']) for c in code]


@pytest.mark.parametrize('name', COMMANDS)
def test_every_key_is_a_parameter_of_its_notebook(name):
    "Each key is a parameter of the notebook with the default of the command, and no import replaces it."
    cls, code, names = COMMANDS[name].config_cls, code_of(name), {}
    exec(code[0], names)
    given = {k: names[k] for k in cls.model_fields if k in names}
    assert not (missing := [k for k in cls.model_fields if k not in given]), f'nbs/runs/{name}.ipynb lacks {missing}'
    cfg, default = make_config(cls, overrides=given), cls()
    differs = {(name, k) for k in cls.model_fields if getattr(cfg, k) != getattr(default, k)}
    assert differs == {place for place in NOTEBOOK_DEFAULTS if place[0] == name}
    for cell in code[1 : next(i for i,c in enumerate(code) if 'config_from(' in c)]: exec(cell, names)
    assert not (gone := [k for k in given if names[k] is not given[k]]), f'an import replaces {gone}'


# ---- a song and an evaluation: the code of their notebooks, which must pass on every key
def executed(name, cfg, **stubs):
    "Execute the code of a run notebook with a configuration; `stubs` replace what it imports."
    names, code = dict(cfg.to_dict(), run_dir=None), code_of(name)
    exec(code[1], names)
    names.update(stubs, display=lambda *args: None, show=lambda *args, **kwargs: None)
    for cell in code[2:]: exec(cell, names)
    return names


class Table:
    "An empty table of likelihoods."
    rows = []
    def conclusion(self, name): return ''
    def __getitem__(self, name): return dict(nats_per_token=1.0, bits_per_note=1.0)


def noted(calls, name, result):
    "A function that records its arguments, except models and runs."
    def call(*args, **kwargs):
        calls.append([name, digest([[a for a in args if isinstance(a, (int, float, list, tuple))], kwargs])])
        return result(*args, **kwargs)
    return call


def stand_ins(world, calls):
    "Replacements for the slow parts of a song or an evaluation."
    tune = world.store[0]
    return dict(
        baseline_table=noted(calls, 'baselines', lambda *args: Table()),
        score_model=noted(calls, 'score', lambda *args, **kwargs: args[0]),
        generate_ids=noted(calls, 'samples', lambda net, n, **kwargs: [tune] * n),
    )


def sung(cfg, world):
    "What a song is built from."
    from aurl.train.learner import music_learner
    calls, told, made = [], {}, {}

    def fit(cbs=(), score_fn=None, previous_best=(), run=None, **kwargs):
        told.update(kwargs, cbs=[plain(c) for c in cbs if type(c).__name__ in ('ValidEvery', 'CheckpointCallback')])
        return 1.0

    def learner(*args, **kwargs):
        made['learn'] = learn = music_learner(*args, **kwargs)
        made['weights'] = digest([p.detach().clone() for p in learn.model.parameters()])
        learn.fit_budget = fit
        return learn
    none = lambda *args, **kwargs: []
    stubs = dict(music_learner=learner, loss_chart=none, write_samples=none, song_report=none, decode=none)
    names = executed('song', cfg, **stand_ins(world, calls), **stubs)
    learn, plan = made['learn'], {k: v for k,v in names['run'].config['plan'].items() if k != 'setup_seconds'}
    loaders = digest(windows(learn.dls.train)), digest(windows(learn.dls.valid))
    return digest([calls, plan, made['weights'], loaders, learn.lr, told])


SONG = {
    'minutes': (1.0, {}), 'steps': (9, {}), 'pieces': (2, {}), 'model': ('OTHER', {}), 'length': (48, {}),
    'start': ('TEACHER', dict(start='none', model='auto')), 'batch_size': (2, {}), 'transpose': (2, {}), 'lr': (.02, {}),
    'valid': (.5, {}), 'valid_every': (5, {}), 'valid_pieces': (1, {}), 'prompt_seconds': (1.0, {}), 'min_tokens': (17, {}),
    'max_tokens': (99, {}), 'temperature': (.5, {}), 'top_p': (.5, {}), 'checkpoint_every': (7, {}), 'seed': (3, {}),
}
SONG_OUTSIDE = dict(
    data='test_cli', resume='test_resume', workers='520_data.store', device='020_device', out='967_commands.run_folder',
    check_originality='981_commands.sample_originality',
    track='066_experiments.tracking', samples_every='868_monitor.tracked_samples', **EVERY_COMMAND,
)


@pytest.mark.parametrize('steps', [30, 0])
def test_keys_of_song(world, monkeypatch, tmp_path, steps):
    "Each key changes what the notebook of `aurl song` trains or generates, with a number of steps and with minutes."
    assert set(leaves(SongConfig)) == set(SONG) | set(SONG_OUTSIDE), 'a new key of aurl song needs its place here'
    monkeypatch.setattr('aurl.commands.song.measure_presets', lambda *args, **kwargs: lambda name: 5000.0)
    base = dict(data=world.base['data'], model=world.base['model'], start='none', length=32, batch_size=4, valid=.34)
    base |= dict(steps=steps, workers=0, device='cpu', resume='no', out=str(tmp_path))
    here, seen = SimpleNamespace(base=base, words=world.words), {}

    def song(values):
        cfg = asked(here, values, SongConfig)[0]
        key = json.dumps(cfg.to_dict())
        if key not in seen: seen[key] = sung(cfg, world)
        return seen[key]
    idle = [key for key,(value, more) in SONG.items() if song({**more, key: value}) == song(more)]
    assert song({}) == sung(asked(here, {}, SongConfig)[0], world)
    assert not idle, f'accepted, and the song is the same: {idle}'


EVALUATE = {
    'data': ('FEW', {}), 'valid': (.5, dict(data='FEW')), 'window': (99, {}), 'pieces': (3, {}), 'max_tokens': (99, {}),
    'seed': (3, {}),
}
EVALUATE_OUTSIDE = dict(
    model='782_train.saved_models', workers='520_data.store', device='020_device', out='967_commands.run_folder',
    **EVERY_COMMAND,
)


@pytest.fixture(scope='module')
def trained(world):
    "The directory of a run with an untrained model, and a store with a few of its pieces."
    from aurl.commands.run_data import open_store
    from aurl.commands.run_folder import create_run
    from aurl.data.store import prepare
    from shutil import copy
    cfg = asked(world, dict(out=str(world.work / 'trained')))[0]
    run = create_run('train', cfg)
    sides = train_valid_split(open_store(cfg.data, 0, run), cfg.valid, cfg.seed, cfg.split)
    build_learner(cfg, world.store, *sides).model.save_pretrained(run.path / 'model')
    run.finish([])
    (world.work / 'few').mkdir()
    for path in sorted((world.work / 'music').iterdir())[:6]: copy(path, world.work / 'few')
    return str(run.path), str(prepare(world.work / 'few', world.work / 'few_store', workers=0).path)


def test_keys_of_evaluate(world, trained, tmp_path):
    "Each key changes what the notebook of `aurl evaluate` measures, or is refused with the reason."
    assert set(leaves(EvaluateConfig)) == set(EVALUATE) | set(EVALUATE_OUTSIDE), 'a new key needs its place here'
    run, few = trained
    base = dict(model=run, workers=0, device='cpu', out=str(tmp_path))
    here = SimpleNamespace(base=base, words=dict(FEW=few))

    def evaluated(values):
        calls, cfg = [], asked(here, values, EvaluateConfig)[0]
        executed('evaluate', cfg, **stand_ins(world, calls), interval_chart=lambda *args, **kwargs: None)
        return digest(calls)
    idle = [key for key,(value, more) in EVALUATE.items() if evaluated({**more, key: value}) == evaluated(more)]
    assert evaluated({}) == evaluated({})
    assert not idle, f'accepted, and nothing else is measured: {idle}'
    words = refusal(lambda: evaluated(dict(valid=.5)))
    assert 'valid=0.5' in words and 'learned from the rest → leave valid out' in words
