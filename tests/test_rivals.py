"""The notebooks show what ProgressiveSampling, Remix, cRT and τ-normalisation do on the digits. Here Remix and cRT
stand beside plain PyTorch loops that take every step a second time, draws are counted and compared with their
probabilities, fits are cut short in every event, two processes train over gloo, and the last layer is looked for in
networks of other libraries."""

import random
import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from fastai.callback.core import event
from fastai.callback.mixup import CutMix, MixUp
from fastai.vision import all as fv
from hypothesis import given, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDL, IterableDataset, SubsetRandomSampler
from toys import (
    Counting,
    Mute,
    Noisy,
    Numbered,
    Points,
    Probe,
    close,
    equal,
    flat,
    item_numbers,
    make_learner,
    make_net,
    on_ranks,
    params,
    quiet_fit,
    seeded_dl,
    tail_targets,
)

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix, remix_weights
from fastai_balmix.classifier import crt, find_head, tau_normalise
from fastai_balmix.losses import QWKLoss


class Typed(Points):
    "Labels as fastai's pipelines bring them"
    def __getitem__(self, i): return self.x[i],fv.TensorCategory(self.targets[i])

class Opened(fv.Callback):
    "Keeps, for every training epoch, what the data set was asked for, batch by batch"
    order,run_valid = 89,False
    def __init__(self): self.epochs = []
    def before_train(self):
        self.epochs.append([])
        self.ds.opened.clear()

    @property
    def ds(self): return self.dls.train.dataset
    def before_batch(self):
        self.epochs[-1].append(list(self.ds.opened))
        self.ds.opened.clear()

class Given(fv.Callback):
    "Keeps, for every training epoch, the numbers of the items that come, batch by batch"
    order,run_valid = ProgressiveSampling.order-1,False
    def __init__(self): self.epochs = []
    def before_train(self): self.epochs.append([])
    def before_batch(self): self.epochs[-1].append(item_numbers(self.x))


# ------------------------------------------------------------------ progressively balanced sampling

@pytest.mark.parametrize('n_epoch,shares', [(1,[0.]), (2,[0.,1.]), (5,[0.,.25,.5,.75,1.])])
def test_share_grows_by_the_epoch_and_starts_again_at_every_fit(n_epoch, shares):
    cb,probe = ProgressiveSampling(seed=0),Probe(lambda o: o.progressive_sampling.share)
    learn = make_learner()
    for _ in range(2):
        probe.seen.clear()
        quiet_fit(learn, n_epoch, [cb,probe])
        assert probe.seen==[o for o in shares for _ in range(7)]

def test_share_goes_on_where_a_fit_is_resumed():
    probe = Probe(lambda o: o.progressive_sampling.share)
    learn = make_learner()
    with learn.no_bar(),learn.no_logging(),warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.remove_cb(fv.Recorder)
        learn.fit(5, cbs=[ProgressiveSampling(), probe], start_epoch=3)
    assert probe.seen==[.75]*7+[1.]*7

@pytest.mark.parametrize('drop_last', [False, True])
def test_the_first_epoch_is_a_plain_one_bit_for_bit(drop_last):
    plain,first = Probe(params),Probe(params)
    for n,cbs in (1,[plain]),(3,[ProgressiveSampling(seed=0), first]):
        fv.set_seed(7)
        quiet_fit(make_learner(Noisy(), net=make_net(drop=.3), drop_last=drop_last), n, cbs)
    n = 6 if drop_last else 7
    assert len(plain.seen)==n and len(first.seen)==3*n
    for a,b in zip(plain.seen, first.seen): equal(a, b)

def test_a_fit_of_one_epoch_is_a_plain_one():
    res = []
    for cbs in [],[ProgressiveSampling(seed=0)]:
        fv.set_seed(7)
        res.append(params(quiet_fit(make_learner(Noisy(), net=make_net(drop=.3)), 1, cbs)))
    equal(*res)

def class_shares(items, y): return np.bincount(np.asarray(y)[items], minlength=max(y)+1)/len(items)

@pytest.mark.parametrize('weighted', [False, True])
def test_classes_come_with_the_probabilities_of_the_paper(weighted):
    ds,opened = Points((120,40,10)),Opened()
    y,n = np.array(ds.targets),np.array([120,40,10])
    learn = make_learner(ds, bs=170, net=make_net(n_out=3))
    if weighted: learn.dls = learn.dls.weighted('sqrt', seed=0)
    quiet_fit(learn, 101, [ProgressiveSampling(seed=0), opened])
    first = n**.5/(n**.5).sum() if weighted else n/n.sum()
    t = np.arange(101)[:,None]/100
    p = (1-t)*first + t/3
    got = np.array([np.bincount(y[flat(e)], minlength=3) for e in opened.epochs])
    assert (got.sum(1)==170).all() and (weighted or (got[0]==n).all())
    # 5 standard errors of sums of binomial numbers; drawing without replacement, as the plain part does, varies less
    for window in range(20),range(20,40),range(40,60),range(60,80),range(80,101),range(95,101):
        e = p[window]
        assert (np.abs(got[window].sum(0)-170*e.sum(0))<5*np.sqrt(170*(e*(1-e)).sum(0))).all()
    # within a class every item is as frequent as another: chi-square, within 5 of its standard deviations
    times = np.bincount(flat(flat(opened.epochs)), minlength=170)
    for k in range(3):
        o = times[y==k]
        assert ((o-o.mean())**2/o.mean()).sum()<n[k]-1 + 5*(2*(n[k]-1))**.5

def test_what_is_not_replaced_comes_in_its_own_order():
    plain,mixed = Given(),Given()
    ds = Numbered(tail_targets(300,20), shape=(6,))
    for cb,cbs in (plain,[]),(mixed,[ProgressiveSampling(seed=0)]):
        quiet_fit(make_learner(ds, bs=32, net=make_net(n_out=2)), 3, [*cbs, cb])
    same = [(np.array(flat(a))==flat(b)) for a,b in zip(plain.epochs, mixed.epochs)]
    assert [[len(b) for b in e] for e in plain.epochs]==[[len(b) for b in e] for e in mixed.epochs]==[[32]*10]*3
    # In the middle half of the places, here and there, are given to a draw; 5 standard errors. A draw seldom happens
    # on the very item.
    assert same[0].all() and same[2].mean()<.05
    for part in same[1][:160],same[1][160:],same[1][::2]: assert abs(part.mean()-.5)<5*(.25/160)**.5+.01

def test_nothing_is_left_behind():
    for cbs in [],[ProgressiveSampling(seed=0)]:
        learn = make_learner()
        train,keys = learn.dls.train,set(vars(learn.dls.train))
        quiet_fit(learn, 3, cbs)
        assert learn.dls.train is train and type(train) is fv.DataLoader and 'get_idxs' not in vars(train)
        # what is new in it is the memory of its labels, and what a plain epoch leaves as well
        assert set(vars(train))-keys<={'_labels','_samplers','_DataLoader__idxs'} and train.fake_l.d is train
        assert learn.dl is None
        state = train.rng.getstate()
        if not cbs: plain = state,[item_numbers(x) for x,_ in train]
    # its generator has gone through as many epochs as in a plain fit, and goes on from there
    assert state==plain[0] and [item_numbers(x) for x,_ in train]==plain[1]

