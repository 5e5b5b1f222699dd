"""Labels that do not belong to the items, targets in another place or form than expected, and what is drawn: each is an
error, or the right number."""
import re
import warnings

import fastai.vision.all as fv
import numpy as np
import pytest
import torch
from fastai.callback.data import WeightedDL
from fastai.text.data import SortedDL
from fastai.torch_core import no_random
from torch.utils.data import ConcatDataset, Dataset, Subset
from toys import Points, Unopenable, make_learner, params, quiet_fit, seeded_dl

from fastai_balmix.callback import BalancedMixUp, ProgressiveSampling, Remix, class_distribution
from fastai_balmix.callback.fitcheck import FitCheck, nominal_prior
from fastai_balmix.checks import label_array
from fastai_balmix.loaders.draws import class_counts
from fastai_balmix.loaders.labels import train_labels
from fastai_balmix.loaders.pairing import check_kept_labels
from fastai_balmix.losses import LogitAdjustedLoss
from fastai_balmix.metrics import imbalance_metrics


class Wrapped(Dataset):
    "A part of a data set, with the targets of all of it"
    def __init__(self, ds, indices):
        self.ds,self.indices,self.targets = ds,indices,ds.targets

    def __len__(self): return len(self.indices)
    def __getitem__(self, i): return self.ds[self.indices[i]]

class NamedClasses(Points):
    "Its targets have another name, and `labels` are the names of the classes"
    def __init__(self):
        super().__init__()
        self.y,self.labels = self.targets,['a','b','c','d']
        del self.targets

    def __len__(self): return 51
    def __getitem__(self, i): return self.x[i],self.y[i]

def short(): return Unopenable([0,1,0])

class Long(Unopenable):
    def __len__(self): return 3

def read(ds): return train_labels(seeded_dl(ds))

# ------------------------------------------------------------------ labels and items

@pytest.mark.parametrize('make,words', [
    (NamedClasses, 'a NamedClasses of 51 items has 4 `labels`'),
    (lambda: Wrapped(Points(), range(20)), 'a Wrapped of 20 items has 51 `targets`'),
    (lambda: Long([0,1]*4), 'a Long of 3 items has 8 `targets`'),
    (lambda: Subset(Long([0,1]*4), [0,2]), 'a Long of 3 items has 8 `targets`'),
    (lambda: ConcatDataset([short(), Long([0,1])]), 'a Long of 3 items has 2 `targets`')])
def test_as_many_labels_as_items(make, words):
    with pytest.raises(ValueError, match=f'^train_labels needs a label for each item, but {words}. Pass `labels=`'):
        read(make())

def test_labels_of_the_right_length_are_found_beside_names():
    ds = Points()
    ds.labels,ds.targets = ds.targets,['a','b','c','d']
    ds.__class__ = type('Both', (Points,), {'__len__': lambda self: 51})
    assert read(ds).tolist()==Points().targets

def shifted(ds):
    "`ds` with the targets of its neighbours"
    y = list(ds.targets)
    ds.__class__ = type('Shifted', (type(ds),), {'__getitem__': lambda self, i: (self.x[i], y[i])})
    ds.targets = y[1:]+y[:1]
    return ds

def message(data, cb):
    learn = make_learner(data)
    with pytest.raises(ValueError) as e: quiet_fit(learn, 1, cb)
    return str(e.value)

@pytest.mark.parametrize('cb', [BalancedMixUp,Remix])
def test_labels_that_are_not_those_of_the_items(cb):
    words = message(shifted(Points()), cb())
    assert f'{cb.__name__} needs the label of each item as its data set gives it, but the label of item ' in words
    y = Points().targets
    i,was,has = (int(o) for o in np.array(re.findall(r'\d+', words.split('the label of item ')[1])[:3]))
    assert (was,has)==((y[1:]+y[:1])[i], y[i]) and was!=has

def test_stated_labels_are_compared():
    y = Points().targets
    assert 'the label of item ' in message(Points(), BalancedMixUp(labels=y[::-1]))
    quiet_fit(make_learner(Points()), 1, BalancedMixUp(labels=y))

