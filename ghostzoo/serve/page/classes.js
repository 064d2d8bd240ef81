// The classes that the chosen model knows: listed where they are few, else on demand, with a search.

import { nameOf, readNamed } from "./names.js";
import { markSamples } from "./samples.js";
import { byId } from "./view.js";

const FEW = 30; // are shown at once
const MANY = 5000; // are not even fetched before they are asked for
const LISTED = 1000;
let chosen;
let labels = null;

export async function showClasses(model) {
  chosen = model;
  labels = null;
  const isFew = model.classes <= FEW;
  byId("classes-title").textContent = `The ${model.classes.toLocaleString("en")} classes that it knows`;
  byId("class-search").hidden = isFew;
  byId("class-search").value = "";
  byId("class-list").replaceChildren();
  byId("classes").hidden = false;
  byId("classes").open = isFew;
  markSamples(null);
  if (model.classes <= MANY) await load();
}

export function listenForClasses() {
  byId("classes").ontoggle = () => byId("classes").open && labels === null && chosen.classes > MANY && load();
  byId("class-search").oninput = list;
}

async function load() {
  const model = chosen;
  try {
    const found = await readNamed(model);
    if (model !== chosen) return; // another one was chosen meanwhile
    labels = found;
  } catch (error) {
    if (model === chosen) byId("class-list").replaceChildren(item(`They cannot be shown: ${error.message}.`));
    return;
  }
  markSamples(labels.map(({ label }) => label));
  list();
}

/** List the classes, by the names that are chosen. */
export function list() {
  const wanted = byId("class-search").value.trim().toLowerCase();
  const found = (labels ?? []).map(nameOf).filter((name) => name.toLowerCase().includes(wanted));
  const more = found.length > LISTED ? [item(`and ${found.length - LISTED} more`)] : [];
  byId("class-list").replaceChildren(...found.slice(0, LISTED).map(item), ...more);
  if (found.length === 0 && labels !== null) byId("class-list").replaceChildren(item("none of this name"));
}

function item(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}
