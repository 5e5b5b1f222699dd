"""Targets other than one int for each item: several labels, one output for two classes, shares and one-hot rows. Each
way is held against plain loops and plain PyTorch steps, and each kind is trained once from files through fastai's own
blocks."""
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import (
    SGD,
    BCELossFlat,
    BCEWithLogitsLossFlat,
    Callback,
    CategoryBlock,
    ColReader,
    DataBlock,
    DataLoaders,
    Datasets,
    EncodedMultiCategorize,
    F1ScoreMulti,
    ImageBlock,
    IndexSplitter,
    ItemGetter,
    L,
    Learner,
    MultiCategorize,
    MultiCategoryBlock,
    OneHotEncode,
    PILImage,
    RegressionBlock,
    TfmdDL,
    TransformBlock,
    accuracy_multi,
    vision_learner,
)
from fasttransform import Pipeline, Transform
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chisquare
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, matthews_corrcoef
from torch import nn
from torch.utils.data import ConcatDataset, Subset, SubsetRandomSampler, TensorDataset
from toys import Unopenable, equal, params, quiet_fit, seeded_dl

from fastai_balmix.all import *
from fastai_balmix.callback.fitcheck import nominal_prior
from fastai_balmix.callback.show import class_distribution
from fastai_balmix.checks import as_targets, label_array, target_form
from fastai_balmix.compare.plan import compare
from fastai_balmix.datasets.sources import from_csv
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.inference.prior import adjust_prior, estimate_prior
from fastai_balmix.loaders.cache import _by_rarity
from fastai_balmix.loaders.labels import first_target, single_labels, train_labels
from fastai_balmix.loaders.weighted import loader_sampler, progressive_loader
from fastai_balmix.losses import QWKLoss

NAMES = ['ant','bee','cat','dog']
# No item has a dog and no bee; some have nothing
SETS = [['ant'],['bee'],['ant','bee'],[],['bee','dog'],['cat'],['ant'],['cat','ant']]*6
ROWS = np.array([[nm in o for nm in NAMES] for o in SETS])

# --- which form targets have ---

@pytest.mark.parametrize('y,form,expected', [
    ([0,2,1], 'classes', [0,2,1]),
    ([0.,1.,1.], 'classes', [0,1,1]),
    (torch.tensor([[0.],[1.],[0.]]), 'classes', [0,1,0]),
    ([[0],[1]], 'classes', [0,1]),
    ([[1,0,0],[1,1,0],[0,0,0]], 'labels', [[True,False,False],[True,True,False],[False,False,False]]),
    (torch.tensor([[1.,0.],[1.,1.]], dtype=torch.bfloat16), 'labels', [[True,False],[True,True]]),
    ([[0,0,1],[1,0,0]], 'shares', [2,0]),
    ([[.2,.5,.3],[.6,.4,0]], 'shares', [1,0]),
    (torch.softmax(torch.arange(40.).view(2,20), 1).half(), 'shares', [19,19]),
    ([torch.tensor([0.,1.,1.]),torch.tensor([0.,0.,0.])], 'labels', [[False,True,True],[False,False,False]]),
    ([[True,False],[False,True]], 'labels', [[True,False],[False,True]]),
    ([[True],[False]], 'labels', [[True],[False]]),
])
def test_forms(y, form, expected):
    got = as_targets(y, 'Me')
    assert target_form(label_array(y))==form and got.tolist()==expected
    assert got.dtype==(bool if form=='labels' else np.int64)
    assert as_targets(got, 'Me').tolist()==expected

@pytest.mark.parametrize('y,kwargs,words', [
    ([0.,.5], {}, r"'labels' parameter of Me must be one int per item, the number of its class. Got float64 values"),
    ([[.2,.5]], {
        }, r"must be one int per item, or rows of 0 and 1, or rows of shares that sum to 1. Got \[0.2, 0.5\] at "
           r"index 0, in an array of shape \(1, 2\)"),
    ([[.5,.5],[.5,.6]], {}, r"Got \[0.5, 0.6\] at index 1"),
    ([[.5,.5],[1,1]], {}, r"Got \[0.5, 0.5\] at index 0"),
    ([[1.5,-.5]], {}, r"Got \[1.5, -0.5\] at index 0"),
    ([[0,1],[0,float('nan')]], {}, r"Got \[0.0, nan\] at index 1"),
    ([[1,0],[1,1]], dict(n=3), "must be 3 rows, one for each item. Got 2 rows"),
    ([[1,0],[1,1]], dict(n_classes=3), "must be 3 columns, one for each class. Got 2 columns"),
    ([[0.],[2.]], {}, r"Got \[2.0\] at index 1"),
    ([['a','b']], {}, r"Got an array of shape \(1, 2\)"),
])
def test_what_has_no_form_is_named(y, kwargs, words):
    with pytest.raises(ValueError, match=words): as_targets(y, 'Me', **kwargs)

def test_labels_are_counted():
    assert class_counts(ROWS).tolist()==[sum(nm in o for o in SETS) for nm in NAMES]
    assert class_counts([[.2,.8],[.3,.7],[1,0]]).tolist()==[1,2]

