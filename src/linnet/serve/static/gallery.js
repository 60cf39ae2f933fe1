// What is drawn of the jobs: those in the making, those that were not made, and the videos.

import { on, tell } from "./events.js";
import { active, followAll, fresh, hasMore, jobs, lookAgain, progress, refresh } from "./jobs.js";
import { gone, held, remove } from "./removal.js";
import { post, say } from "./server.js";
import { $, duration, plain, QUALITY, short, period } from "./words.js";

const FOLD = 4; // rows, before the rest is folded away
const LONG = 150; // characters of a prompt, of which the heading may show a part only
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);

const rows = new Map(), ends = new Map(), clips = new Map(); // id -> element
const unfolded = new Set(); // ids of lists
let places = new Map(); // id -> its number among those that wait
let awaited = null; // the job to bring into sight
let busy = 0; // how many were yet to be made

function draw() {
  const focus = document.activeElement;
  const shown = [...jobs.values()].filter((job) => !held.has(job.id) && !gone.has(job.id));
  const running = shown.filter((job) => job.status === "in_progress").reverse(); // first come, first seen
  const queued = shown.filter((job) => job.status === "queued").reverse();
  const failed = shown.filter((job) => job.status === "failed");
  const done = shown.filter((job) => job.status === "completed");
  places = new Map(queued.map((job, index) => [job.id, index + 1]));

  $("making").hidden = !running.length && !queued.length;
  arrange($("queue"), [...running, ...folded("fold", queued, "that wait")].map(row));
  $("ended").hidden = !failed.length;
  $("dismiss").hidden = failed.length < 2;
  arrange($("unmade"), folded("unfold", failed, "that were not made").map(end));

  $("empty").hidden = done.length > 0;
  $("older").hidden = !hasMore;
  const groups = [];
  for (const job of done) {
    const kind = JSON.stringify([job.prompt, job.model, job.seconds, job.size, job.num_inference_steps, job.guidance_scale, job.negative_prompt, job.profile, job.lora]);
    if (groups.at(-1)?.kind === kind) groups.at(-1).jobs.push(job);
    else groups.push({ kind, jobs: [job] });
  }
  const articles = [];
  for (const group of groups) articles.push(article(group.jobs, articles));
  arrange($("groups"), articles);
  for (const known of [rows, ends]) for (const [id, element] of known) if (!element.isConnected) known.delete(id);
  for (const id of clips.keys()) if (gone.has(id) || !jobs.has(id)) clips.delete(id);

  const waiting = [...running, ...queued];
  followAll(waiting);
  if (busy !== (busy = waiting.length)) tell("waiting");
  if (focus !== document.body && !focus.isConnected) goOn();
  if (jobs.has(awaited)) reveal(awaited);
}

// The first of many, unless all are wanted; and the button that says so.
function folded(button, all, which) {
  const rest = all.length < FOLD + 2 ? 0 : all.length - FOLD, open = unfolded.has(button);
  $(button).hidden = !rest;
  $(button).textContent = open ? `Show fewer ${which}` : `Show ${rest} more ${which}`;
  return rest && !open ? all.slice(0, FOLD) : all;
}

export function toggle(button) {
  if (!unfolded.delete(button)) unfolded.add(button);
  draw();
}

// Where a keyboard goes on when what had the focus is no more; else that would be the top of the page.
const goOn = () => $("gallery").focus({ preventScroll: true });

function reveal(id) {
  awaited = null;
  const sight = clips.get(id) ?? (active(jobs.get(id)) ? $("making") : $("ended")), { top } = sight.getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) sight.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

// Where the deleted job stands again.
const bringBack = (id) => (clips.get(id) ?? rows.get(id) ?? ends.get(id))?.querySelector("button:not(.play)")?.focus();

// Touches only what is new, gone or elsewhere now: a video that is watched plays on, and what has the focus keeps it.
function arrange(list, elements) {
  for (const one of [...list.children]) if (!elements.includes(one)) one.remove();
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
}

// --- rows

function row(job) {
  if (!rows.has(job.id)) {
    const element = begun("waiting", job);
    element.querySelector("progress").setAttribute("aria-label", `How far it is: ${short(job.prompt)}`);
    called(element, ".stop", "Cancel", job).onclick = () => cancel(job);
    rows.set(job.id, element);
  }
  drawState(rows.get(job.id), job);
  return rows.get(job.id);
}

// One that was not made, by whom or for what reason; its words can be tried again.
function end(job) {
  if (!ends.has(job.id)) {
    const element = begun("end", job);
    element.querySelector(".state").textContent = job.error.code === "cancelled" ? "cancelled" : period(plain(job.error.message));
    called(element, ".again", "Again with other words", job).onclick = () => tell("again", job);
    called(element, ".dismiss", "Dismiss", job).onclick = () => remove([job]);
    ends.set(job.id, element);
  }
  return ends.get(job.id);
}

export const dismissAll = () => remove([...jobs.values()].filter((job) => job.status === "failed"));

function begun(template, job) {
  const element = copyOf(template);
  element.dataset.id = job.id;
  Object.assign(element.querySelector(".prompt"), { textContent: job.prompt, title: job.prompt.length > LONG ? job.prompt : "" });
  return element;
}

// Buttons of many jobs look alike: for who does not see where they stand, they are called after the prompt, too.
function called(element, selector, words, job) {
  const one = element.querySelector(selector);
  one.setAttribute("aria-label", `${words}: ${short(job.prompt)}, seed ${job.seed}`);
  one.title = one.textContent.trim();
  return one;
}

