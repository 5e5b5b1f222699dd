"""BalancedMixUp beside code that shares no line with it, compared after every step of a fit.

The notebook shows what the callback does to a batch and that its loss forms agree with each other. Here a plain
PyTorch loop takes every step a second time, knowing only which items the data set was asked for and what `cb.lam`
says."""

import random
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from fastai.basics import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLossFlat,
    OptimWrapper,
    Recorder,
    TensorCategory,
    TrainEvalCallback,
    accuracy,
    deepcopy,
    error_rate,
    ifnone,
    set_seed,
    store_attr,
)
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import GradientAccumulation
from fastai.losses import FocalLossFlat, LabelSmoothingCrossEntropyFlat
from torch import nn
from torch.nn import functional as F
from toys import (
    Counting,
    Noisy,
    Points,
    Probe,
    close,
    equal,
    fixed_lams,
    make_learner,
    make_net,
    params,
    quiet_fit,
    tail_targets,
)

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import Remix
from fastai_balmix.loaders.pairing import draw_lams

LAM_MIN = 1/255 # weights below one grey level count as 0

class Shown(Counting):
    "Item i is `pics[label]`: what a batch looks like tells which labels are in it"
    def __init__(self, targets, pics):
        super().__init__(targets)
        self.pics = pics

    def __getitem__(self, i):
        self.opened.append(i)
        return self.pics[self.targets[i]],self.targets[i]

momentum = partial(OptimWrapper, opt=torch.optim.SGD, momentum=.5)
def learner(loss_func, ds=None, **kwargs): return make_learner(ds, loss_func, **{'opt_func':momentum, **kwargs})

class Opened(Callback):
    "Keeps, for every training batch, what the data set was asked for"
    order,run_valid = 89,False
    def __init__(self): self.batches = []
    def before_train(self): self.dls.train_ds.opened.clear()

    def before_batch(self):
        self.batches.append(list(self.dls.train_ds.opened))
        self.dls.train_ds.opened.clear()

def grads(learn): return torch.cat([p.grad.flatten() for p in learn.model.parameters()])

class Gradients(Callback):
    "Keeps the gradients of every step"
    run_valid = False
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append(grads(self.learn).clone())

# The independent formulas: logits, classes of items and partners, (B,) λ with 0 where there is no partner

def _reference_ce(logits, y, y1, lam):
    "Cross-entropy with the mixed label, a row of shares"
    hot = torch.eye(logits.shape[1], dtype=logits.dtype)
    target = (1-lam)[:,None]*hot[y] + lam[:,None]*hot[y1]
    return -(target*logits.log_softmax(1)).sum(1).mean()

def _reference_weighted(logits, y, y1, lam, weight):
    "Each half is a mean weighted by its own classes"
    logp,tot = logits.log_softmax(1),0.
    for w,t in ((1-lam, y), (lam, y1)):
        tot = tot - sum(w[i]*weight[t[i]]*logp[i,t[i]] for i in range(len(t)))/sum(weight[k] for k in t)
    return tot

def _reference_weighted_pairs(logits, y, y1, lam, weight):
    "One mean over both halves, weighted by classes and pairs"
    logp,tot,divisor = logits.log_softmax(1),0.,0.
    for i in range(len(y)):
        for share,k in (1-lam[i], y[i]),(lam[i], y1[i]):
            tot = tot - share*weight[k]*logp[i,k]
            divisor = divisor + share*weight[k]
    return tot/divisor

def _reference_focal(logits, y, y1, lam, gamma=2):
    p,tot = logits.softmax(1),0.
    for w,t in ((1-lam, y), (lam, y1)):
        for i in range(len(t)): tot = tot - w[i]*(1-p[i,t[i]])**gamma*p[i,t[i]].log()/len(t)
    return tot

weight = torch.tensor([.5,1.,3.,9.])
sides = {'CrossEntropyLossFlat': (CrossEntropyLossFlat(), _reference_ce),
         'nn.CrossEntropyLoss': (nn.CrossEntropyLoss(), _reference_ce),
         'functional': (F.cross_entropy, _reference_ce),
         'weighted': (nn.CrossEntropyLoss(weight=weight), partial(_reference_weighted, weight=weight)),
         'weighted, flat': (CrossEntropyLossFlat(weight=weight), partial(_reference_weighted, weight=weight)),
         'focal': (FocalLossFlat(gamma=2), _reference_focal)}

