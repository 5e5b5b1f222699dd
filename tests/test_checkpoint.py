"""The notebook takes one fit through one interruption. Here every method of the registry, many optimisers, callbacks
and loaders are cut short and taken up again by new objects in a process with other random numbers, and must end bit
for bit like an unbroken fit; processes are killed with SIGKILL at random moments and at every point of writing a
file; disks are full; files are damaged, foreign and malicious."""

import contextlib
import errno
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import threading
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import warm_call
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.metrics import accuracy, error_rate
from fastai.vision import all as fv
from hypothesis import example, given, settings, strategies as st
from torch import nn
from torch.utils.data import DataLoader as TorchDL, RandomSampler, Subset, WeightedRandomSampler
from toys import Noisy, Points, make_net, quiet_fit, seeded_dl

from fastai_balmix import files
from fastai_balmix.callback import checkpoint
from fastai_balmix.callback.checkpoint import Checkpoint, random_state, set_random_state
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.compare.methods import Training, find_method, method_table
from fastai_balmix.datasets.longtail import digits_lt
from fastai_balmix.files import DiskFull, write_file
from fastai_balmix.metrics.learner import MCC, BrierError, CalibrationError, ConfusionMetric, imbalance_metrics
from fastai_balmix.metrics.scores import mcc


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

class Cut(fv.Callback):
    "Ends a fit as Ctrl-C does, in a batch of the training part of an epoch"
    order = 90
    def __init__(self, epoch, batch=1): self.at = epoch,batch
    def after_batch(self):
        if self.training and (self.learn.epoch,self.iter)==self.at: raise KeyboardInterrupt('cut short')

momentum = partial(fv.SGD, mom=.9)

def make_learner(ds=Noisy, loaders=None, net=None, loss_func=nn.CrossEntropyLoss, opt_func=momentum, **kwargs):
    ds = ds()
    dls = fv.DataLoaders(*(loaders(ds) if loaders else (seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))))
    return fv.Learner(dls, make_net(drop=.2) if net is None else net(), loss_func(),
        **{'opt_func':opt_func, 'lr':.05, 'metrics':[accuracy], **kwargs})

def go(path, make=make_learner, world=1, cbs=list, fit='fit_one_cycle', n=4, more=(), monitor='accuracy', **kwargs):
    "One process's part in a fit: everything is made anew, and global generators stand anywhere"
    learn,ck = make(),Checkpoint(path, monitor=monitor)
    seed_all(world)
    if world!=1: # what a learner starts with counts only where nothing was done before
        for p in learn.model.parameters(): p.data.normal_()
    with learn.no_bar(), learn.no_logging(): getattr(learn, fit)(n, cbs=[*cbs(),ck,*more], **kwargs)
    return learn,ck

def cut_and_resumed(folder, *args, cuts=((2,1),), **kwargs):
    "A fit that is cut short in each of `cuts`, (epoch, batch), and taken up again"
    for world,cut in enumerate(cuts, 1):
        with pytest.raises(KeyboardInterrupt, match='cut short'):
            go(folder/'cut.pth', *args, **{**kwargs, 'world':world, 'more':[*kwargs.get('more', ()),Cut(*cut)]})
    return go(folder/'cut.pth', *args, **{**kwargs, 'world':99})

def opt_tensors(opt):
    "All tensors in the state of an optimiser, in order"
    def walk(x):
        if torch.is_tensor(x): yield x
        elif isinstance(x, dict):
            for k in x: yield from walk(x[k])
        elif isinstance(x, (list,tuple,fv.L)):
            for o in x: yield from walk(o)
    return [*walk(opt.state_dict())]

def assert_alike(a, b):
    "Two fits ended bit for bit in the same state"
    (la,ca),(lb,cb) = a,b
    sa,sb = la.model.state_dict(),lb.model.state_dict()
    assert sa.keys()==sb.keys()
    for k in sa: assert torch.equal(sa[k], sb[k]), k
    assert repr(ca.history)==repr(cb.history) and ca.best==cb.best # as texts, in which NaN equals NaN
    rows = [[[np.nan if v is None else v for v in row] for row in o.recorder.values] for o in (la,lb)]
    assert repr(rows[0])==repr(rows[1])
    for x,y in zip(opt_tensors(la.opt), opt_tensors(lb.opt), strict=True): assert torch.equal(x, y)
    assert [{k: float(v) if isinstance(v, np.floating) else v for k,v in h.items()}
        for h in la.opt.hypers]==[*map(dict, lb.opt.hypers)]
    assert random_state(la)==random_state(lb)

# --- every method of the registry ---

class Digits(torch.utils.data.Dataset):
    "The images of `digits_lt`, decoded once for all tests, with noise of all three generators"
    @staticmethod
    @cache
    def load():
        dls = digits_lt(n_max=12, imbalance=3, valid_pct=.02, size=8, seed=3)
        return [[*zip(*((x/255.,int(y)) for b in dl.new(shuffle=False, drop_last=False)
            for x,y in zip(*map(fv.TensorBase.as_subclass, b, [torch.Tensor]*2))))] for dl in dls]

    def __init__(self, part): self.x,self.targets = self.load()[part]
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i] + .1*(torch.rand(1) + random.random() + np.random.rand()),self.targets[i]

def small_net():
    return nn.Sequential(fv.ConvLayer(3, 8, stride=2), nn.Dropout(.1), fv.AdaptiveAvgPool(), fv.Flatten(),
        nn.Linear(8, 10))

def train(name, folder, world=1, cut=None, in_fit=1, n_epoch=3):
    "What a comparison does with a method, in a process that has drawn other random numbers before"
    ds = Digits(0)
    seed_all(world)
    dls = fv.DataLoaders(seeded_dl(ds, 16, drop_last=True), seeded_dl(Digits(1), 64, shuffle=False))
    t = Training(dls, np.bincount(ds.targets, minlength=10), n_epoch=n_epoch, lr=.05, seed=5)
    find_method(name)(t)
    learn = fv.Learner(t.dls, small_net(), t.loss_func, opt_func=partial(fv.SGD, mom=.9), lr=.05, wd=1e-3,
        metrics=imbalance_metrics())
    if world==1: seed_all(2)
    cks = [Checkpoint(folder/f'{i}.pth', 'mcc') for i in (1,2)]
    cuts = [[Cut(*cut)] if cut and i==in_fit else [] for i in (1,2)]
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit_one_cycle(n_epoch, .05, cbs=[*t.cbs,cks[0],*cuts[0]])
        if t.finish is not None: t.finish(learn, [cks[1],*cuts[1]])
    return learn,cks

