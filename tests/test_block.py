"""Batches of prepared images by the block. What a user must be able to rely on: the same batches to the last bit as
from files, whatever is put in front of the loaders, and items one by one wherever something is left to be done to
them."""
import pickle
import warnings
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    ClassificationInterpretation,
    CrossEntropyLossFlat,
    FlipItem,
    ItemTransform,
    Learner,
    MixUp,
    Normalize,
    PILImage,
    Resize,
    TensorCategory,
    TensorImage,
    TfmdDL,
    Transform,
    WeightedDL,
    aug_transforms,
    load_learner,
    nn,
    set_seed,
)
from PIL import Image
from toys import equal, must_be, params, quiet_fit

import fastai_balmix.inference.tta
import fastai_balmix.loaders.cache
import fastai_balmix.loaders.weighted  # noqa: F401 # patch fastai's classes
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.datasets.augment import augmentation, batch_augmentation
from fastai_balmix.datasets.images import OpenImage
from fastai_balmix.datasets.pictures import pictures_in_memory
from fastai_balmix.datasets.prepared import prepare
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.loaders.block import Blocks, image_step, with_pictures
from fastai_balmix.loaders.pairing import check_inputs, check_kept_labels, pair_loader

N,SIZE = 40,(12,16)

def opened(key):
    "An image of a size of its own"
    rng = np.random.default_rng(int(key))
    return Image.fromarray(rng.integers(0, 256, (*rng.integers(8, 40, 2),3), dtype=np.uint8))

