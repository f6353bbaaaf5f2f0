"Fixtures of all tests."
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope='session')
def midi(tmp_path_factory):
    "A folder with six short pieces: a scale up and down over a bass, each in another key and tempo."
    from symusic import Note, Score, Tempo, TimeSignature, Track
    where = tmp_path_factory.mktemp('midi')
    for i in range(6):
        score = Score(480)
        score.tempos.append(Tempo(0, qpm=90 + 10 * i))
        score.time_signatures.append(TimeSignature(0, 4, 4))
        melody, bass = Track(program=0, name='melody'), Track(program=32, name='bass')
        for n in range(48):
            melody.notes.append(Note(n * 240, 220, 60 + i + [0, 2, 4, 5, 7, 9, 11, 12][abs(n % 14 - 7)], 64 + n % 32))
        for n in range(12): bass.notes.append(Note(n * 960, 900, 36 + i + [0, 5, 7, 0][n % 4], 80))
        score.tracks.extend([melody, bass])
        score.dump_midi(where / f'piece{i}.mid')
    return where
