"""A callback that is given twice, or to two learners at once, says so in one sentence."""
import pytest
import torch
from toys import equal, make_learner, make_net, params, quiet_fit

from fastai_balmix.all import BalancedMixUp, ProgressiveSampling, Remix

makers = {'BalancedMixUp': lambda: BalancedMixUp(1., seed=1), 'Remix': lambda: Remix(seed=1),
          'ProgressiveSampling': lambda: ProgressiveSampling(seed=1)}
twice = r'^{} is among the callbacks twice\. Pass it once, to the Learner or to `fit`\.$'
other = r'^{} cannot be shared by two learners\. Make one for each\.$'

@pytest.mark.parametrize('name', makers)
def test_the_same_callback_twice(name):
    cb = makers[name]()
    with pytest.raises(ValueError, match=twice.format(name)): quiet_fit(make_learner(), 1, [cb,cb])
    with pytest.raises(ValueError, match=twice.format(name)): quiet_fit(make_learner(cbs=[cb,cb]), 1)

@pytest.mark.parametrize('name', makers)
def test_in_the_learner_and_in_fit(name):
    cb = makers[name]()
    learn = make_learner(cbs=cb, net=make_net())
    with pytest.raises(ValueError, match=twice.format(name)): quiet_fit(learn, 1, cb)
    # and the learner trains afterwards as another does
    fresh = make_learner(cbs=makers[name](), net=make_net())
    for o in learn,fresh:
        torch.manual_seed(3)
        o.dls.train.rng.seed(3)
        quiet_fit(o, 2)
    equal(params(learn), params(fresh))

@pytest.mark.parametrize('name', makers)
def test_in_two_learners_at_once(name):
    cb = makers[name]()
    first,second = make_learner(cbs=cb),make_learner(cbs=cb)
    with pytest.raises(ValueError, match=other.format(name)): quiet_fit(first, 1)
    quiet_fit(second, 1)
    first.get_preds()

@pytest.mark.parametrize('name', makers)
def test_one_after_the_other_is_no_mistake(name):
    cb = makers[name]()
    for _ in range(2): quiet_fit(make_learner(), 1, cb)
