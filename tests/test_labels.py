"""Labels of fastai's `Datasets` are read by a shorter route than fastai's own, so here is that both come to the same,
for every form in use and for pipelines made to mislead the shorter one: with states, chance, subclasses, methods added
later. How much shorter it is, is counted, not timed."""
import random
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
import toys  # noqa: F401 # hypothesis' profile
from fastai.vision.all import (
    Categorize,
    CategoryBlock,
    ColReader,
    DataBlock,
    Datasets,
    ImageDataLoaders,
    IndexSplitter,
    ItemGetter,
    ItemTransform,
    PILImage,
    RegexLabeller,
    TensorCategory,
    TfmdDL,
    TfmdLists,
    TransformBlock,
    parent_label,
)
from fasttransform import Pipeline, Transform
from hypothesis import example, given, strategies as st

from fastai_balmix.datasets.table import ImageData
from fastai_balmix.loaders.labels import train_labels

Y = [1,0,2,2,0,1,0,2]*6
NAMES = ['ant','bee','cat']
LABELS = [NAMES[y] for y in Y]
FILES = [Path('data')/NAMES[y]/f'{NAMES[y]}_{i}.png' for i,y in enumerate(Y)]

def unopened(o, **kwargs): raise AssertionError('an image was opened')

def noimage(): return lambda o: torch.zeros(1)
def datasets(items, *tfms, **kwargs): return Datasets(items, [[noimage()],list(tfms)], **kwargs)
def named(**kwargs): return Categorize(vocab=NAMES, **kwargs)
def in_order(vocab): return Categorize(vocab=vocab, sort=False)

def block(items, y_block=CategoryBlock, **kwargs):
    "Training set of a `DataBlock`"
    blocks = TransformBlock(type_tfms=noimage()),y_block
    return DataBlock(blocks, splitter=IndexSplitter([len(items)-1]), **kwargs).datasets(items).train

def column(df, name, then=None, y_block=CategoryBlock, **kwargs):
    "Training set with labels in a column of `df`, made into others by `then`"
    read = ColReader(name, **kwargs)
    return block(df, y_block, get_y=read if then is None else Pipeline([read,then]))

def by_us(ds, labels=None): return train_labels(TfmdDL(ds, bs=1, num_workers=0), labels)

def by_fastai(ds):
    "Labels of `ds`, with fastai left to make them one after the other; the first once more, as it is looked at before"
    tl = ds.tls[-1]
    tl[0]
    return by_us(ds, [int(o) for o in tl])

def outcome(f):
    "What `f` returns, or how it fails"
    try: res = f()
    except Exception as e: return type(e),str(e)
    return res.dtype,res.tolist()

def assert_same(make):
    "Both routes, each over a data set of its own, as some keep a state"
    expected,got = (outcome(lambda: f(make())) for f in (by_fastai,by_us))
    assert got==expected
    return got

def frame(**more):
    cols = dict(file=[str(o) for o in FILES], label=LABELS, number=Y, odd=[y%2==1 for y in Y], **more)
    return pd.DataFrame(cols, index=range(100, 100+len(Y)))

@pytest.fixture
def pngs(tmp_path):
    "The same files, there to be found and opened"
    for o in FILES:
        (tmp_path/o.parent).mkdir(parents=True, exist_ok=True)
        PILImage.create(np.zeros((2,2,3), dtype=np.uint8)).save(tmp_path/o)
    return tmp_path

# --- forms in use ---

def name_of(o): return o.name.split('_')[0]
def annotated(o:Path)->str: return o.parent.name

class Caller:
    "A function that is an object"
    def __call__(self, o): return o.parent.name

def from_columns():
    blocks = TransformBlock(type_tfms=noimage()),CategoryBlock
    return DataBlock.from_columns(blocks, splitter=IndexSplitter([0])).datasets((FILES,LABELS)).train

def image_dls(source, *args, **kwargs):
    return getattr(ImageDataLoaders, f'from_{source}')(*args, seed=0, bs=2, num_workers=0, **kwargs)

