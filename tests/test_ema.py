"""The notebook compares one fit with an average by hand. Here an independent average, in plain PyTorch, of every
parameter and buffer stands beside fits in many modes and is compared after every step: accumulated gradients, skipped
steps, half precision, frozen layers, shared weights, several processes. What is validated is what is kept, a fit that
was cut short continues bit for bit, and an interrupt at any moment leaves the weights as trained or their average."""

import contextlib
import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.vision import all as fv
from hypothesis import given, settings, strategies as st
from test_checkpoint import Cut, assert_alike, bn_net, cut_and_resumed, go, make_learner
from test_modes import cpu_autocast
from toys import Points, on_ranks, quiet_fit

from fastai_balmix.callback import ema as module
from fastai_balmix.callback.checkpoint import Checkpoint
from fastai_balmix.callback.ema import EMA
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.compare import Run, TrainConfig, attempt
from fastai_balmix.datasets import digits, digits_lt, small_net


def named(model): return {k: v.detach().clone() for k,v in fv.get_model(model).state_dict().items()}

class ByHand(fv.Callback):
    "The average of every parameter and buffer, by the formula alone, and what the network was seen with"
    order,skipped = 80,False
    def __init__(self, decay, warmup=True): self.decay,self.warm = decay,warmup
    def before_fit(self): self.t,self.mean,self.last,self.shown,self.raws = 0,None,None,[],[]
    def before_train(self):
        # the steps go on from where they ended
        if self.last is not None: same(named(self.model), self.last)
    def after_batch(self):
        if not self.training: return
        now = named(self.model)
        self.raws.append(now)
        if self.opt.steps==self.t: return
        self.t = self.opt.steps
        d = 0. if self.t==1 else min(self.decay, 1-self.t**(-2/3)) if self.warm else self.decay
        self.mean = {k: d*self.mean[k].double() + (1-d)*v.double() if self.mean and v.is_floating_point() else v.clone()
            for k,v in now.items()}
        ours = self.ema._both.averages()
        for (k,a),b in zip(self.mean.items(), ours, strict=True): close(b, a, k)
        assert self.ema.n_steps==self.t and not self.ema.shown
    def after_train(self): self.last = named(self.model)
    def after_validate(self):
        self.shown.append(named(self.model))
        assert self.ema.shown or self.skipped

def close(a, b, what=''): torch.testing.assert_close(a.double(), b.double(), rtol=2e-4, atol=2e-6, msg=what or None)
def same(a, b):
    assert a.keys()==b.keys()
    for k in a: assert torch.equal(a[k], b[k]), k

class Stepped:
    "An optimiser that counts the steps it really makes"
    def __init__(self, opt): self._opt,self.steps = opt,0
    def step(self):
        self.steps += 1
        self._opt.step()
    def __getattr__(self, name): return getattr(self._opt, name)

def counted(params, **kwargs): return Stepped(fv.SGD(params, mom=.9, **kwargs))

def averaged(cbs=(), n=3, decay=.9, warmup=True, around=contextlib.nullcontext, **kwargs):
    "A fit with the average and another by hand"
    hand = ByHand(decay, warmup)
    learn = make_learner(Points, net=bn_net, opt_func=counted, **kwargs)
    with around(): quiet_fit(learn, n, cbs=[*cbs, EMA(decay, warmup), hand])
    return learn,hand

# --- every step beside an average by hand ---

modes = {
    'plain': {},
    'no warm-up': dict(warmup=False),
    'warm-up that never ends': dict(decay=.9999),
    'no averaging': dict(decay=0.),
    'balmix': dict(cbs=[BalancedMixUp(1., seed=0)]),
    'balmix, λ per pair': dict(cbs=[BalancedMixUp(1., per_item=True, seed=0)]),
    'gradients that wait': dict(cbs=[GradientAccumulation(20)]),
    'frozen': dict(splitter=lambda m: [fv.params(m[0]),fv.params(m[1:])], n=2),
}

@pytest.mark.parametrize('name', modes)
def test_every_step_is_that_of_an_average_by_hand(name):
    learn,hand = averaged(**modes[name])
    assert hand.t>1 and len(hand.shown)==len(learn.recorder.values)
    if name=='gradients that wait': assert hand.t<len(hand.raws)
    for k,v in named(learn.model).items(): close(v, hand.mean[k], k)
    if name!='no averaging': assert not torch.allclose(learn.model[0].weight, hand.last['0.weight'])
    # whole numbers are copied
    assert learn.model[1].num_batches_tracked==hand.mean['1.num_batches_tracked']>0

