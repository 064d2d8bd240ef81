// What classes are called: as the model calls them, or by their names in a language, which the user chooses.

import { readClasses } from "./backends.js";

const OWN = "own", KEPT = "names";
const MOST = 1010; // classes that have names: ImageNet's and CIFAR-10's
const tables = new Map(); // language -> promise of a map: WordNet id -> name
let names = new Map(); // those of the chosen language
let chosen;

/** Offer names for the classes of a model that has been chosen, if they have any. */
export async function offerNames(model) {
  chosen = model;
  model.keys ??= keysOf(model);
  const keys = await model.keys;
  if (model !== chosen) return; // another one was chosen meanwhile
  document.getElementById("names-choice").hidden = keys.length === 0;
  await readNames();
}

/**
 * Begin with the names that the user chose last, or else those of the browser's language. `changed` is called when the
 * user has chosen others, and all that is shown has them.
 */
export function listenForNames(changed) {
  const choice = document.getElementById("names");
  const usual = navigator.language.toLowerCase().startsWith("zh") ? "zh" : OWN;
  choice.value = localStorage.getItem(KEPT) ?? usual;
  if (choice.selectedIndex < 0) choice.value = usual; // what was kept is of another version
  choice.onchange = async () => {
    localStorage.setItem(KEPT, choice.value);
    await readNames();
    for (const element of document.querySelectorAll("[data-own]")) {
      element.textContent = nameOf({ key: element.dataset.key, label: element.dataset.own });
    }
    changed();
  };
}

/** Note with each class of an answer by which key it has names, if it has; returns the answer. */
export async function withKeys(answer, model) {
  const keys = (await model.keys) ?? [];
  return { ...answer, predictions: answer.predictions.map((each) => ({ ...each, key: keys[each.index] })) };
}

/** @returns {Promise<{label: string, key?: string}[]>} the model's classes */
export async function readNamed(model) {
  const [{ labels }, keys] = [await readClasses(model), await model.keys];
  return labels.map((label, index) => ({ label, key: keys[index] }));
}

/** What to call a class. */
export function nameOf({ key, label }) {
  return names.get(key) ?? label;
}

/** The name of a class as an element, which gets another text when other names are chosen. */
export function nameElement(kind, item) {
  const element = document.createElement("span");
  element.className = kind;
  return showName(element, item);
}

/** Let an element show the name of a class. */
export function showName(element, item) {
  element.dataset.own = item.label;
  if (item.key !== undefined) element.dataset.key = item.key;
  element.textContent = nameOf(item);
  return element;
}

/** WordNet ids of a model's classes; none if not all of them have names. */
async function keysOf(model) {
  if (model.classes > MOST) return [];
  try {
    const { labels, wnids } = await readClasses(model);
    const known = wnids.includes(null) ? await readTable("cifar10", 2, 1) : new Map();
    const isCifar = new Set(labels).size === known.size && labels.every((label) => known.has(label));
    const keys = isCifar ? labels.map((label) => known.get(label)) : wnids;
    const table = keys.includes(null) ? null : await readTable("en");
    return table !== null && keys.every((key) => table.has(key)) ? keys : [];
  } catch {
    return []; // what is wrong is said where the classes are listed
  }
}

async function readNames() {
  const choice = document.getElementById("names");
  const language = choice.value;
  try {
    const found = language === OWN ? new Map() : await readTable(language);
    if (language === choice.value) names = found;
  } catch {
    if (language === choice.value) choice.value = OWN;
    names = new Map();
  }
}

function readTable(name, key = 0, value = 1) {
  if (!tables.has(name)) {
    const reading = fetch(`names/${name}.tsv`).then(async (answer) => {
      const lines = (await answer.text()).trimEnd().split("\n").slice(1);
      return new Map(lines.map((line) => line.split("\t")).map((fields) => [fields[key], fields[value]]));
    });
    tables.set(name, reading);
    reading.catch(() => tables.delete(name));
  }
  return tables.get(name);
}
