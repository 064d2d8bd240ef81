// Takes a picture: with the camera's live image where the browser gives it, else with the device's own camera app.

const byId = (id) => document.getElementById(id);

/** @returns {Promise<File|null>} the picture; null where the user left, or where the camera app takes over. */
export async function takePicture() {
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("capture").click();
    return null;
  }
  const stream = await openCamera();
  try {
    return await shootFrom(stream);
  } finally {
    stream.getTracks().forEach((track) => track.stop());
  }
}

/** @returns {Promise<MediaStream>} the camera's live image; its tracks have to be stopped */
export async function openCamera() {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(`The camera cannot be used (${error.message}); choose a file instead.`);
  }
}

async function shootFrom(stream) {
  const dialog = byId("camera");
  const video = byId("viewfinder");
  video.srcObject = stream;
  dialog.showModal();
  const isTaken = await new Promise((resolve) => {
    byId("shoot").onclick = () => resolve(true);
    byId("leave").onclick = () => resolve(false);
    dialog.oncancel = () => resolve(false);
  });
  const blob = isTaken ? await currentFrame(video) : null;
  dialog.close();
  video.srcObject = null;
  return blob && new File([blob], "picture.png", { type: "image/png" });
}

/** What a video shows now, as a PNG. */
export function currentFrame(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