# --- the draw ---

indicators = hnp.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 6)))
exponents = st.one_of(st.floats(-1, 2), st.sampled_from(['instance','sqrt','class']))

def naive_probs(y, q):
    "Probability of each item and share of each label, by loops over what is drawn"
    q = dict(instance=1, sqrt=.5, **{'class':0}).get(q, q)
    groups = [[i for i,row in enumerate(y) if row[k]]
        for k in range(y.shape[1])] + [[i for i,row in enumerate(y) if not any(row)]]
    p = [len(g)**q if g else 0 for g in groups]
    item = np.zeros(len(y))
    for pk,g in zip(p, groups):
        for i in g: item[i] += pk/sum(p)/len(g)
    return item,[sum(item[i] for i in g) for g in groups]

@given(y=indicators, q=exponents)
def test_items_come_with_the_probability_of_their_labels(y, q):
    item,shares = naive_probs(y, q)
    s = ClassSampler(y, q)
    np.testing.assert_allclose(s.item_probs(), item, atol=1e-12)
    np.testing.assert_allclose(s.shares(), shares, atol=1e-12)
    assert s.counts.tolist()==[*y.sum(0), (~y.any(1)).sum()]

@pytest.mark.parametrize('q', ['class','sqrt','instance',-.5])
def test_draws_follow_these_probabilities(q):
    rng = np.random.default_rng(1)
    y = rng.random((40,5)) < [.6,.3,.2,.1,.05]
    item,_ = naive_probs(y, q)
    n = 40_000
    seen = np.bincount(ClassSampler(y, q).draw(n, rng), minlength=40)
    # The statistic exceeds this value in one of a million experiments; the seed is fixed
    assert chisquare(seen, n*item).pvalue>1e-6
    # and the test can tell: items drawn uniformly are far from it
    assert chisquare(seen, np.full(40, n/40)).pvalue<1e-6

@given(y=st.lists(st.integers(0, 5), min_size=1, max_size=40), q=exponents, seed=st.integers(0, 9))
def test_one_label_each_is_drawn_as_classes_are_to_the_last_item(y, q, seed):
    rows = np.eye(6)[y]
    draws = [ClassSampler(o, q, 6).draw(50, np.random.default_rng(seed)).tolist()
        for o in (y, rows, rows.astype(bool), torch.tensor(rows), .9*rows+.1/6)]
    assert all(o==draws[0] for o in draws)

def reference_draw(y, q, n, rng):
    "The draw of classes as one line a step"
    counts = np.bincount(y)
    p = np.where(counts>0, counts.astype(float)**q, 0)
    k = np.searchsorted(np.cumsum(p)/p.sum(), rng.random(n), side='right')
    items = [np.flatnonzero(np.array(y)==j) for j in range(len(counts))]
    return [int(items[j][i]) for j,i in zip(k, rng.integers(counts[k]))]

@pytest.mark.parametrize('q', [0.,.5,1.])
def test_seeded_draws_of_classes_are_what_they_were(q):
    y = np.random.default_rng(3).choice(4, 200, p=[.7,.2,.08,.02])
    assert ClassSampler(y, q).draw(1000, np.random.default_rng(5)).tolist()==reference_draw(y, q, 1000,
        np.random.default_rng(5))

@given(y=indicators, data=st.data())
def test_only_some_items_may_be_drawn(y, data):
    among = data.draw(st.lists(st.integers(0, len(y)-1), min_size=1, max_size=len(y), unique=True))
    s = ClassSampler(y, among=among)
    item,_ = naive_probs(y[among], 'class')
    np.testing.assert_allclose(s.item_probs()[among], item, atol=1e-12)
    assert {*s.draw(50, np.random.default_rng(0)).tolist()} <= {*among} and s.n_drawn==len(among)

# --- reading ---

def noimage(o): return torch.zeros(1)
def without_images(ds):
    "`ds`, whose images fail when they are opened"
    ds.tls = L([Unopenable(range(len(ds))), ds.tls[1]])
    return ds

def block(items, y_block, **kwargs):
    return without_images(DataBlock((TransformBlock(type_tfms=noimage), y_block),
        splitter=IndexSplitter([len(items)-1]), **kwargs).datasets(items).train)

def table(text=True):
    df = pd.DataFrame(dict(file=[f'{i}.png' for i in range(len(SETS))], labels=[' '.join(o) for o in SETS]),
        index=range(100, 100+len(SETS)))
    df = pd.concat([df, pd.DataFrame(ROWS.astype(int), columns=NAMES, index=df.index)], axis=1)
    return df if text else df[NAMES]

class Tagged(MultiCategorize): "A subclass that adds nothing"

