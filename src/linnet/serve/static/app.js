// The page: asks, watches, shows. All state is the server's; this keeps what it needs to draw, and what "undo" holds back.

const $ = (id) => document.getElementById(id);
const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);

const PAGE = 60, BUSY = 1000, CALM = 8000, UNDO = 7000; // jobs a page, then milliseconds
const CATCH_UP = 10; // pages at once, at most
const FOLD = 4; // rows that wait, before the rest is folded away
const STREAMS = 4; // at once, of the six connections that a browser opens to one server
const LONGER = [5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300]; // seconds, made in windows
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let models = [];
let jobs = new Map(); // id -> job, newest first: all from the newest to the oldest that was fetched, without a gap
let hasMore = false; // behind the oldest
const gone = new Set(); // deleted from here: not shown, whatever an answer says that was on its way
const held = new Map(); // id -> timer of a deletion that may be undone
const live = new Map(); // id -> EventSource
const progress = new Map(); // id -> last event
const fresh = new Set(); // ended while the page was watching
const rows = new Map(), clips = new Map(); // id -> element
let places = new Map(); // id -> its number among those that wait
let unfolded = false;

// --- talking to the server

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    await letIn();
    return ask(path, options);
  }
  if (answer.status === 204) return null;
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error.message), { field: body.error.param, status: answer.status });
  return body;
}

const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });

let entering = null;

function letIn() {
  entering ??= new Promise((done) => {
    const door = $("door");
    door.addEventListener("cancel", (event) => event.preventDefault());
    $("door-form").onsubmit = async (event) => {
      event.preventDefault();
      const answer = await fetch("/v1/session", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: $("key").value.trim() }),
      });
      if (answer.status !== 204) return void ($("door-problem").textContent = "This is not a key of this server.");
      door.close();
      entering = null;
      done();
    };
    door.showModal();
  });
  return entering;
}

// --- the form

const chosen = () => models.find((model) => model.id === $("model").value) ?? models[0];

function request() {
  const settings = { prompt: $("prompt").value, model: chosen().id, seconds: $("seconds").value, size: $("size").value };
  const numbers = { seed: "seed", steps: "num_inference_steps", guidance: "guidance_scale" };
  for (const [id, field] of Object.entries(numbers)) {
    const text = $(id).value.trim();
    if (text === "") continue;
    if (!Number.isFinite(Number(text))) throw Object.assign(new Error(`${id} "${text}" is not a number`), { field });
    settings[field] = Number(text);
  }
  if ($("negative").value.trim()) settings.negative_prompt = $("negative").value;
  if (beginning) settings.input_reference = { image_url: beginning };
  return settings;
}

function fillModel() {
  const model = chosen();
  const most = Number(model.max_seconds), lengths = [];
  for (let second = Math.max(1, Math.ceil(model.min_seconds)); second <= Number(model.seconds_at_once); second++) lengths.push(second);
  lengths.push(...LONGER.filter((length) => length > model.seconds_at_once && length <= most));
  if (!lengths.includes(Number(model.default_seconds))) lengths.push(Number(model.default_seconds));
  const kept = $("seconds").value;
  $("seconds").replaceChildren(...lengths.map((length) => new Option(length === 1 ? "1 second" : `${length} seconds`, length)));
  $("seconds").value = lengths.includes(Number(kept)) ? kept : model.default_seconds;
  $("size").replaceChildren(...model.sizes.map((size) => new Option(size, size)));
  $("size-field").hidden = model.sizes.length < 2;
  $("steps").placeholder = model.default_steps;
  $("guidance").placeholder = model.default_guidance;
  $("ideas").replaceChildren(...model.examples.slice(1).map((words) => {
    const idea = Object.assign(document.createElement("button"), { type: "button", textContent: words });
    idea.onclick = () => {
      $("prompt").value = words;
      complain();
      plan();
      $("prompt").focus();
    };
    return idea;
  }));
}

const option = (select, value, words) => {
  if (![...select.options].some((one) => one.value === value)) select.add(new Option(words ?? value, value));
  select.value = value;
};

function fill(job) {
  $("prompt").value = job.prompt;
  $("model").value = job.model;
  fillModel();
  option($("seconds"), job.seconds, `${job.seconds} seconds`);
  option($("size"), job.size);
  $("count").value = "1";
  $("seed").value = job.seed;
  $("steps").value = job.num_inference_steps;
  $("guidance").value = job.guidance_scale;
  $("negative").value = job.negative_prompt;
  $("more").open = true;
  complain();
  plan();
  $("prompt").focus();
  $("prompt").select();
}

