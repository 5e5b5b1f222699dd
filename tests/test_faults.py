"""What happens when something goes wrong in the night. Each fault is provoked as it happens to people: with real worker
processes, signals, files and limits of the system. Each must end in words that say what it was; must leave no process,
no open file and no file behind; and the same learner must then train as a fresh one does, bit for bit.

`docs/faults.md` is the table of them all."""

import ctypes
import gc
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import threading
import traceback
import warnings
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import root, warm_call
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.vision import all as fv
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.utils.data import ConcatDataset, Subset, get_worker_info
from toys import (
    Points,
    children,
    equal,
    make_learner,
    make_net,
    open_files,
    params,
    quiet_fit,
    restart,
    seeded_dl,
    until,
)

from fastai_balmix.all import BalancedMixUp, Checkpoint, ProgressiveSampling, imbalance_metrics
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.results import read_failures
from fastai_balmix.compare.runs import Run
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.loaders.blame import item_source


class Faulty(Points):
    "Points with a function that is called before an item is made"
    fault = None
    def __getitem__(self, i):
        if self.fault is not None: self.fault(i)
        return super().__getitem__(i)

# What of this package is in use: loaders and callback. `valid` says whether the validation items come through it too.
def as_it_is(dls): return dls
def no_callback(): return
routes = {
    'balmix': (as_it_is, lambda: BalancedMixUp(1., seed=0)),
    'balmix per item': (as_it_is, lambda: BalancedMixUp(1., per_item=True, seed=0)),
    'progressive': (as_it_is, lambda: ProgressiveSampling(seed=0)),
    'weighted': (lambda d: d.weighted(seed=0), no_callback),
    'cached': (lambda d: d.cached('1MB'), no_callback),
    'all': (lambda d: d.cached('1MB').weighted('sqrt', seed=0), lambda: BalancedMixUp(1., seed=0)),
}

def faulty_learner(route, ds=None, **kwargs):
    return make_learner(Faulty() if ds is None else ds, valid=Points(), wrap=routes[route][0], device='cpu', **kwargs)

def fit(learn, route, n=1, cbs=()): return quiet_fit(learn, n, [*fv.L(routes[route][1]()), *cbs])

def refit(learn, route, n=1):
    "Parameters after the fit of a learner that was put back to its start"
    restart(learn, make_net())
    return params(fit(learn, route, n))

_fresh = {}
def fresh(route, num_workers=0):
    "The same of a fresh learner; the first with workers also starts what PyTorch keeps for a process"
    if (route,num_workers) not in _fresh:
        _fresh[route,num_workers] = refit(faulty_learner(route, num_workers=num_workers), route)
    return _fresh[route,num_workers]

