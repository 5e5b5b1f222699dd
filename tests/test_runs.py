"""The notebook trains a run and looks at it. Here every method of the registry is watched as it opens images: what is
reported is opened once, after training; figures are compared with scikit-learn's on the stored predictions, predictions
with a plain forward pass of the stored weights; a key must change with whatever determines a run and with nothing else;
and files are damaged in every way."""

import asyncio
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import toys  # noqa: F401 # hypothesis' profile
from conftest import warm_call
from fastai.vision.all import AdaptiveAvgPool, Callback, ConvLayer, Flatten
from filelock import FileLock
from hypothesis import example, given, strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from sklearn import metrics as sk
from torch import nn

import fastai_balmix
from fastai_balmix.compare import attempts, results
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.config import (
    TrainConfig,
    arch_name,
    augmentation,
    augments,
    check_arch,
    make_model,
    recipe_sentence,
    recipes,
)
from fastai_balmix.compare.methods import Method, find_method, method_table
from fastai_balmix.compare.plan import compare
from fastai_balmix.compare.records import read_predictions, read_record
from fastai_balmix.compare.results import Results, read_failures
from fastai_balmix.compare.runs import Run
from fastai_balmix.datasets.published import digits
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.metrics.scores import score_row


def pixels(key):
    "8×8 noise, the brighter the higher the grade, of a key 'grade/number'"
    grade,i = map(int, key.split('/'))
    return np.random.default_rng([grade,i]).integers(0, 80*(grade+1), (8,8,3)).clip(0, 255).astype(np.uint8)

def picture(key): return Image.fromarray(pixels(key))

opened = [] # (method, what was going on, key)
now = ['','']

def watched_picture(key):
    opened.append((*now,key))
    return picture(key)

def grades(counts=(48,32,20,12), n_folds=2, first=0, part=None, images=picture, change=(), **kwargs):
    """Synthetic grades, in folds, or with the splits of `part`, a function of an image's number; `change` is a list of
    (row, column, value)"""
    rows = [dict(path=f'{g}/{first+i}', label=f'g{g}') for g,n in enumerate(counts) for i in range(n)]
    df = pd.DataFrame(rows)
    if part is None: df['fold'] = [1+int(o.split('/')[1])%n_folds for o in df.path]
    else: df['split'] = [part(int(o.split('/')[1])) for o in df.path]
    for i,k,v in change: df.loc[i,k] = v
    usual = dict(vocab=[f'g{g}' for g in range(len(counts))], ordered=True, name='grades', images=images)
    return ImageData(df, **(usual|kwargs))

def net(n_classes):
    return nn.Sequential(ConvLayer(3, 8, stride=2), AdaptiveAvgPool(), Flatten(), nn.Linear(8, n_classes))

recipe = dict(recipe='paper', epochs=2, size=None, bs=14, lr=.05, mom=.9, augment='none', pretrained=False,
              select=.25)
config = TrainConfig(**recipe)

def compared(folder, methods, data=None, archs=net, folds=(1,), **kwargs):
    "Results of a comparison by the recipe, on grades by default"
    settings = dict(out=folder/'out', show=False, folds=folds and [*folds], **(recipe|kwargs))
    return compare(grades() if data is None else data, methods, archs, **settings)

class Watch(Callback):
    "Says what is going on, and how a network starts"
    order = 70
    def __init__(self, name, starts): self.nm,self.starts = name,starts
    def before_fit(self): self.starts[self.nm] = torch.cat([p.detach().flatten() for p in self.model.parameters()])
    def before_train(self): now[:] = self.nm,'train'
    def before_validate(self): now[:] = self.nm,'valid'

starts = {}

def watched(t, name):
    now[:] = name,'start'
    find_method(name)(t)
    t.cbs.append(Watch(name, starts))
    finish = t.finish
    def then(learn, cbs):
        now[:] = name,'finish'
        if finish is not None: finish(learn, cbs)
        now[:] = name,'over'
    t.finish = then

own_heads = 'ldam_drw','ordinal_mse','corn'
fitted_twice = 'crt','crt_features','label_aware_smoothing'

def all_methods():
    methods = {k: find_method(k) for k in method_table().index}
    return [Method(k, partial(watched, name=k), m.line, m.source, m.ordered) for k,m in methods.items()]

@pytest.fixture(scope='module')
def every(tmp_path_factory):
    "All methods on one fold of grades, watched, and external data"
    data,ext = (grades(images=watched_picture, **k) for k in ({},dict(counts=(6,5,4,3), first=1000)))
    for d in data,ext: d.fingerprint # opens all images, long before anything is trained
    opened.clear()
    res = compared(tmp_path_factory.mktemp('every'), all_methods(), data, external=dict(elsewhere=ext))
    return res,data,[*opened]

def split_of(i): return ('train','train','valid','test')[i%4]

@pytest.fixture(scope='module')
def split(tmp_path_factory):
    "Two seeds on splits, read at the class shares of training; with odd names, weights kept"
    data = grades(part=split_of, vocab=[f'g{i}' for i in range(4)], ordered=False, prevalence='train',
                  name='läsions, "2024"\n')
    external = {'ünï, "code"':grades((5,4,3,2), first=500, ordered=False)}
    res = compared(tmp_path_factory.mktemp('split'), 'instance', data, folds=None, seeds=[3,4], keep_weights=True,
                   normalise='imagenet', external=external)
    return res,data

def test_external_data_may_lack_classes(tmp_path):
    "A small set of another hospital, or a subset: its classes are those that it has, in the same order"
    whole = grades((6,5,4,3), first=500)
    small = whole.subset(whole.y!=1)
    assert small.vocab==['g0','g2','g3']
    res = compared(tmp_path, 'instance', external=dict(small=small))
    d = res.predictions(res.df.run[0], 'small')
    assert d['targs'].tolist()==[int(o[0]) for o in d['paths']] and {*d['targs'].tolist()}=={0,2,3}
    with pytest.raises(ValueError, match=r"'external' parameter of compare must be data with the classes \['g0', 'g1'"):
        compared(tmp_path/'b', 'instance', external=dict(small=grades((3,3), vocab=['g1','g0'])))

# What is trained on, what is chosen on, what is reported