multi_forms = {
    'a column of text': lambda: block(table(), MultiCategoryBlock, get_y=ColReader('labels', label_delim=' ')),
    'a column of text, function after': lambda: block(table(), MultiCategoryBlock,
        get_y=Pipeline([ColReader('labels', label_delim=' '), lambda o: o[::-1]])),
    'a function': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: SETS[i]),
    'L': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: L(SETS[i])),
    'sets': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: {*SETS[i]}),
    'labels twice': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: SETS[i]*2),
    'pairs': lambda: block(list(zip(range(len(SETS)), SETS)), MultiCategoryBlock,
        getters=[ItemGetter(0),ItemGetter(1)]),
    'vocab': lambda: block(table(), MultiCategoryBlock(vocab=NAMES[::-1]), get_y=ColReader('labels', label_delim=' ')),
    'add_na': lambda: block(table(), MultiCategoryBlock(add_na=True), get_y=ColReader('labels', label_delim=' ')),
    'numbers': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: [NAMES.index(o) for o in SETS[i]]),
    'a subclass': lambda: block(table(), TransformBlock(type_tfms=[Tagged(),OneHotEncode()]),
        get_y=ColReader('labels', label_delim=' ')),
    'columns of 0 and 1': lambda: block(table(), MultiCategoryBlock(encoded=True, vocab=NAMES), get_y=ColReader(NAMES)),
    'columns of 0 and 1, no text': lambda: block(table(text=False), MultiCategoryBlock(encoded=True, vocab=NAMES),
        get_y=ColReader(NAMES)),
    'columns of bools': lambda: block(table().astype({o:bool for o in NAMES}),
        MultiCategoryBlock(encoded=True, vocab=NAMES), get_y=ColReader(NAMES)),
    'columns of one name': lambda: block(table()[['file','labels']].set_axis(['one','one'], axis=1), MultiCategoryBlock,
        get_y=ColReader('one')),
    'columns, a function after': lambda: block(table(), MultiCategoryBlock(encoded=True, vocab=NAMES),
        get_y=Pipeline([ColReader(NAMES), lambda o: [1-v for v in o]])),
    'rows by a function': lambda: block(range(len(SETS)), MultiCategoryBlock(encoded=True, vocab=NAMES),
        get_y=lambda i: ROWS[i].astype(int).tolist()),
    'one label': lambda: block(range(len(SETS)), MultiCategoryBlock, get_y=lambda i: ['ant']*('ant' in SETS[i])),
    'one label each': lambda: block(range(len(SETS)), MultiCategoryBlock(vocab=NAMES), get_y=lambda i: [NAMES[i%4]]),
}

def read(ds): return train_labels(TfmdDL(ds, bs=1, num_workers=0))
def by_fastai(ds):
    "Rows of `ds` with fastai left to make them one after the other"
    return np.array([o.tolist() for o in ds.tls[-1]])==1

@pytest.mark.parametrize('form', multi_forms)
def test_rows_of_labels_are_fastais(form):
    got = read(multi_forms[form]())
    assert got.dtype==bool and got.ndim==2 and (got==by_fastai(multi_forms[form]())).all() and len(got)==len(SETS)-1
    if form in ('a column of text','function','L','sets','pairs','columns of 0 and 1'): assert (got==ROWS[:-1]).all()

@pytest.mark.parametrize('form', ['a column of text','a function','pairs','columns of 0 and 1'])
def test_equal_sets_of_labels_are_encoded_once(form, monkeypatch):
    ds,calls = multi_forms[form](),[]
    kind = type(ds.tls[-1].tfms.fs[-1])
    def noted(self, o, **kwargs):
        calls.append(o)
        return Transform.__call__(self, o, **kwargs)
    monkeypatch.setattr(kind, '__call__', noted)
    n = len({*map(tuple, read(ds))})
    # one more for the first item, which tells what the task is
    assert len(calls)==n+1

@pytest.mark.parametrize('make', [
    lambda: block(range(4), MultiCategoryBlock(vocab=NAMES), get_y=lambda i: ['ant','emu'] if i else []),
    lambda: block(table(), MultiCategoryBlock(vocab=NAMES[:2]), get_y=ColReader('labels', label_delim=' ')),
])
def test_an_unknown_label_is_named_in_fastais_words(make):
    with pytest.raises(KeyError, match="Labels '.*' were not included in the training dataset"): read(make())

@given(data=st.data())
def test_any_columns_give_fastais_rows(data):
    n,cols = data.draw(st.integers(1, 5)),{}
    for c in 'ab','cd','ef':
        dtype = data.draw(st.sampled_from(['int64','uint8','float32','float64','bool',object,'Int64']))
        cols[c] = pd.Series(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), dtype=dtype)
    df = pd.DataFrame(cols)
    if data.draw(st.booleans()): df['text'] = 'x'
    names = data.draw(st.permutations(list(cols)))[:data.draw(st.integers(2, 3))]
    def make(): return Datasets(df, [[noimage],[ColReader(names),EncodedMultiCategorize(vocab=names)]])
    try: expected = by_fastai(make())
    except Exception as e: # fastai makes no tensor of some mixtures
        with pytest.raises(type(e)): read(make())
    else: assert (read(make())==expected).all()

class Targets(torch.utils.data.Dataset):
    "Points with any targets"
    def __init__(self, y, seed=0):
        self.targets,self.x = y,torch.randn(len(y), 6, generator=torch.Generator().manual_seed(seed))
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i],self.targets[i]