def assert_methods_alike(a, b):
    (la,ca),(lb,cb) = a,b
    for x,y in zip(la.model.state_dict().values(), lb.model.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    for x,y in zip(ca, cb): assert x.history==y.history and x.best==y.best
    assert random_state(la)==random_state(lb)

@pytest.mark.thinned(8)
@pytest.mark.filterwarnings('error:.*corrected twice')
@pytest.mark.parametrize('i,name', [*enumerate(method_table().index)])
def test_every_method_goes_on_as_though_nothing_had_happened(i, name, tmp_path):
    whole = train(name, tmp_path)
    folder = tmp_path/'cut'
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt, match='cut short'): train(name, folder, cut=(1+i%2,1))
    assert_methods_alike(whole, train(name, folder, world=99))
    assert len(whole[1][0].history)==3

@pytest.mark.parametrize('epoch', [0, 1])
def test_crt_goes_on_from_its_second_fit(epoch, tmp_path):
    whole = train('crt', tmp_path, n_epoch=4)
    folder = tmp_path/'cut'
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt, match='cut short'): train('crt', folder, cut=(epoch,1), in_fit=2, n_epoch=4)
    first = (folder/'1.pth').read_bytes()
    assert_methods_alike(whole, train('crt', folder, world=99, n_epoch=4))
    assert len(whole[1][1].history)==2 and (folder/'1.pth').read_bytes()==first

# --- optimisers, callbacks, loaders ---

class Draws(fv.Callback):
    "Draws from all three generators in one event"
    def __init__(self, at, order=0):
        self.order,self.drawn = order,[]
        setattr(self, at, self._draw)

    def _draw(self): self.drawn.append((random.random(),np.random.rand(),torch.rand(1).item()))

class OwnGenerators(fv.Callback):
    "Has one generator of each kind, and noise from all of them in what it does to a batch"
    def __init__(self, seed=0):
        self.a,self.b,self.c,self.d = random.Random(seed),np.random.default_rng(seed),np.random.RandomState(
            seed),seeded(seed)

    def before_batch(self):
        self.learn.xb = (self.x + self.a.gauss(0, 1) + self.b.standard_normal() + self.c.randn() + torch.randn(1,
            generator=self.d),)

class Counts(fv.Callback):
    "Trains with a learning rate that depends on all batches so far"
    def __init__(self): self.n = 0
    def before_batch(self):
        if not self.training: return
        self.n += 1
        self.opt.set_hypers(lr=.1/self.n)

    def state_dict(self): return dict(n=self.n)
    def load_state_dict(self, s): self.n = s['n']

def bn_net():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6,8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8,4))

def two_groups(m): return [fv.params(m[0]),fv.params(m[3])]

def weighted_loaders(ds, seed=None):
    return fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, shuffle=False)).weighted('sqrt', seed=seed).loaders

def torch_loaders(ds, **kwargs): return TorchDL(ds, 8, **(kwargs or dict(shuffle=True))),TorchDL(ds, 32)
def seeded(n): return torch.Generator().manual_seed(n)

fits = {
    'sgd': (dict(opt_func=fv.SGD, wd=.1), {}),
    'momentum': (dict(wd=.1), {}),
    'adam': (dict(opt_func=fv.Adam, wd=.1), {}),
    'ranger': (dict(opt_func=fv.ranger), dict(fit='fit_flat_cos')),
    'rmsprop': (dict(opt_func=fv.RMSProp), {}),
    'optimiser of PyTorch': (dict(opt_func=partial(fv.OptimWrapper, opt=torch.optim.AdamW)), {}),
    'no schedule': ({}, dict(fit='fit', lr=.07)),
    'restarts': ({}, dict(fit='fit_sgdr', n=2, cycle_len=1, cycle_mult=3)),
    'batch norm, two groups': (dict(net=bn_net, splitter=two_groups, wd=.1), dict(lr_max=slice(.01, .1))),
    'gradients that wait': ({}, dict(cbs=lambda: [GradientAccumulation(24)])),
    'gradients that wait under momentum': (dict(opt_func=fv.Adam),
        dict(cbs=lambda: [GradientAccumulation(20),BalancedMixUp(1.)])),
    'plateau': ({}, dict(cbs=lambda: [ReduceLROnPlateau(patience=1, min_delta=10., factor=3.)], fit='fit')),
    'early stopping': ({}, dict(cbs=lambda: [EarlyStoppingCallback(patience=3, min_delta=10.)])),
    'own state': ({}, dict(cbs=lambda: [Counts()], fit='fit')),
    'own generators': ({}, dict(cbs=lambda: [OwnGenerators()])),
    'two of a kind': ({}, dict(cbs=lambda: [OwnGenerators(1),fv.Callback(),OwnGenerators(2)])),
    'balmix': ({}, dict(cbs=lambda: [BalancedMixUp(1.)])),
    'balmix per item, seeded': ({}, dict(cbs=lambda: [BalancedMixUp(1., per_item=True, seed=3)])),
    'remix': ({}, dict(cbs=lambda: [Remix()])),
    'progressive': ({}, dict(cbs=lambda: [ProgressiveSampling()])),
    'mixup': (dict(loss_func=fv.CrossEntropyLossFlat), dict(cbs=lambda: [MixUp(.4)])),
    'weighted': (dict(loaders=partial(weighted_loaders, seed=1)), {}),
    'weighted and balmix': (dict(loaders=weighted_loaders), dict(cbs=lambda: [BalancedMixUp(1.)])),
    'short last batch': (dict(loaders=lambda ds: (seeded_dl(ds, 16, drop_last=False), seeded_dl(ds, 16))), {}),
    'PyTorch': (dict(loaders=torch_loaders), {}),
    'PyTorch, generator': (dict(loaders=lambda ds: torch_loaders(ds, shuffle=True, generator=seeded(3))), {}),
    'PyTorch, sampler': (dict(loaders=lambda ds: torch_loaders(ds,
        sampler=WeightedRandomSampler([1.]*len(ds), len(ds), generator=seeded(3)))), {}),
    'PyTorch, weighted': (dict(loaders=lambda ds: fv.DataLoaders(*torch_loaders(ds)).weighted().loaders), {}),
    'PyTorch, balmix': (dict(loaders=torch_loaders), dict(cbs=lambda: [BalancedMixUp(1.)])),
    'PyTorch, progressive': (dict(loaders=lambda ds: torch_loaders(ds,
        sampler=RandomSampler(ds, generator=seeded(3)))), dict(cbs=lambda: [ProgressiveSampling()])),
    'nothing to validate': (dict(loaders=lambda ds: (seeded_dl(ds), seeded_dl(Subset(ds, []), shuffle=False))),
        dict(monitor=None)),
}

