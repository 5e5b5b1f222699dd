"""The notebook reads one made-up summary. Here every number is counted again by scikit-learn, scipy and plain loops,
differences meet `method_differences` on the stored predictions, and tables are read back from Markdown, LaTeX, HTML and
CSV, with names that try to break them."""

import csv
import io
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from fastai_balmix.compare.paper import longtailcxr_table, paper_table, published
from fastai_balmix.compare.summary import summarise
from fastai_balmix.compare.tables import PrintedTable
from fastai_balmix.compare.verdicts import before_stage, power_sentences, verdict_table
from fastai_balmix.metrics.differences import least_difference, method_differences, score_intervals
from fastai_balmix.metrics.scores import score_registry


def close(a, b, tol=1e-9): np.testing.assert_allclose(a, b, rtol=tol, atol=tol)

# ------------------------------------------------------------------ results

POINTS = 'as trained','train prevalence','balanced prior'
METRICS = 'mcc','balanced_accuracy','macro_f1','geometric_mean','accuracy','quad_kappa','kendall_tau','brier'

def reference(metric, y, probs, weight=None):
    k = probs.shape[1]
    p = probs.argmax(1)
    recalls = [np.average(p[y==c]==c) for c in np.unique(y)]
    if metric=='mcc': return sk.matthews_corrcoef(y, p, sample_weight=weight)
    if metric=='balanced_accuracy': return np.mean(recalls)
    if metric=='macro_f1': return sk.f1_score(y, p, average='macro', sample_weight=weight)
    if metric=='geometric_mean': return np.prod(recalls)**(1/len(recalls))
    if metric=='accuracy': return np.average(y==p, weights=weight)
    if metric=='quad_kappa': return sk.cohen_kappa_score(y, p, labels=range(k), weights='quadratic',
            sample_weight=weight)
    if metric=='kendall_tau': return stats.kendalltau(y, p).statistic
    if metric=='brier': return ((probs-np.eye(k)[y])**2).sum(1).mean()

def score(metric, y, probs):
    "As `reference`, but without scikit-learn's checks, which take most of the time"
    k = probs.shape[1]
    p = probs.argmax(1)
    if metric=='mcc':
        a,b = (np.eye(k)[o]-np.eye(k)[o].mean(0) for o in (y,p))
        return (a*b).sum()/(np.sqrt((a*a).sum()*(b*b).sum()) or 1)
    if metric=='macro_f1': return np.mean([2*((y==c)&(p==c)).sum()/((y==c).sum()+(p==c).sum())
            for c in np.union1d(y, p)])
    return reference(metric, y, probs)

class Made:
    """Results with predictions drawn at random.

    A method is right with a chance of its own, or one for each operating point. Items of each run come in an order of
    their own; groups hold three items each."""
    def __init__(self, skill, folds=(1,2,3), seeds=(0,), archs=('net',), n=40, k=3, groups=True, n_folds=None,
                 external=(), metrics=('mcc','balanced_accuracy','macro_f1'), seed=0, **meta):
        rng,rows,self.kept = np.random.default_rng(seed),[],{}
        parts = ['select','report',*external]
        truth = {(f,p):np.concatenate([np.arange(k), rng.integers(k, size=n-k)]) for f in folds for p in parts}
        for arch,(m,chance),f,s in product(archs, skill.items(), folds, seeds):
            run = f'{m}.{arch}.{f}.{s}'
            for part in parts:
                y,probs = truth[f,part],{}
                right,other,noise = rng.random(n),rng.integers(k, size=n),rng.dirichlet(np.ones(k)*2, n)
                for i,point in enumerate(POINTS):
                    c = chance[i] if isinstance(chance, tuple) else chance
                    probs[point] = (noise*.4 + .6*np.eye(k)[np.where(right<c, y, other)]).astype(np.float32)
                    rows.append(dict(method=m, arch=arch, fold=f, seed=s, part=part, point=point, run=run,
                        **{o:score(o, y, probs[point]) for o in metrics}))
                o = rng.permutation(n)
                names = np.array([f'{f if part in parts[:2] else "x"}/{part}/{i}' for i in range(n)])
                owner = np.array([f'{f}-{i//3}' for i in range(n)])[o] if groups else None
                self.kept[run,part] = dict(paths=names[o], groups=owner, targs=y[o],
                    probs={q:v[o] for q,v in probs.items()})
        self.df = pd.DataFrame(rows)
        if n_folds is None: n_folds = len(folds)*(len(folds)>1)
        self.meta = dict(data='made', vocab=[str(o) for o in range(k)], ordered=False, n_folds=n_folds,
            selection='inner', grouped=True, notes=[], monitor='mcc',
                         prevalence=None, failed=[]) | meta

    def predictions(self, run, part): return self.kept[run,part]

    def where(self, mask):
        res = SimpleNamespace(df=self.df[mask(self.df)], meta=self.meta, predictions=self.predictions)
        return res

    def by_path(self, run, part, point):
        "Truth and probabilities in the order of the paths"
        d = self.kept[run,part]
        o = np.argsort(d['paths'])
        return d['targs'][o],d['probs'][point][o],None if d['groups'] is None else d['groups'][o]

THREE = dict(instance=.6, other=.8, third=.6)

@pytest.fixture(scope='module')
def made(): return Made(THREE, folds=(1,2,3,4), seeds=(0,1), archs=('net','wide'), external=('far',), metrics=METRICS)

@pytest.fixture(scope='module')
def summary(made): return summarise(made, metrics=METRICS)

def of_fold(r, method, point, metric, arch='net', part='report', folds=(1,2,3,4), seeds=(0,1)):
    "Score of each fold, seeds averaged, by scikit-learn from the stored predictions"
    return [np.mean([reference(metric, *r.by_path(f'{method}.{arch}.{f}.{s}', part, point)[:2]) for s in seeds])
        for f in folds]

def test_every_figure_is_scikit_learn_s_on_the_stored_predictions(made, summary):
    t = summary.table.set_index(['arch','method','point'])
    assert len(t)==2*3*3 and (t.runs=='4 folds').all()
    for (arch,method,point),row in t.iterrows():
        for m in METRICS:
            v = of_fold(made, method, point, m, arch)
            close([row[f'{m}_median'],row[f'{m}_mean']], [np.median(v),np.mean(v)], 1e-6)
            ends = (-1,1) if m in ('mcc','quad_kappa','kendall_tau') else (0,1)
            low,high = row[f'{m}_low'],row[f'{m}_high']
            if score_registry[m].func is None: assert np.isnan([low,high]).all()
            else: assert ends[0]<=low<=np.mean(v)<=high<=ends[1]
            assert row[f'{m}_each']==[]

def test_the_interval_of_a_score_is_that_of_its_pooled_answers(made, summary):
    for point in POINTS:
        runs = [[made.by_path(f'other.net.{f}.{s}', 'report', point) for f in (1,2,3,4)] for s in (0,1)]
        pred = np.array([[np.concatenate([p.argmax(1) for _,p,_ in folds]) for folds in runs]])
        targs,groups = (np.concatenate([o[i] for o in runs[0]]) for i in (0,2))
        o = score_intervals(pred[:,:,None], targs, ['mcc'], np.repeat(range(4), 40), groups).iloc[0]
        t = summary.table.query('arch=="net" and method=="other" and point==@point').iloc[0]
        close([t.mcc_low,t.mcc_high], [t.mcc_mean-(o.value-o.low),t.mcc_mean+(o.high-o.value)], 1e-7)

@pytest.mark.parametrize('folds', [(1,2),(1,2,3)])
def test_of_two_or_three_folds_the_values_are_shown_and_no_interval_leaves_its_range(folds):
    r = Made(dict(instance=.97, other=.99), folds=folds, n=30)
    s = summarise(r)
    for row in s.table.itertuples():
        for m in s.metrics:
            v = of_fold(r, row.method, row.point, m, folds=folds, seeds=(0,))
            close(getattr(row, f'{m}_each'), v, 1e-6)
            assert np.isfinite(getattr(row, f'{m}_low')) and getattr(row, f'{m}_high')<=1
    each = ', '.join(f'{100*o:.2f}' for o in s.table.mcc_each[0])
    assert f'); {each}' in s.to_markdown()
    for row in s.differences.itertuples():
        a,b = (of_fold(r, o, row.point, row.metric, folds=folds, seeds=(0,)) for o in ('instance',row.method))
        close(row.each, np.subtract(b, a), 1e-6)

