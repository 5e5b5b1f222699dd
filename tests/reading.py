"""Reading ease of pages, a line for each: `python tests/reading.py` for README and the pages of the site.

Other files can be named instead. The figure is Flesch's (1948), 206.8 - 1.015 words a sentence - 84.6 syllables a word:
60 to 70 is plain English, below 50 is hard. Code, tables, formulas and headings are left out; a syllable is a group of
vowels, but for a silent e."""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
pages = [root/'README.md', *sorted(root.glob('docs/*.md')), *sorted(root.glob('docs/pages/*.md'))]

not_prose = [r'(?ms)^ *(```|~~~).*?^ *\1', r'(?s)<!--.*?-->', r'(?s)\$\$.*?\$\$', r'(?m)^ *[|#>].*$', r'(?m)^ {4,}.*$',
             r'`[^`]*`', r'\$[^$\n]*\$', r'<[^>]*>', r'!\[[^\]]*\]\([^)]*\)', r'(?<=\])\([^)]*\)']

def prose(text):
    "Sentences of a Markdown text. What stands in a line as code counts as no word."
    for o in not_prose: text = re.sub(o, ' ', text)
    blocks = re.split(r'\n\s*\n|\n *(?:[-*]|\d+\.) ', text)
    sentences = [s for o in blocks for s in re.split(r'(?<=[.!?:;])\s', ' '.join(o.split()))]
    return [o for o in sentences if len(words(o))>1]

def words(sentence): return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", sentence)

def syllables(word):
    "Groups of vowels, at least one"
    word = word.lower()
    n = len(re.findall('[aeiouyäöü]+', word))
    silent = re.search(r'[^aeiouyl]es?$', word) and not re.search(r'(ch|sh|[scxzg])es$', word)
    return max(n-bool(silent), 1)

def reading_ease(text):
    "Flesch's figure, words a sentence, and words"
    sentences = prose(text)
    found = [w for o in sentences for w in words(o)]
    if not found: return None,0.,0
    length,each = len(found)/len(sentences),sum(map(syllables, found))/len(found)
    return 206.835-1.015*length-84.6*each,length,len(found)

def main():
    print(f"{'page':40} {'ease':>5} {'words a sentence':>17} {'words':>6}")
    for path in [*map(Path, sys.argv[1:])] or pages:
        ease,length,n = reading_ease(path.read_text(encoding='utf-8'))
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        print(f"{name:40} {'' if ease is None else format(ease, '5.0f'):>5} {length:17.1f} {n:6}")

if __name__=='__main__': main()