@pytest.mark.thinned(8)
@pytest.mark.parametrize('name', fits)
def test_fits_go_on_as_though_nothing_had_happened(name, tmp_path):
    made,kwargs = fits[name]
    make = partial(make_learner, **made)
    assert_alike(go(tmp_path/'whole.pth', make, **kwargs), cut_and_resumed(tmp_path, make, **kwargs))

@pytest.mark.thinned(4)
@pytest.mark.parametrize('name',
    ['momentum','gradients that wait','own generators','two of a kind','balmix','progressive','mixup','weighted',
                                  'PyTorch, generator','PyTorch, sampler'])
def test_a_fit_is_what_it_would_be_without(name, tmp_path):
    "Resumed and unbroken fits might agree and both be wrong, as the state of all generators is put back at every epoch"
    made,kwargs = fits[name]
    kept,_ = go(tmp_path/'a.pth', partial(make_learner, **made), monitor=None, **kwargs)
    learn = make_learner(**made)
    seed_all(1)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, cbs=kwargs.get('cbs', list)())
    for x,y in zip(kept.model.state_dict().values(), learn.model.state_dict().values(), strict=True):
        assert torch.equal(x, y)

@pytest.mark.thinned
@pytest.mark.parametrize('order', [0, 80])
@pytest.mark.parametrize('at', ['before_fit','before_epoch','before_train','before_batch','after_step','after_batch',
                                'after_train','before_validate','after_validate','after_epoch'])
def test_other_callbacks_may_draw_at_any_time(at, order, tmp_path):
    whole,cut = ([],[])
    def cbs(kept):
        kept.append(Draws(at, order))
        return [kept[-1],BalancedMixUp(1., seed=2)]
    a = go(tmp_path/'whole.pth', n=3, cbs=partial(cbs, whole))
    b = cut_and_resumed(tmp_path, n=3, cbs=partial(cbs, cut), cuts=[(1,1)])
    assert_alike(a, b)
    n = len(whole[0].drawn)//3 # in the last epoch both draw the same
    assert at=='before_fit' or (n and whole[0].drawn[-n:]==cut[-1].drawn[-n:])

@pytest.mark.parametrize('cuts', [[(0,2)], [(1,0)], [(3,4)], [(1,0),(1,3),(2,0),(3,3)]], ids=str)
def test_any_number_of_interruptions_anywhere(cuts, tmp_path):
    cbs = lambda: [BalancedMixUp(1.)]
    a = go(tmp_path/'whole.pth', cbs=cbs)
    if cuts==[(0,2)]: # nothing is kept yet: it is the same call from the start
        with pytest.raises(KeyboardInterrupt, match='cut short'): go(tmp_path/'cut.pth', cbs=cbs, more=[Cut(0, 2)])
        assert not (tmp_path/'cut.pth').exists()
        return assert_alike(a, go(tmp_path/'cut.pth', cbs=cbs))
    assert_alike(a, cut_and_resumed(tmp_path, cbs=cbs, cuts=cuts))

def test_a_fit_goes_on_after_each_of_its_epochs(tmp_path):
    class Keep(fv.Callback):
        order = 80
        def after_epoch(self): shutil.copy(tmp_path/'whole.pth', tmp_path/f'{self.learn.epoch}.pth')
    a = go(tmp_path/'whole.pth', more=[Keep()])
    for i in range(4): assert_alike(a, go(tmp_path/f'{i}.pth', world=7+i))

@pytest.mark.parametrize('first', [True, False])
def test_a_progress_bar_may_come_or_go(first, tmp_path):
    def part(path, bar, *more):
        learn,ck = make_learner(),Checkpoint(path)
        seed_all(1)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not bar: stack.enter_context(learn.no_bar())
            learn.fit(3, cbs=[BalancedMixUp(1., seed=3),ck,*more])
        return learn,ck
    a = part(tmp_path/'whole.pth', first)
    with pytest.raises(KeyboardInterrupt, match='cut short'): part(tmp_path/'cut.pth', first, Cut(2))
    b = part(tmp_path/'cut.pth', not first)
    for x,y in zip(a[0].model.state_dict().values(), b[0].model.state_dict().values()): assert torch.equal(x, y)
    assert a[1].history==b[1].history

def test_early_stopping_stops_where_it_would_have(tmp_path):
    "With fits that were cut before and after the epoch that is the best"
    values = [.1,.5,.4,.3,.2,.9]
    def make(): return make_learner(ds=partial(Points, (8,4,2,2)), metrics=[fv.ValueMetric(None, 'score')])
    def part(path, *more):
        learn,stop,ck = make(),EarlyStoppingCallback('score', patience=2),Checkpoint(path, monitor='score')
        learn.metrics[0].func = lambda: values[learn.epoch]
        with contextlib.redirect_stdout(io.StringIO()): quiet_fit(learn, 6, cbs=[stop,ck,*more])
        return learn,ck
    a = part(tmp_path/'whole.pth')
    for i in range(1, 4):
        with pytest.raises(KeyboardInterrupt, match='cut short'): part(tmp_path/f'{i}.pth', Cut(i, 0))
        b = part(tmp_path/f'{i}.pth')
        assert len(a[0].recorder.values)==len(b[0].recorder.values)==4 and a[1].best==b[1].best==1

