"""Trainings that are interrupted, killed and damaged.

`tests/test_resume.py` runs a few of each, `nbs/benchmarks/resume.ipynb` many."""
import builtins, contextlib, io, json, os, resource, shutil, signal, time, warnings
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException

from aurl.core import CheckpointError, rng, seed_everything
from aurl.models.vae_gan import MusicTransformerVAEGAN
from aurl.data.store import prepare
from aurl.train.checkpoint import load_checkpoint, save_checkpoint, verify_checkpoint
from aurl.train.checkpoint_folder import prune_checkpoints
from aurl.train.learner import music_learner
from aurl.monitor.checkpoints import CheckpointCallback, load_newest_checkpoint
from aurl.train.state import ResumeFrom, restore_state, capture_state


def music(folder, pieces=12, notes=14):
    "A store of short pieces."
    from symusic import Note, Score, Tempo, Track
    (folder / 'midi').mkdir(parents=True)
    for i in range(pieces):
        score, track, draw = Score(480), Track(), rng(i, 'tune')
        score.tempos.append(Tempo(0, qpm=90 + 10 * i))
        for n in range(notes + 2 * i):
            track.notes.append(Note(n * 240, int(draw.integers(100, 400)), int(draw.integers(50, 80)), 64 + n % 32))
        score.tracks.append(track)
        score.dump_midi(folder / 'midi' / f'{i}.mid')
    return prepare(folder / 'midi', folder / 'store', workers=0)


def _gan():
    from aurl.train.adversarial import AdversarialConfig, AdversarialTraining
    from aurl.train.latent_loss import KLLoss
    return [KLLoss(), AdversarialTraining(AdversarialConfig(warmup_pct=0., rollout_windows=2, rollout_length=6, context=12, sample_every=0), penalty_every=3)]

def _latent():
    from aurl.train.latent_loss import KLLoss
    return [KLLoss()]

def _objectives():
    from aurl.train.objectives import MusicLosses
    return [MusicLosses({'grammar': .1}, balance='uncertainty')]

def _accumulated():
    from aurl.train.objectives import MusicLosses
    from aurl.train.clip import GradientAccumulation
    return [GradientAccumulation(4), MusicLosses({'grammar': .1, 'rhythm': .1}, balance='uncertainty')]

def _taught():
    from aurl.train.distill import Distill
    from aurl.train.clip import GradientAccumulation
    return [
        GradientAccumulation(4),
        Distill(MusicTransformerVAEGAN.from_preset('tiny'), {'output': 0.5, 'feature': 0.5, 'attention': 0.5}),
    ]

def _validated():
    from aurl.train.learner import ValidEvery
    return [ValidEvery(5)]

augment = dict(augment=dict(probability=.7))
grow = dict(start_length=16, grow_epochs=3)
WAYS = {  # name: how the learner is made
    'plain': dict(),
    'augmentation, growing windows': dict(loader={**augment, **grow}, transpose=0),
    'the same, two workers': dict(loader={**augment, **grow, 'workers': 2}, transpose=0),
    'buckets, packed': dict(loader=dict(pack=True), length=96, batch_size=3),
    'bfloat16': dict(dtype='bf16'),
    'validated every five steps': dict(cbs=_validated),
    'losses by name, uncertainty': dict(cbs=_objectives),
    'vae': dict(net=dict(mode='vae'), cbs=_latent, loader=dict(full_pieces_only=True), length=128),
    'vae_gan': dict(net=dict(mode='vae_gan'), cbs=_gan, loader=dict(full_pieces_only=True), length=128),
}

MORE = {  # state that is saved besides the model, in the middle of a step of four batches
    'accumulated, learned weights': dict(cbs=_accumulated),
    'accumulated, a teacher': dict(cbs=_taught, length=96),
}

def learner(store, way='plain', seed=0, d_model=16):
    "A learner of the kind `way`, with the same weights and batches at each call."
    how = dict((WAYS | MORE)[way])
    net, cbs = how.pop('net', {}), how.pop('cbs', list)
    how = {**dict(length=48, batch_size=4, transpose=2, dtype='fp32'), **how}
    seed_everything(seed)
    model = MusicTransformerVAEGAN.from_preset('tiny', **{**dict(d_model=d_model, n_layers=1, dropout=.1), **net})
    return music_learner(store, model, valid=.3, lr=5e-3, device='cpu', seed=seed, cbs=cbs(), **how)