def test_a_shuffled_part_is_noticed():
    ds = Points()
    part = Wrapped(ds, np.random.default_rng(0).permutation(51).tolist())
    assert 'the label of item ' in message(part, BalancedMixUp())
    quiet_fit(make_learner(Subset(ds, part.indices)), 1, BalancedMixUp())

def test_at_most_seven_items_are_compared_and_chance_is_left_alone():
    ds = Points()
    learn = make_learner(ds)
    torch.manual_seed(0)
    state,order = torch.get_rng_state(),learn.dls.train.rng.getstate()
    check_kept_labels(learn.dls.train)
    assert len(ds.opened)==len({*ds.opened})<=7 and {ds.targets[i] for i in ds.opened}>={0,1,2}
    assert torch.equal(torch.get_rng_state(), state) and learn.dls.train.rng.getstate()==order
    ds.opened.clear()
    pairs = [(torch.zeros(6), i%2) for i in range(9)]
    check_kept_labels(seeded_dl(pairs)) # the labels are those of the items

# ------------------------------------------------------------------ which element is the target

class Triples(Points):
    "Items, their classes and their numbers"
    def __getitem__(self, i): return *super().__getitem__(i),i

class FirstOnly(torch.nn.Module):
    "A loss that takes the number of each item as well, and keeps it"
    def __init__(self, soft=False, reduction='mean'):
        super().__init__()
        self.soft_targets,self.reduction,self.seen = soft,reduction,[]

    def forward(self, pred, targ, index):
        self.seen.append(index)
        return torch.nn.functional.cross_entropy(pred, targ, reduction=self.reduction)

def triple_dls(ds, stated, **kwargs):
    dls = fv.DataLoaders(seeded_dl(ds, **kwargs), seeded_dl(ds, 32, shuffle=False))
    if stated=='dls': dls.n_inp = 1
    elif stated=='dl':
        for o in dls.loaders: o.n_inp = 1
    else: ds.n_inp = 1
    return dls

def sources():
    ds = Points()
    x,y = ds.x,torch.tensor(ds.targets)
    return Triples(),[(*o,i) for i,o in enumerate(zip(x, y))],torch.utils.data.TensorDataset(x, y, torch.arange(51))

@pytest.mark.parametrize('stated', ['dls','dl','ds'])
@pytest.mark.parametrize('k', range(3))
def test_labels_of_triples(stated, k):
    ds = sources()[k]
    if isinstance(ds, list) and stated=='ds': ds = fv.L(ds) # a list has no attributes
    dls = triple_dls(ds, stated)
    n = np.bincount(Points().targets)
    dls.weighted('class')
    assert train_labels(dls.train).tolist()==Points().targets
    assert class_distribution(dls).images.tolist()==n.tolist()
    np.testing.assert_allclose(nominal_prior(dls), n/51)

@pytest.mark.parametrize('cb', [BalancedMixUp, fv.partial(BalancedMixUp, per_item=True), Remix, ProgressiveSampling])
@pytest.mark.parametrize('soft', [False, True])
def test_triples_train_as_pairs_do(cb, soft):
    def fitted(ds, loss_func, stated):
        learn = make_learner(triple_dls(ds, stated) if stated else ds, loss_func)
        with no_random(): return params(quiet_fit(learn, 2, cb(seed=0)))
    class Pair(FirstOnly):
        def forward(self, pred, targ): return super().forward(pred, targ, None)
    loss = FirstOnly(soft)
    torch.testing.assert_close(fitted(Triples(), loss, 'dls'), fitted(Points(), Pair(soft), None), rtol=0, atol=0)
    assert all(o.dtype==torch.int64 for o in loss.seen)

def test_the_labels_of_triples_are_compared_and_inputs_named():
    ds = Triples()
    learn = make_learner(triple_dls(ds, 'dls'), FirstOnly())
    with pytest.raises(ValueError, match='the label of item '):
        quiet_fit(learn, 1, BalancedMixUp(labels=ds.targets[::-1]))
    with pytest.raises(ValueError, match=r'`dls.n_inp` says how many .* are inputs\). Got torch.int64'):
        quiet_fit(make_learner(Triples()), 1, BalancedMixUp())
    dls = triple_dls(Points(), 'dls')
    dls.n_inp = 2
    with pytest.raises(ValueError, match='a target after 2 inputs. Got batches of 2 elements'):
        quiet_fit(make_learner(dls), 1, BalancedMixUp())