# --- one learner, several fits ---

def two_fits(folder, world=1, cut=None):
    learn = make_learner(opt_func=fv.Adam)
    seed_all(world)
    mixes,cks = BalancedMixUp(1.),[Checkpoint(folder/f'{i}.pth', 'accuracy') for i in (1,2)]
    quiet_fit(learn, 2, cbs=[mixes,cks[0]])
    quiet_fit(learn, 3, cbs=[mixes,cks[1],*([Cut(*cut)] if cut else [])])
    return learn,cks[1]

def test_a_second_fit_goes_on_with_the_optimiser_of_the_first(tmp_path):
    a = two_fits(tmp_path)
    for i in (0,2):
        folder = tmp_path/str(i)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt, match='cut short'): two_fits(folder, cut=(i,1))
        assert_alike(a, two_fits(folder, world=99))

def test_the_same_objects_may_try_again(tmp_path):
    "In a notebook learner and callbacks are still there after an interruption"
    a = go(tmp_path/'whole.pth')
    learn,ck = make_learner(),Checkpoint(tmp_path/'cut.pth', monitor='accuracy')
    seed_all(1)
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(KeyboardInterrupt, match='cut short'): learn.fit_one_cycle(4, cbs=[ck,Cut(2)])
        learn.fit_one_cycle(4, cbs=ck)
    assert_alike(a, (learn,ck))

def test_nothing_is_trained_where_all_was_done(tmp_path):
    learn,ck = go(tmp_path/'a.pth', cbs=lambda: [BalancedMixUp(1.)])
    before,batches = (tmp_path/'a.pth').read_bytes(),[]
    again,ck1 = go(tmp_path/'a.pth', world=99, cbs=lambda: [BalancedMixUp(1.)],
        more=[fv.Callback(before_batch=lambda self: batches.append(1))])
    assert not batches and (tmp_path/'a.pth').read_bytes()==before
    for x,y in zip(learn.model.state_dict().values(), again.model.state_dict().values()): assert torch.equal(x, y)
    assert ck.history==ck1.history and ck.best==ck1.best
    states = [json.loads(random_state(o)) for o in (learn,again)]
    assert {'python','numpy','torch','loader 0.rng'}<=states[1].keys()
    assert all(states[0][k]==v for k,v in states[1].items())
    with again.no_bar(), again.no_logging(): # the same learner and callback once more
        again.fit_one_cycle(4, cbs=[BalancedMixUp(1.),ck1])
    assert not batches and ck1.history==ck.history

def test_predictions_between_fits_are_not_touched(tmp_path):
    learn,ck = go(tmp_path/'a.pth')
    state,rows = (tmp_path/'a.pth').read_bytes(),list(ck.history)
    with learn.no_bar():
        learn.get_preds()
        learn.validate()
    assert (tmp_path/'a.pth').read_bytes()==state and ck.history==rows

# --- what is kept ---

def test_history_is_what_the_recorder_saw(tmp_path):
    learn,ck = go(tmp_path/'a.pth', partial(make_learner, metrics=[accuracy,error_rate]))
    names = ['train_loss','valid_loss','accuracy','error_rate']
    assert ck.history==[dict(zip(names, row)) for row in learn.recorder.values] and len(ck.history)==4
    assert all(type(v) is float for row in ck.history for v in row.values())
    assert torch.load(tmp_path/'a.pth', weights_only=True)['history']==ck.history

def scored(values, path, cut=None, monitor='score'):
    "A fit whose metric takes `values`, cut short after epoch `cut` and gone on with; and the weights of each epoch"
    weights = {}
    for stop in [cut,None] if cut is not None else [None]:
        learn = make_learner(ds=partial(Points, (8,4,2,2)), metrics=[fv.ValueMetric(None, monitor or 'score')])
        learn.metrics[0].func = lambda learn=learn: values[learn.epoch]
        ck = Checkpoint(path, monitor=monitor)
        def keep(self): weights[self.learn.epoch] = {k: v.clone() for k,v in self.model.state_dict().items()}
        more = [fv.Callback(after_validate=keep)] + ([Cut(stop, 0)] if stop is not None else [])
        with pytest.raises(KeyboardInterrupt) if stop is not None else contextlib.nullcontext():
            quiet_fit(learn, len(values), cbs=[ck,*more])
    return learn,ck,weights

@settings(max_examples=15)
@example([np.nan,.5,.5], 1)
@example([.5,np.nan,.5], 2)
@example([np.nan,np.nan], 1)
@example([-np.inf,-3.], 1)
@example([np.nan,-np.inf,-1.], 2)
@example([np.inf,np.inf], 1)
@given(st.lists(st.sampled_from([np.nan,0.,.25,.5,-1.]), min_size=2, max_size=4), st.integers(0, 3))
def test_the_first_of_the_best_epochs_is_restored(tmp_path_factory, values, cut):
    learn,ck,weights = scored(values, tmp_path_factory.mktemp('best')/'a.pth', min(cut, len(values)-1) or None)
    known = [i for i,v in enumerate(values) if not np.isnan(v)]
    # the first epoch stays until a higher value comes, which -inf is not where it was NaN
    best = 0
    for i in known:
        if values[i] > (-np.inf if np.isnan(values[best]) else values[best]): best = i
    assert ck.best==best
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, weights[best][k])

@settings(max_examples=15)
@example([np.nan,.5,.5], 1)
@example([.5,np.nan,.5], 2)
@example([np.inf,3.], 1)
@example([np.nan,np.inf,1.], 2)
@given(st.lists(st.sampled_from([np.nan,0.,.25,.5,-1.]), min_size=2, max_size=4), st.integers(0, 3))
def test_of_an_error_the_first_of_the_lowest_is_restored(tmp_path_factory, values, cut):
    path = tmp_path_factory.mktemp('best')/'a.pth'
    learn,ck,weights = scored(values, path, min(cut, len(values)-1) or None, 'my_error')
    best = 0
    for i,v in enumerate(values):
        if v < (np.inf if np.isnan(values[best]) else values[best]): best = i
    assert ck.best==best and ck.keeps=='lowest'
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, weights[best][k])

