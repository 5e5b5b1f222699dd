"""What the site says of each public name, read from the modules and notebooks without importing them: signature,
parameters with their comments, docstring, errors, the lines of source, and the first cell of a notebook that uses it.

Public are the names that a wing's `__init__.pyi` lists, those in `__all__` of `ordinal` and `classifier`, and the
methods that are patched into fastai's classes. Each wing and each of these two rooms has one page."""
import ast
import re
import sys
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path

from fastcore.nbio import read_nb

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'tests'))
from messages import messages

package = root/'fastai_balmix'
nbs = root/'nbs'

@dataclass
class Name:
    "A public name: a function, a class, a method that is added to one of fastai's classes, or a constant"
    name:str # As it is written, such as 'BalancedMixUp' or 'Learner.tta_flip'
    module:str # Dotted name of the room that defines it
    node:ast.AST # Its definition
    text:str # The lines of the module
    twin:bool = False # Whether its page has another name with the same letters, such as `mcc` beside `MCC`

    @property
    def page(self): return page_name(self.module)
    @property
    def anchor(self):
        "The name in small letters; of `Report` beside `report`, `report-class`"
        capitals = self.name!=self.name.lower()
        return self.name.lower() + ('-class' if self.twin and capitals else '')
    @property
    def source(self): return ast.get_source_segment(self.text, self.node)
    @property
    def doc(self): return '' if isinstance(self.node, ast.Assign) else ast.get_docstring(self.node) or ''


def page_name(module): return module.partition('.')[0]


def module_path(module):
    "File of a dotted name"
    path = package/module.replace('.', '/')
    return path/'__init__.py' if path.is_dir() else path.with_suffix('.py')


def module_of(path):
    "Dotted name of a file of the package"
    return '.'.join(path.relative_to(package).with_suffix('').parts)


def _patched(node):
    "Class that a function is added to by fastcore's `patch`, or None"
    if not isinstance(node, ast.FunctionDef): return None
    if not any('patch' in ast.unparse(o) for o in node.decorator_list): return None
    return ast.unparse(node.args.args[0].annotation).strip("'\"")


def _listed(tree):
    "What a module lists in `__all__`"
    for o in tree.body:
        if isinstance(o, ast.Assign) and ast.unparse(o.targets[0])=='__all__': return {*ast.literal_eval(o.value)}
    return set()


def _bound(node):
    "Name that a statement of a module defines"
    if isinstance(node, ast.Assign): return ast.unparse(node.targets[0])
    return getattr(node, 'name', '')


def module_names(module, public):
    "Those names of a module that are `public`, and the documented methods that it patches, in the order of the file"
    text = module_path(module).read_text(encoding='utf-8')
    res = []
    for o in ast.parse(text).body:
        cls,nm = _patched(o),_bound(o)
        if cls:
            if not nm.startswith('_') and ast.get_docstring(o): res.append(Name(f'{cls}.{nm}', module, o, text))
        elif nm in public: res.append(Name(nm, module, o, text))
    return res


def _public(page):
    "Public names by room of a wing or of a room outside the wings"
    stub = package/page/'__init__.pyi'
    if not stub.exists(): return {page: _listed(ast.parse(module_path(page).read_text(encoding='utf-8')))}
    res = {}
    for o in ast.parse(stub.read_text(encoding='utf-8')).body:
        if isinstance(o, ast.ImportFrom): res.setdefault(f'{page}.{o.module}', set()).update(a.name for a in o.names)
    # A room whose names are private may still patch a class
    for p in sorted((package/page).glob('[!_]*.py')): res.setdefault(module_of(p), set())
    return res


def page_names():
    "The pages of the API in the order of the site"
    nav = (root/'docs'/'mkdocs.yml').read_text(encoding='utf-8')
    return [o for o in re.findall(r'^ +- api/(\w+)\.md$', nav, flags=re.MULTILINE) if o!='index']


