// Deleting, which waits a little, so that it can be undone. Until the server has said that something is deleted, or that it
// is still there, this page does not say so either.

import { tell } from "./events.js";
import { jobs, refresh } from "./jobs.js";
import { ask, heard, say } from "./server.js";
import { $, plain, period } from "./words.js";

const UNDO = 7000; // milliseconds

export const held = new Set(); // to be deleted, unless it is undone
export const gone = new Set(); // the server was told to delete them: not shown, whatever an answer says that was on its way
let last, waiting;

export function remove(some) {
  for (const job of some) held.add((last = job.id));
  clearTimeout(waiting);
  waiting = setTimeout(reallyRemove, UNDO);
  $("toast-words").textContent = held.size === 1 ? "Deleting it…" : `Deleting ${held.size}…`;
  $("toast").hidden = false;
  $("undo").focus();
  tell("jobs");
}

// Also for a page that is left, to which the browser may come back later: nothing can be undone there any more.
export async function reallyRemove() {
  const ids = putAway();
  if (!ids.length) return;
  for (const id of ids) gone.add(id);
  let problem;
  await Promise.all(ids.map(async (id) => {
    try {
      await ask(`/v1/videos/${id}`, { method: "DELETE", keepalive: true });
    } catch (error) {
      if (error.status === 404) return; // already
      gone.delete(id);
      problem = error;
    }
  }));
  if (!problem) say(ids.length === 1 ? "Deleted." : `${ids.length} deleted.`);
  else if (problem.away) say("No answer came from the server. What is still shown is not deleted.", true);
  else say(`It could not be deleted. ${period(plain(problem.message))}`, true);
  tell("jobs");
  if (problem) refresh();
}

export async function undo() {
  clearTimeout(waiting);
  const back = last, ids = putAway();
  const there = await Promise.all(ids.map((id) => ask(`/v1/videos/${id}`).then(() => true, (error) => {
    if (error.status === 404) jobs.delete(id); // somebody else deleted it
    else heard(error);
    return error.status === 404 ? false : null;
  })));
  tell("jobs");
  tell("back", back);
  const missing = there.filter((found) => found === false).length;
  if (missing) say(ids.length === 1 ? "It cannot come back: it is deleted." : `${missing} of ${ids.length} cannot come back: they are deleted.`, true);
  else if (!there.includes(null)) say(ids.length === 1 ? "It is back." : "They are back.");
}

// The toast; and what could be undone until now.
function putAway() {
  clearTimeout(waiting);
  const ids = [...held];
  held.clear();
  if ($("toast").contains(document.activeElement)) tell("lost");
  $("toast").hidden = true;
  return ids;
}