class Tape(Callback):
    "Passes step and loss of each step to `tell`; ends the training after step `last`."
    order = 59.5
    def __init__(self, tell, last=None): self.tell, self.last = tell, last
    def after_batch(self):
        if not self.training: return
        self.tell(self.train_iter, self.loss.item())
        if self.train_iter == self.last: raise CancelFitException


def sit(learn, steps, tell, *cbs, last=None):
    "Run a training of `steps`, or its part up to step `last`."
    learn.fit_budget(steps=steps, cbs=[Tape(tell, last), *cbs])


# --------------------------------------------------------------------------- cuts

def cut_anywhere(store, folder, way, cuts=100, steps=36, on=6, seed=0):
    """Number of resumed trainings with the losses of an uninterrupted one, and the number of attempts.

    One training saves after every step. Another learner, whose weights, optimizer and random state are changed each
    time, resumes from the checkpoint of a random step and continues for `on` steps, often beyond the end of an epoch,
    a validation and a longer window."""
    whole, folder = {}, Path(folder)
    sit(learner(store, way), steps, whole.__setitem__, CheckpointCallback(folder, 1, keep=10**6, disk_timeout=60.))
    later, good = learner(store, way, seed=0), 0
    later.opt = None
    for c in rng(seed, way, 'cuts').integers(1, steps, cuts):
        ck, got = load_checkpoint(folder / f'step_{c:08d}'), {}
        with torch.no_grad():
            for p in later.model.parameters(): p.add_(torch.randn_like(p))
        torch.manual_seed(int(c))
        np.random.seed(int(c))
        later.dls.train.set_epoch(77)
        sit(later, steps, got.__setitem__, ResumeFrom(ck.snapshot()), last=min(steps, int(c) + on))
        good += got == {s: whole[s] for s in range(c + 1, min(steps, c + on) + 1)} and len(got) > 0
    if hasattr(later.dls.train, 'pool'): later.dls.train.pool.close()
    return good, cuts


# --------------------------------------------------------------------------- kills

def child(work):
    "Run `work` in a fork of this process, which has all imports; return its process id."
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with open(os.devnull, 'w') as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        work()
        code = 0
    except BaseException as e:
        with contextlib.suppress(Exception): (Path(os.environ.get('CRASH_LOG', '/dev/null'))).write_text(repr(e))
    finally: os._exit(code)


