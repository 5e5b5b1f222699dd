"""The notebook looks at a few methods. Here each one is held against what its paper says, independently of the code
that does it: what is drawn is counted, losses and priors are compared with formulas and with what a network without
inputs learns, τ with a search by scikit-learn; and every method trains, pickles and keeps quiet."""

import contextlib
import inspect
import io
import warnings
from functools import partial

import cloudpickle
import numpy as np
import pytest
import torch
from conftest import warm_call
from fastai.callback.mixup import MixUp
from fastai.vision import all as fv
from hypothesis import given
from scipy import stats
from scipy.special import log_softmax, softmax
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, matthews_corrcoef
from torch import nn
from torch.nn import functional as F
from toys import (
    Counting,
    Mute,
    Numbered,
    Points,
    class_sizes,
    make_learner,
    make_net,
    must_be,
    quiet_fit,
    seeded_dl,
    streams,
    tail_targets,
)

from fastai_balmix.callback.deferred import Deferred
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling, Remix
from fastai_balmix.compare import methods
from fastai_balmix.compare.methods import Method, Training, add_method, find_method, method_table, taus
from fastai_balmix.compare.names import described, method_title
from fastai_balmix.metrics.learner import MCC, imbalance_metrics

names = ['instance', 'class', 'sqrt', 'progressive', 'drs', 'focal', 'class_balanced_loss', 'logit_adjusted',
         'balanced_softmax', 'drw', 'ldam_drw', 'smoothing_uniform', 'smoothing_gaussian', 'cost_sensitive', 'qwk_loss',
         'mixup', 'mixup_drw', 'balmix_0.1', 'balmix_0.2', 'balmix_0.3', 'balmix_pair', 'balmix_sqrt', 'balmix_drs',
         'remix', 'crt', 'crt_features', 'label_aware_smoothing', 'tau_norm', 'linear_probe',
         'ordinal_mse', 'corn']
drawing = {'class','sqrt','progressive','drs',*(o for o in names if 'balmix' in o)}
ordered = {'smoothing_gaussian','cost_sensitive','qwk_loss','ordinal_mse','corn'}
counts = np.array([200,60,15,5])
n = counts.sum()
p = counts/counts.sum()
p_sqrt = np.sqrt(counts)/np.sqrt(counts).sum()
even = np.full(4, 1/4)

def make_dls(ds=None, bs=8, **kwargs):
    ds = Numbered(tail_targets(*counts), (6,)) if ds is None else ds
    return fv.DataLoaders(seeded_dl(ds, bs, **kwargs), seeded_dl(Points(), 32, shuffle=False))

def applied(name, dls=None, **kwargs):
    "A `Training` that a method was applied to"
    t = Training(make_dls() if dls is None else dls, counts, **{'n_epoch':3, 'lr':.05, 'seed':4, **kwargs})
    find_method(name)(t)
    return t

def learner_of(t, net=None, metrics=None):
    "A learner of a `Training`"
    if metrics is None: metrics = imbalance_metrics()
    if net is None and t.adapt is not None: net = t.adapt(make_net())
    return make_learner(t.dls, t.loss_func, net=net, lr=.05, metrics=metrics)

# --- what is drawn ---

class Drawn(fv.Callback):
    "Asks the training loader, as it stands when an epoch starts, `n` times for an epoch's items; trains on none"
    order = 70
    def __init__(self, n): self.n,self.epochs = n,[]
    def before_train(self):
        self.epochs.append([self.learn.dl.get_idxs() for _ in range(self.n)])
        raise fv.CancelTrainException

def drawn(name, k=100, **kwargs):
    "Items that a method draws: for each epoch of three, `k` times"
    t,probe = applied(name, **kwargs),Drawn(k)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # nothing is trained, for which fastai has words
        quiet_fit(learner_of(t), t.n_epoch, cbs=[*t.cbs,probe])
    return probe.epochs,np.asarray(t.dls.train.dataset.targets)

def assert_shares(idxs, y, p):
    "Do classes come in shares `p`? A χ² test of level 1e-4 with fixed seeds, and 5 or more expected draws of each"
    got = np.bincount(y[idxs], minlength=len(p))
    assert len(idxs)*p.min()>5 and stats.chisquare(got, len(idxs)*p).pvalue>1e-4, (got/len(idxs), p)

def assert_even_within(idxs, y):
    "The items of each class come equally often"
    for k in range(4): assert stats.chisquare(np.bincount(idxs, minlength=len(y))[y==k]).pvalue>1e-4

