// Refreshes the parts of a page that change, as long as somebody looks. The pages are whole without it.
const live = () => document.querySelector("[data-live]");

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [old, fresh] = [live(), page.querySelector("[data-live]")];
  // Whoever has marked text, or stands on a button, is not disturbed.
  if (!old || !fresh || old.contains(document.activeElement) || String(getSelection())) return;
  const open = [...old.querySelectorAll("details[open]")].map((details) => details.id);
  old.replaceWith(fresh);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
}

let due = false;
function soon() {
  if (due) return;
  due = true;
  setTimeout(() => { due = false; if (!document.hidden) refresh(); }, 700);
}

const start = live();
if (start?.dataset.live === "list") setInterval(soon, 3000);
if (start?.dataset.live === "run") {
  const events = new EventSource(start.dataset.events);
  events.addEventListener("run", (event) => {
    soon();
    if (["succeeded", "failed", "cancelled"].includes(JSON.parse(event.data).state)) events.close();
  });
}

// Whoever deletes or stops is asked first.
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});
