"""The notebooks show metrics in one learner and one warning of each kind. Here scores meet scikit-learn however batches
are cut, callbacks monitor them, learners share them, several processes add them up over gloo, and every pair of
corrections, and every order of class names, is tried before a fit."""

import copy
import pickle
import types
import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import toys
from conftest import warm_call
from fastai.vision.all import (
    Adam,
    Callback,
    CategoryBlock,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoader,
    DataLoaders,
    EarlyStoppingCallback,
    FocalLossFlat,
    IndexSplitter,
    ItemGetter,
    Learner,
    SaveModelCallback,
    TransformBlock,
    WeightedDL,
    accuracy,
    defaults,
    error_rate,
    load_learner,
)
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn import metrics as skm
from torch import nn
from torch.nn import functional as F
from toys import Numbered, must_be, on_ranks, quiet_fit, seeded_dl, tail_targets

import fastai_balmix.all  # noqa: F401 # puts FitCheck into every learner
from fastai_balmix.callback.fitcheck import FitCheck, nominal_prior
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.datasets.longtail import digits_lt
from fastai_balmix.loaders.draws import sampling_probs
from fastai_balmix.losses import (
    ClassBalancedLoss,
    CostSensitiveRegularisation,
    GaussianLabelSmoothing,
    LogitAdjustedLoss,
    QWKLoss,
    WeightedFocalLoss,
)
from fastai_balmix.metrics.learner import (
    MCC,
    BalancedAcc,
    BrierError,
    CalibrationError,
    ConfusionMetric,
    GeometricMean,
    KendallTau,
    MacroF1,
    QuadKappa,
    imbalance_metrics,
    shot_metrics,
)
from fastai_balmix.metrics.probabilities import brier_error, calibration_error
from fastai_balmix.metrics.scores import balanced_acc, mcc

pytestmark = pytest.mark.filterwarnings('ignore:.*y_pred contains classes', 'ignore:.*single label',
    'ignore:.*only one label', 'ignore::DeprecationWarning')
COUNTS = 40,20,9,4

close = partial(toys.close, atol=1e-12, equal_nan=True)

class Points(toys.Points):
    "Random points with a long tail of labels, which they hint at"
    def __init__(self, counts=COUNTS, seed=0):
        super().__init__(counts, seed)
        self.x[torch.arange(len(self)),torch.tensor(self.targets, dtype=torch.long)] += 1

def make_dls(train=COUNTS, valid=(17,11,6,3), bs=8):
    return DataLoaders(seeded_dl(Points(train), bs), seeded_dl(Points(valid, seed=1), bs, shuffle=False))

def make_learner(metrics=(), loss_func=None, dls=None, model=None, **kwargs):
    torch.manual_seed(3)
    return toys.make_learner(dls or make_dls(), loss_func or CrossEntropyLossFlat(), net=model or nn.Linear(6, 4),
        metrics=list(metrics),
                             **{'opt_func':Adam, **kwargs})

def five(): return [*imbalance_metrics(ordered=True), GeometricMean()]
def everything(): return [*five(), CalibrationError(), BrierError()]

def quietly(f, *args, **kwargs):
    with mock.patch('builtins.print'): return f(*args, **kwargs)

def validate(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return quietly(learn.validate, *args, **kwargs)

def expected(pred, targ):
    "The paper's five and the geometric mean, by scikit-learn and scipy"
    t,p = np.asarray(targ),np.asarray(pred).argmax(1)
    return [skm.matthews_corrcoef(t, p), skm.balanced_accuracy_score(t, p),
        skm.f1_score(t, p, average='macro', zero_division=0),
            skm.cohen_kappa_score(t, p, weights='quadratic', labels=range(np.shape(pred)[1])),
            stats.kendalltau(t, p).statistic,
            stats.gmean(skm.recall_score(t, p, labels=np.unique(t), average=None))]

def feed(metrics, batches, loss_func=None, dl=None, others=()):
    "Hand `metrics` batches `(pred, targ)` as a learner's recorder does; their values"
    learn = types.SimpleNamespace(metrics=[*others,*metrics], loss_func=loss_func, dl=dl)
    for m in metrics: m.reset()
    for learn.pred,y in batches:
        learn.yb = (y,)
        for m in metrics: m.accumulate(learn)
    return [m.value for m in metrics]

def answers(n, k, seed=0):
    "Network outputs, right more often than not, and a long tail of true classes"
    rng = np.random.default_rng(seed)
    t = np.minimum(rng.exponential(k/4, n).astype(int), k-1)
    pred = rng.normal(size=(n,k)).astype(np.float32)
    pred[np.arange(n),t] += 1
    return torch.from_numpy(pred),torch.from_numpy(t)

# --- values ---

@pytest.mark.parametrize('bs', [1, 7, 37, 64])
def test_values_are_those_of_all_predictions(bs):
    learn = quiet_fit(make_learner([*five(), CalibrationError(), BrierError(), accuracy], dls=make_dls(bs=bs)))
    probs,targs = learn.get_preds()
    got = validate(learn)[1:]
    close(got[:6], expected(probs, targs))
    close(got[6:8], [calibration_error(probs, targs), brier_error(probs, targs)], atol=1e-6)
    assert (learn.metrics[0].matrix==skm.confusion_matrix(targs, probs.argmax(1), labels=range(4))).all()
    assert learn.metrics[0].matrix.dtype==np.int64
    assert [m.name for m in learn.metrics[:8]]==['mcc','balanced_acc','macro_f1','quad_kappa','kendall_tau',
        'geometric_mean','calibration_error','brier_error']
    close(got[8], np.trace(learn.metrics[0].matrix)/37, atol=1e-6)
    # What a fit shows is the same
    assert learn.recorder.metric_names==['epoch','train_loss','valid_loss',*[m.name for m in learn.metrics],'time']

def digits_learner(metrics, **kwargs):
    dls = digits_lt(size=8, n_max=20, valid_pct=.05)
    return make_learner(metrics, dls=dls, model=nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), **kwargs)