@pytest.mark.parametrize('name', [o for o in names if o not in drawing])
def test_most_methods_visit_each_image_once_an_epoch(name):
    for epoch in drawn(name, 2)[0]:
        for idxs in epoch: assert sorted(idxs)==[*range(n)]
        assert epoch[0]!=epoch[1]

@pytest.mark.parametrize('name,p', [('class',even), ('sqrt',p_sqrt)])
def test_weighted_methods_draw_by_class(name, p):
    epochs,y = drawn(name)
    for epoch in epochs:
        assert all(len(o)==n for o in epoch)
        idxs = np.concatenate(epoch)
        assert_shares(idxs, y, p)
        assert_even_within(idxs, y)

def test_progressive_goes_from_one_to_the_other():
    epochs,y = drawn('progressive')
    assert all(sorted(o)==[*range(n)] for o in epochs[0])
    for epoch,share in zip(epochs[1:], (.5,1)): assert_shares(np.concatenate(epoch), y, (1-share)*p + share*even)

def test_deferred_sampling_is_plain_until_its_stage():
    epochs,y = drawn('drs')
    for epoch in epochs[:2]: assert all(sorted(o)==[*range(n)] for o in epoch)
    idxs = np.concatenate(epochs[2])
    assert_shares(idxs, y, even)
    assert_even_within(idxs, y)

def test_deferred_sampling_ends_mixing():
    epochs,y = drawn('balmix_drs')
    for epoch in epochs[:2]:
        assert all(sorted(np.array(o)[:,0])==[*range(n)] for o in epoch)
        j = np.concatenate(epoch)[:,1]
        assert_shares(j[j>=0], y, even)
    idxs = np.concatenate(epochs[2])
    assert idxs.ndim==1
    assert_shares(idxs, y, even)

@pytest.mark.parametrize('name,first', [('balmix_0.2',p), ('balmix_pair',p), ('balmix_sqrt',p_sqrt)])
def test_balmix_pairs_its_first_images_with_class_balanced_ones(name, first):
    epochs,y = drawn(name)
    for epoch in epochs:
        i,j = np.concatenate(epoch).T
        if name=='balmix_sqrt':
            assert_shares(i, y, first)
            assert_even_within(i, y)
        else: assert all(sorted(np.array(o)[:,0])==[*range(n)] for o in epoch)
        assert_shares(j[j>=0], y, even)

class Lams(fv.Callback):
    "λ of three epochs, from the loader that stands where a fit starts; trains on none"
    order = 70
    def before_train(self):
        self.seen = [np.atleast_1d(lam) for _ in range(3) for *_,lam in streams(self.learn.dl)]
        raise fv.CancelFitException

@pytest.mark.parametrize('name,alpha,pair', [
    ('balmix_0.1',.1,False), ('balmix_0.2',.2,False), ('balmix_0.3',.3,False), ('balmix_pair',.2,True),
    ('balmix_sqrt',.2,False), ('balmix_0.15',.15,False), ('balmix_pair_0.1',.1,True), ('balmix_sqrt_0.3',.3,False),
    ('balmix_drs_0.1',.1,False), ('balmix_pair_drs',.2,True)
])
def test_lambda_has_the_distribution_in_the_name(name, alpha, pair):
    t,probe = applied(name, make_dls(bs=2)),Lams()
    quiet_fit(learner_of(t), 1, cbs=[*t.cbs,probe])
    lam = np.concatenate(probe.seen)
    assert all(len(o)==1+pair for o in probe.seen) and len(np.unique(lam[lam>0]))==(lam>0).sum()
    assert len(lam)==(840 if pair else 420)
    # below 1/255 it counts as 0, with the probability (1/255)^α; above, Beta(α, 1) it is
    assert stats.binomtest(int((lam==0).sum()), len(lam), 255**-alpha).pvalue>1e-4
    tail = (lam[lam>0]**alpha - 255**-alpha)/(1-255**-alpha)
    assert stats.kstest(tail, 'uniform').pvalue>1e-4

def test_alphas_can_be_told_apart_by_this():
    "The test above, given the λ of one α and asked for another"
    lam = np.random.default_rng(0).random(420)**(1/.2)
    lam[lam<1/255] = 0
    for alpha in .1,.3: assert stats.binomtest(int((lam==0).sum()), len(lam), 255**-alpha).pvalue<1e-4

@pytest.mark.thinned(8)
@pytest.mark.parametrize('name', names)
def test_draws_follow_from_the_seed(name):
    draws = [drawn(name, 2, seed=s)[0] for s in (4,4,5)]
    assert draws[0]==draws[1]
    assert (draws[0]!=draws[2])==(name in drawing)

