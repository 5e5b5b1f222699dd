"""The commands as a user types them: what is answered before PyTorch is imported, what is said of data before training,
which files and doubles stop it, and errors in the words of options. Published tables are read by the command alone."""

import html
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fastai_balmix.commands import command, told_in_lines
from fastai_balmix.compare.before import plan_words
from fastai_balmix.compare.cli import balmix_compare, balmix_data
from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.methods import find_method, method_table
from fastai_balmix.compare.names import described, reader_options, reader_places
from fastai_balmix.compare.options import data_recipe, external_recipes, reading_options, split_list
from fastai_balmix.compare.plan import compare
from fastai_balmix.compare.wording import of_options
from fastai_balmix.datasets.sources import readers
from fastai_balmix.report.cli import balmix_report
from fastai_balmix.terminal import labelled


def typed(func, line):
    "What a command ends with when `line` is typed: None, or the words after which a shell sees a 1"
    try: return func(**vars(func.parser.parse_args(shlex.split(line))))
    except SystemExit as e: return e.code

def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8,8,3), dtype=np.uint8)).save(path)

@pytest.fixture
def scans(tmp_path, monkeypatch):
    "A folder of images of two classes, beside which commands are typed"
    for label,n in ('benign',12),('malign',6):
        for i in range(n): picture(tmp_path/f'scans/{label}/p{i%6}_{i}.png', 100*n+i)
    monkeypatch.chdir(tmp_path)
    return tmp_path/'scans'

small = ('--archs small --epochs 1 --size 8 --bs 4 --augment none --pretrained no --n-folds 2 --methods instance '
         '--no-report')


# What is answered at once

modules = {'balmix-compare': ('compare.cli','balmix_compare'), 'balmix-data': ('compare.cli','balmix_data'),
           'balmix-report': ('report.cli','balmix_report'), 'balmix-demo': ('demo','demo')}
answers = {
    'balmix-compare --help': 'examples:', 'balmix-data --help': 'examples:', 'balmix-report --help': 'examples:',
    'balmix-demo --help': 'examples:', 'balmix-compare --list': 'Galdran et al.',
    'balmix-compare --grup x': "There is no option --grup. Did you mean '--group'",
    'balmix-compare --preset quik --out x': "There is no preset 'quik'. Did you mean 'quick'",
    'balmix-compare --preset quick --methods balmix_02 --out x': "There is no method 'balmix_02'. Did you mean",
    'balmix-compare --data eypacs:x --out x': "Did you mean 'eyepacs'",
    'balmix-compare --data eyepacs --out x': 'eyepacs must know where the data are: --data eyepacs:PLACE.',
    'balmix-compare --data digits --group x --out x': 'The --group option is for folders and tables of your own',
    'balmix-compare --epochs x': "The --epochs option must be a whole number. Got 'x' instead.",
    'balmix-compare --preset': 'The --preset option needs a value.',
    'balmix-compare': 'Say where results go: --out FOLDER.', 'balmix-data': 'required',
    'balmix-data . --out x.jpg': "The --out option must be a file whose name ends in '.png'",
    'balmix-data digits --range 0:4095': 'The --range option must be two numbers, such as 0,4095, or 16bit',
    'balmix-data . --label dx': 'The --label option is for tables, but the data are a folder',
    'balmix-data . --merge other': 'The --merge option must be names and values',
    'balmix-report nowhere': "There is no folder 'nowhere'", 'balmix-report . --parts x': "Did you mean '--part'",
    'balmix-report . --suggest': 'There is no option --suggest. balmix-report --help',
    'balmix-report .': "'.' holds no results of balmix-compare."}