forms = {
    'parent_label': lambda: block(FILES, get_y=parent_label),
    'RegexLabeller': lambda: block(FILES, get_y=RegexLabeller(r'(\w+)_\d+\.png$')),
    'function': lambda: block(FILES, get_y=name_of),
    'lambda': lambda: block(FILES, get_y=lambda o: o.parent.name),
    'annotated': lambda: block(FILES, get_y=annotated),
    'object': lambda: block(FILES, get_y=Caller()),
    'paths as text': lambda: block([str(o) for o in FILES], get_y=parent_label),
    'two functions': lambda: block(FILES, get_y=Pipeline([name_of, str.upper])),
    'pairs': lambda: block([*zip(FILES, LABELS)], getters=[ItemGetter(0),ItemGetter(1)]),
    'pairs of ints': lambda: block([*zip(FILES, Y)], getters=[ItemGetter(0),ItemGetter(1)]),
    'pairs as lists': lambda: block([[o,y] for o,y in zip(FILES, Y)], getters=[ItemGetter(0),ItemGetter(-1)]),
    'columns': from_columns,
    'from_lists': lambda: image_dls('lists', '.', [np.zeros((2,2,3), dtype=np.uint8)]*len(Y), LABELS).train_ds,
    'ColReader, name': lambda: column(frame(), 'label'),
    'ColReader, number': lambda: column(frame(), 2),
    'ColReader, from the end': lambda: column(frame(), -3),
    'ColReader, bools': lambda: column(frame(), 'odd'),
    'ColReader, objects': lambda: column(frame().astype(object), 'label'),
    'ColReader, text only': lambda: block(frame()[['file','label']], get_y=ColReader('label')),
    'ColReader, numbers only': lambda: column(frame()[['number']].assign(share=.5), 'number'),
    'ColReader, no header': lambda: column(frame().set_axis(range(4), axis=1), 1),
    'ColReader, duplicate names, by number': lambda: column(frame().set_axis(['label']*4, axis=1), 1),
    'mid-level': lambda: datasets(range(len(Y)), lambda i: NAMES[Y[i]], Categorize()),
    'mid-level, a set of the splits': lambda: datasets(FILES, parent_label, Categorize(), splits=[[3,1,2],[0]]).train,
    'vocab': lambda: block(FILES, CategoryBlock(vocab=['cat','ant','bee'], sort=False), get_y=parent_label),
    'add_na': lambda: block(FILES, CategoryBlock(add_na=True), get_y=parent_label),
}

class Looked(dict):
    "A vocabulary that counts how often it is asked"
    times = 0
    def __getitem__(self, o):
        self.times += 1
        return super().__getitem__(o)

@pytest.mark.parametrize('form', forms)
def test_labels_are_fastais(form):
    kind,y = assert_same(forms[form])
    assert kind==np.int64 and len({*y})>1

@pytest.mark.parametrize('form', [o for o in forms if o!='add_na'])
def test_each_label_is_looked_up_once(form):
    ds = forms[form]()
    vocab = ds.tls[-1].tfms.fs[-1].vocab
    vocab.o2i = seen = Looked(vocab.o2i)
    expected = by_fastai(ds)
    assert seen.times==1+len(ds)
    seen.times = 0
    assert by_us(ds).tolist()==expected.tolist()
    # The first is looked at before, to see what the task is
    assert seen.times<=1+len({*expected})

@pytest.mark.parametrize('form', [o for o in forms if o.startswith('ColReader')])
def test_a_column_is_read_by_one_row_for_each_label(form, monkeypatch):
    ds,rows,real = forms[form](),[],ColReader.__call__
    def noted(self, o, **kwargs):
        rows.append(o)
        return real(self, o, **kwargs)
    monkeypatch.setattr(ColReader, '__call__', noted)
    y = by_us(ds)
    assert 1<len(rows)<=1+len({*y.tolist()})

def files_in(path): return [path/o for o in FILES]
def of_image_data(path):
    df = pd.DataFrame(dict(path=[o.as_posix() for o in FILES], label=LABELS, split=['train']*40+['valid']*8))
    return ImageData(df, NAMES, root=path).dataloaders(size=2, bs=2, num_workers=0)

sources = dict(
    from_folder=lambda path: image_dls('folder', path, valid_pct=.2),
    from_path_func=lambda path: image_dls('path_func', path, files_in(path), parent_label),
    from_name_func=lambda path: image_dls('name_func', path, files_in(path), lambda o: o.split('_')[0]),
    from_name_re=lambda path: image_dls('name_re', path, files_in(path), r'^(\w+)_'),
    from_df=lambda path: image_dls('df', frame(), path),
    ImageData=of_image_data,
)

