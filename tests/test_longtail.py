"""The notebook shows what a long tail looks like; here its arithmetic meets a direct loop, every seed and size, and every
bad argument, and the embedded loaders are asked whether they hold the images they should."""

from collections import Counter
from fractions import Fraction
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from fastai.data.all import Transform
from fastai.vision.augment import Resize
from fastai_balmix.datasets.longtail import digits_lt,tail_counts,tail_idxs
from toys import class_sizes,tail_targets

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

tails = given(n_max=st.integers(1, 10_000), n_classes=st.integers(1, 40), imbalance=st.floats(1, 1000), profile=st.sampled_from(['exp','step']))

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
    ((100, 3, 100), [100,10,1]), ((80, 4, 8), [80,40,20,10]), ((80, 5, 8, 'step'), [80,80,80,10,10]), ((80, 4, 8, 'step'), [80,80,10,10]),
    ((7, 1, 100), [7]), ((5, 3, 1), [5,5,5]), ((3, 3, 1000), [3,1,1])])
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

@pytest.mark.parametrize('call,words', [
    (lambda: tail_counts(0, 3), r"The 'n_max' parameter of tail_counts must be an int in the range \[1, inf\)\. Got 0 instead"),
    (lambda: tail_counts(2.5, 3), r"'n_max' parameter of tail_counts must be an int.*Got 2\.5"),
    (lambda: tail_counts(True, 3), "'n_max' parameter of tail_counts must be an int.*Got True"),
    (lambda: tail_counts(10, 0), r"'n_classes' parameter of tail_counts must be an int in the range \[1, inf\)\. Got 0"),
    (lambda: tail_counts(10, 3, .5), r"'imbalance' parameter of tail_counts must be a float in the range \[1, inf\)\. Got 0\.5"),
    (lambda: tail_counts(10, 3, float('nan')), "'imbalance' parameter of tail_counts must be a float.*Got nan"),
    (lambda: tail_counts(10, 3, '9'), "'imbalance' parameter of tail_counts must be a float.*Got '9'"),
    (lambda: tail_counts(10, 3, 9, 'linear'), "'profile' parameter of tail_counts must be 'exp' or 'step'. Got 'linear'"),
    (lambda: tail_idxs([0,0,1], [3,1]), r"'counts' parameter of tail_idxs must be no more than there are of each class, \[2, 1\].* Got \[3, 1\]"),
    (lambda: tail_idxs([0,0,2], [1,1]), "'y' parameter of tail_idxs must be classes from 0 to 1, as there are 2 counts. Got class 2"),
    (lambda: tail_idxs([0,0,1], [1,-1]), "'counts' parameter of tail_idxs"),
    (lambda: tail_idxs([0,-1], [1,1]), "'y' parameter of tail_idxs"),
    (lambda: tail_idxs([0,1], [1,1], seed=-1), r"'seed' parameter of tail_idxs must be an int in the range \[0, inf\)\. Got -1"),
    (lambda: digits_lt(n_max=0), "'n_max' parameter"),
    (lambda: digits_lt(n_max='many'), "'n_max' parameter of .* must be an int"),
    (lambda: digits_lt(n_max=170), "'n_max' parameter of digits_lt must be at most 120, with 54 images a class held out. Got 170"),
    (lambda: digits_lt(imbalance=0), "'imbalance' parameter"),
    (lambda: digits_lt(profile='flat'), "'profile' parameter"),
    (lambda: digits_lt(valid_pct=1), r"'valid_pct' parameter of digits_lt must be a float in the range \[0, 1\)\. Got 1 "),
    (lambda: digits_lt(valid_pct=.99), "'valid_pct' parameter of digits_lt"),
    (lambda: digits_lt(size=0), r"'size' parameter of digits_lt must be an int in the range \[1, inf\)\. Got 0"),
    (lambda: digits_lt(seed='a'), "'seed' parameter of"),
    (lambda: digits_lt(seed=None), "'seed' parameter of"),
])
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()

def _images(ds): return [np.asarray(x).tobytes() for x,_ in ds]

def test_digits_have_the_tail_asked_for_and_a_balanced_validation_set():
    dls = digits_lt(n_max=60, imbalance=10, valid_pct=.2, size=12, bs=16)
    assert Counter(int(y) for _,y in dls.train_ds) == Counter(dict(enumerate(np.rint(_reference_sizes(60, 10, 10, 'exp')).astype(int).tolist())))
    assert Counter(int(y) for _,y in dls.valid_ds) == Counter({k:36 for k in range(10)})
    x,y = dls.one_batch()
    assert x.shape==(16,3,12,12) and y.shape==(16,) and x.dtype==torch.float32
    assert 0<=x.min() and .5<x.max()<=1

def test_every_digit_is_an_image_of_scikit_learn_with_its_label_and_none_is_in_both_parts():
    d = load_digits()
    known = {}
    for im,t in zip(d.images, d.target): known.setdefault(np.stack([np.uint8(im*255/16)]*3, -1).tobytes(), set()).add(int(t))
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
    batches = [[(x.cpu(),y.cpu()) for x,y in digits_lt(n_max=20, valid_pct=.5, size=8, bs=16, num_workers=n).train] for n in (0,2)]
    assert len(batches[0])==len(batches[1])==int(np.rint(_reference_sizes(20, 10, 20, 'exp')).sum())//16
    for (x,y),(x2,y2) in zip(*batches):
        torch.testing.assert_close(x, x2, rtol=0, atol=0)
        assert y.tolist()==y2.tolist()

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
    plain,dls = digits_lt(n_max=20, size=10),digits_lt(n_max=20, size=10, item_tfms=Sees(), batch_tfms=_Half())
    x,x2 = plain.one_batch()[0],dls.one_batch()[0]
    assert set(seen)=={(10,10)}
    torch.testing.assert_close(x2, x/2)

def test_everything_can_be_kept_for_training(): assert not len(digits_lt(valid_pct=0).valid_ds)

def test_keywords_go_to_the_loaders():
    assert digits_lt(n_max=20, val_bs=7).valid.bs==7