class PlainLoop(Callback):
    "Takes every step a second time in plain PyTorch and float64, from its own copy of the weights, and compares"
    order,run_valid = 90,False
    def __init__(self, ds, bs, reference, cb, lr=.1, n_acc=None): store_attr()

    def before_fit(self):
        self.net = deepcopy(self.model).double()
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=self.lr, momentum=.5)
        self.seen,self.lams = 0,[]

    def before_train(self):
        self.left = len(self.ds)
        self.ds.opened.clear()

    def before_batch(self):
        self.asked = list(self.ds.opened)
        self.ds.opened.clear()

    def after_batch(self):
        n = min(self.bs, self.left)
        self.left -= n
        lam = torch.as_tensor(self.cb.lam, dtype=torch.float64).expand(n)
        first,second = self.asked[:n],iter(self.asked[n:])
        partner = [next(second) if l>0 else i for i,l in zip(first, lam)]
        assert next(second, None) is None
        y,y1 = (torch.tensor([self.ds.targets[i] for i in o]) for o in (first, partner))
        x = (1-lam)[:,None]*self.ds.x[first].double() + lam[:,None]*self.ds.x[partner].double()
        loss = self.reference(self.net(x), y, y1, lam)
        close(self.learn.loss, loss)
        (loss*n/self.n_acc if self.n_acc else loss).backward()
        self.seen += n
        if self.n_acc is None or self.seen>=self.n_acc:
            self.sgd.step()
            self.sgd.zero_grad()
            self.seen = 0
        for p,q in zip(self.model.parameters(), self.net.parameters(), strict=True): close(p, q)
        self.lams.append(lam)

@pytest.mark.thinned
@pytest.mark.parametrize('n_acc', [None, 20])
@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('side', sides)
def test_every_step_is_that_of_a_plain_loop(side, per_item, n_acc):
    loss_func,reference = sides[side]
    if per_item and 'weighted' in side: reference = partial(_reference_weighted_pairs, weight=weight)
    ds = Points()
    cb = BalancedMixUp(alpha=.4, per_item=per_item, seed=3)
    plain = PlainLoop(ds, 8, reference, cb, n_acc=n_acc)
    learn = learner(loss_func, ds)
    start = params(learn)
    quiet_fit(learn, 4, [cb,plain] + ([GradientAccumulation(n_acc)] if n_acc else []))
    # What was compared had steps with and without partners, short batches, and went somewhere
    lams = torch.cat(plain.lams)
    assert len(plain.lams)==4*7 and {len(o) for o in plain.lams}=={8,3} and (lams>0).any() and (lams==0).any()
    assert (params(learn)-start).abs().max()>.01

@pytest.mark.parametrize('bs', [1, 25])
@pytest.mark.parametrize('per_item', [False, True])
def test_batches_of_one_are_steps_of_a_plain_loop(per_item, bs):
    # 51 items in batches of 25 leave one
    ds,cb = Points(),BalancedMixUp(alpha=1, per_item=per_item, seed=3)
    plain = PlainLoop(ds, bs, _reference_ce, cb)
    quiet_fit(learner(CrossEntropyLossFlat(), ds, bs=bs), 2, [cb,plain])
    assert [len(o) for o in plain.lams]==([1]*51 if bs==1 else [25,25,1])*2

@pytest.mark.parametrize('per_item', [False, True])
def test_loss_is_that_of_the_label_that_the_image_shows(per_item):
    # An image of class k is one-hot at k, so the mixed image is the mixed label
    ds = Shown(tail_targets(28,14,6,3), torch.eye(4))
    probe = Probe(lambda o: (o.loss.item(), -(o.x*o.pred.log_softmax(1)).sum(1).mean().item(),
        (o.x.amax(1)<1).any().item()))
    quiet_fit(learner(CrossEntropyLossFlat(), ds, net=make_net(n_in=4)), 5,
        [BalancedMixUp(1, per_item=per_item, seed=0), probe])
    got,expected,mixed = torch.tensor(probe.seen).T
    close(got, expected)
    assert mixed.sum()>20