# ------------------------------------------------------------------ the form of targets

class Columns(Points):
    "Class numbers of shape (N,1), as MedMNIST and tables have them"
    def __init__(self, dtype=np.int64):
        super().__init__()
        self.labels = np.array(self.targets, dtype=dtype)[:,None]
        self.flat = self.targets
        self.targets = None

    def __len__(self): return 51
    def __getitem__(self, i): return self.x[i],torch.from_numpy(self.labels[i].astype(np.int64))

@pytest.mark.parametrize('make', [Columns, fv.partial(Columns, np.uint8),
    lambda: torch.utils.data.TensorDataset(Points().x, torch.tensor(Points().targets)[:,None]),
    lambda: [(x,[y]) for x,y in zip(Points().x, Points().targets)]])
def test_class_numbers_in_a_column_are_classes(make):
    assert read(make()).tolist()==Points().targets
    assert class_counts(label_array(Points().targets)[:,None]).tolist()==[28,14,6,3]

@pytest.mark.parametrize('cb', [BalancedMixUp, fv.partial(BalancedMixUp, per_item=True), Remix])
@pytest.mark.parametrize('loss', [fv.CrossEntropyLossFlat, LogitAdjustedLoss, 'soft'])
def test_columns_train_and_score_as_rows_do(cb, loss):
    class Soft(torch.nn.Module):
        soft_targets,reduction = True,'mean'
        def forward(self, pred, targ):
            return torch.nn.functional.cross_entropy(pred, targ.flatten() if targ.shape[-1]==1 else targ)
    def fitted(ds):
        f = Soft() if loss=='soft' else loss([.4,.3,.2,.1]) if loss is LogitAdjustedLoss else loss()
        learn = make_learner(ds, f, metrics=imbalance_metrics())
        with no_random(): quiet_fit(learn, 2, cb(seed=0))
        return params(learn),learn.recorder.values
    (net,values),(net1,values1) = fitted(Columns()),fitted(Points())
    torch.testing.assert_close(net, net1, rtol=0, atol=0)
    assert values==values1

def test_numbers_are_judged_by_all_of_them():
    dsets = fv.Datasets(range(6), [[lambda i: float(i)], [lambda i: 0 if i==0 else i/2]])
    with pytest.raises(ValueError, match='float64 targets: regression'): read(dsets)

def test_a_transform_gets_what_the_data_set_gives_it():
    from torchvision.datasets import MNIST
    got = []
    def kept(o): return got.append(o) or o
    class Own(Points):
        def __init__(self, y):
            super().__init__()
            self.targets,self.target_transform = y,kept

        def __len__(self): return 51
        def __getitem__(self, i): return self.x[i],self.target_transform(self.targets[i])
    y = torch.tensor(Points().targets)
    for labels in y, y.numpy()[:,None].astype(np.int64), torch.nn.functional.one_hot(y):
        ds = Own(labels)
        given = [ds[i][1] for i in range(51)]
        got.clear()
        assert read(ds).tolist()==y.tolist()
        assert all(type(a) is type(b) and a.shape==b.shape and (a==b).all() for a,b in zip(got, given, strict=True))
    mnist = MNIST.__new__(MNIST)
    mnist.data,mnist.targets,mnist.transform,mnist.target_transform = torch.zeros(51,28,28),y,None,kept
    got.clear()
    assert read(mnist).tolist()==y.tolist() and {type(o) for o in got}=={int}

# ------------------------------------------------------------------ what is drawn

COUNTS = np.array([280,140,60,30])
def many(): return Points(COUNTS)
def item_weights(): return torch.tensor(1/COUNTS)[many().targets]

class Balancing(torch.utils.data.Sampler):
    "A sampler of one's own that balances"
    def __init__(self, ds):
        self.ds,self.n_epochs = ds,0
        self.gen = torch.Generator().manual_seed(0)
        self.rng = np.random.default_rng(0)

    def __len__(self): return 510
    def __iter__(self):
        self.n_epochs += 1
        p = item_weights().double()
        torch.rand(3, generator=self.gen)
        return iter(self.rng.choice(510, 510, p=(p/p.sum()).numpy()).tolist())

