"""Images of its own for a calibrator: no image, and no patient, both chooses the epoch and is calibrated on. The epochs
that halves choose are held against scores computed from the answers of every epoch, also over a fit that was killed."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import AdaptiveAvgPool, Callback, ConvLayer, DataLoaders, Flatten
from PIL import Image
from torch import nn
from toys import Points, Probe, close, make_learner, quiet_fit, seeded_dl

from fastai_balmix.callback import Checkpoint
from fastai_balmix.compare import Method, Run, TrainConfig, attempt, compare, summarise
from fastai_balmix.compare.calibration import HalfBest, cross_fitted, halve
from fastai_balmix.datasets import ImageData
from fastai_balmix.metrics import MCC, confusion, mcc


def table(counts, group=1, n_folds=0, **kwargs):
    "Images of classes of `counts`, `group` of them of one patient"
    rows = [dict(path=f'{k}/{i}', label=f'c{k}', group=f'{k} {i//group}')
            for k,n in enumerate(counts) for i in range(n)]
    df = pd.DataFrame(rows)
    if group==1: df = df.drop(columns='group')
    if n_folds: df['fold'] = [1+int(o.split('/')[1])//group%n_folds for o in df.path]
    def picture(key):
        k,i = map(int, key.split('/'))
        pixels = np.random.default_rng([k,i]).integers(0, 90*(k+1), (8,8,3)).clip(0, 255)
        return Image.fromarray(pixels.astype(np.uint8))
    return ImageData(df, [f'c{k}' for k in range(len(counts))], images=picture, **kwargs)

@pytest.mark.parametrize('group', [1, 3])
@pytest.mark.parametrize('counts,way', [((200,66), 'halves'), ((200,48), 'cross-fitted'), ((60,60), 'halves'),
                                        ((59,300), 'cross-fitted'), ((5,4), 'cross-fitted')])
def test_halves_share_no_patient_and_have_thirty_of_each_class(counts, way, group):
    data = table(counts, group)
    rows = np.arange(len(data))[::-1] # any order
    got = halve(data, rows)
    if group==1: assert got.way==way
    parts = (got.choose,got.fit) if got.way=='halves' else got.parts
    assert sorted(np.concatenate(parts))==[*range(len(data))]
    for i,a in enumerate(parts):
        for b in parts[:i]:
            assert not {*a} & {*b} and (group==1 or not {*data.groups[a]} & {*data.groups[b]})
    sizes = np.array([np.bincount(data.y[o], minlength=2) for o in parts])
    if got.way=='halves': assert sizes.min()>=30
    else:
        assert {*got.choose}=={*got.fit}=={*rows} and len(parts)==min(5, sum(-(-n//group) for n in counts))
        assert np.ptp(sizes, axis=0).max()<=2*group
    assert halve(data, rows, may_cut=False).way=='cross-fitted'
    again = halve(data, rows)
    assert again.choose.tolist()==got.choose.tolist() # for all methods and seeds

def test_one_patient_cannot_be_cut():
    data = table((40,40), 80)
    rows = np.flatnonzero(data.y==0)
    assert halve(data, rows).way=='same images'

def test_classes_that_the_split_lacks_do_not_count():
    data = table((200,200,50))
    assert halve(data, np.flatnonzero(data.y<2)).way=='halves'

# The epochs that halves choose

n,n_epoch = 60,6
y = torch.tensor(np.random.default_rng(0).integers(0, 3, n))
noise = torch.randn(n_epoch, n, 3, generator=torch.Generator().manual_seed(3))
said = nn.functional.one_hot(y, 3) + noise*torch.linspace(1.5, .8, n_epoch)[torch.tensor([2,4,1,5,0,3]),None,None]
halves = [np.arange(0, n, 2),np.arange(1, n, 2)]

class FromTable(nn.Module):
    "Answers item i as `said` has it for the epoch, which is among the weights"
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.register_buffer('epoch', torch.tensor(0))
    def forward(self, x): return said[self.epoch][x[:,0].long()] + 0*self.w

class Turn(Callback):
    def after_train(self): self.learn.model.epoch.fill_(self.epoch)

def table_learner():
    ds = torch.utils.data.TensorDataset(torch.arange(n).float()[:,None], y)
    dls = DataLoaders(seeded_dl(ds, 16), seeded_dl(ds, 16, shuffle=False))
    return make_learner(dls, net=FromTable(), metrics=[MCC()])

def best_epochs(): return [int(np.argmax([mcc(confusion(o[h], y[h])) for o in said])) for h in reversed(halves)]

def answers(learn):
    def predict(rows):
        with torch.no_grad(): return dict(probs=learn.model(torch.tensor(rows).float()[:,None]).numpy(), rows=rows)
    return predict

def test_each_fold_is_answered_by_the_epoch_that_the_others_chose(tmp_path):
    learn,best = table_learner(),HalfBest(halves, y.numpy(), 'mcc')
    point = Checkpoint(tmp_path/'c.pth', 'mcc')
    quiet_fit(learn, n_epoch, [Turn(), best, point])
    first,second = best_epochs()
    assert [o['epoch'] for o in best.best]==[first,second] and first!=second
    assert learn.model.epoch==point.best
    predict = answers(learn)
    got = cross_fitted(learn, best, predict, predict(np.arange(n)), point.best)
    assert got['rows'].tolist()==[*halves[0],*halves[1]]
    close(got['probs'], torch.cat([said[first][halves[0]], said[second][halves[1]]]))
    assert learn.model.epoch==point.best # the network is as it was

def test_the_network_at_hand_is_not_asked_again(tmp_path):
    learn,best = table_learner(),HalfBest(halves, y.numpy(), 'mcc')
    quiet_fit(learn, n_epoch, [Turn(), best])
    for o in best.best: o['epoch'] = 3
    whole = dict(rows=np.arange(n))
    got = cross_fitted(learn, best, lambda rows: pytest.fail('it was asked'), whole, 3)
    assert got['rows'].tolist()==[*halves[0],*halves[1]]

@pytest.mark.parametrize('killed', range(1, n_epoch))
def test_a_fit_that_was_killed_knows_the_best_epochs(tmp_path, killed):
    def stop(learn):
        if learn.epoch==killed and learn.training: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        quiet_fit(table_learner(), n_epoch, [Turn(), HalfBest(halves, y.numpy(), 'mcc'), Probe(stop),
                                             Checkpoint(tmp_path/'c.pth', 'mcc')])
    best = HalfBest(halves, y.numpy(), 'mcc')
    quiet_fit(table_learner(), n_epoch, [Turn(), best, Checkpoint(tmp_path/'c.pth', 'mcc')])
    assert [o['epoch'] for o in best.best]==best_epochs()
    assert [int(o['weights']['epoch']) for o in best.best]==best_epochs()

def test_its_state_is_read_without_unpickling():
    learn,best = make_learner(Points(), metrics=[MCC()]),HalfBest([[0,1],[2,3]], np.zeros(51, dtype=int), 'mcc')
    quiet_fit(learn, 1, [best])
    f = io.BytesIO()
    torch.save(best.state_dict(), f)
    f.seek(0)
    other = HalfBest([[0,1],[2,3]], np.zeros(51, dtype=int), 'mcc')
    other.load_state_dict(torch.load(f, weights_only=True))
    assert other.best[0]['weights'].keys()==learn.model.state_dict().keys()

# Whole runs

def net(n_classes):
    return nn.Sequential(ConvLayer(3, 4, stride=2), AdaptiveAvgPool(), Flatten(), nn.Linear(4, n_classes))

recipe = dict(recipe='paper', epochs=2, size=None, bs=16, lr=.05, augment='none', pretrained=False, select=.4)

def finished(folder, data, method='instance', **kwargs):
    run = Run(data, method, net, 1 if data.folds else None, 0, TrainConfig(**(recipe|kwargs)), folder)
    outcome = attempt(run)
    assert outcome.status=='finished', outcome.error
    return run,json.loads(json.dumps(outcome.record))

@pytest.mark.parametrize('counts,way', [((400,320), 'halves'), ((60,40), 'cross-fitted')])
def test_a_run_says_what_was_done(tmp_path, counts, way):
    run,record = finished(tmp_path, table(counts, 2, n_folds=2))
    rows = run.parts()['select']
    calibration = record['calibration']
    assert calibration['way']==way and {o['calibration'] for o in record['rows']}=={way}
    with np.load(run.path/'predictions.npz') as f:
        paths,selected = f['select/calibration/paths'],f['select/paths']
        same = f['select/calibration/probs'].shape==(len(paths),2)
    assert same and calibration['images']==len(paths) and {*paths} <= {*selected} and len(selected)==len(rows)
    if way=='cross-fitted': assert {*paths}=={*selected} and calibration['chose']==len(rows)
    else:
        assert calibration['chose']+len(paths)==len(rows)
        patients = dict(zip(run.data.df.path, run.data.groups))
        left = {patients[o] for o in {*selected}-{*paths}}
        assert not left & {patients[o] for o in paths}
        # the epoch's score is that of the other half alone
        with np.load(run.path/'predictions.npz') as f:
            mine = ~np.isin(f['select/paths'], paths)
            p,t = f['select/plain'][mine],f['select/targs'][mine]
        best = record['history'][record['best_epoch']-1]['mcc']
        assert best==pytest.approx(mcc(confusion(p, t)), abs=1e-12)

@pytest.mark.parametrize('method,way', [('crt','cross-fitted'),('tau_norm','same images')])
def test_methods_that_change_the_network_afterwards(tmp_path, method, way):
    _,record = finished(tmp_path, table((60,40), n_folds=2), method)
    assert record['calibration']['way']==way

def test_the_published_protocol_chooses_on_all_that_is_reported(tmp_path):
    _,record = finished(tmp_path, table((400,320), n_folds=2), selection='reported-fold')
    assert record['calibration']['way']=='cross-fitted' and record['calibration']['chose']==360

def own_loss(pred, targ): return nn.functional.cross_entropy(pred, targ)

def test_a_loss_without_activation_is_refused_before_training(tmp_path):
    def method(t): t.loss_func = lambda pred,targ: own_loss(pred, targ)
    def known(t):
        t.loss_func = lambda pred,targ: own_loss(pred, targ)
        t.loss_func.activation = nn.Softmax(1)
    run = Run(table((60,40), n_folds=2), Method('mine', method, 'x'), net, 1, 0, TrainConfig(**recipe), tmp_path)
    outcome = attempt(run)
    assert outcome.status=='failed' and not [*run.path.glob('checkpoint*')]
    assert 'mine, whose loss has no `activation`, needs rows of probabilities' in outcome.error
    assert 'the outputs of this network are not probabilities; state activation=' in outcome.error
    finished(tmp_path, run.data, Method('known', known, 'x'))

def test_a_note_says_it_and_names_versions_that_differ(tmp_path):
    data = table((60,40), n_folds=2)
    res = compare(data, ['instance','tau_norm'], archs=net, out=tmp_path/'out', folds=[1], show=False, **recipe)
    notes = summarise(res).notes
    assert any(o.startswith('Plain sampling: The calibrator was cross-fitted') for o in notes)
    assert any(o.startswith('τ-normalisation: The calibrator was fitted on the very images') for o in notes)
    assert not any('versions' in o for o in notes)
    first = res.df.versions[0]
    res.df.loc[res.df.method=='tau_norm','versions'] = first.replace('torch ', 'torch 9').replace('timm ', 'timm 8')
    note = next(o for o in summarise(res).notes if 'versions' in o)
    version = dict(o.rsplit(' ', 1) for o in first.split(', '))
    assert note.startswith('Runs were made with different versions: torch ') and f"9{version['torch']}" in note
    assert f"8{version['timm']}" in note and 'fastai' not in note
    assert res.df.run.nunique()==2
