"""Loaders that keep what is constant of their items. What a user must be able to rely on: the same training to the last
bit, every look-up accounted for, augmentation as varied as without, and a plain loader's behaviour wherever nothing can
be kept."""
import gc
import os
import pickle
import random
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from copy import deepcopy
from multiprocessing import set_start_method
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from conftest import warm_call
from fastai.vision.all import (
    Categorize,
    CategoryBlock,
    CropPad,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoader,
    DataLoaders,
    Datasets,
    DihedralItem,
    EndSplitter,
    FlipItem,
    FuncSplitter,
    ImageBlock,
    ImageDataLoaders,
    ItemTransform,
    L,
    Learner,
    MixUp,
    PILImage,
    PILImageBW,
    Pipeline,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    SkipItemException,
    TfmdDL,
    ToTensor,
    Transform,
    accuracy,
    get_image_files,
    load_learner,
    mk_transform,
    parent_label,
    set_seed,
)
from PIL import Image, UnidentifiedImageError
from scipy import stats
from sklearn.datasets import load_sample_image
from torch import nn
from toys import (
    Points,
    Probe,
    Tally,
    alive,
    children,
    equal,
    generator_states,
    must_be,
    params,
    quiet_fit,
    seeded_dl,
    tail_targets,
    until,
)

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling
from fastai_balmix.loaders.cache import Cached, Steps, size_bytes
from fastai_balmix.loaders.store import Store

# Photographs in folders, with a tail

counts = dict(a=12, b=6, c=2)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Parts of a photograph as JPEG files, those of class c larger than the others"
    root = tmp_path_factory.mktemp('photos')
    im = load_sample_image('china.jpg')
    i = 0
    for name,n in counts.items():
        (root/name).mkdir()
        for _ in range(n):
            h = 48 if name=='c' else 40
            Image.fromarray(im[i*9:i*9+h, i*15:i*15+60]).save(root/name/f'{i:02}.jpg', quality=90)
            i += 1
    for i in range(6):
        (root/'valid').mkdir(exist_ok=True)
        (root/'valid'/'abc'[i%3]).mkdir(exist_ok=True)
        Image.fromarray(im[100+i*9:140+i*9, i*15:i*15+60]).save(root/'valid'/'abc'[i%3]/f'{i:02}.jpg', quality=90)
    return root

squish = Resize(32, method='squish')

def photo_dls(root, item_tfms=squish, bs=5, num_workers=0, seed=0, times=1, **kwargs):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=lambda o: get_image_files(o)*times, get_y=parent_label,
                      splitter=FuncSplitter(lambda o: 'valid' in o.parts), item_tfms=item_tfms)
    dls = block.dataloaders(root, bs=bs, num_workers=num_workers, **kwargs)
    dls.train.rng = random.Random(seed)
    return dls

def all_batches(dl, n=2, seed=3):
    set_seed(seed)
    return [b for _ in range(n) for b in dl]

def assert_same_batches(a, b):
    assert len(a)==len(b)
    for p,q in zip(a, b):
        for x,y in zip(p, q):
            assert type(x) is type(y)
            equal(x, y)

class Shifting(ItemTransform):
    "Randomness of all three generators"
    order,split_idx = 3,0
    def encodes(self, o):
        k = random.randrange(4)+np.random.randint(4)+int(torch.randint(4, (1,)))
        return (PILImage(Image.fromarray(np.roll(np.array(o[0]), k, axis=1))),*o[1:])

pipelines = {
    'squish': squish,
    'crop': Resize(32),
    'pad': Resize(32, method='pad'),
    'random crop': RandomResizedCrop(32),
    'flip': [squish,FlipItem()],
    'own': [squish,Shifting()],
    'all': [RandomResizedCrop(40, min_scale=.5),DihedralItem(),Shifting(),Resize(32, method='squish')],
}

# The same, to the last bit

