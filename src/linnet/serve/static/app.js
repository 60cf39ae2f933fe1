// The page: asks, watches, shows. All state is the server's; this keeps what it needs to draw, and what "undo" holds back.

const $ = (id) => document.getElementById(id);
const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);

const PAGE = 60, BUSY = 1000, CALM = 8000, UNDO = 7000, NEWS = 6000; // jobs a page, then milliseconds
const CATCH_UP = 10; // pages at once, at most
const FOLD = 4; // rows that wait, before the rest is folded away
const STREAMS = 4; // at once, of the six connections that a browser opens to one server
const MOST_BYTES = 8 * 2 ** 20 - 2 ** 16; // of a clip, beside what else is asked
const QUALITY = { exact: "best", fast: "fast", draft: "draft" };
const LONGER = [5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300]; // seconds, made in windows
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let models = [];
let jobs = new Map(); // id -> job, newest first: all from the newest to the oldest that was fetched, without a gap
let hasMore = false; // behind the oldest
const gone = new Set(); // deleted from here: not shown, whatever an answer says that was on its way
const held = new Set(); // deleted, but it may be undone
const live = new Map(); // id -> EventSource
const progress = new Map(); // id -> last event
const fresh = new Set(); // ended while the page was watching
const rows = new Map(), clips = new Map(); // id -> element
let places = new Map(); // id -> its number among those that wait
let unfolded = false;

// --- talking to the server

// Its answer. Where it is off, or a proxy answers in its place, that is said in words, too.
async function speak(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  const body = answer?.status === 204 ? {} : await answer?.json().catch(() => null);
  if (!body || (!answer.ok && !body.error)) {
    throw Object.assign(new Error(`the server does not answer${answer ? ` (${answer.status})` : ""}`), { away: true });
  }
  if (!answer.ok) throw Object.assign(new Error(body.error.message), { field: body.error.param, status: answer.status });
  return body;
}

async function ask(path, options) {
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
const post = (path, body, headers) => ask(path, sending(body, headers));

let entering = null;

function letIn() {
  entering ??= new Promise((done) => {
    const door = $("door");
    door.onclose = () => entering && door.showModal(); // Escape closes a dialog, and nothing works without the key
    $("door-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await speak("/v1/session", sending({ key: $("key").value.trim() }));
      } catch (error) {
        return void ($("door-problem").textContent = `${sentence(error.message)}.`);
      }
      $("key").value = $("door-problem").textContent = "";
      entering = null;
      localStorage.signedIn = "yes"; // the cookie that holds the key is hidden from this script
      $("leave").hidden = false;
      door.close();
      done();
    };
    door.showModal();
  });
  return entering;
}

async function signOut() {
  await ask("/v1/session", { method: "DELETE" });
  delete localStorage.signedIn;
  location.reload();
}

// --- the one line that says what happened

let trouble = ""; // what keeps the page from its server, as long as it does
let quiet;

function say(words, bad) {
  clearTimeout(quiet);
  show(words, bad);
  quiet = setTimeout(() => show(trouble, true), NEWS);
}

function show(words, bad) {
  $("news").textContent = words;
  $("news").classList.toggle("bad", Boolean(words && bad));
}

