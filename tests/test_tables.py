"""Tables as people have them: header rows of published data sets and of a clinic's export, with made-up rows. Each is
read right, or refused in the words that are stated here; what an error proposes is tried."""

import re
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from PIL import Image

from fastai_balmix.datasets.cells import read_cells
from fastai_balmix.datasets.names import several_labels
from fastai_balmix.datasets.sources import read_data
from fastai_balmix.datasets.tables import from_csv

pixel = Image.new('L', (2,2))

def grow(root, *names):
    for name in names:
        path = root/name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixel.save(path, format='PNG')

def table(root, header, *rows, files=(), name='t.csv', sep=',', encoding='utf-8', end='\n'):
    "A table, and images"
    grow(root, *files)
    (root/name).write_bytes(end.join([header,*rows,'']).replace(',', sep).encode(encoding))
    return root/name

def again(data):
    other = read_data(yaml.safe_load(yaml.safe_dump(data.recipe)))
    assert (other.fingerprint,other.notes,other.recipe)==(data.fingerprint,data.notes,data.recipe)
    pd.testing.assert_frame_equal(other.df, data.df)

def refused(fn, words, **kwargs):
    with pytest.raises(ValueError, match=re.escape(words)) as e: from_csv(fn, **kwargs)
    return str(e.value)

def proposed(text):
    "Arguments that an error proposes"
    found = re.findall(r"\b(path|suffix|label|labels|root|group|split|fold|parts|missing_label|missing_group)="
                       r"('[^']*'|\[[^\]]*\]|\{[^}]*\})", text)
    res = {}
    for key,value in found: res.setdefault(key, yaml.safe_load(value.replace('\\\\', '\\')))
    return res

# Published tables

def ham(root, folder='', suffix='.jpg'):
    rows = [f"L{k//2},I{k},{('nv','mel','bkl')[k//2%3]},histo,{30+k if k else ''}.0,male,back" for k in range(12)]
    return table(root, 'lesion_id,image_id,dx,dx_type,age,sex,localization', *rows,
                 files=[f'{folder}I{k}{suffix}' for k in range(12)])

def test_ids_without_suffix(tmp_path):
    fn = ham(tmp_path)
    text = refused(fn, "needs a column 'path' in t.csv. There are: 'lesion_id', 'image_id', 'dx', 'dx_type', "
                "'age', 'sex', "
                   "'localization'. Try path='image_id', suffix='.jpg', label='dx'.")
    data = from_csv(fn, **proposed(text))
    assert data.vocab==['bkl','mel','nv'] and not data.missing
    assert {'lesion_id','age','sex','localization'}<={*data.df} and data.df.age[3]=='33.0'
    assert data.notes==["'lesion_id' looks like patients and is not used (6 for 12 images): group='lesion_id' "
                "keeps images "
                        'together.']
    again(data)
    assert from_csv(fn, **proposed(text), group='lesion_id').groups.tolist()==[f'L{k//2}' for k in range(12)]

def test_images_in_another_folder(tmp_path):
    fn = ham(tmp_path, 'images/')
    data = from_csv(fn, **proposed(refused(fn, f"Try path='image_id', root='{tmp_path}/images', suffix='.jpg'")))
    assert not data.missing and data.root==tmp_path/'images'
    again(data)

def test_images_in_several_folders(tmp_path):
    fn = ham(tmp_path)
    for k in range(12):
        (tmp_path/f'part{k%2}').mkdir(exist_ok=True)
        (tmp_path/f'I{k}.jpg').rename(tmp_path/f'part{k%2}'/f'I{k}.jpg')
    data = from_csv(fn, path='image_id', label='dx', suffix='.jpg')
    assert not data.missing and data.df.path[1]=='part1/I1.jpg'
    assert '12 paths are found by their names in other folders, such as part0/I0.jpg for I0.jpg.' in data.notes
    grow(tmp_path, 'more/I3.jpg')
    refused(fn, "'I0.jpg', and 'part0/I0.jpg' is there", path='image_id', label='dx', suffix='.jpg')

classes = ['MEL','NV','BCC']

def isic(root, *odd):
    rows = [f"I{k},{','.join('1.0' if j==k%3 else '0.0' for j in range(3))}" for k in range(9)]
    return table(root, 'image,MEL,NV,BCC', *rows, *odd, files=[f'I{k}.jpg' for k in range(12)])

