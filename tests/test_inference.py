"""The notebooks show on one network what flipping and another prior do. Here images come from files through random
pipelines, and the passes of a plain PyTorch loop are the measure; passes are interrupted; Bayes' rule is counted out
in a world of whole numbers; EM and `PriorCalibrator` meet other optimisers, and standard errors simulated splits."""

import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import toys
from fastai.vision import all as fv
from hypothesis import given, strategies as st
from PIL import Image
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn import metrics as sk
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDL, SubsetRandomSampler, TensorDataset
from toys import Probe, close, equal, must_be, params, quiet_fit, tail_targets

import fastai_balmix.loaders.weighted  # noqa: F401, for the method `dls.weighted`
from fastai_balmix.inference.prior import PriorCalibrator, adjust_prior, estimate_prior, operating_curve
from fastai_balmix.inference.tta import FlipTTA
from fastai_balmix.loaders.labels import train_labels
from fastai_balmix.losses import GaussianLabelSmoothing, LogitAdjustedLoss, QWKLoss
from fastai_balmix.metrics.learner import BalancedAcc
from fastai_balmix.metrics.scores import mcc

# ------------------------------------------------------------------ image and mirror image

kinds,sizes = ('ant','bee','cow'),(8,20,12)

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "A folder of JPEG and PNG files of mixed sizes in folders by class"
    folder,digits,rng = tmp_path_factory.mktemp('pictures'),load_digits(),np.random.default_rng(0)
    for k,(kind,n) in enumerate(zip(kinds, sizes)):
        (folder/kind).mkdir()
        for i in range(n):
            pic = Image.fromarray((digits.images[digits.target==k][i]*15.9).astype(np.uint8)).convert('RGB')
            pic.resize(tuple(rng.integers(24, 60, 2).tolist())).save(folder/kind/f'{i}.{("jpg","png")[i%2]}')
    return folder

class Noted(fv.PILImage):
    "Keeps the name of every file that is opened, and calls `before` with their number"
    opened,before = [],staticmethod(lambda n: None)
    @classmethod
    def create(cls, fn, **kwargs):
        cls.before(len(cls.opened))
        cls.opened.append(str(fn))
        return super().create(fn, **kwargs)

@pytest.fixture(autouse=True)
def nothing_opened(): Noted.opened.clear()

normalise = fv.Normalize.from_stats(*fv.imagenet_stats)
random_item,random_batch = fv.RandomResizedCrop(32,
    min_scale=.3),[*fv.aug_transforms(size=24, max_rotate=30., p_affine=1., p_lighting=1.), normalise]

def make_dls(path, item_tfms=random_item, batch_tfms=random_batch, bs=5, get_y=fv.parent_label,
    y_block=fv.CategoryBlock, **kwargs):
    block = fv.DataBlock((fv.TransformBlock(Noted.create, batch_tfms=fv.IntToFloatTensor), y_block),
        get_items=fv.get_image_files, get_y=get_y,
                         splitter=fv.RandomSplitter(.4, seed=0), item_tfms=item_tfms, batch_tfms=batch_tfms)
    dls = block.dataloaders(path, bs=bs, **{'num_workers':0, **kwargs})
    Noted.opened.clear()
    return dls

def make_net(n_out=3, n_in=3):
    "Sees left from right, and holds what training and evaluation mode do differently"
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(n_in, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.5),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, n_out))
    net[1].running_mean.normal_()
    net[-1].weight.data *= 5
    return net

def make_learner(dls, loss_func=None, net=None, **kwargs):
    return toys.make_learner(dls, loss_func or fv.CrossEntropyLossFlat(), net=net or make_net(), **kwargs)

def quiet(f, learn, *args, **kwargs):
    with learn.no_bar(),learn.no_logging(): return f(*args, **kwargs)

def tta(learn, *args, **kwargs): return quiet(learn.tta_flip, learn, *args, **kwargs)

softmax = partial(torch.softmax, dim=1)

def two_passes(net, batches, act=softmax):
    "The mean of two ordinary passes, the second over mirrored tensors, and each of the two"
    net.eval()
    with torch.no_grad():
        p,p1 = (torch.cat([act(net(f(fv.TensorBase(x).as_subclass(torch.Tensor)))) for x in batches])
            for f in (lambda x: x, lambda x: x.flip(3)))
    return (p+p1)/2,p,p1

def inputs(dl): return [b[0] for b in dl]

@pytest.mark.parametrize('item_tfms,batch_tfms', [(random_item, random_batch),
    (fv.Resize(28), [*fv.aug_transforms(), normalise]),
    (fv.Resize(28, method='squish'), [fv.Flip(p=1.), normalise]), (fv.RandomCrop(24), [normalise])],
    ids=['random', 'crop', 'flip', 'item'])
def test_tta_flip_is_the_mean_of_two_validation_passes(item_tfms, batch_tfms, pictures):
    learn = make_learner(make_dls(pictures, item_tfms, batch_tfms))
    expected,p,p1 = two_passes(learn.model, inputs(learn.dls.valid))
    probs,targs = tta(learn)
    close(probs, expected)
    assert probs.shape==(16,3)
    assert targs.tolist()==[kinds.index(fv.parent_label(o)) for o in learn.dls.valid.items]
    # the mirror image is another image to this network, and images differ
    assert (p-p1).abs().max()>.05 and probs.std(0).max()>.05
    close(probs.sum(1), torch.ones(16))

def test_images_are_what_pillow_and_numpy_make_of_the_files(pictures):
    learn = make_learner(make_dls(pictures, fv.Resize(28, method='squish'), [normalise]))
    mean,std = (np.array(o)[:,None,None] for o in fv.imagenet_stats)
    def tensor(fn):
        return torch.tensor((np.asarray(Image.open(fn).convert('RGB').resize((28,28), Image.BILINEAR)).transpose(2,0,
            1)/255-mean)/std, dtype=torch.float32)
    expected,*_ = two_passes(learn.model, [torch.stack([tensor(fn) for fn in learn.dls.valid.items])])
    close(tta(learn)[0], expected)

def test_tta_flip_is_the_same_each_time_and_opens_each_file_once(pictures):
    learn = make_learner(make_dls(pictures))
    one = tta(learn)
    assert Noted.opened==[str(o) for o in learn.dls.valid.items]
    fv.set_seed(99)
    for a,b in zip(one, tta(learn)): equal(a, b)
    assert len(Noted.opened)==32

@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('drop_last', [False, True])
def test_training_items_come_in_their_order_and_in_validation_form(drop_last, weighted, pictures):
    dls = make_dls(pictures, drop_last=drop_last)
    if weighted: dls = dls.weighted(seed=0)
    learn = make_learner(dls)
    assert dls.train.shuffle and dls.train.drop_last==drop_last
    test_dl = dls.test_dl(dls.train.items)
    expected,*_ = two_passes(learn.model, inputs(test_dl))
    Noted.opened.clear()
    probs,targs = tta(learn, ds_idx=0)
    assert Noted.opened==[str(o) for o in dls.train.items]
    close(probs, expected)
    assert targs.tolist()==train_labels(dls.train).tolist() and len(targs)==24
    equal(tta(learn, ds_idx=0)[0], probs)
    assert dls.train.shuffle and dls.train.drop_last==drop_last

