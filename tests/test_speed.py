"""What Balanced-MixUp may cost, counted and not timed: items opened, transforms and mixing run, values read back by the
host, graphs compiled, memory formats changed. Each count is held against a plain fit, or against arithmetic."""

from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
from fastai.vision.all import (
    Callback,
    DataLoaders,
    IntToFloatTensor,
    Normalize,
    TensorImage,
    TfmdDL,
    Transform,
    imagenet_stats,
)
from torch import nn
from toys import (
    Numbered,
    Points,
    Probe,
    Tally,
    close,
    fixed_lams,
    make_learner,
    make_net,
    quiet_fit,
    seeded_dl,
    tail_targets,
)

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.loaders.pairing import mix_pairs, pair_loader, split_pairs

# Batches of 8 with λ and without; for pairs also one that has both
MIXED_AND_SKIPPED = {False:(.3,0,.6,0,0), True:(*[.3]*8, *[0]*8, *[.6,0]*4)}

# Items

@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('per_item', [False, True])
def test_an_epoch_opens_each_item_and_the_partners_that_count(per_item, num_workers):
    ds = Tally(tail_targets(60, 25, 5))
    p = pair_loader(seeded_dl(ds, 8, num_workers=num_workers), .2, per_item=per_item, rng=np.random.default_rng(0))
    for _ in range(3):
        ds.n_opened.zero_()
        for _ in p: pass
        # The last of twelve batches has 2 items
        n_partners = (p.lams>0).sum() if per_item else sum((8 if k<11 else 2) for k,lam in enumerate(p.lams) if lam>0)
        assert int(ds.n_opened.sum())==90+n_partners and 0<n_partners<90

def test_a_fit_opens_no_more_than_its_epochs_and_a_few_items_to_check():
    ds = Tally(tail_targets(60, 25, 5), shape=(6,))
    def counts(o):
        n_partners = sum(min(8, 90-8*k) for k,lam in enumerate(o.dl.lams) if lam>0)
        return int(ds.n_opened.sum()),n_partners
    probe = Probe(counts, 'after_train')
    quiet_fit(make_learner(ds), 3, [BalancedMixUp(seed=0), probe])
    expected = 7 + np.cumsum([90+n for _,n in probe.seen]) + 90*np.arange(3) # validations between them
    assert [n for n,_ in probe.seen]==expected.tolist()

# Steps

class Steps(Callback):
    "Counts, in training batches only, the calls of functions that torch runs"
    order,run_valid = -30,False
    def __init__(self, *names): self.names,self.counts,self.n = names,Counter(),0
    def before_batch(self):
        self.n += 1
        self.patches = []
        for nm in self.names:
            owner = torch if nm=='lerp' else torch.Tensor
            patch = mock.patch.object(owner, nm, self._counted(nm, getattr(owner, nm)))
            patch.start()
            self.patches.append(patch)

    def _counted(self, nm, f):
        def g(*args, **kwargs):
            self.counts[nm] += 1
            return f(*args, **kwargs)
        return g

    def before_backward(self):
        for o in self.patches: o.stop()
        self.patches = []

    def after_cancel_batch(self): self.before_backward()

reads = 'item','tolist','__bool__','__float__','__int__','__index__','cpu','numpy','nonzero'

@pytest.mark.parametrize('per_item', [False, True])
def test_no_step_reads_a_value_back(per_item):
    plain,mixed = Steps(*reads),Steps(*reads)
    quiet_fit(make_learner(), 3, plain)
    with fixed_lams(*MIXED_AND_SKIPPED[per_item]):
        quiet_fit(make_learner(), 3, [BalancedMixUp(per_item=per_item, seed=0), mixed])
    # with a λ for each pair the loss is asked once a fit what it counts an item of a class as
    once = {k: 1 for k in ('item','nonzero','tolist')} if per_item else {}
    assert plain.n==mixed.n==21 and mixed.counts-plain.counts==once

def test_a_value_read_back_is_seen():
    steps = Steps(*reads)
    probe = Probe(lambda o: (bool(o.loss>0), o.loss.item(), o.pred.tolist(), float(o.loss.detach())), 'after_loss')
    quiet_fit(make_learner(), 1, [steps,probe])
    assert all(steps.counts[o]>=7 for o in ('__bool__','item','tolist','__float__'))

class Twice(Numbered):
    "Two inputs and a class"
    def __getitem__(self, i):
        x,y = super().__getitem__(i)
        return x,-x,y

class Sum(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *xs): return self.net(sum(xs))

@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('data', [Numbered, Twice])
def test_each_input_is_mixed_by_one_call(data, per_item):
    steps = Steps('lerp')
    learn = make_learner(data(tail_targets(28, 14, 6, 3), shape=(6,)), net=Sum(make_net()))
    with fixed_lams(.3, 0, .6): quiet_fit(learn, 1, [BalancedMixUp(per_item=per_item, seed=0), steps])
    n_inp = 2 if data is Twice else 1
    # Two of 7 batches have λ = 0, or one λ for each pair, of which every batch has some above 0. The loss is mixed by
    # such a call too.
    assert steps.counts['lerp']==(7 if per_item else 5)*(n_inp+1)

