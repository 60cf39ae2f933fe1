// The form: what is asked for, what that would take, and what is wrong with it.

import { begins, beginning, cut, followed, forget, head, missing, pictureName } from "./beginning.js";
import { on, tell } from "./events.js";
import { refresh } from "./jobs.js";
import { ask, onAnswer, post, say, stored } from "./server.js";
import { $, controlOf, duration, gigabytes, labelOf, many, period, plain, QUALITY, sentence, wrong } from "./words.js";

const LONGER = [5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300]; // seconds, made in windows
const SETTINGS = ["model", "seconds", "profile", "lora", "size", "count", "strength"]; // those that are chosen from a list
const TEXTS = ["seed", "steps", "guidance", "lora-strength", "negative"];
const SEEDS = 2 ** 32;

let models = [];

const chosen = () => models.find((model) => model.id === $("model").value) ?? models[0];
const usual = () => ({ steps: chosen().profiles.find(({ id }) => id === $("profile").value).steps, guidance: chosen().default_guidance });

// --- reading it

// A number as people write it, undefined where none is given. Its range stands beside its control.
function number(id) {
  const { value, inputMode, dataset: { least, most } } = $(id), text = value.trim().replace(",", ".");
  if (text === "") return undefined;
  const whole = inputMode === "numeric", found = Number(text);
  if (!(whole ? /^\d+$/ : /^\d*\.?\d+$/).test(text) || found < least || found > most) {
    throw wrong(id, `${labelOf(id)} must be a ${whole ? "whole number" : "number"} from ${least} to ${most}`);
  }
  return found;
}

function request() {
  if (!chosen()) throw new Error("the server has not said yet which models it has");
  const prompt = $("prompt").value;
  if (!prompt.trim()) throw wrong("prompt", "describe the video in a sentence");
  const settings = { prompt, model: chosen().id, seconds: $("seconds").value, size: $("size").value };
  settings.seed = number("seed");
  settings.num_inference_steps = number("steps");
  settings.guidance_scale = number("guidance");
  if ($("negative").value.trim()) settings.negative_prompt = $("negative").value;
  if (!$("profile-field").hidden) settings.profile = $("profile").value;
  if ($("lora").value) settings.lora = { name: $("lora").value, strength: number("lora-strength") ?? 1 };
  if (beginning()) settings.input_reference = { image_url: beginning() };
  if (followed()) Object.assign(settings, { strength: Number($("strength").value), fit: "crop" });
  return settings;
}

