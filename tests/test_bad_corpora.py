"""Mistakes in folders, tables and the configuration of `aurl prepare` print one line with file and remedy, and lose
nothing."""
import json, os, shutil, subprocess, sys, zipfile

import pytest
from common import root
from test_bad_input import driver, environment


@pytest.fixture(scope='module')
def here(midi, tmp_path_factory):
    "A folder with music and with correct and faulty tables of metadata."
    here = tmp_path_factory.mktemp('corpora')
    files = sorted(midi.iterdir())
    shutil.copytree(midi, here / 'music')
    shutil.copytree(midi, here / 'mixed')
    (here / 'mixed' / 'bad.mid').write_text('la la la')
    shutil.copy(files[0], here / 'mixed' / 'copy.mid')
    tables = {
        'empty': b'',
        'words': b'la la la',
        'nofile': b'title,composer\nA,B\n',
        'header': b'file,title\n',
        'typo': b'file,composr\npiece0,Bach\n',
        'twice': b'file,title,title\npiece0,a,b\n',
        'cells': b'file,title\npiece0,Air, in D\n',
        'rows': b'file,title\npiece0,a\npiece0,b\n',
        'nobody': b'file,title\npeice0.mid,a\n',
        'noname': b'file,title\n,a\n',
        'year': b'file,year\npiece0,soon\n',
        'key': b'file,key\npiece0,H dur\n',
        'meter': b'file,meter\npiece0,three\n',
        'latin': 'file,title\npiece0,Pr\xe9lude\n'.encode('latin-1'),
        'utf16': 'file,title\npiece0,a\n'.encode('utf-16'),
        'quote': b'file,title\npiece0,"a\n',
        'zero': b'file,title\npiece0,a\0b\n',
        'sheet': b'PK\3\4' + bytes(40),
        'strangers': b'file,title\nx,a\ny,b\n',
    }
    for name, data in tables.items(): (here / f'{name}.csv').write_bytes(data)
    for name in ('typo', 'beside2'):
        shutil.copytree(midi, here / f'music-{name}')
        (here / f'music-{name}' / 'metadata.csv').write_bytes(
            tables['typo'] if name == 'typo' else b'file,title\npiece0,a\n'
        )
    (here / 'music-beside2' / 'metadata.tsv').write_bytes(b'file\ttitle\npiece0\ta\n')
    with zipfile.ZipFile(here / 'music.zip', 'w') as z:
        for f in files: z.write(f, f.name)
        z.writestr('metadata.csv', tables['typo'])
    (here / 'torn.zip').write_bytes((here / 'music.zip').read_bytes()[:-200])
    return here


def prepare(*args, data='music'): return ['prepare', f'data={data}', 'dest=store', 'workers=0', *args]


slips = [  # arguments of the command, exit code, text that the line must contain
    *[(prepare(f'table={name}.csv'), 1, says) for name, says in {
        'empty': 'empty.csv: the table is empty →', 'words': "words.csv: no column names the files", 'nofile': "call one column 'file'", 'header': 'header.csv: the table has no rows →', 'typo': "typo.csv: column 'composr' is unknown → did you mean 'composer'?",
        'twice': "twice.csv: 2 columns are called 'title' →", 'cells': 'cells.csv: line 2 has 3 cells, the first line 2 →', 'rows': "rows.csv: line 3: 'piece0' is already in line 2 →", 'nobody': "nobody.csv: line 2: no piece is called 'peice0.mid'; did you mean 'piece0.mid'?",
        'noname': 'noname.csv: line 2 names no file →', 'year': "year.csv: line 2: 'soon' is not a year →", 'key': "key.csv: line 2: 'H dur' is not a key →", 'meter': "meter.csv: line 2: 'three' is not a meter →", 'latin': 'latin.csv: line 2 is not UTF-8 (byte 0xe9) → save it as "CSV UTF-8"',
        'utf16': 'utf16.csv: saved as UTF-16 →', 'quote': 'quote.csv: line 2: ', 'zero': 'zero.csv: line 2 has a zero byte →', 'sheet': 'sheet.csv: a spreadsheet, not a CSV →', 'strangers': 'table_extra=true', 'gone': 'gone.csv: cannot be read'}.items()],
    (prepare('table=strangers.csv', 'table_extra=true'), 1, 'strangers.csv: none of its 2 rows matches one of the 6 pieces →'),
    (prepare('table=music'), 1, 'music: cannot be read'),
    (prepare(data='music-typo'), 1, "music-typo/metadata.csv: column 'composr' is unknown →"),
    (['song', 'data=music-typo'], 1, "music-typo/metadata.csv: column 'composr' is unknown →"),
    (prepare(data='music-beside2'), 1, 'music-beside2/metadata.csv: two tables →'),
    (prepare(data='music.zip'), 1, "music.zip!metadata.csv: column 'composr' is unknown →"),
    (prepare(data='torn.zip'), 1, 'torn.zip: not a whole zip archive'),
    (prepare('folder_pattern=composr/title'), 1, 'did you mean {composer}?'),
    (prepare('folder_pattern=title/title'), 1, 'occurs twice'),
    (prepare('duplicates=maybe'), 2, "duplicates=maybe: "),
    (prepare('min_quality=2'), 2, 'min_quality=2: '),
    (prepare('min_quality=good'), 2, 'min_quality=good: '),
    (prepare('min_seconds=9', 'max_seconds=2'), 2, 'min_seconds=9.0 is more than max_seconds=2.0: nothing would be left →'),
    (prepare('keep=loud'), 2, 'loud: not a condition'),
    (prepare('min_qualty=0.5'), 2, "unknown key 'min_qualty'; did you mean 'min_quality'?"),
    (prepare('cleaning.quantize.grid=7'), 2, 'cleaning.quantize.grid'),
    (prepare('cleaning.quantise=strict'), 2, "'cleaning.quantize'")]