def table(n=N):
    labels = np.random.default_rng(0).permutation(np.repeat(['a','b','c'], [n//2,n//4,n-n//2-n//4]))
    return pd.DataFrame(dict(path=[str(i) for i in range(n)], label=labels, fold=[1+(i%4==0) for i in range(n)]))

@pytest.fixture(scope='module')
def data(): return ImageData(table(), ['a','b','c'], images=opened)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "The same images as files"
    folder = tmp_path_factory.mktemp('files')
    for o in table().path: opened(o).save(folder/f'{o}.png')
    return ImageData(table().assign(path=lambda df: df.path+'.png'), ['a','b','c'], root=folder)

class InArray:
    "Prepared images in an array, which notes what it is asked for"
    def __init__(self, data, size=SIZE):
        self.shape,self.decode,self.reading,self.asked = (3,*size),'full',data.reading,[]
        resize,self.names = Resize(size, method='squish'),[*data.df.path]
        images = [np.asarray(resize(PILImage.create(data.images(o)))) for o in self.names]
        self.pixels = torch.from_numpy(np.stack(images)).permute(0,3,1,2).contiguous()

    def rows(self, sources): return np.array([{o: i for i,o in enumerate(self.names)}[o.args[0]] for o in sources])
    def made(self, rows): return True

    def gather(self, rows, out=None):
        self.asked.append(('gather',len(rows)))
        return torch.index_select(self.pixels, 0, torch.as_tensor(rows), out=out)

    def picture(self, row):
        self.asked.append(('picture',int(row)))
        return PILImage.create(self.pixels[row].permute(1,2,0).numpy())

def loaders(data, pictures=None, **kwargs):
    given = dict(fold=2, size=SIZE, bs=7, num_workers=0, seed=3, pictures=pictures,
                 batch_tfms=Normalize.from_stats([.5]*3, [.5]*3, cuda=False))
    return data.dataloaders(**{**given, **kwargs})

@pytest.fixture
def pictures(data): return pictures_in_memory(data, SIZE) # none of them opened yet

def batches(dl, n=2): return [b for _ in range(n) for b in dl]

def same_batches(a, b):
    a,b = batches(a),batches(b)
    assert len(a)==len(b)>0
    for one,other in zip(a, b):
        assert type(one) is type(other) is tuple and [*map(type, one)]==[*map(type, other)]
        for x,y in zip(one, other):
            assert x.dtype==y.dtype and x.stride()==y.stride()
            equal(x, y)

def same_loaders(a, b):
    for one,other in zip(a, b, strict=True): same_batches(one, other)

# The same batches

@pytest.mark.filterwarnings('ignore:cached')
@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('wrap', ['plain', 'weighted', 'cached', 'cached weighted'])
def test_batches_are_those_of_files(data, pictures, wrap, num_workers):
    def made(pictures):
        dls = loaders(data, pictures, num_workers=num_workers)
        if 'cached' in wrap: dls = dls.cached('1MB')
        return dls.weighted('sqrt', seed=1) if 'weighted' in wrap else dls
    dls = made(pictures)
    assert all(o.by_block() for o in dls)
    same_loaders(made(None), dls)

@pytest.mark.parametrize('kind', ['memory', 'disk'])
@pytest.mark.parametrize('decode', ['full', 'fast'])
def test_batches_are_those_of_files_on_disk(files, tmp_path, kind, decode):
    if kind=='memory': held = pictures_in_memory(files, SIZE, decode=decode)
    else: held = prepare(files, SIZE, decode=decode, folder=tmp_path, progress=False)
    dls = loaders(files, held, decode=decode)
    assert all(o.by_block() for o in dls)
    same_loaders(loaders(files, decode=decode), dls)

@pytest.mark.thinned
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
def test_pairs_are_those_of_files(data, pictures, num_workers, per_item, weighted):
    def made(pictures):
        dls = loaders(data, pictures, num_workers=num_workers)
        if weighted: dls = dls.weighted(.5, seed=1)
        return pair_loader(dls.train, .3, per_item=per_item, rng=np.random.default_rng(0), late=True)
    plain,blocks = made(None),made(pictures)
    for _ in range(2):
        for x,y in zip(plain, blocks, strict=True):
            assert plain.lam==blocks.lam if not per_item else torch.equal(plain.lam, blocks.lam)
            for a,b in zip(x, y): equal(a, b)

fits = {
    'plain': lambda: None,
    'BalancedMixUp': lambda: BalancedMixUp(.3, seed=0),
    'λ per pair': lambda: BalancedMixUp(.3, per_item=True, seed=0),
    'ProgressiveSampling': lambda: ProgressiveSampling(seed=0),
    'Remix': lambda: Remix(),
    'MixUp': lambda: MixUp(.3),
}

@pytest.mark.parametrize('make_cb', fits.values(), ids=fits)
def test_training_is_that_with_files(data, pictures, make_cb):
    def trained(pictures):
        set_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        learn = Learner(loaders(data, pictures), net, loss_func=CrossEntropyLossFlat(), lr=.1)
        quiet_fit(learn, 2, make_cb())
        return params(learn),learn.tta_flip()[0]
    for a,b in zip(trained(None), trained(pictures)): equal(a, b)

def test_types_are_those_of_items(data, pictures):
    x,y = next(iter(loaders(data, pictures).valid.new(after_batch=[])))
    assert type(x) is TensorImage and x.dtype==torch.uint8 and x.is_contiguous() and x.shape[1:]==(3,*SIZE)
    assert type(y) is TensorCategory and y.dtype==torch.int64

# How batches are made

@pytest.mark.filterwarnings('ignore:cached')
def test_a_batch_is_one_gather(data):
    held = InArray(data)
    dls = loaders(data, held)
    held.asked.clear()
    assert len(batches(dls.train, 1))==4 and held.asked==[('gather',7)]*4
    held.asked.clear()
    p = pair_loader(dls.train, 1., rng=np.random.default_rng(0))
    sizes = [len(x) for x,_ in p]
    assert held.asked==[('gather',n) for n in sizes] and 14 in sizes
    held.asked.clear()
    for o in dls.cached('1MB').weighted('class', seed=0).train: assert len(o[0])==7
    assert 'gather' in Counter(kind for kind,_ in held.asked) and held.asked[-4:]==[('gather',7)]*4

class DarkerInTraining(Transform):
    "A step of training on single items, after the resize"
    order,split_idx = 2,0
    def encodes(self, x:PILImage): return PILImage.create(x.point(lambda o: o//2))

def test_cached_says_where_nothing_is_left_to_keep(data, pictures):
    with pytest.warns(UserWarning, match='cached: the training and validation images are prepared already'):
        dls = loaders(data, pictures).cached('1MB')
    same_loaders(loaders(data), dls)
    assert (dls.cache_info().size,dls.cache_info().items)==(0,0)
    # in training, something is left to be done to each item
    with pytest.warns(UserWarning, match='cached: the validation images are prepared already'):
        dls = loaders(data, pictures, item_tfms=DarkerInTraining()).cached('1MB')
    same_loaders(loaders(data, item_tfms=DarkerInTraining()), dls)
    assert [o['items'] for o in dls.cache_info().loaders]==[30,0]

def test_pictures_of_other_data_are_put_into_a_loader(data, pictures, files, tmp_path):
    other = ImageData(table(20), ['a','b','c'], images=lambda key: opened(int(key)+100))
    for dls in loaders(data),loaders(data, pictures):
        plain = dls.test_dl(other.items(), with_labels=True)
        dl = with_pictures(dls.test_dl(other.items(), with_labels=True), pictures_in_memory(other, SIZE), other.images)
        assert dl.by_block() and type(image_step(dl)) is OpenImage
        same_batches(plain, dl)
        # the loaders it was made like have their own images still
        same_loaders(loaders(data), dls)

def test_blocks_need_no_workers(data):
    held = InArray(data)
    dls = loaders(data, held, num_workers=2)
    batches(dls.train, 1)
    assert held.asked[-4:]==[('gather',7)]*4 and dls.train.fake_l.num_workers==2 # in this process
    held.asked.clear()
    for dl in dls.test_dl(data.items()),dls.train.new(),pair_loader(dls.train, 1.):
        batches(dl, 1)
        assert {k for k,_ in held.asked}=={'gather'}
        held.asked.clear()

def test_workers_open_what_is_not_there_yet(data):
    held = InArray(data)
    held.made = lambda rows: False
    dls = loaders(data, held, num_workers=1)
    held.asked.clear()
    assert len(batches(dls.train, 1))==4 and not held.asked # in another process

class Darker(Transform):
    order = 2
    def encodes(self, x:PILImage): return PILImage.create(Image.eval(x, lambda v: v//2))

class Labelled(ItemTransform):
    order = 5
    def encodes(self, o): return o[0],TensorCategory(0)

def test_own_transforms_work_on_prepared_items(data):
    for tfms in [Darker()],[Labelled()],augmentation('both', rotate=20):
        held = InArray(data)
        dls = loaders(data, held, item_tfms=tfms)
        random = getattr(tfms[0], 'split_idx', None)==0
        assert [o.by_block() for o in dls]==[False,random] # what trains only is not in the way of validation
        held.asked.clear()
        set_seed(0)
        found = batches(dls.train, 1)
        assert {k for k,_ in held.asked}=={'picture'}
        set_seed(0)
        for a,b in zip(batches(loaders(data, item_tfms=tfms).train, 1), found, strict=True):
            for x,y in zip(a, b): equal(x, y)

def test_a_transform_that_comes_later_is_seen(data, pictures):
    dls = loaders(data, pictures)
    assert dls.train.by_block()
    dls.add_tfms([Darker()], 'after_item', 'train')
    assert not dls.train.by_block() and dls.valid.by_block()
    plain = loaders(data)
    plain.add_tfms([Darker()], 'after_item', 'train')
    same_loaders(plain, dls)

class Own(TfmdDL):
    def create_batch(self, b): return super().create_batch(b[::-1])

def reversed_batches(samps): yield from ()

@pytest.mark.parametrize('kwargs', [
    dict(dl_type=Own), dict(create_item=lambda i: (TensorImage(torch.zeros(3,*SIZE)),TensorCategory(i or 0))),
    dict(before_batch=lambda b: b[:3]), dict(create_batches=reversed_batches)], ids=lambda o: next(iter(o)))
def test_a_loader_with_ways_of_its_own_keeps_them(data, pictures, kwargs):
    for a,b in zip(loaders(data, **kwargs), loaders(data, pictures, **kwargs)):
        assert not isinstance(b, Blocks) or not b.by_block()
        a,b = batches(a),batches(b)
        assert len(a)==len(b)
        for x,y in zip(a, b): equal(x[0], y[0])

def test_other_orders_are_kept(data, pictures):
    kwargs = dict(dl_type=WeightedDL, dl_kwargs=[dict(wgts=np.arange(30)), {}])
    dls = loaders(data, pictures, **kwargs)
    assert dls.train.by_block()
    np.random.seed(0)
    plain = batches(loaders(data, **kwargs).train)
    np.random.seed(0)
    for a,b in zip(plain, batches(dls.train), strict=True): equal(a[1], b[1])

# Items

def test_items_one_by_one(data, pictures):
    plain,dls = loaders(data),loaders(data, pictures)
    for a,b in zip(plain, dls):
        assert len(a.dataset)==len(b.dataset)
        for i in 0,5:
            one,other = a.dataset[i],b.dataset[i]
            assert type(one[0]) is type(other[0]) is PILImage and one[1]==other[1]
            equal(a.do_item(i)[0], b.do_item(i)[0])
    check_inputs(dls.train)
    check_kept_labels(dls.train)
    dls.show_batch(max_n=4)
    dls.train.show_batch(max_n=4, unique=True)

def test_interpretation(data, pictures):
    learn = Learner(loaders(data, pictures), nn.Sequential(nn.Flatten(), nn.Linear(3*12*16, 3)),
                    loss_func=CrossEntropyLossFlat())
    with learn.no_bar():
        found = ClassificationInterpretation.from_learner(learn)
        found.plot_top_losses(4)
        assert found.confusion_matrix().sum()==10
        probs,_ = learn.get_preds()
        assert torch.allclose(learn.tta()[0].sum(1), torch.ones(10)) and len(probs)==10

def test_images_to_predict(data, pictures):
    plain,dls = loaders(data),loaders(data, pictures)
    items = data.items([3,1,2])
    for kwargs in {},dict(with_labels=True):
        a,b = (o.test_dl(items, **kwargs) for o in (plain, dls))
        assert b.by_block()
        same_batches(a, b)
    sources = [o for o,_ in items]
    assert dls.test_dl(sources).by_block()
    same_batches(plain.test_dl(sources), dls.test_dl(sources))
    other = [opened('99'),partial(opened, '98')] # not held
    assert not dls.test_dl(other).by_block()
    same_batches(plain.test_dl(other), dls.test_dl(other))
    with pytest.raises(KeyError, match='was not included in the training dataset'):
        dls.test_dl([(sources[0],'z')], with_labels=True).one_batch()

def inverted(key): return Image.eval(opened(key), lambda v: 255-v)

def test_names_of_another_data_set_are_not_taken_for_these(data, pictures):
    other = ImageData(table(), ['a','b','c'], images=inverted)
    dl = loaders(data, pictures).test_dl(other.items(range(4)))
    assert not dl.by_block()
    same_batches(loaders(data).test_dl(other.items(range(4))), dl)

def test_an_exported_learner_has_no_pictures(data, pictures, tmp_path):
    learns = [Learner(loaders(data, o), nn.Sequential(nn.Flatten(), nn.Linear(3*12*16, 3)),
                      loss_func=CrossEntropyLossFlat()) for o in (None,InArray(data))]
    learns[1].model.load_state_dict(learns[0].model.state_dict())
    probs = []
    for k,learn in enumerate(learns):
        learn.export(tmp_path/f'{k}.pkl')
        with warnings.catch_warnings(action='ignore'): again = load_learner(tmp_path/f'{k}.pkl')
        with again.no_bar(): probs.append(again.predict(opened('5'))[2])
    equal(*probs)
    sizes = [(tmp_path/f'{k}.pkl').stat().st_size for k in (0,1)]
    assert sizes[1]<sizes[0]+2000
    assert len(pickle.dumps(learns[1].dls.train))<N*3*SIZE[0]*SIZE[1]

@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_image_that_cannot_be_opened_is_named(num_workers):
    def broken(key):
        if key=='17': raise OSError('broken')
        return opened(key)
    data = ImageData(table(), ['a','b','c'], images=broken)
    dls = loaders(data, pictures_in_memory(data, SIZE), num_workers=num_workers)
    i = [o.args[0] for o,_ in dls.train.dataset.items].index('17')
    for dl in dls.train,pair_loader(dls.train, 1.):
        with pytest.raises(OSError, match='broken') as e: batches(dl)
        said = ' '.join([str(e.value), *getattr(e.value, '__notes__', ())]) # a worker's error has its notes in its text
        assert f'This was item {i} of the data set' in said and '17' in said

@pytest.mark.filterwarnings('ignore')
def test_each_rank_has_its_share():
    pytest.importorskip('accelerate')
    from fastai.distributed import DistributedDL
    class LocalDL(DistributedDL):
        def _broadcast(self, t, rank): return torch.LongTensor(t).tolist()
    data = ImageData(table(), ['a','b','c'], images=opened)
    held = InArray(data)
    for rank in 0,1:
        plain,blocks = (LocalDL(loaders(data, o).train, rank=rank, world_size=2) for o in (None,held))
        same_batches(plain, blocks)
        held.asked.clear()
        for a,b in zip(*(pair_loader(o, .5, rng=np.random.default_rng(rank)) for o in (plain,blocks)), strict=True):
            for x,y in zip(a, b): equal(x, y)
        assert {k for k,_ in held.asked}=={'gather'}

# Batch transforms

def test_batch_transforms_run_as_ever(data, pictures):
    tfms = [*aug_transforms(max_rotate=20.), Normalize.from_stats([.5]*3, [.5]*3, cuda=False)]
    def made(pictures):
        set_seed(0)
        return batches(loaders(data, pictures, batch_tfms=tfms).train, 1)
    for a,b in zip(made(None), made(pictures), strict=True): equal(a[0], b[0])

def test_pairs_are_augmented_each_by_itself_and_before_they_are_mixed(data, pictures):
    tfm = batch_augmentation('horizontal', shift=.2, jitter=.2)
    dls = loaders(data, pictures, batch_tfms=[Normalize.from_stats([.5]*3, [.5]*3, cuda=False), tfm])
    steps = [type(o).__name__ for o in dls.train.after_batch.fs]
    assert steps==['IntToFloatTensor','BatchAugment','Normalize']
    p = pair_loader(dls.train, 1., rng=np.random.default_rng(0), late=True)
    x,_ = next(iter(p))
    assert len(x)==14 and x.min()>=0 and x.max()<=1 # not normalised yet
    assert type(p.late) is Normalize

# Bad arguments

def test_bad_arguments(data, files, pictures):
    def refused(name, rest, **kwargs):
        with pytest.raises(ValueError) as e: loaders(data, **{'pictures':pictures, **kwargs})
        assert must_be('ImageData.dataloaders', name, rest) in str(e.value)
    refused('size', 'that of the pictures, 12 × 16. Got (16, 16)', size=16)
    refused('size', 'that of the pictures, 12 × 16. Got None', size=None)
    refused('decode', "that of the pictures, 'full'. Got 'fast'", decode='fast')
    refused('pictures', "None where `resize` is 'crop'. Got ", resize='crop')
    refused('pictures', 'None where an item transform comes before the resize or replaces it, as FlipItem would. Got ',
            item_tfms=FlipItem())
    few = pictures_in_memory(data.subset(range(20)), SIZE)
    refused('pictures', 'pictures of all images of the data. Got none of ', pictures=few)
    refused('pictures', 'pictures of all images of the data. Got none of ', pictures=pictures_in_memory(files, SIZE))
    stretched = ImageData(table(), ['a','b','c'], images=opened, range=(0,100))
    refused('pictures', 'pictures that were read in the range of the data, and on the same background. Got ',
            pictures=pictures_in_memory(stretched, SIZE))