float_rows = torch.tensor(ROWS, dtype=torch.float32)
@pytest.mark.parametrize('ds,expected', [
    (Unopenable(ROWS), ROWS),
    (Unopenable(float_rows), ROWS),
    (Unopenable([*float_rows]), ROWS),
    (Unopenable(ROWS.astype(int).tolist()), ROWS),
    (TensorDataset(torch.zeros(48,1), float_rows), ROWS),
    (Subset(Unopenable(float_rows), [3,2]), ROWS[[3,2]]),
    (ConcatDataset([Unopenable(float_rows[:5]), Unopenable(ROWS[5:])]), ROWS),
    ([(0., o) for o in float_rows], ROWS),
    (Unopenable(torch.tensor([0.,1.,1.])), np.array([0,1,1])),
    (Unopenable(torch.tensor([[0.],[1.],[1.]])), np.array([0,1,1])),
    (Unopenable(np.array([[.1,.9],[.7,.3]], dtype=np.float16)), np.array([1,0])),
])
def test_other_data_sets_give_the_same(ds, expected):
    got = train_labels(seeded_dl(ds))
    assert got.dtype==expected.dtype and got.tolist()==expected.tolist()

def test_data_sets_that_make_rows_of_shares_or_floats_by_functions():
    shares = torch.softmax(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), 1)
    def ds(f): return without_images(Datasets(range(8), [[noimage],[f]]))
    assert read(ds(lambda i: shares[i])).tolist()==shares.argmax(1).tolist()
    assert read(ds(lambda i: shares[i].numpy())).tolist()==shares.argmax(1).tolist()
    assert read(ds(lambda i: float(i%2))).tolist()==[0,1]*4
    assert read(block(range(9), RegressionBlock, get_y=lambda i: i%2)).tolist()==[0,1]*4
    with pytest.raises(ValueError, match='whose targets are classes. Got float64 targets: regression'):
        read(ds(lambda i: i/2))
    with pytest.raises(ValueError, match='whose targets are classes. Got Tensor.* targets: regression'):
        read(ds(lambda i: torch.tensor([1.5,i])))

def test_given_labels_go_before_targets():
    dl = seeded_dl(Unopenable(float_rows))
    assert train_labels(dl, [0]*48).tolist()==[0]*48
    assert train_labels(dl, ROWS[:,:2]).tolist()==ROWS[:,:2].tolist()
    with pytest.raises(ValueError,
        match="'labels' parameter of train_labels must be 48 rows, one for each item. Got 47 rows"):
        train_labels(dl, ROWS[1:])

def test_names_and_warnings_know_of_items_without_labels():
    ds = Unopenable(ROWS & [True,True,False,True])
    ds.classes = NAMES
    with pytest.warns(UserWarning, match='Me: no training image of cat; never drawn') as ws:
        loader_sampler(seeded_dl(ds), owner='Me')
    assert len(ws)==1
    ds = Unopenable(ROWS[:3])
    ds.classes = NAMES # none without a label, and no warning of that
    with pytest.warns(UserWarning, match='no training image of cat, dog; never drawn'):
        loader_sampler(seeded_dl(ds), owner='Me')
    with pytest.warns(UserWarning, match='all 3 training images are of one class, no label'):
        loader_sampler(seeded_dl(Unopenable(np.zeros((3,2)))), owner='Me')

def test_a_sampler_that_visits_some_items():
    dl = torch.utils.data.DataLoader(Unopenable(ROWS), 4, sampler=SubsetRandomSampler([0,3,4]))
    assert loader_sampler(dl).counts.tolist()==[1,1,0,1,1]

# --- the step: mixing two losses is the loss of the mixed target ---

class Probe(Callback):
    "Keeps what a batch held before and after it was mixed"
    order = -3
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen.append((self.x.clone(), self.y.clone(), self.dl.lam if self.training else None))

class Steps(Callback):
    "Keeps the parameters after every step"
    order = 99
    def before_fit(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append(params(self.learn))

def reference_mix(x, lam):
    "Items mixed with their partners, by a loop"
    if not torch.is_tensor(lam):
        n = len(x)//2 if lam else len(x)
        return torch.stack([(1-lam)*x[i] + lam*x[n+i] if lam else x[i] for i in range(n)])
    partners = iter(range(len(lam), len(x)))
    return torch.stack([(1-l)*x[i] + l*x[next(partners)] if l else x[i] for i,l in enumerate(lam)])

def net(n_out):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6,7), nn.Tanh(), nn.Linear(7,n_out))

class Column(nn.Module):
    "A network whose output is a number for each item, without a dimension of its own"
    def __init__(self):
        super().__init__()
        self.net = net(1)
    def forward(self, x): return self.net(x).squeeze(1)

