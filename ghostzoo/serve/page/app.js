// The page: what the user drops, pastes, takes or chooses is classified and shown.

import { askBrowser, askServer, hasServer, listModels, setApiKey } from "./backends.js";
import { runBatch } from "./batch.js";
import { takePicture } from "./camera.js";
import { listenForClasses, showClasses } from "./classes.js";
import { findObstacle } from "./obstacle.js";
import { offerSamples } from "./samples.js";
import { compareAnswers } from "./ghostzoo/scores.js";
import { listenForTeaching, teachOn } from "./teach.js";
import { byId, showAnswer, showNotice, showPicture, showVerdict, startAnswers } from "./view.js";
import { offerWhy } from "./why.js";

let models = [];
let running = new AbortController(); // what is on its way; a new picture ends it

const chosenModel = () => models[byId("model").selectedIndex];
const chosenEngine = () => byId("engine").value;
const wantsBrowser = () => !hasServer || byId("in-browser").checked;

async function start() {
  byId("engine-choice").hidden = byId("browser-choice").hidden = byId("footer-server").hidden = !hasServer;
  byId("footer-static").hidden = hasServer;
  const obstacle = findObstacle();
  if (obstacle) {
    byId("in-browser").disabled = true;
    byId("obstacle").textContent = `The model cannot also run in this browser. ${obstacle}`;
    byId("obstacle").hidden = !hasServer;
  }
  showNotice("");
  if (obstacle && !hasServer) {
    byId("choices").hidden = true;
    showNotice(`The models cannot run here. ${obstacle}`);
    return;
  }
  byId("pictures").hidden = false;
  await fillModels();
}

async function fillModels() {
  try {
    models = await listModels();
  } catch (error) {
    byId("key-choice").hidden = error.status !== 401;
    showNotice(error.status === 401 ? "This server asks for an API key." : `No models: ${error.message}.`);
    return;
  }
  showNotice(models.length === 0 ? "No model is loaded." : "");
  byId("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  if (models.length > 0) await showModel();
}

async function showModel() {
  byId("engine").replaceChildren(...chosenModel().engines.map((name) => new Option(name)));
  await showClasses(chosenModel());
  if (!findObstacle()) await teachOn(chosenModel());
}

/** Classify files: one is shown with its bars, many in a table. */
async function classify(files) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const model = chosenModel();
  if (files.length === 0 || model === undefined) return;
  showNotice("");
  byId("single").hidden = files.length > 1;
  byId("batch").hidden = files.length === 1;
  const answering = files.length > 1 ? classifyMany(files, model) : classifyOne(files[0], model, signal);
  bringIntoView(byId(files.length > 1 ? "batch" : "single"));
  await answering;
  if (files.length === 1 && !signal.aborted) bringIntoView(byId("single")); // which is as high as it gets by now
}

/** On a small screen, answers come below what is to be seen. */
function bringIntoView(section) {
  if (section.getBoundingClientRect().top > innerHeight / 2) section.scrollIntoView({ behavior: "smooth" });
}

function classifyMany(files, model) {
  const engine = chosenEngine();
  const { signal } = running;
  const ask = hasServer ? (file) => askServer(model, engine, file, signal) : (file) => askBrowser(model, file);
  return runBatch(files, ask, running);
}

async function classifyOne(file, model, signal) {
  showPicture(file);
  startAnswers();
  const engine = chosenEngine();
  const answers = [];
  if (hasServer) answers.push(shown(`${engine} on the server`, askServer(model, engine, file, signal), signal));
  if (wantsBrowser()) answers.push(shown("In this browser", askBrowser(model, file), signal));
  const [server, browser] = await Promise.all(answers);
  const answer = server ?? browser;
  if (!signal.aborted && answer) offerWhy(file, answer.predictions, model, engine, signal);
  if (!signal.aborted && server && browser) {
    showVerdict(compareAnswers(server.predictions, browser.predictions, model.multiLabel));
  }
}

/** Show an answer when it comes, or why there is none. */
async function shown(title, answering, signal) {
  const fill = showAnswer(title);
  try {
    const answer = await answering;
    if (!signal.aborted) fill(answer);
    return answer;
  } catch (error) {
    if (!signal.aborted) fill({ error: error.message });
    return null;
  }
}

function listen() {
  const drop = byId("drop");
  byId("choose").onclick = () => byId("files").click();
  byId("take").onclick = async () => {
    try {
      const picture = await takePicture();
      if (picture) classify([picture]);
    } catch (error) {
      showNotice(error.message);
    }
  };
  for (const id of ["files", "capture"]) {
    byId(id).onchange = ({ target }) => {
      const files = [...target.files];
      target.value = ""; // so that the same file can be chosen again
      classify(files);
    };
  }
  document.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  document.ondragleave = () => drop.classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    classify([...event.dataTransfer.files]);
  };
  document.onpaste = (event) => classify([...event.clipboardData.files]);
  byId("model").onchange = showModel;
  listenForClasses();
  listenForTeaching();
  offerSamples(classify);
  byId("choices").onsubmit = (event) => event.preventDefault();
  byId("key").onchange = ({ target }) => {
    setApiKey(target.value);
    fillModels();
  };
}

listen();
start();
