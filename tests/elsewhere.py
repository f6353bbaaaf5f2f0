"""A second device for machines without a GPU: its tensors are in main memory and behave like those of a GPU.

An operation on tensors of this device and of the CPU is an error; a tensor becomes an array only after it is copied
to the CPU; there is no cumulative sum under deterministic algorithms; and each synchronization with the device is
counted. `python tests/elsewhere.py CASE STEPS` trains on this device and on the CPU, and prints the results as JSON.
With `ELSEWHERE_FLOAT64=0` the device has no float64, like Apple's MPS; its autocast supports float16, so that loss
scaling is tested here too. The case `vae_gan` omits the R1 penalty of the critic, because a device written in Python
does not support gradients of gradients."""
import collections, json, os, sys, tempfile, traceback
from pathlib import Path

import torch
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend('elsewhere')
torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
no_float64 = os.environ.get('ELSEWHERE_FLOAT64') == '0'
AWAY, CPU, aten = torch.device('elsewhere', 0), torch.device('cpu'), torch.ops.aten
# operations that move tensors between devices
moves = {aten._to_copy.default, aten.copy_.default}
# as on a GPU, index tensors may be on the CPU
may_mix = moves | {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
asks = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
}
# places in aurl that synchronized with the device
waits = collections.Counter()

class Away(torch.Tensor):
    "A tensor in main memory that reports the second device."
    @staticmethod
    def __new__(cls, here, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=AWAY,
            requires_grad=requires_grad,
        )
    def __init__(self, here, requires_grad=False): self.here = here
    def __repr__(self): return f'Away({self.here})'
    def __getitem__(self, i): # torch makes an index of a list on the tensor's device, which it cannot for devices written in Python
        fetch = lambda j: torch.tensor(j) if isinstance(j, list) else j
        return super().__getitem__(tuple(map(fetch, i)) if isinstance(i, tuple) else fetch(i))
    def new_tensor(self, x, dtype=None, **kw): return torch.tensor(x, dtype=dtype or self.dtype).to(AWAY)
    def tolist(self):
        _waited()
        return self.here.tolist()
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})

def _waited():
    ours = [
        f'{Path(f.filename).name}:{f.lineno}'
        for f in traceback.extract_stack()
        if '/aurl/' in f.filename.replace(os.sep, '/') and 'tests' not in f.filename
    ]
    waits[' < '.join(ours[::-1][:2])] += 1

def _run(func, args, kwargs):
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    to = kwargs.get('device')
    there = (
        torch.device(to).type == AWAY.type
        if to is not None
        else isinstance(args[0], Away) if func in moves else bool(away)
    )
    if away and func not in may_mix and (strangers := [t for t in tensors if not isinstance(t, Away) and t.ndim]):
        raise RuntimeError(
            f'{func}: expected all tensors on one device, and {[tuple(t.shape) for t in strangers]} are on the CPU'
        )
    if away and (func in asks or func in may_mix - moves and any(t.dtype == torch.bool for t in tensors[1:])):
        _waited()  # the number of True values is needed
    if (
        func is aten.cumsum.default
        and away
        and away[0].is_floating_point()
        and torch.are_deterministic_algorithms_enabled()
    ):
        raise RuntimeError('cumsum has no deterministic implementation')
    here = lambda t: t.here
    kwargs = {k:CPU if k == 'device' and v is not None else v for k,v in kwargs.items() if k != 'pin_memory'}
    out = func(*tree_map_only(Away, here, args), **tree_map_only(Away, here, kwargs))
    if func in moves and isinstance(args[func is aten.copy_.default], Away) and not there:
        _waited()  # a value is copied to the CPU
    if there and no_float64 and any(t.dtype == torch.float64 for t in tree_iter(out) if isinstance(t, torch.Tensor)):
        raise TypeError(f'{func}: this device has no float64')
    known = {id(t.here):t for t in away}
    return tree_map_only(torch.Tensor, lambda t: known.get(id(t)) if id(t) in known else Away(t) if there else t, out)

library = torch.library.Library('_', 'IMPL')
library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), 'PrivateUse1')

def _in_low_precision(name):
    "Register the operation `name` under autocast: float32 inputs are cast to the dtype of autocast, as on a GPU."
    op = getattr(aten, name).default
    def run(*args):
        low = torch.get_autocast_dtype(AWAY.type)
        low_products[str(low)] += 1
        cast = lambda t: t.to(low) if t.dtype == torch.float32 else t
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return op(*tree_map_only(torch.Tensor, cast, args))
    autocasts.impl(name, run, 'AutocastPrivateUse1')
low_products = collections.Counter()                                         # by dtype
autocasts = torch.library.Library('aten', 'IMPL')
for name in ('mm', 'bmm', 'addmm', 'matmul', 'linear', 'conv1d'): _in_low_precision(name)
passes = torch.library.Library('_', 'IMPL')
passes.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')
# tensors written in Python cannot be inference tensors
torch.inference_mode = torch.no_grad
# a parameter that is moved stays the same object, as on a GPU
torch.__future__.set_swap_module_params_on_conversion(True)
class Generator(torch.Generator):
    def __new__(cls, device='cpu'):
        return Generator.__mro__[1].__new__(cls, device=CPU if torch.device(device).type == AWAY.type else device)
    def __init__(self, device='cpu'): super().__init__()

def _by_way_of_here(make):
    "`make` for a device that torch itself cannot fill from a list."
    def made(x, *args, device=None, **kw):
        if device is None or torch.device(device).type != AWAY.type: return make(x, *args, device=device, **kw)
        return make(x, *args, **kw).to(device)
    return made
