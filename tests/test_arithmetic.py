"""The notebook shows that half precision changes a fit a little. Here each step of Balanced-MixUp under bfloat16 is
that of a loop in plain PyTorch, a resumed fit has the scale of gradients of an unbroken one, what is stored is in
single precision under the plain names of weights, and a machine that cannot compute so is told before anything is
trained."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import Callback, CancelBatchException, Learner, OptimWrapper, set_seed
from test_runs import base_run, config, net
from toys import make_learner

from fastai_balmix.callback.checkpoint import Checkpoint
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.compare import arithmetic
from fastai_balmix.compare.alone import alone
from fastai_balmix.compare.arithmetic import HalfPrecision, check_arithmetic, set_arithmetic
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.config import TrainConfig, recipe_sentence
from fastai_balmix.datasets.longtail import digits_lt, small_net


def sgd(params, lr, **kwargs): return OptimWrapper(params, torch.optim.SGD, lr=lr, momentum=.9)

def learner(*cbs, lr=.05, **kwargs):
    set_seed(1)
    dls = digits_lt(valid_pct=.05, size=16, seed=1)
    return Learner(dls, small_net(10), opt_func=sgd, lr=lr, cbs=[*cbs], **kwargs)

def trained(learn, n_epoch=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch, **kwargs)
    return learn

# Against plain PyTorch

class Beside(Callback):
    "Trains a second network on the batches of the first one, by nothing but PyTorch"
    order = 15 # behind `HalfPrecision`
    def __init__(self, per_item): self.per_item,self.losses = per_item,[]

    def before_fit(self):
        set_seed(1)
        self.net = small_net(10)
        self.net.load_state_dict(self.model.state_dict())
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=.05, momentum=.9)

    def before_batch(self):
        if self.training: self.batch = self.xb[0].detach().clone(),self.yb[0].clone()

    def after_batch(self):
        if not self.training: return
        x,y = self.batch
        mixer = self.learn.balanced_mix_up
        y1,lam = (y,0.) if mixer.yb1 is None else (mixer.yb1[0].as_subclass(torch.Tensor),mixer.lam)
        self.net.train()
        with torch.autocast('cpu', dtype=torch.bfloat16): out = self.net(x)
        assert out.dtype==torch.bfloat16
        out = out.float()
        loss = ((1-lam)*F.cross_entropy(out, y, reduction='none')+lam*F.cross_entropy(out, y1, reduction='none')).mean()
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        self.losses.append((self.learn.loss.item(), loss.item()))

@pytest.mark.thinned(1)
@pytest.mark.parametrize('per_item', [False,True])
def test_balanced_mixup_in_bfloat16_is_a_plain_loop(per_item):
    beside = Beside(per_item)
    learn = trained(learner(HalfPrecision('bf16'), BalancedMixUp(.5, per_item=per_item, seed=1), beside))
    got,want = np.transpose(beside.losses)
    assert len(got)>10
    np.testing.assert_allclose(got, want, rtol=1e-4)
    for a,b in zip(learn.model.parameters(), beside.net.parameters()):
        assert a.dtype==torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

def test_layers_compute_in_half_precision_and_losses_do_not():
    seen = {}
    def watch(model, args, output): seen.setdefault(model.training, output.dtype)
    learn = learner(HalfPrecision('bf16'))
    learn.model.register_forward_hook(watch)
    trained(learn)
    assert seen=={True:torch.bfloat16, False:torch.bfloat16} and learn.recorder.losses[0].dtype==torch.float32
    probs,_ = learn.tta_flip()
    assert probs.dtype==torch.float32
    with learn.no_bar(): plain,_ = learn.get_preds()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert plain.dtype==torch.float32

# The scale of gradients

class Scales(Callback):
    order = 66
    def __init__(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append(self.learn.scaler.get_scale())

class StopAfter(Callback):
    order = 70 # behind `Checkpoint`
    def __init__(self, n): self.n = n
    def after_epoch(self):
        if self.epoch==self.n-1: raise KeyboardInterrupt

def test_a_resumed_fit_has_the_scale_of_an_unbroken_one(tmp_path):
    def fit(name, *cbs):
        scales = Scales()
        half = HalfPrecision('fp16', init_scale=4., growth_interval=4)
        # A CPU is slow at convolutions in this precision
        learn = make_learner(cbs=[half, BalancedMixUp(seed=1), scales])
        with suppress(KeyboardInterrupt): trained(learn, 3, cbs=[Checkpoint(tmp_path/name), *cbs])
        return learn,scales.seen
    unbroken,scales = fit('unbroken')
    assert len({*scales})>3
    _,first = fit('broken', StopAfter(1))
    resumed,rest = fit('broken')
    assert [*first,*rest]==scales
    for a,b in zip(unbroken.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)

# What a run leaves behind

def test_an_error_in_a_batch_leaves_no_precision_behind():
    class Fails(Callback):
        order = 20
        def before_batch(self): raise RuntimeError('on purpose')
    def depth():
        torch.autocast_increment_nesting()
        return torch.autocast_decrement_nesting()
    with pytest.raises(RuntimeError, match='on purpose'), alone():
        try: trained(learner(HalfPrecision('bf16'), Fails()))
        finally: assert torch.is_autocast_enabled('cpu') and depth()==1
    assert not torch.is_autocast_enabled('cpu') and depth()==0
    with torch.autocast('cpu', dtype=torch.bfloat16):
        with alone(): assert depth()==1
        assert torch.is_autocast_enabled('cpu') and depth()==1

def test_a_batch_that_is_left_early_is_no_harm():
    class Skips(Callback):
        order = 20
        def before_batch(self):
            if self.training and self.iter%2: raise CancelBatchException
    trained(learner(HalfPrecision('bf16'), Skips()))
    assert not torch.is_autocast_enabled('cpu')

@pytest.mark.parametrize('change', [dict(amp='bf16'), dict(channels_last=True), dict(amp='bf16', channels_last=True)])
def test_a_run(tmp_path, change):
    def done(folder, **kwargs):
        run = base_run(tmp_path/folder, arch=net, method='balmix_0.2', keep_weights=True,
                       config=replace(config, epochs=2, **kwargs))
        outcome = attempt(run)
        assert outcome.status=='finished', outcome.error
        return run,outcome.record,torch.load(run.path/'weights.pth', weights_only=True)
    plain,_,weights = done('plain')
    run,record,new = done('new', **change)
    assert run.key!=plain.key and {k: record['training'][k] for k in change}==change
    assert [*new]==[*weights] and all(new[k].dtype==weights[k].dtype for k in new)
    assert any(not torch.equal(new[k], weights[k]) for k in new) or change==dict(channels_last=True)
    with np.load(run.path/'predictions.npz') as f:
        assert {f[k].dtype for k in f if 'probs' in k or 'plain' in k}=={np.dtype(np.float32)}

@pytest.mark.slow
def test_a_compiled_run(tmp_path):
    if not arithmetic._has_compiler(): pytest.skip('no C++ compiler')
    def done(**kwargs):
        run = base_run(tmp_path, arch=net, method='balmix_0.2', keep_weights=True,
                       config=replace(config, epochs=2, **kwargs))
        outcome = attempt(run)
        assert outcome.status=='finished', outcome.error
        return torch.load(run.path/'weights.pth', weights_only=True)
    plain,compiled = done(),done(compile=True)
    assert [*plain]==[*compiled]
    for k in plain: torch.testing.assert_close(compiled[k], plain[k], rtol=1e-2, atol=1e-3)

def test_a_compiled_network_keeps_its_names_and_computes_the_same():
    "Without the compiler: the backend 'eager' runs what was traced"
    def fit(compiled):
        learn = learner(BalancedMixUp(seed=1))
        if compiled: learn.model.compile(backend='eager')
        return trained(learn)
    a,b = (fit(o).model.state_dict() for o in (False,True))
    assert [*a]==[*b]
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-4, atol=1e-5)

# Machines

def test_what_a_machine_cannot_do_is_said_at_once(monkeypatch):
    cpu,gpu = torch.device('cpu'),torch.device('cuda', 0)
    monkeypatch.setattr(arithmetic, 'default_device', lambda: cpu)
    monkeypatch.setattr(arithmetic, '_has_compiler', lambda: False)
    with pytest.raises(ValueError, match="'amp' parameter of TrainConfig must be None or 'bf16' without a GPU"):
        TrainConfig(amp='fp16')
    with pytest.raises(ValueError, match="'compile' parameter of TrainConfig must be False where PyTorch finds no"):
        TrainConfig(compile=True)
    check_arithmetic('bf16', True, False)
    monkeypatch.setattr(arithmetic, 'default_device', lambda: gpu)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    check_arithmetic('fp16', False, False)
    with pytest.raises(ValueError, match="must be None or 'fp16' on this GPU"): TrainConfig(amp='bf16')

def test_a_compiler_is_looked_for(monkeypatch):
    monkeypatch.setattr(arithmetic, 'default_device', lambda: torch.device('cpu'))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    assert not arithmetic._has_compiler()
    monkeypatch.setenv('CXX', 'sh')
    assert arithmetic._has_compiler()

def test_nothing_is_added_where_nothing_is_asked():
    learn = learner()
    before = [type(o) for o in learn.cbs]
    set_arithmetic(learn)
    assert [type(o) for o in learn.cbs]==before and learn.model._compiled_call_impl is None
    words = recipe_sentence('small', TrainConfig().chosen_for('small'))
    assert recipe_sentence('small', TrainConfig(amp='bf16').chosen_for('small'))==f'{words}, in bfloat16'