@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('drop_last', [False, True])
def test_a_loader_given_is_read_in_the_order_of_its_items(drop_last, weighted, pictures):
    dls = make_dls(pictures, drop_last=drop_last)
    learn = make_learner(dls.weighted('class', seed=0) if weighted else dls)
    dls,one = learn.dls,tta(learn, ds_idx=0)
    # shuffled, without its last batch, and in training form as it stands
    for a,b in zip(tta(learn, dl=dls.train), one): equal(torch.as_tensor(a), torch.as_tensor(b))
    for a,b in zip(tta(learn, dl=dls.valid), tta(learn)): equal(torch.as_tensor(a), torch.as_tensor(b))

def test_files_without_targets(pictures):
    learn = make_learner(make_dls(pictures))
    files = fv.get_image_files(pictures).sorted()[::3]
    dl = learn.dls.test_dl(files)
    expected,*_ = two_passes(learn.model, inputs(dl))
    Noted.opened.clear()
    probs,targs = tta(learn, dl=dl)
    assert targs is None and Noted.opened==[str(o) for o in files]
    close(probs, expected)
    labelled = tta(learn, dl=learn.dls.test_dl(files, with_labels=True))
    equal(labelled[0], probs)
    assert labelled[1].tolist()==[kinds.index(fv.parent_label(o)) for o in files]
    equal(tta(learn, dl=learn.dls.test_dl(files[:1]))[0], tta(learn, dl=learn.dls.test_dl(files[:1], bs=1))[0])

def state(learn):
    "What a pass over some loader must not change"
    dls = learn.dls
    return ([(dl.dataset.split_idx, [[(t, t.split_idx) for t in tl.tfms.fs] for tl in dl.dataset.tls], dl.after_item,
        dl.after_batch, [*dl.after_item.fs], [*dl.after_batch.fs],
              dl.shuffle, dl.drop_last, dl.get_idxs.__func__) for dl in dls], [*dls.loaders],
              sorted(cb.name for cb in learn.cbs), learn.loss_func, learn.loss_func.reduction, learn.model,
            learn.lock.locked(), [p.requires_grad for p in learn.model.parameters()])

def fit_after(f, path):
    "Parameters after a fit that follows `f(learn)`"
    dls = make_dls(path)
    learn = make_learner(dls)
    f(learn)
    fv.set_seed(3)
    dls.train.rng.seed(0)
    return params(quiet_fit(learn, 2))

def interrupted(learn, exc=KeyboardInterrupt, **kwargs):
    def stop(n):
        if n==7: raise exc('cut short')
    with mock.patch.object(Noted, 'before', stop), pytest.raises(exc, match='cut short'): tta(learn, **kwargs)

@pytest.mark.parametrize('ds_idx', [0, 1])
def test_everything_is_left_as_it_was(ds_idx, pictures):
    learn = make_learner(make_dls(pictures))
    first = state(learn)
    modes = {}
    for nm,f in dict(tta_flip=lambda: tta(learn, ds_idx=ds_idx), get_preds=lambda: quiet(learn.get_preds, learn),
        again=lambda: interrupted(learn, ds_idx=ds_idx)).items():
        learn.model.train()
        Noted.opened.clear()
        f()
        assert state(learn)==first
        modes[nm] = [m.training for m in learn.model.modules()]
    # fastai's own pass leaves the network in evaluation mode
    assert modes['tta_flip']==modes['get_preds']==modes['again']

@pytest.mark.thinned(2)
@pytest.mark.parametrize('cut', [False, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize('ds_idx', [0, 1])
def test_a_fit_afterwards_is_that_of_a_fresh_learner(ds_idx, cut, pictures):
    plain = fit_after(lambda learn: None, pictures)
    equal(fit_after(lambda learn: interrupted(learn, cut, ds_idx=ds_idx) if cut else tta(learn, ds_idx=ds_idx),
        pictures), plain)

def test_two_workers(pictures):
    learn,parallel = (make_learner(make_dls(pictures, num_workers=n)) for n in (0,2))
    for ds_idx in range(2):
        for a,b in zip(tta(learn, ds_idx=ds_idx), tta(parallel, ds_idx=ds_idx)):
            equal(torch.as_tensor(a), torch.as_tensor(b))

# Losses

images = torch.randn(23, 3, 8, 8, generator=torch.Generator().manual_seed(0))
classes = torch.tensor(tail_targets(12, 7, 4))

def tensor_dls(y=classes, x=images, bs=5):
    ds = TensorDataset(x, y)
    return fv.DataLoaders(fv.DataLoader(ds, bs=bs, shuffle=True, num_workers=0),
        fv.DataLoader(ds, bs=bs, num_workers=0))

losses = {'nn.CrossEntropyLoss': nn.CrossEntropyLoss,
    'weighted': lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.,2.,9.])), 'function': lambda: F.cross_entropy,
    'partial': lambda: partial(F.cross_entropy, label_smoothing=.1), 'CrossEntropyLossFlat': fv.CrossEntropyLossFlat,
    'LabelSmoothingCrossEntropyFlat': fv.LabelSmoothingCrossEntropyFlat,
    'LabelSmoothingCrossEntropy': fv.LabelSmoothingCrossEntropy, 'FocalLossFlat': fv.FocalLossFlat,
    'LogitAdjustedLoss': lambda: LogitAdjustedLoss([.5,.3,.2]),
    'GaussianLabelSmoothing': GaussianLabelSmoothing, 'QWKLoss': QWKLoss}

@pytest.mark.parametrize('name', losses)
def test_losses_of_classes(name):
    learn = make_learner(tensor_dls(), losses[name]())
    expected,p,p1 = two_passes(learn.model, [images])
    probs,targs = tta(learn)
    close(probs, expected)
    assert torch.equal(targs, classes) and (p-p1).abs().max()>.05

@pytest.mark.parametrize('loss_func', [fv.BCEWithLogitsLossFlat, nn.BCEWithLogitsLoss], ids=['flat', 'torch'])
@pytest.mark.parametrize('shift', [0., -12.], ids=['', 'rare'])
def test_losses_of_labels_that_do_not_exclude_each_other(loss_func, shift):
    y = (torch.rand(23, 3, generator=torch.Generator().manual_seed(1))<.4).float()
    learn = make_learner(tensor_dls(y), loss_func())
    learn.model[-1].bias.data += shift
    expected,*_ = two_passes(learn.model, [images], torch.sigmoid)
    probs,targs = tta(learn)
    close(probs, expected)
    torch.testing.assert_close(targs, y)
    loss = quiet(learn.validate, learn, cbs=FlipTTA())[0]
    assert loss==pytest.approx(F.binary_cross_entropy(expected, y).item(), rel=1e-3)

