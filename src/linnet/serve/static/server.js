// Talking to the server, and the line at the bottom that says what it answered.

import { $, plain, period } from "./words.js";

const PATIENCE = 20_000, PATIENCE_SENDING = 180_000; // milliseconds until no answer counts as none; an upload may be slow
const NEWS = 6000; // milliseconds that a message stays

// Its answer as JSON. A server that is off, that hangs, or that a proxy answers for, is `away`.
export async function speak(path, options = {}) {
  const giveUp = new AbortController();
  const late = setTimeout(() => giveUp.abort(), options.method === "POST" ? PATIENCE_SENDING : PATIENCE);
  try {
    const answer = await fetch(path, { ...options, signal: giveUp.signal }).catch(() => null);
    const body = answer?.status === 204 ? {} : await answer?.json().catch(() => null);
    if (!body || (!answer.ok && !body.error)) {
      throw Object.assign(new Error(`the server does not answer${answer && !answer.ok ? ` (${answer.status})` : ""}`), { away: true });
    }
    if (answer.ok) return body;
    const { message, param, code } = body.error;
    throw Object.assign(new Error(message), { field: param, code, status: answer.status });
  } finally {
    clearTimeout(late);
  }
}

export async function ask(path, options) {
  try {
    return await speak(path, options);
  } catch (error) {
    if (error.status !== 401) throw error;
  }
  await letIn();
  return ask(path, options);
}

const sending = (body, headers) =>
  ({ method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body ?? {}) });
export const post = (path, body, headers) => ask(path, sending(body, headers));

// --- the key

// What the browser keeps for this page, if it keeps anything.
export function stored(kind, name, value) {
  try {
    const store = kind === "tab" ? sessionStorage : localStorage;
    if (value === null) store.removeItem(name);
    else if (value !== undefined) store.setItem(name, value);
    return store.getItem(name);
  } catch {
    return null;
  }
}

let entering = null;

export function letIn() {
  entering ??= new Promise((done) => {
    const door = $("door");
    const open = () => {
      $("key").value = $("door-problem").textContent = "";
      entering = null;
      removeEventListener("storage", elsewhere);
      $("leave").hidden = false;
      door.close();
      done();
    };
    const elsewhere = (event) => event.key === "signedIn" && event.newValue && open(); // in another tab
    addEventListener("storage", elsewhere);
    door.onclose = () => entering && door.showModal(); // Escape closes a dialog, and nothing works without the key
    $("key").oninput = () => ($("door-problem").textContent = "");
    $("door-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await speak("/v1/session", sending({ key: $("key").value.trim() }));
      } catch (error) {
        $("door-problem").textContent = error.away ? "No answer came from the server. Try again." : period(plain(error.message));
        return;
      }
      stored("browser", "signedIn", String(Date.now())); // the cookie itself is hidden from this script
      open();
    };
    door.showModal();
  });
  return entering;
}

// --- the line that says what happened

let trouble = ""; // what keeps the page from its server, as long as it does
let quiet;
const whenBack = [];

export function say(words, bad) {
  clearTimeout(quiet);
  show(words, bad);
  quiet = setTimeout(() => show(trouble, true), NEWS);
}

function show(words, bad) {
  $("news").textContent = words;
  $("news").classList.toggle("bad", Boolean(words && bad));
}

// Whether the server answered, each time that it was looked for.
export function heard(error) {
  const before = trouble;
  trouble = error ? `${plain(error.message)}: trying again…` : "";
  if (trouble && trouble !== before) show(trouble, true);
  if (trouble) return;
  if (before) say("The server is back.");
  for (const act of whenBack) act(Boolean(before));
}

// `act(wasAway)` is called each time that the server has answered.
export const onAnswer = (act) => whenBack.push(act);
