"""Deferred stages beside plain PyTorch loops that take every step a second time: which loss is used from which step on,
what it is for mixed batches, and what is drawn. A stage that never comes changes no bit, a fit that is resumed in its
middle ends as one that was not, and no interruption leaves anything behind."""

import pickle
import random
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from fastai.callback.core import event
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.training import GradientAccumulation
from fastai.vision import all as fv
from hypothesis import given, strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional as F
from toys import (
    Numbered,
    Points,
    Probe,
    close,
    equal,
    fixed_lams,
    generator_states,
    item_numbers,
    make_learner,
    make_net,
    params,
    quiet_fit,
    seeded_dl,
    tail_targets,
)

from fastai_balmix.callback.checkpoint import Checkpoint
from fastai_balmix.callback.deferred import Deferred, first_deferred
from fastai_balmix.callback.fitcheck import FitCheck, nominal_prior
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.classifier import CosineConv, CosineLinear, cosine_head
from fastai_balmix.losses import LDAMLoss, LogitAdjustedLoss, QWKLoss, WeightedFocalLoss, drw_weights
from fastai_balmix.metrics.learner import MCC

counts = np.array([24,12,6,3])
weight = torch.tensor([.5,1.,2.,4.])
def weighted(): return nn.CrossEntropyLoss(weight=weight)
def points(): return Points(tuple(counts))
def learner(**kwargs): return make_learner(points(), **{'drop_last':True, **kwargs}) # five batches an epoch

# --- when it begins ---

@given(st.integers(1, 500), st.floats(0, 1))
def test_a_stage_begins_with_the_nearest_epoch(n_epoch, start):
    got = first_deferred(n_epoch, start)
    if start in (0,1): assert got==start*n_epoch
    elif n_epoch==1: assert got==1
    else: assert 1<=got<n_epoch and (abs(got-start*n_epoch)<=.5+1e-9 or got in (1,n_epoch-1))

def test_published_schedule(): assert first_deferred(200)==160 # of Cao et al.

@pytest.mark.parametrize('start', [-.1, 1.01, 2, np.nan, np.inf, '0.8', None, True])
def test_a_stage_that_starts_outside_the_fit_is_refused(start):
    for call in (lambda: Deferred(q='class', start=start)), (lambda: first_deferred(10, start)):
        with pytest.raises(ValueError, match=r"'start' parameter of \w+ must be .*\[0, 1\]"): call()

# --- the loss ---

class ByHand(fv.Callback):
    "Takes every step a second time in plain PyTorch, with the loss that `loss_of` gives for epoch and batch"
    order,run_valid = 80,False
    def __init__(self, loss_of, lr=.1):
        self.loss_of,self.rate,self.steps = loss_of,lr,[]
    def before_fit(self):
        self.net = make_net()
        self.net.load_state_dict(self.learn.model.state_dict())
    def after_batch(self):
        loss = self.loss_of(self.epoch, self.net, self.learn)
        self.net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in self.net.parameters(): p -= self.rate*p.grad
        close(params(self.learn), torch.cat([p.detach().flatten() for p in self.net.parameters()]), atol=1e-5)
        close(self.learn.loss, loss.detach(), atol=1e-5)
        self.steps.append(self.epoch)

def switched(at, plain=F.cross_entropy, then=None):
    "The loss of each batch, another from epoch `at` on"
    def loss_of(epoch, net, learn):
        x,y = learn.xb[0],learn.yb[0]
        return (then if epoch>=at else plain)(net(x), y)
    return loss_of

def weighted_mean(pred, y): return (weight[y]*F.cross_entropy(pred, y, reduction='none')).sum()/weight[y].sum()

@pytest.mark.parametrize('start,at', [(.8,4), (.6,3), (0,0), (1,5), (.01,1)])
def test_every_step_has_the_loss_of_its_stage(start, at):
    hand = ByHand(switched(at, then=weighted_mean))
    learn = learner(wd=0.)
    own = learn.loss_func
    quiet_fit(learn, 5, cbs=[Deferred(loss_func=weighted(), start=start),hand])
    assert len(hand.steps)==5*len(learn.dls.train) and learn.loss_func is own

