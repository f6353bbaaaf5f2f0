"""Files saved by an earlier version still load: a store, two models and two unfinished trainings of revision 65b3102.

tests/saved/65b3102.tar.gz was written by that revision: `aurl prepare` of six short pieces, then `aurl train` for six
steps in the modes transformer (hierarchical attention, averaging, percentile clipping, accumulation, a curriculum,
grammar annealing) and vae_gan (attributes, one-cycle schedule). It contains the checkpoint of step 3, the weights
after step 6 (`end.safetensors`), and what that revision read and generated."""
import json, tarfile

import numpy as np
import pytest
import torch
from common import root
from safetensors.torch import load_file

from aurl.aliases import current_weights
from aurl.all import MusicTransformerVAEGAN, TokenStore, generate_ids, make_config
from aurl.commands.command import open_run
from aurl.commands.configs import TrainConfig
from aurl.commands.run_data import open_store, train_valid_split
from aurl.commands.training import train_stages
from aurl.data.conditions import Conditions
from aurl.data.survey import split_units

kinds = ['transformer', 'vae_gan']


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "The folder of the archive; paths in its files are changed to its present place."
    where = tmp_path_factory.mktemp('saved')
    with tarfile.open(root / 'tests' / 'saved' / '65b3102.tar.gz') as archive: archive.extractall(where, filter='data')
    for kind in kinds:
        for name in ('config.yaml', 'environment.json', 'split.json', 'summary.json'):
            if (file := where / kind / name).exists(): file.write_text(file.read_text().replace('/tmp/old', str(where)))
        status = json.loads((where / kind / 'status.json').read_text())
        (where / kind / 'status.json').write_text(json.dumps(status | dict(status='interrupted')))
    return where


@pytest.fixture(scope='module')
def expected(saved): return json.loads((saved / 'expected.json').read_text())


def test_store(saved, expected):
    "The store has the same pieces and ids."
    store = TokenStore(saved / 'store').verify()
    then = expected['store']
    assert (
        list(store.names) == then['names']
        and int(store.tokens) == then['tokens']
        and store[0].tolist() == then['first']
    )


def test_columns(saved):
    "The columns of the store have their present names, and those of that revision are understood."
    store = TokenStore(saved / 'store')
    assert {'meter', 'license', 'key_confidence'} <= {*store.pieces.column_names}
    assert split_units(store, 'metre')[0].startswith(f"metre: {store.pieces['meter'][0]}")
    old, new = (Conditions(store, names) for names in (['metre', 'register'], ['meter', 'mean_pitch']))
    assert (old.values['metre'] == new.values['meter']).all()
    assert np.allclose(old.values['register'], new.values['mean_pitch'])


@pytest.mark.parametrize('kind', kinds)
def test_model(saved, expected, kind):
    "The model gives the same logits within rounding, and the same ids."
    then = expected[kind]
    model = MusicTransformerVAEGAN.from_pretrained(saved / kind / 'model').eval()
    z = None if then['z'] is None else torch.tensor(then['z'])
    ids = torch.tensor([then['ids'][0][:32]])
    with torch.no_grad(): logits = (model(ids) if z is None else model(ids, z[:1])).logits.float()
    # float32 sums in another order
    np.testing.assert_allclose(logits.logsumexp(-1).flatten().numpy(), then['logsumexp'], atol=1e-4)
    pieces = generate_ids(model, n=2, max_tokens=96, seed=3, **({} if z is None else dict(z=z)))
    assert [p.tolist() for p in pieces] == then['ids']


@pytest.mark.parametrize('kind', kinds)
def test_resume(saved, kind, monkeypatch):
    """A training that stopped at step 3 resumes and ends near the weights that this revision reached.

    They are not equal, because Muon now orthogonalizes in float32 where the processor has no bfloat16. Their distance
    is compared with the change of the weights from step 3 to step 6."""
    monkeypatch.setenv('AURL_HOME', str(saved / 'home'))
    run, cfg, last = open_run('train', make_config(TrainConfig, overrides=dict(resume=str(saved / kind))))
    assert last.step == 3 and cfg.steps == 6
    assert set(last.snapshot().parts['grads']) <= set(last.weights)
    store = open_store(cfg.data, 0, run, cfg.loader)
    train_stages(run, cfg, store, *train_valid_split(store, cfg.valid, cfg.seed, cfg.split), last)
    now, before = (load_file(run.checkpoints / f'step_0000000{k}' / 'model.safetensors') for k in (6, 3))
    then = current_weights(load_file(run.path / 'end.safetensors'))
    before = current_weights(before)
    assert set(now) == set(then)
    flat = lambda weights: torch.cat(
        [weights[n].double().flatten() for n in sorted(weights) if weights[n].is_floating_point()]
    )
    distance, way = (flat(now) - flat(then)).norm(), (flat(now) - flat(before)).norm()
    assert distance < .1*way, (distance, way)