def test_lr_find():
    learn,probe = make_learner(cbs=ProgressiveSampling()),Probe(lambda o: 0)
    train,start = learn.dls.train,params(learn)
    with learn.no_bar(),learn.no_logging(): learn.lr_find(num_it=20, show_plot=False)
    equal(params(learn), start)
    assert learn.dls.train is train and type(train) is fv.DataLoader
    learn.opt = None
    quiet_fit(learn, 2, probe)
    assert len(probe.seen)==14

class Fault(fv.Callback):
    "Raises `exc` the first time in the event `name`, and what cancels it first where the event is for that"
    def __init__(self, name, exc, order):
        self.exc,self.order,self.done = exc,order,False
        kind = name.split('_')[-1]
        setattr(self, name, partial(self.fail, kind))
        if 'cancel' in name:
            where = kind if kind in ('backward','step','validate') else 'batch'
            cancel = dict(validate='Valid').get(kind, kind.title())
            setattr(self, f'before_{where}', partial(self.cancel, where, getattr(fv, f'Cancel{cancel}Exception')))

    # in the second epoch, so that draws are under way; a fit has only one beginning
    def due(self, kind):
        return not self.done and (kind not in inner or self.training) and (kind=='fit' or self.learn.epoch==1)

    def cancel(self, kind, exc):
        if self.due(kind): raise exc()

    def fail(self, kind):
        if self.due(kind):
            self.done = True
            raise self.exc('cut short')

inner = 'batch','pred','loss','backward','step'
events = [o for o in dir(event) if o.startswith(('before_','after_')) and o!='after_create']

def fit_steps(learn, cbs, seed=1):
    "Parameters after every step of a fit that starts where a new learner's does"
    learn.model.load_state_dict(make_net().state_dict())
    learn.model.zero_grad()
    learn.opt,learn.dls.train.rng = None,random.Random(0)
    fv.set_seed(seed)
    probe = Probe(lambda o: params(o).clone())
    quiet_fit(learn, 2, [*cbs, probe])
    return torch.stack(probe.seen)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('make', [ProgressiveSampling, Remix, partial(Remix, per_item=True)],
    ids=['progressive', 'remix', 'remix per item'])
def test_a_fit_after_one_that_was_cut_short_is_that_of_a_fresh_learner(make):
    fresh = fit_steps(make_learner(bs=17), [make()])
    for k,name in enumerate(events):
        # by turns before the callback's own turn in the event, and after it
        order,own,exc = ((-5,True,RuntimeError),(30,False,KeyboardInterrupt))[k%2]
        cb,loss_func = make(),nn.CrossEntropyLoss()
        learn = make_learner(cbs=cb if own else None, loss_func=loss_func, bs=17)
        train,fault,cbs = learn.dls.train,Fault(name, exc, order),[] if own else [cb]
        with pytest.raises(exc, match='cut short'): quiet_fit(learn, 2, [*cbs, fault])
        assert fault.done and learn.loss_func is loss_func and loss_func.reduction=='mean'
        assert learn.dls.train is train and type(train) is fv.DataLoader
        equal(fit_steps(learn, cbs), fresh)

def test_with_balanced_mixup_the_first_images_are_the_progressive_ones():
    ds = Points((120,40,10))
    y = np.array(ds.targets)
    alone,mixed,kinds = Opened(),Opened(),Probe(lambda o: (type(o.dl).__name__, o.balanced_mix_up.lam, len(o.x)))
    def fit(cbs): quiet_fit(make_learner(ds, bs=10, net=make_net(n_out=3)), 3, cbs)
    fit([ProgressiveSampling(seed=0), alone])
    # whichever is added first
    fit([BalancedMixUp(1., seed=0), ProgressiveSampling(seed=0), mixed, kinds])
    for a,b in zip(alone.epochs, mixed.epochs, strict=True): assert [o[:len(p)] for o,p in zip(b, a, strict=True)]==a
    assert {o[0] for o in kinds.seen}=={'Paired_Progressive_DataLoader'} and {o[2] for o in kinds.seen}=={10}
    partners = flat(b[10:] for e in mixed.epochs for b in e)
    # 5 standard errors of a share of 1/3
    assert len(partners)>400 and (np.abs(class_shares(partners, y)-1/3)<5*(2/9/len(partners))**.5).all()

def torch_dls(ds, **kwargs):
    return fv.DataLoaders(TorchDL(ds, **{'batch_size':10, 'shuffle':True, **kwargs}), TorchDL(Points(), batch_size=10))

@pytest.mark.parametrize('drop_last', [False, True])
@pytest.mark.parametrize('mix', [False, True])
def test_pytorch_loaders(mix, drop_last):
    ds,opened = Points((120,40,11)),Opened()
    y = np.array(ds.targets)
    learn = make_learner(torch_dls(ds, drop_last=drop_last))
    train = learn.dls.train
    quiet_fit(learn, 3, [ProgressiveSampling(seed=0), opened] + ([BalancedMixUp(1., seed=0)] if mix else []))
    n = [10]*17 + ([] if drop_last else [1])
    # BalancedMixUp loads partners after the items of a batch
    epochs = [[b[:k] for b,k in zip(e, n, strict=True)] for e in opened.epochs]
    assert learn.dls.train is train and type(train) is TorchDL and len(learn.recorder.losses)==3*len(n)
    assert len(set(flat(epochs[0])))==sum(n)
    for e,t in zip(epochs, (0,.5,1)):
        p = (1-t)*np.array([120,40,11])/171 + t/3
        assert (np.abs(class_shares(flat(e), y)-p)<5*np.sqrt(p*(1-p)/sum(n))).all()

@pytest.mark.parametrize('mix', [False, True])
def test_of_a_pytorch_loader_s_items_those_of_its_sampler(mix):
    # One data set cut in two by samplers: what is for validation must not be drawn, not as a partner either
    ds,opened = Points((60,20,10)),Opened()
    train = np.flatnonzero(np.arange(90)%3).tolist()
    learn = make_learner(torch_dls(ds, shuffle=None, sampler=SubsetRandomSampler(train)))
    quiet_fit(learn, 4, [ProgressiveSampling(seed=0), opened] + ([BalancedMixUp(1., seed=0)] if mix else []))
    for e in opened.epochs: assert sum(len(b[:10]) for b in e)==60 and set(flat(e))<=set(train)

def test_workers_change_no_index():
    epochs = []
    for n in 0,2:
        given = Given()
        quiet_fit(make_learner(Numbered(tail_targets(40,20,6), shape=(6,)), num_workers=n), 2,
            [ProgressiveSampling(seed=0), given])
        epochs.append(given.epochs)
    assert epochs[0]==epochs[1] and len(flat(epochs[0][1]))==66

def opened_by(cb, learn=None, seed=None):
    opened = Opened()
    learn = fv.ifnone(learn, make_learner())
    learn.dls.train.rng = random.Random(0)
    if seed is not None: fv.set_seed(seed)
    quiet_fit(learn, 3, [cb,opened])
    return opened.epochs

def test_a_seed_repeats_the_draws():
    cb,learn = ProgressiveSampling(seed=11),make_learner()
    one = opened_by(cb, learn)
    assert opened_by(cb, learn)==one==opened_by(ProgressiveSampling(seed=11), seed=99)
    assert opened_by(ProgressiveSampling(seed=12))!=one
    # without one, as NumPy's global generator stands
    assert opened_by(ProgressiveSampling(), seed=4)==opened_by(ProgressiveSampling(),
        seed=4)!=opened_by(ProgressiveSampling(), seed=5)
    cb = ProgressiveSampling()
    assert opened_by(cb)!=opened_by(cb)
    assert cb.seed is None and cb.labels is None

