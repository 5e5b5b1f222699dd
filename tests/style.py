"""Figures of style, a line for each module: `python tests/style.py` for the package.

Other folders and files can be named instead. The columns are lines, the widest line, characters in a line that is not
blank, the longest function, the share of names of one letter, and public names."""
import argparse
import ast
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def functions(tree):
    "Functions of a syntax tree, methods and inner ones included"
    return [o for o in ast.walk(tree) if isinstance(o, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    "Lines of a function without its parameters and docstring, which are for the reader of its documentation"
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant): body = body[1:]
    return body[-1].end_lineno-body[0].lineno+1 if body else 0


def bound_names(tree):
    "Names that a module binds: parameters and what is assigned to"
    for o in ast.walk(tree):
        if isinstance(o, ast.arg): yield o.arg
        if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store): yield o.id


def is_list_of_names(node):
    "Is a statement the one that sets `__all__`?"
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0])=='__all__'


def public(tree):
    "Names of `__all__`"
    lists = [ast.literal_eval(o.value) for o in tree.body if is_list_of_names(o)]
    return lists[0] if lists else []


def figures(path):
    "The figures of one file"
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    made = {i for o in tree.body if is_list_of_names(o) for i in range(o.lineno, o.end_lineno+1)} # written by nbdev
    lines = [o for i,o in enumerate(text.splitlines(), 1) if o.strip() and i not in made]
    names = [*bound_names(tree)]
    return dict(
        lines=len(text.splitlines()), widest=max(map(len, lines), default=0),
        mean=sum(map(len, lines))/max(len(lines), 1), longest=max(map(length, functions(tree)), default=0),
        one_letter=sum(len(o)==1 for o in names)/max(len(names), 1), public=len(public(tree)),
        characters=sum(map(len, lines)), filled=len(lines))


def modules(places):
    "Python files in folders, or the files themselves, without what nbdev makes"
    generated = root/'fastai_balmix'/'_modidx.py', root/'fastai_balmix'/'__init__.py'
    for o in map(Path, places):
        found = sorted(o.rglob('*.py')) if o.is_dir() else [o]
        yield from (p for p in found if p not in generated)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('places', nargs='*', default=[root/'fastai_balmix'], help='folders and files')
    print(f"{'module':45} {'lines':>6} {'widest':>7} {'mean':>6} {'longest':>8} {'1 letter':>9} {'public':>7}")
    rows = []
    for path in modules(parser.parse_args().places):
        row = figures(path)
        rows.append(row)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        print(f"{name:45} {row['lines']:6} {row['widest']:7} {row['mean']:6.1f} {row['longest']:8} "
              f"{row['one_letter']:9.0%} {row['public']:7}")
    mean = sum(o['characters'] for o in rows)/max(sum(o['filled'] for o in rows), 1)
    print(f"{'all':45} {sum(o['lines'] for o in rows):6} {max(o['widest'] for o in rows):7} {mean:6.1f} "
          f"{max(o['longest'] for o in rows):8} {'':9} {sum(o['public'] for o in rows):7}")


if __name__ == '__main__': main()
