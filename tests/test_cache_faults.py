"""What a cache must not keep: randomness that only some items have, items of a data set or a step that was changed,
items of files that were written again, and items that cannot be pickled and read again. Each against the same loaders
without a cache."""
import ctypes
import random
import threading
import warnings
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    DataLoaders,
    Datasets,
    ImageDataLoaders,
    PILImage,
    Resize,
    ToTensor,
    Transform,
    get_image_files,
    set_seed,
)
from PIL import Image, ImageOps
from toys import Points, equal, make_learner, make_net, quiet_fit, seeded_dl

from fastai_balmix.all import BalancedMixUp
from fastai_balmix.loaders.chance import generator_states
from fastai_balmix.loaders.traits import Traits


def loaders(ds, num_workers=0): return DataLoaders(*(seeded_dl(ds, num_workers=num_workers) for _ in range(2)))

def epochs(dl, n=3, seed=0):
    set_seed(seed)
    return [torch.cat([b[0] for b in dl]) for _ in range(n)]

def told(f):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        res = f()
    return res,[str(o.message) for o in said if str(o.message).startswith('cached')]

# Randomness of some items

class Sometimes(torch.utils.data.Dataset):
    "Adds noise to the items that `which` names; the number of an item is its first value"
    def __init__(self, which, draw, n=40): self.which,self.draw,self.n = which,draw,n
    def __len__(self): return self.n
    def __getitem__(self, i):
        x = torch.full((3,), float(i))
        if i in self.which: x[1] += self.draw()
        return x,i%2

class Deep:
    "Holds a generator where nobody looks for it"
    def __init__(self, gen): self.policy = [dict(ops=[dict(a=[dict(gen=gen)])])]
    def __call__(self):
        gen = self.policy[0]['ops'][0]['a'][0]['gen']
        return float(torch.rand(1, generator=gen)) if isinstance(gen, torch.Generator) else gen.random()

draws = {
    'python': lambda: random.random(), 'gauss': lambda: random.gauss(0, 1), 'numpy': lambda: np.random.rand(),
    'randn': lambda: np.random.randn(), 'torch': lambda: float(torch.rand(1)),
    'Generator': Deep(np.random.default_rng(0)), 'Random': Deep(random.Random(0)),
    'torch.Generator': Deep(torch.Generator()),
}
rare = {5,17,23} # none of them is among those that are tried

@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0,2])
@pytest.mark.parametrize('name', draws)
def test_what_is_random_for_some_items_is_made_anew(name, num_workers):
    dls = loaders(Sometimes(rare, draws[name]), num_workers).cached('1MB')
    res,said = told(lambda: epochs(dls.train, 3))
    noise = torch.stack([o[o[:,0].argsort()] for o in res])
    random_ones = (noise[0]!=noise[1])[:,1].nonzero().flatten().tolist()
    # a worker that is forked anew has the generator of the data set as it was, with and without a cache
    own = num_workers and isinstance(draws[name], Deep)
    assert {*random_ones}<=rare and (own or len(random_ones)==3)
    info = dls.cache_info().loaders[0]
    assert info['items']==37 and info['anew']==3 and info['hits']==2*37
    assert said==['cached: 3 training items drew random numbers. They are made anew each time.']

@pytest.mark.parametrize('name', [o for o in draws if not isinstance(draws[o], Deep)])
def test_what_is_random_for_some_items_is_as_without_a_cache(name):
    ds = Sometimes(rare, draws[name])
    plain,kept = loaders(ds),loaders(ds).cached('1MB')
    for a,b in zip(epochs(plain.train), epochs(kept.train)): equal(a, b)

def test_an_item_that_is_tried_and_random_does_not_speak_for_the_others():
    kept = loaders(Sometimes({0,5}, lambda: random.random())).cached('1MB')
    epochs(kept.train)
    assert [kept.cache_info().loaders[0][o] for o in ('items','anew')]==[38,2]

class Late(Sometimes):
    "Makes its generator when an item first needs it, which can be in a worker"
    def __init__(self): super().__init__(rare, self.draw_late)
    def draw_late(self):
        if not hasattr(self, 'gen'): self.gen = np.random.default_rng()
        return self.gen.random()

class LateTransform(torch.utils.data.Dataset):
    "The same, where the data set has a transform that does it"
    def __init__(self): self.transform = Late()
    def __len__(self): return 40
    def __getitem__(self, i): return self.transform[i]

@pytest.mark.parametrize('ds', [Late,LateTransform])
def test_a_generator_that_a_worker_makes_late_is_seen(ds):
    dls = loaders(ds(), 2).cached('1MB')
    noise = [o[o[:,0].argsort()][:,1] for o in told(lambda: epochs(dls.train, 2))[0]]
    assert {*(noise[0]!=noise[1]).nonzero().flatten().tolist()}==rare
    assert dls.cache_info().loaders[0]['anew']==3

