"""What training took, counted again from outside: items as a data set gives them, images as a network meets them, steps
as the optimiser makes them. Runs that are cut short and resumed have the counts of unbroken ones, and records without
counts stay readable."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation
from fastai.optimizer import Optimizer
from fastai.vision import all as fv
from test_runs import base_run, compared, config
from toys import Noisy, make_net, seeded_dl

from fastai_balmix.callback.deferred import Deferred
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.classifier import crt, linear_probe
from fastai_balmix.compare import fitting
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.effort import Effort, effort_sentences, effort_table, uncounted_sentence
from fastai_balmix.compare.records import effort_columns, read_record, sealed
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.summary import summarise

COUNTED = effort_columns[:3]


# ------------------------------------------------------------------ a fit

class Seen(Noisy):
    "Counts its items while a fit trains"
    watched,n = False,0
    def __getitem__(self, i):
        self.n += self.watched
        return super().__getitem__(i)

class Watch(fv.Callback):
    "Says when items are those of training, and counts what the network meets, and steps"
    order = 200 # what is checked before training begins is not training
    def __init__(self, ds): self.ds,self.images,self.steps = ds,0,0
    def before_fit(self):
        self.hook = self.model[0].register_forward_hook(self.passed)
        self.opt_step,self.opt.step = self.opt.step,self.stepped
    def passed(self, model, x, y): self.images += len(x[0])*self.ds.watched
    def stepped(self):
        self.steps += 1
        self.opt_step()
    def before_train(self): self.ds.watched = True
    def after_train(self): self.ds.watched = False
    def after_fit(self):
        self.hook.remove()
        self.opt.step = self.opt_step

ways = dict(
    plain=list, balmix=lambda: [BalancedMixUp(.3, seed=1)], pairs=lambda: [BalancedMixUp(.3, per_item=True, seed=1)],
    mixup=lambda: [MixUp(.4)], remix=lambda: [Remix(seed=1)], progressive=lambda: [ProgressiveSampling(seed=1)],
    accumulated=lambda: [GradientAccumulation(24)],
    deferred=lambda: [BalancedMixUp(1., seed=1), Deferred('class', mix=False, start=.5, seed=1)])

@pytest.mark.parametrize('way', ways)
def test_counts_of_a_fit_are_those_of_who_watches(way):
    ds,effort = Seen(),Effort()
    dls = fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))
    watch = Watch(ds)
    learn = fv.Learner(dls, make_net(), fv.CrossEntropyLossFlat(), opt_func=fv.SGD, lr=.05, cbs=[effort,watch])
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=ways[way]())
    assert effort.counts==dict(steps=watch.steps, images_read=ds.n, images_passed=watch.images)
    n_batches = -(-len(ds)//8)
    assert effort.counts['images_passed']==4*len(ds) and effort.epochs==4
    if way=='accumulated': assert 0<watch.steps<4*n_batches//2
    else: assert watch.steps==4*n_batches
    more = ds.n/watch.images
    assert 1<more<2 if way in ('balmix','pairs','deferred') else more==1

def test_validation_in_the_middle_of_an_epoch_is_not_training():
    class Often(fv.Callback):
        def after_batch(self):
            if self.training and self.iter%2==0: self.learn.validate()
    def counts(*cbs):
        ds,effort = Noisy(),Effort()
        dls = fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))
        learn = fv.Learner(dls, make_net(), fv.CrossEntropyLossFlat(), opt_func=fv.SGD, lr=.05, cbs=[effort,*cbs])
        with learn.no_bar(), learn.no_logging(): learn.fit(2)
        return effort.counts
    assert counts(Often())==counts()

def test_features_are_computed_once():
    for train,steps in (partial(crt, once=True),1),(linear_probe,0):
        ds,effort = Noisy(),Effort()
        dls = fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))
        learn = fv.Learner(dls, make_net(), fv.CrossEntropyLossFlat(), opt_func=fv.SGD, lr=.05, cbs=[effort])
        n_batches = -(-len(ds)//8)
        with learn.no_bar(), learn.no_logging():
            if steps: learn.fit(1)
            train(learn, 3, .1)
        images = (steps+1)*len(ds)
        assert effort.counts==dict(steps=(steps+3)*n_batches, images_read=images, images_passed=images)


# ------------------------------------------------------------------ runs

@contextmanager
def steps_counted(then=None):
    "Steps that optimisers make, counted where they are made; `then` is called with their number after each"
    made,whole = [],Optimizer.step
    def step(self, closure=None):
        whole(self, closure)
        made.append(1)
        if then is not None: then(len(made))
    Optimizer.step = step
    try: yield made
    finally: Optimizer.step = whole

twice = 'crt','crt_features','label_aware_smoothing'
once = 'instance','balmix_0.3','balmix_drs','remix','linear_probe','tau_norm'

@pytest.mark.parametrize('method', [*once,*twice])
def test_a_record_has_what_a_plain_loop_counts(tmp_path, method):
    with steps_counted() as made: res = compared(tmp_path, [method], epochs=3)
    record = res.record(res.df.run[0])
    n,bs = sum(record['train_counts']),14
    steps = sum(1 for epoch in range(3+(method in twice)) for start in range(0, n-bs+1, bs))
    assert record['steps']==steps==len(made)
    images = bs*steps
    if method=='linear_probe': images = n
    if method=='crt_features': images = bs*(3*(n//bs))+n
    assert record['images_passed']==images
    more = record['images_read']/images
    assert 1<more<2 if method.startswith('balmix') else more==1
    assert 0<record['train_seconds']<=record['seconds']
    row = res.df.iloc[0]
    assert [row[k] for k in effort_columns]==[record[k] for k in effort_columns]

def interrupted(run, at):
    "An attempt that ends in step `at`, as Ctrl-C ends it"
    def stop(n):
        if n==at: raise KeyboardInterrupt
    with steps_counted(stop), pytest.raises(KeyboardInterrupt): attempt(run)

def run_like(folder, method): return base_run(folder, method=method, config=replace(config, epochs=3))

@pytest.mark.parametrize('method', ['instance','balmix_0.3','crt','crt_features','linear_probe'])
def test_a_resumed_run_has_the_counts_of_an_unbroken_one(tmp_path, monkeypatch, method):
    whole = attempt(run_like(tmp_path/'whole', method)).record
    per_epoch = sum(whole['train_counts'])//14
    run = run_like(tmp_path/'cut', method)
    # in the second epoch, in the third, and after it, where a second fit begins
    cuts = per_epoch+2,per_epoch+1,per_epoch+1
    for at in cuts[:3 if method in twice else 2]: interrupted(run, at)
    with monkeypatch.context() as m: # when all fits are over
        def stop(*args): raise KeyboardInterrupt
        m.setattr(fitting, '_predict_all', stop)
        with pytest.raises(KeyboardInterrupt): attempt(run)
    with steps_counted() as made: assert attempt(run).status=='finished' and not made
    record = read_record(run.path)
    assert [record[k] for k in COUNTED]==[whole[k] for k in COUNTED]
    assert record['history']==whole['history']


# ------------------------------------------------------------------ records without counts

@pytest.fixture(scope='module')
def kept(tmp_path_factory): return compared(tmp_path_factory.mktemp('kept'), ['instance','crt'], folds=(1,2))

def without_counts(res, keys):
    "Take the counts out of records, as an earlier version wrote them"
    for key in keys:
        path = res.folder/'runs'/key/'run.json'
        record = json.loads(path.read_text())
        path.write_bytes(sealed({k: v for k,v in record.items() if k not in (*effort_columns,'seal')}))

def test_who_was_given_more_is_said_in_every_table(kept):
    said = 'cRT took 1.5 times the steps of plain sampling.' # two epochs, and one more
    s = summarise(kept)
    assert said in s.caveats and all(said in o.notes for o in s.tables())
    assert f'- {said}' in s.to_markdown().replace('\\', '')
    assert effort_sentences(effort_table(kept.df, 'crt'), 'crt')==['Plain sampling took 0.667 times the steps of cRT.']

def test_records_of_an_earlier_version_are_read(kept, tmp_path):
    shutil.copytree(kept.folder, tmp_path/'old')
    old = Results(tmp_path/'old')
    for n in 1,4:
        without_counts(old, old.df.run.unique()[:n])
        res = Results(old.folder)
        assert res.df.steps.isna().sum()==n*len(res.df)//4
        notes = ' '.join(summarise(res).notes)
        assert f'Steps and images of training were not counted in {n} of 4 runs' in notes
        assert ('cRT took 1.5 times' in notes)==(n==1) # of the fold where both are known
    (old.folder/'runs').rename(tmp_path/'elsewhere') # the table alone, without the columns
    table = (old.folder/'results.csv')
    Results(old.folder).df.drop(columns=[*effort_columns]).to_csv(table, index=False)
    df = Results(old.folder).df
    assert effort_table(df, 'instance')[[*effort_columns]].isna().all(axis=None) and uncounted_sentence(df)

def test_a_checkpoint_of_an_earlier_version_is_resumed_without_counts(tmp_path):
    run = run_like(tmp_path, 'instance')
    interrupted(run, 5)
    path = run.path/'checkpoint1.pth'
    state = torch.load(path, weights_only=True)
    assert 'Effort 1' in state['cbs']
    del state['cbs']['Effort 1']
    state['recipe'] = {k: v for k,v in state['recipe'].items() if 'Effort' not in k}
    torch.save(state, path)
    assert attempt(run).status=='finished'
    record = read_record(run.path)
    assert not {*COUNTED} & {*record} and record['train_seconds']>0