def test_loaders_that_were_given_stay_as_they_were():
    dls = make_dls()
    for name in names:
        t = applied(name, dls)
        assert (t.dls is dls)==(name not in ('class','sqrt','balmix_sqrt'))
        assert type(dls.train) is fv.DataLoader and t.dls.valid is dls.valid

# --- losses ---

def row_losses(name, z, y):
    "Loss of each item by the formula of the paper, in plain NumPy"
    k = z.shape[1]
    logp = log_softmax(z, axis=1)
    prob = softmax(z, axis=1)
    ce,grades = -logp[np.arange(len(y)),y],np.arange(k)
    if name=='focal': return (1-np.exp(-ce))**2*ce
    if name=='class_balanced_loss':
        w = np.array([(1-.9999)/(1-.9999**o) for o in counts.tolist()])
        return (w*k/w.sum())[y]*ce
    if name in ('logit_adjusted','balanced_softmax'): return -log_softmax(z+np.log(p), axis=1)[np.arange(len(y)),y]
    if name=='ldam_drw':
        margins = .5*(counts.min()/counts)**.25
        return -log_softmax(30*(z-margins*np.eye(k)[y]), axis=1)[np.arange(len(y)),y]
    if name=='smoothing_uniform': return .9*ce - .1*logp.mean(1)
    if name in ('smoothing_gaussian','cost_sensitive'):
        t = np.exp(-(grades-y[:,None])**2/(2*.5**2))
        soft = -(t/t.sum(1, keepdims=True)*logp).sum(1)
        return soft if name=='smoothing_gaussian' else soft + 10*(((grades-y[:,None])/(k-1))**2*prob).sum(1)
    return ce

@pytest.mark.parametrize('name', [o for o in names if o not in ('qwk_loss','ordinal_mse','corn')])
def test_the_loss_is_the_one_of_the_paper(name):
    rng = np.random.default_rng(0)
    z,y = rng.normal(0, 2, (50,4)),rng.integers(0, 4, 50)
    got = applied(name).loss_func(torch.tensor(z, dtype=torch.float32), torch.tensor(y))
    assert got.item()==pytest.approx(row_losses(name, z, y).mean(), rel=1e-5)

def test_the_kappa_loss_is_that_of_certain_predictions():
    "With one-hot predictions it is log(1-κ), κ by scikit-learn, but for its constant"
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    loss = applied('qwk_loss').loss_func
    for wrong in .1,.5:
        guess = np.where(rng.random(200)<wrong, rng.integers(0, 4, 200), y)
        got = loss(100*F.one_hot(torch.tensor(guess), 4).float(), torch.tensor(y)).item()
        assert got+np.log(1e-6)==pytest.approx(np.log(1-cohen_kappa_score(y, guess, weights='quadratic')), abs=1e-4)

# --- callbacks ---

def test_mixing_callbacks_have_the_settings_of_the_papers():
    cbs = {name: applied(name).cbs for name in names}
    mix, = cbs['mixup']
    for cb,alpha in (mix,.2),(cbs['mixup_drw'][0],.2),(applied('mixup_0.3').cbs[0],.3):
        assert type(cb) is MixUp
        assert cb.distrib.concentration0.item()==cb.distrib.concentration1.item()==pytest.approx(alpha)
    remix, = cbs['remix']
    assert type(remix) is Remix and (remix.alpha,remix.kappa,remix.tau,remix.per_item,remix.seed)==(1.,3.,.5,False,4)
    alphas = {'balmix_0.1':.1, 'balmix_0.2':.2, 'balmix_0.3':.3, 'balmix_pair':.2, 'balmix_sqrt':.2, 'balmix_drs':.2}
    for name,alpha in alphas.items():
        cb = cbs[name][0]
        assert len(cbs[name])==1+(name=='balmix_drs') and type(cb) is BalancedMixUp
        assert (cb.alpha,cb.q,cb.per_item,cb.seed)==(alpha,'class',name=='balmix_pair',4)
    prog, = cbs['progressive']
    assert type(prog) is ProgressiveSampling and prog.seed==4
    deferred = {k: v[-1] for k,v in cbs.items() if v and type(v[-1]) is Deferred}
    assert {*deferred}=={'drs','drw','ldam_drw','mixup_drw','balmix_drs'}
    for name,cb in deferred.items():
        assert (cb.start,cb.seed,cb.q,cb.mix)==(.8,4,'class' if 'drs' in name else None,name!='balmix_drs')
        assert (cb.loss_func is None)==('drs' in name)
    assert all(not v for k,v in cbs.items() if k not in ('mixup','remix','progressive',*deferred) and 'balmix' not in k)