def test_multi_category_block(pictures):
    # the class, and whether the file is a PNG
    get_y = lambda fn: [fv.parent_label(fn)] + ['png']*(fn.suffix=='.png')
    learn = make_learner(make_dls(pictures, get_y=get_y, y_block=fv.MultiCategoryBlock), fv.BCEWithLogitsLossFlat(),
        make_net(4))
    expected,*_ = two_passes(learn.model, inputs(learn.dls.valid), torch.sigmoid)
    probs,targs = tta(learn)
    close(probs, expected)
    assert targs.shape==(16,4) and targs.sum()>16

def test_outputs_as_they_are_for_a_loss_without_activation():
    learn = make_learner(tensor_dls(torch.randn(23,3)), fv.MSELossFlat())
    expected,*_ = two_passes(learn.model, [images], lambda z: z)
    close(tta(learn)[0], expected, 1e-4)

def test_another_activation_is_refused():
    class Odd(fv.CrossEntropyLossFlat):
        def activation(self, x): return x.square()/x.square().sum(1, keepdim=True)
    with pytest.raises(ValueError, match='FlipTTA needs a loss whose activation is softmax, sigmoid or none'):
        tta(make_learner(tensor_dls(), Odd()))

class Sure(nn.Module):
    "Answers with `z` for class 1, whatever the image"
    def __init__(self, z):
        super().__init__()
        self.z,self.w = z,nn.Parameter(torch.zeros(1))
    def forward(self, x): return self.w + torch.tensor([[0.,self.z,0.]]).expand(len(x), 3)

@pytest.mark.parametrize('z', [-200., -30., 30., 200.])
def test_answers_that_are_certain(z):
    learn = make_learner(tensor_dls(), net=Sure(z))
    probs,_ = tta(learn)
    close(probs, softmax(torch.tensor([[0.,z,0.]])).expand(23,3))
    y = torch.eye(3)[torch.ones(23, dtype=torch.long)]
    learn = make_learner(tensor_dls(y), fv.BCEWithLogitsLossFlat(), Sure(z))
    close(tta(learn)[0], torch.sigmoid(torch.tensor([[0.,z,0.]])).expand(23,3))

@pytest.mark.parametrize('z', [20., 30.])
def test_validation_loss_of_a_label_that_is_certain_and_there(z):
    # In float32 a sigmoid is exactly 1 from 17 on, which is no reason for a loss that is no number
    learn = make_learner(tensor_dls(torch.tensor([[1.,1.,0.]]).expand(23,3)), fv.BCEWithLogitsLossFlat(), Sure(z))
    plain,flipped = (quiet(learn.validate, learn, cbs=cbs)[0] for cbs in (None, FlipTTA()))
    assert plain==pytest.approx(2*np.log(2)/3, abs=1e-5) and flipped==pytest.approx(plain, abs=1e-5)

def test_a_network_that_has_diverged_says_so_as_without_flipping():
    learn = make_learner(tensor_dls())
    learn.model[-1].bias.data[1] = float('nan')
    assert quiet(learn.get_preds, learn)[0].isnan().all()
    assert tta(learn)[0].isnan().all()

# The callback in a fit

def test_a_fit_validates_by_both_images_and_trains_exactly_as_without(pictures):
    seen,values = [],[]
    for cbs in (),(FlipTTA(),):
        dls = make_dls(pictures)
        learn,steps = make_learner(dls, metrics=[fv.accuracy,BalancedAcc()]),Probe(lambda learn: params(learn).clone())
        fv.set_seed(1)
        dls.train.rng.seed(0)
        quiet_fit(learn, 2, [*cbs, steps])
        seen.append(torch.stack(steps.seen))
        values.append(learn.recorder.values)
    equal(*seen)
    assert len(seen[0])==2*4
    p,*_ = two_passes(learn.model, inputs(dls.valid))
    y = torch.tensor([kinds.index(fv.parent_label(o)) for o in dls.valid.items])
    expected = F.nll_loss(p.log(), y).item(),(p.argmax(1)==y).double().mean().item(),sk.balanced_accuracy_score(y,
        p.argmax(1))
    close(values[1][-1][1:], expected, 1e-5)
    # the training loss is the plain one, the validation loss is not
    assert values[0][-1][0]==values[1][-1][0] and abs(values[0][-1][1]-values[1][-1][1])>1e-3

def test_get_preds_with_loss_is_the_cross_entropy_of_the_mean():
    for loss_func in fv.CrossEntropyLossFlat(),nn.CrossEntropyLoss():
        learn = make_learner(tensor_dls(), loss_func)
        p,*_ = two_passes(learn.model, [images])
        probs,_,loss = quiet(learn.get_preds, learn, with_loss=True,
            act=None if hasattr(loss_func, 'activation') else softmax, cbs=FlipTTA())
        close(probs, p)
        close(loss, -p[range(23),classes].log())

def test_of_the_learner_s_own_callbacks_it_may_be_one(pictures):
    learn = make_learner(make_dls(pictures), cbs=FlipTTA())
    expected,*_ = two_passes(learn.model, inputs(learn.dls.valid))
    close(quiet(learn.get_preds, learn)[0], expected)
    # twice is no other mean
    close(tta(learn)[0], expected)
    _,k,p = quiet(learn.predict, learn, learn.dls.valid.items[3])
    close(p, expected[3])
    assert k==expected[3].argmax()

def test_exported_and_loaded(tmp_path, pictures):
    for own in (),(FlipTTA(),):
        learn = make_learner(make_dls(pictures, get_y=fv.parent_label), cbs=[*own])
        files = fv.get_image_files(pictures).sorted()[::4]
        expected,_ = tta(learn, dl=learn.dls.test_dl(files))
        learn.export(tmp_path/'learn.pkl')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            loaded = fv.load_learner(tmp_path/'learn.pkl')
        probs,targs = tta(loaded, dl=loaded.dls.test_dl(files))
        equal(probs, expected)
        assert targs is None

# Other loaders

def test_pytorch_loaders():
    ds = TensorDataset(images, classes)
    for shuffle in False,True:
        learn = make_learner(fv.DataLoaders(TorchDL(ds, batch_size=5, shuffle=True, drop_last=True),
            TorchDL(ds, batch_size=4, shuffle=shuffle)))
        expected,*_ = two_passes(learn.model, [images])
        for kwargs in dict(),dict(ds_idx=0),dict(dl=learn.dls.valid),dict(dl=learn.dls.train):
            probs,targs = tta(learn, **kwargs)
            close(probs, expected)
            assert torch.equal(targs, classes)

def test_of_a_pytorch_loader_s_items_those_of_its_sampler():
    # One data set cut in two by samplers: what is not in the validation part must not be among the answers
    ds,valid = TensorDataset(images, classes),[20,3,11,7,16]
    train = [i for i in range(23) if i not in valid]
    loaders = [TorchDL(ds, batch_size=2, sampler=SubsetRandomSampler(o)) for o in (train, valid)]
    learn = make_learner(fv.DataLoaders(*loaders))
    expected,*_ = two_passes(learn.model, [images])
    for kwargs in dict(dl=loaders[1]),dict():
        probs,targs = tta(learn, **kwargs)
        close(probs, expected[sorted(valid)])
        assert torch.equal(targs, classes[sorted(valid)])