// Whether the server answered, each time that it was looked for.
function heard(error) {
  const before = trouble;
  trouble = error ? `${sentence(error.message)}: trying again…` : "";
  if (trouble && trouble !== before) show(trouble, true);
  else if (before && !trouble) {
    say("The server is back.");
    plan();
  }
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
const many = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// --- the form

const chosen = () => models.find((model) => model.id === $("model").value) ?? models[0];

function request() {
  if (!chosen()) throw new Error("the server has not said yet which models it has");
  const settings = { prompt: $("prompt").value, model: chosen().id, seconds: $("seconds").value, size: $("size").value };
  const numbers = { seed: "seed", steps: "num_inference_steps", guidance: "guidance_scale" };
  for (const [id, field] of Object.entries(numbers)) {
    const text = $(id).value.trim();
    if (text === "") continue;
    if (!Number.isFinite(Number(text))) throw Object.assign(new Error(`${id} "${text}" is not a number`), { field });
    settings[field] = Number(text);
  }
  if ($("negative").value.trim()) settings.negative_prompt = $("negative").value;
  if (!$("profile-field").hidden) settings.profile = $("profile").value;
  if (beginning) settings.input_reference = { image_url: beginning };
  if (followed) Object.assign(settings, { strength: Number($("strength").value), fit: "crop" });
  return settings;
}

// With the clip, which only a form can carry as it is.
function form(settings) {
  const fields = new FormData();
  for (const [name, value] of Object.entries(settings)) if (value !== undefined) fields.append(name, value);
  fields.append("input_reference", followed);
  return fields;
}

function fillModel() {
  const model = chosen();
  const most = Number(model.max_seconds), lengths = [];
  for (let second = Math.max(1, Math.ceil(model.min_seconds)); second <= Number(model.seconds_at_once); second++) lengths.push(second);
  lengths.push(...LONGER.filter((length) => length > model.seconds_at_once && length <= most));
  if (!lengths.includes(Number(model.default_seconds))) lengths.push(Number(model.default_seconds));
  const kept = $("seconds").value;
  $("seconds").replaceChildren(...lengths.map((length) => new Option(many(length, "second"), length)));
  $("seconds").value = lengths.includes(Number(kept)) ? kept : model.default_seconds;
  $("size").replaceChildren(...model.sizes.map((size) => new Option(size, size)));
  $("size-field").hidden = model.sizes.length < 2;
  const wanted = $("profile").value;
  $("profile").replaceChildren(...model.profiles.map(({ id }) => new Option(QUALITY[id], id)));
  $("profile").value = model.profiles.some(({ id }) => id === wanted) ? wanted : "exact";
  $("profile-field").hidden = model.profiles.length < 2;
  fillSteps();
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

const fillSteps = () => ($("steps").placeholder = chosen().profiles.find(({ id }) => id === $("profile").value).steps);

const option = (select, value, words) => {
  if (![...select.options].some((one) => one.value === value)) select.add(new Option(words ?? value, value));
  select.value = value;
};

function fill(job) {
  $("prompt").value = job.prompt;
  $("model").value = job.model;
  $("profile").value = job.profile ?? "exact";
  fillModel();
  option($("seconds"), job.seconds, `${job.seconds} seconds`);
  option($("size"), job.size);
  $("count").value = "1";
  $("seed").value = job.seed;
  $("steps").value = job.num_inference_steps;
  $("guidance").value = job.guidance_scale;
  $("negative").value = job.negative_prompt;
  $("more").open = true;
  begins(null);
  $("began").hidden = !job.begins_from_image && !job.begins_from_video;
  $("began").querySelector("span").textContent = job.begins_from_video ? "a clip" : "an image";
  plan();
  $("prompt").focus();
  $("prompt").select();
}

// The image that the video begins with, cut here to the video's shape, so that what is seen is what is sent; or the clip
// that it follows, which is sent as it is.

let beginning = null, picture = null, followed = null;

async function begins(file) {
  picture = followed = null;
  let problem;
  try {
    if (!file?.type.startsWith("video/")) picture = file ? await createImageBitmap(file) : null;
    else if (file.size <= MOST_BYTES) followed = file;
    else problem = "this clip has over 8 MB";
  } catch {
    problem = "this file is not an image or a clip that can be read here";
  }
  complain(problem && { message: problem, field: "input_reference" });
  $("began").hidden = true;
  cut();
  $("along").hidden = !followed;
  $("along").querySelector("b").textContent = followed?.name ?? "";
  plan();
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
  } else if (!followed) $("image").value = "";
  $("begin").hidden = !beginning;
}

const fields = { input_reference: "image", prompt: "prompt", seed: "seed", num_inference_steps: "steps", guidance_scale: "guidance", negative_prompt: "negative" };

// What is wrong; at once that alone, and all that could be done instead for who wants to read it.
function complain(error) {
  for (const id of Object.values(fields)) $(id).removeAttribute("aria-invalid");
  const [, problem, remedy] = (error?.message ?? "").replace(/^prompt ".*": /s, "").match(/^(.*?)(?:; (.{80,}))?$/s);
  $("problem").textContent = problem && `${sentence(problem)}.`;
  $("remedy").hidden = !remedy;
  $("remedy").querySelector("p").textContent = sentence(remedy ?? "").replaceAll("; ", "\n");
  const id = fields[error?.field];
  if (id) $(id).setAttribute("aria-invalid", "true");
}

const drawn = (numbers) => crypto.getRandomValues(new Uint32Array(numbers));
let pressed = null; // until all of it is accepted: pressed again after a lost answer, it is the same, and made once
let awaited = null; // the job to bring into sight

async function make(event) {
  event?.preventDefault();
  if ($("make").getAttribute("aria-disabled") === "true") return;
  $("make").setAttribute("aria-disabled", "true");
  try {
    complain();
    const settings = request(), count = Number($("count").value), clip = followed && [followed.name, followed.size, followed.lastModified];
    const wish = JSON.stringify([settings, count, clip]);
    if (pressed?.wish !== wish) pressed = { wish, name: drawn(4).join("-"), first: settings.seed ?? drawn(1)[0] };
    for (let index = 0; index < count; index++) {
      const seed = count === 1 ? settings.seed : (pressed.first + index) % 2 ** 32;
      const headers = { "Idempotency-Key": `${pressed.name}-${index}` }, mine = { ...settings, seed };
      const job = await (followed ? ask("/v1/videos", { method: "POST", headers, body: form(mine) }) : post("/v1/videos", mine, headers));
      if (index === 0) awaited = job.id;
    }
    pressed = null;
    say(count === 1 ? "Your video is in the queue." : `${count} videos are in the queue.`);
  } catch (error) {
    if (error.away) error.message += ": press again once it does, and nothing is made twice";
    complain(error);
  }
  $("make").removeAttribute("aria-disabled");
  refresh();
}

let planning;

function plan() {
  clearTimeout(planning);
  const mine = (planning = setTimeout(async () => {
    let line = "";
    try {
      const found = await post("/v1/plan", { ...request(), input_reference: await head() }), took = found.seconds_needed;
      line = took === null ? "How long it takes is known after the first one; it needs" : `${found.measured ? "Takes" : "Takes roughly"} ${duration(took * $("count").value)}, needs`;
      line += ` about ${gigabytes(found.memory_bytes)} of memory`;
      if (found.memory_free_bytes !== null) line += ` (${gigabytes(found.memory_free_bytes)} free)`;
      if (found.jobs_waiting) line += `, ${many(found.jobs_waiting, "video")} before it`;
    } catch {
      // what is wrong with it is said when it is asked for
    }
    if (planning === mine) $("plan").textContent = line;
  }, 400));
}

// As much of the clip as tells that it is one; what an image costs beside is little.
async function head() {
  if (!followed) return undefined;
  const bytes = new Uint8Array(await followed.slice(0, 64).arrayBuffer());
  return { image_url: `data:video/mp4;base64,${btoa(String.fromCharCode(...bytes))}` };
}

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

function duration(seconds) {
  if (seconds < 90) return many(Math.max(1, Math.round(seconds)), "second");
  return seconds < 5400 ? many(Math.round(seconds / 60), "minute") : many(Math.round(seconds / 3600), "hour");
}

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
  for (const job of found) tell(jobs.get(job.id), job);
  jobs = new Map([...known.slice(0, first), ...found, ...rest].map((job) => [job.id, job]));
}

