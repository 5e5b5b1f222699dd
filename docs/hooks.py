"""What mkdocs calls while it renders a page: formulas become MathML, which browsers draw without a script; what the
theme leaves without a name gets one."""
import re
from html import unescape

from latex2mathml.converter import convert


def on_page_content(html, **kwargs):
    "Replace formulas as `pymdownx.arithmatex` marks them"
    def inline(m): return convert(unescape(m[1]))
    def block(m):
        math = convert(unescape(m[1]), display='block')
        return f'<div class="formula" tabindex="0" role="group" aria-label="Formula">{math}</div>'
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', inline, html, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', block, html, flags=re.DOTALL)


def on_post_page(output, **kwargs):
    "Name the search for whoever hears the page"
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')
