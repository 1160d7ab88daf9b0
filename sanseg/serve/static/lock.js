// The dialog that asks for a key.

import { keepKey } from "./service.js";

let unlocking = null;

/** Asks for a key once, whoever needs it. Rejects with the problem where people would rather not. */
export function askForKey(problem) {
  unlocking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("locked"), key = document.getElementById("key");
    key.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        unlocking = null;
        if (dialog.returnValue !== "go" || !key.value) return reject(problem);
        keepKey(key.value.trim());
        resolve();
      },
      { once: true },
    );
  });
  return unlocking;
}
