"""What is suggested next: each rule on facts that meet it and on facts that just miss it, commands that are parsed
again, and `--suggest` on folders and data, in which it changes nothing."""

import shlex

import pytest
from made import write_results
from PIL import Image

from fastai_balmix.commands import typed_again
from fastai_balmix.compare import fitting
from fastai_balmix.compare.cli import balmix_compare
from fastai_balmix.compare.closing import closing_lines
from fastai_balmix.compare.facts import facts_of_data, facts_of_folder
from fastai_balmix.compare.methods import Method
from fastai_balmix.compare.plan import compare
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.suggest import Suggestion, advice, command_of, suggestions
from fastai_balmix.compare.summary import summarise
from fastai_balmix.datasets import digits

POINTS = 'as trained','train prevalence','balanced prior'

def row(method='balmix_0.2', point='train prevalence', **kwargs):
    return dict(arch='net', method=method, title=method, metric='mcc', point=point, verdict='not shown', shown='',
                diff=.01, low=-.02, high=.04, phi=1.2, mdd80=.048) | kwargs

def facts(methods=('instance','balmix_0.2'), **kwargs):
    "Five folds of a comparison with nothing to say but that a seed would help"
    usual = dict(
        baseline='instance', title='Plain sampling', monitor='mcc', kind='folds', n_seeds=1, n_runs=5*len(methods),
        n_failed=0, n_constant=0, seconds=60., counts=dict(a=100, b=90, c=80), rarest='c', ordered=False, n_folds=5,
        folds=[1,2,3,4,5], n_images=2000, pretrained=False, epochs=30, n_last=0, comparisons=[row()],
        methods=[dict(arch='net', method=o) for o in methods])
    return usual | kwargs

SEED = 'One more seed would show differences of about 4 points of MCC, now 5 points, in 10 min of training.'

learned = dict(verdict='learned', shown='better')
moved = row(point='as trained', verdict='not told apart', shown='better', diff=.12, low=.08, high=.16)
alphas = 'instance','balmix_0.1','balmix_0.3'

# Facts that meet a rule, the sentence, what changes; and facts that just miss it
rules = [
    (dict(), SEED, dict(seeds=2), dict(comparisons=[row(mdd80=.0099)])),
    (dict(n_failed=1), 'Start the same command again: it tries the runs that failed once more.', {}, dict()),
    (dict(n_constant=2), 'Train for 60 epochs, in 20 min of training: 2 of 10 networks answered one class to '
     'everything.', dict(epochs=60), dict()),
    (dict(n_last=8), 'Train for 60 epochs, in 20 min of training: the last epoch was the best in 8 of 10 runs.',
     dict(epochs=60), dict(n_last=7)),
    (dict(methods=[dict(arch='net', method='instance')], n_runs=5),
     'Add √-sampling and Balanced-MixUp 0.2, in 10 min of training: one method alone shows nothing.',
     dict(methods=['instance','sqrt','balmix_0.2']), dict()),
    (dict(folds=[1,2], n_runs=4), 'Train the other 3 folds, in 6 min of training: 2 of 5 were run, and each has images '
     'of its own.', dict(folds=[1,2,3,4,5]), dict(folds=[], n_folds=0)),
    (dict(kind='one run', n_runs=2, n_folds=0, folds=[]), 'Train a second seed of each method, in 2 min of training. '
     'One run each shows nothing of methods.', dict(seeds=2), dict()),
    (dict(comparisons=[row(),moved]), 'Move the probabilities of plain sampling by PriorCalibrator rather than train a '
     'further method: less than half of its distance to balmix_0.2 is left at equal operating points.', None,
     dict(comparisons=[moved])), # equal operating points were not measured
    (dict(comparisons=[moved,row(low=.01, high=.059)]), 'Move the probabilities of plain sampling by PriorCalibrator '
     'rather than train a further method: less than half of its distance to balmix_0.2 is left at equal operating '
     'points.', None, dict(comparisons=[moved,row(),row(point='balanced prior', high=.061)])),
    (dict(comparisons=[moved | dict(diff=-.12, low=-.16, high=-.08, shown='worse'),row(low=-.059)]), 'Move the '
     'probabilities of plain sampling by PriorCalibrator rather than train a further method: less than half of its '
     'distance to balmix_0.2 is left at equal operating points.', None,
     dict(comparisons=[moved | dict(diff=-.12, low=-.16, high=-.08, shown='worse'),row(low=-.061)])),
    (dict(ordered=True), 'Add squared error of the grade and CORN, in 10 min of training: they know the order of the '
     'grades.', dict(methods=['instance','balmix_0.2','ordinal_mse','corn']),
     dict(ordered=True, methods=[dict(arch='net', method=o) for o in ('instance','corn')])),
    (dict(pretrained=True, n_images=999), 'Add linear probe, in 5 min of training: 999 images are few to train a whole '
     'network on.', dict(methods=['instance','balmix_0.2','linear_probe']), dict(pretrained=True, n_images=1000)),
    (facts(alphas, comparisons=[row('balmix_0.3', **learned)]), 'Add Balanced-MixUp 0.5, in 5 min of training: the '
     'best α, 0.3, is the largest that was run.', dict(methods=[*alphas,'balmix_0.5']),
     facts(alphas, comparisons=[row('balmix_0.3')])),
    (facts(alphas, comparisons=[row('balmix_0.1', **learned)]), 'Add Balanced-MixUp 0.05, in 5 min of training: the '
     'best α, 0.1, is the smallest that was run.', dict(methods=[*alphas,'balmix_0.05']),
     facts((*alphas,'balmix_0.05'), comparisons=[row('balmix_0.1', **learned)])),
    (dict(counts=dict(a=900, b=400, c=9)), '9 more images of c would tell more than another method.', None,
     dict(counts=dict(a=900, b=400, c=390)))]

