"""What is wrong with a built site: links and images that lead nowhere, anything fetched from elsewhere, and markup that
is shown instead of being obeyed."""
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

fetched = dict.fromkeys(('script','img','iframe','source','video','audio'), 'src') | {'link': 'href', 'object': 'data'}
# What would be shown of Quarto, nbdev, attribute lists, templates, formulas and escapes. In blocks of code only nbdev's
# directives are out of place, in code within words only escapes.
raw = re.compile(r':::|#\||\{[.#:][\w-]|\{\{|\{%|\\\(|\\\[|\\[<>|{}*_`#\]]|\$\$|!!! |\[[^\]]*\]\([^)]+\)')
raw_code = re.compile(r'^#\|', flags=re.MULTILINE)
raw_inline = re.compile(r'\\[|<>{}]|&#?\w+;')
# What belongs to a piece of text. Words in braces at its end become others.
plain = re.compile(r'id|class|style|title|align|halign|valign|colspan|rowspan|scope|role|tabindex|lang|dir|hidden'
                   r'|(data|aria)-[\w-]+')
texts = {'td','th','p','li','h1','h2','h3','h4','h5','h6','dt','dd'}

class Page(HTMLParser):
    "Addresses, links and text of a page"
    def __init__(self, text):
        super().__init__()
        self.ids,self.links,self.fetches,self.bad_images = set(),[],[],[]
        self.text,self.code,self.inline = [],[],[]
        self.inside = [] # Open tags whose text is not prose
        self.odd = [] # Tags with what is no attribute
        self.empty = [] # Headings with nothing below
        self.heading,self.in_heading = None,False # The last heading
        self.said = True # Whether something came after it
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag=='a' and a.get('name'): self.ids.add(a['name'])
        if tag=='a' and a.get('href') is not None: self.links.append(a['href'])
        if a.get(fetched.get(tag)): self.fetches.append(a[fetched[tag]])
        if tag=='img' and not a.get('alt'): self.bad_images.append(a.get('src'))
        if tag in ('pre','code','script','style','template'): self.inside.append(tag)
        odd = [k for k in a if not plain.fullmatch(k)] if tag in texts else []
        if odd: self.odd.append(f'<{tag} {" ".join(odd)}>')
        if tag in ('img','svg','math','table','video','iframe'): self.said = True
        if re.fullmatch('h[1-6]', tag):
            self._ends(tag)
            self.heading,self.said,self.in_heading = [tag,''],False,True

    def _ends(self, by):
        "A part ends, by a heading or with the article"
        if self.heading and not self.said and by<=self.heading[0]: self.empty.append(self.heading[1].strip())
        self.heading = None

    def handle_endtag(self, tag):
        if re.fullmatch('h[1-6]', tag): self.in_heading = False
        if tag in ('article','body'): self._ends('h0')
        if self.inside and self.inside[-1]==tag: self.inside.pop()

    def handle_data(self, data):
        if self.in_heading: self.heading[1] += data
        elif data.strip(): self.said = True
        if not self.inside: self.text.append(data)
        elif 'pre' in self.inside: self.code.append(data)
        elif self.inside==['code']: self.inline.append(data)


def _fetch_faults(path, page, where):
    "Sentences on what a page fetches from elsewhere, or what is not there"
    for o in page.fetches:
        url = urlsplit(o)
        if url.scheme not in ('','data') or o.startswith('//'): yield f'{where} fetches {o}'
        elif not url.scheme and path.name!='404.html' and not (path.parent/unquote(url.path)).is_file():
            yield f'{where} fetches {o}, which is not there'


def _link_faults(path, page, where, all_pages):
    "Sentences on links of a page that lead nowhere"
    if path.name=='404.html': return
    for o in page.links:
        link,anchor = urldefrag(o)
        if urlsplit(link).scheme or link.startswith('//'): continue
        to = (path.parent/unquote(link)).resolve() if link else path
        if to.is_dir(): to = to/'index.html'
        if not to.is_file(): yield f'{where} links to {o}, which is not there'
        elif anchor and to in all_pages and unquote(anchor) not in all_pages[to].ids:
            yield f'{where} links to {o}, and there is no such part'


def _raw_faults(page, where):
    "Sentences on markup that a page shows"
    prose,code,inline = ''.join(page.text),'\n'.join(page.code),'\n'.join(page.inline)
    for text,pattern in (prose,raw),(code,raw_code),(inline,raw_inline):
        if m := pattern.search(text):
            yield f'{where} shows {m[0]!r}: {text[max(0, m.start()-40):m.end()+40]!r}'


def faults(site):
    "A sentence for each fault of the site in a folder"
    site = Path(site).resolve()
    all_pages = {p: Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html'))}
    res = []
    if not all_pages: return [f'{site} has no pages']
    for p,page in all_pages.items():
        where = p.relative_to(site).as_posix()
        res += _fetch_faults(p, page, where)
        res += _link_faults(p, page, where, all_pages)
        res += [f'{where} has an image without words: {o}' for o in page.bad_images]
        res += [f'{where} has words for attributes: {o}' for o in page.odd]
        res += [f'{where} has nothing below {o!r}' for o in page.empty if p.name!='404.html']
        res += _raw_faults(page, where)
    for p in site.rglob('*.css'):
        m = re.search(r'''(?:url\(|@import )["']?(https?:)?//[^)]*''', p.read_text(encoding='utf-8'))
        if m: res.append(f'{p.relative_to(site)} fetches {m[0]}')
    return res


if __name__=='__main__':
    found = faults(sys.argv[1])
    print('\n'.join(found), file=sys.stderr)
    sys.exit(bool(found))