@pytest.mark.parametrize('per_item', [False, True])
def test_lam_is_the_weight_of_the_class_balanced_image(per_item):
    # Ten white images of a rare class among ninety black ones: 0.1 of a plain batch is white, 0.5 of a class-balanced
    # one
    ds,bs = Shown(tail_targets(90,10), torch.tensor([[0.],[1.]])),10
    probe = Probe(lambda o: (float(torch.as_tensor(cb.lam).mean()), float(torch.as_tensor(cb.lam).square().mean()),
        o.x.mean().item()))
    cb = BalancedMixUp(alpha=1, per_item=per_item, seed=0)
    few = Shown([0,1], ds.pics) # nothing is asked of validation
    quiet_fit(learner(CrossEntropyLossFlat(), ds, net=make_net(1,2), bs=bs, valid=few), 60, [cb,probe])
    lam,lam2,white = np.array(probe.seen).T
    # Given λ the mean pixel has the expectation 0.1(1-λ) + 0.5λ. Its variance comes from whether each of the bs
    # ordinary images is
    # white (at most: they are drawn without replacement) and whether each partner is. 5 standard errors of least
    # squares.
    a = np.stack([np.ones_like(lam), lam], 1)
    var = (.09*(1-2*lam+lam2) + .25*lam2)/bs
    inv = np.linalg.inv(a.T@a)
    se = np.sqrt(np.diag(inv@(a.T*var)@a@inv))
    start,slope = inv@a.T@white
    assert abs(start-.1)<5*se[0] and abs(slope-.4)<5*se[1]
    # The swapped reading, 0.5 at λ=0 and falling, is far outside
    assert 5*se.max()<.3

@pytest.mark.parametrize('per_item', [False, True])
def test_lam_is_what_draw_lams_gives(per_item):
    "How its values are distributed is tested on `draw_lams`"
    drawn = []
    def draw(n, alpha, rng):
        assert alpha==.4
        drawn.append(draw_lams(n, alpha, rng))
        return drawn[-1]

    probe = Probe(lambda o: torch.as_tensor(o.balanced_mix_up.lam).reshape(-1))
    with mock.patch('fastai_balmix.loaders.pairing.draw_lams', draw):
        quiet_fit(learner(CrossEntropyLossFlat()), 2, [BalancedMixUp(.4, per_item=per_item, seed=0), probe])
    close(torch.cat(probe.seen), np.concatenate(drawn), atol=1e-7)

@pytest.mark.parametrize('per_item', [False, True])
def test_partners_are_class_balanced_and_items_of_a_class_equally_frequent(per_item):
    ds,opened = Points((40,8,2)),Opened()
    learn = learner(CrossEntropyLossFlat(), ds, net=make_net(n_out=3), bs=10)
    with fixed_lams(.5): quiet_fit(learn, 40, [BalancedMixUp(per_item=per_item, seed=0), opened])
    second = np.concatenate([b[10:] for b in opened.batches])
    n = np.bincount(second, minlength=50)
    y = np.array(ds.targets)
    assert len(second)==2000
    # A class comes with probability 1/3: 5 standard errors. An item of class k comes with probability 1/(3 n_k).
    for k,n_k in enumerate((40,8,2)):
        assert abs(n[y==k].sum()/2000-1/3)<5*(2/9/2000)**.5
        p = 1/(3*n_k)
        assert np.abs(n[y==k]/2000-p).max()<5*(p*(1-p)/2000)**.5

@pytest.mark.parametrize('per_item', [False, True])
def test_first_images_come_in_the_order_of_a_plain_fit(per_item):
    plain,mixed = Opened(),Opened()
    quiet_fit(learner(CrossEntropyLossFlat()), 3, plain)
    quiet_fit(learner(CrossEntropyLossFlat()), 3, [BalancedMixUp(1, per_item=per_item, seed=0), mixed])
    assert [b[:len(a)] for a,b in zip(plain.batches, mixed.batches, strict=True)]==plain.batches
    assert sum(map(len, mixed.batches))>1.9*sum(map(len, plain.batches))

def test_the_defaults_are_those_of_the_papers():
    cb = BalancedMixUp()
    assert (cb.alpha,cb.q,cb.per_item,cb.labels,cb.seed,cb.lam)==(.2,'class',False,None,None,0)
    assert (Remix().alpha,Remix().kappa,Remix().tau)==(1,3,.5)

