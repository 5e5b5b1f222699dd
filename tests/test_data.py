"""The notebook shows each reader on a small tree as it should be. Here the trees are as they come: other suffixes,
missing and spare files, tables with wrong columns, wrong grades or a patient on both sides. Every recipe must make the
same data again."""

import gzip
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toys
import yaml
from conftest import root as repo
from hypothesis import given, strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastai_balmix.datasets import published as module
from fastai_balmix.datasets.images import ArrayImages
from fastai_balmix.datasets.longtail import tail_counts
from fastai_balmix.datasets.published import (
    digits,
    fashion_mnist_lt,
    fashion_names,
    hyper_kvasir,
    medmnist,
)
from fastai_balmix.datasets.retina import dr_grades, eyepacs, messidor2
from fastai_balmix.datasets.sources import long_tail, read_data, readers
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.tables import from_csv
from fastai_balmix.datasets.trees import from_folder_table

pixels = (load_digits().images*255/16).astype(np.uint8)
drawn = iter(np.random.default_rng(0).integers(0, 256, (20_000,4,4), dtype=np.uint8))

def picture(fn):
    "A file of its own bytes"
    fn.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(next(drawn)).save(fn)

def write(fn, *lines, sep='\n'):
    fn.parent.mkdir(parents=True, exist_ok=True)
    fn.write_bytes((sep.join(lines)+sep).encode())

def again(data):
    "The same data from its recipe, which has been through a file"
    other = read_data(yaml.safe_load(yaml.safe_dump(data.recipe)))
    assert other.fingerprint==data.fingerprint and other.recipe==data.recipe and other.vocab==data.vocab
    assert (other.name,other.ordered,other.notes,other.prevalence)==(data.name,data.ordered,data.notes,data.prevalence)
    pd.testing.assert_frame_equal(other.df, data.df)

# EyePACS

def eye_tree(root, suffix='.jpeg', n_train=60, n_test=30):
    rng = np.random.default_rng(0)
    lines = dict(train=['image,level'], test=['image,level,Usage'])
    for p in rng.permutation(n_train+n_test)+1:
        part = 'train' if p>n_test else 'test'
        for side in 'left','right':
            usage = f",{'Public' if p%5==0 else 'Private'}" if part=='test' else ''
            lines[part].append(f'{p}_{side},{rng.choice(5, p=[.4,.2,.2,.1,.1])}{usage}')
            picture(root/part/f'{p}_{side}{suffix}')
    write(root/'trainLabels.csv', *lines['train'])
    write(root/'retinopathy_solution.csv', *lines['test'], sep='\r\n')
    return root

def test_eyepacs_keeps_patients_and_usage(tmp_path):
    root = eye_tree(tmp_path)
    data = eyepacs(root)
    a,b = (pd.read_csv(root/f).set_index('image') for f in ('trainLabels.csv','retinopathy_solution.csv'))
    assert len(data)==180 and data.ordered and data.prevalence is None
    assert data.vocab==dr_grades==['DR0','DR1','DR2','DR3','DR4']
    stem = data.df.path.str.extract(r'^(\w+)/(\w+)\.jpeg$')
    want = pd.concat([a,b]).level
    assert data.y.tolist()==want[stem[1]].tolist()
    assert data.groups.tolist()==[o.split('_')[0] for o in stem[1]]
    test = data.df.split=='test'
    assert test.tolist()==stem[1].isin(b.index).tolist() and (stem[0]==np.where(test, 'test', 'train')).all()
    assert data.df.usage[test].tolist()==b.Usage[stem[1][test]].tolist() and (data.df.usage[~test]=='').all()
    assert data.df.groupby('group').split.nunique().max()==1 and (data.df.groupby('group').size()==2).all()
    patients = data.df.drop_duplicates('group').split.value_counts()
    assert (patients['valid'],patients['train'],patients['test'])==(6,54,30)
    assert not data.missing
    p = data.parts()
    assert data.df.split[p['select']].eq('valid').all() and data.df.split[p['report']].eq('test').all()
    assert eyepacs(root, seed=1).df.split.tolist()!=data.df.split.tolist()==eyepacs(str(root)).df.split.tolist()
    assert (eyepacs(root, valid=.3).df.drop_duplicates('group').split=='valid').sum() in (17,18,19)
    again(data)
    again(eyepacs(root, valid=.2, seed=3).with_folds(3))

@pytest.mark.parametrize('suffix', ['.jpg','.png','.tif','.JPEG'])
def test_eyepacs_takes_one_suffix(tmp_path, suffix):
    root = eye_tree(tmp_path, suffix, 30, 6)
    gone = sorted((root/'train').iterdir())[3]
    gone.unlink()
    picture(root/'train'/f'99999_left{suffix}') # not in the table
    data = eyepacs(root)
    assert len(data)==72 and data.missing==[f'train/{gone.name}']
    assert 'Missing files: 1, such as train/' in str(data)
    with pytest.raises(ValueError, match='all there. Got 1 missing'): data.dataloaders(size=4, bs=2)

