"""What only the whole package can show: that it is a good guest in a fastai session, and that what README says to type
works."""
import ast
import importlib
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from inspect import getattr_static
from multiprocessing import get_context

import pytest
from conftest import root, warm_call
from test_sync import blocks, read

package = root/'fastai_balmix'

def module(path): return '.'.join(path.relative_to(package).with_suffix('').parts)


# Names

def contents(ns):
    "What the names of a namespace stand for, and what the attributes of its classes are"
    res = {k:v for k,v in ns.items() if k!='__builtins__'}
    for k,v in ns.items():
        if not isinstance(v, type): continue
        res |= {f'{k}.{a}': getattr_static(v, a, None) for a in dir(v) if not a.startswith('_abc_')}
    return res


def imported(first, then):
    "Names that `then` changes for whom has run `first`, and names it adds"
    sys.path.insert(0, str(root))
    ns = {}
    exec(first, ns)
    before = contents(ns)
    exec(then, ns)
    after = contents(ns)
    return [k for k in before if after.get(k) is not before[k]], [k for k in after if k not in before]


def imported_beside_fastai():
    "What `all` imports that fastai has not, by the first two parts of the name"
    sys.path.insert(0, str(root))
    import fastai.vision.all  # noqa: F401
    before = {*sys.modules}
    importlib.import_module('fastai_balmix.all')
    return sorted({'.'.join(o.split('.')[:2]) for o in {*sys.modules}-before if not o.startswith('fastai_balmix')})


all_anew = ['fastai_balmix.all', '!fastai_balmix.all', '!fastai_balmix.callback.fitcheck', '!fastai_balmix.all']

def rooms_and_wings():
    "Every module but `all`, and every wing"
    return [f'fastai_balmix.{o}' for o in rooms() if o!='all'] + ['fastai_balmix',
        *(f'fastai_balmix.{wing(o)}' for o in rooms() if '.' in o)]

def at_first_import():
    "What imports do, each in a fork of a process that has imported fastai and nothing of the package"
    import fastai.vision.all  # noqa: F401
    assert not [o for o in sys.modules if o.startswith('fastai_balmix')]
    with get_context('fork').Pool(1, maxtasksperchild=1) as pool:
        jobs = dict(names=(imported, ('from fastai.vision.all import *', 'from fastai_balmix.all import *')),
                    beside=(imported_beside_fastai, ()), rooms=(callbacks_after, (rooms_and_wings(),)),
                    anew=(callbacks_after, (all_anew,)))
        print(json.dumps({k: pool.apply(func, args) for k,(func,args) in jobs.items()}))

@pytest.fixture(scope='module')
def first_import():
    "The processes of `warm_call` have imported the package already"
    return json.loads(subprocess.run(
        [sys.executable,'-Wignore','-c','import test_package as o; o.at_first_import()'],
        capture_output=True, text=True, check=True, cwd=root/'tests', env=os.environ|{'PYTHONPATH':str(root)}).stdout)


def test_nothing_is_shadowed(first_import):
    changed,new = first_import['names']
    assert not changed, f'`from fastai_balmix.all import *` replaces {changed} of fastai'
    assert {'BalancedMixUp', 'class_counts', 'digits_lt', 'DataLoaders.weighted'} <= {*new}


def test_the_everyday_names_import_little_beside_fastai(first_import):
    "Each of these takes longer to import than all that the everyday names need"
    dear = {'sklearn.datasets','sklearn.model_selection','sklearn.ensemble','scipy.io','timm','rich','jinja2','pydicom',
            'IPython','yaml','pebble','cloudpickle','filelock'}
    found = first_import['beside']
    assert not {o for o in found if o in dear or o.split('.')[0] in dear}, found


def test_shadowing_is_seen():
    changed,new = warm_call(imported, 'x = y = 1\nclass C: f = 1', 'x = 2; y = y; z = 3; C.f = 2; C.g = 3')
    assert (changed,new)==(['x','C.f'],['z','C.g'])


# Callbacks of every learner

def callbacks_after(imports):
    """Names in fastai's `defaults.callbacks` before and after each of several imports, or, with a `!` before it,
    after loading a module anew"""
    from fastai.basics import defaults
    sys.path.insert(0, str(root))
    res = [[o.__name__ for o in defaults.callbacks]]
    for mod in imports:
        if mod.startswith('!'): importlib.reload(sys.modules[mod[1:]])
        else: importlib.import_module(mod)
        res.append([o.__name__ for o in defaults.callbacks])
    return res


def test_only_all_changes_the_callbacks_of_every_learner(first_import):
    before,*after = first_import['rooms']
    assert [*map(set, after)]==[{*before}]*len(rooms_and_wings()), 'importing a room changes defaults.callbacks'


def test_all_adds_one_callback_also_when_loaded_anew(first_import):
    before,*after = first_import['anew']
    assert after==[[*before, 'FitCheck']]*4


# Examples

