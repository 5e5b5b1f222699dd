"""Optimiser, schedule, frozen epochs and callbacks of a comparison. What a run does is watched from inside its fit, and
compared with fastai's own calls; which recipe is chosen, and what is said of it, follows from network, weights and
number of images; a function given in Python is called once for each fit, tells runs apart, and is named in files."""

import json
from functools import partial

import pytest
import timm
import torch
import yaml
from fastai.callback.training import GradientClip
from fastai.vision import all as fv
from test_runs import base_run, grades, net
from torch import nn

from fastai_balmix.compare import fitting, runs
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.config import TrainConfig, chosen_recipe, learned_images, recipe_sentence, recipes
from fastai_balmix.compare.fitting import learner_of
from fastai_balmix.compare.options import merge_settings, training_of
from fastai_balmix.compare.plan import compare
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.runs import Run
from fastai_balmix.compare.settings import presets
from fastai_balmix.compare.wording import of_options
from fastai_balmix.datasets.sources import digits

usual = dict(recipe='paper', epochs=2, size=None, bs=14, augment='none', pretrained=False, select=.25)

def run_of(folder, method='instance', arch=net, **kwargs):
    return Run(grades(), method, arch, 1, 0, TrainConfig(**(usual|kwargs)), folder)

class Watch(fv.Callback):
    "Hyperparameters in each batch of training, and callbacks of each fit"
    order,run_valid = 70,False
    def __init__(self, seen): self.seen = seen
    def before_fit(self): self.seen.append(dict(lr=[], mom=[], wd=[], cbs=[type(o).__name__ for o in self.learn.cbs]))
    def before_batch(self):
        for k in 'lr','mom','wd': self.seen[-1][k].append(self.opt.hypers[-1].get(k))

def watched(folder, **kwargs):
    "What happened in the fits of a run"
    seen = []
    def cbs(): return Watch(seen)
    cbs.version = 1 # it holds what it writes
    run = run_of(folder, cbs=cbs, **kwargs)
    outcome = attempt(run)
    assert outcome.status=='finished', outcome.error
    return seen,outcome.record

# --- what a run does ---

fits = dict(one_cycle='fit_one_cycle', flat_cos='fit_flat_cos', constant='fit')

@pytest.mark.parametrize('schedule', fits)
@pytest.mark.parametrize('opt', ['sgd','adamw'])
def test_schedules_are_those_of_fastai(schedule, opt, tmp_path):
    (seen,),_ = watched(tmp_path, schedule=schedule, opt_func=opt, lr=.02)
    config = TrainConfig(**usual, schedule=schedule, opt_func=opt, lr=.02)
    run = Run(grades(), 'instance', net, 1, 0, config, tmp_path)
    learn,_ = learner_of(run, dict(run.parts(), choose=run.parts()['select']))
    want = []
    opt_func = partial(fv.SGD, mom=0.) if opt=='sgd' else fv.Adam
    plain = fv.Learner(learn.dls, net(4), fv.CrossEntropyLossFlat(), opt_func=opt_func, wd=seen['wd'][0])
    if opt=='sgd': plain.moms = (0.,)*3
    with plain.no_bar(), plain.no_logging(): getattr(plain, fits[schedule])(2, .02, cbs=Watch(want))
    for k in 'lr','mom','wd': assert seen[k]==pytest.approx(want[0][k]), k
    assert seen['wd'][0]==(0. if opt=='sgd' else .01) and max(seen['lr'])==pytest.approx(.02, rel=.2)
    if opt=='adamw': assert (min(seen['mom'])<.9<max(seen['mom']))==(schedule=='one_cycle')

def test_a_momentum_that_is_given_is_that_of_all_steps(tmp_path):
    for opt in 'sgd','adamw':
        (seen,),_ = watched(tmp_path, opt_func=opt, mom=.7)
        assert {*seen['mom']}=={.7}

def test_an_optimiser_given_as_a_function(tmp_path):
    opt = partial(fv.OptimWrapper, opt=torch.optim.AdamW)
    (seen,),record = watched(tmp_path, opt_func=opt, wd=.2, schedule='flat_cos')
    assert {*seen['wd']}=={.2} and max(seen['lr'])==pytest.approx(1e-3)
    assert record['training']['opt_func']=='given in Python'
    (seen,),_ = watched(tmp_path, opt_func=partial(fv.Adam, wd=.07))
    assert {*seen['wd']}=={.07} # its own, where none is given

