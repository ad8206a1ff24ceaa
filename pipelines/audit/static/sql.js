// The SQL page: sends a question and shows the answer or what is wrong with it.
"use strict";
(() => {
  const form = document.getElementById("ask"), query = document.getElementById("query");
  const answer = document.getElementById("answer"), took = document.getElementById("took");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const begun = performance.now();
    took.textContent = "…";
    try {
      const found = await fetch("/sql", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ query: query.value }),
      });
      if (!found.ok) throw new Error((await found.json()).error);
      answer.replaceChildren(...new DOMParser().parseFromString(await found.text(), "text/html").body.childNodes);
      took.textContent = `${Math.round(performance.now() - begun)} ms`;
    } catch (error) {
      const line = document.createElement("p");
      line.className = "hint";
      line.textContent = error.message;
      answer.replaceChildren(line);
      took.textContent = "";
    }
  });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();
