"""Conditions, from the metadata table of a folder to generated music: prepare, train, resume and generate by the
command line."""
import numpy as np
import pytest
import torch

from aurl.cli import run_command
from aurl.config import make_config
from aurl.core import ConfigError, rng
from aurl.generate.sampling import generate_ids
from aurl.models.vae_gan import MusicTransformerVAEGAN
from aurl.commands.checks import check_request
from aurl.commands.configs import EvaluateConfig, TrainConfig
from aurl.commands.learner_setup import build_learner
from aurl.commands.run_data import open_store, train_valid_split
from aurl.midi.read import read_midi
from aurl.data.store import prepare
from aurl.tokens.vocab import vocab


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "24 tunes by two composers, one of low and one of high tunes, with a table of the composers."
    from symusic import Note, Score, Tempo, Track
    folder = tmp_path_factory.mktemp('conditions')
    rows = ['file,composer']
    for i in range(24):
        low = i % 2
        score, track, draw = Score(480), Track(), rng(i, 'tune')
        score.tempos.append(Tempo(0, qpm=120))
        for n in range(16): track.notes.append(Note(n * 240, 200, int(draw.integers(0, 8)) + (36 if low else 84), 64))
        score.tracks.append(track)
        score.dump_midi(folder / f'{i}.mid')
        rows.append(f'{i}.mid,{"Low" if low else "High"}')
    (folder / 'metadata.csv').write_text('\n'.join(rows) + '\n')
    return prepare(folder, folder / 'store', workers=0).path


def asked(store, out, **more):
    return make_config(
        TrainConfig,
        overrides=dict(
            data=str(store),
            model='tiny',
            length=64,
            batch_size=8,
            transpose=0,
            workers=0,
            device='cpu',
            valid=0.2,
            out=str(out),
            monitor=dict(enabled=False),
            loader=dict(conditions=['composer']),
            **more
        ),
    )


def pitches(ids): return [vocab.name(int(i)) for i in ids if vocab.NOTE_ON <= i < vocab.NOTE_OFF]


def mean_pitch(ids):
    return float(np.mean([int(n.split()[1]) for n in pitches(ids)]))


def test_from_the_table_to_the_music(store, tmp_path):
    "A model trained with composers generates low or high music for the given composer; an unknown name is an error."
    common = ['workers=0', f'out={tmp_path}', 'device=cpu']
    words = [
        f'data={store}',
        'model=tiny',
        'length=64',
        'batch_size=8',
        'transpose=0',
        'valid=.2',
        'steps=300',
        'monitor.enabled=false',
        'checkpoint_every=0',
    ]
    assert run_command('train', [*words, 'loader.conditions=[composer]', *common]) == 0
    run, = tmp_path.glob('*train*')
    net = MusicTransformerVAEGAN.from_pretrained(run)
    assert net.config.conditions['composer'].words == ('', 'High', 'Low')
    # without a label a piece is low or high, with equal probability
    for who, low in (('Low', True), ('High', False)):
        means = [
            mean_pitch(x)
            for x in generate_ids(
                net, n=16, max_tokens=60, seed=1, top_p=0.9, conditions=dict(composer=who), profile='off'
            )
        ]
        assert sum((m < 60) == low for m in means) >= 12, (who, means)
    assert (
        run_command(
            'generate',
            [f'model={run}', 'conditions.composer=Low', 'guidance=2', 'pieces=8', 'top_p=.9', 'max_tokens=64', *common[1:]],
        )
        == 0
    )
    made, = tmp_path.glob('*generate*')
    means = [
        np.mean([n.pitch for t in read_midi(file).tracks for n in t.notes]) for file in (made / 'samples').glob('*.mid')
    ]
    assert len(means) == 8 and sum(m < 60 for m in means) >= 6, means
    said = check_request(make_config(EvaluateConfig, overrides=dict(model=str(run), out=str(tmp_path), device='cpu')))
    assert any('conditions unknown: composer' in line for line in said)
    with pytest.raises(ConfigError, match="did you mean 'Low'"):
        run_command('generate', [f'model={run}', 'conditions.composer=Lo', *common[1:]])
    with pytest.raises(ConfigError, match='guidance=2'):
        run_command('generate', [f'model={run}', 'guidance=2', *common[1:]])


def test_conditions_reach_the_model(store, tmp_path):
    "The labels of a batch change the logits, and packed windows have their own labels."
    cfg = asked(store, tmp_path, steps=4)
    music = open_store(str(store), 0)
    train, held = train_valid_split(music, cfg.valid, cfg.seed, cfg.split)
    learn = build_learner(cfg, music, train, held)
    net = learn.model.eval()
    for p in net.conditioning.parameters(): torch.nn.init.normal_(p)
    ids, _, _, state, _ = next(iter(learn.dls.train))
    right = net(ids, state=state).logits
    swapped = dict(state, conditions=dict(composer=3 - state['conditions']['composer']))
    assert (net(ids, state=swapped).logits - right).abs().amax((1, 2)).min() > .01
    packed = build_learner(cfg.changed(loader=dict(conditions=['composer'], pack=True)), music, train, held, net)
    ids, _, _, state, _ = next(iter(packed.dls.train))
    out = net(ids, state=state).logits
    number, labels = state['segments'], state['conditions']['composer']
    row, place = (number == 0).nonzero()[:,0], (number == 0).nonzero()[:,1]
    alone = net(
        ids[row[:1], place].unsqueeze(0) if ids.ndim == 1 else ids[row[0], place][None],
        state={k: v[:1] for k, v in state.items() if k not in ('segments', 'conditions')}
        | dict(conditions=dict(composer=labels[:1])),
    )
    assert torch.allclose(out[row[0], place], alone.logits[0], atol=1e-4)


def test_refusals(store, tmp_path):
    "Settings of the conditions that contradict the model or each other are errors."
    for more, says in (
        (dict(model_overrides=dict(conditions={})), 'loader.conditions'),
        (dict(model_overrides=dict(condition_dropout=0.2), loader={}), 'no conditions'),
    ):
        with pytest.raises(ConfigError, match=says):
            check_request(
                asked(store, tmp_path).changed(**more)
                if 'loader' not in more
                else make_config(TrainConfig, overrides=asked(store, tmp_path).to_dict() | more)
            )
    music = open_store(str(store), 0)
    cfg = asked(store, tmp_path)
    plain = MusicTransformerVAEGAN.from_preset('tiny')
    with pytest.raises(ConfigError, match='not conditioned on composer'):
        build_learner(cfg, music, *train_valid_split(music, .2), plain)
