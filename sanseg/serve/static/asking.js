// A picture, and the newest question about it: one question is under way at a time, and only the newest waits.
// What goes wrong is mended here where waiting or encoding again helps; all else is thrown, or told to `refused`.

import * as service from "./service.js";

const BETWEEN_LOOKS = 1000; // ms, while the service is away
const FORGOTTEN = 3; // times in a row that a picture just encoded may be unknown
const OF_PICTURE = new Set([400, 413, 415, 422]); // what is wrong with the picture itself, when it is sent
const BROKEN_OFF = 3; // times in a row that an answer may break off although the service is ready

export class Asking {
  #file = null;
  #encoded = null; // the promise of {id, width, height}
  #newest = null;
  #busy = false;
  #opened = new AbortController(); // aborted when another picture is opened
  #back = null;

  /**
   * tell: functions that learn what happens. busy(whether), encoding(), encoded(picture), view(buffer, question), away(), back(),
   * waiting(problem, or null when it is over), refused(problem): of a question or of the picture, and key(problem), which returns a promise.
   */
  constructor(tell) {
    this.tell = tell;
  }

  /** Another picture, in place of the one before, or none. It is encoded at once. */
  open(file) {
    this.#opened.abort();
    this.#opened = new AbortController();
    this.#file = file;
    this.#encoded = null;
    this.#newest = null;
    this.#working(false);
    if (file) this.#answer();
  }

  /** Answers as soon as can be. A question that was waiting is dropped for this one; null asks nothing any more. */
  ask(question) {
    this.#newest = question;
    if (question && this.#file && !this.#busy) this.#answer();
  }

  /** A file of the picture: {blob, name}. */
  save(question, format) {
    return this.#persist((id) => service.file(id, question, format));
  }

  async #answer() {
    const { signal } = this.#opened;
    this.#working(true);
    do {
      let asked = null;
      try {
        const buffer = await this.#persist((id) => {
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

  /** Calls with the id of the encoded picture, again and again while that helps. */
  async #persist(call) {
    const { signal } = this.#opened;
    const file = this.#file;
    const failures = { forgotten: 0, brokenOff: 0 };
    for (;;) {
      if (signal.aborted) throw new DOMException("another picture was opened", "AbortError");
      const encoded = (this.#encoded ??= this.#encode(file, signal));
      try {
        return await call((await encoded).id);
      } catch (error) {
        await this.#mend(error, encoded, failures);
      }
    }
  }

  async #encode(file, signal) {
    this.tell.encoding();
    try {
      const picture = await service.encode(file, signal);
      if (!signal.aborted) this.tell.encoded(picture);
      return picture;
    } catch (error) {
      error.ofPicture = OF_PICTURE.has(error.status);
      throw error;
    }
  }

  async #mend(error, encoded, failures) {
    const stale = () => {
      if (this.#encoded === encoded) this.#encoded = null;
    };
    if (await encoded.then(() => false, () => true)) stale();
    if (error instanceof service.Away) {
      if ((await service.isReady()) && ++failures.brokenOff >= BROKEN_OFF) {
        throw new service.Problem(0, "The connection broke off, although the server is there: try again, or a smaller photo");
      }
      await this.#untilBack();
    } else if (!(error instanceof service.Problem)) {
      throw error;
    } else if (error.status === 404 && !error.ofPicture && ++failures.forgotten < FORGOTTEN) {
      stale(); // the server was started again, or has no room for it any more
    } else if (error.status === 401) {
      await this.tell.key(error);
    } else if (error.status === 503) {
      this.tell.waiting(error);
      await pause(1000 * (error.wait ?? 1));
      this.tell.waiting(null);
    } else {
      throw error;
    }
  }

  #untilBack() {
    this.#back ??= (async () => {
      let told = false;
      while (!(await service.isReady())) {
        if (!told) this.tell.away();
        told = true;
        await pause(BETWEEN_LOOKS);
      }
      this.#back = null;
      if (told) this.tell.back();
    })();
    return this.#back;
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
