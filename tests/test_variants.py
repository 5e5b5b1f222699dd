"""A method with settings of its own: its name is read in one way, what stands in it is what is trained, and nothing
else changes."""
import inspect
import re
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, strategies as st
from test_runs import grades

from fastai_balmix.callback.deferred import Deferred
from fastai_balmix.callback.ema import EMA
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.methods import _methods, find_method
from fastai_balmix.compare.names import described, description, method_title
from fastai_balmix.compare.plan import _all_settings, plan_runs
from fastai_balmix.compare.runs import Run
from fastai_balmix.compare.variants import method_settings, training_settings, variant_name
from fastai_balmix.datasets.published import digits

config_of_two = dict(recipe='finetune', epochs=2, size=None, pretrained=False)
config = dict(epochs=2, size=None, bs=64, augment='none', pretrained=False, tta=False)

@pytest.fixture(scope='module')
def data(): return digits(n_folds=2)

def run_of(data, folder, method, **changes):
    return Run(data, method, 'small', 1, 0, TrainConfig(**config|changes), folder)

def test_settings_are_those_of_recipes_and_methods():
    assert set(training_settings)<={o.name for o in fields(TrainConfig)}
    taken = {o for about in described.values() for o in about.options}
    assert taken==set(method_settings)

@pytest.mark.parametrize('name', [*described, 'balmix_pair_drs_0.15', 'mixup_drw_0.4'])
def test_a_method_says_which_settings_its_function_takes(name):
    func = find_method(name).func
    known = {k for k in inspect.signature(func).parameters if k in method_settings}
    options = set(description(name).options)
    # one function makes all mixing methods: not each of them has a stage, and a weighted stage is not smoothed
    assert options==known if 'mix' not in name or name=='remix' else options<=known
    assert ('start' in options)==('drs' in name or 'drw' in name)

numbers = st.floats(0, .99, allow_nan=False).map(lambda x: float(f'{x:.15g}'))

@given(st.permutations(['wd','lr','smoothing']), numbers, numbers, numbers, st.booleans())
def test_every_spelling_is_one_method(order, wd, lr, smoothing, ema):
    values = dict(wd=wd, lr=lr, smoothing=smoothing)
    spelled = '+'.join(['sqrt', *(f'{k}={values[k]:.17f}' if values[k]>1e-9 else f'{k}={values[k]!r}' for k in order),
                        'ema' if ema else 'ema=no'])
    found = variant_name(spelled, ['smoothing'])
    assert variant_name(found.name, ['smoothing'])==found # what a folder's names say is what was trained
    assert found.training['ema']==ema and set(found.training)=={'wd','lr','ema'} and set(found.options)=={'smoothing'}
    for k in values: assert (found.training|found.options)[k]==pytest.approx(values[k], rel=1e-8)

def test_the_key_of_a_run_tells_variants_apart(data, tmp_path):
    names = ['instance','instance+ema','instance+ema=no','instance+wd=0.01','instance+lr=0.01','instance+bs=32',
             'instance+mom=0.5','instance+epochs=3','instance+augment=flip','instance+smoothing=0.1','focal',
             'focal+gamma=1']
    runs = [run_of(data, tmp_path, o) for o in names]
    assert len({o.key for o in runs})==len(names)
    assert len({o.settings for o in runs})==1 # they stand in one table
    assert len({o.code['arch'] for o in runs})==1
    assert run_of(data, tmp_path, 'instance+wd=0.010').key==runs[3].key
    assert runs[7].config.epochs==3 and runs[8].config.augment=='flip' and runs[2].config.ema is False

def test_the_key_tells_what_follows_from_a_name(data, tmp_path):
    "The rate of an optimiser is chosen after it, unless the comparison gives one"
    name = 'sqrt+opt_func=adamw'
    chosen,given = run_of(data, tmp_path, name),run_of(data, tmp_path, name, lr=.1, mom=.9, wd=1e-3)
    assert (chosen.common.lr,chosen.common.mom,chosen.common.wd)==(.1,.9,1e-3) and chosen.settings==given.settings
    assert (chosen.config.lr,given.config.lr)==(1e-3,.1) and chosen.key!=given.key

def test_settings_that_are_written_train_the_same_again(tmp_path):
    config = TrainConfig(**config_of_two)
    methods = ['instance','sqrt+opt_func=sgd','sqrt+epochs=1']
    settings = _all_settings(grades(), {}, methods, 'small', None, 1, config)
    again = TrainConfig(**settings['training'])
    for o in settings['methods']:
        runs = [Run(grades(), o, 'small', 1, 0, c, tmp_path) for c in (config,again)]
        assert runs[0].config==runs[1].config and runs[0].key==runs[1].key, o

def test_a_variant_trains_as_a_comparison_of_that_recipe_does(data, tmp_path):
    alone = attempt(run_of(data, tmp_path/'alone', 'sqrt', wd=.05, ema=True))
    among = attempt(run_of(data, tmp_path/'among', 'sqrt+wd=0.05+ema'))
    assert alone.status==among.status=='finished'
    arrays = [np.load(next(o.glob('runs/*/predictions.npz'))) for o in (tmp_path/'alone',tmp_path/'among')]
    for k in arrays[0].files: np.testing.assert_array_equal(arrays[0][k], arrays[1][k])

