"""Names that are shortened for a figure or a table. Names of real data sets show whether the result can be read;
hypothesis, whether it always fits and keeps classes apart."""
import pytest
from hypothesis import given, settings, strategies as st
from toys import calls_made

from fastai_balmix.shorten import short_names, text_width
from fastai_balmix.words import one_line

kvasir = [
    'barretts', 'barretts-short-segment', 'bbps-0-1', 'bbps-2-3', 'cecum', 'dyed-lifted-polyps',
    'dyed-resection-margins', 'esophagitis-a', 'esophagitis-b-d', 'hemorrhoids', 'ileum', 'impacted-stool',
    'polyps', 'pylorus', 'retroflex-rectum', 'retroflex-stomach', 'ulcerative-colitis-grade-0-1',
    'ulcerative-colitis-grade-1', 'ulcerative-colitis-grade-1-2', 'ulcerative-colitis-grade-2',
    'ulcerative-colitis-grade-2-3', 'ulcerative-colitis-grade-3', 'z-line']

def short(names, width=24):
    "Shortened names, of which everything is checked that must always hold"
    got = short_names(names, width)
    assert len(got)==len(names) and all(text_width(o)<=width and o.isprintable() for o in got)
    assert len({*got})==len({*map(str, names)})
    by_name = dict(zip(map(str, names), got))
    assert [by_name[str(o)] for o in names]==got # equal names stay equal
    assert short_names(names[::-1], width)==got[::-1] # the order of the names does not matter
    assert short_names(got, width)==got
    return got

text = st.text(st.characters(codec='utf-8'), max_size=60)
alike = st.text('ab-1 é息', max_size=60)
@given(st.lists(st.one_of(text, alike), max_size=30), st.integers(8, 40))
@settings(max_examples=300, deadline=None)
def test_any_names_fit_and_stay_apart(names, width): short(names, width)

@pytest.mark.parametrize('width', [8,10,12,16,20,24])
def test_findings_of_the_gut(width):
    got = dict(zip(kvasir, short(kvasir, width)))
    assert got['cecum']=='cecum' and got['z-line']=='z-line'
    if width>=20: assert got['ulcerative-colitis-grade-2-3']=='ulcerative…grade-2-3'
    if width>=20: assert got['ulcerative-colitis-grade-1']=='ulcerative…grade-1'
    if width==16: assert got['dyed-resection-margins']=='dyed…margins'

@pytest.mark.parametrize('names, width, wanted', [
    (['cat','dog'], 8, ['cat','dog']),
    # Between words, in camel case too; a part of a word is better than next to nothing
    (['BasalCellCarcinomaOfTheSkin','SquamousCellCarcinomaOfTheSkin'], 16, ['Basal…OfTheSkin','Squamous…TheSkin']),
    (['a-supercalifragilisticexpialidocious-b'], 16, ['a-supercalifr…b']),
    # A number stays whole
    (['scan-of-12345678','scan-of-12345679'], 12, ['sca…12345678','sca…12345679']),
    # Names that differ in case alone, in their middle alone, in a blank at the end
    (['Ulcerative-Colitis-Grade-One','ulcerative-colitis-grade-one'], 20,
     ['Ulcerative…Grade-One','ulcerative…grade-one']),
    ([f'the-beginning-of-these-names-is-{o}-and-then-the-end-of-all' for o in ('kidney','spleen')], 24,
     ['the…kidney-and…of-all','the…spleen-and…of-all']),
    ([f"{'same-start-'*5}{i}-{'same-end-'*5}" for i in (1,10)], 24, ['same…1-same-end…end','same…10-same…same-end']),
    (['polyp','polyp ',' polyp','pol\typ','pol yp'], 24, ['polyp','polyp␣','␣polyp','pol␣yp','pol yp']),
    (['a'*60,'a'*60+' '], 12, ['aaaaa…aaaaaa','aaaaa…aaaaa␣']),
    # An accent in one character and in two
    (['\u00e9','e\u0301'], 24, ['\u00e9 #2','e\u0301']),
    # A Chinese character takes two columns, and is a word
    (['糖尿病性網膜症の重症度分類その'+o for o in '一二'], 12, ['糖尿…その一','糖尿…その二']),
    # One is the beginning, or the end, of another
    (['lesion-of-the-skin-of-the-face','lesion-of-the-skin-of-the-face-and-neck'], 20, None),
    (['skin-of-the-face-and-of-the-neck','lesion-of-the-skin-of-the-face-and-of-the-neck'], 20, None),
    (['-'*40,'-'*41,'_'*40], 8, None), ([*range(12)], 8, [*map(str, range(12))]), ([], 8, []), ([''], 8, ['']),
    (['',' '], 8, ['','␣']), (['a'*30]*3, 8, ['aaa…aaaa']*3)])
def test_names_that_are_hard(names, width, wanted):
    got = short(names, width)
    if wanted is not None: assert got==wanted

def test_a_hundred_names_of_sixty_characters():
    names = [f'{a}-{b}-finding-{i:02d}-of-the-gastrointestinal-tract-and-its-surroundings'[:60]
             for i,(a,b) in enumerate((a,b) for a in ('mild','severe') for b in range(50))]
    assert {*map(len, names)}=={60}
    for width in 12,24: short(names, width)

@pytest.mark.parametrize('form', ['class-{:05d}', 'class-number-{:05d}-of-a-long-list-of-classes-in-a-data-set',
                                  'a-long-name-in-which-only-the-middle-{:05d}-differs-from-all-others'])
def test_ten_times_as_many_names_are_ten_times_the_work(form):
    few,many = ([form.format(i) for i in range(n)] for n in (300,3_000))
    assert calls_made(short_names, many)<12*calls_made(short_names, few)
    assert len({*short_names(many)})==3_000

def test_what_has_no_number_of_its_own_gets_one():
    "Names that differ in more places than a short name can show"
    sides = 'left','right','both','no'
    names = [f'{a}-degeneration-of-the-{b}-eye-of-a-{c}-of-{d}-people' for a in ('early','late') for b in sides
             for c in ('patient','control') for d in ('young','old')]
    got = short(names, 16)
    assert any('#' in o for o in got)

def test_widths_are_those_of_a_terminal():
    assert [*map(text_width, ('polyp','息肉','e\u0301','ａ','\ufffd'))]==[5,4,1,2,1]
    assert one_line('x\x1b[31m')=='x\ufffd[31m'
