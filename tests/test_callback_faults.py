"""What BalancedMixUp leaves behind when a fit is cut short, and what it refuses.

A notebook stops at the first exception. Here a fit is interrupted in each event of the training loop, and the next
one must equal that of a fresh learner bit for bit; learners go through pickle, export and inference; and every
unusable argument, data set and loss must be refused, in words that help, before a batch is loaded."""

import pickle
import random
import threading
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import event
from fastai.callback.mixup import CutMix, MixUp
from fastai.data.load import SkipItemException
from fastai.vision import all as fv
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from toys import Counting, Mute, params, quiet_fit, restart, seeded_dl, tail_targets

from fastai_balmix.callback.mixup import BalancedMixUp

plt.switch_backend('agg')

class Points(Counting):
    "Item i is a random point, with its label"
    def __init__(self, counts=(28,14,6,3)):
        super().__init__(tail_targets(*counts))
        self.x = torch.randn(len(self), 6, generator=torch.Generator().manual_seed(0))

    def __getitem__(self, i):
        self.opened.append(i)
        return self.x[i],self.targets[i]

def make_net(n_in=6, n_out=4):
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(n_in,7), nn.Tanh(), nn.Dropout(.2), nn.Linear(7,n_out))

def make_dls(ds, valid=None, bs=8, **kwargs):
    return fv.DataLoaders(seeded_dl(ds, bs, **kwargs), seeded_dl(fv.ifnone(valid, Points()), bs, shuffle=False))

def make_learner(cbs=None, ds=None, loss_func=None, **kwargs):
    dls = ds if isinstance(ds, fv.DataLoaders) else make_dls(fv.ifnone(ds, Points()))
    return fv.Learner(dls, kwargs.pop('net', None) or make_net(),
        loss_func=fv.ifnone(loss_func, nn.CrossEntropyLoss()), opt_func=fv.SGD, lr=.1, cbs=cbs, **kwargs)

class Steps(fv.Callback):
    "Keeps the parameters after every training batch, and sees that the loss function is as it was"
    order,run_valid = 90,False
    def __init__(self, loss_func): self.loss_func0,self.seen = loss_func,[]

    def after_batch(self):
        assert self.learn.loss_func is self.loss_func0 and getattr(self.loss_func0, 'reduction', 'mean')=='mean'
        self.seen.append(params(self.learn).clone())

def fit_steps(learn, cbs=None):
    restart(learn, make_net())
    steps = Steps(learn.loss_func)
    quiet_fit(learn, 2, [*fv.L(cbs), steps])
    return torch.stack(steps.seen)

@pytest.fixture(scope='module')
def fresh():
    "What a fit of a fresh learner gives, by `per_item`"
    return {o: fit_steps(make_learner(), BalancedMixUp(1, per_item=o)) for o in (False,True)}

def check_as_fresh(learn, cbs, loss_func, expected):
    assert learn.loss_func is loss_func and getattr(loss_func, 'reduction', 'mean')=='mean'
    torch.testing.assert_close(fit_steps(learn, cbs), expected, rtol=0, atol=0)
    assert learn.loss_func is loss_func

# Interruptions

events = [o for o in dir(event) if o.startswith(('before_','after_')) and o!='after_create']
inner = 'batch','pred','loss','backward','step'

class Fault(fv.Callback):
    "Raises `exc` in the event `name`: in the third training batch, or the first time for what is not in a batch"
    def __init__(self, name, exc, order):
        self.exc,self.order,self.done = exc,order,False
        kind = name.split('_')[-1]
        setattr(self, name, partial(self.fail, kind))
        # An event for what was cancelled needs something that cancels
        if 'cancel' in name:
            where = kind if kind in ('backward','step','validate') else 'batch'
            cancel = dict(validate='Valid').get(kind, kind.title())
            setattr(self, f'before_{where}', partial(self.cancel, where, getattr(fv, f'Cancel{cancel}Exception')))

    # By `iter`: in `after_batch`, `train_iter` counts this batch or not, depending on the order of callbacks
    def due(self, kind): return not self.done and (kind not in inner or (self.training and self.iter==2))

    def cancel(self, kind, exc):
        if self.due(kind): raise exc()

    def fail(self, kind):
        if self.due(kind):
            self.done = True
            raise self.exc('cut short')