@pytest.fixture(scope='module', autouse=True)
def frozen():
    "What was imported is not looked at again each time that garbage is collected"
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    "A folder for temporary files of this test alone"
    (tmp_path/'temp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'temp'))
    return tmp_path/'temp'

@contextmanager
def nothing_left(learn, transfers=True, lost=None):
    """No process more than before, no open file, no temporary file. Where `transfers` between processes do not count,
    no pipe does, and shared memory counts only if this process has mapped it. Processes that stay are ended and put on
    the list `lost`, where there is one."""
    def state():
        active_children() # lets go of those that have ended, which Python otherwise does when it starts the next
        mapped = Path('/proc/self/maps').read_text()
        def counts(o): return transfers or not (o=='pipe' or (o.startswith('/dev/shm/') and o not in mapped))
        opened = [o for o in open_files() if counts(o)]
        shared = [o for o in os.listdir('/dev/shm') if f'_{os.getpid()}_' in o]
        return sorted(children(os.getpid())),opened,sorted(os.listdir(tempfile.gettempdir())),shared
    gc.collect()
    before = state()
    yield
    # fastai's learner keeps the batch at hand, in a worker's shared memory, and the loss with all that its gradient
    # needs, until its next fit is over
    learn._end_cleanup()
    learn.loss_grad = None
    def same():
        gc.collect()
        return state()==before
    if lost is not None and not until(same, 15): # workers end within 5 s of their parent's loader
        for p in {*children(os.getpid())}-{*before[0]}:
            lost.append(p)
            os.kill(p, signal.SIGKILL)
            os.waitpid(p, 0)
        # where a process that was killed had its sockets
        for o in {*os.listdir(tempfile.gettempdir())}-{*before[2]}:
            if o.startswith('pymp-'): shutil.rmtree(Path(tempfile.gettempdir())/o)
    assert until(same), (before,state())

def raised(f):
    "The error of `f` as a user reads it, and its class; nothing holds the error, nor what its frames do"
    try: f()
    except BaseException as e: return ''.join(traceback.format_exception(e)),type(e)
    pytest.fail('nothing was raised')

def check_after(learn, route, num_workers=0):
    learn.dls.train.dataset.fault = None
    equal(refit(learn, route), fresh(route, num_workers))

# An item cannot be made

class TwoParts(ValueError):
    def __init__(self, a, b): super().__init__(f'{a} {b}')

class Mute(OSError):
    def __init__(self, *args): super().__init__('no text of its own')

class WithMessage(KeyError): message = 'one for all'

def local_class():
    class Local(LookupError): pass
    return Local('cut short')

# What is raised, and what arrives without and with workers
errors = {
    'plain': (lambda: ValueError('cut short'), ValueError, ValueError),
    'key': (lambda: KeyError('cut short'), KeyError, KeyError),
    'empty': (RuntimeError, RuntimeError, RuntimeError),
    'system': (lambda: FileNotFoundError(2, 'cut short', 'one.jpg'), FileNotFoundError, FileNotFoundError),
    'two parts': (lambda: TwoParts('cut','short'), TwoParts, ValueError),
    'deaf': (lambda: Mute('cut short'), Mute, OSError),
    'message': (lambda: WithMessage('cut short'), WithMessage, KeyError),
    'local': (local_class, None, LookupError),
    'text': (lambda: UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'cut short'), UnicodeDecodeError, UnicodeError),
    'end': (lambda: StopIteration('cut short'), RuntimeError, RuntimeError),
    'memory': (lambda: MemoryError('cut short'), MemoryError, MemoryError),
}

def at_item(k, f):
    def fault(i):
        if i==k: f()
    return fault

def throw(make): raise make()

@pytest.mark.thinned
@pytest.mark.parametrize('name', errors)
@pytest.mark.parametrize('num_workers', [0,1])
def test_an_item_that_cannot_be_made_is_named(name, num_workers):
    (make,own,carried),route = errors[name],'all' if name in ('plain','local') else 'balmix'
    fresh(route, num_workers)
    learn = faulty_learner(route, num_workers=num_workers)
    learn.dls.train.dataset.fault = at_item(17, lambda: throw(make))
    with nothing_left(learn): said,cls = raised(lambda: fit(learn, route))
    assert 'This was item 17 of the data set.' in said and ('cut short' in said or name in ('empty','deaf'))
    assert said.count('This was item 17')==1
    wanted = carried if num_workers else own
    if wanted is None: assert cls.__name__=='Local'
    else: assert cls is wanted
    check_after(learn, route, num_workers)

def test_workers_end_although_their_error_is_held():
    """A notebook holds the last error. PyTorch's own loader would then keep its workers until garbage is collected, and
    wait 5 seconds for each."""
    fresh('balmix', 1)
    learn = faulty_learner('balmix', num_workers=1)
    before = children(os.getpid())
    learn.dls.train.dataset.fault = at_item(17, lambda: throw(lambda: ValueError('cut short')))
    gc.disable()
    try:
        with pytest.raises(ValueError) as held: fit(learn, 'balmix')
        assert until(lambda: children(os.getpid())==before) and held
    finally: gc.enable()

@pytest.mark.parametrize('route', ['balmix per item','progressive','weighted','cached'])
def test_every_loader_of_ours_names_the_item(route):
    fresh(route)
    learn = faulty_learner(route)
    # of the rarest class, which each of them draws
    k = learn.dls.train.dataset.targets.index(3)
    learn.dls.train.dataset.fault = at_item(k, lambda: throw(lambda: ValueError('cut short')))
    with nothing_left(learn): said,cls = raised(lambda: fit(learn, route, 5))
    assert cls is ValueError and f'This was item {k} of the data set.' in said and said.count('This was item')==1
    check_after(learn, route)