@pytest.mark.parametrize('make', sources.values(), ids=sources)
def test_no_image_is_opened(make, pngs, monkeypatch):
    dls = make(pngs)
    vocab = dls.train_ds.tls[-1].tfms.fs[-1].vocab
    vocab.o2i = seen = Looked(vocab.o2i)
    with monkeypatch.context() as m:
        m.setattr('PIL.Image.open', unopened)
        with pytest.raises(AssertionError, match='an image was opened'): dls.train_ds[0]
        seen.times = 0
        got = train_labels(dls.train)
    assert seen.times<=4
    assert got.tolist()==by_fastai(dls.train_ds).tolist()

# --- pipelines that would mislead ---

class Counter:
    "Gives a label by how often it was called"
    def __init__(self): self.n = -1
    def __call__(self, o):
        self.n += 1
        return NAMES[self.n*self.n%7%3]

class Rolls:
    "Gives labels by chance"
    def __init__(self): self.rng = random.Random(0)
    def __call__(self, o): return self.rng.choice(NAMES)

class Moody(Categorize):
    "Numbers an item differently each time"
    def encodes(self, o:str):
        self.n = getattr(self, 'n', 0)+1
        return TensorCategory(self.n%3)

class Quiet(Categorize): "A subclass that adds nothing"

class Called(Categorize):
    "A subclass that is called in a way of its own"
    def __call__(self, o, **kwargs):
        self.n = getattr(self, 'n', 0)+1
        return TensorCategory(self.n%3)

class AddsInPlace(Transform):
    order = 2
    def encodes(self, o:TensorCategory): return o.add_(1)

class CountsUp(Transform):
    order,n = 2,0
    def encodes(self, o):
        self.n += 1
        return int(o)*0+self.n

class TrainingOnly(Transform):
    split_idx = 0
    def encodes(self, o:str): return o.replace('ant', 'bee')

class Pairs(ItemTransform):
    def encodes(self, o): return o[-1]

class LastPart(ItemGetter):
    "Looks at another place each time"
    def encodes(self, o):
        self.n = getattr(self, 'n', 0)+1
        return o[1+self.n%2]

class OtherLists(TfmdLists):
    def _after_item(self, o): return super()._after_item(o)*0+2

class OtherPipeline(Pipeline):
    def __call__(self, o): return super().__call__(o)*0+1

class Number(IntEnum): one,two = 1,2

class Row(pd.Series):
    def __getitem__(self, k): return NAMES[self.name%2] if k=='label' else super().__getitem__(k)

class Rows(pd.DataFrame):
    "A table that makes more of a row than is in its column"
    _constructor = property(lambda self: Rows)
    _constructor_sliced = property(lambda self: Row)

class Box:
    "A label that can be given another value, and stays equal to itself"
    def __init__(self, v): self.v = v
    def __hash__(self): return 0
    def __eq__(self, o): return self.v==o.v
    def __repr__(self): return self.v

class Loud(str):
    "Text that takes itself for other text"
    def __hash__(self): return hash(self.upper())
    def __eq__(self, o): return self.upper()==str(o).upper()

def two_methods():
    "A function with a second method for another type"
    f = Transform(lambda o: 'ant')
    @f.encodes.dispatch
    def g(o:int): return NAMES[o]
    return f

def by_value():
    "A function with a second method for one of its values"
    f = Transform(lambda o: 'ant')
    @f.encodes.dispatch
    def g(o:Literal['x']): return 'bee'
    return f

def other_lists(cls=TfmdLists, pipeline=Pipeline):
    "Targets in a list of class `cls`"
    x = TfmdLists(FILES, [noimage()])
    y = cls(FILES, [parent_label,named()])
    y.tfms.__class__ = pipeline
    return Datasets(tls=[x,y])

def patched_instance():
    ds,c = block(FILES, get_y=parent_label),Counter()
    f = ds.tls[-1].tfms.fs[-1]
    f.encodes = Transform(lambda o: TensorCategory(NAMES.index(c(o)))).encodes
    return ds

def changed_box():
    "One object as the label of every item, its value set as it is asked for"
    box = Box('')
    def label(o):
        box.v = o.parent.name
        return box
    return datasets(FILES, label, in_order([Box(o) for o in NAMES]))

def for_training(f):
    f.split_idx = 0
    return f

def half(i, items, *tfms): return datasets(items, *tfms, splits=[[0,1],[2,3]]).subset(i)

