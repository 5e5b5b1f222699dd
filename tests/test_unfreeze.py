"""The notebook trains a small network with and without frozen epochs. Here the network is looked at after each batch
of many kinds of fit: what is frozen is the same to the last bit, and what is trained moves. Steps are those of a loop
in plain PyTorch, a fit that was cut short continues over the end of the frozen epochs, and an interrupt leaves no
network that stays frozen."""

import contextlib
import copy
import warnings
from functools import partial

import pytest
import timm
import torch
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.vision import all as fv
from test_checkpoint import assert_alike, bn_net, cut_and_resumed, go, make_learner
from test_modes import cpu_autocast
from torch import nn
from toys import Points, on_ranks, quiet_fit

from fastai_balmix.callback import unfreeze
from fastai_balmix.callback.deferred import Deferred
from fastai_balmix.callback.ema import EMA
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.unfreeze import Unfreezing
from fastai_balmix.ordinal import CornHead


def state(model): return {k: v.detach().clone() for k,v in fv.get_model(model).state_dict().items()}

class Moved(fv.Callback):
    "Names what has changed since the batch before"
    order = 90
    def __init__(self): self.moved = []
    def before_fit(self): self.last = state(self.model)
    def after_batch(self):
        if not self.training: return
        now = state(self.model)
        self.moved.append((self.epoch,{k for k in now if not torch.equal(now[k], self.last[k])}))
        self.last = now

    def names(self, epochs): return set().union(*(names for epoch,names in self.moved if epoch in epochs))

# A bias before `BatchNorm` has a gradient of nothing but rounding
last = {'3.weight','3.bias'}
everything = {'0.weight','1.weight','1.bias','1.running_mean','1.running_var','1.num_batches_tracked',*last}

momentum = partial(fv.SGD, mom=.9)
pytorch = partial(fv.OptimWrapper, opt=torch.optim.AdamW)
deferred = [Deferred(q='class', mix=False, start=.5, seed=0),BalancedMixUp(1., seed=0)]

modes = {
    'momentum': {},
    'AdamW': dict(opt_func=fv.Adam),
    'AdamW of PyTorch': dict(opt_func=pytorch),
    'balmix': dict(cbs=[BalancedMixUp(1., seed=0)]),
    'balmix, λ per pair': dict(cbs=[BalancedMixUp(1., per_item=True, seed=0)]),
    'deferred': dict(cbs=deferred),
    'averaged': dict(cbs=[EMA(.9)]),
    'gradients that wait': dict(cbs=[GradientAccumulation(20)]),
    'clipped': dict(cbs=[GradientClip(.1)]),
    'bfloat16': dict(cbs=[MixedPrecision(amp_mode=AMPMode.BF16)]),
    'float16': dict(cbs=[MixedPrecision(amp_mode=AMPMode.FP16, init_scale=4.)]),
    'two groups': dict(splitter=lambda m: [fv.params(m[:2]),fv.params(m[2:])]),
}

def around(name):
    stack = contextlib.ExitStack()
    if 'float16' in name:
        stack.enter_context(cpu_autocast())
        stack.enter_context(warnings.catch_warnings(action='ignore'))
    return stack

@pytest.mark.parametrize('name', modes)
def test_what_is_frozen_stays_to_the_last_bit_and_moves_after(name):
    moved,kwargs = Moved(),{'opt_func':momentum, 'cbs':[], **modes[name]}
    cbs = kwargs.pop('cbs')
    learn = make_learner(Points, net=bn_net, wd=.1, **kwargs)
    with around(name): quiet_fit(learn, 4, cbs=[*cbs,Unfreezing(2),moved])
    assert moved.names({0})==moved.names({1})==last
    assert moved.names({2})>=everything
    assert all(p.requires_grad for p in learn.model.parameters())

def test_only_gradients_that_are_used_are_computed():
    "By hooks on the weights, which PyTorch calls wherever it has computed a gradient"
    learn,seen = make_learner(Points, net=bn_net),[]
    for k,p in learn.model.named_parameters(): p.register_hook(lambda grad, k=k: seen.append((learn.epoch,k)))
    quiet_fit(learn, 2, cbs=Unfreezing(1))
    assert {k for epoch,k in seen if epoch==0}==last and len({k for epoch,k in seen if epoch==1})==6