# Pictures

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Parts of a photograph in folders, one of them cut short"
    folder = tmp_path_factory.mktemp('photos')
    im = load_sample_image('china.jpg')
    for i in range(18):
        fn = folder/'ab'[i%3==0]/f'{i:02}.jpg'
        fn.parent.mkdir(exist_ok=True)
        Image.fromarray(im[i*9:i*9+80, i*15:i*15+120]).save(fn)
    fn = folder/'a'/'07.jpg'
    fn.write_bytes(fn.read_bytes()[:-1500])
    return folder

squish = fv.Resize(16, method='squish')

def by_folder(p, **kwargs):
    return fv.ImageDataLoaders.from_folder(p, valid_pct=.2, seed=3, item_tfms=squish, bs=3, **kwargs)

def image_data(p):
    "One picture in six is for validation"
    df = pd.DataFrame(dict(path=sorted(str(o.relative_to(p)) for o in p.glob('*/*.jpg'))))
    df['label'] = [o[0] for o in df.path]
    df['split'] = ['valid' if int(o[2:4])%6==5 else 'train' for o in df.path]
    return ImageData(df, ['a','b'], root=p)

def by_table(p, **kwargs):
    df = image_data(p).df
    df = pd.DataFrame(dict(file=df.path, label=df.label, valid=df.split=='valid'))
    return fv.ImageDataLoaders.from_df(df, p, valid_col='valid', item_tfms=squish, bs=3, **kwargs)

def by_image_data(p, **kwargs): return image_data(p).dataloaders(size=16, bs=3, **kwargs)

def read_file(key, folder): return Image.open(Path(folder)/key)
def by_function(p, **kwargs):
    d = image_data(p)
    return ImageData(d.df, ['a','b'], images=partial(read_file, folder=p)).dataloaders(size=16, bs=3, **kwargs)

picture_net = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48,2))

@pytest.mark.thinned
@pytest.mark.parametrize('source', [by_folder,by_table,by_image_data,by_function])
@pytest.mark.parametrize('num_workers', [0,1])
def test_a_corrupt_picture_is_named(photos, source, num_workers):
    dls = source(photos, num_workers=num_workers)
    for route in ('balmix','cached','weighted') if not num_workers else ('balmix',):
        learn = fv.Learner(routes[route][0](dls), picture_net(), loss_func=nn.CrossEntropyLoss())
        with nothing_left(learn): said,cls = raised(lambda: fit(learn, route, 8))
        assert cls is OSError and 'image file is truncated' in said
        path = re.search(r'This was item (\d+) of the data set: (.*07\.jpg)', said)
        assert path and path[2].endswith('a/07.jpg')
        items = dls.train_ds.items
        if source is by_table: items = items.iloc
        assert '07.jpg' in str(items[int(path[1])])

def test_the_path_is_found_where_a_data_set_has_one(photos):
    files = sorted(photos.glob('a/*.jpg'))
    ds = fv.Datasets(files, [[fv.PILImage.create]])
    lists = fv.TfmdLists(files, [fv.PILImage.create])
    class Folders(torch.utils.data.Dataset):
        def __init__(self): self.samples = [(str(o),0) for o in files]
        def __len__(self): return len(files)
    for o in ds,lists,Folders(): assert item_source(o, 3)==str(files[3])
    assert item_source(Subset(ds, [5,3]), 1)==str(files[3]) and item_source(ds.subset(0), 3)==str(files[3])
    for i in 3,len(files)+3: assert item_source(ConcatDataset([ds,Folders()]), i)==str(files[3])
    assert item_source(Points(), 3)==item_source(fv.Datasets(range(5), [[lambda i: i]]), 3)==''

class Broken(fv.Transform):
    "Fails once, at its third call"
    n = 0
    def encodes(self, x:torch.Tensor):
        self.n += 1
        if self.n==3: raise ValueError('cut short')
        return x

class Worn(fv.Transform):
    "Fails from its third call on"
    n = 0
    def encodes(self, x:torch.Tensor):
        self.n += 1
        if self.n>=3: raise ValueError('cut short')
        return x