// With the clip, which only a form can carry as it is.
function form(settings) {
  const fields = new FormData();
  for (const [name, value] of Object.entries(settings)) {
    if (value !== undefined) fields.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  fields.append("input_reference", followed());
  return fields;
}

// --- filling it

// These options, and of them the one that was chosen before, if it is still among them.
function offer(id, options, otherwise) {
  const before = $(id).value;
  $(id).replaceChildren(...options.map(([value, words]) => new Option(words, value)));
  $(id).value = options.some(([value]) => String(value) === before) ? before : otherwise;
}

function fillModel() {
  const model = chosen(), most = Number(model.max_seconds), lengths = [];
  for (let second = Math.max(1, Math.ceil(model.min_seconds)); second <= Number(model.seconds_at_once); second++) lengths.push(second);
  lengths.push(...LONGER.filter((length) => length > model.seconds_at_once && length <= most));
  if (!lengths.includes(Number(model.default_seconds))) lengths.push(Number(model.default_seconds));
  offer("seconds", lengths.map((length) => [length, many(length, "second")]), model.default_seconds);
  offer("size", model.sizes.map((size) => [size, size]), model.sizes[0]);
  offer("profile", model.profiles.map(({ id }) => [id, QUALITY[id]]), model.default_profile);
  offer("lora", [["", "none"], ...model.loras.map((name) => [name, name])], "");
  $("lora-field").hidden = $("lora-strength-field").hidden = model.loras.length === 0;
  $("size-field").hidden = model.sizes.length < 2;
  $("profile-field").hidden = model.profiles.length < 2;
  fillUsual();
  $("ideas").replaceChildren(...model.examples.slice(1).map((words) => {
    const idea = Object.assign(document.createElement("button"), { type: "button", textContent: words });
    idea.onclick = () => {
      $("prompt").value = words;
      complain();
      changed();
      $("prompt").focus();
    };
    return idea;
  }));
}

// What holds where nothing is typed.
function fillUsual() {
  for (const [id, value] of Object.entries(usual())) $(id).placeholder = value;
}

// Chosen, even if it is not among what the page offers: an earlier clip may have any length.
function choose(id, value, words) {
  if (![...$(id).options].some((one) => one.value === value)) $(id).add(new Option(words ?? value, value));
  $(id).value = value;
}

const lengthOf = (seconds) => `${seconds} second${seconds === "1" ? "" : "s"}`;

// All that an earlier clip was made with. What its quality and model decide is left to them: another quality then decides
// anew.
function fill(job) {
  $("prompt").value = job.prompt;
  if (models.some(({ id }) => id === job.model)) $("model").value = job.model;
  fillModel();
  $("profile").value = chosen().profiles.some(({ id }) => id === job.profile) ? job.profile : "exact";
  fillUsual();
  choose("seconds", job.seconds, lengthOf(job.seconds));
  choose("size", job.size);
  const [lora] = job.lora.filter(({ name }) => chosen().loras.includes(name));
  $("lora").value = lora?.name ?? "";
  $("lora-strength").value = lora && lora.strength !== 1 ? lora.strength : "";
  $("count").value = "1";
  $("seed").value = job.seed;
  $("steps").value = job.num_inference_steps === usual().steps ? "" : job.num_inference_steps;
  $("guidance").value = job.guidance_scale === usual().guidance ? "" : job.guidance_scale;
  $("negative").value = job.negative_prompt;
  openMore();
  complain();
  forget();
  if (job.begins_from_image || job.begins_from_video) {
    missing(`That video began with ${job.begins_from_video ? "a clip" : "an image"}. Choose it again if this one should, too.`);
  }
  changed();
  $("prompt").focus();
  $("prompt").select();
}

const openMore = () => ($("more").open ||= TEXTS.some((id) => $(id).value));

// --- keeping it: a page that is loaded again, or come back to, is as it was left. It is kept for this tab alone.

const draft = () => JSON.parse(stored("tab", "draft") ?? "{}");

function keep() {
  const kept = { ...draft(), prompt: $("prompt").value };
  if (models.length) { // before that, the lists are empty and nothing of what was kept is shown yet
    kept.begins = pictureName();
    for (const id of [...SETTINGS, ...TEXTS]) kept[id] = $(id).value;
  }
  stored("tab", "draft", JSON.stringify(kept));
}

function restore() {
  const kept = draft();
  $("prompt").value ||= kept.prompt ?? models[0].example; // unless something was typed meanwhile
  if (models.some(({ id }) => id === kept.model)) $("model").value = kept.model;
  fillModel();
  if (kept.seconds) choose("seconds", kept.seconds, lengthOf(kept.seconds));
  if (kept.size && chosen().id === kept.model) choose("size", kept.size);
  for (const id of ["profile", "lora", "count", "strength"]) if ([...$(id).options].some(({ value }) => value === kept[id])) $(id).value = kept[id];
  for (const id of TEXTS) $(id).value ||= kept[id] ?? "";
  fillUsual();
  openMore();
  if (kept.begins) missing(`“${kept.begins}” was left out when the page was loaded again. Choose it again if the video should begin with it.`);
}

// After every change.
function changed() {
  keep();
  hintSeed();
  plan();
}

// A seed that is given makes the same clip each time, which is easily overlooked.
function hintSeed() {
  const text = $("seed").value.trim(), seed = Number(text), count = Number($("count").value);
  $("fixed").hidden = !/^\d+$/.test(text);
  const seeds = count > 1 ? `Seeds ${seed} to ${(seed + count - 1) % SEEDS} are fixed` : `The seed ${seed} is fixed`;
  $("fixed").querySelector("span").textContent = `${seeds}: the same words and settings make the same ${count > 1 ? "videos" : "video"} again.`;
}

// --- what is wrong with it

let complaint = null;

// At once the problem alone, and all that could be done instead for who wants to read it; both beside what they are about.
function complain(error) {
  complaint = error ?? null;
  const id = controlOf(error), place = !id || id === "prompt" ? $("prompt") : $(id).closest(".settings") ?? $(id).parentElement;
  if (place.nextElementSibling !== $("problem")) place.after($("problem"), $("remedy"));
  for (const one of $("ask").querySelectorAll("[aria-invalid]")) {
    one.removeAttribute("aria-invalid");
    if (one !== $("prompt")) one.removeAttribute("aria-describedby");
  }
  const [, problem, remedy] = (error ? plain(error.message) : "").match(/^(.*?)(?:; (.{80,}))?$/s);
  $("problem").textContent = problem && period(problem);
  $("remedy").hidden = !remedy;
  $("remedy").querySelector("p").textContent = sentence(remedy ?? "").replaceAll("; ", "\n");
  if (!id) return;
  $(id).setAttribute("aria-invalid", "true");
  if (id !== "prompt") $(id).setAttribute("aria-describedby", "problem");
  if ($("more").contains($(id))) $("more").open = true;
}

// No complaint about the server outlives its cause.
onAnswer((wasAway) => {
  if (complaint?.away) complain(new Error("the server is back. Press “Make it” again: nothing is made twice"));
  if (wasAway) plan();
});

// --- asking

const drawn = (numbers) => crypto.getRandomValues(new Uint32Array(numbers));
let pressed = null; // until all of it is accepted: pressed again after a lost answer, it is the same, and made once

async function make(event) {
  event?.preventDefault();
  if ($("make").getAttribute("aria-disabled") === "true") return;
  $("make").setAttribute("aria-disabled", "true");
  let accepted = 0;
  const count = Number($("count").value);
  try {
    complain();
    const settings = request(), clip = followed(), file = clip && [clip.name, clip.size, clip.lastModified];
    const wish = JSON.stringify([settings, count, file]);
    if (pressed?.wish !== wish) pressed = { wish, name: drawn(4).join("-"), first: settings.seed ?? drawn(1)[0] };
    for (; accepted < count; accepted++) {
      const seed = count === 1 ? settings.seed : (pressed.first + accepted) % SEEDS;
      const headers = { "Idempotency-Key": `${pressed.name}-${accepted}` }, mine = { ...settings, seed };
      const job = await (clip ? ask("/v1/videos", { method: "POST", headers, body: form(mine) }) : post("/v1/videos", mine, headers));
      if (accepted === 0) tell("asked", job.id);
    }
    pressed = null;
    say(count === 1 ? "Your video is in the queue." : `${count} videos are in the queue.`);
  } catch (error) {
    complain(explained(error, accepted, count));
    if (controlOf(error) && controlOf(error) !== "prompt") $(controlOf(error)).focus();
  }
  $("make").removeAttribute("aria-disabled");
  refresh();
}

function explained(error, accepted, count) {
  if (error.away) error.message += ". Press “Make it” again once it does: nothing is made twice";
  else if (error.status === 413) Object.assign(error, wrong("image", ""), { message: "this file is too large to be sent" });
  else if (error.field === "strength" && followed()) Object.assign(error, { control: "image", message: NO_CLIP });
  if (accepted) error.message = `${accepted} of ${count} videos are in the queue. ${plain(error.message)}`;
  return error;
}

const NO_CLIP = "this file is not a clip that can be read";

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
    } catch (error) {
      // what is wrong is said when it is asked for, but a file at once: it was just chosen
      if (planning === mine && error.field === "strength" && followed()) complain(wrong("image", NO_CLIP));
    }
    if (planning === mine) $("plan").textContent = line;
  }, 400));
}

// --- beginning

export function openForm(found) {
  models = found;
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  $("model-field").hidden = models.length < 2;
  restore();
  changed();
}

export function watchForm() {
  on("again", fill);
  on("waiting", plan);
  on("beginning", (problem) => (complain(problem), changed()));
  $("ask").addEventListener("submit", make);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && make(event));
  $("ask").addEventListener("input", () => (complain(), changed()));
  $("draw").addEventListener("click", () => {
    $("seed").value = "";
    changed();
    $("make").focus(); // the button is no more
  });
  // A quality decides the steps, and a model the guidance, too: what was typed for another one does not hold for it.
  $("profile").addEventListener("change", () => {
    $("steps").value = "";
    fillUsual();
    changed();
  });
  $("model").addEventListener("change", () => {
    $("steps").value = $("guidance").value = "";
    fillModel();
    cut();
    changed();
  });
  $("size").addEventListener("change", () => (cut(), changed()));
  $("image").addEventListener("change", () => begins($("image").files[0]));
  for (const id of ["unbegin", "unfollow"]) $(id).addEventListener("click", () => (begins(null), $("image").focus()));
}
