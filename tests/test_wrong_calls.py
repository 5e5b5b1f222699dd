"""Every public function with one argument at a time that a user gets wrong. It is read as its values are, by position,
or refused in the form of the house: never a third thing, and never in the words of Python or NumPy.

The table `calls` names each function with valid arguments, and says which of them hold a value for each item or
class."""
import inspect
import re
import warnings
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import DataLoaders, L, Learner
from toys import Points, make_net, seeded_dl

import fastai_balmix.callback
import fastai_balmix.datasets
import fastai_balmix.inference
import fastai_balmix.loaders
import fastai_balmix.losses
import fastai_balmix.metrics
import fastai_balmix.report
from fastai_balmix import classifier
from fastai_balmix.callback import (
    EMA,
    BalancedMixUp,
    Remix,
    class_distribution,
    nominal_prior,
    plot_class_distribution,
)
from fastai_balmix.datasets import ImageData
from fastai_balmix.datasets.groups import check_groups
from fastai_balmix.loaders import train_labels
from fastai_balmix.losses import cb_weights
from fastai_balmix.metrics import mcc
from fastai_balmix.ordinal import count_thresholds, fit_thresholds
from fastai_balmix.report import plot_shares, top_mistakes, worst_mistakes

K,N = 3,14
Y = np.array([0]*3+[2]*6+[1]*5)
PROBS = np.random.default_rng(0).dirichlet([1]*K, N)
CM = np.array([[3,1,1],[1,4,1],[0,1,2]])
PRED = np.stack([np.roll(Y, k) for k in range(4)]).reshape(2, 2, 1, N)
SHARES,COUNTS = np.array([.2,.3,.5]),np.array([3,5,6])
NAMES = ['a','b','c']
GROUPS = np.array([f'p{k}' for k in range(N)])

class Call(NamedTuple):
    func: object
    args: dict # Valid arguments, by name
    rows: str = '' # Those that hold a value for each item or class, in their order
    numbers: str = '' # Those that are a number

def wings():
    "Public functions and classes of all wings, by name"
    found = {}
    for wing in (fastai_balmix.loaders, fastai_balmix.metrics, fastai_balmix.datasets, fastai_balmix.inference,
                 fastai_balmix.report, fastai_balmix.callback):
        found.update((k, getattr(wing, k)) for k in wing.__all__)
    found.update((k, getattr(fastai_balmix.losses, k)) for k in fastai_balmix.losses.__all__)
    return found