def drw(pred, y, n=counts, beta=.9999):
    "Cui's weights with a mean of 1 over the images, and a plain mean over the batch"
    w = torch.tensor((1-beta)/(1-beta**n.astype(float)))
    w = (w*n.sum()/(w*torch.tensor(n)).sum()).float()
    return (w[y]*F.cross_entropy(pred, y, reduction='none')).mean()

def test_deferred_weights_step_by_step():
    stage = Deferred(loss_func=WeightedFocalLoss(drw_weights(counts), gamma=0.))
    hand = ByHand(switched(4, then=drw))
    quiet_fit(learner(wd=0.), 5, cbs=[stage,hand])
    assert hand.steps.count(4)>2

def test_deferred_weights_are_those_of_cao_for_all_images_at_once():
    "PyTorch's weighted mean, as in their code, of the whole data set"
    y = torch.tensor(tail_targets(*counts))
    z = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(0))
    per_class = (1-.9999)/(1-.9999**counts.astype(float))
    per_class = torch.tensor(per_class/per_class.sum()*4).float()
    close(drw(z, y), F.cross_entropy(z, y, weight=per_class))

def ldam_by_hand(pred, y, w=None):
    "Margins ∝ n^(-1/4), at most 0.5, and s = 30, as in the paper's algorithm 1"
    m = torch.tensor(1/np.sqrt(np.sqrt(counts))).float()
    m = m*(.5/m.max())
    z = pred.clone()
    for i,k in enumerate(y.tolist()): z[i,k] = pred[i,k]-m[k]
    each = -torch.log_softmax(30*z, 1)[torch.arange(len(y)),y]
    return (each if w is None else w[y]*each).mean()

def test_margins_step_by_step():
    w = torch.tensor(drw_weights(counts)).float()
    hand = ByHand(switched(4, ldam_by_hand, lambda pred,y: ldam_by_hand(pred, y, w)), lr=.01)
    learn = learner(wd=0., lr=.01, loss_func=LDAMLoss(counts))
    with learn.no_bar(), learn.no_logging():
        learn.fit(5, cbs=[Deferred(loss_func=LDAMLoss(counts, weight=w)),hand])
    assert hand.steps.count(4)>2

def test_cosines_step_by_step():
    "A network whose last layer gives cosines takes the steps of one that is written out"
    class Written(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.body,self.w = net[:3],nn.Parameter(net[3].weight.detach()/net[3].weight.detach().norm(dim=1)[:,None])
        def forward(self, x):
            h = self.body(x)
            return (h/h.norm(dim=1)[:,None])@(self.w/self.w.norm(dim=1)[:,None]).T
    plain = make_net()
    ours,theirs = cosine_head(plain),Written(make_net())
    assert type(ours[3]) is CosineLinear and ours[3].bias is None and type(plain[3]) is nn.Linear
    opts = [torch.optim.SGD(m.parameters(), .01, momentum=.9, weight_decay=.01) for m in (ours,theirs)]
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        x,y = torch.randn(8, 6, generator=rng),torch.randint(4, (8,), generator=rng)
        for net,opt,loss in zip((ours,theirs), opts, (LDAMLoss(counts),ldam_by_hand)):
            opt.zero_grad()
            loss(net(x), y).backward()
            opt.step()
        close(ours(x), theirs(x))
    conv = cosine_head(nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1), nn.Flatten()))
    out = conv(torch.randn(2, 3, 8, 8))
    assert type(conv[2]) is CosineConv and out.shape==(2,4) and out.abs().max()<=1

# --- mixed batches ---