def split_datasets(i):
    return datasets(FILES, parent_label, TrainingOnly(), named(), splits=[range(4),range(4, 8)]).subset(i)

_three = [(0,'ant','bee'),(1,'bee','cat'),(2,'cat','ant')]*4

def categorized(tfms): return block(FILES, TransformBlock(type_tfms=tfms), get_y=parent_label)

def counted_alone():
    numbers = iter(range(99))
    return datasets(FILES, lambda o: next(numbers))

def as_text(o): return str.lower(o)
def typed(o): return f'{type(o).__name__} {o}'
def dated(**more): return pd.DataFrame(dict(d=pd.to_datetime(['2020-01-01','2021-01-01']*3), **more))

def with_levels():
    levels = pd.MultiIndex.from_product([['a'],['file','label','number','odd']])
    return frame().set_axis(levels, axis=1)

class ByRow(ColReader):
    "Reads another column than its own"
    def _do_one(self, r, c): return NAMES[r.name%2]

def second_of_pairs():
    return half(1, [('ant','bee')]*4, for_training(ItemGetter(0)), lambda o: o, ItemGetter(1), named())

two_texts = [(['ant','cat'],'bee')]*4
big = 2**53 # the next whole number is no float
rounded = pd.DataFrame(dict(a=[big+1,big]*3, b=.5))
fields = pd.DataFrame(dict(size=[0,1,1,0]*2, _fields=['size','']*4))

