// What the page shows of one picture: the picture, an answer with bars and times for each engine, a verdict on two.

import { THRESHOLD } from "./ghostzoo/scores.js";

export const byId = (id) => document.getElementById(id);

export const NOTHING = `no class reaches ${100 * THRESHOLD} %`;

let pictureUrl = "";

export function showNotice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
  byId("notice").classList.remove("late"); // which was for a page whose scripts do not start
}

export function showPicture(file) {
  URL.revokeObjectURL(pictureUrl);
  pictureUrl = URL.createObjectURL(file);
  byId("picture").src = pictureUrl;
  byId("picture").alt = file.name;
  byId("picture-name").textContent = file.name;
  hideMap();
  byId("why-choice").hidden = true;
}

export function hideMap() {
  byId("map").hidden = true;
  byId("picture").hidden = false;
  byId("why").textContent = "Show why";
  byId("why-text").textContent = "";
}

export function startAnswers() {
  byId("answers").replaceChildren();
}

/** Add an empty answer; returns what fills it with predictions and times and another title, or with an error. */
export function showAnswer(title) {
  const article = byId("answer").content.cloneNode(true).firstElementChild;
  article.querySelector("h2").textContent = title;
  article.querySelector(".timings").textContent = "…";
  byId("answers").append(article);
  return ({ title: better = title, predictions, timings = {}, error }) => {
    article.querySelector("h2").textContent = better;
    article.querySelector(".bars").replaceChildren(...(predictions ?? []).map(bar));
    article.querySelector(".nothing").textContent = predictions?.length === 0 ? `Here ${NOTHING}.` : "";
    const line = article.querySelector(".timings");
    line.textContent = error ?? timesOf(timings);
    line.classList.toggle("error", error !== undefined);
  };
}

export function showVerdict({ agrees, difference }) {
  const line = document.createElement("p");
  line.id = "verdict";
  line.className = agrees ? "agree" : "error";
  line.textContent = agrees
    ? `Both answers agree: the scores differ by ${difference.toExponential(1)} at most.`
    : `The answers differ: scores by up to ${difference.toExponential(1)}.`;
  byId("answers").append(line);
}

/** A class with its score, as an item of a list of bars. */
export function bar({ label, score }) {
  const item = document.createElement("li");
  item.style.setProperty("--share", `${100 * score}%`);
  item.append(span("label", label), span("score", percent(score)));
  return item;
}

/** Have the browser save a file. */
export function download(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function percent(score) {
  return `${(100 * score).toFixed(1)}\u00a0%`;
}

function span(kind, text) {
  const element = document.createElement("span");
  element.className = kind;
  element.textContent = text;
  return element;
}

function timesOf(timings) {
  return Object.entries(timings)
    .map(([stage, milliseconds]) => `${stage} ${milliseconds.toFixed(1)} ms`)
    .join(" · ");
}