@pytest.mark.thinned(6)
@pytest.mark.parametrize('line', answers)
def test_answered_before_pytorch_is_imported(tmp_path, line):
    prog,*args = shlex.split(line)
    module,name = modules[prog]
    code = (f'import sys\nfrom fastai_balmix.{module} import {name}\ntry: {name}()\nfinally: '
            "print('HEAVY', *{'torch','fastai','pandas','matplotlib'}&{*sys.modules})")
    script = tmp_path/'script.py'
    script.write_text(code)
    p = subprocess.run([sys.executable, script, *args], capture_output=True, text=True, cwd=tmp_path)
    assert answers[line] in ' '.join((p.stdout+p.stderr).split()) and 'Traceback' not in p.stderr
    assert 'HEAVY\n' in p.stdout
    assert p.returncode==0 if '--help' in line or '--list' in line else p.returncode in (1,2)

@pytest.mark.parametrize('prog', modules)
def test_help_shows_every_default_and_two_examples(prog):
    module,name = modules[prog]
    text = getattr(import_module(f'fastai_balmix.{module}'), name).parser.format_help()
    options = re.split(r'\n  (?=-)', text.split('examples:')[0])[2:]
    for o in options: assert 'Default:' in o or 'Needed' in o, o
    examples = re.findall(rf'^  {prog}', text.split('examples:')[1], re.MULTILINE)
    assert len(examples)==2 and max(map(len, text.splitlines()))<=80

def test_defaults_in_help_are_those_of_the_package():
    said = balmix_compare.parser.format_help().split('\n\n')
    options = {o.split()[0]: ' '.join(o.split()) for part in said for o in re.split(r'\n  (?=-)', part)[1:]}
    def default(option): return options[option].split('Default: ')[1]
    config = TrainConfig()
    for k in 'epochs','selection','decode': assert default(f'--{k}')==str(getattr(config, k))
    chosen = [config.chosen_for(o) for o in ('mobilenetv2_100','small')]
    for k in 'recipe','size','bs','lr','augment':
        for o in chosen: assert str(getattr(o, k)) in default(f'--{k}')
    given = {k: o.default for k,o in inspect.signature(compare).parameters.items()}
    assert default('--methods')==','.join(given['methods']) and default('--archs')==given['archs']
    for k in 'seeds','n_folds': assert default(f"--{k.replace('_', '-')}")==str(given[k])
    # a command need not be guarded, as a script must be that starts processes
    assert default('--jobs')=='auto' and given['jobs']==1

def test_examples_of_help_are_read():
    for func in balmix_compare,balmix_data:
        text = func.parser.epilog.partition('\n')[2].replace('\\\n', ' ')
        for line in text.splitlines(): func.parser.parse_args(shlex.split(line)[1:])

def test_an_option_is_not_abbreviated(capsys):
    assert typed(balmix_compare, '--epoch 3')==2
    assert "There is no option --epoch. Did you mean '--epochs'" in capsys.readouterr().err

def test_names_known_without_pytorch_are_those_there_are():
    assert [*method_table().index]==[*described]
    assert reader_places.keys()==readers.keys()==reader_options.keys()
    for name,func in readers.items():
        params = [*inspect.signature(func).parameters]
        assert {*reader_options[name]} <= {*params} and reader_places[name] in (None,*params)
        if name.startswith('from_'): assert {*params}=={reader_places[name],'verify',*reader_options[name]}

def test_any_alpha_is_a_method():
    assert find_method('balmix_0.15').name=='balmix_0.15' and 'α = 0.15' in find_method('balmix_0.15').line
    assert find_method('balmix_0.20').name=='balmix_0.2'
    for name in 'balmix_02','balmix_','balmix_-1','balmix_x':
        with pytest.raises(ValueError, match='There is no method'): find_method(name)


# From text to recipes