def train_in(store, folder, steps, every):
    "The training of the child: resume from the newest checkpoint, and append each loss to a file at once."
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    log = os.open(folder / 'losses', os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    note = lambda *what: os.write(log, (json.dumps(what) + '\n').encode())
    last = load_newest_checkpoint(folder / 'ck', lambda line: note('passed over', line))
    note('from', last.step if last else 0)
    sit(
        learner(store),
        steps,
        note,
        *([ResumeFrom(last.snapshot())] if last else []),
        CheckpointCallback(folder / 'ck', every, keep=2)
    )
    note('done')


def sittings(folder):
    "The log of a killed training as a list of (first step, {step: loss}), one for each process."
    out = []
    for line in (Path(folder) / 'losses').read_text().splitlines():
        what = json.loads(line)
        if what[0] == 'from': out.append((what[1], {}))
        elif isinstance(what[0], int): out[-1][1][what[0]] = what[1]
    return out


def kill_at_random(store, folder, kills=200, steps=40, every=5, seed=0):
    "Kill trainings with SIGKILL at random times, `kills` times in all; return a list of errors, and figures."
    folder, wrong, lost, whole, draw = Path(folder), [], [], {}, rng(seed, 'kills')
    folder.mkdir(parents=True)
    sit(learner(store), steps, whole.__setitem__)
    start = time.monotonic()
    pid = child(lambda: train_in(store, folder / 'calm', steps, every))
    os.waitpid(pid, 0)
    usual, done, chain, ended = time.monotonic() - start, 0, 0, 0
    while done < kills:
        here, stopped = folder / f'chain{chain}', True
        while stopped and done < kills:
            start, pid = time.monotonic(), child(lambda: train_in(store, here, steps, every))
            time.sleep(draw.random() * usual)
            gone, status = os.waitpid(pid, os.WNOHANG)
            if not gone:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                done += 1
            stopped = os.WIFSIGNALED(status)
            if gone:
                usual = max(.1, .5 * usual + .4 * (time.monotonic() - start))  # it ended first: kill sooner next time
            if not stopped and os.WEXITSTATUS(status):
                wrong.append(f'chain {chain}: ended with {os.WEXITSTATUS(status)}')
        if stopped:
            pid = child(lambda: train_in(store, here, steps, every))
            _, status = os.waitpid(pid, 0)  # the last process may finish
            if status: wrong.append(f'chain {chain}: ended with {status}')
        ended += 1
        reached, seen = 0, {}
        for began, losses in sittings(here):
            if reached: lost.append(reached - began)
            if reached - began > every: wrong.append(f'chain {chain}: {reached - began} steps lost')
            wrong += [f'chain {chain}: step {s} differs' for s, l in losses.items() if whole[s] != l]
            reached = max(losses, default=began)
            seen |= losses
        if set(seen) != set(whole):
            wrong.append(f'chain {chain}: steps {sorted(set(whole) - set(seen))[:5]} are not in the log')
        chain += 1
    return wrong, dict(
        kills=done,
        trainings=ended,
        steps_lost_at_most=max(lost, default=0),
        steps_lost_on_average=round(float(np.mean(lost)), 2),
    )


# --------------------------------------------------------------------------- every file event

class Events:
    "Counts the file operations, and kills this process before or after operation `at`."
    def __init__(self, at=None, after=False): self.at, self.after, self.seen = at, after, []
    def __enter__(self):
        import aurl.train.checkpoint as c
        spots = [
            (os, n) for n in ('open', 'fsync', 'rename', 'replace', 'mkdir', 'rmdir', 'unlink', 'chmod', 'close')
        ] + [(io, 'open'), (builtins, 'open'), (c, 'save_file'), (c, 'sha256_of')]
        self.real = [(m, n, getattr(m, n)) for m, n in spots]
        for m, n, f in self.real: setattr(m, n, self.watched(n, f))
        return self
    def __exit__(self, *args):
        for m, n, f in self.real: setattr(m, n, f)
    def watched(self, name, f):
        def go(*args, **kwargs):
            me = len(self.seen)
            self.seen.append(name)
            if me == self.at and not self.after: os.kill(os.getpid(), signal.SIGKILL)
            try: return f(*args, **kwargs)
            finally:
                if me == self.at: os.kill(os.getpid(), signal.SIGKILL)
        return go


def crash_at_every_event(store, folder, on=3):
    "Kill a save before and after each of its file operations; return a list of errors, and figures."
    folder, wrong, steps, whole = Path(folder), [], 24, {}
    folder.mkdir(parents=True)
    sit(learner(store), steps, whole.__setitem__, CheckpointCallback(folder / 'all', 5, keep=99, disk_timeout=60.))
    snaps = {s: load_checkpoint(folder / f'all/step_{s:08d}').snapshot() for s in (5, 10, 15)}
    before = folder / 'before'
    for s in (5, 10): save_checkpoint(before / f'step_{s:08d}', snaps[s], state=dict(step=s))
    def save(here, over):
        if over:
            # the checkpoint of an existing step is overwritten
            save_checkpoint(here / 'step_00000010', snaps[10], state=dict(step=10))
        else: save_checkpoint(here / 'step_00000015', snaps[15], state=dict(step=15))
        prune_checkpoints(here, 1)
    runs, kinds, later = 0, set(), learner(store)
    for over in (False, True):
        here = folder / 'count'
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(before, here)
        with Events() as counted: save(here, over)
        kinds |= set(counted.seen)
        for at in range(len(counted.seen)):
            for after in (False, True):
                here = folder / 'here'
                shutil.rmtree(here, ignore_errors=True)
                shutil.copytree(before, here)
                def work():
                    with Events(at, after): save(here, over)
                _, status = os.waitpid(child(work), 0)
                if not os.WIFSIGNALED(status):
                    wrong.append(f'{counted.seen[at]} {at}: was not killed ({status})')
                    continue
                runs += 1
                said = []
                ck = load_newest_checkpoint(here, said.append)
                if ck is None or ck.step not in ((10,) if over else (10, 15)):
                    wrong.append(f'{counted.seen[at]} {at} {after}: {ck}')
                    continue
                if ck.snapshot().digest() != snaps[ck.step].digest():
                    wrong.append(f'{counted.seen[at]} {at}: the state differs')
                if runs % 10 == 0:
                    got = {}
                    sit(later, steps, got.__setitem__, ResumeFrom(ck.snapshot()), last=ck.step + on)
                    if got != {s: whole[s] for s in got} or len(got) != on:
                        wrong.append(f'{counted.seen[at]} {at}: the losses differ')
                # a later save succeeds
                save(here, over)
                if load_newest_checkpoint(here).step != (10 if over else 15):
                    wrong.append(f'{counted.seen[at]} {at}: the next save is not the newest')
                if left := [p.name for p in here.iterdir() if p.name.startswith('.')]:
                    wrong.append(f'{counted.seen[at]} {at}: {left} is left')
    return wrong, dict(crashes=runs, kinds=sorted(kinds))


# --------------------------------------------------------------------------- damage

def damage(path, kind, draw):
    "Damage a file; return False if that would change nothing."
    data = bytearray(path.read_bytes())
    if kind == 'flip': data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    elif kind == 'truncate': data = data[:int(draw.integers(len(data)))]
    else:
        a = int(draw.integers(len(data)))
        b = min(len(data), a + 512)
        if not any(data[a:b]): return False
        data[a:b] = bytes(b - a)
    path.write_bytes(data)
    return True


def damage_at_random(store, folder, each=300, seed=0):
    "Flip a bit, truncate, or zero a block of the newest checkpoint; return a list of errors, and figures."
    folder, wrong, draw = Path(folder), [], rng(seed, 'damage')
    sit(learner(store), 10, lambda *_: None, CheckpointCallback(folder, 5, keep=9, disk_timeout=60.))
    for p in folder.glob('best_*'): shutil.rmtree(p)
    new, was = folder / 'step_00000010', {f.name: f.read_bytes() for f in (folder / 'step_00000010').iterdir()}
    before, figures = load_checkpoint(folder / 'step_00000005').snapshot().digest(), {}
    for kind in ('flip', 'truncate', 'zero'):
        found = 0
        while found < each:
            f = new / sorted(was)[int(draw.integers(len(was)))]
            if not damage(f, kind, draw): continue
            said = []
            ck = load_newest_checkpoint(folder, said.append)
            if ck is None or ck.step != 5 or ck.snapshot().digest() != before: wrong.append(f'{kind} of {f.name}: {ck}')
            if not (len(said) == 1 and 'passed over' in said[0] and 'step_00000010' in said[0]):
                wrong.append(f'{kind} of {f.name}: said {said}')
            f.write_bytes(was[f.name])
            found += 1
        figures[kind] = found
    if load_newest_checkpoint(folder).step != 10: wrong.append('the undamaged checkpoint is not loaded any more')
    return wrong, figures


# --------------------------------------------------------------------------- a full disk

def full_disk(store, folder, limit=4096, steps=24, every=4, full=(9, 17)):
    "Limit the file size of the process to `limit` bytes for some steps, as on a full disk; return a list of errors."
    folder, wrong, whole, got = Path(folder), [], {}, {}
    folder.mkdir(parents=True)
    sit(learner(store), steps, whole.__setitem__)
    class Fill(Callback):
        order = 58
        def after_batch(self):
            if self.training and self.train_iter == full[0]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            if self.training and self.train_iter == full[1]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    def work():
        said, heard = [], []
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always')
            sit(
                learner(store),
                steps,
                got.__setitem__,
                Fill(),
                CheckpointCallback(folder / 'ck', every, keep=9, say=said.append, disk_timeout=60.0),
            )
        heard = [str(w.message) for w in heard if 'checkpoint' in str(w.message)]
        (folder / 'told').write_text(json.dumps([said, heard, got]))
    _, status = os.waitpid(child(work), 0)
    if status: return [f'the training ended with {status}'], []
    said, heard, got = json.loads((folder / 'told').read_text())
    if {int(k): v for k, v in got.items()} != whole: wrong.append('other losses')
    if len(heard) != 1: wrong.append(f'{len(heard)} warnings: {heard}')
    have = sorted(int(p.name[5:]) for p in (folder / 'ck').glob('step_*'))
    want = [s for s in range(every, steps + 1, every) if not full[0] <= s < full[1]]
    if have != want: wrong.append(f'checkpoints {have}, not {want}')
    for p in (folder / 'ck').iterdir():
        if p.name.startswith('.'):
            wrong.append(f'{p.name} is left')
            continue
        try: verify_checkpoint(p)
        except CheckpointError as e: wrong.append(str(e))
    return wrong, said
