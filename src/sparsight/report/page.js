"use strict";
// Without this script the page still shows every figure and the chosen strength of each concept.

function showStrip(stage, sheet, label) {
  for (const tile of stage.querySelectorAll(".after")) {
    tile.classList.remove(stage.dataset.shown || stage.dataset.start);
    tile.classList.add(sheet);
  }
  stage.dataset.shown = sheet;
  for (const text of stage.querySelectorAll(".after-label")) text.textContent = label;
}

function bindStage(stage) {
  const slider = stage.querySelector("input[type=range]");
  const tabs = [...stage.querySelectorAll("input[type=radio]")];
  const showScores = (index) => {
    for (const line of stage.querySelectorAll(".scores")) line.hidden = line.dataset.method !== index;
  };
  const slide = () => {
    const alpha = slider.dataset.alphas.trim().split(/\s+/)[slider.value];
    const chosen = slider.value === slider.dataset.chosen;
    const casl = tabs.find((tab) => tab.dataset.casl === "1");
    if (casl) { casl.checked = true; showScores(casl.value); }
    stage.classList.remove("control");
    stage.querySelector("output").textContent = alpha;
    slider.setAttribute("aria-valuetext", `α = ${alpha}${chosen ? ", chosen" : ""}`);
    showStrip(stage, slider.dataset.sheets.trim().split(/\s+/)[slider.value], `CASL, α = ${alpha}`);
  };
  if (slider) slider.addEventListener("input", slide);
  for (const tab of tabs) {
    tab.addEventListener("change", () => {
      showScores(tab.value);
      if (tab.dataset.casl === "1" && slider) return slide();
      stage.classList.add("control");
      showStrip(stage, tab.dataset.sheet, tab.dataset.label);
    });
  }
}

function bindJudges() {
  const cells = document.querySelectorAll("#epr [data-judge]");
  for (const radio of document.querySelectorAll("input[name=judge]")) {
    radio.addEventListener("change", () => {
      for (const cell of cells) cell.hidden = cell.dataset.judge !== radio.value;
    });
  }
}

function bindTips() {
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (event) => {
    const target = event.target.closest && event.target.closest("[data-tip]");
    if (!target || !target.dataset.tip) return hide();
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = target.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

// Paper has no way to open what is folded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

// Browsers keep the state of inputs over a reload, and the images would not match it.
document.querySelectorAll(".stage input, .judge input, #heat").forEach((input) => {
  if (input.type === "range") input.value = input.defaultValue; else input.checked = input.defaultChecked;
});
document.querySelectorAll(".stage").forEach(bindStage);
bindJudges();
bindTips();
const heat = document.getElementById("heat");
if (heat) heat.addEventListener("change", () => document.body.classList.toggle("bare", !heat.checked));