@pytest.mark.thinned
@pytest.mark.parametrize('place,per_item', [('fit',False), ('learner',True)])
@pytest.mark.parametrize('exc', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('name', events)
def test_a_fit_after_one_that_was_cut_short_is_that_of_a_fresh_learner(name, exc, place, per_item, fresh):
    # Before and after the callback's own turn in the same event
    for order in -5,30:
        cb,loss_func = BalancedMixUp(1, per_item=per_item),nn.CrossEntropyLoss()
        learn = make_learner(cb if place=='learner' else None, loss_func=loss_func)
        own,fault = ([cb] if place=='fit' else []),Fault(name, exc, order)
        start = params(learn)
        with pytest.raises(exc, match='cut short'): quiet_fit(learn, 2, [*own, fault])
        assert fault.done
        assert (name in ('before_fit','before_epoch','before_train') or not torch.equal(params(learn), start))
        check_as_fresh(learn, own, loss_func, fresh[per_item])

class Breaks:
    "Raises `exc` at call number `n`"
    def __init__(self, n, exc): self.left,self.exc = n,exc
    def __call__(self):
        self.left -= 1
        if self.left==0: raise self.exc('cut short')

class BreakingLoss(nn.CrossEntropyLoss):
    def forward(self, *args):
        self.breaks()
        return super().forward(*args)

class BreakingPoints(Points):
    def __getitem__(self, i):
        self.breaks()
        return super().__getitem__(i)

@pytest.mark.thinned
@pytest.mark.parametrize('exc', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('per_item', [False, True])
# A step with λ > 0 calls the loss twice, with a λ for each pair four times
@pytest.mark.parametrize('where,n', [('loss',k) for k in range(5,13)] + [('items',k) for k in (20,30)] + [('model',3)])
def test_an_error_in_loss_model_or_data_leaves_nothing_behind(where, n, per_item, exc, fresh):
    cb,loss_func,ds = BalancedMixUp(1, per_item=per_item),BreakingLoss(),BreakingPoints()
    broken,fine = Breaks(n, exc),lambda: None
    loss_func.breaks,ds.breaks = (broken if where==o else fine for o in ('loss','items'))
    learn = make_learner(cb, ds, loss_func)
    hook = learn.model.register_forward_pre_hook(lambda *_: broken()) if where=='model' else None
    with pytest.raises(exc, match='cut short'): quiet_fit(learn)
    if hook: hook.remove()
    check_as_fresh(learn, None, loss_func, fresh[per_item])

@pytest.mark.parametrize('place', ['fit', 'learner'])
@pytest.mark.parametrize('per_item', [False, True])
def test_a_fit_after_lr_find_is_that_of_a_fresh_learner(place, per_item, fresh, tmp_path):
    cb,loss_func = BalancedMixUp(1, per_item=per_item),nn.CrossEntropyLoss()
    own = [cb] if place=='fit' else []
    learn = make_learner(cb if place=='learner' else None, loss_func=loss_func, path=tmp_path)
    # `lr_find` is a fit of its own, so a callback that is passed to `fit` is put in by hand
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(own): learn.lr_find(num_it=20, show_plot=False)
    assert len(learn.recorder.losses)>=6
    check_as_fresh(learn, own, loss_func, fresh[per_item])

@pytest.mark.parametrize('place', ['fit', 'learner'])
def test_callback_serves_many_fits_and_keeps_its_arguments(place, fresh):
    labels = pd.Series(tail_targets(28,14,6,3))
    args = dict(alpha=1, q=0., per_item=True, labels=labels, seed=None)
    cb = BalancedMixUp(**args)
    learn = make_learner(cb if place=='learner' else None)
    for _ in range(3):
        got = fit_steps(learn, cb if place=='fit' else None)
        torch.testing.assert_close(got, fresh[True], rtol=0, atol=0)
    assert labels.tolist()==tail_targets(28,14,6,3)
    assert all(getattr(cb, k) is v for k,v in args.items())

# What is left

class Locked(Points):
    "A data set that cannot be pickled, so that nothing that holds it can"
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

@pytest.mark.parametrize('cut_short', [False, True])
@pytest.mark.parametrize('per_item', [False, True])
def test_callback_holds_nothing_of_the_data_after_a_fit(per_item, cut_short):
    cb = BalancedMixUp(1, per_item=per_item, seed=3)
    learn = make_learner(ds=Locked())
    faults = [Fault('after_pred', KeyboardInterrupt, 0)] if cut_short else []
    with pytest.raises(KeyboardInterrupt) if cut_short else nullcontext(): quiet_fit(learn, 1, [cb,*faults])
    assert cb.learn is None
    # A loader, an iterator or a lock would fail to pickle here
    copy = pickle.loads(pickle.dumps(cb))
    assert {k: getattr(copy, k) for k in ('alpha','q','per_item','labels','seed')}==dict(alpha=1, q='class',
        per_item=per_item, labels=None, seed=3)
    assert len(pickle.dumps(cb))<4000
    torch.testing.assert_close(fit_steps(make_learner(), copy),
        fit_steps(make_learner(), BalancedMixUp(1, per_item=per_item, seed=3)), rtol=0, atol=0)

@pytest.mark.parametrize('per_item', [False, True])
def test_a_deep_copy_of_the_learner_trains_alike_and_apart(per_item, fresh):
    learn = make_learner(BalancedMixUp(1, per_item=per_item))
    new = fv.deepcopy(learn)
    quiet_fit(learn)
    after = params(learn)
    trained = fv.deepcopy(learn)
    assert new.balanced_mix_up is not learn.balanced_mix_up and new.balanced_mix_up.learn is new
    for o in new,trained: torch.testing.assert_close(fit_steps(o), fresh[per_item], rtol=0, atol=0)
    torch.testing.assert_close(params(learn), after, rtol=0, atol=0)

# Every image of the training set is this text, as bytes and, in a batch, as numbers from 0 to 1
text = b'a long tail of q'
text_in_batch = (torch.tensor(list(text))/255).numpy().tobytes()

def open_image(o): return fv.TensorImage(torch.tensor(list(text*3), dtype=torch.uint8).view(3,4,4))
def item_label(o): return o.split()[1]
def item_names(_): return [f'item{i} class{k}' for i,k in enumerate(tail_targets(20,10,4))]

def open_varied(o):
    rng = np.random.default_rng(int(o.split()[0][4:]))
    return fv.TensorImage(torch.from_numpy(rng.integers(0, 256, (3,4,4), dtype=np.uint8)))

def image_dls(open_func, bs=4):
    block = fv.DataBlock((fv.TransformBlock(type_tfms=open_func, batch_tfms=fv.IntToFloatTensor), fv.CategoryBlock),
        get_items=item_names,
                         get_y=item_label, splitter=fv.RandomSplitter(.3, seed=0))
    dls = block.dataloaders(None, bs=bs, num_workers=0)
    dls.train.rng = random.Random(0)
    return dls

def image_learner(path, cbs=None, open_func=open_image):
    return make_learner(cbs, image_dls(open_func), fv.CrossEntropyLossFlat(), net=make_net(48, 3), path=path)

class Kept(fv.Callback):
    "Keeps the batch, as a callback must not"
    order = 80
    def before_batch(self): self.batch = self.x

def test_the_text_of_the_images_would_be_found(tmp_path):
    learn = image_learner(tmp_path, Kept())
    torch.save([open_image(o) for o in learn.dls.train_ds.items], tmp_path/'images.pkl')
    assert text in (tmp_path/'images.pkl').read_bytes()
    quiet_fit(learn, 1, BalancedMixUp(1))
    learn.export()
    assert text_in_batch in (tmp_path/'export.pkl').read_bytes()

@pytest.mark.parametrize('name', [None, 'before_batch', 'after_pred', 'after_loss', 'after_backward', 'after_batch'])
@pytest.mark.parametrize('per_item', [False, True])
def test_an_exported_learner_holds_no_training_images(per_item, name, tmp_path):
    def export(cbs, path):
        path.mkdir()
        learn = image_learner(path, cbs)
        if name is None: quiet_fit(learn)
        else:
            with pytest.raises(KeyboardInterrupt): quiet_fit(learn, 1, Fault(name, KeyboardInterrupt, 30))
        learn.export()
        data = (path/'export.pkl').read_bytes()
        return learn,len(data),text in data or text_in_batch in data

    _,plain_size,plain_has = export(None, tmp_path/'plain')
    learn,size,has = export(BalancedMixUp(1, per_item=per_item), tmp_path/'mixed')
    # What fastai itself leaves in the file of a fit that was cut short is not more with the callback
    assert not plain_has and not has and size<plain_size+4000
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        loaded = fv.load_learner(tmp_path/'mixed'/'export.pkl')
    assert len(loaded.dls.train_ds)==0 and loaded.balanced_mix_up.per_item is per_item
    with learn.no_bar(), loaded.no_bar():
        expected,_ = learn.get_preds()
        got,_ = loaded.get_preds(dl=loaded.dls.test_dl(learn.dls.valid_ds.items))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)

def test_inference_with_the_callback_in_the_learner_is_that_without(tmp_path):
    def infer(cbs):
        learn = quiet_fit(image_learner(tmp_path, cbs, open_varied))
        learn.model.load_state_dict(make_net(48, 3).state_dict())
        fv.set_seed(2)
        with learn.no_bar(), learn.no_logging():
            res = [learn.get_preds(), learn.get_preds(ds_idx=0, with_loss=True, with_input=True), learn.validate(),
                learn.validate(ds_idx=0),
                   learn.tta(n=2), learn.predict('item0 class0'),
                   learn.get_preds(dl=learn.dls.test_dl(item_names(None)))[:1]]
            learn.show_results(max_n=4, shuffle=False)
        res.append([(ax.images[0].get_array().data, ax.get_title()) for ax in plt.gcf().axes if ax.images])
        plt.close('all')
        return res

    def flat(o): return [t for x in o for t in flat(x)] if isinstance(o, (tuple,list,fv.L)) else [o]
    plain = flat(infer(None))
    assert len(plain)==2+4+1+1+2+3+1+8
    for per_item in False,True:
        for a,b in zip(flat(infer(BalancedMixUp(1, per_item=per_item, seed=0))), plain, strict=True):
            if isinstance(b, str): assert a==b
            else: torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=0)

