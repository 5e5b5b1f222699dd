"""The notebooks show each score on one matrix. Here every score meets scikit-learn, scipy or exact fractions on the
items that a matrix stands for, with classes absent and predictions constant; intervals and tests meet the enumeration
of everything that could be drawn, and, in the slow part, simulated patients."""

import warnings
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from itertools import pairwise, product
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, strategies as st
from scipy import stats
from sklearn import metrics as skm
from toys import close, must_be

from fastai_balmix import checks
from fastai_balmix.metrics.intervals import confidence_interval, paired_test
from fastai_balmix.metrics.probabilities import brier_error, calibration_bins, calibration_error, per_class_auc
from fastai_balmix.metrics.scores import (
    balanced_acc,
    confusion,
    geometric_mean,
    group_classes,
    kendall_tau,
    macro_f1,
    mcc,
    per_class,
    quad_kappa,
    reweight,
    score_registry,
    score_row,
    wilson,
)

pytestmark = pytest.mark.filterwarnings('ignore:.*y_pred contains classes:UserWarning',
    'ignore:.*single label:UserWarning',
                                        'ignore:.*zero_division:UserWarning', 'ignore:.*undefined:UserWarning',
                                        'ignore::RuntimeWarning:sklearn')
scores = {o.func.__name__: o.func for o in score_registry.values() if o.func and o.key!='accuracy'}
every_score = pytest.mark.parametrize('name', scores)
averages = dict(balanced_acc=balanced_acc, macro_f1=macro_f1, geometric_mean=geometric_mean)

close = partial(close, atol=1e-12, equal_nan=True)

def expand(cm):
    "True and predicted class of each item that matrix `cm` counts"
    return np.indices(np.shape(cm)).reshape(2,-1).repeat(np.ravel(cm), axis=1)

def reference(name, t, p, k):
    "A score of items, by scikit-learn or scipy"
    if name=='mcc': return skm.matthews_corrcoef(t, p)
    if name=='balanced_acc': return skm.balanced_accuracy_score(t, p)
    if name=='macro_f1': return skm.f1_score(t, p, average='macro', zero_division=0)
    if name=='quad_kappa': return skm.cohen_kappa_score(t, p, weights='quadratic', labels=range(k))
    if name=='kendall_tau': return stats.kendalltau(t, p).statistic
    if name=='geometric_mean':
        return stats.gmean(skm.recall_score(t, p, labels=np.unique(t), average=None, zero_division=0))

@st.composite
def matrices(draw, max_k=6):
    "Counts of at least one item; rows and columns may be empty"
    k = draw(st.integers(2, max_k))
    rows,cols = (np.array(draw(st.lists(st.booleans(), min_size=k, max_size=k).filter(any))) for _ in range(2))
    cm = np.array(draw(st.lists(st.integers(0, 9), min_size=k*k, max_size=k*k))).reshape(k, k)*rows[:,None]*cols
    assume(cm.any())
    return cm

