"""The notebook shows one paired loader; here λ meets scipy's Beta distribution, both streams of indices meet plain
loaders and chi-square tests, and every batch is taken apart: which items were opened, in which order, by whose
functions. The loaders below have states, workers, odd lengths and errors of their own, as users' loaders do."""

import multiprocessing
import pickle
import random
import threading
import traceback
import warnings

import numpy as np
import pytest
import torch
from fastai.data.load import _FakeLoader
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoader,
    DataLoaders,
    Datasets,
    ImageBlock,
    IndexSplitter,
    IntToFloatTensor,
    ItemGetter,
    MaskBlock,
    MultiCategoryBlock,
    PartialDL,
    PILImage,
    RegressionBlock,
    SkipItemException,
    TensorImage,
    TfmdDL,
    Transform,
)
from hypothesis import example, given, strategies as st
from scipy import stats
from torch.utils.data import RandomSampler, SubsetRandomSampler, TensorDataset
from toys import (
    Counting,
    Mute,
    Numbered,
    alphas,
    bad_loaders,
    close,
    flat,
    generator_states,
    item_numbers,
    must_be,
    seeded_dl,
    streams,
    tail_targets,
)

from fastai_balmix.loaders.pairing import (
    check_inputs,
    draw_lams,
    lam_min,
    load_items,
    mix_pairs,
    pair_loader,
    split_pairs,
)

TorchDL = torch.utils.data.DataLoader
SIZES = [60,25,5]
N = sum(SIZES)
TARGETS = tail_targets(*SIZES)

def numbers(seed=0, **kwargs): return seeded_dl(Numbered(TARGETS), seed=seed, **kwargs)

def paired(dl, alpha=1., seed=0, **kwargs): return pair_loader(dl, alpha, rng=np.random.default_rng(seed), **kwargs)

def plain_epoch(dl): return [item_numbers(x) for x,_ in dl]

# --- λ ---

@pytest.mark.parametrize('alpha', [.1, .2, .3, 1., 3.])
def test_lams_follow_the_beta_distribution_and_are_0_below_a_grey_level(alpha):
    n,beta = 20_000,stats.beta(alpha, 1)
    lam = draw_lams(n, alpha, np.random.default_rng(0))
    zero = beta.cdf(1/255)
    assert stats.binomtest(int((lam==0).sum()), n, zero).pvalue > 1e-4
    some = lam[lam>0]
    assert some.min()>=1/255==lam_min and some.max()<1
    # What lies above a grey level follows the same distribution, cut off there
    assert stats.kstest(some, lambda x: (beta.cdf(x)-zero)/(1-zero)).pvalue > 1e-4
    # Mean of n draws, within 5 standard errors; those counted as 0 weigh less than a grey level
    assert abs(lam.mean() - alpha/(1+alpha)) < 5*beta.std()/n**.5 + zero/255

@pytest.mark.parametrize('per_item', [False, True])
def test_a_loader_s_lams_are_draws_of_that_distribution(per_item):
    p = paired(numbers(), .3, per_item=per_item)
    lams = [lam for _,_,lam in streams(p)]
    rng = np.random.default_rng(0)
    expected = draw_lams(N if per_item else 12, .3, rng)
    close(flat(lams) if per_item else lams, expected, atol=1e-7)

def test_an_extreme_alpha_gives_weights_between_0_and_1():
    for alpha in 1e-300,1e-6,1e6,1e300:
        lam = draw_lams(1000, alpha, np.random.default_rng(0))
        assert ((lam>=0) & (lam<=1)).all()

# --- the first stream ---

def partial_numbers(): return numbers(dl_type=PartialDL, partial_n=30)
def weighted(dl, q='class'): return DataLoaders(dl, None).weighted(q, seed=1).train

first_streams = dict(
    plain=numbers,
    tfmd=lambda: numbers(dl_type=TfmdDL),
    drop_last=lambda: numbers(drop_last=True),
    in_order=lambda: numbers(shuffle=False),
    weighted=lambda: weighted(numbers(), 'sqrt'),
    partial=partial_numbers,
    weighted_partial=lambda: weighted(partial_numbers()),
    n=lambda: numbers(n=50),
)