def all_names():
    "Public names by page"
    res = {}
    for page in page_names():
        names = [o for module,public in _public(page).items() for o in module_names(module, public)]
        lower = [o.name.lower() for o in names]
        for o in names: o.twin = lower.count(o.name.lower())>1
        res[page] = names
    return res


# Signature and parameters

def _init(o):
    "The function whose parameters a name takes, or None"
    if isinstance(o, ast.FunctionDef): return o
    if not isinstance(o, ast.ClassDef): return None
    return next((f for f in o.body if isinstance(f, ast.FunctionDef) and f.name=='__init__'), None)


def is_property(o):
    if not isinstance(o, ast.FunctionDef): return False
    return any(re.search(r'property$|\bas_prop=True', ast.unparse(d)) for d in o.decorator_list)


def _fields(o):
    "(name, type, default) of the fields of a dataclass or NamedTuple"
    if not isinstance(o, ast.ClassDef): return []
    is_dataclass = any('dataclass' in ast.unparse(d) for d in o.decorator_list)
    if not is_dataclass and not any(ast.unparse(b)=='NamedTuple' for b in o.bases): return []
    fields = [f for f in o.body if isinstance(f, ast.AnnAssign)]
    return [(f.target.id, ast.unparse(f.annotation), '' if f.value is None else ast.unparse(f.value)) for f in fields]


def _params(f):
    "(name, type, default) of each parameter, without `self`"
    a,res = f.args,[]
    def add(param, default=None, stars=''):
        typ = '' if param.annotation is None else ast.unparse(param.annotation)
        res.append((stars+param.arg, typ, '' if default is None else ast.unparse(default)))
    positional = [*a.posonlyargs, *a.args]
    without = len(positional)-len(a.defaults)
    for param,default in zip(positional, [None]*without+a.defaults): add(param, default)
    if a.vararg: add(a.vararg, stars='*')
    for param,default in zip(a.kwonlyargs, a.kw_defaults): add(param, default)
    if a.kwarg: add(a.kwarg, stars='**')
    return [o for o in res if o[0] not in ('self','cls')]


def signature(o, name):
    "A definition as it is called"
    f = _init(o)
    params = _params(f) if f else _fields(o)
    if f is None and not params: return name
    keyword_only = f.args.kwonlyargs[0].arg if f and f.args.kwonlyargs and not f.args.vararg else None
    shown = []
    for nm,typ,default in params:
        if nm==keyword_only: shown.append('*')
        shown.append(f"{nm}{':'+typ if typ else ''}{'='+default if default else ''}")
    ret = f' -> {ast.unparse(f.returns)}' if isinstance(o, ast.FunctionDef) and f.returns else ''
    if is_property(o): return f'property {name}{ret}'
    line = f"{name}({', '.join(shown)}){ret}"
    return line if len(line)<=88 else f'{name}(\n' + ''.join(f'    {s},\n' for s in shown) + f'){ret}'


def literal(text, signs=r"[^\w\s.,:;=()'\"/-]|_"):
    "`text` as Markdown that shows just this, in the cells of tables too, where backslashes and braces have a meaning"
    return re.sub(signs, lambda m: f'&#{ord(m[0])};', text.replace('\n', ' '))


def _code(text): return f'<code>{literal(text)}</code>' if text else ''


def _cell(text):
    "Words with pieces of code as a cell of a table"
    pieces = re.split(r'`([^`]+)`', text)
    return ''.join(_code(o) if i%2 else literal(o, r'[|{}<>]') for i,o in enumerate(pieces))


@lru_cache
def _comments(text):
    "The comment of each line that has one"
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    return {o.start[0]: o.string.lstrip('# ') for o in tokens if o.type==tokenize.COMMENT}


def _lines(o):
    "Line of each parameter or field, and of 'return'"
    if (f := _init(o)) is None: return {x.target.id: x.lineno for x in o.body if isinstance(x, ast.AnnAssign)}
    a = f.args
    res = {p.arg: p.lineno for p in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if p}
    # The comment of a signature on one line is the parameter's
    if f.returns and f.returns.end_lineno not in res.values(): res['return'] = f.returns.end_lineno
    return res