# What is refused, and in which words

@pytest.mark.parametrize('kwargs,words', [
    (dict(alpha=-1), r"'alpha' parameter of BalancedMixUp must be a float in the range \[0, inf\). Got -1 instead"),
    (dict(alpha=float('nan')), r"'alpha' .* Got nan instead"),
    (dict(alpha=float('inf')), r"'alpha' .* Got inf instead"),
    (dict(alpha='0.2'), r"'alpha' .* Got '0.2' instead"),
    (dict(alpha=None), r"'alpha' .* Got None instead"),
    (dict(alpha=True), r"'alpha' .* Got True instead"),
    (dict(q='balanced'), r"'q' parameter of BalancedMixUp must be a float or one of 'instance', 'sqrt', 'class'. "
                         r"Got 'balanced' instead"),
    (dict(q=float('nan')), r"'q' parameter of BalancedMixUp .* Got nan instead"),
    (dict(q=None), r"'q' parameter of BalancedMixUp .* Got None instead"),
    (dict(per_item='yes'), r"'per_item' parameter of BalancedMixUp must be True or False. Got 'yes' instead"),
    (dict(seed=-1), r"'seed' parameter of BalancedMixUp must be an int in the range \[0, inf\). Got -1 instead"),
    (dict(seed=.5), r"'seed' .* Got 0.5 instead")], ids=str)
