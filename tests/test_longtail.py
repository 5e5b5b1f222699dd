"""The notebook shows what a long tail looks like. Here its arithmetic is compared with a direct loop for every seed and
size, bad arguments are refused, and the embedded loaders are asked whether they hold the images they should."""

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from fastai.data.all import Transform
from fastai.vision.augment import Resize
from hypothesis import given, strategies as st
from sklearn.datasets import load_digits
from toys import class_sizes, equal, must_be, tail_targets

from fastai_balmix.datasets.longtail import Squish, digits_lt, tail_counts, tail_idxs


def _reference_sizes(n_max, n_classes, imbalance, profile):
    "Class sizes before they are rounded"
    res = []
    for k in range(n_classes):
        if profile=='exp': res.append(n_max if n_classes==1 else n_max * (1/imbalance)**(k/(n_classes-1)))
        else: res.append(n_max/imbalance if k >= n_classes/2 else n_max)
    return np.array(res)

def assert_rounded(got, sizes):
    # Two ways to compute a power may differ in the last bit, and a half then go to either side
    sizes,got = np.atleast_1d(sizes),np.atleast_1d(got)
    clear = np.abs(sizes%1-.5)>1e-6
    assert (got[clear] == np.maximum(np.rint(sizes[clear]), 1)).all() and (np.abs(got-np.maximum(sizes, 1))<.51).all()

tails = given(
    n_max=st.integers(1, 10_000), n_classes=st.integers(1, 40), imbalance=st.floats(1, 1000),
    profile=st.sampled_from(['exp','step']))

@tails
def test_tail_counts_follow_the_formula(n_max, n_classes, imbalance, profile):
    got = tail_counts(n_max, n_classes, imbalance, profile)
    assert got.dtype==np.int64 and got.shape==(n_classes,)
    assert_rounded(got, _reference_sizes(n_max, n_classes, imbalance, profile))

@tails
def test_tail_counts_fall_from_n_max_to_n_max_over_imbalance(n_max, n_classes, imbalance, profile):
    got = tail_counts(n_max, n_classes, imbalance, profile)
    assert (np.diff(got)<=0).all() and got.min()>=1
    if n_classes>1 or profile=='exp': assert got[0]==n_max
    if n_classes>1: assert_rounded(got[-1], n_max/imbalance)

@pytest.mark.parametrize('args,expected', [
    ((100, 3, 100), [100,10,1]), ((80, 4, 8), [80,40,20,10]), ((80, 5, 8, 'step'), [80,80,80,10,10]),
    ((80, 4, 8, 'step'), [80,80,10,10]), ((7, 1, 100), [7]), ((5, 3, 1), [5,5,5]), ((3, 3, 1000), [3,1,1])])
def test_tail_counts_by_hand(args, expected): assert tail_counts(*args).tolist()==expected

@pytest.mark.parametrize('n_classes', range(2, 41))
def test_half_an_image_goes_to_the_even_number_whatever_the_power_gave(n_classes):
    "Exact arithmetic, where `round` does so too"
    got = {(n,i): tail_counts(n, n_classes, i)[-1] for n in range(1, 60) for i in range(2, 60, 2)}
    assert got=={(n,i): max(round(Fraction(n, i)), 1) for n,i in got}

@given(sizes=class_sizes, seed=st.integers(0, 5), data=st.data())
def test_tail_idxs_keep_what_was_asked_for(sizes, seed, data):
    y = np.array(tail_targets(*sizes))
    counts = [data.draw(st.integers(0, n)) for n in sizes]
    idxs = tail_idxs(y, counts, seed)
    assert Counter(y[idxs].tolist()) == Counter({k:n for k,n in enumerate(counts) if n})
    assert (np.diff(idxs)>0).all()
    assert idxs.tolist()==tail_idxs(y.tolist(), counts, seed).tolist()

def test_tail_idxs_choose_every_item_of_a_class_equally_often():
    y = np.array(tail_targets(10, 5))
    n = 400
    times = np.bincount(np.concatenate([tail_idxs(y, [4,1], seed) for seed in range(n)]), minlength=15)
    for k,share in (0,4/10),(1,1/5):
        # Each item stays in a binomial number of the n choices: within 5 standard errors
        assert np.abs(times[y==k] - n*share).max() < 5*(n*share*(1-share))**.5

@pytest.mark.parametrize('args,name,rest', [
    ((0, 3), 'n_max', r"an int in the range \[1, inf\)\. Got 0 instead"),
    ((2.5, 3), 'n_max', r"an int.*Got 2\.5"),
    ((True, 3), 'n_max', "an int.*Got True"),
    ((10, 0), 'n_classes', r"an int in the range \[1, inf\)\. Got 0"),
    ((10, 3, .5), 'imbalance', r"a float in the range \[1, inf\)\. Got 0\.5"),
    ((10, 3, float('nan')), 'imbalance', "a float.*Got nan"),
    ((10, 3, '9'), 'imbalance', "a float.*Got '9'"),
    ((10, 3, 9, 'linear'), 'profile', "'exp' or 'step'. Got 'linear'"),
])
def test_bad_arguments_of_tail_counts(args, name, rest):
    with pytest.raises(ValueError, match=must_be('tail_counts', name, rest)): tail_counts(*args)