@pytest.mark.parametrize('make', first_streams.values(), ids=first_streams)
@pytest.mark.parametrize('per_item', [False, True])
def test_the_first_stream_is_what_the_loader_would_have_brought(make, per_item):
    np.random.seed(0)
    plain = make()
    expected = [plain_epoch(plain) for _ in range(3)]
    np.random.seed(0)
    dl = make()
    p = paired(dl, .3, per_item=per_item)
    got = [[first for first,_,_ in streams(p)] for _ in range(3)]
    assert got==expected and len(p)==len(dl)==len(expected[0])

def test_a_paired_loader_made_anew_each_epoch_goes_on_with_the_order_and_the_draws():
    one = paired(numbers(), .3)
    dl,rng = numbers(),np.random.default_rng(0)
    assert [streams(one) for _ in range(3)]==[streams(pair_loader(dl, .3, rng=rng)) for _ in range(3)]

def test_every_item_comes_once_an_epoch():
    p = paired(numbers())
    for _ in range(3): assert sorted(flat(first for first,_,_ in streams(p)))==list(range(N))

# --- the second stream ---

def partners(p, n_epochs):
    return np.array([j for _ in range(n_epochs) for _,j in p.get_idxs() if j>=0])

@pytest.mark.parametrize('q', ['class', 'sqrt', .3])
@pytest.mark.parametrize('per_item', [False, True])
def test_partners_come_by_equation_2_and_evenly_within_a_class(q, per_item):
    j = partners(paired(numbers(), q=q, per_item=per_item), 200)
    n,power = np.array(SIZES),dict(sqrt=.5, **{'class':0}).get(q, q)
    share = (n**power/(n**power).sum()/n)[TARGETS]
    assert stats.chisquare(np.bincount(j, minlength=N), len(j)*share).pvalue > 1e-4
    by_class = np.bincount(np.array(TARGETS)[j])
    assert stats.chisquare(by_class, len(j)*n**power/(n**power).sum()).pvalue > 1e-4

def test_partners_do_not_depend_on_the_items_they_are_drawn_for():
    p = paired(numbers(), per_item=True)
    pairs = np.array([(TARGETS[i],TARGETS[j]) for _ in range(100) for i,j in p.get_idxs() if j>=0])
    table = np.array([[((pairs==(a,b)).all(1)).sum() for b in range(3)] for a in range(3)])
    assert stats.chi2_contingency(table).pvalue > 1e-4

def test_partners_follow_labels_that_are_given():
    labels = tail_targets(80, 10, seed=1)
    p = paired(seeded_dl(Mute(90)), labels=labels)
    j = partners(p, 100)
    assert stats.binomtest(int((np.array(labels)[j]==1).sum()), len(j), .5).pvalue > 1e-4

def test_weighted_loaders_get_partners_by_the_pairs_exponent():
    p = paired(DataLoaders(numbers(), None).weighted('instance', seed=0).train, q='class')
    j = partners(p, 200)
    assert stats.chisquare(np.bincount(np.array(TARGETS)[j])).pvalue > 1e-4

def test_draws_follow_from_the_generator():
    first,same,other = (streams(paired(numbers(), .3, seed=s)) for s in (1,1,2))
    assert first==same!=other and [f for f,_,_ in first]==[f for f,_,_ in other]

@pytest.mark.parametrize('per_item', [False, True])
def test_indices_and_lams_do_not_depend_on_workers(per_item):
    two = []
    for n in 0,1,2:
        p = paired(numbers(num_workers=n), .2, per_item=per_item)
        two.append([streams(p) for _ in range(2)])
    assert two[0]==two[1]==two[2] and two[0][0]!=two[0][1]

# --- what a batch holds ---

@pytest.mark.parametrize('alpha', [.05, .3, 1.])
def test_a_batch_opens_its_items_and_the_partners_that_count(alpha):
    ds = Counting(TARGETS)
    p = paired(seeded_dl(ds), alpha)
    opened = []
    for x,y in p:
        b = len(x)//2 if p.lam else len(x)
        assert len(ds.opened)==len(x)==len(y)==(2*b if p.lam else b) and ds.opened==item_numbers(x)
        opened.append(p.lam>0)
        ds.opened.clear()
    assert len(opened)==12 and (alpha==1. or not all(opened))