def test_every_method_runs(every):
    res = every[0]
    assert res.meta['failed']==[] and [*res.df.method.unique()]==[*method_table().index]
    assert (res.df.groupby(['method','part','point']).size()==1).all() and len(res.df)==len(method_table())*9
    assert {*res.df.part}=={'select','report','elsewhere'}
    assert {*res.df.point}=={'as trained','train prevalence','balanced prior'}
    scores = ['mcc','balanced_accuracy','macro_f1','quad_kappa','accuracy','brier','calibration_error','seconds']
    assert not res.df[scores].isna().any(axis=None)

@pytest.mark.parametrize('method', method_table().index)
def test_what_is_reported_is_opened_once_after_training(every, method):
    _,data,log = every
    part = {k: [*data.df.path[v]] for k,v in data.parts(fold=1, select=.25).items()}
    mine = {}
    for m,what,key in log:
        if m==method: mine.setdefault(what, []).append(key)
    before = [k for what,keys in mine.items() if what!='over' for k in keys]
    assert before and not {*before} & {*part['report']} and not [k for k in before if int(k.split('/')[1])>=1000]
    if method=='linear_probe': # its features are computed in one pass, before training
        assert {*mine['start']} <= {*part['train'],*part['select']} and not {'train','valid'} & {*mine}
    else: assert {*mine['train']} <= {*part['train']} and {*mine['valid']}=={*part['select']}
    assert {*mine.get('finish', [])} <= {*part['train'],*part['select']}
    # fastai opens the first item of a loader once more, and one of training, to see what it is and how many inputs
    n = {k: mine['over'].count(k) for k in mine['over']}
    external = {f'{g}/{1000+i}' for g,k in enumerate((6,5,4,3)) for i in range(k)}
    assert {*n}-{part['train'][0]}=={*part['report'],*part['select'],*external}
    assert {k for k,v in n.items() if v>1} <= {part['train'][0],part['report'][0],part['select'][0],'0/1000'}
    assert max(n.values())<=4

def test_the_published_protocol_opens_it_to_choose_the_epoch(tmp_path):
    data = grades(images=watched_picture)
    data.fingerprint
    opened.clear()
    method = Method('instance', partial(watched, name='instance'), 'x')
    res = compared(tmp_path, [method], data, folds=[2], selection='reported-fold')
    report = {*data.df.path[data.df.fold==2]}
    assert {k for _,what,k in opened if what=='valid'}==report and res.meta['selection']=='reported-fold'
    assert {k for _,what,k in opened if what=='train'}=={*data.df.path[data.df.fold==1]}
    s,r = (res.df[(res.df.part==o) & (res.df.point=='as trained')] for o in ('select','report'))
    assert s.mcc.tolist()==r.mcc.tolist()

def is_within(few, many):
    "Do `few` come in this order among `many`?"
    it = iter(many)
    return all(o in it for o in few)

def test_all_methods_start_alike_and_see_images_in_the_same_order(every):
    assert {*starts} >= {*method_table().index}
    last = 8*4+4 # a few methods have a last layer of their own
    for k,v in starts.items():
        if k=='linear_probe': continue # it trains nothing but the last layer
        n = len(v) if len(v)==len(starts['instance']) and k not in own_heads else len(starts['instance'])-last
        torch.testing.assert_close(v[:n], starts['instance'][:n], rtol=0, atol=0, msg=k)
    names = [o for o in method_table().index if o!='linear_probe'] # whose images are opened before
    order = {m: [k for n,what,k in every[2] if n==m and what=='train'] for m in names}
    assert len(order['instance'])==2*42
    drawn = {'class','sqrt','progressive','drs','balmix_sqrt','balmix_drs'} # these draw, that is what they are
    for m in order.keys()-drawn: assert is_within(order['instance'], order[m]), m
    for m in drawn: assert not is_within(order['instance'], order[m]), m

def test_seeds_differ(split):
    res,_ = split
    assert res.df[res.df.part=='report'].groupby('point').brier.nunique().max()<=1 # none is read at another prevalence
    a,b = (res.predictions(r)['plain'] for r in res.df.run.unique())
    assert np.abs(a-b).max()>1e-3

def test_a_method_that_draws_numbers_disturbs_no_other(tmp_path):
    def drawing_mixup(t):
        torch.rand(3), np.random.rand(), random.random()
        find_method('mixup')(t)
    def drawing_net(n_classes):
        res = net(n_classes)
        torch.rand(3), random.random()
        return res
    methods = [find_method('mixup'),Method('draws', drawing_mixup, 'x')]
    res = compared(tmp_path, methods, archs=[net,drawing_net], augment='shift')
    a,*others = (res.predictions(r)['plain'] for r in res.df.run.unique())
    assert len(others)==3
    for b in others: np.testing.assert_array_equal(a, b)

@pytest.mark.slow
def test_every_setting_of_training_has_an_effect(tmp_path):
    changes = dict(epochs=1, size=12, bs=9, lr=.01, mom=.5, wd=.1, augment='shift', normalise='imagenet', select=.4,
                   selection='reported-fold', monitor='mcc', tta=False)
    def record(**change):
        run = base_run(tmp_path, arch=net, config=replace(config, **{'epochs':3, **change}))
        return json.loads(json.dumps(attempt(run).record))
    base = record()
    others = {k: record(**{k: v}) for k,v in changes.items()}
    for k,r in others.items():
        if k!='monitor': assert r['rows']!=base['rows'], k
    for monitor,r in ('quad_kappa',base),('mcc',others['monitor']):
        assert r['best_epoch']==1+int(np.argmax([h[monitor] for h in r['history']]))

def test_photographs_are_decoded_as_the_settings_say(tmp_path, monkeypatch):
    rows = [dict(path=f'{k}{i}.jpg', label=k, fold=1+i%2) for k in 'ab' for i in range(8)]
    for i,r in enumerate(rows):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (80,80,3), dtype=np.uint8)).save(tmp_path/r['path'])
    data = ImageData(pd.DataFrame(rows), ['a','b'], root=tmp_path)
    seen = []
    load = JpegImageFile.load
    def watch(im):
        if im.tile: seen.append(im.size)
        return load(im)
    monkeypatch.setattr(JpegImageFile, 'load', watch)
    for decode,size in ('full',(80,80)),('fast',(20,20)):
        del seen[:]
        out = attempt(Run(data, 'instance', net, 1, 0, replace(config, size=10, bs=4, epochs=1, decode=decode),
                          tmp_path/'out', external=dict(more=data)))
        assert out.status=='finished', out.error
        # fastai looks at a few images when loaders are made, and every part is read through the same loaders
        assert {*seen}=={size} and len(seen)>=8+8+16