const STAGES = { text: "reading the prompt", denoise: "drawing", decode: "developing", finish: "finishing" };

function drawState(element, job) {
  const now = progress.get(job.id), status = now?.status ?? job.status;
  element.classList.toggle("live", status === "in_progress");
  element.classList.toggle("queued", status === "queued");
  element.querySelector("progress").value = now?.progress ?? job.progress;
  const place = places.get(job.id) ?? 1, before = now?.queue_position; // other people's count here, too
  let words = before > place ? `number ${before} in the queue` : place > 1 ? `number ${place} in your queue` : "next in your queue";
  if (status === "queued") {
    const left = now?.seconds_left ?? job.seconds_left;
    if (now?.worker_ready === false) words += ", once a worker is ready";
    else if (left) words += `, ready in about ${duration(left)}`;
  } else {
    words = STAGES[now?.stage] ?? (job.progress ? `${job.progress} % done` : "beginning");
    if (now?.stage === "denoise" && now.done) words += `, step ${now.done} of ${now.total}`;
    if (now?.seconds_left) words += `, ${duration(now.seconds_left)} left`;
  }
  element.querySelector(".state").textContent = words;
}

function drawProgress(job) {
  if (rows.has(job.id)) drawState(rows.get(job.id), job);
}

function showPreview({ id, src }) {
  const image = rows.get(id)?.querySelector("img");
  if (image) Object.assign(image, { src, hidden: false, alt: "How it looks so far" });
}

async function cancel(job) {
  try {
    await post(`/v1/videos/${job.id}/cancel`);
    say("Cancelled.");
  } catch (error) {
    const ended = error.status === 404 || error.status === 409; // meanwhile
    if (!ended) say(`It could not be cancelled. ${period(plain(error.message))}`, true);
  }
  refresh();
}

// --- videos

// The article that shows some of these already, unless another one took it.
function article(group, taken) {
  const mine = group.map((job) => clips.get(job.id)?.closest("article")).find((one) => one && !taken.includes(one));
  const element = mine ?? copyOf("group");
  const { prompt } = group[0];
  Object.assign(element.querySelector("h3"), { textContent: prompt, title: prompt.length > LONG ? prompt : "" });
  arrange(element.querySelector(".clips"), [...group].sort((a, b) => a.seed - b.seed).map(drawClip));
  return element;
}

function drawClip(job) {
  if (clips.has(job.id)) return clips.get(job.id);
  const element = copyOf("clip"), video = element.querySelector("video"), address = `/v1/videos/${job.id}/content`;
  element.dataset.id = job.id;
  video.poster = `${address}?variant=thumbnail`;
  video.src = address;
  video.setAttribute("aria-label", `Video: ${short(job.prompt)}, seed ${job.seed}`);
  video.onerror = () => lookAgain(job.id);
  showControls(video);
  element.querySelector(".play").onclick = () => (video.paused ? video.play().catch(() => {}) : video.focus());
  video.onplay = video.onpause = () => element.classList.toggle("playing", !video.paused);
  if (fresh.delete(job.id) && !calm.matches) {
    video.autoplay = true;
    video.preload = "auto";
  }
  element.querySelector("summary").textContent = `${job.seconds} s, seed ${job.seed}`;
  const facts = {
    Prompt: job.prompt.length > LONG ? job.prompt : "", Model: job.model, Size: job.size, Frames: `${job.num_frames} at ${job.fps} a second`, Steps: job.num_inference_steps,
    Guidance: job.guidance_scale, Seed: job.seed, Not: job.negative_prompt || "",
    Quality: job.profile ? QUALITY[job.profile] : "", LoRA: job.lora.map(({ name, strength }) => `${name} at ${strength}`).join(", "),
    Begins: job.begins_from_image ? "from an image" : job.begins_from_video ? `from a clip, strength ${job.strength}` : "",
    Took: duration(job.completed_at - job.started_at), Made: dateOf(job.completed_at),
    "Kept until": job.expires_at ? dateOf(job.expires_at) : "", Note: job.notes.map(period).join(" "),
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value === "") continue;
    const term = document.createElement("dt"), definition = document.createElement("dd");
    term.textContent = name;
    definition.textContent = value;
    element.querySelector("dl").append(term, definition);
  }
  called(element, ".play", "Play, then show the controls", job);
  called(element, ".again", "Again with other words", job).onclick = () => tell("again", job);
  called(element, ".download", "Download", job).href = address; // the server knows its name
  called(element, ".delete", "Delete", job).onclick = () => remove([job]);
  clips.set(job.id, element);
  return element;
}

const dateOf = (seconds) => new Date(seconds * 1000).toLocaleString();

// The controls hide a good part of a small clip, so they come when it is pointed at or reached with a key. A finger
// finds a sign to play it in their place, and has them by touching it again.
function showControls(video) {
  const come = () => {
    video.controls = true;
    if (!calm.matches) video.play().catch(() => {});
  };
  const go = () => {
    if (video.matches(":hover, :focus-within, :focus")) return;
    video.controls = false;
    video.pause();
  };
  video.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && come());
  video.addEventListener("focus", () => (video.controls = true));
  video.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && go());
  video.addEventListener("blur", go);
}

on("jobs", draw);
on("progress", drawProgress);
on("preview", showPreview);
on("lost", goOn);
on("back", bringBack);
on("asked", (id) => (awaited = id)); // on a phone, the form fills the screen