@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('own', [F.cross_entropy, weighted_mean])
def test_mixing_goes_on_with_the_loss_of_the_stage(per_item, own):
    "With one λ a batch the two losses are mixed, with a λ for each pair all are summed and divided by mixed weights"
    def by_hand(epoch, pred, y, y1, lam):
        w = weight if epoch>=2 else torch.ones(4)
        lam = torch.as_tensor(lam)
        if lam.ndim==0:
            loss = weighted_mean if epoch>=2 else F.cross_entropy
            return (1-lam)*loss(pred, y) + lam*loss(pred, y1)
        each = [w[o]*F.cross_entropy(pred, o, reduction='none') for o in (y,y1)]
        return ((1-lam)*each[0]+lam*each[1]).sum()/((1-lam)*w[y]+lam*w[y1]).sum()
    seen = []
    class Check(fv.Callback):
        order,run_valid = 5,False
        def after_loss(self):
            mix = self.learn.balanced_mix_up
            y1 = self.yb[0] if mix.yb1 is None else mix.yb1[0]
            want = by_hand(self.epoch, self.pred, self.yb[0], y1, mix.lam)
            close(self.loss_grad, want)
            close(mix.loss(self.pred), want)
            seen.append(self.epoch)
    with fixed_lams(.4, 0., .2):
        quiet_fit(learner(), 3, cbs=[BalancedMixUp(per_item=per_item, seed=0),Deferred(loss_func=weighted()),Check()])
    assert {*seen}=={0,1,2}

def test_remix_goes_on_and_ends():
    for mix in True,False:
        seen = []
        probe = Probe(lambda o: seen.append((o.epoch,o.remix.yb1 is not None)), 'after_loss')
        quiet_fit(learner(), 3, cbs=[Remix(seed=0),Deferred(loss_func=weighted(), mix=mix),probe])
        assert {*seen}=={(0,True),(1,True),(2,mix)}

@pytest.mark.parametrize('make', [weighted, lambda: WeightedFocalLoss(weight, gamma=0.)])
def test_the_loss_of_a_stage_under_mixup_of_fastai(make):
    "The sum over pairs, divided by what the loss's own mean counts their labels as"
    plain_mean = not isinstance(make(), nn.CrossEntropyLoss)
    seen = []
    class Check(fv.Callback):
        order,run_valid = 5,False
        def after_loss(self):
            mix = self.learn.mix_up
            y,y1,lam = self.yb[0],mix.yb1[0],1-mix.lam
            w = weight if self.epoch>=2 else torch.ones(4)
            each = [w[o]*F.cross_entropy(self.pred, o, reduction='none') for o in (y,y1)]
            total = len(y) if plain_mean else ((1-lam)*w[y]+lam*w[y1]).sum()
            close(self.loss_grad, ((1-lam)*each[0]+lam*each[1]).sum()/total)
            seen.append(self.epoch)
    learn = learner(loss_func=fv.CrossEntropyLossFlat())
    own = learn.loss_func
    quiet_fit(learn, 3, cbs=[MixUp(.4),Deferred(loss_func=make()),Check()])
    assert {*seen}=={0,1,2} and learn.loss_func is own

def test_a_loss_of_mixed_labels():
    "One that takes distributions gets the mixed labels in its stage"
    seen = []
    class Check(fv.Callback):
        order,run_valid = 5,False
        def after_loss(self):
            mix,k = self.learn.balanced_mix_up,torch.eye(4)
            y1 = self.yb[0] if mix.yb1 is None else mix.yb1[0]
            if self.epoch==2: close(self.loss_grad, QWKLoss()(self.pred, (1-mix.lam)*k[self.yb[0]]+mix.lam*k[y1]))
            seen.append(self.epoch)
    with fixed_lams(.4, .2): quiet_fit(learner(), 3, cbs=[BalancedMixUp(seed=0),Deferred(loss_func=QWKLoss()),Check()])
    assert {*seen}=={0,1,2}

def test_gradients_accumulate_as_those_of_the_loss():
    "Two batches of 4 in one step are the step of their mean loss"
    def fit(*cbs, bs):
        learn = make_learner(Points((24,12,8,4)), bs=bs)
        return params(quiet_fit(learn, 2, cbs=[Deferred(loss_func=WeightedFocalLoss(weight)),*cbs]))
    close(fit(GradientAccumulation(8), bs=4), fit(bs=8), atol=1e-4)

# --- what is drawn ---

class Items(fv.Callback):
    "Numbers of the items of each epoch"
    order,run_valid = 1,False
    def __init__(self): self.epochs = []
    def before_train(self): self.epochs.append([])
    def before_batch(self): self.epochs[-1] += item_numbers(self.xb[0])

