// Step through an account's events by keyboard.
"use strict";
const STEPS = { ArrowLeft: "step-previous", ArrowRight: "step-next", Home: "step-first", End: "step-last" };
document.addEventListener("keydown", (event) => {
  if (/^(input|textarea|select)$/i.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
  const link = document.getElementById(STEPS[event.key] || "");
  if (link) {
    event.preventDefault();
    link.click();
  }
});