@pytest.mark.parametrize('opt_func', [SGD, Adam])
def test_alpha_0_is_a_plain_fit_bit_for_bit(opt_func):
    plain,mixed = Probe(params),Probe(lambda o: (params(o), o.dl is o.dls.train, o.balanced_mix_up.lam))
    for cbs in [plain], [BalancedMixUp(alpha=0), mixed]:
        set_seed(7)
        quiet_fit(learner(CrossEntropyLossFlat(), net=make_net(drop=.3), opt_func=opt_func), 3, cbs)
    for a,(b,same,lam) in zip(plain.seen, mixed.seen, strict=True):
        equal(a, b)
        assert same and lam==0.

@pytest.mark.parametrize('per_item', [False, True])
def test_a_batch_with_lam_0_is_a_plain_step_bit_for_bit(per_item):
    plain,mixed,opened = Probe(params),Probe(params),Opened()
    # The check of the data before the first batch leaves the random numbers of items and dropout where they were
    for cbs in [plain], [BalancedMixUp(per_item=per_item, seed=0), mixed, opened]:
        set_seed(7)
        with fixed_lams(0):
            quiet_fit(learner(CrossEntropyLossFlat(weight=weight), Noisy(), net=make_net(drop=.3)), 3, cbs)
    for a,b in zip(plain.seen, mixed.seen, strict=True): equal(a, b)
    assert {len(b) for b in opened.batches}=={8,3}

def test_lam_does_not_stay_from_the_batch_before():
    probe,opened = Probe(lambda o: (o.balanced_mix_up.lam, len(o.x), len(o.y), o.loss.item(),
        F.cross_entropy(o.pred, o.y).item())),Opened()
    with fixed_lams(.5,0,.25):
        quiet_fit(learner(CrossEntropyLossFlat(), Points((24,14,6,4))), 1, [BalancedMixUp(seed=0), opened, probe])
    lams,nx,ny,loss,own = zip(*probe.seen)
    assert lams==(.5,0.,.25)*2 and set(nx)==set(ny)=={8}
    assert [len(b) for b in opened.batches]==[16,8,16]*2
    # The loss is the plain one exactly where λ is 0
    assert [abs(a-b)<1e-6 for a,b in zip(loss, own)]==[False,True,False]*2

@pytest.mark.parametrize('loss_func',
    [CrossEntropyLossFlat(), nn.CrossEntropyLoss(reduction='sum'), nn.CrossEntropyLoss(weight=weight, reduction='sum'),
    nn.CrossEntropyLoss(label_smoothing=.1), LabelSmoothingCrossEntropyFlat(), FocalLossFlat(),
    FocalLossFlat(weight=weight), partial(F.cross_entropy, label_smoothing=.1)],
    ids=['mean', 'sum', 'weights, sum', 'smooth', 'fastai smooth', 'focal', 'focal, weights', 'function'])