class Doubled(Transform):
    "Keeps how many items it was called with"
    def __init__(self): self.seen = []
    def encodes(self, x:torch.Tensor):
        if x.ndim>1: self.seen.append(len(x))
        return x

def test_batch_transforms_run_once_over_items_and_partners():
    plain,mixed = Doubled(),Doubled()
    for tfm,cbs in (plain,[]),(mixed,[BalancedMixUp(seed=0)]):
        train,valid = (seeded_dl(Points(), shuffle=o, dl_type=TfmdDL, after_batch=tfm) for o in (True,False))
        learn = make_learner(DataLoaders(train, valid))
        assert learn.dls.n_inp==1 # for which such a loader tries one item
        tfm.seen.clear()
        with fixed_lams(.3, 0): quiet_fit(learn, 1, cbs)
    # The first is the one item that is looked at before the fit; then come seven batches to train on, seven to validate
    assert plain.seen==[8]*6+[3]+[8]*6+[3]
    assert mixed.seen==[1]+[16,8]*3+[6]+[8]*6+[3]

# Compiled models

def compiled_graphs(cbs, net):
    "How many graphs are made of a model in a fit, of which shapes"
    torch._dynamo.reset()
    made = []
    def backend(graph, inputs):
        made.append([tuple(o.shape) for o in inputs if isinstance(o, torch.Tensor) and not isinstance(o, nn.Parameter)])
        return graph.forward
    learn = make_learner(net=torch.compile(net, fullgraph=True, backend=backend))
    try: quiet_fit(learn, 2, cbs)
    finally: torch._dynamo.reset()
    return made

@pytest.mark.parametrize('per_item', [False, True])
def test_a_compiled_model_is_compiled_as_often_as_in_a_plain_fit(per_item):
    with fixed_lams(*MIXED_AND_SKIPPED[per_item]):
        plain = compiled_graphs([], make_net())
        mixed = compiled_graphs([BalancedMixUp(per_item=per_item, seed=0)], make_net())
    # One to train, one to validate, and no more than one again for a batch that is short
    assert plain==mixed and 1<=len(plain)<=4

# Memory formats

def is_last(x): return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

@pytest.mark.parametrize('lam', [.3, 0., torch.tensor([.3,0,.6,0])], ids=['float', 'zero', 'per_item'])
def test_channels_last_is_kept(lam):
    n = 4+int((lam>0).sum()) if isinstance(lam, torch.Tensor) else 8 if lam else 4
    x,x1 = split_pairs(torch.randn(n, 3, 5, 5).to(memory_format=torch.channels_last), lam)
    for o in x,x1,mix_pairs(x, x1, lam): assert o.shape==(4,3,5,5) and is_last(o)

@pytest.mark.parametrize('per_item', [False, True])
def test_channels_last_arrives_in_the_network(per_item):
    probe = Probe(lambda o: (is_last(o.x), len(o.x)), 'before_batch')
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    learn = make_learner(Numbered(tail_targets(28, 14, 6, 3), shape=(3,5,5)), net=net,
                         after_batch=lambda b: (b[0].to(memory_format=torch.channels_last),b[1]))
    with fixed_lams(.3, 0, .6): quiet_fit(learn, 1, [BalancedMixUp(per_item=per_item, seed=0), probe])
    assert probe.seen==[(True,8)]*6+[(True,3)]

# Normalize

class Normal(Normalize): "The same, but left where it stands, as a subclass might do anything"

@pytest.mark.parametrize('per_item', [False, True])
def test_normalize_works_on_b_images_and_changes_nothing(per_item):
    def image(i): return TensorImage(torch.full((3,8,8), i, dtype=torch.uint8))
    ds = [(image(i),y) for i,y in enumerate(tail_targets(40, 12, 4))]
    seen = {}
    for cls in Normalize,Normal:
        sizes = []
        probe = Probe(lambda o: o.x.clone(), 'before_batch', order=0)
        seen[cls] = probe.seen
        norm = cls.from_stats(*imagenet_stats, cuda=False)
        dl = seeded_dl(ds, dl_type=TfmdDL, after_batch=[IntToFloatTensor, norm])
        learn = make_learner(DataLoaders(dl, dl), net=nn.Sequential(nn.Flatten(), make_net(192, 3)), lr=1e-3)
        call = Normalize.__call__
        def counting(self, x, **kwargs):
            sizes.append(len(x[0]))
            return call(self, x, **kwargs)
        with mock.patch.object(Normalize, '__call__', counting), fixed_lams(*MIXED_AND_SKIPPED[per_item]):
            quiet_fit(learn, 1, [BalancedMixUp(per_item=per_item, seed=0), probe])
        train = [n for n in sizes if n>1][:7] # items are checked one by one before, and validation follows
        assert (max(train)<=8)==(cls is Normalize)
    for a,b in zip(*seen.values(), strict=True):
        assert type(a) is type(b) is TensorImage
        close(a, b, atol=2e-6)
