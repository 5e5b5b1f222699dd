// Sorts a table by the column whose heading is pressed. Without this script tables stay in the order they came in.

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