def judged(r, method, metrics, arch='net', part='report', folds=(1,2,3,4), seeds=(0,1), baseline='instance',
           prevalence=None, **kwargs):
    "`method_differences` on the stored predictions, by (point, metric)"
    def answers(m, s, point): return [r.by_path(f'{m}.{arch}.{f}.{s}', part, point) for f in folds]
    def classes(*run): return np.concatenate([p.argmax(1) for _,p,_ in answers(*run)])
    pred = np.array([[[classes(m, s, q) for q in POINTS] for s in seeds] for m in (baseline,method)])
    targs,_,groups = zip(*answers(baseline, seeds[0], POINTS[0]))
    fold = np.repeat(folds, [len(o) for o in targs])
    groups = None if groups[0] is None else np.concatenate(groups)
    got = method_differences(pred, np.concatenate(targs), metrics, fold, groups, **kwargs)
    return {(POINTS[o['point']],o['score']): o for o in got.to_dict('records')}

COLUMNS = 'diff','low','high','p','images','phi','mdd50','mdd80','q'

def test_differences_are_those_of_the_pooled_answers(made, summary):
    d = summary.differences
    assert len(d)==2*2*3*len(METRICS) and (d.kind=='folds').all() and (d.n==4).all() and 'instance' not in set(d.method)
    of_matrices = [m for m in METRICS if m!='brier']
    for (arch,method),rows in d.groupby(['arch','method']):
        want = judged(made, method, of_matrices, arch, primary=('mcc',1), n_methods=2)
        for o in rows.itertuples():
            if o.metric=='brier': continue
            for column in COLUMNS: close(getattr(o, column), want[o.point,o.metric][column], 1e-7)
        y,a,_ = pooled(made, method, 'as trained', arch)
        _,b,_ = pooled(made, 'instance', 'as trained', arch)
        got = rows[(rows.point=='as trained') & (rows.metric=='mcc')]['diff'].iloc[0]
        close(got, reference('mcc', y, a)-reference('mcc', y, b), 1e-7)

def test_scores_of_probabilities_are_not_judged(made, summary):
    d = summary.differences[summary.differences.metric=='brier']
    for o in d.itertuples():
        method,base = (of_fold(made, m, o.point, 'brier', o.arch) for m in (o.method,'instance'))
        close(o.diff, np.mean(np.subtract(method, base)), 1e-6)
    assert d[['low','high','p','q','mdd80']].isna().all(axis=None) and set(d.shown)=={''}
    assert set(summary.verdicts[summary.verdicts.metric=='brier'].verdict)=={'not judged'}

def pooled(r, method, point, arch='net', part='report', folds=(1,2,3,4), seeds=(0,1)):
    got = [r.by_path(f'{method}.{arch}.{f}.{s}', part, point) for f in folds for s in seeds]
    return [np.concatenate(o) if o[0] is not None else None for o in zip(*got)]

def test_shown_is_where_q_is_small(summary):
    for o in summary.differences.itertuples():
        direction = 'better' if o.diff>0 else 'worse'
        assert o.shown==(direction if o.q<=.05 else '')
    assert {'better',''}<=set(summary.differences.shown)
    assert set(summary.differences[summary.differences.method=='third'].shown)<={''}

def test_architectures_are_compared_each_by_itself(made, summary):
    for arch in 'net','wide':
        alone = summarise(made.where(lambda d: d.arch==arch), metrics=METRICS)
        for nm in 'table','differences':
            want = getattr(summary, nm).query('arch==@arch').reset_index(drop=True)
            pd.testing.assert_frame_equal(getattr(alone, nm), want)
    assert all(o.startswith(('net, ','wide, ')) for o in summary.sentences)
    assert alone.sentences[0].startswith('other against')

@pytest.mark.parametrize('groups', [True,False])
def test_images_of_a_patient_and_all_seeds_of_an_image_are_one(groups):
    r = Made(dict(instance=.3, other=.8), folds=(1,2), seeds=(0,1,2), groups=groups, metrics=['mcc','accuracy'])
    d = summarise(r, metrics=['mcc','accuracy']).differences
    want = judged(r, 'other', ['mcc','accuracy'], folds=(1,2), seeds=(0,1,2))
    for o in d.itertuples(): close([o.images,o.q], [want[o.point,o.metric][c] for c in ('images','q')], 1e-7)

def test_the_same_seed_thrice_is_no_further_image():
    one = Made(dict(instance=.5, other=.7), seeds=(0,))
    thrice = SimpleNamespace(df=pd.concat([one.df.assign(seed=s) for s in range(3)]), meta=one.meta,
        predictions=one.predictions)
    a,b = (summarise(o, metrics='mcc').differences for o in (one,thrice))
    for column in 'diff','images': close(a[column], b[column])

def test_order_of_rows_items_and_runs_does_not_matter(made, summary):
    rng = np.random.default_rng(3)
    kept = {}
    for key,d in made.kept.items():
        o = rng.permutation(len(d['targs']))
        kept[key] = {k: {q:p[o] for q,p in v.items()} if k=='probs' else v[o] for k,v in d.items()}
    df = made.df.sample(frac=1, random_state=0)
    got = summarise(SimpleNamespace(df=df, meta=made.meta, predictions=lambda *a: kept[a]), metrics=METRICS)
    by = ['arch','method','point']
    for nm,keys in ('table',by),('differences',by+['metric']):
        a,b = (getattr(o, nm).sort_values(keys).reset_index(drop=True) for o in (got,summary))
        pd.testing.assert_frame_equal(a, b)

# ------------------------------------------------------------------ what was repeated

def test_seeds_on_one_split():
    r = Made(dict(instance=.5, other=.7), folds=(0,), seeds=(0,1,2,3), n_folds=0)
    s = summarise(r)
    want = judged(r, 'other', s.metrics, folds=(0,), seeds=(0,1,2,3))
    for o in s.differences.itertuples():
        for column in COLUMNS: close(getattr(o, column), want[o.point,o.metric][column], 1e-7)
        assert (o.kind,o.n)==('seed variation only',4)
    assert (s.table.runs=='4 seeds').all() and 'seed variation only' in s.sentences[0]
    assert any('seed variation only' in o for o in s.notes)

def test_seeds_of_a_single_fold_are_seeds():
    s = summarise(Made(dict(instance=.5, other=.7), folds=(2,), seeds=(0,1,2), n_folds=5))
    assert set(s.differences.kind)=={'seed variation only'} and set(s.differences.n)=={3}
    assert 'net: 1 of 5 folds were run.' in s.notes

def test_one_run_each_concludes_nothing_about_methods():
    r = Made(dict(instance=.3, other=.95), folds=(0,), n_folds=0, n=150, metrics=['mcc','brier'])
    s = summarise(r, metrics=['mcc','brier'])
    d = s.differences[s.differences.metric=='mcc']
    want = judged(r, 'other', ['mcc'], folds=(0,), seeds=(0,))
    for o in d.itertuples(): close([o.diff,o.low,o.high], [want[o.point,'mcc'][c] for c in ('diff','low','high')])
    assert set(d.kind)=={'one run'} and set(d.n)=={1} and d[['p','q','phi','mdd50','mdd80']].isna().all(axis=None)
    assert set(s.differences.shown)=={''} and set(s.verdicts.verdict)=={'one run each'}
    for o in s.sentences: assert o.endswith('One run each: nothing can be concluded about methods.')
    for word in 'better by','worse by','learned','threshold': assert word not in ' '.join(s.sentences)
    assert any(o.startswith('One run each: nothing can be concluded about methods.') for o in s.notes)
    assert s.table[['mcc_low','mcc_high']].isna().all(axis=None)
    assert (s.table.mcc_median==s.table.mcc_mean).all() and (s.table.runs=='one run').all()