@pytest.mark.parametrize('mode', [AMPMode.BF16, AMPMode.FP16])
def test_in_half_precision(mode):
    def around():
        stack = contextlib.ExitStack()
        stack.enter_context(cpu_autocast())
        stack.enter_context(warnings.catch_warnings(action='ignore'))
        return stack
    # the first scale overflows
    scale = {} if mode==AMPMode.BF16 else dict(init_scale=2.**20)
    learn,hand = averaged([MixedPrecision(amp_mode=mode, **scale)], around=around)
    assert hand.t==len(hand.raws) if mode==AMPMode.BF16 else 0<hand.t<len(hand.raws)
    for k,v in named(learn.model).items(): close(v, hand.mean[k], k)

def test_a_weight_of_two_layers_is_averaged_once():
    def tied():
        net = fv.nn.Sequential(fv.nn.Linear(6,6), fv.nn.Linear(6,6), fv.nn.Linear(6,4))
        net[1].weight = net[0].weight
        return net
    learn = make_learner(Points, net=tied)
    means = []
    class Mean(fv.Callback):
        order = 80
        def after_step(self):
            d = min(.9, 1-(len(means)+1)**(-2/3))
            means.append((d*means[-1] if means else 0.) + (1-d)*self.model[0].weight.detach())
    quiet_fit(learn, 2, cbs=[EMA(.9), Mean()])
    close(learn.model[0].weight, means[-1])
    assert learn.model[1].weight is learn.model[0].weight

@settings(max_examples=15)
@given(decay=st.floats(0, 1, exclude_max=True), warmup=st.booleans())
def test_an_average_lies_between_the_weights_it_is_made_of(decay, warmup):
    learn,hand = averaged(decay=decay, warmup=warmup, n=1)
    for k,v in named(learn.model).items():
        seen = torch.stack([o[k] for o in hand.raws]).double()
        slack = 1e-5*(1+seen.abs().max())
        assert (v>=seen.amin(0)-slack).all() and (v<=seen.amax(0)+slack).all(), k

# --- the fit itself is not changed ---

def plain(cbs=(), n=3, **kwargs):
    torch.manual_seed(0)
    learn = make_learner(Points, net=bn_net, **kwargs)
    quiet_fit(learn, n, cbs=cbs)
    return learn

def test_no_averaging_is_the_plain_fit():
    a,b = plain(),plain([EMA(0.)])
    same(named(a.model), named(b.model))
    assert repr(a.recorder.values)==repr(b.recorder.values) and a.recorder.losses==b.recorder.losses

def test_training_is_that_of_the_plain_fit():
    a,b = plain(),plain([EMA(.99)])
    assert a.recorder.losses==b.recorder.losses and repr(a.recorder.values)!=repr(b.recorder.values)

def test_lr_find_does_not_average():
    learn = make_learner(Points, net=bn_net, cbs=EMA(.9))
    before = named(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=12, show_plot=False)
    same(before, named(learn.model))
    assert learn.ema.n_steps==0 and not learn.ema.shown

# --- what is validated is what is kept ---

def test_the_recorder_has_the_loss_of_the_average():
    learn,hand = averaged()
    twin = bn_net().eval()
    x,y = (torch.stack([torch.as_tensor(o) for o in v]) for v in zip(*learn.dls.valid.dataset))
    for shown,values in zip(hand.shown, learn.recorder.values):
        twin.load_state_dict(shown)
        with torch.no_grad(): loss = torch.nn.functional.cross_entropy(twin(x), y).item()
        assert values[1]==pytest.approx(loss, rel=1e-4)
    assert learn.validate()[0]==pytest.approx(loss, rel=1e-4)

def best_of(learn): return int(np.argmin([o[1] for o in learn.recorder.values]))

def test_save_model_keeps_the_average_of_the_best_epoch(tmp_path):
    learn,hand = averaged([SaveModelCallback()], n=6, lr=1.5, path=tmp_path, decay=.5)
    assert best_of(learn)<5
    same(named(learn.model), hand.shown[best_of(learn)])

def test_checkpoint_keeps_the_average_of_the_best_epoch(tmp_path):
    metric = fv.AvgMetric(lambda pred,targ: -torch.nn.functional.cross_entropy(pred, targ))
    ck = Checkpoint(tmp_path/'fit.pth', monitor='<lambda>')
    learn,hand = averaged([ck], n=6, lr=1.5, decay=.5, metrics=metric)
    assert ck.best==best_of(learn)<5
    same(named(learn.model), hand.shown[ck.best])

