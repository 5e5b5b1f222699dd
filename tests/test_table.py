"""Tables as people have them: patients as numbers, as text and missing, classes too small to deal, parts that nobody
knows. Each is read rightly, or refused with a sentence that says what to do."""

import re
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, strategies as st
from PIL import Image
from toys import calls_made

from fastai_balmix.datasets import parts as parts_module
from fastai_balmix.datasets.groups import alike_groups, check_groups, group_numbers, group_texts, text_of
from fastai_balmix.datasets.published import digits
from fastai_balmix.datasets.retina import eyepacs
from fastai_balmix.datasets.sources import long_tail, read_data
from fastai_balmix.datasets.splits import fold_numbers, split_off
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.tables import from_csv


def table(labels='aabb', **cols):
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(len(labels))], label=list(labels), **cols))

def grey(path): return Image.new('RGB', (8,8))

def made(labels='aabb', vocab=None, ordered=False, **cols):
    named = {k: cols.pop(k) for k in ('missing_group','notes','recipe','prevalence') if k in cols}
    vocab = sorted({*labels}) if vocab is None else vocab
    return ImageData(table(labels, **cols), vocab, ordered=ordered, images=grey, name='eyes', **named)

# Groups

one_patient = [1, '1', 1.0, np.int64(1), np.int32(1), np.float32(1), np.float64(1), '1.0', ' 1', '1 ', '1.00']

@pytest.mark.parametrize('other', one_patient)
def test_a_patient_is_the_same_as_number_and_as_text(other):
    for a,b in (1,other),(other,'1'):
        assert group_numbers(pd.Series([a,'2',b], dtype=object), 3, 'x').tolist()==[0,1,0]
        groups = pd.Series([a,'2',b,'3'], dtype=object)
        with pytest.raises(ValueError, match="Got '1' with items in train and test"):
            check_groups(groups, ['train','train','test','test'], 'x')
        with pytest.raises(ValueError, match="Got '1' with items in train and test"):
            made(group=groups, split=['train','train','test','test'])
        assert made(group=groups).groups.tolist()==['1','2','1','3']
    y = [0]*8+[1]*8
    groups = pd.Series([1,2,3,4]*2+[other,'2','3','4']*2, dtype=object)
    for part in fold_numbers(y, groups, 2),split_off(y, groups, .5):
        assert {*part[groups.map(lambda o: text_of(o).strip()[0]=='1')]}=={part[0]}

def test_patients_that_differ_stay_apart():
    names = ['p1','P1','p 1','01','1','1.5','10','-1']
    assert group_numbers(names, len(names), 'x').tolist()==[*range(len(names))]
    assert len({*group_texts([1.5,2.5,1e20,'1e20'], 'x')})==4

def test_accents_have_two_forms_and_stand_for_one_patient():
    a,b = (unicodedata.normalize(form, 'José') for form in ('NFC','NFD'))
    assert a!=b and group_numbers([a,b], 2, 'x').tolist()==[0,0]

def test_a_column_with_a_gap_is_no_other_data(tmp_path):
    "pandas makes floats of the numbers beside a missing one; what is left without it, has the same patients"
    whole = table(group=[1,2,3,4])
    gap = pd.concat([whole, pd.DataFrame(dict(path=['x.png'], label=['a'], group=[np.nan]))], ignore_index=True)
    assert gap.group.dtype==float
    a = ImageData(whole, ['a','b'], images=str)
    b = ImageData(gap, ['a','b'], images=str, missing_group='own').subset(range(4))
    assert a.groups.tolist()==b.groups.tolist()==['1','2','3','4']
    gap.to_csv(tmp_path/'t.csv', index=False)
    whole.to_csv(tmp_path/'whole.csv', index=False)
    assert pd.read_csv(tmp_path/'t.csv').group.map(str).tolist()[:4]==['1.0','2.0','3.0','4.0']
    assert from_csv(tmp_path/'whole.csv', group='group').groups.tolist()==a.groups.tolist()

@pytest.mark.parametrize('lost', [
    None, float('nan'), pd.NA, pd.NaT, '', '  ', 'nan', 'NaN', 'None', '<NA>', 'NA', 'N/A', 'null', 'unknown', '?',
    '-'])
