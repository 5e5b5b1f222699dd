"""Folders as people have them: each is read right, or refused in the words that are stated here. Whatever the tree, an
image on disk is in the table, or counted in a note, or the reader raises."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings, strategies as st
from PIL import Image

from fastai_balmix.datasets.folders import find_files, is_image
from fastai_balmix.datasets.names import class_name_notes, class_names, part_of
from fastai_balmix.datasets.sources import read_data
from fastai_balmix.datasets.trees import from_folder_table

pixel = Image.new('L', (2,2))

def grow(root, *names):
    "Files, and folders where a name ends in /"
    for name in names:
        path = root/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('/'): path.mkdir(exist_ok=True)
        elif is_image(name) and not path.suffix.startswith('.d'): pixel.save(path, format='PNG')
        else: path.write_bytes(b'x')
    return root

def again(data):
    other = read_data(yaml.safe_load(yaml.safe_dump(data.recipe)))
    assert (other.fingerprint,other.notes,other.recipe)==(data.fingerprint,data.notes,data.recipe)

def rows(data):
    split = data.df.split if 'split' in data.df else [None]*len(data)
    return {p: (l,s) for p,l,s in zip(data.df.path, data.df.label, split)}

# Right readings: the tree, arguments, some rows, and what is said

parts_said = ["The folder Testing is read as the part 'test'.", "The folder Training is read as the part 'train'."]

readings = dict(
    other_words=(['Training/a/1.png','Training/b/2.png','Testing/a/3.png'], {}, {'Testing/a/3.png': ('a','test')},
                 parts_said),
    numbered=(['01_train/a/1.png','02-VAL/a/2.png','03 test set/a/3.png'], {},
              {'01_train/a/1.png': ('a','train'), '02-VAL/a/2.png': ('a','valid'), '03 test set/a/3.png': ('a','test')},
              ["The folder 02-VAL is read as the part 'valid'."]),
    two_of_a_kind=(['train/a/1.png','val/a/2.png','dev/a/3.png'], {}, {'dev/a/3.png': ('a','valid')},
                   ["The folder dev is read as the part 'valid'.", "The folder val is read as the part 'valid'."]),
    empty_beside=(['train/a/1.png','test/a/2.png','docs/','docs/x.pdf'], {}, {'train/a/1.png': ('a','train')},
                  ['1 file left out: 1 .pdf; folders without an image: docs.']),
    own_words=(['Ausbildung/a/1.png','Prüfung/a/2.png'], dict(parts=dict(train='Ausbildung', test='Prüfung')),
               {'Prüfung/a/2.png': ('a','test')}, ["The folder Prüfung is read as the part 'test'."]),
    some_parts=(['train/a/1.png','test/a/2.png','extra/3.png','x/a/4.png'], dict(parts=dict(train=['train','x'])),
                {'x/a/4.png': ('a','train')}, ['2 images left out: in folders that are no part, such as extra/3.png.']),
    no_parts=(['train/1.png','bus/2.png'], dict(parts='none'), {'train/1.png': ('train',None)}, []),
    parts_as_classes=(['train/1.png','bus/2.png'], dict(vocab=['bus','train']), {'train/1.png': ('train',None)}, []),
    inside_classes=(['a/train/1.png','a/test/2.png','b/train/3.png'], {}, {'a/test/2.png': ('a','test')},
                    ["The parts are folders inside the classes: 'test', 'train'."]),
    wrapped=(['images/a/1.png','images/b/2.png'], {}, {'images/b/2.png': ('b',None)},
             ['Classes are looked for in the folder images.']),
    wrapped_parts=(['oct/train/a/1.png','oct/val/a/2.png'], {}, {'oct/val/a/2.png': ('a','valid')},
                   ['Classes are looked for in the folder oct.']),
    wrapped_twice=(['oct/OCT/train/a/1.png','oct/OCT/val/a/2.png'], {}, {'oct/OCT/val/a/2.png': ('a','valid')},
                   ['Classes are looked for in the folder oct.', 'Classes are looked for in the folder OCT.']),
    wrapped_in_parts=(['train/train/a/1.png','train/train/b/1.png','test/images/a/2.png'], {},
                      {'test/images/a/2.png': ('a','test'), 'train/train/b/1.png': ('b','train')},
                      ['The classes of test are looked for in its only folder.']),
    bare_test=(['train/a/1.png','train/b/2.png','test/3.png','test/4.png'], {}, {'train/a/1.png': ('a',None)},
               ['2 images left out: test has no folders for the classes, such as test/3.png.',
                'Only training images have classes, so no images are set aside for testing yet.']),
    loose=(['a/1.png','b/2.png','3.png'], {}, {'a/1.png': ('a',None)},
           ['1 image left out: outside the folders of classes, such as 3.png.']),
    loose_in_part=(['train/a/1.png','train/2.png','test/a/3.png'], {}, {},
                   ['1 image left out: in train outside a class, such as train/2.png.']),
    others=(['a/1.png','a/2.npy','a/3.npy','b/4.nii.gz','b/5.png','ill/'], {}, {},
            ['3 files left out: 2 .npy, 1 .nii.gz; classes without an image: ill.']),
    nothing_readable=(['a/1.png','b/2.png','ill/3.npy'], {}, {},
                      ['1 file left out: 1 .npy; classes without an image: ill.']),
    only_in_test=(['train/a/1.png','test/a/2.png','test/ill/3.png'], {}, {},
                  ['Classes without a training image: ill (1 in test).']),
    networks=(['a/1.png','b/2.png','models/model.pth','models/best.pkl'], {}, {}, []),
    networks_in_parts=(['train/a/1.png','test/a/2.png','train/models/model.pth'], {}, {}, []),
    other_models=(['a/1.png','b/2.png','models/model.pth','models/x.csv'], {}, {},
                  ['2 files left out: 1 .csv, 1 .pth; classes without an image: models.']),
    models_of_cars=(['models/1.png','models/model.pth','b/2.png'], {}, {'models/1.png': ('models',None)},
                    ['1 file left out: 1 .pth.']),
    masks=(['a/1.png','a/1_mask.png','a/1_mask_1.png','b/2.png','b/2-seg.png'], {}, {},
           ['3 masks left out: named as an image, such as a/1_mask.png.']),
    mask_folders=(['a/images/1.png','a/masks/1.png','b/images/2.png','b/masks/2_mask.png'], {},
                  {'a/images/1.png': ('a',None)},
                  ['2 masks left out: named as an image, such as a/masks/1.png.']),
    masks_above=(['images/a/1.png','images/b/2.png','GroundTruth/a/1.png'], {}, {'images/a/1.png': ('a',None)},
                 ['1 mask left out: named as an image, such as GroundTruth/a/1.png.']),
    lone_masks=(['with_mask/1.png','without_mask/1.png'], {}, {'with_mask/1.png': ('with_mask',None)}, []),
    masks_as_class=(['mask/1.png','bare/1.png'], dict(vocab=['bare','mask']), {'mask/1.png': ('mask',None)}, []),
    systems=(['a/1.png','b/2.png','__MACOSX/a/1.png','@eaDir/x.jpg','b/Thumbs.db','a/.ipynb_checkpoints/1.png',
              'a/._1.png','$RECYCLE.BIN/c/1.png','lost+found/1.png'], {}, {}, []),
    sites=(['x/a/1.png','x/b/2.png','y/a/3.png','y/b/4.png'], {}, {'x/a/1.png': ('x',None)},
           ["Each class holds the folders 'a', 'b', which are ignored. If these are the classes, 'x', 'y' are "
            'parts: state them by `parts`.']),
    one_class=(['scans/p1/1.png','scans/p2/2.png'], dict(vocab=['scans']), {'scans/p1/1.png': ('scans',None)}, []),
    likely_but_flat=(['test_positive/1.png','test_negative/2.png'], {},
                     {'test_positive/1.png': ('test_positive',None)}, []),
    pairs=(['a/1_left.png','a/1_right.png','b/2_left.png','b/2_right.png'], {}, {},
           ["2 pairs of images are named as a left and a right one, such as 1_left, and nothing keeps them together: "
            r"group=r'(?i)([^/]*)[ _-](?:left|right|od|os|l|r)\b'"]),
)

@pytest.mark.parametrize('case', readings)
def test_trees_are_read(tmp_path, case):
    names,kwargs,some,said = readings[case]
    data = from_folder_table(grow(tmp_path, *names), **kwargs)
    got = rows(data)
    assert some.items()<=got.items()
    assert [o for o in said if o not in data.notes]==[] and (said or not data.notes), data.notes
    for line in said: assert line in str(data)
    again(data)

refusals = dict(
    parts_and_more=(['train/a/1.png','val/a/2.png','extra/3.png'], {},
        "'train', 'val' look like parts, and 'extra' holds images too. If they are parts and the rest is left out, say "
        "which: parts={'train': 'train', 'valid': 'val'}. If all of them are classes: parts='none'."),
    misspelled=(['Trainn/a/1.png','test/a/2.png'], {}, "parts={'train': 'Trainn', 'test': 'test'}"),
    other_language=(['Ausbildung/a/1.png','Prüfung/a/2.png'], {}, "parts={'train': 'Ausbildung', 'test': 'Prüfung'}"),
    with_prefix=(['seg_train/a/1.png','seg_test/a/2.png'], {}, "parts={'train': 'seg_train', 'test': 'seg_test'}"),
    a_class_called_train=(['train/1.png','bus/2.png'], {}, "'train' looks like a part, and 'bus' holds images too"),
    some_inside=(['a/train/1.png','a/test/2.png','b/3.png'], {},
        "inside the classes 'test', 'train' look like parts, and other images lie beside them. If they are parts and "
        "the rest is left out: parts={'train': 'train', 'test': 'test'}. If they mean nothing: parts='none'"),
    no_classes=(['train/1.png','test/2.png'], {}, "'test', 'train' hold their images directly"),
    no_training_classes=(['train/1.png','test/a/2.png'], {}, "'train' holds its images directly"),
    yolo=(['train/images/1.png','train/labels/1.txt','val/images/2.png'], {},
          "'train', 'val' hold their images directly"),
    one_filler=(['images/1.png','labels.csv'], {}, "'images' holds its images directly"),
    one_folder=(['scans/p1/1.png','scans/p2/2.png'], {},
        "only the folder 'scans' has images, in its folders 'p1', 'p2'. If these are the classes, give the folder "
        "'scans' itself. If 'scans' is the only class: vocab=['scans']."),
    flat=(['1.png','labels.csv'], {}, "Got no subfolders, with 1 file left out: 1 .csv instead. If labels.csv has the "
        "labels, read it by from_csv."),
    masks_or_class=(['mask/1.png','bare/1.png'], {}, "If it is a class, name all classes: vocab=['mask', ...]"),
    wrong_part=(['train/a/1.png'], dict(parts=dict(train='Train')),
        "The 'parts' parameter of from_folder_table must name folders with images. Got 'Train' instead. Did you mean "
        "'train'"),
    unknown_key=(['train/a/1.png'], dict(parts=dict(training_set_b='x')), "must be a dict such as"),
    a_part_in_a_part=(['val/train/1.png','val/a/2.png'], {}, "inside a part there is 'train', named like a part"),
    words=(['mild/1.png','none/1.png'], dict(ordered=True),
        "must list the grades from low to high, as only numbers, such as 'grade 10', have an order. Copy this line and "
        "put the names of"),
)

@pytest.mark.parametrize('case', refusals)
def test_trees_are_refused(tmp_path, case):
    names,kwargs,words = refusals[case]
    with pytest.raises(ValueError, match=re.escape(words)): from_folder_table(grow(tmp_path, *names), **kwargs)

def test_what_an_error_proposes_reads_the_tree(tmp_path):
    root = grow(tmp_path, 'seg_train/a/1.png', 'seg_test/a/2.png', 'other/3.png')
    with pytest.raises(ValueError) as e: from_folder_table(root)
    proposed = yaml.safe_load(re.search(r'parts=(\{.*?\})', str(e.value))[1])
    assert rows(from_folder_table(root, parts=proposed))=={
        'seg_train/a/1.png': ('a','train'), 'seg_test/a/2.png': ('a','test')}
    assert from_folder_table(root, parts='none').vocab==['other','seg_test','seg_train']

# Links and permissions

def test_a_circle_of_links_ends(tmp_path):
    grow(tmp_path, 'a/1.png', 'b/2.png')
    (tmp_path/'b'/'up').symlink_to(tmp_path)
    (tmp_path/'self').symlink_to('self')
    data = from_folder_table(tmp_path)
    assert len(data)==2 and data.notes==['The link b/up leads back to a folder above it and is not followed.',
                                         'The link self leads to itself and is not followed.']

def test_one_folder_under_two_names_is_said(tmp_path):
    grow(tmp_path, 'a/1.png', 'b/2.png')
    (tmp_path/'c').symlink_to(tmp_path/'b')
    data = from_folder_table(tmp_path)
    assert data.vocab==['a','b','c'] and 'b and c are one folder: each of its images is counted twice.' in data.notes

def test_a_link_to_nowhere_is_an_image_that_is_missing(tmp_path):
    grow(tmp_path, 'a/1.png', 'b/2.png')
    (tmp_path/'b'/'3.png').symlink_to('gone.png')
    assert 'b/3.png' in {*from_folder_table(tmp_path).df.path}

def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    grow(tmp_path, 'a/1.png', 'b/2.png')
    scandir = os.scandir
    def refuse(path):
        if Path(path).name=='b': raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    words = f"needs folders that can be read, but '{tmp_path}/b' cannot be opened: Permission denied"
    with pytest.raises(ValueError, match=re.escape(words)): from_folder_table(tmp_path)

# What is an image

def test_suffixes_are_those_that_pillow_opens(tmp_path):
    names = ['1.jfif','2.JP2','3.pbm','4.tga','5.mpo','6.webp','7.dcm','8.avif']
    found = find_files(grow(tmp_path, *names, '9.eps', '10.pdf', '11.npy', '12.mpg', '13.h5', '14.fits'))
    assert found.images==sorted(names) and found.others.total()==6

def test_files_without_a_suffix_are_dicom_by_their_beginning(tmp_path):
    grow(tmp_path, 'a/1.png', 'b/README', 'b/1.2.840.7')
    for name in 'IM01','1.2.840.10008','DICOMDIR': (tmp_path/'b'/name).write_bytes(bytes(128)+b'DICM')
    found = find_files(tmp_path)
    assert found.images==['a/1.png','b/1.2.840.10008','b/IM01']
    assert found.left_out=='3 files left out: 3 without a suffix'

# Names

@pytest.mark.parametrize('names,said', [
    (['Nevus','nevus'], "Classes whose names differ only in case: 'Nevus', 'nevus'."),
    (['No Finding','no_finding'],
        "Classes whose names differ only in case, spaces or hyphens: 'No Finding', 'no_finding'."),
    (['benign','benign '], "Classes whose names differ only in case, spaces or hyphens: 'benign', 'benign '."),
    (['0','0.0','00'], "Classes whose names differ only in how a number is written: '0', '0.0', '00'."),
    (['a','\u200ba','\ufeffa','\u00ada'],
        "Classes whose names differ only in characters that are not shown: 'a', '\\u200ba', '\\ufeffa', '\\xada'."),
    (['A 1','\u200ba1'], "Classes whose names differ only in case, spaces or hyphens: 'A 1', '\\u200ba1'."),
    (['\u00e4','a\u0308'], "Classes whose names differ only in Unicode form: '\u00e4', 'a\u0308'."),
    (['NA','?','ok'], "Classes named like a missing label: 'NA', '?'."),
    (['a|b','c'], "Classes named like several labels: 'a|b'."),
    (['Mass','Effusion','Mass, Effusion'], "Classes named like several labels: 'Mass, Effusion'."),
])
def test_odd_names_of_classes_are_said(names, said): assert class_name_notes(names)==[said]

def test_names_that_are_not_odd():
    assert class_name_notes(['T-shirt/top','Shirt','-1','1','a,b','c-d','10'])==[]
    assert class_name_notes(['none','mild'], ordered=True)==[]

@pytest.mark.parametrize('names', [
    ['-1','0','10.0','11'], ['grade 2','Grade 9','grade 10'], ['stage_1','stage_2','stage_10'], ['G1','G3','G11'],
    ['T-1','T-2','T-10'], ['0,5','1,5','10'], ['\u22121','0','1']])
def test_numbers_order_grades(names):
    for mixed in names,names[::-1],sorted(names): assert class_names(mixed, None, True, 'f', 't')==names

@pytest.mark.parametrize('names', [
    ['none','mild'], ['I','II','V'], ['0','1+','2+'], ['0-1','2-3'], ['grade 1','stage 2'], ['T1a','T1b'], ['low','1']])
def test_other_grades_have_to_be_ordered(names):
    with pytest.raises(ValueError) as e: class_names(names, None, True, 'from_csv', 't.csv')
    line = re.search(r'vocab=(\[.*\])  # from low to high$', str(e.value))[1]
    assert class_names(names, yaml.safe_load(line), True, 'from_csv', 't.csv')==sorted(names)

# Any tree

folder_names = st.sampled_from([
    'train','Train','Training','val','dev','test','TEST','Testing','Trainn','holdout','images','masks','a','A','b','ill',
    'benign','extra','01_train','Prüfung','data'])
file_names = st.sampled_from([
    '1.png','2.jpg','3.PNG','1_mask.png','4.npy','5.nii.gz','notes.txt','x_left.png','.hid.png','Thumbs.db','IM01'])
trees = st.lists(st.tuples(st.lists(folder_names, max_size=4), file_names), min_size=1, max_size=14)

def counted(notes, word):
    "Images that notes count as left out"
    return sum(int(o.replace(',','')) for note in notes for o in re.findall(rf'^([\d,]+) {word}s? left out', note))

@settings(max_examples=300, deadline=None)
@given(tree=trees, empty=st.lists(st.lists(folder_names, min_size=1, max_size=2), max_size=3))
@example(tree=[([],'1.png'),(['masks','train'],'1.png')], empty=[])
def test_no_reading_that_is_not_told(tree, empty):
    root = Path(tempfile.mkdtemp())
    try:
        for folders,name in tree:
            path = root.joinpath(*folders, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for folders in empty: root.joinpath(*folders).mkdir(parents=True, exist_ok=True)
        files = [p for p in root.rglob('*') if p.is_file() and not p.name.startswith('.')]
        on_disk = {p.relative_to(root).as_posix() for p in files}
        images = {p for p in on_disk if is_image(p)}
        try: data = from_folder_table(root)
        except ValueError as e:
            assert re.match(r"from_folder_table needs|The 'folder' parameter of from_folder_table must", str(e)), e
            return
        read = {*data.df.path}
        assert read<=images and len(read)==len(data)
        left = counted(data.notes, 'image')+counted(data.notes, 'mask')
        assert len(read)+left==len(images)
        assert counted(data.notes, 'file')==len(on_disk-images-{p for p in on_disk if p.endswith('Thumbs.db')})
        assert not any(map(part_of, data.vocab))
        for path,(label,split) in rows(data).items():
            folders = path.split('/')[:-1]
            assert label in folders
            as_part = {o for o in folders if part_of(o)==split}
            told = [o for o in as_part if o==split or f'The folder {o} is read as the part {split!r}.' in data.notes]
            assert told or not split
    finally: shutil.rmtree(root)
