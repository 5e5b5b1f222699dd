"""What is wrong with a built site: links and images that lead nowhere, anything fetched from elsewhere, and markup that is shown instead of being obeyed."""
import re,sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote,urldefrag,urlsplit

fetched = {'script':'src', 'img':'src', 'link':'href', 'iframe':'src', 'source':'src', 'video':'src', 'audio':'src', 'object':'data'}
# What would be shown of Quarto, nbdev, attribute lists, templates and formulas. In blocks of code only nbdev's directives are out of place.
raw = re.compile(r':::|#\||\{[.#:][\w-]|\{\{|\{%|\\\(|\\\[|\$\$|!!! |\[[^\]]+\]\([^)]+\)')
raw_code = re.compile(r'^#\|', flags=re.MULTILINE)

class Page(HTMLParser):
    "Addresses, links and text of a page"
    def __init__(self, text):
        super().__init__()
        self.ids,self.links,self.fetches,self.bad_images,self.text,self.code,self.inside = set(),[],[],[],[],[],[]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag=='a' and a.get('name'): self.ids.add(a['name'])
        if tag=='a' and a.get('href') is not None: self.links.append(a['href'])
        if a.get(fetched.get(tag)): self.fetches.append(a[fetched[tag]])
        if tag=='img' and not a.get('alt'): self.bad_images.append(a.get('src'))
        if tag in ('pre','code','script','style','template'): self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1]==tag: self.inside.pop()

    def handle_data(self, data):
        if not self.inside: self.text.append(data)
        elif 'pre' in self.inside: self.code.append(data)


def faults(site):
    "A sentence for each fault of the site in a folder"
    site = Path(site).resolve()
    all_pages = {p: Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html'))}
    res = []
    if not all_pages: return [f'{site} has no pages']
    for p,page in all_pages.items():
        where = p.relative_to(site).as_posix()
        for o in page.fetches:
            if urlsplit(o).scheme not in ('','data') or o.startswith('//'): res.append(f'{where} fetches {o}')
            elif not urlsplit(o).scheme and p.name!='404.html' and not (p.parent/unquote(urlsplit(o).path)).is_file(): res.append(f'{where} fetches {o}, which is not there')
        for o in page.links:
            link,anchor = urldefrag(o)
            if urlsplit(link).scheme or link.startswith('//') or p.name=='404.html': continue
            to = (p.parent/unquote(link)).resolve() if link else p
            if to.is_dir(): to = to/'index.html'
            if not to.is_file(): res.append(f'{where} links to {o}, which is not there')
            elif anchor and to in all_pages and unquote(anchor) not in all_pages[to].ids: res.append(f'{where} links to {o}, and there is no such part')
        res += [f'{where} has an image without words: {o}' for o in page.bad_images]
        res += [f'{where} shows {m[0]!r}: {s[max(0, m.start()-40):m.end()+40]!r}' for s,rx in ((''.join(page.text),raw),('\n'.join(page.code),raw_code)) for m in [rx.search(s)] if m]
    for p in site.rglob('*.css'):
        if m := re.search(r'''(?:url\(|@import )["']?(https?:)?//[^)]*''', p.read_text(encoding='utf-8')): res.append(f'{p.relative_to(site)} fetches {m[0]}')
    return res


if __name__=='__main__':
    found = faults(sys.argv[1])
    print('\n'.join(found), file=sys.stderr)
    sys.exit(bool(found))
