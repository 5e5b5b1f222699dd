"""A Series, table or dict with labels of its own is read by them, or refused: never by its order."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import DataLoaders
from toys import Mute, Points, seeded_dl

from fastai_balmix.callback.fitcheck import nominal_prior
from fastai_balmix.checks import in_order
from fastai_balmix.datasets import fold_numbers, split_off, tail_idxs
from fastai_balmix.datasets.groups import check_groups
from fastai_balmix.inference import PriorCalibrator, adjust_prior, estimate_prior, operating_curve
from fastai_balmix.loaders import ClassSampler, class_counts, mixed_probs, sampling_probs, train_labels
from fastai_balmix.losses import ClassBalancedLoss, CostSensitiveRegularisation, LogitAdjustedLoss, WeightedFocalLoss
from fastai_balmix.metrics import (
    brier_error,
    confidence_interval,
    confusion,
    mcc,
    method_differences,
    per_class,
    per_class_auc,
    reweight,
    shot_metrics,
)
from fastai_balmix.report.answers import auroc_interval, recall_change, worst_mistakes

Y = [0]*3+[2]*6+[1]*5
PROBS = np.full((14,3), 1/3)
SHARES = pd.Series(Y).value_counts(normalize=True) # sorted by size: classes 2, 1, 0
COUNTS = pd.Series(Y).value_counts()
ANSWERS = np.zeros((2,1,1,14), dtype=int)
items = pd.Series(Y, index=range(5, 19))
probs = pd.DataFrame(PROBS, index=items.index)
cost = pd.DataFrame(1-np.eye(3), index=[2,1,0])

by_class = {
    'ClassBalancedLoss': lambda s: ClassBalancedLoss(s),
    'WeightedFocalLoss': lambda s: WeightedFocalLoss(s),
    'LogitAdjustedLoss': lambda s: LogitAdjustedLoss(s),
    'from_prior': lambda s: adjust_prior(PROBS, s),
    'to_prior': lambda s: adjust_prior(PROBS, 'balanced', s),
    'counts of train': lambda s: adjust_prior(PROBS, 'train', counts=s),
    'estimate_prior': lambda s: estimate_prior(PROBS, s),
    'operating_curve': lambda s: operating_curve(PROBS, Y, s),
    'counts of a curve': lambda s: operating_curve(PROBS, Y, 'balanced', counts=s),
    'nominal': lambda s: PriorCalibrator(s).fit(PROBS, Y),
    'predict': lambda s: PriorCalibrator().fit(PROBS, Y).predict(PROBS, s),
    'sampling_probs': lambda s: sampling_probs(s),
    'p_first': lambda s: mixed_probs(s, [1/3]*3, .2),
    'reweight': lambda s: reweight(confusion(Y, Y), s),
    'prevalence': lambda s: per_class(confusion(Y, Y), prevalence=s),
    'shot_metrics': lambda s: shot_metrics(s),
    'counts to keep': lambda s: tail_idxs(Y, s)}
by_item = {
    'class_counts': lambda s,p: class_counts(s),
    'ClassSampler': lambda s,p: ClassSampler(s),
    'train_labels': lambda s,p: train_labels(seeded_dl(Mute(14)), s),
    'classes of a draw': lambda s,p: tail_idxs(s, [1,1,1]),
    'fold_numbers': lambda s,p: fold_numbers(s, None, 3),
    'groups': lambda s,p: fold_numbers(Y, s, 3),
    'split_off': lambda s,p: split_off(s, None, .3),
    'confusion': lambda s,p: confusion(Y, s),
    'predictions': lambda s,p: confusion(p, Y),
    'per_class_auc': lambda s,p: per_class_auc(PROBS, s),
    'brier_error': lambda s,p: brier_error(p, Y),
    'groups of parts': lambda s,p: check_groups(s, Y, 'x'),
    'parts of groups': lambda s,p: check_groups(range(14), s, 'x'),
    'right': lambda s,p: recall_change(s>0, [0]*14, Y),
    'before': lambda s,p: recall_change([0]*14, s>0, Y),
    'score': lambda s,p: auroc_interval(s/2, [0]*7+[1]*7),
    'belongs': lambda s,p: auroc_interval(range(14), s>0),
    'items of an area': lambda s,p: auroc_interval(range(14), [0]*7+[1]*7, s),
    'groups of an area': lambda s,p: auroc_interval(range(14), [0]*7+[1]*7, groups=s),
    'groups of a change': lambda s,p: recall_change([0]*14, [0]*14, Y, groups=s),
    'paths': lambda s,p: worst_mistakes(PROBS, Y, s.map(str)),
    'folds of answers': lambda s,p: method_differences(ANSWERS, Y, fold=s),
    'groups of answers': lambda s,p: method_differences(ANSWERS, Y, groups=s),
    'groups of an interval': lambda s,p: confidence_interval(Y, Y, mcc, groups=s, n=10),
    'adjust_prior': lambda s,p: adjust_prior(p, 'balanced'),
    'fit': lambda s,p: PriorCalibrator().fit(PROBS, s)}
refused = r"must be an array in the order of classes or items, or a Series indexed 0, 1, 2 and so on\. Got a "

@pytest.mark.parametrize('name', by_class)
@pytest.mark.parametrize('kind', ['Series','dict'])
def test_a_row_per_class_with_labels_of_its_own(name, kind):
    s = SHARES if name not in ('counts of train','counts of a curve','counts to keep') else COUNTS
    if kind=='dict': s = s.to_dict()
    with pytest.raises(ValueError, match=refused+f'{kind} with the labels 2, 1, 0 instead'): by_class[name](s)

@pytest.mark.parametrize('name', by_item)
def test_a_row_per_item_with_labels_of_its_own(name):
    with pytest.raises(ValueError, match=refused+'(Series|DataFrame) with the labels 5, 6, 7 and 11 more instead'):
        by_item[name](items, probs)

def test_a_matrix_of_costs():
    with pytest.raises(ValueError, match=refused+'DataFrame'): CostSensitiveRegularisation(cost)

def test_labels_that_are_places_are_read_as_they_are():
    s = SHARES.sort_index()
    for o in s,s.to_dict(): assert LogitAdjustedLoss(o).prior.tolist()==s.tolist()
    assert class_counts(pd.Series(Y)).tolist()==[3,5,6]
    assert adjust_prior(pd.DataFrame(PROBS), s).tolist()==adjust_prior(PROBS, s.to_numpy()).tolist()

def test_where_the_names_are_known_they_are_read_by():
    s = pd.Series(dict(c=3, a=1, b=2))
    for o in s,s.to_dict(): assert in_order(o, 'counts', 'f', vocab=['a','b','c'])==[1,2,3]
    with pytest.raises(ValueError, match="parameter of f must .* Got a Series with the labels 'c', 'a', 'b' instead"):
        in_order(s, 'counts', 'f', vocab=['a','b','d'])
    for o in [3,1],np.arange(3),torch.arange(3): assert in_order(o, 'counts', 'f', vocab=['a','b','c']) is o

def test_the_drawn_shares_are_read_by_the_names_of_the_classes():
    ds = Points()
    ds.classes = ['a','b','c','d']
    drawn = dict(d=.1, c=.2, b=.3, a=.4)
    assert nominal_prior(DataLoaders(seeded_dl(ds), None), drawn=drawn).tolist()==[.4,.3,.2,.1]