def comments(name):
    "Comments of a name's parameters and of what it returns"
    said = _comments(name.text)
    return {nm: said.get(n, '').strip() for nm,n in _lines(name.node).items()}


def parameters(name, o=None):
    "A table of the parameters of a name, or of its method `o`, with their comments; empty where there are none"
    o = o or name.node
    f = _init(o)
    params = _params(f) if f else _fields(o)
    ret = f.returns if isinstance(o, ast.FunctionDef) else None
    if not params and not ret: return ''
    said = comments(Name(name.name, name.module, o, name.text))
    rows = [(f'`{nm}`', _code(typ), _code(default), _cell(said.get(nm.lstrip('*'), ''))) for nm,typ,default in params]
    if ret: rows.append(('**returns**', _code(ast.unparse(ret)), '', _cell(said.get('return', ''))))
    keep = [i for i in range(4) if i==0 or any(r[i] for r in rows)]
    table = [('parameter','type','default','what it is'), ('---',)*4, *rows]
    return '\n'.join('| '+' | '.join(r[i] for i in keep)+' |' for r in table)


# Errors

def _template(o):
    "The text that an expression makes, with … where it is filled in; None where that is all"
    if isinstance(o, ast.Constant) and isinstance(o.value, str): return o.value
    if isinstance(o, ast.JoinedStr): return ''.join(v.value if isinstance(v, ast.Constant) else '…' for v in o.values)
    return None


def _number(o): return 'inf' if o is None else ast.unparse(o).lstrip('+')


def _allowed(call):
    "(parameter, what is allowed) of a call of one of the functions that check arguments, or None"
    fn,args = call.func.id,call.args
    kw = {k.arg: k.value for k in call.keywords}
    if fn not in ('check','check_real','check_int') or len(args)<3: return None
    nm = _template(args[1])
    if not nm: return None
    if fn=='check': return nm,_template(args[3])
    if fn=='check_int': return nm,f"an int in the range [{_number(kw.get('low') or ast.Constant(0))}, inf)"
    low,high = (args[i] if len(args)>i else kw.get(k) for i,k in ((3,'low'),(4,'high')))
    start = '(-inf' if low is None else '['+_number(low)
    end = ')' if high is None or 'high_open' in kw else ']'
    return nm,f'a float in the range {start}, {_number(high)}{end}'


def errors(name):
    """Sentences on what is refused with a `ValueError`: as the definition states it, and where its checks are made
    elsewhere, as the tests' table has it"""
    res = []
    for o in ast.walk(name.node):
        if isinstance(o, ast.Call) and isinstance(o.func, ast.Name):
            found = _allowed(o)
            if found and found[1]: res.append(found)
    own = re.escape(name.name.rpartition('.')[2])
    pattern = re.compile(rf"The '(\w+)' parameter of (?:\w+\.)?{own} must be (.*)\. Got .* instead\.")
    for m in (m for part in messages.values() for m in part):
        found = pattern.fullmatch(m.message)
        if found and found[1] not in dict(res): res.append((found[1], found[2]))
    said = [f"`{nm}` must be {literal(allowed.replace('`', ''), '[<>*_]')}" for nm,allowed in res]
    return [*dict.fromkeys(said)]


# Example

def _used(cell, modules):
    """Names that a cell of code uses. Attributes of modules are among them, and those of all objects with a dot in
    front, since they may be methods"""
    try: tree = cell.parsed_() or []
    except SyntaxError: return set()
    res = set()
    for o in (x for t in tree for x in ast.walk(t)):
        if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Load): res.add(o.id)
        if not isinstance(o, ast.Attribute): continue
        res.add(f'.{o.attr}')
        if isinstance(o.value, ast.Name) and o.value.id in modules: res.add(o.attr)
    return res


