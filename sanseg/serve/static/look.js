// The photo under its colours: what the pointer, a finger or the arrow keys are over, and how large it is.

import { at } from "./view.js";

const STEPS = 40; // of the cursor, across the photo
const LARGEST = 8;

export class Look {
  #view = null;
  #names = new Map();
  #colours = new Map();
  #cursor = null; // {x, y} in pixels of the picture
  #zoom = 1;

  /** pointed({id, name, confidence} or null). say(text): for screen readers. resized(): the photo is shown in another size. */
  constructor({ pointed, say, resized }) {
    Object.assign(this, { pointed, say, resized });
    for (const id of ["stage", "scroller", "frame", "photo", "cursor", "readout", "smaller", "larger"]) {
      this[`$${id}`] = document.getElementById(id);
    }
    this.#listen();
  }

  /** The size of the picture, as soon as it is known. */
  set size({ width, height }) {
    this.$stage.style.setProperty("--ratio", String(width / height));
  }

  /** How many pixels of the picture lie behind one of the screen; below 1 where it is magnified. */
  get density() {
    const shown = this.$frame.getBoundingClientRect().width * devicePixelRatio;
    return this.#view && shown ? this.#view.width / shown : 1;
  }

  /** view: as `readView` gives it, or null. colours: "#rrggbb" by id. */
  show(view, colours) {
    this.#view = view;
    this.#colours = colours;
    if (view === null) return this.#leave();
    this.#names = new Map(view.facts.labels.map(({ id, label }) => [id, label]));
    this.#names.set(view.facts.other.id, view.facts.other.name);
    if (this.#cursor) this.#tell(this.#cursor, false);
  }

  reset() {
    this.show(null, new Map());
    this.#setZoom(1);
  }

  #listen() {
    const frame = this.$frame;
    frame.addEventListener("pointermove", (event) => this.#point(event));
    frame.addEventListener("pointerdown", (event) => this.#point(event));
    frame.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && this.#leave());
    frame.addEventListener("keydown", (event) => this.#key(event));
    frame.addEventListener("blur", () => this.#leave());
    document.addEventListener("pointerdown", (event) => frame.contains(event.target) || this.#leave());
    this.$smaller.addEventListener("click", () => this.#setZoom(this.#zoom / 2));
    this.$larger.addEventListener("click", () => this.#setZoom(this.#zoom * 2));
    new ResizeObserver(() => this.resized()).observe(frame);
  }

  #setZoom(zoom) {
    const grown = Math.min(LARGEST, Math.max(1, zoom)) / this.#zoom;
    this.#zoom *= grown;
    const { scrollLeft: left, scrollTop: top, clientWidth: width, clientHeight: height } = this.$scroller;
    this.$stage.style.setProperty("--zoom", String(this.#zoom));
    // What was in the middle stays there.
    this.$scroller.scrollTo((left + width / 2) * grown - width / 2, (top + height / 2) * grown - height / 2);
    this.$stage.classList.toggle("zoomed", this.#zoom > 1);
    this.$smaller.disabled = this.#zoom === 1;
    this.$larger.disabled = this.#zoom === LARGEST;
  }

  #point(event) {
    if (!this.#view) return;
    const box = this.$frame.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.#view.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.#view.height);
    this.$cursor.hidden = true;
    this.#tell(this.#inside(x, y), false);
  }

  #key(event) {
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (event.key === "Escape") this.#leave();
    if (right === undefined || !this.#view || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const { width, height } = this.#view;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / STEPS));
    const from = this.#cursor ?? { x: width >> 1, y: height >> 1 };
    this.$cursor.hidden = false;
    this.#tell(this.#inside(from.x + step * right, from.y + step * down), true);
    this.$cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #inside(x, y) {
    const { width, height } = this.#view;
    return { x: Math.min(width - 1, Math.max(0, x)), y: Math.min(height - 1, Math.max(0, y)) };
  }

  #tell(place, aloud) {
    this.#cursor = this.#inside(place.x, place.y);
    const { id, confidence } = at(this.#view, this.#cursor.x, this.#cursor.y);
    const name = this.#names.get(id) ?? "unknown";
    const sure = `${Math.round(100 * confidence)} % sure`;
    const left = (this.#cursor.x + 0.5) / this.#view.width, top = (this.#cursor.y + 0.5) / this.#view.height;
    this.$readout.querySelector(".dot").style.backgroundColor = this.#colours.get(id) ?? "";
    this.$readout.querySelector("bdi").textContent = name;
    this.$readout.querySelector(".sure").textContent = sure;
    this.$cursor.style.left = `${100 * left}%`;
    this.$cursor.style.top = `${100 * top}%`;
    this.$readout.hidden = false;
    this.#place(left, top);
    this.pointed({ id, name, confidence });
    if (aloud) this.say(`\u2068${name}\u2069, ${sure}`);
  }

  /** The readout stands above the place it speaks of, or below it near the upper edge, and within the stage. */
  #place(left, top) {
    const stage = this.$stage.getBoundingClientRect(), frame = this.$frame.getBoundingClientRect();
    const own = this.$readout.getBoundingClientRect();
    const x = frame.left - stage.left + left * frame.width, y = frame.top - stage.top + top * frame.height;
    const most = Math.max(4, stage.width - own.width - 4);
    this.$readout.style.left = `${Math.min(most, Math.max(4, x - own.width / 2))}px`;
    const above = y - own.height - 18;
    this.$readout.style.top = `${above >= 4 ? above : y + 24}px`;
  }

  #leave() {
    this.#cursor = null;
    this.$cursor.hidden = true;
    this.$readout.hidden = true;
    this.pointed(null);
  }
}