@pytest.mark.parametrize('met,text,change,missed', rules, ids=[o[1][:30] for o in rules])
def test_rules(met, text, change, missed):
    first = suggestions(facts() | met)[0]
    assert first==Suggestion(text, change)
    assert text not in advice(facts() | missed) or not missed

def test_what_cannot_be_compared_yet_is_all_that_is_said():
    for met in dict(n_constant=1),dict(n_last=10),dict(folds=[1]),dict(kind='one run'):
        assert len(suggestions(facts(ordered=True) | met))==1
    assert len(suggestions(facts(ordered=True, n_failed=1)))==3

def test_facts_of_an_earlier_version_are_enough():
    "A summary that was kept lacks what is new"
    new = 'ordered','n_folds','folds','n_images','pretrained','epochs','n_last'
    assert advice({k: v for k,v in facts().items() if k not in new})==[SEED]
    assert 'training' not in advice(facts(seconds=None))[0]

def test_a_first_comparison():
    start = dict(methods=[], n_folds=5, ordered=False, seconds=60., counts=dict(a=900, b=400, c=9), rarest='c')
    first,images = suggestions(start)
    assert first==Suggestion('Compare plain sampling, √-sampling and Balanced-MixUp 0.2 on 5 folds, in up to 15 min of '
                             'training: nothing has been compared yet, and these are the cheapest.',
                             dict(methods=['instance','sqrt','balmix_0.2']))
    assert images.text.startswith('9 more images of c')
    split, = suggestions(start | dict(n_folds=0, counts=dict(a=9, b=9), rarest='a', seconds=None))
    assert 'with 2 seeds: nothing' in split.text and split.change['seeds']==2


# ------------------------------------------------------------------ the command

def parsed(command): return vars(balmix_compare.parser.parse_args(shlex.split(command)[1:]))

@pytest.mark.parametrize('change,option', [
    (dict(seeds=3),dict(seeds=3)), (dict(folds=[1,2,3]),dict(folds='1,2,3')), ({},{}),
    (dict(methods=['instance','balmix_0.5']),dict(methods='instance,balmix_0.5'))])
def test_a_command_is_of_the_same_folder(change, option):
    settings = dict(data=dict(reader='digits'), methods=['instance'], seeds=[0,1])
    got = parsed(command_of(Suggestion('x', change), settings, "the patients' results"))
    assert {k: got[k] for k in option}==option and str(got['out'])=="the patients' results"
    assert str(got['settings'])=="the patients' results/settings.yaml"

