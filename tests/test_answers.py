"""The notebook shows the tables. Here predictive values are counted by scikit-learn, and intervals meet simulation."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fastai_balmix.metrics import OperatingPoint
from fastai_balmix.metrics.intervals import share_intervals
from fastai_balmix.metrics.scores import wilson
from fastai_balmix.report.answers import against_rest, auroc_interval, network_answers, recall_change
from fastai_balmix.report.kept import keep_answers


def close(a, b, tol=1e-9): np.testing.assert_allclose(a, b, rtol=tol, atol=tol)

def test_predictive_values_are_those_of_counting_where_the_group_is_as_frequent_as_stated():
    cm = np.array([[70,8,2],[5,20,5],[1,3,6]]) # 80 of the rest, 40 of the group {1, 2}
    y,p = (np.repeat(o.ravel(), cm.ravel()) for o in np.indices((3,3)))
    for copies in (1,1),(1,10),(3,1): # of each item of the group, and of the rest
        many = np.where(y>0, *copies)
        yy,pp = np.repeat(y, many)>0,np.repeat(p, many)>0
        got = against_rest(cm, [1,2], yy.mean())
        close([got['ppv'][0],got['npv'][0]], [sk.precision_score(yy, pp),sk.precision_score(~yy, ~pp)])
        close([got['sensitivity'][0],got['specificity'][0]], [sk.recall_score(y>0, p>0),sk.recall_score(y==0, p==0)])
        close(got['sensitivity'][1:], stats.binomtest(34, 40).proportion_ci(method='wilson'), 1e-6)
        assert all(a<=v<=b for v,a,b in (got['ppv'],got['npv']))
    assert (got['positives'],got['negatives'])==(40,80)

def test_intervals_of_a_change_hold_it_nineteen_times_in_twenty():
    "Each simulation is a class. Agresti and Min's interval is a little wide for few images, never far too narrow"
    rng,sims = np.random.default_rng(0),4000
    for n,(both,gained,lost) in ((8,(.5,.2,.1)),(30,(.6,.1,.1)),(200,(.7,.12,.05))):
        kind = rng.choice(4, size=(sims,n), p=[both,gained,lost,1-both-gained-lost])
        after,before = np.isin(kind, [0,1]),np.isin(kind, [0,2])
        t = recall_change(after.ravel(), before.ravel(), np.repeat(np.arange(sims), n))
        held = ((t.low<=gained-lost) & (gained-lost<=t.high)).mean()
        # four standard deviations of a share of 4000 below; they need not be narrow
        assert held>.95-4*np.sqrt(.95*.05/sims)-.005 and held<.995
        close(t.change, (after.astype(int)-before).mean(1))

def test_nothing_changed_is_not_certainty():
    t = recall_change([1,1,1]+[1]*300, [1,1,1]+[1]*300, [0]*3+[1]*300)
    assert t.change.tolist()==[0,0] and t.high.iloc[0]>.3 and 0<t.high.iloc[1]<.02
    assert np.isnan(recall_change([1], [1], [0], ['a','b']).change['b'])

def test_area_is_scikit_learn_s_and_its_interval_holds():
    rng,true,held,sims = np.random.default_rng(1),stats.norm.cdf(1/np.sqrt(2)),0,800
    for i in range(sims):
        y = np.repeat([True,False], [25,75])
        s = np.round(y+rng.normal(size=100), 1) if i%10==0 else y+rng.normal(size=100) # some with ties
        a = auroc_interval(s, y)
        if i<20: close(a.value, sk.roc_auc_score(y, s))
        held += a.low<=true<=a.high
    assert abs(held/sims-.95) < 4*np.sqrt(.95*.05/sims)+.01 # an approximation for 25 items

def test_answers_for_the_same_image_do_not_make_it_surer():
    rng = np.random.default_rng(2)
    y = np.repeat([True,False], [20,40])
    s = y+rng.normal(size=60)
    close(auroc_interval(np.tile(s, 5), np.tile(y, 5), np.tile(np.arange(60), 5)), auroc_interval(s, y))
    assert np.isnan(auroc_interval(s, np.ones(60, bool)).value)

@pytest.mark.parametrize('seed', range(5))
def test_the_area_is_that_of_the_curve_whatever_the_runs_of_a_fold(seed):
    "Fold 1 has three runs and fold 2 one: images count once in both"
    rng = np.random.default_rng(seed)
    y = rng.random(400)<.3
    folds = [np.flatnonzero(np.arange(400)%2==f) for f in (0,1)]
    items = np.concatenate([folds[0]]*3+[folds[1]])
    score = rng.normal(size=len(items)) + np.where(np.isin(items, folds[0]), 2., .3)*y[items]
    score = score.round(1) # ties
    weight = 1/np.bincount(items)[items]
    got = auroc_interval(score, y[items], items)
    close(got.value, sk.roc_auc_score(y[items], score, sample_weight=weight), 1e-12)
    assert abs(got.value-sk.roc_auc_score(y[items], score))>.01 and got.low<got.value<got.high
    # as the report prints and draws it
    p = 1/(1+np.exp(-score))
    probs = np.stack([1-p,p], 1)
    cuts = np.cumsum([0,200,200,200,200])
    runs = [dict(targs=y[items[a:b]].astype(int), paths=items[a:b].astype(str), groups=None, shares=np.array([.7,.3]),
                 probs={OperatingPoint.TRAINED: probs[a:b]}) for a,b in pairwise(cuts)]
    said = network_answers('n', [keep_answers(o, 2, [1]) for o in runs], ['no','yes'], group=[1])['detection']
    close(said['auroc'][0], got.value, 1e-12)
    close(sk.auc(said['roc']['fpr'], said['roc']['tpr']), got.value, 2e-4)

def test_areas_are_weighted_as_the_curve_is_where_images_have_unlike_numbers_of_answers():
    rng = np.random.default_rng(3)
    items = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    y = items<20
    s = y+rng.normal(size=len(items))
    weight = 1/np.bincount(items)[items]
    close(auroc_interval(s, y, items).value, sk.roc_auc_score(y, s, sample_weight=weight))

def alike(rng, n_groups, size, p):
    "Right answers for images of which all of a group are answered alike"
    return np.repeat(rng.random(n_groups)<p, size)

def test_intervals_of_shares_count_patients():
    rng,held,of_images,sims = np.random.default_rng(4),0,0,1500
    groups = np.arange(60*5)//5
    for _ in range(sims):
        parts = [(alike(rng, 60, 5, p)*on, on) for p,on in ((.8,groups<45), (.6,groups>=45))]
        low,high = share_intervals(parts, groups)
        held += ((low<=[.8,.6]) & (high>=[.8,.6])).mean()
        low,high = wilson([h.sum() for h,_ in parts], [o.sum() for _,o in parts])
        of_images += ((low<=[.8,.6]) & (high>=[.8,.6])).mean()
    # four standard deviations of a share of 1500; few groups may make it a little wide
    assert .95-4*np.sqrt(.95*.05/sims)-.005<held/sims<.99 and of_images/sims<.75

def test_intervals_of_shares_whose_images_are_not_alike_are_nearly_wilson_s():
    rng,held,sims,wider = np.random.default_rng(5),0,1000,[]
    groups = np.arange(200)//2
    for _ in range(sims):
        right = rng.random(200)<.7
        low,high = share_intervals([(right, np.ones(200))], groups)
        held += low[0]<=.7<=high[0]
        a,b = wilson(right.sum(), 200)
        wider.append((high[0]-low[0])/(b-a))
    assert abs(held/sims-.955)<.025 and .99<np.mean(wider)<1.06

def test_a_class_that_was_always_right_learns_from_the_others_how_alike_patients_are():
    rng = np.random.default_rng(6)
    groups = np.arange(400)//4
    rare = groups<6
    def of_rare(right): return share_intervals([(right*~rare, ~rare), (1.*rare, rare)], groups)[0][1]
    assert of_rare(alike(rng, 100, 4, .7))<of_rare(rng.random(400)<.7)-.05
    assert wilson(6, 6)[0]-.15<of_rare(alike(rng, 100, 4, .7))<wilson(24, 24)[0]

def test_areas_of_patients():
    "With several images of a patient the area is known as by one image of each, if they have one score"
    rng = np.random.default_rng(7)
    y = np.repeat([True,False], [20,40])
    s = y+rng.normal(size=60)
    four,groups = np.repeat(s, 4),np.repeat(np.arange(60), 4)
    close(auroc_interval(four, np.repeat(y, 4), groups=groups), auroc_interval(s, y))
    held,sims,true = 0,400,stats.norm.cdf(1/np.sqrt(2))
    for _ in range(sims):
        eyes = np.repeat(rng.normal(size=80), 2)*.8+.6*rng.normal(size=160)
        sick = rng.random(160)<.35 # one eye of a patient may be sick alone
        a = auroc_interval(eyes+sick, sick, groups=np.arange(160)//2)
        held += a.low<=true<=a.high
    assert abs(held/sims-.95)<4*np.sqrt(.95*.05/sims)+.01

def test_changes_of_recall_count_patients():
    y = np.zeros(80, int)
    after,before = np.repeat([1,0,1,1], 20),np.repeat([0,0,1,0], 20)
    by_image = recall_change(after, before, y)
    by_patient = recall_change(after, before, y, groups=np.arange(80)//4)
    close(by_patient.change, by_image.change)
    assert (by_patient.high-by_patient.low).iloc[0]>1.6*(by_image.high-by_image.low).iloc[0]

def test_a_report_counts_patients_wherever_it_shows_an_interval():
    "Four times the same image of each patient is one image of each, to within what 80 patients tell"
    rng = np.random.default_rng(8)
    targs = rng.integers(0, 3, 80)
    probs = rng.dirichlet(np.ones(3), 80)*.6+.4*np.eye(3)[np.where(rng.random(80)<.6, targs, (targs+1)%3)]
    def run(times, groups):
        many = np.arange(80).repeat(times)
        return dict(targs=targs[many], paths=np.arange(len(many)).astype(str), groups=groups, shares=np.ones(3)/3,
                    probs={'as trained':probs[many]})
    def said(times, groups):
        return network_answers('net', [keep_answers(run(times, groups), 3, [1])], ['a','b','c'], group=[1], at=.3)
    one,four = (said(n, np.arange(80).repeat(n).astype(str)) for n in (1,4))
    naive = said(4, None)
    def widths(net):
        at = net['detection']['points']['as trained']
        shares = [net['detection']['auroc'],*(at[o] for o in ('sensitivity','specificity','ppv','npv'))]
        rows = net['per_class']
        cells = [o[f'{c}_high']-o[f'{c}_low'] for o in rows for c in ('recall','precision','specificity')]
        return np.array([high-low for _,low,high in shares]+cells)
    ratio = widths(four)/widths(one)
    assert (ratio>.85).all() and (ratio<1.15).all(), ratio
    assert (widths(naive)/widths(one)<.65).all()
