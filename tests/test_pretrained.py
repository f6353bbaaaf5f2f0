"""The models that come with aurl: loaded by name, usable without a run, and described in the README as in their model
cards."""
import os, subprocess, sys

import pytest
import torch
from common import root

from aurl.core import read_json
from aurl.models.card import markdown_table
from aurl.models.pretrained import pretrained_folder, pretrained_names, pretrained_table

names = 'base', 'piano', 'quartet'


def test_three_models_fit_into_the_wheel():
    "There are three models, of at most 20 MB together."
    assert pretrained_names() == names
    assert sum(f.stat().st_size for f in (root / 'aurl/pretrained').rglob('*')) <= 20e6


@pytest.mark.parametrize('name', names)
def test_loaded_by_name(name):
    "The model is loaded by name, has the size of the preset `song`, and generates valid pieces."
    from aurl.all import decode, from_pretrained, generate_ids, preset_config, verdict
    model = from_pretrained(name)
    assert model.config.changed(dropout=0.0) == preset_config('song'), 'a song starts from a model of its own size'
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in model.parameters())
    ids = generate_ids(model, n=1, max_tokens=200, seed=1)[0]
    assert verdict(ids).allowed_share == 1 and decode(ids).note_num() > 10


@pytest.mark.parametrize('name', names)
def test_card_has_what_a_licence_asks_for(name):
    "The model card has attribution, license, results better than n-grams, and no sign of copied pieces."
    notes = read_json(pretrained_folder(name) / 'config.json')['notes']
    card = (pretrained_folder(name) / 'README.md').read_text(encoding='utf-8')
    for line in notes['attribution']: assert line in card
    for row in notes['results']: assert row['model'] < min(row['5-gram'], row['7-gram'])
    generated, held_out = notes['memorization']
    assert generated['longest_match'] < 100, 'a generated piece copies a training piece'
    assert 'license: cc-by-4.0' in card and str(notes['training']['seed']) in card


def test_readme_has_the_table_of_the_cards():
    "The table in the README equals that of the model cards."
    assert markdown_table(pretrained_table()) in (root / 'README.md').read_text(encoding='utf-8')


def test_generate_without_a_run(tmp_path):
    "In an empty folder `aurl generate` uses `piano`."
    command = [sys.executable, '-c', 'from aurl.cli import main; main()', 'generate', 'pieces=2', 'max_tokens=200']
    env = dict(os.environ, AURL_HOME=str(tmp_path / 'home'), PYTHONPATH=str(root))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob('runs/*/samples/*.mid'))) == 2 and 'the pretrained model piano' in done.stdout