def test_labels_may_be_stated():
    ds,opened = Points((150,150)),Opened()
    labels = np.repeat([0,1,2], [200,75,25])
    quiet_fit(make_learner(ds, bs=60), 2, [ProgressiveSampling(labels=labels, seed=0), opened])
    # 5 standard errors of a share of 1/3; by the labels that the data set tells it would be 2/3 for the first class
    assert (np.abs(class_shares(flat(opened.epochs[1]), labels)-1/3)<5*(2/9/300)**.5).all()

class Stream(IterableDataset):
    def __iter__(self): return iter(Points())

@pytest.mark.parametrize('make,words', [
    (lambda: ProgressiveSampling(seed=-1),
        "The 'seed' parameter of ProgressiveSampling must be an int in the range [0, inf). Got -1 instead."),
    (lambda: ProgressiveSampling(seed=1.), "Got 1.0 instead."),
    (lambda: quiet_fit(make_learner(Mute(20)), 2, ProgressiveSampling()),
        "The labels of a Mute cannot be read by ProgressiveSampling without opening its items."),
    (lambda: quiet_fit(make_learner(), 2, ProgressiveSampling(labels=[0,1])),
        "The 'labels' parameter of ProgressiveSampling must be 51 ints, one for each item. Got 2 labels instead."),
    (lambda: quiet_fit(make_learner(fv.DataLoaders(TorchDL(Stream(), batch_size=8), TorchDL(Points(), batch_size=8))),
        2, ProgressiveSampling()), "ProgressiveSampling"),
])
def test_progressive_sampling_refuses(make, words):
    with pytest.raises(ValueError) as e: make()
    assert words in str(e.value)

def train_rank(rank):
    "Trains as one of two processes; the items it was given, and where it got"
    from fastai.distributed import DistributedTrainer
    torch.manual_seed(rank)
    targets = tail_targets(300, 25, 6)
    # Every process shuffles by a generator of its own; only the first one's order counts
    dls = fv.DataLoaders(seeded_dl(Numbered(targets), 20, seed=rank),
        seeded_dl(Numbered(targets[:21]), 8, shuffle=False), device='cpu')
    given,kinds = Given(),Probe(lambda o: type(o.dl).__name__)
    learn = fv.Learner(dls, nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1,3)), loss_func=fv.CrossEntropyLossFlat(),
        opt_func=fv.SGD, cbs=[given,kinds,ProgressiveSampling(seed=0),DistributedTrainer(sync_bn=False, cpu=True)])
    with learn.no_bar(),learn.no_logging(): learn.fit(2, lr=.1)
    return dict(epochs=given.epochs, params=[p.detach().clone() for p in learn.model.parameters()],
        losses=[list(o) for o in learn.recorder.values], kinds=set(kinds.seen),
                train=type(learn.dls.train).__name__)

def test_two_processes_share_each_epoch():
    ranks,y = on_ranks(2, train_rank),tail_targets(300, 25, 6)
    plain,balanced = ([flat(o['epochs'][e]) for o in ranks] for e in range(2))
    assert [len(o) for o in (*plain,*balanced)]==[166]*4
    # the ranks' shares are one epoch, and one item more to make them equal
    assert sorted((plain[0]+plain[1])[:331])==list(range(331))
    # 5 standard errors of a share of 1/3; each rank draws for itself
    for o in balanced: assert (np.abs(class_shares(o, y)-1/3)<5*(2/9/166)**.5).all()
    assert balanced[0]!=balanced[1]
    torch.testing.assert_close(ranks[0]['params'], ranks[1]['params'])
    assert np.isfinite(ranks[0]['losses']).all()
    for o in ranks: assert o['kinds']=={'Progressive_DistributedDL'} and o['train']=='DataLoader'

# ------------------------------------------------------------------ Remix

def _reference_remix(lam, n_i, n_j, kappa, tau):
    "Equation 6 of Chou et al. for one pair; `lam` is the weight of x_i and what is returned that of y_i"
    if n_i/n_j>=kappa and lam<tau: return 0.
    if n_i/n_j<=1/kappa and 1-lam<tau: return 1.
    return lam

# Shares in steps that floats hold exactly, so that no rounding stands between one side of τ and the other
steps = st.integers(0, 64).map(lambda i: i/64)
pairs = st.lists(st.tuples(st.sampled_from([1,2,3,5,6,9,10,40,100,1000]),
    st.sampled_from([1,2,3,5,6,9,10,40,100,1000]), steps), min_size=1, max_size=10)

@given(pairs, st.sampled_from([1.5,2.,3.,10.]), steps)
def test_remix_weights_are_those_of_the_paper(pairs, kappa, tau):
    n,n1,lam = zip(*pairs)
    n,n1 = torch.tensor(n),torch.tensor(n1)
    expected = [1-_reference_remix(1-l, int(a), int(b), kappa, tau) for a,b,l in zip(n, n1, lam)]
    got = remix_weights(torch.tensor(lam), n, n1, kappa, tau)
    assert got.dtype==torch.float32 and got.tolist()==expected
    # one λ for the batch
    expected = [1-_reference_remix(1-lam[0], int(a), int(b), kappa, tau) for a,b in zip(n, n1)]
    assert remix_weights(lam[0], n, n1, kappa, tau).tolist()==expected

def test_remix_weights_of_classes_of_one_size_where_kappa_is_1():
    # Both conditions hold; the paper's first comes first
    n = torch.tensor([5,5])
    for lam in .25,.5,.75: assert remix_weights(lam, n, n, 1., 1.).tolist()==[1-_reference_remix(1-lam, 5, 5, 1., 1.)]*2

def test_remix_weights_in_words():
    many,few = torch.tensor([100]),torch.tensor([10])
    # the partner is rare: its label is all there is as soon as the frequent image is less than half
    assert [remix_weights(l, many, few).item() for l in (.25,.5,.75)]==[.25,.5,1.]
    # the item is rare: its own label is all there is as soon as the frequent partner is less than half
    assert [remix_weights(l, few, many).item() for l in (.25,.5,.75)]==[0.,.5,.75]
    assert [remix_weights(l, few, few*2).item() for l in (.25,.5,.75)]==[.25,.5,.75]

class Dice:
    "Stands for the generator of a fit: λ and permutations in a fixed succession"
    def __init__(self, lams): self.lams,self.rng,self.perms = lams,np.random.default_rng(0),[]
    def beta(self, a, b, n=None):
        if n is None: return float(self.rng.choice(self.lams))
        return self.rng.choice(self.lams, n)

    def permutation(self, n):
        self.perms.append(self.rng.permutation(n))
        return self.perms[-1]

def thrown(lams=(.1,.4,.6,.9)):
    dice = Dice(list(lams))
    return dice,mock.patch('fastai_balmix.callback.mixup.rank_rng', lambda seed, dl: dice)

# The independent formulas: logits, classes of items and partners, weights of the partners' labels

def _reference_ce(logits, y, y1, w):
    hot = torch.eye(logits.shape[1], dtype=logits.dtype)
    return -(((1-w)[:,None]*hot[y] + w[:,None]*hot[y1])*logits.log_softmax(1)).sum(1).mean()