def tail_items(k, n, seed=0):
    "True and predicted classes with a long tail, a third of the classes absent; wrong answers are near, or anywhere"
    rng = np.random.default_rng(seed)
    there = np.sort(rng.choice(k, max(2, 2*k//3), replace=False))
    t = there[np.minimum(rng.exponential(len(there)/5, n).astype(int), len(there)-1)]
    near,far = np.clip(t+rng.integers(-2, 3, n), 0, k-1),rng.integers(0, k, n)
    return t,np.choose(rng.choice(3, n, p=[.6,.3,.1]), [t,near,far])

# --- scores ---

@every_score
@pytest.mark.parametrize('k,n', [(2,50), (2,3000), (5,40), (5,5000), (23,60), (23,5000), (300,400), (300,20_000)])
def test_scores_are_those_of_the_items(name, k, n):
    t,p = tail_items(k, n)
    close(scores[name](confusion(p, t, k)), reference(name, t, p, k))

@every_score
@given(cm=matrices())
def test_scores_of_small_matrices_with_absent_classes(name, cm):
    close(scores[name](cm), reference(name, *expand(cm), len(cm)))

@every_score
@pytest.mark.parametrize('k', [2, 5, 23, 300])
def test_constant_predictions(name, k):
    t = tail_items(k, 200)[0]
    for c in 0,int(t[-1]),k-1:
        close(scores[name](confusion(np.full(200, c), t, k)), reference(name, t, np.full(200, c), k))
        # and one true class
        close(scores[name](confusion(t, np.full(200, c), k)), reference(name, np.full(200, c), t, k))

@every_score
def test_perfect_and_inverted(name):
    cm = np.diag([900,90,10])
    close(scores[name](cm), 1)
    if name in ('quad_kappa','kendall_tau','mcc'): assert scores[name](np.diag([50,50])[::-1])==-1

@given(cm=matrices(), data=st.data())
def test_averages_over_all_and_over_listed_classes(cm, data):
    (t,p),k = expand(cm),len(cm)
    recall,f1 = (f(t, p, labels=range(k), average=None, zero_division=0) for f in (skm.recall_score,skm.f1_score))
    close(balanced_acc(cm, classes='all'), recall.mean())
    close(macro_f1(cm, classes='all'), f1.mean())
    close(geometric_mean(cm, classes='all'), stats.gmean(recall))
    sel = data.draw(st.lists(st.sampled_from(range(k)), unique=True))
    in_truth,in_either = [c for c in sel if c in t],[c for c in sel if c in t or c in p]
    def mean(x, at, f=np.mean): return f(x[at]) if at else np.nan
    close(balanced_acc(cm, classes=sel), mean(recall, in_truth))
    close(macro_f1(cm, classes=sel), mean(f1, in_either))
    close(geometric_mean(cm, classes=np.array(sel, dtype=int)), mean(recall, in_truth, stats.gmean))

@every_score
@pytest.mark.parametrize('k', [2, 5, 23])
def test_a_stack_of_matrices_is_one_call(name, k):
    cms = np.stack([confusion(*tail_items(k, n, seed=n), k) for n in (1,2,5,30,400,3000)]).reshape(2,3,k,k)
    kept = cms.copy()
    got = scores[name](cms)
    assert got.shape==(2,3) and got.dtype==np.float64 and (cms==kept).all()
    close(got, [[scores[name](o) for o in row] for row in cms], atol=1e-15)
    assert np.ndim(scores[name](cms[0,0]))==0

@given(cm=matrices(), data=st.data())
def test_renaming_classes_changes_no_score_but_those_of_order(cm, data):
    perm = np.array(data.draw(st.permutations(range(len(cm)))))
    moved = cm[perm][:,perm]
    for nm in 'mcc','balanced_acc','macro_f1','geometric_mean': close(scores[nm](moved), scores[nm](cm))
    for f in averages.values(): close(f(moved, classes=[0]), f(cm, classes=[perm[0]]))
    for f in quad_kappa,kendall_tau: close(f(cm[::-1,::-1]), f(cm))
    close(kendall_tau(cm[:,::-1]), -kendall_tau(cm))
    for f in mcc,quad_kappa,kendall_tau: close(f(cm.T), f(cm))

@given(cm=matrices(), times=st.sampled_from([2, 1000, .1]))
def test_scores_are_of_shares(cm, times):
    for f in scores.values(): close(f(cm*times), f(cm))

def exact(cm):
    "The scores from whole numbers and fractions, rounded once"
    cm = [[int(o) for o in row] for row in cm]
    ks = range(len(cm))
    t,p = [sum(row) for row in cm],[sum(row[j] for row in cm) for j in ks]
    n = sum(t)
    def over_roots(a, b, c):
        with localcontext(prec=80): return float(Decimal(a)/(Decimal(b)*Decimal(c)).sqrt())
    spread = [sum(o*(n-o) for o in x) for x in (t,p)]
    order = sum(cm[i][j]*cm[a][b]*((a>i)-(a<i))*((b>j)-(b<j)) for i,j,a,b in product(ks, repeat=4))
    return dict(mcc=over_roots(sum(cm[i][i]*n-t[i]*p[i] for i in ks), *spread), kendall_tau=over_roots(order, *spread),
                balanced_acc=float(sum(Fraction(cm[i][i], t[i]) for i in ks)/len(cm)),
                macro_f1=float(sum(Fraction(2*cm[i][i], t[i]+p[i]) for i in ks)/len(cm)),
                quad_kappa=float(1-Fraction(sum(cm[i][j]*(i-j)**2 for i,j in product(ks, ks))*n,
                    sum(t[i]*p[j]*(i-j)**2 for i,j in product(ks, ks)))))

# 19 million is torchmetrics' case; ten thousand million are the pixels of a few hundred slides
@pytest.mark.parametrize('n', [19_000_000, 10**10])
@pytest.mark.parametrize('rare', [[[0,0],[0,1]], [[0,1],[1,1]], [[0,3],[2,0]], [[0,0],[7,3]],
    [[0,2,1],[0,1,0],[1,1,2]]], ids=str)
def test_one_among_millions_is_counted_exactly(n, rare):
    cm = np.array(rare)
    cm[0,0] = n
    for nm,v in exact(cm).items(): close(scores[nm](cm), v, atol=1e-13)

@pytest.mark.parametrize('dtype', [np.int32, np.uint8, np.float32])
def test_small_integer_types_do_not_overflow(dtype):
    cm = np.array([[200,50],[30,120]])
    for f in scores.values(): assert f(cm.astype(dtype))==f(cm)
    big = np.full((3,3), 2**30)+np.diag([2**30-1]*3)
    for f in scores.values(): close(f(big.astype(np.int32)), f(big))

@every_score
def test_nothing_to_score(name):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for cm in np.zeros((2,2)),np.zeros((5,5), int),np.zeros((1,1)): assert np.isnan(scores[name](cm))
        assert np.isnan(scores[name](np.zeros((4,3,3)))).tolist()==[True]*4
        both = np.stack([np.zeros((3,3)),np.diag([3,2,1])])
        np.testing.assert_array_equal(scores[name](both), [np.nan,1])

@every_score
def test_no_classes_and_no_matrices(name):
    assert np.isnan(scores[name](confusion([], [])))
    assert scores[name](np.zeros((0,3,3))).shape==(0,)

def test_no_warnings_from_within():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for cm in [[5,0],[3,0]],[[5,0],[0,0]],[[0,4],[0,0]],[[0,0,0],[1,0,2],[0,0,0]]:
            for f in scores.values(): f(cm)
            for f in averages.values(): f(cm, classes='all'),f(cm, classes=[0])
            per_class(cm, prevalence=.1)

# --- the matrix ---

@given(y=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1), more=st.integers(0, 3))
def test_confusion_counts(y, more):
    t,p = np.array(y).T
    k = 5+more
    want = skm.confusion_matrix(t, p, labels=range(k))
    got = confusion(p, t, k)
    assert got.dtype==np.int64 and (got==want).all()
    top = max(t.max(), p.max())+1
    assert (confusion(p.astype(np.uint8), torch.tensor(t))==want[:top,:top]).all()
    onehot = np.eye(k)[p]
    for o in onehot,torch.tensor(onehot).half(),torch.tensor(onehot).bfloat16(),onehot.astype(int):
        assert (confusion(o, pd.Series(t))==want).all()

# --- class by class ---

@given(n=st.integers(1, 3000), share=st.floats(0, 1), level=st.sampled_from([.5, .9, .95, .999]))
def test_wilson_intervals_are_scipy_s(n, share, level):
    k = round(n*share)
    want = stats.binomtest(k, n).proportion_ci(level, method='wilson')
    close(wilson(k, n, level), want)
    close(wilson([k,0,n], [n,n,n], level)[0][0], want.low)

def test_wilson_at_its_ends():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        low,high = wilson([0,10,0], [10,10,0])
    close([low[0],high[1]], [0,1], atol=1e-15)
    assert np.isnan([low[2],high[2]]).all() and 0<high[0]<1 and 0<low[1]<1

@given(cm=matrices(), level=st.sampled_from([.8, .95]))
def test_per_class_is_scikit_learn_s(cm, level):
    (t,p),k = expand(cm),len(cm)
    df = per_class(cm, level=level)
    precision,recall,f1,support = skm.precision_recall_fscore_support(t, p, labels=range(k), zero_division=np.nan)
    for nm,v in dict(precision=precision, recall=recall, f1=f1, support=support).items(): close(df[nm], v)
    assert df.support.dtype==np.int64 and df.index.tolist()==[*range(k)]
    for c in range(k):
        parts = dict(recall=p[t==c]==c, precision=t[p==c]==c, specificity=p[t!=c]!=c)
        if len(parts['specificity']):
            close(df.specificity[c], skm.recall_score(t==c, p==c, pos_label=False, zero_division=0))
        for nm,x in parts.items():
            want = stats.binomtest(int(x.sum()), len(x)).proportion_ci(level, method='wilson') if len(x) else (np.nan,
                np.nan)
            close((df[f'{nm}_low'][c], df[f'{nm}_high'][c]), want)
            assert np.isnan(df[nm][c])==(len(x)==0)

@given(cm=matrices(4), sick=st.integers(1, 5), healthy=st.integers(1, 5))
def test_predictive_values_are_shares_of_a_population_with_that_prevalence(cm, sick, healthy):
    t,p = expand(cm)
    for c in set(t.tolist()):
        if (t==c).all(): continue
        times = np.where(t==c, sick, healthy)
        pop_t,pop_p = t.repeat(times)==c,p.repeat(times)==c
        row = per_class(cm, prevalence=pop_t.mean()).loc[c]
        close(row.ppv, pop_t[pop_p].mean() if pop_p.any() else np.nan)
        close(row.npv, (~pop_t[~pop_p]).mean() if not pop_p.all() else np.nan)

def test_predictive_values_by_class_and_names():
    cm = [[50,10,2],[5,30,5],[1,2,10]]
    own = np.sum(cm, 1)/np.sum(cm)
    df = per_class(cm, vocab=['none','mild',3], prevalence=own)
    assert df.index.tolist()==['none','mild','3'] and df.index.name=='class'
    # At the data's own prevalence the predictive value is the precision
    close(df.ppv, df.precision)
    close(per_class(cm, prevalence=.3).ppv[1], per_class(cm, prevalence=[.1,.3,.6]).ppv[1])
    assert 'ppv' not in per_class(cm)

@given(cm=matrices(), data=st.data())
def test_groups_are_items_with_other_labels(cm, data):
    k = len(cm)
    to = np.array(data.draw(st.lists(st.integers(0, 3), min_size=k, max_size=k).filter(any)))
    named = [g for g in (1,2,3) if (to==g).any()]
    new = {g:i for i,g in enumerate(([0] if (to==0).any() else [])+named)}
    t,p = ([new[to[o]] for o in x] for x in expand(cm))
    groups = {f'group {g}':np.flatnonzero(to==g).tolist() for g in named}
    want = confusion(p, t, len(new))
    assert (group_classes(cm, groups)==want).all()
    assert (group_classes(np.stack([cm,2*cm]), groups)==np.stack([want,2*want])).all()

@given(cm=matrices(5), data=st.data())
def test_another_prevalence_is_that_of_repeated_items(cm, data):
    (t,p),k = expand(cm),len(cm)
    times = np.array(data.draw(st.lists(st.integers(0, 6), min_size=k, max_size=k)))
    assume(times[t].any())
    more = confusion(p.repeat(times[t]), t.repeat(times[t]), k)
    got = reweight(cm, more.sum(1)/more.sum())
    close(got, more*cm.sum()/more.sum())
    for f in mcc,balanced_acc,macro_f1,kendall_tau: close(f(got), f(more), atol=1e-10)

def test_balanced_reweighting():
    cms = np.stack([[[90,10],[3,7]], [[5,5],[1,99]]])
    got = reweight(cms, 'balanced')
    close(got.sum(-1), [[55,55],[55,55]])
    close(np.trace(got, axis1=1, axis2=2)/110, balanced_acc(cms))
    # Where a class is missing from some matrices only, those are undefined and the others are not
    got = reweight(np.stack([np.diag([3,2]), np.diag([3,0])]), [.5,.5])
    close(mcc(got[0]), 1)
    assert np.isnan(mcc(got[1])) and np.isnan(balanced_acc(got[1]))

# --- probabilities ---

def softmax_rows(n, k, seed=0, sharp=2.):
    x = np.exp(np.random.default_rng(seed).normal(size=(n,k))*sharp)
    return x/x.sum(1, keepdims=True)

@pytest.mark.parametrize('ties', [False, True])
def test_auc_of_each_class(ties):
    p,t = softmax_rows(300, 5),np.random.default_rng(1).choice([0,1,3], 300, p=[.8,.15,.05])
    p[np.arange(300),t] += .2
    if ties: p = p.round(1)
    df = per_class_auc(p, t, specificity=.9, vocab=list('abcde'))
    assert df.index.tolist()==list('abcde') and df.loc[['c','e']].isna().all(axis=None)
    assert df.loc[['a','b','d']].notna().all(axis=None)
    for c in 0,1,3:
        row,y,s = df.iloc[c],t==c,p[:,c]
        close(row.auroc, (stats.mannwhitneyu(s[y], s[~y]).statistic/(y.sum()*(~y).sum())))
        close(row.average_precision, skm.average_precision_score(y, s))
        at = [(s[y]>=c0).mean() for c0 in (*np.unique(s),np.inf) if Fraction(int((s[~y]<c0).sum()),
            int((~y).sum()))>=Fraction(9,10)]
        close(row.sensitivity, max(at))

def test_auc_of_a_single_class_is_undefined():
    assert per_class_auc([[.9,.1],[.8,.2]], [0,0]).isna().all(axis=None)

@pytest.mark.parametrize('n', [10, 30, 100])
def test_a_specificity_that_is_just_reached_counts(n):
    "With `wrong` of `n` healthy above every sick one but not above the rest, specificity (n-wrong)/n has sensitivity 1"
    for wrong in range(1, n):
        p1 = np.r_[np.zeros(n-wrong), np.full(wrong, .5), np.full(4, .5)]
        p,t = np.c_[1-p1,p1],np.repeat([0,1], [n,4])
        got = per_class_auc(p, t, specificity=(n-wrong)/n).sensitivity[1]
        assert got==1, f'{wrong} of {n}'
        assert per_class_auc(p, t, specificity=(n-wrong+.5)/n).sensitivity[1]==0

def loop_bins(p, t, n_bins):
    "Items, confidence and accuracy of bins (lo,hi], by a loop over the items"
    bins = [[] for _ in range(n_bins)]
    for row,y in zip(np.asarray(p).tolist(), t):
        conf = max(row)
        b = next(b for b in range(n_bins) if b/n_bins < conf <= (b+1)/n_bins)
        bins[b].append((conf, row.index(conf)==y))
    return bins

@pytest.mark.parametrize('n_bins', [1, 10, 15, 25])
@pytest.mark.parametrize('k', [2, 5])
def test_calibration_is_that_of_a_loop(n_bins, k):
    p,t = softmax_rows(400, k, sharp=3),np.random.default_rng(2).integers(k, size=400)
    p[:20],p[20:40] = np.eye(k)[t[:20]],np.eye(k)[0] # certainty, right and wrong
    bins,df = loop_bins(p, t, n_bins),calibration_bins(p, t, n_bins)
    close(calibration_error(p, t, n_bins), sum(abs(sum(c-r for c,r in b)) for b in bins)/400)
    assert df.n.tolist()==[len(b) for b in bins] and df.index[-1]==1 and df.n.iloc[-1]>=40
    close(df.confidence, [np.mean([c for c,_ in b]) if b else np.nan for b in bins])
    close(df.accuracy, [np.mean([r for _,r in b]) if b else np.nan for b in bins])

@pytest.mark.parametrize('n_bins', [2, 10, 15, 25, 40, 100])
def test_confidences_on_the_edges_belong_to_the_bin_below(n_bins):
    conf = np.array([b/n_bins for b in range(1, n_bins+1) if b/n_bins>.02])
    p = np.c_[conf, np.repeat((1-conf[:,None])/100, 100, axis=1)]
    bins = loop_bins(p, [0]*len(p), n_bins)
    assert calibration_bins(p, [0]*len(p), n_bins).n.tolist()==[len(b) for b in bins]

def test_calibration_error_of_the_sure():
    p = np.array([[1,0],[1,0],[0,1.]])
    assert calibration_error(p, [0,0,1])==0 and calibration_error(p, [1,1,0])==1
    close(calibration_error(p, [0,1,1]), 1/3)
    # In half precision too
    assert calibration_error(torch.tensor(p).half(), [0,0,1])==0

@pytest.mark.parametrize('k', [2, 5])
def test_brier_error_is_that_of_a_loop_and_of_scikit_learn(k):
    p,t = softmax_rows(50, k),np.random.default_rng(3).integers(k, size=50)
    close(brier_error(p, t), sum(sum((q-(j==y))**2 for j,q in enumerate(row)) for row,y in zip(p.tolist(), t))/50)
    close(brier_error(p, t), skm.brier_score_loss(t, p, labels=range(k), scale_by_half=False))
    close(brier_error(torch.tensor(p).float(), torch.tensor(t)), brier_error(p, t), atol=1e-6)
    assert brier_error(np.eye(3), [0,1,2])==0 and brier_error(np.eye(3), [1,2,0])==2

def test_probabilities_of_nothing():
    p = np.zeros((0,3))
    assert np.isnan([calibration_error(p, []), brier_error(p, [])]).all()
    assert calibration_bins(p, []).n.sum()==0 and per_class_auc(p, []).isna().all(axis=None)

@pytest.mark.parametrize('prevalence', [None, [.4,.3,.2,.1]])
@pytest.mark.parametrize('ordered', [False, True])
def test_a_row_holds_the_scores_of_the_registry_and_checks_its_probabilities_once(ordered, prevalence):
    p,t = softmax_rows(200, 4),np.random.default_rng(4).integers(4, size=200)
    with (mock.patch.object(checks, 'as_preds', wraps=checks.as_preds) as seen,
          mock.patch('fastai_balmix.metrics.probabilities.as_preds', seen)):
        row = score_row(p, torch.tensor(t), ordered, prevalence)
    assert seen.call_count==1
    cm = confusion(p, t) if prevalence is None else reweight(confusion(p, t), prevalence)
    there = [o for o in score_registry.values() if (ordered or not o.ordered) and (prevalence is None or o.func
        or o.key=='mean_auc')]
    assert row=={o.key: float(o.func(cm)) if o.func else o.of_probs(p, t) for o in there}

# --- bad arguments ---

OK,P = np.diag([3,2,1]),[[.9,.1],[.2,.8]]
bad = [
    (lambda: mcc(5), must_be('mcc', 'cm', 'square matrices, an array of shape (..., K, K). Got shape () instead.')),
    (lambda: mcc(np.ones((2,3))), 'Got shape (2, 3) instead.'),
    (lambda: kendall_tau([[1,-2],[0,1]]), must_be('kendall_tau', 'cm', 'counts, none negative. Got -2 instead.')),
    *[(lambda f=f: f([1,2]), f"'cm' parameter of {f.__name__}") for f in (quad_kappa,macro_f1,balanced_acc,
        geometric_mean)],
    (lambda: reweight([1,2], 'balanced'), "'cm' parameter of reweight"),
    (lambda: group_classes([1,2], dict(a=[0])), "'cm' parameter of group_classes"),
    *[(lambda f=f: f(OK, classes='some'), must_be(nm, 'classes',
        "'present', 'all' or a list of class numbers. Got 'some' instead.")) for nm,f in averages.items()],
    (lambda: macro_f1(OK, classes=[1,3]), must_be('macro_f1', 'classes',
        'ints in the range [0, 2]. Got 3 at index 1 instead.')),
    (lambda: balanced_acc(OK, classes=[.5]), "'classes' parameter of balanced_acc must be one int per item"),
    (lambda: confusion([0,1], [0]), must_be('confusion', 'targs', '2 ints, one for each item. Got 1 labels instead.')),
    (lambda: confusion([0,3], [0,1], 3), must_be('confusion', 'preds',
        'ints in the range [0, 2]. Got 3 at index 1 instead.')),
    (lambda: confusion([0,1], [0,-1]), "Got -1 at index 1 instead."),
    (lambda: confusion([.5,.5], [0,1]), must_be('confusion', 'preds', 'one int per item')),
    (lambda: confusion(P, [0,2]), must_be('confusion', 'targs', 'ints in the range [0, 1]. Got 2 at index 1 instead.')),
    (lambda: confusion(P, [0,1], 3), must_be('confusion', 'preds', '3 columns, one for each class. Got 2 instead.')),
    (lambda: confusion([[.5,.5],[np.nan,1],[np.nan,1]], [0,1,1]),
        must_be('confusion', 'preds', 'finite numbers. Got nan at index (1, 0) instead.')),
    (lambda: confusion(torch.tensor([[0.,float('inf')]]), [0]), 'Got inf at index (0, 1) instead.'),
    (lambda: confusion(np.zeros((2,2,2)), [0,1]),
        'must be an array of shape (N,K). Got float64 values of shape (2, 2, 2) instead.'),
    (lambda: confusion([['a','b']], [0]), "must be an array of shape (N,K)"),
    *[(lambda n=n: confusion([0], [0], n_classes=n),
        must_be('confusion', 'n_classes', 'an int in the range [1, inf).')) for n in (0, 1.5, '3')],
    (lambda: per_class(np.stack([OK,OK])), must_be('per_class', 'cm',
        'one matrix, an array of shape (K,K). Got shape (2, 3, 3) instead.')),
    (lambda: per_class(OK, vocab=['a','b']), must_be('per_class', 'vocab',
        '3 names, one for each class. Got 2 instead.')),
    (lambda: per_class(OK, level=1), must_be('per_class', 'level', 'a float in the range [0, 1). Got 1 instead.')),
    *[(lambda v=v: per_class(OK, prevalence=v), must_be('per_class', 'prevalence',
        f'a float in (0, 1), or 3 of them. Got {v!r} instead.'))
      for v in (0, 1, 1.5, [.1,.2], [.1,.2,0], np.nan, 'many')],
    (lambda: group_classes(OK, {}), must_be('group_classes', 'groups',
        'non-empty lists of class numbers, none in two groups. Got {} instead.')),
    (lambda: group_classes(OK, dict(a=[0], b=[])), 'non-empty lists'),
    (lambda: group_classes(OK, dict(a=[0,1], b=[1])), 'Got class 1 twice instead.'),
    (lambda: group_classes(OK, dict(a=[0,0])), 'Got class 0 twice instead.'),
    (lambda: group_classes(OK, dict(a=[3])), must_be('group_classes', 'groups',
        'ints in the range [0, 2]. Got 3 at index 0 instead.')),
    (lambda: group_classes(OK, dict(a=2)), "'groups' parameter of group_classes"),
    (lambda: group_classes(OK, [[1,2]]), "'groups' parameter of group_classes"),
    (lambda: reweight(OK, [.5,.5]), must_be('reweight', 'prior',
        '3 probabilities, one for each class. Got 2 of them instead.')),
    (lambda: reweight(OK, [3,2,1]), must_be('reweight', 'prior',
        'probabilities: none negative, sum 1. Got [3, 2, 1] instead.')),
    (lambda: reweight(OK, [1.5,-.5,0]), 'none negative, sum 1'),
    (lambda: reweight(OK, 'train'), "'prior' parameter of reweight"),
    (lambda: reweight(np.diag([3,0,1]), 'balanced'),
        must_be('reweight', 'prior',
            'zero for classes without items, whose rows cannot be scaled. Got 0.333333 for class 1 instead.')),
    (lambda: per_class_auc([0,1], [0,1]), must_be('per_class_auc', 'probs', 'an array of shape (N,K)')),
    (lambda: per_class_auc(P, [0,1], specificity=1.1),
        must_be('per_class_auc', 'specificity', 'a float in the range [0, 1]. Got 1.1 instead.')),
    (lambda: per_class_auc(P, [0,1], vocab=[*'abc']),
        must_be('per_class_auc', 'vocab', '2 names, one for each class. Got 3 instead.')),
    (lambda: score_row([[.9,.2]], [0]), must_be('score_row', 'probs', 'rows of probabilities')),
    *[o for f in (per_class_auc,calibration_bins,calibration_error,brier_error,score_row) for o in (
        (lambda f=f: f(P, [0]), must_be(f.__name__, 'targs', '2 ints, one for each item. Got 1 labels instead.')),
        (lambda f=f: f(P, [0,2]), must_be(f.__name__, 'targs', 'ints in the range [0, 1]. Got 2 at index 1 instead.')),
        (lambda f=f: f([[np.nan,1]], [0]), must_be(f.__name__, 'probs',
            'finite numbers. Got nan at index (0, 0) instead.')))],
    *[(lambda f=f, n=n: f(P, [0,1], n), must_be(f.__name__, 'n_bins',
        f'an int in the range [1, inf). Got {n!r} instead.'))
      for f in (calibration_bins,calibration_error) for n in (0, 2.5)],
]
# What intervals and tests share
Y = [0,1,1]
bad += [b for nm,f in dict(confidence_interval=confidence_interval, paired_test=lambda p, *args,
    **kw: paired_test(p, p, *args, **kw)).items() for b in (
    (lambda f=f: f(Y, Y, 'mcc'), must_be(nm, 'score', "a function of confusion matrices. Got 'mcc' instead.")),
    (lambda f=f: f(Y, [0], mcc), must_be(nm, 'targs', '3 ints, one for each item. Got 1 labels instead.')),
    (lambda f=f: f(Y, [0,1,2], mcc, n_classes=2), must_be(nm, 'targs',
        'ints in the range [0, 1]. Got 2 at index 2 instead.')),
    (lambda f=f: f(Y, Y, mcc, groups=[1]), must_be(nm, 'groups',
        '3 values, one for each item. Got an array of shape (1,) instead.')),
    (lambda f=f: f(Y, Y, mcc, n=0), must_be(nm, 'n', 'an int in the range [1, inf). Got 0 instead.')),
    (lambda f=f: f(Y, Y, mcc, seed=-1), must_be(nm, 'seed', 'an int in the range [0, inf). Got -1 instead.')),
    (lambda f=f: f([[np.inf,0]], [0], mcc), 'must be finite numbers. Got inf at index (0, 0) instead.'),
    (lambda f=f: f([], [], mcc), 'must be predictions of at least one item. Got none instead.'))]
bad += [
    (lambda: confidence_interval(Y, Y, mcc, level=1.),
        must_be('confidence_interval', 'level', 'a float in the range [0, 1). Got 1.0 instead.')),
    (lambda: confidence_interval(P, [0,1], mcc, n_classes=3),
        must_be('confidence_interval', 'preds', '3 columns')),
    (lambda: paired_test(Y, [0,1], Y, mcc), "parameter of paired_test must be"),
    (lambda: paired_test(P, np.eye(3)[:2], [0,1], mcc),
        must_be('paired_test', 'preds_b', '2 columns, one for each class. Got 3 instead.')),
    (lambda: paired_test(P, [[np.nan,1],[0,1]], [0,1], mcc),
        must_be('paired_test', 'preds_b', 'finite numbers. Got nan at index (0, 0) instead.')),
    (lambda: paired_test([[.5,np.nan]], [[1,0]], [0], mcc),
        must_be('paired_test', 'preds_a', 'finite numbers. Got nan at index (0, 1) instead.'))]

@pytest.mark.parametrize('call,words', bad, ids=[w[:90] for _,w in bad])
def test_bad_arguments_are_told_so(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value)

# --- intervals ---

def grouped(n_groups, sizes, k=3, seed=0, right=(.4,1.)):
    "Predictions, truth and group of each item; groups differ in how many answers are right"
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), sizes)
    t = rng.integers(k, size=len(g))
    return np.where(rng.random(len(g)) < rng.uniform(*right, n_groups)[g], t, rng.integers(k, size=len(g))),t,g

