// Words for people: numbers and times, and what the server says about a request in the words of this page.

export const $ = (id) => document.getElementById(id);

export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
export const period = (words) => (/[.?!…]$/.test(words) ? words : `${words}.`);
export const many = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
export const short = (words, most = 80) => (words.length > most ? `${words.slice(0, most - 1).trimEnd()}…` : words);
export const QUALITY = { exact: "best", fast: "fast", draft: "draft" }; // profiles
export const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

export function duration(seconds) {
  if (seconds < 90) return many(Math.max(1, Math.round(seconds)), "second");
  return seconds < 5400 ? many(Math.round(seconds / 60), "minute") : many(Math.round(seconds / 3600), "hour");
}

// The control that holds a setting, by the names that the server has for the setting: on the wire, and in its messages.
const CONTROLS = {
  prompt: "prompt", model: "model", profile: "profile", seed: "seed", strength: "strength",
  seconds: "seconds", num_frames: "seconds", frames: "seconds", size: "size", width: "size", height: "size",
  num_inference_steps: "steps", steps: "steps", guidance_scale: "guidance", guidance: "guidance",
  lora: "lora",
  negative_prompt: "negative", negative: "negative",
  input_reference: "image", image_reference: "image", image: "image", video: "image", fit: "image",
};

export const controlOf = (error) => error?.control ?? CONTROLS[error?.field?.split(".")[0]];
export const labelOf = (id) => document.querySelector(`label[for="${id}"]`).textContent;

// An error that this page found itself, at one of its controls.
export const wrong = (control, message) => Object.assign(new Error(message), { control });

// `num_inference_steps "0": is out of range; use 1 to 1000` is `Steps: is out of range; use 1 to 1000` here. What is wrong
// with the prompt needs no name: it is said below the prompt.
export function plain(message) {
  const [, name, problem] = message.match(/^([a-z_]+)(?:\.[\w.]+)?(?: ".*?")?: (.*)$/s) ?? [];
  const control = CONTROLS[name];
  if (!control) return sentence(message);
  return control === "prompt" ? sentence(problem) : `${labelOf(control)}: ${problem}`;
}
