// Small things: "/" focuses the search, a form is sent once, ids can be copied, boxes chosen together,
// an account's page hears when it has moved, and the balance chart.
"use strict";

document.addEventListener("keydown", (event) => {
  const typing = /^(input|textarea|select)$/i.test(event.target.tagName);
  const search = document.getElementById("search");
  if (event.key === "/" && !typing && search) {
    event.preventDefault();
    search.focus();
  }
});

document.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button[data-sending]");
  if (!button) return;
  if (button.getAttribute("aria-busy") === "true") {
    event.preventDefault();
    return;
  }
  button.setAttribute("aria-busy", "true");
  button.textContent = button.dataset.sending;
});
window.addEventListener("pageshow", () => {
  document.querySelectorAll("button[data-sending][aria-busy]").forEach((button) => {
    button.removeAttribute("aria-busy");
  });
});

document.addEventListener("click", async (event) => {
  const choose = event.target.closest("[data-choose-all]");
  if (choose) {
    const boxes = [...document.getElementsByName(choose.dataset.chooseAll)];
    const chosen = boxes.every((box) => box.checked);
    boxes.forEach((box) => (box.checked = !chosen));
  }
  if (event.target.closest("#news button")) {
    document.getElementById("news").hidden = true;
    htmx.trigger(document.getElementById("live"), "refresh");
  }
  const copy = event.target.closest("button.copy");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.text);
    copy.textContent = "copied";
    setTimeout(() => (copy.textContent = "copy"), 1500);
  }
});

// Browsers offer the clipboard on https and localhost alone; elsewhere there is no button.
function offerCopies() {
  if (!navigator.clipboard) return;
  document.querySelectorAll("[data-copy]:not([data-copy=done])").forEach((shown) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy no-print";
    button.dataset.text = shown.textContent.trim();
    button.textContent = "copy";
    button.setAttribute("aria-label", `Copy ${button.dataset.text}`);
    shown.dataset.copy = "done";
    shown.after(" ", button);
  });
}

// While a page is looked at, the server says when its account has moved. One's own change is shown at
// once; what others did waits under a bar, so that nothing moves that is being read. Where streams do
// not get through, the fragment asks again by itself until it is current.
let stream = null;
function follow() {
  const live = document.getElementById("live");
  if (!live || !live.dataset.stream || document.hidden || stream) return;
  stream = new EventSource(live.dataset.stream);
  stream.addEventListener("account", (event) => {
    const news = JSON.parse(event.data);
    const shown = document.getElementById("live");
    const more = news.version - Number(shown.dataset.version);
    if ("processing" in shown.dataset) {
      if (news.is_current || more > 0) htmx.trigger(shown, "refresh");
    } else if (more > 0) {
      const bar = document.getElementById("news");
      bar.querySelector("span").textContent = `${more} new event${more === 1 ? "" : "s"}.`;
      bar.hidden = false;
    }
  });
}
function unfollow() {
  if (stream) stream.close();
  stream = null;
}
document.addEventListener("visibilitychange", () => (document.hidden ? unfollow() : follow()));
window.addEventListener("pagehide", unfollow);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

async function drawChart() {
  const box = document.getElementById("chart");
  if (!box || !window.uPlot) return;
  const answer = await fetch(box.dataset.url, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const data = await answer.json();
  if (data.times.length < 2) {
    box.hidden = true;
    return;
  }
  const digits = Number(box.dataset.digits);
  const money = (minor) =>
    (minor / 10 ** digits).toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  box.replaceChildren();
  new uPlot(
    {
      width: box.clientWidth,
      height: box.clientHeight,
      scales: { x: { time: false } },
      legend: { show: false },
      series: [
        {},
        {
          label: data.currency,
          stroke: colour("--pico-primary"),
          width: 2,
          paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: true, size: 5 },
        },
      ],
      axes: [
        { label: "version", incrs: [1, 2, 5, 10, 20, 50], stroke: colour("--pico-color"), grid: { show: false } },
        {
          size: 90,
          stroke: colour("--pico-color"),
          values: (_plot, ticks) => ticks.map(money),
          grid: { stroke: colour("--pico-muted-border-color") },
        },
      ],
    },
    [data.versions, data.balances],
    box,
  );
}

document.addEventListener("DOMContentLoaded", () => {
  offerCopies();
  drawChart();
  follow();
});
document.addEventListener("htmx:afterSettle", (event) => {
  offerCopies();
  if (event.target.id === "live") drawChart();
});