def test_bad_arguments_are_refused_when_the_callback_is_made(kwargs, words):
    with pytest.raises(ValueError, match=words): BalancedMixUp(**kwargs)

y51 = tail_targets(28,14,6,3)

class Named(Points):
    "Has names for its classes, one too few"
    classes = 'a','b','c'

class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(16):
            opened.append(0)
            yield torch.zeros(6),0

class Tensors(Counting):
    "Inputs and targets as given, the targets open to view"
    def __init__(self, x, targets):
        super().__init__(targets)
        self.x = x

    def __getitem__(self, i):
        self.opened.append(i)
        return self.x[i],self.targets[i]

class Skips(Points):
    "Skips the item `skip`"
    def __init__(self, skip):
        super().__init__()
        self.skip = skip

    def __getitem__(self, i):
        x,y = super().__getitem__(i)
        if i==self.skip: raise SkipItemException
        return x,y

class CountingMute(Mute):
    def __init__(self, n):
        super().__init__(n)
        self.opened = []

    def __getitem__(self, i):
        self.opened.append(i)
        return torch.zeros(6),0

opened = []
def open_counted(o):
    opened.append(o)
    return fv.TensorImage(torch.zeros(3,4,4))

def block_dls(y_blocks, get_y, **kwargs):
    "Loaders of a `DataBlock` whose images are counted as they are opened"
    block = fv.DataBlock((fv.TransformBlock(type_tfms=open_counted), *fv.L(y_blocks)),
        get_items=lambda _: list(range(30)), get_y=get_y,
                         splitter=fv.RandomSplitter(.2, seed=0), **kwargs)
    return block.dataloaders(None, bs=4, num_workers=0)

