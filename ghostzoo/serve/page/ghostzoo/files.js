// Files of a bundle, from the web or a folder.

/**
 * @param {URL} url of http, https, data or blob; on Node.js, Deno and Bun also of file
 * @param {Record<string, string>} headers of the request
 * @returns {Promise<Uint8Array>}
 */
export async function readFrom(url, headers = {}) {
  const system = url.protocol === "file:" ? globalThis.process?.getBuiltinModule?.("node:fs/promises") : undefined;
  if (system !== undefined) return new Uint8Array(await system.readFile(url));
  const answer = await fetch(url, { headers });
  if (!answer.ok) throw new Error(`${url} cannot be loaded (status ${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** The URL of a folder, given as a URL, an address, or a path. */
export function folderUrl(source) {
  if (source instanceof URL || /^[a-z]+:\/\//i.test(source)) return new URL(`${source}`.replace(/\/*$/, "/"));
  const system = globalThis.process?.getBuiltinModule?.("node:url");
  if (system !== undefined) return system.pathToFileURL(`${source}/`);
  return new URL(`${source}`.replace(/\/*$/, "/"), globalThis.location.href);
}