def test_a_missing_patient_is_an_error_or_stands_alone(lost):
    groups = pd.Series(['p1','p1',lost,lost,'p2','p2'], dtype=object)
    word = f" \\('{re.escape(lost)}'\\)" if isinstance(lost, str) and lost.strip() else ''
    words = (f'ImageData needs a group for each image, such as its patient, but 2 of 6 have none{word}, first in row '
             "2. With missing_group='own' each of them becomes a group of its own.")
    with pytest.raises(ValueError, match=words): made('ababab', group=groups)
    data = made('ababab', group=groups, missing_group='own')
    assert data.groups.tolist()==['p1','p1','2.png','3.png','p2','p2']
    assert len(data.notes)==1
    assert re.fullmatch(f'2 of 6 images have no group{word}. Each of them is a group of its own.', data.notes[0])
    assert data.notes[0] in data.summary() and 'Groups: 4, of 1 to 2 images' in data.summary()
    again = data.subset([0,1,2,5])
    assert again.notes==data.notes and again.groups.tolist()==['p1','p1','2.png','p2']
    for deal in lambda g: fold_numbers([0,1]*3, g, 2),lambda g: split_off([0,1]*3, g, .5):
        with pytest.raises(ValueError, match="a known group for each item. Got .* at index 2"): deal(groups)
        with pytest.raises(ValueError, match="a known group for each item. Got .* at index 2"): deal(groups.tolist())
    if word:
        with pytest.raises(ValueError, match=f"Got {word[3:-2]} at index 2, which stands for"):
            split_off([0,1]*2, ['a','b',lost,'c'])
    with pytest.raises(ValueError, match="Got .* at index 2"): check_groups(groups, ['a']*6, 'x')

def test_images_without_a_patient_may_lie_anywhere():
    groups = [1,2,np.nan,None,3,4,'','NA']
    data = made('ab'*4, group=groups, missing_group='own', split=['train']*4+['test']*4)
    assert len({*data.groups})==8

def test_bad_ways_with_missing_groups():
    words = "The 'missing_group' parameter of ImageData must be 'error', or 'own', .* Got 'drop' instead"
    with pytest.raises(ValueError, match=words): made(group=[1,2,3,4], missing_group='drop')
    assert made(missing_group='own').groups is None

def test_patients_with_names_alike_are_mentioned():
    text = made('ab'*4, group=['p1','p2','P1','p3','p03','p4','p10','x']).summary()
    assert "Groups counted apart although their names are similar: 'p1' and 'P1' (2 such groups)." in text
    assert 'alike' not in made(group=['p1','p2','p10','p20']).summary()
    assert alike_groups(['a1','\u200ba1']).endswith("similar: 'a1' and '\\u200ba1'.")
    assert alike_groups(['a 1','a1'])=="Groups counted apart although their names are similar: 'a 1' and 'a1'."

@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 5).map(float), st.integers(0, 5).map(str)), min_size=1))
def test_whatever_the_type_a_number_is_its_text(groups):
    want = [str(int(float(o))) for o in groups]
    assert group_texts(pd.Series(groups, dtype=object), 'x').tolist()==want
    assert group_numbers(groups, len(groups), 'x').tolist()==pd.factorize(np.array(want, dtype=object))[0].tolist()

def test_tensors_and_arrays_of_patients():
    for groups in torch.tensor([1.,2.,1.]),np.array([1.,2.,1.]),torch.tensor([1,2,1]),['1','2',1]:
        assert group_texts(groups, 'x').tolist()==['1','2','1']

def test_a_series_of_parts_is_not_read_by_position():
    with pytest.raises(ValueError, match="'parts' parameter of x must be .* a Series with the labels 2, 1, 0"):
        check_groups(['a','b','a'], pd.Series([1,2,1], index=[2,1,0]), 'x')
    with pytest.raises(ValueError, match="'groups' parameter of x must be .* a Series with the labels 2, 1, 0"):
        check_groups(pd.Series(['a','b','a'], index=[2,1,0]), [1,2,1], 'x')

# Labels

def test_a_class_is_the_same_as_number_and_as_text():
    for labels in [0,1,1,0],[0.,1.,1.,0.],np.array([0,1,1,0], dtype=np.int8),['0','1','1','0'],[np.float32(0),1,'1',0]:
        df = table(group=[1,2,3,4]).assign(label=pd.Series(labels, dtype=object))
        for vocab in [0,1],[0.,1.],['0','1'],np.array([0.,1.]):
            data = ImageData(df, vocab, images=str)
            assert data.vocab==['0','1'] and data.y.tolist()==[0,1,1,0]
    data = ImageData(table().assign(label=[0.,0.,.5,.5]), ['0.0','0.5'], images=str)
    assert data.y.tolist()==[0,0,1,1] and data.df.label.tolist()==['0.0','0.0','0.5','0.5']

