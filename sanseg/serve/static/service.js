// What the page asks of the service. Nothing here knows the screen.

const KEY = "sanseg.key"; // in sessionStorage: this tab's alone, gone when it is closed

/** The service answered, and refused: `message` is its own sentence (RFC 9457). */
export class Problem extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds, or null
  }
}

/** Nobody answered, or the answer broke off. */
export class Away extends Error {}

export const models = () => ask("v1/models", {}, (answer) => answer.json());

export const labelSet = (name) =>
  ask(`v1/label-sets/${encodeURIComponent(name)}`, {}, (answer) => answer.json());

/** Sends a picture to be encoded: {id, width, height, ...}. */
export function encode(file, signal) {
  const body = new FormData();
  body.append("image", file, file.name || "photo");
  return ask("v1/images", { method: "POST", body, signal }, (answer) => answer.json());
}

/** What the page paints from, as `readView` takes it. */
export const view = (id, question, signal) =>
  segment(id, { ...question, format: "view" }, signal, (answer) => answer.arrayBuffer());

/** A file as `Segmentation.save` writes it: {blob, name}. */
export const file = (id, question, format) =>
  segment(id, { ...question, format }, undefined, async (answer) => ({
    blob: await answer.blob(),
    name: nameIn(answer.headers.get("Content-Disposition") ?? ""),
  }));

/** Whether the service takes work. */
export async function isReady() {
  try {
    return (await fetch("readyz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

function segment(id, question, signal, read) {
  const headers = { "Content-Type": "application/json" };
  const path = `v1/images/${encodeURIComponent(id)}/segment`;
  return ask(path, { method: "POST", body: JSON.stringify(question), headers, signal }, read);
}

async function ask(path, options, read) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    const answer = await fetch(path, { ...options, headers });
    if (!answer.ok) throw await problem(answer);
    return await read(answer);
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Away(error.message);
  }
}

async function problem(answer) {
  let said = null;
  try {
    said = await answer.json();
  } catch {
    // A proxy on the way answers with a page of its own.
  }
  const sentence = said?.detail ?? said?.title ?? `The server answered with ${answer.status}`;
  const wait = Number.parseFloat(answer.headers.get("Retry-After"));
  return new Problem(answer.status, String(sentence), Number.isFinite(wait) ? wait : null);
}

function nameIn(disposition) {
  const encoded = /filename\*=utf-8''([^;]+)/i.exec(disposition);
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="?([^";]+)"?/i.exec(disposition)?.[1] ?? null;
}
