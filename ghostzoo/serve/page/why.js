// "Show why": which places of the picture speak for its best class rather than for the next one.

import { askWhere } from "./backends.js";
import { drawMap } from "./ghostzoo/explanation.js";
import { byId, hideMap } from "./view.js";

/**
 * Offer to explain an answer, until the next picture is shown.
 *
 * @param {File} file
 * @param {object[]} predictions best first
 * @param {import("./backends.js").Model} model
 * @param {string} engine
 * @param {AbortSignal} signal is aborted by the next picture
 */
export function offerWhy(file, predictions, model, engine, signal) {
  const [best, next] = predictions;
  byId("why-choice").hidden = best === undefined;
  const other = model.multiLabel ? undefined : next;
  byId("why").onclick = async () => {
    if (!byId("map").hidden) {
      hideMap();
      return;
    }
    byId("why").disabled = true;
    byId("why-text").textContent = "…";
    try {
      const found = await askWhere(model, engine, file, best.index, other?.index ?? null);
      const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
      if (!signal.aborted) show(found, picture, best, other);
      picture.close();
    } catch (error) {
      if (!signal.aborted) byId("why-text").textContent = `It cannot be shown: ${error.message}`;
    }
    byId("why").disabled = false;
  };
}

function show({ map, seen }, picture, best, other) {
  drawMap(byId("map"), picture, map, seen);
  byId("map").hidden = false;
  byId("picture").hidden = true;
  byId("why").textContent = "Show the picture";
  const what = other === undefined ? best.label : `${best.label} rather than ${other.label}`;
  byId("why-text").textContent = `Red places speak for ${what}, blue ones against it. What is dark was not looked at.`;
  byId("map").setAttribute("aria-label", byId("why-text").textContent);
}