# A class too many

blood = ['basophil','eosinophil','lymphocyte','unknown']
def of_blood(**kwargs): return made([blood[k] for k in [0]*1+[1]*3+[2]*8+[3]*2], blood, **kwargs)

def again(data):
    other = read_data(yaml.safe_load(yaml.safe_dump(data.recipe)))
    assert (other.fingerprint,other.vocab)==(data.fingerprint,data.vocab)
    assert (other.notes,other.recipe)==(data.notes,data.recipe)
    pd.testing.assert_frame_equal(other.df, data.df)

def test_classes_are_left_out():
    data = of_blood(notes=['One.'], prevalence='train', ordered=True)
    less = data.without('unknown','basophil')
    assert less.vocab==['eosinophil','lymphocyte'] and less.counts.tolist()==[3,8] and less.y.tolist()==[0]*3+[1]*8
    assert less.df.path.tolist()==data.df.path[1:12].tolist() and (less.ordered,less.prevalence)==(True,'train')
    assert less.notes==['One.',"Classes left out: 'basophil' (1 image), 'unknown' (2 images)."]
    assert less.notes[1] in less.summary() and len(data)==14 and data.vocab==blood
    assert made([0,0,1,1,2,2]).without(1).vocab==made([0,0,1,1,2,2]).without(np.int64(1)).vocab==['0','2']

def test_classes_are_merged():
    data = of_blood(notes=['One.'])
    other = data.merged({'other': ['unknown','basophil']})
    assert other.vocab==['other','eosinophil','lymphocyte'] and other.counts.tolist()==[3,3,8]
    assert other.notes==['One.',"Classes merged: 'other' of 'unknown' (2 images), 'basophil' (1 image)."]
    assert other.df.path.tolist()==data.df.path.tolist()
    two = data.merged({'eosinophil': ['basophil','eosinophil'], 'rest': ('lymphocyte','unknown')})
    assert two.vocab==['eosinophil','rest'] and two.counts.tolist()==[4,10]
    grades = made('aabbccdd', ordered=True)
    assert grades.merged({'b or c': ['c','b']}).vocab==['a','b or c','d']
    assert grades.merged({'b or c': ['c','b']}).ordered

def test_both_are_steps_of_a_recipe():
    data = digits(3)
    less = data.without('0','7').merged({'other': ['1','2'], 'more': ['8','9']}).subset(range(100))
    assert [o['step'] for o in less.recipe['then']]==['without','merged','subset']
    again(less)
    assert less.vocab[0]=='other' and {'0','7','1'}.isdisjoint(less.vocab)
    for change in (lambda d: d.without('0')),(lambda d: d.merged({'x': ['0','1']})):
        assert change(data).fingerprint!=data.fingerprint and of_blood().recipe is None

@pytest.mark.parametrize('change,words', [
    (lambda d: d.without(), "'names' parameter of ImageData.without must be one class or more. Got none"),
    (lambda d: d.without('basofil'), "must be classes of eyes. Got 'basofil' instead. Did you mean 'basophil'"),
    (lambda d: d.without(*blood), "must be some of the classes, so that images are left. Got all that have images"),
    (lambda d: d.merged({}), "'classes' parameter of ImageData.merged must be lists of classes by their new name"),
    (lambda d: d.merged({'x': 'basophil'}), "must be lists of classes by their new name, such as"),
    (lambda d: d.merged({'x': []}), "must be lists of classes by their new name, such as"),
    (lambda d: d.merged(['basophil']), "must be lists of classes by their new name, such as"),
    (lambda d: d.merged({'x': ['basofil','unknown']}), "Got 'basofil' instead. Did you mean 'basophil'"),
    (lambda d: d.merged({'x': ['basophil'], 'y': ['basophil']}), "each of them once. Got 'basophil' more than once"),
    (lambda d: d.merged({'lymphocyte': ['basophil','unknown']}), "Got 'lymphocyte', which is a class of its own"),
])
def test_classes_that_cannot_be_left_out_or_merged(change, words):
    with pytest.raises(ValueError, match=words): change(of_blood())

