"""A learner that is driven through whatever may happen to it: fits, learning rate searches, interruptions, exports,
predictions, callbacks that come and go, in any order. After each step a fresh learner with the same weights must train
as it does, bit for bit, and nothing of what came before may show."""

import random

import pytest
import torch
from fastai.vision import all as fv
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from toys import Points, equal, make_learner, make_net, params, quiet_fit

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling, Remix, imbalance_metrics

mixers = {
    'per batch': lambda: BalancedMixUp(1.),
    'per item': lambda: BalancedMixUp(.5, per_item=True),
    'seeded': lambda: BalancedMixUp(1., seed=3),
    'remix': lambda: Remix(1.),
    'progressive': ProgressiveSampling,
}
loaders = {
    'plain': lambda d: d,
    'weighted': lambda d: d.weighted('sqrt', seed=1),
    'cached': lambda d: d.cached('1MB'),
    'both': lambda d: d.cached('1MB').weighted('class', seed=1),
}
events = ('before_train','before_batch','after_pred','after_loss','after_backward','after_step','after_batch',
          'before_validate','after_epoch')

class Exported(Points):
    "Points of which `learn.export` leaves nothing"
    def new_empty(self): return Exported((0,))

class Stop(fv.Callback):
    "Raises in an event, at the `nth` time"
    def __init__(self, name, nth, order):
        self.order,self.left = order,nth
        setattr(self, name, self.due)
    def due(self):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt

def new_learner(kind, path):
    return make_learner(Exported(), net=make_net(drop=.2), valid=Exported(seed=1), wrap=loaders[kind], device='cpu',
                        metrics=imbalance_metrics(), path=path)

class Driven(RuleBasedStateMachine):
    path = None

    @initialize(kind=st.sampled_from([*loaders]))
    def start(self, kind):
        self.kind,self.learn,self.mixer,self.seed = kind,new_learner(kind, self.path),None,0
        self.loss_func,self.train = self.learn.loss_func,self.learn.dls.train
        self.own = {type(cb) for cb in self.learn.cbs}

    def seeded(self, learn):
        fv.set_seed(self.seed)
        learn.dls.train.rng,learn.opt = random.Random(self.seed),None
        learn.model.zero_grad() # fastai leaves the gradients of a step that was cut short

    def fitted(self, learn, cbs, n):
        self.seeded(learn)
        quiet_fit(learn, n, cbs)
        return params(learn),[[*map(float, o)] for o in learn.recorder.values]

    @rule(n=st.integers(1, 2), passed=st.sampled_from([None,*mixers]))
    def fit(self, n, passed):
        "The fit of a learner that has lived, and of one that is new"
        self.seed += 1
        passed = None if self.mixer else passed # two would be refused
        new = new_learner(self.kind, self.path)
        new.model.load_state_dict(self.learn.model.state_dict())
        if self.mixer: new.add_cb(mixers[self.mixer]())
        cbs = lambda: [mixers[passed]()] if passed else []
        (a,x),(b,y) = self.fitted(self.learn, cbs(), n),self.fitted(new, cbs(), n)
        equal(a, b)
        assert str(x)==str(y)

    @rule(name=st.sampled_from(events), nth=st.integers(1, 4), order=st.sampled_from([-10,20]),
          passed=st.sampled_from([None,*mixers]))
    def interrupt(self, name, nth, order, passed):
        stop = Stop(name, 1 if name.endswith(('train','validate','epoch')) else nth, order)
        cbs = [mixers[passed]()] if passed and not self.mixer else []
        with pytest.raises(KeyboardInterrupt): quiet_fit(self.learn, 1, [*cbs,stop])

    @rule()
    def lr_find(self):
        before = params(self.learn)
        with self.learn.no_bar(), self.learn.no_logging(): self.learn.lr_find(num_it=8, show_plot=False)
        equal(params(self.learn), before)

    @rule(name=st.sampled_from([*mixers]))
    def add(self, name):
        if not self.mixer:
            self.learn.add_cb(mixers[name]())
            self.mixer = name

    @rule()
    def remove(self):
        if self.mixer: self.learn.remove_cb(type(mixers[self.mixer]()))
        self.mixer = None

    @rule()
    def export(self):
        if self.learn.opt is None: self.learn.create_opt()
        self.learn.export('m.pkl')
        again = fv.load_learner(self.path/'m.pkl')
        equal(params(again), params(self.learn))
        assert len(again.dls.train_ds)==0

    @rule()
    def predict(self):
        with self.learn.no_bar(), self.learn.no_logging():
            probs,targs = self.learn.get_preds()
            self.learn.validate()
        assert targs.tolist()==Points(seed=1).targets and probs.shape==(51,4)
        self.learn.model.eval()
        with torch.no_grad(): torch.testing.assert_close(probs, self.learn.model(Points(seed=1).x))

    @invariant()
    def nothing_else_changes(self):
        if not hasattr(self, 'learn'): return
        cbs = {type(cb) for cb in self.learn.cbs}
        assert cbs-self.own=={type(mixers[self.mixer]())} if self.mixer else cbs==self.own
        assert self.learn.loss_func is self.loss_func and self.loss_func.reduction=='mean'
        assert self.learn.dls.train is self.train

def drive(path, n, steps):
    class Here(Driven): pass
    Here.path = path
    rules = settings(max_examples=n, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
                     suppress_health_check=[*HealthCheck])
    run_state_machine_as_test(Here, settings=rules)

@pytest.mark.filterwarnings('ignore')
def test_whatever_has_happened_a_learner_trains_as_a_fresh_one(tmp_path): drive(tmp_path, 6, 10)

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_whatever_has_happened_for_long(tmp_path): drive(tmp_path, 60, 25)