def cells(p, t, g, k): return np.stack([skm.confusion_matrix(t[g==o], p[g==o], labels=range(k)) for o in np.unique(g)])

def recall_of_1(cm): return cm[...,1,1]/cm[...,1,:].sum(-1)

@pytest.mark.parametrize('level', [.5, .9, .95])
@pytest.mark.parametrize('hits', [0, 3, 9, 12])
def test_of_one_recall_the_draws_are_a_beta_distribution(hits, level):
    "40 images of class 0, all right, and 12 of class 1; one more is imagined, right as often as classes are on average"
    t = np.repeat([0,1], [40,12])
    p = np.repeat([0,1,0], [40,hits,12-hits])
    mean = (40.5/41 + (hits+.5)/13)/2
    drawn = stats.beta(hits+mean, 12-hits+1-mean)
    # The median bias, and Student's t with Satterthwaite's degrees of freedom
    shift = 2*np.clip(stats.norm.ppf(drawn.cdf((hits+mean)/13)), -1, 1)
    t_ = stats.t.ppf((1+level)/2, (1/40+1/12)**2/(1/40**3+1/12**3))
    levels = stats.norm.cdf([shift-t_,shift+t_])
    got = confidence_interval(p, t, recall_of_1, n=20_000, level=level)
    close(got.value, hits/12)
    for end,q in zip(got[1:], levels):
        # five standard deviations of a share of 20,000 draws, unless the score itself is the end
        tol = 5*np.sqrt(q*(1-q)/20_000)
        assert abs(drawn.cdf(end)-q)<tol or end==got.value in (0,1)