@pytest.mark.parametrize('name', ['drs','drw','ldam_drw','mixup_drw','balmix_drs'])
def test_a_training_of_one_epoch_is_not_deferred(name):
    t = applied(name, n_epoch=1)
    assert not any(isinstance(o, Deferred) for o in t.cbs)
    want = mass(p, .2) if name=='balmix_drs' else p
    np.testing.assert_allclose(t.prior(), want, rtol=1e-12)

def effective(beta=.9999):
    "Weights by the effective number of images, in plain NumPy, with a mean of 1 over all images"
    w = (1-beta)/(1-beta**counts.astype(float))
    return w*n/(w*counts).sum()

@pytest.mark.parametrize('name', ['drw','ldam_drw','mixup_drw'])
def test_deferred_losses_are_those_of_the_paper(name):
    rng = np.random.default_rng(0)
    z,y = rng.normal(0, 2, (50,4)),rng.integers(0, 4, 50)
    got = applied(name).cbs[-1].loss_func(torch.tensor(z, dtype=torch.float32), torch.tensor(y))
    plain = row_losses('ldam_drw' if name=='ldam_drw' else 'instance', z, y)
    assert got.item()==pytest.approx((effective()[y]*plain).mean(), rel=1e-5)

# --- after training ---

def bn_net():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6,8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8,4))

def states(m): return {k: v.clone() for k,v in m.state_dict().items()}

@pytest.mark.parametrize('n_epoch,second', [(1,1), (3,1), (4,2), (9,3)])
def test_crt_trains_the_last_layer_again_on_a_body_that_is_held(n_epoch, second):
    ds = Counting(tail_targets(*counts), (6,))
    t = applied('crt', make_dls(ds), n_epoch=n_epoch)
    learn = quiet_fit(learner_of(t, bn_net()))
    before,probe,dls = states(learn.model),Drawn(100),learn.dls
    with learn.no_bar(), learn.no_logging(): t.finish(learn, [])
    after = states(learn.model)
    for k in before: assert torch.equal(before[k], after[k])==(not k.startswith('3.')), k
    assert len(learn.recorder.values)==second and max(learn.recorder.lrs)==pytest.approx(.05, rel=.01)
    assert learn.dls is dls
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        t.finish(learn, [probe])
    assert len(probe.epochs)==second
    assert_shares(np.concatenate(probe.epochs[0]), np.array(ds.targets), even)

def test_crt_draws_by_its_seed():
    seen = []
    for seed in 4,4,5:
        t,probe = applied('crt', seed=seed),Drawn(1)
        learn = learner_of(t)
        with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            t.finish(learn, [probe])
        seen.append(probe.epochs)
    assert seen[0]==seen[1]!=seen[2]

score_of = dict(matthews_corrcoef=lambda: MCC(), balanced_accuracy_score=lambda: imbalance_metrics()[1])

@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('score', [matthews_corrcoef,balanced_accuracy_score])
def test_tau_is_the_one_that_does_best_on_the_selection_split(seed, score):
    t = applied('tau_norm')
    learn = learner_of(t, metrics=[score_of[score.__name__](),fv.accuracy])
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(4,7))*10.**rng.uniform(-1, 1, (4,1))
    b = rng.normal(size=4)
    head = learn.model[3]
    with torch.no_grad():
        head.weight.copy_(torch.tensor(w))
        head.bias.copy_(torch.tensor(b))
    ds = learn.dls.valid.dataset
    with torch.no_grad(): x = learn.model[:3].eval()(ds.x).double().numpy()
    w = head.weight.detach().double().numpy()
    norms = np.linalg.norm(w, axis=1, keepdims=True)
    scores = [score(ds.targets, (x@(w/norms**tau).T).argmax(1)) for tau in taus]
    plain = states(learn.model)
    body = learn.model
    with learn.no_bar(): t.finish(learn, [])
    tau = taus[int(np.argmax(scores))]
    new = learn.model[3].weight.detach().double().numpy()
    np.testing.assert_allclose(new, w/norms**tau, rtol=1e-5, atol=1e-6)
    assert not learn.model[3].bias.any() and torch.equal(learn.model[0].weight, plain['0.weight'])
    for k,v in body.state_dict().items(): assert torch.equal(v, plain[k]) # the network itself is left

