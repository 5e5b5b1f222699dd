"""Heads for grades beside implementations that share no line with them: CORN's loss by loops over the subsets of the
paper, its probabilities by sums over paths, thresholds by trying all of them with scikit-learn's κ, the likelihood of
a normal density by scipy; and what must hold for any outputs: rows sum to 1, P(y>k) falls with k, scores are of a
grade. Both are trained under Balanced-MixUp, exported, predicted with flip TTA and compared."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from fastai.vision import all as fv
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score
from torch import nn
from toys import Points, fixed_lams, make_net, quiet_fit, seeded_dl

from fastai_balmix.all import BalancedMixUp, QuadKappa
from fastai_balmix.compare import Run, TrainConfig, attempt
from fastai_balmix.datasets import digits
from fastai_balmix.ordinal import CornHead, CornLoss, GradeHead, GradeLoss, count_thresholds, fit_thresholds

outputs = st.floats(-30, 30, width=32)
def rows(k): return hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(k)), elements=outputs)

# --- CORN ---

def corn_by_loops(x, y, k):
    "The paper: binary cross-entropy of each question over the items that it concerns, by the number of answers"
    total,n = 0.,0
    for q in range(k-1):
        for i in range(len(y)):
            if y[i]<q: continue
            p = 1/(1+math.exp(-float(x[i][q])))
            total -= math.log(p if y[i]>q else 1-p)
            n += 1
    return total/n

@pytest.mark.parametrize('k', [2, 3, 5, 9])
def test_corn_is_the_loss_of_the_paper(k):
    rng = np.random.default_rng(k)
    for n in 1,2,40:
        x,y = rng.normal(0, 3, (n,k-1)),rng.integers(0, k, n)
        z = torch.tensor(x, requires_grad=True)
        loss = CornLoss()(CornHead(k)(z), torch.tensor(y))
        assert loss.item()==pytest.approx(corn_by_loops(x, y, k), rel=1e-9)
        loss.backward()
        # a slope by hand
        i,q = rng.integers(n),rng.integers(k-1)
        near = [x.copy(),x.copy()]
        for o,d in zip(near, (1e-6,-1e-6)): o[i,q] += d
        slope = (corn_by_loops(near[0], y, k)-corn_by_loops(near[1], y, k))/2e-6
        assert z.grad[i,q].item()==pytest.approx(slope, abs=1e-7)

def test_reductions_of_corn():
    x,y = torch.randn(7, 4),torch.randint(0, 5, (7,))
    scores = CornHead(5)(x)
    items = CornLoss(reduction='none')(scores, y)
    assert items.shape==(7,) and CornLoss(reduction='sum')(scores, y)==items.sum()
    torch.testing.assert_close(CornLoss()(scores, y), items.sum()/(y+1).clamp(max=4).sum())

@given(rows(4))
def test_probabilities_of_corn_never_contradict_the_order(x):
    p = CornHead(5)(torch.tensor(x)).softmax(1).double()
    torch.testing.assert_close(p.sum(1), torch.ones(len(p), dtype=torch.double), rtol=0, atol=1e-5)
    f = 1/(1+np.exp(-x.astype(np.float64)))
    more = np.cumprod(f, 1)
    ours = 1-p.cumsum(1)[:,:-1].numpy()
    np.testing.assert_allclose(ours, more, atol=1e-5)
    assert (np.diff(more, axis=1)<=0).all()

def test_corn_of_two_classes_is_logistic_regression():
    x,y = torch.randn(9, 1),torch.randint(0, 2, (9,))
    torch.testing.assert_close(CornLoss()(CornHead(2)(x), y),
        nn.functional.binary_cross_entropy_with_logits(x[:,0], y.float()))

# --- squared error ---

@given(rows(1), st.integers(2, 7))
def test_scores_hold_the_grade(u, k):
    head = GradeHead(k)
    scores = head(torch.tensor(u).double())
    assert scores.shape==(len(u),k)
    torch.testing.assert_close(head.grades(scores), torch.tensor((k-1)/2*(1+u[:,0].astype(np.float64))))
    y = torch.arange(len(u))%k
    want = np.mean((u[:,0].astype(np.float64) - (2*y.numpy()/(k-1)-1))**2)
    assert GradeLoss()(scores, y).item()==pytest.approx(want, rel=1e-6, abs=1e-9)

def test_the_slope_is_that_of_the_squared_error():
    u,y = torch.randn(8, 1, dtype=torch.double, requires_grad=True),torch.randint(0, 5, (8,))
    GradeLoss()(GradeHead(5)(u), y).backward()
    want = 2*(u.detach()[:,0]-(y/2-1))/8
    torch.testing.assert_close(u.grad[:,0], want)

@pytest.mark.parametrize('seed', range(4))
def test_probabilities_are_those_of_normal_grades(seed):
    "By Bayes, from scipy's density, where thresholds are those of class counts"
    rng = np.random.default_rng(seed)
    n,s = rng.integers(1, 500, 5),rng.uniform(.1, 2)
    head = GradeHead(5, scale=s)
    head.thresholds.copy_(torch.tensor(count_thresholds(n, s)))
    z = rng.uniform(-1, 5, 20)
    density = n*norm.pdf(z[:,None], np.arange(5), math.sqrt(s))
    ours = head(torch.tensor(z/2-1)[:,None]).softmax(1)
    np.testing.assert_allclose(ours, density/density.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)

@given(st.lists(st.floats(-1, 6), min_size=4, max_size=4), st.floats(.02, 4), rows(1))
def test_classes_are_those_between_thresholds(thresholds, scale, u):
    head = GradeHead(5, scale)
    theta = np.sort(thresholds).astype(np.float32)
    head.thresholds.copy_(torch.tensor(theta))
    scores = head(torch.tensor(u))
    z = 2*(1+u[:,0].astype(np.float64))
    p = scores.softmax(1)
    assert scores.isfinite().all() and torch.allclose(p.sum(1), torch.ones(len(u)), atol=1e-5)
    for zi,c in zip(z, p.argmax(1)):
        if np.abs(zi-theta).min()>1e-3: assert c==np.searchsorted(theta, zi)

def kappa(y, c, k): return np.nan_to_num(cohen_kappa_score(y, c, weights='quadratic', labels=range(k)))

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-.5,0.,.3,.5,1.,1.2,1.7,2.,2.5,3.,3.5])), min_size=1,
    max_size=14))
def test_no_thresholds_have_a_higher_kappa(items):
    y,z = map(np.array, zip(*items))
    theta = fit_thresholds(z, y, 4)
    assert theta.shape==(3,) and (np.diff(theta)>=0).all() and np.isfinite(theta).all()
    places = np.r_[np.unique(z)-.01, z.max()+1]
    best = max(kappa(y, np.searchsorted(t, z), 4) for t in itertools.combinations_with_replacement(places, 3))
    ours = kappa(y, np.searchsorted(theta, z), 4)
    assert ours>=best-1e-9 if best>0 else (theta==[.5,1.5,2.5]).all()

def test_thresholds_of_many_images():
    rng = np.random.default_rng(1)
    y = rng.choice(5, 20_000, p=[.735,.07,.15,.025,.02])
    z = .5 + .7*y + rng.normal(0, .4, len(y))
    def score(theta): return kappa(y, np.searchsorted(theta, z), 5)
    theta = fit_thresholds(z, y, 5)
    ours = score(theta)
    assert ours>score([.5,1.5,2.5,3.5])+.02
    for _ in range(200): assert score(np.sort(theta+rng.normal(0, .1, 4)))<=ours+1e-12

def test_the_scale_is_that_of_the_highest_likelihood():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 4000)
    z = y+rng.normal(0, .6, len(y))
    head = GradeHead(4)
    scores = head(torch.tensor(z/1.5-1)[:,None])
    head.fit(scores, y, counts=np.bincount(y))
    assert head.scale.item()==pytest.approx(.36, rel=.1)
    np.testing.assert_allclose(head.thresholds, [.5,1.5,2.5], atol=.1)
    start = head.thresholds.clone()
    assert head.fit(scores, y) is head and not torch.equal(start, head.thresholds)
    np.testing.assert_allclose(head.thresholds, fit_thresholds(z, y, 4), atol=1e-5)

def test_without_labels_that_differ_grades_are_rounded():
    np.testing.assert_array_equal(fit_thresholds([.2,3.1,1.], [2,2,2], 4), [.5,1.5,2.5])
    np.testing.assert_array_equal(fit_thresholds([1.,1.,1.], [0,1,2], 3), [.5,1.5])

# --- in a learner ---

heads = {'corn': (CornHead, CornLoss), 'grade': (GradeHead, GradeLoss)}

class Graded(Points):
    "Points whose grade is how far they are along a line"
    def __init__(self, n=60):
        super().__init__((n,))
        self.targets = (self.x.sum(1)/2+1).round().clamp(0, 3).long().tolist()
    def new_empty(self): return Graded(0)

def learner(name, path=None, seed=0):
    head,loss = (o() if i else o(4) for i,o in enumerate(heads[name]))
    ds = Graded()
    dls = fv.DataLoaders(seeded_dl(ds), seeded_dl(ds, 32, shuffle=False))
    return fv.Learner(dls, nn.Sequential(make_net(n_out=head.n_outputs), head), loss, opt_func=fv.SGD, lr=.2,
        metrics=QuadKappa(), path=path)

@pytest.mark.parametrize('per_item', [False, True])
@pytest.mark.parametrize('name', heads)
def test_a_mixed_batch_has_the_loss_of_both_labels(name, per_item):
    "Under Balanced-MixUp: mixed by hand, the paper's loss for each label"
    seen = []
    class See(fv.Callback):
        order = 90
        def after_loss(self):
            if not self.training: return
            mix = self.balanced_mix_up
            with torch.no_grad(): x = self.model[0](self.xb[0]).double()
            lam = torch.as_tensor(mix.lam, dtype=torch.double).expand(len(x))
            y = self.yb[0]
            y1 = y if mix.yb1 is None else mix.yb1[0]
            if name=='grade':
                items = [(x[:,0]-(2*o/3-1))**2 for o in (y,y1)]
                want = ((1-lam)*items[0]+lam*items[1]).mean()
            else:
                each = [torch.tensor([corn_by_loops(x[i:i+1].tolist(), [int(c)], 4)*min(int(c)+1, 3)
                    for i,c in enumerate(o)]) for o in (y,y1)]
                n,n1 = ((o+1).clamp(max=3).double() for o in (y,y1))
                if per_item: want = ((1-lam)*each[0]+lam*each[1]).sum()/((1-lam)*n+lam*n1).sum()
                else: want = (1-lam[0])*each[0].sum()/n.sum() + lam[0]*each[1].sum()/n1.sum()
            torch.testing.assert_close(self.loss_grad.double(), want, rtol=1e-4, atol=1e-5)
            seen.append(mix.yb1 is not None)
    learn = learner(name)
    with fixed_lams(.4,.2,0.): quiet_fit(learn, 2, cbs=[BalancedMixUp(per_item=per_item, seed=0), See()])
    assert any(seen)

@pytest.mark.parametrize('name', heads)
def test_a_learner_s_life(name, tmp_path):
    learn = learner(name, tmp_path)
    quiet_fit(learn, 30)
    first,last = learn.recorder.values[0],learn.recorder.values[-1]
    assert last[1]<first[1] and last[2]>max(first[2], .5)
    with learn.no_bar(): probs,targs = learn.get_preds()
    assert probs.shape==(len(learn.dls.valid.dataset),4)
    torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
    assert last[2]==pytest.approx(kappa(targs, probs.argmax(1), 4), abs=1e-6)
    learn.export()
    with warnings.catch_warnings(action='ignore'): loaded = fv.load_learner(tmp_path/'export.pkl')
    with loaded.no_bar(): torch.testing.assert_close(loaded.get_preds(dl=learn.dls.valid)[0], probs)

def test_fitted_thresholds_belong_to_the_weights(tmp_path):
    learn = learner('grade', tmp_path)
    quiet_fit(learn, 6)
    with learn.no_bar(): before = learn.get_preds(act=fv.noop)
    learn.model[-1].fit(*before)
    with learn.no_bar(): after = learn.get_preds(act=fv.noop)[0]
    torch.testing.assert_close(learn.model[-1].grades(after), learn.model[-1].grades(before[0]))
    assert kappa(before[1], after.argmax(1), 4)>=kappa(before[1], before[0].argmax(1), 4)
    learn.save('fitted')
    other = learner('grade', tmp_path)
    other.load('fitted')
    assert torch.equal(other.model[-1].thresholds, learn.model[-1].thresholds)

@pytest.mark.parametrize('name', heads)
def test_flip_tta_averages_probabilities(name):
    head,loss = heads[name][0](4),heads[name][1]()
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4)
    dl = seeded_dl([(o,0) for o in x], shuffle=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, head.n_outputs), head)
    learn = fv.Learner(fv.DataLoaders(dl, dl), net, loss)
    with learn.no_bar(): probs = learn.tta_flip()[0]
    with torch.no_grad(): want = (net(x).softmax(1)+net(x.flip(-1)).softmax(1))/2
    torch.testing.assert_close(probs, want, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('head,x,words', [
    (CornHead(5), torch.zeros(2, 5), 'CornHead needs a network with 4 outputs before it'),
    (GradeHead(5), torch.zeros(2, 5), r'GradeHead needs a network with 1 output before it, .* of shape \(2, 5\)')])
def test_another_number_of_outputs_is_refused(head, x, words):
    with pytest.raises(ValueError, match=words): head(x)

# --- in a comparison ---

@pytest.mark.thinned(1)
@pytest.mark.parametrize('method', ['ordinal_mse', 'corn'])
def test_a_comparison_has_them_by_name(method, tmp_path):
    data = digits(n_folds=2)
    data.ordered = True
    config = TrainConfig(epochs=4, size=16, bs=32, augment='none', pretrained=False)
    outcome = attempt(Run(data, method, 'small', fold=1, seed=0, config=config, folder=tmp_path))
    assert outcome.status=='finished', outcome.error
    arrays = np.load(tmp_path/'runs'/outcome.run/'predictions.npz')
    probs = arrays['report/probs/as trained']
    assert probs.shape[1]==10
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    trained = next(o for o in outcome.record['rows'] if o['part']=='report' and o['point']=='as trained')
    assert trained['quad_kappa']==pytest.approx(kappa(arrays['report/targs'], probs.argmax(1), 10), abs=1e-6)
    history = outcome.record['history']
    assert history[-1]['train_loss']<history[0]['train_loss']