def test_an_item_transform_that_fails_is_named_with_the_item():
    for route in 'balmix','cached','weighted':
        learn = faulty_learner(route, dl_type=fv.TfmdDL)
        learn.dls.train.after_item.add(Worn())
        said,cls = raised(lambda: fit(learn, route))
        assert cls is ValueError and re.search(r'This was item \d+ of the data set', said) and 'cut short' in said

# The rest of a step

class Once:
    "Raises at its `n`th call, and never again"
    def __init__(self, n): self.left = n
    def __call__(self, *args):
        self.left -= 1
        if self.left==0: raise ValueError('cut short')

class FailingMetric(fv.Metric):
    name = 'failing'
    def __init__(self): self.once = Once(2)
    def reset(self): pass
    def accumulate(self, learn): self.once()
    @property
    def value(self): return 0.

class FailingLoss(nn.CrossEntropyLoss):
    once = lambda self: None
    def forward(self, *args, **kwargs):
        self.once()
        return super().forward(*args, **kwargs)

@pytest.mark.thinned
@pytest.mark.parametrize('route', ['balmix','balmix per item','weighted','cached'])
@pytest.mark.parametrize('where', ['batch transform','model','metric','loss'])
@pytest.mark.parametrize('num_workers', [0,1])
def test_what_fails_in_a_step_is_told_as_it_is(route, where, num_workers):
    fresh(route, num_workers)
    learn = faulty_learner(route, num_workers=num_workers, loss_func=FailingLoss(),
                           metrics=FailingMetric() if where=='metric' else None, dl_type=fv.TfmdDL)
    once = Once(3)
    if where=='batch transform': learn.dls.train.after_batch.add(Broken())
    if where=='model': learn.model.register_forward_pre_hook(lambda *_: once())
    if where=='loss': learn.loss_func.once = once
    with nothing_left(learn): said,cls = raised(lambda: fit(learn, route, 2))
    assert cls is ValueError and 'cut short' in said
    check_after(learn, route, num_workers)

@pytest.mark.parametrize('route', ['balmix','balmix per item'])
def test_a_loss_of_wrong_shape(route):
    learn = faulty_learner(route, loss_func=nn.CrossEntropyLoss(reduction='none'))
    start = params(learn)
    said,cls = raised(lambda: fit(learn, route))
    # with a λ for each pair it is the mixed loss that is made of it
    assert cls is ValueError
    assert ('BalancedMixUp needs a loss function that gives one number for a batch, '
            'but it gave a tensor of shape (8,).') in said
    equal(params(learn), start)
    learn.loss_func = nn.CrossEntropyLoss()
    check_after(learn, route)

@pytest.mark.thinned
@pytest.mark.parametrize('route', routes)
@pytest.mark.parametrize('value', [float('nan'),float('inf')])
def test_a_loss_that_is_no_number_is_not_hidden(route, value):
    class Spoilt(Faulty):
        def __getitem__(self, i):
            x,y = super().__getitem__(i)
            return (x*value if i==17 and self.spoilt else x),y
    ds = Spoilt()
    ds.spoilt = False
    learn = faulty_learner(route, ds, metrics=imbalance_metrics())
    ds.spoilt = True
    # stopped where somebody asked for it
    losses = []
    def keep(self): losses.append(float(self.learn.loss))
    fit(learn, route, 9, [TerminateOnNaNCallback(),fv.Callback(after_backward=keep)])
    assert len(losses)<9*len(learn.dls.train) and not np.isfinite(losses[-1]) and np.isfinite(losses[:-1]).all()
    # shown where nobody did
    with pytest.warns(UserWarning, match='51 predictions are NaN'): fit(learn, route, 9)
    rows = np.array(learn.recorder.values, dtype=float)
    assert np.isnan(rows[-1]).all()
    ds.spoilt,learn.metrics = False,fv.L()
    if route in ('cached','all'): learn.dls = faulty_learner(route).dls # what it has kept is spoilt
    check_after(learn, route)

# Worker processes

def in_worker(k, f): return at_item(k, lambda: get_worker_info() is not None and f())