class Batches(Balancing):
    def __len__(self): return 51
    def __iter__(self):
        idxs = [*super().__iter__()]
        return iter([idxs[i:i+10] for i in range(0, 510, 10)])

class BalancingDL(fv.DataLoader):
    "A loader that overrides `get_idxs`"
    n_epochs = 0
    def get_idxs(self):
        self.n_epochs += 1
        return [*Balancing(self.dataset)]

class Secret(Balancing):
    "Cannot be copied"
    def __init__(self, ds):
        super().__init__(ds)
        self.stream = (o for o in range(3))

class Opens(Balancing):
    "Opens its items to know their classes"
    def __iter__(self): return iter([i for i in range(510) if self.ds[i][1]])

def torch_loader(ds, sampler=None, batch_sampler=None):
    size = {} if batch_sampler else dict(batch_size=64)
    return torch.utils.data.DataLoader(ds, sampler=sampler, batch_sampler=batch_sampler, **size)

def weighted_sampler(w, n=510, **kwargs): return torch.utils.data.WeightedRandomSampler(w, n, **kwargs)

drawing = {
    'WeightedRandomSampler': lambda ds: torch_loader(ds, weighted_sampler(item_weights())),
    'in batches': lambda ds: torch_loader(ds, batch_sampler=torch.utils.data.BatchSampler(
        weighted_sampler(item_weights()), 64, False)),
    'WeightedDL': lambda ds: WeightedDL(ds, bs=64, wgts=item_weights(), shuffle=True, num_workers=0),
    'Balancing': lambda ds: torch_loader(ds, Balancing(ds)),
    'Batches': lambda ds: torch_loader(ds, batch_sampler=Batches(ds)),
    'a list': lambda ds: torch_loader(ds, [*Balancing(ds)]),
    'BalancingDL': lambda ds: BalancingDL(ds, bs=64)}
not_drawing = {
    'uniform weights': lambda ds: torch_loader(ds, weighted_sampler(torch.ones(510))),
    'weights without replacement': lambda ds: torch_loader(ds, weighted_sampler(item_weights(), replacement=False)),
    'uniform WeightedDL': lambda ds: WeightedDL(ds, bs=64, shuffle=True, num_workers=0),
    'WeightedDL in order': lambda ds: WeightedDL(ds, bs=64, wgts=item_weights(), num_workers=0),
    'weighted in order': lambda ds: fv.DataLoaders(seeded_dl(ds, 64, shuffle=False), None).weighted('class').train,
    'uniform draws': lambda ds: torch_loader(ds, torch.utils.data.RandomSampler(ds, replacement=True)),
    'a list': lambda ds: torch_loader(ds, [*range(510)])}

def dls_of(make, ds=None):
    ds = many() if ds is None else ds
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # of an order in which nothing is drawn
        return fv.DataLoaders(make(ds), seeded_dl(ds, 64, shuffle=False))

def alarms(dls):
    learn = make_learner(dls, fv.CrossEntropyLossFlat(weight=torch.tensor([1.,2,4,10])))
    # `fastai_balmix.all` may have given it one
    if not any(isinstance(o, FitCheck) for o in learn.cbs): learn.add_cb(FitCheck())
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        quiet_fit(learn)
    return [o for o in w if 'corrected twice' in str(o.message)]

@pytest.mark.parametrize('case', drawing)
def test_shares_that_are_drawn_are_known(case):
    dls = dls_of(drawing[case])
    exact = case in ('WeightedRandomSampler','in batches','WeightedDL')
    np.testing.assert_allclose(nominal_prior(dls), [.25]*4, rtol=0, atol=1e-6 if exact else 4*(3/16/510)**.5)
    mixed = nominal_prior(dls, BalancedMixUp(alpha=1.))
    np.testing.assert_allclose(mixed, nominal_prior(dls)/2 + 1/8)
    assert len(alarms(dls))==1