@settings(max_examples=15)
@given(data=st.data(), n=st.integers(2, 60), k=st.sampled_from([2, 3, 23]))
def test_a_metric_ignores_how_batches_were_cut(data, n, k):
    pred,targ = answers(n, k)
    cuts = sorted(data.draw(st.lists(st.integers(1, n-1), unique=True, max_size=8)))
    batches = list(zip(torch.tensor_split(pred, cuts), torch.tensor_split(targ, cuts)))
    mets = [MCC(), BalancedAcc(), CalibrationError(), BrierError()]
    got = feed(mets, batches, CrossEntropyLossFlat())
    probs,p = torch.softmax(pred, -1),pred.argmax(1)
    close(got[:2], [skm.matthews_corrcoef(targ, p), skm.balanced_accuracy_score(targ, p)])
    close(got[2:], [calibration_error(probs, targ), brier_error(probs, targ)], atol=1e-6)
    assert (mets[0].matrix==skm.confusion_matrix(targ, pred.argmax(1), labels=range(k))).all()

class Keep(Callback):
    "Keeps outputs and targets of every training batch"
    run_valid,order = False,80
    def before_epoch(self): self.preds,self.targs = [],[]
    def after_batch(self):
        self.preds.append(self.pred.detach().clone())
        self.targs.append(self.y.clone())

def test_on_training_batches_too():
    keep = Keep()
    learn = make_learner(imbalance_metrics(), cbs=keep)
    learn.recorder.train_metrics = True
    quiet_fit(learn, 2)
    names = learn.recorder.metric_names
    row = dict(zip(names[1:], learn.recorder.values[-1]))
    close([row[f'train_{m}'] for m in ('mcc','balanced_acc','macro_f1')],
        expected(torch.cat(keep.preds), torch.cat(keep.targs))[:3])
    probs,targs = learn.get_preds()
    close([row[f'valid_{m}'] for m in ('mcc','balanced_acc','macro_f1')], expected(probs, targs)[:3])

@pytest.mark.parametrize('mix', [BalancedMixUp(alpha=1., seed=0), BalancedMixUp(alpha=1., seed=0, per_item=True)],
    ids=['batch', 'item'])
def test_on_mixed_batches_the_first_labels_count(mix):
    learn = make_learner([MCC()], cbs=mix)
    learn.recorder.train_metrics,learn.recorder.valid_metrics = True,False
    quiet_fit(learn)
    # Each item of the epoch once, partners not at all
    assert learn.metrics[0].matrix.sum(1).tolist()==list(COUNTS)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_of_other_precision(dtype):
    pred,targ = answers(300, 5)
    pred = pred.to(dtype)
    got = feed(everything(), zip(pred.split(64), targ.split(64)), nn.CrossEntropyLoss())
    exact = torch.softmax(pred.float(), -1)
    close(got[:6], expected(pred.float(), targ))
    close(got[6:], [calibration_error(exact, targ), brier_error(exact, targ)], atol=1e-6)