def drawn(stage, n_epoch=5, size=(400,120,30,10), wrap=None):
    ds = Numbered(tail_targets(*size), (6,))
    items = Items()
    quiet_fit(make_learner(ds, bs=16, lr=0., wrap=wrap), n_epoch, cbs=[stage,items])
    return items.epochs,np.asarray(ds.targets)

@pytest.mark.parametrize('q,exponent', [('class',0), ('sqrt',.5), (.25,.25)])
def test_a_stage_draws_with_its_exponent(q, exponent):
    epochs,y = drawn(Deferred(q=q, start=.4, seed=1))
    for epoch in epochs[:2]: assert sorted(epoch)==[*range(560)]
    n = np.array([400,120,30,10])
    got = np.bincount(y[np.concatenate(epochs[2:])], minlength=4)
    assert stats.chisquare(got, got.sum()*n**exponent/(n**exponent).sum()).pvalue>1e-4
    assert len({tuple(o) for o in epochs})==5

def test_draws_follow_from_the_seed():
    a,b,c = (drawn(Deferred(q='class', seed=s))[0] for s in (1,1,2))
    assert a==b and a[:4]==c[:4] and a[4]!=c[4]

def test_partners_are_drawn_apart_from_the_items_of_the_stage():
    "By the same random numbers each item would be its own partner"
    pairs = []
    class Pairs(fv.Callback):
        order,run_valid = BalancedMixUp.order-1,False # before the batch is mixed
        def before_batch(self): pairs.extend(zip(*np.split(np.array(item_numbers(self.xb[0])), 2)))
    learn = make_learner(Numbered(tail_targets(60, 20, 8), (6,)), bs=8, lr=0.)
    quiet_fit(learn, 3, cbs=[Deferred(q='class', start=0, seed=0),BalancedMixUp(5., per_item=True, seed=0),Pairs()])
    # by chance 6 %
    assert len(pairs)>200 and np.mean([a==b for a,b in pairs])<.15

@pytest.mark.parametrize('cb', [Deferred(q='class', seed=0), ProgressiveSampling(seed=0)])
def test_lr_find_tries_all_rates_on_the_same_draws(cb):
    seen,ds = [],Numbered(tail_targets(400, 40, 20, 10), (6,))
    class Looks(fv.Callback):
        order,run_valid = 1,False
        def before_batch(self): seen.extend(self.yb[0].tolist())
    learn = make_learner(ds, bs=16, lr=0., cbs=[cb,Looks()])
    with warnings.catch_warnings(action='error', category=UserWarning), learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=100, show_plot=False)
    last = np.bincount(seen[-640:], minlength=4)
    assert stats.chisquare(last, 640*np.array([400,40,20,10])/470).pvalue>1e-4

def test_the_first_stage_may_be_weighted_too():
    epochs,y = drawn(Deferred(q='instance', seed=1), wrap=lambda dls: dls.weighted('class', seed=0))
    got = [np.bincount(y[o], minlength=4) for o in epochs]
    n = np.array([400,120,30,10])
    assert stats.chisquare(sum(got[:4]), [560]*4).pvalue>1e-4
    assert stats.chisquare(got[4], n).pvalue>1e-4

def test_validation_is_as_it_was():
    "Neither its items nor its loss belong to the stage"
    def rows(*cbs):
        learn = make_learner(points(), lr=0., metrics=MCC())
        quiet_fit(learn, 5, cbs=cbs)
        return np.array([row[1:] for row in learn.recorder.values])
    np.testing.assert_array_equal(rows(), rows(Deferred(q='class', loss_func=weighted(), seed=0)))

def test_a_validation_inside_the_stage_changes_nothing():
    def fit(*cbs):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            stage = Deferred(q='class', loss_func=weighted(), mix=False, seed=0)
            return params(quiet_fit(learner(), 4, cbs=[BalancedMixUp(seed=0),stage,*cbs]))
    class Inside(fv.Callback):
        order,run_valid = 30,False
        def after_batch(self):
            if self.iter==2: seen.append((self.epoch,*self.learn.validate(),self.learn.get_preds()[0].sum().item()))
    seen = []
    equal(fit(), fit(Inside()))
    assert len(seen)==4

# --- limits ---

def everything(**kwargs): return Deferred(q='class', loss_func=weighted(), mix=False, **kwargs)