def test_more_epochs_are_another_folder():
    got = parsed(command_of(Suggestion('x', dict(epochs=60)), dict(data=dict(reader='digits'), seeds=[0]), 'out'))
    assert got['epochs']==60 and str(got['out'])=='out-60-epochs' and str(got['settings'])=='out/settings.yaml'

def test_what_a_command_cannot_say_is_said_in_python():
    more = Suggestion('x', dict(seeds=2))
    data = dict(reader='digits')
    for settings in (dict(data='given in Python', seeds=[0]),dict(data=data, seeds=[100]),{},
                     dict(data=data, seeds=[0], methods=['mine']),
                     dict(data=data, seeds=[0], external=dict(other='given in Python'))):
        assert command_of(more, settings, 'out').startswith("compare(..., seeds=2, out='out') in Python")
    assert command_of(Suggestion('x'), dict(data=data), 'out')==''

@pytest.mark.parametrize('line', [
    '', '--data "my scans" --group "(P[0-9]+)_" --size 64 --no-verify', '--preset quick --seeds 2 --ema --lr .05',
    "--data t.csv --label 'it''s' --out 'a b' --cache x --ordered"])
def test_a_command_is_typed_again(line):
    values = vars(balmix_compare.parser.parse_args(shlex.split(line)))
    assert parsed(typed_again(balmix_compare, values))==values
    assert parsed(typed_again(balmix_compare, values, methods='sqrt'))==values | dict(methods='sqrt')


# ------------------------------------------------------------------ --suggest

def suggested(line, capsys):
    "Lines that `balmix-compare --suggest` prints, or its error"
    try: balmix_compare(**vars(balmix_compare.parser.parse_args(['--suggest',*shlex.split(line)])))
    except SystemExit as e: return str(e.code)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(o)<=80 or '/' in o for o in lines) # a path is not broken
    return lines

def joined(lines, label):
    "The text behind a label, in one line"
    start = next(i for i,o in enumerate(lines) if o.startswith(label))
    rest = next((i for i,o in enumerate(lines[start+1:], start+1) if not o.startswith(' ')), len(lines))
    return ' '.join(o[9:].strip().removesuffix('\\').strip() for o in lines[start:rest])

@pytest.fixture
def no_training(monkeypatch):
    def train(*args): raise AssertionError('something was trained')
    monkeypatch.setattr(fitting, '_train', train)

def test_nothing_to_suggest_for(capsys, tmp_path):
    for line in '',f'--out {tmp_path}',f'--out {tmp_path}/none':
        assert suggested(line, capsys)==('balmix-compare: Say what to suggest a comparison for: --data DATA, or '
                                         '--out FOLDER with finished runs.')
    assert 'Did you mean' in suggested('--data digit', capsys)

def test_a_command_can_be_copied(capsys, tmp_path):
    settings = 'data: {reader: digits}\nseeds: [0]\n'
    folder = write_results(tmp_path/('x'*90), ['a','b','c'], folds=(0,), n_folds=0, settings=settings)
    text = '\n'.join(suggested(f'--out {folder}', capsys))
    command = text[text.index('balmix-compare'):]
    assert all(o.endswith('\\') for o in command.splitlines()[:-1])
    assert parsed(command.replace('\\\n', ' '))['out']==folder and parsed(command.replace('\\\n', ' '))['seeds']==2

def test_a_folder_of_results(capsys, tmp_path, no_training):
    folder = write_results(tmp_path/'out', ['naevus','melanoma','dermatofibroma'],
                           settings='data: {reader: digits}\nmethods: [instance, class]\nseeds: [0]\n')
    before = {o: o.stat().st_mtime_ns for o in folder.rglob('*')}
    lines = suggested(f'--out {folder}', capsys)
    assert {o: o.stat().st_mtime_ns for o in folder.rglob('*')}==before
    said = advice(summarise(Results(folder)).answer)[0]
    assert joined(lines, 'Next')==said and joined(lines, 'Found').startswith('4 runs on made.')
    end = ' '.join(closing_lines(summarise(Results(folder))).split())
    assert f'Next: {said[0].lower()}{said[1:]}' in end
    first = suggestions(facts_of_folder(folder)[0])[0]
    if first.change: assert parsed(joined(lines, 'Command'))['settings']==folder/'settings.yaml'