rng = np.random.default_rng(0)
binary = torch.tensor(rng.random(48)<.2)
soft = torch.softmax(torch.tensor(3*rng.normal(size=(48,3)) + [1,0,-2], dtype=torch.float32), 1)
pos = torch.tensor([1.,2.,5.,3.])
def bce(**kwargs): return lambda p,y: F.binary_cross_entropy_with_logits(p, y, **kwargs)
def one_output(p, y): return F.binary_cross_entropy_with_logits(p.flatten(), y.flatten().float())
# Targets, network, loss, and the loss of a mixed target in PyTorch
kinds = {
    'labels': (float_rows, partial(net, 4), BCEWithLogitsLossFlat(), bce()),
    'labels, PyTorch': (float_rows, partial(net, 4), nn.BCEWithLogitsLoss(), bce()),
    'labels, weighted': (float_rows, partial(net, 4), nn.BCEWithLogitsLoss(pos_weight=pos, weight=pos.flip(0)),
        bce(pos_weight=pos, weight=pos.flip(0))),
    'labels, sum': (float_rows, partial(net, 4), nn.BCEWithLogitsLoss(reduction='sum'), bce(reduction='sum')),
    'binary, ints': (binary.long(), partial(net, 1), BCEWithLogitsLossFlat(), one_output),
    'binary, floats': (binary.float(), Column, nn.BCEWithLogitsLoss(), one_output),
    'binary, columns': (binary.float()[:,None], partial(net, 1), nn.BCEWithLogitsLoss(), one_output),
    'binary, weighted': (binary.float()[:,None], partial(net, 1), BCEWithLogitsLossFlat(pos_weight=torch.tensor(4.)),
        bce(pos_weight=torch.tensor(4.))),
    'shares': (soft, partial(net, 3), nn.CrossEntropyLoss(), F.cross_entropy),
    'shares, weighted': (soft, partial(net, 3), nn.CrossEntropyLoss(weight=pos[:3], label_smoothing=.1),
        partial(F.cross_entropy, weight=pos[:3], label_smoothing=.1)),
    'one-hot': (F.one_hot(soft.argmax(1)).float(), partial(net, 3), nn.CrossEntropyLoss(), F.cross_entropy),
}

@pytest.mark.filterwarnings('ignore:.*correct.*')
@pytest.mark.parametrize('per_item', [False,True])
@pytest.mark.parametrize('kind', kinds)
def test_a_step_is_that_of_mixed_targets(kind, per_item):
    y,make,loss_func,reference = kinds[kind]
    dls = DataLoaders(seeded_dl(Targets(y), bs=7), seeded_dl(Targets(y), bs=7, shuffle=False))
    probe = Probe()
    steps = Steps()
    cb = BalancedMixUp(1., per_item=per_item, seed=1)
    learn = Learner(dls, make(), loss_func=loss_func, lr=.1, opt_func=SGD)
    quiet_fit(learn, 2, cbs=[probe,steps,cb])
    model,lams = make(),[]
    batches = [o for o in probe.seen if o[2] is not None]
    assert len(batches)==len(steps.seen)==14
    for (x,t,lam),after in zip(batches, steps.seen):
        loss = reference(model(reference_mix(x, lam)), reference_mix(t.float(), lam))
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= .1*p.grad
                p.grad = None
        torch.testing.assert_close(torch.cat([p.detach().flatten() for p in model.parameters()]), after, rtol=1e-4,
            atol=1e-5)
        lams += lam.tolist() if per_item else [lam]
    assert sum(o>0 for o in lams)>len(lams)*.9 # alpha=1

@given(y=hnp.arrays(bool, (3,4)), y1=hnp.arrays(bool, (3,4)),
    z=hnp.arrays(np.float64, (3,4), elements=st.floats(-30, 30)), lam=st.floats(0, 1))
def test_binary_cross_entropy_is_linear_in_its_target(y, y1, z, lam):
    y,y1,z = torch.tensor(y).double(),torch.tensor(y1).double(),torch.tensor(z)
    def f(t): return F.binary_cross_entropy_with_logits(z, t, pos_weight=pos.double())
    torch.testing.assert_close((1-lam)*f(y)+lam*f(y1), f((1-lam)*y+lam*y1))

def test_shares_reach_a_loss_of_soft_targets_as_they_are():
    class Soft(nn.Module):
        soft_targets = True
        def forward(self, p, t): return F.cross_entropy(p, t if t.is_floating_point() else t.long())
    def fit(loss):
        return params(quiet_fit(Learner(DataLoaders(seeded_dl(Targets(soft), bs=7), seeded_dl(Targets(soft))), net(3),
            loss_func=loss, opt_func=SGD), 1, BalancedMixUp(1, seed=0)))
    torch.testing.assert_close(fit(Soft()), fit(nn.CrossEntropyLoss()))
    quiet_fit(Learner(DataLoaders(seeded_dl(Targets(soft), bs=16), seeded_dl(Targets(soft))), net(3),
        loss_func=QWKLoss()), 1, BalancedMixUp(1, seed=0))

