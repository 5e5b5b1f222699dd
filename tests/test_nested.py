"""Validation, prediction and fits inside a fit: `learn.validate()` and the like in any event change nothing about the
fit around it, to the last bit."""
from contextlib import suppress

import numpy as np
import pytest
import torch
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.learner import Callback
from fastai.metrics import accuracy
from toys import Points, Probe, equal, make_learner, make_net, params, quiet_fit

from fastai_balmix.all import MCC, BalancedMixUp, Checkpoint, ProgressiveSampling, Remix

events = ['before_fit','before_epoch','before_train','before_batch','after_pred','after_loss','before_backward',
          'after_backward','before_step','after_step','after_batch','after_train','before_validate','after_validate',
          'after_epoch']

def other_fit(learn):
    other = make_learner(Points(seed=3), cbs=BalancedMixUp(1., seed=9))
    state = torch.get_rng_state(),np.random.get_state()
    with torch.enable_grad(): quiet_fit(other, 1) # also during validation
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])

inside = {
    'validate': lambda learn: learn.validate(),
    'validate on training': lambda learn: learn.validate(dl=learn.dls.train.new(shuffle=False)),
    'get_preds': lambda learn: learn.get_preds(),
    'get_preds, inner': lambda learn: learn.get_preds(inner=True),
    'get_preds with loss': lambda learn: learn.get_preds(with_loss=True),
    'another fit': other_fit,
    'an error that is caught': lambda learn: broken_validation(learn),
}

def broken_validation(learn):
    def fail(self): raise RuntimeError('inside')
    cb = Callback(before_batch=fail)
    with suppress(RuntimeError): learn.validate(cbs=[cb])

class Inside(Callback):
    "Does something in one event of a fit, at its second occurrence in each epoch where there are several"
    order = 70
    def __init__(self, event, func):
        self.func,self.busy,self.n = func,False,0
        setattr(self, event, self._do)

    def _do(self):
        if self.busy: return
        self.n += 1
        if self.n%3!=2 and self.n>1: return
        self.busy = True
        try: self.func(self.learn)
        finally: self.busy = False

mixers = {
    'balmix': lambda: BalancedMixUp(1., seed=1),
    'per item': lambda: BalancedMixUp(1., per_item=True, seed=1),
    'remix': lambda: Remix(seed=1),
    'progressive': lambda: ProgressiveSampling(seed=1),
    'both': lambda: [ProgressiveSampling(seed=1),BalancedMixUp(1., seed=1)],
}

def fitted(make_cbs, *more, n=3):
    cbs = make_cbs()
    cbs = cbs if isinstance(cbs, list) else [cbs]
    sizes = Probe(lambda o: (len(o.x),o.training), 'after_pred')
    schedule = ParamScheduler(dict(lr=combined_cos(.25, .01, .3, 1e-3)))
    learn = make_learner(metrics=[accuracy,MCC()], net=make_net())
    torch.manual_seed(1)
    quiet_fit(learn, n, [*cbs,*more,sizes,schedule])
    return learn,sizes.seen

def of_training(seen): return [n for n,training in seen if training]

@pytest.mark.thinned
@pytest.mark.parametrize('event', events)
@pytest.mark.parametrize('mixer', mixers)
def test_validation_in_any_event_changes_nothing(mixer, event):
    plain,seen = fitted(mixers[mixer])
    learn,seen_too = fitted(mixers[mixer], Inside(event, inside['validate']))
    equal(params(plain), params(learn))
    assert of_training(seen)==of_training(seen_too)
    assert plain.recorder.values==learn.recorder.values and plain.recorder.losses==learn.recorder.losses
    assert plain.recorder.lrs==learn.recorder.lrs

@pytest.mark.thinned
@pytest.mark.parametrize('event', ['before_batch','after_loss','after_batch','after_validate'])
@pytest.mark.parametrize('what', inside)
@pytest.mark.parametrize('mixer', ['balmix','per item'])
def test_whatever_is_done_inside_changes_nothing(mixer, what, event):
    plain,_ = fitted(mixers[mixer])
    learn,_ = fitted(mixers[mixer], Inside(event, inside[what]))
    equal(params(plain), params(learn))
    assert plain.recorder.values==learn.recorder.values

def test_what_validation_inside_returns_is_its_own():
    seen = []
    fitted(mixers['balmix'], Inside('after_batch', lambda learn: seen.append(learn.validate()[0])))
    assert len({*seen})>2 and np.isfinite(seen).all()

@pytest.mark.parametrize('event', ['before_epoch','after_batch','after_validate','after_epoch'])
def test_a_checkpoint_is_not_written_inside(tmp_path, event):
    def run(name, *cbs):
        cp = Checkpoint(tmp_path/name, monitor='accuracy')
        learn,_ = fitted(lambda: [BalancedMixUp(1., seed=1),cp], *cbs)
        return learn,cp
    plain,cp = run('a.pt')
    learn,cp2 = run('b.pt', Inside(event, inside['validate']))
    equal(params(plain), params(learn))
    def history(o): return [{k: v for k,v in row.items() if k!='time'} for row in o.history]
    assert history(cp)==history(cp2) and cp.best==cp2.best

def test_against_a_plain_loop():
    "Balanced-MixUp by hand, with a pass over other data after each batch, which trains nothing"
    ds = Points()
    learn = make_learner(ds, net=make_net())
    inner = Inside('after_batch', lambda o: o.validate())
    def batch(o): return o.x.clone(),o.y.clone(),o.balanced_mix_up.yb1,o.balanced_mix_up.lam
    mixed = Probe(batch, 'after_pred', order=-1)
    quiet_fit(learn, 2, [BalancedMixUp(1., seed=1),inner,mixed])
    net = make_net()
    opt = torch.optim.SGD(net.parameters(), lr=.1)
    loss = torch.nn.CrossEntropyLoss()
    assert len(mixed.seen)==2*7
    for x,y,yb1,lam in mixed.seen:
        assert len(x)<=8 # never 2B
        opt.zero_grad()
        pred = net(x)
        own = loss(pred, y)
        total = own if yb1 is None else torch.lerp(own, loss(pred, yb1[0]), lam)
        total.backward()
        opt.step()
    equal(torch.cat([p.detach().flatten() for p in net.parameters()]), params(learn))

def test_nothing_stays_of_a_fit_with_validation_inside():
    cb = BalancedMixUp(1., seed=1)
    learn,_ = fitted(lambda: cb, Inside('after_batch', inside['validate']))
    assert cb._aside is cb._noted is None and cb._own_dl is None
    assert learn.validate()[1]==learn.recorder.values[-1][1]