@pytest.mark.parametrize('metric,keeps', [(error_rate,'lowest'), (fv.Perplexity(),'lowest'), (fv.rmse,'lowest'),
    (fv.mse,'lowest'), (fv.ValueMetric(None, 'val_loss_ema'),'lowest'), (fv.ValueMetric(None, 'MeanAbsError'),'lowest'),
    (CalibrationError(),'lowest'), (BrierError(),'lowest'), (ConfusionMetric(len, 'total error'),'lowest'),
    (accuracy,'highest'), (MCC(),'highest'), (ConfusionMetric(mcc, 'no_error_at_all'),'highest'),
    (fv.F1Score(average='macro'),'highest'), (fv.ValueMetric(None, 'maes'),'highest')])
def test_the_direction_is_that_of_the_metric_and_said(metric, keeps, tmp_path, capsys):
    learn = make_learner(metrics=[metric])
    name = str(learn.metrics[0].name)
    ck = Checkpoint(tmp_path/'a.pth', monitor=name)
    class Stop(fv.Callback):
        def before_epoch(self): raise fv.CancelFitException
    with learn.no_bar(): learn.fit(1, cbs=[Stop(),ck])
    assert ck.keeps==keeps and f'Checkpoint keeps the epoch with the {keeps} {name}.' in capsys.readouterr().out
    quiet_fit(learn, 1, [Stop(),Checkpoint(tmp_path/'a.pth', monitor=name)])
    assert 'keeps' not in capsys.readouterr().out

def test_without_a_metric_the_last_weights_stay(tmp_path):
    learn,ck,weights = scored([.9,.5,.1], tmp_path/'a.pth', 1, monitor=None)
    assert ck.best==2
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, weights[2][k])

def test_metrics_of_the_training_part_are_told_apart(tmp_path):
    def make():
        learn = make_learner(metrics=[accuracy,error_rate])
        learn.recorder.train_metrics = True
        return learn
    _,ck = go(tmp_path/'a.pth', make, monitor='valid_error_rate')
    assert ck.best==int(np.argmin([row['valid_error_rate'] for row in ck.history])) and ck.keeps=='lowest'
    for nm in 'train_loss','valid_loss':
        with pytest.raises(ValueError, match='one of the metrics'): go(tmp_path/'b.pth', make, monitor=nm)
    def only_train():
        learn = make()
        learn.recorder.valid_metrics = False
        return learn
    assert go(tmp_path/'c.pth', only_train, monitor='accuracy')[1].best is not None

def test_seconds_add_up(tmp_path, monkeypatch):
    clock = [1000.]
    monkeypatch.setattr(checkpoint, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))
    def tick(self): clock[0] += 2.
    def part(*more):
        learn,ck = make_learner(),Checkpoint(tmp_path/'a.pth')
        clock[0] += 500. # between processes
        quiet_fit(learn, 4, cbs=[ck,fv.Callback(after_train=tick, after_validate=tick),*more])
        return ck
    with pytest.raises(KeyboardInterrupt, match='cut short'): part(Cut(2))
    assert torch.load(tmp_path/'a.pth', weights_only=True)['seconds']==8.
    assert part().seconds==16. and part().seconds==16.

def test_on_epoch_hears_of_what_is_on_disk(tmp_path):
    heard = []
    def on_epoch(n): heard.append((n,len(torch.load(tmp_path/'a.pth', weights_only=True)['history'])))
    learn = make_learner()
    with pytest.raises(KeyboardInterrupt, match='cut short'):
        quiet_fit(learn, 4, cbs=[Checkpoint(tmp_path/'a.pth', on_epoch=on_epoch),Cut(2)])
    quiet_fit(learn, 4, cbs=[Checkpoint(tmp_path/'a.pth', on_epoch=on_epoch)])
    assert heard==[(i,i) for i in (1,2,3,4)]

def test_files_do_not_grow(tmp_path):
    sizes = []
    learn = make_learner(net=lambda: nn.Sequential(nn.Linear(6,400), nn.ReLU(), nn.Linear(400,400), nn.ReLU(),
        nn.Linear(400,4)), opt_func=fv.Adam)
    n = 4*sum(p.numel() for p in learn.model.parameters())
    quiet_fit(learn, 8, cbs=[BalancedMixUp(),
        Checkpoint(tmp_path/'a.pth', 'accuracy', on_epoch=lambda i: sizes.append((tmp_path/'a.pth').stat().st_size))])
    assert max(sizes) < 4*n + 150_000 # weights, the best ones, two moments of Adam; and the generators
    assert sizes[-1]-sizes[0] < 7*500 # a row an epoch
    assert os.listdir(tmp_path)==['a.pth']

def test_a_model_that_passes_names_on_is_no_callback_with_a_state(tmp_path):
    "A callback looks unknown names up in the model, which has a `load_state_dict`"
    go(tmp_path/'a.pth', cbs=lambda: [fv.Callback(),Counts()], n=1)
    (key,state), = torch.load(tmp_path/'a.pth', weights_only=True)['cbs'].items()
    assert 'Counts' in key and state==dict(n=7)

# --- generators ---

bit_generators = np.random.PCG64,np.random.PCG64DXSM,np.random.MT19937,np.random.Philox,np.random.SFC64

def generators(seed):
    return dict(python=random.Random(seed),
        **{f'rng {b.__name__}': np.random.Generator(b(seed)) for b in bit_generators},
                **{f'state {b.__name__}': np.random.RandomState(b(seed)) for b in bit_generators},
                legacy=np.random.RandomState(seed), torch=seeded(seed))

def drawn(g, n):
    "`n` draws, odd ones such as generators keep a spare number of"
    if isinstance(g, random.Random): return [(g.random(),g.gauss(0, 1)) for _ in range(n)]
    if isinstance(g, np.random.Generator):
        return [(g.random(),g.integers(9, dtype=np.uint32),g.standard_normal(dtype=np.float32)) for _ in range(n)]
    if isinstance(g, np.random.RandomState): return [(g.rand(),g.randn()) for _ in range(n)]
    return torch.randn(n, generator=g).tolist()

class Holder: pass