public = wings()
items = dict(preds=PROBS, targs=Y)
calls = {k: Call(public[k.split(',')[0]], *rest) for k,*rest in [
    ('class_counts', dict(y=Y, n_classes=K), 'y', 'n_classes'),
    ('sampling_probs', dict(counts=COUNTS, q=.5), 'counts', 'q'),
    ('mixed_probs', dict(p_first=SHARES, p_second=SHARES[::-1], alpha=.2), 'p_first p_second', 'alpha'),
    ('ClassSampler', dict(labels=Y, q=0., n_classes=K, among=np.arange(9)), 'labels', 'q n_classes'),
    ('draw_lams', dict(n=3, alpha=.2, rng=np.random.default_rng(0))),
    ('train_labels', dict(dl=seeded_dl(Points((6,5,3))), labels=Y), 'labels'),
    ('single_labels', dict(dl=seeded_dl(Points((6,5,3))), labels=Y), 'labels'),
    ('confusion', dict(preds=PROBS, targs=Y, n_classes=K), 'targs preds', 'n_classes'),
    ('balanced_acc', dict(cm=CM), 'cm'), ('mcc', dict(cm=CM), 'cm'), ('macro_f1', dict(cm=CM), 'cm'),
    ('geometric_mean', dict(cm=CM), 'cm'), ('quad_kappa', dict(cm=CM), 'cm'), ('kendall_tau', dict(cm=CM), 'cm'),
    ('per_class', dict(cm=CM, vocab=NAMES, prevalence=SHARES, level=.95), 'cm prevalence', 'level'),
    ('reweight', dict(cm=CM, prior=SHARES), 'cm prior'),
    ('group_classes', dict(cm=CM, groups=dict(g=[1,2])), 'cm'),
    ('per_class_auc', dict(probs=PROBS, targs=Y, specificity=.9, vocab=NAMES), 'probs targs', 'specificity'),
    ('brier_error', dict(probs=PROBS, targs=Y), 'probs targs'),
    ('calibration_error', dict(probs=PROBS, targs=Y, n_bins=5), 'probs targs', 'n_bins'),
    ('calibration_bins', dict(probs=PROBS, targs=Y, n_bins=5), 'probs targs', 'n_bins'),
    ('shot_metrics', dict(counts=COUNTS, many=5, few=3), 'counts', 'many few'),
    ('confidence_interval', dict(**items, score=mcc, groups=GROUPS, n=20, level=.9, seed=0, n_classes=K),
     'preds targs groups', 'level seed n_classes'),
    ('paired_test', dict(preds_a=Y, preds_b=Y[::-1].copy(), targs=Y, score=mcc, groups=GROUPS, n=20, seed=0),
     'preds_a preds_b targs groups', 'seed'),
    ('method_differences', dict(pred=PRED, targs=Y, groups=GROUPS, alpha=.05, n_methods=1), 'targs groups', 'alpha'),
    ('recall_differences', dict(pred=PRED, targs=Y, groups=GROUPS, alpha=.05), 'targs groups', 'alpha'),
    ('least_difference', dict(score='mcc', counts=COUNTS), 'counts'),
    ('fold_numbers', dict(y=Y, groups=GROUPS, n_folds=3), 'y groups', 'n_folds'),
    ('split_off', dict(y=Y, groups=GROUPS, share=.3), 'y groups', 'share'),
    ('group_numbers', dict(groups=GROUPS, n=N, owner='group_numbers'), 'groups'),
    ('tail_idxs', dict(y=Y, counts=[1,1,1], seed=1), 'y counts', 'seed'),
    ('tail_counts', dict(n_classes=5, n_max=100, imbalance=10.), '', 'n_classes n_max imbalance'),
    ('adjust_prior', dict(probs=PROBS, from_prior=SHARES, to_prior=SHARES[::-1].copy()), 'probs from_prior to_prior'),
    ('adjust_prior, train', dict(probs=PROBS, from_prior='train', to_prior='balanced', counts=COUNTS), 'counts'),
    ('estimate_prior', dict(probs=PROBS, from_prior=SHARES), 'probs from_prior'),
    ('operating_curve', dict(probs=PROBS, targs=Y, from_prior=SHARES, counts=COUNTS, ts=[0.,.5,1.]),
     'probs targs from_prior counts ts'),
    ('recall_change', dict(right=Y==0, before=Y==1, targs=Y, vocab=NAMES, level=.9, groups=GROUPS),
     'right before targs groups', 'level'),
    ('worst_mistakes', dict(probs=PROBS, targs=Y, paths=GROUPS, vocab=NAMES, n=5), 'probs targs paths', 'n'),
    ('auroc_interval', dict(score=PROBS[:,0], y=Y==0, items=GROUPS, level=.9, groups=GROUPS),
     'score y items groups', 'level'),
    ('reliability_bins', dict(probs=PROBS, targs=Y, groups=GROUPS, n_bins=3), 'probs targs groups', 'n_bins'),
    ('score_row', dict(probs=PROBS, targs=Y, prevalence=SHARES), 'probs targs prevalence'),
    ('score_intervals', dict(pred=PRED, targs=Y, groups=GROUPS, alpha=.05), 'targs groups', 'alpha'),
    ('against_rest', dict(cm=CM, group=[1], prevalence=.1), 'cm', 'prevalence'),
    ('plot_confusion', dict(cm=CM, vocab=NAMES, sizes=COUNTS), 'cm sizes'),
    ('plot_errors', dict(cm=CM, vocab=NAMES, sizes=COUNTS), 'cm sizes'),
    ('plot_shares', dict(shares=dict(a=SHARES), vocab=NAMES, sizes=COUNTS), 'sizes'),
    ('check_order', dict(vocab=['mild','severe'], ordered=['mild','severe'])),
    ('BalancedMixUp', dict(alpha=.2, q=0., seed=1), '', 'alpha q seed'),
    ('Remix', dict(alpha=1., kappa=3., tau=.5, seed=1), '', 'alpha kappa tau seed'),
    ('ProgressiveSampling', dict(seed=1), '', 'seed'),
    ('ClassBalancedLoss', dict(counts=COUNTS, beta=.9), 'counts', 'beta'),
    ('LDAMLoss', dict(counts=COUNTS, max_margin=.5, scale=30.), 'counts', 'max_margin scale'),
    ('LabelAwareSmoothing', dict(counts=COUNTS, head=.3, tail=.1), 'counts', 'head tail'),
    ('drw_weights', dict(counts=COUNTS, beta=.9), 'counts', 'beta'),
    ('Deferred', dict(q=0., start=.5, seed=1), '', 'q start seed'),
    ('Unfreezing', dict(epochs=1), '', 'epochs'),
    ('LogitAdjustedLoss', dict(prior=SHARES, tau=1.), 'prior', 'tau'),
    ('WeightedFocalLoss', dict(weight=SHARES, gamma=2.), 'weight', 'gamma'),
]}
of_groups = dict(groups=GROUPS, parts=np.arange(N), owner='check_groups')
calls['check_groups'] = Call(check_groups, of_groups, 'groups parts')
calls['cb_weights'] = Call(cb_weights, dict(counts=COUNTS, beta=.9), 'counts', 'beta')
calls['tau_normalise'] = Call(classifier.tau_normalise, dict(model=make_net(), tau=.5), '', 'tau')