# Refusals

class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_net(n_in=6)
    def forward(self, a, b): return self.net(torch.cat([a,b], 1))

def refused(learn, words):
    with pytest.raises(ValueError) as e: tta(learn)
    assert words in str(e.value)
    assert not [cb for cb in learn.cbs if isinstance(cb, FlipTTA)] and not learn.lock.locked()

def test_inputs_that_are_no_images_are_refused():
    want = 'FlipTTA needs loaders with one input, images of shape (B,C,H,W), but '
    ds = [(x,x,y) for x,y in zip(images, classes)]
    dl = fv.DataLoader(ds, bs=5, num_workers=0)
    refused(make_learner(fv.DataLoaders(dl, dl), net=Joined()), want+'there are 2 inputs.')
    refused(make_learner(tensor_dls(x=torch.randn(23,4)), net=nn.Linear(4,3)), want+'the input is of shape (5, 4).')
    refused(make_learner(tensor_dls(x=torch.randn(23,2,4,4,4)), net=nn.Sequential(nn.Flatten(), nn.Linear(128,3))),
        want+'the input is of shape (5, 2, 4, 4, 4).')

def test_outputs_that_are_no_row_of_classes_are_refused():
    # A mask of the mirror image is a mirrored mask: the mean of the two is of no use
    masks = torch.randint(3, (23,8,8), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match='FlipTTA needs a network whose output'):
        tta(make_learner(tensor_dls(masks), fv.CrossEntropyLossFlat(axis=1), nn.Conv2d(3,3,1)))

@pytest.mark.cuda
@pytest.mark.parametrize('channels_last', [False, True])
def test_half_precision(channels_last, pictures):
    if not torch.cuda.is_available(): pytest.skip('no GPU')
    dls = make_dls(pictures, device=torch.device('cuda'))
    plain = make_learner(dls, net=make_net().cuda())
    half = make_learner(dls, net=make_net().cuda()).to_fp16()
    if channels_last: half.to_channelslast()
    expected,*_ = two_passes(plain.model, inputs(dls.valid))
    close(tta(plain)[0].cpu(), expected.cpu(), 1e-4)
    # outputs up to 10 in size, rounded to one part in 2^11, twice
    probs,targs = tta(half)
    assert probs.dtype==torch.float32
    close(probs.cpu(), expected.cpu(), 2e-2)
    assert targs.tolist()==tta(plain)[1].tolist()

# ------------------------------------------------------------------ another prior

def world(seed, k, n_x=6):
    "Whole numbers: of each class, how many of 1000 people have each finding, none for some"
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(1000, rng.dirichlet(np.full(n_x, .7))) for _ in range(k)], 1)

def counted(world, sizes):
    "Shares of the classes among those who have a finding, by counting, where class k has `sizes[k]` thousands"
    people = world*np.asarray(sizes)
    some = people.sum(1)>0
    return people[some]/people[some].sum(1, keepdims=True),some

priors = st.lists(st.integers(1, 500), min_size=2, max_size=6)

@given(st.data(), priors, st.integers(0, 2**31))
def test_adjust_prior_is_bayes_rule_by_counting(data, here, seed):
    there = data.draw(st.lists(st.integers(1, 500), min_size=len(here), max_size=len(here)))
    w = world(seed, len(here))
    p,_ = counted(w, here)
    expected,_ = counted(w, there)
    a,b = np.array(here)/sum(here),np.array(there)/sum(there)
    got = adjust_prior(p, a, b)
    close(got, expected, 1e-12, 1e-9)
    close(adjust_prior(p, 'train', b, counts=here), got, 0, 1e-12)
    even,_ = counted(w, [1]*len(here))
    close(adjust_prior(p, a), even, 1e-12, 1e-9)
    close(adjust_prior(even, 'balanced', 'train', counts=here), p, 1e-12, 1e-9)
    close(adjust_prior(got, b, a), p, 1e-12, 1e-9)
    close(adjust_prior(p, a, a), p, 1e-12, 1e-9)

@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_tensors_come_back_as_they_went(dtype):
    p = torch.softmax(torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1).to(dtype)
    prior = np.array([.4,.3,.2,.1])
    got = adjust_prior(p, prior, torch.tensor([.1,.2,.3,.4], dtype=torch.float64))
    expected = p.double()*torch.tensor([.25,2/3,1.5,4.], dtype=torch.float64)
    assert got.dtype==dtype and got.device==p.device
    close(got, expected/expected.sum(1, keepdim=True), torch.finfo(dtype).eps*2)
    out = adjust_prior(p.requires_grad_(), prior)
    assert not out.requires_grad and out.dtype==dtype

@pytest.mark.cuda
def test_tensors_stay_on_their_device():
    if not torch.cuda.is_available(): pytest.skip('no GPU')
    p = torch.softmax(torch.randn(20, 4, device='cuda'), 1)
    got = adjust_prior(p, [.4,.3,.2,.1])
    assert got.device==p.device
    close(got.cpu(), adjust_prior(p.cpu(), [.4,.3,.2,.1]))

def test_arrays_lists_and_zeros():
    p = [[1.,0.,0.],[.5,.5,0.],[0.,.25,.75]]
    got = adjust_prior(p, [.5,.3,.2], [.2,.3,.5])
    assert isinstance(got, np.ndarray) and got.dtype==np.float64
    w = np.array(p)*[.4,1.,2.5]
    close(got, w/w.sum(1, keepdims=True), 1e-9)
    assert np.isfinite(got).all()
    # what softmax has rounded down to 0 is not gone for ever: there is a prior that brings it back, without any warning
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rare = adjust_prior(torch.tensor([[1.,0.]], dtype=torch.float64), [1-1e-6,1e-6], [1e-6,1-1e-6])
    assert 0<rare[0,1]<1e-20

half,third = [.5,.5],[.2,.3,.5]

# The operating curve

def rows(z):
    "Softmax, in NumPy"
    p = np.exp(z-z.max(1, keepdims=True))
    return p/p.sum(1, keepdims=True)

def noisy_probs(y, k, seed=0, scale=1.):
    z = scale*np.random.default_rng(seed).normal(size=(len(y),k))
    z[np.arange(len(y)),y] += 1.5
    return rows(z)

