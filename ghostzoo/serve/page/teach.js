// "Teach it": classes of the user's own, by pictures, all in the browser: features by the network, a head by ridge.js.

import { embedInBrowser, readFile } from "./backends.js";
import { isBundleName, makeBundle, NEEDED } from "./bundle.js";
import { currentFrame, openCamera, takePicture } from "./camera.js";
import { fitHead, logitsOf } from "./ridge.js";
import { topClasses, softmax } from "./ghostzoo/scores.js";
import { bar, byId, download } from "./view.js";

const LEAST = 2; // pictures of a class
const MOST = 500; // of all classes; beyond, the package's `ghostzoo fit` is the better tool
const SHOWN = 5;

let model; // that gives the features
let classes = []; // {name, items: [{file, features, image}], element}
let head = null;
let version = 0; // of what was taught; what is computed for an older one is thrown away
let live = null;

/** Begin anew with the features of another model; the pictures are kept. */
export async function teachOn(chosen) {
  model = chosen;
  byId("teach").hidden = false;
  const items = classes.flatMap((each) => each.items);
  items.forEach((item) => (item.features = null));
  await embedAll(items);
}

export function listenForTeaching() {
  byId("add-class").onclick = () => addClass(`class ${classes.length + 1}`).querySelector("input").select();
  byId("try-picture").onclick = () => byId("try-file").click();
  byId("try-file").onchange = async ({ target }) => {
    const [file] = target.files;
    target.value = "";
    stopLive();
    if (file) await tryPicture(file);
  };
  byId("try-live").onclick = () => (live ? stopLive() : startLive());
  byId("save-model").onclick = save;
  byId("teach").ontoggle = () => (byId("teach").open ? undefined : stopLive());
  addClass("class 1");
  addClass("class 2");
}

function addClass(name) {
  const element = byId("taught-class").content.cloneNode(true).firstElementChild;
  const taught = { name, items: [], element };
  const [title, files] = element.querySelectorAll("input");
  title.value = name;
  title.oninput = () => {
    taught.name = title.value.trim();
    refit();
  };
  files.onchange = () => {
    const chosen = [...files.files];
    files.value = "";
    addPictures(taught, chosen);
  };
  element.querySelector(".add").onclick = () => files.click();
  element.querySelector(".shoot").onclick = async () => {
    try {
      stopLive();
      const picture = await takePicture();
      if (picture) await addPictures(taught, [picture]);
    } catch (error) {
      say(error.message);
    }
  };
  element.querySelector(".remove").onclick = () => {
    classes = classes.filter((each) => each !== taught);
    taught.items.forEach(({ image }) => URL.revokeObjectURL(image.src));
    element.remove();
    refit();
  };
  element.ondragover = (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("over");
  };
  element.ondragleave = () => element.classList.remove("over");
  element.ondrop = (event) => {
    event.preventDefault();
    event.stopPropagation(); // or the page would classify them
    element.classList.remove("over");
    addPictures(taught, [...event.dataTransfer.files]);
  };
  classes.push(taught);
  byId("taught").append(element);
  refit();
  return element;
}

async function addPictures(taught, files) {
  const room = MOST - classes.reduce((sum, each) => sum + each.items.length, 0);
  const items = files.slice(0, Math.max(room, 0)).map((file) => ({ file, features: null, image: thumbnail(file) }));
  for (const item of items) {
    item.image.onclick = () => removePicture(taught, item);
    taught.items.push(item);
    taught.element.querySelector(".strip").append(item.image);
  }
  await embedAll(items);
  if (items.length < files.length) say(`Only ${MOST} pictures fit here; ghostzoo fit takes as many as you like.`);
}

function thumbnail(file) {
  const image = document.createElement("img");
  image.src = URL.createObjectURL(file);
  image.alt = image.title = `${file.name} (click to remove)`;
  return image;
}

function removePicture(taught, item) {
  taught.items = taught.items.filter((each) => each !== item);
  URL.revokeObjectURL(item.image.src);
  item.image.remove();
  refit();
}