def test_the_epoch_is_the_best_on_the_selection_split(every):
    for run in every[0].df.run.unique():
        r = every[0].record(run)
        is_fitted_twice = r['rows'][0]['method'] in fitted_twice
        last = r['history'][2:] if is_fitted_twice else r['history'][-2:]
        assert r['epochs']==len(r['history'])==(3 if is_fitted_twice else 2)
        assert r['best_epoch']==len(r['history'])-len(last)+1+int(np.argmax([h['quad_kappa'] for h in last]))

def test_without_flips_the_chosen_epoch_scores_as_it_did(tmp_path):
    res = compared(tmp_path, ['instance','balmix_0.2'], tta=False, monitor='macro_f1', epochs=4)
    for run in res.df.run.unique():
        r = res.record(run)
        got = [o['macro_f1'] for o in r['rows'] if (o['part'],o['point'])==('select','as trained')]
        np.testing.assert_allclose(got, [max(h['macro_f1'] for h in r['history'])], rtol=1e-12)
        p = res.predictions(run)
        np.testing.assert_array_equal(p['plain'], p['probs']['as trained'])

# Figures

def weighted_tau(t, p, w):
    "τ-b of weighted pairs, by its definition"
    s = np.sign(t[:,None]-t)*np.sign(p[:,None]-p)
    ww = w[:,None]*w
    return (s*ww).sum()/np.sqrt(((t[:,None]!=t)*ww).sum()*((p[:,None]!=p)*ww).sum())

def by_scikit_learn(probs, t, ordered, shares=None):
    k,p = probs.shape[1],probs.argmax(1)
    w = np.ones(len(t)) if shares is None else np.asarray(shares)[t]/(np.bincount(t, minlength=k)/len(t))[t]
    recall = sk.recall_score(t, p, average=None, labels=np.unique(t), sample_weight=w, zero_division=0)
    res = dict(mcc=sk.matthews_corrcoef(t, p, sample_weight=w), balanced_accuracy=recall.mean(),
               macro_f1=sk.f1_score(t, p, average='macro', sample_weight=w, zero_division=0),
               geometric_mean=recall.prod()**(1/len(recall)), accuracy=sk.accuracy_score(t, p, sample_weight=w))
    aucs = [sk.roc_auc_score(t==c, probs[:,c]) for c in range(k) if 0<(t==c).sum()<len(t)]
    res['mean_auc'] = np.mean(aucs or [np.nan])
    if ordered:
        with np.errstate(invalid='ignore'):
            res['kendall_tau'] = scipy.stats.kendalltau(t, p).statistic if shares is None else weighted_tau(t, p, w)
        one = len(np.unique(t))==len(np.unique(p))==1 and t[0]==p[0]
        kappa = partial(sk.cohen_kappa_score, labels=range(k), weights='quadratic', sample_weight=w)
        res['quad_kappa'] = np.nan if one else kappa(t, p)
    if shares is None:
        y = np.eye(k)[t]
        res['brier'] = ((probs-y)**2).sum(1).mean()
        conf,right = probs.max(1),p==t
        bins = np.minimum((conf*15).astype(int), 14)
        res['calibration_error'] = sum(abs(right[bins==b].mean()-conf[bins==b].mean())*(bins==b).mean()
                                       for b in np.unique(bins))
    return res

def all_close(got, want):
    assert {*got}=={*want}
    # predictions are in single precision
    for k in want: np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-7, err_msg=k)

@example(seed=0, n=1, k=1, ordered=True, at=False)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.booleans(), st.booleans())
@pytest.mark.filterwarnings('ignore')
def test_any_row_of_figures_is_scikit_learns(seed, n, k, ordered, at):
    rng = np.random.default_rng(seed)
    n += k*at
    probs,t = rng.dirichlet(np.ones(k), n),rng.integers(0, k, n)
    shares = None
    if at: t[:k],shares = np.arange(k),rng.dirichlet(np.ones(k))
    want = by_scikit_learn(probs, t, ordered, shares)
    all_close(score_row(probs, t, ordered, shares), want)

@pytest.mark.parametrize('name', ['every','split'])
@pytest.mark.filterwarnings('ignore')
def test_every_figure_of_a_table_is_scikit_learns_on_the_stored_predictions(request, name):
    res,data = request.getfixturevalue(name)[:2]
    for row in res.df.to_dict('records'):
        p = res.predictions(row['run'], row['part'])
        shares = res.record(row['run'])['train_shares'] if data.prevalence and row['part']=='report' else None
        want = by_scikit_learn(p['probs'][row['point']], p['targs'], data.ordered, shares)
        all_close({k: row[k] for k in want}, want)
        assert row['n_images']==len(p['targs'])
        if shares is not None: assert np.isnan([row['brier'],row['calibration_error']]).all()

@pytest.mark.parametrize('name', ['every','split'])
def test_operating_points_by_their_formula(request, name):
    res,data = request.getfixturevalue(name)[:2]
    for run in res.df.run.unique():
        r = res.record(run)
        prior = np.array(r['calibration']['prior'])
        temp = r['calibration']['temperature']
        parts = data.parts(fold=1 if data.folds else None, select=.25)
        shares = np.bincount(data.y[parts['train']])/len(parts['train'])
        np.testing.assert_allclose(r['train_shares'], shares)
        for part in res.df.part.unique():
            p = res.predictions(run, part)['probs']
            for point,new in ('train prevalence',shares),('balanced prior',np.ones(4)/4):
                want = np.maximum(p['as trained'].astype(float), np.finfo(np.float32).tiny)**(1/temp)*new/prior
                np.testing.assert_allclose(p[point], want/want.sum(1, keepdims=True), rtol=2e-5, atol=1e-7)

