// A picture, and the newest question about it: one question is under way at a time, and only the newest waits.

import { Kept } from "./kept.js";
import * as service from "./service.js";

export class Asking {
  #whole = null; // what files are made of
  #seen = null; // what is painted: the same, or a smaller copy
  #newest = null;
  #busy = false;
  #opened = new AbortController(); // aborted when another picture is opened

  /**
   * tell: functions that learn what happens. busy(whether), encoding(), encoded(), view(buffer, question), away(),
   * back(), waiting(problem, or null when it is over), refused(error): of a question, or `ofPicture`; and
   * key(problem), which returns a promise.
   */
  constructor(tell) {
    this.tell = tell;
  }

  /** Another picture, in place of the one before, or null. seen: a copy of it that is painted; encoded at once. */
  open(whole, seen = whole) {
    this.#opened.abort();
    this.#opened = new AbortController();
    const { signal } = this.#opened;
    this.#seen = seen && new Kept(seen, signal, this.tell);
    this.#whole = whole === seen ? this.#seen : new Kept(whole, signal, this.tell);
    this.#newest = null;
    this.#working(false);
    if (seen) this.#answer();
  }

  /** Answers as soon as can be. A question that was waiting is dropped for this one; null asks nothing any more. */
  ask(question) {
    this.#newest = question;
    if (question && this.#seen && !this.#busy) this.#answer();
  }

  /** A file of the picture: {blob, name}. */
  save(question, format) {
    return this.#whole.reach((id) => service.file(id, question, format));
  }

  async #answer() {
    const { signal } = this.#opened;
    const seen = this.#seen;
    this.#working(true);
    do {
      let asked = null;
      try {
        const buffer = await seen.reach((id) => {
          asked = this.#newest; // it may have changed while the service was away
          return asked && service.view(id, asked, signal);
        });
        if (signal.aborted) return;
        if (buffer && this.#newest) this.tell.view(buffer, asked);
      } catch (error) {
        if (signal.aborted) return;
        asked = this.#newest; // what would fail again is not asked again
        this.#refuse(error);
      }
      if (this.#newest === asked) this.#newest = null;
    } while (this.#newest);
    this.#working(false);
  }

  #working(busy) {
    this.#busy = busy;
    this.tell.busy(busy);
  }

  #refuse(error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof service.Problem)) console.error(error);
    this.tell.refused(error);
  }
}
