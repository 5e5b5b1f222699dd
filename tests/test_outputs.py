"""What a network's outputs are taken for: probabilities or not, two classes where there is one output, thousands of
classes, nothing to score. Each is held against PyTorch, scikit-learn or scipy on the same outputs."""

import tracemalloc
import warnings
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import BaseLoss, BCEWithLogitsLossFlat, DataLoaders, Learner, MSELossFlat, accuracy
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk
from timm import loss as timm_loss
from torch import nn
from torch.utils.data import TensorDataset
from toys import close, make_learner, on_ranks, quiet_fit, seeded_dl

import fastai_balmix.all as balmix
from fastai_balmix.inference import PriorCalibrator, adjust_prior, estimate_prior, operating_curve
from fastai_balmix.metrics import (
    MCC,
    BrierError,
    CalibrationError,
    ConfusionMetric,
    KendallTau,
    QuadKappa,
    balanced_acc,
    brier_error,
    calibration_error,
    confusion,
    geometric_mean,
    imbalance_metrics,
    macro_f1,
    mcc,
    per_class_auc,
    quad_kappa,
    score_row,
)
from fastai_balmix.report import report

assert balmix # it gives every learner its checks
refused = 'the outputs of this network are not probabilities; state activation='

class Said(nn.Module):
    "Answers item i with row i of `z`; `shape` is that of one item"
    def __init__(self, z):
        super().__init__()
        self.z,self.w = z,nn.Parameter(torch.zeros(1))
    def forward(self, x): return self.z[x.flatten(1)[:,0].long()] + 0*self.w

def saying(z, y, loss_func, metrics=(), bs=16):
    "A learner whose network answers `z` for items of classes `y`; inputs are images, each filled with its number"
    x = torch.arange(len(y)).float()[:,None,None,None].expand(-1, 1, 2, 2)
    ds = TensorDataset(x, y)
    dls = DataLoaders(seeded_dl(ds, bs), seeded_dl(ds, bs, shuffle=False))
    return Learner(dls, Said(z), loss_func=loss_func, metrics=metrics)

def validated(learn):
    with learn.no_bar(): return learn.validate()[1:]

def predicted(learn, **kwargs):
    with learn.no_bar(): return learn.tta_flip(**kwargs)

gen = torch.Generator().manual_seed(0)
y3 = torch.randint(3, (90,), generator=gen)
z3 = 2*torch.randn(90, 3, generator=gen) + 2*F.one_hot(y3, 3)
y2 = (torch.rand(90, generator=gen)<.3).long()
z2 = torch.randn(90, generator=gen) + 2*y2 - 1

# --- outputs that are no probabilities ---

def own_loss(pred, targ): return F.cross_entropy(pred, targ)
unknown = {'lambda': lambda p,t: F.cross_entropy(p, t), 'function': own_loss, 'partial': partial(own_loss),
           'BaseLoss': BaseLoss(lambda: own_loss, flatten=False)}

@pytest.mark.parametrize('name', unknown)
@pytest.mark.parametrize('metric', [CalibrationError, BrierError])
def test_metrics_refuse_outputs_of_an_unknown_loss(name, metric):
    with pytest.raises(ValueError, match=f'{metric().name} needs rows of probabilities, but {refused}'):
        validated(saying(z3, y3, unknown[name], metric()))

@pytest.mark.parametrize('name', unknown)
def test_predictions_and_reports_refuse_them(name):
    learn = saying(z3, y3, unknown[name])
    with pytest.raises(ValueError, match=f'tta_flip needs rows of probabilities, but {refused}'): predicted(learn)
    with pytest.raises(ValueError, match=f'report needs rows of probabilities, but {refused}'): report(learn, None)
    with pytest.raises(ValueError, match=refused): report(learn, None, preds=(z3,y3))
    with pytest.raises(ValueError, match=refused): PriorCalibrator().fit(z3, y3)

@pytest.mark.parametrize('activation', ['softmax', partial(torch.softmax, dim=-1)])
def test_a_stated_activation_serves_instead(activation):
    p = z3.softmax(1)
    metrics = [CalibrationError(activation=activation), BrierError(activation)]
    learn = saying(z3, y3, own_loss, metrics)
    close(validated(learn), [calibration_error(p, y3),brier_error(p, y3)])
    probs,targs = predicted(learn, activation=activation)
    close(probs, p)
    assert targs.tolist()==y3.tolist()
    card = report(learn, None, activation=activation, n=50).card
    close(card['scores'][0]['scores']['mcc']['value'], sk.matthews_corrcoef(y3, z3.argmax(1)), 1e-12)