@pytest.mark.parametrize('who', ['instance','other'])
def test_a_network_that_answered_one_class_to_everything_has_learned_nothing(who):
    r = Made(THREE, folds=(1,2,3,4), n=150)
    assert 'better' in set(summarise(r).differences.shown)
    for part in 'select','report':
        probs = r.kept[f'{who}.net.2.0',part]['probs']
        for q in probs: probs[q] = np.eye(3)[np.zeros(150, dtype=int)]
    s = summarise(r)
    title = dict(instance='Plain sampling').get(who, who)
    words = f'Networks that answered one class to everything: {title}, net, fold 2, seed 0. '
    assert s.notes[0].startswith(words)
    for text in s.to_markdown(),s.to_latex(): assert text.startswith(words)
    assert s._repr_html_().startswith(f'<p><b>{words}')
    barred = s.verdicts if who=='instance' else s.verdicts[s.verdicts.method=='other']
    assert set(barred.verdict)=={'no claim'} and barred.sentence.str.endswith(
        'No claim: some of these networks answered one class to everything.').all()
    assert set(s.differences[s.differences.method.isin(barred.method)].shown)=={''}
    if who=='other': assert set(s.verdicts[s.verdicts.method=='third'].verdict)=={'not shown'}
    # where there is but one class, one answer is right
    one = Made(dict(instance=1., other=1.), k=1, metrics=['accuracy'])
    assert summarise(one, metrics='accuracy').first==[]

def test_folds_that_share_images_are_not_judged():
    r = Made(dict(instance=.3, other=.95), n=150)
    for m in 'instance','other':
        for f in 1,2,3:
            d = r.kept[f'{m}.net.{f}.0','select']
            d['paths'] = np.where(np.char.endswith(d['paths'], '/7'), 'shared', d['paths'])
            d['groups'] = None
    s = summarise(r, part='select')
    assert set(s.differences.shown)=={''} and set(s.verdicts.verdict)=={'no claim'}
    assert all(o.endswith('No claim: folds share some of these images.') for o in s.sentences)

def test_of_an_error_less_is_better():
    s = summarise(Made(dict(instance=.2, other=.95), folds=(1,2,3,4), n=100, metrics=['brier']), metrics='brier')
    assert (s.differences['diff']<0).all() and set(s.verdicts.verdict)=={'not judged'}
    known = differences(['better']).assign(metric='brier')
    assert 'better by 10.00 points' in verdict_table(known, 'instance', 5).sentence[0]

def test_some_of_the_folds():
    r = Made(THREE, folds=(1,2,4), n_folds=10)
    s = summarise(r, metrics='mcc')
    o = s.differences.iloc[0]
    close(o.p, judged(r, o.method, ['mcc'], folds=(1,2,4), seeds=(0,))[o.point,'mcc']['p'], 1e-7)
    assert 'net: 3 of 10 folds were run.' in s.notes and '(3 of 10 folds)' in s.sentences[0]
    assert (s.table.runs=='3 of 10 folds').all()
    assert '3 of 10 folds' in s.tables()[3].cells['compared on'].tolist()

def test_missing_runs_are_missing_on_both_sides(made):
    def gone(d):
        other = (d.method=='other') & (d.fold==2) & (d.seed==1)
        return ~(other | (d.method=='instance') & (d.fold==3) | (d.arch=='wide'))
    r = made.where(gone)
    r.meta = made.meta|dict(failed=[dict(method='other', arch='net', fold=2, seed=1,
        error='RuntimeError: out\nof memory')])
    s = summarise(r, metrics='mcc')
    d = s.differences.query("method=='other'")
    assert set(d.n)=={3}
    # each fold counts with as many seeds, which is one
    want = judged(made, 'other', ['mcc'], folds=(1,2,4), seeds=(0,), n_methods=2)
    for o in d.itertuples():
        for c in COLUMNS: close(getattr(o, c), want[o.point,'mcc'][c], 1e-7)
    uneven = 'compared without fold 1, seed 1; fold 4, seed 1, as every fold counts with as many seeds.'
    assert f'net, other: {uneven}' in s.notes
    assert 'net, other: without fold 2, seed 1. Methods are compared on what both have.' in s.notes
    lost = 'without fold 3, seed 0; fold 3, seed 1. Methods are compared on what both have.'
    assert f'net, Plain sampling: {lost}' in s.notes
    assert 'Failed: other, net, fold 2, seed 1: RuntimeError: out of memory' in s.notes
    assert not any('third' in o for o in s.notes)
    # scores are of all runs a method has
    t = s.table.query("method=='other' and point=='as trained'").iloc[0]
    v = of_fold(made, 'other', 'as trained', 'mcc')
    v[1] = reference('mcc', *made.by_path('other.net.2.0', 'report', 'as trained')[:2])
    close(t.mcc_mean, np.mean(v), 1e-6)

def test_nothing_in_common_and_nothing_to_compare_with():
    r = Made(THREE, folds=(1,2,3,4), archs=('net','wide'))
    def kept(d):
        other,baseline = d.method=='other',d.method=='instance'
        return (~other | (d.fold>2)) & (~baseline | (d.fold<=2)) & ((d.arch=='net') | ~baseline)
    s = summarise(r.where(kept), metrics='mcc')
    assert set(s.differences.method)=={'third'} and set(s.differences.arch)=={'net'}
    assert 'net, other: no run in common with plain sampling, so it is not compared.' in s.notes
    assert 'wide: without plain sampling, so nothing is compared.' in s.notes
    assert 'net, third: no run' not in ' '.join(s.notes)
    alone = summarise(r.where(lambda d: d.method=='instance'))
    assert alone.sentences==[] and len(alone.differences)==0 and len(alone.tables())==6
    assert 'q' in alone.differences
    for o in alone.to_markdown(),alone.to_latex(),alone._repr_html_(): assert 'Plain sampling' in o
    assert 'instance' in alone.to_csv()

def test_many_missing_runs_are_counted():
    r = Made(dict(instance=.5, other=.7), seeds=range(4))
    s = summarise(r.where(lambda d: (d.method=='instance') | (d.fold==1)), metrics='mcc')
    assert any(o.endswith('and 2 more. Methods are compared on what both have.') for o in s.notes)
    assert set(s.differences.kind)=={'seed variation only'}

def test_an_undefined_score_makes_its_fold_undefined():
    r = Made(dict(instance=.5, other=.9), seeds=(0,1))
    df = r.df.copy()
    df.loc[(df.method=='other') & (df.fold==2) & (df.seed==1) & (df.point=='as trained'),'mcc'] = np.nan
    r.df = df
    s = summarise(r, metrics='mcc')
    o = s.differences.set_index('point').loc['as trained']
    assert np.isnan([o['diff'],o.low,o.p,o.q]).all() and o.shown=='' and o.n==3
    assert re.search('as trained (no difference shown, )?–[;.]', s.sentences[0])
    of_other = s.table.query("method=='other' and point=='as trained'")
    assert of_other[['mcc_mean','mcc_median','mcc_low']].isna().all(axis=None)
    assert '–' in s.tables()[0].cells.to_numpy()

def test_parts_other_than_the_reported_one(made):
    for part in 'select','far':
        s = summarise(made, metrics=['mcc'], part=part)
        o = s.differences.query("arch=='net' and method=='other' and point=='as trained'").iloc[0]
        y,a,_ = pooled(made, 'other', 'as trained', part=part)
        _,b,_ = pooled(made, 'instance', 'as trained', part=part)
        close(o['diff'], reference('mcc', y, a)-reference('mcc', y, b), 1e-7)
        assert part in s.tables()[0].caption
    assert any('same images of far' in o for o in s.notes)
    assert any('chosen on: scores are too high' in o for o in summarise(made, metrics='mcc', part='select').notes)

