"""The mixed loss beside formulas written out by hand: how sums over pairs are divided, and `loss` of a callback for
whoever runs the network again on a mixed batch, such as SAM and R-Drop."""

import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from fastai.basics import (
    BCEWithLogitsLossFlat,
    Callback,
    CancelBatchException,
    CrossEntropyLossFlat,
    deepcopy,
)
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation
from fastai.losses import FocalLossFlat, LabelSmoothingCrossEntropyFlat
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from toys import Numbered, Probe, close, fixed_lams, make_learner, make_net, params, quiet_fit

from fastai_balmix.callback.mixup import BalancedMixUp, MixedLoss
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.losses import ClassBalancedLoss, LogitAdjustedLoss, WeightedFocalLoss

W = torch.tensor([.5,1.,3.,9.], dtype=torch.float64)
w = W.float()
PRIOR = torch.tensor([.6,.2,.15,.05], dtype=torch.float64)
NO_1 = torch.tensor([1.,0.,1.,1.], dtype=torch.float64)
ONE = torch.ones(4, dtype=torch.float64)

# --- the loss of an item, written out: logits (B,4) and classes (B,) ---

def nll(z, y): return z.logsumexp(1)-z[torch.arange(len(y)),y]
def weighted(z, y): return W[y]*nll(z, y)
def smooth(z, y): return .9*weighted(z, y) + .1/4*sum(W[k]*nll(z, torch.full_like(y, k)) for k in range(4))
def focal(z, y): return W[y]*(1-torch.exp(-nll(z, y)))**2*nll(z, y)
def fastai_focal(z, y): return (1-torch.exp(-weighted(z, y)))**2*weighted(z, y)
def adjusted(z, y): return nll(z+PRIOR.log(), y)

# The loss, the loss of its items, and what its mean counts an item of each class as; None where it is a sum
losses = {
    'plain': (nn.CrossEntropyLoss, nll, ONE),
    'weights': (partial(nn.CrossEntropyLoss, weight=w), weighted, W),
    'weights, flat': (partial(CrossEntropyLossFlat, weight=w), weighted, W),
    'weights, function': (lambda: partial(F.cross_entropy, weight=w), weighted, W),
    'a weight of 0': (partial(nn.CrossEntropyLoss, weight=w*NO_1.float()), lambda z, y: NO_1[y]*weighted(z, y), W*NO_1),
    'smoothing, weights': (partial(nn.CrossEntropyLoss, weight=w, label_smoothing=.1), smooth, W),
    'fastai focal, weights': (partial(FocalLossFlat, weight=w), fastai_focal, ONE),
    'focal, weights': (partial(WeightedFocalLoss, w), focal, ONE),
    'class-balanced': (partial(ClassBalancedLoss, [28,14,6,3], beta=0.), nll, ONE),
    'logit adjustment': (partial(LogitAdjustedLoss, PRIOR), adjusted, ONE),
    'ignored': (partial(nn.CrossEntropyLoss, ignore_index=1), lambda z, y: NO_1[y]*nll(z, y), NO_1),
    'ignored, weights': (partial(nn.CrossEntropyLoss, weight=w, ignore_index=1),
        lambda z, y: NO_1[y]*weighted(z, y), W*NO_1),
    'sum': (partial(nn.CrossEntropyLoss, reduction='sum'), nll, None),
    'sum, weights': (partial(nn.CrossEntropyLoss, weight=w, reduction='sum'), weighted, None),
    'sum, function': (lambda: partial(F.cross_entropy, weight=w, reduction='sum'), weighted, None),
    'sum, ours': (partial(WeightedFocalLoss, w, reduction='sum'), focal, None)}

def by_hand(items, d, z, y, y1, lam):
    "DESIGN's sum and divisor"
    total = ((1-lam)*items(z, y) + lam*items(z, y1)).sum()
    return total if d is None else total/((1-lam)*d[y] + lam*d[y1]).sum()