def test_one_column_for_each_class(tmp_path):
    fn = isic(tmp_path)
    text = refused(fn, "Try path='image', suffix='.jpg', labels=['MEL', 'NV', 'BCC'].")
    data = from_csv(fn, **proposed(text))
    assert data.vocab==classes and data.df.label.tolist()==classes*3 and [*data.df]==['path','label']
    again(data)

@pytest.mark.parametrize('yes,no', [('1','0'), ('True','False'), ('yes','no'), ('x','')])
def test_yes_and_no_have_several_words(tmp_path, yes, no):
    rows = [f"I{k},{','.join(yes if j==k%3 else no for j in range(3))}" for k in range(6)]
    fn = table(tmp_path, 'path,MEL,NV,BCC', *rows)
    assert from_csv(fn, labels=classes).df.label.tolist()==classes*2

def test_rows_with_several_and_with_none(tmp_path):
    fn = isic(tmp_path, 'I9,1.0,1.0,0.0', 'I10,0.0,0.0,0.0', 'I11,1.0,0.0,1.0')
    asked = dict(path='image', suffix='.jpg', labels=classes)
    text = refused(fn, "one label in each row, but t.csv has 2 rows with several and 1 with none in the columns "
                "of labels, "
                   "such as rows 11, 12, 13. More than one label an image is not yet supported by compare; the "
                   "callback "
                   "supports it. To leave these rows out: missing_label='drop'.", **asked)
    data = from_csv(fn, **asked, **proposed(text))
    assert len(data)==9 and data.notes==['t.csv: rows left out: 1 without a label, 2 with several labels.']
    again(data)

def test_columns_of_labels_in_disorder(tmp_path):
    fn = isic(tmp_path, 'I9,2,0.0,0.0')
    refused(fn, "0 or 1 in the columns of labels, but t.csv, column 'MEL', row 11, has "
                "'2'", path='image', labels=classes)
    refused(fn, "'label' parameter of from_csv must be left out if `labels` is given. Got 'NV'", label='NV',
            labels=classes)
    refused(fn, "'labels' parameter of from_csv must be a list of columns", path='image', labels='MEL')
    refused(fn, "needs a column 'NW' in t.csv. Did you mean 'NV'?", path='image', labels=['MEL','NW'])

def test_several_labels_in_one_cell(tmp_path):
    values = ['No Finding','Effusion','Effusion|Mass','Mass|Effusion','Emphysema|Infiltration','Mass']
    rows = [f'{k}.png,{v},{k//2}' for k,v in enumerate(values)]
    fn = table(tmp_path, 'Image Index,Finding Labels,Patient ID', *rows, files=[f'{k}.png' for k in range(6)])
    asked = dict(path='Image Index', label='Finding Labels', group='Patient ID')
    text = refused(fn, "t.csv, column 'Finding Labels', has several in 3 rows, such as 'Effusion|Mass' in row 4. "
                "More than "
                   "one label an image is not yet supported by compare", **asked)
    data = from_csv(fn, **asked, **proposed(text))
    assert data.vocab==['Effusion','Mass','No Finding']
    assert data.notes==['t.csv: rows left out: 3 with several labels.']
    again(data)
    assert len(from_csv(fn, **asked, vocab=[*values]))==6

@pytest.mark.parametrize('labels,several', [
    (['a','b','a|b'], ['a|b']), (['a|b','c'], []), (['a;b','b;a','c'], ['a;b','b;a']), (['a','b','a, b'], ['a, b']),
    (['a','a, b'], []), (['x|y','x|z','p|q'], ['x|y','x|z','p|q'])])
def test_what_is_several_labels(labels, several): assert several_labels(labels)==several

def covid(root):
    labels = ['COVID','Pneumonia','']
    names = [f'c{k}.{("jpg","JPG")[k%2]}' for k in range(9)]
    rows = [f'{k//2},M,{labels[k%3]},"January {k}, 2020",images,{o},"a note, with",' for k,o in enumerate(names)]
    return table(root, 'patientid,sex,finding,date,folder,filename, clinical notes,', *rows,
                 files=[f'images/{o}' for o in names])