def stand_in(seed):
    "What `random_state` looks at in a learner"
    cb,loader,torch_dl = Holder(),Holder(),TorchDL([0], generator=seeded(seed))
    vars(cb).update(generators(seed))
    loader.rng = random.Random(seed)
    return SimpleNamespace(dls=SimpleNamespace(loaders=[loader,torch_dl]), cbs=[cb])

def draw_all(o, n):
    gens = [*vars(o.cbs[0]).values(), o.dls.loaders[0].rng, o.dls.loaders[1].generator, random._inst,
        np.random.mtrand._rand, torch.default_generator]
    return [drawn(g, n) for g in gens]

@given(st.integers(0, 2**32-1), st.integers(0, 700), st.integers(0, 2**32-1))
def test_every_kind_of_generator_is_put_back(seed, n, other):
    a = stand_in(seed)
    seed_all(seed)
    draw_all(a, n)
    state = random_state(a)
    assert isinstance(state, str) and json.loads(state)
    first = draw_all(a, 5)
    b = stand_in(other)
    seed_all(other)
    draw_all(b, 3)
    set_random_state(b, state)
    assert random_state(b)==state and draw_all(b, 5)==first

def test_what_a_state_does_not_know_stays():
    a,b = stand_in(1),stand_in(1)
    state = random_state(a)
    b.cbs[0].new = random.Random(4)
    expected = random.Random(4).random()
    set_random_state(b, state)
    assert b.cbs[0].new.random()==expected

# --- what is refused ---

def unopened(words, path, make=make_learner, error=ValueError, **kwargs):
    "An error with these words, before an item is opened, and the file as it was"
    before = path.read_bytes() if path.is_file() else None
    learn = make()
    with pytest.raises(error) as e, learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(kwargs.pop('n', 4), cbs=[*kwargs.pop('cbs', []),Checkpoint(path, **kwargs)])
    assert words in str(e.value)
    assert not learn.dls.train.dataset.opened and (path.read_bytes() if path.is_file() else None)==before

def test_unknown_metrics_are_refused(tmp_path):
    for nm in 'kappa','valid_loss','time','epoch':
        unopened(f"The 'monitor' parameter of Checkpoint must be one of the metrics, ['accuracy']. Got '{nm}' "
                 f"instead.", tmp_path/'a.pth', monitor=nm)
    unopened("one of the metrics, []. Got 'accuracy' instead", tmp_path/'a.pth', partial(make_learner, metrics=None),
        monitor='accuracy')

def test_files_of_other_fits_are_refused(tmp_path):
    go(tmp_path/'a.pth', n=3)
    for n in 2,4:
        unopened(f"The 'path' parameter of Checkpoint must be a file of this fit, {n} epochs. Got one of 3 epochs "
                 f"instead.", tmp_path/'a.pth', n=n)
    with pytest.raises(ValueError, match="The 'path' parameter of Checkpoint must be a file of this fit"):
        go(tmp_path/'a.pth', partial(make_learner, net=bn_net), n=3)
    with pytest.raises(ValueError, match="The 'path' parameter of Checkpoint must be a file of this fit"):
        go(tmp_path/'a.pth', partial(make_learner, splitter=lambda m: [fv.params(m[0]),fv.params(m[3])]), n=3)

class Mine(fv.Callback):
    "A callback of one's own with a setting"
    def __init__(self, level): self.level = level

def smoothed(weight): return partial(nn.CrossEntropyLoss, weight=torch.tensor(weight))
# What the second process has otherwise, and what is said of the file of the first
other_fits = {
    'optimiser': (dict(make=partial(make_learner, opt_func=fv.Adam)), 'another optimiser ('),
    'its arguments': (dict(make=partial(make_learner, opt_func=partial(fv.SGD, mom=.5))), 'another optimiser ('),
    'torch optimiser': (dict(make=partial(make_learner, opt_func=partial(fv.OptimWrapper, opt=torch.optim.SGD))),
        'another optimiser'),
    'learning rate': (dict(lr_max=.02), 'another schedule'),
    'schedule': (dict(lr_max=.1, pct_start=.6), 'another schedule'),
    'no schedule': (dict(fit='fit', lr=.05), 'schedule'),
    'weight decay': (dict(wd=.3), 'another weight decay ([0.0], and not [0.3])'),
    'loss': (dict(make=partial(make_learner, loss_func=fv.FocalLossFlat)), 'another loss'),
    'weights of the loss': (dict(make=partial(make_learner, loss_func=smoothed([1.,2,3,5]))), 'another loss'),
    'smoothing': (dict(make=partial(make_learner, loss_func=partial(nn.CrossEntropyLoss, label_smoothing=.2))),
        'another loss'),
    'fewer items': (dict(make=partial(make_learner, ds=partial(Noisy, (28,14,6,2)))), 'another training set ('),
    'batch size': (dict(make=partial(make_learner, loaders=lambda ds: (seeded_dl(ds, 16),
        seeded_dl(ds, 32, shuffle=False)))), 'another training set ('),
    'validation': (dict(make=partial(make_learner, loaders=lambda ds: (seeded_dl(ds),
        seeded_dl(Noisy((5,5,5,5)), 32, shuffle=False)))), 'another validation set ('),
    'draws': (dict(make=partial(make_learner, loaders=lambda ds: fv.DataLoaders(seeded_dl(ds),
        seeded_dl(ds, 32, shuffle=False)).weighted('class').loaders)), 'another training set ('),
    'alpha': (dict(cbs=lambda: [BalancedMixUp(.4, seed=1),Mine(1)]), 'another BalancedMixUp'),
    'per item': (dict(cbs=lambda: [BalancedMixUp(1., per_item=True, seed=1),Mine(1)]), 'another BalancedMixUp'),
    'another callback': (dict(cbs=lambda: [Remix(seed=1),Mine(1)]), 'BalancedMixUp and no Remix'),
    'no callback': (dict(cbs=lambda: [Mine(1)]), 'BalancedMixUp'),
    'accumulation': (dict(cbs=lambda: [BalancedMixUp(1., seed=1),Mine(1),GradientAccumulation(16)]),
        'no GradientAccumulation'),
    'one of mine': (dict(cbs=lambda: [BalancedMixUp(1., seed=1),Mine(2)]),
        """another Mine ([{"level": 1}], and not [{"level": 2}])"""),
    'monitor': (dict(make=partial(make_learner, metrics=[accuracy,error_rate]), monitor='error_rate'),
        'another monitor (accuracy, and not error_rate)')}

