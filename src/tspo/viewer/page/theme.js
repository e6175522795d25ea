// Dark or light: the system's choice, until the reader makes one, which is kept where the browser lets us.

const KEPT = "tspo-view-theme";

export function startTheme() {
  try {
    const kept = localStorage.getItem(KEPT);
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // storage is closed to pages from files in some browsers
  }
}

export function switchTheme() {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const next = dark === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEPT, next);
  } catch {
    // as above: then the choice is for this visit
  }
}