def test_only_neighbours_of_grades_are_merged():
    words = "must be lists of neighbours among the grades a < b < c. Got 'a' and 'c' instead"
    with pytest.raises(ValueError, match=words): made('aabbcc', ordered=True).merged({'x': ['a','c']})
    assert made('aabbcc').merged({'x': ['a','c']}).vocab==['x','b']

def test_a_subset_drops_classes_of_which_no_image_is_left():
    data = made('aabbcc', ['a','b','never','c'], notes=['One.'])
    less = data.subset([0,1,4])
    assert less.vocab==['a','never','c'] and less.y.tolist()==[0,0,2]
    assert less.notes==['One.', "Classes dropped, as none of their images is left: 'b' (2 images)."]
    assert data.subset([0,2,4]).vocab==data.vocab and data.subset([0,2,4]).notes==['One.']
    data = digits(3)
    again(data.subset(data.y<3))

def test_a_mask_with_labels_of_its_own_is_not_read_by_position():
    data = made()
    mask = pd.Series([True,False,True,True], index=[3,2,1,0])
    for read in data.subset,data.items:
        with pytest.raises(ValueError, match="'rows' parameter of .* a Series with the labels 3, 2, 1"): read(mask)
    assert len(data.subset(mask.sort_index()))==len(data.subset(mask.to_numpy()))==3

def test_a_class_too_small_is_named_with_the_ways_out():
    with pytest.raises(ValueError, match=r"but basophil has 1 image; 5 folds need 5\. Leave it out with "
                       r"data\.without\('basophil'\), or merge it with data\.merged\(\.\.\.\)"):
        of_blood().with_folds(5)
    g = [0,1,1,1,2,3,4,5,6,7,8,9,10,11]
    with pytest.raises(ValueError, match=r"basophil has images of 1 group \(patient\), eosinophil has images of 1"):
        of_blood(group=g).with_folds(5)
    with pytest.warns(UserWarning, match=r"eosinophil has 3 images; 5 folds need 5, so some folds will be reported "
                      r"without it\. Leave it out with data\.without\('eosinophil'\)"):
        of_blood().without('basophil','unknown').with_folds(5)
    in_test = ['test']*1+['train']*12+['test']
    words = r"Got 'basophil' without one instead. Leave it out with data.without\('basophil'\), or merge it"
    with pytest.raises(ValueError, match=words): of_blood(split=in_test).parts()
    with pytest.raises(ValueError, match="Got none of 'basophil' instead. Leave it out with data.without"):
        long_tail(of_blood(split=in_test), 10)

# What a summary says

def test_the_order_of_grades_is_said():
    assert 'Grades from low to high: b < a < c.' in made('aabbcc', ['b','a','c'], ordered=True).summary()
    assert 'low to high' not in made('aabbcc').summary()

unused = "Parts that are not used: 'holdout' (3 images), 'Trainn' (1 image; did you mean 'train'?). Known are "\
    "'train', 'valid' and 'test'."

def test_parts_that_nobody_knows_are_said_before_training():
    data = made('ab'*7, split=['train']*8+['valid','test']+['holdout']*3+['Trainn'])
    assert data.notes==[unused] and unused in data.summary()
    for use in data.parts,lambda: data.dataloaders(bs=2):
        with pytest.warns(UserWarning, match=re.escape(unused)): use()
    less = data.subset(range(12))
    assert less.notes==["Parts that are not used: 'holdout' (2 images). Known are 'train', 'valid' and 'test'."]
    assert data.without('a').notes[-1].startswith("Parts that are not used: 'holdout' (1 image), 'Trainn'")
    assert data.with_folds(2).notes==[]==made('ab', split=['train','test']).notes
    with warnings.catch_warnings(action='error'): made('ab'*4, split=['train','train','valid','test']*2).parts()

def test_many_parts_that_nobody_knows():
    data = made('ab'*20, split=['train']*10+[f'p{i}' for i in range(30)])
    assert data.notes[0].count('image')==10 and ' and 20 more. Known' in data.notes[0]

def test_classes_that_are_not_in_every_part_are_said():
    def lines(labels, **cols): return made(labels, **cols).summary().splitlines()
    text = lines('aaabbbcd', split=['train','valid','test']*2+['test','train'])
    out = "Leave it out with data.without('c'), or merge it with data.merged(...)."
    assert f'Classes without a training image: c. {out}' in text
    assert "Classes without an image in 'valid': d." in text and "Classes without an image in 'test': d." in text
    text = lines('aaabbbccd', fold=[1,2,3]*2+[1,2,3])
    assert f"Classes in one fold only: d. {out}".replace("'c'", "'d'") in text
    assert 'Classes that some folds lack: c.' in text
    assert not any('Classes' in o for o in lines('ab'*6, split=['test']*12))