def test_eyepacs_is_opened_when_asked(tmp_path):
    root = eye_tree(tmp_path, '.png', 30, 6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        eyepacs(root, verify=True)
    files = sorted((root/'test').iterdir())
    shutil.copy(files[0], sorted((root/'train').iterdir())[0])
    twice = 'images that occur more than once: 1, of them in several parts: 1'
    with pytest.warns(UserWarning, match=rf'eyepacs: {twice}, .* The first: train/\w+.png = test/\w+.png'):
        eyepacs(root, verify=True)
    for f in files: f.write_bytes(b'x')
    unreadable = r'eyepacs: 12 of 72 images cannot be read. test/\w+.png: not an image .*; \.\.\.$'
    with pytest.raises(ValueError, match=unreadable) as e: eyepacs(root, verify=True)
    assert str(e.value).count('not an image')==10

# Each returns a function that spoils a folder

def changed(name, a, b, n=1):
    def spoil(root):
        text = (root/name).read_text()
        assert a in text
        (root/name).write_text(text.replace(a, b, n))
    return spoil

def lines_of(fn): return fn.read_text().split()
def added(name, line): return lambda root: write(root/name, *lines_of(root/name), line)
def renamed(a, b): return lambda root: (root/a).rename(root/b)
def without(pattern): return lambda root: [o.unlink() for o in [*root.rglob(pattern)]]

train_csv,test_csv = 'trainLabels.csv','retinopathy_solution.csv'

def row_twice(root): added(train_csv, lines_of(root/train_csv)[1])(root)
def image_twice(root): shutil.copy(root/'train'/'7_left.jpeg', root/'train'/'7_left.png')
def patient_in_both(root):
    added(test_csv, '7_left,0,Public')(root)
    picture(root/'test'/'7_left.jpeg')

@pytest.mark.parametrize('spoil,words', [
    (without(train_csv), "'root' parameter of eyepacs must be a folder with trainLabels.csv. Got .*, which has none"),
    (without(test_csv), "a folder with retinopathy_solution.csv"),
    (changed(train_csv, 'level', 'levels'), "eyepacs needs a column 'level' in trainLabels.csv. Did you mean 'levels'"),
    (changed(test_csv, ',Usage', ',usage'),
        "needs a column 'Usage' in retinopathy_solution.csv. Did you mean 'usage'"),
    (changed(test_csv, 'Public', 'public'), "has 'Public' and 'Private' as Usage. Got 'public'"),
    (changed(train_csv, '_left,', '_links,'),
        r"whose trainLabels.csv names images such as 10_left. Got '\d+_links'"),
    (changed(train_csv, '_left,', '_left,5'), r"trainLabels.csv has grades from 0 to 4. Got '5\d' in row"),
    (added(train_csv, '77_left,'), "grades from 0 to 4. Got '' in row 40"),
    (added(train_csv, '77_left,1,2,3'), "eyepacs cannot read trainLabels.csv as a table"),
    (row_twice, "each path once"),
    (renamed('train', 'training'), "a folder with the images of trainLabels.csv in train/. Got no train/"),
    (without('test/*'), "images of retinopathy_solution.csv in test/, all with one suffix. Got none of them"),
    (renamed('train/7_left.jpeg', 'train/7_left.png'), "in train/, all with one suffix. Got .jpeg and .png"),
    (image_twice, "with each image name once. Got '7_left.jpeg' and '7_left.png'"),
    (patient_in_both, "groups that each lie in one part. Got '7' with items in (train|valid) and test"),
])
def test_eyepacs_in_disorder(tmp_path, spoil, words):
    root = eye_tree(tmp_path/'r', '.jpeg', 20, 6)
    spoil(root)
    with pytest.raises(ValueError, match=words): eyepacs(root)

# Messidor-2

ungradable = 7,20,21,33

def messidor_tree(root, folder='IMAGES', pairs=True):
    "Both eyes of 20 patients, those of the first ten as PNG"
    names = [f'20051020_{43800+7*i}_0100_PP' if i<20 else f'IM{i:06}' for i in range(40)]
    lines = ['image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable']
    for i,s in enumerate(names):
        picture(root/folder/(s+('.png' if i<20 else '.JPG')))
        lines.append(f'{s}.jpg,,,0' if i in ungradable else f'{s}.jpg,{i%5},0,1')
    write(root/'messidor_data.csv', *lines)
    both = (f'{a}.png;{b}.png' for a,b in zip(names[::2], names[1::2]))
    if pairs: write(root/'messidor-2.csv', 'left;right', *both)
    return root

@pytest.mark.parametrize('folder', ['IMAGES','.'])
def test_messidor2_drops_what_was_not_gradable(tmp_path, folder):
    data = messidor2(messidor_tree(tmp_path, folder))
    assert len(data)==36 and data.vocab==dr_grades and data.ordered
    assert (data.df.split=='test').all() and not data.missing
    kept = [i for i in range(40) if i not in ungradable]
    assert data.y.tolist()==[i%5 for i in kept]
    # both eyes of an examination have one group, two examinations never
    assert pd.factorize(data.groups)[0].tolist()==pd.factorize(np.array(kept)//2)[0].tolist()
    assert data.notes==['Messidor-2: 4 of 40 images are left out as not gradable.']
    assert all(p.endswith('.png' if i<20 else '.JPG') for p,i in zip(data.df.path, kept))
    again(data)

def test_messidor2_without_pairs_says_so(tmp_path):
    root = messidor_tree(tmp_path, pairs=False)
    data = messidor2(root)
    note = data.notes[1]
    assert data.groups is None and 'pairs of eyes are unknown' in note and note in str(data)
    pairs = 'IM000030.JPG;IM000031.JPG','"20051020_43800_0100_PP.png";"20051020_43807_0100_PP.png"'
    write(root/'messidor-2.csv', 'left;right', *pairs)
    data = messidor2(root)
    assert len(set(data.groups))==34 and 'Messidor-2: 32 of 36 images are in no pair' in data.notes[1]

def test_pairs_of_other_images_are_no_pairs(tmp_path):
    root = messidor_tree(tmp_path)
    write(root/'messidor-2.csv', 'left;right', 'a.png;b.png')
    data = messidor2(root)
    assert data.groups is None and 'messidor-2.csv is missing or names none of them' in data.notes[1]

def test_grades_of_messidor2_may_be_written_as_floats(tmp_path):
    root = messidor_tree(tmp_path)
    y = messidor2(root).y
    text = (root/'messidor_data.csv').read_text()
    (root/'messidor_data.csv').write_text(re.sub(r',(\d),0,1', r',\1.0,0.0,1', text))
    assert messidor2(root).y.tolist()==y.tolist()

@pytest.mark.parametrize('spoil,words', [
    (changed('messidor_data.csv', 'image_id', 'id_code'), "messidor2 needs a column 'image_id' in messidor_data.csv"),
    (changed('messidor_data.csv', 'adjudicated_gradable', 'gradable'),
        "needs a column 'adjudicated_gradable' in messidor_data.csv. Did you mean .*'gradable'"),
    (changed('messidor_data.csv', ',,,0', ',,,1'), "messidor_data.csv has grades from 0 to 4. Got '' in row 7"),
    (changed('messidor_data.csv', ',,,0', ',,,no'), "has 0 or 1 as adjudicated_gradable. Got \\['no'\\]"),
    (lambda root: shutil.rmtree(root/'IMAGES'),
        "a folder with images in IMAGES/ or beside messidor_data.csv. Got none"),
    (lambda root: picture(root/'IMAGES'/'IM000030.png'), "with each image name once"),
])
def test_messidor2_in_disorder(tmp_path, spoil, words):
    root = messidor_tree(tmp_path)
    spoil(root)
    with pytest.raises(ValueError, match=words): messidor2(root)

def test_a_missing_image_of_messidor2_is_named(tmp_path):
    root = messidor_tree(tmp_path)
    (root/'IMAGES'/'IM000030.JPG').unlink()
    assert messidor2(root).missing==['IMAGES/IM000030.jpg']

# Hyper-Kvasir

# Where the name in image-labels.csv is not the official one
official_names = {
    'hemorrhoids':'hemorroids', 'cecum':'normal-cecum', 'pylorus':'normal-pylorus', 'z-line':'normal-z-line',
    'polyps':'polyp', 'esophagitis-a':'oesophagitis-a', 'esophagitis-b-d':'oesophagitis-b-d',
    'barretts-short-segment':'short-segment-barretts'}
published = pd.read_csv(repo/'fastai_balmix'/'datasets'/'hyper_kvasir_class_counts.csv').set_index('class').images
findings = {o: o for o in published.index if o not in official_names.values()} | official_names
kvasir_csv = 'labeled-images/image-labels.csv'
landmarks = 'cecum','ileum','retroflex-rectum','pylorus','retroflex-stomach','z-line'

def kvasir_kind(finding):
    if 'bbps' in finding or 'stool' in finding: return 'quality-of-mucosal-views'
    if finding.startswith('dyed'): return 'therapeutic-interventions'
    return 'anatomical-landmarks' if finding in landmarks else 'pathological-findings'

def kvasir_tree(root, sizes):
    "Images in the published layout; `sizes` of each finding"
    rng = np.random.default_rng(0)
    lines,official = ['Video file,Organ,Finding,Classification'],[]
    for f,n in sizes.items():
        upper = any(o in f for o in ('barretts','esophagitis','pylorus','z-line','stomach'))
        kind = kvasir_kind(f)
        for _ in range(n):
            uid = '-'.join(f'{o:0{w}x}' for o,w in zip(rng.integers(0, 16**4, 5), (8,4,4,4,12)))
            lines.append(f'{uid},{"Upper" if upper else "Lower"} GI,{f},{kind}')
            official.append(f'{uid}.jpg;{findings[f]};{rng.integers(5)}')
            picture(root/'labeled-images'/f'{"upper" if upper else "lower"}-gi-tract'/kind/f/f'{uid}.jpg')
    write(root/kvasir_csv, *lines, sep='\r\n')
    in_two = [o[:-1]+str(int(o[-1])%2) for o in official]
    for k,rows in (5,rng.permutation(official)),(2,in_two):
        write(root/'official_splits'/f'{k}_fold_split.csv', 'file-name;class-name;split-index', *rows)
    return root

def reference_folds(csv):
    "The rule of the paper's authors, by scikit-learn and pandas, on the table itself"
    df = pd.read_csv(csv)
    rest,n,res = df,len(df),{}
    for k in range(1, 5):
        rest,cut = train_test_split(rest, test_size=n//5, random_state=0, stratify=rest.Finding)
        res |= {o:k for o in cut['Video file']}
    return res | {o:5 for o in rest['Video file']}

small = {'cecum':23, 'polyps':17, 'z-line':11, 'hemorrhoids':6, 'barretts-short-segment':8, 'bbps-0-1':12}

def test_hyper_kvasir_has_the_folds_of_the_authors(tmp_path):
    root = kvasir_tree(tmp_path, small)
    data = hyper_kvasir(root)
    t = pd.read_csv(root/kvasir_csv)
    assert data.df.label.tolist()==t.Finding.tolist() and data.vocab==sorted(small)
    assert not data.ordered and data.groups is None and not data.missing
    want = reference_folds(root/kvasir_csv)
    assert data.df.fold.tolist()==[want[o] for o in t['Video file']]
    assert data.notes[0]=='Folds are by image: frames of one examination may fall on both sides.'
    assert data.notes[0] in str(data)
    assert 'Hyper-Kvasir: 77 images where 10,662 were published; 22 of the 23 classes' in str(data)
    again(data)
    # the folder of the images itself is taken too, with the same folds
    inner = hyper_kvasir(root/'labeled-images').df
    assert inner.fold.tolist()==data.df.fold.tolist()
    assert ('labeled-images/'+inner.path).tolist()==data.df.path.tolist()

def test_hyper_kvasir_reads_official_folds_by_file(tmp_path):
    root = kvasir_tree(tmp_path, small)
    for n in 5,2:
        t = pd.read_csv(root/'official_splits'/f'{n}_fold_split.csv', sep=';').set_index('file-name')['split-index']
        data = hyper_kvasir(root, folds='official', n_folds=n)
        want = t[data.df.path.str.rpartition('/')[2]]+1
        assert data.df.fold.tolist()==want.tolist() and f'Folds: the official {n}.' in data.notes
        again(data)
    data = hyper_kvasir(root, folds='stratified', seed=3, n_folds=4)
    assert data.folds==[1,2,3,4] and pd.crosstab(data.df.fold, data.y).apply(np.ptp).max()<=1
    again(data)

def test_names_and_counts_of_hyper_kvasir_are_the_published(tmp_path):
    counts = module._published_counts()
    assert {findings[k]:n for k,n in counts.items()}==published.to_dict()
    assert len(counts)==23 and sum(counts.values())==10_662
    root = kvasir_tree(tmp_path, {f:5 for f in findings})
    data = hyper_kvasir(root, folds='stratified')
    assert data.vocab==sorted(findings) and not any('known' in o for o in data.notes)

def test_files_of_hyper_kvasir_that_are_missing_or_spare(tmp_path):
    root = kvasir_tree(tmp_path, small)
    gone = next((root/'labeled-images').rglob('z-line/*.jpg'))
    gone.unlink()
    picture(root/'labeled-images'/'lower-gi-tract'/'unlabeled.jpg')
    data = hyper_kvasir(root)
    assert data.missing==[gone.relative_to(root).as_posix()]
    assert any('1 images in the folder are not in image-labels.csv' in o for o in data.notes)
    want = reference_folds(root/kvasir_csv)
    assert data.df.fold.tolist()==[want[o] for o in pd.read_csv(root/kvasir_csv)['Video file']]

five_csv,two_csv = (f'official_splits/{n}_fold_split.csv' for n in (5,2))
five_or_two = "5, or 2 for official folds, unless folds are stratified. Got "

@pytest.mark.parametrize('kwargs,name,rest', [
    (dict(folds='author'), 'folds', "'authors', 'official' or 'stratified'. Got 'author'"),
    (dict(n_folds=3), 'n_folds', five_or_two+'3'),
    (dict(n_folds=2), 'n_folds', five_or_two+'2'),
    (dict(folds='official', n_folds=3), 'n_folds', five_or_two+'3'),
])
def test_bad_arguments_of_hyper_kvasir(tmp_path, kwargs, name, rest):
    root = kvasir_tree(tmp_path, {'cecum':6, 'polyps':6})
    with pytest.raises(ValueError, match=toys.must_be('hyper_kvasir', name, rest)): hyper_kvasir(root, **kwargs)

@pytest.mark.parametrize('spoil,kwargs,words', [
    (without(kvasir_csv), {}, "a folder with image-labels.csv. Got .*, which has none"),
    (changed(kvasir_csv, 'Finding', 'finding'), {},
        "hyper_kvasir needs a column 'Finding' in image-labels.csv. Did you mean 'finding'"),
    (changed(kvasir_csv, ',polyps,', ',polips,'), {}, "Got 'polips' instead. Did you mean 'polyps'"),
    (changed(five_csv, ';', ',', -1), dict(folds='official'),
        "hyper_kvasir needs a column 'file-name' in 5_fold_split.csv"),
    (lambda root: write(root/five_csv, *lines_of(root/five_csv)[:-1]), dict(folds='official'),
        "whose 5_fold_split.csv names every image of image-labels.csv. Got none for 1, such as"),
    (changed(two_csv, ';1\n', ';2\n'), dict(folds='official', n_folds=2),
        "a split-index from 0 to 1. Got \\['2'\\]"),
    (lambda root: shutil.rmtree(root/'official_splits'), dict(folds='official'),
        "a folder with official_splits/5_fold_split.csv. Got none"),
    (without('*.jpg'), {}, "a folder with the images of image-labels.csv beside it. Got none of them"),
])
def test_hyper_kvasir_in_disorder(tmp_path, spoil, kwargs, words):
    root = kvasir_tree(tmp_path, {'cecum':6, 'polyps':6})
    spoil(root)
    with pytest.raises(ValueError, match=words): hyper_kvasir(root, **kwargs)

# MedMNIST

def npz(fn, shape=(28,28), n=(30,9,12), k=4, flat=False, save=np.savez, **more):
    rng,d = np.random.default_rng(0),{}
    for s,m in zip(('train','val','test'), n):
        d[f'{s}_images'] = rng.integers(0, 256, (m,*shape), dtype=np.uint8)
        d[f'{s}_labels'] = np.resize(np.arange(k), m).reshape(-1 if flat else (m,1))
    save(fn, **{**d, **more})
    return {**d, **more}

@pytest.mark.parametrize('shape,flat,save', [
    ((28,28), False, np.savez), ((28,28,3), False, np.savez_compressed), ((5,6), True, np.savez)])
def test_medmnist_comes_as_published(tmp_path, shape, flat, save):
    fn = tmp_path/'bloodmnist.npz'
    d = npz(fn, shape, flat=flat, save=save)
    data = medmnist(fn, ordered=True)
    assert data.name=='bloodmnist' and data.vocab==['0','1','2','3'] and data.ordered
    assert data.df.split.tolist()==['train']*30+['valid']*9+['test']*12
    assert data.y.tolist()==np.concatenate([d[f'{s}_labels'].ravel() for s in ('train','val','test')]).tolist()
    for i,(s,j) in {0:('train',0), 29:('train',29), 31:('val',1), 50:('test',11)}.items():
        assert (np.asarray(data.images(data.df.path[i]))==d[f'{s}_images'][j]).all()
    assert data.dataloaders(size=None, bs=4, num_workers=0).one_batch()[0].shape==(4,3,*shape[:2])
    again(data)
    assert medmnist(str(fn), vocab=list('abcd')).df.label[:5].tolist()==list('abcda')

@pytest.mark.parametrize('make,words', [
    (lambda f: None, "'npz' parameter of medmnist must be an existing file"),
    (lambda f: f.write_text('x'), "a file of NumPy arrays, .npz. Got 'x.npz'"),
    (lambda f: np.savez(f, train_image=[1]), "a file with an array 'train_images'. Did you mean 'train_image'"),
    (lambda f: npz(f, (28,28,28)),
        r"a file of 2-D images, \(N,H,W\) or \(N,H,W,3\). Got train_images of shape \(30, 28, 28, 28\)"),
    (lambda f: npz(f, (28,28,28,3)), "a file of 2-D images"),
    (lambda f: npz(f, (7,)), "a file of 2-D images"),
    (lambda f: npz(f, train_images=np.zeros((30,4,4))), "a file of uint8 images. Got float64"),
    (lambda f: npz(f, val_labels=np.zeros((9,14), int)),
        r"a file with one class for each image. Got val_labels of shape \(9, 14\), several for each"),
    (lambda f: npz(f, test_labels=np.zeros((3,1), int)),
        "'npz' parameter of medmnist must be 12 ints, one for each item. Got 3 labels"),
])
def test_files_that_are_no_medmnist(tmp_path, make, words):
    fn = tmp_path/'x.npz'
    make(fn)
    with pytest.raises(ValueError, match=words): medmnist(fn)

def test_medmnist_needs_all_names(tmp_path):
    npz(tmp_path/'x.npz')
    with pytest.raises(ValueError, match="'vocab' parameter of medmnist must be the names of 4 classes. Got 3"):
        medmnist(tmp_path/'x.npz', vocab=list('abc'))

# Fashion-MNIST and digits

def idx(fn, a):
    head = bytes([0,0,8,a.ndim])+b''.join(int(o).to_bytes(4, 'big') for o in a.shape)
    fn.parent.mkdir(exist_ok=True)
    with gzip.open(fn, 'wb') as f: f.write(head+a.astype(np.uint8).tobytes())

@pytest.fixture(scope='module')
def fashion(tmp_path_factory):
    "Files in the published format; each image is of one grey level, its class and its number"
    root = tmp_path_factory.mktemp('fashion')
    for s,n in ('train',900),('t10k',50):
        y = np.resize(np.arange(10), n)
        x = np.zeros((n,28,28), dtype=np.uint8)
        x[:,0,0],x[:,0,1],x[:,0,2] = y,np.arange(n)//256,np.arange(n)%256
        idx(root/f'{s}-images-idx3-ubyte.gz', x)
        idx(root/f'{s}-labels-idx1-ubyte.gz', y)
    return root

def test_fashion_has_the_tail_twice_and_a_balanced_test(fashion):
    data = fashion_mnist_lt(imbalance=20, n_max=60, select=.25, root=fashion)
    t = pd.crosstab(data.df.split, data.y)
    counts = tail_counts(60, 10, 20)
    assert t.loc['train'].tolist()==counts.tolist() and t.loc['test'].tolist()==[5]*10
    assert t.loc['valid'].tolist()==np.maximum(np.rint(counts*.25), 1).astype(int).tolist()
    assert data.vocab==fashion_names and data.prevalence=='train'
    assert 'class shares of the training images' in data.notes[0]
    seen = {s: set() for s in ('train','valid','test')}
    for p,s,y in zip(data.df.path, data.df.split, data.y):
        x = data.images.array(p)
        assert x[0,0]==y
        seen[s].add((p.split('/')[0], int(x[0,1])*256+int(x[0,2])))
    assert not seen['train'] & seen['valid'] and {a for a,_ in seen['test']}=={'test'}
    assert len(seen['train'] | seen['valid'])==(data.df.split!='test').sum()
    again(data)
    small = fashion_mnist_lt(imbalance=20, n_max=60, select=.01, root=fashion)
    assert np.bincount(small.y[small.df.split=='valid']).tolist()==[1]*10

def test_which_classes_of_fashion_are_rare_can_be_drawn(fashion):
    def of(**kw): return fashion_mnist_lt(imbalance=10, n_max=40, root=fashion, **kw)
    def sizes(d): return np.bincount(d.y[d.df.split=='train']).tolist()
    assert sizes(of())==sorted(sizes(of()), reverse=True)==sorted(sizes(of(shuffle_classes=True, seed=1)), reverse=True)
    assert len({tuple(sizes(of(shuffle_classes=True, seed=s))) for s in range(4)})==4
    assert of(seed=1).df.path.tolist()!=of(seed=2).df.path.tolist()
    again(of(shuffle_classes=True, seed=5))

@pytest.mark.parametrize('kwargs,owner,rest', [
    (dict(root='/nowhere'), 'fashion_mnist_lt',
        r"a folder with the four files of Fashion-MNIST \(Debian's package dataset-fashion-mnist brings them\). "
        "Got '/nowhere' without train-images"),
    (dict(n_max=80), 'fashion_mnist_lt',
        "small enough for 90 images a class, with 0.2 of it more for selection. Got 80"),
    (dict(select=-1), 'fashion_mnist_lt', ''),
    (dict(seed='x'), 'fashion_mnist_lt', ''),
    (dict(n_max=0), 'tail_counts', ''),
    (dict(imbalance=.5), 'tail_counts', ''),
])
def test_bad_arguments_of_fashion(fashion, kwargs, owner, rest):
    (name,) = kwargs
    with pytest.raises(ValueError, match=toys.must_be(owner, name, rest)):
        fashion_mnist_lt(**{'root':fashion, 'n_max':20, **kwargs})

@pytest.mark.skipif(not Path('/usr/share/datasets/fashion-mnist').is_dir(), reason='Fashion-MNIST is not installed')
def test_fashion_as_published():
    data = fashion_mnist_lt()
    train = data.y[data.df.split=='train']
    assert np.bincount(train).tolist()==tail_counts(2000, 10, 100).tolist() and (data.df.split=='test').sum()==10_000
    x = data.dataloaders(size=None, bs=64, num_workers=0).one_batch()[0]
    assert x.shape==(64,3,28,28) and len(data.verify(progress=False).bad)==0

def test_digits_are_long_tailed_in_all_folds():
    data = digits()
    t = load_digits()
    assert data.counts.tolist()==tail_counts(170, 10, 20).tolist()
    assert data.folds==[1,2,3,4,5] and data.prevalence is None
    for p,y in zip(data.df.path, data.y):
        i = int(p.split('/')[1])
        assert t.target[i]==y and (data.images.array(p)==pixels[i]).all()
    assert pd.crosstab(data.df.fold, data.y).apply(np.ptp).max()<=1
    for k in data.folds:
        p = data.parts(fold=k)
        assert all(map(len, p.values())) and set(data.y[p['train']])==set(range(10))
    assert digits(seed=1).df.path.tolist()!=data.df.path.tolist()
    again(data)
    again(digits(3, 60, 5, 2))
    with pytest.raises(ValueError, match="'n_max' parameter of digits must be at most 174"): digits(n_max=175)

# Cutting a tail

def plain(sizes, **cols):
    y = toys.tail_targets(*sizes)
    return pd.DataFrame(dict(path=[f'digits/{i}' for i in range(len(y))], label=[f'c{k}' for k in y])).assign(**cols)

def digit_arrays(): return dict(digits=pixels)
def data_of(df, **kwargs): return ImageData(df, sorted(df.label.unique()), images=ArrayImages(digit_arrays), **kwargs)

@given(
    st.lists(st.integers(20, 60), min_size=2, max_size=6), st.sampled_from([2,5,10.5]),
    st.sampled_from(['exp','step']), st.integers(0, 5))
def test_a_tail_is_cut_to_the_formula(sizes, imbalance, profile, seed):
    df = plain(sizes)
    cut = long_tail(df, imbalance, profile=profile, seed=seed)
    have = df.label.value_counts().sort_index()
    got = cut.label.value_counts().reindex(have.index)
    # the largest n_max that there are images for, by trying all from above
    order = np.argsort(-have.to_numpy(), kind='stable')
    for n in range(max(sizes), 0, -1):
        want = np.empty(len(sizes), dtype=int)
        want[order] = tail_counts(n, len(sizes), imbalance, profile)
        if (want<=have).all(): break
    assert got.tolist()==want.tolist()
    assert cut.path.is_unique and cut.index.tolist()==list(range(len(cut)))
    assert cut.path.tolist()==df.path[df.path.isin(cut.path)].tolist()

def test_only_training_is_cut_and_validation_along():
    n = 240
    df = plain([80,80,80], split=np.resize(['train','train','valid','test'], n), group=np.arange(n))
    data = data_of(df, recipe=dict(reader='x'))
    order = ['c2','c0','c1']
    cut = long_tail(data, imbalance=10, n_max=30, order=order, seed=1)
    a,b = (pd.crosstab(d.df.split, d.df.label) for d in (data,cut))
    assert b.loc['train',order].tolist()==tail_counts(30, 3, 10).tolist()
    assert b.loc['test'].tolist()==a.loc['test'].tolist()
    want = a.loc['valid']*b.loc['train']/a.loc['train']
    assert b.loc['valid'].tolist()==np.maximum(np.rint(want), 1).astype(int).tolist()
    assert cut.prevalence=='train' and cut.vocab==data.vocab
    assert 'Cut to a long tail: imbalance 10, at most 30 images a class.' in cut.notes
    step = dict(step='long_tail', imbalance=10., n_max=30, profile='exp', order=order, seed=1)
    assert cut.recipe['then']==[step]
    assert long_tail(data_of(df.assign(split=np.resize(['train','valid'], n))), 10).prevalence is None

def test_one_image_of_each_class_stays_to_validate_on():
    df = plain([50,50,50])
    df['split'] = np.where(df.groupby('label').cumcount()<40, 'train', 'valid')
    least = long_tail(data_of(df), imbalance=40, n_max=40).df # one image for training, a quarter of one for validation
    assert pd.crosstab(least.split, least.label).loc[['train','valid']].min(axis=1).tolist()==[1,1]

def test_a_tail_in_folds_is_in_each():
    df = plain([100,100,100], fold=np.resize([1,2,3,4,5], 300))
    cut = long_tail(data_of(df), imbalance=20, n_max=80)
    t = pd.crosstab(cut.df.fold, cut.df.label)
    assert sorted(t.sum())==sorted(tail_counts(80, 3, 20)) and cut.prevalence is None
    # each fold gives its share of a class, to the image
    assert (np.abs(t-pd.crosstab(df.fold, df.label)*t.sum()/100).to_numpy()<=1).all()
    again(long_tail(digits(n_folds=3), imbalance=40, seed=2))

def test_every_image_stays_equally_often():
    df = plain([30,20])
    n = 300
    times = pd.concat([long_tail(df, 4, n_max=20, seed=s).path for s in range(n)]).value_counts()
    times = times.reindex(df.path, fill_value=0)
    # 20 of 30 and 5 of 20 stay: binomial, within 5 standard errors
    for k,p in ('c0',2/3),('c1',1/4): assert np.abs(times[(df.label==k).to_numpy()]-n*p).max() < 5*(n*p*(1-p))**.5

@pytest.mark.parametrize('kwargs,owner,rest', [
    (dict(imbalance=.5), 'tail_counts', ''),
    (dict(profile='flat'), 'tail_counts', ''),
    (dict(n_max=31, imbalance=2), 'long_tail',
        "small enough for every class. "
        "Got 31, which needs 31 images of 'c0' where there are 30, instead"),
    (dict(n_max=25, imbalance=1), 'long_tail', ".* needs 25 images of 'c1' where there are 20"),
    (dict(order=['c0']), 'long_tail', r"all classes by name, each once. Got \['c0'\]"),
    (dict(seed=-1), 'long_tail', ''),
])
def test_bad_arguments_of_long_tail(kwargs, owner, rest):
    with pytest.raises(ValueError, match=toys.must_be(owner, next(iter(kwargs)), rest)):
        long_tail(data_of(plain([30,20])), **kwargs)

def test_data_that_cannot_be_cut():
    df = plain([30,20])
    for data,words in (
        (df.label, r"'data' parameter of long_tail must be ImageData or a table \(DataFrame\). Got Series"),
        (df.rename(columns=dict(label='lable')), "must be a table with a column 'label'. Did you mean 'lable'"),
        (ImageData(df, ['c0','c1','c2'], images=ArrayImages(digit_arrays)),
            "training images of every class. Got none of 'c2'"),
    ):
        with pytest.raises(ValueError, match=words): long_tail(data, 10)

# Folders

def folder_tree(root, layout=('{c}/{p}_{v}.png',), n=6):
    for i in range(n):
        for c in 'cat','dog':
            for v in 'ab':
                for o in layout: picture(root/o.format(c=c, p=f'{c}{i}', v=v))
    return root

def test_folders_are_classes(tmp_path):
    folder_tree(tmp_path/'pets')
    picture(tmp_path/'pets'/'dog'/'deep'/'down'/'x_a.JPG')
    picture(tmp_path/'pets'/'cat'/'.hidden.png')
    picture(tmp_path/'pets'/'.git'/'x.png')
    write(tmp_path/'pets'/'cat'/'notes.txt', 'x')
    (tmp_path/'elsewhere').mkdir()
    picture(tmp_path/'elsewhere'/'e_a.png')
    (tmp_path/'pets'/'emu').symlink_to(tmp_path/'elsewhere')
    data = from_folder_table(tmp_path/'pets')
    assert data.name=='pets' and data.groups is None
    assert data.vocab==['cat','dog','emu'] and data.counts.tolist()==[12,13,1]
    assert {'dog/deep/down/x_a.JPG','emu/e_a.png'}<={*data.df.path} and data.df.path.is_monotonic_increasing
    assert 'Parts: none yet.' in str(data)
    again(data)

def test_patients_come_from_names(tmp_path):
    root = folder_tree(tmp_path)
    a,b = from_folder_table(root, group=r'([a-z]+\d+)_'),from_folder_table(root, group=lambda p: p.split('/')[1][:-6])
    assert a.groups.tolist()==b.groups.tolist()==[Path(p).name[:-6] for p in a.df.path] and b.recipe is None
    again(a)
    again(a.with_folds(3))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        again(a.with_splits(valid=.2, test=.2, seed=4))

@pytest.mark.parametrize('valid', ['valid','val','validation'])
def test_folders_are_splits(tmp_path, valid):
    root = folder_tree(tmp_path, ['train/{c}/{p}_{v}.png'], 6)
    folder_tree(tmp_path, [f'{valid}/{{c}}/v{{p}}_{{v}}.png','test/{c}/t{p}_{v}.png'], 2)
    data = from_folder_table(root)
    assert data.df.split.value_counts().to_dict()==dict(train=24, valid=8, test=8) and data.vocab==['cat','dog']
    assert all(p.split('/')[1]==l for p,l in zip(data.df.path, data.df.label))
    again(data)
    # without their letter the names are those of patients who are in training already
    with pytest.raises(ValueError, match="groups that each lie in one part. Got 'cat0' with items in"):
        from_folder_table(root, group=r'(cat\d|dog\d)')

def test_numbered_classes_are_in_the_order_of_numbers(tmp_path):
    for k in 0,2,10: picture(tmp_path/str(k)/'x.png')
    assert from_folder_table(tmp_path, ordered=True).vocab==['0','2','10']
    assert from_folder_table(tmp_path, vocab=[10,2,0]).vocab==['10','2','0']

@pytest.mark.parametrize('call,words', [
    (lambda r: from_folder_table(r/'gone'), "'folder' parameter of from_folder_table must be an existing folder"),
    (lambda r: from_folder_table(r/'cat'), "a folder with images in a subfolder for each class. Got no subfolders"),
    (lambda r: from_folder_table(r/'empty'), "Got subfolders none without any"),
    (lambda r: from_folder_table(r, group=r'(x\d+)'),
        r"finds the patient in every path. Got '\(x\\\\d\+\)', which does not match 'cat/cat0_a.png'"),
    (lambda r: from_folder_table(r, group=r'(x)?_a'),
        r"finds the patient in every path. Got '\(x\)\?_a', which does not match 'cat/cat0_a.png'"),
    (lambda r: from_folder_table(r, group='cat'), "a regular expression with the patient in parentheses. Got 'cat'"),
    (lambda r: from_folder_table(r, group='(cat'),
        r"must be a regular expression or a function of the path. Got '\(cat' instead"),
    (lambda r: from_folder_table(r, group=3), "must be a regular expression or a function of the path. Got 3 instead"),
    (lambda r: from_folder_table(r, vocab=['cat','cow']), "must name every class of .*. Got none for 'dog' instead"),
    (lambda r: from_folder_table(r, verify='yes'), "must be True or False. Got 'yes'"),
])
def test_folders_in_disorder(tmp_path, call, words):
    root = folder_tree(tmp_path/'r')
    (root/'empty'/'none').mkdir(parents=True)
    with pytest.raises(ValueError, match=words): call(root)

# Tables

@pytest.fixture
def csv(tmp_path): return tmp_path/'t.csv'

def csv_tree(root, sep=',', head='path,label,patient,part,cv', encoding='utf-8', n=12):
    lines = [head]
    for i in range(n):
        picture(root/'im'/f'x{i}.png')
        lines.append(f"im/x{i}.png,{'ok' if i%3 else 'ill'},p{i//2},{['Train','val','TEST'][i//2%3]},{i//2%3}")
    (root/'t.csv').write_bytes('\n'.join(l.replace(',', sep) for l in lines).encode(encoding))
    return root/'t.csv'

@pytest.mark.parametrize('sep', [',',';','\t','|'])
@pytest.mark.parametrize('encoding', ['utf-8','utf-8-sig'])
def test_tables_are_read_whatever_separates_columns(tmp_path, sep, encoding):
    fn = csv_tree(tmp_path, sep, encoding=encoding)
    data = from_csv(fn, group='patient', split='part')
    n = range(12)
    assert data.name=='t' and data.vocab==['ill','ok'] and not data.missing
    assert data.df.label.tolist()==['ok' if i%3 else 'ill' for i in n]
    assert data.groups.tolist()==[f'p{i//2}' for i in n]
    assert data.df.split.tolist()==[['train','valid','test'][i//2%3] for i in n]
    without = dict(split='none', fold='none')
    assert from_csv(str(fn), sep=sep, **without).fingerprint==from_csv(fn, **without).fingerprint
    again(data)
    folds = from_csv(fn, fold='cv', group='patient', vocab=['ok','ill'], ordered=True)
    assert folds.df.fold.tolist()==[i//2%3+1 for i in n]
    assert folds.vocab==['ok','ill'] and 'numbers them from 0' in folds.notes[0]
    again(folds)

def test_a_separator_that_is_also_in_a_name(csv):
    write(csv, '"file, path";diagnosis', 'x.png;a,b', 'y.png;c')
    assert from_csv(csv, 'file, path', 'diagnosis').vocab==['a,b','c']

def test_words_that_pandas_takes_for_nothing_are_classes(csv):
    write(csv, 'path,label', 'x,NA', 'y,None', 'z,nan', 'v,007')
    data = from_csv(csv, suffix='.png')
    assert data.vocab==['007','NA','None','nan'] and data.df.path.tolist()==['x.png','y.png','z.png','v.png']

def test_paths_may_be_absolute_within_the_root(tmp_path, csv):
    root = tmp_path/'r'
    picture(root/'im'/'x.png')
    write(csv, 'path,label', f'{root}/im/x.png,a', 'im/y.png,b')
    data = from_csv(csv, root=root)
    assert data.df.path.tolist()==['im/x.png','im/y.png'] and data.missing==['im/y.png']
    write(csv, 'path,label', f'{tmp_path}/x.png,a', 'im/y.png,b')
    with pytest.raises(ValueError, match=f"paths inside the root. Got '{tmp_path}/x.png'"):
        from_csv(csv, root=root)
    write(csv, 'path,label', '../x.png,a')
    with pytest.raises(ValueError, match="paths inside the root. Got '../x.png'"): from_csv(csv)

def test_nothing_in_a_table_is_run(tmp_path, csv):
    write(csv, 'path,label', "x.png,__import__('os').system('touch ran')", '=1+1,b')
    from_csv(csv)
    assert not (tmp_path/'ran').exists() and not Path('ran').exists()

@pytest.mark.parametrize('kwargs,words', [
    (dict(path='paths'), "from_csv needs a column 'paths' in t.csv. Did you mean 'path'"),
    (dict(label='Label'), "needs a column 'Label' in t.csv. Did you mean 'label'"),
    (dict(group='patients'), "needs a column 'patients' in t.csv. Did you mean 'patient'"),
    (dict(fold='folds'), "needs a column 'folds'"),
    (dict(sep=';'), "needs a column 'path' in t.csv"),
    (dict(split='part', fold='cv'), "'fold' parameter of from_csv must be None if `split` is given. Got 'cv'"),
    (dict(root='/nowhere/x'), "'root' parameter of from_csv must be an existing folder. Got /nowhere/x"),
    (dict(vocab=['ok','ills']), "must name every class of t.csv, column 'label'. Got none for 'ill' instead. Did you "
        "mean 'ills'"),
    (dict(fold='patient'), "a fold in each row, numbered from 1. Got 'p0'"),
    (dict(split='patient'), r"parts to train on and to test on, but t.csv, column 'patient', has 'p0' \(2 images\)"),
    (dict(group='label', split='part'), "groups that each lie in one part. Got 'ill' with items in train and valid "),
])
def test_tables_in_disorder(tmp_path, kwargs, words):
    with pytest.raises(ValueError, match=words): from_csv(csv_tree(tmp_path), **kwargs)

label_missing = "a label in each row, but t.csv, column 'label', has none in 1 of 1 rows: row 2"
no_table = "from_csv cannot read t.csv as a table"

@pytest.mark.parametrize('text,words', [
    ('', no_table),
    ('path,label\nx,\n', label_missing),
    ('path,label\nx\n', label_missing),
    ('path,label\nx,a\n,b\n', "a path in each row, but t.csv, column 'path', has none in 1 of 2 rows: row 3"),
    ('path,label\nx,a\nx,b\n', "each path once. Got 'x'"),
    ('path,label\n', "a table of at least one image. Got none"),
    ('path,label\nx,a,b\n', no_table),
    ('path,label\nx,a\n'.encode('utf-16-le'), 'it holds zero bytes. Is it UTF-16'),
])
def test_tables_that_are_no_tables(csv, text, words):
    csv.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words): from_csv(csv)

def test_a_table_that_is_not_there():
    with pytest.raises(ValueError, match="'csv' parameter of from_csv must be an existing file. Got 'gone.csv'"):
        from_csv('gone.csv')

# Recipes

@pytest.mark.parametrize('recipe,words', [
    ('digits', "'recipe' parameter of read_data must be a dict with the name of a reader as 'reader'. Got 'digits'"),
    ({}, "a dict with the name of a reader"),
    (dict(reader='digit'), "There is no reader 'digit'. Did you mean 'digits'"),
    (dict(reader='digits', n_max=0), "'n_max' parameter of digits"),
    (dict(reader='digits', nmax=9), "digits has no argument 'nmax'. Did you mean 'n_max'"),
    (dict(reader='eyepacs'), "eyepacs needs an argument 'root'"),
])
def test_recipes_in_disorder(recipe, words):
    with pytest.raises(ValueError, match=words): read_data(recipe)

@pytest.mark.parametrize('step,words', [
    ('with_folds', "with steps named"),
    (dict(step='with_fold'), "a dict with steps named 'with_folds', 'with_splits', 'long_tail'"),
    (dict(step='with_folds', k=3), "with_folds has no argument 'k'"),
    (dict(step='long_tail', data=3), "long_tail has no argument 'data'"),
])
def test_steps_in_disorder(step, words):
    with pytest.raises(ValueError, match=words): read_data(dict(reader='digits', then=[step]))

@pytest.mark.filterwarnings('ignore:fold_numbers') # three images in four folds
def test_steps_are_taken_in_their_order():
    steps = [dict(step='long_tail', imbalance=50, seed=1), dict(step='with_splits', valid=.1, test=.2),
        dict(step='with_folds', n=4)]
    made = read_data(dict(reader='digits', n_folds=2, then=steps))
    by_hand = long_tail(digits(2), 50, seed=1).with_splits(.1, .2).with_folds(4)
    assert made.folds==[1,2,3,4] and made.fingerprint==by_hand.fingerprint
    again(made)

def test_a_subset_is_taken_again():
    data = digits(2)
    again(data.subset(np.arange(len(data))[::-2]))
    again(data.subset(data.y<3).with_folds(3))

def test_readers_are_known_by_name():
    assert {*readers}=={
        'eyepacs','messidor2','hyper_kvasir','medmnist','fashion_mnist_lt','digits','from_folder_table','from_csv'}
    assert all(k==f.__name__ for k,f in readers.items())

@pytest.mark.parametrize('reader', [eyepacs,messidor2,hyper_kvasir])
def test_a_root_that_is_none(reader, tmp_path):
    words = f"'root' parameter of {reader.__name__} must be an? (existing )?folder"
    for root in tmp_path/'gone',3:
        with pytest.raises(ValueError, match=words): reader(root)