@pytest.mark.parametrize('groups', [True,False])
def test_networks_of_all_folds_are_seeds_on_an_external_set(groups):
    r = Made(dict(instance=.3, other=.8), folds=(1,2), external=('far',), groups=groups, metrics=['accuracy'])
    truth = r.by_path('instance.net.1.0', 'far', POINTS[0])[0]
    for (_,part),d in r.kept.items():
        if part!='far': continue
        d['targs'] = truth[np.argsort(np.argsort(d['paths']))]
        if groups: d['groups'] = np.array([f"x{int(o.split('/')[-1])//3}" for o in d['paths']])
    got = summarise(r, metrics='accuracy', part='far').differences
    at = [[[r.by_path(f'{m}.net.{f}.0', 'far', q) for q in POINTS] for f in (1,2)] for m in ('instance','other')]
    pred = np.array([[[p.argmax(1) for _,p,_ in of_seed] for of_seed in of_method] for of_method in at])
    want = method_differences(pred, truth, ['accuracy'], groups=at[0][0][0][2], primary=None)
    for c in COLUMNS: close(got[c], want[c], 1e-7)

@pytest.mark.parametrize('part', ['report','select'])
def test_scores_are_read_at_the_prevalence_that_is_stated(part):
    share = np.array([.7,.25,.05])
    metrics = ['mcc','accuracy','quad_kappa']
    r = Made(dict(instance=.4, other=.7), prevalence=share.tolist(), metrics=metrics)
    s = summarise(r, metrics=metrics, part=part)
    for o in s.differences.itertuples():
        y,a,_ = pooled(r, 'other', o.point, part=part, folds=(1,2,3), seeds=(0,))
        _,b,_ = pooled(r, 'instance', o.point, part=part, folds=(1,2,3), seeds=(0,))
        w = (share/np.bincount(y))[y] if part=='report' else None
        close(o.diff, reference(o.metric, y, a, w)-reference(o.metric, y, b, w), 1e-7)
    assert any('class shares of the training images' in o for o in s.caveats)==(part=='report')

def test_classes_that_no_image_has_are_left_out_of_the_prevalence():
    r = Made(dict(instance=.4, other=.7), n_folds=3, metrics=['accuracy'])
    r.meta = r.meta|dict(vocab=list('0123'), prevalence=[.4,.2,.2,.2])
    for d in r.kept.values(): d['probs'] = {q:np.pad(p, [(0,0),(0,1)]) for q,p in d['probs'].items()}
    o = summarise(r, metrics='accuracy').differences.iloc[0]
    y,a,_ = pooled(r, 'other', o.point, folds=(1,2,3), seeds=(0,))
    _,b,_ = pooled(r, 'instance', o.point, folds=(1,2,3), seeds=(0,))
    w = (np.array([.5,.25,.25])/np.bincount(y))[y]
    close(o['diff'], np.average(a.argmax(1)==y, weights=w)-np.average(b.argmax(1)==y, weights=w))

# ------------------------------------------------------------------ α that was chosen

MIX = {'instance':.6, 'balmix_0.1':.6, 'balmix_0.2':.62, 'balmix_0.3':.61, 'balmix_9':.99}

def test_alpha_is_chosen_on_the_selection_split_of_each_fold_and_seed():
    for monitor in 'mcc','brier':
        r = Made(MIX, folds=(1,2), seeds=(0,1), archs=('net','wide'), external=('far',)*(monitor=='brier'),
            monitor=monitor, metrics=['mcc','brier','macro_f1'])
        for part in ['report']+['far']*(monitor=='brier'):
            t = summarise(r, metrics='macro_f1', part=part).table
            t = t[t.method=='balmix_chosen'].set_index(['arch','point'])
            assert len(t)==6
            used = set()
            for (arch,point),row in t.iterrows():
                v = []
                for f in 1,2:
                    of_seed = []
                    for s in 0,1:
                        def selected(m): return reference(monitor,
                                *r.by_path(f'{m}.{arch}.{f}.{s}', 'select', 'as trained')[:2])
                        best = (min if monitor=='brier' else max)(['balmix_0.1','balmix_0.2','balmix_0.3'],
                            key=selected)
                        used.add(best)
                        of_seed.append(reference('macro_f1', *r.by_path(f'{best}.{arch}.{f}.{s}', part, point)[:2]))
                    v.append(np.mean(of_seed))
                close([row.macro_f1_mean,row.macro_f1_median], [np.mean(v),np.median(v)], 1e-6)
            assert used=={'balmix_0.1','balmix_0.2','balmix_0.3'}

def test_the_chosen_one_is_compared_as_any_other():
    r = Made(MIX)
    s = summarise(r, metrics='mcc')
    assert s.differences.method.drop_duplicates().tolist()==['balmix_0.1','balmix_0.2','balmix_0.3','balmix_chosen',
        'balmix_9']
    first = s.differences[s.differences.point=='train prevalence']
    close(first.q, np.minimum(1, 2*5*first.p))
    assert any(o.startswith('Balanced-MixUp, α chosen') and 'the selection split' in o for o in s.notes)
    assert 'balmix_chosen' not in set(r.df.method)

def test_ties_go_to_the_smaller_alpha_and_undefined_scores_lose():
    r = Made({'instance':.5, 'balmix_0.3':.5, 'balmix_0.1':.5}, metrics=['mcc','brier','macro_f1'])
    sel = (r.df.part=='select') & (r.df.point=='as trained')
    r.df.loc[sel & (r.df.fold<3),'mcc'] = .5
    r.df.loc[sel & (r.df.fold==3) & (r.df.method=='balmix_0.1'),'mcc'] = np.nan
    # other operating points must not decide
    r.df.loc[(r.df.part=='select') & (r.df.point!='as trained') & (r.df.method=='balmix_0.3'),'mcc'] = 1
    t = summarise(r, metrics='macro_f1').table.query("method=='balmix_chosen' and point=='as trained'").iloc[0]
    want = [reference('macro_f1', *r.by_path(f'{m}.net.{f}.0', 'report', 'as trained')[:2])
        for f,m in ((1,'balmix_0.1'),(2,'balmix_0.1'),(3,'balmix_0.3'))]
    close(t.macro_f1_mean, np.mean(want), 1e-6)
    r.meta['monitor'] = 'brier'
    r.df.loc[sel,'brier'] = .5
    r.df.loc[sel & (r.df.fold==3) & (r.df.method=='balmix_0.1'),'brier'] = np.nan
    t = summarise(r, metrics='macro_f1').table.query("method=='balmix_chosen' and point=='as trained'")
    close(t.macro_f1_mean.iloc[0], np.mean(want), 1e-6)

def test_where_there_is_a_choice():
    r = Made(MIX, folds=(1,2,3))
    def chosen(o, **kw): return summarise(o, metrics='mcc', **kw).table.query("method=='balmix_chosen'")
    assert len(chosen(r.where(lambda d: d.method.isin(['instance','balmix_0.2']))))==0
    # of a fold where one α has not run there is no choice among all
    assert set(chosen(r.where(lambda d: (d.method!='balmix_0.2') | (d.fold!=2))).runs)=={'2 of 3 folds'}
    only = lambda d: d.part=='report'
    assert len(chosen(r.where(only)))==0
    r.meta['selection'] = 'reported-fold'
    s = summarise(r.where(only), metrics='mcc')
    want = [max(reference('mcc', *r.by_path(f'balmix_0.{i}.net.{f}.0', 'report', 'as trained')[:2])
        for i in (1,2,3)) for f in (1,2,3)]
    close(s.table.query("method=='balmix_chosen' and point=='as trained'").mcc_mean, [np.mean(want)], 1e-6)
    assert any(o.startswith('Balanced-MixUp, α chosen') and 'too good' in o for o in s.notes)

# ------------------------------------------------------------------ words

def differences(shown, q=.01, mdd80=.0412, kind='folds'):
    "Made-up differences of one method; `shown` by operating point, None where the difference is unknown"
    qs = [np.nan if o is None else q for o in shown]
    return pd.DataFrame(dict(arch='net', method='other', metric='mcc', point=POINTS[:len(shown)], diff=.1, q=qs,
                             shown=[o or '' for o in shown], kind=kind, n=5, mdd80=mdd80))

def verdict(*args, **kwargs): return verdict_table(differences(*args, **kwargs), 'instance', 5).iloc[0]