def test_a_summary_of_a_hundred_classes_stays_readable():
    labels = [f'c{k:03}' for k in range(120) for _ in range(k+1)]
    data = made(labels, split=np.resize(['train','train','test'], len(labels)))
    text = data.summary().splitlines()
    assert len(text)<40 and max(map(len, text))<300
    assert [o.split()[0] for o in text[2:14]]==[f'c{119-k:03}' for k in range(12)]
    assert text[14].startswith('(96 more)') and text[26].startswith('c000') and text[27].split()[0]=='all'
    rows = np.array([o.replace('(96 more)', 'x').split()[1:-1] for o in text[2:28]], dtype=int)
    assert (rows[:-1].sum(0)==rows[-1]).all() and rows[-1,-1]==len(labels)
    assert sum(o.startswith('c0') for o in made([f'c{k:02}' for k in range(30)]*2).summary().splitlines())==10

# Speed

def test_parts_are_dealt_once_for_all_runs(monkeypatch):
    data = made('aabb'*10, group=[f'p{i//2}' for i in range(40)]).with_folds(4)
    calls = []
    def counted(*args):
        calls.append(1)
        return split_off(*args)
    monkeypatch.setattr(parts_module, 'split_off', counted)
    def equal(a, b): return all((a[k]==b[k]).all() for k in a)
    first = data.parts(1)
    assert all(equal(data.parts(1), first) for _ in range(10)) and len(calls)==1
    data.parts(1)['train'][:] = 0 # what a caller does with them is the caller's
    assert equal(data.parts(1), first) and len(calls)==1
    data.parts(2), data.parts(1, select=.2), data.parts(1, seed=1)
    assert len(calls)==4

@pytest.mark.parametrize('change', [
    lambda df: df.loc.__setitem__((0,'label'), 'b'), lambda df: df.loc.__setitem__((slice(0, 1),'group'), 'p99'),
    lambda df: df.__setitem__('fold', df.fold%4+1), lambda df: df.drop(index=39, inplace=True)])
def test_kept_parts_are_not_stale(change):
    data = made('aabb'*10, group=[f'p{i//2}' for i in range(40)]).with_folds(4)
    old = data.parts(1)
    change(data.df)
    want = ImageData(data.df, data.vocab, images=str).parts(1)
    assert all(np.array_equal(data.parts(1)[k], want[k]) for k in want)
    data.df = data.df.iloc[::-1].reset_index(drop=True)
    assert not all(np.array_equal(data.parts(1)[k], old[k]) for k in old)

@pytest.mark.slow
def test_eyepacs_is_read_at_its_size(tmp_path):
    rng = np.random.default_rng(0)
    patient = 0
    for part,csv,n in ('train','trainLabels.csv',35_126),('test','retinopathy_solution.csv',53_576):
        (tmp_path/part).mkdir()
        lines = ['image,level,Usage' if part=='test' else 'image,level']
        for _ in range(n//2):
            patient += 1
            for side in 'left','right':
                (tmp_path/part/f'{patient}_{side}.jpeg').touch()
                grade = rng.choice(5, p=[.735,.07,.15,.025,.02])
                lines.append(f'{patient}_{side},{grade}'+(',Private' if part=='test' else ''))
        (tmp_path/csv).write_text('\n'.join(lines)+'\n')
    data = eyepacs(tmp_path)
    assert len(data)==88_702 and '88,702 images' in data.summary()

@pytest.mark.slow
def test_ten_times_as_many_rows_are_ten_times_the_work():
    rng = np.random.default_rng(0)
    def work(n):
        df = pd.DataFrame(dict(path=[f'{i%100}/{i}.png' for i in range(n)], group=np.arange(n)//2,
                               label=rng.integers(100, size=n).astype(str)))
        made = lambda: ImageData(df, range(100), images=str)
        data = made().with_folds(5)
        return [calls_made(o) for o in (made,data.summary,lambda: data.parts(1))]
    work(1_000) # what is done once in a process
    for few,many in zip(work(10_000), work(100_000)): assert many<12*few