@pytest.mark.thinned
@pytest.mark.parametrize('name', pipelines)
@pytest.mark.parametrize('size', ['10MB','60kB'])
def test_batches_are_the_same_to_the_last_bit(photos, name, size):
    tfms = pipelines[name]
    plain = photo_dls(photos, tfms)
    kept = photo_dls(photos, tfms).cached(size)
    for part in 'train','valid':
        assert_same_batches(all_batches(getattr(plain, part), 3), all_batches(getattr(kept, part), 3))
    info = kept.cache_info()
    assert info.hits and (info.items==26)==(size=='10MB')

def net(): return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))

def fitted(dls, cbs=None, n=3):
    set_seed(7)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), lr=.1, metrics=accuracy)
    quiet_fit(learn, n, cbs)
    return learn

mixers = {
    'plain': lambda: None,
    'balmix': lambda: BalancedMixUp(1., seed=3),
    'balmix per item': lambda: BalancedMixUp(1., per_item=True, seed=3),
    'progressive': lambda: ProgressiveSampling(seed=3),
    'mixup': MixUp,
}

@pytest.mark.thinned
@pytest.mark.parametrize('name,weighted', [
    ('squish','no'), ('random crop','no'), ('all','no'), ('all','before'), ('all','after')
])
@pytest.mark.parametrize('cbs', mixers.values(), ids=mixers)
def test_training_is_the_same_to_the_last_bit(photos, name, cbs, weighted):
    def make(cache):
        dls = photo_dls(photos, pipelines[name])
        if weighted=='before': dls = dls.weighted('class', seed=1)
        if cache: dls = dls.cached('10MB')
        return dls.weighted('class', seed=1) if weighted=='after' else dls
    plain,kept = (fitted(make(o), cbs()) for o in (False,True))
    equal(params(plain), params(kept))
    assert plain.recorder.values==kept.recorder.values
    info = kept.dls.cache_info()
    assert all(o['hits'] for o in info.loaders)

@pytest.mark.parametrize('cbs', [lambda: None, lambda: BalancedMixUp(1., seed=3)])
def test_workers_change_nothing_where_nothing_is_random(photos, cbs):
    one = fitted(photo_dls(photos), cbs())
    two = fitted(photo_dls(photos, num_workers=2).cached('10MB'), cbs())
    equal(params(one), params(two))

def test_loaders_that_were_given_stay_as_they_are(photos):
    dls = photo_dls(photos)
    kept = dls.cached('10MB')
    assert type(dls.train) is TfmdDL and type(dls.valid) is TfmdDL
    assert isinstance(kept.train, Cached) and isinstance(kept.train, TfmdDL)
    before = dls.train.rng.getstate()
    all_batches(kept.train)
    assert dls.train.rng.getstate()==before
    words = "'dls' parameter of cache_info must be loaders made by `cached`. Got TfmdDL, TfmdDL instead"
    with pytest.raises(ValueError, match=words): dls.cache_info()

def test_making_a_cache_draws_no_random_number(photos):
    points = DataLoaders(seeded_dl(Points()), seeded_dl(Points()))
    for dls in photo_dls(photos),photo_dls(photos, pipelines['all']),points:
        def state():
            flags = torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark
            return generator_states(),dls.train.rng.getstate(),flags
        set_seed(1)
        before = state()
        dls.cached('1MB')
        assert state()==before

class LoggedCrop(RandomResizedCrop):
    "Adds the crop it chose to the label, from where workers send it"
    def __call__(self, b, split_idx=None, **kwargs):
        x,y = super().__call__(b, split_idx=split_idx, **kwargs)
        return x,(y,torch.tensor([*self.tl,*self.cp_size]))

@pytest.mark.slow
def test_crops_of_workers_are_as_varied_as_without(photos):
    "Two-sample tests of position and size of the crops of 3 epochs of 400 images, by Kolmogorov and Smirnov, at 0.1 %"
    def crops(dls):
        set_seed(0)
        return torch.cat([y[1] for _ in range(3) for x,y in dls.train]).numpy()
    plain,kept = (photo_dls(photos, LoggedCrop(32, min_scale=.2), num_workers=2, times=20, bs=50) for _ in range(2))
    kept = kept.cached('10MB')
    a,b = crops(plain),crops(kept)
    assert len(a)==len(b)==1200 and kept.cache_info().hits>=800
    for k in range(4): assert stats.ks_2samp(a[:,k], b[:,k]).pvalue>1e-3
    # and every epoch has crops of its own
    assert len({*map(tuple, b)})>.5*len({*map(tuple, a)})