def _reference_weighted(logits, y, y1, w, weight):
    "One mean over either label, weighted by classes and pairs"
    logp,tot,divisor = logits.log_softmax(1),0.,0.
    for i in range(len(y)):
        for share,k in (1-w[i], y[i]),(w[i], y1[i]):
            tot = tot - share*weight[k]*logp[i,k]
            divisor = divisor + share*weight[k]
    return tot/divisor

def _reference_focal(logits, y, y1, w, gamma=2):
    p,tot = logits.softmax(1),0.
    for u,t in ((1-w, y), (w, y1)):
        for i in range(len(t)): tot = tot - u[i]*(1-p[i,t[i]])**gamma*p[i,t[i]].log()/len(t)
    return tot

def _reference_squares(logits, y, y1, w):
    hot = torch.eye(logits.shape[1], dtype=logits.dtype)
    return (logits.softmax(1)-(1-w)[:,None]*hot[y]-w[:,None]*hot[y1]).square().sum(1).max()

def _reference_kappa(logits, y, y1, w):
    """The logarithm of one minus the quadratic kappa of probabilities against mixed labels, cell by cell, of which
    1e-6 is 0"""
    p,k,n = logits.softmax(1),logits.shape[1],len(y)
    q = torch.zeros_like(p)
    for i in range(n):
        q[i,y[i]] += 1-w[i]
        q[i,y1[i]] += w[i]
    seen = chance = 0.
    for a in range(k):
        for b in range(k):
            cost = ((a-b)/(k-1))**2
            seen = seen + cost*(q[:,a]*p[:,b]).sum()/n
            chance = chance + cost*q[:,a].sum()*p[:,b].sum()/n**2
    return ((seen+1e-6)/(chance+1e-6)/1e-6).log()

class LargestSquare(nn.Module):
    "Takes a distribution for each item, and has no per-item form"
    soft_targets = True
    def forward(self, pred, targ):
        if targ.ndim==1: targ = F.one_hot(targ, pred.shape[1])
        return (pred.softmax(1)-targ).square().sum(1).max()

weight = torch.tensor([.5,1.,3.,9.])
sides = {'CrossEntropyLossFlat': (fv.CrossEntropyLossFlat, _reference_ce),
         'nn.CrossEntropyLoss': (nn.CrossEntropyLoss, _reference_ce),
         'functional': (lambda: F.cross_entropy, _reference_ce),
         'weighted': (lambda: nn.CrossEntropyLoss(weight=weight), partial(_reference_weighted, weight=weight)),
         'focal': (fv.FocalLossFlat, _reference_focal),
         'soft targets': (LargestSquare, _reference_squares),
         'kappa': (QWKLoss, _reference_kappa)}

class PlainLoop(fv.Callback):
    "Takes every step a second time in plain PyTorch and float64, from its own copy of the weights, and compares"
    order,run_valid = 90,False
    def __init__(self, ds, reference, cb, dice, n_class=(28,14,6,3), kappa=3., tau=.5):
        fv.store_attr()
        self.ws = []

    def before_fit(self):
        self.net = fv.deepcopy(self.model).double()
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=.1, momentum=.5)

    def before_train(self): self.ds.opened.clear()

    def before_batch(self):
        self.asked = list(self.ds.opened)
        self.ds.opened.clear()

    def after_batch(self):
        i,n = np.array(self.asked),len(self.asked)
        j = i[self.dice.perms[-1]]
        lam = torch.as_tensor(self.cb.lam, dtype=torch.float64).expand(n)
        y,y1 = (torch.tensor([self.ds.targets[o] for o in idx]) for idx in (i,j))
        x = (1-lam)[:,None]*self.ds.x[i].double() + lam[:,None]*self.ds.x[j].double()
        w = torch.tensor([1-_reference_remix(1-lam[o].item(), self.n_class[y[o]], self.n_class[y1[o]], self.kappa,
            self.tau) for o in range(n)])
        loss = self.reference(self.net(x), y, y1, w)
        close(self.learn.loss, loss)
        close(self.cb.lam_y, w)
        loss.backward()
        self.sgd.step()
        self.sgd.zero_grad()
        for p,q in zip(self.model.parameters(), self.net.parameters(), strict=True): close(p, q)
        self.ws.append(torch.stack([w,lam]))

sgd = partial(fv.OptimWrapper, opt=torch.optim.SGD, momentum=.5)

@pytest.mark.thinned
@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('side', sides)
def test_every_step_is_that_of_a_plain_loop(side, per_item):
    loss_func,reference = sides[side]
    dice,patch = thrown()
    cb,ds = Remix(per_item=per_item),Points()
    plain,loss_func = PlainLoop(ds, reference, cb, dice),loss_func()
    learn = make_learner(ds, loss_func=loss_func, opt_func=sgd)
    start = params(learn)
    with patch: quiet_fit(learn, 4, [cb,plain])
    # Labels that follow the image, and such as go to either of the two altogether, were among them
    w,lam = torch.cat(plain.ws, 1)
    assert len(plain.ws)==4*7 and w.isclose(lam).any() and (w==0).any() and (w==1).any()
    assert (params(learn)-start).abs().max()>.01 and learn.loss_func is loss_func
    assert getattr(loss_func, 'reduction', 'mean')=='mean'

@pytest.mark.parametrize('kappa,tau', [(1.5,.8), (2.,.3), (5.,1.)])
def test_kappa_and_tau_reach_the_labels(kappa, tau):
    dice,patch = thrown()
    cb,ds = Remix(kappa=kappa, tau=tau, per_item=True),Points()
    with patch:
        quiet_fit(make_learner(ds, opt_func=sgd), 2, [cb,PlainLoop(ds, _reference_ce, cb, dice, kappa=kappa, tau=tau)])

@pytest.mark.parametrize('bs', [1, 25])
@pytest.mark.parametrize('per_item', [False, True])
def test_batches_of_one(per_item, bs):
    # 51 items in batches of 25 leave one
    dice,patch = thrown()
    cb,ds = Remix(per_item=per_item),Points()
    plain = PlainLoop(ds, _reference_ce, cb, dice)
    with patch: quiet_fit(make_learner(ds, bs=bs, opt_func=sgd), 2, [cb,plain])
    assert [o.shape[1] for o in plain.ws]==([1]*51 if bs==1 else [25,25,1])*2

def test_tau_0_is_mixup():
    ds = Points()
    def by_hand(o):
        i,cb = torch.tensor(opened.epochs[-1][-1]),o.remix
        j = i[torch.from_numpy(dice.perms[-1])]
        x = cb.lam*ds.x[j] + (1-cb.lam)*ds.x[i]
        a,b = (F.cross_entropy(o.pred, torch.tensor([ds.targets[k] for k in idx])) for idx in (i,j))
        return o.loss.item(),((1-cb.lam)*a+cb.lam*b).item(),(o.x-x).abs().max().item()
    dice,patch = thrown()
    opened,probe = Opened(),Probe(by_hand)
    with patch: quiet_fit(make_learner(ds), 3, [Remix(tau=0, kappa=1), opened, probe])
    got,expected,far = map(np.array, zip(*probe.seen))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert far.max()<1e-6 and len(far)==21