def ask(here, questions):
    told = subprocess.run(
        [sys.executable, '-c', driver],
        cwd=here,
        env=environment(here),
        capture_output=True,
        text=True,
        input=json.dumps([[*a, 'out=runs'] for a in questions]),
        timeout=280,
    )
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(answers) == len(questions), told.stderr
    return answers


def test_slips_are_one_line_and_leave_nothing(here):
    "Each mistake prints one line on standard error, and creates no file."
    before = sorted(here.iterdir())
    for (args, code, says), (got, out, err) in zip(slips, ask(here, [a for a, _, _ in slips])):
        assert (got, out) == (code, ''), (args, got, out, err)
        assert says in err and err.startswith('aurl: ') and len(err.splitlines()) == 1, (args, err)
    assert [p for p in sorted(here.iterdir()) if p.name != 'home'] == before


@pytest.mark.skipif(os.name == 'nt' or hasattr(os, 'geteuid') and os.geteuid() == 0, reason='root may read everything')
def test_a_folder_that_may_not_be_read(here):
    "A folder without read permission is an error that names it."
    (here / 'music' / 'locked').mkdir()
    (here / 'music' / 'locked').chmod(0)
    try: [(code, _, err)] = ask(here, [prepare()])
    finally: (here / 'music' / 'locked').rmdir()
    assert code == 1 and 'locked: cannot be read' in err


def test_what_was_prepared_stays(here):
    """A store is unchanged, byte for byte, after failed commands with the same destination; the report names the
    files left out."""
    args = ['prepare', 'data=mixed', 'dest=kept', 'workers=0']
    [(code, out, err)] = ask(here, [args])
    assert code == 0, err
    assert (
        any('copy.mid' in line or 'versions of others' in line for line in out.splitlines())
        and '1 file left out: bad.mid' in out
    )
    page = next((here / 'runs').glob('prepare_*/report.html')).read_text(encoding='utf-8')
    assert 'bad.mid' in page and 'not a MIDI file' in page and 'copy.mid' in page and 'same file' in page
    kept = lambda: {
        p.relative_to(here): p.read_bytes()
        for p in (here / 'kept').rglob('*')
        if p.is_file() and p.name != 'twins.json'
    }
    before = kept()
    from aurl.config import make_config
    from aurl.core import AurlError
    from aurl.commands.configs import PrepareConfig
    from aurl.commands.preparation import load_corpus, prepare_kwargs
    from aurl.data.store import prepare as make
    bad = [
        dict(data='mixed', table='typo.csv'),
        dict(data='mixed', min_quality=2),
        dict(data='mixed', min_seconds=1000),
        dict(data='music'),
        dict(data='mixed', keep='seconds >= 1e9', overwrite=True),
        dict(data='words'),
    ]
    for b in bad:
        with pytest.raises(AurlError):
            cfg = make_config(
                PrepareConfig, overrides={k: str(here / v) if k in ('data', 'table') else v for k, v in b.items()}
            )
            make(load_corpus(cfg), here / 'kept', workers=0, overwrite=cfg.overwrite, **prepare_kwargs(cfg))
        assert kept() == before, b
    cfg = make_config(PrepareConfig, overrides=dict(data=str(here / 'mixed'), min_notes=2))
    with pytest.warns(UserWarning, match='min_notes=1, not 2'):
        other = make(load_corpus(cfg), here / 'kept', workers=0, **prepare_kwargs(cfg))
    assert other.path.name.startswith('kept-') and kept() == before