# Every look-up accounted for

targets = tail_targets(20, 8, 4)

def tally_dls(num_workers, **kwargs):
    train = seeded_dl(Tally(targets, **kwargs), num_workers=num_workers)
    valid = seeded_dl(Tally(targets[:10], **kwargs), shuffle=False, num_workers=num_workers)
    return DataLoaders(train, valid, device='cpu')

def reset(dls):
    for o in dls.loaders: o.dataset.n_opened.zero_()

@pytest.mark.parametrize('num_workers', [0,2])
def test_hits_and_misses_of_plain_epochs_are_exact(num_workers):
    dls = tally_dls(num_workers)
    kept = dls.cached('1MB')
    reset(dls)
    learn = Learner(kept, nn.Linear(1,3), loss_func=CrossEntropyLossFlat())
    quiet_fit(learn, 2)
    assert [(o['n'],o['items'],o['misses'],o['hits']) for o in kept.cache_info().loaders]==[(32,32,32,32),(10,10,10,10)]
    assert all((o.dataset.n_opened==1).all() for o in dls.loaders)

@pytest.mark.parametrize('num_workers', [0,2])
def test_hits_and_misses_of_weighted_epochs_are_exact(num_workers):
    dls = tally_dls(num_workers)
    dl = dls.weighted('class', seed=1).train
    drawn = [torch.cat([x for x,_ in dl]).long().flatten().tolist() for _ in range(2)]
    kept = dls.cached('1MB').weighted('class', seed=1)
    reset(dls)
    for _ in range(2):
        for _ in kept.train: pass
    opened,seen = dls.train.dataset.n_opened,{*drawn[0],*drawn[1]}
    info = kept.cache_info().loaders[0]
    # with two workers an item may be opened by both at the same time
    assert info['hits']+info['misses']==64 and info['items']==len(seen) and info['misses']==int(opened.sum())
    assert {i for i in range(32) if opened[i]}==seen and (num_workers or info['misses']==len(seen))