class ByHand(Callback):
    "Compares loss and gradient at the outputs of the network, in float64"
    order,run_valid = 90,False
    def __init__(self, items, d):
        self.items,self.d,self.seen = items,d,[]

    def after_pred(self): self.learn.pred.retain_grad()
    def after_backward(self):
        cb = next(o for o in self.learn.cbs if isinstance(o, MixedLoss))
        if cb.yb1 is None: return
        z = self.learn.pred.detach().double().requires_grad_()
        lam = torch.as_tensor(cb.lam_y, dtype=torch.float64)
        loss = by_hand(self.items, self.d, z, self.learn.yb[0], cb.yb1[0], lam)
        loss.backward()
        close(self.learn.loss, loss, atol=0, rtol=1e-5)
        close(self.learn.pred.grad, z.grad, atol=1e-6*z.grad.abs().max())
        self.seen.append(loss.item())

@pytest.mark.thinned
@pytest.mark.parametrize('mixes', [partial(BalancedMixUp, 1., per_item=True), Remix], ids=['BalancedMixUp', 'Remix'])
@pytest.mark.parametrize('name', losses)
def test_sums_over_pairs_are_divided_by_what_the_loss_s_own_mean_counts(name, mixes):
    make,items,d = losses[name]
    check,loss_func = ByHand(items, d),make()
    learn = make_learner(loss_func=loss_func)
    quiet_fit(learn, 2, [mixes(seed=0),check])
    assert len(check.seen)==14 and len({*check.seen})==14
    assert getattr(loss_func, 'reduction', 'mean') in ('mean','sum')

@pytest.mark.parametrize('name', ['plain', 'weights', 'weights, flat', 'weights, function', 'ignored, weights'])
def test_an_undecided_network_loses_the_logarithm_of_the_number_of_classes(name):
    net,probe = make_net(),Probe(lambda learn: learn.loss.item())
    for p in net[-1].parameters(): p.data.zero_()
    for mixes in BalancedMixUp(1., per_item=True, seed=0),Remix(seed=0):
        quiet_fit(make_learner(net=net, loss_func=losses[name][0](), lr=0.), 2, [mixes,probe])
    close(probe.seen, [math.log(4)]*28)

def test_a_loss_with_two_divisors_is_met_where_the_network_is_undecided_and_nearly_elsewhere():
    "fastai's smoothing divides one part by the number of items, and the other by the weights of their classes"
    loss_func,far = LabelSmoothingCrossEntropyFlat(weight=w),[]
    def exact(z, y, y1, lam):
        rows = torch.stack([nll(z, torch.full_like(y, k)) for k in range(4)]).mean(0)
        first,second = (1-lam)*weighted(z, y),lam*weighted(z, y1)
        return .1*rows.mean() + .9*(first+second).sum()/((1-lam)*W[y] + lam*W[y1]).sum()
    def compare(learn):
        cb,z = learn.cbs[-2],learn.pred.detach().double()
        expected = exact(z, learn.yb[0], cb.yb1[0], torch.as_tensor(cb.lam_y, dtype=torch.float64))
        far.append(learn.loss.item()/expected.item()-1)
    for scale in 0,1,10:
        far.clear()
        net = make_net()
        for p in net[-1].parameters(): p.data *= scale
        quiet_fit(make_learner(loss_func=loss_func, net=net, lr=0.), 9, [Remix(seed=0),Probe(compare)])
        assert len(far)==63 and np.abs(far).max() < {0:1e-6, 1:.05, 10:.2}[scale], np.abs(far).max()

class Several(Numbered):
    "Items with rows of three labels, some without any"
    def __init__(self):
        gen = torch.Generator().manual_seed(0)
        super().__init__((torch.rand(40, 3, generator=gen)<.3).float())
        self.x = torch.randn(40, 6, generator=gen)
    def __getitem__(self, i): return self.x[i],self.targets[i]

class BatchMean(nn.Module):
    "Adds up the outputs of an item, and takes the mean over items"
    reduction = 'mean'
    def forward(self, pred, targ):
        each = F.binary_cross_entropy_with_logits(pred, targ, reduction='none')
        return each if self.reduction=='none' else each.sum(1).mean()

@pytest.mark.parametrize('loss_func,divisor', [(BCEWithLogitsLossFlat(), 24), (nn.BCEWithLogitsLoss(), 24),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.,2.,5.])), 24), (nn.BCEWithLogitsLoss(reduction='sum'), 1),
    (nn.MultiLabelSoftMarginLoss(), 8), (BatchMean(), 8)])