@pytest.mark.parametrize('values,tau', [
    ([.1,.2,.4,.4,.1],.5), ([0.]*5,0.), ([np.nan,-.5,np.nan,-.2,np.nan],.75), ([np.nan]*5,0.),
    ([-.9,-.8,-.7,-.6,-.5],1.)
])
def test_tau_is_the_smallest_of_equals_and_never_one_without_a_score(values, tau):
    t = applied('tau_norm')
    seen = iter(values)
    learn = learner_of(t, metrics=[fv.ValueMetric(lambda: next(seen), 'score'),fv.accuracy])
    w = learn.model[3].weight.detach().clone()
    with learn.no_bar(): t.finish(learn, [])
    torch.testing.assert_close(learn.model[3].weight.detach(), w/w.norm(dim=1, keepdim=True)**tau)

def test_taus_start_with_the_plain_rows(): assert list(taus)==[0,.25,.5,.75,1]

def test_tau_needs_a_metric():
    t = applied('tau_norm')
    learn = learner_of(t, metrics=[])
    with pytest.raises(ValueError, match="tau_norm must be .*metric"), learn.no_bar(): t.finish(learn, [])

def test_few_methods_do_something_before_or_afterwards():
    retrained = {'crt','crt_features','label_aware_smoothing'}
    assert {o for o in names if applied(o).finish is not None}=={'tau_norm','ordinal_mse',*retrained}
    assert {o for o in names if applied(o).head is not None}=={'ordinal_mse','corn'}
    assert {o for o in names if applied(o).adapt is not None}=={'ldam_drw'}
    assert {o for o in names if applied(o).fit is not None}=={'linear_probe'}

def features_by_hand(net, ds):
    "What the last layer of `bn_net` is given, in evaluation mode"
    with torch.no_grad(): return net[:3].eval()(torch.stack([ds[i][0] for i in range(len(ds))]))

@pytest.mark.parametrize('name', ['crt_features','linear_probe'])
def test_features_are_computed_once(name):
    "The data set is opened once an image, and the layer learns what it learns from a table of the same features"
    ds = Counting(tail_targets(*counts), (6,))
    t = applied(name, make_dls(ds), n_epoch=9)
    net = bn_net()
    learn = learner_of(t, net)
    x = features_by_hand(net, ds)
    before = states(net)
    ds.opened.clear()
    probe = Drawn(20)
    with learn.no_bar(), learn.no_logging():
        if name=='linear_probe': t.fit(learn, 9, .05)
        else: t.finish(learn, [])
    assert sorted(ds.opened)==[*range(n)] and learn.model is net
    after = states(net)
    for k in before: assert torch.equal(before[k], after[k])==(not k.startswith('3.')), k
    assert len(learn.recorder.values)==(9 if name=='linear_probe' else 3)
    row = learn.recorder.values[-1]
    with learn.no_bar(), learn.no_logging(): np.testing.assert_allclose(row[1:], learn.validate(), atol=1e-5)
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if name=='linear_probe': t.fit(learn, 2, .05, cbs=[probe])
        else: t.finish(learn, [probe])
    assert_shares(np.concatenate(probe.epochs[0]), np.array(ds.targets), even)
    assert torch.equal(x, features_by_hand(net, ds))

def test_the_second_stage_of_label_aware_smoothing_has_its_loss():
    seen = []
    class Losses(fv.Callback):
        def after_loss(self):
            if self.training: seen.append((self.pred.detach(),self.y,self.loss.item(),self.learn.loss_func))
    t = applied('label_aware_smoothing')
    learn = learner_of(t, bn_net())
    own = learn.loss_func
    with learn.no_bar(), learn.no_logging(): t.finish(learn, [Losses()])
    assert learn.loss_func is own
    eps = .3*np.sin((counts-5)/(200-5)*np.pi/2)
    for pred,y,loss,_ in seen:
        logp = log_softmax(pred.double().numpy(), axis=1)
        e = eps[y]
        want = -((1-e)*logp[np.arange(len(y)),y] + e*logp.mean(1)).mean()
        assert loss==pytest.approx(want, rel=1e-4)

# --- the prior that answers stand for ---

def mass(first, alpha): return (1-alpha/(1+alpha))*first + alpha/(1+alpha)*even

cb_shares = np.array([o*(1-.9999)/(1-.9999**o) for o in counts.tolist()])
priors = {o: p for o in names} # of those without a line below
priors |= {o: even for o in ('class','progressive','logit_adjusted','balanced_softmax','crt','drs','balmix_drs',
                             'crt_features','linear_probe')}
priors |= {o: counts*effective()/n for o in ('drw','ldam_drw','mixup_drw')}
eps_aware = .3*np.sin((counts-5)/(200-5)*np.pi/2)
priors['label_aware_smoothing'] = (1-eps_aware)/4 + eps_aware.mean()/4
priors |= {f'balmix_{a}': mass(p, a) for a in (.1,.2,.3)}
priors |= dict(balmix_pair=mass(p, .2), balmix_sqrt=mass(p_sqrt, .2))
priors |= dict(sqrt=p_sqrt, class_balanced_loss=cb_shares/cb_shares.sum(), remix=None)