@pytest.mark.parametrize('num_workers', [0,2])
def test_hits_and_misses_of_balanced_mixup_are_exact(num_workers):
    dls = tally_dls(num_workers)
    kept = dls.cached('1MB')
    reset(dls)
    pairs = Probe(lambda o: len(o.x)//2 if o.dl.lam else 0, 'before_batch', order=BalancedMixUp.order-1)
    learn = Learner(kept, nn.Linear(1,3), loss_func=CrossEntropyLossFlat())
    quiet_fit(learn, 2, [BalancedMixUp(1., seed=0),pairs])
    info = kept.cache_info().loaders[0]
    # every item and partner, and seven looked at, for the checks of inputs and labels
    assert info['hits']+info['misses']==2*32+sum(pairs.seen)+7
    assert info['misses']==int(dls.train.dataset.n_opened.sum())
    assert info['items']==32
    if not num_workers: assert (dls.train.dataset.n_opened==1).all()
    assert kept.cache_info().loaders[1]['misses']==10 and (kept.valid.dataset.n_opened==1).all()

@pytest.mark.parametrize('n_fit', [0,1,4,12,13,31,32,35,42,60])
def test_the_rarest_classes_go_first(n_fit):
    "Twelve items are of the rare classes, 4 of the rarest; validation items come last"
    dls = tally_dls(0, shape=(500,))
    size = Steps(dls.train).sizes[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        kept = dls.cached(Store.overhead(42, 2)+n_fit*size)
    for _ in range(2): [*kept.train],[*kept.valid]
    reset(dls)
    [*kept.train],[*kept.valid]
    y = np.array(targets)
    opened = dls.train.dataset.n_opened.numpy()>0
    n = {k: int((~opened[y==k]).sum()) for k in range(3)}
    left = min(n_fit, 42)
    expected = {}
    for k,m in (2,4),(1,8),(0,20):
        expected[k] = min(left, m)
        left -= expected[k]
    assert n==expected and int((dls.valid.dataset.n_opened==0).sum())==left
    assert kept.cache_info().bytes==min(n_fit, 42)*size

def test_never_more_than_was_asked_for_and_no_more_than_is_needed(photos):
    dls = photo_dls(photos, RandomResizedCrop(32)) # pictures of two sizes are kept
    for size in '20kB','60kB','1MB','100TB':
        kept = dls.cached(size)
        for _ in range(2): [*kept.train],[*kept.valid]
        info = kept.cache_info()
        assert info.bytes<info.size<=size_bytes(size) and info.size<1_000_000 and info.items
    assert info.items==26

# What is constant

def noop_user(x): return x
def uses_random(x): return (x,random.random())[0]
def uses_numpy(x): return (x,np.random.rand())[0]
def uses_torch(x): return (x,torch.rand(1))[0]
_own = np.random.default_rng(0)
def uses_global(x): return (x,_own.random())[0]
def with_closure():
    rng = random.Random(0)
    def f(x): return x if rng else None
    return f
class Stateful(Transform):
    order = 2
    def __init__(self): self.rng = np.random.default_rng(0)
    def encodes(self, x:Image.Image): return x
class Counter(Transform):
    "Gives another result each time, with no generator"
    order,n = 2,0
    def encodes(self, x:Image.Image):
        self.n += 1
        return PILImage(Image.fromarray(np.roll(np.array(x), self.n, axis=0)))
class TrainOnly(Transform):
    order,split_idx = 2,0
    def encodes(self, x:Image.Image): return x
class MyResize(Resize): pass

def of(tfms, part, photos): return Steps(photo_dls(photos, tfms)[part]).names()

@pytest.mark.parametrize('tfms,train,valid', [
    (squish, 3, 3), (Resize(32), 1, 3), (Resize(32, method='pad'), 1, 3), (RandomCrop(32), 1, 3),
    (RandomResizedCrop(32), 1, 3), (CropPad(32), 3, 3),
    (MyResize(32, method='squish'), 1, 1), (Resize(32, method='squish', p=.5), 1, 1), ([squish,FlipItem()], 1, 1),
    ([squish,TrainOnly()], 2, 4), ([squish,Stateful()], 2, 2), ([squish,Counter()], 2, 2),
    ([squish,ItemTransform(noop_user)], 4, 4),
    *(([squish,ItemTransform(f)], 0, 0) for f in (uses_random,uses_numpy,uses_torch,uses_global,with_closure())),
])
def test_where_the_first_random_step_is(photos, tfms, train, valid):
    """Number of constant steps, opening the file included. Functions of a user come before the resize, and so does
    fastai's flip, which draws a number even in validation."""
    for part,n in enumerate((train,valid)):
        constant,each = of(tfms, part, photos)
        assert len(constant)==(n or 1) and len(constant)+len(each)==3+(1 if isinstance(tfms, list) else 0)

def test_random_steps_of_the_data_set_are_made_anew(photos):
    fns = get_image_files(photos/'a')+get_image_files(photos/'b')
    def make():
        tfms = [PILImage.create,RandomResizedCrop(24),ToTensor()],[parent_label,Categorize()]
        ds = Datasets(fns, tfms, splits=[range(14),range(14,18)])
        dls = ds.dataloaders(bs=4, num_workers=0)
        dls.train.rng = random.Random(1)
        return dls
    assert Steps(make().train).names()==[['PILBase.create'],['RandomResizedCrop','ToTensor']]
    kept = make().cached('1MB')
    assert_same_batches(all_batches(make().train, 3), all_batches(kept.train, 3))
    assert kept.cache_info().loaders[0]['hits']==2*14

class Sub(Datasets):
    def __getitem__(self, i): return super().__getitem__(i)

def test_data_sets_that_make_items_in_their_own_way_are_taken_whole(photos):
    fns = get_image_files(photos/'a')
    for tfm,ok in (squish,True),(RandomResizedCrop(32),False):
        ds = Sub(fns, [[PILImage.create,tfm,ToTensor()],[parent_label,Categorize()]], splits=[range(8),range(8,12)])
        assert bool(Steps(ds.dataloaders(bs=4, num_workers=0).train))==ok

def test_items_that_are_random_from_the_first_step_are_refused():
    dls = DataLoaders(seeded_dl(toys.Noisy()), seeded_dl(toys.Noisy()))
    with pytest.raises(ValueError) as e: dls.cached()
    assert str(e.value)==('cached needs items that begin with a constant step, such as opening a file, '
                          'but the first step of these, Noisy.__getitem__, is random.')

def test_random_validation_items_are_no_reason_to_refuse():
    kept = DataLoaders(seeded_dl(Points()), seeded_dl(toys.Noisy(), shuffle=False)).cached('1MB')
    for _ in range(2): [*kept.train],[*kept.valid]
    assert [(o['items'],o['hits']) for o in kept.cache_info().loaders]==[(51,51),(0,0)]

class DrawsItself(Points):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

def test_a_data_set_with_a_generator_of_its_own_is_not_trusted():
    with pytest.raises(ValueError, match='random'): DataLoaders(seeded_dl(DrawsItself()), seeded_dl(Points())).cached()

def test_own_item_makers_are_followed():
    ds = Points()
    dl = seeded_dl(ds, create_item=lambda i: (ds.x[i]*2,ds.targets[i]))
    kept = DataLoaders(dl, seeded_dl(ds)).cached('1MB')
    assert_same_batches(all_batches(dl), all_batches(kept.train))
    assert kept.cache_info().loaders[0]['hits']==51
    noisy = seeded_dl(ds, create_item=lambda i: (ds.x[i]+torch.rand(6),ds.targets[i]))
    with pytest.raises(ValueError, match='random'): DataLoaders(noisy, noisy).cached()

def test_own_after_item_functions_are_followed():
    for f,n in (lambda o: (o[0]*2,o[1]), 51),(lambda o: (o[0]+torch.rand(6),o[1]), 51):
        dl = seeded_dl(Points(), after_item=f)
        kept = DataLoaders(dl, dl).cached('1MB')
        assert_same_batches(all_batches(dl), all_batches(kept.train))
        assert kept.cache_info().loaders[0]['hits']==n

# Wherever what was kept would be wrong

def test_tta_runs_training_steps_on_validation_items(photos):
    dls = photo_dls(photos, RandomResizedCrop(32, min_scale=.3))
    kept = dls.cached('10MB')
    plain,mine = (Learner(o, net(), loss_func=CrossEntropyLossFlat()) for o in (dls,kept))
    mine.model.load_state_dict(plain.model.state_dict())
    for learn in plain,mine: [*learn.dls.valid] # so that they are kept
    res = []
    for learn in plain,mine:
        set_seed(2)
        with learn.no_bar(): res.append(learn.tta(n=3)[0])
    equal(*res)

changes = {
    'size': lambda dl: setattr(dl.after_item.fs[0], 'size', (16,16)),
    'one more': lambda dl: dl.after_item.add(FlipItem(1.)),
    'another': lambda dl: setattr(dl, 'after_item', Pipeline([Resize(16, method='squish'),ToTensor()])),
    'opened in grey': lambda dl: setattr(dl.dataset.tls[0].tfms, 'fs', L(mk_transform(PILImageBW.create))),
}

@pytest.mark.parametrize('change', changes.values(), ids=changes)
def test_a_step_that_was_changed_is_seen(photos, change):
    res = []
    for cache in False,True:
        dls = photo_dls(photos, Resize(32, method='squish'))
        if cache: dls = dls.cached('10MB')
        [*dls.train]
        change(dls.train)
        res.append(all_batches(dls.train))
    assert_same_batches(*res)

def test_a_data_set_that_was_changed_is_seen():
    ds = Points()
    kept = DataLoaders(seeded_dl(ds), seeded_dl(ds)).cached('1MB')
    [*kept.train]
    ds.targets,ds.x = ds.targets[:40],ds.x[:40]+1
    kept.train.n = 40
    assert all(torch.isin(x[:,0], ds.x[:,0]).all() for x,_ in kept.train)

def test_new_loaders_keep_what_is_theirs(photos):
    dls = photo_dls(photos)
    kept = dls.cached('10MB')
    [*kept.train]
    larger = kept.train.new(bs=10)
    a = all_batches(larger)
    assert kept.cache_info().loaders[0]['hits']==40 and len(a[0][0])==10
    test = kept.test_dl(get_image_files(photos/'c'))
    assert test.store is None and len(test.one_batch()[0])==2
    # other data under the same class of loader are not looked up
    other = kept.train.new(photo_dls(photos).valid_ds, drop_last=False)
    assert other.store is None
    equal(torch.cat([x for x,_ in other]).sort(0)[0], torch.cat([x for x,_ in dls.valid]).sort(0)[0])

def test_exported_learners_and_copies(photos, tmp_path):
    kept = photo_dls(photos).cached('10MB')
    learn = fitted(kept, BalancedMixUp(1., seed=0), 1)
    expected = learn.get_preds()[0]
    assert deepcopy(learn).dls.train.store is learn.dls.train.store
    learn.path = tmp_path
    learn.export('m.pkl')
    assert (tmp_path/'m.pkl').stat().st_size<300_000
    again = load_learner(tmp_path/'m.pkl')
    fn = get_image_files(photos/'valid')[0]
    equal(again.predict(fn)[2], learn.predict(fn)[2])
    equal(learn.get_preds()[0], expected)
    whole = pickle.loads(pickle.dumps(kept.valid))
    assert whole.store is None
    assert_same_batches(all_batches(whole), all_batches(kept.valid))

# Loaders and items of other kinds

def test_pytorch_loaders():
    ds = Points()
    def make(): return torch.utils.data.DataLoader(ds, batch_size=8, sampler=list(range(0, 51, 2)))
    kept = DataLoaders(make(), make()).cached('1MB')
    for _ in range(2): assert_same_batches(*([tuple(b) for b in dl] for dl in (make(),kept.train)))
    assert kept.cache_info().loaders[0]['hits']==26

def test_iterable_data_sets_are_refused():
    class It(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(torch.ones(1),0)]*4)
    dl = DataLoader(It(), bs=2)
    words = "'dls' parameter of cached must be loaders of a data set with a length and an index"
    with pytest.raises(ValueError, match=words): DataLoaders(dl, dl).cached()

def test_loaders_that_make_no_items_are_refused():
    class Whole(DataLoader):
        def do_item(self, i): return i
    dl = Whole(Points(), bs=4)
    with pytest.raises(ValueError, match="must be loaders that make items one by one from a data set. Got Whole"):
        DataLoaders(dl, dl).cached()

def test_items_that_are_no_images():
    ds = [(dict(a=torch.ones(2)*i, name=f'n{i}'),i%2) for i in range(8)]
    kept = DataLoaders(seeded_dl(ds), seeded_dl(ds)).cached('1MB')
    for _ in range(2): b = all_batches(kept.train, 1)
    assert kept.cache_info().items==8 and sorted(b[0][0]['name'])==[f'n{i}' for i in range(8)]

class Handles(Points):
    def __getitem__(self, i): return super().__getitem__(i)[0],(i%2 if i else (lambda: 0))

def test_items_that_do_not_pickle_are_made_anew():
    ds = [(torch.ones(1)*i,(lambda: 0)) for i in range(6)]
    dl = DataLoader(ds, bs=6, create_batch=lambda b: torch.cat([o[0] for o in b]))
    with pytest.warns(UserWarning, match='could not be pickled and read again. Caching is off'):
        kept = DataLoaders(dl, dl).cached()
    for _ in range(2): assert sorted(kept.train.one_batch().flatten().tolist())==[*range(6)]

def test_items_that_are_skipped_stay_so():
    class Skips(Points):
        def __getitem__(self, i):
            if i%5==1: raise SkipItemException()
            return super().__getitem__(i)
    dl = seeded_dl(Skips(), shuffle=False)
    kept = DataLoaders(dl, dl).cached('1MB')
    for _ in range(2): assert_same_batches(all_batches(dl, 1), all_batches(kept.train, 1))

def test_a_file_that_cannot_be_opened_is_left_to_training(photos, tmp_path):
    for k in range(6):
        (tmp_path/str(k%2)).mkdir(exist_ok=True)
        Image.fromarray(load_sample_image('flower.jpg')[k:k+20,:30]).save(tmp_path/str(k%2)/f'{k}.png')
    (tmp_path/'0'/'0.png').write_bytes(b'no picture')
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.34, seed=1, bs=2, item_tfms=squish, num_workers=0)
    kept = dls.cached('1MB')
    with pytest.raises(UnidentifiedImageError): [*kept.train],[*kept.valid]
    for o in get_image_files(tmp_path): o.write_bytes(b'no picture')
    with pytest.raises(UnidentifiedImageError): dls.cached('1MB')

