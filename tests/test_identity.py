"""What a run's key is made of where a method is one's own: whatever it holds counts by its contents, in every process
alike, and what cannot be read is refused. The notebook shows globals and a version; here each kind of content is
changed in one place."""

import itertools
import math
import random
import threading
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import warm_call
from fastai.vision.all import CrossEntropyLossFlat, L
from torch import nn

from fastai_balmix.compare import Method, add_method, find_method, methods
from fastai_balmix.compare.identity import identity_of
from fastai_balmix.compare.names import described


def holding(x):
    def method(t): t.held = x
    return method

@dataclass
class Settings:
    rate:float
    names:tuple = ()

class Own(nn.Module):
    "A loss of one's own"
    scale = 2.
    def __init__(self, w):
        super().__init__()
        self.register_buffer('w', torch.tensor(w))
    @cached_property
    def total(self): return self.w.sum()
    def forward(self, x, y): return (x*self.w).sum()*helper(self.scale)

class Slots:
    __slots__ = ('x',)
    def __init__(self, x): self.x = x

def helper(x): return math.sqrt(x)*factor[0]
factor = [1.]
table = {'a': np.arange(3.)}
def by_globals(t): t.implied = [helper(o) for o in table['a']]
def outer(t):
    def inner(): return (lambda: table)()
    return inner

def cycle(x):
    res = [x]
    res.append(res)
    return res

def cyclic(x):
    a,b = Slots(x),{}
    b['a'],a.x = a,[b,x]
    return a

# Pairs that differ in one place each
contents = {
    'tensor': (torch.tensor([1.,2.]), torch.tensor([1.,3.])),
    'type of tensor': (torch.tensor([1.,2.]), torch.tensor([1.,2.], dtype=torch.float64)),
    'shape': (torch.ones(2, 3), torch.ones(3, 2)),
    'bfloat16': (torch.ones(2).bfloat16(), torch.ones(2).half()),
    'array': (np.array([1,2]), np.array([1,3])),
    'array of objects': (np.array([{}, 1], dtype=object), np.array([{}, 2], dtype=object)),
    'list': ([1,[2,3]], [1,[2,4]]),
    'order': ([1,2], [2,1]),
    'list and tuple': ([1,2], (1,2)),
    'dict': ({'a': [1]}, {'a': [2]}),
    'keys': ({1: 'a'}, {'1': 'a'}),
    'set': ({1,2}, {1,3}),
    'numbers': (1, 1.),
    'truth': (1, True),
    'L': (L(1, 2), L(1, 3)),
    'series': (pd.Series([1,2]), pd.Series([1,2], index=[1,2])),
    'frame': (pd.DataFrame(dict(a=[1,2])), pd.DataFrame(dict(a=[1,3]))),
    'object': (Settings(.1), Settings(.2)),
    'object in object': (Settings(.1, (Settings(1),)), Settings(.1, (Settings(2),))),
    'slots': (Slots([1]), Slots([2])),
    'module': (Own([1.]), Own([2.])),
    'loss of PyTorch': (nn.CrossEntropyLoss(torch.ones(2)), nn.CrossEntropyLoss(torch.tensor([1.,2.]))),
    'loss of fastai': (CrossEntropyLossFlat(weight=torch.ones(2)), CrossEntropyLossFlat(weight=torch.zeros(2))),
    'network': tuple(nn.Linear(2, 2) for _ in range(2)),
    'generator': (np.random.default_rng(0), np.random.default_rng(1)),
    'random': (random.Random(0), random.Random(1)),
    'partial': (partial(nn.Linear, 2), partial(nn.Linear, 3)),
    'held list of a partial': (partial(sorted, [1]), partial(sorted, [2])),
    'bound method': (Slots([1]).__init__, Slots([2]).__init__),
    'bound list': ([1].append, [2].append),
    'class': (Settings, Slots),
    'itself': (cycle(1), cycle(2)),
    'each other': (cyclic(1), cyclic(2)),
    'function that holds': (holding([1]), holding([2]))}

