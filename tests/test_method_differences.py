"""What may be said of two methods: `method_differences` and `recall_differences` beside stored cases that another
program computed, and beside dense sums that follow the formulas one by one."""
import numpy as np
import pytest
from conftest import root
from hypothesis import given, strategies as st
from scipy import stats
from toys import settings

from fastai_balmix.metrics.differences import least_difference, method_differences, recall_differences, score_intervals
from fastai_balmix.metrics.scores import balanced_acc, confusion, macro_f1, mcc

designs = 'folds', 'patients', 'split', 'seeds', 'binary'
cases = np.load(root/'tests'/'data'/'comparison_cases.npz')


def case(name, *columns): return [cases[f'{name}/{o}'] for o in columns]


@pytest.mark.parametrize('name', designs)
def test_columns_are_those_of_another_program(name):
    df = method_differences(*case(name, 'pred', 'targs'), fold=case(name, 'fold')[0], groups=case(name, 'groups')[0])
    for column in 'diff', 'images', 'own', 'df', 'table', 'phi', 'low', 'high', 'p':
        want = case(name, column)[0].ravel()
        np.testing.assert_allclose(df[column], want, rtol=1e-4, atol=1e-9, err_msg=column)
    # these are drawn there and here
    for column in 'q', 'mdd50', 'mdd80':
        np.testing.assert_allclose(df[column], case(name, column)[0].ravel(), rtol=0, atol=.005, err_msg=column)


