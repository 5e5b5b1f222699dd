"""The notebook shows each function once; here the probabilities meet a direct loop over equation 2 under hypothesis,
draws meet chi-square tests, and labels come from every kind of data set, good and bad. Weighted loaders are taken
through what fastai does with loaders: copies, test sets, predictions, export, pickling."""

import pickle
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    Categorize,
    CategoryBlock,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoader,
    DataLoaders,
    Datasets,
    ImageBlock,
    ImageDataLoaders,
    IndexSplitter,
    ItemGetter,
    Learner,
    MaskBlock,
    PartialDL,
    RegressionBlock,
    TfmdDL,
    TransformBlock,
    load_learner,
)
from hypothesis import assume, example, given, strategies as st
from scipy import stats
from torch import nn
from torch.utils.data import ConcatDataset, RandomSampler, Subset, SubsetRandomSampler, TensorDataset
from toys import (
    Endless,
    Mute,
    Numbered,
    Unopenable,
    alphas,
    bad_loaders,
    class_sizes,
    exponents,
    item_numbers,
    must_be,
    seeded_dl,
    tail_targets,
)

from fastai_balmix.checks import as_probs
from fastai_balmix.loaders.draws import ClassSampler, class_counts, mixed_probs, q_value, sampling_probs
from fastai_balmix.loaders.labels import class_names, train_labels
from fastai_balmix.loaders.weighted import loader_sampler

TorchDL = torch.utils.data.DataLoader

# --- counts and probabilities ---

@given(y=st.lists(st.integers(0, 9)), more=st.integers(0, 3))
def test_class_counts_count(y, more):
    n = max(y, default=0)+1+more
    got = class_counts(np.array(y, dtype=np.int32), n)
    assert got.dtype==np.int64 and got.tolist()==[Counter(y)[k] for k in range(n)]

def test_class_counts_take_labels_of_any_kind():
    y = [2,0,2]
    for o in y,tuple(y),np.uint8(y),torch.tensor(y),pd.Series(y):
        assert class_counts(o).tolist()==[1,0,2]
    assert class_counts([], 3).tolist()==[0,0,0]

def _reference_probs(counts, q):
    q = dict(instance=1, sqrt=.5, **{'class':0}).get(q, q)
    powers = [n**q if n>0 else 0. for n in counts]
    return [o/sum(powers) for o in powers]

@given(sizes=class_sizes, q=exponents)
@example(sizes=[0,3,1], q='class')
@example(sizes=[0,3,1], q=-1.)
def test_probs_are_equation_2(sizes, q):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = sampling_probs(sizes, q)
    assert got.dtype==np.float64
    np.testing.assert_allclose(got, _reference_probs(sizes, q), rtol=1e-12)

@given(sizes=class_sizes, q=exponents)
def test_probs_sum_to_1_and_empty_classes_get_0(sizes, q):
    p = sampling_probs(sizes, q)
    assert abs(p.sum()-1)<1e-12 and ((p>0) == (np.array(sizes)>0)).all()

@given(sizes=class_sizes, q=exponents, scale=st.floats(1e-3, 1e6))
def test_scaling_the_counts_changes_no_probability(sizes, q, scale):
    np.testing.assert_allclose(sampling_probs(np.array(sizes)*scale, q), sampling_probs(sizes, q), rtol=1e-9)

@given(sizes=class_sizes, q=exponents, data=st.data())
def test_permuting_classes_permutes_probabilities(sizes, q, data):
    order = data.draw(st.permutations(range(len(sizes))))
    np.testing.assert_allclose(sampling_probs(np.array(sizes)[order], q), sampling_probs(sizes, q)[order], rtol=1e-12)

@given(sizes=class_sizes)
def test_q_1_is_proportional_and_q_0_uniform_over_classes_with_items(sizes):
    n = np.array(sizes)
    for q in 1,1.,'instance': np.testing.assert_allclose(sampling_probs(sizes, q), n/n.sum(), rtol=1e-12)
    for q in 0,0.,'class': np.testing.assert_allclose(sampling_probs(sizes, q), (n>0)/(n>0).sum(), rtol=1e-12)

@given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any), q=st.floats(100, 1e30),
       sign=st.sampled_from([-1,1]))
def test_a_huge_exponent_stays_finite_and_picks_the_extreme_class(sizes, q, sign):
    p,n = sampling_probs(sizes, sign*q),np.array(sizes, dtype=float)
    assert np.isfinite(p).all() and abs(p.sum()-1)<1e-12
    assert p.argmax() in np.flatnonzero(n == (n.max() if sign>0 else n[n>0].min()))

@given(p1=class_sizes, p2=class_sizes, alpha=alphas)
def test_mixed_probs_lie_between_the_two_and_sum_to_1(p1, p2, alpha):
    k = min(len(p1), len(p2))
    assume(any(p1[:k]) and any(p2[:k]))
    p1,p2 = sampling_probs(p1[:k], 1),sampling_probs(p2[:k], 0)
    p = mixed_probs(p1, p2, alpha)
    assert abs(p.sum()-1)<1e-12
    assert (p>=np.minimum(p1,p2)-1e-15).all() and (p<=np.maximum(p1,p2)+1e-15).all()