/** Compute what is missing; a picture that cannot be read is taken out again, and named. */
async function embedAll(items) {
  const failed = [];
  for (const [index, item] of items.entries()) {
    const asked = model;
    say(`Looking at picture ${index + 1} of ${items.length} …`);
    try {
      const features = await embedInBrowser(asked, item.file);
      if (asked === model) item.features = features;
    } catch (error) {
      failed.push(`${item.file.name}: ${error.message}`);
      const taught = classes.find((each) => each.items.includes(item));
      if (taught) removePicture(taught, item);
    }
  }
  refit();
  if (failed.length > 0) say(`${failed.length} of ${items.length} cannot be read. ${failed[0]}`, true);
}

/** Fit the head to what is there, if that is enough, and say how well it does. */
function refit() {
  version++;
  head = null;
  for (const { items, element } of classes) {
    element.querySelector(".count").textContent = `${items.length} picture${items.length === 1 ? "" : "s"}`;
  }
  const missing = whatIsMissing();
  if (missing === "") {
    const items = classes.flatMap(({ items: own }, label) => own.map(({ features }) => ({ features, label })));
    head = fitHead(items.map(({ features }) => features), items.map(({ label }) => label));
    const share = ((100 * head.right) / items.length).toFixed(0);
    say(`Of ${items.length} pictures, ${head.right} (${share} %) are recognised by what it learns of the others.`);
  } else {
    say(missing);
  }
  for (const id of ["try-picture", "try-live", "save-model"]) byId(id).disabled = head === null;
  if (head === null) {
    stopLive();
    byId("trial").hidden = true;
  }
}

function whatIsMissing() {
  const names = classes.map(({ name }) => name);
  if (names.some((name) => name === "")) return "Give every class a name.";
  if (new Set(names).size < names.length) return "Two classes have the same name.";
  const poor = classes.find(({ items }) => items.length < LEAST);
  if (classes.length < 2) return "It takes at least two classes.";
  if (poor) return `“${poor.name}” needs at least ${LEAST} pictures.`;
  return classes.some(({ items }) => items.some(({ features }) => !features)) ? "…" : "";
}

function say(text, isBad = false) {
  byId("teach-state").textContent = text;
  byId("teach-state").classList.toggle("error", isBad);
}

async function tryPicture(file) {
  const asked = version;
  try {
    const features = await embedInBrowser(model, file);
    if (asked !== version || head === null) return;
    const scores = softmax(Float32Array.from(logitsOf(head, features)));
    const labels = classes.map(({ name }) => ({ label: name }));
    byId("trial-bars").replaceChildren(...topClasses(scores, labels, SHOWN).map(bar));
    byId("trial").hidden = false;
  } catch (error) {
    say(`${file.name ?? "The picture"}: ${error.message}`, true);
  }
}

async function startLive() {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("This browser gives the camera's live image on https and localhost only.", true);
    return;
  }
  try {
    live = await openCamera();
  } catch (error) {
    say(error.message, true);
    return;
  }
  const stream = live;
  byId("try-live").textContent = "Stop";
  byId("live").srcObject = stream;
  byId("live").hidden = byId("trial").hidden = false;
  while (live === stream) {
    if (byId("live").videoWidth > 0) await tryPicture(await currentFrame(byId("live")));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function stopLive() {
  live?.getTracks().forEach((track) => track.stop());
  live = null;
  byId("live").hidden = true;
  byId("live").srcObject = null;
  byId("try-live").textContent = "Try it live";
}

async function save() {
  const name = byId("taught-name").value.trim();
  if (!isBundleName(name)) {
    say("Name the model with letters, digits, dots, dashes and underscores.", true);
    return;
  }
  const [taught, labels] = [head, classes.map((each) => each.name)];
  const total = classes.reduce((sum, { items }) => sum + items.length, 0);
  byId("save-model").disabled = true;
  try {
    const files = new Map();
    for (const path of NEEDED) files.set(path, await readFile(model, path));
    const zip = await makeBundle(files, model.name, name, labels, taught, { right: taught.right, total });
    download(zip, "application/zip", `${name}.zip`);
    say(`Unpack ${name}.zip, and use it: ghostzoo predict photo.jpg --model ./${name}`);
  } catch (error) {
    say(`The model cannot be written: ${error.message}`, true);
  }
  byId("save-model").disabled = head === null;
}
