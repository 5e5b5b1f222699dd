"""What the site says of each public name, read from the modules and notebooks without importing them: signature, parameters with their
comments, docstring, errors, the lines of source, and the first cell of a notebook that uses it."""
import ast,re,sys,tokenize
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path

from fastcore.nbio import read_nb

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'tests'))
from messages import messages

package,nbs = root/'fastai_balmix',root/'nbs'

@dataclass
class Name:
    "A public name: a function, a class, a method that is added to one of fastai's classes, or a constant"
    name:str # As it is written, such as 'BalancedMixUp' or 'Learner.tta_flip'
    module:str # Module that defines it
    node:ast.AST # Its definition
    text:str # The lines of the module

    @property
    def anchor(self):
        "The name in small letters; of `Report` beside `report`, `report-class`"
        twin = isinstance(self.node, ast.ClassDef) and re.search(rf'^def {self.name.lower()}\(', self.text, flags=re.MULTILINE)
        return self.name.lower() + '-class'*bool(twin)
    @property
    def source(self): return ast.get_source_segment(self.text, self.node)
    @property
    def doc(self): return '' if isinstance(self.node, ast.Assign) else ast.get_docstring(self.node) or ''


def _patched(node):
    "Class that a function is added to by fastcore's `patch`, or None"
    if not isinstance(node, ast.FunctionDef) or not any('patch' in ast.unparse(o) for o in node.decorator_list): return None
    return ast.unparse(node.args.args[0].annotation).strip("'\"")


def module_names(path):
    "Public names of a module, in the order of the file"
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    listed = next((ast.literal_eval(o.value) for o in tree.body if isinstance(o, ast.Assign) and ast.unparse(o.targets[0])=='__all__'), [])
    res = []
    for o in tree.body:
        cls = _patched(o)
        nm = f'{cls}.{o.name}' if cls else getattr(o, 'name', None) or (ast.unparse(o.targets[0]) if isinstance(o, ast.Assign) else '')
        if nm in listed or cls and not o.name.startswith('_') and ast.get_docstring(o): res.append(Name(nm, path.stem, o, text))
    return res


