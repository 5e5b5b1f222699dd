"""The demonstration as a command: what a shell sees, and what it replaces, which the notebook cannot show."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from fastai_balmix.compare.names import method_title
from fastai_balmix.compare.results import Results
from fastai_balmix.demo import demo


def run(*args, **kwargs): return subprocess.run([*args], capture_output=True, text=True, timeout=280, **kwargs)
def command(name): return Path(sys.executable).parent/name

def test_what_is_there_is_kept(tmp_path):
    (tmp_path/'balmix-demo').mkdir()
    (tmp_path/'balmix-demo'/'results.csv').write_text('mine')
    res = run(sys.executable, '-m', 'fastai_balmix', cwd=tmp_path)
    assert res.returncode==1 and 'Traceback' not in res.stderr
    assert "'balmix-demo' is there already and is kept" in res.stderr
    assert (tmp_path/'balmix-demo'/'results.csv').read_text()=='mine'

def test_versions_and_help_need_no_fastai(tmp_path):
    said = run(sys.executable, '-m', 'fastai_balmix', '--versions', cwd=tmp_path)
    assert said.returncode==0 and not said.stderr and not [*tmp_path.iterdir()]
    starts = ['fastai_balmix 0','fastai 2','torch 2','torchvision','timm','scikit-learn','numpy','pandas',
              'Python 3','','cores: ','GPU: ']
    lines = said.stdout.splitlines()
    assert len(lines)==len(starts) and all(a.startswith(b) for a,b in zip(lines, starts))
    for module in 'demo','compare.cli','report.cli':
        seen = run(sys.executable, '-c', f"import sys, fastai_balmix.{module}; print(*sys.modules)").stdout.split()
        assert 'fastai_balmix.commands' in seen and not {'torch','fastai','numpy','pandas'} & {*seen}

def stopped(out, monkeypatch, write=True, **kwargs):
    "What a demonstration says that is stopped once it has written a few files, or before"
    from fastai_balmix.compare import plan
    def compare(data, out, **settings):
        if write:
            (out/'runs'/'a').mkdir(parents=True)
            for o in 'meta.json','results.csv','report.html','runs/a/run.json': (out/o).write_text('{}')
            (out/'runs'/'a'/'lock').touch()
            (out/'settings.yaml').write_text(yaml.safe_dump(settings))
        raise KeyboardInterrupt
    monkeypatch.setattr(plan, 'compare', compare)
    with pytest.raises(SystemExit) as e: demo(out=out, quick=True, **kwargs)
    return str(e.value)

def everything(out): return {o.relative_to(out): o.read_bytes() if o.is_file() else None for o in out.rglob('*')}

# What is done to a folder after a demonstration, which must keep it
def other_file(out): (out/'thesis.tex').write_text('mine')
def other_folder(out): (out/'mine').mkdir()
def run_of_another(out):
    (out/'runs'/'b').mkdir()
    (out/'runs'/'b'/'run.json').write_text('{"method": "mine"}')
def empty_run(out): (out/'runs'/'b').mkdir()
def weights(out): (out/'runs'/'a'/'weights.pth').touch()
def new_figures(out): (out/'results.csv').write_text('run\nb\n')
def new_record(out): (out/'runs'/'a'/'run.json').write_text('{"method": "mine"}')
def other_settings(out):
    s = yaml.safe_load((out/'settings.yaml').read_text())
    (out/'settings.yaml').write_text(yaml.safe_dump(dict(s, epochs=300)))
def link(out):
    (out.parent/'far').mkdir()
    (out.parent/'far'/'thesis.tex').write_text('mine')
    (out/'runs'/'b').symlink_to(out.parent/'far')
def link_for_file(out):
    (out/'results.csv').rename(out.parent/'far.csv')
    (out/'results.csv').symlink_to(out.parent/'far.csv')
def link_for_all(out):
    out.rename(out.parent/'there')
    out.symlink_to(out.parent/'there')
def fifo(out): os.mkfifo(out/'runs'/'a'/'error.json')
def no_record(out): (out/'meta.json').write_text('{"data": "digits"}')
def damaged_record(out): (out/'meta.json').write_text('{"demo": ["results.csv"]}')
def no_meta(out): (out/'meta.json').unlink()

changes = [other_file,other_folder,run_of_another,empty_run,weights,new_figures,new_record,other_settings,link,
           link_for_file,link_for_all,fifo,no_record,damaged_record,no_meta]

@pytest.mark.parametrize('change', changes)
def test_force_replaces_nothing_but_a_demonstration(tmp_path, change, monkeypatch):
    out = tmp_path/'out'
    assert 'Stopped. Start it again with --force' in stopped(out, monkeypatch)
    change(out)
    before = everything(tmp_path)
    said = stopped(out, monkeypatch, force=True)
    assert 'does not look like the output of an earlier balmix-demo, and is kept' in said
    assert everything(tmp_path)==before and '\n' not in said

def test_force_replaces_a_demonstration_that_was_stopped(tmp_path, monkeypatch):
    out = tmp_path/'out'
    stopped(out, monkeypatch)
    (tmp_path/'beside').touch()
    assert 'Stopped' in stopped(out, monkeypatch, write=False, force=True) and not out.exists()
    assert [*everything(tmp_path)]==[Path('beside')]

def test_a_comparison_of_the_same_settings_is_kept(tmp_path, monkeypatch):
    "As `compare` makes it, which leaves no record of a demonstration"
    from fastai_balmix.compare.plan import compare
    from fastai_balmix.demo import demo_settings
    out = tmp_path/'out'
    settings = demo_settings(quick=True)
    compare(**{**settings, 'epochs':1, 'methods':['instance'], 'folds':[1]}, out=out, show=False)
    before = everything(tmp_path)
    assert 'and is kept. It has no record of a demo.' in stopped(out, monkeypatch, force=True)
    assert everything(tmp_path)==before

def test_what_comes_while_a_demonstration_works_is_not_its_own(tmp_path, monkeypatch):
    from fastai_balmix import demo as module
    out = tmp_path/'out'
    monkeypatch.setattr(module, '_one_thread', lambda: notes_in(out))
    stopped(out, monkeypatch)
    assert 'notes.txt is not what a demo has written' in stopped(out, monkeypatch, force=True)
    assert (out/'notes.txt').read_text()=='mine'

@contextmanager
def notes_in(out):
    try: yield
    finally: (out/'notes.txt').write_text('mine')

@pytest.mark.slow
def test_the_command_trains_prints_and_writes(tmp_path):
    out = tmp_path/'a'/'b'
    for force in [],['--force']:
        res = run(command('balmix-demo'), '--quick', '--out', out, *force)
        assert res.returncode==0 and res.stderr=='', res.stderr
        assert {p.name for p in out.iterdir()}=={'class_distribution.png','mixed_pairs.png','report.html','results.csv',
                                                 'meta.json','settings.yaml','runs'}
        df = Results(out).df
        assert [*df.method.unique()]==['instance','class','balmix_0.2'] and df.run.nunique()==9
        df = df[df.part=='report']
        for m in df.method.unique():
            trained = df[(df.method==m) & (df.point=='as trained')].sort_values('fold')
            want = ', '.join(f'{100*o:.0f}' for o in trained.balanced_accuracy)
            assert re.search(rf'^{re.escape(method_title(m))} +{want}  ', res.stdout, re.MULTILINE)
        assert df.balanced_accuracy[df.point=='as trained'].mean()>.7
        assert max(len(o) for o in res.stdout.splitlines() if '/' not in o)<=80 # but for the path of the page
        assert 'plain sampling' in res.stdout and f"Page     {out/'report.html'}" in res.stdout
        assert 'no forecast for other data' in res.stdout