def first_fit(path, **kwargs):
    return go(path, **{'cbs':lambda: [BalancedMixUp(1., seed=1),Mine(1)], 'lr_max':.1, 'n':2, **kwargs})

@pytest.fixture(scope='module')
def one_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe')/'a.pth'
    with pytest.raises(KeyboardInterrupt): first_fit(path, more=[Cut(1)])
    return path

@pytest.mark.parametrize('case', other_fits)
def test_a_file_of_another_recipe_is_refused(case, one_file):
    kwargs,words = other_fits[case]
    if kwargs.get('fit')=='fit': kwargs = {**kwargs, 'lr_max':None}
    before = one_file.read_bytes()
    args = {'cbs':lambda: [BalancedMixUp(1., seed=1),Mine(1)], 'lr_max':.1, 'n':2, **kwargs}
    if args['lr_max'] is None: del args['lr_max']
    with pytest.raises(ValueError) as e: go(one_file, **args)
    said = str(e.value)
    assert "The 'path' parameter of Checkpoint must be a file of this fit, or a new one. Got a.pth" in said
    assert f'of a fit with {words}' in said and said.endswith(', instead.') and one_file.read_bytes()==before

def test_what_does_not_determine_a_fit_may_differ(one_file, tmp_path):
    shutil.copy(one_file, tmp_path/'a.pth')
    def resumed(*cbs): return len(first_fit(tmp_path/'a.pth', cbs=lambda: cbs)[1].history)
    # a callback of one's own that is gone, a log that has come
    assert resumed(BalancedMixUp(1., seed=1), CSVLogger(tmp_path/'log.csv'))==2
    # a file of an earlier version says nothing
    state = torch.load(one_file, weights_only=True)
    del state['recipe']
    torch.save(state, tmp_path/'a.pth')
    assert resumed(BalancedMixUp(.4, seed=1))==2

def n_epochs_of_first_fit(path): return len(first_fit(path)[1].history)

def test_the_same_call_has_the_same_recipe_in_another_process(one_file, tmp_path):
    shutil.copy(one_file, tmp_path/'a.pth')
    assert warm_call(n_epochs_of_first_fit, tmp_path/'a.pth')==2

def test_a_damaged_file_is_as_none(tmp_path):
    a = go(tmp_path/'a.pth', n=2)
    data = (tmp_path/'a.pth').read_bytes()
    for bad in *(data[:i] for i in (0,1,10,len(data)//2,len(data)-100,len(data)-1)),b'epoch,train_loss\n0,1.3\n'*100:
        (tmp_path/'b.pth').write_bytes(bad)
        with pytest.warns(UserWarning, match='b.pth cannot be read; the fit starts again'):
            b = go(tmp_path/'b.pth', n=2)
        assert_alike(a, b)
        assert len(torch.load(tmp_path/'b.pth', weights_only=True)['history'])==2

def test_files_of_others_are_left_alone(tmp_path):
    for o in make_net().state_dict(),torch.zeros(3),[1,2],{}:
        torch.save(o, tmp_path/'b.pth')
        unopened("The 'path' parameter of Checkpoint must be a file that Checkpoint wrote. Got b.pth instead.",
            tmp_path/'b.pth')
    (tmp_path/'folder').mkdir()
    unopened("The 'path' parameter of Checkpoint must be a file, or the name of a new one.", tmp_path/'folder')

class Malicious:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir,(str(self.path),)

def test_code_in_a_file_is_not_run(tmp_path):
    go(tmp_path/'a.pth')
    bad,state = Malicious(tmp_path/'harm'),torch.load(tmp_path/'a.pth', weights_only=True)
    old = partial(torch.save, _use_new_zipfile_serialization=False)
    writers = [lambda p: torch.save({**state, 'history':bad}, p), lambda p: old({**state, 'cbs':bad}, p),
        lambda p: p.write_bytes(pickle.dumps(bad, 2))]
    for write in writers:
        write(tmp_path/'b.pth')
        with pytest.warns(UserWarning, match='b.pth cannot be read'): go(tmp_path/'b.pth', n=1)
        assert not (tmp_path/'harm').exists()

def test_what_belongs_elsewhere_is_refused_at_once(tmp_path):
    unopened('Checkpoint cannot be combined with SaveModelCallback', tmp_path/'a.pth',
        cbs=[SaveModelCallback('accuracy')])
    unopened("The 'path' parameter of Checkpoint must be in a folder that exists", tmp_path/'none'/'a.pth')
    with pytest.raises(ValueError, match='must be among the `cbs` of `fit`, not of a Learner'):
        make_learner(cbs=Checkpoint(tmp_path/'a.pth'))

# --- writing ---

def test_a_file_is_replaced_as_a_whole(tmp_path):
    for data in b'first',b'',b'x'*10**6,b'second':
        write_file(str(tmp_path/'a.bin'), data)
        assert (tmp_path/'a.bin').read_bytes()==data and os.listdir(tmp_path)==['a.bin']

@contextlib.contextmanager
def on_a_full_device(monkeypatch):
    "Parts of files lead to where the kernel itself says that there is no room"
    def opened(path, *args):
        os.symlink('/dev/full', path)
        return open(path, 'wb')
    with monkeypatch.context() as m:
        m.setattr(files, 'open', opened, raising=False)
        yield

def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path/'a.bin'
    write_file(path, b'old')
    with on_a_full_device(monkeypatch), pytest.raises(DiskFull) as e: write_file(path, b'x'*3_000_000)
    assert e.value.errno==errno.ENOSPC and isinstance(e.value, OSError) and isinstance(e.value.__cause__, OSError)
    assert 'No room left for a.bin (3.0 MB)' in str(e.value) and str(tmp_path) in str(e.value)
    assert path.read_bytes()==b'old' and os.listdir(tmp_path)==['a.bin']
    def fail(code, *args): raise OSError(code, os.strerror(code))
    for name in 'fsync','replace':
        for code,error in (errno.ENOSPC,DiskFull),(errno.EDQUOT,DiskFull),(errno.EIO,OSError),(errno.EACCES,
            PermissionError),(errno.EROFS,OSError):
            with monkeypatch.context() as m:
                m.setattr(files.os, name, partial(fail, code))
                with pytest.raises(OSError) as e: write_file(path, b'new')
            assert type(e.value) is error and e.value.errno==code
            assert path.read_bytes()==b'old' and os.listdir(tmp_path)==['a.bin']

def test_other_errors_of_the_system_pass_through(tmp_path):
    path = tmp_path/'a.bin'
    write_file(path, b'old')
    soft,hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,hard))
    try:
        with pytest.raises(OSError) as e: write_file(path, b'x'*200_000)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft,hard))
    assert e.value.errno==errno.EFBIG and not isinstance(e.value, DiskFull)
    with pytest.raises(FileNotFoundError): write_file(tmp_path/'none'/'a.bin', b'')
    with pytest.raises(NotADirectoryError): write_file(path/'b.bin', b'')
    (tmp_path/'folder').mkdir()
    with pytest.raises(IsADirectoryError): write_file(tmp_path/'folder', b'')
    assert path.read_bytes()==b'old' and sorted(os.listdir(tmp_path))==['a.bin','folder']