for name in ('tensor', 'as_tensor', 'asarray'): setattr(torch, name, _by_way_of_here(getattr(torch, name)))


# trainings that together use most options of a configuration

cases = dict(
    fp16=dict(
        dtype='fp16',
        losses={'rhythm': 0.1},
        balance='uncertainty',
        accumulate=2,
        ema=0.9,
        clip='percentile',
        perturb=0.02,
    ),
    plain={},
    vae=dict(mode='vae', reproducible='verified', monitor={'every': 3}),
    vae_gan=dict(mode='vae_gan', adversarial=dict(r1_weight=0.0), reproducible='deterministic', monitor={'every': 3}),
    losses=dict(
        losses={'rhythm': 0.1, 'dissonance': 0.1, 'repetition': 0.1, 'form': 0.1},
        balance='uncertainty',
        grammar_weight=0.1,
        ema=0.9,
        clip='percentile',
        curriculum='complexity',
        accumulate=2,
    ),
)

# options of sampling that are tried on the device
sampling = [
    dict(typical_p=0.8, epsilon_cutoff=0.001, eta_cutoff=0.001, top_k=50, top_p=0.95, min_p=0.001),
    dict(temperatures=dict(note=0.8, time=1.2), mirostat_tau=2.0, repetition_penalty=1.2, no_repeat_ngram_size=3),
    dict(bad_words_ids=[[20], [5, 6]], repetition_penalty=1.1, repetition_window=9, temperature=0.7),
    dict(num_beams=2, force_words_ids=[[[i] for i in range(4, 92)]], repetition_penalty=1.1),
]

def train(case, device, steps, folder):
    "Train on `device`: the loss of each step, its synchronizations, the validity of pieces, and the loss scales."
    from unittest.mock import patch
    from fastai.callback.core import Callback
    from aurl.commands.configs import TrainConfig
    from aurl.commands.learner_setup import build_learner
    from aurl.commands.run_data import train_valid_split
    from aurl.commands.training import train_run
    from aurl.config import make_config
    from aurl.data.token_store import TokenStore
    from aurl.train.budget import RunLog
    from aurl.generate.novelty import Novelty
    from aurl.generate.sampling import generate_ids
    from aurl.experiments.run import Experiment
    from aurl.tokens.verdict import verdict
    own = dict(dtype='fp32') if device == 'cpu' else {}                       # float16 is for the device
    cfg = make_config(
        TrainConfig,
        overrides={
            **dict(
                data=str(folder / 'store'),
                model='tiny',
                steps=steps,
                length=512,
                batch_size=2,
                valid=0.34,
                dtype='fp32',
                device=device,
                checkpoint_every=0,
                monitor={'every': 10_000},
            ),
            **cases[case],
            **own,
        },
    )
    class Book(Callback):
        order, losses, waited, before = 1000, [], [], 0
        def after_batch(self):
            if not self.training: return
            self.waited.append(sum(waits.values()) - self.before)
            self.losses.append(self.learn.loss.detach().item())
            Book.before = sum(waits.values())
    run = Experiment(device, cfg, root=folder/'runs')
    store = TokenStore(folder/'store')
    train, held = train_valid_split(store, cfg.valid, cfg.seed, cfg.split)
    waits.clear()
    learn = build_learner(cfg, store, train, held, run=run)
    learn.add_cb(Book())
    # a training this short would log every step; here, as in a long one, the lines are ten steps apart
    every_ten = property(lambda log: log.step == 1 or log.step % log.every == 0)
    with patch.object(RunLog, 'due', every_ten): train_run(learn, run, cfg)
    assert next(learn.model.parameters()).device.type == device
    pieces = generate_ids(learn.model, n=2, max_tokens=48, seed=1)
    if case == 'losses':
        own = [*sampling, dict(processors=[Novelty([store[int(i)] for i in train], 2)])]
        for how in own: pieces += generate_ids(learn.model, n=1, max_tokens=24, seed=1, profile=False, **how)
    scales = [m['loss_scale'] for m in run.metrics() if m.get('loss_scale')]
    return dict(losses=Book.losses, waited=Book.waited, valid=[verdict(x).valid for x in pieces], scales=scales)

def refuses():
    "Whether an operation on tensors of two devices raises an error."
    try: torch.ones(2) + torch.ones(2).to(AWAY)
    except RuntimeError as e: return 'one device' in str(e)
    return False

def main(case, steps):
    from aurl.corpus.chorales import chorale_score
    from aurl.data.store import prepare
    from aurl.midi.write import write_midi
    import aurl.commands.training, aurl.device
    torch.Generator = Generator
    if no_float64: aurl.device.device_types_without_float64.add(AWAY.type)
    plain = aurl.device.pick_device
    def pick(name='auto'): return AWAY if str(name).startswith(AWAY.type) else plain(name)
    for m in list(sys.modules.values()):
        if getattr(m, '__name__', '').startswith('aurl') and getattr(m, 'pick_device', None) is plain:
            m.pick_device = pick
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder/'midi').mkdir()
        for w in ('1.6', '10.7', '101.7', '102.7', '103.6', '104.6'):
            write_midi(chorale_score(f'bwv{w}'), folder/f'midi/{w}.mid')
        prepare(folder/'midi', folder/'store', workers=0)
        here, there = train(case, 'cpu', steps, folder), train(case, AWAY.type, steps, folder)
    print(json.dumps(dict(here=here, there=there, where=waits.most_common(20), refuses=refuses(), low=low_products)))

if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]))
