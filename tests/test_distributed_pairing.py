"""Distributed training needs more than one process, which no notebook has. First fastai's `DistributedDL` plays each
rank in turn, in one process and without a broadcast; then two processes train for real over gloo on the CPU."""

import types

import numpy as np
import pytest
import torch

pytest.importorskip('accelerate')
from fastai.distributed import DistributedDL, DistributedTrainer
from fastai.vision.all import SGD, Callback, CrossEntropyLossFlat, DataLoaders, Learner, PartialDL
from toys import Counting, Numbered, flat, item_numbers, n_first, on_ranks, seeded_dl, streams, tail_targets

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.loaders.pairing import pair_loader
from fastai_balmix.loaders.weighted import loader_sampler

TARGETS = tail_targets(60, 25, 6)

class LocalDL(DistributedDL):
    "A rank that has computed the same indices as rank 0, instead of receiving them"
    def _broadcast(self, t, rank): return torch.LongTensor(t).tolist()

def make_numbers(targets=TARGETS, **kwargs): return seeded_dl(Numbered(targets), **kwargs)

def ranks(make=make_numbers, world_size=2):
    return [LocalDL(make(), rank=r, world_size=world_size) for r in range(world_size)]

def paired_ranks(alpha=.3, make=make_numbers, world_size=2, **kwargs):
    return [pair_loader(dl, alpha, rng=np.random.default_rng([0,dl.rank]), **kwargs) for dl in ranks(make, world_size)]

def test_fastai_takes_the_paired_loader_for_a_distributed_one_and_does_not_wrap_it_again():
    for dl,p in zip(ranks(), paired_ranks()):
        assert isinstance(p, DistributedDL) and isinstance(p, LocalDL) and (p.rank,p.world_size)==(dl.rank,2)
        assert DistributedTrainer._wrap_dl(types.SimpleNamespace(), p) is p

makes = dict(
    odd=make_numbers,
    even=lambda: make_numbers(TARGETS[:90]),
    few=lambda: make_numbers(TARGETS[:9], bs=4),
    drop_last=lambda: make_numbers(drop_last=True),
    worker=lambda: make_numbers(num_workers=1),
    weighted=lambda: DataLoaders(make_numbers(), None).weighted('sqrt', seed=1).train,
)

@pytest.mark.parametrize('make', makes.values(), ids=makes)
@pytest.mark.parametrize('per_item', [False, True])
def test_each_rank_s_first_stream_is_what_it_would_have_been(make, per_item):
    plain = ranks(make)
    pairs = paired_ranks(make=make, per_item=per_item)
    for dl,p in zip(plain, pairs):
        for _ in range(2):
            expected = [item_numbers(x) for x,_ in dl]
            assert [f for f,_,_ in streams(p)]==expected and len(p)==len(dl)