@pytest.mark.parametrize('name', contents)
def test_contents_count(name):
    a,b = (identity_of(holding(o), name) for o in contents[name])
    assert a!=b
    assert a==identity_of(holding(contents[name][0]), name)

def test_contents_count_wherever_they_are_held():
    def default(x=1, *, y=2): pass
    got = {identity_of(default, '')}
    for defaults,named in ((2,),dict(y=2)),((1,),dict(y=3)),(([1],),dict(y=2)),(([2],),dict(y=2)):
        default.__defaults__,default.__kwdefaults__ = defaults,named
        got.add(identity_of(default, ''))
    default.note = [1]
    got.add(identity_of(default, ''))
    assert len(got)==6

@pytest.mark.parametrize('func', [by_globals, outer, Own, Own([1.]).forward, partial(by_globals)])
def test_globals_count_also_those_of_what_is_called(func):
    before = identity_of(func, '')
    changed = [(table['a'], 1)] if func not in (Own,) and getattr(func, '__name__', '')!='forward' else [(factor, 0)]
    for place,i in changed:
        old = place[i]
        place[i] = 7
        try: assert identity_of(func, '')!=before
        finally: place[i] = old
    assert identity_of(func, '')==before

def test_attributes_and_methods_of_classes_count(monkeypatch):
    before = identity_of(holding(Own), '')
    monkeypatch.setattr(Own, 'scale', 3.)
    assert identity_of(holding(Own), '')!=before
    monkeypatch.undo()
    monkeypatch.setattr(Own, 'forward', lambda self, x, y: x.sum())
    assert identity_of(holding(Own), '')!=before

def test_functions_without_source_are_told_apart_by_what_they_do():
    def typed(text):
        space = {}
        exec(text, space)
        return space['f']
    one,two,again = (identity_of(typed(f'def f(t): return t+{i}'), '') for i in (1,2,1))
    assert one==again!=two

def test_attributes_do_not_stand_for_globals_of_the_same_name():
    lock = threading.Lock()
    space = dict(held=lock)
    exec('def f(t): return t.held', space)
    identity_of(space['f'], '')

def all_keys():
    torch.manual_seed(0)
    return [identity_of(holding(o), k) for k,pair in contents.items() if k!='network' for o in pair] + [
        identity_of(by_globals, ''), identity_of(Own, '')]

def test_another_process_comes_to_the_same(): assert warm_call(all_keys)==all_keys()

unreadable = {'generator': (i for i in range(3)), 'lock': threading.Lock(), 'open file': open(__file__), # noqa: SIM115
              'frame': __import__('sys')._getframe()}

@pytest.mark.parametrize('name', unreadable)
def test_what_cannot_be_read_is_refused(name):
    for method in holding(unreadable[name]),holding([{'deep': unreadable[name]}]),partial(holding, unreadable[name]):
        words = "'mine' holds something that cannot be read, of type .*: give it a version="
        with pytest.raises(ValueError, match=words): identity_of(method, 'mine')
        one,two,again = (identity_of(method, 'mine', version=v) for v in ('1','2','1'))
        assert one==again!=two

def test_an_iterator_counts_by_what_is_left_of_it():
    counter = itertools.count(3)
    before = identity_of(holding(counter), '')
    next(counter)
    assert identity_of(holding(counter), '')!=before

def test_a_version_is_given_where_a_method_is_named(monkeypatch):
    for kept in methods._methods,described: monkeypatch.setitem(kept, 'own_of_test', None)
    def own(t): "does nothing"
    add_method('own_of_test', own, version='7')
    assert find_method('own_of_test').version=='7' and Method('a', own, 'x').version is None
    @add_method('own_of_test', version=8)
    def decorated(t): "does nothing"
    assert find_method('own_of_test').version==8
    def net(n_classes): return nn.Linear(3, n_classes)
    before = identity_of(net, '')
    net.version = 2
    assert identity_of(net, '')!=before

def test_a_network_that_cannot_be_read_is_told_what_to_do():
    words = 'compare needs networks .* of type lock: give the function an attribute `version`'
    with pytest.raises(ValueError, match=words): identity_of(holding(threading.Lock()), 'net', kind='networks')