def test_it_is_said_in_training_too():
    def train():
        dls = loaders(Sometimes(rare, lambda: random.random())).cached('1MB')
        quiet_fit(make_learner(dls, net=make_net(3, 2)), 2, BalancedMixUp(1., seed=0, labels=[i%2 for i in range(40)]))
    assert told(train)[1]==['cached: 3 training items drew random numbers. They are made anew each time.']

class FlipWide(Transform):
    "A flip at random, of wide pictures only"
    order = 0
    def encodes(self, x:PILImage): return x.transpose(0) if x.width>x.height and random.random()<.5 else x

def pictures(folder, wide=(), n=24):
    for i in range(n):
        size = (6,12,3) if i in wide else (12,6,3)
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder/f'{i:02}_{i%2}.png')
    return sorted(get_image_files(folder))

def of_pictures(folder, tfms, num_workers=0, **kwargs):
    files = pictures(folder, **kwargs)
    dls = ImageDataLoaders.from_lists(folder, files, [o.stem[-1] for o in files], valid_pct=.25, seed=0, bs=6,
                                      item_tfms=tfms, num_workers=num_workers)
    dls.train.rng = random.Random(0)
    return dls

squish = Resize(8, method='squish')

def test_a_flip_of_wide_pictures_is_as_without_a_cache(tmp_path):
    def make(): return of_pictures(tmp_path, [FlipWide(),squish], wide={2,3,9})
    kept = make().cached('1MB')
    for a,b in zip(epochs(make().train, 4), epochs(kept.train, 4)): equal(a, b)
    assert kept.cache_info().loaders[0]['hits']

# What items are made of

class Folder(torch.utils.data.Dataset):
    scale = 1.
    def __init__(self, files, transform=squish):
        self.files,self.transform,self.options = files,transform,dict(grey=False, levels=[1,2])
        self.calls = 0
        self.by_name = {f'{k:02}': 1. for k in range(200)}
        self.table = np.arange(256, dtype=np.float32)
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        self.calls += 1 # nothing depends on it
        x = ToTensor()(self.transform(PILImage.create(self.files[i]))).float()
        x = torch.from_numpy(self.table)[x.long()]*self.scale*_gain
        x = x*self.by_name[f'{i:02}']
        return (x.mean(0) if self.options['grey'] else x)*self.options['levels'][0],i%2

_gain = 1.
class Twice:
    n = 8
    def __call__(self, im): return PILImage(im.resize((self.n,self.n)))

def set_global(value):
    global _gain
    _gain = value

changes = {
    'one of many': lambda ds: ds.by_name.update({'07':.5}),
    'transform': lambda ds: setattr(ds, 'transform', Resize(12, method='squish')),
    'size of the transform': lambda ds: setattr(ds.transform, 'size', (10,10)),
    'a number': lambda ds: setattr(ds, 'scale', 2.),
    'of the class': lambda ds: setattr(type(ds), 'scale', 3.),
    'an option': lambda ds: ds.options.update(grey=True),
    'deep inside': lambda ds: ds.options['levels'].__setitem__(0, 5),
    'an array in place': lambda ds: ds.table.__iadd__(1),
    'another array': lambda ds: setattr(ds, 'table', ds.table+1),
    'files': lambda ds: setattr(ds, 'files', ds.files[::-1]),
    'one file': lambda ds: ds.files.__setitem__(3, ds.files[4]),
    'a global': lambda ds: set_global(2.),
    'a method': lambda ds: setattr(type(ds), '__getitem__', lambda self, i: (torch.ones(3,8,8),i%2)),
}

@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0,2])
@pytest.mark.parametrize('change', changes)
def test_a_data_set_that_was_changed_is_seen(tmp_path, change, num_workers):
    files = pictures(tmp_path)
    def run(cache):
        global _gain
        _gain = 1.
        class Mine(Folder): pass
        ds = Mine(list(files), Resize(8, method='squish'))
        dls = loaders(ds, num_workers)
        if cache: dls = dls.cached('1MB')
        before = epochs(dls.train, 2)
        changes[change](ds)
        (after),said = told(lambda: epochs(dls.train, 2))
        assert len(said)==(1 if cache else 0)
        if cache: assert 'changed since `cached` was called' in said[0] and dls.cache_info().loaders[0]['hits']==24
        return before+after
    for a,b in zip(run(False), run(True)): equal(a, b)

class Pixels(Folder):
    def __getitem__(self, i): return torch.tensor(np.asarray(self.transform(PILImage.create(self.files[i])))),i%2