def recorded(score, keep):
    def f(cm):
        keep.append(np.array(cm))
        return score(cm)
    return f

def drawn_matrices(p, t, score=mcc, **kwargs):
    keep = []
    confidence_interval(p, t, recorded(score, keep), **kwargs)
    return np.concatenate([o.reshape(-1, *o.shape[-2:]) for o in keep if o.ndim>2])

def test_groups_are_weighted_whole_and_one_of_each_class_is_imagined():
    """Group i is 2^i items in a place of its own, so that a matrix tells its weight. Weights are exponential, and what
    is imagined is as large as a group: right, as 2 of 2 would be on average, in a share of it that is drawn"""
    g = np.repeat(np.arange(8), 2**np.arange(8))
    cm = drawn_matrices(g, g, groups=g.astype(str), n=5000)
    times = np.diagonal(cm, axis1=1, axis2=2)/2**np.arange(8)
    # All are right: of two groups, one of them imagined, three quarters
    mean = 1+.75
    assert cm.shape==(5000,8,8)
    assert (np.abs(times.mean(0)-mean)<5*np.sqrt(mean/5000)).all() and (np.abs(times.var(0)/mean-1)<.15).all()
    assert np.abs(np.corrcoef(times.T)[~np.eye(8, dtype=bool)]).max()<5/np.sqrt(5000)