@pytest.mark.parametrize('shown,word,said', [
    (['','',''], 'not shown', 'MCC (5 folds): no difference shown, as trained +10.00'),
    ([None]*3, 'not shown', 'no difference shown'),
    (['better']*3, 'learned', 'it remains at the training prevalence and under the balanced prior.'),
    (['worse']*3, 'learned', 'it remains at the training prevalence and under the balanced prior.'),
    (['better','better',''], 'learned',
        'it remains at the training prevalence, but none is shown under the balanced prior.'),
    (['worse','','worse'], 'learned',
        'it remains under the balanced prior, but none is shown at the training prevalence.'),
    (['','better',''], 'learned',
        'it is shown at the training prevalence, but not under the balanced prior, and not as trained.'),
    (['better','',''], 'not told apart', 'these runs cannot tell a threshold effect from better learning.'),
    (['better','worse',''], 'depends on the operating point', 'Which of the two is better depends'),
    (['better','worse','better'], 'depends on the operating point', 'Which of the two'),
    (['','worse','better'], 'depends on the operating point', 'Which of the two'),
    (['better',None,None], 'not told apart', 'It was not measured at equal operating points')])
def test_verdicts(shown, word, said):
    got = verdict(shown)
    assert got.verdict==word and said in got.sentence

def test_an_undefined_point_is_no_point_where_nothing_shows():
    "A gain as trained that could not be tested later must not be called one of operating point"
    r = Made(dict(instance=.3, other=.95), n=150)
    r.df.loc[r.df.point!='as trained','mcc'] = np.nan
    o = summarise(r, metrics='mcc').verdicts.iloc[0]
    assert o.verdict=='not told apart' and 'not measured' in o.sentence

@pytest.mark.parametrize('q,words', [
    (1e-5,', q < 0.001'), (.00099,', q < 0.001'), (.001,', q = 0.001'), (.0049,', q = 0.005'), (.0499,', q = 0.050'),
        (.2,', q = 0.20'),
    (1,', q = 1.00'), (np.nan,'')])
def test_q_in_words(q, words): assert f'as trained +10.00{words}. ' in verdict([''], q=q).sentence

@pytest.mark.parametrize('mdd80,points', [
    (.0412,'5 points'), (.05,'5 points'), (.02,'2 points'), (.0191,'2 points'), (.0114,'1.2 points'), (.01,'1 point'),
    (.003,'0.3 points'), ([.02,.0512,.03],'6 points')])
def test_what_would_have_been_found_is_said_where_nothing_is_shown(mdd80, points):
    found = f'A difference of {points} or more would probably have been found.'
    assert verdict(['']*3, mdd80=mdd80).sentence.endswith(found)
    assert 'probably' not in verdict(['better']*3, mdd80=mdd80).sentence
    assert 'probably' not in verdict([None]*3, mdd80=np.nan).sentence
    assert verdict(['']*3, mdd80=2.1).sentence.endswith('These runs could hardly have found any difference.')

def test_a_second_seed_is_advised_once_where_folds_have_one():
    advice = 'Where no difference is shown, a second seed per fold would find smaller ones.'
    for seeds,times in ((0,),1),((0,1),0): assert summarise(Made(THREE, seeds=seeds)).notes.count(advice)==times
    for seeds in (0,),(0,1):
        assert advice not in summarise(Made(THREE, folds=(0,), n_folds=0, seeds=seeds)).notes

def test_sentences_say_what_the_numbers_do(summary):
    d = summary.differences
    assert len(summary.sentences)==2*2*len(METRICS) and summary.verdicts.sentence.tolist()==summary.sentences
    for v in summary.verdicts.itertuples():
        g = d[(d.arch==v.arch) & (d.method==v.method) & (d.metric==v.metric)].set_index('point')
        words = dict(zip(POINTS, ('as trained','at the training prevalence','under the balanced prior')))
        for point,o in g.iterrows():
            if v.metric=='brier':
                assert f'{words[point]} {100*o["diff"]:+.2f}' in v.sentence and v.verdict=='not judged'
                continue
            m = re.search(f'{words[point]} ([^;]*), q (=|<) ([0-9.]*[0-9])', v.sentence)
            q = float(m[3])
            if m[2]=='<': assert q==.001 and o.q<.001
            else: assert abs(q-o.q)<=(.0005001 if o.q<.0995 else .005001)
            if o.shown: assert m[1]==f'{o.shown} by {abs(100*o["diff"]):.2f} points'
            else: assert m[1].endswith(f'{100*o["diff"]:+.2f}') and o.shown==''
        if v.metric=='brier': continue
        if not g.shown.any(): assert 'no difference shown' in v.sentence and v.verdict=='not shown'
        else: assert v.verdict in ('learned','not told apart','depends on the operating point')

def simulated(rng, n_folds, n, moved):
    "Two methods of which neither has learned more; with `moved` the second stands elsewhere as trained"
    prior,kept,rows = np.array([.8,.2]),{},[]
    for f in range(1, n_folds+1):
        y = rng.choice(2, n, p=prior)
        y[:2] = 0,1
        easy = rng.normal(size=n)
        for m in 'instance','other':
            z = 2*y-1 + .7*(easy+rng.normal(size=n))
            probs = {}
            for point,shift in zip(POINTS, ((1.2 if moved and m=='other' else -.3),-.3,.3)):
                p = 1/(1+np.exp(-(z+shift)))
                probs[point] = np.stack([1-p,p], 1)
                pred = probs[point].argmax(1)
                rows.append(dict(method=m, arch='net', fold=f, seed=0, part='report', point=point, run=f'{m}{f}',
                                 balanced_accuracy=np.mean([(pred[y==c]==c).mean() for c in (0,1)])))
            kept[f'{m}{f}'] = dict(paths=[f'{f}/{i}' for i in range(n)], groups=None, targs=y, probs=probs)
    meta = dict(data='simulated', vocab=['0','1'], ordered=False, n_folds=n_folds, selection='inner', grouped=True,
        notes=[], monitor='mcc', prevalence=None, failed=[])
    return SimpleNamespace(df=pd.DataFrame(rows), meta=meta, predictions=lambda run, part: kept[run])

def verdicts(n_sim, moved, seed=0):
    rng = np.random.default_rng(seed)
    return [summarise(simulated(rng, 5, 120, moved), metrics='balanced_accuracy').verdicts.verdict[0]
        for _ in range(n_sim)]

@pytest.mark.slow
@pytest.mark.parametrize('moved', [False,True])
def test_methods_that_learned_the_same_are_seldom_told_apart_by_what_they_learned(moved):
    "At two equal operating points at most 5 % each are wrongly shown; four standard deviations of a share of 400"
    got = pd.Series(verdicts(400, moved)).value_counts(normalize=True)
    wrong = got.get('learned', 0)+got.get('depends on the operating point', 0)
    assert wrong <= .1+4*np.sqrt(.1*.9/400)
    if moved: assert got.get('not told apart', 0)>.5
    else: assert got['not shown']>=1-.15-4*np.sqrt(.15*.85/400)

# ------------------------------------------------------------------ what must be said under every table

NOT_LEARNED = 'operating point of its own: a difference here is not yet a difference in what was learned'

def test_every_table_says_how_folds_and_epochs_were_chosen():
    r = Made(THREE, grouped=False, selection='reported-fold', notes=['Ten images were left out.'], archs=('net','wide'))
    s = summarise(r)
    must = (
        'Ten images were left out.', 'Folds are by image: frames of one examination may fall on both sides.',
        'chosen on the very images that are reported')
    assert len(s.tables())==2*6
    for t in s.tables():
        for text in t.to_markdown(),t.to_latex(),t.to_csv(),t._repr_html_(),repr(t):
            for o in must: assert o in text
            assert (NOT_LEARNED in text)==('as trained' in t.caption and 'less that' not in t.caption)
    for row in csv.DictReader(io.StringIO(s.to_csv())):
        for o in must: assert o in row['notes']
    for nm in 'table','differences','verdicts': assert getattr(s, nm).attrs['notes']==s.notes