def test_operating_curve_is_that_of_a_plain_loop():
    y = np.array(tail_targets(200, 60, 20, 5))
    p,old,n = noisy_probs(y, 4),np.array([.6,.2,.15,.05]),np.bincount(y)
    ts = [0.,.3,1.,1.7]
    curve = operating_curve(p, y, old, ts=ts)
    assert list(curve.columns)==['mcc','balanced_acc','macro_f1'] and list(curve.index)==ts and curve.index.name=='t'
    for t,row in zip(ts, curve.values):
        pred = np.array([max(range(4), key=lambda k: pi[k]/old[k]*n[k]**t) for pi in p])
        close(row, [sk.matthews_corrcoef(y, pred), sk.balanced_accuracy_score(y, pred),
            sk.f1_score(y, pred, average='macro')], 1e-12)
    assert np.ptp(curve.balanced_acc)>.05
    # other class sizes, other scores, and 21 points where none are stated
    other = operating_curve(torch.tensor(p), torch.tensor(y), 'train', counts=[10,10,20,40], scores=[mcc])
    assert other.shape==(21,1) and other.index[0]==0 and other.index[-1]==1
    pred = np.argmax(p/[.125,.125,.25,.5]*np.array([10,10,20,40])**.5, 1)
    assert other.mcc.iloc[10]==pytest.approx(sk.matthews_corrcoef(y, pred), abs=1e-12)

def test_ends_of_the_operating_curve():
    y = np.array(tail_targets(200, 60, 20, 5))
    p,shares = noisy_probs(y, 4),np.bincount(y)/len(y)
    ends = operating_curve(p, y, 'train', ts=[0,1])
    for t,prior in (0,'balanced'),(1,shares):
        pred = adjust_prior(p, shares, prior).argmax(1)
        assert ends.mcc[t]==pytest.approx(sk.matthews_corrcoef(y, pred), abs=1e-12)
    # at t = 1 of its own prior, the network as it comes; of the balanced one at t = 0
    assert ends.balanced_acc[1]==pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert operating_curve(p, y, 'balanced', ts=[0]).macro_f1[0]==pytest.approx(sk.f1_score(y, p.argmax(1),
        average='macro'), abs=1e-12)

def test_scores_at_another_prevalence():
    y = np.array(tail_targets(200, 60, 20, 5))
    p,there = noisy_probs(y, 4),np.array([.25,.25,.4,.1])
    curve = operating_curve(p, y, 'train', ts=[0,.5], prevalence=there)
    w = (there/np.bincount(y))[y]
    for t in curve.index:
        pred = np.argmax(p*np.bincount(y)**(t-1.), 1)
        expected = sk.matthews_corrcoef(y, pred, sample_weight=w),sk.balanced_accuracy_score(y, pred),sk.f1_score(y,
            pred, average='macro', sample_weight=w)
        close(curve.loc[t], expected, 1e-12)
    np.testing.assert_allclose(operating_curve(p, y, 'train', ts=[0], prevalence='balanced').balanced_acc,
        operating_curve(p, y, 'train', ts=[0]).balanced_acc)

# ------------------------------------------------------------------ the prior that a network implies

class Source:
    "Points around class centres; a network that knows all but answers for the prior `implied`, at `temperature`"
    def __init__(self, k=3, sep=1.5, shares=(.6,.3,.1), implied=(.4,.35,.25), temperature=.5, seed=0):
        self.shares,self.implied,self.temperature = np.array(shares),np.array(implied),temperature
        self.centres = sep*np.random.default_rng(seed).normal(size=(k,3))

    def draw(self, n, rng, shares=None):
        y = rng.choice(len(self.shares), n, p=self.shares if shares is None else shares)
        x = self.centres[y]+rng.normal(size=(n,3))
        lik = -((x[:,None]-self.centres)**2).sum(-1)/2
        return lik,y

    def answers(self, lik): return rows((lik+np.log(self.implied))*self.temperature)

def _reference_calibrated(probs, y, nominal, strength):
    "Slope and log prior by another optimiser over another form of the model, one item at a time; and the objective"
    n,k = probs.shape
    share = torch.tensor([np.mean(y==j) for j in range(k)])
    logs,centre = torch.tensor(np.log(probs)),torch.tensor(np.log(nominal))
    def objective(w):
        tot = strength/2*((w[0]-1)**2 + ((w[1:]-centre)**2).sum())
        odds = share*torch.exp(w[0]*logs)/torch.exp(w[1:])
        for i in range(n): tot = tot - torch.log(odds[i,y[i]]/odds[i].sum())
        return tot
    def both(w):
        w = torch.tensor(w, requires_grad=True)
        v = objective(w)
        v.backward()
        return v.item(),w.grad.numpy()
    best = minimize(both, np.zeros(k+1), jac=True, method='BFGS', options=dict(gtol=1e-9, maxiter=500)).x
    return best[0],best[1:],objective

@pytest.mark.thinned(2)
@pytest.mark.parametrize('strength', [.01, 1., 30.])
@pytest.mark.parametrize('k', [2, 4])
def test_calibrator_finds_the_optimum_of_another_optimiser(k, strength):
    rng = np.random.default_rng(k)
    source = Source(k, shares=np.arange(k, 0, -1)/sum(range(k+1)), implied=np.full(k, 1/k))
    lik,y = source.draw(150, rng)
    p,nominal = source.answers(lik),rng.dirichlet(np.full(k, 5.))
    a,b,objective = _reference_calibrated(p, y, nominal, strength)
    cal = PriorCalibrator(nominal, strength)
    assert cal.fit(p, y) is cal
    assert cal.temperature_==pytest.approx(1/a, rel=1e-4)
    close(cal.prior_, np.exp(b)/np.exp(b).sum(), 0, 1e-4)
    assert cal.prior_.sum()==pytest.approx(1, abs=1e-12) and cal.prior_.dtype==np.float64
    close(cal.shares_, np.bincount(y, minlength=k)/150, 0, 1e-12)
    # what is predicted on the split, at its own shares, is what the likelihood was of
    q = cal.predict(p)
    expected = cal.shares_*p**(1/cal.temperature_)/cal.prior_
    close(q, expected/expected.sum(1, keepdims=True), 0, 1e-9)
    assert cal.log_loss_==pytest.approx(sk.log_loss(y, q, labels=range(k)), abs=1e-9)
    penalty = strength/2*((a-1)**2 + ((b-np.log(nominal))**2).sum())
    assert cal.log_loss_==pytest.approx((objective(torch.tensor([a,*b])).item()-penalty)/150, abs=1e-7)

def test_predicting_at_a_prior_is_dividing_by_the_estimate_and_multiplying_by_it():
    rng = np.random.default_rng(0)
    source = Source()
    lik,y = source.draw(300, rng)
    p = source.answers(lik)
    cal = PriorCalibrator().fit(torch.tensor(p, dtype=torch.float32), torch.tensor(y))
    for prior,r in ('balanced',np.full(3, 1/3)),([.1,.2,.7],np.array([.1,.2,.7])),('train',cal.shares_):
        w = p**(1/cal.temperature_)*r/cal.prior_
        got = cal.predict(p, prior)
        close(got, w/w.sum(1, keepdims=True), 0, 1e-9)
        t = cal.predict(torch.tensor(p, dtype=torch.float32), prior)
        assert t.dtype==torch.float32
        close(t, got, 1e-6)