def test_items_have_weights_of_mean_and_variance_1():
    p,t,_ = grouped(50, 1, k=4)
    cm,seen = drawn_matrices(p, t, n=3000, n_classes=6),confusion(p, t, 6)
    assert cm.shape==(3000,6,6) and not cm[:,4:].any() and not cm[...,4:].any()
    # One image of each class that is there is imagined
    assert np.abs(cm.sum((1,2)).mean()-54)<5*np.sqrt(54/3000)
    more,error = cm.mean(0)-seen,5*np.sqrt((seen+1)/3000)
    assert (more>-error).all() and (more<1+error).all()
    assert (np.abs(cm.var(0)-cm.mean(0))<=.25*cm.mean(0)+.02).all()

@pytest.mark.parametrize('groups', [False, True])
def test_as_many_draws_as_asked_for_however_wide(groups):
    "Of many classes or groups not all draws fit in memory at once"
    n_items = 9000
    t = np.arange(n_items)%70
    cm = drawn_matrices(t, t, groups=np.arange(n_items)//2 if groups else None, n=2500)
    assert len(cm)==2500 and len(np.unique(cm.sum((1,2))))==2500

TWENTY = grouped(20, 3)
OTHER = np.where(np.arange(60)%4, TWENTY[0], 0)

@pytest.mark.parametrize('f', [lambda p, t, **kw: confidence_interval(p, t, mcc, n=300, **kw), lambda p, t,
    **kw: paired_test(p, OTHER, t, mcc, n=300, **kw)],
                         ids=['confidence_interval', 'paired_test'])
def test_seeds_decide_and_names_do_not(f):
    p,t,g = TWENTY
    state = np.random.get_state()[1].copy()
    for groups in None,g:
        assert f(p, t, groups=groups, seed=5)==f(p, t, groups=groups, seed=5)!=f(p, t, groups=groups, seed=6)
    assert (np.random.get_state()[1]==state).all()
    names = np.array([f'patient {chr(122-o)}' for o in g])
    for other in names,pd.Series(names),torch.tensor(g)+7,g*.5:
        assert f(p, t, groups=other)==f(p, t, groups=g)
    probs = torch.tensor(np.eye(3)[p])
    assert f(probs, torch.tensor(t))==f(p, t)==f(p.tolist(), t.tolist(), n_classes=3)

def test_the_order_of_items_does_not_matter():
    p,t,g = TWENTY
    i = np.random.default_rng(0).permutation(60)
    assert confidence_interval(p, t, mcc, n=500)==confidence_interval(p[i], t[i], mcc, n=500)
    i = np.argsort(g+np.random.default_rng(0).random(60)*.5)
    assert confidence_interval(p, t, mcc, groups=g, n=500)==confidence_interval(p[i], t[i], mcc, groups=g[i], n=500)
    b = np.random.default_rng(1).integers(3, size=60)
    assert paired_test(p, b, t, mcc, groups=g, n=500)==paired_test(p[i], b[i], t[i], mcc, groups=g[i], n=500)

def test_higher_levels_have_wider_intervals():
    p,t,_ = grouped(60, 1)
    ends = [confidence_interval(p, t, mcc, n=2000, level=level) for level in (0, .5, .9, .99)]
    assert all(o.low<=o.value<=o.high for o in ends)
    assert all(a.low>b.low and a.high<b.high and a.value==b.value for a,b in pairwise(ends))

def test_undefined_draws_are_left_out_and_told():
    def often_undefined(cm): return np.where(cm[...,0,0]/cm.sum((-2,-1))<=.5, np.nan, balanced_acc(cm))
    y = np.arange(20)%2
    with pytest.warns(UserWarning, match=r'confidence_interval: the score is undefined in \d+ of 5000 draws') as w:
        got = confidence_interval(y, y, often_undefined, n=5000)
    assert np.isnan(got.value) and 0<got.low<got.high<=1 and w[0].filename==__file__
    with pytest.warns(UserWarning, match='in 100 of 100 draws'):
        got = confidence_interval([0], [0], kendall_tau, n=100)
    assert np.isnan(got).all()

@pytest.mark.parametrize('score', [mcc,balanced_acc,macro_f1,geometric_mean,quad_kappa], ids=lambda f: f.__name__)
def test_a_class_of_one_image_is_uncertain_and_no_interval_leaves_its_range(score):
    y = np.repeat([0,1,2], [30,4,1])
    got = confidence_interval(y, y, score, n=2000)
    close([got.value,got.high], [1,1])
    assert -1<=got.low<.97 and got.high<=1
    wrong = confidence_interval((y+1)%3, y, score, n=2000)
    assert wrong.low<=wrong.value<=wrong.high<1

# --- paired tests ---

def all_swaps(a, b, t, g, k, score):
    "Exact p-value: the share of all ways of swapping groups with a difference at least as large"
    ca,cb = cells(a, t, g, k),cells(b, t, g, k)
    s = np.array(list(product([0,1], repeat=len(ca))))
    da = score(np.tensordot(s, cb, 1)+np.tensordot(1-s, ca, 1)) - score(np.tensordot(s, ca, 1)+np.tensordot(1-s, cb, 1))
    return (np.abs(da)>=np.abs(da[0])-1e-9).mean()

@pytest.mark.parametrize('score', [mcc, balanced_acc, macro_f1], ids=lambda f: f.__name__)
@pytest.mark.parametrize('sizes', [1, [1,4,2,7,3,5,2,2,1,3]], ids=['items', 'groups'])
@pytest.mark.parametrize('seed', range(4))
def test_p_is_the_share_of_all_swaps(score, sizes, seed):
    a,t,g = grouped(10, sizes, seed=seed, right=(.6,1.))
    b = np.where(np.random.default_rng(seed).random(len(t))<.5, a,
        np.random.default_rng(seed+9).integers(3, size=len(t)))
    want = all_swaps(a, b, t, g, 3, score)
    for groups in [g]+[None]*(sizes==1):
        got = paired_test(a, b, t, score, groups=groups, n=4000, n_classes=3)
        close(got.diff, reference(score.__name__, t, a, 3)-reference(score.__name__, t, b, 3))
        # five standard deviations of a share of 4000 permutations
        assert abs(got.p-want) < 5*np.sqrt(want*(1-want)/4000) + 1/4000
    back = paired_test(b, a, t, score, groups=g, n=4000, n_classes=3)
    close(back.diff, -got.diff)

@pytest.mark.parametrize('better,worse', [(3,0), (8,2), (5,5), (12,1)])
def test_for_accuracy_it_is_the_sign_test(better, worse):
    t = np.zeros(60, int)
    a,b = t.copy(),t.copy()
    a[better:better+worse] = b[:better] = 1
    want = stats.binomtest(better, better+worse).pvalue
    got = paired_test(a, b, t, lambda cm: np.trace(cm, axis1=-2, axis2=-1)/cm.sum((-2,-1)), n=5000)
    assert abs(got.p-want) < 5*np.sqrt(want*(1-want)/5000) + 1/5000

def test_p_is_never_0_and_networks_that_agree_have_1():
    t = np.arange(200)%2
    assert paired_test(t, 1-t, t, mcc, n=99)==(2,.01)
    assert paired_test(1-t, t, t, mcc, n=99)==(-2,.01)
    assert paired_test(t, t, t, mcc, n=99)==(0,1)
    # Swapped as one group, the two can only change places
    assert paired_test(t, 1-t, t, mcc, groups=[0]*200, n=99).p==1

def test_an_undefined_difference_proves_nothing():
    got = paired_test([0,0,0], [0,1,0], [0,1,1], kendall_tau, n=50)
    assert np.isnan(got.diff) and got.p==1

def test_many_classes_and_groups_are_swapped_in_parts():
    rng,keep = np.random.default_rng(0),[]
    t = np.arange(6000)%70
    paired_test(np.where(rng.random(6000)<.3, 0, t), np.where(rng.random(6000)<.3, 1, t), t, recorded(mcc, keep),
        n=2500)
    sizes = [len(o) for o in keep]
    # The difference that was seen, and the permutations, of two networks each
    assert sum(sizes)==2*(1+2500) and len(sizes)>4
    for o in keep: assert (o>=0).all() and (o.sum(-1)==np.bincount(t)).all()

# --- simulated patients ---

N_SIM,EYES = 1500,10

def patients(rng, n=60):
    "Truth, patient and answers of two networks for each image, right by chances (mean 0.7) of each patient"
    chance = rng.beta(1.4, .6, size=(2,n))
    g = np.repeat(np.arange(n), EYES)
    t = rng.integers(2, size=len(g))
    return t,g,[np.where(rng.random(len(g))<c[g], t, 1-t) for c in chance]

@pytest.mark.slow
def test_intervals_cover_where_patients_are_resampled_and_not_where_images_are():
    """Images of one patient correlate by 1/3, so that their mean varies (1+9/3) = 4 times as much as if they were
    independent: a 95 % interval of images holds what a 67 % one should"""
    rng,hits = np.random.default_rng(0),Counter()
    for i in range(N_SIM):
        t,g,(p,_) = patients(rng)
        for nm,groups in dict(grouped=g, alone=None).items():
            o = confidence_interval(p, t, balanced_acc, groups=groups, n=1000, seed=i)
            hits[nm] += o.low<=.7<=o.high
    # Four standard deviations of a share of 1500, √(.95·.05/1500) = .0056; a percentile interval of 60 patients is
    # about .01 short
    assert .95-.01-4*.0056 < hits['grouped']/N_SIM < .95+4*.0056
    assert abs(hits['alone']/N_SIM-.67) < 4*np.sqrt(.67*.33/N_SIM)

@pytest.mark.slow
def test_false_alarms_are_one_in_twenty_where_patients_are_swapped_and_not_where_images_are():
    "Two networks of the same merit; the difference varies 4 times as much as images by themselves would have it"
    rng,alarms = np.random.default_rng(1),Counter()
    for i in range(N_SIM):
        t,g,(a,b) = patients(rng)
        for nm,groups in dict(grouped=g, alone=None).items():
            alarms[nm] += paired_test(a, b, t, balanced_acc, groups=groups, n=999, seed=i).p<=.05
    # Four standard deviations of a share of 1500, √(.05·.95/1500) = .0056
    assert abs(alarms['grouped']/N_SIM-.05) < 4*.0056
    assert abs(alarms['alone']/N_SIM-.33) < 4*np.sqrt(.33*.67/N_SIM)
