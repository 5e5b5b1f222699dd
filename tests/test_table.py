"""Tables as people have them: patients as numbers, as text and missing, classes too small to deal, parts that nobody
knows. Each is read rightly, or refused with a sentence that says what to do."""

import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st

from fastai_balmix.datasets.folders import from_csv
from fastai_balmix.datasets.groups import alike_groups, check_groups, group_numbers, group_texts, text_of
from fastai_balmix.datasets.splits import fold_numbers, split_off
from fastai_balmix.datasets.table import ImageData


def table(labels='aabb', **cols):
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(len(labels))], label=list(labels), **cols))

def made(labels='aabb', vocab=None, ordered=False, **cols):
    named = {k: cols.pop(k) for k in ('missing_group','notes','recipe','prevalence') if k in cols}
    vocab = sorted({*labels}) if vocab is None else vocab
    return ImageData(table(labels, **cols), vocab, ordered=ordered, images=str, name='eyes', **named)

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
    words = (f'ImageData needs a group of each image, such as its patient, but 2 of 6 have none{word}, first in row '
             "2. With missing_group='own' each of them stands for itself.")
    with pytest.raises(ValueError, match=words): made('ababab', group=groups)
    data = made('ababab', group=groups, missing_group='own')
    assert data.groups.tolist()==['p1','p1','2.png','3.png','p2','p2']
    assert len(data.notes)==1
    assert re.fullmatch(f'2 of 6 images have no group{word}. Each of them stands for itself.', data.notes[0])
    assert data.notes[0] in data.summary() and 'Groups: 4, of 1 to 2 images' in data.summary()
    again = data.subset([0,1,2,5])
    assert again.notes==data.notes and again.groups.tolist()==['p1','p1','2.png','p2']
    for deal in lambda g: fold_numbers([0,1]*3, g, 2),lambda g: split_off([0,1]*3, g, .5):
        with pytest.raises(ValueError, match="one value for each item. Got .* at index 2"): deal(groups)
        with pytest.raises(ValueError, match="one value for each item. Got .* at index 2"): deal(groups.tolist())
    if word:
        with pytest.raises(ValueError, match=f"Got {word[3:-2]} at index 2, which says"):
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
    assert "Groups counted apart although their names are alike: 'p1' and 'P1' (2 such groups)." in text
    assert 'alike' not in made(group=['p1','p2','p10','p20']).summary()
    assert alike_groups(['a 1','a1'])=="Groups counted apart although their names are alike: 'a 1' and 'a1'."

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