def test_calibrated_probabilities_have_the_shares_of_the_split():
    rng = np.random.default_rng(0)
    source = Source(4, shares=(.5,.3,.15,.05), implied=(.25,)*4)
    lik,y = source.draw(3000, rng)
    p,nominal,strength = source.answers(lik),np.array([.4,.3,.2,.1]),3.
    cal = PriorCalibrator(nominal, strength).fit(p, y)
    # At the optimum what is predicted of a class exceeds its items by as much as shrinkage pulls; the logarithms are
    # known up to a constant, and the pulls of all classes sum to 0
    pull = np.log(nominal/cal.prior_)
    close(cal.predict(p).sum(0)-np.bincount(y), strength*(pull.mean()-pull), 1e-2)
    close(PriorCalibrator(nominal, 1e-4).fit(p, y).predict(p).mean(0), np.bincount(y)/3000, 1e-5)

@pytest.fixture(scope='module', params=[.7, 1.5, 3.], ids=['weak network', 'network', 'strong network'])
def simulated(request):
    "z-scores of log prior and temperature over 150 selection splits of 2000 items, at hardly any shrinkage"
    source,rng,res = Source(),np.random.default_rng(0),[]
    source.centres = request.param*np.array([[0.,0,0],[1,0,0],[0,1,0]])
    for _ in range(150):
        lik,y = source.draw(2000, rng)
        cal = PriorCalibrator(source.shares, strength=.01).fit(source.answers(lik), y)
        res.append([*(np.log(cal.prior_)-np.log(source.implied))/cal.prior_se_,
            (cal.temperature_-source.temperature)/cal.temperature_se_])
    return np.array(res)

def test_known_prior_and_temperature_are_recovered(simulated):
    # A mean of 150 standard scores has the standard deviation 150^-1/2 = 0.08; four of these
    assert np.abs(simulated.mean(0)).max()<4/150**.5

def test_standard_errors_are_those_of_repeated_splits(simulated):
    # The standard deviation of 150 standard scores is 1 ± (2·150)^-1/2 = 0.06; four of these
    close(simulated.std(0), 1, 4/300**.5)

