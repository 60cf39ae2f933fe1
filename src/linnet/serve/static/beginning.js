// What the video begins with: an image, cut here to the video's shape, so that what is seen is what is sent; or a clip that
// it follows, which is sent as it is.

import { tell } from "./events.js";
import { $, wrong } from "./words.js";

const MOST_BYTES = 8 * 2 ** 20 - 2 ** 16; // of a clip, beside what else is asked

let address = null, picture = null, clip = null, name = "";

export const beginning = () => address;
export const followed = () => clip;
export const pictureName = () => name;

export async function begins(file) {
  forget();
  let problem;
  try {
    if (!file?.type.startsWith("video/")) picture = file ? await createImageBitmap(file) : null;
    else if (file.size <= MOST_BYTES) clip = file;
    else problem = "this clip has over 8 MB";
  } catch {
    problem = "this file is not an image or a clip that can be read here";
  }
  name = picture || clip ? file.name : "";
  cut();
  tell("beginning", problem && wrong("image", problem));
}

export function forget() {
  picture = clip = null;
  name = "";
  missing("");
  cut();
}

// Why a video begins with nothing, where one might think that it does.
export function missing(words) {
  $("began").textContent = words;
  $("began").hidden = !words;
}

export function cut() {
  address = null;
  if (picture) {
    const [width, height] = $("size").value.split("x").map(Number);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const scale = Math.max(width / picture.width, height / picture.height);
    const [wide, high] = [picture.width * scale, picture.height * scale];
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
    address = canvas.toDataURL("image/png");
    $("begin").querySelector("img").src = address;
  } else if (!clip) $("image").value = "";
  $("begin").hidden = !address;
  $("along").hidden = !clip;
  $("along").querySelector("b").textContent = clip?.name ?? "";
}

// As much of the clip as tells that it is one; what an image costs beside is little.
export async function head() {
  if (!clip) return undefined;
  const bytes = new Uint8Array(await clip.slice(0, 64).arrayBuffer());
  return { image_url: `data:video/mp4;base64,${btoa(String.fromCharCode(...bytes))}` };
}