def test_trailing_columns_quoted_commas_and_rows_without_a_label(tmp_path):
    fn = covid(tmp_path)
    asked = dict(path='filename', label='finding', group='patientid', root=tmp_path/'images')
    text = refused(fn, "a label in each row, but t.csv, column 'finding', has none in 3 of 9 rows: rows 4, 7, 10 "
                "(the "
                   "header is row 1). To leave these rows out: missing_label='drop'.", **asked)
    data = from_csv(fn, **asked, **proposed(text))
    assert len(data)==6 and data.df['clinical notes'][0]=='a note, with' and not data.missing
    assert data.notes==['t.csv: rows left out: 3 without a label.']
    again(data)

def test_numbers_as_ids_behind_a_mark(tmp_path):
    fn = table(tmp_path, 'ID,Disease_Risk,DR,MH', *(f'{k},{k%2},{k%2},0' for k in range(1,5)), encoding='utf-8-sig',
               end='\r\n', files=[f'{k}.png' for k in range(1,5)])
    data = from_csv(fn, **proposed(refused(fn, "Try path='ID', suffix='.png', label='Disease_Risk'")))
    assert data.vocab==['0','1'] and {'DR','MH'}<={*data.df} and not data.missing

def test_two_eyes_of_a_patient(tmp_path):
    names = [f'{p}_{side}' for p in range(10,16) for side in ('left','right')]
    fn = table(tmp_path, 'image,level', *(f'{o},{k%5}' for k,o in enumerate(names)), files=[f'{o}.jpeg' for o in names])
    asked = dict(path='image', label='level', suffix='.jpeg', ordered=True)
    note, = from_csv(fn, **asked).notes
    assert note.startswith('6 pairs of images are named as a left and a right one, such as 10_left')
    said = re.search(r"group=r'(.*)'", note)[1]
    for group in r'(\d+)_',said:
        data = from_csv(fn, **asked, group=group)
        assert data.vocab==[*'01234'] and data.groups.tolist()==[o[:2] for o in names] and not data.notes
        again(data)

def test_grades_written_as_floats(tmp_path):
    fn = table(tmp_path, 'path,label', *(f'{k}.png,{v}' for k,v in enumerate(['0.0','10.0','2.0','11.0'])))
    assert from_csv(fn, ordered=True).vocab==from_csv(fn).vocab==['0.0','2.0','10.0','11.0']

@pytest.mark.parametrize('sign', [',','.'])
def test_thousands_are_no_decimals(tmp_path, sign):
    def read(*labels):
        rows = [f'{k}.png;{v}' for k,v in enumerate(o.replace(',', sign) for o in labels)]
        fn = table(tmp_path, 'path;label', *rows)
        return from_csv(fn, ordered=True).vocab
    for labels in ('500','1,000','2,000'),('dose 2','dose 1,000'):
        with pytest.raises(ValueError, match=rf"as '(dose )?1\{sign}000' can be read in two ways. Copy .* low to high"):
            read(*labels)
    for labels in ('0,500','1,000','2'),('1,125','2,5'),('1,000','2,000','10,000'),('0,125','0,250'):
        assert read(*labels)==[o.replace(',', sign) for o in labels]

# A clinic's export

grades = ['unauffällig','gering','mäßig','schwer']

def klinik(root):
    names = [rf'Bilder\P{k//2}\{k}.JPG' for k in range(12)]
    rows = [f'{o},{grades[k%4]},P{k//2},{"Training" if k<8 else "Prüfung"},"0,5"' for k,o in enumerate(names)]
    return table(root, 'Datei,Befund,Patient,Teil,Wert', *rows, sep=';', encoding='cp1252', end='\r\n',
                 files=[o.replace('\\','/') for o in names])