def test_options_that_do_not_count_are_named(capsys, tmp_path, no_training):
    folder = write_results(tmp_path/'out', ['a','b','c'], settings='data: {reader: digits}\nseeds: [0]\n')
    def noted(line): return joined(suggested(line, capsys), 'Note')
    assert noted(f'--out {folder} --data digits --methods instance,crt --epochs 9')==(
        f"--data, --methods and --epochs do not count: the suggestion follows from the runs in '{folder}'.")
    assert noted('--data digits --methods crt --archs small --size 8')==(
        '--methods does not count: a first comparison is of the cheapest methods.')
    for line in f'--out {folder}','--data digits --archs small --size 8':
        assert not any(o.startswith('Note') for o in suggested(line, capsys))

def test_data_on_which_nothing_was_run(capsys, tmp_path, no_training, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = '--archs small --size 16 --bs 32 --augment none --pretrained no --epochs 2 --n-folds 2'
    lines = suggested(f'--data digits {recipe} --out "my out"', capsys)
    assert joined(lines, 'Next').startswith('Compare plain sampling, √-sampling and Balanced-MixUp 0.2 on 5 folds')
    got = parsed(joined(lines, 'Command'))
    assert got==parsed(f'x --data digits {recipe} --out "my out" --methods instance,sqrt,balmix_0.2')
    assert not [*tmp_path.iterdir()]

def test_a_class_with_a_few_images(capsys, tmp_path, no_training):
    for label,n in ('benign',40),('malign',40),('rare',4):
        (tmp_path/'scans'/label).mkdir(parents=True)
        for i in range(n): Image.new('RGB', (8,8), (6*i,n,len(label))).save(tmp_path/f'scans/{label}/{i}.png')
    lines = suggested(f'--data {tmp_path}/scans --archs small --size 8 --bs 4 --pretrained no --n-folds 2', capsys)
    assert joined(lines, 'Next').startswith('Compare plain sampling')
    assert not (tmp_path/'results').exists()

def test_one_class_is_nothing_to_compare(capsys, tmp_path, no_training):
    (tmp_path/'scans/benign').mkdir(parents=True)
    for i in range(12): Image.new('RGB', (8,8), (6*i,0,0)).save(tmp_path/f'scans/benign/{i}.png')
    said = suggested(f'--data {tmp_path}/scans --archs small --size 8 --bs 4', capsys)
    assert "needs images of at least two classes, but all of scans are of 'benign'" in said

def test_settings_of_a_comparison_that_was_stopped_at_once(capsys, tmp_path, no_training):
    (tmp_path/'out').mkdir()
    (tmp_path/'out/settings.yaml').write_text('data: {reader: digits, n_folds: 2}\narchs: [small]\n'
                                              'training: {size: 16, bs: 32, pretrained: false}\n')
    lines = suggested(f'--out {tmp_path}/out', capsys)
    got = parsed(joined(lines, 'Command'))
    assert got['methods']=='instance,sqrt,balmix_0.2' and got['settings']==tmp_path/'out/settings.yaml'

def test_runs_that_have_all_failed(capsys, tmp_path):
    def fail(t): raise RuntimeError('no such luck')
    data = digits(n_folds=2)
    recipe = dict(archs='small', epochs=1, size=8, bs=32, pretrained=False, augment='none', show=False)
    with pytest.raises(RuntimeError, match='No run was finished'):
        compare(data, [Method('failing', fail, 'x')], out=tmp_path/'out', **recipe)
    lines = suggested(f'--out {tmp_path}/out', capsys)
    assert joined(lines, 'Found')=='No run is finished; 2 failed. The first error: RuntimeError: no such luck'
    assert joined(lines, 'Next')=='Remove the cause of the error, and start the same command again.'
    assert joined(lines, 'Command').startswith('compare(..., ')

def test_facts_of_data_that_cannot_be_tried():
    "Without a trial there is no cost, and a class without images is not the rarest"
    got = facts_of_data(digits(n_folds=2), dict(archs=['small'], training=dict(pretrained=False)), timed=False)
    assert got['seconds'] is None and got['n_folds']==2 and sum(got['counts'].values())==579