def test_a_batch_of_pairs_opens_one_partner_for_each_weight_above_0():
    ds = Counting(TARGETS)
    p = paired(seeded_dl(ds), .2, per_item=True)
    for x,_ in p:
        assert p.lam.dtype==torch.float32 and ds.opened==item_numbers(x)
        assert len(x)==len(p.lam)+int((p.lam>=1/255).sum())
        assert ((p.lam==0) | (p.lam>=1/255)).all()
        ds.opened.clear()

@given(sizes=st.lists(st.integers(0, 15), min_size=2, max_size=4).filter(any), bs=st.integers(1, 10),
       drop_last=st.booleans(), alpha=alphas, per_item=st.booleans(), seed=st.integers(0, 3))
@example(sizes=[1,1], bs=1, drop_last=False, alpha=1., per_item=False, seed=0)
@example(sizes=[1,1], bs=8, drop_last=False, alpha=1., per_item=True, seed=0)
@example(sizes=[1,1], bs=8, drop_last=True, alpha=1., per_item=False, seed=0)
@example(sizes=[9,0,8], bs=8, drop_last=True, alpha=.1, per_item=True, seed=0)
def test_every_batch_is_laid_out_right(sizes, bs, drop_last, alpha, per_item, seed):
    y = tail_targets(*sizes)
    def make(): return seeded_dl(Numbered(y), bs=bs, drop_last=drop_last, seed=seed)
    expected = plain_epoch(make())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        p = paired(make(), alpha, seed, per_item=per_item)
    batches = []
    for (x,t),first in zip(p, expected):
        i,lam = item_numbers(x),p.lam
        assert i[:len(first)]==first and t.tolist()==[y[k] for k in i]
        if per_item: assert lam.shape==(len(first),) and len(i)-len(first)==(lam>0).sum()
        else: assert isinstance(lam, float) and len(i)==(2*len(first) if lam else len(first))
        batches.append(i)
    assert len(batches)==len(expected)==len(p)==len(make())
    assert len(p.lams)==(len(y) if per_item else -(-len(y)//bs))

def test_the_last_lam_of_pairs_belongs_to_the_short_batch():
    p = paired(numbers(bs=40), .3, per_item=True)
    lams = [lam for _,_,lam in streams(p)]
    assert [len(o) for o in lams]==[40,40,10]
    np.testing.assert_allclose(flat(lams), p.lams, rtol=1e-6)

@pytest.mark.parametrize('device,there', [(None,'cpu'), (torch.device('meta'),'meta')])
def test_items_are_loaded_onto_the_loaders_device(device, there):
    dl = numbers()
    dl.device = device
    x,y = load_items(dl, [2,0], 'test')
    assert x.shape==(2,1) and x.device.type==y.device.type==there

# --- the user's loader ---

def collate(b):
    x,y = zip(*b)
    return {'x':torch.stack(x), 'y':torch.tensor(y)}

def test_the_loader_s_own_functions_make_the_batch_and_after_batch_runs_once_over_all_of_it():
    calls = dict(after_item=[], before_batch=[], create_batch=[], after_batch=[])
    def counted(name, size, f):
        def call(b):
            calls[name].append(size(b))
            return f(b)
        return call
    def doubled(b): return torch.stack([x for x,_ in b])*2,torch.tensor([y for _,y in b])
    p = paired(numbers(
        after_item=counted('after_item', len, lambda o: (o[0]*10,o[1])),
        before_batch=counted('before_batch', len, lambda b: [(x+1,y) for x,y in b]),
        create_batch=counted('create_batch', len, doubled),
        after_batch=counted('after_batch', lambda b: len(b[0]), lambda b: (b[0]-1,b[1]))), .3)
    sizes = []
    for x,y in p:
        i = [(int(o)-1)//20 for o in x]
        assert all(o==(10*k+1)*2-1 for o,k in zip(x,i)) and y.tolist()==[TARGETS[k] for k in i]
        sizes.append(len(x))
    assert calls['before_batch']==calls['create_batch']==calls['after_batch']==sizes and len(sizes)==12
    assert len(calls['after_item'])==sum(sizes)

class OwnMethods(DataLoader):
    def create_item(self, i): return self.dataset[i][0]+1000,self.dataset[i][1]
    def after_item(self, o): return o[0]*2,o[1]
    def before_batch(self, b): return b[::-1]
    def create_batch(self, b): return collate(b)
    def after_batch(self, b): return b['x'],b['y']

def test_methods_of_a_loader_class_make_the_batch():
    x,y = paired(numbers(dl_type=OwnMethods)).one_batch()
    i = [int(o)//2-1000 for o in x][::-1]
    assert len(x)==16 and y.tolist()==[TARGETS[k] for k in i][::-1] and i[:8]==plain_epoch(numbers())[0]

def test_types_of_tensors_are_kept():
    dl = seeded_dl([(TensorImage(torch.zeros(3,2,2)),0)]*6 + [(TensorImage(torch.ones(3,2,2)),1)], bs=4)
    assert type(paired(dl).one_batch()[0]) is TensorImage

class CountsEpochs(DataLoader):
    epoch = 0
    def before_iter(self):
        super().before_iter()
        self.epoch += 1
    def after_item(self, o): return o[0]+1000*self.epoch,o[1]

class CountsEpochsInBatch(CountsEpochs):
    def after_item(self, o): return o
    def after_batch(self, b): return b[0]+1000*self.epoch,b[1]

@pytest.mark.parametrize('dl_type', [CountsEpochs, CountsEpochsInBatch])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_loader_may_keep_state_from_before_iter(dl_type, num_workers):
    dl = numbers(dl_type=dl_type, num_workers=num_workers)
    for _ in range(2):
        p = paired(dl, .3)
        for _ in range(2):
            epochs = {i//1000 for f,s,_ in streams(p) for i in (*f,*s)}
            assert epochs=={dl.epoch}
    assert dl.epoch==4

class KnowsItsWorker(DataLoader):
    worker = -1
    def wif(self): self.worker = 10*torch.utils.data.get_worker_info().id + self.offs
    def create_item(self, i): return torch.tensor([float(self.worker)]),self.dataset[i][1]

def test_a_loader_may_keep_state_from_the_start_of_a_worker():
    expected = [set(b) for b in plain_epoch(numbers(dl_type=KnowsItsWorker, num_workers=2, bs=40))]
    p = paired(numbers(dl_type=KnowsItsWorker, num_workers=2, bs=40))
    assert [{*f,*s} for f,s,_ in streams(p)]==expected==[{0},{11},{0}]

class AfterIter(DataLoader):
    ended = 0
    def after_iter(self): self.ended += 1

def test_the_loader_hears_of_the_end_of_an_epoch():
    dl = numbers(dl_type=AfterIter)
    p = paired(dl)
    streams(p),streams(p)
    assert dl.ended==2

@pytest.mark.parametrize('dl_type', [DataLoader, TfmdDL, PartialDL])
def test_the_loader_is_left_as_it_was(dl_type):
    dl,twin = numbers(dl_type=dl_type),numbers(dl_type=dl_type)
    before = {k:v for k,v in vars(dl).items() if k!='rng'}
    fake = dict(vars(dl.fake_l))
    p = paired(dl, .3)
    for _ in range(2): streams(p),plain_epoch(twin)
    after = vars(dl)
    assert set(after)-set(before)=={'rng','_labels','_samplers'} and all(after[k] is v for k,v in before.items())
    assert type(dl) is dl_type and vars(dl.fake_l)==fake and dl.fake_l.d is dl
    # The generator stands where the same number of plain epochs would have left it
    assert dl.rng.getstate()==twin.rng.getstate() and plain_epoch(dl)==plain_epoch(twin)

def test_an_epoch_that_is_broken_off_leaves_nothing_behind():
    dl,twin = numbers(),numbers()
    for _ in paired(dl): break
    next(iter(twin))
    p = paired(dl)
    assert [f for f,_,_ in streams(p)]==plain_epoch(twin)

def test_global_generators_go_no_further_than_in_a_plain_epoch():
    def after(f):
        torch.manual_seed(0),np.random.seed(0),random.seed(0)
        f()
        return generator_states()
    dl,p = numbers(),paired(numbers(), .3)
    assert after(lambda: plain_epoch(dl))==after(lambda: streams(p))

class Named(Numbered): classes = 'ant','bee','cat'

def test_a_user_hears_once_of_empty_classes_however_many_exponents_draw():
    def train():
        dl = DataLoaders(seeded_dl(Named([0]*9+[2]*3)), None).weighted('sqrt').train
        for _ in range(3): list(paired(dl))
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        train()
    assert len([w for w in ws if 'no training image of bee' in str(w.message)])==1

def test_a_paired_loader_of_a_plain_pytorch_loader():
    ds = Numbered(TARGETS)
    dl = TorchDL(ds, batch_size=8, shuffle=True, drop_last=True)
    p = paired(dl)
    for _ in range(2):
        got = streams(p)
        first = flat(f for f,_,_ in got)
        assert len(got)==len(p)==len(dl)==11 and len(set(first))==88
    assert set(vars(dl))-set(vars(TorchDL(ds)))=={'_labels','_samplers'}
    assert sorted(flat(plain_epoch(TorchDL(ds, batch_size=8))))==list(range(N))

def test_a_pytorch_loader_s_collate_function_is_the_one_used():
    b = paired(TorchDL(Numbered(TARGETS), batch_size=8, collate_fn=collate)).one_batch()
    assert b['x'].shape==(16,1) and b['y'].tolist()==[TARGETS[i] for i in item_numbers(b['x'])]

def test_partners_are_among_the_items_that_a_pytorch_sampler_visits():
    mine = list(range(20, 60))
    dl = TorchDL(Numbered(TARGETS), batch_size=8, sampler=SubsetRandomSampler(mine))
    p = paired(dl)
    assert len(p)==len(dl)
    for _ in range(5):
        got = streams(p)
        assert sorted(flat(f for f,_,_ in got))==mine
        assert not set(flat(s for _,s,_ in got)) - set(mine)

def test_a_pytorch_sampler_may_draw_fewer_items():
    ds = Numbered(TARGETS)
    p = paired(TorchDL(ds, batch_size=8, sampler=RandomSampler(ds, num_samples=20)))
    assert len(p)==len(streams(p))==3

class InWorker(Numbered):
    worker = -1
    def __getitem__(self, i): return torch.tensor([float(self.worker)]),self.targets[i]

def init_worker(i): InWorker.worker = i

def test_a_pytorch_loader_s_worker_init_fn_runs():
    dl = TorchDL(InWorker(TARGETS), batch_size=45, num_workers=2, worker_init_fn=init_worker)
    assert plain_epoch(dl)==[[0]*45,[1]*45]
    assert [f for f,_,_ in streams(paired(dl))]==[[0]*45,[1]*45]

# --- other processes ---

def three_deep():
    return paired(weighted(partial_numbers(), 'sqrt'), .3, per_item=True)

pickled = dict(plain=lambda: paired(numbers(), .3), tfmd=lambda: paired(numbers(dl_type=TfmdDL), .3),
               three_deep=three_deep)

@pytest.mark.parametrize('make', pickled.values(), ids=pickled)
def test_a_pickled_paired_loader_brings_the_same_batches(make):
    p = make()
    streams(p)
    twin = pickle.loads(pickle.dumps(p))
    assert type(twin) is type(p) and twin.fake_l.d is twin and twin.fake_l.dataset is twin.fake_l
    np.random.seed(0)
    expected = [streams(p) for _ in range(2)]
    np.random.seed(0)
    assert [streams(twin) for _ in range(2)]==expected

class HasLock(DataLoader):
    def before_iter(self):
        super().before_iter()
        self.lock = threading.Lock()
    def __getstate__(self): return {k:v for k,v in vars(self).items() if k!='lock'}

def test_a_loader_that_knows_how_to_be_pickled_is_asked():
    dl = DataLoaders(numbers(dl_type=HasLock), None).weighted(seed=0).train
    list(dl)
    assert streams(pickle.loads(pickle.dumps(paired(dl))))==streams(paired(dl))

class SpawnedLoader(_FakeLoader): multiprocessing_context = property(lambda self: multiprocessing.get_context('spawn'))

@pytest.mark.slow
def test_spawned_workers_bring_the_same_batches():
    np.random.seed(0)
    expected = streams(three_deep())
    np.random.seed(0)
    p = three_deep()
    p.fake_l.__class__,p.fake_l.num_workers = SpawnedLoader,1
    assert streams(p)==expected

# --- errors ---

class Skips(Numbered):
    def __init__(self, targets, skipped=5):
        super().__init__(targets)
        self.skipped = skipped
    def __getitem__(self, i):
        if i==self.skipped: raise SkipItemException
        return super().__getitem__(i)

class OddSizes(Numbered):
    def __getitem__(self, i): return torch.zeros(3+i%2),self.targets[i]

@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_item_that_is_skipped_is_an_error(num_workers):
    words = 'must be given a data set that yields every item. Got a SkipItemException at item 5: remove such items'
    with pytest.raises(ValueError, match=words) as e:
        list(paired(seeded_dl(Skips(TARGETS), num_workers=num_workers)))
    # Lets go of the worker now; the garbage collector would wait 5 seconds for it
    traceback.clear_frames(e.tb)

def test_images_of_different_sizes_give_fastai_s_own_error():
    with pytest.raises(RuntimeError, match='at least two tensors in the batch are not the same size'):
        paired(seeded_dl(OddSizes(TARGETS))).one_batch()

@pytest.mark.parametrize('name,bad,words', [
    ('alpha', -1, r'a float in the range \[0, inf\)\. Got -1 instead'),
    ('alpha', 0, 'above 0. Got 0 instead'),
    ('alpha', '1', "a float.*Got '1'"),
    ('alpha', float('inf'), 'a float.*Got inf'),
    ('q', 'even', "a float or one of 'instance', 'sqrt', 'class'. Got 'even'"),
    ('labels', [0], '90 ints, one for each item. Got 1 labels'),
])
def test_bad_arguments_are_named(name, bad, words):
    with pytest.raises(ValueError, match=must_be('pair_loader', name, words)): pair_loader(numbers(), **{name:bad})

@pytest.mark.parametrize('make,words', bad_loaders.values(), ids=bad_loaders)
def test_bad_loaders_are_named(make, words):
    with pytest.raises(ValueError, match=must_be('pair_loader', 'dls', words)): pair_loader(make())

def test_the_error_of_an_argument_names_who_asked():
    with pytest.raises(ValueError, match="'q' parameter of Me must be"): pair_loader(numbers(), q='even', owner='Me')

def test_labels_that_cannot_be_read():
    words = 'labels of a Mute cannot be read by pair_loader without opening its items'
    with pytest.raises(ValueError, match=words): pair_loader(seeded_dl(Mute(4)))

# --- splitting and mixing ---

def _reference_split(t, lam):
    "Items and partners, one by one; an item without partner is its own"
    if not isinstance(lam, float):
        later = iter(t[len(lam):])
        return list(t[:len(lam)]),[next(later) if l>0 else o for o,l in zip(t, lam)]
    n = len(t)//2 if lam else len(t)
    return list(t[:n]),list(t[n:]) if lam else list(t)

@given(lam=st.one_of(st.floats(.01, .99), st.just(0.), st.lists(st.sampled_from([0.,.25,1.]), min_size=1, max_size=6)),
       n=st.integers(1, 5), trailing=st.sampled_from([(), (3,), (2,2)]))
def test_batches_are_split_and_mixed_item_by_item(lam, n, trailing):
    if isinstance(lam, list): lam = torch.tensor(lam)
    size = len(lam)+int((lam>0).sum()) if torch.is_tensor(lam) else 2*n if lam else n
    t = torch.randn(size, *trailing, generator=torch.Generator().manual_seed(0))
    x,x1 = split_pairs(t, lam)
    rx,rx1 = map(torch.stack, _reference_split(t, lam))
    torch.testing.assert_close(x, rx, rtol=0, atol=0)
    torch.testing.assert_close(x1, rx1, rtol=0, atol=0)
    lams = lam if torch.is_tensor(lam) else [lam]*len(rx)
    torch.testing.assert_close(mix_pairs(x, x1, lam), torch.stack([(1-l)*a+l*b for a,b,l in zip(rx, rx1, lams)]))

def test_what_has_no_partner_is_not_changed_by_a_bit():
    lam = torch.tensor([0.,.5,0.])
    t = torch.randn(4, 5)
    mixed = mix_pairs(*split_pairs(t, lam), lam)
    assert mixed[[0,2]].equal(t[[0,2]]) and not mixed[1].equal(t[1])

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_mixing_keeps_type_and_precision(dtype):
    x = TensorImage(torch.rand(6, 3, 2, 2)).to(dtype)
    for lam,n in (.25,3),(torch.tensor([.25]*3),3):
        mixed = mix_pairs(*split_pairs(x, lam), lam)
        assert mixed.dtype==dtype and type(mixed) is TensorImage and mixed.shape==(n,3,2,2)

# --- check_inputs ---

def images_dl(ys, block, **kwargs):
    ims = [np.zeros((4,4,3), dtype=np.uint8) for _ in ys]
    dblock = DataBlock((ImageBlock, block), getters=[ItemGetter(0),ItemGetter(1)], splitter=IndexSplitter([len(ys)-1]),
                       **kwargs)
    return dblock.dataloaders(list(zip(ims, ys)), bs=2, num_workers=0).train

def bytes_dl():
    dl = images_dl([0,1,0,1], CategoryBlock)
    dl.after_batch.fs = [f for f in dl.after_batch.fs if not isinstance(f, IntToFloatTensor)]
    return dl

def pairs_dl(x, y): return seeded_dl([(x,y)]*3, bs=2)

class Strings(Numbered):
    def __getitem__(self, i): return 'text',self.targets[i]

floats = torch.zeros(3)

not_float = 'floating-point tensors after the batch transforms. Got '
not_a_pair = 'must be loaders of batches that hold inputs and targets'

@pytest.mark.parametrize('make,words', [
    (lambda: pairs_dl(floats.byte(), 0), must_be('check_inputs', 'inputs', not_float+'torch.uint8 instead')),
    (lambda: pairs_dl(floats.long(), 0), not_float+'torch.int64'),
    (lambda: pairs_dl(floats.bool(), 0), not_float+'torch.bool'),
    (bytes_dl, not_float+'torch.uint8'),
    (lambda: seeded_dl(Strings([0,1])), not_float+'str'),
    (lambda: pairs_dl((floats,[floats.long()]), 0), not_float+'torch.int64'),
    (lambda: pairs_dl(dict(a=floats), 0), not_float+'dict'),
    (lambda: pairs_dl(floats, .5), 'check_inputs must be given a data set whose targets are classes.*regression'),
    (lambda: pairs_dl(floats, torch.full((2,), .2)), 'targets are classes.*regression'),
    (lambda: pairs_dl(floats, torch.tensor([0,3])), 'targets are classes.*torch.int64 and shape .2,.: regression'),
    (lambda: pairs_dl(floats, torch.zeros(2, 2).long()), 'targets are classes.*segmentation'),
    (lambda: pairs_dl(floats, 'a'), 'targets are classes. Got (tuple|list) targets'),
    (lambda: images_dl([.5,1.,2.,3.], RegressionBlock), 'targets are classes.*regression'),
    (lambda: images_dl([np.zeros((4,4), dtype=np.uint8)]*4, MaskBlock(['a','b'])), 'targets are classes.*segmentation'),
    (lambda: seeded_dl(TensorDataset(torch.zeros(4,3))), not_a_pair),
    (lambda: seeded_dl([floats]*3), not_a_pair+'. Got Tensor'),
    (lambda: seeded_dl(Numbered([0]*3), create_batch=collate), not_a_pair+'. Got dict'),
    (lambda: seeded_dl(Skips(TARGETS[:3], skipped=0)),
     'check_inputs must be given a data set that yields every item. Got a SkipItemException at item 0'),
    *(o for name,o in bad_loaders.items() if 'PyTorch' not in name),
])
def test_unusable_batches_are_named(make, words):
    with pytest.raises(ValueError, match=words): check_inputs(make())

def test_the_error_names_who_asked():
    with pytest.raises(ValueError, match="^Me must be given"): check_inputs(pairs_dl(floats, .5), 'Me')

@pytest.mark.parametrize('make', [
    numbers, lambda: numbers(dl_type=TfmdDL), lambda: images_dl([0,1,0,1], CategoryBlock),
    lambda: TorchDL(Numbered(TARGETS), batch_size=3), lambda: pairs_dl(floats.half(), torch.tensor(1)),
    lambda: seeded_dl([(floats,floats,0)]*3, dl_type=TfmdDL),
    lambda: images_dl([['a'],['a','b'],['b'],['a']], MultiCategoryBlock),
    lambda: pairs_dl(floats, torch.tensor([.2,.8])), lambda: pairs_dl(floats, torch.zeros(2)),
    lambda: pairs_dl(floats, torch.zeros(1))
])
def test_usable_batches_pass(make): assert check_inputs(make()) is None

class Noise(Transform):
    def encodes(self, x:TensorImage):
        return x + torch.rand(()) + random.random() + np.random.rand()

class PixelNoise(Transform):
    def encodes(self, x:PILImage):
        return PILImage.create(np.asarray(x) + np.uint8(random.randint(0, 9) + np.random.randint(9)))

def noisy():
    items = [(TensorImage(torch.zeros(3,2,2)),i%2) for i in range(4)]
    return TfmdDL(items, bs=2, num_workers=0, after_item=Noise(), after_batch=Noise())

class Fails(Transform):
    def encodes(self, x:TensorImage): raise RuntimeError('a broken transform')

def noisy_pipeline(): return images_dl([0,1,0,1], CategoryBlock, item_tfms=PixelNoise(), batch_tfms=Noise())
def broken():
    return TfmdDL([(TensorImage(torch.zeros(3,2,2)),0)]*4, bs=2, num_workers=0, after_item=[Noise(),Fails()])

@pytest.mark.parametrize('make', [noisy,noisy_pipeline,broken])
def test_checking_leaves_every_generator_where_it_was(make):
    dl = make()
    def state():
        flags = torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark
        return generator_states(),dl.rng.getstate(),flags
    before = state()
    try: check_inputs(dl)
    except RuntimeError as e: assert 'broken transform' in str(e)
    assert state()==before

class Prepares(DataLoader):
    def before_iter(self):
        super().before_iter()
        self.scale = .5
    def after_item(self, o): return o[0]*self.scale,o[1]

class OnlyInTraining(Transform):
    split_idx = 0
    def encodes(self, x:TensorImage): return x.float()

def test_checking_prepares_the_loader_as_an_epoch_does():
    check_inputs(seeded_dl([(torch.zeros(3, dtype=torch.int64),0)]*3, dl_type=Prepares))
    def image(i): return TensorImage(torch.zeros(3,2,2, dtype=torch.uint8))
    ds = Datasets(range(4), [[image],[lambda i: i%2]], splits=[[0,1],[2,3]])
    check_inputs(TfmdDL(ds.train, bs=2, num_workers=0, after_batch=OnlyInTraining()))
    with pytest.raises(ValueError, match='Got torch.uint8'):
        check_inputs(TfmdDL(ds.valid, bs=2, num_workers=0, after_batch=OnlyInTraining()))

def test_checking_opens_one_item():
    for dl_type in DataLoader,TfmdDL:
        ds = Counting(TARGETS)
        check_inputs(seeded_dl(ds, dl_type=dl_type))
        assert ds.opened==[0]

def test_checking_leaves_the_loader_s_own_state():
    dl = numbers(dl_type=CountsEpochs)
    check_inputs(dl)
    assert dl.epoch==0