def test_what_is_not_said_is_asked_for(tmp_path):
    fn = klinik(tmp_path)
    asked = proposed(refused(fn, "Try path='Datei', label='Befund'."))
    text = refused(fn, "needs its parts named, but t.csv, column 'Teil', has 'Training' (8 images), 'Prüfung' (4) and "
                   "is not used. To use it: split='Teil', parts={'train': 'Training', 'test': 'Prüfung'}. To do "
                   "without: split='none'.", **asked)
    asked |= proposed(text)
    refused(fn, "parts to train on and to test on, but t.csv, column 'Teil', has 'Training' (8 images), "
                "'Prüfung' (4). Say "
            "which is which: parts={'train': 'Training', 'test': 'Prüfung'}.", **{**asked, 'parts': None})
    refused(fn, "Copy this line and put the names of t.csv, column 'Befund' in order: vocab=['gering', 'mäßig', "
                "'schwer', "
            "'unauffällig']  # from low to high", **asked, ordered=True)
    data = from_csv(fn, **asked, ordered=True, vocab=grades, group='Patient')
    assert data.vocab==grades and not data.missing and data.df.split.tolist()==['train']*8+['test']*4
    assert data.notes==[
        "t.csv is not UTF-8 and is read as cp1252, such as 'unauffällig'.",
        r'12 paths are written with \ and read with /, such as Bilder/P0/0.JPG for Bilder\P0\0.JPG.',
        "t.csv, column 'Teil': 'Training' is read as 'train', 'Prüfung' is read as 'test'."]
    again(data)
    without = from_csv(fn, path='Datei', label='Befund', split='none')
    assert 'split' not in without.df and 'Teil' in without.df

@pytest.mark.parametrize('encoding', ['utf-8','utf-8-sig','utf-16','utf-32','cp1252'])
@pytest.mark.parametrize('sep', [',',';','\t','|'])
def test_encodings(tmp_path, encoding, sep):
    fn = table(tmp_path, 'path,label,x', 'a.png,mäßig,"1"', 'b.png,gut,"2"', sep=sep, encoding=encoding)
    data = from_csv(fn)
    assert data.vocab==['gut','mäßig']
    assert data.notes==(["t.csv is not UTF-8 and is read as cp1252, such as 'mäßig'."] if encoding=='cp1252' else [])

def test_excel_and_parquet(tmp_path):
    df = pd.DataFrame(dict(path=['a.png','b.png'], label=[0,1], ok=[True,None], age=[1.5,None]))
    with pd.ExcelWriter(tmp_path/'t.xlsx') as f:
        df.to_excel(f, sheet_name='Images', index=False)
        df.to_excel(f, sheet_name='Old', index=False)
    df.to_parquet(tmp_path/'t.parquet')
    a,b = from_csv(tmp_path/'t.xlsx'),from_csv(tmp_path/'t.parquet')
    assert a.fingerprint==b.fingerprint and a.vocab==['0','1'] and a.df.age.tolist()==['1.5','']
    assert a.notes==["t.xlsx has 2 sheets; the first is read, 'Images'."] and not b.notes
    again(a)
    again(b)

@pytest.mark.parametrize('stated', ['A1:C7','A1:B13','A1'])
def test_cells_beyond_the_stated_size_of_a_sheet(tmp_path, stated):
    openpyxl = pytest.importorskip('openpyxl')
    book = openpyxl.Workbook()
    book.active.append(['path','label','patient'])
    for k in range(12): book.active.append([f'{k}.png','ab'[k%2],f'p{k}'])
    book.save(tmp_path/'x.xlsx')
    with zipfile.ZipFile(tmp_path/'x.xlsx') as old, zipfile.ZipFile(tmp_path/'y.xlsx', 'w') as new:
        for o in old.namelist():
            size = f'<dimension ref="{stated}"/>'.encode()
            new.writestr(o, re.sub(rb'<dimension ref="[^"]*" */>', size, old.read(o)))
    df,_ = read_cells(tmp_path/'y.xlsx', 'f')
    assert df.patient.tolist()==[f'p{k}' for k in range(12)]

def test_cells_of_parquet_that_are_no_text(tmp_path):
    pa,pq = (pytest.importorskip(o) for o in ('pyarrow','pyarrow.parquet'))
    def labels(values):
        pq.write_table(pa.table(dict(path=[f'{k}.png' for k in range(4)], label=values)), tmp_path/'p.parquet')
        return read_cells(tmp_path/'p.parquet', 'f')[0].label.tolist()
    grow(tmp_path, *(f'{k}.png' for k in range(4)))
    assert labels([['x','y'],['y'],['x'],['x']])==['x|y','y','x','x']
    refused(tmp_path/'p.parquet', "has several in 1 rows, such as 'x|y' in row 2")
    assert labels([b'x',b'y',b'x',None])==['x','y','x','']
    assert labels([1.,2.,float('nan'),1.])==['1','2','','1']

