// Dark or light as the system says, until somebody chooses; the choice is the browser's to keep.
const SLOT = "rigserve.theme";
export type Theme = "auto" | "light" | "dark";

export function theme(): Theme {
  try {
    const kept = localStorage.getItem(SLOT);
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto";
  }
}

export function applyTheme(chosen: Theme = theme()): void {
  document.documentElement.dataset["theme"] = chosen;
  try {
    localStorage.setItem(SLOT, chosen);
  } catch {
    // not kept then
  }
}
