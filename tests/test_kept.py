"""What a report keeps of answers is what all probabilities together say, and each array on disk is read once."""
from types import SimpleNamespace

import numpy as np
import pytest
from made import write_results

from fastai_balmix import bounded
from fastai_balmix.compare.claims import RunAnswers
from fastai_balmix.compare.records import open_predictions, read_predictions
from fastai_balmix.compare.results import Results
from fastai_balmix.inference.prior import adjust_prior, operating_curve
from fastai_balmix.metrics import brier_error, calibration_bins, confusion, mcc
from fastai_balmix.metrics.differences import method_differences
from fastai_balmix.ordered import row_blocks
from fastai_balmix.report import reliability_bins, results_card
from fastai_balmix.report.kept import keep_answers, shares_of
from fastai_balmix.report.operating import confidence_bins


def made_run(n=1200, k=300, seed=0):
    "Answers of a run, in single precision, of more rows than are looked at together"
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n)%k)
    z = rng.normal(size=(3,n,k))+3*np.eye(k)[y]
    p = (np.exp(z)/np.exp(z).sum(2, keepdims=True)).astype(np.float32)
    shares = rng.dirichlet(np.full(k, 2.))
    points = 'as trained','train prevalence','balanced prior'
    return dict(targs=y, paths=np.arange(n).astype(str), groups=None, shares=shares, probs=dict(zip(points, p)))

def test_rows_come_in_blocks_that_make_up_the_whole():
    for n,width in ((0,3),(1,10**7),(1200,300),(10**6,2)):
        blocks = row_blocks(n, width)
        assert [i for o in blocks for i in range(*o.indices(n))][:3]==[*range(n)][:3]
        assert sum(len(range(*o.indices(n))) for o in blocks)==n
    assert len(row_blocks(1200, 300))>2

def test_kept_answers_are_those_of_all_probabilities():
    run = made_run()
    kept,y = keep_answers(run, 300, [3,7]),run['targs']
    for point,p in run['probs'].items(): np.testing.assert_array_equal(kept.preds[point], p.argmax(1))
    p = run['probs']['as trained']
    np.testing.assert_array_equal(kept.of_true, p[np.arange(len(y)),y])
    np.testing.assert_array_equal(kept.of_group, p[:,[3,7]].sum(1))
    moved = adjust_prior(run['probs']['train prevalence'], run['shares'], shares_of(y, 300))
    for name,probs in (('as trained',p),('calibrated',moved)):
        sure = kept.sure[name]
        assert sure.confidence.dtype==probs.dtype
        np.testing.assert_array_equal(sure.confidence, probs.max(1))
        np.testing.assert_array_equal(sure.right, probs.argmax(1)==y)
        np.testing.assert_allclose(sure.distance.mean(), brier_error(probs, y), rtol=1e-12)
        there = confidence_bins(sure.confidence, sure.right)
        np.testing.assert_array_equal(there.to_numpy(), reliability_bins(probs, y).to_numpy())
        assert calibration_bins(probs, y).n.sum()==len(y)

def test_a_curve_is_made_some_rows_at_a_time_without_another_digit():
    run = made_run()
    p,y,shares = run['probs']['train prevalence'],run['targs'],run['shares']
    counts = np.maximum(np.round(5000*shares), 1)
    curve = operating_curve(p, y, shares, counts, scores=(mcc,))
    evidence = np.log(np.clip(p.astype(float), np.finfo(np.float32).tiny, None))-np.log(shares)
    for t,got in curve.mcc.items():
        prior = counts**t/(counts**t).sum()
        assert got==mcc(confusion((evidence+np.log(prior)).argmax(1), y, 300))

@pytest.mark.parametrize('grouped', [False,True])
def test_a_report_reads_each_array_once_and_none_that_it_does_not_need(tmp_path, monkeypatch, grouped):
    folder = write_results(tmp_path/'r', ['a','b','c'], methods=[('instance',1.5),('class',1.6),('sqrt',1.5)],
                           seeds=(0,1), groups=grouped)
    read,original = [],bounded._array
    monkeypatch.setattr(bounded, '_array', lambda archive,name: read.append(name) or original(archive, name))
    results_card(folder)
    runs = len(Results(folder).df.run.unique())
    for point in 'as trained','train prevalence','balanced prior': assert read.count(f'report/probs/{point}')==runs
    assert 'report/plain' not in read

def test_predictions_one_at_a_time_are_those_read_together(tmp_path):
    folder = write_results(tmp_path/'r', ['a','b','c'], groups=True)
    run = folder/'runs'/Results(folder).df.run[0]
    whole,opened = read_predictions(run),open_predictions(run)
    assert [*opened['probs']]==[*whole['probs']] and len(opened['probs'])==3
    for point,p in whole['probs'].items(): np.testing.assert_array_equal(opened['probs'][point], p)
    for k in 'paths','targs','groups': np.testing.assert_array_equal(opened[k], whole[k])
    with pytest.raises(KeyError): opened['probs']['calibrated']
    with pytest.raises(ValueError, match='must be one of'): open_predictions(run, 'scans')
    path = run/'predictions.npz'
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, 'report/probs/balanced prior':np.eye(3)})
    opened = open_predictions(run)
    assert len(opened['probs']['as trained'])==120
    with pytest.raises(ValueError, match='cannot be read'): opened['probs']['balanced prior']

def test_groups_as_numbers_are_in_the_order_of_their_names():
    "Folds that share some groups, named so that their order as text is not that of their numbers"
    rng = np.random.default_rng(0)
    kept,rows = {},[]
    for fold in (2,10,1):
        names = np.array([f'p{i}' for i in rng.choice(40, 60)])
        y = rng.integers(0, 2, 60)
        for method in 'ab':
            p = rng.dirichlet([1,1], 60)
            kept[f'{method}{fold}'] = dict(paths=[f'{fold}-{i}' for i in range(60)], targs=y, groups=names,
                                           probs={'as trained':p})
            rows.append((fold,f'{method}{fold}'))
    results = SimpleNamespace(meta=dict(vocab=['x','y'], prevalence=None), predictions=lambda run, part: kept[run])
    answers = RunAnswers(results, 'report')
    for fold,run in rows: answers.load(fold, run)
    images = answers.images_of([2,10,1])
    assert images.overlap and not images.alike
    text = np.concatenate([np.char.add(f'{f}/', answers.items[f][1]) for f in (2,10,1)])
    np.testing.assert_array_equal(np.unique(images.groups, return_inverse=True)[1],
                                  np.unique(text, return_inverse=True)[1])
    pred = np.stack([[[np.concatenate([answers.preds[f'{m}{f}']['as trained'] for f in (2,10,1)])]] for m in 'ab'])
    a,b = (method_differences(pred, images.targs, fold=images.fold, groups=g) for g in (images.groups,text))
    np.testing.assert_array_equal(*(o.drop(columns='score').to_numpy(dtype=float) for o in (a,b)))