def call(name, **changed):
    "Result of a function, as text; the error where it raises one"
    func,args,*_ = calls[name]
    known = inspect.signature(func).parameters
    assert {*args,*changed}<={*known}, name
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: res = func(**{**args, **changed})
        except Exception as e: return e
        finally: plt.close('all')
    if name=='ClassSampler': res = res.by_class,res.probs
    if isinstance(res, torch.nn.Module): res = {k: v for k,v in vars(res).items() if isinstance(v, torch.Tensor)}
    if isinstance(res, pd.DataFrame): return res.round(9).to_csv()
    if isinstance(res, float): return f'{res:.9g}'
    if isinstance(res, torch.Tensor | np.ndarray): return str(np.asarray(res, dtype=float).round(6).tolist())
    return re.sub(r' at 0x\w+', '', repr(res))

house = re.compile(r"The '\w+' parameter of [\w. ]+ must be .* Got .* instead\.|\w[\w.]* (needs|must|cannot) ", re.S)

def assert_ours(res, what):
    assert type(res) is ValueError and house.match(str(res)), f'{what}: {type(res).__name__}: {res}'

rows = [(name,row) for name,o in calls.items() for row in o.rows.split()]
numbers = [(name,number) for name,o in calls.items() for number in o.numbers.split()]

def test_the_valid_calls_are_valid():
    wrong = {k: repr(call(k)) for k in calls if isinstance(call(k), Exception)}
    assert not wrong

def as_list(x): return x.tolist() if isinstance(x, np.ndarray) else list(x)

