"""Very many classes, very many items, and next to none. What must hold: the balanced draw is right, no more is opened
than is needed, memory is bounded."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from fastai.vision import all as fv
from scipy import stats
from torch import nn
from toys import Counting, Numbered, quiet_fit, seeded_dl

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling, Remix, class_counts, imbalance_metrics, train_labels


class Lazy(torch.utils.data.Dataset):
    "A million items and more, made when they are asked for"
    def __init__(self, targets): self.targets,self.opened = targets,[]
    def __len__(self): return len(self.targets)
    def __getitem__(self, i):
        self.opened.append(i)
        return torch.tensor([float(i%7),1.]),int(self.targets[i])

class Few(fv.Callback):
    "Ends an epoch after `n` batches"
    order = 80
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.training and self.iter+1==self.n: raise fv.CancelTrainException

class Partners(fv.Callback):
    order,run_valid = BalancedMixUp.order-1,False
    def __init__(self): self.seen = []
    def before_batch(self):
        if self.dl.lam: self.seen += self.y[len(self.y)//2:].tolist()

def learner(ds, n_classes, n_in=1, bs=64, valid=None, **kwargs):
    if valid is None: valid = ds
    dls = fv.DataLoaders(seeded_dl(ds, bs=bs), seeded_dl(valid, bs=bs, shuffle=False), device='cpu')
    torch.manual_seed(0)
    net = nn.Linear(n_in, n_classes)
    return fv.Learner(dls, net, loss_func=nn.CrossEntropyLoss(), opt_func=fv.SGD, lr=.01, **kwargs)

def test_a_thousand_classes_of_one_image():
    ds = Counting(np.random.default_rng(0).permutation(1000).tolist())
    learn = learner(ds, 1000, metrics=imbalance_metrics())
    partners = Partners()
    quiet_fit(learn, 3, [BalancedMixUp(1., seed=0),partners])
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()
    # every class as often as any other: χ² of 3,000 draws or so from 1,000 classes
    n = np.bincount(partners.seen, minlength=1000)
    assert len(partners.seen)>2000 and stats.chisquare(n).pvalue>1e-3
    weighted = learn.dls.weighted('class', seed=1).train
    drawn = [i for _ in range(3) for i in weighted.get_idxs()]
    assert stats.chisquare(np.bincount(drawn, minlength=1000)).pvalue>1e-3

rare = 123_456
def million():
    "Three classes, the last of one item"
    y = np.zeros(10**6, dtype=np.int64)
    y[::10] = 1
    y[rare] = 2
    return Lazy(y)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('name,measured', [
    ('balmix',False), ('weighted',False), pytest.param('balmix', True, marks=pytest.mark.slow)
])
def test_a_million_items_and_one_of_the_rarest_class(name, measured):
    ds = million()
    learn = learner(ds, 3, 2, bs=100, valid=Numbered([0]*4, (2,)))
    cb = BalancedMixUp(1., per_item=True, seed=0) if name=='balmix' else None
    if cb is None: learn.dls = learn.dls.weighted('class', seed=0)
    if measured: tracemalloc.start()
    quiet_fit(learn, 1, [*fv.L(cb),Few(20)])
    if measured:
        # An epoch's indices as fastai keeps and shuffles them take 50 bytes an item, pairs of them 130 more
        assert tracemalloc.get_traced_memory()[1]<300e6
        tracemalloc.stop()
    # fastai's plain order comes upon the one item in 20 batches with probability 0.002; a third of all balanced draws
    # is this one
    n = dict(balmix=len(ds.opened)-2001, weighted=2000)[name]
    assert 400<n<=2000 and abs(sum(i==rare for i in ds.opened)-n/3)<5*(n*2/9)**.5

def test_labels_of_a_million_items_are_read_without_opening_one():
    ds = million()
    dl = seeded_dl(ds)
    assert class_counts(train_labels(dl)).tolist()==[899_999,100_000,1] and ds.opened==[]

@pytest.mark.thinned(8)
@pytest.mark.parametrize('targets', [[0,1],[0,0]])
@pytest.mark.parametrize('bs', [1,2,5])
@pytest.mark.parametrize('cb', [
    lambda: BalancedMixUp(1., seed=0), lambda: BalancedMixUp(1., per_item=True, seed=0),
    lambda: ProgressiveSampling(seed=0), lambda: Remix(seed=0)
])
def test_two_images_in_all(targets, bs, cb):
    learn = learner(Numbered(targets), 2, bs=bs, metrics=imbalance_metrics())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # of the single class
        quiet_fit(learn, 3, cb())
        drawn = [sorted(learn.dls.weighted('class', seed=0).cached('10kB').train.get_idxs()) for _ in range(2)]
    assert len(learn.recorder.losses)==3*-(-2//bs)
    assert np.isfinite(learn.recorder.losses).all()
    assert all(len(o)==2 and {*o}<={0,1} for o in drawn)

def test_one_image_in_all():
    learn = learner(Numbered([0]), 2, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        quiet_fit(learn, 2, BalancedMixUp(1., seed=0))
    assert len(learn.recorder.losses)==2
