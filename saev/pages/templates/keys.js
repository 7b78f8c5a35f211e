"use strict";
// Left and right go to the neighbouring latents, u to the overview.
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.metaKey || event.ctrlKey || event.altKey) return;
  const link = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]", u: "nav a" }[event.key];
  const target = link && document.querySelector(link);
  if (target) location.href = target.href;
});
