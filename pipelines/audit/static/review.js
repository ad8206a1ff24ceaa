// Keyboard review: moves among the samples of a page and stores what is said of them, one row each.
"use strict";
(() => {
  const UNDO = "audit-undo"; // what this tab said, newest last, so that z finds its way back
  const saved = document.getElementById("saved");
  const samples = () => [...document.querySelectorAll("[data-sample]")];
  const current = () => document.querySelector("[data-sample].current");
  const said = () => JSON.parse(sessionStorage.getItem(UNDO) || "[]");
  const remember = (list) => sessionStorage.setItem(UNDO, JSON.stringify(list.slice(-500)));

  function tell(text, bad = false) {
    saved.textContent = text;
    saved.classList.toggle("bad", bad);
  }

  function choose(sample, scroll = true) {
    current()?.classList.remove("current");
    sample.classList.add("current");
    if (sample.tabIndex >= -1 && !("alone" in sample.dataset)) sample.focus({ preventScroll: true });
    if (scroll && !("alone" in sample.dataset)) sample.scrollIntoView({ block: "nearest" });
  }

  function move(step) {
    const all = samples();
    const place = all.indexOf(current());
    const next = place < 0 ? 0 : place + step;
    if (next >= 0 && next < all.length) choose(all[next]);
    else if (step === 1) go("next");
    else if (step === -1) go("prev");
  }

  function moveRow(down) {
    const here = current()?.getBoundingClientRect();
    if (!here) return move(1);
    let best = null, least = Infinity;
    for (const sample of samples()) {
      const box = sample.getBoundingClientRect();
      const apart = down ? box.top - here.top : here.top - box.top;
      const cost = apart * 4 + Math.abs(box.left - here.left);
      if (apart > 4 && cost < least) [best, least] = [sample, cost];
    }
    if (best) choose(best);
  }

  function go(way) {
    const link = document.querySelector(`a[rel="${way}"]`);
    if (link) location.assign(link.href);
    return Boolean(link);
  }

  async function post(row) {
    tell("…");
    try {
      const answer = await fetch("/reviews", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(row),
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      tell("stored");
      return found;
    } catch (error) {
      tell(`not stored: ${error.message}`, true);
      return null;
    }
  }

  async function say(opinion, note = null) {
    const sample = current() || samples()[0];
    if (!sample) return;
    if (!current()) choose(sample);
    const id = sample.dataset.sample, before = sample.dataset.opinion;
    if (opinion) { sample.dataset.opinion = opinion; sample.classList.add("waiting"); }
    const walks = "walk" in sample.dataset;
    const stored = post({ sample_id: id, opinion, note, drawn_by: sample.dataset.drawnBy || null });
    if (opinion && !("alone" in sample.dataset)) move(1);
    const found = await stored;
    sample.classList.remove("waiting");
    if (!found) { if (opinion) sample.dataset.opinion = before; return; }
    if (!opinion) return;
    remember([...said(), { id, at: location.pathname + location.search }]);
    if (walks && !go("next")) tell("stored: that was the last one");
  }

  async function undo() {
    const list = said(), last = list.pop();
    if (!last) return tell("nothing to undo");
    const found = await post({ sample_id: last.id, undo: true });
    if (!found) return;
    remember(list);
    const sample = samples().find((one) => one.dataset.sample === last.id);
    if (!sample) return location.assign(last.at);
    sample.dataset.opinion = found.opinion || "";
    choose(sample);
    tell("undone");
  }

  function note() {
    if (!current() && samples().length) choose(samples()[0]);
    if (!current()) return;
    const dialog = document.getElementById("note"), text = document.getElementById("note-text");
    text.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => { if (dialog.returnValue === "store" && text.value.trim()) say(null, text.value.trim()); };
  }

  const help = () => document.getElementById("help").showModal();
  const open = () => current()?.querySelector("a.picture, .frame a")?.click();
  const unfold = () => { const box = document.getElementById("filter-said"); if (box) box.open = !box.open; };
  const KEYS = {
    k: () => say("keep"), d: () => say("drop"), u: () => say("unsure"), n: note, z: undo, j: () => move(1),
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => moveRow(true), ArrowUp: () => moveRow(false),
    "]": () => go("next"), "[": () => go("prev"), Enter: open, v: unfold, "?": help,
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, dialog") || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    const does = KEYS[event.key];
    const alone = document.querySelector("[data-alone]");
    if (!does || (alone && !("walk" in alone.dataset) && event.key.startsWith("Arrow"))) return;
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (alone || !samples().length)) return;
    event.preventDefault();
    does();
  });
  document.getElementById("note-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) document.getElementById("note").close("store");
  });
  document.addEventListener("click", (event) => {
    const does = { note, undo }[event.target.closest("[data-say]")?.dataset.say];
    const opinion = event.target.closest("[data-say]");
    if (opinion) return does ? does() : say(opinion.dataset.say);
    const card = event.target.closest(".card");
    if (card && !event.target.closest("a")) choose(card, false);
  });
  document.getElementById("help-button").addEventListener("click", help);
  for (const form of document.querySelectorAll("[data-submit-on-change]")) {
    form.addEventListener("submit", () => { for (const one of form.elements) if (one.name && !one.value) one.disabled = true; });
    form.addEventListener("change", () => form.requestSubmit());
  }
  addEventListener("pageshow", () => { for (const one of document.querySelectorAll(":disabled")) one.disabled = false; });
  const alone = document.querySelector("[data-alone]");
  if (alone) choose(alone, false);

  // While this page is looked at, the pictures of the next one are fetched into the browser's cache.
  addEventListener("load", async () => {
    const next = document.querySelector('a[rel="next"]');
    if (!next) return;
    const page = new DOMParser().parseFromString(await (await fetch(next.href)).text(), "text/html");
    for (const one of page.querySelectorAll("main img")) new Image().src = one.getAttribute("src");
  });
})();