// The image that the video begins with, cut here to the video's shape, so that what is seen is what is sent.

let beginning = null, picture = null;

async function begins(file) {
  try {
    picture = file ? await createImageBitmap(file) : null;
    complain();
  } catch {
    picture = null;
    complain({ message: "This file is not an image that can be read here.", field: "input_reference" });
  }
  cut();
}

function cut() {
  beginning = null;
  if (picture) {
    const [width, height] = $("size").value.split("x").map(Number);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const scale = Math.max(width / picture.width, height / picture.height);
    const [wide, high] = [picture.width * scale, picture.height * scale];
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
    beginning = canvas.toDataURL("image/png");
    $("begin").querySelector("img").src = beginning;
  } else $("image").value = "";
  $("begin").hidden = !beginning;
}

const fields = { input_reference: "image", prompt: "prompt", seed: "seed", num_inference_steps: "steps", guidance_scale: "guidance", negative_prompt: "negative" };

function complain(error) {
  for (const id of Object.values(fields)) $(id).removeAttribute("aria-invalid");
  $("problem").textContent = error?.message ?? "";
  const id = fields[error?.field];
  if (id) $(id).setAttribute("aria-invalid", "true");
}

async function make(event) {
  event?.preventDefault();
  if ($("make").getAttribute("aria-disabled") === "true") return;
  $("make").setAttribute("aria-disabled", "true");
  try {
    complain();
    const settings = request(), count = Number($("count").value);
    const first = settings.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
    for (let index = 0; index < count; index++) {
      const seed = count === 1 && settings.seed === undefined ? undefined : (first + index) % 2 ** 32;
      await post("/v1/videos", { ...settings, seed });
    }
    say(count === 1 ? "Your video is in the queue." : `${count} videos are in the queue.`);
  } catch (error) {
    complain(error);
  }
  $("make").removeAttribute("aria-disabled");
  refresh();
}

let planning;