def test_labels_of_which_an_item_may_have_several(loss_func, divisor):
    pos = getattr(loss_func, 'pos_weight', None)
    each = partial(F.binary_cross_entropy_with_logits, reduction='none', pos_weight=pos)
    def compare(learn):
        cb,pred = learn.balanced_mix_up,learn.pred.detach()
        mixed = torch.lerp(each(pred, learn.yb[0]), each(pred, cb.yb1[0]), cb.lam[:,None]).sum()
        values = 3 if isinstance(loss_func, nn.MultiLabelSoftMarginLoss) else 1 # it takes a mean of its own
        return learn.loss.item(),mixed.item()/divisor/values
    probe = Probe(compare)
    learn = make_learner(Several(), loss_func, net=make_net(n_out=3))
    quiet_fit(learn, 2, [BalancedMixUp(1., per_item=True, seed=0),probe])
    got,expected = zip(*probe.seen)
    close(got, expected)

# --- whoever runs the network again ---

class SAM(Callback):
    "The gradient at the worst point within `rho`; `cb` is the callback that mixes"
    run_valid = False
    def __init__(self, cb, rho=.05): self.cb,self.rho = cb,rho

    def before_step(self):
        ps = [p for p in self.model.parameters() if p.grad is not None]
        length = torch.stack([p.grad.norm() for p in ps]).norm()
        moves = [self.rho/length*p.grad for p in ps]
        with torch.no_grad():
            for p,move in zip(ps, moves): p += move
        self.opt.zero_grad()
        self.cb.loss(self.model(*self.xb)).backward()
        with torch.no_grad():
            for p,move in zip(ps, moves): p -= move

class RDrop(Callback):
    "Two passes with different dropout, and the distance between them"
    run_valid = False
    def __init__(self, cb, weight=.5): self.cb,self.weight = cb,weight

    def after_loss(self):
        again = self.model(*self.xb)
        p,q = self.learn.pred.log_softmax(1),again.log_softmax(1)
        apart = (F.kl_div(p, q, log_target=True, reduction='batchmean') +
                 F.kl_div(q, p, log_target=True, reduction='batchmean'))/2
        self.learn.loss_grad = (self.cb.loss(self.learn.pred)+self.cb.loss(again))/2 + self.weight*apart
        self.learn.loss = self.learn.loss_grad.clone()

def soft_loss(z, soft): return -(soft*z.log_softmax(1)).sum(1).mean()

class Replayed(nn.Module):
    "Dropout by masks that are drawn in the order of the passes, the same for two networks"
    def __init__(self):
        super().__init__()
        self.n = 0
    def forward(self, x):
        if not self.training: return x
        self.n += 1
        gen = torch.Generator().manual_seed(self.n)
        return x*(torch.rand(x.shape, generator=gen)<.7).to(x)/.7

def dropping():
    net = make_net()
    net[2] = Replayed()
    return net

class PlainLoop(Callback):
    "Takes every step a second time in plain PyTorch and float64, with mixed labels as rows of shares"
    order,run_valid = 91,False
    def __init__(self, cb, step, n_acc=1):
        self.cb,self.step,self.n_acc = cb,step,n_acc
        self.lams,self.n = [],0

    def before_fit(self):
        self.net = deepcopy(self.model).double().train()
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=.1)

    def before_backward(self):
        hot = torch.eye(4, dtype=torch.float64)
        lam = torch.as_tensor(self.cb.lam, dtype=torch.float64).reshape(-1,1)
        y = self.learn.yb[0]
        y1 = y if self.cb.yb1 is None else self.cb.yb1[0]
        self.batch = self.learn.xb[0].double(),(1-lam)*hot[y] + lam*hot[y1]
        self.lams.append(lam)

    def after_batch(self):
        self.step(self.net, *self.batch)
        self.n += 1
        if self.n%self.n_acc==0:
            self.sgd.step()
            self.sgd.zero_grad()
        for p,q in zip(self.model.parameters(), self.net.parameters(), strict=True): close(p, q)

def plain_sam(net, x, soft, rho=.05):
    soft_loss(net(x), soft).backward()
    ps = [*net.parameters()]
    here = [p.detach().clone() for p in ps]
    length = sum((p.grad**2).sum() for p in ps)**.5
    for p in ps: p.data += rho*p.grad/length
    net.zero_grad()
    soft_loss(net(x), soft).backward()
    for p,before in zip(ps, here): p.data.copy_(before)

