"""The table of messages, of which the site's *Troubleshooting* is made: each call is made, and its words compared. And
every function that checks arguments has an entry."""
import ast
import os
import re
import sys
import warnings

from conftest import root, warm_call
from messages import messages, setup

entries = [o for os_ in messages.values() for o in os_]

def as_regex(message): return '.*'.join(map(re.escape, message.split('…')))


def provoked(folder, calls):
    "Type and text of the error of each call"
    os.chdir(folder)
    sys.path.insert(0, str(root))
    warnings.simplefilter('ignore')
    ns,res = {},[]
    exec(setup, ns)
    for o in calls:
        try: exec(o, ns)
        except Exception as e: res.append((type(e).__name__, str(e)))
        else: res.append(('nothing', ''))
    return res


def test_each_call_gives_its_message(tmp_path):
    got = warm_call(provoked, str(tmp_path), [o.call for o in entries])
    def said(entry, kind, text):
        return kind=='ValueError' and re.search(as_regex(entry.message)+r'\Z', text, flags=re.DOTALL)
    wrong = [f'{o.call}\n  {kind}: {text}' for o,(kind,text) in zip(entries, got, strict=True)
             if not said(o, kind, text)]
    assert not wrong, 'the table says otherwise:\n' + '\n'.join(wrong)


def test_another_message_is_seen(tmp_path):
    calls = ['1/0', 'pass', "raise ValueError('so')"]
    wanted = [('ZeroDivisionError','division by zero'), ('nothing',''), ('ValueError','so')]
    assert warm_call(provoked, str(tmp_path), calls)==wanted
    assert not re.search(as_regex('There is no … x.')+r'\Z', 'There is no a y.')


def test_every_entry_has_words():
    assert len(entries)==len({o.call for o in entries}) > 90
    for o in entries:
        compile(o.call, o.call, 'exec')
        for s in o.cause,o.cure: assert s.endswith('.') and s[0]!=' ', o.call


# Owners of checks without an entry, and why
for_authors = {'a Learner with tau_norm', 'Training'} # of methods
seldom_by_hand = {'ArrayImages', 'ImageData.verify', 'ImageData.parts', 'augmentation', 'authors_folds',
                  'read_predictions'}
# The message itself says what is allowed, and results or data are needed to provoke it
clear = {'ClassSampler', 'calibration_bins', 'paper_table', 'digits',
         'method_differences', 'recall_differences','score_intervals',
         'PriorCalibrator.fit', 'CalibrationError'}
left_out = for_authors | seldom_by_hand | clear


def owners(text):
    "Names that the checks of a module call their owners"
    tree = ast.parse(text)
    nodes = [*ast.walk(tree)]
    assigned = [o for o in nodes if isinstance(o, ast.Assign) and isinstance(o.value, ast.Constant)]
    named = [(t.id, o.value.value) for o in assigned for t in o.targets if getattr(t, 'id', '') in ('o','own','owner')]
    places = dict(check=2, check_real=2, check_int=2, bad_argument=1) # where the owner stands among the arguments
    calls = [(o, places.get(getattr(o.func, 'id', ''))) for o in nodes if isinstance(o, ast.Call)]
    owner_args = [o.args[i] for o,i in calls if i is not None and len(o.args)>i]
    variables = {a.id for a in owner_args if isinstance(a, ast.Name)}
    constants = {a.value for a in owner_args if isinstance(a, ast.Constant)}
    return constants | {v for k,v in named if isinstance(v, str) and k in variables}


def test_whoever_checks_has_an_entry():
    there = set().union(*(owners(p.read_text(encoding='utf-8')) for p in (root/'fastai_balmix').rglob('[!_]*.py')))
    def is_owner(o, message): return re.search(rf'(parameter of {re.escape(o)} must|^{re.escape(o)} )', message)
    said = {o for o in there if any(is_owner(o, m.message) for m in entries)}
    assert len(said)>40
    assert not there-said-left_out, f'no entry in tests/messages.py for {sorted(there-said-left_out)}'
    assert not left_out & said, f'there is an entry for {sorted(left_out & said)}'
    assert not left_out-there, f'nobody checks as {sorted(left_out-there)}'


def test_owners_are_found():
    source = '''
o = 'a'
check(x, 'n', o, 'y', 'z')
check_int(x, 'n', 'b')
print(1, 2, 'c')
raise bad_argument('n', 'd', 'y', 'z')
'''
    assert owners(source)=={'a','b','d'}