def test_calibration_is_of_the_selection_split_alone(every):
    # the temperature and prior maximise the likelihood there, so that a small change of them makes it worse
    res = every[0]
    run = res.df.run[res.df.method=='instance'].iloc[0]
    r = res.record(run)
    with np.load(res.folder/'runs'/run/'predictions.npz') as f:
        probs,t,paths = (f[f'select/calibration/{o}'] for o in ('probs','targs','paths'))
        assert {*paths}=={*f['select/paths']} and len(paths)==len(f['select/paths'])
    probs = probs.astype(float)
    counts = np.array(r['train_shares'])
    own = np.bincount(t, minlength=4)/len(t)
    def cost(prior, temp):
        q = probs**(1/temp)*own/prior
        q /= q.sum(1, keepdims=True)
        return -np.log(q[np.arange(len(t)),t]).sum() + ((1/temp-1)**2 + ((np.log(prior)-np.log(counts))**2).sum())/2
    prior = np.array(r['calibration']['prior'])
    temp = r['calibration']['temperature']
    best = cost(prior, temp)
    assert cost(prior, temp*1.05)>best and cost(prior, temp/1.05)>best
    for i in range(4):
        for f in 1.1,.9:
            other = prior.copy()
            other[i] *= f
            assert cost(other/other.sum(), temp) > best-1e-4

def test_predictions_are_those_of_the_stored_weights_on_the_images_named(split):
    res,data = split
    mean,std = np.array([.485,.456,.406]),np.array([.229,.224,.225])
    for run in res.df.run.unique():
        model = net(4)
        model.load_state_dict(torch.load(res.folder/'runs'/run/'weights.pth', weights_only=True))
        model.eval()
        for part in res.df.part.unique():
            p = res.predictions(run, part)
            x = (np.stack([pixels(o) for o in p['paths']])/255-mean)/std
            x = torch.tensor(x, dtype=torch.float32).permute(0,3,1,2)
            with torch.no_grad(): a,b = (model(o).softmax(1).numpy() for o in (x,x.flip(-1)))
            np.testing.assert_allclose(p['plain'], a, atol=1e-5)
            np.testing.assert_allclose(p['probs']['as trained'], (a+b)/2, atol=1e-5)
            np.testing.assert_array_equal(p['targs'], [int(o[0]) for o in p['paths']])
        parts = data.parts()
        for k in 'select','report': assert [*res.predictions(run, k)['paths']]==[*data.df.path[parts[k]]]
        assert [*res.predictions(run, 'ünï, "code"')['paths']]==[*grades((5,4,3,2), first=500).df.path]
        assert {data.df.split[i] for i in parts['report']}=={'test'}
        assert {data.df.split[i] for i in parts['select']}=={'valid'}

def test_the_table_holds_what_the_records_do(every, split):
    for res in every[0],split[0]:
        for run,df in res.df.groupby('run'):
            r = res.record(run)
            for row in r['rows']:
                got = df[(df.part==row['part']) & (df.point==row['point'])].iloc[0]
                for k,v in row.items(): assert v!=v or got[k]==v or got[k]==pytest.approx(v, rel=1e-15, abs=0), k
            for k in 'settings','fingerprint','versions','data': assert {*df[k]}=={r[k]}
            assert f'torch {torch.__version__.split("+")[0]}' in r['versions'] and 'fastai_balmix' in r['versions']
    assert {*split[0].df.part}=={'select','report','ünï, "code"'} and {*split[0].df.data}=={'läsions, "2024"'}
    assert split[0].df.fold.unique().tolist()==[0] and split[0].df.seed.unique().tolist()==[3,4]

def test_workers_change_nothing_where_nothing_is_random(tmp_path):
    a,b = (compared(tmp_path/str(n), 'class', num_workers=n) for n in (0,1))
    pd.testing.assert_frame_equal(*(o.df.drop(columns=['seconds','train_seconds','started','revision']) for o in (a,b)))