def test_a_single_item_and_no_validation_items():
    ds = [(torch.ones(2),0)]
    kept = DataLoaders(DataLoader(ds, bs=1), DataLoader([], bs=1)).cached('1kB')
    for _ in range(2): [*kept.train]
    assert (kept.cache_info().items,kept.cache_info().hits)==(1,1)

def test_two_caches_at_once(photos):
    a = photo_dls(photos).cached('10MB')
    b = photo_dls(photos, Resize(16, method='squish')).cached('10MB')
    for (x,_),(z,_) in zip(a.train, b.train): assert x.shape[-1]==32 and z.shape[-1]==16
    for o in a,b: assert o.cache_info().loaders[0]['items']==20
    del a
    assert [z.shape[-1] for z,_ in b.train]==[16]*4

# No room

@pytest.mark.parametrize('size,words', [
    ('2 gigs',"Got '2 gigs'"), (-1,'Got -1'), (True,'Got True'), (None,'Got None'), (1.5,'Got 1.5'), ('',"Got ''"),
    ('-2GB',"Got '-2GB'"), ('nanGB',"Got 'nanGB'")
])
def test_sizes_that_are_none(photos, size, words):
    with pytest.raises(ValueError) as e: photo_dls(photos).cached(size)
    assert str(e.value)==must_be('cached', 'size', "a number of bytes in the range [0, inf), or words such as '2GB', "
                                 f"'500MB' or '1.5GiB'. {words} instead.")