@pytest.mark.parametrize('opt_func', [fv.SGD, fv.Adam])
def test_alpha_0_is_a_plain_fit_bit_for_bit(opt_func):
    plain,mixed = Probe(params),Probe(params)
    for cbs in [plain],[Remix(alpha=0), mixed]:
        fv.set_seed(7)
        quiet_fit(make_learner(Noisy(), net=make_net(drop=.3), opt_func=opt_func), 3, cbs)
    for a,b in zip(plain.seen, mixed.seen, strict=True): equal(a, b)

@pytest.mark.thinned(2)
@pytest.mark.parametrize('alpha', [.3, 1., 4.])
@pytest.mark.parametrize('per_item', [False, True])
def test_lam_follows_beta(per_item, alpha):
    probe = Probe(lambda o: torch.as_tensor(o.remix.lam).double().reshape(-1))
    quiet_fit(make_learner(Numbered(tail_targets(90,10), shape=(6,)), bs=50 if per_item else 5), 20,
        [Remix(alpha, per_item=per_item, seed=0), probe])
    lam = torch.cat(probe.seen)
    assert len(lam)==(2000 if per_item else 400)
    # Beta(α, α) has the mean 1/2, the variance 1/(4(2α+1)), and of its squared distance from 1/2 the variance is
    # below 1/16 of that; 5 standard errors
    var = 1/(4*(2*alpha+1))
    assert abs(lam.mean()-.5)<5*(var/len(lam))**.5
    assert abs((lam-.5).square().mean()-var)<5*(var/4/len(lam))**.5

def test_each_item_of_a_batch_is_a_partner_once():
    class OneHot(Numbered):
        "Item i is 0 but for the place i, so that a mixture tells its two parts"
        def __getitem__(self, i): return F.one_hot(torch.tensor(i), 20).float(),self.targets[i]
    seen = Probe(lambda o: (o.x, o.remix.lam))
    quiet_fit(make_learner(OneHot(tail_targets(12,8)), bs=5, net=make_net(20,2)), 6, [Remix(2., seed=0), seen])
    firsts = []
    for x,_ in seen.seen:
        i = [sorted(r.nonzero().flatten().tolist()) for r in x]
        # every image is in the batch with 1-λ once and with λ once
        assert x.sum(0).sort(descending=True).values[:5].tolist()==pytest.approx([1.]*5, abs=1e-5)
        assert x.sum(0).nonzero().numel()==5
        firsts.append(sum(len(o)==1 for o in i))
    # of 5 items one stays with itself on average: 24 batches, of variance 1; 5 standard errors
    assert abs(np.mean(firsts)-1)<5/24**.5

def test_class_sizes_are_those_of_the_training_set_or_as_stated():
    ds = Points()
    cb = Remix()
    quiet_fit(make_learner(ds), 1, cb)
    assert list(cb.counts)==[28,14,6,3]
    pairs = [(x,y) for x,y in zip(ds.x, ds.targets)]
    class Silent(torch.utils.data.Dataset):
        "Tells its labels only item by item"
        def __len__(self): return len(pairs)
        def __getitem__(self, i): return pairs[i]
    cb = Remix(labels=ds.targets)
    quiet_fit(make_learner(Silent()), 1, cb)
    assert list(cb.counts)==[28,14,6,3] and cb.labels is ds.targets

def test_validation_sees_plain_images_and_labels():
    class Valid(fv.Callback):
        "Collects what the model is asked in validation"
        run_train = False
        def before_validate(self): self.seen = []
        def after_pred(self): self.seen.append((self.x, self.y))
    ds,valid = Points(),Valid()
    learn = quiet_fit(make_learner(ds), 2, [Remix(seed=0), valid])
    for got,expected in zip(zip(*valid.seen), (ds.x, torch.tensor(ds.targets))): equal(torch.cat(got), expected)
    with torch.no_grad(): loss = F.cross_entropy(learn.model.eval()(ds.x), torch.tensor(ds.targets))
    close(learn.recorder.values[-1][1], loss)

def test_the_loss_function_gets_either_label_in_the_same_form():
    class Recording(nn.CrossEntropyLoss):
        def forward(self, pred, targ):
            seen.append((type(pred), type(targ), targ.dtype))
            return super().forward(pred, targ)
    seen,probe = [],Probe(lambda o: (type(o.loss), type(o.loss_grad)))
    quiet_fit(make_learner(Typed(), loss_func=Recording()), 1, probe)
    plain = set(seen),set(probe.seen)
    for per_item in False,True:
        seen.clear(),probe.seen.clear()
        quiet_fit(make_learner(Typed(), loss_func=Recording()), 1, [Remix(per_item=per_item), probe])
        assert (set(seen),set(probe.seen))==plain

def remixed(cb, learn=None, seed=None):
    learn,probe = fv.ifnone(learn, make_learner()),Probe(lambda o: torch.as_tensor(o.remix.lam).tolist())
    if seed is not None: fv.set_seed(seed)
    learn.model.load_state_dict(make_net().state_dict())
    learn.opt,learn.dls.train.rng = None,random.Random(0)
    quiet_fit(learn, 2, [cb,probe])
    return probe.seen,params(learn).tolist()

@pytest.mark.parametrize('per_item', [False, True])
def test_a_seed_repeats_a_fit(per_item):
    make,learn = partial(Remix, per_item=per_item),make_learner()
    cb = make(seed=11)
    one = remixed(cb, learn)
    assert remixed(cb, learn)==one==remixed(make(seed=11), seed=99)
    assert all(a!=b for a,b in zip(one, remixed(make(seed=12))))
    assert remixed(make(), seed=4)==remixed(make(), seed=4)
    assert one[0][:7]!=one[0][7:]

def test_remix_in_lr_find_accumulation_and_pytorch_loaders():
    learn = make_learner(cbs=Remix())
    with learn.no_bar(),learn.no_logging(): learn.lr_find(num_it=12, show_plot=False)
    for net_learn in make_learner(),make_learner(torch_dls(Points())):
        quiet_fit(net_learn, 1, [Remix(per_item=True), fv.GradientAccumulation(20)])
        assert np.isfinite(net_learn.recorder.values[-1]).all()
    seen = Probe(lambda o: o.progressive_sampling.share)
    quiet_fit(make_learner(), 2, [Remix(), ProgressiveSampling(), seen])
    assert set(seen.seen)=={0.,1.}