# --- steps of a plain loop ---

class Batches(fv.Callback):
    "Keeps batches, and weights after each"
    order = 90
    def before_fit(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append((self.epoch,self.x.clone(),self.y.clone(),state(self.model)))

@pytest.mark.parametrize('n_frozen', [0,1,2])
def test_steps_are_those_of_a_plain_loop_of_adamw(n_frozen):
    torch.manual_seed(3)
    # no bias before `BatchNorm`, whose gradient would be nothing but rounding, which Adam makes large
    net = nn.Sequential(nn.Linear(6,8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8,4))
    model,batches = copy.deepcopy(net),Batches()
    learn = make_learner(Points, net=lambda: net, opt_func=fv.Adam, lr=.01, wd=.3)
    quiet_fit(learn, 3, cbs=[Unfreezing(n_frozen),batches])
    decayed,others = [model[0].weight,model[3].weight],[model[3].bias,*model[1].parameters()]
    opt = torch.optim.AdamW([dict(params=decayed, weight_decay=.3),dict(params=others, weight_decay=0.)],
                            lr=.01, betas=(.9,.99), eps=1e-5)
    for epoch,x,y,want in batches.seen:
        model.train()
        if epoch<n_frozen: model[1].eval()
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if epoch<n_frozen:
            for p in model[:3].parameters(): p.grad = None
        opt.step()
        for k,v in model.state_dict().items():
            torch.testing.assert_close(want[k], v, rtol=1e-4, atol=1e-6, msg=f'{epoch} {k}')
    assert len(batches.seen)>10

# --- which layers ---

def test_the_last_layer_of_each_kind_of_network():
    timm_net = timm.create_model('test_byobnet', num_classes=4)
    vit = timm.create_model('test_vit', num_classes=4)
    own = nn.Sequential(timm_net, nn.Linear(4,3))
    conv = nn.Sequential(nn.Conv2d(3,4,3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4,2,1), nn.Flatten())
    fc = timm_net.head.fc
    for net,want in [(timm_net,[fc]), (vit,[vit.head]), (nn.Sequential(timm_net, CornHead(5)),[fc]),
                     (own,[fc,own[1]]), (conv,[conv[2]])]:
        assert unfreeze._last_layers(net)==want
    distilled = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=2)
    assert unfreeze._last_layers(distilled)==[distilled.head,distilled.head_dist]
    headless = timm.create_model('test_byobnet', num_classes=0)
    fastai = nn.Sequential(headless, nn.Linear(2,2), nn.Linear(2,2))
    assert unfreeze._last_layers(fastai)==[fastai[1],fastai[2]]

# --- before and after ---

def test_gradients_and_momentum_of_an_earlier_fit_do_not_move_it():
    moved = Moved()
    learn = make_learner(Points, net=bn_net, wd=.1)
    quiet_fit(learn, 1)
    assert all(p.grad is not None for p in learn.model.parameters())
    quiet_fit(learn, 2, cbs=[Unfreezing(1),moved])
    assert moved.names({0})==last and moved.names({1})>=everything

class Interrupt(fv.Callback):
    def __init__(self, event): setattr(self, event, self._interrupt)
    def _interrupt(self): raise KeyboardInterrupt

events = 'before_batch','after_pred','after_loss','before_step','after_batch','before_validate'

@pytest.mark.parametrize('event', events)
def test_an_interrupt_leaves_no_frozen_network(event):
    learn,moved = make_learner(Points, net=bn_net),Moved()
    with pytest.raises(KeyboardInterrupt): quiet_fit(learn, 3, cbs=[Unfreezing(2),Interrupt(event)])
    assert all(p.requires_grad for p in learn.model.parameters())
    quiet_fit(learn, 1, cbs=moved)
    assert moved.names({0})>=everything

