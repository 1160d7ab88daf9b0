// The dialog that asks for a key.

import { hasKey, keepKey } from "./service.js";

const ASK = "It stays in this tab, until the tab is closed.";
const WRONG = "This server does not know that key. Check it, and type it again.";
const NONE = "This server answers nobody without a key. Change a word, and it asks for the key again.";

let unlocking = null;

/** Asks for a key once, whoever needs it. Rejects with the problem where people would rather not. */
export function askForKey(problem) {
  unlocking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("locked"), key = document.getElementById("key");
    const wrong = hasKey();
    document.getElementById("locked-why").textContent = wrong ? WRONG : ASK;
    key.setAttribute("aria-invalid", String(wrong));
    key.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        unlocking = null;
        if (dialog.returnValue !== "go" || !key.value) {
          return reject(Object.assign(problem, { message: NONE }));
        }
        keepKey(key.value.trim());
        resolve();
      },
      { once: true },
    );
  });
  return unlocking;
}