def test_every_option_of_reading_reaches_the_recipe(scans):
    (scans.parent/'t.csv').touch()
    line = ("--group pid --missing-group own --path f --labels 'A,\"B, c\"' --missing-label drop --split none "
            "--fold none --parts 'train=a test=b' --root scans --suffix .jpg "
            "--sep tab --vocab 'x,y' --ordered --range -1000,400 "
            "--frame 0 --background black --exclude 'q,\"r, s\"' --merge 'o=a+b p=no finding+c' --skip-broken")
    given = vars(balmix_data.parser.parse_args(['t.csv', *shlex.split(line)]))
    reading = {k: given[k] for k in inspect.signature(reading_options).parameters}
    recipe = data_recipe('t.csv', *reading_options(**reading))
    assert recipe==dict(
        reader='from_csv', csv=str(scans.parent/'t.csv'), group='pid', missing_group='own', path='f',
        labels=['A','B, c'], missing_label='drop', split='none', fold='none', parts=dict(train='a', test='b'),
        root='scans', suffix='.jpg', sep='\t', vocab=['x','y'], ordered=True, range=[-1000,400], frame=0,
        background='black', then=[
            dict(step='without', names=['q','r, s']),
            dict(step='merged', classes=dict(o=['a','b'], p=['no finding','c'])),
            dict(step='without_broken')])
    assert yaml.safe_load(yaml.safe_dump(recipe))==recipe

def test_lists_and_ranges():
    assert split_list('a, b') == ['a','b'] and split_list('"a, b",c')==['a, b','c'] and split_list(None) is None
    for text,want in ('0,4095',[0,4095]),('16bit','16bit'),('0,.5',[0,.5]):
        assert reading_options(range=text)[0]['range']==want
    for text in '0','a,b','1,2,3':
        with pytest.raises(ValueError, match='The --range option must be two numbers'): reading_options(range=text)
    assert reading_options(parts='none')[0]==dict(parts='none')

def test_external_data_are_read_as_the_data_are(scans):
    (scans.parent/'t.csv').touch()
    asked,steps = reading_options(group='pid', range='0,4095', split='set', exclude='a')
    got = external_recipes('t.csv,f=scans', asked, steps, 'from_csv')
    assert got['t']==dict(reader='from_csv', csv=str(scans.parent/'t.csv'), split='none', fold='none', group='pid',
                          range=[0,4095], then=steps)
    assert got['f']==dict(reader='from_folder_table', folder=str(scans), range=[0,4095], then=steps)

def test_an_archive_and_a_file_of_arrays(scans):
    for name in 'a.zip','b.tar.gz','c.npz': (scans.parent/name).touch()
    for name in 'a.zip','b.tar.gz': assert 'Unpack it' in typed(balmix_data, name)
    assert data_recipe('c.npz')['reader']=='medmnist'


# What is said, in the words of a terminal

