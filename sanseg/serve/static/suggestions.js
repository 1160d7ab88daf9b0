// What could be meant by the letters so far: the names in the label sets that come along.

import * as service from "./service.js";
import { fold } from "./text.js";

const MOST = 7;

export class Suggestions {
  #names = new Map(); // by how it compares
  #sets = new Map(); // name to how many labels
  #loading = null;

  /** What sets there are: [{name, labels}, ...], as GET /v1/models has them. */
  set sets(sets) {
    this.#sets = new Map(sets.map(({ name, labels }) => [name, labels]));
    this.#loading = null;
  }

  /** Asks for the names once, when somebody begins to type; without them there are no suggestions, and no harm. */
  load() {
    this.#loading ??= Promise.all([...this.#sets.keys()].map((name) => this.#read(name)));
    return this.#loading;
  }

  async #read(set) {
    try {
      for (const { label, synonyms } of (await service.labelSet(set)).labels) {
        for (const name of [label, ...synonyms]) {
          if (!name.includes(",") && !this.#names.has(fold(name))) this.#names.set(fold(name), name);
        }
      }
    } catch {
      this.#loading = null; // asked again at the next key
    }
  }

  /** [{text, note}, ...] for a beginning; those that begin so come first, then those with a word that does. */
  of(draft, taken) {
    if (draft.startsWith("@")) return this.#setsOf(fold(draft.slice(1)));
    const letters = fold(draft.split("|").at(-1));
    if (!letters) return [];
    const before = draft.slice(0, draft.lastIndexOf("|") + 1);
    const ranked = [];
    for (const [key, name] of this.#names) {
      const rank = key.startsWith(letters) ? 0 : key.includes(` ${letters}`) ? 1 : 2;
      if (rank < 2 && key !== letters && !taken.has(key)) ranked.push([rank, key.length, name]);
    }
    ranked.sort((one, other) => one[0] - other[0] || one[1] - other[1] || (one[2] < other[2] ? -1 : 1));
    return ranked.slice(0, MOST).map(([, , name]) => ({ text: before ? `${before} ${name}` : name, note: "" }));
  }

  #setsOf(letters) {
    return [...this.#sets]
      .filter(([name]) => name.startsWith(letters))
      .map(([name, labels]) => ({ text: `@${name}`, note: `${labels} labels` }));
  }

  /** The labels of "@ade150", synonyms and all. */
  async expand(text) {
    const { labels } = await service.labelSet(text.slice(1));
    return labels.map(({ label, synonyms }) => [label, ...synonyms].join(" | "));
  }
}