@pytest.mark.thinned
@pytest.mark.parametrize('how', ['killed','shared memory','ended'])
@pytest.mark.parametrize('route', ['balmix','all'])
def test_a_worker_that_dies(how, route):
    "By the text of each face in docs/faults.md"
    fresh(route, 2)
    learn = faulty_learner(route, num_workers=2)
    def die():
        if how=='killed': os.kill(os.getpid(), signal.SIGKILL)
        # what the system sends where shared memory, which was promised, is not there when it is written to
        if how=='shared memory': os.kill(os.getpid(), signal.SIGBUS)
        os._exit(3)
    learn.dls.train.dataset.fault = in_worker(17, die)
    with nothing_left(learn): said,cls = raised(lambda: fit(learn, route))
    assert cls is RuntimeError
    worker = r'DataLoader worker \(pid(\(s\))? [\d, ]+\)'
    faces = {'killed':'is killed by signal: Killed', 'shared memory':"Bus error.*workers are out of shared memory",
             'ended':'exited unexpectedly'}
    assert re.search(f'{worker}.*({faces[how]}|exited unexpectedly)', said, re.DOTALL)
    check_after(learn, route, 2)

def no_memory(kind):
    "Takes more memory than is left to a process"
    used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used+400_000_000,resource.RLIM_INFINITY))
    {'numpy':np.ones, 'torch':torch.ones, 'python':bytearray}[kind](1_000_000_000)

def worker_without_memory(kind):
    "What a fit says whose worker runs out of memory, and whether the next fit is that of a fresh learner"
    tempfile.tempdir = tempfile.mkdtemp()
    fresh('balmix', 1)
    learn = faulty_learner('balmix', num_workers=1)
    learn.dls.train.dataset.fault = in_worker(17, lambda: no_memory(kind))
    with nothing_left(learn): said,cls = raised(lambda: fit(learn, 'balmix'))
    check_after(learn, 'balmix', 1)
    return said,cls

@pytest.mark.thinned(1)
@pytest.mark.parametrize('kind,words', [
    ('numpy','Unable to allocate'), ('torch',"can't allocate memory"), ('python','MemoryError')
])
def test_a_worker_out_of_memory(kind, words):
    # A worker can die while it holds a lock of PyTorch's queue, and PyTorch then waits for it for ever. That is no
    # fault of ours, so such a process is ended and another one tried.
    for last in False,False,True:
        try: said,cls = warm_call(worker_without_memory, kind, timeout=120)
        except TimeoutError:
            if last: raise
        else: break
    assert cls is (RuntimeError if kind=='torch' else MemoryError)
    assert words in said and 'This was item 17 of the data set.' in said

# Ctrl-C