def test_a_fit_that_is_stopped_early_ends_on_the_average():
    learn,hand = averaged([EarlyStoppingCallback(min_delta=10.)], n=6)
    assert len(learn.recorder.values)==2
    same(named(learn.model), hand.shown[-1])

def test_predictions_and_an_export_are_of_the_average(tmp_path):
    dls = digits_lt(n_max=8, imbalance=4, valid_pct=.01, size=8, bs=8)
    learn = fv.Learner(dls, small_net(10), opt_func=counted, path=tmp_path, cbs=EMA(.9))
    hand = ByHand(.9)
    quiet_fit(learn, 3, cbs=hand)
    twin = small_net(10).eval()
    twin.load_state_dict({k: v.to(o.dtype) for (k,v),o in zip(hand.mean.items(), twin.state_dict().values())})
    x = torch.cat([o.as_subclass(torch.Tensor) for o,_ in dls.valid])
    with torch.no_grad(): outputs,mirrored = twin(x),twin(x.flip(-1))
    with learn.no_bar():
        close(learn.get_preds(act=fv.noop)[0], outputs)
        close(learn.tta_flip()[0], (outputs.softmax(1)+mirrored.softmax(1))/2)
    learn.opt_func,learn.opt = fv.SGD,None # what can be pickled
    learn.export()
    with warnings.catch_warnings(action='ignore'): loaded = fv.load_learner(tmp_path/'export.pkl')
    same(named(loaded.model), named(learn.model))
    assert loaded.ema._both is None and loaded.ema.shown

def test_a_callback_that_validates_inside_an_epoch_sees_the_weights_as_trained():
    class Inside(fv.Callback):
        order,seen = 90,0
        def after_batch(self):
            if not self.training or self.iter!=1: return
            now = named(self.model)
            self.learn.validate()
            same(now, named(self.model))
            self.seen += 1
    inside = Inside()
    plain([inside,EMA(.9)])
    assert inside.seen==3

def test_a_validation_after_an_epoch_sees_the_average():
    losses = []
    class After(fv.Callback):
        order = 90
        inside = False
        def after_epoch(self):
            if self.inside: return
            self.inside,there = True,self.recorder.values[-1][1]
            losses.append((there,self.learn.validate()[0]))
            self.inside = False
    plain([After(),EMA(.9)])
    assert len(losses)==3 and all(a==pytest.approx(b, rel=1e-4) for a,b in losses)

def test_where_there_is_no_validation():
    class Skips(fv.Callback):
        def before_validate(self):
            self.by_hand.skipped = True
            raise fv.CancelValidException
    learn,hand = averaged([Skips()])
    for k,v in named(learn.model).items(): close(v, hand.mean[k], k)

def test_each_fit_has_an_average_of_its_own():
    ema = EMA(.9)
    learn = make_learner(Points, net=bn_net, cbs=ema)
    for _ in range(2):
        before = named(learn.model)
        quiet_fit(learn, 1)
        assert ema.n_steps==len(learn.dls.train)
        assert not torch.equal(before['0.weight'], named(learn.model)['0.weight'])
        quiet_fit(learn, 0)
    assert ema._both is None

# --- resumed ---

fits = {
    'batch norm': dict(make=partial(make_learner, net=bn_net)),
    'balmix': dict(cbs=lambda: [BalancedMixUp(1., seed=0),EMA(.9)]),
    'gradients that wait': dict(cbs=lambda: [GradientAccumulation(20),EMA(.9)]),
    'given last': dict(cbs=list, more=[EMA(.9)]),
}

@pytest.mark.thinned(4)
@pytest.mark.parametrize('cuts', [[(1,1)], [(3,5)], [(1,0),(2,2)]], ids=str)
@pytest.mark.parametrize('name', fits)
def test_a_fit_that_resumes_is_the_unbroken_one(name, cuts, tmp_path):
    kwargs = {'cbs': lambda: [EMA(.9)], **fits[name]}
    assert_alike(go(tmp_path/'whole.pth', **kwargs), cut_and_resumed(tmp_path, cuts=cuts, **kwargs))

def test_a_fit_that_is_done_is_not_done_again(tmp_path):
    a = go(tmp_path/'fit.pth', cbs=lambda: [EMA(.9)])
    assert_alike(a, go(tmp_path/'fit.pth', cbs=lambda: [EMA(.9)], world=7))