@pytest.mark.parametrize('alpha', [.1, .3, 1.])
def test_mixed_probs_are_the_mean_of_mixed_labels(alpha):
    n,rng = 40_000,np.random.default_rng(0)
    p1,p2 = np.array([.7,.2,.1,0]),np.array([0,.3,.3,.4])
    lam = stats.beta(alpha, 1).rvs(n, random_state=rng)[:,None]
    y1,y2 = (np.eye(4)[rng.choice(4, n, p=p)] for p in (p1,p2))
    labels = (1-lam)*y1 + lam*y2
    # The mean of n mixed labels, within 5 of its standard errors
    assert (np.abs(labels.mean(0) - mixed_probs(p1, p2, alpha)) < 5*labels.std(0)/n**.5).all()

probabilities = 'probabilities: none negative, sum 1'

@pytest.mark.parametrize('func,args,name,words', [
    (class_counts, ([0,1,5],3), 'y', r'ints in the range \[0, 2\]\. Got 5 at index 2 instead'),
    (class_counts, ([[0,2]],), 'y', r'one int per item.*shape \(1, 2\)'),
    (class_counts, ([0],0), 'n_classes', r'an int in the range \[1, inf\)\. Got 0'),
    (class_counts, (['a'],), 'y', "one int per item, the number of its class.*'a'"),
    (q_value, ('klass',), 'q', "a float or one of 'instance', 'sqrt', 'class'. Got 'klass' instead"),
    (sampling_probs, ([1,2],None), 'q', '.*Got None'),
    (sampling_probs, ([1,2],float('inf')), 'q', '.*Got inf'),
    (sampling_probs, ([1,2],float('nan')), 'q', '.*Got nan'),
    (sampling_probs, ([1,2],True), 'q', '.*Got True'),
    (sampling_probs, ([0,0],), 'counts', 'a row of numbers, none negative and not all 0'),
    (sampling_probs, ([],), 'counts', ''),
    (sampling_probs, ([1,-1],), 'counts', r'.*Got \[1, -1\]'),
    (sampling_probs, ([1,np.nan],), 'counts', '.*nan'),
    (sampling_probs, ([[1,2]],), 'counts', r'.*Got \[\[1, 2\]\]'),
    (mixed_probs, ([.5,.5],[1.],1), 'p_second', r'2 probabilities, one for each class\. Got 1 of them'),
    (mixed_probs, ([.5,.6],[.5,.5],1), 'p_first', probabilities),
    (mixed_probs, ([.5,.5],[1.5,-.5],1), 'p_second', probabilities),
    (mixed_probs, ([.5,.5],[np.nan,.5],1), 'p_second', probabilities),
    (mixed_probs, ([1.],[1.],-.1), 'alpha', r'a float in the range \[0, inf\)\. Got -0\.1'),
    (ClassSampler, ([0,3],'class',3), 'labels', r'ints in the range \[0, 2\]\. Got 3 at index 1'),
    (ClassSampler, ([0,1],'class',2.5), 'n_classes', r'an int in the range \[1, inf\)\. Got 2\.5'),
])
def test_bad_arguments_are_named(func, args, name, words):
    with pytest.raises(ValueError, match=must_be(func.__name__, name, words)): func(*args)

def test_a_sampler_refuses_an_unknown_exponent():
    with pytest.raises(ValueError, match="'q' parameter of .*'even'"): ClassSampler([0,1], 'even')

def test_probabilities_that_must_be_positive():
    words = must_be('Loss', 'prior', r'probabilities: all above 0, sum 1\. Got \[0\.0, 1\.0\]')
    with pytest.raises(ValueError, match=words): as_probs([0.,1.], 'prior', 'Loss', positive=True)

# --- drawing ---

def assert_draws(idxs, labels, probs):
    "Chi-square over all items: both the classes and the items within each come as often as they should"
    y,probs = np.asarray(labels),np.asarray(probs)
    expected = probs[y]/np.bincount(y, minlength=len(probs))[y]
    assert not set(idxs) - set(np.flatnonzero(expected))
    times = np.bincount(idxs, minlength=len(y))[expected>0]
    assert stats.chisquare(times, len(idxs)*expected[expected>0]).pvalue > 1e-4
    classes = np.bincount(y[idxs], minlength=len(probs))[probs>0]
    assert stats.chisquare(classes, len(idxs)*probs[probs>0]).pvalue > 1e-4 or (probs>0).sum()==1