@pytest.mark.parametrize('name', names)
def test_priors_are_those_of_the_formulas(name):
    got = applied(name).prior()
    if priors[name] is None: assert got is None
    else: np.testing.assert_allclose(got, priors[name], rtol=1e-6 if name=='label_aware_smoothing' else 1e-12)

def test_progressive_sampling_of_one_epoch_is_plain():
    np.testing.assert_allclose(applied('progressive', n_epoch=1).prior(), p, rtol=1e-12)

@pytest.mark.parametrize('name', ['instance','class_balanced_loss','logit_adjusted','drw','mixup_drw'])
def test_a_network_without_inputs_answers_with_the_prior(name):
    "Training on all items finds the same K probabilities for each: those that `prior` says the answers stand for"
    t = applied(name)
    z = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(t.dls.train.dataset.targets)
    last = t.cbs[-1].loss_func if 'drw' in name else t.loss_func
    opt = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14,
                            line_search_fn='strong_wolfe')
    def step():
        opt.zero_grad()
        loss = last(z.expand(len(y), 4), y)
        loss.backward()
        return loss
    opt.step(step)
    np.testing.assert_allclose(softmax(z.detach().numpy()), t.prior(), atol=1e-4)

def test_a_prior_of_ones_own():
    t = Training(make_dls(), counts)
    for implied,want in ((3,1,0,0),[.75,.25,0,0]),('balanced',even),(np.array(p),p),(None,p):
        t.implied = implied
        np.testing.assert_allclose(t.prior(), want, rtol=1e-12)
    t.implied = 'instance'
    words = "The 'implied' parameter of Training must be 'balanced'.* Got 'instance' instead"
    with pytest.raises(ValueError, match=words): t.prior()

@pytest.mark.parametrize('name', ['drs','drw','mixup_drw','balmix_drs','ldam_drw'])
def test_the_prior_is_that_of_the_epoch_that_was_chosen(name):
    t = applied(name, n_epoch=10)
    plain = applied('balmix_0.2' if name=='balmix_drs' else 'instance', n_epoch=10).prior()
    assert t.stage==8 and not np.allclose(t.prior(), plain, atol=.01)
    for epoch in 0,7: np.testing.assert_allclose(t.prior(epoch), plain)
    for epoch in 8,9: np.testing.assert_allclose(t.prior(epoch), t.prior())
    assert applied(name, n_epoch=1).stage==1 # which is beyond the last
    assert applied('instance').stage is None

def test_the_prior_of_progressive_sampling_is_that_of_the_epoch():
    t = applied('progressive', n_epoch=5)
    shares = applied('instance').prior()
    for epoch in range(5):
        np.testing.assert_allclose(t.prior(epoch), shares+(1/len(shares)-shares)*epoch/4)

def test_a_prior_that_cannot_be_known():
    assert Training(fv.DataLoaders(seeded_dl(Mute(20)), seeded_dl(Mute(20))), [10,10]).prior() is None
    dls = make_dls(Numbered([0,1]*10), dl_type=partial(fv.WeightedDL, wgts=np.ones(20)))
    np.testing.assert_allclose(Training(dls, [10,10]).prior(), [.5,.5]) # known by its weights

@given(class_sizes.filter(lambda o: len(o)>1 and all(o)))
def test_counts_may_be_any_row(sizes):
    "As a list, an array or a tensor, with the same losses and priors"
    dls = fv.DataLoaders(seeded_dl(Numbered(tail_targets(*sizes))), seeded_dl(Numbered([0])))
    for name in 'class_balanced_loss','logit_adjusted','instance':
        got = []
        for kind in list,np.array,torch.tensor:
            t = Training(dls, kind(sizes))
            find_method(name)(t)
            got.append(t.prior())
        np.testing.assert_array_equal(got[0], got[1])
        np.testing.assert_array_equal(got[0], got[2])
        assert got[0].sum()==pytest.approx(1)

def test_a_training_starts_with_what_fastai_does():
    t = Training(make_dls(), counts)
    assert type(t.loss_func) is fv.CrossEntropyLossFlat and t.cbs==[] and t.finish is None and t.implied is None
    assert (t.n_epoch,t.lr,t.seed)==(1,None,0) and Training(make_dls(), counts).cbs is not t.cbs

# --- every method ---

