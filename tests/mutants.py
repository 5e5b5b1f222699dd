"""Do the tests notice when the code is wrong? `python tests/mutants.py` changes the code and runs its tests.

One thing is changed at a time, and the fast tests that concern its module run. A change that no test notices is printed
as it would stand in the code. Tests that need a process of their own are left out, since the change would not reach it.
Each change is made while the module is imported, in a fork of a process that has fastai imported. Other tools leave out
what is decorated, as by `patch` and `property`, or import fastai anew for each change, which takes seconds."""
import argparse
import ast
import copy
import os
import pickle
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing import forkserver
from pathlib import Path

for k in 'OMP_NUM_THREADS','OPENBLAS_NUM_THREADS': os.environ.setdefault(k, '1')
os.environ['MPLBACKEND'] = 'agg'
root = Path(__file__).resolve().parent.parent
concerned = {
    'loaders.draws': ['sampling'],
    'loaders.pairing': ['pairing','wrong_labels','targets','callback_pipelines'],
    'metrics.learner': ['metrics','targets'],
    'callback.mixup': ['mixed_loss','callback','callback_faults','callback_pipelines','rivals','targets'],
    'callback.recipe': ['checkpoint'],
    'callback.deferred': ['deferred','methods'],
    'callback.rivals': ['callback','rivals','targets'],
}
def file(module): return (root/'fastai_balmix'/module.replace('.', '/')).with_suffix('.py')

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument('modules', nargs='*', default=[*concerned], help='modules to change')
parser.add_argument('--share', type=float, default=1., help='share of the changes that is tried')
parser.add_argument('--seed', type=int, default=0, help='which ones')


# Changes

pairs = [(ast.Lt,ast.LtE), (ast.Gt,ast.GtE), (ast.Eq,ast.NotEq), (ast.Is,ast.IsNot), (ast.In,ast.NotIn),
         (ast.Add,ast.Sub), (ast.Mult,ast.Div), (ast.BitAnd,ast.BitOr), (ast.And,ast.Or)]
swaps = {**dict(pairs), **{b: a for a,b in pairs}, **dict.fromkeys([ast.FloorDiv,ast.Mod,ast.Pow], ast.Mult)}

def changes(node):
    "Functions that change a node of a syntax tree in one way each; those of a statement return what replaces it"
    def put(name, v): return lambda o: setattr(o, name, v)
    if isinstance(node, ast.BinOp|ast.BoolOp|ast.AugAssign) and type(node.op) in swaps:
        yield put('op', swaps[type(node.op)]())
    if isinstance(node, ast.Compare):
        for i,o in enumerate(node.ops): yield put('ops', [*node.ops[:i], swaps[type(o)](), *node.ops[i+1:]])
    if isinstance(node, ast.Constant) and isinstance(node.value, bool|int|float):
        yield put('value', not node.value if isinstance(node.value, bool) else node.value+1)
    if isinstance(node, ast.If|ast.IfExp): yield put('test', ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub): yield put('op', ast.UAdd())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield put('operand', ast.UnaryOp(ast.Not(), node.operand))
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if is_call or (isinstance(node, ast.Return) and node.value is not None): yield put('value', ast.Constant(None))

def unchanged(node):
    "Parts of a tree in which nothing is changed, beside texts: annotations, and the words of errors"
    if isinstance(node, ast.arg|ast.AnnAssign): return [node.annotation]
    if isinstance(node, ast.FunctionDef): return [node.returns]
    return node.values if isinstance(node, ast.JoinedStr) else []

def mutants(tree):
    "All changed trees, with the line and the changed code"
    skip = {id(x) for o in ast.walk(tree) for part in unchanged(o) if part is not None for x in ast.walk(part)}
    for i,node in enumerate(ast.walk(tree)):
        if id(node) in skip: continue
        for change in changes(node):
            new = copy.deepcopy(tree)
            twin = next(o for k,o in enumerate(ast.walk(new)) if k==i)
            change(twin)
            yield ast.fix_missing_locations(new),node.lineno,ast.unparse(node),ast.unparse(twin)


# Tests

class Changed(MetaPathFinder, Loader):
    "Imports a module from its changed tree"
    def __init__(self, name, path, tree): self.name,self.path,self.tree = name,path,tree

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, origin=str(self.path)) if name==self.name else None

    def exec_module(self, module):
        module.__file__ = str(self.path)
        exec(compile(self.tree, str(self.path), 'exec'), vars(module))

class Plugin:
    "Leaves out tests that need a process of their own, runs the fast ones first, and keeps what each takes"
    def __init__(self, seconds): self.known,self.seconds = seconds,{}

    def pytest_collection_modifyitems(self, items):
        items[:] = [o for o in items if 'warm_call' not in {*o.fixturenames, *o.function.__code__.co_names}]
        items.sort(key=lambda o: self.known.get(o.nodeid, 0))

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0)+report.duration

def run(module, tree, limit, seconds):
    "Do the tests of a module pass, in a fork, with `tree` as its code? With CPU seconds in total, and by test"
    recv,send = os.pipe()
    if not (pid := os.fork()):
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (limit,limit+5)) # time of a clock would depend on what else runs
            null = os.open(os.devnull, os.O_WRONLY)
            for std in 1,2: os.dup2(null, std)
            forkserver.ensure_running = lambda: None
            sys.meta_path.insert(0, Changed(f'fastai_balmix.{module}', file(module), tree))
            plugin = Plugin(seconds)
            import pytest
            files = [f'tests/test_{o}.py' for o in concerned[module]]
            code = pytest.main(['-x', '-n', '0', '-p', 'no:cacheprovider', *files], plugins=[plugin])
            os.write(send, pickle.dumps((int(code), plugin.seconds)))
        finally: os._exit(0)
    os.close(send)
    with open(recv, 'rb') as f: said = f.read()
    _,_,used = os.wait4(pid, 0)
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
    code,by_test = pickle.loads(said) if said else (None,{})
    return code==0,used.ru_utime+used.ru_stime,by_test


say = partial(print, flush=True)

def main(args):
    os.chdir(root)
    sys.path[:0] = [str(root),str(root/'tests')]
    # The forks share these
    for o in 'fastai.vision.all','hypothesis','pytest','scipy.stats','sklearn.metrics','timm': import_module(o)
    survived = 0
    for module in args.modules:
        tree = ast.parse(file(module).read_text(encoding='utf-8'))
        ok,seconds,by_test = run(module, tree, 600, {})
        if not ok: raise SystemExit(f'The tests of {module} fail without any change.')
        if run(module, ast.parse('raise ImportError'), 600, by_test)[0]:
            raise SystemExit(f'A change of {module} does not reach its tests.')
        todo = [*mutants(tree)]
        n = len(todo)
        todo = random.Random(args.seed).sample(todo, round(n*args.share))
        say(f'{module}: {len(todo)} of {n} changes, each with {len(by_test)} tests that take {seconds:.0f} s')
        left,start = 0,time.monotonic()
        for new,line,old_code,new_code in sorted(todo, key=lambda o: o[1]):
            if not run(module, new, round(3*seconds)+10, by_test)[0]: continue
            left += 1
            before,after = (o.splitlines()[0][:150] for o in (old_code,new_code))
            say(f'{module}:{line}: {before}  ->  {after}')
        minutes = (time.monotonic()-start)/60
        say(f'{module}: {left} of {len(todo)} changes were not noticed, in {minutes:.0f} minutes')
        survived += left
    return survived


if __name__ == '__main__': main(parser.parse_args())
