// The settings under "How it looks".

const DEFAULTS = { opacity: 50, outline: true, threshold: 0, other: true };
const ASKED = new Set(["threshold", "other"]); // what another answer is needed for

export class Settings {
  /** changed(): another answer is needed. repaint(): the same answer looks otherwise. */
  constructor({ changed, repaint }) {
    this.inputs = Object.fromEntries(Object.keys(DEFAULTS).map((id) => [id, document.getElementById(id)]));
    this.state = {};
    for (const [id, input] of Object.entries(this.inputs)) {
      input.addEventListener("input", () => {
        this.#output(input);
        if (ASKED.has(id)) changed();
        else repaint();
      });
    }
  }

  /** For sessionStorage. */
  get state() {
    const value = (input) => (input.type === "checkbox" ? input.checked : Number(input.value));
    return Object.fromEntries(Object.entries(this.inputs).map(([id, input]) => [id, value(input)]));
  }

  set state(state) {
    for (const [id, input] of Object.entries(this.inputs)) {
      const value = typeof state[id] === typeof DEFAULTS[id] ? state[id] : DEFAULTS[id];
      if (input.type === "checkbox") input.checked = value;
      else input.value = String(value);
      this.#output(input);
    }
  }

  get opacity() {
    return Number(this.inputs.opacity.value) / 100;
  }

  get threshold() {
    return Number(this.inputs.threshold.value) / 100;
  }

  get outline() {
    return this.inputs.outline.checked;
  }

  get other() {
    return this.inputs.other.checked;
  }

  #output(input) {
    const output = document.querySelector(`output[for="${input.id}"]`);
    if (output) output.textContent = `${input.value} %`;
  }
}