misleading = {
    'a count': lambda: datasets(FILES, Counter(), named()),
    'chance': lambda: datasets(FILES, Rolls(), named()),
    'a count after a label': lambda: datasets(FILES, parent_label, Counter(), named()),
    'a moody subclass': lambda: categorized(Moody(vocab=NAMES)),
    'a subclass with a call of its own': lambda: categorized(Called(vocab=NAMES)),
    'a count after a column': lambda: column(frame(), 'label', then=Counter(), y_block=CategoryBlock(vocab=NAMES)),
    'a quiet subclass': lambda: categorized(Quiet()),
    'in place, after': lambda: categorized([Categorize(vocab=[*NAMES,'more']),AddsInPlace()]),
    'a count, after': lambda: datasets(FILES[:6], parent_label, Categorize(vocab=NAMES+list('abcdef')), CountsUp()),
    'no Categorize': lambda: datasets(range(len(Y)), lambda i: Y[i]),
    'a count alone': counted_alone,
    'for training': lambda: split_datasets(0),
    'not for validation': lambda: split_datasets(1),
    'Categorize for training': lambda: half(0, [0,1,2,1], for_training(in_order([2,1,0]))),
    'Categorize for training, not validation': lambda: half(1, [0,1,2,1], for_training(in_order([2,1,0]))),
    'ItemGetter for training': lambda: half(0, two_texts, for_training(ItemGetter(0)), ItemGetter(1), named()),
    'ItemGetter for training, not validation': second_of_pairs,
    'a function for training': lambda: half(1, [0,1,2,1], Transform(lambda o: 2-o, split_idx=0)),
    'an item transform': lambda: datasets([(o,NAMES[y]) for o,y in zip(FILES, Y)], Pairs(), Categorize()),
    'a subclass of ItemGetter': lambda: datasets(_three, LastPart(1), named()),
    'a slice of the item': lambda: datasets(_three, ItemGetter(slice(1,2)), lambda o: o[0], named()),
    'tuples, mapped': lambda: datasets([('ant','bee'),('cat','cat')], lambda o: NAMES.index(o), ItemGetter(1)),
    'another list': lambda: other_lists(OtherLists),
    'another pipeline': lambda: other_lists(pipeline=OtherPipeline),
    'two methods': lambda: datasets([0,1,'x',2], two_methods(), named()),
    'a method for a value': lambda: datasets(['y','x','y','x'], by_value(), named()),
    'annotated for another type': lambda: datasets(['bee','ant','cat'], annotated, named()),
    'an instance with a method of its own': patched_instance,
    'one object, changed': changed_box,
    'a text of its own': lambda: datasets([Loud('ant'),'ANT',Loud('Ant'),'ant'], in_order(['ANT','ant','x'])),
    'a text of its own, made text': lambda: datasets([Loud('ant'),'ant'], as_text, in_order(['ANT','ant'])),
    'enum': lambda: datasets([Number.one,2,1,Number.two], in_order([2,1,0])),
    'equal numbers': lambda: datasets([1,True,1.,np.int64(1),np.float32(1),0,False], Categorize(vocab=[0,1])),
    'tuples as labels': lambda: datasets([[('a',1)],[('a',1)]], ItemGetter(0), Categorize(vocab=[('a',1)])),
    'bytes': lambda: datasets([b'a',b'b',b'a'], Categorize()),
    'dates': lambda: column(dated(n=1), 'd'),
    'a function of dates': lambda: column(dated(n=1), 'd', then=lambda o: f'{type(o).__name__} {o.year}'),
    'dates only': lambda: column(dated(), 'd'),
    'categories': lambda: column(frame(c=pd.Categorical(LABELS)), 'c'),
    'pref': lambda: column(frame(), 'label', pref='a '),
    'suff': lambda: column(frame(), 'label', suff=' a'),
    'label_delim': lambda: column(frame(), 'label', label_delim='e', then=lambda o: o[0]),
    'a subclass of ColReader': lambda: block(frame(), get_y=ByRow('label')),
    'a function after a column': lambda: column(frame(), 'number', then=typed),
    'a function after a column, one type': lambda: column(frame()[['number']].assign(share=.5), 'number', then=typed),
    'numbers that a row rounds': lambda: column(rounded, 'a', y_block=CategoryBlock(vocab=[big,big+1])),
    'a column called _fields': lambda: column(fields, 'size', y_block=CategoryBlock(vocab=[0,1,2])),
    'two columns': lambda: column(frame(), ['label','number'], then=lambda o: NAMES[o[1]]),
    'a function of rows': lambda: block(frame(), get_y=lambda r: r.label if r.number else 'other'),
    'a subclass of DataFrame': lambda: column(Rows(frame()), 'label'),
    'columns with levels': lambda: column(with_levels(), 1),
    'columns with levels, by name': lambda: column(with_levels(), 'a', then=lambda o: o['label']),
    'arrays': lambda: datasets(np.array([2,0,1,2]), Categorize()),
    'an unknown label': lambda: datasets(['ant','bee','dog'], named()),
    'an unknown label in a column': lambda: column(frame(), 'label', y_block=CategoryBlock(vocab=['ant','bee'])),
    'an unknown label with add_na': lambda: datasets(['ant','dog',None,float('nan')], named(add_na=True)),
    'NaN': lambda: datasets(['ant',float('nan')], named()),
    'NaN in a column': lambda: column(frame(m=['ant']*40+[np.nan]*8), 'm', y_block=CategoryBlock(vocab=NAMES)),
    'NaN in a column of numbers': lambda: column(frame(m=[1.]*40+[np.nan]*8), 'm', y_block=CategoryBlock(vocab=[1.])),
    'NaN in a column, add_na': lambda: column(frame(m=['ant']*40+[None]*8), 'm',
                                              y_block=CategoryBlock(vocab=NAMES, add_na=True)),
    'None': lambda: datasets(['ant',None], named()),
    'None as a class': lambda: datasets(['ant',None], in_order([None,'ant'])),
    'unhashable': lambda: datasets(['ant',['bee']], named()),
    'arrays as labels': lambda: datasets(['ant',np.array([1,2])], named()),
    'short pairs': lambda: datasets([(0,'ant'),(1,)], ItemGetter(1), named()),
    'a function that fails': lambda: datasets(FILES[:2]+[0], parent_label, named()),
    'first what is wrong first': lambda: datasets(['ant','dog',0], lambda o: o.lower(), named()),
    'regex without a match': lambda: datasets(FILES[:2]+[Path('x')], RegexLabeller('(ant|bee|cat)'), named()),
    'a tuple among labels': lambda: datasets([[0],[(1,2)]], ItemGetter(0), Categorize(vocab=[0,1,2])),
}

@pytest.mark.parametrize('case', misleading)
def test_a_pipeline_that_would_mislead_is_left_to_fastai(case): assert_same(misleading[case])

@pytest.mark.parametrize('case,words', [
    ('an unknown label', "Label 'dog' was not included in the training dataset"),
    ('an unknown label in a column', "Label 'cat' was not included in the training dataset"),
    ('NaN in a column', "Label 'nan' was not included in the training dataset"),
    ('regex without a match', 'Failed to find'),
])
def test_what_is_wrong_is_said_in_fastais_words(case, words):
    with pytest.raises((KeyError,AssertionError), match=words): by_us(misleading[case]())

