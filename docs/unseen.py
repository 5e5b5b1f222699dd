"""Where the names come from that the code on a notebook's page uses. Readers have only the page, so what is hidden
and yet needed is given there as well."""
import ast
import builtins
import symtable
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module

hiding = {'hide','export','exporti','exports','default_exp'} # Directives that keep a cell's code from the page
given = {*dir(builtins), '__name__', '__file__', 'display', 'get_ipython'}

@lru_cache
def starred(module):
    "Names that `from module import *` brings"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = import_module(module)
    return frozenset(getattr(m, '__all__', [o for o in dir(m) if o[0]!='_']))


def _statements(body):
    "Statements of a cell, those within `with`, `if`, `for` and `try` among them, those of functions and classes not"
    for o in body:
        yield o
        if isinstance(o, ast.FunctionDef|ast.AsyncFunctionDef|ast.ClassDef): continue
        yield from _statements([x for x in ast.iter_child_nodes(o) if isinstance(x, ast.stmt|ast.excepthandler)])


def _tables(t):
    yield t
    for o in t.get_children(): yield from _tables(o)


@dataclass
class Cell:
    "Code, what it binds, and what it needs of the cells before it"
    source:str # Without directives
    seen:bool # Whether the page has it
    exported:bool # Whether it is in the module that the notebook makes
    binds:set = field(default_factory=set) # Names that it makes
    needs:set = field(default_factory=set) # Names that it uses and does not make
    imports:dict = field(default_factory=dict) # Names that each of its imports brings

    def __post_init__(self):
        # Without what only Jupyter understands
        plain = '\n'.join(o for o in self.source.splitlines() if not o.startswith(('%','!')))
        for o in _statements(ast.parse(plain).body):
            if not isinstance(o, (ast.Import,ast.ImportFrom)): continue
            names = {(a.asname or a.name).partition('.')[0] for a in o.names}
            self.imports[ast.unparse(o)] = starred(o.module) if names=={'*'} else names
        self.binds.update(*self.imports.values())
        for t in _tables(symtable.symtable(plain, 'cell', 'exec')):
            top = t.get_type()=='module'
            for s in t.get_symbols():
                if (top or s.is_declared_global()) and s.is_assigned(): self.binds.add(s.get_name())
                if s.is_referenced() and (top or s.is_global()): self.needs.add(s.get_name())
        self.needs -= self.binds | given


def cells(nb):
    "Cells of code by their place in a notebook"
    res = {}
    for i,c in enumerate(nb.cells):
        if c.cell_type!='code': continue
        d = c.directives
        source = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|')).strip()
        seen = not hiding & d.keys() and 'false' not in (d.get('echo'), d.get('include'))
        res[i] = Cell(source, seen, bool({'export','exporti','exports'} & d.keys()))
    return res


def unseen(
    nb, # A notebook as it was written
    module=None # Module that it makes
)->tuple: # Code that its page lacks, by the place of the cell that has it, and names that come from nowhere
    "What is hidden and makes a name that seen code uses: whole cells, and of exported ones only the imports"
    every = cells(nb)
    whole = {i for i,o in every.items() if o.seen}
    lines,lost = {},set()
    def find(nm, i):
        if any(j<i and nm in every[j].binds for j in whole): return
        if any(j<i and nm in names for j,o in lines.items() for names in o.values()): return
        before = [j for j in sorted(every, reverse=True) if j<i and nm in every[j].binds]
        if not before: return lost.add(nm)
        j = next((j for j in before if not every[j].exported), None)
        if j is not None:
            whole.add(j)
            for o in sorted(every[j].needs): find(o, j)
        else:
            o = every[before[0]]
            line = next((s for s,names in o.imports.items() if nm in names), f'from fastai_balmix.{module} import {nm}')
            lines.setdefault(before[0], {})[line] = o.imports.get(line, {nm})
    for i in [*whole]:
        for nm in sorted(every[i].needs): find(nm, i)
    def in_order(j):
        "Imports of a cell as it has them, then those that stand for its own definitions"
        order = [*every[j].imports]
        return sorted(lines[j], key=lambda s: (order.index(s) if s in order else len(order), s))
    code = {j: '\n'.join(in_order(j)) for j in lines}
    return code | {j: every[j].source for j in whole if not every[j].seen},lost