@pytest.mark.parametrize('first,then,words', [
    ([EMA()], [], 'EMA'), ([], [EMA()], 'no EMA'), ([EMA(.9)], [EMA(.8)], 'another EMA')], ids=str)
def test_a_file_of_a_fit_with_another_average_is_refused(first, then, words, tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path/'fit.pth', cbs=lambda: first, more=[Cut(2)])
    with pytest.raises(ValueError, match=f'of a fit with {words}'): go(tmp_path/'fit.pth', cbs=lambda: then)

# --- interrupts ---

class Interrupt(fv.Callback):
    "Ends a fit as Ctrl-C does, in an event of an epoch"
    order = 90
    def __init__(self, event, error, epoch=1):
        def end():
            if self.learn.epoch==epoch: raise error('ended')
        setattr(self, event, end)

@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize('event', ['before_train','after_loss','after_step','after_train','before_validate',
    'after_validate','after_epoch'])
def test_after_an_error_the_network_has_one_kind_of_weights(event, error):
    learn,hand,ema = make_learner(Points, net=bn_net, opt_func=counted),ByHand(.9),EMA(.9)
    with pytest.raises(error): quiet_fit(learn, 3, cbs=[ema, hand, Interrupt(event, error)])
    now = named(learn.model)
    assert ema.shown==(event in ('before_validate','after_validate','after_epoch'))
    if ema.shown:
        for k in now: close(now[k], hand.mean[k], k)
    elif event!='after_step': same({k: v for k,v in now.items() if 'weight' in k},
        {k: v for k,v in hand.raws[-1].items() if 'weight' in k})
    # nothing of it is left for what comes after
    with learn.no_bar(), learn.no_logging(): learn.validate()
    same(now, named(learn.model))

def test_ctrl_c_inside_an_exchange_leaves_no_mixture():
    "PyTorch copies all weights in one call, and Python answers a signal when that is over"
    copy,seen = module._copy,[]
    def interrupted(to, values):
        values = [*values]
        seen.append([o.detach().clone() for o in values])
        copy(to, values)
        raise KeyboardInterrupt
    learn = make_learner(Points, net=bn_net)
    with mock.patch.object(module, '_copy', interrupted), pytest.raises(KeyboardInterrupt):
        quiet_fit(learn, 2, cbs=EMA(.9))
    for a,b in zip(learn.model.state_dict().values(), seen[0], strict=True): assert torch.equal(a, b)

def test_an_interrupted_fit_leaves_nothing_behind():
    ema = EMA(.9)
    learn = make_learner(Points, net=bn_net, cbs=ema)
    with pytest.raises(KeyboardInterrupt): quiet_fit(learn, 3, cbs=Interrupt('after_validate', KeyboardInterrupt))
    now = named(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.validate()
    same(now, named(learn.model))
    quiet_fit(learn, 1)
    assert ema.n_steps==len(learn.dls.train) and ema._both is None

# --- several processes ---

def rank_averages(rank):
    from launched import make_dls, make_learner as launched_learner
    learn,hand = launched_learner(make_dls(seed=rank)),ByHand(.9)
    learn.opt_func = counted
    with learn.distrib_ctx(): quiet_fit(learn, 3, cbs=[BalancedMixUp(seed=0), EMA(.9), hand])
    return dict(net=named(learn.model), hand=hand.mean, n=hand.t)

def test_processes_have_one_average():
    a,b = on_ranks(2, rank_averages)
    same(a['net'], b['net'])
    assert a['n']==b['n']>6
    for k,v in a['net'].items(): close(v, a['hand'][k], k)

# --- in a comparison ---

def run_of(folder, **kwargs):
    config = TrainConfig(epochs=3, size=16, bs=32, augment='none', pretrained=False, **kwargs)
    return Run(digits(n_folds=2), 'balmix_0.2', 'small', fold=1, seed=0, config=config, folder=folder)

@pytest.mark.slow
def test_an_option_of_every_method(tmp_path):
    a,b = run_of(tmp_path),run_of(tmp_path, ema=True)
    assert a.key!=b.key
    one,two = attempt(a).record,attempt(b).record
    assert one['history'][0]['train_loss']==two['history'][0]['train_loss']
    assert [o['valid_loss'] for o in one['history']]!=[o['valid_loss'] for o in two['history']]
    assert two['training']['ema'] is True