def halves(i): return i/2
def parity(i): return i%2
def many(i): return ['a','b'] if i%2 else ['a']
def mask(i): return np.zeros((4,4), dtype=np.uint8)
def one_class(pred, targ): return F.cross_entropy(pred, targ)

def scalar_only(pred, targ, reduction='mean'): return F.cross_entropy(pred, targ)

token = torch.zeros(51, 6, dtype=torch.long)
image = torch.zeros(51, 3, 4, 4, dtype=torch.uint8)
floats = torch.zeros(51, 6)

# What the learner is made of, what BalancedMixUp gets, and the words. An `other` is a callback that is there as well.
refused = {
    'labels too few': (Points, dict(labels=[0,1]),
        r"'labels' parameter of BalancedMixUp must be 51 ints, one for each item. Got 2 labels"),
    'labels too many': (Points, dict(labels=[0]*52), r"must be 51 ints, one for each item. Got 52 labels"),
    'labels negative': (Points, dict(labels=[0,-1]+[0]*49),
        r"'labels' .* must be ints in the range \[0, K-1\]. Got -1 at index 1"),
    'labels float': (Points, dict(labels=np.linspace(0,3,51)),
        r"'labels' .* must be one int per item, the number of its class. Got float64"),
    'labels NaN': (Points, dict(labels=torch.tensor([0.]*50+[float('nan')])), r"'labels' .* Got NaN at index 50"),
    'labels words': (Points, dict(labels=['cat']*51),
        r"'labels' .* must be one int per item, the number of its class. Got <U3"),
    'labels in rows': (Points, dict(labels=np.full((51,2), 3)),
        r"'labels' .* must be one int per item, or rows of 0 and 1, .* Got \[3, 3\] at index 0, in an array of "
        r"shape \(51, 2\)"),
    'labels beyond vocabulary': (Named, dict(labels=y51),
        r"'labels' .* must be ints in the range \[0, 2\]. Got 3 at index"),
    'targets beyond vocabulary': (Named, {}, r"'labels' .* must be ints in the range \[0, 2\]. Got 3 at index"),
    'targets NaN': (lambda: Tensors(floats, torch.tensor([float('nan')]+[0.]*50)), {},
        r"'labels' .* Got NaN at index 0"),
    'unreadable': (lambda: CountingMute(51), {},
        r"labels of a CountingMute cannot be read by BalancedMixUp .* Pass `labels=`, one int per training item"),
    'iterable': (lambda: make_dls(Stream(), shuffle=False), {},
        r"data set with a length and an index. Got an iterable data set, Stream"),
    'iterable, PyTorch': (lambda: fv.DataLoaders(torch.utils.data.DataLoader(Stream(), 8), seeded_dl(Points())), {},
        r"Got an iterable data set, Stream"),
    'empty': (lambda: Tensors(floats[:0], []), {}, r"at least one training item. Got an empty training set"),
    'regression': (lambda: Tensors(floats, torch.arange(51)/2), {},
        r"whose targets are classes. Got float32 targets: regression"),
    'regression, block': (lambda: block_dls(fv.RegressionBlock(n_out=1), halves), {},
        r"whose targets are classes. Got .*: regression"),
    'regression, several': (lambda: Tensors(floats, torch.rand(51, 4)), {},
        r"whose targets are classes. Got float32 targets, 4 for each item.*: regression"),
    'regression, labels given': (lambda: Tensors(floats, torch.full((51,4), .5)), dict(labels=y51),
        r"whose targets are classes. Got targets of type torch.float32 .*: regression"),
    'segmentation': (lambda: Tensors(floats, torch.zeros(51, 4, 4, dtype=torch.long)), {},
        r"whose targets are classes. Got .*: segmentation"),
    'segmentation, block': (lambda: block_dls(fv.MaskBlock(codes=['a','b']), mask), {},
        r"whose targets are classes. Got images as targets: segmentation"),
    'two targets': (lambda: block_dls((fv.CategoryBlock, fv.CategoryBlock), get_y=[parity,parity], n_inp=1), {},
        r"2 targets cannot be read"),
    'uint8 images': (lambda: Tensors(image, y51), {},
        r"'inputs' .* must be floating-point tensors after the batch transforms. Got torch.uint8"),
    'tokens': (lambda: Tensors(token, y51), {},
        r"'inputs' .* must be floating-point tensors after the batch transforms. Got torch.int64"),
    'skipped item': (lambda: Skips(0), {},
        r"must be given a data set that yields every item. Got a SkipItemException at item 0"),
    'MixUp': (Points, dict(other=MixUp), "BalancedMixUp cannot be combined with MixUp. Remove one of them."),
    'CutMix': (Points, dict(other=CutMix), "BalancedMixUp cannot be combined with CutMix. Remove one of them."),
    'a second BalancedMixUp': (Points, dict(other=partial(BalancedMixUp, .5)),
        "BalancedMixUp cannot be combined with BalancedMixUp. Remove one of them."),
    'loss as one number': (Points, dict(per_item=True, loss_func=one_class),
        'BalancedMixUp needs a loss function with a `reduction`, so that the loss of each item is known, but the '
        'learner has '),
}