function plan() {
  clearTimeout(planning);
  planning = setTimeout(async () => {
    try {
      const found = await post("/v1/plan", { ...request(), input_reference: undefined }), count = Number($("count").value);
      const words = [];
      if (found.seconds_needed !== null) words.push(`${found.measured ? "takes" : "takes roughly"} ${duration(found.seconds_needed * count)}`);
      words.push(`needs about ${gigabytes(found.memory_bytes)} of memory` + (found.memory_free_bytes === null ? "" : ` (${gigabytes(found.memory_free_bytes)} may be used)`));
      if (found.jobs_waiting) words.push(`${found.jobs_waiting} before it`);
      const line = words.join(", ");
      $("plan").textContent = line[0].toUpperCase() + line.slice(1);
    } catch {
      $("plan").textContent = "";
    }
  }, 400);
}

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;
const duration = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`);
const say = (words) => ($("news").textContent = words);

// --- what the server has

let timer, refreshing = false, again = false;

// One at a time: of two answers, the older one would undo what the newer one brought.
async function refresh() {
  clearTimeout(timer);
  again = refreshing;
  if (refreshing) return;
  refreshing = true;
  let away = false;
  try {
    const seen = await newest();
    await overtaken(seen);
    draw();
  } catch {
    away = true; // the server; it will be back
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
  for (const job of found) tell(jobs.get(job.id), job);
  jobs = new Map([...known.slice(0, first), ...found, ...rest].map((job) => [job.id, job]));
}

async function showOlder() {
  try {
    while (hasMore && !(await behind([...jobs.keys()].at(-1))).length);
  } catch {
    return say("The server does not answer.");
  }
  draw();
  if (!hasMore) $("gallery").focus({ preventScroll: true }); // the button is no more
}

function tell(was, job) {
  if (!was || was.status === job.status) return;
  if (job.status === "completed") {
    fresh.add(job.id);
    say(`Your video is ready: ${job.prompt}`);
    plan();
  } else if (job.status === "failed") say(`A video was not made: ${job.error.message}`);
}

const active = (job) => job.status === "queued" || job.status === "in_progress";

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
    const row = rows.get(job.id);
    if (row) drawState(row, jobs.get(job.id) ?? job);
  });
  source.addEventListener("preview", (event) => {
    const image = rows.get(job.id)?.querySelector("img");
    if (image) Object.assign(image, { src: JSON.parse(event.data).image, hidden: false, alt: "How it looks so far" });
  });
  source.addEventListener("end", close);
  source.onerror = () => source.readyState === EventSource.CLOSED && close();
}

function leave(id) {
  live.get(id).close();
  live.delete(id);
  progress.delete(id);
}

// Those that run, or the one that is to run next. A page that nobody sees leaves the connections to others.
function followAll(waiting) {
  const running = waiting.filter((job) => job.status === "in_progress").length;
  const wanted = document.hidden ? [] : waiting.filter(active).slice(0, Math.min(STREAMS, running || 1));
  for (const id of live.keys()) if (!wanted.some((job) => job.id === id)) leave(id);
  wanted.forEach(follow);
}

// --- drawing

function draw() {
  const shown = [...jobs.values()].filter((job) => !held.has(job.id) && !gone.has(job.id));
  const waiting = shown.filter((job) => job.status !== "completed").reverse(); // first come, first seen
  waiting.sort((a, b) => order(a) - order(b));
  const queued = waiting.filter((job) => job.status === "queued");
  places = new Map(queued.map((job, index) => [job.id, index + 1]));
  const folded = unfolded || queued.length < FOLD + 2 ? [] : queued.slice(FOLD);
  $("making").hidden = waiting.length === 0;
  arrange($("queue"), waiting.filter((job) => !folded.includes(job)).map(row));
  $("fold").hidden = queued.length < FOLD + 2;
  $("fold").textContent = unfolded ? "Show fewer that wait" : `Show ${folded.length} more that wait`;
  for (const [id, element] of rows) if (!element.isConnected) rows.delete(id);

  const done = shown.filter((job) => job.status === "completed");
  $("empty").hidden = done.length > 0;
  $("older").hidden = !hasMore;
  const groups = [];
  for (const job of done) {
    const kind = JSON.stringify([job.prompt, job.model, job.seconds, job.size, job.num_inference_steps, job.guidance_scale, job.negative_prompt]);
    if (groups.at(-1)?.kind === kind) groups.at(-1).jobs.push(job);
    else groups.push({ kind, jobs: [job] });
  }
  const drawn = groups.map((group) => group.jobs.map((job) => job.id).join()).join(";");
  if ($("groups").dataset.drawn !== drawn) {
    $("groups").dataset.drawn = drawn;
    $("groups").replaceChildren(...groups.map(drawGroup));
    for (const id of clips.keys()) if (gone.has(id) || !jobs.has(id)) clips.delete(id);
  }
  followAll(waiting);
}

const order = (job) => ({ in_progress: 0, queued: 1, failed: 2 })[job.status];

function arrange(list, elements) {
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
  while (list.children.length > elements.length) list.lastElementChild.remove();
}

function row(job) {
  let element = rows.get(job.id);
  if (!element) {
    element = copyOf("waiting");
    element.dataset.id = job.id;
    element.querySelector(".prompt").textContent = job.prompt;
    element.querySelector("progress").setAttribute("aria-label", `How far it is: ${job.prompt}`);
    element.querySelector(".stop").onclick = () => stop(jobs.get(job.id) ?? job);
    rows.set(job.id, element);
  }
  drawState(element, job);
  return element;
}

const STAGES = { text: "reading the prompt", denoise: "drawing", decode: "developing", finish: "finishing" };

function drawState(element, job) {
  const now = job.status === "failed" ? null : progress.get(job.id);
  const status = now?.status ?? job.status;
  element.classList.toggle("live", status === "in_progress");
  element.classList.toggle("queued", status === "queued");
  element.querySelector("progress").value = now?.progress ?? job.progress;
  const place = places.get(job.id) ?? 1, before = now?.queue_position; // other people's count here, too
  let words = before > place ? `number ${before} in the queue` : place > 1 ? `number ${place} in your queue` : "next in your queue";
  if (job.status === "failed") words = job.error.code === "cancelled" ? "cancelled" : `not made: ${job.error.message}`;
  else if (status === "in_progress") {
    words = STAGES[now?.stage] ?? (job.progress ? `${job.progress} % done` : "beginning");
    if (now?.stage === "denoise" && now.done) words += `, step ${now.done} of ${now.total}`;
    if (now?.seconds_left) words += `, ${duration(now.seconds_left)} left`;
  }
  element.querySelector(".state").textContent = words;
  const button = element.querySelector(".stop");
  const verb = job.status === "failed" ? "Dismiss" : "Cancel";
  if (button.textContent !== verb) {
    button.textContent = verb;
    button.setAttribute("aria-label", `${verb}: ${job.prompt}`);
  }
}

async function stop(job) {
  if (job.status === "failed") return remove(job);
  try {
    await post(`/v1/videos/${job.id}/cancel`);
    say("Cancelled.");
  } catch {
    // it has ended meanwhile
  }
  refresh();
}

function drawGroup(group) {
  const element = copyOf("group");
  element.querySelector("h3").textContent = group.jobs[0].prompt;
  element.querySelector(".clips").append(...[...group.jobs].sort((a, b) => a.seed - b.seed).map(drawClip));
  return element;
}

function drawClip(job) {
  if (clips.has(job.id)) return clips.get(job.id);
  const element = copyOf("clip"), video = element.querySelector("video"), address = `/v1/videos/${job.id}/content`;
  element.dataset.id = job.id;
  video.poster = `${address}?variant=thumbnail`;
  video.src = address;
  video.setAttribute("aria-label", `Video: ${job.prompt}, seed ${job.seed}`);
  showControls(video);
  if (fresh.delete(job.id) && !calm.matches) {
    video.autoplay = true;
    video.preload = "auto";
  }
  element.querySelector("summary").textContent = `${job.seconds} s, seed ${job.seed}`;
  const facts = {
    Model: job.model, Size: job.size, Frames: `${job.num_frames} at ${job.fps} a second`, Steps: job.num_inference_steps,
    Guidance: job.guidance_scale, Seed: job.seed, Not: job.negative_prompt || "",
    Took: duration(job.completed_at - job.started_at), Made: new Date(job.completed_at * 1000).toLocaleString(),
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value === "") continue;
    const term = document.createElement("dt"), definition = document.createElement("dd");
    term.textContent = name;
    definition.textContent = value;
    element.querySelector("dl").append(term, definition);
  }
  const called = (selector, words) => {
    const one = element.querySelector(selector);
    one.setAttribute("aria-label", `${words}: ${job.prompt}, seed ${job.seed}`);
    one.title = one.textContent.trim();
    return one;
  };
  called(".again", "Again with other words").onclick = () => fill(job);
  Object.assign(called(".download", "Download"), { href: address, download: `${job.prompt.replace(/\W+/g, "-").slice(0, 60)}-${job.seed}.mp4` });
  called(".delete", "Delete").onclick = () => remove(job);
  clips.set(job.id, element);
  return element;
}

// The controls hide a good part of a small clip, so they come when it is touched, pointed at or reached with a key.
function showControls(video) {
  video.controls = matchMedia("(hover: none)").matches;
  const come = () => {
    video.controls = true;
    if (!calm.matches) video.play().catch(() => {});
  };
  const go = () => {
    if (video.matches(":hover, :focus-within, :focus")) return;
    video.controls = false;
    video.pause();
  };
  video.addEventListener("pointerenter", come);
  video.addEventListener("focus", () => (video.controls = true));
  video.addEventListener("pointerleave", go);
  video.addEventListener("blur", go);
}

// --- deleting, which waits a little

let lastHeld = null;

function remove(job) {
  held.set(job.id, setTimeout(() => reallyRemove(job.id), UNDO));
  lastHeld = job.id;
  $("toast-words").textContent = "Deleted.";
  $("toast").hidden = false;
  $("undo").focus();
  draw();
}

async function reallyRemove(id) {
  try {
    await ask(`/v1/videos/${id}`, { method: "DELETE" });
    gone.add(id);
  } catch (error) {
    if (error.status === 404) gone.add(id); // already
    else say("It could not be deleted.");
  }
  held.delete(id);
  if (lastHeld === id) $("toast").hidden = true;
  draw();
}

function undo() {
  clearTimeout(held.get(lastHeld));
  held.delete(lastHeld);
  $("toast").hidden = true;
  draw();
  const back = clips.get(lastHeld) ?? rows.get(lastHeld);
  back?.querySelector("button")?.focus();
  say("It is back.");
}

addEventListener("pagehide", () => {
  for (const id of held.keys()) fetch(`/v1/videos/${id}`, { method: "DELETE", keepalive: true });
});

// --- beginning

async function begin() {
  $("ask").addEventListener("submit", make);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && make(event));
  $("ask").addEventListener("input", () => (complain(), plan()));
  $("undo").addEventListener("click", undo);
  $("image").addEventListener("change", () => begins($("image").files[0]));
  $("unbegin").addEventListener("click", () => (begins(null), $("image").focus()));
  $("size").addEventListener("change", cut);
  $("model").addEventListener("change", () => (fillModel(), cut()));
  $("older").addEventListener("click", showOlder);
  $("fold").addEventListener("click", () => ((unfolded = !unfolded), draw()));
  document.addEventListener("visibilitychange", refresh);
  models = (await ask("/v1/models")).data;
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  $("model-field").hidden = models.length < 2;
  fillModel();
  $("prompt").value ||= models[0].example;
  plan();
  refresh();
}

begin();
