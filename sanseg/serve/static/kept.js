// A picture that the service keeps: encoded when it is first needed, and again when it was forgotten.
// What goes wrong is mended here where waiting or encoding again helps; all else is thrown.

import * as service from "./service.js";

const BETWEEN_LOOKS = 1000; // ms, while the service is away
const FORGOTTEN = 3; // times in a row that a picture just encoded may be unknown
const BROKEN_OFF = 3; // times in a row that an answer may break off although the service is ready
const OF_PICTURE = new Set([400, 413, 415, 422]); // what is wrong with the picture itself, when it is sent

export class Kept {
  #encoded = null; // the promise of {id, width, height}

  /** signal: nobody wants the picture any more. tell: as for Asking. */
  constructor(file, signal, tell) {
    Object.assign(this, { file, signal, tell });
  }

  /** Calls with the id of the picture, again and again while that helps. */
  async reach(call) {
    const failures = { forgotten: 0, brokenOff: 0 };
    for (;;) {
      if (this.signal.aborted) throw new DOMException("another picture was opened", "AbortError");
      const encoded = (this.#encoded ??= this.#encode());
      try {
        return await call((await encoded).id);
      } catch (error) {
        await this.#mend(error, encoded, failures);
      }
    }
  }

  async #encode() {
    this.tell.encoding();
    try {
      const picture = await service.encode(this.file, this.signal);
      if (!this.signal.aborted) this.tell.encoded();
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
      await untilBack(this.tell);
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

}

let returning = null; // one look for all that wait

function untilBack(tell) {
  returning ??= (async () => {
    let told = false;
    while (!(await service.isReady())) {
      if (!told) tell.away();
      told = true;
      await pause(BETWEEN_LOOKS);
    }
    returning = null;
    if (told) tell.back();
  })();
  return returning;
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
