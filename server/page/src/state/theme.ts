// Light or dark: as the system has it, until somebody chooses.
import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const NAME = "manyhats-theme";
const THEMES: Theme[] = ["system", "light", "dark"];

const stored = localStorage.getItem(NAME) as Theme;
export const theme = signal<Theme>(THEMES.includes(stored) ? stored : "system");

effect(() => {
  const chosen = theme.value;
  localStorage.setItem(NAME, chosen);
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
});

export function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? "system";
}