def test_a_validation_in_the_middle_of_a_frozen_epoch():
    class Validates(fv.Callback):
        def after_batch(self):
            if self.training and self.iter==2: self.learn.validate()
    moved = Moved()
    quiet_fit(make_learner(Points, net=bn_net), 2, cbs=[Unfreezing(1),Validates(),moved])
    assert moved.names({0})==last and moved.names({1})>=everything

def test_what_was_frozen_by_hand_stays_so():
    learn,moved = make_learner(Points, net=bn_net),Moved()
    learn.model[0].requires_grad_(False)
    quiet_fit(learn, 2, cbs=[Unfreezing(1),moved])
    assert not {'0.weight','0.bias'} & moved.names({0,1}) and not learn.model[0].weight.requires_grad

def test_a_network_that_was_frozen_before_is_told_of():
    def fit(cbs, freeze=True, n=2):
        learn = make_learner(Points, net=bn_net, splitter=lambda m: [[*m[:-1].parameters()],[*m[-1].parameters()]])
        if freeze: learn.freeze()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            quiet_fit(learn, n, cbs=cbs)
        return [str(o.message) for o in said if 'frozen before the fit' in str(o.message)]
    text, = fit([Unfreezing(1)])
    assert text.endswith('and stay so. Call `learn.unfreeze()` before `fit`.')
    assert not fit([Unfreezing(1)], freeze=False) and not fit([]) and not fit([Unfreezing(0)])

# --- resuming ---

@pytest.mark.parametrize('cut', [(1,0),(1,3),(2,0),(2,3),(3,1)])
def test_a_fit_that_resumes_is_the_unbroken_one(cut, tmp_path):
    make = partial(make_learner, net=bn_net, opt_func=fv.Adam, wd=.1)
    kwargs = dict(cbs=lambda: [Unfreezing(2),BalancedMixUp(1.),EMA(.9)], fit='fit_flat_cos')
    assert_alike(go(tmp_path/'whole.pth', make, **kwargs), cut_and_resumed(tmp_path, make, cuts=(cut,), **kwargs))

def test_a_file_of_other_frozen_epochs_is_refused(tmp_path):
    go(tmp_path/'a.pth', n=2, cbs=lambda: [Unfreezing(1)])
    for cbs in list,lambda: [Unfreezing(2)]:
        with pytest.raises(ValueError, match='Unfreezing'): go(tmp_path/'a.pth', n=2, cbs=cbs)

# --- the rest ---

def heard(func):
    with warnings.catch_warnings(record=True) as res:
        warnings.simplefilter('always')
        func()
    return [str(o.message) for o in res if 'Unfreezing' in str(o.message)]

def test_a_fit_that_ends_frozen_is_warned_of_once():
    said = ['Unfreezing: the fit has 2 epochs, and the network is frozen for 2, so that only its last layer is '
            'trained.']
    learn = make_learner(Points, net=bn_net)
    assert heard(lambda: quiet_fit(learn, 2, cbs=Unfreezing(2)))==said
    assert not heard(lambda: quiet_fit(learn, 2, cbs=Unfreezing(1)))

def test_lr_find_tries_the_last_layer():
    learn,moved = make_learner(Points, net=bn_net, cbs=Unfreezing(5)),Moved()
    before = state(learn.model)
    learn.add_cb(moved)
    with learn.no_bar(), learn.no_logging(): assert not heard(lambda: learn.lr_find(num_it=12, show_plot=False))
    assert moved.names({*range(9)})==last
    for k,v in state(learn.model).items(): assert torch.equal(v, before[k])

def rank_moved(rank):
    from launched import make_dls, make_learner as launched_learner
    learn,moved = launched_learner(make_dls(seed=rank)),Moved()
    with learn.distrib_ctx(): quiet_fit(learn, 2, cbs=[Unfreezing(1),moved])
    return dict(frozen=moved.names({0}), after=moved.names({1}), net=state(learn.model))

def test_on_two_processes():
    a,b = on_ranks(2, rank_moved)
    assert a['frozen']==b['frozen'] and len(a['frozen'])==2 and len({k.rpartition('.')[0] for k in a['frozen']})==1
    assert len(a['after'])>len(a['frozen'])
    for k,v in a['net'].items(): assert torch.equal(v, b['net'][k])