@pytest.mark.parametrize('place', ['fit', 'learner'])
@pytest.mark.parametrize('case', refused)
def test_what_cannot_be_mixed_is_refused_before_a_batch_is_loaded(case, place):
    data,kwargs,words = refused[case]
    kwargs = dict(kwargs)
    other,loss_func = kwargs.pop('other', None),kwargs.pop('loss_func', nn.CrossEntropyLoss())
    cbs = [BalancedMixUp(**kwargs)] + ([other()] if other else [])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # of a data set of one class
        learn = make_learner(cbs if place=='learner' else None, data(), loss_func)
        opened.clear()
        # `no_bar` would change the callbacks
        start,train,in_learner = params(learn),learn.dls.train,list(learn.cbs)
        with pytest.raises(ValueError, match=words) as e, learn.no_logging():
            learn.fit(1, cbs=cbs if place=='fit' else None)
    assert len(opened)+len(getattr(learn.dls.train.dataset, 'opened', []))<=1
    assert str(e.value).startswith('Exception occured in `BalancedMixUp` when calling event `before_train`:\n\t')
    torch.testing.assert_close(params(learn), start, rtol=0, atol=0)
    assert learn.loss_func is loss_func and learn.dls.train is train and learn.dl is train
    assert len(learn.cbs)==len(in_learner) and all(a is b for a,b in zip(learn.cbs, in_learner))

