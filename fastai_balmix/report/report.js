// Sorts tables, marks the part that is read in the contents, and unfolds what a link or a printer asks for. Without this
// script the page is complete: tables stay in the order they came in, and parts are unfolded by hand.

// Element that screen readers speak whenever its text changes
const said = document.getElementById('said')

// What a cell is sorted by: its number, which is NaN where there is none, or else its text
const value = cell => cell.dataset.n === undefined ? cell.textContent.trim() : Number(cell.dataset.n)

function compare(a, b) {
  if (typeof a !== 'number' || typeof b !== 'number') return String(a).localeCompare(String(b), 'en', {numeric: true})
  if (isNaN(a)) return 1
  return isNaN(b) ? -1 : a - b
}

function sort(button) {
  const heading = button.parentElement
  const table = heading.closest('table')
  const body = table.tBodies[0]
  const up = heading.getAttribute('aria-sort') !== 'ascending'
  for (const other of table.tHead.rows[0].cells) other.setAttribute('aria-sort', 'none')
  heading.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  const rows = [...body.rows].map(row => [value(row.cells[heading.cellIndex]), row])
  rows.sort((a, b) => up ? compare(a[0], b[0]) : compare(b[0], a[0]))
  body.append(...rows.map(pair => pair[1]))
  said.textContent = `Sorted by ${button.textContent}, ${up ? 'ascending' : 'descending'}`
}

for (const button of document.querySelectorAll('table.sortable th button')) {
  button.addEventListener('click', () => sort(button))
}

// Contents: the last part whose beginning has passed the upper third of the window is the one that is read
const links = [...document.querySelectorAll('nav a')]
const parts = links.map(link => document.querySelector(link.getAttribute('href')))

function mark() {
  const passed = parts.filter(part => part.getBoundingClientRect().top < innerHeight/3)
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2 && scrollY > 0
  // at the end several parts are in sight, and the one that a link asked for cannot come further up
  const asked = parts[links.findIndex(link => link.hash === location.hash)]
  const last = asked && asked.getBoundingClientRect().top >= 0 ? asked : parts.at(-1)
  const here = atEnd ? last : passed.reduce((a, b) => b.offsetTop >= a.offsetTop ? b : a, parts[0])
  links.forEach((link, i) => parts[i] === here ? link.setAttribute('aria-current', 'true') : link.removeAttribute('aria-current'))
}

addEventListener('scroll', mark, {passive: true})
addEventListener('resize', mark)
mark()

// A link to a folded part unfolds it
function unfold() {
  const part = location.hash && document.getElementById(location.hash.slice(1))
  const folded = part && part.querySelector('details.part')
  if (!folded) return
  folded.open = true
  part.scrollIntoView()
  mark()
}

addEventListener('hashchange', unfold)
for (const link of links) link.addEventListener('click', () => setTimeout(unfold))
unfold()

// Paper shows all parts, and the screen afterwards what it showed before
let folded = []
addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('details.part:not([open])')]
  for (const part of folded) part.open = true
})
addEventListener('afterprint', () => { for (const part of folded) part.open = false })
