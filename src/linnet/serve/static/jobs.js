// What the server has: all jobs from the newest to the oldest that was fetched, and how far those are that run.

import { tell } from "./events.js";
import { ask, heard, say } from "./server.js";
import { $, plain, short, period } from "./words.js";

const PAGE = 60, BUSY = 1000, CALM = 8000; // jobs a page, then milliseconds
const CATCH_UP = 10; // pages at once, at most
const STREAMS = 4; // at once, of the six connections that a browser opens to one server

export let jobs = new Map(); // id -> job, newest first, without a gap
export let hasMore = false; // behind the oldest
export const fresh = new Set(); // ended while the page was watching
export const progress = new Map(); // id -> last event
const live = new Map(); // id -> EventSource

export const active = (job) => job.status === "queued" || job.status === "in_progress";

let timer, refreshing = false, again = false;

// One at a time: of two answers, the older one would undo what the newer one brought.
export async function refresh() {
  clearTimeout(timer);
  again = refreshing;
  if (refreshing) return;
  refreshing = true;
  let away = false;
  try {
    const seen = await newest();
    await overtaken(seen);
    tell("jobs");
    heard();
  } catch (error) {
    away = true; // the server; it will be back
    heard(error);
  }
  refreshing = false;
  if (again) return void refresh();
  timer = setTimeout(refresh, away || [...jobs.values()].some(active) ? BUSY : CALM);
}

// From the newest on until it meets what is known; at the beginning, until it has all that is yet to be made.
async function newest() {
  const found = [];
  let page;
  do {
    page = await ask(`/v1/videos?limit=${PAGE}` + (page ? `&after=${page.last_id}` : ""));
    found.push(...page.data);
  } while (page.has_more && found.length < CATCH_UP * PAGE
    && (jobs.size ? !page.data.some((job) => jobs.has(job.id)) : active(page.data.at(-1))));
  merge(found, page.has_more);
  return new Set(found.map((job) => job.id));
}

// Those yet to be made that lie behind the newest: a page from the first of them brings most others, too.
async function overtaken(seen) {
  for (;;) {
    const known = [...jobs.values()];
    const first = known.findIndex((job) => active(job) && !seen.has(job.id));
    if (first < 1) return;
    for (const id of await behind(known[first - 1].id)) seen.add(id);
  }
}

async function behind(id) {
  try {
    const page = await ask(`/v1/videos?limit=${PAGE}&after=${id}`);
    merge(page.data, page.has_more, id);
    return page.data.map((job) => job.id);
  } catch (error) {
    if (error.status !== 404) throw error;
    jobs.delete(id);
    return [];
  }
}

// What the server has behind the job `after`, or from the newest on. Of what is known, that tells anew about all up to
// the last that was found: what is not among it is gone.
function merge(found, more, after) {
  const known = [...jobs.values()], at = (id) => known.findIndex((job) => job.id === id);
  if (after && at(after) < 0) return; // another answer was faster, and told that it is gone
  const first = after ? at(after) + 1 : 0, last = more ? at(found.at(-1).id) : -1;
  const rest = last < 0 ? [] : known.slice(last + 1);
  if (rest.length === 0) hasMore = more;
  for (const job of found) announce(jobs.get(job.id), job);
  jobs = new Map([...known.slice(0, first), ...found, ...rest].map((job) => [job.id, job]));
}

export async function showOlder() {
  try {
    while (hasMore && !(await behind([...jobs.keys()].at(-1))).length);
  } catch (error) {
    return say(period(plain(error.message)), true);
  }
  tell("jobs");
  if (!hasMore) $("gallery").focus({ preventScroll: true }); // the button is no more
}

// A video that cannot be played may have been deleted elsewhere.
export async function lookAgain(id) {
  try {
    await ask(`/v1/videos/${id}`);
  } catch (error) {
    if (error.status !== 404) return;
    jobs.delete(id);
    tell("jobs");
    say("This video was deleted, and is no longer on the server.");
  }
}

function announce(was, job) {
  if (!was || was.status === job.status) return;
  if (job.status === "completed") {
    fresh.add(job.id);
    say(`Your video is ready: ${short(job.prompt)}`);
  } else if (job.status === "failed" && job.error.code !== "cancelled") say(`A video was not made. ${period(plain(job.error.message))}`, true);
}

function follow(job) {
  if (live.has(job.id)) return;
  const source = new EventSource(`/v1/videos/${job.id}/events`);
  live.set(job.id, source);
  const close = () => {
    leave(job.id);
    refresh();
  };
  source.addEventListener("progress", (event) => {
    progress.set(job.id, JSON.parse(event.data));
    tell("progress", jobs.get(job.id) ?? job);
  });
  source.addEventListener("preview", (event) => tell("preview", { id: job.id, src: JSON.parse(event.data).image }));
  source.addEventListener("end", close);
  source.onerror = () => source.readyState === EventSource.CLOSED && close();
}

function leave(id) {
  live.get(id).close();
  live.delete(id);
  progress.delete(id);
}

// Those that run, and the one that is to run next. A page that nobody sees leaves the connections to others.
export function followAll(waiting) {
  const running = waiting.filter((job) => job.status === "in_progress").length;
  const wanted = document.hidden ? [] : waiting.filter(active).slice(0, Math.min(STREAMS, running + 1));
  for (const id of live.keys()) if (!wanted.some((job) => job.id === id)) leave(id);
  wanted.forEach(follow);
}