@pytest.mark.parametrize('name', ['drs+start=0.5','balmix_drs+start=0.5','mixup_drw+start=0.5','drw+start=0.5'])
def test_start_is_that_of_the_stage(name):
    from test_methods import applied
    stages = [o for o in applied(name, n_epoch=4).cbs if isinstance(o, Deferred)]
    assert [o.start for o in stages]==[.5]

def test_smoothing_and_parameters_reach_the_loss():
    from test_methods import applied
    assert applied('balmix_sqrt+smoothing=0.2').loss_func.func.eps==.2
    assert applied('focal+gamma=1').loss_func.gamma==1
    t = applied('logit_adjusted+tau=0.5') # what a softmax of logits + τ·log p makes of shares p
    np.testing.assert_allclose(t.prior(), np.sqrt(t.counts)/np.sqrt(t.counts).sum())

@pytest.mark.parametrize('name,same', [
    ('sqrt+lr=1e16','sqrt+lr=1e16'), ('cost_sensitive+weight=100000000000000000000','cost_sensitive+weight=1e20'),
    ('class_balanced_loss+beta=0.9999999999999999',)*2, ('sqrt+wd=0.30','sqrt+wd=0.3'),
    ('sqrt+lr=1e-20','sqrt+lr=1e-20'), ('sqrt+lr=100','sqrt+lr=100')])
def test_a_name_can_be_read_again(name, same): assert find_method(name).name==find_method(same).name==same

def test_a_stage_is_said_to_start_where_it_does():
    names = 'drs','drs+start=0.5','drw+start=0','balmix_drs+start=0.5','ldam_drw+beta=0'
    lines = [description(o).line for o in names]
    assert ['last fifth' in o for o in lines]==[True,False,False,False,True]
    assert lines[1]=='instance sampling, then class-balanced sampling, stage from 0.5 of the epochs on'

def test_a_title_holds_the_settings():
    assert method_title('balmix_0.2+wd=0.010+ema')=='Balanced-MixUp 0.2, averaged weights, weight decay 0.01'
    assert method_title('balmix_0.2+of_another_version=1')=='balmix_0.2+of_another_version=1'

@pytest.mark.parametrize('name,words', [
    ('instance+nosuch=1', "no setting 'nosuch'"), ('focal+smoothing=0.1', "no setting 'smoothing'"),
    ('instance+wd', 'a number of 0 or more'), ('instance+wd=nan', 'a number'),
    ('instance+lr=-1', 'a number of 0 or more'),
    ('instance+mom=1', 'below 1'), ('instance+bs=2.5', 'a whole number'), ('instance+ema=maybe', "'yes' or 'no'"),
    ('instance+ema+ema=no', 'more than once'), ('instance+', 'no setting'), ('+ema', 'no method'),
    ('nosuch+ema', 'no method'), ('sqrt+wd=1_0', 'a number'), ('sqrt+wd=٣', 'a number'),
    ('ldam_drw+scale=0', 'a number above 0'),
    ('ldam_drw+max_margin=0', 'a number above 0'), ('smoothing_gaussian+sigma=0', 'a number above 0'),
    ('linear_probe+schedule=constant', "no setting 'schedule'"),
    ('linear_probe+freeze_epochs=1', "no setting 'freeze_epochs'"), ('linear_probe+augment=flip', 'no setting')])
def test_what_a_method_cannot_have_is_refused(name, words):
    with pytest.raises(ValueError, match=words): find_method(name)

@pytest.mark.parametrize('other', ['focal+gamma=2','focal+wd=0.01','focal+gamma=2.0+wd=0.01'])
def test_a_variant_that_is_the_same_as_another_method_is_refused(data, tmp_path, other):
    recipe = TrainConfig(**config, recipe='small', wd=.01)
    def planned(*methods): return plan_runs(data, ['instance',*methods], 'small', [1], [0], recipe, tmp_path)
    name = find_method(other).name
    words = f"'methods' parameter of compare must be all different. Got 'focal' and {name!r}, which are the same,"
    with pytest.raises(ValueError, match=re.escape(words)): planned('focal', other)
    assert len(planned('focal', 'focal+gamma=1', 'focal+wd=0.02', 'balanced_softmax', 'logit_adjusted'))==6

def test_methods_of_users_have_settings_too():
    from fastai_balmix.compare.methods import add_method
    def mine(t, gamma=3.): t.loss_func = gamma
    try:
        add_method('mine', mine)
        method = find_method('mine+gamma=4+ema')
        assert method.name=='mine+ema+gamma=4' and method.training==dict(ema=True)
        t = type('Seen', (), {})()
        method(t)
        assert t.loss_func==4
    finally:
        del _methods['mine'],described['mine']

def test_averaging_is_in_the_run_of_its_method_only(data, tmp_path, monkeypatch):
    seen = []
    begin = EMA.before_fit
    monkeypatch.setattr(EMA, 'before_fit', lambda self: (seen.append(1), begin(self)))
    attempt(run_of(data, tmp_path, 'instance', epochs=1))
    assert not seen
    attempt(run_of(data, tmp_path, 'instance+ema', epochs=1))
    assert seen