def test_partners_are_drawn_by_label():
    y = np.zeros((400,3), dtype=bool)
    y[:,0],y[:40,1],y[380:] = True,True,[False,False,True]
    dl = seeded_dl(Targets(torch.tensor(y).float()), bs=20)
    dls = DataLoaders(dl, seeded_dl(Targets(torch.tensor(y).float()), shuffle=False))
    probe = Probe()
    quiet_fit(Learner(dls, net(3), loss_func=BCEWithLogitsLossFlat()), 5, cbs=[probe,BalancedMixUp(1., seed=0)])
    partners = torch.cat([t[len(t)//2:] for _,t,lam in probe.seen if lam])
    _,shares = naive_probs(y, 'class')
    n,p = len(partners),np.array(shares[:3])
    # each label within four standard deviations; it would be .95, .1, .05 in the data
    assert (np.abs(partners.mean(0).numpy()-p) < 4*np.sqrt(p*(1-p)/n)).all() and n>1500

def test_weighted_and_progressive_loaders_draw_by_label():
    dls = DataLoaders(seeded_dl(Unopenable(ROWS), bs=8), None)
    item,_ = naive_probs(ROWS, 'class')
    seen = np.bincount([i for _ in range(200) for i in dls.weighted('class', seed=_).train.get_idxs()], minlength=48)
    assert chisquare(seen, seen.sum()*item).pvalue>1e-6
    seen = np.bincount([i for k in range(200)
        for i in progressive_loader(dls.train, .5, rng=np.random.default_rng(k)).get_idxs()], minlength=48)
    # half of the places are a plain epoch's, whose items vary less than chance has it
    assert chisquare(seen, seen.sum()*(.5*item+.5/48)).pvalue>1e-6

# --- Remix ---

@pytest.mark.parametrize('y,loss_func,n_out',
    [(F.one_hot(soft.argmax(1)).float(), nn.CrossEntropyLoss(), 3),
        (F.one_hot(soft.argmax(1)), lambda p,t,reduction='mean': F.cross_entropy(p, t.float(), reduction=reduction),
            3)])
def test_remix_of_one_hot_rows_is_that_of_classes(y, loss_func, n_out):
    def fit(y, loss_func):
        dls = DataLoaders(seeded_dl(Targets(y), bs=8), seeded_dl(Targets(y), shuffle=False))
        return params(quiet_fit(Learner(dls, net(n_out), loss_func=loss_func, opt_func=SGD), 2,
            Remix(kappa=1.5, seed=0)))
    torch.testing.assert_close(fit(y, loss_func), fit(soft.argmax(1), nn.CrossEntropyLoss()))

def test_remix_of_one_output_is_that_of_classes():
    def fit(y):
        cb = Remix(kappa=1.5, seed=0)
        dls = DataLoaders(seeded_dl(Targets(y), bs=8), seeded_dl(Targets(y), shuffle=False))
        return params(quiet_fit(Learner(dls, net(1), loss_func=BCEWithLogitsLossFlat(), opt_func=SGD), 2, cb)),cb.lam_y
    (a,lam),(b,lam1) = fit(binary.long()),fit(binary.float()[:,None])
    torch.testing.assert_close(a, b)
    equal(lam, lam1)

@pytest.mark.parametrize('kwargs', [{}, dict(labels=[0,1]*24)])
def test_remix_says_that_it_wants_one_class(kwargs):
    dls = DataLoaders(seeded_dl(Targets(float_rows)), seeded_dl(Targets(float_rows)))
    learn = Learner(dls, net(4), loss_func=BCEWithLogitsLossFlat())
    start = params(learn)
    with pytest.raises(ValueError,
        match='Remix must be given a data set with one class per item. Got 4 labels of which an item may have '
              'several: multi-label'):
        quiet_fit(learn, 1, Remix(**kwargs))
    equal(params(learn), start)

# --- what is for single classes only ---

@pytest.mark.parametrize('ask', [
    lambda dls: single_labels(dls.train, owner='Me'), lambda dls: nominal_prior(dls),
    lambda dls: nominal_prior(dls.weighted('sqrt'), BalancedMixUp()), lambda dls: nominal_prior(dls, labels=ROWS),
])
def test_what_needs_one_class_says_so(ask):
    dls = DataLoaders(seeded_dl(Unopenable(ROWS)), None)
    with pytest.raises(ValueError,
        match='must be given a data set with one class per item. Got 4 labels of which an item may have several'):
        ask(dls)

def test_a_comparison_is_of_single_classes(tmp_path):
    df = pd.DataFrame(dict(path=[f'{i}.png' for i in range(len(SETS))], label=SETS))
    for labels in SETS,[*map(tuple, SETS)],[{*o} for o in SETS],[*ROWS]:
        with pytest.raises(ValueError,
            match=r"'df' parameter of ImageData must be a table with one class in each row. Got .* in row 0: "
                  r"multi-label"):
            ImageData(df.assign(label=labels), NAMES, root=tmp_path)
    table().to_csv(tmp_path/'t.csv')
    with pytest.raises(ValueError,
        match="'label' parameter of from_csv must be the name of one column, as every image has one class. Got "
              ".'ant', 'bee'"):
        from_csv(tmp_path/'t.csv', label=['ant','bee'])
    with pytest.raises(ValueError, match="'data' parameter of compare must be `ImageData`"):
        compare(DataLoaders(seeded_dl(Unopenable(ROWS)), None), out=tmp_path/'out')

@pytest.mark.parametrize('y', [float_rows, soft, ROWS.astype(np.float32), [*float_rows]])
def test_metrics_of_one_class_are_refused_before_training(y):
    dls = DataLoaders(seeded_dl(Targets(y)), seeded_dl(Targets(y)))
    learn = Learner(dls, net(len(y[0])), loss_func=nn.BCEWithLogitsLoss(),
        metrics=[accuracy_multi, *imbalance_metrics(), BrierError()])
    start = params(learn)
    with pytest.raises(ValueError,
        match=r'mcc, balanced_acc, macro_f1, brier_error must be given a data set with one class for each item of '
              r'validation. Got \d labels, or shares, for each: use metrics such as `accuracy_multi`'):
        quiet_fit(learn)
    equal(params(learn), start)
    with pytest.raises(ValueError, match='mcc needs class numbers of shape .* as targets'), learn.no_bar():
        learn.validate()

def test_first_targets_are_read_without_an_image():
    assert first_target(seeded_dl(Subset(ConcatDataset([Unopenable([3,4])]), [1])))==3
    assert first_target(TfmdDL(multi_forms['a function'](), bs=1)).tolist()==[1,0,0,0]
    assert first_target(seeded_dl(Numberless())) is None

class Numberless(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, i): raise AssertionError('an image was opened')

def test_probabilities_of_labels_are_no_class_probabilities():
    p = torch.tensor([[.9,.8],[.2,.1]])
    for ask in (lambda: adjust_prior(p, 'balanced'), lambda: PriorCalibrator().fit(p, [0,0]),
        lambda: estimate_prior(p, 'balanced')):
        with pytest.raises(ValueError, match="must be rows of probabilities: none negative, sum 1"): ask()

# --- networks with one output ---

@pytest.mark.parametrize('column', [False,True])
@pytest.mark.parametrize('loss_func',
    [BCEWithLogitsLossFlat(), nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, nn.BCELoss(), BCELossFlat()])
def test_one_output_is_scored_as_two_classes(loss_func, column):
    y = binary.float()[:,None] if column else binary.float()
    g = torch.Generator().manual_seed(1)
    z = torch.randn(48, generator=g) + binary*1.5 - 1
    logits = 'Logits' in str(loss_func) or 'logits' in str(loss_func)
    out = z if logits else z.sigmoid()
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))
        def forward(self, i): return out[i.long()][:,None] if column else out[i.long()]
    class Ds(Targets):
        def __getitem__(self, i): return float(i),self.targets[i]
    dls = DataLoaders(seeded_dl(Ds(y)), seeded_dl(Ds(y), bs=10, shuffle=False))
    learn = Learner(dls, Told(), loss_func=loss_func, metrics=[*imbalance_metrics(), BrierError(), CalibrationError()])
    with learn.no_bar(): got = learn.validate()[1:]
    t,p = binary.numpy(),z.numpy()>0
    np.testing.assert_allclose(got[:3],
        [matthews_corrcoef(t, p), balanced_accuracy_score(t, p), f1_score(t, p, average='macro')], atol=1e-12)
    # over two classes the squared error counts twice
    np.testing.assert_allclose(got[3], 2*brier_score_loss(t, z.sigmoid().numpy()), rtol=1e-5)
    assert learn.metrics[0].matrix.tolist()==[[(~t & ~p).sum(),(~t & p).sum()],[(t & ~p).sum(),(t & p).sum()]]
    assert 0<got[4]<1

def test_one_output_of_an_unknown_loss_is_not_guessed():
    y = binary.float()[:,None]
    def loss(pred, targ): return F.binary_cross_entropy_with_logits(pred, targ)
    learn = Learner(DataLoaders(*[seeded_dl(Targets(y))]*2), net(1), loss_func=loss, metrics=MCC())
    words = 'mcc needs outputs with at least two classes along `axis`, or one output and a loss known to be binary'
    with pytest.raises(ValueError, match=words), learn.no_bar(): learn.validate()

def test_one_output_and_a_target_that_is_neither_0_nor_1():
    y = torch.full((48,1), .3)
    learn = Learner(DataLoaders(*[seeded_dl(Targets(y))]*2), net(1), loss_func=nn.BCEWithLogitsLoss(), metrics=MCC())
    words = r'class numbers in the range \[0, 1\] as targets, for a network of 2 classes, but 48 are not'
    with pytest.raises(ValueError, match=words), learn.no_bar(): learn.validate()

# --- real files, fastai's blocks, a fit of each kind ---

@pytest.fixture(scope='module')
def pngs(tmp_path_factory):
    "Small pictures with a bright quarter for each label"
    path = tmp_path_factory.mktemp('pngs')
    rng = np.random.default_rng(0)
    for i,row in enumerate(ROWS):
        im = rng.integers(0, 60, (16,16,3))
        for k in np.flatnonzero(row): im[8*(k//2):8*(k//2)+8, 8*(k%2):8*(k%2)+8] += 180
        PILImage.create(im.astype(np.uint8)).save(path/f'{i}.png')
    return path

def ant(r): return float('ant' in r['labels'].split())
def ant_name(r): return 'ant' if 'ant' in r['labels'].split() else 'none'
def raters(r):
    n = torch.tensor(ROWS[int(r['file'].split('.')[0])] + [.2,.1,.1,.1])
    return (n/n.sum()).float()

block_kinds = {
    'labels': (lambda: MultiCategoryBlock(), ColReader('labels', label_delim=' '), None, 4,
        [partial(accuracy_multi), F1ScoreMulti()]),
    'labels, encoded': (lambda: MultiCategoryBlock(encoded=True, vocab=NAMES), ColReader(NAMES), None, 4,
        [accuracy_multi]),
    'binary, CategoryBlock': (lambda: CategoryBlock(vocab=['none','ant']), ant_name, BCEWithLogitsLossFlat(), 1,
        imbalance_metrics()),
    'binary, floats': (lambda: RegressionBlock(n_out=1), ant, BCEWithLogitsLossFlat(), 1, imbalance_metrics()),
    'shares': (lambda: TransformBlock(), raters, nn.CrossEntropyLoss(), 4, []),
}

def small_cnn(n_out):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.ReLU(), nn.Conv2d(8,8,3,2,1), nn.ReLU(), nn.Flatten(),
        nn.Linear(128,n_out))

def block_dls(kind, path):
    make,get_y,*_ = block_kinds[kind]
    dblock = DataBlock((ImageBlock,make()), get_x=ColReader('file', pref=path), get_y=get_y,
        splitter=IndexSplitter(range(40,48)))
    return dblock.dataloaders(table(), bs=8, num_workers=0, seed=0)

@pytest.mark.parametrize('kind', block_kinds)
def test_each_kind_is_trained_from_files(kind, pngs):
    _,_,loss_func,n_out,metrics = block_kinds[kind]
    dls = block_dls(kind, pngs)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn = Learner(dls, small_cnn(n_out), loss_func=loss_func, metrics=metrics, lr=.02)
        before = learn.loss_func
        with learn.no_bar(): first = learn.validate()[0]
        quiet_fit(learn, 6, BalancedMixUp(.5, per_item=True, seed=0))
        quiet_fit(learn, 2, BalancedMixUp(.5, seed=0))
        learn.dls = dls.weighted('class', seed=0)
        quiet_fit(learn, 1)
        learn.dls = dls
        quiet_fit(learn, 2, ProgressiveSampling(seed=0))
    assert learn.loss_func is before and np.isfinite(learn.recorder.values).all()
    # Bright quarters are learned at once
    assert learn.recorder.values[-1][1]<.8*first
    p,t = learn.tta_flip()
    assert len(p)==len(t)==8
    with torch.no_grad():
        x = torch.cat([b[0] for b in learn.dls.valid]).as_subclass(torch.Tensor).cpu()
        act = partial(F.softmax, dim=1) if kind=='shares' else torch.sigmoid
        model = learn.model.eval().cpu()
        torch.testing.assert_close(p, (act(model(x))+act(model(x.flip(-1))))/2, rtol=1e-4, atol=1e-5)

def test_vision_learner_of_labels(pngs):
    learn = vision_learner(block_dls('labels', pngs), 'mobilenetv3_small_050', pretrained=False,
        metrics=partial(accuracy_multi, thresh=.5))
    assert isinstance(learn.loss_func, BCEWithLogitsLossFlat)
    quiet_fit(learn, 1, BalancedMixUp(1, seed=0))
    assert np.isfinite(learn.recorder.values).all()

def test_pictures_and_tables_of_labels(pngs):
    import matplotlib.pyplot as plt
    dls = block_dls('labels', pngs)
    y = ROWS[:40]
    df = class_distribution(dls, alpha=.5)
    _,shares = naive_probs(y, 'class')
    assert df.images.to_dict()==dict(zip([*NAMES,'no label'], [*y.sum(0).tolist(), int((~y.any(1)).sum())]))
    got = df.loc[[*NAMES,'no label']]
    np.testing.assert_allclose(got.instance, got.images)
    np.testing.assert_allclose(got['class'], 40*np.array(shares))
    np.testing.assert_allclose(got.balmix, 40*(np.array(shares)/3 + 2/3*got.images/40))
    axs = BalancedMixUp(.5, seed=0).show(dls, n=8)
    titles = [o.split(':')[0] for ax in axs.flat for o in ax.get_title().splitlines()]
    allowed = {' & '.join(sorted(o)) or 'no label' for o in SETS}
    assert {*titles} <= allowed and any('&' in o for o in titles)
    plt.close('all')
    assert 'no label' not in class_distribution(DataLoaders(seeded_dl(Unopenable(ROWS[:3,:2])), None)).index

def test_items_of_rare_labels_are_kept_first():
    dl,y = seeded_dl(Targets(float_rows)),ROWS
    order = _by_rarity([dl])
    # dogs are the rarest; then follow items by the sum of 1/n over their labels
    rare = [sum(1/y[:,k].sum() for k in np.flatnonzero(row)) or 1/(~y.any(1)).sum() for row in y]
    assert [round(rare[i], 9) for i in order]==sorted((round(o, 9) for o in rare), reverse=True)
    assert y[order[:6],3].all()
    labels = [0,2,2,1,2,1]
    assert _by_rarity([seeded_dl(Unopenable(labels))]).tolist()==[0,3,5,1,2,4]
