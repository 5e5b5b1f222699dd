"""The notebook shows the interval of one list of scores. Here it meets scipy, plain sums, and simulated folds that
correlate."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from scipy import stats
from toys import close, must_be

from fastai_balmix.metrics.differences import corrected_interval

close = partial(close, atol=1e-9, rtol=1e-9)

numbers = st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6)), min_size=2, max_size=10)

def varied(x): assume(max(x)-min(x)>1e-5)

@given(numbers, st.sampled_from([.5,.9,.95,.99]))
def test_without_folds_it_is_scipy_s_t_test(d, level):
    varied(d)
    want = stats.ttest_1samp(d, 0)
    close(corrected_interval(d, level=level), (np.mean(d),*want.confidence_interval(level)))

@given(numbers, st.integers(0, 10), st.sampled_from([.8,.95]))
def test_with_folds_only_the_variance_factor_differs(d, more, level):
    varied(d)
    m,K = len(d),len(d)+more
    mean = sum(d)/m
    var = sum((o-mean)**2 for o in d)/(m-1)
    se = ((1/m + (1/K)/(1-1/K))*var)**.5 # n_test / n_train of a fold
    close(corrected_interval(d, K, level), (mean,*stats.t(m-1, mean, se).interval(level)), atol=1e-7, rtol=1e-7)

def test_what_has_no_spread_has_no_interval():
    assert np.isnan(corrected_interval([.3], 5)[1:]).all()
    for x in [.1+.2,.3],[.7]*5:
        assert np.isnan(corrected_interval(x)[1:]).all()
        close(corrected_interval(x).value, np.mean(x))
    assert np.isnan(corrected_interval([.1,np.nan,.3], 5)).all()

def fold_differences(rng, n, m, K):
    "Of m of K folds: normal, mean 0, variance 1, any two of them with correlation 1/K"
    return rng.multivariate_normal(np.zeros(m), np.full((m,m), 1/K)+np.eye(m)*(1-1/K), size=n)

def rejected(d, K): return sum(o.low>0 or o.high<0 for o in (corrected_interval(x, K) for x in d))

def rejections(n, m, K, seed):
    d = fold_differences(np.random.default_rng(seed), n, m, K)
    # Within what a binomial count does in 99 of 100 cases
    def within(k, p): return stats.binom.ppf(.005, n, p)<=k<=stats.binom.ppf(.995, n, p)
    assert within(rejected(d, K), .05)
    # The uncorrected t is too large by √((1/m + 1/(K-1))·m)
    wrong = 2*stats.t.sf(stats.t.ppf(.975, m-1)/np.sqrt(1 + m/(K-1)), m-1)
    assert wrong>.07 and within(rejected(d, None), wrong)

@pytest.mark.parametrize('m,K', [(5,5), (10,10), (3,5)])
def test_one_false_alarm_in_twenty_where_folds_correlate_and_more_without_correction(m, K):
    rejections(5000, m, K, seed=m)

@pytest.mark.slow
@pytest.mark.parametrize('m,K', [(5,5), (10,10), (3,5), (4,10)])
def test_one_false_alarm_in_twenty_of_many(m, K): rejections(40_000, m, K, seed=K)

def test_intervals_hold_the_mean_nineteen_times_in_twenty():
    d = .3 + .1*fold_differences(np.random.default_rng(1), 4000, 5, 5)
    held = sum(o.low<=.3<=o.high for o in (corrected_interval(x, 5) for x in d))
    assert stats.binom.ppf(.005, 4000, .95)<=held<=stats.binom.ppf(.995, 4000, .95)

REPEATS = 'a list of finite numbers, one for each fold or seed. Got '

@pytest.mark.parametrize('call,words', [
    (lambda: corrected_interval([[1,2]]),
        must_be('corrected_interval', 'x', REPEATS+'an array of shape (1, 2) instead.')),
    (lambda: corrected_interval([]), 'Got an array of shape (0,) instead.'),
    (lambda: corrected_interval([1,np.inf], 5), must_be('corrected_interval', 'x', REPEATS+'inf instead.')),
    (lambda: corrected_interval([1,2], 1), must_be('corrected_interval', 'n_folds',
        'an int in the range [2, inf). Got 1 instead.')),
    (lambda: corrected_interval([1,2,3], 2), must_be('corrected_interval', 'x',
        'at most 2 numbers, one for each fold: seeds are averaged within a fold first. Got 3 numbers instead.')),
    (lambda: corrected_interval([1,2], 5, 1.),
        must_be('corrected_interval', 'level', 'a float in the range [0, 1). Got 1.0 instead.'))])
def test_bad_arguments_are_told_so(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value)
