"""What several test files share and no notebook needs: data sets that tell which items were opened, seeded loaders,
what a process has open, and hypothesis strategies under one small profile."""

import inspect
import os
import random
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import warm_call
from fastai.data.all import DataLoader, DataLoaders
from fastai.learner import Callback, Learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from hypothesis import settings, strategies as st
from torch import nn

settings.register_profile('toys', max_examples=30, deadline=None, derandomize=True, database=None)
settings.load_profile('toys')

def tail_targets(*counts, seed=0):
    "Labels with `counts[k]` items of class k, in a fixed random order, as a list of ints"
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()

class Numbered(torch.utils.data.Dataset):
    "Item i is `(a tensor of `shape` filled with i, its class)`, so that every batch tells which items it is made of"
    def __init__(self, targets, shape=(1,)): self.targets,self.shape = targets,shape
    def __len__(self): return len(self.targets)
    def __getitem__(self, i): return torch.full(self.shape, float(i)),self.targets[i]

class Counting(Numbered):
    "Keeps the index of every item opened, in order, in `opened`"
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.opened = []

    def __getitem__(self, i):
        self.opened.append(i)
        return super().__getitem__(i)

class Tally(Numbered):
    "Counts how often each item is opened, in memory that all processes share"
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.n_opened = torch.zeros(len(self), dtype=torch.int64).share_memory_()

    def __getitem__(self, i):
        self.n_opened[i] += 1
        return super().__getitem__(i)

class Points(Counting):
    "Item i is a random point, with its label"
    def __init__(self, counts=(28,14,6,3), seed=0):
        super().__init__(tail_targets(*counts, seed=seed))
        self.x = torch.randn(len(self), 6, generator=torch.Generator().manual_seed(seed))

    def __getitem__(self, i):
        self.opened.append(i)
        return self.x[i],self.targets[i]

class Noisy(Points):
    "Points with noise of all three generators"
    def __getitem__(self, i):
        x,y = super().__getitem__(i)
        return x + torch.rand(6) + random.random() + np.random.rand(),y

class Unopenable(Numbered):
    "Fails when an item is opened"
    def __getitem__(self, i): raise AssertionError(f'item {i} was opened')

class Endless(torch.utils.data.IterableDataset):
    "Has neither a length nor an index"
    def __iter__(self): return iter([(0.,0)])

class Mute(torch.utils.data.Dataset):
    "Has items, but keeps their labels to itself"
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.tensor([float(i)]),0

def make_net(n_in=6, n_out=4, drop=0.):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(n_in,7), nn.Tanh(), nn.Dropout(drop), nn.Linear(7,n_out))

def seeded_dl(ds, bs=8, seed=0, dl_type=DataLoader, shuffle=True, **kwargs):
    "A loader of `ds` whose shuffles follow from `seed`"
    dl = dl_type(ds, bs=bs, shuffle=shuffle, **{'num_workers':0, **kwargs})
    dl.rng = random.Random(seed)
    return dl

# Loaders that no function of the package takes, and what it says of its 'dls'
no_batch_size = 'loaders with a batch size. Got '
no_index = 'loaders of a data set with a length and an index. Got an iterable data set, Endless'
no_items = 'loaders with at least one training item. Got an empty training set'
bad_loaders = {
    'no batch size': (lambda: DataLoader(Numbered([0,1]), bs=None), no_batch_size+'bs=None'),
    'no batch size, PyTorch': (lambda: torch.utils.data.DataLoader(Numbered([0,1]), batch_size=None),
                               no_batch_size+'a PyTorch DataLoader without one'),
    'endless': (lambda: DataLoader(Endless(), bs=2), no_index),
    'endless, PyTorch': (lambda: torch.utils.data.DataLoader(Endless(), batch_size=2), no_index),
    'empty': (lambda: seeded_dl([]), no_items),
    'empty, PyTorch': (lambda: torch.utils.data.DataLoader(Numbered([]), batch_size=2), no_items),
    'list': (lambda: [1,2], 'made of fastai or PyTorch loaders. Got list'),
}

def make_learner(
    data=None, # A data set, from which two seeded loaders are made, or `DataLoaders`. Default: `Points()`.
    loss_func=None, # Default: `nn.CrossEntropyLoss()`
    cbs=None,
    net=None, # Default: `make_net()`
    bs=8,
    valid=None, # Data set to validate on, 32 at a time, or a loader. Default: the data set of training.
    wrap=None, # What to do with the loaders, such as `lambda dls: dls.weighted('sqrt')`
    device=None,
    **kwargs # Those of `Learner` go to the learner, all others to the training loader
):
    "A learner with plain SGD at a rate of 0.1, where `kwargs` do not say otherwise"
    of_learner = {k: kwargs.pop(k) for k in [*kwargs] if k in inspect.signature(Learner).parameters}
    if not isinstance(data, DataLoaders):
        if data is None: data = Points()
        if valid is None: valid = data
        if not isinstance(valid, DataLoader): valid = seeded_dl(valid, 32, shuffle=False)
        data = DataLoaders(seeded_dl(data, bs, **kwargs), valid, device=device)
    elif kwargs: raise TypeError(f'loaders that are made already take no {", ".join(kwargs)}')
    if wrap is not None: data = wrap(data)
    net = make_net() if net is None else net
    loss_func = nn.CrossEntropyLoss() if loss_func is None else loss_func
    return Learner(data, net, loss_func=loss_func, cbs=cbs, **{'opt_func':SGD, 'lr':.1, **of_learner})

