"use strict";
(() => {
  const at = (id) => document.getElementById(`explorer-${id}`);
  const treatments = JSON.parse(at("data").textContent);
  const [picker, slider, alarmCost, missCost] = ["treatment", "threshold", "alarm-cost", "miss-cost"].map(at);
  const lines = ["precision", "recall", "f1"];

  const count = (n) => n.toLocaleString("en-US", { maximumFractionDigits: 2 });
  const decimal = (x) => (x !== 0 && Math.abs(x) < 0.001 ? x.toPrecision(2) : x.toFixed(3));
  const share = (part, whole) => (whole > 0 ? part / whole : 0);
  const named = (threshold) => (threshold === null ? "above every score" : decimal(threshold));

  function decision(treatment, stop) {
    const { positives, negatives } = treatment;
    const found = treatment.truePositives[stop], alarms = treatment.falsePositives[stop];
    return {
      threshold: treatment.threshold[stop],
      found, alarms, missed: positives - found, passed: negatives - alarms,
      precision: share(found, found + alarms),
      recall: share(found, positives),
      f1: share(2 * found, found + alarms + positives),
      specificity: share(negatives - alarms, negatives),
    };
  }

  const stops = (treatment) => treatment.threshold.map((_, stop) => decision(treatment, stop));

  function show() {
    const treatment = treatments[picker.value], now = decision(treatment, Number(slider.value));
    for (const name of ["found", "missed", "alarms", "passed"]) at(name).textContent = count(now[name]);
    for (const name of [...lines, "specificity"]) at(name).textContent = decimal(now[name]);
    at("at").textContent = named(now.threshold);
    at("exact").textContent = now.threshold === null ? "" : `exactly ${now.threshold}`;
    slider.setAttribute("aria-valuetext",
      `${named(now.threshold)}: found ${count(now.found)}, missed ${count(now.missed)}, false alarms ${count(now.alarms)}`);
    at("now").setAttribute("x1", slider.value);
    at("now").setAttribute("x2", slider.value);
    at("same").textContent = sameRecall(now);
    showCosts();
  }

  // What the untouched data, the first treatment, would do to find as many positive rows.
  function sameRecall(now) {
    if (picker.selectedIndex === 0 || treatments[0].series !== 0) return "";
    const rival = stops(treatments[0]).findLast((d) => d.found >= now.found);
    return rival === undefined ? "" : "To find as many or more, the untouched data need a threshold of " +
      `${named(rival.threshold)}. False alarms there: ${count(rival.alarms)}; here: ${count(now.alarms)}.`;
  }

  function showCosts() {
    const costs = [alarmCost, missCost].map((input) => (input.validity.valid ? input.valueAsNumber : NaN));
    const known = costs.every(Number.isFinite);
    const cost = (d) => costs[0] * d.alarms + costs[1] * d.missed;
    const best = treatments.map((treatment) => {
      const all = stops(treatment).map(cost);
      return all.lastIndexOf(Math.min(...all));
    });
    const lowest = Math.min(...treatments.map((treatment, i) => cost(decision(treatment, best[i]))));
    at("cost").textContent = known ? count(cost(decision(treatments[picker.value], Number(slider.value)))) : "–";
    treatments.forEach((treatment, i) => {
      const row = at(`best-${i}`), d = decision(treatment, best[i]), wins = known && cost(d) === lowest;
      const chosen = cost(decision(treatment, treatment.chosen));
      const cells = known ? [count(chosen), `${wins ? "★ " : ""}${count(cost(d))}`] : ["–", "–"];
      row.querySelector(".chosen").textContent = cells[0];
      row.querySelector(".lowest").textContent = cells[1];
      row.querySelector(".lowest").classList.toggle("best", wins);
      const go = row.querySelector("button");
      go.textContent = known ? named(d.threshold) : "–";
      go.disabled = !known;
      go.onclick = () => { picker.value = i; pick(best[i]); };
    });
  }

  function pick(stop) {
    const treatment = treatments[picker.value], last = treatment.threshold.length - 1, all = stops(treatment);
    slider.max = last;
    slider.value = stop;
    // The last stop flags nothing, so it has no precision to draw.
    at("chart").setAttribute("viewBox", `0 0 ${last} 1`);
    for (const name of lines) {
      at(`line-${name}`).setAttribute("points", all.slice(0, last).map((d, x) => `${x},${1 - d[name]}`).join(" "));
    }
    at("mark").setAttribute("x1", treatment.chosen);
    at("mark").setAttribute("x2", treatment.chosen);
    show();
  }

  slider.addEventListener("input", show);
  picker.addEventListener("input", () => pick(treatments[picker.value].chosen));
  at("reset").addEventListener("click", () => pick(treatments[picker.value].chosen));
  for (const input of [alarmCost, missCost]) input.addEventListener("input", showCosts);
  for (const part of document.querySelectorAll("#explorer [hidden]")) part.hidden = false;
  pick(treatments[picker.value].chosen);
})();