class Settings: size = 8
module = ModuleType('settings_of_a_user')

def in_a_function(size):
    "A function with another function in it, to whose code the size belongs"
    where = {}
    exec(f'def f(im):\n    def inner(): return im.resize({(size,size)})\n    return inner()', where)
    return where['f']

others = {
    'a size in a function': lambda ds: setattr(ds, 'transform', lambda im: im.resize((6,6))),
    'a function inside': lambda ds: setattr(ds, 'transform', in_a_function(6)),
    'a name': lambda ds: setattr(ds, 'transform', lambda im: ImageOps.mirror(im)),
    'a class of settings': lambda ds: setattr(Settings, 'size', 6),
    'a module': lambda ds: setattr(module, 'size', 6),
}
firsts = {
    'a size in a function': lambda im: im.resize((8,8)), 'a function inside': in_a_function(8),
    'a name': lambda im: ImageOps.flip(im),
    'a class of settings': lambda im: im.resize((Settings.size,)*2),
    'a module': lambda im: im.resize((module.size,)*2),
}

@pytest.mark.parametrize('change', others)
def test_whatever_a_function_does_or_names_is_looked_into(tmp_path, change, monkeypatch):
    monkeypatch.setattr(Settings, 'size', 8)
    monkeypatch.setattr(module, 'size', 8, raising=False)
    ds = Pixels(pictures(tmp_path), firsts[change])
    plain,kept = loaders(ds),loaders(ds).cached('1MB')
    for o in plain,kept: epochs(o.train, 2)
    others[change](ds)
    (x,),said = told(lambda: epochs(kept.train, 1))
    equal(x, epochs(plain.train, 1)[0])
    assert len(said)==1 and 'changed since `cached` was called' in said[0]

class OfClass(Sometimes):
    gen = np.random.default_rng(0)
    def __init__(self): super().__init__(rare, lambda: self.gen.random())

class OfModule(Sometimes):
    def __init__(self): super().__init__(rare, lambda: module.gen.random())

@pytest.mark.parametrize('kind', [OfClass,OfModule])
def test_generators_of_classes_and_modules_are_found(kind, monkeypatch):
    monkeypatch.setattr(module, 'gen', np.random.default_rng(0), raising=False)
    dls = loaders(kind()).cached('1MB')
    epochs(dls.train, 2)
    assert [dls.cache_info().loaders[0][o] for o in ('items','anew')]==[37,3]

def test_a_transform_of_the_users_own_is_looked_into(tmp_path):
    tfm = Twice()
    ds = Folder(pictures(tmp_path), tfm)
    dls = loaders(ds).cached('1MB')
    assert epochs(dls.train, 2)[1].shape[-1]==8 and dls.cache_info().hits==24
    tfm.n = 6
    assert epochs(dls.train, 1)[0].shape[-1]==6
    tfm.n = 8 # as it was, and what was kept is there
    epochs(dls.train, 1)
    assert dls.cache_info().hits==48

def test_what_both_loaders_have_is_said_once(tmp_path):
    dls = loaders(Folder(pictures(tmp_path), Resize(8, method='squish'))).cached('1MB')
    epochs(dls.train, 1)
    dls.train.dataset.transform = Resize(12, method='squish')
    said = told(lambda: [epochs(dl, 2) for dl in dls])[1]
    assert said==['cached: dataset.transform.size changed since `cached` was called, so items are made anew each time. '
                  'Call `cached` again to keep them as they are now.']

def test_closures_and_arguments_of_a_pipeline_are_looked_into(tmp_path):
    sizes = dict(n=8)
    def opened(path): return PILImage(PILImage.create(path).resize((sizes['n'],)*2))
    tfms = [opened,ToTensor()],[lambda o: int(o.stem[-1])]
    dsets = Datasets(pictures(tmp_path), tfms, splits=[range(18),range(18,24)])
    kept = dsets.dataloaders(bs=6, num_workers=0).cached('1MB')
    epochs(kept.train, 2)
    assert kept.cache_info().hits==18
    sizes['n'] = 5
    assert epochs(kept.train, 1)[0].shape[-1]==5

def test_what_making_items_changes_is_no_change(tmp_path):
    dls = loaders(Points()).cached('1MB') # keeps which items were opened
    _,said = told(lambda: epochs(dls.train))
    assert not said and dls.cache_info().hits==2*51