def fixed_lams(*lams):
    "Patch the draw of λ: the values of `lams` over and over"
    lams = np.array(lams, dtype=float)
    return mock.patch('fastai_balmix.loaders.pairing.draw_lams', lambda n, alpha, rng: np.resize(lams, n))

class Probe(Callback):
    "Calls `func(learn)` at an event, and keeps what it returns in `seen`"
    def __init__(self,
        func,
        event='after_batch',
        order=90, # After every other callback's part in the event
        run_valid=False # Also during validation?
    ):
        self.func,self.order,self.run_valid,self.seen = func,order,run_valid,[]
        setattr(self, event, self._note)

    def _note(self): self.seen.append(self.func(self.learn))

def close(got, want, atol=1e-5, rtol=0, equal_nan=False):
    "Compare tensors, arrays, columns, lists or numbers in float64, of one shape unless `want` is one number"
    got,want = (o.to_numpy() if hasattr(o, 'to_numpy') else o for o in (got,want)) # columns of a table
    got,want = (torch.as_tensor(o, dtype=torch.float64).detach().cpu().as_subclass(torch.Tensor) for o in (got,want))
    if want.ndim==0: want = want.expand_as(got)
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol, equal_nan=equal_nan)

def must_be(owner, name, rest):
    "How the error of a bad argument begins, and `rest`, what is allowed and what came"
    return f"The '{name}' parameter of {owner} must be {rest}"

def item_numbers(x):
    "Numbers of the items in a batch of inputs from `Numbered`"
    return x.flatten(1)[:,0].long().tolist()

def n_first(p, x):
    "Number of items in a batch `x` that paired loader `p` has just delivered, partners not counted"
    return len(p.lam) if torch.is_tensor(p.lam) else len(x)//2 if p.lam else len(x)

def streams(p):
    "One epoch of a paired loader: the items of each batch, their partners, and λ"
    res = []
    for x,_ in p:
        i,n = item_numbers(x),n_first(p, x)
        res.append((i[:n], i[n:], p.lam.tolist() if torch.is_tensor(p.lam) else p.lam))
    return res

def generator_states(): return random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist()

def flat(batches): return [i for b in batches for i in b]

def quiet_fit(learn, n=1, cbs=None):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, cbs=cbs)
    return learn

def restart(learn, net, rng=0, seed=1):
    "Put a learner back to its start: weights of `net`, a new optimiser, and seeds for all random numbers"
    learn.model.load_state_dict(net.state_dict())
    # fastai leaves the gradients of a step that was cut short
    learn.model.zero_grad()
    learn.opt,learn.dls.train.rng = None,random.Random(rng)
    set_seed(seed)

def params(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
def equal(a, b): torch.testing.assert_close(a, b, rtol=0, atol=0)

# Sizes of 1 to 8 classes, some of them empty, at least one not
class_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)
exponents = st.one_of(st.floats(-2, 2), st.sampled_from(['instance','sqrt','class']))
alphas = st.sampled_from([.05, .1, .2, .3, 1., 3.])

# Processes

def children(pid):
    res = []
    for p in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError): # a thread that has just ended
            res += map(int, p.read_text().split())
    return res

def calls_made(func, *args):
    "How many functions are called on the way, in Python and in C: a measure of work on which no other process tells"
    n = 0
    def count(frame, event, arg):
        nonlocal n
        n += event in ('call','c_call')
    sys.setprofile(count)
    try: func(*args)
    finally: sys.setprofile(None)
    return n

def alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError: return False

def until(cond, seconds=60):
    "What `cond` returns as soon as it is true, for it may not last; or after so many seconds"
    end = time.monotonic()+seconds
    while not (seen := cond()) and time.monotonic()<end: time.sleep(.02)
    return seen

def open_files():
    "Where the file descriptors of this process lead, without the numbers of pipes and sockets"
    res = []
    for fd in os.listdir('/proc/self/fd'):
        with suppress(FileNotFoundError): # that of the listing itself
            res.append(os.readlink(f'/proc/self/fd/{fd}').partition(':[')[0])
    return sorted(res)

# Several processes on one machine without a GPU

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def broadcast_on_cpu(self, t, rank):
    "What fastai's `DistributedDL._broadcast` does on a GPU"
    t = torch.LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()

def _as_rank(rank, world_size, port, func, args):
    from fastai.distributed import DistributedDL
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR='127.0.0.1',
                      MASTER_PORT=str(port), ACCELERATE_USE_CPU='true')
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=world_size, timeout=timedelta(minutes=5))
    DistributedDL._broadcast = broadcast_on_cpu
    # These processes end by `os._exit`. `destroy_process_group` can wait for a thread of gloo that waits for Python
    # (PyTorch 2.6).
    return func(rank, *args)

def on_ranks(world_size, func, *args, timeout=900):
    "Results of `func(rank, *args)` in processes joined over gloo, or an `ExceptionGroup` of their errors"
    pytest.importorskip('accelerate')
    port = free_port()
    def call(rank):
        try: return warm_call(_as_rank, rank, world_size, port, func, args, timeout=timeout)
        except Exception as e: return e
    with ThreadPoolExecutor(world_size) as pool: res = [*pool.map(call, range(world_size))]
    if errors := [o for o in res if isinstance(o, Exception)]:
        raise ExceptionGroup(f'{func.__name__} on {world_size} ranks', errors)
    return res