def plain_rdrop(net, x, soft, weight=.5, share=1.):
    a,b = net(x),net(x)
    p,q = a.softmax(1),b.softmax(1)
    apart = ((p*(p/q).log()).sum() + (q*(q/p).log()).sum())/2/len(x)
    (((soft_loss(a, soft)+soft_loss(b, soft))/2 + weight*apart)*share).backward()

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('recipe,plain', [(SAM, plain_sam), (RDrop, plain_rdrop)])
def test_recipes_take_the_steps_of_a_plain_loop(recipe, plain, per_item):
    cb = BalancedMixUp(.4, per_item=per_item, seed=3)
    loop = PlainLoop(cb, plain)
    learn = make_learner(net=dropping())
    start = params(learn)
    quiet_fit(learn, 4, [cb,recipe(cb),loop])
    assert len(loop.lams)==28 and (torch.cat(loop.lams)==0).any() and (torch.cat(loop.lams)>.2).any()
    assert (params(learn)-start).abs().max()>.01

@pytest.mark.filterwarnings('error')
def test_r_drop_with_accumulated_gradients():
    cb = BalancedMixUp(.4, seed=3)
    loop = PlainLoop(cb, partial(plain_rdrop, share=8/16), n_acc=2)
    quiet_fit(make_learner(net=dropping(), drop_last=True), 4, [cb,RDrop(cb),GradientAccumulation(16),loop])

@pytest.mark.parametrize('mixes', [partial(BalancedMixUp, .3), partial(BalancedMixUp, .3, per_item=True), Remix,
    partial(BalancedMixUp, 0)])
@pytest.mark.parametrize('name', ['plain', 'weights', 'sum, weights'])
def test_the_loss_of_the_learner_s_own_prediction_is_the_learner_s(name, mixes):
    def compare(learn):
        cb = learn.cbs[-2]
        assert learn.loss_func is loss_func
        trained = learn.pred.grad.clone()
        own = torch.autograd.grad(cb.loss(learn.pred), learn.pred, retain_graph=True)[0]
        return torch.equal(cb.loss(learn.pred), learn.loss),torch.equal(own, trained)
    loss_func = losses[name][0]()
    probe,learn = Probe(compare, 'after_backward'),make_learner(loss_func=loss_func)
    retain = Callback(before_backward=lambda self: self.learn.pred.retain_grad())
    learn._backward = lambda: learn.loss_grad.backward(retain_graph=True)
    quiet_fit(learn, 2, [retain,mixes(seed=0),probe])
    assert len(probe.seen)==14 and all(map(all, probe.seen))

def test_in_validation_the_loss_is_plain_and_outside_of_a_batch_an_error():
    words = r'BalancedMixUp needs a current batch for `loss\(pred\)`, but there is none'
    cb,pred = BalancedMixUp(1., seed=0),torch.zeros(8, 4)
    with pytest.raises(ValueError, match=words): cb.loss(pred)
    learn = make_learner(cbs=cb)
    with pytest.raises(ValueError, match=words): cb.loss(pred)
    def compare(learn):
        if learn.training: return None
        return torch.equal(cb.loss(learn.pred), learn.loss_func(learn.pred, *learn.yb))
    def outside(self):
        with pytest.raises(ValueError, match=words): cb.loss(pred)
        errors.append(1)
    probe,errors = Probe(compare, run_valid=True),[]
    quiet_fit(learn, 1, [probe,Callback(before_train=outside, before_epoch=outside, before_fit=outside,
                                        after_epoch=outside)])
    assert probe.seen==[None]*7+[True]*2 and len(errors)==4
    with pytest.raises(ValueError, match=words): cb.loss(pred)

# --- the warning ---

class Again(Callback):
    "Runs the network a second time"
    run_valid = False
    def __init__(self, at='after_loss', grad=True, ask=None, times=1):
        self.grad,self.ask,self.times = grad,ask,times
        setattr(self, at, self.again)

    def again(self):
        for _ in range(self.times):
            with torch.set_grad_enabled(self.grad): pred = self.model(*self.xb)
            if self.ask: self.ask.loss(pred)