def examples():
    "The example in the docstring of each module that has one"
    doc = {module(p): ast.get_docstring(ast.parse(p.read_text(encoding='utf-8'))) or ''
        for p in package.rglob('[!_]*.py')}
    return {mod: re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL) for mod,text in doc.items()
        if '```python' in text}


def run_examples(folder, found):
    "Run examples, each after README's two imports and in a folder of its own"
    sys.path.insert(0, str(root))
    for mod,sources in found.items():
        (folder/mod).mkdir()
        os.chdir(folder/mod)
        ns = dict(__name__='__main__')
        exec('from fastai.vision.all import *\nfrom fastai_balmix.all import *', ns)
        for o in sources: exec(compile(o, f'<example of {mod}>', 'exec'), ns)

def wing(mod): return mod.partition('.')[0]

found = examples()

# Their cells run in the notebooks too
@pytest.mark.thinned(2)
@pytest.mark.parametrize('part', sorted({*map(wing, found)}))
def test_examples_of_modules_run(part, tmp_path):
    warm_call(run_examples, tmp_path, {k: v for k,v in found.items() if wing(k)==part})


# Imports

def imports(path):
    "Modules that a file imports"
    own,res = ['fastai_balmix', *path.relative_to(package).parts[:-1]],set()
    for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): res |= {a.name for a in o.names}
        if not isinstance(o, ast.ImportFrom): continue
        # nbdev makes ours relative
        start = own[:len(own)+1-o.level] if o.level else []
        res.add('.'.join([*start, *filter(None, [o.module])]))
    return res


def rooms():
    "The map in CONTRIBUTING.md: modules, from the highest to the lowest"
    shown = read('CONTRIBUTING.md').partition('## Where things belong')[2].partition('\n## ')[0]
    return re.findall(r'^\| `([a-z_.]+)` \|', shown, flags=re.MULTILINE)


def test_map_shows_every_room():
    there = {module(p) for p in package.rglob('[!_]*.py')}
    assert {*rooms()}==there, 'the map in CONTRIBUTING.md shows other modules than there are'
    for mod in rooms():
        if mod=='all': continue # written by hand
        nb = root/'nbs'/f"{mod.replace('.', '/')}.ipynb"
        assert f'"#| default_exp {mod}"' in nb.read_text(encoding='utf-8'), f'{nb} is not the source of {mod}'


def test_a_wing_is_one_part_of_the_map():
    wings = [wing(o) for o in rooms()]
    assert wings==sorted(wings, key=wings.index)


def test_rooms_import_from_below():
    below = [*rooms()]
    for mod in rooms():
        below.remove(mod)
        every = imports(package/f"{mod.replace('.', '/')}.py")
        used = {o.partition('.')[2] for o in every if o.startswith('fastai_balmix.')}
        others = sorted(used-{*below})
        # `from fastai_balmix.loaders import cache` names a room of a wing
        wings_below = {wing(o) for o in below}
        assert used <= {*below} | wings_below, f'{mod} imports from {others}, not all of it below'
        assert mod=='all' or not others, f'{mod} imports the wings {others}; rooms import rooms'


def test_no_module_is_hidden_by_a_name():
    for o in package.glob('*/__init__.pyi'):
        found = [n for n in ast.walk(ast.parse(o.read_text(encoding='utf-8'))) if isinstance(n, ast.ImportFrom)]
        names = {a.asname or a.name for n in found for a in n.names}
        hidden = names & {p.stem for p in o.parent.glob('[!_]*.py')}
        assert not hidden, f'{o.parent.name}: {sorted(hidden)} are modules and public names'


def test_imports_are_requirements():
    cfg = ConfigParser()
    cfg.read(root/'settings.ini', encoding='utf-8')
    needs = [re.match(r'[\w-]+', o)[0].replace('-','_') for o in cfg['DEFAULT']['requirements'].split()]
    brought = 'fastcore','fastprogress','torchvision','PIL','markupsafe','sklearn','yaml'
    in_notebooks = 'IPython' # is imported only where a notebook runs
    extra = 'pydicom' # is imported only where a DICOM file is opened
    known = {*sys.stdlib_module_names, *needs, *brought, 'fastai_balmix', in_notebooks, extra}
    for p in package.rglob('*.py'):
        used = {o.split('.')[0] for o in imports(p)}
        assert used <= known, f'{p.name} imports {sorted(used-known)}, which a plain install does not bring'


# README

def run_blocks(folder, sources):
    os.chdir(folder)
    sys.path.insert(0, str(root))
    ns = dict(__name__='__main__')
    for i,src in enumerate(sources): exec(compile(src, f'<python block {i+1} of README.md>', 'exec'), ns)


@pytest.mark.slow # the notebook that README is made from is among the fast ones
def test_readme_code_runs(tmp_path):
    sources = blocks('python')
    assert sources, 'README.md shows no code'
    warm_call(run_blocks, str(tmp_path), sources)