def test_what_need_not_be_said_is_not():
    for kw in dict(), dict(folds=(0,), n_folds=0, grouped=False): assert summarise(Made(THREE, **kw)).caveats==[]
    twice = 'Folds are by image: frames of one examination may fall on both sides.'
    assert summarise(Made(THREE, grouped=False, notes=[twice])).caveats==[twice]
    s = summarise(Made(THREE))
    assert not any(w in ' '.join(s.notes) for w in ('seed variation','One run','Failed','without','chosen',
        'were run','Nothing is claimed'))
    assert any('q is p with all chances counted' in o for o in s.notes)
    assert any('Brier error' in o and 'Nothing is claimed' in o for o in summarise(Made(THREE, metrics=['mcc','brier']),
        metrics=['mcc','brier']).notes)

def test_no_interval_passes_the_ends_of_a_score():
    ends = dict(mcc=(-1,1), balanced_accuracy=(0,1), macro_f1=(0,1))
    near,good,apart = dict(instance=.4, other=.6),dict(instance=.9, other=.97),dict(instance=.5, other=.9)
    for skills,kw in ((near,dict(folds=(1,2,3,4,5), n=200)), (good,dict(folds=(1,2,3,4), n=24)),
                      (good,dict(folds=(1,2,3), n=24)), (apart,dict(folds=(0,), n_folds=0))):
        s = summarise(Made(skills, **kw))
        for m,(a,b) in ends.items():
            low,high = s.table[f'{m}_low'],s.table[f'{m}_high']
            # one run has no interval
            assert low.notna().all()==high.notna().all()==(len(kw['folds'])>1)
            assert not (low<a).any() and not (high>b).any()
            of_metric = s.differences[s.differences.metric==m]
            assert of_metric[['low','high']].abs().le(b-a).all(axis=None)

# ------------------------------------------------------------------ forms

NASTY = 'a|b_c&<b>x</b>$%{}~^\\[1]*`#_d_'

class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows,self.text,self.on = [],[],None

    def handle_starttag(self, tag, attrs):
        assert tag in ('p','b','small','table','thead','tbody','tr','th','td','ul','li')
        if tag=='tr': self.rows.append([])
        if tag in ('td','th'):
            self.rows[-1].append('')
            self.on = tag

    def handle_endtag(self, tag): self.on = None if tag==self.on else self.on
    def handle_data(self, data):
        if self.on: self.rows[-1][-1] += data
        else: self.text.append(data)

def from_markdown(text):
    lines = [o for o in text.split('\n') if o.startswith('| ')]
    cells = [re.split(r'(?<!\\) \| ', o[2:-2]) for o in lines if not o.startswith('| ---')]
    return [[re.sub(r'\\([\\|*`_~$])', r'\1', c).replace('&lt;', '<').replace('&amp;', '&') for c in r] for r in cells]

def from_latex(text):
    back = {r'\textbackslash{}':'\\', r'\textasciitilde{}':'~', r'\textasciicircum{}':'^', r'\textless{}':'<',
        r'\textgreater{}':'>', r'\textbar{}':'|',
            '{[}':'[', '{]}':']', '$-$':'-', '--':'–', **{f'\\{o}':o for o in '&%$#_{}'}, r'$\kappa$':'κ',
                r'$\alpha$':'α', r'$\tau$':'τ'}
    one = re.compile('|'.join(re.escape(o) for o in sorted(back, key=len, reverse=True)))
    body = text.split(r'\hline')
    rows = [o.strip()[:-2].strip() for part in body[1:3] for o in part.strip().split('\n')]
    return [[one.sub(lambda m: back[m[0]], c).strip() for c in re.split(r'(?<!\\)&', r)] for r in rows]

def test_cells_survive_every_form():
    cells = pd.DataFrame([[NASTY,'-1.50','–'], ['line\nbreak','+0.20 (-0.10 to +0.50)','a & b < c']],
        columns=['method','quad-κ','α & τ'])
    t = PrintedTable(cells, NASTY, [NASTY,'Two.'])
    want = [[' '.join(str(c).split()) for c in r] for r in (cells.columns,*cells.values)]
    assert from_markdown(t.to_markdown())==want and from_latex(t.to_latex())==want
    page = Cells()
    page.feed(t._repr_html_())
    assert page.rows==want and page.text==[NASTY,NASTY,'Two.']
    assert pd.read_csv(io.StringIO(t.to_csv())).drop(columns='notes').equals(cells)
    md = t.to_markdown().split('\n\n')
    assert len(md)==4 and r'\|' in md[0] and md[3]=='Two.' and '<b>' not in t.to_markdown()
    tex = t.to_latex()
    assert tex.count(r'\begin{tabular}{lrr}')==1 and tex.count('\\par ')==2
    assert tex.index('caption')<tex.index('tabular')
    assert not re.search(r'[^\\][%#]', tex) and not re.search('[<>|]', tex)
    assert '{[}a]' in PrintedTable(pd.DataFrame([['[a]','b']], columns=['c','d'])).to_latex().replace('{]}',
        ']') # else an argument of the row before
    bare = PrintedTable(cells)
    assert 'caption' not in bare.to_latex() and bare.to_markdown().startswith('| method')
    assert '<p>' not in bare._repr_html_()

def test_a_summary_in_every_form(tmp_path):
    r = Made({'instance':.5, NASTY:.8}, folds=(1,2,3,4), n=60)
    s = summarise(r)
    assert [len(from_markdown(o.to_markdown())) for o in s.tables()]==[3]*3+[2]*3
    assert len(from_markdown(s.to_markdown()))==15
    assert repr(s)==s.to_markdown() and s.to_latex().count(r'\begin{table}')==6
    assert s.to_latex().count(r'\item ')==len(s.sentences)+len(s.notes)
    assert s.to_markdown().count('\n- ')==len(s.sentences)+len(s.notes)
    page = Cells()
    page.feed(s._repr_html_())
    assert page.rows[2][0]==NASTY and all(o in page.text for o in [*s.sentences,*s.notes])
    # printed numbers are those of the frames, in percent
    first = from_markdown(s.tables()[0].to_markdown())
    row = s.table.iloc[0]
    assert first[0]==['method','runs','MCC: median','mean (95 %)','balanced accuracy: median','mean (95 %)',
        'macro-F1: median','mean (95 %)']
    assert first[1][:4]==['Plain sampling','4 folds',f'{100*row.mcc_median:.2f}',
        f'{100*row.mcc_mean:.2f} ({100*row.mcc_low:.2f} to {100*row.mcc_high:.2f})']
    o,cell = s.differences.iloc[0],s.tables()[3].cells['as trained'][0]
    assert cell.startswith(f'{100*o["diff"]:+.2f} ({100*o.low:+.2f} to {100*o.high:+.2f}), q ')
    assert cell.endswith(f', {o.shown}' if o.shown else cell[-3:])
    differences = [f'{m} less that of plain sampling, in points (95 % interval)'
        for m in ('MCC','balanced accuracy','macro-F1')]
    assert [t.caption.split(': ')[1] for t in s.tables()]==['as trained','at the training prevalence',
        'under the balanced prior',*differences]

def test_csv_holds_every_number(summary, tmp_path):
    assert summary.to_csv(tmp_path/'s.csv') is None and (tmp_path/'s.csv').read_text()==summary.to_csv()
    df = pd.read_csv(tmp_path/'s.csv', keep_default_na=True).set_index(['arch','method','point','metric'])
    assert len(df)==2*3*3*len(METRICS) and (df.notes==' '.join(summary.notes)).all()
    t = summary.table.set_index(['arch','method','point'])
    d = summary.differences.set_index(['arch','method','point','metric'])
    for key,row in df.iterrows():
        close([row['median'],row['mean'],row.low,row.high], [t.loc[key[:3],f'{key[3]}_{o}'] for o in ('median',
            'mean','low','high')])
        if key[1]=='instance': assert np.isnan(row['diff'])
        else: close([row['diff'],row.diff_low,row.diff_high,row.q,row.n],
            [d.loc[key,o] for o in ('diff','low','high','q','n')])