def by_position(x):
    "What has the values of `x` in the same order"
    x = np.asarray(x)
    yield 'list',as_list(x)
    yield 'list of NumPy scalars',[*x]
    if x.ndim==1:
        yield 'Series',pd.Series(x)
        yield 'column',pd.DataFrame(dict(c=x))['c']
        yield 'tuple',tuple(as_list(x))
    else: yield 'DataFrame',pd.DataFrame(x)
    yield 'array with a mask of nothing',np.ma.array(x)
    if x.dtype.kind in 'biuf':
        yield 'tensor',torch.from_numpy(x.copy())
        if x.dtype.kind=='f': yield 'tensor with gradient',torch.from_numpy(x.copy()).requires_grad_()
        yield 'array of objects',x.astype(object)

@pytest.mark.parametrize('name,row', rows)
def test_values_in_order_are_read_alike(name, row):
    valid = calls[name].args[row]
    right = call(name)
    for kind,x in by_position(valid):
        res = call(name, **{row: x})
        if isinstance(res, Exception): assert_ours(res, f'{name}({row}={kind})')
        else: assert res==right, f'{name}({row}={kind})'
        if kind in ('list','Series','tensor','column'): assert isinstance(res, str), f'{name}({row}={kind}) {res}'

def out_of_order(x):
    "What is no row of values in the order of items"
    x = np.asarray(x)
    n = len(x)
    shuffled = np.arange(n)[::-1]
    if x.ndim==1:
        yield 'shuffled Series',pd.Series(x).iloc[shuffled]
        yield 'Series with other labels',pd.Series(x, index=range(5, 5+n))
        yield 'Series by name',pd.Series(x, index=[f'i{k}' for k in range(n)])
        yield 'set',set(x.tolist())
        yield 'dict',dict(zip(shuffled.tolist(), x.tolist()))
    else:
        yield 'shuffled DataFrame',pd.DataFrame(x).iloc[shuffled]
        if x.shape[1]>1:
            yield 'DataFrame with shuffled columns',pd.DataFrame(x).iloc[:,::-1]
            yield 'DataFrame with named columns',pd.DataFrame(x).add_prefix('class ')
    masked = np.ma.array(x, mask=np.zeros(x.shape, bool))
    masked.mask.flat[-1] = True
    yield 'masked array',masked
    yield 'one value',x.flat[0].item()
    yield 'one less',x[:-1]
    yield 'one more',np.concatenate([x,x[:1]])
    yield 'none',x[:0]
    yield 'a text','some text'
    yield 'None inside',[None]*n
    yield 'another rank',x[None,...,None]
    yield 'complex',x.astype(complex) if x.dtype.kind in 'biuf' else [1j]*n
    yield 'digits as text',[str(k) for k in range(n)] if x.dtype.kind in 'biuf' else [['p']]*n
    yield 'an object',object()

@pytest.mark.parametrize('name,row', rows)
def test_values_that_are_out_of_order_are_refused(name, row):
    valid = calls[name].args[row]
    numeric = np.asarray(valid).dtype.kind in 'biuf' and row!='parts' # parts and groups are of any kind
    for kind,x in out_of_order(valid):
        res = call(name, **{row: x})
        if isinstance(res, Exception):
            assert_ours(res, f'{name}({row}={kind})')
            continue
        # by labels it would be something else, by its values the same
        if 'Series' in kind or 'DataFrame' in kind or kind in ('set','dict'): pytest.fail(f'{name}({row}={kind}) {res}')
        if row=='prevalence' and kind=='one value': continue # that of each class
        if kind in ('one value','a text','an object','another rank','masked array'):
            pytest.fail(f'{name}({row}={kind}): {res}')
        if numeric and kind in ('complex','digits as text','None inside'):
            pytest.fail(f'{name}({row}={kind}): {res}')

@pytest.mark.parametrize('name', ['cb_weights','drw_weights','ClassBalancedLoss','LDAMLoss','LabelAwareSmoothing',
                                  'shot_metrics','least_difference'])
def test_shares_are_no_counts_where_these_decide(name):
    for kind,x in by_position(COUNTS/COUNTS.sum()): assert_ours(call(name, counts=x), f'{name}(counts={kind})')
    right = call(name)
    for x in COUNTS.astype(float),torch.tensor(COUNTS, dtype=torch.float16): assert call(name, counts=x)==right

