"""A user's training on several processes. Through `accelerate launch` and `learn.distrib_ctx()`, and in processes
that are forked from a warm one: each step beside a plain PyTorch loop that averages the ranks' gradients, metrics
beside scikit-learn, draws beside equation 2, predictions beside the network's own, and processes that die in the
middle."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('accelerate')
from launched import TRAIN, VALID, Fail, Pictures, Record, make_dls, make_learner, make_net, seen
from scipy import stats
from sklearn import metrics as skm
from torch.nn import functional as F
from toys import equal, flat, free_port, on_ranks, quiet_fit

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling
from fastai_balmix.callback.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings('ignore:.*y_pred contains classes')
here = Path(__file__).parent

# --- what must hold, wherever the processes come from ---

def firsts(ranks, epoch): return [flat(b['first'] for b in r['epochs'][epoch]) for r in ranks]
def seconds(ranks, epoch): return [flat(b['second'] for b in r['epochs'][epoch]) for r in ranks]
def lams(ranks, epoch): return [flat(b['lam'] for b in r['epochs'][epoch]) for r in ranks]

def check_one_epoch(ranks, n):
    "Without overlap, but for what fastai repeats at the end to make shares equal"
    for e in range(len(ranks[0]['epochs'])):
        shares = firsts(ranks, e)
        assert {len(o) for o in shares}=={-(-n//len(ranks))}
        everything = flat(shares)
        assert sorted(everything[:n])==list(range(n)) and everything[n:]==everything[:len(everything)-n]

def mixed_loss(net, ds, b):
    "Equation 3 for the batch of one process, item by item"
    w,partner = torch.tensor(b['lam']),iter(b['second'])
    j = [next(partner) if o else i for i,o in zip(b['first'], b['lam'])]
    y = torch.tensor(ds.targets)
    pred = net((1-w).view(-1,1,1,1)*ds.x[b['first']] + w.view(-1,1,1,1)*ds.x[j])
    return ((1-w)*F.cross_entropy(pred, y[b['first']], reduction='none') + w*F.cross_entropy(pred, y[j],
        reduction='none')).mean()

def check_steps(ranks, ds):
    "One network in one process, moved by the mean of the gradients of the ranks' batches"
    net = make_net()
    net.load_state_dict(ranks[0]['start'])
    opt = torch.optim.SGD(net.parameters(), lr=1., momentum=.9)
    for steps in zip(*(flat(r['epochs']) for r in ranks)):
        grads = [torch.autograd.grad(mixed_loss(net, ds, b), list(net.parameters())) for b in steps]
        for p,*g in zip(net.parameters(), *grads): p.grad = torch.stack(g).mean(0)
        opt.param_groups[0].update(lr=steps[0]['lr'], momentum=steps[0]['mom'])
        opt.step()
        for b in steps:
            torch.testing.assert_close(b['params'], torch.cat([p.detach().flatten() for p in net.parameters()]),
                rtol=1e-4, atol=1e-5)

def by_sklearn(pred, targ):
    t,p,probs = np.asarray(targ),pred.argmax(1).numpy(),torch.softmax(pred, 1).numpy()
    onehot,conf = np.eye(pred.shape[1])[t],probs.max(1)
    bins = np.minimum(np.ceil(conf*15).astype(int)-1, 14)
    return dict(mcc=skm.matthews_corrcoef(t, p), balanced_acc=skm.balanced_accuracy_score(t, p),
        macro_f1=skm.f1_score(t, p, average='macro'),
                quad_kappa=skm.cohen_kappa_score(t, p, weights='quadratic', labels=range(4)),
                kendall_tau=stats.kendalltau(t, p).statistic,
                calibration_error=sum(abs((p==t)[bins==k].sum()-conf[bins==k].sum()) for k in range(15))/len(t),
                brier_error=((probs-onehot)**2).sum(1).mean())

def check_metrics(ranks, n):
    """On every process scikit-learn's, over validation items counted once, and over the union of what was trained
    on in an epoch"""
    valid = Pictures(VALID, seed=1)
    net = make_net()
    net.load_state_dict(ranks[0]['net'])
    with torch.no_grad(): pred = net(valid.x)
    want = {f'valid_{k}': v for k,v in by_sklearn(pred, valid.targets).items()}
    # The network's answers to mixed pictures, and the labels of the first stream
    preds,targs = (torch.cat([b[k] for r in ranks for b in r['epochs'][-1]])[:n] for k in ('pred','targ'))
    want.update({f'train_{k}': v for k,v in by_sklearn(preds, targs).items()})
    for r in ranks:
        assert want.keys() <= r['values'].keys()
        for k,v in want.items(): assert r['values'][k]==pytest.approx(v, abs=1e-5, nan_ok=True), (r['rank'],k)
        assert (r['matrix']==skm.confusion_matrix(valid.targets, pred.argmax(1), labels=range(4))).all()

# --- accelerate launch ---

def launch(world_size, folder, *args, timeout=600):
    "Exit code and words of `accelerate launch` on processes without a GPU"
    cmd = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', str(world_size),
        '--num_machines', '1', '--mixed_precision', 'no',
           '--dynamo_backend', 'no', '--main_process_port', str(free_port()), str(here/'launched.py'), str(folder),
           *args]
    env = {**os.environ, 'ACCELERATE_USE_CPU':'true', 'CUDA_VISIBLE_DEVICES':'', 'HF_HOME':str(folder),
        'PYTHONPATH':os.pathsep.join([str(here.parent), os.environ.get('PYTHONPATH', '')])}
    with subprocess.Popen(cmd, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        try: words = p.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            p.terminate() # it ends its processes
            raise AssertionError(f'not done in {timeout} s:\n{p.communicate()[0][-20_000:]}') from None
    return p.returncode,words

def check_launched(world_size, folder):
    code,words = launch(world_size, folder)
    assert code==0, words
    ranks = [torch.load(folder/f'{r}.pt', weights_only=False) for r in range(world_size)]
    ds = Pictures(TRAIN)
    assert [r['rank'] for r in ranks]==list(range(world_size))
    assert {b['kind'] for r in ranks for b in flat(r['epochs'])}=={'Paired_DistributedDL'}
    assert len(ranks[0]['epochs'])==5
    check_one_epoch(ranks, len(ds))
    check_steps(ranks, ds)
    check_metrics(ranks, len(ds))
    drawn = [{*flat(lams(ranks, e)[r] for e in range(5))}-{0.} for r in range(world_size)]
    assert all(drawn) and len(set.union(*drawn))==sum(map(len, drawn))

@pytest.mark.slow
def test_a_user_s_lines_under_accelerate_launch(tmp_path): check_launched(2, tmp_path)

@pytest.mark.slow
def test_three_processes_with_shares_that_do_not_divide(tmp_path): check_launched(3, tmp_path)

def gone(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return True
    return False

@pytest.mark.slow
@pytest.mark.parametrize('how,words', [('killed', 'SIGKILL'), ('error', 'this file cannot be read')])
def test_the_launcher_ends_where_a_process_does(how, words, tmp_path):
    code,said = launch(2, tmp_path, how)
    assert code!=0 and words in said and not [*tmp_path.glob('*.pt')]
    assert all(gone(int((tmp_path/f'{r}.pid').read_text())) for r in range(2))

# --- forked processes ---

def fit(dls, *cbs, epochs=2):
    "Trains as one of several processes; the learner, and what this process saw"
    torch.manual_seed(4)
    record = Record()
    learn = make_learner(dls, record)
    learn.recorder.train_metrics = True
    with learn.distrib_ctx(): quiet_fit(learn, epochs, cbs=[*cbs])
    return learn,seen(learn, record)

BIG = 200,40,10,4

def rank_draws(rank):
    "One λ for each pair; loaders that are weighted; the callback that moves from the one draw to the other"
    return [fit(make_dls(seed=rank), BalancedMixUp(alpha=1., per_item=True, seed=0))[1],
            fit(make_dls(BIG, seed=rank).weighted('sqrt', seed=rank), BalancedMixUp(alpha=1., seed=0), epochs=4)[1],
            fit(make_dls(BIG, seed=rank), ProgressiveSampling(seed=0), BalancedMixUp(alpha=1., seed=0), epochs=3)[1]]

def check_eq_2(drawn, ds, q):
    "Draws of all ranks, against p_j ∝ n_j^q: chi-square at one in ten thousand"
    n = np.bincount(ds.targets)
    got = np.bincount(np.array(ds.targets)[flat(drawn)], minlength=len(n))
    assert stats.chisquare(got, n**q/(n**q).sum()*got.sum()).pvalue>1e-4

def check_uniform(lams):
    "λ of Beta(1, 1), those below 1/255 being 0"
    lams = np.array(flat(lams))
    assert stats.kstest(lams[lams>0], stats.uniform(1/255, 254/255).cdf).pvalue>1e-4

@pytest.mark.parametrize('world_size', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_draws_of_the_ranks_follow_equation_2_together(world_size):
    pairs,weighted,progressive = zip(*on_ranks(world_size, rank_draws))
    ds,big = Pictures(TRAIN),Pictures(BIG)
    check_one_epoch(pairs, len(ds))
    check_steps(pairs, ds)
    check_metrics(pairs, len(ds))
    assert len({*map(str, lams(pairs, 0))})==len({*map(str, seconds(pairs, 0))})==world_size
    check_uniform([flat(lams(pairs, e)) for e in range(2)])

    check_steps(weighted, big)
    check_metrics(weighted, len(big))
    draws = [flat(firsts(weighted, e)[r] for e in range(4)) for r in range(world_size)]
    assert len({*map(str, draws)})==world_size
    # each rank by itself, and together
    for o in (*([o] for o in draws), draws): check_eq_2(o, big, .5)
    check_eq_2(flat(seconds(weighted, e) for e in range(4)), big, 0)

    assert {b['kind'] for b in flat(progressive[0]['epochs'])}=={'Paired_Progressive_DistributedDL'}
    check_steps(progressive, big)
    assert sorted(flat(firsts(progressive, 0))[:len(big)])==list(range(len(big)))
    check_eq_2(firsts(progressive, 2), big, 0)
    check_eq_2(flat(seconds(progressive, e) for e in range(3)), big, 0)

def rank_cache(rank, num_workers):
    plain = fit(make_dls(num_workers=num_workers), BalancedMixUp(alpha=1., seed=0))[1]
    dls = make_dls(num_workers=num_workers).cached('1MB')
    before = len(dls.train_ds.opened)
    kept = fit(dls, BalancedMixUp(alpha=1., seed=0))[1]
    return dict(plain=plain, kept=kept, info=dls.cache_info(), opened=dls.train_ds.opened[before:])

@pytest.mark.parametrize('num_workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_each_process_keeps_what_it_opened(num_workers):
    for o in on_ranks(2, rank_cache, num_workers):
        equal(o['kept']['net'], o['plain']['net'])
        assert o['kept']['values'].keys()==o['plain']['values'].keys()
        train,valid = o['info'].loaders
        asked = [flat([b['first']+b['second'] for b in e]) for e in o['kept']['epochs']]
        # item 0 and up to six others are looked at before the first batch
        asked = flat(asked)
        looked = train['hits']+train['misses']-len(asked)
        assert 1<=looked<=7
        assert len({0,*asked})<=train['items']<=len({*asked})+looked
        # its own items, and partners it drew before; the shares of the next epoch are others
        assert train['hits'] > 0 and valid['misses']==valid['items']==10 and valid['hits']==10
        if not num_workers:
            assert {0,*asked}<={*o['opened']} and len(o['opened'])==len({*o['opened']})==train['items']

# --- predictions ---

def rank_predicts(rank):
    "Predictions within the context; then outside of it, by all and by one alone"
    learn,_ = fit(make_dls())
    def predict(**kwargs):
        with learn.no_bar(): return learn.tta_flip(**kwargs)
    with learn.distrib_ctx(): shared = [predict(), predict(ds_idx=0), predict(dl=make_dls(seed=rank).train)]
    alone = [predict(), predict(ds_idx=0)]
    last = predict() if rank==1 else None
    torch.distributed.barrier()
    return dict(shared=shared, alone=alone, last=last, net=learn.model)

@pytest.mark.parametrize('world_size', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_tta_flip_is_in_the_order_of_the_items_on_every_process(world_size):
    train,valid = Pictures(TRAIN),Pictures(VALID, seed=1)
    def check(got, net, ds):
        with torch.no_grad(): want = (torch.softmax(net(ds.x), 1)+torch.softmax(net(ds.x.flip(-1)), 1))/2
        torch.testing.assert_close(got[0], want)
        assert got[1].tolist()==ds.targets
    for o in on_ranks(world_size, rank_predicts):
        for got,ds in zip([*o['shared'],*o['alone'],o['last']], [valid,train,train,valid,train,valid]):
            if got is not None: check(got, o['net'], ds)

def rank_keeps(rank, path):
    learn = make_learner(make_dls())
    with learn.distrib_ctx(), pytest.raises(ValueError) as e: quiet_fit(learn, 1, cbs=Checkpoint(path))
    return str(e.value)

def test_a_checkpoint_is_refused(tmp_path):
    words = ('Checkpoint needs a fit in a single process, as several would write one file, '
             'but DistributedTrainer trains in 2.')
    assert all(words in o for o in on_ranks(2, rank_keeps, tmp_path/'fit.pt'))

# --- a process that dies ---

def rank_dies(rank, how, training):
    learn = make_learner(make_dls(seed=rank), Fail(1, how, training))
    with learn.distrib_ctx(): quiet_fit(learn, 2, cbs=BalancedMixUp(seed=0))

@pytest.mark.parametrize('how,training', [('killed', True), ('error', True), ('killed', False)])
def test_a_process_that_dies_takes_the_others_with_it(how, training):
    with pytest.raises(ExceptionGroup) as e: on_ranks(2, rank_dies, how, training)
    first,second = e.value.exceptions
    # Told by the connection, long before any time is up
    assert isinstance(first, RuntimeError) and 'timed out' not in str(first).lower()
    if how=='killed': assert isinstance(second, ChildProcessError) and 'exit code -9' in str(second)
    else: assert 'this file cannot be read' in str(second)