def test_metrics_of_the_paper_are_the_default():
    assert summarise(Made(THREE)).metrics==['mcc','balanced_accuracy','macro_f1']
    assert summarise(Made(THREE, ordered=True, metrics=METRICS)).metrics==['quad_kappa','mcc','kendall_tau']
    assert summarise(Made(THREE, metrics=['accuracy']), metrics='accuracy').metrics==['accuracy']

def test_the_baseline_is_first_the_paper_s_order_follows():
    s = summarise(Made({'zebra':.5, 'balmix_0.1':.5, 'focal':.5, 'instance':.5, 'class':.5, 'ant':.5}),
        baseline='focal', metrics='mcc')
    assert s.table.method[:6].tolist()==['focal','class','instance','balmix_0.1','zebra','ant']
    assert s.baseline=='focal' and 'against focal' in s.sentences[0]
    assert s.table.point.drop_duplicates().tolist()==list(POINTS)

# ------------------------------------------------------------------ the paper's tables

def test_the_figures_that_are_shipped():
    df = published()
    assert df.table.value_counts().to_dict()=={1:48, 3:48, 2:8}
    assert not df.duplicated(['table','data','method','arch','metric']).any()
    assert df.value.between(45, 95).all()
    v = df.set_index(['table','data','method','arch','metric']).value
    for key,x in {(1,'eyepacs_test','class','mobilenetv2','mcc'):49.34,
            (1,'eyepacs_test','balmix_0.2','bit_resnext50_1','quad_kappa'):80.78,
                  (3,'hyper_kvasir_5fold_median','balmix_0.3','mobilenetv2','macro_f1'):64.07,
                  (3,'hyper_kvasir_5fold_median','class_balanced_loss','mobilenetv2','balanced_accuracy'):54.93,
                  (2,'messidor2','balmix_0.2','bit_resnext50_1','quad_kappa'):85.14,
                      (2,'messidor2','cost_sensitive','its own','quad_kappa'):79.79}.items():
        assert v[key]==x
    assert [len(published(o)) for o in (1,2,3)]==[48,8,48] and published(3).index.tolist()==list(range(48))

PAPER = ['Class-sampling','Instance-sampling','Sqrt-sampling','Focal Loss','CB Loss','Bal-Mxp: α = 0.1',
    'Bal-Mxp: α = 0.2','Bal-Mxp: α = 0.3']
BIT = 'resnetv2_50x1_bit.goog_in21k'

@pytest.mark.parametrize('number', [1,3])
def test_tables_1_and_3_have_the_paper_s_shape(number):
    data,metrics,heads = {1:('eyepacs',('quad_kappa','mcc','kendall_tau'),('quad-κ','MCC','Kendall-τ')),
                          3:('hyper_kvasir',('mcc','balanced_accuracy','macro_f1'),('MCC','B-ACC','Macro-F1'))}[number]
    folds,seeds = ((0,),(0,1,2)) if number==1 else ((1,2,3),(0,1))
    skill = {'instance':.7, 'class':(.6,.9,.9), 'balmix_0.2':.8, 'mixup':.9}
    r = Made(skill, folds=folds, seeds=seeds, archs=('mobilenetv2_100',BIT,'resnet18'), data=data,
        ordered=number==1, n_folds=0 if number==1 else 3, metrics=metrics)
    t = paper_table(r, number)
    assert t.cells.iloc[:,0].tolist()==PAPER
    assert t.cells.columns.tolist()[1:]==[f'{a}: {m}' for a in ('MobileNet V2','ResNeXt-50') for m in heads]
    pub = published(number).set_index(['method','arch','metric']).value
    assert len(t.data)==48
    for o in t.data.itertuples():
        assert o.published==pub[o.method,o.arch,o.metric]
        if o.method not in ('instance','class','balmix_0.2'):
            assert np.isnan(o.measured) and np.isnan(o.difference) and o.runs==''
            continue
        arch = {'mobilenetv2':'mobilenetv2_100', 'bit_resnext50_1':BIT}[o.arch]
        v = [[reference(o.metric, *r.by_path(f'{o.method}.{arch}.{f}.{s}', 'report', 'as trained')[:2])
            for s in seeds] for f in folds]
        close(o.measured, 100*np.median(v[0] if number==1 else np.mean(v, axis=1)), 1e-6)
        close(o.difference, o.measured-o.published)
    o = t.data.query("method=='class' and arch=='bit_resnext50_1'").iloc[1]
    assert t.cells.set_index('').loc['Class-sampling',
        f'ResNeXt-50: {heads[1]}']==f'{o.measured:.2f} / {o.published:.2f} ({o.difference:+.2f})'
    assert t.cells.set_index('').loc['Focal Loss'].str.startswith('– / ').all()
    notes = ' '.join(t.notes)
    assert f"Measured: median over {'3 seeds' if number==1 else '3 folds'}." in notes
    assert NOT_LEARNED in notes and 'left out: resnet18' in notes and ('very fold' in notes)==(number==3)
    assert pd.read_csv(io.StringIO(t.to_csv())).columns.tolist()==['table','data','method','arch','metric',
        'measured','published','difference','runs','notes']
    for text in t.to_markdown(),t.to_latex(),t._repr_html_(): assert 'operating point of its own' in text

def test_table_2_quotes_systems_that_are_architectures_of_their_own():
    skill = {'qwk_loss':.6, 'balmix_0.2':.8, 'instance':.7}
    r = Made(skill, folds=(0,), archs=('mobilenetv2_100',BIT), data='eyepacs', ordered=True, n_folds=0,
        external=('messidor2',), metrics=['quad_kappa'])
    t = paper_table(r, 2)
    assert t.cells.iloc[:,0].tolist()==['Eyepacs','Messidor-2']
    own = ' (published, an architecture of its own)'
    assert t.cells.columns.tolist()[1:]==['QWKL',f'DR graduate{own}','Cost-sensitive',f'Iter. Aug.{own}',
        'Bal-Mxp: α = 0.2']
    d = t.data.set_index(['data','method'])
    for data,part in ('eyepacs_test','report'),('messidor2','messidor2'):
        for m in 'qwk_loss','balmix_0.2': close(d.measured[data,m],
                100*reference('quad_kappa', *r.by_path(f'{m}.{BIT}.0.0', part, 'as trained')[:2]), 1e-6)
        for m in 'dr_graduate','iterative_augmentation','cost_sensitive': assert np.isnan(d.measured[data,m])
    assert d.published.droplevel(0).tolist()[:5]==[74,74,78.71,80,80.78]
    assert np.isnan(d.published['messidor2','qwk_loss']) and d.published['messidor2','dr_graduate']==71
    assert t.cells.iloc[1,1]==f"{d.measured['messidor2','qwk_loss']:.2f} / –" and t.cells.iloc[1,4]=='– / –'
    assert t.cells.iloc[1,2]=='– / 71.00'
    assert any('Measured with ResNeXt-50;' in o for o in t.notes) and 'Measured: one run.' in t.notes
    small = paper_table(r.where(lambda d: d.arch=='mobilenetv2_100'), 2)
    assert any('Measured with MobileNet V2;' in o for o in small.notes)
    close(small.data.measured[4], 100*reference('quad_kappa', *r.by_path('balmix_0.2.mobilenetv2_100.0.0', 'report',
        'as trained')[:2]), 1e-6)
    none = paper_table(r.where(lambda d: d.method=='instance'), 2)
    assert 'Nothing of this table was run with an architecture of the paper.' in none.notes
    assert none.data.measured.isna().all()

def test_what_the_paper_s_tables_say_of_the_runs_beside_them():
    r = Made({'instance':.7, 'class':.6}, folds=(1,2,3), archs=('mobilenetv2_100',), data='hyper_kvasir', n_folds=5,
        grouped=False, selection='reported-fold')
    t = paper_table(r.where(lambda d: (d.method=='instance') | (d.fold==1)), 3)
    notes = ' '.join(t.notes)
    must = (
        'Folds are by image', 'chosen on the very images that are reported', 'median over 3 of 5 folds (instance).',
        'Measured: one run (class).', 'very fold that is reported.')
    for o in must: assert o in notes
    assert 'apart from it' in ' '.join(paper_table(Made({'instance':.7}, archs=(BIT,), data='hyper_kvasir'), 3).notes)