def test_log_probabilities_and_one_output():
    learn = saying(z3.log_softmax(1), y3, own_loss, [BrierError('exp')])
    close(validated(learn), [brier_error(z3.softmax(1), y3)])
    learn = saying(z2[:,None], y2, lambda p,t: F.binary_cross_entropy_with_logits(p[:,0], t.float()),
                   [BrierError('sigmoid')])
    close(validated(learn), [2*sk.brier_score_loss(y2, z2.sigmoid())])
    close(predicted(learn, activation='sigmoid')[0][:,0], z2.sigmoid())
    with pytest.raises(ValueError, match=refused): predicted(learn)

@pytest.mark.parametrize('loss,out', [
    (timm_loss.LabelSmoothingCrossEntropy(), z3), (timm_loss.SoftTargetCrossEntropy(), z3),
    (timm_loss.AsymmetricLossSingleLabel(), z3), (nn.NLLLoss(), z3.log_softmax(1)), (F.nll_loss, z3.log_softmax(1)),
    (partial(F.nll_loss, reduction='mean'), z3.log_softmax(1))], ids=lambda o: getattr(o, '__name__', type(o).__name__))
def test_the_activation_of_known_losses(loss, out):
    learn = saying(out, y3, loss, [CalibrationError(), BrierError()])
    if isinstance(loss, timm_loss.SoftTargetCrossEntropy): learn.loss_func.forward = lambda x,t: x.sum()
    close(validated(learn), [calibration_error(z3.softmax(1), y3),brier_error(z3.softmax(1), y3)])
    close(predicted(learn)[0], z3.softmax(1))

def test_what_are_probabilities_already_stays_and_so_does_regression():
    p = z3.softmax(1)
    learn = saying(p, y3, own_loss, [BrierError()])
    close(validated(learn), [brier_error(p, y3)])
    close(predicted(learn)[0], p)
    learn = saying(z3, z3, MSELossFlat())
    close(predicted(learn)[0], z3)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_probabilities(dtype):
    p = (3*torch.randn(200, 1000, generator=torch.Generator().manual_seed(1))).softmax(1).to(dtype)
    y = torch.arange(200)
    assert np.isfinite(validated(saying(p, y, lambda p,t: p.float().sum(), [BrierError()]))).all()
    assert np.isfinite(brier_error(p, y))
    assert adjust_prior(p, 'balanced').shape==p.shape
    # but a row that sums to 1.02 is none
    with pytest.raises(ValueError, match=refused): brier_error(p*1.02, y)

def test_arguments():
    for make in CalibrationError,BrierError,balmix.FlipTTA:
        with pytest.raises(ValueError, match="The 'activation' parameter of .* must be 'softmax', 'sigmoid', 'exp'"):
            make(activation='relu')

# --- one output is two classes ---

p2 = z2.sigmoid()
two = torch.stack([1-p2, p2], 1)
column_losses = {'flat': BCEWithLogitsLossFlat(), 'torch': nn.BCEWithLogitsLoss(), 'probabilities': nn.BCELoss()}

def one_output(name, squeezed=False, metrics=()):
    out = p2 if name=='probabilities' else z2
    return saying(out if squeezed else out[:,None], y2.float() if squeezed else y2.float()[:,None],
                  column_losses[name], metrics)

def test_functions_take_one_column_as_two_classes():
    column = p2[:,None]
    assert (confusion(column, y2)==sk.confusion_matrix(y2, p2>.5)).all()
    assert (confusion(column, y2.float()[:,None])==sk.confusion_matrix(y2, p2>.5)).all()
    assert (confusion(y2[:,None], y2)==np.diag(np.bincount(y2))).all() # a column of classes
    close(per_class_auc(column, y2).auroc, [sk.roc_auc_score(y2, p2)]*2)
    for f in calibration_error,brier_error: close(f(column, y2.float()), f(two, y2), 1e-12)
    for k,v in score_row(column, y2[:,None]).items(): close(v, score_row(two, y2)[k], 1e-12)
    close(adjust_prior(column, [.7,.3]), adjust_prior(two, [.7,.3]))
    close(estimate_prior(column, 'balanced'), estimate_prior(two, 'balanced'))
    close(operating_curve(column, y2.float(), [.7,.3]).mcc, operating_curve(two, y2, [.7,.3]).mcc)
    cal,want = PriorCalibrator().fit(column, y2.float()[:,None]),PriorCalibrator().fit(two, y2)
    close(cal.prior_, want.prior_)
    close(cal.predict(column, 'balanced'), want.predict(two, 'balanced'))