def all_names():
    "Public names by module, in the order of CONTRIBUTING.md's map"
    rooms = re.findall(r'^\| `\w+` \| `(\w+)\.py` \|', (root/'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.MULTILINE)
    return {o: module_names(package/f'{o}.py') for o in rooms}


# Signature and parameters

def _init(o):
    "The function whose parameters a name takes, or None"
    if isinstance(o, ast.FunctionDef): return o
    if isinstance(o, ast.ClassDef): return next((f for f in o.body if isinstance(f, ast.FunctionDef) and f.name=='__init__'), None)


def is_property(o): return isinstance(o, ast.FunctionDef) and any(re.search(r'property$|\bas_prop=True', ast.unparse(d)) for d in o.decorator_list)


def _fields(o):
    "(name, type, default) of the fields of a dataclass or NamedTuple"
    if not isinstance(o, ast.ClassDef): return []
    made = any('dataclass' in ast.unparse(d) for d in o.decorator_list) or any(ast.unparse(b)=='NamedTuple' for b in o.bases)
    return [(f.target.id, ast.unparse(f.annotation), '' if f.value is None else ast.unparse(f.value)) for f in o.body if isinstance(f, ast.AnnAssign)] if made else []


def _params(f):
    "(name, type, default) of each parameter, without `self`"
    a = f.args
    pos = [*a.posonlyargs, *a.args]
    both = [*zip(pos, [None]*(len(pos)-len(a.defaults))+a.defaults), *([(a.vararg, None)] if a.vararg else []), *zip(a.kwonlyargs, a.kw_defaults), *([(a.kwarg, None)] if a.kwarg else [])]
    stars = {id(a.vararg): '*', id(a.kwarg): '**'}
    res = [(stars.get(id(p), '')+p.arg, '' if p.annotation is None else ast.unparse(p.annotation), '' if d is None else ast.unparse(d)) for p,d in both]
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
    "`text` as Markdown that shows just this, in the cells of tables too, where backslashes and braces have a meaning of their own"
    return re.sub(signs, lambda m: f'&#{ord(m[0])};', text.replace('\n', ' '))


def _code(text): return f'<code>{literal(text)}</code>' if text else ''


def _cell(text):
    "Words with pieces of code as a cell of a table"
    return ''.join(_code(o) if i%2 else literal(o, r'[|{}<>]') for i,o in enumerate(re.split(r'`([^`]+)`', text)))


@lru_cache
def _comments(text):
    "The comment of each line that has one"
    return {o.start[0]: o.string.lstrip('# ') for o in tokenize.generate_tokens(StringIO(text).readline) if o.type==tokenize.COMMENT}


def _lines(o):
    "Line of each parameter or field, and of 'return' where no parameter is on it: the comment of a signature on one line is the parameter's"
    if (f := _init(o)) is None: return {x.target.id: x.lineno for x in o.body if isinstance(x, ast.AnnAssign)}
    a = f.args
    res = {p.arg: p.lineno for p in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if p}
    return res | ({'return': f.returns.end_lineno} if f.returns and f.returns.end_lineno not in res.values() else {})


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
    head = 'parameter','type','default','what it is'
    keep = [i for i in range(4) if i==0 or any(r[i] for r in rows)]
    return '\n'.join('| '+' | '.join(r[i] for i in keep)+' |' for r in [[o if i in keep else '' for i,o in enumerate(head)], ['---']*4, *rows])


# Errors

def _template(o):
    "The text that an expression makes, with … where it is filled in; None where that is all"
    if isinstance(o, ast.Constant) and isinstance(o.value, str): return o.value
    if isinstance(o, ast.JoinedStr): return ''.join(v.value if isinstance(v, ast.Constant) else '…' for v in o.values)
    return None


def _number(o): return 'inf' if o is None else ast.unparse(o).lstrip('+')


def errors(name):
    "Sentences on what is refused with a `ValueError`: as the definition states it, and where its checks are made elsewhere, as the tests' table has it"
    res = []
    for o in ast.walk(name.node):
        if not isinstance(o, ast.Call) or not isinstance(o.func, ast.Name): continue
        fn,args,kw = o.func.id,o.args,{k.arg: k.value for k in o.keywords}
        if fn not in ('check','check_real','check_int') or len(args)<3 or not (nm := _template(args[1])): continue
        if fn=='check': allowed = _template(args[3])
        elif fn=='check_int': allowed = f"an int in the range [{_number(kw.get('low') or ast.Constant(0))}, inf)"
        else:
            low,high = (args[i] if len(args)>i else kw.get(k) for i,k in ((3,'low'),(4,'high')))
            allowed = f"a float in the range {'(-inf' if low is None else '['+_number(low)}, {_number(high)}{')' if high is None or 'high_open' in kw else ']'}"
        if allowed: res.append((nm, allowed))
    own = re.escape(name.name.rpartition('.')[2])
    for m in (m for part in messages.values() for m in part):
        if (found := re.fullmatch(rf"The '(\w+)' parameter of (?:\w+\.)?{own} must be (.*)\. Got .* instead\.", m.message)) and found[1] not in dict(res): res.append((found[1], found[2]))
    return [*dict.fromkeys(f"`{nm}` must be {literal(allowed.replace('`', ''), '[<>*_]')}" for nm,allowed in res)]


# Example

def _used(cell, modules):
    "Names that a cell of code uses, those of a module's attributes and of methods among them: the latter with a dot in front"
    try: tree = cell.parsed_() or []
    except SyntaxError: return set()
    res = set()
    for o in (x for t in tree for x in ast.walk(t)):
        if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Load): res.add(o.id)
        if isinstance(o, ast.Attribute): res |= {f'.{o.attr}'} | ({o.attr} if isinstance(o.value, ast.Name) and o.value.id in modules else set())
    return res


class Examples:
    "Cells of the notebooks that are run and seen, to find the first that uses a name"
    def __init__(self):
        self.cells,self.defines = [],{}
        modules = {p.stem for p in package.glob('*.py')}
        for p in sorted(nbs.rglob('*.ipynb'), key=lambda p: (p.parent!=nbs, p.name)):
            if {'_proc','.ipynb_checkpoints'} & {*p.parts}: continue
            for o in read_nb(p).cells:
                if o.cell_type!='code': continue
                d = o.directives
                if 'default_exp' in d: self.defines[o.source.split()[-1]] = p
                if {'export','exporti','hide','default_exp'} & d.keys(): continue
                plain = re.sub(r'^(#\|.*\n)*', '', o.source)
                if re.match(r'(from|import) ', plain): continue
                dull = bool(re.match('test_|assert', plain)) or d.get('echo')=='false'
                self.cells.append((p, o, _used(o, modules), dull))

    def find(self, o):
        "(notebook, cell) of the first use of `o`: in its own notebook rather than another, shown rather than tested, with an output rather than without"
        nm = '.'+o.name.rpartition('.')[2] if '.' in o.name else o.name
        found = [((dull, p!=self.defines.get(o.module), not c.outputs, i), p, c) for i,(p,c,used,dull) in enumerate(self.cells) if nm in used]
        return min(found, key=lambda o: o[0])[1:] if found else None


# A name as Markdown

def methods(o):
    "Documented methods of a class that a user calls; fastai calls those that are named after an event"
    if not isinstance(o.node, ast.ClassDef): return []
    return [f for f in o.node.body if isinstance(f, ast.FunctionDef) and not re.match('_|before_|after_', f.name) and ast.get_docstring(f)]


def anchors(o): return [o.anchor, *(f'{o.name}.{f.name}'.lower() for f in methods(o))]


def described(o, level, link, example='', brief=False):
    "Signature, docstring, parameters, errors and `example` of `o`, then its methods; only the first three where `brief`. `link` gives the address of a line of a module."
    node = o.node
    source = f'[source]({link(o.module, node.lineno)}){{ .source }}'
    head = [source] if brief else [f'{"#"*level} `{o.name}` {{ id="{o.anchor}" }}', source]
    if isinstance(node, ast.Assign): return '\n\n'.join(filter(None, [*head, f'```python\n{o.source}\n```', example]))
    res = [*head, f"```python\n{'class ' if isinstance(node, ast.ClassDef) else ''}{signature(node, o.name)}\n```", o.doc, parameters(o)]
    if brief: return '\n\n'.join(filter(None, res))
    errs = errors(o)
    if errs: res.append('**Errors.** `ValueError`: ' + '; '.join(errs) + '.')
    res.append(example)
    for f in methods(o):
        call = f'{o.name}.{f.name}'
        res += [f'{"#"*(level+1)} `{call}` {{ id="{call.lower()}" }}', f'[source]({link(o.module, f.lineno)}){{ .source }}',
                f"```python\n{signature(f, call)}\n```", ast.get_docstring(f), parameters(o, f)]
    return '\n\n'.join(filter(None, res))


# Examples of names that no notebook shows by themselves

def doctests():
    "Examples of docs/parts/examples.md by name: sessions of Python with what they print, run by the tests"
    text = (root/'docs'/'parts'/'examples.md').read_text(encoding='utf-8')
    return {m[1]: m[2].strip() for m in re.finditer(r'^## `([\w.]+)`\n+```pycon\n(.*?)^```', text, flags=re.MULTILINE|re.DOTALL)}