def test_a_column_that_is_there_twice(tmp_path):
    files = [f'{k}.png' for k in range(4)]
    def twice(header, row): return table(tmp_path, header, *(row(k) for k in range(4)), files=files)
    fn = twice('path,label,label', lambda k: f"{k}.png,{'ab'[k%2]},{'cd'[k%2]}")
    refused(fn, "from_csv needs a single column 'label', but t.csv has 2 of this name with different values.")
    fn = twice('path,a,a,b', lambda k: f'{k}.png,{k%2},{1-k%2},{1-k%2}')
    refused(fn, "from_csv needs a single column 'a'", labels=['a','b'])
    fn = twice('path,label,age,age', lambda k: f"{k}.png,{'ab'[k%2]},{k},9")
    assert from_csv(fn).notes==["t.csv has 2 columns 'age' with different values. The first keeps its name, the others "
                                "are read as 'age (2)'."]
    same = twice('path,label,label', lambda k: f"{k}.png,{'ab'[k%2]},{'ab'[k%2]}")
    assert not from_csv(same).notes

def test_a_quotation_mark_that_stands_alone_is_told(tmp_path):
    def noted(k): return '"' if k in (3,6) else ''
    fn = table(tmp_path, 'path,label,note', *(f"{k}.png,{'ab'[k%2]},{noted(k)}" for k in range(12)),
               files=[f'{k}.png' for k in range(12)])
    data = from_csv(fn)
    assert len(data)==9 and data.notes==['t.csv: a cell of row 5 holds lines between two quotation marks that look '
                                         'like rows (2). If they are rows, remove these marks.']

@pytest.mark.parametrize('package,name', [('openpyxl','t.xlsx'), ('pyarrow','t.parquet')])
def test_a_package_that_is_not_installed(tmp_path, monkeypatch, package, name):
    (tmp_path/name).write_bytes(dict(openpyxl=b'PK\x03\x04', pyarrow=b'PAR1')[package])
    for o in [o for o in sys.modules if o.partition('.')[0]==package]: monkeypatch.delitem(sys.modules, o)
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path/name, f'needs the package {package} to read {name}: pip install {package}')

@pytest.mark.parametrize('content,words', [
    (b'\xd0\xcf\x11\xe0old', 'it is an old Excel file. Save it as .xlsx'), (b'\x1f\x8bx', 'it is compressed'),
    (b'PK\x03\x04x', 'cannot read t.csv as a table'), ('path,label'.encode('utf-16-le'), 'it holds zero bytes'),
    (b'\x81\x8d', 'it is neither UTF-8 nor cp1252'), (b'path,label\n"x,a\n', 'unexpected end of data'),
    (b'path,label\nx,a,b\n', 'row 2 has 3 cells, and the header 2'),
    (b'a.png,cat\nb.png,dog\n', 'Put a row with names of')])
def test_files_that_are_no_tables(tmp_path, content, words):
    (tmp_path/'t.csv').write_bytes(content)
    refused(tmp_path/'t.csv', words)

def test_columns_are_named_once_and_rows_counted_as_in_a_spreadsheet(tmp_path):
    fn = tmp_path/'t.csv'
    fn.write_text('sep=;\nid;id;;x y ;\n1;2;3;4;\n\n5;6;7\n')
    df,notes = read_cells(fn, 'f')
    assert [*df]==['id','id (2)','column 3','x y'] and df.index.tolist()==[2,4]
    assert notes==["t.csv has 2 columns 'id' with different values. The first keeps its name, the others are read as "
                   "'id (2)'."]
    assert df.loc[4].tolist()==['5','6','7','']

# Parts and folds

def parted(root, head, values):
    return table(root, f'path,label,{head}', *(f'{k}.png,{"ab"[k%2]},{v}' for k,v in enumerate(values)))

@pytest.mark.parametrize('head,values,how', [
    ('split', ['train','test'], dict(split='split')), ('Usage', ['Training','PublicTest'], dict(split='Usage')),
    ('set', ['x','y'], dict(split='set')), ('where', ['Train','dev'], dict(split='where')),
    ('is_train', ['0','1'], dict(split='is_train')),
    ('fold', ['1','2'], dict(fold='fold')), ('cv_fold', ['0','1'], dict(fold='cv_fold'))])
def test_a_column_of_parts_that_is_not_used(tmp_path, head, values, how):
    fn = parted(tmp_path, head, values*3)
    text = refused(fn, f"column '{head}', has")
    (name,column), = how.items()
    assert f"{name}='{column}'" in text and f"{name}='none'" in text
    data = from_csv(fn, **{name: 'none'})
    assert 'split' not in data.df and 'fold' not in data.df and len(data)==6
    if head in ('split','fold'): assert data.df[f'table_{head}'].tolist()==values*3
    again(data)
    if name=='fold': assert from_csv(fn, **how).folds==[1,2]