# Balanced accuracy on NIH-CXR-LT and MIMIC-CXR-LT, written down a second time
CHEST_XRAYS = dict(
    instance=(.115,.169), mixup=(.118,.176), tau_norm=(.214,.230), class_balanced_loss=(.269,.227),
    weighted_ldam_drw=(.289,.275), crt=(.294,.296)) | {'balmix_0.2':(.155,.168)}

def test_figures_of_chest_x_rays_are_those_published():
    df = published('longtailcxr')
    assert [*df.columns]==[*published(1).columns] and {*df.metric}=={'balanced_accuracy'}
    v = df.pivot(index='method', columns='data', values='value')[['nih_cxr_lt','mimic_cxr_lt']]
    assert v.shape==(15,2) and v.notna().all(axis=None) and (df.value*10%1<1e-9).all()
    for method,(nih,mimic) in CHEST_XRAYS.items(): close(v.loc[method], [100*nih,100*mimic], 1e-9)
    # What the authors print bold, and what they underline
    for _,column in v.items(): assert [*column.nlargest(2).index]==['crt','weighted_ldam_drw']

def test_pages_show_the_published_figures_of_chest_x_rays():
    v = published('longtailcxr').pivot(index='method', columns='data', values='value')
    root = Path(__file__).resolve().parent.parent
    for page,n in ('README.md',4),('docs/pages/which_method.md',7):
        text = (root/page).read_text(encoding='utf-8').partition('NIH-CXR-LT | MIMIC-CXR-LT |')[2].partition('\n\n')[0]
        rows = [re.findall(r'\d+\.\d', o.partition('|')[2].partition('|')[2]) for o in text.splitlines()]
        rows = [tuple(map(float, o)) for o in rows if o]
        assert len(rows)==n and {*rows} <= {*v[['nih_cxr_lt','mimic_cxr_lt']].itertuples(index=False, name=None)}

def test_the_table_of_chest_x_rays_says_what_it_is():
    t = longtailcxr_table()
    assert t.cells.columns.tolist()==['','NIH-CXR-LT','MIMIC-CXR-LT'] and len(t.cells)==15
    assert t.cells.iloc[12].tolist()==['Balanced-MixUp','15.5','16.8']
    notes = ' '.join(t.notes)
    for o in 'Holste','Nothing of it was measured here',NOT_LEARNED,'α = 0.2','one run each': assert o in notes

# ------------------------------------------------------------------ bad arguments

GOOD = Made(dict(instance=.6, other=.7), n=12, metrics=METRICS)

def changed(**kw): return SimpleNamespace(**{**dict(df=GOOD.df, meta=GOOD.meta, predictions=GOOD.predictions), **kw})

def wrong_images(run, part):
    d = dict(GOOD.kept[run,part])
    if run.startswith('other'): d['paths'] = np.char.add(d['paths'], 'x')
    return d

def wrong_labels(run, part):
    d = dict(GOOD.kept[run,part])
    if run.startswith('other'): d['targs'] = 2-d['targs']
    return d

@pytest.mark.parametrize('call,words', [
    (lambda: summarise(GOOD, 'plain'),
        "The 'baseline' parameter of summarise must be a method that was run: instance, other. Got 'plain' instead."),
    (lambda: summarise(GOOD, metrics=['mcc','kappa']),
        "The 'metrics' parameter of summarise must be some of mcc, balanced_accuracy, macro_f1, geometric_mean, "
        "quad_kappa, kendall_tau, accuracy, brier. Got 'kappa' instead."),
    (lambda: summarise(GOOD, metrics='mean_auc'), "Got 'mean_auc' instead."),
    (lambda: summarise(changed(df=GOOD.df.assign(mcc=GOOD.df.mcc.where(GOOD.df.part=='select'))), metrics='mcc'),
        "Got 'mcc' instead."),
    (lambda: summarise(GOOD, part='messidor2'),
        "The 'part' parameter of summarise must be one of 'select', 'report'. Got 'messidor2' instead."),
    (lambda: summarise(changed(df=GOOD.df[:0])),
        "The 'results' parameter of summarise must be results with at least one finished run. Got none instead."),
    (lambda: summarise(changed(df=pd.concat([GOOD.df,GOOD.df.tail(1)]))),
        "one run for each method, architecture, fold and seed. Got two of other, net, fold 3, seed 0 instead."),
    (lambda: summarise(changed(predictions=wrong_images)),
        "The 'results' parameter of summarise must be runs that were tested on the same images. "
        "Got others, or other labels, in other.net.1.0 than in instance.net.1.0 instead."),
    (lambda: summarise(changed(predictions=wrong_labels)),
        "Got others, or other labels, in other.net.1.0 than in instance.net.1.0 instead."),
    (lambda: summarise(Made({'instance':.5, 'balmix_0.1':.5, 'balmix_0.2':.5}, monitor='loss')),
        "The 'monitor' parameter of summarise must be one of the scores, mcc, balanced_accuracy"),
    (lambda: paper_table(GOOD, 1),
        "The 'results' parameter of paper_table must be of eyepacs, the data of the paper's table 1. "
        "Got results of made instead."),
    (lambda: paper_table(GOOD, 3), "must be of hyper_kvasir, the data of the paper's table 3."),
    (lambda: paper_table(GOOD, 4), "The 'number' parameter of paper_table must be 1, 2 or 3. Got 4 instead."),
    (lambda: published(0), "The 'table' parameter of published must be 1, 2, 3 or 'longtailcxr'. Got 0 instead.")])
def test_bad_arguments_are_told_so(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value)

# ------------------------------------------------------------------ before training

def planned(methods=('instance','class'), folds=(1,2,3), seeds=(0,), monitor='mcc', counts=(60,30,10)):
    "Runs of a plan, as far as sentences ask for them; every fold reports a share of the images"
    y = np.repeat(np.arange(len(counts)), counts)
    def parts(fold): return dict(report=np.flatnonzero(np.arange(len(y))%max(len(folds), 1)==fold-folds[0]))
    return [SimpleNamespace(data=SimpleNamespace(y=y), names=dict(method=m), fold=f, seed=s, monitor=monitor,
                parts=lambda f=f: parts(f)) for m,f,s in product(methods, folds, seeds)]

def test_runs_without_their_stage_are_counted():
    rows = [('drs','a',5,9.), ('drs','b',9,9.), ('drs','c',10,9.), ('drs','a',5,9.), ('drw','d',8,9.),
            ('instance','e',5,np.nan), ('balmix_drs','f',9,9.)]
    df = pd.DataFrame(rows, columns=['method','run','best_epoch','stage'])
    said = [('Deferred sampling','1 of 3'), ('Deferred weights','1 of 1')]
    assert before_stage(df)==[f'{title}: in {n} runs the best epoch was before the deferred stage. These networks had '
                              'no such stage.' for title,n in said]
    assert before_stage(df.drop(columns='stage'))==[]

def test_power_is_said_before_training():
    said = power_sentences(planned())
    best = 100*least_difference('mcc', [60,30,10])
    more = 100*least_difference('mcc', [60,30,10], n_seeds=2)
    best,more = (f'{np.ceil(o):.0f}' for o in (best,more))
    assert said==[f'It can show differences of about {best} points of MCC ({more} with 2 seeds).']
    assert 'with 3 seeds' in power_sentences(planned(seeds=(0,1)))[0]
    assert power_sentences(planned(methods='abcde'))!=said
    assert power_sentences(planned(counts=(6000,3000,1000)))!=said

def test_what_cannot_be_compared_is_said_before_training():
    one = 'One run each shows nothing about methods: train two seeds or more.'
    assert power_sentences(planned(folds=(2,)))==[one]
    assert 'with 3 seeds' in power_sentences(planned(folds=(2,), seeds=(0,1)))[0]
    assert power_sentences(planned(methods=['instance']))==[]
    assert power_sentences(planned(monitor='brier'))==[]
    assert 'can hardly show any difference' in power_sentences(planned(counts=(2,1,1), folds=(1,2)))[0]
    assert power_sentences(planned(counts=(30,)))==['30 images can hardly show any difference in MCC.']