all_options = [o.dest for o in balmix_compare.parser._actions]
@pytest.mark.parametrize('said, want', [
    ("The 'group' parameter of from_csv must be x", 'The --group option must be x'),
    ("see the 'missing_group' parameter of ImageData.subset must", 'see the --missing-group option must'),
    ("The 'df' parameter of ImageData must be a table", 'The --data option must be a table'),
    ("The 'csv' parameter of from_csv must be", 'The --data option must be'),
    ("The 'folder' parameter of from_folder_table must be", 'The --data option must be'),
    ("The 'root' parameter of from_csv must be", 'The --root option must be'),
    ("The 'root' parameter of eyepacs must be", 'The --data option must be'),
    ("The 'npz' parameter of medmnist must be", 'The --data option must be'),
    ("The 'mom' parameter of TrainConfig must be", "The 'mom' setting must be"),
    ("The 'n_folds' parameter of with_folds must be", 'The --n-folds option must be'),
    ("from_csv needs a column 'pid' in a.csv.", "The table needs a column 'pid' in a.csv."),
    ("To use it: split='Teil', parts={'train': 'Ausbildung', 'test': 'Prüfung'}.",
     "To use it: --split Teil --parts 'train=Ausbildung,test=Prüfung'"),
    ("To use it: split='Teil'. To do without: split='none'.", "To use it: --split 'Teil'. To do without: --split none"),
    ("fold='none'.", '--fold none'),
    ("Try path='f', suffix='.jpg', label='dx'.", 'Try --path f --suffix .jpg --label dx'),
    ("say path='f', or label='dx': both", "say --path f, or --label 'dx': both"),
    ("Copy vocab=['none', 'mild', 'very severe']", "Copy --vocab 'none,mild,very severe'"),
    ("range=(0, 4095) or range='16bit'", '--range 0,4095 or --range 16bit'),
    ('range=(-1000, 400)', '--range=-1000,400'),
    ("labels=['MEL','NV',…]", '--labels MEL,NV,...'), ('vocab=[...]', '--vocab ...'),
    ("`data.without('basophil', 'a b')`", "--exclude 'basophil,a b'"), ('`without(...)`', '--exclude ...'),
    ("`.merged({'other': ['basophil', 'unknown']})`", '--merge other=basophil+unknown'),
    ('`data.without_broken()` drops', '--skip-broken drops'), ("missing_group='own'", '--missing-group own'),
    ('`with_folds(3)`', '--n-folds 3'), ('say `vocab=`', 'say --vocab'),
    ('None if `split` is given', 'None if --split is given'),
    ('suffix=\'.jpg\'', '--suffix .jpg'), ('ordered=True', '--ordered'),
    ("group='dicom:PatientID'", '--group dicom:PatientID'),
    ("label='Finding Labels'", "--label 'Finding Labels'"), ("label=\"it's\"", '''--label 'it'"'"'s\''''),
    ("group=r'(?i)([^/]*)[ _-]l\\b'.", "--group '(?i)([^/]*)[ _-]l\\b'"),
    ('Say where results go: --out FOLDER.', 'Say where results go: --out FOLDER.'),
    ("The 'names' parameter of ImageData.without must be", 'The --exclude option must be'),
    ("The 'classes' parameter of ImageData.merged must be", 'The --merge option must be'),
    ('Say which is which: parts={}.', "Say which is which: --parts 'train=... test=...'"),
    ('or with data.merged(...).', 'or with --merge ...'),
    ('a file x=3.png and p = 0.05', 'a file x=3.png and p = 0.05')])
def test_parameters_are_options(said, want): assert of_options(said, all_options)==want

def test_without_options_nothing_is_invented():
    assert of_options("split='Teil'", [])=="split='Teil'" and of_options('merge=(1', ['merge'])=='merge=(1'

def test_what_is_proposed_is_understood_by_the_command():
    proposed = "vocab=['a','b, c'], parts={'train': 'An Teil', 'test': 'B'}, exclude=['x y'], range=(-5, 7)"
    said = of_options(proposed, all_options)
    got = vars(balmix_data.parser.parse_args(['d', *shlex.split(said.replace(', --', ' --'))]))
    assert split_list(got['vocab'])==['a','b, c'] and reading_options(parts=got['parts'])[0]['parts']==dict(
        train='An Teil', test='B')
    assert split_list(got['exclude'])==['x y'] and got['range']=='-5,7'

def test_a_warning_is_a_line(capsys):
    with told_in_lines(str.upper):
        warnings.warn('two\n lines', stacklevel=1)
        warnings.warn('of others', FutureWarning, stacklevel=1)
    assert capsys.readouterr().err=='warning: TWO LINES\n'

def test_long_prose_is_broken_and_tables_are_not():
    row = 'a'*60+'  '+'b'*60
    lines = labelled('Note', f'{"word "*30}\n{row}').splitlines()
    assert lines[-1].strip()==row and max(map(len, lines[:-1]))<=80 and lines[0].startswith('Note     word')

def test_a_plan_in_words():
    assert plan_words(methods=3, networks=2, folds=5, seeds=2)=='3 methods × 2 networks × 5 folds × 2 seeds = 60 runs'
    assert plan_words(methods=1, seeds=1)=='1 run'

def test_a_command_is_a_function(capsys):
    @command('greet', ['greet Ada'], {'name': 'x'})
    def greet(name:str, times:int=1): print(name*times)
    greet('a', 2)
    assert capsys.readouterr().out=='aa\n'


# balmix-data