def test_a_second_callback_that_mixes_is_refused_wherever_it_sits():
    for inside,passed in (MixUp,BalancedMixUp),(BalancedMixUp,MixUp),(BalancedMixUp,BalancedMixUp):
        with pytest.raises(ValueError, match='cannot be combined with'): quiet_fit(make_learner(inside()), 1, passed())

def test_an_item_that_is_skipped_later_is_named():
    learn = make_learner(BalancedMixUp(1), Skips(17))
    with pytest.raises(ValueError,
        match='Got a SkipItemException at item 17: remove such items from the data set before training'):
        quiet_fit(learn)

def test_a_per_item_loss_of_another_shape_is_refused_before_a_step():
    learn = make_learner(BalancedMixUp(1, per_item=True, seed=0), loss_func=scalar_only)
    start = params(learn)
    with pytest.raises(ValueError,
        match=r"BalancedMixUp needs a loss function that gives 8 values with `reduction='none'`, or one for each "
              r"output, but it gave a tensor of shape \(\)"):
        quiet_fit(learn)
    torch.testing.assert_close(params(learn), start, rtol=0, atol=0)

class Failing(Points):
    "Cannot open an item, in the words of `error`"
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, i): raise self.error

@pytest.mark.parametrize('error,words',
    [(NotImplementedError(), None), (FileNotFoundError(2, 'No such file', 'one.jpg'), 'one.jpg'),
    (KeyError('height'), 'height')], ids=repr)
def test_an_error_of_the_data_set_is_told_as_it_is(error, words):
    for cbs in None,BalancedMixUp(1):
        with pytest.raises(type(error), match=words): quiet_fit(make_learner(cbs, Failing(error)))

class Vocabulary(Points):
    "Four classes are named, two of them have items"
    classes = 'ant','bee','cow','doe'
    def __init__(self): super().__init__((30,0,9,0))

def test_a_class_without_images_is_named_once():
    ds = Vocabulary()
    learn = make_learner(ds=make_dls(ds, Points()))
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        quiet_fit(learn, 4, BalancedMixUp(1))
        quiet_fit(learn, 2, BalancedMixUp(1))
    words = [str(o.message) for o in w if 'BalancedMixUp' in str(o.message)]
    assert words==['BalancedMixUp: no training image of bee, doe; never drawn.']

def test_a_class_without_images_is_named_once_beside_weighted_loaders():
    dls = make_dls(Vocabulary(), Points())
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        quiet_fit(make_learner(ds=dls.weighted('sqrt')), 4, BalancedMixUp(1))
    words = [str(o.message) for o in w if 'never drawn' in str(o.message)]
    assert words==['weighted: no training image of bee, doe; never drawn.']

def test_a_single_class_is_told():
    with pytest.warns(UserWarning, match='BalancedMixUp: all 20 training images are of one class, 0'):
        quiet_fit(make_learner(ds=Points((20,))), 1, BalancedMixUp(1))

@pytest.mark.parametrize('data',
    [lambda: CountingMute(16), lambda: make_dls(Stream(), shuffle=False, n=16), Vocabulary, lambda: Points((20,))],
                         ids=['unreadable', 'iterable', 'empty class', 'one class'])
def test_alpha_0_asks_nothing_of_the_data(data):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', category=FutureWarning)
        plain,zero = (fit_steps(make_learner(cbs, data(), one_class))
            for cbs in (None, BalancedMixUp(0, per_item=True)))
    torch.testing.assert_close(plain, zero, rtol=0, atol=0)
