"""The SoundFont that comes with aurl, and how the sampler plays it."""
import hashlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from common import root
from symusic import Note, Score, Tempo, Track

from aurl.score.sampler import note_samples
from aurl.score.soundfont import load_soundfont, soundfont_path

RATE, SECONDS = 44100, 3


def test_file_is_the_one_that_the_tool_makes():
    "The README beside the SoundFont names its checksum, its source and the command that makes it."
    data = (root / 'aurl/assets/soundfont/general.sf3').read_bytes()
    readme = (root / 'aurl/assets/soundfont/README.md').read_text(encoding='utf-8')
    tool = (root / 'tools/cut_soundfont.py').read_text(encoding='utf-8')
    assert hashlib.sha256(data).hexdigest() in readme and len(data) <= 12e6
    assert 'python tools/cut_soundfont.py' in readme
    assert re.search(r"SHA256 = '(\w{64})'", tool)[1] in readme


def test_license_is_beside_it():
    "The text of the license and the names of the authors travel with the file."
    text = (root / 'aurl/assets/soundfont/LICENSE.txt').read_text(encoding='utf-8')
    for words in ('Permission is hereby granted, free of charge', 'Frank Wen', 'Michael Cowgill', 'S. Christian Collins'):
        assert words in text
    assert 'MuseScore General' in (root / 'README.md').read_text(encoding='utf-8')


def test_variable_names_another_soundfont(tmp_path, monkeypatch):
    "`AURL_SOUNDFONT` replaces the SoundFont; an argument has priority."
    other = tmp_path / 'other.sf3'
    shutil.copy(soundfont_path(), other)
    monkeypatch.setenv('AURL_SOUNDFONT', str(other))
    assert load_soundfont().path == other
    assert load_soundfont(root / 'aurl/assets/soundfont/general.sf3').path != other


def test_sf2(tmp_path):
    "A SoundFont with 16-bit samples is played as well: a piano of one sine."
    sys.path.insert(0, str(root / 'tools'))
    try: import cut_soundfont as tool
    finally: sys.path.remove(str(root / 'tools'))
    period = 100
    x = np.rint(20000*np.sin(2*np.pi*np.arange(10*period)/period)).astype('<i2')
    header = np.zeros(2, tool.SOUNDFONT_TABLES['shdr'])
    header[0] = (b'sine', 0, len(x), 2*period, 8*period, RATE, 69, 0, 0, 1)
    presets, at_p = tool.lists('p', [[tool.Zone([(tool.INSTRUMENT, 0)], [])]], instruments={0: 0})
    zones, at_i = tool.lists('i', [[tool.Zone([(54, 1), (tool.SAMPLE, 0)], [])]], samples={0: 0})
    tables = {
        'phdr': tool.heads([(b'piano', 0, 0, 0, (0, 0, 0)), (b'EOP', 0, 0, at_p[-1], (0, 0, 0))], 'phdr'), **presets,
        'inst': tool.heads([(b'sine', 0), (b'EOI', at_i[-1])], 'inst'), **zones, 'shdr': header.tobytes(),
    }
    pdta = b''.join(tool.chunk(k.encode(), v) for k, v in tables.items())
    parts = (b'sdta' + tool.chunk(b'smpl', x.tobytes()), b'pdta' + pdta)
    path = tmp_path / 'sine.sf2'
    path.write_bytes(tool.chunk(b'RIFF', b'sfbk' + b''.join(tool.chunk(b'LIST', p) for p in parts)))
    for key in (57, 69, 76):
        y = note_samples(key, 127, 1., soundfont=path)[RATE//10:RATE]
        crossings = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0))
        frequency = (len(crossings) - 1)*RATE/(crossings[-1] - crossings[0])
        assert abs(1200*np.log2(frequency/(RATE/period*2**((key - 69)/12)))) < 2
        assert .5 < abs(y).max() < .7


# ---------------------------------------------------------------- against FluidSynth

def score_of(notes, drum):
    "One note every three seconds; `notes` are (program, key)."
    score = Score(480)
    score.tempos.append(Tempo(0, 120))
    for program in dict.fromkeys(p for p, _ in notes):
        track = Track('', program, drum)
        for i, (p, key) in enumerate(notes):
            if p == program: track.notes.append(Note(i*SECONDS*960, 1440, key, 90))
        score.tracks.append(track)
    return score


def fluidsynth(notes, drum, tmp_path):
    "Samples of FluidSynth, one row for each note; each is a file, since it has 16 channels."
    rows = []
    for note in notes:
        score_of([note], drum).dump_midi(tmp_path / 'x.mid')
        command = ['fluidsynth', '-ni', '-g', '1', '-R', '0', '-C', '0', '-r', str(RATE), '-T', 'wav', '-O', 'float',
                   '-F', str(tmp_path / 'x.wav'), str(soundfont_path()), str(tmp_path / 'x.mid')]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and 'Failed to load' not in done.stdout + done.stderr, done.stderr
        rows.append(soundfile.read(tmp_path / 'x.wav')[0][:RATE*3//2].mean(1))
    return rows


def level_and_centroid(x):
    "Energy in dB, and centroid of the spectrum in Hz."
    power = np.abs(np.fft.rfft(x, RATE*2))**2
    return 10*np.log10((x**2).sum() + 1e-12), (power*np.arange(len(power))/2).sum()/max(power.sum(), 1e-12)


@pytest.mark.skipif(not shutil.which('fluidsynth'), reason='FluidSynth is not installed')
@pytest.mark.parametrize('drum', [False, True], ids=['programs', 'drums'])
def test_sounds_as_in_fluidsynth(drum, tmp_path):
    "Relative loudness and spectral centroid of each instrument are those of FluidSynth."
    notes = [(0, key) for key in range(35, 82, 9)] if drum else [(p, 60) for p in range(0, 128, 9)]
    theirs = np.array([level_and_centroid(x) for x in fluidsynth(notes, drum, tmp_path)])
    bank = 128 if drum else 0
    ours = np.array([level_and_centroid(note_samples(k, 90, 1.5, p, bank=bank)[:RATE*3//2]) for p, k in notes])
    level = ours[:, 0] - theirs[:, 0]
    cents = 1200*np.log2(ours[:, 1]/theirs[:, 1])
    assert np.median(abs(level - np.median(level))) < .5 and abs(level - np.median(level)).max() < 4, level   # 3: a panned voice
    assert np.median(abs(cents)) < 30 and abs(cents).max() < 300, cents