def test_both_a_split_and_a_fold(tmp_path):
    fn = table(tmp_path, 'path,label,split,fold', *(f'{k}.png,a,{("train","test")[k%2]},{k%2}' for k in range(4)))
    text = refused(fn, "column 'split', has")
    assert "split='split'" in text and "fold='fold'" in text
    assert from_csv(fn, fold='fold').folds==[1,2]
    assert from_csv(fn, split='split').df.split.tolist()==['train','test']*2
    refused(fn, "column 'fold', has folds", split='none')
    assert 'split' not in from_csv(fn, split='none', fold='none').df

@pytest.mark.parametrize('head,values', [
    ('dx_type', ['histo','follow_up']), ('view', ['PA','AP']), ('where', ['train','train']),
    ('part', [*'abcdefghijklmnopqrstuvw'])])
def test_columns_that_are_no_parts(tmp_path, head, values): assert not from_csv(parted(tmp_path, head, values)).notes

def test_parts_that_nobody_knows_are_listed(tmp_path):
    fn = parted(tmp_path, 'part', ['train','train','val','Testt','holdout','x'])
    data = from_csv(fn, split='part')
    assert data.df.split.tolist()==['train','train','valid','Testt','holdout','x']
    assert data.notes[0]==(
        "t.csv, column 'part': unused parts: 'Testt' (1 image), 'holdout' (1), 'x' (1). To use more: parts={'train': "
        "'train', 'valid': 'val', 'test': ['Testt', 'holdout']}.")
    assert data.notes[0] in str(data)
    told = from_csv(fn, split='part', parts=dict(train='train', valid='val', test=['Testt','holdout']))
    assert told.df.split.tolist()==['train','train','valid','test','test','x']
    assert "unused parts: 'x' (1 image)." in told.notes[0]
    again(told)

@pytest.mark.parametrize('parts', [dict(train='train', test='val'), dict(train='A', test='B')])
def test_a_part_that_is_not_named_is_not_used(tmp_path, parts):
    other = 'test' if 'A' not in parts.values() else 'train'
    values = [*parts.values(),other]
    fn = table(tmp_path, 'path,label,split', *(f"{k}.png,{'ab'[k//3%2]},{values[k%3]}" for k in range(18)),
               files=[f'{k}.png' for k in range(18)])
    data = from_csv(fn, split='split', parts=parts)
    rows = data.parts(select=.4)
    assert not {*np.concatenate([*rows.values()]).tolist()} & {*range(2, 18, 3)}
    assert rows['report'].tolist()==[*range(1, 18, 3)]
    assert any(f'unused parts: {other!r} (6 images)' in o for o in data.notes)

def test_no_part_to_train_on(tmp_path):
    fn = parted(tmp_path, 'part', ['Trainn','Trainn','test'])
    text = refused(fn, "has 'Trainn' (2 images), 'test' (1). Say which is which: parts={'train': 'Trainn', "
                "'test': 'test'}",
                   split='part')
    assert from_csv(fn, split='part', **proposed(text)).df.split.tolist()==['train','train','test']
    fn = parted(tmp_path, 'split', ['0','1'])
    refused(fn, "Say which is which: parts={'train': ..., 'test': ...}.", split='split')
    assert from_csv(fn, split='split', parts=dict(train=0, test=1)).df.split.tolist()==['train','test']
    fn = parted(tmp_path, 'part', ['Trainn','Trainn','test'])
    refused(fn, "must name values of t.csv, column 'part'. Got 'train' "
                "instead", split='part', parts=dict(train='train'))
    refused(fn, "'parts' parameter of from_csv must be None unless `split` names "
                "a column", parts=dict(train='Trainn'))

# Patients

@pytest.mark.parametrize('head', [
    'patient','Patient ID','PatientID','subject_id','lesion','case_id','Pat.','person','eye_id'])
def test_columns_that_look_like_patients(tmp_path, head):
    note, = from_csv(parted(tmp_path, head, ['p','p','q'])).notes
    assert note.startswith(f"'{head}' looks like patients and is not used (2 for 3 images): group='{head}'")