def interrupted(n, seed):
    """Stop fits by Ctrl-C after random times, as a terminal does it, and the workers as well. Does each next fit equal
    that of a fresh learner? Also the processes that stayed."""
    rng,res,lost = random.Random(seed),[],[]
    tempfile.tempdir = tempfile.mkdtemp()
    gc.collect()
    gc.freeze()
    for k in range(n):
        route,num_workers = ('balmix','all','weighted')[k%3],(2,0)[k//3%2]
        expected = fresh(route, num_workers)
        learn = faulty_learner(route, num_workers=num_workers)
        done = threading.Event()
        def press():
            wait = rng.uniform(0, .7)
            while not done.wait(wait):
                os.killpg(os.getpid(), signal.SIGINT)
                wait = 3 # again, as people do, where Python itself has swallowed it
        # Python leaves two pipes where Ctrl-C comes between their making and that of the worker. PyTorch leaves a batch
        # open where it comes between the batch's arrival from a worker and its mapping. It leaves the worker where this
        # process is interrupted while PyTorch starts it, and the worker swallows its own Ctrl-C.
        with nothing_left(learn, transfers=False, lost=lost):
            t = threading.Thread(target=press)
            t.start()
            try: fit(learn, route, 10**6)
            except KeyboardInterrupt: stopped = True
            # where Python has swallowed it in this process, but not in a worker
            except RuntimeError as e: stopped = 'DataLoader worker' in str(e)
            finally: done.set()
            t.join()
        res.append(stopped and torch.equal(refit(learn, route), expected))
    return res,lost

def check_interrupted(n, seed):
    res,lost = warm_call(interrupted, n, seed, timeout=900)
    # Fits as short as these start workers most of the time. PyTorch loses those it was starting for loaders that are
    # not ours, such as that of validation.
    assert res==[True]*n and len(lost)<=n

def test_ctrl_c_at_a_random_moment(): check_interrupted(1, 1)

@pytest.mark.slow
def test_ctrl_c_at_more_random_moments(): check_interrupted(8, 2)

# A data set of another length

@pytest.mark.parametrize('route', ['balmix','balmix per item','progressive','weighted','all'])
def test_a_data_set_that_shrinks_between_epochs_is_refused(route):
    ds = Faulty()
    learn = faulty_learner(route, ds)
    def shrink(self):
        if self.learn.epoch==0: ds.targets = ds.targets[:40]
    said,cls = raised(lambda: fit(learn, route, 3, [fv.Callback(after_epoch=shrink)]))
    assert cls is ValueError
    assert ('needs a data set that keeps its length, but this one shrank from 51 to 40 items. '
            'Make the DataLoaders again.') in said
    assert learn.epoch==1 and learn.iter==len(learn.dls.valid)-1 # not a batch of the next epoch
    ds.targets = Points().targets
    check_after(learn, route)

def test_kept_items_of_a_data_set_that_shrinks_are_not_used():
    class Strict(Faulty):
        def __getitem__(self, i):
            if i>=len(self): raise IndexError(f'no item {i}')
            return super().__getitem__(i)
    ds = Strict()
    learn = fit(faulty_learner('cached', ds), 'cached')
    ds.targets = ds.targets[:40]
    said,cls = raised(lambda: fit(learn, 'cached'))
    assert cls is IndexError
    assert re.search(r'This was item (4\d|50) of the data set. '
                     'The data set has 40 items, and had 51 when the loader was made.', said)
    ds.targets = Points().targets
    check_after(learn, 'cached')

@pytest.mark.parametrize('route', ['balmix','weighted','progressive'])
def test_labels_of_a_data_set_that_grows_are_read_again(route):
    "New items in front, so that every label is another"
    class Growing(torch.utils.data.Dataset):
        def __init__(self): self.targets = [0]*30+[1]*10
        def __len__(self): return len(self.targets)
        def __getitem__(self, i): return torch.randn(6),self.targets[i]
    ds,drawn = Growing(),[]
    learn = faulty_learner(route, ds)
    class Watch(fv.Callback):
        order,run_valid = -4 if route=='balmix' else 40,False
        def before_batch(self):
            if route!='balmix': drawn[-1] += self.y.tolist()
            elif self.dl.lam: drawn[-1] += self.y[len(self.y)//2:].tolist() # partners alone
        def before_train(self): drawn.append([])
        def after_epoch(self):
            if self.epoch==9: ds.targets = [2]*3+ds.targets
    fit(learn, route, 20, [Watch()])
    # a third each with classes 0, 1 and 2 instead of a half each; 5 standard deviations
    late = np.concatenate(drawn[12:])
    share = dict(balmix=1/3, weighted=1/3, progressive=(3/40+(1/3-3/40)*.8))[route]
    assert {*np.concatenate(drawn[:10])}=={0,1} and abs((late==2).mean()-share)<5*(share*(1-share)/len(late))**.5

# A full disk

def on_a_small_disk(folder, size):
    "Mount a disk of so many bytes, for this process alone"
    libc = ctypes.CDLL(None, use_errno=True)
    uid,gid = os.getuid(),os.getgid()
    def refused(): return PermissionError(ctypes.get_errno(), "no mounts of one's own here")
    if libc.unshare(0x10000000|0x00020000): raise refused() # CLONE_NEWUSER|CLONE_NEWNS
    for name,text in ('setgroups','deny'),('uid_map',f'0 {uid} 1'),('gid_map',f'0 {gid} 1'):
        Path(f'/proc/self/{name}').write_text(text)
    if libc.mount(b'tmpfs', str(folder).encode(), b'tmpfs', 0, f'size={size}'.encode()): raise refused()

def checkpoint_on_a_full_disk(folder):
    "What a fit says that writes on a full disk, what is there then, and what the same fit gives when there is room"
    try: on_a_small_disk(folder, 200_000)
    except PermissionError as e: return e.strerror
    res,path = {},folder/'fit.pth'
    def go(fill):
        learn = faulty_learner('balmix')
        restart(learn, make_net())
        def after_epoch(self):
            if fill and self.learn.epoch==1:
                with open(folder/'film', 'wb', buffering=0) as f:
                    try:
                        while True: f.write(bytes(4096))
                    except OSError: pass
        return fit(learn, 'balmix', 4, [fv.Callback(after_validate=after_epoch),Checkpoint(path)])
    res['said'],res['class'] = raised(lambda: go(True))
    res['there'] = sorted(os.listdir(folder))
    res['epochs'] = len(torch.load(path, weights_only=True)['history'])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        kept = fv.DataLoaders(seeded_dl(Points()), seeded_dl(Points())).cached('1MB', folder=folder)
    res['cache'] = [str(o.message) for o in heard if 'cached' in str(o.message)],kept.cache_info().size
    (folder/'film').unlink()
    res['after'] = params(go(False)).numpy()
    path.unlink()
    res['whole'] = params(go(False)).numpy()
    return res

def test_a_small_disk_that_fills_up(tmp_path):
    (tmp_path/'disk').mkdir()
    res = warm_call(checkpoint_on_a_full_disk, tmp_path/'disk')
    if isinstance(res, str): pytest.skip(res)
    assert res['class'].__name__=='DiskFull' and 'No room left for fit.pth' in res['said']
    assert 'start again: what is finished is kept' in res['said']
    assert res['there']==['film','fit.pth'] and res['epochs']==1
    (said,),size = res['cache']
    assert 'cannot be reserved' in said and 'No space left on device' in said and size==0
    np.testing.assert_array_equal(res['after'], res['whole'])

# In a comparison

@pytest.mark.thinned
@pytest.mark.parametrize('decode', ['full','fast'])
@pytest.mark.parametrize('num_workers', [0,1])
def test_a_corrupt_picture_is_named_by_every_loader_of_the_data(photos, decode, num_workers):
    "Training without a method of ours, validation and prediction"
    d = image_data(photos)
    numbers = np.arange(len(d))
    dls = d.dataloaders(size=16, bs=3, num_workers=num_workers, decode=decode, parts=(numbers[::2],numbers[1::2]))
    i = int(np.flatnonzero(d.df.path=='a/07.jpg')[0])
    bad = dls.train if i%2==0 else dls.valid
    for dl in bad,dls.test_dl(d.items()),dls.test_dl([photos/'a'/'07.jpg']):
        said,cls = raised(lambda: [*dl])
        assert cls is OSError and 'image file is truncated' in said
        assert said.count(f'This was the image {photos/"a"/"07.jpg"}')==1
    if num_workers: return
    said,cls = raised(lambda: [*fv.DataLoaders(bad, dls.valid).weighted(seed=0).train.new(shuffle=False)])
    # once, by who knows more
    assert cls is OSError and said.count('This was')==1
    assert re.search(r'This was item \d+ of the data set: .*07\.jpg', said)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('method', ['balmix_0.2','instance'])
def test_a_comparison_says_which_image_was_corrupt(photos, tmp_path, method):
    d = image_data(photos)
    config = TrainConfig(epochs=2, size=16, bs=4, augment='none', pretrained=False, select=.3)
    run = Run(d, method, 'small', 0, 0, config, tmp_path)
    out = attempt(run)
    assert out.status=='failed' and 'image file is truncated' in out.error and out.error.count('a/07.jpg')==1
    assert '07.jpg' in read_failures(tmp_path)[0]['error'] and not [*tmp_path.glob('**/*.part')]

# The table

def test_every_test_that_the_table_names_is_there():
    names = re.findall(r'`(test_\w+)\.py::(test_\w+)`', (root/'docs'/'faults.md').read_text(encoding='utf-8'))
    assert len(names)>20
    for file,name in names:
        assert f'def {name}(' in (root/'tests'/f'{file}.py').read_text(encoding='utf-8'), f'{file}.py has no {name}'
