"""BalancedMixUp in the pipelines that people have: folders of JPEG files of mixed sizes, tables, PyTorch's own
loaders, timm networks, and workers. Modes of fastai are in test_modes.py.

The notebooks train on one embedded set. Here fits start from files and from other libraries' loaders, and what
arrives in the network and in the loss is looked at."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision import all as fv
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset
from toys import Probe, equal, fixed_lams, flat, make_learner, params, quiet_fit, seeded_dl, tail_targets

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.loaders.labels import train_labels

kinds,counts = ('ant','bee','cow'),(6,24,12)

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "A folder of JPEG files of mixed sizes in folders by class, with a table of them"
    folder,digits,rng,rows = tmp_path_factory.mktemp('pictures'),load_digits(),np.random.default_rng(0),[]
    for k,(kind,n) in enumerate(zip(kinds, counts)):
        (folder/kind).mkdir()
        for i in range(n):
            pic = Image.fromarray((digits.images[digits.target==k][i]*15.9).astype(np.uint8)).convert('RGB')
            pic.resize(tuple(rng.integers(20, 60, 2).tolist())).save(folder/kind/f'{i}.jpg')
            rows.append((f'{kind}/{i}.jpg', kind))
    pd.DataFrame(rows, columns=['file','kind']).to_csv(folder/'labels.csv', index=False)
    return folder

def make_net(n_out=3, n_in=3):
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(n_in, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, n_out))

class TwoInputs(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, a, b): return self.net(torch.cat([a,b], 1))

def learner(dls, net=None, **kwargs): return make_learner(dls, net=make_net() if net is None else net, **kwargs)

def Seen(func):
    "Keeps `func(learn)` as a training batch enters the network"
    return Probe(func, 'before_batch', order=80)

class Labels(nn.CrossEntropyLoss):
    "Cross-entropy that keeps the labels it is asked about"
    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, pred, targ):
        self.asked.append(targ.tolist())
        return super().forward(pred, targ)


# Sources

item_tfms,batch_tfms = fv.Resize(28),[*fv.aug_transforms(size=16), fv.Normalize.from_stats(*fv.imagenet_stats)]

def from_block(path):
    block = fv.DataBlock((fv.ImageBlock, fv.CategoryBlock), get_items=fv.get_image_files, get_y=fv.parent_label,
                         splitter=fv.RandomSplitter(.2, seed=0), item_tfms=item_tfms, batch_tfms=batch_tfms)
    return block.dataloaders(path, bs=8, num_workers=0, drop_last=False)

kwargs = dict(valid_pct=.2, seed=0, bs=8, num_workers=0, item_tfms=item_tfms, batch_tfms=batch_tfms)
def from_folder(path): return fv.ImageDataLoaders.from_folder(path, **kwargs)
def from_df(path):
    return fv.ImageDataLoaders.from_df(pd.read_csv(path/'labels.csv'), path, fn_col='file', label_col='kind', **kwargs)
def from_csv(path): return fv.ImageDataLoaders.from_csv(path, fn_col=0, label_col=1, **kwargs)
def from_paths(path):
    return fv.ImageDataLoaders.from_path_re(path, fv.get_image_files(path), r'(\w+).\d+\.jpg$', **kwargs)

def check_fit(dls, shares=(1/3,)*3, epochs=5):
    "An epoch's own labels come first, those of partners in `shares`; images arrive as the pipeline makes them"
    loss_func,train = Labels(),Seen(lambda o: (o.x.detach().clone(), o.training))
    learn = learner(dls, loss_func=loss_func)
    y,start = sorted(train_labels(dls.train).tolist()),params(learn)
    firsts,seconds = [],[]
    for _ in range(epochs):
        loss_func.asked.clear()
        train.seen.clear()
        # At λ = 1/2 the loss is asked about the first labels, then about those of the partners
        with fixed_lams(.5): quiet_fit(learn, 1, [BalancedMixUp(), train])
        n = len(train.seen)
        asked = loss_func.asked[:2*n]
        assert [len(x) for x,_ in train.seen]==[len(o) for o in asked[::2]]==[len(o) for o in asked[1::2]]
        firsts.append(flat(asked[::2]))
        seconds += flat(asked[1::2])
    x = torch.cat([x for x,_ in train.seen])
    assert x.dtype==torch.float32 and x.isfinite().all()
    # Shares of the partners' classes, within 5 standard errors
    for k,p in enumerate(shares): assert abs(np.mean(np.array(seconds)==k)-p)<5*(p*(1-p)/len(seconds))**.5
    assert not torch.equal(params(learn), start) and np.isfinite(learn.recorder.values[-1]).all()
    return x,y,firsts

@pytest.mark.thinned(3)
@pytest.mark.parametrize('source', [from_block, from_folder, from_df, from_csv, from_paths])
def test_files_of_mixed_sizes(source, pictures):
    dls = source(pictures)
    x,y,firsts = check_fit(dls)
    n = len(y)//8*8 if dls.train.drop_last else len(y)
    assert x.shape==(n,3,16,16) and dls.train.drop_last==(source is not from_block)
    for o in firsts: assert len(o)==n and (np.bincount(o)<=np.bincount(y)).all()
    # Normalised after mixing or before is the same, but it must be done: black is far below 0
    assert x.min()<-1.5

ys = torch.tensor(tail_targets(40,10,6))
xs = torch.randn(56, 3, 8, 8, generator=torch.Generator().manual_seed(0))

class Targets(torch.utils.data.Dataset):
    "As torchvision's data sets: images by index, classes in `targets`"
    targets = ys.tolist()
    def __len__(self): return len(xs)
    def __getitem__(self, i): return xs[i],self.targets[i]

def torch_loader(ds, **kwargs): return torch.utils.data.DataLoader(ds, 8, **kwargs)

@pytest.mark.parametrize('dls', [
    lambda: fv.DataLoaders.from_dsets(TensorDataset(xs, ys), TensorDataset(xs, ys), bs=8, num_workers=0),
    lambda: fv.DataLoaders.from_dsets(Targets(), Targets(), bs=8, num_workers=0),
    lambda: fv.DataLoaders(torch_loader(TensorDataset(xs, ys), shuffle=True), torch_loader(TensorDataset(xs, ys))),
    lambda: fv.DataLoaders(torch_loader(Targets(), shuffle=True), torch_loader(Targets())),
    lambda: fv.DataLoaders(seeded_dl(list(zip(xs, ys))), seeded_dl(list(zip(xs, ys)), shuffle=False))],
    ids=['TensorDataset', 'targets', 'PyTorch loaders, TensorDataset', 'PyTorch loaders, targets', 'list of pairs'])
def test_data_sets_and_loaders_of_pytorch(dls):
    x,y,firsts = check_fit(dls(), epochs=3)
    assert x.shape==xs.shape and y==sorted(ys.tolist())==sorted(firsts[0]) and firsts[0]!=firsts[1]

class Shifted(Targets):
    "Images that tell whether, and where, `start_worker` has run"
    shift = 0.
    def __getitem__(self, i): return torch.full((3,8,8), self.shift),self.targets[i]

def start_worker(worker): Shifted.shift = 1.+worker

def test_workers_of_a_pytorch_loader_are_started_its_way():
    dls = fv.DataLoaders(torch_loader(Shifted(), num_workers=2, worker_init_fn=start_worker), torch_loader(Targets()))
    # The workers take turns
    for cbs in [],[BalancedMixUp(1)]:
        inputs = Seen(lambda o: o.x.mean().item())
        quiet_fit(learner(dls), 1, [*cbs, inputs])
        assert inputs.seen==[1.,2.,1.,2.,1.,2.,1.]

def test_weighted_loaders_give_the_first_images():
    dls = fv.DataLoaders(seeded_dl(Targets()), seeded_dl(Targets(), shuffle=False)).weighted('sqrt', seed=0)
    _,_,firsts = check_fit(dls, epochs=20)
    first,root = np.concatenate(firsts),np.array([40,10,6])**.5
    assert len(first)==20*56
    for k,p in enumerate(root/root.sum()): assert abs((first==k).mean()-p)<5*(p*(1-p)/len(first))**.5

# Networks and schedules

def test_as_in_the_readme_with_a_network_of_timm(pictures, capsys):
    learn = fv.vision_learner(from_folder(pictures), 'mobilenetv2_100', pretrained=False, metrics=fv.accuracy)
    start = params(learn)
    learn.fit_one_cycle(1, 1e-2, cbs=BalancedMixUp(alpha=0.2))
    assert not torch.equal(params(learn), start) and np.isfinite(learn.recorder.values[-1]).all()
    assert 'valid_loss' in capsys.readouterr().out
    probs,_ = learn.get_preds()
    assert probs.shape==(8,3)

def test_the_class_will_do():
    learn = learner(toy_dls())
    lams = Seen(lambda o: o.balanced_mix_up.lam)
    quiet_fit(learn, 2, [BalancedMixUp, lams])
    assert any(lams.seen) and not hasattr(learn, 'balanced_mix_up')

def toy_dls(**kwargs): return fv.DataLoaders(seeded_dl(Targets(), **kwargs), seeded_dl(Targets(), shuffle=False))

# Company

@pytest.mark.parametrize('change', [fv.Learner.to_bf16, fv.Learner.to_fp16], ids=['bf16', 'fp16'])
@pytest.mark.parametrize('per_item', [False, True])
def test_mixed_precision_on_the_cpu_is_full_precision(per_item, change):
    # fastai's autocast is the GPU's; without one it must be idle, and the events in their order
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        got = [params(quiet_fit(o, 2, BalancedMixUp(1, per_item=per_item, seed=0)))
            for o in (learner(toy_dls()), change(learner(toy_dls())))]
    equal(*got)

@pytest.mark.parametrize('per_item', [False, True])
def test_autocast_leaves_labels_and_weights_alone(per_item):
    class Cpu16(fv.Callback):
        "What fastai's `MixedPrecision` does, at its place, with the CPU's bfloat16"
        order = fv.MixedPrecision.order
        def before_batch(self):
            self.cast = torch.autocast('cpu', torch.bfloat16)
            self.cast.__enter__()
        def after_pred(self):
            assert self.pred.dtype==torch.bfloat16
            self.learn.pred = self.pred.float()
        def after_loss(self): self.cast.__exit__(None, None, None)

    full,half = (quiet_fit(learner(toy_dls()), 2, [BalancedMixUp(1, per_item=per_item, seed=0), *cbs])
        for cbs in ([], [Cpu16()]))
    assert {p.dtype for p in half.model.parameters()}=={torch.float32}
    # bfloat16 has 8 bits: three decimals of a weight stay
    torch.testing.assert_close(params(half), params(full), rtol=0, atol=.01)
    assert not torch.equal(params(half), params(full))

def test_a_block_with_two_images(pictures):
    def mirrored(o): return o
    block = fv.DataBlock((fv.ImageBlock, fv.ImageBlock(fv.PILImageBW), fv.CategoryBlock), n_inp=2,
        get_items=fv.get_image_files, get_x=[fv.noop, mirrored],
                         get_y=fv.parent_label, splitter=fv.RandomSplitter(.2, seed=0),
                         item_tfms=fv.Resize(16, method='squish'))
    inputs = Seen(lambda o: [x.detach().clone() for x in o.xb])
    quiet_fit(learner(block.dataloaders(pictures, bs=8, num_workers=0), TwoInputs(make_net(n_in=4))), 2,
        [BalancedMixUp(1), inputs])
    # A grey JPEG file as RGB has the same three channels: the mixtures must agree
    for a,b in inputs.seen: torch.testing.assert_close(a[:,:1], b, rtol=0, atol=3/255)

# Random augmentation

class Shift(fv.RandTransform):
    "Adds to each image of a batch a number of its own, and keeps the numbers"
    order,split_idx = 30,0
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drawn = []

    def before_call(self, b, split_idx):
        super().before_call(b, split_idx)
        self.by = self.draw(b)
        self.drawn.append(self.by)

    def draw(self, b): return torch.rand(len(b[0]))
    def encodes(self, x:fv.TensorImage): return x + self.by[:,None,None,None]

class ItemShift(Shift):
    "Adds to an image a number of its own, and keeps the number"
    def draw(self, b): return torch.rand(1)
    def encodes(self, x:fv.TensorImage): return x + self.by

def black(_): return fv.TensorImage(torch.zeros(3,8,8))
def kind_of(i): return kinds[Targets.targets[i]]

@pytest.mark.parametrize('level', ['item', 'batch'])
@pytest.mark.parametrize('per_item', [False, True])
def test_partners_get_an_augmentation_of_their_own(per_item, level):
    tfm = Shift() if level=='batch' else ItemShift()
    block = fv.DataBlock((fv.TransformBlock(type_tfms=black), fv.CategoryBlock), get_items=lambda _: list(range(56)),
        get_y=kind_of,
                         splitter=fv.RandomSplitter(.2, seed=0), **{f'{level}_tfms':tfm})
    def look(o):
        drawn = torch.cat(tfm.drawn)
        tfm.drawn.clear()
        return o.x.mean((1,2,3)),o.balanced_mix_up.lam,drawn

    inputs,dls = Seen(look),block.dataloaders(None, bs=8, num_workers=0)
    # What was drawn to look at the data before the first batch is not of interest
    clear = fv.Callback(before_train=lambda self: tfm.drawn.clear())
    clear.order = 50
    tfms = dls.train.after_batch.fs if level=='batch' else dls.train.after_item.fs
    assert any(o is tfm for o in tfms)
    quiet_fit(learner(dls), 2, [BalancedMixUp(1, per_item=per_item, seed=0), inputs, clear])
    mixed = 0
    for x,lam,drawn in inputs.seen:
        n,lam = len(x),torch.as_tensor(lam).expand(len(x))
        assert len(drawn)==n+(lam>0).sum() and len(set(drawn.tolist()))==len(drawn)
        partners = drawn[:n].clone()
        partners[lam>0] = drawn[n:]
        torch.testing.assert_close(x, (1-lam)*drawn[:n] + lam*partners, rtol=0, atol=1e-5)
        mixed += (lam>0).sum()
    assert mixed>40

@pytest.mark.parametrize('per_item', [False, True])
def test_workers_change_nothing(per_item):
    def fit(num_workers):
        learn,lams = learner(toy_dls(num_workers=num_workers)),Seen(
            lambda o: torch.as_tensor(o.balanced_mix_up.lam).clone())
        quiet_fit(learn, 2, [BalancedMixUp(.5, per_item=per_item, seed=0), lams])
        return params(learn),torch.cat([o.reshape(-1) for o in lams.seen])

    for a,b in zip(fit(0), fit(2)): equal(a, b)

# With a GPU

class Waits(fv.Callback):
    "Counts how often the host had to wait for the GPU between a batch's arrival and its backward pass"
    order,run_valid = -20,False
    def __init__(self): self.n = []
    def before_batch(self):
        self.caught = warnings.catch_warnings(record=True)
        self.log = self.caught.__enter__()
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
    def before_backward(self):
        torch.cuda.set_sync_debug_mode('default')
        self.n.append(sum('synchroniz' in str(o.message) for o in self.log))
        self.caught.__exit__(None, None, None)

def gpu_learner():
    dls = toy_dls()
    dls.to(torch.device('cuda'))
    # A scale at which no step overflows and is left out
    return learner(dls, make_net().cuda()).to_fp16(init_scale=1024.)

@pytest.mark.cuda
@pytest.mark.parametrize('per_item', [False, True])
def test_half_precision_on_the_gpu(per_item):
    learn = gpu_learner()
    start = params(learn)
    quiet_fit(learn, 3, BalancedMixUp(1, per_item=per_item, seed=0))
    assert params(learn).is_cuda and params(learn).isfinite().all() and not torch.equal(params(learn), start)
    cpu = quiet_fit(learner(toy_dls()), 3, BalancedMixUp(1, per_item=per_item, seed=0))
    # Half precision has three decimals
    torch.testing.assert_close(params(learn).cpu(), params(cpu), rtol=0, atol=.02)

@pytest.mark.cuda
def test_one_lam_for_a_batch_never_waits_for_the_gpu():
    plain,mixed = Waits(),Waits()
    quiet_fit(gpu_learner(), 2, plain)
    quiet_fit(gpu_learner(), 2, [BalancedMixUp(1, seed=0), mixed])
    assert len(plain.n)==len(mixed.n)==14 and sum(mixed.n)<=sum(plain.n)