def test_classes_are_no_bools():
    for name,row in ('recall_change','right'),('recall_change','before'),('auroc_interval','y'):
        for x in Y,Y-1,(Y==0)+.5: assert_ours(call(name, **{row: x}), f'{name}({row}={x})')
    shares = call('recall_change', right=(Y==0)/2) # of two networks
    assert isinstance(shares, str) and shares!=call('recall_change')
    for x in (Y==0).astype(int),(Y==0).astype(float): assert call('auroc_interval', y=x)==call('auroc_interval')

def test_masks_are_not_lost_elsewhere():
    masked = np.ma.array(Y, mask=Y==1)
    ds = Points((6,5,3))
    ds.targets = masked
    for f in (lambda: train_labels(seeded_dl(ds)), lambda: train_labels(seeded_dl(torch.utils.data.Subset(ds, [0,1]))),
              lambda: call('ClassSampler', among=np.ma.array(np.arange(9), mask=np.arange(9)<2)),
              lambda: call('method_differences', pred=np.ma.array(PRED, mask=PRED==1)),
              lambda: fit_thresholds(np.ma.array(Y/1., mask=Y==1), Y, K),
              lambda: count_thresholds(np.ma.array(COUNTS, mask=[0,0,1]), 1.)):
        assert_ours(error_of(f), 'masked')

bad_numbers = dict(
    huge=1e300, negative=-1e300, beyond=10**400, infinite=np.inf, nan=np.nan, text='0.5', complex=.5+0j, true=True,
    numpy_bool=np.bool_(True), none_of_it=object(), array=np.array([.5]), tensor=torch.tensor(.5), list=[1])

@pytest.mark.parametrize('name,number', numbers)
def test_numbers_that_are_none_are_refused(name, number):
    for kind,x in bad_numbers.items(): assert_ours(call(name, **{number: x}), f'{name}({number}={kind})')

@pytest.mark.parametrize('name,number', numbers)
def test_numbers_of_numpy_are_numbers(name, number):
    valid = calls[name].args[number]
    kinds = [np.int64,np.int32] if isinstance(valid, int) else [np.float64,np.float32]
    for kind in kinds: assert not isinstance(call(name, **{number: kind(valid)}), Exception), (name,number,kind)

def with_vocab(): return [k for k,o in calls.items() if isinstance(o.args.get('vocab'), list) and k!='check_order']

@pytest.mark.parametrize('name', with_vocab())
def test_names_of_classes_have_an_order(name):
    for bad in {'a','b','c'},frozenset('abc'),'abc',dict(a=0, b=1, c=2),['a','b'],3:
        assert_ours(call(name, vocab=bad), f'{name}(vocab={bad!r})')
    for good in tuple(NAMES),np.array(NAMES),pd.Series(NAMES): assert call(name, vocab=good)==call(name)

def test_a_mask_or_numbers_say_which_items_may_be_drawn():
    mask = np.arange(N)<9
    right = call('ClassSampler')
    numbers = [*range(9)],pd.Series(range(9), index=range(3, 12))
    for o in mask,mask.tolist(),pd.Series(mask),torch.from_numpy(mask),*numbers:
        assert call('ClassSampler', among=o)==right
    for o in pd.Series(mask, index=range(3, 3+N)),mask[:-1],[N],[-1],3,[],{1,2},[.5],'ab':
        assert_ours(call('ClassSampler', among=o), f'among={o!r}')

