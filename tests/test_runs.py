"Each run notebook, executed by papermill with the small parameters of tests/tiny.yaml."
import os, re
from pathlib import Path

import pytest
import yaml
from common import root

folder = root / 'nbs' / 'runs'
notebooks = sorted(p.stem for p in folder.glob('*.ipynb') if p.name[0] not in '._')
tiny = yaml.safe_load((root / 'tests' / 'tiny.yaml').read_text(encoding='utf-8')) or {}
tiny |= {f'dry_{n}': {'notebook': n, **tiny[n], 'dry_run': True} for n in notebooks if n in tiny}


@pytest.fixture(scope='session')
def run(midi, tmp_path_factory):
    "A function that executes a run notebook once a session and returns its output folder."
    import papermill
    done = {}

    def place(text, out):
        words = {
            'midi': lambda: midi,
            'out': lambda: out,
            **{n: lambda n=n: result(execute(n)) for n in (*notebooks, *tiny)},
        }
        return re.sub(r'\{(\w+)\}', lambda m: str(words[m.group(1)]()) if m.group(1) in words else m.group(0), text)

    def execute(name):
        if name in done: return done[name]
        out = tmp_path_factory.mktemp(name)
        filled = yaml.safe_load(place(yaml.safe_dump(tiny[name]), out)) or {}
        papermill.execute_notebook(
            str(folder / f'{filled.pop("notebook", name)}.ipynb'),
            str(out.parent / f'{out.name}.ipynb'),
            parameters=filled,
            progress_bar=False,
            kernel_name='python3',
            cwd=str(folder),
            execution_timeout=600,
        )
        done[name] = out
        return out
    old, paths = os.environ.get('PYTHONPATH'), [str(root), os.environ.get('PYTHONPATH')]
    os.environ['PYTHONPATH'] = os.pathsep.join(p for p in paths if p)
    home, os.environ['AURL_HOME'] = os.environ.get('AURL_HOME'), str(tmp_path_factory.mktemp('home'))
    yield execute
    os.environ.pop('AURL_HOME') if home is None else os.environ.__setitem__('AURL_HOME', home)
    os.environ.pop('PYTHONPATH') if old is None else os.environ.__setitem__('PYTHONPATH', old)


def result(out):
    "The one folder in `out`, or `out` itself."
    inside = [p for p in Path(out).iterdir() if p.is_dir()]
    return inside[0] if len(inside) == 1 else out


@pytest.mark.parametrize('name', notebooks)
def test_run(name, run):
    "The notebook runs without an error and writes to its folder."
    assert (
        name in tiny
    ), f'nbs/runs/{name}.ipynb has no line in tests/tiny.yaml; say there with which tiny parameters it runs'
    assert any(run(name).iterdir()), f'{name} wrote nothing to its folder'


def run_of(out, command):
    "The directory of the run of a command below a folder."
    found = [p.parent for p in Path(out).rglob('status.json') if p.parent.name.startswith(f'{command}_')]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize('name', notebooks)
def test_results(name, run):
    "The results of every command have the published schema, and its files the recorded checksums."
    import json, jsonschema
    from aurl.experiments.results import changed_artifacts, read_results
    folder = run_of(run(name), name)
    schema = json.loads((root / 'aurl' / 'schemas' / 'results.json').read_text(encoding='utf-8'))
    results = read_results(folder)
    jsonschema.validate(results, schema)
    assert results['command'] == name and results['run'] == folder.name and results['seconds'] > 0
    assert all((folder / row['file']).exists() for row in results['samples'])
    assert changed_artifacts(folder) == {}
    assert f'{name} --preset' in (folder / 'reproduce.sh').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', notebooks)