@pytest.mark.parametrize('seed', [None, 3])
@pytest.mark.parametrize('mixer', [None, BalancedMixUp, Remix])
def test_a_start_of_1_is_no_deferral(mixer, seed):
    "Bit for bit, global generators included"
    def fit(*cbs):
        fv.set_seed(2)
        learn = learner()
        quiet_fit(learn, 3, cbs=[*([] if mixer is None else [mixer(seed=0)]),*cbs])
        return params(learn),generator_states()
    plain,same = fit(),fit(everything(start=1, seed=seed))
    equal(plain[0], same[0])
    assert plain[1]==same[1]
    assert not torch.equal(plain[0], fit(everything(seed=seed))[0])

def test_until_its_stage_a_fit_is_the_plain_one():
    def at_epochs(*cbs):
        fv.set_seed(2)
        probe = Probe(params, 'after_epoch', run_valid=True)
        quiet_fit(learner(), 5, cbs=[*cbs,probe])
        return probe.seen
    plain,staged = at_epochs(),at_epochs(everything(seed=3))
    for a,b in zip(plain[:4], staged[:4]): equal(a, b)
    assert not torch.equal(plain[4], staged[4])

def test_a_stage_from_the_start_is_that_training():
    "The loss alone: a fit with that loss. The draws alone, from another generator: no fit of instance sampling."
    def fit(loss, *cbs): return params(quiet_fit(learner(loss_func=loss), 3, cbs=cbs))
    equal(fit(nn.CrossEntropyLoss(), Deferred(loss_func=weighted(), start=0)), fit(weighted()))

def test_a_fit_of_one_epoch_says_that_there_is_no_stage():
    with pytest.warns(UserWarning, match='Deferred: the fit has one epoch, so the deferred stage never begins'):
        got = params(quiet_fit(learner(), 1, cbs=everything(seed=0)))
    equal(got, params(quiet_fit(learner(), 1)))

# --- resumed ---

class Killed(Exception): pass

class Kill(fv.Callback):
    "Ends a fit in the middle of an epoch, as though the machine had been switched off"
    order = 66
    def __init__(self, epoch): self.at = epoch
    def before_batch(self):
        if self.epoch==self.at and self.training and self.iter==2: raise Killed('now')

@pytest.mark.parametrize('mixer', [None, lambda: BalancedMixUp(seed=0), lambda: BalancedMixUp(per_item=True, seed=0),
                                   lambda: Remix(seed=0)], ids=['none','batch','pair','remix'])
def test_a_resumed_fit_is_the_unbroken_one(mixer, tmp_path):
    "Killed before the stage, at its first epoch, and in the middle of it"
    def fit(path, *cbs):
        fv.set_seed(2)
        learn = learner(metrics=MCC())
        mixers = [] if mixer is None else [mixer()]
        quiet_fit(learn, 6, cbs=[*mixers,everything(start=.5, seed=3),Checkpoint(path),*cbs])
        return learn
    whole = fit(tmp_path/'whole.pth')
    for epoch in 2,3,5:
        path = tmp_path/f'{epoch}.pth'
        with pytest.raises(Killed): fit(path, Kill(epoch))
        equal(params(fit(path)), params(whole))

def test_a_file_of_another_stage_is_refused(tmp_path):
    def fit(path, **kwargs):
        return quiet_fit(learner(), 3, cbs=[Deferred(**{'q':'class', 'seed':0, **kwargs}),Checkpoint(path)])
    for i,other in enumerate([dict(start=.5), dict(q='sqrt'), dict(seed=1), dict(loss_func=weighted())]):
        path = tmp_path/f'{i}.pth'
        fit(path)
        with pytest.raises(ValueError, match='of a fit with another Deferred'): fit(path, **other)

# --- interrupted ---

in_training = [o for o in vars(event) if o.startswith(('before','after')) and 'cancel' not in o and 'create' not in o]

class Interrupt(fv.Callback):
    "Raises in one event, of the last epoch"
    def __init__(self, name, error, order):
        self.order,self.error = order,error
        setattr(self, name, self._stop)
    def _stop(self):
        if self.epoch==2 or not hasattr(self, 'epoch'): raise self.error