@pytest.mark.parametrize('head', ['Patient Age','patient_sex','lesion_type','image'])
def test_columns_that_do_not(tmp_path, head): assert not from_csv(parted(tmp_path, head, ['p','p','q'])).notes

@pytest.mark.parametrize('lost', ['','NA','unknown'])
def test_a_missing_patient(tmp_path, lost):
    fn = parted(tmp_path, 'patient', ['p','p',lost,lost])
    text = refused(fn, "a group in each row, but t.csv, column 'patient', has none in 2 of 4 rows: rows 4, "
                "5", group='patient')
    data = from_csv(fn, group='patient', **proposed(text))
    assert len({*data.groups})==3
    again(data)

# Paths

@pytest.mark.parametrize('path,file,words', [
    ('im/X.PNG', 'im/x.png', 'Names differ in case'), ('IM/x.png', 'im/x.png', 'Names differ in case'),
    ('im/x', 'im/x.png', "To read it: suffix='.png'."), ('im/x.jpg', 'im/x.png', "To read it: suffix='.png'."),
    ('im/7', 'im/007.png', 'leading zeros'), ('im/7.0', 'im/7.png', 'zeros or decimals'),
    ('im/p1_2.png', 'im/p01_02.png', 'leading zeros'),
    ('x.png', 'deep/down/x.png', "To read it: root='{root}/deep/down'."), ('x', 'im/x.png', "root='{root}/im', "
                "suffix='.png'"),
])
def test_the_file_that_is_there_is_named(tmp_path, path, file, words):
    fn = table(tmp_path, 'path,label', f'{path},a', files=[file])
    text = refused(fn, f"of t.csv, column 'path', 1 of 1 are not there. Row 2 has '{path}', and '{file}' is there. ")
    assert words.format(root=tmp_path) in text
    if '=' in words: assert not from_csv(fn, **proposed(text)).missing

def test_paths_that_start_above_the_table(tmp_path):
    fn = table(tmp_path/'im', 'path,label', 'im/x.png,a', files=['x.png'])
    assert not from_csv(fn, **proposed(refused(fn, f"To read it: root='{tmp_path}'."))).missing

def test_accents_as_one_sign_or_two(tmp_path):
    fn = table(tmp_path, 'path,label', 'a\u0308/\u00e4.png,a', files=['\u00e4/a\u0308.png'])
    data = from_csv(fn)
    assert not data.missing and 'differ from the files in Unicode form only' in data.notes[0]
    again(data)

def test_files_that_are_missing_and_not_near_are_listed(tmp_path):
    fn = table(tmp_path, 'path,label', 'a/x.png,a', 'b/y.png,b', files=['a/x.png','c/y.png'])
    assert from_csv(fn).missing==['b/y.png']

def test_columns_beside_those_that_are_asked_for(tmp_path):
    rows = [f'{k},x,g{k},0{k},{k}.png,{"ab"[k%2]}' for k in range(4)]
    fn = table(tmp_path, 'path,label,group,age,real path,real label', *rows)
    data = from_csv(fn, path='real path', label='real label')
    assert [*data.df]==['path','label','table_path','table_label','table_group','age'] and data.df.age[1]=='01'
    assert data.notes[0]=='Columns renamed: path is table_path, label is table_label, group is table_group.'
    again(data)

def test_a_recipe_stays_small(tmp_path):
    fn = table(tmp_path, 'path,label', 'x.png,a')
    assert not {'labels','parts','missing_label','missing_group','range','frame','background'} & {*from_csv(fn).recipe}

# Any cells

cell = st.text(st.characters(codec='utf-8', exclude_characters='\0\r\n"'), max_size=6).map(str.strip)

@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(cell, cell), min_size=1, max_size=6), sep=st.sampled_from(',;\t|'))
def test_cells_are_read_as_they_were_written(tmp_path_factory, rows, sep):
    fn = tmp_path_factory.mktemp('t')/'t.csv'
    pd.DataFrame(rows, columns=['a','b']).to_csv(fn, sep=sep, index=False, lineterminator='\n')
    wanted = [[a.strip(),b.strip()] for a,b in rows if a.strip() or b.strip()]
    try: df,_ = read_cells(fn, 'f', ['a','b'])
    except ValueError as e: assert not wanted and 'cannot read' in str(e)
    else: assert df.to_numpy().tolist()==wanted
