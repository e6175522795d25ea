// What the page shows is in the address, after the #: it can be sent on, and the browser's Back goes back.

const listeners = [];

/** The place as strings by name; `view`, `run`, `group`, `member`, `credit` and the filters. */
export function place() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** The address of the place with some of it changed; null takes a part away. */
export function addressOf(changes) {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") parts.delete(name);
    else parts.set(name, value);
  }
  return `#${parts}`;
}

/** Go there; `replace` leaves no step in the history behind. */
export function go(changes, { replace = false } = {}) {
  const address = addressOf(changes);
  if (address === location.hash) return;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  changed();
}

/** Call `listener` whenever the place has changed. */
export function onPlace(listener) {
  listeners.push(listener);
}

function changed() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", changed);