def test_data_are_described_and_drawn(scans, capsys):
    assert typed(balmix_data, r"scans --group '(p\d)_'") is None
    said = capsys.readouterr().out
    assert said.startswith('Reading  scans: 18 images, 2 classes') and 'Groups: 6' in said
    assert 'Verified 18 images, 18 of them opened now: all readable, no exact doubles.' in said
    assert 'Picture  class_distribution.png' in said and Image.open('class_distribution.png').width>300
    assert max(map(len, said.splitlines()))<=80
    assert typed(balmix_data, 'scans') is None
    assert 'Verified 18 images, all of them known from an earlier check:' in capsys.readouterr().out

def test_one_class_is_said_and_not_compared(scans, capsys):
    said = typed(balmix_compare, f'--data scans --exclude malign {small} --out out')
    assert "needs images of at least two classes, but all of scans are of 'benign'." in said
    capsys.readouterr()
    assert typed(balmix_data, 'scans --exclude malign') is None
    out,err = capsys.readouterr()
    assert 'scans: 12 images, 1 class\n' in out and 'All images are of one class, benign.' in out and not err

def test_help_keeps_names_whole():
    text = balmix_compare.parser.format_help()
    assert 'paper-eyepacs' in text and max(map(len, text.splitlines()))<=80

def test_the_small_network_is_proposed(scans):
    assert "There is no architecture 'smal'. Did you mean 'small'" in typed(
        balmix_compare, f"--data scans {small.replace('--archs small', '--archs smal')} --out out")

def test_a_foreign_picture_is_kept(scans):
    before = (scans/'benign/p0_0.png').read_bytes()
    said = typed(balmix_data, 'scans --out scans/benign/p0_0.png')
    assert 'is not a picture of balmix-data. It is kept' in said and (scans/'benign/p0_0.png').read_bytes()==before
    assert 'in a folder that is there' in typed(balmix_data, 'scans --out no/x.png')

def test_unreadable_files_are_named(scans, capsys):
    for i in range(12): (scans/f'benign/x{i:02}.png').write_bytes(b'' if i else b'no image')
    said = typed(balmix_data, 'scans')
    assert said.startswith('balmix-data: 12 of 30 images cannot be read:\n  benign/x00.png: ')
    assert said.count('benign/x')==10 and 'and 2 more' in said and '--skip-broken' in said
    assert '12 unreadable' in capsys.readouterr().out

def test_equal_images_of_two_classes_stop_a_comparison(scans, capsys):
    "Which of the two is right, nobody knows; in two parts the score is that of a wrong label"
    for i in range(8): shutil.copy(scans/'benign/p0_0.png', scans/f'malign/q{i}.png')
    said = typed(balmix_compare, f'--data scans {small} --out out')
    assert '1 image occurs more than once, in several parts and with different labels:' in said
    assert 'benign/p0_0.png (benign, fold' in said and 'delete the other file' in said
    assert not Path('out').exists() and 'Plan' not in capsys.readouterr().out

def test_equal_images_in_two_parts_are_said_under_every_table(scans, capsys):
    for i in range(8): shutil.copy(scans/'benign/p0_0.png', scans/f'benign/q{i}.png')
    assert typed(balmix_compare, f'--data scans {small} --out out') is None
    said = ' '.join(capsys.readouterr().out.split())
    words = '1 image occurs in several parts (exact doubles), so scores may be too high'
    assert f'NOTE {words}' in said and words in Path('out/summary.md').read_text()

def test_a_comparison_says_what_it_reads_and_plans(scans, capsys):
    line = rf"--data scans --group '(p\d)_' {small} --seeds 2 --out out"
    for _ in range(2): # again, when it resumes
        assert typed(balmix_compare, line) is None
        said = capsys.readouterr().out
        assert said.startswith('Reading  scans: 18 images') and '\nVerified 18 images' in said
        assert '\nPlan     2 folds × 2 seeds = 4 runs' in said
    settings = yaml.safe_load(Path('out/settings.yaml').read_text())
    assert settings['data']['group']==r'(p\d)_'
    (scans/'benign/p0_0.png').write_bytes(b'')
    assert 'cannot be read' in typed(balmix_compare, line)
    assert 'another content of the data set' in typed(balmix_compare, line+' --no-verify')