@pytest.mark.parametrize('size,n', [
    ('2GB',2*10**9), ('2gb',2*10**9), ('1.5 MiB',1572864), ('.5kB',500), ('7B',7), (12,12), (np.int64(9),9),
    ('1TiB',2**40)
])
def test_sizes(size, n): assert size_bytes(size)==n

def warned(f):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        res = f()
    return res,[str(o.message) for o in said if o.category is UserWarning]

def assert_trains_without(kept, photos):
    assert kept.cache_info().size==kept.cache_info().items==0
    assert_same_batches(all_batches(photo_dls(photos).train), all_batches(kept.train))
    assert kept.cache_info().hits==kept.cache_info().misses==0

def test_zero_keeps_nothing(photos):
    kept,said = warned(lambda: photo_dls(photos).cached(0))
    assert said==[]
    assert_trains_without(kept, photos)

def test_less_than_an_item_keeps_nothing(photos):
    kept,said = warned(lambda: photo_dls(photos).cached('3kB'))
    assert len(said)==1
    assert said[0].startswith('cached: a cache of 3,000 bytes is too small, as one item needs 3,')
    assert said[0].endswith('Caching is off.')
    assert_trains_without(kept, photos)

def test_a_folder_that_cannot_be_written_to(photos):
    kept,said = warned(lambda: photo_dls(photos).cached('10MB', folder='/proc'))
    assert len(said)==1 and "cannot be reserved in '/proc'" in said[0] and 'Caching is off' in said[0]
    assert_trains_without(kept, photos)
    with pytest.raises(ValueError, match="'folder' parameter of cached must be a folder that exists. Got '/nowhere'"):
        photo_dls(photos).cached(folder='/nowhere')

