"""docs/study.md: its statistics against independent ones, and its results against the scores that are kept."""
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import root
from scipy import stats

sys.path.append(str(root/'docs'))
import study


@pytest.fixture
def scores():
    "Invented scores of all runs, without a difference but for one method"
    rng = np.random.default_rng(0)
    df = pd.DataFrame([dict(data=d, method=m, seed=s, point=p) for d in study.data_sets for m in study.methods
                       for s in study.seeds for p in study.points])
    for k in study.scores: df[k] = rng.normal(.7, .02, len(df))+.03*(df.method==study.whole)
    return df

def test_one_data_set_is_a_paired_t_test(scores):
    df = scores[scores.data==next(iter(study.data_sets))]
    at = df[df.point=='train prevalence'].set_index(['method','seed']).mcc*100
    expected = stats.ttest_rel(at['crt'], at['sqrt'])
    mean,low,high,p = study.difference(df, 'crt', 'sqrt', *study.primary)
    assert mean==pytest.approx((at['crt']-at['sqrt']).mean()) and p==pytest.approx(expected.pvalue)
    assert (low,high)==pytest.approx([*expected.confidence_interval(.95)])

def test_data_sets_are_strata(scores):
    "Least squares with a constant for each data set"
    at = scores[scores.point=='balanced prior'].set_index(['data','seed','method']).balanced_accuracy.unstack()*100
    d = (at['crt']-at['sqrt']).reset_index(name='d')
    X = pd.get_dummies(d.data).to_numpy(float)
    coefs,rss,*_ = np.linalg.lstsq(X, d.d, rcond=None)
    df = len(d)-X.shape[1]
    w = np.full(4, 1/4)
    se = np.sqrt(rss[0]/df * w@np.linalg.inv(X.T@X)@w)
    mean,low,high,p = study.difference(scores, 'crt', 'sqrt', *study.second)
    assert df==28 and mean==pytest.approx(w@coefs) and p==pytest.approx(2*stats.t.sf(abs(mean)/se, df))
    assert (low,high)==pytest.approx((mean-stats.t.ppf(.975, df)*se, mean+stats.t.ppf(.975, df)*se))

def test_holm_is_the_closed_test_of_bonferroni():
    p = np.random.default_rng(1).uniform(0, .2, 6)
    sets = [o for n in range(1, 7) for o in combinations(range(6), n)]
    expected = [max(min(1, len(o)*p[[*o]].min()) for o in sets if i in o) for i in range(6)]
    np.testing.assert_allclose(study.holm(p), expected)

def test_success_is_what_the_plan_says(scores):
    assert all(study.success(scores))
    rows = scores.method==study.whole
    at = rows & (scores.point=='balanced prior')
    scores.loc[at,'balanced_accuracy'] -= .06
    assert study.success(scores)==[True,False,True]
    scores.loc[rows & scores.data.isin([*study.data_sets][:2]),'mcc'] -= .06
    assert study.success(scores)==[False,False,False]

def test_nothing_is_analysed_before_all_runs_are_there(scores, tmp_path, monkeypatch):
    monkeypatch.setattr(study, 'kept', tmp_path/'study.csv')
    scores.to_csv(study.kept, index=False)
    assert len(study.read())==len(scores)
    scores[(scores.seed!=107) | (scores.method!='crt')].to_csv(study.kept, index=False)
    with pytest.raises(ValueError, match='320 runs, each with a score, but .* has 316'): study.read()

def test_the_page_shows_what_is_kept():
    plan,_,results = study.page.read_text().partition(study.mark)
    assert all(f'`{o}`' in plan for o in study.methods) and '320 runs' in plan
    try: df = study.read()
    except (ValueError,FileNotFoundError): assert results.strip().endswith('Not all runs are there yet.')
    else: assert results.strip()==study.results(df).strip()