# Options that change what is read

def noted(line, words, capsys, folder='out'):
    "Is a comparison made, and do terminal, Markdown, page and settings say what was done to the data?"
    assert typed(balmix_compare, f'{line} {small} --out {folder}') is None
    said = ' '.join(capsys.readouterr().out.split())
    assert typed(balmix_report, f'{folder} --out page.html') is None
    page = ' '.join(html.unescape(re.sub('<[^>]*>', '', Path('page.html').read_text())).split())
    for text in said,Path(folder, 'summary.md').read_text().replace('\\', ''),page: assert words in text, text[:3000]
    return yaml.safe_load(Path(folder, 'settings.yaml').read_text())

def test_a_class_left_out_is_said_everywhere_and_rebuilt(scans, capsys):
    for i in range(4): picture(scans/f'rare/{i}.png', i)
    recipe = noted('--data scans --exclude rare', "left out: 'rare' (4 images)", capsys)['data']
    assert recipe['then'][0]==dict(step='without', names=['rare'])
    assert typed(balmix_compare, '--settings out/settings.yaml --out again') is None
    one,two = (Path(o, 'meta.json').read_text() for o in ('out','again'))
    assert one==two

def test_classes_are_merged(scans, capsys):
    for i in range(4): picture(scans/f'rare/{i}.png', i)
    assert typed(balmix_data, "scans --merge 'other=rare+malign'") is None
    said = capsys.readouterr().out
    assert re.search(r'other +10 ', said) and 'rare' in said.split('note')[1]
    assert "The --merge option must be classes of scans" in typed(balmix_data, "scans --merge 'other=rar+malign'")
    assert "The --exclude option must be classes of scans" in typed(balmix_data, 'scans --exclude rar')

def test_broken_files_are_left_out_with_a_note(scans, capsys):
    (scans/'benign/x.png').write_bytes(b'')
    words = '1 image left out, unreadable or missing: benign/x.png.'
    recipe = noted('--data scans --skip-broken', words, capsys)['data']
    assert recipe['then'][0]==dict(step='without_broken')

def test_a_class_that_is_too_small_is_named_with_the_way_out(scans):
    picture(scans/'rare/1.png', 1)
    said = typed(balmix_compare, f'--data scans {small} --out out')
    assert 'rare has 1 image' in said and '--exclude rare' in said and '--merge' in said and 'data.' not in said
    assert typed(balmix_compare, f'--data scans {small} --out out --exclude rare') is None

def test_the_order_of_grades_is_said(scans, capsys):
    words = 'Grades from low to high: malign'
    noted('--data scans --ordered --vocab malign,benign', words, capsys)

def test_grades_need_an_order(scans):
    said = typed(balmix_data, 'scans --ordered')
    proposed = options_in(said)
    assert '--vocab' in proposed and typed(balmix_data, f"scans --ordered {' '.join(proposed.values())}") is None

def test_depth_is_asked_for(tmp_path, monkeypatch, capsys):
    "12 of 16 bits: what is proposed settles it"
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path/f'ct/{"ab"[i%2]}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (8,8), dtype=np.uint16)).save(path)
    said = typed(balmix_data, 'ct')
    told = capsys.readouterr().out
    assert said and '65,535' in told.replace('65535', '65,535') and 'range=' not in told
    proposed = options_in(told)['--range']
    assert typed(balmix_data, f'ct {proposed}') is None
    capsys.readouterr()
    typed(balmix_compare, f'--data ct {small} --out out')
    assert '--range' in capsys.readouterr().out


# Published tables, read by the command alone