@pytest.mark.thinned(8)
@pytest.mark.parametrize('name', names)
def test_every_method_trains_in_silence(name):
    t = applied(name, make_dls(Points(tuple(counts//4)), drop_last=True), n_epoch=2)
    learn = learner_of(t)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('error')
        if t.fit is None: quiet_fit(learn, 2, cbs=t.cbs)
        else:
            with learn.no_bar(), learn.no_logging(): t.fit(learn, 2, .05, cbs=t.cbs)
        if t.finish is not None:
            with learn.no_bar(), learn.no_logging(): t.finish(learn, [])
    assert learn.loss_func is t.loss_func and all(torch.isfinite(v).all() for v in learn.model.state_dict().values())
    assert all(np.isfinite(v) for row in learn.recorder.values for v in row)
    probs,_ = learn.get_preds()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5) # losses have the right activation

@pytest.mark.parametrize('name', names)
def test_every_method_pickles(name):
    found = find_method(name)
    m = cloudpickle.loads(cloudpickle.dumps(found))
    t = applied(name)
    t1 = Training(make_dls(), counts, n_epoch=3, lr=.05, seed=4)
    m(t1)
    assert m.name==name
    for o in 'line','source','ordered': assert getattr(m, o)==getattr(found, o)
    assert repr(t1.loss_func)==repr(t.loss_func)
    assert list(map(repr, t1.cbs))==list(map(repr, t.cbs))
    assert (t1.finish is None)==(t.finish is None)

def loaded(data):
    "The name, the line, and the loss of a method that was pickled elsewhere"
    m = cloudpickle.loads(data)
    t = Training(None, counts)
    m(t)
    return m.name,m.line,t.loss_func(torch.zeros(1, 4), torch.tensor([1])).item()

def test_a_method_of_ones_own_goes_to_another_process(registry):
    factor = 3.
    def mine(t):
        "three times the loss"
        t.loss_func = lambda pred,targ: factor*F.cross_entropy(pred, targ)
    add_method('mine', mine)
    name,line,loss = warm_call(loaded, cloudpickle.dumps(find_method('mine')))
    assert (name,line)==('mine','three times the loss') and loss==pytest.approx(3*np.log(4))

# --- the registry ---

@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(methods, '_methods', dict(methods._methods))
    before = dict(described)
    yield
    described.clear()
    described.update(before)

def test_names_are_those_of_the_tables():
    df = method_table()
    assert [*df.index]==names
    assert [*df.columns]==['title','method','needs order','source'] and df.index.name=='name'
    assert {o for o in df.index if df['needs order'][o]=='yes'}==ordered and set(df['needs order'])=={'','yes'}
    assert (df.method.str.len()>5).all() and df.source.str.contains('20[0-9]{2}').all()
    assert not df.method.str.contains('\n').any()
    for name in names: assert find_method(name).name==name and find_method(name).ordered==(name in ordered)

def test_two_forms_of_adding(registry):
    def f(t): "one"
    assert add_method('a', f) is f
    @add_method('b', source='here', ordered=True)
    def g(t): "two"
    assert callable(g) and g.__doc__=='two'
    add_method('c', f, 'three', 'there', True)
    h = add_method('d', line='four')(f)
    got = [(m.func,m.line,m.source,m.ordered) for m in map(find_method, 'abcd')]
    assert got==[(f,'one','',False), (g,'two','here',True), (f,'three','there',True), (f,'four','',False)] and h is f
    assert [*method_table().index[-4:]]==[*'abcd']
    assert repr(find_method('a'))=='a: one' and repr(find_method('b'))=='b: two (here)'

def test_a_name_may_be_taken_over(registry):
    place = [*method_table().index].index('mixup')
    called = []
    add_method('mixup', called.append, line='mine')
    assert [*method_table().index].index('mixup')==place
    assert len(method_table())==len(names) and method_table().method['mixup']=='mine'
    find_method('mixup')('a training')
    assert called==['a training']

def test_lines_are_lines(registry):
    "Whatever the function looks like"
    def long(t):
        """First line.

        More words."""
    def below(t):
        """
        On a line of its own.
        """
    class Called:
        def __call__(self, t): pass
    def bare(t): pass
    first,own = 'First line.','On a line of its own.'
    lines = {long:first, partial(long):first, below:own, Called():'', bare:'', (lambda t: t):'', partial(bare):''}
    for func,line in lines.items():
        add_method('x', func)
        assert find_method('x').line==line and repr(find_method('x'))==f'x: {line}'

@pytest.mark.parametrize('name', ['', 'a b', 'a/b', '../a', 'a\n', 'a:b', 'balmix,0.2', None, 3, b'a', ['a']])
def test_bad_names_are_refused_when_they_are_given(registry, name):
    for add in (lambda: add_method(name, print)), (lambda: add_method(name)):
        with pytest.raises(ValueError) as e: add()
        assert str(e.value)==must_be('add_method', 'name', f'letters, digits and . _ + -. Got {name!r} instead.')
    assert len(method_table())==len(names)

@pytest.mark.parametrize('name', ['a', 'balmix_0.25', 'focal+class', 'größer', 'A-1'])
def test_good_names(registry, name):
    add_method(name, print)
    assert find_method(name).name==name

@pytest.mark.parametrize('func', [3, 'instance', [print]])
def test_what_cannot_be_called_is_refused(registry, func):
    with pytest.raises(ValueError) as e: add_method('x', func)
    assert str(e.value)==must_be('add_method', 'func', f'a function of a `Training`. Got {func!r} instead.')

@pytest.mark.parametrize('name,words', [
    ('balmix_02',"Did you mean 'balmix_0.2'"), ('balmix',"Did you mean 'balmix_"),
    ('tau-norm',"Did you mean 'tau_norm'?"), ('instnce',"Did you mean 'instance'"),
    ('SQRT',"Did you mean 'sqrt'?"),
    ('banana',"There are: 'instance', 'class', 'sqrt', 'progressive', "), ('',"There are: 'instance'"),
    (None,"There are: 'instance'"), (7,"There are: 'instance'"), (['instance'],'There is no method')
])
def test_unknown_names_bring_up_those_nearest(name, words):
    with pytest.raises(ValueError) as e: find_method(name)
    assert f'There is no method {name!r}. ' in str(e.value) and words in str(e.value)

@pytest.mark.parametrize('name', [
    'balmix_x', 'balmix_0', 'balmix_0.0', 'balmix_-0.1', 'balmix_nan', 'balmix_inf', 'balmix_1e-1', 'balmix_.2',
    'balmix_0,2', 'balmix_0.2 ', 'balmix_pair_x', 'balmix_sqrt_0', 'balmix_٠.٢', 'mixup_nan', 'mixup_0', 'mixup_drw_-1',
    'balmix_1'+31*'0', 'balmix_0.'+400*'0'+'1'])
def test_an_alpha_that_is_no_number_above_0_is_refused(name):
    with pytest.raises(ValueError) as e: find_method(name)
    words = str(e.value)
    assert f'There is no method {name!r}. ' in words and ('Did you mean ' in words or len(name)>30)
    assert "_' comes an α, a number above 0 such as 0.15." in words

@pytest.mark.parametrize('name,same', [
    ('balmix_0.20','balmix_0.2'), ('balmix_pair_0.2','balmix_pair'), ('mixup_0.2','mixup'), ('balmix_1.0','balmix_1'),
    ('balmix_0.00001','balmix_0.00001'), ('balmix_1000000','balmix_1000000'), ('balmix_sqrt_0.25','balmix_sqrt_0.25'),
    ('balmix_pair_sqrt_drs_0.30','balmix_pair_sqrt_drs_0.3')])
def test_two_names_of_one_method_are_one(name, same):
    assert find_method(name).name==find_method(find_method(name).name).name==same

@pytest.mark.parametrize('name,title', [
    ('mixup','MixUp'), ('mixup_0.3','MixUp 0.3'), ('mixup_drw','MixUp, deferred weights'),
    ('balmix_0.15','Balanced-MixUp 0.15'), ('balmix_pair','Balanced-MixUp, λ per pair'),
    ('balmix_sqrt_0.1','Balanced-MixUp 0.1, √-sampled'), ('balmix_drs','Balanced-MixUp, deferred sampling'),
    ('balmix_pair_sqrt_drs_0.1','Balanced-MixUp 0.1, λ per pair, √-sampled, deferred sampling')])
def test_titles_of_mixing_methods(name, title): assert method_title(name)==title

def test_parts_of_a_name_are_all_done():
    t = applied('balmix_pair_sqrt_drs_0.1')
    mix,stage = t.cbs
    assert (mix.alpha,mix.per_item,stage.q,stage.mix,t.dls.train.q)==(.1,True,'class',False,'sqrt')
    np.testing.assert_allclose(t.prior(), even)

def test_a_method_stands_for_itself():
    m = Method('x', print, 'line')
    assert find_method(m) is m and (m.source,m.ordered)==('',False) and 'x' not in method_table().index

def test_parameters_are_documented():
    for f in Training,add_method,find_method,method_table: assert inspect.getdoc(f)