async function showOlder() {
  try {
    while (hasMore && !(await behind([...jobs.keys()].at(-1))).length);
  } catch (error) {
    return say(`${sentence(error.message)}.`, true);
  }
  draw();
  if (!hasMore) $("gallery").focus({ preventScroll: true }); // the button is no more
}

function tell(was, job) {
  if (!was || was.status === job.status) return;
  if (job.status === "completed") {
    fresh.add(job.id);
    say(`Your video is ready: ${job.prompt}`);
  } else if (job.status === "failed" && job.error.code !== "cancelled") say(`A video was not made: ${job.error.message}`, true);
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

// Those that run, and the one that is to run next. A page that nobody sees leaves the connections to others.
function followAll(waiting) {
  const running = waiting.filter((job) => job.status === "in_progress").length;
  const wanted = document.hidden ? [] : waiting.filter(active).slice(0, Math.min(STREAMS, running + 1));
  for (const id of live.keys()) if (!wanted.some((job) => job.id === id)) leave(id);
  wanted.forEach(follow);
}

// --- drawing

let busy = 0; // how many were yet to be made

function draw() {
  const focus = document.activeElement;
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
    const kind = JSON.stringify([job.prompt, job.model, job.seconds, job.size, job.num_inference_steps, job.guidance_scale, job.negative_prompt, job.profile]);
    if (groups.at(-1)?.kind === kind) groups.at(-1).jobs.push(job);
    else groups.push({ kind, jobs: [job] });
  }
  const articles = [];
  for (const group of groups) articles.push(article(group.jobs, articles));
  arrange($("groups"), articles);
  for (const id of clips.keys()) if (gone.has(id) || !jobs.has(id)) clips.delete(id);

  followAll(waiting);
  if (busy !== (busy = waiting.filter(active).length)) plan();
  if (focus !== document.body && !focus.isConnected) goOn();
  if (jobs.has(awaited)) reveal(awaited);
}

// Where a keyboard goes on when what had the focus is no more; else that would be the top of the page.
const goOn = () => $("gallery").focus({ preventScroll: true });

// On a phone, the form fills the screen.
function reveal(id) {
  awaited = null;
  const sight = clips.get(id) ?? $("making"), { top } = sight.getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) sight.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

const order = (job) => ({ in_progress: 0, queued: 1, failed: 2 })[job.status];