@pytest.mark.parametrize('make', [Remix, ProgressiveSampling])
def test_exported_and_loaded(make, tmp_path):
    dl = fv.TfmdDL(fv.Datasets(range(18), [[float_row],[int_label]]), bs=4, num_workers=0)
    learn = quiet_fit(make_learner(fv.DataLoaders(dl, dl), cbs=make(seed=0)), 2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export(tmp_path/'learn.pkl')
        loaded = fv.load_learner(tmp_path/'learn.pkl')
    with learn.no_bar(): expected = learn.get_preds()[0]
    with loaded.no_bar(): got = loaded.get_preds(dl=learn.dls.valid)[0]
    equal(got, expected)
    cb = next(o for o in loaded.cbs if isinstance(o, make))
    assert cb.seed==0 and not any(isinstance(o, (fv.DataLoader,TorchDL)) for o in vars(cb).values())
    loaded.dls = make_learner().dls
    quiet_fit(loaded, 2)

def float_row(i): return torch.full((6,), float(i))
def int_label(i): return fv.TensorCategory(i%3%2)

class NoItems(nn.Module):
    "A loss that gives nothing but one number"
    def forward(self, pred, targ): return F.cross_entropy(pred, targ)

class Ints(Points):
    def __getitem__(self, i): return self.x[i].long(),self.targets[i]

@pytest.mark.parametrize('make,words', [
    (lambda: Remix(alpha=-1), "The 'alpha' parameter of Remix must be a float in the range [0, inf). Got -1 instead."),
    (lambda: Remix(alpha='1'), "Got '1' instead."),
    (lambda: Remix(kappa=.5), "The 'kappa' parameter of Remix must be a float in the range [1, inf). Got 0.5 instead."),
    (lambda: Remix(kappa=np.nan),
        "The 'kappa' parameter of Remix must be a float in the range [1, inf). Got nan instead."),
    (lambda: Remix(tau=1.1), "The 'tau' parameter of Remix must be a float in the range [0, 1]. Got 1.1 instead."),
    (lambda: Remix(tau=-.1), "Got -0.1 instead."),
    (lambda: Remix(per_item=1), "The 'per_item' parameter of Remix must be True or False. Got 1 instead."),
    (lambda: Remix(seed=-3), "The 'seed' parameter of Remix must be an int in the range [0, inf). Got -3 instead."),
    (lambda: quiet_fit(make_learner(), 1, [Remix(), MixUp()]),
        'Remix cannot be combined with MixUp. Remove one of them.'),
    (lambda: quiet_fit(make_learner(), 1, [CutMix(), Remix()]),
        'Remix cannot be combined with CutMix. Remove one of them.'),
    (lambda: quiet_fit(make_learner(), 1, [BalancedMixUp(), Remix()]), " cannot be combined with "),
    (lambda: quiet_fit(make_learner(), 1, [Remix(), Remix()]),
        'Remix cannot be combined with Remix. Remove one of them.'),
    (lambda: quiet_fit(make_learner(loss_func=NoItems()), 1, Remix()),
        "Remix needs a loss function with a `reduction`, so that the loss of each item is known, but the learner "
        "has NoItems()."),
    (lambda: quiet_fit(make_learner(Mute(20)), 1, Remix()),
        "The labels of a Mute cannot be read by Remix without opening its items."),
    (lambda: quiet_fit(make_learner(), 1, Remix(labels=[1,2])),
        "The 'labels' parameter of Remix must be 51 ints, one for each item. Got 2 labels instead."),
    (lambda: quiet_fit(make_learner(Ints()), 1, Remix()),
        "The 'inputs' parameter of Remix must be floating-point tensors after the batch transforms. Got torch.int64 "
        "instead."),
])
def test_remix_refuses(make, words):
    with pytest.raises(ValueError) as e: make()
    assert words in str(e.value)

def test_a_refused_loss_is_not_said_to_be_an_argument_that_nobody_gave():
    # `per_item` is how λ is drawn; Remix needs losses by item whatever it is
    with pytest.raises(ValueError) as e: quiet_fit(make_learner(loss_func=NoItems()), 1, Remix(per_item=False))
    assert 'per_item=True' not in str(e.value)

# ------------------------------------------------------------------ the last layer

class Images(Counting):
    def __init__(self, counts=(28,14,6,3), size=8):
        super().__init__(tail_targets(*counts))
        self.x = torch.randn(len(self), 3, size, size, generator=torch.Generator().manual_seed(0))

    def __getitem__(self, i):
        self.opened.append(i)
        return self.x[i],self.targets[i]

def conv_net(n_out=4):
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8,8), nn.BatchNorm1d(8), nn.Linear(8,n_out))

def image_dls(counts=(28,14,6,3), size=8, bs=8):
    dls = fv.DataLoaders(seeded_dl(Images(counts, size), bs), seeded_dl(Images(counts, size), 32, shuffle=False),
        device='cpu')
    dls.c = len(counts)
    return dls

def image_learner(**kwargs):
    learn = make_learner(image_dls(), net=conv_net(), **kwargs)
    return quiet_fit(learn, 1)

def quiet_crt(learn, *args, **kwargs):
    with learn.no_bar(),learn.no_logging(): return crt(learn, *args, **kwargs)

def cloned(model): return {k: v.clone() for k,v in model.state_dict().items()}
def changed(model, before): return {k for k,v in model.state_dict().items() if not torch.equal(v, before[k])}

def test_only_the_last_layer_changes():
    learn = image_learner()
    before = cloned(learn.model)
    assert quiet_crt(learn, 2, .1, seed=0) is None
    assert changed(learn.model, before)=={'8.weight','8.bias'}
    # also those numbers that are no parameters, and where a plain epoch does change them
    quiet_fit(learn, 1)
    assert {'1.running_mean','7.running_var','7.num_batches_tracked','0.weight'}<=changed(learn.model, before)

def test_the_last_layer_starts_anew():
    ends = []
    for w in 0.,50.:
        learn = image_learner()
        nn.init.constant_(learn.model[8].weight, w)
        torch.manual_seed(3)
        quiet_crt(learn, 1, 0., seed=0)
        ends.append(learn.model[8].weight.detach().clone())
    equal(*ends)
    torch.manual_seed(3)
    equal(ends[0], nn.Linear(8,4).weight.detach())

class HeadLoop(fv.Callback):
    "Takes every step of the last layer a second time, on features of the body in evaluation mode"
    order,run_valid = 90,False
    def before_fit(self):
        self.body = fv.deepcopy(self.model[:8]).eval().double()
        self.head = fv.deepcopy(self.model[8]).double()
        self.asked,self.modes,self.ds = [],[],self.dls.train.dataset

    def before_train(self): self.ds.opened.clear()

    def before_batch(self):
        self.asked.append(list(self.ds.opened))
        self.ds.opened.clear()
        self.step_size = self.opt.hypers[-1]['lr']
        self.modes += [m.training for m in self.model.modules()]

    def after_batch(self):
        i = self.asked[-1]
        with torch.no_grad(): z = self.body(self.ds.x[i].double())
        loss = F.cross_entropy(self.head(z), torch.tensor([self.ds.targets[k] for k in i]))
        close(self.learn.loss, loss)
        loss.backward()
        with torch.no_grad():
            for p in self.head.parameters(): p -= self.step_size*p.grad
        self.head.zero_grad()
        for p,q in zip(self.model[8].parameters(), self.head.parameters(), strict=True): close(p, q)

def test_every_step_is_that_of_a_plain_loop_over_features():
    learn,loop = image_learner(opt_func=partial(fv.SGD, mom=0.), wd=0.),HeadLoop()
    quiet_crt(learn, 20, .1, seed=0, cbs=loop)
    assert len(loop.asked)==20*7 and not any(loop.modes)
    # classes come equally often: 20·51 draws of shares of 1/4, 5 standard errors
    items = flat(loop.asked)
    assert len(items)==20*51
    assert (np.abs(class_shares(items, learn.dls.train.dataset.targets)-.25)<5*(3/16/len(items))**.5).all()

