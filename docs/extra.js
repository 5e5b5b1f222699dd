// A table that is wider than the screen scrolls by the keyboard as well
addEventListener('load', () => { for (const o of document.querySelectorAll('.md-typeset__scrollwrap')) Object.assign(o, {tabIndex: 0, role: 'group', ariaLabel: 'Table'}) })
