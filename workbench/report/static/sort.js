// Sorting. A cell may hold "<i>9.25 k</i> 3.25 k" or "46<i> of 64</i>": what is not set back counts.
function sortable(root) {
  for (const head of root.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }
  function read(cell, numeric) {
    if (!numeric) return cell.textContent;
    const shown = cell.firstChild?.nodeName === "I" ? cell.lastChild : cell.firstChild;
    const [, digits, prefix] = (shown?.textContent ?? "").replace("−", "-").replaceAll(",", "").match(/(-?[\d.]+)\s*([kMGTP]?)/) ?? [];
    return digits * 1000 ** " kMGTP".indexOf(prefix || " ");
  }
  const names = new Intl.Collator("en", { numeric: true });
  function sort(head) {
    const numeric = head.dataset.sort === "number";
    const falling = head.ariaSort === "ascending" ? -1 : 1;
    const table = head.closest("table");
    for (const other of table.querySelectorAll("[aria-sort]")) other.ariaSort = null;
    head.ariaSort = falling < 0 ? "descending" : "ascending";
    const keyed = [...table.tBodies[0].rows].map((row) => [read(row.cells[head.cellIndex], numeric), row]);
    // What has no value stays below, whichever the direction.
    keyed.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || falling * (numeric ? a - b : names.compare(a, b)) || 0);
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }
}