@pytest.mark.parametrize('method,n_fits,frozen', [
    ('instance',1,[True]), ('balmix_0.2',1,[True]), ('drs',1,[True]), ('crt',2,[True,False]),
    ('linear_probe',1,[False]), ('ordinal_mse',1,[True]), ('corn',1,[True])])
def test_callbacks_are_made_for_every_fit(method, n_fits, frozen, tmp_path):
    seen,record = watched(tmp_path, method=method, freeze_epochs=1, ema=True)
    assert len(seen)==n_fits and ['Unfreezing' in o['cbs'] for o in seen]==frozen
    assert all('EMA' in o['cbs'] and 'Checkpoint' in o['cbs'] for o in seen)
    assert record['training']['cbs']=='given in Python' and json.dumps(record['training'])

def test_the_factory_is_called_once_for_each_fit(tmp_path):
    calls = []
    def cbs():
        calls.append(1)
        return [GradientClip(.1),fv.TerminateOnNaNCallback()]
    cbs.version = 1
    for method,n in ('instance',1),('crt',2):
        calls.clear()
        assert attempt(run_of(tmp_path, method, cbs=cbs)).status=='finished'
        assert len(calls)==n

def kept_states():
    "States of a network, at the start and after each epoch, and the factory of the callback that keeps them"
    states = []
    class Keep(fv.Callback):
        order = 90
        def before_fit(self): states.append({k: v.clone() for k,v in self.model.state_dict().items()})
        def after_train(self): self.before_fit()
    def cbs(): return Keep()
    cbs.version = 1
    return states,cbs

def test_what_frozen_epochs_leave_alone(tmp_path):
    "The network of a run, seen from inside: everything but its last layer is as it was, until the second epoch"
    states,cbs = kept_states()
    for method in 'instance','balmix_0.2','ordinal_mse':
        states.clear()
        run = run_of(tmp_path, method, cbs=cbs, freeze_epochs=1, opt_func='adamw', epochs=3, lr=.01)
        assert attempt(run).status=='finished'
        start,frozen,moved = states[:3]
        changed = {k for k in start if not torch.equal(start[k], frozen[k])}
        assert len(changed)==2 and all('3.' in k for k in changed), changed
        assert len({k for k in start if not torch.equal(frozen[k], moved[k])})>4

def test_a_run_that_was_killed_resumes_over_the_end_of_frozen_epochs(tmp_path):
    class Cut(fv.Callback):
        order = 90
        def __init__(self, at): self.cut = at # not by the name of its argument, which a `Checkpoint` compares
        def after_batch(self):
            if self.training and (self.epoch,self.iter)==self.cut: raise KeyboardInterrupt
    cuts = [(1,1),(2,1)]
    def cbs(): return [Cut(cuts.pop(0))] if cuts else []
    cbs.version = 1
    kwargs = dict(cbs=cbs, freeze_epochs=2, opt_func='adamw', epochs=4, schedule='flat_cos')
    a,b = (run_of(tmp_path/o, 'balmix_0.2', **kwargs) for o in 'ab')
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt): attempt(a)
    assert attempt(a).record['history'][0]
    attempt(b)
    one,two = ((o.path/'predictions.npz').read_bytes() for o in (a,b))
    assert one==two

# --- keys ---

def key(**kwargs): return base_run(config=TrainConfig(**(usual|kwargs))).key

def clipping(norm):
    def cbs(): return GradientClip(norm)
    return cbs

def test_functions_count_by_what_they_do():
    assert key(cbs=clipping(1.))==key(cbs=clipping(1.))!=key(cbs=clipping(2.))
    assert key(opt_func=partial(fv.Adam, eps=.1))==key(opt_func=partial(fv.Adam, eps=.1))!=key(opt_func=fv.Adam)
    assert len({key(), key(cbs=clipping(1.)), key(cbs=GradientClip), key(opt_func=fv.Adam), key(opt_func='adamw')})==5
    with pytest.raises(ValueError, match='compare needs callbacks that can be told from others, but'):
        key(cbs=clipping(o for o in ()))

def test_what_was_the_only_way_leaves_keys_alone():
    "Keys of runs from before optimiser, schedule, frozen epochs and callbacks could be chosen"
    for name in 'paper','small':
        values = dict(usual, recipe=name)
        run = base_run(config=TrainConfig(**values))
        held = runs._key_values(run.config)
        assert not {'opt_func','schedule','freeze_epochs','cbs'} & {*held}
        assert key(**values)==key(**values, opt_func='sgd', schedule='one_cycle', freeze_epochs=0)

# --- the choice ---