@pytest.mark.parametrize('n', [91, 90, 5, 3])
@pytest.mark.parametrize('world_size', [2, 3])
def test_the_ranks_first_streams_are_together_one_epoch(n, world_size):
    pairs = paired_ranks(make=lambda: make_numbers(tail_targets(n-2, 2)), world_size=world_size)
    for _ in range(2):
        seen = [flat(f for f,_,_ in streams(p)) for p in pairs]
        per_rank = -(-n//world_size)
        assert {len(o) for o in seen}=={per_rank} and all(len(p)==-(-per_rank//8) for p in pairs)
        # What is over, to make the ranks' shares equal, is the beginning of the epoch once more
        everything = flat(seen)
        assert sorted(everything[:n])==list(range(n)) and everything[n:]==everything[:len(everything)-n]

def test_a_partial_epoch_is_shared_too():
    def make(): return make_numbers(dl_type=PartialDL, partial_n=31)
    pairs,seen = paired_ranks(make=make),[]
    for p in pairs:
        np.random.seed(0)
        seen += flat(f for f,_,_ in streams(p))
    assert len(seen)==32 and len(set(seen))==31

def test_each_rank_draws_its_own_weights_and_partners_from_the_whole_data_set():
    lams,partners = [],[]
    for p in paired_ranks(alpha=1.):
        drawn = flat(streams(p) for _ in range(30))
        lams.append([lam for _,_,lam in drawn])
        partners.append(flat(j for _,j,_ in drawn))
    assert not set(lams[0])&set(lams[1])-{0.} and partners[0]!=partners[1]
    for own in partners: assert set(own)==set(range(91))

def test_labels_are_read_and_kept_where_the_items_are():
    dl = ranks()[0]
    sampler = loader_sampler(dl)
    assert '_labels' in vars(dl.dl) and '_labels' not in vars(dl)
    assert pair_loader(LocalDL(dl.dl, rank=1, world_size=2)).sampler is sampler

def test_a_rank_opens_its_own_items_and_their_partners_only():
    dl = LocalDL(seeded_dl(Counting(TARGETS)), rank=1, world_size=2)
    p = pair_loader(dl, .3, rng=np.random.default_rng(0))
    opened = sum(len(f)+len(s) for f,s,_ in streams(p))
    assert len(dl.dataset.opened)==opened and sum(len(f) for f,_,_ in streams(p))==46

def gathered(loaders, first):
    "What `to_detach` keeps of the ranks' batches, batch by batch: their items, gathered over ranks, without padding"
    res = []
    for batches in zip(*loaders):
        items = [first(dl, x) for dl,(x,_) in zip(loaders, batches)]
        for dl in loaders: dl._to_detach = lambda b, cpu, gather: torch.cat(items)
        kept = [item_numbers(dl.to_detach(o)) for dl,o in zip(loaders, items)]
        assert all(o==kept[0] for o in kept)
        res.append((kept[0], [dl.i for dl in loaders]))
    return res

@pytest.mark.parametrize('n', [91, 90, 17, 3])
@pytest.mark.parametrize('world_size', [2, 3])
@pytest.mark.parametrize('per_item', [False, True])
def test_padding_is_trimmed_as_without_pairs(n, world_size, per_item):
    def make(): return make_numbers(tail_targets(n-2, 2))
    for _ in range(2):
        plain = gathered(ranks(make, world_size), lambda dl,x: x)
        pairs = gathered(paired_ranks(1., make, world_size, per_item=per_item), lambda p,x: x[:n_first(p, x)])
        assert pairs==plain
        assert len(flat(o for o,_ in plain))==n

# --- two processes ---

class Record(Callback):
    "Before the pairs are mixed, keep what this rank was given"
    order,run_valid = BalancedMixUp.order-1,False
    def before_fit(self): self.epochs = []
    def before_train(self): self.epochs.append([])
    def before_batch(self):
        i,n = item_numbers(self.x),n_first(self.dl, self.x)
        self.epochs[-1].append((i[:n], i[n:], self.dl.lam, type(self.dl).__name__, self.dl.i))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(1, 3)
    def forward(self, x): return self.lin(x/100)

def train_rank(rank):
    "Trains as one of two processes; what it was given, and where it got"
    torch.manual_seed(rank)
    # Every process shuffles by a generator of its own; only the first one's order counts
    dls = DataLoaders(make_numbers(seed=rank), make_numbers(TARGETS[:21], shuffle=False, drop_last=False), device='cpu')
    record,mix = Record(),BalancedMixUp(alpha=1., seed=0)
    cbs = [record,mix,DistributedTrainer(sync_bn=False, cpu=True)]
    learn = Learner(dls, Net(), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs)
    with learn.no_bar(),learn.no_logging(): learn.fit(2, lr=.1)
    params = [p.detach().clone() for p in learn.model.parameters()]
    return dict(epochs=record.epochs, params=params, losses=[list(o) for o in learn.recorder.values])

def test_two_processes_train_on_one_epoch_between_them():
    first,second = on_ranks(2, train_rank)
    assert len(first['epochs'])==len(second['epochs'])==2
    for mine,other in zip(first['epochs'], second['epochs']):
        seen = flat(o[0] for o in mine) + flat(o[0] for o in other)
        assert len(seen)==92 and sorted(seen[:91])==list(range(91)) and seen[91]==seen[0]
        assert {o[3] for o in (*mine,*other)}=={'Paired_DistributedDL'}
        for batches in mine,other:
            assert [o[4] for o in batches]==[8,16,24,32,40,46]
            assert all(len(o[1])==(len(o[0]) if o[2] else 0) for o in batches)
        # Weights and partners are each rank's own
        assert not {o[2] for o in mine}&{o[2] for o in other}-{0.}
        assert flat(o[1] for o in mine)!=flat(o[1] for o in other)
    assert flat(o[0] for o in first['epochs'][0])!=flat(o[0] for o in first['epochs'][1])
    torch.testing.assert_close(first['params'], second['params'])
    assert np.isfinite(first['losses']).all()