@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0,2])
@pytest.mark.parametrize('kind', ['list','table','relative'])
def test_a_file_that_was_written_again_is_read_again(tmp_path, kind, num_workers):
    files = pictures(tmp_path)
    if kind=='list': dls = of_pictures(tmp_path, squish, num_workers)
    elif kind=='table':
        df = pd.DataFrame(dict(name=[o.name for o in files], label=[o.stem[-1] for o in files]))
        dls = ImageDataLoaders.from_df(df, tmp_path, seed=0, bs=6, item_tfms=squish, num_workers=num_workers)
    else:
        class Rooted(Folder):
            def __init__(self, root, files):
                super().__init__(files)
                self.root = root

            def __getitem__(self, i): return ToTensor()(squish(PILImage.create(self.root/self.files[i]))),i%2
        dls = loaders(Rooted(tmp_path, [o.name for o in files]), num_workers)
    kept = dls.cached('1MB')
    epochs(kept.train, 2)
    hits = kept.cache_info().loaders[0]['hits']
    n = len(kept.train_ds)
    assert hits==n
    for o in files:
        Image.fromarray(np.full((12,6,3), 7, dtype=np.uint8)).save(o)
    x = epochs(kept.train, 1)[0]
    assert (x==x.flatten()[0]).all()

# What cannot be read again

class Broken:
    "Pickles, and cannot be read again"
    def __reduce__(self): return int,('no number',)
class Refuses:
    def __reduce__(self): raise RuntimeError('no')
class Deeper:
    def __reduce__(self): raise RecursionError
class Forgets:
    def __init__(self, n=0): self.n = n
    def __reduce__(self): return Forgets,()
class Counts:
    n = 0
    def __getstate__(self):
        Counts.n += 1
        return dict(k=Counts.n)

unreadable = dict(broken=Broken, refuses=Refuses, deeper=Deeper, lock=threading.Lock, function=lambda: (lambda: 0),
                  forgets=lambda: Forgets(3), counts=Counts, pointer=lambda: ctypes.pointer(ctypes.c_int(3)),
                  generator=lambda: (i for i in range(3)))

class Handles(torch.utils.data.Dataset):
    def __init__(self, which, make, n=40): self.which,self.make,self.n = which,make,n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((3,), float(i)),self.make() if i in self.which else 0

def first_part(items): return (torch.stack([o[0] for o in items]),torch.zeros(len(items)))

def of_handles(which, make, num_workers):
    return DataLoaders(*(seeded_dl(Handles(which, make), create_batch=first_part, num_workers=num_workers)
                         for _ in range(2)))

@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0,2])
@pytest.mark.parametrize('some', [True,False], ids=['some','all'])
@pytest.mark.parametrize('kind', unreadable)
def test_what_cannot_be_read_again_is_not_kept(kind, some, num_workers):
    which = {5,17,23} if some else set(range(40))
    plain = of_handles(which, unreadable[kind], num_workers)
    def run():
        kept = of_handles(which, unreadable[kind], num_workers).cached('1MB')
        return kept,epochs(kept.train)
    (kept,res),said = told(run)
    for a,b in zip(epochs(plain.train), res): equal(a, b)
    assert kept.cache_info().loaders[0]['hits']==(2*37 if some else 0)
    assert len(said)==1
    if some:
        assert said==['cached: 3 training items could not be pickled and read again. They are made anew each time.']

# Generators and traits

def test_generators_are_read_where_they_lie():
    "Every draw changes a state, nothing else does, and setting it back gives the earlier one"
    calls = [random.random, lambda: random.gauss(0, 1), lambda: random.gauss(0, 1), lambda: random.getrandbits(8),
             np.random.rand, np.random.randn, np.random.randn, lambda: np.random.bytes(1), lambda: torch.rand(1)]
    for f in calls*700: # beyond the 624 words of a state
        before = generator_states()
        assert generator_states()==before
        f()
        assert generator_states()!=before
    a = random.getstate(),np.random.get_state(),torch.get_rng_state()
    before = generator_states()
    for f in calls: f()
    random.setstate(a[0])
    np.random.set_state(a[1])
    torch.set_rng_state(a[2])
    assert generator_states()==before

def test_as_many_numbers_as_a_state_has_words_are_seen():
    for n in 624,1248:
        before = generator_states()
        np.random.bytes(4*n)
        assert generator_states()!=before
        before = generator_states()
        for _ in range(n): random.getrandbits(32)
        assert generator_states()!=before

def test_a_data_set_of_any_size_is_looked_at_in_bounded_time():
    ring = []
    ring.append(ring)
    big = [dict(k=[object() for _ in range(50)]) for _ in range(2000)]
    for o in ring,big,type('Slots', (), dict(__slots__=('a','b')))(),np.zeros(10**7),torch.zeros(10**7):
        a = Traits(o=o)
        assert len(a.values)<=20_000 and not a.changed(Traits(o=o))