def test_groups_are_stored(tmp_path):
    df = grades().df
    df['group'] = [f'patient "{int(o.split("/")[1])//4}, {o[0]}"' for o in df.path]
    df['fold'] = [1+int(o.split('/')[1])//4%2 for o in df.path]
    data = ImageData(df, [f'g{i}' for i in range(4)], images=picture)
    res = compared(tmp_path, 'instance', data, folds=[2], epochs=1)
    parts = data.parts(fold=2, select=.25)
    for k in 'select','report': assert [*res.predictions(res.df.run[0], k)['groups']]==[*df.group.iloc[parts[k]]]
    assert res.meta['grouped']
    assert not {*res.predictions(res.df.run[0], 'select')['groups']} & {*df.group.iloc[parts['report']]}

# Keys

def other_net(n_classes): return net(n_classes)
def holding(x):
    def method(t): t.held = x
    return method
def with_default(t, x=1): pass
def with_keyword(t, *, x=1): pass
class Callable:
    def __init__(self, x): self.x = x
    def __call__(self, t): pass

def base_run(folder='/nowhere', **kwargs):
    usual = dict(data=grades(), method='instance', arch='small', fold=1, seed=0, config=config, folder=folder)
    return Run(**(usual|kwargs))

def short_run(folder, **kwargs):
    "One epoch of a small network"
    return base_run(folder/'out', arch=net, config=replace(config, epochs=1), **kwargs)

def method_key(func): return base_run(method=Method('m', func, 'x')).key
def config_key(**kwargs): return base_run(config=replace(config, **kwargs)).key

def keys(*args):
    funcs = holding(.1),with_default,Callable(2),partial(holding(2), 3)
    return [method_key(o) for o in funcs] + [base_run(arch=net).key, base_run().key]

def test_a_key_is_the_same_in_another_process_and_another_folder():
    assert warm_call(keys)==keys() and base_run('/elsewhere').key==base_run().key

def test_what_does_not_change_results_does_not_change_a_key():
    key = base_run().key
    for k in dict(num_workers=2),dict(keep_weights=True),dict(data=grades(name='other')):
        assert base_run(**k).key==key, k
    for k in dict(lr=np.float64(.05), epochs=np.int64(2)),dict(wd=0):
        assert config_key(**k)==key, k

def test_every_setting_changes_a_key(tmp_path):
    (tmp_path/'w.pth').write_bytes(b'one')
    changes = dict(epochs=3, size=9, bs=9, lr=.02, mom=.5, wd=.1, augment='flip', normalise='imagenet',
                   pretrained=tmp_path/'w.pth', select=.2, selection='reported-fold', monitor='mcc', tta=False,
                   decode='fast', store='compact', amp='bf16', channels_last=True, compile=True, ema=True,
                   opt_func='adamw', schedule='flat_cos', freeze_epochs=1, cbs=Callback)
    assert {*changes,'recipe'}=={*TrainConfig.__dataclass_fields__}
    # only images of a given size are decoded in another way, and kept
    got = [config_key(**{k: v}, **({'size':10} if k in ('decode','store') else {})) for k,v in changes.items()]
    got += [base_run().key, config_key(size=10), *(config_key(augment=dict(shift=o)) for o in (.1,.2))]
    ext,other_ext = (grades(n, first=500) for n in ((5,4,3,2),(5,4,3,3)))
    got += [base_run(external=o).key for o in (dict(e=ext),dict(f=ext),dict(e=other_ext))]
    other_args = dict(method='class'),dict(arch='test_byobnet'),dict(arch=net),dict(fold=2),dict(seed=1)
    got += [base_run(**k).key for k in other_args]
    def one_image_differs(key): return Image.fromarray(pixels(key)^(key=='0/0'))
    other_data = (dict(change=[(0,'label','g1')]), dict(change=[(0,'fold',2)]), dict(first=1), dict(ordered=False),
                  dict(vocab=['g1','g0','g2','g3']), dict(images=one_image_differs))
    got += [base_run(data=grades(**k)).key for k in other_data]
    assert len({*got})==len(got)
    (tmp_path/'w.pth').write_bytes(b'two')
    key = config_key(pretrained=tmp_path/'w.pth')
    assert key not in got
    shutil.copy(tmp_path/'w.pth', tmp_path/'v.pth')
    assert config_key(pretrained=tmp_path/'v.pth')==key

def test_a_recipe_counts_by_what_it_says():
    "Its values are part of a run's key, its name is not; what is given wins"
    def key(arch=net, **kwargs): return base_run(arch=arch, config=TrainConfig(**kwargs)).key
    paper = key(recipe='paper')
    assert key()==paper==key(bs=8, lr=.01, mom=0, wd=0, augment='paper', size=512)
    assert key(pretrained=False)==key(recipe='small', pretrained=False)!=key(recipe='paper', pretrained=False)
    assert key(recipe='small', **recipes['paper'])==key(recipe='finetune', **recipes['paper'])==paper
    assert key('small')==key('small', recipe='small', size=64)!=key('small', recipe='paper')
    assert len({key(recipe=o, **kwargs) for o in recipes for kwargs in ({},dict(lr=.5),dict(mom=.5))})==9

def test_a_recipe_fills_what_is_not_given():
    for name,values in recipes.items():
        config = TrainConfig(recipe=name, lr=.5).chosen_for('resnet18')
        assert {k: getattr(config, k) for k in values}==dict(values, lr=.5)
    for arch,pretrained,name,size in [('resnet18',True,'paper',512),('resnet18',False,'small',512),
                                      ('small',True,'small',64),(net,True,'paper',512)]:
        config = TrainConfig(pretrained=pretrained).chosen_for(arch)
        assert (config.recipe,config.size)==(name,size) and config.chosen_for('small')==config
        sentence = recipe_sentence(arch, config)
        assert arch_name(arch) in sentence and f"learning rate {recipes[name]['lr']:g}" in sentence

def test_another_version_changes_a_key(monkeypatch):
    old = base_run().key
    monkeypatch.setattr(fastai_balmix, '__version__', '99')
    assert base_run().key!=old

def test_functions_are_told_apart_by_source_and_by_what_they_hold():
    def of(source):
        def f(t): "one"
        def g(t): "two"
        return dict(f=f, g=g)[source]
    funcs = [of('f'), of('g'), holding(.1), holding(.2), holding('.1'), holding((1,2)), holding((1,3)), holding(None),
             holding(of('f')), holding(nn.Linear), partial(with_default, x=2), partial(with_default, x=3),
             partial(with_keyword, x=3), partial(with_keyword, 3), with_default, with_keyword, Callable(1), Callable(2),
             print, sorted]
    d2,k2 = (type(f)(f.__code__, f.__globals__, f.__name__, (2,), f.__closure__) for f in (with_default,with_default))
    k2.__kwdefaults__ = dict(x=3)
    got = [method_key(o) for o in (*funcs,d2,k2)] + [base_run(arch=o).key for o in (net,other_net)]
    assert len({*got})==len(got)
    seen = []
    f = holding(seen)
    key = method_key(f)
    seen.append(1) # contents count; a method that writes down what it does while it runs has a version
    assert method_key(f)!=key
    def version_key(): return base_run(method=Method('m', f, 'x', version=1)).key
    key = version_key()
    seen.append(2)
    assert version_key()==key
    assert base_run(method=Method('n', f, 'x')).key!=key

def test_functions_that_hold_one_another():
    def method(t): return method if t is None else later
    method_key(method)
    later = 1

@pytest.mark.parametrize('name', ['../../up', '/etc/passwd', 'a/b', 'x'*300, 'ü\n\0"', '..', ''])
def test_names_cannot_leave_the_folder(tmp_path, name):
    def arch(n_classes): return net(n_classes)
    arch.__name__ = name
    for run in base_run(tmp_path/'out', method=Method(name, print, 'x')),base_run(tmp_path/'out', arch=arch):
        assert run.path.parent==tmp_path/'out'/'runs' and run.path.resolve()==run.path
        assert run.path.name not in ('','.','..')
        run.path.mkdir(parents=True)

# Bad values

@pytest.mark.parametrize('bad, words', [
    (dict(recipe='slow'), "'auto' or 'paper' or 'small'"),
    (dict(epochs=0), 'epochs'), (dict(epochs=True), 'epochs'), (dict(epochs=2.), 'epochs'), (dict(size=0), 'size'),
    (dict(size=True), 'size'), (dict(size='8'), 'size'), (dict(bs=0), 'bs'), (dict(lr=-1), 'lr'),
    (dict(lr='fast'), 'lr'), (dict(lr=float('nan')), 'lr'), (dict(mom=1), 'mom'), (dict(mom=-.1), 'mom'),
    (dict(wd=-1), 'wd'), (dict(select=0), 'select'), (dict(select=.95), 'select'),
    (dict(selection='outer'), "'inner' or 'reported-fold'"), (dict(selection=['inner']), 'selection'),
    (dict(normalise='zero'), "'auto'"), (dict(pretrained='no_such_file'), 'pretrained'),
    (dict(pretrained=1), 'pretrained'), (dict(tta=1), 'tta'),
    (dict(decode='quick'), "The 'decode' parameter of TrainConfig must be 'full' or 'fast'. Got 'quick' instead."),
    (dict(store='small'), "The 'store' parameter of TrainConfig must be 'raw' or 'compact'. Got 'small' instead."),
    (dict(store='compact', size=None),
     "The 'store' parameter of TrainConfig must be 'raw' where `size` is None. Got 'compact' instead."),
    (dict(decode='fast', size=None),
     "The 'decode' parameter of TrainConfig must be 'full' where `size` is None. Got 'fast' instead."),
    (dict(amp='half'), "None, 'bf16' or 'fp16'"), (dict(amp=16), 'amp'), (dict(channels_last=1), 'channels_last'),
    (dict(compile='yes'), 'compile'), (dict(monitor='f1'), "'macro_f1'"),
    (dict(augment='much'), "'paper'"), (dict(augment=5), 'augment'),
    (dict(augment=dict(flop=1)), "'flip'"), (dict(augment=dict(flip='no')), 'flip'),
    (dict(augment=dict(scale=[1.2,.9])), 'scale'), (dict(augment=dict(scale=[0,1])), 'scale'),
    (dict(augment=dict(scale=5)), 'scale'), (dict(augment=dict(scale=['a','b'])), 'scale'),
    (dict(augment=dict(shift=2)), 'shift'), (dict(augment=dict(rotate=-1)), 'rotate'),
    (dict(augment=dict(hue=.6)), 'hue'), (dict(augment=dict(jitter='x')), 'jitter')
])
def test_bad_settings(bad, words):
    with pytest.raises(ValueError) as e: TrainConfig(**bad)
    assert words in str(e.value)

@pytest.mark.parametrize('arch, words', [
    ('mobilenetv2_10', 'mobilenetv2_100'), ('test_byobnet.r160_in2k', 'test_byobnet.r160_in1k'),
    ('', 'no architecture'), (5, "'archs' parameter"), (None, 'archs'), ('smal', 'no architecture'),
    ('hf-hub:timm/resnet18', 'no architecture'), ('../x', 'no architecture')
])
def test_unknown_architectures(arch, words):
    with pytest.raises(ValueError) as e: check_arch(arch)
    assert words in str(e.value) and len(str(e.value))<300

def test_weights_from_a_file(tmp_path):
    import timm
    torch.manual_seed(1)
    donor = timm.create_model('test_byobnet', num_classes=1000)
    torch.save(donor.state_dict(), tmp_path/'w.pth')
    torch.manual_seed(2)
    model = make_model('test_byobnet', 3, tmp_path/'w.pth')
    fresh = make_model('test_byobnet', 3, False)
    a,b,c = (dict(m.named_parameters()) for m in (donor,model,fresh))
    body = [k for k in a if a[k].shape==b[k].shape and a[k].ndim>1]
    assert len(body)>5 and model.eval()(torch.zeros(1,3,32,32)).shape==(1,3)
    for k in body:
        assert torch.equal(a[k], b[k]), k
        assert not torch.equal(a[k], c[k]), k

def test_weights_that_cannot_be_downloaded_stop_before_training(tmp_path, monkeypatch):
    import timm
    asked,create = [],timm.create_model
    def offline(arch, pretrained, **kwargs):
        asked.append(arch)
        if pretrained: raise FileNotFoundError('cannot find the requested files in the local cache')
        return create(arch, pretrained=False, **kwargs)
    monkeypatch.setattr(timm, 'create_model', offline)
    kwargs = dict(archs='test_byobnet', epochs=1, size=16, bs=32, augment='none', show=False)
    words = 'The weights of test_byobnet are not on this machine, and cannot be downloaded: cannot find the requested'
    data = digits(n_folds=2)
    with pytest.raises(OSError, match=words): compare(data, ['instance','sqrt'], **kwargs, out=tmp_path/'a')
    assert len(asked)==1 and not [*(tmp_path/'a').glob('runs/*')]
    assert len(compare(data, ['instance'], **kwargs, pretrained=False, out=tmp_path/'b').df)

# Augmentation

spot = Image.fromarray(np.pad(np.full((8,8,3), 255, np.uint8), ((4,20),(4,20),(0,0)))) # bright, upper left, in 32×32

def moved(augment, n=60):
    "Centre and brightness of the spot in images as training sees them, (n,3)"
    data = ImageData(pd.DataFrame(dict(path=[str(i) for i in range(n+2)], label='a', fold=[1]*n+[2]*2)), ['a'],
                     images=lambda key: spot)
    torch.manual_seed(0)
    dls = data.dataloaders(fold=2, size=32, bs=n, item_tfms=augmentation(**augment), num_workers=0)
    res = []
    for dl in dls.train.new(shuffle=False),dls.valid:
        x = torch.cat([b[0] for b in dl]).mean(1).numpy()
        i = np.arange(32)
        res.append(np.stack([(x.sum(2)@i)/x.sum((1,2)), (x.sum(1)@i)/x.sum((1,2)), x.sum((1,2))], axis=1))
    np.testing.assert_allclose(res[1], [[7.5,7.5,64]]*2, rtol=1e-5) # never in validation
    return res[0]

def test_flips():
    there,right,below,across = (7.5,7.5),(7.5,23.5),(23.5,7.5),(23.5,23.5)
    cases = dict(none={there}, horizontal={there,right}, vertical={there,below}, both={there,right,below,across})
    for flip,places in cases.items():
        got = moved(dict(flip=flip))
        assert {(a,b) for a,b,_ in got.round(2).tolist()}==places
        for axis in 0,1: # each with probability ½: 60 draws stay within 4 standard errors, 15.5
            if len({p[axis] for p in places})>1: assert abs((got[:,axis]>16).sum()-30)<15.5

def test_moves():
    s = moved(dict(shift=.1))
    assert s[:,:2].min()>=7.5-3.3 and s[:,:2].max()<=7.5+3.3 and s[:,0].std()>.5 and s[:,1].std()>.5
    z = moved(dict(scale=[.8,1.2]))
    assert .8**2*64*.9<z[:,2].min()<64<z[:,2].max()<1.2**2*64*1.1
    r = moved(dict(rotate=30))
    angle = np.degrees(np.arctan2(r[:,0]-15.5, r[:,1]-15.5)-np.arctan2(-8, -8))
    assert np.abs(angle).max()<32 and np.abs(angle).max()>15
    assert np.abs(r[:,2]-r[:,2].round()).max()>.02 # pixels are mixed, not chosen
    j = moved(dict(jitter=.5))
    assert 64*.25<j[:,2].min()<60 and j[:,2].std()>2
    paper = moved(augments['paper'])
    assert paper[:,2].std()>2

# Runs on disk

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    run = short_run(tmp_path_factory.mktemp('run'))
    out = attempt(run)
    assert out.status=='finished' and out.new
    return run,out

@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path/'out')
    return replace(finished[0], folder=tmp_path/'out'),finished[1]