def test_shares_are_drawn_by_position_or_by_the_names_of_the_classes():
    def drawn(p):
        ax = plot_shares(dict(a=p), NAMES)
        return [[*map(float, o.get_xdata())] for o in ax.lines]
    right = drawn(SHARES)
    for o in [*SHARES],pd.Series(SHARES),pd.Series(SHARES, index=NAMES),pd.Series(SHARES, index=NAMES)[::-1]:
        assert drawn(o)==right
    plt.close('all')
    for o in pd.Series(SHARES)[::-1],pd.Series(SHARES, index=['x','y','z']),.5,['1','2','3'],{.2,.3,.5}:
        assert_ours(error_of(lambda p=o: plot_shares(dict(a=p), NAMES)), repr(o))
        assert_ours(error_of(lambda p=o: plot_shares(dict(a=SHARES, b=p), NAMES)), repr(o))

def error_of(f):
    try: return f()
    except Exception as e: return e

def test_a_table_with_a_column_twice_and_a_vocabulary_without_order():
    twice = pd.DataFrame([['a.png','x','y'],['b.png','y','x']], columns=['path','label','label'])
    once = twice.iloc[:,:2]
    for table,vocab in (twice,['x','y']),(once,{'x','y'}),(once,'xy'),(once,dict(x=0, y=1)),(once,None):
        assert_ours(error_of(lambda t=table, v=vocab: ImageData(t, v, images=lambda o: None)), f'{vocab!r}')
    mistakes = worst_mistakes(PROBS, Y)
    both = pd.concat([mistakes,mistakes[['path']]], axis=1)
    assert_ours(error_of(lambda: top_mistakes(both, [None]*len(both))), 'top_mistakes')

def test_a_learner_or_a_single_loader_stands_for_no_loaders():
    dls = DataLoaders(seeded_dl(Points((6,5,3))), seeded_dl(Points((6,5,3))))
    for wrong in Learner(dls, make_net(), loss_func=torch.nn.CrossEntropyLoss()),dls.train,None,[dls]:
        for f in class_distribution,plot_class_distribution,nominal_prior,BalancedMixUp(.2).show:
            assert_ours(error_of(lambda f=f, o=wrong: f(o)), f'{f} {wrong}')
        if wrong is not dls.train: assert_ours(error_of(lambda o=wrong: train_labels(o)), f'train_labels {wrong}')

def test_callbacks_of_a_prior_are_taken_as_a_fit_takes_them():
    dls = DataLoaders(seeded_dl(Points((6,5,3))), None)
    def prior(*cbs): return nominal_prior(dls, *cbs).tolist()
    right = prior(BalancedMixUp())
    assert right!=prior() and prior(None)==prior()
    for cbs in [BalancedMixUp],[[BalancedMixUp()]],[L(BalancedMixUp, EMA)],[(EMA(),),BalancedMixUp]:
        assert prior(*cbs)==right
    for wrong in 'sqrt',['sqrt'],.2,dict,lambda learn: None:
        assert_ours(error_of(lambda o=wrong: prior(o)), repr(wrong))
    assert_ours(error_of(lambda: prior([Remix])), 'Remix')

def test_every_public_function_that_takes_rows_is_tried():
    "A parameter of these names holds a value for each item or class"
    row_names = {'y','targs','labels','probs','preds','preds_a','preds_b','counts','groups','paths','right','before',
                 'p_first','p_second','prior','from_prior','to_prior','fold'}
    # They need loaders, a learner or files, or take rows in another form
    elsewhere = {
        'class_distribution','plot_class_distribution','BalancedMixUp','Remix','ProgressiveSampling','nominal_prior',
        'pair_loader','QWKLoss','ConfusionMetric','authors_folds','top_mistakes','learner_card','plot_operating_curve',
        'check_order','Deferred','header_values','report','mix_pairs','split_pairs','Score','from_folder_table','from_csv',
        'group_classes'}
    untried = []
    for name,o in public.items():
        if not callable(o) or name in elsewhere: continue
        try: known = inspect.signature(o).parameters
        except ValueError: continue
        found = row_names & {*known}
        tried = {row for k,o in calls.items() if k.split(',')[0]==name for row in o.rows.split()}
        if found-{'fold'}-tried: untried.append((name,found-tried))
    assert not untried