def again(learn, cbs):
    "Weights after a fit from the start"
    learn.model.load_state_dict(make_net().state_dict())
    learn.model.zero_grad()
    learn.opt = None
    learn.dls.train.rng = random.Random(0)
    fv.set_seed(1)
    return params(quiet_fit(learn, 3, cbs=cbs))

@pytest.fixture(scope='module')
def fresh():
    "Fits of learners that nobody has interrupted"
    def mix(): return BalancedMixUp(seed=0)
    return [again(learner(), cbs) for cbs in ([mix(),everything(seed=3)], [mix()], [])]

interrupts = [(name,KeyboardInterrupt(),order) for name in in_training for order in (-8,95)]
for name in 'before_train','before_batch','after_loss','after_batch','before_validate','after_epoch':
    interrupts += [(name,RuntimeError('stopped'),-8), (name,fv.CancelFitException(),95)]

@pytest.mark.thinned(12)
@pytest.mark.parametrize('name,error,order', interrupts)
def test_nothing_is_left_of_a_fit_that_was_interrupted(name, error, order, fresh):
    "Neither loss nor loaders; and the next fit, with or without a stage, is that of a fresh learner"
    learn = learner()
    own,dls,train = learn.loss_func,learn.dls,learn.dls.train
    mix,stage = BalancedMixUp(seed=0),everything(seed=3)
    with suppress(KeyboardInterrupt,RuntimeError): quiet_fit(learn, 3, cbs=[mix,stage,Interrupt(name, error, order)])
    assert learn.loss_func is own and learn.dls is dls and learn.dls.train is train
    assert not any(isinstance(cb, Deferred) for cb in learn.cbs)
    for cbs,want in zip(([mix,stage],[mix],[]), fresh): equal(again(learn, cbs), want)

# --- the prior ---

def test_nominal_priors_are_those_of_the_stage():
    dls = fv.DataLoaders(seeded_dl(points()), seeded_dl(points(), shuffle=False))
    p,even,root = counts/counts.sum(),np.full(4, .25),np.sqrt(counts)/np.sqrt(counts).sum()
    def prior(*cbs): return nominal_prior(dls, *cbs)
    mix = BalancedMixUp(1.)
    np.testing.assert_allclose(prior(Deferred(q='class')), even)
    np.testing.assert_allclose(prior(Deferred(q='class', start=1)), p)
    np.testing.assert_allclose(prior(Deferred(q='sqrt')), root)
    np.testing.assert_allclose(prior(mix, Deferred(mix=False)), p)
    np.testing.assert_allclose(prior(mix, Deferred(mix=False, start=1)), (p+even)/2)
    np.testing.assert_allclose(prior(mix, Deferred(q='sqrt')), (root+even)/2)
    np.testing.assert_allclose(prior(mix, Deferred(q='sqrt', mix=False)), root)
    np.testing.assert_allclose(prior(Remix(), Deferred(mix=False)), p)
    with pytest.raises(ValueError, match='Got Remix'): prior(Remix(), Deferred(q='class'))

def warnings_of(*cbs, loss_func=None, wrap=None):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        learn = make_learner(points(), loss_func, wrap=wrap)
        learn.remove_cbs([o for o in learn.cbs if isinstance(o, FitCheck)]) # `fastai_balmix.all` adds one
        quiet_fit(learn, 3, cbs=[*cbs,FitCheck()])
    return [str(o.message) for o in heard if 'corrected twice' in str(o.message)]

def balanced(dls): return dls.weighted('class', seed=0)
def adjusted(prior): return LogitAdjustedLoss(prior)

@pytest.mark.parametrize('stage,kwargs,by', [
    (dict(q='class', loss_func=weighted()), {}, "Deferred(q='class') in the sampling, class weights"),
    (dict(q='class'), dict(loss_func=weighted()), "Deferred(q='class') in the sampling, class weights"),
    (dict(q='sqrt'), dict(loss_func=adjusted([.25,.25,.3,.2])), "Deferred(q='sqrt') in the sampling, logit"),
    (dict(loss_func=weighted()), dict(wrap=balanced), "dls.weighted('class') in the sampling, class weights"),
    (dict(loss_func=nn.CrossEntropyLoss()), dict(wrap=balanced, loss_func=weighted()), "dls.weighted('class')")])