def notebook_paths():
    "The notebooks, those of the modules before the tutorials"
    paths = [p for p in nbs.rglob('*.ipynb') if not {'_proc','.ipynb_checkpoints'} & {*p.parts}]
    return sorted(paths, key=lambda p: (p.parent.name=='tutorials', p.relative_to(nbs).as_posix()))


class Examples:
    "Cells of the notebooks that are run and seen, to find the first that uses a name"
    def __init__(self):
        self.cells,self.defines = [],{}
        modules = {p.stem for p in package.rglob('[!_]*.py')} | {p.parent.name for p in package.glob('*/__init__.py')}
        for p in notebook_paths():
            for o in read_nb(p).cells:
                if o.cell_type!='code': continue
                d = o.directives
                if 'default_exp' in d: self.defines[o.source.split()[-1]] = p
                if {'export','exporti','hide','default_exp'} & d.keys(): continue
                plain = re.sub(r'^(#\|.*\n)*', '', o.source)
                if re.match(r'(from|import) ', plain) and len(plain.strip().splitlines())==1: continue
                dull = bool(re.match('test_|assert', plain)) or d.get('echo')=='false'
                self.cells.append((p, o, _used(o, modules), dull))

    def find(self, o):
        """(notebook, cell) of the first use of `o`: in its own notebook rather than another, shown rather than
        tested, with an output rather than without"""
        nm = '.'+o.name.rpartition('.')[2] if '.' in o.name else o.name
        own = self.defines.get(o.module)
        ranks = [(dull, p!=own, not c.outputs, i) for i,(p,c,used,dull) in enumerate(self.cells) if nm in used]
        return self.cells[min(ranks)[-1]][:2] if ranks else None


# A name as Markdown

def methods(o):
    "Documented methods of a class that a user calls; fastai calls those that are named after an event"
    if not isinstance(o.node, ast.ClassDef): return []
    functions = [f for f in o.node.body if isinstance(f, ast.FunctionDef)]
    return [f for f in functions if not re.match('_|before_|after_', f.name) and ast.get_docstring(f)]


def anchors(o):
    "Addresses on a page of a name and its methods"
    return [o.anchor, *(f'{o.name}.{f.name}'.lower() for f in methods(o))]


def described(o, level, link, example='', brief=False):
    """Signature, docstring, parameters, errors and `example` of `o`, then its methods; only the first three where
    `brief`. `link` gives the address of a line of a module."""
    node = o.node
    source = f'[source]({link(o.module, node.lineno)}){{ .source }}'
    head = [source] if brief else [f'{"#"*level} `{o.name}` {{ id="{o.anchor}" }}', source]
    if isinstance(node, ast.Assign): return '\n\n'.join(filter(None, [*head, f'```python\n{o.source}\n```', example]))
    kind = 'class ' if isinstance(node, ast.ClassDef) else ''
    res = [*head, f'```python\n{kind}{signature(node, o.name)}\n```', o.doc, parameters(o)]
    if brief: return '\n\n'.join(filter(None, res))
    errs = errors(o)
    if errs: res.append('**Errors.** `ValueError`: ' + '; '.join(errs) + '.')
    res.append(example)
    for f in methods(o):
        call = f'{o.name}.{f.name}'
        res.append(f'{"#"*(level+1)} `{call}` {{ id="{call.lower()}" }}')
        res.append(f'[source]({link(o.module, f.lineno)}){{ .source }}')
        res.append(f'```python\n{signature(f, call)}\n```')
        res += [ast.get_docstring(f), parameters(o, f)]
    return '\n\n'.join(filter(None, res))


# Examples of names that no notebook shows by themselves

def doctests():
    "Examples of docs/parts/examples.md by name: sessions of Python with what they print, run by the tests"
    text = (root/'docs'/'parts'/'examples.md').read_text(encoding='utf-8')
    sessions = re.finditer(r'^## `([\w.]+)`\n+```pycon\n(.*?)^```', text, flags=re.MULTILINE|re.DOTALL)
    return {m[1]: m[2].strip() for m in sessions}