def test_labels_are_those_of_the_folders():
    for form in 'parent_label','RegexLabeller','lambda','pairs','ColReader, name','mid-level':
        assert by_us(forms[form]()).tolist()[:47]==Y[:47]

def test_duplicate_names_are_refused_as_by_fastai():
    df = frame().set_axis(['label']*4, axis=1)
    def make(): return datasets(df, ColReader('label'), lambda o: o.iloc[2])
    assert assert_same(make)[1]==Y

def test_methods_added_to_categorize_are_heard(monkeypatch):
    from plum import Function
    old,calls = Categorize.encodes.methods,[]
    f = Function(old[0].implementation)
    for m in old: f.dispatch(m.implementation)
    def encodes(self, o:str):
        calls.append(o)
        return TensorCategory(len(calls)%2)
    f.dispatch(encodes)
    ds = block(FILES, get_y=parent_label)
    monkeypatch.setattr(Categorize, 'encodes', f)
    by_us(ds)
    assert len(calls)==1+len(ds)

def test_functions_are_called_once_for_each_item_and_in_order():
    seen = []
    ds = datasets(FILES, lambda o: seen.append(o) or o.parent.name, named())
    seen.clear()
    by_us(ds)
    assert seen==FILES[:1]+FILES

def test_a_setting_of_the_split_is_passed_on():
    assert by_us(split_datasets(0)).tolist()==[1,1,2,2] and by_us(split_datasets(1)).tolist()==[0,1,0,2]

# --- any table, any labels ---

nan = float('nan')
# What a column may hold, and as what it may be stored
_columns = dict(
    text=(st.sampled_from(['ant','bee','1','']), [None,object,'category']),
    ints=(st.integers(-3, 3), [None,'int8','uint8','float32','Int64',object,'category']),
    big=(st.sampled_from([2**53,2**53+1,-2**63,2**63-1]), [None,object]),
    bools=(st.booleans(), [None,object,'boolean']),
    floats=(st.sampled_from([0.,1.,-0.,2.5,nan]), [None,'float32','float16',object]),
    mixed=(st.sampled_from(['ant',1,True,2.,None,nan,(1,),b'x']), [object]),
)

@st.composite
def tables(draw):
    "A table of columns of several types, and which of them is read"
    n,cols = draw(st.integers(1, 6)),{}
    for i in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(sorted(_columns)))
        values,dtypes = _columns[kind]
        s = pd.Series(draw(st.lists(values, min_size=n, max_size=n)), dtype=object if kind=='mixed' else None)
        dtype = draw(st.sampled_from(dtypes))
        cols[f'c{i}'] = s if dtype is None else s.astype(dtype)
    df = pd.DataFrame(cols)
    df.index = draw(st.permutations(range(n)))
    c = draw(st.integers(0, len(cols)-1))
    return df,draw(st.sampled_from([c,c-len(cols),f'c{c}']))

@given(table=tables(), add_na=st.booleans(), known=st.integers(1, 6))
def test_any_column_gives_fastais_labels(table, add_na, known):
    df,c = table
    i = c if isinstance(c, int) else int(c[1:])
    values = [o for o in df.iloc[:known,i].astype(object) if pd.notna(o) is True] or ['none']
    assert_same(lambda: datasets(df, ColReader(c), Categorize(vocab=values, sort=False, add_na=add_na)))

odd_labels = 'a','b','',None,1.,nan,b'a',np.int64(1),np.str_('a'),np.float32(.1),np.bool_(True)
_raw = st.one_of(st.sampled_from(odd_labels), st.integers(-2, 2), st.booleans(), st.floats(), st.text(max_size=2))
_known = _raw.filter(lambda o: o==o)

@given(st.lists(_raw, min_size=1, max_size=8), st.lists(_known, min_size=1, max_size=8), st.booleans())
@example(raw=['a',None,'a'], known=['a'], add_na=True)
def test_any_labels_are_numbered_as_by_fastai(raw, known, add_na):
    def categorize(): return Categorize(vocab=known+raw[:3], sort=False, add_na=add_na)
    for f in [],[lambda o: o]: assert_same(lambda: datasets(raw, *f, categorize()))
    assert_same(lambda: datasets([(0,o) for o in raw], ItemGetter(1), categorize()))
