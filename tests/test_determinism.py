"""What `docs/determinism.md` promises, on the CPU: which of seed, worker processes and cache may change what."""

import random
import re

import numpy as np
import pytest
import torch
from conftest import root, warm_call
from fastai.vision import all as fv
from torch import nn
from toys import Points, params, quiet_fit, seeded_dl

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling, Remix


class Numbers(Points):
    "The last of the inputs is the number of the item, small enough to leave training alone"
    def __getitem__(self, i):
        x,y = super().__getitem__(i)
        x = x.clone()
        x[-1] = i/1024
        return x,y

class Noise(fv.ItemTransform):
    "Randomness of all three generators, in workers too"
    def encodes(self, o): return (o[0] + torch.rand(1)*.1 + random.random()*.1 + np.random.rand()*.1, o[1])

class Watch(fv.Callback):
    "Which items came, and λ"
    order,run_valid = BalancedMixUp.order-1,False
    def __init__(self): self.items,self.lams = [],[]
    def before_batch(self):
        self.items.append((self.x[:,-1]*1024).round().int().tolist())
        lam = getattr(self.dl, 'lam', 0.)
        self.lams.append(lam.tolist() if torch.is_tensor(lam) else lam)

callbacks = {
    'plain': lambda seed: None,
    'balmix': lambda seed: BalancedMixUp(1., seed=seed),
    'per item': lambda seed: BalancedMixUp(.5, per_item=True, seed=seed),
    'progressive': lambda seed: ProgressiveSampling(seed=seed),
    'remix': lambda seed: Remix(seed=seed),
}
loaders = {
    'plain': lambda d, seed: d,
    'weighted': lambda d, seed: d.weighted('sqrt', seed=seed),
    'cached': lambda d, seed: d.cached('1MB'),
    'both': lambda d, seed: d.cached('1MB').weighted('sqrt', seed=seed),
}

def fitted(cb='balmix', loader='plain', num_workers=0, noise=False, seed=0, own_seed=1):
    "Parameters, items and λ of a fit in which all is made anew after one `set_seed`, as docs/determinism.md has it"
    fv.set_seed(seed)
    train = fv.TfmdDL(Numbers(), bs=8, shuffle=True, num_workers=num_workers, after_item=Noise() if noise else None)
    dls = loaders[loader](fv.DataLoaders(train, seeded_dl(Points(), shuffle=False), device='cpu'), own_seed)
    net = nn.Sequential(nn.Linear(6,7), nn.Tanh(), nn.Dropout(.2), nn.Linear(7,4))
    learn = fv.Learner(dls, net, loss_func=nn.CrossEntropyLoss(), lr=.05)
    watch = Watch()
    quiet_fit(learn, 2, [*fv.L(callbacks[cb](own_seed)),watch])
    return params(learn),watch.items,watch.lams

def same(a, b): return torch.equal(a[0], b[0]),a[1]==b[1],a[2]==b[2]

@pytest.mark.thinned
@pytest.mark.parametrize('cb', callbacks)
@pytest.mark.parametrize('loader', ['plain','both'])
@pytest.mark.parametrize('num_workers', [0,2])
def test_same_seed_and_workers_same_bits(cb, loader, num_workers):
    "With random transforms, and the callback's draws from the global generator"
    a,b = (fitted(cb, loader, num_workers, noise=True, own_seed=None) for _ in range(2))
    assert same(a, b)==(True,)*3

def test_another_seed_is_another_fit():
    a,b = fitted(seed=0, own_seed=None),fitted(seed=1, own_seed=None)
    assert same(a, b)==(False,)*3

@pytest.mark.thinned
@pytest.mark.parametrize('cb', callbacks)
@pytest.mark.parametrize('loader', ['plain','weighted'])
def test_any_number_of_workers_same_items_and_weights(cb, loader):
    alone = fitted(cb, loader)
    for n in 1,3: assert same(fitted(cb, loader, n), alone)==(True,)*3

def test_random_transforms_differ_with_the_workers_but_not_items_and_weights():
    "What cannot be promised"
    clean,a,b = fitted(),fitted(noise=True),fitted(num_workers=2, noise=True)
    assert same(a, b)==(False,False,True)
    # the items are those of a data set without noise: the loader draws them before any item is made
    assert same(a, clean)[2] and [*map(len, a[1])]==[*map(len, b[1])]==[*map(len, clean[1])]

@pytest.mark.thinned
@pytest.mark.parametrize('cb', ['balmix','per item'])
@pytest.mark.parametrize('num_workers', [0,2])
def test_with_a_cache_as_without(cb, num_workers):
    for plain,kept in ('plain','cached'),('weighted','both'):
        assert same(fitted(cb, plain, num_workers), fitted(cb, kept, num_workers))==(True,)*3

def numbers(*args, **kwargs):
    a,b,c = fitted(*args, **kwargs)
    return a.tolist(),b,c

@pytest.mark.parametrize('num_workers', [0,2])
def test_another_process_same_bits(num_workers):
    assert warm_call(numbers, 'per item', 'both', num_workers, True)==numbers('per item', 'both', num_workers, True)

def test_every_promise_names_a_test_that_is_there():
    text = (root/'docs'/'determinism.md').read_text(encoding='utf-8')
    names = re.findall(r'`(test_\w+)\.py::(test_\w+)`', text)
    assert len(names)>5
    for file,name in names:
        assert f'def {name}(' in (root/'tests'/f'{file}.py').read_text(encoding='utf-8'), f'{file}.py has no {name}'
    promises = [o for o in text.splitlines() if o.startswith('| ') and not o.startswith(('| promise','| ---'))]
    assert all('::test_' in o for o in promises)