@pytest.mark.parametrize('k', [2, 23])
@pytest.mark.parametrize('dtype', [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_targets_of_any_integer_type(dtype, k):
    pred,targ = answers(400, k)
    close(feed([MCC()], [(pred,targ.to(dtype))]), expected(pred, targ)[:1])

def test_three_hundred_classes():
    pred,targ = answers(1000, 300)
    close(feed(imbalance_metrics(), zip(pred.split(333), targ.split(333))), expected(pred, targ)[:3])

class Pixels(torch.utils.data.Dataset):
    "Small images, each pixel with a class of its own"
    def __len__(self): return 21
    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        y = (torch.rand(4,5, generator=g)**3*3).long()
        return F.one_hot(y, 3).permute(2,0,1).float()+torch.randn(3,4,5, generator=g),y

@pytest.mark.parametrize('axis', [1, -3])
def test_classes_along_another_axis(axis):
    dls = DataLoaders(*(DataLoader(Pixels(), bs=8, num_workers=0) for _ in range(2)))
    learn = make_learner([*(ConfusionMetric(f, axis=axis) for f in (mcc,balanced_acc))], CrossEntropyLossFlat(axis=1),
        dls, nn.Conv2d(3, 3, 1))
    quiet_fit(learn)
    probs,targs = learn.get_preds()
    got = validate(learn)[1:]
    close(got, expected(probs.movedim(1, -1).reshape(-1, 3), targs.flatten())[:2])
    assert learn.metrics[1].matrix.sum()==21*20

def test_classes_along_two_axes_have_a_matrix_each():
    pred,targ = torch.randn(6,3,3),torch.randint(3, (6,3))
    first,last = ConfusionMetric(mcc, axis=1),ConfusionMetric(mcc)
    close(feed([first,last], [(pred,targ)]), [skm.matthews_corrcoef(targ.flatten(),
        pred.argmax(a).flatten()) for a in (1,2)])

@pytest.mark.parametrize('many,few', [(100,20), (9,5), (9,9), (1000,0), (0,0)])
def test_shots_are_groups_of_classes(many, few):
    counts = [500,100,60,20,9,5,1]
    pred,targ = answers(300, 7)
    mets = shot_metrics(counts, many, few)
    got = dict(zip((m.name for m in mets), feed(mets, [(pred,targ)])))
    recalls = {}
    for c,n in enumerate(counts):
        nm = 'many_acc' if n>many else 'few_acc' if n<few else 'medium_acc'
        right = [p==c for p,y in zip(pred.argmax(1).tolist(), targ.tolist()) if y==c]
        if right: recalls.setdefault(nm, []).append(sum(right)/len(right))
    assert list(got)==[o for o in ('many_acc','medium_acc','few_acc') if o in recalls]
    for nm,v in recalls.items(): close(got[nm], np.mean(v))

def test_metrics_know_their_place_in_the_registry():
    mets = [*everything(), *shot_metrics([200,50,3]), ConfusionMetric(mcc, 'r', ordered=True)]
    assert [m.entry.key for m in mets]==['mcc','balanced_accuracy','macro_f1','quad_kappa','kendall_tau',
        'geometric_mean',
        'calibration_error','brier','balanced_accuracy','balanced_accuracy','balanced_accuracy','mcc']
    assert [m.larger_is_better for m in mets]==[True]*6+[False]*2+[True]*4
    assert [bool(m.ordered) for m in mets[:6]]==[m.entry.ordered for m in mets[:6]]
    own = ConfusionMetric(lambda cm: cm[0,1], 'misses')
    assert own.entry is None and own.larger_is_better

def test_averages_over_all_classes_and_own_functions():
    pred,targ = answers(50, 6)
    ok = targ<4
    pred,targ = pred[ok],targ[ok]
    p,kw = pred.argmax(1),dict(labels=range(6), average='macro', zero_division=0)
    mets = [BalancedAcc('all'), MacroF1('all'), BalancedAcc([1,5]), ConfusionMetric(lambda cm: cm[2,2], name='twos'),
        ConfusionMetric(partial(balanced_acc, classes='all')), GeometricMean('all')]
    got = feed(mets, [(pred,targ)])
    close(got, [skm.recall_score(targ, p, **kw), skm.f1_score(targ, p, **kw), skm.recall_score(targ==1, p==1),
        ((p==2)&(targ==2)).sum(), skm.recall_score(targ, p, **kw), 0])
    assert [m.name for m in mets[2:5]]==['balanced_acc','twos','balanced_acc']

# Losses whose probabilities the two errors must find by themselves
@pytest.mark.parametrize('loss_func', [CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy,
    partial(F.cross_entropy, label_smoothing=.1), FocalLossFlat(), WeightedFocalLoss(),
    LogitAdjustedLoss([.4,.3,.2,.1]), QWKLoss()], ids=lambda f: getattr(f, '__name__', type(f).__name__))
def test_errors_are_of_activated_outputs(loss_func):
    pred,targ = answers(200, 4)
    probs = torch.softmax(pred, -1)
    close(feed([CalibrationError(10), BrierError()], [(pred,targ)], loss_func),
        [calibration_error(probs, targ, 10), brier_error(probs, targ)], atol=1e-6)

def test_errors_take_probabilities_as_they_are():
    pred,targ = answers(200, 4)
    probs = torch.softmax(pred, -1)
    close(feed([CalibrationError(), BrierError()], [(probs,targ)], lambda p,t: -p.gather(1, t[:,None]).log().mean()),
        [calibration_error(probs, targ), brier_error(probs, targ)], atol=1e-6)

def test_one_bin_is_accuracy_beside_confidence():
    pred,targ = answers(200, 4)
    probs = torch.softmax(pred, -1)
    close(feed([CalibrationError(1)], [(pred,targ)], CrossEntropyLossFlat()),
        [abs(skm.accuracy_score(targ, probs.argmax(1)) - probs.max(1).values.mean())], atol=1e-6)

# --- one matrix ---

def counting(): return mock.patch('torch.bincount', wraps=torch.bincount)

@pytest.mark.parametrize('metrics', [five, lambda: [accuracy, *imbalance_metrics()],
    lambda: [CalibrationError(), MCC(), error_rate, *shot_metrics([200,50,3,1])]])
def test_one_count_a_batch_serves_all(metrics):
    learn = make_learner(metrics())
    for _ in range(2):
        with counting() as count: validate(learn)
        # 37 items in batches of 8
        assert count.call_count==5

def test_another_axis_is_another_matrix():
    pred,targ = torch.randn(6,3,3),torch.randint(3, (6,3))
    with counting() as count:
        feed([ConfusionMetric(mcc, axis=1), MCC(), BalancedAcc(), ConfusionMetric(balanced_acc, axis=1)],
            [(pred,targ)]*4)
    assert count.call_count==8

def test_memory_does_not_grow_with_the_items():
    mets = everything()
    def held(): return sum(len(pickle.dumps(m)) for m in mets)
    pred,targ = answers(64, 4)
    feed(mets, [(pred,targ)], nn.CrossEntropyLoss())
    before = held()
    feed(mets, [(pred,targ)]*200, nn.CrossEntropyLoss())
    # The matrix, three rows of 15 bins, and two sums, each with two cells for what cannot be counted: all in 8 bytes
    assert held()<=before+200 and [m.sums.nbytes for m in (mets[0],*mets[-2:])]==[8*18,8*47,8*4]
    assert all(m.sums is None for m in mets[1:6])

def test_several_fits_start_anew():
    learn = make_learner(five())
    for _ in range(3):
        quietly(quiet_fit, learn, 2)
        shown = learn.recorder.values[-1][2:]
        close(shown, expected(*learn.get_preds()))
        assert learn.metrics[3].matrix.sum()==37

def test_learners_may_share_metrics_one_after_the_other():
    mets = five()
    learners = [make_learner(mets), make_learner(mets[2:][::-1], dls=make_dls(valid=(5,5,5,5)), model=nn.Linear(6, 4)),
        make_learner(mets[1:2]), make_learner([accuracy,*mets])]
    nn.init.normal_(learners[1].model.weight)
    for i in 0,1,2,3,1,0,2:
        learn = learners[i]
        probs,targs = learn.get_preds()
        want = dict(zip((m.name for m in five()), expected(probs, targs)))
        for nm,v in zip([getattr(m, 'name', '') for m in learn.metrics], validate(learn)[1:]):
            if nm in want: close(v, want[nm])

class ByHand(Callback):
    "Drives a metric that the learner does not know, on every second batch"
    order = 80
    def __init__(self, met): self.met = met
    def before_validate(self):
        self.met.reset()
        self.preds,self.targs = [],[]

    def after_batch(self):
        if self.training or self.iter%2: return
        self.met.accumulate(self.learn)
        self.preds.append(self.pred.detach())
        self.targs.append(self.y)

@pytest.mark.parametrize('own', [[], [MCC()], [QuadKappa()]])
def test_outside_of_the_learner_s_metrics(own):
    met = BalancedAcc()
    by_hand = ByHand(met)
    learn = make_learner(own, cbs=by_hand)
    quietly(quiet_fit, learn, 2)
    probs,targs = learn.get_preds()
    for m,v in zip(own, validate(learn)[1:]): close(v, expected(probs, targs)[0 if m.name=='mcc' else 3])
    close(met.value, expected(torch.cat(by_hand.preds), torch.cat(by_hand.targs))[1])
    # Of 37 items in batches of 8, the first, third and last batch
    assert met.matrix.sum()==21 and all(m.matrix.sum()==37 for m in own)

def test_looking_between_batches_changes_nothing():
    pred,targ = answers(100, 5)
    mets = [MCC(), BalancedAcc(), BrierError()]
    learn = types.SimpleNamespace(metrics=mets, dl=None, loss_func=nn.CrossEntropyLoss())
    for m in mets: m.reset()
    for i in range(0, 100, 10):
        learn.pred,learn.yb = pred[i:i+10],(targ[i:i+10],)
        for m in mets: m.accumulate(learn)
        t,p = targ[:i+10],pred[:i+10]
        close([m.value for m in mets], [skm.matthews_corrcoef(t, p.argmax(1)),
            skm.balanced_accuracy_score(t, p.argmax(1)), brier_error(p.softmax(-1), t)], atol=1e-6)

@pytest.mark.parametrize('copied', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies(copied):
    learn = make_learner(everything())
    before = validate(learn)
    met = copied(learn.metrics)
    assert [m.value for m in met]==before[1:]
    # The copies share a matrix of their own
    feed(list(met[:6]), [answers(30, 4)])
    assert met[3].matrix.sum()==30 and learn.metrics[3].matrix.sum()==37
    other = copied(learn)
    assert validate(other)==before

def test_exported_learners_still_measure(tmp_path):
    learn = quietly(quiet_fit, digits_learner(everything(), path=tmp_path))
    learn.export()
    loaded = load_learner(tmp_path/'export.pkl')
    assert validate(loaded, dl=learn.dls.valid)==validate(learn)

# --- monitors ---

N_ITEMS,N_EPOCHS = 60,8
LABELS = tail_targets(30, 18, 8, 4)
# Outputs of each epoch for each item: worse or better, and more or less sure, in no order
_gen = torch.Generator().manual_seed(0)
TABLE = torch.randn(N_EPOCHS, N_ITEMS, 4, generator=_gen) + torch.rand(N_EPOCHS, 1, 1,
    generator=_gen)*2*F.one_hot(torch.tensor(LABELS), 4)
TABLE = TABLE*torch.tensor([.3,2,1,5,.6,1.5,3,.9])[:,None,None]

class FromTable(nn.Module):
    "Answers for item i as `TABLE` has it for the epoch"
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.register_buffer('epoch', torch.tensor(0))
    def forward(self, x): return TABLE[self.epoch][x[:,0].long()] + 0*self.w

class Turn(Callback):
    def before_epoch(self): self.learn.model.epoch.fill_(self.epoch)

def table_learner(monitor, tracker, tmp_path):
    dls = DataLoaders(*(seeded_dl(Numbered(LABELS), 16, shuffle=False) for _ in range(2)))
    mets = [*imbalance_metrics(ordered=True), CalibrationError(), BrierError()]
    return Learner(dls, FromTable(), loss_func=CrossEntropyLossFlat(), metrics=mets,
        cbs=[Turn(), tracker(monitor=monitor)], path=tmp_path)

def table_scores(monitor):
    if monitor.endswith('error'):
        return [dict(calibration_error=calibration_error, brier_error=brier_error)[monitor](o.softmax(-1),
            LABELS) for o in TABLE]
    return [expected(o, LABELS)[['mcc','balanced_acc','macro_f1','quad_kappa',
        'kendall_tau'].index(monitor)] for o in TABLE]

monitors = pytest.mark.parametrize('monitor,better',
    [*((o, 1) for o in ('mcc','balanced_acc','macro_f1','quad_kappa','kendall_tau')), ('calibration_error',-1),
        ('brier_error',-1)])

@pytest.mark.thinned(3)
@monitors
def test_the_best_epoch_is_kept(monitor, better, tmp_path):
    learn = quietly(quiet_fit, table_learner(monitor, SaveModelCallback, tmp_path), N_EPOCHS)
    x = np.multiply(table_scores(monitor), better)
    assert learn.model.epoch==x.argmax()!=N_EPOCHS-1

@monitors
def test_a_fit_stops_when_nothing_gets_better(monitor, better, tmp_path):
    learn = quietly(quiet_fit, table_learner(monitor, partial(EarlyStoppingCallback, patience=2), tmp_path), N_EPOCHS)
    best,waited,n = -np.inf,0,0
    for v in np.multiply(table_scores(monitor), better):
        n,waited = n+1,0 if v>best else waited+1
        best = max(best, v)
        if waited==2: break
    assert len(learn.recorder.values)==n

# --- nothing, and nonsense ---

def test_an_empty_validation_set_has_no_score_and_the_fit_goes_on():
    learn = make_learner(everything(), dls=make_dls(valid=()))
    with pytest.warns(UserWarning) as w: quietly(quiet_fit, learn, 2)
    assert len(learn.recorder.values)==2
    assert all(np.isnan(np.array(o[2:], dtype=float)).all() for o in learn.recorder.values)
    words = [str(o.message) for o in w]
    for m in learn.metrics: assert f'{m.name}: no predictions to score.' in words
    assert learn.metrics[0].matrix is None
    # and the next, with images, has one
    learn.dls = make_dls()
    probs,targs = learn.get_preds()
    close(validate(learn)[1:7], expected(probs, targs))

@pytest.mark.filterwarnings('ignore:.*NaN')
def test_never_asked_never_told():
    for m in everything():
        with pytest.warns(UserWarning, match=f'{m.name}: no predictions'): assert np.isnan(m.value)

class Ill(nn.Module):
    "Says NaN for one item in a while"
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
    def forward(self, x): return torch.where(x[:,:1]>1.8, torch.nan, self.lin(x))

@pytest.mark.parametrize('metric', [MCC, QuadKappa, CalibrationError, BrierError])
def test_nan_predictions_have_no_score_and_a_warning(metric):
    learn = make_learner([metric()], model=Ill())
    n = int((learn.dls.valid_ds.x[:,0]>1.8).sum())
    with pytest.warns(UserWarning, match='NaN') as w: got = validate(learn)[1]
    assert np.isnan(got) and 0<n<37
    if isinstance(learn.metrics[0], ConfusionMetric):
        assert f'{learn.metrics[0].name}: {n} predictions are NaN.' in [str(o.message) for o in w]
        assert learn.metrics[0].matrix.sum()==37-n

def test_a_fit_survives_nan_predictions():
    learn = make_learner(five(), model=Ill())
    with pytest.warns(UserWarning, match='predictions are NaN'): quietly(quiet_fit, learn, 2)
    assert len(learn.recorder.values)==2

def lenient(pred, targ, **kwargs): return pred.float().mean()
GOOD = answers(20, 4)
TWO_CLASSES = ('outputs with at least two classes along `axis`, or one output and a loss known to be binary, but the '
               'outputs are of shape ')
bad_batches = [
    ((GOOD[0], GOOD[1]+1), 'class numbers in the range [0, 3] as targets, for a network of 4 classes, but '),
    ((GOOD[0], GOOD[1]-1), 'class numbers in the range [0, 3] as targets, for a network of 4 classes, but '),
    ((GOOD[0], GOOD[1].float()), 'class numbers of shape (20,) as targets, but they are torch.float32 of shape (20,).'),
    ((GOOD[0], F.one_hot(GOOD[1], 4).float()),
        'class numbers of shape (20,) as targets, but they are torch.float32 of shape (20, 4).'),
    ((GOOD[0], GOOD[1][:,None].repeat(1, 2)),
        'class numbers of shape (20,) as targets, but they are torch.int64 of shape (20, 2).'),
    ((GOOD[0][:,:1], GOOD[1]*0), TWO_CLASSES+'(20, 1).'),
    ((GOOD[0][:,0], GOOD[1]), TWO_CLASSES+'(20,).')]
bad_ids = ['too large', 'negative', 'floats', 'soft', 'columns', 'one output', 'flat']

@pytest.mark.parametrize('batch,words', bad_batches, ids=bad_ids)
def test_batches_that_no_matrix_can_count(batch, words):
    with pytest.raises(ValueError) as e: feed(imbalance_metrics(), [GOOD,batch])
    assert f'mcc needs {words}' in str(e.value)

@pytest.mark.parametrize('metric', [CalibrationError, BrierError])
@pytest.mark.parametrize('batch,words', bad_batches, ids=bad_ids)
def test_batches_that_have_no_error_of_probabilities(metric, batch, words):
    with pytest.raises(ValueError) as e: feed([metric()], [GOOD,batch], CrossEntropyLossFlat())
    assert f'{metric().name} needs {words}' in str(e.value)

@pytest.mark.parametrize('metric', [MCC, CalibrationError])
def test_outputs_for_several_tasks_are_refused(metric):
    with pytest.raises(ValueError) as e: feed([metric()], [((GOOD[0],GOOD[0]),GOOD[1])], CrossEntropyLossFlat())
    want = f'{metric().name} needs a network for one task, whose output is a tensor, but it is of type tuple.'
    assert str(e.value)==want

def test_an_error_in_a_fit_keeps_its_words():
    learn = make_learner(imbalance_metrics(), lenient, dls=make_dls(valid=(5,5,5,5,5,5)))
    with pytest.raises(ValueError) as e: quiet_fit(learn)
    want = 'mcc needs class numbers in the range [0, 3] as targets, for a network of 4 classes, but 10 are not.'
    assert want in str(e.value)

bad_args = [
    (lambda: ConfusionMetric('mcc'), must_be('ConfusionMetric', 'score',
        "a function of a confusion matrix. Got 'mcc' instead.")),
    (lambda: ConfusionMetric(mcc, axis='x'), "'axis' parameter of ConfusionMetric must be"),
    *[(lambda f=f: f('some'), "must be 'present', 'all' or a list of class numbers. Got 'some' instead.")
    for f in (BalancedAcc,MacroF1,GeometricMean)],
    *[(lambda v=v: imbalance_metrics(ordered=v), must_be('imbalance_metrics', 'ordered',
        f'True, False or the names of the classes in their order. Got {v!r} instead.'))
      for v in ('mild', 1, ['none'], None)],
    *[(lambda f=f: f('mild'), "'ordered' parameter") for f in (QuadKappa,KendallTau)],
    (lambda: shot_metrics([[1,2]]), must_be('shot_metrics', 'counts',
        'a row of numbers, none negative. Got [[1, 2]] instead.')),
    (lambda: shot_metrics([1,-2]), "'counts' parameter of shot_metrics"),
    (lambda: shot_metrics(['a']), "'counts' parameter of shot_metrics"),
    (lambda: shot_metrics([1,2], few=-1), must_be('shot_metrics', 'few',
        'a float in the range [0, inf). Got -1 instead.')),
    (lambda: shot_metrics([1,2], many=5, few=20), must_be('shot_metrics', 'many',
        'a float in the range [20, inf). Got 5 instead.')),
    (lambda: CalibrationError(0), must_be('CalibrationError', 'n_bins',
        'an int in the range [1, inf). Got 0 instead.')),
    (lambda: CalibrationError(1.5), "'n_bins' parameter of CalibrationError")]

@pytest.mark.parametrize('call,words', bad_args, ids=[w[:80] for _,w in bad_args])
def test_bad_arguments_are_told_at_once(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value)

# --- several processes ---

class LocalDL:
    "What a metric sees of the loader of one of several processes, after each batch"
    def __init__(self, n, rank, world_size):
        self.n,self.rank,self.world_size,self.i = n,rank,world_size,0
        self.n_padded = -(-n//world_size)*world_size

@given(n=st.integers(1, 40), bs=st.integers(1, 9), world_size=st.integers(1, 5))
def test_items_repeated_to_make_shares_equal_count_once(n, bs, world_size):
    "Shares are cut as fastai's `DistributedDL` cuts them, and the sums of all ranks added"
    pred,targ = answers(n, 3)
    total = 0
    for rank in range(world_size):
        dl = LocalDL(n, rank, world_size)
        idxs = torch.arange(dl.n_padded)%n
        mine = idxs[rank*dl.n_padded//world_size:(rank+1)*dl.n_padded//world_size]
        met = MCC()
        for b in mine.split(bs):
            dl.i += len(b)
            met.accumulate(types.SimpleNamespace(metrics=[met], dl=dl, pred=pred[b], yb=(targ[b],)))
        if met.matrix is not None: total = total+met.matrix
    assert (total==skm.confusion_matrix(targ, pred.argmax(1), labels=range(3))).all()

def train_rank(rank):
    "Trains and measures as one of several processes; its metrics, and the predictions of the network that all have"
    from fastai.distributed import DistributedTrainer
    res = {}
    for nm,valid,bs in ('odd',(9,7,3,2),4),('padding only',(0,1,0,0),4),('one batch',(9,7,3,2),64):
        ds = Points(valid, seed=1)
        dls = DataLoaders(seeded_dl(Points(), seed=0), seeded_dl(ds, bs, shuffle=False), device='cpu')
        learn = make_learner(everything(), dls=dls, cbs=DistributedTrainer(sync_bn=False, cpu=True))
        keep = Keep()
        learn.recorder.train_metrics = True
        quietly(quiet_fit, learn, 2, cbs=keep)
        # The trainer takes its wrapper off again; this is the plain network
        with torch.no_grad(): pred = learn.model(ds.x)
        res[nm] = dict(values=dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1])),
            matrix=learn.metrics[2].matrix, pred=pred, targ=ds.targets,
                       train=(torch.cat(keep.preds),torch.cat(keep.targs)))
    return res

def hand_rank(rank, sizes):
    "Metrics fed by hand, without a trainer, in shares of `sizes` items"
    pred,targ = answers(sum(sizes), 4)
    mine = slice(sum(sizes[:rank]), sum(sizes[:rank+1]))
    mets = everything()
    batches = zip(pred[mine].split(8), targ[mine].split(8)) if sizes[rank] else []
    values = feed(mets, batches, CrossEntropyLossFlat())
    return values,mets[0].matrix,mets[1].matrix

def expected_all(pred, targ):
    probs = torch.softmax(torch.as_tensor(pred), -1)
    return [*expected(pred, targ), calibration_error(probs, targ), brier_error(probs, targ)]

def check_trained(ranks):
    names,n = [m.name for m in everything()],sum(COUNTS)
    for nm in 'odd','padding only','one batch':
        for o in (r[nm] for r in ranks):
            torch.testing.assert_close(o['pred'], ranks[0][nm]['pred'])
            assert (o['matrix']==skm.confusion_matrix(o['targ'], o['pred'].argmax(1), labels=range(4))).all()
            if nm!='padding only':
                close([o['values'][f'valid_{m}'] for m in names], expected_all(o['pred'], o['targ']), atol=1e-6)
        # In training, the shares of an epoch, without what is repeated at the end of the last one
        preds,targs = (torch.cat([r[nm]['train'][i] for r in ranks]) for i in range(2))
        assert n<=len(targs)<n+len(ranks)
        for r in ranks:
            close([r[nm]['values'][f'train_{m}'] for m in names], expected_all(preds[:n], targs[:n]), atol=1e-6)

def check_by_hand(sizes):
    want = expected_all(*answers(sum(sizes), 4))
    for values,first,second in on_ranks(len(sizes), hand_rank, sizes):
        assert first.sum()==second.sum()==sum(sizes)
        close(values, want, atol=1e-6)

def test_two_processes_say_what_one_would(): check_trained(on_ranks(2, train_rank))
def test_two_processes_with_shares_of_their_own(): check_by_hand([37,9])
def test_a_process_without_a_batch(): check_by_hand([46,0])

@pytest.mark.slow
def test_three_processes_say_what_one_would():
    check_trained(on_ranks(3, train_rank))
    check_by_hand([20,9,1])

# --- watch: the prior ---

# Batches that hold all items keep many fits short
big_dls = partial(make_dls, bs=64)

WEIGHT = torch.tensor([1.,2,4,10])
TRAIN_PRIOR = sampling_probs(COUNTS, 'instance')

def torch_dls(sampler):
    return DataLoaders(torch.utils.data.DataLoader(Points(), batch_size=64, sampler=sampler),
        torch.utils.data.DataLoader(Points((3,3,3,3)), batch_size=64))
def item_weights(): return torch.tensor(TRAIN_PRIOR)[Points().targets]**-1

samplings = {
    "dls.weighted('class')": lambda: (big_dls().weighted('class'), None),
    "dls.weighted('sqrt')": lambda: (big_dls().weighted('sqrt'), None),
    'dls.weighted(0.3)': lambda: (big_dls().weighted(.3), None),
    'BalancedMixUp(alpha=0.2)': lambda: (big_dls(), BalancedMixUp()),
    'ProgressiveSampling': lambda: (big_dls(), ProgressiveSampling()),
    'Remix': lambda: (big_dls(), Remix()),
    'WeightedDL': lambda: (DataLoaders(WeightedDL(Points(), bs=64, wgts=item_weights(), shuffle=True, num_workers=0),
        big_dls().valid), None),
    'a WeightedRandomSampler': lambda: (torch_dls(torch.utils.data.WeightedRandomSampler(item_weights(), 73)), None)}
losses = {
    'flat': (lambda: CrossEntropyLossFlat(weight=WEIGHT), 'class weights'),
    'torch': (lambda: nn.CrossEntropyLoss(weight=WEIGHT), 'class weights'),
    'partial': (lambda: partial(F.cross_entropy, weight=WEIGHT), 'class weights'),
    'focal': (lambda: FocalLossFlat(weight=WEIGHT), 'class weights'),
    'weighted focal': (lambda: WeightedFocalLoss(WEIGHT), 'class weights'),
    'class-balanced': (lambda: ClassBalancedLoss(COUNTS), 'class weights'),
    'logit-adjusted': (lambda: LogitAdjustedLoss(TRAIN_PRIOR), 'logit adjustment'),
    'regularised': (lambda: CostSensitiveRegularisation(base=ClassBalancedLoss(COUNTS)), 'class weights')}

def heard(f, about='corrected twice'):
    "Words of the warnings of a call, those about `about`"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        quietly(f)
    return [str(o.message) for o in w if about in str(o.message)]

@pytest.mark.thinned
@pytest.mark.parametrize('sampling', samplings)
@pytest.mark.parametrize('loss', losses)
def test_a_prior_corrected_twice_is_told_once(sampling, loss):
    dls,cb = samplings[sampling]()
    loss_func,words = losses[loss]
    learn = make_learner(loss_func=loss_func(), dls=dls)
    want = [f'The class prior is corrected twice: {sampling} in the sampling, {words} in the loss. Rare classes will '
            'be predicted too often. Remove one of the two.']
    def fit(): quiet_fit(learn, 2, cbs=cb)
    assert heard(fit)==want
    assert heard(fit)==[]

def test_each_learner_says_it_and_another_reason_is_another_warning():
    dls = big_dls().weighted('class')
    learners = [make_learner(loss_func=CrossEntropyLossFlat(weight=WEIGHT), dls=dls) for _ in range(2)]
    for learn in learners: assert len(heard(lambda: quiet_fit(learn)))==1
    both = heard(lambda: quiet_fit(learners[0], cbs=BalancedMixUp()))
    assert len(both)==1 and "dls.weighted('class') and BalancedMixUp(alpha=0.2) in the sampling" in both[0]
    # Callbacks of the learner's own count as well, and one that is there for a single fit does not stay
    assert len(heard(lambda: quiet_fit(make_learner(loss_func=nn.CrossEntropyLoss(WEIGHT), cbs=BalancedMixUp()))))==1
    learn = make_learner(loss_func=nn.CrossEntropyLoss(WEIGHT), dls=big_dls())
    assert heard(lambda: quiet_fit(learn))==[]

def test_said_before_the_first_batch_and_in_lr_find():
    learn = make_learner(loss_func=CrossEntropyLossFlat(weight=WEIGHT), dls=big_dls().weighted('class'))
    def forward(*args): raise RuntimeError('a batch was seen')
    learn.model.register_forward_pre_hook(forward)
    def fit():
        with pytest.raises(RuntimeError): quiet_fit(learn)
    assert len(heard(fit))==1

def nominal(dls, *cbs): return LogitAdjustedLoss(nominal_prior(dls, *cbs))
sqrt_dls = lambda: big_dls().weighted('sqrt')
right = {
    'plain': lambda: (big_dls(), None, CrossEntropyLossFlat()),
    'weights alone': lambda: (big_dls(), None, CrossEntropyLossFlat(weight=WEIGHT)),
    'adjustment alone': lambda: (big_dls(), None, LogitAdjustedLoss(TRAIN_PRIOR)),
    'sampling alone': lambda: (big_dls().weighted('class'), None, CrossEntropyLossFlat()),
    'sampling, focal': lambda: (big_dls().weighted('class'), None, FocalLossFlat()),
    'mixing alone': lambda: (big_dls(), BalancedMixUp(), CrossEntropyLossFlat()),
    'mixing, plain PyTorch': lambda: (big_dls(), BalancedMixUp(), nn.CrossEntropyLoss()),
    'mixing not at all': lambda: (big_dls(), BalancedMixUp(alpha=0), CrossEntropyLossFlat(weight=WEIGHT)),
    'mixing as they come': lambda: (big_dls(), BalancedMixUp(q='instance'), CrossEntropyLossFlat(weight=WEIGHT)),
    "weighted('instance')": lambda: (big_dls().weighted('instance'), None, CrossEntropyLossFlat(weight=WEIGHT)),
    'weighted(1)': lambda: (big_dls().weighted(1), None, LogitAdjustedLoss(TRAIN_PRIOR)),
    'even weights': lambda: (big_dls().weighted('class'), None, CrossEntropyLossFlat(weight=torch.ones(4))),
    'even class-balanced': lambda: (big_dls().weighted('class'), None, ClassBalancedLoss(COUNTS, beta=0)),
    'no adjustment': lambda: (big_dls().weighted('class'), None, LogitAdjustedLoss(TRAIN_PRIOR, tau=0)),
    'the nominal prior of mixing': lambda: (big_dls(), BalancedMixUp(), nominal(big_dls(), BalancedMixUp())),
    'the nominal prior, regularised': lambda: (big_dls(), BalancedMixUp(),
        CostSensitiveRegularisation(base=nominal(big_dls(), BalancedMixUp()))),
    'the nominal prior of weighting': lambda: (sqrt_dls(), None, nominal(sqrt_dls())),
    'the nominal prior of both': lambda: (sqrt_dls(), BalancedMixUp(alpha=1.),
        nominal(sqrt_dls(), BalancedMixUp(alpha=1.)))}

@pytest.mark.parametrize('case', right)
def test_what_is_no_mistake_makes_no_noise(case):
    dls,cb,loss_func = right[case]()
    learn = make_learner(loss_func=loss_func, dls=dls)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        for _ in range(2): quiet_fit(learn, cbs=cb)

def test_an_adjustment_to_another_prior_is_told_also_after_one_that_was_right():
    dls,cb = big_dls(),BalancedMixUp()
    learn = make_learner(loss_func=nominal(dls, cb), dls=dls)
    assert heard(lambda: quiet_fit(learn, cbs=cb))==[]
    learn.loss_func = LogitAdjustedLoss(TRAIN_PRIOR)
    assert len(heard(lambda: quiet_fit(learn, cbs=cb)))==1

def test_the_prior_is_no_matter_outside_of_training():
    learn = make_learner([accuracy], CrossEntropyLossFlat(weight=WEIGHT), big_dls().weighted('class'))
    assert heard(lambda: (validate(learn), learn.get_preds()))==[]

@pytest.mark.parametrize('q', ['instance', 'sqrt', 'class', .3])
@pytest.mark.parametrize('alpha', [0., .2, 1.])
def test_the_nominal_prior_is_what_is_drawn(q, alpha):
    "(1-E[λ])·p + E[λ]·p', with powers of the counts for p and equal shares for p'"
    n,e = np.array(COUNTS, dtype=float),alpha/(1+alpha)
    p = n**dict(instance=1, sqrt=.5, **{'class':0}).get(q, q)
    got = nominal_prior(big_dls().weighted(q), BalancedMixUp(alpha=alpha))
    close(got, (1-e)*p/p.sum() + e/4)
    close(nominal_prior(torch_dls(None), labels=Points().targets), n/n.sum())

# --- watch: the order ---

def graded(names, sort=True):
    "Real loaders of items whose labels are `names`, sorted by fastai unless told otherwise"
    items = [(torch.randn(6), names[i%len(names)]) for i in range(24)]
    block = DataBlock(blocks=(TransformBlock, CategoryBlock(vocab=None if sort else names, sort=sort)),
        getters=[ItemGetter(0),ItemGetter(1)],
                      splitter=IndexSplitter(range(16,24)))
    return block.dataloaders(items, bs=8, num_workers=0)

def given_vocab(names):
    "The same from loaders that were told a list of names"
    dls = graded(names, sort=False)
    res = DataLoaders(dls.train, dls.valid)
    res.vocab = sorted(names)
    return res

def graded_learner(dls, metrics=None, loss_func=None):
    return Learner(dls, nn.Linear(6, len(dls.vocab)), loss_func=loss_func or CrossEntropyLossFlat(),
        metrics=imbalance_metrics(ordered=True) if metrics is None else metrics)

GRADES = ['none','mild','moderate','severe']
ALPHABETICAL = 'Ordered classes are taken as mild < moderate < none < severe, in alphabetical order.'
both_kinds = pytest.mark.parametrize('make', [graded, given_vocab])

def told(f):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        f()
    return [str(o.message) for o in w if 'rder' in str(o.message)]

@both_kinds
@pytest.mark.parametrize('kwargs', [{}, dict(metrics=[QuadKappa()]), dict(metrics=[accuracy, KendallTau()]),
    dict(metrics=[ConfusionMetric(mcc, ordered=True)]),
    dict(metrics=[], loss_func=QWKLoss()), dict(metrics=[], loss_func=GaussianLabelSmoothing()),
    dict(metrics=[], loss_func=CostSensitiveRegularisation())],
    ids=['five', 'kappa', 'tau', 'own', 'QWKLoss', 'smoothing', 'regularisation'])
def test_grades_in_alphabetical_order_are_told_once(make, kwargs, capsys):
    learn = graded_learner(make(GRADES), **kwargs)
    got = told(lambda: quiet_fit(learn, 2))
    assert len(got)==1 and got[0].startswith(ALPHABETICAL)
    assert capsys.readouterr().out=='Order of the classes: mild < moderate < none < severe\n'
    with learn.no_bar(), learn.no_logging(): assert told(lambda: (learn.fit(1), learn.validate()))==[]
    assert capsys.readouterr().out==''

def test_a_validation_tells_it_too(capsys):
    learn = graded_learner(graded(GRADES))
    with learn.no_bar(), learn.no_logging(): got = told(learn.validate)
    assert len(got)==1 and capsys.readouterr().out.count('Order of the classes')==1

def test_grades_in_their_order_are_printed_only(capsys):
    learn = graded_learner(graded(GRADES, sort=False))
    assert told(lambda: quiet_fit(learn))==[]
    assert capsys.readouterr().out=='Order of the classes: none < mild < moderate < severe\n'

@pytest.mark.parametrize('metrics,loss_func', [(imbalance_metrics(), None), ([accuracy], LogitAdjustedLoss([.25]*4)),
    ([MCC(), CalibrationError()], CrossEntropyLossFlat())])
def test_without_an_order_nothing_is_said(metrics, loss_func, capsys):
    assert told(lambda: quiet_fit(graded_learner(graded(GRADES), metrics, loss_func)))==[]
    assert capsys.readouterr().out==''

@both_kinds
def test_a_stated_order_that_is_not_the_loaders_stops_the_fit(make):
    learn,seen = graded_learner(make(GRADES), imbalance_metrics(ordered=GRADES)),[]
    learn.model.register_forward_pre_hook(lambda *args: seen.append(args))
    for f in lambda: quiet_fit(learn),lambda: validate(learn):
        with pytest.raises(ValueError) as e: f()
        assert must_be('ordered metrics and losses', 'ordered', "in the class order of the loaders, ['mild', "
            "'moderate', 'none', 'severe']. Got ['none', 'mild', 'moderate', 'severe'] instead.") in str(e.value)
    assert not seen

def test_a_stated_order_that_is_the_loaders_is_not_doubted(capsys):
    # These are in alphabetical order and in their own
    for dls,names in (graded(['high','low','medium']),['high','low','medium']),(graded(GRADES, sort=False),GRADES):
        assert told(lambda: quiet_fit(graded_learner(dls, imbalance_metrics(ordered=names))))==[]
        assert capsys.readouterr().out==f"Order of the classes: {' < '.join(names)}\n"

def test_the_loaders_own_vocabulary_can_be_stated():
    dls = graded(['high','low','medium'])
    assert told(lambda: quietly(quiet_fit, graded_learner(dls, imbalance_metrics(ordered=dls.vocab))))==[]

def test_predictions_are_made_in_silence(capsys):
    learn = graded_learner(graded(GRADES))
    with learn.no_bar():
        assert told(lambda: (learn.get_preds(), learn.get_preds(dl=learn.dls.test_dl([(torch.randn(6), 'mild')]*3)),
            learn.predict((torch.randn(6), 'mild'))))==[]
    assert capsys.readouterr().out==''

def test_only_the_first_process_speaks(capsys):
    learn = graded_learner(graded(GRADES).weighted('class'), loss_func=CrossEntropyLossFlat(weight=WEIGHT))
    with mock.patch('fastai_balmix.callback.fitcheck.rank_distrib', return_value=1), warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        quiet_fit(learn)
    assert capsys.readouterr().out==''

# --- no trace ---

def test_every_learner_is_watched_by_one():
    for learn in make_learner(),graded_learner(graded(GRADES)):
        assert len([cb for cb in learn.cbs if isinstance(cb, FitCheck)])==1
    assert [o.__name__ for o in defaults.callbacks].count('FitCheck')==1

elsewhere = """import sys
for o in [*sys.modules]:
    if o.partition('.')[0]=='fastai_balmix': del sys.modules[o]
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0]=='fastai_balmix': raise ModuleNotFoundError(f'No module named {name!r}')
sys.meta_path.insert(0, Block())
import torch
from fastai.vision.all import load_learner
learn = load_learner(path)
pred,x = torch.load(path.parent/'preds.pt')
with torch.no_grad(): torch.testing.assert_close(learn.model(x), pred, rtol=0, atol=0)
assert [o.name for o in learn.metrics]==['accuracy']
with learn.no_bar(),learn.no_logging(): learn.predict(image)
assert not any(o.startswith('fastai_balmix') for o in sys.modules)
"""

def test_an_exported_learner_loads_where_this_package_is_not_installed(tmp_path):
    learn = quiet_fit(digits_learner([accuracy], path=tmp_path))
    learn.export()
    x = learn.dls.one_batch()[0].as_subclass(torch.Tensor)
    with torch.no_grad(): torch.save((learn.model.eval()(x),x), tmp_path/'preds.pt')
    assert b'balmix' not in (tmp_path/'export.pkl').read_bytes()
    warm_call(exec, elsewhere, dict(path=tmp_path/'export.pkl', image=learn.dls.valid_ds.items[0][0]))
    # The learner itself is watched as before
    assert len([cb for cb in learn.cbs if isinstance(cb, FitCheck)])==1