def options_in(text):
    "{option: as it is typed} of what a sentence proposes, the first of each"
    found = re.findall(r"--[a-z][\w-]*(?![\w-]| option)(?:=\S+| (?:'[^']*'|[^\s'-]\S*))?(?<!-)", text)
    return {re.match(r'--[\w-]+', o)[0]: o for o in reversed(found)}

def text_table(rows): return '\n'.join(rows)+'\n'

patients = [f'{900+i}_{side}' for i in range(8) for side in ('left','right')]
hams = [(f'HAM_{i//2:07}', f'ISIC_{i:07}', ('nv','nv','mel','mel','bkl','bkl','bcc','bcc')[i%8]) for i in range(16)]
clinic = [(rf'Bilder\P{i//2:03}\{i:03}.JPG', ('unauffällig','gering','mäßig')[i%3], f'P{i//2:03}',
           'Training' if i<16 else 'Prüfung') for i in range(24)]
findings = ['No Finding','Effusion','Mass','Effusion|Mass']
published = {
    'covid': (text_table(['patientid,finding,view,date,folder,filename,clinical notes', *(
        f'{i//2},{("COVID-19","Pneumonia","","No Finding")[i%4]},PA,"January {i+1}, 2020",images,case-{i:02}.jpg,"a, b"'
        for i in range(16))]), [f'images/case-{i:02}.jpg' for i in range(16)], 12, 3),
    'eyepacs': (text_table(['image,level', *(f'{o},{i//2%5}' for i,o in enumerate(patients))]),
                [f'train/{o}.jpeg' for o in patients], 16, 5),
    'floats': (text_table(['id_code,diagnosis', *(f'{i:012x},{(0.,1.,2.,10.)[i%4]}' for i in range(16))]),
               [f'train_images/{i:012x}.png' for i in range(16)], 16, 4),
    'ham': (text_table(['lesion_id,image_id,dx,dx_type,age', *(','.join((*o,'histo','30.0')) for o in hams)]),
            [f'part_1/{o[1]}.jpg' for o in hams], 16, 4),
    'isic': (text_table(['image,MEL,NV,BCC,DF', *(
        f'ISIC_{i:07},'+','.join('1.0' if k==i%4 else '0.0' for k in range(4)) for i in range(16))]),
        [f'input/ISIC_{i:07}.jpg' for i in range(16)], 16, 4),
    'clinic': (text_table(['Datei;Befund;Patient;Teil;Wert', *(';'.join((*o,'0,5')) for o in clinic)]).encode('cp1252'),
               [o[0].replace('\\', '/') for o in clinic], 24, 3),
    'nih': (text_table(['Image Index,Finding Labels,Follow-up #,Patient ID', *(
        f'9{i//4:07}_{i%4:03}.png,{findings[(i+i//4)%4]},{i%4},9{i//4}' for i in range(16))]),
        [f'images/9{i//4:07}_{i%4:03}.png' for i in range(16)], 12, 3),
    'rfmid': (b'\xef\xbb\xbf'+text_table(['ID,Disease_Risk,DR,ARMD,MH', *(
        f'{i+1},{int(i%4>0)},{int(i%4==1)},{int(i%4==2)},{int(i%4 in (2,3))}' for i in range(16))]).encode(),
        [f'Training/{i+1}.png' for i in range(16)], 16, 2)}

@pytest.mark.thinned(3)
@pytest.mark.parametrize('name', published)
def test_a_published_table_is_read_by_following_what_is_said(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    content,files,n,k = published[name]
    Path('table.csv').write_bytes(content if isinstance(content, bytes) else content.encode())
    for i,o in enumerate(files): picture(tmp_path/o, i)
    options = {}
    for _ in range(6):
        said = typed(balmix_data, ' '.join(['table.csv', *options.values()]))
        told = capsys.readouterr().out
        if said is None: break
        proposed = {o: text for o,text in options_in(said).items() if o not in options}
        assert proposed, f'nothing to do is proposed: {said}'
        options |= proposed
    assert said is None and f'table: {n} images, {k} classes' in told and 'Missing files: 0.' in told