@pytest.mark.parametrize('squeezed', [False,True])
@pytest.mark.parametrize('name', column_losses)
def test_a_learner_with_one_output_is_predicted_and_reported(name, squeezed):
    learn = one_output(name, squeezed, imbalance_metrics())
    with learn.no_bar(): probs,targs = learn.tta_flip()
    assert probs.shape==(90,1)
    close(probs[:,0], p2)
    close(validated(learn)[0], mcc(confusion(probs, targs)), 1e-12)
    for preds in None,(probs,targs):
        card = report(learn, None, preds=preds, n=50).card
        assert card['networks'][0]['confusion']==sk.confusion_matrix(y2, p2>.5).tolist()
        assert len(card['vocab'])==2 and [o['point'] for o in card['scores']][1:]

def test_raw_outputs_in_one_column_are_no_probabilities():
    for ask in (lambda: confusion(z2[:,None], y2), lambda: adjust_prior(z2[:,None], 'balanced'),
        lambda: PriorCalibrator().fit(z2[:,None], y2), lambda: per_class_auc(z2[:,None], y2)):
        with pytest.raises(ValueError, match=f'probabilities of the second of two classes. Got .*{refused}'): ask()
    with pytest.raises(ValueError, match="must be 3 columns, one for each class. Got 1"): confusion(p2[:,None], y2, 3)

# --- thousands of classes ---

def many(k, n, seed=0):
    "Answers for `n` items of `k` classes, a third of them right"
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    p = np.where(rng.random(n)<.33, y, rng.integers(0, k, n))
    return torch.tensor(y),torch.tensor(p)

class Names(nn.Module):
    "Answers item i with class `p[i]` of `k`"
    def __init__(self, p, k):
        super().__init__()
        self.p,self.k,self.w = p,k,nn.Parameter(torch.zeros(1))
    def forward(self, x): return F.one_hot(self.p[x[:,0].long()], self.k).float() + 0*self.w

def naming(k, n, metrics, bs=64, **kwargs):
    y,p = many(k, n, **kwargs)
    ds = TensorDataset(torch.arange(n).float()[:,None], y)
    dls = DataLoaders(seeded_dl(ds, bs), seeded_dl(ds, bs, shuffle=False))
    return Learner(dls, Names(p, k), loss_func=nn.CrossEntropyLoss(), metrics=metrics),y,p

by_margins = dict(mcc=mcc, balanced_acc=balanced_acc, macro_f1=macro_f1, geometric_mean=geometric_mean)

@pytest.mark.parametrize('k', [257, 600, 1999])
def test_large_matrices_are_those_of_all_predictions(k):
    learn,y,p = naming(k, 3000, [ConfusionMetric(f) for f in by_margins.values()] +
                       [balmix.BalancedAcc('all'), balmix.MacroF1([1,5]), QuadKappa(), KendallTau(),
                        ConfusionMetric(lambda cm: cm[3].sum(), 'threes')])
    got = validated(learn)
    cm = confusion(p, y, k)
    want = [f(cm) for f in by_margins.values()] + [balanced_acc(cm, 'all'),macro_f1(cm, [1,5]),quad_kappa(cm),
                                                    balmix.KendallTau().matrix_score(cm),cm[3].sum()]
    close(got, want, 1e-12)
    assert (learn.metrics[0].matrix==cm).all()

@pytest.mark.parametrize('k', [10, 300])
def test_every_cell_is_counted_once_however_often_it_is_looked_at(k):
    learn,y,p = naming(k, 2000, [MCC()])
    metric = learn.metrics[0]
    with mock.patch('fastai_balmix.metrics.learner._most_cells', 0): # pairs also where there are few classes
        metric.reset()
        for i in range(0, 2000, 100):
            learn.pred,learn.yb,learn.dl = F.one_hot(p[i:i+100], k).float(),(y[i:i+100],),learn.dls.valid
            metric.accumulate(learn)
            close(metric.value, sk.matthews_corrcoef(y[:i+100], p[:i+100]), 1e-12)
        assert (metric.matrix==confusion(p, y, k)).all()