def test_q_labels_seed_and_learning_rate():
    learn,loop = image_learner(opt_func=partial(fv.SGD, mom=0.), wd=0.),HeadLoop()
    quiet_crt(learn, 8, q='instance', seed=0, cbs=loop)
    p = np.array([28,14,6,3])/51
    items = flat(loop.asked)
    assert (np.abs(class_shares(items, learn.dls.train.dataset.targets)-p)<5*np.sqrt(p*(1-p)/len(items))).all()
    # the learner's own learning rate is the highest
    assert max(learn.recorder.lrs)==pytest.approx(.1, rel=1e-2)
    again,other = HeadLoop(),HeadLoop()
    for seed,o in (0,again),(1,other):
        quiet_crt(image_learner(opt_func=partial(fv.SGD, mom=0.), wd=0.), 8, q='instance', seed=seed, cbs=o)
    assert again.asked==loop.asked!=other.asked
    labels = np.repeat([0,1], [48,3])
    stated = HeadLoop()
    quiet_crt(image_learner(opt_func=partial(fv.SGD, mom=0.), wd=0.), 8, labels=labels, seed=0, cbs=stated)
    assert abs((labels[flat(stated.asked)]==1).mean()-.5)<5*(.25/408)**.5

@pytest.mark.parametrize('splitter',
    [fv.trainable_params, lambda m: fv.L([*m[:6].parameters()], [*m[6:].parameters()])],
    ids=['one group', 'two groups'])
def test_only_the_last_layer_is_given_to_the_optimiser(splitter):
    learn = image_learner(splitter=splitter)
    probe = Probe(lambda o: ([id(p) for p in o.opt.all_params().itemgot(0)],
        [p.grad is None for p in o.model[:8].parameters()]))
    learn.model.zero_grad()
    quiet_crt(learn, 1, .1, cbs=probe)
    ids,none = zip(*probe.seen)
    assert len(ids)==7 and all(o==[id(p) for p in learn.model[8].parameters()] for o in ids) and all(map(all, none))

def surroundings(learn):
    return (learn.dls, [*learn.dls.loaders], type(learn.dls.train), learn.splitter,
        sorted(cb.name for cb in learn.cbs), [p.requires_grad for p in learn.model.parameters()],
            learn.loss_func, learn.opt_func, learn.lr, learn.dls.train.rng.getstate(), learn.lock.locked())

@pytest.mark.thinned
@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('name', [None, *events])
def test_everything_is_put_back(name, frozen):
    learn = image_learner()
    if frozen:
        # a mixture, so that neither all nor none would do
        for p in [*learn.model[0].parameters(), learn.model[8].bias]: p.requires_grad_(False)
    before,body = surroundings(learn),cloned(learn.model)
    if name is None: quiet_crt(learn, 2)
    else:
        fault = Fault(name, KeyboardInterrupt, 30)
        with pytest.raises(KeyboardInterrupt, match='cut short'): quiet_crt(learn, 2, cbs=fault)
        assert fault.done
    assert surroundings(learn)==before
    assert {k.split('.')[0] for k in changed(learn.model, body)}=={'8'}
    # the next fit trains whatever may be trained
    after = cloned(learn.model)
    learn.opt = learn.opt
    quiet_fit(learn, 1)
    expected = {k for k,_ in learn.model.named_parameters()
        if not ((frozen and k.split('.')[0]=='0') or (frozen and k=='8.bias'))}
    assert {k for k in changed(learn.model, after) if 'running' not in k and 'num' not in k}==expected

def test_parameter_groups_are_put_back():
    def halves(m): return fv.L([*m[:6].parameters()], [*m[6:].parameters()])
    learn = make_learner(image_dls(), net=conv_net(), splitter=halves)
    quiet_crt(learn, 1)
    assert learn.splitter is halves
    quiet_fit(learn, 1)
    assert [len(o) for o in learn.opt.param_lists]==[4,6]
    learn.freeze()
    quiet_crt(learn, 1)
    assert [p.requires_grad for p in learn.model.parameters()]==[False]*2+[True]*8

def test_other_loaders_and_callbacks():
    learn = image_learner()
    learn.dls = learn.dls.weighted('instance', seed=0)
    loader = learn.dls.train
    quiet_crt(learn, 1)
    assert learn.dls.train is loader and loader.q=='instance'
    for cb in BalancedMixUp(),Remix(),ProgressiveSampling(): quiet_crt(learn, 1, cbs=cb)
    learn = make_learner(fv.DataLoaders(TorchDL(Images(), batch_size=8, shuffle=True),
        TorchDL(Images(), batch_size=8)), net=conv_net())
    before,opened = cloned(learn.model),Opened()
    quiet_crt(learn, 8, seed=0, cbs=opened)
    assert changed(learn.model, before)=={'8.weight','8.bias'} and type(learn.dls.train) is TorchDL
    items = flat(flat(opened.epochs))
    assert (np.abs(class_shares(items, learn.dls.train.dataset.targets)-.25)<5*(3/16/len(items))**.5).all()

def test_crt_brings_rare_classes_back():
    # Two classes that overlap, one with 2 % of the points: the plain network hardly ever says so
    ds = Points((490,10))
    ds.x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) + 1.2*torch.tensor(ds.targets)[:,
        None]*torch.eye(6)[0]
    learn = quiet_fit(make_learner(ds, bs=50, net=make_net(n_out=2)), 10)
    x,y = ds.x,torch.tensor(ds.targets)
    def recall():
        with torch.no_grad(): return (learn.model.eval()(x)[y==1].argmax(1)==1).double().mean().item()
    plain = recall()
    quiet_crt(learn, 10, .3, seed=0)
    assert plain<.2 and recall()>.5

foreign = nn.Linear(8,4)

@pytest.mark.parametrize('kwargs,words', [
    (dict(n_epoch=0), "The 'n_epoch' parameter of crt must be an int in the range [1, inf). Got 0 instead."),
    (dict(n_epoch=1.), "Got 1.0 instead."),
    (dict(q='klass'), "a float or one of 'instance', 'sqrt', 'class'. Got 'klass' instead."),
    (dict(seed=-1), "an int in the range [0, inf). Got -1 instead."),
    (dict(labels=[0,1]), "51 ints, one for each item. Got 2 labels instead."),
    (dict(head=foreign), "The 'head' parameter of crt must be a linear layer, or a 1×1 convolution, of the model. "
                         "Got Linear(in_features=8, out_features=4, bias=True) instead."),
    (dict(head='last'), "of the model. Got 'last' instead."),
])
def test_crt_refuses_before_anything_is_changed(kwargs, words):
    learn = image_learner()
    before,weights = surroundings(learn),cloned(learn.model)
    with pytest.raises(ValueError) as e: quiet_crt(learn, **kwargs)
    assert words in str(e.value)
    assert surroundings(learn)==before and not changed(learn.model, weights)
    with pytest.raises(ValueError, match="of the model. Got Conv2d"): quiet_crt(learn, head=learn.model[0])
    assert not changed(learn.model, weights)

def test_unreadable_labels_are_refused_before_anything_is_changed():
    learn = make_learner(Mute(20))
    weights = cloned(learn.model)
    with pytest.raises(ValueError, match='The labels of a Mute cannot be read'): quiet_crt(learn, 1)
    assert not changed(learn.model, weights)

# Where the last layer is

def head_name(model): return next(nm for nm,m in model.named_modules() if m is find_head(model))