def test_the_recipe_follows_from_network_weights_and_images():
    for arch,pretrained,n,name,words in [
            ('small',True,50,'small','without weights'), ('resnet18',False,50,'small','without weights'),
            ('resnet18',True,3210,'finetune','3,210 images'), ('resnet18','w.pth',9999,'finetune','9,999 images'),
            ('resnet18',True,10_000,'paper','10,000 images'), ('resnet18',True,None,'paper','has weights'),
            (net,True,50,'paper','a function')]:
        got,reason = chosen_recipe(arch, pretrained, n)
        assert got==name and words in reason and reason.startswith('since ')

def test_images_to_learn_from():
    assert learned_images(grades())==112
    assert learned_images(grades(part=lambda i: ('train','valid','test','else')[i%4]))==56

def test_a_run_and_the_presets_of_the_paper_have_their_recipe():
    assert Run(grades(), 'instance', 'resnet18', 1, 0, TrainConfig(), '/nowhere').config.recipe=='finetune'
    for name,preset in presets.items():
        assert preset['training']['recipe']==('paper' if name.startswith('paper') else 'small')

def test_an_optimiser_has_a_rate_of_its_own():
    def chosen(**kwargs): return TrainConfig(**kwargs).chosen_for('small')
    small,other = chosen(),chosen(opt_func='adamw')
    assert (small.lr,small.mom,small.wd)==(.1,.9,1e-3) and (other.lr,other.mom,other.wd)==(1e-3,None,.01)
    assert (other.bs,other.augment,other.schedule)==(small.bs,small.augment,small.schedule)
    assert chosen(opt_func='adamw', lr=.1).lr==.1 and chosen(opt_func='sgd')==small
    assert chosen(recipe='finetune', opt_func='sgd').mom==0
    f = chosen(opt_func=fv.ranger)
    assert (f.lr,f.mom,f.wd)==(1e-3,None,None)
    for o in small,other,f: assert o.chosen_for('resnet18')==o

def test_a_method_may_have_them_of_its_own():
    run = run_of('/nowhere', 'instance+opt_func=adamw+freeze_epochs=1+schedule=flat_cos', recipe='small')
    assert (run.config.opt_func,run.config.freeze_epochs,run.config.schedule)==('adamw',1,'flat_cos')
    assert run.config.lr==1e-3 and run.common.lr==.1
    with pytest.raises(ValueError, match='freeze_epochs'): run_of('/nowhere', 'instance+freeze_epochs=2')

def test_one_epoch_is_not_frozen():
    assert TrainConfig(epochs=1).chosen_for('resnet18', 50).freeze_epochs==0

def test_every_policy_of_a_recipe_but_the_papers_has_a_form_for_batches():
    for name,values in recipes.items():
        by_item,by_batch = fitting._augmentation(TrainConfig(augment=values['augment']))
        assert bool(by_batch)==(name!='paper') and bool(by_item)==(name=='paper')

# --- words ---

def test_what_is_said_of_a_recipe():
    fine = TrainConfig().chosen_for('resnet18', 3210)
    assert recipe_sentence('resnet18', fine, chosen_recipe('resnet18', True, 3210)[1])==(
        "resnet18: the recipe 'finetune', since the network has weights and there are 3,210 images to learn from, "
        'batches of 16, AdamW, learning rate 0.0001, falling in the last quarter, weight decay 0.01, the last layer '
        'alone in the first epoch, augmentation strong')
    own = TrainConfig(recipe='small', opt_func=partial(fv.OptimWrapper, opt=torch.optim.AdamW), cbs=GradientClip,
                      schedule='constant', freeze_epochs=3, mom=.5, augment={})
    assert recipe_sentence('small', own.chosen_for('small'))==(
        "small: the recipe 'small', batches of 8, the optimiser given in Python, learning rate 0.001 throughout, "
        'momentum 0.5, the last layer alone in the first 3 epochs, augmentation as given, callbacks given in Python')

def test_settings_name_what_was_given_in_python(tmp_path):
    data = dict(reader='digits', n_folds=2, n_max=30)
    kwargs = dict(epochs=1, size=9, augment='none', out=tmp_path, show=False)
    compare(data, 'instance', 'small', [1], cbs=GradientClip, **kwargs)
    text = (tmp_path/'settings.yaml').read_text()
    training = yaml.safe_load(text)['training']
    assert training['cbs']=='given in Python' and training['opt_func']=='sgd' and 'Start it again' not in text
    with pytest.raises(ValueError, match="These settings have a 'cbs' given in Python: call compare"):
        merge_settings(None, tmp_path/'settings.yaml', {}, {})
    assert Results(tmp_path).record(Results(tmp_path).df.run[0])['training']['cbs']=='given in Python'