def test_a_class_that_the_split_lacks_keeps_its_nominal_place_and_is_named():
    rng = np.random.default_rng(0)
    source,nominal = Source(4, shares=(.5,.3,.15,.05), implied=(.25,)*4),np.array([.4,.3,.2,.1])
    lik,y = source.draw(300, rng)
    p = source.answers(lik)
    keep = (y!=3) & (y!=1)
    words = 'PriorCalibrator: the selection split has no item of class 1, 3; the nominal prior stands for it.'
    with pytest.warns(UserWarning, match=words) as got:
        cal = PriorCalibrator(nominal).fit(p[keep], y[keep])
    assert len(got)==1 and got[0].filename==__file__
    assert np.isfinite(cal.prior_).all() and (cal.prior_>0).all() and np.isfinite(cal.prior_se_).all()
    # between the two of which nothing is known, the nominal odds
    assert cal.prior_[1]/cal.prior_[3]==pytest.approx(3, rel=1e-4)
    # nothing is predicted of them at the split's own shares, something elsewhere
    q,even = cal.predict(p),cal.predict(p, 'balanced')
    assert (q[:,[1,3]]==0).all() and (even>0).all() and np.isfinite(q).all()
    close(q.sum(1), 1, 0, 1e-9)
    # the others are estimated as though the absent classes were not there
    two = [0,2]
    part = PriorCalibrator(nominal[two]/nominal[two].sum(),
        1e-3).fit(p[keep][:,two]/p[keep][:,two].sum(1, keepdims=True), y[keep]//2)
    with pytest.warns(UserWarning): alone = PriorCalibrator(nominal, 1e-3).fit(p[keep], y[keep])
    close(alone.prior_[0]/alone.prior_[2], part.prior_[0]/part.prior_[1], 0, 1e-2)
    assert alone.temperature_==pytest.approx(part.temperature_, rel=1e-2)
    # where no prior is stated an absent class has half an item
    with pytest.warns(UserWarning): cal = PriorCalibrator(strength=1e6).fit(p[keep], y[keep])
    n = np.maximum(np.bincount(y[keep], minlength=4), .5)
    close(cal.prior_, n/n.sum(), 0, 1e-3)

def test_much_strength_gives_the_nominal_prior_and_temperature_1():
    rng,source = np.random.default_rng(0),Source()
    lik,y = source.draw(500, rng)
    nominal = [.2,.3,.5]
    cal = PriorCalibrator(nominal, 1e8).fit(source.answers(lik), y)
    close(cal.prior_, nominal, 0, 1e-4)
    assert cal.temperature_==pytest.approx(1, abs=1e-4)
    assert cal.prior_se_.max()<1e-3 and cal.temperature_se_<1e-3
    # between the two ends, the more strength, the nearer
    far = [np.abs(np.log(PriorCalibrator(nominal, s).fit(source.answers(lik), y).prior_/nominal)).max() for s in (.1,1,
        10,100,1e4)]
    assert far==sorted(far, reverse=True) and far[0]>.3

@given(st.permutations(range(4)))
def test_permuting_classes_permutes(perm):
    rng,source,nominal = np.random.default_rng(0),Source(4, shares=(.5,.3,.15,.05),
        implied=(.25,)*4),np.array([.4,.3,.2,.1])
    lik,y = source.draw(200, rng)
    p = source.answers(lik)
    cal,other = PriorCalibrator(nominal).fit(p, y),PriorCalibrator(nominal[perm]).fit(p[:,perm], np.argsort(perm)[y])
    for a,b in (cal.prior_,other.prior_),(cal.prior_se_,other.prior_se_),(cal.shares_,other.shares_):
        close(a[perm], b, 0, 1e-4)
    assert other.temperature_==pytest.approx(cal.temperature_, rel=1e-4)
    assert other.temperature_se_==pytest.approx(cal.temperature_se_, rel=1e-3)

def finite(cal, p):
    for o in cal.prior_,cal.prior_se_,cal.temperature_,cal.temperature_se_,cal.log_loss_: assert np.isfinite(o).all()
    assert (cal.prior_>0).all() and cal.temperature_>0 and (cal.prior_se_>=0).all()
    for prior in 'train','balanced':
        q = cal.predict(p, prior)
        assert np.isfinite(q).all() and (q>=0).all()
        close(q.sum(1), 1, 0, 1e-9)

@pytest.mark.parametrize('sure', [.9, .999999, 1.])
def test_perfect_separation_stays_finite(sure):
    y = np.array(tail_targets(40, 10, 3))
    p = np.full((len(y),3), (1-sure)/2)
    p[np.arange(len(y)),y] = sure
    cal = PriorCalibrator().fit(p, y)
    finite(cal, p)
    # nothing but shrinkage keeps it from being surer, so that it is no less sure than before
    assert cal.temperature_<1+1e-6

def test_answers_that_are_always_wrong():
    y = np.array(tail_targets(40, 10, 3))
    p = np.full((len(y),3), .01)
    p[np.arange(len(y)),(y+1)%3] = .98
    cal = PriorCalibrator().fit(p, y)
    finite(cal, p)
    assert cal.temperature_>10

def test_answers_that_say_nothing():
    # As the shares that the network implies may be anything then, they stay nominal, up to what the split's own shares
    # say
    y = np.array(tail_targets(40, 10, 3))
    p = np.full((len(y),3), 1/3)
    cal = PriorCalibrator([.2,.3,.5]).fit(p, y)
    finite(cal, p)
    close(cal.predict(p)[0], cal.shares_, .05)

def test_a_single_item():
    with pytest.warns(UserWarning, match='no item of class 0, 2'):
        cal = PriorCalibrator([.5,.3,.2]).fit([[.2,.3,.5]], [1])
    finite(cal, np.array([[.2,.3,.5]]))
    # the likelihood of the only class is 1 whatever the weights are
    close(cal.prior_, [.5,.3,.2], 0, 1e-6)
    assert cal.temperature_==pytest.approx(1)

@pytest.mark.parametrize('k', [2, 300])
def test_few_classes_and_many(k):
    rng = np.random.default_rng(0)
    counts = np.maximum(300//np.arange(1, k+1), 2)
    y = rng.permutation(np.repeat(np.arange(k), counts))
    # a network trained with equal shares: its answers move to those of the data
    z = 2*rng.normal(size=(len(y),k))
    z[np.arange(len(y)),y] += 4
    p,shares = rows(z),counts/counts.sum()
    cal = PriorCalibrator(np.full(k, 1/k)).fit(p, y)
    finite(cal, p)
    assert sk.log_loss(y, cal.predict(p), labels=range(k))<=sk.log_loss(y, adjust_prior(p, 'balanced', shares),
        labels=range(k))
    # z are the logarithms of a Gaussian likelihood ratio of slope 4/2² = 1: temperature 1, and equal shares
    assert abs(cal.temperature_-1)<5*cal.temperature_se_
    assert (np.abs(np.log(cal.prior_*k))<5*cal.prior_se_).all()

def test_a_fit_can_be_repeated_and_replaced():
    rng,source = np.random.default_rng(0),Source()
    lik,y = source.draw(300, rng)
    p = source.answers(lik)
    before = p.copy()
    cal = PriorCalibrator()
    first = cal.fit(p, y).prior_
    cal.fit(p[:100], y[:100])
    assert not np.allclose(cal.prior_, first) and cal.nominal is None
    np.testing.assert_array_equal(cal.fit(p, y).prior_, first)
    np.testing.assert_array_equal(p, before)

def test_on_real_digits_the_estimate_beats_the_nominal_prior():
    # A net trained on a long tail of scanned digits, till it is too sure of itself; the rest are for selection and for
    # the outcome
    x,y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    n = np.round(100*20**(-np.arange(10)/9)).astype(int)
    train = np.concatenate([rng.permutation(np.flatnonzero(y==k))[:n[k]] for k in range(10)])
    rest = rng.permutation(np.setdiff1d(np.arange(len(y)), train))
    net = MLPClassifier(40, alpha=0., max_iter=300, tol=0, n_iter_no_change=300, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net.fit(x[train]/16, y[train])
    p = net.predict_proba(x[rest]/16)
    sel,held = np.array_split(np.arange(len(rest)), 2)
    t,nominal = y[rest],n/n.sum()
    cal = PriorCalibrator(nominal).fit(p[sel], t[sel])
    raw,moved,fitted = (sk.log_loss(t[held], q) for q in (p[held], adjust_prior(p[held], nominal),
        cal.predict(p[held], 'balanced')))
    assert fitted<moved<raw
    assert abs(cal.temperature_-1)>4*cal.temperature_se_

# ------------------------------------------------------------------ a prior that nobody knows

def _reference_em(probs, old, n_iter):
    "Equation 9 of Saerens et al., item by item and class by class"
    k = len(old)
    new = list(old)
    for _ in range(n_iter):
        tot = [0.]*k
        for p in probs:
            odds = [new[j]/old[j]*p[j] for j in range(k)]
            for j in range(k): tot[j] += odds[j]/sum(odds)
        new = [o/len(probs) for o in tot]
    return np.array(new)

def test_estimate_prior_takes_the_steps_of_a_plain_em():
    source,rng = Source(temperature=1.),np.random.default_rng(0)
    p = source.answers(source.draw(60, rng, [.1,.2,.7])[0])
    for n in 1,2,7:
        words = f'estimate_prior: shares still change by more than 1e-06 after {n} iterations.'
        with pytest.warns(UserWarning, match=words) as got:
            prior = estimate_prior(p, source.implied, n_iter=n)
        assert len(got)==1 and got[0].filename==__file__
        close(prior, _reference_em(p, source.implied, n), 0, 1e-12)
    # it stops by itself, silently, at what no further step changes
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        prior = estimate_prior(torch.tensor(p), source.implied, tol=1e-4)
    expected = _reference_em(p, source.implied, 200)
    assert 0<np.abs(prior-expected).max()<5e-3

@pytest.mark.parametrize('sep', [.8, 2.])
def test_estimate_prior_is_the_maximum_of_the_mixture_likelihood(sep):
    source,rng = Source(4, sep, (.5,.3,.15,.05), (.4,.3,.2,.1), 1.),np.random.default_rng(1)
    p = source.answers(source.draw(800, rng, [.1,.2,.3,.4])[0])
    logs = np.log(p/source.implied)
    def minus(z): return -logsumexp(logs + z - logsumexp(z), axis=1).sum()
    best = minimize(minus, np.zeros(4), method='BFGS', options=dict(gtol=1e-4))
    expected = np.exp(best.x-logsumexp(best.x))
    got = estimate_prior(p, source.implied, n_iter=20_000, tol=1e-10)
    close(got, expected, 1e-4)
    assert got.sum()==pytest.approx(1, abs=1e-12)

def test_estimate_prior_recovers_known_shares():
    source,rng,there = Source(sep=3., temperature=1.),np.random.default_rng(0),np.array([.1,.2,.7])
    errors = [estimate_prior(source.answers(source.draw(400, rng, there)[0]), source.implied)-there for _ in range(60)]
    # Were classes seen, a share would have the standard error (p(1-p)/400)^1/2 in one trial; four of them, of 60
    # trials, and half as much again for the doubt that is left
    assert (np.abs(np.mean(errors, 0))<1.5*4*np.sqrt(there*(1-there)/400/60)).all()

def test_estimate_prior_of_sure_answers_counts_them():
    y = np.array(tail_targets(7, 2, 1))
    for p in np.eye(3)[y],torch.eye(3)[y]: close(estimate_prior(p, 'balanced'), [.7,.2,.1], 0, 1e-12)
    # of a class that no item can be of nothing is left
    close(estimate_prior(np.eye(3)[[0,1]], third), [.5,.5,0.], 1e-12)

# ------------------------------------------------------------------ what is refused

ok = [[.5,.5]]
SUM_1 = 'probabilities: all above 0, sum 1. Got '
def fitted(): return PriorCalibrator().fit([[.4,.6],[.5,.5]], [0,1])

@pytest.mark.parametrize('f,words', [
    (lambda: adjust_prior(ok, [.9,.2]), must_be('adjust_prior', 'from_prior', SUM_1+'[0.9, 0.2] instead.')),
    (lambda: adjust_prior(ok, [1.,0.]), must_be('adjust_prior', 'from_prior', SUM_1+'[1.0, 0.0] instead.')),
    (lambda: adjust_prior(ok, [1.5,-.5]), 'Got [1.5, -0.5] instead.'),
    (lambda: adjust_prior(ok, [np.nan,.5]), SUM_1+'[nan, 0.5] instead.'),
    (lambda: adjust_prior(ok, half, [0.,1.]), must_be('adjust_prior', 'to_prior', SUM_1+'[0.0, 1.0] instead.')),
    (lambda: adjust_prior(ok, third), must_be('adjust_prior', 'from_prior',
        '2 probabilities, one for each class. Got 3 of them instead.')),
    (lambda: adjust_prior(ok, half, third), must_be('adjust_prior', 'to_prior', '2 probabilities')),
    (lambda: adjust_prior(ok, [half]), 'must be a row of class probabilities'),
    (lambda: adjust_prior(ok, 'even'),
        "probabilities, 'balanced', or 'train' where `counts` are given. Got 'even' instead."),
    (lambda: adjust_prior(ok, half, 'train'), must_be('adjust_prior', 'to_prior',
        "probabilities, 'balanced', or 'train' where `counts` are given. Got 'train' instead.")),
    (lambda: adjust_prior(ok, 'train', counts=[3,0]), 'all above 0, sum 1. Got [1.0, 0.0] instead.'),
    (lambda: adjust_prior(ok, 'train', counts=[0,0]), 'not all 0'),
    (lambda: adjust_prior(ok, 'train', counts=[1,2,3]), '2 probabilities, one for each class. Got 3 of them instead.'),
    (lambda: adjust_prior([[.5,.5],[.5,.6]], half),
        must_be('adjust_prior', 'probs',
            'rows of probabilities: none negative, sum 1. Got [0.5, 0.6] at index 1 instead.')),
    (lambda: adjust_prior([[.5,.5],[1.5,-.5]], half), 'Got [1.5, -0.5] at index 1 instead.'),
    (lambda: adjust_prior([[.5,.5],[.5,np.nan]], half),
        must_be('adjust_prior', 'probs', 'finite numbers. Got nan at index (1, 1) instead.')),
    (lambda: adjust_prior([[.5,.5],[np.inf,.5]], half), 'Got inf at index (1, 0) instead.'),
    (lambda: adjust_prior([.5,.5], half), 'must be an array of shape (N,K)'),
    (lambda: adjust_prior([['a','b']], half), 'must be an array of shape (N,K)'),
    (lambda: operating_curve(ok, [0,1], half), must_be('operating_curve', 'targs',
        '1 ints, one for each item. Got 2 labels instead.')),
    (lambda: operating_curve(ok, [2], half), must_be('operating_curve', 'targs',
        'ints in the range [0, 1]. Got 2 at index 0 instead.')),
    (lambda: operating_curve(ok, [0], half), must_be('operating_curve', 'counts',
        '2 numbers, all above 0: state them where `targs` lack a class. Got [1, 0] instead.')),
    (lambda: operating_curve(ok, [0], half, counts=[1,2,3]), 'Got [1, 2, 3] instead.'),
    (lambda: operating_curve(ok, [0], third, counts=[1,2]),
        must_be('operating_curve', 'from_prior', '2 probabilities')),
    (lambda: operating_curve([[.5,.5],[np.nan,1]], [0,1], half),
        must_be('operating_curve', 'probs', 'finite numbers. Got nan at index (1, 0) instead.')),
    (lambda: PriorCalibrator(strength=-1), must_be('PriorCalibrator', 'strength', '')),
    (lambda: PriorCalibrator(strength=0.), must_be('PriorCalibrator', 'strength', 'above 0. Got 0.0 instead.')),
    (lambda: PriorCalibrator(strength=np.inf), 'Got inf instead.'),
    (lambda: PriorCalibrator(strength='much'), "Got 'much' instead."),
    (lambda: PriorCalibrator([.5,.6]).fit(ok, [0]), must_be('PriorCalibrator', 'nominal', SUM_1+'[0.5, 0.6] instead.')),
    (lambda: PriorCalibrator([1.,0.]).fit(ok, [0]), 'all above 0, sum 1. Got [1.0, 0.0] instead.'),
    (lambda: PriorCalibrator(third).fit(ok, [0]), must_be('PriorCalibrator', 'nominal',
        '2 probabilities, one for each class. Got 3 of them instead.')),
    (lambda: PriorCalibrator().fit(ok, [0,1]), must_be('PriorCalibrator.fit', 'targs',
        '1 ints, one for each item. Got 2 labels instead.')),
    (lambda: PriorCalibrator().fit(ok, [2]), must_be('PriorCalibrator.fit', 'targs',
        'ints in the range [0, 1]. Got 2 at index 0 instead.')),
    (lambda: PriorCalibrator().fit(ok, [.5]), 'float64 values'),
    (lambda: PriorCalibrator().fit([[.5,.5],[.5,np.nan]], [0,1]),
        must_be('PriorCalibrator.fit', 'probs', 'finite numbers. Got nan at index (1, 1) instead.')),
    (lambda: PriorCalibrator().fit([[2.,-1.]], [0]),
        'rows of probabilities: none negative, sum 1. Got [2.0, -1.0] at index 0 instead.'),
    (lambda: PriorCalibrator().fit(np.zeros((0,3)), []),
        must_be('PriorCalibrator.fit', 'probs', 'probabilities of at least one item. Got none instead.')),
    (lambda: fitted().predict([third]), must_be('PriorCalibrator.predict', 'probs',
        '2 columns, one for each class. Got 3 instead.')),
    (lambda: fitted().predict(ok, [0.,1.]), must_be('PriorCalibrator.predict', 'prior', SUM_1+'[0.0, 1.0] instead.')),
    (lambda: fitted().predict(ok, 'even'), "Got 'even' instead."),
    (lambda: PriorCalibrator().predict(ok), 'PriorCalibrator needs `fit` first'),
    (lambda: estimate_prior(np.zeros((0,2)), half),
        must_be('estimate_prior', 'probs', 'probabilities of at least one item. Got none instead.')),
    (lambda: estimate_prior(ok, [1.,0.]), must_be('estimate_prior', 'from_prior', SUM_1+'[1.0, 0.0] instead.')),
    (lambda: estimate_prior(ok, half, n_iter=0), must_be('estimate_prior', 'n_iter',
        'an int in the range [1, inf). Got 0 instead.')),
    (lambda: estimate_prior(ok, half, tol=-1), must_be('estimate_prior', 'tol',
        'a float in the range [0, inf). Got -1 instead.')),
    (lambda: estimate_prior([[.5,.6]], half), must_be('estimate_prior', 'probs', 'rows of probabilities'))])
@pytest.mark.filterwarnings('ignore:PriorCalibrator')
def test_bad_arguments_are_told_so(f, words):
    with pytest.raises(ValueError) as e: f()
    assert words in str(e.value)
