// Buttons inside the page's own HTML: the server hears what data-pick says; data-copy goes to the clipboard.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  if (button) {
    const group = button.closest(".strip, tbody");
    group?.querySelectorAll("[aria-pressed]").forEach((b) => b.setAttribute("aria-pressed", b === button));
    trigger("select", { pick: button.dataset.pick });
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const text = new URL(copy.dataset.copy, window.location.href).href;
    const done = () => (copy.textContent = "Copied");
    navigator.clipboard ? navigator.clipboard.writeText(text).then(done) : window.prompt("Copy:", text);
  }
});