def figures(record): return json.dumps(record['rows']) # NaN equals NaN

def test_a_finished_run_is_not_trained_again(copied, monkeypatch):
    run,first = copied
    monkeypatch.setattr(attempts, 'train', None)
    out = attempt(run)
    assert out.status=='finished' and not out.new and json.dumps(out.record)==json.dumps(first.record)
    assert sorted(o.name for o in run.path.iterdir())==['lock','predictions.npz','run.json']

@pytest.mark.parametrize('name, damage', [
    *((n,d) for n in ('run.json','predictions.npz') for d in ('cut','empty','gone')),
    *(('run.json',o) for o in (b'{}',b'null',b'"x"',b'\xff\xfe',b'{"n_bytes": 3}'))
])
def test_a_damaged_run_is_done_again(copied, name, damage):
    run,first = copied
    p = run.path/name
    b = p.read_bytes()
    if damage=='gone': p.unlink()
    else: p.write_bytes(dict(cut=b[:len(b)//2], empty=b'').get(damage, damage))
    assert read_record(run.path) is None
    out = attempt(run)
    assert out.new and out.status=='finished' and figures(out.record)==figures(first.record)
    read_predictions(run.path)

def test_flipped_bytes_in_predictions_are_a_clear_word(copied):
    run,_ = copied
    p = run.path/'predictions.npz'
    b = bytearray(p.read_bytes())
    b[len(b)//2] ^= 255
    b[200] ^= 255
    p.write_bytes(b)
    with pytest.raises(ValueError, match='predictions that cannot be read. Delete this folder'):
        for part in 'report','select': read_predictions(run.path, part)

class Malice:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch,(self.path,)

def test_predictions_are_never_unpickled(copied, tmp_path):
    run,_ = copied
    np.savez(run.path/'predictions.npz', **{'report/paths':np.array([Malice(tmp_path/'harm')], dtype=object)})
    with pytest.raises(ValueError): read_predictions(run.path)
    (run.path/'predictions.npz').write_bytes(pickle.dumps(Malice(tmp_path/'harm')))
    with pytest.raises(ValueError): read_predictions(run.path)
    assert not (tmp_path/'harm').exists()

def test_no_stored_array_is_of_objects(finished):
    with np.load(finished[0].path/'predictions.npz', allow_pickle=False) as f:
        assert {f[k].dtype.kind for k in f.files}<={'f','i','U'}

def test_unknown_part(finished):
    with pytest.raises(ValueError, match=r"one of \['report', 'select'\]. Got 'messidor2'"):
        read_predictions(finished[0].path, 'messidor2')

def test_work_elsewhere_is_left_alone(copied):
    run,_ = copied
    (run.path/'run.json').unlink()
    with FileLock(run.path/'lock'): assert attempt(run).status=='busy'
    assert attempt(run).status=='finished'

def test_an_error_becomes_part_of_the_outcome(tmp_path):
    def boom(t):
        if (tmp_path/'mended').exists(): return
        raise KeyError('two\nlines')
    run = short_run(tmp_path, method=Method('boom', boom, 'x'))
    out = attempt(run)
    assert out.status=='failed' and out.new and out.error=="KeyError: 'two\\nlines'" and '\n' not in out.error
    (o,) = read_failures(tmp_path/'out')
    assert (o['run'],o['method'],o['fold'],o['seed'],o['error'])==(run.key,'boom',1,0,out.error)
    assert 'Traceback' in o['traceback'] and 'boom' in o['traceback']
    assert read_failures(tmp_path/'out', run.settings)==[o] and read_failures(tmp_path/'out', 'another')==[]
    (tmp_path/'mended').touch()
    assert attempt(run).status=='finished' and read_failures(tmp_path/'out')==[]
    assert not (run.path/'error.json').exists()

def test_a_finished_run_has_not_failed(copied):
    run,_ = copied
    # killed before it was removed
    (run.path/'error.json').write_text(json.dumps(dict(run=run.key, settings=run.settings, error='of old')))
    assert read_failures(run.folder)==[]

def test_ctrl_c_ends_a_process(tmp_path):
    def method(t): raise KeyboardInterrupt
    run = base_run(tmp_path/'out', method=Method('m', method, 'x'))
    with pytest.raises(KeyboardInterrupt): attempt(run)
    assert not (run.path/'error.json').exists()
    FileLock(run.path/'lock', timeout=0).acquire().lock.release()

class Wordless(Exception):
    def __str__(self): raise RuntimeError('no words')
    __repr__ = __str__

class Leaving(Exception):
    def __str__(self): sys.exit(3)

class BadNotes(Exception): __notes__ = 7

class Unpickled(Exception):
    def __init__(self): self.lock = threading.Lock()
    def __str__(self): return 'with a lock'

not_of_exception = '. It ends this run, not the process'
# What a method raises, and what is said of it
raised = {
    'exit': (lambda: SystemExit(3), 'SystemExit: 3'+not_of_exception),
    'exit without a word': (SystemExit, 'SystemExit'+not_of_exception),
    'cancelled': (asyncio.CancelledError, 'CancelledError'+not_of_exception),
    'generator': (lambda: GeneratorExit('x'), 'GeneratorExit: x'+not_of_exception),
    'no text': (Wordless, 'Wordless, whose text cannot be shown'),
    'leaving': (Leaving, 'Leaving, whose text cannot be shown'),
    'notes': (BadNotes, 'BadNotes, whose text cannot be shown'),
    'unpickled': (Unpickled, 'Unpickled: with a lock'),
    'terminal': (lambda: ValueError('\x1b[31mred\udcff'), 'ValueError: \ufffd[31mred\ufffd'),
    'empty': (ValueError, 'ValueError'),
}

@pytest.mark.parametrize('where', ['method','batch'])
@pytest.mark.parametrize('name', raised)
def test_whatever_a_method_raises_fails_that_run_alone(tmp_path, name, where):
    make,words = raised[name]
    def throw(*args): raise make()
    def method(t):
        if where=='method': throw()
        t.cbs.append(Callback(before_batch=throw))
    out = attempt(short_run(tmp_path, method=Method('m', method, 'x')))
    assert out.status=='failed' and out.new
    # before the text of an `Exception` fastai puts words of its own, and may fail at that
    if where=='method' or name in ('exit','cancelled','generator'): assert out.error==words
    (o,) = read_failures(tmp_path/'out')
    assert o['error']==out.error and 'Traceback' in o['traceback']
    assert attempt(short_run(tmp_path)).status=='finished'

def put_in_the_way(path, what, far):
    if what=='folder':
        path.mkdir()
        (path/'thesis.tex').write_text('mine')
    elif what=='link': path.symlink_to(far)
    else: os.mkfifo(path)

@pytest.mark.parametrize('what', ['folder','link','pipe'])
@pytest.mark.parametrize('name', ['lock','predictions.npz','error.json','checkpoint1.pth','weights.pth',''])
def test_what_is_in_the_way_is_named_and_kept(tmp_path, name, what):
    "Before anything is trained, so that no training is lost; a link is not followed"
    run = short_run(tmp_path)
    far = tmp_path/'far'
    far.write_text('mine') if name else far.mkdir()
    if not name and what=='folder': return # where a run's folder belongs
    path = run.path/name if name else run.path
    path.parent.mkdir(parents=True)
    put_in_the_way(path, what, far)
    out = attempt(run)
    assert out.status=='failed' and not (run.path/'run.json').exists()
    assert f"'{path}' is" in out.error and out.error.endswith(f'Remove it with: rm -r {path}')
    assert far.read_text()=='mine' if name else not [*far.iterdir()]
    if what=='folder': assert (path/'thesis.tex').read_text()=='mine'
    subprocess.run(out.error.rpartition(': ')[2], shell=True, check=True)
    assert attempt(run).status=='finished'

def test_one_run_in_the_way_stops_no_other(tmp_path):
    run = short_run(tmp_path)
    run.path.parent.mkdir(parents=True)
    run.path.write_text('mine')
    res = compared(tmp_path, [*map(find_method, ['instance','class'])], epochs=1)
    (o,) = res.meta['failed']
    assert {*res.df.method}=={'class'} and o['method']=='instance' and 'Remove it with: rm -r' in o['error']

def test_leftovers_of_killed_processes_go(copied):
    run,_ = copied
    (run.path/'run.json').rename(run.path/'run.json.123.part')
    (run.path/'checkpoint1.pth.77.part').write_bytes(b'half')
    attempt(run)
    assert not [*run.path.glob('*.part')]

def test_a_selection_split_without_a_class_is_said_in_the_record(tmp_path):
    data = grades((48,32,2), part=lambda i: ('train','valid','test')[i%3], ordered=False)
    assert np.bincount(data.y[data.parts()['select']], minlength=3)[2]==1
    df = data.df.copy()
    df.loc[(df.label=='g2') & (df.split=='valid'), 'split'] = 'test'
    run = short_run(tmp_path, data=ImageData(df, data.vocab, images=picture), fold=0)
    out = attempt(run)
    assert out.status=='finished' and any('no item of class 2' in o for o in out.record['warnings'])

def test_without_git(copied, monkeypatch):
    run,_ = copied
    (run.path/'run.json').unlink()
    monkeypatch.setenv('PATH', '/nowhere')
    out = attempt(run)
    assert out.status=='finished' and out.record['revision']==''

@pytest.mark.parametrize('told', [None, '{"url": "file:///here"}', '{"vcs_info": {"vcs": "git", "commit_id": "abc"}}'])
def test_the_repository_at_hand_is_not_asked(copied, tmp_path, monkeypatch, told):
    "Its configuration may name a program that Git runs"
    run,_ = copied
    (run.path/'run.json').unlink()
    marker = tmp_path/'was_run'
    spy = tmp_path/'spy'
    spy.write_text(f'#!/bin/sh\ntouch {marker}\n')
    spy.chmod(0o755)
    def git(*args): subprocess.run(['git',*args], cwd=tmp_path, check=True, capture_output=True)
    git('init')
    git('-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '--allow-empty', '-m', 'a')
    git('config', 'core.fsmonitor', str(spy))
    git('describe', '--always', '--dirty')
    assert marker.exists() # or this test tells nothing
    marker.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('fastai_balmix.__file__', str(tmp_path/'site-packages'/'fastai_balmix'/'__init__.py'))
    monkeypatch.setattr('importlib.metadata.PathDistribution.read_text', lambda self, name: told)
    out = attempt(run)
    assert out.status=='finished' and out.record['revision']==('abc' if told and 'vcs' in told else '')
    assert not marker.exists()

# The table

def test_names_and_numbers_survive_the_table(copied, tmp_path):
    _,out = copied
    folder = tmp_path/'table'
    folder.mkdir()
    recs = []
    for i,name in enumerate(('NA','nan','None','1.0','007','null','-','1e5')):
        rec = json.loads(json.dumps(out.record))
        rec.update(revision=name, settings='123456789012', host=name, run=name, fingerprint='12e45678')
        for o in rec['rows']: o.update(method=name, arch=name, mcc=1/3+i/7)
        recs.append(rec)
    results.results_table(recs).to_csv(folder/'results.csv', index=False)
    (folder/'meta.json').write_text('{"data": "x"}')
    df = Results(folder).df
    for k in 'method','arch','revision','host','run':
        assert [*df[k].unique()]==['NA','nan','None','1.0','007','null','-','1e5'], k
    assert {*df.settings}=={'123456789012'} and {*df.fingerprint}=={'12e45678'}
    assert df.mcc.tolist()==[o['mcc'] for r in recs for o in r['rows']]

@pytest.mark.parametrize('name, content, words', [
    ('results.csv', b'', 'results.csv'), ('results.csv', b'a,b\n1,2,3\n4,5,6,7,8\n', 'results.csv'),
    ('results.csv', b'\xff\xfe\x00', 'results.csv'), ('meta.json', b'{"da', 'meta.json'),
    ('meta.json', b'[]', 'meta.json'), ('meta.json', None, 'holds meta.json'),
    ('results.csv', None, 'holds results.csv')
])
def test_a_damaged_folder_of_results_is_a_clear_word(tmp_path, every, name, content, words):
    for o in 'results.csv','meta.json': shutil.copy(every[0].folder/o, tmp_path/o)
    if content is None: (tmp_path/name).unlink()
    else: (tmp_path/name).write_bytes(content)
    with pytest.raises(ValueError) as e: Results(tmp_path)
    assert words in str(e.value)