@pytest.mark.parametrize('name', designs)
def test_recalls_are_those_of_another_program(name):
    df = recall_differences(*case(name, 'pred', 'targs', 'fold', 'groups'))
    want = case(name, 'recall')[0]
    for i, column in enumerate(('change', 'low', 'high')):
        expected = want[:, :, i]
        got = df[column].to_numpy().reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def made_up(n=120, methods=2, seeds=2, folds=3, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    targs = rng.permutation(np.arange(n)%n_classes)
    groups = np.arange(n)//2
    fold = (groups%folds)
    right = rng.random((methods+1, seeds, 3, n))<.7
    pred = np.where(right, targs, rng.integers(0, n_classes, (methods+1, seeds, 3, n)))
    return pred, targs, fold, groups


def test_variances_follow_the_formulas():
    pred, targs, fold, groups = made_up()
    n_classes, n_groups = 3, groups.max()+1
    counts = np.zeros((*pred.shape[:3], n_groups, n_classes, n_classes))
    for m, s, p, i in np.ndindex(pred.shape): counts[m, s, p, groups[i], targs[i], pred[m, s, p, i]] += 1
    mean = counts.mean(1)
    df = method_differences(pred, targs, fold=fold, groups=groups)
    fold_of = np.array([fold[groups==c][0] for c in range(n_groups)])
    share = np.bincount(fold)/len(fold)
    for row in df.itertuples():
        func = dict(mcc=mcc, balanced_acc=balanced_acc, macro_f1=macro_f1)[row.score]
        method, base = mean[row.method, row.point], mean[0, row.point]
        change, both = method-base, (method.sum(0)+base.sum(0))/2
        gradient = np.zeros((n_classes, n_classes))
        for t, p in np.ndindex(gradient.shape):
            move = np.zeros_like(gradient)
            move[t, p] = 1e-4
            gradient[t, p] = (func(both+move)-func(both-move))/2e-4
        psi = (change*gradient).sum((1, 2))
        images = n_groups/(n_groups-1)*(psi**2).sum()
        of_folds = sum(((change[fold_of==k].sum(0) - share[k]*change.sum(0))*gradient).sum()**2 for k in range(3))
        together = alone = 0.
        for j in row.method, 0:
            for s in range(2):
                deviation = counts[j, s, row.point]-mean[j, row.point]
                together += sum((deviation[fold_of==k].sum(0)*gradient).sum()**2 for k in range(3))/2
                alone += sum((o*gradient).sum()**2 for o in deviation)/2
        excess = 1+(together-alone)/images
        weight = np.clip(6*(max(excess, 1)*images/together)**2, 6, 1000)
        assert row.diff==pytest.approx(func(method.sum(0))-func(base.sum(0)), abs=1e-12)
        assert row.images==pytest.approx(np.sqrt(images), rel=1e-5)
        assert row.own==pytest.approx((2*3/2*of_folds/images + weight*excess)/(2+weight), rel=1e-4)
        assert row.df==pytest.approx(2+weight, rel=1e-4)


def test_p_is_the_posterior_mean_of_a_normal_tail():
    pred, targs, fold, groups = made_up()
    row = method_differences(pred, targs, fold=fold, groups=groups).iloc[4]
    # draws of the prior, weighted by the likelihood
    scale = max((row.table-1)/2, .2)
    excess = stats.halfcauchy.rvs(scale=scale, size=2_000_000, random_state=0)
    weights = stats.chi2.pdf(row.df*row.own/(1+excess), row.df)/(1+excess)
    tails = 2*stats.norm.sf(abs(row['diff'])/row.images/np.sqrt(1+2*excess))
    p = np.average(tails, weights=weights)
    assert row.p==pytest.approx(p, abs=.002)


def test_one_run_each_claims_nothing():
    pred, targs, _, groups = made_up(seeds=1)
    df = method_differences(pred, targs, groups=groups)
    assert df[['own', 'df', 'table', 'phi', 'p', 'q', 'mdd50', 'mdd80']].isna().all(axis=None)
    np.testing.assert_allclose(df.high-df['diff'], 1.959964*df.images, rtol=1e-5)


def test_the_same_answers_differ_in_nothing():
    pred, targs, fold, _ = made_up(methods=1)
    pred[1] = pred[0]
    df = method_differences(pred, targs, fold=fold)
    assert not df['diff'].any() and not df.images.any() and df.q.isna().all()
    recalls = recall_differences(pred, targs, fold=fold)
    assert not recalls.change.any() and (recalls.low<0).all() and (recalls.high>0).all()


def test_intervals_stay_in_the_range_of_a_difference():
    targs = np.array([0, 1]*6)
    pred = np.stack([1-targs, targs])[:, None, None].repeat(2, 1).repeat(2, 2)
    pred[1, 0, :, 0] = 1
    df = method_differences(pred, targs, fold=np.arange(12)%3)
    assert (df.high<=np.where(df.score=='mcc', 2, 1)).all() and (df.low>=-2).all()
    recalls = recall_differences(pred, targs, fold=np.arange(12)%3)
    assert recalls.low.min()>=-1 and recalls.high.max()<=1


@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_order_and_names_change_nothing(seed):
    pred, targs, fold, groups = made_up(n=60, seed=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(60)
    names = np.array([f'p{o}' for o in rng.permutation(30)])
    first = method_differences(pred, targs, fold=fold, groups=groups)
    letters = np.array(list('abc'))[fold[order]]
    then = method_differences(pred[..., order], targs[order], fold=letters, groups=names[groups[order]])
    drawn = ['q', 'mdd50', 'mdd80']
    exact = ['score', *drawn]
    np.testing.assert_allclose(first.drop(columns=exact), then.drop(columns=exact), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(first[drawn], then[drawn], rtol=0, atol=.005)


def test_without_a_primary_all_cells_are_equal():
    pred, targs, fold, groups = made_up(methods=1)
    equal = method_differences(pred, targs, fold=fold, groups=groups, primary=None)
    assert equal.q.min()>=equal.p.min() and (equal.sort_values('p').q.diff().dropna()>=-1e-12).all()
    told = method_differences(pred, targs, fold=fold, groups=groups)
    first = told[(told.point==1) & (told.score=='mcc')].iloc[0]
    assert first.q==pytest.approx(min(1, 2*first.p))


@pytest.mark.parametrize('change, words', [
    (dict(pred=np.zeros((2, 1, 3, 4))), "'pred' parameter of method_differences must be ints of shape"),
    (dict(targs=[0, 1, 0]), "'targs' parameter of method_differences must be 4 ints"),
    (dict(fold=[1, 2]), "'fold' parameter of method_differences must be 4 values, one for each item"),
    (dict(groups=['a', 'a', 'b', 'b'], fold=[1, 2, 1, 2]), "'groups' parameter of method_differences must be groups"),
    (dict(scores=['mmc']), "There is no score 'mmc'. Did you mean 'mcc'"),
    (dict(alpha=1), "'alpha' parameter of method_differences"),
])
def test_bad_arguments(change, words):
    good = dict(pred=np.zeros((2, 1, 3, 4), dtype=int), targs=[0, 1, 0, 1], fold=[1, 1, 2, 2])
    with pytest.raises(ValueError, match=words): method_differences(**(good | change))

# --- before training ---

def answered(rng, targs, recall, differ):
    "Answers of two equal networks that differ on a share of the images, wrong ones in proportion to the other classes"
    n = np.bincount(targs)
    other = np.array([rng.choice(np.delete(np.arange(len(n)), t), p=np.delete(n, t)/np.delete(n, t).sum())
        for t in targs])
    u = rng.random(len(targs))
    # right both, the first alone, the second alone, or neither
    first = u<recall
    second = (u<recall-differ/2) | ((u>=recall) & (u<recall+differ/2))
    return [np.where(o, targs, other) for o in (first,second)]

@pytest.mark.thinned(1)
@pytest.mark.parametrize('counts', [(400,200,100,50), (900,100)])
def test_what_images_allow_is_their_part_of_the_variance(counts):
    rng = np.random.default_rng(0)
    targs = np.repeat(np.arange(len(counts)), counts)
    z = stats.norm.ppf(.8)-stats.norm.ppf(.05/4)
    for score in 'mcc','balanced_acc':
        seen = [method_differences(np.array(answered(rng, targs, .7, .2))[:,None,None], targs, [score]).images[0]
            for _ in range(60)]
        assert abs(least_difference(score, counts)/(z*np.sqrt(np.mean(np.square(seen))))-1)<.12

def test_more_images_and_seeds_show_more_and_more_methods_less():
    counts = np.array([400,200,100,50])
    one = least_difference('mcc', counts)
    assert abs(least_difference('mcc', counts*4)/one-.5)<1e-6
    assert abs(least_difference('mcc', counts, n_seeds=2)/one-.5**.5)<1e-6
    assert least_difference('mcc', counts, n_methods=5)>1.1*one
    assert np.isnan(least_difference('mcc', [100,0]))

# --- one method alone ---

@pytest.mark.parametrize('per_group', [1, 4])
def test_the_images_part_of_a_score_s_interval_is_the_jackknife_s(per_group):
    rng = np.random.default_rng(1)
    groups = np.arange(600)//per_group
    targs = rng.choice(3, groups.max()+1, p=[.6,.3,.1])[groups]
    right = np.where(np.arange(600)%3==0, rng.random(600)<.7, (rng.random(groups.max()+1)<.7)[groups])
    pred = np.where(right, targs, (targs+1)%3)
    o = score_intervals(pred[None,None,None], targs, ['macro_f1'], groups=groups).iloc[0]
    def score(keep): return macro_f1(confusion(pred[keep], targs[keep], 3))
    without = np.array([score(groups!=g) for g in range(groups.max()+1)])
    n = len(without)
    jackknife = np.sqrt((n-1)/n*((without-without.mean())**2).sum())
    assert abs((o.high-o.low)/(2*1.96*jackknife)-1)<.03
    assert abs(o.value-score(slice(None)))<1e-12

def test_networks_that_differ_by_fold_widen_the_interval_of_a_score():
    rng = np.random.default_rng(2)
    targs = rng.choice(3, 1000, p=[.6,.3,.1])
    fold = np.arange(1000)%5
    widths = []
    for by_fold in np.full(5, .7),np.array([.5,.6,.7,.8,.9]):
        pred = np.where(rng.random(1000)<by_fold[fold], targs, (targs+1)%3)
        o = score_intervals(pred[None,None,None], targs, ['balanced_acc'], fold).iloc[0]
        widths.append(o.high-o.low)
    assert widths[1]>1.7*widths[0]

def test_intervals_of_scores_hold_the_truth():
    "Networks vary from fold to fold; 200 made-up methods, three standard errors"
    rng = np.random.default_rng(3)
    fold = np.arange(600)%5
    held = 0
    for _ in range(200):
        targs = rng.choice(2, 600, p=[.8,.2])
        strength = rng.normal(.7, .05, 5)
        pred = np.where(rng.random(600)<strength[fold], targs, 1-targs)
        o = score_intervals(pred[None,None,None], targs, ['balanced_acc'], fold).iloc[0]
        held += o.low<=.7<=o.high
    assert held/200>.95-3*np.sqrt(.95*.05/200)
