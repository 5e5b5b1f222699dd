"""The notebooks show small tables. Here are files in every mode and broken in every way, every wrong table, worker
processes, folders that cannot be written, and hypothesis on the parts of a run: no patient in two of them, every class
in training."""

import io
import os
import pickle
import random
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.all import Transform
from fastai.learner import Learner
from fastai.vision.augment import CropPad, RandomResizedCrop, Resize
from fastai.vision.core import PILImage
from hypothesis import assume, given, strategies as st
from PIL import Image, ImageFile
from sklearn.datasets import load_digits, load_sample_image
from torch import nn
from toys import equal, must_be

from fastai_balmix.datasets import seen as reader, verify as module
from fastai_balmix.datasets.images import ArrayImages, Reading, as_rgb, open_image
from fastai_balmix.datasets.rows import check_columns
from fastai_balmix.datasets.seen import may_pass
from fastai_balmix.datasets.table import ImageData

digit = load_digits()
pixels = (digit.images*255/16).astype(np.uint8)

def arrays(n=1797): return dict(digits=pixels[:n])
keys = ArrayImages(arrays)

def table(labels, **cols):
    return pd.DataFrame(dict(path=[f'digits/{i}' for i in range(len(labels))], label=list(labels), **cols))

def in_memory(labels='aabb', **cols): return ImageData(table(labels, **cols), ['a','b'], images=keys)
def of_files(df, root): return ImageData(df, ['a','b'], root=root)
def alternating(n=6): return in_memory('ab'*n, fold=[1,1,2,2]*(n//2))

def on_disk(folder, labels, name='x{}.png', **cols):
    "Digits as files, one for each label"
    rows = []
    for i,l in enumerate(labels):
        path = name.format(i)
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).resize((16,16)).save(folder/path)
        rows.append(dict(path=path, label=l))
    return pd.DataFrame(rows).assign(**cols)

# Opening

grey = Image.fromarray(pixels[0])

@pytest.mark.parametrize('mode', ['1','L','LA','P','RGB','RGBA','CMYK','I;16','I'])
def test_every_mode_comes_as_rgb(tmp_path, mode):
    a = pixels[0]
    if mode in ('I;16','I'): im = Image.fromarray(a.astype(np.uint16 if mode=='I;16' else np.int32)*257)
    else: im = grey.convert('RGB').convert(mode) if mode in ('CMYK','RGBA') else grey.convert(mode)
    fn = tmp_path/('x.tif' if mode in ('CMYK','I') else 'x.png')
    im.save(fn)
    reading = Reading('16bit') if mode=='I' else Reading() # 32-bit integers have no range of their own
    for source in fn,str(fn),lambda: Image.open(fn),im:
        got = open_image(source, reading)
        assert isinstance(got, PILImage) and got.mode=='RGB' and got.size==(8,8)
        if mode!='1': assert np.abs(np.asarray(got).astype(int)-a[...,None]).max()<=1

def test_palettes_with_transparent_colours_open_without_a_warning(tmp_path):
    im = Image.fromarray(pixels[0]).convert('P')
    im.info['transparency'] = bytes([0]*128+[255]*128)
    im.save(tmp_path/'p.png', transparency=im.info['transparency'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert open_image(tmp_path/'p.png').mode=='RGB'

def test_sixteen_bits_keep_their_order():
    ramp = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8,8)
    got = np.asarray(as_rgb(Image.fromarray(ramp)))[...,0]
    assert (np.diff(got.ravel().astype(int))>0).all() and got.max()==64512//257
    assert np.asarray(as_rgb(Image.fromarray(np.full((2,2), 65535, np.uint16)))).max()==255
    integers = Image.fromarray(np.array([[-5,200_000]], np.int32))
    assert np.asarray(as_rgb(integers, Reading('16bit')))[0,:,0].tolist()==[0,255]

def test_an_image_that_is_open_is_left_alone():
    im = PILImage.create(pixels[0])
    assert open_image(im) is im

def test_arrays_are_read_once_in_each_process_and_travel_by_name():
    calls = []
    def read(n):
        calls.append(n)
        return arrays(n)
    im = ArrayImages(read, 5)
    assert not calls
    assert np.asarray(im('digits/3')).tolist()==pixels[3].tolist() and im.array('digits/4').shape==(8,8)
    assert calls==[5]
    keys('digits/0')
    assert len(pickle.dumps(keys))<200
    assert np.asarray(pickle.loads(pickle.dumps(keys))('digits/7')).tolist()==pixels[7].tolist()
    assert repr(im)=='ArrayImages(read)'

@pytest.mark.parametrize('key', ['digits/1797','digit/0','digits/x','digits','digits/-1',''])
def test_a_key_that_is_not_there_is_named(key):
    with pytest.raises(ValueError, match=f"There is no image '{key}' among digits/0 to 1796."): keys(key)

# What is checked

two = dict(path=['x','y'], label=['a','b'])

@pytest.mark.parametrize('cols,name,rest', [
    (dict(label=['a',None]), 'df', "a table with a label in each row. Got none in row 1"),
    (dict(label=['a','bb']), 'df', "a table with labels of the vocabulary. Got 'bb' instead. Did you mean 'b'\\?"),
    (dict(path=['x',None]), 'df', "a table with a path in each row. Got (None|nan)"),
    (dict(path=['x',' ']), 'df', "a table with a path in each row. Got ' '"),
    (dict(path=['x','x']), 'df', "a table with each path once. Got 'x' more than once"),
    (dict(path=['d/x','d/../d//x']), 'df', "a table with each path once. Got 'd/x' more than once"),
    (dict(path=['x','/etc/y']), 'df', "a table of paths inside the root. Got '/etc/y'"),
    (dict(path=['x','a/../../y']), 'df', "a table of paths inside the root. Got '../y'"),
    (dict(path=['..','y']), 'df', "a table of paths inside the root. Got '..'"),
    (dict(group=[1,1], split=['train','valid']), 'groups',
        "groups that each lie in one part. Got '1' with items in train and valid"),
    (dict(group=['p','p'], fold=[1,2]), 'groups', ".* Got 'p' with items in fold 1 and fold 2"),
    (dict(split=['train','test'], fold=[1,2]), 'df', "a table with a column 'split' or a column 'fold'. Got both"),
    (dict(split=['train',None]), 'df', "a table with a split in each row. Got none in row 1"),
    (dict(split=['Training','Testing']), 'df',
        "a table with splits named 'train', 'valid', 'test'. Got 'Training', 'Testing'"),
    (dict(fold=[0,1]), 'df', "a table with a fold in each row, numbered from 1. Got 0"),
    (dict(fold=['1','one']), 'df', ".* numbered from 1. Got 'one'"),
    (dict(fold=[1,1.5]), 'df', ".* numbered from 1. Got 1.5"),
    (dict(fold=[1,1e300]), 'df', ".* numbered from 1. Got 1e\\+300"),
    (dict(fold=[1,2**70]), 'df', ".* numbered from 1. Got 1180591620717411303424"),
    (dict(fold=[True,True]), 'df', ".* numbered from 1. Got True"),
    (dict(fold=pd.to_datetime(['2020-01-01','2020-01-02'])), 'df', ".* numbered from 1. Got Timestamp"),
    (dict(fold=pd.array([1,None], dtype='Int64')), 'df', ".* numbered from 1. Got <NA>"),
])
def test_wrong_columns_are_refused_in_words(cols, name, rest):
    df = pd.DataFrame({**two, **cols})
    with pytest.raises(ValueError, match=must_be('ImageData', name, rest)): ImageData(df, ['a','b'], images=keys)

def test_one_and_true_are_two_labels_in_any_order():
    for labels in [1,True,0,False],[True,1,False,0]:
        df = pd.DataFrame(dict(path=[*'abcd'], label=pd.Series(labels, dtype=object)))
        assert ImageData(df, [*map(str, labels)], images=keys).df.label.tolist()==[*map(str, labels)]
        with pytest.raises(ValueError, match="labels of the vocabulary. Got 'True', 'False' instead"):
            ImageData(df, ['0','1'], images=keys)

def test_folds_are_whole_numbers_in_any_form():
    for fold in [1,2],[1.,2.],['1','2'],['1.0',' 2'],pd.Categorical([1,2]),np.array([1,2], np.uint8):
        df = pd.DataFrame({**two, 'fold': fold})
        assert ImageData(df, ['a','b'], images=keys).df.fold.tolist()==[1,2]

@pytest.mark.parametrize('kwargs,rest', [
    (dict(df='file.csv'), r"a table \(DataFrame\). Got str"),
    (dict(df=pd.DataFrame(dict(path=['x'], lable=['a']))), "a table with a column 'label'. Did you mean 'lable'\\?"),
    (dict(df=pd.DataFrame(dict(x=[1], label=['a']))), "a table with a column 'path'. There are: 'x', 'label'"),
    (dict(df=pd.DataFrame(dict(path=[], label=[]))), "a table of at least one image. Got none"),
    (dict(vocab=[]), "a list of class names, each once. Got none"),
    (dict(vocab=['a','b','a']), ".* each once. Got 'a'"),
    (dict(ordered='yes'), "True or False. Got 'yes'"),
    (dict(prevalence='test'), "None or 'train'. Got 'test'"),
    (dict(images=3), "a function that opens an image. Got 3"),
    (dict(root=None, images=None), "a folder, unless `images` opens the paths. Got None"),
    (dict(root='/nowhere/gone', images=None), "an existing folder. Got .*gone"),
])
def test_bad_arguments_of_data(kwargs, rest):
    given = {'df':pd.DataFrame(two), 'vocab':['a','b'], 'images':keys, **kwargs}
    with pytest.raises(ValueError, match=must_be('ImageData', next(iter(kwargs)), rest)): ImageData(**given)

def test_bad_arguments_of_its_parts():
    of_arrays = must_be('ArrayImages', 'read', "a function that returns arrays by name. Got 'x'")
    with pytest.raises(ValueError, match=of_arrays): ArrayImages('x')
    with pytest.raises(ValueError, match=must_be('Me', 'mine', "a table with a column 'b'. There are: 'a'")):
        check_columns(pd.DataFrame(dict(a=[1])), ['a','b'], 'mine', 'Me')

def test_what_is_right_is_kept():
    df = table('ab', group=['p','q'], split=['train','extra'], camera=['x','y'])
    df.index = [7,9]
    unused = "Parts that are not used: 'extra' (1 image). Known are 'train', 'valid' and 'test'."
    data = ImageData(df, ['b','a'], ordered=True, images=keys, notes='One note.')
    assert data.y.tolist()==[1,0] and data.y.dtype==np.int64 and data.counts.tolist()==[1,1] and len(data)==2
    assert data.groups.tolist()==['p','q'] and data.folds==[] and data.notes==['One note.', unused]
    assert data.df.index.tolist()==[0,1] and data.df.camera.tolist()==['x','y'] and df.index.tolist()==[7,9]

def test_a_group_may_lie_in_parts_that_are_not_used():
    ImageData(table('ab', group=['p','p'], split=['train','left out']), ['a','b'], images=keys)

def test_labels_and_folds_of_any_type_are_taken():
    data = ImageData(pd.DataFrame(dict(path=['./x','d//y'], label=[0,1], fold=['2','1'])), [0,1], images=keys)
    assert data.vocab==['0','1'] and data.y.tolist()==[0,1] and data.folds==[1,2] and data.df.path.tolist()==['x','d/y']

# What it says

def test_the_summary_counts(tmp_path):
    df = on_disk(tmp_path, 'aaabbaa', group=[1,1,2,3,3,4,5])
    df['split'] = ['train']*3+['test']*2+['valid','other']
    data = ImageData(df, ['a','b','all'], root=tmp_path, name='eyes', notes=['Folds are by image.'])
    (tmp_path/'x2.png').unlink()
    lines = str(data).splitlines()
    assert lines[0]=='eyes: 7 images, 3 classes, the largest 2.5 times the smallest'
    assert lines[1].split()==['train','valid','test','other','all','share']
    want = pd.crosstab(df.label, df.split).reindex(columns=['train','valid','test','other'])
    for k,line in zip('ab', lines[2:4]):
        assert line.split()[:6]==[k,*map(str, want.loc[k]),str((df.label==k).sum())]
    assert lines[4].split()==['all','0','0','0','0','0','0.0%']
    assert lines[5].split()==['all','3','1','2','1','7','100.0%']
    assert lines[6:]==[
        'Groups: 5, of 1 to 2 images; none in two parts.', 'Missing files: 1, such as x2.png.',
        'Classes without an image: all.',
        "Classes without a training image: b. Leave it out with data.without('b'), or merge it with data.merged(...).",
        "Classes without an image in 'test': a.", 'Folds are by image.',
        "Parts that are not used: 'other' (1 image). Known are 'train', 'valid' and 'test'."]
    assert repr(data)==data.summary()
    assert data.missing==['x2.png']

def test_the_summary_without_parts_and_groups():
    s = str(in_memory())
    assert 'Groups: none known.' in s and 'Missing' not in s
    assert 'Parts: none yet. Make them by `with_folds` or `with_splits`.' in s
    assert 'Groups: 2, of 2 images.' in str(in_memory(group=[1,1,2,2]))

def test_files_in_many_folders_and_folders_that_are_gone(tmp_path):
    df = on_disk(tmp_path, 'ab', 'one/{}/x.png')
    more = ['two/x.png','one/0/y.png','x.png']
    df = pd.concat([df, pd.DataFrame(dict(path=more, label='a'))])
    assert of_files(df, tmp_path).missing==more

# Fingerprints

def test_the_fingerprint_is_of_the_content(tmp_path):
    a,b = tmp_path/'a',tmp_path/'b'
    df = on_disk(a, 'aabb', 'eyes/x{}.png', group=[1,2,3,4], fold=[1,2,1,2])
    shutil.copytree(a, b)
    def of(df=df, root=b, vocab=('a','b'), **kwargs): return ImageData(df, vocab, root=root, **kwargs).fingerprint
    one = of(root=a)
    assert len(one)==32 and int(one,16)>=0 and of(name='other', notes=['x'])==one==of(df.assign(camera=1))
    no_fold = df.drop(columns='fold')
    others = [
        df.assign(label=list('abab')), df.assign(group=[1,2,3,5]), df.assign(fold=[2,1,1,2]), no_fold,
        df.drop(columns='group'), df.iloc[::-1], df.iloc[:3], no_fold.assign(split='train')]
    seen = {one, *map(of, others), of(vocab=('b','a')), of(vocab=('a','b','c')), of(ordered=True)}
    assert len(seen)==12
    with (b/'eyes'/'x0.png').open('ab') as f: f.write(b' ')
    assert of()!=one
    data = ImageData(df, ['a','b'], root=a)
    assert data.fingerprint==one
    (a/'eyes'/'x0.png').unlink()
    assert data.fingerprint==one and of(root=a)!=one # kept by the object, other for a new one

def test_the_fingerprint_of_arrays_is_of_their_bytes():
    def other(n=1797): return dict(digits=np.where(np.arange(n)[:,None,None]==2, 255-pixels, pixels))
    def of(images): return ImageData(table('aabb'), ['a','b'], images=images).fingerprint
    assert of(ArrayImages(arrays))==of(ArrayImages(arrays, 10))!=of(ArrayImages(other))
    assert of(lambda p: keys(p))==of(lambda p: Image.fromarray(keys.array(p)))!=of(ArrayImages(other))

# Parts

@st.composite
def patient_tables(draw):
    sizes = draw(st.lists(st.integers(1, 3), min_size=8, max_size=30))
    g = np.repeat(np.arange(len(sizes)), sizes)
    y = draw(st.lists(st.sampled_from('aaab'), min_size=len(g), max_size=len(g)))
    return table(y, group=[f'p{o}' for o in g])

def check_parts(data, p, own=False):
    train,select,report = (p[k] for k in ('train','select','report'))
    for v in p.values(): assert v.dtype==np.int64 and (np.diff(v)>0).all() and len(v)
    g = data.groups if data.groups is not None else np.arange(len(data))
    assert not set(g[train]) & set(g[report]) and not set(g[train]) & set(g[select])
    if own: assert select.tolist()==report.tolist()
    else: assert not set(g[select]) & set(g[report])
    assert set(data.y[train])==set(range(len(data.vocab)))

@given(patient_tables(), st.integers(2, 4), st.integers(0, 20), st.sampled_from([.1,.2,.4]))
def test_no_patient_is_in_two_parts_of_a_run(df, n, seed, select):
    data = ImageData(df, ['a','b'], images=keys)
    assume(df[df.label=='b'].group.nunique()>3 and df[df.label=='a'].group.nunique()>3)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        folded = data.with_folds(n, seed)
    reported = []
    for k in folded.folds:
        p = folded.parts(fold=k, select=select, seed=seed)
        check_parts(folded, p)
        assert p['report'].tolist()==np.flatnonzero(folded.df.fold==k).tolist() and sum(map(len, p.values()))==len(data)
        check_parts(folded, folded.parts(fold=k, selection='reported-fold'), own=True)
        reported.append(p['report'])
    assert np.sort(np.concatenate(reported)).tolist()==list(range(len(data)))

def test_parts_of_splits():
    def of(*split, **kwargs):
        data = in_memory('ab'*(len(split)//2), split=list(split))
        p = data.parts(**kwargs)
        check_parts(data, p, own=kwargs.get('selection')=='reported-fold')
        return {k: v.tolist() for k,v in p.items()}
    all3 = of(*['train']*4, 'valid','valid','test','test','extra','extra')
    assert all3==dict(train=[0,1,2,3], select=[4,5], report=[6,7])
    no_valid = of(*['train']*20, 'test','test', select=.2)
    assert no_valid['report']==[20,21] and len(no_valid['select'])==4 and len(no_valid['train'])==16
    no_test = of(*['train']*20, 'valid','valid', select=.2)
    assert no_test['report']==[20,21] and len(no_test['select'])==4
    all3 = ['train']*20+['valid']*2
    assert of(*all3, selection='reported-fold')==dict(train=list(range(20)), select=[20,21], report=[20,21])
    def selected(seed): return of(*['train']*20, 'test','test', select=.2, seed=seed)['select']
    assert selected(1)!=no_valid['select']==selected(0)

def folds_of(*fold): return in_memory('ab'*(len(fold)//2), fold=fold)
def splits_of(*split, labels=None): return in_memory(labels or 'ab'*(len(split)//2), split=split)
official = splits_of(*['train']*6, 'test','test')

@pytest.mark.parametrize('data,kwargs,name,rest', [
    *((folds_of(1,1,2,2), dict(fold=o), 'fold', f"one of 1, 2. Got {o!r}") for o in (None,3,'1',True)),
    (splits_of('train','test'), dict(fold=1), 'fold', "None, as the data have no folds. Got 1"),
    (in_memory('ab'), dict(fold=1), 'fold', "None"),
    (in_memory('aab'*6, fold=[1,2,3]*6), dict(fold=3), 'df', # class b is in fold 3 alone
        "a table with training images of every class. Got 'b' without one when fold 3 is reported"),
    (splits_of(*['test']*4), {}, 'df', ".* training images of every class. Got 'a', 'b' without one"),
    (splits_of('train','valid','valid','test', labels='aabb'), {}, 'df',
        ".* training images of every class. Got 'b' without one instead"),
    (splits_of(*['train']*4), {}, 'df',
        "a table with images in 'valid' or 'test', to be reported. Got training images only"),
    (splits_of('train','train','test','test'), {}, 'select',
        "a share that leaves images to choose on. Got 0.1"),
    (official, dict(selection='outer'), 'selection', "'inner' or 'reported-fold'. Got 'outer'"),
    (official, dict(selection='reported-fold'), 'selection', "'inner': nothing is chosen on an official test split"),
])
def test_parts_that_cannot_be(data, kwargs, name, rest):
    with pytest.raises(ValueError, match=must_be('ImageData.parts', name, rest)): data.parts(**kwargs)

def test_parts_that_are_refused_elsewhere():
    with pytest.raises(ValueError, match="'share' parameter of split_off|'select' parameter"): official.parts(select=2)
    words = "neither folds nor a split. Make them by `with_folds` or `with_splits`"
    with pytest.raises(ValueError, match=words): in_memory('ab').parts()

def test_groups_are_looked_at_once_more_when_parts_are_made():
    data = in_memory('abab'*3, group=list(range(12)), split=['train']*8+['valid']*2+['test']*2)
    data.df['group'] = [0,*range(1, 11),0] # somebody changed the table
    words = must_be('ImageData.parts', 'groups', ".* Got '0' with items in train and ")
    with pytest.raises(ValueError, match=words+'report'): data.parts()
    data.df['group'] = [0,*range(1, 8),0,9,10,11]
    with pytest.raises(ValueError, match=words+'select'): data.parts()

def test_folds_and_splits_are_made_and_written_down():
    df = table('aab'*20, group=list(range(30))*2, split='train')
    data = ImageData(df, ['a','b'], images=keys, recipe=dict(reader='mine'), prevalence='train')
    f = data.with_folds(3, seed=2)
    assert f.folds==[1,2,3] and 'split' not in f.df and f.prevalence is None
    dealt = dict(step='with_folds', n=3, seed=2)
    assert f.recipe==dict(reader='mine', then=[dealt])
    s = f.with_splits(valid=.2, test=.3, seed=1)
    assert 'fold' not in s.df
    assert s.recipe['then']==[dealt, dict(step='with_splits', valid=.2, test=.3, seed=1)]
    assert f.recipe['then']==[dealt] and data.recipe==dict(reader='mine')
    n = s.df.split.value_counts()
    assert abs(n['valid']-12)<=4 and abs(n['test']-18)<=4
    assert s.df.groupby('group').split.nunique().max()==1
    assert {*data.with_splits(valid=0, test=.5).df.split}=={'train','test'}
    assert {*data.with_splits(valid=.5, test=0).df.split}=={'train','valid'}
    assert in_memory('aabb').with_folds(2).recipe is None
    for kwargs in dict(valid=.5, test=.5),dict(valid=-.1),dict(test='a'):
        with pytest.raises(ValueError, match="parameter of ImageData.with_splits must be"): data.with_splits(**kwargs)

def test_a_subset_is_what_it_says():
    df = table('aabb', group=[1,2,3,4], fold=[1,2,1,2])
    kept = dict(vocab=['a','b'], ordered=True, name='n', notes=['x'], prevalence='train')
    data = ImageData(df, images=keys, recipe=dict(reader='r'), **kept)
    for rows in [3,0],np.array([3,0]),torch.tensor([3,0]):
        s = data.subset(rows)
        assert s.df.path.tolist()==['digits/3','digits/0'] and s.groups.tolist()==['4','1']
        assert s.df.index.tolist()==[0,1]
    assert {k: getattr(s, k) for k in kept}==kept
    assert s.recipe==dict(reader='r', then=[dict(step='subset', rows=[3,0])])
    assert ImageData(data.df, ['a','b'], images=keys).subset([1]).recipe is None
    assert data.subset(data.y==1).df.path.tolist()==data.subset(np.array([2,3])).df.path.tolist()
    for rows,rest in ([4], r"ints in the range \[0, 3\]. Got 4"),([True], '.*a mask of 4 bools'),([.5], ''):
        with pytest.raises(ValueError, match=must_be('ImageData.subset', 'rows', rest)): data.subset(rows)

# Loaders

def loaders(data, **kwargs): return data.dataloaders(**{'size':8, 'bs':2, 'num_workers':0, **kwargs})

def test_loaders_hold_what_parts_say(tmp_path):
    df = on_disk(tmp_path, 'aab'*6, fold=[1,2,3]*6).assign(fold=lambda d: np.arange(len(d))//3%3+1)
    data = ImageData(df, ['b','a'], root=tmp_path)
    dls = loaders(data, fold=2, size=12, bs=4)
    for ds,chosen in (dls.train_ds, df.fold!=2),(dls.valid_ds, df.fold==2):
        rows = np.flatnonzero(chosen)
        assert [int(y) for _,y in ds]==data.y[rows].tolist()
        for (x,_),i in zip(ds, rows, strict=True):
            assert np.asarray(x)[...,0].tolist()==np.asarray(Image.open(tmp_path/df.path[i])).tolist()
    x = dls.one_batch()[0]
    assert x.shape==(4,3,12,12) and x.dtype==torch.float32 and x.min()>=0 and x.max()<=1
    assert list(dls.vocab)==['b','a']
    own = loaders(data, parts=([0,2,4],np.arange(len(df))==7), size=None)
    assert [i.name for i,_ in own.train_ds.items]==['x0.png','x2.png','x4.png']
    assert [i.name for i,_ in own.valid_ds.items]==['x7.png']
    assert own.one_batch()[0].shape==(2,3,16,16)
    assert loaders(data, fold=1, size=(10,20)).one_batch()[0].shape==(2,3,10,20)

@pytest.mark.parametrize('split', [['train']*16+['valid']*2+['test']*2, ['train']*18+['test']*2])
def test_loaders_of_splits(split):
    dls = loaders(in_memory('ab'*10, split=split), bs=4)
    assert (len(dls.train_ds),len(dls.valid_ds))==(16,2)

def test_items_of_other_data_go_through_the_same_loaders(tmp_path):
    df = on_disk(tmp_path, 'abab')
    files,mem = of_files(df, tmp_path),alternating()
    dls = loaders(mem, fold=1, size=16)
    x,y = next(iter(dls.test_dl(files.items([3,0]), with_labels=True)))
    assert y.tolist()==[1,0]
    want = np.stack([np.asarray(open_image(tmp_path/f'x{i}.png')) for i in (3,0)]).transpose(0,3,1,2)/255
    torch.testing.assert_close(torch.as_tensor(x).cpu(), torch.tensor(want, dtype=torch.float32))
    back = loaders(files, parts=([0,1],[2,3]))
    assert next(iter(back.test_dl(mem.items(np.arange(12)<2), with_labels=True)))[1].tolist()==[0,1]
    # as fastai's own loaders, these take new files without labels
    assert next(iter(back.test_dl([tmp_path/'x0.png'])))[0].shape==(1,3,8,8)
    assert len(files.items())==4

def test_the_seed_is_the_order_of_training():
    data = alternating(8)
    def orders(seed):
        dls = loaders(data, fold=1, bs=4, seed=seed)
        return [dls.train.get_idxs() for _ in range(2)]
    assert orders(3)==orders(np.int64(3))!=orders(4)
    assert orders(3)[0]==random.Random(3).sample(range(8), 8)

class Marks(Transform):
    order = 2
    def encodes(self, x:PILImage): return PILImage.create(np.full_like(np.asarray(x), 51))

def test_more_transforms_and_keywords():
    more = dict(item_tfms=Marks(), batch_tfms=Transform(lambda x: x), val_bs=3)
    dls = loaders(alternating(), fold=1, size=6, **more)
    assert dls.valid.bs==3
    torch.testing.assert_close(torch.as_tensor(dls.one_batch()[0]).cpu(), torch.full((2,3,6,6), .2))

@pytest.mark.parametrize('resize', ['squish','crop','pad'])
def test_ways_to_a_size(resize):
    images = lambda p: Image.fromarray(np.repeat(pixels[int(p[7:])], 2, axis=1))
    data = ImageData(table('ab'*6, fold=[1,1,2,2]*3), ['a','b'], images=images)
    assert loaders(data, fold=1, resize=resize).one_batch()[0].shape==(2,3,8,8)

def assert_same_batches(data, change, **kwargs):
    "Does the training loader bring the same where one argument changes?"
    epochs = [loaders(data, fold=1, seed=0, **kwargs, **o).train for o in ({},change)]
    for (x,y),(x2,y2) in zip(*epochs, strict=True):
        equal(x.cpu(), x2.cpu())
        assert y.tolist()==y2.tolist()

def linear(n_in, n_out): return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out))

def test_workers_bring_the_same_batches_and_learners_are_exported(tmp_path):
    df = on_disk(tmp_path, 'ab'*8, fold=[1,1,2,2]*4)
    for data in of_files(df, tmp_path),alternating(8):
        assert_same_batches(data, dict(num_workers=2), size=16, bs=4)
    learn = Learner(loaders(data, fold=1, bs=4), linear(192, 2), path=tmp_path)
    learn.export('l.pkl')
    size = (tmp_path/'l.pkl').stat().st_size
    assert size<60_000 # neither images nor their names are in it
    back = torch.load(tmp_path/'l.pkl', weights_only=False)
    probs,_ = back.get_preds(dl=back.dls.test_dl(data.items([0,1,2]), with_labels=True, num_workers=0))
    assert probs.shape==(3,2)

no_size = "a number of pixels, a pair \\(height, width\\), or None. Got "

@pytest.mark.parametrize('kwargs,rest', [
    (dict(size=0), no_size+'0'),
    *((dict(size=o), no_size) for o in ((8,)*3,8.,True,(8,0),())),
    (dict(resize='stretch'), "'squish', 'crop' or 'pad'. Got 'stretch'"),
    (dict(bs=0), "an int"),
    (dict(bs=7), "at most 6, the number of training images. Got 7"),
    (dict(num_workers=-1), ''),
    (dict(seed='a'), ''),
    (dict(fold=None), "one of 1, 2. Got None"),
    (dict(fold=3), ".* Got 3"),
    (dict(parts=[0,1,2]), "two lists of row numbers, for training and validation. Got list"),
    (dict(parts=([0,1],[1,2])), ".* share none. Got row 1 in both"),
    (dict(parts=([0,12],[1])), r"ints in the range \[0, 11\]. Got 12"),
    (dict(parts=([],[1])), "images to train on. Got none"),
])
def test_bad_arguments_of_loaders(kwargs, rest):
    with pytest.raises(ValueError, match=must_be('ImageData.dataloaders', next(iter(kwargs)), rest)):
        alternating().dataloaders(**{'fold':1, 'bs':2, **kwargs})

def test_missing_files_are_named_before_training(tmp_path):
    df = on_disk(tmp_path, 'ab'*8, fold=[1,1,2,2]*4)
    data = of_files(df, tmp_path)
    data.dataloaders(fold=1, size=8, bs=2)
    for i in range(12): (tmp_path/f'x{i}.png').unlink()
    words = "a table of files that are all there. Got 12 missing: .*'x0.png'.* and 2 more"
    with pytest.raises(ValueError, match=words): data.dataloaders(fold=1, size=8, bs=2)
    data.dataloaders(parts=([12,13],[14]), size=8, bs=2) # what is not used need not be there
    on_disk(tmp_path, 'ab'*8)
    data.dataloaders(fold=1, size=8, bs=2)

# Fast decoding

def photo(folder, name='photo.jpg', mode='RGB', size=(1303,877), **kwargs):
    "One of scikit-learn's photographs, enlarged, with grain; neither side a multiple of 8"
    a = np.asarray(Image.fromarray(load_sample_image('china.jpg')).resize(size, Image.BICUBIC)).astype(float)
    a += np.random.default_rng(0).normal(0, 4, a.shape[:2])[...,None]
    if name.endswith('jpg'): kwargs['quality'] = 90
    Image.fromarray(a.clip(0, 255).astype(np.uint8)).convert(mode).save(folder/name, **kwargs)
    return folder/name

def loaders_of(fn, **kwargs):
    data = ImageData(pd.DataFrame(dict(path=[fn.name], label='a')), ['a'], root=fn.parent)
    return loaders(data, parts=([0],[]), bs=1, **{'size':64, **kwargs})

def read(source, dls):
    "(3,H,W), in grey levels"
    return 255*next(iter(dls.test_dl([source], num_workers=0)))[0][0].cpu().numpy()

def both(fn, **kwargs): return [read(fn, loaders_of(fn, decode=o, **kwargs)) for o in ('full','fast')]

@pytest.fixture
def decoded(monkeypatch):
    "Sizes that files are decoded at, in order"
    seen,load = [],ImageFile.ImageFile.load
    def watch(im):
        if im.tile: seen.append(im.size) # else it is decoded already
        return load(im)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', watch)
    return seen

whole,half,quarter,eighth = (1303,877),(652,439),(326,220),(163,110)

@pytest.mark.thinned(4)
@pytest.mark.parametrize('size,want', [
    (220,whole), (219,half), (110,half), (109,quarter), (55,quarter), (54,eighth), (20,eighth), ([54],eighth),
    ((54,162),quarter), ((54,163),half), ((110,40),half)])
def test_a_photograph_is_decoded_at_the_smallest_fraction_with_twice_the_size(tmp_path, decoded, size, want):
    fn = photo(tmp_path)
    dls = loaders_of(fn, size=size, decode='fast')
    del decoded[:]
    x = read(fn, dls)
    h,w = np.broadcast_to(size, 2)
    assert decoded==[want] and x.shape==(3,h,w)
    if want!=whole: assert want[0]>=2*w and want[1]>=2*h
    del decoded[:]
    read(fn, loaders_of(fn, size=size))
    assert {*decoded}=={whole}

@pytest.mark.thinned(8)
@pytest.mark.parametrize('size', [54,64,109,219,(100,60)])
@pytest.mark.parametrize('kwargs', [
    {}, dict(subsampling='4:4:4'), dict(progressive=True), dict(mode='L'), dict(mode='CMYK')])
def test_the_difference_is_under_a_grey_level(tmp_path, size, kwargs):
    full,fast = both(photo(tmp_path, **kwargs), size=size)
    assert 0<np.abs(full-fast).mean()<1
    if kwargs.get('mode')=='L': assert (fast[0]==fast[1]).all() and (fast[0]==fast[2]).all()

def test_pixels_that_stand_for_a_part_shift_nothing(tmp_path):
    # 1,001 columns are 126 eighths, the last of which is an eighth full
    full,fast = both(photo(tmp_path, size=(1001,1001)), size=62)
    assert np.abs(full-fast).mean()<1

def test_turned_photographs_stay_as_in_full(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    full,fast = both(photo(tmp_path, exif=exif))
    assert np.abs(full-fast).mean()<1 and np.abs(full-fast[...,::-1]).mean()>5

@pytest.mark.parametrize('name,kwargs', [
    ('photo.png', {}), ('photo.tif', {}), ('photo.png', dict(mode='L')), ('small.jpg', dict(size=(255,300))),
    ('small.jpg', dict(size=(300,255))), ('flat.jpg', dict(size=(1200,100))), ('tiny.jpg', dict(size=(8,8)))])
def test_what_cannot_be_decoded_in_part_is_as_in_full(tmp_path, name, kwargs):
    full,fast = both(photo(tmp_path, name, **kwargs))
    np.testing.assert_array_equal(full, fast)

def test_sixteen_bits_are_as_in_full(tmp_path):
    fn = tmp_path/'x.png'
    Image.fromarray(np.arange(0, 65536, 2, dtype=np.uint16).reshape(128,256)).save(fn)
    full,fast = both(fn, size=16)
    np.testing.assert_array_equal(full, fast)
    assert fast.max()>200 and fast.min()<30

def test_images_that_are_no_files_are_as_in_full(tmp_path):
    fn = photo(tmp_path)
    assert_same_batches(alternating(), dict(decode='fast'), size=2)
    dls = loaders_of(fn, decode='fast')
    for im in open_image(fn),partial(Image.open, fn): np.testing.assert_array_equal(read(im, dls), both(fn)[0])

@pytest.mark.parametrize('share', [.1,.5,.9,.99])
def test_a_photograph_that_is_cut_short_fails_as_in_full(tmp_path, share):
    fn = photo(tmp_path)
    dls = [loaders_of(fn, decode=o) for o in ('full','fast')]
    whole = fn.read_bytes()
    fn.write_bytes(whole[:int(share*len(whole))])
    for o in dls:
        with pytest.raises(OSError, match='truncated'): read(fn, o)

def test_fast_decoding_goes_with_loaders_and_learners(tmp_path, decoded):
    fn = photo(tmp_path)
    dls = loaders_of(fn, decode='fast', item_tfms=[RandomResizedCrop(32),Marks])
    assert dls.one_batch()[0].shape==(1,3,32,32)
    dls = loaders_of(fn, decode='fast')
    want = read(fn, dls)
    np.testing.assert_array_equal(read(str(fn), dls), want)
    np.testing.assert_array_equal(read(fn, pickle.loads(pickle.dumps(dls))), want)
    learn = Learner(dls, linear(3*64*64, 1), loss_func=nn.CrossEntropyLoss(), path=tmp_path)
    learn.export('l.pkl')
    back = torch.load(tmp_path/'l.pkl', weights_only=False)
    del decoded[:]
    np.testing.assert_array_equal(read(fn, back.dls), want)
    assert decoded==[quarter]
    assert back.get_preds(dl=back.dls.test_dl([fn], num_workers=0))[0].shape==(1,1)
    df = pd.DataFrame(dict(path=[fn.name,photo(tmp_path, 'b.jpg').name], label='a'))
    two = ImageData(df, ['a'], root=tmp_path)
    by_workers = loaders(two, parts=([0,1],[]), size=64, bs=1, num_workers=2, decode='fast').train
    np.testing.assert_array_equal(255*next(iter(by_workers))[0][0].cpu().numpy(), want)

class Early(Transform):
    order = 0
    def encodes(self, x:PILImage): return x

def plain(x): return x
def after(x): return x
after.order = 3

own_transforms = [
    (Early(),'Early'), (Early,'Early'), ([Marks(),Early(),plain],'Early, plain'), (CropPad(9),'CropPad'),
    (Resize(128),'Resize')]

@pytest.mark.parametrize('kwargs,words', [
    *((dict(decode=o), "'full' or 'fast'") for o in ('quick',None,True,['fast'])),
    (dict(size=None), "'full' where `size` is None"),
    *((dict(resize=o), f"'full' where `resize` is '{o}'") for o in ('crop','pad')),
    *((dict(item_tfms=o), f"'full' where an item transform comes before the resize or replaces it, as {name} would")
        for o,name in own_transforms)])
def test_fast_decoding_is_refused_where_it_would_change_more(kwargs, words):
    def make(**kw): return alternating().dataloaders(**{'fold':1, 'bs':2, 'size':8, **kw})
    decode = kwargs.get('decode', 'fast')
    with pytest.raises(ValueError) as e: make(**{'decode':'fast', **kwargs})
    assert str(e.value)==must_be('ImageData.dataloaders', 'decode', f'{words}. Got {decode!r} instead.')
    make(decode='fast', item_tfms=[after,Marks])
    if decode=='fast': make(decode='full', **kwargs)

def test_how_files_are_decoded_is_no_part_of_the_data(tmp_path):
    fn = photo(tmp_path)
    data = ImageData(pd.DataFrame(dict(path=[fn.name], label='a')), ['a'], root=tmp_path, recipe=dict(reader='mine'))
    before = data.fingerprint
    data.dataloaders(parts=([0],[]), bs=1, size=8, decode='fast')
    data._hash = None
    assert data.fingerprint==before and data.recipe==dict(reader='mine')

# Verification

@pytest.fixture
def broken(tmp_path):
    "Files broken in every way, with what is expected of them"
    df = on_disk(tmp_path, 'ab'*8, 'a/x{}.png', split='train')
    def fn(i): return tmp_path/df.path[i]
    fn(1).write_bytes(fn(1).read_bytes()[:-30])
    fn(2).write_bytes(b'')
    fn(3).write_text('<html>404</html>')
    fn(4).unlink()
    fn(5).unlink()
    fn(5).mkdir()
    big = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64,64,3), dtype=np.uint8)).save(big, 'JPEG')
    fn(6).write_bytes(big.getvalue()[:1500])
    shutil.copy(fn(8), fn(9)) # the same with another label
    shutil.copy(fn(10), fn(12))
    df.loc[12,'split'] = 'test' # the same image in training and test
    shutil.copy(fn(13), fn(15)) # harmless
    return tmp_path,df

def verified(df, root): return of_files(df, root).verify(num_workers=0, progress=False)
def test_what_is_broken_is_found(broken):
    root,df = broken
    v = verified(df, root)
    assert v.bad.path.tolist()==[f'a/x{i}.png' for i in (1,2,3,4,5,6)]
    p = dict(zip(v.bad.path, v.bad.problem))
    assert p['a/x2.png']=='an empty file' and p['a/x3.png']=='not an image that Pillow can read'
    assert p['a/x4.png']=='missing' and p['a/x5.png'].startswith('not readable:')
    for o in 'a/x1.png','a/x6.png': assert 'truncated' in p[o]
    assert not any('0x' in o or str(root) in o for o in v.bad.problem)
    d = v.duplicates
    assert d.paths.tolist()==[[f'a/x{i}.png' for i in o] for o in ((8,9),(10,12),(13,15))]
    assert d.labels.tolist()==[['a','b'],['a','a'],['b','b']]
    assert d.parts.tolist()==[['train','train'],['train','test'],['train','train']]
    assert d.across_parts.tolist()==[False,True,False] and d.different_labels.tolist()==[True,False,False]
    assert not v.ok and v.opened==16
    text = repr(v)
    for words in (
        '16 images, 16 of them opened now: 6 unreadable, 3 there more than once.', 'a/x4.png: missing',
        'a/x8.png (a, train) = a/x9.png (b, train): with several labels',
        'a/x10.png (a, train) = a/x12.png (a, test): in several parts'): assert words in text
    assert 'x13' not in text

def test_processes_find_the_same(broken):
    root,df = broken
    more = on_disk(root, 'ab'*20, 'b/y{}.jpg', split='train') # enough for several processes
    df = pd.concat([df, more], ignore_index=True)
    one = verified(df, root)
    (root/'.balmix_verified.csv').unlink()
    two = of_files(df, root).verify(num_workers=2, progress=True)
    pd.testing.assert_frame_equal(one.bad, two.bad)
    pd.testing.assert_frame_equal(one.duplicates, two.duplicates)
    assert two.opened==56

def count_looks(monkeypatch):
    seen = []
    look = module._look
    monkeypatch.setattr(module, '_look', lambda fn, **kwargs: seen.append(Path(fn).name) or look(fn, **kwargs))
    return seen

def test_what_was_found_is_kept(tmp_path, monkeypatch):
    seen = count_looks(monkeypatch)
    df = on_disk(tmp_path, 'aabb')
    (tmp_path/'x3.png').write_bytes(b'no image')
    data = of_files(df, tmp_path)
    first = data.verify(num_workers=0, progress=False)
    again = verified(df, tmp_path)
    assert len(seen)==4 and again.opened==0
    pd.testing.assert_frame_equal(first.bad, again.bad)
    kept = pd.read_csv(tmp_path/'.balmix_verified.csv')
    assert kept.columns.tolist()[:5]==['path','state','sha256','frame','problem']
    assert kept.path.tolist()==[f'x{i}.png' for i in range(4)]
    assert not [o for o in os.listdir(tmp_path) if o.startswith('.balmix') and o!='.balmix_verified.csv']
    # mended with the same size: its date tells
    Image.fromarray(pixels[3]).save(tmp_path/'x3.png')
    os.utime(tmp_path/'x1.png', ns=(1,1))
    del seen[:]
    assert data.verify(num_workers=0, progress=False).ok and sorted(seen)==['x1.png','x3.png']
    # another table of the same folder: what it does not name is kept
    part = of_files(df.iloc[:2], tmp_path)
    (tmp_path/'x0.png').write_bytes(b'')
    del seen[:]
    assert part.verify(num_workers=0, progress=False).bad.path.tolist()==['x0.png'] and seen==['x0.png']
    del seen[:]
    assert data.verify(num_workers=0, progress=False).bad.path.tolist()==['x0.png'] and not seen

def test_an_image_that_was_unreadable_for_another_reason_is_tried_again(tmp_path, monkeypatch):
    df = on_disk(tmp_path, 'aabb')
    with monkeypatch.context() as m:
        m.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
        assert verified(df, tmp_path).bad.problem.str.startswith('DecompressionBomb').sum()==4
    def without_memory(*args, **kwargs): raise MemoryError
    with monkeypatch.context() as m:
        m.setattr(reader, 'facts_of_file', without_memory)
        found = verified(df, tmp_path)
        assert found.opened==len(found.bad)==4
    assert verified(df, tmp_path).ok and verified(df, tmp_path).opened==0
    assert not may_pass('a.JPG', 'image file is truncated') and may_pass('a.avif', 'not an image that Pillow can read')
    assert len(of_files(df, tmp_path).without_broken().df)==4

@pytest.mark.parametrize('text', [
    '', 'x', 'path,state\na,b\n', 'path,size,mtime_ns,sha256,problem\nx0.png,many,1,a,\n', '\x00\xff',
    'path,state,sha256,frame,problem,kind,low,high,least,most,frames,window\nx0.png,1,a,,,8 bits,low,,,,,\n'])
def test_a_kept_table_that_is_none_is_made_anew(tmp_path, text):
    df = on_disk(tmp_path, 'ab')
    (tmp_path/'.balmix_verified.csv').write_text(text)
    v = verified(df, tmp_path)
    assert v.ok and v.opened==2 and len(pd.read_csv(tmp_path/'.balmix_verified.csv'))==2

def test_without_permission_to_write_it_goes_on_with_one_warning(tmp_path, monkeypatch):
    df = on_disk(tmp_path, 'ab')
    # a folder in its place cannot be replaced, by nobody
    (tmp_path/'.balmix_verified.csv').mkdir()
    def quiet(): return verified(df, tmp_path)
    with pytest.warns(UserWarning, match='cannot be kept beside the data') as seen: v = quiet()
    assert v.ok and len(seen)==1 and str(tmp_path) not in str(seen[0].message)
    assert sorted(os.listdir(tmp_path))==['.balmix_verified.csv','x0.png','x1.png']
    (tmp_path/'.balmix_verified.csv').rmdir()
    def refuse(*args, **kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(pd.DataFrame, 'to_csv', refuse)
    with pytest.warns(UserWarning, match='Permission denied') as seen: assert quiet().ok
    assert len(seen)==1

def test_a_setting_for_truncated_images_changes_nothing(tmp_path):
    df = on_disk(tmp_path, 'ab')
    fn = tmp_path/'x0.png'
    fn.write_bytes(fn.read_bytes()[:-30])
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        assert len(verified(df, tmp_path).bad)==1
        assert ImageFile.LOAD_TRUNCATED_IMAGES
    finally: ImageFile.LOAD_TRUNCATED_IMAGES = False

def test_arrays_are_compared_by_their_bytes():
    images = ArrayImages(lambda: dict(digits=pixels[[0,1,0,2]]))
    v = ImageData(table('aaab', split=['train','train','test','test']), ['a','b'], images=images).verify()
    assert v.duplicates.paths.tolist()==[['digits/0','digits/2']] and v.duplicates.across_parts.tolist()==[True]
    assert not v.ok and not len(v.bad) and v.opened==0
    ok = in_memory('aabb').verify()
    assert ok.ok and repr(ok)=='4 images, 0 of them opened now: none unreadable, none there more than once.'

def test_bad_number_of_processes():
    with pytest.raises(ValueError, match="'num_workers' parameter of ImageData.verify must be an int"):
        in_memory().verify(num_workers=-1)
