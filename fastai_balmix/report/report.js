// Without this the tables stay in the order they came in.
const said = document.getElementById('said')
const value = cell => cell.dataset.n === undefined ? cell.textContent.trim() : Number(cell.dataset.n)
const compare = (a, b) => typeof a === 'number' && typeof b === 'number' ? (isNaN(a) ? 1 : isNaN(b) ? -1 : a - b) : String(a).localeCompare(String(b), 'en', {numeric: true})
for (const button of document.querySelectorAll('table.sortable th button')) button.addEventListener('click', () => {
  const th = button.parentElement, table = th.closest('table'), body = table.tBodies[0], column = th.cellIndex
  const up = th.getAttribute('aria-sort') !== 'ascending'
  for (const o of table.tHead.rows[0].cells) o.setAttribute('aria-sort', 'none')
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  const rows = [...body.rows].map(row => [value(row.cells[column]), row])
  rows.sort((a, b) => up ? compare(a[0], b[0]) : compare(b[0], a[0]))
  body.append(...rows.map(o => o[1]))
  said.textContent = `Sorted by ${button.textContent}, ${up ? 'ascending' : 'descending'}`
})
