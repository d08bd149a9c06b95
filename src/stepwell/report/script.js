"use strict";
// The report reads whole without this script. It adds: a cursor with the losses under it, and recipes to switch off.
document.documentElement.classList.add("script");
const runs = JSON.parse(document.getElementById("data").textContent);
const off = new Set();

for (const button of document.querySelectorAll("[data-toggle]")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    shown ? off.delete(button.dataset.toggle) : off.add(button.dataset.toggle);
    for (const line of document.querySelectorAll(`[data-series="${button.dataset.toggle}"]`)) line.classList.toggle("hidden", !shown);
  });
}

const interpolated = (at, xs, ys) => {
  const next = xs.findIndex((x) => x >= at);
  if (next <= 0) return next === 0 && xs[0] === at ? ys[0] : null;
  const part = (at - xs[next - 1]) / (xs[next] - xs[next - 1]);
  return ys[next - 1] + part * (ys[next] - ys[next - 1]);
};

// As `numbers.loss` of the page writes it.
const written = (loss) => {
  const size = Math.abs(loss);
  if (size === 0 || (size >= 0.01 && size < 1e5)) return loss.toFixed(3);
  return size >= 1e-4 && size < 1 ? loss.toPrecision(4) : loss.toExponential(3).replace("+", "");
};

const tipOf = (figure) => {
  const tip = figure.querySelector(".tip") ?? document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  figure.append(tip);
  return tip;
};

for (const chart of document.querySelectorAll("svg[data-unit]")) {
  const { unit } = chart.dataset;
  const [start, end, high] = ["start", "end", "high"].map((key) => Number(chart.dataset[key]));
  const cursor = chart.querySelector(".cursor");
  const tip = tipOf(chart.closest("figure"));
  let share = 0.5;

  const hide = () => { tip.hidden = true; cursor.style.opacity = 0; };
  const show = () => {
    const at = unit === "steps" ? Math.round(share * high) : share * high;
    const x = start + (at / high) * (end - start);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.opacity = 0.6;
    const title = document.createElement("b");
    title.textContent = unit === "steps" ? `step ${at}` : `${at.toFixed(1)} s`;
    const lines = runs.flatMap((run, index) => {
      const loss = off.has(String(index)) ? null : interpolated(at, run[unit], run.loss);
      if (loss === null) return [];
      const [line, swatch, name, value] = ["div", "i", "span", "span"].map((kind) => document.createElement(kind));
      line.className = run.class;
      name.textContent = run.name;
      value.textContent = written(loss);
      line.append(swatch, name, value);
      return [[loss, line]];
    });
    tip.replaceChildren(title, ...lines.sort((a, b) => a[0] - b[0]).map(([, line]) => line));
    tip.hidden = lines.length === 0;
    const box = chart.getBoundingClientRect();
    const figure = chart.closest("figure").getBoundingClientRect();
    const left = box.left - figure.left + (x / chart.viewBox.baseVal.width) * box.width;
    const fits = left + 16 + tip.offsetWidth < figure.width;
    tip.style.left = `${Math.max(4, fits ? left + 14 : left - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${box.top - figure.top + 16}px`;
  };

  chart.tabIndex = 0;
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    share = Math.min(1, Math.max(0, (x - start) / (end - start)));
    show();
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    share = Math.min(1, Math.max(0, share + (event.key === "ArrowLeft" ? -0.02 : 0.02)));
    show();
  });
}