def test_nan_and_other_targets_are_counted_among_pairs():
    learn,y,p = naming(400, 100, [MCC()])
    metric = learn.metrics[0]
    out = F.one_hot(p, 400).float()
    out[:3] = torch.nan
    learn.pred,learn.yb,learn.dl = out,(y,),learn.dls.valid
    metric.accumulate(learn)
    with pytest.warns(UserWarning, match='mcc: 3 predictions are NaN.'): assert np.isnan(metric.value)
    learn.yb = (torch.where(y==y[0], 400, y),)
    metric.reset()
    metric.accumulate(learn)
    words = r"in the range \[0, 399\] as targets, for a network of 400 classes"
    with pytest.raises(ValueError, match=words): metric.value

@pytest.mark.parametrize('metric', [QuadKappa, KendallTau, partial(ConfusionMetric, lambda cm: cm.trace(), 'trace')])
def test_a_matrix_that_is_too_large_is_refused_before_training(metric):
    x = torch.randn(8, 3)
    ds = TensorDataset(x, torch.arange(8))
    steps = []
    def loss(pred, targ):
        steps.append(1)
        return F.cross_entropy(pred, targ)
    def learner(k):
        dls = DataLoaders(seeded_dl(ds, 4), seeded_dl(ds, 4, shuffle=False))
        return Learner(dls, nn.Linear(3, k), loss_func=loss, metrics=[MCC(), metric()])
    words = 'needs a K×K matrix, which is made for at most 2,000 classes, but there are 2,001'
    with pytest.raises(ValueError, match=words): quiet_fit(learner(2001))
    assert not steps
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        quiet_fit(learner(2000))
    # a network of which it is not known beforehand
    learn = learner(2001)
    learn.model = nn.Sequential(learn.model, nn.Identity())
    with pytest.raises(ValueError, match=words): validated(learn)

def test_ten_thousand_classes_take_the_memory_of_accuracy():
    def measure(metrics):
        learn,*_ = naming(10_000, 2048, metrics)
        validated(learn)
        tracemalloc.start()
        got = validated(learn)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return got,peak
    _,plain_peak = measure([accuracy])
    got,peak = measure([accuracy, *imbalance_metrics(), balmix.GeometricMean()])
    assert np.isfinite(got[:4]).all() and 0<got[1]<1
    assert peak<plain_peak+2**27
    with pytest.raises(ValueError, match='ConfusionMetric.matrix needs at most 2,000 classes, but there are 10,000'):
        learn,*_ = naming(10_000, 64, [MCC()])
        validated(learn)
        assert learn.metrics[0].matrix

def test_a_row_of_scores_needs_no_large_matrix():
    y,p = many(2100, 300)
    probs = F.one_hot(p, 2100).float()
    with mock.patch('fastai_balmix.metrics.scores._count_pairs', side_effect=AssertionError):
        got = score_row(probs, y)
    cm = confusion(p, y, 2100)
    for k,f in dict(mcc=mcc, macro_f1=macro_f1, balanced_accuracy=balanced_acc).items(): close(got[k], f(cm), 1e-12)

def pairs_of_rank(rank, k, n):
    "Values and matrix of a metric whose process saw the items of its rank"
    learn,y,p = naming(k, n, [MCC(), balmix.MacroF1()])
    mine = torch.arange(n)%3==rank if rank<2 else torch.zeros(n, dtype=torch.bool)
    learn.pred,learn.yb,learn.dl = F.one_hot(p[mine], k).float(),(y[mine],),None
    for m in learn.metrics: m.reset()
    for m in learn.metrics:
        if rank<2: m.accumulate(learn)
    return [m.value for m in learn.metrics],learn.metrics[0].matrix

def test_processes_add_up_their_pairs():
    k,n = 500,900
    y,p = many(k, n)
    seen = torch.arange(n)%3<2
    cm = confusion(p[seen], y[seen], k)
    for values,matrix in on_ranks(3, pairs_of_rank, k, n):
        close(values, [mcc(cm),macro_f1(cm)], 1e-12)
        assert (matrix==cm).all()