def test_dry_run(name, run):
    "A dry run takes ten steps through every part of a command, in a folder of its own."
    from aurl.experiments.log_format import read_log
    from aurl.experiments.results import read_results
    from aurl.experiments.run import Experiment
    out = run(f'dry_{name}')
    folder = run_of(out, name)
    assert folder.parent.name == 'dry_runs' and read_results(folder)['status'] == 'finished'
    steps = [m.get('step') or 0 for m in Experiment.open(folder).metrics()]
    assert max(steps, default=0) <= 10 and not [p for p in out.glob('*/config.yaml')]
    if name in ('train', 'song'):
        assert max(steps) > 0 and list(folder.glob('samples/*.mid')) and (folder / 'model/config.json').exists()
        assert any('[TRAINING_END]' in e.message for e in read_log(folder))
    if name == 'train':
        assert list(folder.glob('checkpoints/step_*'))


def test_a_song_within_minutes(run):
    "The plan of a song with a time budget is in its configuration, report and summary; the log has a learning curve."
    import json
    out = result(run('song_minutes'))
    plan = yaml.safe_load((out / 'config.yaml').read_text(encoding='utf-8'))['plan']
    lines = [json.loads(line) for line in (out / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]
    train, valid = ([m for m in lines if key in m] for key in ('train_loss', 'valid_loss'))
    assert plan['model'] == 'tiny' and plan['batch_size'] in (4, 8, 16) and plan['speed'] > 0
    assert len(train) >= min(40, max(m['step'] for m in lines)) and len(valid) >= 2
    assert all(0 <= m['train_seconds'] <= m['time'] for m in train + valid)
    said = json.loads((out / 'summary.json').read_text(encoding='utf-8'))['lines']
    page = (out / 'report.html').read_text(encoding='utf-8')
    for words in plan['reasons']: assert words in said and words.split(':')[-1].strip() in page
    assert any('not counted as training' in line for line in said) and len(page.encode()) < 3e6


@pytest.mark.skipif(os.name == 'nt', reason='processes of POSIX')
def test_two_processes(run):
    "A training of two processes writes a model, checkpoints and its outcome."
    out = result(run('ranks'))
    assert (
        (out / 'model' / 'config.json').exists()
        and any(out.glob('checkpoints/step_*4/manifest.json'))
        and '"world_size": 2' in (out / 'outcome.json').read_text(encoding='utf-8')
    )


def test_profile(run):
    "A trained model and its checkpoints have a corpus profile; generation keeps within it, and reports this."
    import json
    from aurl.models.vae_gan import MusicTransformerVAEGAN
    from aurl.midi.read import read_midi
    trained = result(run('train'))
    profile = MusicTransformerVAEGAN.from_pretrained(trained).profile
    assert profile is not None and profile.transpose == (-6, 6)
    told = json.loads(next(trained.glob('checkpoints/step_*/state.json')).read_text(encoding='utf-8'))
    assert told['state']['profile']['pieces'] == profile.pieces
    out = result(run('limited'))
    assert 'within the profile of its corpus' in (out / 'summary.json').read_text(encoding='utf-8')
    for path in (out / 'samples').glob('*.mid'):
        notes = [n for t in read_midi(path).tracks for n in t.notes]
        assert notes and max(sum(a.time <= b.time < a.time + a.duration for a in notes) for b in notes) == 1
        assert {t.program // 8 for t in read_midi(path).tracks} <= {
            [
                'Piano',
                'Chromatic Percussion',
                'Organ',
                'Guitar',
                'Bass',
                'Strings',
                'Ensemble',
                'Brass',
                'Reed',
                'Pipe',
            ].index(f)
            for f in profile.families
        }
    assert 'profile=off' in (result(run('free')) / 'summary.json').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', notebooks)
def test_parameters_cell(name):
    "Exactly one cell of the notebook has the tag `parameters`."
    import nbformat
    cells = nbformat.read(folder / f'{name}.ipynb', 4).cells
    assert sum('parameters' in c.metadata.get('tags', []) for c in cells) == 1, 'one cell must be tagged `parameters`'
