// Tables of results sort and filter, and a row and its dot light up together. Without this script all of it is there.

for (const root of document.querySelectorAll(".wb-report")) {
  const all = (selector) => [...root.querySelectorAll(selector)];
  const hook = (name) => root.querySelector(`[data-test=${name}]`);
  for (const node of all("[hidden]")) node.hidden = false;
  sortable(root);

  const rows = all(".runs tbody tr");
  const filter = hook("filter");
  function choose() {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    const shown = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      if (!row.hidden) shown.add(row.dataset.g);
    }
    for (const node of all(".scatter [data-g]")) node.classList.toggle("off", !shown.has(node.dataset.g));
    for (const node of all(".scatter g:not([data-g])")) node.classList.toggle("off", shown.size < rows.length);
    hook("shown").textContent = `${shown.size} of ${rows.length}`;
  }
  filter?.addEventListener("input", choose);
  if (filter) choose();

  function light(event) {
    const index = event.target.closest("[data-g]")?.dataset.g;
    for (const node of all("[data-g]")) node.classList.toggle("on", node.dataset.g === index);
  }
  for (const node of all(".runs tbody, .scatter")) {
    for (const type of ["pointerover", "focusin"]) node.addEventListener(type, light);
    for (const type of ["pointerleave", "focusout"]) node.addEventListener(type, () => light({ target: document.body }));
  }
}
