// ZIP files whose contents are not compressed, as NumPy's .npz are.

const LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50;
const VERSION = 20, UTF8 = 0x0800, DATE = 0x0021; // 1980-01-01, so that the same contents give the same bytes

/** @param {Uint8Array} zip  @returns {Map<string, Uint8Array>} contents by name */
export function readZip(zip) {
  const view = new DataView(zip.buffer, zip.byteOffset, zip.byteLength);
  let end = zip.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("a file of the model is damaged; load the page again");
  const files = new Map();
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const [method, size] = [view.getUint16(entry + 10, true), view.getUint32(entry + 24, true)];
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((place) => view.getUint16(entry + place, true));
    const local = view.getUint32(entry + 42, true);
    if (view.getUint32(entry, true) !== CENTRAL || method !== 0 || view.getUint32(local, true) !== LOCAL) {
      throw new Error("a file of the model is damaged; load the page again");
    }
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const name = new TextDecoder().decode(zip.subarray(entry + 46, entry + 46 + nameLength));
    files.set(name, zip.slice(start, start + size));
    entry += 46 + nameLength + extraLength + commentLength;
  }
  return files;
}

/** @param {Map<string, Uint8Array>} files  @returns {Uint8Array} */
export function writeZip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, content] of files) {
    const encoded = new TextEncoder().encode(name);
    const facts = [VERSION, UTF8, 0, 0, DATE].flatMap(short).concat(
      [crc32(content), content.length, content.length].flatMap(long), short(encoded.length), short(0),
    );
    const head = Uint8Array.from([...long(LOCAL), ...facts, ...encoded]);
    parts.push(head, content);
    const rest = [...short(0), ...short(0), ...short(0), ...long(0), ...long(offset)];
    directory.push(Uint8Array.from([...long(CENTRAL), ...short(VERSION), ...facts, ...rest, ...encoded]));
    offset += head.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const counts = [...short(0), ...short(0), ...short(files.size), ...short(files.size)];
  const end = Uint8Array.from([...long(END), ...counts, ...long(size), ...long(offset), ...short(0)]);
  const zip = new Uint8Array(offset + size + end.length);
  let position = 0;
  for (const part of [...parts, ...directory, end]) {
    zip.set(part, position);
    position += part.length;
  }
  return zip;
}

const short = (value) => [value & 255, value >> 8];
const long = (value) => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24];

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
