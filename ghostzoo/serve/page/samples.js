// Pictures to try the model on.

import { byId, showNotice } from "./view.js";

const SAMPLES = [
  { file: "cat.jpg", title: "cat", classes: ["cat", "tabby", "tiger cat", "Egyptian cat"] },
  { file: "coffee.jpg", title: "cup of coffee", classes: ["coffee", "cup", "espresso"] },
  { file: "rocket.jpg", title: "rocket", classes: ["rocket", "missile", "space shuttle"] },
];

/** Offer the pictures; `classify` gets the one that was chosen, as a file. */
export function offerSamples(classify) {
  byId("samples").append(...SAMPLES.map((sample) => button(sample, classify)));
}

/** Say which of the pictures show none of the model's classes; `labels` is null where they are not known. */
export function markSamples(labels) {
  const names = new Set(labels?.flatMap((label) => label.split(", ")));
  SAMPLES.forEach(({ classes }, index) => {
    const isKnown = labels === null || classes.some((name) => names.has(name));
    byId("samples").querySelectorAll(".unknown")[index].hidden = isKnown;
  });
}

function button({ file, title }, classify) {
  const element = byId("sample").content.cloneNode(true).firstElementChild;
  const picture = element.querySelector("img");
  picture.src = new URL(`samples/${file}`, import.meta.url).href;
  element.querySelector(".title").textContent = title;
  element.onclick = async () => {
    try {
      const blob = await (await fetch(picture.src)).blob();
      classify([new File([blob], file, { type: blob.type })]);
    } catch {
      showNotice("The picture cannot be fetched; is the server still running?");
    }
  };
  return element;
}