def test_a_full_disk(photos, monkeypatch):
    def full(fd, offset, n): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'posix_fallocate', full)
    kept,said = warned(lambda: photo_dls(photos).cached('10MB'))
    assert len(said)==1 and 'No space left on device' in said[0]
    assert_trains_without(kept, photos)

# Processes

def spawned(root):
    set_start_method('spawn', force=True)
    dls = ordered_dls(Path(root), num_workers=2).cached('10MB')
    for _ in range(2): batches = [*dls.train]
    info = dls.cache_info().loaders[0]
    return info['hits'],info['items'],torch.cat([x for x,_ in batches])

def ordered_dls(root, num_workers, times=1):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=lambda o: get_image_files(o)*times, get_y=parent_label,
                      item_tfms=Resize(32, method='squish'), splitter=EndSplitter(valid_pct=.2))
    return block.dataloaders(root, bs=5, num_workers=num_workers, shuffle=False)

@pytest.mark.slow
def test_workers_that_are_spawned(photos):
    hits,items,x = warm_call(spawned, str(photos))
    plain = ordered_dls(photos, 0)
    assert items==len(plain.train_ds) and hits>=20
    equal(x, torch.cat([x for x,_ in plain.train]))

def train_long(root, tmp, ready, workers=2):
    "Trains until it is killed"
    dls = ordered_dls(Path(root), workers, times=500).cached('100MB', folder=tmp)
    while True:
        for _ in dls.train:
            Path(ready).write_text(str(os.getpid()))

