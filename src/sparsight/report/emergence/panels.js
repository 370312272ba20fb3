"use strict";
// Without this script every panel is shown, one below the other.
document.querySelectorAll(".panels").forEach((group) => {
  const panels = [...group.querySelectorAll(".panel")];
  const inputs = [...group.querySelectorAll("input[type=radio]")];
  const show = (chosen) => panels.forEach((panel, i) => { panel.hidden = i !== chosen; });
  inputs.forEach((input, i) => {
    input.checked = input.defaultChecked;
    input.addEventListener("change", () => show(i));
  });
  group.classList.add("ready");
  show(0);
});
addEventListener("beforeprint", () => {
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = false;
});
addEventListener("afterprint", () => {
  for (const group of document.querySelectorAll(".panels")) group.querySelector("input:checked").dispatchEvent(new Event("change"));
});