@pytest.mark.parametrize('args,name,rest', [
    (([0,0,1], [3,1]), 'counts', r"at most the class sizes, \[2, 1\].* Got \[3, 1\]"),
    (([0,0,2], [1,1]), 'y', "classes from 0 to 1, as there are 2 counts. Got class 2"),
    (([0,0,1], [1,-1]), 'counts', ''),
    (([0,-1], [1,1]), 'y', ''),
    (([0,1], [1,1], -1), 'seed', r"an int in the range \[0, inf\)\. Got -1"),
])
def test_bad_arguments_of_tail_idxs(args, name, rest):
    with pytest.raises(ValueError, match=must_be('tail_idxs', name, rest)): tail_idxs(*args)

@pytest.mark.parametrize('kwargs,rest', [
    (dict(n_max=0), "an int"),
    (dict(n_max='many'), "an int"),
    (dict(n_max=170), "at most 120, with 54 images a class held out. Got 170"),
    (dict(valid_pct=1), r"a float in the range \[0, 1\)\. Got 1 "),
    (dict(valid_pct=.99), ''),
    (dict(size=0), r"an int in the range \[1, inf\)\. Got 0"),
])
def test_bad_arguments_of_digits_lt(kwargs, rest):
    (name,) = kwargs
    with pytest.raises(ValueError, match=must_be('digits_lt', name, rest)): digits_lt(**kwargs)

@pytest.mark.parametrize('kwargs', [dict(imbalance=0), dict(profile='flat'), dict(seed='a'), dict(seed=None)])
def test_arguments_of_digits_lt_are_checked_where_they_are_used(kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=must_be('tail_(counts|idxs)', name, '')): digits_lt(**kwargs)

def _images(ds): return [np.asarray(x).tobytes() for x,_ in ds]

def tail_sizes(*args): return np.rint(_reference_sizes(*args, 'exp')).astype(int).tolist()

def test_digits_have_the_tail_asked_for_and_a_balanced_validation_set():
    dls = digits_lt(n_max=60, imbalance=10, valid_pct=.2, size=12, bs=16)
    assert Counter(int(y) for _,y in dls.train_ds) == Counter(dict(enumerate(tail_sizes(60, 10, 10))))
    assert Counter(int(y) for _,y in dls.valid_ds) == Counter({k:36 for k in range(10)})
    x,y = dls.one_batch()
    assert x.shape==(16,3,12,12) and y.shape==(16,) and x.dtype==torch.float32
    assert x.min()>=0 and .5<x.max()<=1

def test_every_digit_is_an_image_of_scikit_learn_with_its_label_and_none_is_in_both_parts():
    d = load_digits()
    known = {}
    for im,t in zip(d.images, d.target):
        rgb = np.stack([np.uint8(im*255/16)]*3, -1)
        known.setdefault(rgb.tobytes(), set()).add(int(t))
    dls = digits_lt(n_max=100)
    for ds in dls.train_ds,dls.valid_ds:
        for im,y in ((np.asarray(x),int(y)) for x,y in ds): assert y in known[im.tobytes()]
    # scikit-learn's set holds no image twice
    assert not set(_images(dls.train_ds)) & set(_images(dls.valid_ds))

def test_the_seed_chooses_images_and_their_order():
    first,same,other = (digits_lt(n_max=30, valid_pct=.1, size=8, seed=s) for s in (1,1,2))
    assert _images(first.train_ds)==_images(same.train_ds)!=_images(other.train_ds)
    assert _images(first.valid_ds)==_images(same.valid_ds)!=_images(other.valid_ds)
    orders = [[dl.get_idxs() for _ in range(2)] for dl in (first.train, same.train, other.train)]
    assert orders[0]==orders[1]!=orders[2]
    assert digits_lt(n_max=30, valid_pct=.1, size=8, seed=np.int64(1)).train.get_idxs()==orders[0][0]

def test_workers_bring_the_same_batches():
    def batches(n):
        dls = digits_lt(n_max=20, valid_pct=.5, size=8, bs=16, num_workers=n)
        return [(x.cpu(),y.tolist()) for x,y in dls.train]
    alone,by_workers = batches(0),batches(2)
    assert len(alone)==sum(tail_sizes(20, 10, 20))//16
    for (x,y),(x2,y2) in zip(alone, by_workers, strict=True):
        equal(x, x2)
        assert y==y2

class _Half(Transform):
    order = 100
    def encodes(self, x:torch.Tensor): return x/2 if x.is_floating_point() else x

def test_own_transforms_come_beside_the_resize_in_the_order_they_ask_for():
    seen = []
    class Sees(Transform):
        order = Resize.order+1
        def encodes(self, x):
            if hasattr(x, 'size') and not isinstance(x, torch.Tensor): seen.append(x.size)
            return x
    plain = digits_lt(n_max=20, size=10)
    dls = digits_lt(n_max=20, size=10, item_tfms=Sees(), batch_tfms=_Half())
    x,x2 = plain.one_batch()[0],dls.one_batch()[0]
    assert set(seen)=={(10,10)}
    torch.testing.assert_close(x2, x/2)

@pytest.mark.parametrize('size', [5,8,32])
def test_pixels_are_those_of_resize_which_an_export_holds(size):
    dls = digits_lt(n_max=8, imbalance=4, valid_pct=.01, size=size)
    step, = (o for o in dls.train.after_item.fs if type(o) is Squish)
    kept = pickle.loads(pickle.dumps(step))
    assert type(kept) is Resize
    for image,_ in dls.train_ds: assert np.array_equal(step(image), kept(image))

def test_everything_can_be_kept_for_training(): assert not len(digits_lt(valid_pct=0).valid_ds)

def test_keywords_go_to_the_loaders():
    assert digits_lt(n_max=20, val_bs=7).valid.bs==7