def test_a_prior_that_a_stage_corrects_twice_is_warned_of(stage, kwargs, by):
    heard = warnings_of(Deferred(seed=0, **stage), **kwargs)
    assert len(heard)==1 and by in heard[0]

@pytest.mark.parametrize('stage,kwargs', [
    (dict(q='class'), {}), (dict(loss_func=weighted()), {}), (dict(q='class', start=1), dict(loss_func=weighted())),
    (dict(q='class', loss_func=nn.CrossEntropyLoss()), dict(loss_func=weighted())), # one after the other
    (dict(q='instance', loss_func=weighted()), dict(wrap=balanced)),
    (dict(q='instance', start=0), dict(wrap=balanced, loss_func=weighted())), # there is no first stage
    (dict(q='sqrt', loss_func=adjusted(np.sqrt(counts)/np.sqrt(counts).sum())), {})]) # for what the draws leave
def test_a_prior_that_is_corrected_once_is_not_warned_of(stage, kwargs):
    assert not warnings_of(Deferred(seed=0, **stage), **kwargs)

def test_mixing_that_has_ended_corrects_nothing():
    loss = weighted()
    assert not warnings_of(BalancedMixUp(seed=0), Deferred(loss_func=loss, mix=False))
    assert len(warnings_of(BalancedMixUp(seed=0), Deferred(loss_func=loss)))==1

# --- bad input ---

@pytest.mark.parametrize('kwargs,words', [
    ({}, 'Deferred needs something that changes: `q`, `loss_func` or `mix=False`, but has none.'),
    (dict(q='balanced'), "The 'q' parameter of Deferred must be a float or one of 'instance', 'sqrt', 'class'."),
    (dict(loss_func=3), "The 'loss_func' parameter of Deferred must be a loss, or None for that of the learner. Got 3"),
    (dict(loss_func=nn.CrossEntropyLoss), "The 'loss_func' parameter of Deferred must be a loss"),
    (dict(mix=0), "The 'mix' parameter of Deferred must be True or False. Got 0 instead."),
    (dict(q='class', seed=.5), "The 'seed' parameter of Deferred must be an int")])
def test_bad_arguments_are_refused_at_once(kwargs, words):
    with pytest.raises(ValueError) as e: Deferred(**kwargs)
    assert words in str(e.value)

@pytest.mark.parametrize('stage,other,words', [
    (dict(q='class'), lambda: Deferred(mix=False), 'Deferred cannot be combined with another Deferred'),
    (dict(q='class'), ProgressiveSampling, 'Deferred with `q` cannot be combined with ProgressiveSampling'),
    (dict(mix=False), MixUp, "Deferred cannot end the mixing of fastai's MixUp."),
    (dict(mix=False), CutMix, "Deferred cannot end the mixing of fastai's CutMix.")])
def test_callbacks_that_do_not_combine(stage, other, words):
    learn = learner()
    before = params(learn)
    with pytest.raises(ValueError) as e: quiet_fit(learn, 3, cbs=[Deferred(**stage),other()])
    assert words in str(e.value)
    equal(params(learn), before)

def test_labels_that_cannot_be_read():
    class Bare(torch.utils.data.Dataset):
        def __len__(self): return 16
        def __getitem__(self, i): return torch.zeros(6),torch.tensor(i%4).numpy()
    learn = make_learner(Bare())
    with pytest.raises(ValueError, match='Deferred'): quiet_fit(learn, 3, cbs=Deferred(q='class', labels=[0]))
    quiet_fit(learn, 3, cbs=Deferred(q='class', labels=[i%4 for i in range(16)], seed=0))

def quiet_again(learn):
    fv.set_seed(0)
    return quiet_fit(learn, 3)

def test_a_stage_is_pickled_with_its_learner():
    learn = learner(cbs=[BalancedMixUp(seed=0),everything(seed=3)])
    quiet_fit(learn, 3)
    other = pickle.loads(pickle.dumps(learn))
    fv.set_seed(0)
    equal(params(quiet_fit(learn, 3)), params(quiet_again(other)))
