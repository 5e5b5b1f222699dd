"""How many runs are trained at a time, on how many threads, how long they take, and where opened images are kept. None
of it may change a figure: the same comparison is made by one, two and four processes, with a store on disk and without.
Batches and images that a run goes through are counted by a callback, beside what its trial says."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import warm_call
from fastai.vision.all import Callback
from PIL import Image
from test_protocol import assert_same, compared, out  # noqa: F401 # a fixture
from test_runs import grades, net, pixels, recipe

from fastai_balmix.compare import fitting, opened, plan as planning, trial
from fastai_balmix.compare.attempts import attempt
from fastai_balmix.compare.before import plan_lines
from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.plan import plan_runs
from fastai_balmix.compare.progress import Estimate
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.runs import Run
from fastai_balmix.compare.threads import jobs_for, n_cores, run_threads
from fastai_balmix.datasets import batches, images, prepared, verify as verification
from fastai_balmix.datasets.images import ArrayImages
from fastai_balmix.datasets.longtail import small_net
from fastai_balmix.datasets.published import digits
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.trees import from_folder_table

# Threads

@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {*range(4)}, raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS')

def test_threads_are_the_architecture_s_affair(four_cores):
    assert n_cores()==4
    assert [run_threads(o) for o in ('small',small_net,'mobilenetv2_100',net)]==[1,1,4,4]

@pytest.mark.parametrize('said, cores', [('2',2), ('8',4), ('3,1',3), ('',4), ('0',4), ('many',4)])
def test_the_usual_limit_of_threads_is_kept(four_cores, monkeypatch, said, cores):
    monkeypatch.setenv('OMP_NUM_THREADS', said)
    assert n_cores()==cores

def test_runs_at_a_time_fill_the_cores(four_cores):
    assert [jobs_for(['small']*n) for n in (0,1,3,4,100)]==[1,1,3,4,4]
    assert jobs_for(['small']*9+['mobilenetv2_100'])==1

def cores_of_one():
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    os.environ.pop('OMP_NUM_THREADS', None)
    return n_cores()

def test_cores_that_were_taken_away():
    if not hasattr(os, 'sched_setaffinity') or len(os.sched_getaffinity(0))<2: pytest.skip('there is one core')
    assert warm_call(cores_of_one)==1


# Jobs

def runs_of(folder, methods=('instance',), archs='small', **kwargs):
    config = TrainConfig(**{k: v for k,v in recipe.items() if k in TrainConfig.__dataclass_fields__}, **kwargs)
    return plan_runs(grades(), methods, archs, [1,2], 1, config, folder)

def test_auto_is_for_the_runs_that_are_left(four_cores, monkeypatch, tmp_path):
    runs = runs_of(tmp_path, ['instance','class'])
    monkeypatch.setattr(planning.torch.accelerator, 'is_available', lambda: False)
    assert [planning._n_jobs('auto', o, None) for o in (runs,runs[:3],runs[:1],[])]==[4,3,1,1]
    assert planning._n_jobs('auto', runs, object())==1 and planning._n_jobs(7, runs, None)==7
    monkeypatch.setattr(planning.torch.accelerator, 'is_available', lambda: True)
    assert planning._n_jobs('auto', runs, None)==1

def test_the_plan_says_how_many_at_a_time_and_on_what(four_cores, tmp_path):
    runs = runs_of(tmp_path, ['instance','class'])
    nothing = [None]*4
    def said(jobs, runs=runs, records=nothing): return plan_lines(runs, records, jobs)
    assert '2 runs at a time, one thread each.' in said(2) and 'at a time' not in said(1)
    assert '4 runs at a time' in said(9) and 'at a time' not in said(9, records=[dict(seconds=1)]*3+[None])
    both = runs_of(tmp_path, archs=['small','mobilenetv2_100'])
    assert '2 runs at a time, 1 or 4 threads each.' in said(2, both)

def test_the_last_run_is_waited_for(tmp_path):
    runs,estimate = runs_of(tmp_path, ['instance','class']),Estimate()
    estimate.add(runs[0], 10.)
    assert [estimate.left(runs[:n], 4) for n in (4,2,1,0)]==[10,10,10,0]
    assert estimate.left(runs*4, 4)==40


# How long a run takes

class Counted(Callback):
    "Counts batches of training, and images of all forward passes without"
    order = -99
    n_batches = n_images = n_mirrored = 0
    def before_batch(self):
        if self.training: Counted.n_batches += 1
        else: Counted.n_images += len(self.xb[0])

@pytest.mark.thinned(1)
@pytest.mark.parametrize('counts, tta, external', [
    ((48,32,20,12),True,0), ((48,32,20,12),False,9), ((900,800),True,9)])
def test_what_a_run_goes_through_is_what_its_trial_says(tmp_path, monkeypatch, counts, tta, external):
    given = {**recipe, 'tta':tta, 'epochs':3, 'select':.2}
    config = TrainConfig(**{k: v for k,v in given.items() if k in TrainConfig.__dataclass_fields__})
    others = {'others': grades((external,)+(1,)*(len(counts)-1), first=5000)} if external else {}
    run = plan_runs(grades(counts), ['instance'], net, [1], 1, config, tmp_path, others)[0]
    halves = fitting.halve(run.data, run.parts()['select'])
    assert (halves.way=='halves')==(len(counts)==2)
    learner_of,found = fitting.learner_of,[]
    def watched(*args):
        learn,training = learner_of(*args)
        learn.add_cb(Counted())
        found.append(len(learn.dls.train))
        return learn,training
    monkeypatch.setattr(fitting, 'learner_of', watched)
    Counted.n_batches = Counted.n_images = 0
    before = fitting.FlipTTA.after_pred
    mirrored = []
    def mirror(self):
        mirrored.append(len(self.xb[0]))
        before(self)
    monkeypatch.setattr(fitting.FlipTTA, 'after_pred', mirror)
    # each fold of the calibrator is another epoch's to answer, as a trial must assume
    monkeypatch.setattr(fitting, 'cross_fitted', lambda learn, best, predict, answered, chosen: (
        [predict(o) for o in best.folds], answered)[1])
    assert attempt(run).status=='finished'
    passes = trial.passes_of(run, found[0], halves)
    assert (passes.trained,passes.predicted,passes.mirrored)==(Counted.n_batches,Counted.n_images,sum(mirrored))

def test_a_trial_multiplies_what_it_has_timed(tmp_path, monkeypatch):
    "A clock that only batches and epochs move, by known steps"
    now = [0.]
    monkeypatch.setattr(trial, 'time', type('Clock', (), dict(monotonic=staticmethod(lambda: now[0]))))
    class Cost(Callback):
        order = -99
        def before_batch(self): now[0] += 2. if self.training else .5*len(self.xb[0])
        def after_epoch(self): now[0] += 3.
    learner_of = trial.learner_of
    def watched(*args):
        learn,training = learner_of(*args)
        learn.add_cb(Cost())
        return learn,training
    monkeypatch.setattr(trial, 'learner_of', watched)
    run = runs_of(tmp_path)[0]
    halves = fitting.halve(run.data, run.parts()['select'])
    passes = trial.passes_of(run, len(learner_of(run, dict(run.parts(), choose=halves.choose))[0].dls.train), halves)
    wanted = 3*run.config.epochs + 2*passes.trained + .5*(passes.predicted+passes.mirrored)
    assert trial.trial_seconds(run)==pytest.approx(wanted)
    assert not run.path.exists()

def test_one_run_of_each_kind_is_tried(tmp_path, monkeypatch):
    runs = runs_of(tmp_path, ['instance','class'], ['small',net])
    now = [0.]
    def takes(run):
        now[0] += 4.
        return None if run.method.name=='class' and run.arch=='small' else now[0]
    monkeypatch.setattr(trial, 'trial_seconds', takes)
    monkeypatch.setattr(trial, 'time', type('Clock', (), dict(monotonic=staticmethod(lambda: now[0]))))
    # after ten seconds each network has been tried, and no other method is
    assert trial.trials(runs)==[(runs[0],4.),(runs[2],12.)]


# Opened images

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Images of 24 pixels in folders, two classes"
    root = tmp_path_factory.mktemp('photos')
    for c,n in ('benign',24),('malign',14):
        (root/c).mkdir()
        for i in range(n): Image.fromarray(pixels(f'{int(c!="benign")}/{i}')).resize((24,24)).save(root/c/f'{i}.png')
    return root

def where(monkeypatch, **kwargs):
    "Where a comparison keeps the images of its runs"
    seen = set()
    attempt_of = planning.run_here
    def watched(runs, board):
        seen.update(o.cache for o in runs)
        return attempt_of(runs, board)
    monkeypatch.setattr(planning, 'run_here', watched)
    compared(**kwargs, size=8)
    return seen

def test_no_figure_depends_on_where_images_are_kept(photos, tmp_path, monkeypatch, capsys):
    data = from_folder_table(photos).with_folds(2, seed=0)
    what = dict(data=data, methods=['instance','balmix_0.2'], augment=dict(flip='both', rotate=20, jitter=.2))
    assert where(monkeypatch, out=tmp_path/'none', cache=False, **what)=={''}
    store = tmp_path/'stores'
    assert where(monkeypatch, out=tmp_path/'disk', cache=store, **what)=={str(store)} and any(store.iterdir())
    assert not capsys.readouterr().out
    assert where(monkeypatch, out=tmp_path/'auto', **what)=={'beside'}
    monkeypatch.setattr(opened, '_is_larger', lambda data, size: False)
    assert where(monkeypatch, out=tmp_path/'memory', **what)=={'memory'}
    for o in 'disk','auto','memory': assert_same(tmp_path/'none', tmp_path/o)
    assert not opened._opened

@pytest.fixture(scope='module')
def others(tmp_path_factory):
    "More images of the same classes, some of them of 16 bits"
    root = tmp_path_factory.mktemp('others')
    for c,grade in ('benign',0),('malign',1):
        (root/c).mkdir()
        for i in range(5):
            im = Image.fromarray(pixels(f'{grade}/{900+i}')).resize((20,30))
            if i%2: im = Image.fromarray(np.asarray(im.convert('L')).astype(np.uint16)*200)
            im.save(root/c/f'{i}.png')
    return root

def from_arrays(root):
    "The same images without files"
    data = from_folder_table(root)
    return ImageData(data.df, data.vocab, images=lambda path: Image.open(root/path))

@pytest.mark.thinned
@pytest.mark.parametrize('decode', ['full','fast'])
@pytest.mark.parametrize('kind', ['files','another reading','arrays'])
def test_external_data_are_opened_once_too(photos, others, tmp_path, monkeypatch, kind, decode):
    reading = dict(range=(0,40_000))
    data = from_folder_table(photos, **reading).with_folds(2, seed=0)
    if kind=='arrays': external = from_arrays(others)
    else: external = from_folder_table(others, **({} if kind=='another reading' else reading))
    sources = [o.args[-1] if kind=='arrays' else o for o,_ in external.items()]
    n,open_image = [0],images.open_image
    def counted(source, *args):
        n[0] += (source.args[-1] if callable(source) else source) in sources
        return open_image(source, *args)
    monkeypatch.setattr(images, 'open_image', counted)
    what = dict(data=data, methods=['instance','balmix_0.2'], external={'others': external}, decode=decode)
    compared(tmp_path/'none', cache=False, size=8, **what)
    assert n[0]==2*len(external)
    for name,cache in ('beside','auto'),('disk',tmp_path/'stores'):
        n[0] = 0
        compared(tmp_path/name, cache=cache, size=8, **what)
        # those on disk are made by `prepare`, others by the first run
        assert n[0]==(len(external) if kind=='arrays' else 0)
        assert_same(tmp_path/'none', tmp_path/name)
    monkeypatch.setattr(opened, '_is_larger', lambda data, size: False)
    n[0] = 0
    compared(tmp_path/'memory', size=8, **what)
    assert n[0]==len(external)
    assert_same(tmp_path/'none', tmp_path/'memory')

@pytest.mark.parametrize('memory,kept,words', [
    (10**9, 'memory', 'Store 38 images at 8 × 8, 7.3 kB in memory.'),
    (0, '', 'Opened images would take 7.3 kB in memory, of which 0.0 kB are free. They are opened in every epoch.')])
def test_a_store_that_is_not_to_be_had_is_done_without(photos, tmp_path, monkeypatch, capsys, memory, kept, words):
    monkeypatch.setattr(opened, 'free_memory', lambda: memory)
    (tmp_path/'file').write_text('')
    data = from_folder_table(photos).with_folds(2, seed=0)
    seen = where(monkeypatch, out=tmp_path/'out', data=data, cache=tmp_path/'file'/'stores', show=True)
    said = ' '.join(capsys.readouterr().out.split())
    assert seen=={kept} and f"{tmp_path/'file'/'stores'}': Not a directory. Store" in said and words in said

def test_where_images_are_kept_is_said_and_noted(tmp_path, monkeypatch, capsys):
    def made(name, **kwargs):
        res = compared(tmp_path/name, size=8, **kwargs)
        return ' '.join(capsys.readouterr().out.split()),res.meta['opened']
    wanted = '112 images at 8 × 8, 21.5 kB in memory.'
    said,noted = made('memory', show=True, external={'others': grades((3,3,3,3), first=900)})
    assert f'Store {wanted}' in said and said.index('Store')<said.index('Plan')
    assert [(o['data'],o['cache'],o['said']) for o in noted]==[
        ('','memory',wanted),('others','memory','12 images at 8 × 8, 2.3 kB in memory.')]
    # what is finished needs no store, and what was noted stays
    assert made('memory', external={'others': grades((3,3,3,3), first=900)})==('',noted)
    nowhere = dict(data='', size=8, decode='full', store='raw', cache='', said='')
    assert made('off', cache=False, show=True)[1]==[nowhere]
    monkeypatch.setattr(opened, 'free_memory', lambda: 21_000)
    wanted = ('Opened images would take 21.5 kB in memory, of which 21.0 kB are free. '
              'They are opened in every epoch.')
    said,noted = made('none')
    assert said=='' and noted[0]['said']==wanted and noted[0]['cache']==''
    assert f'Store {wanted}' in made('said', show=True)[0]

def test_memory_is_shared_out_among_data_and_processes(photos, monkeypatch):
    data,n_bytes = from_folder_table(photos),38*3*24**2
    monkeypatch.setattr(opened, 'free_memory', lambda: 5*2*n_bytes)
    def kept(jobs, taken): return opened.keep_opened(data, 24, 'full', jobs=jobs, taken=taken, show=False)
    assert [kept(*o).cache for o in ((1,0),(2,0),(1,n_bytes),(3,0),(2,1),(1,n_bytes+1))]==['memory']*3+['']*3
    assert kept(2, 0).said=='38 images at 24 × 24, 65.7 kB in the memory of each of 2 processes.'

def copied(root, folder):
    "A copy of images without what was kept beside them"
    return Path(shutil.copytree(root, folder/root.name, ignore=shutil.ignore_patterns('.balmix*')))

@pytest.fixture
def read(monkeypatch):
    "Names of the files that are read, all of them in this process"
    res,read_bytes = [],Path.read_bytes
    def noted(self):
        res.append(f'{self.parent.name}/{self.name}')
        return read_bytes(self)
    monkeypatch.setattr(Path, 'read_bytes', noted)
    monkeypatch.setattr(prepared.defaults, 'cpus', 0)
    monkeypatch.setattr(prepared, '_seconds_each', lambda opening, names: 0.) # which opens a few
    return res

@pytest.mark.parametrize('verified', ['','before','after'])
def test_a_file_is_read_once_for_fingerprint_verification_and_training(photos, others, tmp_path, read, verified):
    roots = [copied(o, tmp_path) for o in (photos,others)]
    data,external = map(from_folder_table, roots)
    if verified=='before':
        for o in data,external: o.verify(size=8)
    compared(tmp_path/'out', data=data.with_folds(2, seed=0), external={'others': external}, size=8)
    if verified=='after': assert [o.verify().opened for o in (data,external)]==[0,0]
    names = [path for o in (data,external) for path in o.df.path]
    assert sorted(o for o in read if o in names)==sorted(names)
    # nor again, and what is finished needs no store
    read.clear()
    for o in roots: shutil.rmtree(o/'.balmix_cache')
    compared(tmp_path/'out', data=from_folder_table(roots[0]).with_folds(2, seed=0), size=8,
             external={'others': from_folder_table(roots[1])})
    assert not {*read} & {*names} and not any((o/'.balmix_cache').exists() for o in roots)

def test_nothing_is_made_for_a_comparison_that_is_refused(photos, tmp_path, read):
    root = copied(photos, tmp_path)
    data = from_folder_table(root).with_folds(2, seed=0)
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'letter.txt').write_text('')
    for kwargs in dict(out=tmp_path/'out'),dict(out=tmp_path/'new', bs=1000):
        with pytest.raises(ValueError): compared(data=data, size=8, **kwargs)
    assert not read and not (root/'.balmix_cache').exists()

def test_verify_does_without_a_store_that_is_not_to_be_had(photos, tmp_path, monkeypatch):
    root = copied(photos, tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=100)))
    with pytest.warns(UserWarning, match='ImageData.verify: Prepared images would take .* a fifth of the free disk'):
        found = from_folder_table(root).verify(0, progress=False, size=8)
    assert found.n==found.opened==38

def test_files_are_looked_at_once_in_a_comparison(photos, tmp_path, monkeypatch):
    root = copied(photos, tmp_path)
    for path in root.glob('*/*.png'):
        grey = np.asarray(Image.open(path).convert('L')).astype(np.uint16)
        Image.fromarray(grey).save(path) # of 16 bits, of which few are used
    data = from_folder_table(root).with_folds(2, seed=0)
    looked,file_remarks = [],verification.file_remarks
    def counted(data):
        looked.append(data)
        return file_remarks(data)
    for where in verification,batches: monkeypatch.setattr(where, 'file_remarks', counted)
    res = compared(tmp_path/'out', ['instance','class'], data, size=8)
    assert len(looked)==1
    said = [res.record(run)['warnings'] for run in res.df.run.unique()]
    assert len(said)==2 and said[0]==said[1] and 'use 0 to' in said[0][0]
    # outside, a change is seen at once
    with pytest.warns(UserWarning, match='use 0 to'): data.dataloaders(fold=1, size=8, bs=4)
    for path in root.glob('*/*.png'): Image.new('RGB', (24,24)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        data.dataloaders(fold=1, size=8, bs=4)
    assert len(looked)==3

def test_memory_is_used_up_to_a_fifth(photos, monkeypatch):
    data = from_folder_table(photos)
    for free,jobs,chosen in (5*38*3*24**2,1,'memory'),(5*38*3*24**2-1,1,''),(5*38*3*24**2,2,''):
        monkeypatch.setattr(opened, 'free_memory', lambda free=free: free)
        assert opened.chosen_cache(data, 24, 'auto', jobs)==chosen

def test_compact_images_are_those_of_their_store(photos, others, tmp_path, monkeypatch):
    data = from_folder_table(copied(photos, tmp_path)).with_folds(2, seed=0)
    what = dict(data=data, methods=['instance'], size=20)
    compared(tmp_path/'raw', **what)
    external = {'others': from_folder_table(copied(others, tmp_path))}
    res = compared(tmp_path/'compact', store='compact', external=external, **what)
    assert all('as JPEG of quality 95' in o['said'] and o['store']=='compact' for o in res.meta['opened'])
    raw,compact = (Results(tmp_path/o) for o in ('raw','compact'))
    def answers(results): return results.predictions(results.df.run[0])['probs']['as trained']
    assert raw.df.run[0]!=compact.df.run[0] and (answers(raw)!=answers(compact)).any()
    # elsewhere on disk, in files of these very pixels
    held = opened.prepare(data, 20, store='compact', progress=False)
    for path,row in zip(data.df.path, held.rows([o for o,_ in data.items()])):
        (tmp_path/'same'/path).parent.mkdir(parents=True, exist_ok=True)
        held.picture(int(row)).save(tmp_path/'same'/path)
    same = from_folder_table(tmp_path/'same').with_folds(2, seed=0)
    compared(tmp_path/'files', cache=False, **{**what, 'data': same})
    np.testing.assert_array_equal(answers(Results(tmp_path/'files')), answers(compact))

def test_compact_is_never_done_without(photos, tmp_path, monkeypatch, out):  # noqa: F811
    data = from_folder_table(copied(photos, tmp_path)).with_folds(2, seed=0)
    def refused(words, error=ValueError, **kwargs):
        with pytest.raises(error, match=words): compared(out, size=20, store='compact', **kwargs)
    refused("'store' parameter of compare must be 'raw' where `cache` is False", data=data, cache=False)
    refused("'store' parameter of compare must be 'raw', as images of a function", data=grades())
    (tmp_path/'file').write_text('')
    refused('cannot be written to', OSError, data=data, cache=tmp_path/'file'/'stores')
    run = plan_runs(data, ['instance'], net, [1], 1, TrainConfig(**recipe | dict(size=20, store='compact')), out)[0]
    assert "needs images that are kept on disk" in attempt(run).error

def test_a_store_that_went_away_is_done_without(photos, tmp_path, monkeypatch):
    def gone(*args, **kwargs): raise PermissionError('closed')
    monkeypatch.setattr(opened, 'prepare', gone)
    assert opened.pictures_of(from_folder_table(photos), 8, 'full', str(tmp_path/'stores')) is None

@pytest.mark.parametrize('cache', [True,None,5,''])
def test_a_bad_cache(out, cache):  # noqa: F811
    with pytest.raises(ValueError, match="'cache' parameter of compare must be 'auto', False or a folder"):
        compared(out, cache=cache)


# Everything together

def in_processes(folder):
    from fastai_balmix.compare.plan import compare
    from fastai_balmix.datasets.sources import digits
    what = dict(archs='small', epochs=2, bs=16, size=16, pretrained=False, show=False)
    del os.environ['OMP_NUM_THREADS']
    for jobs in 1,2,4: compare(digits(n_folds=2), ['instance','balmix_0.2'], jobs=jobs, out=folder/str(jobs), **what)
    compare(digits(n_folds=2), ['instance','balmix_0.2'], cache=False, out=folder/'opened', **what)

@pytest.mark.slow
def test_one_two_and_four_jobs_have_the_same_table_to_the_last_digit(tmp_path):
    warm_call(in_processes, tmp_path)
    for o in '2','4','opened':
        assert_same(tmp_path/'1', tmp_path/o)
        for p in (tmp_path/'1').glob('runs/*/predictions.npz'):
            assert p.read_bytes()==(tmp_path/o/p.relative_to(tmp_path/'1')).read_bytes()

def test_images_of_arrays_are_kept_as_they_are(tmp_path):
    "Without a size too, since they are of one size; and no figure depends on it"
    data = digits(n_folds=2)
    assert opened.chosen_cache(data, None)=='memory' and opened.kept_size(data, None)==(8,8)
    config = TrainConfig(epochs=1, size=None, bs=32, augment='shift', pretrained=False)
    answers = []
    for cache in '','memory':
        run = Run(data, 'balmix_0.2', 'small', 1, 0, config, tmp_path/f'a{cache}', cache=cache)
        assert attempt(run).status=='finished'
        answers.append(dict(np.load(run.path/'predictions.npz')))
    assert next(iter(opened._opened.values())).shape==(3,8,8)
    opened.forget_pictures()
    for k in answers[0]: np.testing.assert_array_equal(answers[0][k], answers[1][k])

def test_arrays_of_several_sizes_are_not_kept():
    images = ArrayImages(lambda: dict(a=np.zeros((2,8,8), np.uint8), b=np.zeros((2,9,8), np.uint8)))
    data = ImageData(pd.DataFrame(dict(path=['a/0','b/0'], label=['x','y'])), ['x','y'], images=images)
    assert opened.kept_size(data, None) is None and opened.chosen_cache(data, None)==''
    assert opened.kept_size(data, 16)==16