def test_heads_of_vision_learners():
    for arch,kwargs in (fv.resnet18,{}),('mobilenetv2_050',{}),(fv.resnet18,dict(lin_ftrs=[16])):
        learn = fv.vision_learner(image_dls(size=32), arch, pretrained=False, loss_func=nn.CrossEntropyLoss(), **kwargs)
        head = find_head(learn.model)
        assert head is learn.model[-1][-1] and head.out_features==4
    before = cloned(learn.model)
    quiet_crt(learn, 1, .1)
    assert changed(learn.model, before)=={f'{head_name(learn.model)}.weight'}

@pytest.mark.parametrize('arch,name',
    [('mobilenetv2_050','classifier'), ('resnet10t','fc'), ('convnext_atto','head.fc'),
        ('efficientnet_lite0','classifier'),
    pytest.param('resnetv2_50x1_bit','head.fc', marks=pytest.mark.slow),
    pytest.param('vit_tiny_patch16_224','head', marks=pytest.mark.slow),
    pytest.param('densenet121','classifier', marks=pytest.mark.slow),
    pytest.param('swin_tiny_patch4_window7_224','head.fc', marks=pytest.mark.slow)])
def test_heads_of_timm(arch, name):
    model = timm.create_model(arch, num_classes=4)
    assert head_name(model)==name and find_head(model).weight.shape[0]==4
    rescaled = tau_normalise(model, 1.)
    close(rescaled.get_submodule(name).weight.flatten(1).norm(dim=1), torch.ones(4))

@pytest.mark.slow
@pytest.mark.parametrize('arch', ['resnetv2_50x1_bit', 'vit_tiny_patch16_224'])
def test_heads_of_timm_in_vision_learners_train(arch):
    learn = fv.vision_learner(image_dls((6,3), 224, 3), arch, pretrained=False, loss_func=nn.CrossEntropyLoss())
    head = find_head(learn.model)
    assert head is learn.model[-1][-1]
    before = cloned(learn.model)
    quiet_crt(learn, 1, .1)
    assert changed(learn.model, before)=={f'{head_name(learn.model)}.weight'}

def test_a_convolution_is_a_last_layer_too():
    net = nn.Sequential(nn.Conv2d(3,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8,4,1),
        nn.Flatten())
    learn = make_learner(image_dls(), net=net)
    before = cloned(net)
    quiet_crt(learn, 1, .1)
    assert find_head(net) is net[4] and changed(net, before)=={'4.weight','4.bias'}

def test_a_layer_may_be_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192,6), nn.ReLU(), nn.Linear(6,4), nn.BatchNorm1d(4))
    learn = make_learner(image_dls(), net=net)
    before = cloned(net)
    with pytest.raises(ValueError,
        match="The 'model' parameter of crt must be a network whose last layer with weights is linear"):
        quiet_crt(learn, 1)
    with pytest.raises(ValueError, match="The 'model' parameter of tau_normalise must be a network whose last layer"):
        tau_normalise(net)
    quiet_crt(learn, 1, .1, head=net[3])
    assert changed(net, before)=={'3.weight','3.bias'}
    # of the copy, the layer in the same place
    copy = tau_normalise(net, 1., head=net[3])
    close(copy[3].weight.norm(dim=1), torch.ones(4))
    equal(copy[1].weight, net[1].weight)

class HeadFirst(nn.Module):
    "Makes its classifier before its body, as some networks do"
    def __init__(self):
        super().__init__()
        self.head,self.body = nn.Linear(8,4),nn.Sequential(nn.Flatten(), nn.Linear(192,8), nn.Tanh())
    def forward(self, x): return self.head(self.body(x))

def weight_normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192,8), nn.Tanh(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8,4)))

@pytest.mark.parametrize('make', [HeadFirst, weight_normed])
def test_a_layer_that_does_not_make_the_classes_is_not_taken_for_the_last(make):
    learn = make_learner(image_dls(), net=make())
    before = cloned(learn.model)
    try: quiet_crt(learn, 1, .1)
    except ValueError as e: assert "The 'model' parameter of crt" in str(e)
    # found or refused: the body, whose layers have 8 outputs, is no classifier
    body = [k for k in changed(learn.model, before) if learn.model.state_dict()[k].shape[0]==8]
    assert not body

def test_of_two_classifiers_neither_is_taken():
    # DeiT answers by the mean of two heads; one alone is not its last layer
    model = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=4, depth=1)
    with pytest.raises(ValueError, match="The 'model' parameter of find_head"): find_head(model)

@pytest.mark.parametrize('model',
    [nn.Sequential(nn.Flatten()), nn.Sequential(nn.Conv2d(3,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.Linear(4,2), nn.PReLU()),
    timm.create_model('mobilenetv2_050', num_classes=0)], ids=['no weights', '3x3', 'PReLU', 'timm without head'])
def test_networks_without_such_a_layer_are_refused(model):
    with pytest.raises(ValueError,
        match="whose last layer with weights is linear or a 1×1 convolution, or `head` must name that layer. Got "):
        find_head(model)

# τ-normalisation

@pytest.mark.parametrize('tau', [0, .3, 1., 2.5])
@pytest.mark.parametrize('conv', [False, True])
def test_rows_are_divided_by_powers_of_their_length(conv, tau):
    net = nn.Sequential(nn.Conv2d(3,8,3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8,4,1),
        nn.Flatten()) if conv else conv_net()
    head = net[2] if conv else net[8]
    with torch.no_grad(): head.weight[1] = 0
    before,net.training = cloned(net),True
    w,b = head.weight.detach().numpy().astype(np.float64),head.bias.detach().numpy()
    got,kept = tau_normalise(net, tau),tau_normalise(net, tau, bias=True)
    for res,bias in (got,0*b),(kept,b):
        new = res[2] if conv else res[8]
        for k in range(4):
            length = np.sqrt(np.square(w[k]).sum())
            np.testing.assert_allclose(new.weight[k].detach().numpy(), w[k]/length**tau if k!=1 else 0*w[k], rtol=1e-5,
                atol=1e-7)
        np.testing.assert_array_equal(new.bias.detach().numpy(), bias)
        name = '2.' if conv else '8.'
        assert all(o.startswith(name) for o in changed(res, before)) and all(p.requires_grad for p in res.parameters())
    assert not changed(net, before) and got is not net
    assert head.weight.data_ptr()!=(got[2] if conv else got[8]).weight.data_ptr()
    if tau==0: assert changed(kept, before)==set() and len(changed(got, before))==1

def test_outputs_of_a_normalised_network():
    net = conv_net().eval()
    x = Images().x
    with torch.no_grad():
        z = net[:8](x)
        close(tau_normalise(net, .5)(x), torch.stack([z@(w/w.norm()**.5) for w in net[8].weight], 1))
    assert not tau_normalise(net, 1.).training
    learn = make_learner(image_dls(), net=conv_net())
    learn.model = tau_normalise(learn.model)
    quiet_fit(learn, 1)

def test_a_head_without_bias():
    net = nn.Sequential(nn.Linear(6,7), nn.Linear(7,4, bias=False))
    close(tau_normalise(net)[1].weight.norm(dim=1), torch.ones(4))

@pytest.mark.parametrize('tau', [-1, np.nan, np.inf, '1', None])
def test_tau_must_be_a_finite_number(tau):
    with pytest.raises(ValueError) as e: tau_normalise(conv_net(), tau)
    words = f"The 'tau' parameter of tau_normalise must be a float in the range [0, inf). Got {tau!r} instead."
    assert str(e.value)==words