def test_training_on_a_command_line():
    assert training_of(None, dict(lr=None, bs=4))==dict(bs=4)
    text = 'opt_func=adamw, freeze_epochs=2,mom=.5,wd=1e-3,tta=no,augment=none'
    assert training_of(text, dict(lr=.1))==dict(
        lr=.1, opt_func='adamw', freeze_epochs=2, mom=.5, wd=.001, tta=False, augment='none')
    with pytest.raises(ValueError) as e: training_of('lr=1', dict(lr=.1))
    assert of_options(str(e.value), ['lr'])=="Give --lr, or 'lr' in --training, not both."
    with pytest.raises(ValueError, match="The --training option has 'wd' more than once."): training_of('wd=1,wd=2', {})
    with pytest.raises(ValueError, match='The --training option must be names and values'): training_of('lr', {})

# --- bad values ---

@pytest.mark.parametrize('bad,words', [
    (dict(opt_func='adam'), "'sgd', 'adamw', or a function"), (dict(opt_func=torch.optim.AdamW), 'OptimWrapper'),
    (dict(opt_func=1), 'opt_func'), (dict(opt_func=lambda params: None), 'opt_func'),
    (dict(opt_func=GradientClip()), 'opt_func'),
    (dict(schedule='cosine'), "'one_cycle' or 'flat_cos' or 'constant'"), (dict(schedule=1), 'schedule'),
    (dict(freeze_epochs=-1), 'freeze_epochs'), (dict(freeze_epochs=1.5), 'freeze_epochs'),
    (dict(freeze_epochs=True), 'freeze_epochs'), (dict(freeze_epochs=30), 'below the number of epochs, 30. Got 30'),
    (dict(cbs=[GradientClip()]), 'callbacks have a state, which runs must not share'),
    (dict(cbs=GradientClip()), 'a function without arguments'),
    (dict(cbs=lambda learn: []), 'a function without arguments'),
    (dict(cbs='GradientClip'), 'a function without arguments')])
def test_bad_values_are_refused_at_once(bad, words):
    with pytest.raises(ValueError) as e: TrainConfig(**bad)
    assert words in str(e.value) and str(e.value).startswith("The '")

def test_callbacks_that_are_none_or_not_new_are_refused_before_training(tmp_path):
    kept = GradientClip(1.)
    for i,(cbs,words) in enumerate([(lambda: 5,'int among what it returns'), (lambda: [GradientClip],'type among'),
                                    (lambda: kept,'the GradientClip of an earlier fit')]):
        first = attempt(run_of(tmp_path/f'{i}', 'crt', cbs=cbs))
        assert first.status=='failed' and words in first.error, first.error

def test_a_last_layer_that_is_not_known_stops_nothing(tmp_path):
    def odd(n): return nn.Sequential(nn.Flatten(), nn.Linear(192, n), nn.LayerNorm(n))
    assert attempt(run_of(tmp_path, arch=odd, freeze_epochs=1)).status=='finished'

# --- with weights ---

@pytest.mark.slow
def test_finetune_learns_from_weights_of_a_file(tmp_path):
    """A network learns one fold of the digits, and its weights are kept. From these it learns the other by `finetune`,
    with a new last layer, and the body does not move before the second epoch."""
    torch.manual_seed(1)
    donor = timm.create_model('test_byobnet', num_classes=1000)
    data = digits(n_folds=2, n_max=60, imbalance=1)
    dls = data.dataloaders(fold=1, size=32, bs=32, num_workers=0, seed=1)
    learn = fv.Learner(dls, donor, fv.CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(6, 3e-3)
    torch.save(donor.state_dict(), tmp_path/'w.pth')
    states,cbs = kept_states()
    config = TrainConfig(epochs=10, size=32, pretrained=tmp_path/'w.pth', cbs=cbs, tta=False)
    run = Run(data, 'instance', 'test_byobnet', 2, 0, config, tmp_path)
    assert run.config.recipe=='finetune'
    record = attempt(run).record
    start,frozen = states[:2]
    changed = {k for k in start if not torch.equal(start[k], frozen[k])}
    assert changed=={'head.fc.weight','head.fc.bias'}
    weights = torch.load(tmp_path/'w.pth')
    assert all(torch.equal(v, weights[k]) for k,v in frozen.items() if k not in changed)
    (row,) = [o for o in record['rows'] if (o['part'],o['point'])==('report','as trained')]
    assert row['mcc']>.3 # an untrained last layer has 0
    losses = [o['train_loss'] for o in record['history']]
    assert losses[-1]<losses[0]