def test_one_lam_for_all_pairs_is_one_lam_for_the_batch(loss_func):
    by_batch,by_pair = Gradients(),Gradients()
    with fixed_lams(.3):
        for per_item,g in (False,by_batch),(True,by_pair):
            quiet_fit(learner(loss_func, opt_func=partial(OptimWrapper, opt=torch.optim.SGD)), 1,
                [BalancedMixUp(seed=0, per_item=per_item), g])
    assert len(by_batch.seen)==7
    for a,b in zip(by_batch.seen, by_pair.seen, strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

def test_the_loss_function_gets_either_half_in_the_same_form():
    class Recording(nn.CrossEntropyLoss):
        "Keeps the types of what it is given"
        def forward(self, pred, targ):
            seen.append((type(pred), type(targ), targ.dtype))
            return super().forward(pred, targ)

    class Typed(Points):
        "Labels as fastai's pipelines bring them"
        def __getitem__(self, i): return self.x[i],TensorCategory(self.targets[i])

    seen,probe = [],Probe(lambda o: (type(o.loss), type(o.loss_grad)))
    quiet_fit(learner(Recording(), Typed()), 1, probe)
    plain = set(seen),set(probe.seen)
    for per_item in False,True:
        seen.clear()
        probe.seen.clear()
        quiet_fit(learner(Recording(), Typed()), 1, [BalancedMixUp(1, per_item=per_item), probe])
        assert (set(seen),set(probe.seen))==plain

def test_validation_sees_plain_images_and_labels():
    class Valid(Callback):
        "Collects what the model is asked in validation"
        run_train = False
        def before_validate(self): self.seen = []
        def after_pred(self): self.seen.append((self.x, self.y))

    ds,valid = Points(),Valid()
    learn = quiet_fit(learner(CrossEntropyLossFlat(), ds, metrics=[accuracy,error_rate]), 2,
        [BalancedMixUp(1, seed=0), valid])
    y = torch.tensor(ds.targets)
    for got,expected in zip(zip(*valid.seen), (ds.x, y)): equal(torch.cat(got), expected)
    with torch.no_grad(): pred = learn.model.eval()(ds.x)
    acc = (pred.argmax(1)==y).double().mean()
    _,loss,*mets = learn.recorder.values[-1]
    close(torch.tensor([loss,*mets[:2]]), torch.stack([F.cross_entropy(pred, y), acc, 1-acc]))

def test_recorded_training_loss_is_the_mixed_one_and_training_metrics_follow_the_ordinary_labels():
    ds,opened,cb,beta = Points(),Opened(),BalancedMixUp(1, seed=0),.5
    def mixed(o):
        y,y1 = (torch.tensor([ds.targets[i] for i in half])
            for half in (opened.batches[-1][:len(o.x)], opened.batches[-1][len(o.x):]))
        loss = F.cross_entropy(o.pred, y)
        if cb.lam: loss = (1-cb.lam)*loss + cb.lam*F.cross_entropy(o.pred, y1)
        return loss.item(),(o.pred.argmax(1)==y).double().mean().item(),len(y)
    probe = Probe(mixed)
    learn = learner(CrossEntropyLossFlat(), ds, metrics=accuracy, cbs=Recorder(train_metrics=True, beta=beta),
        default_cbs=False)
    learn.add_cbs([TrainEvalCallback(), ProgressCallback()])
    quiet_fit(learn, 1, [cb,opened,probe])
    losses,accs,ns = map(np.array, zip(*probe.seen))
    # fastai's smoothed loss: an exponential mean, divided by what its weights have come to
    smooth,expected = 0.,[]
    for k,o in enumerate(losses, 1):
        smooth = beta*smooth + (1-beta)*o
        expected.append(smooth/(1-beta**k))
    np.testing.assert_allclose([float(o) for o in learn.recorder.losses], expected, rtol=0, atol=1e-5)
    train_loss,train_acc = learn.recorder.values[0][:2]
    assert abs(train_loss-expected[-1])<1e-5
    assert abs(train_acc-(accs*ns).sum()/ns.sum())<1e-5

def fit_once(cb, learn=None, seed=None):
    "One fit from the same weights and order: λ, items asked for, weights at the end"
    opened,probe = Opened(),Probe(lambda o: torch.as_tensor(cb.lam).tolist())
    learn = ifnone(learn, learner(CrossEntropyLossFlat()))
    learn.model.load_state_dict(make_net().state_dict())
    learn.opt,learn.dls.train.rng = None,random.Random(0)
    if seed is not None: set_seed(seed)
    quiet_fit(learn, 2, [cb,opened,probe])
    return probe.seen,opened.batches,params(learn).tolist()

@pytest.mark.parametrize('per_item', [False, True])
def test_a_seed_repeats_a_fit(per_item):
    cb = BalancedMixUp(1, per_item=per_item, seed=11)
    learn = learner(CrossEntropyLossFlat())
    one = fit_once(cb, learn)
    assert fit_once(cb, learn)==one
    assert fit_once(BalancedMixUp(1, per_item=per_item, seed=11))==one
    set_seed(99)
    assert fit_once(BalancedMixUp(1, per_item=per_item, seed=11))==one
    other = fit_once(BalancedMixUp(1, per_item=per_item, seed=12))
    assert all(a!=b for a,b in zip(one, other))
    # Two epochs of one fit are no repetition
    assert one[0][:7]!=one[0][7:]

def test_without_a_seed_set_seed_repeats_a_fit_and_else_each_is_another():
    cb = BalancedMixUp(1)
    one,two = fit_once(cb, seed=4),fit_once(BalancedMixUp(1), seed=4)
    assert one==two
    three,four = fit_once(cb),fit_once(cb)
    assert one[0]!=three[0] and three[0]!=four[0]