# --- nothing to score ---

def test_predicting_is_silent(recwarn):
    learn = make_learner(metrics=[*imbalance_metrics(ordered=True), CalibrationError(), BrierError()])
    learn.loss_func = nn.CrossEntropyLoss()
    items = [(torch.randn(6),)]
    with learn.no_bar(), learn.no_logging():
        learn.get_preds(dl=seeded_dl(TensorDataset(torch.randn(3, 6)), 2, shuffle=False))
        learn.get_preds(dl=seeded_dl(items, 1, shuffle=False))
    assert not [str(o.message) for o in recwarn if 'to score' in str(o.message)]
    # whoever has labels and no images is told as before
    with pytest.warns(UserWarning, match='mcc: no predictions to score'), learn.no_bar():
        learn.validate(dl=seeded_dl(TensorDataset(torch.zeros(0, 6), torch.zeros(0).long()), 2, shuffle=False))

def test_one_image_is_predicted_in_silence(recwarn):
    dls = balmix.digits_lt()
    learn = Learner(dls, balmix.small_net(10), metrics=imbalance_metrics())
    with learn.no_bar(), learn.no_logging(): learn.predict(dls.valid_ds.items[0])
    assert not [str(o.message) for o in recwarn if 'fastai_balmix' in o.filename or 'score' in str(o.message)]

# --- a calibrator that converges ---

def optimum(p, y, centre, strength):
    "Smallest loss and its weights by another optimiser, from several starts"
    k = p.shape[1]
    logs = np.log(np.clip(p, np.finfo(np.float32).tiny, None))
    with np.errstate(divide='ignore'): shares = np.log(np.bincount(y, minlength=k)/len(y))
    def loss(w):
        z = log_softmax(w[0]*logs-w[1:]+shares, axis=1)
        return -z[np.arange(len(y)),y].sum() + strength/2*((w[0]-1)**2+((w[1:]-centre)**2).sum())
    def gradient(w):
        q = softmax(w[0]*logs-w[1:]+shares, axis=1)
        q[np.arange(len(y)),y] -= 1
        return np.r_[(q*logs).sum()+strength*(w[0]-1),-q.sum(0)+strength*(w[1:]-centre)]
    tries = [minimize(loss, np.r_[s,centre], jac=gradient, method='SLSQP', bounds=[(1e-3,None)]+[(None,None)]*k,
                      options=dict(maxiter=5000, ftol=1e-14)) for s in (1,.1,.01)]
    return loss,gradient,min(tries, key=lambda o: o.fun)

@pytest.mark.parametrize('scale', [1, 20, 400])
@pytest.mark.parametrize('seed', range(5))
def test_calibrators_reach_the_optimum(scale, seed, recwarn):
    rng = np.random.default_rng(seed)
    k,n = 4,150
    y = rng.choice(k, n, p=[.6,.2,.15,.05])
    y[:k] = range(k)
    z = rng.uniform(-scale, scale, (n,k))
    right = rng.random(n)<.6
    z[right,y[right]] = scale
    p = softmax(z, axis=1)
    cal = PriorCalibrator().fit(p, y)
    counts = np.bincount(y, minlength=k)
    loss,gradient,best = optimum(p, y, np.log(counts/n), 1.)
    # The intercepts, up to the constant that the probabilities do not show, are those of the penalised optimum
    b = np.log(cal.prior_) + (np.log(counts/n)-np.log(cal.prior_)).mean()
    w = np.r_[1/cal.temperature_,b]
    assert loss(w)<=best.fun+1e-6
    g = gradient(w)
    if w[0]<=1e-3: g = np.r_[min(g[0], 0),g[1:]]
    assert np.abs(g).max()<1e-3
    assert not [o for o in recwarn if 'converge' in str(o.message)]

def test_a_calibrator_that_stops_short_says_so():
    y = np.arange(60)%3
    p = softmax(np.random.default_rng(0).normal(size=(60,3))+2*np.eye(3)[y], axis=1)
    with mock.patch('fastai_balmix.inference.prior._polished', lambda w,args: (w,1.)), \
        pytest.warns(UserWarning, match='PriorCalibrator: the fit did not converge'): PriorCalibrator().fit(p, y)