def test_a_full_disk_ends_a_fit_that_goes_on_when_there_is_room(tmp_path, monkeypatch):
    a = go(tmp_path/'whole.pth')
    with contextlib.ExitStack() as full:
        def fill(self):
            if self.learn.epoch==2: full.enter_context(on_a_full_device(monkeypatch))
        with pytest.raises(DiskFull, match=r'No room left for cut.pth \(\d+\.\d MB\)'):
            go(tmp_path/'cut.pth', more=[fv.Callback(after_validate=fill)])
    assert sorted(os.listdir(tmp_path))==['cut.pth','whole.pth']
    assert len(torch.load(tmp_path/'cut.pth', weights_only=True)['history'])==2
    assert_alike(a, go(tmp_path/'cut.pth', world=99))

# --- killed ---

def result(learn, ck):
    return [v.numpy() for v in learn.model.state_dict().values()],ck.history,ck.best,random_state(learn)

def assert_same_result(a, b):
    for x,y in zip(a[0], b[0], strict=True): np.testing.assert_array_equal(x, y)
    assert a[1:]==b[1:]

mixed = partial(go, cbs=lambda: [BalancedMixUp(1.)], n=6)

def killed_fit(path, seconds, world=1):
    "A fit in a process that dies after so many seconds, and says how far it came if it does not"
    timer = threading.Timer(seconds, os.kill, (os.getpid(),signal.SIGKILL))
    timer.start()
    res = result(*mixed(path, world=world))
    timer.cancel()
    return res

def kill_at(path, share, seconds):
    "Kill a fit twice at about this share of the time it takes, then let it finish; each in a process of its own"
    for world,limit in (1,share*seconds),(2,share*seconds/2),(3,600):
        # before the first file the start counts
        try: return warm_call(killed_fit, path, limit, world=world if path.exists() else 1)
        except ChildProcessError as e: assert 'exit code -9' in str(e)
        if path.exists(): assert 1 <= len(torch.load(path, weights_only=True)['history']) <= 6

def killed_at_shares(folder, shares):
    whole,ck = mixed(folder/'whole.pth')
    for i,share in enumerate(shares):
        got = kill_at(folder/f'{i}.pth', share, max(ck.seconds, .05))
        assert_same_result(result(whole, ck), got)

def test_killed_at_a_random_moment(tmp_path): killed_at_shares(tmp_path, np.random.default_rng(0).uniform(.1, .9, 1))

@pytest.mark.slow
def test_killed_at_more_random_moments(tmp_path): killed_at_shares(tmp_path, np.random.default_rng(1).uniform(0, 1, 6))

points = 'opened','half','written','flushed','synced','replaced','folder opened','folder synced'

class Deadly:
    "Stands in for `os` and `open`, and kills the process at a point of writing the `nth` file"
    def __init__(self, point, nth): self.point,self.nth,self.n = points.index(point),nth,0
    def __getattr__(self, k): return getattr(os, k)
    def at(self, point):
        if self.n==self.nth and points.index(point)==self.point: os.kill(os.getpid(), signal.SIGKILL)

    def open_file(self, *args):
        self.n += 1
        f = open(*args) # noqa: SIM115 # closed by who asked for it
        deadly = self
        self.at('opened')
        class File:
            def __enter__(self): return self
            def __exit__(self, *args): f.close()
            def fileno(self): return f.fileno()
            def write(self, data):
                f.write(data[:len(data)//2])
                f.flush()
                deadly.at('half')
                f.write(data[len(data)//2:])
                deadly.at('written')
            def flush(self):
                f.flush()
                deadly.at('flushed')
        return File()

    def fsync(self, fd):
        folder = os.path.isdir(f'/proc/self/fd/{fd}') if os.path.exists('/proc/self/fd') else None
        os.fsync(fd)
        self.at('folder synced' if folder else 'synced')

    def replace(self, *args):
        os.replace(*args)
        self.at('replaced')

    def open(self, *args):
        res = os.open(*args)
        self.at('folder opened')
        return res

def killed_while_writing(folder):
    "Fits that die at each point of writing their second file, and what became of them: epochs in the file, results"
    res = {'whole': (None,result(*mixed(folder/'whole.pth')))}
    for point in points:
        path = folder/f'{point}.pth'
        pid = os.fork()
        if not pid:
            deadly = Deadly(point, 2)
            files.os,files.open = deadly,deadly.open_file
            try: mixed(path)
            finally: os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1])==signal.SIGKILL, point
        done = len(torch.load(path, weights_only=True)['history'])
        res[point] = done,result(*mixed(path, world=99))
    return res

def test_killed_at_every_point_of_writing(tmp_path):
    res = warm_call(killed_while_writing, tmp_path)
    _,whole = res.pop('whole')
    # the new file counts from the renaming on
    assert {k: done for k,(done,_) in res.items()}=={k: 1 if i < points.index('replaced') else 2
        for i,k in enumerate(points)}
    for _,got in res.values(): assert_same_result(whole, got)