@pytest.mark.parametrize('case', not_drawing)
def test_what_draws_as_the_data_are_raises_no_alarm(case):
    dls = dls_of(not_drawing[case])
    chance = .09 if case=='uniform draws' else 1e-6
    np.testing.assert_allclose(nominal_prior(dls), COUNTS/510, rtol=0, atol=chance)
    assert alarms(dls)==[]

@pytest.mark.parametrize('case', [*drawing,*not_drawing])
def test_the_distribution_that_is_shown_is_that_of_what_is_drawn(case):
    dls = dls_of({**drawing, **not_drawing}[case])
    got = class_distribution(dls, alpha=1.).balmix.sort_index()
    np.testing.assert_allclose(got, 510*(nominal_prior(dls)/2 + 1/8))

def test_the_distribution_of_unknown_draws_must_be_stated():
    dls = dls_of(lambda ds: torch_loader(ds, Secret(ds)))
    with pytest.raises(ValueError, match="The 'drawn' parameter of class_distribution must be the share of each class"):
        class_distribution(dls)
    got = class_distribution(dls, alpha=1., drawn=[.4,.3,.2,.1]).balmix.sort_index()
    np.testing.assert_allclose(got, 510*(np.array([.4,.3,.2,.1])/2 + 1/8))

def test_the_distribution_of_several_labels_that_are_drawn():
    "Half of the items have the first of two labels, a quarter the second as well, and the others none"
    rows = np.array([[1,0],[1,1],[0,0],[0,0]]*6)
    ds = [(torch.zeros(6), torch.tensor(o).float()) for o in rows]
    sampler = weighted_sampler(np.array([1.,3.,0.,0.]*6), 24)
    got = class_distribution(dls_of(lambda ds: torch_loader(ds, sampler), ds), alpha=0.)
    np.testing.assert_allclose(got.balmix.sort_index()[['0','1']], [24,18])

@pytest.mark.parametrize('case', ['Balancing','Batches','BalancingDL'])
def test_counting_changes_no_state_and_opens_nothing(case):
    dls = dls_of(drawing[case])
    dl = dls.train
    counter = {'Balancing':'sampler', 'Batches':'batch_sampler'}.get(case)
    o = getattr(dl, counter) if counter else dl
    def state(): return o.n_epochs,*([o.gen.get_state().tolist(),o.rng.bit_generator.state] if counter else [])
    before,torch_state = state(),torch.get_rng_state()
    nominal_prior(dls)
    assert state()==before and torch.equal(torch.get_rng_state(), torch_state) and dl.dataset.opened==[]

@pytest.mark.parametrize('sampler', [Secret, Opens])
def test_what_is_not_known_must_be_stated(sampler):
    dls = dls_of(lambda ds: torch_loader(ds, sampler(ds)))
    words = f"The 'drawn' parameter of nominal_prior must be the share of each .*, as {sampler.__name__} states none"
    with pytest.raises(ValueError, match=words): nominal_prior(dls)
    assert dls.train.dataset.opened==[] and alarms(dls)==[]
    assert nominal_prior(dls, drawn=[.4,.3,.2,.1]).tolist()==[.4,.3,.2,.1]
    with pytest.raises(ValueError, match='4 probabilities'): nominal_prior(dls, drawn=[.5,.5])

def test_weighted_says_that_it_draws_nothing():
    dls = fv.DataLoaders(seeded_dl(Points(), shuffle=False), None)
    with pytest.warns(UserWarning, match='weighted: the training loader has shuffle=False, so nothing is drawn'):
        weighted = dls.weighted('class')
    assert [*weighted.train.get_idxs()]==[*range(51)]

def test_orders_that_are_iterators_are_weighted():
    dl = seeded_dl(Points(), 8, shuffle_fn=lambda idxs: iter(idxs[::-1]))
    sorted_dl = SortedDL([(torch.zeros(6), y) for y in Points().targets], bs=8, sort_func=len, shuffle=True,
                         num_workers=0)
    for o in dl,sorted_dl:
        weighted = fv.DataLoaders(o, None).weighted('class', seed=0).train
        assert len({*weighted.get_idxs()})<51==sum(len(y) for _,y in weighted)