// Touches only what is new, gone or elsewhere now: a video that is watched plays on, and what has the focus keeps it.
function arrange(list, elements) {
  for (const one of [...list.children]) if (!elements.includes(one)) one.remove();
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
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
  else if (status === "queued") {
    const left = now?.seconds_left ?? job.seconds_left;
    if (now?.worker_ready === false) words += ", once a worker is ready";
    else if (left) words += `, ready in about ${duration(left)}`;
  } else if (status === "in_progress") {
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
  } catch (error) {
    const ended = error.status === 404 || error.status === 409; // meanwhile
    if (!ended) say(`It could not be cancelled: ${error.message}.`, true);
  }
  refresh();
}

// The article that shows some of these already, unless another one took it.
function article(group, taken) {
  const mine = group.map((job) => clips.get(job.id)?.closest("article")).find((one) => one && !taken.includes(one));
  const element = mine ?? copyOf("group");
  element.querySelector("h3").textContent = group[0].prompt;
  arrange(element.querySelector(".clips"), [...group].sort((a, b) => a.seed - b.seed).map(drawClip));
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
  element.querySelector(".play").onclick = () => (video.paused ? video.play().catch(() => {}) : video.focus());
  video.onplay = video.onpause = () => element.classList.toggle("playing", !video.paused);
  if (fresh.delete(job.id) && !calm.matches) {
    video.autoplay = true;
    video.preload = "auto";
  }
  element.querySelector("summary").textContent = `${job.seconds} s, seed ${job.seed}`;
  const facts = {
    Model: job.model, Size: job.size, Frames: `${job.num_frames} at ${job.fps} a second`, Steps: job.num_inference_steps,
    Guidance: job.guidance_scale, Seed: job.seed, Not: job.negative_prompt || "",
    Quality: job.profile ? QUALITY[job.profile] : "",
    Begins: job.begins_from_image ? "from an image" : job.begins_from_video ? `from a clip, strength ${job.strength}` : "",
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
  called(".play", "Play, then show the controls");
  called(".again", "Again with other words").onclick = () => fill(job);
  Object.assign(called(".download", "Download"), { href: address, download: `${job.prompt.replace(/\W+/g, "-").slice(0, 60)}-${job.seed}.mp4` });
  called(".delete", "Delete").onclick = () => remove(job);
  clips.set(job.id, element);
  return element;
}

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

// --- deleting, which waits a little

let lastHeld, holding;

function remove(job) {
  held.add(job.id);
  lastHeld = job.id;
  clearTimeout(holding);
  holding = setTimeout(reallyRemove, UNDO);
  $("toast-words").textContent = held.size === 1 ? "Deleted." : `${held.size} deleted.`;
  $("toast").hidden = false;
  $("undo").focus();
  draw();
}

async function reallyRemove() {
  const ids = putAway();
  for (const id of ids) gone.add(id);
  await Promise.all(ids.map(async (id) => {
    try {
      await ask(`/v1/videos/${id}`, { method: "DELETE", keepalive: true });
    } catch (error) {
      if (error.status === 404) return; // already
      gone.delete(id);
      say(`It could not be deleted: ${error.message}.`, true);
    }
  }));
  draw();
}

function undo() {
  clearTimeout(holding);
  putAway();
  draw();
  const back = clips.get(lastHeld) ?? rows.get(lastHeld);
  back?.querySelector("button:not(.play)")?.focus();
  say("It is back.");
}

// The toast; and what could be undone until now.
function putAway() {
  const ids = [...held];
  held.clear();
  if ($("toast").contains(document.activeElement)) goOn();
  $("toast").hidden = true;
  return ids;
}

addEventListener("pagehide", () => {
  for (const id of held) fetch(`/v1/videos/${id}`, { method: "DELETE", keepalive: true });
});

// --- beginning

async function begin() {
  $("ask").addEventListener("submit", make);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && make(event));
  $("ask").addEventListener("input", () => (complain(), plan()));
  $("undo").addEventListener("click", undo);
  $("leave").addEventListener("click", () => signOut().catch(heard));
  $("leave").hidden = !localStorage.signedIn;
  $("image").addEventListener("change", () => begins($("image").files[0]));
  for (const id of ["unbegin", "unfollow"]) $(id).addEventListener("click", () => (begins(null), $("image").focus()));
  $("profile").addEventListener("change", fillSteps);
  $("size").addEventListener("change", cut);
  $("model").addEventListener("change", () => (fillModel(), cut()));
  $("older").addEventListener("click", showOlder);
  $("fold").addEventListener("click", () => ((unfolded = !unfolded), draw()));
  document.addEventListener("visibilitychange", refresh);
  while (!models.length) {
    try {
      models = (await ask("/v1/models")).data;
    } catch (error) {
      heard(error);
      await new Promise((later) => setTimeout(later, BUSY));
    }
  }
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  $("model-field").hidden = models.length < 2;
  fillModel();
  $("prompt").value ||= models[0].example;
  plan();
  refresh();
}

begin();