def kill_first(pids):
    "Kill the first of some processes, if it has not ended by itself"
    if not pids: return
    with suppress(ProcessLookupError): os.kill(pids[0], signal.SIGKILL)

def deleted_files(tmp):
    "Files of `tmp` that have no name and are still open somewhere"
    res = []
    for fd in Path('/proc').glob('[0-9]*/fd/*'):
        try: target = os.readlink(fd)
        except OSError: continue
        if target.startswith(str(tmp)): res.append((fd,target))
    return res

@pytest.mark.thinned(1)
@pytest.mark.parametrize('who', ['main','worker','interrupt'])
def test_nothing_is_left_after_a_process_was_killed(photos, tmp_path, who):
    ready,tmp = tmp_path/'ready',tmp_path/'tmp'
    tmp.mkdir()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(warm_call, train_long, str(photos), str(tmp), str(ready))
        assert until(lambda: ready.exists() and ready.read_text(), 600)
        main = int(ready.read_text())
        assert deleted_files(tmp) # it is there while they live
        workers = until(lambda: children(main))
        if who=='worker': # a worker may be at its end anyway
            def over():
                if not job.done(): kill_first(children(main))
                return job.done()
            until(over, 120)
        elif who=='main': os.kill(main, signal.SIGKILL)
        else: # again, as people do, where Python swallows it in the moment in which it starts a worker
            for _ in range(9):
                with suppress(ProcessLookupError): os.kill(main, signal.SIGINT)
                if wait([job], 3).done: break
        with pytest.raises(BaseException) as e: job.result(timeout=120)
    # PyTorch says that a worker was killed in several ways
    errors = dict(worker=(RuntimeError,EOFError,OSError), main=ChildProcessError, interrupt=KeyboardInterrupt)
    assert isinstance(e.value, errors[who])
    assert until(lambda: not any(map(alive, [main,*workers])))
    assert until(lambda: not deleted_files(tmp)) and [*tmp.iterdir()]==[]

def test_nothing_is_left_when_the_loaders_are_gone(photos, tmp_path):
    kept = photo_dls(photos).cached('10MB', folder=tmp_path)
    learn = fitted(kept, BalancedMixUp(1., seed=0), 1)
    assert deleted_files(tmp_path)
    del kept,learn
    gc.collect()
    assert not deleted_files(tmp_path) and [*tmp_path.iterdir()]==[]