def said(learn, n, *cbs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        quiet_fit(learn, n, [*cbs])
    return [str(o.message) for o in caught if 'run again' in str(o.message)]

@pytest.mark.thinned(4)
@pytest.mark.parametrize('at', ['before_batch', 'after_pred', 'after_loss', 'before_step', 'after_batch'])
@pytest.mark.parametrize('mixes', [partial(BalancedMixUp, 1.), partial(BalancedMixUp, 1., per_item=True), Remix])
def test_a_second_pass_is_told_once(mixes, at):
    cb = mixes(seed=0)
    learn,owner = make_learner(),type(cb).__name__
    words = said(learn, 3, cb, Again(at))
    assert len(words)==1 and words[0].startswith(f'{owner}: the network was run again') and 'cb.loss(pred)' in words[0]
    assert len(said(learn, 1, cb, Again(at)))==1 # in a fit of its own
    assert not learn.model._forward_hooks

class Checkpointed(nn.Module):
    "Computes its activations again in the backward pass"
    def __init__(self, net, reentrant):
        super().__init__()
        self.net,self.reentrant = net,reentrant
    def forward(self, x):
        if self.reentrant: x = x.requires_grad_()
        x = checkpoint(self.net[:2], x, use_reentrant=self.reentrant)
        return checkpoint(self.net[2:], x, use_reentrant=self.reentrant)

silent = {
    'no second pass': lambda cb: [],
    'without gradients': lambda cb: [Again(grad=False, times=2)],
    'the loss is asked': lambda cb: [Again(ask=cb, times=2)],
    'accumulation': lambda cb: [GradientAccumulation(16)]}

@pytest.mark.parametrize('case', silent)
def test_what_is_no_second_pass_is_silent(case):
    cb = BalancedMixUp(1., seed=0)
    assert said(make_learner(), 2, cb, *silent[case](cb))==[]

def test_other_fits_are_silent():
    for cb in BalancedMixUp(0),ProgressiveSampling(seed=0),MixUp():
        assert said(make_learner(loss_func=CrossEntropyLossFlat()), 1, cb, Again())==[]
    with fixed_lams(0.): assert said(make_learner(), 1, BalancedMixUp(1.), Again())==[]
    # in validation, and between fits
    learn,cb = make_learner(),BalancedMixUp(1., seed=0)
    once = Again()
    once.run_valid,once.run_train = True,False
    assert said(learn, 2, cb, once)==[]

@pytest.mark.parametrize('net', [lambda: Checkpointed(make_net(), False), lambda: Checkpointed(make_net(), True),
    lambda: nn.DataParallel(make_net())], ids=['checkpoint', 'reentrant checkpoint', 'DataParallel'])
def test_networks_that_run_parts_of_themselves_again_are_silent(net):
    assert said(make_learner(net=net()), 2, BalancedMixUp(1., seed=0))==[]
    assert len(said(make_learner(net=net()), 2, BalancedMixUp(1., seed=0), Again()))==1

def test_a_compiled_network_is_watched_from_outside():
    net = torch.compile(make_net(), backend='eager')
    assert said(make_learner(net=net), 2, BalancedMixUp(1., seed=0))==[]
    assert len(said(make_learner(net=net), 2, BalancedMixUp(1., seed=0), Again()))==1
    net = make_net()
    net.compile(backend='eager')
    assert said(make_learner(net=net), 2, BalancedMixUp(1., seed=0))==[]

class Interrupt(Callback):
    order = 60
    def after_pred(self): raise KeyboardInterrupt('stop')

def test_an_interrupted_fit_leaves_a_network_that_pickles_and_counts_nothing_twice(tmp_path):
    cb = BalancedMixUp(1., seed=0)
    learn = make_learner()
    with pytest.raises(KeyboardInterrupt): quiet_fit(learn, 1, [cb,Interrupt()])
    data = pickle.dumps(learn.model)
    assert b'fastai_balmix' not in data
    x = torch.randn(3, 6)
    close(pickle.loads(data)(x), learn.model(x))
    close(deepcopy(learn.model)(x), learn.model(x))
    assert b'fastai_balmix.loaders' not in pickle.dumps(cb) and len(pickle.dumps(cb))<1000
    assert said(learn, 1, cb)==[] and not learn.model._forward_hooks
    assert len(said(learn, 1, cb, Again()))==1

def test_a_batch_that_is_left_out_ends_with_the_next():
    "A second pass in it is told, and its labels do not stay"
    class Skip(Callback):
        order = 50
        def before_backward(self): raise CancelBatchException
    cb = BalancedMixUp(1., seed=0)
    assert len(said(make_learner(), 2, cb, Skip(), Again()))==1 and cb.yb1 is None
