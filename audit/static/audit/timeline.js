// The past of an account: step by keyboard, slide, draw the balance, copy the link, know the reader's zone.
"use strict";
document.cookie = `zone=${Intl.DateTimeFormat().resolvedOptions().timeZone}; path=/; samesite=lax; max-age=31536000`;

const STEPS = { ArrowLeft: "step-previous", ArrowRight: "step-next", Home: "step-first", End: "step-last" };
document.addEventListener("keydown", (event) => {
  if (/^(input|textarea|select)$/i.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
  const link = document.getElementById(STEPS[event.key] || "");
  const compare = document.getElementById("compare");
  const permanent = document.getElementById("permanent");
  if (link) {
    event.preventDefault();
    link.click();
  } else if (event.key === "d" && compare) {
    event.preventDefault();
    compare.focus();
  } else if (event.key === "c" && permanent) {
    event.preventDefault();
    navigator.clipboard.writeText(permanent.href).then(() => {
      document.getElementById("copied").textContent = "copied";
    });
  }
});

function go(version) {
  const target = new URL(window.location.href);
  target.search = `?version=${version}`;
  window.location.assign(target);
}

function slide() {
  const slider = document.getElementById("slider");
  if (!slider) return;
  slider.addEventListener("input", () => {
    document.getElementById("slider-at").textContent = slider.value;
  });
  slider.addEventListener("change", () => go(slider.value));
}

function paint(name, otherwise) {
  const found = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return found || otherwise;
}

function draw() {
  const box = document.getElementById("balances");
  const source = document.getElementById("chart-data");
  if (!box || !source || !window.uPlot) return;
  const data = JSON.parse(source.textContent);
  box.hidden = data.versions.length < 2;
  if (box.hidden) return;
  const digits = Number(box.dataset.digits);
  const money = (minor) =>
    (minor / 10 ** digits).toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const text = paint("--pico-color", paint("--body-fg", "#444"));
  const line = paint("--pico-primary", paint("--link-fg", "#417893"));
  const grid = paint("--pico-muted-border-color", paint("--hairline-color", "#ddd"));
  const at = data.versions.indexOf(data.selected);
  const mark = (drawn) => {
    const x = drawn.valToPos(data.selected, "x", true);
    const y = drawn.valToPos(data.balances[at], "y", true);
    drawn.ctx.fillStyle = text;
    drawn.ctx.beginPath();
    drawn.ctx.arc(x, y, 6 * window.devicePixelRatio, 0, 2 * Math.PI);
    drawn.ctx.fill();
  };
  const plot = new uPlot(
    {
      width: box.clientWidth,
      height: box.clientHeight,
      scales: { x: { time: false } },
      legend: { show: false },
      hooks: { draw: [mark] },
      cursor: { drag: { x: false, y: false } },
      series: [
        {},
        { stroke: line, width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: data.versions.length <= 200, size: 6 } },
      ],
      axes: [
        { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500], stroke: text, grid: { show: false } },
        { size: 90, stroke: text, values: (_plot, ticks) => ticks.map(money), grid: { stroke: grid } },
      ],
    },
    [data.versions, data.balances],
    box,
  );
  plot.over.addEventListener("click", () => {
    if (plot.cursor.idx !== null && plot.cursor.idx !== undefined) go(data.versions[plot.cursor.idx]);
  });
}
document.addEventListener("DOMContentLoaded", () => {
  slide();
  draw();
});
