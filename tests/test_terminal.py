"""What a terminal shows of the commands: real runs in a pseudo-terminal and in a pipe, and tables of any width with
names that come from outside. The notebooks cannot show either."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from fastai_balmix.compare.answer import headline
from fastai_balmix.compare.closing import closing_lines, score_table
from fastai_balmix.compare.names import described, inside_sentence, method_title
from fastai_balmix.compare.suggest import advice
from fastai_balmix.terminal import aligned, fitting_names, labelled, table_width, wrapped

# ------------------------------------------------------------------ a real comparison

def command(name): return Path(sys.executable).parent/name
def plain(text): return re.sub(r'\x1b\[[?\d;]*[A-Za-z]', '', text)
def drawn(text): return [o for o in re.split('[\r\n]+', plain(text)) if o.strip()]

def environment(**env):
    return {**{k: v for k,v in os.environ.items() if k not in ('COLUMNS','NO_COLOR','FORCE_COLOR')},
            'TERM':'xterm-256color', 'OMP_NUM_THREADS':'1', **env}

def on_terminal(args, columns=80, stop_at=None, **env):
    "What a command writes to a terminal, and its exit status; Ctrl-C is typed where `stop_at` is seen"
    ours,theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    p = subprocess.Popen([*map(str, args)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**env),
                         start_new_session=True)
    os.close(theirs)
    watch = threading.Timer(280, p.kill)
    watch.start()
    seen,stopped = b'',False
    try:
        while piece := os.read(ours, 4000):
            seen += piece
            if stop_at and not stopped and stop_at in plain(seen.decode(errors='ignore')):
                time.sleep(.2)
                os.killpg(p.pid, signal.SIGINT)
                stopped = True
    except OSError: pass # nobody writes any more
    watch.cancel()
    return seen.decode(),p.wait()

quick = ['--preset','quick','--methods','instance,class','--epochs',1]

@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    "One fold on a terminal, both folds on another, all of it again in a pipe"
    out = tmp_path_factory.mktemp('shown')/'out'
    compare = [command('balmix-compare'),*quick,'--out',out]
    first = on_terminal([*compare,'--folds',1,'--no-report'], NO_COLOR='1')
    there = sorted(o.name for o in out.iterdir())
    second = on_terminal(compare)
    page = (out/'report.html').read_text()
    (out/'report.html').write_text('<p>mine</p>')
    piped = subprocess.run([*map(str, compare)], capture_output=True, text=True, env=environment(), timeout=280)
    return SimpleNamespace(out=out, first=first, there=there, second=second, page=page, piped=piped)

@pytest.mark.slow
def test_a_comparison_on_a_terminal(shown):
    text,status = shown.first
    assert status==0 and 'report.html' not in shown.there and 'Page' not in text
    assert max(map(cell_len, drawn(text)))<=80 and 'MCC' in text and '|' not in text
    assert 'Plan     2 methods = 2 runs' in plain(text) and 'runs were done' not in text
    assert re.search(r'Training ━+ 2/2  \d+ s', plain(text)) and text.rindex('\x1b[?25h')>text.rindex('\x1b[?25l')
    assert not re.search(r'\x1b\[[\d;]*3[0-8]', text), 'NO_COLOR was set'

@pytest.mark.slow
def test_a_comparison_that_resumes_on_a_terminal(shown):
    text,status = shown.second
    lines = drawn(text)
    assert status==0 and max(map(cell_len, lines))<=80
    assert any(o.strip()=='2 of 4 runs were done.' for o in lines)
    # finished runs are done from the start, and tell how long the others take
    assert re.search(r'Training [━╸╺]+ 2/4  \d+ s  \d+ s left', plain(text))
    rows = [o for o in lines if o.startswith(('Plain sampling  ','Class-balanced sampling  '))]
    assert len(rows)==2 and len(rows[0])==len(rows[1]) and all(re.search(r' \d+ of 8$', o) for o in rows)
    assert any(o.startswith(('No ','Nothing ','One ')) for o in lines) and any(o.startswith('Next: ') for o in lines)
    assert sum('Folds are by image' in o for o in lines)==1
    page = next(o for o in lines if o.startswith('Page')).split()[1]
    assert page==str(shown.out/'report.html')
    assert '<meta name="generator" content="fastai_balmix' in shown.page

@pytest.mark.slow
def test_a_comparison_in_a_pipe(shown):
    p = shown.piped
    assert p.returncode==0 and p.stderr=='' and '\x1b' not in p.stdout and '\r' not in p.stdout and '━' not in p.stdout
    lines = p.stdout.splitlines()
    assert len(lines)<25 and f"{'':9}4 of 4 runs were done." in lines and not any('Training' in o for o in lines)
    assert 'is not a report. It is kept' in ' '.join(p.stdout.split())
    assert (shown.out/'report.html').read_text()=='<p>mine</p>'
    markdown = (shown.out/'summary.md').read_text()
    assert '| Plain sampling | 2 folds |' in markdown and '| --- |' not in p.stdout

@pytest.mark.slow
def test_ctrl_c_leaves_a_terminal_whole(tmp_path):
    args = [command('balmix-compare'),*quick,'--epochs',50,'--out',tmp_path/'out']
    text,status = on_terminal(args, stop_at='Training')
    assert status==1 and 'Traceback' not in text and drawn(text)[-1]=='Stopped. The same command resumes it.'
    assert text.rindex('\x1b[?25h')>text.rindex('\x1b[?25l') and (tmp_path/'out'/'settings.yaml').is_file()


# ------------------------------------------------------------------ the table at the end

METRICS = 'mcc','balanced_accuracy','macro_f1'
POINTS = 'as trained','train prevalence','balanced prior'

def answer(methods=('instance','class','balmix_0.2'), rarest='dermatofibroma', archs=('net',), each=(), **kwargs):
    score = dict(mean=.68, low=.649, high=.711, each=[*each])
    rows = [dict(arch=arch, method=o, title=method_title(o), runs='5 folds', n_runs=5, found=16.4, of=1042,
                 scores=dict.fromkeys(METRICS, score))
            for arch in archs for o in methods]
    pairs = [(arch,o) for arch in archs for o in methods if o!='instance']
    compared = [dict(arch=arch, method=o, title=method_title(o), metric=m, point=point, verdict='not shown', shown='',
                     diff=.011, low=-.02, high=.04, q=1., phi=1.2, mdd80=.048)
                for arch,o in pairs for m in METRICS for point in POINTS]
    return dict(baseline='instance', title='Plain sampling', monitor='mcc', metrics=[*METRICS],
                kind='folds', n_seeds=1, n_runs=len(rows)*5, n_failed=0, n_constant=0, seconds=60., rarest=rarest,
                counts={'naevus':900, 'melanoma':400, rarest:42}, methods=rows, comparisons=compared) | kwargs

long_names = ['ulcerative-colitis-grade-2-3 of the descending colon, unclear','正常な胃の粘膜と食道の境界線',
              '[red]x[/red] :smile:','a\tb\x1b[31m\nc', 'x'*200]

@pytest.mark.parametrize('name', long_names)
@pytest.mark.parametrize('width', [60,80,120])
def test_a_table_fits_with_any_names(name, width):
    a = answer(['instance','class','balmix_pair',name], rarest=name)
    lines = score_table(a, width).splitlines()
    assert max(map(cell_len, lines))<=width and len({cell_len(o) for o in lines[1:]})==1
    assert '\x1b' not in ''.join(lines)
    assert len({o[:12] for o in lines[2:]})==4 and 'balanced' in lines[0]
    if 'red' in name: assert '[red]' in ''.join(lines)

@pytest.mark.parametrize('n', [23,100])
def test_many_methods_stay_apart(n):
    names = [f'ulcerative-colitis-grade-{i} of the descending colon, unclear' for i in range(n)]
    lines = score_table(answer(['instance',*names])).splitlines()
    assert len({o[:24] for o in lines[2:]})==n+1 and max(map(cell_len, lines))<=80

def test_two_and_three_runs_are_values():
    for each,cell in ((.6612,.705),'66.1, 70.5'),((.6612,.705,.7),'66, 70, 70'):
        assert cell in score_table(answer(each=each))
    assert '68.0 ± 3.1' in score_table(answer())
    assert '–' in score_table(answer(each=(None,.5)))

def test_networks_have_rows_of_their_own():
    rows = [o.split('  ')[0] for o in score_table(answer(archs=['net','wide'])).splitlines()[2:]]
    assert rows==['net','Plain sampling','Class-balanced sampling','Balanced-MixUp 0.2','wide','Plain sampling',
                  'Class-balanced sampling','Balanced-MixUp 0.2']

def test_limits_are_said_once_and_not_again():
    limits = [f'Limit {i} of these figures.' for i in range(6)]
    summary = SimpleNamespace(answer=answer(), limits=[*limits,limits[0]], unfinished=[])
    text = closing_lines(summary, said=limits[1:2], width=80)
    said = ' '.join(text.split())
    assert [said.count(o) for o in limits]==[1,0,1,1,1,0] and '1 more in summary.md.' in said

def test_that_epochs_were_few_is_said_once():
    few = 'Of 3 epochs, the last was the best in 15 of 15 runs: more epochs may change these scores.'
    a = answer(epochs=3, n_last=15)
    text = closing_lines(SimpleNamespace(answer=a, limits=['A limit.',few], unfinished=[few]), width=80)
    assert 'Next: train for 6 epochs' in text and 'Limits: A limit.' in text and 'more epochs may' not in text

def test_an_error_is_wrapped_between_words():
    compare = [command('balmix-compare'),'--methods','instance','--epoch','3','--out','a_folder_of_mine']
    for args,words in ((compare,'balmix-compare --help shows all.'),
                       ([command('balmix-data'),'nowhere'],"'fashion_mnist_lt', 'digits', 'from_folder_table'")):
        text,status = on_terminal(args)
        assert status and max(map(cell_len, drawn(text)))<=80 and words in ' '.join(plain(text).split())


# ------------------------------------------------------------------ the answer

def test_what_is_said_of_few_runs():
    a = answer()
    for o in a['comparisons']: o['mdd80'] = .17
    assert headline(a).endswith('These runs could only have found a difference of 17 points of MCC or more.')

def test_what_the_headline_claims():
    assert headline(answer())==('No method is shown to be better or worse than plain sampling. A difference of 5 '
                                'points of MCC or more would probably have been found.')
    assert headline(answer(['instance','balmix_0.2'])).startswith('No difference between Balanced-MixUp 0.2 and plain')
    def with_rows(shown=('','',''), **kwargs):
        a = answer(['instance','class'])
        for o in a['comparisons']:
            if o['metric']=='balanced_accuracy': o |= dict(kwargs, shown=shown[POINTS.index(o['point'])])
        return headline(a)
    assert with_rows(['better','','better'], verdict='learned', diff=.042, low=.011, high=.073)==(
        'Class-balanced sampling is better than plain sampling: +4.2 points of balanced accuracy (+1.1 to +7.3) under '
        'the balanced prior. At the training prevalence, no difference of MCC is shown.')
    assert with_rows(['better','',''], verdict='not told apart', diff=.09)==(
        'As trained, class-balanced sampling differs from plain sampling: +9.0 points of balanced accuracy. At equal '
        'operating points no difference is shown, so this may be a threshold effect.')
    assert 'depends on the operating point' in with_rows(verdict='depends on the operating point')
    for verdict,said in ('one run each','One run of each method'),('no claim','Nothing is claimed'):
        a = answer()
        for o in a['comparisons']: o['verdict'] = verdict
        assert headline(a).startswith(said)
    assert headline(answer(['instance'])).startswith('Plain sampling alone was trained')

def test_advice_is_what_the_numbers_say():
    "A further seed, or images of a class that is rare among others: first what helps more"
    images,seed = advice(answer(['instance','class']))
    assert seed=='One more seed would show differences of about 4 points of MCC, now 5 points, in 10 min of training.'
    assert images=='40 more images of dermatofibroma would tell more than another method.'
    less_rare = dict(naevus=900, melanoma=400, dermatofibroma=200)
    assert advice(answer(['instance','class'], counts=less_rare))[0]==seed
    assert advice(answer(['instance','class'], counts=less_rare, n_seeds=6))[0].startswith('200 more images')
    assert 'dermatofibroma' not in ' '.join(advice(answer(counts=dict(naevus=50, dermatofibroma=42))))
    assert advice(answer(n_constant=3))==['Train for more epochs: 3 of 15 networks answered one class to everything.']
    assert advice(answer(kind='one run'))[0].startswith('Train a second seed of each method, in 15 min of training.')
    assert advice(answer(n_failed=1))[0].startswith('Start the same command again')
    a = answer()
    for o in a['comparisons']: o['mdd80'] = .4
    assert advice(a)[0].startswith('Collect more images: these 1,342 only show differences of 40 points')
    for o in a['comparisons']: o['phi'] = 50.
    assert advice(a)[0].startswith('Train for more epochs, or more folds and seeds')


# ------------------------------------------------------------------ lines

def test_titles_inside_a_sentence():
    for title,inside in (('Plain sampling','plain sampling'),('Balanced-MixUp 0.2',)*2,('Remix',)*2,('Tversky loss',)*2,
                         ('cRT',)*2): assert inside_sentence(title)==inside
    assert all(o.title for o in described.values() if o.source)

@pytest.mark.parametrize('width', [50,60,80,120])
def test_prose_is_wrapped_by_the_width_of_its_letters(width):
    text = "正常な 胃の粘膜 "*20+"leave it out with --exclude 'unclear findings of the stomach' or --merge 'a=b c'."
    lines = wrapped(text, width)
    assert max(map(cell_len, lines))<=width and ' '.join(lines)==' '.join(text.split())
    assert any("'unclear findings of the stomach'" in o for o in lines)
    assert all(o.startswith(' '*9) for o in labelled('note', text, width).splitlines()[1:])

def test_a_path_is_never_broken():
    path = '/data/'+'x'*200
    assert any(o.strip()==path for o in labelled('Page', f'not written: {path}').splitlines())

def test_columns_are_aligned_by_the_width_of_letters():
    text = aligned(['','n'], [['正常','1'],['abcde','[b]22[/b]']])
    assert {cell_len(o) for o in text.splitlines()}=={table_width(text)} and '[b]22[/b]' in text
    assert fitting_names(['a'*50,'a'*49+'b'], 12)[0]!=fitting_names(['a'*50,'a'*49+'b'], 12)[1]
