// The page: asks, watches, shows. All state is the server's, but for what is typed and what "undo" holds back.

import { openForm, watchForm } from "./form.js";
import { dismissAll, toggle } from "./gallery.js";
import { refresh, showOlder } from "./jobs.js";
import { reallyRemove, undo } from "./removal.js";
import { ask, heard, stored } from "./server.js";
import { $ } from "./words.js";

const AGAIN = 1000; // milliseconds between two tries to reach a server

async function signOut() {
  await reallyRemove(); // as long as the key is there to do it
  await ask("/v1/session", { method: "DELETE" });
  stored("browser", "signedIn", null);
  stored("tab", "draft", null);
  location.reload();
}

async function begin() {
  watchForm();
  $("undo").addEventListener("click", undo);
  $("dismiss").addEventListener("click", dismissAll);
  $("leave").addEventListener("click", () => signOut().catch(heard));
  $("leave").hidden = !stored("browser", "signedIn");
  $("older").addEventListener("click", showOlder);
  for (const id of ["fold", "unfold"]) $(id).addEventListener("click", () => toggle(id));
  addEventListener("pagehide", reallyRemove);
  let models;
  while (!models) {
    try {
      models = (await ask("/v1/models")).data;
    } catch (error) {
      heard(error);
      await new Promise((later) => setTimeout(later, AGAIN));
    }
  }
  openForm(models);
  refresh();
  // Whatever a page missed while nobody saw it, it was left, or the network was away.
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pageshow", (event) => event.persisted && refresh());
  addEventListener("online", refresh);
}

begin();