K100 = [0 if k in (0,1,50,98,99) else 1+200//(k+1) for k in range(100)]

sizes_of = {'K2':[90,10], 'K2-one-item':[1,30], 'K5-holes':[0,5,0,3,0], 'K100-holes':K100}

@pytest.mark.parametrize('sizes', sizes_of.values(), ids=sizes_of)
@pytest.mark.parametrize('q', ['class', 'sqrt', 'instance', .3, -.5])
def test_sampler_draws_classes_by_equation_2_and_items_of_a_class_evenly(sizes, q):
    y = tail_targets(*sizes)
    sampler = ClassSampler(y, q, n_classes=len(sizes))
    assert_draws(sampler.draw(200_000, np.random.default_rng(0)), y, _reference_probs(sizes, q))

class Constant:
    "Draws the same number `u` from [0,1) again and again, and always the first or always the last integer"
    def __init__(self, u): self.u = u
    def random(self, n): return np.full(n, self.u)
    def integers(self, high):
        assert (high>0).all(), 'a class without items was drawn'
        return (self.u*high).astype(np.int64)

@pytest.mark.parametrize('u,expected', [(0., 0), (np.nextafter(1, 0), 9)])
def test_the_ends_of_the_unit_interval_belong_to_classes_with_items(u, expected):
    # Shares of 1/7 add up to less than 1 in floating point
    y = np.sort(tail_targets(0, 0, *[1]*6, 4, 0))
    assert ClassSampler(y, 'class', n_classes=12).draw(3, Constant(u)).tolist()==[expected]*3

def test_sampler_repeats_itself_with_the_same_generator():
    sampler = ClassSampler(tail_targets(30,3))
    first,same,other = (sampler.draw(50, np.random.default_rng(seed)).tolist() for seed in (1,1,2))
    assert first==same!=other
    assert len(sampler.draw(0, np.random.default_rng(0)))==0

# Far more draws than are made at a time, and one more or less
@pytest.mark.parametrize('bits', [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
@pytest.mark.parametrize('n', [0, 1, 2**15-1, 2**15, 2**15+1, 100_001])
@pytest.mark.parametrize('sizes,q', [([90,10], 'class'), (K100, 'sqrt'), (K100, -.5), ([1]*700, 'instance')],
                         ids=['K2', 'K100', 'K100-rare', 'K700'])
def test_draws_are_those_of_a_search_for_each_number(bits, n, sizes, q):
    y = np.array(tail_targets(*sizes))
    cum = np.cumsum(sampling_probs(sizes, q))
    rng = np.random.Generator(bits(3))
    k = np.searchsorted(cum/cum[-1], rng.random(n), side='right')
    at = rng.integers(np.array(sizes)[k])
    expected = [np.flatnonzero(y==j) for j in range(len(sizes))]
    got = ClassSampler(y, q, n_classes=len(sizes)).draw(n, np.random.Generator(bits(3)))
    assert got.dtype==np.int64 and got.tolist()==[expected[j][i] for j,i in zip(k, at)]

@given(sizes=class_sizes, q=exponents, us=st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_a_class_is_found_as_by_a_search(sizes, q, us):
    search = ClassSampler(tail_targets(*sizes), q, n_classes=len(sizes)).search
    # The ends of classes and of cells, and their neighbours
    ends = np.concatenate([search.cum, np.arange(search.n_cells)/search.n_cells])
    us = np.concatenate([us, ends, np.nextafter(ends, 0), np.nextafter(ends, 1)])
    us = us[us<1]
    assert search(us).tolist()==np.searchsorted(search.cum, us, side='right').tolist()

@pytest.mark.parametrize('q', [0, 1, 40])
def test_more_classes_than_cells(q):
    y = np.arange(2**16+10).repeat(2)[1:]
    search = ClassSampler(y, q).search
    u = np.random.default_rng(0).random(1000)
    assert search(u).tolist()==np.searchsorted(search.cum, u, side='right').tolist()
    search.n_cells = 64
    search.first = np.searchsorted(search.cum, np.arange(64)/64, side='right').astype(search.dtype)
    assert search(u).tolist()==np.searchsorted(search.cum, u, side='right').tolist()

@pytest.mark.parametrize('dtype', [np.int64, np.int32, np.uint8])
def test_items_among_others_are_drawn_by_their_own_numbers(dtype):
    among = np.array([7,2,5,3], dtype=dtype)
    sampler = ClassSampler([9,9,0,1,9,0,9,1], among=among, n_classes=10)
    assert sampler.counts.tolist()==[2,2]+[0]*8 and sampler.by_class.tolist()==[2,5,7,3]
    assert {*sampler.draw(200, np.random.default_rng(0)).tolist()}=={2,3,5,7}

# --- labels of a loader ---

Y = [1,0,2,2,0,1,0]

class Opens:
    "What a pipeline opens images with; fails once `closed`"
    def __init__(self): self.closed = False
    def __call__(self, x):
        assert not self.closed, 'an image was opened'
        return torch.tensor([float(x)])

def pipeline_dls(ys=Y, y_block=CategoryBlock, dl_type=None, bs=2, n_valid=2, closed=True, **kwargs):
    "fastai loaders in memory, the last `n_valid` items for validation; and the switch that forbids to open items"
    opens = Opens()
    dblock = DataBlock((TransformBlock(type_tfms=opens), y_block), getters=[ItemGetter(0),ItemGetter(1)],
                       dl_type=dl_type, splitter=IndexSplitter(range(len(ys)-n_valid, len(ys))))
    dls = dblock.dataloaders([(i,y) for i,y in enumerate(ys)], bs=bs, num_workers=0, **kwargs)
    opens.closed = closed
    return dls

def image_dls(ys=Y, block=CategoryBlock, **kwargs):
    "The same with images, which are arrays in memory"
    ims = [np.full((4,4,3), i, dtype=np.uint8) for i in range(len(ys))]
    dblock = DataBlock((ImageBlock, block), getters=[ItemGetter(0),ItemGetter(1)], splitter=IndexSplitter([len(ys)-1]),
                       **kwargs)
    return dblock.dataloaders(list(zip(ims, ys)), bs=2, num_workers=0)

def datasets_dl():
    opens = Opens()
    ds = Datasets(range(7), [[opens],[lambda i: Y[i],Categorize()]])
    opens.closed = True
    return TfmdDL(ds, bs=2, num_workers=0)

class Labelled(Mute):
    "Labels under another name, and items that may not be opened"
    targets = None
    def __init__(self, labels):
        super().__init__(len(labels))
        self.labels = labels
    __getitem__ = Unopenable.__getitem__

_tensors = TensorDataset(torch.zeros(7, 3), torch.tensor(Y))

@pytest.mark.parametrize('make,expected', [
    (lambda: pipeline_dls().train, Y[:5]),
    (lambda: pipeline_dls().valid, Y[5:]),
    (lambda: pipeline_dls(ys=[f'class {y}' for y in Y]).train, Y[:5]),
    (lambda: pipeline_dls(y_block=CategoryBlock(vocab=[2,1,0], sort=False)).train, [2-y for y in Y[:5]]),
    (datasets_dl, Y),
    (lambda: seeded_dl(Unopenable(Y)), Y),
    (lambda: TfmdDL(Unopenable(Y), bs=2, num_workers=0), Y),
    (lambda: TorchDL(Unopenable(Y), batch_size=2, shuffle=True), Y),
    (lambda: seeded_dl(Unopenable(np.array(Y, dtype=np.uint8))), Y),
    (lambda: seeded_dl(Unopenable(torch.tensor(Y))), Y),
    (lambda: seeded_dl(Unopenable(tuple(Y))), Y),
    (lambda: seeded_dl(Unopenable(pd.Series(Y, index=range(9,2,-1)))), Y),
    (lambda: seeded_dl(Labelled(Y)), Y),
    (lambda: seeded_dl(Subset(Unopenable(Y), [6,2,2])), [0,2,2]),
    (lambda: seeded_dl(Subset(Subset(Unopenable(torch.tensor(Y)), torch.tensor([6,5,4,3])), [3,0])), [2,0]),
    (lambda: seeded_dl(Subset(pipeline_dls().train_ds, [4,2])), [0,2]),
    (lambda: seeded_dl(torch.utils.data.random_split(Unopenable([1]*7), [3,4])[0]), [1,1,1]),
    (lambda: seeded_dl(ConcatDataset([Unopenable(Y), Subset(Unopenable(Y), [1]), _tensors])), Y+[0]+Y),
    (lambda: seeded_dl(Subset(ConcatDataset([Unopenable(Y), Unopenable(np.array([1]))]), [7,2])), [1,2]),
    (lambda: seeded_dl(_tensors), Y),
    (lambda: seeded_dl(TensorDataset(torch.zeros(7, 3), torch.zeros(7), torch.tensor(Y))), Y),
    (lambda: seeded_dl([(None,y) for y in Y]), Y),
    (lambda: seeded_dl([(None,torch.tensor(y)) for y in Y]), Y),
    (lambda: seeded_dl(tuple([None,np.int64(y)] for y in Y)), Y),
    (lambda: DataLoader(Unopenable(Y), bs=2, n=3), Y[:3]),
])
def test_labels_are_read_without_opening_an_item(make, expected):
    got = train_labels(make())
    assert isinstance(got, np.ndarray) and got.dtype==np.int64 and got.tolist()==expected

def test_labels_of_image_loaders_made_from_lists():
    ims = [np.full((4,4,3), i, dtype=np.uint8) for i in range(21)]
    dls = ImageDataLoaders.from_lists('.', ims, ['abc'[y] for y in 3*Y], valid_pct=.2, seed=0, bs=2, num_workers=0)
    for dl in dls: assert train_labels(dl).tolist()==['abc'.index(y) for _,y in dl.dataset.items]

@pytest.mark.parametrize('make', [lambda y: y, tuple, np.uint8, torch.tensor, pd.Series])
def test_labels_given_are_the_ones_used(make):
    assert train_labels(seeded_dl(Unopenable([0]*7)), labels=make(Y)).tolist()==Y
    assert train_labels(seeded_dl(Mute(7)), labels=make(Y)).tolist()==Y

class CountsReads(Mute):
    reads = 0
    @property
    def targets(self):
        self.reads += 1
        return [0,1,1]

@pytest.mark.parametrize('dl_type', [DataLoader, TfmdDL, lambda ds,bs,num_workers: TorchDL(ds, batch_size=bs)])
def test_labels_are_read_once(dl_type):
    ds = CountsReads(3)
    dl = dl_type(ds, bs=2, num_workers=0)
    assert train_labels(dl).tolist()==[0,1,1]
    reads = ds.reads
    for _ in range(3): assert train_labels(dl).tolist()==[0,1,1]
    loader_sampler(dl, 'class'),loader_sampler(dl, 'sqrt')
    assert 0<reads==ds.reads

def test_labels_are_read_again_where_the_data_set_was_replaced():
    dl = seeded_dl(Numbered([0,1,1]))
    assert train_labels(dl).tolist()==[0,1,1]
    dl.dataset = Numbered([2,0,1])
    assert train_labels(dl).tolist()==[2,0,1]

def _regression(): return image_dls([.5,1.,2.,3.], RegressionBlock).train
def _masks(): return image_dls([np.zeros((4,4), dtype=np.uint8)]*4, MaskBlock(['a','b'])).train
def _str_targets():
    ds = Datasets(['a','b'], [[lambda x: torch.zeros(1)],[lambda x: x]])
    return TfmdDL(ds, bs=2, num_workers=0)
def _two_targets():
    ds = Datasets([0,1], [[lambda x: torch.zeros(1)],[lambda x: x],[lambda x: x]], n_inp=1)
    return TfmdDL(ds, bs=2, num_workers=0)
class Vocab(Unopenable): classes = 'a','b'

@pytest.mark.parametrize('make,labels,words', [
    (lambda: seeded_dl(Mute(3)), [0,1],
     "The 'labels' parameter of train_labels must be 3 ints, one for each item. Got 2 labels instead"),
    (lambda: seeded_dl(Mute(3)), [0,1,0,1], "must be 3 ints, one for each item. Got 4 labels"),
    (lambda: seeded_dl(Mute(3)), [0,-1,-2], r"must be ints in the range \[0, K-1\]. Got -1 at index 1"),
    (lambda: seeded_dl(Mute(3)), [0.,1.,2.],
     r"must be one int per item, the number of its class. Got float64 values, the first being \[0\.0\]"),
    (lambda: seeded_dl(Mute(3)), [0,float('nan'),2], "must be one int per item.*Got NaN at index 1"),
    (lambda: seeded_dl(Mute(3)), ['a','b','c'], r"must be one int per item.*first being \['a'\]"),
    (lambda: seeded_dl(Mute(3)), [True,False,True], "must be one int per item.*bool"),
    (lambda: seeded_dl(Mute(3)), [0,None,1], "must be one int per item.*object"),
    (lambda: seeded_dl(Mute(3)), [[[0]],[[1]],[[2]]], r"must be one int per item.*shape \(3, 1, 1\)"),
    (lambda: seeded_dl(Mute(3)), [[0],[1,2],[2]], "must be one int per item"),
    (lambda: seeded_dl(Vocab([0,1])), [0,2], r"must be ints in the range \[0, 1\]. Got 2 at index 1"),
    (lambda: pipeline_dls().train, [0,1,2,3,0], r"must be ints in the range \[0, 2\]. Got 3 at index 3"),
    (lambda: seeded_dl(Vocab([0,2])), None,
     r"'labels' parameter of train_labels must be ints in the range \[0, 1\]. Got 2 at index 1"),
    (lambda: seeded_dl(Unopenable([0,-1])), None, r"must be ints in the range \[0, K-1\]. Got -1 at index 1"),
    (lambda: seeded_dl(Unopenable([0.,float('nan')])), None, "must be one int per item.*Got NaN at index 1"),
    (lambda: seeded_dl(Unopenable(['a','b'])), None, r"must be one int per item.*first being \['a'\]"),
    (lambda: seeded_dl(Unopenable([.5,1.5])), None,
     "must be given a data set whose targets are classes. Got float64 targets: regression"),
    (lambda: seeded_dl(TensorDataset(torch.zeros(3,2), torch.tensor([0.,1,.5]))), None,
     "whose targets are classes. Got float32 targets: regression"),
    (lambda: seeded_dl(Unopenable(np.full((3,4), .5))), None,
     "targets are classes. Got float64 targets, 4 for each item, neither all 0 or 1 nor of sum 1: regression"),
    (lambda: seeded_dl([(0.,[0]),(0.,[0,1])]), None,
     "targets are classes. Got lists of different lengths: .* a row of 0 and 1"),
    (lambda: seeded_dl(Unopenable([[0],[0,1]])), None, "targets are classes. Got lists of different lengths"),
    (lambda: seeded_dl(Unopenable(np.zeros((3,4,4)))), None,
     r"whose targets are classes. Got targets of shape \(4, 4\): segmentation"),
    (lambda: seeded_dl(Mute(3)), None,
     "labels of a Mute cannot be read by train_labels without opening its items. "
     "Pass `labels=`, one int per training item"),
    (lambda: seeded_dl(Subset(Mute(3), [0])), None, "labels of a Mute cannot be read"),
    (lambda: seeded_dl(ConcatDataset([Unopenable([0]), Mute(3)])), None, "labels of a Mute cannot be read"),
    (lambda: seeded_dl([torch.zeros(3)]*4), None, "cannot be read by train_labels without opening its items"),
    (lambda: seeded_dl(TensorDataset(torch.zeros(4, 3, 2, 2))), None,
     "cannot be read by train_labels without opening its items"),
    (lambda: DataLoader(Endless(), bs=2), None,
     "must be loaders of a data set with a length and an index. Got an iterable data set, Endless"),
    (lambda: TorchDL(Endless(), batch_size=2), None, "Got an iterable data set, Endless"),
    (lambda: TorchDL(Endless(), batch_size=2), [0], "Got an iterable data set, Endless"),
    (lambda: seeded_dl([]), None, "must be loaders with at least one training item. Got an empty training set"),
    (lambda: seeded_dl(Unopenable([])), [], "at least one training item. Got an empty training set"),
    (_regression, None, "whose targets are classes. Got Tensor.* targets: regression"),
    (_masks, None, "whose targets are classes. Got images as targets: segmentation"),
    (_str_targets, None, "labels of a data set with str targets cannot be read"),
    (_two_targets, None, "labels of a data set with 2 targets cannot be read"),
])
def test_bad_labels_are_named(make, labels, words):
    with pytest.raises(ValueError, match=words): train_labels(make(), labels)

def test_the_error_names_who_asked():
    with pytest.raises(ValueError, match="cannot be read by weighted"): DataLoaders(seeded_dl(Mute(3)), None).weighted()
    with pytest.raises(ValueError, match="'labels' parameter of Someone"):
        train_labels(seeded_dl(Mute(3)), [0], owner='Someone')

# --- one sampler for a loader ---

def warnings_of(f):
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        f()
    return [str(w.message) for w in ws]

class Named(Numbered): classes = 'ant','bee','cat','dog'

def test_class_names_come_from_the_vocabulary_or_are_numbers():
    assert class_names(seeded_dl(Named([0])), 4)==['ant','bee','cat','dog']
    assert class_names(pipeline_dls(ys=['x','y','x','y']).train, 2)==['x','y']
    assert class_names(seeded_dl(Numbered([0,1])), 2)==['0','1']

unseen_classes = dict(
    classes=lambda: seeded_dl(Named([0,1])),
    subset=lambda: seeded_dl(Subset(Named([0,1,3]), [1,0])),
    concat=lambda: seeded_dl(ConcatDataset([Named([0]), Named([1])])),
    pipeline=lambda: pipeline_dls([0,1,2,3], CategoryBlock(vocab=[0,1,2,3]), n_valid=2).train,
)

@pytest.mark.parametrize('make', unseen_classes.values(), ids=unseen_classes)
@pytest.mark.filterwarnings('ignore:.*no training image')
def test_classes_without_items_keep_their_place(make):
    assert loader_sampler(make()).counts.tolist()==[1,1,0,0]

def test_a_loader_warns_once_of_empty_classes():
    dl = seeded_dl(Named([0,2,2]))
    def ask():
        for q in 'class','class',.5,'sqrt','class': loader_sampler(dl, q, owner='Me')
    assert warnings_of(ask)==['Me: no training image of bee, dog; never drawn.']

def test_a_loader_warns_once_of_a_single_class():
    dl = seeded_dl(Numbered([0,0,0]))
    def ask():
        for _ in range(3): loader_sampler(dl, owner='Me')
    assert warnings_of(ask)==['Me: all 3 training images are of one class, 0.']

def test_weighted_loaders_warn_once_and_not_in_training():
    dls = DataLoaders(seeded_dl(Named([0,2,2])), None)
    def ask():
        wdls = dls.weighted('sqrt')
        for _ in range(3): list(wdls.train)
    assert warnings_of(ask)==['weighted: no training image of bee, dog; never drawn.']

def test_a_loader_without_fault_does_not_warn():
    assert warnings_of(lambda: loader_sampler(seeded_dl(Numbered([0,1,1])), owner='Me'))==[]

def test_the_sampler_is_kept_until_exponent_labels_or_data_change():
    dl = seeded_dl(Numbered([0,1,1]))
    first = loader_sampler(dl, 'class')
    assert loader_sampler(dl, 0.) is first and loader_sampler(dl, labels=[0,1,1]) is first
    np.testing.assert_allclose(loader_sampler(dl, 'instance').probs, [1/3,2/3])
    np.testing.assert_allclose(loader_sampler(dl, 'instance', labels=[0,0,1]).probs, [2/3,1/3])
    np.testing.assert_allclose(loader_sampler(dl, 'instance').probs, [1/3,2/3])
    dl.dataset = Numbered([2,2,2])
    with pytest.warns(UserWarning, match='one class, 2'): assert loader_sampler(dl).counts.tolist()==[0,0,3]

# --- weighted loaders ---

SIZES = [60,25,5]

def two_dls(targets=None, **kwargs):
    targets = targets or tail_targets(*SIZES)
    return DataLoaders(seeded_dl(Numbered(targets), **kwargs), seeded_dl(Numbered([0,1,2]), shuffle=False))

def epochs(dl, n):
    "Numbers of the items that `n` epochs bring"
    return [[i for x,_ in dl for i in item_numbers(x)] for _ in range(n)]

def idxs(dl, n):
    "The same from the indices alone, as much faster"
    res = []
    for _ in range(n):
        dl.randomize()
        res.append(list(dl.get_idxs()))
    return res

@pytest.mark.parametrize('q', ['sqrt', 'class', .3])
def test_weighted_loaders_draw_by_equation_2(q):
    dls = two_dls()
    train = dls.weighted(q, seed=0).train
    assert_draws(np.concatenate(idxs(train, 300)), dls.train_ds.targets, _reference_probs(SIZES, q))

def test_the_batches_hold_what_was_drawn():
    first,second = (two_dls().weighted(seed=3).train for _ in range(2))
    assert epochs(first, 3)==idxs(second, 3)

@pytest.mark.parametrize('kwargs', [{}, dict(drop_last=True), dict(bs=100), dict(bs=1)])
def test_an_epoch_keeps_its_length(kwargs):
    dls = two_dls(**kwargs)
    plain,weighted = ([len(y) for _,y in dl] for dl in (dls.train, dls.weighted().train))
    assert plain==weighted and len(dls.weighted().train)==len(dls.train)==len(plain)

def test_an_epoch_of_a_partial_loader_keeps_its_length():
    dls = DataLoaders(seeded_dl(Numbered(tail_targets(*SIZES)), dl_type=PartialDL, partial_n=21), None)
    train = dls.weighted(seed=0).train
    assert isinstance(train, PartialDL) and len(train)==3
    drawn = idxs(train, 400)
    assert {len(o) for o in drawn}=={21}
    assert_draws(np.concatenate(drawn), dls.train_ds.targets, _reference_probs(SIZES, 'class'))

def test_validation_and_the_loaders_it_came_from_stay():
    dls = two_dls()
    before = {k:v for k,v in vars(dls.train).items() if k not in ('_labels','_samplers')}
    train,state = dls.train,dls.train.rng.getstate()
    wdls = dls.weighted('class')
    list(wdls.train)
    assert wdls.valid is dls.valid and dls.train is train and type(train) is DataLoader
    assert {k:v for k,v in vars(train).items() if k not in ('_labels','_samplers')}==before
    assert train.rng.getstate()==state
    assert sorted(epochs(train, 1)[0])==list(range(sum(SIZES)))

def test_draws_follow_from_the_seed():
    dls = two_dls()
    first,same,other = (idxs(dls.weighted(seed=s).train, 2) for s in (1,1,2))
    assert first==same!=other and first[0]!=first[1]
    assert idxs(dls.weighted(seed=np.int64(1)).train, 2)==first

def test_without_a_seed_draws_follow_from_the_loader_s_own_generator():
    first,same,other = (idxs(two_dls(seed=s).weighted().train, 2) for s in (1,1,2))
    assert first==same!=other

def test_workers_bring_the_same_draws():
    assert epochs(two_dls().weighted(seed=0).train, 1)==epochs(two_dls(num_workers=2).weighted(seed=0).train, 1)

def test_copies_keep_the_exponent_and_labels():
    dls = two_dls()
    for train in dls.weighted(.3).train.new(),dls.weighted(.3).train.new(bs=5).new(dls.train_ds):
        assert_draws(np.concatenate(idxs(train, 300)), dls.train_ds.targets, _reference_probs(SIZES, .3))
    labels = tail_targets(30, 60, seed=1)
    train = DataLoaders(seeded_dl(Mute(90)), None).weighted(labels=labels).train.new(bs=3)
    assert_draws(np.concatenate(idxs(train, 300)), labels, [.5,.5])

def test_a_copy_with_another_data_set_draws_by_its_labels():
    other = tail_targets(5, 70, seed=1)
    train = two_dls().weighted('class').train.new(Numbered(other))
    assert_draws(np.concatenate(idxs(train, 300)), other, [.5,.5])
    given = two_dls().weighted('class', labels=tail_targets(*SIZES)).train.new(Numbered(other))
    assert_draws(np.concatenate(idxs(given, 300)), other, [.5,.5])

def test_without_labels_items_or_shuffle_the_order_is_plain():
    train = two_dls().weighted('class').train
    for _ in range(5): assert sorted(train.new(Mute(7)).get_idxs())==list(range(7))
    assert train.new(Numbered([])).get_idxs()==[] and not len(train.new(Numbered([])))
    assert train.new(shuffle=False).get_idxs()==list(range(sum(SIZES)))
    assert train.new(Mute(7), shuffle=False).get_idxs()==list(range(7))

def test_weighted_again_means_the_new_exponent():
    dls = two_dls()
    once = dls.weighted('instance')
    twice = dls.weighted('instance').weighted('class', seed=0)
    assert type(once.train) is type(twice.train)
    assert_draws(np.concatenate(idxs(twice.train, 300)), dls.train_ds.targets, [1/3]*3)
    assert_draws(np.concatenate(idxs(once.train, 300)), dls.train_ds.targets, _reference_probs(SIZES, 'instance'))

def test_a_pickled_loader_goes_on_as_it_would_have():
    for dl_type,kwargs in (DataLoader,{}),(TfmdDL,{}),(PartialDL,dict(partial_n=20)):
        dl = seeded_dl(Numbered(tail_targets(*SIZES)), dl_type=dl_type, **kwargs)
        dls = DataLoaders(dl, None).weighted('sqrt', seed=0)
        list(dls.train)
        twin = pickle.loads(pickle.dumps(dls.train))
        assert type(twin) is type(dls.train) and len(twin)==len(dls.train) and twin.new().q=='sqrt'
        assert epochs(twin, 2)==epochs(dls.train, 2)

def test_a_loader_with_a_get_idxs_of_its_own_still_draws():
    dls = two_dls(get_idxs=lambda: list(range(sum(SIZES))))
    assert_draws(np.concatenate(idxs(dls.weighted('class', seed=0).train, 300)), dls.train_ds.targets, [1/3]*3)

def collate_thrice(b):
    x,y = zip(*b)
    return 3*torch.stack(x),torch.tensor(y)

def torch_dls(sampler=None, **kwargs):
    ds = Numbered(tail_targets(*SIZES))
    train = TorchDL(ds, batch_size=8, sampler=sampler(ds) if sampler else None, **kwargs)
    return DataLoaders(train, TorchDL(Numbered([0,1]), batch_size=2))

@pytest.mark.parametrize('kwargs', [{}, dict(shuffle=True), dict(drop_last=True)])
def test_plain_pytorch_loaders_become_weighted(kwargs):
    dls = torch_dls(**kwargs)
    wdls = dls.weighted('class', seed=0)
    assert len(wdls.train)==len(dls.train) and wdls.valid is dls.valid and isinstance(dls.train, TorchDL)
    assert_draws(np.concatenate(idxs(wdls.train, 300)), dls.train.dataset.targets, [1/3]*3)

def test_a_pytorch_loader_s_collate_function_is_kept():
    dls = torch_dls(collate_fn=collate_thrice)
    x,y = next(iter(dls.weighted(seed=0).train))
    assert x.shape==(8,1) and all(o%3==0 for o in item_numbers(x))
    assert y.tolist()==[dls.train.dataset.targets[i//3] for i in item_numbers(x)]

def test_only_the_items_that_a_pytorch_sampler_visits_are_drawn():
    mine = list(range(10, 40))
    dls = torch_dls(lambda ds: SubsetRandomSampler(mine))
    train = dls.weighted('class', seed=0).train
    assert len(train)==len(dls.train)
    drawn = epochs(train, 20)
    assert {len(o) for o in drawn}=={30} and not {i for o in drawn for i in o} - set(mine)

def test_the_single_class_among_the_items_visited_is_named():
    dl = TorchDL(Named([0,1,1,2]), batch_size=2, sampler=SubsetRandomSampler([1,2]))
    with pytest.warns(UserWarning, match='all 2 training images are of one class, bee'): loader_sampler(dl)

@pytest.mark.parametrize('make', [two_dls, torch_dls])
def test_a_copy_in_plain_order_has_copies_in_plain_order(make):
    train = make().weighted('class').train
    for kwargs in dict(shuffle=False),dict(shuffled=False):
        assert train.new(**kwargs).new(bs=4).get_idxs()==list(range(sum(SIZES)))

def test_a_pytorch_sampler_s_epoch_keeps_its_length():
    dls = torch_dls(lambda ds: RandomSampler(ds, num_samples=20))
    train = dls.weighted('class', seed=0).train
    assert len(train)==len(dls.train)==3 and [len(y) for _,y in train]==[8,8,4]

@pytest.mark.parametrize('name,bad,words', [
    ('q', 'balanced', "a float or one of 'instance', 'sqrt', 'class'. Got 'balanced'"),
    ('seed', -1, r'an int in the range \[0, inf\). Got -1'),
    ('labels', [0], '90 ints, one for each item. Got 1 labels'),
])
def test_bad_arguments_of_weighted_are_named(name, bad, words):
    with pytest.raises(ValueError, match=must_be('weighted', name, words)): two_dls().weighted(**{name:bad})

@pytest.mark.parametrize('make,words', bad_loaders.values(), ids=bad_loaders)
def test_bad_loaders_are_named(make, words):
    with pytest.raises(ValueError, match=must_be('weighted', 'dls', words)): DataLoaders(make(), None).weighted()

# --- what a Learner does with weighted loaders ---

class PixelNet(nn.Module):
    "Three logits that tell every item from every other"
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[-.01,.02,.03]]))
    def forward(self, x): return x.flatten(1)[:,:1].float()@self.w

LEARN_Y = tail_targets(20, 10, 4)

def learners():
    "Two learners with the same net: on plain loaders and on weighted ones"
    dls = pipeline_dls(LEARN_Y, n_valid=6, bs=5, closed=False)
    return [Learner(d, PixelNet(), loss_func=CrossEntropyLossFlat()) for d in (dls, dls.weighted('class', seed=0))]

@pytest.mark.parametrize('get', [
    lambda learn: learn.get_preds(ds_idx=0),
    lambda learn: learn.get_preds(ds_idx=1),
    lambda learn: learn.get_preds(ds_idx=0, reorder=False),
    lambda learn: learn.tta(ds_idx=0),
    lambda learn: learn.tta(ds_idx=1),
    lambda learn: learn.get_preds(dl=learn.dls.test_dl([(3,0),(9,1)])),
    lambda learn: learn.get_preds(dl=learn.dls.test_dl([(3,0),(9,1)], with_labels=True)),
], ids=['preds-train', 'preds-valid', 'preds-no-reorder', 'tta-train', 'tta-valid', 'test', 'test-labelled'])
def test_predictions_on_weighted_loaders_are_those_on_plain_ones(get):
    expected,got = map(get, learners())
    torch.testing.assert_close(got[0], expected[0])
    assert got[1] is expected[1] is None or got[1].tolist()==expected[1].tolist()

def test_predictions_for_the_weighted_loader_itself_stand_beside_their_own_targets():
    plain,weighted = learners()
    rows = {tuple(p.tolist()):int(t) for p,t in zip(*plain.get_preds(ds_idx=0))}
    preds,targs = weighted.get_preds(dl=weighted.dls.train)
    assert len(preds)==28
    assert [rows[tuple(p.tolist())] for p in preds]==targs.tolist()

MARK = bytes(range(7, 200, 3))

def marked_image(i): return np.frombuffer(MARK*3 + bytes([i]*3), dtype=np.uint8).reshape(1,-1,3)
def open_marked(x): return torch.tensor(x[0,-1]).float()

def test_an_exported_learner_holds_no_training_image(tmp_path):
    dblock = DataBlock((TransformBlock(type_tfms=open_marked), CategoryBlock), getters=[ItemGetter(0),ItemGetter(1)],
                       splitter=IndexSplitter([0,1,2]))
    items = [(marked_image(i),y) for i,y in enumerate([0,1,2,0,0,0,0,1,1,2])]
    dls = dblock.dataloaders(items, bs=2, num_workers=0).weighted('sqrt', seed=0)
    learn = Learner(dls, PixelNet(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    learn.fit(1)
    expected = learn.get_preds()[0]
    assert MARK in pickle.dumps([o[0] for o in learn.dls.train_ds.items])
    learn.export()
    assert MARK not in (tmp_path/'export.pkl').read_bytes()
    assert_draws(np.concatenate(idxs(learn.dls.train, 300)), [0,0,0,0,1,1,2], _reference_probs([4,2,1], 'sqrt'))
    loaded = load_learner(tmp_path/'export.pkl')
    torch.testing.assert_close(loaded.get_preds(dl=loaded.dls.test_dl(items[:3]))[0], expected)
    assert not len(loaded.dls.train) and list(loaded.dls.train.get_idxs())==[]
