// The page reads without this script; with it, layers light up everywhere, tables sort, curves toggle.

function start(root) {
  const all = (selector) => [...root.querySelectorAll(selector)];
  const hook = (name) => root.querySelector(`[data-test=${name}]`);
  const plot = root.querySelector("[data-test=curves] .plot");
  const area = root.querySelector("[data-test=curves] .area");
  root.firstElementChild.classList.add("ready");
  for (const node of all("[hidden]")) node.hidden = false;

  // A group's curve and its row in the heat map have the same place; rows of layers name it themselves.
  for (const selector of [".area g", ".heatmap tbody tr"]) all(selector).forEach((node, at) => (node.dataset.g = at));

  // Lists of alike objects were stored as columns.
  function rows(value) {
    if (Array.isArray(value)) return value.map(rows);
    if (!value || typeof value !== "object") return value;
    const keys = value[""];
    if (!Array.isArray(keys)) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, rows(inner)]));
    const columns = value.rows.map(rows);
    return columns[0].map((_, at) => Object.fromEntries(keys.map((key, column) => [key, columns[column][at]])));
  }
  let unpacked;
  const result = () => (unpacked ??= unpack());
  async function unpack() {
    const bytes = Uint8Array.from(atob(root.querySelector(".archive").textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return { ...rows(await new Response(stream).json()), run: JSON.parse(root.querySelector(".run script").textContent) };
  }

  const percent = (share) => `${+(100 * share).toPrecision(3)} %`;
  const fixed = (value) => value.toFixed(4).replace("-", "−");

  // Light up one group in curves, heat map and tables; without a share, say what its chosen width costs.
  let lit;
  async function light(index, share) {
    lit = index;
    for (const node of all("[data-g]")) node.classList.toggle("on", node.dataset.g === index);
    plot?.classList.toggle("lit", !!index);
    if (!index) return;
    const { curves, groups } = await result();
    const { group, units, points } = curves.groups[index];
    const kept = groups.find((other) => other.group === group)?.kept.length ?? units;
    const distance = (point) => Math.abs(point.share - (share ?? kept / units));
    const [near] = points.filter((point) => !point.failed).sort((a, b) => distance(a) - distance(b));
    const interval = near?.low == null ? "" : ` (${fixed(near.low)} to ${fixed(near.high)})`;
    const loss = near ? ` At ${percent(near.share)} it alone costs ${near.degradation == null ? "about " + fixed(near.fitted) : fixed(near.degradation)}${interval}.` : "";
    // Another layer may have been lit while the data was unpacked.
    if (lit === index) hook("readout").textContent = `${group}: the plan keeps ${kept} of ${units}.${loss}`;
  }
  const shares = all(".heatmap thead tr:last-child th").slice(1, -2).map((head) => head.textContent / 100);
  const groupOf = (event) => event.target.closest("tr[data-g]")?.dataset.g;
  for (const table of all("table")) {
    for (const type of ["pointerover", "focusin"])
      table.addEventListener(type, (event) => light(groupOf(event), shares[event.target.closest(".heatmap td")?.cellIndex - 1]));
    for (const type of ["pointerleave", "focusout"]) table.addEventListener(type, () => light());
  }

  // The nearest curve to the pointer, since a line of two pixels is hard to hit.
  const lines = all(".area g").map((curve) => {
    const [x, y, ...steps] = curve.querySelector(":not([class])").getAttribute("d").match(/-?\d+/g).map(Number);
    const corners = [[x, y]];
    while (steps.length) corners.push(corners.at(-1).map((from) => from + steps.shift()));
    return [curve, corners];
  });
  function height(corners, x) {
    const right = corners.findIndex((corner) => corner[0] >= x);
    if (right < 1) return right ? Infinity : corners[0][1];
    const [[x0, y0], [x1, y1]] = [corners[right - 1], corners[right]];
    return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }
  area?.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const x = (500 * (event.clientX - box.left)) / box.width;
    const y = (500 * (event.clientY - box.top)) / box.height;
    let best = 40;
    let index;
    for (const [curve, corners] of lines) {
      const distance = Math.abs(height(corners, x) - y);
      if (distance >= best || curve.classList.contains("off")) continue;
      best = distance;
      index = curve.dataset.g;
    }
    light(index, 1 - (x / 500) * (1 - shares.at(-1)));
  });
  area?.addEventListener("pointerleave", () => light());

  // A check box a curve.
  const boxes = all(".heatmap tbody th").map((head) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.dataset.test = "toggle";
    box.setAttribute("aria-label", `Curve of ${head.textContent}`);
    box.addEventListener("change", () => show(box, box.checked));
    head.prepend(box);
    box.checked = true;
    return box;
  });
  function show(box, shown) {
    box.checked = shown;
    for (const node of all(`.plot [data-g="${groupOf({ target: box })}"]`)) node.classList.toggle("off", !shown);
  }
  hook("all")?.addEventListener("click", () => boxes.forEach((box) => show(box, true)));
  hook("none")?.addEventListener("click", () => boxes.forEach((box) => show(box, false)));

  // One tab stop a list; the arrow keys move within it.
  for (const selector of [".heatmap tbody input", ".layers tbody tr"]) {
    all(selector).forEach((item, at) => (item.tabIndex = at ? -1 : 0));
    root.addEventListener("keydown", (event) => {
      const list = all(selector);
      const from = list.indexOf(event.target);
      const next = from >= 0 && list[from + { ArrowDown: 1, ArrowUp: -1 }[event.key]];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  sortable(root);

  // The plans of the front.
  const slider = hook("slider");
  async function choose() {
    const plan = (await result()).front[slider.value];
    for (const list of [all(".front .plan"), all(".plans tbody tr")])
      list.forEach((node, at) => node.classList.toggle("on", at === +slider.value));
    const summary = `Keeps ${percent(plan.cost_ratio)} of the cost, predicted degradation ${fixed(plan.predicted_degradation)}`;
    slider.ariaValueText = summary;
    const widths = Object.entries(plan.options).map((option) => option.join(" "));
    hook("plan").textContent = `${summary}. Widths: ${widths.join(", ")}.`;
  }
  slider?.addEventListener("input", choose);
  if (slider) choose();

  hook("save").addEventListener("click", async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(await result(), null, 1)], { type: "application/json" }));
    link.download = "result.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

for (const root of document.querySelectorAll(".wb-report:not([data-ready])")) {
  root.dataset.ready = "";
  start(root);
}
