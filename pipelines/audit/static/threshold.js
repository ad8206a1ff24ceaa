// The slider of a rule: asks what a threshold would change and shows the last answer alone.
"use strict";
(() => {
  const box = document.getElementById("slider");
  if (!box) return;
  const slider = document.getElementById("threshold"), exact = document.getElementById("exact");
  const change = document.getElementById("change"), took = document.getElementById("took");
  let asking = null;

  async function ask(threshold) {
    asking?.abort();
    const mine = (asking = new AbortController());
    const begun = performance.now();
    change.classList.add("waiting");
    try {
      const answer = await fetch(`${box.dataset.whatIf}?threshold=${encodeURIComponent(threshold)}`, { signal: mine.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(page.querySelector(".hint")?.textContent || answer.status);
      change.replaceChildren(...page.body.childNodes);
      took.textContent = `${Math.round(performance.now() - begun)} ms`;
      history.replaceState(null, "", `?threshold=${encodeURIComponent(threshold)}`);
      change.classList.remove("waiting");
    } catch (error) {
      if (error.name !== "AbortError") took.textContent = error.message;
    }
  }

  slider.addEventListener("input", () => { exact.value = Number(Number(slider.value).toPrecision(6)); ask(exact.value); });
  exact.addEventListener("change", () => { slider.value = exact.value; ask(exact.value); });
  document.getElementById("reset").addEventListener("click", () => {
    exact.value = box.dataset.limit;
    slider.value = box.dataset.limit;
    ask(box.dataset.limit);
  });
})();
