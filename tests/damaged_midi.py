"""MIDI files that are damaged or crafted to break parsers, as a function of a seed, and counts of what survives.

Used by the notebooks of `aurl.midi` and by nbs/benchmarks/reading.ipynb and hostile.ipynb.
"""
import gzip, io, struct
from collections import Counter

import numpy as np

from aurl.core import rng
from aurl.midi.bytes import find_chunks, skim_events

DAMAGE_KINDS = ('flip', 'cut', 'insert', 'delete', 'mixed')


def file_of(notes, channel=0, tpq=480):
    "The bytes of a MIDI file with one track of `notes`: (start, length, pitch, velocity) in ticks."
    import mido
    m, t = mido.MidiFile(ticks_per_beat=tpq), mido.MidiTrack()
    m.tracks.append(t)
    now = 0
    ons = [(start, 1, pitch, velocity) for start, _, pitch, velocity in notes]
    offs = [(start + length, 0, pitch, 0) for start, length, pitch, _ in notes]
    for at, _, pitch, velocity in sorted(ons + offs):
        t.append(mido.Message('note_on', channel=channel, note=pitch, velocity=velocity, time=at - now))
        now = at
    out = io.BytesIO()
    m.save(file=out)
    return out.getvalue()


def _damage_place(b, kind, draw):
    "Change, insert or delete bytes at a random place of `b`, in place; return its offset."
    kind = kind if kind != 'mixed' else DAMAGE_KINDS[(0, 2, 3)[draw.integers(3)]]
    i = int(draw.integers(len(b)))
    if kind == 'flip': b[i] ^= int(draw.integers(1, 256)) if draw.random() < 0.5 else 1 << int(draw.integers(8))
    elif kind == 'insert': b[i:i] = draw.integers(0, 256, int(draw.integers(1, 3)), np.uint8).tobytes()
    else: del b[i:i + int(draw.integers(1, 3))]
    return i


def damage_midi(data, *seed, kind=None, max_errors=4):
    """Damage the intact file `data` in one to `max_errors` places, as disks and transfers do, as a function of `seed`.

    `kind` is one of `DAMAGE_KINDS`; None: drawn with the seed. Returns the damaged bytes, the kind, and the number of
    unchanged bytes at the beginning.
    """
    draw, b = rng(0, 'damage', *seed), bytearray(data)
    kind = kind or DAMAGE_KINDS[draw.integers(len(DAMAGE_KINDS))]
    if kind == 'cut':
        at = int(draw.integers(len(b) // 20, len(b)))
        return bytes(b[:at]), kind, at
    first = len(b)
    for _ in range(int(draw.integers(1, max_errors + 1))):
        if len(b) < 2: break
        first = min(first, _damage_place(b, kind, draw))
    return bytes(b), kind, first


def onset_counts(score):
    "Count the note onsets of each pitch at each tick."
    out = Counter()
    for t in score.tracks:
        n = t.notes.numpy()
        out.update(zip(n['time'].tolist(), n['pitch'].tolist()))
    return out


def note_on_counts(data, end_byte):
    "Count the note-ons of each pitch at each tick, of events in `data` that end at or before `end_byte`."
    out = Counter()
    for a, z in find_chunks(data)[0]:
        now = 0
        for nx, _, delta, s, pitch, velocity, _ in skim_events(data, a, z)[0]:
            now += delta
            if 0x90 <= s < 0xA0 and velocity and nx <= end_byte: out[now, pitch] += 1
    return out


def _hostile_bodies(d, n):
    "Tracks that are noise, endless, or full of wrong lengths, drawn with the generator `d`."
    noise = d.integers(0, 256, n, np.uint8).tobytes()
    same = bytes([int(d.integers(256))])

    def note_on(): return bytes([0, 0x90, int(d.integers(128)), int(d.integers(128))])

    meter, key = noise[:4].ljust(4, b'\0'), noise[:2].ljust(2, b'\0')
    return [
        noise,
        same * n,
        b'\xff\xff\xff\x7f\x90\x3c\x40' * (n // 8),
        b''.join(note_on() for _ in range(n)),
        b'\0\xff\x51\3\0\0' + same + b'\0\x90\x3c\x40\x60\x3c\0' * (n // 8),
        b'\0\xff\x01\xff\xff\xff\x7f' + noise,
        b'\0\xff\x58\4' + meter + b'\0\xff\x59\2' + key + b'\0\x90\x3c\x40\x60\x3c\0',
        b'\0\xf0\x83\x7f' + noise,
        b'\0\xff\x2f\0' * (n // 4),
        b'\x90' + noise,
        b'\0\x90\x3c\x40' + b'\x7f\xf8' * (n // 2),
    ]


def _malicious_file(d):
    "A malicious file drawn with the generator `d`."
    n = int(d.integers(1, 4000))
    body = _hostile_bodies(d, n)[int(d.integers(11))]
    size = [len(body) + 4, 0, 2**32 - 1, int(d.integers(2 * n + 9))][int(d.integers(4))]
    header_size = [6, 6, 6, 0, 2**31][int(d.integers(5))]
    fmt, tracks = (int(d.integers(x)) for x in (4, 65536))
    resolution = int(d.choice([480, 96, 1, 0, -1, 32767, -6360, -32768]))
    head = b'MThd' + struct.pack('>IHHh', header_size, fmt, tracks, resolution)
    return head + (b'MTrk' + struct.pack('>I', size) + body + b'\0\xff\x2f\0') * int(d.choice([1, 1, 1, 2, 40]))


def hostile_midi(*seed, intact=()):
    "A file crafted to break parsers, as a function of `seed`; half of them are files of `intact` with much damage."
    d = rng(0, 'hostile', *seed)
    if len(intact) and d.random() < 0.5:
        data = intact[int(d.integers(len(intact)))]
        kind = ('flip', 'insert', 'delete', 'mixed')[int(d.integers(4))]
        b = damage_midi(data, *seed, kind=kind, max_errors=64)[0]
    else: b = _malicious_file(d)
    how = int(d.integers(20))
    if how == 0: return gzip.compress(b, mtime=0)[:int(d.integers(1, len(b) + 20))]
    if how == 1: return gzip.compress(b + bytes(int(d.integers(1 << 24))), mtime=0)
    if how == 2: return b'RIFF' + struct.pack('<I', len(b)) + b'RMIDdata' + b
    return b[int(d.integers(20)):] if how == 3 else b
